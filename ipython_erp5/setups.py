"""The setups of one notebook, in order, and the object that a cell knows as `environment`.

    records ─► Setups.run() ─► namespace ─► the cell ─► imported(), define, undefine ─► stored() ─► records
                    └──────────── provided: name ─► the very object that a setup gave ──────┘

Promised: a setup runs before every later cell as it was written, with the line numbers of the cell that defined it and under its
`from __future__` flags, after the setups defined before it. One that fails while it is defined is not kept; one that fails
later stays. A name belongs to the environment as long as it is bound to what a setup gave; what is assigned over it is the
user's.

Not promised: to keep what a function closes over, or a wrapper that its source does not show; both are errors.
"""

import ast
import difflib
import importlib
import reprlib
import textwrap
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from types import TracebackType
from typing import Any

from . import written
from .environment import ARITY, EMPTY, HOW_TO_DEFINE, MIXED, NOT_AN_ALIAS, NOT_TEXT, Processed, Setup, future_flags
from .errors import EnvironmentDefinitionError, EnvironmentSetupError, EnvironmentUndefineError, SerializationError

IMPORTED = ('WARNING: You imported from the modules {} without using the environment object, which is not recomended. '
            'Your import was automatically converted to use such method. The setup functions were named as *module*_setup. ')
REMOVED = ('{} ({}) was removed from the setup list. Variables it may have added to the context and are not pickleable were '
           'automatically removed.')
UNKNOWN = "Trying to remove non existing function/variable from environment: '{}'"
FAILED = 'An error happened when trying to run the one of your setup functions:'

ABSENT = object()
Given = dict[str, object]


class Setups:
    """The setups of one notebook, in order of definition.

    Made anew from what was stored whenever the database may have changed. `namespace` is the dict that cells run in.
    `dump(name, value)` raises SerializationError, `load(bytes)` gives the value back; `filename(cell)` is the name under which
    that cell's code was compiled; `need(names)` loads stored variables; `source_of(code)` is the text of the function of an
    earlier cell that the code object is of, or None.
    """

    def __init__(self, stored: Iterable[Setup], namespace: Given, *, dump: Callable[[str, object], bytes],
                 load: Callable[[bytes], object], filename: Callable[[int], str], need: Callable[[set[str]], None],
                 source_of: Callable[[object], str | None]) -> None:
        self.namespace = namespace
        self.provided: Given = {}
        self.failures: tuple[EnvironmentSetupError, ...] = ()
        self._setups = {setup.alias: setup for setup in stored}
        self._before = tuple(self._setups.values())
        self._given: dict[str, Given] = {}
        self._dump, self._load, self._filename, self._need = dump, load, filename, need
        self._written = written.Written(namespace, filename=filename, source_of=source_of)
        self._imported: list[str] = []

    # ------------------------------------------------------------ what there is
    @property
    def flags(self) -> int:
        """The compiler flags of every later cell."""
        flags = 0
        for setup in self._setups.values():
            if setup.kind == 'import' and setup.name == '__future__':
                flags |= future_flags(parsed(setup.source))
        return flags

    def stored(self) -> tuple[Setup, ...]:
        """To be kept. An import all of whose names the user has deleted is not: ask before the namespace is emptied."""
        return tuple(setup for setup in self._setups.values() if not self._deleted(setup))

    @property
    def changed(self) -> bool:
        """Whether `stored()` differs from what this was made from."""
        return self.stored() != self._before

    def warning(self) -> str:
        """What to tell about the imports of this cell that became setups or changed one; empty if there are none."""
        return IMPORTED.format(', '.join(dict.fromkeys(self._imported))) if self._imported else ''

    def listing(self) -> str:
        """All setups, in order, to be read."""
        entries = (self._entry(number, setup) for number, setup in enumerate(self.stored(), 1))
        return '\n'.join(entries) or f'The environment has no setups. Add one with {HOW_TO_DEFINE}.'

    def _entry(self, number: int, setup: Setup) -> str:
        source = setup.source
        if setup.kind == 'value':
            value = self._given.get(setup.alias, {}).get(setup.name, ABSENT)
            source = f'{setup.name} = {"…" if value is ABSENT else reprlib.repr(value)}'
        provides = f', provides {", ".join(setup.names)}' if setup.names else ''
        return (f'{number}. {setup.alias}: {setup.kind} {setup.name}, line {setup.line} of cell {setup.cell}{provides}\n'
                + textwrap.indent(source.rstrip('\n'), '    '))

    def _deleted(self, setup: Setup) -> bool:
        """A `from __future__` import is for the compiler, whatever becomes of its name."""
        given = self._given.get(setup.alias, {})
        return setup.kind == 'import' and setup.name != '__future__' and bool(given) and self.namespace.keys().isdisjoint(given)

    # ------------------------------------------------------------ before a cell
    def begin(self, processed: Processed) -> None:
        """From here on the cell's imports and functions are these; called again for code that a magic of the cell runs."""
        if processed.cell != self._written.cell:
            self._imported.clear()
        self._written.begin(processed)

    def run(self, tolerant: bool = False) -> None:
        """Run all setups in order. The first that fails raises EnvironmentSetupError; if `tolerant`, all go to `failures`."""
        self.failures = ()
        for alias in list(self._given):
            self._withdraw(self._given.pop(alias))
        for setup in self.stored():
            try:
                self._run(setup)
            except (Exception, SystemExit) as error:
                failure = self._failure(setup, error)
                if not tolerant:
                    raise failure from error
                failure.__cause__ = error
                self.failures += (failure,)

    def _run(self, setup: Setup) -> None:
        given = {'function': self._run_function, 'import': self._run_import, 'value': self._run_value}[setup.kind](setup)
        if self._setups.get(setup.alias) is setup:  # a setup may undefine itself
            self._keep(setup, given)

    def _run_value(self, setup: Setup) -> Given:
        return {setup.name: self._load(setup.value)}

    def _run_import(self, setup: Setup) -> Given:
        exec(self._written.compiled(setup)[0], self.namespace)
        return self._given_by_import(setup)

    def _run_function(self, setup: Setup) -> Given:
        code, names = self._written.compiled(setup)
        self._need_all(names - {setup.name})
        exec(code, self.namespace)
        function: Any = self.namespace[setup.name]
        return {setup.name: function, **checked(function(), setup.alias)}

    def _need_all(self, names: frozenset[str]) -> None:
        missing = names - self.namespace.keys()
        if missing:
            self._need(set(missing))

    def _failure(self, setup: Setup, error: BaseException) -> EnvironmentSetupError:
        """What to tell about a setup that failed; `error` keeps the frames of the setup, not ours."""
        frames = without_our_files(error.__traceback__)
        lines = [line for frame, line in traceback.walk_tb(frames) if frame.f_code.co_filename == self._filename(setup.cell)]
        place = f' at line {lines[-1]}' if lines else ''
        error.with_traceback(frames)
        return EnvironmentSetupError(
            f'{FAILED} {setup.alias!r} ({setup.kind} {setup.name}), defined at line {setup.line} of cell {setup.cell}, '
            f'failed{place}: {type(error).__name__}: {safe_text(error)}. It stays defined. '
            f'Define it again, or remove it: environment.undefine({setup.alias!r})')

    # ------------------------------------------------------------ while a cell runs
    def imported(self, processed: Processed, index: int) -> None:
        """What the hook of the pass is bound to: import `index` has been reached and has succeeded. A repeat costs little."""
        setup = self._with_alias(processed.imports[index])
        given = self._given_by_import(setup)
        kept = self._setups.get(setup.alias)
        if kept is not None and kept.source == setup.source:
            setup = kept
        elif setup.name != '__future__':  # a compiler's flag is no module to warn of
            self._imported.append(setup.name)
        if kept is not None and self._overtaken(setup.alias, given):
            del self._setups[setup.alias]
        self._keep(setup, given)

    def _with_alias(self, setup: Setup) -> Setup:
        """ERP5's alias, numbered where a setup that provides other names has it: an import replaces nothing else."""
        alias, number = setup.alias, 1
        while (kept := self._setups.get(alias)) is not None and not same_target(kept, setup):
            number += 1
            alias = f'{setup.alias}_{number}'
        return setup if number == 1 else replace(setup, alias=alias)

    def _given_by_import(self, setup: Setup) -> Given:
        names: Iterable[str] = setup.names
        if is_star(setup.source):
            package = self.namespace.get('__package__') or self.namespace.get('__name__')
            names = public_names(importlib.import_module(setup.name, str(package)))
        return {name: self.namespace[name] for name in names if name in self.namespace}

    def _overtaken(self, alias: str, given: Given) -> bool:
        """Whether a later setup would bind one of the names to something else: then the last import run must be the last."""
        for later in reversed(self._setups):
            if later == alias:
                break
            others = {**dict.fromkeys(self._setups[later].names, ABSENT), **self._given.get(later, {})}
            if any(others.get(name, value) is not value for name, value in given.items()):
                return True
        return False

    def define_function(self, function: Any, alias: str) -> None:
        """Run it now, and before every later cell. What it raises is raised, and then it is not kept."""
        source, flags = self._written.source(function, self._setups.values())
        setup = Setup(alias, 'function', source.name, source.source, source.cell, source.line, flags)
        self._need_all(self._written.compiled(setup)[1])
        given = checked(function(), alias)
        own = {source.name: function} if self.namespace.get(source.name) is function else {}
        self._keep(setup, {**own, **given})

    def define_values(self, values: Mapping[str, object]) -> None:
        """Keep values, all or none of them."""
        cell, line = self._written.cell, self._written.line()
        setups = [Setup(name, 'value', name, '', cell, line, 0, (name,), self._dumped(name, value))
                  for name, value in values.items()]
        for setup in setups:
            self._keep(setup, {setup.name: values[setup.name]})

    def _dumped(self, name: str, value: object) -> bytes:
        if not name.isidentifier():
            raise EnvironmentDefinitionError(f'environment.define keeps values by the names of variables; {name!r} is none.')
        try:
            return self._dump(name, value)
        except SerializationError as error:
            raise EnvironmentDefinitionError(
                f'environment.define cannot keep {name}, a {type(value).__name__}: {error}. Define a function that makes it and '
                f"returns {{'{name}': …}} instead.") from error

    def undefine(self, alias: str) -> None:
        """Forget a setup and what it provided, and say so; EnvironmentUndefineError if there is none."""
        if alias not in self._setups:
            raise EnvironmentUndefineError(UNKNOWN.format(alias) + self._hint(alias))
        setup = self._setups.pop(alias)
        self._withdraw(self._given.pop(alias, {}))
        print(REMOVED.format(setup.name, alias))

    def _hint(self, alias: str) -> str:
        close = difflib.get_close_matches(alias, self._setups, 1)
        if close:
            return f'. Did you mean {close[0]!r}?'
        return f'. Defined are: {", ".join(map(repr, self._setups))}' if self._setups else '. Nothing is defined.'

    def clear(self) -> None:
        """Forget all setups and what they provided."""
        self._setups.clear()
        while self._given:
            self._withdraw(self._given.popitem()[1])

    # ------------------------------------------------------------ names
    def _keep(self, setup: Setup, given: Given) -> None:
        """The setup, in the place of the one with its alias; what that one provided and this one does not goes."""
        names = tuple(given)
        old = self._given.get(setup.alias, {})
        self._setups[setup.alias] = setup if setup.names == names else replace(setup, names=names)
        self._given[setup.alias] = given
        self.namespace.update(given)
        self.provided.update(given)
        self._withdraw({name: value for name, value in old.items() if name not in given})

    def _withdraw(self, given: Given) -> None:
        """Take back names that are still bound to what a setup gave, unless another one provides them."""
        for name, value in given.items():
            if self.provided.get(name, ABSENT) is not value:
                continue
            other = self._other(name)
            if other is ABSENT:
                del self.provided[name]
            else:
                self.provided[name] = other
            if self.namespace.get(name, ABSENT) is value:
                self.namespace.update({name: other})
                if other is ABSENT:
                    del self.namespace[name]

    def _other(self, name: str) -> object:
        """What the last setup that provides the name gave."""
        values = (self._given[alias][name] for alias in reversed(self._setups) if name in self._given.get(alias, {}))
        return next(values, ABSENT)


class Environment:
    """What runs before every later cell, in whichever process that is.

    environment.define(function, 'alias')  run the function now and before every later cell; a dict it returns becomes variables
    environment.define(name=value)         keep a value
    environment.undefine('alias')          forget one
    environment.clearAll()                 forget all
    environment.showSetup()                print them
    """

    __slots__ = ('_setups',)

    def __init__(self, setups: Setups) -> None:
        self._setups = setups

    def define(self, /, *args: object, **values: object) -> None:
        """Run `function` now and before every later cell, under this alias; or keep values: `define(name=value)`."""
        if args and values:
            raise EnvironmentDefinitionError(MIXED)
        if values:
            return self._setups.define_values(values)
        if len(args) != 2:
            raise EnvironmentDefinitionError(f'{ARITY}, this one {len(args)}: write {HOW_TO_DEFINE}.')
        function, alias = args
        if not isinstance(alias, str) or not alias:
            raise EnvironmentDefinitionError(EMPTY if alias == '' else f'{NOT_AN_ALIAS} Got a {type(alias).__name__}.')
        self._setups.define_function(function, alias)

    def undefine(self, alias: str, /) -> None:
        """Forget the setup with this alias, and the variables that it provided."""
        if not isinstance(alias, str):
            raise EnvironmentUndefineError(f'{NOT_TEXT} Got a {type(alias).__name__}.')
        self._setups.undefine(alias)

    def clearAll(self) -> None:  # noqa: N802 - ERP5's name
        """Forget all setups, and the variables that they provided."""
        self._setups.clear()

    def showSetup(self) -> None:  # noqa: N802 - ERP5's name
        """Print all setups, in order."""
        print(self._setups.listing())

    def __repr__(self) -> str:
        aliases = ', '.join(setup.alias for setup in self._setups.stored())
        return f'<environment of this notebook: {aliases or "no setups"}>'


# ---------------------------------------------------------------- code
@lru_cache(maxsize=1024)
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


def is_star(source: str) -> bool:
    statement = parsed(source).body[0]
    return isinstance(statement, ast.ImportFrom) and statement.names[0].name == '*'


def public_names(module: object) -> Iterable[str]:
    """What `from module import *` binds."""
    names = getattr(module, '__all__', None)
    return [name for name in vars(module) if not name.startswith('_')] if names is None else names


def same_target(kept: Setup, new: Setup) -> bool:
    """Whether an import may replace a setup with its alias: another import, of the same names or of everything of a module."""
    if kept.kind != 'import' or is_star(kept.source) != is_star(new.source):
        return False
    return kept.name == new.name if is_star(new.source) else set(kept.names) == set(new.names)


def checked(result: object, alias: str) -> Given:
    """The variables in what a setup returned: a dict's items; anything else has none."""
    if not isinstance(result, dict):
        return {}
    for name in result:
        if not isinstance(name, str):
            raise EnvironmentDefinitionError(f'The dict that the setup {alias!r} returned becomes variables, but its key '
                                             f'{name!r} is a {type(name).__name__}: all keys must be strings.')
    return dict(result)


# ---------------------------------------------------------------- errors
def without_our_files(frames: TracebackType | None) -> TracebackType | None:
    """Frames from the first that is not ours on; all of them if there is no other."""
    first = frames
    while first is not None and first.tb_frame.f_code.co_filename in (__file__, written.__file__):
        first = first.tb_next
    return first or frames


def safe_text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception class of the user's
        return '<its text cannot be made>'
