"""Zope's publisher on waitress.

    request ─► traversal, authorization ─► commit ─► connection closed ─► Lines ─► waitress writes each line as it comes

A cell is an iterator that Zope gets back from the published method and iterates *after* its own commit and with its connection
closed: the publisher's transaction has nothing to do with the cell's.
"""

import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import transaction
import Zope2  # noqa: F401 - must be imported before ZPublisher's parts
import ZPublisher.HTTPRequest
from App.ZApplication import ZApplicationWrapper
from waitress.server import create_server
from waitress.task import Task, ThreadedTaskDispatcher
from zExceptions import BadRequest, HTTPException, HTTPServiceUnavailable, NotFound
from ZPublisher import WSGIPublisher, zpublish_mark
from ZPublisher.httpexceptions import HTTPExceptionHandler

from . import journal
from .bodies import Channel
from .portal import ERP5Site
from .service import Node
from .storage import is_away

MODULE_NAME = 'ipython_erp5'
LARGEST_BODY = 1 << 29  # bytes
PUBLISHED = frozenset(name for name, value in vars(ERP5Site).items() if zpublish_mark(value, False))
Application = Callable[[dict[str, Any], Callable[..., Any]], Any]


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
        journal.request.set('')
        try:
            environ['PATH_INFO'].encode('latin-1').decode('utf-8')
        except UnicodeError:
            raise BadRequest('the path of the URL is not UTF-8') from None
        try:
            return WSGIPublisher.publish_module(environ, start_response, _request_factory=FormRequest, _module_name=MODULE_NAME)
        except Exception as error:
            if not is_away(error):
                raise
            away = HTTPServiceUnavailable(f'the database is away: {type(error).__name__}')  # nothing has begun: it may be sent again
            away.setHeader('Retry-After', '1')
            raise away from None

    return bodiless(HTTPExceptionHandler(publish))


def bodiless(wsgi: Application) -> Application:
    """HEAD, which is answered with 404, without a body: Zope sends one, which a client would take for its next answer."""
    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ['REQUEST_METHOD'] != 'HEAD':
            return wsgi(environ, start_response)
        wsgi(environ, lambda status, headers, *error: start_response(status, [('Content-Length', '0')], *error))
        return []

    return answer


class FormRequest(WSGIPublisher.WSGIRequest):
    """Reaches the published methods of ours and nothing else of Zope's; a form that cannot be read is the sender's error."""

    def traverse(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if self.method not in ('GET', 'POST') or path.rstrip('/').rpartition('/')[2] not in PUBLISHED:
            raise NotFound(path)  # for other methods Zope has ways of its own, of WebDAV
        return super().traverse(path, *args, **kwargs)

    def processInputs(self, *args: Any, **kwargs: Any) -> None:  # noqa: N802 - Zope's name
        try:
            super().processInputs(*args, **kwargs)
        except HTTPException:
            raise
        except Exception as error:  # a converter such as `name:int` without a number
            raise BadRequest(f'the form cannot be read: {type(error).__name__}') from None


# ---------------------------------------------------------------- waitress
class Threads(ThreadedTaskDispatcher):
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


def make_server(wsgi: Application, host: str, port: int, threads: int = 4, behind_tls: socket.socket | None = None) -> Any:
    """The server object of waitress, bound and not yet running. `behind_tls`: a socket instead of host and port (see `tls`)."""
    place: dict[str, Any] = {'sockets': [behind_tls], 'url_scheme': 'https'} if behind_tls else {'host': host, 'port': port}
    server = create_server(wsgi, _dispatcher=Threads(threads), **place, threads=threads, ident='ipython_erp5',
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
