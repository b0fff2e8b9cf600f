"""Which roots belong together, against the plain definition: connected parts of a graph."""

from collections.abc import Iterable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from ipython_erp5.node.sharing import Partition

NODES = 'abcdefgh'
SETS = st.dictionaries(st.sampled_from(NODES), st.sets(st.integers(0, 9), max_size=4), min_size=1)
USES = st.dictionaries(st.sampled_from(NODES), st.sets(st.sampled_from(NODES), max_size=3), min_size=1)


def parts(partition: Partition[str]) -> set[frozenset[str]]:
    return {frozenset(part) for part in partition.parts()}


def reachable(start: str, edges: Mapping[str, Iterable[str]]) -> set[str]:
    """Nodes to which some way of at least one step leads."""
    found: set[str] = set()
    todo = list(edges.get(start, ()))
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += edges.get(node, ())
    return found


@given(SETS)
def test_nodes_whose_sets_meet_are_together_and_no_others(reached: dict[str, set[int]]) -> None:
    partition = Partition(reached)
    partition.join_sharing(reached)
    meets = {node: [other for other in reached if reached[node] & reached[other]] for node in reached}
    assert parts(partition) == {frozenset({node} | reachable(node, meets)) for node in reached}


@given(USES)
def test_nodes_that_need_each_other_are_together_and_no_others(uses: dict[str, set[str]]) -> None:
    nodes = {*uses, *(used for found in uses.values() for used in found)}
    partition = Partition(nodes)
    partition.join_circles(uses)
    leads = {node: reachable(node, uses) for node in nodes}
    assert parts(partition) == {frozenset({node} | {other for other in leads[node] if node in leads[other]}) for node in nodes}


@given(SETS, USES)
def test_after_all_joins_no_two_parts_need_each_other(reached: dict[str, set[int]], uses: dict[str, set[str]]) -> None:
    partition = Partition({*reached, *uses})
    partition.join_sharing(reached)
    before = parts(partition)
    partition.join_circles(uses)
    assert all(any(small <= large for large in parts(partition)) for small in before)
    once = parts(partition)
    partition.join_circles(uses)
    partition.join_sharing(reached)
    assert parts(partition) == once


@given(st.sets(st.sampled_from(NODES), min_size=1))
def test_join_all_joins_all(nodes: set[str]) -> None:
    partition = Partition(NODES)
    partition.join_all(nodes)
    assert frozenset(nodes) in parts(partition) and len(partition.parts()) == len(NODES) - len(nodes) + 1


def test_a_part_of_which_nothing_is_used_stays_alone() -> None:
    partition = Partition('ab')
    partition.join_circles({'a': 'xyz'})
    assert parts(partition) == {frozenset('a'), frozenset('b')}


def test_a_long_way_is_no_problem() -> None:
    partition = Partition(range(50_000))
    partition.join_circles({node: [node + 1] for node in range(50_000)} | {40_000: [30_000]})
    assert sorted(map(len, partition.parts()))[-2:] == [1, 10_001]
