"""What stands at the cursor: code that runs there, the words of one of our magics, or nothing of ours. Pure functions of text.

    %%erp5 --pull to|                    ─► Words('erp5', ' --pull to')
    total = sa|les                       ─► Code('total = sales\n', 10)        the body of the cell, without the line of the magic
    x = %erp5 sales.su|                  ─► Code('sales.su', 8)
    %erp5_connect sal|                   ─► Words('erp5_connect', ' sal')
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from .transformer import MAGIC, NAME, transform

Lines = list[str]
PASSING = ('%%time', '%%timeit', '%%capture', '%%prun')   # cell magics that hand their body to the session


@dataclass(frozen=True)
class Code:
    """Code that runs there, and the cursor in it, in characters. `options`: those of its cell."""

    text: str
    position: int
    options: str = ''

    @property
    def before(self) -> str:
        return self.text[:self.position]


@dataclass(frozen=True)
class Words:
    """What has been typed after the name of a magic, up to the cursor."""

    magic: str
    text: str


def at_cursor(text: str, row: int, column: int, magics: Collection[str], is_remote: Callable[[Lines], bool]) -> Code | Words | None:
    """What stands at the cursor. `magics`: the names of our line magics; `is_remote`: whether the last of these lines, the first ones of
    a cell, runs there although nothing marks it."""
    lines = [line + '\n' for line in text.split('\n')]
    before = lines[row][:column]
    first = head(lines, row)
    cell = marked(lines[first:])
    if cell is None:
        whole = is_remote(lines[:row + 1])
        return Code(text, sum(map(len, lines[:row])) + column) if whole else on_line(lines[row][:-1], column, magics)
    options, body = cell
    inside = row - (len(lines) - len(body))
    if inside < 0 or before.lstrip().startswith('#'):
        return words_of_cell(before)
    return Code(''.join(body)[:-1], sum(map(len, body[:inside])) + column, options)


def head(lines: Lines, row: int) -> int:
    """The first line that matters: IPython leaves out blank ones, and magics such as `%%time` hand on what is below them."""
    first = 0
    while first < row and (not lines[first].strip() or lines[first].split()[0] in PASSING):
        first += 1
    return first


def marked(lines: Lines) -> tuple[str, Lines] | None:
    """The options and the body of a cell that says that it runs there; None for another."""
    try:
        cell = transform(lines)
    except SyntaxError:   # a marker that is being typed
        return None
    word, _, options = cell[0].strip().partition(' ')
    return (options, cell[1:]) if word == MAGIC else None


def words_of_cell(before: str) -> Words | None:
    """The options of a cell, in the line that says that it runs there."""
    text = before.lstrip(' \t#%')
    options = text.removeprefix(NAME).removeprefix(':')
    return Words(NAME, options) if text.startswith(NAME) and options[:1].isspace() else None


def on_line(line: str, column: int, magics: Collection[str]) -> Code | Words | None:
    """What stands in a line of a cell that runs here."""
    magic = line.lstrip()
    names, equals, value = magic.partition('=')
    if equals and value.lstrip().startswith('%') and all(name.strip().isidentifier() for name in names.split(',')):
        magic = value.lstrip()
    name, blank, rest = magic.removeprefix('%').partition(' ')
    position = column - (len(line) - len(rest))
    if not blank or position < 0 or name not in magics or magic[0] != '%' and rest.lstrip().startswith('='):
        return None
    return Code(rest, position) if name == NAME else Words(name, f' {rest[:position]}')
