"""A session goes on: its node has moved, its password has changed, its site was away, its machine slept; and no cell runs twice."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Node
from IPython.core.error import StdinNotImplementedError
from jupyter_client.manager import start_new_kernel
from scripted_site import HANG_UP, Site, http, site, site_on, streamed
from storages import free_port
from test_session_kinds import LOAD, Terminal, plain

import ipython_erp5
from ipython_erp5 import client, connections, errors, wire
from ipython_erp5.connections import Connection
from ipython_erp5.credentials import Secret
from ipython_erp5.session import Session, open_session

PROGRAM = [sys.executable, '-m', 'ipython_erp5']
REFUSED = http('no', '401 Unauthorized')
VALUE = streamed(wire.execute_result({'text/plain': '2'}, {}, 1))
TRUE = http('True')


def sent(served: Site, method: str = 'Base_executeJupyter') -> list[str]:
    """The passwords or tokens of its requests."""
    scheme = [request.headers['authorization'].split() for request in served.received if request.method == method]
    return [base64.b64decode(text).decode().partition(':')[2] if kind == 'Basic' else text for kind, text in scheme]


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def opened(told: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Session]]:
    """A session with a scripted site as somebody whose password is in the environment."""
    sessions = []
    monkeypatch.setenv('ERP5_PASSWORD', 'first')

    def connect(served: Site, ask: Any = None, **options: Any) -> Session:
        sessions.append(open_session(connections.resolve(served.url, reference='r', **{'user': 'ana', **options}), ask=ask,
                                     tell=told.append))
        return sessions[-1]
    yield connect
    for session in sessions:
        session.close()


def nobody(prompt: str) -> str:
    raise AssertionError(f'asked: {prompt}')


# ---------------------------------------------------------------- the embedded node
def node_program(*words: str) -> None:
    subprocess.run([*PROGRAM, *words], check=True, timeout=60, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_the_embedded_node_is_started_again_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]) -> None:
    """Ended; on another port with another password; with another database, which is another notebook."""
    data_dir = tmp_path / 'data'
    monkeypatch.setenv('ERP5_DATA_DIR', str(data_dir))
    session = open_session(connections.resolve(reference='sales'), tell=told.append)
    try:
        session.execute('x = 6')
        first = session.client.url
        node_program('stop')
        monkeypatch.setenv('ERP5_DATA_DIR', str(tmp_path / 'another'))   # the session keeps its own
        assert session.execute('x * 7').result == {'text/plain': '42'}
        assert session.client.url != first
        assert told == [f"Reconnected: the embedded node has been started again: admin@{session.client.url[7:-5]}, reference 'sales' "
                        '(existing)\n']
        node_program('stop', '--data-dir', str(data_dir))
        (tmp_path / 'password').write_text('another')
        (tmp_path / 'password').chmod(0o600)
        node_program('start', '--data-dir', str(data_dir), '--password-file', str(tmp_path / 'password'))
        assert session.variables()[0]['name'] == 'x'
        assert len(told) == 2
        about = json.loads((data_dir / 'node.json').read_text())
        (data_dir / 'node.json').write_text(json.dumps({**about, 'storage': 'postgres'}))
        session.close()
        with pytest.raises(errors.NodeError, match='another database now .postgres, before it was sqlite.*%erp5_connect'):
            session.execute('x')
        monkeypatch.setenv('ERP5_DATA_DIR', str(data_dir))
        session = ipython_erp5.connect(reference='sales')
        session.close()
    finally:
        node_program('stop', '--data-dir', str(data_dir))
    with pytest.raises(errors.NodeError, match=r'has ended, and its database \(postgres\).*start --storage URI'):
        session.execute('1')
    assert not (data_dir / 'node.json').exists()


class Elsewhere:
    """A renewal that always knows another site."""

    def __init__(self, served: Site) -> None:
        self.connection = Connection('n', served.url, 'ana', Secret('first'), 'r')

    def moved(self) -> None:
        return None

    def unreachable(self) -> Connection:
        return self.connection

    def refused(self, method: str) -> Connection:
        return self.connection


def test_what_may_have_begun_goes_nowhere_else(opened: Callable[..., Session], monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks under a cell, and then nothing answers any more: the other place never gets it, but the next cell."""
    monkeypatch.setattr('ipython_erp5.delivery.RESEND', 1.0)
    with site(Base_executeJupyter=[VALUE]) as other:
        with site(Base_executeJupyter=[[HANG_UP]], Base_getJupyterStatus=[[http({'node': 'n'})]]) as served:
            session = opened(served)
            session.status()
            session.client.renewal = Elsewhere(other)
            served.answers['Base_executeJupyter'].append([REFUSED])   # when it is sent again
            with pytest.raises(errors.UnauthorizedError):
                session.execute('1 + 1')
        assert other.received == []
        assert session.execute('2').result == {'text/plain': '2'}
    assert [request.form['python_expression'] for request in other.received] == ['2']


# ---------------------------------------------------------------- a password that has changed
def test_a_password_that_the_environment_has_anew(opened: Callable[..., Session], told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with site(Base_checkExistingReference=[[REFUSED], [TRUE]], Base_executeJupyter=[VALUE, [REFUSED], VALUE]) as served:
        session = opened(served, nobody)
        session.execute('1 + 1')
        monkeypatch.setenv('ERP5_PASSWORD', 'second')
        assert session.execute('1 + 1').result == {'text/plain': '2'}
        assert sent(served) == ['first', 'first', 'second']
        assert sent(served, 'Base_checkExistingReference') == ['first', 'second']
    assert told == [f'Reconnected at {served.url}: the password of ana has been read again\n']


def test_a_password_is_asked_for_three_times(opened: Callable[..., Session], told: list[str]) -> None:
    answers, prompts = iter(['wrong', 'first', 'right']), []
    checks = [[REFUSED], [REFUSED], [TRUE]]   # 'first' was refused already: it is not shown again
    with site(Base_checkExistingReference=checks, Base_executeJupyter=[[REFUSED], VALUE]) as served:
        session = opened(served, lambda prompt: prompts.append(prompt) or next(answers))
        assert session.execute('1 + 1').result == {'text/plain': '2'}
        assert sent(served) == ['first', 'right']
        assert sent(served, 'Base_checkExistingReference') == ['first', 'wrong', 'right']
    assert prompts == [f'{served.url} refuses the password of ana. Password: '] * 3 and told == ['']


def test_after_that_it_is_an_error_that_says_what_to_set(opened: Callable[..., Session]) -> None:
    answers = iter('abc')
    with site(Base_checkExistingReference=[[REFUSED]], Base_executeJupyter=[[REFUSED]]) as served:
        session = opened(served, lambda prompt: next(answers))
        with pytest.raises(errors.UnauthorizedError, match='HTTP 401.*ERP5_PASSWORD, ERP5_PASSWORD_FILE.*used by the next cell'):
            session.execute('1 + 1')
        assert next(answers, '') == '' and sent(served) == ['first']


@pytest.mark.parametrize('refusal', [EOFError, StdinNotImplementedError])
def test_where_nobody_can_be_asked_it_is_that_error(opened: Callable[..., Session], refusal: type[Exception]) -> None:
    def ask(prompt: str) -> str:
        raise refusal
    with site(Base_checkExistingReference=[[REFUSED]]) as served:
        with pytest.raises(errors.UnauthorizedError, match='ERP5_PASSWORD'):
            opened(served, ask).check()
        assert served.count('Base_checkExistingReference') == 1   # some sites lock out who is wrong too often


def test_ctrl_c_leaves_the_question(opened: Callable[..., Session]) -> None:
    """Also under a cell, whose Ctrl-C would be for the site."""
    with site(Base_checkExistingReference=[[REFUSED]], Base_executeJupyter=[[REFUSED]]) as served:
        session = opened(served, lambda prompt: os.kill(os.getpid(), signal.SIGINT) or time.sleep(10) or '')
        with pytest.raises(KeyboardInterrupt, match='no password was given, and nothing was run') as raised:
            session.execute('1 + 1')
        assert isinstance(raised.value, errors.RemoteInterrupt)
        assert served.count('Base_interruptJupyter') == 0 and sent(served) == ['first']


def test_what_is_not_about_the_password_asks_nobody(opened: Callable[..., Session]) -> None:
    """A cell is refused to whom the site knows; a notebook is somebody else's."""
    with site(Base_checkExistingReference=[[TRUE]], Base_executeJupyter=[[REFUSED], [http({'error': 'it is of bob'}, '403 No')]]) as served:
        session = opened(served, nobody)
        with pytest.raises(errors.UnauthorizedError, match='roles'):
            session.execute('1 + 1')
        with pytest.raises(errors.UnauthorizedError, match='it is of bob'):
            session.execute('1 + 1')
        assert sent(served) == ['first', 'first']


def test_only_the_main_thread_asks(opened: Callable[..., Session]) -> None:
    raised = []

    def run() -> None:
        try:
            session.execute('1')
        except errors.UnauthorizedError as error:
            raised.append(error)
    with site(Base_executeJupyter=[[REFUSED]]) as served:
        session = opened(served, nobody)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(20)
    assert len(raised) == 1 and served.count('Base_checkExistingReference') == 0


def test_a_token_is_read_again(opened: Callable[..., Session], told: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / 'token').write_text('old')
    monkeypatch.setenv('ERP5_TOKEN_FILE', str(tmp_path / 'token'))
    with site(Base_checkExistingReference=[[REFUSED], [TRUE], [REFUSED]], Base_executeJupyter=[[REFUSED], VALUE, [REFUSED]]) as served:
        session = opened(served, nobody, auth='bearer', user=None)
        (tmp_path / 'token').write_text('new')
        assert session.execute('1 + 1').result == {'text/plain': '2'}
        assert sent(served) == ['old', 'new'] and told == [f'Reconnected at {served.url}: the token has been read again\n']
        with pytest.raises(errors.UnauthorizedError, match='check the token'):
            session.execute('1 + 1')
        assert sent(served) == ['old', 'new', 'new']


# ---------------------------------------------------------------- away, asleep
def test_a_site_that_was_away_needs_nothing(opened: Callable[..., Session]) -> None:
    port = free_port()
    with site_on(port, {'Base_executeJupyter': [VALUE]}) as served:
        session = opened(served, nobody)
        session.execute('1')
    session.close()
    with pytest.raises(errors.SiteUnreachableError, match='Nothing was sent'):
        session.execute('2')
    with site_on(port, {'Base_executeJupyter': [VALUE]}):
        assert session.execute('3').result == {'text/plain': '2'}


def test_a_connection_that_was_idle_for_long_is_not_used_again(opened: Callable[..., Session], monkeypatch: pytest.MonkeyPatch) -> None:
    """While a machine sleeps, its connections are lost in silence: nothing would ever answer on them."""
    with site(Base_executeJupyter=[VALUE]) as served:
        session = opened(served)
        session.execute('1')
        session.execute('2')
        assert served.connections == 1
        monkeypatch.setattr(client.time, 'time', lambda now=time.time: now() + client.IDLE)
        session.execute('3')
    assert served.connections == 2


# ---------------------------------------------------------------- where somebody is asked
ANA = "context.acl_users._doAddUser('{0}', 'first', ['Manager'], []) and None"
CHANGE = "context.acl_users._doChangeUser('{0}', 'second', ['Manager'], []) and None"


@pytest.fixture
def ana(node: Node, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[dict[str, str], Callable[[], object]]]:
    """The environment of a user of the node, and what changes her password."""
    name = f'ana-{request.node.name}'
    with node.session('of admin') as session:
        session.execute(ANA.format(name))
        environment = {**node.environment(), 'ERP5_USER': name, 'ERP5_PASSWORD': 'first', 'ERP5_REFERENCE': name,
                       'IPYTHONDIR': str(tmp_path / 'ipython')}
        yield environment, lambda: session.execute(CHANGE.format(name))


def test_a_terminal_asks(ana: Any) -> None:
    environment, change = ana
    terminal = Terminal(environment)
    try:
        terminal.type(LOAD)
        terminal.type('# erp5\nx = 6')
        change()
        terminal.child.send('%erp5 x * 7\r')
        terminal.child.expect('refuses the password of ana.*Password: ')
        terminal.child.sendintr()
        terminal.number += 1
        text = terminal.wait()
        assert 'KeyboardInterrupt: no password was given, and nothing was run' in text and 'Traceback' not in text
        terminal.child.send('%erp5 x * 7\r')
        for typed in ('third', 'second'):
            terminal.child.expect('Password: ')
            terminal.child.sendline(typed)
        terminal.number += 1
        text = terminal.wait()
        assert '42' in text and 'second' not in text and 'third' not in text
        assert 'second' not in terminal.type('%history -n')
    finally:
        terminal.close()


def test_a_kernel_asks_where_its_front_end_answers(ana: Any) -> None:
    environment, change = ana
    manager, kernel = start_new_kernel(kernel_name='python3', env=environment)
    shown: list[Any] = []

    def answer(message: dict[str, Any]) -> None:
        assert message['content']['password'] and 'refuses the password' in message['content']['prompt']
        kernel.input('second')

    def run(code: str, **options: Any) -> Any:
        return kernel.execute_interactive(code, timeout=60, output_hook=shown.append, stop_on_error=False, **options)['content']
    try:
        run(LOAD)
        run('# erp5\nx = 6')
        change()
        refused = run('%erp5 x', allow_stdin=False)
        assert refused['ename'] == 'UnauthorizedError' and 'ERP5_PASSWORD_FILE' in refused['evalue']
        assert run('%erp5 x', stdin_hook=answer)['status'] == 'ok'
        assert run('%erp5 x', allow_stdin=False)['status'] == 'ok'
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "'text/plain': '6'" in str(shown) and 'second' not in str(shown)


@pytest.mark.parametrize('command', [[sys.executable, '-c', 'import ipython_erp5; ipython_erp5.connect()'],
                                     [sys.executable, '-m', 'IPython', '--ext=ipython_erp5', '-c', '%erp5_connect'],
                                     [sys.executable, '-m', 'IPython', '--ext=ipython_erp5', '--ERP5Magics.url=http://127.0.0.1:9',
                                      '--ERP5Magics.user=ana', '-c', '# erp5\n1']])
def test_without_a_terminal_nobody_is_asked(command: list[str], tmp_path: Path) -> None:
    """It has a controlling terminal, which `getpass` would ask on."""
    url = 'http://127.0.0.1:9/erp5' if len(command) < 7 else 'http://127.0.0.1:8/erp5'   # settings come before the environment
    environment = {**os.environ, 'ERP5_URL': url, 'ERP5_USER': 'ana', 'IPYTHONDIR': str(tmp_path)}
    done = subprocess.run(command, input='typed\n', capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode != 0 and 'assword: ' not in done.stdout
    assert 'TargetError: no password is known for ana at http://127.0.0.1:9/erp5: set ERP5_PASSWORD_FILE or ERP5_PASSWORD' in (
        plain(done.stdout + done.stderr).replace('\n', ''))
