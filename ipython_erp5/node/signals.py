"""Ending a cell that runs: by an interrupt, by its time limit, by force.

    interrupt, limit ─► SIGINT ─► GRACE later, or at a second interrupt ─► SIGKILL          a cell that waits does not begin
"""

import threading
from collections.abc import Callable

from .limits import TimeLimit
from .run import Run
from .turns import Turns

GRACE = 10.0  # seconds between an interrupt that is not heeded and the end of the process


class Signals:
    def __init__(self, turns: Turns) -> None:
        self.turns, self.changed = turns, turns.changed

    def begin(self, run: Run, limit: TimeLimit | None) -> None:
        """The process has the request: a signal is for it from here on, and an interrupt that came before is due."""
        with self.changed:
            run.started = True
            if run.interrupted and run.process is not None:
                run.process.interrupt()
        if limit is not None:
            self.at(run, limit.left, lambda: self.time_is_over(run, limit))

    def interrupt(self, reference: str, request_id: str, waiting: bool = True) -> bool:
        """SIGINT to the request, or to whichever cell of the notebook runs if `request_id` is ''; False if none runs here.

        The second time, or GRACE seconds later, the process is ended. `waiting`: of a cell that waits too, which does not begin then.
        """
        with self.changed:
            run = self.turns.of(reference, request_id)
            if run is None or run.attached or not (waiting or run in self.turns.running):
                return False
            again, run.interrupted = run.interrupted, True
            if run.started and run.process is not None:  # before that the executor would not heed it
                run.process.interrupt()
            run.woken.set()
            cancel, running = run.cancel, run in self.turns.running
        if not running and cancel is not None:
            cancel()
        elif again:
            self.kill(run, 'killed by a second interrupt')
        elif running:
            self.kill_later(run, lambda: f'killed, as it did not heed an interrupt for {GRACE:g} s')
        return True

    def time_is_over(self, run: Run, limit: TimeLimit) -> None:
        """The process makes of a signal after the deadline what it is."""
        with self.changed:
            if not run.started or run.process is None:
                return
            run.interrupted = True
            run.process.interrupt()
        self.kill_later(run, limit.killed)

    def kill_later(self, run: Run, cause: Callable[[], str]) -> None:
        """Unless it has ended before."""
        self.at(run, GRACE, lambda: self.kill(run, cause()))

    def at(self, run: Run, seconds: float, call: Callable[[], object]) -> None:
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        run.timers.append(timer)
        timer.start()

    def kill(self, run: Run, cause: str) -> None:
        with self.changed:
            if run in self.turns.running and run.process is not None:
                run.killed = cause
                run.process.kill()

    def end(self, run: Run) -> None:
        """No signal for it any more."""
        with self.changed:
            run.started = False
        for timer in run.timers:
            timer.cancel()
