"""A session goes on where its site has moved or its password has changed, and nothing is run twice.

    Client.post ─► nothing answers, nothing was sent ─► the embedded node, found or started again        ─┬► sent to it
                ─► 401, nothing was run ─► what the environment, files and keyring say now ─► a prompt   ─┘

`Client` asks before it gives up, and only where certainly nothing has begun: then the request goes out once more. Other credentials are
shown to the site first with a question that runs nothing. Only the main thread asks and starts anything: nobody waits for the others.
"""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from . import local_node
from .authentication import BASIC, BEARER
from .client import CHECK, Client
from .connections import Connection, site_again
from .credentials import Ask, Secret, asked_password, find_token, passwords
from .errors import NodeError, RemoteError, remote_error
from .exchanges import Exchanges

TRIES = 3         # how often a password is asked for
PATIENCE = 10.0   # seconds for a node that is about to begin or to end
STORAGE = 'sqlite'   # what a node has that is started without being told

Tell = Callable[[str], None]


class Reconnecting:
    """Where a session is, and as whom, from one request to the next.

    `ask`: how to ask for a password, None where nobody could answer; `tell` gets one line when something has changed.
    """

    def __init__(self, connection: Connection, exchanges: Exchanges, ask: Ask | None = None, tell: Tell | None = None) -> None:
        self.connection, self.exchanges, self.ask, self.tell = connection, exchanges, ask, tell or (lambda line: None)
        self._refused: set[Secret] = set()
        node = local_node.described(Path(connection.data_dir)) if connection.data_dir else None
        self._storage = node.storage if node else ''

    def moved(self) -> Connection | None:
        """Before a new connection is opened: where the embedded node is now, None if it is where it was."""
        if not self.connection.data_dir:
            return None
        with interruptible():
            found = self._embedded()
            return None if found == self.connection else self._settled(found, 'the embedded node has been started again')

    def unreachable(self) -> Connection | None:
        """Nothing answers. The embedded node may be about to begin or to end; another site needs its administrator."""
        if not self.connection.data_dir:
            return None
        end, folder = time.monotonic() + PATIENCE, Path(self.connection.data_dir)
        with interruptible():
            while (node := local_node.running(folder)) is not None and not node.answers() and time.monotonic() < end:
                time.sleep(.1)
            found = self._embedded()
            return self._settled(found, 'the embedded node answers again') if node is None or node.answers() else None

    def refused(self, method: str) -> Connection | None:
        """The site has answered 401: other credentials, which it takes; None if there are none, or if it was not about these."""
        with interruptible():
            if method != CHECK and not self._refuses(self.connection):
                return None
            self._refused.add(credential(self.connection))
            for other, line in self._others():
                if credential(other) and not self._refuses(other):
                    return self._changed(other, line)
                self._refused.add(credential(other))
        return None

    # ------------------------------------------------------------ the embedded node
    def _embedded(self) -> Connection:
        """NodeError if the node has another database now: the notebook of this session is not in it."""
        folder = Path(self.connection.data_dir)
        if local_node.running(folder) is None and self._storage != STORAGE:
            raise NodeError(f'the embedded node has ended, and its database ({self._storage}) is not the one that it has without '
                            '--storage: start it again as before (`ipython-erp5 start --storage URI`), then run the cell')
        node = local_node.embedded(folder)
        if node.storage != self._storage:
            raise NodeError(f'the embedded node has another database now ({node.storage}, before it was {self._storage}): '
                            '%erp5_connect connects to it, and its notebooks')
        return dataclasses.replace(self.connection, url=node.url, user=node.user, password=Secret(node.password()),
                                   ca_bundle=node.ca_bundle or self.connection.ca_bundle)

    def _settled(self, found: Connection, why: str) -> Connection:
        probe = Client(found, self.exchanges)
        known = 'existing' if probe.exists(found.reference) else 'new: what it held is not there'
        probe.close()
        return self._changed(found, f'Reconnected: {why}: {found.user}@{urlsplit(found.url).netloc}, reference '
                                    f'{found.reference!r} ({known})\n')

    # ------------------------------------------------------------ credentials
    def _others(self) -> Iterator[tuple[Connection, str]]:
        """(connection, the line to tell): each only when the one before was refused."""
        now, where = self.connection, f'at {self.connection.url}'
        if now.data_dir:
            yield self._embedded(), f'Reconnected {where}: the password of {now.user} has been read again\n'
        elif now.auth == BEARER:
            yield dataclasses.replace(now, token=Secret(find_token(site_again(now)))), \
                f'Reconnected {where}: the token has been read again\n'
        else:
            for found in map(Secret, passwords(site_again(now), now.user)):
                yield dataclasses.replace(now, password=found), f'Reconnected {where}: the password of {now.user} has been read again\n'
        for _ in range(TRIES if now.auth == BASIC and now.user else 0):
            typed = asked(f'{now.url} refuses the password of {now.user}. Password: ', self.ask)
            if not typed:
                return
            yield dataclasses.replace(now, password=typed), ''

    def _refuses(self, connection: Connection) -> bool:
        return credential(connection) in self._refused or Client(connection, self.exchanges).refuses(connection.reference)

    def _changed(self, connection: Connection, line: str) -> Connection:
        self.connection = connection
        self.tell(line)
        return connection


def credential(connection: Connection) -> Secret:
    return connection.token if connection.auth == BEARER else connection.password


def asked(prompt: str, ask: Ask | None) -> Secret:
    """What was typed. Ctrl-C leaves, as an interrupt of the cell, which has not begun."""
    try:
        return Secret(asked_password(prompt, ask))
    except KeyboardInterrupt:
        pass
    raise remote_error('KeyboardInterrupt', 'no password was given, and nothing was run', ())


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C is for us, and not for a cell: none has begun. It is one line, and no traceback."""
    handler = signal.getsignal(signal.SIGINT)
    if handler in (None, signal.SIG_IGN, signal.SIG_DFL) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
        return
    except RemoteError:   # it says what was stopped
        raise
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, handler)
    raise remote_error('KeyboardInterrupt', 'stopped while connecting; nothing was run', ())
