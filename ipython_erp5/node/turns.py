"""Whose turn it is on a node: `size` cells run at once, those of one notebook one after another, in the order in which they came.

    enter ─► queue ─► running ─► leave
               ▲         │ hold: another node has the notebook
               └ again ─ away
"""

import threading

from .run import Run


class Turns:
    """All of it with the lock, `changed`, which is the pool's. Only who has a turn is woken: a hundred that wait cost nothing."""

    def __init__(self, size: int, changed: threading.Condition) -> None:
        self.size, self.changed = size, changed
        self.queue: list[Run] = []
        self.running: list[Run] = []
        self.away: list[Run] = []

    def enter(self, run: Run) -> None:
        self.queue.append(run)
        self.advance()

    def advance(self) -> None:
        """Those begin for whom a place is free, and whose notebook has none before them."""
        taken = {run.request.reference for run in self.running}
        for run in [*self.queue] if len(self.running) < self.size else ():
            if len(self.running) < self.size and run.request.reference not in taken:
                self.queue.remove(run)
                self.running.append(run)
                run.woken.set()
            taken.add(run.request.reference)

    def reason_to_wait(self, run: Run) -> str:
        if any(other.request.reference == run.request.reference for other in self.running):
            return 'another cell of this notebook runs'
        return f'all {self.size} executors are busy'

    def leave(self, run: Run) -> None:
        for runs in (self.queue, self.running, self.away):
            if run in runs:
                runs.remove(run)
        self.advance()
        self.changed.notify_all()

    def hold(self, run: Run) -> None:
        """It waits for another node, and nobody here for it."""
        run.woken.clear()
        self.leave(run)
        self.away.append(run)

    def again(self, run: Run) -> None:
        """It waits here again, before those that came after it."""
        if run in self.away:
            self.away.remove(run)
            self.queue.insert(0, run)
            self.advance()

    def of(self, reference: str, request_id: str) -> Run | None:
        """The request that runs or waits here, or whichever runs or waits of the notebook if `request_id` is ''."""
        return next((run for run in [*self.running, *self.queue, *self.away] if run.request.reference == reference
                     and request_id in ('', run.request_id)), None)
