"""Which cells run there: the marked ones, or in remote mode all but those marked `# local`.

    marked    # erp5 ─► %%erp5 (see `transformer`)                              the mode in which a shell begins
    remote    any cell ─► %%erp5, its lines as they are, but                    %erp5_mode remote
              # local                            here
              %%erp5, %%time, %%capture          here; IPython brings the body of the last two back to the transformers
              %erp5_status, %config ERP5Magics   here, where they begin a cell; the rest of it there, with its own line numbers

`transform` is a pure function of the lines and the mode. A cell that changes the mode by a magic at its head is itself run in the
new one: nothing that was meant to run there runs here. What a front end asks for itself (silent requests) runs here, always.

The mode belongs to the shell. %reload_ext keeps it, %unload_ext ends it.
"""

# IPython's decorators have no types.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

import dataclasses
import sys
from typing import Any
from weakref import WeakKeyDictionary

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments

from . import transformer
from .display import write
from .errors import OptionError
from .magics import SessionMagics
from .options import did_you_mean, parse
from .sessions import sessions_of
from .transformer import LOCAL, MAGIC, NAME, Comment, indentation, is_local, kept_whole, leading_comments, marker_options, syntax_error

Lines = list[str]
MARKED, REMOTE = 'marked', 'remote'
MODES = {MARKED: f'cells marked `# {NAME}` run there, the others here', REMOTE: f'every cell runs there, but for those marked `# {LOCAL}`'}
HERE = ('%%time', '%%capture')
OFFICIAL = ('erp5_user', 'erp5_password', 'erp5_url', 'notebook_set_reference', 'notebook_set_title')   # all else runs there
HELD = f'%%{NAME}_{LOCAL}\n'
CALL = f"get_ipython().run_cell_magic('{NAME}', "


# ---------------------------------------------------------------- lines -> lines
def transform(lines: Lines, remote: bool) -> Lines:
    """The cell as it is to run, the same list if that is as it stands. SyntaxError for a misspelt `# local`.

    Twice is once. It belongs after both places of `transformer.transform`.
    """
    comments, code = leading_comments(lines)
    if code == len(lines) or is_prompt(lines[code]):
        return lines
    rows, remote = own_head(lines, code, remote)
    if not remote or rows == len(lines) or is_local(comments, lines):
        return lines
    return divided(lines, rows) if rows else whole(lines, comments, code)


def is_prompt(line: str) -> bool:
    """Whether a cell begins with a pasted prompt, which IPython will take away."""
    bare = line.removeprefix('[ins] ').removeprefix('[nav] ')
    return bare.startswith('>>>') or bare.startswith('In [') and ']: ' in bare


def whole(lines: Lines, comments: list[Comment], code: int) -> Lines:
    """The cell below `%%erp5`, unless it says itself that it runs here."""
    word = lines[code].split(maxsplit=1)[0]
    if word == MAGIC:
        refuse_both(lines)
    if word.startswith(MAGIC):
        return lines
    if word in HERE:
        return lines[code:] if code else lines
    return [f'{MAGIC}\n', *kept_whole(lines, comments[0].row if comments else code, code)]


def refuse_both(lines: Lines) -> None:
    comments, _ = leading_comments(lines[1:])
    local = next((comment for comment in comments if marker_options(comment.text, LOCAL) == ''), None)
    if local is not None and any(marker_options(comment.text) is not None for comment in comments):
        raise syntax_error(f'`# {NAME}` and `# {LOCAL}` in one cell: keep one of them', local, lines[1:])


def divided(lines: Lines, rows: int) -> Lines:
    """The first rows as they are, and one call that runs the rest there; comments in their place keep its line numbers true."""
    rest = transform(transformer.transform(lines[rows:]), True)
    if not rest or rest[0].split()[:1] != [MAGIC]:
        return lines
    options, body = rest[0].strip().removeprefix(MAGIC).strip(), ''.join(rest[1:])
    margin = indentation(next(line for line in lines if line.strip()))
    above = '' if body.startswith('%%') else f'{margin}#\n' * rows
    return [*lines[:rows], f'{margin}{CALL}{options!r}, {above + body!r})\n']


# ---------------------------------------------------------------- our own magics
def own_head(lines: Lines, row: int, remote: bool) -> tuple[int, bool]:
    """How many rows our own magics at the head of a cell take, and whether what follows them runs there."""
    end = 0
    while row < len(lines):
        text = lines[row].strip()
        if text and not text.startswith('#'):
            words = own_magic(text)
            if not words:
                break
            remote = mode_after(words, remote)
            while lines[row].rstrip().endswith('\\') and row + 1 < len(lines):
                row += 1
            end = row + 1
        row += 1
    return (len(lines) if end and row == len(lines) else end), remote


def own_magic(text: str) -> list[str]:
    """The words of a line that is a magic of ours, its name first and without marks; none for any other line."""
    if text.startswith(CALL):
        return [NAME]
    magic = assigned(text).lstrip('?')
    if not magic.startswith('%') or not magic[1:].strip():
        return []
    name, *words = magic[1:].split()
    name = name.rstrip('?')
    ours = name == NAME or name.startswith((f'{NAME}_', 'notebook_set_')) or name == 'my_notebooks' \
        or name == 'config' and words[:1] and words[0].startswith('ERP5Magics') \
        or name in ('load_ext', 'reload_ext', 'unload_ext') and words == [__package__]
    return [name, *words] if ours else []


def assigned(text: str) -> str:
    """What is assigned where a line assigns the result of a magic (`x = %erp5 y`), else the line itself."""
    names, _, value = text.partition('=')
    magic = value.strip()
    return magic if magic.startswith('%') and all(name.isidentifier() for name in names.replace(',', ' ').split()) else text


def mode_after(words: list[str], remote: bool) -> bool:
    name, *arguments = words
    if name == 'erp5_mode' and arguments and arguments[0] in MODES:
        return arguments[0] == REMOTE
    return remote or name in OFFICIAL


# ---------------------------------------------------------------- the mode of a shell
@dataclasses.dataclass
class Mode:
    """Of one shell. `given`: what the official kernel's magics were told, see `official`."""

    remote: bool = False
    given: dict[str, Any] = dataclasses.field(default_factory=dict)
    left: object = None   # the package as it was when the extension was unloaded


KEPT: 'WeakKeyDictionary[InteractiveShell, Mode]' = WeakKeyDictionary()


def mode_of(shell: InteractiveShell) -> Mode:
    return KEPT.setdefault(shell, Mode())


def is_remote(shell: InteractiveShell, lines: Lines) -> bool:
    """Whether the last of these lines of a cell, as it was typed so far, would run there in the mode that the shell is in."""
    try:
        after = transform(transformer.transform(lines), mode_of(shell).remote)
    except SyntaxError:
        return False
    word = next(iter(after[0].split()), '') if after else ''
    if word in HERE:
        return is_remote(shell, after[1:])
    return word == MAGIC or after is not lines


def begin(shell: InteractiveShell) -> None:
    """The extension is loaded: after a %reload_ext, which has loaded the package anew, the mode is as it was."""
    mode = mode_of(shell)
    if mode.left is not None and mode.left is package():
        del KEPT[shell]
        sessions_of(shell).refusal = ''
    mode.left = None


def end(shell: InteractiveShell) -> None:
    mode_of(shell).left = package()


def package() -> object:
    return sys.modules[__package__].__spec__


class Transformer:
    """`transform` in the mode that a shell is in, as IPython wants it."""

    # The question whether a typed cell is complete must see it as it is, Python: that of a cell magic is another one.
    has_side_effects = True

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell

    def __call__(self, lines: Lines) -> Lines:
        lines, remote = lines[1:] if lines[:1] == [HELD] else lines, mode_of(self.shell).remote
        return lines if remote and is_silent(self.shell) else transform(lines, remote)


class Holder:
    """That a cell marked `# local` ends with a blank line where it is typed, as one marked `# erp5` does.

    To that question a cell magic is put before it, which `Transformer`, its neighbour in IPython's list, takes away.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell

    def __call__(self, lines: Lines) -> Lines:
        comments, _ = leading_comments(lines)
        return [HELD, *lines] if comments and mode_of(self.shell).remote and is_local(comments, lines) else lines


def is_silent(shell: InteractiveShell) -> bool:
    """Whether a front end asks for itself, such as for its list of variables: that is about what is here."""
    kernel = getattr(shell, 'kernel', None)
    parent: dict[str, Any] = getattr(kernel, 'get_parent', dict)() or {}
    return bool(parent.get('content', {}).get('silent'))


# ---------------------------------------------------------------- the magic
@magics_class
class ModeMagics(SessionMagics):
    """Say which cells run there."""

    @no_var_expand
    @magic_arguments()
    @argument('mode', nargs='?', metavar='MODE', help=f'{REMOTE}: {MODES[REMOTE]}; {MARKED}: {MODES[MARKED]}. Without it: say which it is.')
    @line_magic
    def erp5_mode(self, line: str) -> None:
        """Have every cell run there, or only the marked ones.

        Examples:

            %erp5_mode remote
            %erp5_mode marked
        """
        wanted, mode = parse(self.erp5_mode, line).mode, mode_of(self.shell)
        if wanted is None:
            write('stdout', described(mode))
            return
        if wanted not in MODES:
            raise OptionError(f'there is no mode {wanted!r}{did_you_mean(wanted, MODES)}: %erp5_mode remote, or %erp5_mode marked')
        mode.remote = wanted == REMOTE
        self.erp5.tell(described(mode))


def described(mode: Mode) -> str:
    name = REMOTE if mode.remote else MARKED
    return f'Mode {name}: {MODES[name]}.\n'
