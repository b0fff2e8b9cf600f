"""Memory, as the system counts it: what a process and its descendants use, and what the machine can still give.

Counted is what must be kept in memory: anonymous pages, and shared memory. Pages of files are not, as large arrays are mapped files
that the system can drop and read again; what a cell changes in them is anonymous.
"""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from .descendants import Family

QUICK = ('RssAnon:', 'RssShmem:', 'VmSwap:')  # of /proc/PID/status: 20 µs a process
EXACT = ('Pss_Anon:', 'Pss_Shmem:', 'SwapPss:')  # of /proc/PID/smaps_rollup: 0.3 ms, and milliseconds for each GB
UNLIMITED = 1 << 62
KILLS = re.compile(rb'(?m)^oom_kill (\d+)$')

family = Family()


# ---------------------------------------------------------------- a process
def used(pid: int) -> int:
    """Bytes of a process and its descendants; 0 if it has ended. What they share with others, they have a share of.

    What several have since a fork is counted once. All that descends from this process is looked up together, at most every 20 ms.
    """
    return sum(exact(one) for one in (pid, *family.below(pid)))


def at_most(pid: int) -> int:
    """Quickly, bytes that `used` does not exceed: what several share is counted for each."""
    return sum(counted(f'/proc/{one}/status', QUICK) for one in (pid, *family.below(pid)))


def exceeds(pid: int, limit: int) -> int:
    """The bytes that a process and its descendants use, if they are more than `limit`, else 0."""
    if at_most(pid) <= limit:
        return 0
    count = used(pid)
    return count if count > limit else 0


def exact(pid: int) -> int:
    """Of one process. A kernel that does not tell shares gives the quick number."""
    return counted(f'/proc/{pid}/smaps_rollup', EXACT) or counted(f'/proc/{pid}/status', QUICK)


def counted(path: str, fields: tuple[str, ...]) -> int:
    """Bytes: the sum of these fields of a file of /proc, which has kB; 0 without the file."""
    try:
        with open(path) as file:
            lines = [line.split() for line in file if line.startswith(fields)]
    except OSError:
        return 0
    return sum(int(words[1]) << 10 for words in lines)


# ---------------------------------------------------------------- the machine, or what of it we may use
def available() -> int:
    """Bytes that this process and others can still have before the system has to end one. UNLIMITED where nobody tells."""
    free = counted('/proc/meminfo', ('MemAvailable:',)) or UNLIMITED
    return max(0, min([free, *(group.left() for group in groups())]))


def machine() -> int:
    """Bytes that this process and others may have in all; 0 where nobody tells."""
    limits = [limit for group in groups() for limit in group.numbers()]
    return min([counted('/proc/meminfo', ('MemTotal:',)), *limits])


class Group:
    """A control group that this process is in, version 2 or 1."""

    def __init__(self, folder: Path, limits: tuple[str, ...], usage: str, idle: str, kills: str) -> None:
        self.limits = [folder / name for name in limits]
        self.usage, self.stat, self.idle, self.kills = folder / usage, folder / 'memory.stat', idle, folder / kills

    def left(self) -> int:
        """Bytes, with those of files that nobody has used lately."""
        limits, usage = self.numbers(), first_number(self.usage)
        if usage is None or not limits:
            return UNLIMITED
        return min(limits) - usage + (field(self.stat, self.idle) or 0)

    def numbers(self) -> list[int]:
        """Its limits in bytes."""
        return [number for path in self.limits if (number := first_number(path)) is not None and number < UNLIMITED]


def version_2(folder: Path) -> Group:
    return Group(folder, ('memory.max', 'memory.high'), 'memory.current', 'inactive_file', 'memory.events')


def version_1(folder: Path) -> Group:
    return Group(folder, ('memory.limit_in_bytes',), 'memory.usage_in_bytes', 'total_inactive_file', 'memory.oom_control')


@functools.cache
def groups() -> list[Group]:
    """Those that hold memory of this process, the innermost first: the limit of an outer one counts too."""
    try:
        return list(found(Path('/proc/self/cgroup').read_text(), Path('/proc/self/mountinfo').read_text()))
    except OSError:
        return []


def found(memberships: str, mounts: str) -> Iterator[Group]:
    """From the texts of /proc/self/cgroup and /proc/self/mountinfo."""
    for kind, make, pattern in (('cgroup2', version_2, r'0::(.*)'), ('cgroup', version_1, r'\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.*)')):
        member = re.search(f'(?m)^{pattern}$', memberships)
        mount = mounted(mounts, kind)
        if member and mount:
            yield from up(member[1], *mount, make)


def mounted(mounts: str, kind: str) -> tuple[str, str] | None:
    """(the part of the hierarchy that is seen, where): of the one for memory."""
    for line in mounts.splitlines():
        before, _, after = line.partition(' - ')
        words, (name, _, options) = before.split(' '), after.split(' ', 2)
        if name == kind and (kind == 'cgroup2' or 'memory' in options.split(',')):
            return words[3], words[4]
    return None


def up(member: str, seen: str, mount: str, make: Callable[[Path], Group]) -> Iterator[Group]:
    """A group and those around it, as far as they can be seen from here."""
    inside = os.path.relpath(member, seen)
    folder = Path(mount) if inside.startswith('..') else Path(mount) / inside
    for path in (folder, *folder.parents):
        if path.is_relative_to(mount):
            yield make(path)


def first_number(path: Path) -> int | None:
    """Of a file with one; None for `max`, or without the file."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def field(path: Path, name: str) -> int | None:
    """The number after a name at the head of a line."""
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith(name + ' '):
                return int(line.split()[1])
    return None


def kills() -> int:
    """How many processes the system has ended so far for want of memory: of our group where that is told, else of the machine."""
    fd = who_tells_kills()
    found = KILLS.search(os.pread(fd, 1 << 16, 0)) if fd >= 0 else None
    return int(found[1]) if found else 0


@functools.cache
def who_tells_kills() -> int:
    """The file, open: this is asked before every cell. -1 if there is none."""
    for path in (*(group.kills for group in groups()), Path('/proc/vmstat')):
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY)
            if KILLS.search(os.pread(fd, 1 << 16, 0)):
                return fd
            os.close(fd)
    return -1
