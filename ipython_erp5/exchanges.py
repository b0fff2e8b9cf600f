"""What went between a client and its sites lately: method, place, sizes, status, times; nothing of code, values or credentials.

    Client ─► Exchanges.begin ─► Exchange, filled in as the answer arrives ─► the last 20, and a line of the log if there is one
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

KEPT = 20       # exchanges
EXCERPT = 200   # bytes of an answer that is no JSON, which may be a proxy's page


@dataclass
class Exchange:
    """One request and its answer. Times in seconds, sizes in bytes; `form`: the names of the fields and their lengths."""

    begun: float
    url: str
    form: str
    done: Callable[['Exchange'], None]
    status: int = 0
    kind: str = ''
    answered: float = 0.0
    ended: float = 0.0
    received: int = 0
    excerpt: str = ''
    error: str = ''

    def answer(self, status: int, kind: str) -> None:
        """The head of the answer has come."""
        self.status, self.kind, self.answered = status, kind.partition(';')[0].strip(), time.time()

    def end(self, error: str = '') -> None:
        """All of it has come, or nothing more will."""
        if not self.ended:
            self.ended, self.error = time.time(), error
            self.done(self)

    def __str__(self) -> str:
        return '  '.join(filter(None, (clock(self.begun), f'POST {self.url}', f'[{self.form}]', self._outcome(), self.excerpt)))

    def _outcome(self) -> str:
        if not self.answered:
            return f'→ {self.error or "no answer yet"}' + (f' after {self.ended - self.begun:.3f} s' if self.ended else '')
        came = f'→ {self.status} {self.kind}'.rstrip() + f', {self.received} B, begun after {self.answered - self.begun:.3f} s'
        end = f'ended after {self.ended - self.begun:.3f} s' if self.ended else 'not ended'
        return ', '.join(filter(None, (came, end, self.error)))


class Exchanges:
    """The last ones, oldest first. `log`: a file that gets a line for each, '' for none."""

    def __init__(self) -> None:
        self.kept: deque[Exchange] = deque(maxlen=KEPT)
        self.log = ''

    def begin(self, url: str, form: Mapping[str, str]) -> Exchange:
        sizes = ', '.join(f'{name} {len(str(value))}' for name, value in form.items())
        exchange = Exchange(time.time(), url, sizes, self._done)
        self.kept.append(exchange)
        return exchange

    def _done(self, exchange: Exchange) -> None:
        if self.log:
            write_line(Path(self.log).expanduser(), str(exchange))


def write_line(path: Path, line: str) -> None:
    """Append it; the file is for nobody else. One that cannot be written is no reason to stop a cell."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), 'a', encoding='utf-8') as file:
            file.write(line + '\n')
    except OSError:
        pass


def clock(seconds: float) -> str:
    return time.strftime('%H:%M:%S', time.localtime(seconds))


def shown(exchanges: Iterable[Exchange]) -> str:
    return ''.join(f'{exchange}\n' for exchange in exchanges)
