"""The ordered setups of one notebook, and `environment`, the object that the user calls.

    stored setups ─► run() before the cell: each provides names ─► the cell: define, undefine, clearAll, imports ─► stored()

A setup is run in the notebook's namespace, from its source as it was written. The names that setups provide belong to the
environment as long as they are bound to the very object that a setup gave; a value that the user assigns over one is the user's.
"""

import ast
import difflib
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from .environment import ARITY, NO_ALIAS, NO_FUNCTION, NO_TEXT, Processed, Setup
from .errors import EnvironmentDefinitionError, EnvironmentSetupError, EnvironmentUndefineError, SerializationError

WARNING = ('WARNING: You imported from the modules {modules} without using the environment object, which is not recomended. '
           'Your import was automatically converted to use such method. The setup functions were named as *module*_setup. ')
REMOVED = ('{name} ({alias}) was removed from the setup list. Variables it may have added to the context and are not pickleable '
           'were automatically removed.')
UNKNOWN = "Trying to remove non existing function/variable from environment: '{alias}'"
FAILED = 'An error happened when trying to run the one of your setup functions:'
WIDTH = 200  # characters of a value in `showSetup`
Written = tuple[str, int, int]


class Setups:
    """The setups of one notebook in one process, for the time of one cell.

    `namespace`: the dict of `__main__`. `dump(name, value)`, `load(bytes)`: for values; `dump` raises SerializationError.
    `filename(cell)`: of the code of a cell. `need(names)`: load these variables of the user, where there are any. `source_of`: the
    source of a function of an earlier cell, its cell and its first line, or None.
    """

    def __init__(self, stored: Iterable[Setup], namespace: dict[str, Any], *, dump: Callable[[str, object], bytes],
                 load: Callable[[bytes], object], filename: Callable[[int], str], need: Callable[[set[str]], None],
                 source_of: Callable[[types.FunctionType], Written | None]) -> None:
        self.setups = {setup.alias: setup for setup in stored}
        self.namespace = namespace
        self.dump, self.load, self.filename, self.need, self.source_of = dump, load, filename, need, source_of
        self.provided: dict[str, object] = {}
        self.changed = False
        self.failures: list[EnvironmentSetupError] = []
        self.functions: dict[tuple[str, int], Setup] = {}
        self.cell = 0
        self.new_imports: dict[str, None] = {}

    @property
    def flags(self) -> int:
        """Compiler flags that hold for the next cell."""
        return functools.reduce(int.__or__, (setup.flags for setup in self.setups.values() if setup.name == '__future__'), 0)

    def stored(self) -> tuple[Setup, ...]:
        return tuple(self.setups.values())

    def warning(self) -> str:
        """What ERP5 prints about imports; '' if the cell has brought none that the notebook did not have."""
        return WARNING.format(modules=', '.join(self.new_imports)) if self.new_imports else ''

    def begin(self, processed: Processed, cell: int) -> None:
        """The functions of the cell, or of a part of it, are known from here on."""
        self.functions.update(processed.functions)
        self.cell = cell

    # ------------------------------------------------------------ before the cell
    def run(self, tolerant: bool = False) -> None:
        """Run all setups in their order. EnvironmentSetupError for one that fails; it stays. `tolerant`: go on after it."""
        for setup in list(self.setups.values()):
            try:
                self.setups[setup.alias] = self.provide(setup)
            except (KeyboardInterrupt, EnvironmentSetupError):
                raise
            except BaseException as error:
                failure = failed(setup, error)
                if not tolerant:
                    raise failure from error
                self.failures.append(failure)

    def provide(self, setup: Setup) -> Setup:
        """Run one setup; what it gives is in the namespace and belongs to the environment. The setup with the names it gave."""
        self.need(named(setup.source))
        names = getattr(self, f'run_{setup.kind}')(setup)
        self.namespace.update(names)
        self.provided.update(names)
        return replace(setup, names=tuple(names))

    def run_import(self, setup: Setup) -> dict[str, object]:
        exec(compiled(setup.source, self.filename(setup.cell), setup.line, setup.flags), self.namespace)
        return self.imported_names(setup)

    def run_function(self, setup: Setup) -> dict[str, object]:
        exec(compiled(setup.source, self.filename(setup.cell), setup.line, setup.flags), self.namespace)
        function = self.namespace[setup.name]
        return {setup.name: function, **results(setup.name, function())}

    def run_value(self, setup: Setup) -> dict[str, object]:
        return {setup.name: self.load(setup.value)}

    def imported_names(self, setup: Setup) -> dict[str, object]:
        names: Iterable[str] = setup.names
        if setup.source.rstrip().endswith('*') or '*' in names:
            names = exported(setup.name)
        return {name: self.namespace[name] for name in names if name in self.namespace}

    # ------------------------------------------------------------ during the cell
    def imported(self, processed: Processed, index: int) -> None:
        """An import of the cell has been reached and has succeeded."""
        for setup in processed.imports[index]:
            names = self.imported_names(setup)
            self.provided.update(names)
            self.add_import(replace(setup, names=tuple(names)))

    def add_import(self, setup: Setup) -> None:
        """Keep its place if nothing has changed; else it moves to the end, as what is imported last wins."""
        old = self.setups.get(setup.alias)
        if old is not None and (old.source, old.flags) == (setup.source, setup.flags) and not self.overridden(old):
            return
        if setup.name != '__future__' and (old is None or old.source != setup.source):
            self.new_imports[setup.name] = None
        self.setups.pop(setup.alias, None)
        self.setups[setup.alias] = setup
        self.changed = True

    def overridden(self, setup: Setup) -> bool:
        """Whether a later setup provides one of its names."""
        aliases = list(self.setups)
        later = aliases[aliases.index(setup.alias) + 1:]
        return any(not set(setup.names).isdisjoint(self.setups[alias].names) for alias in later)

    def add(self, setup: Setup) -> None:
        """Run it, and keep it if it has not failed. A known alias keeps its place."""
        old = self.setups.get(setup.alias)
        self.setups[setup.alias] = self.provide(setup)
        self.changed = True
        if old is not None:
            self.withdraw(old)

    def add_value(self, name: str, value: object) -> None:
        try:
            data = self.dump(name, value)
        except SerializationError as error:
            raise EnvironmentDefinitionError(f'environment.define: the value of {name!r} cannot be kept: {error}. Define a function '
                                             f'that makes it instead') from None
        self.namespace[name] = self.provided[name] = value
        self.setups[name] = Setup(name, 'value', name, cell=self.cell, names=(name,), value=data)
        self.changed = True

    def function(self, function: object, alias: str) -> Setup:
        """The setup of a function: its source in this cell, or in an earlier one."""
        plain = inspect.unwrap(function) if callable(function) else function
        if not isinstance(plain, types.FunctionType):
            raise EnvironmentDefinitionError(f'{NO_FUNCTION} Got {type(function).__name__}')
        found = self.functions.get((plain.__name__, plain.__code__.co_firstlineno))
        if found is not None and plain.__code__.co_filename == self.filename(self.cell):
            return replace(found, alias=alias)
        written = self.source_of(plain)
        if written is None:
            raise EnvironmentDefinitionError(f'{NO_FUNCTION} The source of {plain.__name__!r} is not known: write its `def` in the '
                                             'cell that defines it')
        source, cell, line = written
        return Setup(alias, 'function', plain.__name__, source, cell, line, self.flags)

    def remove(self, alias: str) -> Setup:
        """Take a setup out, and the names that only it provided and that the user has not assigned."""
        if alias not in self.setups:
            raise EnvironmentUndefineError(UNKNOWN.format(alias=alias) + self.hint(alias))
        setup = self.setups.pop(alias)
        self.changed = True
        self.withdraw(setup)
        return setup

    def withdraw(self, setup: Setup) -> None:
        """Names of a setup that is gone, and that no other provides, leave the namespace, unless the user has assigned them."""
        others = {name for other in self.setups.values() for name in other.names}
        for name in set(setup.names) - others:
            given = self.provided.pop(name, self)
            if self.namespace.get(name) is given:
                del self.namespace[name]

    def hint(self, alias: str) -> str:
        close = difflib.get_close_matches(alias, list(self.setups), 1)
        if close:
            return f'. Did you mean {close[0]!r}?'
        return f'. Defined are: {", ".join(self.setups)}' if self.setups else '. Nothing is defined'

    def clear(self) -> None:
        for alias in list(self.setups):
            self.remove(alias)

    def listing(self) -> str:
        """One paragraph a setup, in their order."""
        parts = [f'{number}. {setup.alias}: {setup.kind} {setup.name}, from line {setup.line} of cell {setup.cell}\n'
                 + ''.join(f'       {line}\n' for line in self.described(setup)) for number, setup in enumerate(self.setups.values(), 1)]
        return ''.join(parts) or 'Nothing is defined.\n'

    def described(self, setup: Setup) -> list[str]:
        if setup.kind != 'value':
            return setup.source.splitlines()
        try:
            text = repr(self.load(setup.value))
        except Exception as error:
            text = f'<cannot be loaded: {type(error).__name__}>'
        return [f'{setup.name} = {text if len(text) <= WIDTH else text[:WIDTH] + "…"}']


class Environment:
    """What runs before every cell, in whichever process: `define`, `undefine`, `clearAll`, `showSetup`."""

    def __init__(self, setups: Setups) -> None:
        self._setups = setups

    def __repr__(self) -> str:
        return f'<environment: {", ".join(self._setups.setups) or "nothing is defined"}>'

    def define(self, *args: Any, **values: Any) -> None:
        """`define(function, 'alias')`: run the function now and before every later cell; a dict that it returns becomes variables.
        `define(name=value)`: have this value in every later cell.
        """
        if values and not args:
            for name, value in values.items():
                self._setups.add_value(name, value)
            return
        if len(args) != 2 or values:
            raise EnvironmentDefinitionError(ARITY)
        function, alias = args
        if not isinstance(alias, str) or not alias.strip():
            raise EnvironmentDefinitionError(NO_ALIAS)
        self._setups.add(self._setups.function(function, alias))

    def undefine(self, alias: str) -> None:
        """Take a definition out, with the names that only it provided."""
        if not isinstance(alias, str):
            raise EnvironmentUndefineError(NO_TEXT)
        print(REMOVED.format(name=self._setups.remove(alias).name, alias=alias))

    def clearAll(self) -> None:  # noqa: N802 - ERP5's name
        """Take all definitions out."""
        self._setups.clear()

    def showSetup(self) -> None:  # noqa: N802
        """Print what is defined, in its order."""
        print(self._setups.listing(), end='')


# ---------------------------------------------------------------- running one setup
@functools.lru_cache(maxsize=1024)
def compiled(source: str, filename: str, line: int, flags: int) -> types.CodeType:
    """The code of a setup, with the line numbers of the cell that defined it. Indented text stays as it is, strings in it too."""
    indented = source[:1] in (' ', '\t')
    text, offset = (f'if True:\n{source}', line - 2) if indented else (source, line - 1)
    tree = compile(text, filename, 'exec', flags | ast.PyCF_ONLY_AST, dont_inherit=True)
    return compile(ast.increment_lineno(tree, offset), filename, 'exec', flags, dont_inherit=True)


@functools.lru_cache(maxsize=1024)
def names_of(source: str) -> frozenset[str]:
    try:
        tree = ast.parse(f'if True:\n{source}' if source[:1] in (' ', '\t') else source)
    except SyntaxError:
        return frozenset()
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def named(source: str) -> set[str]:
    """Names that the source of a setup uses."""
    return set(names_of(source)) if source else set()


def results(name: str, value: object) -> dict[str, object]:
    """What a setup function has returned, as variables."""
    if not isinstance(value, dict):
        return {}
    wrong = [key for key in value if not isinstance(key, str) or not key.isidentifier()]
    if wrong:
        raise EnvironmentDefinitionError(f'the setup {name} returned a dict with the key {wrong[0]!r}: expected names of variables')
    return value


def exported(module: str) -> list[str]:
    """What `from module import *` binds."""
    found = sys.modules.get(module) or importlib.import_module(module)
    names: Iterable[str] | None = getattr(found, '__all__', None)
    return list(names) if names is not None else [name for name in vars(found) if not name.startswith('_')]


def failed(setup: Setup, error: BaseException) -> EnvironmentSetupError:
    failure = EnvironmentSetupError(
        f'the setup {setup.alias!r}, defined at line {setup.line} of cell {setup.cell}, failed before this cell: '
        f'{type(error).__name__}: {error}. None of the cell was run. Put its cause right, define it again, or remove it with '
        f'environment.undefine({setup.alias!r})')
    failure.__cause__ = error
    return failure

