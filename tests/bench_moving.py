"""How fast a large array goes to the notebook and comes back, beside a plain copy over loopback, and what memory that takes.

    python -m pytest -m bench -s tests/bench_moving.py

The plain copy: one process sends the same bytes with `sendall`, another reads them with `recv_into` into memory of its own; it is
made before and after each way. A push is all of `session.push`: until the array is in the database and a cell has had it as its
variable. A push of what is there already, and of another array (its first bytes differ, and so all pieces' digests), are shown apart.
A pull is all of `session.pull`, with memory that the system gives to the array page by page.

Memory that a virtual machine has not used for a while comes from its host, which takes twice the time of a plain copy. So that all
are alike, each way, the plain one too, finds memory that has just been used; without that a push is slower than what is shown here.
Others on the machine disturb some rounds; the best of each way counts.

Memory, of the client, of the node's publisher, and of the executor, sampled every few milliseconds:

    own        private and anonymous (RssAnon): what the process keeps, and nobody else can take away
    resident   all of RSS: with pages of mapped files, which are the system's cache of the database, and go when it needs room

The executor reads a pushed array out of the pieces' files, so that nothing of it is its own; of a pulled one that a cell has made,
all is its own once. The client has the array once, and nothing besides. The limits are asserted: half of the plain copy's speed, and
1.3 times the array in the own memory of each process, above what it had before.
"""

import contextlib
import mmap
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Node, running

from ipython_erp5.session import Session

SIZE = int(os.environ.get('ERP5_BENCH_BYTES', 10 ** 9))
ROUNDS = 3
MOST, LEAST = 1.3, .5  # times the array's bytes; of the plain copy's speed
FIELDS = {'own': 'RssAnon:', 'resident': 'VmRSS:'}

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600), pytest.mark.filterwarnings('default')]


@pytest.fixture(scope='module')
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(tmp_path_factory.mktemp('moving') / 'node', '--executors', '1') as started:
        yield started


# ---------------------------------------------------------------- a plain copy
def plain_copy(data: memoryview) -> float:
    """Seconds."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        child = os.fork()
        if not child:
            with socket.create_connection(listener.getsockname()) as sender:
                sender.sendall(data)
                sender.recv(1)
            os._exit(0)
        receiver, _ = listener.accept()
        with receiver:
            begun, done, memory = time.perf_counter(), 0, memoryview(mmap.mmap(-1, len(data)))
            while done < len(data):
                done += receiver.recv_into(memory[done:])
            spent = time.perf_counter() - begun
            receiver.send(b'.')
        os.waitpid(child, 0)
    return spent


# ---------------------------------------------------------------- memory
def warm() -> None:
    """The memory that the next ones get has just been used: in large pages, as the system's cache takes them."""
    with mmap.mmap(-1, 2 * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as used:
        if hasattr(mmap, 'MADV_HUGEPAGE'):
            used.madvise(mmap.MADV_HUGEPAGE)
        for start in range(0, len(used), mmap.PAGESIZE):
            used[start] = 1


def memory(pid: int) -> dict[str, int]:
    with contextlib.suppress(OSError):
        lines = [line.split() for line in Path(f'/proc/{pid}/status').read_text().splitlines()]
        return {kind: int(words[1]) << 10 for kind, name in FIELDS.items() for words in lines if words[0] == name}
    return dict.fromkeys(FIELDS, 0)


class Peaks(threading.Thread):
    """The most that each process has had, above what it had at the beginning."""

    def __init__(self, pids: dict[str, int]) -> None:
        super().__init__(daemon=True)
        self.pids, self.ended = pids, threading.Event()
        self.before = {name: memory(pid) for name, pid in pids.items()}
        self.found = {name: dict.fromkeys(FIELDS, 0) for name in pids}

    def __enter__(self) -> 'Peaks':
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.ended.set()
        self.join()

    def run(self) -> None:
        while not self.ended.wait(.004):
            for name, pid in self.pids.items():
                for kind, size in memory(pid).items():
                    self.found[name][kind] = max(self.found[name][kind], size - self.before[name][kind])


def pids(node: Node, session: Session) -> dict[str, int]:
    executor = int(session.execute('import os; os.getpid()', store_history=False).result['text/plain'])  # type: ignore[index]
    return {'client': os.getpid(), 'publisher': node.process.pid, 'executor': executor}


def measured(what: str, node: Node, session: Session, data: memoryview, action: Callable[[], object], had: float) -> float:
    """The share of the plain copy's speed. `had`: how many times the client has the array already, which counts."""
    warm()
    plain = [plain_copy(data)]
    warm()
    with Peaks(pids(node, session)) as peaks:
        begun = time.perf_counter()
        action()
        spent = time.perf_counter() - begun
    plain.append(plain_copy(data))
    share = statistics.mean(plain) / spent
    speeds = [len(data) / 1e9 / seconds for seconds in (spent, statistics.mean(plain))]
    print(f'\n{what:<24}{speeds[0]:.2f} GB/s, {share:.2f} of a plain copy ({speeds[1]:.2f} GB/s)')
    for name, found in peaks.found.items():
        times = {kind: size / len(data) + (had if name == 'client' else 0) for kind, size in found.items()}
        print(f'    {name:<12}own {times["own"]:.2f}, resident {times["resident"]:.2f} times the array')
        assert times['own'] < MOST, f'{what}: the memory of the {name}'
    return share


# ---------------------------------------------------------------- the figures
def test_a_large_array_goes_and_comes_at_memory_speed(node: Node) -> None:
    with node.session() as session:
        session.execute('import numpy')
        array = np.random.default_rng(7).random(SIZE // 8)
        data, kept = memoryview(array).cast('B'), list[object]()
        pushes, pulls = [], []
        for _ in range(ROUNDS):
            array[::1000] += 1   # no piece is as it was
            pushes.append(measured('push', node, session, data, lambda: session.push(array=array), 1))
            pulls.append(measured('pull', node, session, data, lambda: kept.append(session.pull('array')), 0))
            assert np.array_equal(kept.pop(), array)  # type: ignore[arg-type]
        measured('push of the same again', node, session, data, lambda: session.push(array=array), 1)
        made = f'made = numpy.random.default_rng(8).random({SIZE // 8})'
        measured('pull of what it makes', node, session, data, lambda: kept.append(session.execute(made, pull='made').values['made']), 0)
        assert min(max(pushes), max(pulls)) > LEAST
