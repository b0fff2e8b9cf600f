"""`%%erp5 --noblock` in a shell: where its outputs go, and what is said of cells that have ended and nobody has looked at.

    in a kernel    ─► under the cell that started it, as they come, whatever has been run since
    anywhere else  ─► nowhere by themselves, as text in the middle of what one types helps nobody; `.result()` shows them first
"""

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell

from . import local_values, wire
from .display import NORMAL, Display, RemoteResult, without_colors
from .errors import RemoteError
from .handle import RemoteCell
from .history import SHORT

if TYPE_CHECKING:
    from .session import Session


class Under(Display):
    """Shows messages under the cell that runs while it is made, from any thread and at any time; a kernel's own streams and publishers
    follow whichever cell is the latest, and in what they do for threads its versions differ. So it sends Jupyter's messages itself."""

    def __init__(self, shell: InteractiveShell, feedback: int) -> None:
        super().__init__(shell, feedback)
        self.parent = shell.get_parent()  # type: ignore[attr-defined]

    def take(self, message: wire.Message) -> None:
        """The error too, which nobody may be there to have raised; as text: an error of another cell is no error of this one."""
        super().take(message)
        if message['msg_type'] == 'error':
            self.write('stderr', '\n'.join(message['traceback']) + '\n')
        elif message['msg_type'] == 'execute_result' and self.result is not None:
            self.publish(data=self.result.data, metadata=self.result.metadata)

    def write(self, name: str, text: str) -> None:
        if text:
            self.send('stream', {'name': name, 'text': text})

    def publish(self, **content: Any) -> None:
        kind = 'update_display_data' if content.pop('update', False) else 'display_data'
        self.send(kind, {'metadata': {}, 'transient': {}, **content})

    def clear(self, wait: bool) -> None:
        self.send('clear_output', {'wait': wait})

    def send(self, kind: str, content: dict[str, Any]) -> None:
        publisher: Any = self.shell.display_pub
        publisher.session.send(publisher.pub_socket, kind, content, parent=self.parent, ident=publisher.topic)


def start(session: 'Session', shell: InteractiveShell, feedback: int, code: str, **options: Any) -> RemoteCell:
    """Its `result()` is the RemoteResult or None, and the value itself if `_` is pulled. Values that were pulled get their names then, and
    not behind anybody's back."""
    under = Under(shell, feedback) if hasattr(shell.display_pub, 'pub_socket') else None

    def finish(cell: RemoteCell) -> Any:
        display = Display(shell, feedback)
        for message in () if cell.shown else cell.messages:
            display.take(message)
        told = local_values.arrived(shell, cell.reply, ())
        if feedback >= NORMAL:
            display.write('stdout', told)
        if shell.colors == 'nocolor' and isinstance(cell.reply.error, RemoteError):
            cell.reply.error.traceback = [without_colors(line) for line in cell.reply.error.traceback]
        results = (message for message in cell.messages if message['msg_type'] == 'execute_result')
        shown = next((RemoteResult(message['data'], message.get('metadata')) for message in results), None)
        return local_values.last(cell.reply, shown)

    return session.submit(code, on_message=under.take if under else None, finish=finish, **options)


def ended(session: 'Session') -> Iterator[str]:
    """A line for each cell that has ended since and that nobody has looked at: once, and where it was shown only if it failed."""
    for cell in list(session.cells.values()):
        if cell.done() and not cell.looked and not cell.told:
            cell.told = True
            if cell.status != 'ok' or cell.failure is not None or not cell.shown:
                yield f'The cell {cell.request_id[:SHORT]} has ended: {outcome(cell)}. %erp5_result {cell.request_id[:SHORT]} shows it\n'


def outcome(cell: RemoteCell) -> str:
    error = cell.failure or cell.reply.error
    if error is None:
        return f'{cell.status}, after {cell.seconds:.1f} s'
    return f'{cell.status}, {type(error).__name__}: {textwrap.shorten(str(error), 80, placeholder=" …")}'
