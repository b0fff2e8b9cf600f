"""The process that runs cells: requests come in over a Connection, messages go out as they happen, one JSON line each.

    node -> executor   a JSON object, one cell at a time: `request` (wire.Request), `known` (claims.Known: of what may have begun),
                       `limit` (limits.TimeLimit, or null)
    executor -> node   E line   a message of the running cell, relayed as it is
                       R lines  its last messages up to execute_reply, after the commit: the executor is idle again
                       H line   nothing has begun: another node may run a cell of this notebook (`claimed`), or the database is `away`
    node -> executor   a JSON object with a `question` (see `completing`); no cell may follow one
    executor -> node   P        the notebook is prepared
                       A line   the answer, or null
    SIGINT             an interrupt of the request that was sent, also if it has not been read yet; after its limit, that
    fd 1, fd 2         pipes that the node reads: what C code and child processes write, and the last words of a dying process
"""

import contextlib
import faulthandler
import gc
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Any

from .. import wire
from ..errors import NodeError, UnauthorizedError
from . import descendants, journal
from .carrying import Carrier
from .claims import Held, Known, DatabaseAway
from .completing import Answering
from .limits import TimeLimit
from .shell import CellShell
from .tracebacks import name_and_text

if TYPE_CHECKING:
    from .cell import Notebooks, OpenNotebook
    from .notebook import DataNotebookLine

EVENT, REPLY, HELD = b'E', b'R', b'H'
READY, ANSWER = b'P', b'A'
FAULT = 70  # exit code, as in sysexits.h: an internal error
HEAVY = 256 << 20  # bytes of large values that cells may leave behind before the collector of garbage is called
RECORDED = 1 << 20  # bytes of a cell's messages that its history line keeps


class Interrupts:
    """SIGINT is KeyboardInterrupt while a cell runs, never during a commit, and never in the middle of a message.

    One that comes before the cell has begun is due when it begins. The node does not use a process again that it has interrupted,
    so that none is ever heeded by the wrong cell.
    """

    def __init__(self) -> None:
        self.running = self.pending = False
        self.shields = 0
        self.limit: TimeLimit | None = None  # of the cell
        self.raised: KeyboardInterrupt | None = None  # the last one
        signal.signal(signal.SIGINT, self.handle)

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.running and not self.shields:
            raise self.reason()
        self.pending = True

    def reason(self) -> KeyboardInterrupt:
        """When the limit is over the node sends the same signal."""
        self.raised = self.limit.error() if self.limit is not None and self.limit.left <= 0 else KeyboardInterrupt()
        return self.raised

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        self.running = True
        try:
            self.due()
            yield
        finally:
            self.running = False

    def due(self) -> None:
        if self.pending and self.running:
            self.pending = False
            raise self.reason()

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """For the main thread, the only one that gets signals: half a message would be the end of the executor."""
        main = threading.current_thread() is threading.main_thread()
        self.shields += main
        try:
            yield
        finally:
            self.shields -= main
        if main and not self.shields:
            self.due()


class Record:
    """The messages of one cell for its history line, up to RECORDED bytes; that some are missing is said in the last one."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.size = self.left_out = 0

    def add(self, line: bytes) -> None:
        if self.size + len(line) > RECORDED:
            self.left_out += 1
        else:
            self.lines.append(line)
            self.size += len(line)

    def data(self) -> bytes:
        note = f'[{self.left_out} more messages were shown, and are not kept in the history]\n'
        return b''.join([*self.lines, wire.encode(wire.stream('stderr', note))] if self.left_out else self.lines)


class Executor:
    def __init__(self, connection: Connection, notebooks: 'Notebooks', shell: CellShell, log: journal.Journal) -> None:
        self.connection, self.notebooks, self.shell, self.log = connection, notebooks, shell, log
        self.request_id = ''  # of the running cell, or of the last one
        self.busy = False
        self.heavy = 0  # bytes that earlier cells may have left
        self.record = Record()
        self.sending = threading.Lock()  # threads of the cell print too
        self.interrupts = Interrupts()
        self.answering: Answering | None = None
        self.saving = False
        self.pid = os.getpid()
        os.register_at_fork(after_in_child=self.become_child)
        shell.emit, shell.heeded = self.emit, lambda: self.interrupts.raised
        shell.cells.follow()
        sys.stdout, sys.stderr = shell.stdout, shell.stderr  # also between cells: their threads go on

    def send(self, tag: bytes, line: bytes) -> None:
        """A message of the running cell, or, with any other tag, the last one of it."""
        self.busy = tag == EVENT
        with contextlib.suppress(OSError):  # the node has gone: the cell goes on, and its outcome is on record
            self.connection.send_bytes(tag + line)

    def emit(self, message: wire.Message, whose: str = '') -> None:
        """After the reply nothing more of the cell may go out: it would be read as the next cell's. `whose`: the request_id of its cell."""
        whose = whose or self.shell.cells.of_this_thread()
        line = wire.encode(message)
        apart = self.saving and threading.current_thread() is threading.main_thread()
        with self.interrupts.shielded(), self.sending:
            if self.busy and whose == self.request_id and not apart:
                self.send(EVENT, line)
                self.record.add(line)
                return
        self.log.event('output', request_id=whose, output=message)

    @contextlib.contextmanager
    def saves(self) -> Iterator[None]:
        """What classes print while they are pickled is no output of the cell: nowhere else would it be there."""
        self.saving = True
        try:
            yield
        finally:
            self.shell.flush_streams()
            self.saving = False

    def end(self, tag: bytes, line: bytes) -> None:
        with self.interrupts.shielded(), self.sending:
            self.send(tag, line)

    def serve(self) -> None:
        self.end(REPLY, wire.encode({'msg_type': 'ready', 'pid': os.getpid()}))
        while (message := self.received()) is not None:
            try:
                self.begin(json.loads(message))
                self.tidy()
            except Exception as error:  # a fault of ours: its place is the node's log, and the death of this process is the cell's outcome
                self.log.fault(error)
                os._exit(FAULT)

    def received(self) -> bytes | None:
        """The next request; None once the node has gone."""
        try:
            return self.connection.recv_bytes()
        except (EOFError, OSError):
            return None

    def begin(self, message: dict[str, Any]) -> None:
        if 'question' in message:
            return self.answer_question(message['question'])
        request = wire.Request(**message['request'])
        self.record, self.request_id = Record(), request.request_id
        self.busy, self.shell.cells.running = True, self.request_id
        journal.request.set(self.request_id)
        self.interrupts.limit, self.interrupts.raised = TimeLimit(**message['limit']) if message['limit'] else None, None
        self.answer(request, Known.from_message(message['known']))

    def answer_question(self, question: dict[str, Any]) -> None:
        self.answering = self.answering or Answering(self.notebooks, self.shell)
        reply = self.answering.answer(question, lambda: self.end(READY, b''))
        self.end(ANSWER, json.dumps(reply).encode())

    # ------------------------------------------------------------ one cell
    def answer(self, request: wire.Request, known: Known) -> None:
        """Run the request, or say why nothing of it begins: its user may not use the notebook (one who made it since the publisher looked
        is its owner), another node has it, or the database is away or cannot be written."""
        try:
            self.run_request(request, known)
        except (NodeError, UnauthorizedError) as error:
            failure = wire.failed(request.request_id, type(error).__name__, str(error))
            self.end(REPLY, b''.join(map(wire.encode, failure)))
        except Held as held:
            self.end(HELD, json.dumps({'claimed': asdict(held.claimed)}).encode())
        except DatabaseAway as away:
            self.end(HELD, json.dumps({'away': str(away)}).encode())

    def run_request(self, request: wire.Request, known: Known) -> None:
        """Run the request and commit, or give the recorded outcome of one that has been run before.

        The reply goes out after the commit, and before the transaction's remains are put away: the client need not wait for that.
        """
        started = time.perf_counter()
        with self.notebooks.open(request, known) as notebook:
            if notebook.outcome is not None:
                reply = self.replay(request, notebook.outcome)
            else:
                opened = time.perf_counter()
                carrier = Carrier(request, notebook, self.notebooks.connection.root())
                error = self.run(request, notebook, carrier)
                ran = time.perf_counter()
                with self.saves():
                    reply = self.finish(request, notebook, carrier, error, {'open': opened - started, 'run': ran - opened})
            self.end(REPLY, reply)
            self.heavy += notebook.context.buffers.weight

    def tidy(self) -> None:
        """A cell's namespace is in circles, with its arrays: they would wait for as many small objects as the collector counts."""
        if self.heavy > HEAVY:
            self.heavy = 0
            gc.collect()

    def replay(self, request: wire.Request, line: 'DataNotebookLine') -> bytes:
        """The recorded outcome, unless the request_id comes with another cell now."""
        if line.notebook_code not in (request.python_expression, ''):
            return b''.join(map(wire.encode, wire.refusal(request.request_id)))
        return line.shown + wire.encode(line.reply(request.request_id, self.notebooks.node))

    def run(self, request: wire.Request, notebook: 'OpenNotebook', carrier: Carrier) -> BaseException | None:
        """The environment's setups, then the cell. A setup that fails stops the cell before any of its code runs."""
        error: BaseException | None = None
        self.shell.source_of, self.shell.prepare = notebook.source_of, notebook.prepare
        notebook.arrive = carrier.arrive
        self.shell.enter(notebook.names)
        self.shell.error = None
        try:
            try:
                with self.interrupts.allowed():
                    # for an empty cell IPython would not load the variables
                    nothing = (request.push or request.pull) and not request.python_expression.strip()
                    error = self.shell.run('pass' if nothing else request.python_expression, notebook.count, notebook.flags)
                    if error is None:
                        for message in carrier.leave(self.shell.last_value):
                            self.emit(message)
            except KeyboardInterrupt as interrupt:  # just before or after
                error = interrupt
            if self.shell.error is None and error is not None:  # interrupted before the shell could show it
                self.emit(wire.error(*name_and_text(error), [name_and_text(error)[0]]))
        finally:
            if os.getpid() != self.pid:
                end_child(error)
            self.shell.leave()
        return error

    def become_child(self) -> None:
        """In a process that the cell has forked. What it says goes the way of all children: half messages of two would be no message."""
        self.connection.close()
        self.shell.emit = say

    def finish(self, request: wire.Request, notebook: 'OpenNotebook', carrier: Carrier, error: BaseException | None,
               spent: dict[str, float]) -> bytes:
        """Save and commit, and then say what was saved: the last messages go out in one piece, each would cost a wake-up."""
        clock = time.perf_counter()
        report = wire.encode(notebook.save(request, error))
        ename, evalue = name_and_text(error) if error else ('', '')
        outputs = self.record.data()
        self.record.add(report)
        refused = notebook.commit(request, self.record.data(), ename, evalue)
        conflict = refused and notebook.settle(request, refused, outputs)
        if conflict:
            ename, evalue = conflict
            report = wire.encode(wire.error(ename, evalue, [f'{ename}: {evalue}']))
        elif not error:
            report += b''.join(map(wire.encode, carrier.ship()))
        times = {name: round(1e6 * seconds) for name, seconds in {**spent, 'save': time.perf_counter() - clock}.items()}
        reply = wire.execute_reply('error' if ename else 'ok', not conflict, request.request_id, ename=ename, evalue=evalue,
                                   node=self.notebooks.node, execution_count=notebook.count, times=times,
                                   interrupted=self.interrupts.raised is not None)
        return report + wire.encode(reply)


def main(connection: Connection, outputs: tuple[Connection, ...], make_notebooks: 'Callable[[], Notebooks]') -> None:
    """Target of the process. `make_notebooks()` opens the database: after the fork, never before."""
    from . import preload
    descendants.belong()
    multiprocessing.set_start_method(None, force=True)  # user code gets the platform's default, not this fork server
    log = journal.Journal(fd=os.dup(2))  # the node's: what goes wrong in here must not end in a cell
    log.capture_libraries()
    for fd, output in enumerate(outputs, 1):  # what C code and child processes write; the node reads the other ends
        os.dup2(output.fileno(), fd)
        output.close()
    sys.stdin = open(os.devnull)
    faulthandler.enable(2)  # a segmentation fault leaves its Python frames in the cell's stderr
    try:
        notebooks = make_notebooks()
    except Exception as error:  # a database that is away
        log.fault(error)
        os._exit(FAULT)
    log.node = notebooks.node
    Executor(connection, notebooks, preload.shell, log).serve()
    descendants.end_below(os.getpid())  # else the end of some would be waited for


# ---------------------------------------------------------------- a process that a cell has forked
def say(message: wire.Message, whose: str = '') -> None:
    """Text to file descriptor 1 or 2, for which the node has pipes."""
    kind = message['msg_type']
    shown = [*message.get('traceback', ()), message.get('data', {}).get('text/plain', '')]
    text = message['text'] if kind == 'stream' else '\n'.join(shown)
    fd = 2 if kind == 'error' or message.get('name') == 'stderr' else 1
    with contextlib.suppress(OSError), open(fd, 'wb', closefd=False) as output:
        output.write(text.encode(errors='replace'))


def end_child(error: BaseException | None) -> None:
    """It has come to the end of the cell, which only the executor itself may commit."""
    if not isinstance(error, SystemExit):
        os._exit(1 if error else 0)
    os._exit(error.code if isinstance(error.code, int) else 1 if error.code else 0)
