"""One process that keeps a notebook's variables by one scheme, for `bench_context`: ours, and those it is compared with.

    bench ── a cell, as JSON ─► run it, keep the variables ── milliseconds ─► bench
             null            ─► look what is on record     ── how many times CELL has been kept ─► bench

All but Kishu run the cell as the node does, with its shell, its claim, its history line and its commit to RelStorage on SQLite,
and differ only in what becomes of the variables:

    ours         what `Notebooks` does; a new namespace for every cell
    ERP5         as facts about `Base_executeJupyter` have it: try for every value, leaf by leaf, whether it can be pickled and
                 unpickled, then pickle all of them together into one record
    dill         dill of all variables, as its `dump_session`, into one record
    cloudpickle  the same with cloudpickle
    one record   the same, and loaded from there for every cell: what it takes where the next cell may run in any process

To ERP5, dill and cloudpickle the loading is a present. Kishu runs in IPython's shell by its own hooks, in an environment with the
versions that it wants, and writes where it writes; its test mode stands for the notebook's file, which no cell of it waits for.
"""

import contextlib
import json
import os
import pickle
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CELL = 'counter += 1'
LARGEST = 256 << 20  # bytes of a record: SQLite refuses rows of 1e9


# ---------------------------------------------------------------- contexts: cells that make them
def small(number: int) -> list[str]:
    """Variables v0, v1, …: numbers, texts and lists; at most 1000 a cell, as Kishu compares all new ones with each other."""
    cell = 'globals().update({{f"v{{n}}": (n, f"text {{n}}", [n])[n % 3] for n in range({}, {})}})'
    return [cell.format(start, min(start + 1000, number)) for start in range(0, number, 1000)]


def array(name: str, size: int) -> str:
    return f'{name} = __import__("numpy").random.default_rng().random({size // 8})'


CONTEXTS = {
    'empty': [],
    '10 small variables': small(10),
    '100': small(100),
    '1 000': small(1000),
    '10 000': small(10_000),
    'array of 100 MB': [array('a', 10**8)],
    '10 arrays, 1 GB': ['; '.join(array(f'a{number}', 10**8) for number in range(10))],
    'DataFrame 1e6×10': ['frame = __import__("pandas").DataFrame(__import__("numpy").random.default_rng().random((1_000_000, 10)))'],
    'nested, 1e6 objects': ['nested = [{"key": [n]} for n in range(333_333)]'],
}


# ---------------------------------------------------------------- schemes
def erp5(values: dict[str, Any]) -> bytes:
    return pickle.dumps({name: value for name, value in values.items() if storable(value)})


def storable(value: object) -> bool:
    if isinstance(value, dict):
        return all(storable(key) and storable(item) for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(storable, value))
    try:
        pickle.loads(pickle.dumps(value))
    except (pickle.PicklingError, TypeError, NameError, AttributeError):
        return False
    return True


def dill(values: dict[str, Any]) -> bytes:
    import dill
    return bytes(dill.dumps(values))


def cloudpickle(values: dict[str, Any]) -> bytes:
    import cloudpickle
    return cloudpickle.dumps(values)


class Ours:
    """Cells as an executor runs them."""

    def __init__(self, folder: Path) -> None:
        from ipython_erp5.node import cluster, portal, storage
        from ipython_erp5.node.claims import Known
        from ipython_erp5.node.executor import Executor
        from ipython_erp5.node.preload import shell
        portal.configure_security()
        (folder / 'storage').mkdir()
        uri = storage.embedded_storage(folder)
        with contextlib.closing(storage.open_database(uri)) as database:
            cluster.install(database, 'admin', 'secret')
        self.notebooks = cluster.make_notebooks(uri, 'here')
        self.executor = Executor(Nobody(), self.notebooks, shell, sys.stderr)  # type: ignore[arg-type]
        self.known, self.next_id = Known(), uuid.uuid4().hex

    def run(self, source: str) -> None:
        from ipython_erp5 import wire
        request_id, self.next_id = self.next_id, uuid.uuid4().hex
        request = wire.Request(reference='bench', request_id=request_id, next_request_id=self.next_id, user='admin',
                               python_expression=source)
        with self.notebooks.open(request, self.known) as opened:
            self.cell(request, opened)
            assert opened.commit(request, b'', '', '') is None

    def cell(self, request: Any, opened: Any) -> None:
        error = self.run_in(opened, request)
        assert error is None, error
        message = opened.save(request, None)
        assert not message['not_saved'], message

    def run_in(self, opened: Any, request: Any) -> BaseException | None:
        from ipython_erp5.node.carrying import Carrier
        return self.executor.run(request, opened, Carrier(request, opened, self.notebooks.connection.root()))

    def begin(self) -> None:
        """The context is there."""

    def stored(self) -> int:
        from ipython_erp5 import wire
        self.notebooks.connection.cacheMinimize()
        request = wire.Request(reference='bench', request_id=uuid.uuid4().hex, user='admin', python_expression='counter + 0;')
        with self.notebooks.open(request, self.known) as opened:
            assert self.run_in(opened, request) is None
            return int(opened.namespace['counter'])


class Nobody:
    """Where the messages of the cells go."""

    def send_bytes(self, data: bytes) -> None:
        pass


class Whole(Ours):
    """The same, but the variables live here, and all of them are written into one record after every cell."""

    def __init__(self, folder: Path, dumps: Callable[[dict[str, Any]], bytes], reload: bool = False) -> None:
        super().__init__(folder)
        self.dumps, self.reload = dumps, reload
        self.values: dict[str, Any] = {}
        self.begun = False

    def begin(self) -> None:
        """The first cell that is measured writes all that was made before."""
        self.begun = True

    def cell(self, request: Any, opened: Any) -> None:
        namespace = opened.namespace
        given = set(namespace)
        namespace.update(self.loaded(opened.notebook) if self.reload else self.values)
        error = self.run_in(opened, request)
        assert error is None, error
        self.values = {name: value for name, value in namespace.items() if name not in given}
        for name in self.values:
            del namespace[name]
        if self.reload or self.begun:
            self.write(opened.notebook, self.dumps(self.values))
        opened.save(request, None)

    @staticmethod
    def write(notebook: Any, data: bytes) -> None:
        """One record, or as few as SQLite takes. The attribute of the notebook is set once."""
        from persistent.mapping import PersistentMapping
        number = (len(data) - 1) // LARGEST + 1
        if len(getattr(notebook, 'whole', ())) != number:
            notebook.whole = tuple(PersistentMapping() for _ in range(number))
        for position, record in enumerate(notebook.whole):
            record['data'] = data[position * LARGEST:(position + 1) * LARGEST] if number > 1 else data

    @staticmethod
    def loaded(notebook: Any) -> Any:
        records = getattr(notebook, 'whole', ())
        return pickle.loads(b''.join(record['data'] for record in records)) if records else {}

    def stored(self) -> int:
        self.notebooks.manager.begin()
        self.notebooks.connection.cacheMinimize()
        notebook, = self.notebooks.application.erp5.data_notebook_module.objectValues()
        return int(self.loaded(notebook).get('counter', 0))


class Kishu:
    """Its hooks, installed by its own `init_kishu`, in a shell without a front end."""

    def __init__(self, folder: Path) -> None:
        notebook = folder / 'bench.ipynb'
        os.environ.update(TEST_NOTEBOOK_PATH=str(notebook), ENV_KISHU_TEST_MODE='1', KISHU_PATH_ROOT=str(folder))
        import nbformat
        from IPython.core.interactiveshell import InteractiveShell
        nbformat.write(nbformat.v4.new_notebook(), notebook)
        self.shell = InteractiveShell.instance()
        self.run('from kishu import init_kishu\ninit_kishu()')
        self.database = sqlite3.connect(notebook.with_suffix('.kishudb'))

    def run(self, source: str) -> None:
        self.shell.run_cell(source, store_history=True).raise_error()

    def begin(self) -> None:
        """The context is there."""

    def stored(self) -> int:
        """Cells that it has kept something of. An error in its hooks is only printed."""
        return int(self.database.execute('SELECT count(DISTINCT commit_id) FROM variable_snapshot').fetchone()[0])


SCHEMES: dict[str, Callable[[Path], Any]] = {
    'ours': Ours,
    'ERP5': lambda folder: Whole(folder, erp5),
    'dill': lambda folder: Whole(folder, dill),
    'cloudpickle': lambda folder: Whole(folder, cloudpickle),
    'one record': lambda folder: Whole(folder, cloudpickle, reload=True),
    'Kishu': Kishu,
}


def serve(scheme: str, context: list[str], folder: Path, requests: Iterable[str], replies: Any) -> None:
    runner = SCHEMES[scheme](folder)
    for cell in ['counter = 0', *context]:
        runner.run(cell)
    runner.begin()
    before = runner.stored()
    print('ready', file=replies, flush=True)
    for request in requests:
        cell = json.loads(request)
        print(runner.stored() - before if cell is None else milliseconds(runner, cell), file=replies, flush=True)


def milliseconds(runner: Any, cell: str) -> float:
    start = time.perf_counter()
    runner.run(cell)
    return 1000 * (time.perf_counter() - start)


if __name__ == '__main__':  # SCHEME FOLDER, and a JSON list of cells as the first line of stdin
    answers, sys.stdout = sys.stdout, sys.stderr  # Kishu and IPython print
    serve(sys.argv[1], json.loads(sys.stdin.readline()), Path(sys.argv[2]), sys.stdin, answers)
