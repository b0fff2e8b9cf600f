"""The node of this user and data directory: where it describes itself, whether it runs, and starting it.

    DIR             ERP5_DATA_DIR, else ipython_erp5 in the XDG data home; mode 0700
    DIR/node.json   written by the node once it answers, removed at its end: url, user, pid, storage, executors, and
                    password_file if it is not the next, ca_bundle if its certificate vouches for itself; mode 0600
    DIR/password    mode 0600
    DIR/node.log    what a detached node printed; mode 0600

`connections` asks here for the embedded node, `cli` for start, stop and status. Nothing of Zope is imported.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import NodeError, UnsupportedError

# Packages of the extra `node`, by the names under which they are imported.
REQUIRED = ('Zope2', 'ZODB', 'relstorage', 'zodburi', 'waitress', 'prometheus_client')


@dataclass(frozen=True)
class Node:
    """A node that describes itself in its data directory."""

    data_dir: Path
    url: str
    user: str
    pid: int
    storage: str = ''
    executors: int = 0
    password_file: str = ''
    ca_bundle: str = ''

    def password(self) -> str:
        """NodeError if the file cannot be read."""
        path = Path(self.password_file or self.data_dir / 'password')
        try:
            return path.read_text(encoding='utf-8').strip()
        except OSError as error:
            raise NodeError(f'the node at {self.url} runs, but its password cannot be read: {error}') from None

    def runs(self) -> bool:
        """Whether its process is there; where the system shows command lines, another process with the same number is not it."""
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, PermissionError):  # a process of somebody else is not the node of this user
            return False
        try:
            command = Path(f'/proc/{self.pid}/cmdline').read_bytes()
        except OSError:
            return not Path('/proc/self').exists()
        return b'ipython_erp5' in command.replace(b'-', b'_')

    def answers(self) -> bool:
        """Whether something accepts connections at its URL."""
        parts = urlsplit(self.url)
        try:
            socket.create_connection((parts.hostname, parts.port or (443 if parts.scheme == 'https' else 80)), timeout=5).close()
        except OSError:
            return False
        return True


def embedded(data_dir: str | Path | None = None) -> Node:
    """The node of the data directory, started if none runs. NodeError, or UnsupportedError if the extra is not installed."""
    folder = data_directory(data_dir)
    node = running(folder)
    if node is None:
        require_extra()
        start = subprocess.run(command('start', '--data-dir', str(folder)), stdin=subprocess.DEVNULL, capture_output=True,
                               text=True, errors='replace', cwd=folder, env=environment())
        node = running(folder)
        if start.returncode or node is None:
            raise NodeError(f'the embedded node cannot be started: {start.stderr.strip() or start.stdout.strip()}')
    return node


# ---------------------------------------------------------------- its files
def data_directory(path: str | Path | None = None) -> Path:
    """The directory, made if it is not there. NodeError if others may enter it: it holds the password and all data."""
    folder = Path(path or os.environ.get('ERP5_DATA_DIR') or default_directory()).expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            close(folder)
    except OSError as error:
        raise NodeError(f'the data directory {folder} cannot be used: {error}') from None
    return folder


def default_directory() -> Path:
    return Path(os.environ.get('XDG_DATA_HOME') or '~/.local/share') / 'ipython_erp5'


def close(folder: Path) -> None:
    """Keep others out of an empty directory; one with files in it may be meant for others as well, so its owner decides."""
    if any(folder.iterdir()):
        raise NodeError(f'others may enter the data directory {folder}: run `chmod 700 {folder}`, or name a directory of its own')
    folder.chmod(0o700)


def running(data_dir: Path) -> Node | None:
    """The node of a data directory, if it runs. What a dead one left is not one."""
    node = described(data_dir)
    return node if node is not None and node.runs() else None


def described(data_dir: Path) -> Node | None:
    """What node.json says; None if there is none, or none that can be read."""
    try:
        told: Any = json.loads((data_dir / 'node.json').read_bytes())
        return Node(data_dir, str(told['url']), str(told['user']), int(told['pid']), str(told.get('storage', '')),
                    int(told.get('executors') or 0), str(told.get('password_file') or ''), str(told.get('ca_bundle') or ''))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


# ---------------------------------------------------------------- its process
def require_extra() -> None:
    """UnsupportedError unless everything that a node needs is installed; nothing is imported."""
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        raise UnsupportedError(f"a node needs more than a client, and there is no {', '.join(missing)}: run "
                               f"pip install 'ipython_erp5[node]', or connect to a site by its URL")


def command(*arguments: str) -> list[str]:
    """The command line of `ipython-erp5` in this interpreter, to be run with `environment()`."""
    return [sys.executable, '-m', 'ipython_erp5', *arguments]


def environment() -> dict[str, str]:
    """The environment in which `command` finds this very package, also when it is not installed; without anybody's password."""
    inherited = {name: value for name, value in os.environ.items() if name not in ('ERP5_PASSWORD', 'ERP5_TOKEN')}
    folder = Path(__file__).absolute().parent.parent
    if folder.name in ('site-packages', 'dist-packages'):
        return inherited
    return {**inherited, 'PYTHONPATH': os.pathsep.join(filter(None, (str(folder), os.environ.get('PYTHONPATH'))))}
