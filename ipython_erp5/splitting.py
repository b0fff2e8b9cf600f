"""A cell for a stock ERP5 server: what defines goes first, the rest after it. Pure functions of the cell's text.

    import numpy as np              ─►  first    import numpy as np            rest
    print(np.pi)                                                                       print(np.pi)

A stock server has what a cell imports and defines from the next cell on, not in the same one. So imports, calls of `environment` and
the functions that these take, at the top level of the cell, are a cell of their own. A line keeps its number: where one half has it,
the other one is blank. A function that the rest uses too is in both. A cell without imports and definitions is left as it is, and so
is one whose text is not understood; Python 2 is understood as far as strings, brackets and indentation go.

What a server would take wrongly is written in another way: `import a, b` (it keeps only `a`) as two imports, and below the last line,
as functions that return a dictionary: `environment.define(x=5)` (it would keep '5'), star imports (they would ignore `__all__`), and
an import that also a function of the first half has (it would not be kept).

Not promised: imports inside functions, or guarded by `if` or `try`, are left as they are.
"""

import ast
import keyword
import re
import symtable
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .cell_text import Unit, tree_of, units_of
from .environment import bound_by_import, bound_names, dotless, future_features, method_of, statements
from .errors import EnvironmentDefinitionError, ERP5Error, UnsupportedError

GENERATED = 'define_'   # the names of functions that are written here begin with this


@dataclass(frozen=True)
class Parts:
    """`first` and `rest` are cells; '' where there is nothing. `both`: functions that are in both halves. `notes`: what will not work."""

    first: str
    rest: str
    both: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def cells(self) -> tuple[str, ...]:
        """One cell, or two."""
        return tuple(cell for cell in (self.first, self.rest) if cell) or ('',)


def split(source: str) -> Parts:
    """The one or two cells to send for this one.

    UnsupportedError, with `lineno`, for what no stock server can run: IPython's syntax, `from __future__`, values that
    `environment.define` would not keep. EnvironmentDefinitionError for a function that is not in the cell.
    """
    refuse_ipython(source)
    if not re.search('import|environment', source):
        return Parts('', source)
    source = source.replace('\r\n', '\n').replace('\r', '\n')
    units = units_of(source)
    moved = chosen(units)
    if not moved:
        return Parts('', source, notes=tuple(notes(units, moved)))
    return assemble(units, moved, source.split('\n'))


def failed(error: type[ERP5Error], unit: Unit, problem: str) -> ERP5Error:
    raised = error(f'line {unit.row + 1}: {problem} Nothing was sent.')
    raised.lineno = unit.row + 1
    return raised


# ---------------------------------------------------------------- what cannot run there
def refuse_ipython(source: str) -> None:
    """Magics, `!commands` and `name?` are no Python of any version."""
    if not re.search(r'[%!?]|^[ \t]*[,;/]', source, re.M) or tree_of(source).body:
        return
    from IPython.core.inputtransformer2 import TransformerManager
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            translated = TransformerManager().transform_cell(source)  # type: ignore[no-untyped-call]
        except (SyntaxError, ValueError, RuntimeError):
            return
    if translated.count('get_ipython()') == source.count('get_ipython()'):
        return
    lines = source.splitlines()
    blank = next(row for row, line in enumerate(lines) if line.strip())     # so many lines IPython leaves out
    row, line = next(((row, line) for row, (line, new) in enumerate(zip(lines[blank:], translated.splitlines()), blank)
                      if 'get_ipython()' in new and line != new), (blank, lines[blank]))
    raise failed(UnsupportedError, Unit(row, line, ()),
                 f'{line.strip()[:60]!r} is IPython\'s syntax, and a stock ERP5 site runs plain Python.')


def refuse(unit: Unit, statement: ast.stmt | None, functions: set[str]) -> None:
    """Raise what is wrong with an import or a call; pass what a server understands."""
    if statement is not None and future_features(statement):
        raise failed(UnsupportedError, unit, 'a stock ERP5 site answers HTTP 500 to `from __future__ import`: leave it out.')
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr='define'), args=[ast.Name(id=name), ast.Constant(value=str())],
                                     keywords=[])) if name not in functions:
            raise failed(EnvironmentDefinitionError, unit, f'a stock ERP5 site needs the `def` of {name!r} in the cell that defines it.')
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr='define'), args=[], keywords=[_, *_] as keywords)):
            for pair in keywords:
                if pair.arg is None or not is_literal(pair.value):
                    raise failed(UnsupportedError, unit, 'a stock ERP5 site keeps only literal values: give environment.define a '
                                 'function that returns a dictionary, and an alias.')


def is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


# ---------------------------------------------------------------- what goes first
def chosen(units: Sequence[Unit]) -> set[int]:
    """The positions of the units that define; none where that would change what the cell means."""
    parsed = {i: unit.statement() for i, unit in enumerate(units) if {'import', 'environment'} & set(unit.words)}
    functions = {name for unit in units for name in defined_in(unit)}
    for i, statement in parsed.items():
        refuse(units[i], statement, functions)
    imports = {i for i, statement in parsed.items() if isinstance(statement, (ast.Import, ast.ImportFrom))}
    calls = {i for i, statement in parsed.items() if statement is not None and method_of(statement)}
    if any(clears(unit) for i, unit in enumerate(units) if i not in calls and not unit.function()):
        return set()    # it acts before everything else of its cell, and would take the first half with it
    taken = {i: name for i in calls if (name := function_of(parsed[i]))}
    makers = {i: unit.function() for i, unit in enumerate(units) if unit.function() in taken.values()}
    others = [unit for i, unit in enumerate(units) if i not in imports | calls | makers.keys()] if makers else []
    bound = {name for unit in others for name in bound_by(unit)}
    late = {makers[i] for i in makers if free_names(units[i]) & bound} | (set(taken.values()) - set(makers.values()))
    moved = imports | {i for i in calls if taken.get(i) not in late} | {i for i, name in makers.items() if name not in late}
    return moved if imports or any(defines(parsed[i]) for i in moved & calls) else set()


def defined_in(unit: Unit) -> Iterator[str]:
    """The names of all functions in it, at any depth."""
    return (name for word, name in zip(unit.words, unit.words[1:]) if word == 'def')


def clears(unit: Unit) -> bool:
    """Whether a call of `environment` inside of a compound statement takes setups away: to a server it is made in any case."""
    return any(before == 'environment' and after in ('clearAll', 'undefine') for before, after in zip(unit.words, unit.words[1:]))


def function_of(statement: ast.stmt | None) -> str:
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr='define'), args=[ast.Name(id=name), *_])):
            return name
    return ''


def defines(statement: ast.stmt | None) -> bool:
    return statement is not None and method_of(statement) == 'define'


def bound_by(unit: Unit) -> set[str]:
    """The names that a statement of the cell gives a value."""
    tree = tree_of(unit.text)
    if tree.body:
        return {name for statement, _block in statements(tree.body) for name in bound_names(statement)}
    return {unit.function()} - {''} or set(assigned(unit.text))


def assigned(text: str) -> list[str]:
    """The same of what is no Python 3: names before `=`, or after `for`."""
    found = re.findall(r'(?<![\w.])([^\W\d]\w*)\s*=(?!=)', text) + re.findall(r'\bfor\s+([^\W\d]\w*)', text)
    return [name for name in found if not keyword.iskeyword(name)]


def free_names(unit: Unit) -> set[str]:
    """The names that a function takes from the cell's variables, when it is made or when it is called."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            todo = [symtable.symtable(unit.text, '<cell>', 'exec')]
    except (SyntaxError, ValueError, RecursionError):
        return set(unit.words) - set(assigned(unit.text)) - {unit.function()}
    found: set[str] = set()
    while todo:
        table = todo.pop()
        todo += table.get_children()
        found |= {symbol.get_name() for symbol in table.get_symbols()
                  if symbol.is_referenced() and (symbol.is_global() or table.get_type() == 'module')}
    return found - {unit.function()}


# ---------------------------------------------------------------- the two cells
def assemble(units: Sequence[Unit], moved: set[int], lines: Sequence[str]) -> Parts:
    """The two halves; comments and blank lines are of the rest."""
    hidden = {name for i in moved if units[i].function() for name in imported_in(units[i])}
    written = {i: for_server(units[i], hidden) for i in moved}
    both = frozenset(name for i in moved if (name := units[i].function()) and name in used_by(units, moved))
    first, rest = [''] * len(lines), list(lines)
    for unit in units:
        end = unit.row + unit.text.count('\n') + 1
        rest[unit.row:end] = [''] * (end - unit.row)
    for i, unit in enumerate(units):
        if i in moved:
            put(first, unit.row, written[i].text)
        if i not in moved or unit.function() in both:
            put(rest, unit.row, unit.text)
    below = [line for i in sorted(moved) for line in written[i].below]
    if all(i in moved or not i and is_text(unit) for i, unit in enumerate(units)):
        changed = below or any(written[i].text != units[i].text for i in moved)
        return Parts(cell(first + below) if changed else '', '' if changed else '\n'.join(lines))
    if len(units) - 1 in moved and not rest[units[-1].row]:
        rest[units[-1].row] = 'pass'     # the last statement shows nothing, and neither may the one before it
    return Parts(cell(first + below), '\n'.join(rest), both, tuple(notes(units, moved)))


def cell(lines: Sequence[str]) -> str:
    return '\n'.join(lines).rstrip('\n') + '\n'


def used_by(units: Sequence[Unit], moved: set[int]) -> set[str]:
    """The words of the rest."""
    return {word for i, unit in enumerate(units) if i not in moved for word in unit.words}


def is_text(unit: Unit) -> bool:
    """Whether it is but a text, such as a cell's description, or `pass`."""
    match unit.statement():
        case ast.Pass() | ast.Expr(value=ast.Constant(value=str())):
            return True
    return False


def put(lines: list[str], row: int, text: str) -> None:
    """Text at its row, behind what may be there already."""
    for offset, line in enumerate(text.split('\n')):
        before = lines[row + offset] if not offset else ''
        lines[row + offset] = f'{before}; {line}' if before and line else before or line


class Written(NamedTuple):
    """What stands at a unit's place, and the lines that stand below all others instead of it."""

    text: str
    below: Sequence[str] = ()


def for_server(unit: Unit, hidden: set[str]) -> Written:
    """What a server takes as Python would take the unit. `hidden`: names that functions of the same half import."""
    match unit.statement():
        case ast.Import(names=aliases):
            plain = [f'import {ast.unparse(alias)}' for alias in aliases if bound_by_import(alias) not in hidden]
            below = [line for alias in aliases if bound_by_import(alias) in hidden for line in setup_of(alias)]
            return Written(unit.text if len(aliases) == len(plain) == 1 else '; '.join(plain), below)
        case ast.ImportFrom(module=str(module), names=[ast.alias(name='*')], level=0):
            return Written('', setup(f'{dotless(module)}_ALL_setup', STAR.format(module=module)))
        case ast.ImportFrom(module=str(module), names=[_, _, *_] as aliases, level=0):
            return Written('; '.join(f'from {module} import {ast.unparse(alias)}' for alias in aliases))
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr='define'), args=[], keywords=[_, *_] as keywords)):
            values = [(str(pair.arg), ast.get_source_segment(unit.text, pair.value)) for pair in keywords]
            return Written('', [line for name, value in values for line in setup(name, f'    return {{{name!r}: ({value})}}')])
    return Written(unit.text)


STAR = '''\
    module = __import__({module!r}, {{}}, {{}}, ['*'])
    names = getattr(module, '__all__', None) or [name for name in dir(module) if not name.startswith('_')]
    return dict((name, getattr(module, name)) for name in names)'''


def setup(alias: str, body: str) -> list[str]:
    """The lines that make a function with this body a setup. `import` in it would be taken for the cell's."""
    return [f'def {GENERATED}{alias}():', *body.split('\n'), f'environment.define({GENERATED}{alias}, {alias!r})']


def setup_of(alias: ast.alias) -> list[str]:
    """The setup of a plain import, with the alias that a server would give it."""
    name = bound_by_import(alias)
    call = f'__import__({alias.name!r}, {{}}, {{}}, ["*"])' if alias.asname else f'__import__({alias.name!r})'
    return setup(f'{alias.asname or dotless(alias.name)}_setup', f'    return {{{name!r}: {call}}}')


def imported_in(unit: Unit) -> set[str]:
    """The names that a function imports."""
    return {bound_by_import(alias) for node in ast.walk(tree_of(unit.text)) if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names}


# ---------------------------------------------------------------- what will not work
def notes(units: Sequence[Unit], moved: set[int]) -> Iterator[str]:
    """What a stock server makes of the rest that Python would not, a sentence each."""
    taken: set[str] = set()
    for i, unit in enumerate(units):
        statement = unit.statement() if {'import', 'environment'} & set(unit.words) else None
        if statement is None:
            continue
        if method_of(statement) == 'define' and (name := function_of(statement)):
            if name in taken:
                yield f'line {unit.row + 1}: of several definitions of {name} in one cell an ERP5 site keeps only the last one'
            taken.add(name)
        if i not in moved and method_of(statement) == 'define':
            yield (f'line {unit.row + 1}: on this site this definition acts from the next cell on, as {function_of(statement)} uses '
                   'what the cell makes')
        nested = [node for node in ast.walk(statement) if isinstance(node, (ast.Import, ast.ImportFrom)) and node is not statement]
        if unit.function() or isinstance(statement, ast.ClassDef):
            nested = [node for node in nested if isinstance(node, ast.ImportFrom)]
            reason = 'an ERP5 site loses a `from … import` inside of a function: write `import` there'
        else:
            reason = 'what is imported under a condition is on an ERP5 site usable from the next cell on'
        yield from (f'line {unit.row + node.lineno}: {reason}' for node in nested[:1])
