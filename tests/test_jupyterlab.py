"""JupyterLab in a real browser: what a person does there, done by a program, with the remote cells of a real node.

    test ─► chromedriver ─► chromium ─► JupyterLab ─► a kernel, this interpreter ─► ipython_erp5 ─► node
                               └─► a screenshot of each step, in $ERP5_SCREENSHOTS or pytest's folder

One JupyterLab and one browser for the file; a notebook and a kernel for each test. What a test waits for is what can be seen, and
where it matters that a cell still runs, the cell waits for a file that the test writes then. The tests need chromium and
chromium-driver, as Debian calls them, and fail without.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
import pytest
import requests
from conftest import Node
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

LOAD = '%load_ext ipython_erp5'
KERNEL = 'of-the-tests'
START = 60.0   # seconds
PATIENCE = 60.0

# No questions at the start, nothing that asks the network, all cells in the page at once.
SETTINGS = {
    'apputils-extension/notification': {'fetchNews': 'false', 'checkForUpdates': False, 'doNotDisturbMode': True},
    'notebook-extension/tracker': {'windowingMode': 'none', 'autoStartDefaultKernel': True},
    'docmanager-extension/plugin': {'autosave': False},
}
OPTIONS = ['--no-browser', '--allow-root', '--ServerApp.ip=127.0.0.1', '--ServerApp.terminals_enabled=False',
           '--LabApp.expose_app_in_browser=True', '--LabApp.extension_manager=readonly',
           '--ServerApp.jpserver_extensions={"jupyter_lsp": False}']
# The only page that is visited is our own: containers seldom allow the sandbox, and have little /dev/shm.
FLAGS = ['--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--no-proxy-server', '--window-size=1280,1100', '--lang=en']

# A cell that is run before this may be forgotten by JupyterLab.
READY = """
const {context, sessionContext} = window.jupyterapp.shell.currentWidget ?? {};
const kernel = sessionContext?.session?.kernel;
return Boolean(context?.isReady && sessionContext.isReady && kernel?.connectionStatus === 'connected' && kernel.status === 'idle');
"""


# ---------------------------------------------------------------- JupyterLab
@dataclass
class Lab:
    """A running JupyterLab; `url` ends with a slash."""

    url: str
    token: str
    root: Path

    def end_kernels(self) -> None:
        """Those of the notebook of a test: its sessions are ended with them."""
        headers = {'Authorization': f'token {self.token}'}
        for session in requests.get(f'{self.url}api/sessions', headers=headers, timeout=PATIENCE).json():
            requests.delete(f'{self.url}api/sessions/{session["id"]}', headers=headers, timeout=PATIENCE).raise_for_status()


@pytest.fixture(scope='module')
def lab(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab of somebody who has a home of their own, and one kernel: this interpreter."""
    home = tmp_path_factory.mktemp('home')
    (home / 'notebooks').mkdir()
    configure(home)
    with open(home / 'lab.log', 'wb') as log:
        process = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *OPTIONS, f'--ServerApp.port={free_port()}',
                                    f'--ServerApp.root_dir={home / "notebooks"}', f'--KernelSpecManager.allowed_kernelspecs={KERNEL}',
                                    '--KernelSpecManager.ensure_native_kernel=False', f'--MultiKernelManager.default_kernel_name={KERNEL}'],
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home, env=environment(node, home))
    try:
        yield started(process, home)
    finally:
        end(process)


def configure(home: Path) -> None:
    for name, values in SETTINGS.items():
        path = home / '.jupyter' / 'lab' / 'user-settings' / '@jupyterlab' / f'{name}.jupyterlab-settings'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    spec = home / 'share' / 'kernels' / KERNEL
    spec.mkdir(parents=True)
    (spec / 'kernel.json').write_text(json.dumps({
        'argv': [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}'], 'display_name': 'Python', 'language': 'python'}))


def environment(node: Node, home: Path) -> dict[str, str]:
    mine = {name: value for name, value in node.environment().items() if not name.startswith(('JUPYTER', 'XDG_'))}
    return {**mine, 'HOME': str(home), 'IPYTHONDIR': str(home / '.ipython'), 'JUPYTER_PATH': str(home / 'share')}


def free_port() -> int:
    """JupyterLab takes another one if somebody else has this one by then, and says which."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        return int(server.getsockname()[1])


def started(process: subprocess.Popen[bytes], home: Path) -> Lab:
    """What the server says of itself once it listens."""
    description = home / '.local' / 'share' / 'jupyter' / 'runtime' / f'jpserver-{process.pid}.json'
    end_of_patience = time.monotonic() + START
    while not description.exists() or not description.read_text().endswith('}'):
        if process.poll() is not None or time.monotonic() > end_of_patience:
            raise AssertionError(f'JupyterLab did not start:\n{(home / "lab.log").read_text()}')
        time.sleep(.02)
    about = json.loads(description.read_text())
    return Lab(about['url'], about['token'], home / 'notebooks')


def end(process: subprocess.Popen[bytes]) -> None:
    """It ends its kernels. None may be left."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    process.wait(PATIENCE)
    _, left = psutil.wait_procs(children, PATIENCE)
    assert left == [], 'what JupyterLab has started outlived it'


# ---------------------------------------------------------------- the browser
def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f'expected the program {name} in the PATH, found none: apt-get install chromium chromium-driver', pytrace=False)
    return found


@pytest.fixture(scope='module')
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    home = tmp_path_factory.mktemp('browser')
    options = webdriver.ChromeOptions()
    options.binary_location = program('chromium')
    for flag in [*FLAGS, f'--user-data-dir={home / "profile"}']:
        options.add_argument(flag)
    service = webdriver.ChromeService(program('chromedriver'), env={**os.environ, 'HOME': str(home)})
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


@dataclass
class Book:
    """A notebook in the browser. Cells count from 0."""

    browser: webdriver.Chrome
    screenshots: Path
    name: str

    def cell(self, number: int) -> WebElement:
        return self.browser.find_elements(By.CSS_SELECTOR, '.jp-Notebook .jp-CodeCell')[number]

    def edit(self, number: int) -> None:
        """With the cursor at its end."""
        self.cell(number).find_element(By.CSS_SELECTOR, '.cm-content').click()
        self.press_control(Keys.END)

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.browser).send_keys(*keys).perform()

    def press_control(self, key: str) -> None:
        webdriver.ActionChains(self.browser).key_down(Keys.CONTROL).send_keys(key).key_up(Keys.CONTROL).perform()

    def begin(self, number: int) -> None:
        self.edit(number)
        self.press_control(Keys.ENTER)
        self.wait(lambda: self.prompt(number) != '[ ]:', f'cell {number} to begin')

    def run(self, number: int) -> str:
        """Run a cell to its end; what is shown then."""
        self.begin(number)
        self.wait(lambda: not self.busy(number) and 'stop it with' not in self.shown(number), f'cell {number} to end')
        return self.shown(number)

    def prompt(self, number: int) -> str:
        return self.cell(number).find_element(By.CSS_SELECTOR, '.jp-InputPrompt').text.strip()

    def busy(self, number: int) -> bool:
        return self.prompt(number) == '[*]:'

    def shown(self, number: int) -> str:
        return '\n'.join(filter(None, (output.text for output in self.outputs(number))))  # the line of its progress leaves an empty one

    def outputs(self, number: int) -> list[WebElement]:
        return self.cell(number).find_elements(By.CSS_SELECTOR, '.jp-OutputArea-output')

    def source(self, number: int) -> str:
        return '\n'.join(line.text for line in self.cell(number).find_elements(By.CSS_SELECTOR, '.cm-line'))

    def offered(self) -> list[str]:
        """What may be chosen after Tab."""
        return [item.text for item in self.browser.find_elements(By.CSS_SELECTOR, '.jp-Completer .jp-Completer-match') if item.text]

    def button(self, name: str) -> None:
        """Press one of the notebook's toolbar."""
        self.browser.find_element(By.CSS_SELECTOR, f'.jp-NotebookPanel-toolbar [data-jp-item-name="{name}"] jp-button').click()

    def wait(self, condition: Callable[[], object], for_what: str) -> None:
        try:
            WebDriverWait(self.browser, PATIENCE, .05).until(lambda _: condition())
        except Exception as error:
            self.photograph('failed')
            raise AssertionError(f'waited {PATIENCE:.0f} s for {for_what}; the screenshot is in {self.screenshots}') from error

    def photograph(self, step: str) -> None:
        assert self.browser.save_screenshot(self.screenshots / f'{self.name}-{step}.png')


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get('ERP5_SCREENSHOTS', tmp_path)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def opened(lab: Lab, browser: webdriver.Chrome, screenshots: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Book]]:
    """Open a notebook of these cells, below one that loads the extension and connects."""
    name = request.node.name.removeprefix('test_')

    def open_book(*sources: str) -> Book:
        cells = [LOAD, f'%erp5_connect --reference {name}', *sources]
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        made.metadata.kernelspec = {'name': KERNEL, 'display_name': 'Python', 'language': 'python'}
        nbformat.write(made, lab.root / f'{name}.ipynb')
        browser.get(f'{lab.url}lab/tree/{name}.ipynb?reset&token={lab.token}')
        book = Book(browser, screenshots, name)
        book.wait(lambda: len(browser.find_elements(By.CSS_SELECTOR, '.jp-Notebook .jp-CodeCell')) == len(cells), 'the cells')
        book.wait(lambda: browser.execute_script(READY), 'the kernel')
        assert book.run(0) == ''
        assert f"reference '{name}' (new" in book.run(1)
        return book

    yield open_book
    lab.end_kernels()


# ---------------------------------------------------------------- what a person does
def test_text_tables_and_figures(opened: Callable[..., Book]) -> None:
    book = opened('# erp5\nprices = {"tea": 4.2, "coffee": 7.9}\nprint("two prices")\nmax(prices, key=prices.get)',
                  '# erp5\nimport pandas as pd\npd.DataFrame(prices.items(), columns=["drink", "price"])',
                  '# erp5\nimport matplotlib.pyplot as plt\nplt.bar(prices.keys(), prices.values());',
                  '"prices" in globals()')
    text, table, figure, here = range(2, 6)
    assert book.run(text) == "two prices\n'coffee'"
    book.run(table)
    drinks = [row.text for row in book.cell(table).find_elements(By.CSS_SELECTOR, 'table tbody tr')]
    assert drinks == ['0 tea 4.2', '1 coffee 7.9']
    book.run(figure)
    image, = book.cell(figure).find_elements(By.CSS_SELECTOR, '.jp-OutputArea-output img')
    book.wait(lambda: image.get_property('complete'), 'the image')
    width, height = image.get_property('naturalWidth'), image.get_property('naturalHeight')
    assert isinstance(width, int) and isinstance(height, int) and width > 300 and height > 200
    assert book.run(here) == 'False'
    book.photograph('shown')


def test_an_error_looks_like_any_error(opened: Callable[..., Book]) -> None:
    book = opened('# erp5\ndef half(n):\n    return n / 0\nhalf(1)', '# erp5\n6 * 7')
    shown = book.run(2)
    assert shown.startswith('---') and shown.endswith('ZeroDivisionError: division by zero') and 'return n / 0' in shown
    assert 'ipython_erp5/' not in shown
    assert book.outputs(2)[-1].get_attribute('data-mime-type') == 'application/vnd.jupyter.stderr'
    assert book.run(3) == '42'
    book.photograph('error')


def test_output_arrives_while_the_cell_runs(opened: Callable[..., Book], tmp_path: Path) -> None:
    go_on = tmp_path / 'go on'
    book = opened('# erp5\nimport pathlib, time',
                  f'# erp5\nprint("has begun")\nwhile not pathlib.Path({str(go_on)!r}).exists():\n    time.sleep(.02)\nprint("goes on")')
    assert 'pathlib, time' in book.run(2)
    book.begin(3)
    book.wait(lambda: 'has begun' in book.shown(3), 'the first line')
    assert book.busy(3)
    book.photograph('running')
    book.wait(lambda: 'stop it with the stop button' in book.shown(3), 'the line that tells of its progress')
    assert book.busy(3)
    book.photograph('running for long')
    go_on.touch()
    book.wait(lambda: not book.busy(3), 'the end of the cell')
    book.wait(lambda: book.shown(3).strip() == 'has begun\ngoes on', 'the line to go')
    book.photograph('ended')


def test_the_interrupt_button_stops_the_cell(opened: Callable[..., Book]) -> None:
    book = opened('# erp5\nkept = 6\nprint("has begun")\nimport time; time.sleep(600)', '# erp5\nkept * 7')
    book.begin(2)
    book.wait(lambda: 'has begun' in book.shown(2), 'the first line')
    book.photograph('running')
    book.button('interrupt')
    book.wait(lambda: not book.busy(2), 'the prompt')
    assert 'KeyboardInterrupt' in book.shown(2) and 'time.sleep(600)' in book.shown(2)
    book.photograph('stopped')
    assert book.run(3) == '42'
    book.photograph('next')


def test_tab_completes_a_remote_name(opened: Callable[..., Book]) -> None:
    """The names are in no cell, where JupyterLab would find them by itself."""
    book = opened('# erp5\nfor drink in ["coffee", "tea"]:\n    globals()["prices_" + "of_" + drink] = len(drink)', '# erp5\nprices')
    assert book.run(2) == ''
    book.edit(3)
    book.press(Keys.TAB)
    book.wait(lambda: book.offered() == ['prices_of_coffee', 'prices_of_tea'], 'both names')
    book.photograph('offered')
    book.press(Keys.DOWN, Keys.ENTER)
    book.wait(lambda: book.source(3) == '# erp5\nprices_of_tea', 'the name in the cell')
    book.photograph('completed')
    assert book.run(3) == '3'
