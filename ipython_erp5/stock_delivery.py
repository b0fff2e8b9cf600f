"""A cell on its way to a site that may be a stock ERP5 site.

                              ┌─ one of ours ──► Delivery.run
    wire.Request ─► splitting ┤
                              └─ stock ────────► what defines ─► the catalog lists a new notebook ─► the rest ─► values that are asked for
    wire messages, as of one cell ◄────────────────────────────────────────────────────────────────────┘

Whether a site is stock is seen from its first answer; it is asked for, once, only where that is needed before a cell is sent: where the
cell would be split or refused. Each part is sent once, the next one only if the one before did not fail.
"""

import base64
import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any

from . import stock, wire
from .client import Client
from .delivery import SILENCE, Delivery
from .errors import ERP5Error, EnvironmentDefinitionError, NodeError, NodeTimeoutError, NodeUnavailableError, UnsupportedError
from .splitting import Parts, split

LISTED, LOOK = 60.0, .5   # seconds: how long a new notebook is waited for, and between two looks
ENVIRONMENT = "name 'environment' is not defined"
VALUE = '_'               # what `pull` names for the value of the cell itself
UNKNOWN = 'Whether the cell was run, or still runs, is not known: it was not sent again. Look at its variables before you run it again'


@dataclasses.dataclass
class Listing:
    """`made`: the notebook may be new, so that the catalog may not list it yet; `listed`: it does, or was waited for."""

    made: bool = False
    listed: bool = False


class StockDelivery(Delivery):
    """A delivery that also does what stock sites need."""

    def __init__(self, client: Client, reference: str, timeout: float = SILENCE) -> None:
        super().__init__(client, reference, timeout)
        self._stock: bool | None = None     # whether the site is a stock one, once that is known
        self._listing = Listing()

    def status(self) -> dict[str, Any] | None:
        """What the node says of itself; None for a stock site."""
        answer = super().status()
        self._stock = answer is None
        return answer

    def another(self) -> 'StockDelivery':
        delivery = super().another()
        assert isinstance(delivery, StockDelivery)
        delivery._stock, delivery._listing = self._stock, self._listing
        return delivery

    def is_stock(self) -> bool:
        """It is asked at most once."""
        if self._stock is None:
            self.status()
        return bool(self._stock)

    def is_ours(self) -> bool:
        return not self.is_stock()

    def remembers(self) -> bool:
        return not self._stock

    def run(self, request: wire.Request) -> Iterator[wire.Message]:
        """The messages of one cell, the last of them `execute_reply`, however many requests it takes."""
        parts = None if self._streams else self._parts(request)
        if parts is None:
            yield from super().run(request)
        else:
            yield from self._report(request, parts, self._run(request, parts))

    def _parts(self, request: wire.Request) -> Parts | None:
        """The cells for a stock site; None if it is not one. What no such site runs is an error."""
        code = request.python_expression
        try:
            parts = split(code)
        except (UnsupportedError, EnvironmentDefinitionError):
            if self.is_stock():
                raise
            return None
        return None if parts.cells != (code,) and not self.is_stock() else parts

    # ------------------------------------------------------------ when something goes wrong
    def _delivered(self, request: wire.Request) -> Iterator[wire.Message]:
        """A proxy that answers for the site, or nobody, does not say what becomes of a cell that cannot be sent again."""
        try:
            yield from super()._delivered(request)
            return
        except (NodeUnavailableError, NodeTimeoutError) as error:
            failure = type(error)(f'{error}. {UNKNOWN}')
        raise failure

    def _may_send_again(self, broke: ERP5Error) -> bool:
        return not self._stock and super()._may_send_again(broke)

    # ------------------------------------------------------------ the requests of one cell
    def _run(self, request: wire.Request, parts: Parts) -> Iterator[wire.Message]:
        """The messages of all its requests, each ending with its `execute_reply`; whoever reads them stops after one that failed."""
        only_values = self._stock and request.python_expression == 'pass' and (request.push or names_of(request))
        cells = () if only_values else parts.cells
        if request.push:
            yield from self._send(request, json.loads(request.push)['source'])
        for message in self._first(request, parts.first) if len(cells) == 2 else ():
            if has_no_environment(message) and 'environment' not in request.python_expression:
                cells = ('', request.python_expression)   # of 2015: what it imports is there at once, and kept
                break
            yield message
        for cell in cells[-1:]:
            yield from self._send(request, cell)
        for name in names_of(request) if not self._streams else ():
            yield self._value_of(request, name)
        if not cells and not request.push:
            yield wire.execute_reply('ok', True, request.request_id)

    def _first(self, request: wire.Request, cell: str) -> Iterator[wire.Message]:
        """What defines. The first sites said only by a page what a cell had raised."""
        try:
            yield from self._send(request, cell)
            return
        except NodeError as error:
            if ENVIRONMENT not in str(error) or 'environment' in request.python_expression:
                raise
        yield wire.error('NameError', ENVIRONMENT, ())

    def _send(self, request: wire.Request, cell: str) -> Iterator[wire.Message]:
        yield from self._wait_until_listed()
        for message in Delivery.run(self, dataclasses.replace(request, python_expression=cell, push='')):
            self._stock = not self._streams
            self._listing.made |= self._stock and makes_a_notebook(message)
            yield message

    def _wait_until_listed(self) -> Iterator[wire.Message]:
        """Before the next request of a new notebook: until the catalog has it, a stock site would make a second one."""
        if not self._listing.made or self._listing.listed:
            return
        end, first = time.monotonic() + LISTED, True
        while not self._is_listed(first):
            first = False
            if time.monotonic() > end:
                yield wire.stream('stderr', f'{self.client.url} does not list the notebook {self.reference!r} after {LISTED:g} seconds: '
                                            'if it makes a second one, the variables of earlier cells are missing in later ones.\n')
                break
            yield wire.keepalive(f'the catalog of {self.client.url} does not list the new notebook yet')
            time.sleep(LOOK)
        self._listing.listed = True

    def _is_listed(self, first: bool) -> bool:
        """Whether the notebook is found; also where the site cannot tell. One of another owner, which is not new, is in the list of all,
        which may be long: it is asked for at the first look only."""
        try:
            return self.client.exists(self.reference) or first and self.reference in [row['reference'] for row in self.client.notebooks()]
        except ERP5Error:
            return True

    def _value_of(self, request: wire.Request, name: str) -> wire.Message:
        """A variable, from what the site prints of it."""
        text, failure = '', ''
        try:
            for message in self._send(request, f'print(repr({name}))'):
                if message['msg_type'] == 'stream' and message['name'] == 'stdout':
                    text += message['text']
                elif message['msg_type'] == 'error':
                    failure = f"{message['ename']}: {message['evalue']}"
        except NodeError as error:      # of 2015: so it says what a cell has raised
            failure = str(error)
        return pulled(name, text) or wire.not_pulled(name, failure or 'a stock ERP5 site sends only plain values, and this one shows as '
                                                     + wire.excerpt(text))

    # ------------------------------------------------------------ one cell for the reader
    def _report(self, request: wire.Request, parts: Parts, messages: Iterator[wire.Message]) -> Iterator[wire.Message]:
        """One result, error, context and reply out of those of all requests; the others as they come."""
        merged = Merged()
        try:
            for message in messages:
                if self._streams or message['msg_type'] not in Merged.KINDS:    # one of ours: all of them as they come
                    yield message
                elif not merged.take(message):
                    break
        except ERP5Error:   # in a later request: what the earlier ones have done is shown
            merged.error = merged.reply = None
            yield from merged.messages(request, self._news(request, parts, merged.context))
            raise
        if not self._streams:
            yield from merged.messages(request, self._news(request, parts, merged.context))

    def _news(self, request: wire.Request, parts: Parts, context: wire.Message | None) -> wire.Message | None:
        """The `context` message: each warning once a session, and a way out for what was not saved."""
        said = context or wire.context((), (), (), (), '')
        lost = [{**item, 'suggestion': suggestion(item['name'], request.python_expression)}
                for item in said['not_saved'] if item['name'] not in parts.both]
        warnings = self.told.new([*parts.notes, *said['warnings']])
        return {**said, 'not_saved': lost, 'warnings': warnings} if lost or warnings else None


@dataclasses.dataclass
class Merged:
    """What the requests of one cell have in common: at most one of each."""

    KINDS = ('execute_result', 'error', 'context', 'execute_reply')

    result: wire.Message | None = None
    error: wire.Message | None = None
    context: wire.Message | None = None
    reply: wire.Message | None = None

    def take(self, message: wire.Message) -> bool:
        """Add one; whether the next request may follow: not after one that failed, and of which nothing was kept."""
        kind = message['msg_type'].removeprefix('execute_')
        if kind == 'context' and self.context is not None:
            message = {**message, **{key: [*self.context[key], *message[key]] for key in ('saved', 'deleted', 'not_saved', 'warnings')}}
        if kind == 'error' and self.error is not None:
            message = {**message, 'traceback': [*self.error['traceback'], *message['traceback']]}
        if kind == 'reply' and message['status'] == 'ok' and self.reply is not None and self.reply['status'] != 'ok':
            return True
        setattr(self, kind, message)
        return kind != 'reply' or message['status'] == 'ok' or bool(message['committed'])

    def messages(self, request: wire.Request, context: wire.Message | None) -> Iterator[wire.Message]:
        """The value, as something shown if there is an error, and as a value if it can be one here; then the others."""
        if self.result is not None and self.error is not None:
            yield wire.display_data(self.result['data'], self.result['metadata'], {})
        elif self.result is not None:
            yield self.result
            value = pulled(VALUE, str(self.result['data'].get(wire.TEXT, ''))) if VALUE in request.pull.replace(',', ' ').split() else None
            if value is not None:
                yield value
        yield from (message for message in (self.error, context, self.reply) if message is not None)


def has_no_environment(message: wire.Message) -> bool:
    return message['msg_type'] == 'error' and message['ename'] == 'NameError' and ENVIRONMENT in message['evalue']


def makes_a_notebook(message: wire.Message) -> bool:
    """Whether a new notebook is kept: also of a cell that the parser refuses, while one that raises takes it away again."""
    if message['msg_type'] == 'error' and message['ename'] in ('SyntaxError', 'IndentationError', 'TabError'):
        return not any(', in <module>' in line for line in message['traceback'])
    return message['msg_type'] == 'execute_reply' and bool(message['committed'])


def names_of(request: wire.Request) -> list[str]:
    """The variables that a request asks for."""
    return [name for name in request.pull.replace(',', ' ').split() if name != VALUE]


def pulled(name: str, text: str) -> wire.Message | None:
    """The `pull` message of a value that shows as a literal; None for any other."""
    try:
        value = stock.literal(text)
    except ValueError:
        return None
    return wire.pulled(name, 'literal', base64.b64encode(repr(value).encode('utf-8', 'backslashreplace')).decode())


def suggestion(name: str, source: str) -> str:
    """The `environment.define` that provides the variable. A stock site loses `from … import` in it, so that none is then made."""
    from .report import suggest
    code = suggest(name, source, lambda module: None, ())
    return '' if '    from ' in code else code
