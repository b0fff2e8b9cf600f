"""A notebook into a file (see `archive`): one state of the database, read and checked piece by piece; nothing is unpickled.

Not in the file: the claim (of a cell that runs just now), documents of the database (variables refer to them by path), ids of the
database.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from Acquisition import aq_base
from DateTime import DateTime
from persistent import Persistent
from ZODB.POSException import POSKeyError

from .. import amounts
from ..environment import Setup
from ..errors import ArchiveError, NodeError
from . import users
from .archive import Record, Writer, new_file
from .chunks import StoredBuffer
from .document import Document
from .integrity import Damaged, contents, missing, pieces_of
from .notebook import DataNotebook
from .storage import application_in, opened
from .stored import Group, Root, StoredContext, is_variable

ATTEMPTS = 3
RECORDS = ('id', 'lines', 'requests', 'claim', 'stored', 'environment')  # of a notebook, which are no properties
DATES = ('creation_date', 'modification_date')
GROUP = {'roots', 'data', 'body', 'buffers', 'blocks', 'uses', 'cell', 'modified', 'types'}
CONTEXT = {'groups', 'definitions', 'lost', 'chunks', 'last', 'shadows', 'loose', 'swept'}
SETUP = {'alias', 'kind', 'name', 'source', 'cell', 'line', 'flags', 'names', 'value'}


class Transferred(NamedTuple):
    """`size`: bytes of the variables, each large buffer once; `owner`: '' or a name."""

    reference: str
    lines: int
    variables: int
    size: int
    owner: str
    owner_known: bool = True

    def __str__(self) -> str:
        counts = amounts.count(self.lines, 'line'), amounts.count(self.variables, 'variable'), amounts.size(self.size)
        return f'{self.reference!r}: {", ".join(counts)}'


# ---------------------------------------------------------------- properties
def plain_fields(kind: type[Document]) -> dict[str, tuple[type, ...]]:
    """The properties that documents of a class may have, and their types."""
    fields: dict[str, tuple[type, ...]] = {'id': (str,), 'created': (float,), **dict.fromkeys(DATES, (DateTime,))}
    for name, default in {**vars(Document), **vars(kind)}.items():
        if not name.startswith('_') and name not in ('portal_type', 'meta_type') and type(default) in (str, bytes, bool, int, type(None)):
            fields[name] = (str, type(None)) if default is None else (type(default),)
    return fields


def properties_of(document: Document) -> dict[str, Any]:
    """What a document has that is no record of its own, for JSON. ArchiveError if something cannot be exported."""
    document = aq_base(document)
    document._p_activate()  # a ghost has no attributes to look at
    known, found = plain_fields(type(document)), {}
    for name, value in vars(document).items():
        if name.startswith('_') or name in RECORDS:
            continue
        if type(value) not in known.get(name, ()):
            raise ArchiveError(f'the {document.portal_type} {document.id} cannot be exported: its property {name} is a '
                               f'{type(value).__name__}. Set it to a text, or install the version of ipython_erp5 that has written it')
        found[name] = list(value.__getstate__()) if isinstance(value, DateTime) else value
    return found


# ---------------------------------------------------------------- export
def export_notebook(database: Any, reference: str, path: Path, force: bool = False) -> Transferred:
    """Write a file with all of a notebook. ArchiveError if it cannot be read, or the file is there; NodeError if there is none.

    A storage that keeps no old states may lose a part of the one that is read to a pack: then it begins again with a newer one.
    """
    reason = ''
    with new_file(path, force) as file:
        for _ in range(ATTEMPTS):
            try:
                with opened(database) as root, Writer(file) as writer:
                    return Export(notebook_of(application_in(root), reference), writer).run()
            except (Damaged, POSKeyError) as error:
                before, reason = reason, str(error) if isinstance(error, Damaged) else missing(error)
                if reason == before:
                    break
        raise ArchiveError(f'the notebook {reference!r} cannot be read: {reason}. `ipython-erp5 verify` says what is damaged')


def notebook_of(application: Any, reference: str) -> DataNotebook:
    module = application.erp5.data_notebook_module
    notebook: DataNotebook | None = module.find(reference)
    if notebook is None:
        names = sorted(module.references.keys())
        raise NodeError(f'no notebook has the reference {reference!r}; there are {", ".join(map(repr, names[:20])) or "none"}'
                        f'{" and others" if len(names) > 20 else ""}')
    return notebook


class Export:
    def __init__(self, notebook: DataNotebook, writer: Writer) -> None:
        self.notebook, self.writer = notebook, writer
        self.stored: StoredContext = notebook.stored
        self.pieces: dict[bytes, tuple[Persistent, int]] = {}
        self.size = 0

    def run(self) -> Transferred:
        notebook, stored = self.notebook, self.stored
        lines = self.writer.records('history', self.lines())
        self.writer.records('environment', (setup_record(setup) for setup in notebook.environment))
        self.writer.records('groups', self.groups())
        for digest, (piece, size) in self.pieces.items():
            self.writer.piece(digest, contents(piece, size, digest))
        context = {'last': stored.last, 'shadows': sorted(stored.shadows), 'loose': stored.loose, 'swept': stored.swept,
                   'lost': [[name, *why] for name, why in stored.lost.items()]}
        self.writer.finish({'notebook': properties_of(notebook), 'shares': users.shared_with(notebook), 'context': context})
        variables = sum(map(is_variable, stored.groups.keys()))
        return Transferred(str(notebook.reference), lines, variables, self.size, notebook.owner)

    def lines(self) -> Iterator[Record]:
        for count, line in self.notebook.lines.items():
            record = {'count': count, **properties_of(line)}
            yield record, record.pop('shown', b'')
            self.put_away(line)

    def groups(self) -> Iterator[Record]:
        check_known(self.stored, CONTEXT)
        found: dict[bytes, tuple[Group, list[Root]]] = {}
        for index in (self.stored.groups, self.stored.definitions):
            for root, group in index.items():
                found.setdefault(group._p_oid, (group, []))[1].append(root)
        for group, live in found.values():
            yield self.group(group, live), group.data
            self.put_away(group)

    def group(self, group: Group, live: list[Root]) -> dict[str, Any]:
        check_known(group, GROUP)
        if not set(live) <= set(group.roots):
            raise Damaged(f'the record of {live} does not have them')
        self.size += len(group.data)
        return {'roots': group.roots, 'live': live, 'uses': group.uses, 'types': dict(group.types), 'cell': group.cell,
                'modified': group.modified, 'body': None if group.body is None else self.buffer(group.body),
                'buffers': list(map(self.buffer, group.buffers)), 'blocks': list(map(self.buffer, group.blocks))}

    def buffer(self, buffer: StoredBuffer) -> list[Any]:
        for piece, size, digest in pieces_of(buffer):
            if digest not in self.pieces:
                self.pieces[digest] = piece, size
                self.size += size
        return [buffer.size, [digest.hex() for digest in buffer.digests]]

    def put_away(self, record: Persistent) -> None:
        record._p_deactivate()
        self.notebook._p_jar.cacheGC()


def setup_record(setup: Mapping[str, Any]) -> Record:
    if unknown := set(setup) - SETUP:
        raise ArchiveError(f'a newer ipython_erp5 has written the setup {setup["alias"]!r}: its {sorted(unknown)} cannot be exported here')
    record = Setup.from_record(setup).as_record()
    return record, record.pop('value')


def check_known(record: Persistent, known: set[str]) -> None:
    record._p_activate()
    if unknown := set(vars(record)) - known:
        raise ArchiveError(f'a newer ipython_erp5 has written this notebook: {", ".join(sorted(unknown))} cannot be exported here')
