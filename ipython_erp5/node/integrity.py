"""Whether the bytes of a notebook's variables are what was stored; nothing is unpickled.

Pieces of large buffers have digests: every byte of them counts. Of pickles the structure is read (`pickletools`): every operation is
one, every buffer is there, and the last byte is the end. A letter of a text that has become another does not show.
"""

import io
import pickletools
from collections.abc import Iterable, Iterator
from typing import Any

from blake3 import blake3
from persistent import Persistent
from ZODB.blob import Blob
from ZODB.interfaces import BlobError
from ZODB.POSException import POSKeyError
from ZODB.utils import u64

from .. import serializers
from .chunks import Piece, StoredBuffer, length_of, spans


class Damaged(Exception):
    """What is wrong with a record."""


def missing(error: POSKeyError) -> str:
    """What to say of it; RelStorage would say more about itself."""
    oid = error.args[0] if error.args else None
    which = f'oid {u64(oid):#x}' if isinstance(oid, bytes) and len(oid) == 8 else repr(oid)
    return f'a record of it, {which}, is not in the database'


# ---------------------------------------------------------------- pieces
def contents(piece: Persistent, size: int, digest: bytes) -> bytes:
    """The bytes of a piece of a large buffer; Damaged if they are not those of the digest, or not there."""
    try:
        data = bytes_of(piece)
    except POSKeyError:
        raise Damaged('a piece of a large buffer is not in the database') from None
    except (BlobError, FileNotFoundError):
        raise Damaged('the file of a piece of a large buffer is not there') from None
    if len(data) != size:
        raise Damaged(f'a piece of a large buffer has {len(data)} bytes, not {size}')
    if blake3(data).digest() != digest:
        raise Damaged(f'a piece of a large buffer has other bytes than those that were stored (BLAKE3 {digest.hex()})')
    return data


def bytes_of(piece: Persistent) -> bytes:
    """Deactivates the piece."""
    if isinstance(piece, Blob):
        with piece.open() as file:
            return bytes(file.read())
    if not isinstance(piece, Piece):
        raise Damaged(f'expected a piece of a large buffer, got a {type(piece).__name__}')
    data = piece.data
    piece._p_deactivate()
    return data


def pieces_of(buffer: StoredBuffer) -> Iterator[tuple[Persistent, int, bytes]]:
    """(piece, its size, its digest) of a buffer; Damaged if the buffer cannot be cut so."""
    try:
        parts = spans(buffer.size, length_of(buffer.size, len(buffer.digests)))
        for part, digest, piece in zip(parts, buffer.digests, buffer.pieces, strict=True):
            yield piece, part.stop - part.start, digest
    except ValueError as error:
        raise Damaged(str(error)) from None


class Reader(io.RawIOBase):
    """Parts one after another, to be read as a file."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self.parts, self.part, self.position = iter(parts), memoryview(b''), 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def readinto(self, target: Any) -> int:
        while not self.part and (part := next(self.parts, None)) is not None:
            self.part = memoryview(part)
        size = min(len(target), len(self.part))
        target[:size], self.part = self.part[:size], self.part[size:]
        self.position += size
        return size


# ---------------------------------------------------------------- pickles
def check_pickles(file: Any, size: int, values: int, buffers: int | None = None) -> None:
    """Damaged unless the bytes of a file are `size`, a header and the pickles of so many values that take so many buffers."""
    try:
        header = serializers.header_in(file.readline(serializers.HEADER), size)
        found = 0
        for _ in range(header.count):
            found += sum(operation.name == 'NEXT_BUFFER' for operation, _, _ in pickletools.genops(file))
    except Exception as error:  # pickletools raises what its parts raise
        raise Damaged(f'its pickle is damaged: {error}') from None
    if file.read(1):
        raise Damaged(f'its pickle is damaged: it ends before its {size} bytes do')
    if header.count != values:
        raise Damaged(f'its pickle has {header.count} values, not {values}')
    if buffers is not None and found != buffers:
        raise Damaged(f'its pickle takes {found} large buffers, it has {buffers}')
