"""TLS before waitress, which has none.

    client ══ TLS ══► Terminator ── DIR/tls/http, a unix socket in a folder of mode 0700 ──► waitress
                      a thread with an event loop of its own; bytes pass as they come, in both directions

Who is slow to read is not read from, in either direction. Who closes one direction is gone, as for waitress itself; what waitress
has answered is sent before its closing is passed on. A handshake that fails, or is not over in time, ends its connection only.
"""

import asyncio
import contextlib
import os
import resource
import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from ..errors import NodeError

HANDSHAKE, SHUTDOWN = 10.0, 5.0  # seconds that a client may take for them
BACKLOG = 1024
DESCRIPTORS = 8192  # each connection takes three
LONGEST_PATH = 100  # bytes of a unix socket's path that all systems take


# ---------------------------------------------------------------- the certificate
class Certificate:
    """A certificate and its key, PEM files; the key may be in the certificate's file. NodeError names the option that is wrong."""

    def __init__(self, certfile: Path, keyfile: Path | None) -> None:
        self.certfile = certfile
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(['http/1.1'])
        text = read('--certfile', certfile)
        key = read('--keyfile', keyfile) if keyfile is not None else text
        if '-----BEGIN CERTIFICATE-----' not in text:
            raise NodeError(f'--certfile: expected a certificate in PEM format in {certfile}')
        if 'PRIVATE KEY-----' not in key:
            raise NodeError(f'--keyfile: expected a private key in PEM format in {keyfile or certfile}')
        try:
            self.context.load_cert_chain(certfile, keyfile, password=lambda: '')
        except ssl.SSLError as error:
            raise NodeError(f'--certfile, --keyfile: {keyfile or certfile} is not the key of {certfile}, or needs a passphrase: '
                            f'{error.reason or error}') from None
        self.names = self.names_in_it()

    def names_in_it(self) -> list[str]:
        """The names and addresses for which it is; NodeError if every client would refuse it."""
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # its own word is enough here, whoever signed it
        client.load_verify_locations(self.certfile)
        try:
            peer = shake_hands(client, self.context, 'localhost')
        except ssl.SSLCertVerificationError as error:
            raise NodeError(f'--certfile: no client would take {self.certfile}: {error.verify_message}') from None
        except ssl.SSLError as error:
            raise NodeError(f'--certfile: {self.certfile} cannot be used: {error.reason or error}') from None
        return [name for _, name in cast(Any, peer).get('subjectAltName', ())]

    def host(self, address: str) -> str:
        """How a URL names this node so that the certificate can be verified: by the address, if it is for that."""
        if address in self.names:
            return address
        return next((name for name in self.names if '*' not in name), address)

    def vouches_for_itself(self) -> bool:
        """Whether it is its own authority (self-signed): then a client of this machine is told to verify by it."""
        client = ssl.create_default_context(cafile=str(self.certfile))
        client.check_hostname = False
        try:
            shake_hands(client, self.context, 'localhost')
        except ssl.SSLError:
            return False
        return True


def read(option: str, path: Path) -> str:
    try:
        return path.read_text(encoding='ascii', errors='replace')
    except OSError as error:
        raise NodeError(f'{option}: expected a readable file, got {path}: {error.strerror}') from None


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> Any:
    """In memory; what the client knows of the certificate then."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_hostname=host)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    for end in (asking, answering) * 3:
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    return asking.getpeercert()


# ---------------------------------------------------------------- sockets
def listener(host: str, port: int) -> socket.socket:
    """Where clients connect. OSError."""
    family, _, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(cast(Any, address), family=family, backlog=BACKLOG)


@contextlib.contextmanager
def inner_socket(data_dir: Path) -> Iterator[socket.socket]:
    """Where waitress listens: nobody but this user can enter the folder. In the data directory, unless its path is too long."""
    folder = data_dir / 'tls'
    if len(os.fsencode(folder / 'http')) > LONGEST_PATH:
        folder = Path(tempfile.mkdtemp(prefix='ipython_erp5-'))
    else:
        shutil.rmtree(folder, ignore_errors=True)  # of a node that was killed
        folder.mkdir(mode=0o700)
    inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        inner.bind(str(folder / 'http'))
        (folder / 'http').chmod(0o600)
        yield inner
    finally:
        inner.close()
        shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------- relaying
class End(asyncio.Protocol):
    """One end of a connection: what comes in here goes out at the other."""

    transport: asyncio.Transport | None = None
    other: 'End'

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other.transport is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self.other.transport is not None:
            self.other.transport.close()  # after what is still to be sent


class Front(End):
    """The client's end: once its handshake is over, the other one is made."""

    def __init__(self, path: str, fronts: set['Front']) -> None:
        self.path, self.fronts = path, fronts
        self.other = End()
        self.other.other = self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.fronts.add(self)
        transport.get_extra_info('socket').setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or a small answer waits 40 ms
        cast(asyncio.Transport, transport).pause_reading()
        self.reaching = asyncio.get_running_loop().create_task(self.reach())

    async def reach(self) -> None:
        assert self.transport is not None
        try:
            inner, _ = await asyncio.get_running_loop().create_unix_connection(lambda: self.other, self.path)
        except OSError:  # waitress has its fill of connections, or the node ends
            self.transport.abort()
            return
        if self not in self.fronts:
            inner.close()
        else:
            self.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.fronts.discard(self)
        super().connection_lost(error)


class Terminator:
    """Takes connections at `listener`, and relays what is in them to the unix socket `inner`, until it is closed."""

    def __init__(self, context: ssl.SSLContext, listener: socket.socket, inner: str) -> None:
        self.fronts: set[Front] = set()
        self.loop = asyncio.new_event_loop()
        make: Callable[[], Front] = lambda: Front(inner, self.fronts)  # noqa: E731 - typed
        allow_descriptors()
        self.server = self.loop.run_until_complete(self.loop.create_server(
            make, sock=listener, ssl=context, backlog=BACKLOG, ssl_handshake_timeout=HANDSHAKE, ssl_shutdown_timeout=SHUTDOWN))
        self.thread = threading.Thread(target=self.loop.run_forever, name='tls', daemon=True)
        self.thread.start()

    def close(self) -> None:
        """What has been answered is sent first, for a second at most."""
        asyncio.run_coroutine_threadsafe(self.end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()

    async def end(self) -> None:
        self.server.close()
        for front in list(self.fronts):
            if front.transport is not None:
                front.transport.close()
        for _ in range(100):
            if not self.fronts:
                break
            await asyncio.sleep(.01)
        for front in list(self.fronts):
            if front.transport is not None:
                front.transport.abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def allow_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
