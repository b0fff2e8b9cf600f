"""Requests as bytes on a socket, many at a time: what no HTTP library would send.

    Sample ─► connections ─┬─ framed: several on one connection, one answer for each, in their order
              (96 at once) └─ others: one on one connection, and whatever comes before it is cut

A sample is *framed* if its sender and any server agree where it ends. Of all others an answer need not come: they are cut after
a moment of silence, as by a client that has gone.
"""

import asyncio
import base64
import contextlib
import re
import urllib.parse
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from conftest import Node

HANG = 20.0     # seconds for an answer of a busy node to a framed request
SILENCE = .25   # seconds after which a request that is no whole one is cut
AT_ONCE = 96    # connections
PIPELINE = 20   # framed samples of a connection


@dataclass(frozen=True)
class Sample:
    data: bytes
    framed: bool = True


# ---------------------------------------------------------------- requests
def token(text: str) -> str:
    return 'Basic ' + base64.b64encode(text.encode()).decode()


def request(path: str | bytes, body: bytes = b'', *headers: str | bytes, method: str = 'POST',
            kind: str = 'application/x-www-form-urlencoded') -> bytes:
    """A well framed one."""
    target = path if isinstance(path, bytes) else path.encode('utf-8', 'surrogatepass')
    lines = [method.encode() + b' /erp5/' + target + b' HTTP/1.1', b'Host: node', b'Content-Type: ' + kind.encode(),
             *(line if isinstance(line, bytes) else line.encode('latin-1') for line in headers), b'Content-Length: %d' % len(body)]
    return b'\r\n'.join(lines) + b'\r\n\r\n' + body


def form(**fields: str | bytes) -> bytes:
    return urllib.parse.urlencode(fields, errors='surrogatepass').encode()


def multipart(*parts: bytes, boundary: bytes = b'XX') -> bytes:
    return b''.join(b'--' + boundary + b'\r\n' + part + b'\r\n' for part in parts) + b'--' + boundary + b'--\r\n'


# ---------------------------------------------------------------- sending
Statuses = list[int]


class Answers:
    """Reads answers one after another."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.reader = reader

    async def next(self, sample: bytes) -> int:
        """The status of the next answer, 0 if the connection has ended."""
        while True:
            try:
                head = await self.reader.readuntil(b'\r\n\r\n')
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0
            found = re.match(rb'HTTP/1\.[01] (\d{3}) ', head)
            assert found, f'no HTTP: {head[:100]!r} came for {sample[:300]!r}'
            if found[1] != b'100':
                await self.body(head.lower(), int(found[1]), sample)
                return int(found[1])

    async def body(self, head: bytes, status: int, sample: bytes) -> None:
        length = re.search(rb'\r\ncontent-length: (\d+)', head)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            if sample.startswith(b'HEAD ') or status in (204, 304):
                return
            if b'\r\ntransfer-encoding: chunked' in head:
                while size := int(await self.reader.readuntil(b'\r\n'), 16):
                    await self.reader.readexactly(size + 2)
                await self.reader.readexactly(2)
            elif length:
                await self.reader.readexactly(int(length[1]))
            else:
                await self.reader.read()


@contextlib.asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[Answers, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection('127.0.0.1', port, limit=1 << 24)
    try:
        yield Answers(reader), writer
    finally:
        writer.transport.abort()


async def framed(port: int, samples: list[Sample]) -> Statuses:
    """One answer for each, in their order, on as few connections as the node wants to have them."""
    found: Statuses = []
    while len(found) < len(samples):
        before = len(found)
        async with connection(port) as (answers, writer):
            writer.write(b''.join(sample.data for sample in samples[before:]))
            for sample in samples[before:]:
                try:
                    status = await asyncio.wait_for(answers.next(sample.data), HANG)
                except TimeoutError:
                    raise AssertionError(f'no answer in {HANG} s to {sample.data[:500]!r}') from None
                if not status:
                    break
                assert status < 500, f'{status} for {sample.data[:2000]!r}'
                found.append(status)
        assert len(found) > before, f'the connection was closed without an answer to {samples[before].data[:500]!r}'
    return found


async def broken(port: int, sample: Sample) -> Statuses:
    """What comes, if anything: the node may wait for the rest."""
    async with connection(port) as (answers, writer):
        writer.write(sample.data)
        try:
            status = await asyncio.wait_for(answers.next(sample.data), SILENCE)
        except TimeoutError:
            status = 0
    assert status < 500, f'{status} for {sample.data[:2000]!r}'
    return [status]


async def send_all(port: int, samples: list[Sample]) -> Statuses:
    room = asyncio.Semaphore(AT_ONCE)
    whole = [sample for sample in samples if sample.framed]

    async def one(work: Callable[..., 'asyncio.Future[Statuses]'], *arguments: object) -> Statuses:
        async with room:
            return await work(*arguments)

    jobs = [one(framed, port, whole[start:start + PIPELINE]) for start in range(0, len(whole), PIPELINE)]  # type: ignore[arg-type]
    jobs += [one(broken, port, sample) for sample in samples if not sample.framed]  # type: ignore[arg-type]
    return [status for statuses in await asyncio.gather(*jobs) for status in statuses]


def send(node: Node, samples: list[Sample]) -> Statuses:
    return asyncio.run(send_all(urllib.parse.urlsplit(node.url).port or 0, samples))
