"""What is scraped: every family of the table, labels with an end, and a page that no broken reader takes away."""

import socket
from collections.abc import Callable, Iterable, Iterator

import pytest

from dari.adapters.telemetry.endpoint import MetricsEndpoint
from dari.adapters.telemetry.families import ATTEMPTS, CIRCUITS, FAMILIES, OPEN_UPLOADS, PROBES, Family
from dari.adapters.telemetry.looking import RegularLook
from dari.adapters.telemetry.metrics import MAX_CHILDREN, OTHER, Metrics, number
from dari.core.errors import Unavailable
from tests.support.event_log import RecordedEvents
from tests.support.metrics_page import page, samples, total, value
from tests.support.running_dari import SOON_S


def scraped(metrics: Metrics) -> str:
    with MetricsEndpoint(metrics.registry, "127.0.0.1:0") as endpoint:
        return page(endpoint.address)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_follow_prometheus(family: Family) -> None:
    """One prefix, a counter in _total, and no other in it; a histogram in its unit, with its buckets in order."""
    assert family.name.startswith("dari_")
    assert (family.kind == "counter") == family.name.endswith("_total")
    if family.kind == "histogram":
        assert family.name.endswith("_seconds")
        assert list(family.buckets) == sorted(set(family.buckets))
    assert family.help.endswith((".", ")"))


def test_labels_have_an_end() -> None:
    """Beyond what any closed list has, values are counted together instead of kept."""
    metrics = Metrics(RecordedEvents())
    attempts = metrics.many(ATTEMPTS)
    for count in range(MAX_CHILDREN + 10):
        attempts.of("FLOWISE", "FAILED", f"cause_{count}").inc()
    text = scraped(metrics)
    assert total(text, ATTEMPTS) == MAX_CHILDREN + 10
    assert value(text, ATTEMPTS, kind=OTHER, outcome=OTHER, cause=OTHER) == 10
    assert len(samples(text)[ATTEMPTS.name]) == MAX_CHILDREN + 1


def test_one_reader_that_fails_leaves_the_others() -> None:
    """It is told once, and not at every scrape; and again after it had worked."""
    metrics, fails = Metrics(events := RecordedEvents()), [True]

    def read() -> Iterable[tuple[tuple[str, ...], float]]:
        if fails[0]:
            raise ValueError("canary")
        return [(("server", "open"), 1.0)]

    metrics.read(CIRCUITS, read)
    metrics.read(OPEN_UPLOADS, number(lambda: 3))
    with MetricsEndpoint(metrics.registry, "127.0.0.1:0") as endpoint:
        for fails[0] in (True, True, False, True):
            text = page(endpoint.address)
            assert value(text, OPEN_UPLOADS) == 3
            assert value(text, CIRCUITS, of="server", state="open") == (0.0 if fails[0] else 1.0)
    assert [fields["metric"] for fields in events.fields("metric_not_read")] == [CIRCUITS.name] * 2
    assert "canary" not in str(events.fields("metric_not_read"))


def test_one_who_connects_and_says_nothing_holds_nobody() -> None:
    """Whoever scrapes meanwhile is served; and the end does not wait for the silent."""
    metrics = Metrics(RecordedEvents())
    metrics.many(PROBES).of("answers").inc()
    with MetricsEndpoint(metrics.registry, "127.0.0.1:0", silence_s=0.1) as endpoint:
        host, _, port = endpoint.address.rpartition(":")
        with socket.create_connection((host, int(port))) as silent:
            assert total(page(endpoint.address), PROBES) == 1
            silent.settimeout(SOON_S)
            assert silent.recv(1) == b"", "it is left after a while"


def test_an_address_of_ipv6_is_served() -> None:
    """As HOST:PORT writes it."""
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        endpoint = MetricsEndpoint(Metrics(RecordedEvents()).registry, "[::1]:0")
    except OSError:
        pytest.skip("this machine has no loopback of IPv6")
    with endpoint:
        assert "process_" in page(endpoint.address)


def gone() -> int:
    raise Unavailable.of("database")


def test_a_look_that_fails_leaves_what_was_seen_before() -> None:
    """And its age grows, by which one sees that the neighbour is gone."""
    looks: Iterator[Callable[[], int]] = iter([lambda: 1, gone])

    def read() -> int:
        return next(looks)()

    look = RegularLook(read, events := RecordedEvents(), interval_s=0.01)
    before = look.latest
    assert before is None
    look.start()
    assert events.wait_for("figures_not_read", 1, SOON_S), "the third look finds nothing to read: a defect"
    look.close()
    assert look.latest == 1
    assert look.age_s() >= 0.01
    assert events.fields("figures_not_read")[0]["error_type"] == "StopIteration"
