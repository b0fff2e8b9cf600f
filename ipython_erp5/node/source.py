"""The code filenames of cells: by them a function that comes out of the database finds its source in the notebook's history.

The same cell has the same name in every process, so that tracebacks and `inspect.getsource` work wherever the function runs.
"""

import re

NAME = re.compile(r'<erp5 cell (\d+)>')


def cell_filename(number: int) -> str:
    """Of the code of line `number` of the notebook."""
    return f'<erp5 cell {number}>'


def cell_number(filename: str) -> int | None:
    """The line of the notebook, if it is the name of a cell."""
    match = NAME.fullmatch(filename)
    return int(match[1]) if match else None
