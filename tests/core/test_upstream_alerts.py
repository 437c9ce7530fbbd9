"""What opens, closes, dies and comes back is seen once each, and said again while it lasts."""

from datetime import UTC, datetime, timedelta

import pytest

from dari.core.alerts import AlertKind
from dari.core.circuit import CircuitState
from dari.core.upstream_alerts import UpstreamAlerts, WatchedCircuit
from dari.core.upstream_states import LocalProcess, LocalProcessStatus
from tests.support.event_log import RecordedEvents
from tests.support.operators import RecordedAlerts

REPEAT = timedelta(minutes=15)
SERVER, MODEL = "http://flowise:3000", "aiModels/flow"
CLOSED, OPEN, HALF_OPEN, DRAINED = (
    CircuitState.CLOSED,
    CircuitState.OPEN,
    CircuitState.HALF_OPEN,
    CircuitState.DRAINED,
)
OPENED_ALERT, CLOSED_ALERT = AlertKind.CIRCUIT_OPENED, AlertKind.CIRCUIT_CLOSED
DIED, CANNOT_LOAD, READY = (
    AlertKind.LOCAL_MODEL_DIED,
    AlertKind.LOCAL_MODEL_CANNOT_LOAD,
    AlertKind.LOCAL_MODEL_READY,
)


def process(status: str, restarts: int = 0, last_failure: str | None = None) -> LocalProcess:
    return LocalProcess(
        status=LocalProcessStatus[status.upper()],
        model_file="smol",
        engine="",
        restarts=restarts,
        queue_length=0,
        running=0,
        last_failure=last_failure or "",
        memory_bytes=0,
    )


class Watch:
    """An UpstreamAlerts whose looks see what the test says."""

    def __init__(self) -> None:
        self.circuits: list[WatchedCircuit] = []
        self.process = process("loading")
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.alerts, self.log = RecordedAlerts(), RecordedEvents()
        self.watch = self.made(interval_s=3_600.0)

    def made(self, interval_s: float) -> UpstreamAlerts:
        return UpstreamAlerts(
            lambda: self.circuits,
            lambda: self.process,
            self.alerts,
            self.log,
            repeat=REPEAT,
            interval_s=interval_s,
            clock=lambda: self.now,
        )

    def see(self, *circuits: tuple[str, CircuitState]) -> list[tuple[AlertKind, str]]:
        """What one look at these raises."""
        self.circuits = [WatchedCircuit(subject, state, "stream_cut") for subject, state in circuits]
        return self._look()

    def see_process(self, status: str, restarts: int = 0, last_failure: str | None = None) -> list[AlertKind]:
        self.process = process(status, restarts, last_failure)
        return [kind for kind, _ in self._look()]

    def _look(self) -> list[tuple[AlertKind, str]]:
        before = len(self.alerts.told)
        self.watch.run_once()
        return [(alert.kind, alert.subject) for alert in self.alerts.told[before:]]


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_a_circuit_is_told_when_it_opens_and_when_it_closes(watch: Watch) -> None:
    """Half-open is still open: only a whole answer closes it."""
    assert watch.see((MODEL, CLOSED)) == []
    assert watch.see((MODEL, OPEN)) == [(OPENED_ALERT, MODEL)]
    assert watch.alerts.told[-1].code == "stream_cut"
    for state in (OPEN, HALF_OPEN, OPEN, HALF_OPEN):
        assert watch.see((MODEL, state)) == []
    assert watch.see((MODEL, CLOSED)) == [(CLOSED_ALERT, MODEL)]
    assert watch.see((MODEL, CLOSED)) == []
    assert watch.see((MODEL, HALF_OPEN)) == [(OPENED_ALERT, MODEL)], "open was too short to be seen"


def test_a_server_and_its_models_are_told_apart(watch: Watch) -> None:
    assert watch.see((SERVER, OPEN), (MODEL, CLOSED)) == [(OPENED_ALERT, SERVER)]
    assert watch.see((SERVER, CLOSED), (MODEL, OPEN)) == [(CLOSED_ALERT, SERVER), (OPENED_ALERT, MODEL)]


def test_a_server_under_two_addresses_is_well_when_both_are(watch: Watch) -> None:
    assert watch.see((SERVER, CLOSED), (SERVER, OPEN)) == [(OPENED_ALERT, SERVER)]
    assert watch.see((SERVER, OPEN), (SERVER, CLOSED)) == []
    assert watch.see((SERVER, CLOSED), (SERVER, CLOSED)) == [(CLOSED_ALERT, SERVER)]


def test_what_an_operator_took_out_is_no_news_to_them(watch: Watch) -> None:
    assert watch.see((MODEL, DRAINED)) == []
    assert watch.see((MODEL, CLOSED)) == []


def test_an_upstream_that_nobody_asks_any_more_is_forgotten(watch: Watch) -> None:
    watch.see((MODEL, OPEN))
    assert watch.see() == []
    assert watch.see((MODEL, CLOSED)) == []


def test_what_goes_on_is_said_again_each_period_and_not_counted(watch: Watch) -> None:
    watch.see((MODEL, OPEN))
    for _ in range(3):
        watch.now += REPEAT
        assert watch.see((MODEL, OPEN)) == [(OPENED_ALERT, MODEL)]
        assert watch.see((MODEL, OPEN)) == []
    assert [alert.times for alert in watch.alerts.told] == [1, 0, 0, 0]


LIVES: list[tuple[str, list[tuple[str, int]], list[AlertKind]]] = [
    # what happens, (status, restarts) at each look, what is told
    ("loads and answers", [("loading", 0), ("ready", 0), ("ready", 0)], []),
    ("dies and is back", [("ready", 0), ("restarting", 0), ("loading", 1), ("ready", 1)], [DIED, READY]),
    ("dies between two looks", [("ready", 0), ("loading", 1), ("ready", 1)], [DIED, READY]),
    ("dies and is back between two looks", [("ready", 0), ("ready", 1), ("ready", 1)], [DIED, READY]),
    (
        "dies twice before it is back",
        [("restarting", 0), ("loading", 1), ("restarting", 1), ("ready", 2)],
        [DIED, READY],
    ),
    ("cannot load", [("loading", 0), ("failed", 0), ("loading", 1), ("failed", 1)], [CANNOT_LOAD]),
    ("is mended", [("failed", 0), ("loading", 1), ("ready", 1)], [CANNOT_LOAD, READY]),
    ("stops with the server", [("ready", 0), ("stopped", 0)], []),
]


@pytest.mark.parametrize(("looks", "told"), [life[1:] for life in LIVES], ids=[life[0] for life in LIVES])
def test_the_life_of_the_local_model(watch: Watch, looks: list[tuple[str, int]], told: list[AlertKind]) -> None:
    raised = [kind for status, restarts in looks for kind in watch.see_process(status, restarts, "process_died")]
    assert raised == told
    assert {alert.subject for alert in watch.alerts.told} <= {"modelFiles/smol"}


def test_a_look_that_fails_is_logged_and_the_next_one_looks(watch: Watch) -> None:
    """Its thread goes on."""
    del watch.process
    looking = watch.made(interval_s=0.01)
    looking.start()
    try:
        assert watch.log.wait_for("upstream_alerts_failed", 2, 30.0)
    finally:
        looking.close()
