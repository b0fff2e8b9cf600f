"""One contract for every serializer, and what each promises beyond it."""

import collections
import contextlib
import datetime
import decimal
import fnmatch
import importlib.metadata
import io
import pickle
import subprocess
import sys
import textwrap
import threading
import types
import uuid
from pathlib import Path

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipython_erp5 import serializers
from ipython_erp5.errors import NotSavedError, SerializationError, UnsupportedError

NAMES = ['cloudpickle', 'dill', 'zodbpickle']
BY_VALUE = ['cloudpickle', 'dill']


def nothing(obj):
    """A reference, and a way back, for data without any."""


def there_and_back(name, *values):
    serializer = serializers.get(name)
    return serializer.load(serializer.dump(values, nothing), nothing)


@pytest.fixture
def main(monkeypatch):
    """The `__main__` of a notebook; `main.run(source)` is a cell."""
    module = types.ModuleType('__main__')
    monkeypatch.setitem(sys.modules, '__main__', module)
    module.run = lambda source: exec(compile(textwrap.dedent(source), '<cell>', 'exec'), vars(module))
    return module


DATA = [None, True, -5, 2**70, 1.5, 2j, 'ü\ud800', b'\0\xff', bytearray(b'x'), (), (1, (2,)), [1, [2]], {'a': {1: 2}}, {1, 2},
        frozenset({3}), range(3), slice(1, 2), ..., decimal.Decimal('1.10'), datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        uuid.UUID(int=5), collections.OrderedDict(a=1), collections.Counter('aab'), collections.defaultdict(list, a=[1]),
        collections.deque([1], 3), len, datetime.date, ValueError('x').args]
TREES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
                     lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner), max_leaves=20)


@pytest.mark.parametrize('name', NAMES)
class TestContract:
    @pytest.mark.parametrize('value', DATA, ids=repr)
    def test_data_comes_back(self, name, value):
        again, = there_and_back(name, value)
        assert again == value and type(again) is type(value)

    @given(value=TREES)
    def test_any_tree_comes_back(self, name, value):
        assert there_and_back(name, value) == [value]

    def test_values_share_what_they_shared(self, name):
        shared = [1]
        a, b = there_and_back(name, {'s': shared}, (shared, shared))
        assert a['s'] is b[0] is b[1] and a['s'] is not shared

    def test_cycles(self, name):
        ring = []
        ring.append({'ring': ring})
        again, = there_and_back(name, ring)
        assert again[0]['ring'] is again

    def test_no_value_and_many(self, name):
        assert there_and_back(name) == []
        assert there_and_back(name, *range(500)) == list(range(500))

    def test_every_object_is_asked_about_and_references_come_back(self, name):
        document, seen = uuid.uuid4(), []

        def reference(obj):
            seen.append(obj)
            return ('document', '/a/b', 5) if obj is document else None

        serializer, value = serializers.get(name), [{'key': document}, document, 1.5]
        data = serializer.dump([value], reference)
        assert all(any(obj is part for obj in seen) for part in (value, value[0], 'key', document, 1.5))
        again, = serializer.load(data, lambda found: document if found == ('document', '/a/b', 5) else None)
        assert again[0]['key'] is again[1] is document

    def test_a_c_function_may_be_the_reference(self, name):
        seen, value = [], [[7.5]]
        serializers.get(name).dump([value], seen.append)
        assert any(obj is value[0] for obj in seen)

    def test_the_header_says_who_wrote(self, name):
        serializer = serializers.get(name)
        data = serializer.dump([1, 2], nothing)
        header = serializers.read_header(data)
        assert (header.name, header.version, header.count) == (name, importlib.metadata.version(name), 2)
        assert serializers.name_of(data) == name and serializers.load(data, nothing) == [1, 2]

    def test_every_truncation_is_an_error(self, name):
        data = serializers.get(name).dump([{'a': [1, 'x' * 20]}, (1.5, b'y')], nothing)
        for end in range(len(data)):
            with pytest.raises(SerializationError, match='expected'):
                serializers.load(data[:end], nothing)
        with pytest.raises(SerializationError, match='expected'):
            serializers.load(data + b'.', nothing)

    def test_bytes_of_another_are_refused(self, name):
        data = serializers.get(name).dump([1], nothing)
        other = next(other for other in NAMES if other != name)
        with pytest.raises(SerializationError, match=f'expected bytes of {other}, got bytes of {name}'):
            serializers.get(other).load(data, nothing)

    @pytest.mark.parametrize('make', [threading.Lock, threading.RLock, threading.Event, lambda: open(__file__), threading.Thread,
                                      lambda: (i for i in ()), lambda: memoryview(b'x'), lambda: threading.local()])
    def test_what_would_not_come_back_the_same_is_refused(self, name, make):
        value = make()
        with contextlib.closing(value) if isinstance(value, io.IOBase) else contextlib.nullcontext():
            with pytest.raises(SerializationError):
                serializers.get(name).dump([{'deep': [value]}], nothing)

    def test_what_a_reference_stands_for_is_not_refused(self, name):
        lock = threading.Lock()
        serializer = serializers.get(name)
        data = serializer.dump([[lock]], lambda obj: ('lock',) if obj is lock else None)
        assert serializer.load(data, lambda found: found) == [[('lock',)]]

    @pytest.mark.parametrize('error', [ValueError('boom'), SystemExit(3), MemoryError()])
    def test_whatever_a_class_raises_is_a_serialization_error(self, name, error, monkeypatch):
        monkeypatch.setattr(Breaks, 'error', error)
        with pytest.raises(SerializationError, match=type(error).__name__):
            serializers.get(name).dump([Breaks()], nothing)

    def test_an_interrupt_is_none(self, name, monkeypatch):
        monkeypatch.setattr(Breaks, 'error', KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            serializers.get(name).dump([Breaks()], nothing)

    def test_what_the_way_back_raises_is_raised(self, name):
        def resolve(found):
            raise NotSavedError('the document has gone')

        serializer = serializers.get(name)
        data = serializer.dump([uuid.UUID(int=1)], lambda obj: ('x',) if isinstance(obj, uuid.UUID) else None)
        with pytest.raises(NotSavedError, match='has gone'):
            serializer.load(data, resolve)

    def test_another_process_loads_it(self, name):
        data = serializers.get(name).dump([{'a': [1, 'ü', b'x', decimal.Decimal('1.5')]}], nothing)
        program = ('import sys; from ipython_erp5 import serializers\n'
                   'print(ascii(serializers.load(sys.stdin.buffer.read(), lambda found: None)))')
        assert python(program, data) == "[{'a': [1, '\\xfc', b'x', Decimal('1.5')]}]"

    def test_streams_in_memory_are_data(self, name):
        again, text = there_and_back(name, io.BytesIO(b'abc'), io.StringIO('de'))
        assert again.getvalue() == b'abc' and text.getvalue() == 'de'

    def test_arrays_and_frames(self, name):
        array, frame = numpy.arange(6.).reshape(2, 3)[:, ::2], pandas.DataFrame({'a': [1, 2], 'b': ['x', None]})
        series, shared = frame['a'], numpy.zeros(3)
        got = there_and_back(name, array, frame, series, shared, [shared])
        numpy.testing.assert_array_equal(got[0], array)
        pandas.testing.assert_frame_equal(got[1], frame)
        pandas.testing.assert_series_equal(got[2], series)
        assert got[4][0] is got[3]

    def test_the_globals_themselves_are_those_of_the_loading_process(self, name, main):
        again, = there_and_back(name, vars(main))
        assert again is vars(main)


class Breaks:
    error: BaseException = ValueError('boom')

    def __reduce__(self):
        raise self.error


def python(program, data=b''):
    """What another interpreter prints."""
    done = subprocess.run([sys.executable, '-c', program], input=data, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


# ---------------------------------------------------------------- the registry
def test_the_built_in_names():
    assert set(NAMES) <= set(serializers.names())
    assert serializers.DEFAULT == 'cloudpickle'


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(UnsupportedError, match=r"no serializer 'cloudpickel'. Did you mean 'cloudpickle'\? .*dill, zodbpickle"):
        serializers.get('cloudpickel')


def test_a_package_announces_its_serializer(tmp_path, monkeypatch):
    info = tmp_path / 'plain-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: plain\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text(
        '[ipython_erp5.serializers]\nplain = plain:Plain\nbroken = plain:Missing\nwrong = plain:io\n')
    (tmp_path / 'plain.py').write_text(textwrap.dedent('''
        import io
        from ipython_erp5.serializers import Cloudpickle
        class Plain(Cloudpickle):
            name = 'plain'
            version = '1.0'
        '''))
    monkeypatch.syspath_prepend(tmp_path)
    assert 'plain' in serializers.names()
    assert there_and_back('plain', [1]) == [[1]]
    assert serializers.name_of(serializers.get('plain').dump([1], nothing)) == 'plain'
    with pytest.raises(UnsupportedError, match="'broken' .* cannot be imported: AttributeError"):
        serializers.get('broken')
    with pytest.raises(UnsupportedError, match='expected a subclass of'):
        serializers.get('wrong')


@pytest.mark.parametrize('data', [b'', b'\n', b'\x80\x05N.', b'ipython_erp5 2 cloudpickle 3 1 0\n', b'ipython_erp5 1 x 1 a 0\n',
                                  b'ipython_erp5 1 cloudpickle\n', b'x' * 1000])
def test_foreign_bytes_are_an_error(data):
    with pytest.raises(SerializationError, match='expected'):
        serializers.load(data, nothing)


def test_bytes_of_a_serializer_that_is_not_installed():
    with pytest.raises(UnsupportedError, match="no serializer 'marshal'"):
        serializers.load(b'ipython_erp5 1 marshal 4 1 0\n', nothing)


def test_no_library_is_imported_before_it_is_used():
    assert python('import sys, ipython_erp5.report, ipython_erp5.diagnosis\n'
                  "print([name for name in ('dill', 'cloudpickle', 'zodbpickle', 'numpy') if name in sys.modules])") == '[]'


def test_dill_changes_nobodys_pickle():
    program = '''
import pickle, copyreg, typing
before = set(pickle._Pickler.dispatch), set(copyreg.dispatch_table), pickle.Pickler, pickle.dumps
from ipython_erp5 import serializers
dill = serializers.get('dill')
dill.load(dill.dump([lambda: 1], lambda obj: None), lambda found: None)
import sys
assert 'dill' in sys.modules
print((set(pickle._Pickler.dispatch), set(copyreg.dispatch_table), pickle.Pickler, pickle.dumps) == before)'''
    assert python(program) == 'True'


def test_dill_that_the_user_imported_stays_as_it_is():
    program = '''
import pickle, dill
before = set(pickle._Pickler.dispatch)
from ipython_erp5 import serializers
serializers.get('dill').dump([1], lambda obj: None)
print(set(pickle._Pickler.dispatch) == before)'''
    assert python(program) == 'True'


# ---------------------------------------------------------------- functions and classes of a notebook
@pytest.mark.parametrize('name', BY_VALUE)
class TestNotebook:
    def test_globals_are_live(self, name, main):
        main.run('factor = 2\ndef f(x): return x * factor')
        f, = there_and_back(name, main.f)
        main.factor = 10
        assert f(1) == 10 and f is not main.f and f.__globals__ is vars(main)

    def test_the_namespace_is_left_alone(self, name, main):
        main.run('def f(): return len([])')
        builtins = main.__builtins__ = dict(vars(main)['__builtins__'])
        before = set(vars(main))
        f, = there_and_back(name, main.f)
        assert f() == 0 and main.__builtins__ is builtins and set(vars(main)) == before

    def test_functions_of_every_kind(self, name, main):
        main.run('''
            import functools
            def plain(a, /, b: int = 1, *c, d=[4], **e) -> list:
                "doc"
                return [a, b, c, d, e]
            plain.attribute = {'x': 1}
            def generator():
                yield from range(3)
            async def coroutine():
                return 5
            anonymous = lambda n: 1 if n < 2 else n * anonymous(n - 1)
            def outer():
                def inner(n): return 1 if n < 2 else n * inner(n - 1)
                return inner
            nested = outer()
            partial = functools.partial(plain, 1, d=2)
            ''')
        plain, generator, coroutine, anonymous, nested, partial = there_and_back(
            name, main.plain, main.generator, main.coroutine, main.anonymous, main.nested, main.partial)
        assert plain(0, 2, 3, z=5) == [0, 2, (3,), [4], {'z': 5}] and plain.__doc__ == 'doc' and plain.attribute == {'x': 1}
        assert plain.__annotations__ == {'b': int, 'return': list} and plain.__module__ == '__main__'
        assert list(generator()) == [0, 1, 2] and anonymous(5) == nested(5) == 120 and partial()[3] == 2
        running = coroutine()
        with pytest.raises(StopIteration, match='5'):
            running.send(None)

    def test_cells_are_shared(self, name, main):
        main.run('''
            def counter():
                n = 0
                def step():
                    nonlocal n
                    n += 1
                def value(): return n
                return step, value
            step, value = counter()
            ''')
        step, value = there_and_back(name, main.step, main.value)
        step()
        assert value() == 1 and main.value() == 0

    def test_classes_are_new_ones(self, name, main):
        main.run('class A:\n    kind = 1\n    def double(self): return super().__hash__() * 0 + self.x * 2')
        a = main.A()
        a.x = 4
        main_a = main.A
        again, kind = there_and_back(name, a, main.A)
        assert type(again) is kind is not main_a and again.double() == 8
        data = serializers.get(name).dump([a], nothing)
        main.A.kind = 2
        assert serializers.load(data, nothing)[0].kind == 1 and main.A.kind == 2 and main.A is main_a

    def test_methods_and_their_objects(self, name, main):
        main.run('class A:\n    def me(self): return self\n    @classmethod\n    def cls(cls): return cls\na = A()')
        me, a, cls = there_and_back(name, main.a.me, main.a, main.A.cls)
        assert me() is a and cls() is type(a)

    def test_classes_of_every_kind(self, name, main):
        main.run('''
            import abc, dataclasses, enum, typing
            @dataclasses.dataclass
            class Data:
                x: int
                y: list = dataclasses.field(default_factory=list)
            class Color(enum.Enum):
                RED = 1
                def lower(self): return self.name.lower()
            class Base(abc.ABC):
                @abc.abstractmethod
                def f(self): ...
            class Child(Base):
                @property
                def p(self): return 7
                def f(self): return 1
            class Slots:
                __slots__ = ('a', '_b')
            class Meta(type):
                def hello(cls): return cls.__name__
            class WithMeta(metaclass=Meta): pass
            slots = Slots()
            slots.a = 3
            values = [Data(1), Color.RED, Child(), slots, WithMeta]
            ''')
        (data, red, child, slots, with_meta), = there_and_back(name, main.values)
        assert data == type(data)(1) and type(data)(2).y == [] and red.lower() == 'red' and red is type(red).RED
        assert child.p == 7 and child.f() == 1 and slots.a == 3 and with_meta.hello() == 'WithMeta'
        with pytest.raises(TypeError, match='abstract'):
            type(child).__mro__[1]()

    def test_modules_are_named(self, name, main):
        main.run('import os.path, json\nimport __main__ as me')
        assert there_and_back(name, main.os, main.json, main.me) == [main.os, main.json, main]

    def test_the_standard_streams_are_those_of_the_process(self, name, main):
        assert there_and_back(name, sys.stdout)[0] is sys.stdout

    def test_another_process_runs_them(self, name, main):
        main.run('''
            import functools
            class A:
                def __init__(self, x): self.x = x
                def area(self): return self.x * factor
            def f(a): return a.area() + len([1])
            @functools.wraps(f)
            def g(a): return f(a)
            a = A(3)
            ''')
        data = serializers.get(name).dump([main.f, main.a, main.g], nothing)
        program = ('import sys; from ipython_erp5 import serializers\n'
                   'f, a, g = serializers.load(sys.stdin.buffer.read(), lambda found: None)\n'
                   'factor = 7\nprint(f(a), g(a), type(a).__module__, f.__globals__ is globals())')
        assert python(program, data) == '22 22 __main__ True'

    def test_code_of_another_python_is_refused(self, name, main, monkeypatch):
        main.run('def f(): return 1')
        data = serializers.get(name).dump([main.f], nothing)
        monkeypatch.setattr(sys, 'version_info', (3, 99, 0, 'final', 0))
        with pytest.raises(SerializationError, match=r'saved by Python 3\.\d+, and this is Python 3.99: define it again'):
            serializers.load(data, nothing)

    def test_generics_named_tuples_and_type_variables(self, name, main):
        main.run('''
            import typing
            T = typing.TypeVar('T')
            class Box(typing.Generic[T]):
                def __init__(self, x: T): self.x = x
            class Point(typing.NamedTuple):
                x: int
                y: int = 2
                def sum(self): return self.x + self.y
            ''')
        box, point, t = there_and_back(name, main.Box[int](1), main.Point(1), main.T)
        assert box.x == 1 and point.sum() == 3 and point._asdict() == {'x': 1, 'y': 2}
        assert type(box).__parameters__ == (t,) and t is not main.T

    def test_caches(self, name, main):
        main.run('''
            import functools
            @functools.lru_cache(maxsize=5)
            def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
            fib.note = 'x'
            def make():
                @functools.cache
                def fact(n): return 1 if n < 2 else n * fact(n - 1)
                return fact
            fact = make()
            ''')
        fib, fact, imported = there_and_back(name, main.fib, main.fact, fnmatch._compile_pattern)
        assert fib(20) == 6765 and fib.cache_parameters()['maxsize'] == 5 and fib.note == 'x' and fact(5) == 120
        assert imported is fnmatch._compile_pattern

    def test_loading_a_class_runs_no_hooks(self, name, main):
        main.run(HOOKED)
        values = {key: value for key, value in vars(main).items() if key not in ('run', '__builtins__', 'Tagged')}
        data = serializers.get(name).dump([values], nothing)
        program = ('import sys; from ipython_erp5 import serializers\n'
                   'calls = []\n'
                   'got, = serializers.load(sys.stdin.buffer.read(), lambda found: None)\n'
                   'assert not calls, calls\n'
                   'globals().update(got)\n'
                   'assert P.known == names and P.classes[1] is A, P.known\n'
                   'assert Described.field == "field" and With.tag == 5 and all(C.__bases__ == bases for C, bases in layouts)\n'
                   'class New(P): pass\n'
                   'print(P.known == [*names, "New"], calls, Slots.__init_subclass__.__func__.__qualname__)')
        assert python(program, data) == "True ['P'] Base.__init_subclass__"

    def test_layouts_come_back(self, name, main):
        main.run(HOOKED)
        for kind, _ in main.layouts:
            again, = there_and_back(name, kind)
            for attribute in ('__basicsize__', '__dictoffset__', '__weakrefoffset__', '__qualname__', '__doc__'):
                assert getattr(again, attribute) == getattr(kind, attribute), (kind, attribute)
            assert set(vars(again)) == set(vars(kind)) and [base.__name__ for base in again.__mro__] == [
                base.__name__ for base in kind.__mro__]

    def test_abstract_classes_and_their_registered_ones(self, name, main):
        main.run("""
            import abc
            class Base(abc.ABC):
                def __init_subclass__(cls): assert False
            Base.__init_subclass__ = classmethod(lambda cls, **options: None)
            class Abstract(Base):
                @abc.abstractmethod
                def f(self): ...
            Abstract.register(int)
            class Concrete(Abstract):
                def f(self): return 1
            """)
        abstract, concrete = there_and_back(name, main.Abstract, main.Concrete())
        assert issubclass(int, abstract) and not issubclass(str, abstract) and concrete.f() == 1 and isinstance(concrete, abstract)
        with pytest.raises(TypeError, match='abstract'):
            abstract()

    def test_what_members_of_enumerations_have(self, name, main):
        main.run("""
            import enum
            class Planet(enum.Enum):
                EARTH = (1, 2)
                WORLD = (1, 2)
                MARS = (3, 4)
                def __init__(self, mass, radius): self.mass = mass
            class Flag(enum.IntFlag):
                A = 1
                B = 2
                AB = 3
            """)
        planet, flag, both = there_and_back(name, main.Planet, main.Flag, main.Flag.A | main.Flag.B)
        assert planet.MARS.mass == 3 and planet.WORLD is planet.EARTH and list(planet.__members__) == ['EARTH', 'WORLD', 'MARS']
        assert both is flag.AB and list(flag) == [flag.A, flag.B]

    def test_protocols_and_typed_dictionaries(self, name, main):
        main.run("""
            import typing
            @typing.runtime_checkable
            class HasF(typing.Protocol):
                def f(self): ...
            class F:
                def f(self): pass
            class Base(typing.TypedDict):
                a: int
            class Options(Base, total=False):
                b: str
            """)
        has_f, f, options = there_and_back(name, main.HasF, main.F(), main.Options)
        assert isinstance(f, has_f) and not isinstance(5, has_f) and options(a=1) == {'a': 1}
        assert options.__required_keys__ == {'a'} and options.__optional_keys__ == {'b'}


HOOKED = """
    import dataclasses, typing
    calls = []
    class Base:
        __slots__ = ()
        def __init_subclass__(cls, **options):
            calls.append(cls.__name__)
            super().__init_subclass__()
    class P:
        known, classes = [], []
        def __init_subclass__(cls, **options):
            calls.append('P')
            P.known.append(cls.__name__)
            P.classes.append(cls)
            super().__init_subclass__()
    class Descriptor:
        def __set_name__(self, owner, name):
            calls.append(name)
            self.name = name
        def __get__(self, obj, owner=None): return self.name
    class Tagged(type):
        def __prepare__(name, bases, **options):
            calls.append('prepare')
            return {}
        def __new__(cls, name, bases, namespace, *, tag):
            calls.append('new')
            made = super().__new__(cls, name, bases, namespace)
            made.tag = tag
            return made
        def __init__(cls, *arguments, tag): calls.append('init')
        def __setattr__(cls, name, value):
            calls.append('setattr')
            super().__setattr__(name, value)
    T = typing.TypeVar('T')
    class A(P, key=1):
        class Inner(P): 'Nested.'
    class B(A): pass
    class Described: field = Descriptor()
    class With(metaclass=Tagged, tag=5): pass
    class Under(With, P, tag=6): pass
    class Slots(Base): __slots__ = ('x', '__hidden')
    class Weak(Base): __slots__ = ('x', '__weakref__')
    class Dict(Base): __slots__ = ('x', '__dict__')
    class MoreSlots(Slots): __slots__ = ('y',)
    class NoMoreSlots(Slots): pass
    class Both(Base, P): __slots__ = ()
    class BothAgain(P, Base): __slots__ = ()
    class Error(P, Exception): pass
    class Mapping(dict, P): pass
    class Number(float, P): pass
    class Box(P, typing.Generic[T]): pass
    class IntBox(Box[int]): pass
    @dataclasses.dataclass(slots=True, weakref_slot=True)
    class Data(Base):
        a: int
    class Named(typing.NamedTuple):
        a: int
    names = list(P.known)
    layouts = [(C, C.__bases__) for C in (P, A, A.Inner, B, Described, With, Under, Slots, Weak, Dict, MoreSlots, NoMoreSlots, Both,
               BothAgain, Error, Mapping, Number, Box, IntBox, Data, Named)]
    calls.clear()
    """


class TestCloudpickle:
    def test_functions_of_a_library_keep_its_globals(self, tmp_path, monkeypatch):
        (tmp_path / 'factory.py').write_text('state = []\ndef make():\n    def f(): return state\n    return f\n')
        monkeypatch.syspath_prepend(tmp_path)
        factory = importlib.import_module('factory')
        f, = there_and_back('cloudpickle', factory.make())
        assert f() is factory.state

    def test_functions_in_a_namespace_of_their_own(self):
        namespace = {'__name__': 'nowhere', 'x': 5}
        exec('def f(): return x + g()\ndef g(): return 1', namespace)
        f, = there_and_back('cloudpickle', namespace['f'])
        assert f() == 6 and f.__globals__ is not namespace

    def test_the_same_values_give_the_same_bytes_in_any_process(self):
        program = '''
import typing
T = typing.TypeVar('T')
class A(typing.Generic[T]): pass
def f(x, y=1): return A
from ipython_erp5 import serializers
import hashlib
print(hashlib.md5(serializers.get('cloudpickle').dump([A(), f, T], lambda obj: None)).hexdigest())'''
        assert python(program) == python(program)

    def test_large_buffers_go_out_of_band(self):
        serializer, array, buffers = serializers.get('cloudpickle'), numpy.arange(100_000.), []
        data = serializer.dump([array, [array]], nothing, buffers.append)
        assert len(data) < 1000 and len(buffers) == 1 and isinstance(buffers[0], pickle.PickleBuffer)
        again, inside = serializer.load(data, nothing, [bytearray(buffer.raw()) for buffer in buffers])
        assert inside[0] is again and (again == array).all()


class TestZodbpickle:
    @pytest.mark.parametrize('source', ['def x(): pass', 'class x: pass', 'class A: pass\nx = A()', 'x = {1: [lambda: 1]}'])
    def test_functions_and_classes_of_the_notebook_are_refused(self, source, main):
        main.run(source)
        with pytest.raises(SerializationError, match="of this notebook; zodbpickle keeps none: .*'cloudpickle'"):
            serializers.get('zodbpickle').dump([main.x], nothing)

    def test_those_with_a_reference_are_not(self, main):
        main.run('class A: pass\na = A()')
        serializer = serializers.get('zodbpickle')
        data = serializer.dump([main.a], lambda obj: ('A',) if obj is main.A else None)
        assert type(serializer.load(data, lambda found: main.A)[0]) is main.A


# ---------------------------------------------------------------- bytes of old versions, kept for ever
OLD = Path(__file__).parent / 'serializer_bytes'


@pytest.mark.parametrize('file', sorted(OLD.glob('*-data.bin')), ids=lambda file: file.stem)
def test_old_data_is_loaded(file):
    data, shared, (document,) = serializers.load(file.read_bytes(), lambda found: found)
    assert data == {'a': [1, 'ü', b'x', decimal.Decimal('1.5')], 's': [1]} and data['s'] is shared
    assert document == ('document', 'a/b')


@pytest.mark.parametrize('file', sorted(OLD.glob('*-code-*.bin')), ids=lambda file: file.stem)
def test_old_functions_are_loaded_by_their_python_and_refused_by_others(file, main):
    main.factor = 10
    if file.stem.endswith(f'-{sys.version_info[0]}.{sys.version_info[1]}'):
        f, a, step, cached = serializers.load(file.read_bytes(), nothing)
        assert (f(a), f(a, 2, c=3), step(), step(), cached(1)) == (33, 35, 1, 2, 11) and cached.cache_parameters()['maxsize'] == 3
    else:
        with pytest.raises(SerializationError, match='define it again'):
            serializers.load(file.read_bytes(), nothing)


@pytest.mark.parametrize('file', sorted(OLD.glob('*-classes-*.bin')), ids=lambda file: file.stem)
def test_old_classes_are_loaded_by_their_python(file, main):
    main.factor = 10
    if file.stem.endswith(f'-{sys.version_info[0]}.{sys.version_info[1]}'):
        base, a, abstract, planet = serializers.load(file.read_bytes(), nothing)
        assert base.known == ['A'] and isinstance(a, base) and (a.x, a.hide(1)) == (3, 11)
        assert abstract.tag == 5 and issubclass(int, abstract) and planet.WORLD.mass == 1
    else:
        with pytest.raises(SerializationError, match='define it again'):
            serializers.load(file.read_bytes(), nothing)


def test_there_are_old_bytes():
    assert {path.name.partition('-')[0] for path in OLD.iterdir()} == set(NAMES)
