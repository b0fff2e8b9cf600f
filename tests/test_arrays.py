"""Arrays and frames through a dump and back: values, what shares memory with what, and the same bytes the second time."""

import array
import contextlib
import sys
import textwrap
import types

import numpy as np
import pandas as pd
import pyarrow
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from ipython_erp5 import arrays, serializers
from ipython_erp5.errors import SerializationError

NAMES = ['cloudpickle', 'dill']


def nothing(obj):
    """A reference, and a way back, for data without any."""


def large_ones(taken):
    """The callback of a pickler that takes large buffers out of band, into `taken`."""
    def buffers(buffer):
        if buffer.raw().nbytes < arrays.LARGE:
            return True
        taken.append(bytearray(buffer.raw()))  # stands for mapped memory: of its own, and written to
        return False
    return buffers


def dumped(name, values):
    taken = []
    return serializers.get(name).dump(values, nothing, large_ones(taken)), taken


def load(name, data, taken):
    return serializers.get(name).load(data, nothing, [bytearray(buffer) for buffer in taken])


def again(name, *values):
    """What comes back, dumped with the same bytes."""
    data, taken = dumped(name, values)
    loaded = load(name, data, taken)
    assert dumped(name, loaded) == (data, taken)
    return loaded


def steady(name, *values):
    """The same, except for what Python has made of equal texts: whether they are one object, it says only after the first loading."""
    data, taken = dumped(name, values)
    loaded = load(name, data, taken)
    second = dumped(name, loaded)
    assert second[1] == taken and dumped(name, load(name, *second)) == second
    return loaded


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def main(monkeypatch):
    module = types.ModuleType('__main__')
    monkeypatch.setitem(sys.modules, '__main__', module)
    module.run = lambda source: exec(compile(textwrap.dedent(source), '<cell>', 'exec'), vars(module))
    return module


def written_alike(loaded, original):
    """The same is written into both; then both are the same everywhere."""
    for one in (loaded, original):
        one.flat[0] = one.flat[-1]
    np.testing.assert_array_equal(loaded, original)


# ---------------------------------------------------------------- one array
BASE = np.arange(24.).reshape(4, 6)
LOCKED = np.arange(5)
LOCKED.flags.writeable = False
ONE = {
    'of one dimension': np.arange(10), 'of no dimension': np.array(5.), 'Fortran order': np.asfortranarray(BASE),
    'another order of three': np.ones((2, 3, 4)).transpose(1, 0, 2) + 1, 'empty': np.empty((0, 3)),
    'empty Fortran': np.empty((3, 0), order='F'),
    'slice': BASE[1:3, ::2], 'transpose': BASE.T, 'backwards': BASE[::-2, ::-1], 'reshaped': BASE.reshape(2, 12),
    'diagonal': BASE.diagonal(),
    'view of a view': BASE[1:][:, 1:], 'bytes of it': BASE.view('u1'), 'broadcast': np.broadcast_to(np.arange(3), (2, 3)),
    'read-only': LOCKED, 'view of read-only': LOCKED[1:], 'windows': np.lib.stride_tricks.sliding_window_view(np.arange(9), 3),
    'datetimes': np.array(['2026-01-02', 'NaT'], 'M8[ns]'), 'durations': np.array([1, 2], 'm8[25us]'), 'bool': np.array([True, False]),
    'complex': np.array([1j]), 'half': np.array([1.5], 'f2'), 'long': np.array([1.5], 'g'), 'big endian': np.array([1, 2], '>i4'),
    'text': np.array(['ü', 'abc']), 'bytes': np.array([b'a', b'bcd']), 'no text': np.array(['', '']),
    'structured': np.array([(1, 2.5)], [('a', 'i1'), ('b', 'f8')]), 'padded': np.zeros(3, np.dtype('i1,f8', align=True)),
    'field': np.array([(1, 2.5), (3, 4.5)], 'i1,f8')['f1'], 'raw': np.zeros(2, 'V3'),
    'subarrays': np.zeros(2, [('a', 'f4', (2, 2))]), 'objects': np.array([None, 'a', 5], object),
    'objects in Fortran order': np.asfortranarray(np.array([[1, 'a'], [2, 'b']], object)),
    'slice of objects': np.array([None, 'a', 5], object)[::-2], 'objects and numbers': np.array([('x', 1)], 'O,i4'),
    'field of objects': np.array([('x', 1), ('y', 2)], 'O,i4')['f0'], 'new strings': np.array(['a', 'b'], np.dtypes.StringDType()),
    'slice of new strings': np.array(['a', 'b', 'c'], np.dtypes.StringDType())[1:],
    'matrix': BASE.view(np.matrix), 'row of a matrix': BASE.view(np.matrix)[1],
    'records': np.rec.array([(1, 2.)], 'i4,f8'),
    'large': np.arange(20_000.),
    'large, of another order': np.ones((50, 3, 90)).transpose(1, 0, 2) * 2,
    'large datetimes': np.arange(20_000).astype('M8[s]'), 'large text': np.full(5_000, 'abcd'), 'large column': np.ones((20_000, 3))[:, 1],
    'on bytes': np.frombuffer(b'abcdefgh', 'u2'),
    'on a bytearray': np.frombuffer(bytearray(b'abcdefgh'), 'u2', offset=2),
    'two dimensions on a bytearray': np.ndarray((2, 2), 'u2', bytearray(b'abcdefgh')),
    'on an array': np.frombuffer(array.array('d', [1, 2])),
    'on a memoryview': np.asarray(memoryview(bytearray(b'abcdefgh'))[::2]), 'on nothing': np.frombuffer(bytearray(b'x'), 'u1')[:0],
}


COPIED = ('field of objects', 'slice of new strings')


@pytest.mark.parametrize('what', ONE)
def test_an_array_comes_back(name, what):
    original = ONE[what]
    loaded, = again(name, original)
    assert type(loaded) is type(original) and loaded.dtype == original.dtype and loaded.shape == original.shape
    np.testing.assert_array_equal(loaded, original)
    assert loaded.flags.writeable == original.flags.writeable
    if original.size and what not in COPIED:
        assert (loaded.strides, loaded.flags.fortran) == (original.strides, original.flags.fortran)


def test_every_kind_of_slice_and_writing(name):
    for take in (np.s_[1:], np.s_[::-1], np.s_[:, 1], np.s_[1::2, ::-2], np.s_[..., None], np.s_[0]):
        root = np.arange(20_000.).reshape(100, 200)
        loaded_root, loaded = again(name, root, root[take])
        assert np.shares_memory(loaded_root, loaded)
        loaded[...], root[take] = 7, 7
        np.testing.assert_array_equal(loaded_root, root)


def test_a_small_array_owns_its_memory(name):
    loaded, = again(name, np.arange(5))
    assert loaded.flags.owndata
    loaded.resize(8, refcheck=False)
    assert loaded.tolist() == [0, 1, 2, 3, 4, 0, 0, 0]


def test_a_large_array_is_its_buffer(name):
    data, taken = dumped(name, [np.zeros(20_000)])
    assert len(data) < 300 and len(taken) == 1
    loaded, = serializers.get(name).load(data, nothing, taken)
    loaded[0] = 1.5
    assert not isinstance(loaded.base, np.ndarray) and bytes(taken[0][:8]) == np.float64(1.5).tobytes()


def test_a_large_array_in_band(name):
    serializer = serializers.get(name)
    data = serializer.dump([np.arange(20_000)], nothing)
    loaded, = serializer.load(data, nothing)
    loaded[0] = 5
    assert loaded[0] == 5 and loaded[-1] == 19_999
    loaded[0] = 0
    assert serializer.dump([loaded], nothing) == data


def test_a_buffer_that_is_read_only_is_copied(name):
    data, taken = dumped(name, [np.zeros(20_000)])
    loaded, = serializers.get(name).load(data, nothing, [memoryview(bytes(buffer)) for buffer in taken])
    loaded[0] = 1
    assert loaded.flags.owndata


def test_a_locked_array_can_be_unlocked(name):
    for length in (5, 20_000):
        locked = np.zeros(length)
        inner = locked[1:]
        locked.flags.writeable = False
        loaded, view = again(name, locked, inner)
        assert not loaded.flags.writeable and view.flags.writeable
        loaded.flags.writeable = True
        view[0] = 3
        assert loaded[1] == 3


# ---------------------------------------------------------------- memory that is shared
def test_views_of_an_array_that_is_in_no_variable(name):
    root = np.arange(30.)
    one, other, apart = again(name, root[:20], root[10:].reshape(4, 5).T, np.arange(30.))
    one[10] = -1
    assert other[0, 0] == -1 and apart[10] == 10
    assert not np.shares_memory(one, apart)


def test_an_array_within_containers_and_twice(name):
    root = np.arange(4)
    loaded, = again(name, {'a': [root], 'b': root, 'c': root[::-1]})
    assert loaded['a'][0] is loaded['b']
    loaded['c'][0] = 9
    assert loaded['b'][3] == 9


def test_a_bytearray_and_its_arrays(name):
    memory = bytearray(16)
    loaded, one, table = again(name, memory, np.frombuffer(memory, 'u2'), np.frombuffer(memory, 'u1', 8, 4).reshape(2, 4))
    loaded[4] = 7
    assert one[2] == 7 and table[0, 0] == 7 and type(loaded) is bytearray


def test_arrays_of_two_shapes_on_one_bytearray(name):
    memory = bytearray(16)
    square = np.ndarray((2, 4), 'u2', memory)
    loaded, again_square, column = again(name, memory, square, square[:, 1])
    loaded[2] = 7
    assert again_square[0, 1] == 7 and column[0] == 7


def test_objects_within_views_of_objects(name):
    inner = [1]
    root = np.array([inner, None, inner], object)
    loaded, view, found = again(name, root, root[::-2], inner)
    assert view[0] is found and loaded[2] is found
    view[0] = 'new'
    assert loaded[2] == 'new'


def test_an_array_of_objects_that_holds_itself(name):
    ring = np.empty(2, object)
    ring[:] = ring, None
    ring[1] = ring[:1]
    loaded, = again(name, ring)
    assert loaded[0] is loaded and loaded[1][0] is loaded
    loaded[0] = 5
    assert loaded[1][0] == 5


def test_masked_arrays(name):
    data, hard = np.arange(4.), np.ma.array([1, 2], mask=[0, 1], hard_mask=True, fill_value=9)
    masked = np.ma.array(data, mask=[0, 1, 0, 0], copy=False)
    plain, loaded, part, other, unmasked = again(name, data, masked, masked[1:], hard, np.ma.array([1.]))
    assert loaded.mask.tolist() == [False, True, False, False] and part.mask.tolist() == [True, False, False]
    assert other.hardmask and other.fill_value == 9 and unmasked.mask is np.ma.nomask
    loaded[3] = 8
    assert plain[3] == 8 and part[2] == 8
    loaded[0] = np.ma.masked
    assert loaded.sum() == 10 and plain[0] == 0


def test_large_masked_arrays_go_out_of_band(name):
    data, taken = dumped(name, [np.ma.masked_greater(np.arange(100_000.), 5)])
    assert len(data) < 2_000 and len(taken) == 2


def test_a_memmap_is_opened_again(name, tmp_path):
    file = tmp_path / 'user.bin'
    mapped = np.memmap(file, 'f8', 'w+', shape=(20, 1000))
    mapped[:] = 1
    loaded, part, as_array = again(name, mapped, mapped[3:5, ::-1], np.asarray(mapped))
    assert type(loaded) is type(part) is np.memmap and loaded.filename == part.filename == mapped.filename
    assert np.shares_memory(loaded, part) and np.shares_memory(loaded, as_array)
    part[0, -1] = 5
    part.flush()
    assert mapped[3, 0] == 5
    assert len(dumped(name, [mapped])[0]) < 500 and not dumped(name, [mapped])[1]


def test_a_memmap_that_is_read_or_private(name, tmp_path):
    (tmp_path / 'user.bin').write_bytes(bytes(80))
    read = np.memmap(tmp_path / 'user.bin', 'f8', 'r', offset=16)
    private = np.memmap(tmp_path / 'user.bin', 'f8', 'c')
    private[0] = 3
    loaded, own, part = again(name, read, private, private[:4])
    assert loaded.mode == 'r' and loaded.offset == 16 and loaded.shape == (8,) and not loaded.flags.writeable
    assert type(own) is np.memmap and own[0] == 3 and np.shares_memory(own, part)


def test_a_memmap_whose_file_has_gone(name, tmp_path):
    file = tmp_path / 'user.bin'
    data, _ = dumped(name, [np.memmap(file, 'f8', 'w+', shape=10)])
    for break_it, found in ((lambda: file.write_bytes(b'x'), 'has 1'), (file.unlink, 'is not there')):
        break_it()
        with pytest.raises(SerializationError, match=f'expects 80 bytes, and the file {found}: bring it back'):
            serializers.get(name).load(data, nothing)


def test_a_memmap_of_a_file_that_was_deleted_is_copied(name, tmp_path):
    mapped = np.memmap(tmp_path / 'user.bin', 'f8', 'w+', shape=10)
    mapped[:] = 2
    (tmp_path / 'user.bin').unlink()
    loaded, = again(name, mapped)
    assert loaded.sum() == 20


class Measured(np.ndarray):
    """What numpy's manual shows."""

    def __new__(cls, values, unit=None):
        new = np.asarray(values).view(cls)
        new.unit = unit
        return new

    def __array_finalize__(self, other):
        self.unit = getattr(other, 'unit', None)


@pytest.mark.parametrize('kind', ['f8', 'O'])
def test_instances_of_a_subclass_keep_attributes_and_memory(name, kind):
    values = np.arange(5).astype(kind)
    length = Measured(values, ['m'])
    loaded, again_length, part, own = again(name, values, length, length[1:], length.copy())
    assert type(part) is type(own) is Measured and again_length.unit == ['m'] and part.unit is own.unit is again_length.unit
    part[0] = 7
    assert loaded[1] == again_length[1] == 7
    assert own[1] == 1


NOTEBOOK = '''
import numpy
class Named(numpy.ndarray):
    pass
class Own(numpy.ndarray):
    def __reduce__(self):
        return numpy.zeros, (3,)
values = numpy.arange(5.)
named = values[1:].view(Named)
named.label = 'x'
own = numpy.ones(2).view(Own)
'''


def test_a_subclass_of_the_notebook(name, main):
    main.run(NOTEBOOK)
    values, named = serializers.get(name).load(dumped(name, [main.values, main.named])[0], nothing)
    named[0] = 7
    assert (type(named).__name__, named.label, values[1]) == ('Named', 'x', 7)


def test_a_subclass_with_a_pickling_of_its_own_is_believed(name, main):
    main.run(NOTEBOOK)
    data, taken = dumped(name, [main.own])
    assert serializers.get(name).load(data, nothing, taken)[0].tolist() == [0, 0, 0]


# ---------------------------------------------------------------- the law
DTYPES = st.sampled_from(['?', 'i1', '>i4', 'u8', 'f2', 'f8', 'c16', 'M8[us]', 'm8[D]', 'U3', 'S2', 'i1,f8', 'O'])


@st.composite
def families(draw):
    """A root in some order, and views of it, of which each is a view of one before."""
    shape = draw(st_numpy.array_shapes(min_dims=0, max_dims=4, max_side=5))
    axes, dtype = draw(st.permutations(range(len(shape)))), draw(DTYPES)
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    values = values.astype('i8').astype(dtype) if dtype[0] == 'M' or dtype[0] == 'm' else values.astype(dtype)
    family = [values.transpose(axes).copy('K')]
    for _ in range(draw(st.integers(0, 4))):
        above = draw(st.sampled_from(family))
        step = draw(st.sampled_from(['slice', 'transpose', 'reshape', 'bytes', 'lock', 'broadcast']))
        if step == 'slice':
            family.append(above[draw(st_numpy.basic_indices(above.shape, allow_newaxis=True, allow_ellipsis=True))]
                          if above.ndim else above[...])
        elif step == 'transpose':
            family.append(above.T)
        elif step == 'reshape':
            family.append(above.reshape(-1))
        elif step == 'bytes' and above.flags.c_contiguous and above.ndim and not above.dtype.hasobject:
            family.append(above.view('u1'))
        elif step == 'broadcast' and above.ndim < 5:
            family.append(np.broadcast_to(above, (2, *above.shape)))
        elif step == 'lock':
            family.append(above.view())
            family[-1].flags.writeable = False
        assume(all(isinstance(member, np.ndarray) for member in family))
    return family


@pytest.mark.parametrize('name', NAMES)
@given(family=families(), first=st.integers(0, 2))
def test_values_sharing_and_bytes_are_those_of_plain_python(name, family, first):
    kept = family[first:] or family
    loaded = again(name, *kept)
    for one, other in zip(kept, loaded, strict=True):
        np.testing.assert_array_equal(one, other)
        assert (one.dtype, one.flags.writeable) == (other.dtype, other.flags.writeable)
        assert one.strides == other.strides or not one.size
        for above, loaded_above in zip(kept, loaded, strict=True):
            assert np.shares_memory(one, above) == np.shares_memory(other, loaded_above)
    for one, other in zip(kept, loaded, strict=True):
        if one.size and one.flags.writeable and one.dtype.names is None:
            one.flat[0], other.flat[0] = one.flat[-1], other.flat[-1]
    for one, other in zip(kept, loaded, strict=True):
        np.testing.assert_array_equal(one, other)


# ---------------------------------------------------------------- frames
@pytest.fixture(autouse=True)
def promises():
    """What pandas 3 always does, and 2 where one asks for it."""
    with pd.option_context('mode.copy_on_write', True) if pd.__version__ < '3' else contextlib.nullcontext():
        yield


def frame(rows=3):
    return pd.DataFrame({'a': range(rows), 'b': np.arange(rows) * 1.5, 'c': np.arange(rows), 's': [f's{i}' for i in range(rows)]})


FRAMES = {
    'frame': frame(), 'no rows': frame(0), 'no columns': pd.DataFrame(index=[1, 2]), 'rows': frame()[1:], 'columns': frame()[['c', 'a']],
    'transposed': frame()[['a', 'b']].T, 'labels': frame().set_index('s'), 'series': frame()['a'], 'large': frame(20_000),
    'datetimes': pd.Series(pd.date_range('2026', periods=3)), 'a zone': pd.Series(pd.date_range('2026', periods=3, tz='Europe/Paris')),
    'index of a zone': pd.DataFrame({'a': [1, 2]}, pd.date_range('2026', periods=2, freq='D', tz='UTC')),
    'durations': pd.Series(pd.to_timedelta([1, 2], 's')), 'periods': pd.Series(pd.period_range('2026', periods=3, freq='M')),
    'intervals': pd.Series(pd.interval_range(0, 3)), 'index of intervals': pd.Series([1, 2, 3], pd.interval_range(0, 3)),
    'categories': pd.Series(['x', 'y', 'x'], dtype='category'), 'index of categories': pd.Series([1, 2], pd.CategoricalIndex(['x', 'y'])),
    'several levels': pd.DataFrame({'v': range(4)}, pd.MultiIndex.from_product([['a', 'b'], [1, 2]], names=['k', 'n'])),
    'nullable': pd.Series([1, None, 3], dtype='Int64'), 'nullable bool': pd.Series([True, None], dtype='boolean'),
    'text': pd.Series(['a', None], dtype='string[python]'), 'objects': pd.Series([[1], None, 'x'], dtype=object),
    'sparse': pd.Series(pd.arrays.SparseArray([0, 0, 1])), 'complex': pd.Series([1j, 2]), 'index': pd.Index([3, 1, 2], name='i'),
    'range': pd.RangeIndex(5), 'index of text': pd.Index(['x', 'y']), 'columns twice': pd.DataFrame([[1, 2.]], columns=['a', 'a']),
}


def assert_same(loaded, original):
    compare = {pd.DataFrame: pd.testing.assert_frame_equal, pd.Series: pd.testing.assert_series_equal}
    compare.get(type(original), pd.testing.assert_index_equal)(loaded, original)
    assert type(loaded) is type(original)


@pytest.mark.parametrize('what', FRAMES)
def test_a_frame_comes_back_and_can_be_changed(name, what):
    original = FRAMES[what]
    loaded, = steady(name, original)
    assert_same(loaded, original)
    if not isinstance(original, pd.Index) and original.size and what != 'sparse':  # which takes no items
        before = original.copy()
        original = original.copy()
        for one in (loaded, original):
            one.iloc[0] = one.iloc[-1]
        assert_same(loaded, original)
        assert_same(FRAMES[what], before)


def test_columns_of_numbers_are_buffers(name):
    data, taken = dumped(name, [pd.DataFrame(np.ones((20_000, 4)), columns=list('abcd'))])
    assert len(data) < 2_000 and [len(buffer) for buffer in taken] == [640_000]


COPIES = {
    'all of it': lambda a: a[:], 'rows': lambda a: a[1:], 'a shallow copy': lambda a: a.copy(deep=False),
    'columns': lambda a: a[['a', 'c']],
    'a column': lambda a: a['a'], 'renamed': lambda a: a.rename(columns={'a': 'z'}), 'transposed': lambda a: a.T,
    'a new index': lambda a: a.set_index('s'),
}
copy_on_write = pytest.mark.parametrize('derive', COPIES.values(), ids=list(COPIES))


@copy_on_write
@pytest.mark.parametrize('source', ['frame', 'categories', 'nullable', 'a zone', 'objects', 'text'])
def test_a_change_of_one_frame_never_shows_in_another(name, derive, source):
    a = FRAMES[source].copy() if source == 'frame' else pd.DataFrame({key: FRAMES[source].copy() for key in 'acs'})
    b = derive(a)
    loaded_a, loaded_b = steady(name, a, b)
    before_a, before_b = a.copy(), b.copy()
    loaded_b.iloc[0] = loaded_b.iloc[-1]
    assert_same(loaded_a, before_a)
    loaded_a.iloc[-1] = loaded_a.iloc[0]
    b.iloc[0] = b.iloc[-1]
    assert_same(loaded_b, b)
    assert_same(a, before_a)
    assert_same(derive(before_a), before_b)


def test_two_columns_of_one_frame_are_apart(name):
    table = frame()
    one, other = table['a'], table['a']
    loaded, again_one, again_other = steady(name, table, one, other)
    again_one.iloc[0] = 9
    assert again_other[0] == loaded.loc[0, 'a'] == 0


def test_labels_made_of_a_column_stay(name):
    series = pd.Series([1, 2, 3])
    index = pd.Index(series)
    loaded, labels = steady(name, series, index)
    loaded.iloc[0] = 9
    assert labels.tolist() == [1, 2, 3]


def test_arrays_that_share_the_memory_of_a_frame_without_its_knowing_go_on(name):
    values = np.zeros((3, 2))
    table = pd.DataFrame(values, columns=['a', 'b'], copy=False)
    loaded, loaded_table, column = steady(name, values, table, table['a'].to_numpy())
    loaded[1, 0] = 4
    assert loaded_table.loc[1, 'a'] == 4 and column[1] == 4


def test_a_frame_made_of_rows_does_not_keep_the_others(name):
    part = pd.DataFrame(np.ones((20_000, 4)))[:5]
    data, taken = dumped(name, [part])
    assert not taken and len(data) < 2_000


# ---------------------------------------------------------------- Arrow
def test_buffers_of_arrow_go_out_of_band(name):
    table = pyarrow.table({'n': np.arange(20_000), 't': [f'text {i}' for i in range(20_000)]})
    data, taken = dumped(name, [table])
    assert len(data) < 3_000 and len(taken) == 3
    loaded, = again(name, table)
    assert loaded.equals(table) and loaded.schema == table.schema


@pytest.mark.parametrize('make', [lambda: pyarrow.array([1, None]), lambda: pyarrow.chunked_array([[1], [2]]),
                                  lambda: pyarrow.schema([('a', 'int8')]),
                                  lambda: pyarrow.array(['a', None])[1:], lambda: pyarrow.array(np.arange(20_000))[5:15_000],
                                  lambda: pyarrow.array(['a', 'b', 'a']).dictionary_encode(), lambda: pyarrow.scalar(5)])
def test_what_arrow_has(name, make):
    loaded, = again(name, make())
    assert loaded.equals(make())


def test_texts_of_pandas_on_arrow(name):
    series = pd.Series([f'text {i}' for i in range(20_000)], dtype='string[pyarrow]')
    part = series[1:]
    data, taken = dumped(name, [series])
    assert len(data) < 3_000 and taken
    loaded, again_part = steady(name, series, part)
    loaded.iloc[1] = 'changed'
    assert_same(again_part, part)
    assert_same(loaded[2:], series[2:])


def test_an_array_on_memory_of_arrow(name):
    column = pyarrow.array(np.arange(20_000)).to_numpy()
    loaded, part = again(name, column, column[5:])
    assert not loaded.flags.writeable and np.shares_memory(loaded, part)
    np.testing.assert_array_equal(loaded, column)
