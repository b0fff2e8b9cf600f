"""What an executor process may use, and that nothing of it is there after its end, whatever that was.

Processes are followed by their ids, which cells print.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from conftest import Node, running, start_node, there
from hypothesis import given
from hypothesis import strategies as st

from ipython_erp5 import wire
from ipython_erp5.errors import CellLost, CellTimeoutError, NodeError, OptionError, RemoteInterrupt
from ipython_erp5.node import descendants, memory
from ipython_erp5.node.limits import TimeLimit, bytes_of, memory_used_up
from ipython_erp5.reply import Reply
from ipython_erp5.session import Session

# Prints the ids of its processes: one in a session of its own that takes no signal, one that has left its parents, one that has forked.
LEAVES = '''
import os, subprocess, sys, threading, time
stubborn = subprocess.Popen(['setsid', 'sh', '-c', 'trap "" TERM INT HUP; sleep 300 & echo $!; wait; sleep 300'], stdout=subprocess.PIPE)
pids = [os.getpid(), stubborn.pid, int(stubborn.stdout.readline())]
r, w = os.pipe()
if not os.fork():
    os.setsid()
    if not os.fork():
        os.write(w, f'{os.getpid()} '.encode())
        time.sleep(300)
    os._exit(0)
os.wait()
pids.append(int(os.read(r, 20)))
threading.Thread(target=time.sleep, args=(300,)).start()
print(*pids, flush=True)
'''
GIL = 'import re\nre.match(r"(a|aa)+$", "a" * 60 + "b")'  # in C, which looks at no signal for hours
STUBBORN = 'while True:\n    try:\n        print("waits", flush=True)\n        time.sleep(300)\n    except BaseException:\n        pass'


@pytest.fixture(scope='module')
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(tmp_path_factory.mktemp('processes') / 'node', '--executors', '2') as started:
        yield started


class Cell:
    """A cell that runs, and what it has printed so far."""

    def __init__(self, session: Session, code: str, **options: object) -> None:
        self.session, self.text = session, ''
        self.threads = ThreadPoolExecutor(1)
        self.end: Future[Reply] = self.threads.submit(session.execute, code, on_message=self.take, **options)  # type: ignore[arg-type]
        self.threads.shutdown(wait=False)

    def take(self, message: wire.Message) -> None:
        if message['msg_type'] == 'stream':
            self.text += message['text']

    def pids(self) -> list[int]:
        """The numbers of its first line, once that is there."""
        until(lambda: '\n' in self.text or self.end.done())
        if self.end.done() and '\n' not in self.text:
            self.end.result()
        return [int(pid) for pid in self.text.split('\n')[0].split()]


def until(condition: object, seconds: float = 20) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(.01)


def lives(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def all_end(pids: Iterable[int], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while left := [pid for pid in pids if lives(pid)]:
        assert time.monotonic() < end, [psutil.Process(pid) for pid in left]
        time.sleep(.02)


# ---------------------------------------------------------------- what a cell leaves
@pytest.mark.parametrize('way, cause', [
    ('os._exit(3)', 'exit 3'),
    ('import ctypes; ctypes.string_at(0)', 'signal 11'),
    ('os.kill(os.getpid(), 9)', 'signal 9'),
])
def test_nothing_of_a_cell_outlives_its_executor(node: Node, tmp_path: Path, way: str, cause: str) -> None:
    with node.session() as session:
        cell = Cell(session, f'{LEAVES}\n{there(tmp_path / "go")}\n{way}')
        pids = cell.pids()
        assert len(pids) == 4 and all(lives(pid) for pid in pids)
        (tmp_path / 'go').touch()
        with pytest.raises(CellLost, match=cause):
            cell.end.result()
        all_end(pids)


def test_what_a_cell_leaves_stays_until_its_executor_is_retired(node: Node) -> None:
    """After the cell it may go on; an interrupted process is not used again, and its thread would not end by itself."""
    with node.session() as session:
        pids = Cell(session, LEAVES).pids()
        assert [int(pid) for pid in session.execute('import os; print(os.getpid())').text.split()] == pids[:1]
        assert all(lives(pid) for pid in pids)
        cell = Cell(session, 'print(1)\nimport time; time.sleep(60)')
        cell.pids()
        session.interrupt()
        with pytest.raises(RemoteInterrupt):
            cell.end.result()
        all_end(pids)


def test_an_executor_that_is_killed(node: Node) -> None:
    with node.session() as session:
        cell = Cell(session, f'{LEAVES}\n{STUBBORN}')
        pids = cell.pids()
        for number in (1, 2):
            until(lambda: cell.text.count('waits') == number)
            session.interrupt()
        with pytest.raises(CellLost, match='second interrupt'):
            cell.end.result()
        all_end(pids)


def test_other_executors_keep_what_is_theirs(node: Node) -> None:
    with node.session() as session, node.session() as other:
        theirs = Cell(other, LEAVES).pids()
        with pytest.raises(CellLost):
            session.execute('import os; os._exit(1)')
        session.execute('1')
        assert all(lives(pid) for pid in theirs)
        with pytest.raises(CellLost):
            other.execute('import os; os._exit(1)')
        all_end(theirs)


def test_a_process_that_a_cell_forks_is_not_the_executor(node: Node) -> None:
    """What it prints is shown, also what it dies of, and the cell is committed once."""
    with node.session() as session:
        reply = session.execute('import os\nx = 0\npid = os.fork()\nx = 1 if pid else 2\nif not pid:\n    print("child")\n    1 / 0\n'
                                'status = os.waitpid(pid, 0)[1]\nif not os.fork():\n    raise SystemExit(5)\nsecond = os.wait()[1]')
        assert reply.text == 'child\n' and 'ZeroDivisionError' in reply.stderr
        result = session.execute('x, os.waitstatus_to_exitcode(status), os.waitstatus_to_exitcode(second)').result
        assert result is not None and result['text/plain'] == '(1, 1, 5)'


def test_the_log_has_nothing_of_it(node: Node) -> None:
    assert 'unexpected pid' not in node.log() and 'Traceback' not in node.log()


# ---------------------------------------------------------------- the node goes
def family(node: Node) -> list[int]:
    return [process.pid for process in psutil.Process(node.process.pid).children(recursive=True)]


def fork_server(node: Node) -> psutil.Process:
    return next(process for process in psutil.Process(node.process.pid).children()
                if any('multiprocessing.forkserver' in word for word in process.cmdline()))


def test_nothing_outlives_its_node(tmp_path: Path) -> None:
    """The fork server is killed, and another takes its place; then the node is killed, with what no signal but SIGKILL ends."""
    node = start_node(tmp_path / 'node', '--executors', '3')
    try:
        sessions = [node.session() for _ in range(4)]
        sessions[3].execute('idle = 1')
        without_fork_server(node, sessions[0])
        cells = [Cell(session, f'{LEAVES}\n{code}') for session, code in zip(sessions, [STUBBORN, GIL, 'time.sleep(300)'], strict=False)]
        pids = [pid for cell in cells for pid in cell.pids()]
        everything = {*pids, *family(node)}
        assert len(pids) == 12 and fork_server(node).pid in everything
        node.process.kill()
        all_end(everything)
    finally:
        node.stop()


def without_fork_server(node: Node, session: Session) -> None:
    cell = Cell(session, f'{LEAVES}\n{GIL}')
    pids = [*cell.pids(), *(process.pid for process in fork_server(node).children())]
    fork_server(node).kill()
    with pytest.raises(CellLost, match='the fork server has gone'):
        cell.end.result()
    all_end(pids)
    session.execute('again = 1')


# ---------------------------------------------------------------- interrupts
@pytest.mark.parametrize('code', [
    'time.sleep(60)', "subprocess.run(['sleep', '60'])", "subprocess.check_output('sleep 60; true', shell=True)", '!sleep 60; true',
    't = threading.Thread(target=time.sleep, args=(60,), daemon=True); t.start(); t.join()', 'pair = socket.socketpair(); pair[0].recv(1)',
    'with ProcessPoolExecutor(1) as pool:\n    pool.submit(time.sleep, 60).result()', 'await asyncio.gather(asyncio.sleep(60))',
])
def test_an_interrupt_ends_what_a_cell_waits_for(node: Node, code: str) -> None:
    with node.session() as session:
        session.execute('import asyncio, socket, subprocess, threading, time\nfrom concurrent.futures import ProcessPoolExecutor\na = 1')
        cell = Cell(session, f'print(1, flush=True)\na = 2\n{code}\na = 3')
        cell.pids()
        time.sleep(.2)  # in which it begins to wait
        session.interrupt()
        with pytest.raises(RemoteInterrupt) as caught:
            cell.end.result(40)
        assert 'KeyboardInterrupt' in ''.join(caught.value.traceback) and 'CancelledError' not in ''.join(caught.value.traceback)
        assert session.execute('a').result == {'text/plain': '2'}


def test_an_interrupt_is_for_the_children_in_the_process_group(node: Node) -> None:
    """As Ctrl-C in a terminal; one in a session of its own is spared, for as long as there is the executor."""
    with node.session() as session:
        cell = Cell(session, 'import subprocess, time\n'
                             'started = [subprocess.Popen(["sleep", "60"], start_new_session=own) for own in (0, 1)]\n'
                             'try:\n    print(*(process.pid for process in started), flush=True)\n    time.sleep(60)\n'
                             'finally:\n    print(started[0].wait(30), started[1].poll())')
        pids = cell.pids()
        session.interrupt()
        with pytest.raises(RemoteInterrupt):
            cell.end.result()
        assert cell.text.split('\n')[1] == '-2 None'
        all_end(pids)


def test_a_traceback_of_an_interrupt_shows_the_cell_and_what_it_calls(node: Node) -> None:
    with node.session() as session:
        cell = Cell(session, 'import threading\ndef wait(n):\n    if n:\n        return wait(n - 1)\n    print(1, flush=True)\n'
                             '    threading.Event().wait(60)\nwait(40)')
        cell.pids()
        time.sleep(.2)  # in which it begins to wait
        session.interrupt()
        with pytest.raises(RemoteInterrupt) as caught:
            cell.end.result()
        text = re.sub(r'\x1b\[[\d;]*m', '', '\n'.join(caught.value.traceback))
        assert '----> 7 wait(40)' in text and 'threading.py' in text and 'skipping similar frames' in text and 'IPython' not in text


# ---------------------------------------------------------------- time
@pytest.mark.parametrize('code', ['time.sleep(60)', 'await asyncio.sleep(60)', "subprocess.run(['sleep', '60'])", '!sleep 60',
                                  'while True:\n    try:\n        time.sleep(60)\n    except (Exception, OSError):\n        pass'])
def test_a_cell_has_a_time_limit(node: Node, code: str) -> None:
    with node.session() as session:
        session.execute('import asyncio, subprocess, time\na = []')
        body = code.replace('\n', '\n    ')
        begun = time.monotonic()
        with pytest.raises(CellTimeoutError, match=r'the cell ran longer than its limit of 1 s \(--timeout\)') as caught:
            session.execute(f'a.append(1)\ntry:\n    {body}\nfinally:\n    a.append(2)', timeout=1)
        assert 1 <= time.monotonic() - begun < 40
        assert isinstance(caught.value, TimeoutError) and type(caught.value).__name__ == 'CellTimeoutError'
        assert 'CellTimeoutError' in caught.value.traceback[-1] and 'CellTimeoutError' in ''.join(caught.value.traceback[:2])
        assert session.execute('a', timeout='30').result == {'text/plain': '[1, 2]'}


def test_time_begins_with_the_cell(node: Node) -> None:
    with node.session() as session, node.session(session.reference) as other:
        first = Cell(session, 'print(1, flush=True)\nimport time; time.sleep(4.5)')
        first.pids()
        assert other.execute('2', timeout=4).result == {'text/plain': '2'}
        first.end.result()


@pytest.mark.parametrize('timeout', ['soon', '0', '-1', 'nan', 'inf', '1e12', '3 4'])
def test_what_is_no_time(node: Node, timeout: str) -> None:
    with node.session() as session:
        with pytest.raises(OptionError, match='timeout: expected seconds, such as 30 or 1.5, got '):
            session.execute('ran = 1', timeout=timeout)
        request = wire.Request('ran = 1', session.reference, request_id=os.urandom(16).hex(), timeout=timeout)
        error, reply = [message for message in session.delivery.run(request) if message['msg_type'] != 'keepalive']
        assert error['ename'] == 'OptionError' and '--timeout: expected seconds' in reply['evalue']
        assert session.variables() == []


def test_the_smaller_limit_wins() -> None:
    request = wire.Request(timeout='5')
    for own, expected in ((0, (5, '--timeout')), (9, (5, '--timeout')), (2, (2, '--cell-timeout'))):
        limit = TimeLimit.of(request, own)
        assert limit is not None and (limit.seconds, limit.option) == expected and 0 < limit.left <= limit.seconds
        assert TimeLimit(**limit.as_record()) == limit
    assert TimeLimit.of(wire.Request(), 0) is None
    gone = TimeLimit(2, '--cell-timeout', time.monotonic() - 10)
    assert str(gone.error()) == 'the cell ran longer than its limit of 2 s (--cell-timeout)'
    assert gone.killed() == 'killed after 12 s: it did not heed its limit of 2 s (--cell-timeout)'


# ---------------------------------------------------------------- memory
@pytest.mark.parametrize('text, count', [('', 0), ('0', 0), ('65536', 65536), ('1.5kB', 1500), ('2 GB', 2 * 10**9), ('3tb', 3 * 10**12)])
def test_sizes(text: str, count: int) -> None:
    assert bytes_of(text, '--executor-memory') == count


@given(st.text(max_size=8))
def test_what_is_no_size(text: str) -> None:
    if re.fullmatch(r'(\d+(\.\d+)?\s*(B|KB|MB|GB|TB)?)?', text.upper(), re.ASCII):
        assert bytes_of(text, '--executor-memory') >= 0
    else:
        with pytest.raises(NodeError, match='--executor-memory: expected bytes, such as 500MB or 2GB, got '):
            bytes_of(text, '--executor-memory')


HOLDS = '''
import os
block = bytearray(os.urandom(1) * 60_000_000)
for _ in range(4):  # what they have is their parent's
    if not os.fork():
        os.setsid()
        own = bytearray(os.urandom(1) * 5_000_000)
        break
print(flush=True)
input()
'''


def test_memory_of_a_process_is_that_of_all_below_it_and_what_they_share_counts_once() -> None:
    with subprocess.Popen([sys.executable, '-c', HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            for _ in range(5):
                holder.stdout.readline()
            until(lambda: len(descendants.below(holder.pid, descendants.parents())) == 4)
            quick, used = memory.at_most(holder.pid), memory.used(holder.pid)
            assert 75e6 < used < 150e6 and used + 150e6 < quick
            assert memory.exceeds(holder.pid, 200_000_000) == 0 == memory.exceeds(holder.pid, 10**9)
            assert 75e6 < memory.exceeds(holder.pid, 70_000_000) < 150e6
        finally:
            descendants.end(holder.pid)
    assert memory.used(holder.pid) == 0
    assert memory_used_up(1_200_000_000, 10**9) == 'memory: 1.2 GB used of at most 1.0 GB (--executor-memory)'


def test_memory_that_is_mapped_from_files_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / 'large').write_bytes(bytes(80_000_000))
    code = (f'import mmap\nfile = open({str(tmp_path / "large")!r}, "rb")\nmapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)\n'
            'print(mapped.find(b"x"), flush=True)\ninput()')
    with subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b'-1\n'
            assert psutil.Process(holder.pid).memory_info().rss > 80_000_000 > 4 * memory.at_most(holder.pid)
        finally:
            holder.kill()


def test_memory_that_the_machine_has() -> None:
    assert 0 < memory.available() <= psutil.virtual_memory().total
    assert memory.kills() >= 0


V1 = '36 35 0:33 /docker/box {0} rw,relatime - cgroup cgroup rw,memory\n'
V2 = '31 24 0:27 / {0} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n'


JOB_V1 = {'memory.limit_in_bytes': '1000', 'memory.usage_in_bytes': '700', 'memory.stat': 'inactive_file 1\ntotal_inactive_file 100',
          'memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 7', '../memory.limit_in_bytes': '9223372036854771712',
          '../memory.usage_in_bytes': '1'}
JOB_V2 = {'memory.max': 'max', 'memory.high': '900', 'memory.current': '500', 'memory.stat': 'anon 1\ninactive_file 50',
          'memory.events': 'max 3\noom_kill 2', '../memory.max': '600', '../memory.high': 'max', '../memory.current': '580',
          '../memory.stat': 'inactive_file 10'}


@pytest.mark.parametrize('mounts, memberships, inner, files, left', [
    (V2, '0::/user/job\n', 'user/job', JOB_V2, 30),
    (V1, '5:cpu,cpuacct:/x\n4:memory:/docker/box/job\n0::/\n', 'job', JOB_V1, 400),
], ids=['version 2', 'version 1'])
def test_memory_that_a_control_group_leaves(tmp_path: Path, mounts: str, memberships: str, inner: str, files: dict[str, str],
                                            left: int) -> None:
    folder = tmp_path / inner
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text + '\n')
    groups = list(memory.found(memberships, '20 1 8:1 / / rw - ext4 /dev/sda rw\n' + mounts.format(tmp_path)))
    assert groups and min(group.left() for group in groups) == left
    assert memory.KILLS.search(groups[0].kills.read_bytes())


# ---------------------------------------------------------------- descendants
def test_ending_what_multiplies() -> None:
    """Each shell starts others until it is stopped; some open sessions of their own."""
    code = 'for i in 1 2 3; do (while :; do setsid sleep 300 & sleep .02; done) & done; echo; wait'
    with subprocess.Popen(['sh', '-c', code], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None and shell.stdout.readline()
        until(lambda: len(descendants.below(shell.pid, descendants.parents())) > 20)
        found = descendants.below(shell.pid, descendants.parents())
        descendants.end(shell.pid)
    assert shell.returncode == -signal.SIGKILL
    all_end(found)


@given(st.dictionaries(st.integers(2, 30), st.integers(1, 30)), st.sets(st.integers(2, 30)))
def test_what_is_below(parents: dict[int, int], spared: set[int]) -> None:
    """Whoever has a way up to the root, past nobody who is spared."""
    def leads_up(pid: int, seen: frozenset[int] = frozenset()) -> bool:
        if pid == 1:
            return True
        return pid not in spared and pid in parents and pid not in seen and leads_up(parents[pid], seen | {pid})

    assert descendants.below(1, parents, spared) == {pid for pid in parents if leads_up(pid)}
