"""What a trivial cell costs: `%%erp5` against ipyparallel's `%%px`, in one run, in blocks that take turns.

    python -m pytest -m bench -s tests/bench_roundtrip.py

Both are cell magics of one shell, and both run `counter = 1` in a process of their own. %%px has one engine, as %%erp5 has one
executor at a time for one notebook; its engine keeps the variable in memory, ours commits it to the database. Blocks, because
what one of them still does in its threads after a cell is not to be paid by the other.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Node, running
from IPython.core.interactiveshell import InteractiveShell

BLOCKS = 12
CELLS = 30  # of a block, after WARM that do not count
WARM = 10

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300), pytest.mark.filterwarnings('default')]


@pytest.fixture(scope='module')
def idle_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(tmp_path_factory.mktemp('bench')) as node:
        yield node


@pytest.fixture
def shell(idle_node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    for name in ('ERP5_URL', 'ERP5_USER', 'ERP5_PASSWORD'):
        monkeypatch.setenv(name, idle_node.environment()[name])
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.run_cell('%load_ext ipython_erp5').raise_error()
    shell.run_cell('%erp5_connect').raise_error()
    yield shell
    InteractiveShell.clear_instance()


def milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def test_trivial_cell(shell: InteractiveShell, tmp_path: Path) -> None:
    import ipyparallel
    with ipyparallel.Cluster(n=1, profile_dir=str(tmp_path / 'ipp'), log_level=40) as client:
        view = client[:]
        view.block = True
        view.activate()
        cells = {name: (lambda magic=name: shell.run_cell_magic(magic, '', 'counter = 1\n')) for name in ('erp5', 'px')}
        times: dict[str, list[float]] = {name: [] for name in cells}
        for name, call in [*cells.items()] * BLOCKS:
            measured = [milliseconds(call) for _ in range(WARM + CELLS)]
            times[name] += measured[WARM:]
    medians = {name: statistics.median(found) for name, found in times.items()}
    ratio = medians['erp5'] / medians['px']
    print(f"\n%%erp5 {medians['erp5']:.2f} ms, %%px {medians['px']:.2f} ms, ratio of medians {ratio:.2f}")
    assert ratio <= 1
