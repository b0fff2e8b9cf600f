"""The node's log: one JSON object a line, on the standard error of the node, which is `node.log` of one in the background.

    Journal.event('cell', …) ──┐
    Journal.fault(error) ──────┼─► secrets masked ─► shortened ─► one line ─► one write(): lines of several processes do not mix
    logging, warnings ─► Lines ┘

On every line: `time` (UTC, milliseconds), `level`, `event`, `node`, and `request_id`, '' where it is about no cell. Never on any:
a password, and the code of a cell. That is why tracebacks have no lines of source: file, line and function are told.
"""

import base64
import json
import logging
import math
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

MASK = '********'
LONGEST = 1 << 14  # characters of a text that a line has, of its beginning and its end together
LOOKED_AT = 1 << 16  # characters of a text that are searched for secrets; the rest is dropped
SHORT = 4  # characters: a shorter secret is masked as a word only, or it would be found inside of many

# What looks like a secret. The groups are what stays before the mask.
LOOKS = re.compile(r'''
    (?P<uri> ://[^\s/:@'"]*: ) [^\s'"]{1,256} (?=@)
  | (?P<header> \b \w*authorization \b \W{1,4} (?: (?:basic|bearer|digest|negotiate) \s+ )? ) [^\s'",;}]+
  | (?P<scheme> \b (?:basic|bearer) \s+ ) [\w+/=.~-]{4,}
  | (?P<key> \b \w*(?:password|passwd|pwd|secret|token)\w* ['"]? \s* [=:] \s* ) (?: "[^"]*" | '[^']*' | [^\s'",;&]+ )
''', re.VERBOSE | re.IGNORECASE)
KEYS = re.compile('password|passwd|pwd|secret|token', re.IGNORECASE)

# Loggers of the libraries of a node. In an executor the others are the user's, and show in the cell.
LIBRARIES = ('OFS', 'Products', 'ZEO', 'ZODB', 'ZPublisher', 'Zope', 'relstorage', 'txn', 'zodburi')

# The request that this thread is busy with.
request: ContextVar[str] = ContextVar('request', default='')


# ---------------------------------------------------------------- secrets
class Secrets:
    """What no line may show: what is known to be secret, in all the ways in which it may be written, and what looks like it."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.pattern: re.Pattern[str] | None = None

    def add(self, *secrets: str) -> None:
        self.known.update(form for secret in filter(None, secrets) for form in forms(secret))
        if self.known:
            longest_first = sorted(self.known, key=lambda form: (-len(form), form))
            self.pattern = re.compile('|'.join(map(as_pattern, longest_first)))

    def add_login(self, user: str, password: str) -> None:
        """The password, and how HTTP's Basic authentication writes both."""
        self.add(password, encoded(f'{user}:{password}'))

    def add_uri(self, uri: str) -> None:
        """The passwords in the URI of a storage."""
        try:
            parts = urlsplit(uri)
        except ValueError:  # a bad address, which opening the storage refuses
            return
        password = parts.netloc.rpartition('@')[0].partition(':')[2]  # `parts.password` raises for an odd port
        self.add(password, unquote(password), *(value for key, value in parse_qsl(parts.query) if KEYS.search(key)))

    def masked(self, text: str) -> str:
        text = text[:LOOKED_AT]
        if self.pattern is not None:
            text = self.pattern.sub(MASK, text)
        return LOOKS.sub(lambda found: found[found.lastgroup or 0] + MASK, text)


def forms(secret: str) -> set[str]:
    """A secret as itself, in a URL, in a Python or JSON text, and as base64."""
    return {secret, quote(secret, safe=''), quote_plus(secret), repr(secret)[1:-1], json.dumps(secret)[1:-1], encoded(secret)}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode('utf-8', 'surrogatepass')).decode()


def as_pattern(secret: str) -> str:
    return re.escape(secret) if len(secret) >= SHORT else rf'(?<!\w){re.escape(secret)}(?!\w)'


secrets = Secrets()  # of this process


# ---------------------------------------------------------------- lines
class Journal:
    """Writes lines. Writing never raises: no cell fails because of a log, nor because the disk is full of it.

    `fd`: a descriptor of a file that is appended to, or of a pipe, where only lines up to 4 kB stay whole beside others.
    """

    def __init__(self, node: str = '', fd: int = 2) -> None:
        self.node, self.fd = node, fd

    def event(self, event: str, *, level: str = 'info', request_id: str | None = None, **fields: Any) -> None:
        """A line. `request_id`: by default of the request that this thread is busy with. `fields`: texts, numbers, lists, mappings."""
        about = request.get() if request_id is None else request_id
        try:
            told = {'node': self.node, 'request_id': about, **fields}
            line = json.dumps({'time': now(), 'level': level, 'event': event, **presentable(told)})
            os.write(self.fd, line.encode() + b'\n')
        except Exception:  # a full disk; a value whose text cannot be had
            return

    def fault(self, error: BaseException, *, request_id: str | None = None, **fields: Any) -> None:
        """An exception that should not have been: a fault of ours or of a library."""
        self.event('fault', level='error', request_id=request_id, **described(error), **fields)

    # ------------------------------------------------------------ what others say
    def capture(self) -> None:
        """In a process that is the node's alone: what libraries log and warn of, and what nobody catches, become lines."""
        logging.getLogger().addHandler(Lines(self))
        logging.captureWarnings(True)
        sys.excepthook = lambda kind, error, frames: self.fault(error)
        threading.excepthook = lambda args: self.fault(args.exc_value or args.exc_type(), thread=args.thread and args.thread.name)
        sys.unraisablehook = lambda args: self.fault(args.exc_value or args.exc_type(), unraisable=args.err_msg or '')

    def capture_libraries(self) -> None:
        """In a process that runs cells: only what the libraries of the node log; all else is the cell's."""
        for name in LIBRARIES:
            logging.getLogger(name).addHandler(Lines(self))


class Lines(logging.Handler):
    """Records of `logging` as lines of the event `log`."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit their format
            message = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        self.journal.event('log', level=record.levelname.lower(), logger=record.name, message=message,
                           **(described(error) if error is not None else {}))


def now() -> str:
    return datetime.now(UTC).isoformat(timespec='milliseconds').replace('+00:00', 'Z')


def presentable(value: Any) -> Any:
    """A value for JSON, its texts without secrets and not too long."""
    if isinstance(value, str):
        return shortened(secrets.masked(value))
    if isinstance(value, Mapping):
        return {str(key): presentable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [presentable(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (bool, int)) else presentable(str(value))


def shortened(text: str) -> str:
    """The beginning, and more of the end, where a traceback says what happened."""
    if len(text) <= LONGEST:
        return text
    return f'{text[:LONGEST // 4]}\n[…]\n{text[-LONGEST * 3 // 4:]}'


def described(error: BaseException) -> dict[str, str]:
    return {'ename': type(error).__name__, 'traceback': '\n'.join(told(error))}


def told(error: BaseException, depth: int = 0) -> Iterator[str]:
    """The causes first, as Python tells a traceback; no source, which could be that of a cell."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and depth < 10:
        yield from told(cause, depth + 1)
    for frame, line in traceback.walk_tb(error.__traceback__):
        yield f'  {frame.f_code.co_filename}:{line} in {frame.f_code.co_qualname}'
    yield ': '.join(filter(None, (type(error).__name__, text_of(error))))


def text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ''
