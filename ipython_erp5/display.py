"""Wire messages to IPython's display, as if the cell had run here.

    stream ─► sys.stdout / sys.stderr         display_data, update_display_data, clear_output ─► shell.display_pub
    keepalive ─► Progress: what the cell waits for
    execute_result ─► RemoteResult, which the magic returns: IPython's own displayhook then makes it `Out[n]` and `_`
    context ─► stderr: what was not saved, always; warnings (feedback 1); one line about the cell (feedback 2)

The error of a cell is not shown here: it is raised after all of its output, and IPython shows it.
"""

import html
import re
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from . import wire
from .progress import Progress

QUIET, NORMAL, VERBOSE = 0, 1, 2
WIDGET = 'application/vnd.jupyter.widget-view+json'   # names a widget, which a front end looks for in the kernel here
WIDGETS = 'A widget of a remote cell is shown as text, as it is at that moment. A bar of tqdm.auto is text that moves.\n'
COLORS = re.compile(r'\x1b\[[0-9;]*m')


class RemoteResult:
    """The last value of a remote cell: what it looks like there, as a MIME bundle. The value itself stays there."""

    def __init__(self, data: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
        self.data, self.metadata = dict(with_text(data)), dict(metadata or {})

    def __repr__(self) -> str:
        return str(self.data[wire.TEXT])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.data, self.metadata


def with_text(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The bundle with a text for where nothing richer can be shown, and without a widget, which no front end finds here. IPython always
    sends a text, old sites do not."""
    data = {kind: value for kind, value in data.items() if kind != WIDGET}
    if wire.TEXT in data or not data:
        return data
    markup = data.get(wire.HTML)
    text = html.unescape(re.sub(r'<[^>]*>', '', markup)) if isinstance(markup, str) else f'<{next(iter(data))}>'
    return {**data, wire.TEXT: text}


class Display:
    """Shows the messages of one cell in one shell. `result` is its RemoteResult, None if it had none.

    As a context manager, around the cell, it also shows its progress, after so many seconds (0: never); `place`: where it runs.
    """

    def __init__(self, shell: InteractiveShell, feedback: int = NORMAL, progress_after: float = 0, place: str = '') -> None:
        self.shell, self.feedback = shell, feedback
        self.progress = Progress(shell, progress_after, place)
        self.result: RemoteResult | None = None
        self._waits_for, self._told_of_widgets = '', False
        self._takers = {'stream': self._stream, 'display_data': self._publish, 'update_display_data': self._publish,
                        'clear_output': self._clear, 'execute_result': self._result, 'context': self._context,
                        'execute_reply': self._reply}

    def __enter__(self) -> 'Display':
        self.progress.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.progress.__exit__(kind, error, traceback)

    def take(self, message: wire.Message) -> None:
        """Show one message. The kinds that it does not know are left alone: a newer node may send them."""
        taker = self._takers.get(message['msg_type'])
        if taker is not None:
            with self.progress.beside():
                taker(message)
        elif message['msg_type'] == 'keepalive':
            self._waiting(message)

    def _waiting(self, message: wire.Message) -> None:
        """Why a cell has not begun: as its progress, or where that cannot be seen once for each reason."""
        reason = str(message.get('waiting') or '')
        seen = self.progress.waits(reason)
        if reason and reason != self._waits_for and not seen and self.feedback >= NORMAL:
            self.write('stderr', f'Waiting: {reason}.\n')
        self._waits_for = reason

    def _stream(self, message: wire.Message) -> None:
        name = 'stderr' if message['name'] == 'stderr' else 'stdout'
        self.write(name, message['text'])
        self.progress.wrote(name, message['text'], getattr(sys, name))

    def _publish(self, message: wire.Message) -> None:
        more: dict[str, Any] = {'transient': message['transient']} if message.get('transient') else {}
        if message['msg_type'] == 'update_display_data':
            more['update'] = True
        self._tell_of_widgets(message)
        self.publish(data=dict(with_text(message['data'])), metadata=message.get('metadata') or {}, **more)

    def _clear(self, message: wire.Message) -> None:
        self.clear(bool(message.get('wait')))
        self.progress.cleared(bool(message.get('wait')))

    def _result(self, message: wire.Message) -> None:
        self._tell_of_widgets(message)
        self.result = RemoteResult(message['data'], message.get('metadata'))

    def _tell_of_widgets(self, message: wire.Message) -> None:
        """Once in a cell."""
        if WIDGET in message['data'] and not self._told_of_widgets and self.feedback >= NORMAL:
            self._told_of_widgets = True
            self.write('stderr', WIDGETS)

    def _context(self, message: wire.Message) -> None:
        not_saved = message.get('not_saved') or ()
        if self.feedback >= NORMAL:
            self.write('stderr', ''.join(text.rstrip('\n') + '\n' for text in message.get('warnings') or ()))
        if not_saved:   # whatever the feedback: no variable is lost in silence
            from .report import NotSaved, render
            total = len(message.get('saved') or ()) + len(not_saved)
            self.write('stderr', render([NotSaved.from_message(item) for item in not_saved], total).rstrip('\n') + '\n')

    def _reply(self, message: wire.Message) -> None:
        if self.feedback >= VERBOSE:
            times = ', '.join(f'{name} {micros / 1000:.1f} ms' for name, micros in (message.get('times') or {}).items())
            where = f"{message.get('node') or 'site'}, line {message.get('execution_count')}"
            self.write('stderr', f"[{where}, {'' if message.get('committed') else 'not '}committed] {times}".rstrip() + '\n')

    # ------------------------------------------------------------ where it shows them
    def write(self, name: str, text: str) -> None:
        write(name, text)

    def publish(self, **content: Any) -> None:
        self.shell.display_pub.publish(**content)

    def clear(self, wait: bool) -> None:
        self.shell.display_pub.clear_output(wait)  # type: ignore[no-untyped-call]


def write(name: str, text: str) -> None:
    """To the stream that has this name now: IPython's `%%capture` and kernels exchange them."""
    if text:
        stream = getattr(sys, name)
        stream.write(text)
        if not hasattr(stream, 'flush_interval'):   # a kernel's: see `progress`
            stream.flush()


def without_colors(text: str) -> str:
    """The text without a terminal's escape sequences for colours."""
    return COLORS.sub('', text)


# ---------------------------------------------------------------- lists
def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns under their names, with as many lines as rows, and one."""
    texts = [tuple('' if cell is None else str(cell) for cell in row) for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return ''.join('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + '\n' for row in texts)


def moment(seconds: float | None) -> str:
    """Local date and time of seconds since the epoch."""
    return time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds)) if seconds else ''


def fields(answer: Mapping[str, Any]) -> str:
    """One line a key."""
    width = max(map(len, answer), default=0)
    return ''.join(f'{key.ljust(width)}  {plain(value)}\n' for key, value in answer.items())


def plain(value: Any) -> str:
    """JSON as words: `pid 12, state idle; pid 13, state busy`."""
    if isinstance(value, Mapping):
        return ', '.join(f'{key} {plain(item)}' for key, item in value.items())
    if isinstance(value, list):
        return '; '.join(map(plain, value))
    return '-' if value is None else str(value)
