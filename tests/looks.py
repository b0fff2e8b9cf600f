"""How variables look: their shapes and values, and which of them are the same object. Programs call it in both worlds that are compared.

    show(globals())            every variable of a namespace
    show_each(a=lambda: a)     these, each named by a function of its own
    say(value)                 one value, or an error

The first time that a mutable object is met it gets a number, and is described; after that only the number stands for it. So two
texts are equal if and only if the two worlds hold the same values with the same sharing. Not looked at, because serializers may
change it and no program should care: whether equal immutable objects (numbers, strings, tuples) are one object, the order of a set.
"""

import builtins
import enum
import functools
import hashlib
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy
import pandas

ATOMS = (type(None), bool, int, float, complex, str, bytes, range, slice, type(Ellipsis))
NOT_THE_USERS = {'In', 'Out', 'get_ipython', 'exit', 'quit', 'open', 'context', 'environment', '_ih', '_oh', '_dh', '_i', '_ii', '_iii'}
OF_EVERY_CLASS = {'__module__', '__dict__', '__weakref__', '__qualname__', '__firstlineno__', '__static_attributes__', '__match_args__',
                  '__dataclass_fields__', '__dataclass_params__', '__abstractmethods__', '_abc_impl', '__signature__', '__annotate__',
                  '__annotate_func__', '__slotnames__', '__annotations_cache__', '__orig_bases__', '__parameters__'}
LONG = 64  # items of an array or a bytearray, from which on their digest stands for them


def show(namespace: Mapping[str, Any]) -> None:
    names = {name for name in namespace if name not in NOT_THE_USERS and not (name.startswith('__') and name != '__')}
    write(Look(namespace).lines({name: namespace[name] for name in names}))


def show_each(**named: Callable[[], Any]) -> None:
    """Names of builtins that mean the builtins are left out."""
    found: dict[str, Any] = {}
    for name, get in named.items():
        try:
            found[name] = get()
        except NameError:
            continue
        if found[name] is getattr(builtins, name, found):
            del found[name]
    write(Look(next(iter(named.values())).__globals__).lines(found))


def say(value: Any) -> None:
    if isinstance(value, RecursionError):
        write(['RecursionError'])
    elif isinstance(value, BaseException):
        write([f'{type(value).__name__}: {value}'])
    else:
        write([repr(Look(None).shape(value))])  # it must not look for its caller's namespace: that may load all of it


def write(lines: Iterable[str]) -> None:
    sys.stdout.write('\n'.join([*lines, '']))


class Look:
    def __init__(self, namespace: Mapping[str, Any] | None) -> None:
        self.namespace = namespace
        self.seen: dict[int, str] = {}
        self.kept: list[Any] = []  # so that no id is used twice
        self.arrays: list[tuple[str, Any]] = []

    def lines(self, values: Mapping[str, Any]) -> list[str]:
        return [f'{name} = {self.shape(values[name])!r}' for name in sorted(values)]

    def shape(self, value: Any) -> Any:
        if isinstance(value, enum.Enum):
            return ['member', self.shape(type(value)), value.name]
        if type(value) in ATOMS:
            return value
        if type(value) is dict and self.is_namespace(value):
            return 'the namespace'
        if isinstance(value, (tuple, frozenset, types.ModuleType, numpy.generic, numpy.dtype)):
            return self.immutable(value)
        if id(value) in self.seen:
            return self.seen[id(value)]
        self.seen[id(value)] = number = f'#{len(self.seen)}'
        self.kept.append(value)
        return [number, *self.mutable(value, number)]

    def is_namespace(self, value: Mapping[str, Any]) -> bool:
        if self.namespace is None:
            return '__builtins__' in value and value.get('__name__') == '__main__'
        return value is self.namespace

    def immutable(self, value: Any) -> Any:
        if isinstance(value, types.ModuleType):
            return f'module {value.__name__}'
        if isinstance(value, tuple):
            return (type(value).__name__, *map(self.shape, value))
        return [type(value).__name__, *self.unordered(value)] if isinstance(value, frozenset) else repr(value)

    def unordered(self, items: Iterable[Any]) -> list[Any]:
        return [self.shape(item) for item in sorted(items, key=lambda item: (type(item).__name__, repr(item).split(' at 0x')[0]))]

    def mutable(self, value: Any, number: str) -> Iterable[Any]:
        for kind, describe in DESCRIBED.items():
            if isinstance(value, kind):
                return describe(self, value, number)  # type: ignore[no-any-return]
        return self.instance(value)

    def items(self, value: Any, number: str) -> Iterable[Any]:
        return [type(value).__name__, *map(self.shape, value), *self.own(value)]

    def set(self, value: Any, number: str) -> Iterable[Any]:
        return [type(value).__name__, *self.unordered(value)]

    def dict(self, value: Any, number: str) -> Iterable[Any]:
        return [type(value).__name__, *((self.shape(key), self.shape(item)) for key, item in value.items()), *self.own(value)]

    def bytes(self, value: Any, number: str) -> Iterable[Any]:
        return ['bytearray', bytes(value) if len(value) < LONG else digest(value)]

    def type(self, value: Any, number: str) -> Iterable[Any]:
        if value.__module__ != '__main__':
            return ['class', value.__module__, value.__qualname__]
        own = {name: item for name, item in vars(value).items() if name not in OF_EVERY_CLASS and not self.machinery(value, name, item)}
        return ['class', value.__qualname__, *map(self.shape, value.__bases__), {name: self.shape(own[name]) for name in sorted(own)}]

    @staticmethod
    def machinery(owner: Any, name: str, value: Any) -> bool:
        """What Python itself has put into a class: slots, and what enum and dataclass write."""
        return isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)) or issubclass(owner, enum.Enum) and (
            name.startswith('_')) or hasattr(owner, '__dataclass_fields__') and name.startswith('__')

    def function(self, value: Any, number: str) -> Iterable[Any]:
        return ['function', value.__qualname__, self.is_namespace(value.__globals__), value.__doc__,
                self.shape(value.__defaults__), self.shape(value.__kwdefaults__), *map(self.shape, value.__closure__ or ()),
                self.shape(vars(value))]

    def cell(self, value: Any, number: str) -> Iterable[Any]:
        try:
            return ['cell', self.shape(value.cell_contents)]
        except ValueError:
            return ['empty cell']

    def method(self, value: Any, number: str) -> Iterable[Any]:
        return ['method', value.__name__, self.shape(value.__self__)]

    def wrapper(self, value: Any, number: str) -> Iterable[Any]:
        return [type(value).__name__, self.shape(value.__func__)]

    def property(self, value: Any, number: str) -> Iterable[Any]:
        return ['property', self.shape(value.fget), self.shape(value.fset)]

    def partial(self, value: Any, number: str) -> Iterable[Any]:
        return ['partial', self.shape(value.func), self.shape(value.args), self.shape(value.keywords)]

    def array(self, value: Any, number: str) -> Iterable[Any]:
        """With the earlier arrays that it shares memory with: what is written to one of them is seen in the other."""
        shared = [other for other, array in self.arrays if numpy.shares_memory(array, value)]
        self.arrays.append((number, value))
        if value.dtype == object:
            items: Any = [self.shape(item) for item in value.reshape(-1)]
        else:
            items = value.tolist() if value.size < LONG else digest(numpy.ascontiguousarray(value))
        return ['array', str(value.dtype), value.shape, items, *shared]

    def frame(self, value: Any, number: str) -> Iterable[Any]:
        return [type(value).__name__, value.to_json(default_handler=repr), repr(value.dtypes if value.ndim == 2 else value.dtype)]

    def iterator(self, value: Any, number: str) -> Iterable[Any]:
        return [type(value).__name__, *map(self.shape, value.__reduce__()[1:])]

    def error(self, value: Any, number: str) -> Iterable[Any]:
        return ['error', self.shape(type(value)), *map(self.shape, value.args), *self.own(value)]

    def instance(self, value: Any) -> Iterable[Any]:
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, '__slots__', ())]
        filled = [(name, self.shape(getattr(value, name))) for name in slots if hasattr(value, name)]
        return [self.shape(type(value)), *self.own(value), *filled]

    def own(self, value: Any) -> Iterable[Any]:
        """The attributes of an instance, in the order in which they were set."""
        return [(name, self.shape(item)) for name, item in getattr(value, '__dict__', {}).items()]


def digest(value: Any) -> str:
    return f'{len(value)} {hashlib.sha1(value).hexdigest()}'


DESCRIBED: dict[Any, Any] = {
    list: Look.items, set: Look.set, dict: Look.dict, bytearray: Look.bytes, type: Look.type, types.FunctionType: Look.function,
    types.CellType: Look.cell, (types.MethodType, types.BuiltinMethodType): Look.method, (staticmethod, classmethod): Look.wrapper,
    property: Look.property, functools.partial: Look.partial, numpy.ndarray: Look.array, (pandas.DataFrame, pandas.Series): Look.frame,
    type(iter([])): Look.iterator, BaseException: Look.error}
