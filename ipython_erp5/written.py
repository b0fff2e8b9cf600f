"""Where a function was written, and whether its source can be a setup; and a setup's source as code again, in that place.

    function ─► those inside it ─► the source of each: this cell, a setup, an earlier cell ─► the one to keep ─► source, flags
                                                       none, or none that can run on its own ─► EnvironmentDefinitionError

Promised: the source is the text of the very function, found by the file, the name and the line that its code has, never by its
name alone. Of a decorated function it is the `def` with its decorators, whatever they have made of it. The flags are those of
`from __future__` under which it was written. No setup is run, kept or bound here.

Not promised: a function that is not of a cell of this notebook, or whose source is not all of it: each is an error that says why.
"""

import __future__

import ast
import sys
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from types import CodeType, FrameType, FunctionType
from typing import Any

from .environment import HOW_TO_DEFINE, NOT_A_FUNCTION, WHY_ASYNC, WHY_LAMBDA, FunctionSource, Processed, Setup, find_source
from .errors import EnvironmentDefinitionError

# What of a function's flags makes a setup: CO_NESTED is among the features' flags, and says something else.
FUTURES = sum({getattr(__future__, name).compiler_flag for name in __future__.all_feature_names if name != 'nested_scopes'})


class Written:
    """What the cells of one notebook have in them, from the one that is being run backwards.

    `namespace` is the dict that cells run in; `filename(cell)` the name under which that cell's code was compiled;
    `source_of(code)` the text of the function of an earlier cell that the code object is of, or None.
    """

    def __init__(self, namespace: dict[str, object], *, filename: Callable[[int], str],
                 source_of: Callable[[object], str | None]) -> None:
        self._namespace, self._filename, self._source_of = namespace, filename, source_of
        self._processed: list[Processed] = []

    # ------------------------------------------------------------ the cell that is being run
    def begin(self, processed: Processed) -> None:
        """From here on the cell has these functions; called again for code that a magic of the cell runs."""
        if processed.cell != self.cell:
            self._processed.clear()
        self._processed.append(processed)

    @property
    def cell(self) -> int:
        """Its number; 0 before the first."""
        return self._processed[-1].cell if self._processed else 0

    def line(self) -> int:
        """The line of it that is being run, 1-based; 1 if none is."""
        filename = self._filename(self.cell) if self._processed else ''
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename != filename:
            frame = frame.f_back
        return frame.f_lineno if frame is not None else 1

    # ------------------------------------------------------------ sources
    def source(self, function: Any, setups: Collection[Setup]) -> tuple[FunctionSource, int]:
        """The text of a function as written, and its compiler flags; EnvironmentDefinitionError if there is none that can run.

        `setups` are those defined so far: the function of one may be defined again.
        """
        if not callable(function) or isinstance(function, type):
            raise EnvironmentDefinitionError(f'{NOT_A_FUNCTION} Got a {type(function).__name__}: write {HOW_TO_DEFINE}.')
        found = [(inner, source) for inner in functions_inside(function) if (source := self._written(inner, setups))]
        plain = [pair for pair in found if pair[0] is function and not pair[0].__code__.co_freevars]
        decorated = [pair for pair in found if pair[0] is not function and pair[1].source.lstrip().startswith('@')]
        chosen = [*plain, *sorted(decorated, key=lambda pair: self._namespace.get(pair[1].name) is not function), *found[:1]]
        if not chosen:
            raise EnvironmentDefinitionError(no_source(function))
        inner, source = chosen[0]
        problem = unsuitable(inner, wrapped=inner is not function and not decorated)
        if problem:
            raise EnvironmentDefinitionError(f'{NOT_A_FUNCTION} {source.name!r} {problem}')
        return source, inner.__code__.co_flags & FUTURES

    def _written(self, function: FunctionType, setups: Collection[Setup]) -> FunctionSource | None:
        """Where a function was written: in this cell, in the source of a setup, or in an earlier cell."""
        code, cell = function.__code__, self._cell_of(function.__code__)
        foreign = cell is None and function.__globals__ is not self._namespace
        if foreign or code.co_name == '<lambda>':
            return None
        here = [found for processed in reversed(self._processed) if cell in (None, self.cell)
                if (found := find_source(processed.functions.get(code.co_name, ()), code))]
        earlier = [FunctionSource(setup.name, setup.source, setup.cell, setup.line) for setup in setups
                   if (setup.kind, setup.name, setup.cell, setup.line) == ('function', code.co_name, cell, code.co_firstlineno)]
        if here or earlier:
            return [*here, *earlier][0]
        text = self._source_of(code)  # of the code: for a function `inspect` would look through its decorators
        return FunctionSource(code.co_name, text, self.cell if cell is None else cell, code.co_firstlineno) if text else None

    def _cell_of(self, code: CodeType) -> int | None:
        """The cell that code was compiled for; None for what a magic compiles, under a name of its own."""
        return next((cell for cell in range(self.cell, -1, -1) if self._filename(cell) == code.co_filename), None)

    def compiled(self, setup: Setup) -> tuple[CodeType, frozenset[str]]:
        """The code of a setup, as if compiled in its place in its cell, and the names in it."""
        return compiled(setup.source, setup.line, setup.flags, self._filename(setup.cell))


# ---------------------------------------------------------------- code
@lru_cache(maxsize=1024)
def compiled(source: str, line: int, flags: int, filename: str) -> tuple[CodeType, frozenset[str]]:
    """The code of a setup, with the lines of its cell, and the names in it. Indented text stays so: strings may be in it."""
    head = '\n' * (line - 2) + 'if True:\n' if source[:1] in (' ', '\t') else '\n' * (line - 1)
    tree = compile(head + source, filename, 'exec', flags | ast.PyCF_ONLY_AST, dont_inherit=True)
    names = frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    return compile(tree, filename, 'exec', flags, dont_inherit=True), names


# ---------------------------------------------------------------- functions
def functions_inside(function: object) -> Iterator[FunctionType]:
    """A function, then those that decorators have put it around: what they say they wrap, and what they close over."""
    pending, seen = [function], set()
    while pending:
        inner = pending.pop(0)
        if id(inner) in seen:
            continue
        seen.add(id(inner))
        pending.append(getattr(inner, '__wrapped__', None))
        if isinstance(inner, FunctionType):
            yield inner
            pending += [content for cell in inner.__closure__ or () if isinstance(content := contents(cell), FunctionType)]


def contents(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return None


def unsuitable(function: FunctionType, wrapped: bool) -> str:
    """Why a function whose source is known cannot be a setup."""
    code = function.__code__
    if code.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR):
        return f'is an async function. {WHY_ASYNC}'
    if code.co_flags & CO_GENERATOR:
        return 'is a generator function: calling it would run nothing of it. Return a dict instead of yielding.'
    if wrapped:
        return 'is wrapped by something that its source does not show: write that as a decorator, @…, above its `def`.'
    if code.co_freevars:
        return (f'uses {", ".join(code.co_freevars)} of the function around it, which its source does not hold: '
                'make it a variable of the notebook, or a part of the setup.')
    return ''


def no_source(function: object) -> str:
    name, module = getattr(function, '__name__', type(function).__name__), getattr(function, '__module__', None)
    if name == '<lambda>':
        return f'{NOT_A_FUNCTION} {WHY_LAMBDA}'
    origin = f' but comes from {module}' if module and module != '__main__' else ''
    return (f'{NOT_A_FUNCTION} Its source is kept, but {name!r} was not written with `def` in a cell of this notebook{origin}: '
            'define a function of your own that imports and calls it.')
