"""Tab and Shift-Tab in real shells and a real kernel: what is there is offered where code runs there, and nowhere else.

`|` in a text is where the cursor is.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Node
from IPython.core.completer import provisionalcompleter, rectify_completions
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.manager import start_new_kernel
from scripted_site import each, http, site
from stock_server import stock_site
from traitlets.config import Config

from ipython_erp5 import completion, wire
from ipython_erp5.completion import SOON, is_open, plain_name
from ipython_erp5.help_lines import RemoteHelp
from ipython_erp5.known_names import KnownNames, bound_names
from ipython_erp5.magic_words import Wanted, separated, wanted
from ipython_erp5.remote_code import Code, Words, at_cursor
from ipython_erp5.sessions import sessions_of

PREPARED = '''# erp5
import math
sales_there = {'north': 1, 'south': 2}
words_there = ['text']
def total_there(values, start=0):
    """Adds them up."""
    return sum(values, start)
'''


def tab(shell: InteractiveShell, text: str) -> list[str]:
    """What a front end would offer, without what stands before the last dot."""
    code = text.replace('|', '')
    with provisionalcompleter():
        found = list(rectify_completions(code, shell.Completer.completions(code, text.index('|'))))
    return [match.text.rpartition('.')[2] for match in found]


def tab_again(shell: InteractiveShell, text: str, expected: list[str]) -> list[str]:
    """Where the machine is busy an answer may come too late; the next one does not."""
    end = time.monotonic() + 20
    while (found := tab(shell, text)) != expected and time.monotonic() < end:
        time.sleep(.1)
    return found


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, 'it has not happened'
        time.sleep(.1)


@pytest.fixture(scope='module')
def shell(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InteractiveShell]:
    """Connected, with names here and there; these tests only look."""
    home = tmp_path_factory.mktemp('home')
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**node.environment(), 'HOME': str(home), 'IPYTHONDIR': str(home)}.items():
            patch.setenv(name, value)
        InteractiveShell.clear_instance()
        shell = InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}, ERP5Magics={'feedback': 0}))
        shell.run_line_magic('load_ext', 'ipython_erp5')
        for code in ('%erp5_connect --reference "completion: shell"', PREPARED, "words_here = ['text']\nsales_here = {'here': 1}"):
            shell.run_cell(code).raise_error()
        yield shell
        shell.run_line_magic('unload_ext', 'ipython_erp5')
        InteractiveShell.clear_instance()


# ---------------------------------------------------------------- Tab
@pytest.mark.parametrize('text, expected', [
    ('%%erp5\nsales_|', ['sales_there']),
    ('# erp5\nsales_|', ['sales_there']),
    ('#%erp5\nx = words_|', ['words_there']),
    ('\n\n# Title\n# erp5: --no-history\nfirst = 1\nsales_|', ['sales_there']),
    ('%%time\n# erp5\nsales_|', ['sales_there']),
    ('%erp5 sales_|', ['sales_there']),
    ('    x = %erp5 sales_|', ['sales_there']),
    ('# erp5\nwords_there.appe|', ['append']),
    ('# erp5\nwords_here.appe|', []),
    ("# erp5\nsales_there['n|", ['north']),
    ('# erp5\ntotal_there(star|', ['start=']),
    ('# erp5\ntotal_there(\n    1,\n    star|', ['start=']),
    ('# erp5\nmath.fact|\nx = 1', ['factorial']),
    ('# erp5\nsales_|\nsecond = (', ['sales_there']),
    ('%erp5 math.fact|', ['factorial']),
    ('# erp5\ncont|', ['context', 'continue']),
    ('# erp5\nmade_here = 1\nmade_|', ['made_here']),
    ('# erp5\nfinal|', ['finally']),
    ('# erp5\n"é𝔸" + sales_|', ['sales_there']),
    ('# erp5\n"é𝔸" + sales_there.key|', ['keys']),
    ('# erp5\nnothing_there.|', []),
    ('# erp5\nwords_there.nothing_like_it|', []),
])
def test_there_it_is_what_is_there(shell: InteractiveShell, text: str, expected: list[str]) -> None:
    assert tab_again(shell, text, expected) == expected


@pytest.mark.parametrize('text, expected', [
    ('sales_|', ['sales_here']),
    ('words_here.appe|', ['append']),
    ("sales_here['|", ['here']),
    ('# a comment\nwords_|', ['words_here']),
    ('x = 1\n# erp5\nwords_|', ['words_here']),
    ('words_there.appe|', []),
    ('%%time\nwords_|', ['words_here']),
    ('%timei|', ['%timeit', '%%timeit']),
    ('# epr5\nwords_|', ['words_here']),
])
def test_here_it_is_what_is_here(shell: InteractiveShell, text: str, expected: list[str]) -> None:
    assert tab(shell, text) == expected


HERE = ['words_here.|', 'sales_here["|', 'import o|', '%m|', 'pri|', 'print(|', 'x = words_|', 'open("/|', '%time words_|', '!ls /|', '|',
        '%%ti|']


def test_here_nothing_has_changed(shell: InteractiveShell) -> None:
    """Cell by cell what IPython offers without the extension."""
    matcher = extension_of(shell).completion.matcher
    with_us = [tab(shell, text) for text in HERE]
    shell.Completer.custom_matchers.remove(matcher)
    try:
        assert [tab(shell, text) for text in HERE] == with_us
    finally:
        shell.Completer.custom_matchers.append(matcher)


def extension_of(shell: InteractiveShell) -> Any:
    return shell.magics_manager.registry['ERP5Magics'].loaded


def test_in_remote_mode_unmarked_cells_are_there(shell: InteractiveShell) -> None:
    shell.run_line_magic('erp5_mode', 'remote')
    try:
        assert tab(shell, 'sales_|') == ['sales_there']
        assert tab_again(shell, 'first = 1\nwords_there.appe|', ['append']) == ['append']
        assert tab(shell, '# local\nsales_|') == ['sales_here']
        assert tab(shell, '%erp5_mode mar|') == ['marked']
    finally:
        shell.run_line_magic('erp5_mode', 'marked')
    assert tab(shell, 'sales_|') == ['sales_here']


def test_each_cell_brings_its_names(shell: InteractiveShell) -> None:
    assert tab(shell, '# erp5\nnew_na|') == []
    shell.run_cell('# erp5\nnew_name = 1\nimport string as new_namespace').raise_error()
    assert tab(shell, '# erp5\nnew_na|') == ['new_name', 'new_namespace']
    shell.run_cell("# erp5\ndel new_name\nenvironment.undefine('new_namespace_setup')").raise_error()
    assert tab(shell, '# erp5\nnew_na|') == []


def test_a_name_asks_nobody(shell: InteractiveShell) -> None:
    session = sessions_of(shell).by_name[sessions_of(shell).default]
    before = len(session.client.exchanges.kept), session.client.exchanges.kept[-1]
    assert tab(shell, '# erp5\nsales_|') == ['sales_there'] and tab(shell, 'words_here.appe|') == ['append']
    assert (len(session.client.exchanges.kept), session.client.exchanges.kept[-1]) == before


def test_a_call_has_its_signature(shell: InteractiveShell) -> None:
    code = '# erp5\nmath.fact'

    def signatures() -> list[tuple[str, str]]:
        with provisionalcompleter():
            return [(match.type, match.signature) for match in shell.Completer.completions(code, len(code))]

    until(lambda: signatures() == [('function', '(n, /)')])


# ---------------------------------------------------------------- words of magics
def test_words_of_magics(shell: InteractiveShell, node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / 'connections.ini'
    file.write_text('[sales]\nurl = https://sales/erp5\n[sandbox]\nurl = https://sandbox/erp5\n')
    file.chmod(0o600)
    monkeypatch.setenv('ERP5_CONNECTIONS', str(file))
    session = sessions_of(shell).default
    assert tab(shell, '%erp5_connect sa|') == ['sales', 'sandbox'] and tab(shell, '%erp5_connect emb|') == ['embedded']
    assert tab(shell, '%erp5_connect --ref|') == ['--reference'] and tab(shell, '%erp5_connect sales --us|') == ['--user']
    until(lambda: "'completion: shell'" in tab(shell, '%erp5_connect --reference |'))
    assert len(tab(shell, '%erp5_connect --reference=|')) == len(tab(shell, '%erp5_connect sales --reference |')) >= 1
    assert tab(shell, "%erp5_connect --reference 'completion: sh|") == ["'completion: shell'"]
    assert tab(shell, '%erp5_disconnect |') == tab(shell, '%erp5_interrupt --connection |') == [session.rpartition('.')[2]]
    assert tab(shell, '%%erp5 --no-|') == tab(shell, '# erp5: --no-|') == tab(shell, '#%erp5 --no-|') == ['--no-history']
    assert tab(shell, '%%erp5 --push words_|\nx = 1') == ['words_here'] and tab(shell, '# erp5: --push a,words_|') == ['words_here']
    assert tab(shell, '%erp5_push a words_|') == ['words_here'] and tab(shell, '%erp5_pull words_|') == ['words_there']
    assert tab(shell, '%%erp5 --pull words_|') == ['words_there'] and tab(shell, '%%erp5 --pull=a,sales_|') == ['sales_there']


@pytest.mark.parametrize('text, expected', [
    (' ', ['']), (' a b', ['a', 'b']), (' a ', ['a', '']), (" --x 'a b", ['--x', "'a b"]), ('', ['']), (" 'a' ", ["'a'", ''])])
def test_words_as_they_are_typed(text: str, expected: list[str]) -> None:
    assert separated(text) == expected


def test_a_word_is_what_the_parser_says(shell: InteractiveShell) -> None:
    tables = shell.magics_manager.magics
    assert wanted(Words('erp5_connect', ' '), tables) == Wanted('target', '')
    assert wanted(Words('erp5_connect', ' --insecure sal'), tables) == Wanted('target', 'sal')
    assert wanted(Words('erp5_connect', ' sales mo'), tables) is None
    assert wanted(Words('erp5_connect', ' --user an'), tables) == Wanted('', 'an')
    assert wanted(Words('erp5', ' --push a,b'), tables) == Wanted('local', 'b')
    assert wanted(Words('time', ' x'), tables) is None
    options = wanted(Words('erp5', ' --'), tables)
    assert options is not None and options.kind == 'option' and {'--push', '--pull', '--timeout'} <= set(options.known)


# ---------------------------------------------------------------- help
def test_help_is_about_what_is_there(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.user_ns['total_there'] = 'of here'
    try:
        for code in ('%erp5 total_there?', '# erp5\ntotal_there?', '%%erp5\ntotal_there?', 'if True:\n    %erp5 total_there?'):
            shell.run_cell(code).raise_error()
            shown = capsys.readouterr().out
            assert 'Adds them up.' in shown and 'return' not in shown
        shell.run_cell('%erp5 total_there??').raise_error()
        assert 'return' in capsys.readouterr().out
    finally:
        del shell.user_ns['total_there']


@pytest.mark.parametrize('code, expected', [
    ('%erp5 name?', "get_ipython().run_line_magic('erp5', 'name?')\n"),
    ('%erp5   a.b??  # why', None),
    ('%erp5 name??', "get_ipython().run_line_magic('erp5', 'name??')\n"),
    ('if x:\n    %erp5 name.other?', "if x:\n    get_ipython().run_line_magic('erp5', 'name.other?')\n"),
    ('%erp5?', "get_ipython().run_line_magic('pinfo', '%erp5')\n"),
    ('name?', "get_ipython().run_line_magic('pinfo', 'name')\n"),
    ('%erp5_connect?', "get_ipython().run_line_magic('pinfo', '%erp5_connect')\n"),
    ('text = """\n%erp5 name?\n"""', 'text = """\n%erp5 name?\n"""\n'),
])
def test_a_question_mark_after_our_magic(shell: InteractiveShell, code: str, expected: str | None) -> None:
    done = shell.transform_cell(code)
    assert done == expected if expected is not None else "run_line_magic('erp5'" in done


# ---------------------------------------------------------------- what stands at the cursor
@pytest.mark.parametrize('text, expected', [
    ('%%erp5 --connection a\nx.y|\nz', Code('x.y\nz', 3, '--connection a')),
    ('# erp5\nx.y|', Code('# erp5\nx.y', 10)),
    ('\n# erp5\nx.y|', Code('# erp5\nx.y', 10)),
    ('%%capture\n\n%%erp5\nx|', Code('x', 1)),
    ('%%bash\n# erp5\nx|', None),
    ('%%erp5 --pu|', Words('erp5', ' --pu')),
    ('%%er|', None),
    ('# erp5: --pu|', Words('erp5', ' --pu')),
    ('%look a|', Words('look', ' a')),
    ('look a|', Words('look', ' a')),
    ('%look|', None),
    ('a, b = %erp5 x.|', Code('x.', 2)),
    ('a[0] = %erp5 x.|', None),
    ('erp5 = 1|', None),
    ('|', None),
])
def test_what_stands_at_the_cursor(text: str, expected: Code | Words | None) -> None:
    before = text[:text.index('|')].split('\n')
    assert at_cursor(text.replace('|', ''), len(before) - 1, len(before[-1]), {'erp5', 'look'}, lambda lines: False) == expected


def test_a_mode_may_say_that_a_cell_is_there() -> None:
    asked: list[list[str]] = []
    assert at_cursor('a\nb.c\nd', 1, 2, {'erp5'}, lambda lines: bool(asked.append(lines)) or True) == Code('a\nb.c\nd', 4)
    assert asked == [['a\n', 'b.c\n']]


@pytest.mark.parametrize('before, expected', [
    ('', ''), ('na', 'na'), ('x = na', 'na'), ('if x:\n    na', 'na'), ('x + ', ''), ('a(1)\nna', 'na'),
    ('a.na', None), ('a(na', None), ('a[na', None), ("a['na", None), ('import na', None), ('from a import na', None), ('%na', None),
    ('!na', None), ('f("na', None), ('a(\n 1,\n na', None), ('"""text na', None)])
def test_a_plain_name(before: str, expected: str | None) -> None:
    assert plain_name(before) == expected


def test_what_is_not_closed() -> None:
    assert [code for code in ('f(', 'f()', '[', "'a", '"""a', '', 'x = {1: (2)', "'('") if is_open(code)] == [
        'f(', '[', "'a", '"""a', 'x = {1: (2)']


# ---------------------------------------------------------------- what a session has heard
def test_names_that_code_binds() -> None:
    code = ('import a.b, c as d\nfrom e import f as g\ndef h(i): j = 1\nclass K: l = 1\nif m:\n    n, (o, *p) = q\nfor r in s: pass\n'
            'with t as u: pass\nv = w = [x for x in y]\nz: int = 1')
    assert bound_names(code) == {'a': 'module', 'd': 'module', 'g': 'module', 'h': 'function', 'K': 'class',
                                 **dict.fromkeys('nopruvwz', 'instance')}
    assert bound_names('print "old"') == {}


def test_names_are_heard_of() -> None:
    names = KnownNames()
    names.whole({'variables': [{'name': 'a', 'type': 'int'}, {'name': 'f', 'type': 'function'}], 'environment': [{'names': ['np']}]})
    assert names.complete and names.kinds() == {'a': 'instance', 'f': 'function', 'np': 'instance', 'context': 'instance',
                                                'environment': 'instance'}
    heard = wire.context(['b', 'f'], ['a'], [], [], 'dill', ['pd'])
    assert list(names.heard(iter([heard]), 'b = 1')) == [heard]
    assert names.variables == {'f': 'function', 'b': 'instance'} and names.provided == {'pd', 'context', 'environment'}


# ---------------------------------------------------------------- a site that does not answer
CONNECTED = {'Base_checkExistingReference': each([http('True')]), 'Base_getJupyterStatus': each([http('{"node": "n"}')]),
             'Base_getJupyterContext': each([http(json.dumps({'variables': [{'name': 'words_there', 'type': 'list'}]}))])}


@pytest.fixture
def lone(monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """Connected to nothing."""
    monkeypatch.setenv('ERP5_USER', 'ana')
    monkeypatch.setenv('ERP5_PASSWORD', 'secret')
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}, ERP5Magics={'feedback': 0}))
    shell.run_line_magic('load_ext', 'ipython_erp5')
    yield shell
    shell.run_line_magic('unload_ext', 'ipython_erp5')
    InteractiveShell.clear_instance()


def test_without_a_session_nothing_is_connected(lone: InteractiveShell) -> None:
    assert tab(lone, '# erp5\ncont|') == ['continue'] and tab(lone, '# erp5\nx.y|') == []
    assert tab(lone, '%erp5_disconnect |') == [] and tab(lone, '%erp5_connect --reference |') == []
    assert sessions_of(lone).by_name == {}


def test_a_site_that_hangs_leaves_the_names(lone: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, 'REST', 60.0)
    release = threading.Event()
    with site(**CONNECTED, Base_completeJupyter=each([release])) as served:
        lone.run_cell(f'%erp5_connect {served.url} --reference r').raise_error()
        assert tab(lone, '# erp5\nwords_|') == ['words_there'] and tab(lone, '# erp5\nwords_there.|') == []
        began = time.monotonic()
        assert [tab(lone, '# erp5\nwords_there.|') for _ in range(30)] == [[]] * 30, 'it is not asked again so soon'
        assert time.monotonic() - began < 30 * SOON / 2
        assert served.count('Base_completeJupyter') == 1
        release.set()


def test_a_site_that_has_gone_leaves_the_names(lone: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    with site(**CONNECTED) as served:
        lone.run_cell(f'%erp5_connect {served.url} --reference r').raise_error()
    sessions_of(lone).by_name[sessions_of(lone).default].client.close()
    assert tab(lone, '# erp5\nwords_|') == ['words_there'] and tab(lone, '# erp5\nwords_there.|') == []
    assert tuple(capsys.readouterr()) == ('', '')


def test_a_stock_site_is_asked_once_and_its_names_are_what_cells_have_bound(lone: InteractiveShell) -> None:
    with stock_site('V5') as served:
        lone.run_cell(f'%erp5_connect {served.url} --reference r').raise_error()
        lone.run_cell('# erp5\nbound_there = 1\nother_there = 2').raise_error()
        for _ in range(3):
            assert tab(lone, '# erp5\nbound_|') == ['bound_there'] and tab(lone, '# erp5\nbound_there.|') == []
        assert [method for method, _ in served.requests].count('Base_completeJupyter') == 1


def test_a_password_is_not_asked_for(lone: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('getpass.getpass', lambda prompt='': pytest.fail('asked'))
    with site(**CONNECTED, Base_completeJupyter=each([http('', status='401 Unauthorized')])) as served:
        lone.run_cell(f'%erp5_connect {served.url} --reference r').raise_error()
        assert tab(lone, '# erp5\nwords_there.|') == [] and served.count('Base_completeJupyter') == 1


def test_unload_takes_all_of_it_away(lone: InteractiveShell) -> None:
    assert len(lone.Completer.custom_matchers) == 1 and RemoteHelp in lone.input_transformer_manager.token_transformers
    lone.run_line_magic('unload_ext', 'ipython_erp5')
    assert 'completions' not in vars(lone.Completer)
    assert lone.Completer.custom_matchers == [] and RemoteHelp not in lone.input_transformer_manager.token_transformers
    lone.run_line_magic('load_ext', 'ipython_erp5')
    assert len(lone.Completer.custom_matchers) == 1


# ---------------------------------------------------------------- a kernel
def test_a_kernel(node: Node, tmp_path: Path) -> None:
    manager, client = start_new_kernel(kernel_name='python3', env={**os.environ, **node.environment(), 'IPYTHONDIR': str(tmp_path)})
    try:
        for code in ('%load_ext ipython_erp5', '%erp5_connect --reference "completion: kernel"', PREPARED, 'words_here = ["text"]'):
            assert client.execute_interactive(code, timeout=60, output_hook=lambda message: None)['content']['status'] == 'ok'

        def asked(method: str, text: str) -> dict[str, Any]:
            code, position = text.replace('|', ''), text.index('|')
            content: dict[str, Any] = getattr(client, method)(code, position, reply=True, timeout=20)['content']
            return content

        until(lambda: [match.rpartition('.')[2] for match in asked('complete', '# erp5\nwords_there.appe|')['matches']] == ['append'])
        assert asked('complete', '# erp5\nsales_|')['metadata']['_jupyter_types_experimental'][0]['text'] == 'sales_there'
        assert asked('complete', 'words_|')['matches'] == ['words_here']
        for text in ('# erp5\ntotal_there(|', '%erp5 total_th|ere(1)'):
            until(lambda: 'Adds them up.' in asked('inspect', text)['data'].get('text/plain', ''))
        assert not asked('inspect', '# erp5\nwords_here|')['found'] and asked('inspect', 'words_here|')['found']
        client.execute_interactive('%unload_ext ipython_erp5', timeout=60)
        assert asked('inspect', 'words_here|')['found'] and not asked('inspect', '# erp5\ntotal_there|')['found']
        shown: list[dict[str, Any]] = []
        client.execute_interactive('"do_inspect" in vars(get_ipython().kernel)', timeout=60, output_hook=shown.append)
        assert [message['content']['data'] for message in shown if message['msg_type'] == 'execute_result'] == [{'text/plain': 'False'}]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
