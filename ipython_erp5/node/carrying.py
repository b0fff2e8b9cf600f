"""Values that a client sends with a cell, and those that it wants to have after it.

    request.push ─► arrive(): out of pieces, mapped ─► the cell's namespace, just before its code
    namespace ─► leave(): a `pull` message for each name; large buffers stay in memory ─► after the commit: ship() ─► Shipment

The client is somebody who may run any code here, so what it sends is unpickled; only then, inside of the cell's transaction, and
never for a request that has been run before.
"""

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .. import diagnosis, transfer, wire
from ..amounts import size
from ..errors import ERP5Error, SerializationError, StorageFullError, did_you_mean
from . import parcels

if TYPE_CHECKING:
    from .cell import OpenNotebook


class Carrier:
    """Of one cell."""

    def __init__(self, request: wire.Request, notebook: 'OpenNotebook', root: Any) -> None:
        self.request, self.notebook, self.root = request, notebook, root
        self.names = [name for name in request.pull.split(',') if name]
        self.views: list[memoryview] = []  # memory that the client will come for

    # ------------------------------------------------------------ before the cell
    def arrive(self) -> None:
        """Bring what was pushed into the namespace. SerializationError says what cannot be had here."""
        if self.request.push:
            values, names = self.values(description_in(self.request.push)), self.notebook.names
            names.take_back(set(values))
            names.dict.update(values)
            names.look_at_postponed()

    def values(self, description: Mapping[str, Any]) -> dict[str, Any]:
        sizes = description['sizes']
        if sum(sizes) > self.notebook.limit:
            raise SerializationError(f'{size(sum(sizes))} were pushed, more than the {size(self.notebook.limit)} that a variable may have '
                                     'here (--variable-limit): nothing was run')
        stored = parcels.brought(self.root, self.request.request_id, self.request.reference, self.request.user, sizes)
        buffers = self.notebook.context.buffers
        buffers.given.update(digest for buffer in stored for digest in buffer.digests if digest not in buffers.chunks.index)
        try:
            with self.notebook.names.working():
                return transfer.unpack(description, [buffers.load(buffer) for buffer in stored], transfer.refuse_reference)
        except ERP5Error as error:
            raise SerializationError(f'what was pushed cannot be had here, nothing was run: {error}') from error

    # ------------------------------------------------------------ after it
    def leave(self, last: object) -> Iterator[wire.Message]:
        """A message for each name that is wanted. `last`: the value of the last expression, which is `_` if the cell has code."""
        values: dict[str, object] = {}
        given = {} if self.request.python_expression.strip() in ('', 'pass') else {'_': last}
        for name in self.names:
            self.notebook.names.fetch(name)
            if name not in given and name not in self.notebook.namespace:
                yield wire.not_pulled(name, self.notebook.context.reason(name) or self.unknown(name))
                continue
            value = given[name] if name in given else self.notebook.namespace[name]
            literal = self.notebook.literal(value)
            if literal is None:
                values[name] = value
            else:
                yield wire.pulled(name, 'literal', b64encode(literal.encode()).decode())
        yield from self.together(values)

    def unknown(self, name: str) -> str:
        known = {*self.notebook.namespace, *self.notebook.context.stored.groups.keys()}
        return 'there is no variable of this name' + did_you_mean(name, (other for other in known if other.isidentifier()))

    def together(self, values: Mapping[str, object]) -> Iterator[wire.Message]:
        """What several of them share they share there, unless one of them cannot go."""
        packed = self.pack(values) if values else None
        if packed is not None:
            yield from self.messages(packed)
        elif len(values) == 1:
            (name, value), = values.items()
            with self.notebook.names.working():
                culprits = diagnosis.diagnose(self.notebook.context.serializer, name, value, self.stays)
            yield wire.not_pulled(name, '; '.join(f'{culprit.path} → {culprit.type}' for culprit in culprits))
        else:
            for name, value in values.items():
                yield from self.together({name: value})

    def pack(self, values: Mapping[str, object]) -> transfer.Packed | None:
        try:
            with self.notebook.names.working():
                return transfer.pack(values, self.notebook.context.serializer, self.stays)
        except KeyboardInterrupt:
            raise
        except BaseException:  # whatever a user's class raises: `culprits` says what it was
            return None

    def stays(self, value: object) -> tuple[object, ...] | None:
        """What the bytes refer to, as it stays there; what the environment provides goes as a value like any other."""
        reference = self.notebook.context.references(value)
        return None if reference is not None and reference[0] == 'environment' else reference

    def messages(self, packed: transfer.Packed) -> Iterator[wire.Message]:
        first, *others = packed.description['names']
        yield {**wire.pulled(first, packed.description['format'], packed.description['data']), 'first': len(self.views),
               **{key: packed.description[key] for key in ('names', 'sizes', 'kinds')}}
        yield from (wire.pulled_with(other, first) for other in others)
        self.views += packed.buffers

    def ship(self) -> Iterator[wire.Message]:
        """Keep the memory for the client, after the commit; a message for each name that it cannot have all the same."""
        if not self.views:
            return
        address = parcels.Address(self.request.request_id, 0, self.request.reference, self.request.user)
        try:
            parcels.send(self.notebook.manager, self.root, self.notebook.context.buffers, address, self.views)
        except StorageFullError as error:
            yield from (wire.not_pulled(name, str(error)) for name in self.names)


def description_in(text: str) -> dict[str, Any]:
    """SerializationError unless it is what `transfer` describes."""
    try:
        found = json.loads(text)
        lists = {key: list(found[key]) for key in ('names', 'sizes', 'kinds')}
        sound = all(str(name).isidentifier() for name in lists['names']) and all(type(size) is int for size in lists['sizes'])
        if sound:
            return {'format': str(found['format']), 'data': str(found['data']), **lists}
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise SerializationError(f'expected a description of pushed values, got {wire.excerpt(text)}: nothing was run')
