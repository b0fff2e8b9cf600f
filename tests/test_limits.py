"""Limits that a node has: bytes of a variable, and room on the disk. What goes beyond is said, and costs itself only."""

import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Node, running
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from ipython_erp5 import wire
from ipython_erp5.errors import ERP5Error, NodeError
from ipython_erp5.node.cluster import Settings
from ipython_erp5.node.run import Run
from ipython_erp5.session import Session

SMALL = 3_900_000  # bytes of a file, less than one piece of an array of 160 MB


# ---------------------------------------------------------------- --variable-limit
@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Node]:
    with running(tmp_path / 'node', '--placement', 'rotate', '--variable-limit', '1MB') as node:
        yield node


def not_saved(session: Session, code: str) -> dict[str, str]:
    """Run a cell; what of it was not saved, and why."""
    return {item['name']: item['culprits'][0]['reason'] for item in session.execute(code).context['not_saved']}


def test_a_variable_beyond_the_limit(limited: Node, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with limited.session('limited') as session:
        session.execute('import numpy as np\nbig = [0]; a = np.zeros(1000)')
        assert not_saved(session, 'big = bytes(2_500_000); a = np.ones(100_000); c = [3]; nested = [a, c]') == {
            'big': '2.5 MB, more than the 1.0 MB that a variable may have here (--variable-limit): keep it in a file or in the database, '
                   'or in smaller parts'}
        session.execute('assert a.sum() == 100_000 and nested[0] is a and nested[1] is c == [3]')
        for use in ('big', 'len(big)'):  # not what it was before, either
            with pytest.raises(ERP5Error, match=r"'big' of an earlier cell was not saved: .*2.5 MB, more than the 1.0 MB"):
                session.execute(use)
        assert not_saved(session, 'many = {number: str(number) * 10 for number in range(100_000)}').keys() == {'many'}
        context = session.context()
        assert sorted(entry['name'] for entry in context['variables']) == ['a', 'c', 'nested']
        assert {entry['name'] for entry in context['not_saved']} == {'big', 'many'}
        shown = vars_magic(limited, monkeypatch, capsys)
        assert re.search(r'(?m)^big .*2\.5 MB, more than the 1\.0 MB', shown) and not re.search(r'(?m)^big +bytes', shown)
        assert not_saved(session, 'big = [1]; del many') == {}
        session.execute('assert big == [1]')
        assert session.context()['not_saved'] == []


def vars_magic(node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What `%erp5_vars` shows of the notebook."""
    for name, value in node.environment().items():
        monkeypatch.setenv(name, value)
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}))
    try:
        shell.run_line_magic('load_ext', 'ipython_erp5')
        shell.run_cell('%erp5_connect --reference limited').raise_error()
        capsys.readouterr()
        shell.run_cell('%erp5_vars').raise_error()
        return capsys.readouterr().out
    finally:
        InteractiveShell.clear_instance()


def test_a_variable_that_grows_beyond_the_limit(limited: Node) -> None:
    """It had a value that could be kept. What it shares with others goes with it only if they are as large."""
    with limited.session() as session:
        session.execute('text = ["x"]; pair = [text, 1]; other = [2]')
        assert not_saved(session, 'text *= 1_000_000; other.append(3)').keys() == {'text', 'pair'}
        with pytest.raises(ERP5Error, match="'text' of an earlier cell was not saved: .* more than the 1.0 MB"):
            session.execute('text')
        session.execute('assert other == [2, 3]')


@pytest.mark.parametrize(('text', 'size'), [('', 0), ('1000', 1000), ('5 kB', 5000), ('1.5GB', 1_500_000_000), ('2 tb', 2 * 10**12)])
def test_the_size_of_the_limit(tmp_path: Path, text: str, size: int) -> None:
    assert Settings(tmp_path, variable_limit=text).bytes_of_a_variable() == size


def test_a_limit_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="--variable-limit: expected bytes, such as 500MB or 2GB, got 'much'"):
        Settings(tmp_path, variable_limit='much').check()


# ---------------------------------------------------------------- a full disk
def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))


@pytest.fixture(params=['small disk', 'small files'])
def cramped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    """A node whose database has little room: on a file system of its own where this user may mount one, else with a limit of files."""
    storage = tmp_path / 'node' / 'storage'
    storage.mkdir(mode=0o700, parents=True)
    (tmp_path / 'node').chmod(0o700)
    unshare = ['unshare', '--map-root-user', '--mount', 'sh', '-c', 'mount -t tmpfs -o size=96m none "$0" && exec "$@"', str(storage)]
    may_mount = shutil.which('unshare') and not subprocess.run([*unshare, 'true'], capture_output=True).returncode
    disk = request.param == 'small disk' and may_mount
    with running(tmp_path / 'node', '--placement', 'rotate', prefix=unshare if disk else (), before=None if disk else limit_files) as node:
        yield node


# In cells: only they are where the file system is.
FILL = '''
import os, numpy as np
fd = os.open(STORAGE + '/filler', os.O_CREAT | os.O_WRONLY | os.O_APPEND)
try:
    while os.fstatvfs(fd).f_bavail * os.fstatvfs(fd).f_frsize > 1_000_000:
        os.write(fd, bytes(100_000))
except OSError as error:
    print(error)
os.close(fd)
'''
PACK = '''
import subprocess, sys
command = [sys.executable, '-m', 'ipython_erp5', 'pack', '--data-dir', os.path.dirname(STORAGE)]
done = subprocess.run(command, capture_output=True, text=True)
assert done.returncode == 0, done.stderr
'''
PIECES = '''
from pathlib import Path
pieces = sum(path.stat().st_size for path in Path(STORAGE).rglob('*.blob'))
'''


def test_a_full_disk(cramped: Node) -> None:
    with cramped.session() as session:
        session.execute(f"import numpy as np\nSTORAGE = '{cramped.data_dir}/storage'")
        session.execute("a = np.random.default_rng(1).random(3_750_000); b = [1]; c = 'text'")
        lost = not_saved(session, 'big = np.random.default_rng(0).random(20_000_000); d = {1: 2}; a[0] = 5.; b.append(2)')
        assert lost.keys() == {'big'}
        assert re.match(r'160,000,000 bytes of a large value have no room in the database \([\w ]+\): [\d,]+ bytes are free', lost['big'])
        session.execute("assert (a[0], b, c, d) == (5., [1, 2], 'text', {1: 2})")
        with pytest.raises(ERP5Error, match="'big' of an earlier cell was not saved: .*160,000,000 bytes of a large value have no room"):
            session.execute('big')
        session.execute(FILL)
        with pytest.raises(ERP5Error, match='(?s)disk.*: the cell ran, but the database refused its changes; nothing of it was saved'):
            session.execute('for number in range(100):\n    globals()[f"record{number}"] = os.urandom(50_000)\nb.append(3)')
        session.execute("assert b == [1, 2] and not any(name.startswith('record') for name in globals())")
        session.execute("os.remove(STORAGE + '/filler'); b.append(4)")
        session.execute('assert b == [1, 2, 4]; del a, big')
        session.execute(f'{PIECES}assert pieces >= 30_000_000; {PACK}')
        session.execute(f'{PIECES}assert pieces == 0')
        assert not_saved(session, 'large = np.random.default_rng(2).random(5_600_000)') == {}
        session.execute('assert len(large) == 5_600_000 and b == [1, 2, 4]')
    assert cramped.faults() == []


def test_a_database_that_cannot_be_written(tmp_path: Path) -> None:
    """No file may grow: what SQLite says then is no end of the process, and no cell that may have run."""
    with running(tmp_path / 'node', '--placement', 'sticky') as node, node.session('kept') as session:
        pid = int(session.execute('n = 1\nimport os\nos.getpid()').result['text/plain'])
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        with pytest.raises(ERP5Error, match='the cell ran, but the database refused its changes; nothing of it was saved'):
            session.execute('n = 2')   # which was announced
        with pytest.raises(ERP5Error, match='the database cannot be written, and nothing was run. Its disk needs room') as caught:
            session.execute(f'open({str(tmp_path / "ran")!r}, "x")')
        assert type(caught.value).__name__ == 'NodeError' and not (tmp_path / 'ran').exists()
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        session.execute('assert n == 1')
        assert [entry['code'] for entry in session.history()][1:] == ['assert n == 1'] and node.faults() == []


def test_what_is_not_kept_of_a_long_output_is_said() -> None:
    kept, line = Run(wire.Request()), wire.encode(wire.stream('stdout', 'x' * (1 << 20)))
    for _ in range(20):
        kept.add(line, False)
    kept.add(wire.encode(wire.execute_reply('ok', True, 'id')), True)
    *shown, said, reply = map(wire.decode, kept.follow())
    assert 0 < len(shown) <= 16 and 'more is missing here' in said['text'] and reply['msg_type'] == 'execute_reply'
