"""One notebook, one answer: whatever runs its cells.

    thirty_cells.CELLS ─► a kernel, cells marked ─► node: 1, 2, 4 executors; another executor for every cell; a new one   ─► outputs
                       ─► a kernel, as they are                                                                          ─► outputs

Compared are the outputs as nbclient stores them: texts of streams, data of every MIME type (of pictures: their type and size),
name and text of errors. `MAY_DIFFER` says where a plain kernel's may be others, and why.
"""

import base64
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from conftest import Node, running
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


def executed(book: nbformat.NotebookNode, folder: Path, **options: Any) -> Outputs:
    """The outputs of every cell but the first, which must have raised nothing."""
    client = nbclient.NotebookClient(book, timeout=60, allow_errors=True, resources={'metadata': {'path': str(folder)}})
    client.execute(**options)
    first, *cells = book.cells
    assert all(output.output_type != 'error' for output in first.outputs), first.outputs
    return {name: comparable(cell.outputs) for name, cell in zip(CELLS, cells, strict=True)}


def remotely(node: Node, folder: Path) -> Outputs:
    book = notebook('%load_ext ipython_erp5\n%erp5_connect --reference thirty', '# erp5\n')
    return executed(book, folder, env=node.environment())


# ---------------------------------------------------------------- what is compared
def comparable(outputs: list[nbformat.NotebookNode]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for output in outputs:
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


# ---------------------------------------------------------------- the tests
@pytest.fixture(scope='module')
def plain(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    return executed(notebook('pass', ''), tmp_path_factory.mktemp('plain'))


@pytest.fixture(scope='module')
def with_two(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    folder = tmp_path_factory.mktemp('two')
    with running(folder / 'node', *PLACEMENTS['two executors']) as node:
        return remotely(node, folder)
