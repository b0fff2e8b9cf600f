"""What libraries keep for everybody: types whose instances never change, and objects that stand in many of their instances.

Two variables that reach the same object of these share nothing: no change through one would show in the other as the user's doing.
None of the libraries is imported here.
"""

import sys
from collections.abc import Iterable
from typing import Any

# by library: what never changes, or stands for itself everywhere
IMMUTABLES = {
    'numpy': ('generic', 'dtype', 'ufunc'), 'numpy._globals': ('_NoValueType',), 'numpy.ma': ('core.MaskedConstant',),
    'pandas': ('Interval', 'Period', 'offsets.BaseOffset', '_libs.missing.NAType', 'api.extensions.ExtensionDtype'),
    'pyarrow': ('Array', 'ChunkedArray', 'RecordBatch', 'Table', 'Scalar', 'DataType', 'Field', 'Schema', 'Buffer', 'KeyValueMetadata'),
    'logging': ('Logger',), 'dataclasses': ('_MISSING_TYPE',), 'typing': ('_Final',),
}
KEPT = ('Path', 'Colormap', 'RcParams', 'Cycler', 'ConversionInterface', '_SwitchableDateConverter')  # what matplotlib keeps and gives out


def immutables() -> tuple[type, ...]:
    """The types of `IMMUTABLES` in the libraries that have been imported by now."""
    named = [(sys.modules[library], name) for library, names in IMMUTABLES.items() if library in sys.modules for name in names]
    return tuple(kind for kind in (attribute(library, name) for library, name in named) if isinstance(kind, type))


def attribute(place: Any, name: str) -> Any:
    """An attribute of an attribute …, None where there is none: names move between versions, and an import may be under way."""
    for part in name.split('.'):
        place = getattr(place, part, None)
    return place


def everybodys(kinds: Iterable[type]) -> set[int]:
    """Ids of the objects that libraries put into the state of many instances, of the libraries that these types are of."""
    packages = {kind.__module__.partition('.')[0] for kind in kinds}
    found = kept_by_pandas() if 'pandas' in packages else set()
    return found | kept_by_matplotlib().keys() if 'matplotlib' in packages else found


def kept_by_pandas() -> set[int]:
    frames = [getattr(sys.modules.get('pandas'), name, None) for name in ('DataFrame', 'Series')]
    return {id(getattr(kind, '_metadata')) for kind in frames if hasattr(kind, '_metadata')}


walked: set[str] = set()
kept: dict[int, object] = {}  # with the objects, as an id is theirs only while they live


def kept_by_matplotlib() -> dict[int, object]:
    """What is in its modules and their classes: settings, colours and shapes, and never a figure of somebody; by id.

    Every module is walked once, 20 ms for all; settings are exchanged by those who use it.
    """
    new = [name for name in list(sys.modules) if name.partition('.')[0] == 'matplotlib' and name not in walked]
    walked.update(new)
    todo = [value for name in new for value in list(vars(sys.modules[name]).values())]
    todo += [value for kind in todo if isinstance(kind, type) for value in list(vars(kind).values())]
    todo += parts(sys.modules['matplotlib'].rcParams) if 'matplotlib' in sys.modules else []
    while todo:
        value = todo.pop()
        if id(value) not in kept and is_kept[type(value)]:
            kept[id(value)] = value
            todo.extend(parts(value))
    return kept


class Kept(dict[type, bool]):
    """Whether objects of a type are looked into: containers, arrays, marks (`object()`), and the `KEPT`."""

    def __missing__(self, kind: type) -> bool:
        named = any(base.__name__ in KEPT and base.__module__.startswith(('matplotlib.', 'cycler')) for base in kind.__mro__)
        plain = kind is object or (kind.__module__, kind.__name__) == ('numpy', 'ndarray')
        self[kind] = found = named or plain or issubclass(kind, (dict, list, tuple, set, frozenset))
        return found


is_kept = Kept()


def parts(value: Any) -> list[Any]:
    """What is in an object of a type that is looked into."""
    if isinstance(value, dict):
        return list(dict.values(value))
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    return [vars(value), *vars(value).values()] if hasattr(value, '__dict__') else [getattr(value, 'base', None)]
