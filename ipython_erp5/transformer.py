"""Cell markers: a pure function from the lines of a cell to the lines that IPython is to run.

    # Sales of the year                      %%erp5 --pull total
    # erp5: --pull total            ─►       # Sales of the year
    total = sum(sales)                       # erp5: --pull total
                                             total = sum(sales)

A marker is a comment before the cell's first line of code. Nothing else is looked at, so neither a string nor a comment further
down can be one, and a cell that begins with code (or with a magic) costs one look at its first line.

    # erp5             # erp5: OPTIONS       what editors, formatters and jupytext leave as it is
    #%erp5 OPTIONS     # %erp5 OPTIONS       short, and what black and ruff make of it

The cell stays whole below the `%%erp5` line that is put before it: line N of the cell is line N of what runs there, whose
IPython knows no markers. Two details: a blank first line becomes `#`, because IPython drops leading blank lines; and when the
first code is itself a cell magic (`%%time`), the comments before it go, because a cell magic has to come first.

`%%time` or `%%capture` before a marker are IPython's: they hand their body to the session, which finds the marker then.

A comment that can only be a misspelt marker is a SyntaxError (an input transformer may raise nothing else), never a cell that
silently runs here. Prose that mentions ERP5 is prose: `# ERP5 is nice`, `# ERP5: the site of sales`.

Where every cell runs there (see `mode`), `# local` is the marker of one that does not, by the same rules; elsewhere it is a comment.
"""

from collections.abc import Iterator
from typing import NamedTuple

NAME, LOCAL = 'erp5', 'local'
MAGIC = f'%%{NAME}'
PLACES = {NAME: ('there', 'here'), LOCAL: ('here', 'there')}   # where a cell runs with the marker, and without it
WORDS = frozenset({'locals', 'locale', 'focal', 'vocal', 'loyal'})   # near to a marker, and meant as they are written


class Comment(NamedTuple):
    """A comment before the code: its text, stripped and without the first `#`, and its line, the first being 0."""

    text: str
    row: int


def transform(lines: list[str]) -> list[str]:
    """The cell with `%%erp5 OPTIONS` before it if a marker says so, else the same list. SyntaxError for a misspelt marker.

    Twice is once. It belongs at the first place of `input_transformers_cleanup`, where leading blank lines still count, and at
    the last, where pasted prompts (`>>> `) have gone.
    """
    comments, code = leading_comments(lines)
    if not comments:
        return lines
    found = [(comment, options) for comment in comments if (options := marker_options(comment.text)) is not None]
    if not found:
        refuse_misspelt(comments, lines)
        return lines
    if len(found) > 1:
        raise syntax_error('a second marker: a cell has one, with all its options', found[1][0], lines)
    marker, options = found[0]
    return [f'{MAGIC} {options}'.rstrip() + '\n', *body(lines, marker, code)]


def body(lines: list[str], marker: Comment, code: int) -> list[str]:
    """What runs there; `code` is the row of the first line of code."""
    if code < len(lines) and lines[code].split(maxsplit=1)[0] == MAGIC:
        raise syntax_error(f'a marker and {MAGIC} in one cell: keep one of them', marker, lines)
    return kept_whole(lines, marker.row, code)


def kept_whole(lines: list[str], row: int, code: int) -> list[str]:
    """The cell as it stands below `%%erp5`; `row` is that of its first line that is not blank, `code` that of its first code."""
    if code < len(lines) and lines[code].lstrip().startswith('%%'):
        return lines[code:]
    return lines if lines[0].strip() else [indentation(lines[row]) + '#' + lines[0].lstrip(' \t'), *lines[1:]]


def is_local(comments: list[Comment], lines: list[str]) -> bool:
    """Whether a cell is marked `# local`. SyntaxError if that is misspelt, or has options."""
    for comment in comments:
        options = marker_options(comment.text, LOCAL)
        if options:
            raise syntax_error(f'`# {LOCAL}` has no options: write it alone, or reword the comment to run the cell there', comment, lines)
        if options is not None:
            return True
    refuse_misspelt(comments, lines, LOCAL)
    return False


def indentation(line: str) -> str:
    return line[:len(line) - len(line.lstrip())]


def leading_comments(lines: list[str]) -> tuple[list[Comment], int]:
    """The comments before the first line of code, and that line's row (the number of lines if there is none)."""
    comments = []
    for row, line in physical_lines(lines):
        text = line.strip()
        if text.startswith('#'):
            comments.append(Comment(text[1:].strip(), row))
        elif text:
            return comments, row
    return comments, len(lines)


def physical_lines(lines: list[str]) -> Iterator[tuple[int, str]]:
    """The lines that begin a line for Python: IPython also splits at form feeds and at Unicode's line separators."""
    inside = False
    for row, line in enumerate(lines):
        if not inside:
            yield row, line
        inside = not line.endswith(('\n', '\r')) and (inside or bool(line.strip()))


# ---------------------------------------------------------------- one comment
def marker_options(text: str, name: str = NAME) -> str | None:
    """The options of a marker, '' for none; None if the comment is no marker."""
    if text.startswith('%'):
        word, options = split_word(text[1:])
        return options.removeprefix(':').strip() if word == name else None
    if text.startswith(f'{name}:'):
        return text[len(name) + 1:].strip()
    return '' if text == name else None


def split_word(text: str) -> tuple[str, str]:
    """The first word, which ends at a blank or a colon, and what follows it, stripped."""
    size = next((i for i, char in enumerate(text) if char.isspace() or char == ':'), len(text))
    return text[:size], text[size:].strip()


def refuse_misspelt(comments: list[Comment], lines: list[str], name: str = NAME) -> None:
    marked, unmarked = PLACES[name]
    for comment in comments:
        options = misspelt_options(comment.text, name)
        if options is not None:
            meant = f'# {name}: {options}' if options and name == NAME else f'# {name}'
            raise syntax_error(f'not a marker, but nearly: write `{meant}` to run the cell {marked}, or reword the comment to run the '
                               f'cell {unmarked}', comment, lines)


def misspelt_options(text: str, name: str = NAME) -> str | None:
    """The options of what can only be meant as a marker, '' for none; None for an ordinary comment."""
    if text.startswith('%%') and text[2:3].isspace():
        return None  # `# %% title` begins a cell in editors, and the title is prose
    bare = text.lstrip('#% \t')
    word, rest = split_word(bare)
    rest = rest.removeprefix(':').strip()
    if text.startswith('%'):
        return rest if resembles(word, name) else None
    if resembles(word, name) and (not rest or rest.startswith('#')):
        return ''
    if resembles(word, name) and is_option(rest):
        return rest
    return '' if ''.join(bare.split()).lower() == name else None


def is_option(text: str) -> bool:
    """Whether a text begins like `--push` or `-p`, and not like a dash in prose."""
    return text.startswith('-') and text.lstrip('-')[:1].isalpha()


def resembles(word: str, name: str = NAME) -> bool:
    """Whether a word is the name, in any case, with its characters in another order, or one character away."""
    word = word.lower()
    return word not in WORDS and (sorted(word) == sorted(name) or one_edit_away(word, name))


def one_edit_away(left: str, right: str) -> bool:
    """Whether one character inserted, left out or replaced makes one word the other; also for equal words."""
    same = next((i for i, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right)))
    rests = (left[same:], right[same:]), (left[same + 1:], right[same:]), (left[same:], right[same + 1:]), \
        (left[same + 1:], right[same + 1:])
    return any(a == b for a, b in rests)


def syntax_error(message: str, comment: Comment, lines: list[str]) -> SyntaxError:
    """An error that shows the comment's line with a caret below it."""
    line = lines[comment.row]
    return SyntaxError(message, ('<cell>', comment.row + 1, len(indentation(line)) + 1, line))
