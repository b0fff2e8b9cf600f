"""Completion and help of what is there, in the cells and lines that run there; everywhere else IPython's own, untouched.

    Tab        IPython's Completer ─► Completion.match ─► names that the session knows              at once
    Shift-Tab  kernel.do_inspect ───► Completion.inspect ┴► the node: attributes, keys, arguments   within SOON, or the names alone
    name?      ERP5Magics ──────────► Completion.help_on ─► the node                                within SOON, or by a cell

Nothing here connects, asks for a password, or says that something is wrong: who types is not to be held up.
"""

# IPython's decorators have no types.
# mypy: disable-error-code="untyped-decorator"

import builtins
import io
import keyword
import re
import threading
import time
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core.completer import Completion as IPythonCompletion
from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.interactiveshell import InteractiveShell

from .known_names import bound_names
from .magic_words import Wanted, wanted
from .remote_code import Code, Lines, Words, at_cursor
from .sessions import sessions_of
from .wire import TYPES

if TYPE_CHECKING:
    from .session import Session

COMPLETE, INSPECT = 'Base_completeJupyter', 'Base_inspectJupyter'
SOON = 1.0        # seconds for an answer
REST = 3.0        # seconds in which a site that did not answer soon is not asked again: else each Tab would wait
IDENTIFIER = 'ipython_erp5'
FIRST = 1000.0    # the matcher's priority: what it suppresses is not even asked
NAME_BEFORE = re.compile(r'(?:[^\W\d]\w*)?\Z')
STATEMENTS = ('import ', 'from ', '%', '!')   # lines in which a name is no variable
QUESTION = re.compile(r'([^\W\d]\w*(?:\.[^\W\d]\w*)*)(\?\??)')
Answer = TypeVar('Answer')
Completions = Callable[[str, int], Iterator[IPythonCompletion]]


class Completion:
    """Of one shell. `magics`: the names of our line magics; `is_remote`: see `remote_code.at_cursor`."""

    def __init__(self, shell: InteractiveShell, magics: Iterable[str], is_remote: Callable[[Lines], bool]) -> None:
        self.shell, self.magics, self.is_remote = shell, frozenset(magics), is_remote
        self.matcher = self.match   # one object, so that it can be found again
        self.covered: list[tuple[Any, str, Callable[..., Any]]] = []   # attributes of others
        self.signatures: dict[str, str] = {}   # of the last matches
        self.waiting: set[int] = set()   # id() of sessions of which an answer is still on its way
        self.resting: dict[int, float] = {}  # until when, by time.monotonic()
        self.references: dict[str, list[str]] = {}   # url -> of the user's notebooks, as of the last answer

    # ------------------------------------------------------------ in a shell
    def load(self) -> None:
        """A kernel's Shift-Tab has no hook, as Tab has, and a matcher cannot tell signatures: the methods of both are covered by
        attributes of the same names."""
        kernel, completer = getattr(self.shell, 'kernel', None), self.shell.Completer
        if completer is not None:
            completer.custom_matchers.append(self.matcher)
            self.cover(completer, 'completions', self.with_signatures(completer.completions))
        if kernel is not None:
            original = kernel.do_inspect
            self.cover(kernel, 'do_inspect', lambda code, cursor_pos, *args, **options: (
                self.inspect(code, cursor_pos, *args, **options) or original(code, cursor_pos, *args, **options)))

    def cover(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        setattr(owner, name, function)
        self.covered.append((owner, name, function))

    def unload(self) -> None:
        """What somebody else has covered once more since stays."""
        matchers = self.shell.Completer.custom_matchers if self.shell.Completer is not None else []
        matchers[:] = [matcher for matcher in matchers if matcher is not self.matcher]
        for owner, name, function in self.covered:
            if vars(owner).get(name) is function:
                delattr(owner, name)
        self.covered.clear()

    def with_signatures(self, completions: Completions) -> Completions:
        def with_ours(text: str, offset: int) -> Iterator[IPythonCompletion]:
            self.signatures = {}
            for match in completions(text, offset):
                if match._origin == IDENTIFIER:
                    match.signature = self.signatures.get(match.text, '')
                yield match
        return with_ours

    # ------------------------------------------------------------ Tab
    @context_matcher(identifier=IDENTIFIER, priority=FIRST)
    def match(self, context: CompletionContext) -> SimpleMatcherResult:
        """A matcher of IPython's API, version 2."""
        place = at_cursor(context.full_text, context.cursor_line, context.cursor_position, self.magics, self.is_remote)
        if isinstance(place, Code):
            return self.in_code(place)
        if isinstance(place, Words):
            return self.in_words(place)
        return {'completions': []}

    def in_code(self, place: Code) -> SimpleMatcherResult:
        session = self.session_for(place.options)
        prefix = plain_name(place.before)
        known = session.names.kinds() if session is not None else {}
        heard = starting(prefix, {**PYTHON, **bound_names(without_line(place)), **known}) if prefix is not None else {}
        if session is not None and not (heard and session.names.complete):
            answer = self.ask(session, COMPLETE, place, {})
            if answer is not None:
                entries = answer.get('metadata', {}).get(TYPES, ())
                self.signatures = {entry['text']: entry['signature'] for entry in entries}
                types = {entry['text']: entry['type'] for entry in entries}
                return suppressing({match: types.get(match, '') for match in answer['matches']}, place.before[answer['cursor_start']:])
        return suppressing(heard, prefix or '')

    def in_words(self, words: Words) -> SimpleMatcherResult:
        """Of a file or whatever is not known here IPython may know more."""
        found = wanted(words, self.shell.magics_manager.magics)
        kinds = self.candidates(found, words) if found is not None else None
        if found is None or kinds is None:
            return {'completions': []}
        return suppressing(starting(found.text, kinds), found.text)

    def candidates(self, found: Wanted, words: Words) -> Mapping[str, str] | None:
        """What may stand there, each with its type; None if that is not known."""
        sessions = sessions_of(self.shell)
        session = self.session_for(words.text)
        match found.kind:
            case 'option' | 'choice':
                return dict.fromkeys(found.known, 'option')
            case 'session':
                return dict.fromkeys(sessions.by_name, 'connection')
            case 'target':
                return dict.fromkeys([*sessions.by_name, *configured()], 'connection')
            case 'reference':
                return dict.fromkeys(map(quoted, self.notebooks(session)), 'notebook')
            case 'remote':
                return session.names.variables if session is not None else {}
            case 'local':
                return {name: 'instance' for name in self.shell.user_ns
                        if not name.startswith('_') and name not in self.shell.user_ns_hidden}
        return None

    def session_for(self, options: str) -> 'Session | None':
        """The session that the options of a cell name, or the default one; None if it is not connected."""
        sessions = sessions_of(self.shell)
        words = options.replace('=', ' ').split()
        named = [after for word, after in zip(words, words[1:]) if word == '--connection']
        return sessions.by_name.get(named[-1] if named else sessions.default)

    def notebooks(self, session: 'Session | None') -> list[str]:
        """References; those that are known when there is no answer."""
        if session is None:
            return []
        found = self.soon(session, lambda: [str(row['reference']) for row in session.client.notebooks()])
        if found is not None:
            self.references[session.client.url] = found
        return self.references.get(session.client.url, [session.reference])

    # ------------------------------------------------------------ Shift-Tab
    def inspect(self, code: str, cursor_pos: int, detail_level: int = 0, omit_sections: Iterable[str] = ()) -> dict[str, Any] | None:
        """Jupyter's `inspect_reply` where the code at the cursor runs there; None where it runs here."""
        before = code[:cursor_pos].split('\n')
        place = at_cursor(code, len(before) - 1, len(before[-1]), self.magics, self.is_remote)
        if not isinstance(place, Code):
            return None
        session = self.session_for(place.options)
        answer = self.ask(session, INSPECT, place, {'detail_level': str(detail_level)}) if session is not None else None
        return answer or {'status': 'ok', 'found': False, 'data': {}, 'metadata': {}}

    # ------------------------------------------------------------ name?
    def help_on(self, session: 'Session', code: str) -> str:
        """What `name?` shows, by the notebook's last commit, so that no cell that runs is waited for.

        '' if the code is anything else, or the answer does not come soon.
        """
        lines = [line.strip() for line in code.splitlines() if line.strip() and not line.lstrip().startswith('#')]
        asked = QUESTION.fullmatch(lines[0]) if len(lines) == 1 else None
        if asked is None:
            return ''
        name, marks = asked.groups()
        answer = self.ask(session, INSPECT, Code(name, len(name)), {'detail_level': str(len(marks) - 1)})
        return str((answer or {}).get('data', {}).get('text/plain', ''))

    # ------------------------------------------------------------ the node
    def ask(self, session: 'Session', method: str, place: Code, form: Mapping[str, str]) -> dict[str, Any] | None:
        """The node's answer; None if it does not come soon. A stock site, which has none, is asked once."""
        if session.names.stock:
            return None
        question = {'reference': session.reference, 'code': place.text, 'cursor_pos': str(place.position), **form}
        answer = self.soon(session, lambda: (session.client.ask(method, question, SOON),))
        if answer is None:
            return None
        session.names.stock = answer[0] is None
        return answer[0] if isinstance(answer[0], dict) and answer[0].get('status') == 'ok' else None

    def soon(self, session: 'Session', question: Callable[[], Answer]) -> Answer | None:
        """The answer, if it comes soon. As long as an earlier one has not come, and for a while after that, nothing more is asked.

        In a thread of its own: no part of it may take longer, nor ask for a password.
        """
        if id(session) in self.waiting or time.monotonic() < self.resting.get(id(session), 0.0):
            return None
        self.waiting.add(id(session))
        answers: SimpleQueue[Answer | None] = SimpleQueue()
        threading.Thread(target=self.answer_to, args=(question, answers, id(session)), daemon=True).start()
        try:
            return answers.get(timeout=SOON)
        except Empty:
            self.resting[id(session)] = time.monotonic() + REST
            return None

    def answer_to(self, question: Callable[[], Answer], answers: 'SimpleQueue[Answer | None]', key: int) -> None:
        answer = None
        try:
            answer = question()
        except Exception:   # whatever is wrong, the next cell says it
            pass
        finally:
            self.waiting.discard(key)
            answers.put(answer)


# ---------------------------------------------------------------- what is being typed
def plain_name(before: str) -> str | None:
    """The name that is being typed, '' for one that begins; None where it may be an attribute, a key, an argument, a module."""
    found = NAME_BEFORE.search(before)
    assert found is not None
    rest = before[:found.start()]
    line = rest.rpartition('\n')[2]
    if rest[-1:] in tuple('.%!?\'"\\') or line.lstrip().startswith(STATEMENTS) or is_open(rest):
        return None
    return found[0]


def is_open(code: str) -> bool:
    """Whether code ends within brackets or a text."""
    depth = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.OP:
                depth += (token.string in '([{') - (token.string in ')]}')
            elif token.type == tokenize.ERRORTOKEN and token.string in '\'"':
                return True
    except (tokenize.TokenError, SyntaxError):
        return True
    return depth > 0


def without_line(place: Code) -> str:
    """The code without the line that is being typed, which is rarely Python yet."""
    start = place.before.rfind('\n') + 1
    end = place.text.find('\n', start)
    return place.text[:start] + (place.text[end + 1:] if end >= 0 else '')


# ---------------------------------------------------------------- matches
class Suppressing(list[SimpleCompletion]):
    """IPython suppresses other matchers for one that has matches, by its length: what is here does not match there."""

    def __len__(self) -> int:
        return max(1, super().__len__())


def suppressing(kinds: Mapping[str, str], fragment: str) -> SimpleMatcherResult:
    return {'completions': Suppressing(SimpleCompletion(text, type=kind) for text, kind in kinds.items()), 'matched_fragment': fragment,
            'suppress': True, 'ordered': True}


def starting(prefix: str, kinds: Mapping[str, str]) -> dict[str, str]:
    """In alphabetical order; names with an underscore only if that is typed."""
    return {name: kinds[name] for name in sorted(kinds) if name.startswith(prefix) and (prefix or not name.startswith('_'))}


PYTHON = {**{name: 'class' if isinstance(value, type) else 'function' for name, value in vars(builtins).items()},
          **dict.fromkeys(keyword.kwlist, 'keyword')}


def configured() -> list[str]:
    """The names that `%erp5_connect` takes, without those of sessions."""
    from . import connections, settings
    try:
        sections = list(settings.read_sections(settings.connections_file()))
    except Exception:   # %erp5_connect says what is wrong with the file
        sections = []
    return [*sections, connections.EMBEDDED]


def quoted(text: str) -> str:
    return f"'{text}'" if any(char.isspace() for char in text) else text
