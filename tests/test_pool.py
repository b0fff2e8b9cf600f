"""Which process runs which cell, by the pids that cells see."""

import ast
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from conftest import Node, running
from ipython_erp5.errors import CellLost, CellTimeoutError
from ipython_erp5.node import pool
from ipython_erp5.session import Session


def pid(session: Session) -> int:
    result = session.execute('__import__("os").getpid()').result
    assert result is not None
    return int(result['text/plain'])


@pytest.fixture(scope='module')
def rotating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(tmp_path_factory.mktemp('rotating'), '--placement', 'rotate') as started:
        yield started


def test_rotate_takes_turns_between_as_many_processes_as_there_are_executors(rotating: Node) -> None:
    with rotating.session() as session:
        pids = [pid(session) for _ in range(6)]
    assert len(set(pids)) == 2 and pids[:2] == pids[2:4] == pids[4:]


def test_a_process_never_runs_two_notebooks(rotating: Node) -> None:
    seen: dict[int, str] = {}
    for _ in range(3):
        for name in 'abcd':
            with rotating.session(f'pool {name}') as session:
                assert seen.setdefault(pid(session), name) == name
    assert len(seen) == 8


def test_sticky_stays_with_its_process_while_that_lives(tmp_path: Path) -> None:
    with running(tmp_path / 'node', '--placement', 'sticky') as node, node.session() as one, node.session() as two:
        assert len({pid(one) for _ in range(4)}) == 1
        assert pid(two) != pid(one)
        first = pid(one)
        with pytest.raises(Exception, match='exit 1'):
            one.execute('import os; os._exit(1)')
        assert pid(one) != first and len({pid(one), pid(one)}) == 1
        status = one.status()
        assert status is not None and status['lost'] == 1 and status['placement'] == 'sticky'
        same_at_once(one)
        bounded(node)


def same_at_once(session: Session) -> None:
    """Cells sent together are run one after another, in the one process."""
    with ThreadPoolExecutor(3) as threads:
        assert len(set(threads.map(lambda _: pid(session), range(6)))) == 1


def bounded(node: Node) -> None:
    """More notebooks than the limit leave no more than the limit of processes behind, and those are the last ones."""
    sessions = [node.session(f'many {number}') for number in range(pool.IDLE + 4)]
    pids = [pid(session) for session in sessions]
    assert len(set(pids)) == len(pids)
    status = sessions[0].status()
    assert status is not None and status['idle'] == pool.IDLE
    end = time.monotonic() + 30
    while any(psutil.pid_exists(gone) for gone in pids[:4]):
        assert time.monotonic() < end
        time.sleep(.05)
    assert pid(sessions[-1]) == pids[-1] and pid(sessions[0]) != pids[0]
    for session in sessions:
        session.close()


def test_fresh_takes_a_new_process_for_every_cell(tmp_path: Path) -> None:
    with running(tmp_path / 'node', '--placement', 'fresh', '--executors', '1') as node, node.session() as session:
        session.execute('a = [1]; b = a')
        pids = [pid(session) for _ in range(5)]
        assert len(set(pids)) == 5
        session.execute('assert b is a')
        status = session.status()
        assert status is not None and status['idle'] == 0


def test_state_of_a_process_does_not_reach_another_notebook(node: Node) -> None:
    with node.session() as one, node.session() as two:
        one.execute("import os, sys, builtins\nos.environ['LEAK'] = '1'; sys.leak = 1; builtins.leak = 1; os.chdir('/')")
        for _ in range(3):
            two.execute("import os, sys, builtins\nassert 'LEAK' not in os.environ and os.getcwd() != '/'\n"
                        "assert not hasattr(sys, 'leak') and not hasattr(builtins, 'leak')")


def test_as_many_cells_run_at_once_as_there_are_executors(node: Node, tmp_path: Path) -> None:
    """The first two wait for each other."""
    sessions = [node.session() for _ in range(4)]
    code = (f'import pathlib, time\nfolder, end = pathlib.Path({str(tmp_path)!r}), time.time() + 20\n'
            '(folder / f"begun {time.time()}").touch()\n'
            'while len(list(folder.glob("begun*"))) < 2 and time.time() < end: time.sleep(.01)\ntime.sleep(.2)\n'
            'at_once = len(list(folder.glob("begun*"))) - len(list(folder.glob("ended*")))\n'
            '(folder / f"ended {time.time()}").touch()\nprint(at_once)')
    with ThreadPoolExecutor(4) as threads:
        assert max(threads.map(lambda session: int(session.execute(code).text), sessions)) == 2
    for session in sessions:
        session.close()


def test_user_code_may_use_processes_of_its_own(node: Node) -> None:
    with node.session() as session:
        reply = session.execute('from concurrent.futures import ProcessPoolExecutor\nimport math\nwith ProcessPoolExecutor(2) as workers:\n'
                                '    print(list(workers.map(math.sqrt, [1, 4, 9])))\ndel workers')
        assert reply.text == '[1.0, 2.0, 3.0]\n'


@pytest.mark.parametrize(('options', 'text'), [(['--placement', 'nowhere'], 'placement'), (['--executors', '0'], 'executors')])
def test_wrong_options_of_the_pool(tmp_path: Path, options: list[str], text: str) -> None:
    done = subprocess.run([sys.executable, '-m', 'ipython_erp5', 'serve', '--data-dir', str(tmp_path), *options], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode != 0 and text in done.stderr


def test_what_cells_leave_in_memory_does_not_pile_up(tmp_path: Path) -> None:
    """A cell's namespace is in circles: its arrays are freed only if somebody sees to it."""
    with running(tmp_path / 'node') as node, node.session() as session:
        session.execute('import os\nimport numpy as np\na = np.zeros(25_000_000); own = []')
        for _ in range(10):
            session.execute("a += 1; text = open('/proc/self/status').read()\n"
                            "own.append((os.getpid(), int(text.split('RssAnon:')[1].split()[0]) >> 10))")
        processes, megabytes = zip(*ast.literal_eval(session.execute('own').result['text/plain']), strict=True)  # type: ignore[index]
    assert len(set(processes)) == 1
    assert max(megabytes) - min(megabytes) < 500  # of the 2 GB that were written to


# ---------------------------------------------------------------- how long executors live, and what they may use
def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(.05)


def idle(session: Session) -> int:
    status = session.status()
    assert status is not None
    return int(status['idle'])


def test_an_executor_is_replaced_after_so_many_cells(tmp_path: Path) -> None:
    with running(tmp_path / 'node', '--executor-cells', '3') as node, node.session() as session:
        session.execute('a = [1]; b = a')  # the first of three
        pids = [pid(session) for _ in range(7)]
        assert len(set(pids[:2])) == len(set(pids[2:5])) == len(set(pids[5:])) == 1 and len(set(pids)) == 3
        session.execute('assert a is b')


def test_idle_executors_are_given_back_after_a_while(tmp_path: Path) -> None:
    with running(tmp_path / 'node', '--executor-idle', '4') as node, node.session() as session:
        session.execute('a = 1')
        first = pid(session)
        assert idle(session) == 1
        wait_for(lambda: idle(session) == 0 and not psutil.pid_exists(first))
        assert session.execute('a').result == {'text/plain': '1'} and pid(session) != first


def test_idle_executors_are_given_back_when_memory_is_short(tmp_path: Path) -> None:
    """Short is what the operator says: more than this machine has."""
    with running(tmp_path / 'node', '--memory-reserve', f'{psutil.virtual_memory().total}') as node, node.session() as session:
        first = pid(session)
        wait_for(lambda: idle(session) == 0 and not psutil.pid_exists(first))
        assert 'memory is short' in node.log()


def test_an_executor_that_needs_too_much_memory_is_an_outcome(tmp_path: Path) -> None:
    with running(tmp_path / 'node', '--executor-memory', '300MB') as node, node.session() as session:
        session.execute('kept = 1')
        with pytest.raises(CellLost, match=r'lost: memory: \S+ MB used of at most 300 MB \(--executor-memory\); nothing of it was saved'):
            session.execute("kept = 2\nimport time\ndata = []\nwhile True:\n    data.append(bytearray(b'x' * (20 << 20))); time.sleep(.05)")
        with pytest.raises(CellLost, match='memory: '):  # what its children use is its own
            session.execute("import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time; b = bytearray(400 << 20); "
                            "b[::4096] = b\"x\" * len(b[::4096]); time.sleep(60)'])")
        assert session.execute('kept').result == {'text/plain': '1'}


def test_the_node_limits_the_time_of_a_cell(tmp_path: Path) -> None:
    with running(tmp_path / 'node', '--cell-timeout', '1') as node, node.session() as session:
        with pytest.raises(CellTimeoutError, match=r'longer than its limit of 1 s \(--cell-timeout\)'):
            session.execute("n = 1\nimport time\ntime.sleep(30)")
        assert [variable['name'] for variable in session.variables()] == ['n']  # as after any error
        with pytest.raises(CellTimeoutError, match=r'limit of 0.5 s \(--timeout\)'):
            session.execute('while True: pass', timeout='0.5')


@pytest.mark.parametrize(('options', 'text'), [
    (['--url', 'node:8080'], "--url: expected the URL of this node, such as http://host:8080/erp5, got 'node:8080'"),
    (['--executor-memory', 'much'], "--executor-memory: expected bytes, such as 500MB or 2GB, got 'much'"),
    (['--memory-reserve', '-1'], "--memory-reserve: expected bytes, such as 500MB or 2GB, got '-1'"),
    (['--executor-cells', '-1'], 'executor_cells'), (['--executor-idle', 'long'], 'executor_idle'),
    (['--cell-timeout', '-3'], 'cell_timeout'),
])
def test_wrong_limits(tmp_path: Path, options: list[str], text: str) -> None:
    done = subprocess.run([sys.executable, '-m', 'ipython_erp5', 'serve', '--data-dir', str(tmp_path), *options], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode != 0 and text in done.stderr and 'Traceback' not in done.stderr
