"""`ipython-erp5 convert`: tables of (cells, converted cells), the file, what is printed, and a converted notebook on a real node."""

import json
import os
import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from conftest import Node

from ipython_erp5.cli import main
from ipython_erp5.converting import Conversion, option
from ipython_erp5.errors import ConversionError
from ipython_erp5.options import split

ERP5 = {'kernelspec': {'name': 'erp5', 'display_name': 'ERP5', 'language': 'python'}, 'authors': [{'name': 'Ana'}]}
HEAD = ['%erp5_user ana', '%erp5_password geheim', '%erp5_url https://host/erp5/Base_executeJupyter', '%notebook_set_reference sales']
CONNECTED = '%load_ext ipython_erp5\n%erp5_connect https://host/erp5 --user ana --reference sales'

CONVERTED = {
    'the usual': ([*HEAD, '1 + 1'], [CONNECTED, '# erp5\n1 + 1']),
    'a title': ([*HEAD, '%notebook_set_title Of the year', '1'], [f'{CONNECTED} --title "Of the year"', '# erp5\n1']),
    'no code': (HEAD, [CONNECTED]),
    'no magics': (['1'], ['%load_ext ipython_erp5\n%erp5_connect', '# erp5\n1']),
    'no url': (['%erp5_user ana', '1'], ['%load_ext ipython_erp5\n%erp5_connect --user ana', '# erp5\n1']),
    'an empty value': (['%erp5_user', '1'], ['%load_ext ipython_erp5\n%erp5_connect', '# erp5\n1']),
    'the first words count': ([*HEAD[:3], '%notebook_set_reference sales of 2016', '1'], [CONNECTED, '# erp5\n1']),
    'the notebooks': ([*HEAD, '%my_notebooks'], [CONNECTED, '%erp5_notebooks']),
    'mixed': (['\n'.join(HEAD) + '\nx = 1\nx'],
              [CONNECTED, '# erp5\n# %erp5_user ana\n# %erp5_password\n# %erp5_url https://host/erp5/Base_executeJupyter\n'
                          '# %notebook_set_reference sales\nx = 1\nx']),
    'all in one cell': (['\n'.join(HEAD), '1'], [CONNECTED, '# erp5\n1']),
    'another reference': ([*HEAD, '1', '%notebook_set_reference other', '%erp5_user ana', '2', '3'],
                          [CONNECTED, '# erp5\n1', '%erp5_connect https://host/erp5 --user ana --reference other', '# erp5\n2',
                           '# erp5\n3']),
    'the same reference': ([*HEAD, '1', '%notebook_set_reference sales', '2'], [CONNECTED, '# erp5\n1', '# erp5\n2']),
    'magics of others': (['%matplotlib inline\nx', '%%time\nx'],
                         ['%load_ext ipython_erp5\n%erp5_connect', '# erp5\n%matplotlib inline\nx', '# erp5\n%%time\nx']),
    'comments': (['# ERP5\nx', '# only that', ''], ['%load_ext ipython_erp5\n%erp5_connect', '# erp5\n# ERP5\nx', '# only that', '']),
    'marked already': (['# erp5: --timeout 3\nx', '%%erp5\nx'],
                       ['%load_ext ipython_erp5\n%erp5_connect', '# erp5: --timeout 3\nx', '%%erp5\nx']),
    'a magic further down': (['x = """\n%erp5_user bob\n"""'],
                             ['%load_ext ipython_erp5\n%erp5_connect', '# erp5\nx = """\n%erp5_user bob\n"""']),
}


def book(*cells: str, minor: int = 4, **metadata: Any) -> dict[str, Any]:
    rows = [{'cell_type': 'code', 'execution_count': None, 'metadata': {}, 'outputs': [], 'source': cell} for cell in cells]
    return {'cells': rows, 'metadata': {**ERP5, **metadata}, 'nbformat': 4, 'nbformat_minor': minor}


def stored(path: Path, notebook: Any) -> Path:
    path.write_text(json.dumps(notebook), encoding='utf-8')
    return path


@pytest.mark.parametrize('cells, expected', CONVERTED.values(), ids=CONVERTED.keys())
def test_cells(cells: list[str], expected: list[str]) -> None:
    converted = Conversion(book(*cells)).converted()
    assert [cell['source'] for cell in converted['cells']] == expected
    nbformat.validate(converted)


def test_what_is_not_the_kernels_stays() -> None:
    output = {'output_type': 'stream', 'name': 'stdout', 'text': ['a\n']}
    code = {'cell_type': 'code', 'id': 'mine', 'execution_count': 7, 'metadata': {'tags': ['x'], 'other': 1}, 'outputs': [output],
            'source': ['x = 1\n', 'x']}
    prose = {'cell_type': 'markdown', 'metadata': {}, 'source': ['%erp5_user ana'], 'attachments': {}}
    before = {**book(minor=4, widgets={'state': 5}), 'cells': [prose, code]}
    copy = json.loads(json.dumps(before))
    converted = Conversion(before).converted()
    assert before == copy
    assert converted['cells'][1:] == [prose, {**code, 'source': ['# erp5\n', 'x = 1\n', 'x']}]
    assert converted['metadata'] == {**ERP5, 'widgets': {'state': 5}, 'language_info': {'name': 'python'},
                                     'kernelspec': {'name': 'python3', 'display_name': 'Python 3 (ipykernel)', 'language': 'python'}}


def test_identifiers_are_added_where_the_format_wants_them() -> None:
    assert not any('id' in cell for cell in Conversion(book(*HEAD, '1', minor=4)).converted()['cells'])
    notebook = book(*HEAD, '1', '2', minor=5)
    notebook['cells'][-1]['id'] = 'erp5-1'
    converted = Conversion(notebook).converted()
    identifiers = [cell['id'] for cell in converted['cells']]
    assert len(set(identifiers)) == 3 and identifiers[-1] == 'erp5-1'
    nbformat.validate(converted)


@pytest.mark.parametrize('metadata', [
    {'kernelspec': {'name': 'erp5', 'display_name': 'x'}}, {'kernelspec': {'name': 'x', 'display_name': 'ERP5 kernel'}},
    {'kernelspec': {}, 'language_info': {'name': 'ERP5'}}])
def test_a_notebook_of_the_kernel_is_known_by_its_metadata(metadata: dict[str, Any]) -> None:
    assert Conversion(book('1', **metadata)).converted()['cells'][1]['source'] == '# erp5\n1'


def test_or_by_its_magics() -> None:
    python = {'kernelspec': {'name': 'python3', 'display_name': 'Python 3'}}
    assert len(Conversion(book('%erp5_user ana', '1', **python)).converted()['cells']) == 2
    with pytest.raises(ConversionError, match="expected a notebook of ERP5's own kernel"):
        Conversion(book('1', **python)).converted()


@pytest.mark.parametrize('value', ['sales', 'Sales of the year', "Ana's", 'the "best"', '-x', '- x', '{x} $y \\z'])
def test_an_option_is_read_back_as_it_was(value: str) -> None:
    name, _, read = '='.join(split(option('title', value))).partition('=')
    assert (name, read) == ('--title', value)


def test_an_option_that_cannot_be_written() -> None:
    with pytest.raises(ConversionError, match='both kinds of quotation marks'):
        Conversion(book('%notebook_set_title a\'b"c')).converted()


# ---------------------------------------------------------------- the command
def test_the_file_and_what_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = stored(tmp_path / 'sales.ipynb', book(*HEAD, '1', 'login("geheim")'))
    assert main(['convert', str(source)]) == 0
    out = tmp_path / 'sales-erp5.ipynb'
    first, password, left = capsys.readouterr().out.splitlines()
    assert first == f'Converted: {out}.' and f'{source} still has it' in password and 'is in cell 3' in left
    assert 'geheim' not in first + password + left
    nbformat.validate(json.loads(out.read_text(encoding='utf-8')))
    mask = os.umask(0)
    os.umask(mask)
    assert out.stat().st_mode & 0o777 == 0o666 & ~mask
    assert sorted(path.name for path in tmp_path.glob('*.ipynb')) == ['sales-erp5.ipynb', 'sales.ipynb']
    assert [path for path in tmp_path.iterdir() if path.name.startswith('.sales')] == []


def test_a_file_is_replaced_only_when_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = stored(tmp_path / 'a.ipynb', book('1')), stored(tmp_path / 'b.ipynb', 'mine')
    assert main(['convert', str(source), str(out)]) == 1
    assert 'exists already: name another file, or say --force' in capsys.readouterr().err and json.loads(out.read_text()) == 'mine'
    assert main(['convert', '--force', str(source), str(out)]) == 0
    assert len(json.loads(out.read_text())['cells']) == 2
    assert 'No cell names the site' in capsys.readouterr().out


@pytest.mark.parametrize('content, message', [
    ('{', 'expected a notebook in .*, which is JSON'), ('[]', 'it has no nbformat'),
    ('{"nbformat": 3, "worksheets": []}', 'it has 3: upgrade it'),
    ('{"nbformat": 4}', 'expected a notebook of nbformat 4'), (None, 'cannot be read: No such file')])
def test_what_is_no_notebook(tmp_path: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        (tmp_path / 'a.ipynb').write_text(content)
    assert main(['convert', str(tmp_path / 'a.ipynb')]) == 1
    error = capsys.readouterr().err
    assert error.startswith('ipython-erp5: ') and re.search(message, error)
    assert not (tmp_path / 'a-erp5.ipynb').exists()


@pytest.mark.parametrize('arguments', [['convert'], ['convert', 'a', 'b', 'c'], ['convert', 'a', '--data-dir', 'x']])
def test_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2


# ---------------------------------------------------------------- on a real node
@pytest.mark.filterwarnings('ignore:Kernel is running over TCP')
def test_the_converted_notebook_runs(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (('ERP5_PASSWORD', node.password), ('PYTHONPATH', str(Path(__file__).parent.parent))):
        monkeypatch.setenv(name, value)
    cells = [f'%erp5_url {node.url}/Base_executeJupyter', f'%erp5_user {node.user}', f'%erp5_password {node.password}',
             '%notebook_set_title A converted notebook', '%notebook_set_reference converted', 'import json\ntotal = 6 * 7',
             'print(json.dumps([total]))\ntotal', '%my_notebooks']
    source = stored(tmp_path / 'a.ipynb', book(*cells, minor=5))
    assert main(['convert', str(source)]) == 0
    converted = nbformat.read(tmp_path / 'a-erp5.ipynb', 4)
    nbclient.NotebookClient(converted, timeout=60).execute()
    head, _, shown, notebooks = converted.cells
    assert f"{node.user}@{node.url.partition('://')[2]}, reference 'converted' (new" in head.outputs[0].text
    assert [output.get('text') or output.data['text/plain'] for output in shown.outputs] == ['[42]\n', '42']
    assert 'A converted notebook' in notebooks.outputs[0].text
    assert node.password not in json.dumps(converted)
