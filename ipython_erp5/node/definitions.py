"""Classes and functions of the notebook that records know by number instead of having a copy each.

    a value ─► serializer ─► RecordTrace: ─► References: has it a name? ─► the name stands in the bytes
                                         ─► Definitions: has it a key?  ─► ('definition', key)
                                         ─► large bytes                 ─► ('bytes', n), ('bytearray', n)
                                         ─► noted: what others could share

A class always has a key. A function gets one when a variable is bound to it, or when more than one record reaches it; any other
(a method, a closure) is kept where it is.
"""

import types
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ..live import by_value
from .chunks import MINIMUM
from .references import References, Trace

BLOCKS: frozenset[type] = frozenset({bytes, bytearray})
CELLS = 20  # bits of a key that number the definitions of one cell; above them stands the cell


class Definitions:
    """Those of one cell: which have been loaded, and which are new."""

    def __init__(self, cell: int) -> None:
        self.next_key = cell << CELLS
        self.objects: dict[int, Any] = {}  # key -> object
        self.keys: dict[int, int] = {}  # id(object) -> key
        self.copied: dict[int, tuple[object, bool]] = {}

    def know(self, key: int, value: object) -> None:
        self.objects[key] = value
        self.keys[id(value)] = key

    def key_of(self, value: object) -> int | None:
        """The key of a class or function, a new one for a class that has none; None for what is kept otherwise."""
        key = self.keys.get(id(value))
        return self.add(value) if key is None and isinstance(value, type) and self.is_copied(value) else key

    def add(self, value: object) -> int:
        key = self.keys.get(id(value))
        if key is None:
            key, self.next_key = self.next_key, self.next_key + 1
            self.know(key, value)
        return key

    def is_copied(self, value: Any) -> bool:
        """Whether it cannot be imported, so that records would have it by value."""
        known = self.copied.get(id(value))
        if known is None:
            known = self.copied[id(value)] = value, by_value(value)
        return known[1]


class RecordTrace(Trace):
    """The `reference` of one record's dump. `own`: the definitions that this record has."""

    def __init__(self, references: References, definitions: Definitions, own: Collection[int]) -> None:
        super().__init__(references)
        self.definitions, self.own = definitions, {id(definitions.objects[key]) for key in own}
        self.uses: dict[int, None] = {}
        self.starts: list[int] = []  # of each root in `visited`
        self.blocks: list[bytes | bytearray] = []
        self.numbers: dict[int, int] = {}
        self.known_types: set[type] | None = None

    def __call__(self, value: object) -> tuple[object, ...] | None:
        kind = self.references.kinds[type(value)]
        if kind == 'atom':
            return self.block(value) if type(value) is bytes and len(value) >= MINIMUM else None
        reference = self.references(value)
        if reference is not None:
            return reference
        if (kind == 'class' or kind == 'function') and id(value) not in self.own:
            key = self.definitions.key_of(value)
            if key is not None:
                self.uses[key] = None
                return 'definition', key
        self.visited.append(value)
        return self.block(value) if type(value) is bytearray and len(value) >= MINIMUM else None

    def block(self, value: bytes | bytearray) -> tuple[str, int]:
        number = self.numbers.setdefault(id(value), len(self.blocks))
        if number == len(self.blocks):
            self.blocks.append(value)
        return type(value).__name__, number

    def in_turn(self, values: Sequence[object]) -> 'InTurn':
        return InTurn(self, values)

    def segments(self) -> Iterator[list[object]]:
        """What was visited first on the way through each root."""
        for start, end in zip(self.starts, [*self.starts[1:], len(self.visited)], strict=True):
            yield self.visited[start:end]

    def functions(self) -> dict[int, Any]:
        """Functions of the notebook that the record keeps where they are."""
        if types.FunctionType not in self.types():
            return {}
        main = self.references.main
        return {id(value): value for value in self.visited
                if type(value) is types.FunctionType and id(value) not in self.own and value.__globals__ is main}

    def types(self) -> set[type]:
        if self.known_types is None:
            self.known_types = super().types()
        return self.known_types

    def settled(self) -> bool:
        """Whether the dump is what it should be."""
        return True


class QuickTrace(RecordTrace):
    """The `reference` of a dump that appends to `visited` by itself: for values that most likely refer to nothing."""

    def doubtful(self, value: object) -> bool:
        kind = self.references.kinds[type(value)]
        if kind == 'other' or kind == 'immutable':
            return id(value) in self.references.named
        return kind in ('persistent', 'wrapper') or id(value) not in self.own and (
            id(value) in self.references.named or self.definitions.key_of(value) is not None)

    def settled(self) -> bool:
        """Of containers and bytes nobody has asked before."""
        kinds = self.types()
        if kinds & BLOCKS and any(type(value) in BLOCKS and len(value) >= MINIMUM for value in self.visited):  # type: ignore[arg-type]
            return False
        return self.references.containers.isdisjoint(map(id, self.visited)) if self.references.containers else True


class InTurn(Sequence[object]):
    """The values of a dump, which notes where each begins."""

    def __init__(self, trace: RecordTrace, values: Sequence[object]) -> None:
        self.trace, self.values = trace, values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    def __iter__(self) -> Iterator[object]:
        for value in self.values:
            self.trace.starts.append(len(self.trace.visited))
            yield value
