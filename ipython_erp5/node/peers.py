"""What one node asks another: HTTP, on behalf of the user whose request it is, with that user's own authorization.

    dispatch ─► Peers.follow   ══► Base_getJupyterResult     the lines of a cell that runs there, as they happen
                Peers.release  ══► Base_releaseJupyter       may a request that was announced to it begin here?
                Peers.interrupt ═► Base_interruptJupyter
                Peers.running  ══► Base_getJupyterHistory    which cell of a notebook runs there?

A node that has gone is `NodeGone`: the registry says so, its process has ended, or another node answers there. One that lives and cannot
be reached is `NodeUnreachable`; to take it for gone would cost the cells that it runs.
"""

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from .. import wire
from ..errors import ERP5Error
from .registry import Registry

CONNECT = 3.0  # seconds
SILENCE = 20.0  # seconds; a node sends a keepalive every five


class NodeGone(ERP5Error):  # noqa: N818 - a fact, not a fault
    """The node does not live any more."""


class NodeUnreachable(ERP5Error):  # noqa: N818
    """The node lives, and does not answer to this one."""


class NotBegun(ERP5Error):  # noqa: N818
    """The node knows of no such request."""


class Following:
    """The lines of a cell on another node; closed when they are left."""

    def __init__(self, node: str, response: http.client.HTTPResponse, sock: socket.socket) -> None:
        self.node, self.response, self.sock = node, response, sock

    def __enter__(self) -> 'Following':
        return self

    def __exit__(self, *exc: object) -> None:
        self.response.close()

    def __iter__(self) -> Iterator[bytes]:
        try:
            while line := self.response.readline():
                yield line
        except (OSError, http.client.HTTPException) as error:
            raise NodeUnreachable(f'the node {self.node} broke off: {type(error).__name__} {error}'.strip()) from None

    def cancel(self) -> None:
        """From another thread: the lines end."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


class Peers:
    """`certificates`: a file of the authorities that sign those of the nodes, besides the usual ones."""

    def __init__(self, registry: Registry, certificates: str | None = None) -> None:
        self.registry, self.certificates = registry, certificates

    def follow(self, node: str, reference: str, request_id: str, authorization: str, code: str = '', waiting: bool = False
               ) -> 'Following':
        """All lines of a request, from the first to `execute_reply`. NotBegun if the node does not know it, or not any more.

        `code`: if the request is another cell than this, it is refused. `waiting`: for the end of that cell, so that the node lets
        another one of this node begin after it.
        """
        form = {'reference': reference, 'request_id': request_id, 'python_expression': code, 'waiting': '1' if waiting else ''}
        return Following(node, *self.post(node, 'Base_getJupyterResult', form, authorization, wire.NDJSON))

    def release(self, node: str, reference: str, request_id: str, authorization: str) -> str:
        """`running`, `ended`, or `released`: then that node does not begin it any more without looking at the claim again."""
        return str(self.ask(node, 'Base_releaseJupyter', {'reference': reference, 'request_id': request_id}, authorization)['state'])

    def interrupt(self, node: str, reference: str, request_id: str, authorization: str) -> dict[str, Any]:
        return self.ask(node, 'Base_interruptJupyter', {'reference': reference, 'request_id': request_id}, authorization)

    def running(self, node: str, reference: str, authorization: str) -> str:
        """The request of the cell of a notebook that runs there; ''."""
        form = {'reference': reference, 'limit': '0'}
        return str(self.ask(node, 'Base_getJupyterHistory', form, authorization).get('running') or '')

    # ------------------------------------------------------------ HTTP
    def ask(self, node: str, method: str, form: Mapping[str, str], authorization: str) -> dict[str, Any]:
        response, _ = self.post(node, method, form, authorization, 'application/json')
        with response:
            try:
                answer = json.loads(response.read())
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise NodeUnreachable(f'the node {node} broke off: {type(error).__name__} {error}'.strip()) from None
        if not isinstance(answer, dict):
            raise NodeUnreachable(f'the node {node} said {wire.excerpt(str(answer))}')
        return answer

    def post(self, node: str, method: str, form: Mapping[str, str], authorization: str, accept: str
             ) -> tuple[http.client.HTTPResponse, socket.socket]:
        """The answer of that very node; whoever closes it closes the connection. `node` in the form: another one there refuses."""
        try:
            seen = self.registry.find(node)
        except Exception as error:
            raise NodeUnreachable(f'whether the node {node} lives is not known: {type(error).__name__}: {error}') from None
        if seen is None:
            raise NodeGone(f'the node {node} has gone')
        connection = self.connection(seen.url)
        try:
            connection.connect()
            sock: socket.socket = connection.sock  # which the connection forgets once it has answered
            sock.settimeout(SILENCE)
            connection.request('POST', f'{urlsplit(seen.url).path}/{method}', urlencode({**form, 'node': node}),
                               {'Authorization': authorization, 'Accept': accept, 'Connection': 'close',
                                'Content-Type': 'application/x-www-form-urlencoded'})
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if seen.has_died():
                raise NodeGone(f'the process of the node {node} has ended') from None
            raise NodeUnreachable(f'the node {node} does not answer at {seen.url}: {type(error).__name__} {error}'.strip()) from None
        if response.status != 200:
            raise self.refusal(node, seen.url, response)
        return response, sock

    def connection(self, url: str) -> http.client.HTTPConnection:
        parts = urlsplit(url)
        if parts.scheme == 'https':
            context = ssl.create_default_context()
            if self.certificates:
                context.load_verify_locations(self.certificates)
            return http.client.HTTPSConnection(parts.netloc, timeout=CONNECT, context=context)
        return http.client.HTTPConnection(parts.netloc, timeout=CONNECT)

    def refusal(self, node: str, url: str, response: http.client.HTTPResponse) -> ERP5Error:
        with response:
            body = response.read(1000)
        if response.status == 404 and b'"another node"' in body:
            return NodeGone(f'another node answers at {url} now')
        if response.status == 404 and b'"error"' in body:
            return NotBegun(f'the node {node} knows no such request')
        return NodeUnreachable(f'the node {node} answers HTTP {response.status} at {url}')
