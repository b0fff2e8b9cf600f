"""Every culprit with its path, whatever the serializer; and what comes back as something else."""

import collections
import functools
import io
import itertools
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import types

import numpy
import pandas
import pytest

from ipython_erp5 import serializers
from ipython_erp5.diagnosis import LIMIT, Culprit, diagnose, needs_verify, type_name, unfaithful, verify

NAMES = ['cloudpickle', 'dill', 'zodbpickle']


def nothing(obj):
    """A reference, and a way back, for data without any."""


def culprits(serializer, value, name='x', reference=nothing):
    return diagnose(serializers.get(serializer), name, value, reference)


def paths(serializer, value, name='x', reference=nothing):
    return {culprit.path: culprit.type for culprit in culprits(serializer, value, name, reference)}


class Plain:
    def __init__(self, **attributes):
        vars(self).update(attributes)


class Slots:
    __slots__ = ('__dict__', 'gen')


class State:
    """Its state is made afresh, with a lock in it."""

    def __init__(self, inside):
        self.inside = inside

    def __getstate__(self):
        return {'a': self.inside, 'fresh': [threading.Lock()]}


class Raises:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


class Hostile:
    """Lies and raises wherever it can."""

    def __init__(self, cb):
        object.__setattr__(self, 'cb', cb)

    def refuse(self, *arguments):
        raise ZeroDivisionError('hostile')

    __eq__ = __ne__ = __hash__ = __repr__ = __str__ = __bool__ = __len__ = __iter__ = refuse

    def __getattr__(self, name):
        raise ZeroDivisionError('hostile')

    def __reduce__(self):
        return Plain, (), {'cb': object.__getattribute__(self, 'cb')}


class HostileDict(dict):
    def refuse(self, *arguments):
        raise ZeroDivisionError('hostile')

    items = keys = values = __iter__ = __getitem__ = __contains__ = __eq__ = refuse
    __hash__ = None


class HiddenDict:
    def __init__(self):
        object.__setattr__(self, 'lock', threading.Lock())

    @property
    def __dict__(self):
        raise SystemExit('hidden')

    def __reduce__(self):
        return Plain, (object.__getattribute__(self, 'lock'),)


@pytest.fixture
def connection():
    connection = sqlite3.connect(':memory:')
    yield connection
    connection.close()


@pytest.mark.parametrize('name', NAMES)
class TestDiagnose:
    def test_the_design_s_own_example(self, name, connection):
        results = {'model': Plain(hooks=[0, 1, 2, Plain(cb=threading.Lock())], db=connection), 'fine': [1, 2]}
        assert paths(name, results, 'results') == {"results['model'].hooks[3].cb": '_thread.lock',
                                                   "results['model'].db": 'sqlite3.Connection'}

    def test_the_variable_itself(self, name, connection):
        culprit, = culprits(name, connection, 'conn')
        assert (culprit.path, culprit.type) == ('conn', 'sqlite3.Connection')
        assert culprit.reason == f'an open database connection; {name} cannot bring the same one back'

    def test_what_can_be_saved_has_no_culprit(self, name):
        assert culprits(name, {'a': [1, {2}], 'b': Plain(x=1)}) == []

    @pytest.mark.parametrize(('value', 'path'), [
        (lambda lock: [1, (2, lock)], 'x[1][1]'),
        (lambda lock: {'a b': {3: lock}}, "x['a b'][3]"),
        (lambda lock: {(1, 'a'): lock}, "x[(1, 'a')]"),
        (lambda lock: {(lock,): 1}, 'x key <tuple>[0]'),
        (lambda lock: {lock}, 'x element'),
        (lambda lock: collections.deque([0, lock]), 'x[1]'),
        (lambda lock: collections.OrderedDict(k=lock), "x['k']"),
        (lambda lock: collections.defaultdict(list, k=[lock]), "x['k'][0]"),
        (lambda lock: functools.partial(max, lock), 'x.args[0]'),
        (lambda lock: functools.partial(max, key=lock), "x.keywords['key']"),
        (lambda lock: types.SimpleNamespace(a=Plain(b=lock)), 'x.a.b'),
        (lambda lock: ValueError('a', lock), 'x.args[1]'),
        (lambda lock: numpy.array([[None, lock]], object), 'x[0, 1]'),
        (lambda lock: pandas.Series([1, lock], dtype=object), 'x.iloc[1]'),
        (lambda lock: pandas.DataFrame({'c': [1, lock]}), "x['c'].iloc[1]"),
        (lambda lock: {'k' * 100: lock}, f"x['{'k' * 58}…]"),
        (lambda lock: [Hostile(lock)], 'x[0].cb'),
        (lambda lock: {'a': HostileDict(k=1), 'b': lock}, "x['b']"),
    ])
    def test_paths(self, name, value, path):
        assert path in paths(name, value(threading.Lock()))

    def test_slots_and_attributes(self, name):
        value = Slots()
        value.gen, value.lock = (i for i in ()), threading.Lock()
        assert paths(name, [value]) == {'x[0].gen': 'generator', 'x[0].lock': '_thread.lock'}

    def test_cycles(self, name):
        value = Plain(kids=[])
        value.kids.append(Plain(parent=value, s=socket.socket()))
        assert paths(name, value) == {'x.kids[0].s': 'socket.socket'}
        value.kids[0].s.close()

    def test_what_a_reduction_makes_afresh_is_blamed_on_its_maker(self, name, connection):
        found = paths(name, {'x': State([1, connection]), 'y': [1]})
        assert found == {"x['x'].inside[1]": 'sqlite3.Connection',
                         "x['x'] (in the state its State type hands to pickle)": '_thread.lock'}

    def test_every_one_of_many_makers(self, name):
        found = paths(name, [State(1), Plain(), State(2)])
        assert set(found) == {f'x[{i}] (in the state its State type hands to pickle)' for i in (0, 2)}

    @pytest.mark.parametrize(('error', 'reason'), [
        (ValueError('no\n way'), 'ValueError: no way'), (SystemExit(3), 'SystemExit: 3'), (MemoryError(), 'MemoryError'),
        (GeneratorExit(), 'GeneratorExit'), (RecursionError('deep'), 'RecursionError: deep')])
    def test_whatever_a_class_raises_is_its_reason(self, name, error, reason):
        assert culprits(name, [1, Raises(error), 'z']) == [Culprit('x[1]', f'{__name__}.Raises', reason)]

    def test_an_interrupt_is_not_a_reason(self, name):
        with pytest.raises(KeyboardInterrupt):
            culprits(name, [Raises(KeyboardInterrupt())])

    def test_an_error_that_has_no_text(self, name):
        class Mute(Exception):
            def __str__(self):
                raise ValueError
        assert culprits(name, [Raises(Mute())])[0].reason == 'Mute'

    def test_hostile_objects_are_looked_into(self, name):
        found = paths(name, [Hostile(threading.Lock()), HiddenDict(), Hostile(1)])
        assert list(found) == ['x[0].cb', 'x[1] (in the state its HiddenDict type hands to pickle)']

    def test_too_deep_is_said_of_the_variable(self, name):
        value = []
        for _ in range(100_000):
            value = [value]
        culprit, = culprits(name, value)
        assert culprit.path == 'x' and culprit.type == 'list' and 'nested too deeply' in culprit.reason
        while value:  # taken apart here: the C stack of the collector is not endless
            value = value.pop()

    def test_endless_recursion_in_a_class(self, name):
        class Endless:
            def __reduce__(self):
                return self.__reduce__()
        culprit, = culprits(name, {'a': [Endless()]})
        assert culprit.path == "x['a'][0]" and culprit.reason.startswith('RecursionError')

    def test_more_than_the_limit(self, name):
        found = culprits(name, [threading.Lock() for _ in range(500)])
        assert len(found) == LIMIT + 1 and found[0].path == 'x[0]' and found[-1] == Culprit(f'and {500 - LIMIT} more', '', '')

    def test_references_are_not_looked_into(self, name, connection):
        value = {'doc': Plain(lock=threading.Lock()), 'db': connection}
        found = paths(name, value, reference=lambda obj: ('d',) if obj is value['doc'] else None)
        assert found == {"x['db']": 'sqlite3.Connection'}

    def test_a_reference_that_raises_is_a_reason(self, name):
        document = Plain()

        def reference(obj):
            if obj is document:
                raise ValueError('deleted')

        assert culprits(name, [document], reference=reference) == [Culprit('x[0]', f'{__name__}.Plain', 'ValueError: deleted')]

    def test_many_objects_take_no_more_than_seconds(self, name):
        value = [Plain(part=[i, {'k': threading.Lock() if i in (7, 33_000) else i}]) for i in range(33_334)]
        start = time.process_time()   # others run meanwhile
        found = paths(name, value)
        assert list(found) == ["x[7].part[1]['k']", "x[33000].part[1]['k']"] and time.process_time() - start < 20

    def test_a_long_chain_is_not_quadratic(self, name):
        value = [threading.Lock()]
        for _ in range(40):
            value = Plain(next=value, pad=[[i] for i in range(1000)])
        start = time.process_time()
        assert list(paths(name, value)) == [f"x{'.next' * 40}[0]"] and time.process_time() - start < 20


# ---------------------------------------------------------------- functions and classes
@pytest.fixture
def main(monkeypatch):
    """The `__main__` of a notebook; `main.run(source)` is a cell."""
    module = types.ModuleType('__main__')
    monkeypatch.setitem(sys.modules, '__main__', module)
    module.run = lambda source: exec(source, vars(module))
    return module


@pytest.mark.parametrize('name', ['cloudpickle', 'dill'])
def test_inside_functions_and_classes(name, main):
    main.run('''
import threading
def outer():
    inside = {'k': threading.Lock()}
    def f(a=threading.Lock(), *, b=threading.Lock()): return inside
    f.note = threading.Lock()
    return f
f = outer()
class A:
    shared = [threading.Lock()]
    def method(self, a=threading.Lock()): pass
a = A()
L = threading.Lock()
def g(): return L
''')
    assert set(paths(name, main.f, 'f')) == {"f closure variable 'inside'['k']", 'f.__defaults__[0]', "f.__kwdefaults__['b']",
                                             'f.note'}
    assert set(paths(name, main.A, 'A')) == {'A.shared[0]', 'A.method.__defaults__[0]'}
    assert set(paths(name, main.a, 'a')) == {'type(a).shared[0]', 'type(a).method.__defaults__[0]'}
    assert set(paths(name, main.a.method, 'm')) == {'type(m.__self__).shared[0]', 'm.__func__.__defaults__[0]'}
    assert paths(name, main.g, 'g') == {}


def test_zodbpickle_names_functions_and_classes(main):
    main.run('def f(): pass\nclass A: pass\na = A()')
    found = culprits('zodbpickle', {'f': main.f, 'a': [main.a]})
    assert [(culprit.path, culprit.type) for culprit in found] == [("x['f']", 'function'), ("type(x['a'][0])", 'type')]
    assert 'zodbpickle keeps none' in found[0].reason


# ---------------------------------------------------------------- kinds
def test_what_is_unfaithful():
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    with open(__file__) as file, open(__file__, 'rb') as binary:
        for value in (file, binary, process, threading.Condition(), threading.Semaphore(), threading.Timer(1, print),
                      (i for i in ()), memoryview(b'')):
            assert 'dill cannot bring the same one back' in unfaithful(value, 'dill')
    for value in (io.BytesIO(), io.StringIO(), 1, [], Plain, Hostile(1), sys.stdout):
        assert unfaithful(value, 'dill') is None


def test_a_pickling_of_its_own_is_believed():
    class Mine(threading.Thread):
        def __reduce__(self):
            return Mine, ()
    assert unfaithful(Mine(), 'cloudpickle') is None


def test_type_names():
    class Meta(type):
        def __getattribute__(cls, name):
            raise ValueError
    assert [type_name(kind) for kind in (int, threading.Thread, collections.OrderedDict)] == [
        'int', 'threading.Thread', 'collections.OrderedDict']
    assert type_name(Meta('A', (), {})).endswith('.A')


# ---------------------------------------------------------------- what comes back
class Liar:
    def __reduce__(self):
        return str, ('not me',)


class Unloadable(Exception):
    def __init__(self, a, b):
        super().__init__('text')

    def __reduce__(self):
        return type(self), self.args


class Asks:
    """The classic: `__getattr__` needs what is not there yet while it is loaded."""

    def __init__(self):
        self.inner = {}

    def __getattr__(self, name):
        return self.inner[name]


def verified(name, *values, names=()):
    serializer = serializers.get(name)
    return verify(serializer, values, serializer.dump(values, nothing), nothing, nothing, names)


@pytest.mark.parametrize('name', NAMES)
class TestVerify:
    def test_what_comes_back_is_fine(self, name):
        assert verified(name, {'a': Plain(x=[1])}, numpy.arange(6).reshape(2, 3)[:, ::2], pandas.DataFrame({'a': [1]})) == []

    def test_a_liar_is_found(self, name):
        assert verified(name, 1, Liar(), names=['a', 'liar']) == [
            (1, Culprit('liar', f'{__name__}.Liar', 'it would come back as str'))]
        (index, culprit), = verified(name, {'deep': [Plain(it=Liar())]}, names=['x'])
        assert (index, culprit.path, culprit.type) == (0, "x['deep'][0].it", f'{__name__}.Liar')
        assert 'something else' in culprit.reason

    def test_what_cannot_be_loaded_is_found(self, name):
        found = verified(name, [1], {'e': [Unloadable(1, 2), Plain(), Unloadable(3, 4)]}, names=['a', 'b'])
        assert [(index, culprit.path) for index, culprit in found] == [(1, "b['e'][2]"), (1, "b['e'][0]")]
        assert 'cannot be loaded: ' in found[0][1].reason and 'TypeError' in found[0][1].reason

    def test_a_class_that_asks_for_what_is_not_there_yet(self, name):
        (_, culprit), = verified(name, [Asks()])
        assert culprit.path == 'value[0]' and 'RecursionError' in culprit.reason


def test_the_classes_of_a_notebook_come_back(main):
    main.run('''
import dataclasses, enum, typing
@dataclasses.dataclass(frozen=True)
class Data:
    x: int
class Color(enum.Enum):
    RED = 1
class Point(typing.NamedTuple):
    x: int
values = {'data': Data(1), 'red': [Color.RED, Color.RED], 'point': Point(1)}
''')
    assert verified('cloudpickle', main.values, main.Data) == verified('dill', main.values, main.Data) == []


def test_who_needs_to_be_verified(main):
    class Sub(dict):
        pass
    main.run('class A:\n    def f(self): pass')
    for kinds in itertools.combinations((int, dict, numpy.ndarray, pandas.DataFrame, collections.Counter, type, main.A, Plain,
                                         types.FunctionType, KeyError), 3):
        assert not needs_verify(kinds)
    for kind in (Liar, Unloadable, Asks, Sub, State, subprocess.CalledProcessError):
        assert needs_verify([int, kind])
