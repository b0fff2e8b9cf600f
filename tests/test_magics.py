"""The extension in real shells, against scripted sites: what is typed, what is sent, what is shown, and what stays."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from scripted_site import NOT_FOUND, Site, each, http, site, stock, streamed
from traitlets.config import Config

from ipython_erp5 import errors, extension, wire
from ipython_erp5.display import RemoteResult
from ipython_erp5.magics import ERP5Magics
from ipython_erp5.options import did_you_mean, split
from ipython_erp5.sessions import KEPT

Type = Callable[[str], ExecutionResult]
Execute = Callable[[nbformat.NotebookNode], None]


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}))
    InteractiveShell.clear_instance()


@pytest.fixture
def loaded(shell: InteractiveShell) -> InteractiveShell:
    shell.run_line_magic('load_ext', 'ipython_erp5')
    return shell


@pytest.fixture
def typed(loaded: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> Type:
    """Run a cell as if it had been typed; what it raises is in the result."""
    monkeypatch.setenv('ERP5_USER', 'ana')
    monkeypatch.setenv('ERP5_PASSWORD', 'secret')

    def run(code: str) -> ExecutionResult:
        return loaded.run_cell(code, store_history=True)
    return run


def fresh(**answers: Any) -> Any:
    return site(**{'Base_checkExistingReference': each([http('False')]), **answers})


def connect(typed: Type, served: Site, options: str = '--reference sales') -> None:
    typed(f'%erp5_connect {served.url} {options}').raise_error()


def cells(served: Site) -> list[str]:
    return [request.form['python_expression'] for request in served.received if request.method == 'Base_executeJupyter']


def literal(value: Any) -> wire.Message:
    return wire.pulled('_', 'literal', base64.b64encode(repr(value).encode()).decode())


# ---------------------------------------------------------------- load, unload
def state(shell: InteractiveShell) -> Any:
    manager = shell.magics_manager
    return ({kind: dict(manager.magics[kind]) for kind in manager.magics}, dict(manager.registry), list(shell.configurables),
            list(shell.input_transformers_cleanup), list(shell.input_transformers_post), list(shell.Completer.custom_matchers),
            {name: list(callbacks) for name, callbacks in shell.events.callbacks.items()}, set(shell.user_ns))


def test_unload_leaves_no_trace(shell: InteractiveShell) -> None:
    before = state(shell)
    extension.load(shell)
    assert state(shell) != before
    extension.unload(shell)
    assert state(shell) == before


def test_loading_twice_is_loading_once(shell: InteractiveShell) -> None:
    extension.load(shell)
    once = state(shell)
    extension.load(shell)
    assert state(shell) == once


def test_the_magics_of_others_come_back_and_newer_ones_stay(shell: InteractiveShell) -> None:
    def theirs(line: str) -> str:
        return 'theirs'
    shell.register_magic_function(theirs, 'line', 'erp5')
    before = shell.find_line_magic('erp5')
    extension.load(shell)
    shell.register_magic_function(theirs, 'line', 'erp5_vars')
    extension.unload(shell)
    assert shell.find_line_magic('erp5') is before
    assert shell.find_line_magic('erp5_vars') is not None
    assert shell.find_cell_magic('erp5') is None


def test_unload_without_load(shell: InteractiveShell) -> None:
    before = state(shell)
    extension.unload(shell)
    assert state(shell) == before


def test_reload_keeps_the_session(typed: Type) -> None:
    with fresh(Base_executeJupyter=[streamed()]) as served:
        connect(typed, served)
        typed('%reload_ext ipython_erp5').raise_error()
        typed('%%erp5\n1').raise_error()
    assert served.received[-1].form['reference'] == 'sales'
    assert served.count('Base_checkExistingReference') == 1


def test_sessions_go_with_the_shell(loaded: InteractiveShell) -> None:
    magics = loaded.magics_manager.registry['ERP5Magics']
    assert magics.sessions is KEPT[loaded]


# ---------------------------------------------------------------- cells
@pytest.mark.parametrize('cell, body', [
    ('%%erp5\nx = 1\ny = "%s {x} $x"\n', 'x = 1\ny = "%s {x} $x"\n'),
    ('%%erp5 --no-history\n!ls\n%time 1\n', '!ls\n%time 1\n'),
    ('# erp5\nx = 1\n', '# erp5\nx = 1\n'),
    ('\n# a title\n# erp5: --no-history\nx = 1', '#\n# a title\n# erp5: --no-history\nx = 1\n'),
    ('#%erp5\nawait x', '#%erp5\nawait x\n'),
    ('%%erp5', '\n'),
])
def test_the_body_is_sent_exactly(typed: Type, cell: str, body: str) -> None:
    ours = {'Base_getJupyterStatus': each([http({'node': 'n'})]), 'Base_getJupyterContext': each([http({})])}   # no stock site: those
    with fresh(Base_executeJupyter=[streamed()], **ours) as served:                                           # run no magics
        connect(typed, served)
        typed(cell).raise_error()
    assert served.received[-1].form['python_expression'] == body
    assert served.received[-1].form.get('store_history', 'True') == str('--no-history' not in cell)


def test_a_typed_empty_cell_magic_is_not_complete_at_its_first_line(loaded: InteractiveShell) -> None:
    assert loaded.check_complete('%%erp5')[0] == 'incomplete'


def test_the_last_value_is_out_and_underscore(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    with fresh(Base_executeJupyter=[streamed(wire.execute_result({'text/plain': '<Sale 3>'}, {}, 1))]) as served:
        connect(typed, served)
        capsys.readouterr()
        result = typed('%%erp5\nsale').result
        assert capsys.readouterr().out == 'Out[2]: <Sale 3>\n'
        typed('%%erp5\nsale;')
        assert capsys.readouterr().out == ''
        assert typed('_ is Out[2]').result is True
    assert isinstance(result, RemoteResult)


@pytest.mark.parametrize('mode', ['Context', 'Plain', 'Minimal'])
def test_a_remote_error_shows_the_remote_traceback_and_no_frame_of_ours(typed: Type, capsys: pytest.CaptureFixture[str],
                                                                        mode: str) -> None:
    typed(f'%xmode {mode}').raise_error()
    error = wire.error('ZeroDivisionError', 'division by zero', ['Cell In[1], line 2', '1/0'])
    answer = streamed(wire.stream('stdout', 'before\n'), error)
    with fresh(Base_executeJupyter=[answer]) as served:
        connect(typed, served)
        capsys.readouterr()
        result = typed('%%erp5\n\n1/0')
    assert type(result.error_in_exec).__name__ == 'ZeroDivisionError'
    assert capsys.readouterr().out == 'before\nCell In[1], line 2\n1/0\n'


def test_a_time_limit_is_sent(typed: Type) -> None:
    with fresh(Base_executeJupyter=[streamed()]) as served:
        connect(typed, served)
        typed('%%erp5 --timeout 2.5\n1').raise_error()
        for wrong in ('soon', '0', '""'):
            with pytest.raises(errors.OptionError, match='--timeout: expected seconds, such as 30 or 1.5, got '):
                typed(f'%%erp5 --timeout {wrong}\n1').raise_error()
    assert [request.form.get('timeout') for request in served.received if request.method == 'Base_executeJupyter'] == ['2.5']


def test_a_stock_site_has_no_time_limits(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    with fresh(Base_executeJupyter=each([http(stock(code_result='hello\n'))])) as served:
        connect(typed, served)
        typed('%%erp5 --timeout 2\n1').raise_error()
    assert 'it ends no cell by itself' in capsys.readouterr().err


# ---------------------------------------------------------------- expressions
@pytest.mark.parametrize('value', [3, 'text', {'a': [1, (2, None)]}, b'bytes'])
def test_the_value_of_an_expression(typed: Type, value: object) -> None:
    answer = streamed(wire.execute_result({'text/plain': repr(value)}, {}, 1), literal(value))
    with fresh(Base_executeJupyter=[answer]) as served:
        connect(typed, served)
        assert typed('%erp5 f("{x} $x")').result == value
        assert typed('y = %erp5 f("{x} $x")\ny').result == value
    assert served.received[-1].form['python_expression'] == 'f("{x} $x")'
    assert served.received[-1].form['pull'] == '_'


@pytest.mark.parametrize('pull', [[], [wire.not_pulled('_', 'a lock')], [wire.pulled('_', 'literal', '#')],
                                  [wire.pulled('_', 'literal', base64.b64encode(b'x.y').decode())]])
def test_a_value_that_cannot_travel_is_shown(typed: Type, pull: list[wire.Message]) -> None:
    with fresh(Base_executeJupyter=[streamed(wire.execute_result({'text/plain': '<lock>'}, {}, 1), *pull)]) as served:
        connect(typed, served)
        assert repr(typed('%erp5 lock').result) == '<lock>'


def test_an_expression_without_a_value(typed: Type) -> None:
    with fresh(Base_executeJupyter=[streamed(literal(None))]) as served:
        connect(typed, served)
        assert typed('%erp5 print(1)').result is None


def test_no_expression(typed: Type) -> None:
    with pytest.raises(errors.OptionError, match='needs an expression'):
        typed('%erp5').raise_error()


# ---------------------------------------------------------------- connections
@pytest.mark.parametrize('answer, word', [('True', 'existing'), ('False', 'new')])
def test_connecting_says_one_line(typed: Type, capsys: pytest.CaptureFixture[str], answer: str, word: str) -> None:
    with site(Base_checkExistingReference=each([http(answer)])) as served:
        connect(typed, served, '--user ana --reference "my sales" --serializer dill --title "The sales"')
    where = served.url.removeprefix('http://')
    assert capsys.readouterr().out == f"Connected: ana@{where}, reference 'my sales' ({word}), serializer dill\n"


@pytest.mark.parametrize('status, context, serializer', [
    (http({'node': 'n'}), http({'serializer': 'zodbpickle'}), 'zodbpickle'),
    (http({'node': 'n'}), http({'error': 'no notebook'}, '404 Not Found'), 'cloudpickle'),
    (NOT_FOUND, NOT_FOUND, 'of the site'),
])
def test_the_serializer_is_told(typed: Type, capsys: pytest.CaptureFixture[str], status: bytes, context: bytes,
                                serializer: str) -> None:
    with fresh(Base_getJupyterStatus=each([status]), Base_getJupyterContext=each([context])) as served:
        connect(typed, served)
    assert capsys.readouterr().out.endswith(f'serializer {serializer}\n')


@pytest.mark.parametrize('reference, others, meant', [
    ('sale', ['sales', 'stock'], 'sales'), ('SALES', ['sales'], 'sales'), ('sales 2026', ['sales 2025', 'sales'], ''),
    ('sale-2026', ['sales-2026', 'sales-2025'], 'sales-2026'), ('stock', ['sales'], ''), ('sales', [], '')])
def test_a_new_notebook_beside_one_of_nearly_its_name(typed: Type, capsys: pytest.CaptureFixture[str], reference: str, others: list[str],
                                                      meant: str) -> None:
    rows = [{'reference': other, 'title': other} for other in others]
    with fresh(Base_getJupyterStatus=each([http({'node': 'n'})]), Base_getJupyterContext=each([http({})]),
               Base_executeJupyter=each([http(rows)])) as served:
        connect(typed, served, f'--reference "{reference}"')
    assert (f'(new; did you mean {meant!r}?)' if meant else '(new)') in capsys.readouterr().out


def test_the_name_of_a_session_is_meant_where_no_connection_has_it(typed: Type) -> None:
    with fresh() as served:
        connect(typed, served)
        name = served.url.split('/')[2]
        with pytest.raises(errors.OptionError, match=f'no session .x{name}. .did you mean {name}'):
            typed(f'%%erp5 --connection x{name}\n1').raise_error()


def test_what_could_not_be_connected_leaves_nothing_open(typed: Type) -> None:
    """ResourceWarnings are errors here."""
    with fresh(Base_getJupyterStatus=each([http({'serializers': ['dill']})])) as served:
        with pytest.raises(errors.OptionError, match='no serializer .dil. .did you mean dill'):
            connect(typed, served, '--reference r --serializer dil')
        assert typed('%erp5_status').success


def test_a_cell_without_a_session_connects_to_the_default_and_says_so(typed: Type, capsys: pytest.CaptureFixture[str],
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    with fresh(Base_executeJupyter=[streamed()]) as served:
        monkeypatch.setenv('ERP5_URL', served.url)
        typed('# erp5\nx = 1').raise_error()
    assert capsys.readouterr().out.startswith('Connected: ana@127.0.0.1')
    assert served.count('Base_executeJupyter') == 1


@pytest.mark.parametrize('line', ['%erp5_connect nosuch', '%erp5_connect --referense sales'])
def test_where_a_connection_has_failed_a_cell_makes_no_other(typed: Type, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Whoever runs cell by cell may not look back."""
    with fresh(Base_executeJupyter=[streamed()]) as served:
        monkeypatch.setenv('ERP5_URL', served.url)
        with pytest.raises(errors.ERP5Error, match='nosuch|referense'):
            typed(line).raise_error()
        with pytest.raises(errors.NotConnectedError, match='%erp5_connect'):
            typed('# erp5\nx = 1').raise_error()
        for code in ('%erp5_connect', '# erp5\nx = 1'):
            typed(code).raise_error()
    assert served.count('Base_executeJupyter') == 1


def test_without_autoconnect_it_says_how_to_connect(typed: Type) -> None:
    typed('%config ERP5Magics.autoconnect = False')
    with pytest.raises(errors.NotConnectedError, match='%erp5_connect'):
        typed('%%erp5\n1').raise_error()


def test_two_sessions_and_the_default(typed: Type, capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    with fresh(Base_executeJupyter=[streamed()]) as one, fresh(Base_executeJupyter=[streamed()]) as two:
        ini = tmp_path / 'connections.ini'
        ini.write_text(f'[one]\nurl = {one.url}\nreference = first\n[two]\nurl = {two.url}\nreference = second\n')
        ini.chmod(0o600)
        monkeypatch.setenv('ERP5_CONNECTIONS', str(ini))
        for code in ('%erp5_connect one', '%erp5_connect two', '%%erp5\n2', '%%erp5 --connection one\n1', '%erp5_disconnect',
                     '%%erp5\n3'):
            typed(code).raise_error()
        with pytest.raises(errors.TargetError, match='did you mean .two'):
            typed('%%erp5 --connection twoo\n1').raise_error()
        typed('%config ERP5Magics.autoconnect = False')
        with pytest.raises(errors.OptionError, match=r'no session .onee. .did you mean one\?.: connected are one'):
            typed('%%erp5 --connection onee\n1').raise_error()
        capsys.readouterr()
        typed('%erp5_status').raise_error()
        assert capsys.readouterr().out.splitlines()[1].split()[:2] == ['*', 'one']
    assert cells(one) == ['1\n', '3\n']
    assert cells(two) == ['2\n']


@pytest.mark.parametrize('line', ['--password secret2', '--password=secret2', '-p secret2', 'http://h/erp5 --passwd secret2',
                                  '--user ana:secret2', '--user=ana:secret2'])
def test_a_password_is_no_option(typed: Type, line: str) -> None:
    with pytest.raises(errors.OptionError, match='never an option.*ERP5_PASSWORD_FILE') as caught:
        typed(f'%erp5_connect {line}').raise_error()
    assert 'secret2' not in str(caught.value)


@pytest.mark.parametrize('code, text', [
    ('%erp5_connect --refrence x', r'did you mean --reference\?'),
    ('%erp5_connect --ref x', r'did you mean --'),
    ('%erp5_connect a b', 'unrecognized arguments: b'),
    ('%erp5_connect --reference', 'expected one argument'),
    ('%erp5_connect "a', 'quotation mark'),
    ('%%erp5 --nohistory\n1', r'did you mean --no-history\?'),
    ('%erp5_status now', 'unrecognized arguments'),
    ('%erp5_disconnect', 'no session'),
    ('%erp5_interrupt', 'no session'),
])
def test_wrong_options_are_errors_that_say_what_was_meant(typed: Type, code: str, text: str) -> None:
    with pytest.raises(errors.ERP5Error, match=text):
        typed(code).raise_error()


def test_a_wrong_password_is_one_line(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    with site(Base_checkExistingReference=each([http('no', '401 Unauthorized')])) as served:
        result = typed(f'%erp5_connect {served.url}')
    assert isinstance(result.error_in_exec, errors.UnauthorizedError)
    out = capsys.readouterr().out
    assert out.startswith('UnauthorizedError: ') and out.count('\n') == 1 and 'secret' not in out


# ---------------------------------------------------------------- looking
ROW = {'name': 'x', 'type': 'int', 'size': 5, 'group': 1, 'cell': 2, 'modified': 1.5e9, 'shares': ['y']}
CONTEXT = {'serializer': 'dill', 'variables': [ROW],
           'not_saved': [{'name': 'lock', 'reason': 'a lock'}],
           'environment': [{'alias': 'numpy_setup', 'kind': 'import', 'name': 'np', 'source': '', 'cell': 1, 'line': 1}]}


def test_variables_environment_status_interrupt(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    with fresh(Base_getJupyterContext=each([http(CONTEXT)]), Base_getJupyterStatus=each([http({'node': 'n1', 'executors': 2})]),
               Base_interruptJupyter=each([http({'status': 'not running'})])) as served:
        connect(typed, served)
        capsys.readouterr()
        typed('%erp5_vars').raise_error()
        head, row, *lost = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert head == ['name', 'type', 'bytes', 'group', 'cell', 'written', 'shares', 'with']
        assert row[:5] == ['x', 'int', '5', '1', '2'] and row[5].startswith('2017-07-1') and row[7] == 'y'
        assert lost == [[], ['not', 'saved', 'reason'], ['lock', 'a', 'lock']]
        typed('%erp5_environment').raise_error()
        assert capsys.readouterr().out.splitlines()[1].split() == ['numpy_setup', 'import', 'np', '1', '1']
        typed('%erp5_status').raise_error()
        assert capsys.readouterr().out.splitlines()[2:] == ['', 'node       n1', 'executors  2']
        typed('%erp5_interrupt').raise_error()
        assert capsys.readouterr().out == 'Nothing to interrupt: no cell runs in the notebook.\n'


def test_a_stock_site_says_what_it_cannot_do(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    with fresh(Base_executeJupyter=each([http(stock(code_result='hello\n'))])) as served:
        connect(typed, served)
        typed('%erp5_status').raise_error()
        assert 'A stock ERP5 site' in capsys.readouterr().out
        with pytest.raises(errors.UnsupportedError, match='cannot list'):
            typed('%erp5_vars').raise_error()
        typed('%%erp5\nprint("hello")').raise_error()
        assert capsys.readouterr().out.endswith('hello\n')


def test_not_connected(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    typed('%erp5_status').raise_error()
    assert capsys.readouterr().out == 'Not connected: %erp5_connect [TARGET] connects.\n'


# ---------------------------------------------------------------- traits, help
def test_traits_are_defaults(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    with fresh(Base_executeJupyter=[streamed()]) as served:
        typed(f'%config ERP5Magics.url = "{served.url}"')
        typed('%config ERP5Magics.reference = "from the trait"')
        typed('%config ERP5Magics.feedback = 0')
        typed('%%erp5\n1').raise_error()
    assert served.received[-1].form['reference'] == 'from the trait'
    assert capsys.readouterr().out == ''


def test_configuration_by_class_and_trusted_sites(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.config.merge(Config(ERP5Magics={'timeout': 5.0, 'trusted_sites': ['https://host/erp5/']}))
    extension.load(shell)
    magics = shell.magics_manager.registry['ERP5Magics']
    assert isinstance(magics, ERP5Magics)
    assert (magics.timeout, magics.trusted_sites) == (5.0, ['https://host/erp5/'])


def test_help_tells_the_options(loaded: InteractiveShell) -> None:
    assert '--ca-bundle FILE' in str(loaded.find_line_magic('erp5_connect').__doc__)
    assert '--no-history' in str(loaded.find_cell_magic('erp5').__doc__)


@pytest.mark.parametrize('line, words', [
    ('a "b c" --d=\'e f\'', ['a', 'b c', '--d=e f']), (r'C:\x #y', ['C:\\x', '#y']), ('', [])])
def test_words(line: str, words: list[str]) -> None:
    assert split(line) == words


def test_no_suggestion_where_nothing_is_near() -> None:
    assert did_you_mean('xyz', ['--reference']) == ''


# ---------------------------------------------------------------- a notebook
@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """A notebook in a kernel of its own, until an error."""
    monkeypatch.setenv('PYTHONPATH', str(Path(extension.__file__).parents[1]))

    def run(book: nbformat.NotebookNode) -> None:
        nbclient.NotebookClient(book, timeout=60, resources={'metadata': {'path': str(tmp_path)}}).execute()
    return run


def notebook(*cells: str) -> nbformat.NotebookNode:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata.kernelspec = {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}
    return book


@pytest.mark.filterwarnings('ignore:Kernel is running over TCP')
def test_a_notebook_stops_at_a_remote_error_and_has_it_as_its_own(execute: Execute, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = wire.display_data({'image/png': 'iVBORw0KGgo=', 'text/plain': '<Figure>'}, {'image/png': {'width': 2}}, {})
    value = wire.execute_result({'text/html': '<b>3</b>', 'text/plain': '3'}, {}, 1)
    lines = ['remote line 1', 'ZeroDivisionError: division by zero']
    answers = [streamed(wire.stream('stdout', 'a\n'), picture, value),
               streamed(wire.error('ZeroDivisionError', 'division by zero', lines))]
    with fresh(Base_executeJupyter=answers) as served:
        for name, value in (('ERP5_URL', served.url), ('ERP5_USER', 'ana'), ('ERP5_PASSWORD', 'secret')):
            monkeypatch.setenv(name, value)
        book = notebook('%load_ext ipython_erp5', '# erp5\nx', '# erp5\n1/0', '# erp5\nnever')
        with pytest.raises(nbclient.exceptions.CellExecutionError, match='division by zero'):
            execute(book)
    assert served.count('Base_executeJupyter') == 2
    stream, shown, result = book.cells[1].outputs
    assert 'a\n' in stream.text
    assert shown.data['image/png'] == 'iVBORw0KGgo=' and shown.metadata['image/png'] == {'width': 2}
    assert result.output_type == 'execute_result' and result.data == {'text/html': '<b>3</b>', 'text/plain': '3'}
    error, = book.cells[2].outputs
    assert (error.ename, error.evalue) == ('ZeroDivisionError', 'division by zero')
    assert error.traceback == lines
    assert 'secret' not in json.dumps(book)


@pytest.mark.filterwarnings('ignore:Kernel is running over TCP')
def test_a_wrong_option_stops_a_notebook_with_its_reason(execute: Execute) -> None:
    book = notebook('%load_ext ipython_erp5', '%erp5_connect --refrence x')
    with pytest.raises(nbclient.exceptions.CellExecutionError, match='did you mean --reference'):
        execute(book)
    assert [output.ename for output in book.cells[1].outputs] == ['OptionError']
