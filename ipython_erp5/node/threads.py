"""Which cell a thread works for, so that what a thread of an earlier cell says does not come into a later one.

    a cell ─► Thread.start ─► Thread.start …      all of them work for that cell, as long as they live
    a cell ─► ThreadPoolExecutor.submit           the work is that cell's, whichever cell started the thread that does it

A thread that is started in another way (`_thread`, C code) works for the cell that runs. Python itself keeps no such thing before
3.14, so `follow` exchanges the two methods, in the process of an executor only.
"""

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

MARK = '_erp5_request_id'   # of a Thread


class Cells:
    """`running` is the request_id of the cell that runs, or that ran last."""

    def __init__(self) -> None:
        self.running = ''
        self.work = threading.local()   # `request_id` of what a thread of a pool does now

    def of_this_thread(self) -> str:
        """The request_id of the cell for which the calling thread works."""
        request_id: str = getattr(self.work, 'request_id', '') or getattr(threading.current_thread(), MARK, '') or self.running
        return request_id

    def earlier(self) -> str:
        """The same, and '' for the cell that runs."""
        request_id = self.of_this_thread()
        return '' if request_id == self.running else request_id

    def follow(self) -> None:
        """From here on every thread is known."""
        start: Callable[..., None] = threading.Thread.start
        submit: Callable[..., Future[Any]] = ThreadPoolExecutor.submit

        @functools.wraps(start)
        def marked(thread: threading.Thread) -> None:
            setattr(thread, MARK, self.of_this_thread())
            start(thread)

        @functools.wraps(submit)
        def bound(pool: ThreadPoolExecutor, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return submit(pool, self.bind(function), *args, **kwargs)

        for owner, name, method in ((threading.Thread, 'start', marked), (ThreadPoolExecutor, 'submit', bound)):
            setattr(owner, name, method)

    def bind(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, for the cell of the calling thread."""
        request_id = self.of_this_thread()

        def work(*args: Any, **kwargs: Any) -> Any:
            before = getattr(self.work, 'request_id', '')
            self.work.request_id = request_id
            try:
                return function(*args, **kwargs)
            finally:
                self.work.request_id = before

        return work
