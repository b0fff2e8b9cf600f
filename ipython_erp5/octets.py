"""Bodies of requests and answers that are memory: sent and read where they are, a block at a time.

    views ─► Octets ─► the connection, which asks for block after block          a body of a known length that may be sent again
    views ◄─ fill() ◄─ the connection
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

OCTETS = 'application/octet-stream'
BLOCK = 1 << 20  # bytes after which somebody is told
OnBlock = Callable[[int], None]  # called with the count of bytes that have gone, or come


class Octets:
    """The bytes of views of bytes, one after another."""

    def __init__(self, views: Sequence[memoryview], on_block: OnBlock) -> None:
        self.views, self.on_block = views, on_block

    def __len__(self) -> int:
        return sum(map(len, self.views))

    def __iter__(self) -> Iterator[memoryview]:
        for block in blocks(self.views):
            yield block
            self.on_block(len(block))


def blocks(views: Sequence[memoryview]) -> Iterator[memoryview]:
    for view in views:
        yield from (view[start:start + BLOCK] for start in range(0, len(view), BLOCK))


def fill(views: Sequence[memoryview], source: Any, on_block: OnBlock) -> None:
    """With what an `http.client.HTTPResponse` has. EOFError if that is too little."""
    for block in blocks(views):
        if source.readinto(block) != len(block):
            raise EOFError('the answer ended too early')
        on_block(len(block))
