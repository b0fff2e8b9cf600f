"""The large buffers of a notebook in the database: content-addressed pieces, mapped copy-on-write, shared, counted.

    memory of a cell ── store() ─► StoredBuffer ── use() ─► Chunks: digest -> (piece, users) ── commit ─► database
          ▲                         size, digests, pieces            ▲
          └───────── load() ◄──────────────┘               release() ┘ without users: out of the index, pack removes it

What is promised: what is loaded is one writable memory, and writing to it changes neither the database nor what another process
has loaded. Loading maps files and reads none of them. Storing what was loaded hashes only the pieces that were written to, and
writes only those of which the notebook has no equal; so values share their equal pieces, over names and over cells. What was
stored and not used, or used in a transaction that was aborted, leaves nothing. What is not promised: that the bytes of a commit
survive the loss of power (they are written, not forced to the disk, as blobs of ZODB are); a piece that is not whole is an error.

The records. A buffer of up to 1 MiB is one piece; a longer one is cut into pieces of 1, 2, 4, 8 or 16 MiB: the smallest of which
64 are enough, else 16 MiB; the last piece is what is left. A reader finds the length of the pieces from the size and the number
of digests alone: it is the power of two that gives that number, so another rule of cutting needs no other format. A piece is a
ZODB `Blob` whose file has exactly the piece's bytes, or, where the storage has no blobs, a record `Piece` with the bytes as `data`
(then of 4 MiB at most: a record is read and written in one go). Both are never changed once committed. The digest of a piece is
its BLAKE3 hash, 32 bytes. A `StoredBuffer` is no record: it stands in the record of its user, where its pieces are persistent
references. `Chunks.index` has an entry for each digest: the piece, and how many times the used buffers have that digest. A piece
lives as long as a record refers to it; the index only says which one to take for the next buffer with this content.

The figures behind the lengths (1 GiB, RelStorage on SQLite): mapping takes 45 µs a piece, so 4, 8, 16 MiB cost 12, 6, 3 ms; a
changed byte costs hashing and writing one piece, 1.5, 3, 6 ms.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import sys
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from blake3 import blake3
from BTrees.OOBTree import OOBTree
from persistent import Persistent
from ZODB.blob import Blob
from ZODB.interfaces import IBlobStorage
from ZODB.POSException import Unsupported

from ..arrays import LARGE
from ..errors import NO_ROOM, NotSavedError, StorageFullError

MINIMUM = LARGE  # bytes from which a buffer is stored out of band: those that arrays hands out as buffers
SHORTEST, LONGEST, LONGEST_RECORD = 1 << 20, 16 << 20, 4 << 20  # bytes of a piece: powers of two, multiples of every page size
ENOUGH = 64  # pieces: more only where they would be longer than the longest
RESERVE = 16 << 20  # bytes of the disk that are left to the records: without them nothing of a cell could be saved
MAPPED = 32  # what is mapped and only read weighs so many times less than memory of the process's own
FULL = NO_ROOM | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}  # no room, or no way to it


class Piece(Persistent):
    """A piece where the storage has no blobs."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class StoredBuffer(NamedTuple):
    """A buffer in the database; part of the record that uses it."""

    size: int  # bytes
    digests: tuple[bytes, ...]  # one for each piece, in order
    pieces: tuple[Persistent, ...]  # Blob or Piece


class Chunks(Persistent):
    """The pieces of one notebook. `garbage`: bytes that have ever left the index, but for what came back in the same transaction;
    `packing` remembers how many they were when it last packed."""

    def __init__(self) -> None:
        self.index = OOBTree()  # digest -> (piece, users)
        self.garbage = 0


# ---------------------------------------------------------------- lengths
def length_for(size: int, longest: int) -> int:
    """The length of the pieces into which a new buffer is cut."""
    length = SHORTEST
    while length * ENOUGH < size and length < longest:
        length *= 2
    return length


def length_of(size: int, count: int) -> int:
    """The length of the pieces of a buffer that has been cut into `count`; ValueError if no power of two gives that."""
    length = SHORTEST
    while -(-size // length) > max(count, 1):
        length *= 2
    if -(-size // length) != count:
        raise ValueError(f'a stored buffer of {size} bytes cannot have {count} pieces')
    return length


def spans(size: int, length: int) -> list[slice]:
    return [slice(start, min(start + length, size)) for start in range(0, size, length)]


# ---------------------------------------------------------------- memory
class PyBuffer(ctypes.Structure):
    """`Py_buffer` of Python's stable C API."""

    _fields_ = [('buf', ctypes.c_void_p), ('obj', ctypes.c_void_p), ('len', ctypes.c_ssize_t), ('itemsize', ctypes.c_ssize_t),
                ('readonly', ctypes.c_int), ('ndim', ctypes.c_int), ('format', ctypes.c_void_p), ('shape', ctypes.c_void_p),
                ('strides', ctypes.c_void_p), ('suboffsets', ctypes.c_void_p), ('internal', ctypes.c_void_p)]


python = ctypes.PyDLL(None)  # not `ctypes.pythonapi`, whose declarations are everybody's
python.PyObject_GetBuffer.argtypes = ctypes.py_object, ctypes.POINTER(PyBuffer), ctypes.c_int
python.PyBuffer_Release.argtypes = ctypes.POINTER(PyBuffer),
python.PyBuffer_Release.restype = None
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
libc.mmap.restype = ctypes.c_void_p
MAP_FIXED = 0x10  # Linux, macOS, BSD; the module `mmap` has no name for it
FAILED = ctypes.c_void_p(-1).value


def address_of(view: memoryview) -> int:
    """Where a contiguous buffer is, also one that may not be written."""
    buffer = PyBuffer()
    python.PyObject_GetBuffer(view, buffer, 0)
    python.PyBuffer_Release(buffer)
    return buffer.buf or 0


class Mapping(mmap.mmap):
    """The memory of a loaded buffer: private pages in one range, over which files are mapped.

    The range lives as long as a view of it does: this object is what those views keep.
    """

    stored: StoredBuffer
    address: int
    files: list[bool]  # for each piece, whether a file is mapped

    @classmethod
    def reserve(cls, stored: StoredBuffer) -> 'Mapping':
        self = cls(-1, stored.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, 'MAP_NORESERVE', 0))
        self.stored, self.files = stored, []
        with memoryview(self) as view:
            self.address = address_of(view)
        return self

    @property
    def spans(self) -> list[slice]:
        return spans(self.stored.size, length_of(self.stored.size, len(self.stored.digests)))

    def copy_in(self, span: slice, data: bytes) -> None:
        check_length(span, len(data))
        self[span] = data
        self.files.append(False)

    def map_in(self, span: slice, fd: int) -> None:
        """Map a whole file, which must never be made shorter. It may be removed while it is mapped."""
        check_length(span, os.fstat(fd).st_size)
        flags = mmap.MAP_PRIVATE | MAP_FIXED | getattr(mmap, 'MAP_NORESERVE', 0)
        start, size = self.address + span.start, span.stop - span.start
        if libc.mmap(start, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0) == FAILED:
            raise OSError(ctypes.get_errno(), f'a piece of {size} bytes cannot be mapped')
        self.files.append(True)

    def unchanged(self) -> list[bool]:
        """For each piece, whether it certainly is as it was loaded."""
        pages = written_pages(self.address, len(self)) if any(self.files) else None
        if pages is None:
            return [False] * len(self.files)
        return [file and pages.find(1, span.start // mmap.PAGESIZE, -(-span.stop // mmap.PAGESIZE)) < 0
                for file, span in zip(self.files, self.spans, strict=True)]


def check_length(span: slice, found: int) -> None:
    """Beyond the end of a mapped file is SIGBUS, not an exception."""
    if found != span.stop - span.start:
        raise NotSavedError(f'a piece of a large buffer is damaged: expected {span.stop - span.start} bytes, found {found}. '
                            f'Assign the variable again, or restore the database from a backup')


# The highest byte of an entry of /proc/PID/pagemap: 0x80 in memory, 0x40 swapped out, 0x20 a page of a file or shared. A page that
# is in use and is not of the file was written to; one that is not in use was not even read. See the kernel's admin-guide/mm/pagemap.rst.
PAGEMAP = '/proc/self/pagemap'
WRITTEN = bytes(bool(flags & 0xc0) and not flags & 0x20 for flags in range(256))


def written_pages(address: int, size: int) -> bytes | None:
    """One byte for each page of a range of private mappings of files: 1 where it was written to. None where the system does not tell."""
    count = -(-size // mmap.PAGESIZE)
    try:
        with open(PAGEMAP, 'rb', buffering=0) as file:
            entries = os.pread(file.fileno(), count * 8, address // mmap.PAGESIZE * 8)
    except OSError:
        return None
    if len(entries) != count * 8:
        return None
    return entries[7 if sys.byteorder == 'little' else 0::8].translate(WRITTEN)


# ---------------------------------------------------------------- files of pieces that are not yet in a transaction
def blob_directory(storage: Any) -> str | None:
    """Where the storage wants the files of its blobs to be written; None if it has no blobs, or this client of it cannot have them."""
    if not IBlobStorage.providedBy(storage):
        return None
    try:
        return str(storage.temporaryDirectory())
    except (AttributeError, TypeError, Unsupported):  # ZEO without a cache, FileStorage, RelStorage
        return None


class Draft:
    """A piece that is in no transaction; its file, if it has one, goes with it unless it is kept. `parts`: its bytes as they come."""

    def __init__(self, parts: Iterable[memoryview], directory: str | None) -> None:
        self.path = ''
        if directory is None:
            self.piece: Persistent = Piece(b''.join(map(bytes, parts)))
            return
        self.piece = Blob()
        fd, self.path = tempfile.mkstemp(dir=directory, prefix='piece-')
        self.finalizer = weakref.finalize(self, remove, self.path, os.getpid())
        try:
            with open(fd, 'wb', buffering=0) as file:
                for part in parts:
                    while part:
                        part = part[file.write(part):]
        except BaseException:
            self.discard()
            raise

    def keep(self, connection: Any) -> None:
        """Give the file to ZODB: it is renamed, and is a blob's when the transaction commits."""
        if self.path:
            connection.add(self.piece)  # first: only then does the blob know in which directory it belongs
            self.piece.consumeFile(self.path)
            self.finalizer.detach()

    def discard(self) -> None:
        if self.path:
            self.finalizer()


def free(directory: str) -> int:
    """Bytes of the disk that large buffers may have."""
    system = os.statvfs(directory)
    return max(0, system.f_bavail * system.f_frsize - RESERVE)


def require(needed: int, directory: str | None) -> None:
    """StorageFullError if a directory of blobs has no room for so many bytes. Of a database without one nothing is known."""
    if directory and free(directory) < needed:
        raise StorageFullError(needed, free(directory), errno.ENOSPC)


def refusal(error: OSError, needed: int, directory: str | None) -> Exception:
    """What to raise where so many bytes could not be written there."""
    return StorageFullError(needed, free(directory) if directory else 0, error.errno) if error.errno in FULL else error


def remove(path: str, pid: int) -> None:
    if os.getpid() == pid:  # not a child of the cell's
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


# ---------------------------------------------------------------- one cell
class Buffers:
    """The chunks of a notebook for the time of one cell: until its transaction is committed. `chunks` must belong to a connection."""

    def __init__(self, chunks: Chunks) -> None:
        self.chunks = chunks
        self.directory = blob_directory(chunks._p_jar.db().storage)
        self.mappings: weakref.WeakValueDictionary[int, Mapping] = weakref.WeakValueDictionary()  # address -> while it is in use
        self.drafts: dict[bytes, Draft] = {}  # digest -> stored and not yet used
        self.given: set[bytes] = set()  # digests of pieces that are not the notebook's yet, and never were
        self.settled: dict[tuple[int, int], StoredBuffer] = {}  # (address, size) -> as it was stored last
        self.weight = 0  # bytes that are this process's own, about: what was mapped counts little as long as it is not written to

    # ------------------------------------------------------------ load
    def load(self, stored: StoredBuffer) -> memoryview:
        """The buffer in memory: writable, contiguous, bytes. NotSavedError if a piece is damaged, POSKeyError if one is not there."""
        if not stored.size:
            return memoryview(bytearray())
        self.chunks._p_jar.prefetch({piece._p_oid for piece in stored.pieces if piece._p_changed is None})  # ghosts
        mapping = Mapping.reserve(stored)
        self.weight += stored.size // MAPPED
        for span, digest, piece in zip(mapping.spans, stored.digests, stored.pieces, strict=True):
            if isinstance(piece, Blob):
                fd = self.open(digest, piece)
                try:
                    mapping.map_in(span, fd)
                finally:
                    os.close(fd)
            else:
                mapping.copy_in(span, piece.data)
                piece._p_deactivate()  # the bytes are not wanted twice
        self.mappings[mapping.address] = mapping
        return memoryview(mapping)

    def open(self, digest: bytes, blob: Blob) -> int:
        draft = self.drafts.get(digest)
        if draft is not None and draft.piece is blob:
            return os.open(draft.path, os.O_RDONLY)
        blob._p_activate()
        with contextlib.suppress(FileNotFoundError):  # a cache of blobs may have dropped it since
            return os.open(blob._p_blob_uncommitted or blob._p_blob_committed or '', os.O_RDONLY)
        with blob.open() as file:  # costs half as much again
            return os.dup(file.fileno())

    # ------------------------------------------------------------ store
    def store(self, view: memoryview) -> StoredBuffer:
        """Bytes of a C-contiguous view, ready to be used. StorageFullError if there is no room; nothing of the view is then left."""
        flat = memoryview(view).cast('B')
        stored = self.settled[address_of(flat), len(flat)] = self.stored(flat)
        return stored

    def stored(self, flat: memoryview) -> StoredBuffer:
        mapping = self.mappings.get(address_of(flat))
        if mapping is None or len(mapping) != len(flat):
            parts, unchanged, old = spans(len(flat), length_for(len(flat), LONGEST if self.directory else LONGEST_RECORD)), None, None
        else:
            parts, unchanged, old = mapping.spans, mapping.unchanged(), mapping.stored
        digests = tuple(old.digests[number] if old and unchanged and unchanged[number] else blake3(flat[part]).digest()
                        for number, part in enumerate(parts))
        self.weight += sum(part.stop - part.start for number, part in enumerate(parts) if not (unchanged and unchanged[number]))
        if old and digests == old.digests and all(piece._p_jar is not None for piece in old.pieces):
            return old
        known = self.known(digests, old)
        self.write({digest: flat[part] for digest, part in zip(digests, parts, strict=True) if digest not in known}, known)
        return StoredBuffer(len(flat), digests, tuple(known[digest] for digest in digests))

    def keep(self, view: memoryview) -> StoredBuffer:
        """Stored for a record that is not the notebook's: nothing is counted. What this cell has stored is not looked at again."""
        flat = memoryview(view).cast('B')
        stored = self.settled.get((address_of(flat), len(flat)))
        if stored is None or not all(piece._p_jar is not None or digest in self.drafts
                                     for digest, piece in zip(stored.digests, stored.pieces, strict=True)):
            stored = self.store(flat)
        for digest in set(stored.digests) & self.drafts.keys():
            self.drafts.pop(digest).keep(self.chunks._p_jar)
        return stored

    def known(self, digests: Iterable[bytes], old: StoredBuffer | None) -> dict[bytes, Persistent]:
        """The pieces that are there: of the buffer as it was loaded, prepared for another one, of the notebook."""
        known = {digest: piece for digest, piece in zip(old.digests, old.pieces, strict=True)
                 if piece._p_jar is not None} if old else {}  # None after an abort
        for digest in set(digests) - known.keys():
            if digest in self.drafts:
                known[digest] = self.drafts[digest].piece
            elif (entry := self.chunks.index.get(digest)) is not None:
                known[digest] = entry[0]
        return known

    def write(self, missing: dict[bytes, memoryview], known: dict[bytes, Persistent]) -> None:
        """All of them or none."""
        needed = sum(map(len, missing.values()))
        require(needed, self.directory)
        written: dict[bytes, Draft] = {}
        try:
            for digest, part in missing.items():
                written[digest] = Draft([part], self.directory)
        except BaseException as error:
            for draft in written.values():
                draft.discard()
            if isinstance(error, OSError):
                raise refusal(error, needed, self.directory) from None
            raise
        self.drafts.update(written)
        known.update({digest: draft.piece for digest, draft in written.items()})

    # ------------------------------------------------------------ who needs what
    def use(self, stored: StoredBuffer) -> None:
        """A record that is written in this transaction needs it."""
        self.exchange([], [stored])

    def release(self, stored: StoredBuffer) -> None:
        """A record needs it no longer."""
        self.exchange([stored], [])

    def exchange(self, old: Iterable[StoredBuffer], new: Iterable[StoredBuffer]) -> None:
        """A record that needed `old` needs `new`: what both have costs nothing."""
        change: Counter[bytes] = Counter()
        pieces: dict[bytes, tuple[Persistent, int]] = {}
        for sign, stored in [*((-1, stored) for stored in old), *((1, stored) for stored in new)]:
            parts = spans(stored.size, length_of(stored.size, len(stored.digests)))
            for digest, piece, part in zip(stored.digests, stored.pieces, parts, strict=True):
                change[digest] += sign
                pieces[digest] = piece, part.stop - part.start
        for digest, users in change.items():
            if users:
                self.count(digest, users, *pieces[digest])

    def count(self, digest: bytes, more: int, piece: Persistent, size: int) -> None:
        index = self.chunks.index
        there, users = index.get(digest, (piece, 0))
        if users + more > 0:
            if not users:
                self.enter(digest, piece, size)
            index[digest] = there, users + more
        elif users:
            del index[digest]
            self.chunks.garbage += size

    def enter(self, digest: bytes, piece: Persistent, size: int) -> None:
        """A piece that is not in the index: it is new, or was released earlier in this transaction."""
        draft = self.drafts.get(digest)
        if draft is not None and draft.piece is piece:
            del self.drafts[digest]
            draft.keep(self.chunks._p_jar)
        elif digest in self.given:
            self.given.discard(digest)
        elif piece._p_jar is not None:
            self.chunks.garbage -= min(size, self.chunks.garbage)
        else:
            raise ValueError('a buffer that was stored in a transaction that was aborted: store it again')
