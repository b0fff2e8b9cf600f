"""Wire messages in a real IPython shell: where they go, and what `Out` and `_` are."""

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from ipython_erp5 import wire
from ipython_erp5.diagnosis import Culprit
from ipython_erp5.display import NORMAL, QUIET, VERBOSE, Display, RemoteResult, fields, table, with_text
from ipython_erp5.progress import Progress
from ipython_erp5.report import NotSaved

PNG = 'iVBORw0KGgo='


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}))
    InteractiveShell.clear_instance()


@pytest.fixture
def published(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the shell publishes: IPython's own capturing publisher, the one of `%%capture`."""
    publisher = CapturingDisplayPublisher()
    monkeypatch.setattr(shell, 'display_pub', publisher)
    outputs: list[dict[str, Any]] = publisher.outputs
    return outputs


def show(shell: InteractiveShell, *messages: wire.Message, feedback: int = NORMAL) -> Display:
    display = Display(shell, feedback)
    for message in messages:
        display.take(message)
    return display


def test_streams_keep_their_order_and_their_name(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    show(shell, wire.stream('stdout', 'a'), wire.stream('stderr', 'w\n'), wire.stream('stdout', 'b\n'))
    assert capsys.readouterr() == ('ab\n', 'w\n')


def test_what_was_written_first_is_sent_first(shell: InteractiveShell) -> None:
    """By a kernel, whose streams send by themselves after a while only."""
    sent: list[str] = []
    progress, streams = Progress(shell), [(name, SimpleNamespace(flush_interval=.2, flush=functools.partial(sent.append, name)))
                                          for name in map(str, range(9))]
    for name, stream in streams * 2:
        progress.wrote(name, 'x\n', stream)
    progress.tick()
    assert sent == [name for name, _ in streams]


def test_displays_and_their_updates(shell: InteractiveShell, published: list[dict[str, Any]]) -> None:
    bundle, again = {'text/plain': 'x', 'image/png': PNG}, {'text/plain': 'y'}
    show(shell, wire.display_data(bundle, {'image/png': {'width': 3}}, {'display_id': 'd'}),
         wire.display_data(again, {}, {'display_id': 'd'}, update=True))
    metadata, transient = {'image/png': {'width': 3}}, {'display_id': 'd'}
    assert published[0] == {'data': bundle, 'metadata': metadata, 'transient': transient, 'update': False}
    assert published[1] == {'data': again, 'metadata': {}, 'transient': transient, 'update': True}


def test_clear_output_is_ipythons(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.display_pub.clear_output(False)
    local = capsys.readouterr()
    show(shell, wire.clear_output(False))
    assert capsys.readouterr() == local != ('', '')


@pytest.mark.parametrize('bundle, text', [
    ({'text/plain': 'x', 'text/html': '<b>'}, 'x'),
    ({'text/html': '<b>a &amp; b</b>'}, 'a & b'),
    ({'image/png': PNG}, '<image/png>'),
])
def test_a_terminal_shows_text(shell: InteractiveShell, capsys: pytest.CaptureFixture[str], bundle: dict[str, Any],
                               text: str) -> None:
    show(shell, wire.display_data(bundle, {}, {}))
    assert capsys.readouterr().out == text + '\n'


def test_widgets_are_text_and_that_is_said_once(shell: InteractiveShell, published: list[dict[str, Any]],
                                                capsys: pytest.CaptureFixture[str]) -> None:
    """A front end would look for them in the kernel here."""
    bundle = {'text/plain': '  0%|  | 0/3', 'application/vnd.jupyter.widget-view+json': {'model_id': '4a65'}}
    shown = show(shell, wire.display_data(bundle, {}, {}), wire.execute_result(bundle, {}, 1))
    assert shown.result is not None and shown.result.data == published[0]['data'] == {'text/plain': '  0%|  | 0/3'}
    out, told = capsys.readouterr()
    assert (out, told.count('\n')) == ('', 1) and 'tqdm.auto' in told
    show(shell, wire.display_data(bundle, {}, {}), feedback=QUIET)
    assert capsys.readouterr() == ('', '')


def test_an_empty_bundle_stays_empty() -> None:
    assert with_text({}) == {}


def test_messages_of_newer_nodes_are_left_alone(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(shell, {'msg_type': 'of the future'}, wire.keepalive()).result is None
    assert capsys.readouterr() == ('', '')


# ---------------------------------------------------------------- the last value
def run(shell: InteractiveShell, code: str) -> Any:
    return shell.run_cell(code, store_history=True).result


def test_a_result_is_what_the_cell_gives(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    message = wire.execute_result({'text/plain': '<Sale 3>', 'text/html': '<b>3</b>'}, {'a': 1}, 7)
    shell.user_ns['remote'] = show(shell, message).result
    result = run(shell, 'remote')
    assert capsys.readouterr().out == 'Out[1]: <Sale 3>\n'
    assert isinstance(result, RemoteResult)
    assert run(shell, '_ is remote and Out[1] is remote') is True


def test_the_bundle_reaches_the_front_end_as_it_came(shell: InteractiveShell) -> None:
    result = RemoteResult({'text/plain': 'x', 'image/png': PNG, 'application/json': {'a': 1}}, {'image/png': {'width': 3}})
    data, metadata = shell.display_formatter.format(result)
    assert data == {'text/plain': 'x', 'image/png': PNG, 'application/json': {'a': 1}}
    assert metadata == {'image/png': {'width': 3}}


def test_a_result_without_text_has_one() -> None:
    assert repr(RemoteResult({'text/html': '<table><tr><td>1</td></tr></table>'})) == '1'


# ---------------------------------------------------------------- what is said about a cell
NOTED = wire.context(['a'], [], [], ['the first warning\n', 'the second'], 'dill')
DONE = wire.execute_reply('ok', True, 'id', node='n1', execution_count=3, times={'run': 1500})


@pytest.mark.parametrize('feedback, said', [
    (QUIET, ''),
    (NORMAL, 'the first warning\nthe second\n'),
    (VERBOSE, 'the first warning\nthe second\n[n1, line 3, committed] run 1.5 ms\n'),
])
def test_how_much_is_said(shell: InteractiveShell, capsys: pytest.CaptureFixture[str], feedback: int, said: str) -> None:
    show(shell, NOTED, DONE, feedback=feedback)
    assert capsys.readouterr() == ('', said)


def test_what_was_not_saved_is_reported_even_quietly(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    lost = NotSaved('conn', 'sqlite3.Connection', (Culprit("conn['db']", '_thread.lock', ''),))
    show(shell, wire.context(['a', 'b'], [], [lost.as_message()], ['a warning'], 'dill'), feedback=QUIET)
    out, err = capsys.readouterr()
    assert out == ''
    assert err.startswith('Not saved: 1 of 3 variables\n')
    assert "conn['db'] → _thread.lock" in err


def test_tables_and_fields() -> None:
    assert table(('name', 'n'), [('x', 1), ('longer', None)]) == 'name    n\nx       1\nlonger\n'
    assert fields({'node': 'n', 'executors': [{'pid': 1, 'notebook': None}, {'pid': 2}]}) == (
        'node       n\nexecutors  pid 1, notebook -; pid 2\n')
    assert fields({}) == ''


def test_why_a_cell_waits_is_said_once(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    reasons = ('', 'all 2 executors are busy', 'all 2 executors are busy', 'another cell of this notebook runs', '')
    show(shell, *map(wire.keepalive, reasons))
    assert capsys.readouterr().err == 'Waiting: all 2 executors are busy.\nWaiting: another cell of this notebook runs.\n'
    show(shell, *map(wire.keepalive, reasons), feedback=QUIET)
    assert capsys.readouterr().err == ''
