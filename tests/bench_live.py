"""How soon a line is on the screen, how soon Stop gives the prompt back, and what the thread that sees to it costs.

    python -m pytest -m bench -s tests/bench_live.py

A line's time is from when the remote cell prints it to when the front end has it: the message of a real kernel on its iopub channel,
or the characters of a real terminal. All of it is on one machine, with one clock.
"""

import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import running
from IPython.core.interactiveshell import InteractiveShell
from test_live import LOAD, Kernel, Terminal, texts

from ipython_erp5.display import Display
from ipython_erp5.session import Session

LINES, STOPS, CELLS = 25, 12, 400
LINE = '# erp5\nfor _ in range({}):\n    print("at", time.time(), "here")\n    time.sleep(.23)'
LINE_LIMIT, STOP_LIMIT = .2, 1.0   # seconds
KINDS = ('time.sleep(60)', 'while True: pass', '__import__("subprocess").run(["sleep", "60"])')

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300), pytest.mark.filterwarnings('default')]


@pytest.fixture(scope='module')
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with running(tmp_path_factory.mktemp('bench')) as node:
        yield {**node.environment(), 'IPYTHONDIR': str(tmp_path_factory.mktemp('ipython')), 'ERP5_REFERENCE': 'bench'}


@pytest.fixture(scope='module')
def kernel(environment: dict[str, str]) -> Iterator[Kernel]:
    kernel = Kernel(environment)
    try:
        kernel.run(LOAD)
        kernel.run('# erp5\nimport time')
        yield kernel
    finally:
        kernel.close()


def report(what: str, seconds: list[float], limit: float) -> None:
    print(f'\n{what}: median {1000 * statistics.median(seconds):.0f} ms, worst of {len(seconds)} {1000 * max(seconds):.0f} ms')
    assert max(seconds) < limit


def test_a_line_in_a_kernel(kernel: Kernel) -> None:
    asked, found = kernel.send(LINE.format(LINES)), list[float]()
    while len(found) < LINES:
        text = texts([kernel.client.get_iopub_msg(timeout=30)])
        found += [time.time() - float(printed) for printed in re.findall(r'at (\S+) here', text)]
    assert kernel.reply(asked) == ('ok', '')
    report('a line, in a kernel', found, LINE_LIMIT)


def test_a_line_in_a_terminal(environment: dict[str, str]) -> None:
    terminal, found = Terminal(environment), list[float]()
    terminal.run(LOAD)
    terminal.run('# erp5\nimport time')
    terminal.begin(LINE.format(LINES))
    while len(found) < LINES:
        terminal.expect(r'at (\d+\.\d+) here\r\n')
        found.append(time.time() - float(terminal.child.match.group(1)))
    terminal.child.close(force=True)
    report('a line, in a terminal', found, LINE_LIMIT)


def test_stop(kernel: Kernel) -> None:
    found = []
    for number in range(STOPS):
        asked = kernel.send(f'# erp5\nprint("begun")\n{KINDS[number % len(KINDS)]}')
        kernel.shows(asked, 'begun')
        time.sleep(.1)
        pressed = time.perf_counter()
        kernel.press()
        assert kernel.reply(asked) == ('error', 'KeyboardInterrupt')
        found.append(time.perf_counter() - pressed)
        kernel.end(asked)
    report('stop, to the reply of the kernel', found, STOP_LIMIT)


def test_what_progress_costs_a_trivial_cell(tmp_path: Path) -> None:
    """Cells with and without it, in turn; the quarter that others on the machine have disturbed least."""
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    with running(tmp_path / 'node') as node, node.session() as session:
        times = cells(shell, session)
    InteractiveShell.clear_instance()
    ratio = times['with'] / times['without']
    print(f"\na trivial cell: {1000 * times['with']:.2f} ms with progress, {1000 * times['without']:.2f} ms without, ratio {ratio:.3f}")
    assert ratio < 1.1


def cells(shell: InteractiveShell, session: Session) -> dict[str, float]:
    times: dict[str, list[float]] = {'with': [], 'without': []}
    for number in range(CELLS):
        for how in times:
            display = Display(shell, 0, 2.0 if how == 'with' else 0)
            began = time.perf_counter()
            if how == 'with':
                with display:
                    session.execute('counter = 1', on_message=display.take)
            else:
                session.execute('counter = 1', on_message=display.take)
            if number > CELLS // 4:
                times[how].append(time.perf_counter() - began)
    return {how: statistics.quantiles(found)[0] for how, found in times.items()}
