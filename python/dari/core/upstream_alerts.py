"""Sees when an upstream's circuit opens or closes, and when the local model dies or is back, and raises alerts.

It looks from a thread of its own, so that no turn waits for it; what opens and closes between two looks is not seen,
and need not be told.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dari.core.alerts import Alert, AlertKind, AlertSink
from dari.core.circuit import CircuitState
from dari.core.event_log import EventLog, failure_fields
from dari.core.upstream_states import LocalProcess, LocalProcessStatus

LOOK_INTERVAL_S = 1.0
_STOP_TIMEOUT_S = 2.0
_LETS_FEW_THROUGH = (CircuitState.OPEN, CircuitState.HALF_OPEN)
_IS_DOWN = (LocalProcessStatus.RESTARTING, LocalProcessStatus.FAILED)


@dataclass(frozen=True, slots=True)
class WatchedCircuit:
    """A circuit as it is at one moment."""

    subject: str
    """aiModels/{id}, or scheme, host and port of a server."""
    state: CircuitState
    last_failure: str | None


class UpstreamAlerts:
    """Looks at each interval. `start`, then `close`; `run_once` is one look, by one thread at a time.

    What goes on is said again after `repeat`, the quiet period of the alerts: see `core.quiet_periods`.
    """

    def __init__(
        self,
        circuits: Callable[[], Sequence[WatchedCircuit]],
        local_process: Callable[[], LocalProcess | None],
        alerts: AlertSink,
        log: EventLog,
        *,
        repeat: timedelta,
        interval_s: float = LOOK_INTERVAL_S,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._circuits = circuits
        self._local_process = local_process
        self._alerts = alerts
        self._log = log
        self._repeat = repeat
        self._interval_s = interval_s
        self._clock = clock
        self._going_on: dict[tuple[AlertKind, str], datetime] = {}
        """What was raised and is not over, and when it was said last."""
        self._deaths_seen = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="upstream-alerts", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join(_STOP_TIMEOUT_S)

    def run_once(self) -> None:
        """Look now."""
        self._look_at_circuits(self._circuits())
        process = self._local_process()
        if process is not None:
            self._look_at_process(process)

    def _look_at_circuits(self, circuits: Sequence[WatchedCircuit]) -> None:
        # One server may stand under two base URLs; it is well when all of its circuits are.
        failing = {circuit.subject for circuit in circuits if circuit.state in _LETS_FEW_THROUGH}
        for circuit in circuits:
            if circuit.state in _LETS_FEW_THROUGH:
                self._goes_on(AlertKind.CIRCUIT_OPENED, circuit.subject, circuit.last_failure)
            elif circuit.state is CircuitState.CLOSED and circuit.subject not in failing:
                self._is_over(AlertKind.CIRCUIT_CLOSED, circuit.subject, AlertKind.CIRCUIT_OPENED)
        known = {circuit.subject for circuit in circuits}
        for kind, subject in list(self._going_on):
            if kind is AlertKind.CIRCUIT_OPENED and subject not in known:
                del self._going_on[kind, subject]  # Nobody asks it any more.

    def _look_at_process(self, process: LocalProcess) -> None:
        subject = f"modelFiles/{process.model_file}"
        is_down = process.status in _IS_DOWN
        deaths = process.restarts + is_down
        cannot_load = process.status is LocalProcessStatus.FAILED
        kind = AlertKind.LOCAL_MODEL_CANNOT_LOAD if cannot_load else AlertKind.LOCAL_MODEL_DIED
        if is_down or deaths > self._deaths_seen:
            self._goes_on(kind, subject, process.last_failure)
        self._deaths_seen = deaths
        if process.status is LocalProcessStatus.READY:
            self._is_over(
                AlertKind.LOCAL_MODEL_READY,
                subject,
                AlertKind.LOCAL_MODEL_DIED,
                AlertKind.LOCAL_MODEL_CANNOT_LOAD,
            )

    def _goes_on(self, kind: AlertKind, subject: str, code: str | None) -> None:
        """Say that it began; or, when that was said long ago, that it still goes on."""
        now = self._clock()
        said_time = self._going_on.get((kind, subject))
        if said_time is None or now >= said_time + self._repeat:
            self._going_on[kind, subject] = now
            times = 1 if said_time is None else 0
            self._alerts.tell(Alert(kind, subject, code or "", times=times, happen_time=now))

    def _is_over(self, kind: AlertKind, subject: str, *begun: AlertKind) -> None:
        said = [self._going_on.pop((one, subject), None) for one in begun]
        if any(said):
            self._alerts.tell(Alert(kind, subject, happen_time=self._clock()))

    def _work(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self.run_once()
            except Exception as error:  # noqa: BLE001 - a defect here must not silence what comes later
                self._log.error("upstream_alerts_failed", **failure_fields(type(error), error.__traceback__))
