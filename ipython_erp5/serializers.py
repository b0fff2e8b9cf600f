"""Values to bytes and back, by the serializer that a notebook has chosen: cloudpickle (default), dill, zodbpickle, or another.

    values ─► dump: header, then consecutive pickles with one memo ─► load ─► values
                │ asked about every object that is visited              ▲
                └─ reference(object) ─► a tuple, stored in its place ───┴─ resolve(tuple) ─► object

What is kept: sharing and cycles, within a value and between the values of one dump. With cloudpickle and dill also the
functions and classes of the notebook, by value. The globals of such a function are a reference to the `__main__` of the process
that loads it, so that a function sees the notebook's names as they then are, as in a plain session; likewise a function made
inside a library refers to that library's globals. A loaded class is always a new one: nothing of the loading process is
changed or taken in its place. What is refused: whatever would come back as something else (see `fidelity`).

The bytes: one line of ASCII, `ipython_erp5 1 NAME VERSION COUNT LENGTH`, ended by a line feed, where 1 is the version of this
format, NAME and VERSION are the serializer's and its library's, COUNT is the number of values and LENGTH the number of bytes
that follow; then COUNT pickles. What functions of the notebook are in a pickle is written in `live`.

Nothing here imports a serializer's library before that serializer is used.
"""

import functools
import importlib
import io
import pickle
import sys
import types
import typing
from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from .errors import ERP5Error, ReferenceNeededError, SerializationError, UnsupportedError
from .fidelity import error_text, unfaithful, unfaithful_kind
from .frames import Reducers
from .live import MAIN, REDUCERS, is_definition, load_namespace, reduce_definition, reduce_exception, reduce_stream, stand_in

Reference = Callable[[object], object | None]
Resolve = Callable[[Any], object]
BufferCallback = Callable[[pickle.PickleBuffer], object]

MAGIC, FORMAT = b'ipython_erp5', b'1'
HEADER = 300  # bytes that it has at most
GROUP = 'ipython_erp5.serializers'
DEFAULT = 'cloudpickle'


class Pickler(Protocol):
    def dump(self, obj: Any, /) -> object: ...


class Unpickler(Protocol):
    def load(self) -> Any: ...


class Serializer(ABC):
    """A way of turning values into bytes. A new one gives `name`, `version`, `pickler` and `unpickler`."""

    name: ClassVar[str]
    quick: ClassVar[bool] = False
    """Whether `dump` may append every object to `reference.visited` instead of calling `reference`, which takes Python's time.

    Then it asks `reference.doubtful(object)` about everything but plain containers and atoms, and raises ReferenceNeededError at the
    first of which that is true: to be dumped again with a reference that is called.
    """

    @property
    @abstractmethod
    def version(self) -> str:
        """The version of the library, without blanks."""

    @abstractmethod
    def pickler(self, file: io.BytesIO, reference: Reference, buffers: BufferCallback | None = None) -> Pickler:
        """A pickler that writes to `file` and asks `reference` about every object. Its errors are its own."""

    @abstractmethod
    def unpickler(self, file: io.BytesIO, resolve: Resolve, buffers: Iterable[Any] | None = None) -> Unpickler:
        """The unpickler for what `pickler` wrote."""

    def dump(self, values: Sequence[object], reference: Reference, buffers: BufferCallback | None = None) -> bytes:
        """The values as bytes. SerializationError if one of them cannot be kept as it is.

        `reference` is called with every object at every visit; what it returns, unless None, is stored instead. A C function
        (`list.append`) is called without detour. A reference with `visited` and `doubtful` need not be called at all: see `quick`.
        `buffers` gets each large buffer and returns false to keep it for itself.
        """
        file = io.BytesIO()
        try:
            pickler = self.pickler(file, reference, buffers)
            for value in values:
                pickler.dump(stand_in(value))
        except (KeyboardInterrupt, ERP5Error):
            raise
        except BaseException as error:
            raise SerializationError(f'{self.name} cannot save the value: {error_text(error)}') from error
        body = file.getvalue()
        return _header(self, len(values), len(body)) + body

    def load(self, data: bytes, resolve: Resolve, buffers: Iterable[Any] | None = None) -> list[Any]:
        """The values in bytes of this serializer, new ones. SerializationError if they are cut, foreign, or raise."""
        header = read_header(data)
        if header.name != self.name:
            raise SerializationError(f'expected bytes of {self.name}, got bytes of {header.name}: load them with {header.name}')
        return self.load_after(header, data, resolve, buffers)

    def load_after(self, header: 'Header', data: bytes, resolve: Resolve, buffers: Iterable[Any] | None) -> list[Any]:
        values: list[Any] = []
        try:
            unpickler = self.unpickler(io.BytesIO(memoryview(data)[header.start:]), resolve, buffers)
            while len(values) < header.count:
                values.append(unpickler.load())
            return values
        except (KeyboardInterrupt, ERP5Error) as error:
            if isinstance(error, SerializationError):
                error.position = len(values)
            raise
        except BaseException as error:
            failure = SerializationError(f'{self.name} cannot load the value: {error_text(error)}')
            failure.position = len(values)
            raise failure from error


# ---------------------------------------------------------------- the header
@dataclass(frozen=True)
class Header:
    """What the bytes say of themselves; `start`: where the pickles begin."""

    name: str
    version: str
    count: int
    start: int


def _header(serializer: Serializer, count: int, length: int) -> bytes:
    return f'{MAGIC.decode()} {FORMAT.decode()} {serializer.name} {serializer.version} {count} {length}\n'.encode('ascii')


def read_header(data: bytes) -> Header:
    """The header of serialized values; SerializationError unless all bytes that it announces are there, and no more."""
    return header_in(bytes(data[:HEADER]), len(data))


def header_in(beginning: bytes, size: int) -> Header:
    """The same, of `size` bytes that begin so."""
    line, end, _ = beginning.partition(b'\n')
    fields = line.split(b' ')
    if not end or len(fields) != 6 or fields[0] != MAGIC or not (fields[4].isdigit() and fields[5].isdigit()):
        raise SerializationError(f'expected bytes that begin with {MAGIC.decode()!r}, got {line[:40]!r}')
    if fields[1] != FORMAT:
        raise SerializationError(f'expected values in format {FORMAT.decode()}, got format {fields[1]!r}: '
                                 'a newer ipython_erp5 wrote them')
    start = len(line) + 1
    if size - start != int(fields[5]):
        raise SerializationError(f'expected {int(fields[5])} bytes of values, got {size - start}')
    return Header(fields[2].decode('ascii', 'replace'), fields[3].decode('ascii', 'replace'), int(fields[4]), start)


def name_of(data: bytes) -> str:
    """The name of the serializer that wrote the bytes."""
    return read_header(data).name


def load(data: bytes, resolve: Resolve, buffers: Iterable[Any] | None = None) -> list[Any]:
    """The values in the bytes of any known serializer."""
    header = read_header(data)
    return get(header.name).load_after(header, data, resolve, buffers)


# ---------------------------------------------------------------- the registry
_registered: dict[str, type[Serializer]] = {}


def register(serializer: type[Serializer]) -> type[Serializer]:
    """Make a serializer known by its name, in this process. A package rather announces it by the entry point group."""
    _registered[serializer.name] = serializer
    return serializer


def get(name: str) -> Serializer:
    """The serializer of that name; UnsupportedError, with the names that are known, if there is none."""
    if name in _registered:
        return _registered[name]()
    for point in _entry_points():
        if point.name == name:
            return _loaded(point)()
    raise UnsupportedError(_unknown(name))


def names() -> list[str]:
    """The names of all serializers, sorted."""
    return sorted({*_registered, *(point.name for point in _entry_points())})


def _entry_points() -> Iterable[Any]:
    from importlib.metadata import entry_points  # slow, and needed by nobody who takes a built-in one
    return entry_points(group=GROUP)


def _loaded(point: Any) -> type[Serializer]:
    try:
        serializer = point.load()
    except Exception as error:
        raise UnsupportedError(f'the serializer {point.name!r} ({point.value}) cannot be imported: {error_text(error)}') from None
    if not (isinstance(serializer, type) and issubclass(serializer, Serializer)):
        raise UnsupportedError(f'expected a subclass of {__name__}.Serializer at {point.value}, got {serializer!r}')
    return serializer


def _unknown(name: str) -> str:
    from difflib import get_close_matches
    known = names()
    close = get_close_matches(name, known, 1)
    hint = f'Did you mean {close[0]!r}? ' if close else ''
    return f'there is no serializer {name!r}. {hint}Known are: {", ".join(known)}'


# ---------------------------------------------------------------- what is refused
class _Refusal:
    """Refuses what would not come back as it is. Remembers its verdict for each type, for the time of one dump."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: dict[int, tuple[type, bool]] = {}

    def check(self, obj: object) -> None:
        kind = type(obj)
        known = self.known.get(id(kind))
        if known is None:
            known = self.known[id(kind)] = kind, unfaithful_kind(kind) is not None
        reason = unfaithful(obj, self.name) if known[1] else None
        if reason is not None:
            raise SerializationError(reason)


# ---------------------------------------------------------------- cloudpickle
@register
class Cloudpickle(Serializer):
    """The default: functions, classes and their instances of the notebook too. Protocol 5, buffers out of band."""

    name = 'cloudpickle'
    quick = True

    @property
    def version(self) -> str:
        import cloudpickle
        return str(cloudpickle.__version__)

    def pickler(self, file: io.BytesIO, reference: Reference, buffers: BufferCallback | None = None) -> Pickler:
        pickler: Pickler = _cloudpickler()(file, reference, buffers)
        return pickler

    def unpickler(self, file: io.BytesIO, resolve: Resolve, buffers: Iterable[Any] | None = None) -> Unpickler:
        return _ResolvingUnpickler(file, resolve, buffers)


class _ResolvingUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, resolve: Resolve, buffers: Iterable[Any] | None) -> None:
        self.persistent_load = resolve  # type: ignore[method-assign]
        super().__init__(file, buffers=buffers)


@functools.cache
def _cloudpickler() -> Any:
    import cloudpickle

    class LivePickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table = ChainMap(REDUCERS, cloudpickle.Pickler.dispatch_table)

        def __init__(self, file: io.BytesIO, reference: Reference, buffers: BufferCallback | None) -> None:
            self.doubtful: Callable[[object], bool] | None = getattr(reference, 'doubtful', None)
            visited: list[object] | None = getattr(reference, 'visited', None) if self.doubtful else None
            self.persistent_id = reference if visited is None else visited.append  # before __init__, which reads it
            self.refusal = _Refusal(Cloudpickle.name)
            self.reducers = Reducers()
            super().__init__(file, 5, buffer_callback=buffers)

        def dump(self, obj: Any) -> None:
            pickle.Pickler.dump(self, obj)  # cloudpickle's own would hide a RecursionError

        def reducer_override(self, obj: Any) -> Any:
            if self.doubtful is not None and self.doubtful(obj):
                raise ReferenceNeededError
            if is_definition(obj):
                return reduce_definition(obj, super().reducer_override(obj))
            reduce = self.reducers[type(obj)]
            if reduce is not None:
                return reduce(obj)
            self.refusal.check(obj)
            return reduce_stream(obj) or reduce_exception(obj) or NotImplemented

    return LivePickler


# ---------------------------------------------------------------- dill
@register
class Dill(Serializer):
    """What dill takes. Functions and classes as with cloudpickle: dill's own way loses enumerations and methods of named tuples.

    It is slower (Python, not C); buffers go out of band too.
    """

    name = 'dill'

    @property
    def version(self) -> str:
        return str(_dill().__version__)

    def pickler(self, file: io.BytesIO, reference: Reference, buffers: BufferCallback | None = None) -> Pickler:
        pickler: Pickler = _dillers()[0](file, reference, buffers)
        return pickler

    def unpickler(self, file: io.BytesIO, resolve: Resolve, buffers: Iterable[Any] | None = None) -> Unpickler:
        unpickler: Unpickler = _dillers()[1](file, resolve, buffers)
        return unpickler


def _dill() -> Any:
    """dill, which changes pickle for everybody when it is imported; undone unless the user had imported it."""
    ours = 'dill' not in sys.modules
    dill = importlib.import_module('dill')
    if ours:
        dill.extend(False)
    return dill


@functools.cache
def _dillers() -> tuple[Any, Any]:
    import warnings

    import cloudpickle
    dill = _dill()

    class LivePickler(dill.Pickler):  # type: ignore[misc, name-defined]
        def __init__(self, file: io.BytesIO, reference: Reference, buffers: BufferCallback | None) -> None:
            self.persistent_id = reference
            self.refusal = _Refusal(Dill.name)
            self.reducers = Reducers()
            self.definitions = cloudpickle.Pickler(io.BytesIO())
            super().__init__(file, 5, byref=False, recurse=False, buffer_callback=buffers)
            self._main = sys.modules[MAIN]

        def dump(self, obj: Any) -> None:
            with warnings.catch_warnings():
                # dill only warns where what it writes cannot be read again
                warnings.simplefilter('error', dill.PicklingWarning)
                super().dump(obj)

        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is dict:
                return (load_namespace, (MAIN,)) if obj is vars(self._main) else NotImplemented
            if is_definition(obj):
                return reduce_definition(obj, self.definitions.reducer_override(obj))
            if type(obj) in REDUCERS:
                return REDUCERS[type(obj)](obj)
            if type(obj) is types.ModuleType and sys.modules.get(obj.__name__) is obj:
                return importlib.import_module, (obj.__name__,)
            reduce = self.reducers[type(obj)]
            if reduce is not None:
                return reduce(obj)
            self.refusal.check(obj)
            return reduce_stream(obj) or reduce_exception(obj) or NotImplemented

    class LiveUnpickler(dill.Unpickler):  # type: ignore[misc, name-defined]
        def __init__(self, file: io.BytesIO, resolve: Resolve, buffers: Iterable[Any] | None) -> None:
            self.persistent_load = resolve
            super().__init__(file, ignore=True, buffers=buffers)
            self._main = sys.modules[MAIN]

    return LivePickler, LiveUnpickler


# ---------------------------------------------------------------- zodbpickle
@register
class Zodbpickle(Serializer):
    """ZODB's own pickles, protocol 3: data only. Functions and classes of the notebook are refused; buffers stay in band."""

    name = 'zodbpickle'

    @property
    def version(self) -> str:
        from importlib.metadata import version
        return version('zodbpickle')

    def pickler(self, file: io.BytesIO, reference: Reference, buffers: BufferCallback | None = None) -> Pickler:
        zodbpickle = importlib.import_module('zodbpickle.fastpickle')
        pickler: Any = zodbpickle.Pickler(file, 3)
        pickler.persistent_id = functools.partial(_data_only, reference)
        return typing.cast(Pickler, pickler)

    def unpickler(self, file: io.BytesIO, resolve: Resolve, buffers: Iterable[Any] | None = None) -> Unpickler:
        zodbpickle = importlib.import_module('zodbpickle.fastpickle')
        unpickler: Any = zodbpickle.Unpickler(file)
        unpickler.persistent_load = resolve
        return typing.cast(Unpickler, unpickler)


def _data_only(reference: Reference, obj: Any) -> object:
    """zodbpickle would write a name of `__main__`, where the next process may have something else, or nothing."""
    identity = reference(obj)
    if identity is None:
        kind = 'class' if issubclass(type(obj), type) else 'function' if type(obj) is types.FunctionType else None
        if kind and obj.__module__ == MAIN:
            raise SerializationError(f'a {kind} of this notebook; zodbpickle keeps none: give it to the environment, or choose '
                                     f'the serializer {DEFAULT!r}')
    return identity
