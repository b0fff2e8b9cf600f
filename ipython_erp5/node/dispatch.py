"""The requests of one node: a turn for each, at most once, and what becomes of a cell whose process dies.

    waitress thread ─ run(request) ─► waiting ─► attempt ─ Process ─► its lines           The thread that answers the request reads
            ▲                         (a turn)    │   ▲                  │                the process itself. If its client leaves,
            │                             claimed │   │ released         │                another thread reads on.
            │                                     ▼   │                  │
            └─────────── lines ◄───────────── other nodes (`peers`) ◄────┘

Cells of one notebook run one after another, also across nodes: the process that looks at the notebook's claim says who has it. Nothing
is ever begun twice: a `request_id` that runs here, or has just run, gives the same lines again; one that runs elsewhere, the lines
from there.
"""

import collections
import json
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from .. import wire
from ..errors import CellLost
from . import executor
from .claims import Claimed
from .elsewhere import PATIENCE, Elsewhere
from .journal import Journal
from .limits import TimeLimit
from .losses import Losses
from .metrics import Metrics
from .peers import NodeUnreachable, Peers
from .pool import Pool
from .process import KEEPALIVE, Process
from .run import Run
from .signals import Signals
from .storage import AWAY
from .turns import Turns

REMEMBERED = 64  # ended runs that are answered from memory; older ones from their history line
RELEASED = 100  # a request that is forgotten has been claimed by another node, or never will be
SOON = 1.0  # seconds after which a cell that waits says so
COURTESY = .2  # seconds by which a node that has run the notebook's last cell lets another begin that waits
ENDING = 5.0  # seconds that a node which is stopped waits for its processes

CONFLICTS = ('ConflictError', 'ReadConflictError')

Lines = Generator[bytes, None, None]


class Dispatcher:
    """`cell_timeout`: seconds that a cell may run; 0: as long as it likes."""

    def __init__(self, pool: Pool, peers: Peers, losses: Losses, journal: Journal, metrics: Metrics, cell_timeout: float = 0) -> None:
        self.cell_timeout = cell_timeout
        self.pool, self.peers, self.losses, self.journal, self.metrics = pool, peers, losses, journal, metrics
        self.changed = pool.changed
        self.turns = Turns(pool.size, pool.changed)
        self.signals = Signals(self.turns)
        self.elsewhere = Elsewhere(peers, self.finish)
        self.remembered: collections.OrderedDict[str, Run] = collections.OrderedDict()
        self.begun: set[str] = set()  # requests that a process here was given: about 100 bytes each, for the life of the node
        self.released: collections.deque[str] = collections.deque(maxlen=RELEASED)  # claimed for this node, and free for another to begin
        self.others_wait: dict[str, float] = {}  # notebook -> when another node has asked for it

    # ------------------------------------------------------------ one request
    def run(self, request: wire.Request, authorization: str = '') -> Iterator[bytes]:
        """The lines of one cell, or of the same run if the request is known here. Closing the generator does not end the cell."""
        with self.changed:
            run = self.remembered.get(request.request_id)
            first = run is None
            if run is None:
                run = self.remembered[request.request_id] = Run(request, authorization)
                self.turns.enter(run)
                self.forget()
            else:
                run.readers += 1
        if first:
            yield from self.drive(run)
        else:
            yield from self.read(run, request)

    def read(self, run: Run, request: wire.Request) -> Lines:
        """As one more reader."""
        try:
            if (run.request.python_expression, run.request.reference) != (request.python_expression, request.reference):
                yield from map(wire.encode, wire.refusal(request.request_id))
            else:
                yield from run.follow()
        finally:
            with self.changed:
                run.readers -= 1

    def find(self, request_id: str) -> Run | None:
        with self.changed:
            return self.remembered.get(request_id)

    def running(self, reference: str) -> Run | None:
        """The cell that runs or waits here of a notebook."""
        with self.changed:
            return next((run for run in [*self.turns.running, *self.turns.queue] if run.request.reference == reference), None)

    def forget(self) -> None:
        """Of the ended runs the oldest. (With the lock.)"""
        ended = [key for key, run in self.remembered.items() if run.done]
        for key in ended[:max(0, len(ended) - REMEMBERED)]:
            del self.remembered[key]

    def drive(self, run: Run) -> Lines:
        """The lines of a run, which this reader moves on. If its client leaves, another thread does, unless nothing has begun."""
        lines = self.advance(run)
        try:
            for line in lines:  # not `yield from`: that would close `lines` with us, and lose a message
                yield line
        except GeneratorExit:
            if not self.gave_up(run):
                threading.Thread(target=collections.deque, args=(lines, 0), daemon=True).start()
            raise

    def gave_up(self, run: Run) -> bool:
        """A run that nobody reads and that still waits does not begin, unless it was sent for nobody to wait for it."""
        with self.changed:
            if run.done or run.readers or run in self.turns.running or run.request.detached:
                return False
            self.turns.leave(run)
            del self.remembered[run.request_id]
        return True

    def advance(self, run: Run) -> Lines:
        while not run.done:
            yield from self.waiting(run)
            if not run.done:
                claimed = yield from self.attempt(run)
                if claimed is not None:
                    yield from self.wait_elsewhere(run, claimed)
        self.tell(run)

    def waiting(self, run: Run) -> Lines:
        """Keepalives until it is the run's turn, or its end if it is interrupted before; of a detached one also that it is here."""
        if run.request.detached:
            with self.changed:
                waiting = '' if run.woken.is_set() else self.turns.reason_to_wait(run)
            yield wire.encode(wire.keepalive(waiting))
        patience = SOON
        while not run.woken.wait(patience):
            with self.changed:
                waiting = self.turns.reason_to_wait(run)
            yield wire.encode(wire.keepalive(waiting))
            patience = KEEPALIVE
        if run.interrupted:
            yield from self.conclude(run, wire.failed(run.request_id, 'KeyboardInterrupt', 'while the cell waited for its turn'))
        elif time.monotonic() - self.others_wait.pop(run.request.reference, -PATIENCE) < PATIENCE:
            time.sleep(COURTESY)

    # ------------------------------------------------------------ in a process of this node
    def attempt(self, run: Run) -> Generator[bytes, None, Claimed | None]:
        """Let a process run the cell; or who has the notebook's claim, if another node may be running a cell of it."""
        try:
            run.process = self.pool.choose(run.request.reference)
        except (EOFError, OSError) as error:
            yield from self.fail(run, f'no executor process could be started: {type(error).__name__} {error}'.strip())
            return None
        for _, line in run.process.written():  # from C code or a child of an earlier cell: not this cell's output
            self.journal.event('output', request_id='', output=wire.decode(line))
        self.learn(run)
        limit = TimeLimit.of(run.request, self.cell_timeout)
        run.process.send(run.request, run.known, limit)
        run.began = time.monotonic()
        self.signals.begin(run, limit)
        return (yield from self.relay(run, run.process))

    def learn(self, run: Run) -> None:
        """What the process has to know of requests that may have begun."""
        run.known.lost.update(self.losses.of(run.request.reference))
        with self.changed:
            if run.request_id in self.begun:  # and its end is not remembered any more: if it is not on record either
                run.known.lost.setdefault(run.request_id, 'its outcome was not recorded')
            self.begun.add(run.request_id)
            run.known.released.update(self.released)

    def relay(self, run: Run, process: Process) -> Generator[bytes, None, Claimed | None]:
        try:
            for tag, line in process.messages():
                if tag == executor.HELD:
                    return (yield from self.held(run, json.loads(line)))
                if tag == executor.REPLY:
                    self.finish(run)
                if run.attached:  # from the history, after lines that another node had sent
                    yield from run.take(line.splitlines(keepends=True))
                else:
                    run.add(line, tag == executor.REPLY)
                    yield line
        except Exception as error:  # a fault of ours must not keep the notebook waiting for ever
            self.journal.fault(error, request_id=run.request_id)
            process.end()
        if process.dead:
            yield from self.lose(run, process)
        return None

    def held(self, run: Run, why: dict[str, Any]) -> Generator[bytes, None, Claimed | None]:
        """Nothing of the cell has begun."""
        if 'away' in why:
            self.released.append(run.request_id)  # if it has been claimed
            yield from self.fail(run, why['away'])
            return None
        self.signals.end(run)  # its time begins anew
        with self.changed:
            self.begun.discard(run.request_id)
            self.turns.hold(run)
        self.give_back(run)
        return Claimed(**why['claimed'])

    # ------------------------------------------------------------ on another node
    def wait_elsewhere(self, run: Run, claimed: Claimed) -> Lines:
        try:
            yield from self.elsewhere.follow(run, claimed)
        except NodeUnreachable as error:
            yield from self.fail(run, str(error))
        with self.changed:
            self.turns.again(run)

    def release(self, reference: str, request_id: str) -> str:
        """Asked by another node, to which a cell of this notebook has come: see `Peers.release`."""
        with self.changed:
            run = self.remembered.get(request_id)
            if request_id in self.begun:
                return 'ended' if run is None or run.done else 'running'
            self.released.append(request_id)
            return 'released'

    def wanted_elsewhere(self, reference: str) -> None:
        self.others_wait[reference] = time.monotonic()

    # ------------------------------------------------------------ its end
    def fail(self, run: Run, reason: str) -> Iterator[bytes]:
        """Nothing has begun now, which says nothing of an earlier time at which the request was sent: it is to be sent again."""
        yield from self.conclude(run, wire.unavailable(run.request_id, reason))
        with self.changed:
            self.remembered.pop(run.request_id, None)
            self.begun.discard(run.request_id)

    def lose(self, run: Run, process: Process) -> Iterator[bytes]:
        """The process has died: that is the outcome of its cell, once the history says so, unless it had just committed."""
        cause = run.killed or process.cause_of_death()
        self.metrics.lost()
        self.losses.add(run.request, cause)
        end = time.monotonic() + AWAY
        while (lines := self.losses.write(run.request, cause)) is None and time.monotonic() < end:
            yield wire.encode(wire.keepalive('the database is away'))
            time.sleep(1)
        self.finish(run)
        yield from run.take(lines or map(wire.encode, wire.failed(
            run.request_id, CellLost.__name__, f'lost: {cause}; whether it was saved is not known, as the database is away')))

    def conclude(self, run: Run, messages: Iterable[wire.Message]) -> Iterator[bytes]:
        """End a run with an outcome that no process gave."""
        self.finish(run)
        for line in map(wire.encode, messages):
            run.add(line, wire.is_reply(line))
            yield line

    def finish(self, run: Run) -> None:
        self.signals.end(run)  # before anybody can have its process
        with self.changed:
            self.turns.leave(run)
        self.give_back(run)

    def tell(self, run: Run) -> None:
        """The log and the metrics get the outcome."""
        reply, seconds = wire.decode(run.lines[-1].splitlines()[-1]), time.monotonic() - run.began
        status = 'lost' if reply['ename'] == CellLost.__name__ else reply['status']
        self.metrics.cell(status, seconds)
        if reply['ename'] in CONFLICTS and not reply['committed']:
            self.metrics.conflict()
        cause = {'cause': reply['evalue']} if status == 'lost' else {}
        self.journal.event('cell', request_id=run.request_id, notebook=run.request.reference, user=run.request.user, status=status,
                           ename=reply['ename'], committed=reply['committed'], execution_count=reply['execution_count'],
                           size=len(run.request.python_expression), seconds=round(seconds, 4), **cause)

    def give_back(self, run: Run) -> None:
        process, run.process = run.process, None
        if process is not None:
            self.pool.give_back(process, reusable=not run.interrupted)

    # ------------------------------------------------------------ the whole
    def running_processes(self) -> list[tuple[Run, int]]:
        with self.changed:
            return [(run, run.process.pid) for run in self.turns.running if run.process is not None]

    def status(self) -> dict[str, Any]:
        with self.changed:
            running = [{'notebook': run.request.reference, 'request_id': run.request_id, 'user': run.request.user,
                        'seconds': round(time.monotonic() - run.began, 3)} for run in self.turns.running]
            return {'executors': self.pool.size, 'placement': self.pool.placement, 'running': len(self.turns.running),
                    'waiting': len(self.turns.queue) + len(self.turns.away), 'running_cells': running,
                    **self.pool.status([run.process for run in self.turns.running if run.process])}

    def close(self) -> None:
        """End all processes; cells that run are lost."""
        with self.changed:
            self.pool.closed = True
            running = [run for run in self.turns.running if run.process is not None]
        for run in running:
            self.signals.kill(run, 'killed, as the node was stopped')
        with self.changed:
            self.changed.wait_for(lambda: not self.turns.running, ENDING)
        self.pool.close()
