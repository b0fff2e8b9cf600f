"""Client and Session against sites that are scripted byte for byte: every era, every way to fail, and never a cell twice."""

import _thread
import base64
import copy
import errno
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from typing import Any

import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from scripted_site import (END, HANG_UP, NOT_FOUND, NOTHING, STREAM, Site, chunk, each, http, ok, site, stock, streamed, told)
from storages import nobody

from ipython_erp5 import errors, wire
from ipython_erp5 import delivery
from ipython_erp5.client import Client, lines
from ipython_erp5.connections import Connection
from ipython_erp5.credentials import Secret
from ipython_erp5.session import Session, open_session
from ipython_erp5.trouble import error_object, root, shown

PASSWORD = 'pässwörd+/=%&?'
TOKEN = base64.b64encode(f'ana:{PASSWORD}'.encode()).decode()


def connection(url: str, **more: Any) -> Connection:
    return Connection(**{'name': 'test', 'url': url, 'user': 'ana', 'password': Secret(PASSWORD), 'reference': 'sales', **more})


def session(served: Site | str, **more: Any) -> Session:
    return open_session(connection(served if isinstance(served, str) else served.url), **more)


# ---------------------------------------------------------------- what is sent
def test_the_form_and_the_headers_of_a_cell() -> None:
    with site(Base_executeJupyter=[streamed()]) as served:
        opened = open_session(connection(served.url, title='Sales', serializer='dill'))
        opened.execute('print("é")\n', store_history=False)
    request, = served.received
    assert {**request.form, 'request_id': '', 'next_request_id': ''} == {
        'python_expression': 'print("é")\n', 'reference': 'sales', 'title': 'Sales', 'store_history': 'False',
        'serializer': 'dill', 'request_id': '', 'next_request_id': ''}
    assert request.headers['authorization'] == f'Basic {TOKEN}'
    assert request.headers['accept'] == wire.NDJSON
    assert request.headers['content-type'] == 'application/x-www-form-urlencoded'


def test_each_request_announces_the_id_of_the_next_one_on_one_connection() -> None:
    with site(Base_executeJupyter=[streamed()]) as served:
        opened = session(served)
        replies = [opened.execute('1') for _ in range(3)]
    ids = [request.form['request_id'] for request in served.received]
    assert ids[1:] == [request.form['next_request_id'] for request in served.received][:-1]
    assert ids == [reply.request_id for reply in replies]
    assert served.connections == 1


def test_two_megabytes_of_code_arrive() -> None:
    code = '# é\n' * 500_000
    with site(Base_executeJupyter=[streamed()]) as served:
        session(served).execute(code)
    assert served.received[0].form['python_expression'] == code


def test_code_that_is_no_text_is_refused_before_it_is_sent() -> None:
    with site(Base_executeJupyter=[streamed()]) as served:
        with pytest.raises(errors.WireError, match='nothing was sent'):
            session(served).execute('"\ud800"')
    assert served.received == []


def test_no_proxy_and_no_netrc_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / 'netrc').write_text('machine 127.0.0.1 login eve password evil')
    monkeypatch.setenv('NETRC', str(tmp_path / 'netrc'))
    monkeypatch.setenv('http_proxy', 'http://127.0.0.1:9')
    with site(Base_executeJupyter=[streamed()]) as served:
        session(served).execute('1')
    assert served.received[0].headers['authorization'] == f'Basic {TOKEN}'


# ---------------------------------------------------------------- the event stream
def test_messages_arrive_as_they_happen() -> None:
    go = threading.Event()
    seen: list[str] = []

    def on_message(message: wire.Message) -> None:
        seen.append(message['msg_type'])
        if message['msg_type'] == 'stream':
            go.set()    # the site sends the rest only after this

    with site(Base_executeJupyter=[[STREAM, told(wire.stream('stdout', 'a')), go, told(ok()) + END]]) as served:
        reply = session(served).execute('1', on_message=on_message)
    assert seen == ['stream', 'execute_reply']
    assert reply.text == 'a'


def test_a_reply_holds_everything_in_order() -> None:
    shown = {'display_id': 'x'}
    messages = [wire.stream('stdout', 'a'), wire.stream('stderr', 'w'), wire.display_data({'text/html': '<b>'}, {}, shown),
                wire.clear_output(True), wire.stream('stdout', 'b'), wire.display_data({'text/html': '<i>'}, {}, shown, True),
                wire.execute_result({'text/plain': '3'}, {}, 1), wire.context(['x'], [], [], ['careful'], 'dill'),
                {'msg_type': 'of the future', 'what': 1}]
    with site(Base_executeJupyter=[streamed(wire.keepalive('executor'), *messages)]) as served:
        reply = session(served).execute('1')
    assert (reply.text, reply.stderr, reply.result) == ('ab', 'w', {'text/plain': '3'})
    assert [output['msg_type'] for output in reply.outputs] == ['display_data', 'clear_output', 'update_display_data']
    assert reply.context['warnings'] == ['careful']
    assert reply.reply['committed'] is True


@pytest.mark.parametrize('cut', [1, 3, 7])
def test_messages_may_be_cut_anywhere(cut: int) -> None:
    body = b''.join(map(wire.encode, [wire.stream('stdout', 'é' * 5), ok()]))
    pieces = b''.join(chunk(body[i:i + cut]) for i in range(0, len(body), cut))
    with site(Base_executeJupyter=[[STREAM, pieces, END]]) as served:
        assert session(served).execute('1').text == 'é' * 5


@pytest.mark.parametrize('head', ['HTTP/1.1 200 OK\r\nContent-Length: {0}\r\n', 'HTTP/1.0 200 OK\r\n'])
def test_an_event_stream_without_chunks(head: str) -> None:
    body = b''.join(map(wire.encode, [wire.stream('stdout', 'a'), ok()]))
    answer = (head.format(len(body)) + f'Content-Type: {wire.NDJSON}; charset=utf-8\r\n\r\n').encode() + body
    with site(Base_executeJupyter=[[answer]]) as served:
        assert session(served).execute('1').text == 'a'


@given(st.lists(st.binary().map(lambda part: part.replace(b'\n', b'.')).filter(bytes.strip)), st.integers(1, 9))
def test_lines_are_what_was_cut_into_chunks(parts: list[bytes], size: int) -> None:
    body = b''.join(part + b'\n' for part in parts)
    assert list(lines(iter([body[i:i + size] for i in range(0, len(body), size)]))) == parts


# ---------------------------------------------------------------- remote errors
def test_the_error_of_a_cell_is_raised_after_all_of_its_output() -> None:
    seen: list[str] = []
    error = wire.error('ZeroDivisionError', 'division by zero', ['line 1', 'line 2'])
    answer = streamed(error, wire.stream('stdout', 'after'))
    with site(Base_executeJupyter=[answer]) as served:
        with pytest.raises(errors.RemoteError, match='division by zero') as caught:
            session(served).execute('1/0', on_message=lambda message: seen.append(message['msg_type']))
    assert type(caught.value).__name__ == 'ZeroDivisionError'
    assert caught.value._render_traceback_() == ['line 1', 'line 2']
    assert seen == ['error', 'stream', 'execute_reply']


def test_a_lost_cell_is_an_error_of_that_name_even_without_an_error_message() -> None:
    reply = wire.execute_reply('error', False, 'id', ename='CellLost', evalue='lost: signal 11, nothing of it was saved')
    with site(Base_executeJupyter=[[STREAM, told(reply), END]]) as served:
        with pytest.raises(errors.CellLost, match='signal 11'):
            session(served).execute('crash()')
    assert served.count('Base_executeJupyter') == 1


# ---------------------------------------------------------------- sites that answer otherwise
ERROR_PAGE = '<html><title>Site Error</title></html>'
REFUSALS = [
    (http('nope', '401 Unauthorized'), errors.UnauthorizedError, "does not let 'ana' run code .HTTP 401.*ERP5_PASSWORD"),
    (http('nope', '403 Forbidden'), errors.UnauthorizedError, 'HTTP 403'),
    (http(wire.UNAUTHORIZED), errors.UnauthorizedError, 'roles'),
    (http(wire.DISABLED), errors.UnsupportedError, 'not enabled on the server'),
    (http(wire.NO_REFERENCE), errors.TargetError, '--reference'),
    (NOT_FOUND, errors.NotASiteError, 'HTTP 404.*https://host/erp5'),
    (http('<html>Welcome to nginx</html>', kind='text/html'), errors.NotASiteError, 'got .<html>Welcome to nginx'),
    (http(ERROR_PAGE, '500 Internal Server Error', 'text/html'), errors.NodeError, 'HTTP 500.*Site Error.*not sent again'),
    (http('', '502 Bad Gateway'), errors.NodeError, 'HTTP 502'),
    (http('', '413 Payload Too Large'), errors.NodeError, 'HTTP 413'),
    (http('', '302 Found', more='Location: https://ana:secret@other/erp5/Base_executeJupyter?x=1\r\n'), errors.NotASiteError,
     'the right URL, https://other/erp5$'),
    (http('', '302 Found', more='Location: login_form?came_from=x\r\n'), errors.NotASiteError,
     '/erp5/login_form .HTTP 302.*a page to log in'),
    (http('[1, 2]'), errors.NotASiteError, r'got .\[1, 2\]'),
    (http("[{'reference': 'a', 'title': None}]"), errors.NotASiteError, 'the answer to a cell'),
    (http({'hello': 'world'}), errors.NotASiteError, 'hello'),
    (http(b'\xff\xfe\x00'), errors.NotASiteError, 'got '),
    (http(f'ana:{PASSWORD} {TOKEN}', '500 Oops'), errors.NodeError, 'ana:… …'),
    (http(f'you said Basic {TOKEN}'), errors.NotASiteError, 'you said Basic …'),
    (NOTHING, errors.NotASiteError, 'got nothing'),
]


@pytest.mark.parametrize('answer, kind, text', REFUSALS)
def test_another_answer_is_one_clear_error_and_one_request(answer: bytes, kind: type[Exception], text: str) -> None:
    with site(Base_executeJupyter=[[answer]]) as served:
        with pytest.raises(kind, match=text) as caught:
            session(served).execute('1')
    assert served.count('Base_executeJupyter') == 1   # after a 401 it is asked whether that was about the password
    assert_no_secret(''.join(traceback.format_exception(caught.value)))


def test_lines_that_are_no_messages_are_an_error() -> None:
    with site(Base_executeJupyter=[[STREAM, chunk(b'<html>\n'), END]]) as served:
        with pytest.raises(errors.WireError, match='<html>'):
            session(served).execute('1')
    assert len(served.received) == 1


def assert_no_secret(text: str) -> None:
    assert PASSWORD not in text
    assert TOKEN not in text


# ---------------------------------------------------------------- stock sites
V0 = {'code_result': 'hello\n', 'ename': None, 'evalue': None, 'traceback': None, 'status': 'ok', 'mime_type': 'text/plain'}
V4 = stock(code_result='hello\n', print_result={'data': {'text/plain': 'hello\n'}, 'metadata': {}})


@pytest.mark.parametrize('answer', [V0, {**V0, 'extra_data_list': []}, V4, {'status': 'ok', 'code_result': 'hello\n'}])
def test_the_text_of_every_era(answer: dict[str, Any]) -> None:
    with site(Base_executeJupyter=[[http(answer)]]) as served:
        reply = session(served).execute('print("hello")')
    assert (reply.text, reply.error) == ('hello\n', None)


def test_what_zope_2_labels_as_html_is_json() -> None:
    with site(Base_executeJupyter=[[http(stock(code_result='</'), kind='text/html')]]) as served:
        assert session(served).execute('1').text == '</'


def test_html_and_figures_and_values_of_a_stock_site() -> None:
    value = {'data': {'text/plain': '3'}, 'metadata': {}}
    answer = stock(code_result='<b>x</b>', mime_type='text/html', displayhook_result=value,
                   extra_data_list=[{'data': {'image/png': 'AAAA'}, 'metadata': {}}])
    with site(Base_executeJupyter=[[http(answer)]]) as served:
        reply = session(served).execute('1')
    assert [output['data'] for output in reply.outputs] == [{'text/html': '<b>x</b>'}, {'image/png': 'AAAA'}]
    assert reply.result == {'text/plain': '3'}


def test_nested_tracebacks_and_null_names_of_a_failed_setup() -> None:
    answer = stock(status='error', code_result='printed', traceback=[['intro', ['line']], 'last'])
    with site(Base_executeJupyter=[[http(answer)]]) as served:
        with pytest.raises(errors.RemoteError) as caught:
            session(served).execute('1')
    assert type(caught.value).__name__ == 'EnvironmentSetupError'
    assert caught.value._render_traceback_() == ['intro', 'line', 'last']


# ---------------------------------------------------------------- connections that break
LOST = (errors.ConnectionLostError, errors.SiteUnreachableError)
BROKEN: list[list[Any]] = [
    [HANG_UP],                                                      # before the head
    [b'HTTP/1.1 200 OK\r\nContent-', HANG_UP],                      # in the head
    [STREAM, HANG_UP],                                              # after the head
    [STREAM, told(wire.stream('stdout', 'a')), HANG_UP],            # after a message
    [STREAM, chunk(b'{"msg_type": "stre'), END],                    # in a message
    [STREAM, told(wire.stream('stdout', 'a')), b'ff\r\n{"ms', HANG_UP],
    [STREAM, told(wire.stream('stdout', 'a')), END],                # a whole answer, but without the reply
    [b'HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n{"status": "ok"}'],   # shorter than it says
    [b'HTTP/1.0 200 OK\r\n\r\n{"status": '],                       # that says not how long it is
]


@pytest.mark.parametrize('answer', BROKEN)
def test_a_broken_cell_is_not_sent_again_and_its_outcome_is_unknown_on_a_stock_site(answer: list[Any]) -> None:
    with site(Base_executeJupyter=[answer]) as served:
        with pytest.raises(errors.SiteUnreachableError, match='not sent again and its outcome is not known') as caught:
            session(served).execute('1')
    assert served.count('Base_executeJupyter') == 1
    assert served.count('Base_getJupyterResult') == 1
    assert served.received[0].form['request_id'] in str(caught.value)
    assert_no_secret(''.join(traceback.format_exception(caught.value)))


@pytest.mark.parametrize('answer', BROKEN)
def test_the_outcome_of_a_broken_cell_is_asked_for_and_nothing_is_shown_twice(answer: list[Any]) -> None:
    outcome = streamed(wire.keepalive(), wire.stream('stdout', 'a'), wire.stream('stdout', 'b'))
    with site(Base_executeJupyter=[answer], Base_getJupyterResult=[outcome]) as served:
        reply = session(served).execute('1')
    assert reply.text == 'ab'
    assert 'The cell was not sent again' in reply.stderr
    assert served.count('Base_executeJupyter') == 1
    asked, = [request for request in served.received if request.method == 'Base_getJupyterResult']
    assert asked.form == {'reference': 'sales', 'request_id': served.received[0].form['request_id']}


def test_a_kept_connection_that_the_site_closes_under_a_cell_is_not_used_for_it_again() -> None:
    with site(Base_executeJupyter=[streamed(), [HANG_UP], streamed()]) as served:
        opened = session(served)
        opened.execute('1')
        with pytest.raises(errors.SiteUnreachableError):
            opened.execute('2')
        opened.execute('3')
    sent = [request.form['python_expression'] for request in served.received if request.method == 'Base_executeJupyter']
    assert sent == ['1', '2', '3']


def test_nothing_answers() -> None:
    with nobody() as host, pytest.raises(errors.SiteUnreachableError, match='nothing answers at .*refused.*Nothing was sent') as caught:
        session(f'http://{host}/erp5').execute('1')
    assert not isinstance(caught.value, errors.ConnectionLostError)


def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(errors.SiteUnreachableError, match='nothing answers at http://nowhere.invalid/erp5.*Nothing was sent'):
        session('http://nowhere.invalid/erp5').execute('1')


def test_a_site_that_speaks_no_tls() -> None:
    with site() as served:
        with pytest.raises(errors.SiteUnreachableError):
            session(served.url.replace('http:', 'https:')).check()


def test_silence_is_an_error_once_the_site_has_shown_that_it_sends_keepalives() -> None:
    with site(Base_executeJupyter=[streamed(), [STREAM, told(wire.keepalive()), 20.0]]) as served:
        opened = session(served, timeout=.2)
        opened.execute('1')
        with pytest.raises(errors.NodeTimeoutError, match='may still run'):
            opened.execute('2')
    assert served.count('Base_executeJupyter') == 2


def test_a_slow_stock_site_is_waited_for() -> None:
    with site(Base_executeJupyter=[[.5, http(V4)]]) as served:
        assert session(served, timeout=.1).execute('1').text == 'hello\n'


# ---------------------------------------------------------------- looking
@pytest.mark.parametrize('answers, exists', [
    ({'Base_checkExistingReference': each([http('True')])}, True),
    ({'Base_checkExistingReference': each([NOTHING])}, False),
    ({'Base_checkExistingReference': each([http('False')])}, False),
    ({'Base_executeJupyter': each([http("[{'reference': 'sales', 'title': None}]")])}, True),     # before 2017
    ({'Base_executeJupyter': each([http("[{'reference': u'other', 'title': u'x'}]")])}, False),
    ({'Base_executeJupyter': each([http([{'reference': 'sales', 'title': None}])])}, True),
    ({'Base_executeJupyter': each([NOTHING])}, False),
])
def test_whether_a_notebook_exists(answers: dict[str, Any], exists: bool) -> None:
    with site(**answers) as served:
        assert session(served).check() is exists
    assert all('python_expression' not in request.form for request in served.received)


@pytest.mark.parametrize('answer, kind', [
    (http('<html>Login</html>', kind='text/html'), errors.NotASiteError),
    (http('', '401 Unauthorized'), errors.UnauthorizedError),
    (http(ERROR_PAGE, '500 Oops'), errors.NodeError), (http(wire.UNAUTHORIZED), errors.UnauthorizedError),
])
def test_the_probe_tells_what_is_wrong(answer: bytes, kind: type[Exception]) -> None:
    with site(Base_checkExistingReference=[[answer]]) as served:
        with pytest.raises(kind):
            session(served).check()


def test_no_site_at_all() -> None:
    with site() as served:
        with pytest.raises(errors.NotASiteError, match='has no Base_executeJupyter'):
            session(served).check()


def test_status_context_interrupt_of_a_node() -> None:
    with site(Base_getJupyterStatus=[[http({'node': 'n'})]], Base_getJupyterContext=[[http({'variables': [{'name': 'x'}]})]],
              Base_interruptJupyter=[[http({'status': 'interrupted'})]]) as served:
        opened = session(served)
        assert opened.status() == {'node': 'n'}
        assert opened.variables() == [{'name': 'x'}]
        assert opened.interrupt('abc') == {'status': 'interrupted'}
    assert served.received[-1].form == {'reference': 'sales', 'request_id': 'abc'}


def test_a_notebook_that_does_not_exist_yet_has_no_variables() -> None:
    with site(Base_getJupyterContext=[[http({'error': 'no notebook'}, '404 Not Found', 'application/json')]]) as served:
        assert session(served).variables() == []


def test_what_a_stock_site_cannot_do_is_said() -> None:
    with site() as served:
        opened = session(served)
        assert opened.status() is None
        with pytest.raises(errors.UnsupportedError, match='cannot list what a notebook holds: it has no Base_getJupyterContext'):
            opened.variables()
        with pytest.raises(errors.UnsupportedError, match='cannot interrupt a cell'):
            opened.interrupt()
        with pytest.raises(errors.UnsupportedError, match='has no outcome of the cell abc'):
            list(opened.result('abc'))


# ---------------------------------------------------------------- values
def test_a_literal_is_pulled_from_anybody() -> None:
    data = base64.b64encode(repr({'a': (1, b'x', None)}).encode()).decode()
    with site(Base_executeJupyter=[streamed(wire.pulled('x', 'literal', data))]) as served:
        assert session(served).pull('x') == {'a': (1, b'x', None)}
    assert served.received[0].form['pull'] == 'x'


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.putenv, ('ERP5_TRAP', 'sprung')


def test_bytes_are_not_unpickled_from_who_is_not_trusted() -> None:
    data = base64.b64encode(pickle.dumps(Trap())).decode()
    with site(Base_executeJupyter=[streamed(wire.pulled('x', 'cloudpickle', data))]) as served:
        with pytest.raises(errors.UnsupportedError, match='trusted_sites'):
            session(served).pull('x')
    assert subprocess.run(['printenv', 'ERP5_TRAP'], stdout=subprocess.PIPE).stdout == b''


def test_bytes_of_a_serializer_are_loaded_from_who_is_trusted() -> None:
    from ipython_erp5 import serializers
    data = base64.b64encode(serializers.get('cloudpickle').dump([{1, 2}], lambda obj: None)).decode()
    with site(Base_executeJupyter=[streamed(wire.pulled('x', 'cloudpickle', data))]) as served:
        assert session(served, trusted=True).pull('x') == {1, 2}


def test_why_a_value_does_not_travel() -> None:
    with site(Base_executeJupyter=[streamed(wire.not_pulled('x', 'a lock'))]) as served:
        with pytest.raises(errors.SerializationError, match='x cannot be sent: a lock'):
            session(served).pull('x')


def test_a_stock_site_sends_no_values() -> None:
    with site(Base_executeJupyter=[[http(V4)]]) as served:
        with pytest.raises(errors.SerializationError, match="x cannot be sent: a stock ERP5 site sends only plain values.* 'hello'"):
            session(served).pull('x')


# ---------------------------------------------------------------- Ctrl-C
def press_ctrl_c(message: wire.Message) -> None:
    if message['msg_type'] == 'stream' and message['name'] == 'stdout':
        _thread.interrupt_main()


def test_ctrl_c_goes_to_the_cell_and_its_end_is_waited_for() -> None:
    interrupted = threading.Event()
    end = wire.error('KeyboardInterrupt', '', ['KeyboardInterrupt'])
    before = signal.getsignal(signal.SIGINT)
    with site(Base_executeJupyter=[[STREAM + told(wire.stream('stdout', '.')), interrupted, told(end, ok()) + END]],
              Base_interruptJupyter=[[http({'status': 'interrupted'})]]) as served:

        def watch() -> None:
            while not served.count('Base_interruptJupyter'):
                time.sleep(.01)
            interrupted.set()

        threading.Thread(target=watch, daemon=True).start()
        with pytest.raises(KeyboardInterrupt) as caught:
            session(served).execute('while True: pass', on_message=press_ctrl_c)
    assert isinstance(caught.value, errors.RemoteError)
    assert served.received[1].form['request_id'] == served.received[0].form['request_id']
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_ctrl_c_ends_the_waiting_where_the_first_one_could_not_be_passed_on() -> None:
    answer = [STREAM + told(wire.stream('stdout', '.'), wire.stream('stdout', '.')), 5.0]
    with site(Base_executeJupyter=[answer]) as served:
        with pytest.raises(KeyboardInterrupt, match='stopped waiting; the cell .* may still run'):
            session(served).execute('while True: pass', on_message=press_ctrl_c)
    assert served.count('Base_executeJupyter') == 1


def test_that_a_site_cannot_interrupt_is_said_at_once() -> None:
    said = threading.Event()

    def on_message(message: wire.Message) -> None:
        press_ctrl_c(message)
        if 'Not interrupted' in message.get('text', ''):
            assert 'Interrupt again' in message['text']
            said.set()

    with site(Base_executeJupyter=[[STREAM + told(wire.stream('stdout', '.')), said, told(ok()) + END]]) as served:
        with pytest.raises(KeyboardInterrupt, match='had come to its end before it could be interrupted; its changes are committed'):
            session(served).execute('1', on_message=on_message)
    assert said.is_set()


def test_a_silent_connection_is_looked_after_and_one_that_is_dead_has_broken() -> None:
    with site(Base_executeJupyter=[streamed()]) as served:
        opened = session(served)
        opened.execute('1')
        pools = opened.client._adapter.poolmanager.pools
        used = next(connection.sock for key in pools.keys() for connection in pools[key].pool.queue if connection is not None)
        assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    silent = urllib3.exceptions.ReadTimeoutError(None, '/', 'Read timed out.')  # type: ignore[arg-type]
    for error in (silent, requests.exceptions.ReadTimeout(silent)):
        silent.__cause__ = TimeoutError('timed out')
        assert type(opened.client.trouble.failure(error, 30.)) is errors.NodeTimeoutError
        silent.__cause__ = OSError(errno.ETIMEDOUT, 'Connection timed out')
        assert type(opened.client.trouble.failure(error, None)) is errors.ConnectionLostError


# ---------------------------------------------------------------- no secrets, small things
def test_nothing_shows_the_password(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with site(Base_executeJupyter=[streamed()], Base_checkExistingReference=[[http('True')]]) as served:
        opened = session(served)
        opened.check()
        opened.execute('1')
    assert 'Base_executeJupyter' in caplog.text
    for text in (caplog.text, repr(opened), str(opened), repr(opened.client), repr(connection('http://127.0.0.1/erp5'))):
        assert_no_secret(text)


@pytest.mark.parametrize('url, text', [
    ('https://ana:x@host:1/erp5/', 'https://host:1/erp5'), ('http://h/erp5?a=1#b', 'http://h/erp5'), ('', '')])
def test_urls_are_shown_without_secrets(url: str, text: str) -> None:
    assert shown(url) == text


def test_a_url_that_is_none() -> None:
    with pytest.raises(errors.TargetError, match='expected the URL of a site'):
        session('host/erp5').check()


def test_a_session_is_a_context_manager_and_can_be_used_again() -> None:
    with site(Base_executeJupyter=[streamed()]) as served:
        with session(served) as opened:
            opened.execute('1')
        opened.execute('2')
    assert served.connections == 2


def test_a_ca_bundle_that_is_none(tmp_path: Any) -> None:
    (tmp_path / 'text.pem').write_text('no certificate')
    with socket.create_server(('127.0.0.1', 0)) as listener:   # it answers nothing
        for name in ('missing.pem', 'text.pem'):
            client = Client(connection(f'https://127.0.0.1:{listener.getsockname()[1]}/erp5', ca_bundle=str(tmp_path / name)))
            with pytest.raises(errors.TargetError, match='CA bundle cannot be used'):
                client.exists('sales')


@pytest.mark.parametrize('body, found', [(b'{"error": "x"}', True), (b'{}', False), (b'<html>', False), (b'[]', False)])
def test_which_404_is_of_a_node(body: bytes, found: bool) -> None:
    assert (error_object(body) is not None) is found


def test_the_innermost_reason() -> None:
    assert root(OSError(111, 'Connection refused')) == 'Connection refused'
    assert root(Exception('outer', ValueError('inner'))) == 'inner'


def test_importing_the_package_and_its_magics_imports_nothing_heavy() -> None:
    heavy = ('requests', 'urllib3', 'dill', 'cloudpickle', 'Zope2', 'ZODB', 'zodbpickle')
    code = f'import sys, ipython_erp5.extension; print([name for name in {heavy} if name in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


def test_a_session_is_not_copied_with_its_password() -> None:
    with pytest.raises(TypeError, match='password'):
        pickle.dumps(copy.copy(connection('http://127.0.0.1/erp5')))


# ---------------------------------------------------------------- a site that is one of ours, and away for a moment
@pytest.mark.parametrize('trouble', [
    [http('', '503 Service Unavailable')], [http('', '502 Bad Gateway')], [HANG_UP], [STREAM, told(wire.stream('stdout', 'a')), HANG_UP],
    [STREAM, *map(told, wire.unavailable('', 'the database is away')), END]], ids=['503', '502', 'hang up', 'in the middle', 'unavailable'])
def test_a_cell_is_sent_again_with_the_same_id_to_a_node(trouble: list[Any]) -> None:
    answer = streamed(wire.stream('stdout', 'a'), wire.stream('stdout', 'b'))
    with site(Base_executeJupyter=[trouble, trouble, answer], Base_getJupyterStatus=[[http({'node': 'n'})]]) as served:
        opened = session(served)
        opened.status()
        reply = opened.execute('1')
    assert reply.text == 'ab' and reply.stderr.count('The cell is sent again; it runs once.') == 1
    sent = [request.form for request in served.received if request.method == 'Base_executeJupyter']
    assert len(sent) == 3 and sent[0] == sent[1] == sent[2]


def test_a_node_that_never_answers_is_left_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, 'RESEND', 1.0)
    away = [http('', '503 Service Unavailable')]
    with site(Base_executeJupyter=[away], Base_getJupyterStatus=[[http({'node': 'n'})]]) as served:
        opened = session(served)
        opened.status()
        with pytest.raises(errors.SiteUnreachableError, match='for 1 seconds, without an answer, so that whether it was run is not known'):
            opened.execute('1')
    assert 2 <= served.count('Base_executeJupyter') <= 4


def test_a_site_that_is_away_when_its_first_cell_breaks_is_asked_what_it_is_until_it_answers() -> None:
    away = http('', '503 Service Unavailable')
    with site(Base_executeJupyter=[[HANG_UP], streamed(wire.stream('stdout', 'a'))],
              Base_getJupyterStatus=[[away], [HANG_UP], [http({'node': 'n'})]]) as served:
        assert session(served).execute('1').text == 'a'
    assert served.count('Base_executeJupyter') == 2 and served.count('Base_getJupyterStatus') == 3
