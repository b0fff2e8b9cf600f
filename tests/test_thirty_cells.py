"""One notebook, one answer: whatever runs its cells.

    thirty_cells.CELLS ─► a kernel, cells marked ─► node: 1, 2, 4 executors; another executor for every cell; a new one   ─► outputs
                       ─► a kernel, as they are                                                                          ─► outputs

Compared are the outputs as nbclient stores them: texts of streams, data of every MIME type (of pictures: their type and size),
name and text of errors. Where a plain kernel's may be others, and why, is said in one section below.
"""

import base64
import os
import re
import struct
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from conftest import running
from thirty_cells import CELLS

pytestmark = pytest.mark.filterwarnings('ignore:Kernel is running over TCP')

PLACEMENTS = {
    'one executor': ('--executors', '1'),
    'two executors': ('--executors', '2', '--placement', 'rotate'),
    'four executors': ('--executors', '4', '--placement', 'rotate'),
    'a new executor for every cell': ('--executors', '2', '--placement', 'fresh'),
}
Outputs = dict[str, list[tuple[Any, ...]]]


# ---------------------------------------------------------------- running
def notebook(first: str, marker: str) -> nbformat.NotebookNode:
    sources = [first, *(marker + source.strip('\n') for source in CELLS.values())]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    book.metadata.kernelspec = {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}
    return book


def executed(book: nbformat.NotebookNode, folder: Path, environment: Mapping[str, str]) -> Outputs:
    """The outputs of every cell but the first, which must have raised nothing."""
    client = nbclient.NotebookClient(book, timeout=60, allow_errors=True, resources={'metadata': {'path': str(folder)}})
    client.execute(env={**environment, 'IPYTHONDIR': str(folder / 'ipython')})
    first, *cells = book.cells
    assert all(output.output_type != 'error' for output in first.outputs), first.outputs
    return {name: comparable(cell.outputs) for name, cell in zip(CELLS, cells, strict=True)}


def placed(placement: str, folder: Path) -> Outputs:
    """The outputs of the marked cells, with a node of that placement."""
    book = notebook('%load_ext ipython_erp5\n%erp5_connect --reference thirty', '# erp5\n')
    with running(folder / 'node', *PLACEMENTS[placement]) as node:
        return executed(book, folder, node.environment())


# ---------------------------------------------------------------- what is compared
def in_turn(outputs: list[nbformat.NotebookNode]) -> Iterable[nbformat.NotebookNode]:
    """In which order a kernel sends stdout and stderr, between two other outputs, is nobody's promise."""
    for stream, run in groupby(outputs, lambda output: output.output_type == 'stream'):
        yield from sorted(run, key=lambda output: output.name) if stream else run


def comparable(outputs: list[nbformat.NotebookNode]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for output in in_turn(outputs):
        if output.output_type != 'stream':
            found.append(content(output))
        elif found and found[-1][:2] == ('stream', output.name):
            found[-1] = ('stream', output.name, found[-1][2] + output.text)
        else:
            found.append(('stream', output.name, output.text))
    return found


def content(output: nbformat.NotebookNode) -> tuple[Any, ...]:
    if output.output_type == 'error':
        return 'error', output.ename, output.evalue
    data = {kind: png_size(value) if kind == 'image/png' else value for kind, value in output.data.items()}
    return output.output_type, output.get('execution_count'), data, dict(output.metadata)


def png_size(text: str) -> tuple[int, int]:
    """Pixels, out of the first chunk (PNG specification, 11.2.2)."""
    data = base64.b64decode(text)
    assert data.startswith(b'\x89PNG\r\n\x1a\n') and data.endswith(b'IEND\xaeB`\x82')
    width, height = struct.unpack('>II', data[16:24])
    return width, height


# ---------------------------------------------------------------- where a plain kernel may differ
WARNING = 'WARNING: You imported from the modules '
REPORT = 'Not saved: '

# The cell's imports become setups, which ERP5 has always said.
WARNED = {'imports', 'decorators', 'a star import', 'a guarded import', 'dataclasses', 'enums', 'special classes', 'display objects',
          'an image', 'pandas', 'figures deleted'}
# What no other process could load is reported where it is assigned ...
REPORTED = {'values that cannot be kept', 'a lock inside'}
# ... and is not there later.
LOST = {'a generator later': 'generator', 'a connection later': 'database', 'a lock inside later': 'container'}
# The place in the text of these errors: a plain kernel gives a cell the name of a file, and the marker is a line of the cell.
PLACED = {'a syntax error', 'an indentation error', 'return outside a function'}
# An error is shown after all that its cell has shown, figures too.
REORDERED = {'a figure before an error'}
# IPython only prints a group of errors, so that "Run all" goes on; here it is an error of the cell.
RAISED = {'a group of errors': ('error', 'ExceptionGroup', 'several (2 sub-exceptions)')}


def added(outputs: list[tuple[Any, ...]]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """What was said about the cell, and the outputs of the cell itself."""
    said = [output for output in outputs if output[:2] == ('stream', 'stderr') and output[2].startswith((WARNING, REPORT))]
    return [text for _, _, text in said], [output for output in outputs if output not in said]


def expected(name: str, plain: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The outputs of a plain kernel, as they are to be here."""
    if name in RAISED:
        return [RAISED[name]]
    if name in REORDERED:
        return sorted(plain, key=lambda output: output[0] == 'error')
    return list(map(without_place, plain)) if name in PLACED else plain


def without_place(output: tuple[Any, ...]) -> tuple[Any, ...]:
    return *output[:2], re.sub(r'( on)? line \d+$| \(.*\)$', '', output[2].partition(' (')[0])


# ---------------------------------------------------------------- the tests
@pytest.fixture(scope='module')
def plain(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    return executed(notebook('pass', ''), tmp_path_factory.mktemp('plain'), os.environ)


@pytest.fixture(scope='module')
def one(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    return placed('one executor', tmp_path_factory.mktemp('one'))


def test_there_are_enough_cells() -> None:
    assert len(CELLS) >= 30


@pytest.mark.parametrize('name', CELLS)
def test_the_outputs_are_those_of_a_plain_kernel(plain: Outputs, one: Outputs, name: str) -> None:
    said, outputs = added(one[name])
    assert [text.startswith(WARNING) for text in said] == [True] * (name in WARNED) + [False] * (name in REPORTED)
    if name in LOST:
        kind, ename, evalue = outputs[-1]
        assert (kind, ename) == ('error', 'NotSavedError')
        assert evalue.startswith(f'the variable {LOST[name]!r} of an earlier cell was not saved: ')
    else:
        assert (list(map(without_place, outputs)) if name in PLACED else outputs) == expected(name, plain[name])


SLOW = pytest.param('four executors', marks=pytest.mark.soak)


@pytest.mark.parametrize('placement', ['two executors', SLOW, 'a new executor for every cell'])
def test_the_outputs_are_the_same_wherever_a_cell_runs(one: Outputs, placement: str, tmp_path: Path) -> None:
    outputs = placed(placement, tmp_path)
    assert {name: (outputs[name], one[name]) for name in CELLS if outputs[name] != one[name]} == {}


def test_figures_are_pictures(one: Outputs) -> None:
    sizes = {name: [output[2]['image/png'] for output in outputs if 'image/png' in output[2]] for name, outputs in one.items()}
    assert [len(sizes[name]) for name in ('a figure', 'several figures', 'a figure as a value', 'a figure later')] == [1, 2, 1, 1]
    assert all(width > 100 and height > 100 for name in ('a figure', 'several figures') for width, height in sizes[name])
