"""A cell that nobody waits for: what `%%erp5 --noblock` and `Session.submit` give.

    RemoteCell ─ a thread ─► Delivery ══► site            connections of its own: other cells of the session run meanwhile
        │ messages ◄───────────┘
        ├─► on_message            as they come, in that thread
        ├─► follow()              all of them, from the first one, for who comes later
        └─► result(), await       what `finish` makes of them, once, in the thread that asks first; or what the cell raised

The thread is a daemon: an interpreter that exits leaves the cell to the site, where it runs on, and is on record. It only waits, for a
moment, for cells that have not got there yet.
"""

import asyncio
import atexit
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from typing import Any
from weakref import WeakSet

from . import wire
from .delivery import Delivery
from .errors import CellLost, StillRunningError, remote_error
from .history import SHORT
from .reply import Reply

UNDER_WAY = 'another cell of this session is under way'
ARRIVAL, PAUSE = 5.0, .1  # seconds: for the request to reach the site, if it is cancelled at once; between two questions


LEAVING = 3.0  # seconds for cells to get to the site, when the interpreter exits
ON_THEIR_WAY: 'WeakSet[RemoteCell]' = WeakSet()


class RemoteCell:
    """A cell on its way: `await` it, or ask for its `result()`. `reply`: what there is of it so far (text, outputs, …).

    `status`: waiting (for its turn), running; ok, error, interrupted, lost (its process has gone); unknown, if the site could not be
    reached any more. `shown`: whether somebody sees its messages as they come; `looked`: whether somebody has taken its outcome;
    `told`: whether it was said that nobody has.
    """

    def __init__(self, delivery: Delivery, request: wire.Request, interrupt: Callable[[str], dict[str, Any]], *,
                 on_message: Callable[[wire.Message], None] | None = None, finish: Callable[['RemoteCell'], Any] | None = None,
                 fetch: Callable[[Reply], dict[str, Any]] | None = None, before: 'RemoteCell | None' = None) -> None:
        self.reply = Reply(request.request_id)
        self.notebook = request.reference
        self.looked = self.told = False
        self.shown = on_message is not None
        self.failure: BaseException | None = None  # why there is no outcome, or why what was pulled did not come
        self._delivery, self._request, self._interrupt = delivery, request, interrupt
        self._on_message, self._finish, self._fetch = on_message, finish, fetch
        self._value: Any = self.reply
        self._messages: list[wire.Message] = []
        self._changed = threading.Condition()
        self._waits_for = ''
        self._began, self._seconds = time.monotonic(), 0.0
        self._end: Future[None] = Future()
        self._end.set_running_or_notify_cancel()  # who gives up to wait for it does not end it
        self.arrived = threading.Event()  # the site has said something, of a stock one all: what is sent now comes after it
        self._thread = threading.Thread(target=self._run, args=(before,), name=f'erp5-{self.request_id[:SHORT]}', daemon=True)
        ON_THEIR_WAY.add(self)
        self._thread.start()

    def __repr__(self) -> str:
        number = self.reply.reply.get('execution_count')
        where = f'{self.notebook!r}, line {number}' if number else repr(self.notebook)
        why = f' ({self._waits_for})' if self.status == 'waiting' else ''
        return f'<{type(self).__name__} {self.request_id[:SHORT]} of {where}: {self.status}{why}, {self.seconds:.1f} s>'

    @property
    def request_id(self) -> str:
        return self.reply.request_id

    @property
    def status(self) -> str:
        if not self.done():
            return 'waiting' if self._waits_for else 'running'
        return status_of(self.reply.reply) if self.reply.reply else 'unknown'

    @property
    def seconds(self) -> float:
        """Since it was sent, until now or its end."""
        return self._seconds or time.monotonic() - self._began

    @property
    def messages(self) -> list[wire.Message]:
        """Those that have come so far, without keepalives."""
        with self._changed:
            return list(self._messages)

    # ------------------------------------------------------------ its end
    def done(self) -> bool:
        return self._end.done()

    def result(self, timeout: float | None = None) -> Any:
        """What it gave, once it has ended, or what it raised. StillRunningError if it has not after `timeout` seconds.

        Ctrl-C ends the waiting only: `cancel` ends the cell.
        """
        try:
            self._end.result(timeout)
        except TimeoutError:
            pass
        except KeyboardInterrupt:
            raise remote_error('KeyboardInterrupt', f'stopped waiting; the cell {self.request_id[:SHORT]} goes on: ask again later, or end '
                               'it with .cancel()', ()) from None
        if not self.done():
            raise StillRunningError(f'the cell {self.request_id[:SHORT]} is {self.status} after {self.seconds:.1f} s, and goes on: ask '
                                    'again later, or end it with .cancel()')
        return self._outcome()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._awaited().__await__()

    async def _awaited(self) -> Any:
        await asyncio.wrap_future(self._end)
        return self._outcome()

    def cancel(self) -> bool:
        """End it with KeyboardInterrupt; again: end its process. False if it does not run (any more)."""
        end = time.monotonic() + ARRIVAL
        while not self.done() and time.monotonic() < end:
            if self._interrupt(self.request_id).get('status') != 'not running':
                return True
            time.sleep(PAUSE)
        return False

    def follow(self) -> Iterator[wire.Message]:
        """All of its messages from the first one, as they come, to its end; why there is none is raised then."""
        position = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.done() or position < len(self._messages))
                messages = self._messages[position:]
                if not messages:
                    break
            position += len(messages)
            yield from messages
        if self.failure is not None:
            raise self.failure

    def _outcome(self) -> Any:
        self.looked = True
        finish, self._finish = self._finish, None
        if finish is not None:
            self._value = finish(self)
        failure = self.failure or self.reply.error
        if failure is not None:
            raise failure
        return self._value

    # ------------------------------------------------------------ the thread
    def _run(self, before: 'RemoteCell | None') -> None:
        try:
            if before is not None:
                self._waits_for = UNDER_WAY
                before.arrived.wait()
                self._waits_for = ''
            for message in self._delivery.run(self._request):
                self._take(message)
            if self._fetch is not None and self.reply.error is None:   # at once: a site keeps large values for a while only
                self.reply.values = self._fetch(self.reply)
        except BaseException as error:  # whoever asks for the result gets it
            self.failure = error
            self._tell(wire.error(type(error).__name__, str(error), [f'{type(error).__name__}: {error}']))
        self._delivery.client.close()
        self._seconds = time.monotonic() - self._began
        self.arrived.set()
        ON_THEIR_WAY.discard(self)
        with self._changed:
            self._end.set_result(None)
            self._changed.notify_all()

    def _take(self, message: wire.Message) -> None:
        self.arrived.set()
        if message['msg_type'] == 'keepalive':
            self._waits_for = str(message.get('waiting') or '')
            return
        self._waits_for = ''
        self.reply.take(message)
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()
        self._tell(message)

    def _tell(self, message: wire.Message) -> None:
        """Whoever looks on and fails is left out from then on: the cell has its outcome all the same."""
        try:
            if self._on_message is not None:
                self._on_message(message)
        except Exception:
            self._on_message = None
            traceback.print_exc()


@atexit.register
def leave() -> None:
    end = time.monotonic() + LEAVING
    for cell in list(ON_THEIR_WAY):
        cell.arrived.wait(max(0.0, end - time.monotonic()))


def status_of(ended: wire.Message) -> str:
    """ok, error, interrupted or lost: of an `execute_reply`, or an entry of the history."""
    special = {CellLost.__name__: 'lost', 'KeyboardInterrupt': 'interrupted'}
    return 'ok' if ended.get('status') == 'ok' else special.get(str(ended.get('ename')), 'error')
