"""TLS before the node: real certificates, made by `openssl` here; what is refused, what passes, and who pays for whom."""

import contextlib
import hashlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Node, running
from test_cli import command, ended

import ipython_erp5
from ipython_erp5 import errors, local_node
from ipython_erp5.client import Client
from ipython_erp5.connections import Connection, resolve
from ipython_erp5.credentials import Secret
from ipython_erp5.node import tls

CONFIG = '''[req]
distinguished_name = name
prompt = no
[name]
CN = test
[authority]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = CA:false
subjectAltName = IP:127.0.0.1,DNS:localhost
subjectKeyIdentifier = hash
[client]
basicConstraints = CA:false
subjectKeyIdentifier = hash
[elsewhere]
basicConstraints = CA:false
subjectAltName = DNS:*.example.com,DNS:erp5.example.com
'''


class Files:
    """Certificates and keys of a folder: NAME.pem, NAME.key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / 'openssl.cnf').write_text(CONFIG)

    def make(self, name: str, section: str, signer: str = '') -> Path:
        signed = ('-CA', f'{signer}.pem', '-CAkey', f'{signer}.key') if signer else ()
        self.openssl('req', '-x509', '-config', 'openssl.cnf', '-extensions', section, '-newkey', 'ec', '-pkeyopt',
                     'ec_paramgen_curve:prime256v1', '-nodes', '-subj', f'/CN={name}', '-days', '30', '-keyout', f'{name}.key',
                     '-out', f'{name}.pem', *signed)
        return self.folder / f'{name}.pem'

    def openssl(self, *arguments: str) -> None:
        subprocess.run(['openssl', *arguments], cwd=self.folder, check=True, capture_output=True)

    def __call__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    made = Files(tmp_path_factory.mktemp('certificates'))
    for authority in ('ours', 'other'):
        made.make(authority, 'authority')
    made.make('site', 'leaf', 'ours')
    made.make('client', 'client', 'ours')
    made.make('own', 'leaf')
    return made


@pytest.fixture(scope='module')
def secure(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    options = ('--certfile', str(files('site.pem')), '--keyfile', str(files('site.key')))
    with running(tmp_path_factory.mktemp('node'), *options) as node:
        yield node


def port_of(node: Node) -> int:
    return int(node.url.rpartition(':')[2].partition('/')[0])


# ---------------------------------------------------------------- a node
def test_another_authority_is_refused(secure: Node, files: Files) -> None:
    assert secure.url.startswith('https://127.0.0.1:')
    for ca_bundle in (None, str(files('other.pem'))):
        with pytest.raises(errors.SiteUnreachableError, match='cannot be verified: .*--ca-bundle FILE. Nothing was sent'):
            secure.session(ca_bundle=ca_bundle)


def test_unverified_without_a_warning_and_another_name(secure: Node, files: Files) -> None:
    with secure.session(insecure=True) as session:   # a warning would be an error
        assert session.execute('6 * 7').result == {'text/plain': '42'}
    short = Connection('n', secure.url.replace('127.0.0.1', '127.1'), 'ana', Secret('x'), 'r', ca_bundle=str(files('ours.pem')))
    with pytest.raises(errors.SiteUnreachableError, match="not valid for '127.1'. Connect to a name that it is for. Nothing was sent"):
        Client(short).exists('r')


def test_outputs_stream_and_large_ones_arrive_whole(secure: Node, files: Files, tmp_path: Path) -> None:
    seen: list[str] = []

    def on_message(message: dict[str, Any]) -> None:
        if message['msg_type'] == 'stream':
            seen.append(message['text'])
            (tmp_path / 'go').touch()   # for which the cell waits

    with secure.session(ca_bundle=str(files('ours.pem'))) as session:
        session.execute('import os, time\nprint("first", flush=True)\n'
                        f'while not os.path.exists({str(tmp_path / "go")!r}): time.sleep(.01)\nprint("second")', on_message=on_message)
        assert ''.join(seen) == 'first\nsecond\n'
        large = 'é' * (1 << 20)
        assert session.execute(f'text = {large!r}\nprint(text)').text == large + '\n'


def test_large_values_go_and_come_as_they_are(secure: Node, files: Files) -> None:
    with secure.session(ca_bundle=str(files('ours.pem'))) as session:
        session.push(octets=bytes(range(256)) * 12_000)
        assert session.pull('octets') == bytes(range(256)) * 12_000


def test_interrupts(secure: Node, files: Files) -> None:
    with secure.session(ca_bundle=str(files('ours.pem'))) as session:
        begun = threading.Event()
        stop = threading.Thread(target=lambda: begun.wait(20) and session.interrupt())
        stop.start()
        with pytest.raises(KeyboardInterrupt):
            session.execute('import time\nprint(1, flush=True)\ntime.sleep(60)', on_message=lambda message: begun.set())
        stop.join()
        assert session.execute('6 * 7').result == {'text/plain': '42'}


def test_a_broken_handshake_hurts_nobody_else(secure: Node, files: Files) -> None:
    address = ('127.0.0.1', port_of(secure))
    with contextlib.ExitStack() as stack:
        broken = [stack.enter_context(socket.create_connection(address)) for _ in range(60)]
        for number, connection in enumerate(broken):
            connection.sendall((b'GET /erp5 HTTP/1.1\r\n\r\n', b'\x16\x03\x01\xff\xff', b'\0' * 1000)[number % 3])
            if number % 2:
                connection.close()
        with secure.session(ca_bundle=str(files('ours.pem'))) as session:
            assert session.execute('1 + 1').result == {'text/plain': '2'}
    assert 'Traceback' not in secure.log()


def test_many_connections_at_once(secure: Node, files: Files) -> None:
    context = ssl.create_default_context(cafile=str(files('ours.pem')))
    request = b'POST /erp5/Base_getJupyterStatus HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n'
    with contextlib.ExitStack() as stack:
        open_ones = []
        for _ in range(150):
            plain = stack.enter_context(socket.create_connection(('127.0.0.1', port_of(secure)), timeout=20))
            open_ones.append(stack.enter_context(context.wrap_socket(plain, server_hostname='127.0.0.1')))
        for connection in open_ones:
            connection.sendall(request)
        assert {connection.recv(12) for connection in open_ones} == {b'HTTP/1.1 401'}


def test_only_this_user_reaches_the_inner_socket(secure: Node) -> None:
    folder = secure.data_dir / 'tls'
    assert (folder.stat().st_mode & 0o777, (folder / 'http').stat().st_mode & 0o777) == (0o700, 0o600)
    assert 'ca_bundle' not in json.loads((secure.data_dir / 'node.json').read_text()) or sys.version_info >= (3, 13)


def test_a_node_in_the_background_with_a_certificate_of_its_own(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / 'data'
    (tmp_path / 'both.pem').write_text(files('own.pem').read_text() + files('own.key').read_text())
    monkeypatch.chdir(tmp_path)
    try:
        code, output, problems = ended(command('start', '--data-dir', str(folder), '--certfile', 'both.pem'))
        assert (code, problems) == (0, '') and 'https://127.0.0.1:' in output
        node = local_node.running(folder)
        assert node is not None and node.answers() and node.ca_bundle == str(tmp_path / 'both.pem')
        code, output, problems = ended(command('status', '--data-dir', str(folder)))
        assert (code, problems) == (0, '') and node.url in output and 'does not answer' not in output
        monkeypatch.setenv('ERP5_DATA_DIR', str(folder))
        with ipython_erp5.connect(reference='r') as session:
            assert session.client.url == node.url
            assert session.execute('2 + 2').result == {'text/plain': '4'}
    finally:
        assert ended(command('stop', '--data-dir', str(folder)))[0] == 0
    assert not (folder / 'tls').exists()


# ---------------------------------------------------------------- certificates
def wrong(files: Files) -> Iterator[tuple[list[str], str]]:
    site, key = str(files('site.pem')), str(files('site.key'))
    files.openssl('ec', '-in', 'site.key', '-aes128', '-passout', 'pass:x', '-out', 'locked.key')
    files.openssl('x509', '-in', 'own.pem', '-signkey', 'own.key', '-days', '0', '-out', 'old.pem')
    time.sleep(1.1)    # it is good for a second
    yield ['--certfile', '/no/such/file'], '--certfile: expected a readable file, got /no/such/file: No such file'
    yield ['--certfile', site, '--keyfile', '/no/such/file'], '--keyfile: expected a readable file'
    yield ['--keyfile', key], '--keyfile: expected a --certfile FILE too'
    yield ['--certfile', key], '--certfile: expected a certificate in PEM format'
    yield ['--certfile', site], f'--keyfile: expected a private key in PEM format in {site}'
    yield ['--certfile', site, '--keyfile', str(files('own.key'))], f'own.key is not the key of {site}'
    yield ['--certfile', site, '--keyfile', str(files('locked.key'))], 'locked.key is not the key of .*, or needs a passphrase'
    yield ['--certfile', str(files('old.pem')), '--keyfile', str(files('own.key'))], 'no client would take .*old.pem: .*expired'


def test_files_that_cannot_be_used_are_named_with_their_option(files: Files) -> None:
    count = 0
    for arguments, text in wrong(files):
        given = dict(zip(arguments[::2], arguments[1::2], strict=True))
        with pytest.raises(errors.NodeError, match=text):
            from ipython_erp5.node.cluster import Settings
            Settings(Path('unused'), certfile=given.get('--certfile', ''), keyfile=given.get('--keyfile', '')).check()
        count += 1
    assert count == 8


def test_the_name_in_the_url_is_one_that_the_certificate_is_for(files: Files) -> None:
    own = tls.Certificate(files('own.pem'), files('own.key'))
    assert own.vouches_for_itself() and own.host('127.0.0.1') == '127.0.0.1' and own.host('10.1.2.3') == '127.0.0.1'
    elsewhere = tls.Certificate(files.make('elsewhere', 'elsewhere', 'ours'), files('elsewhere.key'))
    assert elsewhere.host('127.0.0.1') == 'erp5.example.com'
    assert tls.Certificate(files('client.pem'), files('client.key')).host('127.0.0.1') == '127.0.0.1'


def test_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / ('x' * 90)
    folder.mkdir()
    with tls.inner_socket(folder) as inner:
        place = Path(inner.getsockname()).parent
        assert folder not in place.parents and place.stat().st_mode & 0o777 == 0o700
    assert not place.exists()


# ---------------------------------------------------------------- relaying
Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def relayed(files: Files, folder: Path, talk: Talk, authority: str = '') -> Iterator[int]:
    """The port of a terminator, behind which a thread talks with each connection. `authority`: whose clients are let in."""
    context = tls.Certificate(files('site.pem'), files('site.key')).context
    if authority:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(files(f'{authority}.pem'))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = inner.accept()
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    with tls.inner_socket(folder) as inner:
        inner.listen()
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        listener = tls.listener('127.0.0.1', 0)
        terminator = tls.Terminator(context, listener, inner.getsockname())
        yield listener.getsockname()[1]
        terminator.close()
        inner.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def connect(files: Files, port: int) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(files('ours.pem')))
    return context.wrap_socket(socket.create_connection(('127.0.0.1', port), timeout=20), server_hostname='127.0.0.1')


def everything(connection: socket.socket) -> bytes:
    return b''.join(iter(lambda: connection.recv(1 << 20), b''))


def test_to_another_authority_nothing_is_sent(files: Files, tmp_path: Path) -> None:
    came: list[socket.socket] = []

    def talk(connection: socket.socket) -> None:
        came.append(connection)
        connection.close()

    with relayed(files, tmp_path, talk) as port:
        for ca_bundle, reached in (('other.pem', 0), ('ours.pem', 1)):
            client = Client(Connection('n', f'https://127.0.0.1:{port}/erp5', 'ana', Secret('x'), 'r', ca_bundle=str(files(ca_bundle))))
            with pytest.raises(errors.ERP5Error, match='Nothing was sent' if not reached else '.'):
                client.post('Base_checkExistingReference', {}, timeout=20)
            assert len(came) == reached


def test_who_does_not_read_is_not_written_to(files: Files, tmp_path: Path) -> None:
    block, count, sent = b'0123456789abcdef' * 4096, 1024, [0]

    def talk(connection: socket.socket) -> None:
        with connection:
            for _ in range(count):
                connection.sendall(block)
                sent[0] += len(block)

    with relayed(files, tmp_path, talk) as port, connect(files, port) as reader:
        before = -1
        while not sent[0] or sent[0] != before:    # until it stands
            before = sent[0]
            time.sleep(.3)
        assert 0 < sent[0] < 24 << 20
        digest, size = hashlib.sha256(), 0
        while (data := reader.recv(1 << 20)):
            digest.update(data)
            size += len(data)
    assert size == count * len(block)   # with its end, although the other side had closed
    assert digest.digest() == hashlib.sha256(block * count).digest()


def test_what_a_client_sent_before_it_left_arrives(files: Files, tmp_path: Path) -> None:
    came: list[bytes] = []
    done = threading.Event()

    def talk(connection: socket.socket) -> None:
        with connection:
            came.append(everything(connection))
            done.set()

    with relayed(files, tmp_path, talk) as port:
        with connect(files, port) as client:
            client.sendall(b'x' * (8 << 20))
            client.unwrap().close()     # with the closing alert of TLS
        assert done.wait(20)
    assert [len(data) for data in came] == [8 << 20]


# ---------------------------------------------------------------- certificates of clients
def http(connection: socket.socket) -> None:
    with connection:
        asked = b''
        while not asked.endswith(b'reference=r'):
            asked += connection.recv(1 << 16)
        connection.sendall(b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nTrue')


def test_a_client_shows_its_certificate(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with relayed(files, tmp_path, http, 'ours') as port:
        path = tmp_path / 'connections.ini'
        path.write_text(f'[lab]\nurl = https://127.0.0.1:{port}/erp5\nca_bundle = {files("ours.pem")}\nauth = certificate\n'
                        f'client_cert = {files("client.pem")}\nclient_key = {files("client.key")}\n')
        path.chmod(0o600)
        monkeypatch.setenv('ERP5_CONNECTIONS', str(path))
        with ipython_erp5.connect('lab', reference='r') as session:
            assert session.check() is True and session.client.user == ''
        without = Client(Connection('n', f'https://127.0.0.1:{port}/erp5', '', Secret(''), 'r', ca_bundle=str(files('ours.pem'))))
        with pytest.raises(errors.SiteUnreachableError):
            without.exists('r')


@pytest.mark.parametrize('cert, key, url, text', [
    ('client.pem', 'own.key', 'https://h', r'client.pem \(client_cert\) cannot be used with the key in .*own.key \(client_key\): .*MISM'),
    ('none.pem', 'own.key', 'https://h', 'none.pem .*No such file'),
    ('client.pem', '', 'https://h', 'the same file'),
    ('client.pem', 'client.key', 'http://localhost', 'needs https://, and the site is http://localhost/erp5')])
def test_a_certificate_that_cannot_be_shown(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cert: str, key: str, url: str,
                                            text: str) -> None:
    path = tmp_path / 'connections.ini'
    path.write_text(f'[lab]\nurl = {url}\nauth = certificate\nclient_cert = {files(cert)}\nclient_key = {files(key) if key else ""}\n')
    path.chmod(0o600)
    monkeypatch.setenv('ERP5_CONNECTIONS', str(path))
    with pytest.raises(errors.TargetError, match=text):
        Client(resolve('lab'))
