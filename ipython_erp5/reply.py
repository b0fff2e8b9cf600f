"""What one cell did: its messages as they arrive, collected, and those that arrive a second time left out."""

from dataclasses import dataclass, field
from typing import Any

from . import wire
from .errors import CellLost, UnauthorizedError, remote_error
from .stock import flat


@dataclass
class Reply:
    """What one cell did. `result`: the MIME bundle of its last value, None without one; `outputs`: display messages in order.

    `text` and `stderr` are what was printed.
    """

    request_id: str = ''
    printed: list[str] = field(default_factory=list, repr=False)   # pieces, as 20 MB of text may come line by line
    complained: list[str] = field(default_factory=list, repr=False)
    outputs: list[wire.Message] = field(default_factory=list)
    result: dict[str, Any] | None = None
    error: BaseException | None = None
    context: wire.Message = field(default_factory=dict)
    pulled: dict[str, wire.Message] = field(default_factory=dict)   # by name
    sent: int = 0   # bytes of what was pushed with it
    values: dict[str, Any] = field(default_factory=dict, repr=False)   # what was pulled, by name
    reply: wire.Message = field(default_factory=dict)

    @property
    def text(self) -> str:
        return ''.join(self.printed)

    @property
    def stderr(self) -> str:
        return ''.join(self.complained)

    def take(self, message: wire.Message) -> None:
        """Add one message. Unknown ones are left alone: a newer node may send them."""
        kind = message['msg_type']
        if kind == 'stream':
            (self.complained if message['name'] == 'stderr' else self.printed).append(message['text'])
        elif kind in ('display_data', 'update_display_data', 'clear_output'):
            self.outputs.append(message)
        elif kind == 'execute_result':
            self.result = message['data']
        elif kind == 'error':
            self.error = raised(message['ename'], message['evalue'], message['traceback'])
        elif kind == 'context':
            self.context = message
        elif kind == 'pull':
            self.pulled[str(message.get('name'))] = message
        elif kind == 'execute_reply':
            self._end(message)

    def _end(self, message: wire.Message) -> None:
        self.reply = message
        if message['status'] != 'ok' and self.error is None:
            self.error = raised(message.get('ename', ''), message.get('evalue', ''), ())


def raised(ename: str | None, evalue: str | None, traceback: Any) -> BaseException:
    """The error of a cell; nulls and nested lists of old sites are made plain."""
    if ename == CellLost.__name__:
        return CellLost(evalue or 'lost')
    if ename == UnauthorizedError.__name__ and len(flat(traceback)) < 2:   # more lines: a cell's own
        return UnauthorizedError(evalue)
    return remote_error(ename or 'RemoteError', evalue or '', flat(traceback))


class Seen:
    """The messages of a cell that have arrived, to leave them out when it is sent again."""

    def __init__(self) -> None:
        self.messages: list[wire.Message] = []
        self.position = 0

    def begin_again(self) -> None:
        self.position = 0

    def is_new(self, message: wire.Message) -> bool:
        if message['msg_type'] == 'keepalive':
            return True
        known = message in self.messages[self.position:self.position + 1]
        if not known:
            self.messages[self.position:] = [message]
        self.position += 1
        return not known
