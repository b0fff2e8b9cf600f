"""What a cell could have changed or linked, as bytes: the groups that it opened and the variables that it assigned.

    roots ─► units ─────────► dump each: bytes, buffers, and a trace of what was visited ─► changed?
             an opened group,    │                                                           │
             or one new variable └─ definitions it uses: units too                           └─ does it come back as what it was?

Roots that cannot be saved end in `broken`, with what is known against them in `reasons`.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pickle import PickleBuffer

from .. import amounts, diagnosis, fidelity
from ..errors import ReferenceNeededError, StorageFullError
from .chunks import MINIMUM, StoredBuffer
from .context import Context, Opened
from .definitions import QuickTrace, RecordTrace
from .references import ATOMS, Trace
from .sharing import Partition
from .stored import Group, Root

# where the large parts of a record are stored: its data, its buffers, its blocks
Parts = tuple[StoredBuffer | None, tuple[StoredBuffer, ...], tuple[StoredBuffer, ...]]


@dataclass
class Dump:
    data: bytes
    trace: RecordTrace
    buffers: list[PickleBuffer]
    stored: Parts | None = None

    def size(self) -> int:
        return len(self.data) + sum(buffer.raw().nbytes for buffer in self.buffers) + sum(map(len, self.trace.blocks))


@dataclass
class Unit:
    """Roots that are dumped together, in order: those of an opened group that the cell has left as they were bound, or a new one."""

    roots: tuple[Root, ...]
    opened: Opened | None
    dump: Dump
    changed: bool = True


def in_order(roots: Iterable[Root]) -> tuple[Root, ...]:
    """Definitions first: then a variable that is bound to one refers to it."""
    return tuple(sorted(roots, key=lambda root: (isinstance(root, str), root)))


class Units:
    """Those of one cell. `values`: of all roots, to which definitions are added; `names`: what the user calls them; `limit`: bytes."""

    def __init__(self, context: Context, values: dict[Root, object], names: dict[Root, str], limit: int) -> None:
        self.context, self.stored, self.buffers = context, context.stored, context.buffers
        self.values, self.names, self.limit = values, names, limit
        self.units: list[Unit] = []
        self.broken: set[Root] = set()  # cannot be saved
        self.reasons: dict[Root, list[diagnosis.Culprit]] = {}
        self.uses: dict[Root, set[int]] = {}  # of roots that were dumped together: also the definitions among them

    def examine(self) -> None:
        self.dump_units()
        self.find_changed()

    # ------------------------------------------------------------ dump
    def dump_units(self) -> None:
        placed: dict[tuple[Root, ...], Opened] = {}
        for opened in self.context.opened.values():
            kept = [root for root in self.stored.live(opened.group) if isinstance(root, int) or self.unbound(root, opened)]
            self.values.update((root, opened.values[root]) for root in kept)
            if kept:
                placed[in_order(kept)] = opened
        new = self.new_roots({root for roots in placed for root in roots})  # first: what they define has its key in every dump
        for roots, opened in placed.items():
            if not self.cannot_have_changed(roots, opened):
                self.dump_unit(roots, opened)
        for roots in new:
            self.dump_unit(roots, None)
        self.dump_definitions()
        while self.share_functions():
            self.dump_definitions()
        self.spread_failures()

    def cannot_have_changed(self, kept: tuple[Root, ...], opened: Opened) -> bool:
        """Numbers and texts, which nobody changes and by which nobody is linked."""
        return kept == opened.group.roots and all(type(opened.values[root]) in ATOMS for root in kept)

    def unbound(self, root: Root, opened: Opened) -> bool:
        """Whether a variable is bound to what was loaded."""
        return root in self.values and self.values[root] is opened.values[root]

    def new_roots(self, placed: set[Root]) -> list[tuple[Root, ...]]:
        """New variables one by one, but a function or class together with the names that are bound to it."""
        bound: dict[int, list[Root]] = {}
        alone: list[tuple[Root, ...]] = []
        for root, value in self.values.items():
            if root in placed:
                continue
            key = self.key_of(value)
            if key is None or key in placed:
                alone.append((root,))
            else:
                bound.setdefault(key, [key]).append(root)
        self.values.update((key, self.context.definitions.objects[key]) for key in bound)
        return [*alone, *map(in_order, bound.values())]

    def key_of(self, value: object) -> int | None:
        """The key of a class or function of the notebook to which a variable is bound."""
        kind = self.context.references.kinds[type(value)]
        if kind not in ('class', 'function') or self.context.references(value) is not None:
            return None
        known = self.context.definitions
        mine = kind == 'class' or getattr(value, '__globals__', None) is self.context.namespace
        return known.add(value) if mine and known.is_copied(value) else None

    def dump_definitions(self) -> None:
        """Classes and functions that the dumps use and that have no record yet, and what these use."""
        while new := {key for unit in self.units for key in unit.dump.trace.uses} - self.values.keys():
            for key in sorted(new):
                self.values[key] = self.context.definitions.objects[key]
                self.dump_unit((key,), None)

    def dump_unit(self, roots: tuple[Root, ...], opened: Opened | None) -> None:
        dump = self.dump(roots)
        if dump is not None and dump.size() <= self.limit:
            self.units.append(Unit(roots, opened, dump))
        elif len(roots) > 1:
            for root in roots:
                self.dump_unit((root,), None)
        else:
            self.broken.update(roots)
            if dump is not None:
                self.reasons[roots[0]] = [self.too_large(roots[0], dump.size())]

    def dump(self, roots: tuple[Root, ...]) -> Dump | None:
        """None if they cannot be saved. First in a way that is quicker for plain data, and that gives up where something is referred to."""
        if self.context.serializer.quick:
            with contextlib.suppress(ReferenceNeededError):
                dump = self.dump_with(QuickTrace, roots)
                if dump is None or dump.trace.settled():
                    return dump
        return self.dump_with(RecordTrace, roots)

    def dump_with(self, make_trace: type[RecordTrace], roots: tuple[Root, ...]) -> Dump | None:
        context = self.context
        trace = make_trace(context.references, context.definitions, [root for root in roots if isinstance(root, int)])
        buffers: list[PickleBuffer] = []

        def keep(buffer: PickleBuffer) -> bool:
            """False: the buffer is not part of the pickle."""
            if buffer.raw().nbytes < MINIMUM:
                return True
            buffers.append(buffer)
            return False

        try:
            data = context.serializer.dump(trace.in_turn([self.values[root] for root in roots]), trace, keep)
        except (KeyboardInterrupt, ReferenceNeededError):
            raise
        except BaseException:  # whatever a user's class raises: the diagnosis says what it was
            return None
        return Dump(data, trace, buffers)

    def too_large(self, root: Root, size: int) -> diagnosis.Culprit:
        reason = (f'{amounts.size(size)}, more than the {amounts.size(self.limit)} that a variable may have here (--variable-limit): '
                  'keep it in a file or in the database, or in smaller parts')
        return self.culprit(root, reason)

    def culprit(self, root: Root, reason: str) -> diagnosis.Culprit:
        return diagnosis.Culprit(self.names.get(root, ''), fidelity.type_name(type(self.values[root])), reason)

    def share_functions(self) -> bool:
        """Functions that more than one record reaches get a key, and the records are dumped anew; False if there are none."""
        if len(self.units) < 2:
            return False
        owners: dict[int, list[Unit]] = {}
        functions = {}
        for unit in self.units:
            for identity, function in unit.dump.trace.functions().items():
                owners.setdefault(identity, []).append(unit)
                functions[identity] = function
        shared = {identity for identity, units in owners.items() if len(units) > 1}
        for identity in shared:
            self.context.definitions.add(functions[identity])
        again = {id(unit): unit for identity in shared for unit in owners[identity]}
        self.units = [unit for unit in self.units if id(unit) not in again]
        for unit in again.values():
            self.dump_unit(unit.roots, unit.opened)
        return bool(shared)

    def spread_failures(self) -> None:
        """What uses a definition that cannot be saved could not be loaded again."""
        while failing := [unit for unit in self.units if not self.broken.isdisjoint(unit.dump.trace.uses)]:
            self.units = [unit for unit in self.units if unit not in failing]
            for unit in failing:
                if len(unit.roots) == 1:
                    self.broken.update(unit.roots)
                else:
                    for root in unit.roots:
                        self.dump_unit((root,), None)

    # ------------------------------------------------------------ what has changed
    def find_changed(self) -> None:
        for unit in list(self.units):
            unit.changed = not self.is_stored(unit)
            if unit.changed:
                self.doubt(unit)

    def is_stored(self, unit: Unit) -> bool:
        """Whether the record of these roots has these bytes; large buffers are looked at last."""
        group = unit.opened.group if unit.opened is not None else self.stored.group_of(unit.roots[0])
        if group is None or group.roots != unit.roots or not self.same(group, unit.dump):
            return False
        try:
            return self.store(unit.dump) == (group.body, group.buffers, group.blocks)
        except StorageFullError:
            return False

    def same(self, group: Group, dump: Dump) -> bool:
        """Whether a record has these bytes, as far as that is seen without a look into large buffers."""
        return (group.uses == tuple(sorted(dump.trace.uses)) and (group.data == dump.data or group.body is not None)
                and len(group.buffers) == len(dump.buffers) and len(group.blocks) == len(dump.trace.blocks))

    def store(self, dump: Dump) -> Parts:
        """Large parts of a dump, where they are or will be stored: (of its data, of its buffers, of its blocks)."""
        if dump.stored is None:
            body = self.buffers.store(memoryview(dump.data)) if len(dump.data) >= MINIMUM else None
            buffers = tuple(self.buffers.store(buffer.raw()) for buffer in dump.buffers)
            dump.stored = body, buffers, tuple(self.buffers.store(memoryview(block)) for block in dump.trace.blocks)
        return dump.stored

    def doubt(self, unit: Unit) -> None:
        """Take out what would be loaded as something else; looked at only where a class could lie and the bytes are new."""
        if not diagnosis.needs_verify(unit.dump.trace.kinds()):
            return
        found = self.not_coming_back(unit)
        if not found:
            return
        self.units.remove(unit)
        for root in unit.roots:
            if root in found:
                self.broken.add(root)
                self.reasons[root] = found[root]
            else:
                self.dump_unit((root,), None)
        self.spread_failures()

    def not_coming_back(self, unit: Unit) -> dict[Root, list[diagnosis.Culprit]]:
        context, found = self.context, dict[Root, list[diagnosis.Culprit]]()
        blocks = unit.dump.trace.blocks

        def resolve(reference: tuple[object, ...]) -> object:
            kind, number = reference[0], reference[-1]
            if kind in ('bytes', 'bytearray') and isinstance(number, int):
                return blocks[number]
            return context.definition(number) if kind == 'definition' and isinstance(number, int) else context.references.resolve(reference)

        names = [self.names.get(root, getattr(self.values[root], '__name__', 'definition')) for root in unit.roots]
        views = [buffer.raw().toreadonly() for buffer in unit.dump.buffers]
        for index, culprit in diagnosis.verify(context.serializer, [self.values[root] for root in unit.roots], unit.dump.data,
                                               Trace(context.references), resolve, names, views):
            found.setdefault(unit.roots[index], []).append(culprit)
        return found

    # ------------------------------------------------------------ what they share
    def reached(self) -> dict[Root, set[int]]:
        """The mutable objects that each root reaches; of a group that has not changed, only that of the whole."""
        found: dict[Root, set[int]] = {}
        for unit in self.units:
            if unit.changed and len(unit.roots) > 1:
                found.update(self.reached_by_each(unit))
            else:
                found[unit.roots[0]] = unit.dump.trace.mutable()
        return found

    def reached_by_each(self, unit: Unit) -> dict[Root, set[int]]:
        """A dump goes into each object once. So what a later root visits shows that it shares with earlier ones, but not that it
        does not: where they seem to be apart, each is dumped on its own."""
        trace = unit.dump.trace
        visited = {root: trace.mutable(segment) for root, segment in zip(unit.roots, trace.segments(), strict=True)}
        parts: Partition[Root] = Partition(unit.roots)
        parts.join_sharing(visited)
        if len(parts.parts()) == 1:
            return visited
        alone = {root: self.dump((root,)) for root in unit.roots}
        self.uses.update((root, set(dump.trace.uses)) for root, dump in alone.items() if dump is not None)
        return {root: visited[root] if dump is None else dump.trace.mutable() for root, dump in alone.items()}
