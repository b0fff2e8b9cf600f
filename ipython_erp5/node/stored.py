"""The variables of a notebook as the database keeps them.

    StoredContext   .groups       OOBTree name -> Group         which record has the variable
                    .definitions  LOBTree key -> Group          which record has a class or function of the notebook
                    .last         root of `_`, `__`, `___`      the last values, in three groups that take turns
                    .lost         OOBTree name -> (reason, code that provides it instead)
                    .chunks       Chunks                        the large buffers (see `chunks`)

A Group is one record: the roots whose values share mutable objects. A root is a variable (its name) or a definition (its key, a
number): a class of the notebook, or a function that a variable or several records know. Records know definitions by their keys,
so that the instances of a class need not be in one record with it.

`roots` says what `data` has, in order: the pickles of one `serializers` dump; long data are in `body` instead. A root that the
indexes give to another group is no longer this one's: its value in `data` is stale, and goes when the group is next written.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from BTrees.LOBTree import LOBTree
from BTrees.OOBTree import OOBTree
from persistent import Persistent

from .chunks import Chunks, StoredBuffer

Root = str | int
LAST_VALUES = ('_', '__', '___')
SLOTS = frozenset({'\0' '0', '\0' '1', '\0' '2'})  # roots of the last values: no variables that code can name
SWEEP = 100  # definitions that may have lost their last user, before all of them are looked at


class Group(Persistent):
    roots: tuple[Root, ...] = ()
    data = b''
    body: StoredBuffer | None = None
    buffers: tuple[StoredBuffer, ...] = ()  # of protocol 5, in the order in which the pickles take them
    blocks: tuple[StoredBuffer, ...] = ()  # bytes and bytearrays, by number
    uses: tuple[int, ...] = ()  # definitions of other groups
    cell = 0  # the line of the history that wrote it last
    modified = 0.0  # seconds since the epoch
    types: Mapping[Root, str] = MappingProxyType({})

    def __setstate__(self, state: dict[str, Any]) -> None:
        if 'names' in state:  # version 0.1.0 called them so, and had nothing but variables
            state['roots'] = state.pop('names')
        super().__setstate__(state)

    def change(self, **state: Any) -> None:
        """What is as usual is not written."""
        for name, value in state.items():
            if getattr(self, name) != value:
                setattr(self, name, value)

    def stored_buffers(self) -> Iterator[StoredBuffer]:
        yield from self.buffers
        yield from self.blocks
        if self.body is not None:
            yield self.body

    def size(self) -> int:
        return len(self.data) + sum(buffer.size for buffer in self.stored_buffers())


class StoredContext(Persistent):
    last: tuple[str | None, str | None, str | None] = (None, None, None)
    shadows: frozenset[str] = frozenset()  # variables with names of builtins
    loose = 0  # definitions that may have lost their last user
    swept = 0  # groups at the last sweep

    def __init__(self) -> None:
        self.groups = OOBTree()
        self.definitions = LOBTree()
        self.lost = OOBTree()
        self.chunks = Chunks()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**({} if 'definitions' in state else {'definitions': LOBTree(), 'chunks': Chunks()}), **state})

    # ------------------------------------------------------------ indexes
    def group_of(self, root: Root) -> Group | None:
        return self.definitions.get(root) if isinstance(root, int) else self.groups.get(root)

    def give(self, root: Root, group: Group) -> None:
        index = self.definitions if isinstance(root, int) else self.groups
        if index.get(root) is not group:
            index[root] = group

    def take(self, root: Root) -> None:
        del (self.definitions if isinstance(root, int) else self.groups)[root]

    def live(self, group: Group) -> tuple[Root, ...]:
        """The roots that are still this group's."""
        groups, definitions = self.groups.get, self.definitions.get
        return tuple([root for root in group.roots if (definitions if type(root) is int else groups)(root) is group])

    # ------------------------------------------------------------ definitions that nobody knows any more
    def sweep(self) -> list[Group]:
        """Forget definitions to which no variable leads; the groups that have lost their last root by it.

        Looks at every group, and so comes only after as many changes as there are groups.
        """
        self.loose, self.swept = 0, 0
        known: set[int] = set()
        todo: list[int] = []
        for group in self.groups.values():
            self.swept += 1
            todo += definitions_in(group)
        while todo:
            key = todo.pop()
            if key not in known:
                known.add(key)
                group = self.definitions.get(key)
                todo += () if group is None else definitions_in(group)
        gone = [(key, group) for key, group in self.definitions.items() if key not in known]
        for key, _ in gone:
            del self.definitions[key]
        groups = {id(group): group for _, group in gone}
        return [group for group in groups.values() if not self.live(group)]

    def sweep_is_due(self) -> bool:
        return self.loose > SWEEP + self.swept

    # ------------------------------------------------------------ a look at it
    def describe(self) -> list[dict[str, Any]]:
        """One entry a variable; no value is read.

        `name`, `type`, `size` (bytes of its record with all buffers), `group` (the same number: one record), `cell` (the line that wrote
        it last), `modified` (when: seconds since the epoch), `shares` (the others in its record).
        """
        numbers: dict[int, int] = {}
        entries = []
        for name, group in self.groups.items():
            if name not in SLOTS and name not in LAST_VALUES:
                others = [other for other in group.roots if isinstance(other, str) and other not in (name, *SLOTS, *LAST_VALUES)
                          and self.groups.get(other) is group]
                entries.append({'name': name, 'type': group.types.get(name, ''), 'size': group.size(), 'cell': group.cell,
                                'group': numbers.setdefault(id(group), len(numbers) + 1), 'modified': group.modified, 'shares': others})
        return entries


def is_variable(root: Root) -> bool:
    """Not a definition, and not a last value."""
    return isinstance(root, str) and root not in SLOTS


def definitions_in(group: Group) -> Iterable[int]:
    return [*group.uses, *(root for root in group.roots if isinstance(root, int))]


def now() -> float:
    return time.time()
