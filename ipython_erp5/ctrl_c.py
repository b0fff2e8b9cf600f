"""Ctrl-C while a remote cell runs: the first one is for the cell, the second one for who waits."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class CtrlC:
    """While a cell runs, the first Ctrl-C calls `interrupt` in a thread; the next one raises KeyboardInterrupt.

    A handler that returns lets the read go on where it was, which an exception in the middle of a message would not.
    """

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self.interrupt = interrupt
        self.count = 0
        self.previous: Any = None

    def __enter__(self) -> 'CtrlC':
        ours = threading.current_thread() is threading.main_thread()
        if ours and signal.getsignal(signal.SIGINT) not in (None, signal.SIG_IGN):
            self.previous = signal.signal(signal.SIGINT, self.heed)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)

    def heed(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt
        threading.Thread(target=self.interrupt, name='erp5-interrupt', daemon=True).start()
