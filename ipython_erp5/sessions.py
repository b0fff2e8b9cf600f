"""The sessions of one shell: connecting one, finding one.

    target, options ─► connections.resolve ─► Session, kept by its connection's name; the last connected is the default

They are kept outside of the extension's own life, so that %reload_ext finds them again, and go with the shell.
"""

import dataclasses
import getpass
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from IPython.core.interactiveshell import InteractiveShell

from .errors import NotConnectedError, OptionError
from .options import did_you_mean

if TYPE_CHECKING:
    from .connections import Connection
    from .session import Session

DEFAULT_SERIALIZER = 'cloudpickle'


@dataclasses.dataclass
class Sessions:
    """The sessions of one shell by name; `default` is the name of the last connected one."""

    by_name: dict[str, 'Session'] = dataclasses.field(default_factory=dict)
    default: str = ''
    left: bool = False  # the user has disconnected: nothing connects by itself any more

    def add(self, name: str, session: 'Session') -> None:
        """It becomes the default one."""
        self.left = False
        self.by_name.pop(name, None)
        self.by_name[name] = session
        self.default = name

    def remove(self, name: str) -> None:
        """The one that was connected before it becomes the default one."""
        del self.by_name[name]
        self.default = next(reversed(self.by_name), '')
        self.left = True

    def existing(self, name: str) -> 'Session':
        if name in self.by_name:
            return self.by_name[name]
        if not self.by_name:
            raise NotConnectedError('there is no session: %erp5_connect [TARGET] makes one')
        raise OptionError(f'there is no session {name!r}{did_you_mean(name, self.by_name)}: '
                          f'connected are {", ".join(self.by_name)}')


KEPT: 'WeakKeyDictionary[InteractiveShell, Sessions]' = WeakKeyDictionary()


def sessions_of(shell: InteractiveShell) -> Sessions:
    return KEPT.setdefault(shell, Sessions())


# ---------------------------------------------------------------- connecting
def resolve(shell: InteractiveShell, target: str | None, options: Namespace, defaults: Any) -> 'Connection':
    """Options first, then `defaults` (the traits of ERP5Magics), then what `connections` finds."""
    from . import connections
    chosen = {name: getattr(options, name, None) or getattr(defaults, name, None) or None
              for name in ('user', 'reference', 'title', 'serializer', 'ca_bundle', 'auth')}
    insecure = getattr(options, 'insecure', False) or defaults.insecure
    return connections.resolve(target or defaults.url or None, **chosen, insecure=insecure, ask=asker(shell),
                               notebook_name=str(shell.user_ns.get('__vsc_ipynb_file__') or ''))


def asker(shell: InteractiveShell) -> Callable[[str], str] | None:
    """How to ask for a password, or None where nobody could answer."""
    if hasattr(shell, 'kernel') or (sys.stdin is not None and sys.stdin.isatty()):
        return getpass.getpass
    return None


def serializer_of(session: 'Session') -> str:
    """The one that was asked for, if the node has it, else the one that the notebook has, or will have."""
    status = session.status()
    if status is None:
        return session.serializer or 'of the site'
    known = status.get('serializers') or [session.serializer]
    if session.serializer and session.serializer not in known:
        raise OptionError(f'the node has no serializer {session.serializer!r}{did_you_mean(session.serializer, known)}: '
                          f'it has {", ".join(known)}')
    return session.serializer or str(session.context().get('serializer') or DEFAULT_SERIALIZER)


def described(session: 'Session') -> str:
    """user@host/site, reference 'name'"""
    site = session.client.url.partition('://')[2]
    user = f'{session.client.user}@' if session.client.user else ''
    return f'{user}{site}, reference {session.reference!r}'
