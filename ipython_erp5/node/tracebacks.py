"""Which frames of an error are shown, and how: those of cells and of what they call, without this package's.

For a frame IPython parses the whole file that it is in, 20 to 60 ms for `threading` or `subprocess` in a process that has not done so
yet. Who interrupts a cell waits for that: then the frames of files are shown as lines, and only those of cells in full.
"""

import inspect
import itertools
import os
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from IPython.core.tbtools import FrameInfo

from .source import cell_number

OURS = str(Path(__file__).parent.parent) + '/'  # where this package's own code is
NO_MODULE = '<no module>'
MANY = 20  # frames of files one after another: a recursion, which IPython shortens
Records = Callable[[Any, int, int], list[Any]]


def name_and_text(error: BaseException) -> tuple[str, str]:
    """The class and the text of an error whose `str` may itself raise."""
    try:
        return type(error).__name__, str(error)
    except Exception as raised:
        return type(error).__name__, f'<no text: __str__ raised {type(raised).__name__}>'


def without_ours(frames: types.TracebackType | None, until_cell: bool = False) -> types.TracebackType | None:
    """The traceback without frames of this package; `until_cell`: without any before the first one of a cell."""
    kept: list[types.TracebackType] = []
    for place in places(frames):
        filename = place.tb_frame.f_code.co_filename
        until_cell = until_cell and cell_number(filename) is None
        if not until_cell and not filename.startswith(OURS):
            kept.append(place)
    return chain(kept)


def places(frames: types.TracebackType | None) -> Iterator[types.TracebackType]:
    while frames is not None:
        yield frames
        frames = frames.tb_next


def chain(kept: Sequence[types.TracebackType]) -> types.TracebackType | None:
    """A traceback of these only."""
    rest = None
    for place in reversed(kept):
        rest = types.TracebackType(rest, place.tb_frame, place.tb_lasti, place.tb_lineno)
    return rest


class Brief:
    """In the place of a formatter's `get_records`: what it would give, or quicker for an interrupt."""

    def __init__(self, get_records: Records) -> None:
        self.in_full = get_records
        self.interrupt = False

    def __call__(self, frames: types.TracebackType | None, context: int, offset: int) -> list[Any]:
        """None of IPython's own frames, which its first releases of 9 count by `offset` and its later ones find by themselves."""
        spare_inspect(frames)
        shown = list(filter(is_shown, places(frames)))
        if not self.interrupt:
            return self.in_full(chain(shown), context, 0) if shown else []
        records: list[Any] = []
        for of_cell, group in itertools.groupby(shown, is_of_cell):
            part = list(group)
            records += self.in_full(chain(part), context, 0) if of_cell or len(part) > MANY else map(in_brief, part)
        return records


def spare_inspect(frames: types.TracebackType | None) -> None:
    """For the module of a frame `inspect` looks at all modules, and several times for each frame. Cells have none that it would find."""
    known: dict[str, str] = getattr(inspect, 'modulesbyfile')  # noqa: B009 - no typed name
    for place in filter(is_of_cell, places(frames)):
        name = place.tb_frame.f_code.co_filename
        known[name] = known[os.path.normcase(os.path.abspath(name))] = NO_MODULE


def is_of_cell(place: types.TracebackType) -> bool:
    return cell_number(place.tb_frame.f_code.co_filename) is not None


def is_shown(place: types.TracebackType) -> bool:
    """IPython's own frames are not, either."""
    return is_of_cell(place) or str(place.tb_frame.f_globals.get('__name__')).partition('.')[0] != 'IPython'


def in_brief(place: types.TracebackType) -> FrameInfo:
    return FrameInfo('', place.tb_frame.f_code.co_filename, place.tb_lineno, place.tb_frame, place.tb_frame.f_code, context=2)
