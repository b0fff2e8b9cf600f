"""As whom to connect: user, password, token, certificate; from the environment, the file of connections, the keyring, netrc, a prompt.

A password is in a `Secret`, which shows itself nowhere; it is found only for the user, and for the site, that its source names.
"""

import getpass
import netrc
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from .authentication import BASIC, BEARER, CERTIFICATE
from .errors import TargetError
from .settings import connections_file

# Asks for a password: the text of the prompt -> what was typed.
Ask = Callable[[str], str]


class Secret:
    """A password or token. Only `reveal` gives it; as text it is asterisks, and it cannot be pickled."""

    __slots__ = ('_value',)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return '********'

    def __format__(self, format: str) -> str:
        return repr(self)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __copy__(self) -> 'Secret':
        return self

    def __deepcopy__(self, memo: object) -> 'Secret':
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError('a password is not serialized')


@dataclass(frozen=True)
class Site:
    """A site and what is configured for it (`KEYS`); `environment`: whether ERP5_USER and ERP5_PASSWORD are meant for it."""

    name: str
    url: str
    settings: Mapping[str, str] = field(repr=False)
    environment: bool
    embedded: bool = False


# ---------------------------------------------------------------- user and password
def find_user(site: Site) -> str:
    user = known_user(site)
    if not user:
        raise TargetError(f'no user is known for {site.url}: write --user NAME, or set ERP5_USER, or the key `user` of a section '
                          f'of {connections_file()}')
    return user


def known_user(site: Site) -> str:
    """'' if nothing names one."""
    host = urlsplit(site.url).hostname or ''
    return (os.environ.get('ERP5_USER', '') if site.environment else '') or site.settings.get('user') or netrc_login(host)[0]


def password_for(auth: str, site: Site, user: str, ask: Ask | None) -> str:
    """'' for what has no password, or can do without."""
    if auth == BASIC:
        return find_password(site, user, ask)
    return '' if auth in (BEARER, CERTIFICATE) or not user else next(filter(None, passwords(site, user)), '')


def find_password(site: Site, user: str, ask: Ask | None) -> str:
    """The password of `user`: from a source that names this user, or none."""
    host = urlsplit(site.url).hostname
    password = next(filter(None, passwords(site, user)), '') or asked_password(f'Password of {user} at {site.url}: ', ask)
    if not password:
        raise TargetError(f'no password is known for {user} at {site.url}: set ERP5_PASSWORD_FILE or ERP5_PASSWORD, or the key '
                          f'`password` of a section of {connections_file()}, or add `machine {host} login {user}` and its '
                          f'password to ~/.netrc')
    return password


def passwords(site: Site, user: str) -> Iterator[str]:
    """What the sources know, in their order, each asked only when it is reached."""
    if site.environment and os.environ.get('ERP5_USER', '') in ('', user):
        yield environment_password()
    if site.settings.get('user', '') in ('', user):
        yield site.settings.get('password', '')
    yield keyring_password(site.url, user)
    login, password = netrc_login(urlsplit(site.url).hostname or '')
    if login == user:
        yield password


def environment_password() -> str:
    return os.environ.get('ERP5_PASSWORD') or of_file('ERP5_PASSWORD_FILE', 'password')


def of_file(variable: str, what: str) -> str:
    """What is in the file that a variable of the environment names; '' without the variable."""
    path = os.environ.get(variable)
    if not path:
        return ''
    try:
        secret = Path(path).expanduser().read_text(encoding='utf-8').strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f'{variable} names {path}, which cannot be read: {error}') from None
    if not secret:
        raise TargetError(f'{variable} names {path}, which is empty: write the {what} into it')
    return secret


def keyring_password(url: str, user: str) -> str:
    """What `keyring set URL USER` has stored. Many machines have no keyring, or one without a backend."""
    try:
        import keyring
        import keyring.errors
    except ImportError:
        return ''
    try:
        return keyring.get_password(url, user) or ''
    except keyring.errors.KeyringError as error:
        warnings.warn(f'the keyring gives no password for {user}: {error}', stacklevel=2)
        return ''


def netrc_login(host: str) -> tuple[str, str]:
    """User and password in the file that NETRC names, or in ~/.netrc; '' for what is not there."""
    try:
        entry = netrc.netrc(os.environ.get('NETRC')).authenticators(host)
    except FileNotFoundError:
        return '', ''
    except (OSError, netrc.NetrcParseError) as error:
        # Not the text of the error, which may quote a password.
        warnings.warn(f'{error.filename} is not used: its mode is not 0600, or it is malformed at line '
                      f'{getattr(error, "lineno", None) or "?"}', stacklevel=2)
        return '', ''
    return (entry[0], entry[2] or '') if entry else ('', '')


def ask(prompt: str) -> str:
    """What somebody types, '' where nobody could. A kernel has a question to its front end in the place of `getpass`."""
    kernel = getpass.getpass.__module__ != getpass.__name__
    terminal = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
    ours = threading.current_thread() is threading.main_thread()
    return getpass.getpass(prompt) if ours and (kernel or terminal) else ''


def asked_password(prompt: str, ask: Ask | None) -> str:
    """What was typed; '' where nobody can be asked (papermill, nbconvert, a closed terminal)."""
    try:
        return ask(prompt) if ask else ''
    except (EOFError, NotImplementedError):  # IPython's StdinNotImplementedError is the second
        return ''


# ---------------------------------------------------------------- other ways to show who asks
def find_token(site: Site) -> str:
    """As a password: the environment's is for ERP5_URL, where that is set, and nobody else gets it."""
    token = (os.environ.get('ERP5_TOKEN') or of_file('ERP5_TOKEN_FILE', 'token')) if site.environment else ''
    token = token or site.settings.get('token', '')
    if not token:
        raise TargetError(f'no token is known for {site.url}: set ERP5_TOKEN_FILE or ERP5_TOKEN, or the key `token` of a section of '
                          f'{connections_file()}')
    return token


def client_files(site: Site, auth: str) -> dict[str, str]:
    files = {key: site.settings.get(key, '') for key in ('client_cert', 'client_key')}
    if auth == CERTIFICATE and not files['client_cert']:
        raise TargetError(f'no certificate is known for {site.url}: set the keys `client_cert` and `client_key`, files in PEM format, '
                          f'in a section of {connections_file()}')
    return files
