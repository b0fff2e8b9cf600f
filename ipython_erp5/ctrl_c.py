"""Ctrl-C, or the stop button, while a remote cell runs.

    first    the cell is interrupted there, and its end is waited for
    second   the process that runs it is ended, and that is waited for
    third    nobody waits any more; so it is with the second if the first could not be passed on, and with the first as long as the
             connection is being opened

Jupyter interrupts a kernel before it shuts it down or restarts it. That is not meant for the cell, which goes on without this kernel.

Each says in a line what it does. However the cell ends then, here that is a KeyboardInterrupt, unless the cell has caught its own.
"""

import contextvars
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any

from .errors import CellLost, ERP5Error, remote_error
from .reply import Reply

ANSWER = 2.0   # seconds after which a site that has not answered an interrupt counts as gone
ARRIVAL, PAUSE = 1.0, .1   # seconds: in which a cell that was just sent gets there, and between two questions
LEAVING = .1   # seconds in which a kernel hears that it is to end, after it was interrupted: 5 to 25 ms, on a busy machine
SAID = {1: 'Interrupting the cell; interrupt again to end its process.',
        2: 'Ending the process of the cell; interrupt again to stop waiting for it.'}
FAILED = 'Not interrupted: {}. Interrupt again to stop waiting for the cell.'
LATE = 'the cell had come to its end before it could be interrupted; its changes are {}'


class CtrlC:
    """While a cell runs, Ctrl-C calls `interrupt`, in a thread of its own, up to twice.

    `interrupt` returns the site's answer; `say` shows a line; `sends_nothing_yet` is asked about the frame that was interrupted;
    `leaving`, where it may be, whether the process is about to end.

    A handler that returns lets the read go on where it was, which an exception in the middle of a message would not.
    """

    def __init__(self, interrupt: Callable[[], Mapping[str, Any]], say: Callable[[str], None],
                 sends_nothing_yet: Callable[[FrameType | None], bool], leaving: Callable[[], bool] | None = None) -> None:
        self.interrupt, self.say, self.sends_nothing_yet, self.leaving = interrupt, say, sends_nothing_yet, leaving
        self.count = 0
        self.pressed = 0.0   # for the first time
        self.passed = self.failed = self.over = self.unsent = self.left = False
        self.previous: Any = None

    def __enter__(self) -> 'CtrlC':
        ours = threading.current_thread() is threading.main_thread()
        if ours and signal.getsignal(signal.SIGINT) not in (None, signal.SIG_IGN):
            self.previous = signal.signal(signal.SIGINT, self.heed)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.over = True
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)

    def heed(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1
        now = time.monotonic()
        self.pressed = self.pressed or now
        gone = self.failed or not self.passed and now - self.pressed > ANSWER
        self.unsent = self.count == 1 and self.sends_nothing_yet(frame)
        if self.unsent or self.left or self.count > 2 or self.count == 2 and gone:
            raise KeyboardInterrupt
        work = contextvars.copy_context().run   # of the main thread: what is said is output of its cell
        threading.Thread(target=work, args=(self.pass_on, self.count), name='erp5-interrupt', daemon=True).start()

    def pass_on(self, count: int) -> None:
        if self.leaves():
            self.left = True
            self.press_again()
            return
        self.tell(SAID[count])
        try:
            reason = '' if self.arrives() or count > 1 else 'the site says that it does not run now'
        except ERP5Error as error:
            reason = str(error)
        if reason:
            self.fail(reason)
        self.passed = not reason

    def fail(self, reason: str) -> None:
        """Who has pressed again in the meantime need not do so once more."""
        self.failed = True
        if self.count == 1:
            self.tell(FAILED.format(reason))
        else:
            self.press_again()

    def press_again(self) -> None:
        if not self.over:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def leaves(self) -> bool:
        """Whether it is the process that is to end, which it hears after the interrupt."""
        end = time.monotonic() + LEAVING
        while self.leaving is not None and not self.over and time.monotonic() < end:
            if self.leaving():
                return True
            time.sleep(LEAVING / 30)
        return False

    def arrives(self) -> bool:
        """Whether the site interrupts the cell, which may still be on its way there."""
        end = time.monotonic() + ARRIVAL
        while not self.over:
            if self.interrupt().get('status') != 'not running':
                return True
            if time.monotonic() > end:
                break
            time.sleep(PAUSE)
        return False

    def tell(self, text: str) -> None:
        if not self.over:
            self.say(text + '\n')

    def outcome(self, reply: Reply) -> BaseException | None:
        """The error of a cell that has come to its end."""
        error = reply.error
        if self.count and isinstance(error, CellLost):
            return remote_error('KeyboardInterrupt', str(error), ())
        if self.count and error is None and not reply.reply.get('interrupted'):   # else it has caught the interrupt
            return remote_error('KeyboardInterrupt', LATE.format('committed' if reply.reply.get('committed') else 'not committed'), ())
        return error
