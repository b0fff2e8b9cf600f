"""What is typed does the same wherever it is typed: a terminal, a Jupyter kernel, a session whose profile loads the extension.

    STEPS ─┬─► a terminal IPython on a real tty, typed character by character ─┐
           ├─► a kernel through nbclient                                      ─┼─► what is shown
           └─► the same two, without %load_ext: a startup profile does it     ─┘

Also: what wrong input says, and Ctrl-C. Where nobody types: `test_everywhere.py`; a browser: `test_jupyterlab.py`.
"""

import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import nbclient
import nbformat
import pexpect
import pytest
from conftest import Node
from jupyter_client.manager import start_new_kernel
from scripted_site import http, site


pytestmark = pytest.mark.filterwarnings('ignore:Kernel is running over TCP')

LOAD = '%load_ext ipython_erp5'
PROFILE = "c.InteractiveShellApp.extensions = ['ipython_erp5']\nc.ERP5Magics.reference = 'from the profile'\n"

CODES = r'(?:\x1b\[[0-?]*[@-~])*'  # colours and cursor movements

# What is typed, and what is shown then: a regular expression; '' if that is nothing.
STEPS = [
    ('%erp5_status', r'Not connected: %erp5_connect'),
    ('%erp5_connect --reference {reference} --title "All kinds" --serializer dill',
     r"Connected: admin@127\.0\.0\.1:\d+/erp5, reference '{reference}' \(new\b.*\), serializer dill"),
    ('%%erp5\nx = 6\nx * 7', r'Out\[\d+\]: 42'),
    ('_', r'Out\[\d+\]: 42'),
    ('# erp5\nfor i in range(2):\n    print("line", i)', 'line 0\nline 1'),
    ('#%erp5\ny = x + 1\ny', r'Out\[\d+\]: 7'),
    ('# the title\n# erp5: --no-history\ny + 1', r'Out\[\d+\]: 8'),
    ('text = """\n# erp5\n"""\ntext.count("erp5")', r'Out\[\d+\]: 1'),
    ('"x" in globals()', r'Out\[\d+\]: False'),
    ('# epr5\nx', r'SyntaxError: .*write `# erp5`'),
    ('%erp5 x + 1', r'Out\[\d+\]: 7'),
    ('pulled = %erp5 {{"x": x, "y": [y]}}', ''),
    ('pulled["y"][0] + 1', r'Out\[\d+\]: 8'),
    ('# erp5\nimport decimal\ndecimal.Decimal(1)', r"modules decimal without[^$]*Out\[\d+\]: Decimal\('1'\)"),
    ('%erp5_vars', r'name +type[^$]*x +int'),
    ('%erp5_environment', r'decimal_setup +import +decimal'),
    ('%erp5_status', r"\* +\S+ +admin@\S+, reference '{reference}'[^$]*executors"),
    ('# erp5\ndef half(n):\n    return n / 0\nhalf(x)',
     r'ZeroDivisionError[^$]*erp5\[\d+\][^$]*return n / 0[^$]*ZeroDivisionError: division by zero'),
    ('# erp5\nx', r'Out\[\d+\]: 6'),
    ('%config ERP5Magics.feedback = 0', ''),
    ('# erp5\nimport fractions', ''),
    ('%config ERP5Magics.feedback = 1', ''),
    ('%erp5_connect --nowhere', r'OptionError: %erp5_connect'),
    ('# erp5\nx', r'Out\[\d+\]: 6'),
    ('%erp5_disconnect', r"Disconnected from .*'{reference}'"),
    ('%erp5_status', r'Not connected'),
]


# ---------------------------------------------------------------- the kinds of sessions
class Terminal:
    """IPython as somebody has it in a terminal. `type` gives what is shown, without colours and cursor movements."""

    def __init__(self, environment: Mapping[str, str], *options: str) -> None:
        self.child = pexpect.spawn(sys.executable, ['-m', 'IPython', '--no-banner', '--no-confirm-exit', *options], encoding='utf-8',
                                   timeout=30, dimensions=(60, 160),
                                   env={**environment, 'TERM': 'xterm', 'PROMPT_TOOLKIT_NO_CPR': '1', 'COLUMNS': '160'})
        self.number = 1
        self.wait()

    def wait(self) -> str:
        """Until the next prompt. The first releases of IPython 9 count a cell twice whose marker is a SyntaxError."""
        self.child.expect(rf'In \[{CODES}({self.number}|{self.number + 1}){CODES}\]: ')
        self.number = int(self.child.match[1])
        return plain(str(self.child.before))

    def type(self, source: str) -> str:
        """Pasted, as a terminal says to programs what is; Alt-Enter runs it."""
        self.child.send(f'\x1b[200~{source}\x1b[201~')
        return self.enter('\x1b\r')

    def enter(self, keys: str) -> str:
        self.child.send(keys)
        self.number += 1
        return self.wait()

    def close(self) -> None:
        self.child.sendeof()
        self.child.close(force=True)


def plain(text: str) -> str:
    return re.sub(r'\x1b\[[0-?]*[ -/]*[@-~]|\x1b[()=>].?|\x1b\][^\x07]*\x07', '', text).replace('\r', '')


class Kernel:
    """A kernel as nbclient runs one. `type` gives all outputs as text."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.book = nbformat.v4.new_notebook()
        self.client = nbclient.NotebookClient(self.book, timeout=60, allow_errors=True, kernel_name='python3')
        self.client.create_kernel_manager()
        self.client.start_new_kernel(env=dict(environment))
        self.client.start_new_kernel_client()

    def type(self, source: str) -> str:
        cell = nbformat.v4.new_code_cell(source)
        self.book.cells.append(cell)
        self.client.execute_cell(cell, len(self.book.cells) - 1)
        return ''.join(map(text_of, cell.outputs))

    def close(self) -> None:
        self.client._cleanup_kernel()


def text_of(output: nbformat.NotebookNode) -> str:
    if output.output_type == 'stream':
        return str(output.text)
    if output.output_type == 'error':
        return plain('\n'.join(output.traceback))
    head = f'Out[{output.execution_count}]: ' if output.output_type == 'execute_result' else ''
    return f'{head}{output.data["text/plain"]}\n'


@pytest.fixture
def environment(node: Node, tmp_path: Path) -> dict[str, str]:
    """Of a session that finds the node."""
    return {**node.environment(), 'IPYTHONDIR': str(tmp_path / 'ipython')}


@pytest.fixture
def profile(environment: dict[str, str]) -> dict[str, str]:
    """The same, of a user whose profile loads the extension."""
    folder = Path(environment['IPYTHONDIR']) / 'profile_default'
    folder.mkdir(parents=True)
    (folder / 'ipython_config.py').write_text(PROFILE)
    (folder / 'ipython_kernel_config.py').write_text(PROFILE)
    return environment


@pytest.fixture(params=['terminal', 'kernel', 'terminal with a profile', 'kernel with a profile'])
def typed(request: pytest.FixtureRequest, environment: dict[str, str]) -> Iterator[Terminal | Kernel]:
    if request.param.endswith('profile'):
        request.getfixturevalue('profile')
    shell = (Terminal if request.param.startswith('terminal') else Kernel)(environment)
    try:
        if not request.param.endswith('profile'):
            assert 'Error' not in shell.type(LOAD)
        yield shell
    finally:
        shell.close()


@pytest.fixture
def kernel(environment: dict[str, str]) -> Iterator[Kernel]:
    """A kernel with a session and a variable `x` there."""
    started = Kernel(environment)
    try:
        started.type(LOAD)
        started.type('# erp5\nx = 6')
        yield started
    finally:
        started.close()


# ---------------------------------------------------------------- everything, everywhere
def test_everything_that_is_typed(typed: Terminal | Kernel, request: pytest.FixtureRequest) -> None:
    reference = f'kinds-{re.sub("[^a-z]+", "-", request.node.callspec.id)}'
    for source, shown in STEPS:
        text = typed.type(source.format(reference=reference))
        expected = shown.format(reference=re.escape(reference))
        assert re.search(expected, text) if expected else not re.search('Error|Out|WARNING', text), f'{source}\n{text}'


def test_a_profile_gives_the_defaults(profile: dict[str, str]) -> None:
    kernel = Kernel(profile)
    try:
        assert "reference 'from the profile'" in kernel.type('%erp5_connect')
    finally:
        kernel.close()


# ---------------------------------------------------------------- Ctrl-C
def test_ctrl_c_in_a_terminal(environment: dict[str, str]) -> None:
    terminal = Terminal(environment)
    try:
        terminal.type(LOAD)
        terminal.type('# erp5\nx = 6')
        assert 'Out[3]: 42' in terminal.enter('%%erp5\rx = 7\r6 * x\r\r\r')
        terminal.child.send('# erp5\rimport time; print("has", "begun"); time.sleep(60)\r\r\r')
        terminal.child.expect('has begun\r?\n')
        pressed = time.monotonic()
        terminal.child.sendintr()
        terminal.number += 1
        text = terminal.wait()
        assert time.monotonic() - pressed < 40
        assert 'KeyboardInterrupt' in text and 'time.sleep(60)' in text
        assert 'Out[5]: 7' in terminal.type('# erp5\nx')
    finally:
        terminal.close()


def test_interrupting_a_kernel(environment: dict[str, str]) -> None:
    manager, client = start_new_kernel(kernel_name='python3', env=environment)
    try:
        client.execute_interactive(LOAD, timeout=60, output_hook=lambda message: None)
        asked = client.execute('# erp5\nprint("has begun")\nimport time; time.sleep(60)', stop_on_error=False)
        while 'has begun' not in client.get_iopub_msg(timeout=30)['content'].get('text', ''):
            pass
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=40)
        assert reply['parent_header']['msg_id'] == asked
        assert (reply['content']['status'], reply['content']['ename']) == ('error', 'KeyboardInterrupt')
        assert client.execute_interactive('# erp5\n1', timeout=30, output_hook=lambda message: None)['content']['status'] == 'ok'
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# ---------------------------------------------------------------- wrong input
WRONG = [
    ('# epr5\nx', 'SyntaxError', 'write `# erp5`'),
    ('# erp5\n# erp5\nx', 'SyntaxError', 'a second marker'),
    ('%%erp5 --nohistory\nx', 'OptionError', r'did you mean --no-history\?'),
    ('# erp5: --conection a\nx', 'OptionError', r'did you mean --connection\?'),
    ('%%erp5 --connection nowhere\nx', 'TargetError', 'nowhere'),
    ('%erp5', 'OptionError', 'needs an expression'),
    ('%erp5_connect --refrence x', 'OptionError', r'did you mean --reference\?'),
    ('%erp5_connect --password hidden', 'OptionError', 'never an option.*ERP5_PASSWORD_FILE'),
    ('%erp5_connect nowhere', 'TargetError', 'connections.ini'),
    ('%erp5_connect ftp://host/erp5', 'TargetError', 'https://host/erp5'),
    ('%erp5_connect http://example.com/erp5', 'TargetError', '--insecure'),
    ('%erp5_connect http://admin:hidden@localhost/erp5', 'TargetError', '--user'),
    ('%erp5_connect http://127.0.0.1:1/erp5 --user ana', '(TargetError|SiteUnreachableError)', 'password|nothing answers'),
    ('%erp5_connect --serializer nosuch\n', '.*', 'cloudpickle'),
    ('# erp5\nx = (', 'SyntaxError', 'never closed'),
    ('# erp5\nreturn x', 'SyntaxError', 'outside function'),
    ('# erp5\nraise SystemExit(3)', 'SystemExit', '3'),
    ('# erp5\nnosuch', 'NameError', "name 'nosuch' is not defined"),
    ('# erp5\nimport nosuch', 'ModuleNotFoundError', 'nosuch'),
    ('# erp5\nenvironment.define(1)', '.*Error', 'define'),
    ('# erp5\nx = input()', 'StdinNotImplementedError', 'assign'),
]


@pytest.fixture(scope='module')
def shared(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel that all wrong input goes to: none of it may matter to the next."""
    kernel = Kernel({**node.environment(), 'IPYTHONDIR': str(tmp_path_factory.mktemp('wrong'))})
    try:
        kernel.type(LOAD)
        kernel.type('%erp5_connect --reference wrong')
        kernel.type('# erp5\nx = 6')
        yield kernel
    finally:
        kernel.close()


@pytest.mark.parametrize('source, ename, text', WRONG)
def test_wrong_input_says_what_to_do_and_loses_nothing(shared: Kernel, source: str, ename: str, text: str) -> None:
    shown = shared.type(source)
    error = shared.book.cells[-1].outputs[-1]
    assert error.output_type == 'error', shown
    assert re.fullmatch(ename, error.ename), shown
    assert re.search(text, error.evalue, re.DOTALL), shown
    assert 'hidden' not in shown
    assert shared.type('# erp5\nx').startswith('Out'), 'the next cell'
    assert shared.type('%erp5 x').endswith(': 6\n')


def test_a_wrong_password(kernel: Kernel) -> None:
    kernel.type('import os; right = os.environ["ERP5_PASSWORD"]; os.environ["ERP5_PASSWORD"] = "hidden"')
    shown = kernel.type('%erp5_connect')
    assert re.match('UnauthorizedError: .*ERP5_PASSWORD', shown) and 'hidden' not in shown
    assert kernel.type('# erp5\nx').endswith(': 6\n')
    kernel.type('os.environ["ERP5_PASSWORD"] = right')
    assert kernel.type('%erp5_connect').startswith('Connected: ')


def test_a_site_that_answers_html(kernel: Kernel) -> None:
    with site(Base_checkExistingReference=[[http('<html><h1>Welcome</h1></html>', kind='text/html')]]) as served:
        kernel.type('import os; os.environ.pop("ERP5_URL")')
        shown = kernel.type(f'%erp5_connect {served.url}')
    assert re.match('NotASiteError: expected .*https://host/erp5', shown)
    assert kernel.type('# erp5\nx').endswith(': 6\n')


def test_without_a_reference_one_is_made_and_shown(kernel: Kernel) -> None:
    assert re.search(r"reference 'admin-[^']+-\d{4}-\d\d-\d\d'", kernel.type('%erp5_connect'))


def test_a_reference_with_odd_characters(kernel: Kernel) -> None:
    reference = 'ä/ö <b>&% ?#;\'日'
    assert '(new' in kernel.type(f'%erp5_connect --reference "{reference}"')
    kernel.type('# erp5\nodd = 1')
    assert '(existing)' in kernel.type(f'%erp5_connect --reference "{reference}"')
    assert kernel.type('%erp5 odd').endswith(': 1\n')


def test_a_cell_of_two_megabytes(kernel: Kernel) -> None:
    assert kernel.type(f'# erp5\nlen("{"x" * 2_000_000}")').endswith(': 2000000\n')
