"""Database servers for the tests, started here, each in a folder of its own, and ended by their ids."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

START = 30.0  # seconds


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        return int(unused.getsockname()[1])


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
