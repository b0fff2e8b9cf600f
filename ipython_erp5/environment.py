"""The environment's pass over a cell: tree in, tree + table of imports + sources of functions out. Nothing runs here.

    tree of the cell ─► imports at its top level stay where they are, each followed by a call of the hook with its place in the table
                     ─► calls of `environment.define` and `undefine` at its top level are checked; they act when they are reached
                     ─► sources of its functions, as written, by name and first line

"Top level" is the cell's own scope: also inside `if`, `try`, `with`, `for`, `while` and `match`, never inside functions and classes.
An import that is guarded, fails or is not reached means what it means in Python: the hook is called only after it.

The texts of the errors are those that users of ERP5 know.
"""

import __future__

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .errors import EnvironmentDefinitionError, EnvironmentUndefineError, ERP5Error

NAME = 'environment'
METHODS = ('define', 'undefine', 'clearAll', 'showSetup')
Kind = Literal['function', 'import', 'value']
Function = ast.FunctionDef | ast.AsyncFunctionDef

ARITY = 'environment.define calls receive 2 arguments'
NO_FUNCTION = 'Type mismatch. environment.define receives a function as first argument.'
NO_ALIAS = 'Type mismatch. environment.define receives a string as second argument.'
NO_TEXT = 'Type mismatch. environment.undefine receives only a string as argument.'


@dataclass(frozen=True)
class Setup:
    """One definition of the environment.

    `alias`: its key; `name`: of the function, module or variable; `source`: as written ('' for a value); `cell`, `line`: where the
    source begins (lines from 1); `flags`: compiler flags of the `from __future__` imports that hold there; `names`: what it provided
    when it ran last; `value`: a serialized value.
    """

    alias: str
    kind: Kind
    name: str
    source: str = ''
    cell: int = 0
    line: int = 1
    flags: int = 0
    names: tuple[str, ...] = ()
    value: bytes = b''

    def as_record(self) -> dict[str, Any]:
        """Only builtin types: what is stored in the database for years."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> 'Setup':
        return cls(**{name: record[name] for name in cls.__dataclass_fields__ if name in record})


@dataclass(frozen=True)
class Processed:
    """A cell after the pass. `imports[i]`: the setups to register when the hook is called with i."""

    tree: ast.Module
    imports: tuple[tuple[Setup, ...], ...]
    functions: Mapping[tuple[str, int], Setup]
    management_only: bool


def process(tree: ast.Module, source: str, cell: int, *, hook: str, shadowed: bool, known: Callable[[str], bool],
            flags: int) -> Processed:
    """The cell's tree with its imports registered.

    `source` is the text that `tree` was parsed from; `hook` a name that the cell's code can call; `shadowed` whether the user has a
    variable `environment`; `known` whether a name is a function of an earlier cell; `flags` what holds before the cell. Raises
    EnvironmentDefinitionError and EnvironmentUndefineError, with `lineno`, for calls that can never be right.
    """
    lines = source.splitlines()
    flags |= future_flags(tree)
    functions = {(node.name, first_line(node)): function_setup(node, lines, cell, flags)
                 for node in ast.walk(tree) if isinstance(node, Function)}
    ours = not shadowed and NAME not in set(assigned(tree))
    if ours:
        check_calls(tree, functions, known)
    rewriter = Rewriter(source, cell, hook, flags)
    return Processed(rewriter.module(tree), tuple(rewriter.table), functions, ours and management_only(tree))


def future_flags(tree: ast.Module) -> int:
    """Compiler flags of the cell's `from __future__` imports."""
    names = [alias.name for node in tree.body if is_future(node) for alias in node.names]  # type: ignore[attr-defined]
    return sum({getattr(__future__, name).compiler_flag for name in names if name in __future__.all_feature_names})


def is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == '__future__'


# ---------------------------------------------------------------- what stands at the top level
def bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The lists of statements directly inside a statement that has no scope of its own."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return
    for value in (value for _, value in ast.iter_fields(node) if isinstance(value, list)):
        if value and isinstance(value[0], ast.stmt):
            yield value
        for part in value:
            if isinstance(part, (ast.ExceptHandler, ast.match_case)):
                yield from bodies(part)


def statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """All statements of the cell's own scope, in the order of the text."""
    for node in body:
        yield node
        for inner in bodies(node):
            yield from statements(inner)


def assigned(tree: ast.Module) -> Iterator[str]:
    """Names that the cell's own scope binds other than by import."""
    for statement in statements(tree.body):
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield statement.name
            continue
        for node in own_nodes(statement):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                yield node.id


def own_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of a statement, without those of the statements inside it."""
    for child in ast.iter_child_nodes(statement):
        if not isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield from ast.walk(child)


def calls(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls of a method of `environment` that are statements of the cell's own scope."""
    for statement in statements(tree.body):
        if isinstance(statement, ast.Expr) and is_call(statement.value):
            yield statement.value  # type: ignore[misc]


def is_call(node: ast.expr) -> bool:
    return (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS
            and isinstance(node.func.value, ast.Name) and node.func.value.id == NAME)


def management_only(tree: ast.Module) -> bool:
    """Whether the cell does nothing but manage the environment: such a cell is never blocked by a setup that fails."""
    def manages(node: ast.stmt) -> bool:
        return isinstance(node, Function) or isinstance(node, ast.Expr) and (isinstance(node.value, ast.Constant) or is_call(node.value))
    return any(True for _ in calls(tree)) and all(map(manages, tree.body))


# ---------------------------------------------------------------- checks
def check_calls(tree: ast.Module, functions: Mapping[tuple[str, int], Setup], known: Callable[[str], bool]) -> None:
    """What can be said of the calls before anything runs."""
    defined = {name for name, _ in functions}
    for call in calls(tree):
        method = call.func.attr  # type: ignore[attr-defined]
        if method == 'define':
            check_define(call, tree, defined, known)
        elif method == 'undefine' and (call.keywords or len(call.args) != 1 or not is_text(call.args[0])):
            raise at(call, EnvironmentUndefineError(NO_TEXT))
        elif method in ('clearAll', 'showSetup') and (call.args or call.keywords):
            raise at(call, EnvironmentDefinitionError(f'environment.{method} takes no arguments'))


def check_define(call: ast.Call, tree: ast.Module, defined: set[str], known: Callable[[str], bool]) -> None:
    if call.keywords and not call.args:
        return
    if len(call.args) != 2 or call.keywords or any(isinstance(argument, ast.Starred) for argument in call.args):
        raise at(call, EnvironmentDefinitionError(ARITY))
    function, alias = call.args
    if not isinstance(function, ast.Name):
        raise at(call, EnvironmentDefinitionError(NO_FUNCTION))
    if not is_text(alias):
        raise at(call, EnvironmentDefinitionError(NO_ALIAS))
    check_function(call, function.id, tree, defined, known)


def check_function(call: ast.Call, name: str, tree: ast.Module, defined: set[str], known: Callable[[str], bool]) -> None:
    """It must be a function, written in this cell or an earlier one: its source is what is kept."""
    node = next((node for node in statements(tree.body) if isinstance(node, Function) and node.name == name), None)
    if isinstance(node, ast.AsyncFunctionDef):
        raise at(call, EnvironmentDefinitionError(f'{NO_FUNCTION} {name} is an async function: setups run before a cell, where nothing '
                                                  'awaits them'))
    if name not in defined and name not in set(assigned(tree)) and not known(name):
        raise at(call, EnvironmentDefinitionError(f'{NO_FUNCTION} {name!r} is no function of this cell or an earlier one: write its '
                                                  '`def` in the cell that defines it'))


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(node.value.strip())


def at(node: ast.expr, error: ERP5Error) -> ERP5Error:
    """The error with the line of the cell that it is about."""
    error.lineno = node.lineno
    return error


# ---------------------------------------------------------------- sources
def first_line(node: Function) -> int:
    """Of the function with its decorators: what its code object calls its first line."""
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def function_setup(node: Function, lines: list[str], cell: int, flags: int) -> Setup:
    """The function as written, with decorators and comments; the alias is not known yet."""
    start = first_line(node)
    text = '\n'.join(lines[start - 1:node.end_lineno])
    return Setup('', 'function', node.name, text, cell, start, flags)


def import_setups(node: ast.Import | ast.ImportFrom, cell: int, flags: int) -> tuple[Setup, ...]:
    """One setup for each module that an import statement names, with ERP5's aliases."""
    if isinstance(node, ast.Import):
        return tuple(Setup(import_alias(name), 'import', name.name, ast.unparse(ast.Import([name])), cell, node.lineno, flags,
                           (name.asname or name.name.partition('.')[0],)) for name in node.names)
    module = '.' * node.level + (node.module or '')
    names = tuple(name.asname or name.name for name in node.names)
    alias = f'{dotted(module)}_ALL_setup' if names == ('*',) else '_'.join(names) + '_setup'
    return (Setup(alias, 'import', module, ast.unparse(node), cell, node.lineno, flags, names),)


def import_alias(name: ast.alias) -> str:
    return f'{name.asname or dotted(name.name)}_setup'


def dotted(module: str) -> str:
    return module.replace('.', '_dot_')


# ---------------------------------------------------------------- rewriting
class Rewriter:
    """Puts a call of the hook behind every import of the cell's own scope. `table` is what the calls' numbers mean."""

    def __init__(self, source: str, cell: int, hook: str, flags: int) -> None:
        self.source, self.cell, self.hook, self.flags = source, cell, hook, flags
        self.table: list[tuple[Setup, ...]] = []

    def module(self, tree: ast.Module) -> ast.Module:
        """In place. Calls for `from __future__` imports come after the last of them, which must stay first."""
        last = max((index for index, node in enumerate(tree.body) if is_future(node)), default=-1)
        head = tree.body[:last + 1]
        registered = [self.call(node) for node in head if is_future(node)]
        rest = tree.body[last + 1:]
        self.rewrite(rest)
        tree.body = [*head, *registered, *rest]
        return tree

    def rewrite(self, body: list[ast.stmt]) -> None:
        for index in range(len(body) - 1, -1, -1):
            node = body[index]
            for inner in bodies(node):
                self.rewrite(inner)
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                body.insert(index + 1, self.call(node))

    def call(self, node: ast.stmt) -> ast.stmt:
        assert isinstance(node, (ast.Import, ast.ImportFrom))
        self.table.append(import_setups(node, self.cell, self.flags))
        call = ast.Call(ast.Name(self.hook, ast.Load()), [ast.Constant(len(self.table) - 1)], [])
        return ast.fix_missing_locations(ast.copy_location(ast.Expr(call), node))
