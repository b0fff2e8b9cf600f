"""One line about what takes long: for how long, where, what it waits for, how much has been moved, how to stop it. Gone at the end.

    Ticker, one thread, 20 times a second ─► Progress.tick ─┬─► streams of a kernel, which send by themselves every 200 ms only
                                                            └─► Line, in a terminal: rewritten on stderr
                                                                Text, in a console of a kernel: the same
                                                                Output, in a notebook: a display, its updates, and nothing in the end

In pipes, in scripts and where nobody looks (papermill, nbclient, nbconvert) there is no line. What the cell shows and the line never
mix: both are written with the lock of `Progress`, and the line only where an output has ended its own.
"""

import contextlib
import contextvars
import html
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol, TextIO

from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from .amounts import elapsed, size

AFTER = 2.0     # seconds of which nothing is said
PERIOD = .05    # seconds between two looks
LINGER = 5.0    # seconds that the thread stays after the last cell
SECOND = 1.0    # between two updates of the line
LARGE = 50e6    # bytes from which on there is a bar, at once
CELLS = 24      # characters of a bar


class View(Protocol):
    """Where a line can be seen. `stop`: how to stop a cell there; `silence`: seconds after an output until the line comes again."""

    stop: str
    silence: float

    def show(self, text: str, share: float | None) -> None:
        """Show the line, or this one instead. `share`: of what is to be moved, 0 to 1."""

    def step_aside(self) -> None:
        """Something else is about to be shown."""

    def cleared(self) -> None:
        """The outputs of the cell have been taken away."""

    def end(self) -> None:
        """Leave nothing."""


class Line:
    """The last line of a terminal."""

    stop, silence = 'Ctrl-C', 1.0

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.width = stream, 0

    def show(self, text: str, share: float | None) -> None:
        text = text[:shutil.get_terminal_size().columns - 3]   # a terminal may show `^C` behind it
        self.write('\r' + text.ljust(self.width) + '\b' * max(self.width - len(text), 0))
        self.width = len(text)

    def step_aside(self) -> None:
        if self.width:
            self.write('\r' + ' ' * (self.width + 2) + '\r')
            self.width = 0

    def cleared(self) -> None:
        """The line was not there any more when that happened."""

    def end(self) -> None:
        self.step_aside()

    def write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


class Text(Line):
    """The last line of a console of a kernel, such as `jupyter console` and qtconsole. They know no updates of displays."""

    stop = 'Ctrl-C or Stop'


class Output:
    """An output of the cell in a notebook. Its last update is an empty bundle, for which front ends show nothing."""

    stop, silence = 'the stop button', .0

    def __init__(self, shell: InteractiveShell) -> None:
        self.publisher, self.display_id = shell.display_pub, ''

    def show(self, text: str, share: float | None) -> None:
        bar = '' if share is None else f'<progress value="{share:.3f}" style="vertical-align: middle"></progress> '
        self.publish({'text/plain': text, 'text/html': f'<div style="opacity: .7">{bar}{html.escape(text)}</div>'})

    def publish(self, data: dict[str, str]) -> None:
        update, self.display_id = bool(self.display_id), self.display_id or uuid.uuid4().hex
        self.publisher.publish(data=data, metadata={}, transient={'display_id': self.display_id}, update=update)

    def step_aside(self) -> None:
        """It has a place of its own."""

    def cleared(self) -> None:
        self.display_id = ''

    def end(self) -> None:
        if self.display_id:
            self.publish({})


def view_of(shell: InteractiveShell) -> View | None:
    """Where somebody may look, if anywhere. A program that runs notebooks allows no questions; a front end that has cells names the one
    that it runs."""
    stream = sys.stderr
    if hasattr(shell, 'kernel'):
        parent: Any = shell.get_parent() if hasattr(shell, 'get_parent') else {}
        captured = isinstance(shell.display_pub, CapturingDisplayPublisher)   # `%%capture`
        if captured or not parent.get('content', {}).get('allow_stdin'):
            return None
        if (parent.get('metadata') or {}).get('cellId'):
            return Output(shell)
        return Text(stream) if hasattr(stream, 'flush_interval') else None
    return Line(stream) if stream is not None and stream.isatty() and os.environ.get('TERM') != 'dumb' else None


class Progress:
    """A context manager for what may take long. `after`: seconds until the line comes, 0 for never; `where`: it is done.

    `waits` and `bytes` say more about it, from any thread and at no cost. `beside` is for all that is shown in the meantime.
    """

    def __init__(self, shell: InteractiveShell, after: float = AFTER, where: str = '') -> None:
        self.view = view_of(shell) if after > 0 else None
        self.where = where
        self.waits_for = ''
        self.moved: tuple[int, int] | None = None
        self.lock = threading.RLock()
        self.began = time.monotonic()
        self.next = self.began + after   # when the line is written
        self.due = self.next
        self.unfinished: set[str] = set()   # streams in the middle of a line
        self.clearing = False   # the next output takes away those before it
        self.unsent: list[Any] = []   # streams of a kernel, in the order in which they were written to
        self.context = contextvars.copy_context()   # in which a kernel finds the cell

    def __enter__(self) -> 'Progress':
        TICKER.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        TICKER.remove(self)
        with self.lock:
            view, self.view = self.view, None
            if view is not None:
                view.end()

    # ------------------------------------------------------------ what is said
    def waits(self, reason: str) -> bool:
        """What it waits for, '' for nothing any more; whether that can be seen."""
        if reason != self.waits_for:
            self.waits_for, self.next = reason, min(self.next, self.due)
        return self.view is not None

    def bytes(self, done: int, total: int) -> None:
        """How much has been moved of how much; from LARGE on that is shown, and at once."""
        if total >= LARGE:
            if self.moved is None:
                self.next = 0.0
            self.moved = (done, total) if done < total else None

    def text(self, now: float) -> str:
        parts = [elapsed(now - self.began), moved(*self.moved) if self.moved else '',
                 f'waits: {self.waits_for}' if self.waits_for else '', self.where, f'stop it with {self.view.stop}' if self.view else '']
        return ' | '.join(filter(None, parts))

    # ------------------------------------------------------------ what else is shown
    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """While something else is written the line is not there."""
        with self.lock:
            if self.view is not None:
                self.view.step_aside()
                self.next, self.clearing = max(self.next, time.monotonic() + self.view.silence), False
            yield

    def wrote(self, name: str, text: str, stream: Any) -> None:
        """What was written, beside, to which stream: the middle of a line is no place for another one."""
        if text.endswith('\n'):
            self.unfinished.discard(name)
        elif text:
            self.unfinished.add(name)
        if hasattr(stream, 'flush_interval') and stream not in self.unsent:   # of a kernel; flushing it waits for its thread, which is
            self.unsent.append(stream)                                        # not for every line

    def cleared(self, wait: bool) -> None:
        """Outputs have been taken away, or, with `wait`, will be by the next one, which the line must not be."""
        self.clearing = wait
        self.unfinished.clear()
        if self.view is not None:
            self.view.cleared()

    # ------------------------------------------------------------ in the ticker's thread
    def tick(self) -> None:
        while self.unsent:
            self.unsent.pop(0).flush()
        now = time.monotonic()
        if now < self.next or self.view is None or self.unfinished or self.clearing or not self.lock.acquire(timeout=PERIOD):
            return   # who has the lock for longer may have been interrupted in it
        try:
            if self.view is not None and now >= self.next and not self.unfinished and not self.clearing:
                self.view.show(self.text(now), self.moved[0] / self.moved[1] if self.moved else None)
                self.next = now + (4 * PERIOD if self.moved else SECOND - (now - self.began) % SECOND)
        finally:
            self.lock.release()


class Ticker:
    """The thread of all that runs. It costs a cell nothing: it looks by itself, and stays for a while, as starting one does cost."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: set[Progress] = set()
        self.thread: threading.Thread | None = None
        self.left = 0.0

    def add(self, progress: Progress) -> None:
        with self.lock:
            self.running.add(progress)
            if self.thread is None or not self.thread.is_alive():   # not after a fork
                self.thread = threading.Thread(target=self.run, name='erp5-progress', daemon=True)
                self.thread.start()

    def remove(self, progress: Progress) -> None:
        with self.lock:
            self.running.discard(progress)
            self.left = time.monotonic()

    def end(self) -> None:
        """If nothing runs, the thread is not there any more."""
        with self.lock:
            self.left, thread = 0.0, None if self.running else self.thread
        if thread is not None:
            thread.join()

    def run(self) -> None:
        while self.wanted():
            time.sleep(PERIOD)
            for progress in list(self.running):
                try:
                    progress.context.run(progress.tick)
                except Exception:   # a stream that was closed: what cannot be shown is not worth an error
                    self.running.discard(progress)

    def wanted(self) -> bool:
        with self.lock:
            if self.running or time.monotonic() < self.left + LINGER:
                return True
            self.thread = None
            return False


TICKER = Ticker()


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """While something is shown that is no output of a cell, or somebody is asked, no line is there."""
    with contextlib.ExitStack() as stack:
        for progress in list(TICKER.running):
            stack.enter_context(progress.beside())
        yield


# ---------------------------------------------------------------- words
def moved(done: int, total: int) -> str:
    """`[######------------------] 256 MB of 1.0 GB`"""
    full = int(CELLS * done / total)
    return f'[{"#" * full}{"-" * (CELLS - full)}] {size(done)} of {size(total)}'
