"""Not waiting: handles, outputs under their own cell, `%erp5_result` of what runs and of what has run, whoever has begun it.

Real nodes (the shared one moves a notebook to another process with each cell), a real shell, and real kernels, one of which is ended
while its cell runs. A cell waits for a file where a test needs it to run: `held`, `let_go`.
"""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import Node
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from scripted_site import END, HANG_UP, STREAM, each, http, ok, site, stock, told
from traitlets.config import Config

import ipython_erp5
from ipython_erp5 import delivery, errors, wire
from ipython_erp5.display import RemoteResult
from ipython_erp5.handle import RemoteCell
from ipython_erp5.session import Session

pytestmark = pytest.mark.filterwarnings('ignore:Kernel is running over TCP')

Type = Callable[[str], ExecutionResult]
DEAF = '__import__("signal").signal(2, 1)\n'   # SIGINT is ignored


@dataclass
class Gate:
    """`held`: code that has begun when `begun` returns, and goes on after `let_go`."""

    folder: Path
    names: Iterator[int] = field(default_factory=lambda: iter(range(100)))
    name: str = ''

    def held(self, before: str = '', after: str = '') -> str:
        self.name = str(next(self.names))
        begun, gone = self.folder / f'begun {self.name}', self.folder / f'gone {self.name}'
        return (f'{before}\ndef wait():\n    import pathlib, time\n    pathlib.Path({str(begun)!r}).touch()\n'
                f'    while not pathlib.Path({str(gone)!r}).exists():\n        time.sleep(.01)\nwait()\n{after}')

    def begun(self) -> None:
        end = time.monotonic() + 60
        while not (self.folder / f'begun {self.name}').exists():
            assert time.monotonic() < end, 'the cell has not begun'
            time.sleep(.01)

    def let_go(self) -> None:
        (self.folder / f'gone {self.name}').touch()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    yield gate
    for name in range(100):
        (tmp_path / f'gone {name}').touch()


# ---------------------------------------------------------------- handles
def test_others_run_meanwhile_and_those_of_the_notebook_wait_and_say_so(session: Session, node: Node, gate: Gate) -> None:
    cell = session.submit(gate.held('print("begun")', 'x = 6\nx * 7'))
    gate.begun()
    with node.session() as other:
        assert other.execute('1 + 1').result == {'text/plain': '2'}
    next_one = session.submit('x + 1')
    end = time.monotonic() + 20
    while next_one.status != 'waiting':
        assert time.monotonic() < end
        time.sleep(.05)
    assert re.fullmatch(rf"<RemoteCell {next_one.request_id[:8]} of '{session.reference}': waiting \(another cell of this notebook runs\), "
                        r'\d+\.\d s>', repr(next_one))
    assert (cell.status, cell.done(), cell.reply.text) == ('running', False, 'begun\n')
    with pytest.raises(errors.StillRunningError, match='is running after .*, and goes on'):
        cell.result(.01)
    gate.let_go()
    assert cell.result(20) is cell.reply and cell.reply.result == {'text/plain': '42'}
    assert next_one.result(20).result == {'text/plain': '7'}
    assert (cell.status, cell.done()) == ('ok', True) and f"'{session.reference}', line 1: ok, " in repr(cell)


def test_a_cell_waits_for_it_like_for_any_other(session: Session, gate: Gate) -> None:
    session.submit(gate.held(after='x = 1'))
    gate.begun()
    waited = []

    def look(message: wire.Message) -> None:
        if message.get('waiting'):
            waited.append(message['waiting'])
            gate.let_go()

    assert session.execute('x', on_message=look).result == {'text/plain': '1'}
    assert waited[:1] == ['another cell of this notebook runs']


def test_what_it_raised_is_raised_as_often_as_one_asks(session: Session) -> None:
    cell = session.submit('print("before")\n1 / 0')
    for _ in range(2):
        with pytest.raises(errors.RemoteError, match='division by zero'):
            cell.result(20)
    assert (cell.status, cell.reply.text) == ('error', 'before\n')


def test_await(session: Session, gate: Gate) -> None:
    cell, wrong = session.submit(gate.held(after='41 + 1')), session.submit('1 / 0')

    async def wait() -> list[Any]:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(cell, .05)
        assert not cell.done()   # who stops waiting ends nothing
        gate.let_go()
        return await asyncio.gather(cell, cell, wrong, return_exceptions=True)

    first, second, third = asyncio.run(wait())
    assert first is second and first.result == {'text/plain': '42'} and type(third).__name__ == 'ZeroDivisionError'


def test_cancel(session: Session, gate: Gate) -> None:
    cell = session.submit(gate.held())
    gate.begun()
    assert cell.cancel()
    with pytest.raises(errors.RemoteInterrupt):
        cell.result(20)
    assert cell.status == 'interrupted' and cell.cancel() is False


def test_cancel_at_once_and_while_it_waits(session: Session, gate: Gate) -> None:
    first = session.submit(gate.held())
    second = session.submit('ran = 1')
    assert second.cancel()
    with pytest.raises(errors.RemoteInterrupt):
        second.result(20)
    assert first.cancel()
    with pytest.raises(errors.RemoteInterrupt):
        first.result(20)
    assert session.execute('"ran" in globals()').result == {'text/plain': 'False'}


def test_cancelled_twice_its_process_is_ended(session: Session, gate: Gate) -> None:
    cell = session.submit(DEAF + gate.held())
    gate.begun()
    assert cell.cancel() and cell.status == 'running' and cell.cancel()
    with pytest.raises(errors.CellLost, match='second interrupt'):
        cell.result(20)
    assert cell.status == 'lost'


def test_push_and_pull(node: Node) -> None:
    with node.session(trusted=True) as session:
        cell = session.submit('b = [a, a]', push={'a': {1, 2}}, pull='b')
        values = cell.result(20).values
        assert values == {'b': [{1, 2}, {1, 2}]}
        with pytest.raises(errors.SerializationError, match='nothing was sent or run'):
            session.submit('1', push={'a': (x for x in ())})


def test_values_that_may_not_come(node: Node) -> None:
    with node.session() as session:
        cell = session.submit('y = open("/dev/null")', pull='y')
        with pytest.raises(errors.SerializationError, match='y cannot be sent'):
            cell.result(20)
        assert cell.status == 'ok' and cell.reply.reply['committed']


SENT_AND_LEFT = '''
import sys, ipython_erp5
session = ipython_erp5.connect({url!r}, user={user!r}, password={password!r}, reference={reference!r})
cells = [session.submit({code!r}), session.submit('x = x + 1\\nprint("second")\\nx')]
print(*(cell.request_id for cell in cells))
'''


def test_an_interpreter_that_exits_leaves_them_to_the_site(session: Session, node: Node, gate: Gate) -> None:
    code = SENT_AND_LEFT.format(url=node.url, user=node.user, password=node.password, reference=session.reference,
                                code=gate.held('print("first")', 'x = 1'))
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, '')
    first, second = done.stdout.split()
    gate.begun()
    assert session.past.find() == first and session.past.find(first[:8]) == first
    gate.let_go()
    assert session.attach(second).text == 'second\n' and session.attach(second).result == {'text/plain': '2'}
    assert session.attach(first).text == 'first\n'
    assert [entry['number'] for entry in session.history()] == [1, 2]


def test_a_site_that_stays_away_names_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, 'RESEND', .3)
    monkeypatch.setattr(delivery, 'PAUSE', .1)
    status = http({'node': 'one'}, kind='application/json')
    with site(Base_checkExistingReference=each([http('False')]), Base_getJupyterStatus=each([status]),
              Base_executeJupyter=[[STREAM + told(wire.stream('stdout', 'one\n')), HANG_UP], [HANG_UP]]) as served:
        session = ipython_erp5.connect(served.url, user='ana', password='secret', reference='sales')
        cell = session.submit('1')
        with pytest.raises(errors.SiteUnreachableError, match=rf'%erp5_result {cell.request_id}'):
            cell.result(20)
        assert cell.status == 'unknown' and cell.reply.text == 'one\n'


def test_whoever_attaches_goes_on_where_the_connection_broke() -> None:
    messages = [wire.stream('stdout', 'one\n'), wire.stream('stdout', 'two\n')]
    broken, whole = [STREAM + told(messages[0]), HANG_UP], [STREAM + told(*messages, ok()) + END]
    with site(Base_checkExistingReference=each([http('False')]), Base_getJupyterResult=[broken, whole]) as served:
        session = ipython_erp5.connect(served.url, user='ana', password='secret', reference='sales')
        assert session.attach('id').text == 'one\ntwo\n'


def test_who_looks_on_and_fails_costs_nothing(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(message: wire.Message) -> None:
        raise ValueError('of the one who looks on')

    assert session.submit('print(1)\n2', on_message=fail).result(20).result == {'text/plain': '2'}
    assert capsys.readouterr().err.count('\nValueError: of the one who looks on') == 1


# ---------------------------------------------------------------- in a shell
@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config(HistoryManager={'enabled': False}))
    shell.run_line_magic('load_ext', 'ipython_erp5')
    shell.colors = 'nocolor'
    yield shell
    InteractiveShell.clear_instance()


@pytest.fixture
def typed(shell: InteractiveShell, node: Node, session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
          ) -> Type:
    """Cells of a shell that is connected to the notebook of `session`."""
    monkeypatch.setenv('ERP5_USER', node.user)
    monkeypatch.setenv('ERP5_PASSWORD', node.password)
    shell.run_cell(f'%erp5_connect {node.url} --reference "{session.reference}"').raise_error()
    capsys.readouterr()
    return lambda code: shell.run_cell(code, store_history=True)


def ended(cell: RemoteCell) -> None:
    end = time.monotonic() + 20
    while not cell.done():
        assert time.monotonic() < end
        time.sleep(.01)


def test_a_terminal_prints_nothing_until_one_asks(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    handle = typed('%%erp5 --noblock\nprint("one")\n6 * 7').result
    ended(handle)
    assert re.fullmatch(r'Out\[\d+\]: <RemoteCell [0-9a-f]{8} of .*s>\n', capsys.readouterr().out)
    typed('handle = _')
    result = typed('handle.result()').result
    assert isinstance(result, RemoteResult) and re.fullmatch(r'one\nOut\[\d+\]: 42\n', capsys.readouterr().out)
    assert typed('handle.result()').result is result and 'one' not in capsys.readouterr().out


def test_the_next_cell_tells_of_what_has_ended_and_nobody_has_looked_at(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, looked, fine = [typed(f'# erp5: --noblock\n{code}').result for code in ('1 / 0', '1 / 0', '1')]
    for cell in (wrong, looked, fine):
        ended(cell)
    with pytest.raises(errors.RemoteError):
        looked.result()
    capsys.readouterr()
    typed('%erp5 5')
    first, second, value = capsys.readouterr().out.splitlines()
    short = wrong.request_id[:8]
    assert first == f'The cell {short} has ended: error, ZeroDivisionError: division by zero. %erp5_result {short} shows it'
    assert second.startswith(f'The cell {fine.request_id[:8]} has ended: ok, after ') and value.endswith(': 5')
    typed('%erp5 5')
    assert 'has ended' not in capsys.readouterr().out
    assert type(typed(f'%erp5_result {short}').error_in_exec).__name__ == 'ZeroDivisionError'


def test_quiet_shells_are_not_told(typed: Type, capsys: pytest.CaptureFixture[str]) -> None:
    typed('%config ERP5Magics.feedback = 0')
    ended(typed('%%erp5 --noblock\n1 / 0').result)
    capsys.readouterr()
    typed('%erp5 5')
    shown = capsys.readouterr().out
    assert shown.endswith(': 5\n') and 'has ended' not in shown


def test_what_is_on_record_is_shown(typed: Type, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    first = session.execute('print("one")\n6 * 7').request_id
    with pytest.raises(errors.RemoteError):
        session.execute('print("two")\n1 / 0')
    capsys.readouterr()
    for identifier in (first, first[:9], '1'):
        assert repr(typed(f'%erp5_result {identifier}').result) == '42'
        assert re.fullmatch(r'one\nOut\[\d+\]: 42\n', capsys.readouterr().out)
    assert typed('_').result.data == {'text/plain': '42'}
    result = typed('%erp5_result')
    assert type(result.error_in_exec).__name__ == 'ZeroDivisionError' and 'two\n' in capsys.readouterr().out
    with pytest.raises(errors.OptionError, match='the notebook has no line 3: its lines are 1 to 2'):
        typed('%erp5_result 3').raise_error()
    with pytest.raises(errors.OptionError, match='the notebook has no cell zz: its lines are 1 to 2'):
        typed('%erp5_result zz').raise_error()


def test_it_attaches_to_what_another_session_runs(typed: Type, session: Session, gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    cell = session.submit(gate.held('print("one")', 'print("two")\n6 * 7'), on_message=lambda message: gate.let_go())
    gate.begun()
    assert repr(typed('%erp5_result').result) == '42' and cell.result(20)
    assert re.fullmatch(r'one\ntwo\nOut\[\d+\]: 42\n', capsys.readouterr().out)


def test_it_takes_over_a_handle_and_what_that_pulls(typed: Type, gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    handle = typed('%%erp5 --noblock --pull mine\n' + gate.held('print("one")', 'mine = {"a": (1, 2)}\n"value"')).result
    gate.begun()
    assert typed('"mine" in globals()').result is False
    gate.let_go()
    capsys.readouterr()
    assert repr(typed(f'%erp5_result {handle.request_id[:8]}').result) == "'value'"
    assert capsys.readouterr().out.count('one\n') == 1
    assert typed('mine').result == {'a': (1, 2)} and repr(handle.result()) == "'value'"
    assert 'one' not in capsys.readouterr().out
    typed('%erp5 5')
    assert 'has ended' not in capsys.readouterr().out


def test_what_is_pushed_is_taken_before_the_magic_returns(typed: Type) -> None:
    handle = typed('values = [1]\nhandle = get_ipython().run_cell_magic("erp5", "--noblock --push values", "sum(values)")\n'
                   'values.append(2)\nhandle').result
    assert repr(handle.result(20)) == '1'


def test_a_stock_site_runs_it_and_cannot_end_it(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ERP5_USER', 'ana')
    monkeypatch.setenv('ERP5_PASSWORD', 'secret')
    with site(Base_checkExistingReference=each([http('True')]), Base_executeJupyter=[[.5, http(stock(code_result='hello\n'))]]) as served:
        shell.run_cell(f'%erp5_connect {served.url} --reference sales').raise_error()
        handle = shell.run_cell('%%erp5 --noblock\nprint("hello")').result
        with pytest.raises(errors.UnsupportedError, match='cannot interrupt a cell'):
            handle.cancel()
        handle.result(20)
        assert handle.reply.text == 'hello\n'
        with pytest.raises(errors.UnsupportedError, match='cannot list the lines of a notebook'):
            shell.run_cell('%erp5_result').raise_error()


# ---------------------------------------------------------------- in kernels
class Kernel:
    """`start` sends a cell and returns its id; what it shows is in `shown` by that id, wherever in time it comes."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.manager: KernelManager
        self.client: BlockingKernelClient
        self.manager, self.client = start_new_kernel(kernel_name='python3', env=environment)
        self.shown: dict[str, list[dict[str, Any]]] = {}

    def start(self, code: str) -> str:
        return str(self.client.execute(code))

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, self.shown
            message = self.client.get_iopub_msg(timeout=30)
            self.shown.setdefault(message['parent_header'].get('msg_id', ''), []).append(message)

    def type(self, code: str) -> str:
        """Run a cell to its end; its id."""
        cell = self.start(code)
        self.until(lambda: self.kinds(cell)[-1:] == ['status'] and self.shown[cell][-1]['content']['execution_state'] == 'idle')
        return cell

    def kinds(self, cell: str) -> list[str]:
        return [message['msg_type'] for message in self.shown.get(cell, ())]

    def text(self, cell: str) -> str:
        """All that is shown under a cell, as text."""
        pieces = []
        for message in self.shown.get(cell, ()):
            content = message['content']
            data = content.get('data', {}).get('text/plain')
            pieces += [content.get('text'), data and f'{data}\n', *content.get('traceback', ())]
        return ''.join(filter(None, pieces))

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(node: Node, session: Session) -> Iterator[Callable[[], Kernel]]:
    """New kernels that are connected to the notebook of `session`."""
    kernels: list[Kernel] = []

    def start() -> Kernel:
        kernels.append(Kernel({**node.environment(), 'ERP5_REFERENCE': session.reference, 'NO_COLOR': '1'}))
        kernels[-1].type('%load_ext ipython_erp5\n%config ERP5Magics.progress_after = 0\n%erp5_connect')
        return kernels[-1]

    yield start
    for kernel in kernels:
        kernel.end()


def test_outputs_come_under_the_cell_that_began_them_whatever_runs(kernel: Callable[[], Kernel], gate: Gate) -> None:
    one = kernel()
    slow = one.type('%%erp5 --noblock\n' + gate.held(
        'print("one")\nh = display("first", display_id=True)', 'h.update("then")\nprint("two")\n6 * 7'))
    gate.begun()
    other = one.type('handle = _\nprint("local")')
    one.until(lambda: 'one\n' in one.text(slow))
    gate.let_go()
    later = one.type('value = await handle\nprint("awaited", value)')
    one.until(lambda: '42' in one.text(slow))
    assert one.text(other) == 'local\n' and one.text(later) == 'awaited 42\n'
    shown = [kind for kind in one.kinds(slow) if kind in ('stream', 'display_data', 'update_display_data')]
    assert shown == ['stream', 'display_data', 'update_display_data', 'stream', 'display_data']
    assert re.fullmatch(r"<RemoteCell [^\n]*>\none\n'first'\n'then'\ntwo\n42\n", in_order(one.text(slow)))

    wrong = one.type('%%erp5 --noblock\n1 / 0')
    one.until(lambda: 'division by zero' in one.text(wrong))
    assert 'error' not in one.kinds(wrong)
    told = one.type('while not Out[max(Out)].done(): pass\n%erp5 1')
    assert re.search(r'The cell [0-9a-f]{8} has ended: error, ZeroDivisionError', one.text(told))


def in_order(text: str) -> str:
    """The handle, which is the value of the cell, may come after the first outputs."""
    handle = re.search(r'<RemoteCell .*\n', text)
    assert handle is not None
    return handle[0] + text.replace(handle[0], '')


def test_a_new_kernel_goes_back_to_what_the_one_before_has_begun(kernel: Callable[[], Kernel], session: Session, gate: Gate) -> None:
    one, two = kernel(), kernel()
    one.type('from ipython_erp5 import ctrl_c\nctrl_c.LEAVING = 10.0')   # a busy machine may need longer
    one.start('%%erp5\n' + gate.held('print("one")', 'x = 42\nprint("two")\nx'))
    gate.begun()
    one.manager.shutdown_kernel()   # as for a restart: SIGINT, which is not for the cell, and a request
    back = two.start('%erp5_result')
    two.until(lambda: 'one\n' in two.text(back))
    gate.let_go()
    two.until(lambda: 'execute_result' in two.kinds(back))
    assert two.text(back).endswith('one\ntwo\n42\n') and session.execute('x').result == {'text/plain': '42'}

    running = two.type('%%erp5 --noblock\n' + gate.held('print("three")'))
    gate.begun()
    again = two.start('%erp5_result')
    two.until(lambda: 'three\n' in two.text(again))
    two.manager.interrupt_kernel()
    two.until(lambda: 'error' in two.kinds(again))
    assert next(message['content']['ename'] for message in two.shown[again] if message['msg_type'] == 'error') == 'KeyboardInterrupt'
    assert 'three\n' in two.text(running) and session.history(limit=1)[0]['ename'] == 'KeyboardInterrupt'
