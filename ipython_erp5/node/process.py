"""One executor process, seen from the node: its request goes in, its messages come out, and its death is noticed.

    request ─► Connection ─► process          messages() reads the Connection, the pipes of file descriptors 1 and 2, and the
    messages() ◄─ Connection ◄──┤             sentinel: a child of the cell may keep the pipes open after the process has gone
               ◄─ fd 1, fd 2 ◄──┘

However a process ends, what it has started ends with it: see `descendants`.
"""

import codecs
import contextlib
import json
import logging
import multiprocessing
import multiprocessing.forkserver
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from .. import wire
from . import descendants, executor, memory
from .claims import Known
from .limits import TimeLimit

if TYPE_CHECKING:
    from .cell import Notebooks

KEEPALIVE = 5.0  # seconds
LOG = logging.getLogger(__name__)
UNKNOWN = 255  # the exit code that multiprocessing gives if the fork server has gone, too
forkserver = multiprocessing.get_context('forkserver')
changes = threading.RLock()  # a process is being started, or its exit code read; multiprocessing's own reading is for one thread


def start(process: BaseProcess) -> BaseProcess:
    """All that the fork server shall start is started by this: what else is below it is left of some executor, and ended."""
    with changes:
        process.start()
    return process


def end_orphans() -> None:
    """End what executors that have gone have left."""
    with changes:
        known = {process.pid or 0 for process in multiprocessing.active_children()}
        descendants.end_below(fork_server(), known)


def fork_server() -> int:
    """Its pid; it is a child of this process, also after its end until another is started."""
    state: Any = multiprocessing.forkserver._forkserver
    return int(state._forkserver_pid)


class Process:
    """One executor process, seen from the node."""

    def __init__(self, make_notebooks: 'Callable[[], Notebooks]') -> None:
        self.reference: str | None = None
        self.dead = False
        self.used = 0.0  # when it ended its last cell: time.monotonic()
        self.cells = 0  # that it has run
        self.purpose = ''  # what the pool has given it out for
        self.connection, theirs = forkserver.Pipe()
        pipes = {name: forkserver.Pipe(duplex=False) for name in ('stdout', 'stderr')}
        self.outputs = {name: reader for name, (reader, writer) in pipes.items()}
        writers = tuple(writer for reader, writer in pipes.values())
        self.process = start(forkserver.Process(target=executor.main, args=(theirs, writers, make_notebooks)))  # not daemon: cells
        self.server, self.kills = fork_server(), memory.kills()                                         # may have children
        for end in (theirs, *writers):
            end.close()  # or its death would not be an end of file here
        self.decoders = {name: codecs.getincrementaldecoder('utf-8')('replace') for name in self.outputs}
        self.life = select.poll()
        self.life.register(self.process.sentinel, select.POLLIN)
        self.poll = select.poll()  # multiprocessing.connection.wait makes one for every message: 30 µs
        for fd in (self.connection.fileno(), self.process.sentinel, *(output.fileno() for output in self.outputs.values())):
            self.poll.register(fd, select.POLLIN)
        for output in self.outputs.values():
            os.set_blocking(output.fileno(), False)

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    def ready(self) -> 'Process':
        """Wait for the first message; EOFError if the process died before it."""
        while not self.receive():
            for tag, line in self.written():
                LOG.error('a process that starts said: %s', wire.decode(line)['text'])
        return self

    def receive(self, seconds: float = KEEPALIVE) -> bytes | None:
        """The next message, or None if there is output; EOFError when the process has died, also when a child of it lives on."""
        found = {fd for fd, flags in self.poll.poll(seconds * 1000)}
        if not found:
            return executor.EVENT + wire.encode(wire.keepalive())
        if self.connection.fileno() in found:
            return self.connection.recv_bytes()
        if self.process.sentinel in found:
            raise EOFError
        time.sleep(.002)  # output: let a burst become one message
        return None

    def written(self) -> Iterator[tuple[bytes, bytes]]:
        """Messages of what came from file descriptors 1 and 2."""
        for name, output in list(self.outputs.items()):
            with contextlib.suppress(BlockingIOError):
                while data := os.read(output.fileno(), 1 << 16):
                    yield executor.EVENT, wire.encode(wire.stream(name, self.decoders[name].decode(data)))
                self.poll.unregister(output)  # closed by the user's code
                self.outputs.pop(name).close()

    def send(self, request: wire.Request, known: Known, limit: TimeLimit | None = None) -> None:
        self.kills = memory.kills()
        message = {'request': asdict(request), 'known': known.as_message(), 'limit': limit.as_record() if limit else None}
        with contextlib.suppress(OSError):  # it has died since: reading will tell
            self.connection.send_bytes(json.dumps(message).encode())

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """(tag, line) of the running cell up to its reply; the death of the process ends them without one."""
        tag = executor.EVENT
        while tag not in (executor.REPLY, executor.HELD):
            try:
                message = self.receive()
            except (EOFError, OSError):
                self.end()
                yield from self.written()
                return
            yield from self.written()
            if message:
                tag = message[:1]
                yield tag, message[1:]

    # ------------------------------------------------------------ questions
    def ask(self, question: dict[str, Any]) -> None:
        self.connection.send_bytes(json.dumps({'question': question}).encode())

    def answer(self, seconds: float) -> tuple[bytes, bytes]:
        """(tag, line) of its next message; no tag if it dies, or says nothing for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                message = self.receive(left)
            except (EOFError, OSError):
                break
            if message and message[:1] != executor.EVENT:
                return message[:1], message[1:]
            for _ in self.written():  # before it was silenced
                pass
        return b'', b''

    # ------------------------------------------------------------ signals
    def interrupt(self) -> None:
        """SIGINT, as a terminal would send it: also to the children that have not left its process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """End it and all that it has started, now."""
        if self.pid in (0, os.getpid()) or not self.leads():
            return
        descendants.end(self.pid)

    def leads(self) -> bool:
        """Whether there is a process of this pid that leads a session, as an executor does: after its end another may get the pid."""
        try:
            return os.getsid(self.pid) == self.pid
        except OSError:
            return False

    # ------------------------------------------------------------ its end
    @property
    def gone(self) -> bool:
        """Whether it has ended, without a wait."""
        return bool(self.life.poll(0))

    def end(self) -> None:
        """It has died, or has no connection any more: what is left of it ends."""
        self.dead = True
        self.join(1)

    def join(self, seconds: float) -> None:
        """Wait for its end; it is ended if that takes longer. Nothing that it has started is there after this."""
        if not self.ended(seconds) or self.process.exitcode == UNKNOWN:
            self.kill()
            self.ended(2)
        end_orphans()

    def ended(self, seconds: float = 0) -> bool:
        """Whether it has ended, at the latest after this time."""
        wait([self.process.sentinel], seconds)
        with changes:
            return self.process.exitcode is not None

    def cause_of_death(self) -> str:
        with changes:
            code = self.process.exitcode
        if not descendants.lives(self.server):
            return 'the fork server has gone'
        if code is None:
            return 'killed'
        if code == -signal.SIGKILL and memory.kills() > self.kills:
            return "memory: the machine's is used up (SIGKILL)"
        return f'signal {-code} ({signal.Signals(-code).name})' if code < 0 else f'exit {code}'

    def close(self) -> None:
        """End of file: it leaves when its cell is done, and is ended if it does not."""
        self.connection.close()
        self.join(2)
        for output in self.outputs.values():
            output.close()
        with changes:
            self.process.close()
