"""Servers for the tests: databases and a proxy, each in a folder of its own, ended by their ids; and a network that fails."""

import contextlib
import os
import pwd
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

START = 60.0  # seconds
PROGRAMS = f'{os.environ.get("PATH", os.defpath)}:/usr/local/sbin:/usr/sbin'  # Debian's HAProxy is not in everybody's PATH


def free_port() -> int:
    """One for a server that is started later, or again: below those that the system gives to whoever connects in the meantime."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as unused, contextlib.suppress(OSError):
            unused.bind(('127.0.0.1', port))
            return port


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """host:port where connections are refused: it is taken, and nobody listens."""
    with socket.socket() as silent:
        silent.bind(('127.0.0.1', 0))
        yield f'127.0.0.1:{silent.getsockname()[1]}'


def wait(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    end = time.monotonic() + START
    while not ready():
        assert process.poll() is None and time.monotonic() < end, f'the server did not start:\n{log.read_text()}'
        time.sleep(.05)


def answers(port: int) -> bool:
    try:
        socket.create_connection(('127.0.0.1', port), 1).close()
    except OSError:
        return False
    return True


# ---------------------------------------------------------------- ZEO
@contextlib.contextmanager
def zeo(folder: Path, blobs: bool) -> Iterator[str]:
    """The URI of a ZEO server with a FileStorage."""
    folder.mkdir()
    port, log = free_port(), folder / 'log'
    place = f'blob-dir {folder}/blobs' if blobs else ''
    (folder / 'zeo.conf').write_text(f'<zeo>\n address 127.0.0.1:{port}\n</zeo>\n'
                                     f'<filestorage 1>\n path {folder}/data.fs\n {place}\n</filestorage>\n')
    with log.open('wb') as output:
        process = subprocess.Popen([sys.executable, '-m', 'ZEO.runzeo', '-C', str(folder / 'zeo.conf')], stdout=output, stderr=output)
    try:
        wait(process, log, lambda: answers(port))
        yield f'zeo://127.0.0.1:{port}?wait_timeout=20'
    finally:
        process.terminate()
        process.wait(20)


# ---------------------------------------------------------------- PostgreSQL
def postgresql_binaries() -> Path:
    """The folder of `initdb` and `postgres`, of which Debian has only `psql` and its kin in the PATH."""
    found = [*sorted(Path('/usr/lib/postgresql').glob('*/bin/initdb')), *filter(None, [shutil.which('initdb')])]
    assert found, 'the tests need PostgreSQL: apt-get install postgresql'
    return Path(found[-1]).resolve().parent


def somebody() -> int | None:
    """PostgreSQL refuses to run as root: the user as whom it runs then."""
    return pwd.getpwnam('nobody').pw_uid if os.geteuid() == 0 else None


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """The URI of a PostgreSQL server that knows no passwords."""
    folder.mkdir()
    user, port, binaries, log = somebody(), free_port(), postgresql_binaries(), folder / 'log'
    home = Path(tempfile.mkdtemp())  # not below `folder`, which only its owner may enter
    if user is not None:
        os.chown(home, user, -1)
    environment = {'PATH': os.defpath, 'LC_ALL': 'C.UTF-8'}
    subprocess.run([binaries / 'initdb', '-D', home / 'data', '-U', 'tests', '--auth=trust', '--no-sync', '--no-instructions'], user=user,
                   cwd=home, env=environment, check=True, stdout=subprocess.DEVNULL)
    with log.open('wb') as output:
        process = subprocess.Popen([binaries / 'postgres', '-D', home / 'data', '-h', '127.0.0.1', '-p', str(port), '-k', home,
                                    '-c', 'fsync=off'], user=user, cwd=home, env=environment, stdout=output, stderr=output)
    try:
        wait(process, log, lambda: b'ready to accept connections' in log.read_bytes())
        yield f'postgres://tests@127.0.0.1:{port}/postgres?keep_history=false'
    finally:
        process.send_signal(signal.SIGINT)  # SIGTERM would wait for its clients
        process.wait(30)
        shutil.rmtree(home)


# ---------------------------------------------------------------- HAProxy
def readme_block(first: str) -> str:
    """The literal block of the README that begins with a line, without its indentation."""
    text = (Path(__file__).parent.parent / 'README.rst').read_text(encoding='utf-8')
    found = re.search(rf'^( +){re.escape(first)}\n(?:\1.*\n|\n)+', text, re.MULTILINE)
    assert found, f'the README has no block that begins with {first!r}'
    return textwrap.dedent(found[0])


def haproxy_configuration(port: int, nodes: Sequence[str]) -> str:
    """The README's, with other addresses. `nodes`: host:port of each."""
    lines = readme_block('global').splitlines()
    servers = [number for number, line in enumerate(lines) if line.split()[:1] == ['server']]
    assert len(servers) == 2 and sum(line.split()[:1] == ['bind'] for line in lines) == 1
    own = [f'    server node{number} {address} check' for number, address in enumerate(nodes)]
    lines[servers[0]:servers[-1] + 1] = own
    return '\n'.join(f'    bind 127.0.0.1:{port}' if line.split()[:1] == ['bind'] else line for line in lines) + '\n'


@contextlib.contextmanager
def haproxy(folder: Path, nodes: Sequence[str]) -> Iterator[str]:
    """The URL of a HAProxy, configured as in the README, before nodes (their URLs, or host:port)."""
    assert shutil.which('haproxy', path=PROGRAMS), 'the tests need HAProxy: apt-get install haproxy'
    folder.mkdir()
    port, log, addresses = free_port(), folder / 'log', [urlsplit(node).netloc or node for node in nodes]
    (folder / 'haproxy.cfg').write_text(haproxy_configuration(port, addresses))
    with log.open('wb') as output:
        process = subprocess.Popen(['haproxy', '-db', '-f', str(folder / 'haproxy.cfg')], stdout=output, stderr=output,
                                   env={'PATH': PROGRAMS})
    try:
        wait(process, log, lambda: answers(port))
        yield f'http://127.0.0.1:{port}/erp5'
    finally:
        process.kill()  # SIGTERM and SIGUSR1 would wait for streams
        process.wait(10)


# ---------------------------------------------------------------- a network that fails
class Cut:
    """A relay of TCP connections that can be cut.

        one end ──► 127.0.0.1:port ──► relay ──► the other end        open      bytes go both ways
                                                                      reset()   all connections break; new ones are relayed
        restore() makes it open again; what was swallowed             hole()    bytes vanish in silence, also those of new ones
        breaks then, as TCP would have noticed it                     refuse()  all break, new ones are refused
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target, self.port = target, free_port()
        self.state = 'open'
        self.pairs: dict[socket.socket, socket.socket] = {}
        self.swallowed: set[socket.socket] = set()
        self.lock = threading.RLock()
        self.closed = False
        self.listener = self.listen()
        self.thread = threading.Thread(target=self.relay, daemon=True)
        self.thread.start()

    def listen(self) -> socket.socket:
        end = time.monotonic() + START
        while True:
            try:
                listener = socket.create_server(('127.0.0.1', self.port), backlog=128)
            except OSError:  # the thread's select() still holds the one that was closed
                assert time.monotonic() < end
                time.sleep(.02)
            else:
                listener.setblocking(False)
                return listener

    def reset(self) -> None:
        with self.lock:
            for end in list(self.pairs):
                self.drop(end)

    def hole(self) -> None:
        with self.lock:
            self.state = 'hole'

    def refuse(self) -> None:
        with self.lock:
            self.state = 'refuse'
            self.listener.close()
            self.reset()

    def restore(self) -> None:
        with self.lock:
            for end in list(self.swallowed):
                self.drop(end)
            if self.state == 'refuse':
                self.listener = self.listen()
            self.state = 'open'

    def close(self) -> None:
        self.closed = True
        self.thread.join(5)
        with self.lock:
            self.listener.close()
            self.reset()

    # ------------------------------------------------------------ the thread
    def relay(self) -> None:
        while not self.closed:
            with self.lock:
                ends = [*self.pairs] + ([self.listener] if self.state != 'refuse' else [])
            try:
                ready = select.select(ends, [], [], .02)[0]
            except (OSError, ValueError):  # one of them was closed meanwhile
                continue
            with self.lock:
                for end in ready:
                    if end is self.listener:
                        self.accept()
                    elif end in self.pairs:
                        self.forward(end)

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            near = self.listener.accept()[0]
            try:
                far = socket.create_connection(self.target, 2)
            except OSError:
                self.break_off(near)
                return
            for end, other in ((near, far), (far, near)):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                end.settimeout(5)
                self.pairs[end] = other

    def forward(self, end: socket.socket) -> None:
        try:
            data = end.recv(1 << 16)
            if self.state == 'hole':
                self.swallowed |= {end, self.pairs[end]}
                if not data:
                    self.drop(end)
            elif data:
                self.pairs[end].sendall(data)
            else:
                self.drop(end, gently=True)
        except OSError:
            self.drop(end)

    def drop(self, end: socket.socket, gently: bool = False) -> None:
        """Both ends: with a reset, or as one that has read all."""
        other = self.pairs.pop(end, None)
        for one in (end, other):
            if one is not None:
                self.pairs.pop(one, None)
                self.swallowed.discard(one)
                one.close() if gently else self.break_off(one)

    @staticmethod
    def break_off(end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        end.close()


@contextlib.contextmanager
def relay(target: str) -> Iterator[Cut]:
    """A relay to host:port."""
    host, _, port = target.rpartition(':')
    cut = Cut((host, int(port)))
    try:
        yield cut
    finally:
        cut.close()


def address(url: str) -> str:
    """host:port of a URL or URI."""
    return urlsplit(url).netloc.rpartition('@')[2]
