"""How arrays stand in pickles: memory once, in a buffer of its own, and every array as a view of it.

    array ─► root: the array at the end of its `.base`s     root owns its memory ─► load_array(buffer, dtype, shape, …)
                │                                           root reads the memory of bytes, a bytearray, an array.array
                ▼                                                                ─► load_memory(that object, dtype, …)
             is it the root?  no ─► load_view(root, dtype, shape, strides, offset, …)

So two arrays that share memory share it again, also where the array that made it is in no variable. Memory of `LARGE` bytes or more
is a `PickleBuffer`, which the callback of the pickler may take out of band; a loaded array reads and writes the buffer that it is
given. Less is in band, and a loaded array owns it. A second dump of what was loaded gives the same bytes.

Kept besides the values: order and strides, `flags.writeable`, the attributes of an instance of a subclass (which numpy itself
drops), mask and data of masked arrays. A `memmap` is opened again: the file is the user's, and stays where it is; only if it maps
no file that is there, or its changes never reach the file (mode 'c'), its data are copied. Copied is also what stands in memory of
other libraries (a map, ctypes), and a view of which no view can be made: of a field of a structure that holds objects, of numpy's
strings of any length. What says itself how it is pickled is believed.

numpy is not imported here: an array proves that it is there. Frames are in `frames`.
Stored pickles name the `load_…` functions of this module and their arguments: they stay as they are for ever.
"""

import array as stdlib_array
import copyreg
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

from .errors import SerializationError

Reduction = Any  # what `__reduce__` may return, or NotImplemented: as if nobody had asked
Reducer = Callable[[Any], Reduction]

LARGE = 1 << 16  # bytes: from here on, memory is a buffer
SHARED = (bytes, bytearray, stdlib_array.array)  # objects that pickle, and whose memory an array may read


def numpy() -> Any:
    return sys.modules.get('numpy') or __import__('numpy')


# ---------------------------------------------------------------- which types
def reducer_of(kind: type) -> Reducer | None:
    """What reduces the instances of a type: arrays, and subclasses that leave their pickling to numpy."""
    library = sys.modules.get('numpy')
    if library is None or not issubclass(kind, getattr(library, 'ndarray', ())):
        return None
    if kind is library.memmap:
        return reduce_memmap
    return reduce_array if kind is library.ndarray or leaves_pickling(kind) else None


def leaves_pickling(kind: type) -> bool:
    bases = [numpy().ndarray, *([sys.modules['numpy.ma'].MaskedArray] if 'numpy.ma' in sys.modules else [])]
    hooks = [{getattr(base, name) for base in bases} for name in ('__reduce__', '__reduce_ex__', '__setstate__')]
    own = [getattr(kind, name) for name in ('__reduce__', '__reduce_ex__', '__setstate__')]
    return all(hook in known for hook, known in zip(own, hooks)) and not getattr(copyreg, '_slotnames')(kind)


# ---------------------------------------------------------------- what is written
def reduce_array(array: Any) -> Reduction:
    """An array, or an instance of a subclass that `leaves_pickling`."""
    if array.dtype.hasobject:
        return reduce_objects(array)
    root = root_of(array)
    if root is array and memory(array) is not None:
        return with_attributes(array, reduce_root(array))
    offset = None if root is array else offset_in(array, root)
    if offset is None:
        return with_attributes(array, reduce_root(plain(array).copy('K'), array))
    return with_attributes(array, (load_view, (root, *layout(array), offset, *flags(array))))


def with_attributes(array: Any, reduction: tuple[Any, ...]) -> tuple[Any, ...]:
    attributes = None if type(array) is numpy().ndarray else vars(array)
    return (*reduction, attributes, None, None, load_attributes) if attributes else reduction


def reduce_root(root: Any, like: Any = None) -> tuple[Any, ...]:
    """Memory that nobody else is known to share. `like`: the array that it is a copy of."""
    shared = shared_by(root) if like is None else None
    if shared is not None:
        return load_memory, (shared, *layout(root)[:2], address(root) - address(numpy().frombuffer(shared, 'u1')), *flags(root))
    data = memory(root)
    data = data.tobytes() if data.nbytes < LARGE else pickle.PickleBuffer(writable(data))
    dtype, shape, strides = layout(root)
    return load_array, (data, dtype, shape, None if root.flags.c_contiguous else strides, *flags(root if like is None else like))


def reduce_objects(array: Any) -> Reduction:
    """An array of objects: its items one by one, as the pickler has to see each; or a view."""
    if array.dtype.kind != 'O':
        return array.__reduce__()
    root = root_of(array)
    offset = offset_in(array, root) if root is not array and root.dtype == array.dtype else None
    if offset is not None:
        return with_attributes(array, (load_object_view, (root, array.shape, array.strides, offset // array.itemsize, *flags(array))))
    items = plain(array) if root is array and in_order(plain(array)).flags.c_contiguous else plain(array).copy('K')
    strides = None if items.flags.c_contiguous else items.strides
    kind = () if type(array) is numpy().ndarray else (type(array),)
    state = list(in_order(items).reshape(-1)), array.flags.writeable, vars(array) if kind else None
    return load_objects, (array.shape, strides, *kind), state, None, None, load_object_items


def reduce_memmap(array: Any) -> Reduction:
    """A memmap, by its file if that is there; a view of one, as a view."""
    root = root_of(array)
    if type(root) is not type(array) or root.filename is None or root.mode == 'c' or not os.path.exists(root.filename):
        offset = offset_in(array, root) if root is not array else None
        view = load_view, (root, *layout(array), offset, *flags(array))
        return view if offset is not None else reduce_root(root, array) if root is array else reduce_root(plain(array).copy('K'), array)
    if root is array and memory(root) is not None:
        if root.mode != 'r':
            root.flush()  # another machine that has the file may be the next to read it
        order = 'C' if root.flags.c_contiguous else 'F'
        return load_memmap, (root.filename, dtype_of(root), root.shape, order, 'r' if root.mode == 'r' else 'r+', root.offset)
    offset = offset_in(array, root)
    return NotImplemented if offset is None else (load_memmap_view, (root, *layout(array), offset, array.flags.writeable))


# ---------------------------------------------------------------- what an array is
def plain(array: Any) -> Any:
    """The same memory as an instance of no subclass."""
    library = numpy()
    return array if type(array) is library.ndarray else library.ndarray.view(array, library.ndarray)


def root_of(array: Any) -> Any:
    """The array at the end of the chain of bases: itself, unless it is a view."""
    library, root = numpy(), array
    while True:
        base = root.base
        if type(base).__name__ == 'DummyArray':  # what as_strided puts between
            base = base.base
        if not isinstance(base, library.ndarray):
            break
        root = base
    simple = type(root) is library.ndarray and root.ndim == 1 and root.flags.c_contiguous
    return root if simple or shared_by(root) is None else library.frombuffer(shared_by(root), 'u1')


def shared_by(root: Any) -> Any:
    """The object whose memory a root reads, if that object would be the same for both in a pickle."""
    base = root.base.obj if type(root.base) is memoryview else root.base
    return base if type(base) in SHARED and root.nbytes else None


def in_order(array: Any) -> Any:
    """The same with its axes as they stand in memory: contiguous if it has no holes, steps backwards, or steps by 0."""
    if array.flags.c_contiguous:
        return array
    return array.transpose(sorted(range(array.ndim), key=lambda axis: -array.strides[axis]))


def memory(array: Any) -> Any:
    """All memory of an array without holes, as bytes in their order; None if there is no such memory."""
    array = in_order(plain(array))
    if not array.flags.c_contiguous:
        return None
    if not array.nbytes:
        return numpy().empty(0, 'u1')
    return array.reshape(-1).view('u1')


class Writable:
    """The same memory for a buffer that does not say that it is read-only: whether it is belongs to the array, not to the bytes."""

    def __init__(self, data: Any) -> None:
        self.__array_interface__ = {**data.__array_interface__, 'data': (address(data), False)}
        self.data = data


def writable(data: Any) -> Any:
    return data if data.flags.writeable else numpy().asarray(Writable(data))


def detached(array: Any) -> Any:
    """The values as an array of which nothing says whose memory it is; a copy only where that is needed."""
    data = None if array.dtype.hasobject or not array.nbytes else memory(array)
    if data is None:
        return plain(array).copy('K')
    alone = numpy().ndarray(array.shape, array.dtype, pickle.PickleBuffer(writable(data)), strides=array.strides)
    alone.flags.writeable = array.flags.writeable
    return alone


def address(array: Any) -> int:
    place: int = array.__array_interface__['data'][0]
    return place


def offset_in(array: Any, root: Any) -> int | None:
    """Where in the memory of its root an array begins; None if the root cannot be written so that a view could be made of it."""
    known = reducer_of(type(root))
    if not array.nbytes or known is None or root.dtype.hasobject != array.dtype.hasobject or not in_order(root).flags.c_contiguous:
        return None
    offset = address(array) - address(root)
    steps = [(length - 1) * stride for length, stride in zip(array.shape, array.strides)]
    low, high = offset + sum(min(0, step) for step in steps), offset + sum(max(0, step) for step in steps) + array.itemsize
    return offset if 0 <= low and high <= root.nbytes else None


def layout(array: Any) -> tuple[Any, tuple[int, ...], tuple[int, ...]]:
    return dtype_of(array), array.shape, array.strides


def dtype_of(array: Any) -> Any:
    """A dtype by its text where that says all of it."""
    dtype = array.dtype
    return dtype.str if dtype.kind in 'biufcmMSU' and dtype.isbuiltin != 2 and dtype.metadata is None else dtype


def flags(array: Any) -> tuple[Any, ...]:
    """The last arguments of the functions below, none in the usual case: whether it is writable, and its type."""
    if type(array) is not numpy().ndarray:
        return array.flags.writeable, type(array)
    return () if array.flags.writeable else (False,)


# ---------------------------------------------------------------- what is read
def load_array(data: Any, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...] | None = None, writeable: bool = True,
               kind: type | None = None) -> Any:
    """An array on a buffer, or one that owns a copy of `data` if that is bytes or otherwise read-only."""
    library = numpy()
    kind = kind or library.ndarray
    if isinstance(data, bytes) or memoryview(data).readonly:
        array = library.ndarray.__new__(kind, shape, dtype, strides=strides)
        memory(array)[:] = library.frombuffer(data, 'u1') if array.nbytes else ()
    else:
        array = library.ndarray.__new__(kind, shape, dtype, pickle.PickleBuffer(data), strides=strides)
    if not writeable:
        array.flags.writeable = False
    return array


def load_memory(shared: Any, dtype: Any, shape: tuple[int], offset: int, writeable: bool = True) -> Any:
    """An array of one dimension on the memory of an object that has it for itself, too."""
    array = numpy().frombuffer(shared, dtype, shape[0], offset)
    if not writeable:
        array.flags.writeable = False
    return array


def load_view(root: Any, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, writeable: bool = True,
              kind: type | None = None) -> Any:
    """A view that begins `offset` bytes behind the beginning of its root's memory."""
    library = numpy()
    locked = writeable and not root.flags.writeable
    if locked:
        root.flags.writeable = True
    array = library.ndarray.__new__(kind or library.ndarray, shape, dtype, memory(root), offset, strides)
    if locked:
        root.flags.writeable = False
    if not writeable:
        array.flags.writeable = False
    return array


def load_objects(shape: tuple[int, ...], strides: tuple[int, ...] | None, kind: type | None = None) -> Any:
    """An array for objects, made before them: it may be in one of them."""
    return numpy().ndarray.__new__(kind or numpy().ndarray, shape, object, strides=strides)


def load_object_items(array: Any, state: tuple[list[Any], bool, dict[str, Any] | None]) -> None:
    """`state`: items in the order of memory, whether it is writable, attributes."""
    items, writeable, attributes = state
    in_order(plain(array)).reshape(-1)[...] = numpy().fromiter(items, object, len(items))
    if attributes:
        vars(array).update(attributes)
    array.flags.writeable = writeable


def load_object_view(root: Any, shape: tuple[int, ...], strides: tuple[int, ...], start: int, writeable: bool = True,
                     kind: type | None = None) -> Any:
    """A view that begins `start` items behind the beginning of an array of objects."""
    locked = writeable and not root.flags.writeable
    if locked:
        root.flags.writeable = True
    items = in_order(plain(root)).reshape(-1)[start:]
    array = numpy().lib.stride_tricks.as_strided(items, shape, strides, writeable=writeable)
    if locked:
        root.flags.writeable = False
    return array if kind is None else array.view(kind)


def load_memmap(filename: str | os.PathLike[str], dtype: Any, shape: tuple[int, ...], order: str, mode: str, offset: int) -> Any:
    """The file again. SerializationError unless it is there and has the length that is mapped: numpy would make it longer."""
    library = numpy()
    expected = offset + library.dtype(dtype).itemsize * library.prod(shape, dtype=object)
    length = os.path.getsize(filename) if os.path.exists(filename) else None
    if length is None or length < expected:
        found = 'is not there' if length is None else f'has {length}'
        raise SerializationError(f'a memmap of {os.fspath(filename)!r} expects {expected} bytes, and the file {found}: bring it back, '
                                 'or delete the variable')
    return library.memmap(filename, dtype, mode, offset, shape, order)


def load_memmap_view(root: Any, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, writeable: bool) -> Any:
    """A view of a memmap, which knows the file as its root does."""
    array = load_view(root, dtype, shape, strides, offset, writeable, type(root))
    array.__array_finalize__(root)
    return array


def load_attributes(array: Any, attributes: dict[str, Any]) -> None:
    vars(array).update(attributes)
