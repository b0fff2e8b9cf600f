"""Malformed requests by the thousand: no answer is a 5xx, none is missing, and the node is afterwards what it was before.

    corpus ─► mutations ─┐
                         ├─► raw_http.Sample ══► node ══► statuses
    hypothesis ──────────┘
"""

import os
import random
import string
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest
from conftest import Node, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_http import AT_ONCE, Sample, form, multipart, request, send, token

from ipython_erp5.node.publisher import PUBLISHED

STRUCTURED, MUTATED = 64, 40  # samples of a round
METHODS = sorted(PUBLISHED)
CELL = 'Base_executeJupyter'


# ---------------------------------------------------------------- requests
def corpus(authorization: str) -> list[bytes]:
    """Requests of all kinds, as clients send them: the beginnings of mutations. None runs more than a number."""
    known = f'Authorization: {authorization}'
    cell = form(python_expression='1', reference='fuzz', request_id='fuzz')
    found = [request(name, form(reference='fuzz', request_id='fuzz', python_expression='1', code='x', cursor_pos='1'), known)
             for name in METHODS]
    found += [request(CELL, cell), request(CELL, b'', known), request(CELL, cell, known, 'Accept: application/x-ndjson'),
              request(CELL, form(request_reference='True'), known), request('', b'', known, method='GET'),
              request(CELL, form(reference='fuzz', python_expression='1', request_id='fuzz', serializer='no such'), known),
              request(CELL, b'{"python_expression": "1", "reference": "fuzz"}', known, kind='application/json'),
              request(CELL, multipart(b'Content-Disposition: form-data; name="reference"\r\n\r\nfuzz',
                                      b'Content-Disposition: form-data; name="request_id"; filename="x"\r\n\r\n1'), known,
                      kind='multipart/form-data; boundary=XX'),
              request('Base_getJupyterStatus', b'', known, 'Expect: 100-continue', 'Cookie: a=b', 'Range: bytes=0-1'),
              request(f'Base_getJupyterContext?{form(reference="fuzz").decode()}', b'', known, method='GET'),
              request('data_notebook_module/1/manage_main', b'', known, method='GET'),
              b'POST /erp5/Base_getJupyterContext HTTP/1.1\r\nHost: x\r\n' + known.encode() + b'\r\nTransfer-Encoding: chunked\r\n'
              b'Content-Type: application/x-www-form-urlencoded\r\n\r\n9\r\nreference\r\n5\r\n=fuzz\r\n0\r\n\r\n']
    return found


# Bytes that have a meaning somewhere between the socket and the method.
BITS = [b'\r\n', b'\n', b'\r', b'\0', b':', b'%', b'%00', b'%ff', b'%u0041', b'\xff\xfe', b'\xed\xa0\x80', b'\xf0\x9f\x98\x80', b'=', b'&',
        b';', b'/', b'//', b'..', b'%2e%2e/', b' ', b'\t', b'{', b'[', b'"', b'-1', b'0', b'99999999999999999999', b'1e9', b'0x10', b'NaN',
        b':int', b':list', b':record', b':records', b':method', b':action', b':default', b':date', b':utf8:ustring', b':json', b':bytes',
        b'HTTP/1.0', b'HTTP/0.9', b'HTTP/9.9', b'Transfer-Encoding: gzip\r\n', b'Transfer-Encoding: chunked\r\n', b'Content-Length: 5\r\n',
        b'Content-Length: ' + b'9' * 5000 + b'\r\n', b'Content-Length: 99999999999\r\n', b'Connection: close\r\n',
        b'Connection: keep-alive\r\n', b'Expect: 100-continue\r\n', b'X-Forwarded-For: ::1\r\n', b'If-None-Match: *\r\n',
        b'Content-Type: multipart/form-data\r\n', b'Content-Type: multipart/form-data; boundary=\xff\r\n', b'Content-Encoding: gzip\r\n',
        b'Content-Type: application/x-www-form-urlencoded; charset=no-such\r\n', b'Content-Type: text/xml\r\n',
        b'X: ' + b'y' * 70_000 + b'\r\n', b'Authorization: Basic \xff\r\n', b'Authorization: Basic OjpK\r\n',
        b'Authorization: Digest x\r\n',         b'Authorization: Bearer \r\n',
        b'Cookie: \xff=\x80; ; =\r\n', b'Host: [\r\n', b'Host: a:b:c\r\n', b'a' * 10_000]


def mutated(data: bytes, dice: random.Random) -> bytes:
    """A few bytes are lost, repeated, flipped, or others come between."""
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        head = data.find(b'\r\n\r\n') + 4
        position = dice.randrange(head if dice.random() < .7 else len(data) + 1)
        length = dice.choice((0, 1, 1, 2, 10, 100))
        change = dice.randrange(12)
        if change < 3:
            data = data[:position] + data[position + length:]
        elif change < 5:
            data = data[:position] + bytes(dice.randrange(256) for _ in range(min(length, 20))) + data[position + length:]
        elif change < 7:
            data = data[:position] + data[position:position + length] * 2 + data[position + length:]
        elif change < 9:
            data = data[:position] + dice.choice(BITS) + data[position:]
        elif change < 11:  # as a line of its own
            lines = data[:head].split(b'\r\n')
            lines.insert(dice.randrange(1, max(2, len(lines) - 2)), dice.choice(BITS).removesuffix(b'\r\n'))
            data = b'\r\n'.join(lines) + data[head:]
        else:
            data = data[:position]
    return data


def mutations(seed: int, authorization: str) -> list[Sample]:
    dice = random.Random(seed)
    beginnings = corpus(authorization)
    return [Sample(mutated(dice.choice(beginnings), dice), framed=False) for _ in range(MUTATED)]


# ---------------------------------------------------------------- requests by hypothesis: well framed, with odd contents
ODD_TEXT = st.one_of(st.text(max_size=20), st.sampled_from(['', '\0', '\ud800', 'x' * 10_000, 'é' * 3000, '..', '/', '%s%n', '{}', 'None',
                                                            '1', 'fuzz', '-1', '1' * 5000, '\r\nX: y', '\u202e', 'True', ' ']))
FIELD = st.one_of(st.sampled_from(['reference', 'request_id', 'python_expression', 'next_request_id', 'title', 'serializer', 'pull', 'code',
                                   'cursor_pos', 'request_reference', 'store_history', 'REQUEST', 'self', '__class__', 'URL', 'user']),
                  st.text(string.printable, max_size=8))
CONVERTER = st.sampled_from(['', '', '', ':int', ':list', ':record', ':records', ':method', ':action', ':default_method', ':bytes', ':date',
                             ':json', ':tokens', ':utf8:text', ':nonsense', ':', ':int:list', '.x:record', ':ignore_empty'])
FORM = st.lists(st.tuples(st.builds(str.__add__, FIELD, CONVERTER), ODD_TEXT), max_size=4).map(
    lambda pairs: urllib.parse.urlencode(pairs, errors='surrogatepass').encode())
PARTS = st.lists(st.binary(max_size=60), max_size=3).map(lambda parts: multipart(*parts))
BODY = st.one_of(FORM, FORM, FORM, st.binary(max_size=40), PARTS)
KIND = st.sampled_from(['application/x-www-form-urlencoded', 'application/x-www-form-urlencoded', 'application/x-www-form-urlencoded',
                        'multipart/form-data; boundary=XX', 'multipart/form-data', 'application/json', 'text/xml', 'nonsense', '',
                        'application/x-www-form-urlencoded; charset=utf-16', 'application/x-www-form-urlencoded; charset=\xff'])
VERB = st.sampled_from(['POST', 'POST', 'POST', 'GET', 'PUT', 'DELETE', 'PROPFIND', 'OPTIONS', 'TRACE', 'PATCH', 'MKCOL', 'HEAD',
                        'post', 'X'])
QUOTED = st.text(max_size=12).map(urllib.parse.quote)
PATH = st.one_of(*[st.sampled_from([name for name in METHODS if name != CELL])] * 3, st.just(CELL), QUOTED,
                 st.builds('{}/{}'.format, st.sampled_from([*METHODS, '..', '.', '', 'erp5', 'acl_users']),
                           st.sampled_from([*METHODS, '', 'x'])),
                 st.builds('{}?{}'.format, st.sampled_from(METHODS), FORM.map(bytes.decode)))
HEADER = st.builds('{}: {}'.format, st.sampled_from(['Accept', 'Cookie', 'If-Modified-Since', 'Range', 'Origin', 'User-Agent', 'Forwarded',
                                                     'X-Forwarded-Host', 'Accept-Language', 'Upgrade', 'Depth', 'X-HTTP-Method']),
                   st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters='\x7f'), max_size=12))


def structured(authorization: str) -> st.SearchStrategy[Sample]:
    allowed = st.sampled_from([f'Authorization: {authorization}'] * 4 + [f'Authorization: {token("admin:wrong")}', 'X: y'])

    def build(path: str, body: bytes, header: str, known: str, verb: str, kind: str) -> Sample:
        if CELL in path and verb in ('POST', 'GET', 'post'):  # a cell of a notebook of its own takes a process of its own
            body, path = body + b'&reference=fuzz&python_expression=1&request_id=fuzz', CELL
        return Sample(request(path, body, header, known, method=verb, kind=kind))

    return st.builds(build, PATH, BODY, HEADER, allowed, VERB, KIND)


# ---------------------------------------------------------------- the node that bears it
@pytest.fixture(scope='module')
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(tmp_path_factory.mktemp('fuzzed')) as node:
        yield node


def milliseconds(node: Node) -> float:
    """The median of a trivial cell."""
    found = []
    with node.session('after') as session:
        for _ in range(11):
            begun = time.perf_counter()
            session.execute('n = 1')
            found.append(1000 * (time.perf_counter() - begun))
    return sorted(found)[5]


def census(node: Node) -> tuple[int, int, int]:
    """Established connections, threads, and open files of the node's process."""
    process = psutil.Process(node.process.pid)
    connections = [one for one in process.net_connections('tcp') if one.status != psutil.CONN_LISTEN]
    return len(connections), process.num_threads(), process.num_fds()


@pytest.mark.parametrize('rounds', [35, pytest.param(100, marks=pytest.mark.soak)])   # 3 640 samples, 10 400
def test_nothing_malformed_gives_a_5xx_a_hang_or_a_dead_node(target: Node, rounds: int) -> None:
    authorization = token(f'{target.user}:{target.password}')
    statuses: Counter[int] = Counter()
    before, counted = milliseconds(target), census(target)

    @settings(max_examples=rounds, deadline=None, database=None, derandomize=not os.environ.get('FUZZ'),
              suppress_health_check=list(HealthCheck))
    @given(st.lists(structured(authorization), min_size=STRUCTURED, max_size=STRUCTURED), st.integers(0, 1 << 32))
    def fuzz(samples: list[Sample], seed: int) -> None:
        statuses.update(send(target, [*samples, *mutations(seed, authorization)]))

    begun = time.monotonic()
    fuzz()
    print(f'{sum(statuses.values())} answers in {time.monotonic() - begun:.1f} s: {dict(sorted(statuses.items()))}')
    assert sum(statuses.values()) >= 100 * rounds and {200, 400, 401, 404} <= statuses.keys() and max(statuses) < 500
    assert target.process.poll() is None
    after = milliseconds(target)
    assert after < 10 * before + 2000, (before, after)
    end = time.monotonic() + 30
    while (left := census(target))[0] > counted[0] + 2 and time.monotonic() < end:
        time.sleep(.1)
    assert left[0] <= counted[0] + 2, f'{left[0]} connections, {counted[0]} before'
    assert left[1] <= counted[1] + 2 * AT_ONCE and left[2] <= counted[2] + 2 * AT_ONCE, (counted, left)


def test_the_log_of_it_has_no_fault(target: Node) -> None:
    assert 'Traceback' not in target.log()
