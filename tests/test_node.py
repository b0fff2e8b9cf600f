"""A node as its clients see it: events as they happen, one transaction a cell, at most one run for an id, interrupts, deaths."""

import base64
import contextlib
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import Node, running, start_node, there
from storages import free_port
from ipython_erp5 import delivery
from ipython_erp5 import wire
from ipython_erp5.errors import CellLost, ERP5Error, RemoteError, RemoteInterrupt
from ipython_erp5.reply import Reply
from ipython_erp5.session import Session

Run = Callable[[str], Reply]
PIXEL = base64.b64encode(b'\x89PNG\r\n\x1a\n' + bytes(20)).decode()


STUBBORN = '''
import time
while True:
    try:
        print('begun', flush=True)
        time.sleep(60)
    except BaseException:
        pass
'''


def messages(session: Session, code: str, **fields: Any) -> list[wire.Message]:
    """All messages of one cell, keepalives included."""
    request = wire.Request(code, session.reference, **{'request_id': uuid.uuid4().hex, **fields})
    return list(session.delivery.run(request))


def kinds(found: list[wire.Message]) -> list[str]:
    return [message['msg_type'] for message in found if message['msg_type'] not in ('keepalive', 'context')]


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """What the condition gives once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, 'it did not become true in time'
        time.sleep(.02)
    return found


@contextlib.contextmanager
def in_background(*sessions: Session) -> Iterator[Callable[..., 'Future[Reply]']]:
    with ThreadPoolExecutor(len(sessions) or 4) as threads:
        yield lambda session, code, **options: threads.submit(session.execute, code, **options)


# ---------------------------------------------------------------- events
def test_messages_come_as_they_happen_and_in_order(session: Session, tmp_path: Path) -> None:
    """The cell goes on when what it has shown is here."""
    names: list[str] = []

    def heed(message: wire.Message) -> None:
        names.append(message['msg_type'] + message.get('name', ''))
        (tmp_path / names[-1]).touch()

    first, second = tmp_path / 'streamstdout', tmp_path / 'display_data'
    session.execute(f"import sys\nprint('one'); went_on = [{there(first)}]; print('two', file=sys.stderr)\n"
                    f"display('three'); went_on.append({there(second)}); went_on", on_message=heed)
    assert [name for name in names if name not in ('keepalive', 'context')] == [
        'streamstdout', 'streamstderr', 'display_data', 'execute_result', 'execute_reply']
    assert session.execute('went_on').result == {'text/plain': '[True, True]'}


def test_the_last_line_comes_after_the_commit(node: Node, session: Session) -> None:
    key = uuid.uuid4().hex
    found = messages(session, f"context.document_module.newContent(reference='{key}') and None")
    assert found[-1]['msg_type'] == 'execute_reply' and found[-1]['committed'] is True and found[-1]['status'] == 'ok'
    with node.session() as other:
        other.execute(f"assert len(context.portal_catalog(reference='{key}')) == 1")


def test_a_commit_that_the_database_refuses_is_an_error_that_says_what_happened(node: Node, session: Session, tmp_path: Path) -> None:
    key = uuid.uuid4().hex
    session.execute(f"doc = context.document_module.newContent(id='{key}', title='first')")
    with node.session() as other, in_background(session, other) as start:
        said: list[wire.Message] = []
        running_cell = start(session, f"doc.setTitle('mine'); print('begun'); {there(tmp_path / 'go')}\nmarker = '{key}'",
                             on_message=said.append)
        until(lambda: wire.stream('stdout', 'begun\n') in said)
        other.execute(f"context.document_module['{key}'].setTitle('theirs')")
        (tmp_path / 'go').touch()
        with pytest.raises(ERP5Error, match='the cell ran, but the database refused its changes') as raised:
            running_cell.result()
    assert type(raised.value).__name__.endswith('ConflictError')
    session.execute("assert 'marker' not in globals() and doc.getTitle() == 'theirs'")


def test_the_reply_says_what_it_took(session: Session) -> None:
    reply = session.execute('1').reply
    assert (reply['status'], reply['execution_count'], reply['request_id']) == ('ok', 1, session.execute('1') and reply['request_id'])
    assert reply['node'] and {'open', 'run', 'save'} <= set(reply['times']) and all(isinstance(t, int) for t in reply['times'].values())


def test_execution_counts_go_on_wherever_the_cell_runs(session: Session) -> None:
    assert [session.execute('0;').reply['execution_count'] for _ in range(4)] == [1, 2, 3, 4]


# ---------------------------------------------------------------- streams
@pytest.mark.parametrize(('code', 'text', 'stderr'), [
    ("print('a'); print('b', end=''); print(1, 2, sep='-')", 'a\nb1-2\n', ''),
    ("import sys; sys.stdout.write('a'); sys.stderr.write('b');", 'a', 'b'),
    ("import os; os.write(1, b'a'); os.write(2, b'b');", 'a', 'b'),
    ("import subprocess; subprocess.run('echo out; echo err >&2', shell=True, check=True);", 'out\n', 'err\n'),
    ('!echo shell', 'shell\n', ''),
    ("import threading\nt = threading.Thread(target=print, args=('from a thread',)); t.start(); t.join(); del t", 'from a thread\n', ''),
    ("import warnings; warnings.warn('watch out')", '', 'watch out'),
    ("import logging; logging.warning('careful')", '', 'careful'),
    ("print('ünïcode ☃ \\U0001f600')", 'ünïcode ☃ \U0001f600\n', ''),
    ("import os; os.write(1, b'\\xff\\xfe');", '\ufffd\ufffd', ''),
    ("print(*range(3), sep='\\r')", '0\r1\r2\n', ''),
    ("print('x' * 100_000)", 'x' * 100_000 + '\n', ''),
    ('import ctypes; ctypes.CDLL(None).puts(b"from C"); ctypes.CDLL(None).fflush(None);', 'from C\n', ''),
], ids=['print', 'write', 'descriptors', 'subprocess', 'shell', 'thread', 'warning', 'logging', 'unicode', 'bytes', 'returns', 'long', 'C'])
def test_streams(run: Run, code: str, text: str, stderr: str) -> None:
    reply = run(code)
    assert reply.text.replace('\r\n', '\n') == text
    assert stderr in reply.stderr


def test_streams_are_put_in_order_with_the_other_outputs(session: Session) -> None:
    session.execute('from IPython.display import HTML')
    found = messages(session, "print('a', end=''); display(1); print('b', end=''); display(HTML('<b>c</b>')); print('d', end=''); 5")
    assert kinds(found) == ['stream', 'display_data', 'stream', 'display_data', 'stream', 'execute_result', 'execute_reply']
    assert [m['text'] for m in found if m['msg_type'] == 'stream'] == ['a', 'b', 'd']


def test_what_a_thread_prints_after_its_cell_is_not_of_the_next_one(run: Run) -> None:
    run("import threading, time\ndef later():\n    for _ in range(5):\n        time.sleep(.05)\n        print('late')\n"
        "        os.write(1, b'later')\nimport os\nthreading.Thread(target=later, daemon=True).start()")
    time.sleep(.6)
    assert [run('1').text for _ in range(3)] == ['', '', '']


def test_what_a_class_prints_while_it_is_saved_is_no_output(session: Session) -> None:
    saved = "class Asked:\n    def __reduce__(self):\n        print('asked')\n        return Asked, ()\nasked = Asked()\nprint('said')"
    assert session.execute(saved).text == 'said\n'
    assert session.execute("print(type(asked).__name__)").text == 'Asked\n'
    assert 'asked' not in [variable['name'] for variable in session.context()['not_saved']]


def test_output_before_an_error_is_kept(session: Session) -> None:
    found = messages(session, "print('before')\n1 / 0")
    assert kinds(found) == ['stream', 'error', 'execute_reply']
    assert (found[-1]['status'], found[-1]['ename'], found[-1]['evalue']) == ('error', 'ZeroDivisionError', 'division by zero')


# ---------------------------------------------------------------- display
def test_results(run: Run) -> None:
    assert run('1 + 1').result == {'text/plain': '2'}
    assert run('1 + 1;').result is None and run('None').result is None and run('a = 1').result is None and run('').result is None
    frame = run("import pandas as pd\npd.DataFrame({'a': [1]})").result
    assert frame is not None and '<table' in frame['text/html'] and 'a' in frame['text/plain']


def test_out_and_the_last_values(run: Run) -> None:
    run('41 + 1')
    assert run('_').result == {'text/plain': '42'}
    assert run('_ + 1').result == {'text/plain': '43'}
    assert run('_, __').result == {'text/plain': '(43, 42)'}


def test_figures_without_matplotlib_inline(run: Run) -> None:
    run('import matplotlib.pyplot as plt')
    outputs = run('plt.plot([1, 2]); plt.figure(); plt.plot([3]);').outputs
    assert [sorted(output['data'])[0] for output in outputs] == ['image/png', 'image/png']
    assert base64.b64decode(outputs[0]['data']['image/png'])[:4] == b'\x89PNG'
    assert run('1').outputs == []


def test_a_figure_drawn_before_an_error_is_shown(session: Session) -> None:
    session.execute('import matplotlib.pyplot as plt')
    found = messages(session, 'plt.plot([1, 2])\n1 / 0')
    assert sorted(kinds(found)) == ['display_data', 'error', 'execute_reply']


def test_images_html_and_bundles(run: Run) -> None:
    outputs = run('from IPython.display import HTML, Image, JSON, Markdown, SVG\nimport base64\n'
                  f"display(HTML('<i>x</i>'), Image(base64.b64decode('{PIXEL}'), format='png'), JSON({{'a': [1]}}), Markdown('*m*'))\n"
                  "display({'text/plain': 'p', 'application/x-own': {'k': 1}}, raw=True)").outputs
    data = [output['data'] for output in outputs]
    assert data[0]['text/html'] == '<i>x</i>' and data[1]['image/png'].strip() == PIXEL
    assert data[2]['application/json'] == {'a': [1]} and data[3]['text/markdown'] == '*m*' and data[4]['application/x-own'] == {'k': 1}


def test_display_id_updates_and_clear_output(session: Session) -> None:
    found = messages(session, "from IPython.display import clear_output\nh = display('one', display_id='here')\nh.update('two')\n"
                              'clear_output(wait=True)\ndel h')
    assert kinds(found) == ['display_data', 'update_display_data', 'clear_output', 'execute_reply']
    assert [m['transient'] for m in found if 'transient' in m] == [{'display_id': 'here'}] * 2
    assert next(m for m in found if m['msg_type'] == 'clear_output')['wait'] is True


def test_a_display_is_updated_from_another_cell(session: Session) -> None:
    session.execute("h = display('one', display_id=True)")
    found = messages(session, "h.update('two')")
    assert kinds(found) == ['update_display_data', 'execute_reply'] and found[0]['transient']['display_id']


def test_ipythons_own_magics(run: Run) -> None:
    assert 'Wall time' in run('%time sum(range(10))').text
    assert 'loop' in run('%timeit -n1 -r1 1').text
    assert run('x = 1\n%reset -f').context['not_saved'] == [] and run('"x" in globals()').result == {'text/plain': 'False'}
    assert run('%%bash\necho from bash').text == 'from bash\n'
    assert run('%%capture out\nprint(1)').text == ''
    assert run('import asyncio\nawait asyncio.sleep(.01, 5)').result == {'text/plain': '5'}


@pytest.mark.parametrize('question', ['input("? ")', 'import getpass; getpass.getpass(prompt="? ")',
                                      'from getpass import getpass; getpass()'])
def test_nobody_answers_input(run: Run, question: str) -> None:
    with pytest.raises(ERP5Error, match='cannot ask for input'):
        run(question)


# ---------------------------------------------------------------- history
def test_lines_of_the_history_are_documents(run: Run, session: Session) -> None:
    run("a = 5; print('printed'); a")
    with pytest.raises(RemoteError):
        run("print('before'); 1 / 0")
    reply = run(f"""
notebook = context.portal_catalog.getResultValue(portal_type='Data Notebook', reference={session.reference!r})
lines = notebook.contentValues(portal_type='Data Notebook Line')
print([(line.getId(), line.getNotebookCode(), line.getNotebookCodeResult(), line.getMimeType(), line.status) for line in lines])
del notebook, lines""")
    assert eval(reply.text) == [('1', "a = 5; print('printed'); a", 'printed\n', 'text/plain', 'ok'),
                                ('2', "print('before'); 1 / 0", 'before\n', 'text/plain', 'error')]


def test_a_cell_without_history_leaves_no_line_and_is_still_run_once(run: Run, session: Session) -> None:
    fields = {'request_id': uuid.uuid4().hex, 'store_history': False}
    messages(session, 'n = globals().get("n", 0) + 1\ndef f():\n    return 1 / 0', **fields)
    assert messages(session, 'n = globals().get("n", 0) + 1\ndef f():\n    return 1 / 0', **fields)[-1]['status'] == 'ok'
    reply = run(f"print(n, len(context.data_notebook_module.find({session.reference!r}).contentValues()))")
    assert reply.text == '1 0\n'
    with pytest.raises(RemoteError) as raised:
        run('f()')
    assert 'return' in ''.join(raised.value.traceback)


def test_the_base_methods_status_and_context(node: Node, session: Session) -> None:
    assert session.client.ask('Base_getJupyterContext', {'reference': 'none of this name'}) == {'error': 'no notebook has this reference'}
    session.execute('a = [1]\nimport json')
    context, status = session.context(), session.status()
    assert context['reference'] == session.reference and context['lines'] == 1 and context['serializer'] == 'cloudpickle'
    assert [row['name'] for row in context['variables']] == ['a']
    assert [setup['alias'] for setup in context['environment']] == ['json_setup']
    assert status is not None and status['executors'] == 2 and status['storage'] == 'sqlite' and status['pid'] == node.process.pid
    assert {process['state'] for process in status['processes']} <= {'idle', 'spare', 'running'}


# ---------------------------------------------------------------- at most once
def test_a_repeat_after_the_end_gives_the_recorded_outcome(run: Run, session: Session) -> None:
    request_id = uuid.uuid4().hex
    code = "n = globals().get('n', 0) + 1; print('n is', n); n"
    first = messages(session, code, request_id=request_id)
    assert kinds(messages(session, code, request_id=request_id)) == kinds(first)
    assert messages(session, code, request_id=request_id)[-1] == first[-1]
    assert run('n').result == {'text/plain': '1'}
    assert kinds(list(session.result(request_id))) == kinds(first)


def test_a_repeat_while_it_runs_attaches_to_the_run(session: Session) -> None:
    request_id, code = uuid.uuid4().hex, "import time\nprint('begun'); time.sleep(1); n = globals().get('n', 0) + 1; print('n is', n)"
    with ThreadPoolExecutor(3) as threads:
        runs = [threads.submit(messages, session, code, request_id=request_id) for _ in range(3)]
        found = [run.result() for run in runs]
    texts = [''.join(m['text'] for m in one if m['msg_type'] == 'stream' and m['name'] == 'stdout') for one in found]
    assert texts == ['begun\nn is 1\n'] * 3
    assert session.execute('n').result == {'text/plain': '1'}


def test_the_same_id_with_other_code_is_refused(session: Session) -> None:
    request_id = uuid.uuid4().hex
    messages(session, 'n = 1', request_id=request_id)
    reply = messages(session, 'n = 2', request_id=request_id)[-1]
    assert (reply['status'], reply['ename'], reply['committed']) == ('error', 'RequestRefused', False)
    assert session.execute('n').result == {'text/plain': '1'}


def test_the_same_id_of_another_notebook_is_refused(node: Node, session: Session) -> None:
    request_id = uuid.uuid4().hex
    messages(session, 'n = 1', request_id=request_id)
    with node.session() as other:
        assert messages(other, 'n = 1', request_id=request_id)[-1]['ename'] == 'RequestRefused'


def test_an_error_is_repeated_and_not_run_again(session: Session) -> None:
    request_id, code = uuid.uuid4().hex, "n = globals().get('n', 0) + 1; 1 / 0"
    assert messages(session, code, request_id=request_id)[-1]['ename'] == 'ZeroDivisionError'
    assert messages(session, code, request_id=request_id)[-1]['ename'] == 'ZeroDivisionError'
    assert session.execute('n').result == {'text/plain': '1'}


def test_there_is_no_result_of_what_never_began(session: Session) -> None:
    session.execute('1')
    with pytest.raises(ERP5Error, match='has no outcome'):
        list(session.result(uuid.uuid4().hex))


# ---------------------------------------------------------------- several at a time
def test_cells_of_one_notebook_run_one_after_another_and_others_go_on(node: Node, session: Session, tmp_path: Path) -> None:
    session.execute('import time\nn = 0')
    with ThreadPoolExecutor(4) as threads, node.session() as other:
        slow = [threads.submit(messages, session, f'k = n; {there(tmp_path / "go")}; time.sleep(.1); n = k + 1') for _ in range(3)]
        until(lambda: other.status()['running'])  # type: ignore[index]
        other.execute('1')
        assert not any(run.done() for run in slow)
        (tmp_path / 'go').touch()
        assert all(run.result()[-1]['status'] == 'ok' for run in slow)
    assert session.execute('n').result == {'text/plain': '3'}


def test_what_waits_says_for_what(tmp_path: Path) -> None:
    with running(tmp_path / 'one', '--executors', '1') as node, node.session() as first, node.session() as second:
        with in_background(first) as start:
            waits: set[str] = set()

            def heed(message: wire.Message) -> None:
                waits.update(filter(None, [message.get('waiting')]))
                if len(waits) == 2:
                    (tmp_path / 'go').touch()

            long = start(first, f"print('begun'); {there(tmp_path / 'go')};")
            until(lambda: second.status()['running'] == 1)  # type: ignore[index]
            with node.session(first.reference) as same, in_background(same, second) as also:
                waiting = [also(session, '1', on_message=heed) for session in (same, second)]
                assert all(cell.result().result == {'text/plain': '1'} for cell in waiting)
            assert long.result().text == 'begun\n'
    assert waits == {'another cell of this notebook runs', 'all 1 executors are busy'}


# ---------------------------------------------------------------- deaths
@pytest.mark.parametrize(('code', 'cause'), [
    ('import os, signal; os.kill(os.getpid(), signal.SIGKILL)', r'signal 9 \(SIGKILL\)'),
    ('import os; os._exit(3)', 'exit 3'),
    ('import ctypes; ctypes.string_at(0)', r'signal 11 \(SIGSEGV\)'),
    ('import os; os.abort()', r'signal 6 \(SIGABRT\)'),
], ids=['killed', 'exit', 'segfault', 'abort'])
def test_the_death_of_its_process_is_the_outcome_of_a_cell(session: Session, code: str, cause: str) -> None:
    session.execute('a = [1]')
    request_id = uuid.uuid4().hex
    code = f"print('last words', flush=True); a.append(2); b = 1\n{code}"
    found = messages(session, code, request_id=request_id)
    assert found[-1]['ename'] == 'CellLost' and found[-1]['committed'] is False
    assert 'last words' in ''.join(m['text'] for m in found if m['msg_type'] == 'stream')
    with pytest.raises(CellLost, match=f'lost: {cause}; nothing of it was saved'):
        raise CellLost(found[-1]['evalue'])
    session.execute("assert a == [1] and 'b' not in globals()")
    assert messages(session, code, request_id=request_id)[-1]['ename'] == 'CellLost'
    reply = session.execute(f'print(context.data_notebook_module.find({session.reference!r}).contentValues()[1].evalue)')
    assert reply.text.startswith('lost: ')


def test_a_segmentation_fault_shows_where_it_was(session: Session) -> None:
    found = messages(session, 'import ctypes\ndef deep(): ctypes.string_at(0)\ndeep()')
    assert 'in deep' in ''.join(m['text'] for m in found if m['msg_type'] == 'stream')


def test_a_death_concerns_one_notebook_only(node: Node, session: Session) -> None:
    with node.session() as other, in_background(other) as start:
        slow = start(other, 'import time\ntime.sleep(.5)\nx = 1')
        with pytest.raises(CellLost):
            session.execute('import os; os._exit(1)')
        slow.result()
        other.execute('assert x == 1')


def test_a_child_that_lives_on_does_not_hide_the_death(session: Session) -> None:
    begun = time.monotonic()
    with pytest.raises(CellLost):
        session.execute("import os, subprocess\nsubprocess.Popen(['sleep', '60'])\nos._exit(1)")
    assert time.monotonic() - begun < 30


def kill_all(node: Node) -> None:
    """The machine has gone: the node and all its processes at once."""
    tree = psutil.Process(node.process.pid).children(recursive=True)
    node.process.kill()
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    node.process.wait(10)


def test_a_node_that_is_killed_has_everything_that_it_acknowledged(tmp_path: Path) -> None:
    port = str(free_port())
    code = f'open({str(tmp_path / "begun")!r}, "w").close()\nimport time\ntime.sleep(30)\nlate = 1'
    node = start_node(tmp_path / 'node', '--port', port)
    try:
        with node.session('kept') as session:
            for number in range(5):
                session.execute(f'n{number} = {number}')
            begun = uuid.uuid4().hex
            with ThreadPoolExecutor(1) as threads:
                cell = threads.submit(messages, session, code, request_id=begun)
                until((tmp_path / 'begun').exists)
                kill_all(node)
                (node.data_dir / 'node.json').unlink(missing_ok=True)
                with running(tmp_path / 'node', '--port', port) as again, again.session('kept') as after:
                    after.execute('assert [n0, n1, n2, n3, n4] == [0, 1, 2, 3, 4]')
                    lost = messages(after, code, request_id=begun)
                    assert lost[-1]['ename'] == 'CellLost' and 'node gone' in lost[-1]['evalue']
                    after.execute("assert 'late' not in globals()")
                    assert cell.exception() is not None or cell.result()[-1]['ename'] == 'CellLost'
    finally:
        node.stop()


@pytest.mark.parametrize('between', ['', 'other = 1'])
def test_an_announced_cell_is_not_run_again_by_the_next_node(tmp_path: Path, between: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id of the cell was announced with the cell before, so that its claim was no commit of its own."""
    monkeypatch.setattr(delivery, 'RESEND', 1.0)
    announced, code = uuid.uuid4().hex, f'import time\nopen({str(tmp_path / "runs")!r}, "a").write("x")\ntime.sleep(30)'
    node = start_node(tmp_path / 'node')
    try:
        with node.session('kept') as session, ThreadPoolExecutor(1) as threads:
            messages(session, 'n = 1', request_id=uuid.uuid4().hex, next_request_id=announced)
            cell = threads.submit(messages, session, code, request_id=announced)
            until((tmp_path / 'runs').exists)
            kill_all(node)
            assert cell.exception() is not None
        (node.data_dir / 'node.json').unlink()
        with running(tmp_path / 'node') as again, again.session('kept') as after:
            if between:
                after.execute(between)
            lost = messages(after, code, request_id=announced)
            assert lost[-1]['ename'] == 'CellLost' and 'node gone' in lost[-1]['evalue']
            assert after.execute('n').result == {'text/plain': '1'}
            assert [entry['code'] for entry in after.history()] == ['n = 1', between or code, 'n']
        assert (tmp_path / 'runs').read_text() == 'x'
    finally:
        node.stop()


def test_a_session_goes_on_after_its_node_was_started_again(tmp_path: Path) -> None:
    """The id that it had announced to the old node is not used: the new one could not know whether that has begun."""
    port = str(free_port())
    node = start_node(tmp_path / 'node', '--port', port)
    with node.session('kept') as session:
        session.execute('n = 1')
        node.stop()
        with running(tmp_path / 'node', '--port', port):
            assert session.execute('n += 1; n').result == {'text/plain': '2'}


def test_sigterm_ends_a_node_and_all_its_processes(tmp_path: Path) -> None:
    node = start_node(tmp_path / 'node')
    with node.session() as session, in_background(session) as start:
        said: list[wire.Message] = []
        cell = start(session, STUBBORN, on_message=said.append)
        until(lambda: wire.stream('stdout', 'begun\n') in said)
        tree = psutil.Process(node.process.pid).children(recursive=True)
        assert len(tree) >= 3
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(30) == 0
        with pytest.raises(ERP5Error):
            cell.result()
    gone, alive = psutil.wait_procs(tree, 30)
    assert not alive and not (node.data_dir / 'node.json').exists()


# ---------------------------------------------------------------- interrupts
@pytest.mark.parametrize('code', [
    'import time; time.sleep(60)',
    'while True: pass',
    'import threading\nlock = threading.Lock(); lock.acquire(); lock.acquire()',
    "import subprocess; subprocess.run(['sleep', '60'])",
    'import asyncio\nawait asyncio.sleep(60)',
    'import queue; queue.Queue().get()',
], ids=['sleep', 'loop', 'lock', 'subprocess', 'await', 'queue'])
def test_an_interrupt_ends_a_cell_and_nothing_is_lost(session: Session, code: str) -> None:
    session.execute('a = [1]')
    said: list[wire.Message] = []
    with in_background(session) as start:
        cell = start(session, f"a.append(2); print('begun', flush=True)\n{code}\na.append(3)", on_message=said.append)
        until(lambda: wire.stream('stdout', 'begun\n') in said)
        time.sleep(.2)  # in which it begins to wait
        assert session.interrupt()['status'] == 'interrupted'
        with pytest.raises(RemoteInterrupt):
            cell.result(30)
    session.execute('assert a == [1, 2]')


def test_a_second_interrupt_ends_the_process(session: Session) -> None:
    said: list[wire.Message] = []
    with in_background(session) as start:
        cell = start(session, STUBBORN, on_message=said.append)
        until(lambda: wire.stream('stdout', 'begun\n') in said)
        answer = session.interrupt()
        assert answer['status'] == 'interrupted' and answer['grace'] > 0
        until(lambda: ''.join(message.get('text', '') for message in said).count('begun') == 2)
        assert not cell.done()
        session.interrupt()
        with pytest.raises(CellLost, match='killed by a second interrupt'):
            cell.result(30)
    session.execute('1')


def test_an_interrupt_of_a_cell_that_waits_for_its_turn(session: Session, tmp_path: Path) -> None:
    with in_background(session, session) as start:
        first = start(session, f'open({str(tmp_path / "begun")!r}, "w").close(); {there(tmp_path / "go")}')
        until((tmp_path / 'begun').exists)
        waiting = uuid.uuid4().hex
        with ThreadPoolExecutor(1) as threads:
            second = threads.submit(messages, session, 'ran = 1\nimport time; time.sleep(60)', request_id=waiting)
            until(lambda: session.interrupt(waiting)['status'] == 'interrupted')
            assert second.result(30)[-1]['ename'] == 'KeyboardInterrupt'
            assert not first.done()
            (tmp_path / 'go').touch()
        first.result()


def test_there_is_nothing_to_interrupt(session: Session) -> None:
    session.execute('1')
    assert session.interrupt()['status'] == 'not running'
    assert session.interrupt(uuid.uuid4().hex)['status'] == 'not running'


def test_interrupts_at_any_moment_lose_no_message(session: Session) -> None:
    session.execute('n = 0')
    for delay in (0, .001, .002, .004, .008, .016, .03):
        timer = threading.Timer(delay, session.interrupt)
        with contextlib.suppress(RemoteInterrupt, CellLost):
            timer.start()
            session.execute("for i in range(1500): print(i)\nn += 1")
        timer.join()
    assert session.execute('n >= 0').result == {'text/plain': 'True'}


def test_a_client_that_leaves_does_not_end_its_cell(node: Node, session: Session) -> None:
    request = wire.Request("import time\nprint('begun')\ntime.sleep(.6)\ndone = 1", session.reference, request_id=uuid.uuid4().hex)
    with node.session(session.reference) as leaving:
        stream = leaving.delivery.run(request)
        assert next(message for message in stream if message['msg_type'] != 'keepalive')['text'] == 'begun\n'
        stream.close()  # type: ignore[attr-defined]
    assert session.execute('done').result == {'text/plain': '1'}
    assert kinds(list(session.result(request.request_id)))[-1] == 'execute_reply'


def test_nothing_of_ours_is_in_the_log(node: Node) -> None:
    assert node.faults() == []
    assert json.loads((node.data_dir / 'node.json').read_text())['pid'] == node.process.pid
    assert os.path.exists(node.data_dir / 'password')
