"""Variables that are loaded when they are first named: nobody can tell by what a cell does, and nothing else is loaded.

The stories of `corners` are run on a node, a process for each cell, and in one process of plain Python (of a stock IPython, where a
story uses IPython's own words). What is printed and what is raised must be the same. The last tests look at what is loaded.
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from corners import BUILTINS, DELETION, MAGICS, NAMESPACES, OTHERS, SCOPES
from fresh_process import Place, place


# ---------------------------------------------------------------- run in both worlds
@pytest.fixture(scope='module')
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Place]]:
    directory = tmp_path_factory.mktemp('places')
    with place('node', directory) as node, place('python', directory) as python, place('ipython', directory) as ipython:
        yield {'node': node, 'python': python, 'ipython': ipython}


def dedented(cells: list[str]) -> list[str]:
    return [textwrap.dedent(cell).strip('\n') for cell in cells]


def timeless(text: str) -> str:
    return ''.join(line for line in text.splitlines(keepends=True) if not line.startswith(('CPU times:', 'Wall time:')))


def compare(places: dict[str, Place], world: str, cells: list[str]) -> None:
    """The first cell that differs is the failure."""
    places['node'].send(dedented(cells))
    other, node = places[world].run(dedented(cells)), places['node'].receive()
    for number, (here, there) in enumerate(zip(node, other, strict=True), 1):
        same = [timeless(text) for text in here.visible()] == [timeless(text) for text in there.visible()]
        assert same, f'cell {number}:\n{cells[number - 1]}\non the node:\n{here}\nin {world}:\n{there}'
        assert not here.not_saved, f'cell {number}: not saved: {here.not_saved}'


@pytest.mark.parametrize('story', SCOPES)
def test_scopes(places: dict[str, Place], story: str) -> None:
    compare(places, 'python', SCOPES[story])


@pytest.mark.parametrize('story', DELETION)
def test_deletion(places: dict[str, Place], story: str) -> None:
    compare(places, 'python', DELETION[story])


@pytest.mark.parametrize('story', NAMESPACES)
def test_namespaces(places: dict[str, Place], story: str) -> None:
    compare(places, 'python', NAMESPACES[story])


@pytest.mark.parametrize('story', BUILTINS)
def test_builtins(places: dict[str, Place], story: str) -> None:
    compare(places, 'python', BUILTINS[story])


@pytest.mark.parametrize('story', OTHERS)
def test_code_of_others(places: dict[str, Place], story: str) -> None:
    compare(places, 'python', OTHERS[story])


@pytest.mark.parametrize('story', MAGICS)
def test_magics(places: dict[str, Place], story: str) -> None:
    compare(places, 'ipython', MAGICS[story])


# ---------------------------------------------------------------- what is loaded
LOUD = """
class Loud:
    def __init__(self, name): self.name = name
    def __setstate__(self, state):
        self.__dict__.update(state)
        __import__('sys').stdout.write(f'load {self.name}\\n')
a = Loud('a'); b = Loud('b'); c = [Loud('c')]; d = c; small = 1; text = 'a b c'
def uses_a(): return a.name
def calls(): return uses_a()
class Holder:
    def get(self): return b.name
holder = Holder()
"""
LOADS = {  # cell: what it loads of a, b, c
    'small += 1': '', 'print(small, text)': '', "print('a', 'b c')": '', 'x = [i for i in range(3)]': '', 'def later(): return a, b, c': '',
    'k = lambda: a': '', 'class New:\n    def get(self): return b': '', 'g = uses_a': '', 'h = holder': '', 'print(Loud.__name__)': '',
    'if small < 0: print(a)': '', 'try:\n    small\nexcept NameError:\n    a': '', 'import math\nmath.pi': '', '1 / 0': '',
    'undefined': '', 'small.nothing': '', "eval('small')": '', "exec('new = small')": '', 'small?': '', '%time small': '',
    'import __main__\n__main__.small': '', "getattr(__import__('__main__'), 'small')": '', 'f"{small} {text!r:>9}"': '',
    'from dataclasses import dataclass\n@dataclass\nclass P:\n    v: int = small\nP()': '', 'sorted([small, 2], key=lambda v: -v)': '',
    'import collections\nT = collections.namedtuple("T", "p q"); T(1, small)': '', 'uses_a.__name__': '', 'isinstance(holder, Holder)': '',
    'a = 5': '', 'b = small': '', 'for a in range(2): pass': '',
    'a.name': 'a', 'print(a.name)': 'a', 'uses_a()': 'a', 'calls()': 'a', 'holder.get()': 'b', 'c[0].name': 'c', 'd[0].name': 'c',
    'd is c': 'c', 'lambda v=a: v': 'a', '[a for _ in range(2)]': 'a',
    'class New:\n    b = b': 'b', "eval('a')": 'a', "exec('new = b')": 'b',
    "getattr(__import__('__main__'), 'a') and None": 'a', '[small, b.name]': 'b', 'f"{a.name}"': 'a', 'a, small = small, a': 'a',
    'a.name = 5': 'a', 'c.append(1)': 'c', "globals()['a']": 'abc', 'vars()["b"]': 'abc', 'dir() and None': 'abc',
}


@pytest.mark.parametrize('cell', LOADS)
def test_only_what_is_named_is_loaded(places: dict[str, Place], cell: str) -> None:
    outcome = places['node'].run([LOUD, cell])[-1]
    loaded = [line for line in outcome.printed.splitlines() if line.startswith('load ')]
    assert sorted(loaded) == [f'load {name}' for name in LOADS[cell]], f'{cell}\n{outcome}'


def test_what_a_cell_does_not_touch_is_not_even_looked_at_when_it_is_saved(places: dict[str, Place], tmp_path: Path) -> None:
    """Saving a value asks it for its state. Every cell first prints whether the one before did."""
    path = f"__import__('pathlib').Path({str(tmp_path / 'asked')!r})"
    cells = [f"""
        class Asked:
            def __getstate__(self):
                {path}.touch()
                return 1
            def __setstate__(self, state): pass
        a = Asked(); b = [a]; n = 1
        def names(): return a, b""", 'n += 1', 'm = n\ndef other(): return b', 'k = names', 'len(b)', 'pass']
    asked = f'print({path}.exists())\n{path}.unlink(missing_ok=True)\n'
    outcomes = places['node'].run([asked + cell for cell in dedented(cells)])
    assert [outcome.printed for outcome in outcomes] == ['False\n', 'True\n', 'False\n', 'False\n', 'False\n', 'True\n']
