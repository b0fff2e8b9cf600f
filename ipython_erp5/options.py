"""The words after a magic's name -> its options. What is wrong with them is an OptionError that says what was meant."""

import shlex
from argparse import Namespace
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from IPython.core.error import UsageError

from .errors import OptionError, near

PASSWORD_OPTIONS = ('--password', '--passwd', '--pass', '-p')
PASSWORD_PLACES = ('Put it into ERP5_PASSWORD, a file named by ERP5_PASSWORD_FILE, a section of connections.ini, the keyring or '
                   'netrc; without any of them you are asked for it')


def parse(magic: Any, line: str) -> Namespace:
    """The options of a magic. A wrong one is an OptionError: of a UsageError, papermill and nbclient do not tell the reason."""
    parser = magic.parser
    parser.allow_abbrev = False
    words = split(line)
    refuse_password(words)
    try:
        options: Namespace = parser.parse_args(words)
    except UsageError as error:
        known = parser._option_string_actions
        wrong = next((word for word in words if word.startswith('-') and word.partition('=')[0] not in known), '')
        failure = f'%{parser.prog}: {error}{did_you_mean(wrong, known)}. %{parser.prog}? tells its options'
    else:
        return options
    raise OptionError(failure)


def split(line: str) -> list[str]:
    """Words as a shell has them, but for backslashes, which are parts of paths."""
    words = shlex.shlex(line, posix=True)
    words.whitespace_split, words.commenters, words.escape = True, '', ''
    try:
        return list(words)
    except ValueError:
        refuse_password(line.split())
        raise OptionError(f'a quotation mark is not closed in: {line.strip()}') from None


def refuse_password(words: Iterable[str]) -> None:
    if has_password(words):
        raise OptionError(f'a password is never an option: it would stay in the notebook and its history. {PASSWORD_PLACES}')


def has_password(words: Iterable[str]) -> bool:
    """Also as `--user NAME:PASSWORD`, as other programs have it."""
    pairs = list(pairwise([*words, '']))
    return any(word.lower().partition('=')[0] in PASSWORD_OPTIONS or word == '--user' and ':' in after
               or word.startswith('--user=') and ':' in word for word, after in pairs)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    meant = near(word.partition('=')[0], known)
    return f' (did you mean {meant}?)' if meant else ''
