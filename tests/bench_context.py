"""What a cell costs in a notebook that holds much, when the cell touches little; against four others that keep variables.

    python -m pytest -m bench -s -o faulthandler_timeout=0 tests/bench_context.py
    … -k "persist and 000"       a part of it: persist, node, array, few, loop

persist   run `counter += 1` and keep the variables, for each context of `context_peers` and each of its schemes, in one process each
node      the same cell as `%%erp5` on a node, against itself in an empty notebook; and by how much the storage grows
array     one element of 1 GB, read and changed, each time by a process that has never seen it
few       under 100 small variables: against one record that is loaded and written whole
loop      loops of a cell against the same text in plain Python

All that is compared is measured in one run, in blocks that take turns; what takes half a minute is measured once. Times are
medians; those of loops are the shortest, as a loop that should always take the same time is only ever disturbed. Kishu is installed
into an environment of its own by the first test of `persist`, for which it needs the network.

The contexts of 1 GB want 12 GB of memory and as much of the disk, where `--basetemp` says.
"""

import contextlib
import functools
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import context_peers
import pytest
from conftest import Node, running
from context_peers import CELL, CONTEXTS
from IPython.core.interactiveshell import InteractiveShell

PEERS = ('ours', 'ERP5', 'dill', 'cloudpickle', 'Kishu')
KISHU = 'kishu==0.3.4'
FULL = [name for name in CONTEXTS if name != 'empty']
FEW = (1, 10, 50, 99)
KB, MB = 1 << 10, 1 << 20

NOT_SLOWER = 1.2  # than the cheapest peer, which keeps its values in memory; than one record: the limit is 1, the rest is noise
NAMED = .05       # of a cell, for each variable besides that the cell names: each has a record of its own
TOUCHED = 1.2     # times the same cell in an empty notebook
GROWTH = 64 * KB  # of the storage, for each cell
ELEMENT = 10.0    # ms for an element of a large array, beyond an int
PIECE = 32 * MB   # to change an element
LOOP = 1.05       # times plain Python

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600), pytest.mark.filterwarnings('default')]


# ---------------------------------------------------------------- measuring
def milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def taking_turns(calls: Mapping[str, Callable[[], float]], seconds: float, blocks: int = 8, cells: int = 20) -> dict[str, list[float]]:
    """What the calls return, in blocks that take turns: at least one, and at most `blocks`, until the time is over.

    A block is up to `cells` calls that fit into its share of the time, and at least one; the first tenth does not count.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    for number in range(blocks):
        if number and time.perf_counter() - start > seconds:
            break
        for name, call in calls.items():
            found[name] += block(call, cells, seconds / blocks / len(calls))
    return found


def block(call: Callable[[], float], cells: int, seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < cells and (not times or time.perf_counter() < end):
        times.append(call())
    return times[len(times) // 10:]


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(found) for name, found in times.items()}


def rounded(number: float) -> str:
    """Two or three digits: what the noise leaves."""
    return f'{number:.2f}' if number < 10 else f'{number:.1f}' if number < 100 else f'{number:,.0f}'.replace(',', ' ')


# ---------------------------------------------------------------- tables
class Table:
    """Rows of one topic; printed when all tests of this file are through, as it stands in the README."""

    def __init__(self, *columns: str) -> None:
        self.rows = [columns]

    def add(self, *cells: str) -> None:
        self.rows.append(cells)
        print('\n' + '  '.join(cells))

    def __str__(self) -> str:
        widths = [max(len(row[column]) for row in self.rows) for column in range(len(self.rows[0]))]
        ruler = '  '.join('=' * width for width in widths)
        rows = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in self.rows]
        return '\n'.join([ruler, *rows, ruler])


@pytest.fixture(scope='module')
def tables() -> Iterator[dict[str, Table]]:
    made = {'persist': Table('ms', *PEERS),
            'node': Table('notebook', 'ms', 'ms, empty', 'ratio', 'bytes written', 'bytes on disk'),
            'array': Table('1 GB array', 'ms', 'MB written'),
            'few': Table('variables', 'ours, ms', 'one record, ms', 'ratio'),
            'loop': Table('loop', 'cell, ms', 'Python, ms', 'ratio')}
    yield made
    for table in made.values():
        if len(table.rows) > 1:
            print(f'\n{table}')


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Some GB: not kept, as pytest keeps its folders."""
    made = tmp_path / 'bench'
    made.mkdir()
    yield made
    shutil.rmtree(made)


# ---------------------------------------------------------------- persist: each scheme in a process of its own
@pytest.fixture(scope='module')
def kishu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Python of an environment with Kishu."""
    folder = tmp_path_factory.mktemp('kishu')
    subprocess.run([sys.executable, '-m', 'venv', str(folder)], check=True)
    subprocess.run([str(folder / 'bin' / 'python'), '-m', 'pip', 'install', '--quiet', KISHU], check=True)
    yield folder / 'bin' / 'python'
    shutil.rmtree(folder)


class Peer:
    """A process of `context_peers`; it makes its context while others do."""

    def __init__(self, scheme: str, context: list[str], folder: Path, python: str = sys.executable) -> None:
        folder.mkdir()
        self.log = folder / 'log'
        environment = {**os.environ, 'HOME': str(folder), 'IPYTHONDIR': str(folder / 'ipython')}
        with open(self.log, 'w') as log:
            self.process = subprocess.Popen([python, context_peers.__file__, scheme, str(folder)], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        self.runs = 0
        self.ask(context)

    def ask(self, question: object) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(question), file=self.process.stdin, flush=True)

    def answer(self) -> str:
        assert self.process.stdout
        answer = self.process.stdout.readline().strip()
        assert answer, f'the process ended:\n{self.log.read_text()[-3000:]}'
        return answer

    def cell(self, source: str = CELL) -> float:
        """Run it; what it took there, in ms."""
        self.runs += 1
        self.ask(source)
        return float(self.answer())

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def peers(schemes: tuple[str, ...], context: list[str], folder: Path, pythons: Mapping[str, Path]) -> Iterator[dict[str, Peer]]:
    """One of each scheme. In the end every cell that was run must be on record."""
    with contextlib.ExitStack() as stack:
        started = {}
        for scheme in schemes:
            started[scheme] = Peer(scheme, context, folder / scheme, str(pythons.get(scheme, sys.executable)))
            stack.callback(started[scheme].stop)
        for peer in started.values():
            assert peer.answer() == 'ready'
        yield started
        for peer in started.values():
            peer.ask(None)
        assert {scheme: int(peer.answer()) for scheme, peer in started.items()} == {name: peer.runs for name, peer in started.items()}


@pytest.mark.parametrize('context', FULL)
def test_persist(kishu: Path, tables: dict[str, Table], folder: Path, context: str) -> None:
    with peers(PEERS, CONTEXTS[context], folder, {'Kishu': kishu}) as started:
        found = medians(taking_turns({scheme: peer.cell for scheme, peer in started.items()}, 12))
    tables['persist'].add(context, *(rounded(found[scheme]) for scheme in PEERS))
    cheapest = min(time for scheme, time in found.items() if scheme != 'ours')
    assert found['ours'] <= NOT_SLOWER * cheapest


@pytest.mark.parametrize('named', ['one', 'all'])
@pytest.mark.parametrize('number', FEW)
def test_few(tables: dict[str, Table], folder: Path, number: int, named: str) -> None:
    cell = CELL if named == 'one' else f'({"".join(f"v{n}, " for n in range(number))})\n{CELL}'
    with peers(('ours', 'one record'), context_peers.small(number), folder, {}) as started:
        calls = {scheme: functools.partial(peer.cell, cell) for scheme, peer in started.items()}
        found = medians(taking_turns(calls, 4, blocks=20, cells=50))
    ratio = found['ours'] / found['one record']
    tables['few'].add(f'{number}, {named} named', rounded(found['ours']), rounded(found['one record']), f'{ratio:.2f}')
    assert ratio <= NOT_SLOWER + (NAMED * number if named == 'all' else 0)


# ---------------------------------------------------------------- node: %%erp5
class Storage:
    """The node's database, seen from outside: what each commit has written into it, and how large it is."""

    def __init__(self, node: Node) -> None:
        self.folder = node.data_dir / 'storage'
        self.database = sqlite3.connect(self.folder / 'main.sqlite3', isolation_level=None)

    def number(self, query: str, *values: int) -> int:
        return int(self.database.execute(query, values).fetchone()[0] or 0)

    def tid(self) -> int:
        return self.number('SELECT max(tid) FROM object_state')

    def files(self) -> int:
        """Bytes of all files but SQLite's."""
        return sum(path.stat().st_size for path in self.folder.rglob('*') if path.is_file() and '.sqlite3' not in path.name)

    def size(self) -> int:
        """Bytes on disk. SQLite's log is left out: it is of some fixed size, and written over and over; its pages are counted."""
        return self.number('PRAGMA page_count') * self.number('PRAGMA page_size') + self.files()

    @contextlib.contextmanager
    def writing(self) -> Iterator[list[int]]:
        """Put the bytes of what is committed meanwhile into the list: records and blobs, wherever the storage has these."""
        written: list[int] = []
        before, files = self.tid(), self.files()
        yield written
        chunks = self.number('SELECT sum(length(chunk)) FROM blob_chunk WHERE tid > ?', before)
        written.append(self.number('SELECT sum(state_size) FROM object_state WHERE tid > ?', before) + max(chunks, self.files() - files))


def shell_of(node: Node, folder: Path, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    """A shell with a session of each name."""
    connections = folder / 'connections.ini'
    connections.touch(0o600)
    connections.write_text(''.join(f'[{name}]\nurl = {node.url}\nuser = {node.user}\npassword = {node.password}\nreference = {name}\n'
                                   for name in names))
    monkeypatch.setenv('ERP5_CONNECTIONS', str(connections))
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.run_cell('%load_ext ipython_erp5').raise_error()
    for name in names:
        shell.run_cell(f'%erp5_connect {name}').raise_error()
    return shell


@pytest.mark.parametrize('context', FULL)
def test_node(tables: dict[str, Table], folder: Path, monkeypatch: pytest.MonkeyPatch, context: str) -> None:
    with running(folder / 'node') as node:
        shell = shell_of(node, folder, ('empty', 'full'), monkeypatch)

        def run(name: str, cell: str = CELL) -> float:
            return milliseconds(lambda: shell.run_cell_magic('erp5', f'--connection {name}', cell))

        for name, cells in {'empty': CONTEXTS['empty'], 'full': CONTEXTS[context]}.items():
            for cell in ['counter = 0', *cells]:
                run(name, cell)
        found = medians(taking_turns({name: functools.partial(run, name) for name in ('empty', 'full')}, 8, blocks=20))
        written, grown = growth(Storage(node), functools.partial(run, 'full'))
    InteractiveShell.clear_instance()
    ratio = found['full'] / found['empty']
    tables['node'].add(context, rounded(found['full']), rounded(found['empty']), f'{ratio:.2f}', f'{max(written)}', f'{grown:.0f}')
    assert max(written) < GROWTH
    assert grown < GROWTH
    assert ratio <= TOUCHED


def growth(storage: Storage, cell: Callable[[], Any], seconds: float = 10) -> tuple[list[int], float]:
    """Of up to 20 cells: the bytes that each has written, and by how many the storage has grown for each of them."""
    written: list[int] = []
    size, end = storage.size(), time.perf_counter() + seconds
    while len(written) < 20 and (len(written) < 3 or time.perf_counter() < end):
        with storage.writing() as found:
            cell()
        written += found
    return written, (storage.size() - size) / len(written)


# ---------------------------------------------------------------- array: every cell in a fresh process
def test_array(tables: dict[str, Table], folder: Path) -> None:
    with running(folder / 'node', '--placement', 'fresh') as node, node.session() as session:
        for cell in ('import numpy as np', context_peers.array('a', 10**9), 'number = 5'):  # the import is a setup of all of them
            session.execute(cell)
        calls = {cell: functools.partial(milliseconds, functools.partial(session.execute, cell))
                 for cell in ('float(a[77_777_777])', 'number')}
        reads = medians(taking_turns(calls, 20, blocks=15, cells=3))
        storage = Storage(node)
        changes = [changed(storage, lambda: session.execute('a[77_777_777] += 1')) for _ in range(5)]
        rewrites = [changed(storage, lambda: session.execute('a *= 1.5')) for _ in range(2)]
        assert session.execute('number').result == {'text/plain': '5'}
    times = [*reads.values(), *(statistics.median(found[0] for found in each) for each in (changes, rewrites))]
    sizes = [0, 0, *(max(found[1] for found in each) for each in (changes, rewrites))]
    for row in zip(('read an element', 'read an int', 'change an element', 'change all of it'), times, sizes, strict=True):
        tables['array'].add(row[0], rounded(row[1]), f'{row[2] / MB:.2f}')
    assert times[0] - times[1] < ELEMENT
    assert sizes[2] <= PIECE
    assert times[2] < times[3]


def changed(storage: Storage, cell: Callable[[], Any]) -> tuple[float, int]:
    with storage.writing() as written:
        took = milliseconds(cell)
    return took, written[0]


# ---------------------------------------------------------------- loop: the text takes its own time
LOOPS = {
    'builtins': 'for _ in range(200_000): abs(-1); len("text"); range(1)',
    'globals': 'for _ in range(200_000): first + second; third[0]',
}
GLOBALS = 'first, second, third = 1000, 2000, [3]'
TIMED = '''
clock = __import__('time').perf_counter
times = []
for _run in range(7):
    start = clock()
    {}
    times.append(clock() - start)
print(1000 * min(times))
'''
ROUNDS = 3, 8  # new processes, at least and at most: now and then one of two plain Pythons is slower than LOOP from end to end
PLAIN = '''
import json, sys
namespace = {'__name__': '__main__', '__builtins__': __builtins__}
for line in sys.stdin:
    exec(compile(json.loads(line), '<cell>', 'exec'), namespace)
    print('end', flush=True)
'''


def places(loop: str) -> dict[str, tuple[str, str]]:
    """Where the loop can be: (an earlier cell, the cell that is measured)."""
    function = f'def work():\n    {loop}\n'
    return {'at top level': ('pass', TIMED.format(loop)), 'in a function': ('pass', function + TIMED.format('work()')),
            'in a function of an earlier cell': (function, TIMED.format('work()'))}


@contextlib.contextmanager
def plain_python() -> Iterator[Callable[[str], str]]:
    """Runs cells in one namespace of a plain Python; what they print."""
    process = subprocess.Popen([sys.executable, '-c', PLAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    stdin, stdout = process.stdin, process.stdout

    def run(cell: str) -> str:
        print(json.dumps(cell), file=stdin, flush=True)
        return ''.join(iter(stdout.readline, 'end\n'))

    try:
        yield run
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope='module')
def looping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(tmp_path_factory.mktemp('loop')) as node:
        yield node


@pytest.mark.parametrize('place', places(''))
@pytest.mark.parametrize('loop', LOOPS)
def test_loop(looping: Node, tables: dict[str, Table], loop: str, place: str) -> None:
    shortest = {'cell': float('inf'), 'Python': float('inf')}
    for number in range(ROUNDS[1]):
        found = in_new_processes(looping, *places(LOOPS[loop])[place])
        shortest = {name: min(time, *found[name]) for name, time in shortest.items()}
        ratio = shortest['cell'] / shortest['Python']
        if number + 1 >= ROUNDS[0] and ratio <= LOOP:
            break
    tables['loop'].add(f'{loop} {place}', rounded(shortest['cell']), rounded(shortest['Python']), f'{ratio:.2f}')
    assert ratio <= LOOP


def in_new_processes(node: Node, before: str, cell: str) -> dict[str, list[float]]:
    with node.session() as session, plain_python() as plain:
        for text in (GLOBALS, before):
            session.execute(text)
            plain(text)
        return taking_turns({'cell': lambda: float(session.execute(cell).text), 'Python': lambda: float(plain(cell))}, 2, cells=2)
