"""Export and import: the imported notebook is the exported one, in every storage, and a file that is not whole changes nothing."""

import contextlib
import json
import random
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import storages
from conftest import Node, running
from grammar import Writer, texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipython_erp5 import cli
from ipython_erp5.errors import ArchiveError, ERP5Error, NodeError
from ipython_erp5.node import archive, cluster, importing, storage
from ipython_erp5.session import Session


class Place:
    """A node, and the commands on its database."""

    def __init__(self, node: Node, uri: str = '') -> None:
        self.node, self.uri = node, uri

    def export(self, reference: str, path: Path, force: bool = False) -> Path:
        cluster.export_notebook(self.node.data_dir, self.uri, reference, path, force)
        return path

    def take(self, path: Path, reference: str = '', owner: str = '') -> str:
        return cluster.import_notebook(self.node.data_dir, self.uri, path, reference, owner).reference

    def faults(self, values: bool = False) -> list[str]:
        return [str(found) for found in cluster.verify(self.node.data_dir, self.uri, values) if found.faults]

    @contextlib.contextmanager
    def module(self) -> Iterator[Any]:
        """The notebooks, as another process sees them."""
        with cluster.existing_database(self.node.data_dir, self.uri) as database:
            connection = database.open()
            try:
                yield connection.root()['Application'].erp5.data_notebook_module
            finally:
                connection.close()

    def references(self) -> list[str]:
        with self.module() as module:
            return list(module.references)

    def pieces(self, reference: str) -> list[bytes]:
        """The digests of all pieces of a notebook."""
        with self.module() as module:
            return list(module.find(reference).stored.chunks.index)


@pytest.fixture(scope='module')
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv('PYTHONPATH', str(Path(__file__).parent))  # programs import `looks`
        place = Place(stack.enter_context(running(tmp_path_factory.mktemp('home'), '--placement', 'rotate')))
        yield place
        assert place.faults() == []


def outcome(session: Session, cell: str) -> list[str]:
    """What a cell shows."""
    shown: list[str] = []

    def add(message: Any) -> None:
        text = {'stream': lambda: message['text'], 'execute_result': lambda: message['data']['text/plain'],
                'error': lambda: f'{message["ename"]}: {message["evalue"]}'}.get(message['msg_type'])
        shown.extend([re.sub('0x[0-9a-f]+', '0x', text())] if text else [])

    with contextlib.suppress(ERP5Error):
        session.execute(cell, on_message=add)
    return shown


def members(path: Path) -> dict[str, Any]:
    """What a file says of itself, without what differs by design."""
    with zipfile.ZipFile(path) as file:
        manifest = json.loads(file.read(archive.MANIFEST))
    return {**manifest, 'written': None, 'notebook': {**manifest['notebook'], 'reference': '', 'owner': ''}}


# ---------------------------------------------------------------- what comes back
FILLING = ['''
import json, numpy as np
environment.define(limit=[1, 2])
class Point:
    kinds = []
    def __init__(self, x): self.x = x; self.kinds.append(x)
    def __repr__(self): return f'Point({self.x})'
def distance(p, q): return abs(p.x - q.x) + offset
offset = 10
p, q = Point(1), Point(4)
both = [p, q]
''', '''
array = np.arange(400_000.); view = array[10:20]; text = bytes(range(256)) * 800; long = list(range(30_000)); grown = bytearray(70_000)
zeros = np.zeros(300_000)
''', 'open_file = open("/dev/null")', 'len = 5', 'distance(p, q)', 'both', '1 / 0', 'del offset', 'offset = 100', '[json, limit]']
LATER = ['both[0] is p and both[1] is q and type(p) is Point and Point.kinds is q.kinds and Point.kinds == [1, 4]', 'distance(*both)',
         'view[0] = -1; array[10], view.base is not None, array.sum(), zeros.sum()', 'array[10], text[257], long[-1], grown.count(0)', '_',
         'open_file', 'len', 'json.dumps(limit)', 'environment.showSetup()', 'sorted(n for n in globals() if not n.startswith("_"))',
         'p.x = 9; both', 'both', 'del len; len(both)']


def test_everything_comes_back(home: Place, tmp_path: Path) -> None:
    with home.node.session('original') as one, home.node.session('copy') as two:
        for cell in FILLING:
            outcome(one, cell)
        one.execute('hidden = 1', store_history=False)
        path = home.export('original', tmp_path / 'original.erp5nb')
        assert home.take(path, 'copy') == 'copy' and {'original', 'copy'} <= set(home.references())
        assert members(home.export('copy', tmp_path / 'copy.erp5nb')) == members(path)
        assert {**one.context(), 'reference': ''} == {**two.context(), 'reference': ''} and len(two.context()['not_saved']) == 1
        history = ('[(line.id, line.created, line.listed, line.request_id, line.messages()) '
                   'for line in context.data_notebook_module.find({!r}).lines.values()]')
        with home.node.session() as other:
            assert other.execute(f'{history.format("original")} == {history.format("copy")}').result == {'text/plain': 'True'}
            assert other.execute('len(context.portal_catalog(reference="copy", owner="admin"))').result == {'text/plain': '1'}
        shown = [(outcome(one, cell), outcome(two, cell)) for cell in LATER]
    assert [mine for mine, _ in shown] == [others for _, others in shown]
    assert shown[0][0] == ['True'] and shown[1][0] == ['103'] and shown[2][0][0].startswith('(np.float64(-1.0), True, np.float64(79999')
    assert 'NotSavedError' in shown[5][0][0] and shown[-1][0] == ['2']


@pytest.mark.parametrize('seed', range(10))
def test_programs_go_on_in_the_copy(home: Place, tmp_path: Path, seed: int) -> None:
    cells = texts(Writer(seed).program())
    half = random.Random(seed).randrange(1, len(cells))
    with home.node.session(f'seed {seed}') as one, home.node.session(f'copy of {seed}') as two:
        for cell in cells[:half]:
            outcome(one, cell)
        path = home.export(f'seed {seed}', tmp_path / 'file')
        assert members(home.export(home.take(path, f'copy of {seed}'), tmp_path / 'again')) == members(path)
        for cell in cells[half:]:
            assert outcome(one, cell) == outcome(two, cell)


def test_nothing_is_unpickled_before_it_is_used(home: Place, tmp_path: Path) -> None:
    mark = tmp_path / 'mark'
    with home.node.session('loud') as one, home.node.session('quiet') as two:
        one.execute(f'class Loud:\n    def __setstate__(self, state): open({str(mark)!r}, "w").close()\nloud = Loud(); loud.x = 1')
        mark.unlink(missing_ok=True)
        home.take(home.export('loud', tmp_path / 'f'), 'quiet')
        assert home.faults() == [] and len(two.variables()) == 2 and two.execute('1').result and not mark.exists()
        two.execute('type(loud)')
        assert mark.exists()


# ---------------------------------------------------------------- other storages
@pytest.fixture(scope='module', params=['postgresql', 'zeo'])
def away(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """With blobs, and without."""
    folder = tmp_path_factory.mktemp('away')
    server = storages.postgresql(folder / 'server') if request.param == 'postgresql' else storages.zeo(folder / 'server', blobs=False)
    with server as uri, running(folder / 'node', '--storage', uri) as node:
        yield Place(node, uri)


def test_there_and_back(home: Place, away: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, and references to what the other database does not have. Pieces of 2 MiB are cut where there are no blobs."""
    monkeypatch.setattr(importing, 'LONGEST_RECORD', 1 << 20)
    name = f'traveller {away.uri[:4]}'
    with home.node.session(name) as one:
        one.execute('import numpy as np\na = np.tile(np.arange(1 << 17), 69); a[0] = -1; same = np.zeros(600_000); part = a[5:9]')
        one.execute('from persistent.mapping import PersistentMapping\nmodule = context.document_module\n'
                    'if "only here" not in module.objectIds():\n    module.newContent(id="only here", title="x")\n'
                    '    context.kept = PersistentMapping(a=1)\ndocument = module["only here"]')
        one.execute('mapping = context.kept')
        expected = outcome(one, 'a.sum(), same.sum(), module')
        request = one._request('print("once")', '', True)
        assert next(iter(list(one.delivery.run(request))))['text'] == 'once\n'
    path = home.export(name, tmp_path / 'there')
    assert away.take(path) == name
    assert len(away.pieces(name)) - len(home.pieces(name)) == (0 if away.uri.startswith('post') else -1)  # halves are equal
    with away.node.session(name) as two:
        assert outcome(two, 'a.sum(), same.sum(), module') == expected
        assert ('the document /erp5/document_module/only here is of the database from which this notebook was imported, and not in this '
                'one') in outcome(two, 'document')[0]
        assert 'it refers to an object of the database from which this notebook was imported' in outcome(two, 'mapping')[0]
        lines = two.context()['lines']
        assert next(iter(list(two.delivery.run(request))))['text'] == 'once\n' and two.context()['lines'] == lines  # it has been run
        two.execute('part[0] = 2')
        two.execute('assert a[5] == 2 and part[0] == 2; module.getId()')
    assert away.faults() == []
    back = home.take(away.export(name, tmp_path / 'back'), f'{name} again')
    with home.node.session(back) as three, home.node.session(name) as one:
        assert outcome(three, 'a[5], document.getTitle(), mapping["a"], part') == outcome(
            one, 'part[0] = 2; (a[5], document.getTitle(), mapping["a"], part)')
    assert home.faults() == []


# ---------------------------------------------------------------- while others work
def test_exports_packs_and_imports_while_cells_run(home: Place, tmp_path: Path) -> None:
    stop, failures = threading.Event(), []

    def work() -> None:
        try:
            with home.node.session('busy') as session:
                while not stop.is_set():
                    session.execute('import numpy as np\nturn = globals().get("turn", 0) + 1\n'
                                    'a = np.full(40_000, turn); b = np.full(40_000, -turn)')
        except BaseException as error:
            failures.append(error)
            raise

    def pack() -> None:
        while not stop.is_set():
            with contextlib.suppress(NodeError):
                cluster.pack(home.node.data_dir, '')

    with home.node.session('busy') as session:
        session.execute('turn = 0')
    threads = [threading.Thread(target=target) for target in (work, pack)]
    for thread in threads:
        thread.start()
    try:
        copies = [home.take(home.export('busy', tmp_path / f'{turn}'), f'busy {turn}') for turn in range(3)]
        assert home.faults() == []
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    cluster.pack(home.node.data_dir, '')
    for copy in copies:
        with home.node.session(copy) as session:
            session.execute('assert turn == 0 or (a == turn).all() and (b == -turn).all() and len(a) == 40_000')


def test_notebooks_are_made_at_the_same_moment(home: Place, tmp_path: Path) -> None:
    with home.node.session('template') as session:
        session.execute('x = 1')
    path = home.export('template', tmp_path / 'f')
    threads = [threading.Thread(target=home.take, args=(path, f'made {number}')) for number in range(4)]
    for thread in threads:
        thread.start()
    for number in range(10):
        with home.node.session(f'new {number}') as session:
            session.execute('x = 1')
    for thread in threads:
        thread.join()
    assert {f'made {number}' for number in range(4)} | {f'new {number}' for number in range(10)} <= set(home.references())


# ---------------------------------------------------------------- files that are not whole
@pytest.fixture(scope='module')
def small(home: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook with something of everything."""
    with home.node.session('small') as session:
        session.execute('import json\nx = [1]; y = x; text = b"abc" * 30_000; f = open("/dev/null"); environment.define(n=1)\n'
                        'class A: pass\na = A(); x')
    return home.export('small', tmp_path_factory.mktemp('small') / 'small')


def stored_files(home: Place) -> list[str]:
    return sorted(str(path) for path in (home.node.data_dir / 'storage' / 'blobs').rglob('*') if path.is_file())


def refused(home: Place, path: Path, text: str = 'is not the whole export of a notebook, or has been changed since') -> None:
    before = home.references(), stored_files(home)
    with pytest.raises(ArchiveError, match=text):
        home.take(path, 'refused')
    assert (home.references(), stored_files(home)) == before


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_other_byte_is_refused_or_says_nothing(home: Place, small: Path, tmp_path: Path, data: st.DataObject) -> None:
    """What is imported in spite of it is the same: times and attributes of the zip are of no meaning."""
    whole = bytearray(small.read_bytes())
    position = data.draw(st.integers(0, len(whole) - 1) | st.integers(len(whole) - 2500, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    path, name = tmp_path / 'changed', f'changed {position} {whole[position]}'
    path.write_bytes(whole)
    try:
        home.take(path, name)
    except ArchiveError:
        assert name not in home.references()
    else:
        assert members(home.export(name, tmp_path / 'again', force=True)) == members(small)


@pytest.mark.parametrize('part', [0, 10, .1, .5, .9, .99, -1])
def test_a_part_of_a_file_is_refused(home: Place, small: Path, tmp_path: Path, part: float) -> None:
    whole = small.read_bytes()
    (tmp_path / 'cut').write_bytes(whole[:part if isinstance(part, int) else int(part * len(whole))])
    refused(home, tmp_path / 'cut')


def rewritten(small: Path, path: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED) -> Path:
    """The file with members changed, or left out for None, by somebody who keeps the zip in order."""
    with zipfile.ZipFile(small) as old, zipfile.ZipFile(path, 'w', compression) as new:
        for member in old.infolist():
            content = change(member.filename, old.read(member))
            if content is not None:
                new.writestr(member.filename, content)
    return path


def in_manifest(old: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        assert name != archive.MANIFEST or old.encode() in data
        return data.replace(old.encode(), new.encode()) if name == archive.MANIFEST else data
    return change


CHANGES: dict[str, Callable[[str, bytes], bytes | None]] = {
    'another letter in the history': lambda name, data: data.replace(b'import json', b'import jsom') if name == 'history' else data,
    'another pickle': lambda name, data: data.replace(b'cloudpickle', b'clouspickle') if name == 'groups' else data,
    'no history': lambda name, data: None if name == 'history' else data,
    'no pieces': lambda name, data: None if name.startswith('pieces/') else data,
    'another piece': lambda name, data: bytes(len(data)) if name.startswith('pieces/') else data,
    'no manifest': lambda name, data: None if name == archive.MANIFEST else data,
    'a manifest of nothing': lambda name, data: b'[]' if name == archive.MANIFEST else data,
    'a deep manifest': lambda name, data: b'[' * 100_000 if name == archive.MANIFEST else data,
    'another format': in_manifest(archive.FORMAT, 'something else'),
    'other sizes': in_manifest('"size": 90000', '"size": 90001'),
    'a property of another type': in_manifest('"title": "small"', '"title": 7'),
    'a property that is a method': in_manifest('"title": "small"', '"getTitle": "x"'),
    'a last value that is not there': in_manifest('"\\u00000"', '"z"'),
    'more rights': in_manifest('"shares": []', '"shares": 7'),
}


@pytest.mark.parametrize('kind', CHANGES)
def test_a_file_that_was_changed_is_refused(home: Place, small: Path, tmp_path: Path, kind: str) -> None:
    refused(home, rewritten(small, tmp_path / 'changed', CHANGES[kind]))


def test_what_could_expand_is_refused(home: Place, small: Path, tmp_path: Path) -> None:
    refused(home, rewritten(small, tmp_path / 'packed', lambda name, data: data, zipfile.ZIP_DEFLATED), 'is compressed or encrypted')
    with zipfile.ZipFile(tmp_path / 'other', 'w') as file:
        file.writestr('../../escape', 'x')
    refused(home, tmp_path / 'other', 'no item named')
    rewritten(small, tmp_path / 'more', lambda name, data: data)
    with zipfile.ZipFile(tmp_path / 'more', 'a') as file:
        file.writestr('../../escape', 'x')
    refused(home, tmp_path / 'more', 'it has other members')
    (tmp_path / 'text').write_text('text')
    refused(home, tmp_path / 'text', 'not a zip file')
    refused(home, tmp_path / 'nothing', 'No such file')


def test_a_newer_version_is_refused(home: Place, small: Path, tmp_path: Path) -> None:
    path = rewritten(small, tmp_path / 'newer', in_manifest('"version": 1', '"version": 2'))
    refused(home, path, 'has version 2 of the format, and version 1 is known here: ipython_erp5 .* wrote it. Install that version')


# ---------------------------------------------------------------- the commands
@pytest.mark.usefixtures('small')
def test_the_commands(home: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def said(code: int, *arguments: str) -> str:
        assert cli.main([arguments[0], '--data-dir', str(home.node.data_dir), *arguments[1:]]) == code
        shown = capsys.readouterr()
        return shown.err if code else shown.out

    monkeypatch.chdir(tmp_path)
    with home.node.session('a/b: ü') as session:
        session.execute('x = 1')
    path = tmp_path / 'a_b_ü.erp5nb'
    assert said(0, 'export', 'a/b: ü') == f"Exported: 'a/b: ü': 1 line, 1 variable, 42 bytes; {path} has all of it.\n"
    assert path.stat().st_mode & 0o777 == 0o600 and list(tmp_path.iterdir()) == [path]
    before = path.read_bytes()
    assert 'exists already: name another file, or say --force' in said(1, 'export', 'a/b: ü')
    assert path.read_bytes() == before
    assert said(0, 'export', 'a/b: ü', str(path), '--force').startswith('Exported: ')
    assert "no notebook has the reference 'none'; there are '" in said(1, 'export', 'none')
    assert 'cannot be written: No such file or directory' in said(1, 'export', 'small', 'no/folder/file')
    assert list(tmp_path.iterdir()) == [path]
    assert "there is a notebook 'a/b: ü' already: name another reference by --reference" in said(1, 'import', str(path))
    assert said(0, 'import', path.name, '--reference', 'c') == "Imported: 'c': 1 line, 1 variable, 42 bytes; its owner is admin.\n"
    assert 'There is no user eve here: only Managers can use it until `ipython-erp5 user add eve`.' in said(
        0, 'import', path.name, '--reference', 'd', '--owner=eve')
    with pytest.raises(SystemExit) as usage:
        cli.main(['import'])
    assert usage.value.code == 2 and 'expected import FILE' in capsys.readouterr().err
    assert 'there is no database in' in cli_error(capsys, 'import', str(path), '--data-dir', str(tmp_path / 'empty'))


def cli_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(list(arguments)) == 1
    return capsys.readouterr().err


def test_there_is_no_site_before_a_node_has_run(small: Path, tmp_path: Path) -> None:
    (tmp_path / 'storage').mkdir()
    storage.open_database(storage.embedded_storage(tmp_path)).close()
    with pytest.raises(NodeError, match='the first start of a node with it makes one'):
        cluster.import_notebook(tmp_path, '', small, '', '')


@pytest.mark.parametrize('reference, name', [('sales 2026', 'sales_2026.erp5nb'), ('../../etc/passwd', 'etc_passwd.erp5nb'),
                                             ('', 'notebook.erp5nb'), ('..', 'notebook.erp5nb'), ('ü' * 300, 'ü' * 100 + '.erp5nb')])
def test_names_of_files(reference: str, name: str) -> None:
    assert archive.file_name(reference) == name
