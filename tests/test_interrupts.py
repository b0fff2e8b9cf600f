"""Interrupts while every executor is busy: each is answered at once, ends its cell, and leaves the variables as they were.

A round is as many cells as the node has executors, each of another kind, all interrupted one after another. Measured are the answer
to the interrupt, and the end of the cell, both from the moment at which the interrupt is sent.
"""

import random
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Node, running

from ipython_erp5 import wire
from ipython_erp5.errors import RemoteInterrupt
from ipython_erp5.reply import Reply
from ipython_erp5.session import Session

EXECUTORS = 4
KINDS = {
    'sleeping': 'time.sleep(60)',
    'looping': 'end = time.monotonic() + 60\nwhile time.monotonic() < end: pass',
    'waiting for a lock': 'lock = threading.Lock()\nlock.acquire()\nlock.acquire(timeout=60)',
    'waiting for a process': "subprocess.run(['sleep', '60'])",
}
LENGTHS = [13, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(300)])]  # rounds of 4
SETUP = 'import subprocess, threading, time\nkept = {"list": [1, 2], "text": "x"}\nsame = kept["list"]\nn = 0'
INTACT = 'assert kept == {{"list": [1, 2], "text": "x"}} and same is kept["list"] and n == {n} and "lost" not in globals()'


@dataclass
class Latency:
    kind: str
    answer: float  # milliseconds
    end: float


@pytest.fixture(scope='module')
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(tmp_path_factory.mktemp('busy'), '--executors', str(EXECUTORS)) as node:
        yield node


class Cell:
    """A cell that has begun to wait for ever, and the session of whoever interrupts it."""

    def __init__(self, threads: ThreadPoolExecutor, session: Session, other: Session, kind: str) -> None:
        self.session, self.other, self.kind = session, other, kind
        self.began = threading.Event()
        self.ended = 0.0
        self.reply: Future[Reply] = threads.submit(self.run)

    def run(self) -> Reply:
        try:
            return self.session.execute(f"print('begun', flush=True)\n{KINDS[self.kind]}\nlost = n = 1000", on_message=self.heed)
        finally:
            self.ended = time.perf_counter()

    def heed(self, message: wire.Message) -> None:
        if message['msg_type'] == 'stream':
            self.began.set()

    def interrupt(self) -> Latency:
        sent = time.perf_counter()
        assert self.other.interrupt(self.session.running)['status'] == 'interrupted'
        answered = time.perf_counter()
        with pytest.raises(RemoteInterrupt):
            self.reply.result(30)
        return Latency(self.kind, 1000 * (answered - sent), 1000 * (self.ended - sent))


def report(found: list[Latency]) -> str:
    lines = [f'{"":24}{"answer, ms":>24}{"end, ms":>24}']
    for kind in (*KINDS, ''):
        times = [latency for latency in found if kind in ('', latency.kind)]
        columns = [sorted(values) for values in zip(*((latency.answer, latency.end) for latency in times))]
        lines.append(f'{kind or "all":24}' + ''.join(f'{statistics.median(column):12.1f}{column[-1]:12.1f}' for column in columns))
    return '\n'.join([*lines, f'{len(found)} interrupts; medians and maxima'])


@pytest.mark.parametrize('rounds', LENGTHS)
def test_interrupts_while_all_executors_are_busy(busy: Node, rounds: int) -> None:
    found: list[Latency] = []
    sessions = [busy.session(f'busy {number}') for number in range(EXECUTORS)]
    dice = random.Random(rounds)
    for session in sessions:
        session.execute(SETUP)
    others = [busy.session(f'busy {number}') for number in range(EXECUTORS)]
    with ThreadPoolExecutor(EXECUTORS) as threads:
        for turn in range(rounds):
            kinds = dice.sample(list(KINDS), EXECUTORS)
            cells = [Cell(threads, *parts) for parts in zip(sessions, others, kinds)]
            assert all(cell.began.wait(20) for cell in cells)
            status = others[0].status()
            assert status is not None and status['running'] == EXECUTORS
            time.sleep(.02)  # from the line that is printed to the wait itself
            found += [cell.interrupt() for cell in dice.sample(cells, EXECUTORS)]
            for session in sessions if turn % 5 == 4 or turn == rounds - 1 else ():
                session.execute(INTACT.format(n=0))
    for session in sessions + others:
        session.close()
    print('\n' + report(found))
    assert len(found) == rounds * EXECUTORS >= 50
    assert statistics.median(latency.answer for latency in found) < 5000 and max(latency.end for latency in found) < 30_000  # of 60


def test_a_node_of_one_executor_answers_an_interrupt_of_what_waits_behind_another(tmp_path: Path) -> None:
    """Both stop: the one that runs, and the one that never began."""
    with running(tmp_path / 'node', '--executors', '1') as node, ThreadPoolExecutor(2) as threads:
        first, second = node.session('first'), node.session('second')
        behind_first, behind_second = node.session('first'), node.session('second')
        first.execute(SETUP)
        runs = Cell(threads, first, behind_first, 'sleeping')
        assert runs.began.wait(20)
        waits = threads.submit(second.execute, 'ran = 1')
        end = time.monotonic() + 30
        while not second.running or behind_first.status()['waiting'] != 1:  # type: ignore[index]
            assert time.monotonic() < end
            time.sleep(.02)
        assert behind_second.interrupt(second.running)['status'] == 'interrupted'
        assert runs.interrupt().end < 30_000
        with pytest.raises(RemoteInterrupt):
            waits.result(20)
        second.execute('assert "ran" not in globals()')
        for session in (first, second, behind_first, behind_second):
            session.close()


def test_the_interrupt_of_a_cell_that_has_ended_hits_no_other(busy: Node) -> None:
    """Sent as the next cell of the same notebook begins, in the same process."""
    with busy.session('ended') as session, busy.session('ended') as other, ThreadPoolExecutor(1) as threads:
        session.execute(SETUP)
        for turn in range(20):
            ended = session.execute('pass').request_id
            cell = threads.submit(session.execute, 'time.sleep(.02)\nn += 1')
            assert other.interrupt(ended)['status'] == 'not running'
            cell.result(20)
            session.execute(INTACT.format(n=turn + 1))
