"""The globals of a cell: a variable comes in when it is first asked for.

    a name that is not in the dict ─► LazyBuiltins.__missing__ ─┐
    an attribute of `__main__`     ─► Module.__getattr__        ├─► Namespace.fetch(name) ─► the dict
    a function that is taken apart ─► audit: `__code__`         ┘
    code that is about to run      ─► audit: `exec` ─► look(): what it deletes, and whether it looks at all of it
    frames, threads, forks, `__main__.__dict__`, `globals` ─► reveal(): everything comes in

The dict is an exact dict: nothing else is right in class bodies, under `exec` with locals, or for `del` in functions. What is
promised: code cannot tell which variables had been loaded, but by the time it takes. And it costs nothing to run: as Python
looks names up slowly where `__builtins__` is not an exact dict, the builtins that code uses are lent to the dict for the time
of the cell, until somebody looks.
"""

import ast
import builtins
import contextlib
import os
import sys
import threading
import types
from collections.abc import Callable, Collection, Iterator
from typing import Any

from ..errors import NotSavedError
from . import names

# They read `__main__.__dict__` or frames only to run code in it, or for its name; or are this very machinery.
HARMLESS = frozenset({'IPython', 'ipython_erp5', 'importlib', '_frozen_importlib', 'collections', 'dataclasses', 'enum', 'functools',
                      'logging', 'typing', 'warnings', 'traceback', 'linecache', 'abc', 'matplotlib._api', 'pandas.util._exceptions'})
NEVER_LENT = frozenset({'globals', 'locals', 'vars', 'dir', '__import__', '__build_class__', '__debug__'})
BUILTINS = vars(builtins)
dict_of_module: Any = vars(types.ModuleType)['__dict__']  # Module puts something else in its place


def harmless(frame: types.FrameType | None) -> bool:
    """Whether the code of this frame is of somebody who does not look at variables."""
    name = '' if frame is None else frame.f_globals.get('__name__', '')
    if name == 'inspect' and frame is not None and frame.f_code.co_name == 'get_annotations':  # at most evaluates text in it
        return True
    return isinstance(name, str) and (name.partition('.')[0] in HARMLESS or name.rpartition('.')[0] in HARMLESS or name in HARMLESS)


class Module(types.ModuleType):
    """`__main__` of a cell."""

    __slots__ = ('namespace',)
    namespace: 'Namespace'

    def __getattribute__(self, name: str) -> Any:
        if name == '__dict__':
            return self.namespace.whole(sys._getframe().f_back)
        if name in BUILTINS:
            self.namespace.take_back({name})
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        if self.namespace.fetch(name):
            return self.namespace.dict[name]
        raise AttributeError(f'module {"__main__"!r} has no attribute {name!r}')

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        return self.namespace.whole(sys._getframe().f_back)  # for `object.__getattribute__`

    def __setattr__(self, name: str, value: object) -> None:
        if name in BUILTINS:
            self.namespace.take_back({name})
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self.namespace.take_back({name})
        self.namespace.fetch_to_delete({name})
        if name not in self.namespace.dict:
            raise AttributeError(f"'module' object has no attribute {name!r}")
        super().__delattr__(name)


class LazyBuiltins(dict[str, Any]):
    """`__builtins__` of a cell: the builtins, and behind them the variables that are not loaded yet."""

    def __init__(self, namespace: 'Namespace') -> None:
        super().__init__(BUILTINS)
        vars(self)['namespace'] = namespace

    def __missing__(self, name: str) -> Any:
        namespace: Namespace = vars(self)['namespace']
        caller = sys._getframe().f_back
        ours = caller is not None and caller.f_globals is namespace.dict  # not code with globals of its own, run by a cell
        if ours and namespace.fetch(name):
            return namespace.dict[name]
        if name in BUILTINS:
            return BUILTINS[name]
        reason = namespace.reason(name) if ours else None
        if reason:
            raise NotSavedError(reason)
        raise KeyError(name)

    # In a plain `__main__` this is the module `builtins`.
    def __getattr__(self, name: str) -> Any:
        return getattr(builtins, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(builtins, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(builtins, name)

    def __dir__(self) -> list[str]:
        return dir(builtins)


class Namespace:
    """One cell's. The context sets what is done when something is asked for:

    fetch_variable(name)      bring a variable in; False if there is none, or the cell has had it
    fetch_all()               bring all of them in
    fetch_to_delete(names)    the same for names that the cell is about to delete
    reason(name)              why there is no value for a name that the notebook had
    shown(value)              the value of the last expression has been shown
    """

    def __init__(self) -> None:
        self.module = Module('__main__')
        self.module.namespace = self
        self.dict: dict[str, Any] = dict_of_module.__get__(self.module)
        self.builtins = LazyBuiltins(self)
        self.dict['__builtins__'] = self.builtins
        self.fetch_variable: Callable[[str], bool] = lambda name: False
        self.fetch_all: Callable[[], None] = lambda: None
        self.fetch_to_delete: Callable[[Collection[str]], None] = lambda names: None
        self.reason: Callable[[str], str | None] = lambda name: None
        self.shown: Callable[[object], None] = lambda value: None
        self.lent: set[str] = set()
        self.lends = True
        self.revealed = False
        self.trees: list[ast.AST] = []
        self.busy = 0  # while variables are loaded or saved
        self.postponed: list[types.CodeType] = []
        self.lock = threading.RLock()
        self.process = os.getpid()
        self.open = True

    # ------------------------------------------------------------ variables
    def fetch(self, name: str) -> bool:
        """Bring a variable in; False if there is none, or the cell has had it."""
        if not self.open or os.getpid() != self.process:  # the database belongs to the process that opened it
            return False
        with self.lock:
            return self.fetch_variable(name) or name in self.dict  # another thread may have asked for it, too

    def whole(self, reader: types.FrameType | None) -> dict[str, Any]:
        """The dict for this frame."""
        if not self.busy and not harmless(reader):
            self.reveal()
        return self.dict

    def reveal(self) -> None:
        """Somebody looks at the dict itself: from here on it is what it would be anywhere."""
        if self.open and os.getpid() == self.process:
            self.lend_no_more()
            if not self.revealed:
                with self.lock:
                    self.revealed = True
                    self.fetch_all()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """What happens in here is not the cell's doing; threads that it has left wait."""
        with self.lock:
            self.busy += 1
            try:
                yield
            finally:
                self.busy -= 1

    def close(self) -> None:
        """The cell has ended: what still runs of it sees what is there."""
        self.open = False
        self.lend_no_more()

    # ------------------------------------------------------------ code
    def look(self, code: types.CodeType) -> None:
        """Before it runs: what it could do to the namespace without asking for a name."""
        found = names.of_code(code)
        if found.exchanges or found.reveals or found.views and not names.calls_views_with_arguments(self.trees):
            self.reveal()
        if found.deleted and self.open:
            self.fetch_to_delete(found.deleted)
        self.take_back(found.bound)
        if self.lends:
            self.lend(found.used - found.bound)

    def look_later(self, code: types.CodeType) -> None:
        """At a function that is just being loaded: when that is over."""
        self.postponed.append(code)

    def look_at_postponed(self) -> None:
        while self.postponed:
            self.look(self.postponed.pop())

    def take_apart(self, function: types.FunctionType) -> None:
        """Somebody reads the code of a function of the notebook, to find its globals or to send it elsewhere."""
        with self.working():  # this reads it too
            code = function.__code__
        used = {name for part in names.nested(code) for name in part.co_names}
        self.take_back(used)
        for name in used - self.dict.keys():
            self.fetch(name)

    # ------------------------------------------------------------ builtins
    def lend(self, used: set[str]) -> None:
        for name in used:
            if name in self.builtins and name not in self.dict and name not in NEVER_LENT:
                self.dict[name] = self.builtins[name]
                self.lent.add(name)

    def take_back(self, taken: set[str]) -> None:
        for name in taken & self.lent:
            self.lent.discard(name)
            if self.dict.get(name) is BUILTINS.get(name):
                del self.dict[name]

    def lend_no_more(self) -> None:
        """Lookups are slow from here on, and find what is in `builtins` at that moment."""
        self.lends = False
        self.take_back(set(self.lent))
        self.builtins.clear()
        self.builtins['__import__'] = import_now

    def shadow(self, shadowed: frozenset[str]) -> None:
        """Variables with names of builtins: these are asked for before the builtins."""
        for name in shadowed:
            self.builtins.pop(name, None)


def import_now(*args: Any, **options: Any) -> Any:
    """The import statement takes it from the dict, where it may be exchanged meanwhile."""
    return builtins.__import__(*args, **options)
