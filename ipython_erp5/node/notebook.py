"""A notebook in the database, and an executor's way to it: one transaction a cell.

    Data Notebook   .lines        IOBTree count -> Data Notebook Line   the history, written by the commit of the cell itself
                    .requests     OOBTree request_id -> count           what has been run; it is never run again
                    .claim        Claim                                 what may have begun; rewritten by every cell
                    .stored       StoredContext                         the variables (see `context`)
                    .environment  tuple of records                      the setups in order of definition (see `setups`)

    open() ─► claim the request_id ─► commit ─► cell ─► save() ─► commit() with the history line and the next claim

A claim says that a node may have begun a request. It is committed before any code of the cell runs. State 'next' is a claim that
travelled with the commit of the cell before, for the id that the client announced: that saves a commit.
"""

import ast
import builtins
import contextlib
import functools
import inspect
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import transaction
from AccessControl.class_init import InitializeClass
from AccessControl.SecurityManagement import newSecurityManager, noSecurityManager
from BTrees.IOBTree import IOBTree
from BTrees.OOBTree import OOBTree
from DateTime import DateTime
from persistent import Persistent
from Testing.makerequest import makerequest
from transaction.interfaces import TransientError

from .. import environment, report, serializers, setups, wire
from ..errors import SerializationError
from .context import Context, References, StoredContext
from .document import Document
from .source import cell_filename

RESERVED = frozenset({'__builtins__', '__builtin__', '__name__', '__doc__', '__package__', '__loader__', '__spec__'})
LITERAL = 1 << 20  # characters of a value that travels as its source text
DEFAULT_SERIALIZER = 'cloudpickle'


class Lines(IOBTree):
    """Count -> line. Every cell writes a leaf, and some the nodes above it: small ones are written faster."""

    max_leaf_size = max_internal_size = 16


class Requests(OOBTree):
    """Request id -> count of its line. The same, and a leaf anywhere: the ids are random."""

    max_leaf_size = max_internal_size = 16


class Claim(Persistent):
    request_id = node = state = ''


class DataNotebookLine(Document):
    """One cell that was run: its source, its outcome, and its messages as they were shown (JSON lines)."""

    portal_type: ClassVar[str] = 'Data Notebook Line'
    properties: ClassVar[tuple[str, ...]] = (*Document.properties, 'notebook_code', 'notebook_code_result', 'mime_type')
    notebook_code = ename = evalue = request_id = user = ''
    status = 'ok'
    committed = True
    shown = b''

    def __init__(self, count: int, request: wire.Request, outcome: Mapping[str, Any]) -> None:
        """Written by every cell: attributes that have their usual value are not, and the date is a number (seconds, UTC)."""
        self.id = str(count)
        self.notebook_code, self.request_id, self.user = request.python_expression, request.request_id, request.user
        self.created = time.time()
        for name, value in outcome.items():
            if getattr(type(self), name) != value:
                setattr(self, name, value)

    def messages(self) -> list[bytes]:
        return self.shown.splitlines(keepends=True)

    def getCreationDate(self) -> DateTime:
        return DateTime(self.created)

    def stock(self) -> dict[str, Any]:
        return wire.stock_answer(wire.decode(line) for line in self.messages())

    def getNotebookCodeResult(self) -> str:
        return str(self.stock()['code_result'])

    def getMimeType(self) -> str:
        return str(self.stock()['mime_type'])

    def reply(self, request_id: str, node: str) -> wire.Message:
        return wire.execute_reply(self.status, self.committed, request_id, ename=self.ename, evalue=self.evalue, node=node,
                                  execution_count=int(self.getId()))


class DataNotebook(Document):
    portal_type: ClassVar[str] = 'Data Notebook'
    properties: ClassVar[tuple[str, ...]] = (*Document.properties, 'serializer', 'owner')
    serializer = DEFAULT_SERIALIZER
    owner = ''
    environment: tuple[Mapping[str, Any], ...] = ()

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.lines, self.requests, self.claim, self.stored = Lines(), Requests(), Claim(), StoredContext()

    def contentValues(self, portal_type: str | None = None) -> list[DataNotebookLine]:
        return [line.__of__(self) for line in self.lines.values() if portal_type in (None, line.portal_type)]

    def next_count(self) -> int:
        return int(self.lines.maxKey()) + 1 if self.lines else 1

    def outcome(self, request_id: str) -> DataNotebookLine | None:
        """The line of a request that has been run."""
        count = self.requests.get(request_id)
        return None if count is None else self.lines[count]

    def claimed_for(self, request_id: str, node: str) -> bool:
        """Whether `node` may begin the request without another commit."""
        claim = self.claim
        return bool(claim.request_id == request_id and (claim.state, claim.node) == ('next', node))

    def begun(self, request_id: str) -> bool:
        """Whether a request without an outcome may have begun: it is lost."""
        return bool(self.claim.request_id == request_id and self.claim.state == 'running')

    def take(self, request_id: str, node: str, state: str) -> None:
        claim = self.claim
        claim.request_id, claim.node, claim.state = request_id, node, state

    def add_line(self, request: wire.Request, **properties: Any) -> DataNotebookLine:
        count = self.next_count()
        line = self.lines[count] = DataNotebookLine(count, request, properties)
        if request.request_id:
            self.requests[request.request_id] = count
        return line

    def add_lost(self, request_id: str, cause: str) -> DataNotebookLine:
        """The history says that a cell was lost, and by what."""
        error, reply = wire.lost(request_id, cause)
        return self.add_line(wire.Request(request_id=request_id), status='error', committed=False, ename=reply['ename'],
                             evalue=reply['evalue'], shown=wire.encode(error))

    def describe(self) -> dict[str, Any]:
        """What `Base_getJupyterContext` answers; reads no values."""
        return {'reference': self.reference, 'title': self.title, 'serializer': self.serializer, 'lines': len(self.lines),
                'variables': self.stored.describe(),
                'not_saved': [{'name': name, 'reason': reason} for name, reason in self.stored.lost.items()],
                'environment': [{name: setup[name] for name in ('alias', 'kind', 'name', 'source', 'cell', 'line')}
                                for setup in self.environment]}


InitializeClass(DataNotebookLine)
InitializeClass(DataNotebook)


# ---------------------------------------------------------------- while a cell runs
class OpenNotebook:
    """One notebook for the time of one cell: its namespace, its environment, its variables."""

    outcome: DataNotebookLine | None = None

    def __init__(self, notebook: DataNotebook, portal: Any, manager: Any, node: str) -> None:
        self.notebook, self.portal, self.manager, self.node = notebook, portal, manager, node
        self.count = notebook.next_count()
        self.module = types.ModuleType('__main__', 'The namespace of a notebook.')
        self.namespace = self.module.__dict__
        self.namespace['__builtins__'] = builtins
        self.setups = setups.Setups([environment.Setup.from_record(record) for record in notebook.environment], self.namespace,
                                    dump=self.dump_value, load=self.load_value, filename=cell_filename, need=self.need,
                                    source_of=self.written)
        self.injected = {'environment': setups.Environment(self.setups), 'context': portal}
        self.references = References(self.module, portal.getPhysicalRoot(), self.injected)
        self.references.provide(self.setups.provided)
        self.context = Context(notebook.stored, self.references, serializers.get(notebook.serializer))
        self.namespace.update(self.injected)
        self.prepared = 0
        self.hooks: list[str] = []

    @property
    def serializer(self) -> str:
        return str(self.notebook.serializer)

    @property
    def flags(self) -> int:
        return self.setups.flags

    def source_of(self, number: int) -> str:
        line = self.notebook.lines.get(number)
        return line.notebook_code if line is not None else ''

    # ------------------------------------------------------------ before the cell
    def prepare(self, tree: ast.Module, source: str) -> ast.Module:
        """The environment's pass over the cell, then its setups, then its variables. Called again for the body of a `%%time`."""
        first = not self.prepared
        self.prepared += 1
        hook = f'__erp5_imported_{self.count}_{self.prepared}__'
        processed = environment.process(tree, source if first else '', self.count, hook=hook, shadowed='environment' in self.context.names(),
                                        known=self.known_function, flags=self.setups.flags)
        setattr(builtins, hook, functools.partial(self.setups.imported, processed))
        self.hooks.append(hook)
        self.setups.begin(processed)
        if first:
            self.setups.run(processed.management_only)
            self.references.provide(self.setups.provided)
            self.context.fill(deleted_names(tree))
        return processed.tree

    def need(self, names: set[str]) -> None:
        self.references.provide(self.setups.provided)
        self.context.need(names)

    def known_function(self, name: str) -> bool:
        """Whether an earlier cell, or a setup, has left a function of this name."""
        if any(setup.kind == 'function' and setup.name == name for setup in self.setups.stored()):
            return True
        self.need({name})
        function = self.context.values.get(name)
        return callable(function) and self.written(inspect.unwrap(function)) is not None

    def written(self, function: object) -> str | None:
        """The source of a function of an earlier cell: out of the history, by the name of the file that its code has."""
        try:
            return inspect.getsource(function)  # type: ignore[arg-type]
        except (OSError, TypeError):
            return None

    # ------------------------------------------------------------ values on their own
    def dump_value(self, name: str, value: object) -> bytes:
        """A value that the environment keeps; SerializationError names what in it cannot be kept."""
        data, reason = self.portable(name, value)
        if reason:
            raise SerializationError(reason)
        return data

    def load_value(self, data: bytes) -> object:
        value, = serializers.load(data, self.references.resolve)
        return value

    def portable(self, name: str, value: object) -> tuple[bytes, str]:
        """(bytes, '') or (b'', why not)."""
        dump = self.context.attempt((name,), {name: value})
        if dump is not None:
            return dump.data, ''
        culprits = self.context.culprits(name, value)
        return b'', '; '.join(f'{culprit.path} → {culprit.type}' for culprit in culprits)

    @staticmethod
    def literal(value: object) -> str | None:
        """The source text of a plain value, which needs no trust to be read; None for any other."""
        try:
            text = repr(value)
            return text if len(text) < LITERAL and same(ast.literal_eval(text), value) else None
        except Exception:
            return None

    # ------------------------------------------------------------ after the cell
    def save(self, request: wire.Request, error: BaseException | None) -> list[bytes]:
        """Variables and environment into the transaction; after an error the user's changes of the database are dropped first.

        The report on it is a message, if there is anything to say.
        """
        for hook in self.hooks:
            delattr(builtins, hook)
        self.notebook._p_jar.explicit_transactions = True  # no poll after our own commit
        if error is not None:
            self.manager.abort()
            self.manager.begin()
        self.references.provide(self.setups.provided)
        saved = self.context.save(self.mine(), self.count, functools.partial(self.suggest, request.python_expression))
        if self.setups.changed:
            self.notebook.environment = tuple(setup.as_record() for setup in self.setups.stored())
        warning = self.setups.warning()
        message = wire.context(saved.saved, saved.deleted, [lost.as_message() for lost in saved.not_saved],
                               [warning] if warning else [], self.serializer)
        return [wire.encode(message)]

    def mine(self) -> dict[str, object]:
        """The user's variables: not what the shell, the node or the environment has put there, if it is still that."""
        provided = self.setups.provided
        return {name: value for name, value in self.namespace.items()
                if name not in RESERVED
                and not (name in provided and provided[name] is value)
                and not (name in self.injected and self.injected[name] is value)}

    def suggest(self, source: str, name: str) -> str:
        """What to write instead of the assignment of a variable that cannot be saved."""
        return report.suggest(name, source, self.import_statement, set(self.setups.provided))

    def import_statement(self, name: str) -> str | None:
        value = self.namespace.get(name)
        if not isinstance(value, types.ModuleType):
            return None
        return f'import {value.__name__}' if value.__name__ == name else f'import {value.__name__} as {name}'

    def commit(self, request: wire.Request, shown: bytes, ename: str, evalue: str) -> tuple[str, str] | None:
        """Commit with the history line; (ename, evalue) if the database refused: the cell has run and is not run again."""
        notebook = self.notebook
        notebook.add_line(request, status='error' if ename else 'ok', ename=ename, evalue=evalue, shown=shown)
        notebook.take(request.next_request_id, self.node, 'next' if request.next_request_id else '')
        try:
            self.manager.commit()
        except Exception as error:
            self.manager.abort()
            return type(error).__name__, f'{error}: the cell ran, but the database refused its changes; nothing of it was saved'
        return None


def deleted_names(tree: ast.Module) -> set[str]:
    """Names in `del` statements."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Del)}


def same(one: object, other: object) -> bool:
    """Equal, and of the same exact types all the way down (1 is not True, a namedtuple is not a tuple)."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one.items(), other.items(), strict=True))
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


# ---------------------------------------------------------------- the executor's side
class Notebooks:
    """The notebooks of a site, seen from an executor: opens the database in the process that uses it."""

    def __init__(self, open_connection: Callable[[Any], Any], node: str) -> None:
        self.manager = transaction.manager  # the one that `import transaction` in a cell means
        self.connection = open_connection(self.manager)
        self.connection.explicit_transactions = True  # no poll after a commit: an idle executor holds no snapshot
        self.node = node
        self.application = self.connection.root()['Application']

    @contextlib.contextmanager
    def open(self, request: wire.Request, lost: Mapping[str, str]) -> Iterator[OpenNotebook]:
        """One transaction, from a claim on the request to `commit`. `outcome` is set if the request may not be run any more."""
        try:
            notebook, outcome = self.claimed(request, lost)
            opened = OpenNotebook(notebook, self.portal(request.user), self.manager, self.node)
            opened.outcome = outcome
            self.connection.explicit_transactions = False  # a `transaction.commit()` of the cell's own must poll
            yield opened
        finally:
            self.connection.explicit_transactions = True
            if self.manager.manager._txn is not None:
                self.manager.abort()
            noSecurityManager()

    def portal(self, user: str) -> Any:
        """The portal as a request of this user would see it."""
        application = makerequest(self.application, environ={'SERVER_NAME': 'localhost'})
        newSecurityManager(None, application.acl_users.getUserById(user).__of__(application.acl_users))
        return application.erp5

    def claimed(self, request: wire.Request, lost: Mapping[str, str]) -> tuple[DataNotebook, DataNotebookLine | None]:
        """The notebook, in a fresh transaction, once it is on record that this node may begin the request; or its outcome."""
        for _attempt in range(20):
            self.manager.begin()
            module = self.application.erp5.data_notebook_module
            notebook = module.open_notebook(request)
            if notebook.claimed_for(request.request_id, self.node) and not lost:
                return notebook, None
            outcome = notebook.outcome(request.request_id)
            if outcome is None:
                outcome = self.take(notebook, request, lost)
            try:
                self.manager.commit()
            except TransientError:  # somebody claimed at the same moment: look again. Nothing has run yet.
                self.manager.abort()
            else:
                self.manager.begin()
                return notebook, outcome
        raise TransientError(f'the claim of {request.request_id}')

    def take(self, notebook: DataNotebook, request: wire.Request, lost: Mapping[str, str]) -> DataNotebookLine | None:
        """Claim the request; first the history gets the cells whose process has gone, which may be this very one."""
        causes = dict(lost)
        if notebook.claim.state == 'running':
            causes.setdefault(notebook.claim.request_id, 'node gone')
        for request_id, cause in causes.items():
            if request_id not in notebook.requests:
                notebook.add_lost(request_id, cause)
        outcome = notebook.outcome(request.request_id)
        if outcome is None:
            notebook.take(request.request_id, self.node, 'running')
        return outcome
