"""`verify` finds what is damaged, says where, and finds nothing in a database that is whole while cells change it."""

import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transaction
from conftest import Node, running
from ZODB.utils import u64

from ipython_erp5 import cli
from ipython_erp5.node import cluster


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with a notebook that has something of everything, and another one."""
    with running(tmp_path_factory.mktemp('whole') / 'data') as node:
        with node.session('broken') as session:
            session.execute('import numpy as np, json; environment.define(limit=[1]); array = np.arange(300_000); other = np.arange(9)\n'
                            'class A: pass\na = A(); long = list(range(40_000)); lost = open("/dev/null"); shared = [a]')
            session.execute('array[0]')
        with node.session('sound') as session:
            session.execute('x = 1')
        yield node


class Copy:
    """A copy of the database, to be damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def notebook(self) -> Iterator[Any]:
        """What is changed is committed."""
        manager = transaction.TransactionManager(explicit=True)
        with cluster.existing_database(self.folder, '') as database:
            connection = database.open(manager)
            with manager:
                yield connection.root()['Application'].erp5.data_notebook_module.find('broken')
            connection.close()

    def blob(self) -> Path:
        with self.notebook() as notebook:
            piece = notebook.stored.groups['array'].buffers[0].pieces[1]
            with piece.open() as file:
                return Path(file.name)

    def remove(self, record: Callable[[Any], Any]) -> None:
        with self.notebook() as notebook:
            oid = u64(record(notebook)._p_oid)
        with contextlib.closing(sqlite3.connect(self.folder / 'storage' / 'main.sqlite3')) as database, database:
            assert database.execute('DELETE FROM object_state WHERE zoid = ?', (oid,)).rowcount == 1

    def said(self, values: bool = False) -> list[str]:
        return [line for found in cluster.verify(self.folder, '', values) for line in str(found).splitlines()]


@pytest.fixture
def copy(whole: Node, tmp_path: Path) -> Copy:
    shutil.copytree(whole.data_dir / 'storage' / 'blobs', tmp_path / 'storage' / 'blobs')
    with contextlib.closing(sqlite3.connect(whole.data_dir / 'storage' / 'main.sqlite3')) as old, \
            contextlib.closing(sqlite3.connect(tmp_path / 'storage' / 'main.sqlite3')) as new:
        old.backup(new)
    return Copy(tmp_path)


# ---------------------------------------------------------------- damage
def flip(copy: Copy) -> None:
    path = copy.blob()
    data = bytearray(path.read_bytes())
    data[12345] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def cut(copy: Copy) -> None:
    copy.blob().chmod(0o600)
    with copy.blob().open('r+b') as file:
        file.truncate(1000)


def change(copy: Copy, action: Callable[[Any], Any]) -> None:
    with copy.notebook() as notebook:
        action(notebook)


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Any], None]:
    def action(notebook: Any) -> None:
        group = notebook.stored.groups[name]
        assert old in group.data
        group.data = group.data.replace(old, new)
    return action


def give_away(notebook: Any) -> None:
    notebook.stored.groups['array'] = notebook.stored.groups['other']


def miscount(notebook: Any) -> None:
    index = notebook.stored.chunks.index
    digest, (piece, users) = next(iter(index.items()))
    index[digest] = piece, users + 1


def damage_setup(notebook: Any) -> None:
    notebook.environment = tuple({**setup, 'value': setup['value'][:-3]} for setup in notebook.environment)


def uncatalog(notebook: Any) -> None:
    notebook.getPortalObject().portal_catalog.uncatalog_object('/'.join(notebook.getPhysicalPath()))


def piece_of_long(notebook: Any) -> Any:
    return notebook.stored.groups['array'].buffers[0].pieces[0]


DAMAGES: dict[str, tuple[Callable[[Copy], Any], str]] = {
    'a missing blob': (lambda copy: copy.blob().unlink(), 'variable array: a piece of a large buffer is not in the database'),
    'a flipped bit': (flip, 'variable array: a piece of a large buffer has other bytes than those that were stored (BLAKE3 '),
    'a cut blob': (cut, 'variable array: a piece of a large buffer has 1000 bytes, not 1048576'),
    'a removed piece': (lambda copy: copy.remove(piece_of_long), 'variable array: a piece of a large buffer is not in the database'),
    'a removed record': (lambda copy: copy.remove(lambda notebook: notebook.stored.groups['other']),
                         'variable other: a record of it, oid 0x'),
    'a removed line': (lambda copy: copy.remove(lambda notebook: notebook.lines[2]),
                       'line 2 of the history: a record of it, oid 0x'),
    'a removed claim': (lambda copy: copy.remove(lambda notebook: notebook.claim), 'the notebook: a record of it, oid 0x'),
    'a removed index': (lambda copy: copy.remove(lambda notebook: notebook.stored.groups), 'the names of the variables: a record of it'),
    'a damaged pickle': (lambda copy: change(copy, replaced('other', b'\x94', b'\xff')),
                         'variable other: its pickle is damaged: at position'),
    'another format': (lambda copy: change(copy, replaced('other', b'ipython_erp5 1', b'ipython_erp5 7')),
                       'variable other: its pickle is damaged'),
    'a pickle with another end': (lambda copy: change(copy, replaced('other', b'.', b'..')), 'variable other: its pickle is damaged'),
    'another number of values': (lambda copy: change(copy, lambda notebook: notebook.stored.groups['other'].change(roots=('other', 'z'))),
                                 'variable other: its pickle has 1 values, not 2'),
    'an index that gives it to another': (lambda copy: change(copy, give_away),
                                          "variable array: the index gives it to the record of 'other'. Assign it again"),
    'another kind of record': (lambda copy: change(copy, lambda notebook: notebook.stored.groups.update({'other': notebook.claim})),
                               'variable other: its record is a Claim'),
    'a class that is not there': (lambda copy: change(copy, lambda notebook: notebook.stored.definitions.clear()),
                                  'variables a, shared: 1 of the classes and functions that it needs are not there'),
    'a last value that is not there': (lambda copy: change(copy, lambda notebook: notebook.stored.groups.pop(notebook.stored.last[0])),
                                       'a last value (`_`): it has no record'),
    'both saved and not saved': (lambda copy: change(copy, lambda notebook: notebook.stored.lost.update({'other': ('', '')})),
                                 'variable other: it is both saved and not saved'),
    'pieces that are counted wrong': (lambda copy: change(copy, miscount), 'the index of large buffers: 1 piece is used more or less'),
    'a request without a line': (lambda copy: change(copy, lambda notebook: notebook.requests.update({'id': 7})),
                                 'the request id: its last line in the history is None, the index of requests says 7'),
    'a line that is another': (lambda copy: change(copy, lambda notebook: setattr(notebook.lines[1], 'id', '9')),
                               'line 1 of the history: it says that it is line 9'),
    'messages that are none': (lambda copy: change(copy, lambda notebook: setattr(notebook.lines[1], 'shown', b'{')),
                               'line 1 of the history: it cannot be read: WireError: expected a line of'),
    'a setup that is cut': (lambda copy: change(copy, damage_setup), "the setup 'limit': its pickle is damaged: expected"),
    'a reference for nobody': (lambda copy: change(copy, lambda notebook: notebook.aq_parent.references.update({'nobody': '77'})),
                               "the reference 'nobody': the notebook 77 that it stands for is not there"),
    'a notebook without a reference': (lambda copy: change(copy, lambda notebook: notebook.aq_parent.references.pop('broken')),
                                       "data_notebook_module/1: the reference 'broken' does not stand for it"),
    'a notebook that is not in the catalog': (lambda copy: change(copy, uncatalog), 'data_notebook_module/1: the catalog does not have it'),
}


@pytest.mark.parametrize('kind', DAMAGES)
def test_damage_is_found_and_named(copy: Copy, kind: str) -> None:
    damage, expected = DAMAGES[kind]
    damage(copy)
    said = copy.said()
    assert [line for line in said if line.startswith(f'    {expected}') and line.endswith('.')], said
    assert [line for line in said if line.startswith("'sound': ok (")] and not any('Traceback' in line for line in said)


def test_a_database_that_is_whole(copy: Copy) -> None:
    site, broken, sound = copy.said(values=True)
    assert site.startswith('the site: ok (') and sound.startswith("'sound': ok (") and sound.endswith('1 line, 1 variable, 42 bytes)')
    assert broken.startswith("'broken': ok (") and '2 lines, 6 variables, 2.' in broken


def test_the_command(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.folder.chmod(0o700)
    assert cli.main(['verify', '--data-dir', str(copy.folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith('Verified: 2 notebooks, ')
    flip(copy)
    assert cli.main(['verify', '--data-dir', str(copy.folder)]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 5 and shown[-1].endswith(' records, 1 fault.') and 'Assign it again or delete it' in shown[2]
    assert cli.main(['export', 'broken', str(copy.folder / 'file'), '--data-dir', str(copy.folder)]) == 1
    assert '`ipython-erp5 verify` says what is damaged' in capsys.readouterr().err and not (copy.folder / 'file').exists()


# ---------------------------------------------------------------- values
CLASS = """
class Odd:
    def __setstate__(self, state):
        if open({switch!r}).read():
            {action}
odd = Odd(); odd.x = 1
"""
SETUP = """
def fail():
    assert not open({switch!r}).read()
environment.define(fail, 'fail')
"""
CODE: dict[str, tuple[str, list[str]]] = {
    'sound': ('x = 1', []),
    'raises': (CLASS.replace('{action}', 'raise ValueError("no")'), ['variable odd: ']),
    'dies': (CLASS.replace('{action}', 'import os; os._exit(3)'), ['its variables: the process that loaded them has died (exit 3)']),
    'setup': (SETUP, ["the environment: An error happened when trying to run the one of your setup functions: 'fail'"])}


@pytest.mark.parametrize('kind', CODE)
def test_values_are_loaded_if_asked_for(whole: Node, tmp_path: Path, kind: str) -> None:
    """Only then does the code of the notebook run, which the switch makes fail."""
    switch, (cell, expected) = tmp_path / 'switch', CODE[kind]
    switch.touch()
    with whole.session('values') as session:
        session.execute('globals().pop("odd", None)')
        session.execute(cell.replace('{switch!r}', repr(str(switch))))
        switch.write_text('on')
        faults = [str(fault) for found in cluster.verify(whole.data_dir, '', True) for fault in found.faults]
        assert len(faults) == len(expected) and all(text in fault for text, fault in zip(expected, faults, strict=True)), faults
        assert not [found for found in cluster.verify(whole.data_dir, '', False) if found.faults]
        switch.write_text('')
        session.execute('environment.clearAll()')


# ---------------------------------------------------------------- while cells run
def test_what_running_cells_change_is_no_fault(whole: Node) -> None:
    stop = threading.Event()

    def work() -> None:
        with whole.session('busy') as session:
            for turn in range(10_000):
                if stop.is_set():
                    return
                session.execute(f'import numpy as np\na = np.full(40_000, {turn}); v{turn % 50} = [{turn}]; del a' if turn % 3 else
                                f'b = np.full(40_000, {turn}); w = [b]' if turn else 'import numpy as np')

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(8):
            assert not [str(found) for found in cluster.verify(whole.data_dir, '', False) if found.faults]
    finally:
        stop.set()
        thread.join()
