"""A notebook in an executor process, for the time of one cell: one transaction.

    Notebooks.open() ─► claim the request_id ─► commit ─► OpenNotebook.prepare() ─► the cell ─► save() ─► commit() with the history
                                                          setups, variables                              line and the next claim

The namespace is a new `__main__` module for every cell: what one process knows from an earlier cell, no other could know.
"""

import ast
import builtins
import contextlib
import functools
import inspect
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import transaction
from AccessControl.SecurityManagement import newSecurityManager, noSecurityManager
from Testing.makerequest import makerequest
from transaction.interfaces import TransientError

from .. import environment, report, serializers, setups, wire
from ..errors import NodeError, SerializationError
from .audit import watch
from .claims import Held, Known, DatabaseAway
from .context import Context
from .namespace import Namespace
from .notebook import DataNotebook, DataNotebookLine
from .references import References
from .saving import save
from .source import cell_filename
from .storage import AWAY, is_away, takes_nothing

# `__warningregistry__`: which warnings have been shown of which line; the lines of the next cell are others
RESERVED = frozenset({'__builtins__', '__builtin__', '__name__', '__doc__', '__package__', '__loader__', '__spec__', '__warningregistry__'})
LITERAL = 1 << 20  # characters of a value that travels as its source text


class OpenNotebook:
    """One notebook for the time of one cell: its namespace, its environment, its variables."""

    outcome: DataNotebookLine | None = None

    def __init__(self, notebook: DataNotebook, portal: Any, manager: Any, node: str, limit: int) -> None:
        self.notebook, self.portal, self.manager, self.node, self.limit = notebook, portal, manager, node, limit
        self.count = notebook.next_count()
        self.names = Namespace()
        self.module, self.namespace = self.names.module, self.names.dict
        self.setups = setups.Setups([environment.Setup.from_record(record) for record in notebook.environment], self.namespace,
                                    dump=self.dump_value, load=self.load_value, filename=cell_filename, need=self.need,
                                    source_of=self.written)
        self.injected = {'environment': setups.Environment(self.setups), 'context': portal}
        self.references = References(self.module, portal.getPhysicalRoot(), self.injected)
        self.references.provide(self.setups.provided)
        self.context = Context(notebook.stored, self.references, serializers.get(notebook.serializer), self.names, self.count)
        self.namespace.update(self.injected)
        self.prepared = 0
        self.hooks: list[str] = []
        self.arrive: Callable[[], None] = lambda: None  # brings in what was sent with the cell

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
        """The environment's pass over the cell, then its setups, then its variables. Again for what a `%%time` in it runs."""
        first = not self.prepared
        self.prepared += 1
        hook = f'__erp5_imported_{self.count}_{self.prepared}__'
        processed = environment.process(tree, source if first else '', self.count, hook=hook, known=self.known_function,
                                        shadowed=self.context.has('environment'), flags=self.setups.flags)
        setattr(builtins, hook, functools.partial(self.setups.imported, processed))
        self.hooks.append(hook)
        self.setups.begin(processed)
        if first:
            self.setups.run(processed.management_only)
            self.references.provide(self.setups.provided)
            self.context.begin(self.namespace.keys() - RESERVED)
            self.arrive()
        self.names.trees.append(processed.tree)
        return processed.tree

    def need(self, names: set[str]) -> None:
        self.references.provide(self.setups.provided)
        for name in names:
            self.context.fetch(name)

    def known_function(self, name: str) -> bool:
        """Whether an earlier cell, or a setup, has left a function of this name."""
        if any(setup.kind == 'function' and setup.name == name for setup in self.setups.stored()):
            return True
        self.need({name})
        function = self.namespace.get(name)
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
        data = self.context.dump_alone(value)
        if data is not None:
            return data, ''
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
    def save(self, request: wire.Request, error: BaseException | None) -> wire.Message:
        """Variables and environment into the transaction; after an error the user's changes of the database are dropped first.

        What was saved, and what was not, is the message.
        """
        for hook in self.hooks:
            delattr(builtins, hook)
        self.notebook._p_jar.explicit_transactions = True  # no poll after our own commit
        if error is not None:
            self.manager.abort()
            self.manager.begin()
        self.names.lend_no_more()
        self.references.provide(self.setups.provided)
        saved = save(self.context, self.mine(), self.count, functools.partial(self.suggest, request.python_expression), self.limit)
        changed = self.setups.changed
        if changed:
            self.notebook.environment = tuple(setup.as_record() for setup in self.setups.stored())
        warning = self.setups.warning()
        return wire.context(saved.saved, saved.deleted, [lost.as_message() for lost in saved.not_saved],
                            [warning] if warning else [], self.serializer, self.setups.provided if changed else None)

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

    def commit(self, request: wire.Request, shown: bytes, ename: str, evalue: str) -> Exception | None:
        """Commit with the history line, or what the database said: the cell has run and is not run again."""
        notebook = self.notebook
        notebook.add_line(request, status='error' if ename else 'ok', ename=ename, evalue=evalue, shown=shown)
        notebook.take(request.next_request_id, self.node, 'next' if request.next_request_id else '')
        try:
            self.manager.commit()
        except Exception as error:
            self.manager.abort()
            return error
        return None

    def settle(self, request: wire.Request, error: Exception, shown: bytes) -> tuple[str, str] | None:
        """After a commit that failed: (ename, evalue), which the history has then; None if it has been done all the same.

        A database that goes away during a commit does not say which. To write the outcome conflicts with a commit that is still on its
        way, so that one of the two is what everybody finds.
        """
        ename = type(error).__name__
        evalue = f'{error}: the cell ran, but the database refused its changes; nothing of it was saved'
        end = time.monotonic() + AWAY
        while True:
            try:
                self.manager.begin()
                line = self.notebook.settle(request, ename, evalue, shown + wire.encode(wire.error(ename, evalue, [f'{ename}: {evalue}'])))
                self.manager.commit()
                return None if line.committed else (line.ename, line.evalue)
            except Exception as again:
                self.manager.abort()
                if time.monotonic() > end or not is_away(again) and not isinstance(again, TransientError):
                    known = f'and whether its changes were saved is not known: {type(again).__name__}: {again}'
                    return ename, f'{error}: the cell ran, {known}' if is_away(error) else evalue
                time.sleep(.1 if is_away(again) else 0)


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
    """The notebooks of a site, seen from an executor: opens the database in the process that uses it.

    `limit`: bytes that a variable may have; 0 if any number.
    """

    def __init__(self, open_connection: Callable[[Any], Any], node: str, limit: int = 0) -> None:
        self.manager = transaction.manager  # the one that `import transaction` in a cell means
        self.connection = open_connection(self.manager)
        self.connection.explicit_transactions = True  # no poll after a commit: an idle executor holds no snapshot
        self.node, self.limit = node, limit or sys.maxsize
        self.application = self.connection.root()['Application']

    @contextlib.contextmanager
    def open(self, request: wire.Request, known: Known) -> Iterator[OpenNotebook]:
        """One transaction, from a claim on the request to `commit`. `outcome` is set if the request may not be run any more."""
        opened = None
        try:
            notebook, outcome = self.claimed(request, known)
            opened = self.opened(notebook, request)
            opened.outcome = outcome
            self.connection.explicit_transactions = False  # a `transaction.commit()` of the cell's own must poll
            watch.over(opened.names)
            yield opened
        finally:
            watch.over(None)
            if opened is not None:
                opened.names.close()
            self.connection.explicit_transactions = True
            if self.manager.manager._txn is not None:
                self.manager.abort()
            noSecurityManager()

    def opened(self, notebook: DataNotebook, request: wire.Request) -> OpenNotebook:
        try:
            return OpenNotebook(notebook, self.portal(request.user), self.manager, self.node, self.limit)
        except Exception as error:
            if not is_away(error):
                raise
            raise DatabaseAway.because(error) from None

    def portal(self, user: str) -> Any:
        """The portal as a request of this user would see it."""
        application = makerequest(self.application, environ={'SERVER_NAME': 'localhost'})
        newSecurityManager(None, application.acl_users.getUserById(user).__of__(application.acl_users))
        return application.erp5

    def claimed(self, request: wire.Request, known: Known) -> tuple[DataNotebook, DataNotebookLine | None]:
        """The notebook, in a fresh transaction, once it is on record that this node may begin the request; or its outcome.

        Held if another node may be running a cell of this notebook; NodeError if the database cannot be written. Nothing has run yet, so
        that one which is away for a moment is waited for.
        """
        end = time.monotonic() + AWAY
        while True:
            try:
                self.manager.begin()
                notebook = self.application.erp5.data_notebook_module.open_notebook(request)
                if not known.lost and request.request_id not in known.released and notebook.claimed_for(request.request_id, self.node):
                    return notebook, None
                outcome = self.take(notebook, request, known)
                self.manager.commit()
                self.manager.begin()
                return notebook, outcome
            except Exception as error:  # a conflict: somebody claimed at the same moment. ZEO's being away is one, too
                self.manager.abort()
                if takes_nothing(error):
                    raise NodeError(f'{error}: the database cannot be written, and nothing was run. Its disk needs room, and has to be '
                                    'writable') from None
                if not is_away(error) and not isinstance(error, TransientError):
                    raise
                if time.monotonic() > end:
                    raise DatabaseAway.because(error) from None
                time.sleep(.1 if is_away(error) else 0)

    def take(self, notebook: DataNotebook, request: wire.Request, known: Known) -> DataNotebookLine | None:
        """Claim the request, unless it has an outcome. Before that the history gets the cells that are lost, which may be this very one."""
        fresh_for = '' if request.request_id in known.lost else self.node
        outcome = notebook.outcome(request.request_id, fresh_for)
        claimed = notebook.claimed_by_another(self.node, known)
        if claimed is not None:
            if outcome is None:
                raise Held(claimed)
            return outcome
        for request_id, cause in notebook.lost(self.node, known).items():
            notebook.add_lost(request_id, cause, request if request_id == request.request_id else None)
        outcome = notebook.outcome(request.request_id, fresh_for)
        if outcome is None:
            notebook.take(request.request_id, self.node, 'running')
        return outcome
