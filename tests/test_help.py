"""The manual cannot go stale: its cells run, it lists what there is; `?` on every magic tells all of it; `%erp5_debug` tells no secret."""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Node
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from scripted_site import each, http, site, streamed
from traitlets.config import Config

from ipython_erp5 import errors, helping, manual, wire
from ipython_erp5.magics import ERP5Magics

Type = Callable[[str], ExecutionResult]
SECRET = 'correct-horse-battery'


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    InteractiveShell.clear_instance()
    made = InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}))
    made.run_line_magic('load_ext', 'ipython_erp5')
    yield made
    made.run_line_magic('unload_ext', 'ipython_erp5')
    InteractiveShell.clear_instance()


@pytest.fixture
def typed(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> Type:
    monkeypatch.setenv('ERP5_USER', 'ana')
    monkeypatch.setenv('ERP5_PASSWORD', SECRET)
    return lambda code: shell.run_cell(code, store_history=True)


def own(shell: InteractiveShell) -> dict[str, Any]:
    magics = shell.magics_manager.registry['ERP5Magics']
    assert isinstance(magics, ERP5Magics)
    return magics.own_magics()


# ---------------------------------------------------------------- the manual
RESULTS = {'first-steps': ["'coffee'", '14.4'], 'connect': ["reference 'help'"], 'cells': ['ERP5', 'not saved'], 'moving': ['[1, 4, 9]'],
           'not-waiting': ["'done'"], 'environment': ['(42,)', 'database'], 'notebooks': ['False'], 'settings': [],
           'troubleshooting': ['Not connected', 'Nothing was sent']}


@pytest.mark.parametrize('topic', manual.PAGES)
def test_the_cells_of_a_page_run(shell: InteractiveShell, node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                 topic: str) -> None:
    """In order, in a session of their own, with a node that is the embedded one."""
    monkeypatch.setenv('ERP5_DATA_DIR', str(node.data_dir))
    for cell in manual.cells(manual.PAGES[topic].text):
        try:
            shell.run_cell(cell, store_history=True).raise_error()
        except BaseException as error:
            raise AssertionError(cell) from error
    shown = capsys.readouterr().out
    for value in RESULTS[topic]:
        assert value in shown


def test_without_a_topic_it_lists_topics_and_magics(typed: Type, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    typed('%erp5_help').raise_error()
    shown = capsys.readouterr().out.splitlines()
    first = {line.split()[0] for line in shown if line}
    assert {*manual.PAGES, *own(shell)} <= first
    assert max(map(len, shown)) < 150


def test_every_magic_is_on_a_page(shell: InteractiveShell) -> None:
    on_pages = {name for page in manual.PAGES.values() for name in page.magics}
    assert {name.lstrip('%') for name in own(shell)} - {'erp5_help'} == on_pages


@pytest.mark.parametrize('topic', manual.PAGES)
def test_a_page_has_its_cells_and_its_magics(typed: Type, capsys: pytest.CaptureFixture[str], topic: str) -> None:
    typed(f'%erp5_help {topic}').raise_error()
    shown = capsys.readouterr().out
    page = manual.PAGES[topic]
    assert page.text.strip() in shown and manual.cells(page.text)
    for name in page.magics:
        assert re.search(rf'^%%?{name} +\S', shown, re.MULTILINE), name


def test_the_page_of_settings_has_all_of_them(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    typed('%erp5_help settings').raise_error()
    shown = capsys.readouterr().out
    for name, trait in ERP5Magics.class_own_traits(config=True).items():
        assert f'{name} = {trait.default()!r}\n    {trait.help[:40]}' in shown


def test_the_page_of_errors_has_those_that_a_session_raises(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    typed('%erp5_help troubleshooting').raise_error()
    shown = capsys.readouterr().out
    assert 'UnauthorizedError' in shown and 'NotSavedError' in shown and 'ArchiveError' not in shown


@pytest.mark.parametrize('name', ['erp5_connect', '%erp5_connect', '%%erp5', 'erp5_vars'])
def test_help_on_a_magic_is_its_manual(typed: Type, capsys: pytest.CaptureFixture[str], name: str) -> None:
    typed(f'%erp5_help {name}').raise_error()
    assert 'Examples:' in capsys.readouterr().out


@pytest.mark.parametrize('word, meant', [('conect', 'connect'), ('enviroment', 'environment'), ('erp5_statsu', 'erp5_status')])
def test_a_topic_that_there_is_not(typed: Type, word: str, meant: str) -> None:
    with pytest.raises(errors.OptionError, match=rf'no help on {word!r} \(did you mean {meant}\?\): %erp5_help lists'):
        typed(f'%erp5_help {word}').raise_error()


def test_a_misspelt_magic_is_told_beside_the_error_of_ipython(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    for code, meant in (('%erp5_conect x', '%erp5_connect'), ('%%erp55\n1', '%erp5'), ('%nosuchmagic', ''), ('%erp5_zzzzzzzzzzz', '')):
        assert typed(code).error_in_exec is not None
        shown = capsys.readouterr().err
        assert ('not found' in shown, f'Did you mean {meant}?' in shown if meant else 'mean' not in shown) == (True, True), shown


# ---------------------------------------------------------------- ? on a magic
def test_a_question_mark_on_every_magic_is_its_manual(shell: InteractiveShell) -> None:
    """What it does, each of its options, and an example."""
    for name, magic in own(shell).items():
        text = inspect.getdoc(magic) or ''
        about = helping.first_line(magic)
        assert about.endswith(('.', ':')) and len(about) > 20, name
        examples = text.partition('Examples:\n\n')[2]
        assert re.search(rf'^    .*{re.escape(name)}\b', examples, re.MULTILINE), f'{name} has no example'
        for action in magic.parser._actions:
            assert action.help and action.help.endswith(('.', '?', ':')), f'{name} {action.dest}'


def test_ipython_shows_it(shell: InteractiveShell) -> None:
    shown = shell.object_inspect_text('%erp5_connect')
    assert '%erp5_connect sales' in shown and '--ca-bundle' in shown


# ---------------------------------------------------------------- what went to the site
def test_the_last_exchanges(typed: Type, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Neither code nor values nor passwords, also where a bad server says them back."""
    typed('%erp5_debug').raise_error()
    assert capsys.readouterr().out == 'Nothing was sent yet.\n'
    answer = streamed(wire.execute_result({'text/plain': 'the value'}, {}, 1))
    page = http(f'<html>you said {SECRET}</html>', '502 Bad Gateway', 'text/html')
    with site(Base_checkExistingReference=each([http('False'), page]), Base_executeJupyter=[answer]) as served:
        typed(f'%config ERP5Magics.log = "{tmp_path / "log"}"')
        typed(f'%erp5_connect {served.url} --reference r').raise_error()
        typed('# erp5\nthe_code').raise_error()
        assert typed(f'%erp5_connect {served.url}').error_in_exec is not None
        capsys.readouterr()
        typed('%erp5_debug').raise_error()
        shown = capsys.readouterr().out
        lines = shown.splitlines()
        typed('%erp5_debug --last 1').raise_error()
        assert capsys.readouterr().out == lines[-1] + '\n'
    assert re.search(r'POST \S+/Base_executeJupyter  \[python_expression 16, .*→ 200 application/x-ndjson, \d+ B, begun after .*, ended',
                     shown)
    assert re.search(r"Base_checkExistingReference .*→ 502 text/html, \d+ B.*<html>you said …</html>", lines[-1])
    for hidden in ('the_code', 'the value', SECRET):
        assert hidden not in shown
    log = tmp_path / 'log'
    assert log.read_text().splitlines() == lines and log.stat().st_mode & 0o777 == 0o600


def test_twenty_exchanges_are_kept(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    with site(Base_executeJupyter=[streamed()], Base_checkExistingReference=each([http('False')])) as served:
        typed(f'%erp5_connect {served.url} --reference r').raise_error()
        for _ in range(20):
            typed('# erp5\n1')
    with pytest.raises(errors.SiteUnreachableError):
        typed('%erp5_connect http://127.0.0.1:9/erp5').raise_error()
    capsys.readouterr()
    typed('%erp5_debug').raise_error()
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 20 and '→ SiteUnreachableError after' in shown[-1]
    for wrong in ('0', 'x', '-1'):
        with pytest.raises(errors.OptionError):
            typed(f'%erp5_debug --last {wrong}').raise_error()


def test_a_log_that_cannot_be_written_stops_nothing(typed: Type, tmp_path: Path) -> None:
    with site(Base_executeJupyter=[streamed()], Base_checkExistingReference=each([http('False')])) as served:
        typed(f'%config ERP5Magics.log = "{tmp_path / "nowhere" / "log"}"')
        typed(f'%erp5_connect {served.url} --reference r').raise_error()
        assert typed('# erp5\n1').error_in_exec is None


# ---------------------------------------------------------------- feedback
def test_without_feedback_only_what_was_asked_for_is_shown(shell: InteractiveShell, node: Node, monkeypatch: pytest.MonkeyPatch,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of these asks for a text; a trailing `;` silences a value, as ever."""
    monkeypatch.setenv('ERP5_DATA_DIR', str(node.data_dir))
    shell.run_cell('%config ERP5Magics.feedback = 0')
    for code in ('%erp5_connect --reference quiet', '%erp5_interrupt', '# erp5\nimport fractions\nx = 1', '# erp5\nx;',
                 '%%erp5\nx;\n', '%erp5 x;', 'here = 2',
                 '%erp5_push here', '%%erp5 --push here --pull there\nthere = here', '%erp5_pull there', '%erp5_mode marked',
                 '# erp5: --noblock\n1;', '%notebook_set_title quiet', '%erp5_user', '%erp5_disconnect'):
        result = shell.run_cell(code, store_history=True)
        shown = capsys.readouterr()
        assert (code, shown.out, shown.err) == (code, '', '')
        assert result.success, code
    assert shell.user_ns['there'] == 2
