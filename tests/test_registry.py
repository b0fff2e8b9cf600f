"""The nodes as they find each other in the database: real databases, and clocks that are set back rather than waited for."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipython_erp5.node import registry
from ipython_erp5.node.journal import Journal
from ipython_erp5.node.registry import GONE, Registry
from ipython_erp5.node.storage import change, embedded_storage, open_database


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Registry, Registry]]:
    """Both have entered, and beat only when they are told to."""
    databases = [open_database(embedded_storage(tmp_path)) for _ in range(2)]
    both = [Registry(database, name, Journal()) for database, name in zip(databases, ('a', 'b'), strict=True)]
    for one in both:
        one.start = lambda: None  # type: ignore[method-assign]
        one.enter(f'http://host/{one.node}', f'/data/{one.node}', executors=2)
    both[0].look()
    yield both[0], both[1]
    for one, database in zip(both, databases, strict=True):
        one.leave()
        database.close()


def later(one: Registry, seconds: float, looked: bool = True) -> None:
    """As if so much time had passed, with looks at the database or without."""
    for seen in one.seen.values():
        seen.moment -= seconds
    if not looked:
        one.looked -= seconds


def test_nodes_know_each_other(two: tuple[Registry, Registry]) -> None:
    a, b = two
    assert {name: seen.url for name, seen in a.live().items()} == {'b': 'http://host/b'}
    found = b.find('a')
    assert found is not None and (found.url, found.about) == ('http://host/a', {'executors': 2, 'pid': os.getpid()})
    assert b.find('nobody') is None and a.find('a') is None


def test_a_node_that_beats_no_more_has_gone_and_one_that_beats_again_has_not(two: tuple[Registry, Registry]) -> None:
    a, b = two
    later(a, GONE + 1)
    assert a.find('b') is None and a.live() == {}
    a.look()
    assert a.find('b') is None
    b.write(b.beat)
    a.look()
    assert a.find('b') is not None


def test_who_could_not_look_takes_nobody_for_gone(two: tuple[Registry, Registry]) -> None:
    """A node without its database sees no beats: the others may have been beating all the time."""
    a, b = two
    later(a, 100, looked=False)
    assert a.find('b') is not None


def test_a_node_that_was_forgotten_is_there_again_with_its_next_beat(two: tuple[Registry, Registry]) -> None:
    a, b = two
    later(a, registry.FORGET + 1)
    a.write(a.beat)  # also removes who has been quiet for so long
    assert change(b.database, lambda root: list(root['nodes'])) == ['a']
    b.write(b.beat)
    a.look()
    assert a.find('b') is not None


def test_a_node_leaves_and_another_takes_its_place(two: tuple[Registry, Registry], tmp_path: Path) -> None:
    a, b = two
    c = Registry(a.database, 'c', Journal())
    c.start = lambda: None  # type: ignore[method-assign]
    c.enter('http://host/c', '/data/b')  # the data directory of b, whose process must have ended
    a.look()
    assert a.find('b') is None and a.find('c') is not None
    c.leave()
    a.look()
    assert a.find('c') is None


def test_a_node_in_a_database_of_its_own_is_alone(two: tuple[Registry, Registry]) -> None:
    a, _ = two
    alone = Registry(a.database, 'alone', Journal(), shared=False)
    alone.enter('http://host/alone', '/data/alone')
    assert change(a.database, lambda root: list(root['nodes'])) == ['alone'] and alone.find('a') is None


def test_a_process_that_has_ended_is_no_node_any_more(two: tuple[Registry, Registry]) -> None:
    a, _ = two
    seen = a.find('b')
    assert seen is not None and not seen.has_died()
    seen.about['pid'] = 2 ** 22 + 1  # above what Linux gives
    assert seen.has_died()
    seen.place = 'another host:/data'
    assert not seen.has_died()
