"""The file of connections: `~/.config/ipython_erp5/connections.ini`, a section for each, which nobody else may read.

    [sales]                          sections are names that `%erp5_connect` takes
    url = https://host/erp5          a file that others may read is refused, and no error quotes it
"""

import configparser
import os
from collections.abc import Iterable
from pathlib import Path

from .errors import TargetError


class Section(dict[str, str]):
    """What is said of one connection. As text it is its keys: the values may be secret."""

    def __repr__(self) -> str:
        return f'{type(self).__name__}({", ".join(self)})'


def connections_file() -> Path:
    named = os.environ.get('ERP5_CONNECTIONS')
    folder = os.environ.get('XDG_CONFIG_HOME') or '~/.config'
    return Path(named or f'{folder}/ipython_erp5/connections.ini').expanduser()


def read_sections(path: Path) -> dict[str, Section]:
    """Section -> key -> text. No file is no section, unless ERP5_CONNECTIONS names it. TargetError if others may read it."""
    try:
        with path.open(encoding='utf-8') as file:
            refuse_shared(path, os.fstat(file.fileno()).st_mode)
            return parse_sections(path, file)
    except FileNotFoundError:
        if not os.environ.get('ERP5_CONNECTIONS'):
            return {}
        raise TargetError(f'ERP5_CONNECTIONS names {path}, which does not exist') from None
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f'{path} cannot be read: {error}') from None


def refuse_shared(path: Path, mode: int) -> None:
    if mode & 0o077:
        raise TargetError(f'{path} has mode {mode & 0o777:04o}, so that others may read passwords in it: run `chmod 600 {path}`')


def parse_sections(path: Path, lines: Iterable[str]) -> dict[str, Section]:
    # No interpolation: passwords have percent signs. No section whose keys are in all others: a password is for one site.
    parser = configparser.ConfigParser(interpolation=None, default_section='\n')
    try:
        parser.read_file(lines)
    except configparser.Error as error:
        # The text of the error would quote the line, which may be a password.
        row = getattr(error, 'lineno', None) or next((row for row, _ in getattr(error, 'errors', ())), '?')
        raise TargetError(f'{path}, line {row}: expected `[name]` and below it lines `key = value`, each once '
                          f'({type(error).__name__})') from None
    return {name: Section(parser[name]) for name in parser.sections()}
