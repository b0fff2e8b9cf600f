"""What Prometheus and `status` are told of a node, against what has happened there."""

import contextlib
import json
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from conftest import Node, running
from prometheus_client.parser import text_string_to_metric_families

from ipython_erp5 import __version__, cli
from ipython_erp5 import status as standing
from ipython_erp5.errors import CellLost, RemoteError, RemoteInterrupt
from ipython_erp5.node.metrics import CONTENT_TYPE, Metrics, Size, State
from ipython_erp5.session import Session
from ipython_erp5.status import duration, render

Samples = dict[str, float]
STATUS = {'running': 1, 'waiting': 2, 'processes': [{'state': 'running'}, {'state': 'spare'}, {'state': 'spare'}, {'state': 'new'}]}
NODES = [{'name': 'b', 'url': 'http://b/erp5', 'host': 'b', 'pid': 12}]


def samples(text: str) -> Samples:
    """name{label=value,…} -> value, of all that Prometheus' own parser finds."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.name.startswith('ipython_erp5_') and family.documentation and family.type != 'unknown'
        for sample in family.samples:
            labels = ','.join(f'{name}={value}' for name, value in sorted(sample.labels.items()))
            found[sample.name.removeprefix('ipython_erp5_') + (labels and f'{{{labels}}}')] = sample.value
    return found


def scrape(node: Node) -> Samples:
    answer = requests.get(f'{node.url}/metrics', auth=(node.user, node.password))
    assert (answer.status_code, answer.headers['Content-Type']) == (200, CONTENT_TYPE)
    return samples(answer.text)


# ---------------------------------------------------------------- counting
def test_counts() -> None:
    metrics = Metrics()
    for status, seconds in (('ok', .0005), ('ok', .3), ('error', 59), ('lost', 1000)):
        metrics.cell(status, seconds)
    metrics.lost()
    metrics.conflict()
    metrics.conflict()
    found = samples(metrics.exposition().decode())
    assert [found[f'cells_total{{status={status}}}'] for status in ('ok', 'error', 'lost')] == [2, 1, 1]
    assert (found['cells_lost_total'], found['conflicts_total']) == (1, 2) and metrics.counts() == {'cells': 4, 'lost': 1, 'conflicts': 2}
    assert [found[f'cell_seconds_bucket{{le={bound}}}'] for bound in ('0.001', '0.2', '0.5', '60.0', '600.0', '+Inf')] == [1, 1, 2, 3, 3, 4]
    assert (found['cell_seconds_count'], found['cell_seconds_sum']) == (4, 1059.3005)
    assert not any(name.endswith('_created') for name in found)


def test_what_is_so_now() -> None:
    metrics = Metrics()
    metrics.registry.register(State({'node': 'a "b"', 'storage': 'zeo', 'version': '1'}, lambda: STATUS, lambda: NODES, lambda: 2**40))
    found = samples(metrics.exposition().decode())
    assert {name: value for name, value in found.items() if name.startswith('executors')} == {
        'executors{state=running}': 1, 'executors{state=idle}': 0, 'executors{state=spare}': 2, 'executors{state=new}': 1}
    assert (found['cells_running'], found['cells_waiting'], found['nodes'], found['context_bytes']) == (1, 2, 2, 2**40)
    assert found['node_info{node=a "b",storage=zeo,version=1}'] == 1
    other = Metrics()
    assert not any(name.startswith('executors') for name in samples(other.exposition().decode()))


def away() -> int:
    raise OSError('the server of the database is away')


def test_a_source_that_does_not_answer_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        metrics = Metrics()
        metrics.registry.register(State({'node': 'a'}, lambda: STATUS, away, Size(away)))  # type: ignore[arg-type, return-value]
        found = samples(metrics.exposition().decode())
    assert 'cells_running' in found and not {'nodes', 'context_bytes'} & found.keys()
    assert [record.getMessage() for record in caplog.records] == ['metrics without of_the_cluster', 'the size of the database is not known']


def test_a_size_is_kept_for_a_while() -> None:
    looks: list[int] = []

    def look() -> int:
        looks.append(1)
        time.sleep(.05)
        return len(looks)

    size, seen = Size(look, seconds=60), []
    threads = [threading.Thread(target=lambda: seen.append(size())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 5
    size.until -= 60   # as if so much time had passed
    assert size() == 2


# ---------------------------------------------------------------- for people
def test_durations() -> None:
    assert [duration(seconds) for seconds in (0, .4, 59.6, 61, 3600, 7325, 200_000, 86400)] == [
        '0 s', '0 s', '1 min', '1 min 1 s', '1 h', '2 h 2 min', '2 days 7 h', '1 days']


def test_what_people_read() -> None:
    cells = [{'notebook': 'books', 'user': 'ana', 'seconds': 62.3, 'request_id': 'r1'}]
    told = {'node': 'a', 'version': '1', 'seconds_up': 61, 'storage': 'zeo', 'stored': 1_230_000, 'executors': 2, 'placement': 'sticky',
            'cells': 1234, 'lost': 1, 'conflicts': 0, 'running_cells': cells, 'nodes': NODES, 'new': ['x', 1], **STATUS}
    assert render(told).splitlines() == [
        'node       a, version 1',
        'up         1 min 1 s',
        'storage    zeo, 1.2 MB',
        'executors  2 at once, sticky: 1 new, 1 running, 2 spare',
        'cells      1,234 run, 1 lost, 0 refused by the database, 1 running, 2 waiting',
        'new        x; 1',
        '',
        'running  user  for        request',
        'books    ana   1 min 2 s  r1',
        '',
        'other node  url            host  pid',
        'b           http://b/erp5  b     12',
        '',
        'process  state    notebook',
        '         running',
        '         spare',
        '         spare',
        '         new']
    assert render({}) == ''


# ---------------------------------------------------------------- a node
@pytest.fixture(scope='module')
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(tmp_path_factory.mktemp('counted') / 'node') as node:
        yield node


def test_nobody_without_permission_is_told(counted: Node) -> None:
    for auth in (None, (counted.user, 'wrong'), ('nobody', counted.password)):
        answer = requests.get(f'{counted.url}/metrics', auth=auth)
        assert answer.status_code == 401 and answer.text == ''


def test_a_node_counts_its_cells(counted: Node) -> None:
    before = scrape(counted)
    with counted.session('books') as session:
        for code in ('a = 1', 'a + 1'):
            session.execute(code)
        with pytest.raises(RemoteError):
            session.execute('1 / 0')
        with pytest.raises(CellLost):
            session.execute('import os; os._exit(1)')
    after = scrape(counted)
    counts = [f'cells_total{{status={status}}}' for status in ('ok', 'error', 'lost')] + ['cells_lost_total', 'cell_seconds_count']
    assert [after[name] - before[name] for name in counts] == [2, 1, 1, 1, 4] and after['conflicts_total'] == 0
    assert 0 < after['cell_seconds_sum'] - before['cell_seconds_sum'] < 60 and after['context_bytes'] > 1000 and after['nodes'] == 1
    node, = counted.events('serves')
    assert after[f'node_info{{node={node["node"]},storage=sqlite,version={__version__}}}'] == 1
    assert before.keys() == after.keys()


@contextlib.contextmanager
def busy(node: Node, count: int) -> Iterator[None]:
    """Cells of as many notebooks, all of which have begun or wait."""
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(node.session(f'busy {number}')) for number in range(count)]
        threads = [threading.Thread(target=until_interrupted, args=(session,), daemon=True) for session in sessions]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 60
        while (found := scrape(node))['executors{state=running}'] < 2 or found['cells_waiting'] < count - 2:
            assert time.monotonic() < end
            time.sleep(.05)
        yield
        for session in sessions:
            session.interrupt()
        for thread in threads:
            thread.join(20)


def until_interrupted(session: Session) -> None:
    with contextlib.suppress(RemoteInterrupt):
        session.execute('import time\nfor _ in range(1000): time.sleep(.1)')


def test_what_runs_and_what_waits(counted: Node, capsys: pytest.CaptureFixture[str]) -> None:
    with busy(counted, 3):
        found = scrape(counted)
        assert cli.main(['status', '--data-dir', str(counted.data_dir)]) == 0
        said = capsys.readouterr().out
    assert (found['cells_running'], found['cells_waiting'], found['executors{state=running}']) == (2, 1, 2)
    assert re.search(r'(?m)^cells  .*, 2 running, 1 waiting$', said)
    assert re.search(r'(?m)^running +user +for +request\n(busy \d +admin +(\d+ min )?\d+ s +[0-9a-f-]{32,36}\n){2}', said)


# ---------------------------------------------------------------- ipython-erp5 status
def status(node: Node, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    code = cli.main(['status', '--data-dir', str(node.data_dir), *options])
    out, errors = capsys.readouterr()
    assert errors == '' and node.password not in out
    return code, out


def test_status_for_people_and_for_scripts(counted: Node, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = status(counted, capsys)
    assert code == 0 and text.startswith(f'url             {counted.url}\nuser            admin\n')
    assert re.search(r'(?m)^storage +sqlite, \d+ kB$', text) and re.search(r'(?m)^up +\d+ (s|min.*)$', text)
    code, text = status(counted, capsys, '--json')
    told = json.loads(text)
    assert code == 0 and told['runs'] and told['answers'] and told['url'] == counted.url and told['pid'] == counted.process.pid
    assert told['status']['lost'] == scrape(counted)['cells_lost_total'] and told['status']['nodes'] == []
    assert told['status']['running_cells'] == []


def test_status_of_a_node_that_does_not_answer(counted: Node, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, 'ANSWER_SECONDS', .3)
    os.kill(counted.process.pid, signal.SIGSTOP)
    try:
        (code, text), (json_code, json_text) = status(counted, capsys), status(counted, capsys, '--json')
    finally:
        os.kill(counted.process.pid, signal.SIGCONT)
    assert (code, json_code) == (0, 0)
    assert re.search(r'(?m)^does not answer +http://\S+ said nothing for 0.3 seconds', text) and '\nexecutors        2\n' in text
    told = json.loads(json_text)
    assert told['runs'] and not told['answers'] and told['status'] is None and 'said nothing' in told['reason']


def test_status_with_another_password(counted: Node, capsys: pytest.CaptureFixture[str]) -> None:
    kept = counted.password
    (counted.data_dir / 'password').write_text('another')
    try:
        code, text = status(counted, capsys)
    finally:
        (counted.data_dir / 'password').write_text(kept)
    assert code == 0 and re.search(r"(?m)^does not answer +http://\S+ does not let 'admin' run code", text)


def test_status_where_no_node_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['status', '--data-dir', str(tmp_path / 'none'), '--json']) == 3
    told = json.loads(capsys.readouterr().out)
    assert told == {'runs': False, 'answers': False, 'reason': '', 'status': None, 'data_dir': str(tmp_path / 'none')}
