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
import hashlib
import json
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import transaction
import ZODB
from OFS.Application import Application
from transaction.interfaces import TransientError
from ZODB.POSException import POSKeyError
from zodburi import resolve_uri

from ..errors import NodeError
from . import cell, packing, portal, publisher
from .cures import cure_packs
from .pool import PLACEMENTS, Pool
from .process import forkserver

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


# ---------------------------------------------------------------- storage
def embedded_storage(data_dir: Path) -> str:
    """The URI of the database in the data directory."""
    return f'sqlite:///?data_dir={quote(str(data_dir / "storage"))}&keep_history=false'


def open_database(uri: str, cache: Path | None = None) -> Any:
    """Open the storage: once a process, after any fork. The first opening of a schema races between processes: hold a lock.

    `cache`: a folder of this node for copies of the large files of a database that is elsewhere; without one it is asked for none.
    """
    try:
        uri = with_blobs(uri, cache)
        factory, keywords = resolve_uri(uri)
    except (KeyError, ValueError) as error:
        raise NodeError(f'--storage: expected a ZODB URI such as sqlite:///, postgres://, zeo://, got {uri.split(":")[0]!r}: '
                        f'{error}') from None
    except OSError as error:
        raise NodeError(f'--storage: its folder cannot be used: {error}') from None
    if uri.startswith('sqlite:'):
        clear_after_failed_commits()
    storage = open_storage(factory, uri.partition(':')[0])
    if hasattr(storage, 'keep_history'):  # RelStorage
        cure_packs()
    if hasattr(storage, 'server_sync'):  # ZEO: `begin` must wait for what others have committed; zodburi has no such parameter,
        storage.server_sync = True       # and the attribute alone counts at the next connecting only
        storage.sync = lambda: storage.ping()
    return ZODB.DB(storage, **{'cache_size': 20000, 'cache_size_bytes': 256 << 20, **keywords})


def open_storage(factory: Callable[[], Any], scheme: str) -> Any:
    """NodeError for what the driver or the server says. The schema that another node makes at the same moment is there a little later."""
    for attempt in range(5):
        try:
            return factory()
        except Exception as error:
            if attempt == 4 or 'already exists' not in str(error):
                raise NodeError(f'--storage: the {scheme} database cannot be opened: {type(error).__name__}: {error}'.strip()) from error
            time.sleep(.2)


BLOB_CACHE = 16 << 30  # bytes, about: what is used least goes first


def with_blobs(uri: str, cache: Path | None) -> str:
    """The URI with a place for blobs, where the storage can have them and the URI names none."""
    address, _, query = uri.partition('?')
    given = dict(parse_qsl(query))
    if 'blob_dir' in given or 'blobstorage_dir' in given:
        return uri
    added = {name: value for name, value in place_for_blobs(uri, address, given, cache).items() if name not in given}
    return f'{uri}{"&" if query else "?"}{urlencode(added)}' if added else uri


def place_for_blobs(uri: str, address: str, given: Mapping[str, str], cache: Path | None) -> dict[str, object]:
    """Beside the database where it is files itself: all processes share them. Of a server's blobs, each node has its own copies."""
    scheme, _, path = address.partition(':')
    if scheme == 'sqlite' and 'data_dir' in given:
        return {'blob_dir': shared_folder(Path(given['data_dir'], 'blobs').absolute()), 'shared_blob_dir': '1'}
    if scheme == 'file':
        return {'blobstorage_dir': shared_folder(Path(path.removeprefix('//') + '.blobs').absolute())}
    if scheme in ('postgres', 'mysql', 'oracle', 'zeo') and cache is not None:
        folder = cache.absolute() / hashlib.sha256(uri.encode()).hexdigest()[:16]  # copies of one database are wrong for another
        return {'blob_dir': folder, 'shared_blob_dir': '0', 'blob_cache_size': BLOB_CACHE}
    return {}


def shared_folder(path: Path) -> Path:
    """A folder of blobs that several processes may make at the same moment: ZODB takes one without the marker for an old layout."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (path / '.layout').exists():
        write_private(path / '.layout', 'bushy')
    (path / 'tmp').mkdir(mode=0o700, exist_ok=True)
    return path


def remove_left_blobs(database: Any, older: float = 24 * 3600) -> int:
    """Remove files that killed processes have left in a folder of blobs which is the database's own; how many bytes that frees.

    No pack looks at them. `older`, in seconds: a younger file may belong to a transaction that has not committed yet.
    """
    freed = 0
    for path in left_blobs(database.storage):
        with contextlib.suppress(FileNotFoundError):
            about = path.stat()
            if about.st_mtime < time.time() - older:
                path.unlink()
                freed += about.st_size
    return freed


def left_blobs(storage: Any) -> Iterator[Path]:
    """Files of no committed blob: of a transaction that has ended without a trace, or of one that still runs."""
    helper: Any = getattr(getattr(storage, 'blobhelper', storage), 'fshelper', None)  # RelStorage: FileStorage and ZEO
    if getattr(helper, 'layout_name', 'zeocache') == 'zeocache':  # no blobs here, or copies, which have a limit of their own
        return
    yield from (path for path in Path(helper.temp_dir).rglob('*') if path.is_file())
    for oid, folder in helper.listOIDs():
        for path in Path(folder).iterdir():
            _, serial = helper.splitBlobFilename(str(path))
            if path.name != '.lock' and (serial is None or not has_record(storage, oid, serial)):
                yield path


def has_record(storage: Any, oid: bytes, serial: bytes) -> bool:
    try:
        storage.loadSerial(oid, serial)
    except POSKeyError:
        return False
    return True


def clear_after_failed_commits() -> None:
    """RelStorage 4.3 on SQLite keeps the rows of a failed commit and commits them with the next: always roll back."""
    from relstorage.adapters.sqlite.drivers import Sqlite3Driver
    Sqlite3Driver.connection_may_need_rollback = lambda self, connection: True


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
