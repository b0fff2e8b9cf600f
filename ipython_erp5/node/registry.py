"""The nodes of a cluster find each other in the database that they share.

    root['nodes']   OOBTree name -> NodeRecord      every node has one while it lives, and makes its `beat` grow

A node judges another by its own clock: one whose beat has not grown for GONE seconds has gone, whatever time its machine has. To take
a living one for gone costs the cells that it runs: their commits conflict with what was written about them. It never costs more.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from BTrees.OOBTree import OOBTree
from persistent import Persistent

from .journal import Journal
from .storage import change, opened

BEAT = 2.0  # seconds
GONE = 6.0  # seconds without a beat
FORGET = 60.0  # seconds without a beat, after which the record of a node is removed
NODES = 'nodes'


class NodeRecord(Persistent):
    """What a node says of itself. `place`: host and data directory, in which only one node can live."""

    beat = 0

    def __init__(self, url: str, place: str, **about: Any) -> None:
        self.url, self.place, self.about = url, place, about
        self.started = time.time()


def nodes_in(root: Any) -> Any:
    if NODES not in root:
        root[NODES] = OOBTree()
    return root[NODES]


def signs_of(record: NodeRecord) -> tuple[int, float]:
    """Other ones each time that the node has shown that it lives."""
    return record.beat, record.started


class Seen:
    """What this node has seen of another one."""

    def __init__(self, record: NodeRecord) -> None:
        self.url, self.place, self.about = record.url, record.place, record.about
        self.signs = signs_of(record)
        self.moment = time.monotonic()  # of the last beat

    def quiet(self) -> float:
        return time.monotonic() - self.moment

    def has_died(self) -> bool:
        """Whether it was on this machine, and its process is not there any more. Of other machines only their beats tell."""
        if self.place.partition(':')[0] != socket.gethostname():
            return False
        try:
            os.kill(self.about['pid'], 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # of another user
            pass
        return False


class Registry(threading.Thread):
    """`shared`: whether other nodes may have the same database; of one in its own data directory there is no need to beat."""

    def __init__(self, database: Any, name: str, journal: Journal, shared: bool = True) -> None:
        super().__init__(name='registry', daemon=True)
        self.database, self.node, self.journal, self.shared = database, name, journal, shared
        self.seen: dict[str, Seen] = {}
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.away = False
        self.looked = time.monotonic()
        self.about: tuple[str, str, dict[str, Any]] = '', '', {}

    # ------------------------------------------------------------ this node
    def enter(self, url: str, data_dir: str, **about: Any) -> None:
        """From here on the others know this node. Of an earlier one in the same data directory nothing runs any more."""
        place = f'{socket.gethostname()}:{data_dir}'
        self.about = url, place, {**about, 'pid': os.getpid()}

        def add(nodes: Any) -> None:
            for name in [name for name, record in nodes.items() if record.place == place or not self.shared]:
                del nodes[name]
            self.beat(nodes)

        self.write(add)
        if self.shared:
            self.look()
            self.start()

    def leave(self) -> None:
        self.ended.set()
        if self.is_alive():
            self.join(BEAT)
        with contextlib.suppress(Exception):  # a database that is away: the others notice that it does not beat
            self.write(lambda nodes: nodes.pop(self.node, None))

    def run(self) -> None:
        while not self.ended.wait(BEAT):
            try:
                self.write(self.beat)
                self.look()
                self.away = False
            except Exception as error:  # the database may be away for a while
                if not self.away:
                    self.journal.event('storage away', level='error', cause=f'{type(error).__name__}: {error}')
                self.away = True

    def beat(self, nodes: Any) -> None:
        if self.node not in nodes:  # it begins; or it was away from the database for so long that others have forgotten it
            url, place, about = self.about
            nodes[self.node] = NodeRecord(url, place, **about)
        nodes[self.node].beat += 1
        for name, seen in self.others().items():
            if seen.quiet() > FORGET:
                nodes.pop(name, None)

    def write(self, action: Callable[[Any], object]) -> None:
        change(self.database, lambda root: action(nodes_in(root)))

    # ------------------------------------------------------------ the others
    def look(self) -> None:
        """What the database says of the others; a beat that has grown is a sign of life."""
        with opened(self.database) as root, self.lock:
            nodes, now = nodes_in(root), time.monotonic()
            for seen in self.seen.values() if now - self.looked > GONE / 2 else ():
                seen.moment = now  # this node has not looked: that says nothing of the others
            self.looked = now
            for name in self.seen.keys() - set(nodes):
                del self.seen[name]
            for name, record in nodes.items():
                if name != self.node and (name not in self.seen or self.seen[name].signs != signs_of(record)):
                    self.seen[name] = Seen(record)

    def others(self) -> dict[str, Seen]:
        with self.lock:
            return dict(self.seen)

    def find(self, name: str) -> Seen | None:
        """A node that lives; None for one that has gone. One that is not known may have begun since the last look.

        Raises what the database does if it is away: then nobody can tell.
        """
        if self.shared and (name not in self.others() or time.monotonic() - self.looked > GONE / 2):
            self.look()
        seen = self.others().get(name)
        return seen if seen is not None and seen.quiet() < GONE else None

    def live(self) -> dict[str, Seen]:
        return {name: seen for name, seen in self.others().items() if seen.quiet() < GONE}
