"""Real nodes for the tests: each is a process of `ipython-erp5 serve`, started here, and ended by its id."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import ipython_erp5
from ipython_erp5.reply import Reply
from ipython_erp5.session import Session

settings.register_profile('no clock', deadline=None, suppress_health_check=[HealthCheck.too_slow])   # no law is about time
settings.load_profile('no clock')

START = 60.0  # seconds
LONG = ('test_cluster', 'test_thirty_cells', 'test_programs', 'test_fuzz', 'test_packing', 'test_nodes', 'test_node', 'test_package',
        'test_archive', 'test_interrupts', 'test_jupyterlab', 'test_everywhere', 'test_processes', 'test_pool')


def pytest_configure() -> None:
    """Who runs the tests in the background of a shell has Ctrl-C ignored, and so would all that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first: then the workers (`-n 2`), each with a file at a time, end at about the same time."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@dataclass
class Node:
    """A running node and the process that it is."""

    data_dir: Path
    process: subprocess.Popen[bytes]
    url: str
    user: str

    @property
    def password(self) -> str:
        return (self.data_dir / 'password').read_text().strip()

    def session(self, reference: str = '', **options: Any) -> Session:
        """A session with a notebook of its own, or with the one named."""
        return ipython_erp5.connect(self.url, **{'user': self.user, 'password': self.password,
                                                 'reference': reference or f'test {uuid.uuid4()}', **options})

    def log(self) -> str:
        return (self.data_dir / 'test.log').read_text()

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The lines of its log, each of which is a JSON object; those of some events only."""
        lines = [json.loads(line) for line in self.log().splitlines()]
        return [line for line in lines if line['event'] in names or not names]

    def faults(self) -> list[dict[str, Any]]:
        return [line for line in self.events() if 'traceback' in line]

    def environment(self) -> dict[str, str]:
        """What a session needs in its environment to find this node."""
        return {**os.environ, 'ERP5_URL': self.url, 'ERP5_USER': self.user, 'ERP5_PASSWORD': self.password}

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)


def there(path: Path) -> str:
    """An expression for cells, which need no import for it: it waits until there is a file, for a minute at most."""
    return f'any(__import__("os").path.exists({str(path)!r}) or __import__("time").sleep(.01) for _ in range(6000))'


def start_node(data_dir: Path, *options: str, prefix: Sequence[str] = (), before: Callable[[], None] | None = None) -> Node:
    """Start a node and wait until it answers. `prefix`: a command that becomes the node; `before`: what its process does first."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(data_dir / 'test.log', 'ab') as log:
        process = subprocess.Popen([*prefix, sys.executable, '-m', 'ipython_erp5', 'serve', '--data-dir', str(data_dir), *options],
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=before)
    description = data_dir / 'node.json'
    end = time.monotonic() + START
    while not description.exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f'the node did not start:\n{(data_dir / "test.log").read_text()}')
        time.sleep(.02)
    about = json.loads(description.read_text())
    return Node(data_dir, process, about['url'], about['user'])


@contextlib.contextmanager
def running(data_dir: Path, *options: str, **how: Any) -> Iterator[Node]:
    node = start_node(data_dir, *options, **how)
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture(scope='session')
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for all tests that do not change it; its notebooks rotate through two executors, so that what only one process
    knows shows, unless ERP5_TEST_PLACEMENT says otherwise."""
    with running(tmp_path_factory.mktemp('node'), '--placement', os.environ.get('ERP5_TEST_PLACEMENT', 'rotate')) as started:
        yield started


@pytest.fixture
def session(node: Node) -> Iterator[Session]:
    with node.session() as opened:
        yield opened


@pytest.fixture
def run(session: Session) -> Callable[[str], Reply]:
    """Run a cell of the test's own notebook."""
    return session.execute


@pytest.fixture(autouse=True)
def private_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the settings of whoever runs it."""
    for name in ('ERP5_URL', 'ERP5_USER', 'ERP5_PASSWORD', 'ERP5_PASSWORD_FILE', 'ERP5_REFERENCE', 'ERP5_CONNECTIONS', 'ERP5_DATA_DIR',
                 'NETRC'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
    for name in ('XDG_DATA_HOME', 'XDG_CONFIG_HOME'):
        monkeypatch.delenv(name, raising=False)
