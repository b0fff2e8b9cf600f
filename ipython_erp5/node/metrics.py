"""What Prometheus is told: counts of what has happened, and what is so at the moment when it asks.

    pool ─► Metrics.cell(), lost(), conflict() ─► counters, a histogram ┐
    pool.status(), other nodes, size of the database ─► State ──────────┴─► one registry ─► text of `<site>/metrics`

A metric whose source does not answer is left out; the others are told.
"""

import logging
import threading
import time
from collections import Counter as Counted
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX = 'ipython_erp5'
OUTCOMES = ('ok', 'error', 'lost')
STATES = ('running', 'idle', 'spare')
BUCKETS = (.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 120, 300, 600)  # seconds
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
LOG = logging.getLogger(__name__)


class Metrics:
    """Of one node, in a registry of its own. Any thread may count."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # a series more for each one
        self.registry = CollectorRegistry()
        self._cells = Counter('cells', 'Cells that have ended here, by their outcome.', ['status'], PREFIX, registry=self.registry)
        for status in OUTCOMES:
            self._cells.labels(status)  # a series that begins with its first event hides that event from rate()
        self._lost = Counter('cells_lost', 'Cells whose process or node has gone, as noticed here.', (), PREFIX,
                             registry=self.registry)
        self._conflicts = Counter('conflicts', 'Cells whose changes the database refused, as others had changed the same.', (), PREFIX,
                                  registry=self.registry)
        self._seconds = Histogram('cell_seconds', 'How long cells took, from their beginning to their reply.', (), PREFIX,
                                  registry=self.registry, buckets=BUCKETS)

    def cell(self, status: str, seconds: float) -> None:
        """A cell has ended. `status`: one of OUTCOMES."""
        self._cells.labels(status).inc()
        self._seconds.observe(seconds)

    def lost(self) -> None:
        """A cell is lost, of whichever node."""
        self._lost.inc()

    def conflict(self) -> None:
        self._conflicts.inc()

    def counts(self) -> dict[str, int]:
        return {name: round(sum(sample.value for family in counter.collect() for sample in family.samples))
                for name, counter in (('cells', self._cells), ('lost', self._lost), ('conflicts', self._conflicts))}

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format, version 0.0.4."""
        return generate_latest(self.registry)


class State(Collector):
    """What is so now. `about`: texts for `node_info`; `status`: as of the pool; `nodes`: the others; `stored`: bytes, None if unknown."""

    def __init__(self, about: Mapping[str, str], status: Callable[[], Mapping[str, Any]], nodes: Callable[[], Collection[Any]],
                 stored: Callable[[], int | None]) -> None:
        self.about, self.status, self.nodes, self.stored = about, status, nodes, stored

    def collect(self) -> Iterator[Metric]:
        for family in (self.of_the_node, self.of_the_pool, self.of_the_cluster, self.of_the_database):
            try:
                yield from list(family())
            except Exception:  # such as a database that is away
                LOG.warning('metrics without %s', family.__name__, exc_info=True)

    def of_the_node(self) -> Iterator[Metric]:
        yield InfoMetricFamily(f'{PREFIX}_node', 'The node that answers.', dict(self.about))

    def of_the_pool(self) -> Iterator[Metric]:
        status = self.status()
        executors = GaugeMetricFamily(f'{PREFIX}_executors', 'Executor processes.', labels=['state'])
        for state, number in {**dict.fromkeys(STATES, 0), **by_state(status)}.items():
            executors.add_metric([state], number)
        yield executors
        yield GaugeMetricFamily(f'{PREFIX}_cells_running', 'Cells that run here.', status['running'])
        yield GaugeMetricFamily(f'{PREFIX}_cells_waiting', 'Cells that wait here for their turn.', status['waiting'])

    def of_the_cluster(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(f'{PREFIX}_nodes', 'Nodes that are alive, this one included.', 1 + len(self.nodes()))

    def of_the_database(self) -> Iterator[Metric]:
        size = self.stored()
        if size is not None:
            yield GaugeMetricFamily(f'{PREFIX}_context_bytes', 'Bytes that the database has stored.', size)


def by_state(status: Mapping[str, Any]) -> Counted[str]:
    return Counted(process['state'] for process in status['processes'])


class Size:
    """A number that takes long to find, such as the bytes of many files: it is kept for some seconds. None if it cannot be found."""

    def __init__(self, find: Callable[[], int], seconds: float = 30.0) -> None:
        self.find, self.seconds = find, seconds
        self.lock = threading.Lock()
        self.found: int | None = None
        self.until = 0.0  # of time.monotonic()

    def __call__(self) -> int | None:
        with self.lock:
            if time.monotonic() >= self.until:
                self.found = self.look()
                self.until = time.monotonic() + self.seconds
            return self.found

    def look(self) -> int | None:
        try:
            return self.find()
        except Exception:  # of any storage: its server does not answer
            LOG.warning('the size of the database is not known', exc_info=True)
            return None
