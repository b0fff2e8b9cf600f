"""The Python paths that lead to the objects inside a value, through what a pickler visited of it.

    walk(value, 'results', ids of the visited objects) ─► {id(lock): link};  link.path() == "results['model'].hooks[3].cb"

Breadth first, so the shortest path. Where Python has no expression for a step, words stand for it: `f closure variable 'x'`,
`s element`, `d key ('a', 1)`. Nothing here calls `__eq__`, `__hash__`, `__repr__`, `__getattr__` or a property of a
user's object.
"""

import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .fidelity import type_name

Step = tuple[str, object]
ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
PLAIN = ATOMS | {list, dict, tuple, set, frozenset}


@dataclass(frozen=True)
class Link:
    """How the walk came to an object; chains of these instead of texts keep long paths linear."""

    parent: 'Link | None'
    step: str

    def path(self) -> str:
        steps, link = [self.step], self.parent
        while link is not None:
            steps.append(link.step)
            link = link.parent
        text = ''
        for step in reversed(steps):
            text = step.format(text) if step.startswith('type(') else text + step
        return text


def walk(root: object, name: str, visited: set[int]) -> dict[int, Link]:
    """The shortest way to each object below `root` whose id is in `visited` (they must be alive), breadth first."""
    links = {id(root): Link(None, name)}
    queue = deque([root])
    while queue:
        obj = queue.popleft()
        here = links[id(obj)]
        for step, child in steps(obj):
            if id(child) in visited and id(child) not in links and type(child) not in ATOMS:
                links[id(child)] = Link(here, step)
                queue.append(child)
    return links


def key_text(key: object) -> str:
    """A key as it is written in a path: only builtin keys are asked for their repr."""
    if type(key) in ATOMS or type(key) is tuple and all(type(part) in ATOMS for part in key):
        text = repr(key)
        return text if len(text) <= 60 else text[:59] + '…'
    return f'<{type_name(type(key))}>'


def steps(obj: object) -> list[Step]:
    """What is directly inside an object, and what to write behind its path to get there."""
    kind, found = type(obj), []
    for base, inside in INSIDE.items():
        if issubclass(kind, base):
            found += _guarded(inside, obj)
    if kind not in PLAIN:
        found += _guarded(_attributes, obj)
        found += _guarded(_slots, obj)
        found += _guarded(_library_items, obj)
        found.append(('type({})', kind))
    return found


def _guarded(inside: Callable[[Any], Iterable[Step]], obj: object) -> list[Step]:
    """The parts that can be had: an object that cannot be looked into has none."""
    try:
        return list(inside(obj))
    except KeyboardInterrupt:
        raise
    except BaseException:
        return []


def _items(obj: dict[object, object]) -> Iterator[Step]:
    for key, value in list(dict.items(obj)):
        if type(value) not in ATOMS:
            yield f'[{key_text(key)}]', value
        if type(key) not in ATOMS:
            yield f' key {key_text(key)}', key


def _sequence(base: type) -> Callable[[Any], Iterator[Step]]:
    def inside(obj: Any) -> Iterator[Step]:
        return ((f'[{index}]', value) for index, value in enumerate(base.__iter__(obj)))  # type: ignore[attr-defined]
    return inside


def _elements(base: type) -> Callable[[Any], Iterator[Step]]:
    def inside(obj: Any) -> Iterator[Step]:
        return ((' element', value) for value in base.__iter__(obj))  # type: ignore[attr-defined]
    return inside


def _function(obj: types.FunctionType) -> Iterator[Step]:
    for name, cell in zip(obj.__code__.co_freevars, obj.__closure__ or ()):
        if cell != types.CellType():
            yield f' closure variable {name!r}', cell.cell_contents
    for index, value in enumerate(obj.__defaults__ or ()):
        yield f'.__defaults__[{index}]', value
    for attribute in ('__kwdefaults__', '__annotations__'):
        for key, value in (getattr(obj, attribute) or {}).items():
            yield f'.{attribute}[{key!r}]', value
    if obj.__globals__ is not vars(sys.modules['__main__']):
        for name in obj.__code__.co_names:
            if name in obj.__globals__:
                yield f' global {name!r}', obj.__globals__[name]


def _named(*names: str) -> Callable[[Any], Iterator[Step]]:
    def inside(obj: Any) -> Iterator[Step]:
        for name in names:
            value = getattr(obj, name, None)
            if isinstance(value, tuple):
                yield from ((f'.{name}[{index}]', part) for index, part in enumerate(value))
            elif type(value) is dict:
                yield from ((f'.{name}{step}', part) for step, part in _items(value))
            yield f'.{name}', value
    return inside


def _class(obj: type) -> Iterator[Step]:
    for name, value in list(type.__getattribute__(obj, '__dict__').items()):
        yield f'.{name}', value
    yield from ((f'.__bases__[{index}]', base) for index, base in enumerate(obj.__bases__))


def _attributes(obj: object) -> Iterator[Step]:
    attributes = object.__getattribute__(obj, '__dict__')
    if type(attributes) is dict and not isinstance(obj, types.ModuleType):
        yield from ((f'.{name}', value) for name, value in list(attributes.items()))


def _slots(obj: object) -> Iterator[Step]:
    for base in type(obj).__mro__:
        for name, slot in list(vars(base).items()):
            if isinstance(slot, types.MemberDescriptorType):
                for value in _guarded(lambda obj: [('', slot.__get__(obj))], obj):
                    yield f'.{name}', value[1]


def _library_items(obj: Any) -> Iterator[Step]:
    """Elements of numpy's object arrays and of pandas's object columns; neither library is imported for it."""
    kind = type_name(type(obj))
    if kind == 'numpy.ndarray' and obj.dtype.hasobject:
        for flat, value in enumerate(obj.flat):
            index = sys.modules['numpy'].unravel_index(flat, obj.shape)
            yield f"[{', '.join(str(int(i)) for i in index)}]", value
    elif kind.startswith('pandas.') and kind.endswith('.Series') and obj.dtype == object:
        yield from ((f'.iloc[{index}]', value) for index, value in enumerate(obj.array))
    elif kind.startswith('pandas.') and kind.endswith('.DataFrame'):
        for position, column in enumerate(obj.columns):
            series = obj.iloc[:, position]
            if series.dtype == object:
                yield from ((f'[{key_text(column)}].iloc[{index}]', value) for index, value in enumerate(series.array))


INSIDE: dict[type, Callable[[Any], Iterable[Step]]] = {
    dict: _items, list: _sequence(list), tuple: _sequence(tuple), deque: _sequence(deque), set: _elements(set),
    frozenset: _elements(frozenset), types.FunctionType: _function, types.MethodType: _named('__self__', '__func__'),
    type: _class, staticmethod: _named('__func__'), classmethod: _named('__func__'), property: _named('fget', 'fset', 'fdel'),
    BaseException: _named('args')}


def reduces(obj: object) -> bool:
    """Whether pickling an object is more than writing a builtin value or a builtin container."""
    return type(obj) not in PLAIN
