"""%erp5_history and `session.history`: what is listed, what is asked for, what is run again; and what of it the site reads."""

import itertools
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import transaction
from conftest import Node
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from scripted_site import each, http, site, streamed
from traitlets.config import Config

from ipython_erp5 import errors, wire
from ipython_erp5.history import History
from ipython_erp5.node import history
from ipython_erp5.node.notebook import DataNotebook
from ipython_erp5.recalling import first_line
from ipython_erp5.session import Session

Type = Callable[[str], ExecutionResult]
CELLS = ['x = 1', 'def f():\n    return 2\nf()', 'print("one")\n1 / 0',
         'from IPython.display import HTML\ndisplay(HTML("<b>bold</b>"))\nx + 41']


@pytest.fixture(scope='module')
def told(node: Node) -> Iterator[Session]:
    """A notebook with four lines, and a fifth one that is not listed."""
    with node.session() as session:
        for cell in CELLS:
            try:
                session.execute(cell)
            except errors.RemoteError:
                pass
        session.execute('hidden = 1', store_history=False)
        yield session


@pytest.fixture
def typed(told: Session, node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Type]:
    """Cells of a shell that is connected to that notebook."""
    monkeypatch.setenv('ERP5_USER', node.user)
    monkeypatch.setenv('ERP5_PASSWORD', node.password)
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}))
    shell.run_line_magic('load_ext', 'ipython_erp5')
    shell.colors = 'nocolor'
    shell.run_cell(f'%erp5_connect {node.url} --reference "{told.reference}"').raise_error()
    yield lambda code: shell.run_cell(code, store_history=True)
    InteractiveShell.clear_instance()


# ---------------------------------------------------------------- what the site tells
def test_entries(told: Session, node: Node) -> None:
    entries = told.history()
    assert [entry['number'] for entry in entries] == [1, 2, 3, 4]
    assert [entry['code'] for entry in entries] == CELLS
    assert [(entry['status'], entry['ename'], entry['committed']) for entry in entries] == [
        ('ok', '', True), ('ok', '', True), ('error', 'ZeroDivisionError', True), ('ok', '', True)]
    assert {entry['user'] for entry in entries} == {node.user} and len({entry['request_id'] for entry in entries}) == 4
    times = [entry['when'] for entry in entries]
    assert times == sorted(times) and times[0] > 1.7e9 and 'messages' not in entries[0]


def test_what_is_asked_for(told: Session) -> None:
    def numbers(*lines: int, **options: Any) -> list[int]:
        return [entry['number'] for entry in told.history(*lines, **options)]

    assert numbers(limit=2) == [3, 4] and numbers(limit=0) == []
    assert numbers(2, 3) == [2, 3] and numbers(2) == [2, 3, 4] and numbers(7) == [] and numbers(1, 99) == [1, 2, 3, 4]
    assert numbers(unlisted=True) == [1, 2, 3, 4, 5] == numbers(unlisted=True, limit=None)
    assert numbers(10 ** 30, 10 ** 40) == []


def test_the_messages_are_those_that_were_shown(told: Session) -> None:
    third, fourth = told.history(3, 4, outputs=True)
    assert [message['msg_type'] for message in third['messages'] if message['msg_type'] != 'context'] == ['stream', 'error']
    assert {message['msg_type'] for message in fourth['messages']} >= {'display_data', 'execute_result'}


def test_a_notebook_that_does_not_exist_has_no_lines(node: Node) -> None:
    with node.session() as session:
        assert session.history() == []
        with pytest.raises(errors.OptionError, match='no line 3: no cell has run in it yet'):
            session.past.line(3)
        with pytest.raises(errors.OptionError, match='no cell has run in this notebook yet'):
            session.past.find()


def test_finding(told: Session) -> None:
    entries = told.history(unlisted=True)
    for entry in entries:
        assert told.past.find(str(entry['number'])) == told.past.find(entry['request_id'][:12]) == entry['request_id']
    assert told.past.find() == entries[3]['request_id']
    with pytest.raises(errors.OptionError, match='the notebook has no cell zz: its lines are 1 to 5'):
        told.past.find('zz')


@pytest.mark.parametrize('running, known, expected', [
    ('aa1', (), 'aa1'), ('', ('bb1', 'bb2'), 'bb2'), ('', (), 'cc1')])
def test_without_an_id_it_is_what_runs(running: str, known: tuple[str, ...], expected: str) -> None:
    past = History(lambda form: {'running': running, 'entries': [{'request_id': 'cc1'}]})
    assert past.find('', known) == expected


def test_an_id_that_several_cells_have() -> None:
    past = History(lambda form: {'running': 'abc1', 'lines': 1, 'entries': [{'request_id': 'abc2'}]})
    assert past.find('abc1') == 'abc1'
    with pytest.raises(errors.OptionError, match='several cells have an id that begins with abc: abc1, abc2'):
        past.find('abc')


def test_an_id_is_looked_for_among_all(told: Session) -> None:
    entry = told.history(2, 2)[0]
    answer = told.client.ask('Base_getJupyterHistory', {'reference': told.reference, 'request_id': entry['request_id'][:20],
                                                        'outputs': 'True'})
    found, = answer['entries']
    assert found.pop('messages') and found == entry and (answer['lines'], answer['running']) == (5, '')


# ---------------------------------------------------------------- what the site reads
@pytest.fixture
def long() -> DataNotebook:
    """5,000 lines, of which every tenth is listed."""
    notebook = DataNotebook('1')
    for count in range(1, 5001):
        notebook.add_line(wire.Request(f'line {count}', request_id=uuid.uuid4().hex, store_history=count % 10 == 0))
    return notebook


def test_pages(long: DataNotebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, 'LOOKED_AT', 300)
    asked = itertools.count(1)

    def ask(form: Any) -> dict[str, Any]:
        next(asked)
        return history.page(long, int(form['first']), int(form.get('last', 0)), int(form['limit']), form['unlisted'] == 'True')

    assert [entry['number'] for entry in History(ask).entries(limit=5)] == [4960, 4970, 4980, 4990, 5000] and next(asked) == 2
    assert [entry['number'] for entry in History(ask).entries(limit=None)] == list(range(10, 5001, 10)) and next(asked) > 15
    assert [entry['number'] for entry in History(ask).entries(95, 121)] == [100, 110, 120]
    assert len(History(ask).entries(unlisted=True)) == 5000


def test_a_page_ends_before_it_is_too_large(long: DataNotebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, 'SIZE', 50)
    page = history.page(long)
    assert [entry['number'] for entry in page['entries']] == [4950, 4960, 4970, 4980, 4990, 5000] and page['before'] == 4949


def test_only_what_is_asked_for_is_read(long: DataNotebook, tmp_path: Any) -> None:
    from ZODB.DB import DB
    database = DB(None)
    with database.transaction() as connection:
        connection.root.notebook = long
    connection = database.open(transaction.TransactionManager())
    entries = history.page(connection.root.notebook, limit=3)['entries']
    assert [entry['number'] for entry in entries] == [4980, 4990, 5000]
    assert connection.getTransferCounts()[0] < 60   # objects: lines, and leaves of the tree
    assert all(line._p_state == -1 for line in connection.root.notebook.lines.values(4980))
    connection.close()
    database.close()


def test_lines_without_a_date(long: DataNotebook) -> None:
    """As nobody has written them for long."""
    del long.lines[5000].created
    assert history.page(long, limit=1)['entries'][0]['when'] is None


# ---------------------------------------------------------------- the magic
def test_the_list(typed: Type, capsys: pytest.CaptureFixture[str], node: Node) -> None:
    capsys.readouterr()
    typed('%erp5_history').raise_error()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ['ended', 'user', 'status', 'code']
    assert [line.split()[0] for line in lines[1:]] == ['1', '2', '3', '4']
    assert [line.partition(node.user)[2].strip() for line in lines[1:]] == [
        'ok                        x = 1', 'ok                        def f(): …', 'error: ZeroDivisionError  print("one") …',
        'ok                        from IPython.display import HTML …']
    typed('%erp5_history -n 1').raise_error()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ['4']
    typed('%erp5_history --all').raise_error()
    assert capsys.readouterr().out.splitlines()[-1].endswith('hidden = 1')


def test_ranges_show_the_whole_code(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    typed('%erp5_history 1-2 4').raise_error()
    out = capsys.readouterr().out
    assert 'x = 1\n' in out and 'def f():\n    return 2\nf()\n' in out and 'print("one")' not in out and out.count('\n[') + 1 == 3


def test_outputs(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    typed('%erp5_history 3- -o').raise_error()
    shown = capsys.readouterr()
    assert 'one\n' in shown.out and 'ZeroDivisionError' in shown.out and '<IPython.core.display.HTML object>' in shown.out
    assert shown.out.rstrip().endswith('42') and shown.err == ''


def test_a_line_is_run_again(typed: Type, told: Session, capsys: pytest.CaptureFixture[str]) -> None:
    before = told.history(limit=1, unlisted=True)[0]['number']
    capsys.readouterr()
    result = typed('%erp5_history --run 2')
    assert repr(result.result) == '2' and 'Line 2 again: def f(): …\n' in capsys.readouterr().out
    again = told.history(limit=1)[0]
    assert (again['number'], again['code']) == (before + 1, CELLS[1])


@pytest.mark.parametrize('options, told_to', [
    ('5-3', "expected lines such as 3, 3-5 or 3-, got '5-3'"), ('x', 'expected lines such as'), ('0', 'expected lines such as'),
    ('-n x', '--limit: expected a number such as 12'), ('--run x', '--run: expected a number'),
    ('--run 99', 'has no line 99: its lines are'), ('--run 1 -o', 'runs one line again'), ('--output', 'did you mean --outputs')])
def test_wrong_options(typed: Type, options: str, told_to: str) -> None:
    with pytest.raises(errors.OptionError, match=told_to):
        typed(f'%erp5_history {options}').raise_error()


def test_a_lost_line_is_listed_and_can_be_run_again(typed: Type, told: Session, node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    code = '# erp5\nimport os; os.kill(os.getpid(), 9)'
    told.execute('1')   # announces the next one
    with pytest.raises(errors.CellLost):
        told.execute(code)
    lost = told.history(limit=1)[0]
    assert (lost['code'], lost['user'], lost['ename'], lost['committed']) == (code, node.user, 'CellLost', False)
    typed('%erp5_history -n 1')
    assert 'lost: signal 9 (SIGKILL)  import os; os.kill(os.getpid(), 9)\n' in capsys.readouterr().out
    with pytest.raises(errors.CellLost):
        typed(f'%erp5_history --run {lost["number"]}').raise_error()
    assert told.history(limit=1)[0]['code'] == code


def test_a_line_without_code_is_not_run_again(typed: Type, told: Session) -> None:
    told.execute('')
    number = told.history(limit=1)[0]['number']
    with pytest.raises(errors.OptionError, match=f'line {number} has no code to run again: ok'):
        typed(f'%erp5_history --run {number}').raise_error()


@pytest.mark.parametrize('code, expected', [
    ('# erp5\nx = 1', 'x = 1'), ('# erp5\n\nx = 1\ny = 2', 'x = 1 …'), ('# erp5', '# erp5'), ('', ''), ('x' * 99, 'x' * 80 + ' …')])
def test_the_first_line_of_a_list_is_the_first_of_code(code: str, expected: str) -> None:
    assert first_line(code) == expected


@pytest.mark.parametrize('magic', ['%erp5_history', '%erp5_result', '%erp5_history --run 1'])
def test_a_stock_site_keeps_none(magic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ERP5_USER', 'ana')
    monkeypatch.setenv('ERP5_PASSWORD', 'secret')
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}))
    shell.run_line_magic('load_ext', 'ipython_erp5')
    with site(Base_checkExistingReference=each([http('False')]), Base_executeJupyter=[streamed()]) as served:
        shell.run_cell(f'%erp5_connect {served.url} --reference sales').raise_error()
        with pytest.raises(errors.UnsupportedError, match='cannot list the lines of a notebook: it has no Base_getJupyterHistory'):
            shell.run_cell(magic).raise_error()
    InteractiveShell.clear_instance()
