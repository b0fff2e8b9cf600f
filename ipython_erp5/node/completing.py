"""Completion and help of a notebook's names, in an executor process of its own, which runs no cells.

    question ─► Answering ─► Prepared: the setups, run once, and the names of the last commit ─► IPython's Completer ─► reply of Jupyter
                                 └─ AllNames: all are listed, one is loaded when the code before the cursor asks for its value

Promised: nothing is written, whatever the notebook's code does; what it prints is nobody's. A setup, a property or a `__getattr__`
that takes too long is no matter of this file: see `questions`, which waits for the answer.
"""

import ast
import builtins
import contextlib
import functools
import gc
import io
import inspect
import keyword
import os
import sys
import time
import tokenize
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any, NoReturn

from AccessControl.SecurityManagement import noSecurityManager
from Acquisition import aq_base
from IPython.core import guarded_eval
from IPython.core.completer import Completion, provisionalcompleter, rectify_completions
from IPython.core.error import TryNext
from IPython.utils import generics
from IPython.utils.tokenutil import token_at_cursor
from ZODB.POSException import ReadOnlyError

from .. import environment, serializers
from ..known_names import KINDS
from ..wire import TYPES
from .cell import RESERVED, Notebooks, OpenNotebook
from .context import Context
from .shell import CellShell
from .stored import LAST_VALUES, SLOTS, StoredContext

Reply = dict[str, Any]
VAGUE = (None, '', '<unknown>', 'variable', 'attribute')  # what IPython says of a match without a look at its value
FEW = 20  # functions and classes that are loaded for their signatures
SIGNATURES = .1  # seconds for all of them
HEAVY = 64 << 20  # bytes of old values, for which the collector of garbage is called
METHODS = (types.FunctionType, staticmethod, classmethod, types.MethodDescriptorType, types.ClassMethodDescriptorType,
           types.WrapperDescriptorType)
LIMITED = guarded_eval.EVALUATION_POLICIES['limited']


# ---------------------------------------------------------------- the process
class Answering:
    """Makes the executor process one that only answers."""

    def __init__(self, notebooks: Notebooks, shell: CellShell) -> None:
        self.notebooks, self.shell = notebooks, shell
        self.prepared: Prepared | None = None
        self.owner: object = None  # whose attributes were completed last
        silence(shell)
        notebooks.connection.commit = refuse_to_commit
        guarded_eval.EVALUATION_POLICIES['limited'] = Looking(**{field.name: getattr(LIMITED, field.name)
                                                                 for field in fields(LIMITED) if field.init})
        self.completer.use_jedi = False  # it imports and parses what it finds, which takes seconds
        self.libraries = generics.complete_object
        setattr(generics, 'complete_object', self.attributes)  # noqa: B010 - IPython looks it up there

    @property
    def completer(self) -> Any:
        return self.shell.Completer

    def attributes(self, owner: object, words: list[str]) -> list[str]:
        """IPython asks this for the attributes of an object that it has found. Zope's declarations are for Zope.

        Its own function asks the class's libraries; `singledispatch` cannot order the bases of some of Zope's classes.
        """
        self.owner = owner
        with contextlib.suppress(TryNext, RuntimeError):
            words = self.libraries(owner, words)
        return [word for word in words if not word.endswith('__roles__')]

    def answer(self, question: dict[str, Any], ready: Callable[[], None]) -> Reply | None:
        """Jupyter's `complete_reply` or `inspect_reply`; `ready` is called when the setups have been run.

        None if there is no such notebook, or the notebook's own code raised.
        """
        notebooks = self.notebooks
        notebooks.manager.begin()
        notebooks.connection.explicit_transactions = False  # as in a cell: a setup may begin transactions
        try:
            if not self.prepare(question['reference'], question['user']):
                return None
            ready()
            return self.inspect(**question['inspect']) if 'inspect' in question else self.complete(**question['complete'])
        except Exception:  # whatever a user's class raises
            return None
        finally:
            notebooks.connection.explicit_transactions = True
            notebooks.manager.abort()
            noSecurityManager()

    def prepare(self, reference: str, user: str) -> bool:
        """The notebook as of the last commit; its setups are run if they, or who asks, are not those of the last question."""
        notebook = self.notebooks.application.erp5.data_notebook_module.find(reference)
        if notebook is None:
            return False
        portal = self.notebooks.portal(user)
        about = (notebook._p_oid, user, notebook.environment)
        if self.prepared is None or self.prepared.about != about:
            opened = OpenNotebook(notebook, portal, self.notebooks.manager, self.notebooks.node, self.notebooks.limit)
            self.prepared = Prepared(opened, about, self.shell)
        self.prepared.bring_up_to(notebook)
        self.completer.namespace, self.completer.global_namespace = self.prepared.names, {}
        return True

    # ------------------------------------------------------------ complete
    def complete(self, code: str, cursor_pos: int) -> Reply:
        assert self.prepared is not None
        self.owner = None
        with provisionalcompleter():
            found = list(rectify_completions(code, self.completer.completions(on_one_line(code, cursor_pos), cursor_pos)))
        matches = described(found, functools.partial(self.value_of, load=len(found) <= FEW), self.prepared.kind_of)
        start, end = (found[0].start, found[0].end) if found else (cursor_pos, cursor_pos)
        return completed(matches, start, end)

    def value_of(self, text: str, load: bool) -> object:
        """The object that a match names, without running code of the notebook; ABSENT if it is not to be had. `load`: from the database."""
        assert self.prepared is not None
        _, dot, name = text.rpartition('.')
        if not dot:
            return self.prepared.value_of(name, load)
        value = inspect.getattr_static(aq_base(self.owner), name, ABSENT)
        return getattr(self.owner, name, value) if isinstance(value, METHODS) else value

    # ------------------------------------------------------------ inspect
    def inspect(self, code: str, cursor_pos: int, detail_level: int) -> Reply:
        try:
            data = self.shell.object_inspect_mime(token_at_cursor(code, cursor_pos), detail_level=detail_level)
        except KeyError:
            return not_found()
        if not self.shell.enable_html_pager:
            data.pop('text/html', None)
        return {'status': 'ok', 'found': True, 'data': data, 'metadata': {}}


class Looking(guarded_eval.SelectivePolicy):
    """IPython runs no properties and no `__getitem__` of classes that it does not know. Here they can hurt nobody; calls could."""

    def can_get_attr(self, value: object, attr: str) -> bool:
        return True

    def can_get_item(self, value: object, item: object) -> bool:
        return True


def silence(shell: CellShell) -> None:
    """For the life of the process; the node's log has a descriptor of its own."""
    shell.emit = lambda message, whose='': None
    sys.stdout, sys.stderr = shell.stdout, shell.stderr
    with open(os.devnull, 'wb') as nothing:
        for fd in (1, 2):
            os.dup2(nothing.fileno(), fd)


def refuse_to_commit(*args: object) -> NoReturn:
    raise ReadOnlyError('completion and help write nothing')


# ---------------------------------------------------------------- the notebook
class Prepared:
    """One notebook as one user has it, after its setups. `about`: for what this holds."""

    def __init__(self, opened: OpenNotebook, about: tuple[Any, ...], shell: CellShell) -> None:
        self.opened, self.about, self.shell = opened, about, shell
        self.count = 0  # of the line of the history before which this is what there is
        self.names = AllNames(self)
        shell.source_of = opened.source_of
        shell.enter(opened.names)
        processed = environment.process(ast.Module([], []), '', opened.count, hook='', shadowed=False, known=opened.known_function,
                                        flags=opened.flags)
        process = os.getpid()
        opened.setups.begin(processed)
        opened.setups.run(tolerant=True)
        if os.getpid() != process:  # a setup has forked, and its child comes here
            os._exit(0)
        opened.references.provide(opened.setups.provided)

    @property
    def namespace(self) -> dict[str, Any]:
        return self.opened.namespace

    def bring_up_to(self, notebook: Any) -> None:
        """The variables of the last commit; the setups have been run, and what they gave is still there."""
        if notebook.next_count() == self.count:
            return
        self.count = notebook.next_count()
        opened, old = self.opened, self.opened.context
        given = {**self.shell.hidden, **opened.injected, **opened.setups.provided}
        for name in self.namespace.keys() - given.keys() - RESERVED:
            del self.namespace[name]
        self.namespace.update(given)
        opened.context = Context(notebook.stored, opened.references, serializers.get(notebook.serializer), opened.names, opened.count)
        opened.context.begin(self.namespace.keys() - RESERVED)
        if old.buffers.weight > HEAVY:
            del old
            gc.collect()

    def value_of(self, name: str, load: bool) -> object:
        """`load`: a function or class that has not been asked for yet, too."""
        if name in self.namespace or load and self.stored_kind(name) in ('function', 'class') and self.opened.names.fetch(name):
            return self.namespace[name]
        return ABSENT if self.opened.context.has(name) else getattr(builtins, name, ABSENT)

    def kind_of(self, name: str) -> str:
        """Of a variable that is not loaded, and of a keyword; '' for any other match."""
        return 'keyword' if keyword.iskeyword(name) else self.stored_kind(name) if self.opened.context.has(name) else ''

    def stored_kind(self, name: str) -> str:
        return stored_kind(self.opened.context.stored, name)


class AllNames(dict[str, Any]):
    """What IPython's Completer takes for the namespace: it lists every name of the notebook, and loads one when its value is asked for.

    An exact dict is asked by IPython in C, for builtins only: it is left empty.
    """

    def __init__(self, prepared: Prepared) -> None:
        super().__init__()
        vars(self)['prepared'] = prepared

    @property
    def opened(self) -> OpenNotebook:
        opened: OpenNotebook = vars(self)['prepared'].opened
        return opened

    def __getitem__(self, name: str) -> Any:
        opened = self.opened
        if name in opened.namespace or opened.names.fetch(name):
            return opened.namespace[name]
        raise KeyError(name)

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    def __contains__(self, name: object) -> bool:
        return name in self.opened.namespace or isinstance(name, str) and self.opened.context.has(name)

    def __iter__(self) -> Iterator[str]:
        namespace, context = self.opened.namespace, self.opened.context
        yield from namespace
        yield from (name for name in [*context.stored.groups.keys(), *LAST_VALUES]
                    if name not in namespace and name not in SLOTS and context.has(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def keys(self) -> Any:
        return list(self)


ABSENT = object()


# ---------------------------------------------------------------- code
def on_one_line(code: str, cursor_pos: int) -> str:
    """The same, as long as it was, with blanks for the ends of lines within open brackets: IPython looks for a call in one line."""
    brackets: list[tuple[int, int]] = []
    with contextlib.suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(io.StringIO(code[:cursor_pos]).readline):
            if token.type == tokenize.OP and token.string in '([{':
                brackets.append(token.start)
            elif token.type == tokenize.OP and token.string in ')]}' and brackets:
                brackets.pop()
    if not brackets:
        return code
    start = sum(len(line) for line in code.splitlines(keepends=True)[:brackets[0][0] - 1])
    return code[:start] + code[start:cursor_pos].replace('\n', ' ') + code[cursor_pos:]


def stored_kind(stored: StoredContext, name: str) -> str:
    """What a variable is, without loading it."""
    group = stored.groups.get(name)
    return KINDS.get(group.types.get(name, ''), 'instance') if group is not None else 'instance'


# ---------------------------------------------------------------- matches
def described(found: Iterable[Completion], value_of: Callable[[str], object], kind_of: Callable[[str], str]) -> list[dict[str, Any]]:
    """The entries of Jupyter's metadata: each match with its type and, if it can be called, its signature."""
    end = time.monotonic() + SIGNATURES
    entries = []
    for match in found:
        kind, signature = match.type, match.signature or ''
        if kind in VAGUE:
            value = value_of(match.text)
            kind = (kind_of(match.text) if value is ABSENT else kind_of_value(value)) or kind
            signature = signature_of(value) if time.monotonic() < end else ''
        entries.append({'start': match.start, 'end': match.end, 'text': match.text, 'type': kind or '<unknown>', 'signature': signature})
    return entries


def kind_of_value(value: object) -> str:
    """In the words of Jupyter's front ends."""
    if isinstance(value, types.ModuleType):
        return 'module'
    if isinstance(value, type):
        return 'class'
    if isinstance(value, (property, functools.cached_property, types.GetSetDescriptorType, types.MemberDescriptorType)):
        return 'property'
    return 'function' if isinstance(value, METHODS) or inspect.isroutine(value) and callable(value) else 'instance'


def signature_of(value: object) -> str:
    """`(a, b=1)`; '' for what cannot be called, or does not tell."""
    if not isinstance(value, type) and not inspect.isroutine(value):
        return ''
    try:
        return str(inspect.signature(value))
    except Exception:  # a default whose repr raises
        return ''


def completed(matches: list[dict[str, Any]], start: int, end: int, **metadata: object) -> Reply:
    """A `complete_reply`. Positions count characters."""
    return {'status': 'ok', 'matches': [match['text'] for match in matches], 'cursor_start': start, 'cursor_end': end,
            'metadata': {TYPES: matches, **metadata}}


def not_found(**metadata: object) -> Reply:
    return {'status': 'ok', 'found': False, 'data': {}, 'metadata': metadata}
