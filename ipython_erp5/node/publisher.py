"""Zope's publisher on waitress.

    request ─► traversal, authorization ─► commit ─► connection closed ─► Lines ─► waitress writes each line as it comes

A cell is an iterator that Zope gets back from the published method and iterates *after* its own commit and with its connection
closed: the publisher's transaction has nothing to do with the cell's.
"""

import json
import signal
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import Any

import transaction
import Zope2  # noqa: F401 - must be imported before ZPublisher's parts
import ZPublisher.HTTPRequest
from App.ZApplication import ZApplicationWrapper
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import Task, ThreadedTaskDispatcher, WSGITask
from zExceptions import BadRequest, HTTPException, NotFound
from zope.interface import implementer
from ZPublisher import WSGIPublisher, zpublish_mark
from ZPublisher.httpexceptions import HTTPExceptionHandler
from ZPublisher.Iterators import IUnboundStreamIterator

from .. import serializers, wire
from ..errors import ERP5Error
from . import pool as executors
from .portal import ERP5Site, text

MODULE_NAME = 'ipython_erp5'
LARGEST_BODY = 1 << 29  # bytes
PUBLISHED = frozenset(name for name, value in vars(ERP5Site).items() if zpublish_mark(value, False))
Application = Callable[[dict[str, Any], Callable[..., Any]], Any]


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


class Node:
    """What the published methods ask: the pool, and what this node is."""

    def __init__(self, pool: executors.Pool, name: str, about: dict[str, Any]) -> None:
        self.pool, self.name, self.about = pool, name, about
        self.started = time.time()

    # ------------------------------------------------------------ a cell
    def execute(self, portal: Any, REQUEST: Any) -> Any:
        request = wire.Request.from_form({'request_id': str(uuid.uuid4()), **without_empty(REQUEST.form)},
                                         user=REQUEST['AUTHENTICATED_USER'].getId())
        if request.request_reference:
            return notebook_list(portal)
        if not request.reference.strip():
            return wire.NO_REFERENCE
        if request.serializer:
            try:
                serializers.get(request.serializer)
            except ERP5Error as error:
                return self.answer(REQUEST, map(wire.encode, wire.failed(request.request_id, type(error).__name__, str(error))))
        return self.answer(REQUEST, self.pool.run(request))

    def answer(self, REQUEST: Any, lines: Iterator[bytes]) -> Lines:
        streaming = wire.NDJSON in (REQUEST.get_header('Accept') or '')
        REQUEST.RESPONSE.setHeader('Content-Type', wire.NDJSON if streaming else 'application/json')
        if streaming:
            REQUEST.RESPONSE.setHeader('X-Accel-Buffering', 'no')  # a proxy that collects lines would hold them back
        return Lines(lines if streaming else whole(lines))

    def result(self, portal: Any, REQUEST: Any) -> Any:
        """The messages of a request, whether it runs, has run here, or is on record; 404 if it has never begun."""
        request_id = text(REQUEST, 'request_id')
        run = self.pool.find(request_id)
        if run is not None:
            return self.answer(REQUEST, run.follow())
        notebook = portal.data_notebook_module.find(text(REQUEST, 'reference'))
        line = notebook.outcome(request_id) if notebook is not None else None
        if line is not None:
            return self.answer(REQUEST, iter([*line.messages(), wire.encode(line.reply(request_id, self.name))]))
        if notebook is not None and notebook.begun(request_id, self.name):
            return self.answer(REQUEST, map(wire.encode, wire.lost(request_id, 'node gone')))
        REQUEST.RESPONSE.setStatus(404)
        REQUEST.RESPONSE.setHeader('Content-Type', 'application/json')
        return json.dumps({'error': 'no cell with this request_id has begun'})

    def interrupt(self, reference: str, request_id: str) -> dict[str, Any]:
        done = self.pool.interrupt(reference, request_id)
        return {'status': 'interrupted' if done else 'not running', 'grace': executors.GRACE}

    def status(self) -> dict[str, Any]:
        return {'node': self.name, 'seconds_up': round(time.time() - self.started), 'serializers': serializers.names(), **self.about,
                **self.pool.status()}


def without_empty(form: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in form.items() if value != ''}


def notebook_list(portal: Any) -> str:
    """As a stock site: the text of a Python list, or nothing (which Zope makes a 204)."""
    found = [{'reference': notebook.reference, 'title': notebook.title} for notebook in portal.data_notebook_module.objectValues()]
    return repr(found) if found else ''


def whole(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The stock answer: one JSON object when all is done; outside Zope's transaction as well."""
    messages = (wire.decode(line) for piece in lines for line in piece.splitlines())
    yield json.dumps(wire.stock_answer(messages)).encode()


# ---------------------------------------------------------------- Zope
class Wrapper(ZApplicationWrapper):
    """Zope reads from the connection before it begins the transaction. An explicit manager and this: two polls a request, not three."""

    def __call__(self, connection: Any = None) -> Any:
        transaction.manager.explicit = True  # of this thread
        connection = self._db.open()
        connection.newTransaction(None, False)
        return connection.root()[self._name]


def application(database: Any, node: Node) -> Application:
    """The WSGI application: Zope's publisher over the database."""
    ZPublisher.HTTPRequest.FORM_MEMORY_LIMIT = 2 * LARGEST_BODY  # a larger form is cut off, and half a cell would run
    ZPublisher.HTTPRequest.HTTPRequest.retry_max_count = 0
    WSGIPublisher._MODULES[MODULE_NAME] = (Wrapper(database, 'Application'), 'ERP5', False)

    def publish(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        environ['ipython_erp5.node'] = node
        try:
            environ['PATH_INFO'].encode('latin-1').decode('utf-8')
        except UnicodeError:
            raise BadRequest('the path of the URL is not UTF-8') from None
        return WSGIPublisher.publish_module(environ, start_response, _request_factory=FormRequest, _module_name=MODULE_NAME)

    return HTTPExceptionHandler(publish)


class FormRequest(WSGIPublisher.WSGIRequest):
    """Reaches the published methods of ours and nothing else of Zope's; a form that cannot be read is the sender's error."""

    def traverse(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if path.rstrip('/').rpartition('/')[2] not in PUBLISHED:
            raise NotFound(path)
        return super().traverse(path, *args, **kwargs)

    def processInputs(self, *args: Any, **kwargs: Any) -> None:  # noqa: N802 - Zope's name
        try:
            super().processInputs(*args, **kwargs)
        except HTTPException:
            raise
        except Exception as error:  # a converter such as `name:int` without a number
            raise BadRequest(f'the form cannot be read: {type(error).__name__}') from None


# ---------------------------------------------------------------- waitress
class KeepAliveTask(WSGITask):
    """waitress closes the connection after every answer without a Content-Length, although it ends it with a last chunk."""

    def build_response_header(self) -> bytes:
        closing = self.request.headers.get('CONNECTION', '').lower() == 'close'
        if self.version == '1.1' and self.content_length is None and not closing:
            self.set_close_on_finish = lambda: None
        return super().build_response_header()


class Channel(HTTPChannel):
    task_class = KeepAliveTask


class Dispatcher(ThreadedTaskDispatcher):
    """A thread for every request that would wait: running cells never keep `status` and `interrupt` out."""

    limit = 1000

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.queue_logger.disabled = True
        self.set_thread_count(threads)

    def add_task(self, task: Task) -> None:
        super().add_task(task)
        with self.lock:
            waiting, idle = len(self.queue), len(self.threads) - self.stop_count - self.active_count
            wanted = len(self.threads) + 1 if waiting > idle and len(self.threads) < self.limit else 0
        if wanted:
            self.set_thread_count(wanted)


def make_server(wsgi: Application, host: str, port: int, threads: int = 4) -> Any:
    """The server object of waitress, bound and not yet running."""
    server = create_server(wsgi, _dispatcher=Dispatcher(threads), host=host, port=port, threads=threads, ident='ipython_erp5',
                           connection_limit=1000,  # default 100, idle keep-alive connections included
                           asyncore_use_poll=True,  # select() ends at descriptor 1024
                           max_request_body_size=LARGEST_BODY,
                           outbuf_high_watermark=1 << 30)  # a slow reader fills a temporary file, it does not stop the cell
    server.channel_class = Channel
    return server


def serve(server: Any, ending: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT. `ending` ends the running cells: their relaying threads are waited for after it.

    An exception out of the signal handler would be lost where Python ignores exceptions, so the handler only sets an event.
    """
    stop = threading.Event()

    def end(number: int, frame: object) -> None:
        stop.set()
        server.pull_trigger()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    while not stop.is_set():
        server.asyncore.loop(timeout=server.adj.asyncore_loop_timeout, map=server._map, use_poll=True, count=1)
    ending()
    server.task_dispatcher.shutdown()
    server.close()
