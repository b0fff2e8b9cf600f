"""HTTP to a site: the only file that speaks it.

    form ─► Client.post ══ HTTP ══► site
    wire messages ◄─ Client.messages ◄═ x-ndjson, stock JSON, or anything else (an error of `errors`)

Nothing is ever sent twice, neither here nor by the adapter below; only an authenticator of another package may, after a 401, with
which nothing has run. No error, repr or log line holds a password, a token, or what is made of them.
"""

import ast
import json
import ssl
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import requests
import urllib3
import urllib3.exceptions
from urllib3.util.connection import is_connection_dropped

from . import authentication, wire
from .errors import (ConnectionLostError, ERP5Error, NodeError, NodeTimeoutError, NodeUnavailableError, NotASiteError, SiteUnreachableError,
                     TargetError, UnauthorizedError, UnsupportedError, WireError)

if TYPE_CHECKING:
    from .connections import Connection

EXECUTE, CHECK, STATUS = 'Base_executeJupyter', 'Base_checkExistingReference', 'Base_getJupyterStatus'
EXAMPLE = 'Connect to the URL of an ERP5 site, such as https://host/erp5'
CONNECT_TIMEOUT, ANSWER_TIMEOUT = 10.0, 30.0   # seconds
TO_CHECK = {authentication.BASIC: 'the user (--user, ERP5_USER), the password (ERP5_PASSWORD, ERP5_PASSWORD_FILE)',
            authentication.BEARER: 'the token (ERP5_TOKEN, ERP5_TOKEN_FILE)',
            authentication.CERTIFICATE: 'the certificate (client_cert, client_key)', '': 'what --auth names'}


def shown(url: str) -> str:
    """The URL without a user, password or query that somebody may have written into it."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition('@')[2], parts.path.rstrip('/'), '', ''))


class Client:
    """The requests that one user sends to one site. Several threads may share it."""

    def __init__(self, connection: 'Connection') -> None:
        self.url = shown(connection.url)
        self.user = connection.user or ''
        self.auth = connection.auth
        self._authenticate = authentication.load(connection)
        self._secrets = [secret.reveal() for secret in (connection.password, connection.token) if secret]
        self._credentials = ''  # as they went out last
        self._headers = {'Content-Type': 'application/x-www-form-urlencoded', 'Accept-Encoding': 'identity',
                         'User-Agent': 'ipython_erp5'}
        self._verify: bool | str = False if connection.insecure else connection.ca_bundle or True
        self._adapter = requests.adapters.HTTPAdapter(max_retries=0)
        self._prepared: dict[tuple[str, str], requests.PreparedRequest] = {}

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.url!r}, user={self.user!r})'

    def close(self) -> None:
        """Close the idle connections. A later request opens new ones."""
        self._adapter.close()

    def connected(self) -> bool:
        """Whether the connection of an earlier request is still open: then the same server is at its other end."""
        manager = self._adapter.poolmanager
        idle = [connection for key in manager.pools.keys() for connection in manager.pools[key].pool.queue]
        return any(connection is not None and not is_connection_dropped(connection) for connection in idle)

    # ------------------------------------------------------------ asking
    def post(self, method: str, form: Mapping[str, str], accept: str = '*/*',
             timeout: float | None = ANSWER_TIMEOUT) -> requests.Response:
        """One POST, sent at most once; the answer's body is not read yet. `timeout`: seconds of silence.

        Raises SiteUnreachableError if nothing was sent, ConnectionLostError or NodeTimeoutError if something may have been.
        """
        request = self._request(method, accept)
        request.body = self._encoded(form)
        request.headers['Content-Length'] = str(len(request.body))
        request = self._authenticated(request)
        options: dict[str, Any] = {'stream': True, 'timeout': urllib3.Timeout(connect=CONNECT_TIMEOUT, read=timeout),
                                   'verify': self._verify, 'cert': getattr(self._authenticate, 'cert', None)}
        try:   # the adapter itself: no redirect is followed, and no proxy, netrc or cookie of the environment gets in
            response = self._adapter.send(request, **options)
            return self._heard(request, response, options)
        except ERP5Error:   # some are an OSError
            raise
        except requests.exceptions.RequestException as error:
            failure = self._failure(error, timeout)
        except OSError as error:
            failure = TargetError(f'the CA bundle cannot be used: {error}')
        raise failure from None

    def _request(self, method: str, accept: str) -> requests.PreparedRequest:
        """A copy of the prepared request: preparing one costs as much as Zope's traversal."""
        if (method, accept) not in self._prepared:
            request = requests.Request('POST', f'{self.url}/{method}', headers={**self._headers, 'Accept': accept})
            try:
                self._prepared[method, accept] = request.prepare()
            except ValueError as error:
                raise TargetError(f'expected the URL of a site such as https://host/erp5, got {self.url!r}: {error}') from None
        return self._prepared[method, accept].copy()

    def _authenticated(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.hooks = requests.hooks.default_hooks()  # a copy has those of all earlier copies
        try:
            authenticated: requests.PreparedRequest = self._authenticate(request)
        except ERP5Error:
            raise
        except Exception as error:  # of another package; its text may hold a secret that is not known here
            raise UnauthorizedError(f'the authentication {self.auth!r} failed before anything was sent: {type(error).__name__}') from None
        self._credentials = str(authenticated.headers.get('Authorization') or '').rpartition(' ')[2]
        return authenticated

    def _heard(self, request: requests.PreparedRequest, response: requests.Response, options: dict[str, Any]) -> requests.Response:
        """The answer, once the authenticator has seen it: some answer a 401 with a second request."""
        try:
            for hook in request.hooks['response']:
                response = hook(response, **options, proxies={}) or response
        except (ERP5Error, requests.exceptions.RequestException):
            raise
        except Exception as error:
            ran = ', nothing was run' if response.status_code == 401 else ''
            raise UnauthorizedError(f'the authentication {self.auth!r} failed at the answer of {self.url} (HTTP {response.status_code}'
                                    f'{ran}): {type(error).__name__}') from None
        return response

    @staticmethod
    def _encoded(form: Mapping[str, str]) -> bytes:
        try:
            return urlencode(form).encode()
        except UnicodeEncodeError as error:
            raise WireError(f'the cell cannot be sent as UTF-8, nothing was sent: {error}') from None

    def ask(self, method: str, form: Mapping[str, str], timeout: float = ANSWER_TIMEOUT) -> Any:
        """The JSON answer of one of our own methods; None where the site does not have it. `timeout`: seconds of silence.

        Where the method is there and what it was asked about is not, the answer is an object with an `error`.
        """
        response = self.post(method, form, 'application/json', timeout)
        body = self._body(response)
        if response.status_code == 404:
            return error_object(body)
        self._refuse(response, body)
        try:
            return json.loads(body)
        except ValueError:
            raise self._not_a_site(f'a JSON answer of {method}', body) from None

    def exists(self, reference: str) -> bool:
        """Whether the user has a notebook of this reference: the question that also probes the site and the password.

        Sites before 2017 cannot tell; they are asked for the list of notebooks, which runs nothing either.
        """
        response = self.post(CHECK, {'reference': reference})
        body = self._body(response)
        if response.status_code == 404:
            return reference in [row['reference'] for row in self.notebooks()]
        self._refuse(response, body)
        if body.strip() in (b'', b'False', b'True'):
            return body.strip() == b'True'
        raise self._not_a_site(f'True or nothing from {CHECK}', body)

    def notebooks(self) -> list[dict[str, Any]]:
        """The notebooks that the user may use: `reference`, `title`; of a node also `owner`, `shared_with` (names) and `lines`."""
        response = self.post(EXECUTE, {'request_reference': 'True'}, 'application/json')
        body = self._body(response)
        self._refuse(response, body)
        try:   # the list is Python's repr, or JSON; null, true and false are in neither of the keys that matter
            rows = ast.literal_eval(body.decode() or '[]') if not body.startswith(b'[{"') else json.loads(body)
            return [{**row, 'reference': str(row['reference'])} for row in rows]
        except (ValueError, SyntaxError, TypeError, KeyError):
            raise self._not_a_site('a list of notebooks', body) from None

    # ------------------------------------------------------------ answers
    def messages(self, response: requests.Response) -> Iterator[wire.Message]:
        """The messages of an answer as they arrive, whichever of the two kinds it is; an error of `errors` if it is neither."""
        try:
            if response.status_code == 200 and streams(response):
                yield from (wire.decode(line) for line in lines(self._chunks(response)))
            else:
                yield from wire.stock_messages(self._stock(response))
        finally:
            response.close()

    def _stock(self, response: requests.Response) -> dict[str, Any]:
        """The JSON object of a stock site. Its Content-Type says nothing (Zope guesses), so the content decides."""
        body = self._body(response)
        self._refuse(response, body)
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not answer.keys() & {'status', 'code_result'}:
            raise self._not_a_site('the answer to a cell', body)
        return answer

    def _body(self, response: requests.Response) -> bytes:
        with response:
            return b''.join(self._chunks(response))

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        """The body in the pieces in which it arrives."""
        raw = response.raw
        try:
            if raw.chunked:
                yield from raw.read_chunked()
            else:
                yield from iter(raw.read1, b'')
        except (urllib3.exceptions.HTTPError, OSError) as error:
            failure = self._failure(error, None)
        else:
            return
        raise failure from None

    # ------------------------------------------------------------ what may go wrong
    def _failure(self, error: Exception, timeout: float | None) -> ERP5Error:
        reason = getattr(next(iter(error.args), None), 'reason', None) or error
        cause = next(iter(getattr(reason, 'args', ())), None)
        if isinstance(error, (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError)):
            return NodeTimeoutError(f'{self.url} said nothing for {timeout or "too many"} seconds. '
                                    'A cell on its way may still run there: look at %erp5_status before you run it again')
        if isinstance(cause, ssl.SSLCertVerificationError):
            return SiteUnreachableError(f'the certificate of {self.url} cannot be verified: {cause.verify_message}. '
                                        'Name the authority with --ca-bundle FILE. Nothing was sent')
        if isinstance(reason, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)):
            return SiteUnreachableError(f'nothing answers at {self.url}: {root(error)}. Nothing was sent; '
                                        'check the URL, and that the site runs')
        return ConnectionLostError(f'the connection to {self.url} broke: {self._clean(root(error))}')

    def _refuse(self, response: requests.Response, body: bytes) -> None:
        """Raise what the status or one of a stock site's plain strings says; pass what may be an answer."""
        status, text = response.status_code, body.decode('utf-8', 'replace').strip()
        told = error_object(body) if status == 403 else None
        if told is not None:
            raise UnauthorizedError(self._clean(str(told['error'])))
        if status in (401, 403) or text == wire.UNAUTHORIZED:
            raise UnauthorizedError(f'{self.url} does not let {self.user or "an anonymous user"!r} run code (HTTP {status}): '
                                    f'check {TO_CHECK.get(self.auth, TO_CHECK[""])} and the roles of the user')
        if text == wire.DISABLED:
            raise UnsupportedError(f'{self.url} does not run notebooks: {text}. Its administrator can enable that')
        if text == wire.NO_REFERENCE:
            raise TargetError(f'{self.url} needs a reference for the notebook: %erp5_connect --reference NAME')
        if 300 <= status < 400:
            raise NotASiteError(f'{self.url} points elsewhere, which is not followed: connect to the right URL, '
                                f'{self._clean(shown(response.headers.get("Location", "")))}')
        if status == 404:
            raise NotASiteError(f'expected an ERP5 site at {self.url}: it has no {EXECUTE} (HTTP 404). {EXAMPLE}')
        if status in (502, 503, 504):
            raise NodeUnavailableError(f'{self.url} answered HTTP {status}: no node, or no database, is there at the moment')
        if status >= 400:
            raise NodeError(f'{self.url} answered HTTP {status} with {self._clean(wire.excerpt(body))}. '
                            'If this was a cell, it may have been run: it is not sent again')

    def _not_a_site(self, expected: str, body: bytes) -> NotASiteError:
        came = self._clean(wire.excerpt(body)) if body else 'nothing'
        return NotASiteError(f'expected {expected} from {self.url}, got {came}. {EXAMPLE}')

    def _clean(self, text: str) -> str:
        """A bad server may say back what it was told."""
        for secret in filter(None, (*self._secrets, self._credentials)):
            text = text.replace(secret, '…')
        return text


def error_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object with an `error` with which a node says that what was asked about is not there; None for any other 404."""
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and 'error' in answer else None


def streams(response: requests.Response) -> bool:
    return response.headers.get('Content-Type', '').partition(';')[0].strip() == wire.NDJSON


def lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines as soon as they are whole; a last one without its end is ConnectionLostError."""
    parts: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b'\n')
        parts.append(first)
        if others:
            *whole, rest = [b''.join(parts), *others]
            yield from (line for line in whole if line.strip())
            parts = [rest]
    if b''.join(parts).strip():
        raise ConnectionLostError('the answer broke off in the middle of a message')


def root(error: BaseException) -> str:
    """The innermost reason in requests' and urllib3's nested exceptions, without their addresses of objects."""
    inner = next((part for part in (getattr(error, 'reason', None), *error.args) if isinstance(part, BaseException)), None)
    if inner is not None:
        return root(inner)
    text = str(getattr(error, 'strerror', None) or error)
    return text.rpartition('>: ')[2].rpartition('): ')[2] or type(error).__name__
