"""While a cell runs: what is shown when, in a terminal and in a kernel, and what stops it. One of each for the file."""

import contextlib
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from conftest import Node, running, there
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from scripted_site import http, site, stock

from ipython_erp5.connections import Connection
from ipython_erp5.credentials import Secret
from ipython_erp5.ctrl_c import ANSWER
from ipython_erp5.amounts import elapsed, size
from ipython_erp5.progress import moved
from ipython_erp5.session import open_session

pytestmark = pytest.mark.filterwarnings('ignore:Kernel is running over TCP')

LOAD = '%load_ext ipython_erp5'
CODES = r'(?:\x1b\[[0-?]*[@-~])*'
LINE = r'0:\d\d \| [^|]*127\.0\.0\.1:\d+ \(node [\w.-]+\) \| stop it with '
STUBBORN = '# erp5\nwhile True:\n    try:\n        print("has begun"); time.sleep(60)\n    except KeyboardInterrupt:\n        print("no")'
Message = dict[str, Any]


# ---------------------------------------------------------------- a kernel
class Kernel:
    """A kernel, and somebody who looks at it: what comes is kept with the cell that it is for."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.manager: KernelManager
        self.client: BlockingKernelClient
        self.manager, self.client = start_new_kernel(kernel_name='python3', env=environment)
        self.seen: dict[str, list[Message]] = {}

    def send(self, code: str, cell: str = 'a cell', **options: Any) -> str:
        """As a notebook does it, which names its cell; a console has none."""
        content = {'code': code, 'silent': False, 'store_history': True, 'user_expressions': {}, 'allow_stdin': True, 'stop_on_error': True}
        request = self.client.session.msg('execute_request', {**content, **options}, metadata={'cellId': cell} if cell else {})
        self.client.shell_channel.send(request)
        return str(request['header']['msg_id'])

    def until(self, asked: str, condition: Callable[[list[Message]], object], patience: float = 30) -> list[Message]:
        """The messages of a cell, once there are such."""
        end = time.monotonic() + patience
        while not condition(self.seen.setdefault(asked, [])):
            assert time.monotonic() < end, f'waited for {patience:g} s; there is {self.seen[asked]}'
            message = self.client.get_iopub_msg(timeout=patience)
            self.seen.setdefault(message['parent_header'].get('msg_id', ''), []).append(message)
        return self.seen[asked]

    def shows(self, asked: str, text: str) -> list[Message]:
        return self.until(asked, lambda found: text in texts(found))

    def end(self, asked: str) -> list[Message]:
        return self.until(asked, lambda found: found and found[-1]['content'].get('execution_state') == 'idle')

    def reply(self, asked: str) -> tuple[str, str]:
        """Status and name of the error of a cell; of those that were sent, the next one."""
        while (reply := self.client.get_shell_msg(timeout=100))['msg_type'] != 'execute_reply':   # who starts a kernel asks it who it is
            pass
        assert reply['parent_header']['msg_id'] == asked
        return reply['content']['status'], reply['content'].get('ename', '')

    def run(self, code: str, **options: Any) -> list[Message]:
        while True:
            asked = self.send(code, **options)
            reply = self.reply(asked)
            if reply != ('aborted', ''):   # a kernel does not run what comes right behind an error
                break
        assert reply == ('ok', ''), texts(self.end(asked))
        return self.end(asked)

    def press(self) -> None:
        self.manager.interrupt_kernel()

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def texts(messages: list[Message]) -> str:
    return ''.join(message['content'].get('text') or '\n'.join(message['content'].get('traceback', ())) for message in messages)


def outputs(messages: list[Message]) -> list[Message]:
    return [message for message in messages if message['msg_type'] not in ('status', 'execute_input')]


def kinds(messages: list[Message]) -> list[str]:
    return [message['msg_type'] for message in outputs(messages)]


def without_progress(messages: list[Message]) -> list[Message]:
    """The outputs without the line that tells of the progress, which comes where a busy machine makes a cell longer."""
    lines = {message['content']['transient']['display_id'] for message in messages
             if 'stop it with ' in message['content'].get('data', {}).get('text/plain', '')}
    return [message for message in outputs(messages) if message['content'].get('transient', {}).get('display_id', '') not in lines]


@pytest.fixture(scope='module')
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose cells of one notebook are run by one process."""
    with running(tmp_path_factory.mktemp('calm')) as started:
        yield started


@pytest.fixture(scope='module')
def environment(node: Node, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {**node.environment(), 'IPYTHONDIR': str(tmp_path_factory.mktemp('ipython')), 'ERP5_REFERENCE': 'live'}


@pytest.fixture(scope='module')
def opened(environment: dict[str, str]) -> Iterator[Kernel]:
    kernel = Kernel(environment)
    try:
        kernel.run(LOAD)
        kernel.run('# erp5\nimport threading, time\nfrom IPython.display import clear_output, display, update_display')
        yield kernel
    finally:
        kernel.close()


@pytest.fixture
def kernel(opened: Kernel) -> Iterator[Kernel]:
    """With nothing on its way, before and after."""
    yield opened
    opened.run('%config ERP5Magics.progress_after = 2.0')


# ---------------------------------------------------------------- a terminal
class Terminal:
    """IPython in a terminal; `screen` is all that came, with the characters that move the cursor."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.child = pexpect.spawn(sys.executable, ['-m', 'IPython', '--no-banner', '--no-confirm-exit'], timeout=30,
                                   encoding='utf-8', dimensions=(50, 150),
                                   env={**environment, 'TERM': 'xterm', 'PROMPT_TOOLKIT_NO_CPR': '1', 'COLUMNS': '150'})
        self.prompt(1)

    def prompt(self, number: int) -> str:
        self.number = number
        return self.expect(rf'In \[{CODES}{number}{CODES}\]: ')

    def expect(self, pattern: str) -> str:
        self.child.expect(pattern)
        return str(self.child.before)

    def begin(self, source: str) -> None:
        self.child.send(f'\x1b[200~{source}\x1b[201~\x1b\r')

    def run(self, source: str) -> str:
        self.begin(source)
        return self.prompt(self.number + 1)

    def press(self) -> None:
        self.child.sendintr()


@pytest.fixture(scope='module')
def terminal(environment: dict[str, str]) -> Iterator[Terminal]:
    terminal = Terminal(environment)
    try:
        assert 'Error' not in terminal.run(LOAD) + terminal.run('# erp5\nimport time')
        yield terminal
    finally:
        terminal.child.close(force=True)


# ---------------------------------------------------------------- output
def test_a_line_is_there_while_the_cell_sleeps(kernel: Kernel, tmp_path: Path) -> None:
    go_on = tmp_path / 'go on'
    asked = kernel.send(f'# erp5\nimport os\nprint("first")\nwhile not os.path.exists({str(go_on)!r}): time.sleep(.02)\nprint("last")')
    kernel.shows(asked, 'first')
    go_on.touch()
    assert texts(kernel.end(asked)).startswith('first\nlast\n')
    assert kernel.reply(asked) == ('ok', '')


def test_a_burst_arrives_whole_and_in_order(kernel: Kernel) -> None:
    """20 MB in 100,000 lines."""
    asked = kernel.send('# erp5\nfor number in range(100_000): print(f"{number:06} " + "x" * 192)')
    assert kernel.reply(asked) == ('ok', '')
    lines = texts(kernel.end(asked)).splitlines()
    assert [int(line[:6]) for line in lines] == list(range(100_000)) and {len(line) for line in lines} == {199}


def test_tqdm_and_displays_are_updated_while_the_cell_runs(kernel: Kernel, tmp_path: Path) -> None:
    kernel.run('# erp5\nfrom tqdm.auto import tqdm')
    first, last = there(tmp_path / '0%'), there(tmp_path / '67%')
    asked = kernel.send(f'# erp5\nfor turn in tqdm(range(3), mininterval=0): {last} if turn == 2 else {first}')
    for percent in ('0%', '67%'):   # it goes on when that is shown
        kernel.shows(asked, percent)
        (tmp_path / percent).touch()
    bar = without_progress(kernel.end(asked))
    assert kernel.reply(asked) == ('ok', '') and {message['content']['name'] for message in bar} == {'stderr'}
    assert list(dict.fromkeys(re.findall(r'(\d+)%', texts(bar)))) == ['0', '33', '67', '100'] and texts(bar).startswith('\r')
    found = without_progress(kernel.run('# erp5\ndisplay("one", display_id="d"); update_display("two", display_id="d"); '
                                        'clear_output(wait=True)'))
    assert kinds(found) == ['display_data', 'update_display_data', 'clear_output']
    assert [message['content']['transient']['display_id'] for message in found[:2]] == ['d', 'd']
    assert found[2]['content'] == {'wait': True}


def test_tqdm_stays_on_one_line_of_a_terminal(terminal: Terminal) -> None:
    terminal.run('# erp5\nfrom tqdm.auto import tqdm')
    shown = terminal.run('# erp5\nfor _ in tqdm(range(3), mininterval=0): time.sleep(.1)')
    bar = shown[shown.index('  0%'):shown.rindex('100%')]
    assert [part for part in ('0%', '33%', '67%', '100%') if part in bar] == ['0%', '33%', '67%', '100%'] and '\n' not in bar


# ---------------------------------------------------------------- threads
def test_threads_print_into_their_own_cell(calm: Node) -> None:
    """Also those that they start, and also if they live longer; a pool's threads work for whoever gives them work."""
    with calm.session() as session:
        run = session.execute
        run('import threading, time, concurrent.futures\npool = concurrent.futures.ThreadPoolExecutor(1)\nimport builtins\n'
            'builtins.pool, builtins.go_on, builtins.said = pool, threading.Event(), threading.Semaphore(0)\n'
            'pool.submit(print, "of the pool").result()\ndel pool')
        first = run('def work(depth=2):\n    print("at once", depth)\n    said.release()\n    if depth:\n'
                    '        next = threading.Thread(target=work, args=(depth - 1,)); next.start(); next.join()\n'
                    '    go_on.wait()\n    print("later", depth)\n    said.release()\n'
                    'threading.Thread(target=work, daemon=True).start()\nfor turn in range(3): said.acquire(timeout=20)')
        assert first.text == 'at once 2\nat once 1\nat once 0\n'
        second = run('go_on.set()\nfor turn in range(3): said.acquire(timeout=20)\n'
                     'print("mine", end="")\npool.submit(print, " of the pool").result()')
        assert second.text == 'mine of the pool\n'
        end = time.monotonic() + 20
        while len(calm.events('output')) < 3 and time.monotonic() < end:
            time.sleep(.02)
        late = [(event['request_id'], event['output']['text']) for event in calm.events('output')]
        assert late == [(first.request_id, f'later {depth}\n') for depth in range(3)]


# ---------------------------------------------------------------- progress
def test_a_kernel_shows_progress_and_nothing_is_left(kernel: Kernel, tmp_path: Path) -> None:
    asked = kernel.send(f'# erp5\nprint("first")\n{there(tmp_path / "go on")}\nprint("last")')
    kernel.shows(asked, 'first')
    kernel.until(asked, lambda found: 'display_data' in kinds(found))
    (tmp_path / 'go on').touch()
    found = outputs(kernel.end(asked))
    assert kernel.reply(asked) == ('ok', '')
    assert set(kinds(found)) == {'stream', 'display_data', 'update_display_data'} and kinds(found)[-1] == 'update_display_data'
    shown, gone = found[kinds(found).index('display_data')]['content'], found[-1]['content']
    assert re.fullmatch(LINE + 'the stop button', shown['data']['text/plain']) and shown['data']['text/plain'] in shown['data']['text/html']
    assert gone['data'] == {} and gone['transient'] == shown['transient'] and '<a' not in shown['data']['text/html']
    assert texts(found) == 'first\nlast\n'


def test_a_console_of_a_kernel_shows_progress_as_text(kernel: Kernel, tmp_path: Path) -> None:
    """Such as qtconsole, which knows no updates of displays. What is written over the line: as many spaces."""
    kernel.run('%config ERP5Magics.progress_after = .1')
    asked = kernel.send(f'# erp5\nprint("first")\n{there(tmp_path / "go on")}\nprint("last")', cell='')
    kernel.until(asked, lambda found: 'stop it with' in texts(found).partition('first')[2])
    (tmp_path / 'go on').touch()
    found = outputs(kernel.end(asked))
    assert kernel.reply(asked) == ('ok', '') and set(kinds(found)) == {'stream'}
    shown = re.search(r'first\n((?:\r' + LINE + r'Ctrl-C or Stop\s*\x08*)+)\r( +)\rlast\n\Z', texts(found))
    assert shown is not None and len(shown[2]) >= max(map(len, shown[1].split('\r'))), texts(found)


def test_where_nobody_looks_there_is_none(kernel: Kernel, tmp_path: Path) -> None:
    kernel.run('%config ERP5Magics.progress_after = .1')
    asked = kernel.send(f'# erp5\n{there(tmp_path / "go on")};')
    kernel.until(asked, lambda found: 'display_data' in kinds(found))
    (tmp_path / 'go on').touch()
    assert kernel.reply(asked) == ('ok', '') and kinds(kernel.end(asked))[-1] == 'update_display_data'
    cell = '# erp5\nprint("first")\ntime.sleep(.5)'
    assert kinds(kernel.run(cell, allow_stdin=False)) == ['stream']
    assert texts(kernel.run(f'%%capture said\n_ = get_ipython().run_cell({cell!r})\n')) == ''
    assert texts(kernel.run('print(len(said.outputs), said.stdout)')) == '0 first\n\n'
    kernel.run('%config ERP5Magics.progress_after = 0')
    assert kinds(kernel.run(cell)) == ['stream']


def test_progress_does_not_come_into_an_unfinished_line_nor_before_what_replaces_all(kernel: Kernel) -> None:
    """It may come before and after, where a busy machine makes the cell longer."""
    kernel.run('%config ERP5Magics.progress_after = 1')
    found = outputs(kernel.run('# erp5\nprint("12", end="", flush=True)\ntime.sleep(1.3)\nprint("3")'))
    begun = [message['content'].get('text') for message in found].index('12')
    assert found[begun + 1]['content'] == {'name': 'stdout', 'text': '3\n'}
    found = outputs(kernel.run('# erp5\nprint("1")\nclear_output(wait=True)\ntime.sleep(1.3)\nprint("2")'))
    cleared = kinds(found).index('clear_output')
    assert found[cleared + 1]['content'] == {'name': 'stdout', 'text': '2\n'}


def test_a_terminal_shows_progress_and_nothing_is_left(terminal: Terminal, tmp_path: Path) -> None:
    """What is written over the line: as many spaces, before anything else is shown."""
    terminal.begin(f'# erp5\nprint("first")\n{there(tmp_path / "go on")}\nprint("last")')
    shown = ''
    for pattern in ('first\r\n', LINE + 'Ctrl-C', LINE + 'Ctrl-C'):
        shown += terminal.expect(pattern) + str(terminal.child.after)
    (tmp_path / 'go on').touch()
    shown += terminal.prompt(terminal.number + 1)
    found = re.search(r'first\r\n((?:\r(?:' + LINE + r'Ctrl-C\s*\x08*))+)\r( +)\rlast\r\n', shown)
    assert found is not None, shown
    lines = re.findall(r'0:\d\d', found[1])
    assert lines[0] >= '0:02' and len(lines) >= 2 and len(found[2]) >= max(map(len, found[1].split('\r')))


def test_a_terminal_shows_a_bar_of_what_is_much_at_once(terminal: Terminal) -> None:
    shown = terminal.run('import time; from ipython_erp5.progress import Progress\nwith Progress(get_ipython(), 60, "there") as progress:\n'
                         '    for done in (1, 20, 60):\n        progress.bytes(done * 10**6, 10**8)\n'
                         '        for _ in range(2):   # the first one may have been on its way\n            shown = progress.next\n'
                         '            while progress.next == shown: time.sleep(.01)\nprint("end")')
    bars = re.findall(r'\r0:\d\d \| (\[#*-*\]) ([\d.]+) MB of 100 MB \| there \| stop it with Ctrl-C', shown)
    assert {done for _, done in bars} == {'1.0', '20.0', '60.0'} and ('[' + '#' * 14 + '-' * 10 + ']', '60.0') in bars
    assert re.search(r'\r +\rend\r\n', shown)


def test_a_cell_that_waits_says_why(kernel: Kernel, node: Node) -> None:
    """In its line of progress; keepalives come every five seconds."""
    with node.session('live') as other:
        cell = other.submit('import time; time.sleep(60)')
        while other.status()['running'] != 1:  # type: ignore[index]
            time.sleep(.05)
        asked = kernel.send('# erp5\n1')
        kernel.until(asked, lambda found: any('waits: another cell of this notebook runs' in message['content'].get('data', {}).get(
            'text/plain', '') for message in outputs(found)))
        assert 'Waiting' not in texts(kernel.seen[asked])
        kernel.press()
        assert kernel.reply(asked) == ('error', 'KeyboardInterrupt')
        kernel.end(asked)
        assert cell.cancel()


@pytest.mark.parametrize('found, expected', [
    (elapsed(5.9), '0:05'), (elapsed(3723), '1:02:03'), (size(999), '999 bytes'), (size(1.26e9), '1.3 GB'), (size(256e6), '256 MB'),
    (moved(30, 60), '[############------------] 30 bytes of 60 bytes')])
def test_words(found: str, expected: str) -> None:
    assert found == expected


# ---------------------------------------------------------------- stop
def test_stop_ends_the_cell_and_those_behind_it(kernel: Kernel) -> None:
    cells = [kernel.send(code) for code in ('# erp5\nprint("has begun")\ntime.sleep(60)', '# erp5\nnever = 1', 'never = 1')]
    kernel.shows(cells[0], 'has begun')
    pressed = time.monotonic()
    kernel.press()
    assert [kernel.reply(asked) for asked in cells] == [('error', 'KeyboardInterrupt'), ('aborted', ''), ('aborted', '')]
    assert time.monotonic() - pressed < 30
    assert texts(kernel.end(cells[0])).count('Interrupting the cell;') == 1
    assert kinds(without_progress(kernel.run('# erp5\n"never" in globals()'))) == ['execute_result']


def test_the_second_stop_ends_the_process(kernel: Kernel) -> None:
    asked = kernel.send(STUBBORN)
    kernel.shows(asked, 'has begun')
    kernel.press()
    kernel.shows(asked, 'no')
    kernel.press()
    assert kernel.reply(asked) == ('error', 'KeyboardInterrupt')
    found = texts(kernel.end(asked))
    assert found.index('Interrupting the cell;') < found.index('Ending the process') < found.index('killed by a second interrupt')
    kernel.run('# erp5\n1')


def test_ctrl_c_in_a_terminal(terminal: Terminal) -> None:
    terminal.begin(STUBBORN)
    terminal.expect('has begun\r\n')
    terminal.press()
    terminal.expect('Interrupting the cell;')
    terminal.expect('no\r\n')
    terminal.press()
    assert 'Ending the process of the cell;' in (shown := terminal.prompt(terminal.number + 1)) and 'KeyboardInterrupt' in shown
    assert '42' in terminal.run('# erp5\n42')


def test_a_cell_that_catches_its_interrupt_goes_on_as_a_local_one(kernel: Kernel) -> None:
    asked = kernel.send('# erp5\ntry:\n    print("has begun")\n    time.sleep(60)\n'
                        'except KeyboardInterrupt:\n    print("stopped early")\n5')
    kernel.shows(asked, 'has begun')
    kernel.press()
    assert kernel.reply(asked) == ('ok', '')
    assert 'stopped early' in texts(kernel.end(asked)) and kinds(without_progress(kernel.seen[asked]))[-1] == 'execute_result'


def test_an_interrupt_that_a_cell_raises_itself_is_its_error(kernel: Kernel) -> None:
    asked = kernel.send('# erp5\nraise KeyboardInterrupt("of its own")')
    assert kernel.reply(asked) == ('error', 'KeyboardInterrupt')
    assert 'of its own' in texts(kernel.end(asked)) and 'Interrupting' not in texts(kernel.seen[asked])


def test_outside_of_remote_cells_interrupts_are_as_ever(kernel: Kernel) -> None:
    code = 'import signal\nprint(signal.getsignal(signal.SIGINT) is signal.default_int_handler)'
    before = texts(kernel.run(code))
    kernel.run('# erp5\n1')
    assert texts(kernel.run(code)) == before == 'True\n'
    asked = kernel.send('import time; print("local"); time.sleep(60)')
    kernel.shows(asked, 'local')
    kernel.press()
    assert kernel.reply(asked) == ('error', 'KeyboardInterrupt')
    kernel.end(asked)


@pytest.fixture
def elsewhere(kernel: Kernel) -> Iterator[Callable[[str, str, str], None]]:
    """Connect the kernel to another site; afterwards to the first one again."""
    kernel.run('import os; before = dict(os.environ)')

    def connect(url: str, user: str, password: str) -> None:
        kernel.run(f'os.environ.update(ERP5_URL={url!r}, ERP5_USER={user!r}, ERP5_PASSWORD={password!r})')
        kernel.run('%erp5_connect')

    yield connect
    kernel.run('os.environ.update(before)')
    kernel.run('%erp5_connect')


Connect = Callable[[str, str, str], None]


def test_a_site_that_has_gone_is_not_waited_for_after_the_second_stop(kernel: Kernel, calm: Node, elsewhere: Connect) -> None:
    """Its process is stopped while the cell runs: it takes connections, and answers nothing."""
    elsewhere(calm.url, calm.user, calm.password)
    asked = kernel.send('# erp5\nprint("has begun")\nimport time; time.sleep(60)')
    kernel.shows(asked, 'has begun')
    calm.process.send_signal(signal.SIGSTOP)
    try:
        kernel.press()
        kernel.shows(asked, 'Interrupting the cell;')
        time.sleep(ANSWER + .1)
        kernel.press()
        assert kernel.reply(asked) == ('error', 'KeyboardInterrupt')
        assert 'stopped waiting; the cell' in texts(kernel.end(asked))
    finally:
        calm.process.send_signal(signal.SIGCONT)


def test_a_site_that_cannot_interrupt_is_not_waited_for_after_the_second_stop(kernel: Kernel, elsewhere: Connect) -> None:
    ended = threading.Event()
    with site(Base_checkExistingReference=[[http(b'')]], Base_executeJupyter=[[ended, http(stock())]]) as served:
        elsewhere(served.url, 'ana', 'x')
        asked = kernel.send('# erp5\n1')
        while not served.count('Base_executeJupyter'):
            time.sleep(.02)
        kernel.press()
        kernel.shows(asked, 'Not interrupted: ')
        kernel.press()
        assert kernel.reply(asked) == ('error', 'KeyboardInterrupt')
        assert served.count('Base_executeJupyter') == 1 and 'stopped waiting' in texts(kernel.end(asked))
        ended.set()


def test_a_cell_that_ends_all_the_same_stops_those_behind_it(kernel: Kernel, elsewhere: Connect) -> None:
    """Where it could not be interrupted: what was asked for is not swallowed."""
    ended = threading.Event()
    with site(Base_checkExistingReference=[[http(b'')]], Base_executeJupyter=[[ended, http(stock())]]) as served:
        elsewhere(served.url, 'ana', 'x')
        cells = [kernel.send('# erp5\n1'), kernel.send('never = 1')]
        while not served.count('Base_executeJupyter'):
            time.sleep(.02)
        kernel.press()
        kernel.shows(cells[0], 'Not interrupted: ')
        ended.set()
        assert [kernel.reply(asked) for asked in cells] == [('error', 'KeyboardInterrupt'), ('aborted', '')]
        assert 'had come to its end' in texts(kernel.end(cells[0]))


@pytest.mark.filterwarnings('ignore:unclosed <socket')   # urllib3 leaves the half-open one to the collector
def test_ctrl_c_while_connecting_stops_at_once() -> None:
    """The queue of a socket that nobody accepts from is full: who connects waits."""
    main = threading.get_ident()
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(('127.0.0.1', 0))
        listener.listen(0)
        for waiting in [stack.enter_context(socket.socket()) for _ in range(3)]:
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        found = open_session(Connection('slow', f'http://127.0.0.1:{listener.getsockname()[1]}/erp5', 'ana', Secret('x'), reference='x'))
        timer = threading.Timer(.5, signal.pthread_kill, (main, signal.SIGINT))
        timer.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt, match='stopped while connecting to .*; nothing was sent'):
            found.execute('1')
        assert time.monotonic() - began < 30
        timer.join()
