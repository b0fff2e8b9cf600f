"""How functions of a notebook stand in pickles: with live globals, shared cells, and code that knows its Python version.

    def f(): return x + n      ─►  load_function(code, namespace of __main__, 'f', (cell of n,)) + attributes
                                     │                 └─ load_namespace('__main__'): the dict of the process that loads it
                                     └─ load_code((3, 11), …): refused by another Python version
    class A(P): …      ─►  load_class(metaclass, 'A', (P,), {__module__, __qualname__, __slots__}) + everything else in it

Loading a class runs none of the hooks that defining it ran (`__init_subclass__`, `__set_name__`, a metaclass of the notebook):
what they did is in the pickle. Enumerations, and classes whose metaclass is a library's, are made by their metaclass.

Stored pickles name the `load_…` functions of this module and their arguments: they stay as they are for ever.
"""

import abc
import copyreg
import dataclasses
import enum
import functools
import importlib
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from .errors import SerializationError

MAIN = '__main__'


class Namespace:
    """Stands for the globals of a module in a pickle."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return load_namespace, (''.join(list(self.name)),)  # a copy: whether it is the one string of the process would show in the bytes


def load_namespace(name: str) -> dict[str, Any]:
    return vars(sys.modules.get(name) or importlib.import_module(name))


def stand_in(value: object) -> object:
    return Namespace(MAIN) if value is vars(sys.modules[MAIN]) else value


def module_of(namespace: dict[str, Any]) -> str | None:
    """The module whose globals these are, if every process has it: `__main__`, or one that can be imported."""
    if namespace is vars(sys.modules[MAIN]):
        return MAIN
    name = namespace.get('__name__')
    module = sys.modules.get(name) if isinstance(name, str) else None
    found = module is not None and vars(module) is namespace and getattr(module, '__spec__', None) is not None
    return name if found else None


def load_function(code: types.CodeType, namespace: dict[str, Any], name: str,
                  closure: tuple[types.CellType, ...] | None) -> types.FunctionType:
    """A function in its namespace; FunctionType reads `__builtins__` there, so a namespace without gets the usual ones."""
    namespace.setdefault('__builtins__', __builtins__)
    return types.FunctionType(code, namespace, name, None, closure)


def load_function_state(function: types.FunctionType, state: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]) -> None:
    """`state`: the function's own dictionary, its settable attributes, and globals that it brings along.

    cloudpickle's way would also set `__builtins__` in the notebook's namespace, which belongs to the notebook.
    """
    own, attributes, namespace = state
    vars(function).update(own)
    function.__globals__.update(namespace)
    attributes.pop('_cloudpickle_submodules', None)  # they were in the pickle to be imported
    for name, value in attributes.items():
        setattr(function, name, value)


def by_value(kind: Any) -> bool:
    """Whether a class or function is pickled by value: it cannot be imported."""
    from cloudpickle.cloudpickle import _should_pickle_by_reference
    return not _should_pickle_by_reference(kind)


def is_definition(obj: object) -> bool:
    """Whether it is a function or a class."""
    return isinstance(obj, types.FunctionType) or issubclass(type(obj), type)


def reduce_definition(obj: Any, reduction: Any) -> Any:
    """cloudpickle's reduction of a function or class, as it is written here."""
    return reduce_class(obj, reduction) if issubclass(type(obj), type) else reduce_function(obj, reduction)


def reduce_function(function: types.FunctionType, reduction: Any) -> Any:
    """cloudpickle's reduction of a function, with its module's live globals and its very cells instead of copies."""
    if reduction is NotImplemented:
        return reduction
    (code, namespace, *_), (own, attributes) = reduction[1], reduction[2]
    copied = attributes.pop('__globals__')
    attributes.pop('__closure__')
    module = module_of(function.__globals__)
    if module is not None:
        namespace, copied = Namespace(module), {}
        attributes.pop('_cloudpickle_submodules', None)  # what the namespace imports, and not what is imported just now
    return (load_function, (code, namespace, function.__name__, function.__closure__), (own, attributes, copied),
            None, None, load_function_state)


# metaclasses that leave all they do in the dictionary of the class
LEAVING_METACLASSES = {type, object, abc.ABCMeta, type(typing.Protocol), getattr(typing, '_TypedDictMeta')}
ENUM_KEPT = {'_value_', '_name_', '__objclass__', '_sort_order_'}  # what the metaclass gives every member


def reduce_class(kind: Any, reduction: Any) -> Any:
    """cloudpickle's reduction of a class, whose loading runs no hooks and brings `__slots__` and `__qualname__` back."""
    left = all(base in LEAVING_METACLASSES or base.__module__ == MAIN for base in type(kind).__mro__)
    if not isinstance(reduction, tuple) or not reduction[0].__name__.startswith('_make_skeleton_class') or not left:
        return reduce_enumeration(kind, untracked(reduction, -2)) if isinstance(kind, enum.EnumMeta) else untracked(reduction, -2)
    metaclass, name, _, namespace = reduction[1][:4]
    slots, namespace['__qualname__'] = own_slots(kind), kind.__qualname__
    if '__slots__' in vars(kind):
        namespace['__slots__'] = slots
    # copies of the names: whether a name is the one object of the process or not would show in the bytes
    contents = {''.join(name): value for name, value in sorted(vars(kind).items()) if name not in {*slots, *namespace, '_abc_impl'}}
    if '__slots__' in vars(kind):
        contents['__slots__'] = vars(kind)['__slots__']
    return load_class, (metaclass, name, kind.__bases__, namespace), (contents, registered(kind)), None, None, load_class_contents


def reduce_enumeration(kind: Any, reduction: Any) -> Any:
    """cloudpickle's reduction of an enumeration, with its aliases and what its members have besides their values."""
    if not isinstance(reduction, tuple) or not reduction[0].__name__.startswith('_make_skeleton_enum'):
        return reduction
    make, (bases, name, qualname, _, *others), (contents, slots), *_ = reduction
    members = {alias: member.value for alias, member in kind.__members__.items()}
    contents = {attribute: value for attribute, value in contents.items() if attribute not in members}
    own = {member.name: {key: value for key, value in vars(member).items() if key not in ENUM_KEPT} for member in kind}
    return (make, (bases, name, qualname, members, *others), (contents, {key: values for key, values in own.items() if values}),
            None, None, load_enumeration_contents)


def load_enumeration_contents(kind: Any, state: tuple[dict[str, Any], dict[str, dict[str, Any]]]) -> None:
    """`state`: what is in the class besides its members, and what members have besides name and value."""
    from cloudpickle.cloudpickle import _class_setstate
    contents, members = state
    _class_setstate(kind, (contents, {}))
    for name, values in members.items():
        vars(kind[name]).update(values)


def own_slots(kind: type) -> tuple[str, ...]:
    """What a class adds to the layout of its instances; `__slots__` may be an iterator that has ended."""
    own = {name: value for name, value in vars(kind).items() if getattr(value, '__objclass__', None) is kind}
    return tuple(sorted(name for name, value in own.items() if type(value) is types.MemberDescriptorType and value.__name__ == name
                        or type(value) is types.GetSetDescriptorType and name in ('__dict__', '__weakref__')))


def registered(kind: type) -> list[type]:
    """The classes that were registered with an abstract class and are still there."""
    found = (reference() for reference in getattr(abc, '_get_dump')(kind)[0]) if isinstance(kind, abc.ABCMeta) else ()
    return [other for other in found if other is not None]


def load_class(metaclass: type, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
    """An empty class. No hook sees it, unless its bases cannot be put in place afterwards: then `__init_subclass__` does."""
    kind = silently_made(metaclass, name, bases, namespace)
    if kind is None:
        kind = type.__new__(metaclass, name, bases, namespace)
    if issubclass(metaclass, abc.ABCMeta):
        getattr(abc, '_abc_init')(kind)
    return kind


def silently_made(metaclass: type, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type | None:
    """None where there is nothing to silence, or Python does not exchange the layouts."""
    if not any('__init_subclass__' in vars(above) for base in bases for above in base.__mro__ if above is not object):
        return None
    silent = silent_base(bool(bases[0].__dictoffset__), bool(bases[0].__weakrefoffset__))
    try:
        kind: type = type.__new__(metaclass, name, (silent, *bases), dict(namespace))
        type.__setattr__(kind, '__bases__', bases)
    except TypeError:
        return None
    return kind


@functools.cache
def silent_base(has_dict: bool, has_weakref: bool) -> type:
    """A base whose `__init_subclass__` does nothing. Python exchanges it only for one of the same layout."""
    slots = ['__dict__'] * has_dict + ['__weakref__'] * has_weakref
    return type('Silent', (), {'__slots__': slots, '__init_subclass__': classmethod(lambda cls, **options: None)})


def load_class_contents(kind: type, state: tuple[dict[str, Any], list[type]]) -> None:
    """`state`: what is in the class, and the classes registered with it. Its metaclass is not asked about what is set."""
    contents, others = state
    for name, value in contents.items():
        type.__setattr__(kind, name, value)
    for other in others:
        abc.ABCMeta.register(typing.cast(abc.ABCMeta, kind), other)


def untracked(reduction: Any, position: int) -> Any:
    """cloudpickle's reduction of a class or type variable without the number by which loading it would return, and change, the
    one that the process already has."""
    if not isinstance(reduction, tuple) or not reduction[0].__name__.startswith(('_make_skeleton', '_make_typevar')):
        return reduction
    make, arguments, *rest = reduction
    arguments = list(arguments)
    arguments[position] = None
    return make, tuple(arguments), *rest


def reduce_typevar(variable: Any) -> Any:
    import cloudpickle
    return untracked(cloudpickle.Pickler.dispatch_table[typing.TypeVar](variable), -1)


def reduce_cell(cell: types.CellType) -> tuple[Any, ...]:
    """A cell is made empty and filled later, so that functions that share it still do, and a function may be in its own."""
    try:
        return load_cell, (), (cell.cell_contents,), None, None, load_cell_contents
    except ValueError:
        return load_cell, ()


def load_cell() -> types.CellType:
    return types.CellType()


def load_cell_contents(cell: types.CellType, contents: tuple[object]) -> None:
    cell.cell_contents = contents[0]


def reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    import cloudpickle
    _, arguments = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return load_code, (sys.version_info[:2], *arguments)


def load_code(version: tuple[int, int], *arguments: Any) -> types.CodeType:
    """Running the code of another Python version would crash the process rather than raise."""
    if version != sys.version_info[:2]:
        raise SerializationError(f'a function or class was saved by Python {version[0]}.{version[1]}, and this is Python '
                                 f'{sys.version_info[0]}.{sys.version_info[1]}: define it again')
    return types.CodeType(*arguments)


def reduce_cached(wrapper: Any) -> str | tuple[Any, ...]:
    """What `functools.lru_cache` made: by name where it can be imported, else without what it has remembered."""
    target: Any = None if wrapper.__module__ == MAIN else sys.modules.get(wrapper.__module__)
    for part in wrapper.__qualname__.split('.'):
        target = getattr(target, part, None)
    if target is wrapper:
        return str(wrapper.__qualname__)
    own = {name: value for name, value in vars(wrapper).items() if name != '__wrapped__'}
    return load_cached, (wrapper.__wrapped__, wrapper.cache_parameters()), own


def load_cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def reduce_cached_property(cached: Any) -> tuple[Any, ...]:
    """Up to Python 3.11 it has a lock, which nobody holds between cells."""
    return load_cached_property, (cached.func,), {name: value for name, value in vars(cached).items() if name not in ('func', 'lock')}


def load_cached_property(function: Callable[[Any], Any]) -> Any:
    return functools.cached_property(function)


def reduce_missing(missing: object) -> str:
    """By name: whoever meets it asks whether it is the one object."""
    return 'MISSING'


def reduce_stream(obj: object) -> tuple[Any, ...] | None:
    """The streams that every process has under the same name; None for anything else."""
    return next(((getattr, (sys, name)) for name in ('stdout', 'stderr') if obj is getattr(sys, name)), None)


def reduce_exception(obj: object) -> tuple[Any, ...] | None:
    """An exception whose class has an `__init__` of its own, without calling that again: its parameters are not what `args` has.

    None for anything else, for classes that say themselves how they are reduced, and where C keeps more than `args`.
    """
    kind = type(obj)
    if not isinstance(obj, BaseException) or type(kind.__init__) is not types.FunctionType or type(kind.__new__) is types.FunctionType:
        return None
    if kind.__reduce__ is not BaseException.__reduce__ or kind.__reduce_ex__ is not object.__reduce_ex__:
        return None
    base = next(base for base in kind.__mro__ if base.__module__ == 'builtins')
    if base.__basicsize__ != BaseException.__basicsize__:
        return None
    return getattr(copyreg, '__newobj__'), (kind, *obj.args), vars(obj) or None


# cloudpickle's own reductions of these copy what is shared, or let a process crash or change
REDUCERS: dict[type, Callable[[Any], Any]] = {
    types.CellType: reduce_cell, types.CodeType: reduce_code, typing.TypeVar: reduce_typevar,
    functools._lru_cache_wrapper: reduce_cached, functools.cached_property: reduce_cached_property,
    type(dataclasses.MISSING): reduce_missing}
