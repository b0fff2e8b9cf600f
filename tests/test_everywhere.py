"""Where nobody looks on: programs that run a notebook, a script or a command to its end, and tools that read marked cells.

    a notebook ─► ipython, nbconvert, papermill, nbclient ─┐
    a script   ─► ipython, python                         ─┼─► what was asked for, and nothing that only somebody at a screen needs;
    a command  ─► ipython -c                              ─┘   a remote error ends it, with the remote reason and a status that is not 0
    a marked cell ─► ruff, black ─► the same cell, still marked

The places where somebody types are in `test_session_kinds.py` and `test_jupyterlab.py`.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest
from conftest import Node
from IPython.core.inputtransformer2 import TransformerManager

import ipython_erp5
from ipython_erp5 import errors, transformer

pytestmark = pytest.mark.filterwarnings('ignore:Kernel is running over TCP')

ROOT = Path(__file__).parent.parent
LOAD = '%load_ext ipython_erp5'
PROFILE = "c.InteractiveShellApp.extensions = ['ipython_erp5']\nc.ERP5Magics.reference = 'from the profile'\n"

# What runs a notebook, as somebody would type it after `python -m`.
PROGRAMS = {
    'ipython': 'IPython {book}',
    'nbconvert': 'nbconvert --execute --to notebook --output {out} {book}',
    'papermill': 'papermill {book} {out}',
}
# The third cell takes long enough for whatever tells somebody at a screen that it still runs.
GOOD = [LOAD, '# erp5\nimport time\nimport matplotlib.pyplot as plt', '# erp5\nprint("has begun")\ntime.sleep(2.5)\n6 * 7',
        '# erp5\nplt.plot([1, 4, 9]);']
BAD = [LOAD, '# erp5\nclass TooSmall(ValueError): pass', '# erp5\nraise TooSmall("3 < 10")', '# erp5\nprint("never")']


@pytest.fixture
def environment(node: Node, tmp_path: Path) -> dict[str, str]:
    """Of a program that finds the node; its notebook there is the test's own."""
    return {**node.environment(), 'IPYTHONDIR': str(tmp_path / 'ipython'), 'ERP5_REFERENCE': f'everywhere {tmp_path.name}'}


@pytest.fixture
def profile(environment: dict[str, str]) -> dict[str, str]:
    """The same, of a user whose profile loads the extension and names a notebook."""
    folder = Path(environment['IPYTHONDIR']) / 'profile_default'
    folder.mkdir(parents=True)
    (folder / 'ipython_config.py').write_text(PROFILE)
    del environment['ERP5_REFERENCE']
    return environment


def book(*sources: str) -> nbformat.NotebookNode:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    made.metadata.kernelspec = {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}
    return made


def python(environment: dict[str, str], *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A program that nobody can answer. What it shows is without colours."""
    done = subprocess.run([sys.executable, '-m', *arguments] if arguments[0].isalpha() else [sys.executable, *arguments],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, cwd=folder, env=environment)
    done.stdout, done.stderr = (re.sub(r'\x1b\[[\d;]*m', '', text) for text in (done.stdout, done.stderr))
    return done


def ran(program: str, sources: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A program that has run a notebook of these cells in this folder; what it wrote, if anything, is `out.ipynb`."""
    nbformat.write(book(*sources), folder / 'in.ipynb')
    words = PROGRAMS[program].format(book='in.ipynb', out='out.ipynb').split()
    return python(environment, *words, folder=folder)


def brief(output: nbformat.NotebookNode) -> tuple[str, ...]:
    """A text and where it went, or the types of a result."""
    return (output.name, output.text) if output.output_type == 'stream' else (output.output_type, *sorted(output.data))


# ---------------------------------------------------------------- notebooks
@pytest.mark.parametrize('program', PROGRAMS)
def test_a_program_shows_what_was_asked_for_and_no_more(program: str, environment: dict[str, str], tmp_path: Path) -> None:
    done = ran(program, GOOD, environment, tmp_path)
    assert done.returncode == 0, done.stderr
    if program == 'ipython':  # which shows no value of a cell, be it one that runs here
        connected, began, figure = [line for line in done.stdout.splitlines() if line]
        assert (connected[:11], began, figure[:7]) == ('Connected: ', 'has begun', '<Figure'), done.stdout
        return
    loaded, first, second, figure = nbformat.read(tmp_path / 'out.ipynb', 4).cells[-4:]
    assert loaded.outputs == []
    assert [brief(output)[0] for output in first.outputs] == ['stdout', 'stderr']  # that it is connected, and how imports are kept
    assert list(map(brief, second.outputs)) == [('stdout', 'has begun\n'), ('execute_result', 'text/plain')]
    assert list(map(brief, figure.outputs)) == [('display_data', 'image/png', 'text/plain')]


@pytest.mark.parametrize('program', PROGRAMS)
def test_a_program_ends_at_a_remote_error(program: str, environment: dict[str, str], tmp_path: Path) -> None:
    done = ran(program, BAD, environment, tmp_path)
    shown = done.stdout + done.stderr
    assert done.returncode == 1 and 'TooSmall: 3 < 10' in shown
    assert '\nnever' not in shown and 'ipython_erp5/' not in shown
    if program == 'papermill':
        *_, failed, never = nbformat.read(tmp_path / 'out.ipynb', 4).cells
        error, = failed.outputs
        assert (error.ename, error.evalue, never.execution_count) == ('TooSmall', '3 < 10', None)


def test_nbclient_ends_at_a_remote_error(environment: dict[str, str]) -> None:
    notebook = book(*BAD)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match='3 < 10') as caught:
        nbclient.NotebookClient(notebook, timeout=60).execute(env=environment)
    assert (caught.value.ename, caught.value.evalue) == ('TooSmall', '3 < 10')
    assert notebook.cells[3].execution_count is None


@pytest.mark.parametrize('program', ['ipython', 'papermill'])
def test_a_program_does_not_wait_for_a_password(program: str, environment: dict[str, str], tmp_path: Path) -> None:
    del environment['ERP5_PASSWORD']
    done = ran(program, GOOD, environment, tmp_path)
    shown = done.stdout + done.stderr
    assert done.returncode == 1 and 'ERP5_PASSWORD' in shown
    assert 'has begun\n' not in shown and 'Password' not in shown


# ---------------------------------------------------------------- scripts and commands
IPYTHON_SCRIPT = '''%load_ext ipython_erp5
answer = %erp5 6 * 7
print('the answer is', answer)
%erp5 [][42]
print('never')
'''
PYTHON_SCRIPT = '''import ipython_erp5
with ipython_erp5.connect() as session:
    session.execute('answer = 6 * 7')
    print('the answer is', session.pull('answer'))
    session.execute('[][answer]')
print('never')
'''


@pytest.mark.parametrize('program, name, source', [('IPython', 'script.ipy', IPYTHON_SCRIPT), ('', 'script.py', PYTHON_SCRIPT)],
                         ids=['ipython', 'python'])
def test_a_script_ends_at_a_remote_error(program: str, name: str, source: str, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / name).write_text(source)
    done = python(environment, *filter(None, [program, name]), folder=tmp_path)
    assert 'the answer is 42\n' in done.stdout, done.stderr
    assert done.returncode == 1 and 'IndexError: list index out of range' in done.stdout + done.stderr
    assert 'never' not in done.stdout


@pytest.mark.parametrize('source, status, shown', [
    ('# erp5\nprint(6 * 7)', 0, '\n42\n'), ('%erp5 6 * 7', 0, ': 42\n'), ('# erp5\n[][0]', 1, 'IndexError: list index out of range')])
def test_a_command(source: str, status: int, shown: str, profile: dict[str, str], tmp_path: Path) -> None:
    done = python(profile, 'IPython', '-c', source, folder=tmp_path)
    assert (done.returncode, done.stderr) == (status, '')
    assert "reference 'from the profile'" in done.stdout and shown in done.stdout


def test_python_alone(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ERP5_PASSWORD', node.password)
    monkeypatch.setenv('ERP5_USER', node.user)
    with ipython_erp5.connect(node.url, reference='python alone') as session:
        reply = session.execute('x = [1, 2]\nprint("there")\nx')
        assert (reply.text, reply.result) == ('there\n', {'text/plain': '[1, 2]'})
        assert session.pull('x') == [1, 2]
        assert [variable['name'] for variable in session.variables()] == ['x']
        with pytest.raises(errors.RemoteError, match='division by zero') as caught:
            session.execute('1 / 0')
        assert type(caught.value).__name__ == 'ZeroDivisionError'
        assert session.execute('x').result == {'text/plain': '[1, 2]'}


# ---------------------------------------------------------------- ruff and black
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
FORMATTERS = {'ruff': ['ruff', 'format', '--no-cache', '--isolated'], 'black': ['black', '--quiet', '--no-cache']}

# As both formatters like it. One file is a notebook whose cells are these, the other a script for editors that know cells in it.
MARKED = [
    '# erp5\nimport math\n\nprices = {"tea": 4.2, "coffee": 7.9}\nmath.fsum(prices.values())',
    '# The best of all\n# erp5: --no-history --timeout 20\nmax(prices, key=prices.get)',
    '# %erp5 --no-history\ncontext.document_module.newContent(title="Tea")',
    '# erp5\ndef load_stock():\n    import sqlite3\n\n    return {"stock": sqlite3.connect(":memory:")}\n\n\n'
    'environment.define(load_stock, "stock")',
]


def marked_files(folder: Path) -> list[str]:
    nbformat.write(book(*MARKED), folder / 'marked.ipynb')
    (folder / 'marked.py').write_text('\n\n\n'.join(f'# %%\n{source}' for source in MARKED) + '\n')
    return ['marked.ipynb', 'marked.py']


def tool(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, '-m', *words], capture_output=True, text=True, timeout=60, cwd=folder)


def settings() -> str:
    """What the README says a project should have in its `pyproject.toml`."""
    readme = (ROOT / 'README.rst').read_text(encoding='utf-8')
    written, = re.findall(r'(?m)^    \[tool\.ruff\]\n(?:    .+\n)+', readme)
    return re.sub('(?m)^    ', '', written)


@pytest.mark.parametrize('formatter', FORMATTERS)
def test_formatters_leave_marked_cells_as_they_are(formatter: str, tmp_path: Path) -> None:
    done = tool(tmp_path, *FORMATTERS[formatter], '--check', '--diff', *marked_files(tmp_path))
    assert (done.returncode, done.stdout) == (0, ''), done.stderr


@pytest.mark.parametrize('formatter', FORMATTERS)
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_formatters_change_no_meaning(formatter: str, path: Path, tmp_path: Path) -> None:
    (tmp_path / path.name).write_bytes(path.read_bytes())
    done = tool(tmp_path, *FORMATTERS[formatter], path.name)
    assert done.returncode == 0, done.stderr
    before, after = (list(map(meaning, nbformat.read(folder / path.name, 4).cells)) for folder in (path.parent, tmp_path))
    assert after == before
    assert sum(marker is not None for marker, _ in after) > 5


def meaning(cell: nbformat.NotebookNode) -> tuple[str | None, str]:
    """With which options a cell runs there, None if it runs here; and what it does, however it is written."""
    if cell.cell_type != 'code':
        return None, cell.source
    first = transformer.transform(cell.source.splitlines(keepends=True))[0]
    code = compile(TransformerManager().transform_cell(cell.source), 'cell', 'exec', ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return first.strip() if first.startswith('%%erp5') else None, ast.dump(code)


def test_formatters_keep_the_short_marker_one(tmp_path: Path) -> None:
    (tmp_path / 'short.py').write_text('#%erp5 --no-history\nx = 1\n')
    assert [tool(tmp_path, *words, 'short.py').returncode for words in FORMATTERS.values()] == [0, 0]
    lines = (tmp_path / 'short.py').read_text().splitlines(keepends=True)
    assert lines[0] == '# %erp5 --no-history\n'
    assert transformer.transform(lines)[0] == '%%erp5 --no-history\n'


def test_ruff_checks_marked_cells(tmp_path: Path) -> None:
    files = marked_files(tmp_path)
    unknown = tool(tmp_path, 'ruff', 'check', '--no-cache', '--output-format', 'concise', *files)
    assert set(re.findall(r'F821 Undefined name `(\w+)`', unknown.stdout)) == {'context', 'environment'}
    (tmp_path / 'pyproject.toml').write_text(settings())
    done = tool(tmp_path, 'ruff', 'check', '--no-cache', *files)
    assert done.returncode == 0, done.stdout
    (tmp_path / 'wrong.py').write_text('# erp5\nprint(nosuch)\n')
    assert 'F821 Undefined name `nosuch`' in tool(tmp_path, 'ruff', 'check', '--no-cache', '--output-format', 'concise', 'wrong.py').stdout
