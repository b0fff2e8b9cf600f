"""Wire messages to IPython's display, as if the cell had run here.

    stream ─► sys.stdout / sys.stderr         display_data, update_display_data, clear_output ─► shell.display_pub
    execute_result ─► RemoteResult, which the magic returns: IPython's own displayhook then makes it `Out[n]` and `_`
    context ─► stderr: what was not saved, always; warnings (feedback 1); one line about the cell (feedback 2)

The error of a cell is not shown here: it is raised after all of its output, and IPython shows it.
"""

import html
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from . import wire

QUIET, NORMAL, VERBOSE = 0, 1, 2
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
    """The bundle with a text for where nothing richer can be shown. IPython always sends one, old sites do not."""
    if wire.TEXT in data or not data:
        return data
    markup = data.get(wire.HTML)
    text = html.unescape(re.sub(r'<[^>]*>', '', markup)) if isinstance(markup, str) else f'<{next(iter(data))}>'
    return {**data, wire.TEXT: text}


class Display:
    """Shows the messages of one cell in one shell. `result` is its RemoteResult, None if it had none."""

    def __init__(self, shell: InteractiveShell, feedback: int = NORMAL) -> None:
        self.shell, self.feedback = shell, feedback
        self.result: RemoteResult | None = None
        self._waits_for = ''
        self._takers = {'keepalive': self._waiting, 'stream': self._stream, 'display_data': self._publish,
                        'update_display_data': self._publish, 'clear_output': self._clear, 'execute_result': self._result,
                        'context': self._context, 'execute_reply': self._reply}

    def take(self, message: wire.Message) -> None:
        """Show one message. The kinds that it does not know are left alone: a newer node may send them."""
        taker = self._takers.get(message['msg_type'])
        if taker is not None:
            taker(message)

    def _waiting(self, message: wire.Message) -> None:
        """Why a cell has not begun, once for each reason."""
        reason = str(message.get('waiting') or '')
        if reason and reason != self._waits_for and self.feedback >= NORMAL:
            write('stderr', f'Waiting: {reason}.\n')
        self._waits_for = reason

    def _stream(self, message: wire.Message) -> None:
        write('stderr' if message['name'] == 'stderr' else 'stdout', message['text'])

    def _publish(self, message: wire.Message) -> None:
        more: dict[str, Any] = {'transient': message['transient']} if message.get('transient') else {}
        if message['msg_type'] == 'update_display_data':
            more['update'] = True
        self.shell.display_pub.publish(data=dict(with_text(message['data'])), metadata=message.get('metadata') or {}, **more)

    def _clear(self, message: wire.Message) -> None:
        self.shell.display_pub.clear_output(bool(message.get('wait')))  # type: ignore[no-untyped-call]

    def _result(self, message: wire.Message) -> None:
        self.result = RemoteResult(message['data'], message.get('metadata'))

    def _context(self, message: wire.Message) -> None:
        not_saved = message.get('not_saved') or ()
        if self.feedback >= NORMAL:
            write('stderr', ''.join(text.rstrip('\n') + '\n' for text in message.get('warnings') or ()))
        if not_saved:   # whatever the feedback: no variable is lost in silence
            from .report import NotSaved, render
            total = len(message.get('saved') or ()) + len(not_saved)
            write('stderr', render([NotSaved.from_message(item) for item in not_saved], total).rstrip('\n') + '\n')

    def _reply(self, message: wire.Message) -> None:
        if self.feedback >= VERBOSE:
            times = ', '.join(f'{name} {micros / 1000:.1f} ms' for name, micros in (message.get('times') or {}).items())
            where = f"{message.get('node') or 'site'}, line {message.get('execution_count')}"
            write('stderr', f"[{where}, {'' if message.get('committed') else 'not '}committed] {times}".rstrip() + '\n')


def write(name: str, text: str) -> None:
    """To the stream that has this name now: IPython's `%%capture` and kernels exchange them."""
    if text:
        stream = getattr(sys, name)
        stream.write(text)
        if not hasattr(stream, 'flush_interval'):   # a kernel's sends every 0.2 s; flushing it waits for its thread
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
