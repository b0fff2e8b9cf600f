"""What a node does beside the requests: processes that need too much memory are ended, idle ones given back, losses written again.

    every TICK: executors over their memory ─► ended       idle for long, or memory is short ─► given back       losses ─► the history
"""

import threading
import time

from . import memory
from .dispatch import Dispatcher
from .journal import Journal
from .limits import memory_used_up
from .pool import Pool

TICK = .2  # seconds
SHORT = 1 / 16  # of the machine's memory: when less is left, idle executors are given back


class Housekeeping(threading.Thread):
    """`executor_memory`: bytes that an executor may use, 0 for any number; `idle`: seconds after which one without work is given back;
    `reserve`: bytes that are to be left of the memory, without which none waits."""

    def __init__(self, dispatcher: Dispatcher, pool: Pool, journal: Journal, executor_memory: int, idle: float, reserve: int = 0) -> None:
        super().__init__(name='housekeeping', daemon=True)
        self.dispatcher, self.pool, self.journal = dispatcher, pool, journal
        self.executor_memory, self.idle, self.reserve = executor_memory, idle, reserve or int(memory.machine() * SHORT)
        self.ended = threading.Event()
        self.looked = 0.0

    def run(self) -> None:
        while not self.ended.wait(TICK):
            try:
                self.look()
            except Exception as error:  # a fault here must not end all that follows
                self.journal.fault(error)

    def look(self) -> None:
        if self.executor_memory:
            self.end_the_greedy()
        if time.monotonic() - self.looked > 1:
            self.looked = time.monotonic()
            short = memory.available() < self.reserve
            given_back = self.pool.give_up_idle(0 if short else self.idle)
            if given_back and short:
                self.journal.event('memory is short', given_back=given_back)
            self.dispatcher.losses.again()

    def end_the_greedy(self) -> None:
        """A running cell is lost, and its outcome says why; an idle executor, which has kept something, just goes."""
        for run, pid in self.dispatcher.running_processes():
            used = memory.exceeds(pid, self.executor_memory)
            if used:
                self.dispatcher.signals.kill(run, memory_used_up(used, self.executor_memory))
        self.pool.give_up(lambda process: bool(memory.exceeds(process.pid, self.executor_memory)))

    def close(self) -> None:
        self.ended.set()
        if self.is_alive():
            self.join(5)
