"""The executor processes of one node, in the publisher's process: start, choose, relay, interrupt, replace.

    waitress thread ─ run(request) ─► queue ─► Executor ─ Connection ─► process       The thread that answers the request reads the
            ▲                      (a turn for       │                                Connection itself: no relay thread, no queue,
            └────────── lines ◄──── every notebook)  ◄── E, R ─────────────┘          lines are not parsed. If its client leaves,
                                                                                      another thread reads on.

`size` cells run at once; cells of one notebook run one after another. A process that has run one notebook's code never runs
another's. Nothing is ever begun twice: a `request_id` that runs here, or has just run, gives the same lines again.
"""

import collections
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .. import wire
from . import executor
from .process import KEEPALIVE, Process

if TYPE_CHECKING:
    from .cell import Notebooks

GRACE = 10.0  # seconds between an interrupt that is not heeded and the end of the process
ENDING = 5.0  # seconds that a node which is stopped waits for its processes
IDLE = 8  # processes that keep a notebook's imports warm, beside the spare ones
REMEMBERED = 64  # ended runs that are answered from memory; older ones from their history line
LINES = 1 << 24  # bytes of one run that are kept for those who come later

PLACEMENTS = ('sticky', 'rotate', 'fresh')


class Run:
    """One request on its way: any number of readers see all its lines."""

    def __init__(self, request: wire.Request) -> None:
        self.request = request
        self.process: Process | None = None
        self.started = self.interrupted = self.done = False
        self.killed = ''
        self.lines: list[bytes] = []
        self.size = 0
        self.changed = threading.Condition()

    def add(self, line: bytes, done: bool) -> None:
        with self.changed:
            if done or self.size < LINES:
                self.lines.append(line)
                self.size += len(line)
            self.done = done
            self.changed.notify_all()

    def follow(self) -> Iterator[bytes]:
        """All lines from the first one; keepalives while there is nothing new."""
        position = 0
        while True:
            with self.changed:
                moved = self.changed.wait_for(lambda: self.done or position < len(self.lines), KEEPALIVE)
                lines = self.lines[position:]
                if self.done and not lines:
                    return
            position += len(lines)
            yield from lines if moved else [wire.encode(wire.keepalive())]


class Pool:
    def __init__(self, size: int, placement: str, make_notebooks: 'Callable[[], Notebooks]') -> None:
        self.size, self.placement, self.make = size, placement, make_notebooks
        self.changed = threading.Condition()
        self.queue: list[Run] = []
        self.running: list[Run] = []
        self.remembered: collections.OrderedDict[str, Run] = collections.OrderedDict()
        self.idle: list[Process] = []  # each bound to a notebook; the last one has been used last
        self.spare: list[Process] = []  # fresh ones
        self.starting = 0
        self.lost: dict[str, dict[str, str]] = {}  # notebook -> request -> cause, until a line of the history says it
        self.begun: set[str] = set()  # requests that a process here was given: about 100 bytes each, for the life of the node
        self.counts = {'cells': 0, 'lost': 0}
        self.closed = False
        self.spare.extend(process.ready() for process in [Process(make_notebooks) for _ in range(size)])

    # ------------------------------------------------------------ one request
    def run(self, request: wire.Request) -> Iterator[bytes]:
        """The lines of one cell, or of the same run if the request is known here. Closing the generator does not end the cell."""
        with self.changed:
            run = self.remembered.get(request.request_id)
            first = run is None
            if run is None:
                run = self.remembered[request.request_id] = Run(request)
                self.queue.append(run)
                self.forget()
        if first:
            yield from self.begin(run)
        elif (run.request.python_expression, run.request.reference) != (request.python_expression, request.reference):
            yield from map(wire.encode, wire.refusal(request.request_id))
        else:
            yield from run.follow()

    def find(self, request_id: str) -> Run | None:
        with self.changed:
            return self.remembered.get(request_id)

    def forget(self) -> None:
        """Of the ended runs the oldest. (With the lock.)"""
        ended = [key for key, run in self.remembered.items() if run.done]
        for key in ended[:max(0, len(ended) - REMEMBERED)]:
            del self.remembered[key]

    def begin(self, run: Run) -> Iterator[bytes]:
        yield from self.waiting(run)
        try:
            run.process = self.choose(run.request.reference)
        except (EOFError, OSError) as error:
            yield from self.fail(run, f'no executor process could be started: {type(error).__name__} {error}'.strip())
            return
        for _ in run.process.written():  # from a thread or child of an earlier cell: not this cell's output
            pass
        with self.changed:
            lost = self.lost.pop(run.request.reference, {})
            if run.request.request_id in self.begun:  # and its end is not remembered any more: if it is not on record either
                lost.setdefault(run.request.request_id, 'its outcome was not recorded')
            self.begun.add(run.request.request_id)
        run.process.send(run.request, lost)
        self.start(run)
        lines = self.relay(run)
        try:
            for line in lines:  # not `yield from`: that would close `lines` with us, and lose a message
                yield line
        except GeneratorExit:  # the client has gone: its cell has not
            threading.Thread(target=collections.deque, args=(lines, 0), daemon=True).start()
            raise

    def waiting(self, run: Run) -> Iterator[bytes]:
        """Keepalives until it is the run's turn. A client that leaves before that has not begun anything."""
        try:
            while True:
                with self.changed:
                    self.changed.wait_for(lambda: self.turn(run), KEEPALIVE)
                    if self.turn(run):
                        self.queue.remove(run)
                        self.running.append(run)
                        break
                    waiting = self.reason_to_wait(run)
                yield wire.encode(wire.keepalive(waiting))
        except GeneratorExit:
            self.give_up(run)
            raise

    def turn(self, run: Run) -> bool:
        """Whether the run may begin: a place is free, its notebook has none before it, and no older run could begin instead."""
        if len(self.running) >= self.size:
            return False
        taken = {other.request.reference for other in self.running}
        for waiting in self.queue:
            if waiting.request.reference not in taken:
                return waiting is run
            if waiting is run:
                return False
        return False

    def reason_to_wait(self, run: Run) -> str:
        if any(other.request.reference == run.request.reference for other in self.running):
            return 'another cell of this notebook runs'
        return f'all {self.size} executors are busy'

    def give_up(self, run: Run) -> None:
        with self.changed:
            self.queue.remove(run)
            del self.remembered[run.request.request_id]
            self.changed.notify_all()
        run.add(wire.encode(wire.execute_reply('error', False, run.request.request_id, ename='CellAborted',
                                               evalue='the client left before the cell had begun')), True)

    def relay(self, run: Run) -> Iterator[bytes]:
        assert run.process is not None
        try:
            for tag, line in run.process.messages():
                if tag == executor.REPLY:
                    self.finish(run)
                run.add(line, tag == executor.REPLY)
                yield line
        except Exception:  # a fault of ours must not keep the notebook waiting for ever
            traceback.print_exc()
            run.process.end()
        if run.process.dead:
            yield from self.lose(run)

    def fail(self, run: Run, reason: str) -> list[bytes]:
        """Nothing of the cell has begun."""
        lines = self.conclude(run, wire.failed(run.request.request_id, 'NodeError', f'{reason}; nothing was run'))
        with self.changed:
            self.remembered.pop(run.request.request_id, None)
        return lines

    def lose(self, run: Run) -> list[bytes]:
        """The process has died: that is the outcome of its cell, and its history says so as soon as it can be written."""
        assert run.process is not None
        cause = run.killed or run.process.cause_of_death()
        with self.changed:
            self.lost.setdefault(run.request.reference, {})[run.request.request_id] = cause
            self.counts['lost'] += 1
        return self.conclude(run, wire.lost(run.request.request_id, cause))

    def conclude(self, run: Run, messages: Iterable[wire.Message]) -> list[bytes]:
        """End a run with an outcome that no process gave."""
        lines = [wire.encode(message) for message in messages]
        self.finish(run)
        for line in lines:
            run.add(line, line is lines[-1])
        return lines

    def start(self, run: Run) -> None:
        """The process has the request: a signal is for it from here on, and an interrupt that came before is due."""
        with self.changed:
            run.started = True
            if run.interrupted and run.process is not None:
                os.kill(run.process.pid, signal.SIGINT)

    def finish(self, run: Run) -> None:
        process = run.process
        with self.changed:  # as in `interrupt`: never a signal for the next cell
            self.running.remove(run)
            run.started = False
            self.counts['cells'] += 1
            leaving = [process] if process and (process.dead or run.interrupted or self.placement == 'fresh') else []
            if process and not leaving:
                self.idle.append(process)
                leaving = self.idle[:max(0, len(self.idle) - max(IDLE, 2 * self.size))]
                del self.idle[:len(leaving)]
            self.changed.notify_all()
        for old in leaving:
            threading.Thread(target=old.close, daemon=True).start()

    # ------------------------------------------------------------ processes
    def choose(self, reference: str) -> Process:
        """A process for a cell of this notebook: see `--placement`."""
        with self.changed:
            mine = [process for process in self.idle if process.reference == reference]
            chosen = None
            if mine and self.placement == 'sticky':
                chosen = mine[-1]
            elif self.placement == 'rotate' and len(mine) >= max(2, self.size):
                chosen = mine[0]
            if chosen is not None:
                self.idle.remove(chosen)
            elif self.spare:
                chosen = self.spare.pop()
                self.refill()
        if chosen is None:
            chosen = Process(self.make).ready()
        chosen.reference = reference
        return chosen

    def refill(self) -> None:
        """Start fresh processes in the background, so that the next notebook finds one. (With the lock.)"""
        if not self.closed and len(self.spare) + self.starting < self.size:
            self.starting += 1
            threading.Thread(target=self.add_spare, daemon=True).start()

    def add_spare(self) -> None:
        process = None
        try:
            process = Process(self.make).ready()
        finally:
            with self.changed:
                self.starting -= 1
                if process is not None:
                    self.spare.append(process)
                self.changed.notify_all()

    # ------------------------------------------------------------ interrupt
    def interrupt(self, reference: str, request_id: str) -> bool:
        """SIGINT to the request, or to whichever cell of the notebook runs if `request_id` is ''; False if none runs here.

        The second time, or GRACE seconds later, the process is ended.
        """
        with self.changed:
            run = next((run for run in [*self.running, *self.queue] if run.request.reference == reference
                        and request_id in ('', run.request.request_id)), None)
            if run is None:
                return False
            again, run.interrupted = run.interrupted, True
            if run.started and run.process is not None:  # before that the executor would not heed it
                os.kill(run.process.pid, signal.SIGINT)
        if again:
            self.kill(run, 'killed by a second interrupt')
        else:
            timer = threading.Timer(GRACE, self.kill, (run, f'killed, as it did not heed an interrupt for {GRACE:g} s'))
            timer.daemon = True
            timer.start()
        return True

    def kill(self, run: Run, cause: str) -> None:
        with self.changed:
            if run in self.running and run.process is not None:
                run.killed = cause
                os.kill(run.process.pid, signal.SIGKILL)

    # ------------------------------------------------------------ the whole
    def status(self) -> dict[str, Any]:
        with self.changed:
            return {'executors': self.size, 'placement': self.placement, 'running': len(self.running), 'waiting': len(self.queue),
                    'idle': len(self.idle), 'spare': len(self.spare), **self.counts,
                    'processes': [{'pid': process.pid, 'notebook': process.reference, 'state': state}
                                  for state, processes in (('idle', self.idle), ('spare', self.spare),
                                                           ('running', [run.process for run in self.running if run.process]))
                                  for process in processes]}

    def close(self) -> None:
        """End all processes; cells that run are lost."""
        with self.changed:
            self.closed = True
            running = [run for run in self.running if run.process is not None]
        for run in running:
            self.kill(run, 'killed, as the node was stopped')
        with self.changed:
            self.changed.wait_for(lambda: not self.starting and not self.running, ENDING)
            processes = [*self.idle, *self.spare]
            self.idle, self.spare = [], []
        for process in processes:
            process.connection.close()
        for process in processes:
            process.close()
