"""How a client shows who it is: by a name that a connection chooses (`auth`).

    Connection ─► load(connection) ─► an authenticator, applied to every request before it is sent

    basic         user and password                                   the default
    bearer        a token: `token` of the connection
    certificate   mutual TLS: `client_cert` and `client_key`, files
    others        entry points of the group `ipython_erp5.authentication`: name -> factory(Connection) -> authenticator

An authenticator is what `requests` has as one (`requests.auth.AuthBase`): called with a prepared request, it returns it with what it
adds. It may have an attribute `cert`, the files of a client's certificate as `requests` takes them, and register response hooks
on the request, as those of Kerberos do: a hook may send the request again after a 401, which says that nothing has run.

Nothing here shows a secret: not in a repr, and not in an error.
"""

import base64
import ssl
from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .errors import TargetError, UnsupportedError, did_you_mean

if TYPE_CHECKING:
    from .connections import Connection

GROUP = 'ipython_erp5.authentication'
BASIC, BEARER, CERTIFICATE = 'basic', 'bearer', 'certificate'


class Request(Protocol):
    """Of a prepared request of `requests`, what is used here."""

    headers: MutableMapping[str, str]


Authenticator = Callable[[Any], Any]


class Header:
    """The same header with every request."""

    __slots__ = ('scheme', '_credentials')   # no `__dict__` that would show it

    def __init__(self, scheme: str, credentials: str) -> None:
        self.scheme, self._credentials = scheme, credentials

    def __call__(self, request: Request) -> Request:
        request.headers['Authorization'] = f'{self.scheme} {self._credentials}'
        return request

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.scheme!r})'


class Certificate:
    """Mutual TLS: the handshake shows who the client is, and the request has nothing of it."""

    def __init__(self, cert: str | tuple[str, str]) -> None:
        self.cert = cert

    def __call__(self, request: Request) -> Request:
        return request


def basic(connection: 'Connection') -> Authenticator:
    """Without a user, nothing is sent. TargetError for one with a colon, behind which a password may have been typed."""
    if not connection.user:
        return lambda request: request
    if ':' in connection.user:
        raise TargetError(f'the user for {connection.url} has a colon, which no user can have: write only the name')
    pair = f'{connection.user}:{connection.password.reveal()}'
    return Header('Basic', base64.b64encode(pair.encode()).decode())


def bearer(connection: 'Connection') -> Authenticator:
    """TargetError for a token that could not be a header."""
    token = connection.token.reveal()
    if not token.isascii() or not token.isprintable() or ' ' in token:
        raise TargetError(f'the token for {connection.url} is none: expected printable ASCII characters without blanks')
    return Header('Bearer', token)


def certificate(connection: 'Connection') -> Authenticator:
    """TargetError if the files are no certificate and its key: what `ssl` says of them comes too late, and names none."""
    if not connection.url.startswith('https://'):
        raise TargetError(f'a client certificate needs https://, and the site is {connection.url}')
    cert, key = (str(Path(name).expanduser()) if name else '' for name in (connection.client_cert, connection.client_key))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key or None, password=lambda: '')
    except OSError as error:    # ssl.SSLError is one
        reason = error.strerror if error.errno and not isinstance(error, ssl.SSLError) else getattr(error, 'reason', None) or error
        raise TargetError(f'the client certificate {connection.client_cert} (client_cert) cannot be used with the key in '
                          f'{connection.client_key or "the same file"} (client_key): {reason}. Expected PEM files that belong '
                          'together, the key without a passphrase') from None
    return Certificate((cert, key) if key else cert)


BUILT_IN: dict[str, Callable[['Connection'], Authenticator]] = {BASIC: basic, BEARER: bearer, CERTIFICATE: certificate}


def load(connection: 'Connection') -> Authenticator:
    """What authenticates the requests of a connection. UnsupportedError for a name that nobody knows, or whose package fails."""
    if connection.auth in BUILT_IN:
        return BUILT_IN[connection.auth](connection)
    for point in entry_points():
        if point.name == connection.auth:
            return made(point, connection)
    raise UnsupportedError(unknown(connection.auth))


def made(point: Any, connection: 'Connection') -> Authenticator:
    """Only the type of a foreign error is shown: its text may hold what it was given."""
    try:
        authenticator: Authenticator = point.load()(connection)
    except (TargetError, UnsupportedError):
        raise
    except Exception as error:
        raise UnsupportedError(f'the authentication {point.name!r} ({point.value}) cannot be used: {type(error).__name__}') from None
    if not callable(authenticator):
        raise UnsupportedError(f'expected something callable with a request from {point.value}, got a {type(authenticator).__name__}')
    return authenticator


def entry_points() -> Iterable[Any]:
    from importlib import metadata  # slow, and needed by nobody who takes a built-in one
    return metadata.entry_points(group=GROUP)


def names() -> list[str]:
    return sorted({*BUILT_IN, *(point.name for point in entry_points())})


def unknown(name: str) -> str:
    return (f'there is no authentication {name!r}{did_you_mean(name, names())} There are {", ".join(names())}; a package may add others '
            f'(entry points of the group {GROUP})')
