"""Stock ERP5 sites of every era: cells in a site that behaves like one, and its answers in every odd shape."""

import ast
from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from hypothesis import given
from hypothesis import strategies as st
from scripted_site import HANG_UP, NOTHING, http, site, stock
from stock_server import ERAS, FRAME, GROUPED, LOST, PAGE, StockSite, stock_site
from traitlets.config import Config

from ipython_erp5 import errors, stock_delivery, wire
from ipython_erp5.connections import Connection
from ipython_erp5.credentials import Secret
from ipython_erp5.session import Session, open_session
from ipython_erp5.stock import Told, assignments, literal, messages, site_error, sort_out, traceback_of

WITH_ENVIRONMENT = ERAS[2:]
WITH_VALUES = ERAS[4:]


def session(url: str, **more: Any) -> Session:
    return open_session(Connection(name='test', url=url, user='ana', password=Secret('pässwörd'), reference='sales'), **more)


@pytest.fixture(params=ERAS)
def served(request: pytest.FixtureRequest) -> Iterator[StockSite]:
    with stock_site(request.param) as found:
        yield found


@pytest.fixture(params=WITH_ENVIRONMENT)
def with_environment(request: pytest.FixtureRequest) -> Iterator[StockSite]:
    with stock_site(request.param) as found:
        yield found


@pytest.fixture
def newest() -> Iterator[StockSite]:
    with stock_site('V5') as found:
        yield found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock_delivery, 'LOOK', .01)


# ---------------------------------------------------------------- cells, in every era
def test_what_is_printed_and_what_is_kept(served: StockSite) -> None:
    opened = session(served.url)
    opened.execute('x = 6')
    assert opened.execute('print(x * 7)').text == '42\n'
    assert served.cells == ['x = 6', 'print(x * 7)']


def test_an_import_is_usable_at_once_and_later(served: StockSite) -> None:
    opened = session(served.url)
    assert opened.execute('import math\nprint(math.floor(2.5))').text == '2\n'
    assert opened.execute('print(math.floor(3.5))').text == '3\n'
    assert served.cells == ['import math\n', '\nprint(math.floor(2.5))', 'print(math.floor(3.5))']


def test_several_imports_in_one_line(served: StockSite) -> None:
    code = 'import math, string as s\nfrom os.path import join, basename\nprint(math.pi > 3, s.digits[:2], join("a", "b"), basename("a/b"))'
    assert session(served.url).execute(code).text == 'True 01 a/b b\n'


def test_a_star_import(served: StockSite) -> None:
    opened = session(served.url)
    assert opened.execute('from os import *\nprint(sep, path.join("a", "b"))').text == '/ a/b\n'
    assert len(served.cells) == 2   # on the first sites the second one is the whole cell


def test_the_value_of_the_last_expression_is_shown_although_the_cell_imports(served: StockSite) -> None:
    reply = session(served.url).execute('import math\nmath.floor(2.5)')
    assert reply.result == ({'text/plain': '2'} if served.era in WITH_VALUES else None)
    assert session(served.url).execute('3\nimport string').result is None


def test_a_definition_acts_at_once_and_later(with_environment: StockSite) -> None:
    opened = session(with_environment.url)
    code = 'def load():\n    return {"a": 5}\nenvironment.define(load, "five")\nprint(a, load()["a"])'
    reply = opened.execute(code)
    assert (reply.text, reply.context.get('not_saved', [])) == ('5 5\n', [])
    assert opened.execute('print(a)').text == '5\n'
    assert 'load (five) was removed from the setup list.' in opened.execute('environment.undefine("five")').text
    with pytest.raises(errors.RemoteError, match="name 'a' is not defined"):
        opened.execute('print(a)')


def test_values_keep_their_types(with_environment: StockSite) -> None:
    opened = session(with_environment.url)
    assert opened.execute('environment.define(n=5, t="x", d={"a": [-1, None]}, yes=False)\nprint([n, t, d, yes])').text == (
        "[5, 'x', {'a': [-1, None]}, False]\n")
    assert opened.execute('print([n, t, d, yes])').text == "[5, 'x', {'a': [-1, None]}, False]\n"
    assert 'n' in opened.execute('environment.showSetup()').text


def test_a_function_and_an_import_of_the_same_module(with_environment: StockSite) -> None:
    opened = session(with_environment.url)
    code = ('def load():\n    import math\n    return {"two": math.floor(2.5)}\n'
            'environment.define(load, "two")\nimport math\nprint(math.pi > two)')
    assert opened.execute(code).text == 'True\n'
    assert opened.execute('print(math.pi > two)').text == 'True\n'


def test_what_clears_everything_does_not_clear_its_own_cell(with_environment: StockSite) -> None:
    opened = session(with_environment.url)
    opened.execute('environment.define(old=1)')
    assert opened.execute('environment.clearAll()\nimport math\nprint(math.floor(2.5))').text == '2\n'
    with pytest.raises(errors.RemoteError, match='old'):
        opened.execute('print(old)')


def test_the_warning_about_imports_is_no_output_and_comes_once(with_environment: StockSite) -> None:
    opened = session(with_environment.url)
    replies = [opened.execute(f'import math\nprint({i})') for i in range(2)]
    assert [reply.text for reply in replies] == ['0\n', '1\n']
    assert [len(reply.context.get('warnings', [])) for reply in replies] == [1, 0]
    assert 'imported' in replies[0].context['warnings'][0]


def test_what_is_not_kept_is_reported_with_a_way_out(served: StockSite) -> None:
    opened = session(served.url)
    reply = opened.execute('print(1)\ng = (i for i in [])\nf = lambda: 0')
    lost = reply.context['not_saved']
    assert reply.text == '1\n' and [item['name'] for item in lost] == ['g', 'f']
    assert '<generator object' in lost[0]['type'] and "environment.define(load_g, 'g')" in lost[0]['suggestion']


def test_an_error_has_its_name_and_no_frame_of_the_server(served: StockSite) -> None:
    expected = errors.NodeError if served.era == 'V0' else errors.RemoteError
    with pytest.raises(expected, match='division by zero') as caught:
        session(served.url).execute('1 / 0')
    if isinstance(caught.value, errors.RemoteError):
        assert caught.value.ename == 'ZeroDivisionError'
        shown = '\n'.join(caught.value._render_traceback_()).splitlines()
        assert shown[:2] == ['Traceback (most recent call last):', '  File "<string>", line 1, in <module>']


def test_the_line_of_an_error_is_that_of_the_cell() -> None:
    with stock_site('V4d') as served, pytest.raises(errors.RemoteError) as caught:
        session(served.url).execute('import math\n\nx = 1\nmath.nothing')
    assert any('line 4, in <module>' in line for line in caught.value.traceback)


@pytest.mark.parametrize('code, kind', [
    ('import no_such_module\nprint(1)', errors.NodeError), ('environment.define(1, 2, 3)\nimport math\nprint(1)', errors.RemoteError),
    ("environment.undefine('x')\nimport math\nprint(1)", errors.RemoteError)])
def test_the_rest_is_not_sent_after_what_defines_has_failed(newest: StockSite, code: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        session(newest.url).execute(code)
    assert len(newest.cells) == 1 and 'print' not in newest.cells[0]


def test_a_setup_that_fails_is_named_and_the_cell_has_run() -> None:
    with stock_site('V4d') as served:
        opened = session(served.url)
        opened.execute('def f():\n    return {"a": missing}\nenvironment.define(f, "f")')
        seen: list[wire.Message] = []
        with pytest.raises(errors.RemoteError, match="a setup .* NameError: name 'missing' is not defined.*ran.*define it again") as caught:
            opened.execute('import math\nprint(math.floor(1.5))\n7', on_message=seen.append)
        assert caught.value.ename == 'EnvironmentSetupError'
        assert [message['text'] for message in seen if message['msg_type'] == 'stream'] == ['1\n']
        assert [message['data'] for message in seen if message['msg_type'] == 'execute_result'] == [{'text/plain': '7'}] or any(
            message['msg_type'] == 'display_data' and message['data'] == {'text/plain': '7'} for message in seen)
        assert seen[-1]['msg_type'] == 'execute_reply' and seen[-1]['committed'] is True
        assert opened.execute('print(2)').text == '2\n'


def test_a_setup_that_the_site_only_mentions_is_a_warning() -> None:
    with stock_site('V2') as served:
        opened = session(served.url)
        opened.execute('def f():\n    return {"a": missing}\nenvironment.define(f, "f")')
        reply = opened.execute('print(1)')
    assert reply.text == '1\n'
    assert "setup function f (f). This setup function was ignored. The error was: name 'missing'" in reply.context['warnings'][0]


@pytest.mark.parametrize('code, text', [
    ('from __future__ import division\n1/2', 'line 1: .*HTTP 500.*Nothing was sent'), ('x = 1\n%time x', "line 2: '%time x' is IPython"),
    ('files = !ls', 'IPython'), ('len?', 'IPython'), ('x = 1\nenvironment.define(y=x)', 'line 2: .*literal'),
    ('environment.define(load, "x")', "line 1: .*`def` of 'load'")])
def test_what_no_such_site_runs_is_refused_before_anything_is_sent(newest: StockSite, code: str, text: str) -> None:
    with pytest.raises((errors.UnsupportedError, errors.EnvironmentDefinitionError), match=text):
        session(newest.url).execute(code)
    assert newest.cells == []


def test_what_a_definition_needs_of_its_cell_is_said(newest: StockSite) -> None:
    opened = session(newest.url)
    reply = opened.execute('n = 5\ndef load():\n    return {"five": n}\nenvironment.define(load, "five")\nprint(n)')
    assert reply.text == '5\n' and 'line 4: on this site this definition acts from the next cell on' in reply.context['warnings'][0]
    assert opened.execute('print(five)').text == '5\n'


def test_that_one_of_several_definitions_of_a_function_is_kept_is_said(newest: StockSite) -> None:
    opened = session(newest.url)
    reply = opened.execute('def f():\n    return {"a": 1}\nenvironment.define(f, "x")\nenvironment.define(f, "y")\nprint(a)')
    assert reply.text == '1\n' and 'line 4: of several definitions of f in one cell' in reply.context['warnings'][0]
    assert list(newest.notebooks[0].setups) == ['y']


# ---------------------------------------------------------------- a notebook that is new
def test_the_next_request_waits_until_the_catalog_lists_a_new_notebook() -> None:
    with stock_site('V4d', looks=3) as served:
        opened = session(served.url)
        waits: list[str] = []
        reply = opened.execute('import math\nx = 1\nprint(math.floor(2.5))', on_message=lambda m: waits.append(m.get('waiting', '')))
        assert reply.text == '2\n' and len(served.notebooks) == 1
        assert opened.execute('print(x)').text == '1\n'
    assert any('does not list the new notebook yet' in text for text in waits)
    methods = [method for method, form in served.requests if 'request_reference' not in form]
    assert methods.count('Base_checkExistingReference') == 3 and methods[-2:] == ['Base_executeJupyter'] * 2
    assert [form.get('request_reference') for _method, form in served.requests].count('True') == 1   # all of a large site's are many


def test_a_catalog_that_never_lists_it_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock_delivery, 'LISTED', .05)
    with stock_site('V5', looks=10 ** 6) as served:
        opened = session(served.url)
        opened.execute('x = 1')
        assert 'does not list the notebook' in opened.execute('y = 2').stderr
        assert opened.execute('z = 3').stderr == ''


def test_a_cell_that_fails_leaves_no_notebook_to_wait_for() -> None:
    with stock_site('V5', looks=10 ** 6) as served:
        opened = session(served.url)
        for _ in range(2):
            with pytest.raises(errors.RemoteError):
                opened.execute('1 / 0')
    assert [method for method, _form in served.requests] == ['Base_executeJupyter'] * 2


def test_a_notebook_of_somebody_else_is_in_the_list() -> None:
    with stock_site('V5', owner=False) as served:
        opened = session(served.url)
        replies = [opened.execute(f'x{i} = 1') for i in range(3)]
    assert len(served.notebooks) == 1 and all(reply.stderr == '' for reply in replies)


@pytest.mark.parametrize('era', ERAS)
def test_whether_a_notebook_is_known(era: str) -> None:
    with stock_site(era) as served:
        opened = session(served.url)
        assert opened.check() is False
        opened.execute('x = 1')
        assert opened.check() is True and [row['reference'] for row in opened.notebooks()] == ['sales']


# ---------------------------------------------------------------- values
@pytest.mark.parametrize('era', ERAS)
def test_a_plain_variable_is_pulled(era: str) -> None:
    with stock_site(era) as served:
        opened = session(served.url)
        opened.execute('x = {"a": [1, 2.5, None], "é": (True,)}\nclass A: pass\n')
        assert opened.pull('x') == {'a': [1, 2.5, None], 'é': (True,)}
        with pytest.raises(errors.SerializationError, match='nothing cannot be sent: .*NameError'):
            opened.pull('nothing')


@pytest.mark.parametrize('era', WITH_VALUES)
def test_the_value_of_an_expression_comes_here(era: str) -> None:
    with stock_site(era) as served:
        opened = session(served.url)
        reply = opened.execute('[1, 2] * 2', pull='_')
        assert reply.result == {'text/plain': '[1, 2, 1, 2]'}
        assert reply.values == {'_': [1, 2, 1, 2]}
        assert opened.execute('range(3)', pull='_', fetch=False).pulled == {}


def test_plain_values_are_pushed(served: StockSite) -> None:
    opened = session(served.url)
    values = {'a': [1, None], 'b': 'é', 'c': {(1, 2): 0.5}}
    assert opened.execute('print(a, b, c)', push=values, pull='a').values == {'a': [1, None]}
    opened.push(d=3)
    assert opened.pull('c', 'd') == ({(1, 2): 0.5}, 3)
    before = len(served.requests)
    with pytest.raises(errors.UnsupportedError, match='e is, or contains, a builtins.object'):
        opened.push(e=object())
    assert len(served.requests) == before


REPRS = [('10L', 10), ("{u'\\xe9': [-3L, 255]}", {'é': [-3, 255]}), ("'h\\xc3\\xa9'", 'hé'), ("'\\xff'", 'ÿ'), ("u'\\xc3\\xa9'", 'Ã©'),
         ("b'\\xff'", b'\xff'), ("'10L'", '10L'), ('(1, [None, True])', (1, [None, True])), ('1e-05', 1e-05), ("'é'", 'é')]


@pytest.mark.parametrize('text, value', REPRS)
def test_reprs_of_python_2_are_read(text: str, value: object) -> None:
    assert literal(text) == value


@pytest.mark.parametrize('text', ['', '<object at 0x1>', 'range(3)', '__import__("os")', '[' * 500, 'a', '1 +', "'"])
def test_what_is_no_literal_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match='literal'):
        literal(text)


PLAIN = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=9),
                     lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
                     max_leaves=8)


@given(PLAIN)
def test_assigned_values_are_the_same_again(value: Any) -> None:
    source = assignments({'x': value})
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    assert repr(namespace['x']) == repr(value) and source.isascii()


@given(PLAIN.filter(lambda value: 'inf' not in repr(value)))
def test_what_shows_as_a_literal_is_read_as_itself(value: Any) -> None:
    text = repr(value)
    assert text.isascii() or literal(text) == value


def test_sets_infinity_and_empty_things_are_written() -> None:
    values = {'a': {1}, 'b': set(), 'c': frozenset([2]), 'd': (), 'e': float('-inf'), 'f': 2j, 'g': [float('nan')]}
    namespace: dict[str, Any] = {}
    exec(assignments(values), namespace)
    assert {name: repr(namespace[name]) for name in values} == {name: repr(value) for name, value in values.items()}


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


class Text(str):
    pass


@pytest.mark.parametrize('name, value, text', [
    ('x', object(), 'x is, or contains, a builtins.object'), ('x', [Text('a')], 'Text'), ('x', CIRCLE, 'contains itself'),
    ('print', 1, "'print' cannot be the name"), ('a.b', 1, 'cannot be the name'), ('é', 1, 'cannot be the name')])
def test_what_cannot_be_written_is_refused_by_name(name: str, value: object, text: str) -> None:
    with pytest.raises(errors.UnsupportedError, match=text):
        assignments({name: value})


# ---------------------------------------------------------------- in a shell
@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.setenv('ERP5_USER', 'ana')
    monkeypatch.setenv('ERP5_PASSWORD', 'secret')
    InteractiveShell.clear_instance()
    found = InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}))
    found.run_line_magic('load_ext', 'ipython_erp5')
    yield found
    InteractiveShell.clear_instance()


def test_what_the_user_sees(newest: StockSite, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_line_magic('erp5_connect', f'{newest.url} --reference sales')
    assert repr(shell.run_cell('%%erp5\nimport math\nprint("hello")\ng = (i for i in [])\nmath.floor(2.5)').result) == '2'
    shown, told = capsys.readouterr()
    assert 'hello\n' in shown and 'Cannot serialize' not in shown + told and 'WARNING: You imported from the modules math' in told
    assert 'Not saved: 1 of 1 variable\n  g   <generator object' in told
    shell.run_cell('x = %erp5 [math.floor(2.5)] * 2').raise_error()
    assert shell.user_ns['x'] == [2, 2]


def test_the_value_of_a_cell_is_shown_although_a_setup_failed(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    with stock_site('V4d') as served:
        shell.run_line_magic('erp5_connect', f'{served.url} --reference sales')
        shell.run_cell('%%erp5\ndef f():\n    return missing\nenvironment.define(f, "f")').raise_error()
        failure = shell.run_cell('%%erp5\n6 * 7').error_in_exec
    assert isinstance(failure, errors.RemoteError) and failure.ename == 'EnvironmentSetupError'
    assert '42' in capsys.readouterr().out


# ---------------------------------------------------------------- answers: every row of the table
BUNDLE = {'data': {'text/plain': 'out\n'}, 'metadata': {}}
NO_VALUE: dict[str, Any] = {'data': {}, 'metadata': {}}
GOOD = stock(code_result='out\n', print_result=BUNDLE, displayhook_result=NO_VALUE)
CELL = ['Traceback (most recent call last):', '  File "<string>", line 1, in <module>', 'NameError: no x']
BAD = stock(status='error', code_result=None, print_result=None, displayhook_result=None, ename='NameError', evalue='no x',
            traceback=[CELL[0], FRAME, '    exec(code)', *CELL[1:]])
SETUP = ['An error happened when trying to run the one of your setup functions:', 'Traceback', "ImportError: no module q"]
UNDEFINE = "EnvironmentUndefineError: Trying to remove non existing function/variable from environment: 'x'\n"
ROWS: dict[str, tuple[dict[str, Any], list[str], str, str, bool]] = {
    # answer, kinds of its messages, name and text of the error, whether something was kept
    '1': (GOOD, ['stream'], '', '', True),
    '2': (BAD, ['error'], 'NameError', 'no x', False),
    '3': ({**BAD, 'ename': 'SyntaxError', 'evalue': 'bad'}, ['error'], 'SyntaxError', 'bad', False),
    '4': ({**BAD, 'ename': 'EnvironmentDefinitionError'}, ['error'], 'EnvironmentDefinitionError', 'no x', False),
    '5': ({**GOOD, 'code_result': UNDEFINE, 'print_result': None, 'displayhook_result': None}, ['error'], 'EnvironmentUndefineError',
          "Trying to remove non existing function/variable from environment: 'x'", False),
    '6': ({**GOOD, 'status': 'error', 'traceback': [SETUP], 'displayhook_result': {'data': {'text/plain': '3'}, 'metadata': {}}},
          ['stream', 'display_data', 'error'], 'EnvironmentSetupError', 'ImportError: no module q', True),
    '7': ({**BAD, 'traceback': [*BAD['traceback'], SETUP]}, ['error'], 'NameError', 'no x', False),
    '8': ({**BAD, 'code_result': 'out\n', 'ename': 'ConflictError', 'result_string': None, 'notebook_context': {'a': 1}},
          ['stream', 'error'], 'ConflictError', 'no x', False),
    '9': ({'status': 'error', 'code_result': None, 'print_result': None, 'displayhook_result': None, 'mime_type': 'text/plain',
           'ename': 'UnicodeDecodeError', 'evalue': None, 'traceback': None},
          ['error'], 'UnicodeDecodeError', 'its outputs are lost', True),
}


@pytest.mark.parametrize('row', ROWS)
def test_every_row_of_the_table(row: str) -> None:
    answer, kinds, ename, text, committed = ROWS[row]
    found = list(messages(answer))
    assert [message['msg_type'] for message in found] == [*kinds, 'execute_reply']
    reply = found[-1]
    assert (reply['ename'], reply['committed'], reply['status']) == (ename, committed, 'error' if ename else 'ok')
    assert text in reply['evalue']
    failures = [message for message in found if message['msg_type'] == 'error']
    assert not failures or failures[0]['traceback'] and not any('JupyterCompile' in line for line in failures[0]['traceback'])


def test_the_setups_come_before_the_cell_and_the_frame_of_the_server_goes() -> None:
    assert traceback_of(ROWS['7'][0]['traceback']) == [*SETUP, *CELL]
    assert traceback_of(None) == [] and traceback_of('a\nb\n') == ['a', 'b']


def test_a_failed_commit_says_that_nothing_was_saved() -> None:
    error = next(message for message in messages(ROWS['8'][0]) if message['msg_type'] == 'error')
    assert error['traceback'] == [*CELL, 'The commit of this cell failed: nothing of it was saved.']


@pytest.mark.parametrize('answer, data', [
    ({'status': 'ok', 'mime_type': 'image/png', 'code_result': 'aGk='}, {'image/png': 'aGk='}),
    ({'status': 'ok', 'mime_type': 'text/html', 'code_result': '<b>'}, {'text/html': '<b>'}),
    ({**GOOD, 'mime_type': 'text/html'}, {'text/html': 'out\n'}),
    ({**GOOD, 'print_result': {'data': {'text/html': '<i>'}}, 'code_result': '<i>'}, {'text/html': '<i>'})])
def test_text_is_what_its_mime_type_says(answer: dict[str, Any], data: dict[str, str]) -> None:
    assert [message.get('data') for message in messages(answer)][:-1] == [data]


KEYS = st.sampled_from(['code_result', 'print_result', 'displayhook_result', 'mime_type', 'extra_data_list', 'status', 'ename', 'evalue',
                        'traceback', 'notebook_context'])
JSON = st.recursive(st.none() | st.text(max_size=5) | st.just('error'), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(['data', 'metadata', 'text/plain', 'x']), inner, max_size=3), max_leaves=6)


@given(st.dictionaries(KEYS, JSON))
def test_no_shape_of_an_answer_is_too_odd(answer: dict[str, Any]) -> None:
    found = list(messages(answer))
    assert found[-1]['msg_type'] == 'execute_reply' and [m['msg_type'] for m in found].count('error') <= 1


# ---------------------------------------------------------------- sentences of the server
@pytest.mark.parametrize('verb', ['serialize', 'pickle'])
def test_sentences_are_taken_out_of_the_text(verb: str) -> None:
    lost = LOST.format(verb, 'f', '<function f at 0x7f>\nin two lines')
    said = sort_out(f'before\n{GROUPED.format("a, b")}\nmiddle{lost}\nafter')
    assert said.text == 'before\nmiddleafter' and said.warnings == [GROUPED.format('a, b').strip()]
    assert [(item['name'], item['type'], item['text']) for item in said.not_saved] == [('f', '<function f at 0x7f> in two lines', lost)]


def test_a_sentence_of_an_early_site_without_its_end() -> None:
    said = sort_out('Cannot pickle the variable named x.\nrest')
    assert (said.text, [item['name'] for item in said.not_saved]) == ('rest', ['x.'])


@given(st.text())
def test_other_text_is_left_as_it_is(text: str) -> None:
    assert sort_out(text).text == text


# ---------------------------------------------------------------- other answers
def test_the_page_of_an_error_gives_its_name_and_the_cell_is_not_sent_again() -> None:
    page = http(PAGE.format('ImportError', 'No module named &lt;q&gt;'), '500 Oops', 'text/html')
    with site(Base_executeJupyter=[[page]]) as served:
        with pytest.raises(errors.NodeError, match="HTTP 500 with 'ImportError: No module named <q>'.*not sent again"):
            session(served.url).execute('x')
    assert served.count('Base_executeJupyter') == 1


@pytest.mark.parametrize('page, text', [
    (PAGE.format('KeyError', "'x'"), "KeyError: 'x'"), ('<p><strong>Error Type: </strong>KeyError</p>', 'KeyError'),
    ('<p>An error was encountered while publishing this resource.\n  </p>\n<p><strong>AttributeError</strong></p>', 'AttributeError'),
    ('<html>Welcome</html>', ''), ('', '')])
def test_error_pages(page: str, text: str) -> None:
    assert site_error(page) == text


@pytest.mark.parametrize('text, kind', [
    (wire.DISABLED, errors.UnsupportedError), (wire.UNAUTHORIZED + '\n', errors.UnauthorizedError),
    (wire.NO_REFERENCE, errors.TargetError)])
def test_the_plain_strings_also_for_what_would_be_split(text: str, kind: type[Exception]) -> None:
    with site(Base_executeJupyter=[[http(text)]]) as served:
        with pytest.raises(kind):
            session(served.url).execute('import math\nmath.pi')
    assert served.count('Base_executeJupyter') == 1


@pytest.mark.parametrize('body, references', [
    ("[{'reference': u'r\\xe9', 'title': None, 'uid': 10L}]", ['ré']), ("[{'reference': 'r\\xc3\\xa9'}]", ['ré']), ('[]', []), ('', [])])
def test_lists_of_notebooks(body: str, references: list[str]) -> None:
    with site(Base_executeJupyter=[[http(body) if body else NOTHING]]) as served:
        assert [row['reference'] for row in session(served.url).notebooks()] == references


def test_a_split_cell_whose_second_half_is_lost_is_not_sent_again() -> None:
    with site(Base_executeJupyter=[[http(GOOD)], [HANG_UP]], Base_checkExistingReference=[[http('True')]]) as served:
        with pytest.raises(errors.SiteUnreachableError, match='not sent again and its outcome is not known'):
            session(served.url).execute('import math\nmath.pi')
    assert served.count('Base_executeJupyter') == 2


@pytest.mark.parametrize('status, text', [('502 x', 'no answer from it'), ('503 x', 'at the moment'), ('504 x', 'gave up')])
def test_what_a_proxy_says_of_a_cell_is_not_its_outcome(status: str, text: str) -> None:
    """It has waited too long, and the cell runs on, on a site that would run it again."""
    with site(Base_executeJupyter=[[http('<h1>Sorry</h1>', status)]]) as served:
        opened = session(served.url)
        with pytest.raises(errors.NodeUnavailableError, match=f'{text}. Whether the cell was run, or still runs, is not known'):
            opened.execute('1')
    assert [request.method for request in served.received] == ['Base_executeJupyter']


def test_what_is_known_to_be_a_stock_site_is_not_asked_again_what_it_is() -> None:
    with site(Base_executeJupyter=[[http(GOOD)], [HANG_UP]], Base_checkExistingReference=[[http('True')]],
              Base_getJupyterStatus=[[HANG_UP]], Base_getJupyterResult=[[HANG_UP]]) as served:
        opened = session(served.url)
        opened.execute('1')
        with pytest.raises(errors.SiteUnreachableError, match='outcome is not known. Look at its variables .* its id is [0-9a-f]{32}$'):
            opened.execute('2')
        assert not opened.delivery.remembers()   # so that nobody is sent to %erp5_result
    assert served.count('Base_getJupyterStatus') == 0 and served.count('Base_executeJupyter') == 2


def test_a_node_is_sent_the_whole_cell() -> None:
    from scripted_site import streamed
    with site(Base_executeJupyter=[streamed()], Base_getJupyterStatus=[[http({'node': 'n'})]]) as served:
        opened = session(served.url)
        for code in ('import math\nmath.pi', '%time import math\nmath.pi', 'from __future__ import division'):
            opened.execute(code)
    assert [request.form.get('python_expression') for request in served.received] == [
        None, 'import math\nmath.pi', '%time import math\nmath.pi', 'from __future__ import division']


def test_that_there_is_no_time_limit_is_said_once(newest: StockSite) -> None:
    opened = session(newest.url)
    said = [opened.execute('x = 1', timeout=5).stderr for _ in range(2)]
    assert 'ends no cell by itself' in said[0] and said[1] == ''


def test_what_was_told_is_not_told_again() -> None:
    told = Told('http://host/erp5')
    assert told.once('history') == 'http://host/erp5 is a stock ERP5 site: it does not list the lines of a notebook.\n'
    assert told.once('history') == '' and told.new(['a', 'b', 'a']) == ['a', 'b'] and ast.literal_eval(repr(told.new(['b']))) == []
