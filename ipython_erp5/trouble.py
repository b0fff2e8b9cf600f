"""What goes wrong between a client and its site, as errors: which say what was expected, what came, and what to do next.

    an exception of requests, of urllib3, of the system ─► failure()          an answer that is none ─► refuse(), not_a_site()

No text has a password, a token, or what is made of them, also where a bad server says back what it was told.
"""

import errno
import json
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
import urllib3
import urllib3.exceptions

from . import authentication, stock, wire
from .credentials import Secret
from .errors import (ConnectionLostError, ERP5Error, NodeError, NodeTimeoutError, NodeUnavailableError, NotASiteError, SiteUnreachableError,
                     TargetError, UnauthorizedError, UnsupportedError)

EXECUTE = 'Base_executeJupyter'
EXAMPLE = 'Connect to the URL of an ERP5 site, such as https://host/erp5'
NO_TLS = ('WRONG_VERSION_NUMBER', 'RECORD_LAYER_FAILURE', 'PACKET_LENGTH_TOO_LONG', 'HTTP_REQUEST')   # OpenSSL's words for it
NAME_MISMATCH = (62, 64)   # OpenSSL's codes: a certificate for another host, for another IP address
GATEWAY = {502: 'a proxy has got no answer from it', 503: 'no node, or no database, is there at the moment',
           504: 'a proxy has waited for its answer, and gave up'}
TO_CHECK = {authentication.BASIC: 'the user (--user, ERP5_USER), the password (ERP5_PASSWORD, ERP5_PASSWORD_FILE, connections.ini, the '
                                  'keyring or ~/.netrc: what they say then is used by the next cell)',
            authentication.BEARER: 'the token (ERP5_TOKEN, ERP5_TOKEN_FILE)',
            authentication.CERTIFICATE: 'the certificate (client_cert, client_key)', '': 'what --auth names'}


def shown(url: str) -> str:
    """The URL without a user, password or query that somebody may have written into it."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition('@')[2], parts.path.rstrip('/'), '', ''))


class Trouble:
    """That with one site, for one user. `secrets`: what no text may show."""

    def __init__(self, url: str, user: str, auth: str, secrets: Sequence[Secret]) -> None:
        self.url, self.user, self.auth, self.secrets = url, user, auth, secrets

    def failure(self, error: Exception, timeout: float | None) -> ERP5Error:
        """What the network did, or the libraries that speak to it."""
        reason = getattr(next(iter(error.args), None), 'reason', None) or error
        cause = next(iter(getattr(reason, 'args', ())), None)
        if getattr(cause, 'library', None) in ('X509', 'PEM'):   # of what is read before a connection is opened
            return TargetError(f'the CA bundle cannot be used ({root(error)}): expected a file of certificates in PEM format (--ca-bundle, '
                               'the key `ca_bundle`, or REQUESTS_CA_BUNDLE). Nothing was sent')
        if getattr(cause, 'reason', None) in NO_TLS:
            return SiteUnreachableError(f'expected TLS from {self.url}, and what answers there does not speak it. Nothing was sent; if '
                                        'the site is on this machine or --insecure is right, write http://')
        if isinstance(error, (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError)):
            if given_up(error):
                return ConnectionLostError(f'the connection to {self.url} broke: nobody is at its other end any more')
            return NodeTimeoutError(f'{self.url} said nothing for {f"{timeout:g}" if timeout else "too many"} seconds. '
                                    'A cell on its way may still run there: look at %erp5_status before you run it again')
        if isinstance(cause, ssl.SSLCertVerificationError):
            way = 'Connect to a name that it is for' if cause.verify_code in NAME_MISMATCH else 'Name the authority with --ca-bundle FILE'
            return SiteUnreachableError(f'the certificate of {self.url} cannot be verified: {cause.verify_message.rstrip(".")}. '
                                        f'{way}. Nothing was sent')
        if isinstance(reason, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)):
            return SiteUnreachableError(f'nothing answers at {self.url}: {root(error)}. Nothing was sent; '
                                        'check the URL, and that the site runs')
        return ConnectionLostError(f'the connection to {self.url} broke: {self.clean(root(error))}')

    def refuse(self, response: requests.Response, body: bytes) -> None:
        """Raise what the status or one of a stock site's plain strings says; pass what may be an answer."""
        status, text = response.status_code, body.decode('utf-8', 'replace').strip()
        told = error_object(body) if status == 403 else None
        if told is not None:
            raise UnauthorizedError(self.clean(str(told['error'])))
        if text == wire.UNAUTHORIZED:
            raise UnauthorizedError(f'{self.url} does not let {self.user or "an anonymous user"!r} run code: {text}. The user needs the '
                                    'permission to manage the portal (in ERP5 the roles Manager and Developer), and the right password: '
                                    'with another one, %erp5_connect again')
        if status in (401, 403):
            raise UnauthorizedError(f'{self.url} does not let {self.user or "an anonymous user"!r} run code (HTTP {status}): '
                                    f'check {TO_CHECK.get(self.auth, TO_CHECK[""])} and the roles of the user')
        if text == wire.DISABLED:
            raise UnsupportedError(f'{self.url} does not run notebooks: {text}. Its administrator can enable that')
        if text == wire.NO_REFERENCE:
            raise TargetError(f'{self.url} needs a reference for the notebook: %erp5_connect --reference NAME')
        if 300 <= status < 400:
            raise self._points_elsewhere(status, urljoin(f'{self.url}/', response.headers.get('Location', '')))
        if status == 404:
            raise NotASiteError(f'expected an ERP5 site at {self.url}: it has no {EXECUTE} (HTTP 404). {EXAMPLE}')
        if status in GATEWAY:
            raise NodeUnavailableError(f'{self.url} answered HTTP {status}: {GATEWAY[status]}')
        if status >= 400:
            said = stock.site_error(text)   # of Zope's page: the exception that the page is about
            reason = wire.excerpt(self.clean(said), 300) if said else self.clean(wire.excerpt(body))
            raise NodeError(f'{self.url} answered HTTP {status} with {reason}. '
                            'If this was a cell, it may have been run: it is not sent again')

    def _points_elsewhere(self, status: int, location: str) -> NotASiteError:
        """To the same method of another site, which may be the right one; or to a page, to log in above all."""
        site, _, method = self.clean(shown(location)).rpartition('/')
        if method.startswith('Base_'):
            return NotASiteError(f'{self.url} points elsewhere, which is not followed: connect to the right URL, {site}')
        return NotASiteError(f'expected an answer of {self.url}, and it points to {site}/{method} (HTTP {status}), which is not followed. '
                             'If that is a page to log in, the site, or a proxy before it, does not take user and password with each '
                             'request; else connect to the right URL')

    def not_a_site(self, expected: str, body: bytes) -> NotASiteError:
        came = self.clean(wire.excerpt(body)) if body else 'nothing'
        return NotASiteError(f'expected {expected} from {self.url}, got {came}. {EXAMPLE}')

    def clean(self, text: str) -> str:
        """A bad server may say back what it was told."""
        for secret in filter(None, self.secrets):
            text = text.replace(secret.reveal(), '…')
        return text

    def refuse_octets(self, method: str, response: requests.Response, body: bytes) -> None:
        """The same of an answer about large buffers."""
        told = error_object(body)
        if response.status_code == 404 and told is None:
            raise UnsupportedError(f'{self.url} can neither take nor send large values: it has no {method}')
        if told is not None and response.status_code in (200, 404):
            again = told.get('ename') == NodeUnavailableError.__name__
            raise (NodeUnavailableError if again else NodeError)(f"{self.url}: {self.clean(str(told['error']))}")
        self.refuse(response, body)


def given_up(error: Exception) -> bool:
    """Whether the system has closed the connection, as no keepalive was answered: Python takes that for a time limit."""
    inner = next((part for part in error.args if isinstance(part, Exception)), error)
    return getattr(inner.__cause__, 'errno', None) == errno.ETIMEDOUT


def bare(error: BaseException) -> BaseException:
    """The error without the frames below: where Ctrl-C came, there are headers in them, and Verbose tracebacks show such."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def error_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object with an `error` with which a node says that what was asked about is not there; None for any other 404."""
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and 'error' in answer else None


def root(error: BaseException) -> str:
    """The innermost reason in requests' and urllib3's nested exceptions, without their addresses of objects."""
    inner = next((part for part in (getattr(error, 'reason', None), *error.args) if isinstance(part, BaseException)), None)
    if inner is not None:
        return root(inner)
    text = str(getattr(error, 'strerror', None) or error)
    text = text.rpartition('>: ')[2].rpartition('): ')[2].removeprefix('Failed to establish a new connection: ')
    return text or type(error).__name__
