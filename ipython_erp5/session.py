"""One notebook of one site: what runs cells, and what they did.

    Session.execute(code) ─► wire.Request ─► Delivery ══► site
                  Reply ◄─ on_message ◄─ wire messages ◄══ as they happen

A cell runs once: see `delivery`. Ctrl-C goes to the cell; the second one ends the waiting.
"""

import ast
import base64
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from . import wire
from .client import Client
from .ctrl_c import CtrlC
from .delivery import SILENCE, Delivery
from .errors import ERP5Error, SerializationError, UnknownUserError, UnsupportedError, remote_error
from .reply import Reply

if TYPE_CHECKING:
    from .connections import Connection

CONTEXT = 'Base_getJupyterContext'
SHARE = 'Base_shareJupyter'
INTERRUPT = 'Base_interruptJupyter'
OnMessage = Callable[[wire.Message], None]


class Session:
    """One notebook of one site: what runs cells. Cells of one session are run one after another."""

    def __init__(self, client: Client, reference: str, title: str = '', serializer: str = '', *, trusted: bool = False,
                 timeout: float = SILENCE) -> None:
        self.client, self.reference, self.title, self.serializer = client, reference, title, serializer
        self.trusted = trusted
        self.delivery = Delivery(client, reference, timeout)
        self.running = ''           # the request_id of the cell that runs now

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.client.url!r}, user={self.client.user!r}, reference={self.reference!r})'

    def __enter__(self) -> 'Session':
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The notebook stays on the site."""
        self.client.close()

    # ------------------------------------------------------------ cells
    def execute(self, code: str, *, pull: str = '', store_history: bool = True, timeout: float | str | None = None,
                on_message: OnMessage | None = None) -> Reply:
        """Run one cell; `on_message` sees every message as it arrives. What the cell raised is raised after all of them.

        Ctrl-C interrupts the cell there and goes on waiting for its end; a second one ends the waiting. `timeout`: seconds after which
        the site ends the cell with CellTimeoutError, from when it begins; OptionError if that is no number of seconds.
        """
        limit = '' if timeout is None else str(timeout)
        if limit:
            wire.seconds(limit, 'timeout')
        request = dataclasses.replace(self._request(code, pull, store_history), timeout=limit)
        reply, ctrl_c = Reply(request.request_id), CtrlC(lambda: self._pass_on(request.request_id, on_message))
        self.running = request.request_id
        try:
            with ctrl_c:
                for message in self.delivery.run(request):
                    reply.take(message)
                    if on_message is not None:
                        on_message(message)
        except KeyboardInterrupt:
            self._stopped_waiting(request.request_id, ctrl_c.count)
        finally:
            self.running = ''
        if reply.error is not None:
            raise reply.error
        return reply

    def _request(self, code: str, pull: str, store_history: bool) -> wire.Request:
        request_id, next_request_id = self.delivery.ids()
        return wire.Request(python_expression=code, reference=self.reference, title=self.title, store_history=store_history,
                            request_id=request_id, next_request_id=next_request_id, serializer=self.serializer, pull=pull)

    def result(self, request_id: str) -> Iterator[wire.Message]:
        """The messages of an earlier cell of this notebook (without keepalives); UnsupportedError where the site keeps none."""
        return self.delivery.result(request_id)

    def _pass_on(self, request_id: str, on_message: OnMessage | None) -> None:
        """Interrupt from a thread of its own, while the main thread goes on reading."""
        try:
            if self.interrupt(request_id).get('status') != 'not running':
                return
            reason = 'the site says that it does not run now'
        except ERP5Error as error:
            reason = str(error)
        note = f'Not interrupted: {reason}. Interrupt again to stop waiting for the cell.\n'
        if on_message is None:
            sys.stderr.write(note)
        else:
            on_message(wire.stream('stderr', note))

    def _stopped_waiting(self, request_id: str, count: int) -> NoReturn:
        if not count:
            raise
        note = f'stopped waiting; the cell {request_id} may still run on {self.client.url}'
        raise remote_error('KeyboardInterrupt', note, ()) from None

    # ------------------------------------------------------------ looking
    def check(self) -> bool:
        """Whether the notebook exists already. Raises if the site cannot be reached, is none, or refuses the user."""
        return self.client.exists(self.reference)

    def status(self) -> dict[str, Any] | None:
        """What the node says of itself; None for a stock site."""
        return self.delivery.status()

    def context(self) -> dict[str, Any]:
        """The notebook's variables, tombstones and environment."""
        return self._own(CONTEXT, {}, 'list what a notebook holds')

    def variables(self) -> list[dict[str, Any]]:
        """One dictionary a variable: name, type, size (bytes), cell (number), shares (names)."""
        return list(self.context().get('variables') or ())

    def interrupt(self, request_id: str = '') -> dict[str, Any]:
        """End a cell with KeyboardInterrupt: this one, the one that this session runs, or whichever runs in the notebook."""
        return self._own(INTERRUPT, {'request_id': request_id or self.running}, 'interrupt a cell')

    def _own(self, method: str, form: Mapping[str, str], what: str) -> dict[str, Any]:
        answer = self.client.ask(method, {'reference': self.reference, **form})
        if not isinstance(answer, dict):
            raise UnsupportedError(f'{self.client.url} cannot {what}: it has no {method}')
        return answer

    def notebooks(self) -> list[dict[str, Any]]:
        """The site's notebooks that the user may use, a dictionary each: see `Client.notebooks`."""
        return self.client.notebooks()

    def share(self, user: str, reference: str = '', remove: bool = False) -> list[str]:
        """Let another user use a notebook, by default this one, or no longer; all users with whom it is shared then.

        UnauthorizedError if it is not the user's own, UnknownUserError if the site has no such user, or no such notebook.
        """
        form = {'reference': reference or self.reference, 'user': user, 'remove': str(remove)}
        answer = self._own(SHARE, form, 'share a notebook')
        if 'error' in answer:
            raise UnknownUserError(str(answer['error']))
        return list(answer.get('shared_with') or ())

    # ------------------------------------------------------------ values
    def pull(self, name: str) -> Any:
        """The value of a variable. SerializationError if it cannot travel, UnsupportedError if it may not be unpickled here."""
        reply = self.execute('pass', pull=name, store_history=False)   # an empty cell would load nothing
        if reply.pulled is None:
            raise UnsupportedError(f'{self.client.url} cannot send values')
        return self.value(reply.pulled)

    def value(self, message: wire.Message) -> Any:
        """The value in a `pull` message. A literal is safe from anybody; bytes of a serializer only from who is trusted."""
        if 'data' not in message:
            raise SerializationError(f"{message.get('name')} cannot be sent: {message.get('reason')}")
        data = base64.b64decode(message['data'])
        if message['format'] == 'literal':
            return literal(data)
        if not self.trusted:
            raise UnsupportedError(f"{message['name']} came as {message['format']} bytes, which can run code here, and "
                                   f'{self.client.url} is not trusted. If you trust it: %config ERP5Magics.trusted_sites, or '
                                   'connect(…, trusted=True)')
        from . import serializers
        return serializers.load(data, refuse_reference)[0]


def literal(data: bytes) -> Any:
    try:
        return ast.literal_eval(data.decode())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        failure = f'expected the literal of a value, got {wire.excerpt(data)}: {error}'
    raise SerializationError(failure)


def refuse_reference(reference: object) -> NoReturn:
    """A value that refers to a document of the site's database cannot be a value here."""
    raise SerializationError('a document of the site stays there: send what you need of it')


def open_session(connection: 'Connection', *, trusted: bool = False, timeout: float = SILENCE) -> Session:
    """The session that a connection describes. Nothing is sent yet: `Session.check` probes the site."""
    return Session(Client(connection), connection.reference, connection.title or '', connection.serializer or '',
                   trusted=trusted or connection.trusted, timeout=timeout)
