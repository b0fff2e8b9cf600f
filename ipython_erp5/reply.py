"""What one cell did: its messages as they arrive, collected, and those that arrive a second time left out."""

from dataclasses import dataclass, field
from typing import Any

from . import wire
from .errors import CellLost, UnauthorizedError, remote_error


@dataclass
class Reply:
    """What one cell did. `result`: the MIME bundle of its last value, None without one; `outputs`: display messages in order."""

    request_id: str = ''
    text: str = ''
    stderr: str = ''
    outputs: list[wire.Message] = field(default_factory=list)
    result: dict[str, Any] | None = None
    error: BaseException | None = None
    context: wire.Message = field(default_factory=dict)
    pulled: wire.Message | None = None
    reply: wire.Message = field(default_factory=dict)

    def take(self, message: wire.Message) -> None:
        """Add one message. Unknown ones are left alone: a newer node may send them."""
        kind = message['msg_type']
        if kind == 'stream':
            name = 'stderr' if message['name'] == 'stderr' else 'text'
            setattr(self, name, getattr(self, name) + message['text'])
        elif kind in ('display_data', 'update_display_data', 'clear_output'):
            self.outputs.append(message)
        elif kind == 'execute_result':
            self.result = message['data']
        elif kind == 'error':
            self.error = raised(message['ename'], message['evalue'], message['traceback'])
        elif kind == 'context':
            self.context = message
        elif kind == 'pull':
            self.pulled = message
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
    if ename == UnauthorizedError.__name__ and len(wire.flat(traceback)) < 2:   # more lines: a cell's own
        return UnauthorizedError(evalue)
    return remote_error(ename or 'RemoteError', evalue or '', wire.flat(traceback))


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
