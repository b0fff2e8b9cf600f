"""The node's log: every line is a JSON object that says of which request it is, and no line has a password or the code of a cell."""

import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import Node, running, there
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ipython_erp5.errors import ERP5Error, UnauthorizedError
from ipython_erp5.node import journal

FIXED = ['time', 'level', 'event', 'node', 'request_id']


@pytest.fixture
def written(tmp_path: Path) -> Iterator[tuple[journal.Journal, Path]]:
    """A journal, and the file that it writes."""
    path = tmp_path / 'log'
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield journal.Journal('here', fd), path
    os.close(fd)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---------------------------------------------------------------- lines
def test_a_line(written: tuple[journal.Journal, Path]) -> None:
    log, path = written
    log.event('cell', request_id='r1', notebook='Löhne\u2028\n"2017"', seconds=.1234567891, committed=True, cause=None, names=('a', 1))
    log.event('packing', level='warning', size=float('inf'), unneeded={'a': [b'\xff']})
    first, second = lines(path)
    assert list(first)[:5] == list(second)[:5] == FIXED
    assert first == {'time': first['time'], 'level': 'info', 'event': 'cell', 'node': 'here', 'request_id': 'r1', 'committed': True,
                     'notebook': 'Löhne\u2028\n"2017"', 'seconds': .123457, 'cause': None, 'names': ['a', 1]}
    assert (second['level'], second['request_id'], second['size'], second['unneeded']) == ('warning', '', 'inf', {'a': ["b'\\xff'"]})
    assert len(first['time']) == 24 and first['time'][10] == 'T' and first['time'].endswith('Z')


def test_the_request_of_the_thread(written: tuple[journal.Journal, Path]) -> None:
    log, path = written
    before = journal.request.set('r2')
    log.event('one')
    log.event('two', request_id='r3')
    journal.request.reset(before)
    log.event('three')
    assert [line['request_id'] for line in lines(path)] == ['r2', 'r3', '']


def test_a_long_text_keeps_its_ends(written: tuple[journal.Journal, Path]) -> None:
    log, path = written
    log.event('output', text='first' + 'x' * 60_000 + 'last', huge='y' * 10_000_000)
    line, = lines(path)
    assert line['text'].startswith('first') and line['text'].endswith('last') and len(line['text']) < 17_000
    assert len(line['huge']) < 17_000


class NoText:
    def __str__(self) -> str:
        raise RuntimeError('no text')


def test_writing_never_raises(written: tuple[journal.Journal, Path]) -> None:
    log, path = written
    log.event('odd', value=NoText())
    with contextlib.suppress(FileNotFoundError):
        journal.Journal('here', os.open('/dev/full', os.O_WRONLY)).event('full')
    reader, writer = os.pipe()
    os.close(reader)
    journal.Journal('here', writer).event('nobody reads')
    os.close(writer)
    log.event('after')
    assert [line['event'] for line in lines(path)] == ['after']


WRITER = '''
import sys
from ipython_erp5.node.journal import Journal
log = Journal(sys.argv[1])
for number in range(300):
    log.event('cell', number=number, text=sys.argv[1] * 3000)
'''


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    with open(tmp_path / 'log', 'ab') as log:
        writers = [subprocess.Popen([sys.executable, '-c', WRITER, name], stderr=log) for name in 'abc']
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = lines(tmp_path / 'log')
    assert sorted((line['node'], line['number']) for line in found) == [(name, number) for name in 'abc' for number in range(300)]
    assert all(line['text'] == line['node'] * 3000 for line in found)


# ---------------------------------------------------------------- secrets
@pytest.mark.parametrize('text, shown', [
    ('Authorization: Basic YWRtaW46c2VjcmV0', 'Authorization: Basic ********'),
    ("{'HTTP_AUTHORIZATION': 'Digest abc', 'x': 1}", "{'HTTP_AUTHORIZATION': 'Digest ********', 'x': 1}"),
    ('authorization=xyz; next', 'authorization=********; next'),
    ('sent bearer abc.def-123 there', 'sent bearer ******** there'),
    ('postgres://ana:p/w@host:5432/db?x=1', 'postgres://ana:********@host:5432/db?x=1'),
    ('zeo://:hush@host', 'zeo://:********@host'),
    ('postgres://ana@host:5432/db', 'postgres://ana@host:5432/db'),
    ('http://127.0.0.1:8080/erp5', 'http://127.0.0.1:8080/erp5'),
    ("dbname=x password='a b' user=y", 'dbname=x password=******** user=y'),
    ('?__ac_password=hush&x=1', '?__ac_password=********&x=1'),
    ('{"access_token": "a b", "x": 2}', '{"access_token": ********, "x": 2}'),
    ('the password is in a file', 'the password is in a file'),
])
def test_what_looks_like_a_secret(text: str, shown: str) -> None:
    assert journal.Secrets().masked(text) == shown


@settings(max_examples=50)
@given(st.text(min_size=1), st.text(), st.text())
def test_a_known_secret_is_in_no_text(secret: str, before: str, after: str) -> None:
    assume('*' not in secret)
    secrets = journal.Secrets()
    secrets.add(secret)
    for form in journal.forms(secret):
        shown = secrets.masked(f'{before} {form} {after}')
        assert len(secret) < journal.SHORT or secret not in shown and form not in shown
        assert f' {form} ' not in shown


def test_logins_and_uris() -> None:
    secrets = journal.Secrets()
    secrets.add_login('ana', 'open sesame')
    secrets.add_uri('zeo://[nowhere')
    secrets.add_uri('postgres://ana:h%2Fush@host:5432/db?sslpassword=quiet&x=plain')
    token = base64.b64encode(b'ana:open sesame').decode()
    text = secrets.masked(f'{token} open sesame open+sesame h/ush h%2Fush quiet plain')
    assert text == ' '.join([journal.MASK] * 6 + ['plain'])


def test_a_traceback_has_no_source(written: tuple[journal.Journal, Path]) -> None:
    log, path = written
    try:
        try:
            exec(compile('marker = 1 / 0  # the code of a cell', __file__, 'exec'))
        except ZeroDivisionError as error:
            raise RuntimeError('password=hush') from error
    except RuntimeError as error:
        log.fault(error, request_id='r')
    line, = lines(path)
    assert (line['level'], line['event'], line['ename'], line['request_id']) == ('error', 'fault', 'RuntimeError', 'r')
    inner, first, last = [line['traceback'].split('\n')[number] for number in (0, 2, -1)]
    assert inner.startswith(f'  {__file__}:') and first == 'ZeroDivisionError: division by zero'
    assert last == 'RuntimeError: password=********' and 'marker' not in path.read_text()


# ---------------------------------------------------------------- what others say
CAPTURED = '''
import logging, threading, warnings
from ipython_erp5.node import journal
journal.Journal('n').capture()
logging.getLogger('waitress').error('of %s', 'waitress')
logging.getLogger('ZODB').info('too little')
logging.getLogger('ZEO').warning('%d', 'no number')
try:
    {}['x']
except KeyError:
    logging.getLogger('relstorage').exception('password=hush')
warnings.warn('old')
thread = threading.Thread(target=lambda: 1 / 0, name='packer')
thread.start()
thread.join()
class Ending:
    def __del__(self):
        raise ValueError('at the end')
Ending()
raise OSError('nobody catches this')
'''


def test_what_libraries_say_and_nobody_catches() -> None:
    done = subprocess.run([sys.executable, '-W', 'always', '-c', CAPTURED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, '')
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert [list(line)[:5] for line in found] == [FIXED] * 7
    assert [(line['event'], line['level'], line.get('logger'), line.get('ename')) for line in found] == [
        ('log', 'error', 'waitress', None), ('log', 'warning', 'ZEO', None), ('log', 'error', 'relstorage', 'KeyError'),
        ('log', 'warning', 'py.warnings', None), ('fault', 'error', None, 'ZeroDivisionError'),
        ('fault', 'error', None, 'ValueError'), ('fault', 'error', None, 'OSError')]
    assert [found[0]['message'], found[1]['message'], found[4]['thread']] == ['of waitress', '%d', 'packer']
    assert 'old' in found[3]['message'] and 'hush' not in done.stderr


START = '''
from functools import partial
from ipython_erp5.node.process import Process, forkserver
from ipython_erp5.node.storage import open_database
forkserver.set_forkserver_preload(['ipython_erp5.node.preload'])
try:
    Process(partial(open_database, 'nonsense://ana:hush@host')).ready()
except EOFError:
    print('it has ended')
'''


def test_an_executor_that_cannot_start() -> None:
    done = subprocess.run([sys.executable, '-c', START], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, 'it has ended\n')
    line, = [json.loads(line) for line in done.stderr.splitlines()]
    assert (line['event'], line['ename']) == ('fault', 'NodeError') and '--storage: expected a ZODB URI' in line['traceback']


# ---------------------------------------------------------------- a node
WRONG = 'correct horse battery'
LATE = '''
import sys, threading
def late(out=sys.stdout):
    {after}
    out.write('said late, password=hush')
    out.flush()
threading.Thread(target=late).start()
'''


@pytest.fixture(scope='module')
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that has seen all kinds of cells and of logins."""
    with running(tmp_path_factory.mktemp('watched') / 'node') as node:
        with node.session('books') as session:
            session.execute('import logging\nmarker = "nothing of the code"')
            with pytest.raises(ERP5Error, match='nothing of the code'):
                session.execute('raise ValueError(marker)')
            with pytest.raises(ERP5Error, match='exit 3'):
                session.execute('import os; os._exit(3)  # marker')
            reply = session.execute("logging.getLogger('ZODB.marked').error('of a library'); logging.warning('of the cell')")
            assert reply.stderr == 'WARNING:root:of the cell\n'
            session.execute(LATE.format(after=there(node.data_dir / 'ended')))
            (node.data_dir / 'ended').touch()
            end = time.monotonic() + 20
            while not node.events('output') and time.monotonic() < end:
                time.sleep(.02)
        wrong_logins(node)
        yield node


def wrong_logins(node: Node) -> None:
    with pytest.raises(UnauthorizedError):
        node.session('books', password=WRONG)
    for headers in ({'Authorization': f'Bearer {WRONG}'}, {'Authorization': f'Basic {WRONG}'}, {'Authorization': 'Basic'}):
        assert requests.get(f'{node.url}/metrics', headers=headers).status_code in (400, 401)
    assert requests.get(f'{node.url}/metrics', {'__ac_name': 'admin', '__ac_password': WRONG}).status_code == 401


def test_every_line_of_a_node(watched: Node) -> None:
    events = watched.events()
    assert all(list(line)[:5] == FIXED and isinstance(line['request_id'], str) for line in events)
    assert len({line['node'] for line in events}) == 1 and events[0]['event'] == 'serves' and events[0]['url'] == watched.url
    assert watched.faults() == []


def test_a_line_for_each_cell(watched: Node) -> None:
    cells = watched.events('cell')
    assert [line['status'] for line in cells] == ['ok', 'error', 'lost', 'ok', 'ok']
    assert len({line['request_id'] for line in cells} - {''}) == 5
    assert {(line['notebook'], line['user']) for line in cells} == {('books', 'admin')}
    assert all(0 < line['seconds'] < 60 for line in cells)


def test_what_a_library_logs_in_a_cell(watched: Node) -> None:
    line, = watched.events('log')
    assert (line['logger'], line['level'], line['message']) == ('ZODB.marked', 'error', 'of a library')
    assert line['request_id'] == watched.events('cell')[3]['request_id']


def test_what_a_cell_says_after_its_end(watched: Node) -> None:
    line, = watched.events('output')
    assert line['output'] == {'msg_type': 'stream', 'name': 'stdout', 'text': 'said late, password=********'}
    assert line['request_id'] == watched.events('cell')[4]['request_id']


def test_no_password_and_no_code(watched: Node) -> None:
    login = base64.b64encode(f'{watched.user}:{watched.password}'.encode()).decode()
    wrong = base64.b64encode(f'{watched.user}:{WRONG}'.encode()).decode()
    for text in (watched.password, login, WRONG, WRONG.replace(' ', '+'), wrong, 'hush', 'nothing of the code', 'marker', '_exit'):
        assert text not in watched.log()


def test_the_last_line(watched: Node) -> None:
    watched.stop()
    assert [line['event'] for line in watched.events('serves', 'ends')] == ['serves', 'ends'] and watched.faults() == []
