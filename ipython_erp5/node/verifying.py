"""Whether all that the notebooks have in the database can be read, and agrees. Nothing is changed, and nothing is unpickled.

    database ─► look_at_site: references, catalog, documents ──────────────────┐
             ─► Look, one a notebook: history, requests, setups, variables,    ├─► Fault: record, what is wrong, what can be done
                definitions, last values, pieces of large buffers              │
             ─► `loading`, only if asked for: the notebook's code runs ────────┘

What is looked at is one state of the database for each notebook, while cells run. A storage that keeps no old states may have lost
a part of it meanwhile to a pack: so whatever is found is looked for again in a newer state, and counts if it is there too.
"""

import ast
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import transaction
from Acquisition import aq_base
from persistent import Persistent
from transaction.interfaces import TransientError
from ZODB.POSException import POSKeyError, StorageError

from .. import amounts, wire
from .chunks import StoredBuffer
from .document import Module
from .integrity import Damaged, Reader, bytes_of, check_pickles, contents, missing, pieces_of
from .storage import application_in
from .stored import Group, Root, is_variable

ASSIGN = 'Assign it again or delete it, or restore the database from a backup'
RESTORE = 'Restore the database from a backup, or import the last export of the notebook'
EXPORT = 'Export the notebook, and import it under another name'
SITE = 'the site'
OFTEN = 500  # records after which memory is given back


@dataclass(frozen=True)
class Fault:
    record: str
    wrong: str
    remedy: str

    def __str__(self) -> str:
        return f'{self.record}: {self.wrong}. {self.remedy}.'


@dataclass
class Verified:
    """A notebook, or the site. `size`: bytes of the variables, each large buffer once."""

    title: str
    records: int = 0
    lines: int = 0
    variables: int = 0
    size: int = 0
    faults: list[Fault] = field(default_factory=list)

    def __str__(self) -> str:
        state = amounts.count(len(self.faults), 'fault') if self.faults else 'ok'
        counts = [amounts.count(self.records, 'record')]
        if self.title != SITE:
            counts += [amounts.count(self.lines, 'line'), amounts.count(self.variables, 'variable'), amounts.size(self.size)]
        return '\n    '.join([f'{self.title}: {state} ({", ".join(counts)})', *map(str, self.faults)])


# ---------------------------------------------------------------- one notebook
class Look:
    """One state of a notebook."""

    def __init__(self, notebook: Any) -> None:
        self.notebook = notebook
        self.found = Verified('a notebook')
        self.verdicts: dict[tuple[bytes, bytes], str] = {}  # oid and digest of a piece -> what is wrong with it
        self.users: Counter[bytes] = Counter()  # digest -> how often it is used

    def run(self) -> Verified:
        with self.reading('the notebook', RESTORE):
            self.notebook._p_activate()
            self.found.title = repr(self.notebook.reference)
            self.notebook.claim._p_activate()
            self.history()
            self.environment()
        with self.reading('its variables', RESTORE):
            stored = self.notebook.stored
            stored._p_activate()
            stored.chunks._p_activate()
            self.variables(stored)
            self.pieces(stored.chunks.index)
        return self.found

    @contextmanager
    def reading(self, record: str, remedy: str) -> Iterator[None]:
        """What goes wrong with a record is a fault of it, but for a database that is away."""
        self.found.records += 1
        if not self.found.records % OFTEN:
            self.notebook._p_jar.cacheGC()
        try:
            yield
        except (StorageError, TransientError):
            raise
        except POSKeyError as error:
            self.fault(record, missing(error), remedy)
        except Damaged as error:
            self.fault(record, str(error), remedy)
        except Exception as error:  # of ZODB's pickles, of a tree
            self.fault(record, f'it cannot be read: {type(error).__name__}: {error}', remedy)

    def fault(self, record: str, wrong: str, remedy: str) -> None:
        self.found.faults.append(Fault(record, wrong, remedy))

    def entries(self, tree: Any, record: str) -> Iterator[tuple[Any, Any]]:
        """The items of a tree, as far as it can be read."""
        with self.reading(record, RESTORE):
            tree._check()
            for key, value in tree.items():
                if tree.get(key) is not value and tree.get(key) != value:
                    raise Damaged(f'the entry {key!r} is not found by its key')
                yield key, value

    # ------------------------------------------------------------ history
    def history(self) -> None:
        latest: dict[str, int] = {}  # request id -> its last line
        for count, line in self.entries(self.notebook.lines, 'the history'):
            self.found.lines += 1
            with self.reading(f'line {count} of the history', RESTORE):
                check_line(count, line)
                latest[line.request_id] = count
            line._p_deactivate()
        latest.pop('', None)
        requests = dict(self.entries(self.notebook.requests, 'the requests'))
        for request_id in sorted(requests.keys() | latest.keys()):
            if requests.get(request_id) != latest.get(request_id):
                self.fault(f'the request {request_id}', f'its last line in the history is {latest.get(request_id)}, the index of requests '
                           f'says {requests.get(request_id)}', RESTORE)

    def environment(self) -> None:
        for setup in self.notebook.environment:
            with self.reading(f'the setup {setup["alias"]!r}', 'Define it again, or undefine it'):
                if setup['kind'] == 'value':
                    check_pickles(io.BytesIO(setup['value']), len(setup['value']), 1)
                else:
                    ast.parse(setup['source'])

    # ------------------------------------------------------------ variables
    def variables(self, stored: Any) -> None:
        groups: dict[bytes, tuple[Any, list[Root]]] = {}
        for index, name in ((stored.groups, 'the names of the variables'), (stored.definitions, 'the numbers of the definitions')):
            for root, group in self.entries(index, name):
                groups.setdefault(group._p_oid, (group, []))[1].append(root)
        for group, roots in groups.values():
            for root in roots:
                self.found.variables += is_variable(root)
            with self.reading(title_of(roots), ASSIGN):
                self.group(group, roots, stored)
            group._p_deactivate()
        for slot in filter(None, stored.last):
            if not stored.groups.has_key(slot):
                self.fault('a last value (`_`)', 'it has no record', 'Nothing needs to be done')
        for name, _ in self.entries(stored.lost, 'the names of what was not saved'):
            if stored.groups.has_key(name):
                self.fault(f'variable {name}', 'it is both saved and not saved', ASSIGN)

    def group(self, group: Any, roots: list[Root], stored: Any) -> None:
        if not isinstance(group, Group):
            raise Damaged(f'its record is a {type(group).__name__}')
        self.found.size += len(group.data)
        for root in set(roots) - set(group.roots):
            self.fault(title_of([root]), f'the index gives it to the record of {", ".join(map(repr, group.roots))}', ASSIGN)
        if missing := [key for key in group.uses if not stored.definitions.has_key(key)]:
            self.fault(title_of(roots), f'{len(missing)} of the classes and functions that it needs are not there', ASSIGN)
        wrong = {text for buffer in group.stored_buffers() for text in self.buffer(buffer) if text}
        if wrong:
            raise Damaged('; '.join(sorted(wrong)))
        if group.body is None:
            check_pickles(io.BytesIO(group.data), len(group.data), len(group.roots), len(group.buffers))
        else:
            body = io.BufferedReader(Reader(bytes_of(piece) for piece in group.body.pieces))
            check_pickles(body, group.body.size, len(group.roots), len(group.buffers))

    def buffer(self, buffer: StoredBuffer) -> Iterator[str]:
        """What is wrong with each of its pieces."""
        self.users.update(buffer.digests)
        for piece, size, digest in pieces_of(buffer):
            if (piece._p_oid, digest) not in self.verdicts:
                self.found.records += 1
                self.found.size += size
                self.verdicts[piece._p_oid, digest] = verdict(piece, size, digest)
            yield self.verdicts[piece._p_oid, digest]

    def pieces(self, index: Any) -> None:
        """Whether the index knows how often each piece is used."""
        counted = {digest: users for digest, (_, users) in self.entries(index, 'the index of large buffers')}
        wrong = sum(counted.get(digest) != self.users.get(digest) for digest in counted.keys() | self.users.keys())
        if wrong:
            self.fault('the index of large buffers',
                       f'{amounts.count(wrong, "piece")} {"are" if wrong > 1 else "is"} used more or less often than it says', EXPORT)


def check_line(count: int, line: Any) -> None:
    if line.id != str(count):
        raise Damaged(f'it says that it is line {line.id}')
    for message in line.messages():
        wire.decode(message)


def verdict(piece: Persistent, size: int, digest: bytes) -> str:
    try:
        contents(piece, size, digest)
    except Damaged as error:
        return str(error)
    return ''


def title_of(roots: Iterable[Root]) -> str:
    """What to call a record of these."""
    names = sorted(str(root) for root in roots if is_variable(root))
    if names:
        return f'variable{"s" * (len(names) > 1)} {", ".join(names)}'
    return 'a last value (`_`)' if any(isinstance(root, str) for root in roots) else 'a class or function of the notebook'


# ---------------------------------------------------------------- the site
def look_at_site(application: Any) -> Verified:
    """Whether the site's lists of its notebooks and documents agree with what there is."""
    look = Look(application)
    look.found.title = SITE
    portal = application.erp5
    for reference, identifier in look.entries(portal.data_notebook_module.references, 'the references of the notebooks'):
        if not portal.data_notebook_module.has_key(identifier):
            look.fault(f'the reference {reference!r}', f'the notebook {identifier} that it stands for is not there', RESTORE)
    for module in (folder for folder in portal.objectValues() if isinstance(aq_base(folder), Module)):
        for identifier, _ in look.entries(module._tree, f'the documents of {module.getId()}'):
            with look.reading(f'{module.getId()}/{identifier}', RESTORE):
                check_document(module._getOb(identifier), portal)
    for path, _ in look.entries(portal.portal_catalog._catalog.uids, 'the catalog'):
        if application.unrestrictedTraverse(path, None) is None:
            look.fault('the catalog', f'{path} is not there', f'Run context.portal_catalog.uncatalog_object({path!r})')
    return look.found


def check_document(document: Any, portal: Any) -> None:
    document._p_activate()
    query = {'reference': document.reference} if document.portal_type == 'Data Notebook' else {}
    if query and portal.data_notebook_module.references.get(document.reference) != document.getId():
        raise Damaged(f'the reference {document.reference!r} does not stand for it')
    path = '/'.join(document.getPhysicalPath())
    catalog = portal.portal_catalog
    if catalog.getrid(path) is None or query and path not in [brain.getPath() for brain in catalog.searchResults(query)]:
        raise Damaged('the catalog does not have it as it is: run its reindexObject() in a cell')
    document._p_deactivate()


# ---------------------------------------------------------------- all of it
def verify(database: Any, load: Callable[[str], list[Fault]] | None = None) -> Iterator[Verified]:
    """The site, then each notebook. `load` loads the values of a notebook, by its id, and says what is wrong with them."""
    manager = transaction.TransactionManager(explicit=True)
    connection = database.open(manager)
    try:
        identifiers = notebook_ids(connection)
        yield twice(connection, look_at_site)
        for identifier in identifiers:
            found = twice(connection, lambda application: look_at(application, identifier))  # noqa: B023 - called at once
            if found is not None:
                found.faults += load(identifier) if load and not found.faults else ()
                yield found
    finally:
        connection.close()


def notebook_ids(connection: Any) -> list[str]:
    with connection.transaction_manager:
        return list(application_in(connection.root()).erp5.data_notebook_module._tree.keys())


def look_at(application: Any, identifier: str) -> Verified | None:
    """None for a notebook that has been deleted meanwhile."""
    notebook = application.erp5.data_notebook_module._tree.get(identifier)
    return None if notebook is None else Look(notebook).run()


Seen = TypeVar('Seen', Verified, Verified | None)


def twice(connection: Any, look: Callable[[Any], Seen]) -> Seen:
    """What a look at the newest state finds, and another at a newer one finds again."""
    first = fresh(connection, look)
    if first is None or not first.faults:
        return first
    second = fresh(connection, look)
    if second is not None:
        before = {fault.record for fault in first.faults}
        second.faults = [fault for fault in second.faults if fault.record in before]
    return second


def fresh(connection: Any, look: Callable[[Any], Seen]) -> Seen:
    manager = connection.transaction_manager
    manager.begin()
    try:
        return look(connection.root()['Application'])
    finally:
        manager.abort()
        connection.cacheMinimize()
