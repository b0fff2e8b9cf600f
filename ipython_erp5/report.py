"""What was not saved, why, and what to write instead.

    NotSaved(name, type, culprits, suggestion) ── as_message() ─► wire ── from_message() ─► render() ─► what the user reads
                                      └─ suggest(): the statement of the cell that assigned it, as an `environment.define`

    Not saved: 2 of 14 variables
      results   results['model'].hooks[3].cb → _thread.lock
                results['model'].db → sqlite3.Connection
      conn      sqlite3.Connection. Load it through the environment:
                    def load_conn():
                        import sqlite3
                        conn = sqlite3.connect(':memory:')
                        return {'conn': conn}
                    environment.define(load_conn, 'conn')

Suggested code runs as it stands where the statement ran: what it imports, it imports itself.
"""

import ast
import builtins
import symtable
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from textwrap import indent
from typing import Any

from .diagnosis import Culprit

STOCK = ('Cannot serialize the variable named {} whose value is {}, thus it will not be stored in the context. '
         "You should move it's definition to a function and use the environment object to load it.")
WAY_OUT = 'Load it through the environment:'


@dataclass(frozen=True)
class NotSaved:
    """A variable that was not saved. `suggestion`: code that provides it in every later cell, '' if there is none."""

    name: str
    type: str
    culprits: tuple[Culprit, ...] = ()
    suggestion: str = ''

    def as_message(self) -> dict[str, Any]:
        """The JSON object of a `context` message; `text` is for clients that only print, and begins as ERP5's warning does."""
        text = STOCK.format(self.name, f'<{self.type}>') + '\n' + ''.join(line + '\n' for line in self.lines())
        return {'name': self.name, 'type': self.type, 'culprits': [asdict(culprit) for culprit in self.culprits],
                'suggestion': self.suggestion, 'text': text}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> 'NotSaved':
        """The same again; what a message lacks is empty."""
        culprits = tuple(Culprit(*(str(item.get(field) or '') for field in ('path', 'type', 'reason')))
                         for item in message.get('culprits') or ())
        return cls(str(message.get('name') or ''), str(message.get('type') or ''), culprits, str(message.get('suggestion') or ''))

    def lines(self) -> list[str]:
        """Its part of the report, without the name."""
        found = [_line(self.name, culprit) for culprit in self.culprits] or [self.type]
        if not self.suggestion:
            return found
        if len(found) == 1 and '→' not in found[0]:
            found = [f'{found[0]}. {WAY_OUT}']
        else:
            found.append(WAY_OUT)
        return [*found, *indent(self.suggestion.rstrip('\n'), '    ').split('\n')]


def _line(name: str, culprit: Culprit) -> str:
    """`path → type`, or the type alone for the variable itself; the reason where the type does not say it."""
    if not culprit.type:
        return culprit.path
    text = culprit.type if culprit.path == name else f'{culprit.path} → {culprit.type}'
    plain = not culprit.reason or 'cannot bring the same one back' in culprit.reason or 'annot pickle' in culprit.reason
    return text if plain else f'{text} ({culprit.reason})'


def render(not_saved: Sequence[NotSaved], total: int) -> str:
    """The report on all of them; `total`: how many variables the cell used, these included. '' if there is nothing to report."""
    if not not_saved:
        return ''
    width = max(len(lost.name) for lost in not_saved) + 3
    text = f'Not saved: {len(not_saved)} of {total} variable{"s" if total != 1 else ""}\n'
    for lost in not_saved:
        first, *others = lost.lines()
        text += f'  {lost.name.ljust(width)}{first}\n' + ''.join(f'  {"".ljust(width)}{line}'.rstrip() + '\n' for line in others)
    return text


def later_use(name: str, reason: str, suggestion: str) -> str:
    """The text of the NotSavedError that a later use of the variable raises."""
    ways = f'{WAY_OUT}\n{indent(suggestion.rstrip(), "    ")}' if suggestion else (
        'Assign it again in the cell that uses it, or give environment.define a function that returns it in a dict.')
    return f'the variable {name!r} of an earlier cell was not saved: {reason.rstrip(".")}. {ways}'


# ---------------------------------------------------------------- the suggestion
def suggest(name: str, source: str, is_module: Callable[[str], str | None], provided: Collection[str]) -> str:
    """The `environment.define` for a variable that the cell `source` assigned; '' if it did not, or if no function can do it.

    `is_module`: the import statement for a name that is a module in the namespace, else None. `provided`: what the environment
    has for every cell anyway.
    """
    source, tree = _parse(source)
    chosen = _statements(name, tree.body)
    if not chosen:
        return ''
    body = [line for statement in chosen for line in _as_written(source, statement)]
    imports, variables = _needs('\n'.join(body), tree, is_module, provided)
    comment = [f'    # uses {_and(variables)} of this notebook'] if variables else []
    code = '\n'.join([f'def load_{name}():', *comment, *(f'    {line}' for line in imports), *body,
                      f'    return {{{name!r}: {name}}}', f'environment.define(load_{name}, {name!r})', ''])
    return code if _compiles(code) else ''


def _parse(source: str) -> tuple[str, ast.Module]:
    """The source, with IPython's own syntax translated if it has any, and its tree; nothing if it is no Python."""
    if not _compiles(source):
        from IPython.core.inputtransformer2 import TransformerManager
        source = TransformerManager().transform_cell(source)  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return source, ast.parse(source)
    except (SyntaxError, ValueError):
        return '', ast.Module([], [])


def _compiles(source: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the cell has given them already
        try:
            compile(source, '<cell>', 'exec', dont_inherit=True)
        except (SyntaxError, ValueError):
            return False
    return True


def _statements(name: str, body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """The last statement that binds the name, and the earlier ones that this one continues (`x += 1`); [] if one is missing."""
    chosen: list[ast.stmt] = []
    wanted = {name}
    for statement in reversed(body):
        bound = set(_bound(statement))
        if wanted & bound:
            wanted = (wanted - bound) | _continued(statement)
            chosen.insert(0, statement)
        if not wanted:
            return chosen
    return []


SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def _same_scope(node: ast.AST) -> Iterator[ast.AST]:
    """A node and what is in it, without the insides of functions and classes."""
    yield node
    if not isinstance(node, SCOPES):
        for child in ast.iter_child_nodes(node):
            yield from _same_scope(child)


def _bound(statement: ast.AST) -> Iterator[str]:
    """The names that a statement binds where it stands; comprehensions keep theirs to themselves."""
    private = {id(part) for node in _same_scope(statement) if isinstance(node, ast.comprehension)
               for part in ast.walk(node.target)}
    for node in _same_scope(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in private:
            yield node.id
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (_alias(alias) for alias in node.names)
        elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
            yield node.name


def _alias(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition('.')[0]


def _continued(statement: ast.stmt) -> set[str]:
    """Names whose earlier value the statement reads and then binds: in a function they need that value there too."""
    names: set[str] = set()
    for node in _same_scope(statement):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            names |= set(_bound(node)) & _read(node.value)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            names |= set(_bound(node.target)) & _read(node.iter)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            names |= {n for item in node.items if item.optional_vars for n in _bound(item.optional_vars)} & {
                n for item in node.items for n in _read(item.context_expr)}
    return names


def _read(node: ast.AST) -> set[str]:
    """Names read where the node stands; a comprehension's own are not."""
    own = {name.id for part in _same_scope(node) if isinstance(part, ast.comprehension)
           for name in ast.walk(part.target) if isinstance(name, ast.Name)}
    return {part.id for part in _same_scope(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)} - own


def _as_written(source: str, statement: ast.stmt) -> list[str]:
    """The lines of a statement, decorators included, indented except where a line begins inside a text."""
    decorators = getattr(statement, 'decorator_list', [])
    first = min([statement.lineno, *(decorator.lineno for decorator in decorators)])
    lines = source.encode().split(b'\n')[first - 1:statement.end_lineno]
    lines[-1] = lines[-1][:statement.end_col_offset]
    if not decorators:
        lines[0] = lines[0][statement.col_offset:]
    texts = (node for node in ast.walk(statement) if isinstance(node, ast.JoinedStr)
             or isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)))
    inside = {number for node in texts for number in range(node.lineno + 1, (node.end_lineno or 0) + 1)}
    return [line.decode() if number in inside or not line.strip() else '    ' + line.decode()
            for number, line in enumerate(lines, first)]


INJECTED = {'context', 'environment', 'get_ipython', 'display', '__name__', '__file__', '__doc__'}


def _needs(body: str, tree: ast.Module, is_module: Callable[[str], str | None],
           provided: Collection[str]) -> tuple[list[str], list[str]]:
    """The imports that a function with this body needs, and the variables of the notebook that it uses."""
    imported = dict(_imports(tree))
    imports, variables = [], []
    for name in sorted(_globals(f'def load():\n{body}\n')):
        statement = imported.get(name) or is_module(name)
        if statement:
            imports.append(statement)
        elif name not in provided and name not in INJECTED and not hasattr(builtins, name):
            variables.append(name)
    return list(dict.fromkeys(imports)), variables


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(name, the statement that imports only this) for what the cell itself imports."""
    for node in _same_scope(tree):
        if isinstance(node, ast.Import):
            yield from ((_alias(alias), f'import {ast.unparse(alias)}') for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module != '__future__':
            origin = '.' * node.level + (node.module or '')
            yield from ((_alias(alias), f'from {origin} import {ast.unparse(alias)}') for alias in node.names)


def _globals(source: str) -> set[str]:
    """The names that a function, or anything in it, takes from its globals."""
    try:
        todo = [symtable.symtable(source, '<cell>', 'exec')]
    except (SyntaxError, ValueError):
        return set()
    names: set[str] = set()
    while todo:
        table = todo.pop()
        todo += table.get_children()
        if table.get_type() != 'module':
            names |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()}
    return names


def _and(names: Iterable[str]) -> str:
    *others, last = names
    return f'{", ".join(others)} and {last}, variables' if others else f'{last}, a variable'
