"""Two nodes behind a proxy lose processes and connections all the time: nothing acknowledged is lost, nothing happens twice.

Every number that a client appends to its notebook's list is also written into a file, which no transaction takes back. A number whose
execute() returned is in the list once, and in order; one that was lost is not in it; none is twice in either.
    CHAOS_SEED=… pytest … has the same kills and cuts again; processes and threads have their own order.
"""

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import storages
from clusters import Cluster, Member, cluster, signal_executor
from conftest import there

from ipython_erp5 import wire
from ipython_erp5.errors import CellLost, ERP5Error, RemoteError, RemoteInterrupt
from ipython_erp5.session import Session

LONGEST = 60.0  # seconds that a client may wait for one cell
NOTEBOOKS = ['shared', 'shared', 'third', 'fourth']  # of the clients
Chaos = Callable[[Cluster, random.Random], None]


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp('cluster')) as started:
        yield started


@pytest.fixture
def healed(whole: Cluster) -> Iterator[Cluster]:
    whole.heal()
    yield whole
    whole.heal()


def seed() -> int:
    found = int(os.environ.get('CHAOS_SEED') or random.randrange(1 << 32))
    print(f'CHAOS_SEED={found}')
    return found


# ---------------------------------------------------------------- clients
class Client(threading.Thread):
    """Appends 1, 2, 3, … to the list of a notebook until it is told to stop."""

    def __init__(self, session: Session, name: str, effects: Path, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.session, self.name, self.effects, self.stop = session, name, effects, stop
        self.acknowledged: list[int] = []
        self.lost: dict[int, str] = {}
        self.unknown: dict[int, str] = {}  # a database that did not come back in time, and says so
        self.strange: dict[int, str] = {}
        self.longest = 0.0

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            begun = time.monotonic()
            try:
                self.session.execute(f'log.append(({self.name!r}, {number}))\n'
                                     f"with open({str(self.effects)!r}, 'a') as file:\n    file.write('{self.name} {number}\\n')\n"
                                     'del file')
            except ERP5Error as error:
                self.failed(number, error)
            else:
                self.acknowledged.append(number)
            self.longest = max(self.longest, time.monotonic() - begun)

    def failed(self, number: int, error: ERP5Error) -> None:
        """Nothing of it may be there: it was lost or never sent, the database refused it, or was away when `log` was loaded."""
        text = f'{type(error).__name__}: {error}'
        if 'is not known' in text:
            self.unknown[number] = text
        elif isinstance(error, (CellLost, RemoteError)) or 'nothing was' in text.lower():
            self.lost[number] = text
        else:
            self.strange[number] = text


def run_clients(whole: Cluster, tmp_path: Path, seconds: float, chaos: Chaos) -> list[Client]:
    """Four clients, while something happens to the cluster."""
    dice, stop, effects, run = random.Random(seed()), threading.Event(), tmp_path / 'effects', uuid.uuid4().hex
    sessions = [whole.session(f'{reference} {run}') for reference in NOTEBOOKS]
    for session in sessions[1:]:
        session.execute('log = []')
    clients = [Client(session, f'client{number}', effects, stop) for number, session in enumerate(sessions)]
    for client in clients:
        client.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        chaos(whole, dice)
    whole.heal()
    stop.set()
    for client in clients:
        client.join(LONGEST + 5)
        assert not client.is_alive(), f'{client.name} waits for ever'
    print([(client.name, len(client.acknowledged), len(client.lost), len(client.unknown), round(client.longest, 1)) for client in clients])
    return clients


def check(whole: Cluster, clients: list[Client], tmp_path: Path) -> None:
    """What the notebooks and the file hold is what the clients were told."""
    effects = Counter((tmp_path / 'effects').read_text().splitlines())
    assert [client.strange for client in clients if client.strange] == []
    assert [line for line, count in effects.items() if count > 1] == []
    for number in range(len(whole.members)):
        for client in clients:
            with whole.through(number, client.session.reference) as session:
                log = [entry for name, entry in session.pull('log') if name == client.name]
            assert len(set(log)) == len(log) and sorted(log) == log, 'twice, or not in order'
            assert set(client.acknowledged) - set(log) == set(), 'acknowledged, and not there'
            assert {entry: client.lost[entry] for entry in log if entry in client.lost} == {}, 'said to be lost, and there'
            assert all(effects[f'{client.name} {entry}'] == 1 for entry in log)
    assert all(client.acknowledged and len(client.unknown) <= 1 for client in clients)
    assert max(client.longest for client in clients) < LONGEST
    for client in clients:
        client.session.close()


def verify(storage: str) -> None:
    done = subprocess.run([sys.executable, '-m', 'ipython_erp5', 'verify', '--storage', storage], capture_output=True, text=True,
                          timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------- chaos
def kills(whole: Cluster, dice: random.Random) -> None:
    """An executor, and now and then a node, which is started again after a while."""
    time.sleep(dice.uniform(.1, .8))
    member = dice.choice(whole.members)
    if dice.random() < .7:
        executors = member.executors()
        if executors:
            signal_executor(dice.choice(executors))
        return
    member.kill(whole=dice.random() < .5)
    time.sleep(dice.uniform(0, 1.5))
    member.start()


def cuts(whole: Cluster, dice: random.Random) -> None:
    """A way breaks, loses everything in silence, or is closed for a while. One at a time, and no silence that outlasts a client."""
    time.sleep(dice.uniform(.1, .8))
    cut, how = dice.choice(whole.cuts), dice.choice(('reset', 'reset', 'refuse', 'hole'))
    getattr(cut, how)()
    if how != 'reset':
        time.sleep(dice.uniform(.2, 2))
        cut.restore()


LENGTHS = [8, pytest.param(60, marks=[pytest.mark.soak, pytest.mark.timeout(300)])]


@pytest.mark.parametrize('seconds', LENGTHS)
@pytest.mark.parametrize('chaos', [kills, cuts], ids=['kills', 'cuts'])
def test_nothing_is_lost_and_nothing_happens_twice(healed: Cluster, tmp_path: Path, chaos: Chaos, seconds: float) -> None:
    clients = run_clients(healed, tmp_path, seconds, chaos)
    check(healed, clients, tmp_path)
    verify(healed.storage)


# ---------------------------------------------------------------- the very next cell
TURNS = [60, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(600)])]
MAKE = '''
class Made:
    number = {n}
def made():
    return {n}, Made.number
def load():
    return {{'defined': {n}}}
environment.define(load, 'load')
environment.define(plain={n})
array = numpy.full(10_000, {n})
document = context.document_module.newContent(reference='turn {n} {run}', title='{n}')
'''
LOOK = '''
assert made() == ({n}, {n}) and Made().number == {n} and defined == {n} and plain == {n}
assert array.nbytes > 65536 and (array == {n}).all()
assert document.getTitle() == '{n}' == context.portal_catalog.getResultValue(reference='turn {n} {run}').getTitle()
'''


def alternate(sessions: list[Session], turns: int) -> None:
    run = uuid.uuid4().hex
    sessions[0].execute('import numpy' + MAKE.format(n=0, run=run))
    for n in range(1, turns + 1):
        sessions[n % 2].execute(LOOK.format(n=n - 1, run=run) + MAKE.format(n=n, run=run))
    sessions[(turns + 1) % 2].execute(LOOK.format(n=turns, run=run) + f'assert len(context.portal_catalog(title={str(turns)!r})) >= 1')


@pytest.mark.parametrize('turns', TURNS)
def test_what_one_node_has_made_the_next_cell_finds_on_the_other(healed: Cluster, turns: int) -> None:
    with healed.through(0, f'turns {turns}') as one, healed.through(1, f'turns {turns}') as two:
        alternate([one, two], turns)


@pytest.mark.parametrize('turns', TURNS)
def test_what_one_node_has_made_the_next_cell_finds_on_the_other_with_zeo(tmp_path: Path, turns: int) -> None:
    with contextlib.ExitStack() as stack:
        uri = stack.enter_context(storages.zeo(tmp_path / 'zeo', blobs=True))
        members = []
        for name in ('one', 'two'):
            members.append(Member(tmp_path / name, uri))
            stack.callback(members[-1].stop)
        alternate([stack.enter_context(member.node.session('turns')) for member in members], turns)


# ---------------------------------------------------------------- one at a time
def test_an_interrupt_through_the_other_node(healed: Cluster) -> None:
    """And a look at the outcome, which that node does not know by itself."""
    with healed.through(0, 'interrupted') as one, healed.through(1, 'interrupted') as two, ThreadPoolExecutor(1) as threads:
        one.execute('kept = [1]')
        began = threading.Event()
        for code in ('import time; time.sleep(60)', 'while True: pass'):
            began.clear()
            cell = threads.submit(one.execute, f"print('begun', flush=True)\n{code}",
                                  on_message=lambda message: began.set() if message['msg_type'] == 'stream' else None)
            assert began.wait(20)
            request_id = one.running
            assert two.interrupt(request_id)['status'] == 'interrupted'
            with pytest.raises(RemoteInterrupt):
                cell.result(30)
            assert [m for m in two.result(request_id) if m['msg_type'] == 'execute_reply'][-1]['ename'] == 'KeyboardInterrupt'
        two.execute('assert kept == [1]')


def test_cells_of_one_notebook_take_turns_on_two_nodes(healed: Cluster) -> None:
    with healed.through(0, 'turns taken') as one, healed.through(1, 'turns taken') as two, ThreadPoolExecutor(4) as threads:
        one.execute('import time\nn = 0')
        cells = [threads.submit(session.execute, 'k = n; time.sleep(.3); n = k + 1') for session in (one, two, one, two)]
        for cell in cells:
            cell.result(60)
        assert one.execute('n').result == two.execute('n').result == {'text/plain': '4'}


def test_a_node_that_is_gone_is_out_of_the_proxy_within_seconds(healed: Cluster) -> None:
    with healed.session('goes on') as session:
        session.execute('n = 0')
        for member in healed.members:
            member.kill(whole=True)
            begun = time.monotonic()
            session.execute('n += 1')
            assert time.monotonic() - begun < 30
            member.start()
            time.sleep(1.5)  # two checks
        assert session.execute('n').result == {'text/plain': '2'}


def test_a_dead_database_is_waited_for(healed: Cluster) -> None:
    with healed.session('waits') as session:
        session.execute('n = 0')
        healed.base.refuse()
        timer = threading.Timer(3, healed.base.restore)
        timer.start()
        session.execute('n += 1')
        assert session.execute('n').result == {'text/plain': '1'}
        timer.join()


def test_a_stream_is_passed_on_as_it_comes(healed: Cluster, tmp_path: Path) -> None:
    """The proxy collects nothing: the cell goes on when its line is here."""
    def heed(message: wire.Message) -> None:
        if message['msg_type'] == 'stream':
            (tmp_path / message['text'].strip()).touch()

    steps = [f'print({number}, flush=True)\nwent_on{number} = {there(tmp_path / str(number))}' for number in range(3)]
    with healed.session('streams') as session:
        reply = session.execute('\n'.join(steps) + '\nwent_on0, went_on1, went_on2', on_message=heed)
    assert (reply.text, reply.result) == ('0\n1\n2\n', {'text/plain': '(True, True, True)'})
