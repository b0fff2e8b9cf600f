"""Which records a cell writes: as many as it has changed, and no other. Looked at in the database of a running node."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import Node

from ipython_erp5.errors import RemoteInterrupt
from ipython_erp5.node import storage
from ipython_erp5.node.stored import SLOTS, StoredContext
from ipython_erp5.session import Session


@dataclass
class Records:
    """What a notebook's context is in the database: of each record its object id and, as its version, its serial."""

    groups: dict[str, bytes] = field(default_factory=dict)  # variable -> object id of its record
    definitions: dict[int, bytes] = field(default_factory=dict)
    versions: dict[bytes, bytes] = field(default_factory=dict)
    lines: dict[bytes, bytes] = field(default_factory=dict)
    index: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    pieces: int = 0

    def together(self, *names: str) -> bool:
        return len({self.groups[name] for name in names}) == 1

    def written(self, before: 'Records') -> set[str]:
        """The variables whose record is new or another version; definitions by number as text."""
        known = before.versions
        roots = {**self.groups, **{str(key): oid for key, oid in self.definitions.items()}}
        return {root for root, oid in roots.items() if known.get(oid) != self.versions[oid]}


@contextlib.contextmanager
def opened(node: Node, reference: str) -> Iterator[Any]:
    database = storage.open_database(storage.embedded_storage(node.data_dir))
    try:
        connection = database.open()
        yield connection.root()['Application'].erp5.data_notebook_module.find(reference)
        connection.close()
    finally:
        database.close()


def records(node: Node, session: Session) -> Records:
    with opened(node, session.reference) as notebook:
        found, stored = Records(), notebook.stored
        for name, group in stored.groups.items():
            found.groups[name] = group._p_oid
            group._p_activate()
            found.versions[group._p_oid] = group._p_serial
            found.sizes[name] = group.size()
        for key, group in stored.definitions.items():
            found.definitions[key] = group._p_oid
            group._p_activate()
            found.versions[group._p_oid] = group._p_serial
        for line in notebook.lines.values():
            line._p_activate()
            found.lines[line._p_oid] = line._p_serial
        for name in ('groups', 'definitions', 'lost'):
            tree = getattr(stored, name)
            tree._p_activate()
            found.index[name] = tree._p_serial
        stored._p_activate()
        found.index['stored'] = stored._p_serial
        found.pieces = len(stored.chunks.index)
        return found


@dataclass
class Story:
    """Runs cells, and says what the last one wrote."""

    node: Node
    session: Session
    now: Records = field(default_factory=Records)

    def __call__(self, *cells: str) -> set[str]:
        for cell in cells[:-1]:
            self.session.execute(cell)
        before = records(self.node, self.session) if len(cells) > 1 else self.now
        self.session.execute(cells[-1])
        self.now = records(self.node, self.session)
        self.before = before
        return self.now.written(before)


@pytest.fixture
def story(node: Node, session: Session) -> Story:
    session.execute('pass')
    return Story(node, session, records(node, session))


# ---------------------------------------------------------------- what is written
def test_only_what_changed_is_written(story: Story) -> None:
    assert story('a = [1]; b = {2: [3]}; c = 4') == {'a', 'b', 'c'}
    assert story('a.append(2)') == {'a'}
    assert story('c += 1') == {'c'}
    assert story('(a, b, c) and None') == set()


def test_reading_writes_neither_variables_nor_indexes_nor_lines(story: Story) -> None:
    story('a = [1]; b = a; c = "x" * 100000')
    before = story.now
    assert story('len(a) + len(b) + len(c) and None') == set()
    assert story.now.index == before.index
    assert before.lines.items() < story.now.lines.items()


def test_a_variable_that_gets_the_same_value_again_is_not_written(story: Story) -> None:
    story('a = [1, {2: (3, None)}]; b = "text"; import numpy as np; c = np.arange(100000)')
    assert story('a = [1, {2: (3, None)}]; b = "text"; c = np.arange(100000)') == set()


def test_what_is_seldom_written_keeps_its_record(story: Story) -> None:
    story('a = [1]')
    record = story.now.groups['a']
    story('a = [2]', 'a.append(3)', 'a = "another type"')
    assert story.now.groups['a'] == record and story.now.index['groups'] == story.before.index['groups']


# ---------------------------------------------------------------- groups
@pytest.mark.parametrize('cell', ['a = [1]; b = a', 'a = [1]; b = [a]', 'a = {}; b = (1, [a])', 'a = []; b = lambda: a\nb.x = a',
                                  'def make():\n    x = []\n    return x, lambda: x\na, b = make()', 'a = b = bytearray(b"x")',
                                  'class C: pass\na = C(); b = {1: a}', 'import numpy as np; a = np.zeros(9); b = a[2:3]',
                                  'import numpy as np; a, b = np.zeros(90000).reshape(2, -1)'])
def test_variables_that_share_something_mutable_are_one_record(story: Story, cell: str) -> None:
    story(cell)
    assert story.now.together('a', 'b')


@pytest.mark.parametrize('cell', [
    'import numpy as np; a = [np, np.float64]; b = [np, np.float64]', 'import numpy as np; a = np.zeros(9); b = np.zeros(9)',
    'a = [(1, 2)]; b = [a[0]]', 'class C: pass\na = C(); b = C()', 'def f(): pass\na = [f]; b = [f]', 'f = lambda: 0; a = (f,); b = {f}',
    'import enum\nclass E(enum.Enum):\n    X = 1\na = [E.X]; b = [E.X]',
    'a = [context]; b = [context]', 'a = [environment]; b = [environment]',
    'import pandas as pd; a = pd.DataFrame({"x": [1]}); b = pd.DataFrame({"x": [2]})',
    'import datetime as d; a = [d.timezone.utc]; b = [d.timezone.utc]',
    'a = [int, len, ValueError]; b = [int, len, ValueError]', 'import re; p = re.compile("x"); a = [p]; b = [p]',
    'a = [globals()]; b = [globals()]', 'import collections\nP = collections.namedtuple("P", "x")\na = [P(1)]; b = [P(1)]',
    'import matplotlib.figure as m; a = m.Figure(); b = m.Figure()',
    'from dataclasses import dataclass\n@dataclass\nclass D:\n    x: int\na = D(1); b = D(1)',
    'import pandas as pd; a = pd.Series(["x", "y"], dtype="category"); b = pd.Series(["x", "y"], dtype="category")'])
def test_variables_that_share_nothing_mutable_are_not(story: Story, cell: str) -> None:
    story(cell)
    assert not story.now.together('a', 'b')


def test_groups_merge_and_split_as_links_come_and_go(story: Story) -> None:
    story('a = []; b = []; c = []')
    assert story('a.append(b)') == {'a', 'b'} and story.now.together('a', 'b') and not story.now.together('a', 'c')
    assert story('b.append(c)') == {'a', 'b', 'c'} and story.now.together('a', 'b', 'c')
    story('a.clear()')
    assert not story.now.together('a', 'b') and story.now.together('b', 'c')
    story('b.clear(); c.append(a)')
    assert story.now.together('a', 'c') and not story.now.together('a', 'b')


def test_a_group_of_which_one_variable_is_assigned_is_not_loaded_for_it(story: Story) -> None:
    story('''class Loud:
    def __setstate__(self, state):
        print('loaded')
        vars(self).update(state)
a = Loud(); a.x = 1; b = [a]; c = 1''')
    assert story.session.execute('b = 5').text == ''
    assert {'loaded', '1 5'} == set(story.session.execute('print(a.x, b)').text.splitlines())
    story('a.x = 2')
    assert not story.now.together('a', 'b')


def test_a_deleted_variable_leaves_its_group(story: Story) -> None:
    story('a = []; b = [a]')
    story('del a')
    assert 'a' not in story.now.groups
    assert story.session.execute('b').result == {'text/plain': '[[]]'}


# ---------------------------------------------------------------- definitions
CLASS = 'class C:\n    items = []\n    def __init__(self, n): self.n = n\n'


def test_instances_do_not_carry_their_class(story: Story) -> None:
    story(CLASS + 'a = C(1); b = C(2)')
    key, = story.now.definitions
    assert story.now.definitions[key] == story.now.groups['C']
    assert story('a.n = 5') == {'a'}
    assert story('C.items.append(1)') == {'C', str(key)}
    assert story.session.execute('b.items, a.n, type(a) is type(b) is C').result == {'text/plain': '([1], 5, True)'}


def test_a_class_whose_contents_a_variable_shares_is_in_one_record_with_it(story: Story) -> None:
    story(CLASS + 'a = C(1); items = C.items; C.items.append(a)')
    assert story.now.together('C', 'items', 'a')
    story('b = C(2)')
    assert not story.now.together('C', 'b')


def test_a_function_that_two_containers_hold_is_one_function(story: Story) -> None:
    story('one = {}; two = {}\ndef add():\n    def inner(): inner.count += 1\n    inner.count = 0\n    one["f"] = two["f"] = inner\nadd()')
    assert not story.now.together('one', 'two')
    story('one["f"]()')
    assert story.session.execute('two["f"] is one["f"], two["f"].count').result == {'text/plain': '(True, 1)'}


def test_a_function_that_its_cell_adds_to_a_container_is_that_function(story: Story) -> None:
    story('handlers = []')
    story('def f(): return f.count\nf.count = 1\nhandlers.append(f)')
    story('f.count = 2')
    assert story.session.execute('handlers[0] is f, handlers[0]()').result == {'text/plain': '(True, 2)'}


def test_a_function_that_deletes_a_name_which_needs_it_is_loaded(story: Story) -> None:
    story('def drop():\n    global K\n    del K\nholder = [drop]\nclass K:\n    def f(self, x=holder): return x', 'holder.append(1)')
    assert story.session.execute('holder[1], K().f() is holder').result == {'text/plain': '(1, True)'}


def test_classes_that_need_each_other_are_one_record(story: Story) -> None:
    story('class A: pass\nclass B: pass\nA.other, B.other = B, A')
    assert story.now.together('A', 'B')
    assert story.session.execute('A.other is B and B.other is A').result == {'text/plain': 'True'}
    story('class C: pass\nC.other = A; a = A()')
    assert not story.now.together('A', 'C')
    assert story.session.execute('C.other is A and type(a) is A').result == {'text/plain': 'True'}


def test_classes_that_need_each_other_stay_one_record_when_it_is_looked_at_anew(story: Story) -> None:
    story('def f(): pass\nc = [f]', 'class E:\n    items = {"a": c}\nclass A(E): pass\nclass B(A):\n    more = [c]')
    story('E.new = 1', 'A.new = 2')
    assert story.session.execute('E.new, A.new, B.new, B.more[0] is c').result == {'text/plain': '(1, 2, 2, True)'}


def test_definitions_that_nobody_knows_any_more_go(node: Node, session: Session) -> None:
    session.execute('class Kept: pass\nkept = Kept(); f = g = None')
    for number in range(130):
        session.execute(f'def f(): return {number}\nclass Kept: pass')
    found = records(node, session)
    assert 0 < len(found.definitions) < 150
    assert session.execute('f(), type(kept) is Kept, type(kept).__name__').result == {'text/plain': "(129, False, 'Kept')"}


# ---------------------------------------------------------------- last values
def test_last_values_take_turns_in_three_records(story: Story) -> None:
    for number in range(7):
        story(f'[{number}]')
    assert set(story.now.groups) & SLOTS == SLOTS
    assert story('[7]') <= SLOTS and story.now.index['groups'] == story.before.index['groups']
    assert story.session.execute('_, __, ___').result == {'text/plain': '([7], [6], [5])'}


def test_showing_a_value_loads_none_of_the_last_ones(story: Story) -> None:
    story('class Loud:\n    def __setstate__(self, state): print("loaded")\nmake = lambda: vars(loud := Loud()).update(x=1) or loud')
    story('make()', '1', '2')
    assert story.session.execute('3').text == ''
    assert 'loaded' not in story.session.execute('_').text


def test_what_the_interpreter_notes_in_the_namespace_is_no_variable(story: Story) -> None:
    story('import warnings\nwarnings.warn("seen")\na = 1')
    assert set(story.now.groups) == {'a'}


# ---------------------------------------------------------------- stopped in the middle
def test_an_interrupt_while_a_variable_is_loaded_loses_nothing(story: Story, tmp_path: Path) -> None:
    flag = tmp_path / 'slow'
    story(f'''class Slow:
    def __setstate__(self, state):
        import os, time
        if os.path.exists({str(flag)!r}):
            open({str(flag)!r}, 'w').write('loading')
            time.sleep(60)
        vars(self).update(state)
slow = Slow(); slow.x = [1]; pair = [slow.x]; other = 5''')
    flag.touch()

    def stop() -> None:
        while flag.read_text() != 'loading':
            time.sleep(.01)
        story.session.interrupt()

    stopping = threading.Thread(target=stop)
    stopping.start()
    with pytest.raises(RemoteInterrupt):
        story.session.execute('other += 1; slow.x.append(2)')
    stopping.join()
    flag.unlink()
    assert story.session.execute('slow.x.append(3)\nslow.x is pair[0], slow.x, other').result == {'text/plain': '(True, [1, 3], 6)'}


# ---------------------------------------------------------------- what earlier versions wrote
def test_records_of_the_first_version_are_read(story: Story) -> None:
    from ipython_erp5.node.context import Group
    old = Group.__new__(Group)
    old.__setstate__({'names': ('a', 'b'), 'data': b'', 'types': {'a': 'list', 'b': 'list'}, 'cell': 3})
    context = StoredContext.__new__(StoredContext)
    context.__setstate__({'groups': {'a': old}, 'lost': {}})
    assert old.roots == ('a', 'b') and old.size() == 0 and context.live(old) == ('a',)
    assert list(context.definitions) == [] and context.sweep_is_due() is False
