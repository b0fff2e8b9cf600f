"""Cells whose process has died: their outcome is a line of the notebook's history, written by the node at once.

A process may die just after its commit: then the line of the cell itself is there, and is the outcome. While the database is away,
losses are kept here, and tried again.
"""

import threading
from typing import Any

from .. import wire
from .journal import Journal
from .storage import change


class Losses:
    def __init__(self, database: Any, node: str, journal: Journal) -> None:
        self.database, self.node, self.journal = database, node, journal
        self.lock = threading.Lock()
        self.waiting: dict[str, dict[str, tuple[wire.Request, str]]] = {}  # notebook -> request_id -> request, cause

    def of(self, reference: str) -> dict[str, str]:
        """Those of a notebook of which the history does not know yet."""
        with self.lock:
            return {request_id: cause for request_id, (_, cause) in self.waiting.get(reference, {}).items()}

    def add(self, request: wire.Request, cause: str) -> None:
        with self.lock:
            self.waiting.setdefault(request.reference, {})[request.request_id] = request, cause

    def again(self) -> None:
        """What could not be written before."""
        with self.lock:
            waiting = [loss for losses in self.waiting.values() for loss in losses.values()]
        for loss in waiting:
            self.write(*loss)

    def write(self, request: wire.Request, cause: str) -> list[bytes] | None:
        """The lines of the outcome, from the first one on, once it is on record; None if the database is away."""
        try:
            lines = self.record(request, cause)
        except Exception as error:
            self.journal.event('loss not recorded', level='error', request_id=request.request_id, notebook=request.reference,
                               cause=f'{type(error).__name__}: {error}')
            return None
        with self.lock:
            losses = self.waiting.get(request.reference, {})
            losses.pop(request.request_id, None)
            if not losses:
                self.waiting.pop(request.reference, None)
        return lines

    def record(self, request: wire.Request, cause: str) -> list[bytes]:
        def lose(root: Any) -> list[bytes]:
            notebook = root['Application'].erp5.data_notebook_module.find(request.reference)
            if notebook is None:
                return list(map(wire.encode, wire.lost(request.request_id, cause)))
            line = notebook.lose(request, cause)
            return [*line.messages(), wire.encode(line.reply(request.request_id, self.node))]

        return change(self.database, lose)  # a conflict is perhaps the last commit of the process that has died
