"""Which objects inside a value cannot be kept, the paths that lead to them, and whether a value comes back as what it was.

No pickler names its culprit, but every pickler asks `persistent_id` about each object that it visits. So, only after a dump
has failed:

    value ─► dump, recording every visit ─► fails ─► the last object visited whose own reduction fails: its type is suspect
               ▲                                                            │
               └── again; each object of a suspect type whose own reduction fails is a culprit and gets a placeholder ◄─┘
             ─► passes: all culprits are known ─► breadth first through what was visited ─► the shortest path of each

"Its own reduction" is a dump of the object with a placeholder for everything inside it: it costs what the object itself has,
not what hangs on it. What a `__reduce__` makes afresh has no path of its own: its maker is blamed. Whatever a user's code
raises, but `KeyboardInterrupt`, is a reason and not a failure of the diagnosis.

`verify` finds what a pickler takes without complaint and does not give back: it loads the bytes and dumps what it got.
"""

import io
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import EnumMeta
from typing import Any

from .fidelity import HOOKS, error_text, type_name, unfaithful
from .paths import ATOMS, Link, reduces, walk
from .serializers import Reference, Resolve, Serializer

__all__ = ['Culprit', 'diagnose', 'needs_verify', 'type_name', 'unfaithful', 'verify']

LIMIT = 20          # culprits reported of one variable
EXPANSIONS = 1000   # objects looked at below one maker of fresh objects
PLACEHOLDER = ()    # empty: a pickler also visits what is in a persistent id


@dataclass(frozen=True)
class Culprit:
    """`path`: as Python would write it (`results['model'].hooks[3].cb`); `type`: qualified, builtins bare (`_thread.lock`)."""

    path: str
    type: str
    reason: str


# ---------------------------------------------------------------- every culprit
def diagnose(serializer: Serializer, name: str, value: object, reference: Reference) -> list[Culprit]:
    """Every object inside `value` that the serializer refuses, in the order in which it would meet them; [] if it takes all.

    At most LIMIT of them; the last one then is `and N more`, without a type.
    """
    search = _Search(serializer, reference)
    unexplained = search.run(value)
    found = _located(search, name, value)
    if unexplained is not None:
        found.append(Culprit(name, type_name(type(value)), _whole(unexplained)))
    return found


def _whole(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return 'nested too deeply to be saved'
    return error_text(error)


class _Search:
    """Dumps until every object that fails by itself has a placeholder. `seen`: the visits of the last dump, in order."""

    def __init__(self, serializer: Serializer, reference: Reference) -> None:
        self.serializer, self.reference = serializer, reference
        self.suspects: dict[int, type] = {}
        self.seen: list[object] = []
        self.found: dict[int, tuple[int, object, BaseException]] = {}

    def run(self, value: object) -> BaseException | None:
        """The error that no single object explains, if one remains."""
        while True:
            self.seen, self.found = [], {}
            error = self.attempt(value, self.visit)
            if error is None:
                return None
            culprit = next((obj for obj in reversed(self.seen) if reduces(obj) and self.own_error(obj)), None)
            if culprit is None or id(type(culprit)) in self.suspects:
                return error
            self.suspects[id(type(culprit))] = type(culprit)

    def attempt(self, value: object, visit: Callable[[object], object]) -> BaseException | None:
        try:
            self.serializer.pickler(io.BytesIO(), visit).dump(value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return error
        return None

    def visit(self, obj: object) -> object:
        self.seen.append(obj)
        if id(obj) in self.found:
            return PLACEHOLDER
        error = self.own_error(obj) if id(type(obj)) in self.suspects else None
        if error is not None:
            self.found[id(obj)] = len(self.seen), obj, error
            return PLACEHOLDER
        return self.reference(obj)

    def own_error(self, obj: object) -> BaseException | None:
        """What the reduction of this object alone raises."""
        return self.attempt(obj, lambda inner: self.reference(obj) if inner is obj else PLACEHOLDER)

    def parts(self, obj: object) -> list[object]:
        """What the reduction of this object alone hands to the pickler."""
        parts: list[object] = []

        def visit(inner: object) -> object:
            if inner is obj:
                return None
            parts.append(inner)
            return PLACEHOLDER

        self.attempt(obj, visit)
        return parts

    def makes(self, parent: object, kind: type, known: dict[int, Link]) -> bool:
        """Whether the reduction of `parent` makes an object of this type afresh."""
        todo, made = [parent], [parent]
        while todo and len(made) < EXPANSIONS:
            for part in self.parts(todo.pop()):
                if id(part) in known or type(part) in ATOMS:
                    continue
                if type(part) is kind:
                    return True
                todo.append(part)
                made.append(part)
        return False


def _located(search: _Search, name: str, value: object) -> list[Culprit]:
    links = walk(value, name, {id(obj) for obj in search.seen})
    found: dict[tuple[str, str], Culprit] = {}
    rest = list(search.found.values())
    for position, obj, error in rest[:LIMIT]:
        reason = unfaithful(obj, search.serializer.name) or error_text(error)
        culprit = Culprit(_path(search, links, position, obj, name), type_name(type(obj)), reason)
        found.setdefault((culprit.path, culprit.type), culprit)
    more = [Culprit(f'and {len(rest) - LIMIT} more', '', '')] if len(rest) > LIMIT else []
    return [*found.values(), *more]


def _path(search: _Search, links: dict[int, Link], position: int, obj: object, name: str) -> str:
    if id(obj) in links:
        return links[id(obj)].path()
    for parent in reversed(search.seen[:position - 1]):
        if id(parent) in links and reduces(parent) and search.makes(parent, type(obj), links):
            return f'{links[id(parent)].path()} (in the state its {type(parent).__name__} type hands to pickle)'
    return f'{name} (in the state that it hands to pickle)'


# ---------------------------------------------------------------- what comes back
def verify(serializer: Serializer, values: Sequence[object], data: bytes, reference: Reference, resolve: Resolve,
           names: Sequence[str] = (), buffers: Iterable[Any] | None = None) -> list[tuple[int, Culprit]]:
    """What in `data`, the dump of `values`, cannot be loaded or is loaded as another type: (index of the value, culprit).

    `names`: where the paths begin, one for each value. The types are compared in number, by the visits of a second dump.
    """
    names = names or ['value'] * len(values)
    try:
        loaded = serializer.load(data, resolve, buffers)
    except Exception as error:
        return [(index, culprit) for index, value in enumerate(values)
                for culprit in _Return(serializer, reference, resolve, names[index]).unloadable(value, error, len(values) == 1)]
    return [(index, culprit) for index, (value, again) in enumerate(zip(values, loaded, strict=True))
            for culprit in _Return(serializer, reference, resolve, names[index]).changed(value, again)]


class _Return:
    """The way of one value to bytes and back."""

    def __init__(self, serializer: Serializer, reference: Reference, resolve: Resolve, name: str) -> None:
        self.serializer, self.reference, self.resolve, self.name = serializer, reference, resolve, name
        self.broken: dict[int, object] = {}

    def visits(self, value: object) -> tuple[list[object], BaseException | None]:
        search = _Search(self.serializer, self.reference)
        error = search.attempt(value, search.visit)
        return search.seen, error

    def changed(self, value: object, again: object) -> list[Culprit]:
        """The objects whose types are missing from what was loaded."""
        before, after = type_name(type(value)), type_name(type(again))
        if before != after:
            return [Culprit(self.name, before, f'it would come back as {after}')]
        visited, _ = self.visits(value)
        visited_again, error = self.visits(again)
        if error is not None:
            return [Culprit(self.name, before, f'what comes back cannot be saved again: {error_text(error)}')]
        missing = Counter(_doubted(visited)) - Counter(_doubted(visited_again))
        lost = {id(obj): obj for obj in visited if type_name(type(obj)) in missing}
        return self.culprits(value, visited, lost, 'it would come back as something else')

    def culprits(self, value: object, visited: Iterable[object], found: dict[int, object], reason: str) -> list[Culprit]:
        if not found:
            return []
        links = walk(value, self.name, {id(obj) for obj in visited})
        return [Culprit(links[key].path() if key in links else f'{self.name} (in the state that it hands to pickle)',
                        type_name(type(obj)), reason) for key, obj in list(found.items())[:LIMIT]]

    def unloadable(self, value: object, error: BaseException, alone: bool) -> list[Culprit]:
        """The innermost objects that cannot be loaded. `alone`: there is no other value that `error` could be of."""
        if not alone and self.loads(value) is None:
            return []
        visited, _ = self.visits(value)
        doubted = {id(obj): obj for obj in visited if not _trusted(type(obj))}
        for obj in reversed(list(doubted.values())[-EXPANSIONS:]):  # what is inside was visited later
            if self.loads(obj) is not None:
                self.broken[id(obj)] = obj
        reason = f'it pickles, but cannot be loaded: {error_text(error)}'
        return self.culprits(value, visited, self.broken, reason) or [Culprit(self.name, type_name(type(value)), reason)]

    def loads(self, obj: object) -> BaseException | None:
        """What a round trip of this object raises, with placeholders for the broken ones that are known."""
        file = io.BytesIO()

        def visit(inner: object) -> object:
            return PLACEHOLDER if id(inner) in self.broken else self.reference(inner)

        try:
            self.serializer.pickler(file, visit).dump(obj)
            file.seek(0)
            self.serializer.unpickler(file, lambda key: None if key == PLACEHOLDER else self.resolve(key)).load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return error
        return None


def _doubted(visited: Iterable[object]) -> list[str]:
    return [type_name(kind) for kind in map(type, visited) if not _trusted(kind)]


def needs_verify(kinds: Iterable[type]) -> bool:
    """Whether values made of objects of these types could come back as something else without anybody having noticed."""
    return not all(map(_trusted, kinds))


TRUSTED = sys.stdlib_module_names | {'BTrees', 'dateutil', 'ipython_erp5', 'matplotlib', 'numpy', 'pandas', 'persistent', 'pyarrow',
                                     'pytz', 'scipy', 'sklearn'}
PLAIN_BASES = {'object', 'abc.ABC', 'typing.Generic', 'typing.Protocol'}
LOADING_HOOKS = HOOKS | {'__setstate__', '__new__', '__setattr__', '__getattr__', '__getattribute__', '__hash__', '__class__',
                         '__init_subclass__'}  # which is called after all where Python does not exchange the bases


def _trusted(kind: type) -> bool:
    """Types of well-known libraries, and classes of anybody that leave pickling to Python. Exceptions are asked: many that
    have an `__init__` of their own cannot be loaded. So are enumerations: their metaclass makes them again from their values."""
    if kind is EnumMeta:
        return False
    if issubclass(kind, BaseException):
        return kind.__module__ == 'builtins'
    if type_name(kind) in PLAIN_BASES or _package(kind) in TRUSTED:
        return True
    if _package(type(kind)) not in TRUSTED:
        return False
    return all(type_name(base) in PLAIN_BASES or _leaves_pickling(base) for base in type.__getattribute__(kind, '__mro__'))


def _leaves_pickling(base: type) -> bool:
    own = type.__getattribute__(base, '__dict__')
    return _package(base) not in TRUSTED and not any(own.get(hook) is not None for hook in LOADING_HOOKS)


def _package(kind: type) -> str:
    name = type_name(kind)
    return name.partition('.')[0] if '.' in name.replace('<locals>.', '') and kind.__module__ != 'builtins' else 'builtins'
