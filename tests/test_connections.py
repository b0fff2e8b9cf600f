"""Connections: tables of targets and settings, each source in its turn, and that no password shows itself anywhere."""

import copy
import getpass
import json
import os
import pickle
import socket
import subprocess
import sys
import textwrap
import threading
import traceback
from datetime import date

import pytest
import scripted_site
import storages

from ipython_erp5 import authentication, local_node
from ipython_erp5.client import Client
from ipython_erp5.connections import Connection, made_reference, resolve, site_url
from ipython_erp5.credentials import Secret, ask
from ipython_erp5.errors import NodeError, SiteUnreachableError, TargetError, UnauthorizedError, UnsupportedError

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
    with subprocess.Popen([sys.executable, '-c', "print('runs', flush=True); import time; time.sleep(60)", 'ipython_erp5'],
                          stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b'runs\n'  # only now the system shows its command line for sure
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


# ---------------------------------------------------------------- other ways to show who asks
def test_a_token_in_its_places(ini, home, monkeypatch):
    ini(f'[lab]\nurl = {URL}\nauth = bearer\ntoken = of.file\n[plain]\nurl = https://plain.example.com\nuser = u\npassword = p\n')
    connection = resolve('lab')
    assert (connection.auth, connection.token.reveal(), connection.user, connection.password.reveal()) == ('bearer', 'of.file', '', '')
    monkeypatch.setenv('ERP5_TOKEN_FILE', str(private(home / 'token', 'of.a.file\n')))
    assert resolve('lab').token.reveal() == 'of.a.file'
    monkeypatch.setenv('ERP5_TOKEN', 'of.environment')
    assert resolve('lab').token.reveal() == 'of.environment'
    assert resolve('plain').auth == 'basic' and not resolve('plain').token
    assert resolve('lab', auth='basic', user='me', password='x').auth == 'basic'
    monkeypatch.setenv('ERP5_URL', 'https://elsewhere.example.com')
    assert resolve('lab').token.reveal() == 'of.file'


def test_a_token_that_is_missing_says_where_to_put_it(home, monkeypatch):
    with pytest.raises(TargetError, match='no token is known for https://.*: set ERP5_TOKEN_FILE or ERP5_TOKEN, or the key `token`'):
        resolve(URL, auth='bearer')
    monkeypatch.setenv('ERP5_TOKEN_FILE', str(home / 'none'))
    with pytest.raises(TargetError, match='ERP5_TOKEN_FILE names .*none, which cannot be read'):
        resolve(URL, auth='bearer')
    private(home / 'none', '\n')
    with pytest.raises(TargetError, match='which is empty: write the token into it'):
        resolve(URL, auth='bearer')


def test_a_certificate_that_is_missing_says_where_to_put_it():
    with pytest.raises(TargetError, match='no certificate is known for .*: set the keys `client_cert` and `client_key`'):
        resolve(URL, auth='certificate')


def test_another_authentication_gets_what_is_known_and_asks_nobody(home):
    asked = []
    assert resolve(URL, auth='kerberos', ask=asked.append).user == ''
    private(home / '.netrc', 'machine erp5.example.com login me password of_netrc\n')
    connection = resolve(URL, auth='kerberos', ask=asked.append)
    assert (connection.user, connection.password.reveal(), asked) == ('me', 'of_netrc', [])
    assert made_reference('', '') == f'{socket.gethostname().partition(".")[0]}-{date.today().isoformat()}'


def test_the_embedded_node_has_its_own_way(described, process, home, monkeypatch):
    certificate = private(home / 'own.pem', '')
    monkeypatch.setenv('ERP5_DATA_DIR', str(described(process.pid, url='https://127.0.0.1:1/erp5', ca_bundle=str(certificate))))
    connection = resolve('embedded', auth='bearer', ca_bundle=str(private(home / 'of_another_site.pem', '')))
    assert (connection.auth, connection.ca_bundle) == ('basic', str(certificate))


# ---------------------------------------------------------------- what a client makes of it
def client_of(served, **more):
    return Client(Connection(**{'name': 'n', 'url': served.url, 'user': 'ana', 'password': Secret('hunter2'), 'reference': 'r', **more}))


def shows_no_secret(client, error, *secrets):
    shown = ''.join(traceback.format_exception(error)) + repr(client) + repr(vars(client)['_authenticate'])
    return not any(secret in shown for secret in secrets)


def test_no_user_has_a_colon():
    with pytest.raises(TargetError, match='the user for http://h/erp5 has a colon') as caught:
        authentication.load(Connection('n', 'http://h/erp5', 'ana:secret', Secret('x'), 'r'))
    assert 'secret' not in str(caught.value)


def test_a_token_is_a_header_and_nothing_else():
    with scripted_site.site(Base_checkExistingReference=[
            [scripted_site.http('True')], [scripted_site.http('you said tok.en', '500 Oops')],
            [scripted_site.http('no', '401 Unauthorized')]]) as served:
        client = client_of(served, auth='bearer', token=Secret('tok.en'))
        assert client.exists('r') is True
        with pytest.raises(NodeError, match='you said …') as raised:
            client.exists('r')
        assert shows_no_secret(client, raised.value, 'tok.en', 'hunter2')
        with pytest.raises(UnauthorizedError, match=r'HTTP 401\): check the token \(ERP5_TOKEN, ERP5_TOKEN_FILE\)'):
            client.exists('r')
    assert [request.headers['authorization'] for request in served.received] == ['Bearer tok.en'] * 3


@pytest.mark.parametrize('token', ['two words', 'line\nline', 'pässword'])
def test_a_token_that_cannot_be_a_header_is_not_shown(token):
    with pytest.raises(TargetError, match='expected printable ASCII characters without blanks') as raised:
        Client(Connection('n', URL, '', Secret(''), 'r', auth='bearer', token=Secret(token)))
    assert token not in str(raised.value)


@pytest.fixture
def installed(home, monkeypatch):
    """A distribution with entry points of our group, on the path of this interpreter."""
    private(home / 'lib/negotiating-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\nName: negotiating\nVersion: 1.0\n')
    private(home / 'lib/negotiating-1.0.dist-info/entry_points.txt', '''
        [ipython_erp5.authentication]
        negotiate = negotiating:Negotiate
        broken = negotiating:Broken
        unloadable = negotiating:nothing
        uncallable = negotiating:UNCALLABLE
        failing = negotiating:Failing
        deaf = negotiating:Deaf
    ''')
    private(home / 'lib/negotiating.py', '''
        import requests

        class Negotiate(requests.auth.AuthBase):
            """As for Kerberos: a 401 is answered with a token, in a second request on the same connection."""

            def __init__(self, connection):
                self.user = connection.user

            def __call__(self, request):
                request.register_hook('response', self.heard)
                return request

            def heard(self, response, **options):
                if response.status_code != 401 or 'Authorization' in response.request.headers:
                    return response
                response.content
                response.close()
                again = response.request.copy()
                again.headers['Authorization'] = f'Negotiate of-{self.user}'
                return response.connection.send(again, **options)

        class Failing(Negotiate):
            def __call__(self, request):
                raise RuntimeError('the ticket is hunter2')

        class Deaf(Negotiate):
            def heard(self, response, **options):
                raise RuntimeError('the ticket is hunter2')

        def Broken(connection):
            raise RuntimeError(connection.password.reveal())

        UNCALLABLE = lambda connection: 'hunter2'
    ''')
    monkeypatch.syspath_prepend(str(home / 'lib'))
    yield
    sys.modules.pop('negotiating', None)


def test_a_package_may_bring_another_way_and_answer_a_401(installed):
    refused, passed = scripted_site.http('who?', '401 Unauthorized', more='WWW-Authenticate: Negotiate\r\n'), scripted_site.http('True')
    with scripted_site.site(Base_checkExistingReference=[[refused], [passed], [refused], [passed]]) as served:
        client = client_of(served, auth='negotiate')
        assert client.exists('r') is True
        assert client.exists('r') is True
    assert [request.headers.get('authorization') for request in served.received] == [None, 'Negotiate of-ana'] * 2
    assert all(request.form == {'reference': 'r'} for request in served.received)


def test_a_package_that_cannot_says_so_without_its_secrets(installed):
    secret = 'hunter' + '2'    # not a line that a traceback would quote
    for name, text in (('broken', r"the authentication 'broken' \(negotiating:Broken\) cannot be used: RuntimeError"),
                       ('unloadable', r"'unloadable' \(negotiating:nothing\) cannot be used: AttributeError"),
                       ('uncallable', 'expected something callable with a request from negotiating:UNCALLABLE, got a str'),
                       ('negotiat', "there is no authentication 'negotiat'; did you mean 'negotiate'\\? There are basic, bearer, ")):
        with pytest.raises(UnsupportedError, match=text) as raised:
            Client(Connection('n', URL, 'me', Secret(secret), 'r', auth=name))
        assert secret not in ''.join(traceback.format_exception(raised.value))


def test_one_that_fails_on_the_way_says_what_was_sent(installed):
    with scripted_site.site(Base_checkExistingReference=[[scripted_site.http('', '401 Unauthorized')]]) as served:
        with pytest.raises(UnauthorizedError, match="'failing' failed before anything was sent: RuntimeError") as raised:
            client_of(served, auth='failing').exists('r')
        assert served.received == [] and 'hunter2' not in str(raised.value)
        with pytest.raises(UnauthorizedError, match=r"'deaf' failed at the answer of .*\(HTTP 401, nothing was run\): RuntimeError"):
            client_of(served, auth='deaf').exists('r')


# ---------------------------------------------------------------- what is said of a site that is none
def test_what_speaks_no_tls_was_sent_nothing():
    def answer():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b'HTTP/1.1 400 Bad Request\r\n\r\n')
    with socket.create_server(('127.0.0.1', 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        url = f'https://127.0.0.1:{listener.getsockname()[1]}/erp5'
        with pytest.raises(SiteUnreachableError, match='expected TLS from https://.*Nothing was sent; .*http://'):
            Client(Connection('n', url, 'ana', Secret('x'), 'r')).exists('r')
        thread.join(20)


def test_a_port_where_nobody_listens_is_said_in_few_words():
    with storages.nobody() as host:
        url = f'http://{host}/erp5'
        text = f'^nothing answers at {url}: .Errno 111. Connection refused. Nothing was sent; check'
        with pytest.raises(SiteUnreachableError, match=text):
            Client(Connection('n', url, 'ana', Secret('x'), 'r')).exists('r')


# ---------------------------------------------------------------- who is asked
def test_nobody_is_asked_without_a_terminal_or_in_a_thread(monkeypatch):
    """`getpass` itself would ask on the controlling terminal of whoever runs this."""
    typed = []
    monkeypatch.setattr('getpass.getpass', lambda prompt: typed.append(prompt) or 'typed')
    assert getpass.getpass.__module__ == __name__ and ask('Password: ') == 'typed'   # as a kernel does
    thread = threading.Thread(target=lambda: typed.append(ask('In a thread: ')))
    thread.start()
    thread.join()
    assert typed == ['Password: ', '']
    monkeypatch.undo()
    monkeypatch.setattr(sys, 'stdin', None)
    assert ask('Password: ') == ''
