"""The stock JSON answer of a real node, and what the official ERP5 kernel does with it."""

import ast
import base64
import json
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

from conftest import Node

KEYS = {'code_result', 'print_result', 'displayhook_result', 'mime_type', 'extra_data_list', 'status', 'ename', 'evalue', 'traceback'}
Post = Callable[..., requests.Response]


@pytest.fixture
def reference(request: pytest.FixtureRequest) -> str:
    return f'stock {request.node.name}'


@pytest.fixture
def post(node: Node, reference: str) -> Post:
    """A plain form POST, as the official kernel sends it: no Accept of ours, no request_id."""
    def send(python_expression: str | None = None, method: str = 'Base_executeJupyter', **fields: Any) -> requests.Response:
        form = {'reference': reference, 'python_expression': python_expression, **fields}
        return requests.post(f'{node.url}/{method}', data=form, auth=(node.user, node.password), timeout=60)
    return send


def answer(response: requests.Response) -> dict[str, Any]:
    """The object, of which the promise of every answer holds."""
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    assert found.keys() == KEYS
    for key in ('print_result', 'displayhook_result'):
        assert isinstance(found[key]['data'], dict) and isinstance(found[key]['metadata'], dict)
    assert isinstance(found['code_result'], str) and isinstance(found['extra_data_list'], list)
    assert found['status'] in ('ok', 'error')
    if found['status'] == 'error':
        assert isinstance(found['ename'], str) and found['ename'] and isinstance(found['evalue'], str)
        assert found['traceback'] and all(isinstance(line, str) for line in found['traceback'])
    else:
        assert found['ename'] is found['evalue'] is found['traceback'] is None
    return found


SITUATIONS = {
    'nothing': ('', 'ok', ''), 'comment': ('# x', 'ok', ''), 'value': ('1 + 1', 'ok', ''), 'print': ("print('a')", 'ok', 'a\n'),
    'error': ('1 / 0', 'error', ''), 'error after print': ("print('a')\n1 / 0", 'error', 'a\n'), 'syntax': ('def (', 'error', ''),
    'return': ('return 5', 'error', ''), 'exit': ('raise SystemExit(1)', 'error', ''), 'define': ('environment.define(1)', 'error', ''),
    'unknown alias': ("environment.undefine('nothing')", 'error', ''), 'death': ('import os; os._exit(1)', 'error', ''),
    'missing module': ('import no_such_module', 'error', ''), 'recursion': ('def f(): f()\nf()', 'error', ''),
    'no text': ('class E(Exception):\n    def __str__(self): raise ValueError\nraise E', 'error', ''),
    'not saved': ('g = (i for i in [])', 'ok', None), 'import': ('import json', 'ok', None),
    'failing repr': ('class R:\n    def __repr__(self): raise ValueError("no")\nR()', 'error', ''),
    'abort': ('import transaction; transaction.abort(); 5', 'ok', None),
}


@pytest.mark.parametrize('situation', SITUATIONS)
def test_all_keys_in_every_situation(post: Post, situation: str) -> None:
    code, status, text = SITUATIONS[situation]
    found = answer(post(code))
    assert found['status'] == status
    if text is not None:
        assert found['code_result'] == text
        assert found['print_result'] == {'data': {'text/plain': text}, 'metadata': {}}
    assert answer(post('1 + 1'))['displayhook_result']['data'] == {'text/plain': '2'}


def test_a_value_is_in_the_displayhook_result_under_html_too(post: Post) -> None:
    found = answer(post("import pandas as pd\npd.DataFrame({'a': [1]})"))
    assert '<table' in found['displayhook_result']['data']['text/html']
    assert answer(post('None'))['displayhook_result']['data'] == {}


def test_figures_are_in_the_extra_data_list(post: Post) -> None:
    found = answer(post('import matplotlib.pyplot as plt\nplt.plot([1]); plt.figure(); plt.plot([2]);'))
    assert [list(extra['data'])[-1] for extra in found['extra_data_list']] and len(found['extra_data_list']) == 2
    assert all(base64.b64decode(extra['data']['image/png'])[:4] == b'\x89PNG' for extra in found['extra_data_list'])
    again = answer(post('plt.plot([1])\n1 / 0'))
    assert again['status'] == 'error' and len(again['extra_data_list']) == 1


def test_html_is_text_under_its_own_type(post: Post) -> None:
    post("import pandas as pd\nclass Shown:\n    def _repr_html_(self): return '<b>x</b>'")
    found = answer(post('context.Base_renderAsHtml(Shown())'))
    assert found['mime_type'] == 'text/html' and found['code_result'] == '<b>x</b><br />'
    assert found['print_result']['data'] == {'text/html': '<b>x</b><br />'}
    assert '<img src="data:image/png;base64,' in answer(
        post('import matplotlib.pyplot as plt\nplt.plot([1]); context.Base_renderAsHtml(plt.gcf()); plt.close()'))['code_result']


def test_a_warning_about_what_was_not_saved_is_printed(post: Post) -> None:
    assert 'Cannot serialize the variable named g' in answer(post('g = (i for i in [])'))['code_result']
    found = answer(post('g'))
    assert found['ename'] == 'NotSavedError' and 'was not saved' in found['evalue']


def test_variables_are_there_for_the_next_cell_and_environment_calls_act(post: Post) -> None:
    answer(post('a = [1]\nenvironment.define(x=5)'))
    assert answer(post('a, x'))['displayhook_result']['data']['text/plain'] == '([1], 5)'


# ---------------------------------------------------------------- odd requests
def test_get_is_answered_as_well(node: Node, reference: str) -> None:
    query = urllib.parse.urlencode({'python_expression': "print('ü')", 'reference': reference})
    response = requests.get(f'{node.url}/Base_executeJupyter?{query}', auth=(node.user, node.password), timeout=60)
    assert answer(response)['code_result'] == 'ü\n'


def test_unknown_fields_are_ignored_and_missing_code_is_an_empty_cell(post: Post) -> None:
    assert answer(post('1', title='t', whatever='x', Base='y', __ac_name='z'))['status'] == 'ok'
    assert answer(post())['status'] == 'ok'
    assert answer(post('2', title=''))['displayhook_result']['data'] == {'text/plain': '2'}


@pytest.mark.parametrize('missing', ['', ' ', None], ids=repr)
def test_without_a_reference_there_is_a_plain_text(post: Post, missing: str | None) -> None:
    response = post('1', reference=missing)
    assert (response.status_code, response.text) == (200, 'Please set or use reference for the notebook you want to use')


def test_whether_a_reference_exists(post: Post) -> None:
    before = post(method='Base_checkExistingReference')
    assert (before.status_code, before.content) == (204, b'')
    answer(post('1'))
    after = post(method='Base_checkExistingReference')
    assert (after.status_code, after.text) == (200, 'True')


def test_the_list_of_notebooks_is_pythons_repr(post: Post, reference: str) -> None:
    answer(post('1', title='A title'))
    response = post(request_reference='True')
    assert response.status_code == 200
    assert {'reference': reference, 'title': 'A title'} in ast.literal_eval(response.text)
    assert answer(post('1', request_reference='False'))['status'] == 'ok'


def test_the_title_counts_when_the_notebook_is_made(post: Post, reference: str) -> None:
    answer(post('1', title='first'))
    answer(post('1', title='second'))
    assert {'reference': reference, 'title': 'first'} in ast.literal_eval(post(request_reference='True').text)


@pytest.mark.parametrize(('store_history', 'lines'), [('True', 2), ('False', 1), ('', 2)])
def test_store_history(post: Post, reference: str, store_history: str, lines: int) -> None:
    answer(post('1', store_history=store_history))
    answer(post('1'))
    found = answer(post(f'len(context.data_notebook_module.find({reference!r}).contentValues())'))
    assert found['displayhook_result']['data'] == {'text/plain': str(lines)}


def test_any_object_of_the_site_may_be_asked(node: Node, post: Post, reference: str) -> None:
    form = {'python_expression': '1', 'reference': reference}
    response = requests.post(f'{node.url}/data_notebook_module/Base_executeJupyter', data=form, auth=(node.user, node.password), timeout=60)
    assert answer(response)['displayhook_result']['data'] == {'text/plain': '1'}


# ---------------------------------------------------------------- what the official kernel does
@dataclass
class OfficialKernel:
    """The behaviour of ERP5kernel.py (facts of the protocol): what it sends, which keys it cannot do without, what it publishes."""

    url: str
    user: str
    password: str
    reference: str = ''
    title: str = ''
    status_code: int = 0
    published: list[tuple[str, Any]] = field(default_factory=list)
    sent: int = 0

    def request(self, code: str | None = None, request_reference: bool = False, store_history: bool | None = None) -> requests.Response:
        self.sent += 1
        form = {'python_expression': code, 'reference': self.reference, 'title': self.title or None,
                'request_reference': request_reference, 'store_history': store_history}
        response = requests.post(self.url, data=form, auth=(self.user, self.password), timeout=60)
        self.status_code = response.status_code
        return response

    def existing_reference(self, reference: str) -> bool:
        url = self.url.rsplit('/', 1)[0] + '/Base_checkExistingReference'
        return bool(requests.post(url, data={'reference': reference}, auth=(self.user, self.password), timeout=60).content)

    def set_reference(self, reference: str) -> None:
        if self.existing_reference(reference):
            self.published.append(('stream', f'WARNING: You already have a notebook with reference {reference}.'))
        self.reference = reference
        self.request()

    def execute(self, code: str) -> str:
        """The status of the cell."""
        response = self.request(code)
        if 500 <= response.status_code <= 510:
            self.request(code)
            self.published.append(('stream', 'Error at Server Side'))
            return 'error'
        try:
            content = json.loads(response.content)
        except ValueError:
            self.published.append(('stream', response.text))
            return 'ok'
        content['code_result'], content['mime_type']  # a KeyError if they are missing
        if content['status'] == 'error':
            self.published.append(('error', (content['ename'], content['evalue'], content['traceback'])))
            return 'error'
        self.published.append(('display_data', content['print_result']))
        if content['displayhook_result']['data']:
            self.published.append(('execute_result', content['displayhook_result']))
        for extra in content.get('extra_data_list', []):
            self.published.append(('display_data', extra))
        return 'ok'


@pytest.fixture
def kernel(node: Node, reference: str) -> OfficialKernel:
    kernel = OfficialKernel(f'{node.url}/Base_executeJupyter', node.user, node.password)
    kernel.set_reference(reference)
    return kernel


def test_the_official_kernel_works_unchanged(kernel: OfficialKernel, reference: str) -> None:
    assert kernel.published == [] and kernel.status_code == 200
    assert kernel.execute("a = 5\nprint('hello')\na") == 'ok'
    assert kernel.published == [('display_data', {'data': {'text/plain': 'hello\n'}, 'metadata': {}}),
                                ('execute_result', {'data': {'text/plain': '5'}, 'metadata': {}})]
    assert kernel.execute('import matplotlib.pyplot as plt\nplt.plot([a]);') == 'ok'
    assert 'image/png' in kernel.published[-1][1]['data']
    kernel.set_reference(reference)
    assert kernel.published[-1] == ('stream', f'WARNING: You already have a notebook with reference {reference}.')


@pytest.mark.parametrize('situation', SITUATIONS)
def test_the_official_kernel_never_sends_a_cell_twice(kernel: OfficialKernel, situation: str) -> None:
    before = kernel.sent
    kernel.execute(SITUATIONS[situation][0])
    assert kernel.sent == before + 1
    assert ('stream', 'Error at Server Side') not in kernel.published


def test_the_official_kernel_shows_an_error(kernel: OfficialKernel) -> None:
    assert kernel.execute('1 / 0') == 'error'
    kind, (ename, evalue, traceback) = kernel.published[-1]
    assert (kind, ename, evalue) == ('error', 'ZeroDivisionError', 'division by zero')
    assert 'ipython_erp5' not in ''.join(traceback) and '1' in ''.join(traceback)


def test_the_official_kernel_with_a_wrong_password(node: Node) -> None:
    kernel = OfficialKernel(f'{node.url}/Base_executeJupyter', node.user, 'wrong')
    kernel.set_reference('x')
    assert kernel.status_code == 401
