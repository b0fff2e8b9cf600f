"""Large buffers between a session and its site: in requests of their own, as raw bytes, as often as the connection breaks.

    Shipping.send(views)        ─► batches of spans ─► Client.put   ══► site      straight from the memory of the values
    Shipping.receive(sizes, …)  ◄─ batches of spans ◄─ Client.fetch ◄══ site      straight into the memory of the values

The first request goes alone, in the thread of the caller: what is wrong with all shows there. The others go LANES at a time, as a
node stores more slowly than a network brings. Each is repeated while the connection breaks, as nothing is run by it: for RESEND
seconds from when it first broke. Whatever ends one ends all.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import groupby
from typing import Any

from .client import Client
from .delivery import PAUSE, RESEND
from .errors import NodeTimeoutError, NodeUnavailableError, SiteUnreachableError
from .octets import Octets, OnBlock
from .transfer import OnBytes, memory_for, writable

PUT, GET = 'Base_putJupyterBuffers', 'Base_getJupyterBuffers'
BATCH = 64 << 20  # bytes of a request, at most: a multiple of every length of the site's pieces
MOST = 1000  # buffers of a request
LANES = 2
Span = tuple[int, int, int, int]  # number of the buffer, its size, from, to
Task = Callable[[OnBlock], None]


class Stopped(Exception):
    """Another request of the same shipping has failed, or nobody waits for it any more."""


class Shipping:
    """The buffers of one cell. `on_bytes(done, total)` is called as they travel, from any thread, one call at a time."""

    def __init__(self, client: Client, reference: str, request_id: str, on_bytes: OnBytes | None = None) -> None:
        self.client, self.fields = client, {'reference': reference, 'request_id': request_id}
        self.on_bytes = on_bytes or (lambda done, total: None)
        self.total = 0
        self.done: dict[int, int] = {}  # of each request
        self.lock, self.stopped = threading.Lock(), threading.Event()

    def send(self, views: Sequence[memoryview]) -> None:
        """UnsupportedError if the site takes none, NodeError if it has no room, SiteUnreachableError if it stays away."""
        flat = [view.cast('B') for view in views]
        self.total = sum(map(len, flat))
        self.run([self.sending(number, batch, flat) for number, batch in enumerate(batches(list(map(len, flat))))])

    def sending(self, number: int, batch: list[Span], flat: list[memoryview]) -> Task:
        head = json.dumps(batch).encode()
        query = {**self.fields, 'number': str(number), 'head': str(len(head))}
        parts = [memoryview(head), *(flat[span[0]][span[2]:span[3]] for span in batch)]
        return lambda on_block: self.client.put(PUT, query, Octets(parts, on_block))

    def receive(self, sizes: Sequence[int], kinds: Sequence[str], first: int = 0) -> list[Any]:
        """New memory with the bytes of the cell's buffers from number `first` on."""
        buffers = list(map(memory_for, kinds, sizes))
        self.total = sum(sizes)
        self.run([self.receiving(first, batch, buffers) for batch in batches(sizes)])
        return buffers

    def receiving(self, first: int, batch: list[Span], buffers: list[Any]) -> Task:
        parts = [writable(buffers[span[0]])[span[2]:span[3]] for span in batch]
        form = {**self.fields, 'spans': json.dumps([(first + number, *rest) for number, *rest in batch])}
        return lambda on_block: self.client.fetch(GET, form, parts, on_block)

    # ------------------------------------------------------------ requests
    def run(self, tasks: Sequence[Task]) -> None:
        if tasks:
            self.insist(0, tasks[0])
        if len(tasks) > 1:
            self.run_together(tasks[1:])
        self.on_bytes(self.total, self.total)

    def run_together(self, tasks: Sequence[Task]) -> None:
        threads = ThreadPoolExecutor(LANES, 'erp5-shipping')
        try:
            for ended in as_completed([threads.submit(self.insist, number, task) for number, task in enumerate(tasks, 1)]):
                ended.result()
        except BaseException:
            self.stopped.set()
            raise
        finally:
            threads.shutdown(wait=not self.stopped.is_set(), cancel_futures=True)   # a site may say nothing for long

    def insist(self, number: int, task: Task) -> None:
        """Run the task until it is done."""
        end = 0.0
        while True:
            try:
                return task(self.counter(number))
            except (SiteUnreachableError, NodeUnavailableError, NodeTimeoutError):
                end = end or time.monotonic() + RESEND
                if time.monotonic() > end or self.stopped.wait(PAUSE):
                    raise

    def counter(self, number: int) -> OnBlock:
        """What is called with the size of each block that this request has moved: from the beginning."""
        self.done[number] = 0

        def moved(count: int) -> None:
            if self.stopped.is_set():
                raise Stopped
            with self.lock:
                self.done[number] += count
                self.on_bytes(min(sum(self.done.values()), self.total), self.total)

        return moved


def batches(sizes: Sequence[int]) -> Iterable[list[Span]]:
    """Spans that go together: the parts of one long buffer alone, short buffers as many as fit."""
    spans: list[Span] = [(number, size, start, min(start + BATCH, size)) for number, size in enumerate(sizes)
                         for start in range(0, size, BATCH)]
    groups, weight, count, group = [], 0, 0, 0
    for span in spans:
        weight, count = weight + span[3] - span[2], count + 1
        if weight > BATCH or count > MOST:
            weight, count, group = span[3] - span[2], 1, group + 1
        groups.append(group)
    numbered = zip(groups, spans)
    return [[span for _, span in same] for _, same in groupby(numbered, lambda pair: pair[0])]
