"""One request on its way through a node: who asked, which process runs it, and its lines for any number of readers."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator

from .. import wire
from .claims import Claimed, Known
from .process import KEEPALIVE, Process

LINES = 1 << 24  # bytes of one run that are kept for those who come later
CUT = wire.encode(wire.stream('stderr', f'[of its output {LINES >> 20} MiB are kept for who comes later: more is missing here]\n'))


class Run:
    """`authorization`: the header with which the request came, for other nodes that have to be asked on its behalf."""

    def __init__(self, request: wire.Request, authorization: str = '') -> None:
        self.request, self.authorization = request, authorization
        self.process: Process | None = None
        self.woken = threading.Event()  # it is its turn, or it is interrupted
        self.started = self.interrupted = self.done = False
        self.attached = False  # it runs on another node
        self.killed = ''
        self.readers = 0  # besides the one who drives it
        self.known = Known()
        self.cancel: Callable[[], object] | None = None  # ends the waiting for another node
        self.ended: Claimed | None = None  # what another node had claimed, and has ended before the next look at the claim
        self.timers: list[threading.Timer] = []
        self.patience = 0.0  # when that ends by itself
        self.began = time.monotonic()
        self.lines: list[bytes] = []
        self.size = 0
        self.changed = threading.Condition()

    @property
    def request_id(self) -> str:
        return self.request.request_id

    def add(self, line: bytes, done: bool) -> None:
        if wire.is_keepalive(line):
            return
        with self.changed:
            if done or self.size < LINES:
                self.lines.append(line)
                self.size += len(line)
                if self.size >= LINES and not done:
                    self.lines.append(CUT)
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

    def take(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Of lines that begin with the first one, as another node or the history has them, those that this run does not have yet."""
        had = list(self.lines)
        for position, line in enumerate(line for line in lines if not wire.is_keepalive(line)):
            if line not in had[position:position + 1]:
                self.add(line, wire.is_reply(line))
                yield line
