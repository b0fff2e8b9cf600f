"""%load_ext, %unload_ext and %reload_ext in real shells: what they import, what they put where, and that all of it goes again."""

import gc
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Node
from IPython.core.interactiveshell import InteractiveShell
from IPython.terminal.interactiveshell import TerminalInteractiveShell
from traitlets.config import Config

from ipython_erp5.progress import TICKER

LATER = ('AccessControl', 'Zope2', 'ZODB', 'cloudpickle', 'dill', 'numpy', 'persistent', 'pickletools', 'requests', 'ssl', 'transaction',
         'urllib3', 'waitress', 'zodbpickle', 'ipython_erp5.client', 'ipython_erp5.connections', 'ipython_erp5.environment',
         'ipython_erp5.node', 'ipython_erp5.serializers', 'ipython_erp5.session')

IMPORTED = f'''
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
before = set(sys.modules)
shell.run_line_magic('load_ext', 'ipython_erp5')
shell.run_line_magic('config', 'ERP5Magics.feedback = 2')
assert shell.find_cell_magic('erp5') and shell.find_line_magic('erp5_connect')
shell.transform_cell('# erp5\\nx')
print(*sorted((set(sys.modules) - before) & {set(LATER)!r}))
'''

CONFIG = '''
c.InteractiveShellApp.extensions = ['ipython_erp5']
c.ERP5Magics.user = 'ana'
c.ERP5Magics.reference = 'of the profile'
'''


EARLIER: set[threading.Thread] = set()   # of other tests; some of these end by themselves


@pytest.fixture(params=[InteractiveShell, TerminalInteractiveShell])
def shell(request: pytest.FixtureRequest) -> Iterator[InteractiveShell]:
    request.param.clear_instance()
    shell = request.param.instance(config=Config(HistoryManager={'enabled': False}))
    shell.run_line_magic('unload_ext', 'ipython_erp5')   # IPython makes its own magics when they are first used
    shell.run_cell('0').raise_error()
    TICKER.end()   # that of another shell
    EARLIER.update(threading.enumerate())
    yield shell
    EARLIER.clear()
    request.param.clear_instance()


def places(shell: InteractiveShell) -> dict[str, Any]:
    """Where an extension could leave something: containers as lists of what is in them, so that identity can be compared."""
    manager, completer = shell.magics_manager, shell.Completer
    assert completer is not None and shell.display_formatter is not None
    found: dict[str, Any] = {
        'configurables': list(shell.configurables),
        'cleanup': list(shell.input_transformers_cleanup), 'post': list(shell.input_transformers_post),
        'line transforms': list(shell.input_transformer_manager.line_transforms),
        'token transformers': list(shell.input_transformer_manager.token_transformers),
        'ast transformers': list(shell.ast_transformers),
        'matchers': [*completer.custom_matchers], 'handlers': list(shell.prefilter_manager.handlers.values()),
        'custom exceptions': [shell.custom_exceptions, shell.CustomTB],
        'hooks': [value for _, value in sorted(vars(shell.hooks).items())],
        'namespace': sorted(shell.user_ns), 'hidden': sorted(shell.user_ns_hidden), 'builtins': sorted(vars(__import__('builtins'))),
        'displays': [shell.display_pub, shell.displayhook, sys.displayhook, sys.excepthook],
        'signals': [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)],
        'threads': sorted(thread.name for thread in threading.enumerate() if thread not in EARLIER),
        'config': repr(shell.config)}
    for kind in ('line', 'cell'):
        found[f'{kind} magics'] = [item for pair in manager.magics[kind].items() for item in pair]
    for event, callbacks in shell.events.callbacks.items():
        found[f'event {event}'] = list(callbacks)
    for name, formatter in shell.display_formatter.formatters.items():
        found[f'formatter {name}'] = [*formatter.type_printers, *formatter.deferred_printers]
    found['registry'] = [item for pair in manager.registry.items() for item in pair]
    return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """The places whose contents are not the very same. Bound methods are made anew whenever they are asked for."""
    def same(a: Any, b: Any) -> bool:
        return a is b or (isinstance(a, str) or hasattr(a, '__self__')) and a == b

    return {place for place in one.keys() | other.keys()
            if len(one[place]) != len(other[place]) or not all(map(same, one[place], other[place]))}


# ---------------------------------------------------------------- no trace
def test_what_loading_changes_and_that_unloading_changes_it_back(shell: InteractiveShell) -> None:
    before = places(shell)
    shell.run_line_magic('load_ext', 'ipython_erp5')
    assert differing(before, places(shell)) == {
        'configurables', 'cleanup', 'line magics', 'cell magics', 'registry', 'matchers', 'token transformers', 'event post_run_cell'}
    shell.run_line_magic('unload_ext', 'ipython_erp5')
    assert differing(before, places(shell)) == set()


def test_many_reloads_are_one_load(shell: InteractiveShell) -> None:
    before = places(shell)
    shell.run_line_magic('load_ext', 'ipython_erp5')
    once = {place: len(content) for place, content in places(shell).items()}
    for _ in range(3):
        shell.run_line_magic('load_ext', 'ipython_erp5')
        shell.run_line_magic('reload_ext', 'ipython_erp5')
    assert {place: len(content) for place, content in places(shell).items()} == once
    shell.run_line_magic('unload_ext', 'ipython_erp5')
    assert differing(before, places(shell)) == set()


def test_after_unloading_a_marked_cell_is_an_ordinary_one(shell: InteractiveShell) -> None:
    shell.run_line_magic('load_ext', 'ipython_erp5')
    assert shell.transform_cell('# erp5\nx = 1').startswith('get_ipython().run_cell_magic')
    shell.run_line_magic('unload_ext', 'ipython_erp5')
    shell.run_cell('# erp5\nhere = 6 * 7').raise_error()
    assert shell.user_ns['here'] == 42
    assert shell.find_cell_magic('erp5') is None and shell.find_line_magic('erp5_connect') is None


def test_nothing_keeps_what_was_unloaded(shell: InteractiveShell) -> None:
    shell.run_line_magic('load_ext', 'ipython_erp5')
    magics = weakref.ref(shell.magics_manager.registry['ERP5Magics'])
    shell.run_line_magic('unload_ext', 'ipython_erp5')
    gc.collect()
    assert magics() is None


def test_the_transformers_of_others_stay_where_they_were(shell: InteractiveShell) -> None:
    def first(lines: list[str]) -> list[str]:
        return lines

    def last(lines: list[str]) -> list[str]:
        return lines

    shell.input_transformers_cleanup.insert(0, first)
    shell.run_line_magic('load_ext', 'ipython_erp5')
    shell.input_transformers_cleanup.append(last)
    shell.run_line_magic('unload_ext', 'ipython_erp5')
    assert shell.input_transformers_cleanup[0] is first and shell.input_transformers_cleanup[-1] is last


# ---------------------------------------------------------------- with a session
def test_a_session_outlives_a_reload_and_leaves_nothing_after_an_unload(shell: InteractiveShell, node: Node,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('ERP5_URL', 'ERP5_USER', 'ERP5_PASSWORD'):
        monkeypatch.setenv(name, node.environment()[name])
    before = places(shell)
    shell.run_line_magic('load_ext', 'ipython_erp5')
    shell.run_line_magic('erp5_connect', '--reference reload')
    shell.run_cell('# erp5\nx = 6').raise_error()
    shell.run_line_magic('reload_ext', 'ipython_erp5')
    shell.run_cell('there = %erp5 x * 7').raise_error()
    assert shell.user_ns.pop('there') == 42
    shell.run_line_magic('unload_ext', 'ipython_erp5')
    assert differing(before, places(shell)) == set()
    shell.run_line_magic('load_ext', 'ipython_erp5')
    assert shell.run_line_magic('erp5', 'x') == 6


# ---------------------------------------------------------------- fresh interpreters
def test_loading_imports_nothing_that_is_used_later(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, '-c', IMPORTED], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_a_profile_loads_and_configures_it(tmp_path: Path) -> None:
    folder = tmp_path / 'ipython' / 'profile_default'
    folder.mkdir(parents=True)
    (folder / 'ipython_config.py').write_text(CONFIG)
    code = 'user = %config ERP5Magics.user\nreference = %config ERP5Magics.reference\nprint(user, reference, sep=", ")'
    done = subprocess.run([sys.executable, '-m', 'IPython', '-c', code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    assert done.stdout == 'ana, of the profile\n'
