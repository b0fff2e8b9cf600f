"""The report, its messages, and suggestions that run."""

import inspect
import sqlite3
import types

import pytest

from ipython_erp5.diagnosis import Culprit
from ipython_erp5.report import NotSaved, later_use, render, suggest

RESULTS = NotSaved('results', 'dict', (
    Culprit("results['model'].hooks[3].cb", '_thread.lock', 'a lock; cloudpickle cannot bring the same one back'),
    Culprit("results['model'].db", 'sqlite3.Connection', "TypeError: cannot pickle 'sqlite3.Connection' object")))
CONNECTION = NotSaved('conn', 'sqlite3.Connection', (
    Culprit('conn', 'sqlite3.Connection', 'an open database connection; cloudpickle cannot bring the same one back'),), '''\
def load_conn():
    import sqlite3
    conn = sqlite3.connect(':memory:')
    return {'conn': conn}
environment.define(load_conn, 'conn')
''')
REPORT = '''\
Not saved: 2 of 14 variables
  results   results['model'].hooks[3].cb → _thread.lock
            results['model'].db → sqlite3.Connection
  conn      sqlite3.Connection. Load it through the environment:
                def load_conn():
                    import sqlite3
                    conn = sqlite3.connect(':memory:')
                    return {'conn': conn}
                environment.define(load_conn, 'conn')
'''


def test_the_report_has_its_layout():
    assert render([RESULTS, CONNECTION], 14) == REPORT
    assert render([], 14) == ''


def test_a_reason_that_the_type_does_not_say_is_shown():
    liar = NotSaved('liar', '__main__.Liar', (Culprit('liar', '__main__.Liar', 'it would come back as str'),))
    assert render([liar], 1) == 'Not saved: 1 of 1 variable\n  liar   __main__.Liar (it would come back as str)\n'


def test_more_than_the_limit_is_said():
    many = NotSaved('many', 'list', (Culprit('many[0]', '_thread.lock', ''), Culprit('and 980 more', '', '')))
    assert render([many], 2).splitlines()[1:] == ['  many   many[0] → _thread.lock', '         and 980 more']


@pytest.mark.parametrize('lost', [RESULTS, CONNECTION, NotSaved('x', 'int')])
def test_messages_come_back(lost):
    message = lost.as_message()
    assert NotSaved.from_message(message) == lost
    assert message['text'].startswith(
        f'Cannot serialize the variable named {lost.name} whose value is <{lost.type}>, '
        "thus it will not be stored in the context. "
        "You should move it's definition to a function and use the environment object to load it.\n")


def test_a_message_may_lack_everything():
    assert NotSaved.from_message({}) == NotSaved('', '')


def test_later_use_names_the_reason_and_the_way_out():
    text = later_use('conn', 'conn → sqlite3.Connection', CONNECTION.suggestion)
    assert "'conn'" in text and 'sqlite3.Connection' in text and 'environment.define(load_conn' in text
    assert 'environment.define' in later_use('conn', 'a lock', '')


# ---------------------------------------------------------------- suggestions
MODULES = {'np': 'import numpy as np', 'sqlite3': 'import sqlite3', 'threading': 'import threading'}


def suggested(name, source, provided=()):
    return suggest(name, source, MODULES.get, provided)


def loaded(name, source, **variables):
    """What the suggested code provides."""
    provided = {}
    environment = types.SimpleNamespace(define=lambda function, alias: provided.update(function()))
    code = suggested(name, source)
    assert code, f'nothing suggested for {source}'
    exec(code, {**variables, 'environment': environment, '__name__': '__main__'})
    return provided[name]


def test_the_design_s_own_example():
    assert suggested('conn', "conn = sqlite3.connect(':memory:')\n") == CONNECTION.suggestion


CELLS = [
    ("conn = sqlite3.connect(':memory:')", sqlite3.Connection),
    ("import sqlite3 as sql\nx = 1; conn = sql.connect(':memory:')  # here\nprint(conn)", sqlite3.Connection),
    ("from sqlite3 import connect as c\nconn: object = c(\n    ':memory:',\n)", sqlite3.Connection),
    ("(a, conn), b = (1, sqlite3.connect(':memory:')), 2", sqlite3.Connection),
    ("a = conn = sqlite3.connect(':memory:')", sqlite3.Connection),
    ("for conn in [sqlite3.connect(':memory:')]:\n    pass", sqlite3.Connection),
    ("if True:\n    import sqlite3\n    conn = sqlite3.connect(':memory:')\nelse:\n    conn = None", sqlite3.Connection),
    ("try:\n    conn = sqlite3.connect(':memory:')\nexcept OSError:\n    raise", sqlite3.Connection),
    ("with sqlite3.connect(':memory:') as conn:\n    conn.execute('select 1')", sqlite3.Connection),
    ("conn = 1\nconn = sqlite3.connect(':memory:')\n%time 1\n!ls", sqlite3.Connection),
    ("conn = [1]\nother = 3\nconn += [2]", list),
    ("if (conn := sqlite3.connect(':memory:')):\n    print('ü')", sqlite3.Connection),
    ('ü = 1; conn = sqlite3.connect(":memory:")', sqlite3.Connection),
]


@pytest.mark.parametrize(('source', 'kind'), CELLS)
def test_suggested_code_gives_the_variable(source, kind):
    value = loaded('conn', source)
    assert isinstance(value, kind)
    if kind is sqlite3.Connection:
        value.close()


def test_a_continued_value_is_complete():
    assert loaded('x', 'x = [1]\ny = 5\nx += [2]\nx = x + [3]') == [1, 2, 3]


def test_text_over_several_lines_stays_as_it_is():
    assert loaded('text', 'text = """a\n  b\nc"""') == 'a\n  b\nc'
    assert loaded('text', 'text = f"""a\n  {1 + 1}\nc"""') == 'a\n  2\nc'


def test_functions_and_classes_with_decorators_and_imports():
    source = '''
import functools
@functools.lru_cache(
    maxsize=None)
def area(r):
    """Of a circle.

    r: its radius"""
    return [np.pi * r * r for _ in range(1)]
'''
    area = loaded('area', source)
    assert area(2)[0] == pytest.approx(12.566, rel=1e-3) and inspect.cleandoc(area.__doc__) == 'Of a circle.\n\nr: its radius'
    assert loaded('Point', 'class Point:\n    def area(self):\n        return np.pi\n')().area() > 3


def test_other_variables_of_the_notebook_are_named_and_used():
    source = "lock = (path, threading.Lock(), np, tool, len(path))"
    assert '# uses path and tool, variables of this notebook' in suggested('lock', source)
    assert '# uses path, a variable of this notebook' in suggested('lock', source, {'tool'})
    assert loaded('lock', source, path='/a', tool=1)[0] == '/a'


def test_only_what_is_needed_is_imported():
    assert 'import numpy' not in suggested('conn', 'import numpy as np\nconn = sqlite3.connect("x")')
    assert 'import os.path\n' in suggested('x', 'import os.path\nx = os.path.sep')


@pytest.mark.parametrize('source', ['', 'y = 1', 'x += 1', 'x = x + 1', 'x = await f()', 'def (', 'def f():\n    x = 1',
                                    'y = [x for x in ()]', 'x = 1\ndel y, (', 'from os import *\n', '\0'])
def test_nothing_is_suggested_where_nothing_can_be(source):
    assert suggested('x', source) == ''
