"""What the published methods ask of a node: to run a cell, to show one that runs or has run, here or elsewhere, to say how it is.

    portal.Base_…Jupyter ─► Node ─► dispatch ─► lines ─► publisher         outside of Zope's transaction and connection
                                       └─ peers: what another node knows
"""

import contextlib
import dataclasses
import functools
import json
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import Any
from urllib.parse import urlsplit

from zope.interface import implementer
from ZPublisher.Iterators import IUnboundStreamIterator

from .. import __version__, serializers, wire
from ..errors import ERP5Error, UnauthorizedError, WireError
from ..octets import OCTETS
from . import bodies, history, journal, parcels, users
from .answers import answer, barred, failure, number, reason_to_refuse, text
from .completing import Reply, not_found
from .dispatch import Dispatcher
from .metrics import Metrics, State
from .peers import NodeGone
from .questions import Questions, names_alone
from .registry import Registry
from .signals import GRACE


@implementer(IUnboundStreamIterator)
class Lines:
    """What the published method returns: iterated by waitress outside Zope's transaction and connection."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self.lines = lines

    def __iter__(self) -> Iterator[bytes]:
        return self.lines

    def close(self) -> None:
        """By waitress, at the end or when the client has gone."""
        if isinstance(self.lines, Generator):
            self.lines.close()


def for_this_node(method: Callable[..., Any]) -> Callable[..., Any]:
    """A request from another node may be for one that listened at the same address before."""
    @functools.wraps(method)
    def guarded(self: 'Node', portal: Any, REQUEST: Any) -> Any:
        if text(REQUEST, 'node') in ('', self.name):
            return method(self, portal, REQUEST)
        return failure(REQUEST, 404, 'another node')
    return guarded


class Node:
    """What the published methods ask: the pool, and what this node is. `stored`: bytes; `nodes`: what is known of the others."""

    def __init__(self, dispatcher: Dispatcher, registry: Registry, name: str, about: dict[str, Any], metrics: Metrics,
                 stored: Callable[[], int | None]) -> None:
        self.dispatcher, self.registry, self.name, self.about = dispatcher, registry, name, about
        self.metrics, self.stored = metrics, stored
        self.questions = Questions(dispatcher.pool, dispatcher.journal)
        self.started = time.time()
        self.url = ''  # once it listens
        labels = {'node': name, 'storage': about['storage'], 'version': __version__}
        metrics.registry.register(State(labels, dispatcher.status, self.nodes, stored))

    # ------------------------------------------------------------ a cell
    def execute(self, portal: Any, REQUEST: Any) -> Any:
        request = wire.Request.from_form({'request_id': str(uuid.uuid4()), **without_empty(REQUEST.form)},
                                         user=REQUEST['AUTHENTICATED_USER'].getId())
        journal.request.set(request.request_id)
        if request.request_reference:
            return notebook_list(portal, REQUEST)
        if not request.reference.strip():
            return wire.NO_REFERENCE
        reason = reason_to_refuse(REQUEST, portal.data_notebook_module.find(request.reference))
        if reason:
            return self.answer(REQUEST, map(wire.encode, wire.failed(request.request_id, UnauthorizedError.__name__, reason)))
        try:
            wire.seconds(request.timeout)
            if request.serializer:
                serializers.get(request.serializer)
        except ERP5Error as error:
            return self.answer(REQUEST, map(wire.encode, wire.failed(request.request_id, type(error).__name__, str(error))))
        if not is_direct(REQUEST, self.url):
            request = dataclasses.replace(request, next_request_id='')
        return self.answer(REQUEST, self.dispatcher.run(request, authorization(REQUEST)))

    def answer(self, REQUEST: Any, lines: Iterator[bytes]) -> Lines:
        streaming = wire.NDJSON in (REQUEST.get_header('Accept') or '')
        REQUEST.RESPONSE.setHeader('Content-Type', wire.NDJSON if streaming else 'application/json')
        if streaming:
            REQUEST.RESPONSE.setHeader('X-Accel-Buffering', 'no')  # a proxy that collects lines would hold them back
        return Lines(lines if streaming else whole(lines))

    @for_this_node
    def result(self, portal: Any, REQUEST: Any) -> Any:
        """The messages of a request, whether it runs, has run, or is on record, here or on another node; 404 if it has never begun."""
        request_id, code, by_a_node = text(REQUEST, 'request_id'), text(REQUEST, 'python_expression'), bool(text(REQUEST, 'node'))
        journal.request.set(request_id)
        run = self.dispatcher.find(request_id)
        reference = run.request.reference if run is not None else text(REQUEST, 'reference')
        notebook = portal.data_notebook_module.find(reference)
        refused = barred(REQUEST, notebook)
        if refused:
            return refused
        if text(REQUEST, 'waiting'):
            self.dispatcher.wanted_elsewhere(reference)
        if run is not None and (notebook is not None or run.request.user == REQUEST['AUTHENTICATED_USER'].getId()):
            mine = code in ('', run.request.python_expression)
            return self.answer(REQUEST, run.follow() if mine else map(wire.encode, wire.refusal(request_id)))
        line = notebook.outcome(request_id) if notebook is not None else None
        if line is not None:
            return self.answer(REQUEST, iter([*line.messages(), wire.encode(line.reply(request_id, self.name))]))
        claim = notebook.claim if notebook is not None else None
        if claim is not None and claim.request_id == request_id and claim.node != self.name and not by_a_node:
            return self.answer(REQUEST, self.result_elsewhere(claim.node, reference, request_id, authorization(REQUEST)))
        return failure(REQUEST, 404, 'no cell with this request_id has begun')

    def result_elsewhere(self, node: str, reference: str, request_id: str, authorization: str) -> Iterator[bytes]:
        try:
            with self.dispatcher.peers.follow(node, reference, request_id, authorization) as lines:
                yield from lines
        except NodeGone:
            yield from map(wire.encode, wire.lost(request_id, 'node gone'))
        except ERP5Error as error:
            yield from map(wire.encode, wire.unavailable(request_id, str(error)))

    @for_this_node
    def interrupt(self, portal: Any, REQUEST: Any) -> str:
        """Here, or where it runs: any node may be asked."""
        reference, request_id = text(REQUEST, 'reference'), text(REQUEST, 'request_id')
        done = self.dispatcher.signals.interrupt(reference, request_id, waiting=bool(request_id))
        if not done and not text(REQUEST, 'node'):
            done = (self.interrupted_elsewhere(reference, request_id, authorization(REQUEST))
                    or self.dispatcher.signals.interrupt(reference, request_id))
        return answer(REQUEST, {'status': 'interrupted' if done else 'not running', 'grace': GRACE})

    def interrupted_elsewhere(self, reference: str, request_id: str, authorization: str) -> bool:
        for node in self.registry.live():
            with contextlib.suppress(ERP5Error):
                if self.dispatcher.peers.interrupt(node, reference, request_id, authorization).get('status') == 'interrupted':
                    return True
        return False

    # ------------------------------------------------------------ what has run, and what runs
    @for_this_node
    def history(self, portal: Any, REQUEST: Any) -> str:
        """A page of lines (see `history`): `first`, `last`, `limit`, or those whose id begins with `request_id`; with the messages of
        each if `outputs` is True, also those that are not listed if `unlisted` is. And `lines`, the number of the newest one, and
        `running`, the request of the cell that runs in the notebook, wherever, or ''."""
        notebook = portal.data_notebook_module.find(text(REQUEST, 'reference'))
        newest, outputs = history.newest(notebook), text(REQUEST, 'outputs') == 'True'
        if text(REQUEST, 'request_id'):
            page = history.beginning_with(notebook, text(REQUEST, 'request_id'), outputs)
        else:
            first = number(REQUEST, 'first', newest + 1) if text(REQUEST, 'first') else 1
            limit = number(REQUEST, 'limit', history.MOST) if text(REQUEST, 'limit') else history.LIMIT
            page = history.page(notebook, first, number(REQUEST, 'last', newest), limit, text(REQUEST, 'unlisted') == 'True', outputs)
        return answer(REQUEST, {'reference': notebook.reference, 'lines': newest, 'running': self.running(notebook, REQUEST), **page})

    def running(self, notebook: Any, REQUEST: Any) -> str:
        """Of a node that has gone or cannot be asked, what it has claimed to run: its outcome says the rest."""
        claim, run = notebook.claim, self.dispatcher.running(notebook.reference)
        if run is not None or text(REQUEST, 'node') or claim.node in ('', self.name):
            return run.request_id if run is not None else ''
        try:
            return self.dispatcher.peers.running(claim.node, notebook.reference, authorization(REQUEST))
        except ERP5Error:
            return claim.request_id if claim.state == 'running' else ''

    # ------------------------------------------------------------ while somebody types
    def complete(self, notebook: Any, REQUEST: Any) -> Lines:
        """From a process of its own, or by the names alone: never from one that runs a cell."""
        code, cursor_pos = place(REQUEST)
        return self.asked(REQUEST, notebook.reference, {'complete': {'code': code, 'cursor_pos': cursor_pos}},
                          names_alone(notebook, code, cursor_pos))

    def inspect(self, notebook: Any, REQUEST: Any) -> Lines:
        code, cursor_pos = place(REQUEST)
        details = {'code': code, 'cursor_pos': cursor_pos, 'detail_level': int(text(REQUEST, 'detail_level') == '1')}
        return self.asked(REQUEST, notebook.reference, {'inspect': details}, not_found(names_alone=True))

    def asked(self, REQUEST: Any, reference: str, question: dict[str, Any], otherwise: Reply) -> Lines:
        REQUEST.RESPONSE.setHeader('Content-Type', 'application/json')
        question.update(reference=reference, user=REQUEST['AUTHENTICATED_USER'].getId())
        return Lines(json.dumps(self.questions.ask(question) or otherwise).encode() for _ in range(1))

    # ------------------------------------------------------------ large buffers
    def put(self, portal: Any, REQUEST: Any) -> Any:
        """The body: as many bytes of JSON as `head` says, a list of spans (see `parcels`), then their bytes. `number`: which one of the
        requests for this cell; one that comes again takes the place of the first. The answer is an object, with an `error` if it failed.
        """
        body, head = REQUEST.environ.get(bodies.BODY), number(REQUEST, 'head', parcels.LONGEST_HEAD)
        if body is None or not text(REQUEST, 'request_id'):
            return failure(REQUEST, 400, 'expected a request_id, and a body with a Content-Length')
        REQUEST.RESPONSE.setHeader('Content-Type', 'application/json')
        depot, address = parcels.depot(portal._p_jar.db()), address_in(REQUEST)
        return Lines(json.dumps(depot.received(body, address, head)).encode() for _ in range(1))

    def get(self, portal: Any, REQUEST: Any) -> Any:
        try:
            wanted = parcels.spans_in(text(REQUEST, 'spans'))
            plan = parcels.planned(portal._p_jar.root(), address_in(REQUEST), wanted)
        except WireError as error:
            return failure(REQUEST, 400, str(error))
        except LookupError:
            return failure(REQUEST, 404, 'the value is not kept here any more: pull it again')
        REQUEST.RESPONSE.setHeader('Content-Type', OCTETS)
        REQUEST.RESPONSE.setHeader('Content-Length', str(sum(stop - start for _, start, stop in plan)))
        return Lines(parcels.depot(portal._p_jar.db()).give(plan, REQUEST.environ[bodies.SEND]))

    # ------------------------------------------------------------ the node
    @for_this_node
    def release(self, portal: Any, REQUEST: Any) -> str:
        """Asked by another node: see `Dispatcher.release`."""
        return answer(REQUEST, {'state': self.dispatcher.release(text(REQUEST, 'reference'), text(REQUEST, 'request_id'))})

    def status(self, portal: Any, REQUEST: Any) -> dict[str, Any]:
        """Of cells and processes of notebooks that the user may not use, it says only that they are there."""
        return {'node': self.name, 'version': __version__, 'seconds_up': round(time.time() - self.started),
                'serializers': serializers.names(), 'stored': self.stored(), 'nodes': self.nodes(), **self.about,
                **self.metrics.counts(), **without_names(self.dispatcher.status(), functools.partial(is_hidden, portal, REQUEST))}

    def nodes(self) -> list[dict[str, Any]]:
        """The other nodes of the cluster that live."""
        return [{'name': name, 'url': seen.url, 'host': seen.place.partition(':')[0], 'pid': seen.about.get('pid'),
                 'seconds_quiet': round(seen.quiet(), 1)} for name, seen in self.registry.live().items()]


def address_in(REQUEST: Any) -> parcels.Address:
    """Whose large buffers a request is about."""
    return parcels.Address(text(REQUEST, 'request_id'), number(REQUEST, 'number', parcels.MOST), text(REQUEST, 'reference'),
                           REQUEST['AUTHENTICATED_USER'].getId())


def is_hidden(portal: Any, REQUEST: Any, reference: str | None) -> bool:
    """Whether the user may not know of a notebook; of one that does not exist yet only a Manager may."""
    user = REQUEST['AUTHENTICATED_USER']
    notebook = portal.data_notebook_module.find(reference) if reference else None
    return bool(reference) and not (user.has_role(users.MANAGER) if notebook is None else users.may_use(user, notebook))


def without_names(status: dict[str, Any], hidden: Callable[[str | None], bool]) -> dict[str, Any]:
    """The same without notebook, user and request of what is hidden."""
    def shown(item: dict[str, Any]) -> dict[str, Any]:
        return {**item, **{name: '' for name in ('notebook', 'user', 'request_id') if name in item}} if hidden(item['notebook']) else item

    return {**status, **{key: [shown(item) for item in status[key]] for key in ('processes', 'running_cells')}}


def place(REQUEST: Any) -> tuple[str, int]:
    """The code that somebody types, and where in it: after so many characters."""
    code = text(REQUEST, 'code')
    return code, number(REQUEST, 'cursor_pos', len(code))


def authorization(REQUEST: Any) -> str:
    return str(REQUEST._auth or '')  # Zope takes the header out of the environment


def is_direct(REQUEST: Any, url: str) -> bool:
    """Whether the client talks to this node and no proxy: only then does its next request come here as well."""
    forwarded = any(name in REQUEST.environ for name in ('HTTP_X_FORWARDED_FOR', 'HTTP_FORWARDED', 'HTTP_VIA'))
    return REQUEST.environ.get('HTTP_HOST') == urlsplit(url).netloc and not forwarded


def without_empty(form: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in form.items() if value != ''}


def notebook_list(portal: Any, REQUEST: Any) -> str:
    """The notebooks that the user may use. As a stock site: the text of a Python list, or nothing (which Zope makes a 204).

    As JSON, for who accepts it, with the owner, the users whom it is shared with, and the number of lines.
    """
    user = REQUEST['AUTHENTICATED_USER']
    usable = [notebook for notebook in portal.data_notebook_module.objectValues() if users.may_use(user, notebook)]
    if 'application/json' in (REQUEST.get_header('Accept') or ''):
        REQUEST.RESPONSE.setHeader('Content-Type', 'application/json')
        return json.dumps([{'reference': notebook.reference, 'title': notebook.title, 'owner': notebook.owner,
                            'shared_with': users.shared_with(notebook), 'lines': notebook.next_count() - 1} for notebook in usable])
    found = [{'reference': notebook.reference, 'title': notebook.title} for notebook in usable]
    return repr(found) if found else ''


def whole(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The stock answer: one JSON object when all is done; outside Zope's transaction as well."""
    messages = (wire.decode(line) for piece in lines for line in piece.splitlines())
    yield json.dumps(wire.stock_answer(messages)).encode()
