"""A notebook whose claim another node has: its cell is shown here if it is the one that came, and waited for if it is another.

    the claim ─► Elsewhere ─► the node: does it run?  yes, this very request   its lines, as they come
                                                      yes, another             keepalives until it has ended
                                                      no, or the node has gone what is known of the claim, for the next look at it

A cell that has ended has written so: if the very same claim is found after that, there is no outcome, and there will be none.
"""

import time
from collections.abc import Callable, Generator

from .. import wire
from ..errors import ERP5Error
from .claims import Claimed
from .peers import Following, NodeGone, NodeUnreachable, NotBegun, Peers
from .run import Run

PATIENCE = 20.0  # seconds in which a node that lives must answer another
Lines = Generator[bytes, None, None]


class Elsewhere:
    """`finish`: what is to be done with a run before its last line is shown."""

    def __init__(self, peers: Peers, finish: Callable[[Run], object]) -> None:
        self.peers, self.finish = peers, finish

    def follow(self, run: Run, claimed: Claimed) -> Lines:
        """Lines until the run is done, or the claim can be looked at again. NodeUnreachable if its node lives, and answers no more."""
        try:
            if claimed == run.ended:
                run.known.ended.add(claimed.serial)
            elif claimed.state == 'running' or self.is_running(run, claimed):
                same = claimed.request_id == run.request_id
                with self.peers.follow(claimed.node, run.request.reference, claimed.request_id, run.authorization,
                                       run.request.python_expression if same else '', waiting=not same) as lines:
                    yield from self.attach(run, lines) if same else self.wait_for(run, claimed, lines)
        except NodeGone:
            run.known.gone.add(claimed.node)
        except NotBegun:
            yield from self.unknown(run, claimed)
        except NodeUnreachable as error:
            yield from self.unreachable(run, error)

    def is_running(self, run: Run, claimed: Claimed) -> bool:
        """Whether a request that another node has claimed has begun there; if not, it will not without another look at the claim."""
        state = self.peers.release(claimed.node, run.request.reference, claimed.request_id, run.authorization)
        if state == 'released':
            run.known.free.add(claimed.serial)
        elif state == 'ended':
            run.ended = claimed
        return state == 'running'

    def unknown(self, run: Run, claimed: Claimed) -> Lines:
        """The node does not know the request (any more): it has just ended, or never begun."""
        try:
            self.is_running(run, claimed)
        except NodeGone:
            run.known.gone.add(claimed.node)
        except ERP5Error as error:
            yield from self.unreachable(run, error)

    def attach(self, run: Run, following: Following) -> Lines:
        """The lines of the same request on another node."""
        run.attached = True
        for line in run.take(following):
            if run.done:
                self.finish(run)
            yield line

    def wait_for(self, run: Run, claimed: Claimed, following: Following) -> Lines:
        run.cancel = following.cancel
        waiting = wire.encode(wire.keepalive(f'another cell of this notebook runs on the node {claimed.node}'))
        yield waiting
        for line in following:
            if run.interrupted:
                return
            if wire.is_keepalive(line):
                yield waiting
            elif wire.is_reply(line):
                run.ended = claimed

    def unreachable(self, run: Run, error: ERP5Error) -> Lines:
        """A node that beats and does not answer: for a while that is waited for."""
        run.patience = run.patience or time.monotonic() + PATIENCE
        if time.monotonic() > run.patience:
            raise NodeUnreachable(f'{error}; it may be running a cell of this notebook, and is waited for no longer')
        if not run.interrupted:
            yield wire.encode(wire.keepalive(str(error)))
            time.sleep(1)
