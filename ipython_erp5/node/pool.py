"""The executor processes of one node: start, choose, give back.

    choose(notebook) ─► one that has run this notebook, or a fresh one ─► the cell ─► give_back() ─► idle, or its end
                                             ▲
                                spare ◄── refill, in the background

A process that has run one notebook's code never runs another's, and one that answers questions (see `questions`) runs no cells.
"""

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .process import Process

if TYPE_CHECKING:
    from .cell import Notebooks

ENDING = 5.0  # seconds that a node which is stopped waits for processes that are being started
IDLE = 8  # processes that keep a notebook's imports warm, beside the spare ones

CELLS, QUESTIONS = 'cells', 'questions'  # what a process is for
PLACEMENTS = ('sticky', 'rotate', 'fresh')


class Pool:
    """`cells`: how many cells an executor runs before a fresh one takes its place; 0: any number."""

    def __init__(self, size: int, placement: str, make_notebooks: 'Callable[[], Notebooks]', cells: int = 0) -> None:
        self.size, self.placement, self.make, self.cells = size, placement, make_notebooks, cells
        self.changed = threading.Condition()
        self.idle: list[Process] = []  # each bound to a notebook; the last one has been used last
        self.spare: list[Process] = []  # fresh ones
        self.asked: list[Process] = []  # those that answer now
        self.starting = 0
        self.closed = False
        self.spare.extend(process.ready() for process in [Process(make_notebooks) for _ in range(size)])

    def choose(self, reference: str, purpose: str = CELLS) -> Process:
        """A process for a cell of this notebook: see `--placement`. One that has died while it waited is nobody's outcome."""
        while (chosen := self.take(reference, purpose)) is not None and chosen.gone:
            threading.Thread(target=chosen.close, daemon=True).start()
        if chosen is None:
            chosen = Process(self.make).ready()
        chosen.reference, chosen.purpose = reference, purpose
        if purpose == QUESTIONS:
            with self.changed:
                self.asked.append(chosen)
        return chosen

    def take(self, reference: str, purpose: str) -> Process | None:
        """One of those that wait, None if a new one is needed."""
        with self.changed:
            mine = [process for process in self.idle if (process.reference, process.purpose) == (reference, purpose)]
            chosen = None
            if mine and (self.placement == 'sticky' or purpose == QUESTIONS):
                chosen = mine[-1]
            elif self.placement == 'rotate' and len(mine) >= max(2, self.size):
                chosen = mine[0]
            if chosen is not None:
                self.idle.remove(chosen)
            elif self.spare:
                chosen = self.spare.pop()
                self.refill()
            return chosen

    def refill(self) -> None:
        """Start fresh processes in the background, so that the next notebook finds one. (With the lock.)"""
        if not self.closed and len(self.spare) + self.starting < self.size:
            self.starting += 1
            threading.Thread(target=self.add_spare, daemon=True).start()

    def add_spare(self) -> None:
        process = None
        try:
            process = Process(self.make).ready()
        finally:
            with self.changed:
                self.starting -= 1
                if process is not None:
                    self.spare.append(process)
                self.changed.notify_all()

    def give_back(self, process: Process, reusable: bool) -> None:
        """After a cell, or a question: it waits for the next one of its notebook, unless it may not be used again."""
        with self.changed:
            process.used = time.monotonic()
            process.cells += process.purpose == CELLS
            worn = process.purpose == CELLS and (self.placement == 'fresh' or process.cells == self.cells)
            self.asked = [other for other in self.asked if other is not process]
            leaving = [process] if process.dead or not reusable or worn or self.closed else []
            if not leaving:
                self.idle.append(process)
                leaving = self.idle[:max(0, len(self.idle) - max(IDLE, 2 * self.size))]
                del self.idle[:len(leaving)]
            self.changed.notify_all()
        self.end(leaving)

    def give_up_idle(self, seconds: float) -> int:
        """End the executors that have waited longer than that for a cell of their notebook; how many."""
        return self.give_up(lambda process: time.monotonic() - process.used >= seconds)

    def give_up(self, unwanted: Callable[[Process], bool]) -> int:
        with self.changed:
            idle = list(self.idle)
        found = [process for process in idle if unwanted(process)]  # which may take its time
        with self.changed:
            leaving = [process for process in found if process in self.idle]
            self.idle = [process for process in self.idle if process not in leaving]
        self.end(leaving)
        return len(leaving)

    def end(self, processes: Iterable[Process]) -> None:
        for process in processes:
            threading.Thread(target=process.close, daemon=True).start()

    def status(self, running: list[Process]) -> dict[str, Any]:
        """(With the lock.)"""
        return {'idle': len(self.idle), 'spare': len(self.spare),
                'processes': [{'pid': process.pid, 'notebook': process.reference, 'state': state}
                              for state, processes in (('idle', self.idle), ('spare', self.spare), ('running', running))
                              for process in processes]}

    def close(self) -> None:
        with self.changed:
            self.closed = True
            asked = list(self.asked)
        for process in asked:  # they may be at a setup that takes its time
            process.kill()
        with self.changed:
            self.changed.wait_for(lambda: not self.starting, ENDING)
            processes = [*self.idle, *self.spare]
            self.idle, self.spare = [], []
        for process in processes:
            process.connection.close()
        for process in processes:
            process.close()
