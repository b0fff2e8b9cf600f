"""Removing what no record needs, while cells run.

    cell ─ releases large buffers ─► Chunks.garbage ─► Packer (a thread of the node): enough? ─► pack() in a process of its own
                                                       `ipython-erp5 pack` ────────────────────► pack()

A pack only reads what cells write, so that no cell is refused because of it. `garbage` is therefore never set back: the record of
the last pack, `root()[PACKS]`, has what it was then, for each notebook; the difference is what a pack would free now. That record is
also how the nodes of one database agree on who packs.

Storages: FileStorage and ZEO pack as ZODB does. RelStorage 4.3 has two faults that would lose data: see `cures`.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from persistent.mapping import PersistentMapping
from transaction.interfaces import TransientError

from .. import amounts
from ..errors import NodeError
from . import parcels
from .chunks import Buffers
from .journal import Journal
from .storage import opened

PACKS = 'ipython_erp5_packs'
ENOUGH = 256 << 20  # bytes that are not needed
PART = .25  # of all that is stored
PAUSE = 600.0  # seconds from the beginning of one automatic pack to the next, on all nodes together
LOOK = 300.0  # seconds between two looks


class Stored(NamedTuple):
    """What is stored, as far as it can be seen from here."""

    size: int  # bytes
    objects: int  # 0 where the storage has not counted them yet

    def __str__(self) -> str:
        return amounts.size(self.size) + (f' in {self.objects:,} objects' if self.objects > 0 else '')


class Packed(NamedTuple):
    before: Stored
    after: Stored
    seconds: float

    def fields(self) -> dict[str, float]:
        """For the log."""
        return {'before': self.before.size, 'after': self.after.size, 'objects': self.after.objects, 'seconds': self.seconds}

    def __str__(self) -> str:
        return f'{self.before} before, {self.after} after, in {self.seconds:.1f} seconds'


def pack(database: Any, pause: float = 0) -> Packed | None:
    """Remove what no record needs; None if a pack has begun less than `pause` seconds ago. NodeError if the storage cannot now."""
    ever = begin(database, pause)
    if ever is None:
        return None
    before, started = stored(database), time.perf_counter()
    try:
        database.storage.pack(time.time(), database.references)  # as `database.pack`, which also logs a traceback
    except Exception as error:  # of any storage and its server: another pack runs, the disk is full
        raise NodeError(f'the database cannot be packed now: {type(error).__name__}: {error}') from error
    with opened(database) as root:
        record_of(root)['released'] = ever
    return Packed(before, stored(database), time.perf_counter() - started)


# ---------------------------------------------------------------- how much is not needed
def record_of(root: MutableMapping[str, Any]) -> PersistentMapping:
    """The last pack. `begun`: seconds since the epoch; `released`: notebook id -> its `garbage` then."""
    if PACKS not in root:
        root[PACKS] = PersistentMapping(begun=0.0, released={})
    return root[PACKS]


def begin(database: Any, pause: float) -> dict[str, int] | None:
    """Put on record that a pack begins; what each notebook has released until now."""
    for _attempt in range(10):
        with contextlib.suppress(TransientError), opened(database) as root:  # another node begins at the same moment
            if abs(time.time() - record_of(root)['begun']) < pause:
                return None
            record_of(root)['begun'] = time.time()
            parcels.sweep(root)
            return released(root)
    raise NodeError('the pack could not begin: other processes keep changing the same record')


def notebooks(root: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """(id, notebook) of all of them; a database may have no site."""
    return root['Application'].erp5.data_notebook_module.objectItems() if 'Application' in root else ()


def released(root: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of large buffers that each notebook has ever ceased to need, and as '' those that clients have sent or fetched for nothing."""
    return {'': parcels.garbage(root), **{name: notebook.stored.chunks.garbage for name, notebook in notebooks(root)}}


def unneeded(database: Any) -> int:
    """Bytes that a pack would free; 0 if one has just begun on any node."""
    with opened(database) as root:
        record = root.get(PACKS) or {'begun': 0.0, 'released': {}}
        if abs(time.time() - record['begun']) < PAUSE:
            return 0
        return sum(max(0, size - record['released'].get(name, 0)) for name, size in released(root).items())


def is_enough(unneeded: int, database: Any) -> bool:
    return unneeded > ENOUGH and unneeded > PART * stored(database).size


def stored(database: Any) -> Stored:
    """The files of the database and its blobs where they are here, else what the storage says; a server's blobs are not known."""
    storage = database.storage
    helper: Any = getattr(getattr(storage, 'blobhelper', storage), 'fshelper', None)  # RelStorage: FileStorage and ZEO
    own = getattr(helper, 'layout_name', 'zeocache') != 'zeocache'
    folder = getattr(getattr(storage, '_adapter', None), 'data_dir', '')  # SQLite, which has more files than it counts
    here = {*(files(folder) if folder else ()), *(files(helper.base_dir) if own else ())}
    return Stored(sum(map(size_of, here)) + (0 if folder else int(storage.getSize())), len(storage))


def files(folder: str) -> Iterator[str]:
    return (os.path.join(where, name) for where, _, names in os.walk(os.path.realpath(folder)) for name in names)


def size_of(path: str) -> int:
    """0 for a file that has just been removed."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


# ---------------------------------------------------------------- definitions that no variable leads to
def sweep(database: Any) -> None:
    """What the next cells would find unneeded. Only while nobody can run a cell: one that began before could not commit."""
    with opened(database) as root:
        for _, notebook in notebooks(root):
            if notebook.stored.loose:
                buffers = Buffers(notebook.stored.chunks)
                for group in notebook.stored.sweep():
                    buffers.exchange(group.stored_buffers(), ())


# ---------------------------------------------------------------- by itself
class Packer(threading.Thread):
    """Looks now and then whether a pack is worth its while; `start` makes a process that packs."""

    def __init__(self, database: Any, start: Callable[[], BaseProcess], journal: Journal) -> None:
        super().__init__(name='packer', daemon=True)
        self.database, self.start_pack, self.journal = database, start, journal
        self.process: BaseProcess | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                self.look()
            except Exception as error:  # a database that is away for a moment must not end this thread
                self.journal.fault(error)
            self.ended.wait(LOOK)

    def look(self) -> None:
        size = unneeded(self.database)
        if is_enough(size, self.database) and not self.ended.is_set():
            self.journal.event('packing', unneeded=size)
            self.process = self.start_pack()
            self.process.join()

    def close(self) -> None:
        """What a pack that is ended here has left, the next one does."""
        self.ended.set()
        while self.is_alive():
            if self.process is not None and self.process.is_alive():
                self.process.terminate()
            self.join(.1)
