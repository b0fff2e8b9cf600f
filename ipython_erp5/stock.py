"""What a stock ERP5 site says, of every era since 2015, in the words of `wire`; and values that can be written for it, or read of it.

    the JSON object of a cell     ─► messages()       every key may be missing or null, tracebacks may be nested
        the text in it            ─► sort_out()       what the cell printed │ what the server says of imports and of what it did not keep
    Zope's page of an HTTP 500    ─► site_error()     `KeyError: 'x'`
    a repr of Python 2 or 3       ─► literal()        the value
    values                        ─► assignments()    the source of a cell that assigns them, the same in Python 2 and 3
    what such a site cannot do    ─► Told             is said once a session

Nothing that comes from a site is run or unpickled here.
"""

import ast
import html
import keyword
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import wire
from .cell_text import TOKEN
from .errors import EnvironmentSetupError, EnvironmentUndefineError, UnsupportedError
from .wire import HTML, TEXT, Message


# ---------------------------------------------------------------- the answer to a cell
def messages(answer: Mapping[str, Any]) -> Iterator[Message]:
    """The messages in the answer of a stock site. Where the cell ran although a setup failed, its value is a display."""
    said, failure = sort_out(printed(answer)), failure_of(answer)
    if failure is None or answer.get('status') == 'error':  # else the text is the failure
        yield from outputs(answer, said.text)
    result = mapping(answer.get('displayhook_result'))
    data, metadata = mapping(result.get('data')), mapping(result.get('metadata'))
    if data and failure is not None:
        yield wire.display_data(data, metadata, {})
    elif data:
        yield wire.execute_result(data, metadata, 0)
    if failure is not None:
        yield failure.error
    if said.warnings or said.not_saved:
        yield wire.context((), (), said.not_saved, said.warnings, '')
    error = failure.error if failure else {'ename': '', 'evalue': ''}
    yield wire.execute_reply('error' if failure else 'ok', failure is None or failure.committed, '',
                             ename=error['ename'], evalue=error['evalue'])


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def printed(answer: Mapping[str, Any]) -> str:
    """All text of an answer: since 2017 it is in a bundle too, before that only in `code_result`."""
    bundle = mapping(mapping(answer.get('print_result')).get('data'))
    return str(bundle.get(TEXT) or bundle.get(HTML) or answer.get('code_result') or '')


def outputs(answer: Mapping[str, Any], text: str) -> Iterator[Message]:
    """Its text, under the MIME type that it has, and its figures."""
    in_bundle = HTML in mapping(mapping(answer.get('print_result')).get('data'))
    kind = HTML if in_bundle else str(answer.get('mime_type') or TEXT)
    if text and kind == TEXT:
        yield wire.stream('stdout', text)
    elif text:
        yield wire.display_data({kind: text}, {}, {})
    for extra in answer.get('extra_data_list') or ():
        if mapping(mapping(extra).get('data')):
            yield wire.display_data(extra['data'], mapping(extra.get('metadata')), {})


# ---------------------------------------------------------------- what failed
class Failure(NamedTuple):
    """`committed`: whether the site has kept what the cell did all the same."""

    error: Message
    committed: bool


REFUSED = re.compile(r"EnvironmentUndefineError: (Trying to remove non existing function/variable from environment: '.*')\s*")
NOT_ENCODED = ('the site could not write the answer: what the cell printed or showed is not UTF-8. The cell itself has run and was saved; '
               'its outputs are lost')
NOT_COMMITTED = 'The commit of this cell failed: nothing of it was saved.'


def failure_of(answer: Mapping[str, Any]) -> Failure | None:
    """What went wrong, if something did: the shapes are those of an `undefine`, a setup, a commit, an encoding, or a cell."""
    ename, evalue = str(answer.get('ename') or ''), str(answer.get('evalue') or '')
    lines = traceback_of(answer.get('traceback'))
    if answer.get('status') != 'error':
        refused = REFUSED.fullmatch(printed(answer)) if answer.get('displayhook_result') is None else None
        ename = EnvironmentUndefineError.__name__
        return refused and Failure(wire.error(ename, refused[1], [f'{ename}: {refused[1]}']), False)
    if not ename:
        return Failure(wire.error(EnvironmentSetupError.__name__, setup_failed(answer.get('traceback')), lines), True)
    if ename == 'UnicodeDecodeError' and answer.get('evalue') is None:
        return Failure(wire.error(ename, NOT_ENCODED, lines or [f'{ename}: {NOT_ENCODED}']), True)
    if 'notebook_context' in answer:
        lines = [*lines, NOT_COMMITTED]
    return Failure(wire.error(ename, evalue, lines), False)


def setup_failed(traceback: Any) -> str:
    """The text for an answer without a name: the error of each setup is the last line of its part of the traceback."""
    parts = [part for part in traceback if isinstance(part, list)] if isinstance(traceback, list) else []
    found = [line for part in parts for line in [line for line in flat(part) if line.strip()][-1:]]
    errors = '; '.join(found or flat(traceback)[-1:]) or 'the site does not say how'
    return (f'a setup of the notebook failed before the cell: {errors}. The cell itself ran, and its results are shown. The site does not '
            'name the setup and may have removed it: define it again')


def flat(lines: Any) -> list[str]:
    """Traceback lines out of nested lists; null is none."""
    if isinstance(lines, str):
        return [lines]
    return [line for part in lines or () for line in flat(part)]


def traceback_of(traceback: Any) -> list[str]:
    """All its lines: those of setups, which are nested, then those of the cell; without the frames of the server itself."""
    parts = traceback if isinstance(traceback, list) else [traceback]
    ordered = [part for part in parts if isinstance(part, list)] + [part for part in parts if not isinstance(part, list)]
    found: list[str] = []
    inside = False
    for line in (line for text in flat(ordered) for line in text.rstrip('\n').split('\n')):
        frame = line.lstrip().startswith('File "')
        inside = frame and 'JupyterCompile' in line or inside and not frame and line.startswith('    ')
        if not inside:
            found.append(line)
    return found


# ---------------------------------------------------------------- what the server printed into the output
SENTENCE = re.compile(r'''
    Cannot\ (?:serialize|pickle)\ the\ variable\ named\ (?P<name>\S+)\ whose\ value\ is\ (?P<value>.*?),\ thus\ it\ will\ not\ be\ stored
        \ in\ the\ context\.(?:\ You\ should\ move\ it'?s\ definition\ to\ a\ function\ and\ use\ the\ environment\ object\ to\ load\ it\.)?
        [ ]*\n?
  | Cannot\ (?:serialize|pickle)\ the\ variable\ named\ (?P<short>\S+)[^\n]*\n?
  | (?P<import>WARNING:\ Your?\ imported\ (?:from\ )?the\ modules?\ [^\n]*?\ without\ using\ the\ environment\ object[^\n]*)\n?
  | (?P<setup>An\ error\ happened\ when\ trying\ to\ run\ the\ setup\ function\ \S+\ \([^)\n]*\)\.\ This\ setup\ function\ was\ ignored
        [^\n]*)\n?''', re.X | re.S)
SHORT = 60   # characters of a value in the report


@dataclass
class Said:
    """`text`: what the cell printed; `warnings`: texts; `not_saved`: as in a `context` message."""

    text: str = ''
    warnings: list[str] = field(default_factory=list)
    not_saved: list[dict[str, Any]] = field(default_factory=list)


def sort_out(text: str) -> Said:
    """The printed text, without the server's own sentences about imports, setups and variables that it did not keep."""
    said = Said()

    def take(match: re.Match[str]) -> str:
        name = match['name'] or match['short']
        if name:
            value = ' '.join((match['value'] or 'its value cannot be serialized').split())
            said.not_saved.append({'name': name, 'type': value if len(value) <= SHORT else value[:SHORT] + '…', 'culprits': [],
                                   'suggestion': '', 'text': match[0].strip()})
        else:
            said.warnings.append((match['import'] or match['setup']).strip())
        return ''

    said.text = SENTENCE.sub(take, text) if 'annot ' in text or 'WARNING' in text or 'An error' in text else text
    return said


def site_error(page: str) -> str:
    """`KeyError: 'x'` from the page that Zope makes of an exception; '' if it is none."""
    text = html.unescape(re.sub(r'<[^>]*>', '\n', page))
    kind = re.search(r'Error Type:\s*(\S[^\n]*)', text) or re.search(r'publishing this resource\.\s*([A-Za-z_][\w.]*)\s*\n', text)
    value = re.search(r'Error Value:[ \t]*\n?[ \t]*(\S[^\n]*)', text)
    return ': '.join(part[1].strip() for part in (kind, value) if part) if kind else ''


# ---------------------------------------------------------------- values
def literal(text: str) -> Any:
    """The value that a repr of Python 2 or 3 stands for: `10L`, `u'…'` and bytes of UTF-8 are understood. ValueError for any other."""
    source = ''.join(digits(token) for token in TOKEN.finditer(text.strip()))
    try:
        tree = ast.parse(source, mode='eval')
        for node in ast.walk(tree) if source.isascii() else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.kind != 'u':
                node.value = from_bytes(node.value)
        return ast.literal_eval(tree)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        failure = ValueError(f'expected the literal of a value, got {wire.excerpt(text)}')
    raise failure from None


def digits(token: re.Match[str]) -> str:
    """A word of a repr; of a long integer of Python 2 without its L."""
    text = token[0]
    return text[:-1] if token.lastgroup == 'word' and text[-1] in 'lL' and text[:-1].isdigit() else text


def from_bytes(text: str) -> str:
    """A text of Python 2 is bytes; where they are UTF-8, what they say."""
    try:
        return text.encode('latin-1').decode()
    except UnicodeError:
        return text


def assignments(values: Mapping[str, Any]) -> str:
    """The source of a cell that assigns these values, a line each, for Python 2 and 3. UnsupportedError for what is no plain value."""
    return ''.join(f'{identifier(name)} = {written(value, name)}\n' for name, value in values.items())


def identifier(name: str) -> str:
    if name.isidentifier() and name.isascii() and not keyword.iskeyword(name) and name not in ('print', 'exec'):
        return name
    raise UnsupportedError(f'{name!r} cannot be the name of a variable on a stock ERP5 site')


BRACKETS: dict[type, tuple[str, str]] = {list: ('[', ']'), tuple: ('(', ',)'), set: ('set([', '])'), frozenset: ('frozenset([', '])')}


def written(value: Any, name: str, depth: int = 0) -> str:
    """The source of a value of builtins only; subclasses are refused, as they would come back as something else."""
    kind = type(value)
    if depth > 50:
        raise UnsupportedError(f'{name} is nested too deeply, or contains itself: it cannot be written for a stock ERP5 site')
    if value is None or kind in (bool, int, bytes):
        return repr(value)
    if kind in (float, complex):
        return number(value)
    if kind is str:
        return repr(value) if value.isascii() else 'u' + ascii(value)
    if kind is dict:
        pairs = (f'{written(key, name, depth + 1)}: {written(item, name, depth + 1)}' for key, item in value.items())
        return '{' + ', '.join(pairs) + '}'
    if kind in BRACKETS:
        before, after = BRACKETS[kind] if value or kind is not tuple else ('(', ')')
        return before + ', '.join(written(item, name, depth + 1) for item in value) + after
    raise UnsupportedError(f'{name} is, or contains, a {kind.__module__}.{kind.__qualname__}: a stock ERP5 site takes None, numbers, '
                           'texts, bytes, and lists, tuples, sets and dictionaries of these')


def number(value: float | complex) -> str:
    """A float's or complex's source. Infinity and NaN have no literal."""
    if isinstance(value, complex):
        return f'complex({number(value.real)}, {number(value.imag)})'
    text = repr(value)
    return text if text[-1].isdigit() else f"float('{text}')"


# ---------------------------------------------------------------- what such a site cannot do
LACKS = {
    'timeout': 'it ends no cell by itself: this one, and others with --timeout, run without their limit',
    'values': 'it shows no values: print them',
    'interrupt': 'it cannot interrupt a cell',
    'variables': 'it does not list what a notebook holds',
    'completion': 'it does not complete names',
    'history': 'it does not list the lines of a notebook',
    'noblock': 'a cell of it is waited for',
}


class Told:
    """What the user of a session has been told of what a stock site cannot do."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._told: set[str] = set()

    def once(self, what: str) -> str:
        """A sentence, with its newline, the first time that it is asked for; '' from then on. `what`: of LACKS, or a text."""
        if what in self._told:
            return ''
        self._told.add(what)
        return f'{self.url} is a stock ERP5 site: {LACKS[what]}.\n' if what in LACKS else f'{what}\n'

    def new(self, texts: Iterable[str]) -> list[str]:
        """Those that have not been told before."""
        return [text for text in texts if self.once(text)]
