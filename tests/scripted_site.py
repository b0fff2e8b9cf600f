"""A site whose every byte a test writes: a real socket, no HTTP library.

`answers` maps the last part of a path to the answers of its requests, one after another (the last one is repeated); each is a
list of pieces: bytes are sent, a number is slept, an Event is waited for, HANG_UP resets the connection.
"""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from ipython_erp5 import wire

HANG_UP = object()
Piece = bytes | float | threading.Event | object


@dataclass
class Received:
    """One request, as it came."""

    method: str
    headers: dict[str, str]
    form: dict[str, str]


@dataclass
class Site:
    answers: Mapping[str, list[list[Piece]]]
    url: str
    received: list[Received] = field(default_factory=list)
    connections: int = 0

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.received)

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, connection.makefile('rb') as stream:
            try:
                while (request := read_request(stream)) is not None and self.answer(connection, request):
                    pass
            except OSError:
                pass

    def answer(self, connection: socket.socket, request: Received) -> bool:
        script = self.answers.get(request.method, [[NOT_FOUND]])
        pieces = script[min(self.count(request.method), len(script) - 1)]
        self.received.append(request)
        for piece in pieces:
            if piece is HANG_UP:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
                return False
            play(connection, piece)
        return not b''.join(piece for piece in pieces if isinstance(piece, bytes)).startswith(b'HTTP/1.0')


def play(connection: socket.socket, piece: Piece) -> None:
    if isinstance(piece, bytes):
        connection.sendall(piece)
    elif isinstance(piece, threading.Event):
        assert piece.wait(20)
    elif isinstance(piece, float):
        time.sleep(piece)


def read_request(stream: Any) -> Received | None:
    if not stream.peek(1)[:1].isalpha():    # closed, or TLS, which this site does not speak
        return None
    first = stream.readline().split()
    headers = {}
    while (line := stream.readline().strip()):
        name, _, value = line.decode('latin-1').partition(':')
        headers[name.lower()] = value.strip()
    body = stream.read(int(headers.get('content-length', 0)))
    return Received(first[1].decode().rpartition('/')[2], headers, dict(parse_qsl(body.decode(), keep_blank_values=True)))


def site(**answers: list[list[Piece]]) -> AbstractContextManager[Site]:
    return site_on(0, answers)


@contextmanager
def site_on(port: int, answers: Mapping[str, list[list[Piece]]]) -> Iterator[Site]:
    with socket.create_server(('127.0.0.1', port)) as listener:
        served = Site(answers, f'http://127.0.0.1:{listener.getsockname()[1]}/erp5')
        thread = threading.Thread(target=served.serve, args=(listener,), daemon=True)
        thread.start()
        yield served
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


# ---------------------------------------------------------------- answers
def http(body: bytes | str | Any, status: str = '200 OK', kind: str = 'text/plain; charset=utf-8', more: str = '') -> bytes:
    """A whole answer with a Content-Length; what is neither bytes nor text is sent as JSON."""
    if not isinstance(body, bytes | str):
        body = json.dumps(body)
    data = body.encode() if isinstance(body, str) else body
    return f'HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n{more}\r\n'.encode() + data


STREAM = f'HTTP/1.1 200 OK\r\nContent-Type: {wire.NDJSON}\r\nTransfer-Encoding: chunked\r\n\r\n'.encode()
END = b'0\r\n\r\n'
NOTHING = b'HTTP/1.1 204 No Content\r\n\r\n'
NOT_FOUND = http('<html><title>Not Found</title></html>', '404 Not Found', 'text/html')


def chunk(data: bytes) -> bytes:
    return b'%x\r\n%b\r\n' % (len(data), data)


def told(*messages: wire.Message) -> bytes:
    """Messages, each in a chunk of its own."""
    return b''.join(chunk(wire.encode(message)) for message in messages)


def ok(**more: Any) -> wire.Message:
    return wire.execute_reply('ok', True, 'id', **more)


def streamed(*messages: wire.Message) -> list[Piece]:
    """A whole event stream; the reply is added."""
    return [STREAM + told(*messages, ok()) + END]


def stock(**keys: Any) -> dict[str, Any]:
    return {**wire.stock_answer([]), **keys}


def each(answers: Iterable[bytes]) -> list[list[Piece]]:
    return [[answer] for answer in answers]
