"""One notebook of one site: what runs cells, and what they did.

    Session.execute(code) ─► wire.Request ─► Delivery ══► site
                  Reply ◄─ on_message ◄─ wire messages ◄══ as they happen

A cell runs once: see `delivery`. Ctrl-C goes to the cell: see `ctrl_c`.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from . import wire
from .client import Client
from .ctrl_c import CtrlC
from .delivery import SILENCE, Delivery
from .errors import OptionError, UnknownUserError, UnsupportedError, remote_error
from .exchanges import Exchanges
from .handle import UNDER_WAY, RemoteCell
from .history import History
from .known_names import KnownNames
from .reconnecting import Reconnecting
from .reply import Reply
from .stock_delivery import StockDelivery
from .transfer import OnBytes
from .values import Values, bytes_of, names_in

if TYPE_CHECKING:
    from .connections import Connection
    from .credentials import Ask

CONTEXT = 'Base_getJupyterContext'
HISTORY = 'Base_getJupyterHistory'
SHARE = 'Base_shareJupyter'
INTERRUPT = 'Base_interruptJupyter'
PATIENCE = 1.0  # seconds
OnMessage = Callable[[wire.Message], None]


class Session:
    """One notebook of one site: what runs cells. Cells of one session are run one after another."""

    def __init__(self, client: Client, reference: str, title: str = '', serializer: str = '', *, trusted: bool = False,
                 timeout: float = SILENCE) -> None:
        self.client, self.reference, self.title, self.serializer = client, reference, title, serializer
        self.trusted = trusted
        self.delivery: Delivery = StockDelivery(client, reference, timeout)
        self.names = KnownNames()   # of the notebook
        self.node = ''              # that answered last
        self.running = ''           # the request_id of the cell that runs now
        self.leaving: Callable[[], bool] | None = None   # see `CtrlC`
        self.cells: dict[str, RemoteCell] = {}  # request_id -> those that nobody waits for, or nobody has looked at

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.client.url!r}, user={self.client.user!r}, reference={self.reference!r})'

    @property
    def place(self) -> str:
        """Where its cells run, for people: the host, and the node once one has answered."""
        host = urlsplit(self.client.url).netloc
        return f'{host} (node {self.node})' if self.node else host

    def __enter__(self) -> 'Session':
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The notebook stays on the site."""
        self.client.close()

    # ------------------------------------------------------------ cells
    def execute(self, code: str, *, push: Mapping[str, object] | None = None, pull: str | Iterable[str] = (),
                store_history: bool = True, timeout: float | str | None = None, on_message: OnMessage | None = None,
                on_bytes: OnBytes | None = None, fetch: bool = True) -> Reply:
        """Run one cell; `on_message` sees every message as it arrives. What the cell raised is raised after all of them.

        `push`: values of variables that it finds; `pull`: names whose values are in the reply's `values` then, unless `fetch` is False:
        see the methods of these names for errors and for `on_bytes`.

        Ctrl-C interrupts the cell there and goes on waiting for its end; a second one ends its process. `timeout`: seconds after which
        the site ends the cell with CellTimeoutError, from when it begins; OptionError if that is no number of seconds.
        """
        names = names_in(pull)
        request = dataclasses.replace(self._request(code, ','.join(names), store_history), timeout=limit_of(timeout))
        if push:
            request = self.values.pushed(request, push, on_bytes)
        reply = self._wait_for(request.request_id, self.names.heard(self._in_order(request), code), on_message)
        reply.sent = bytes_of(request.push)
        reply.values = self.fetched(reply, names, on_bytes) if fetch and names else {}
        return reply

    def submit(self, code: str, *, push: Mapping[str, object] | None = None, pull: str | Iterable[str] = (), store_history: bool = True,
               timeout: float | str | None = None, on_message: OnMessage | None = None, on_bytes: OnBytes | None = None,
               finish: Callable[[RemoteCell], Any] | None = None) -> RemoteCell:
        """Push, send one cell, and return; its `result()` is a Reply, or what `finish` makes of it. The rest is as for `execute`.

        `on_message` is called in another thread. Cells of a notebook are run one after another all the same.
        """
        self.names.complete = False   # what it binds is not heard of
        delivery, names = self.delivery.another(), names_in(pull)
        request = dataclasses.replace(self._request(code, ','.join(names), store_history, delivery), timeout=limit_of(timeout),
                                      detached=True, next_request_id='')   # there is no next one
        values = dataclasses.replace(self.values, client=delivery.client, is_ours=delivery.is_ours)
        if push:
            request = values.pushed(request, push, on_bytes)
        cell = RemoteCell(delivery, request, self.interrupt, on_message=on_message, finish=finish,
                          fetch=(lambda reply: values.fetched(reply, names)) if names else None,
                          before=next(reversed(self.cells.values()), None))
        self.cells = {key: other for key, other in self.cells.items() if not (other.done() and other.looked)} | {cell.request_id: cell}
        return cell

    def attach(self, request_id: str, on_message: OnMessage | None = None) -> Reply:
        """Wait for a cell of this notebook that runs, whoever began it, as if this session had; of one that has ended, its outcome.

        UnsupportedError where the site keeps none.
        """
        cell = self.cells.get(request_id)
        messages = self.delivery.follow(request_id) if cell is None or cell.status == 'unknown' else cell.follow()
        return self._wait_for(request_id, messages, on_message)

    def _in_order(self, request: wire.Request) -> Iterator[wire.Message]:
        """What was submitted before runs before."""
        for cell in list(self.cells.values()):
            while not cell.arrived.wait(PATIENCE):
                yield wire.keepalive(UNDER_WAY)
        yield from self.delivery.run(request)

    def _wait_for(self, request_id: str, messages: Iterator[wire.Message], on_message: OnMessage | None) -> Reply:
        reply, show = Reply(request_id), on_message or complain
        ctrl_c = CtrlC(lambda: self.interrupt(request_id), lambda text: show(wire.stream('stderr', text)),
                       self.client.sends_nothing_yet, self.leaving)
        self.running = request_id
        try:
            with ctrl_c:
                for message in messages:
                    reply.take(message)
                    if on_message is not None:
                        on_message(message)
        except KeyboardInterrupt:
            self._stopped_waiting(request_id, ctrl_c)
        finally:
            self.running = ''
        self.node = str(reply.reply.get('node') or self.node)
        error = ctrl_c.outcome(reply)
        if error is not None:
            raise error
        return reply

    def _request(self, code: str, pull: str, store_history: bool, delivery: Delivery | None = None) -> wire.Request:
        request_id, next_request_id = (delivery or self.delivery).ids()
        return wire.Request(python_expression=code, reference=self.reference, title=self.title, store_history=store_history,
                            request_id=request_id, next_request_id=next_request_id, serializer=self.serializer, pull=pull)

    def result(self, request_id: str) -> Iterator[wire.Message]:
        """The messages of an earlier cell of this notebook (without keepalives); UnsupportedError where the site keeps none."""
        return self.delivery.result(request_id)

    def _stopped_waiting(self, request_id: str, ctrl_c: CtrlC) -> NoReturn:
        if not ctrl_c.count:
            raise
        if ctrl_c.unsent:
            raise remote_error('KeyboardInterrupt', f'stopped while connecting to {self.client.url}; nothing was sent', ()) from None
        way = f'%erp5_result {request_id} goes back to it' if self.delivery.remembers() else 'look at its variables before you run it again'
        note = f'stopped waiting; the cell {request_id} may still run on {self.client.url}: {way}'
        raise remote_error('KeyboardInterrupt', note, ()) from None

    # ------------------------------------------------------------ looking
    def check(self) -> bool:
        """Whether the notebook exists already. Raises if the site cannot be reached, is none, or refuses the user."""
        return self.client.exists(self.reference)

    def status(self) -> dict[str, Any] | None:
        """What the node says of itself; None for a stock site."""
        status = self.delivery.status()
        self.node = str((status or {}).get('node') or self.node)
        return status

    def context(self) -> dict[str, Any]:
        """The notebook's variables, tombstones and environment."""
        context = self._own(CONTEXT, {}, 'list what a notebook holds')
        self.names.whole(context)
        return context

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

    @property
    def past(self) -> History:
        """The lines of the notebook, to look for one."""
        return History(lambda form: self._own(HISTORY, form, 'list the lines of a notebook'))

    def history(self, first: int = 1, last: int = 0, *, limit: int | None = 30, outputs: bool = False, unlisted: bool = False
                ) -> list[dict[str, Any]]:
        """The newest `limit` lines from `first` to `last` (0: the newest), a dictionary each: `number`, `code`, `status`, `when`, `user`,
        `request_id`, `ename`, `evalue`, `committed`, `listed`, and with `outputs` its `messages`."""
        return self.past.entries(first, last, limit=limit, outputs=outputs, unlisted=unlisted)

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
            named = f'the reference {form["reference"]!r}: %erp5_notebooks lists them, and a new one begins with its first cell'
            raise UnknownUserError(str(answer['error']).replace('this reference', named))
        return list(answer.get('shared_with') or ())

    # ------------------------------------------------------------ values
    def push(self, on_bytes: OnBytes | None = None, /, **values: object) -> None:
        """Make these the values of variables of the notebook. What they share they share there, too. `on_bytes(done, total)` is called
        as large buffers travel.

        SerializationError, with every culprit, if one of them cannot travel: nothing is sent then, and nothing is run.
        """
        if on_bytes is not None and not callable(on_bytes):
            raise OptionError(f'expected values by the names of variables, as session.push(prices=prices), got a {type(on_bytes).__name__}')
        self.execute('pass', push=values, store_history=False, on_bytes=on_bytes)

    def pull(self, *names: str, on_bytes: OnBytes | None = None) -> Any:
        """The value of a variable, or a tuple of those of several, which share here what they share there.

        SerializationError if one cannot travel, UnsupportedError if it may not be unpickled here.
        """
        names = tuple(names_in(names))
        values = self.execute('pass', pull=names, store_history=False, on_bytes=on_bytes).values   # an empty cell would load nothing
        return values[names[0]] if len(names) == 1 else tuple(values[name] for name in names)

    def fetched(self, reply: Reply, names: Iterable[str], on_bytes: OnBytes | None = None) -> dict[str, Any]:
        """The values in the `pull` messages of a cell: see `Values.fetched`."""
        return self.values.fetched(reply, names, on_bytes)

    @property
    def values(self) -> Values:
        return Values(self.client, self.reference, self.trusted, self.delivery.is_ours)


def complain(message: wire.Message) -> None:
    sys.stderr.write(message['text'])


def limit_of(timeout: float | str | None) -> str:
    limit = '' if timeout is None else str(timeout)
    if limit:
        wire.seconds(limit, 'timeout')
    return limit


def open_session(connection: 'Connection', *, trusted: bool = False, timeout: float = SILENCE, exchanges: Exchanges | None = None,
                 ask: 'Ask | None' = None, tell: Callable[[str], None] | None = None) -> Session:
    """The session that a connection describes. Nothing is sent yet: `Session.check` probes the site.

    `exchanges` notes what is sent; `ask` and `tell`: see `Reconnecting`.
    """
    client = Client(connection, exchanges)
    client.renewal = Reconnecting(connection, client.exchanges, ask, tell)
    return Session(client, connection.reference, connection.title or '', connection.serializer or '',
                   trusted=trusted or connection.trusted, timeout=timeout)
