"""Markers: tables of (cell, what runs), laws over any cell, and IPython's own transformer manager around them."""

import traceback

import pytest
from hypothesis import given, strategies
from IPython.core.inputtransformer2 import TransformerManager

from ipython_erp5.transformer import transform

MARKED = {
    'alone': ('# erp5', '%%erp5\n# erp5'),
    'a line below': ('# erp5\nx = 1\n', '%%erp5\n# erp5\nx = 1\n'),
    'no trailing newline': ('# erp5\nx = 1', '%%erp5\n# erp5\nx = 1'),
    'options': ('# erp5: --push a,b --pull c\nx', '%%erp5 --push a,b --pull c\n# erp5: --push a,b --pull c\nx'),
    'a colon without options': ('# erp5:\nx', '%%erp5\n# erp5:\nx'),
    'options without a blank': ('# erp5:--noblock\nx', '%%erp5 --noblock\n# erp5:--noblock\nx'),
    'no blank': ('#erp5\nx', '%%erp5\n#erp5\nx'),
    'blanks around': ('#   erp5  \nx', '%%erp5\n#   erp5  \nx'),
    'a blank that looks like one': ('#\xa0erp5\nx', '%%erp5\n#\xa0erp5\nx'),
    'pragma': ('#%erp5\nx', '%%erp5\n#%erp5\nx'),
    'pragma with options': ('#%erp5 --noblock\nx', '%%erp5 --noblock\n#%erp5 --noblock\nx'),
    'pragma with a colon': ('#%erp5: --noblock\nx', '%%erp5 --noblock\n#%erp5: --noblock\nx'),
    'pragma with a tab': ('#%erp5\t--noblock\nx', '%%erp5 --noblock\n#%erp5\t--noblock\nx'),
    'pragma as black writes it': ('# %erp5 --noblock\nx', '%%erp5 --noblock\n# %erp5 --noblock\nx'),
    'indented': ('  # erp5\n  x', '%%erp5\n  # erp5\n  x'),
    'CRLF': ('# erp5: --noblock\r\nx\r\n', '%%erp5 --noblock\n# erp5: --noblock\r\nx\r\n'),
    'after a blank line': ('\n# erp5\nx', '%%erp5\n#\n# erp5\nx'),
    'after a blank CRLF line': ('\r\n# erp5\r\nx', '%%erp5\n#\r\n# erp5\r\nx'),
    'indented after a blank line': (' \n    # erp5\n    x', '%%erp5\n    #\n    # erp5\n    x'),
    'after a form feed': ('\f# erp5\nx', '%%erp5\n#\f# erp5\nx'),
    'after comments': ('# Sales\n#\n\n# erp5\nx', '%%erp5\n# Sales\n#\n\n# erp5\nx'),
    'after prose about ERP5': ('# ERP5\n# erp5\nx', '%%erp5\n# ERP5\n# erp5\nx'),
    'before prose about ERP5': ('# erp5\n# ERP5\nx', '%%erp5\n# erp5\n# ERP5\nx'),
    'before code that is no Python': ('# erp5\n!ls\n%pwd', '%%erp5\n# erp5\n!ls\n%pwd'),
    'an open string': ('# erp5\nx = """\n', '%%erp5\n# erp5\nx = """\n'),
    'an open bracket': ('# erp5\nf(', '%%erp5\n# erp5\nf('),
    'before a cell magic': ('# Sales\n# erp5\n\n%%time\nx', '%%erp5\n%%time\nx'),
    'a marker further down': ('# erp5\nx\n# erp5\n', '%%erp5\n# erp5\nx\n# erp5\n'),
}

UNMARKED = {
    'empty': '', 'a blank line': '\n', 'code': 'x = 1\n', 'a comment': '# a comment\nx', 'only comments': '# a\n# b',
    'after code': 'x = 1\n# erp5\n', 'behind code': 'x = 1  # erp5\n',
    'in a string': '"""\n# erp5\n"""\n', 'in a string after a comment': '# text\n"""\n# erp5\n# epr5"""\n',
    'in an open string': "'''\n# erp5\n", 'after a continuation': '\\\n# erp5\n',
    'the magic': '%%erp5\n# erp5\nx', 'another cell magic': '%%time\n# erp5\nx', 'a line magic': '%erp5 x\n# erp5\n',
    'prose': '# erp5 is nice\nx', 'prose about the product': '# ERP5: the site of sales\nx',
    'prose with a dash': '# erp5 - the site\nx',
    'prose at the end': '# the erp5 site\nx', 'prose with the version': '# ERP 5 is nice\nx', 'a plural': '# ERP5 sites\nx',
    'another magic': '# %erp5_connect https://erp5.example.com/erp5\nx', 'another mode': '# %erp5_mode remote\nx',
    'other pragmas': '#%task(name=t1)\nx', 'a matplotlib magic': '# %matplotlib inline\nx', 'an editor cell': '# %%\nx',
    'a titled editor cell': '# %% ERP5\nx', 'a word': '# step\nx', 'another word': '# exp\nx', 'a number': '# eq5\nx',
    'a shebang': '#!/usr/bin/env python\nx', 'an encoding': '# -*- coding: utf-8 -*-\nx', 'a bare hash': '#\nx',
    'a local cell': '# local\nx',
    'behind a separator in a comment': '# see\u2028# erp5\nx', 'behind a form feed in a comment': '# see\x0c# erp5\nx',
}

MISSPELT = {
    '# epr5': '# erp5', '# ERP5': '# erp5', '# Erp5': '# erp5', '# erp': '# erp5', '# ep5': '# erp5', '# erpp5': '# erp5',
    '# erp6': '# erp5', '# rep5': '# erp5', '# erp 5': '# erp5', '# ERP 5': '# erp5', '# erp-5': '# erp5', '# erp5.': '# erp5',
    '## erp5': '# erp5', '#!erp5': '# erp5', '# ERP5:': '# erp5', '# erp5  # over there': '# erp5',
    '# erp5 --noblock': '# erp5: --noblock', '# erp5 : --noblock': '# erp5: --noblock', '# epr5: --push a': '# erp5: --push a',
    '# ERP5 -p a': '# erp5: -p a', '#%epr5': '# erp5', '#%epr5 --push a': '# erp5: --push a', '# %ERP5': '# erp5',
    '# % erp5': '# erp5', '#%%erp5': '# erp5', '# %%erp5 --push a': '# erp5: --push a', '#%erp5x': '# erp5',
}


@pytest.mark.parametrize('cell, expected', MARKED.values(), ids=MARKED.keys())
def test_marked(cell, expected):
    assert ''.join(transform(cell.splitlines(keepends=True))) == expected


@pytest.mark.parametrize('cell', UNMARKED.values(), ids=UNMARKED.keys())
def test_unmarked_cells_are_the_same_list(cell):
    lines = cell.splitlines(keepends=True)
    assert transform(lines) is lines


@pytest.mark.parametrize('marker, meant', MISSPELT.items())
@pytest.mark.parametrize('before', ['', '\n', '# Sales\n\n'])
def test_a_misspelt_marker_is_an_error_that_says_what_to_write(marker, meant, before):
    with pytest.raises(SyntaxError, match=f'write `{meant}` to run the cell there') as raised:
        transform(f'{before}{marker}\nx'.splitlines(keepends=True))
    assert raised.value.text.strip() == marker
    assert raised.value.lineno == before.count('\n') + 1


@pytest.mark.parametrize('cell, message, row', [
    ('# erp5\n# erp5: --push a\nx', 'a second marker', 2),
    ('# erp5\n\n%%erp5 --push a\nx', 'a marker and %%erp5 in one cell', 1),
])
def test_two_ways_at_once_are_an_error(cell, message, row):
    with pytest.raises(SyntaxError, match=message) as raised:
        transform(cell.splitlines(keepends=True))
    assert raised.value.lineno == row


# ---------------------------------------------------------------- laws
PIECES = ['# erp5', '#%erp5', '# epr5', '# a comment', 'erp5', ': --push a', 'x = 1', '"""', "'", '\\', '(', '%%time', '%%erp5',
          ' ', '\t', '\n', '\n', '\n', '\r\n', '\r', '\f', '\u2028', '\x00', '\ud800', '#', '%']
cells = strategies.lists(strategies.sampled_from(PIECES) | strategies.text(max_size=3), max_size=12).map(''.join)


def outcome(lines):
    """The lines; none for a syntax error, the only error that may come."""
    try:
        return transform(lines)
    except SyntaxError:
        return []


@given(cells)
def test_twice_is_once_and_nothing_but_syntax_errors_comes(cell):
    again = ''.join(outcome(cell.splitlines(keepends=True))).splitlines(keepends=True)
    assert transform(again) == again


@given(cells.filter(lambda cell: cell.strip()))
def test_the_cell_stays_whole_below_the_marker(cell):
    lines = f'# Sales\n# erp5\n{cell}'.splitlines(keepends=True)
    result = outcome(lines)
    assert result in ([], ['%%erp5\n', *lines]) or result[1].lstrip().startswith('%%')


@given(cells)
def test_a_cell_that_begins_with_code_is_left_alone(cell):
    lines = f'x = 1\n{cell}'.splitlines(keepends=True)
    assert transform(lines) is lines


# ---------------------------------------------------------------- inside IPython
@pytest.fixture
def manager():
    """IPython's transformers with ours at both places."""
    manager = TransformerManager()
    manager.cleanup_transforms.insert(0, transform)
    manager.cleanup_transforms.append(transform)
    return manager


@pytest.mark.parametrize('cell, line, body', [
    ('# erp5: --pull y\ny = !ls\n', '--pull y', '# erp5: --pull y\ny = !ls\n'),
    ('# erp5', '', '# erp5\n'),
    ('\n\n# Sales\n# erp5\nawait x', '', '#\n\n# Sales\n# erp5\nawait x\n'),
    ('    # erp5\n    x = 1', '', '    # erp5\n    x = 1\n'),
    ('>>> # erp5\n>>> x = 1', '', '# erp5\nx = 1\n'),
    ('In [7]: # erp5\n   ...: x = 1', '', '# erp5\nx = 1\n'),
    ('# erp5\n%%time\nx', '', '%%time\nx\n'),
])
def test_ipython_runs_the_cell_magic(manager, cell, line, body):
    assert manager.transform_cell(cell) == f"get_ipython().run_cell_magic('erp5', {line!r}, {body!r})\n"


def test_ipython_leaves_unmarked_cells_alone(manager):
    assert manager.transform_cell('# the erp5 site\nx = %pwd') == "# the erp5 site\nx = get_ipython().run_line_magic('pwd', '')\n"


@pytest.mark.parametrize('cell, status', [
    ('# erp5\nx = 1\n\n', 'complete'), ('# erp5\n', 'incomplete'), ('# erp5\nfor x in y:\n    f(', 'incomplete'),
    ('# epr5\nx = 1\n', 'invalid'), ('# comment\nx = 1\n', 'complete'), ('x = (\n', 'incomplete'),
])
def test_ipython_knows_when_a_cell_is_complete(manager, cell, status):
    assert manager.check_complete(cell)[0] == status


def test_the_error_shows_the_line(manager):
    with pytest.raises(SyntaxError) as raised:
        manager.transform_cell('# Sales\n  # epr5: --push a\nx')
    shown = ''.join(traceback.format_exception_only(raised.value))
    assert 'line 2' in shown and '# epr5: --push a\n    ^' in shown
