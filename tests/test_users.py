"""Users, roles and shares on a real node: who may do what, through every published method, and who may change that."""

import io
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Node, running, there
from IPython.core.interactiveshell import InteractiveShell
from scripted_site import http, site, stock
from traitlets.config import Config
from waitress.adjustments import Adjustments

from ipython_erp5 import errors, local_node, wire
from ipython_erp5.cli import main
from ipython_erp5.client import Client
from ipython_erp5.connections import Connection
from ipython_erp5.credentials import Secret
from ipython_erp5.node import cluster, storage, users
from ipython_erp5.node.bodies import PUT, Parser
from ipython_erp5.node.publisher import PUBLISHED
from ipython_erp5.octets import Octets
from ipython_erp5.session import Session, open_session

# Without a notebook's contents: who may run code at all may ask for these.
ABOUT_THE_NODE = {'Base_getJupyterStatus', 'metrics'}


@pytest.fixture(scope='module')
def site_of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with the Authors ana and bob, the Manager boss, and dan, whose role may do nothing; the password is `of NAME`."""
    with running(tmp_path_factory.mktemp('node')) as node:
        for name, role in (('ana', 'Author'), ('bob', 'Author'), ('boss', 'Manager')):
            users.change(node.data_dir, '', lambda folder: users.add(folder, name, f'of {name}', role))
        users.change(node.data_dir, '', lambda folder:
                     folder._doAddUser('dan', 'of dan', ['Reviewer'], []) and None)
        yield node


As = Callable[..., Session]


@pytest.fixture
def session_of(site_of_three: Node) -> Iterator[As]:
    """A session of a user with a notebook; nothing is sent for it."""
    opened: list[Session] = []

    def make(name: str, reference: str, password: str | None = None) -> Session:
        secret = Secret(f'of {name}' if password is None else password)
        opened.append(open_session(Connection('n', site_of_three.url, name, secret, reference)))
        return opened[-1]
    yield make
    for session in opened:
        session.close()


def asked(session: Session, method: str, **form: str) -> Any:
    octets = Octets([memoryview(b'x')], lambda count: None) if method == PUT else None   # then the form is the query
    response = session.client.post(method, {'reference': session.reference, **form}, octets=octets)
    return response.status_code, response.content.decode()


# ---------------------------------------------------------------- roles
@pytest.mark.parametrize('name, password', [('dan', 'of dan'), ('ana', 'wrong'), ('ana', ''), ('nobody', 'x'), ('', '')])
def test_who_has_no_role_or_no_password_reaches_no_method(session_of: As, name: str, password: str) -> None:
    stranger = session_of(name, 'of ana', password)
    answers = {method: asked(stranger, method, request_id='1', user='dan', python_expression='1')[0] for method in PUBLISHED}
    assert {method: code for method, code in answers.items() if code != 401} == {}
    assert len(answers) >= 7


def test_an_author_runs_code_in_a_notebook_of_his_own(session_of: As) -> None:
    ana = session_of('ana', 'ana runs')
    assert ana.check() is False
    assert ana.execute('6 * 7').result == {'text/plain': '42'}
    assert ana.check() is True and [row['name'] for row in ana.variables()] == []
    assert ana.execute('context.data_notebook_module.find("ana runs").getOwner()').result == {'text/plain': "'ana'"}


def test_the_notebook_of_another_is_closed_in_every_method(session_of: As) -> None:
    session_of('ana', 'closed').execute('secret = 1', store_history=False)
    bob = session_of('bob', 'closed')
    text = ("the notebook 'closed' belongs to ana, and is not shared with bob: ask ana for `%erp5_notebooks --share bob --reference "
            'closed`, or take another reference')
    for method in PUBLISHED - ABOUT_THE_NODE - {'Base_executeJupyter'}:
        code, body = asked(bob, method, request_id='1', user='bob')
        assert (method, code) == (method, 403) and text in body
    for call in (bob.check, bob.context, bob.variables, bob.interrupt, lambda: bob.share('bob'), lambda: bob.execute('secret'),
                 lambda: list(bob.result('1'))):
        with pytest.raises(errors.UnauthorizedError) as raised:
            call()
        assert str(raised.value) == text
    assert session_of('ana', 'closed').context()['lines'] == 1


def test_a_refused_cell_is_an_error_in_both_answers(session_of: As) -> None:
    session_of('ana', 'both').execute('1')
    bob = session_of('bob', 'both')
    form = {'reference': 'both', 'python_expression': 'open("/nowhere")', 'request_id': 'x1'}
    whole = bob.client.post('Base_executeJupyter', form).json()
    assert (whole['status'], whole['ename'], len(whole)) == ('error', 'UnauthorizedError', 9)
    kinds = [(message['msg_type'], message.get('ename')) for message in bob.client.messages(
        bob.client.post('Base_executeJupyter', form, wire.NDJSON))]
    assert kinds == [('error', 'UnauthorizedError'), ('execute_reply', 'UnauthorizedError')]
    assert session_of('ana', 'both').context()['lines'] == 1


def test_a_manager_uses_every_notebook(session_of: As) -> None:
    session_of('ana', 'for the boss').execute('x = 5')
    boss = session_of('boss', 'for the boss')
    assert boss.check() is True and boss.execute('x').result == {'text/plain': '5'}
    assert {'for the boss'} <= {row['reference'] for row in boss.notebooks()}


def test_a_running_first_cell_is_nobody_elses(session_of: As) -> None:
    """Its notebook may not be there yet; its request is known."""
    ana, bob = session_of('ana', 'first cell'), session_of('bob', 'another')
    begun = threading.Event()
    ids: list[str] = []

    def run() -> None:
        with pytest.raises(KeyboardInterrupt):
            ana.execute('import time\nprint("begun", flush=True)\ntime.sleep(60)',
                        on_message=lambda message: ids.append(ana.running) or begun.set())

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(20)
    for reference in ('first cell', 'another', ''):
        assert asked(bob, 'Base_getJupyterResult', request_id=ids[0], reference=reference)[0] == 403
    assert asked(bob, 'Base_interruptJupyter', request_id=ids[0], reference='first cell')[0] == 403
    assert asked(bob, 'Base_interruptJupyter', request_id=ids[0], reference='another') == (200, asked(bob, 'Base_interruptJupyter')[1])
    assert thread.is_alive()
    assert ana.interrupt()['status'] != 'not running'
    thread.join(20)
    assert not thread.is_alive()


def test_the_executor_looks_again(session_of: As, site_of_three: Node) -> None:
    """Two users begin the same new notebook at the same moment: one of them owns it, the other is refused, and nothing else happens."""
    ends: dict[str, list[str]] = {'ana': [], 'bob': []}

    def begin(name: str) -> None:
        for number in range(6):
            try:
                session_of(name, f'race {number}').execute(f'who = {name!r}')
                ends[name].append('ran')
            except errors.UnauthorizedError:
                ends[name].append('refused')

    threads = [threading.Thread(target=begin, args=(name,)) for name in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    owners = {row['reference']: row['owner'] for row in session_of('boss', 'x').notebooks() if row['reference'].startswith('race')}
    for number in range(6):
        assert [ends[name][number] for name in ends] == ['ran' if owners[f'race {number}'] == name else 'refused' for name in ends]


# ---------------------------------------------------------------- sharing
def test_a_share_opens_a_notebook_and_its_end_closes_it(session_of: As) -> None:
    ana, bob = session_of('ana', 'common'), session_of('bob', 'common')
    ana.execute('x = 1')
    assert 'common' not in {row['reference'] for row in bob.notebooks()}
    assert ana.share('bob') == ['bob']
    assert ana.share('bob') == ['bob']
    assert bob.execute('x += 1; x').result == {'text/plain': '2'}
    assert {'reference': 'common', 'title': 'common', 'owner': 'ana', 'shared_with': ['bob'], 'lines': 2} in bob.notebooks()
    with pytest.raises(errors.UnauthorizedError, match="'common' belongs to ana: only its owner and Managers may share it"):
        bob.share('boss')
    assert ana.share('bob', remove=True) == []
    with pytest.raises(errors.UnauthorizedError):
        bob.execute('x')
    assert ana.execute('x').result == {'text/plain': '2'}


def test_a_share_never_conflicts_with_a_cell(session_of: As, tmp_path: Path) -> None:
    """The cell writes the notebook's own record, by an import; the share comes and goes while it runs."""
    ana, boss = session_of('ana', 'busy'), session_of('boss', 'busy')
    ana.execute('1')

    def share_and_go_on(message: wire.Message) -> None:
        if message['msg_type'] == 'stream':
            assert boss.share('bob') == ['bob']
            (tmp_path / 'go on').touch()

    reply = ana.execute(f'import colorsys\nprint("begun", flush=True)\n{there(tmp_path / "go on")};', on_message=share_and_go_on)
    assert reply.reply['committed'] is True
    assert [setup['name'] for setup in ana.context()['environment']] and boss.share('bob', remove=True) == []


@pytest.mark.parametrize('user, remove, text', [
    ('bobb', False, "there is no user 'bobb'; did you mean 'bob'\\? `ipython-erp5 user list` shows all"),
    ('', False, "there is no user ''"),
    ('bob', True, "the notebook 'mine' is not shared with 'bob'. It is shared with nobody")])
def test_a_share_with_nobody_says_so(session_of: As, user: str, remove: bool, text: str) -> None:
    ana = session_of('ana', 'mine')
    ana.execute('1')
    with pytest.raises(errors.UnknownUserError, match=text):
        ana.share(user, remove=remove)
    with pytest.raises(errors.UnknownUserError, match="no notebook has the reference 'no such notebook'"):
        ana.share('bob', 'no such notebook')


def test_the_list_for_official_kernels_has_what_the_user_may_use(session_of: As) -> None:
    session_of('ana', 'listed').execute('1')
    assert "{'reference': 'listed', 'title': 'listed'}" in asked(session_of('ana', ''), 'Base_executeJupyter', request_reference='True')[1]
    assert 'listed' not in asked(session_of('bob', ''), 'Base_executeJupyter', request_reference='True')[1]


# ---------------------------------------------------------------- the magic
@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}))
    shell.run_line_magic('load_ext', 'ipython_erp5')
    monkeypatch.setenv('ERP5_USER', 'ana')
    monkeypatch.setenv('ERP5_PASSWORD', 'of ana')
    yield lambda code: shell.run_cell(code).raise_error()
    InteractiveShell.clear_instance()


def test_the_magic_lists_and_shares(typed: Callable[[str], Any], site_of_three: Node, capsys: pytest.CaptureFixture[str]) -> None:
    typed(f'%erp5_connect {site_of_three.url} --reference magic')
    typed('%erp5 1')
    capsys.readouterr()
    typed('%erp5_notebooks --share bob')
    typed('%erp5_notebooks')
    typed('%erp5_notebooks --unshare bob --reference magic')
    first, head, *rows, last = capsys.readouterr().out.splitlines()
    assert first == "The notebook 'magic' is shared with bob." and last == "The notebook 'magic' is shared with nobody."
    assert head.split() == ['reference', 'title', 'owner', 'shared', 'with', 'lines']
    assert ['magic', 'magic', 'ana', 'bob', '1'] in [row.split() for row in rows]
    for line in ('--share bob --unshare bob', '--reference magic'):
        with pytest.raises(errors.OptionError, match='one at a time'):
            typed(f'%erp5_notebooks {line}')


def test_a_stock_site_lists_and_cannot_share(typed: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> None:
    with site(Base_checkExistingReference=[[http('False')]],
              Base_executeJupyter=[[http("[{'reference': u'sales', 'title': None}]")], [http(stock())]]) as served:
        typed(f'%erp5_connect {served.url} --reference sales')
        capsys.readouterr()
        typed('%erp5_notebooks')
        assert capsys.readouterr().out.splitlines()[1].split() == ['sales']
        with pytest.raises(errors.UnsupportedError, match='cannot share a notebook: it has no Base_shareJupyter'):
            typed('%erp5_notebooks --share bob')


# ---------------------------------------------------------------- the command
def user(node: Node | Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(['user', *arguments, '--data-dir', str(node if isinstance(node, Path) else node.data_dir)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_users_come_and_go_while_a_node_runs(site_of_three: Node, session_of: As, capsys: pytest.CaptureFixture[str],
                                             monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, 'stdin', io.StringIO('pässword: {SSHA}\n'))
    assert user(site_of_three, capsys, 'add', 'éva') == (0, 'Added éva, Author.\n', '')
    assert session_of('éva', 'of eva', 'pässword: {SSHA}').execute('1').result == {'text/plain': '1'}
    code, output, _ = user(site_of_three, capsys, 'list')
    found = [line.split() for line in output.splitlines() if not line.startswith(('crowd', 'typist'))]   # of other tests
    assert (code, found) == (0, [['name', 'roles'], ['admin', 'Manager'], ['ana', 'Author'], ['bob', 'Author'], ['boss', 'Manager'],
                                 ['dan', 'Reviewer'], ['éva', 'Author']])
    (tmp_path / 'new').write_text('{SSHA}new\n')
    assert user(site_of_three, capsys, 'passwd', 'éva', '--password-file', str(tmp_path / 'new')) == (
        0, 'The password of éva is changed.\n', '')
    assert session_of('éva', 'of eva', '{SSHA}new').execute('1').result == {'text/plain': '1'}
    with pytest.raises(errors.UnauthorizedError):
        session_of('éva', 'of eva', 'pässword: {SSHA}').check()
    assert user(site_of_three, capsys, 'remove', 'éva') == (0, 'Removed éva; the notebooks of this user stay.\n', '')
    with pytest.raises(errors.UnauthorizedError):
        session_of('éva', 'of eva', '{SSHA}new').check()
    for secret in ('pässword', '{SSHA}new'):
        assert secret not in site_of_three.log()


@pytest.mark.parametrize('arguments, given, text', [
    (['add', 'ana'], 'x\n', "there is a user 'ana' already: `ipython-erp5 user passwd ana` changes the password"),
    (['add', 'a:b'], 'x\n', "expected a name without a colon, which ends the name in HTTP Basic, got the user 'a:b'"),
    (['add', ' a'], 'x\n', 'without a blank at either end'),
    (['add', 'Anonymous User'], 'x\n', "not one of Zope's own"),
    (['add', ''], 'x\n', 'expected a name that is not empty'),
    (['add', 'new'], '\n', 'expected a password, got an empty text'),
    (['add', 'new'], '', 'expected a password, got an empty text'),
    (['add', 'new'], 'a\tb\n', 'expected a password of printable characters'),
    (['add', 'new', '--password-file', '/no/such/file'], '', '--password-file: expected a readable file, got /no/such/file'),
    (['passwd', 'anna'], 'x\n', "there is no user 'anna'; did you mean 'ana'?"),
    (['remove', 'zzz'], '', "there is no user 'zzz'. `ipython-erp5 user list` shows all"),
    (['passwd', 'admin'], 'x\n', 'admin is the user of the node that runs at'),
    (['remove', 'admin'], '', 'admin is the user of the node that runs at'),
])
def test_what_cannot_be_done_is_one_line(site_of_three: Node, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
                                         arguments: list[str], given: str, text: str) -> None:
    monkeypatch.setattr(sys, 'stdin', io.StringIO(given))
    code, output, problem = user(site_of_three, capsys, *arguments)
    assert (code, output, problem.count('\n')) == (1, '', 1)
    assert text in problem


USAGE = 'expected user add NAME, user remove NAME, user list or user passwd NAME'


@pytest.mark.parametrize('arguments, code, text', [
    ([], '2', USAGE), (['add'], '2', USAGE), (['list', 'ana'], '2', USAGE), (['ad', 'ana'], '2', USAGE), (['add', 'a', 'b'], '2', USAGE),
    (['add', 'a', '--role', 'King'], '1', "expected any of ['Author', 'Manager']"),
    (['add', 'a', '--password', 'x'], '2', 'there is no option --password')])
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], code: str, text: str) -> None:
    with pytest.raises(SystemExit, match=code):
        main(['user', *arguments])
    assert text in capsys.readouterr().err


def test_the_last_manager_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No node need run, but one must have made the site."""
    data = tmp_path / 'data'
    assert main(['user', 'list', '--data-dir', str(data)]) == 1
    assert f'there is no database in {data}' in capsys.readouterr().err
    (data / 'storage').mkdir(mode=0o700)
    database = storage.open_database(storage.embedded_storage(data))
    cluster.install(database, 'admin', 'x')
    database.close()
    assert main(['user', 'list', '--data-dir', str(data)]) == 0
    capsys.readouterr()
    assert user(data, capsys, 'remove', 'admin') == (
        1, '', "ipython-erp5: 'admin' is the last Manager: add another one before, or nobody could see to the site\n")
    monkeypatch.setattr(sys, 'stdin', io.StringIO('x\n'))
    assert user(data, capsys, 'add', 'boss', '--role', 'Manager')[0] == 0
    assert user(data, capsys, 'remove', 'admin')[0] == 0
    assert user(data, capsys, 'list')[1].split() == ['name', 'roles', 'boss', 'Manager']


def test_a_terminal_asks_twice(site_of_three: Node) -> None:
    """And never shows what is typed."""
    answers = (('one', 'two', 1, 'the two passwords are not the same: nothing was changed'), ('one', 'one', 0, 'Added typist, Author.'))
    for first, second, code, text in answers:
        inner, outer = pty.openpty()
        process = subprocess.Popen(local_node.command('user', 'add', 'typist', '--data-dir', str(site_of_three.data_dir)), stdin=outer,
                                   stdout=outer, stderr=outer, start_new_session=True, env=local_node.environment(),
                                   preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)))    # which makes it theirs
        os.close(outer)
        shown = b''
        for prompt, answer in ((b'Password of typist: ', first), (b'Once more: ', second)):
            while prompt not in shown:
                shown += os.read(inner, 1000)
            time.sleep(.05)   # getpass has switched the echo off before it prompts
            os.write(inner, answer.encode() + b'\n')
        try:
            while (more := os.read(inner, 1000)):
                shown += more
        except OSError:     # the other end is closed
            pass
        os.close(inner)
        assert process.wait(20) == code
        assert text in shown.decode() and b'one' not in shown and b'two\r' not in shown


def test_several_change_the_users_at_once(site_of_three: Node) -> None:
    names = [f'crowd{number}' for number in range(6)]
    threads = [threading.Thread(target=users.change, args=(
        site_of_three.data_dir, '', lambda folder, name=name: users.add(folder, name, 'x', 'Author'))) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(names) <= {name for name, _ in users.change(site_of_three.data_dir, '', users.listed)}


# ---------------------------------------------------------------- a share of an older version
def test_a_notebook_without_a_record_of_its_shares_gets_one(session_of: As) -> None:
    boss = session_of('boss', 'old')
    boss.execute('context.data_notebook_module.find("old").__ac_local_roles__ = None')
    assert boss.share('bob') == ['bob']
    assert session_of('bob', 'old').execute('1').result == {'text/plain': '1'}


def test_a_client_shows_what_a_site_says_of_a_refusal() -> None:
    refused = http({'error': 'not yours, ana:päss'}, '403 Forbidden', 'application/json')
    with site(Base_checkExistingReference=[[refused]]) as served:
        client = Client(Connection('n', served.url, 'ana', Secret('päss'), 'r'))
        with pytest.raises(errors.UnauthorizedError, match='^not yours, ana:…$'):
            client.exists('r')


def test_a_head_that_cannot_be_read_has_a_path_for_the_log() -> None:
    """Where its sender has gone, waitress logs that with the path."""
    parser = Parser(Adjustments())
    parser.received(b'GET / HTTP/1.1\r\nno field\r\n\r\n')
    assert parser.error and parser.path == ''
