"""HTTP to a site: the only file that speaks it.

    form ─► Client.post ══ HTTP ══► site
    wire messages ◄─ Client.messages ◄═ x-ndjson, stock JSON, or anything else (an error of `errors`)

Nothing is ever sent twice, neither here nor by the adapter below; but where nothing was sent, or the answer is a 401, with which nothing
has run, an authenticator of another package may, and so does `renewal` (see `reconnecting`), once, and to where it says. No error, repr or
log line holds a password, a token, or what is made of them.
"""

import copy
import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode

import requests
import urllib3
import urllib3.exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.connection import is_connection_dropped

from . import authentication, stock, wire
from .adapter import Adapter, do_not_warn
from .credentials import Secret
from .errors import ConnectionLostError, ERP5Error, NodeTimeoutError, SiteUnreachableError, TargetError, UnauthorizedError, WireError
from .exchanges import EXCERPT, Exchange, Exchanges
from .octets import OCTETS, Octets, OnBlock, fill
from .trouble import EXECUTE, Trouble, bare, error_object, shown

if TYPE_CHECKING:
    from .connections import Connection

CHECK, STATUS = 'Base_checkExistingReference', 'Base_getJupyterStatus'
CONNECT_TIMEOUT, ANSWER_TIMEOUT = 10.0, 30.0   # seconds
CONNECT = (HTTPConnection.connect.__code__, HTTPSConnection.connect.__code__)
BLOCK = 1 << 20   # bytes that are read at once
IDLE = 60.0   # seconds after which a connection is not used again: a machine that slept, or a firewall, may have lost it in silence
EXCHANGE = 'erp5_exchange'   # an attribute of a response: what is noted of it


class Renewal(Protocol):
    """Where a site is now, and what it may take instead: another connection, or None."""

    def moved(self) -> 'Connection | None':
        """Before a new connection is opened."""

    def unreachable(self) -> 'Connection | None':
        """Nothing answers, and nothing was sent."""

    def refused(self, method: str) -> 'Connection | None':
        """The answer was 401, and nothing was run."""


class Client:
    """The requests that one user sends to one site. Several threads may share it; only the main thread's are renewed."""

    def __init__(self, connection: 'Connection', exchanges: Exchanges | None = None) -> None:
        self.exchanges = Exchanges() if exchanges is None else exchanges
        self.renewal: Renewal | None = None
        self.settled = False    # while something may have begun there, so that it must not go elsewhere
        self._secrets: list[Secret] = []
        self._headers = {'Content-Type': 'application/x-www-form-urlencoded', 'Accept-Encoding': 'identity',
                         'User-Agent': 'ipython_erp5'}
        self._adapter = Adapter()
        self._used = time.time()   # by the clock on the wall, as others stand still while a machine sleeps
        self._use(connection)

    def _use(self, connection: 'Connection') -> None:
        """From now on, this place and these credentials."""
        self.url, self.user, self.auth = shown(connection.url), connection.user or '', connection.auth
        self._prepared: dict[tuple[str, str], requests.PreparedRequest] = {}
        self._authenticate = authentication.load(connection)
        self._secrets = [*self._secrets, *filter(None, (connection.password, connection.token))]
        self.trouble = Trouble(self.url, self.user, self.auth, self._secrets)
        self._verify: bool | str = False if connection.insecure else connection.ca_bundle or True
        if connection.insecure:
            do_not_warn(self.url)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.url!r}, user={self.user!r})'

    def another(self) -> 'Client':
        """The same, with connections of its own."""
        self._renew('moved')
        client = copy.copy(self)
        client._adapter = Adapter()
        return client

    def close(self) -> None:
        """Close the idle connections. A later request opens new ones."""
        self._adapter.close()

    def connected(self) -> bool:
        """Whether the connection of an earlier request is still open: then the same server is at its other end."""
        if not -1 < time.time() - self._used < IDLE:
            self.close()
        manager = self._adapter.poolmanager
        idle = [connection for key in manager.pools.keys() for connection in manager.pools[key].pool.queue]
        return any(connection is not None and not is_connection_dropped(connection) for connection in idle)

    def sends_nothing_yet(self, frame: FrameType | None) -> bool:
        """Whether this frame is of code that opens a connection for a request of which nothing was sent before either."""
        while frame is not None and frame.f_code not in CONNECT:
            frame = frame.f_back
        return frame is not None and not self.settled

    # ------------------------------------------------------------ asking
    def post(self, method: str, form: Mapping[str, str], accept: str = '*/*',
             timeout: float | None = ANSWER_TIMEOUT, octets: Octets | None = None) -> requests.Response:
        """One POST, sent at most once; the answer's body is not read yet. `timeout`: seconds of silence. With `octets` these are the
        body, and the form is the query.

        Raises SiteUnreachableError if nothing was sent, ConnectionLostError or NodeTimeoutError if something may have been.
        """
        body = self._encoded(form) if octets is None else octets
        if not self.connected():
            self._renew('moved')
        try:
            response = self._sent(method, form, body, accept, timeout)
        except SiteUnreachableError as error:
            if type(error) is not SiteUnreachableError or not self._renew('unreachable'):
                raise
        else:
            if response.status_code != 401 or not self._renewed(response, method):
                return response
        return self._sent(method, form, body, accept, timeout)

    def _renewed(self, response: requests.Response, method: str) -> bool:
        """Whether there are other credentials; then nobody needs the answer."""
        try:
            renewed = self._renew('refused', method)
        except BaseException:
            response.close()
            raise
        if renewed:
            self._body(response)
        return renewed

    def _renew(self, event: str, *what: str) -> bool:
        """Whether there is another place, or other credentials, to which the request goes from now on."""
        if self.renewal is None or self.settled or threading.current_thread() is not threading.main_thread():
            return False
        connection = getattr(self.renewal, event)(*what)
        if connection is not None:
            self._use(connection)
        return connection is not None

    def _sent(self, method: str, form: Mapping[str, str], body: bytes | Octets, accept: str,
              timeout: float | None) -> requests.Response:
        request = self._request(method, accept)
        request.body = body  # type: ignore[assignment]
        if isinstance(body, Octets):
            request.url = f'{request.url}?{urlencode(form)}'
            request.headers['Content-Type'] = OCTETS
        request.headers['Content-Length'] = str(len(body))
        request = self._authenticated(request)
        options: dict[str, Any] = {'stream': True, 'timeout': urllib3.Timeout(connect=CONNECT_TIMEOUT, read=timeout),
                                   'verify': self._verify, 'cert': getattr(self._authenticate, 'cert', None)}
        exchange = self.exchanges.begin(f'{self.url}/{method}', form)
        self._used = time.time()
        try:   # the adapter itself: no redirect is followed, and no proxy, netrc or cookie of the environment gets in
            response = self._heard(request, self._adapter.send(request, **options), options)
            exchange.answer(response.status_code, response.headers.get('Content-Type', ''))
            setattr(response, EXCHANGE, exchange)
            return response
        except ERP5Error as error:   # some are an OSError
            failure: BaseException = error
        except requests.exceptions.RequestException as error:
            failure = self.trouble.failure(error, timeout)
        except OSError as error:
            failure = TargetError(f'the CA bundle cannot be used: {error}')
        except BaseException as error:
            failure = error
        exchange.end(type(failure).__name__)
        raise bare(failure) from None

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
        went_out = Secret(str(authenticated.headers.get('Authorization') or '').rpartition(' ')[2])
        self.trouble.secrets = [*self._secrets, went_out]
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
        self.trouble.refuse(response, body)
        try:
            return json.loads(body)
        except ValueError:
            raise self.trouble.not_a_site(f'a JSON answer of {method}', body) from None

    def exists(self, reference: str) -> bool:
        """Whether the user has a notebook of this reference: the question that also probes the site and the password.

        Sites before 2017 cannot tell; they are asked for the list of notebooks, which runs nothing either.
        """
        response = self.post(CHECK, {'reference': reference})
        body = self._body(response)
        if response.status_code == 404:
            return reference in [row['reference'] for row in self.notebooks()]
        self.trouble.refuse(response, body)
        if body.strip() in (b'', b'False', b'True'):
            return body.strip() == b'True'
        raise self.trouble.not_a_site(f'True or nothing from {CHECK}', body)

    def refuses(self, reference: str) -> bool:
        """Whether the site answers 401: it does not know the user, or not by this password, or the user may do nothing there."""
        response = self.post(CHECK, {'reference': reference})
        self._body(response)
        self.close()
        return response.status_code == 401

    def notebooks(self) -> list[dict[str, Any]]:
        """The notebooks that the user may use: `reference`, `title`; of a node also `owner`, `shared_with` (names) and `lines`."""
        response = self.post(EXECUTE, {'request_reference': 'True'}, 'application/json')
        body = self._body(response)
        self.trouble.refuse(response, body)
        try:   # the list is Python's repr, or JSON; null, true and false are in neither of the keys that matter
            rows = stock.literal(body.decode() or '[]') if not body.startswith(b'[{"') else json.loads(body)
            return [{**row, 'reference': str(row['reference'])} for row in rows]
        except (ValueError, SyntaxError, TypeError, KeyError):
            raise self.trouble.not_a_site('a list of notebooks', body) from None

    # ------------------------------------------------------------ large buffers
    def put(self, method: str, query: Mapping[str, str], octets: Octets) -> None:
        """UnsupportedError where the site does not have the method; NodeError, NodeUnavailableError with what it has against it."""
        response = self.post(method, query, 'application/json', octets=octets)
        self.trouble.refuse_octets(method, response, self._body(response))

    def fetch(self, method: str, form: Mapping[str, str], views: Sequence[memoryview], on_block: OnBlock) -> None:
        """The bytes that the site answers, straight into views of bytes, which they have to fill."""
        response = self.post(method, form, OCTETS)
        size = str(sum(map(len, views)))
        if response.status_code != 200 or response.headers.get('Content-Length') != size:
            body = self._body(response)
            self.trouble.refuse_octets(method, response, body)
            raise self.trouble.not_a_site(f'{size} bytes of large values', body)
        with response:
            try:   # urllib3 would copy each block twice
                fill(views, response.raw._original_response, on_block)
                response.raw.release_conn()
            except TimeoutError:
                failure: ERP5Error = NodeTimeoutError(f'{self.url} sent nothing for {ANSWER_TIMEOUT:g} seconds')
            except (http.client.HTTPException, EOFError, OSError) as error:
                failure = self.trouble.failure(error, None)
            else:
                return
        raise failure from None

    # ------------------------------------------------------------ answers
    def messages(self, response: requests.Response) -> Iterator[wire.Message]:
        """The messages of an answer as they arrive, whichever of the two kinds it is; an error of `errors` if it is neither."""
        try:
            if response.status_code == 200 and streams(response):
                yield from (wire.decode(line) for line in lines(self._chunks(response)))
            else:
                yield from stock.messages(self._stock(response))
        finally:
            response.close()

    def _stock(self, response: requests.Response) -> dict[str, Any]:
        """The JSON object of a stock site. Its Content-Type says nothing (Zope guesses), so the content decides."""
        body = self._body(response)
        self.trouble.refuse(response, body)
        try:
            answer = json.loads(body)
        except ValueError:
            if body.startswith(b'{'):
                raise ConnectionLostError(f'the answer of {self.url} broke off') from None
            answer = None
        if not isinstance(answer, dict) or not answer.keys() & {'status', 'code_result'}:
            raise self.trouble.not_a_site('the answer to a cell', body)
        return answer

    def _body(self, response: requests.Response) -> bytes:
        with response:
            return b''.join(self._chunks(response))

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        """The body in the pieces in which it arrives."""
        raw, exchange = response.raw, getattr(response, EXCHANGE)
        try:
            for piece in raw.read_chunked() if raw.chunked else iter(lambda: raw.read1(BLOCK), b''):   # without a size, half would do
                self._noted(exchange, piece)
                yield piece
        except (urllib3.exceptions.HTTPError, OSError) as error:
            failure = self.trouble.failure(error, None)
            exchange.end(type(failure).__name__)
        else:
            return
        finally:
            self._used = time.time()
            exchange.end()
        raise failure from None

    def _noted(self, exchange: Exchange, piece: bytes) -> None:
        if not exchange.received and not piece.lstrip().startswith((b'{', b'[')):
            exchange.excerpt = self.trouble.clean(wire.excerpt(piece[:EXCERPT]))
        exchange.received += len(piece)


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
