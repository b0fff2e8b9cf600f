"""What a cell has left in its namespace, into the database.

    namespace ─► roots ─► `units`: examine ─► partition ─► groups ─► write those that changed
                                              roots that reach the same mutable object, or need each other

Examined is what the cell could have changed or linked. All other variables cost nothing: they are not looked at.
"""

import builtins
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .. import fidelity, report
from ..errors import StorageFullError
from .context import LOST, Context
from .sharing import Partition
from .stored import LAST_VALUES, SLOTS, Group, Root, now
from .units import Dump, Parts, Unit, Units, in_order

HEAVY = 1 << 20  # bytes of a definition, such as those of an array in its class, that count as one more


@dataclass
class Saved:
    """What was done: names, and a report for every variable that could not be saved."""

    saved: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    not_saved: list[report.NotSaved] = field(default_factory=list)


class Saving:
    """One save. `mine`: the user's variables; `suggest`: the code that would provide one instead; `limit`: bytes of a variable."""

    def __init__(self, context: Context, mine: Mapping[str, object], cell: int, suggest: Callable[[str], str], limit: int) -> None:
        self.context, self.stored, self.buffers = context, context.stored, context.buffers
        self.mine = {name: value for name, value in mine.items() if value is not LOST}
        self.cell, self.suggest = cell, suggest
        self.result = Saved()
        self.values: dict[Root, object] = {}
        self.names: dict[Root, str] = {}  # root -> what the user calls it
        self.examined = Units(context, self.values, self.names, limit)
        self.left: list[Group] = []  # groups that have lost a root

    def run(self) -> Saved:
        with self.context.names.working():
            self.find_roots()
            self.forget()
            self.examined.examine()
            units = {unit.roots: unit for unit in self.examined.units}
            for roots in self.partition():
                self.write(roots, units.get(roots))
            self.report()
            self.put_away()
        kept = self.names.keys() - self.examined.broken
        self.result.saved = sorted(self.names[root] for root in kept if self.names[root] not in LAST_VALUES)
        return self.result

    # ------------------------------------------------------------ roots
    def find_roots(self) -> None:
        for name, value in self.mine.items():
            if name not in LAST_VALUES:
                self.values[name], self.names[name] = value, name
        self.place_last_values()

    def place_last_values(self) -> None:
        """Those that are as they were keep their slots; the others take what is free."""
        last, origin = self.context.last, self.context.origin
        new = []
        for name in LAST_VALUES:
            root = last[name]
            if name not in self.mine:
                last[name] = None if name in self.context.seen else root
            elif root is not None and root in origin and origin[root].values[root] is self.mine[name]:
                self.values[root], self.names[root] = self.mine[name], name
            else:
                new.append(name)
                last[name] = None
        free = sorted(SLOTS - set(last.values()))
        for name in new:
            last[name] = slot = free.pop(0)
            self.values[slot], self.names[slot] = self.mine[name], name

    # ------------------------------------------------------------ which belong together
    def partition(self) -> list[tuple[Root, ...]]:
        if [len(unit.roots) for unit in self.examined.units] == [1]:
            return [self.examined.units[0].roots]
        parts: Partition[Root] = Partition([root for unit in self.examined.units for root in unit.roots])
        for unit in self.examined.units:
            if not unit.changed:
                parts.join_all(unit.roots)
        self.join_bound(parts)
        if len(parts.parts()) > 1:
            parts.join_sharing(self.examined.reached())
        alone = self.examined.uses
        parts.join_circles({root: alone.get(root, unit.dump.trace.uses) for unit in self.examined.units for root in unit.roots})
        return [in_order(part) for part in parts.parts()]

    def join_bound(self, parts: Partition[Root]) -> None:
        """A variable that is bound to a definition is in its record."""
        for root in parts.members:
            key = self.context.definitions.keys.get(id(self.values[root])) if isinstance(root, str) else None
            if key is not None and key in parts.members:
                parts.join(root, key)

    # ------------------------------------------------------------ write
    def write(self, roots: tuple[Root, ...], unit: Unit | None = None) -> None:
        """Put roots that belong together into one record; where that does not work out, each into its own."""
        if unit is not None and not unit.changed:
            return
        dump = unit.dump if unit is not None else self.examined.dump(roots)
        full = None
        try:
            if dump is not None:
                return self.write_record(self.record_for(roots), roots, dump, self.examined.store(dump))
        except StorageFullError as error:
            full = error
        if len(roots) > 1:
            for root in roots:
                self.write((root,))
        else:
            self.examined.broken.update(roots)
            self.examined.reasons[roots[0]] = [self.examined.culprit(roots[0], str(full))] if full else []

    def record_for(self, roots: tuple[Root, ...]) -> Group:
        """The record that has one of the roots, if it has no others but those that go away; else a new one."""
        for root in roots:
            group = self.stored.group_of(root)
            if group is not None and all(other in roots for other in self.stored.live(group)):
                return group
        return Group()

    def write_record(self, group: Group, roots: tuple[Root, ...], dump: Dump,
                     parts: Parts) -> None:
        old = list(group.stored_buffers())
        if group.uses and set(group.uses) - dump.trace.uses.keys():
            self.stored.loose += 1
        body, buffers, blocks = parts
        types = {root: fidelity.type_name(type(self.values[root])) for root in roots if isinstance(root, str)}
        group.change(roots=roots, uses=tuple(sorted(dump.trace.uses)), data=b'' if body is not None else dump.data, body=body,
                     buffers=buffers, blocks=blocks, types=types, cell=self.cell, modified=now())
        self.buffers.exchange(old, group.stored_buffers())
        for root in roots:
            before = self.stored.group_of(root)
            if before is not group:
                self.left.extend([before] if before is not None else [])
                self.stored.give(root, group)

    # ------------------------------------------------------------ what is gone
    def forget(self) -> None:
        """Stored variables whose name the cell has deleted, or given to something else."""
        context = self.context
        gone = context.seen - set(self.mine) - set(LAST_VALUES)
        new = context.references.provided.keys() - context.overridden  # of the others the variable was loaded, and so is in `seen`
        gone.update(name for name in new if name not in self.mine)
        gone.update(name for name in context.placeholders if name not in context.namespace)
        for name in sorted(gone):
            if self.remove(name):
                self.result.deleted.append(name)
        for name in [name for name in self.stored.lost if name in gone or name in self.mine or name in context.references.provided]:
            del self.stored.lost[name]

    def remove(self, root: Root) -> bool:
        group = self.stored.group_of(root)
        if group is not None:
            self.left.append(group)
            self.stored.take(root)
        return group is not None

    def report(self) -> None:
        """A tombstone for every variable that was not saved; the last values are nobody's variables."""
        for root in [root for root in self.values if root in self.examined.broken and isinstance(root, str)]:
            name, value = self.names[root], self.values[root]
            self.remove(root)
            if name in LAST_VALUES:
                self.context.last[name] = None
                continue
            kind = fidelity.type_name(type(value))
            culprits = self.examined.reasons.get(root) or self.context.culprits(name, value)
            suggestion = self.suggest(name)
            self.result.not_saved.append(report.NotSaved(name, kind, tuple(culprits), suggestion))
            reason = '; '.join(f'{culprit.path} → {culprit.type} ({culprit.reason})' for culprit in culprits)
            self.stored.lost[name] = reason or kind, suggestion

    def put_away(self) -> None:
        """Indexes that have changed, and buffers of groups that have lost their last root."""
        last = self.context.last['_'], self.context.last['__'], self.context.last['___']
        if last != self.stored.last:
            self.stored.last = last
            for slot in SLOTS - set(last):
                self.remove(slot)
        shadows = self.stored.shadows
        for name in vars(builtins).keys() & (self.mine.keys() | shadows):   # IPython has added some
            shadows = shadows | {name} if self.stored.groups.has_key(name) else shadows - {name}
        if shadows != self.stored.shadows:
            self.stored.shadows = shadows
        gone = {id(group): group for group in self.left if not self.stored.live(group)}
        if loose := sum(map(loosened, self.left)):
            self.stored.loose += loose
        for group in [*gone.values(), *(self.stored.sweep() if self.stored.sweep_is_due() else ())]:
            for buffer in group.stored_buffers():
                self.buffers.release(buffer)


def loosened(group: Group) -> int:
    """How many definitions a group may have made unneeded when it lost a root; large ones count for more, to go sooner."""
    if any(isinstance(root, int) for root in group.roots):
        return 1 + group.size() // HEAVY
    return bool(group.uses)


def save(context: Context, mine: Mapping[str, object], cell: int, suggest: Callable[[str], str], limit: int) -> Saved:
    """Write what the cell has changed; nothing if no code of it has run."""
    return Saving(context, mine, cell, suggest, limit).run() if context.ready else Saved()
