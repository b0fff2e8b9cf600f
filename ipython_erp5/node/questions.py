"""What a notebook is asked while somebody types: answered by a process that runs no cells, and soon, or with the names alone.

    Node ─► Questions.ask() ─► thread ─► pool ─► Process: P line (its setups have been run), A line (the answer)
              │                   └─ an answer that takes too long ends the process; setups get more time, as nobody waits for them
              ▼ after DEADLINE
            names_alone(): what the database has, without any of the notebook's code
"""

import itertools
import json
import re
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any

from . import executor
from .completing import Reply, completed, stored_kind
from .journal import Journal
from .pool import QUESTIONS, Pool
from .process import Process

DEADLINE = .8  # seconds in which there is an answer
PREPARING = 30.0  # seconds that setups may take; the answers meanwhile are names alone
REST = 60.0  # seconds in which setups that took longer, or ended their process, are not run for a question again
MOST = 500  # matches, as in IPython
LAST_NAME = re.compile(r'[^\W\d]\w*\Z')
LAST = '\U0010ffff'  # behind every character of a name


class Questions:
    """Those about one notebook are answered one after another."""

    def __init__(self, pool: Pool, journal: Journal) -> None:
        self.pool, self.journal = pool, journal
        self.turns: dict[str, threading.Lock] = {}
        self.preparing: set[str] = set()  # notebooks whose process may be running their setups
        self.slow: set[str] = set()  # those of which that takes longer than anybody waits
        self.resting: dict[str, float] = {}  # notebook -> until when, by time.monotonic()

    def ask(self, question: dict[str, Any]) -> Reply | None:
        """The answer (see `completing.Answering.answer`); None if there is none in time."""
        reference, end = question['reference'], time.monotonic() + DEADLINE
        turn = self.turns.setdefault(reference, threading.Lock())
        if time.monotonic() < self.resting.get(reference, 0) or not turn.acquire(timeout=0 if reference in self.slow else DEADLINE):
            return None
        self.slow.discard(reference)
        answers: SimpleQueue[Reply | None] = SimpleQueue()
        threading.Thread(target=self.pass_on, args=(question, end, turn, answers), daemon=True).start()
        try:
            return answers.get(timeout=max(0, end - time.monotonic()))
        except Empty:
            self.slow.update(self.preparing & {reference})
            return None

    def pass_on(self, question: dict[str, Any], end: float, turn: threading.Lock, answers: SimpleQueue[Reply | None]) -> None:
        reply, process = None, None
        try:
            process = self.pool.choose(question['reference'], QUESTIONS)
            process.ask(question)
            reply = self.listen(process, question['reference'], end)
        except (EOFError, OSError):  # it could not be started, or has been ended with the node
            pass
        except Exception as error:  # a fault of ours must not keep the notebook's turn
            self.journal.fault(error)
        finally:
            answers.put(reply)
            if process is not None:
                self.pool.give_back(process, reusable=not process.dead)
            turn.release()

    def listen(self, process: Process, reference: str, end: float) -> Reply | None:
        """The answer; None from a process that dies, or takes too long and is ended."""
        self.preparing.add(reference)
        tag, line = process.answer(PREPARING)
        self.preparing.discard(reference)
        if tag == executor.READY:
            tag, line = process.answer(max(end - time.monotonic(), DEADLINE / 4))
        elif not tag:
            self.rest(reference)
        if tag:
            reply: Reply | None = json.loads(line)
            return reply
        process.kill()
        process.end()
        return None

    def rest(self, reference: str) -> None:
        self.resting[reference] = time.monotonic() + REST
        self.journal.event('no completion', notebook=reference, seconds=REST,
                           cause=f'its setups took longer than {PREPARING:g} s, or ended their process')


# ---------------------------------------------------------------- without the notebook's code
def names_alone(notebook: Any, code: str, cursor_pos: int) -> Reply:
    """Completion by the names of the notebook, from its records; of attributes, keys and magics nothing is known without it.

    `names_alone` in the metadata says so.
    """
    before = code[:cursor_pos]
    found = LAST_NAME.search(before)
    prefix = found[0] if found else ''
    start = cursor_pos - len(prefix)
    if before[:start].rstrip()[-1:] in ('.', '%', '"', "'"):
        return completed([], cursor_pos, cursor_pos, names_alone=True)
    stored = notebook.stored
    provided = {name for setup in notebook.environment for name in setup.get('names', ()) if name.startswith(prefix)}
    given = provided | {name for name in ('context', 'environment') if name.startswith(prefix)}
    names = itertools.islice((name for name in stored.groups.keys(prefix, prefix + LAST) if name.isidentifier()), MOST)
    return completed([{'start': start, 'end': cursor_pos, 'text': name, 'type': stored_kind(stored, name), 'signature': ''}
                      for name in sorted(given.union(names))], start, cursor_pos, names_alone=True)
