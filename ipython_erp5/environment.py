"""The environment's look at a cell before it runs: tree in; tree, imports, function sources out. Nothing is executed here.

    import numpy as np              ─►  import numpy as np; HOOK(0)      the hook runs once the import has succeeded
    def load(): ...                 ─►  unchanged; its text is kept in `Processed.functions`
    environment.define(load, 'a')   ─►  unchanged, checked: wrong use is an error before anything runs

Promised: an import stays where it is, so that it raises in place, may be guarded, and is usable at once; an environment call
acts when it is reached. Looked at is the top level of the cell, also inside its `if`, `try`, `with`, `for`, `while` and
`match`, at any depth; what stands in functions and classes is not touched (functions are known there too, for calls made at
run time).

Not promised: to see through aliases of `environment`. A call that this pass does not recognise is checked when it runs.
"""

import __future__

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from types import CodeType
from typing import Any, Literal

from .errors import EnvironmentDefinitionError, EnvironmentUndefineError

Kind = Literal['function', 'import', 'value']

# What a user of ERP5 knows; more may follow the sentence.
ARITY = 'environment.define calls receive 2 arguments'
NOT_A_FUNCTION = 'Type mismatch. environment.define receives a function as first argument.'
NOT_AN_ALIAS = 'Type mismatch. environment.define receives a string as second argument.'
NOT_TEXT = 'Type mismatch. environment.undefine receives only a string as argument.'

HOW_TO_DEFINE = "environment.define(function, 'alias') or environment.define(name=value)"
MIXED = f'{ARITY}: a function and its alias, or else only name=value pairs. This call mixes both: make it two calls.'
EMPTY = f'{NOT_AN_ALIAS} It names the setup, so it cannot be empty.'
NOT_LITERAL = f"{NOT_AN_ALIAS} Write it as a literal, such as 'alias'."
WHY_ASYNC = 'A setup is called, never awaited: write a plain `def`, with asyncio.run() inside if it must wait.'
WHY_LAMBDA = 'A lambda has no source of its own: write it as a `def`.'


# ---------------------------------------------------------------- what a cell gives
@dataclass(frozen=True)
class Setup:
    """What runs before every later cell.

    `name` is a function's, a module's (with leading dots where relative) or a variable's; `source` the text as written (function
    with its decorators, import statement; empty for a value); `line` the 1-based line of `source` in cell number `cell`; `flags`
    the compiler flags of `from __future__` under which it was written; `names` what it last provided; `value` a value's bytes.
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
        """Builtins only: records are kept in databases for years, longer than this class may keep its name."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> 'Setup':
        """The setup of a record of any version: unknown keys are ignored, missing ones have their defaults."""
        known = {field.name: record[field.name] for field in fields(cls) if field.name in record}
        return cls(**{**known, 'names': tuple(known.get('names', ()))})


@dataclass(frozen=True)
class FunctionSource:
    """A function as written: whole lines, from its first decorator on; `line` is the first one's number, 1-based."""

    name: str
    source: str
    cell: int
    line: int


@dataclass(frozen=True)
class Processed:
    """What the pass found. `HOOK(i)` in `tree` stands for `imports[i]`; `functions` has all of a name, in order of line."""

    tree: ast.Module
    imports: tuple[Setup, ...]
    functions: Mapping[str, tuple[FunctionSource, ...]]
    management_only: bool
    cell: int


def process(tree: ast.Module, source: str, cell: int, *, hook: str, shadowed: bool, known: Callable[[str], bool],
            flags: int) -> Processed:
    """Look at one cell; `tree` is changed in place.

    `source` is what `tree` was parsed from, or empty if that is not to be had: then the sources are made from the tree. `known`
    says whether an earlier cell left a function of that name; `shadowed`, that `environment` is a variable of the user's;
    `flags` are those that earlier cells left. Raises EnvironmentDefinitionError or EnvironmentUndefineError, with `lineno`.
    """
    calls = list(environment_calls(tree))
    if calls and (shadowed or any('environment' in bound_names(statement) for statement, _block in top_level(tree))):
        calls = []  # another object's methods
    for call in calls:
        check(call, tree, known)
    text = Text(source)
    management_only = only_management(tree, calls)
    functions = function_sources(tree, text, cell)
    imports = register_imports(tree, text, cell, hook, flags | future_flags(tree))
    return Processed(tree, imports, functions, management_only, cell)


# ---------------------------------------------------------------- walking
Block = list[ast.stmt]
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def statements(block: Block, into_definitions: bool = False) -> Iterator[tuple[ast.stmt, Block]]:
    """Every statement with the list that it stands in, in the order of the text. Not recursive: `elif` chains may be long."""
    pending = [(statement, block) for statement in reversed(block)]
    while pending:
        statement, block = pending.pop()
        yield statement, block
        if into_definitions or not isinstance(statement, DEFINITIONS):
            inner = [(child, part) for part in blocks(statement) for child in part]
            pending.extend(reversed(inner))


def top_level(tree: ast.Module) -> Iterator[tuple[ast.stmt, Block]]:
    """The statements that the cell itself runs, at any depth."""
    return statements(tree.body)


def blocks(statement: ast.stmt) -> Iterator[Block]:
    """The statement lists that a compound statement has."""
    for field in ('body', 'handlers', 'cases', 'orelse', 'finalbody'):
        part = getattr(statement, field, ())
        if field in ('handlers', 'cases'):
            yield from (clause.body for clause in part)
        elif part:
            yield part


def own_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """A statement and its expressions, patterns and clauses, without the statements in it."""
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt))


def bound_names(statement: ast.stmt) -> set[str]:
    """The names that a statement itself binds or deletes; '*' for a star import."""
    return {name for node in own_nodes(statement) for name in names_bound_by(node) if name}


def names_bound_by(node: ast.AST) -> Iterable[str | None]:
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            return (name,)
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return [bound_by_import(alias) for alias in aliases]
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar():
            return (node.name,)
        case ast.MatchMapping(rest=name):
            return (name,)
    return ()


def bound_by_import(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition('.')[0]


# ---------------------------------------------------------------- sources
class Text:
    """The text of a cell, by line. Lines end where Python's tokenizer ends them (`str.splitlines` knows more ends)."""

    def __init__(self, source: str) -> None:
        self.source = source

    @cached_property
    def lines(self) -> list[str]:
        return self.source.replace('\r\n', '\n').replace('\r', '\n').split('\n')

    def statement(self, node: ast.stmt) -> str:
        """Exactly what was written. Columns of a tree count bytes."""
        if not self.source:
            return ast.unparse(node)
        lines = [line.encode() for line in self.lines[node.lineno - 1:node.end_lineno]]
        lines[-1] = lines[-1][:node.end_col_offset]
        lines[0] = lines[0][node.col_offset:]
        return b'\n'.join(lines).decode()

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, cell: int) -> FunctionSource:
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        if not self.source:
            return FunctionSource(node.name, ast.unparse(node) + '\n', cell, first)
        while node.decorator_list and not self.lines[first - 1].lstrip().startswith('@'):
            first -= 1  # the decorator's expression may begin below its @
        return FunctionSource(node.name, '\n'.join(self.lines[first - 1:node.end_lineno]) + '\n', cell, first)


def function_sources(tree: ast.Module, text: Text, cell: int) -> dict[str, tuple[FunctionSource, ...]]:
    """Every function of a cell, also those in functions and classes, by name, in order of line."""
    found: dict[str, tuple[FunctionSource, ...]] = {}
    for node, _block in statements(tree.body, into_definitions=True):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found[node.name] = (*found.get(node.name, ()), text.function(node, cell))
    return found


def find_source(sources: Iterable[FunctionSource], code: CodeType) -> FunctionSource | None:
    """The one that `code` was compiled from: its first line is the decorator's, which may be a little below the @."""
    return max((source for source in sources if source.name == code.co_name and source.line <= code.co_firstlineno),
               key=lambda source: source.line, default=None)


# ---------------------------------------------------------------- imports
def register_imports(tree: ast.Module, text: Text, cell: int, hook: str, flags: int) -> tuple[Setup, ...]:
    """The setups of the top level's imports; each import is followed by a call of the hook for each of its setups."""
    found: list[Setup] = []
    calls: list[tuple[ast.stmt, Block, Block]] = []
    for node, block in top_level(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            made = import_setups(node, text, cell, flags)
            calls.append((node, block, [hook_call(hook, len(found) + i, node) for i in range(len(made))]))
            found += made
    futures = [node for node in tree.body if future_features(node)]
    for node, block, hooks in reversed(calls):
        anchor = futures[-1] if future_features(node) and block is tree.body else node  # nothing may come between them
        place = next(i for i, statement in enumerate(block) if statement is anchor) + 1
        block[place:place] = hooks
    return tuple(found)


def hook_call(hook: str, index: int, node: ast.stmt) -> ast.stmt:
    """`hook(index)` at the place of `node`. Its value is None, so that it shows nothing where it is the last expression."""
    call = ast.Expr(ast.Call(ast.Name(hook, ast.Load()), [ast.Constant(index)], []))
    for part in ast.walk(call):
        ast.copy_location(part, node)
    return call


def import_setups(node: ast.Import | ast.ImportFrom, text: Text, cell: int, flags: int) -> list[Setup]:
    """One for a `from` import, one for each module of a plain one. A star's names are known when it has run."""
    if isinstance(node, ast.ImportFrom):
        module = '.' * node.level + (node.module or '')
        names = tuple(bound_by_import(alias) for alias in node.names if alias.name != '*')
        alias = '_'.join(names) or f'{dotless(module)}_ALL'
        return [Setup(f'{alias}_setup', 'import', module, text.statement(node), cell, node.lineno, flags, names)]
    sources = [f'import {ast.unparse(alias)}' for alias in node.names] if len(node.names) > 1 else [text.statement(node)]
    return [Setup(f'{alias.asname or dotless(alias.name)}_setup', 'import', alias.name, source, cell, alias.lineno, flags,
                  (bound_by_import(alias),)) for alias, source in zip(node.names, sources, strict=True)]


def dotless(module: str) -> str:
    return module.replace('.', '_dot_')


def future_features(node: ast.stmt) -> list[str]:
    """What a `from __future__` import names; empty for any other statement."""
    is_future = isinstance(node, ast.ImportFrom) and node.module == '__future__' and not node.level
    return [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) and is_future else []


def future_flags(tree: ast.Module) -> int:
    """The compiler flags of a cell's `from __future__` imports. An unknown feature is the compiler's to complain about."""
    flags = 0
    for node in tree.body:
        for feature in future_features(node):
            flags |= getattr(getattr(__future__, feature, None), 'compiler_flag', 0)
    return flags


# ---------------------------------------------------------------- calls
METHODS = ('define', 'undefine', 'clearAll', 'showSetup')


def environment_calls(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls that stand as statements of their own, in the order of the text."""
    return (statement.value for statement, _block in top_level(tree) if method_of(statement) and isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Call))


def method_of(statement: ast.stmt) -> str:
    """The method that `environment.method(…)` calls; empty for any other statement."""
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id='environment'), attr=method))) if method in METHODS:
            return method
    return ''


def only_management(tree: ast.Module, calls: list[ast.Call]) -> bool:
    """Nothing but environment calls, and the functions that they take. A setup that fails does not stop such a cell."""
    ours = {id(call) for call in calls}
    return bool(calls) and all(
        isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Pass)) or
        isinstance(statement, ast.Expr) and (isinstance(statement.value, ast.Constant) or id(statement.value) in ours)
        for statement in tree.body)


def check(call: ast.Call, tree: ast.Module, known: Callable[[str], bool]) -> None:
    """Raise what is wrong with a call, as far as its text tells."""
    assert isinstance(call.func, ast.Attribute)
    method, problem = call.func.attr, ''
    error: type[EnvironmentDefinitionError | EnvironmentUndefineError] = EnvironmentDefinitionError
    if method == 'define':
        problem = define_problem(call, tree, known)
    elif method == 'undefine':
        error, problem = EnvironmentUndefineError, undefine_problem(call)
    elif call.args or call.keywords:
        problem = f'environment.{method} calls receive no arguments.'
    if problem:
        raised = error(problem)
        raised.lineno = call.lineno
        raise raised


def undefine_problem(call: ast.Call) -> str:
    match call:
        case ast.Call(args=[ast.Constant(value=str())], keywords=[]):
            return ''
    return f"{NOT_TEXT} Write environment.undefine('alias'), with a literal alias."


def define_problem(call: ast.Call, tree: ast.Module, known: Callable[[str], bool]) -> str:
    match call:
        case ast.Call(args=[], keywords=[_, *_]):
            return ''
        case ast.Call(args=[_, *_], keywords=[_, *_]):
            return MIXED
        case ast.Call(args=[ast.Name(id=name), ast.Constant(value=str() as alias)]):
            return function_problem(name, call, tree, known) if alias else EMPTY
        case ast.Call(args=[ast.Name(), _]):
            return NOT_LITERAL
        case ast.Call(args=[first, _]):
            return f'{NOT_A_FUNCTION} Give it the name of a function, not {describe(first)}.'
    return f'{ARITY}, this one {len(call.args)}: write {HOW_TO_DEFINE}.'


def describe(node: ast.expr, size: int = 60) -> str:
    """What was written, for an error text."""
    text = ast.unparse(node)
    return text if len(text) <= size else text[:size] + '…'


def function_problem(name: str, call: ast.Call, tree: ast.Module, known: Callable[[str], bool]) -> str:
    """Why `name` cannot be a setup's function. What only running can tell is left to that."""
    bound = bound_before(name, call, tree)
    problems = [binding_problem(statement, name) for statement in bound]
    certain = any(statement in tree.body for statement in bound)
    if '' in problems or (not certain and known(name)):
        return ''
    if problems:
        return f'{NOT_A_FUNCTION} {problems[-1]}'
    return (f'{NOT_A_FUNCTION} There is no function {name!r} before this call, neither in this cell nor from an earlier one: '
            'write its `def` above the call.')


def bound_before(name: str, call: ast.Call, tree: ast.Module) -> list[ast.stmt]:
    """The top-level statements before the call that bind `name`, or may: a star import may bind any."""
    found = []
    for statement, _block in top_level(tree):
        if isinstance(statement, ast.Expr) and statement.value is call:
            break
        if {name, '*'} & bound_names(statement):
            found.append(statement)
    return found


LITERALS = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)


def binding_problem(statement: ast.stmt, name: str) -> str:
    """Why what a statement binds to the name is no function for a setup; empty if it is one, or may be."""
    match statement:
        case ast.AsyncFunctionDef():
            return f'{name!r} is an async function. {WHY_ASYNC}'
        case ast.ClassDef():
            return f'{name!r} is a class.'
        case ast.Assign(targets=[ast.Name()], value=ast.Lambda()):
            return f'{name!r} is a lambda. {WHY_LAMBDA}'
        case ast.Assign(targets=[ast.Name()], value=value) if isinstance(value, LITERALS):
            return f'{name!r} is a value: write environment.define(name=value) to keep one.'
    return ''
