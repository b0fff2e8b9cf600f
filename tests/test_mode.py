"""Remote mode: tables of (cell, what runs), laws over any cell, IPython's transformers around them, and a real shell on a real node."""

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Node
from hypothesis import given, strategies
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from jupyter_client.manager import start_new_kernel
from scripted_site import each, http, site, streamed
from traitlets.config import Config

from ipython_erp5 import errors, mode, transformer
from ipython_erp5.mode import is_remote, mode_of, transform

Type = Callable[[str], ExecutionResult]
CALL = "get_ipython().run_cell_magic('erp5', "

THERE = {
    'code': ('x = 1\n', '%%erp5\nx = 1\n'),
    'no trailing newline': ('x', '%%erp5\nx'),
    'after a comment': ('# Sales\nx', '%%erp5\n# Sales\nx'),
    'after a blank line': ('\n\nx', '%%erp5\n#\n\nx'),
    'indented after a blank line': ('\n    x', '%%erp5\n    #\n    x'),
    'CRLF': ('x\r\ny\r\n', '%%erp5\nx\r\ny\r\n'),
    'no Python': ('!ls\n%pwd', '%%erp5\n!ls\n%pwd'),
    'an open string': ('x = """\n', '%%erp5\nx = """\n'),
    'help': ('x?', '%%erp5\nx?'), 'help before': ('?x', '%%erp5\n?x'), 'source': ('x.y??\n', '%%erp5\nx.y??\n'),
    'a line magic of others': ('%timeit x\n', '%%erp5\n%timeit x\n'), 'time of a line': ('%time x\n', '%%erp5\n%time x\n'),
    'configuration of others': ('%config IPCompleter.debug = True', '%%erp5\n%config IPCompleter.debug = True'),
    'an extension of others': ('%load_ext autoreload', '%%erp5\n%load_ext autoreload'),
    'a cell magic': ('%%bash\nls\n', '%%erp5\n%%bash\nls\n'), 'another': ('%%html\n<b>', '%%erp5\n%%html\n<b>'),
    'a timed loop': ('%%timeit\nx', '%%erp5\n%%timeit\nx'),
    'a cell magic below comments': ('# Sales\n\n%%bash\nls', '%%erp5\n%%bash\nls'),
    'local further down': ('x\n# local\n', '%%erp5\nx\n# local\n'), 'local behind code': ('x  # local', '%%erp5\nx  # local'),
    'prose': ('# local sums\nx', '%%erp5\n# local sums\nx'), 'a near word': ('# Locals\nx', '%%erp5\n# Locals\nx'),
    'a lonely percent sign': ('%\nx', '%%erp5\n%\nx'), 'our name in a string': ('"%erp5_status"', '%%erp5\n"%erp5_status"'),
    'a remainder': ('x = 7\n%erp5_vars', '%%erp5\nx = 7\n%erp5_vars'), 'an assignment': ('x = %pwd', '%%erp5\nx = %pwd'),
    'item access': ('In[5]', '%%erp5\nIn[5]'), 'dots': ('...', '%%erp5\n...'),
}

HERE = {
    'empty': '', 'blank': '\n \n', 'a comment': '# Sales', 'local': '# local\nx', 'local without a blank': '#local\nx',
    'local with a colon': '# local:\nx', 'pragma': '#%local\nx', 'pragma as black writes it': '# %local\nx',
    'local after comments': '# Sales\n\n# local\nx', 'indented': '    # local\n    x', 'the magic': '%%erp5 --timeout 3\nx',
    'help for the magic': '%%erp5?', 'time': '%%time\nx', 'capture': '%%capture out\nx', 'ours': '%erp5_status',
    'connecting': '%erp5_connect x',
    'two of ours': '%erp5_connect x\n\n%erp5_vars\n', 'ours and a comment': '%erp5_vars\n# so\n\n', 'an expression': '%erp5 x + 1',
    'the value of an expression': 'x = %erp5 y', 'values': 'x, y = %erp5 z', 'help for ours': '%erp5_connect?',
    'help before': '?%erp5_vars',
    'loading': '%load_ext ipython_erp5', 'reloading': '%reload_ext ipython_erp5', 'ours, long': '%erp5_connect \\\n  --user ana\n',
    'a setting': '%config ERP5Magics.feedback = 0', 'settings': '%config ERP5Magics', 'official': '%notebook_set_reference x',
    'notebooks': '%my_notebooks\n', 'local below ours': '%erp5_vars\n# local\nx', 'local above ours': '# local\n%erp5_vars\nx',
    'back to marked': '%erp5_mode marked\nx', 'the call': CALL + "'', 'x')\n", 'a prompt': '>>> x', "IPython's prompt": 'In [3]: x',
    'a time below ours': '%erp5_vars\n%%time\nx',
}

DIVIDED = {
    'ours, then code': ('%erp5_vars\nx\ny\n', '%erp5_vars\n', '', '#\nx\ny\n'),
    'no trailing newline': ('%erp5_vars\nx', '%erp5_vars\n', '', '#\nx'),
    'after comments': ('# a\n\n%erp5_vars\n\n# b\nx', '# a\n\n%erp5_vars\n', '', '#\n#\n#\n#\n# b\nx'),
    'several': ('%erp5_connect a\n%erp5_vars\nx', '%erp5_connect a\n%erp5_vars\n', '', '#\n#\nx'),
    'a long one': ('%erp5_connect \\\n --user ana\nx', '%erp5_connect \\\n --user ana\n', '', '#\n#\nx'),
    'a marker below': ('%erp5_vars\n# erp5: --timeout 3\nx', '%erp5_vars\n', '--timeout 3', '#\n# erp5: --timeout 3\nx'),
    'a cell magic below': ('%erp5_vars\n%%bash\nls', '%erp5_vars\n', '', '%%bash\nls'),
    'indented': ('  %erp5_vars\n  x', '  %erp5_vars\n', '', '  #\n  x'),
    'the value of an expression': ('x = %erp5 y\nz', 'x = %erp5 y\n', '', '#\nz'),
    'a password': ('%erp5_password secret\nx', '%erp5_password secret\n', '', '#\nx'),
}


def lines_of(cell: str) -> list[str]:
    return cell.splitlines(keepends=True)


def both(cell: str, remote: bool = True) -> list[str]:
    """What the two transformers make of a cell, one after the other."""
    return transform(transformer.transform(lines_of(cell)), remote)


@pytest.mark.parametrize('cell, expected', THERE.values(), ids=THERE.keys())
def test_there(cell: str, expected: str) -> None:
    assert ''.join(both(cell)) == expected


@pytest.mark.parametrize('cell', HERE.values(), ids=HERE.keys())
def test_here_is_the_same_list(cell: str) -> None:
    lines = lines_of(cell)
    assert transform(lines, True) is lines


@pytest.mark.parametrize('cell, head, options, body', DIVIDED.values(), ids=DIVIDED.keys())
def test_what_stands_below_our_own_magics_runs_there(cell: str, head: str, options: str, body: str) -> None:
    *first, call = both(cell)
    assert ''.join(first) == head
    assert call.lstrip(' ') == f'{CALL}{options!r}, {body!r})\n'


@pytest.mark.parametrize('cell', [*(cell for cell, _ in THERE.values()), '# local\nx', '# locla\nx', '%%time\nx', '%erp5_vars\nx'])
def test_in_marked_mode_nothing_changes(cell: str) -> None:
    lines = lines_of(cell)
    assert transform(lines, False) is lines


@pytest.mark.parametrize('head', ['%erp5_mode remote', '%erp5_user ana', '%erp5_url https://host', '%notebook_set_reference x',
                                  '%erp5_mode marked\n%erp5_mode  remote'])
def test_what_stands_below_a_change_of_the_mode_is_in_the_new_one(head: str) -> None:
    assert both(f'{head}\nx', remote=False)[-1].startswith(CALL)


@pytest.mark.parametrize('marker', ['# loacl', '# Local', '# LOCAL', '# local.', '## local', '# locl', '#%locla', '# %LOCAL', '# lo cal',
                                    '# local --quiet'])
@pytest.mark.parametrize('before', ['', '\n', '# Sales\n\n'])
def test_a_misspelt_marker_is_an_error_in_remote_mode_only(marker: str, before: str) -> None:
    with pytest.raises(SyntaxError, match='write `# local` to run the cell here, or reword the comment to run the cell there') as raised:
        both(f'{before}{marker}\nx')
    assert (raised.value.text or '').strip() == marker and raised.value.lineno == before.count('\n') + 1
    assert ''.join(both(f'{before}{marker}\nx', remote=False)) == f'{before}{marker}\nx'


@pytest.mark.parametrize('cell, message', [
    ('# local: --timeout 3\nx', 'has no options'), ('#%local x\nx', 'has no options'),
    ('# local\n# erp5\nx', '`# erp5` and `# local` in one cell'),
    ('# erp5: --timeout 3\n\n# local\nx', '`# erp5` and `# local` in one cell'),
    ('# epr5\nx', 'write `# erp5`')])
def test_what_cannot_be_meant_is_an_error(cell: str, message: str) -> None:
    with pytest.raises(SyntaxError, match=message):
        both(cell)


@pytest.mark.parametrize('cell', ['# erp5: --timeout 3\nx = 1', '# Sales\n#%erp5 --no-history\nx', '\n# erp5\n%%time\nx'])
def test_a_marker_means_what_it_means_everywhere(cell: str) -> None:
    assert both(cell) == transformer.transform(lines_of(cell))


# ---------------------------------------------------------------- laws
PIECES = ['# local', '#%local', '# loacl', '# erp5', '# a comment', '%erp5_vars', '%erp5_mode remote', '%erp5_mode marked', '%erp5_user x',
          'x = %erp5 y', 'x = 1', '"""', '\\', '(', '%%time', '%%bash', '%%erp5', '%', '?', CALL, ' ', '\t', '\n', '\n', '\n', '\r\n', '\f',
          '\u2028', '\x00', '>>> ', 'In [1]: ']
cells = strategies.lists(strategies.sampled_from(PIECES) | strategies.text(max_size=3), max_size=12).map(''.join)


def outcome(lines: list[str], remote: bool) -> list[str]:
    """The lines; none for a syntax error, the only error that may come."""
    try:
        return transform(transformer.transform(lines), remote)
    except SyntaxError:
        return []


@given(cells, strategies.booleans())
def test_twice_is_once_and_nothing_but_syntax_errors_comes(cell: str, remote: bool) -> None:
    again = lines_of(''.join(outcome(lines_of(cell), remote)))
    assert transform(again, remote) == again


@given(cells)
def test_code_that_is_not_marked_is_there_whole(cell: str) -> None:
    lines = lines_of(f'x = 1\n{cell}')
    assert transform(lines, True) == ['%%erp5\n', *lines]


# ---------------------------------------------------------------- inside IPython
@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}))
    shell.run_line_magic('load_ext', 'ipython_erp5')
    yield shell
    InteractiveShell.clear_instance()


@pytest.fixture
def remote(shell: InteractiveShell) -> InteractiveShell:
    mode_of(shell).remote = True
    return shell


@pytest.mark.parametrize('cell, body', [
    ('x = 1', 'x = 1\n'), ('\n\n# Sales\nx', '#\n\n# Sales\nx\n'), ('    x = 1\n    y', '    x = 1\n    y\n'),
    ('>>> x = 1\n>>> y', 'x = 1\ny\n'),
    ('In [7]: x = 1\n   ...: y', 'x = 1\ny\n'), ('x?', 'x?\n'), ('%%bash\nls', '%%bash\nls\n'), ('await x', 'await x\n')])
def test_ipython_runs_the_cell_magic(remote: InteractiveShell, cell: str, body: str) -> None:
    assert remote.transform_cell(cell) == f'{CALL}\'\', {body!r})\n'


@pytest.mark.parametrize('cell', ['>>> # local\n>>> x = 1', '# local\nx = 1', '\n\n  # local\n  x = 1'])
def test_ipython_runs_a_local_cell_as_it_is(remote: InteractiveShell, cell: str) -> None:
    assert remote.transform_cell(cell) == '# local\nx = 1\n'


def test_ipython_runs_our_own_magics_and_then_the_rest_there(remote: InteractiveShell) -> None:
    cell = remote.transform_cell('    %erp5_vars\n    x = %erp5 y\n    1 / 0')
    assert cell == f"get_ipython().run_line_magic('erp5_vars', '')\nx = get_ipython().run_line_magic('erp5', 'y')\n" \
                   f'{CALL}\'\', {"    #" + chr(10) + "    #" + chr(10) + "    1 / 0" + chr(10)!r})\n'


@pytest.mark.parametrize('cell, status', [
    ('x = 1', 'complete'), ('for x in y:', 'incomplete'), ('f(', 'incomplete'), ('x = """', 'incomplete'), ('x?', 'complete'),
    ('%%time\nx', 'incomplete'), ('%%time\nx\n\n', 'complete'), ('%erp5_vars', 'complete'), ('# local\nfor x in y:', 'incomplete'),
    ('# local', 'incomplete'), ('# Sales\n# local\nx = 1', 'incomplete'), ('# local\nx = 1\n\n', 'complete'), ('# loacl\nx', 'invalid'),
    ('# erp5\nx = 1\n\n', 'complete'), ('# epr5\nx = 1', 'invalid'), ('def f():\n    return 1\n\n', 'complete'), ('x = = 1', 'invalid')])
def test_ipython_knows_when_a_cell_is_complete(remote: InteractiveShell, cell: str, status: str) -> None:
    assert remote.input_transformer_manager.check_complete(cell)[0] == status


@pytest.mark.parametrize('cell, marked, unmarked', [
    ('x.', True, False), ('# erp5\nx.', True, True), ('# local\nx.', False, False), ('%erp5_connect --us', False, False),
    ('%erp5_vars\nx.', True, False), ('%erp5_mode remote\nx.', True, True), ('%%time\nx.', True, False), ('%%time\n# erp5\nx.', True, True),
    ('%%time\n# local\nx.', False, False), ('%%bash\nls', True, False), ('# epr5\nx.', False, False), ('# loacl\nx.', False, False),
    ('%%erp5 --no-history\nx.', True, True), ('', False, False), ('%%time', False, False)])
def test_where_what_is_being_typed_would_run(shell: InteractiveShell, cell: str, marked: bool, unmarked: bool) -> None:
    found = []
    for remote in (True, False):
        mode_of(shell).remote = remote
        found.append(is_remote(shell, lines_of(cell)))
    assert found == [marked, unmarked]


def test_the_mode_is_said_and_kept_by_a_reload_and_ended_by_an_unload(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*cells: str) -> str:
        for cell in cells:
            shell.run_cell(cell).raise_error()
        return capsys.readouterr().out.partition(':')[0]

    assert said('%erp5_mode') == 'Mode marked'
    assert said('%erp5_mode remote') == said('%erp5_mode') == 'Mode remote'
    assert said('%reload_ext ipython_erp5', '%erp5_mode') == 'Mode remote'
    said('%unload_ext ipython_erp5')
    shell.run_cell('here = 6 * 7').raise_error()
    assert shell.user_ns['here'] == 42
    said('%load_ext ipython_erp5')
    assert said('%erp5_mode') == 'Mode marked'


def test_a_mode_that_there_is_not(shell: InteractiveShell) -> None:
    with pytest.raises(errors.OptionError, match=r"no mode 'remot' \(did you mean remote\?\): %erp5_mode remote, or %erp5_mode marked"):
        shell.run_cell('%erp5_mode remot').raise_error()


@pytest.mark.filterwarnings('ignore:Kernel is running over TCP')
def test_what_a_front_end_asks_for_itself_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PYTHONPATH', str(Path(__file__).parent.parent))
    manager, client = start_new_kernel(kernel_name='python3')
    try:
        for code, silent in (('%load_ext ipython_erp5', False), ('%config ERP5Magics.autoconnect = False', False),
                             ('%erp5_mode remote', False), ('asked = 6 * 7', True), ('# local\nassert asked == 42', False)):
            assert client.execute_interactive(code, silent=silent, timeout=60)['content']['status'] == 'ok', code
        refused = client.execute_interactive('asked = 0', timeout=60)['content']
        assert (refused['status'], refused['ename']) == ('error', 'NotConnectedError')
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# ---------------------------------------------------------------- what is sent
def test_what_goes_there_and_where_an_error_is(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ERP5_USER', 'ana')
    monkeypatch.setenv('ERP5_PASSWORD', 'secret')
    with site(Base_checkExistingReference=each([http('True')]), Base_executeJupyter=[streamed()]) as served:
        for cell in (f'%erp5_connect {served.url} --reference r\n%erp5_mode remote\nx = 1', 'y = 2', '# local\nz = 3', '%%time\nu = 4'):
            shell.run_cell(cell).raise_error()
    sent = [request.form['python_expression'] for request in served.received if request.method == 'Base_executeJupyter']
    assert sent == ['#\n#\nx = 1\n', 'y = 2\n', 'u = 4\n']
    assert shell.user_ns['z'] == 3 and not {'x', 'y', 'u'} & set(shell.user_ns)


# ---------------------------------------------------------------- a real shell on a real node
@pytest.fixture(scope='module')
def typed(node: Node) -> Iterator[Type]:
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}), colors='nocolor')
    with pytest.MonkeyPatch.context() as patch:
        for name in ('ERP5_URL', 'ERP5_USER', 'ERP5_PASSWORD'):
            patch.setenv(name, node.environment()[name])
        shell.run_cell('%load_ext ipython_erp5').raise_error()
        shell.run_cell('%erp5_connect --reference mode\n%erp5_mode remote').raise_error()
    yield lambda cell: shell.run_cell(cell, store_history=True)
    InteractiveShell.clear_instance()


def test_variables_live_there_and_local_cells_here(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    typed('import os\nthere = os.getpid()').raise_error()
    assert typed('there > 0').result.data == {'text/plain': 'True'}
    typed('# local\nhere = 5').raise_error()
    assert typed('# local\nhere').result == 5
    typed('z = %erp5 2 * 21').raise_error()
    assert typed('# local\nz').result == 42
    assert isinstance(typed('here').error_in_exec, NameError | errors.RemoteError)


def test_the_last_value_is_as_for_the_magic(typed: Type) -> None:
    number = get_number(typed('6 * 7'))
    assert repr(typed('# local\n_').result) == '42' and repr(typed(f'# local\nOut[{number}]').result) == '42'
    assert typed('_ + 1').result.data == {'text/plain': '43'}


def get_number(result: ExecutionResult) -> int:
    assert result.execution_count is not None
    return int(result.execution_count)


def test_magics_help_and_lines_of_errors(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    typed('%%bash\necho "over $((40 + 2)) there"').raise_error()
    assert 'over 42 there' in capsys.readouterr().out
    typed('%%capture caught\nprint("caught there")').raise_error()
    assert capsys.readouterr().out == '' and 'caught there' in typed('# local\ncaught.stdout').result
    typed('def documented():\n    """What it says."""').raise_error()
    typed('documented?').raise_error()
    assert 'What it says.' in capsys.readouterr().out
    typed('%%time\ntimed = 1').raise_error()
    assert 'Wall time' in capsys.readouterr().out
    error = typed('%erp5_mode\n\n1 / 0').error_in_exec
    assert isinstance(error, errors.RemoteError) and error.ename == 'ZeroDivisionError'
    assert any('3' in line and '1 / 0' in line for line in error.traceback), '\n'.join(error.traceback)


def test_a_misspelt_marker_runs_nowhere(typed: Type) -> None:
    error = typed('# loacl\nnowhere = 1').error_before_exec
    assert isinstance(error, SyntaxError) and '# local' in ''.join(traceback.format_exception_only(error))
    typed('# local\nassert "nowhere" not in globals()').raise_error()
    typed('assert "nowhere" not in globals()').raise_error()


def test_the_names_of_modes_are_those_of_the_table() -> None:
    assert set(mode.MODES) == {mode.MARKED, mode.REMOTE}
