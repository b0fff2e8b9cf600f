"""The file of an exported notebook (see `archive`) into a notebook of this or another database. Nothing is unpickled.

    Source ─► properties, pieces, records of the variables, history, setups ─► one transaction ─► the notebook, or nothing of it
                          └─ savepoints: what has been made leaves the memory

The objects are made anew. In a storage without blobs, pieces are cut to the length that records have there.
"""

import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3
from DateTime import DateTime
from persistent import Persistent
from transaction.interfaces import TransientError

from ..errors import ArchiveError, NodeError
from . import users
from .archive import Source, entry, refused
from .chunks import LONGEST_RECORD, Buffers, Draft, StoredBuffer, length_of, require, spans
from .document import Document
from .exporting import DATES, Transferred, plain_fields
from .notebook import DataNotebook, DataNotebookLine
from .storage import application_in, opened
from .stored import Group, Root, StoredContext, is_variable

ATTEMPTS = 5
WEIGHT = 32 << 20  # bytes of records that wait in memory for a savepoint
OBJECT = 1000  # bytes that an object takes besides, about
SETUP = {'alias': str, 'kind': str, 'name': str, 'source': str, 'cell': int, 'line': int, 'flags': int, 'names': list}


def import_notebook(database: Any, path: Path, reference: str = '', owner: str = '') -> Transferred:
    """Make the notebook of a file, by another reference or for another owner if they are given.

    ArchiveError if the file is not whole, or there is a notebook with this reference: then nothing has been changed.
    """
    with refused(path), Source(path) as source:
        for _ in range(ATTEMPTS):
            with suppress(TransientError), opened(database) as root:  # notebooks are made at the same moment
                return Import(application_in(root), source, reference, owner).run()
            time.sleep(.1)
    raise NodeError('the notebook could not be imported: other processes keep changing the same records. Try again')


class Parts(NamedTuple):
    """What a piece of the file has become here."""

    size: int
    digests: tuple[bytes, ...]
    pieces: tuple[Persistent, ...]


class Import:
    def __init__(self, application: Any, source: Source, reference: str, owner: str) -> None:
        self.application, self.source, self.manager = application, source, application._p_jar.transaction_manager
        self.properties = entry(source.manifest, 'notebook', dict)
        self.reference = reference or entry(self.properties, 'reference', str)
        self.owner = owner
        self.weight = self.size = 0  # bytes: of records that wait for a savepoint, of variables
        self.waiting: list[Persistent] = []
        self.parts: dict[bytes, Parts] = {}  # digest in the file -> here
        self.pieces: dict[bytes, Persistent] = {}  # digest here -> piece
        self.users: Counter[bytes] = Counter()  # digest here -> how often it is used

    def run(self) -> Transferred:
        notebook = self.new_notebook()
        self.savepoint()
        self.stored: StoredContext = notebook.stored
        self.buffers = Buffers(self.stored.chunks)
        self.take_pieces()
        self.take_groups()
        self.take_context(entry(self.source.manifest, 'context', dict))
        self.take_lines(notebook)
        notebook.environment = tuple(self.setups())
        notebook.reindexObject()
        known = not notebook.owner or self.application.acl_users.getUserById(notebook.owner) is not None
        return Transferred(self.reference, len(notebook.lines), sum(map(is_variable, self.stored.groups.keys())), self.size,
                           notebook.owner, known)

    def new_notebook(self) -> DataNotebook:
        """With an id that no other process makes at the same moment."""
        module = self.application.erp5.data_notebook_module
        if module.references.has_key(self.reference):
            raise ArchiveError(f'there is a notebook {self.reference!r} already: name another reference by --reference')
        made = DataNotebook(uuid.uuid4().hex)
        set_properties(made, {**self.properties, 'reference': self.reference, **({'owner': self.owner} if self.owner else {})})
        module._setObject(made.id, made)
        module.references[self.reference] = made.id
        notebook: DataNotebook = module._getOb(made.id)
        for name in entry(self.source.manifest, 'shares', list):
            users.set_roles(notebook, text(name), [users.ASSIGNEE])
        return notebook

    def savepoint(self) -> None:
        """What has been made so far leaves the memory."""
        self.manager.savepoint(optimistic=True)
        for record in self.waiting:
            record._p_deactivate()
        self.application._p_jar.cacheGC()
        self.weight = 0
        self.waiting.clear()

    def weigh(self, record: Persistent, size: int) -> None:
        self.weight += size + OBJECT
        self.waiting.append(record)
        if self.weight > WEIGHT:
            self.savepoint()

    # ------------------------------------------------------------ large buffers
    def take_pieces(self) -> None:
        require(self.source.size, self.buffers.directory)
        for digest, data in self.source.pieces():
            parts = [data[part] for part in spans(len(data), len(data) if self.buffers.directory else LONGEST_RECORD)]
            digests = tuple(blake3(part).digest() for part in parts)
            self.size += len(data)
            self.parts[digest] = Parts(len(data), digests, tuple(map(self.piece, digests, parts)))

    def piece(self, digest: bytes, data: bytes) -> Persistent:
        if digest not in self.pieces:
            draft = Draft([memoryview(data)], self.buffers.directory)
            connection = self.application._p_jar
            if draft.path:
                draft.keep(connection)
            else:
                connection.add(draft.piece)
                self.weigh(draft.piece, len(data))
            self.pieces[digest] = draft.piece
        return self.pieces[digest]

    def buffer(self, told: Any) -> StoredBuffer:
        size, digests = told
        parts = [self.parts[bytes.fromhex(digest)] for digest in digests]
        expected = [part.stop - part.start for part in spans(size, length_of(size, len(parts)))]
        if [part.size for part in parts] != expected:
            raise ValueError(f'a buffer of {size} bytes has other pieces')
        buffer = StoredBuffer(size, *(tuple(chain.from_iterable(kind)) for kind in ([part.digests for part in parts],
                                                                                    [part.pieces for part in parts])))
        self.users.update(buffer.digests)
        return buffer

    # ------------------------------------------------------------ records
    def take_groups(self) -> None:
        for record, data in self.source.records('groups'):
            group = Group()
            body = record['body']
            group.change(roots=tuple(roots(record, 'roots')), data=data, body=None if body is None else self.buffer(body),
                         buffers=tuple(map(self.buffer, record['buffers'])), blocks=tuple(map(self.buffer, record['blocks'])),
                         uses=tuple(map(definition, entry(record, 'uses', list))), types=entry(record, 'types', dict),
                         cell=entry(record, 'cell', int), modified=entry(record, 'modified', float))
            for root in roots(record, 'live'):
                if root not in group.roots or self.stored.group_of(root) is not None:
                    raise ValueError(f'{root!r} is in two records, or in none')
                self.stored.give(root, group)
            self.size += len(data)
            self.weigh(group, len(data))
        if self.users.keys() != self.pieces.keys():
            raise ValueError('it has pieces that no variable needs')
        self.stored.chunks.index.update({digest: (piece, self.users[digest]) for digest, piece in self.pieces.items()})

    def take_context(self, told: Mapping[str, Any]) -> None:
        stored = self.stored
        last = tuple(entry(told, 'last', list))
        if len(last) != len(stored.last) or not all(slot is None or stored.groups.has_key(slot) for slot in last):
            raise ValueError('its last values are not there')
        values = {'last': last, 'shadows': frozenset(map(text, entry(told, 'shadows', list))), 'loose': entry(told, 'loose', int),
                  'swept': entry(told, 'swept', int)}
        for name, value in values.items():
            if getattr(stored, name) != value:
                setattr(stored, name, value)
        for name, reason, code in entry(told, 'lost', list):
            stored.lost[text(name)] = text(reason), text(code)

    def take_lines(self, notebook: DataNotebook) -> None:
        for record, data in self.source.records('history'):
            count = entry(record, 'count', int)
            if count < notebook.next_count():
                raise ValueError(f'line {count} does not follow the one before')
            line = DataNotebookLine.__new__(DataNotebookLine)
            shown = {'shown': data} if data else {}
            told = {name: value for name, value in record.items() if name not in ('count', 'bytes')}
            set_properties(line, {'id': str(count), **told, **shown})
            notebook.lines[count] = line
            if line.request_id:
                notebook.requests[line.request_id] = count
            self.weigh(line, len(data) + len(line.notebook_code))

    def setups(self) -> Iterator[dict[str, Any]]:
        for record, data in self.source.records('environment'):
            setup: dict[str, Any] = {name: entry(record, name, kind) for name, kind in SETUP.items()}
            yield {**setup, 'names': tuple(map(text, setup['names'])), 'value': data}


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f'expected a text, got {type(value).__name__}')
    return value


def definition(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f'expected a number, got {type(value).__name__}')
    return value


def roots(record: Mapping[str, Any], name: str) -> list[Root]:
    return [root if isinstance(root, str) else definition(root) for root in entry(record, name, list)]


def set_properties(document: Document, properties: Mapping[str, Any]) -> None:
    known = plain_fields(type(document))
    for name, value in properties.items():
        if name in DATES:
            value = date(entry(properties, name, list))
        if type(value) not in known.get(name, ()):
            raise ValueError(f'unexpected property {name} ({type(value).__name__})')
        setattr(document, name, value)


def date(state: list[Any]) -> DateTime:
    value = DateTime.__new__(DateTime)
    value.__setstate__(tuple(state))
    return value
