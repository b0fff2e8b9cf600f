"""The processes below a process: keeping them there, finding them, ending them.

    node ─► fork server ─► executor ─► children of a cell, and theirs
               ▲              ▲  a child whose own parent has ended becomes a child of its executor, whatever sessions it has opened,
               └──────────────┘  and one whose executor has ended becomes a child of the fork server

Both are what Linux calls a subreaper, so that nothing leaves the tree. Without Linux's `/proc` nothing is found, and an executor
ends alone. Processes are found in one pass over `/proc`: not every kernel lists the children of a process.
"""

import atexit
import contextlib
import ctypes
import multiprocessing.forkserver
import os
import signal
import sys
import time
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

SUBREAPER, SIGNAL_OF_PARENT = 36, 1  # PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG of linux/prctl.h
ORPHANED = getattr(signal, 'SIGRTMAX', signal.SIGTERM)  # to an executor whose fork server has gone; one that cells have no use for
ORPHAN = 5.0  # seconds that a running cell has after the end of its node
EXPENDABLE = 500  # of 1000: an executor that needs too much goes before the node and the database do
server = 0  # the pid of the fork server, in that and its copies
REMEMBERED = 1.0  # seconds for which a pid that was a stranger's is taken to be still the same stranger's


def adopt() -> None:
    """Orphans below this process become its children, not those of the system. Its children do not inherit that."""
    prctl(SUBREAPER, 1)


def signal_without_parent(number: int) -> None:
    """Get the signal when the process that has started this one ends."""
    prctl(SIGNAL_OF_PARENT, number)


def prctl(option: int, value: int) -> None:
    if sys.platform == 'linux':
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


# ---------------------------------------------------------------- the fork server
def stay_to_the_end() -> None:
    """This process, the fork server, ends when the node has gone: it sees the end of a pipe. What is below it ends before that."""
    global server
    server = os.getpid()
    adopt()
    warnings.filterwarnings('ignore', 'forkserver: waitpid returned unexpected pid')  # an orphan, and not unexpected
    atexit.register(outlast, ORPHAN)


def outlast(seconds: float) -> None:
    """Wait for what is below the fork server, and end what is left after that time, until nothing is. Its copies do nothing."""
    patience = time.monotonic() + seconds
    while os.getpid() == server and has_children():
        if time.monotonic() > patience:
            end_below(server)
        time.sleep(.02)


def has_children() -> bool:
    """Whether a child has not ended. Those that have are put away."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


# ---------------------------------------------------------------- an executor, or another child of the fork server
def belong() -> None:
    """In an executor: what descends from it stays below it, and it ends when the fork server does."""
    os.setsid()  # Ctrl-C in the node's terminal is not for the cells; an interrupt of a cell is for its children too
    adopt()
    only_the_node_keeps_the_pipe()
    signal.signal(ORPHANED, leave)
    signal_without_parent(ORPHANED)
    if os.getppid() != server:
        leave()
    with contextlib.suppress(OSError):
        Path('/proc/self/oom_score_adj').write_text(str(EXPENDABLE))


def only_the_node_keeps_the_pipe() -> None:
    """Every process of a fork server has the pipe whose end tells it to end: meant is the end of all of them, here of the node."""
    state: Any = multiprocessing.forkserver._forkserver
    if state._forkserver_alive_fd is not None:
        os.close(state._forkserver_alive_fd)
        state._forkserver_alive_fd = None


def leave(number: int = 0, frame: FrameType | None = None) -> None:
    """The fork server has gone, which would have seen to it that this process ends."""
    end_below(os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


# ---------------------------------------------------------------- finding
def parents(strangers: Collection[int] = ()) -> dict[int, int]:
    """pid -> pid of the parent, of all processes that have not ended, but for the strangers."""
    found = {}
    for name in processes():
        if name.isdigit() and int(name) not in strangers:
            with contextlib.suppress(OSError):
                state, parent = state_and_parent(int(name))
                if state not in b'ZX':
                    found[int(name)] = parent
    return found


def processes() -> list[str]:
    try:
        return os.listdir('/proc')
    except FileNotFoundError:
        return []


def state_and_parent(pid: int) -> tuple[bytes, int]:
    """Of a process; OSError if there is none. Its name may contain anything, parentheses too."""
    fd = os.open(f'/proc/{pid}/stat', os.O_RDONLY)
    try:
        state, parent = os.read(fd, 1024).rpartition(b') ')[2].split(b' ', 2)[:2]
    finally:
        os.close(fd)
    return state, int(parent)


def lives(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return state_and_parent(pid)[0] not in b'ZX'
    except OSError:
        return False


def below(root: int, known: Mapping[int, int], spared: Collection[int] = ()) -> set[int]:
    """All that descends from `root`, but not what is spared, nor what descends from that. `known`: what `parents` found."""
    children: dict[int, list[int]] = {}
    for pid, parent in known.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    todo = [root]
    while todo:
        new = [pid for pid in children.get(todo.pop(), ()) if pid not in spared and pid not in found]
        found.update(new)
        todo += new
    return found


class Family:
    """Who descends from this process, for one who asks often: who does not, never will, so that only new pids need a look."""

    def __init__(self) -> None:
        self.strangers: set[int] = set()
        self.known: dict[int, int] = {}
        self.looked = 0.0

    def below(self, root: int) -> set[int]:
        """All that descends from `root`, as of at most 20 ms ago."""
        if time.monotonic() - self.looked > .02:
            self.look()
        return below(root, self.known)

    def look(self) -> None:
        if time.monotonic() - self.looked > REMEMBERED:
            self.strangers = set()
        self.looked = time.monotonic()
        known = parents(self.strangers)
        self.strangers = self.strangers | (known.keys() - below(os.getpid(), known))
        self.known = known


# ---------------------------------------------------------------- ending
def send(pid: int, number: int) -> None:
    """A signal to a process, if it is still there and not somebody else's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def end(pid: int) -> None:
    """End a process and all that descends from it."""
    send(pid, signal.SIGSTOP)  # now it keeps what is below it, and starts nothing
    end_below(pid)
    send(pid, signal.SIGKILL)


def end_below(root: int, spared: Collection[int] = ()) -> None:
    """End what `below` finds. All are stopped first: one that is stopped starts no other, so that none escapes."""
    stopped: set[int] = set()
    while new := below(root, parents(), spared) - stopped:
        for pid in new:
            send(pid, signal.SIGSTOP)
        stopped |= new
    for pid in stopped:
        send(pid, signal.SIGKILL)
