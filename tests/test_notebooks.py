"""The notebooks: each is executed as it is stored, on a cluster of its own, and shows what is stored.

    book ─► up to the cell tagged `restart` ─► fresh kernel ─┐
         └► the rest ─► another fresh kernel ────────────────┴─► outputs ─► compared with the stored ones

    python tests/test_notebooks.py    executes them and stores what they show, after a change of a notebook or of a message

Nothing about a machine is stored: the port of the cluster becomes a fixed one. Compared are all texts, and of images their type
and dimensions. What differs from one release of a library to the next (the style of a table, the bytes of a pickle) is left out.
"""

import base64
import html
import json
import os
import re
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from ipython_erp5 import cli

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
RESTART = 'restart'
SITE = re.compile(r'127\.0\.0\.1:\d+')
STORED_SITE = '127.0.0.1:41000'
ABSOLUTE_PATH = re.compile(r'(?<![\w.:<])/(?:home|root|tmp|usr|opt|var|mnt|srv|work|private|Users)\b|\b[A-Z]:\\')

pytestmark = pytest.mark.filterwarnings('ignore:Kernel is running over TCP')


# ---------------------------------------------------------------- execute
def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of now; `folder` holds the cluster, the home and the working directory of both."""
    book = nbformat.read(path, 4)
    for name in ('home', 'here'):
        (folder / name).mkdir()
    try:
        for part in parts(book):
            client = nbclient.NotebookClient(part, timeout=60, record_timing=False, kernel_name='python3',
                                             resources={'metadata': {'path': str(folder / 'here')}})
            client.execute(env=environment(folder))
    finally:
        cli.stop(folder / 'cluster')
    return book


def parts(book: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    """Notebooks, one for each kernel, with the book's own cells: their outputs are the book's."""
    starts = [0, *(i for i, cell in enumerate(book.cells) if RESTART in cell.metadata.get('tags', ())), len(book.cells)]
    for start, end in zip(starts, starts[1:]):
        part = nbformat.v4.new_notebook(metadata={'kernelspec': dict(book.metadata.kernelspec)})
        part.cells = book.cells[start:end]
        yield part


def environment(folder: Path) -> dict[str, str]:
    """A kernel's: this package, and no settings of whoever runs it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(('ERP5_', 'XDG_'))}
    return {**kept, 'HOME': str(folder / 'home'), 'IPYTHONDIR': str(folder / 'ipython'), 'ERP5_DATA_DIR': str(folder / 'cluster'),
            'PYTHONPATH': str(ROOT)}


# ---------------------------------------------------------------- store
def store(path: Path) -> None:
    """Execute a notebook and write it with its outputs. Its metadata stay: those of the kernel tell about the machine."""
    metadata = nbformat.read(path, 4).metadata
    with tempfile.TemporaryDirectory() as folder:
        book = executed(path, Path(folder))
    book.metadata = metadata
    text = json.dumps(nbformat.v4.to_notebook_json(book), indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(SITE.sub(STORED_SITE, text) + '\n', encoding='utf-8')


# ---------------------------------------------------------------- compare
@dataclass(eq=False)
class Pixels:
    """The dimensions of an image; the fonts of another release may change them a little."""

    width: int
    height: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pixels) and abs(self.width / other.width - 1) < .1 and abs(self.height / other.height - 1) < .1


def comparable(cell: nbformat.NotebookNode) -> list[Any]:
    """What a cell shows, without what may differ. The order of stdout and stderr between two other outputs is nobody's promise."""
    shown: list[Any] = []
    for is_stream, outputs in groupby(cell.get('outputs', ()), lambda output: output.output_type == 'stream'):
        if is_stream:
            found = list(outputs)
            names = sorted({output.name for output in found})
            shown.append({name: plain(cell, ''.join(o.text for o in found if o.name == name)) for name in names})
        else:
            shown.extend(comparable_output(cell, output) for output in outputs)
    return shown


def comparable_output(cell: nbformat.NotebookNode, output: nbformat.NotebookNode) -> dict[str, Any]:
    if output.output_type == 'error':
        return {'error': output.ename, 'evalue': plain(cell, output.evalue), 'traceback': plain(cell, '\n'.join(output.traceback))}
    return {'type': output.output_type, 'execution_count': output.get('execution_count'),
            **{mime: comparable_data(cell, mime, data) for mime, data in output.data.items()}}


def comparable_data(cell: nbformat.NotebookNode, mime: str, data: Any) -> Any:
    if mime == 'image/png':
        return Pixels(*struct.unpack('>II', base64.b64decode(data)[16:24]))
    if mime == 'text/html':
        data = html.unescape(re.sub(r'<style.*?</style>|<[^>]*>', ' ', data, flags=re.DOTALL))
    return plain(cell, data) if isinstance(data, str) else data


def plain(cell: nbformat.NotebookNode, text: str) -> str:
    """A text without colours, addresses, the port and how wide its columns are."""
    text = SITE.sub(STORED_SITE, re.sub(r'\x1b\[[\d;]*m', '', text))
    text = re.sub(r'-{5,}', '-----', re.sub(r'0x[0-9a-f]{6,}', '0x…', text))
    if cell.source.startswith('%erp5_vars'):
        text = re.sub(r'(?m)^(\w+ +[\w.]+) +\d+ +(\d+) +\d+ +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d', r'\1 BYTES \2 CELL WRITTEN', text)
    return '\n'.join(' '.join(line.split()) for line in text.strip().splitlines())


# ---------------------------------------------------------------- tests
def test_the_notebooks_are_found() -> None:
    assert {path.name for path in NOTEBOOKS} >= {'quickstart.ipynb', 'environment.ipynb'}


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_is_stored(path: Path, tmp_path: Path) -> None:
    stored, now = nbformat.read(path, 4), executed(path, tmp_path)
    differing = {cell.id: (comparable(cell), comparable(other)) for cell, other in zip(now.cells, stored.cells, strict=True)
                 if comparable(cell) != comparable(other)}
    assert differing == {}, 'cell: (shown now, stored); if what is shown now is right: python tests/test_notebooks.py'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stored_notebook_is_whole_and_says_nothing_of_a_machine(path: Path) -> None:
    text = path.read_text(encoding='utf-8')
    book = nbformat.reads(text, 4)
    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor) == (4, 5)
    assert book.metadata == {'kernelspec': {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'},
                             'language_info': {'name': 'python'}}
    for part in parts(book):
        counts = [cell.execution_count for cell in part.cells if cell.cell_type == 'code']
        assert counts == list(range(1, len(counts) + 1))
    assert all(set(cell.metadata) <= {'tags'} for cell in book.cells)
    assert set(SITE.findall(text)) == {STORED_SITE}
    assert not ABSOLUTE_PATH.search(text) and not re.search(r'0x[0-9a-f]{6,}', text)


if __name__ == '__main__':
    for stale in [path for path in NOTEBOOKS if not sys.argv[1:] or path.stem in sys.argv[1:]]:
        store(stale)
        print(stale.relative_to(ROOT))
