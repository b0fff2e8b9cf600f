"""`ipython-erp5`: a node of one user and data directory, in the foreground or detached.

    serve    run a node here until SIGTERM or Ctrl-C                            0, or 1 and a line that says what is wrong
    start    serve, detached, its output in DIR/node.log; returns once it answers, at once if one runs already
    stop     end the node and wait for it; 1 if it has not ended after 10 seconds
    status   the node, and what it says of itself; --json for scripts       0, also if it does not answer, or 3 if none runs
    pack     remove from the database what is not needed; bytes before and after    0
    export, import    a notebook into one file, and out of one; 1 if nothing was done
    verify   a line for each notebook, and one for each fault               0, or 1 if there are faults
    user     add, remove and list the users of the site, change a password       0
    convert  a notebook of ERP5's own kernel for the standard kernel             0, or 1 and there is no file

Two starts at a time end with one node: a lock, DIR/start.lock, lets the second wait for the first.
"""

import fcntl
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from traitlets import Bool, Enum, Float, Int, Unicode
from traitlets.config import Application

from . import __version__, local_node
from .accounts import User
from .command import NAME, Command
from .converting import Convert
from .errors import ERP5Error, NodeError
from .local_node import Node
from .upkeep import Export, Import, Pack, Verify

NOTHING_RUNS = 3
START_SECONDS = 60
STOP_SECONDS = 10
LOG_LINES = 15


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0; 1 and a line on stderr for what went wrong; 3 from `status` if no node runs. Bad usage: SystemExit(2)."""
    app = NodeManager()
    try:
        app.initialize(list(sys.argv[1:] if argv is None else argv))
        return run(app)
    except ERP5Error as error:
        print(f'{NAME}: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def run(app: 'NodeManager') -> int:
    if isinstance(app.subapp, Command):
        return app.subapp.run()
    if app.extra_args:
        print(f'{NAME}: there is no command {app.extra_args[0]!r}, only {", ".join(app.subcommands)}', file=sys.stderr)
    else:
        app.print_help()
    return 2


# ---------------------------------------------------------------- the command line
class Serve(Command):
    description = 'Run a node in the foreground until SIGTERM or Ctrl-C.'

    host = Unicode('127.0.0.1', help='The address to listen at; any but loopback can be reached by others.').tag(config=True)
    port = Int(0, min=0, max=65535, help='The port to listen at; 0: any that is free.').tag(config=True)
    executors = Int(2, min=1, help='How many cells may run at once.').tag(config=True)
    storage = Unicode(help='The URI of a ZODB storage (zodburi); by default SQLite in the data directory.').tag(config=True)
    user = Unicode('admin', help='The user that the node knows.').tag(config=True)
    password_file = Unicode(help='A file with the password of the user; by default one is made.').tag(config=True)
    placement = Enum(('sticky', 'rotate', 'fresh'), 'sticky',
                     help='Which executor runs the next cell: the same, another, or a new one each time.').tag(config=True)
    variable_limit = Unicode(help='The most bytes that a variable may have, such as 500MB or 2GB; by default what there is room for.'
                             ).tag(config=True)
    pack = Enum(('auto', 'never'), 'auto',
                help='Whether the node removes what is not needed any more by itself, or only the command pack does.').tag(config=True)
    certfile = Unicode(help='A certificate in PEM format: the node speaks TLS.').tag(config=True)
    keyfile = Unicode(help='The key of the certificate, if it is not in the same file.').tag(config=True)
    url = Unicode(help='Under which URL the other nodes of the same database reach this one; by default its own.').tag(config=True)
    executor_memory = Unicode(help='The most memory that an executor may use with all that its cells start, such as 2GB; by default '
                                   'any.').tag(config=True)
    executor_cells = Int(0, min=0, help='How many cells an executor runs before a fresh one takes its place; 0: any number.'
                         ).tag(config=True)
    executor_idle = Float(600, min=0, help='Seconds after which an executor without a cell is given back.').tag(config=True)
    memory_reserve = Unicode(help='While the machine has less memory left than this, executors without a cell are given back; by default '
                                  'a sixteenth of it.').tag(config=True)
    cell_timeout = Float(0, min=0, help='How many seconds a cell may run; 0: as long as it likes.').tag(config=True)
    options = ('host', 'port', 'url', 'executors', 'storage', 'user', 'password_file', 'placement', 'variable_limit', 'pack', 'certfile',
               'keyfile', 'executor_memory', 'executor_cells', 'executor_idle', 'memory_reserve', 'cell_timeout')
    files = ('password_file', 'certfile', 'keyfile')
    aliases = {**Command.aliases, **{name.replace('_', '-'): f'Serve.{name}' for name in options}}

    def run(self) -> int:
        local_node.require_extra()
        from .node import cluster
        cluster.serve(cluster.Settings(data_dir=self.folder, **self.values()))
        return 0

    def values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.options} | self.absolute_files()

    def absolute_files(self) -> dict[str, str]:
        """A detached node runs in another directory."""
        return {name: str(Path(value).expanduser().absolute()) if (value := getattr(self, name)) else '' for name in self.files}


class Start(Serve):
    description = 'Run a node detached; the same options as serve.'

    def run(self) -> int:
        node = start(self.folder, self.arguments())
        print(f'A node runs at {node.url} (user {node.user}, its password is in {node.data_dir / "password"}).')
        return 0

    def arguments(self) -> list[str]:
        """The options for `serve`."""
        return [f'--{name.replace("_", "-")}={value}' for name, value in self.values().items() if value != '']


class Stop(Command):
    description = 'End the node and wait for it.'

    def run(self) -> int:
        node = stop(self.folder)
        print(f'The node at {node.url} has ended.' if node else f'No node runs in {self.folder}.')
        return 0


class Status(Command):
    description = 'Show the node, and what it says of itself.'

    json = Bool(False, help='Print a JSON object, for scripts.').tag(config=True)
    flags = {'json': ({'Status': {'json': True}}, 'Print a JSON object, for scripts.')}

    def run(self) -> int:
        node = local_node.running(self.folder)
        from . import status
        if self.json:
            print(json.dumps(status.as_json(self.folder, node), default=str))
        else:
            print(f'No node runs in {self.folder}.\n' if node is None else status.described(node), end='')
        return NOTHING_RUNS if node is None else 0


COMMANDS = (Serve, Start, Stop, Status, Pack, User, Export, Import, Verify, Convert)


class NodeManager(Application):
    name = NAME
    version = __version__
    description = 'A node of an ERP5-like cluster for IPython: serve, start, stop, status, pack, user, export, import, verify, convert.'

    # Made by functions: traitlets makes a class a singleton, and then `main` could run only once in a process.
    subcommands = {cls.__name__.lower(): (functools.partial(lambda cls, parent: cls(parent=parent), cls), cls.description)
                   for cls in COMMANDS}


# ---------------------------------------------------------------- start
def start(folder: Path, arguments: list[str]) -> Node:
    """The node of a data directory, started with `serve`'s arguments if none runs; NodeError with its log's end if it died."""
    with only_start(folder):
        node = local_node.running(folder)
        if node is not None:
            return node
        local_node.require_extra()
        return spawn(folder, arguments)


@contextmanager
def only_start(folder: Path) -> Iterator[None]:
    """The lock goes with the file's closing, also when this process is killed; the node does not inherit it."""
    with (folder / 'start.lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'{NAME}: waiting for another start in {folder}', file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def spawn(folder: Path, arguments: list[str]) -> Node:
    path = folder / 'node.log'
    with open(path, 'ab', opener=lambda name, flags: os.open(name, flags, 0o600)) as log:
        begin = log.tell()
        process = subprocess.Popen(local_node.command('serve', f'--data-dir={folder}', *arguments), stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log, start_new_session=True, cwd=folder, env=local_node.environment())
    node = wait_for_node(folder, process)
    if node is None:
        raise NodeError(f'the node {end(process)}; the end of {path}:\n{log_end(path, begin)}')
    return node


def wait_for_node(folder: Path, process: subprocess.Popen[bytes]) -> Node | None:
    """The node once it answers; None if its process has ended or the time is over."""
    for _ in ticks(START_SECONDS):
        # Asked before the look at the files: a process also ends because `serve` runs a node there already.
        exited = process.poll() is not None
        node = local_node.running(folder)
        if node is not None and node.answers():
            return node
        if exited:
            return None
    return None


def end(process: subprocess.Popen[bytes]) -> str:
    """How the process of a node that did not come up ended; it is ended now if it has not."""
    if process.poll() is None:
        process.terminate()
        return f'did not answer within {START_SECONDS} seconds'
    return f'ended with signal {-process.returncode}' if process.returncode < 0 else f'ended with exit code {process.returncode}'


def log_end(path: Path, begin: int) -> str:
    """The last lines that this start has written."""
    with path.open('rb') as log:
        log.seek(begin)
        return '\n'.join(log.read().decode(errors='replace').splitlines()[-LOG_LINES:])


def ticks(seconds: float) -> Iterator[None]:
    """Every few milliseconds, until the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.03)


# ---------------------------------------------------------------- stop
def stop(folder: Path) -> Node | None:
    """End the node and return it; None if none ran. NodeError if it has not ended in time."""
    node = local_node.running(folder)
    if node is None:
        # What a node that was killed has left.
        (folder / 'node.json').unlink(missing_ok=True)
        return None
    os.kill(node.pid, signal.SIGTERM)
    for _ in ticks(STOP_SECONDS):
        if not node.runs():
            return node
    raise NodeError(f'the node at {node.url} was told to end and has not after {STOP_SECONDS} seconds, perhaps because a cell '
                    f'still runs: wait, or end its process {node.pid}')
