"""A notebook in the database.

    Data Notebook   .lines        IOBTree count -> Data Notebook Line   the history, written by the commit of the cell itself
                    .requests     OOBTree request_id -> count           what has been run; it is never run again
                    .claim        Claim                                 what may have begun; rewritten by every cell
                    .stored       StoredContext                         the variables (see `stored`)
                    .environment  tuple of records                      the setups in order of definition (see `setups`)

A claim says that a node may have begun a request. It is committed before any code of the cell runs. State 'next' is a claim that
travelled with the commit of the cell before, for the id that the client announced: that saves a commit.
"""

import time
from collections.abc import Mapping
from typing import Any, ClassVar

from AccessControl.class_init import InitializeClass
from BTrees.IOBTree import IOBTree
from BTrees.OOBTree import OOBTree
from DateTime import DateTime
from persistent import Persistent
from persistent.mapping import PersistentMapping

from .. import serializers, wire
from .claims import Claimed, Known
from .document import Document
from .stored import StoredContext


class Lines(IOBTree):
    """Count -> line. Every cell writes a leaf, and some the nodes above it: small ones are written faster."""

    max_leaf_size = max_internal_size = 16


class Requests(OOBTree):
    """Request id -> count of its line. The same, and a leaf anywhere: the ids are random."""

    max_leaf_size = max_internal_size = 16


class Claim(Persistent):
    request_id = node = state = ''

    def serial(self) -> str:
        """Another one each time that a claim is committed."""
        return str(self._p_serial.hex())


class DataNotebookLine(Document):
    """One cell that was run: its source, its outcome, and its messages as they were shown (JSON lines)."""

    portal_type: ClassVar[str] = 'Data Notebook Line'
    properties: ClassVar[tuple[str, ...]] = (*Document.properties, 'notebook_code', 'notebook_code_result', 'mime_type')
    notebook_code = ename = evalue = request_id = user = announced_to = ''
    status = 'ok'
    committed = True
    listed = True  # a cell with store_history=False has a line too: its id must not run again, its functions need their source
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
    serializer = serializers.DEFAULT
    owner = ''
    environment: tuple[Mapping[str, Any], ...] = ()

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.lines, self.requests, self.claim, self.stored = Lines(), Requests(), Claim(), StoredContext()
        self.__ac_local_roles__ = PersistentMapping()  # Zope's place for shares (see `users`)

    def contentValues(self, portal_type: str | None = None) -> list[DataNotebookLine]:
        return [line.__of__(self) for line in self.lines.values()
                if line.listed and portal_type in (None, line.portal_type)]

    def next_count(self) -> int:
        return int(self.lines.maxKey()) + 1 if self.lines else 1

    def outcome(self, request_id: str, fresh_for: str = '') -> DataNotebookLine | None:
        """The line of a request that has been run, or may have been; `fresh_for`: the node, if it knows that it has not begun it.

        Only the node to which a request was announced may have begun it without a claim of its own.
        """
        count = self.requests.get(request_id)
        line = None if count is None else self.lines[count]
        return None if line is not None and fresh_for and line.announced_to == fresh_for else line

    def claimed_for(self, request_id: str, node: str) -> bool:
        """Whether `node` may begin the request without another commit."""
        claim = self.claim
        return bool(claim.request_id == request_id and (claim.state, claim.node) == ('next', node))

    def claimed_by_another(self, node: str, known: Known) -> Claimed | None:
        """Another node that may be running a cell of this notebook now, as far as `node` knows."""
        claim = self.claim
        if not claim.request_id or claim.node in (node, *known.gone) or claim.serial() in known.free | known.ended:
            return None
        return Claimed(claim.node, claim.request_id, claim.state, claim.serial())

    def lost(self, node: str, known: Known) -> dict[str, str]:
        """Requests that have begun, or may have, and have ended without an outcome, and by what; `node` runs nothing of this notebook."""
        claim, causes = self.claim, dict(known.lost)
        if claim.node == node:
            begun, cause = claim.state == 'running' and claim.request_id not in known.released, 'its outcome was not recorded'
        else:
            begun, cause = claim.serial() not in known.free, 'node gone' if claim.node in known.gone else 'its outcome was not recorded'
        if claim.request_id and begun:
            causes.setdefault(claim.request_id, cause)
        return {request_id: cause for request_id, cause in causes.items() if request_id not in self.requests}

    def take(self, request_id: str, node: str, state: str) -> None:
        claim = self.claim
        claim.request_id, claim.node, claim.state = request_id, node, state

    def add_line(self, request: wire.Request, **properties: Any) -> DataNotebookLine:
        count = self.next_count()
        line = self.lines[count] = DataNotebookLine(count, request, {'listed': request.store_history, **properties})
        if request.request_id:
            self.requests[request.request_id] = count
        return line

    def lose(self, request: wire.Request, cause: str) -> DataNotebookLine:
        """The outcome of a cell whose process has died: that it is lost, unless it had committed. Its claim ends."""
        count = self.requests.get(request.request_id)
        line = self.add_lost(request.request_id, cause, request) if count is None else self.lines[count]
        self.end_claim(request.request_id)
        return line

    def settle(self, request: wire.Request, ename: str, evalue: str, shown: bytes) -> DataNotebookLine:
        """The outcome of a cell that has run: its line, or that nothing of it was saved. Its claim ends."""
        count = self.requests.get(request.request_id)
        line = self.lines[count] if count is not None else self.add_line(request, status='error', committed=False, ename=ename,
                                                                         evalue=evalue, shown=shown)
        self.end_claim(request.request_id)
        return line

    def add_lost(self, request_id: str, cause: str, request: wire.Request | None = None) -> DataNotebookLine:
        """The history says that a cell was lost, and by what; with its code if the request is known. One of which it is known only that
        it was announced is not listed: it may never have been sent."""
        error, reply = wire.lost(request_id, cause)
        announced = request is None and self.claim.request_id == request_id and self.claim.state == 'next'
        node = self.claim.node
        self.end_claim(request_id)
        return self.add_line(request or wire.Request(request_id=request_id, store_history=not announced), status='error', committed=False,
                             ename=reply['ename'], evalue=reply['evalue'], shown=wire.encode(error),
                             announced_to=node if announced else '')

    def end_claim(self, request_id: str) -> None:
        """A request that has an outcome holds nobody up; if its node is at it all the same, that node's commit conflicts with this one."""
        if self.claim.request_id == request_id:
            self.take('', '', '')

    def describe(self) -> dict[str, Any]:
        """What `Base_getJupyterContext` answers; reads no values."""
        return {'reference': self.reference, 'title': self.title, 'serializer': self.serializer, 'lines': len(self.lines),
                'variables': self.stored.describe(),
                'not_saved': [{'name': name, 'reason': reason, 'suggestion': code} for name, (reason, code) in self.stored.lost.items()],
                'environment': [{**{name: setup[name] for name in ('alias', 'kind', 'name', 'source', 'cell', 'line')},
                                 'names': list(setup.get('names', ()))} for setup in self.environment]}


InitializeClass(DataNotebookLine)
InitializeClass(DataNotebook)
