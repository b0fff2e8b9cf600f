"""Cells of a notebook, every one in a process of its own; and the same cells in plain Python or in a stock IPython, in one process.

    test ── cells ──► place `node DIR`   ── a fork for each cell ──► Executor, shell, namespace, save, commit ──► database in DIR
         ── cells ──► place `python`     ── a fork for all cells ──► exec in one module `__main__`; nothing of ours is imported
         ── cells ──► place `ipython`    ── a fork for all cells ──► InteractiveShell.run_cell
         ◄─ what each cell did ──┘

A place is a process that has done the imports and runs nothing itself: `python fresh_process.py KIND FD DIR`. What a cell did is
an `Outcome`; of what may differ by design only addresses and the ways of saying that recursion was too deep are made equal.
All places use the same hash seed, so that a set of strings that was built alike is shown alike.
"""

import ast
import builtins
import contextlib
import functools
import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import types
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

TIMEOUT = 30  # seconds for a process
ADDRESS = re.compile(r'\b0x[0-9a-f]+')
NODE = 'a node of the tests'


@dataclass(frozen=True)
class Outcome:
    """What a cell did: its standard output, the text of its last expression, its error; on a node, `name: type` of what was not saved."""

    printed: str = ''
    result: str = ''
    ename: str = ''
    evalue: str = ''
    not_saved: tuple[str, ...] = ()

    @classmethod
    def of(cls, **fields: Any) -> 'Outcome':
        return cls(**{name: ADDRESS.sub('0x', value) if isinstance(value, str) else tuple(value) for name, value in fields.items()})

    def visible(self) -> tuple[str, ...]:
        """What plain Python shows too."""
        return self.printed, self.result, self.ename, self.evalue

    def only_generators(self) -> bool:
        """No serializer keeps these."""
        return all(lost.endswith(': generator') for lost in self.not_saved)

    def __str__(self) -> str:
        return '\n'.join(f'  {name}: {value}' for name, value in asdict(self).items() if value) or '  nothing'


# ---------------------------------------------------------------- the test's side
class Place:
    """A process that runs cells by forking. `run` gives one Outcome a cell; a cell whose process died is a `died`."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')])
        environment = {**os.environ, 'PYTHONHASHSEED': '0', 'IPYTHONDIR': str(directory / 'ipython'), 'PYTHONPATH': path}
        self.log = directory / f'{kind}.log'
        with open(self.log, 'ab') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-W', 'ignore', __file__, kind, str(theirs.fileno()), str(directory)], env=environment,
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        theirs.close()

    def run(self, cells: Sequence[str]) -> list[Outcome]:
        self.send(cells)
        return self.receive()

    def send(self, cells: Sequence[str]) -> None:
        self.connection.send_bytes(json.dumps(cells).encode())

    def receive(self) -> list[Outcome]:
        try:
            data = self.connection.recv_bytes()
        except (EOFError, OSError):
            self.process.wait(20)
            raise AssertionError(f'the place that forks has died:\n{self.log.read_text()}') from None
        return [Outcome.of(**fields) for fields in json.loads(data)]

    def close(self) -> None:
        self.connection.close()
        self.process.wait(20)


@contextlib.contextmanager
def place(kind: str, directory: Path) -> Iterator[Place]:
    opened = Place(kind, directory)
    try:
        yield opened
    finally:
        opened.close()


# ---------------------------------------------------------------- in a place
def forked(work: Callable[[Connection], None]) -> tuple[Connection, int]:
    """Start `work` in a copy of this process."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if not pid:
        ours.close()
        in_child(functools.partial(work, theirs))
    theirs.close()
    return ours, pid


def in_child(work: Callable[[], None]) -> NoReturn:
    code = 1
    signal.alarm(TIMEOUT)  # is its end
    try:
        work()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.__stderr__.flush()
        os._exit(code)


def received(connection: Connection, pid: int) -> Iterator[bytes]:
    """What the child sends, up to its end."""
    with contextlib.suppress(EOFError, OSError), connection:
        while True:
            yield connection.recv_bytes()
    os.waitpid(pid, 0)


def serve(connection: Connection, run: Callable[[list[str]], list[dict[str, Any]]]) -> None:
    with contextlib.suppress(EOFError):
        while True:
            cells = json.loads(connection.recv_bytes())
            connection.send_bytes(json.dumps(run(cells)).encode())


# ---------------------------------------------------------------- a node
class OnNode:
    """Runs the cells of one notebook as executor processes would that never run a second cell."""

    def __init__(self, directory: Path) -> None:
        import relstorage.blobhelper.cached  # noqa: F401 - so that not every child imports it, and the others
        import zc.lockfile  # noqa: F401
        import zope.publisher.browser  # noqa: F401
        import looks  # noqa: F401
        from ipython_erp5.node import claims, cluster, executor, journal, preload, storage
        self.storage, self.cluster, self.executor, self.shell = storage, cluster, executor, preload.shell
        self.claims, self.log = claims, journal.Journal()
        directory.joinpath('storage').mkdir(exist_ok=True)
        self.uri = storage.embedded_storage(directory)
        storage.resolve_uri = functools.cache(storage.resolve_uri)  # opens nothing, and takes longer than the rest of a small cell
        storage.resolve_uri(self.uri)
        list(received(*forked(lambda connection: self.install())))

    def install(self) -> None:
        self.cluster.install(self.storage.open_database(self.uri), 'admin', 'secret')

    def __call__(self, cells: list[str]) -> list[dict[str, Any]]:
        reference, ids = uuid.uuid4().hex, [uuid.uuid4().hex for _ in range(len(cells) + 1)]
        fields = ({'reference': reference, 'request_id': now, 'next_request_id': following, 'user': 'admin', 'python_expression': cell}
                  for cell, now, following in zip(cells, ids, ids[1:], strict=False))
        return [self.outcome(received(*forked(functools.partial(self.execute, request)))) for request in fields]

    def execute(self, fields: dict[str, Any], connection: Connection) -> None:
        from ipython_erp5 import wire
        notebooks = self.cluster.make_notebooks(self.uri, NODE)
        executor = self.executor.Executor(connection, notebooks, self.shell, self.log)
        executor.busy = True
        executor.run_request(wire.Request(**fields), self.claims.Known())

    @staticmethod
    def outcome(lines: Iterator[bytes]) -> dict[str, Any]:
        messages = [json.loads(line) for data in lines for line in data[1:].splitlines()]
        found: dict[str, Any] = {'printed': '', 'ename': 'died'}
        for message in messages:
            kind = message['msg_type']
            if kind == 'stream' and message['name'] == 'stdout':
                found['printed'] += message['text']
            elif kind == 'execute_result':
                found['result'] = message['data'].get('text/plain', '')
            elif kind == 'context':
                found['not_saved'] = [f'{lost["name"]}: {lost["type"]}' for lost in message['not_saved']]
            elif kind == 'execute_reply':
                found.update(failure(message['ename'], message['evalue']))
        return found


def failure(ename: str, evalue: str) -> dict[str, str]:
    """How deep the stack is when a cell begins differs, and so where recursion ends; that it ends does not."""
    return {'ename': ename, 'evalue': '' if ename == 'RecursionError' else evalue}


# ---------------------------------------------------------------- without a node
def in_python(cells: list[str], connection: Connection) -> None:
    """The cells in one module; the value of the last expression is shown and kept as IPython does."""
    from IPython.lib.pretty import pretty
    module = sys.modules['__main__'] = types.ModuleType('__main__')
    namespace = module.__dict__
    namespace['__builtins__'] = builtins

    def show(value: object) -> None:
        if value is not None:
            found['result'] = pretty(value)
            namespace.update({older: namespace[newer] for older, newer in (('___', '__'), ('__', '_')) if newer in namespace})
            namespace['_'] = value

    sys.displayhook = show
    for number, cell in enumerate(cells, 1):
        found: dict[str, Any] = {}
        output = sys.stdout = io.StringIO()
        try:
            run_like_ipython(cell, f'<cell {number}>', namespace)
        except BaseException as error:
            found.update(failure(type(error).__name__, str(error)))
        sys.modules['__main__'] = module
        connection.send_bytes(json.dumps({'printed': output.getvalue(), **found}).encode())


def run_like_ipython(cell: str, filename: str, namespace: dict[str, Any]) -> None:
    body = ast.parse(cell, filename).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), filename, 'exec'), namespace)
    if last is not None:
        exec(compile(ast.Interactive([last]), filename, 'single'), namespace)


def in_ipython(cells: list[str], connection: Connection) -> None:
    from IPython.core.interactiveshell import InteractiveShell
    module = sys.modules['__main__'] = types.ModuleType('__main__')
    shell = InteractiveShell.instance(user_module=module, user_ns=module.__dict__)
    for cell in cells:
        output = sys.stdout = io.StringIO()
        shell.showtraceback = shell._showtraceback = shell.showsyntaxerror = lambda *args, **kwargs: None  # type: ignore[method-assign]
        shell.displayhook.write_output_prompt = lambda: None  # type: ignore[method-assign]
        done = shell.run_cell(cell)
        error = done.error_before_exec or done.error_in_exec
        found = failure(type(error).__name__, str(error)) if error else {}
        connection.send_bytes(json.dumps({'printed': output.getvalue(), **found}).encode())


class InOneProcess:
    def __init__(self, work: Callable[[list[str], Connection], None]) -> None:
        import IPython.core.interactiveshell
        import IPython.lib.pretty
        import numpy
        import pandas
        import looks
        self.imported = IPython, numpy, pandas, looks  # all copies have them
        self.work = work

    def __call__(self, cells: list[str]) -> list[dict[str, Any]]:
        outcomes = [json.loads(data) for data in received(*forked(functools.partial(self.work, cells)))]
        return outcomes + [{'ename': 'died'}] * (len(cells) - len(outcomes))


KINDS: dict[str, Callable[[Path], Callable[[list[str]], list[dict[str, Any]]]]] = {
    'node': OnNode, 'python': lambda directory: InOneProcess(in_python), 'ipython': lambda directory: InOneProcess(in_ipython)}

if __name__ == '__main__':
    kind, fd, directory = sys.argv[1:]
    serve(Connection(int(fd)), KINDS[kind](Path(directory)))
