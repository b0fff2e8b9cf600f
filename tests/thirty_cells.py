"""A notebook of an ordinary day: what people write in cells, each of them relying on what the cells before have left.

`CELLS` maps a name to a source, in their order. Every one may raise. Nothing of them is random, takes time from a clock, or shows
an address, so that two runs differ only where the sessions differ. Settings of the process are put back in the cell that makes
them: to keep them is what `environment.define` is for. pandas and matplotlib come last, because a new process needs long to
import them.
"""

CELLS = {
    # ------------------------------------------------------------ imports and plain data
    'imports': '''
import asyncio, math, sys
import sqlite3, threading
import numpy as np
from collections import Counter, defaultdict
from pathlib import PurePosixPath as Path
np.arange(6).reshape(2, 3)
''',
    'imports are there': '''
print(math.floor(math.e), np.float64(2) ** .5, Path('a') / 'b')
Counter('abracadabra').most_common(2)
''',
    'the last value': '(1, "two", {3: [4.0, None]}, b"5", {6})',
    'underscore': 'print(_)\nlen(_)',
    'underscores': '_ + 1, __[0]',
    'a value of None': 'None',
    'a semicolon': 'answer = 42\nanswer;',
    'several outputs in order': '''
print('first')
display(answer, {'two': 2})
print('second')
display('third')
print('fourth', end='')
answer
''',
    'unicode': '''
größe = {'naïve': 'Ω≈ç√', '日本': '𝄞', 'escape': '\\x1b[0m'}
print('äöü€', *größe)
größe
''',
    'no newline at the end': 'print("no", end=" ")\nprint("newline", end="")',
    'loop of prints': 'for number in range(5):\n    print(number, end="," if number < 4 else "\\n")\n    number * 2',
    'stderr': 'print("careful", file=sys.stderr)',
    'both streams': '_ = sys.stdout.write("out\\n")\nsys.stdout.flush()\nprint("err", file=sys.stderr)',
    'a long text': 'for row in range(300): print(row, "." * 60)',

    # ------------------------------------------------------------ functions
    'functions': '''
def area(width: float, /, height: float = 2, *rest: float, unit='m', **more) -> str:
    """The area of something."""
    return f'{width * height} {unit}²{rest or ""}{more or ""}'

def evens(limit):
    yield from (number for number in range(limit) if number % 2 == 0)

square = lambda x: x ** 2
area(3), area(1, 2, 3, unit='km', colour='red'), list(evens(7)), square(12)
''',
    'functions later': 'print(area(5), area.__doc__, area.__annotations__["unit" if 0 else "return"])\nlist(map(square, evens(9)))',
    'closures': '''
def account(balance):
    log = []
    def deposit(amount):
        nonlocal balance
        balance += amount
        log.append(amount)
        return balance
    def history():
        return list(log)
    return deposit, history
deposit, history = account(100)
deposit(10)
''',
    'closures keep their state': 'deposit(5), deposit(-20), history()',
    'closures share it': 'deposit(1)\nhistory()',
    'globals of a function': '''
calls = 0
def bump():
    global calls, fresh
    calls, fresh = calls + 1, f'call {calls + 1}'
    return calls
bump(), bump(), calls
''',
    'globals changed in between': 'calls = 10\nbump(), calls, fresh',
    'recursion': '''
def hanoi(n, a='A', b='B', c='C'):
    return [] if n == 0 else hanoi(n - 1, a, c, b) + [a + c] + hanoi(n - 1, b, a, c)
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)
len(hanoi(8)), hanoi(2), even(10)
''',
    'decorators': '''
from functools import lru_cache, wraps, partial, reduce
def logged(prefix):
    def decorate(function):
        @wraps(function)
        def inner(*args):
            print(prefix, function.__name__, args)
            return function(*args)
        return inner
    return decorate

@logged('call:')
def add(a, b):
    """a and b"""
    return a + b

@lru_cache(maxsize=None)
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
double = partial(add, 2)
double(3), fibonacci(80), fibonacci.cache_info().misses
''',
    'decorated later': 'print(add.__name__, add.__doc__, add.__wrapped__(1, 1))\ndouble(20), fibonacci(81)',
    'an import inside a function': '''
def digest(text):
    from hashlib import sha256
    import json as j
    return sha256(j.dumps(text).encode()).hexdigest()[:8]
digest('a'), 'sha256' in globals()
''',
    'an import inside a function later': 'digest([1, 2])',
    'a star import': 'from string import *\ndigits, capwords("a b c")',
    'a star import later': 'punctuation[:3] + digits[-1]',
    'a guarded import': '''
try:
    import no_such_module as parser
except ImportError:
    import json as parser
parser.loads('[1]')
''',
    'comprehension scopes': '''
x = 'outer'
inner = [x for x in range(3)]
pairs = {(a, b): a * b for a in inner for b in inner if a < b}
class Scopes:
    n = 3
    table = [i for i in range(n)]
(walrus := sum(inner)), x, pairs, Scopes.table
''',
    'a comprehension over globals': 'scale = 3\n[scale * value for value in inner], {k: [walrus + k for _ in range(2)] for k in inner}',

    # ------------------------------------------------------------ classes
    'classes': '''
class Shape:
    made = 0
    def __init__(self, name):
        self.name, self._size = name, 1
        type(self).made += 1
    @property
    def size(self):
        return self._size
    @size.setter
    def size(self, value):
        if value < 0:
            raise ValueError(f'negative: {value}')
        self._size = value
    @classmethod
    def unit(cls): return cls('unit')
    @staticmethod
    def sides(): return 0
    def __repr__(self): return f'{type(self).__name__}({self.name!r}, {self.size})'

class Square(Shape):
    __slots__ = ('colour',)
    def __init__(self, name, colour='red'):
        super().__init__(name)
        self.colour = colour
    @staticmethod
    def sides(): return 4
square_one = Square('one')
square_one.size = 3
square_one, Shape.unit(), Shape.made, Square.made
''',
    'instances later': '''
square_one.size += 1
isinstance(square_one, Square), type(square_one) is Square, square_one, square_one.colour, square_one.sides(), Square.made
''',
    'a method added to a class': 'Shape.describe = lambda self: f"{self.name} of size {self.size}"\nsquare_one.describe()',
    'a method added, later': 'square_one.describe(), Shape.unit().describe()',
    'a property refuses': 'square_one.size = -1',
    'after the property refused': 'square_one',
    'dataclasses': '''
from dataclasses import dataclass, field, replace, asdict
from typing import NamedTuple
@dataclass(order=True)
class Point:
    x: float
    y: float = 0
    tags: list[str] = field(default_factory=list, compare=False)

@dataclass(frozen=True)
class Segment:
    start: Point
    end: Point

class Row(NamedTuple):
    key: str
    value: int = 0

origin = Point(0)
segment = Segment(origin, Point(3, 4, ['end']))
segment
''',
    'dataclasses later': '''
segment.start.tags.append('shared')
print(origin, replace(segment, start=Point(1)).start, Point(1) < Point(2))
asdict(segment), Row('a')._replace(value=5), origin is segment.start
''',
    'enums': '''
from enum import Enum, Flag, auto
class Colour(Enum):
    RED = 'r'
    GREEN = 'g'
    @property
    def pretty(self): return self.name.title()
class Access(Flag):
    READ = auto()
    WRITE = auto()
favourite, access = Colour.GREEN, Access.READ | Access.WRITE
favourite, access, Colour('r')
''',
    'enums later': '''
match favourite:
    case Colour.RED: print('red')
    case Colour.GREEN: print('green', favourite.pretty)
favourite is Colour.GREEN, Access.READ in access, {Colour.RED: 1}[Colour.RED], list(Colour)
''',
    'special classes': '''
from abc import ABC, abstractmethod
class Slugged(type):
    def __new__(meta, name, bases, body):
        cls = super().__new__(meta, name, bases, body)
        cls.slug = name.lower()
        return cls
    def __len__(cls): return len(cls.slug)
class Plugin(metaclass=Slugged): pass
class Abstract(ABC):
    @abstractmethod
    def run(self): ...
class Concrete(Abstract):
    def run(self): return 'ran'
class Vector(list):
    def __add__(self, other): return Vector(a + b for a, b in zip(self, other))
    def __matmul__(self, other): return sum(a * b for a, b in zip(self, other))
vector = Vector([1, 2, 3])
vector + vector, vector @ vector, Plugin.slug, len(Plugin), Concrete().run()
''',
    'special classes later': '''
class Other(Plugin): pass
print(Other.slug, len(Other), type(vector).__name__, vector @ vector, isinstance(Concrete(), Abstract))
Abstract()
''',

    # ------------------------------------------------------------ sharing, deletion
    'sharing': '''
items = [1, 2]
alias, holder = items, {'items': items, 'again': [items]}
holder['self'] = holder
alias is items
''',
    'in place through another name': 'alias.append(3)\nholder["items"].append(4)\nitems',
    'sharing later': 'items += [5]\nalias is items, holder["again"][0] is items, holder["self"] is holder, holder["self"]["items"]',
    'rebinding is no sharing': 'items = items + [6]\nitems, alias',
    'rebinding later': 'alias is holder["items"], alias is items',
    'function defaults and attributes': '''
def remember(value, seen=[]):
    seen.append(value)
    remember.calls = getattr(remember, 'calls', 0) + 1
    return seen
remember('a')
''',
    'function defaults and attributes later': 'remember("b"), remember.calls',
    'deletion': 'doomed, kept = 1, 2\ndel doomed\n"doomed" in globals(), kept',
    'deleted names stay deleted': 'doomed',
    'deleted in a cell of its own': 'del kept, answer',
    'and it is gone': 'kept',
    'defaultdict and sets': '''
index = defaultdict(list)
for word in 'to be or not to be'.split():
    index[len(word)].append(word)
index
''',
    'defaultdict later': 'index[7].append("missing")\nsorted(index.items()), type(index.default_factory).__name__',
    'an iterator': 'iterator = iter([10, 20, 30])\nnext(iterator)',
    'an iterator goes on': 'next(iterator), list(iterator)',

    # ------------------------------------------------------------ display
    'display objects': '''
from IPython.display import HTML, Image, JSON, Latex, Markdown, SVG, Pretty, clear_output
display(HTML('<b>bold</b>'), Markdown('*text*'), Latex('$x^2$'), JSON({'a': [1]}), Pretty('pretty'))
display({'text/plain': 'raw', 'text/x-own': 'own'}, raw=True, metadata={'text/x-own': {'key': 1}})
SVG('<svg xmlns="http://www.w3.org/2000/svg"/>')
''',
    'an image': '''
from base64 import b64decode
Image(b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='), width=20)
''',
    'an object with displays of its own': '''
class Fancy:
    def _repr_html_(self): return '<i>fancy</i>'
    def _repr_markdown_(self): return None
    def __repr__(self): return 'Fancy'
class Bundled:
    def _repr_mimebundle_(self, include=None, exclude=None): return {'text/plain': 'B', 'application/json': {'b': 1}}
display(Bundled())
Fancy()
''',
    'updated displays': 'handle = display("one", display_id="shown")\nhandle.update("two")',
    'updated from another cell': 'handle.update("three")\nprint("updated")',
    'cleared output': 'print("gone")\nclear_output()\nprint("stays")',
    'cleared when the next comes': 'for step in range(3):\n    clear_output(wait=True)\n    print("step", step)',
    'captured output': '%%capture captured\nprint("hidden")\nprint("too", file=sys.stderr)\ndisplay(1)',
    'captured output later': 'print(captured.stdout, captured.stderr, len(captured.outputs))\ncaptured.show()',
    'a line magic': '%precision 3\ndisplay(math.pi)\n%precision',
    'a magic with a result': 'current = %precision 2\nprint(current)\n%precision',
    'a repr of several lines': 'class Tall:\n    def __repr__(self): return "a\\nb"\nTall()',
    'a long list': 'list(range(2000))',

    # ------------------------------------------------------------ await
    'await': '''
async def fetch(n):
    await asyncio.sleep(0)
    return n * n
async def stream(n):
    for i in range(n):
        yield await fetch(i)
print(await asyncio.gather(*map(fetch, range(4))))
[value async for value in stream(3)]
''',
    'await later': 'async with asyncio.timeout(5):\n    squared = await fetch(12)\nsquared',

    # ------------------------------------------------------------ errors
    'an error': 'before = "kept"\nprint("so far")\n1 / 0',
    'after an error': 'before',
    'an error in place': 'before = ["changed"]\nbefore.append(1)\nraise KeyError("key")',
    'after an error in place': 'before',
    'a caught error': '''
try:
    {}['no']
except KeyError as error:
    print(repr(error))
finally:
    print('finally')
'error' in globals()
''',
    'an exception class': '''
class TooSmall(ValueError):
    """Raised for what is too small."""
    def __init__(self, size, *, limit=10):
        super().__init__(f'{size} < {limit}')
        self.size = size
def check(size):
    if size < 10:
        raise TooSmall(size)
    return size
check(10)
''',
    'it is raised': 'check(3)',
    'it is caught': '''
try:
    check(4)
except TooSmall as small:
    caught = small
caught.size, caught.args, isinstance(caught, ValueError)
''',
    'it is kept': 'print(repr(caught), type(caught) is TooSmall)\nraise RuntimeError("again") from caught',
    'an assertion': 'assert square(2) == 5, f"not {square(2)}"',
    'a name that is not there': 'undefined_name + 1',
    'a syntax error': 'ok = True\nfor in range(3): pass',
    'an indentation error': 'if True:\nprint(1)',
    'nothing of it ran': 'ok',
    'return outside a function': 'return 1',
    'endless recursion': 'def endless(n): return endless(n + 1)\nendless(0)',
    'a repr that raises': 'class Broken:\n    def __repr__(self): raise RuntimeError("no repr")\nBroken()',
    'a group of errors': 'raise ExceptionGroup("several", [ValueError(1), TypeError(2)])',
    'the next cell works': '"works"',

    # ------------------------------------------------------------ what cannot be kept
    'values that cannot be kept': '''
lock, generator = threading.Lock(), (n * n for n in range(4))
database = sqlite3.connect(':memory:')
beside = {'list': [1, 2]}
next(generator), lock.locked(), beside
''',
    'beside them': 'beside',
    'a generator later': 'next(generator)',
    'a connection later': 'database.execute("select 1").fetchall()',
    'a lock inside': 'container = {"a": 1, "deep": [{"lock": threading.Lock()}]}\ncontainer["a"]',
    'a lock inside later': 'container["a"]',
    'deleting and replacing them': 'del generator\nlock = "another value"\nlock',
    'replaced later': 'lock',

    # ------------------------------------------------------------ numpy, pandas, figures
    'numpy': '''
rng = np.random.default_rng(0)
matrix = rng.normal(size=(3, 3)).round(3)
record = np.array([('a', 1), ('b', 2)], dtype=[('name', 'U3'), ('count', 'i4')])
matrix
''',
    'numpy in place': 'matrix[0] = 0\nmatrix.T[2] += 1\nmatrix, record["count"].sum(), rng.integers(100, size=3)',
    'numpy later': 'matrix.round(2).tolist(), matrix.flags.writeable, rng.integers(100, size=3), record.dtype',
    'pandas': '''
import pandas as pd
import matplotlib.pyplot as plt
frame = pd.DataFrame({'city': ['Lille', 'Rennes', 'Lille', 'Brest'], 'when': pd.date_range('2024-01-01', periods=4),
                      'sales': [1.5, 2.25, 3.0, np.nan]})
frame
''',
    'pandas in place': '''
frame["tax"] = frame.sales * .2
frame.loc[3, "sales"] = 4
by_city = frame.groupby("city").sales.agg(["sum", "count"])
by_city
''',
    'pandas later': 'print(frame.dtypes.astype(str).to_dict())\nframe.describe().round(2)',
    'a series': 'frame.sales',
    'a figure': 'plt.plot([1, 4, 9])\nplt.title("squares");',
    'several figures': '''
for power in (1, 2):
    plt.figure(figsize=(2, power))
    plt.plot([x ** power for x in range(5)])
print('drawn')
''',
    'a figure as a value': 'figure, axes = plt.subplots(1, 2, figsize=(3, 2))\naxes[0].bar("ab", [1, 2])\nplt.close(figure)\nfigure',
    'a figure later': 'figure.set_size_inches(2, 2)\naxes[1].plot([1, 2])\nfigure',
    'figures deleted': 'del figure, axes\nimport gc\n"figure" in globals()',
    'a figure shown before a print': 'plt.figure(figsize=(1, 1))\nplt.show()\nprint("after")',
    'a figure before an error': 'plt.figure(figsize=(1, 1))\nraise LookupError("with a figure")',
}
