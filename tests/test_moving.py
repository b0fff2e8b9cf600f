"""Values that are pushed and pulled: what travels, what is refused before anything runs, and what a network may do meanwhile."""

import base64
import dataclasses
import datetime
import json
import signal
import socket
import subprocess
import sys
import threading
import types
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import numpy as np
import pandas as pd
import pytest
import storages
from conftest import Node, start_node
from IPython.core.interactiveshell import InteractiveShell
from scripted_site import NOT_FOUND, each, http, site
from traitlets.config import Config

import ipython_erp5
from ipython_erp5 import serializers, shipping, transfer
from ipython_erp5.errors import NodeError, OptionError, RemoteError, SerializationError, UnauthorizedError, UnsupportedError
from ipython_erp5.node import bodies, packing, parcels
from ipython_erp5.node.storage import embedded_storage, open_database, opened
from ipython_erp5.session import Session

MB = 1 << 20
PUT = 'Base_putJupyterBuffers'
KNOWN = each([http('True')])


def large(count: int = 3 * MB // 8, seed: int = 1) -> Any:
    return np.random.default_rng(seed).random(count)


def text_of(session: Session, code: str) -> str:
    result = session.execute(code).result
    assert result is not None
    return str(result['text/plain'])


def lines_of(session: Session) -> int:
    """How many cells have been run in the notebook."""
    return int(session.context()['lines'])


# ---------------------------------------------------------------- what travels
class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)


VALUES: dict[str, Any] = {
    'number': 1, 'truth': True, 'nothing': None, 'words': 'Ä' * 10, 'moment': datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    'nested': {'a': [1, (2, {3})], 'b': frozenset('x')}, 'letters': 'ß' * 100_000, 'small': b'abc', 'octets': bytes(range(256)) * 300,
    'buffer': bytearray(b'xyz') * 30_000, 'both': [b'q' * 70_000, bytearray(b'r' * 70_000)], 'numbers': list(range(50_000)),
    'array': np.arange(20_000.), 'fortran': np.asfortranarray(np.arange(40_000).reshape(200, 200)), 'empty': np.empty((0, 3)),
    'scalar': np.float32(1.5), 'steps': np.arange(60_000)[::-3], 'records': np.zeros(5000, [('a', 'i4'), ('b', 'f8')]),
    'frame': pd.DataFrame({'n': range(20_000), 't': ['a', 'b'] * 10_000, 'x': np.linspace(0, 1, 20_000)}),
    'series': pd.Series(range(3), index=list('abc'), name='s'), 'error': ValueError('wrong', 1),
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, (pd.DataFrame, pd.Series, np.ndarray)):
        alike = type(one) is type(other) and one.shape == other.shape
        return alike and bool(one.equals(other) if hasattr(one, 'equals') else (one == other).all() and one.dtype == other.dtype)
    return type(one) is type(other) and (repr(one) == repr(other) if isinstance(one, Exception) else bool(one == other))


def test_values_go_and_come_back_as_what_they_are(session: Session) -> None:
    session.push(**VALUES)
    assert text_of(session, "f'{type(frame).__name__} {array.sum()} {len(letters)} {buffer[:3]} {steps[0]} {both[1][:1]}'") == \
        '"DataFrame 199990000.0 100000 bytearray(b\'xyz\') 59999 bytearray(b\'r\')"'
    back = dict(zip(VALUES, session.pull(*VALUES), strict=True))
    assert [name for name, value in VALUES.items() if not same(value, back[name])] == []
    back['array'][0], back['buffer'][:1] = 7, b'-'
    assert not any(value.flags.writeable is False for value in back.values() if isinstance(value, np.ndarray))


def test_what_values_share_they_share_there_and_here(session: Session) -> None:
    array, inner = large(), [1]
    session.push(array=array, view=array[10:], a=[inner], b=[inner])
    assert text_of(session, 'view[0] = -1; a[0].append(2); (array[10], b, view.base is array)') == '(np.float64(-1.0), [[1, 2]], True)'
    again, view, a, b = session.pull('array', 'view', 'a', 'b')
    view[1] = -2
    assert (again[10], again[11], a, a[0] is b[0]) == (-1, -2, [[1, 2]], False)   # plain values come as text, each for itself
    first, second = session.execute('p = {1: array}; q = [array]', pull='p,q').values.values()
    assert first[1] is second[0]


def test_a_push_comes_before_the_cell_and_a_pull_after_it(session: Session) -> None:
    reply = session.execute('b = a + 1; a = 0\nb * 2', push={'a': 20}, pull=['b', '_', 'a'])
    assert (reply.values, reply.sent > 0) == ({'b': 21, '_': 42, 'a': 0}, True)
    assert session.pull('b') == 21
    assert text_of(session, 'a, b') == '(0, 21)'


def test_a_pushed_value_wins_as_an_assignment_does(session: Session) -> None:
    session.execute('x = [1]; y = x\nenvironment.define(z=1)')
    session.push(x=5, z=6, len=len, context='mine')
    assert text_of(session, "x, y, z, len('ab'), context") == "(5, [1], 6, 2, 'mine')"


def test_functions_and_classes_belong_to_the_notebook_then(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    main = types.ModuleType('__main__')
    monkeypatch.setitem(sys.modules, '__main__', main)
    exec('factor = 2\ndef scaled(x):\n    return x * factor\nclass P:\n    def __init__(self, x):\n        self.x = scaled(x)\n'
         'def adder(n):\n    def add(x):\n        return x + n\n    return add\nadd = adder(3); p = P(1)', vars(main))
    session.execute('factor = 10')
    session.push(**{name: vars(main)[name] for name in ('scaled', 'P', 'add', 'p')})
    assert text_of(session, 'scaled(1), P(1).x, isinstance(p, P), add(1), P.__module__') == "(10, 10, True, 4, '__main__')"
    session.execute('class Q(P):\n    pass\nq = Q(5)\ndef halved(x):\n    return scaled(x) / 2')
    q, halved = session.pull('q', 'halved')
    vars(main).update(scaled=lambda x: x * 100)
    assert (q.x, type(q).__name__, halved(1)) == (50, 'Q', 50.0)   # the globals of a function are those of where it is


def test_a_class_of_a_module_that_only_this_side_has(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'only_here', module := types.ModuleType('only_here'))
    exec('class Local: pass', vars(module))
    session.execute('1')
    with pytest.raises(RemoteError, match=r'what was pushed cannot be had here, nothing was run: v: .*only_here'):
        session.execute('w = 1', push={'u': 1, 'v': module.Local()})
    assert [variable['name'] for variable in session.variables() if variable['name'] in 'uvw'] == []


# ---------------------------------------------------------------- what does not
def test_what_cannot_travel_is_named_and_nothing_is_run(session: Session) -> None:
    session.execute('a = 1')
    value = {'model': [threading.Lock()], 'stream': (i for i in ())}
    with pytest.raises(SerializationError) as raised:
        session.execute('a = 2', push={'fine': 1, 'value': value})
    told = str(raised.value).splitlines()
    assert told[0] == 'cannot be pushed, nothing was sent or run (make it there, in a cell, or leave it out):'
    assert [line.strip() for line in told[1:]] == ["value['model'][0] → _thread.lock", "value['stream'] → generator"]
    with pytest.raises(SerializationError, match='\n  lock → _thread.lock\n  gen → generator$'):
        session.push(lock=threading.Lock(), gen=(i for i in ()))
    assert (lines_of(session), session.pull('a')) == (1, 1)
    for name in ('a b', 'class', '1', ''):
        with pytest.raises(OptionError, match='expected the name of a variable'):
            session.push(**{name: 1})
        with pytest.raises(OptionError, match='expected the name of a variable'):
            session.pull('a', name)
    with pytest.raises(OptionError, match='session.push.prices=prices.*got a dict'):
        session.push({'a': 2})   # type: ignore[arg-type]
    assert lines_of(session) == 2


def test_what_the_environment_provides_and_the_last_value_are_values_like_others(session: Session) -> None:
    session.execute('def load():\n    rates = [2]\n    def helper(x):\n        return x * rates[0]\n'
                    '    return {"rates": rates, "helper": helper}\nenvironment.define(load, "load")')
    assert session.execute('many = {1: helper}; 6 * 7', pull='_').values == {'_': 42}
    rates, helper, many = session.pull('rates', 'helper', 'many')
    assert (rates, helper(3), many[1](4), session.pull('_')) == ([2], 6, 8, 42)
    stay = {'environment': 'the environment', 'context': 'a document of the site', '__builtins__': "the notebook's builtins"}
    for name, what in stay.items():
        with pytest.raises(SerializationError, match=f'{name}: {what} stays there'):
            session.pull('many', name)


def test_nothing_is_pulled_if_one_name_cannot_be(session: Session) -> None:
    with pytest.raises(SerializationError, match='c cannot be sent: .*generator'):
        session.execute('a, c = 1, (i for i in [])', pull='a,c')
    with pytest.raises(SerializationError, match='nowhere cannot be sent: there is no variable of this name[.]'):
        session.pull('a', 'nowhere')
    session.execute('prices = 1')
    with pytest.raises(SerializationError, match="prises cannot be sent: there is no variable of this name; did you mean 'prices'[?]"):
        session.pull('prises')
    with pytest.raises(SerializationError, match='a document of the site stays there'):
        session.execute('d = [context]', pull='d')
    with pytest.raises(RemoteError):
        session.execute('1/0', pull='a')


def test_bytes_of_a_site_that_is_not_trusted_are_neither_fetched_nor_loaded(session: Session) -> None:
    session.trusted = False
    fetched: list[int] = []
    session.push(array=large(), plain=[1])
    with pytest.raises(UnsupportedError, match='not trusted.*trusted_sites = .*, and connect again'):
        session.pull('plain', 'array', on_bytes=lambda done, total: fetched.append(done))
    assert (fetched, session.pull('plain')) == ([], [1])


def test_code_of_another_python_is_refused(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    main = types.ModuleType('__main__')
    monkeypatch.setitem(sys.modules, '__main__', main)
    exec('def f(): pass', vars(main))
    session.execute('1')
    request = session.values.pushed(session._request('ran = 1', '', True), {'f': main.f})
    pushed = json.loads(request.push)
    version = b'K\x03K' + bytes([sys.version_info[1]])   # as pickle writes the two numbers
    data = base64.b64decode(pushed['data'])
    assert data.count(version) == 1
    pushed['data'] = base64.b64encode(data.replace(version, b'K\x03K\x63')).decode()
    messages = list(session.delivery.run(dataclasses.replace(request, push=json.dumps(pushed))))
    assert messages[-1]['ename'] == 'SerializationError' and 'was saved by Python 3.99, and this is Python' in messages[-1]['evalue']
    assert 'ran' not in [variable['name'] for variable in session.variables()]


def test_a_stock_site_is_sent_no_bytes() -> None:
    with site(Base_checkExistingReference=KNOWN, Base_getJupyterStatus=each([NOT_FOUND])) as served:
        with ipython_erp5.connect(served.url, user='a', password='b', reference='r') as session:
            with pytest.raises((SerializationError, UnsupportedError)):
                session.execute('x', push={'x': large()})
    assert served.count('Base_executeJupyter') == 0 == sum(request.method.startswith(PUT) for request in served.received)


# ---------------------------------------------------------------- pieces
def pieces(node: Node) -> int:
    return sum(1 for _ in (node.data_dir / 'storage' / 'blobs').rglob('*.blob'))


def test_large_values_are_pieces_before_the_cell_runs_and_the_same_are_not_written_again(node: Node, session: Session) -> None:
    array = large(9 * MB)   # 72 MB: more than one request
    told: list[tuple[int, int]] = []
    before = pieces(node)
    session.push(lambda done, total: told.append((done, total)), array=array)
    assert told == sorted(told) and len(told) > 70 and told[-1] == (array.nbytes, array.nbytes)
    written = pieces(node) - before
    session.push(array=array, copy=array.copy())
    assert (written, pieces(node) - before) == (36, 36)   # of 2 MiB
    assert text_of(session, 'array[0] = 1; copy[0] == array[0], array.sum() == copy.sum()') == '(np.False_, np.False_)'
    assert pieces(node) - before == 37
    back = session.pull('array')
    assert back[0] == 1 and np.array_equal(back[1:], array[1:])


def test_a_pulled_value_is_that_of_the_end_of_its_cell(node: Node, session: Session) -> None:
    reply = session.execute('import numpy\nx = numpy.ones(400_000)', pull='x', fetch=False)
    with node.session(session.reference) as other:
        other.execute('x[:] = 2; del x')
    assert session.fetched(reply, ['x'])['x'].sum() == 400_000


def test_buffers_wait_for_their_cell_whatever_packs_meanwhile_and_a_cell_that_comes_again_needs_none(node: Node, session: Session) -> None:
    session.execute('1')
    array = large(seed=uuid.uuid4().int)
    request = session.values.pushed(session._request('n = array.sum()', 'n', True), {'array': array})
    database = open_database(embedded_storage(node.data_dir))
    assert packing.pack(database) is not None
    database.close()
    first = list(session.delivery.run(request))
    assert first[-1]['status'] == 'ok'
    session.push(array=large(seed=2))   # which forgets what has arrived
    assert [m for m in session.delivery.run(request) if m['msg_type'] != 'keepalive'] == [m for m in first if m['msg_type'] != 'keepalive']
    assert session.pull('array')[0] == large(seed=2)[0]


def test_buffers_that_never_came_are_an_error_before_anything_runs(session: Session) -> None:
    session.execute('1')
    packed = transfer.pack({'a': large()}, serializers.get('cloudpickle'))
    for push in (json.dumps(packed.description), 'no JSON', '{"names": ["a b"], "sizes": [], "kinds": [], "format": "", "data": ""}'):
        reply = list(session.delivery.run(dataclasses.replace(session._request('b = 1', '', True), push=push)))[-1]
        assert (reply['ename'], 'nothing was run' in reply['evalue']) == ('SerializationError', True)
    assert [variable['name'] for variable in session.variables()] == []


# ---------------------------------------------------------------- the network
@pytest.fixture
def cut(node: Node) -> Iterator[tuple[storages.Cut, Session]]:
    """A session through a relay that can be cut."""
    with storages.relay(storages.address(node.url)) as relay:
        url = f'http://127.0.0.1:{relay.port}/erp5'
        with ipython_erp5.connect(url, user=node.user, password=node.password, reference=f'test {uuid.uuid4()}') as session:
            yield relay, session


def test_a_connection_that_breaks_in_the_middle(cut: tuple[storages.Cut, Session]) -> None:
    relay, session = cut
    cuts: list[int] = []

    def once(done: int, total: int) -> None:
        if done > total // 2 and len(cuts) < limit:
            cuts.append(done)
            relay.reset()

    array, limit = large(), 1
    session.push(once, array=array)
    limit = 2
    assert np.array_equal(session.pull('array', on_bytes=once), array)
    assert len(cuts) == 2


def test_ctrl_c_ends_a_transfer_and_nothing_else(node: Node, session: Session) -> None:
    session.execute('a = 1')

    def press(done: int, total: int) -> None:
        if done > total // 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        session.execute('a = 2', push={'array': large()}, on_bytes=press)
    assert (lines_of(session), session.pull('a')) == (1, 1)
    session.push(array=large())
    reply = session.execute('a', pull='array', fetch=False)
    with pytest.raises(KeyboardInterrupt):
        session.fetched(reply, ['array'], press)
    assert (reply.values, np.array_equal(session.pull('array'), large())) == ({}, True)
    assert node.faults() == []


def test_ctrl_c_waits_for_no_site_that_says_nothing(cut: tuple[storages.Cut, Session], monkeypatch: pytest.MonkeyPatch) -> None:
    relay, session = cut
    monkeypatch.setattr(shipping, 'BATCH', 16 * MB)
    session.execute('1')
    once = threading.Lock()   # there are two lanes; a second signal would come after the test

    def silence(done: int, total: int) -> None:
        if done > total // 2 and once.acquire(blocking=False):
            relay.hole()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        session.push(silence, array=large(8 * MB))
    sending = [thread for thread in threading.enumerate() if thread.name.startswith('erp5-shipping')]
    assert sending
    relay.restore()
    for thread in sending:
        thread.join()
    assert session.pull('_') == 1


# ---------------------------------------------------------------- HTTP
def posted(node: Node, path: str, body: bytes, *headers: str, authorization: str = '') -> Iterator[bytes]:
    """The answer to a request on a connection of its own, then that to a question on the same one."""
    credentials = base64.b64encode((authorization or f'{node.user}:{node.password}').encode()).decode()
    common = f'Host: node\r\nAuthorization: Basic {credentials}\r\n'
    with socket.create_connection((urlsplit(node.url).hostname, urlsplit(node.url).port), 10) as connection:
        stream = connection.makefile('rb')
        length = () if any(header.startswith('Content-Length') for header in headers) else (f'Content-Length: {len(body)}',)
        head = '\r\n'.join([f'POST /erp5/{path} HTTP/1.1', *headers, *length])
        connection.sendall(f'{head}\r\n{common}\r\n'.encode() + body)
        yield answer(stream)
        connection.sendall(f'POST /erp5/Base_checkExistingReference?reference=none HTTP/1.1\r\nContent-Length: 0\r\n{common}\r\n'.encode())
        yield answer(stream)


def answer(stream: Any) -> bytes:
    """Status line and body."""
    status, length = stream.readline(), 0
    while (line := stream.readline().lower()) not in (b'\r\n', b''):
        if line.startswith(b'content-length:'):
            length = int(line.partition(b':')[2])
        if line.startswith(b'transfer-encoding: chunked'):
            length = -1
    if length >= 0:
        return status + stream.read(length)
    parts = [status]
    while size := int(stream.readline(), 16):
        parts.append(stream.read(size + 2)[:-2])
    stream.readline()
    return b''.join(parts)


def query(**fields: Any) -> str:
    return f'{PUT}?{urlencode({"reference": "nobody has this", "request_id": "1", **fields})}'


HEAD = json.dumps([[0, 8, 0, 8]]).encode()
BAD = {
    'no head': (query(head=0), b'x', 'expected the length'),
    'a head that is longer than all': (query(head=99), b'x', 'expected the length'),
    'no JSON': (query(head=1), b'x', 'expected a list of spans'),
    'too few bytes': (query(head=len(HEAD)), HEAD + b'1234567', 'expected as many bytes'),
    'too many bytes': (query(head=len(HEAD)), HEAD + bytes(3 * MB), 'expected as many bytes'),
    'a span in the middle of a piece': (query(head=12), b'[[0,8,1,8]] ' + b'7654321', 'no span can be'),
    'no request': (query(head=len(HEAD), request_id=''), HEAD + b'12345678', 'expected a request_id'),
}


@pytest.mark.parametrize('path, body, text', BAD.values(), ids=BAD.keys())
def test_a_body_that_is_none_is_refused_and_the_connection_goes_on(node: Node, path: str, body: bytes, text: str) -> None:
    refused, next_one = posted(node, path, body)
    assert text in refused.decode() and b'"error"' in refused
    assert b' 204 ' in next_one.splitlines()[0] or b' 200 ' in next_one.splitlines()[0]


def test_who_may_not_is_refused_before_anything_is_stored(node: Node) -> None:
    before = pieces(node)
    refused, next_one = posted(node, query(head=len(HEAD)), HEAD + b'12345678', authorization='nobody:wrong')
    assert b' 401 ' in refused.splitlines()[0] and b' 401 ' in next_one.splitlines()[0]
    awaited, _ = posted(node, query(head=len(HEAD)), HEAD + b'12345678')
    assert b'"ok"' in awaited and pieces(node) == before + 1


def test_what_came_before_there_was_no_room_is_not_kept_for_a_day(node: Node) -> None:
    database, size, none = open_database(embedded_storage(node.data_dir)), 1 << 45, cast(Any, None)
    depot, address = parcels.Depot(database), parcels.Address(uuid.uuid4().hex, 0, 'nobody has this', 'admin')
    for head, octets, length in ((HEAD, b'12345678', 8), (json.dumps([[1, size, 0, size]]).encode(), b'', size)):
        body = bodies.Body(none, head + octets, len(head) + length, False)   # all that is read of it is there
        said = depot.received(body, dataclasses.replace(address, number=length), len(head))
        with opened(database) as root:
            kept = [key for key in parcels.parcels_in(root).index if key[0] == address.request_id]
        assert (said.get('ename', 'ok'), len(kept)) == (('ok', 1) if octets else ('StorageFullError', 0))
    database.close()


def test_a_client_that_waits_for_leave_to_send(node: Node) -> None:
    credentials = base64.b64encode(f'{node.user}:{node.password}'.encode()).decode()
    with socket.create_connection((urlsplit(node.url).hostname, urlsplit(node.url).port), 10) as connection:
        connection.sendall(f'POST /erp5/{query(head=len(HEAD))} HTTP/1.1\r\nHost: node\r\nAuthorization: Basic {credentials}\r\n'
                           f'Expect: 100-continue\r\nContent-Length: {len(HEAD) + 8}\r\n\r\n'.encode())
        stream = connection.makefile('rb')
        assert stream.readline() + stream.readline() == b'HTTP/1.1 100 Continue\r\n\r\n'
        connection.sendall(HEAD + b'abcdefgh')
        assert b'"ok"' in answer(stream)


def test_a_node_without_the_method_says_so() -> None:
    status = each([http('{}', kind='application/json')])
    with site(Base_checkExistingReference=KNOWN, Base_getJupyterStatus=status) as served:
        with ipython_erp5.connect(served.url, user='a', password='b', reference='r') as session:
            with pytest.raises(UnsupportedError, match=f'neither take nor send large values: it has no {PUT}'):
                session.push(text=b'a' * 100_000)
    assert [request.method.partition('?')[0] for request in served.received][1:] == ['Base_getJupyterStatus', PUT]


def test_bytes_come_where_they_stay() -> None:
    buffer = transfer.memory_for('bytes', MB)
    transfer.writable(buffer)[:3] = b'abc'
    found = transfer.block('bytes', buffer)
    assert (found[:4], len(found), transfer.block('bytes', buffer) is found) == (b'abc\0', MB, True)


def test_batches_have_whole_pieces_and_little_ones_go_together() -> None:
    sizes = [10, 2 * shipping.BATCH + 5, 7, *[1] * (shipping.MOST + 1)]
    found = list(shipping.batches(sizes))
    assert [[span[0] for span in batch] for batch in found[:4]] == [[0], [1], [1], [1, 2, *range(3, shipping.MOST + 1)]]
    spans = [span for batch in found for span in batch]
    assert sum(stop - start for _, _, start, stop in spans) == sum(sizes)
    assert all(start % (16 * MB) == 0 and size == sizes[number] for number, size, start, _ in spans)
    assert list(shipping.batches([])) == []


# ---------------------------------------------------------------- two nodes, a server without blobs, a proxy, a limit
@pytest.fixture(scope='module')
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a proxy before two nodes, which keep pieces as records, and nothing of more than 6 MB."""
    folder = tmp_path_factory.mktemp('cluster')
    with storages.zeo(folder / 'zeo', blobs=False) as uri:
        def start(name: str) -> Node:
            (folder / name).mkdir(mode=0o700)
            (folder / name / 'password').write_text('the same password')
            return start_node(folder / name, '--storage', uri, '--placement', 'rotate', '--variable-limit', '6MB')

        with ThreadPoolExecutor() as threads:
            nodes = list(threads.map(start, ('one', 'two')))
        with storages.haproxy(folder / 'haproxy', [node.url for node in nodes]) as url:
            yield url
        for node in nodes:
            node.stop()


@pytest.fixture
def behind(cluster: str) -> Iterator[Session]:
    with ipython_erp5.connect(cluster, user='admin', password='the same password', reference=f'test {uuid.uuid4()}') as session:
        yield session


def test_values_travel_whichever_node_is_asked(behind: Session) -> None:
    array = large(5 * MB // 8)
    for _ in range(3):
        behind.push(array=array, small=1)
        behind.client.close()   # the next request may go elsewhere
        assert text_of(behind, 'array.sum()') == f'np.float64({array.sum()})'
        assert np.array_equal(behind.pull('array'), array)


def test_a_value_that_is_not_kept_travels_all_the_same_and_too_much_is_not_taken(behind: Session) -> None:
    reply = behind.execute('import numpy\nbig = numpy.ones(2**20)', pull='big')
    assert reply.values['big'].sum() == 1 << 20 and [lost['name'] for lost in reply.context['not_saved']] == ['big']
    with pytest.raises(RemoteError, match='more than the 6.* that a variable may have here .*: nothing was run'):
        behind.push(big=large(MB))


# ---------------------------------------------------------------- other users, TLS
def test_a_notebook_of_somebody_else_takes_nothing_and_gives_nothing(node: Node, session: Session) -> None:
    command = [sys.executable, '-m', 'ipython_erp5', 'user', 'add', 'mover', '--role', 'Author', '--data-dir', str(node.data_dir)]
    made = subprocess.run(command, input='another secret\n', capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    session.execute('x = 1')
    with ipython_erp5.connect(node.url, user='mover', password='another secret', reference="the mover's own") as other:
        sending = shipping.Shipping(other.client, session.reference, 'a request')
        with pytest.raises(UnauthorizedError, match='belongs to admin'):
            sending.send([memoryview(b'x' * MB)])
        with pytest.raises(UnauthorizedError, match='belongs to admin'):
            sending.receive([MB], ['buffer'])
    with pytest.raises(NodeError, match='not kept here any more'):
        shipping.Shipping(session.client, session.reference, 'a request').receive([MB], ['buffer'])


# ---------------------------------------------------------------- magics
@pytest.fixture
def typed(node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    for name, value in node.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('ERP5_REFERENCE', f'test {uuid.uuid4()}')
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}))
    shell.run_line_magic('load_ext', 'ipython_erp5')
    yield shell.run_cell
    shell.run_line_magic('unload_ext', 'ipython_erp5')
    InteractiveShell.clear_instance()


def test_magics_move_variables(typed: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> None:
    typed('import numpy as np; a = np.ones(50_000); b = 2')
    typed('%%erp5 --push a,b --pull c\nc = a.sum() * b').raise_error()
    assert typed('c').result == 100_000
    typed('%erp5_push b c').raise_error()
    typed('%%erp5\nd = [b, c]').raise_error()
    typed('%erp5_pull d').raise_error()
    assert typed('d').result == [2, 100_000]
    typed('%erp5 6 * 7').raise_error()
    assert (typed('%erp5_pull _').result, typed('%%erp5 --pull _\nd').result) == (42, [2, 100_000])
    typed('%%erp5 --noblock --pull _\n[7]').raise_error()
    assert (typed('_.result()').result, typed('_').result, typed('8').result, typed('_').result) == ([7], [7], 8, 8)   # not for ever
    shown = capsys.readouterr().out
    assert 'Pushed a, b: 400 kB\nPulled c: ' in shown and 'Pushed b, c: ' in shown and 'Pulled d: ' in shown
    typed('%config ERP5Magics.feedback = 0')
    typed('%erp5_pull d').raise_error()
    assert capsys.readouterr().out == ''


def test_magics_refuse_before_anything_is_sent(typed: Callable[[str], Any]) -> None:
    typed('array = 1; c = "mine"')
    with pytest.raises(OptionError, match="no local variable 'aray'; did you mean 'array'.* Nothing was sent or run"):
        typed('%%erp5 --push aray\n1').raise_error()
    with pytest.raises(OptionError, match="expected the name of a variable, got 'a.b'"):
        typed('%erp5_pull a.b').raise_error()
    with pytest.raises(OptionError, match='NAME'):
        typed('%erp5_push').raise_error()
    with pytest.raises(RemoteError):
        typed('%%erp5 --pull c\nc = "theirs"; 1/0').raise_error()
    assert typed('c').result == 'mine'


def test_a_large_value_of_an_expression_stays_there(typed: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> None:
    typed('found = %erp5 __import__("numpy").ones(7_000_000)').raise_error()
    assert 'The value (56.0 MB) stays there' in capsys.readouterr().out
    assert repr(typed('found').result) == 'array([1., 1., 1., ..., 1., 1., 1.], shape=(7000000,))'
    typed('found = %erp5 __import__("numpy").ones(6_000_000)').raise_error()
    assert typed('found.sum()').result == 6_000_000 and 'stays there' not in capsys.readouterr().out
