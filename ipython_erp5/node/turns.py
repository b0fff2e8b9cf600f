"""Whose turn it is on a node: `size` cells run at once, those of one notebook one after another, in the order in which they came.

    enter ─► queue ─► running ─► leave
               ▲         │ hold: another node has the notebook
               └ again ─ away
"""

import threading

from .run import Run


class Turns:
    """All of it with the lock, `changed`, which is the pool's."""

    def __init__(self, size: int, changed: threading.Condition) -> None:
        self.size, self.changed = size, changed
        self.queue: list[Run] = []
        self.running: list[Run] = []
        self.away: list[Run] = []

    def begin(self, run: Run) -> bool:
        """Whether it is the run's turn now; then it is among the running ones."""
        if not self.is_next(run):
            return False
        self.queue.remove(run)
        self.running.append(run)
        return True

    def is_next(self, run: Run) -> bool:
        """Whether a place is free, its notebook has none before it, and no older run could begin instead."""
        if len(self.running) >= self.size:
            return False
        taken = {other.request.reference for other in self.running}
        for waiting in self.queue:
            if waiting.request.reference not in taken:
                return waiting is run
            if waiting is run:
                return False
        return False

    def reason_to_wait(self, run: Run) -> str:
        if any(other.request.reference == run.request.reference for other in self.running):
            return 'another cell of this notebook runs'
        return f'all {self.size} executors are busy'

    def leave(self, run: Run) -> None:
        for runs in (self.queue, self.running, self.away):
            if run in runs:
                runs.remove(run)
        self.changed.notify_all()

    def hold(self, run: Run) -> None:
        """It waits for another node, and nobody here for it."""
        self.leave(run)
        self.away.append(run)

    def again(self, run: Run) -> None:
        """It waits here again, before those that came after it."""
        if run in self.away:
            self.away.remove(run)
            self.queue.insert(0, run)
            self.changed.notify_all()

    def of(self, reference: str, request_id: str) -> Run | None:
        """The request that runs or waits here, or whichever runs or waits of the notebook if `request_id` is ''."""
        return next((run for run in [*self.running, *self.queue, *self.away] if run.request.reference == reference
                     and request_id in ('', run.request_id)), None)
