"""Several nodes on one database: an id runs once whichever node it comes to, cells of one notebook take turns, losses are on record."""

import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import storages
from conftest import Node, start_node, there

from ipython_erp5 import wire
from ipython_erp5.errors import CellLost, ERP5Error, RemoteError, RemoteInterrupt
from ipython_erp5.node.storage import change, open_database
from ipython_erp5.session import Session


@pytest.fixture(scope='module')
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with storages.postgresql(tmp_path_factory.mktemp('server') / 'postgresql') as uri:
        yield uri


def start(data_dir: Path, storage: str, *options: str) -> Node:
    data_dir.mkdir(mode=0o700, exist_ok=True)
    (data_dir / 'password').write_text('the same password')
    return start_node(data_dir, '--storage', storage, '--placement', 'rotate', *options)


@pytest.fixture(scope='module')
def nodes(tmp_path_factory: pytest.TempPathFactory, server: str) -> Iterator[list[Node]]:
    folder = tmp_path_factory.mktemp('nodes')
    started = [start(folder / name, server) for name in ('one', 'two')]
    yield started
    for node in started:
        node.stop()


@pytest.fixture
def sessions(nodes: list[Node]) -> Iterator[tuple[Session, Session]]:
    """The same notebook through both."""
    reference = f'test {uuid.uuid4()}'
    one, two = (node.session(reference) for node in nodes)
    with one, two:
        yield one, two


def request(session: Session, code: str, request_id: str = '') -> wire.Request:
    return wire.Request(python_expression=code, reference=session.reference, request_id=request_id or uuid.uuid4().hex)


def all_of(session: Session, asked: wire.Request) -> list[wire.Message]:
    return [message for message in session.delivery.run(asked) if message['msg_type'] != 'keepalive']


def without_times(messages: list[wire.Message]) -> list[wire.Message]:
    return [{key: value for key, value in message.items() if key not in ('times', 'node')} for message in messages]


def begun(session: Session, mark: Path, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not mark.exists():
        assert time.monotonic() < end, 'the cell has not begun'
        time.sleep(.01)


def slow(folder: Path) -> str:
    """A cell that says in the folder that it has begun, and goes on when it is told to there."""
    return (f"import pathlib\nprint('begun', flush=True)\npathlib.Path({str(folder / 'mark')!r}).open('a').write('x')\n"
            f"went_on = {there(folder / 'go')}\nprint('done')\nwent_on")


def go_on(folder: Path) -> None:
    (folder / 'go').touch()


def test_an_id_that_runs_on_one_node_is_attached_to_from_the_other(sessions: tuple[Session, Session], tmp_path: Path) -> None:
    one, two = sessions
    asked = request(one, slow(tmp_path))
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(all_of, one, asked)
        begun(one, tmp_path / 'mark')

        def follow() -> list[wire.Message]:
            found = []
            for message in two.delivery.run(asked):
                if message['msg_type'] != 'keepalive':
                    go_on(tmp_path)  # the first output comes while the cell is still running
                    found.append(message)
            return found

        again = [threads.submit(follow), threads.submit(all_of, two, asked), threads.submit(all_of, one, asked)]
        expected = without_times(first.result())
        assert [without_times(found.result()) for found in again] == [expected] * 3
    assert [message['data'] for message in expected if message['msg_type'] == 'execute_result'] == [{'text/plain': 'True'}]
    assert (tmp_path / 'mark').read_text() == 'x'
    assert without_times(all_of(two, asked)) == expected  # and from the history


def test_any_node_says_what_runs_in_the_notebook(sessions: tuple[Session, Session], tmp_path: Path) -> None:
    one, two = sessions
    for number in (1, 2):   # the second one's id went with the first one, so that there is no claim of its own
        folder = tmp_path / str(number)
        folder.mkdir()
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(one.execute, slow(folder))
            begun(one, folder / 'mark')
            assert one.past.find() == two.past.find() == one.running
            assert two.attach(one.running, on_message=lambda message: go_on(folder)).text == 'begun\ndone\n'
            assert two.past.find() == running.result().request_id
    assert [entry['number'] for entry in two.history()] == [1, 2]


def test_an_id_that_runs_elsewhere_is_refused_for_another_cell(sessions: tuple[Session, Session], tmp_path: Path) -> None:
    one, two = sessions
    asked = request(one, slow(tmp_path))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(all_of, one, asked)
        begun(one, tmp_path / 'mark')
        refused = all_of(two, request(two, 'something_else', asked.request_id))
        assert refused[-1]['ename'] == 'RequestRefused' and not running.done()
        go_on(tmp_path)
        assert running.result()[-1]['status'] == 'ok'


def test_a_cell_waits_for_that_on_another_node_and_says_so(sessions: tuple[Session, Session], tmp_path: Path) -> None:
    one, two = sessions
    one.execute('order = []')
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(one.execute, slow(tmp_path) + "\norder.append('first')")
        begun(one, tmp_path / 'mark')
        said = False
        for message in two.delivery.run(request(two, "order.append('second')")):
            if 'another cell of this notebook runs on the node' in message.get('waiting', ''):
                said = True
                go_on(tmp_path)
        running.result()
    assert said
    assert one.execute('order').result == {'text/plain': "['first', 'second']"}


def test_the_time_of_a_cell_begins_when_it_has_waited_for_another_node(sessions: tuple[Session, Session], tmp_path: Path) -> None:
    """The first look at the claim has begun to count, too: that is over when the cell waits."""
    one, two = sessions
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(one.execute, slow(tmp_path))
        begun(one, tmp_path / 'mark')
        timer = threading.Timer(5.5, go_on, [tmp_path])
        timer.start()
        assert two.execute('1', timeout=5).result == {'text/plain': '1'}
        assert running.result().text == 'begun\ndone\n'
        timer.join()


def test_a_cell_that_waits_for_another_node_can_be_interrupted(sessions: tuple[Session, Session], tmp_path: Path) -> None:
    one, two = sessions
    one.execute('n = 1')
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(one.execute, slow(tmp_path))
        begun(one, tmp_path / 'mark')
        waiting, waits = request(two, 'n = 2'), threading.Event()

        def heed() -> wire.Message:
            for message in two.delivery.run(waiting):
                waits.set()
            return message

        found = threads.submit(heed)
        assert waits.wait(20)
        assert two.interrupt(waiting.request_id)['status'] == 'interrupted'
        reply = found.result()
        assert not running.done()
        assert (reply['ename'], reply['evalue']) == ('KeyboardInterrupt', 'while the cell waited for its turn')
        go_on(tmp_path)
        running.result()
    assert two.execute('n').result == {'text/plain': '1'}


def test_a_cell_that_waits_here_can_be_interrupted(sessions: tuple[Session, Session], nodes: list[Node], tmp_path: Path) -> None:
    one, _ = sessions
    with ThreadPoolExecutor(2) as threads, nodes[0].session(one.reference) as other:
        running = threads.submit(one.execute, slow(tmp_path))
        begun(one, tmp_path / 'mark')
        waiting = threads.submit(other.execute, 'never = 1')
        end = time.monotonic() + 20
        while not other.running or other.interrupt()['status'] != 'interrupted':
            assert time.monotonic() < end
        with pytest.raises(RemoteInterrupt, match='while the cell waited'):
            waiting.result()
        assert not running.done()
        go_on(tmp_path)
        running.result()
    with pytest.raises(RemoteError, match='never'):
        one.execute('never')


def test_who_comes_again_before_the_node_has_noticed_gets_his_turn(sessions: tuple[Session, Session], nodes: list[Node],
                                                                   tmp_path: Path) -> None:
    """A connection that breaks while its cell waits: the same id again, before the node has noticed, still gets its turn."""
    one, _ = sessions
    one.execute('n = 0')
    with ThreadPoolExecutor(2) as threads, nodes[0].session(one.reference) as left, nodes[0].session(one.reference) as again:
        running = threads.submit(one.execute, slow(tmp_path))
        begun(one, tmp_path / 'mark')
        asked = request(left, 'n += 1')
        lines = left.delivery.run(asked)
        assert next(lines)['msg_type'] == 'keepalive'
        waits = again.delivery.run(asked)
        assert next(waits)['msg_type'] == 'keepalive'
        lines.close()  # type: ignore[attr-defined]
        left.close()
        go_on(tmp_path)
        running.result()
        *_, reply = waits
        assert reply['status'] == 'ok'
    assert one.execute('n').result == {'text/plain': '1'}


# ---------------------------------------------------------------- losses
def test_the_loss_of_a_process_is_on_record_at_once_for_all_nodes(sessions: tuple[Session, Session]) -> None:
    one, two = sessions
    one.execute('kept = 1')
    asked = request(one, 'import os, signal; kept = 2; os.kill(os.getpid(), signal.SIGKILL)')
    assert all_of(one, asked)[-1]['ename'] == 'CellLost'
    found = list(two.result(asked.request_id))
    assert found[-1]['ename'] == 'CellLost' and 'signal 9 (SIGKILL)' in found[-1]['evalue']
    assert all_of(two, asked)[-1] == {**found[-1], 'node': all_of(two, asked)[-1]['node']}
    assert two.execute('kept').result == {'text/plain': '1'}


def test_a_refused_commit_is_the_outcome_on_every_node(sessions: tuple[Session, Session], nodes: list[Node], tmp_path: Path) -> None:
    """The database refuses what two cells of different notebooks do to one document; the id gets the same answer again."""
    one, two = sessions
    name = f'contended{uuid.uuid4().hex}'
    one.execute(f"context.document_module.newContent(id='{name}', title='before')")
    with nodes[1].session() as other, ThreadPoolExecutor(1) as threads:
        asked = request(one, f"context.document_module['{name}'].setTitle('mine')\n{slow(tmp_path)}")
        refused = threads.submit(all_of, one, asked)
        begun(one, tmp_path / 'mark')
        other.execute(f"context.document_module['{name}'].setTitle('theirs')")
        go_on(tmp_path)
        first = refused.result()
    assert first[-1]['ename'] == 'ConflictError' and first[-1]['committed'] is False
    for session in (one, two):
        again = all_of(session, asked)
        assert (again[-1]['ename'], again[-1]['evalue'], again[-1]['committed']) == ('ConflictError', first[-1]['evalue'], False)
        assert any(message['msg_type'] == 'execute_result' for message in again)
    assert two.execute(f"context.document_module['{name}'].getTitle()").result == {'text/plain': "'theirs'"}


@pytest.mark.parametrize(('known', 'state'), [(False, 'running'), (False, 'next'), (True, 'running'), (True, 'next')])
def test_a_claim_that_stands_for_nothing_keeps_nobody_waiting(sessions: tuple[Session, Session], server: str, known: bool,
                                                              state: str) -> None:
    """As a node leaves it that could not write any more, or one whose client has announced a cell and gone."""
    one, two = sessions
    ended = one.execute('n = 1').request_id
    node = (one.status() or {})['node']
    database = open_database(server)
    change(database, lambda root: root['Application'].erp5.data_notebook_module.find(one.reference).take(
        ended if known else 'unknown', node, state))
    database.close()
    assert two.execute('n + 1').result == {'text/plain': '2'}
    assert one.execute('n + 2').result == {'text/plain': '3'}


# ---------------------------------------------------------------- nodes come and go
def test_a_node_that_is_killed_loses_its_cell_and_nothing_else(tmp_path: Path, server: str, nodes: list[Node]) -> None:
    reference = f'test {uuid.uuid4()}'
    third = start(tmp_path / 'three', server, '--executors', '1')
    try:
        one, two = third.session(reference), nodes[1].session(reference)
        one.execute('kept = [1]; b = kept')
        knows(two, third.url)
        asked = request(one, slow(tmp_path) + '\nkept.append(2)')
        lines = one.delivery.run(asked)
        assert next(lines)['text'] == 'begun\n'
        begun(one, tmp_path / 'mark')
        children = psutil.Process(third.process.pid).children(recursive=True)
        third.process.kill()
        third.process.wait(10)
        lines.close()  # type: ignore[attr-defined]
        outcome = all_of(two, asked)[-1]
        assert (outcome['ename'], outcome['committed']) == ('CellLost', False) and 'node gone' in outcome['evalue']
        two.execute('assert kept == [1] and b is kept')
        gone(children)
        knows(two, third.url, False)
        one.close(), two.close()
    finally:
        third.stop()


def knows(session: Session, url: str, wanted: bool = True) -> None:
    """Within seconds."""
    end = time.monotonic() + 30
    while wanted is not (url in [other['url'] for other in (session.status() or {})['nodes']]):
        assert time.monotonic() < end
        time.sleep(.2)


def gone(processes: list[psutil.Process]) -> None:
    assert not psutil.wait_procs(processes, 30)[1]


def test_a_node_that_comes_again_takes_the_place_of_the_one_that_was_killed(tmp_path: Path, server: str, nodes: list[Node]) -> None:
    third = start(tmp_path / 'three', server, '--executors', '1')
    first = third.url
    third.process.kill()
    third.process.wait(10)
    (tmp_path / 'three' / 'node.json').unlink()
    again = start(tmp_path / 'three', server, '--executors', '1')
    try:
        with nodes[0].session() as session:
            knows(session, again.url)
            knows(session, first, False)
    finally:
        again.stop()


# ---------------------------------------------------------------- the client sends again
def test_a_cell_whose_connection_breaks_is_sent_again_and_runs_once(nodes: list[Node], tmp_path: Path) -> None:
    reference, reset = f'test {uuid.uuid4()}', threading.Event()

    def heed(message: wire.Message) -> None:
        if message.get('text') == 'begun\n':
            cut.reset()
            reset.set()
        elif reset.is_set():
            go_on(tmp_path)  # what is said of the connection

    with storages.relay(storages.address(nodes[0].url)) as cut:
        url = nodes[0].url.replace(storages.address(nodes[0].url), f'127.0.0.1:{cut.port}')
        with nodes[0].session(reference) as other, connected(url, nodes[0], reference) as session:
            session.execute('n = 0')
            reply = session.execute(slow(tmp_path) + '; n += 1', on_message=heed)
            assert reply.text == 'begun\ndone\n' and (tmp_path / 'mark').read_text() == 'x'
            assert reply.stderr.count('The cell is sent again; it runs once.') == 1
            assert other.execute('n').result == {'text/plain': '1'}


def connected(url: str, node: Node, reference: str) -> Session:
    import ipython_erp5
    return ipython_erp5.connect(url, user=node.user, password=node.password, reference=reference)


def test_a_client_that_reaches_nobody_any_more_says_so(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    from ipython_erp5 import delivery as module
    monkeypatch.setattr(module, 'RESEND', 2.0)
    with storages.relay(storages.address(nodes[0].url)) as cut:
        url = nodes[0].url.replace(storages.address(nodes[0].url), f'127.0.0.1:{cut.port}')
        with connected(url, nodes[0], f'test {uuid.uuid4()}') as session:
            session.execute('n = 0')
            with pytest.raises(ERP5Error, match='whether it was run is not known; its id is .*%erp5_result'):
                session.execute('print("begun", flush=True)\nimport time; time.sleep(20)',
                                on_message=lambda message: cut.refuse() if message.get('text') == 'begun\n' else None)


def test_a_lost_cell_is_an_error_that_says_how(nodes: list[Node]) -> None:
    with nodes[0].session() as session, pytest.raises(CellLost, match='signal 11'):
        session.execute(f'import os; os.kill(os.getpid(), {signal.SIGSEGV.value})')
    assert os.getpid()


def test_two_clients_of_one_notebook_take_turns_on_two_nodes(sessions: tuple[Session, Session]) -> None:
    """Neither starves, however busy the other is: when the slower one has run five cells, the other has not run a hundred."""
    one, two = sessions
    one.execute('log = []')
    counts = {'a': 0, 'b': 0}

    def busy(name: str, session: Session) -> None:
        while min(counts.values()) < 5 and counts[name] < 100:
            session.execute(f"log.append('{name}')")
            counts[name] += 1

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(busy, 'ab', sessions))
    assert one.execute("log.count('a'), log.count('b')").result == {'text/plain': str(tuple(counts.values()))}
    assert 5 <= min(counts.values()) and max(counts.values()) < 100
