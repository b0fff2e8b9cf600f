"""Large values in every storage, and the removal of what no record needs: by command, by itself, while cells run."""

import contextlib
import fcntl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import storages
import transaction
from conftest import Node, running
from persistent.mapping import PersistentMapping
from ZODB.POSException import POSKeyError

from ipython_erp5.node import cluster, packing, storage
from ipython_erp5.session import Session


@contextlib.contextmanager
def address(kind: str, folder: Path) -> Iterator[str]:
    """The URI of a storage of a kind; '' for the one in the data directory of a node."""
    if kind == 'postgresql':
        with storages.postgresql(folder) as uri:
            yield uri
    elif kind.startswith('zeo'):
        with storages.zeo(folder, kind == 'zeo with blobs') as uri:
            yield uri
    else:
        yield ''


class Place:
    """A node and its storage."""

    def __init__(self, node: Node, uri: str) -> None:
        self.node, self.uri = node, uri

    def pack(self, *options: str) -> 'subprocess.CompletedProcess[str]':
        storage = ['--storage', self.uri] if self.uri else []
        return subprocess.run([sys.executable, '-m', 'ipython_erp5', 'pack', '--data-dir', str(self.node.data_dir), *storage, *options],
                              capture_output=True, text=True, timeout=100)

    @contextlib.contextmanager
    def stored(self, reference: str) -> Iterator[Any]:
        """The variables of a notebook as another process sees them in the database."""
        database = storage.open_database(self.uri or storage.embedded_storage(self.node.data_dir))
        connection = database.open(transaction.TransactionManager())
        try:
            yield connection.root()['Application'].erp5.data_notebook_module.find(reference).stored
        finally:
            connection.close()
            database.close()

    def pieces(self, reference: str, name: str) -> set[bytes]:
        with self.stored(reference) as stored:
            return {piece._p_oid for buffer in stored.groups[name].stored_buffers() for piece in buffer.pieces}

    def there(self, reference: str, oids: set[bytes]) -> int:
        """How many of the objects the database has."""
        with self.stored(reference) as stored:
            return sum(has(stored._p_jar, oid) for oid in oids)


def has(connection: Any, oid: bytes) -> bool:
    try:
        connection._storage.load(oid)
    except POSKeyError:
        return False
    return True


KINDS = ('sqlite', 'zeo', 'zeo with blobs', 'postgresql')


@pytest.fixture(scope='module', params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(request.param.replace(' ', '-'))
    with address(request.param, folder / 'server') as uri, \
            running(folder / 'node', '--placement', 'rotate', *(['--storage', uri] if uri else [])) as node:
        yield Place(node, uri)


# ---------------------------------------------------------------- every storage
def test_large_values_come_back(place: Place) -> None:
    """Each cell in another process than the one before."""
    with place.node.session() as session:
        session.execute('import numpy as np\na = np.arange(375_000); text = bytes(range(256)) * 800; part = a[10:20]; pair = {"a": a}')
        session.execute('assert a.nbytes == 3_000_000 and a.sum() == 70312312500 and text[257] == 1 and len(text) == 204_800')
        session.execute('part[1] = -1')
        session.execute('assert a[11] == -1 and pair["a"] is a and part.base is not None; a[-1] = 7; part = part[::-1]')
        session.execute('assert a[-1] == 7 and part[8] == -1; part[0] = 5')
        session.execute('assert a[19] == 5 and a.sum() == 70312312500 - 12 + (7 - 374_999) + (5 - 19)')
        sizes = {entry['name']: entry['size'] for entry in session.variables()}
        assert sizes['a'] == sizes['pair'] > 3_000_000 and 204_800 <= sizes['text'] < 210_000


def test_what_is_deleted_is_removed_by_a_pack(place: Place) -> None:
    with place.node.session('deleted') as session:
        session.execute('import numpy as np\nold = np.random.default_rng(0).random(375_000)')
        session.execute('kept = old + 1; text = old.tobytes()[:200_000]')
        old, kept, text = [place.pieces('deleted', name) for name in ('old', 'kept', 'text')]
        assert len(old) == len(kept) == 3 and len(text) == 1
        total = float(session.execute('kept.sum()').result['text/plain'].partition('(')[2].strip(')'))
        session.execute('del old, text')
        assert place.there('deleted', old | kept | text) == 7
        packed = place.pack()
        assert (packed.returncode, packed.stderr) == (0, '') and packed.stdout.startswith('Packed: '), packed
        assert place.there('deleted', old | text) == 0 and place.there('deleted', kept) == 3
        session.execute(f'assert kept.sum() == {total!r}')


def test_cells_run_while_packs_do(place: Place) -> None:
    """Nothing that is needed is removed, and no cell is refused: neither a long one, nor many short ones that move records about."""
    stop, turns = threading.Event(), [0, 0]
    failures: list[BaseException] = []

    def work(session: Session, number: int) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(stop.set)
            for turn in range(1000):
                session.execute(f"import numpy as np\nv{turn * 7919 % 211} = [{turn}]\n"
                                f"a{turn % 3} = np.full(20_000, {turn}.); a{turn % 3}[0] = {number}\nturns = {turn}\n"
                                + ('import time; time.sleep(1.5)' if turn % 20 == 5 else ''))
                turns[number] = turn
                if stop.is_set():
                    return

    def guarded(session: Session, number: int) -> None:
        try:
            work(session, number)
        except BaseException as error:
            failures.append(error)

    with place.node.session('one') as one, place.node.session('two') as two:
        threads = [threading.Thread(target=guarded, args=(session, number)) for number, session in enumerate((one, two))]
        for thread in threads:
            thread.start()
        results = []
        while len(results) < 4 or min(turns) <= 10 and not stop.is_set():
            results.append(place.pack())
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures and {(packed.returncode, packed.stderr) for packed in results} == {(0, '')}
        for number, session in enumerate((one, two)):
            session.execute(f'''
assert turns > 10
for turn in range(max(0, turns - 210), turns + 1):
    assert globals()[f'v{{turn * 7919 % 211}}'] == [turn]
for turn in range(turns - 2, turns + 1):
    a = globals()[f'a{{turn % 3}}']
    assert (a[0], a[1], len(a)) == ({number}, turn, 20_000)
''')


# ---------------------------------------------------------------- faults of RelStorage and their cures
# Between the list of all objects and the snapshot of their references a bucket is split: `t` gets new records for old values.
MOVED = textwrap.dedent('''
    import sys
    import transaction
    from BTrees.OOBTree import OOBTree
    from persistent.mapping import PersistentMapping
    from relstorage.adapters.packundo import HistoryFreePackUndo
    from ZODB.POSException import POSKeyError
    from ipython_erp5.node import storage

    if sys.argv[2] == 'without':
        storage.cure_packs = lambda: None
    manager = transaction.TransactionManager()
    database = storage.open_database(sys.argv[1])
    tree = database.open(manager).root()['t'] = OOBTree()
    def put(numbers):
        for number in numbers:
            tree[number] = PersistentMapping(number=number)
        manager.commit()

    put(range(30))
    original = HistoryFreePackUndo.fill_object_refs
    def split_first(self, *arguments):
        put(range(30, 200))
        return original(self, *arguments)
    HistoryFreePackUndo.fill_object_refs = split_first
    storage.open_database(sys.argv[1]).pack()
    lost = 0
    for value in storage.open_database(sys.argv[1]).open().root()['t'].values():
        try:
            value['number']
        except POSKeyError:
            lost += 1
    print(lost)
''')


@pytest.mark.parametrize('kind', ['sqlite', 'postgresql'])
@pytest.mark.parametrize('cure', ['with', 'without'])
def test_what_moves_during_a_pack_is_not_lost(tmp_path: Path, kind: str, cure: str) -> None:
    """'without' proves that the fault is there: when that fails, RelStorage has been repaired and the cure can go."""
    (tmp_path / 'storage').mkdir()
    with address(kind, tmp_path / 'server') as uri:
        done = subprocess.run([sys.executable, '-c', MOVED, uri or storage.embedded_storage(tmp_path), cure], capture_output=True,
                              text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) == 0) == (cure == 'with')


# All objects have changed since the pack before, with different numbers of references, so that batches end anywhere.
AGAIN = textwrap.dedent('''
    import sys
    import transaction
    from persistent.mapping import PersistentMapping
    from ipython_erp5.node import storage

    if sys.argv[2] == 'without':
        storage.cure_packs = lambda: None
    manager = transaction.TransactionManager()
    database = storage.open_database(sys.argv[1])
    root = database.open(manager).root()
    for turn in range(2):
        for n in range(1000):
            one = root.setdefault(n, PersistentMapping())
            one.update(turn=turn, others=[root[n * number % (n + 1)] for number in range(n * 7919 % 4)])
        manager.commit()
        storage.open_database(sys.argv[1]).pack()
''')


@pytest.mark.parametrize('cure', ['with', 'without'])
def test_what_has_changed_since_a_pack_can_be_packed_again(tmp_path: Path, cure: str) -> None:
    """'without': see above."""
    (tmp_path / 'storage').mkdir()
    done = subprocess.run([sys.executable, '-c', AGAIN, storage.embedded_storage(tmp_path), cure], capture_output=True, text=True,
                          timeout=60)
    assert (done.returncode == 0) == (cure == 'with'), done.stderr
    assert cure == 'with' or 'UNIQUE constraint failed: object_refs_added.zoid' in done.stderr


def test_a_pack_at_a_time(tmp_path: Path) -> None:
    with running(tmp_path / 'node') as node, open(tmp_path / 'node' / 'storage' / 'main.sqlite3.pack', 'ab') as lock:
        place = Place(node, '')
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = place.pack()
        assert refused.returncode == 1 and refused.stdout == ''
        assert refused.stderr == ('ipython-erp5: the database cannot be packed now: UnableToAcquirePackUndoLockError: '
                                  'another pack of it runs\n')
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert place.pack().returncode == 0


# ---------------------------------------------------------------- the command
def test_what_cannot_be_packed(tmp_path: Path) -> None:
    def pack(*options: str) -> str:
        done = subprocess.run([sys.executable, '-m', 'ipython_erp5', 'pack', '--data-dir', str(tmp_path / 'none'), *options],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and done.stdout == ''
        return done.stderr

    assert 'there is no database in' in pack()
    assert "--storage: expected a ZODB URI such as sqlite:///, postgres://, zeo://, got 'nonsense'" in pack('--storage', 'nonsense://x')
    with address('zeo', tmp_path / 'server') as uri, running(tmp_path / 'none', '--storage', uri):
        assert 'name it by --storage, as for zeo://' in pack()


def test_definitions_that_nobody_knows_go_while_no_node_runs(tmp_path: Path) -> None:
    """Cells look at them by themselves only now and then; a pack does not while cells may run, which could then not commit."""
    with running(tmp_path / 'node') as node, node.session('classes') as session:
        place = Place(node, '')
        for turn in range(5):
            session.execute(f'class A:\n    table = bytes([{turn}]) * 100_000\nx = A()')
        with place.stored('classes') as stored:
            assert len(stored.definitions) == 5
        assert place.pack().returncode == 0
        with place.stored('classes') as stored:
            assert len(stored.definitions) == 5
    before = files(tmp_path)
    assert place.pack().returncode == 0
    with place.stored('classes') as stored:
        assert len(stored.definitions) == 1
    assert before - files(tmp_path) == 400_000
    with running(tmp_path / 'node') as node, node.session('classes') as session:
        session.execute('assert type(x) is A and x.table[0] == 4')


def files(folder: Path) -> int:
    """Bytes of the pieces in the node's storage."""
    return sum(path.stat().st_size for path in (folder / 'node' / 'storage' / 'blobs').rglob('*.blob'))


def test_large_definitions_go_by_themselves(node: Node) -> None:
    """A class that is defined again and again: one of many megabytes counts as many."""
    with node.session() as session:
        for turn in range(4):
            session.execute(f'class A:\n    table = bytes([{turn}]) * 60_000_000')
        count = session.execute('[len(n.stored.definitions) for n in context.data_notebook_module.objectValues() '
                                f'if n.reference == {session.reference!r}][0]').result['text/plain']
        assert int(count) < 4


# ---------------------------------------------------------------- by itself
def test_a_node_packs_when_enough_is_not_needed(tmp_path: Path) -> None:
    with running(tmp_path / 'node', '--pack', 'never') as node, node.session('large') as session:
        session.execute('import numpy as np\na = np.random.default_rng(0).random(35_000_000); kept = np.arange(1_000_000)')
        session.execute('del a')
        time.sleep(1)
        assert node.events('packing', 'packed', 'not packed') == [] and files(tmp_path) == 288_000_000
    with running(tmp_path / 'node') as node, node.session('large') as session:
        end = time.monotonic() + 60
        while not node.events('packed') and time.monotonic() < end:
            time.sleep(.1)
        assert files(tmp_path) == 8_000_000
        session.execute('assert kept[-1] == 999_999')
        first, second = node.events('packing', 'packed', 'not packed')
        assert (first['event'], first['unneeded']) == ('packing', 280_000_000)
        assert second['event'] == 'packed' and second['before'] > 288_000_000 and second['after'] < 9_000_000
        assert first['node'] == second['node'] and second['seconds'] > 0


@pytest.mark.parametrize('site', [True, False])
def test_a_file_storage(tmp_path: Path, site: bool) -> None:
    """What a ZEO server has, while it does not run; any other database, too."""
    uri = f'file://{tmp_path}/data.fs'
    database = storage.open_database(uri)
    if site:
        cluster.install(database, 'admin', 'secret')
    with packing.opened(database) as root:
        root['garbage'] = PersistentMapping(data=bytes(1_000_000))
    with packing.opened(database) as root:
        del root['garbage']
    database.close()
    packed = cluster.pack(tmp_path, uri)
    assert packed.before.size - packed.after.size > 1_000_000 and packed.before.objects - packed.after.objects == 1


def test_one_node_packs(tmp_path: Path) -> None:
    """The others of the same database leave it alone for a while; who says `pack` is not asked to wait."""
    (tmp_path / 'storage').mkdir()
    databases = [storage.open_database(storage.embedded_storage(tmp_path)) for node in range(2)]
    cluster.install(databases[0], 'admin', 'secret')
    assert packing.pack(databases[0], packing.PAUSE) is not None
    assert packing.pack(databases[1], packing.PAUSE) is None
    assert packing.pack(databases[1]) is not None
    for database in databases:
        database.close()
