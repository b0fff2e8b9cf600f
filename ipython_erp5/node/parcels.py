"""Large buffers on their way between a client and a cell: pieces in the database that no variable needs yet, or any more.

    client ═ Body ═► receive(): cut, hash, files ─► one commit ─► Shipment ─► brought() ─► memory of the cell ─► its variables
    client ◄═ give() ◄════════════════════════════ Shipment ◄─ one commit ◄─ send() ◄──── memory of the cell

    root()[PARCELS]   Parcels   .index    OOBTree (id of the request, number) -> Shipment
                                .garbage  bytes that have ever gone out of it which no notebook had: see `packing`

A shipment is what one HTTP request brought, or what one cell sends. It keeps its pieces as a variable does, so that no pack takes
them: until the cell that they were for has ended, and otherwise for as long as KEPT says. Cells never write what is described here,
so that no cell is refused because of somebody's push.
"""

import contextlib
import functools
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from blake3 import blake3
from BTrees.OOBTree import OOBTree
from persistent import Persistent
from transaction.interfaces import TransientError
from ZODB.blob import Blob

from ..errors import NodeUnavailableError, SerializationError, StorageFullError, WireError
from .bodies import Body
from .chunks import LONGEST, LONGEST_RECORD, Buffers, Draft, StoredBuffer, blob_directory, length_for, length_of, refusal, require, spans
from .storage import opened

PARCELS = 'ipython_erp5_parcels'
BROUGHT, SENT = 'brought', 'sent'
KEPT = {BROUGHT: 24 * 3600.0, SENT: 3600.0}  # seconds
BLOCK = 1 << 20  # bytes that are read at once
LONGEST_HEAD = 1 << 20  # bytes of what says what follows
MOST = 1 << 46  # bytes of one buffer
Send = Callable[[int, int, int], None]  # file descriptor, offset, size


class Span(NamedTuple):
    """A part of a buffer: `size` is that of all of it, and `start` and `stop` are multiples of the length of its pieces, or its end."""

    number: int
    size: int
    start: int
    stop: int


class Shipment(Persistent):
    """`parts`: for each span its pieces, in order; their digests. `direction`: BROUGHT or SENT."""

    def __init__(self, direction: str, reference: str, user: str, parts: Sequence[tuple[Span, tuple[bytes, ...], tuple[Persistent, ...]]]
                 ) -> None:
        self.direction, self.reference, self.user, self.parts = direction, reference, user, tuple(parts)
        self.created = time.time()


class Parcels(Persistent):
    garbage = 0

    def __init__(self) -> None:
        self.index = OOBTree()

    def of(self, request_id: str, direction: str, reference: str, user: str) -> Iterator[Shipment]:
        """Those of one request, if they are of this user and notebook."""
        for shipment in self.index.values((request_id, -1), (request_id, MOST)):
            if (shipment.direction, shipment.reference, shipment.user) == (direction, reference, user):
                yield shipment

    def drop(self, address: 'Address', notebook: Any) -> None:
        """What a client has brought for a request of which the rest has no room."""
        for number, shipment in list(self.index.items((address.request_id, -1), (address.request_id, MOST))):
            if (shipment.direction, shipment.reference, shipment.user) == (BROUGHT, address.reference, address.user):
                self.garbage += unknown(shipment, notebook)
                del self.index[number]

    def sweep(self, notebook_of: Callable[[str], Any]) -> None:
        """Forget what nobody comes for any more."""
        for key, shipment in list(self.index.items()):
            notebook = notebook_of(shipment.reference)
            arrived = shipment.direction == BROUGHT and notebook is not None and notebook.requests.has_key(key[0])
            if arrived or abs(time.time() - shipment.created) > KEPT[shipment.direction]:
                self.garbage += unknown(shipment, notebook)
                del self.index[key]


def parcels_in(root: Any) -> Parcels:
    """Those of a database; made if there are none."""
    if PARCELS not in root:
        root[PARCELS] = Parcels()
    return root[PARCELS]


def unknown(shipment: Shipment, notebook: Any) -> int:
    """Bytes of pieces that the notebook does not have."""
    known = notebook.stored.chunks.index if notebook is not None else {}
    return sum(part.stop - part.start for span, digests, _ in shipment.parts
               for digest, part in zip(digests, pieces_of(span), strict=True) if digest not in known)


def pieces_of(span: Span, longest: int = 0) -> list[slice]:
    """Where in its buffer the pieces of a span begin and end; `longest`: of a piece, as the storage has it."""
    length = length_for(span.size, longest or LONGEST)
    return [slice(span.start + part.start, span.start + part.stop) for part in spans(span.stop - span.start, length)]


def module_in(root: Any) -> Any:
    return root['Application'].erp5.data_notebook_module


# ---------------------------------------------------------------- from the client
@dataclass(frozen=True)
class Address:
    """For which request, and who sends: as the publisher has found it."""

    request_id: str
    number: int  # of the shipment
    reference: str
    user: str


class Depot:
    """The shipments of one database, as the publisher of one node handles them."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self.directory = blob_directory(database.storage)
        self.longest = LONGEST if self.directory else LONGEST_RECORD
        self.committing = threading.Lock()  # two connections of one client would conflict

    def received(self, body: Body, address: Address, head: int) -> dict[str, str]:
        """The answer to the client: the HTTP status has been sent before the body is read."""
        try:
            self.receive(body, address, head)
        except (WireError, StorageFullError, NodeUnavailableError) as error:
            return {'error': str(error), 'ename': type(error).__name__}
        return {'status': 'ok'}

    def receive(self, body: Body, address: Address, head: int) -> None:
        """Store what a body brings: a list of spans as JSON, which is `head` bytes long, and then their bytes.

        WireError if it is none of that, StorageFullError, NodeUnavailableError if it is to be sent again.
        """
        drafts: dict[bytes, Draft] = {}
        try:
            todo = read_head(body, head)
            require(sum(span.stop - span.start for span in todo), self.directory)
            parts = [(span, self.store(body, span, drafts)) for span in todo]
            self.commit(address, parts, drafts)
        except StorageFullError:
            self.give_up(address)
            raise
        finally:
            for draft in drafts.values():
                draft.discard()

    def give_up(self, address: Address) -> None:
        """So that the next pack has what came before; there may be no room even to say so, or a conflict: then a day ends it."""
        with contextlib.suppress(Exception), self.committing, opened(self.database) as root:
            parcels_in(root).drop(address, module_in(root).find(address.reference))

    def store(self, body: Body, span: Span, drafts: dict[bytes, Draft]) -> tuple[bytes, ...]:
        """The digests of a span, of which the bytes come now."""
        digests = []
        for part in pieces_of(span, self.longest):
            digest, draft = self.draft(body, part.stop - part.start)
            if digest in drafts:
                draft.discard()
            drafts.setdefault(digest, draft)
            digests.append(digest)
        return tuple(digests)

    def draft(self, body: Body, size: int) -> tuple[bytes, Draft]:
        hasher, block = blake3(), memoryview(bytearray(min(size, BLOCK)))

        def come() -> Iterator[memoryview]:
            for part in spans(size, BLOCK):
                view = block[:part.stop - part.start]
                body.fill(view)
                hasher.update(view)
                yield view

        try:
            draft = Draft(come(), self.directory)
        except OSError as error:
            raise refusal(error, size, self.directory) from None
        return hasher.digest(), draft

    def commit(self, address: Address, arrived: list[tuple[Span, tuple[bytes, ...]]], drafts: dict[bytes, Draft]) -> None:
        try:
            with self.committing, opened(self.database) as root:
                module, parcels = module_in(root), parcels_in(root)
                parcels.sweep(module.find)
                notebook = module.find(address.reference)
                known = self.pieces(root, notebook.stored.chunks.index if notebook is not None else {}, drafts)
                parts = [(span, digests, tuple(known[digest] for digest in digests)) for span, digests in arrived]
                parcels.index[address.request_id, address.number] = Shipment(BROUGHT, address.reference, address.user, parts)
        except TransientError as error:
            raise NodeUnavailableError(f'another node wrote at the same moment: {error}') from None

    def pieces(self, root: Any, index: Mapping[bytes, Any], drafts: dict[bytes, Draft]) -> dict[bytes, Persistent]:
        """For each digest the piece that the notebook has, or else the one that has come."""
        pieces = {}
        for digest, draft in drafts.items():
            if (entry := index.get(digest)) is not None:
                pieces[digest] = entry[0]
            else:
                draft.keep(root._p_jar)
                pieces[digest] = draft.piece
        return pieces

    # ------------------------------------------------------------ to the client
    def give(self, plan: Sequence[tuple[bytes, int, int]], send: Send) -> Iterator[bytes]:
        """The bytes of what `planned` has found: sent from their files, or, where a piece is a record, as they are."""
        for oid, start, stop in plan:
            with opened(self.database) as root:
                piece = root._p_jar.get(oid)
                if not isinstance(piece, Blob):
                    yield piece.data[start:stop]
                    continue
                with piece.open() as file:
                    fd = os.dup(file.fileno())
            try:
                send(fd, start, stop - start)
            finally:
                os.close(fd)


@functools.cache
def depot(database: Any) -> Depot:
    """The one of a database in this process."""
    return Depot(database)


def planned(root: Any, address: Address, wanted: Iterable[Span]) -> list[tuple[bytes, int, int]]:
    """(oid of a piece, from, to) for the bytes of spans of what a cell has sent. LookupError if something is not there (any more)."""
    stored = stored_in(parcels_in(root).of(address.request_id, SENT, address.reference, address.user))
    plan = []
    for span in wanted:
        buffer = stored[span.number]
        parts = spans(buffer.size, length_of(buffer.size, len(buffer.pieces)))
        if span.size != buffer.size:
            raise LookupError('another size')
        plan += [(piece._p_oid, max(part.start, span.start) - part.start, min(part.stop, span.stop) - part.start)
                 for piece, part in zip(buffer.pieces, parts, strict=True) if part.start < span.stop and span.start < part.stop]
    return plan


def read_head(body: Body, size: int) -> list[Span]:
    if not 0 < size <= min(LONGEST_HEAD, body.left):
        raise WireError('expected the length of what says what follows')
    head = bytearray(size)
    body.fill(memoryview(head))
    found = spans_in(head)
    if sum(span.stop - span.start for span in found) != body.left:
        raise WireError(f'expected as many bytes as the spans have, got {body.left}')
    return found


def spans_in(text: bytes | bytearray | str) -> list[Span]:
    """Spans out of JSON; WireError if they are none that could be."""
    try:
        found = [Span(*(int(field) for field in item)) for item in json.loads(text)]
    except (ValueError, TypeError, RecursionError):
        raise WireError('expected a list of spans') from None
    for span in found:
        if not (0 <= span.number < MOST and 0 <= span.start < span.stop <= span.size < MOST and is_whole(span)):
            raise WireError(f'no span can be {tuple(span)}')
    return found


def is_whole(span: Span) -> bool:
    """Whether it begins and ends where pieces do, whatever their length in a storage."""
    return span.start % LONGEST == 0 and (span.stop % LONGEST == 0 or span.stop == span.size)


def stored_in(shipments: Iterable[Shipment]) -> dict[int, StoredBuffer]:
    """The buffers in shipments by their numbers; those of which something is missing are not among them."""
    found: dict[int, dict[int, Any]] = {}
    for shipment in shipments:
        for part in shipment.parts:
            found.setdefault(part[0].number, {})[part[0].start] = part
    return {number: joined for number, parts in found.items() if (joined := join([parts[start] for start in sorted(parts)])) is not None}


def join(parts: list[Any]) -> StoredBuffer | None:
    end, size = 0, parts[0][0].size
    for span, _, _ in parts:
        if span.start != end or span.size != size:
            return None
        end = span.stop
    if end != size:
        return None
    return StoredBuffer(size, tuple(digest for _, digests, _ in parts for digest in digests),
                        tuple(piece for _, _, pieces in parts for piece in pieces))


# ---------------------------------------------------------------- in an executor
def brought(root: Any, request_id: str, reference: str, user: str, sizes: Sequence[int]) -> list[StoredBuffer]:
    """What the client has sent for a cell. SerializationError if it is not all there."""
    shipments = parcels_in(root).of(request_id, BROUGHT, reference, user) if sizes else ()
    stored = stored_in(shipments)
    if [stored[number].size if number in stored else -1 for number in range(len(sizes))] != list(sizes):
        raise SerializationError('the values that were pushed are not there (any more): nothing was run, push them again')
    return [stored[number] for number in range(len(sizes))]


def send(manager: Any, root: Any, buffers: Buffers, address: Address, views: Sequence[memoryview]) -> None:
    """Keep memory of a cell for the client that comes for it, in a transaction of its own. StorageFullError, TransientError."""
    for attempt in range(4, -1, -1):
        try:
            manager.begin()
            parcels = parcels_in(root)
            parcels.sweep(module_in(root).find)
            parts = []
            for number, view in enumerate(views):
                stored = buffers.keep(view)
                parts.append((Span(number, stored.size, 0, stored.size), stored.digests, stored.pieces))
            parcels.index[address.request_id, address.number] = Shipment(SENT, address.reference, address.user, parts)
            manager.commit()
            return
        except BaseException as error:
            manager.abort()
            if not isinstance(error, TransientError) or not attempt:
                raise


def sweep(root: Any) -> None:
    """Before a pack: forget what nobody comes for any more."""
    if PARCELS in root and 'Application' in root:
        root[PARCELS].sweep(module_in(root).find)


def garbage(root: Any) -> int:
    return root[PARCELS].garbage if PARCELS in root else 0
