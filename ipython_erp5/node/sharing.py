"""Which roots belong together: a law of graphs, without any values.

Roots that reach the same mutable object are one group. So are records of which each needs the other to be loaded first.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

Node = TypeVar('Node', bound=Hashable)


class Partition(Generic[Node]):
    """Sets without common elements that only grow together."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.members: dict[Node, list[Node]] = {node: [node] for node in nodes}

    def join(self, one: Node, other: Node) -> None:
        mine, theirs = self.members[one], self.members[other]
        if mine is not theirs:
            small, large = sorted((mine, theirs), key=len)
            large.extend(small)
            self.members.update(dict.fromkeys(small, large))

    def join_all(self, nodes: Iterable[Node]) -> None:
        first, *others = nodes
        for other in others:
            self.join(first, other)

    def join_sharing(self, reached: Mapping[Node, set[int]]) -> None:
        """Nodes whose sets meet. The largest set is only looked into for what the others have."""
        owner: dict[int, Node] = {}
        by_size = sorted(reached, key=lambda node: len(reached[node]))
        for node in by_size[:-1]:
            for key in reached[node]:
                self.join(node, owner.setdefault(key, node))
        for node in by_size[-1:]:
            for key in owner.keys() & reached[node]:
                self.join(node, owner[key])

    def join_circles(self, uses: Mapping[Node, Iterable[Node]]) -> None:
        """Parts that use each other, directly or through others: what is found backwards from a part that was left last."""
        part = {node: members[0] for node, members in self.members.items()}
        forwards: dict[Node, set[Node]] = {first: set() for first in part.values()}
        backwards: dict[Node, set[Node]] = {first: set() for first in part.values()}
        for user, used in uses.items():
            for node in used:
                if user in part and node in part:
                    forwards[part[user]].add(part[node])
                    backwards[part[node]].add(part[user])
        left = [node for node, _ in walk(forwards, forwards)]
        for node, start in walk(backwards, reversed(left)):
            self.join(node, start)

    def parts(self) -> list[list[Node]]:
        return list({id(members): members for members in self.members.values()}.values())


def walk(edges: Mapping[Node, Iterable[Node]], starts: Iterable[Node]) -> Iterator[tuple[Node, Node]]:
    """Depth first: (node, start) of each node when it is left, once."""
    seen: set[Node] = set()
    for start in starts:
        way = [(start, iter(edges[start]))] if start not in seen else []
        seen.add(start)
        while way:
            node, rest = way[-1]
            following = next((other for other in rest if other not in seen), None)
            if following is None:
                yield way.pop()[0], start
            else:
                seen.add(following)
                way.append((following, iter(edges[following])))
