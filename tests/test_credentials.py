"""Without the right credentials nothing is reached: no code, no pickle, no form; and no password shows where it does not belong."""

import base64
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import traceback
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Node, running
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from raw_http import Sample, form, multipart, request, send, token
from scripted_site import http, site

import ipython_erp5
from ipython_erp5.connections import resolve
from ipython_erp5.credentials import Secret
from ipython_erp5.node.publisher import PUBLISHED
from ipython_erp5.session import Session, open_session

SECRET = 'correct-horse-battery'
FORMS = 'application/x-www-form-urlencoded'
UNREADABLE = ('not text', 'no colon', 'no base64')  # no credentials, but bytes where they should be


class Mark:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), 'w')


@pytest.fixture(scope='module')
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with a notebook, and a user who may not run code."""
    with running(tmp_path_factory.mktemp('guarded')) as node:
        with node.session('guarded') as session:
            session.execute("x = 1\ncontext.acl_users._doAddUser('member', 'pass', ['Member'], []) and None")
        yield node


# ---------------------------------------------------------------- who is nobody
STRANGERS = {
    'nothing': [], 'nobody': [f'Authorization: {token("nobody:x")}'], 'wrong password': [f'Authorization: {token("admin:wrong")}'],
    'empty password': [f'Authorization: {token("admin:")}'], 'no user': [f'Authorization: {token(":")}'],
    'no colon': [f'Authorization: {token("admin")}'], 'no base64': ['Authorization: Basic !!!'], 'no scheme': ['Authorization: admin'],
    'bearer': ['Authorization: Bearer admin'], 'digest': ['Authorization: Digest username="admin"'],
    'may not': [f'Authorization: {token("member:pass")}'], 'null': [f'Authorization: {token("admin" + chr(0) + ":x")}'],
    'twice': [f'Authorization: {token("admin:wrong")}', f'Authorization: {token("nobody:x")}'],
    'cookie': ['Cookie: __ac=' + urllib.parse.quote(token('admin:admin')[6:])], 'not text': [b'Authorization: Basic \xff\xfe'],
    'said by a proxy': ['X-Remote-User: admin', 'Remote-User: admin', 'X-Forwarded-User: admin', 'X-Forwarded-For: 127.0.0.1'],
}


def bodies(mark: Path) -> list[tuple[str, bytes]]:
    """What would leave a mark if it were loaded or run."""
    code = f'open({str(mark)!r}, "w")'
    loaded = pickle.dumps(Mark(mark))
    text = base64.b64encode(loaded).decode()
    fields = {'python_expression': code, 'reference': 'guarded', 'request_id': 'x', 'pull': 'x'}
    part = b'Content-Disposition: form-data; name="%s"\r\n\r\n%s'
    return [
        (FORMS, form(**fields)),
        (FORMS, form(**{**fields, 'push': text, 'serializer': 'cloudpickle', 'code': code})),
        (FORMS, form(**{f'{name}:{kind}': value for name, value in fields.items() for kind in ('list', 'record', 'utf8:text')})),
        ('application/octet-stream', loaded), ('application/python-pickle', loaded),
        ('application/json', json.dumps({**fields, 'push': text}).encode()),
        ('multipart/form-data; boundary=XX', multipart(*(part % (name.encode(), value.encode()) for name, value in fields.items()),
                                                       part.replace(b'"\r\n', b'"; filename="x.pkl"\r\n', 1) % (b'push', loaded))),
    ]


def nonsense(mark: Path) -> list[tuple[str, bytes]]:
    """The same where Zope has ways of its own: published by a form field, converted, XML-RPC. Nobody may send these."""
    fields = {'python_expression': f'open({str(mark)!r}, "w")', 'reference': 'guarded', 'request_id': 'x'}
    return [
        (FORMS, form(**{**fields, 'Base_executeJupyter:method': '1', '__call__:action': 'x', 'manage_addProperty:default_method': ''})),
        (FORMS, form(**{**fields, 'reference:int': 'x', 'x:json': '{', 'y:date': '0', '_p_jar:tokens': 'a b'})),
        (FORMS, pickle.dumps(Mark(mark))),
        ('text/xml', xmlrpc(fields['python_expression'])),
    ]


def xmlrpc(code: str) -> bytes:
    return (f'<?xml version="1.0"?><methodCall><methodName>Base_executeJupyter</methodName><params><param><value><string>{code}</string>'
            '</value></param></params></methodCall>').encode()


OWN = sorted(PUBLISHED)
ZOPES = """
    manage manage_main manage_workspace manage_addFolder manage_delObjects manage_exportObject manage_importObject manage_access
    manage_propertiesForm manage_menu index_html acl_users acl_users/manage_users acl_users/getUser acl_users/_doAddUser REQUEST RESPONSE
    Control_Panel standard_error_message objectIds objectValues restrictedTraverse unrestrictedTraverse getPhysicalPath absolute_url title
    title_or_id getPortalObject getTitle Base_saveImage data_notebook_module data_notebook_module/1 data_notebook_module/1/getReference
    data_notebook_module/find data_notebook_module/newContent document_module document_module/newContent portal_catalog
    portal_catalog/searchResults portal_catalog/manage_catalogClear __class__ __dict__ __init__ __getattr__ _p_jar _p_jar/root __roles__
    __call__ aq_parent aq_base Base_executeJupyter/__class__ Base_executeJupyter/__func__/__globals__ view get_local_roles propertyMap
    PrincipiaFind webdav ZopeTime BASE0 URL AUTHENTICATED_USER environ form ++view++x ++resource++x @@x @@absolute_url ++namespace++
    favicon.ico robots.txt nodes x p_ misc_
""".split() + ['']


def spellings(name: str) -> list[str]:
    """Ways to write a path that some server or other takes for the same."""
    return [name, f'/{name}', f'//{name}', f'./{name}', f'x/../{name}', f'{name}/', f'{name}//', f'{name}/.', f'{name}/..', f'{name};x',
            f'{name}?x', f'{name}%20', f'{name}%00', f'%2e/{name}', f'%2e%2e/erp5/{name}', f'erp5/{name}', f'{name}/index_html',
            f'{name}/__call__', f'{name}/view', name.swapcase(), f'%{ord(name[0]):02x}{name[1:]}', name.replace('_', '%5f'),
            f'{name}\xad', f'{name}／', f'acl_users/{name}', f'data_notebook_module/{name}', f'{name}/{name}', f'{name}#x', f'\\{name}']


VERBS = ['GET', 'HEAD', 'PUT', 'DELETE', 'PROPFIND', 'PROPPATCH', 'MKCOL', 'COPY', 'MOVE', 'LOCK', 'UNLOCK', 'OPTIONS', 'TRACE', 'PATCH',
         'CONNECT', 'X', 'post']


def refused(node: Node, samples: list[Sample], mark: Path) -> None:
    """Each is answered, none with anything, and nothing is left of it."""
    found = zip(samples, send(node, samples), strict=True)
    assert [(sample.data, status) for sample, status in found if status not in (400, 401, 404, 405)] == []
    assert not mark.exists()


@pytest.mark.parametrize('stranger', STRANGERS)
def test_no_published_method_does_anything_for_a_stranger(guarded: Node, tmp_path: Path, stranger: str) -> None:
    """401, whatever the body."""
    mark = tmp_path / 'mark'
    samples = [Sample(request(name, body, *STRANGERS[stranger], kind=kind)) for name in OWN for kind, body in bodies(mark)]
    assert len(OWN) >= 6 and set(send(guarded, samples)) == {400 if stranger in UNREADABLE else 401}
    refused(guarded, [Sample(request(name, body, *STRANGERS[stranger], kind=kind)) for name in OWN for kind, body in nonsense(mark)], mark)


def test_no_other_path_does_anything_for_a_stranger(guarded: Node, tmp_path: Path) -> None:
    mark, wrong = tmp_path / 'mark', f'Authorization: {token("admin:wrong")}'
    kind, body = nonsense(mark)[0]
    paths = [*ZOPES, *(spelling for name in OWN for spelling in spellings(name))]
    refused(guarded, [Sample(request(urllib.parse.quote(path, '/%?;#\\+@.'), body, *known, kind=kind))
                      for path in paths for known in ([], [wrong])], mark)


def test_no_verb_does_anything_for_a_stranger(guarded: Node, tmp_path: Path) -> None:
    mark = tmp_path / 'mark'
    kind, body = bodies(mark)[0]
    refused(guarded, [Sample(request(path, body, method=verb, kind=kind)) for verb in VERBS for path in [*OWN, *ZOPES[:12], '', '*']], mark)


def test_the_same_requests_by_the_user_do_something(guarded: Node, tmp_path: Path) -> None:
    """The body that leaves no mark for a stranger leaves one for the user: the tests above would see it."""
    mark = tmp_path / 'mark'
    kind, body = bodies(mark)[0]
    assert send(guarded, [Sample(request('Base_executeJupyter', body, f'Authorization: {token(f"admin:{guarded.password}")}',
                                         kind=kind))]) == [200]
    assert mark.exists()


def test_not_even_the_user_reaches_what_is_not_published(guarded: Node, tmp_path: Path) -> None:
    known = f'Authorization: {token(f"admin:{guarded.password}")}'
    paths = [path for path in ZOPES if path.rpartition('/')[2] not in PUBLISHED]
    found = send(guarded, [Sample(request(path, b'', known, method=verb)) for path in paths for verb in ('GET', 'POST', 'PUT', 'DELETE')])
    assert set(found) <= {400, 401, 404, 405}


# ---------------------------------------------------------------- where a password must not be
def forms_of(password: str, user: str = 'admin') -> list[bytes]:
    return [password.encode(), base64.b64encode(f'{user}:{password}'.encode()), urllib.parse.quote(password).encode()]


def shows(data: bytes) -> bool:
    return any(secret in data for secret in forms_of(SECRET))


@pytest.fixture(scope='module')
def secretive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node in the background, started by somebody who has the password in the environment."""
    folder = tmp_path_factory.mktemp('secretive')
    (folder / 'secret').write_text(SECRET)
    data_dir, environment = folder / 'node', {**os.environ, 'ERP5_PASSWORD': SECRET, 'ERP5_TOKEN': SECRET, 'ERP5_USER': 'admin'}
    program = [sys.executable, '-m', 'ipython_erp5']
    subprocess.run([*program, 'start', '--data-dir', str(data_dir), '--password-file', str(folder / 'secret')], check=True, timeout=60,
                   env=environment, stdout=subprocess.DEVNULL)
    about = json.loads((data_dir / 'node.json').read_text())
    yield Node(data_dir, psutil.Process(about['pid']), about['url'], about['user'])  # type: ignore[arg-type]
    subprocess.run([*program, 'stop', '--data-dir', str(data_dir)], check=True, timeout=60, stdout=subprocess.DEVNULL)


def opened(node: Node, reference: str) -> Session:
    return ipython_erp5.connect(node.url, user='admin', password=SECRET, reference=reference)


@pytest.fixture
def used(secretive: Node) -> Iterator[Node]:
    """After cells that succeed, fail, and die, a wrong password, and requests that cannot be read."""
    with opened(secretive, 'history') as session:
        for code in ('a = 1', '1 / 0', 'import os; os._exit(1)', 'def ('):
            try:
                session.execute(code)
            except Exception as error:
                assert SECRET not in f'{error!r} {error}'
    known = f'Authorization: {token(f"admin:{SECRET}")}'
    send(secretive, [Sample(request('Base_getJupyterContext', form(**{'reference:int': 'x'}), known)),
                     Sample(request('x' * 99, b'', known)),
                     Sample(request('Base_executeJupyter', b'\xff%', known, kind='multipart/form-data')),
                     Sample(b'POST /erp5/ HTTP/1.1\r\nno header\r\n' + known.encode() + b'\r\n\r\n', framed=False)])
    yield secretive


def test_no_process_of_the_node_shows_the_password(used: Node) -> None:
    """What `ps` shows to everybody, and /proc to the user's other programs."""
    found = [used.process.pid, *(child.pid for child in psutil.Process(used.process.pid).children(recursive=True))]
    assert len(found) >= 4
    for pid in found:
        for name in ('cmdline', 'environ'):
            assert not shows(Path(f'/proc/{pid}/{name}').read_bytes()), f'{name} of {psutil.Process(pid).cmdline()}'


def test_no_cell_finds_the_password_in_its_process(used: Node) -> None:
    with opened(used, 'looking') as session:
        text = session.execute('import os, sys, gc\nprint(dict(os.environ), sys.argv, sys.orig_argv, vars(context), context.REQUEST '
                               'if hasattr(context, "REQUEST") else "")').text
    assert 'PATH' in text and not shows(text.encode())


def test_no_file_of_the_node_shows_the_password(used: Node) -> None:
    """The log, the database with all histories and users, node.json: everything but the file whose job it is."""
    files = [path for path in used.data_dir.rglob('*') if path.is_file()]
    assert {'node.log', 'node.json', 'main.sqlite3'} <= {path.name for path in files}
    assert [path.name for path in files if shows(path.read_bytes())] == []


def test_no_history_shows_the_password(used: Node) -> None:
    with opened(used, 'reading') as session:
        text = session.execute("for notebook in context.data_notebook_module.objectValues():\n    for line in notebook.contentValues():\n"
                               "        print(line.__dict__, line.getNotebookCode(), line.getNotebookCodeResult())").text
    assert '1 / 0' in text and not shows(text.encode())


@pytest.mark.parametrize('mode', ['Plain', 'Context', 'Verbose'])
def test_no_traceback_and_no_history_of_a_session_shows_the_password(used: Node, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Verbose tracebacks show the values of variables."""
    for name, value in {'ERP5_URL': used.url, 'ERP5_USER': 'admin', 'ERP5_PASSWORD': SECRET}.items():
        monkeypatch.setenv(name, value)
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    nowhere = re.sub(r':\d+/', ':1/', used.url)
    with capture_output() as captured:
        for cell in ('%load_ext ipython_erp5', f'%xmode {mode}', '%erp5_connect --reference session', '%%erp5\nx = 1', '%%erp5\n1 / 0',
                     '%erp5 y', '%tb', '%erp5_status', '%erp5_vars', '%%erp5 --nonsense\n1', '%%erp5\nimport os; os._exit(3)',
                     f'%erp5_connect {nowhere}', '%tb', '%history -n', 'print(In)', "import ipython_erp5\nsession = ipython_erp5.connect()",
                     'session, session.client, vars(session), vars(session.client), vars(session.client.renewal)', '%erp5_debug',
                     '%config ERP5Magics', '%erp5_help settings', 'import os; del os.environ["ERP5_PASSWORD"]',
                     '%erp5_connect', '%tb', 'vars(session.client.renewal.connection), [*map(repr, vars(session.client).values())]',
                     'session.execute(5)', '%tb', 'session.execute("1 / 0")', '%tb',
                     f'ipython_erp5.connect({nowhere!r}, password={"x" + "y"!r})', '%tb', "session.client.post(5, {'a': 1})", '%tb',
                     'session.client.url = 5; session.execute("1")', '%tb', '%unload_ext ipython_erp5'):
            shell.run_cell(cell, store_history=True)
    InteractiveShell.clear_instance()
    assert 'ZeroDivisionError' in captured.stdout and not shows((captured.stdout + captured.stderr).encode())


def test_a_session_that_is_refused_says_nothing_of_what_it_tried(used: Node) -> None:
    script = ("import ipython_erp5, sys, traceback\ntry:\n    ipython_erp5.connect(sys.argv[1], user='admin', password=input())\n"
              "except ipython_erp5.ERP5Error:\n    traceback.print_exc()")
    done = subprocess.run([sys.executable, '-c', script, used.url], input='not ' + SECRET, capture_output=True, text=True, timeout=60)
    assert 'UnauthorizedError' in done.stderr and SECRET not in done.stderr + done.stdout


FAILING = {   # what a user may do, and what goes wrong
    'wrong password': lambda url: ipython_erp5.connect(url, user='admin', password=given(), reference='r'),
    'no site': lambda url: ipython_erp5.connect('http://127.0.0.1:9/erp5', user='admin', password=given()),
    'no such file': lambda url: ipython_erp5.connect(url, user='admin', password=given(), ca_bundle='/nowhere'),
    'no such authentication': lambda url: ipython_erp5.connect(url, user='admin', password=given(), auth='nosuch'),
    'unknown key': lambda url: ipython_erp5.connect('sales'),
    'no such connection': lambda url: ipython_erp5.connect('sale'),
    'no certificate': lambda url: ipython_erp5.connect('warehouse'),
    'html': lambda url: session_at(url).execute('1'),
    'refused': lambda url: session_at(url).notebooks(),
    'not to be sent': lambda url: session_at(url).client.post('Base_executeJupyter', {'python_expression': '\ud800'}),
    'interrupted': lambda url: interrupted(session_at(url)),
}


def given() -> str:
    return SECRET


def session_at(url: str) -> Session:
    return open_session(resolve(url, user='admin', password=Secret(SECRET), reference='r'))


def interrupted(session: Session) -> None:
    """Ctrl-C while an answer is waited for, deep in the libraries, whose variables have the headers."""
    threading.Timer(.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    session.status()


@pytest.mark.parametrize('name', FAILING)
def test_no_variable_of_a_traceback_shows_the_password(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `%debug`, Verbose tracebacks, and services that collect errors show: the locals of all frames, ours and those below."""
    ini = tmp_path / 'connections.ini'
    ini.write_text(f'[sales]\nurl = https://host/erp5\npasword = x\npassword = {SECRET}\n[warehouse]\nurl = https://host/erp5\n'
                   f'auth = certificate\ntoken = {SECRET}\nuser = ana\npassword = {SECRET}\n')
    ini.chmod(0o600)
    monkeypatch.setenv('ERP5_CONNECTIONS', str(ini))
    refused, released = [http('no', '401 Unauthorized')], threading.Event()
    with site(Base_checkExistingReference=[refused], Base_executeJupyter=[[http('<html>')], refused],
              Base_getJupyterStatus=[[released, http({})]]) as served:
        try:
            FAILING[name](served.url)
        except BaseException as error:
            raised = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)   # without this test's own variables
        finally:
            released.set()
    shown = ''.join(traceback.TracebackException.from_exception(raised, capture_locals=True).format())
    assert 'ipython_erp5' in shown and isinstance(raised, (ipython_erp5.ERP5Error, KeyboardInterrupt)), shown
    assert isinstance(raised, KeyboardInterrupt) == (name == 'interrupted')
    assert not shows(shown.encode()), shown


def test_the_journal_is_there_to_be_looked_at(used: Node) -> None:
    """The log of the node says what happened, so that a log without a password is no empty one."""
    log = (used.data_dir / 'node.log').read_text()
    assert 'serves' in log and not shows(log.encode())
