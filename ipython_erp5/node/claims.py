"""Requests that may have begun: what stands in the claim of a notebook, and what a node knows besides."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SETS = ('gone', 'released', 'free', 'ended')


@dataclass(frozen=True)
class Claimed:
    """Another request that may have begun, on another node: what stands in the claim of the notebook. `serial`: which claim it is."""

    node: str
    request_id: str
    state: str
    serial: str


@dataclass
class Known:
    """What a node knows of the requests that may have begun, for the process that looks at the claim.

    `lost`: request id -> by what, of those that have ended here without a line of the history; `released`: requests claimed for this
    node that others were told to be free to begin, so that they need a claim of their own; `gone`: nodes that do not live any more. By
    their serials, so that a claim which is written anew is not meant: claims whose nodes have said that they are `free`, as nothing has
    begun, and that what they were for has `ended` and left no outcome.
    """

    lost: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)
    free: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)

    def as_message(self) -> dict[str, Any]:
        return {'lost': self.lost, **{name: sorted(getattr(self, name)) for name in SETS}}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> 'Known':
        return cls(dict(message['lost']), **{name: set(message[name]) for name in SETS})


class DatabaseAway(Exception):  # noqa: N818
    """Nothing has begun, as the database cannot be reached."""

    @classmethod
    def because(cls, error: Exception) -> 'DatabaseAway':
        return cls(f'the database is away: {type(error).__name__}: {error}'.strip())


class Held(Exception):  # noqa: N818 - no error: nothing has begun
    """Another node may be running a cell of this notebook: `claimed`."""

    def __init__(self, claimed: Claimed) -> None:
        super().__init__(claimed)
        self.claimed = claimed
