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
import logging
import os
import re
import secrets
import signal
import socket
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from OFS.Application import Application
from transaction.interfaces import TransientError

from ..errors import NodeError
from . import archive, cell, descendants, exporting, importing, loading, packing, portal, publisher, tls, verifying
from .dispatch import Dispatcher
from .housekeeping import Housekeeping
from .journal import Journal
from .journal import secrets as secrets_of_the_log
from .limits import bytes_of
from .losses import Losses
from .metrics import Metrics, Size
from .peers import Peers
from .pool import PLACEMENTS, Pool
from .process import forkserver, start
from .registry import Registry
from .service import Node
from .storage import change, embedded_storage, existing_database, open_database, remove_left_blobs, write_private

PACK = ('auto', 'never')


@dataclass(frozen=True)
class Settings:
    data_dir: Path
    host: str = '127.0.0.1'
    port: int = 0
    executors: int = 2
    storage: str = ''
    user: str = 'admin'
    password_file: str = ''
    placement: str = 'sticky'
    variable_limit: str = ''
    pack: str = 'auto'
    certfile: str = ''
    keyfile: str = ''
    url: str = ''
    executor_memory: str = ''
    executor_cells: int = 0
    executor_idle: float = 600
    memory_reserve: str = ''
    cell_timeout: float = 0

    def check(self) -> None:
        if self.executors < 1:
            raise NodeError(f'--executors: expected a number of at least 1, got {self.executors}')
        for option, number in (('--executor-cells', self.executor_cells), ('--executor-idle', self.executor_idle),
                               ('--cell-timeout', self.cell_timeout)):
            if number < 0:
                raise NodeError(f'{option}: expected a number of at least 0, got {number}')
        bytes_of(self.executor_memory, '--executor-memory')
        bytes_of(self.memory_reserve, '--memory-reserve')
        if self.placement not in PLACEMENTS:
            raise NodeError(f'--placement: expected one of {", ".join(PLACEMENTS)}, got {self.placement!r}')
        if self.pack not in PACK:
            raise NodeError(f'--pack: expected one of {", ".join(PACK)}, got {self.pack!r}')
        if self.url and not re.fullmatch(r'https?://[^\s/@?#]+(/[^\s@?#]*)?', self.url):
            raise NodeError(f'--url: expected the URL of this node, such as http://host:8080/erp5, got {self.url!r}')
        if not self.user:
            raise NodeError('--user: expected a name, got an empty text')
        if self.keyfile and not self.certfile:
            raise NodeError('--keyfile: expected a --certfile FILE too')
        if self.certfile:
            self.certificate()
        self.bytes_of_a_variable()

    def certificate(self) -> tls.Certificate:
        return tls.Certificate(Path(self.certfile), Path(self.keyfile) if self.keyfile else None)

    def bytes_of_a_variable(self) -> int:
        """0: as many as there is room for."""
        return bytes_of(self.variable_limit, '--variable-limit')


# ---------------------------------------------------------------- the site
def make_notebooks(uri: str, node: str, cache: Path | None = None, limit: int = 0) -> cell.Notebooks:
    """In an executor process, after the fork."""
    secrets_of_the_log.add_uri(uri)
    return cell.Notebooks(lambda manager: open_database(uri, cache).open(manager), node, limit)


def install(database: Any, user: str, password: str | None) -> None:
    """The application, the user and the portal, if they are not there. Several nodes may do this at the same moment."""
    def make(root: Any) -> None:
        if 'Application' not in root:
            root['Application'] = Application()
            root._p_jar.transaction_manager.savepoint()
        portal.install(root['Application'], user, password)

    try:
        change(database, make)
    except TransientError:
        raise NodeError('the site could not be made: other processes keep changing the same database') from None


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
    with existing_database(data_dir, uri) as database:
        if not uri:
            with contextlib.suppress(NodeError), locked(data_dir):  # else a node runs, and its cells may
                packing.sweep(database)
        remove_left_blobs(database)
        packed = packing.pack(database)
        assert packed is not None
        return packed


def start_pack(uri: str, node: str) -> BaseProcess:
    return start(forkserver.Process(target=pack_quietly, args=(uri, node), daemon=True))


def pack_quietly(uri: str, node: str) -> None:
    """In a process of its own, which takes what others leave of the processor; its log is the node's."""
    descendants.belong()  # Ctrl-C in the node's terminal is for the node, which then ends this
    os.nice(19)
    journal = Journal(node)
    journal.capture()
    secrets_of_the_log.add_uri(uri)
    try:
        database = open_database(uri)
        remove_left_blobs(database)
        packed = packing.pack(database, packing.PAUSE)
        journal.event('packed', **(packed.fields() if packed else {'by': 'another node'}))
    except NodeError as error:
        journal.event('not packed', level='warning', cause=str(error))


# ---------------------------------------------------------------- export, import, verify
def export_notebook(data_dir: Path, uri: str, reference: str, path: Path | None, force: bool) -> tuple[exporting.Transferred, Path]:
    """Also which file it is; by default one in the working directory that is called like the notebook."""
    path = path or Path(archive.file_name(reference)).absolute()
    with existing_database(data_dir, uri, data_dir / 'cache') as database, quiet():
        return exporting.export_notebook(database, reference, path, force), path


def import_notebook(data_dir: Path, uri: str, path: Path, reference: str, owner: str) -> exporting.Transferred:
    with existing_database(data_dir, uri, data_dir / 'cache') as database:
        return importing.import_notebook(database, path, reference, owner)


def verify(data_dir: Path, uri: str, values: bool) -> Iterator[verifying.Verified]:
    """The site, then all notebooks. `values`: also load the values, which runs the notebooks' code."""
    cache = data_dir / 'cache'
    forkserver.set_forkserver_preload(['ipython_erp5.node.preload'])
    make = functools.partial(make_notebooks, uri or embedded_storage(data_dir), 'verify', cache)
    with existing_database(data_dir, uri, cache) as database, quiet():
        yield from verifying.verify(database, functools.partial(loading.load_values, make) if values else None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """ZODB and the storages also log what they raise, with tracebacks."""
    loggers = [logging.getLogger(name) for name in ('ZODB', 'relstorage', 'ZEO')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# ---------------------------------------------------------------- serve
def serve(settings: Settings) -> None:
    """Run a node in the foreground until SIGTERM or SIGINT. NodeError for what the person who starts it can put right."""
    settings.check()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))  # until it serves
    with locked(settings.data_dir):
        password = password_of(settings)
        for name in ('ERP5_PASSWORD', 'ERP5_TOKEN'):  # of this or another site: no cell is to find them
            os.environ.pop(name, None)
        os.environ['IPYTHONDIR'] = str(settings.data_dir / 'ipython')  # IPython's own files are the node's, not the user's
        uri = settings.storage or embedded_storage(settings.data_dir)
        (settings.data_dir / 'storage').mkdir(mode=0o700, exist_ok=True)
        with contextlib.ExitStack() as stack:
            run(settings, uri, password, stack)


def run(settings: Settings, uri: str, password: str, stack: contextlib.ExitStack) -> None:
    name = f'{socket.gethostname()}-{uuid.uuid4().hex[:8]}'
    journal, metrics = begin_journal(name, settings.user, password, uri), Metrics()
    portal.configure_security()
    cache = settings.data_dir / 'cache'
    database = open_database(uri, cache)
    stack.callback(database.close)
    install(database, settings.user, password)
    forkserver.set_forkserver_preload(['ipython_erp5.node.preload'])
    pool = Pool(settings.executors, settings.placement, functools.partial(make_notebooks, uri, name, cache, settings.bytes_of_a_variable()),
                settings.executor_cells)
    registry = Registry(database, name, journal, shared=bool(settings.storage))
    dispatcher = Dispatcher(pool, Peers(registry, settings.certfile), Losses(database, name, journal), journal, metrics,
                            settings.cell_timeout)
    stack.callback(dispatcher.close)  # also where the server cannot be made
    housekeeping = Housekeeping(dispatcher, pool, journal, bytes_of(settings.executor_memory, '--executor-memory'), settings.executor_idle,
                                bytes_of(settings.memory_reserve, '--memory-reserve'))
    stack.callback(housekeeping.close)
    housekeeping.start()
    if settings.pack == 'auto':
        packer = packing.Packer(database, functools.partial(start_pack, uri, name), journal)
        stack.callback(packer.close)
        packer.start()
    node = Node(dispatcher, registry, name, {'storage': uri.split(':')[0], 'pid': os.getpid()}, metrics,
                Size(lambda: packing.stored(database).size))
    server, place = listen(publisher.application(database, node), settings, stack)
    node.url = settings.url.rstrip('/') or place['url']
    registry.enter(node.url, str(settings.data_dir.resolve()), executors=settings.executors)
    stack.callback(registry.leave)
    about: dict[str, Any] = {**place, 'user': settings.user, 'pid': os.getpid(), 'storage': uri.split(':')[0],
                             'executors': settings.executors}
    if settings.password_file:
        about['password_file'] = str(Path(settings.password_file).resolve())
    write_private(settings.data_dir / 'node.json', json.dumps(about))
    stack.callback((settings.data_dir / 'node.json').unlink, missing_ok=True)
    journal.event('serves', **about)
    publisher.serve(server, dispatcher.close)
    journal.event('ends')


def begin_journal(name: str, user: str, password: str, uri: str) -> Journal:
    """The log of this process from here on, and what it must not show."""
    secrets_of_the_log.add_login(user, password)
    secrets_of_the_log.add_uri(uri)
    journal = Journal(name)
    journal.capture()
    return journal


def listen(wsgi: publisher.Application, settings: Settings, stack: contextlib.ExitStack) -> tuple[Any, dict[str, str]]:
    """The server, and what node.json says of where it is."""
    try:
        if settings.certfile:
            return listen_tls(wsgi, settings, stack)
        server = publisher.make_server(wsgi, settings.host, settings.port)
    except OSError as error:
        raise NodeError(f'cannot listen at {settings.host}, port {settings.port}: {error.strerror or error}') from None
    return server, {'url': f'http://{bracketed(settings.host)}:{server.effective_port}/erp5'}


def listen_tls(wsgi: publisher.Application, settings: Settings, stack: contextlib.ExitStack) -> tuple[Any, dict[str, str]]:
    certificate = settings.certificate()
    listener = tls.listener(settings.host, settings.port)
    port = listener.getsockname()[1]
    inner = stack.enter_context(tls.inner_socket(settings.data_dir))
    server = publisher.make_server(wsgi, settings.host, settings.port, behind_tls=inner)
    stack.callback(tls.Terminator(certificate.context, listener, inner.getsockname()).close)
    place = {'url': f'https://{bracketed(certificate.host(local(settings.host)))}:{port}/erp5'}
    return server, {**place, 'ca_bundle': str(certificate.certfile)} if certificate.vouches_for_itself() else place


def bracketed(host: str) -> str:
    """As in a URL."""
    host = local(host)
    return f'[{host}]' if ':' in host else host


def local(host: str) -> str:
    """The address under which this machine reaches a node that listens there."""
    return '127.0.0.1' if host in ('0.0.0.0', '') else '::1' if host == '::' else host
