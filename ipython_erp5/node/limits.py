"""What a cell and a process may use: sizes and times as people write them, and the outcome that says what was used up."""

import re
import time
from dataclasses import asdict, dataclass
from typing import Any

from .. import wire
from ..errors import NodeError
from ..amounts import size

UNITS = {'B': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'TB': 10**12}


def bytes_of(text: str, option: str) -> int:
    """`500MB`, `2GB`, `65536`; 0 for no text. NodeError, with the option's name, for anything else."""
    found = re.fullmatch(r'(\d+(?:\.\d+)?)\s*(B|kB|MB|GB|TB)?', text or '0', re.IGNORECASE | re.ASCII)
    if found is None:
        raise NodeError(f'{option}: expected bytes, such as 500MB or 2GB, got {text!r}')
    return int(float(found[1]) * UNITS[(found[2] or 'B').upper()])


def memory_used_up(used: int, limit: int) -> str:
    """Why a process was ended, in bytes."""
    return f'memory: {size(used)} used of at most {size(limit)} (--executor-memory)'


class CellTimeoutError(KeyboardInterrupt):
    """What is raised in the cell. As no `Exception` it is not taken for a failure that can be handled, by a library's `except
    OSError` or a retry; the client makes an `errors.CellTimeoutError` of it."""


@dataclass(frozen=True)
class TimeLimit:
    """How long a cell may run. `deadline`: when that is over, by `time.monotonic()`, which is one clock for a machine's processes."""

    seconds: float
    option: str
    deadline: float

    @classmethod
    def of(cls, request: wire.Request, cell_timeout: float = 0) -> 'TimeLimit | None':
        """The smaller limit of the request's and the node's (seconds; 0: none), from now on; OptionError if the request's is no number."""
        found = [(seconds, option) for seconds, option in ((wire.seconds(request.timeout), '--timeout'), (cell_timeout, '--cell-timeout'))
                 if seconds]
        return cls(*min(found), time.monotonic() + min(found)[0]) if found else None

    def as_record(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def left(self) -> float:
        """Seconds; negative when it is over."""
        return self.deadline - time.monotonic()

    def error(self) -> CellTimeoutError:
        return CellTimeoutError(f'the cell ran longer than its limit of {self.seconds:g} s ({self.option})')

    def killed(self) -> str:
        """Why a process was ended that did not heed the limit."""
        return f'killed after {self.seconds - self.left:.0f} s: it did not heed its limit of {self.seconds:g} s ({self.option})'
