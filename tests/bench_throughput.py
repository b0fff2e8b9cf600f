"""How many trivial cells a second one node runs, with more executors and more clients, and what one of them takes alone.

    python -m pytest -m bench -s tests/bench_throughput.py

A cell is `counter = 1`, which is committed; every client has a notebook of its own and sends its next cell when the last one has
ended. Clients are processes, so that they do not wait for one another; they use the same cores as the node, which is why the node's
own share is printed too: CPU seconds of the node and all its processes for a cell.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import Node, running

EXECUTORS, CLIENTS = (1, 2, 4), (1, 2, 4, 8)
SECONDS, WARM = 4.0, 20
CLIENT = '''
import sys, time, ipython_erp5
url, password, reference, seconds, warm = sys.argv[1:]
password = sys.stdin.readline().strip()
session = ipython_erp5.connect(url, user='admin', password=password, reference=reference)
for _ in range(int(warm)):
    session.execute('counter = 1')
print('ready', flush=True)
sys.stdin.readline()
times, end = [], time.perf_counter() + float(seconds)
while time.perf_counter() < end:
    begun = time.perf_counter()
    session.execute('counter = 1')
    times.append(time.perf_counter() - begun)
print(*times)
'''

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300), pytest.mark.filterwarnings('default')]


@pytest.fixture(params=EXECUTORS)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    with running(tmp_path / 'node', '--executors', str(request.param)) as started:
        yield started


def cpu(node: Node) -> float:
    """Seconds of the node and all that it has started."""
    root = psutil.Process(node.process.pid)
    return sum(sum(process.cpu_times()[:2]) for process in [root, *root.children(recursive=True)])


def measure(node: Node, clients: int) -> tuple[float, float, float]:
    """Cells a second, the median of one in milliseconds, and CPU milliseconds of the node for one."""
    processes = [subprocess.Popen([sys.executable, '-c', CLIENT, node.url, '-', f'client {number}', str(SECONDS), str(WARM)], text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE) for number in range(clients)]
    for process in processes:
        assert process.stdin and process.stdout
        print(node.password, file=process.stdin, flush=True)
        assert process.stdout.readline() == 'ready\n'
    before = cpu(node)
    for process in processes:
        print(file=process.stdin, flush=True)
    time.sleep(SECONDS)
    spent = cpu(node) - before
    times = [float(text) for process in processes for text in process.communicate()[0].split()]
    return len(times) / SECONDS, 1000 * statistics.median(times), 1000 * spent / len(times)


def test_throughput(node: Node, request: pytest.FixtureRequest) -> None:
    executors, cores = request.node.callspec.params['node'], len(os.sched_getaffinity(0))
    found = {clients: measure(node, clients) for clients in CLIENTS}
    if executors == EXECUTORS[0]:
        print(f'\n{cores} cores')
        print('executors  clients  cells/s  cells/s a core  median, ms  CPU of the node, ms a cell')
    for clients, (rate, median, spent) in found.items():
        print(f'{executors:<11}{clients:<9}{rate:<9.0f}{rate / cores:<16.0f}{median:<12.2f}{spent:.2f}')
    assert all(rate > 0 for rate, median, spent in found.values())
