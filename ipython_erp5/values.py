"""Values of a session on their way to the site and from there: what may travel, and when.

    Values.pushed(request, values) ─► packed, or refused with every culprit ─► large buffers: Shipping ─► the request with the rest
    Values.fetched(reply, names)   ◄─ every one may come, or an error ◄─ large buffers: Shipping ◄─ `pull` messages of the reply

Nothing is run if something cannot be pushed, and nothing is fetched if one of the names cannot be had. A literal is safe from anybody;
bytes of a serializer, which can run code here, are only taken from a site that is trusted.
"""

import ast
import base64
import dataclasses
import json
import keyword
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import stock, transfer, wire
from .client import Client
from .errors import OptionError, SerializationError, UnsupportedError
from .reply import Reply
from .serializers import DEFAULT, get
from .shipping import Shipping
from .transfer import OnBytes

LITERAL = 'literal'


@dataclasses.dataclass(frozen=True)
class Values:
    """`trusted`: whether the site may send what can run code here; `is_ours`: asks whether it is a node, which takes values."""

    client: Client
    reference: str
    trusted: bool
    is_ours: Callable[[], bool]

    def pushed(self, request: wire.Request, values: Mapping[str, object], on_bytes: OnBytes | None = None) -> wire.Request:
        """The request with these values, of which large buffers are there then. SerializationError, OptionError, UnsupportedError."""
        check_names(values)
        if not self.is_ours():
            return dataclasses.replace(request, push=json.dumps({'source': stock.assignments(values)}))
        packed = transfer.pack_or_report(values, get(request.serializer or DEFAULT))
        Shipping(self.client, self.reference, request.request_id, on_bytes).send(packed.buffers)
        return dataclasses.replace(request, push=json.dumps(packed.description))

    def fetched(self, reply: Reply, names: Iterable[str], on_bytes: OnBytes | None = None) -> dict[str, Any]:
        """What the cell has sent of these names, in their order. SerializationError, UnsupportedError."""
        names = list(names)
        for name in names:
            self.check(reply, name)
        together = {name: message for name, message in reply.pulled.items() if 'names' in message}
        wanted = {reply.pulled[name].get('with', name) for name in names}
        loaded = {first: self.unpacked(reply, message, on_bytes) for first, message in together.items() if first in wanted}
        return {name: loaded[first][name] if (first := reply.pulled[name].get('with', name)) in loaded else self.value(reply.pulled[name])
                for name in names}

    def check(self, reply: Reply, name: str) -> None:
        message = reply.pulled.get(name, {})
        message = reply.pulled.get(message['with'], {}) if 'with' in message else message
        if not message:
            raise UnsupportedError(f'{self.client.url} cannot send values')
        if 'data' not in message:
            raise SerializationError(f'{name} cannot be sent: {message.get("reason")}')
        if message['format'] != LITERAL and not self.trusted:
            raise UnsupportedError(f'{name} came as {message["format"]} bytes, which can run code here, and '
                                   f'{self.client.url} is not trusted. If you trust it: %config ERP5Magics.trusted_sites = '
                                   f'[{self.client.url!r}], and connect again; or connect(…, trusted=True)')

    def value(self, message: wire.Message) -> Any:
        """That of one message, which has all of it."""
        data = base64.b64decode(message['data'])
        if message['format'] == LITERAL:
            return literal(data)
        from . import serializers
        return serializers.load(data, transfer.refuse_reference)[0]

    def unpacked(self, reply: Reply, message: wire.Message, on_bytes: OnBytes | None) -> dict[str, Any]:
        """The values of a message and of those that are with it."""
        shipping = Shipping(self.client, self.reference, reply.request_id, on_bytes)
        buffers = shipping.receive(message['sizes'], message['kinds'], message['first'])
        return transfer.unpack(message, buffers, transfer.refuse_reference)


def check_names(names: Iterable[str]) -> None:
    for name in names:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise OptionError(f'expected the name of a variable, got {name!r}: nothing was sent')


def names_in(text: str | Iterable[str]) -> list[str]:
    """`a,b` or `a b` or names: each once, in order. OptionError for what is none."""
    names = list(dict.fromkeys(text.replace(',', ' ').split() if isinstance(text, str) else text))
    check_names(names)
    return names


def size_of(message: Mapping[str, Any]) -> int:
    """Bytes of a value, or of several that are together: those of a `pull` message, or of what is pushed."""
    return len(message.get('data') or '') * 3 // 4 + len(message.get('source') or '') + sum(message.get('sizes') or ())


def bytes_of(push: str) -> int:
    """Those of what a request brings."""
    return size_of(json.loads(push)) if push else 0


def literal(data: bytes) -> Any:
    try:
        return ast.literal_eval(data.decode())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        failure = f'expected the literal of a value, got {wire.excerpt(data)}: {error}'
    raise SerializationError(failure)
