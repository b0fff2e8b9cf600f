"""One executor process, seen from the node: its request goes in, its messages come out, and its death is noticed.

    request ─► Connection ─► process          messages() reads the Connection, the pipes of file descriptors 1 and 2, and the
    messages() ◄─ Connection ◄──┤             sentinel: a child of the cell may keep the pipes open after the process has gone
               ◄─ fd 1, fd 2 ◄──┘
"""

import codecs
import contextlib
import json
import multiprocessing
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from .. import wire
from . import executor

if TYPE_CHECKING:
    from .cell import Notebooks

KEEPALIVE = 5.0  # seconds
forkserver = multiprocessing.get_context('forkserver')


class Process:
    """One executor process, seen from the node."""

    def __init__(self, make_notebooks: 'Callable[[], Notebooks]') -> None:
        self.reference: str | None = None
        self.dead = False
        self.connection, theirs = forkserver.Pipe()
        pipes = {name: forkserver.Pipe(duplex=False) for name in ('stdout', 'stderr')}
        self.outputs = {name: reader for name, (reader, writer) in pipes.items()}
        writers = tuple(writer for reader, writer in pipes.values())
        self.process = forkserver.Process(target=executor.main, args=(theirs, writers, make_notebooks))  # not daemon: cells may
        self.process.start()                                                                             # have children
        for end in (theirs, *writers):
            end.close()  # or its death would not be an end of file here
        self.decoders = {name: codecs.getincrementaldecoder('utf-8')('replace') for name in self.outputs}
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
                os.write(2, line)
        return self

    def receive(self) -> bytes | None:
        """The next message, or None if there is output; EOFError when the process has died, also when a child of it lives on."""
        found = {fd for fd, flags in self.poll.poll(KEEPALIVE * 1000)}
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

    def send(self, request: wire.Request, lost: dict[str, str]) -> None:
        with contextlib.suppress(OSError):  # it has died since: reading will tell
            self.connection.send_bytes(json.dumps({'request': asdict(request), 'lost': lost}).encode())

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """(tag, line) of the running cell up to its reply; the death of the process ends them without one."""
        tag = executor.EVENT
        while tag != executor.REPLY:
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

    def end(self) -> None:
        """It has died, or has no connection any more: what is left of it ends."""
        self.dead = True
        self.join(1)

    def join(self, seconds: float) -> None:
        """Wait for its end; it is ended if that takes longer."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(2)

    def cause_of_death(self) -> str:
        code = self.process.exitcode
        if code is None:
            return 'killed'
        return f'signal {-code} ({signal.Signals(-code).name})' if code < 0 else f'exit {code}'

    def close(self) -> None:
        """End of file: it leaves when its cell is done, and is ended if it does not."""
        self.connection.close()
        self.join(2)
        for output in self.outputs.values():
            output.close()
        self.process.close()
