"""Two nodes of three executors on PostgreSQL behind HAProxy, with every way between them through a relay that can be cut.

    clients ──► front ──► HAProxy ──► sides[0] ──► node 0 ──► base ──► PostgreSQL
                             └──────► sides[1] ──► node 1 ──────┘          (the nodes reach each other through the sides, too)

Nodes are killed and started again on their data directories and ports, as a machine that comes up again.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import storages
from conftest import Node, start_node

import ipython_erp5
from ipython_erp5.session import Session

PASSWORD = 'the same on both'
EXECUTORS = 3


class Member:
    """One node of a cluster: the same data directory and port however often it is started."""

    def __init__(self, data_dir: Path, storage: str, *options: str, port: int = 0) -> None:
        self.data_dir, self.port = data_dir, port or storages.free_port()
        self.options = ('--storage', storage, '--port', str(self.port), '--placement', 'rotate', '--executors', str(EXECUTORS), *options)
        data_dir.mkdir(mode=0o700)
        (data_dir / 'password').write_text(PASSWORD)
        self.node = self.start()

    def start(self) -> Node:
        (self.data_dir / 'node.json').unlink(missing_ok=True)
        self.node = start_node(self.data_dir, *self.options)
        return self.node

    def processes(self) -> list[psutil.Process]:
        """The node's and all below it; none if it has gone."""
        with contextlib.suppress(psutil.NoSuchProcess):
            node = psutil.Process(self.node.process.pid)
            return [node, *node.children(recursive=True)]
        return []

    def executors(self) -> list[int]:
        """The ids of the processes that run cells or wait for some: they are children of the fork server."""
        parents = {process.pid for process in self.processes()[1:] if process.ppid() == self.node.process.pid}
        return [process.pid for process in self.processes() if process.ppid() in parents]

    def kill(self, whole: bool) -> None:
        """SIGKILL for the node's process, or for all that it has started too, as when a machine stops."""
        for process in self.processes() if whole else self.processes()[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.node.process.wait(10)

    def stop(self) -> None:
        self.node.stop()


@dataclass
class Cluster:
    url: str  # where clients go
    storage: str  # of the database itself, past the relay
    members: list[Member]
    front: storages.Cut
    sides: list[storages.Cut]
    base: storages.Cut
    cuts: list[storages.Cut] = field(init=False)

    def __post_init__(self) -> None:
        self.cuts = [self.front, *self.sides, self.base]

    def session(self, reference: str, **options: Any) -> Session:
        return ipython_erp5.connect(self.url, user='admin', password=PASSWORD, reference=reference, **options)

    def through(self, number: int, reference: str) -> Session:
        """Directly to a node."""
        url = f'http://127.0.0.1:{self.members[number].port}/erp5'
        return ipython_erp5.connect(url, user='admin', password=PASSWORD, reference=reference)

    def heal(self) -> None:
        """All ways open, all nodes running."""
        for cut in self.cuts:
            cut.restore()
        for member in self.members:
            if member.node.process.poll() is not None:
                member.start()


def signal_executor(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        direct = stack.enter_context(storages.postgresql(folder / 'postgresql'))
        base = stack.enter_context(storages.relay(storages.address(direct)))
        storage = direct.replace(storages.address(direct), f'127.0.0.1:{base.port}')
        ports = [storages.free_port() for _ in range(2)]
        sides = [stack.enter_context(storages.relay(f'127.0.0.1:{port}')) for port in ports]
        members = []
        for number, (port, side) in enumerate(zip(ports, sides)):
            members.append(Member(folder / f'node{number}', storage, '--url', f'http://127.0.0.1:{side.port}/erp5', port=port))
            stack.callback(members[-1].stop)
        proxy = stack.enter_context(storages.haproxy(folder / 'haproxy', [f'127.0.0.1:{side.port}' for side in sides]))
        front = stack.enter_context(storages.relay(storages.address(proxy)))
        yield Cluster(f'http://127.0.0.1:{front.port}/erp5', direct, members, front, sides, base)
