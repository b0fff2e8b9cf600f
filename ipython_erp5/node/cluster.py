"""One node: storage + publisher + pool, and the files by which others on this machine find it.

    DIR/            0700
      lock          held as long as the node runs: one node a data directory
      password      0600, made once, unless --password-file names another file
      node.json     0600, while it answers: url, user, pid, storage
      storage/      the embedded database (RelStorage on SQLite) and its blobs, unless --storage names another
      cache/        copies of the blobs of a database elsewhere
"""

import contextlib
import fcntl
import functools
import json
import os
import re
import secrets
import signal
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import transaction
from OFS.Application import Application
from transaction.interfaces import TransientError

from ..errors import NodeError
from . import cell, packing, portal, publisher
from .pool import PLACEMENTS, Pool
from .process import forkserver
from .storage import embedded_storage, open_database, remove_left_blobs, write_private

PACK = ('auto', 'never')
UNITS = {'B': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'TB': 10**12}


@dataclass(frozen=True)
class Settings:
    data_dir: Path
    host: str = '127.0.0.1'
    port: int = 0
    executors: int = 2
    storage: str = ''
    user: str = 'admin'
    password_file: str | None = None
    placement: str = 'sticky'
    variable_limit: str = ''
    pack: str = 'auto'

    def check(self) -> None:
        if self.executors < 1:
            raise NodeError(f'--executors: expected a number of at least 1, got {self.executors}')
        if self.placement not in PLACEMENTS:
            raise NodeError(f'--placement: expected one of {", ".join(PLACEMENTS)}, got {self.placement!r}')
        if self.pack not in PACK:
            raise NodeError(f'--pack: expected one of {", ".join(PACK)}, got {self.pack!r}')
        if not self.user:
            raise NodeError('--user: expected a name, got an empty text')
        self.bytes_of_a_variable()

    def bytes_of_a_variable(self) -> int:
        """0: as many as there is room for."""
        found = re.fullmatch(r'(\d+(?:\.\d+)?)\s*(B|kB|MB|GB|TB)?', self.variable_limit or '0', re.IGNORECASE)
        if found is None:
            raise NodeError(f'--variable-limit: expected bytes, such as 500MB or 2GB, got {self.variable_limit!r}')
        return int(float(found[1]) * UNITS[(found[2] or 'B').upper()])


# ---------------------------------------------------------------- the site
def make_notebooks(uri: str, node: str, cache: Path | None = None, limit: int = 0) -> cell.Notebooks:
    """In an executor process, after the fork."""
    return cell.Notebooks(lambda manager: open_database(uri, cache).open(manager), node, limit)


def install(database: Any, user: str, password: str | None) -> None:
    """The application, the user and the portal, if they are not there. Several nodes may do this at the same moment."""
    manager = transaction.TransactionManager()
    connection = database.open(manager)
    try:
        for attempt in range(10):
            with contextlib.suppress(TransientError), manager:
                root = connection.root()
                if 'Application' not in root:
                    root['Application'] = Application()
                    manager.savepoint()
                portal.install(root['Application'], user, password)
                return
            time.sleep(.05 * attempt)
        raise NodeError('the site could not be made: other processes keep changing the same database')
    finally:
        connection.close()


# ---------------------------------------------------------------- the data directory
@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data directory's lock; NodeError if another node has it."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    data_dir.chmod(0o700)
    with open(data_dir / 'lock', 'a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NodeError(f'a node already uses the data directory {data_dir}: see `ipython-erp5 status`') from None
        yield


def password_of(settings: Settings) -> str:
    """The password of the node's user: from --password-file, else the generated one of the data directory."""
    path = Path(settings.password_file) if settings.password_file else settings.data_dir / 'password'
    if not settings.password_file and not path.exists():
        write_private(path, secrets.token_urlsafe(24) + '\n')
    try:
        password = path.read_text().strip()
    except OSError as error:
        raise NodeError(f'--password-file: expected a readable file, got {path}: {error.strerror}') from None
    if not password:
        raise NodeError(f'--password-file: expected a password in {path}, it is empty')
    return password


# ---------------------------------------------------------------- pack
def pack(data_dir: Path, uri: str) -> packing.Packed:
    """Remove what no record of the database needs; that of the data directory if no URI is given. NodeError if it cannot be done."""
    if not uri and not (data_dir / 'storage' / 'main.sqlite3').exists():
        raise NodeError(f'there is no database in {data_dir}: name one by --data-dir, or by the --storage that its nodes have')
    database = open_database(uri or embedded_storage(data_dir))
    try:
        if not uri:
            with contextlib.suppress(NodeError), locked(data_dir):  # else a node runs, and its cells may
                packing.sweep(database)
        remove_left_blobs(database)
        packed = packing.pack(database)
        assert packed is not None
        return packed
    finally:
        database.close()


def start_pack(uri: str) -> BaseProcess:
    process = forkserver.Process(target=pack_quietly, args=(uri,), daemon=True)
    process.start()
    return process


def pack_quietly(uri: str) -> None:
    """In a process of its own, which takes what others leave of the processor; its output is the node's."""
    os.setpgid(0, 0)  # Ctrl-C in the node's terminal is for the node, which then ends this
    os.nice(19)
    try:
        database = open_database(uri)
        remove_left_blobs(database)
        print(f'packed: {packing.pack(database, packing.PAUSE) or "another node does"}', flush=True)
    except NodeError as error:
        print(f'not packed: {error}', flush=True)


# ---------------------------------------------------------------- serve
def serve(settings: Settings) -> None:
    """Run a node in the foreground until SIGTERM or SIGINT. NodeError for what the person who starts it can put right."""
    settings.check()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))  # until it serves
    with locked(settings.data_dir):
        password = password_of(settings)
        os.environ['IPYTHONDIR'] = str(settings.data_dir / 'ipython')  # IPython's own files are the node's, not the user's
        uri = settings.storage or embedded_storage(settings.data_dir)
        (settings.data_dir / 'storage').mkdir(mode=0o700, exist_ok=True)
        with contextlib.ExitStack() as stack:
            run(settings, uri, password, stack)


def run(settings: Settings, uri: str, password: str, stack: contextlib.ExitStack) -> None:
    name = f'{socket.gethostname()}-{uuid.uuid4().hex[:8]}'
    portal.configure_security()
    cache = settings.data_dir / 'cache'
    database = open_database(uri, cache)
    stack.callback(database.close)
    install(database, settings.user, password)
    forkserver.set_forkserver_preload(['ipython_erp5.node.preload'])
    pool = Pool(settings.executors, settings.placement, functools.partial(make_notebooks, uri, name, cache, settings.bytes_of_a_variable()))
    stack.callback(pool.close)  # also where the server cannot be made
    if settings.pack == 'auto':
        packer = packing.Packer(database, functools.partial(start_pack, uri))
        stack.callback(packer.close)
        packer.start()
    node = publisher.Node(pool, name, {'storage': uri.split(':')[0], 'pid': os.getpid()})
    server = listen(publisher.application(database, node), settings)
    url = f'http://{bracketed(settings.host)}:{server.effective_port}/erp5'
    about = {'url': url, 'user': settings.user, 'pid': os.getpid(), 'storage': uri.split(':')[0], 'executors': settings.executors}
    if settings.password_file:
        about['password_file'] = str(Path(settings.password_file).resolve())
    write_private(settings.data_dir / 'node.json', json.dumps(about))
    stack.callback((settings.data_dir / 'node.json').unlink, missing_ok=True)
    print(f'{name} serves {url}', flush=True)
    publisher.serve(server, pool.close)


def listen(wsgi: publisher.Application, settings: Settings) -> Any:
    try:
        return publisher.make_server(wsgi, settings.host, settings.port)
    except OSError as error:
        raise NodeError(f'cannot listen at {settings.host}, port {settings.port}: {error.strerror or error}') from None


def bracketed(host: str) -> str:
    """As in a URL."""
    host = '127.0.0.1' if host in ('0.0.0.0', '') else '::1' if host == '::' else host
    return f'[{host}]' if ':' in host else host
