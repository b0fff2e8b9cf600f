"""Completion and help by a real node: what it answers, that it never waits for a cell, and that it leaves nothing behind."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Node

from ipython_erp5.session import Session

PREPARED = '''
import numpy as np
import pandas as pd
frame = pd.DataFrame({'alpha': [1], 'beta two': [2]})
numbers = {'one': {'eleven': 1}, 'two': 2}
größe = 'text'
def helper(size, height=1, *, verbose=False):
    """What it helps with."""
    return size
class Shape:
    kind = 'shape'
    def __init__(self):
        self.edges = [1]
    @property
    def label(self):
        return 'text'
    def __getattr__(self, name):
        if name != 'made_up':
            raise AttributeError(name)
        return {'key of it': 1}
shape = Shape()
'''
SETUP = '''
def load():
    """Loads the answer."""
    return {'answer': 42, 'things': [1]}
environment.define(load, 'load')
'''


def asked(session: Session, method: str, code: str, cursor_pos: int | str | None = None, **form: str) -> dict[str, Any]:
    place = {'code': code, 'cursor_pos': str(len(code) if cursor_pos is None else cursor_pos)}
    answer = session.client.ask(f'Base_{method}Jupyter', {'reference': session.reference, **place, **form})
    assert isinstance(answer, dict)
    return answer


def answered(session: Session, method: str, code: str, cursor_pos: int | str | None = None, **form: str) -> dict[str, Any]:
    """The answer of the process, whose time is up sooner where the machine is busy."""
    found: list[dict[str, Any]] = []

    def is_answered() -> bool:
        found[:] = [asked(session, method, code, cursor_pos, **form)]
        return 'names_alone' not in found[0]['metadata']

    until(is_answered)
    return found[0]


def without_owner(answer: dict[str, Any]) -> list[str]:
    return [match.rpartition('.')[2] for match in answer['matches']]


def matches(session: Session, code: str) -> list[str]:
    """Without what stands before the last dot."""
    return without_owner(answered(session, 'complete', code))


def at_once(session: Session, code: str) -> list[str]:
    return without_owner(asked(session, 'complete', code))


@pytest.fixture(scope='module')
def shapes(node: Node) -> Iterator[Session]:
    """A notebook that these tests only look at."""
    with node.session('completing: shapes') as session:
        session.execute(PREPARED)
        session.execute(SETUP)
        yield session


# ---------------------------------------------------------------- what is answered
@pytest.mark.parametrize('code, expected', [
    ('fra', ['frame']),
    ('gr', ['größe']),
    ('x = 1 + (fra', ['frame']),
    ('frame.alph', ['alpha']),
    ('frame.alpha.cums', ['cumsum']),
    ("frame['b", ['beta two']),
    ("numbers['one']['", ['eleven']),
    ('np.arang', ['arange']),
    ('shape.edg', ['edges']),
    ('shape.edges.app', ['append']),
    ('shape.label.upp', ['upper']),
    ("shape.made_up['", ['key of it']),
    ('Shape.ki', ['kind']),
    ('helper(ver', ['verbose=']),
    ('helper(  # why\n    1,\n    ver', ['verbose=']),
    ('x = [\n  1, frame.alph', ['alpha']),
    ('answ', ['answer']),
    ('things.app', ['append']),
    ('environment.def', ['define']),
    ('context.portal_cat', ['portal_catalog']),
    ('context.portal_catalog.getResultV', ['getResultValue']),
    ('%timei', ['%timeit', '%%timeit']),
    ('import collections.ab', ['abc']),
    ('first = 1\nfra', ['frame']),
    ('nothing_like_this', []),
    ('nothing_like_this.', []),
])
def test_names_attributes_keys_and_arguments(shapes: Session, code: str, expected: list[str]) -> None:
    assert matches(shapes, code) == expected


def test_positions_count_characters(shapes: Session) -> None:
    code = '"\N{MATHEMATICAL DOUBLE-STRUCK CAPITAL A}ä" + fra + 1'
    answer = answered(shapes, 'complete', code, 10)
    assert (answer['matches'], answer['cursor_start'], answer['cursor_end'], answer['status']) == (['frame'], 7, 10, 'ok')
    for place in ('', 'x', '-1', '9' * 5000):
        assert answered(shapes, 'complete', 'fra', place)['cursor_end'] == 3


@pytest.mark.parametrize('code, kind, signature', [
    ('helpe', 'function', '(size, height=1, *, verbose=False)'),
    ('fram', 'instance', ''),
    ('Shap', 'class', '()'),
    ('shape.lab', 'property', ''),
    ('shape.edges.exte', 'function', '(iterable, /)'),
    ('loa', 'function', '()'),
    ('np.rando', 'module', ''),
    ('np.linspac', 'function', '(start, stop, num=50, endpoint=True, retstep=False, dtype=None, axis=0, *, device=None)'),
    ('finall', 'keyword', ''),
    ('environment.unde', 'function', '(alias: str, /) -> None'),
    ('context.portal_catalog.uncat', 'function', ''),
])
def test_matches_come_with_type_and_signature(shapes: Session, code: str, kind: str, signature: str) -> None:
    entries = answered(shapes, 'complete', code)['metadata']['_jupyter_types_experimental']
    assert entries[0]['type'] == kind
    assert entries[0]['signature'] == signature or not signature


def test_help_is_what_ipython_shows(shapes: Session) -> None:
    answer = answered(shapes, 'inspect', 'helper(1)', 3, detail_level='0')
    assert answer['found'] is True and answer['status'] == 'ok' and list(answer['data']) == ['text/plain']
    assert 'What it helps with.' in answer['data']['text/plain'] and 'return' not in answer['data']['text/plain']
    assert 'return' in answered(shapes, 'inspect', 'helper(1)', 3, detail_level='1')['data']['text/plain']
    assert 'Loads the answer' in answered(shapes, 'inspect', 'load')['data']['text/plain']
    assert answered(shapes, 'inspect', 'unknown_name') == {'status': 'ok', 'found': False, 'data': {}, 'metadata': {}}


def test_a_notebook_that_does_not_exist_is_a_404(node: Node) -> None:
    with node.session('completing: never made') as session:
        for method in ('complete', 'inspect'):
            response = session.client.post(f'Base_{method}Jupyter', {'reference': session.reference, 'code': 'x'})
            assert (response.status_code, response.json()) == (404, {'error': 'no notebook has this reference'})


# ---------------------------------------------------------------- the last commit
def test_it_is_the_last_commit_that_is_asked(session: Session) -> None:
    session.execute('number_one = 1')
    assert matches(session, 'number_') == ['number_one']
    session.execute("number_two = 'text'; del number_one")
    assert matches(session, 'number_') == ['number_two'] and matches(session, 'number_two.upp') == ['upper']
    session.execute('number_two = [1]')
    assert matches(session, 'number_two.upp') == [] and matches(session, 'number_two.appe') == ['append']


def test_a_variable_wins_over_the_environment_until_it_is_deleted(session: Session) -> None:
    session.execute('environment.define(word="text")')
    assert matches(session, 'word.upp') == ['upper']
    session.execute('word = [1]')
    assert matches(session, 'word.app') == ['append'] and matches(session, 'word.upp') == []
    session.execute('del word')
    assert matches(session, 'word.upp') == ['upper']


def test_ten_thousand_variables(session: Session) -> None:
    session.execute('globals().update({f"v{number:05}": number for number in range(10_000)})')
    assert matches(session, 'v0999') == [f'v0999{digit}' for digit in range(10)]
    assert matches(session, 'v09991.bit_l') == ['bit_length']


def test_a_variable_is_loaded_when_its_value_is_asked_for(session: Session, tmp_path: Path) -> None:
    mark = tmp_path / 'loaded'
    session.execute(f'''
        class Marked:
            def __getstate__(self): return {{'x': 1}}
            def __setstate__(self, state): self.__dict__ = state; open({str(mark)!r}, 'w').close()
        lazy_one = Marked(); lazy_two = Marked()'''.replace('\n        ', '\n'))
    mark.unlink(missing_ok=True)
    assert matches(session, 'lazy_') == ['lazy_one', 'lazy_two'] and matches(session, 'y = lazy_o') == ['lazy_one']
    assert not mark.exists()
    assert matches(session, 'lazy_two.') == ['x'] and mark.exists()


def test_a_cell_names_what_the_environment_provides_when_that_has_changed(session: Session) -> None:
    assert session.execute(SETUP).context['provided'] == ['answer', 'load', 'things']
    assert 'provided' not in session.execute('x = answer').context
    assert session.execute('import json').context['provided'] == ['answer', 'json', 'load', 'things']
    assert [setup['names'] for setup in session.context()['environment']] == [['load', 'answer', 'things'], ['json']]
    assert session.execute('environment.clearAll()').context['provided'] == []


# ---------------------------------------------------------------- never waits
def test_a_busy_notebook_answers(node: Node, session: Session) -> None:
    session.execute('words = ["text"]')
    running = threading.Thread(target=lambda: pytest.raises(KeyboardInterrupt, session.execute, 'import time\ntime.sleep(100)'))
    running.start()
    with node.session(session.reference) as other:
        until(lambda: any(cell['notebook'] == session.reference for cell in other.status()['running_cells']))
        assert matches(other, 'words.app') == ['append']
        assert answered(other, 'inspect', 'words')['found']
        assert running.is_alive()
        other.interrupt()
    running.join(20)
    assert not running.is_alive()


@pytest.mark.parametrize('hanging', ['time.sleep(1000)', 'os._exit(3)', 'os.kill(os.getpid(), 11)'])
def test_a_property_that_does_not_end_is_cut_off(session: Session, hanging: str) -> None:
    session.execute(f'import os, time\nclass Odd:\n    @property\n    def slow(self): {hanging}\n    near = 1\nodd = Odd()')
    assert at_once(session, 'odd.slow.') == []
    assert matches(session, 'odd.nea') == ['near']


CODE_OF_A_SETUP = '''
def load():
    import os, pathlib, time
    if os.path.exists({flag!r}):
        {then}
    with open({count!r}, 'a') as file:
        print('run', file=file)
    return {{'loaded': ['value']}}
environment.define(load, 'load')
mine = 1
'''


def define(session: Session, tmp_path: Path, then: str) -> tuple[Path, Path]:
    """A setup that does something if a file is there, and counts its runs in another."""
    flag, count = tmp_path / 'flag', tmp_path / 'count'
    session.execute(CODE_OF_A_SETUP.format(flag=str(flag), count=str(count), then=then))
    return flag, count


def test_a_setup_that_hangs_leaves_the_names(node: Node, session: Session, tmp_path: Path) -> None:
    flag, _ = define(session, tmp_path, 'time.sleep(1000)')
    flag.touch()
    assert at_once(session, 'mi') == ['mine'] and at_once(session, 'loa') == ['load', 'loaded']
    assert at_once(session, 'loaded.app') == []
    flag.unlink()
    assert session.execute('mine + 1').result == {'text/plain': '2'}


def test_a_setup_that_takes_its_time_is_waited_for_by_nobody(session: Session, tmp_path: Path) -> None:
    flag, _ = define(session, tmp_path, 'time.sleep(1.5)')
    flag.touch()
    assert at_once(session, 'loaded.app') == []
    assert matches(session, 'loaded.app') == ['append']


def test_a_setup_that_ends_its_process_leaves_the_names(session: Session, tmp_path: Path) -> None:
    flag, _ = define(session, tmp_path, 'os._exit(1)')
    flag.touch()
    assert at_once(session, 'mi') == ['mine'] and at_once(session, 'loaded.app') == []


def test_setups_run_once_as_long_as_they_are_the_same(session: Session, tmp_path: Path) -> None:
    """In each process that answers: there is another one where the machine is busy, and an answer took too long."""
    _, count = define(session, tmp_path, 'pass')

    def runs() -> int:
        return len(count.read_text().splitlines())

    def answer_without_runs() -> bool:
        before = runs()
        return [matches(session, name) for name in ('loaded.app', 'othe')] == [['append'], ['other']] and runs() == before
    session.execute('other = 1')
    before = runs()
    assert matches(session, 'loaded.app') == ['append'] and runs() >= before + 1
    until(answer_without_runs)
    session.execute('another = 1')
    until(answer_without_runs)
    session.execute('environment.define(more=1)')
    before = runs()
    assert matches(session, 'mor') == ['more'] and runs() >= before + 1
    until(answer_without_runs)


def test_a_setup_that_fails_leaves_the_others(session: Session, tmp_path: Path) -> None:
    flag, _ = define(session, tmp_path, 'raise ValueError')
    session.execute('environment.define(later="text")')
    flag.touch()
    assert matches(session, 'later.upp') == ['upper'] and 'mine' in matches(session, 'mi')


# ---------------------------------------------------------------- leaves nothing behind
def test_nothing_is_written_and_nothing_printed(node: Node, session: Session) -> None:
    session.execute('''
import os, sys, transaction
class Writer:
    @property
    def writes(self):
        print('printed by a property'); os.write(1, b'written'); os.write(2, b'written')
        context.document_module.newContent(reference='by completion')
        words.append('more')
        return self.name
    @property
    def commits(self):
        self.writes
        transaction.commit()
        return 'text'
    name = 'text'
writer, words = Writer(), []
'''.strip())
    before = session.context()
    assert matches(session, 'writer.writes.upp') == ['upper'] and matches(session, 'writer.commits.upp') == []
    assert answered(session, 'inspect', 'writer.writes')['found']
    assert session.context() == before
    reply = session.execute('[words, len(context.portal_catalog(reference="by completion"))]')
    assert reply.result == {'text/plain': '[[], 0]'} and reply.text == ''
    assert 'printed by a property' not in node.log()


def test_the_process_that_answers_runs_no_cell(node: Node) -> None:
    with node.session() as session:
        session.execute('import os')
        pids = {eval(session.execute('os.getpid()').result['text/plain']) for _ in range(3)}
        assert matches(session, 'os.getpi') == ['getpid']
        mine = {process['pid'] for process in session.status()['processes'] if process['notebook'] == session.reference}
        assert len(mine - pids) == 1
        assert {eval(session.execute('os.getpid()').result['text/plain']) for _ in range(3)}.isdisjoint(mine - pids)
    assert [fault['traceback'] for fault in node.faults()] == []


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it has not happened'
        time.sleep(.05)
