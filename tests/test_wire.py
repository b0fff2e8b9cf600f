"""Laws of the messages: what is encoded decodes to itself, what is cut is an error, stock answers of every era are understood."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipython_erp5 import stock, wire
from ipython_erp5.errors import WireError

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8)
TEXT = st.text(max_size=30)
BUNDLES = st.dictionaries(TEXT, JSON, max_size=3)
MESSAGES = st.one_of(
    st.builds(wire.keepalive, TEXT),
    st.builds(wire.stream, st.sampled_from(['stdout', 'stderr']), TEXT),
    st.builds(wire.display_data, BUNDLES, BUNDLES, BUNDLES, st.booleans()),
    st.builds(wire.clear_output, st.booleans()),
    st.builds(wire.execute_result, BUNDLES, BUNDLES, st.integers(0, 9)),
    st.builds(wire.error, TEXT, TEXT, st.lists(TEXT, max_size=3)),
    st.builds(wire.context, st.lists(TEXT, max_size=3), st.lists(TEXT, max_size=3),
              st.lists(st.fixed_dictionaries({'name': TEXT, 'text': TEXT}), max_size=2), st.lists(TEXT, max_size=2), TEXT),
    st.builds(wire.pulled, TEXT, TEXT, TEXT),
    st.builds(wire.not_pulled, TEXT, TEXT),
)
REPLIES = st.builds(lambda status, text: wire.execute_reply(status, True, 'id', ename=text, evalue=text), st.sampled_from(['ok', 'error']),
                    TEXT)
KEYS = {'code_result', 'print_result', 'displayhook_result', 'mime_type', 'extra_data_list', 'status', 'ename', 'evalue', 'traceback'}


# ---------------------------------------------------------------- bytes
@given(message=MESSAGES | REPLIES)
def test_a_message_is_one_line_and_comes_back(message: wire.Message) -> None:
    line = wire.encode(message)
    assert line.endswith(b'\n') and line.count(b'\n') == 1 and line.isascii()
    assert wire.decode(line) == message
    assert wire.decode(line.decode()) == message


@given(message=MESSAGES, data=st.data())
def test_a_message_that_is_cut_is_an_error(message: wire.Message, data: st.DataObject) -> None:
    line = wire.encode(message).rstrip(b'\n')
    size = data.draw(st.integers(0, len(line) - 1))
    with pytest.raises(WireError, match='expected a line of application/x-ndjson'):
        wire.decode(line[:size])


@pytest.mark.parametrize('line', [b'', b'\n', b'null', b'1', b'[]', b'{}', b'{"msg_type": 1}', b'\xff\xfe', b'<html>', '{"msg_type": null}',
                                  b'{"msg_type": "stream"} {"msg_type": "stream"}', b'[' * 100_000], ids=lambda line: repr(line[:12]))
def test_what_is_no_message_is_an_error(line: bytes | str) -> None:
    with pytest.raises(WireError) as raised:
        wire.decode(line)
    assert len(str(raised.value)) < 250


@given(line=st.binary(max_size=40) | st.text(max_size=40))
def test_anything_else_is_a_message_or_an_error(line: bytes | str) -> None:
    try:
        assert isinstance(wire.decode(line)['msg_type'], str)
    except WireError:
        pass


def test_odd_values_in_a_bundle_travel_as_their_text() -> None:
    assert wire.decode(wire.encode(wire.display_data({'x': {1, }}, {}, {})))['data'] == {'x': '{1}'}


# ---------------------------------------------------------------- requests
@given(st.builds(wire.Request, *[st.text()] * 3, st.booleans(), st.booleans(), *[st.text()] * 4))
def test_a_request_survives_its_form(request: wire.Request) -> None:
    form = request.form()
    assert all(isinstance(value, str) for value in form.values())
    assert wire.Request.from_form(form) == request


@given(form=st.dictionaries(st.sampled_from([*wire.Request.__dataclass_fields__, 'other']),
                            st.text() | st.integers() | st.lists(st.text()) | st.none()))
def test_any_form_is_a_request_without_a_user(form: dict[str, Any]) -> None:
    request = wire.Request.from_form({name: value for name, value in form.items() if name != 'user'}, user='ana')
    assert request.user == 'ana'
    assert all(isinstance(getattr(request, name), str) for name in ('python_expression', 'reference', 'title', 'pull'))
    assert request.request_reference is (form.get('request_reference') == 'True')


def test_nobody_makes_himself_another_user_by_a_form_field() -> None:
    assert wire.Request.from_form({'user': 'root'}, user='ana').user == 'ana'


def test_what_has_its_default_value_is_not_sent() -> None:
    assert wire.Request('1', 'r').form() == {'python_expression': '1', 'reference': 'r'}


# ---------------------------------------------------------------- the stock answer
@given(messages=st.lists(MESSAGES, max_size=6), reply=REPLIES)
def test_the_stock_answer_always_has_all_its_keys(messages: list[wire.Message], reply: wire.Message) -> None:
    answer = json.loads(json.dumps(wire.stock_answer([*messages, reply])))
    assert answer.keys() == KEYS
    for key in ('print_result', 'displayhook_result'):
        assert answer[key].keys() == {'data', 'metadata'}
    failed = reply['status'] == 'error' or any(message['msg_type'] == 'error' for message in messages)
    assert answer['status'] == ('error' if failed else 'ok')
    assert (answer['ename'] is None) is (answer['evalue'] is None) is (answer['traceback'] is None) is not failed


@given(text=TEXT, value=TEXT, picture=TEXT)
def test_a_stock_answer_says_what_the_messages_said(text: str, value: str, picture: str) -> None:
    sent = [wire.stream('stdout', text), wire.display_data({wire.PNG: picture}, {}, {}), wire.execute_result({wire.TEXT: value}, {}, 1),
            wire.execute_reply('ok', True, 'id')]
    found = list(stock.messages(wire.stock_answer(sent)))
    assert [message['msg_type'] for message in found] == ['stream'] * bool(text) + ['display_data', 'execute_result', 'execute_reply']
    assert ''.join(message['text'] for message in found if message['msg_type'] == 'stream') == text
    assert found[-2]['data'] == {wire.TEXT: value} and found[-3]['data'] == {wire.PNG: picture}
    assert (found[-1]['status'], found[-1]['committed']) == ('ok', True)


def test_html_and_text_in_one_cell_are_one_blob_of_html() -> None:
    answer = wire.stock_answer([wire.stream('stdout', 'a'), wire.display_data({wire.HTML: '<b>', wire.TEXT: 'x'}, {}, {})])
    assert (answer['code_result'], answer['mime_type']) == ('a<b>', wire.HTML)
    assert answer['print_result']['data'] == {wire.HTML: 'a<b>'}


def test_warnings_and_losses_are_printed() -> None:
    answer = wire.stock_answer([wire.stream('stdout', 'a\n'), wire.context([], [], [{'name': 'g', 'text': 'lost g'}], ['careful'], 'dill')])
    assert answer['code_result'] == 'a\ncareful\nlost g\n'


# The shapes in which sites of other eras answer: (answer, message types, the text, ename).
SIX = {'code_result': 'out', 'ename': None, 'evalue': None, 'traceback': None, 'status': 'ok', 'mime_type': 'text/plain'}
FAILED = {**SIX, 'code_result': None, 'status': 'error', 'ename': 'NameError', 'evalue': "name 'x' is not defined", 'traceback': ['a', 'b']}
BUNDLE = {'data': {'text/plain': 'out'}, 'metadata': {}}
ERAS: dict[str, tuple[dict[str, Any], list[str], str, str]] = {
    'V0 text': (SIX, ['stream', 'execute_reply'], 'out', ''),
    'V0 image': ({**SIX, 'mime_type': 'image/png', 'code_result': 'aGk='}, ['display_data', 'execute_reply'], '', ''),
    'V0 html': ({**SIX, 'mime_type': 'text/html'}, ['display_data', 'execute_reply'], '', ''),
    'V1 error': (FAILED, ['error', 'execute_reply'], '', 'NameError'),
    'V2 empty': ({**SIX, 'code_result': ''}, ['execute_reply'], '', ''),
    'V3 figure': ({**SIX, 'extra_data_list': [{'data': {'image/png': 'aGk='}, 'metadata': {}}]},
                  ['stream', 'display_data', 'execute_reply'], 'out', ''),
    'V4': ({**SIX, 'print_result': BUNDLE, 'displayhook_result': {'data': {}, 'metadata': {}}, 'extra_data_list': []},
           ['stream', 'execute_reply'], 'out', ''),
    'V4 value': ({**SIX, 'print_result': BUNDLE, 'displayhook_result': {'data': {'text/html': '<b>'}, 'metadata': {}}},
                 ['stream', 'execute_result', 'execute_reply'], 'out', ''),
    'V4 html under text': ({**SIX, 'mime_type': 'text/html', 'print_result': BUNDLE}, ['display_data', 'execute_reply'], '', ''),
    'V4 unknown alias': ({**SIX, 'print_result': BUNDLE, 'displayhook_result': None}, ['stream', 'execute_reply'], 'out', ''),
    'V4 setup failed': ({**SIX, 'status': 'error', 'traceback': [['intro', 'line'], ['x']], 'print_result': BUNDLE},
                        ['stream', 'error', 'execute_reply'], 'out', 'EnvironmentSetupError'),
    'V4 setup and cell failed': ({**FAILED, 'traceback': ['a', ['b', ['c']]], 'print_result': None, 'displayhook_result': None},
                                 ['error', 'execute_reply'], '', 'NameError'),
    'V4 conflict': ({**FAILED, 'code_result': 'out', 'ename': 'ConflictError', 'result_string': None, 'notebook_context': {}},
                    ['stream', 'error', 'execute_reply'], 'out', 'ConflictError'),
    'V4 unicode': ({'status': 'error', 'ename': 'UnicodeDecodeError', 'evalue': None, 'traceback': None, 'code_result': None},
                   ['error', 'execute_reply'], '', 'UnicodeDecodeError'),
    'status alone': ({'status': 'ok'}, ['execute_reply'], '', ''),
}


@pytest.mark.parametrize('era', ERAS)
def test_answers_of_every_era_are_understood(era: str) -> None:
    answer, kinds, text, ename = ERAS[era]
    found = list(stock.messages(answer))
    assert [message['msg_type'] for message in found] == kinds
    assert ''.join(message['text'] for message in found if message['msg_type'] == 'stream') == text
    assert found[-1]['ename'] == ename and found[-1]['status'] == answer['status']
    for message in found:
        if message['msg_type'] == 'error':
            assert all(isinstance(line, str) for line in message['traceback'])


@given(st.recursive(st.none() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=4), max_leaves=10))
def test_tracebacks_are_flat_whatever_they_were(lines: Any) -> None:
    assert all(isinstance(line, str) for line in stock.flat(lines)) and stock.flat(stock.flat(lines)) == stock.flat(lines)


def test_a_lost_cell_and_a_refused_one() -> None:
    error, reply = wire.lost('id', 'exit 3')
    assert (reply['ename'], reply['evalue'], reply['committed']) == ('CellLost', 'lost: exit 3; nothing of it was saved', False)
    assert error['ename'] == 'CellLost'
    assert wire.refusal('id')[1]['ename'] == 'RequestRefused'
