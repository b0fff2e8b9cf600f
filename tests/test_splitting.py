"""Cells for a stock site: what defines first, the rest after it. Tables of (cell, halves), and laws."""

import json
import types
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from stock_server import StockSite

from ipython_erp5.cell_text import units_of
from ipython_erp5.errors import EnvironmentDefinitionError, UnsupportedError
from ipython_erp5.splitting import split

# a cell, its first half, its rest
TABLE = [
    ('import os\nos.sep', 'import os\n', '\nos.sep'),
    ('x = 1\nfrom os import sep\nsep', '\nfrom os import sep\n', 'x = 1\n\nsep'),
    ('import os; x = 1; import re\nx', 'import os; import re\n', 'x = 1\nx'),
    ('import os, re as r\n1', 'import os; import re as r\n', '\n1'),
    ('from os import (sep,\n    path as p)  # both\np', 'from os import sep; from os import path as p\n', '\n\np'),
    ('x = """\nimport os\n"""\nimport re\nx', '\n\n\nimport re\n', 'x = """\nimport os\n"""\n\nx'),
    ('x = (1,\n2); import re\nx', '\nimport re\n', 'x = (1,\n2)\nx'),
    ('x = 1 + \\\n2\nimport re\nx', '\n\nimport re\n', 'x = 1 + \\\n2\n\nx'),
    ('# why\nimport os  # this\n\n# then\nos', '\nimport os  # this\n', '# why\n\n\n# then\nos'),
    ('x\nimport os', '\nimport os\n', 'x\npass'),
    ('if x: import a; b\nelse:\n    c\nimport z\n3', '\n\n\nimport z\n', 'if x: import a; b\nelse:\n    c\n\n3'),
    ('try:\n    import a\nexcept ImportError:\n    a = None\nimport z\na', '\n\n\n\nimport z\n',
     'try:\n    import a\nexcept ImportError:\n    a = None\n\na'),
    ('import os\r\nos\r\n', 'import os\n', '\nos\n'),
    # the environment
    ('def f():\n    # note\n    return {}\n\nenvironment.define(f, "a")\nx',
     'def f():\n    # note\n    return {}\n\nenvironment.define(f, "a")\n', '\n\n\n\n\nx'),
    ('@d(\n 1)\n# c\ndef f(): pass\nenvironment.define(f, "a")\nf()', '@d(\n 1)\n# c\ndef f(): pass\nenvironment.define(f, "a")\n',
     '@d(\n 1)\n# c\ndef f(): pass\n\nf()'),
    ('def f(): pass\ndef g(): f()\nenvironment.define(f, "a")\nx', 'def f(): pass\n\nenvironment.define(f, "a")\n',
     'def f(): pass\ndef g(): f()\n\nx'),
    ('environment.clearAll()\nenvironment.undefine("b")\nimport os\nos',
     'environment.clearAll()\nenvironment.undefine("b")\nimport os\n', '\n\n\nos'),
    ('environment.define(x=[1,\n 2])\nx', "\n\n\ndef define_x():\n    return {'x': ([1,\n 2])}\nenvironment.define(define_x, 'x')\n",
     '\n\nx'),
    # Python 2
    ('import os\nprint os.sep', 'import os\n', '\nprint os.sep'),
    ('print `x`\nimport os\nprint 0777, 10L <> 3', '\nimport os\n', 'print `x`\n\nprint 0777, 10L <> 3'),
    ('try:\n    x\nexcept E, e:\n    import a\nimport b\nprint e', '\n\n\n\nimport b\n',
     'try:\n    x\nexcept E, e:\n    import a\n\nprint e'),
    ('def f():\n    print "a"\n    return {}\nenvironment.define(f, "a")\nexec "x"',
     'def f():\n    print "a"\n    return {}\nenvironment.define(f, "a")\n', '\n\n\n\nexec "x"'),
    ("print ur'\\'import', 3; import os\nos", 'import os\n', "print ur'\\'import', 3\nos"),
]


@pytest.mark.parametrize('cell, first, rest', TABLE)
def test_the_two_halves(cell: str, first: str, rest: str) -> None:
    parts = split(cell)
    assert (parts.first, parts.rest) == (first, rest)
    assert parts.cells == (first, rest)


WHOLE = [
    '', '\n', '# only a comment', 'x = 1\nx', 'import os', 'import os\nimport re\n', '"why"\nimport os', 'environment.showSetup()\nx',
    'environment.undefine("a")\nx', 'def f():\n    import os\n    return os\nf()', 'class A:\n    import os\nA', 'if x:\n    import os\nos',
    'def f(): return {}\nenvironment.define(f, "a")', '  import os\n  os', 'x = (\nimport os', 'x = "\nimport os', "print 'a\nimport os",
    'if x:\n    environment.clearAll()\nimport os\nos', 'n = 1\ndef f(): return {"a": n}\nenvironment.define(f, "f")\nn',
    'def f(x=n): return {}\nn = 1\nenvironment.define(f, "f")\nn', 'x = "import os"\nx', 'importlib\nx', 'print "%s?" % x',
    '\x00import os\nos',
    'if x:\n    def f(): return {}\nenvironment.define(f, "a")\nx',
]


@pytest.mark.parametrize('cell', WHOLE)
def test_what_is_sent_as_it_is(cell: str) -> None:
    assert split(cell).cells == (cell,)


@pytest.mark.parametrize('cell, error, line, text', [
    ('x\nfrom __future__ import division', UnsupportedError, 2, '`from __future__ import`: leave it out'),
    ('\n\n  \nx = 1\n%time x', UnsupportedError, 5, "'%time x' is IPython's syntax"),
    ('%%time\nx', UnsupportedError, 1, '%%time'), ('!ls', UnsupportedError, 1, '!ls'), ('x = %who', UnsupportedError, 1, '%who'),
    ('print(1)\nx?', UnsupportedError, 2, r'x\?'), ('import os\nfiles = !ls', UnsupportedError, 2, '!ls'),
    ('environment.define(x=y)', UnsupportedError, 1, 'only literal values'), ('environment.define(**x)', UnsupportedError, 1, 'literal'),
    ('1\nenvironment.define(f, "a")', EnvironmentDefinitionError, 2, "`def` of 'f'")])
def test_what_is_refused(cell: str, error: type[Exception], line: int, text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        split(cell)
    assert getattr(caught.value, 'lineno') == line and str(caught.value).startswith(f'line {line}: ')


@pytest.mark.parametrize('cell, note', [
    ('try:\n    import a\nexcept ImportError:\n    pass\na', 'line 2: what is imported under a condition'),
    ('def f():\n    from a import b\n    return b\nf()', 'line 2: an ERP5 site loses'),
    ('n = 1\ndef f(): return {"a": n}\nenvironment.define(f, "f")\nn', 'line 3: on this site this definition acts from the next cell on')])
def test_what_will_not_work_is_noted(cell: str, note: str) -> None:
    assert [text.startswith(note) for text in split(cell).notes] == [True]


def test_an_ordinary_cell_has_no_notes() -> None:
    assert split('import os\ndef f():\n    import re\n    return re\nf()').notes == ()


# ---------------------------------------------------------------- laws
LINES = ['import os', 'import os.path as p', 'from re import compile', 'x = 1', 'print(x)', 'for i in x:\n    y = i\nelse:\n    z = 0',
         '# note', '', '"""\nimport a\n"""', 'def f():\n    return {}', 'environment.define(f, "f")', 'environment.clearAll()', 'f(x)',
         'print x', 'x', 'class A:\n\n    def m(self): return f', 'y = [\n  1,\n]', 'if x: pass\nelif y: z\n']


@given(st.lists(st.sampled_from(LINES), max_size=8))
def test_lines_stay_where_they_are_and_none_is_lost(statements: list[str]) -> None:
    cell = '\n'.join(statements)
    assume('environment.define' not in cell or 'def f()' in cell)
    source = cell.split('\n')
    halves = [half.split('\n') for half in split(cell).cells]
    for half in halves:
        assert all(line in ('', right, 'pass') for line, right in zip(half, [*source, '']))
    for row, line in enumerate(source):
        found = [half[row] for half in halves if row < len(half) and half[row] not in ('', 'pass')]
        assert found or not line or line.startswith('#')


@given(st.lists(st.sampled_from([line for line in LINES if 'import' not in line and 'define' not in line]), max_size=8))
def test_one_cell_where_nothing_defines(statements: list[str]) -> None:
    cell = '\n'.join(statements)
    assert split(cell).cells == (cell,)


@given(st.text(alphabet='import os;x=\'"#\\\n ()[]:@def`%', max_size=40) | st.text())
def test_any_text_is_split_or_refused(text: str) -> None:
    try:
        parts = split(text)
    except (UnsupportedError, EnvironmentDefinitionError):
        return
    assert 1 <= len(parts.cells) <= 2
    assert len(parts.cells) == 1 or parts.rest.count('\n') == text.replace('\r\n', '\n').replace('\r', '\n').count('\n')
    assert [unit.row for unit in units_of(text)] == sorted(unit.row for unit in units_of(text))


PROGRAM = ['import math', 'import string as s, math', 'from os.path import join, basename as base', 'from string import *', 'x = 2',
           'x += 1', 'print(math.floor(2.5))', 'print(s.digits)', 'print(join("a", "b"), base("a/b"))', 'print(digits)', 'print(x)',
           'def f():\n    return {"a": 1}\nenvironment.define(f, "f")\nprint(a)', 'environment.define(n=4, t="u")\nprint([n, t])',
           'print(f())', 'def g():\n    import math\n    return {"b": math.floor(3.5)}\nenvironment.define(g, "g")', 'print(b)',
           'if x:\n    print("yes")']


def in_python(source: str) -> str:
    """What a cell prints where imports and definitions act at once."""
    text: list[str] = []
    space: dict[str, Any] = {'print': lambda *values: text.append(' '.join(map(str, values)) + '\n')}

    def define(*args: Any, **values: Any) -> None:
        space.update(values or args[0]())

    space['environment'] = types.SimpleNamespace(define=define)
    exec(source, space)
    return ''.join(text)


@given(st.lists(st.sampled_from(PROGRAM), max_size=7, unique=True))
def test_a_program_that_python_runs_prints_the_same_there(statements: list[str]) -> None:
    source, expected = '', ''
    for statement in statements:
        with suppress(NameError):
            source, expected = source + statement + '\n', in_python(source + statement)
    site = StockSite('V4d')
    answers = [json.loads(site.execute({'reference': 'r', 'python_expression': cell})[1]) for cell in split(source).cells]
    assert all(answer['status'] == 'ok' for answer in answers)
    assert ''.join(line for answer in answers for line in answer['code_result'].splitlines(keepends=True)
                   if not line.startswith(('WARNING: You', 'Cannot serialize'))) == expected
