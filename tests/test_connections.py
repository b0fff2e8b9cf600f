"""Connections: tables of targets and settings, each source in its turn, and that no password shows itself anywhere."""

import copy
import json
import os
import pickle
import socket
import subprocess
import sys
import textwrap
from datetime import date

import pytest

from ipython_erp5 import local_node
from ipython_erp5.connections import Connection, Secret, made_reference, resolve, site_url
from ipython_erp5.errors import NodeError, TargetError, UnsupportedError

URL = 'https://erp5.example.com/erp5'


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of its own, where nothing is set."""
    set_here = [name for name in os.environ if name.startswith(('ERP5_', 'XDG_'))]
    for name in (*set_here, 'NETRC', 'JPY_SESSION_NAME', 'REQUESTS_CA_BUNDLE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    return tmp_path


def private(path, text, mode=0o600):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    path.chmod(mode)
    return path


@pytest.fixture
def ini(home):
    """Writes the file of connections."""
    def write(text, mode=0o600):
        return private(home / '.config/ipython_erp5/connections.ini', text, mode)
    return write


# ---------------------------------------------------------------- URLs
@pytest.mark.parametrize('text, url', [
    ('https://erp5.example.com', URL), ('https://erp5.example.com/', URL), (f'{URL}/', URL), (f' {URL}\n', URL),
    (f'{URL}/Base_executeJupyter', URL), ('https://ERP5.example.com/erp5', URL), ('HTTPS://erp5.example.com', URL),
    ('https://erp5.example.com/Base_executeJupyter', 'https://erp5.example.com'),
    ('https://erp5.example.com/a/site', 'https://erp5.example.com/a/site'),
    ('http://localhost:8080', 'http://localhost:8080/erp5'), ('http://[::1]:8080/erp5', 'http://[::1]:8080/erp5'),
])
def test_a_url_becomes_the_url_of_a_site(text, url):
    assert site_url(text) == url


@pytest.mark.parametrize('text', [
    'ftp://host/erp5', 'https://', 'https:///erp5', 'https://host:port/erp5', 'https://host:99999', 'https://[::1', '', 'erp5',
    'https://host/er p5', 'https://host/\x00', 'https://host/erp5?x=1', 'https://host/erp5#there'])
def test_what_is_no_url_of_a_site_is_an_error(text):
    with pytest.raises(TargetError, match='expected the URL of a site, such as https://host/erp5'):
        site_url(text)


@pytest.mark.parametrize('url', [
    'https://me:hunter2@host/erp5', 'https://me:hun/ter2@host', 'https://me:12#hunter2@host', 'https://hunter2@host',
    'https://me:hunter2@[host', 'https://me:hunter2@host:port'])
def test_a_password_in_a_url_is_refused_and_not_shown(url):
    with pytest.raises(TargetError) as raised:
        resolve(url, user='me', password='x')
    assert 'hunter2' not in str(raised.value) and 'ter2' not in str(raised.value)


def test_the_refusal_of_a_password_in_a_url_says_where_to_put_it():
    with pytest.raises(TargetError, match=r'only the site \(…://host/erp5\).*ERP5_PASSWORD_FILE'):
        resolve('https://me:hunter2@host/erp5')


@pytest.mark.parametrize('url', [
    'http://erp5.example.com', 'http://10.0.0.1:8080/erp5', 'http://localhost.example.com', 'http://0.0.0.0'])
def test_a_password_does_not_go_over_plain_http(url):
    asked = []
    with pytest.raises(TargetError, match='is not encrypted.*--insecure'):
        resolve(url, user='me', ask=asked.append)
    assert asked == []
    assert resolve(url, user='me', password='x', insecure=True).insecure


@pytest.mark.parametrize('host', ['localhost', '127.0.0.1', '127.8.0.1', '[::1]', 'site.localhost'])
def test_plain_http_is_right_on_this_machine(host):
    connection = resolve(f'http://{host}:8080', user='me', password='x')
    assert connection.trusted and not connection.embedded and connection.name == f'{host}:8080'


# ---------------------------------------------------------------- the order of the sources
def test_options_come_first_then_the_environment_then_the_file(ini, monkeypatch):
    ini(f'[default]\nurl = {URL}\nuser = of_file\npassword = 50%of_file\nreference = file\ntitle = Title\nserializer = dill\n')
    connection = resolve()
    assert (connection.name, connection.url, connection.user, connection.password.reveal(), connection.reference) == (
        'default', URL, 'of_file', '50%of_file', 'file')
    assert (connection.title, connection.serializer, connection.trusted) == ('Title', 'dill', False)
    monkeypatch.setenv('ERP5_USER', 'of_environment')
    monkeypatch.setenv('ERP5_PASSWORD', 'of environment')
    monkeypatch.setenv('ERP5_REFERENCE', 'environment')
    connection = resolve()
    assert (connection.user, connection.password.reveal(), connection.reference) == (
        'of_environment', 'of environment', 'environment')
    connection = resolve(user='me', password='typed', reference='r', title='t', serializer='s')
    assert (connection.user, connection.password.reveal(), connection.reference, connection.title, connection.serializer) == (
        'me', 'typed', 'r', 't', 's')


def test_the_url_of_the_environment_comes_before_the_default_connection(ini, monkeypatch):
    ini('[default]\nurl = https://other.example.com/erp5\nuser = other\npassword = other\n'
        f'[same]\nurl = {URL}/\nuser = same\npassword = same\n')
    monkeypatch.setenv('ERP5_URL', 'https://erp5.example.com')
    connection = resolve()
    assert (connection.name, connection.url, connection.password.reveal()) == ('same', URL, 'same')


def test_the_password_file_of_the_environment(home, monkeypatch):
    monkeypatch.setenv('ERP5_PASSWORD_FILE', str(private(home / 'secret', 'of file\n')))
    assert resolve(URL, user='me').password.reveal() == 'of file'
    (home / 'secret').write_text('\n')
    with pytest.raises(TargetError, match='ERP5_PASSWORD_FILE names .*secret, which is empty'):
        resolve(URL, user='me')
    (home / 'secret').unlink()
    with pytest.raises(TargetError, match='ERP5_PASSWORD_FILE names .*cannot be read: .*No such file'):
        resolve(URL, user='me')


def test_a_password_goes_only_to_its_site_and_as_its_user(ini, monkeypatch):
    ini(f'[here]\nurl = {URL}\nuser = alice\npassword = of alice\n')
    monkeypatch.setenv('ERP5_URL', 'https://environment.example.com')
    monkeypatch.setenv('ERP5_PASSWORD', 'of environment')
    assert resolve('here').password.reveal() == 'of alice'
    for target, user in (('here', 'bob'), ('https://other.example.com', 'alice')):
        with pytest.raises(TargetError, match=f'no password is known for {user}'):
            resolve(target, user=user)
    assert resolve(user='anybody').password.reveal() == 'of environment'


def test_netrc(home, monkeypatch):
    private(home / '.netrc', 'machine erp5.example.com login me password of_netrc\n')
    assert (resolve(URL).user, resolve(URL).password.reveal()) == ('me', 'of_netrc')
    with pytest.raises(TargetError, match='no password is known for other'):
        resolve(URL, user='other')
    monkeypatch.setenv('NETRC', str(private(home / 'broken', 'machine erp5.example.com hunter2\n')))
    with pytest.warns(UserWarning, match='broken is not used') as warned, pytest.raises(TargetError):
        resolve(URL, user='me')
    assert not any('hunter2' in str(warning.message) for warning in warned)


def test_the_keyring_comes_before_netrc(home, tmp_path, monkeypatch):
    """Another program's interface, in its place: many machines have no keyring."""
    private(home / '.netrc', 'machine erp5.example.com login me password of_netrc\n')
    private(tmp_path / 'lib/keyring/__init__.py', '''
        from keyring.errors import KeyringError
        def get_password(service, user):
            if user == 'locked':
                raise KeyringError('locked')
            return 'of keyring' if (service, user) == ('https://erp5.example.com/erp5', 'me') else None
    ''')
    private(tmp_path / 'lib/keyring/errors.py', 'class KeyringError(Exception): pass\n')
    monkeypatch.syspath_prepend(str(tmp_path / 'lib'))
    for name in ('keyring', 'keyring.errors'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    try:
        assert resolve(URL).password.reveal() == 'of keyring'
        with pytest.warns(UserWarning, match='the keyring gives no password for locked: locked'), pytest.raises(TargetError):
            resolve(URL, user='locked')
    finally:
        sys.modules.pop('keyring', None)
        sys.modules.pop('keyring.errors', None)


def test_what_nothing_knows_is_asked_for():
    prompts = []
    connection = resolve(URL, user='me', ask=lambda prompt: prompts.append(prompt) or 'typed')
    assert connection.password.reveal() == 'typed' and prompts == [f'Password of me at {URL}: ']


@pytest.mark.parametrize('refusal', [EOFError, NotImplementedError])
def test_where_nobody_can_be_asked_the_error_says_what_to_set(refusal):
    def ask(prompt):
        raise refusal
    with pytest.raises(TargetError, match='no password is known for me at .*: set ERP5_PASSWORD_FILE or ERP5_PASSWORD, or'):
        resolve(URL, user='me', ask=ask)
    with pytest.raises(TargetError, match='no user is known for .*: write --user NAME, or set ERP5_USER'):
        resolve(URL)


# ---------------------------------------------------------------- the file
def test_a_file_that_others_may_read_is_refused(ini):
    path = ini(f'[default]\nurl = {URL}\n', 0o640)
    with pytest.raises(TargetError, match=f'has mode 0640, so that others may read passwords in it: run `chmod 600 {path}`'):
        resolve()


def test_names_and_keys_are_suggested(ini):
    ini(f'[production]\nurl = {URL}\npasword = x\n[empty]\nuser = me\n')
    with pytest.raises(TargetError, match="named 'prodction'; did you mean 'production'. There are: embedded, empty, production"):
        resolve('prodction')
    with pytest.raises(TargetError, match="unknown key 'pasword'; did you mean 'password'"):
        resolve('production')
    with pytest.raises(TargetError, match="'empty' has no `url`"):
        resolve('empty')
    with pytest.raises(TargetError, match='For a URL write https://erp5.example.com/erp5'):
        resolve('erp5.example.com/erp5')


@pytest.mark.parametrize('text', ['hunter2\n', '[a]\nhunter2\n', '[a]\nuser=x\nuser=hunter2\n', '[a]\n[a]\nuser=hunter2'])
def test_a_malformed_file_is_an_error_that_quotes_nothing(ini, text):
    ini(text)
    with pytest.raises(TargetError, match=r'connections.ini, line \d: expected `\[name\]`') as raised:
        resolve(URL)
    assert 'hunter2' not in str(raised.value)


def test_another_file(home, monkeypatch):
    monkeypatch.setenv('ERP5_CONNECTIONS', '~/mine.ini')
    with pytest.raises(TargetError, match='ERP5_CONNECTIONS names .*mine.ini, which does not exist'):
        resolve(URL)
    private(home / 'mine.ini', f'[default]\nurl = {URL}\nuser = u\npassword = p\nca_bundle = ~/ca.pem\n')
    with pytest.raises(TargetError, match='CA bundle ~/ca.pem does not exist'):
        resolve()
    private(home / 'ca.pem', '')
    assert resolve().ca_bundle == str(home / 'ca.pem')


# ---------------------------------------------------------------- what shows
def test_a_secret_shows_itself_nowhere():
    connection = Connection('n', URL, 'me', Secret('hunter2'), 'r')
    shown = [repr(connection), str(connection), f'{connection.password}', f'{connection.password:>30}',
             '%s' % connection.password, repr(vars(connection)), repr(copy.deepcopy(connection))]
    assert not any('hunter2' in text for text in shown)
    assert connection.password == Secret('hunter2') and connection.password.reveal() == 'hunter2'
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match='a password is not serialized'):
            pickle.dumps(connection, protocol)


@pytest.mark.parametrize('notebook, reference', [('sales.ipynb', 'sales'), ('/home/me/Sales 2026.ipynb', 'Sales 2026')])
def test_a_reference_is_made_of_the_notebook_name(notebook, reference, monkeypatch):
    assert made_reference('me', notebook) == reference
    monkeypatch.setenv('JPY_SESSION_NAME', notebook)
    assert resolve(URL, user='me', password='x').reference == reference


@pytest.mark.parametrize('notebook', ['', 'Untitled.ipynb', 'a/Untitled3.ipynb'])
def test_else_of_user_host_and_date(notebook):
    before, reference, after = date.today(), made_reference('me', notebook), date.today()
    host = socket.gethostname().partition('.')[0]
    assert reference in (f'me-{host}-{before}', f'me-{host}-{after}')


# ---------------------------------------------------------------- the embedded node
@pytest.fixture
def described(home):
    """Writes what a node would, with the number of a process."""
    def write(pid, **more):
        folder = local_node.data_directory(home / 'data')
        about = {'url': 'http://127.0.0.1:1/erp5', 'user': 'admin', 'pid': pid, 'storage': 'sqlite', **more}
        private(folder / 'node.json', json.dumps(about))
        private(folder / 'password', 'generated\n')
        return folder
    return write


@pytest.fixture
def process(home):
    """A process whose command line names the package, as a node's does."""
    with subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', 'ipython_erp5']) as process:
        yield process
        process.kill()


@pytest.mark.parametrize('target', [None, '', 'embedded'])
def test_a_running_node_is_the_embedded_one(described, process, monkeypatch, target):
    monkeypatch.setenv('ERP5_DATA_DIR', str(described(process.pid)))
    monkeypatch.setenv('ERP5_PASSWORD', 'of another site')
    connection = resolve(target)
    assert (connection.name, connection.url, connection.user, connection.password.reveal()) == (
        'embedded', 'http://127.0.0.1:1/erp5', 'admin', 'generated')
    assert connection.embedded and connection.trusted


def test_the_password_file_of_a_node(described, process, home):
    folder = described(process.pid, password_file=str(private(home / 'own', 'own\n')))
    assert local_node.running(folder).password() == 'own'
    (home / 'own').unlink()
    with pytest.raises(NodeError, match='its password cannot be read'):
        local_node.running(folder).password()


def test_another_process_with_the_number_is_no_node(described):
    assert local_node.running(described(1)) is None


def test_a_dead_process_is_no_node(described, process):
    folder = described(process.pid)
    assert local_node.running(folder).pid == process.pid
    process.kill()
    process.wait()
    assert local_node.running(folder) is None


@pytest.mark.parametrize('text', ['', '{', '[]', '{}', '{"url": 1, "user": "x", "pid": "x"}', '{"url": "x"}'])
def test_half_a_description_is_no_node(described, text):
    folder = described(os.getpid())
    (folder / 'node.json').write_text(text)
    assert local_node.described(folder) is None


def test_without_the_extra_the_error_says_what_to_install(home, monkeypatch):
    monkeypatch.setattr(local_node, 'REQUIRED', ('ipython_erp5', 'no_such_package'))
    with pytest.raises(UnsupportedError, match=r"there is no no_such_package: run pip install 'ipython_erp5\[node\]'"):
        resolve()


def test_the_data_directory_is_closed_to_others(home, monkeypatch):
    assert local_node.data_directory() == home / '.local/share/ipython_erp5'
    monkeypatch.setenv('XDG_DATA_HOME', str(home / 'xdg'))
    assert local_node.data_directory().stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv('ERP5_DATA_DIR', str(home / 'other'))
    (home / 'other').mkdir(mode=0o755)
    assert local_node.data_directory().stat().st_mode & 0o777 == 0o700
    (home / 'other/file').touch()
    (home / 'other').chmod(0o755)
    with pytest.raises(NodeError, match=f'others may enter the data directory .*: run `chmod 700 {home / "other"}`'):
        local_node.data_directory()
    (home / 'file').touch()
    with pytest.raises(NodeError, match='the data directory .*file cannot be used'):
        local_node.data_directory(home / 'file')
