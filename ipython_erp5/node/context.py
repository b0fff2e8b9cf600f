"""The notebook's variables while a cell runs: each is loaded when it is first asked for.

    stored context ── fetch(name) ─► Opened: the values of one group ─► namespace of the cell ── save() ─► `saving`
                                      │
                                      └─ definitions that it uses: their groups are opened first

What is promised: variables that share a mutable object still share it; a deleted name stays deleted; a variable that cannot be
saved costs itself, leaves a tombstone in `lost`, and is reported; one that cannot be loaded keeps its bytes. Not copied but
referred to (`References`): objects of the database, what the environment provides, the namespace itself.

A record's data is what `serializers` writes: its header names the serializer, so that each record is read by its own.
"""

import gc
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import diagnosis, report, serializers
from ..errors import NotSavedError
from .chunks import Buffers
from .definitions import Definitions
from .namespace import Namespace
from .references import References, Trace
from .stored import LAST_VALUES, SLOTS, Group, Root, StoredContext


@dataclass
class Opened:
    """A group of which the cell has the values."""

    group: Group
    values: dict[Root, object] = field(default_factory=dict)


class Context:
    """The variables of one notebook for the time of one cell, the `cell`th."""

    def __init__(self, stored: StoredContext, references: References, serializer: serializers.Serializer, namespace: Namespace,
                 cell: int) -> None:
        self.stored, self.references, self.serializer, self.names = stored, references, serializer, namespace
        self.namespace = namespace.dict
        self.definitions = Definitions(cell)
        self.buffers = Buffers(stored.chunks)
        self.opened: dict[int, Opened] = {}  # id(group) -> its values
        self.opening: list[Group] = []
        self.origin: dict[Root, Opened] = {}  # where the cell has a variable from
        self.seen: set[str] = set()  # asked for: one that is not there any more has been deleted
        self.failed: dict[str, str] = {}  # name -> why it cannot be loaded
        self.placeholders: set[str] = set()  # lost names that the cell may delete
        self.last: dict[str, str | None] = dict(zip(LAST_VALUES, stored.last, strict=True))
        self.overridden: set[str] = set()  # names that had a value when the cell began
        self.incomplete = False
        self.to_delete: set[str] = set()  # as soon as nothing is being loaded
        self.ready = False  # before that no code of the cell has run: a name that is not there has not been deleted
        namespace.shadow(stored.shadows)
        namespace.fetch_variable, namespace.fetch_all, namespace.fetch_to_delete = self.fetch, self.fetch_all, self.fetch_to_delete
        namespace.reason, namespace.shown = self.reason, self.shown

    # ------------------------------------------------------------ names
    def has(self, name: str) -> bool:
        """Whether there is a variable of this name, without loading it."""
        return self.root_of(name) is not None

    def root_of(self, name: str) -> str | None:
        root = self.last[name] if name in LAST_VALUES else None if name in SLOTS else name
        return root if root is not None and self.stored.groups.has_key(root) else None

    def reason(self, name: str) -> str | None:
        """Why there is no value for a name that the notebook had."""
        if name in self.failed:
            return self.failed[name]
        lost = None if name in self.placeholders else self.stored.lost.get(name)
        return None if lost is None else report.later_use(name, *lost)

    # ------------------------------------------------------------ load
    def begin(self, overridden: Collection[str]) -> None:
        """The setups are through, and the cell's own code comes. A variable wins over what a setup or the node has put there.

        What could not be loaded before may be loaded now.
        """
        self.failed.clear()
        self.overridden = set(overridden)
        for name in self.overridden:
            root = self.root_of(name)
            if root is None:
                continue
            given = self.namespace.pop(name)
            if name in self.seen and given is self.references.provided.get(name):   # a setup has had it, and then given its own
                given = self.origin[root].values[root]
            if not self.fetch(name):
                self.namespace[name] = given
        self.ready = True

    def fetch(self, name: str) -> bool:
        """Bring a variable into the namespace; False if there is none, it cannot be loaded, or the cell has had it.

        With it come the variables of its group, unless the cell has assigned them.
        """
        if name in self.seen or name in self.failed:
            return False
        root = self.root_of(name)
        if root is None:
            return False
        group = self.stored.groups[root]
        if any(group is other for other in self.opening):
            return False
        try:
            self.open(group)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a user's class raises
            self.cannot_load(group, error)
            return False
        return name in self.namespace

    def fetch_all(self) -> None:
        """Bring everything in; what waits for something that is just being loaded comes when that is there."""
        self.incomplete = False
        for name in [*self.stored.groups.keys(), *LAST_VALUES]:
            try:
                self.fetch(name)
            except Exception:
                self.incomplete = True

    def fetch_to_delete(self, names: Collection[str]) -> None:
        """Names in `del` statements of the cell; lost ones among them are given something to delete."""
        if self.opening:  # they may need what is being loaded
            self.to_delete.update(names)
            return
        for name in names:
            if not self.fetch(name) and self.reason(name) is not None and name not in self.namespace:
                self.namespace[name] = LOST
                self.placeholders.add(name)

    def cannot_load(self, group: Group, error: BaseException) -> None:
        if self.opening:  # perhaps only because of what is being loaded just now
            raise error
        reason = f'its saved value cannot be loaded: {type(error).__name__}: {error}'
        self.failed.update((name, report.later_use(name, reason, '')) for name in self.names_of(group).values())

    def open(self, group: Group) -> Opened:
        """The values of a group, the same ones for the whole cell."""
        opened = self.opened.get(id(group))
        if opened is None:
            values = self.being_opened(group)
            opened = self.opened[id(group)] = Opened(group, dict(zip(group.roots, values, strict=True)))
            self.arrive(opened)
            self.names.look_at_postponed()
            if self.incomplete and not self.opening:
                self.fetch_all()
            if self.to_delete and not self.opening:
                names, self.to_delete = self.to_delete, set()
                self.fetch_to_delete(names)
        return opened

    def being_opened(self, group: Group) -> list[Any]:
        """The collector of garbage would go through all objects again and again while many are made."""
        self.opening.append(group)
        self.names.busy += 1
        collecting = (group.body is not None or len(group.data) > SMALL) and gc.isenabled()
        if collecting:
            gc.disable()
        try:
            return self.load(group)
        finally:
            self.opening.pop()
            self.names.busy -= 1
            if collecting:
                gc.enable()

    def load(self, group: Group) -> list[Any]:
        blocks: dict[int, object] = {}

        def resolve(reference: Any) -> object:
            if reference[0] == 'definition':
                return self.definition(reference[1])
            if reference[0] in BLOCKS:
                kind, number = reference
                if number not in blocks:
                    blocks[number] = self.load_block(group, kind, number)
                return blocks[number]
            return self.references.resolve(reference)

        data = group.data if group.body is None else self.buffers.load(group.body)
        return serializers.load(data, resolve, [self.buffers.load(buffer) for buffer in group.buffers])  # type: ignore[arg-type]

    def load_block(self, group: Group, kind: str, number: int) -> bytes | bytearray:
        return BLOCKS[kind](self.buffers.load(group.blocks[number]))

    def definition(self, key: int) -> object:
        """A class or function of the notebook, from the record that has it."""
        if key not in self.definitions.objects:
            group = self.stored.definitions.get(key)
            if group is None or any(group is other for other in self.opening):
                raise NotSavedError('a class or function that it needs is not there')
            self.open(group)
        return self.definitions.objects[key]

    def arrive(self, opened: Opened) -> None:
        for root, value in opened.values.items():
            if isinstance(root, int):
                self.definitions.know(root, value)
                self.origin[root] = opened
        for root, name in self.names_of(opened.group).items():
            self.seen.add(name)
            self.failed.pop(name, None)
            self.origin[root] = opened
            self.namespace.setdefault(name, opened.values[root])

    def names_of(self, group: Group) -> dict[str, str]:
        """The variables that a group has for this cell: root -> name."""
        live = [root for root in self.stored.live(group) if isinstance(root, str)]
        if SLOTS.isdisjoint(live):
            return dict(zip(live, live, strict=True))
        slots = {slot: name for name, slot in self.last.items() if slot is not None}
        return {root: slots.get(root, root) for root in live if root in slots or root not in SLOTS}

    # ------------------------------------------------------------ the last values
    def shown(self, value: object) -> None:
        """A value has been shown: it is `_`, the one before is `__`, and the one before that `___`. None of them is loaded for it."""
        for older, newer in (('___', '__'), ('__', '_')):
            self.last[older] = self.last[newer]
            self.seen.discard(older)
            self.namespace.pop(older, None)
            if newer in self.seen or newer in self.namespace:
                self.seen.add(older)
            if newer in self.namespace:
                self.namespace[older] = self.namespace[newer]
        self.namespace['_'] = value
        self.last['_'] = None

    # ------------------------------------------------------------ values on their own
    def dump_alone(self, value: object) -> bytes | None:
        """The bytes of a value that needs no record of the notebook; None if it cannot be kept."""
        try:
            with self.names.working():
                return self.serializer.dump([value], Trace(self.references))
        except KeyboardInterrupt:
            raise
        except BaseException:  # whatever a user's class raises: `culprits` says what it was
            return None

    def culprits(self, name: str, value: object) -> list[diagnosis.Culprit]:
        with self.names.working():
            return diagnosis.diagnose(self.serializer, name, value, Trace(self.references))


SMALL = 4096  # bytes of a record, of which the collector of garbage need not know
BLOCKS: Mapping[str, Callable[[Any], bytes | bytearray]] = {'bytes': bytes, 'bytearray': bytearray}


class Lost:
    """Stands in the namespace for a lost variable that the cell may delete."""

    def __repr__(self) -> str:
        return '<a variable that was not saved>'


LOST = Lost()
