"""One node: storage + publisher + pool, and the files by which others on this machine find it.

    DIR/            0700
      lock          held as long as the node runs: one node a data directory
      password      0600, made once, unless --password-file names another file
      node.json     0600, while it answers: url, user, pid, storage
      storage/      the embedded database (RelStorage on SQLite), unless --storage names another
"""

import contextlib
import fcntl
import functools
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import transaction
import ZODB
from OFS.Application import Application
from transaction.interfaces import TransientError
from zodburi import resolve_uri

from ..errors import NodeError
from . import cell, portal, publisher
from .pool import PLACEMENTS, Pool
from .process import forkserver


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

    def check(self) -> None:
        if self.executors < 1:
            raise NodeError(f'--executors: expected a number of at least 1, got {self.executors}')
        if self.placement not in PLACEMENTS:
            raise NodeError(f'--placement: expected one of {", ".join(PLACEMENTS)}, got {self.placement!r}')
        if not self.user:
            raise NodeError('--user: expected a name, got an empty text')


# ---------------------------------------------------------------- storage
def embedded_storage(data_dir: Path) -> str:
    """The URI of the database in the data directory."""
    return f'sqlite:///?data_dir={quote(str(data_dir / "storage"))}&keep_history=false'


def open_database(uri: str) -> Any:
    """Open the storage: once a process, after any fork. The first opening of a schema races between processes: hold a lock."""
    try:
        factory, keywords = resolve_uri(uri)
    except (KeyError, ValueError) as error:
        raise NodeError(f'--storage: expected a ZODB URI such as sqlite:///, postgres://, zeo://, got {uri.split(":")[0]!r}: '
                        f'{error}') from None
    if uri.startswith('sqlite:'):
        clear_after_failed_commits()
    storage = factory()
    if hasattr(storage, 'server_sync'):  # ZEO: `begin` must wait for what others have committed; zodburi has no such parameter,
        storage.server_sync = True       # and the attribute alone counts at the next connecting only
        storage.sync = lambda: storage.ping()
    return ZODB.DB(storage, **{'cache_size': 20000, 'cache_size_bytes': 256 << 20, **keywords})


def clear_after_failed_commits() -> None:
    """RelStorage 4.3 on SQLite keeps the rows of a failed commit and commits them with the next: always roll back."""
    from relstorage.adapters.sqlite.drivers import Sqlite3Driver
    Sqlite3Driver.connection_may_need_rollback = lambda self, connection: True


def make_notebooks(uri: str, node: str) -> cell.Notebooks:
    """In an executor process, after the fork."""
    return cell.Notebooks(lambda manager: open_database(uri).open(manager), node)


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
def write_private(path: Path, text: str) -> None:
    """Write a file with mode 0600, whole or not at all."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')  # mkstemp makes it 0600
    with os.fdopen(fd, 'w') as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
    os.replace(temporary, path)


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
    database = open_database(uri)
    stack.callback(database.close)
    install(database, settings.user, password)
    forkserver.set_forkserver_preload(['ipython_erp5.node.preload'])
    pool = Pool(settings.executors, settings.placement, functools.partial(make_notebooks, uri, name))
    stack.callback(pool.close)  # also where the server cannot be made
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
