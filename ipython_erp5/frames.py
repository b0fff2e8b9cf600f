"""How the frames, series and indexes of pandas stand in pickles: as pandas writes them, with memory that keeps what pandas promises.

Under copy-on-write (pandas 3, or 2 where it is switched on) `b = a[:]` shares the memory of `a`, and who shares with whom is noted in
weak references, which no pickle keeps. So what is shared in that way, and could only be told apart by those notes, is written as memory
of its own: a change of `b` never shows in `a`, in whichever cell. What shares memory without pandas knowing (`to_numpy`,
`DataFrame(array, copy=False)`) goes on sharing it. Without copy-on-write all views are views, as `arrays` has it.

The values of an index never change, so they too are written as memory of their own: two frames that have the same labels share
no more than that. Names of an index do change; one index in two places is still one.

Nothing is written here that has a function of ours to load it. pandas is not imported here.
"""

import copyreg
import sys
from typing import Any

from .arrays import Reducer, detached, root_of
from .arrays import reducer_of as reducer_of_array


class Reducers(dict[type, Reducer | None]):
    """What reduces the instances of a type, None: whatever else does. For the time of one dump, as libraries come and classes go."""

    def __missing__(self, kind: type) -> Reducer | None:
        self[kind] = found = reducer_of_array(kind) or reducer_of(kind)
        return found


def reducer_of(kind: type) -> Reducer | None:
    if 'pandas' not in sys.modules or kind.__module__.partition('.')[0] == 'builtins':
        return None
    kinds = ((known('pandas.core.internals.blocks', 'Block'), reduce_block), (known('pandas', 'Index'), reduce_index),
             (known('pandas.core.internals.managers', 'SingleBlockManager'), reduce_series),
             (known('pandas', 'CategoricalDtype'), reduce_categories), (known('pandas.core.arrays', 'ExtensionArray'), reduce_values),
             (known('pandas.api.extensions', 'ExtensionDtype'), reduce_values))
    return next((reducer for base, reducer in kinds if issubclass(kind, base)), None)


def known(module: str, name: str) -> Any:
    """A class of a module; nothing while the module is still being imported."""
    return getattr(sys.modules.get(module), name, ())


def reduce_block(block: Any) -> Any:
    """The columns of one type of a frame."""
    load, (_, *rest), *more = block.__reduce__()
    return load, (kept_values(block), *map(own_placement, rest)), *more


def reduce_series(manager: Any) -> Any:
    """What a series consists of: pandas writes it in another way than frames, with its labels twice, and reads only '0.14.1'."""
    axes, block = list(manager.axes), manager.blocks[0]
    blocks = [{'values': kept_values(block), 'mgr_locs': own_placement(block.mgr_locs.indexer)}]
    return getattr(copyreg, '__newobj__'), (type(manager),), (axes, [], [], {'0.14.1': {'axes': axes, 'blocks': blocks}})


def kept_values(block: Any) -> Any:
    """The values of a block, with the memory that others have too where pandas does not know of them, else with their own."""
    tracked = copies_on_write() and (block.refs.has_reference() or not all(map(whole, parts(block.values))))
    return own(block.values) if tracked else block.values


def own_placement(value: Any) -> Any:
    """Which columns a block has, which other frames have too."""
    if type(value) is slice:
        return slice(value.start, value.stop, value.step)
    return detached(value) if type(value) is sys.modules['numpy'].ndarray else value


def copies_on_write() -> bool:
    pandas = sys.modules['pandas']
    if int(pandas.__version__.partition('.')[0]) >= 3:
        return True
    return bool(pandas.options.mode.copy_on_write is True)


def parts(values: Any) -> list[Any]:
    """The arrays of numpy that the values of a block are made of."""
    ndarray = sys.modules['numpy'].ndarray
    found = [values, *(getattr(values, name, None) for name in ('_ndarray', '_data', '_mask'))]
    return [part for part in found if type(part) is ndarray]


def whole(array: Any) -> bool:
    """Whether an array shows all of the memory of its root: only then is that worth writing."""
    return bool(root_of(array).nbytes == array.nbytes)


def own(values: Any) -> Any:
    """The same values, of which nothing says with whom they share memory."""
    if isinstance(values, sys.modules['numpy'].ndarray):
        return detached(values)
    if not hasattr(values, '_from_backing_data'):
        return values.copy()
    alone = values._from_backing_data(detached(values._ndarray))
    if hasattr(values, '_freq'):
        alone._freq = values._freq
    return alone


def reduce_values(values: Any) -> Any:
    """The values of one column, or their type, without what they remember of answers that they gave."""
    reduction = values.__reduce_ex__(5)
    if isinstance(reduction, str) or len(reduction) < 3:
        return reduction
    load, arguments, state, *more = reduction
    return load, arguments, tuple(map(forgetful, state)) if type(state) is tuple else forgetful(state) or None, *more


def forgetful(state: Any) -> Any:
    return {name: value for name, value in state.items() if name != '_cache'} if type(state) is dict else state


def reduce_index(index: Any) -> Any:
    reduction = index.__reduce__()
    load, arguments, *more = reduction
    if len(arguments) != 2 or type(arguments[1]) is not dict:
        return reduction
    kind, contents = arguments
    return load, (kind, {name: own_part(value) for name, value in contents.items()}), *more


def own_part(value: Any) -> Any:
    """What an index is made of: labels, other indexes, numbers into them."""
    pandas = sys.modules['pandas']
    if type(value) is list:
        return [own_part(part) for part in value]
    if isinstance(value, pandas.Index):
        return value.view()
    return own(value) if isinstance(value, (sys.modules['numpy'].ndarray, pandas.api.extensions.ExtensionArray)) else value


def reduce_categories(dtype: Any) -> Any:
    """A categorical dtype, which never changes although the index of its categories has a name."""
    load, arguments, state, *more = dtype.__reduce_ex__(5)
    if type(state) is dict and state.get('categories') is not None:
        state = {**state, 'categories': state['categories'].view()}
    return load, arguments, state, *more
