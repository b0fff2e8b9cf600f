"""`ipython-erp5 convert`: a notebook of ERP5's own kernel becomes one of the standard kernel, with markers.

    kernel ERP5                                        kernel python3
    %erp5_url https://host/erp5/Base_executeJupyter    %load_ext ipython_erp5
    %erp5_user ana                              ─►     %erp5_connect https://host/erp5/Base_executeJupyter --user ana --reference sales
    %erp5_password secret
    %notebook_set_reference sales
    total = 6 * 7                                      # erp5
                                                       total = 6 * 7

What the official magics say is in the connection before the next cell that runs code; a password is nowhere in the new file, and
is not printed. Outputs, identifiers and all metadata that are not the kernel's stay. The new file has its name once it is whole.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from traitlets import Bool

from . import transformer
from .command import NAME, Command
from .errors import ConversionError

Cell = dict[str, Any]
MARKER = f'# {transformer.NAME}\n'
SETTINGS = {'erp5_url': 'url', 'erp5_user': 'user', 'erp5_password': 'password', 'notebook_set_reference': 'reference',
            'notebook_set_title': 'title'}
ENDPOINT = '/Base_executeJupyter'
LIST, OUR_LIST = 'my_notebooks', '%erp5_notebooks'
KERNEL = {'kernelspec': {'name': 'python3', 'display_name': 'Python 3 (ipykernel)', 'language': 'python'},
          'language_info': {'name': 'python'}}
ENOUGH = 4   # characters of a password that is no word of any cell


class Convert(Command):
    description = "Make a notebook of ERP5's own kernel one of the standard kernel, with markers: convert NOTEBOOK [OUT]."

    aliases = {}
    force = Bool(False, help='Replace OUT if it exists.').tag(config=True)
    flags = {'force': ({'Convert': {'force': True}}, 'Replace OUT if it exists.')}

    def check_arguments(self) -> None:
        if not 1 <= len(self.extra_args) <= 2:
            came = ' '.join(self.extra_args)
            print(f'{NAME}: expected convert NOTEBOOK [OUT], got {came!r}; see {NAME} help', file=sys.stderr)
            self.exit(2)

    def run(self) -> int:
        source, *rest = (Path(name).expanduser() for name in self.extra_args)
        out = rest[0] if rest else source.with_name(f'{source.stem}-erp5.ipynb')
        if out.exists() and not self.force:
            raise exists(out)
        conversion = Conversion(read(source))
        write(out, conversion.converted(), self.force)
        print(f'Converted: {out}.')
        for line in conversion.notes(source):
            print(line)
        return 0


class Conversion:
    """Of one notebook (JSON of nbformat 4), which it does not change."""

    def __init__(self, book: dict[str, Any]) -> None:
        self.book = book
        self.settings: dict[str, str] = {}   # what the official magics have said so far
        self.connected: dict[str, str] = {}  # what the last connection has
        self.passwords: set[str] = set()
        self.cells: list[Cell] = []

    def converted(self) -> dict[str, Any]:
        """The new notebook. ConversionError if there is nothing of ERP5's kernel in it."""
        if not is_erp5(self.book):
            raise ConversionError("expected a notebook of ERP5's own kernel: neither its metadata nor a magic in it says that")
        for cell in self.book['cells']:
            self.cells += list(self._converted(cell)) if cell.get('cell_type') == 'code' else [cell]
        if not self.connected:
            self.cells.insert(0, self._connection())
        self._identify()
        return {**self.book, 'cells': self.cells, 'metadata': {**self.book.get('metadata', {}), **KERNEL}}

    def _converted(self, cell: Cell) -> Iterator[Cell]:
        """The cell with a marker, or nothing of it where all of it is official magics; before it, what it needs to be connected."""
        lines = text_of(cell).splitlines(keepends=True)
        magics = [(row, words) for row, line in enumerate(lines) if (words := official(line))] if begins_official(lines) else []
        for _, words in magics:
            self._learn(words)
        commented = [without_magic(line) for line in lines]
        plain = [line for line in (commented if magics else lines) if line.strip() and not line.lstrip().startswith('#')]
        listing = any(words[0] == LIST for _, words in magics)
        if magics and not plain and not listing:
            return
        if (plain or listing) and self.settings != self.connected:
            self._connect()
        if magics and not plain:
            yield with_text(cell, f'{OUR_LIST}\n')
        else:
            yield marked(cell, commented if magics else lines, password=any(words[0] == 'erp5_password' for _, words in magics))

    def _learn(self, words: list[str]) -> None:
        name, *values = words
        if name == 'erp5_password':
            self.passwords.update(values[:1])
        elif name in SETTINGS and values:
            self.settings[SETTINGS[name]] = ' '.join(values) if name == 'notebook_set_title' else values[0]

    def _connect(self) -> None:
        """The first connection is the first cell; later ones are where something else has been said."""
        if self.connected:
            self.cells.append(self._connection())
        else:
            self.cells.insert(0, self._connection())
        self.connected = dict(self.settings)

    def _connection(self) -> Cell:
        site = [self.settings['url'].removesuffix(ENDPOINT)] if 'url' in self.settings else []
        options = [option(key, self.settings[key]) for key in ('user', 'reference', 'title') if key in self.settings]
        line = ' '.join(['%erp5_connect', *site, *options])
        load = '' if self.connected else f'%load_ext {__package__}\n'
        return {'cell_type': 'code', 'execution_count': None, 'metadata': {}, 'outputs': [], 'source': f'{load}{line}'}

    def _identify(self) -> None:
        """Identifiers for the cells that need one and have none."""
        if (self.book['nbformat'], self.book.get('nbformat_minor', 0)) < (4, 5):
            return
        taken = {cell.get('id') for cell in self.cells}
        free = (f'erp5-{number}' for number in range(1, 2 * len(self.cells) + 2))
        self.cells = [cell if cell.get('id') else {'id': next(name for name in free if name not in taken), **cell} for cell in self.cells]

    def notes(self, source: Path) -> Iterator[str]:
        """What somebody should know, one line each."""
        if self.passwords:
            yield f'The password is not in it, and {source} still has it: put it into ERP5_PASSWORD_FILE, connections.ini, the keyring ' \
                  'or netrc, or be asked for it.'
        left = [number for number, cell in enumerate(self.cells, 1)
                if any(len(password) >= ENOUGH and json.dumps(password)[1:-1] in json.dumps(cell) for password in self.passwords)]
        if left:
            yield f'The text of the password is in cell {", ".join(map(str, left))} all the same: look at it.'
        if 'url' not in self.settings:
            yield 'No cell names the site: the settings of the kernel did. Add its URL to %erp5_connect, or set ERP5_URL.'


# ---------------------------------------------------------------- what is there
def is_erp5(book: dict[str, Any]) -> bool:
    metadata = book.get('metadata', {})
    spec, language = metadata.get('kernelspec', {}), metadata.get('language_info', {})
    names = (spec.get('name'), spec.get('display_name'), spec.get('language'), language.get('name'))
    return any('erp5' in str(name).lower() for name in names) \
        or any(begins_official(text_of(cell).splitlines()) for cell in book['cells'] if cell.get('cell_type') == 'code')


def begins_official(lines: list[str]) -> bool:
    return any(official(line) for line in lines[:1]) or bool(lines) and not lines[0].strip() and begins_official(lines[1:])


def official(line: str) -> list[str]:
    """The words of one of the official kernel's magics, its name first; none for another line."""
    words = line.split()
    return [words[0][1:], *words[1:]] if words and words[0].startswith('%') and words[0][1:] in {*SETTINGS, LIST} else []


def without_magic(line: str) -> str:
    """An official magic as a comment, a password left out; any other line as it is."""
    words = official(line)
    if not words:
        return line
    return f'# %{words[0] if words[0] == "erp5_password" else " ".join(words)}\n'


def text_of(cell: Cell) -> str:
    source = cell.get('source', '')
    return source if isinstance(source, str) else ''.join(source)


# ---------------------------------------------------------------- what becomes of it
def with_text(cell: Cell, text: str) -> Cell:
    """The cell with another source, in the form of the old one; the last line of a source has no end."""
    text = text.rstrip('\n')
    return {**cell, 'source': text if isinstance(cell.get('source', ''), str) else text.splitlines(keepends=True)}


def marked(cell: Cell, lines: list[str], password: bool) -> Cell:
    """With a marker, unless it runs there anyway, or holds nothing that could run. Old kernels have shown a password: it goes."""
    comments, code = transformer.leading_comments(lines)
    runs = code < len(lines) and not lines[code].startswith(transformer.MAGIC) \
        and not any(transformer.marker_options(comment.text) is not None for comment in comments)
    cell = {**cell, 'outputs': []} if password else cell
    return with_text(cell, MARKER + ''.join(lines)) if runs else cell


def option(key: str, value: str) -> str:
    """As `options.parse` reads it back."""
    mark = '' if not any(char.isspace() or char in '"\'' for char in value) else "'" if '"' in value else '"'
    if mark and mark in value:
        raise ConversionError(f'the {key} {value} has both kinds of quotation marks, which %erp5_connect cannot be given: change it')
    return f'--{key}{"=" if value.startswith("-") else " "}{mark}{value}{mark}'


# ---------------------------------------------------------------- files
def read(path: Path) -> dict[str, Any]:
    """ConversionError if it is no notebook of nbformat 4."""
    try:
        book = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise ConversionError(f'{path} cannot be read: {error.strerror}') from None
    except ValueError as error:
        raise ConversionError(f'expected a notebook in {path}, which is JSON: {error}') from None
    if not isinstance(book, dict) or 'nbformat' not in book:
        raise ConversionError(f'expected a notebook in {path}: it has no nbformat')
    if book['nbformat'] != 4 or not isinstance(book.get('cells'), list):
        raise ConversionError(f'expected a notebook of nbformat 4 in {path}, it has {book["nbformat"]}: upgrade it first, such as with '
                              f'jupyter nbconvert --to notebook --nbformat 4 --output OUT {path.name}')
    return book


def write(path: Path, book: dict[str, Any], force: bool) -> None:
    """As Jupyter writes it; only a whole file has the name."""
    text = json.dumps(book, indent=1, ensure_ascii=False) + '\n'
    try:
        handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f'.{path.name}.')
        try:
            with open(handle, 'w', encoding='utf-8') as file:
                file.write(text)
            os.chmod(temporary, 0o666 & ~umask())
            if force:
                os.replace(temporary, path)
                return
            os.link(temporary, path)   # unlike a renaming, it fails where somebody else has been faster
        except FileExistsError:
            raise exists(path) from None
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise ConversionError(f'{path} cannot be written: {error.strerror}') from None


def umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def exists(path: Path) -> ConversionError:
    return ConversionError(f'{path} exists already: name another file, or say --force to replace it')
