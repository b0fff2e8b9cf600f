"""What `Base_getJupyterHistory` answers: lines of a notebook from the newest one on, a page at a time.

    numbers or the beginning of an id ─► Lines.maxKey, Requests.items ─► entries, and where the next page begins

Only the lines that are asked for, and those between them that are not listed, are read, and none stays in memory. A page ends at
its limit, or where it would become too large; `before` is then the number at which the next one begins, else 0.
"""

import json
from collections.abc import Iterator
from typing import Any

from .notebook import DataNotebook, DataNotebookLine

LIMIT, MOST = 30, 1000  # entries of a page: where none is named, and at most
LOOKED_AT = 10_000  # lines that one page may read, most of which are not listed then
SIZE = 16 << 20  # bytes of code and messages, after which a page ends
LAST = '\U0010ffff'  # sorts behind all that may follow the beginning of an id


def page(notebook: DataNotebook, first: int = 1, last: int = 0, limit: int = LIMIT, unlisted: bool = False, outputs: bool = False
         ) -> dict[str, Any]:
    """The newest `limit` entries from `first` to `last` (0: the end of the notebook), the oldest one first."""
    entries: list[dict[str, Any]] = []
    size = 0
    bound = last or newest(notebook)
    for looked_at, line in enumerate(backwards(notebook, first, bound)):
        if len(entries) >= limit or size > SIZE or looked_at == LOOKED_AT:
            break
        bound = int(line.getId()) - 1
        if line.listed or unlisted:
            entries.append(entry(line, outputs))
            size += len(line.notebook_code) + outputs * len(line.shown)
        line._p_deactivate()
    else:
        bound = 0
    return {'entries': entries[::-1], 'before': bound}


def backwards(notebook: DataNotebook, first: int, last: int) -> Iterator[DataNotebookLine]:
    """Lines from `last` down to `first`. There may be numbers without a line."""
    lines = notebook.lines
    while last >= first and lines and lines.minKey() <= last:
        last = lines.maxKey(last)
        if last >= first:
            yield lines[last]
        last -= 1


def beginning_with(notebook: DataNotebook, beginning: str, outputs: bool = False) -> dict[str, Any]:
    """The entries of the requests whose id begins so, in no order; a few if there are many."""
    entries = []
    for _, count in notebook.requests.items(beginning, beginning + LAST):
        entries.append(entry(notebook.lines[count], outputs))
        if len(entries) == LIMIT:
            break
    return {'entries': entries, 'before': 0}


def newest(notebook: DataNotebook) -> int:
    return notebook.next_count() - 1


def entry(line: DataNotebookLine, outputs: bool) -> dict[str, Any]:
    """`when`: when it ended, in seconds since the epoch; `messages` as they were shown, only if `outputs`."""
    told = {'number': int(line.getId()), 'request_id': line.request_id, 'code': line.notebook_code, 'status': line.status,
            'ename': line.ename, 'evalue': line.evalue, 'committed': line.committed, 'listed': line.listed, 'user': line.user,
            'when': getattr(line, 'created', None)}
    if outputs:
        told['messages'] = [json.loads(message) for message in line.messages()]
    return told
