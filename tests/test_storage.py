"""The database under a node: the data directory, a fault of RelStorage on SQLite and its cure, another storage by URI."""

import json
import os
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import storages
from conftest import Node, running, start_node, there

from ipython_erp5.errors import ERP5Error
from ipython_erp5.node.storage import open_database
from ipython_erp5.session import Session

# A commit that fails on `readCurrent` fails after its rows are in the store connection's temporary table and before that connection is
# in a transaction. Without the cure the next commit moves them into the database with its own.
STALE = textwrap.dedent('''
    import sys
    from pathlib import Path
    import transaction, ZODB
    from persistent.mapping import PersistentMapping
    from transaction.interfaces import TransientError
    from ipython_erp5.node import storage

    uri = storage.embedded_storage(Path(sys.argv[1]))
    if sys.argv[2] == 'without':
        storage.clear_after_failed_commits = lambda: None
    databases = [storage.open_database(uri) for process in range(2)]
    managers = [transaction.TransactionManager() for database in databases]
    mine, theirs = [database.open(manager) for database, manager in zip(databases, managers)]
    root = mine.root()
    for name in 'xyz':
        root[name] = PersistentMapping(v='before')
    managers[0].commit()
    managers[1].begin(); managers[0].begin()
    root['z']['v']
    mine.readCurrent(root['z'])
    root['x']['v'] = 'aborted'
    theirs.root()['z']['v'] = 'changed by somebody else'
    managers[1].commit()
    try:
        managers[0].commit()
    except TransientError:
        managers[0].abort()
    else:
        sys.exit('no conflict')
    managers[0].begin()
    root['y']['v'] = 'after'
    managers[0].commit()
    theirs.cacheMinimize()
    managers[1].begin()
    print(theirs.root()['x']['v'], theirs.root()['y']['v'])
''')


@pytest.mark.parametrize(('cure', 'found'), [('with', 'before after'), ('without', 'aborted after')])
def test_a_commit_that_failed_is_not_committed_by_the_next_one(tmp_path: Path, cure: str, found: str) -> None:
    """'without' proves that the fault is there: when that fails, RelStorage has been repaired and the cure can go."""
    done = subprocess.run([sys.executable, '-c', STALE, str(tmp_path), cure], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == found, done.stderr


def test_conflicts_of_cells_leave_nothing_behind(node: Node, tmp_path: Path) -> None:
    """The same through a node: a cell whose commit is refused, and the next cell of the same process."""
    with node.session() as one, node.session() as two:
        one.execute("module = context.document_module\ndoc = module.newContent(id='contended', title='before')\n"
                    "other = module.newContent(id='aside', title='before')")
        for title in ('a', 'b', 'c', 'd'):
            begun, go_on = tmp_path / f'begun {title}', tmp_path / f'go on {title}'
            cell = threading.Thread(target=refused, args=(one, "other.setTitle('aborted'); doc.setTitle('mine')\n"
                                                               f'open({str(begun)!r}, "w").close(); {there(go_on)};'))
            cell.start()
            while not begun.exists():
                time.sleep(.01)
            two.execute(f"context.document_module.contended.setTitle('{title}')")
            go_on.touch()
            cell.join()
            assert one.execute('other.getTitle(), doc.getTitle()').result == {'text/plain': f"('before', '{title}')"}


def refused(session: Session, code: str) -> None:
    with pytest.raises(ERP5Error, match='the database refused'):
        session.execute(code)


# ---------------------------------------------------------------- the data directory
def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_may_look_into_the_data_directory(tmp_path: Path) -> None:
    data_dir = tmp_path / 'node'
    with running(data_dir) as node:
        assert mode(data_dir) == 0o700 and mode(data_dir / 'storage') == 0o700
        assert mode(data_dir / 'password') == mode(data_dir / 'node.json') == 0o600
        about = json.loads((data_dir / 'node.json').read_text())
        assert {'url', 'user', 'pid', 'storage'} <= about.keys()
        assert about['url'].startswith('http://127.0.0.1:') and about['url'].endswith('/erp5')
        assert (about['user'], about['pid'], about['storage']) == ('admin', node.process.pid, 'sqlite')
        assert node.password not in json.dumps(about) and node.password not in node.log() and len(node.password) >= 24
        assert node.password not in ' '.join(Path(f'/proc/{node.process.pid}/cmdline').read_text().split('\0'))
        with node.session('kept') as session:
            session.execute('a = [1]')
        password = node.password
    assert not (data_dir / 'node.json').exists()
    with running(data_dir) as again, again.session('kept') as session:
        assert again.password == password
        session.execute('assert a == [1]')


def test_a_password_file_user_and_port_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / 'secret').write_text('pass wörd\n')
    port = storages.free_port()
    with running(tmp_path / 'node', '--user', 'ana', '--password-file', str(tmp_path / 'secret'), '--port', str(port)) as node:
        assert node.user == 'ana' and f':{port}/' in node.url and not (tmp_path / 'node' / 'password').exists()
        url = f'{node.url}/Base_getJupyterStatus'
        assert requests.post(url, auth=('ana'.encode(), 'pass wörd'.encode()), timeout=10).status_code == 200
        assert requests.post(url, auth=('ana', 'wrong'), timeout=10).status_code == 401


@pytest.mark.parametrize(('options', 'text'), [
    (['--storage', 'nonsense://x'], "--storage: expected a ZODB URI such as sqlite:///, postgres://, zeo://, got 'nonsense'"),
    (['--storage', 'postgres://127.0.0.1:1/none'], '--storage: the postgres database cannot be opened: OperationalError: '),
    (['--storage', 'sqlite:///?data_dir=/proc/folder'], '--storage: its folder cannot be used: '),
    (['--password-file', '/nonexistent/file'], '--password-file: expected a readable file'),
    (['--port', '1', '--host', '192.0.2.1'], 'cannot listen at 192.0.2.1, port 1'),
])
def test_what_a_node_cannot_start_with(tmp_path: Path, options: list[str], text: str) -> None:
    done = subprocess.run([sys.executable, '-m', 'ipython_erp5', 'serve', '--data-dir', str(tmp_path), *options], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 1 and text in done.stderr and 'Traceback' not in done.stderr
    assert not (tmp_path / 'node.json').exists()


# ---------------------------------------------------------------- another storage
@pytest.fixture(params=['zeo', 'postgresql'])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URI of a database server that runs."""
    folder = tmp_path / 'server'
    with storages.postgresql(folder) if request.param == 'postgresql' else storages.zeo(folder, blobs=True) as uri:
        yield uri


def test_first_opening_by_several_hosts(tmp_path: Path) -> None:
    """ZEO's clients make the root object of an empty database themselves: without a cure some of them fail, every time."""
    for turn in range(3):
        opened: list[object] = []
        with storages.zeo(tmp_path / f'server{turn}', blobs=True) as uri:
            barrier = threading.Barrier(4)

            def open_here(host: str, uri: str = uri, barrier: threading.Barrier = barrier, opened: list[object] = opened) -> None:
                barrier.wait()
                opened.append(open_database(uri, tmp_path / host))

            hosts = [threading.Thread(target=open_here, args=(f'host{turn}{number}',)) for number in range(4)]
            for host in hosts:
                host.start()
            for host in hosts:
                host.join()
            for database in opened:
                database.close()  # type: ignore[attr-defined]
        assert len(opened) == 4


def test_two_nodes_on_one_server(tmp_path: Path, server: str) -> None:
    """Started at the same moment, on an empty database. Each sees at once what the other has committed, an id is run once for both."""
    nodes: list[Node] = []

    def start(name: str) -> None:
        nodes.append(start_node(tmp_path / name, '--storage', server, '--placement', 'rotate'))

    try:
        for name in ('one', 'two'):
            (tmp_path / name).mkdir(mode=0o700)
            (tmp_path / name / 'password').write_text('the same password')
        starts = [threading.Thread(target=start, args=(name,)) for name in ('one', 'two')]
        for thread in starts:
            thread.start()
        for thread in starts:
            thread.join()
        assert len(nodes) == 2
        sessions = [node.session('shared') for node in nodes]
        sessions[0].execute('a = [0]; b = a\nclass A: pass\nx = A()')
        for turn in range(10):
            sessions[(turn + 1) % 2].execute(f'assert a is b and a[-1] == {turn} and type(x) is A; a.append({turn + 1})')
        assert sessions[0].status()['storage'] == server.partition(':')[0]  # type: ignore[index]
        request = sessions[0]._request('n = globals().get("n", 0) + 1; n', '', True)
        first = [m for m in sessions[0].delivery.run(request) if m['msg_type'] != 'keepalive']
        again = [m for m in sessions[1].delivery.run(request) if m['msg_type'] != 'keepalive']
        assert [m['msg_type'] for m in first] == [m['msg_type'] for m in again]
        assert sessions[1].execute('n').result == {'text/plain': '1'}
        for session in sessions:
            session.close()
    finally:
        for node in nodes:
            node.stop()
    assert not os.path.exists(tmp_path / 'one' / 'node.json')


def test_notebooks_that_are_made_at_the_same_moment_leave_no_fault_in_the_log(tmp_path: Path) -> None:
    with running(tmp_path / 'node', '--executors', '4') as node:
        sessions = [node.session() for _ in range(24)]
        for turn in range(0, 24, 4):
            cells = [threading.Thread(target=session.execute, args=('1',)) for session in sessions[turn:turn + 4]]
            for cell in cells:
                cell.start()
            for cell in cells:
                cell.join()
        for session in sessions:
            assert session.execute('1').result == {'text/plain': '1'}
            session.close()
        assert node.faults() == []
