"""The store of large buffers: one contract for every storage, laws, pages that were written to, a disk that is full."""

import errno
import gc
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import pytest
import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storages import free_port
from ZODB.blob import Blob
from ZODB.POSException import POSKeyError

from ipython_erp5.errors import NotSavedError, StorageFullError
from ipython_erp5.node import chunks, storage
from ipython_erp5.node.chunks import Buffers, Chunks, Piece, StoredBuffer

MIB = 1 << 20


def content(size: int, seed: int = 0) -> bytearray:
    return bytearray(random.Random(seed).randbytes(size))


def changed_pieces(one: StoredBuffer, other: StoredBuffer) -> list[int]:
    return [number for number, (a, b) in enumerate(zip(one.digests, other.digests, strict=True)) if a != b]


# ---------------------------------------------------------------- every storage
@dataclass
class Place:
    """A database, and what a test needs to know about it. `blobs`: the folder that has the blobs that count; None if it has none."""

    uri: str
    cache: Path | None
    blobs: Path | None
    shared: bool  # several processes may have it open
    manager: Any = field(default_factory=transaction.TransactionManager)
    database: Any = None
    connection: Any = None  # kept: what nobody has closed and nobody refers to is a ResourceWarning from 3.13 on

    def open(self) -> Any:
        """A connection at the beginning of a transaction."""
        if self.database is None:
            self.database = storage.open_database(self.uri, self.cache)
        self.connection = self.database.open(self.manager)
        return self.connection

    def close(self) -> None:
        self.manager.abort()
        if self.database is not None:
            self.connection.close()
            self.database.close()
            self.database = None

    def begin(self) -> tuple[Any, Buffers]:
        """As a new process would: nothing is in memory. (root, buffers)"""
        self.close()
        root = self.open().root()
        if 'chunks' not in root:
            root['chunks'] = Chunks()
            self.manager.commit()
        return root, Buffers(root['chunks'])

    def keep(self, data: bytes | bytearray, name: str = 'value') -> StoredBuffer:
        root, buffers = self.begin()
        root[name] = stored = buffers.store(memoryview(data))
        buffers.use(stored)
        self.manager.commit()
        return stored

    def files(self) -> dict[Path, int]:
        """Everything in the folder of blobs that is a piece or may become one: path -> size."""
        return {path: path.stat().st_size for path in sorted(self.blobs.rglob('*')) if self.is_piece(path)} if self.blobs else {}

    @staticmethod
    def is_piece(path: Path) -> bool:
        return path.is_file() and path.name not in ('.layout', '.lock')


def sqlite(folder: Path) -> Iterator[Place]:
    yield Place(storage.embedded_storage(folder), None, folder / 'storage' / 'blobs', True)


def filestorage(folder: Path) -> Iterator[Place]:
    yield Place(f'file://{folder}/data.fs', None, folder / 'data.fs.blobs', False)


def filestorage_without(folder: Path) -> Iterator[Place]:
    (folder / 'zodb.conf').write_text(f'<filestorage>\n path {folder}/data.fs\n</filestorage>\n')
    yield Place(f'zconfig://{folder}/zodb.conf', None, None, False)


def zeo(folder: Path) -> Iterator[Place]:
    yield from zeo_server(folder, f'blob-dir {folder}/served', folder / 'served')


def zeo_without(folder: Path) -> Iterator[Place]:
    yield from zeo_server(folder, '', None)


def zeo_server(folder: Path, option: str, blobs: Path | None) -> Iterator[Place]:
    port = free_port()
    (folder / 'zeo.conf').write_text(f'<zeo>\n address 127.0.0.1:{port}\n</zeo>\n'
                                     f'<filestorage>\n path {folder}/data.fs\n {option}\n</filestorage>\n')
    process = subprocess.Popen([sys.executable, '-m', 'ZEO.runzeo', '-C', str(folder / 'zeo.conf')],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    try:
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(('127.0.0.1', port), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end
                time.sleep(.05)
        yield Place(f'zeo://127.0.0.1:{port}?wait_timeout=20', folder / 'cache', blobs, True)
    finally:
        process.terminate()
        process.wait(10)


STORAGES = [sqlite, filestorage, filestorage_without, zeo, zeo_without]


@pytest.fixture(params=STORAGES, ids=lambda function: function.__name__)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from closed_at_the_end(request.param(tmp_path))


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Place]:
    yield from closed_at_the_end(sqlite(tmp_path))


def closed_at_the_end(places: Iterator[Place]) -> Iterator[Place]:
    for place in places:
        try:
            yield place
        finally:
            place.close()


CHILD = textwrap.dedent('''
    import hashlib, json, sys
    from pathlib import Path
    from ipython_erp5.node import storage
    from ipython_erp5.node.chunks import Buffers
    uri, cache, write = json.loads(sys.argv[1])
    root = storage.open_database(uri, Path(cache) if cache else None).open().root()
    view = Buffers(root['chunks']).load(root['value'])
    if write:
        view[:] = bytes(len(view))
        print('written', flush=True)
        sys.stdin.readline()
    print(hashlib.sha256(view).hexdigest())
''')


def child(place: Place, write: bool) -> 'subprocess.Popen[str]':
    arguments = json.dumps([place.uri, str(place.cache or ''), write])
    return subprocess.Popen([sys.executable, '-c', CHILD, arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def sha256(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()


class TestEveryStorage:
    def test_another_process_loads_what_was_stored(self, place: Place) -> None:
        data = content(3 * MIB + 4097)
        stored = place.keep(data)
        assert (stored.size, len(stored.digests), len(stored.pieces)) == (len(data), 4, 4)
        assert {type(piece) for piece in stored.pieces} == {Blob if place.blobs else Piece}
        place.close()  # a FileStorage is one process's
        assert child(place, False).communicate(timeout=60)[0].strip() == sha256(data)

    def test_what_one_process_writes_no_other_one_sees(self, place: Place) -> None:
        data = content(2 * MIB + 1)
        place.keep(data)
        root, buffers = place.begin()
        first, second = buffers.load(root['value']), buffers.load(root['value'])
        first[MIB] ^= 1
        assert second == data and first != data
        if place.shared:
            other = child(place, True)
            assert other.stdout is not None and other.stdout.readline() == 'written\n'
            assert second == data and Buffers(root['chunks']).load(root['value']) == data
            assert other.communicate('\n', timeout=60)[0].strip() == sha256(bytes(len(data)))
        root, buffers = place.begin()
        assert buffers.load(root['value']) == data

    def test_one_changed_byte_stores_one_piece(self, place: Place) -> None:
        old = place.keep(content(8 * MIB))
        before = place.files()
        root, buffers = place.begin()
        view = buffers.load(root['value'])
        view[5 * MIB + 3] ^= 1
        new = buffers.store(view)
        assert changed_pieces(old, new) == [5]
        buffers.exchange([root['value']], [new])
        root['value'] = new
        place.manager.commit()
        after = place.files()
        assert sum(after.values()) - sum(before.values()) == (MIB if place.blobs else 0)
        assert len(root['chunks'].index) == 8 and root['chunks'].garbage == MIB
        root, buffers = place.begin()
        expected = content(8 * MIB)
        expected[5 * MIB + 3] ^= 1
        assert buffers.load(root['value']) == expected

    def test_what_was_not_written_to_is_the_same_and_costs_nothing(self, place: Place) -> None:
        data = content(2 * MIB + 100)
        place.keep(data)
        root, buffers = place.begin()
        view = buffers.load(root['value'])
        assert buffers.store(view) is root['value']
        assert view == data and buffers.store(view.toreadonly()) is root['value']
        assert not buffers.drafts

    def test_equal_contents_share_their_pieces(self, place: Place) -> None:
        stored = place.keep(content(3 * MIB))
        root, buffers = place.begin()
        before = place.files()
        longer = buffers.store(memoryview(content(3 * MIB) + b'more'))
        same = buffers.store(memoryview(content(3 * MIB)))
        assert same == root['value'] and longer.digests[:3] == stored.digests and longer.pieces[:3] == same.pieces
        buffers.use(longer)
        buffers.use(same)
        root['longer'], root['same'] = longer, same
        place.manager.commit()
        assert sum(place.files().values()) - sum(before.values()) == (4 if place.blobs else 0)
        assert [users for _, users in map(root['chunks'].index.get, longer.digests)] == [3, 3, 3, 1]

    def test_pack_removes_what_nobody_uses(self, place: Place) -> None:
        place.keep(content(2 * MIB, 1), 'gone')
        kept = place.keep(content(2 * MIB, 2), 'kept')
        root, buffers = place.begin()
        gone = [piece._p_oid for piece in root['gone'].pieces]
        shared = buffers.store(memoryview(content(2 * MIB, 2)))
        buffers.use(shared)
        buffers.release(shared)
        buffers.release(root.pop('gone'))
        place.manager.commit()
        assert root['chunks'].garbage >= 2 * MIB and set(root['chunks'].index) == set(kept.digests)
        place.database.pack()
        root, buffers = place.begin()
        for oid in gone:
            with pytest.raises(POSKeyError):
                root._p_jar.get(oid)
        assert buffers.load(root['kept']) == content(2 * MIB, 2)
        assert sum(place.files().values()) == (2 * MIB if place.blobs else 0)

    def test_what_was_stored_and_not_used_leaves_nothing(self, place: Place) -> None:
        root, buffers = place.begin()
        before = place.files()
        stored = buffers.store(memoryview(content(2 * MIB)))
        root['other'] = 1
        place.manager.commit()
        assert buffers.load(stored) == content(2 * MIB)
        del stored, buffers
        gc.collect()
        assert place.files() == before and not place_temporary(place)
        assert not root['chunks'].index

    def test_after_an_abort_nothing_is_left_and_it_can_be_stored_again(self, place: Place) -> None:
        root, buffers = place.begin()
        before = place.files()
        aborted = buffers.store(memoryview(content(2 * MIB)))
        buffers.use(aborted)
        root['value'] = aborted
        assert buffers.load(aborted) == content(2 * MIB)
        place.manager.abort()
        with pytest.raises(ValueError, match='store it again'):
            buffers.use(aborted)
        again = buffers.store(memoryview(content(2 * MIB)))
        buffers.use(again)
        root['again'] = again
        place.manager.commit()
        del aborted, buffers
        gc.collect()
        assert sum(place.files().values()) - sum(before.values()) == (2 * MIB if place.blobs else 0) and not place_temporary(place)
        root, buffers = place.begin()
        assert 'value' not in root and buffers.load(root['again']) == content(2 * MIB)

    def test_a_commit_that_is_refused_leaves_nothing(self, place: Place) -> None:
        root, buffers = place.begin()
        before = place.files()
        stored = buffers.store(memoryview(content(2 * MIB)))
        buffers.use(stored)
        root['value'] = stored
        root['refused'] = lambda: None  # cannot be pickled, and comes after the blobs
        with pytest.raises(Exception, match='pickle|lambda'):
            place.manager.commit()
        place.manager.abort()
        root['other'] = 1
        place.manager.commit()
        del stored, buffers
        gc.collect()
        assert place.files() == before and not place_temporary(place)
        root, _ = place.begin()
        assert 'value' not in root and not root['chunks'].index


def place_temporary(place: Place) -> list[str]:
    """Files on their way, also in the copies of a client."""
    directory = chunks.blob_directory(place.database.storage)
    return os.listdir(directory) if directory else []


# ---------------------------------------------------------------- laws
SIZES = st.sampled_from([0, 1, 4095, chunks.MINIMUM, MIB - 1, MIB, MIB + 1, 3 * MIB + 4097])


@pytest.fixture(scope='module')
def laws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield from closed_at_the_end(sqlite(tmp_path_factory.mktemp('laws')))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(SIZES, st.integers(0, 3), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4))
def test_pages_tell_what_hashing_tells(laws: Place, size: int, seed: int, changes: list[tuple[float, int]]) -> None:
    """And `load` and `store` are inverse."""
    data, place = content(size, seed), laws
    place.keep(data)
    root, buffers = place.begin()
    stored = root['value']
    view = buffers.load(stored)
    assert view == data and view.nbytes == size and not view.readonly and view.contiguous
    assert buffers.store(view) == stored
    for position, byte in changes if size else []:
        view[int(position * size)] = data[int(position * size)] = byte
    assert view == data
    told, hashed = buffers.store(view), buffers.store(memoryview(data))
    assert told == hashed and buffers.load(told) == data
    assert (told == stored) == (data == content(size, seed))


@given(st.integers(0, 1 << 44), st.sampled_from([chunks.LONGEST, chunks.LONGEST_RECORD]))
def test_the_length_of_the_pieces_follows_from_their_number(size: int, longest: int) -> None:
    length = chunks.length_for(size, longest)
    count = -(-size // length)
    assert length <= longest and (count <= chunks.ENOUGH or length == longest)
    assert chunks.length_of(size, count) == length or count <= 1


@pytest.mark.parametrize(('size', 'count'), [(10 * MIB, 0), (10 * MIB, 4), (MIB, 2)])
def test_a_number_of_pieces_that_no_length_gives(size: int, count: int) -> None:
    with pytest.raises(ValueError, match=f'{size} bytes cannot have {count} pieces'):
        chunks.length_of(size, count)


# ---------------------------------------------------------------- memory
def test_where_the_system_does_not_tell_everything_is_hashed(embedded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    old = embedded.keep(content(3 * MIB))
    monkeypatch.setattr(chunks, 'PAGEMAP', '/nonexistent/pagemap')
    root, buffers = embedded.begin()
    view = buffers.load(root['value'])
    assert buffers.store(view) is root['value']
    view[0] ^= 1
    assert changed_pieces(old, buffers.store(view)) == [0]


def test_only_a_view_of_the_whole_is_what_was_loaded(embedded: Place) -> None:
    embedded.keep(content(3 * MIB))
    root, buffers = embedded.begin()
    array = numpy.frombuffer(buffers.load(root['value']), dtype='u1')
    assert buffers.store(array.data) is root['value']
    assert buffers.store(array[:2 * MIB].data) == buffers.store(memoryview(content(3 * MIB)[:2 * MIB]))
    assert buffers.store(array.view('u8').data) is root['value']
    assert buffers.store(array.reshape(3, -1).data) is root['value']


def test_a_memory_goes_with_its_last_view(embedded: Place) -> None:
    embedded.keep(content(3 * MIB))
    root, buffers = embedded.begin()
    view = buffers.load(root['value'])
    part = numpy.frombuffer(view, dtype='u1')[MIB:MIB + 8]
    del view
    assert len(buffers.mappings) == 1 and bytes(part) == content(3 * MIB)[MIB:MIB + 8]
    del part
    assert not buffers.mappings


def test_a_child_of_the_process_has_its_own(embedded: Place) -> None:
    embedded.keep(content(MIB))
    root, buffers = embedded.begin()
    view = buffers.load(root['value'])
    view[0] ^= 1
    pid = os.fork()
    if not pid:
        view[:] = bytes(MIB)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    view[0] ^= 1
    assert view == content(MIB)


def test_a_file_may_be_removed_while_it_is_mapped(embedded: Place) -> None:
    embedded.keep(content(3 * MIB))
    root, buffers = embedded.begin()
    view = buffers.load(root['value'])
    buffers.release(root.pop('value'))
    embedded.manager.commit()
    embedded.database.pack()
    assert not embedded.files() and view == content(3 * MIB)


def test_a_piece_that_is_not_whole_is_an_error_and_not_a_crash(embedded: Place) -> None:
    embedded.keep(content(2 * MIB))
    path = next(iter(embedded.files()))
    path.chmod(0o600)
    os.truncate(path, 4096)
    root, buffers = embedded.begin()
    with pytest.raises(NotSavedError, match=f'expected {MIB} bytes, found 4096. Assign the variable again'):
        buffers.load(root['value'])


# ---------------------------------------------------------------- users
def test_a_buffer_with_the_same_piece_many_times(embedded: Place) -> None:
    stored = embedded.keep(bytes(5 * MIB))
    assert len(set(stored.pieces)) == 1 and sum(embedded.files().values()) == MIB
    root, buffers = embedded.begin()
    view = buffers.load(root['value'])
    view[2 * MIB] = 1
    assert bytes(view[:2 * MIB]) == bytes(2 * MIB) and not view[4 * MIB]
    buffers.release(root['value'])
    assert not root['chunks'].index and root['chunks'].garbage == MIB


def test_released_and_used_again_in_one_transaction(embedded: Place) -> None:
    embedded.keep(content(2 * MIB))
    root, buffers = embedded.begin()
    view = buffers.load(root['value'])
    buffers.release(root['value'])
    buffers.use(buffers.store(view))
    assert root['chunks'].garbage == 0
    assert [users for _, users in root['chunks'].index.values()] == [1, 1]
    embedded.manager.commit()
    root, buffers = embedded.begin()
    assert buffers.load(root['value']) == content(2 * MIB)


def test_a_digest_that_both_have_is_not_even_looked_at(embedded: Place) -> None:
    embedded.keep(content(2 * MIB))
    root, buffers = embedded.begin()
    buffers.exchange([root['value']], [root['value']])
    assert not root['chunks'].index._p_changed and not root._p_jar._registered_objects


# ---------------------------------------------------------------- no room
SMALL = 900 << 10

FULL = textwrap.dedent('''
    import os, sys
    from pathlib import Path
    import transaction
    from ipython_erp5.errors import StorageFullError
    from ipython_erp5.node import storage
    from ipython_erp5.node.chunks import Buffers, Chunks

    folder = Path(sys.argv[1])
    def root():
        return storage.open_database(storage.embedded_storage(folder)).open().root()
    first = root()
    first['chunks'] = Chunks()
    transaction.commit()
    buffers = Buffers(first['chunks'])
    small, large = bytes(range(256)) * 256, os.urandom(8 << 20)
    first['small'] = buffers.store(memoryview(small))
    buffers.use(first['small'])
    try:
        buffers.store(memoryview(large))
    except StorageFullError as error:
        assert error.needed == 8 << 20 and error.free >= 0
        print(error)
    else:
        sys.exit('there was room')
    temporary = os.listdir(folder / 'storage' / 'blobs' / 'tmp')
    assert len(temporary) == 1, temporary  # of the small one, which waits for the commit
    transaction.commit()
    again = root()
    assert Buffers(again['chunks']).load(again['small']) == small and len(again['chunks'].index) == 1
''')


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))


@pytest.fixture(params=['small disk', 'small files'])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], 'subprocess.CompletedProcess[str]']:
    """Run `FULL` where there is little room: on a file system of its own where this user may mount one, else with a limit of files."""
    plain = [sys.executable, '-c', FULL, str(tmp_path)]
    mounted = ['unshare', '--map-root-user', '--mount', 'sh', '-c', 'mount -t tmpfs -o size=22m none "$4" && exec "$@"', 'sh', *plain]
    may_mount = shutil.which('unshare') and not subprocess.run(['unshare', '--map-root-user', '--mount', 'mount', '-t', 'tmpfs', 'none',
                                                                str(tmp_path)], capture_output=True).returncode
    disk = request.param == 'small disk' and may_mount
    return lambda: subprocess.run(mounted if disk else plain, capture_output=True, text=True, timeout=60,
                                  preexec_fn=None if disk else limit_files)


def test_a_buffer_for_which_there_is_no_room(small: Callable[[], 'subprocess.CompletedProcess[str]']) -> None:
    """It costs itself: it leaves no part of it, and the transaction can be committed."""
    done = small()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('8,388,608 bytes of a large value have no room in the database (')
    assert 'bytes are free. Delete what is not needed' in done.stdout


def test_the_error_is_also_what_a_caller_would_guess() -> None:
    error = StorageFullError(10, 5, errno.ENOSPC)
    assert isinstance(error, OSError) and (error.needed, error.free) == (10, 5) and 'pack' in str(error)
    assert '(Read-only file system), or of the node' in str(StorageFullError(10, 5, errno.EROFS))


# ---------------------------------------------------------------- where the blobs are
def test_blobs_of_the_embedded_database_are_beside_it_and_for_nobody_else(embedded: Place) -> None:
    embedded.keep(content(MIB))
    assert embedded.blobs is not None and embedded.blobs.stat().st_mode & 0o777 == 0o700
    assert list(embedded.files().values()) == [MIB]


def test_a_folder_that_the_uri_names_counts(tmp_path: Path) -> None:
    place = Place(f'{storage.embedded_storage(tmp_path)}&blob_dir={tmp_path}/mine&shared_blob_dir=true', tmp_path / 'cache',
                  tmp_path / 'mine', True)
    place.keep(content(MIB))
    place.close()
    assert list(place.files().values()) == [MIB] and not (tmp_path / 'cache').exists()
    assert not (tmp_path / 'storage' / 'blobs').exists()


def test_the_copies_of_two_databases_are_in_two_folders(tmp_path: Path) -> None:
    one, other = (storage.with_blobs(f'postgres://user@host/{name}?keep_history=false', tmp_path) for name in ('one', 'other'))
    assert one.startswith('postgres://user@host/one?keep_history=false&blob_dir=') and 'shared_blob_dir=0' in one
    assert one.partition('blob_dir=')[2] != other.partition('blob_dir=')[2]
    assert storage.with_blobs('postgres://user@host/one', None) == 'postgres://user@host/one'
    assert storage.with_blobs('memory://', tmp_path) == 'memory://'


def test_a_copy_that_has_gone_is_fetched_again(tmp_path: Path) -> None:
    for place in closed_at_the_end(zeo(tmp_path)):
        place.keep(content(2 * MIB))
        place.close()
        assert place.cache is not None
        copies = [path for path in place.cache.rglob('*.blob')]
        assert sum(path.stat().st_size for path in copies) == 2 * MIB
        root, buffers = place.begin()
        for piece in root['value'].pieces:
            piece._p_activate()
        for path in copies:
            path.unlink()
        assert buffers.load(root['value']) == content(2 * MIB)


def test_processes_that_make_the_folder_at_the_same_moment(tmp_path: Path) -> None:
    code = 'import sys; from pathlib import Path; from ipython_erp5.node import storage; print(storage.shared_folder(Path(sys.argv[1])))'
    processes = [subprocess.Popen([sys.executable, '-c', code, str(tmp_path / 'blobs')]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (tmp_path / 'blobs' / '.layout').read_text() == 'bushy' and sorted(os.listdir(tmp_path / 'blobs')) == ['.layout', 'tmp']


# ---------------------------------------------------------------- what a killed process leaves
KILLED = textwrap.dedent('''
    import os, signal, sys
    from pathlib import Path
    import transaction
    from ipython_erp5.node import storage
    from ipython_erp5.node.chunks import Buffers

    root = storage.open_database(storage.embedded_storage(Path(sys.argv[1]))).open().root()
    buffers = Buffers(root['chunks'])
    root['lost'] = buffers.store(memoryview(os.urandom(3 << 20)))
    if sys.argv[2] != 'stored':
        buffers.use(root['lost'])
    if sys.argv[2] == 'voted':
        transaction.get().join(type('Last', (), {
            'sortKey': lambda self: '~', 'tpc_begin': lambda *a: None, 'commit': lambda *a: None,
            'tpc_vote': lambda *a: os.kill(os.getpid(), signal.SIGKILL)})())
        transaction.commit()
    os.kill(os.getpid(), signal.SIGKILL)
''')


@pytest.mark.parametrize('moment', ['stored', 'used', 'voted'])
def test_what_a_killed_process_has_left_is_removed(tmp_path: Path, embedded: Place, moment: str) -> None:
    embedded.keep(content(2 * MIB))
    kept = embedded.files()
    embedded.close()
    assert subprocess.run([sys.executable, '-c', KILLED, str(tmp_path), moment], timeout=60).returncode == -signal.SIGKILL
    root, buffers = embedded.begin()
    assert 'lost' not in root and sum(embedded.files().values()) == 5 * MIB
    assert storage.remove_left_blobs(embedded.database) == 0  # it could still be on its way
    embedded.database.pack()
    assert storage.remove_left_blobs(embedded.database, older=-60) == 3 * MIB
    assert embedded.files() == kept and buffers.load(root['value']) == content(2 * MIB)


def test_nothing_is_removed_that_the_database_has(place: Place) -> None:
    place.keep(content(2 * MIB))
    before = place.files()
    root, buffers = place.begin()
    assert storage.remove_left_blobs(place.database, older=-60) == 0
    assert place.files() == before and buffers.load(root['value']) == content(2 * MIB)
