"""The database by its URI: any ZODB storage that several processes can open, with a place for the files of large buffers.

    URI ─► with_blobs() ─► zodburi ─► the storage, cured of what is known against it ─► ZODB.DB

Files: beside the database where it is files itself; of a server's, each node has copies in its `cache`.
"""

import contextlib
import hashlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, urlencode

import transaction
import ZODB
from transaction.interfaces import TransientError
from ZODB.POSException import POSKeyError
from zodburi import resolve_uri

from ..errors import NodeError
from .cures import cure_packs

ATTEMPTS = 20  # each later than the one before: two seconds in all
Result = TypeVar('Result')


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
    return make_database(storage, {'cache_size': 20000, 'cache_size_bytes': 256 << 20, **keywords})


def make_database(storage: Any, keywords: Mapping[str, Any]) -> Any:
    """In an empty storage ZODB makes the root object, once: where another node does at the same moment, one of the two conflicts."""
    for attempt in range(4):
        with contextlib.suppress(TransientError):
            return ZODB.DB(storage, **keywords)
        time.sleep(.05)
    return ZODB.DB(storage, **keywords)


def open_storage(factory: Callable[[], Any], scheme: str) -> Any:
    """NodeError for what the driver or the server says. The schema that another node makes at the same moment is there a little later."""
    for attempt in range(5):
        try:
            return factory()
        except Exception as error:
            if attempt == 4 or 'already exists' not in str(error):
                raise NodeError(f'--storage: the {scheme} database cannot be opened: {type(error).__name__}: {error}'.strip()) from error
            time.sleep(.2)


def clear_after_failed_commits() -> None:
    """RelStorage 4.3 on SQLite keeps the rows of a failed commit and commits them with the next: always roll back."""
    from relstorage.adapters.sqlite.drivers import Sqlite3Driver
    Sqlite3Driver.connection_may_need_rollback = lambda self, connection: True


@contextlib.contextmanager
def existing_database(data_dir: Path, uri: str, cache: Path | None = None) -> Iterator[Any]:
    """The database of the URI, or of the data directory if none is given, open. NodeError if there is none."""
    if not uri and not (data_dir / 'storage' / 'main.sqlite3').exists():
        raise NodeError(f'there is no database in {data_dir}: name one by --data-dir, or by the --storage that its nodes have. '
                        'The first start of a node makes it')
    database = open_database(uri or embedded_storage(data_dir), cache)
    try:
        yield database
    finally:
        database.close()


# ---------------------------------------------------------------- a transaction of its own
@contextlib.contextmanager
def opened(database: Any) -> Iterator[Any]:
    """The root, in a transaction that is committed if nothing is raised."""
    manager = transaction.TransactionManager(explicit=True)
    connection = database.open(manager)
    try:
        with manager:
            yield connection.root()
    finally:
        connection.close()


def application_in(root: Any) -> Any:
    """NodeError if there is no site."""
    application = root.get('Application')
    if application is None:
        raise NodeError('there is no site in this database: the first start of a node with it makes one')
    return application


def change(database: Any, action: Callable[[Any], Result]) -> Result:
    """What the action returns, which gets the root, committed; again while others change the same. TransientError if that does not end."""
    for attempt in range(ATTEMPTS):
        with contextlib.suppress(TransientError), opened(database) as root:
            return action(root)
        time.sleep(.01 * attempt)
    raise TransientError('other processes keep changing the same records')


# ---------------------------------------------------------------- a database that is away
AWAY = 20.0  # seconds in which a database that has gone away is waited for, where nothing is lost by it
DISCONNECTED = frozenset({'OperationalError', 'InterfaceError',  # PEP 249, whatever the driver; SQLite's is a full disk
                          'ClientDisconnected', 'StorageDisconnectedDuringCommit'})  # ZEO, RelStorage


def is_away(error: BaseException) -> bool:
    """Whether the database cannot be reached, or has broken the connection."""
    kinds = {kind.__name__ for kind in type(error).__mro__ if kind.__module__ != 'sqlite3'}
    return isinstance(error, ConnectionError) or not DISCONNECTED.isdisjoint(kinds)


def takes_nothing(error: BaseException) -> bool:
    """Whether the database is there and cannot be written, as its disk is full or read-only."""
    return isinstance(error, sqlite3.OperationalError)


# ---------------------------------------------------------------- large buffers
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


def write_private(path: Path, text: str) -> None:
    """Write a file with mode 0600, whole or not at all."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')  # mkstemp makes it 0600
    with os.fdopen(fd, 'w') as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
    os.replace(temporary, path)
