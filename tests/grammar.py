"""Random programs: the program of a seed is always the same.

    seed ─► Writer ─► cells of statements, some in a guard that shows their error; looks at all variables, after every cell or fewer

The statements are the templates of `GRAMMAR`. The writer remembers what kind of value it has put under which name, so that most
statements succeed; some are meant not to, and some end their cell.
"""

import random
import re
import textwrap
from collections.abc import Iterable, Iterator

NAMES = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']
BUILTINS = ['list', 'len', 'sum', 'id', 'print']  # names of variables now and then
KINDS = ['list', 'dict', 'set', 'bytes', 'tup', 'num', 'str', 'func', 'genf', 'cls', 'inst', 'thing', 'arr', 'frame']
ATOMS = ['None', 'True', '7', "'x'", '[]', '{}', '(1, [2])', '2.5', "b'z'", '[[0]]', '_', 'range(3)', "{'k': []}"]

# One statement after an empty line. <list> a variable that holds one, <list1> the same one wherever it stands in the statement,
# <list+> the one that is assigned, <alias+> one that gets the kind of the statement's first other variable, <any-> one that is gone
# afterwards, <name> any name, <atom> a literal, <int> a small number. SAY(x) shows a value without the help of a builtin's name.
GRAMMAR = '''
<list+> = []

<list+> = [<any>, <atom>]

<list+> = [<any>, <any>]

<dict+> = {'k': <any>}

<dict+> = dict(x=<any>, y=<any>)

<set+> = {<int>, 'x', (1, 2)}

<bytes+> = bytearray(b'ab')

<num+> = <int>

<num+> = 10 ** 30 + <int>

<str+> = f'{<num>} {<num>!r:>4}'

<str+> = f'{<str1>=}'[:40]

<tup+> = (<any>, [<any>])

<thing+> = <atom>

<thing+> = <atom>

<alias+> = <any>

<alias+> = <any>

<alias+> = <list>

<alias+> = <inst>

<list+> = <list2+> = [<any>]

<num+>, *<list+> = <list>

<alias+>, <dict+> = <any>, {}

<list1>, <list2> = <list2>, <list1>

<list+> = <list1>[:2] * 2

<list+> = sorted(<set>, key=str)

<thing+> = iter(<list>)

for <num+> in range(3): <list>.append(<num+>)

for <alias+> in [<any>]: pass

try:
    <list>[99]
except IndexError as <gone+>:
    SAY(<gone+>)

try:
    <dict>['no']
except KeyError as <gone+>:
    <thing+> = <gone+>

<list>.append(<any>)

<list>.append(<any>)

<list>.append(<list>)

<list>.append(<inst>)

<list>.extend([<any>, <int>])

<list>[0] = <any>

<list>[:] = [<any>]

<list>[1:] = []

<list> += [<any>]

<list>.insert(0, <any>)

<list>.pop()

<list>.reverse()

<list>[-1].append(<any>)

<list>[0]['k'] = <any>

<list>.clear()

del <list>[0]

<dict>['k'] = <any>

<dict>[<int>] = <any>

<dict>.update(m=<any>)

<dict>.setdefault('s', []).append(<any>)

<dict>.pop('k', None)

<dict> |= {'z': <any>}

del <dict>['k']

<dict>['k'].append(<any>)

<set>.add(<int>)

<set>.discard('x')

<set> |= {str(<num>)}

<set> -= {1}

<bytes>.extend(b'zz')

<bytes> += b'q'

<bytes>[0] = 65

<bytes>[:1] = b''

<bytes+> = bytearray(100_000 + <int>)

<bytes+> = <bytes>[1:]

<num> += 1

<num> = <num1> * 7 % 10 ** 40

<str> += 'y'

<tup>[1].append(<any>)

<tup> += (<int>,)

<inst>.n = <any>

<inst>.items.append(<any>)

<inst1>.me = <inst1>

<inst>.n = <inst>

<inst>.items = <list>

setattr(<inst>, 'z', <any>)

vars(<inst>)['w'] = <any>

del <inst>.n

<inst>.__class__ = <cls>

<cls>.held = <any>

<cls>.all.append(<any>)

<cls>.hello = lambda self: [<any>]

setattr(<cls>, 'extra', <func>)

del <cls>.held

<func>.note = <any>

<func>.__defaults__ = (<any>,)

del <any->

del <any->

exec('del <any->')

exec('de' + 'l <any->')

globals().pop('<any->')

globals().pop('<name>', None)

(lambda: globals().__delitem__('<any->'))()

def <func+>():
    global <any1>
    del <any1>

def <func+>(): return <any>

def <func+>(x=<any>): return [x, <any>]

def <func+>(x=<list>):
    x.append(<int>)
    return x

def <func+>(*, k=<any>): return {'k': k}

def <func+>(n=3): return n * <func+>(n - 1) if n else 1

def <func+>():
    global <any1>
    <any1> = [<any>]
    return <any1>

def <func+>(): <list>.append(len(<list>))

def <func+>(): return <func>()

def <func+>():
    def inner(): return [<any>, outer]
    outer = <list>
    return inner

def <func+>(n=<any>):
    def up():
        nonlocal n
        n = (n, 1)
        return 1
    return up, lambda: n
<func+>, <func2+> = <func+>()

def <func+>():
    'Says <any>.'
    return locals(), [y for y in <list>]

def <func+>():
    try:
        return <name>
    except NameError as error:
        return str(error)

def <genf+>():
    yield from <list>[:3]
    yield <any>

<list+> = [*<genf>()]

<func+> = lambda: (<any>, <any>)

<func+> = lambda x=<any>: [x]

<func+> = (lambda v: lambda: v)(<any>)

<func+> = __import__('functools').partial(<func>)

@(lambda f: f)
def <func+>(): return [<any>]

<thing+> = <func>()

<thing+> = <func>()

<thing+> = <func>()

<func>()

SAY(<func>())

class <cls+>:
    held = <any>
    all = []
    def __init__(self, n=None):
        self.n = n
        self.items = []
    def get(self): return self.held
    def put(self, x=1):
        self.items.append(x)
        return self
    def look(self): return [self.n, <any>]

class <cls+>(<cls>):
    more = [<any>]
    def get(self): return [super().get()]

class <cls+>(<cls>): pass

class <cls+>:
    made = []
    items = []
    def __init__(self): <cls+>.made.append(self)
    @classmethod
    def make(cls): return cls()
    @staticmethod
    def get(): return <any>
    @property
    def p(self): return [self, 1]

class <cls+>:
    __slots__ = ('n', 'items')
    def __init__(self, n=<any>): self.n, self.items = n, [n]

class <cls+>:
    <any1> = <any1>
    n = [x for x in [<int>] if <any> is not None]
    items = {k: <any> for k in 'ab'}

@__import__('dataclasses').dataclass
class <cls+>:
    n: int = <int>
    items: list = __import__('dataclasses').field(default_factory=lambda: [<int>])

class <cls+>(__import__('enum').Enum):
    n = <int>
    items = 'x'

class <cls+>(__import__('typing').NamedTuple):
    n: int = <int>
    items: object = <any>

class <cls+>(Exception):
    n = [<any>]

class <cls+>(type):
    def hello(cls): return <any>
class <cls2+>(metaclass=<cls+>):
    n = [<any>]

class <cls+>(list):
    n = <any>
    items = property(lambda self: self)

class <cls+>:
    n = 1
    def __init__(self): self.items = <list>
    def __getstate__(self): return dict(vars(self))
    def __setstate__(self, state): self.__dict__.update(state)

<inst+> = <cls>()

<inst+> = <cls>()

<inst+> = <cls>(<any>)

<inst+> = <cls>.make()

<inst+>, <inst2+> = <cls1>(), <cls1>()

<thing+> = <cls>.n

<thing+> = <inst>.get()

<thing+> = <inst>.p

<thing+> = <inst>.items

<func+> = <inst>.get

<func+> = <inst>.put

<func+> = <cls>.make

<func+> = <list>.pop

<inst>.put(<any>)

<cls+> = type(<inst>)

SAY(isinstance(<inst>, <cls>))

SAY((type(<inst1>).__name__, hasattr(<inst1>, 'n')))

SAY(<any>)

SAY((<any>, <any>))

SAY(<any> is <any>)

print(<num>, <str>, f'{<num>}')

<list+> = [<any> for i in range(2)]

<list+> = [[x, <any>] for x in <list>[:2]]

<dict+> = {i: [<any> for j in range(i)] for i in range(3)}

<set+> = {str(i) for i in range(<int>)}

<num+> = sum(1 for x in <list> if x is <any>)

<list+> = [(<num+> := i) for i in range(3)]

<list+> = [y for y in (lambda: [<any>])()]

globals()['<thing+>'] = <any>

vars()['<thing+>'] = <any>

locals()['<thing+>'] = [<any>]

SAY('<name>' in globals())

<thing+> = globals().get('<name>')

<thing+> = eval('<any>')

<list+> = eval('[<any>, <any>]')

<list+> = (lambda: eval('[<any>]'))()

exec('<list+> = [<any>]')

exec('<name> = 1', {})

exec('<name> = [<any>]', globals(), {})

exec('<name1> = 5\\nprint(<name1>, <name>)', {'<name>': 1})

exec('<list>.append(y)', globals(), {'y': <any>})

SAY(eval('<any> is <any>', globals(), {}))

SAY(eval('<name>', {'<name>': <int>}))

SAY([n for n in dir() if n in 'abcdefgh'])

SAY([n for n in 'abcdefgh' if n in vars()])

SAY((lambda: sorted(n for n in globals() if n in 'abcdefgh'))())

<thing+> = __import__('__main__').<any>

__import__('__main__').<thing+> = <any>

setattr(__import__('__main__'), '<thing+>', <any>)

delattr(__import__('__main__'), '<any->')

<thing+> = getattr(__import__('__main__'), '<name>', None)

SAY(hasattr(__import__('__main__'), '<name>'))

vars(__import__('__main__'))['<thing+>'] = <any>

SAY('<name>' in __import__('sys').modules['__main__'].__dict__)

<list+> = [*__import__('concurrent.futures').futures.ThreadPoolExecutor(1).map(lambda i: [<any>, i], [1])]

match <any>:
    case [<alias+>, *_]: SAY(<alias+>)
    case {'k': <thing2+>}: pass
    case _: <num+> = 1

if <any>: <num+> = 1
else: <num2+> = 2

while <list>:
    <list1>.pop()
    break

assert <any> is not None

1 / 0

raise ValueError('<int>')

undefined_name
'''

OF_ARRAYS = '''
<arr+> = np.arange(6)

<arr+> = np.zeros((2, 3))

<arr+> = np.arange(20_000 + <int>)

<arr+> = <arr>[1:]

<arr+> = <arr>[1:]

<arr+> = <arr>[::2]

<arr+> = <arr>.T

<arr+> = <arr>.reshape(-1)

<arr+> = <arr>[::-1]

<arr+> = <arr>.copy()

<arr+> = <arr>.astype(float)

<arr+> = np.array([<any>, None], dtype=object)

<arr>[0] = <int>

<arr>[-1] = <int>

<arr>[...] = 7

<arr> += 1

<list>.append(<arr>)

<list+> = [<arr1>, <arr1>[:2]]

<inst>.n = <arr>

<dict>['k'] = <arr>[:2]

<num+> = int(<arr>.sum())

<set+> = {str(<arr>.dtype)}

def <func+>(): <arr>[:1] = 5

def <func+>(x=<arr>): return x[1:]
'''

OF_FRAMES = '''
<frame+> = pd.DataFrame({'x': [1, 2, 3], 'y': [<num>] * 3})

<frame+> = pd.DataFrame({'x': np.arange(10_000), 'y': 'text'})

<frame>['z'] = <int>

<frame>.loc[0, 'x'] = 9

<frame+> = <frame>[['x']]

<frame+> = <frame>.copy()

<frame+> = <frame>.head(2)

<thing+> = <frame>['x']

<list+> = <frame>.query('x > 1')['x'].tolist()[:3]

<list+> = <frame>.query('x > @<num>')['x'].tolist()[:3]

<num+> = int(<frame>.eval('x + 1').sum())

del <frame>['z']

<dict>['k'] = <frame>

<arr+> = <frame>['x'].to_numpy()

<frame>['w'] = <arr>[:1].sum()
'''

GUARD = 'try:\n{}\nexcept Exception as error_:\n    __import__("looks").say(error_)'
BY_NAME = ', '.join(f'{name}=lambda: {name}' for name in [*NAMES, *BUILTINS, '_', '__', '___'])
LOOKS = ["__import__('looks').show(globals())", f"__import__('looks').show_each({BY_NAME})",
         "__import__('looks').show_each({})".format(', '.join(f"{name}=lambda: eval('{name}')" for name in [*NAMES, *BUILTINS]))]

Program = list[list[str]]
TOKEN = re.compile(r'<([a-z]+)(\d?)([+-]?)>')


def templates(text: str) -> list[str]:
    return [template.strip('\n') for template in text.split('\n\n')]


# ---------------------------------------------------------------- writing programs
class Writer:
    """The program of a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.kinds: dict[str, str] = {}
        self.imports = self.random.choice(['', '', 'import numpy as np', 'import numpy as np\nimport pandas as pd'])
        self.templates = templates(GRAMMAR) + (templates(OF_ARRAYS) * 3 if 'np' in self.imports else []) + (
            templates(OF_FRAMES) * 3 if 'pd' in self.imports else [])
        self.looking = self.random.choice(['each', 'some', 'last', 'last'])

    def program(self) -> Program:
        cells: Program = []
        for number in range(self.random.randint(2, 4)):
            cells.append([*([self.imports] if self.imports and not number else []), *self.cell()])
            if self.looking == 'each' or self.looking == 'some' and self.random.random() < .4:
                cells.append([self.random.choice(LOOKS)])
        return [*cells, [LOOKS[0]]]

    def cell(self) -> Iterator[str]:
        for _ in range(self.random.randint(3, 9)):
            statement = self.statement()
            yield statement if self.random.random() < .08 else GUARD.format(textwrap.indent(statement, '    '))
        if self.random.random() < .15:
            yield self.written('<any>') or 'None'

    def statement(self) -> str:
        while True:
            written = self.written(self.random.choice(self.templates))
            if written is not None:
                return written

    def written(self, template: str) -> str | None:
        """The template with names in place of its tokens; None if there is no variable of a kind that it asks for."""
        chosen: dict[str, str] = {}
        sources: list[str] = []
        after: list[tuple[str, str]] = []
        for match in TOKEN.finditer(template):
            token, (kind, digit, mark) = match[0], match.groups()
            if token in chosen and (digit or mark):
                continue
            name = self.new_name() if mark == '+' else self.choice(kind)
            if name is None:
                return None
            if not digit and not mark:
                template = template.replace(token, name, 1)
            else:
                chosen[token] = name
            if mark:
                after.append((name, 'gone' if mark == '-' else kind))
            elif name in self.kinds:
                sources.append(self.kinds[name])
        for token, name in chosen.items():
            template = template.replace(token, name)
        self.remember(after, sources)
        return re.sub(r'\bSAY\(', "__import__('looks').say(", template)

    def remember(self, after: Iterable[tuple[str, str]], sources: list[str]) -> None:
        for name, kind in after:
            if kind == 'gone':
                self.kinds.pop(name, None)
            else:
                self.kinds[name] = (sources or ['thing'])[0] if kind == 'alias' else kind

    def new_name(self) -> str:
        return self.random.choice(BUILTINS if self.random.random() < .03 else NAMES)

    def choice(self, kind: str) -> str | None:
        if kind == 'int':
            return str(self.random.randrange(4))
        if kind == 'atom':
            return self.random.choice(ATOMS)
        if kind == 'name' or kind == 'any' and self.random.random() < .05:
            return self.random.choice(NAMES)
        known = sorted(name for name, found in self.kinds.items() if kind in ('any', found))
        return self.random.choice(known) if known else None


def texts(program: Program) -> list[str]:
    return ['\n'.join(cell) for cell in program]
