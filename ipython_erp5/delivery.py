"""One request on its way to the site, and its messages: at most once, whatever happens to the connection.

    wire.Request ─► Delivery.run ─► Client ══► site
    wire messages ◄───────┴──────── Client ◄══ as they happen

A cell runs once. When the connection breaks under it, it is sent again with the same `request_id`, to sites that begin none twice;
of a stock site its outcome is not known.
"""

import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from . import wire
from .client import STATUS, Client, streams
from .errors import (ConnectionLostError, ERP5Error, NodeTimeoutError, NodeUnavailableError, NotASiteError, SiteUnreachableError,
                     UnsupportedError)
from .reply import Seen
from .stock import Told
from .trouble import EXECUTE

RESULT = 'Base_getJupyterResult'
LATER = 'Once the site can be reached, this shows what became of it: %erp5_result'
RESEND, PAUSE = 30.0, .5   # seconds: how long a cell is sent again, and between two times
SILENCE = 20.0   # seconds without a message, after which a node that sends keepalives has gone


class Delivery:
    """The requests for one notebook of one site. One at a time."""

    def __init__(self, client: Client, reference: str, timeout: float = SILENCE) -> None:
        self.client, self.reference, self.timeout = client, reference, timeout
        self._streams = False       # whether the site has shown that it sends keepalives, so that silence means something
        self._begins_ids_once = False   # whether it is known to be one of ours
        self.told = Told(client.url)
        self._next_id = uuid.uuid4().hex

    def another(self) -> 'Delivery':
        """The same with connections of its own, for a request beside those of this one."""
        delivery = type(self)(self.client.another(), self.reference, self.timeout)
        delivery._streams, delivery._begins_ids_once, delivery.told = self._streams, self._begins_ids_once, self.told
        return delivery

    def ids(self) -> tuple[str, str]:
        """`request_id` and `next_request_id`: each request announces the id of the next one, which saves the node a commit.

        After a new connection another node may answer, which cannot know whether the announced request has begun elsewhere.
        """
        request_id = self._next_id if self.client.connected() else uuid.uuid4().hex
        self._next_id = uuid.uuid4().hex
        return request_id, self._next_id

    def status(self) -> dict[str, Any] | None:
        """What the node says of itself; None for a stock site."""
        answer: dict[str, Any] | None = self.client.ask(STATUS, {'reference': self.reference})
        self._begins_ids_once = answer is not None
        self._streams = self._streams or self._begins_ids_once
        return answer

    def is_ours(self) -> bool:
        """Whether the site is known to be no stock site; it is asked if that is not known yet."""
        return self._begins_ids_once or self.status() is not None

    def remembers(self) -> bool:
        """Whether the site may tell later what became of a cell; it is not asked."""
        return True

    def run(self, request: wire.Request) -> Iterator[wire.Message]:
        """The messages of one cell, the last of them `execute_reply`, whatever happens to the connection.

        If it breaks, the same request goes out again, where the site is known to begin no `request_id` twice: a cell that runs, or has
        run, gives its messages again, and those that had arrived are left out. Elsewhere its outcome is asked for.
        """
        try:
            yield from self._delivered(request)
        finally:
            self.client.settled = False

    def _delivered(self, request: wire.Request) -> Iterator[wire.Message]:
        seen, sent_again, first = Seen(), 0.0, ''
        while True:
            try:
                for message in self._messages(EXECUTE, request.form()):
                    if seen.is_new(message):
                        yield message
                self._begins_ids_once |= message.get('request_id') == request.request_id
                return
            except (SiteUnreachableError, NodeUnavailableError, NodeTimeoutError) as error:
                broke = error
            self.client.settled = True   # what may have begun must not begin elsewhere
            if not sent_again and not self._may_send_again(broke):
                break
            if sent_again and time.monotonic() > sent_again + RESEND:
                raise SiteUnreachableError(f'{first}. It was sent again for {RESEND:g} seconds, without an answer, so that whether it was '
                                           f'run is not known; its id is {request.request_id}. {LATER} {request.request_id}')
            if not sent_again:
                first, sent_again = str(broke), time.monotonic()
                yield wire.stream('stderr', f'{broke}. The cell is sent again; it runs once.\n')
            time.sleep(PAUSE)
            seen.begin_again()
        if not isinstance(broke, ConnectionLostError):
            raise broke
        yield from self._outcome(request.request_id, seen.messages, str(broke))

    def _may_send_again(self, broke: ERP5Error) -> bool:
        """Whether something may have been sent, to a site of ours: a stock site would run the cell again."""
        end = time.monotonic() + RESEND
        while isinstance(broke, ConnectionLostError) and not self._begins_ids_once and time.monotonic() < end:
            try:
                self.status()
                break
            except (SiteUnreachableError, NodeUnavailableError):  # there is nobody yet who could say what it is
                time.sleep(PAUSE)
            except ERP5Error:
                break
        return self._begins_ids_once and isinstance(broke, (ConnectionLostError, NodeUnavailableError, NodeTimeoutError))

    def _messages(self, method: str, form: Mapping[str, str]) -> Iterator[wire.Message]:
        response = self.client.post(method, form, wire.NDJSON, self.timeout or None if self._streams else None)
        self._streams = self._streams or streams(response)
        if form.get('timeout') and not streams(response) and (text := self.told.once('timeout')):
            yield wire.stream('stderr', text)
        message: wire.Message = {'msg_type': ''}
        for message in self.client.messages(response):
            if message['msg_type'] == 'error' and message['ename'] == NodeUnavailableError.__name__:
                self._begins_ids_once = True
                raise NodeUnavailableError(f"{self.client.url}: {message['evalue']}")
            yield message
        if message['msg_type'] != 'execute_reply':
            raise ConnectionLostError(f'the answer of {self.client.url} ended before the end of the cell')

    def _outcome(self, request_id: str, seen: list[wire.Message], broke: str) -> Iterator[wire.Message]:
        """The recorded messages of a cell, or those of its run in progress, without the ones that had arrived before."""
        try:
            for position, message in enumerate(self.result(request_id)):
                if position == 0:
                    yield wire.stream('stderr', f'{broke}. The cell was not sent again; its outcome was asked for.\n')
                if message not in seen[position:position + 1]:
                    yield message
        except ERP5Error as error:
            way = f'. {LATER} {request_id}' if self.remembers() and not isinstance(error, UnsupportedError) else ''
            why = f' ({error})' if self.remembers() and str(error) != broke else ''
            failure = SiteUnreachableError(f'{broke}. The cell was not sent again and its outcome is not known{why}. '
                                           f'Look at its variables before you run it again; its id is {request_id}{way}')
        else:
            return
        raise failure from None

    def follow(self, request_id: str) -> Iterator[wire.Message]:
        """The messages of a cell that runs or has run, to its end; while the connection is broken it is asked for again."""
        seen, heard = Seen(), 0.0
        while True:
            try:
                for message in self._recorded(request_id):
                    heard = time.monotonic()
                    if seen.is_new(message):
                        yield message
                return
            except (SiteUnreachableError, NodeUnavailableError, NodeTimeoutError) as error:
                if not heard:
                    raise
                if time.monotonic() > heard + self.timeout + RESEND:
                    raise SiteUnreachableError(f'{error}. {LATER} {request_id}') from None
            time.sleep(PAUSE)
            seen.begin_again()

    def result(self, request_id: str) -> Iterator[wire.Message]:
        """The messages of an earlier cell of this notebook (without keepalives); UnsupportedError where the site keeps none."""
        return (message for message in self._recorded(request_id) if message['msg_type'] != 'keepalive')

    def _recorded(self, request_id: str) -> Iterator[wire.Message]:
        form = {'reference': self.reference, 'request_id': request_id}
        try:
            yield from self._messages(RESULT, form)
        except NotASiteError:
            failure = UnsupportedError(f'{self.client.url} has no outcome of the cell {request_id}: it keeps none, or the cell '
                                       'never began there')
        else:
            return
        raise failure from None
