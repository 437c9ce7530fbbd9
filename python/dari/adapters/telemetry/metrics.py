"""Makes the metrics of `families` with prometheus-client, on a registry of our own.

What happens is counted where it happens, by children that are looked up once; what *is* (states, depths) is read when
somebody scrapes, by functions that are given here. A reader that fails leaves its metric out of that scrape.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dari.adapters.telemetry.families import Family
from dari.core.event_log import EventLog, failure_fields

Sample = tuple[tuple[str, ...], float]
"""The values of the labels in their order, and the number."""
Reader = Callable[[], Iterable[Sample]]

MAX_CHILDREN = 2_000
"""Of one metric. All lists behind the labels are closed, so that none comes near; should one not be, its values end up
under OTHER instead of in memory."""
OTHER = "other"


class Children:
    """The children of one metric by their label values. Thread-safe: a dictionary's own get and set are."""

    def __init__(self, metric: Any, label_count: int) -> None:
        self._metric = metric
        self._label_count = label_count
        self._known: dict[tuple[str, ...], Any] = {}

    def of(self, *values: str) -> Any:
        """The Counter, Gauge or Histogram of these label values."""
        child = self._known.get(values)
        if child is None:
            if len(self._known) >= MAX_CHILDREN:
                values = (OTHER,) * self._label_count
            child = self._known[values] = self._metric.labels(*values)
        return child


class Metrics:
    """All metrics of one process. Thread-safe."""

    def __init__(self, log: EventLog) -> None:
        # Of the whole process: a `_created` series beside every other, which Prometheus' own format does not know.
        disable: Any = disable_created_metrics  # Has no types.
        disable()
        self._log = log
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        self._readings = _Readings(log)
        self.registry.register(self._readings)

    def one(self, family: Family) -> Any:
        """The Counter, Gauge or Histogram of a family without labels."""
        return self._made(family)

    def many(self, family: Family) -> Children:
        """The children of a family with labels."""
        return Children(self._made(family), len(family.labels))

    def read(self, family: Family, reader: Reader) -> None:
        """Ask `reader` for a counter or gauge at each scrape. It must not block."""
        self._readings.add(family, reader)

    def _made(self, family: Family) -> Any:
        match family.kind:
            case "counter":
                return Counter(family.name, family.help, family.labels, registry=self.registry)
            case "gauge":
                return Gauge(family.name, family.help, family.labels, registry=self.registry)
            case "histogram":
                return Histogram(
                    family.name, family.help, family.labels, buckets=family.buckets, registry=self.registry
                )


def number(read: Callable[[], float]) -> Reader:
    """A reader of one number without labels."""
    return lambda: [((), read())]


def by_label(read: Callable[[], Mapping[str, float]]) -> Reader:
    """A reader of numbers under one label."""
    return lambda: [((label,), value) for label, value in read().items()]


class _Readings:
    """A collector of prometheus-client: asks every reader at a scrape."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._lock = threading.Lock()  # guards the two below
        self._readers: list[tuple[Family, Reader]] = []
        self._failed: set[str] = set()
        """Families whose reader failed at the latest scrape: said once, and not at each."""

    def add(self, family: Family, reader: Reader) -> None:
        with self._lock:
            self._readers.append((family, reader))

    def describe(self) -> Iterator[Metric]:
        """Names only: a registry refuses a name that is taken."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metrics of one scrape."""
        with self._lock:
            readers = tuple(self._readers)
        for family, reader in readers:
            kind: Any = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = kind(family.name.removesuffix("_total"), family.help, labels=family.labels)
            try:
                for labels, value in reader():
                    metric.add_metric(labels, value)
            except Exception as error:  # noqa: BLE001 - one reader's defect must not take all figures away
                self._note_failed(family, error)
                continue
            with self._lock:
                self._failed.discard(family.name)
            yield cast(Metric, metric)

    def _note_failed(self, family: Family, error: Exception) -> None:
        with self._lock:
            is_new = family.name not in self._failed
            self._failed.add(family.name)
        if is_new:
            self._log.error("metric_not_read", metric=family.name, **failure_fields(type(error), error.__traceback__))
