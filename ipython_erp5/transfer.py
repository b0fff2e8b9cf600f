"""Values to bytes and large buffers, and back: what travels between a session and a notebook, seen from either end.

    values ─► pack() ─► Packed ─┬─ description: JSON; small bytes are in it     in the form of a cell, in a message of its answer
                                └─ buffers: the memory of the values itself     in requests of their own, as they are
    values ◄─ unpack(description, memory for the buffers) ◄─┘

Kept: sharing and cycles within all values of one pack; memory that several arrays see. Out of band go the buffers of pickle's
protocol 5, `bytes` and `bytearray`, and the pickle itself, from LARGE bytes each. A description:

    names    of the values, in order
    format   the name of the serializer
    data     the pickle, in base64; '' where it is the first buffer
    sizes    bytes of each buffer
    kinds    of each buffer: data, buffer (of protocol 5), bytes, bytearray; the last two are referred to by (kind, number)
"""

import base64
import io
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pickle import PickleBuffer
from typing import Any, NoReturn

from . import serializers
from .arrays import LARGE
from .diagnosis import diagnose
from .errors import SerializationError, WireError
from .fidelity import type_name
from .report import NotSaved
from .serializers import Reference, Resolve, Serializer

DATA, BUFFER, BYTES, BYTEARRAY = 'data', 'buffer', 'bytes', 'bytearray'
MAPPED = 1 << 20  # bytes of a buffer, from which on it is pages that the system clears when they are first used
Description = dict[str, Any]


@dataclass(frozen=True)
class Packed:
    """Values on their way. The buffers are those of the values: nobody should change them before they are sent."""

    description: Description
    buffers: list[memoryview]


def pack(values: Mapping[str, object], serializer: Serializer, reference: Reference = lambda value: None) -> Packed:
    """SerializationError if the serializer cannot take them as they are, or whatever a class of the user raises."""
    blocks, buffers = Blocks(reference), list[memoryview]()

    def keep(buffer: PickleBuffer) -> bool:
        """False: the buffer is not part of the pickle."""
        raw = buffer.raw()
        if raw.nbytes < LARGE:
            return True
        buffers.append(raw)
        return False

    data = serializer.dump(list(values.values()), blocks, keep)
    large = [data] if len(data) >= LARGE else []
    kinds = [*([DATA] * len(large)), *([BUFFER] * len(buffers)), *(type(block).__name__ for block in blocks.found)]
    views = [*(memoryview(one) for one in large), *buffers, *(memoryview(one) for one in blocks.found)]
    description = {'names': list(values), 'format': serializer.name, 'data': '' if large else base64.b64encode(data).decode(),
                   'sizes': [view.nbytes for view in views], 'kinds': kinds}
    return Packed(description, views)


def unpack(description: Mapping[str, Any], buffers: Sequence[Any], resolve: Resolve) -> dict[str, Any]:
    """The values, by name. `buffers`: writable memory, a `bytearray` for what is one. SerializationError, UnsupportedError, WireError."""
    kinds = description['kinds']
    if len(kinds) != len(buffers):
        raise WireError(f'expected {len(kinds)} buffers, got {len(buffers)}')
    data = next((buffer for kind, buffer in zip(kinds, buffers) if kind == DATA), None)
    found = [block(kind, buffer) for kind, buffer in zip(kinds, buffers) if kind in (BYTES, BYTEARRAY)]

    def resolve_block(reference: Any) -> object:
        kind, *rest = reference
        return found[rest[0]] if kind in (BYTES, BYTEARRAY) else resolve(reference)

    try:
        values = serializers.load(base64.b64decode(description['data']) if data is None else data, resolve_block,
                                  [buffer for kind, buffer in zip(kinds, buffers) if kind == BUFFER])
    except SerializationError as error:
        if error.position is None:
            raise
        failure = SerializationError(f'{description["names"][error.position]}: {error}')
    else:
        return dict(zip(description['names'], values, strict=True))
    raise failure


def block(kind: str, buffer: Any) -> bytes | bytearray:
    if kind == BYTES:
        return buffer.getvalue() if type(buffer) is io.BytesIO else bytes(buffer)
    return buffer if type(buffer) is bytearray else bytearray(buffer)


def memory_for(kind: str, size: int) -> Any:
    """Memory of a buffer that is to come: `writable` shows it."""
    if kind == BYTES:
        return io.BytesIO(bytes(size))   # which gives these very bytes, once nobody can write to them any more
    if size < MAPPED or kind == BYTEARRAY:
        return bytearray(size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def writable(buffer: Any) -> memoryview:
    return buffer.getbuffer() if type(buffer) is io.BytesIO else memoryview(buffer)


class Blocks:
    """The `reference` of a dump: large bytes are referred to by a number. `found`: in the order of their numbers."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.found: list[bytes | bytearray] = []
        self.numbers: dict[int, int] = {}

    def __call__(self, value: object) -> object | None:
        if (type(value) is bytes or type(value) is bytearray) and len(value) >= LARGE:
            number = self.numbers.setdefault(id(value), len(self.found))
            if number == len(self.found):
                self.found.append(value)
            return type(value).__name__, number
        return self.reference(value)


# ---------------------------------------------------------------- what cannot travel
def pack_or_report(values: Mapping[str, object], serializer: Serializer) -> Packed:
    """The same; the error names every culprit, by the path that leads to it."""
    try:
        return pack(values, serializer)
    except SerializationError as error:
        failure = SerializationError('\n  '.join(['cannot be pushed, nothing was sent or run (make it there, in a cell, or leave it out):',
                                                  *(culprits(values, serializer) or [str(error)])]))
    raise failure


def culprits(values: Mapping[str, object], serializer: Serializer) -> list[str]:
    lines = []
    for name, value in values.items():
        found = diagnose(serializer, name, value, lambda value: None)
        lines += NotSaved('', type_name(type(value)), tuple(found)).lines() if found else []   # without a name: each with its path
    return lines


STAYS = {'namespace': "the notebook's namespace", 'module': "the notebook's namespace", 'builtins': "the notebook's builtins"}


def refuse_reference(reference: Any) -> NoReturn:
    """A value that refers to a document of the site's database, or to the notebook as a whole, cannot be a value here."""
    what = 'the environment' if reference[1:] == ('environment',) else STAYS.get(reference[0], 'a document of the site')
    raise SerializationError(f'{what} stays there: send what you need of it')


OnBytes = Callable[[int, int], None]  # done, total
