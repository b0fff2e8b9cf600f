"""Faults in the packs of RelStorage 4.3, and their cures: for every pack of this process, whoever begins it.

1. A pack of a database without history loses objects that a cell moves meanwhile:

    pack_object ◄─ all objects      a cell commits: a new record takes over the reference to an old one     references ◄─ snapshot

   The new record is not in `pack_object`, so its references do not count; the old one has lost its only other reference, and is
   removed. That is what a BTree does when it splits a bucket. Cure: when a pack knows what it would remove, it looks at all records
   that are new or have changed since, and spares what they lead to. What is then still unneeded remains so: only a transaction that
   has begun before that could bring it back, and cells of one notebook run one after another.
2. On SQLite two packs at a time are not kept apart, and one takes the unfinished list of the other for its own. Cure: a file lock.
3. Which references of a changed object are known is noted by an insertion, before the old note is deleted. Both wait until enough is
   to be written, with all deletions first; but where that is reached between the two, the insertion fails, and so does each later
   pack. Cure: the deletion comes first.
"""

import fcntl
from collections.abc import Callable, Iterable
from typing import IO, Any

References = Callable[[bytes], Iterable[int]]

NOTES = 'object_refs_added'
CHANGED = '''
    SELECT object_state.state
    FROM object_state
    LEFT OUTER JOIN object_refs_added USING (zoid)
    WHERE object_refs_added.tid IS NULL OR object_refs_added.tid != object_state.tid
'''


def cure_packs() -> None:
    """Once a process is enough; again does nothing."""
    from relstorage.adapters.connmanager import AbstractConnectionManager
    from relstorage.adapters.packundo import HistoryFreePackUndo
    from relstorage.adapters.sqlite.connmanager import Sqlite3ConnectionManager
    from relstorage.adapters.sqlite.locker import Sqlite3Locker
    original, add_references = HistoryFreePackUndo.pre_pack, HistoryFreePackUndo._add_refs_for_oids
    if original.__module__ != __name__:
        def pre_pack(self: Any, pack_tid: int, get_references: References) -> None:
            original(self, pack_tid, get_references)
            spare(self, get_references)

        def in_order(self: Any, load: Any, store: Any, oids: Iterable[int], get_references: References) -> Any:
            return add_references(self, load, DeletionsFirst(store), oids, get_references)

        HistoryFreePackUndo.pre_pack, HistoryFreePackUndo._add_refs_for_oids = pre_pack, in_order
        Sqlite3ConnectionManager.open_for_pack_lock = AbstractConnectionManager.open_for_pack_lock
        Sqlite3Locker.hold_pack_lock, Sqlite3Locker.release_pack_lock = hold_pack_lock, release_pack_lock


# ---------------------------------------------------------------- what has come meanwhile
def spare(packundo: Any, get_references: References) -> None:
    """Take out of the list of what will be removed whatever a record that is not in the snapshot leads to."""
    from relstorage.adapters.connections import PrePackConnection
    connection = PrePackConnection(packundo.connmanager)
    try:
        cursor = connection.cursor
        packundo.runner.run_script_stmt(cursor, 'SELECT zoid FROM pack_object WHERE keep = %(FALSE)s')
        doomed = {zoid for zoid, in cursor.fetchall()}
        cursor.execute(CHANGED)
        states = [packundo.driver.binary_column_as_state_type(state) for state, in cursor.fetchall()]
        found = doomed.intersection(zoid for state in states for zoid in get_references(state))
        mark(packundo, connection, reachable(packundo, cursor, found, doomed))
    finally:
        connection.drop()


def reachable(packundo: Any, cursor: Any, found: set[int], doomed: set[int]) -> set[int]:
    """What of the doomed the found ones lead to, themselves included. All of these are as they were in the snapshot."""
    batcher, reached = packundo.locker.make_batcher(cursor), set[int]()
    while found:
        reached |= found
        found = {zoid for zoid, in batcher.select_from(('to_zoid',), 'object_ref', zoid=found)} & doomed - reached
    return reached


def mark(packundo: Any, connection: Any, spared: set[int]) -> None:
    from relstorage.adapters.schema import Schema
    if spared:
        statement = str(Schema.pack_object.update(keep=True, visited=True).bind(packundo))
        packundo.locker.make_batcher(connection.cursor).update_set_static(statement, zoid=spared)
    connection.commit()


# ---------------------------------------------------------------- what is known of the references
class DeletionsFirst:
    """RelStorage's batcher of what a pack writes; the note of an object is deleted before it is inserted anew."""

    def __init__(self, batcher: Any) -> None:
        self.batcher, self.row_schema_of_length = batcher, batcher.row_schema_of_length

    def insert_into(self, header: str, row_schema: str, row: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        if header.startswith(NOTES):
            self.batcher.delete_from(NOTES, zoid=row[0])
        self.batcher.insert_into(header, row_schema, row, *arguments, **options)

    def delete_from(self, table: str, **columns: int) -> None:
        if table != NOTES:   # else that has been done
            self.batcher.delete_from(table, **columns)


# ---------------------------------------------------------------- one pack at a time
locks: dict[int, IO[bytes]] = {}  # id of the cursor -> the file


def hold_pack_lock(self: Any, cursor: Any) -> None:
    from relstorage.adapters.interfaces import UnableToAcquirePackUndoLockError
    cursor.execute('PRAGMA database_list')
    file = open(cursor.fetchone()[2] + '.pack', 'ab')
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UnableToAcquirePackUndoLockError('another pack of it runs') from None
    locks[id(cursor)] = file


def release_pack_lock(self: Any, cursor: Any) -> None:
    locks.pop(id(cursor)).close()
