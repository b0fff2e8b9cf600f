"""The sessions of one shell: connecting one, finding one.

    target, options ─► connections.resolve ─► Session, kept by its connection's name; the last connected is the default

They are kept outside of the extension's own life, so that %reload_ext finds them again, and go with the shell.
"""

import dataclasses
from argparse import Namespace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from IPython.core.interactiveshell import InteractiveShell

from .errors import ERP5Error, NotConnectedError, OptionError
from .exchanges import Exchanges
from .options import did_you_mean

if TYPE_CHECKING:
    from .connections import Connection
    from .session import Session

NEAR = .8   # how like another reference is one that may be a slip, of 1


@dataclasses.dataclass
class Sessions:
    """The sessions of one shell by name; `default` is the name of the last connected one."""

    by_name: dict[str, 'Session'] = dataclasses.field(default_factory=dict)
    default: str = ''
    left: bool = False  # the user has disconnected, or named what could not be connected: nothing connects by itself any more
    refusal: str = ''   # why nothing runs, nor connects by itself: a connection was begun, and is not made yet
    exchanges: Exchanges = dataclasses.field(default_factory=Exchanges)

    def add(self, name: str, session: 'Session') -> None:
        """It becomes the default one."""
        self.left, self.refusal = False, ''
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
    return connections.resolve(target or defaults.url or None, **chosen, insecure=insecure, ask=defaults.ask,
                               password=getattr(options, 'password', None),
                               notebook_name=str(shell.user_ns.get('__vsc_ipynb_file__') or ''))


def serializer_of(session: 'Session') -> str:
    """The one that was asked for, if the node has it, else the one that the notebook has, or will have."""
    status = session.status()
    if status is None:
        return session.serializer or 'of the site'
    known = status.get('serializers') or [session.serializer]
    if session.serializer and session.serializer not in known:
        raise OptionError(f'the node has no serializer {session.serializer!r}{did_you_mean(session.serializer, known)}: '
                          f'it has {", ".join(known)}')
    from .serializers import DEFAULT
    return session.serializer or str(session.context().get('serializer') or DEFAULT)


def meant_instead(session: 'Session') -> str:
    """For a notebook that is new: `; did you mean 'sales'?` if there is one with nearly its reference, else ''.

    Those with other numbers, as in dates, are other ones on purpose. A stock site, which would list everybody's, is not asked.
    """
    wanted = session.reference
    try:
        rows = session.notebooks() if session.delivery.is_ours() else []
    except ERP5Error:   # it matters less than the session
        return ''
    others = {row['reference'].casefold(): row['reference'] for row in rows
              if row['reference'] != wanted and digits(row['reference']) == digits(wanted)}
    near = get_close_matches(wanted.casefold(), others, 1, NEAR)
    return f'; did you mean {others[near[0]]!r}?' if near else ''


def digits(text: str) -> str:
    return ''.join(filter(str.isdigit, text))


def described(session: 'Session') -> str:
    """user@host/site, reference 'name'"""
    site = session.client.url.partition('://')[2]
    user = f'{session.client.user}@' if session.client.user else ''
    return f'{user}{site}, reference {session.reference!r}'
