"""Objects that have nothing to do with each other share nothing, whatever their libraries keep for all of them."""

import collections
import dataclasses
import datetime
import http
import logging
import re
import sys
import types
import typing
import zoneinfo

import matplotlib
import numpy as np
import pandas as pd
import pyarrow
import pytest
from matplotlib.figure import Figure

from ipython_erp5 import serializers
from ipython_erp5.node import libraries
from ipython_erp5.node.references import Kinds, References, Trace


@pytest.fixture
def reached(monkeypatch):
    """Ids of the mutable objects that a value reaches. The traces live on, so that no id is used twice."""
    module, traces = types.ModuleType('__main__'), []
    monkeypatch.setitem(sys.modules, '__main__', module)
    references = References(module, None, {})

    def reach(value):
        traces.append(Trace(references))
        serializers.get('cloudpickle').dump([value], traces[-1], lambda buffer: True)
        return traces[-1].mutable()
    return reach


TABLE = pd.DataFrame({'a': [1, 2], 'b': ['x', 'y'], 'c': pd.Categorical(['x', 'y']),
                      'd': pd.date_range('2026', periods=2, tz='Europe/Paris'),
                      'e': pd.array([1, None]), 'f': pd.Series(['x', 'y'], dtype='string[python]')})
LEVELS = TABLE.set_index(['a', 'b'])


def figure():
    drawn = Figure()
    axes = drawn.subplots()
    axes.plot(pd.date_range('2026', periods=3), [1, 2, 3], label='x')
    axes.scatter([pd.Timestamp('2026')], [2])
    axes.hist([1, 2, 3])
    axes.legend()
    drawn.colorbar(drawn.subplots(1, 2)[1].imshow(np.ones((3, 3))))
    drawn.canvas.draw()
    return drawn


APART = {
    'arrays': lambda: np.ones(3), 'large arrays': lambda: np.ones(20_000), 'structures': lambda: np.zeros(2, 'i4,f8'),
    'objects': lambda: np.array([None, 1]),
    'masked': lambda: np.ma.array([1, 2], mask=[0, 1]), 'random': lambda: np.random.default_rng(1),
    'no value': lambda: [np._NoValue, np.ma.masked, np.add],
    'frames': lambda: pd.DataFrame({'a': [1], 'b': ['x'], 'c': [pd.NA]}), 'copies': TABLE.copy, 'slices': lambda: TABLE[:],
    'parts': lambda: TABLE[['e', 'a']],
    'columns': lambda: TABLE['a'], 'categories': lambda: TABLE['c'], 'a zone': lambda: TABLE['d'], 'nullable': lambda: TABLE['e'],
    'texts': lambda: TABLE['f'],
    'levels': lambda: LEVELS.copy(), 'periods': lambda: pd.Series(pd.period_range('2026', periods=2)),
    'steps': lambda: pd.Series(pd.interval_range(0, 3)),
    'frequency': lambda: pd.Series([1, 2], pd.date_range('2026', periods=2)),
    'missing': lambda: [pd.NaT, pd.NA, pd.offsets.Day(), pd.Interval(1, 2)],
    'dtypes': lambda: [TABLE.dtypes[name] for name in TABLE], 'Arrow': lambda: pyarrow.table({'a': [1]}), 'figures': figure,
    'settings': matplotlib.rcParams.copy, 'colours': lambda: matplotlib.colormaps['viridis'],
    'shapes': lambda: matplotlib.patches.Circle((0, 0)),
    'moments': lambda: datetime.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo('Europe/Paris')), 'patterns': lambda: re.compile('a'),
    'states': lambda: [http.HTTPStatus.OK, re.I | re.M], 'loggers': lambda: logging.getLogger('x'),
    'types': lambda: [typing.Optional[int], list[int], int | None],
    'no default': lambda: dataclasses.MISSING, 'methods': lambda: [str.upper, int.__add__, datetime.datetime.now],
    'factories': lambda: collections.defaultdict(list),
}


@pytest.mark.parametrize('make', APART.values(), ids=list(APART))
def test_two_of_a_kind_share_nothing(reached, make):
    one, other = make(), make()
    assert not reached(one) & reached(other)


def test_what_is_shared_is_found(reached):
    root, drawn = np.ones(20_000), Figure()
    first, second = drawn.subplots(2)
    names = TABLE.index
    for one, other in ((root[1:], root[::-1]), (first, second), (drawn, second), (names, [names]), (bytearray(b'x'),) * 2):
        assert reached(one) & reached(other)


def test_figures_of_somebody_are_not_matplotlibs():
    from matplotlib import pyplot
    drawn = pyplot.figure()
    try:
        assert not {id(drawn), id(vars(drawn)), id(drawn.axes)} & libraries.everybodys({Figure})
    finally:
        pyplot.close(drawn)


def test_attributes_of_what_the_notebook_derives_from_a_tuple_change():
    class Pair(tuple):
        __module__ = '__main__'

    class Bare(tuple):
        __module__, __slots__ = '__main__', ()
    kinds = Kinds()
    assert (kinds[Pair], kinds[Bare], kinds[tuple]) == ('other', 'immutable', 'immutable')
