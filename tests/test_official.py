"""The magics of ERP5's own kernel: its example cells, shown by that kernel's rules and in a notebook below `%load_ext ipython_erp5`;
what is asked of a site and when; and a typed password, in all places where IPython keeps what was typed.

    cells ─► OfficialKernel (test_stock) ─► what that kernel shows ─┐
          └► python3 kernel, nbclient ────► outputs ────────────────┴─► the same
"""

import base64
import json
import linecache
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from conftest import Node
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from scripted_site import Site, each, http, site, streamed
from test_stock import OfficialKernel
from traitlets.config import Config

from ipython_erp5 import credentials, errors
from ipython_erp5.masking import MASK, masked
from ipython_erp5.mode import mode_of

Type = Callable[[str], ExecutionResult]
SECRET = 'corr3ct-h0rse'

# What ERP5's documentation shows, and the situations of its tests.
CELLS = {
    'the portal': 'context',
    'a print and a value': "print('hello')\n1 + 1",
    'imports': 'import numpy as np\nimport os.path, json',
    'their use': "np.arange(3).sum(), os.path.basename('/a/b'), json.dumps([1])",
    'an import from': 'from string import digits as d',
    'its use': 'd',
    'a variable': 'a = [1, 2]',
    'a change': 'a.append(3)\na',
    'a setup': 'def load():\n    import math\n    return {"tau": 2 * math.pi}\nenvironment.define(load, "tau setup")',
    'what it gives': 'round(tau, 3)',
    'values of the environment': "environment.define(x=5, y='six')",
    'their names': 'x, y',
    'the setups': 'environment.showSetup()',
    'a setup removed': "environment.undefine('tau setup')",
    'an unknown alias': "environment.undefine('nothing')",
    'a wrong call': 'environment.define(1)',
    'all removed': 'environment.clearAll()',
    'no setups': 'environment.showSetup()',
    'pandas': 'import pandas as pd',
    'a table': "pd.DataFrame({'a': [1, 2]})",
    'a table as HTML': "context.Base_renderAsHtml(pd.DataFrame({'a': [1, 2]}))",
    'matplotlib': 'import matplotlib.pyplot as plt',
    'a figure': 'plt.plot([1, 2, 3])',
    'a figure, shown': 'plt.plot([1])\nplt.show()',
    'a figure as HTML': 'figure, axes = plt.subplots()\naxes.plot([1])\ncontext.Base_renderAsHtml(figure)',
    'an image kept': "plt.plot([1])\nimage = context.Base_saveImage(plot=plt, reference='shot')",
    'an image without a reference': 'context.Base_saveImage(plot=plt)',
    'the catalog': "len(context.portal_catalog(portal_type='Image')) > 0",
    'an error': '1 / 0',
    'the variable after it': 'a',
    'a syntax error': 'def (',
    'no code': '# nothing',
    'several lines': 'for i in range(2):\n    print(i)\n\ni',
    'no module': 'import no_such_module',
    'what cannot be kept': 'g = (i for i in a)',
    'what was not kept': 'g',
}


def cells_of_a_user(node: Node, reference: str) -> list[str]:
    """How a notebook of the official kernel begins."""
    return [f'%erp5_user {node.user}', f'%erp5_password {node.password}', f'%erp5_url {node.url}/Base_executeJupyter',
            '%notebook_set_title The official notebook', f'%notebook_set_reference {reference}']


@pytest.fixture(scope='module')
def official(node: Node) -> dict[str, Any]:
    """What the official kernel shows, by the name of the cell."""
    kernel = OfficialKernel(f'{node.url}/Base_executeJupyter', node.user, node.password)
    kernel.set_reference('of the official kernel')
    found = {}
    for name, cell in CELLS.items():
        kernel.published.clear()
        kernel.execute(cell)
        found[name] = [shown_by_kernel(kind, content) for kind, content in kernel.published]
    return found


def shown_by_kernel(kind: str, content: Any) -> dict[str, Any]:
    if kind == 'error':
        return {'error': content[0], 'evalue': content[1]}
    data = content['data'] if kind != 'stream' else {'text/plain': content}
    return {kind: data} if kind == 'execute_result' or 'image/png' in data or 'text/html' in data else {'text': data['text/plain']}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the kernel, and where it runs."""
    return tmp_path_factory.mktemp('official')


@pytest.fixture(scope='module')
def book(node: Node, folder: Path) -> nbformat.NotebookNode:
    """The notebook, which gained one cell, executed; the notebook is new there."""
    first, last = cells_of_a_user(node, 'standard and other words'), ['%my_notebooks', '%notebook_set_reference standard', '%erp5_user']
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in
                                           ['%load_ext ipython_erp5', *first, *CELLS.values(), *last]])
    book.metadata.kernelspec = {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('HOME', str(folder))
        patch.setenv('IPYTHONDIR', str(folder / 'ipython'))
        patch.setenv('PYTHONPATH', str(Path(__file__).parent.parent))
        nbclient.NotebookClient(book, timeout=60, allow_errors=True, resources={'metadata': {'path': str(folder)}}).execute()
    return book


@pytest.fixture(scope='module')
def standard(book: nbformat.NotebookNode) -> dict[str, Any]:
    """What the notebook shows, by the name of the cell."""
    return {name: [shown_by_notebook(output) for output in cell.outputs] for name, cell in zip(CELLS, book.cells[6:])}


def shown_by_notebook(output: nbformat.NotebookNode) -> dict[str, Any]:
    if output.output_type == 'error':
        return {'error': output.ename, 'evalue': output.evalue}
    return {'text': output.text} if output.output_type == 'stream' else {output.output_type: dict(output.data)}


def comparable(shown: list[dict[str, Any]]) -> list[Any]:
    """What a person sees: the text, the HTML, how many figures, the value, the error."""
    text = ''.join(part.get('text', '') for part in shown)
    data = [part.get('display_data') or {} for part in shown]
    markup = [re.sub(r'base64,[^"]*', 'base64,…', part['text/html']).removesuffix('<br />') for part in data if 'text/html' in part]
    figures = sum('image/png' in part for part in data)
    values = [part['execute_result'] for part in shown if 'execute_result' in part]
    problems = [(part['error'], re.sub(r'cell \d+', 'cell N', part['evalue'])) for part in shown if 'error' in part]
    return [re.sub(r'(line \d+ of cell) \d+', r'\1 N', text), markup, figures, re.sub('0x[0-9a-f]+', '0x…', repr(values)), problems]


NOT_KEPT = 'what cannot be kept'


@pytest.mark.filterwarnings('ignore:Kernel is running over TCP')
@pytest.mark.parametrize('name', [name for name in CELLS if name != NOT_KEPT])
def test_a_cell_shows_what_it_shows_in_the_official_kernel(official: dict[str, Any], standard: dict[str, Any], name: str) -> None:
    assert comparable(standard[name]) == comparable(official[name])


def test_the_example_cells_show_something_of_every_kind(official: dict[str, Any]) -> None:
    shown = [comparable(parts) for parts in official.values()]
    assert all(any(parts[i] not in ('', [], 0, '[]') for parts in shown) for i in range(5))
    assert 'WARNING: You imported from the modules numpy, os.path, json without using' in comparable(official['imports'])[0]


def test_what_cannot_be_kept_is_named_by_both(official: dict[str, Any], standard: dict[str, Any]) -> None:
    there, here = comparable(official[NOT_KEPT])[0], comparable(standard[NOT_KEPT])[0]
    assert 'Cannot serialize the variable named g' in there and 'Not saved: 1 of' in here
    assert all("environment.define(load_g, 'g')" in text for text in (there, here))


def test_what_the_magics_say(book: nbformat.NotebookNode, node: Node) -> None:
    told = [''.join(output.text for output in cell.outputs if output.name == 'stdout') for cell in book.cells[:6]]
    remaining = 'You have these required magics remaining: {}. \n'.format
    endpoint = f'{node.url}/Base_executeJupyter'
    assert told == ['', f'Your erp5_user is {node.user}. \n' + remaining('erp5_url, erp5_password, notebook_set_reference'),
                    remaining('erp5_url, notebook_set_reference'),
                    f'Your erp5_url is {endpoint}. \n' + remaining('notebook_set_reference'),
                    'Your notebook_set_title is The official notebook. \n' + remaining('notebook_set_reference'),
                    'Your notebook_set_reference is standard. \nYou have entered all required magics. You may now use your notebook.\n']
    listing, again, empty = (cell.outputs[0].text for cell in book.cells[-3:])
    assert "{'reference': 'standard', 'title': 'The official notebook'}" in listing
    assert again.startswith('WARNING: You already have a notebook with reference standard. ')
    assert 'Your notebook_set_reference is standard. ' in again
    assert empty == 'Empty value for erp5_user magic\n'


def test_the_password_is_in_no_output_and_no_file_of_the_kernel(book: nbformat.NotebookNode, node: Node, folder: Path) -> None:
    files = [path for path in folder.rglob('*') if path.is_file()]
    assert files and [path for path in files if node.password.encode() in path.read_bytes()] == []
    assert node.password not in json.dumps([cell.get('outputs') for cell in book.cells])
    note, = (output.text for output in book.cells[2].outputs if output.name == 'stderr')
    assert note.count('\n') == 1 and 'the file of a notebook still has it' in note and 'ERP5_PASSWORD_FILE' in note


def test_the_history_has_a_line_for_each_cell_and_none_besides(book: nbformat.NotebookNode, node: Node) -> None:
    with node.session('standard') as session:
        count = session.execute("len(context.data_notebook_module.find('standard').contentValues())", store_history=False).result
    assert count == {'text/plain': str(len([cell for cell in CELLS.values() if not cell.startswith('#')]))}


# ---------------------------------------------------------------- what is asked of a site, and when
@pytest.fixture
def shell(tmp_path: Path) -> Iterator[InteractiveShell]:
    """With a history of its own."""
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config(HistoryManager={'hist_file': str(tmp_path / 'history.sqlite')}), colors='nocolor')
    shell.run_line_magic('load_ext', 'ipython_erp5')
    yield shell
    assert shell.history_manager is not None
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()


@pytest.fixture
def typed(shell: InteractiveShell) -> Type:
    return lambda cell: shell.run_cell(cell, store_history=True)


@pytest.fixture
def said(typed: Type, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The last thing that cells print; they raise nothing."""
    def run(*cells: str) -> str:
        for cell in cells:
            capsys.readouterr()
            typed(cell).raise_error()
        return str(capsys.readouterr().out)
    return run


def scripted(known: str = 'False', **answers: Any) -> Any:
    return site(**{'Base_checkExistingReference': each([http(known)]), 'Base_executeJupyter': [streamed()],
                   'Base_getJupyterStatus': each([http({'node': 'n'})]), 'Base_getJupyterContext': each([http({})]), **answers})


def methods(served: Site) -> list[str]:
    return [request.method for request in served.received if request.method in ('Base_checkExistingReference', 'Base_executeJupyter')]


def connect(said: Callable[..., str], served: Site) -> str:
    return said(f'%erp5_url {served.url}', '%erp5_user ana', f'%erp5_password {SECRET}', '%notebook_set_reference sales')


def test_nothing_is_sent_before_all_is_known_and_no_cell_without_code_after_that(said: Callable[..., str]) -> None:
    with scripted() as served:
        said(f'%erp5_url {served.url}', '%erp5_user ana', f'%erp5_password {SECRET}')
        assert served.received == []
        assert said('%notebook_set_reference sales').endswith('You may now use your notebook.\n')
        assert methods(served) == ['Base_checkExistingReference']
        said('%erp5_user ana', f'%erp5_url {served.url}', f'%erp5_password {SECRET}', '%notebook_set_title T')
        assert methods(served) == ['Base_checkExistingReference']
        said('x = 1')
    sent = served.received[-1]
    assert sent.form['python_expression'] == 'x = 1\n' and (sent.form['reference'], sent.form['title']) == ('sales', 'T')


@pytest.mark.parametrize('magics, missing', [
    (['%erp5_user ana'], '%erp5_url, %erp5_password, %notebook_set_reference'),
    (['%notebook_set_reference sales', '%erp5_url http://127.0.0.1:9'], '%erp5_user, %erp5_password'),
    (['%notebook_set_title T'], '%erp5_url, %erp5_user, %erp5_password, %notebook_set_reference')])
def test_a_cell_before_that_is_refused_and_runs_nowhere(typed: Type, shell: InteractiveShell, magics: list[str], missing: str) -> None:
    for magic in magics:
        typed(magic).raise_error()
    for cell in ('x = 1', '# erp5\nx = 1', '%erp5 1', '%my_notebooks'):
        with pytest.raises(errors.UnauthorizedError, match=f'^Unauthorized access: nothing was run. Missing: {missing}$'):
            typed(cell).raise_error()
    typed('# local\ny = 1').raise_error()
    assert 'x' not in shell.user_ns and shell.user_ns['y'] == 1


def test_without_any_of_them_cells_run_here(typed: Type, shell: InteractiveShell) -> None:
    typed('x = 1').raise_error()
    assert shell.user_ns['x'] == 1 and not mode_of(shell).remote


def test_a_refused_user_is_an_error_and_no_cell_goes_anywhere_else(typed: Type, said: Callable[..., str]) -> None:
    with scripted(Base_checkExistingReference=[[http('', '401 Unauthorized')], [http('', '401 Unauthorized')], [http('False')]]) as served:
        said(f'%erp5_url {served.url}', '%erp5_user ana', '%notebook_set_reference sales')
        error = typed(f'%erp5_password {SECRET}').error_in_exec
        assert isinstance(error, errors.UnauthorizedError) and SECRET not in str(error)
        with pytest.raises(errors.UnauthorizedError, match='The connection failed'):
            typed('x = 1').raise_error()
        assert 'Base_executeJupyter' not in methods(served)
        while typed(f'%erp5_password {SECRET}2').error_in_exec is not None:
            assert served.count('Base_checkExistingReference') < 4
        said('x = 1')
    assert methods(served)[-1] == 'Base_executeJupyter'


def test_another_reference_is_another_notebook(said: Callable[..., str]) -> None:
    with scripted('True') as served:
        assert connect(said, served).startswith('WARNING: You already have a notebook with reference sales.')
        said('%notebook_set_reference other', 'x = 1')
    assert served.received[-1].form['reference'] == 'other'


@pytest.mark.parametrize('magic', ['%erp5_user bob', '%erp5_url http://127.0.0.1:9/erp5'])
def test_a_password_is_for_one_site_and_one_user(said: Callable[..., str], magic: str) -> None:
    with scripted() as served:
        connect(said, served)
        assert said(magic).endswith('You have these required magics remaining: erp5_password. \n')
        assert methods(served) == ['Base_checkExistingReference']


def test_what_the_magics_do_not_say_is_known_elsewhere(said: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted() as served:
        for name, value in (('ERP5_URL', served.url), ('ERP5_USER', 'ana'), ('ERP5_PASSWORD', SECRET)):
            monkeypatch.setenv(name, value)
        assert said('%notebook_set_reference sales').endswith('You may now use your notebook.\n')
        assert served.received[0].form['reference'] == 'sales'


def test_a_session_of_ours_is_given_another_notebook(said: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ERP5_PASSWORD', SECRET)
    with scripted() as served:
        said(f'%erp5_connect {served.url} --user ana --reference first', '%notebook_set_reference second', 'x = 1')
        assert served.received[-1].form['reference'] == 'second'
        monkeypatch.delenv('ERP5_PASSWORD')
        assert said('%erp5_user bob').endswith('remaining: erp5_password. \n')
        said(f'%erp5_password {SECRET}', 'x = 1')
    authorization = served.received[-1].headers['authorization'].partition(' ')[2]
    assert base64.b64decode(authorization).decode() == f'bob:{SECRET}'


def test_what_no_site_can_be_is_refused_at_once(typed: Type, shell: InteractiveShell) -> None:
    for url, message in (('http://erp5.example.com/erp5', r'not encrypted.*%config ERP5Magics.insecure = True'),
                         ('ftp://x', 'expected the URL'), (f'https://ana:{SECRET}@host/erp5', 'a user or password in a URL')):
        with pytest.raises(errors.TargetError, match=message) as raised:
            typed(f'%erp5_url {url}').raise_error()
        assert SECRET not in str(raised.value)
    assert mode_of(shell).given == {} and SECRET not in repr([shell.user_ns['In'], shell.user_ns['_i1'], shell.user_ns['_i']])


def test_a_reload_keeps_what_was_given_and_an_unload_does_not(typed: Type, said: Callable[..., str], shell: InteractiveShell) -> None:
    said('%erp5_user ana', '%reload_ext ipython_erp5')
    assert said('%notebook_set_reference r').endswith('remaining: erp5_url, erp5_password. \n')
    said('%unload_ext ipython_erp5', 'x = 1', '%load_ext ipython_erp5', 'y = x')
    assert shell.user_ns['y'] == 1 and mode_of(shell).given == {}


# ---------------------------------------------------------------- a typed password
def test_a_typed_password_is_in_nothing_that_was_kept(said: Callable[..., str], shell: InteractiveShell, tmp_path: Path) -> None:
    history = shell.history_manager
    assert history is not None
    linecache.clearcache()
    cells = [f'%erp5_password {SECRET}', f'# mine\n%erp5_password \\\n  {SECRET}\n%erp5_mode', f'x = %erp5_password {SECRET}',
             f'erp5_password {SECRET}', f'%erp5_password {SECRET} and more', 'y = 1']
    said('%erp5_user ana', *cells[:3], '%erp5_mode marked', *cells[3:5], '%erp5_mode marked', cells[5])
    kept = [history.input_hist_raw, history.input_hist_parsed, shell.user_ns['In'], shell.user_ns['_ih'], list(history.db_input_cache),
            {name: value for name, value in shell.user_ns.items() if name.startswith('_i')}, [history._i, history._ii, history._i00],
            [entry[2] for entry in linecache.cache.values() if len(entry) == 4 and entry[1] is None]]
    assert [place for place in kept if SECRET in repr(place)] == []
    assert f'%erp5_password {MASK}' in history.input_hist_raw and history.input_hist_raw[-1] == 'y = 1'
    history.writeout_cache()
    with sqlite3.connect(tmp_path / 'history.sqlite') as database:
        rows = [raw for raw, in database.execute('SELECT source_raw FROM history')]
    database.close()
    assert rows == history.input_hist_raw[1:] and len(rows) == 9
    assert SECRET.encode() not in (tmp_path / 'history.sqlite').read_bytes()


@pytest.mark.parametrize('line', [f'--password {SECRET}', f'--password="{SECRET}', f'https://ana:{SECRET}@erp5.example.com/erp5'])
def test_one_that_is_refused_is_in_nothing_that_was_kept_either(shell: InteractiveShell, line: str) -> None:
    with pytest.raises(errors.ERP5Error) as raised:
        shell.run_cell(f'%erp5_connect {line}', store_history=True).raise_error()
    history = shell.history_manager
    assert history is not None and SECRET not in str(raised.value)
    assert SECRET not in repr([history.input_hist_raw, history.input_hist_parsed, list(history.db_input_cache), shell.user_ns['In'],
                               shell.user_ns['_i']])
    assert history.input_hist_raw[-1] == f'%erp5_connect {MASK}'


def test_without_one_it_is_asked_for(said: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert said('%erp5_password') == 'Empty value for erp5_password magic\n'
    asked = []
    monkeypatch.setattr(credentials, 'ask', lambda prompt: asked.append(prompt) or SECRET)
    with scripted() as served:
        said(f'%erp5_url {served.url}', '%erp5_user ana', '%notebook_set_reference r')
        assert said('%erp5_password').endswith('You may now use your notebook.\n')
    assert asked == ['Password: ']


def test_it_is_in_no_error_not_even_of_a_magic_that_fails(typed: Type, capsys: pytest.CaptureFixture[str],
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(Base_checkExistingReference=each([http('', '500 Oh')])) as served:
        for cell in (f'%erp5_url {served.url}', '%erp5_user ana', '%notebook_set_reference r'):
            typed(cell).raise_error()
        capsys.readouterr()
        assert isinstance(typed(f'%erp5_password {SECRET}\n1 / 0').error_in_exec, errors.NodeError)
        typed(f'%%erp5_password {SECRET}\n')
    captured = capsys.readouterr()
    assert SECRET not in captured.out + captured.err


@pytest.mark.parametrize('mode', ['over', 'append'])
def test_it_is_not_in_the_log_of_ipython(typed: Type, tmp_path: Path, mode: str) -> None:
    typed(f'%logstart -o {tmp_path}/log.py {mode}').raise_error()
    typed(f'x = 1\n%erp5_password {SECRET}').raise_error()
    assert isinstance(typed(f'%erp5_connect http://h/erp5 --user ana:{SECRET}').error_in_exec, errors.OptionError)
    typed('# local\ny = 2').raise_error()
    log = (tmp_path / 'log.py').read_text()
    assert SECRET not in log and 'x = 1' in log and log.endswith('y = 2\n') and f'erp5_password {MASK}' in log.replace("', '", ' ')


MASKED = {
    '%erp5_password x': f'%erp5_password {MASK}', '  %erp5_password  x y\n': f'  %erp5_password {MASK}\n',
    'erp5_password x': f'erp5_password {MASK}', 'a\n%erp5_password x\nb': f'a\n%erp5_password {MASK}\nb',
    '%erp5_password x \\\n y \\\n z\nb': f'%erp5_password {MASK}\nb',
    "get_ipython().run_line_magic('erp5_password', 'x')\n": f"get_ipython().run_line_magic('erp5_password', '{MASK}')\n",
    '>>> %erp5_password x': f'>>> %erp5_password {MASK}', '%erp5_password x\r\n': f'%erp5_password {MASK}\r\n',
}


@pytest.mark.parametrize('text, expected', MASKED.items())
def test_masks(text: str, expected: str) -> None:
    assert masked(text, 'erp5_password') == expected
    assert masked(expected, 'erp5_password') == expected


@pytest.mark.parametrize('text', ['%erp5_password', '%erp5_password  \n', '# the erp5_password magic', '%erp5_passwords x', '',
                                  'x = 1 \\\n+ 2', "get_ipython().run_line_magic('erp5_password', '')"])
def test_what_has_no_password_stays(text: str) -> None:
    assert masked(text, 'erp5_password') == text
