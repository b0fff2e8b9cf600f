"""The bytes of large values between a socket and files: past waitress, which would keep them in temporary files of its own.

    request ─► waitress reads its head ─► Zope: may this user? ─► Body.readinto ◄─ socket    in the thread of the request
    answer  ◄─ head by waitress ◄──────── Zope: may this user? ─► sendfile ─► socket

While a request is being answered waitress neither reads from its socket nor, once all it holds is sent, writes to it: the socket
belongs to the thread. What is not read of a body is read and forgotten after the answer, so that the sender gets to see it.
"""

import os
import select
import time
from typing import Any

from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError, TransferEncodingNotImplemented
from waitress.task import WSGITask

PUT = 'Base_putJupyterBuffers'  # the method whose body is read by itself
BODY, SEND = 'ipython_erp5.body', 'ipython_erp5.send'  # in the WSGI environment
SILENCE = 60.0  # seconds after which a client that neither sends nor reads has gone
FORGOTTEN = 10.0  # seconds for which the rest of a body is read after its request was refused
CONTINUE = b'HTTP/1.1 100 Continue\r\n\r\n'


class Line:
    """The socket of a channel, for the thread that answers its request. A copy: waitress may close its own at any moment."""

    def __init__(self, channel: HTTPChannel) -> None:
        self.socket = channel.socket.dup()

    def wait(self, event: int, seconds: float = SILENCE) -> None:
        poll = select.poll()
        poll.register(self.socket, event)
        if not poll.poll(1000 * seconds):
            raise ClientDisconnected

    def recv_into(self, view: memoryview, seconds: float = SILENCE) -> int:
        """How many bytes have come; ClientDisconnected if no more ever will."""
        while True:
            try:
                count = self.socket.recv_into(view)
            except BlockingIOError:
                self.wait(select.POLLIN, seconds)
            except OSError:
                raise ClientDisconnected from None
            else:
                if not count:
                    raise ClientDisconnected
                return count

    def send_file(self, fd: int, offset: int, size: int) -> None:
        end = offset + size
        while offset < end:
            try:
                sent = os.sendfile(self.socket.fileno(), fd, offset, end - offset)
            except BlockingIOError:
                self.wait(select.POLLOUT)
            except OSError:
                raise ClientDisconnected from None
            else:
                if not sent:  # the file is shorter
                    raise ClientDisconnected
                offset += sent

    def close(self) -> None:
        self.socket.close()


class Body:
    """The body of a request, which is read as it comes."""

    def __init__(self, line: Line, first: bytes, size: int, expected: bool) -> None:
        self.line, self.first, self.left, self.expected = line, memoryview(first), size, expected

    def readinto(self, view: memoryview) -> int:
        """Some bytes, as many as are there; 0 at the end. ClientDisconnected if it breaks off."""
        if self.expected:
            self.expected = False
            self.line.socket.send(CONTINUE)
        view = view[:self.left]
        count = len(view) and (self.begin(view) or self.line.recv_into(view))
        self.left -= count
        return count

    def begin(self, view: memoryview) -> int:
        """Out of what came with the head."""
        part, self.first = self.first[:len(view)], self.first[len(view):]
        view[:len(part)] = part
        return len(part)

    def fill(self, view: memoryview) -> None:
        """As many bytes as the view has; ClientDisconnected if the body has less."""
        while view:
            count = self.readinto(view)
            if not count:
                raise ClientDisconnected
            view = view[count:]

    def forget(self) -> None:
        """Read the rest, unless the client waits for leave to send it."""
        end, view = time.monotonic() + FORGOTTEN, memoryview(bytearray(1 << 18))
        while self.left and not self.expected and time.monotonic() < end:
            self.readinto(view)


# ---------------------------------------------------------------- waitress
class Parser(HTTPRequestParser):
    """A head that cannot be read is the sender's error; waitress answers 501 to an unknown Transfer-Encoding, and to some nothing."""

    path = ''  # of a head that cannot be read; waitress logs it where that client has gone before the answer
    raw = False  # whether waitress leaves the body where it is
    awaits = False  # whether the client waits for leave to send it
    expect_continue = False
    first = b''  # of that body

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except (TransferEncodingNotImplemented, ValueError) as error:
            raise ParsingError(f'the head of the request cannot be read: {error}') from None
        if self.command == 'POST' and self.content_length > 0 and not self.chunked and self.path.rpartition('/')[2] == PUT:
            self.raw, self.body_rcv = True, None

    def received(self, data: bytes) -> int:
        consumed = super().received(data)
        if self.raw and self.completed and not self.error:
            self.first = data[consumed:consumed + self.content_length]
            self.awaits, self.expect_continue = self.expect_continue, False
        return consumed + len(self.first)


class KeepAliveTask(WSGITask):
    """waitress closes the connection after every answer without a Content-Length, although it ends it with a last chunk."""

    close_on_finish = False
    body: Body | None = None
    own_line: Line | None = None

    @property
    def line(self) -> Line:
        self.own_line = self.own_line or Line(self.channel)
        return self.own_line

    def build_response_header(self) -> bytes:
        closing = self.request.headers.get('CONNECTION', '').lower() == 'close'
        if self.version == '1.1' and self.content_length is None and not closing:
            self.set_close_on_finish = lambda: None
        return super().build_response_header()

    def service(self) -> None:
        try:
            super().service()
            if self.body is not None and self.body.left:
                self.body.forget()
                self.close_on_finish = self.close_on_finish or self.body.left > 0
        finally:
            if self.own_line is not None:
                self.own_line.close()

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[SEND] = self.send_file
        if self.request.raw:
            self.body = environ[BODY] = Body(self.line, self.request.first, self.request.content_length, self.request.awaits)
            environ.update(CONTENT_LENGTH='0', CONTENT_TYPE='')  # for Zope there is none
        return environ

    def send_file(self, fd: int, offset: int, size: int) -> None:
        """A part of a file, as a part of the body, whose Content-Length has been set."""
        self.write(b'')  # the head
        channel = self.channel
        while channel.total_outbufs_len and channel.connected:
            with channel.outbuf_lock:
                channel._flush_some(do_close=False)
            if channel.total_outbufs_len:
                self.line.wait(select.POLLOUT)
        self.line.send_file(fd, offset, size)
        self.content_bytes_written += size


class Channel(HTTPChannel):
    parser_class = Parser
    task_class = KeepAliveTask
