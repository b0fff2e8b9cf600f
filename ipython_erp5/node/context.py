"""The notebook's variables in the database, and in the namespace while a cell runs.

    stored context ── fill() ─► namespace of the cell ── save() ─► stored context
      name -> Group                                                  dump every variable, trace what it visits
      Group: names, bytes                                            variables that visit the same mutable object: one Group
      lost:  name -> why                                             a Group is written only when its bytes have changed

What is promised: variables that share a mutable object still share it; a deleted name stays deleted; a variable that cannot be
saved costs itself, leaves a tombstone in `lost`, and is reported; one that cannot be loaded keeps its bytes. Not copied but
referred to (`References`): objects of the database, what the environment provides, the namespace itself.

A record's data is what `serializers` writes: its header names the serializer, so that each record is read by its own.
"""

import builtins
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from BTrees.OOBTree import OOBTree
from persistent import Persistent

from .. import diagnosis, fidelity, report, serializers
from ..errors import NotSavedError
from .references import References, Trace

LAST_VALUES = frozenset({'_', '__', '___'})


class Group(Persistent):
    """Variables that share mutable objects. `data`: their values in the order of `names`, in the serializer's format."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.data = b''
        self.types: dict[str, str] = {}
        self.cell = 0  # the line of the history that wrote it last


class StoredContext(Persistent):
    def __init__(self) -> None:
        self.groups = OOBTree()  # name -> Group
        self.lost = OOBTree()  # name -> (reason, code that provides it instead)

    def describe(self) -> list[dict[str, Any]]:
        """One entry a variable: `name`, `type`, `size` (bytes of its record), `cell`, `shares` (the others in its record)."""
        return [{'name': name, 'type': group.types.get(name, ''), 'size': len(group.data), 'cell': group.cell,
                 'shares': [other for other in group.names if other != name and other not in LAST_VALUES]}
                for name, group in self.groups.items() if name not in LAST_VALUES]


# ---------------------------------------------------------------- the namespace of a cell
class LostNames(dict[str, Any]):
    """`__builtins__` of a cell of a notebook that has lost variables: a name that is nowhere else says why it is not there."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__(vars(builtins))
        self.reasons = reasons

    def __missing__(self, name: str) -> Any:
        if name in vars(builtins):  # what IPython has put there for this cell
            return vars(builtins)[name]
        if name in self.reasons:
            raise NotSavedError(self.reasons[name])
        raise KeyError(name)


@dataclass
class Saved:
    """What `Context.save` did: names, and a report for every variable that could not be saved."""

    saved: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    not_saved: list[report.NotSaved] = field(default_factory=list)


@dataclass
class Dump:
    names: tuple[str, ...]
    data: bytes
    trace: Trace


class Context:
    """The variables of one notebook for the time of one cell."""

    def __init__(self, stored: StoredContext, references: References, serializer: serializers.Serializer) -> None:
        self.stored, self.references, self.serializer = stored, references, serializer
        self.namespace = references.module.__dict__
        self.values: dict[str, object] = {}
        self.failed: dict[str, str] = {}  # name -> why it cannot be loaded
        self.filled = False  # before that no code of the cell has run: a name that is not there has not been deleted
        self.placeholders: set[str] = set()  # lost names that the cell may delete
        self.reasons: dict[str, str] = {name: report.later_use(name, *lost) for name, lost in stored.lost.items()}
        if self.reasons:
            self.watch()

    def watch(self) -> None:
        """From here on a lost name says why. Functions that were made before do not know."""
        self.namespace['__builtins__'] = LostNames(self.reasons)

    def names(self) -> set[str]:
        return set(self.stored.groups)

    # ------------------------------------------------------------ load
    def need(self, names: Collection[str]) -> None:
        """Load these variables, where stored, before the setups are through: one that cannot be loaded yet is tried again later."""
        for name in names:
            group = self.stored.groups.get(name)
            if group is not None and name not in self.values:
                self.load(group)

    def fill(self, deleted: Iterable[str] = ()) -> None:
        """Load everything, also what could not be loaded before the setups. A variable wins over what a setup or the node has put there.

        `deleted`: names in `del` statements of the cell; lost ones among them are given something to delete.
        """
        self.failed.clear()
        for name, group in list(self.stored.groups.items()):
            if name not in self.values and name not in self.failed:
                self.load(group)
        self.namespace.update(self.values)
        if self.failed:
            self.reasons.update(self.failed)
            self.watch()
        for name in deleted:
            if name in self.reasons and name not in self.namespace:
                self.namespace[name] = LOST
                self.placeholders.add(name)
        self.filled = True

    def load(self, group: Group) -> None:
        try:
            values = serializers.load(group.data, self.references.resolve)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a user's class raises
            reason = f'{type(error).__name__}: {error}'
            self.failed.update((name, report.later_use(name, f'its saved value cannot be loaded: {reason}', '')) for name in group.names)
            return
        for name in group.names:
            self.failed.pop(name, None)
        self.values.update(zip(group.names, values, strict=True))
        self.namespace.update(zip(group.names, values, strict=True))

    # ------------------------------------------------------------ save
    def save(self, mine: Mapping[str, object], cell: int, suggest: Callable[[str], str]) -> Saved:
        """Write the variables `mine` and forget those that are gone. `suggest`: the code that would provide a variable instead."""
        result = Saved()
        if not self.filled:
            return result
        values = {name: value for name, value in mine.items() if value is not LOST}
        dumps = self.dump_all(values, result, suggest)
        for dump in dumps:
            self.write(dump, values, cell)
        saved = {name for dump in dumps for name in dump.names}
        self.forget(saved, result)
        self.bury(result)
        result.saved = sorted(saved - LAST_VALUES)
        return result

    def dump_all(self, values: Mapping[str, object], result: Saved, suggest: Callable[[str], str]) -> list[Dump]:
        """Every variable on its own, then those that share something in one dump."""
        single: dict[str, Dump] = {}
        for name, value in values.items():
            dump = self.attempt((name,), values)
            culprits = self.culprits(name, value) if dump is None else self.not_coming_back(dump, value)
            if dump is None or culprits:
                result.not_saved.append(report.NotSaved(name, fidelity.type_name(type(value)), tuple(culprits), suggest(name)))
            else:
                single[name] = dump
        dumps = []
        for names in partition({name: dump.trace.mutable() for name, dump in single.items()}):
            together = self.attempt(names, values) if len(names) > 1 else None
            dumps.extend([together] if together is not None else [single[name] for name in names])
        return dumps

    def attempt(self, names: tuple[str, ...], values: Mapping[str, object]) -> Dump | None:
        trace = Trace(self.references)
        try:
            return Dump(names, self.serializer.dump([values[name] for name in names], trace), trace)
        except KeyboardInterrupt:
            raise
        except BaseException:  # whatever a user's class raises: `culprits` says what it was
            return None

    def culprits(self, name: str, value: object) -> list[diagnosis.Culprit]:
        return diagnosis.diagnose(self.serializer, name, value, Trace(self.references))

    def not_coming_back(self, dump: Dump, value: object) -> list[diagnosis.Culprit]:
        """What would be loaded as something else; looked at only where a class could lie and the bytes are new."""
        old = self.stored.groups.get(dump.names[0])
        if old is not None and old.data == dump.data or not diagnosis.needs_verify(dump.trace.kinds()):
            return []
        return [culprit for _, culprit in diagnosis.verify(self.serializer, [value], dump.data, Trace(self.references),
                                                           self.references.resolve, dump.names)]

    def forget(self, saved: set[str], result: Saved) -> None:
        """Stored variables and tombstones whose name the cell has deleted, or given to something else."""
        for name in self.names() - saved - set(self.failed):
            del self.stored.groups[name]
            result.deleted.append(name)
        for name in set(self.stored.lost):
            if name in saved or name in self.references.provided or name in self.placeholders and name not in self.namespace:
                del self.stored.lost[name]
        for name in set(self.failed) & (saved | self.placeholders - set(self.namespace)):
            if name not in saved:
                del self.stored.groups[name]

    def write(self, dump: Dump, values: Mapping[str, object], cell: int) -> None:
        group = self.stored.groups.get(dump.names[0])
        if group is None or group.names != dump.names:
            group = Group(dump.names)
            for name in dump.names:
                self.stored.groups[name] = group
        elif group.data == dump.data:
            return
        group.data, group.cell = dump.data, cell
        group.types = {name: fidelity.type_name(type(values[name])) for name in dump.names}

    def bury(self, result: Saved) -> None:
        """A tombstone for every variable that was not saved; the last values are nobody's variables."""
        result.not_saved[:] = [lost for lost in result.not_saved if lost.name not in LAST_VALUES]
        for lost in result.not_saved:
            reason = '; '.join(f'{culprit.path} → {culprit.type} ({culprit.reason})' for culprit in lost.culprits)
            self.stored.lost[lost.name] = reason or lost.type, lost.suggestion


class Lost:
    """Stands in the namespace for a lost variable that the cell may delete."""

    def __repr__(self) -> str:
        return '<a variable that was not saved>'


LOST = Lost()


def partition(ids: Mapping[str, set[int]]) -> list[tuple[str, ...]]:
    """Names in groups: two names are in one group when their sets meet, directly or through others. Sorted."""
    group: dict[str, list[str]] = {name: [name] for name in ids}
    owner: dict[int, str] = {}
    for name, found in ids.items():
        for key in found:
            mine, theirs = group[name], group[owner.setdefault(key, name)]
            if mine is not theirs:
                small, large = sorted((mine, theirs), key=len)
                large.extend(small)
                group.update(dict.fromkeys(small, large))
    return sorted({id(names): tuple(sorted(names)) for names in group.values()}.values())
