"""The README: what it names exists, what exists it names, and what it shows can be typed."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Node
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from ipython_erp5 import cli, connections, environment, serializers
from ipython_erp5.extension import OTHERS
from ipython_erp5.magics import ERP5Magics

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.rst').read_text(encoding='utf-8')
LINES = README.splitlines()
UNDERLINES = '=-'
MAGICS = (ERP5Magics, *OTHERS)
FOREIGN_OPTIONS = {'--ext', '--execute'}     # IPython's, nbconvert's


def blocks(marker: str) -> list[str]:
    """The literal blocks below the paragraphs that end with a marker, without their indentation."""
    found: list[list[str]] = []
    inside = False
    for line in LINES:
        if inside and (not line or line.startswith(' ')):
            found[-1].append(line[4:])
        elif inside := line.endswith(marker):
            found.append([])
    return ['\n'.join(block).strip('\n') for block in found]


def magic_options() -> set[str]:
    magics = {name: getattr(owner, name) for owner in MAGICS for kind in owner.magics.values() for name in kind}
    return {option for magic in magics.values() for action in magic.parser._actions for option in action.option_strings
            if option.startswith('--')}


def cli_options() -> set[str]:
    return {f'--{name}' for command in cli.COMMANDS for name in {**command.aliases, **command.flags}}


def text_of_package() -> str:
    return ''.join(path.read_text(encoding='utf-8') for path in (ROOT / 'ipython_erp5').rglob('*.py'))


# ---------------------------------------------------------------- form
def test_headings_are_underlined_and_lines_have_a_width() -> None:
    titles = [(title, line) for title, line in zip(LINES, LINES[1:]) if line and set(line) <= set(UNDERLINES)
              and len(set(line)) == 1 and title.strip() and not title.startswith((' ', '='))]
    assert len(titles) > 10 and all(len(title) == len(line) for title, line in titles)
    assert all(len(line) <= 140 and line == line.rstrip() and '\t' not in line for line in LINES)


def test_tables_fit_their_columns() -> None:
    """Text may leave the last column only."""
    rulers = [i for i, line in enumerate(LINES) if re.fullmatch(r'=+(  =+)+', line)]
    assert rulers and len(rulers) % 2 == 0
    for first, last in zip(rulers[::2], rulers[1::2]):
        assert LINES[first] == LINES[last]
        gaps = [match.start() for match in re.finditer(' {2}', LINES[first])]
        assert all(line[gap:gap + 2] == '  ' for line in LINES[first + 1:last] for gap in gaps)


def test_marks_are_closed_and_targets_exist() -> None:
    prose = re.sub(r'(?m)^ {4}.*$', '', README)
    for paragraph in prose.split('\n\n'):
        assert paragraph.count('``') % 2 == 0, paragraph
    for target in re.findall(r'`([\w ]+)`_', prose):
        assert target in LINES
    for path in re.findall(r'<((?:notebooks|tests)/[^>]+)>', README):
        assert (ROOT / path).is_file()


# ---------------------------------------------------------------- names
def test_all_magics_and_only_those() -> None:
    magics = {f'{mark}{name}' for owner in MAGICS for kind, mark in (('line', '%'), ('cell', '%%')) for name in owner.magics[kind]}
    assert set(re.findall(r'%+(?:erp5|notebook_set_|my_notebooks)\w*', README)) == magics


def test_all_options_and_only_those() -> None:
    assert set(re.findall(r'(?<![\w-])--[a-z][a-z-]*', README)) - FOREIGN_OPTIONS == magic_options() | cli_options()


def test_all_commands_and_only_those() -> None:
    told = set(re.findall(r'\bipython-erp5 ([a-z]+)', README))
    assert told == set(cli.NodeManager.subcommands)


def test_all_traits_with_their_defaults() -> None:
    magics = ERP5Magics()
    defaults = {name: repr(getattr(magics, name)) for name in ERP5Magics.class_own_traits(config=True)}
    rows = dict(re.findall(r'(?m)^``(\w+)`` +``(.*?)``  ', README))
    assert rows == defaults


def test_all_variables_of_the_environment() -> None:
    assert set(re.findall(r'\bERP5_[A-Z_]+\b', README)) == set(re.findall(r'\bERP5_[A-Z_]+\b', text_of_package()))


def test_all_keys_of_a_connection() -> None:
    section, = (block for block in blocks('::') if block.startswith('[sales]'))
    assert set(re.findall(r'(?m)^(\w+) =', section)) == set(connections.KEYS)


def test_all_serializers_and_their_entry_points() -> None:
    assert set(serializers._registered) <= set(re.findall(r'(?m)^``(\w+)``$', README))
    assert f'``{serializers.GROUP}``' in README


def test_all_methods_of_the_environment() -> None:
    assert set(re.findall(r'environment\.(\w+)\(', README)) == set(environment.METHODS)


# ---------------------------------------------------------------- what can be typed
@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory; the node that a command starts in it is ended."""
    monkeypatch.setenv('ERP5_DATA_DIR', str(tmp_path / 'cluster'))
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    yield tmp_path / 'cluster'
    cli.stop(tmp_path / 'cluster')


def test_the_first_command_runs_a_cell_on_the_embedded_cluster(embedded: Path) -> None:
    command, = (block for block in blocks('::') if ".[node]'" in block)
    create, install, run = command.split(' && ')
    assert create == 'python3 -m venv .venv' and install == ".venv/bin/pip install -q '.[node]'"
    program, *arguments = shlex.split(run)
    assert program == '.venv/bin/ipython'
    done = subprocess.run([sys.executable, '-m', 'IPython', *arguments], capture_output=True, text=True, timeout=100,
                          stdin=subprocess.DEVNULL, cwd=embedded.parent, env={**os.environ, 'NO_COLOR': '1'})
    assert (done.returncode, done.stderr) == (0, '')
    connected, shown = done.stdout.strip().splitlines()
    assert connected.startswith('Connected: admin@127.0.0.1:')
    assert f'``{shown}``' in README


def test_the_transcript(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('ERP5_URL', 'ERP5_USER', 'ERP5_PASSWORD'):
        monkeypatch.setenv(name, node.environment()[name])
    text = '\n'.join(block for block in blocks('::') if block.startswith('In ['))
    cells = re.findall(r'^In \[(\d+)\]: (.*\n?(?: +\.\.\.: .*\n?)*)', text, flags=re.MULTILINE)
    outputs = dict(re.findall(r'^Out\[(\d+)\]: (.*)$', text, flags=re.MULTILINE))
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}))
    shown = {}
    for number, cell in cells:
        result = shell.run_cell(re.sub(r'(?m)^ +\.\.\.: ', '', cell))
        result.raise_error()
        shown[number] = result.result
    InteractiveShell.clear_instance()
    assert len(cells) == 6
    assert {number: repr(value) for number, value in shown.items() if value is not None} == outputs


def test_the_script(embedded: Path) -> None:
    script, = (block for block in blocks('.. code:: python') if 'ipython_erp5.connect' in block)
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, timeout=100, cwd=embedded.parent)
    assert (done.returncode, done.stderr) == (0, '')
    assert [line[:8] for line in done.stdout.splitlines()] == ['hello', '42', '43', "[{'name'"]


def test_the_serializer(monkeypatch: pytest.MonkeyPatch) -> None:
    source, = (block for block in blocks('.. code:: python') if 'class Plain' in block)
    namespace: dict[str, type[serializers.Serializer]] = {'__name__': __name__}
    exec(source, namespace)
    monkeypatch.setattr(serializers, '_registered', {**serializers._registered})
    serializers.register(namespace['Plain'])
    document, shared = object(), [1, b'x' * 100]
    data = serializers.get('plain').dump([{'a': shared, 'b': shared}, document],
                                         lambda value: 'the document' if value is document else None)
    value, back = serializers.load(data, {'the document': document}.__getitem__)
    assert value == {'a': shared, 'b': shared} and value['a'] is value['b'] and back is document


def test_what_is_asked_of_such_tools_is_shown_by_tests_that_there_are() -> None:
    section = README.partition('\nWhat is asked of such tools\n')[2].partition('\nLimits\n')[0]
    named = re.findall(r'``(\w+)::(test_\w+)``', section)[1:]   # the first one is the sentence about the names
    assert len(re.findall(r'^\d+\. ', section, re.MULTILINE)) == 30 and len(named) > 50
    missing = [f'{file}::{test}' for file, test in named
               if f'def {test}(' not in (ROOT / 'tests' / f'test_{file}.py').read_text(encoding='utf-8')]
    assert missing == []
