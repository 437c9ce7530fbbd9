"""Brings alerts to operators: through an outbox in the database, which survives restarts and is shared by all servers.

One thread works the outbox in rounds: it stores what waits in memory, notes which messages arrived, lets the outbox
decide what is told, and hands the next message to every target that is free. Each target has a thread of its own that
does nothing but send: a slow one delays neither the others nor anybody who raises an alert.

    tell ──► WaitingAlerts ──► Outbox: add, decide, claim ──► one thread a target ──► arrived? ──► Outbox: settle

That the database is gone cannot be told through it. Each server tells that by itself, from memory, under the same
quiet periods; the other alerts wait until it is back.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from typing import Protocol

from dari.core.alerts import DATABASE, Alert, AlertKind, Message, message_of
from dari.core.errors import DariError, Exhausted, Unavailable
from dari.core.event_log import EventLog, failure_fields
from dari.core.quiet_periods import Decision, Known, Verdict, decide, decide_end, decide_held
from dari.core.telemetry import NO_TELEMETRY, Telemetry
from dari.core.waiting_alerts import MAX_WAITING, WaitingAlerts

ROUND_INTERVAL_S = 2.0
DATABASE_GONE_AFTER = timedelta(seconds=10)
"""How long PostgreSQL must be away before somebody is called: a restart takes less."""
LEASE = timedelta(minutes=2)
"""A message that was handed to a target is that server's for so long; then another may send it again."""
RETENTION = timedelta(days=7)
MAX_STORED = 10_000
"""Alerts older or more than these go, also those that never arrived."""
_SWEEP_INTERVAL = timedelta(hours=1)
_FIRST_RETRY_S, _LONGEST_RETRY_S = 5.0, 600.0
"""A target that did not take a message is asked again after the one, then after twice as long, up to the other."""
_MAX_DIRECT = 10
"""Messages about the database that wait for one target."""
_STOP_TIMEOUT_S = 2.0


class Target(Protocol):
    """A way to operators: a chat room, a mailbox, a pager."""

    @property
    def name(self) -> str:
        """As the settings call it; fit for logs, which its address is not."""
        ...

    def send(self, message: Message) -> bool:
        """Whether it arrived, as far as the other side says. Used by one thread; must have limits of its own."""
        ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that is this server's to send to one target, until the lease is over."""

    number: int
    """Of the alert in the outbox."""
    target: str
    attempt: int
    """1 for the first."""
    alert: Alert
    held_back: int


class Outbox(Protocol):
    """Keeps alerts until every target has them. All methods raise `Unavailable` where the database is down."""

    def add(self, alert: Alert) -> None:
        """Store it; one whose id is stored already changes nothing."""
        ...

    def decide(self, targets: Sequence[str], quiet: timedelta, now: datetime) -> None:
        """Let every new alert be told to these targets, held back, or dropped; see `core.quiet_periods`.

        One server at a time does it; where another is at it, this does nothing.
        """
        ...

    def claim(self, targets: Sequence[str], now: datetime, lease: timedelta) -> list[Delivery]:
        """The oldest message that each of these targets lacks, unless it was claimed or is to be retried later.

        A target gets its messages in their order, one at a time, from whichever server: "closed" never comes first.
        """
        ...

    def settle(self, delivery: Delivery, *, delivered_time: datetime | None, retry_time: datetime) -> None:
        """Note that it arrived, or, without a `delivered_time`, when it is to be tried again."""
        ...

    def sweep(self, before: datetime, most: int) -> int:
        """Forget alerts from before that time, and all but the newest so many; returns how many went."""
        ...


class AlertDispatcher:
    """An AlertSink. `start`, then `close`; `run_once` is one round. Thread-safe."""

    def __init__(
        self,
        outbox: Outbox,
        targets: Sequence[Target],
        log: EventLog,
        *,
        quiet: timedelta,
        interval_s: float = ROUND_INTERVAL_S,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        max_waiting: int = MAX_WAITING,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._outbox = outbox
        self._log = log
        self._telemetry = telemetry
        self._quiet = quiet
        self._interval_s = interval_s
        self._clock = clock
        self._waiting = WaitingAlerts(max_waiting)
        self._sent: SimpleQueue[_Sent] = SimpleQueue()
        self._wake = threading.Event()
        self._claims_no_more = threading.Event()
        self._stopping = threading.Event()
        # All below belong to the round, which one thread does.
        self._unsettled: deque[_Sent] = deque()
        self._senders = {target.name: _Sender(target, self._on_sent, clock, log) for target in targets}
        self._database = _DatabaseState(quiet)
        self._swept_time: datetime | None = None
        self._thread = threading.Thread(target=self._work, name="alerts", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Send no further, and store what waits and what has arrived.

        A target that is slow to answer is not waited for: what arrives there behind this comes once more.
        """
        self._claims_no_more.set()
        deadline_s = time.monotonic() + _STOP_TIMEOUT_S
        for sender in self._senders.values():
            sender.close(deadline_s)
        self._stopping.set()
        self._wake.set()
        self._thread.join(_STOP_TIMEOUT_S)
        lost = len(self._waiting)
        if lost:
            self._log.error("alerts_lost", alerts=lost)

    @property
    def waiting_count(self) -> int:
        """Alerts in memory that are not in the outbox yet."""
        return len(self._waiting)

    def tell(self, alert: Alert) -> None:
        """See AlertSink."""
        # The round is not woken: one in each interval stores all that came, whatever a storm of turns raises.
        self._waiting.put(alert)

    def run_once(self) -> None:
        """Do a round. No DariError leaves it."""
        now = self._clock()
        try:
            self._work_outbox(now)
        except Unavailable:
            self._tell_directly(self._database.is_gone(now))
        except DariError as error:
            self._log.warning("alerts_wait", reason=error.reason, waiting=len(self._waiting))
        else:
            self._tell_directly(self._database.answers(now))
        for sender in self._senders.values():
            sender.hand_direct(now)

    def _work_outbox(self, now: datetime) -> None:
        self._store()
        self._settle()
        self._outbox.decide(list(self._senders), self._quiet, now)
        if not self._claims_no_more.is_set():
            free = [name for name, sender in self._senders.items() if sender.is_free(now)]
            for delivery in self._outbox.claim(free, now, LEASE):
                self._senders[delivery.target].hand(delivery)
        if self._swept_time is None or now >= self._swept_time + _SWEEP_INTERVAL:
            self._outbox.sweep(now - RETENTION, MAX_STORED)
            self._swept_time = now

    def _store(self) -> None:
        lost = self._waiting.lost()
        if lost:
            self._log.error("alerts_lost", alerts=lost)
        while (alert := self._waiting.oldest()) is not None:
            try:
                self._outbox.add(alert)
            except (Unavailable, Exhausted):
                raise
            except DariError as error:
                # It would not fit a second time either, and those behind it wait.
                self._log.error("alert_not_stored", kind=alert.kind.value, reason=error.reason)
            self._waiting.done()

    def _settle(self) -> None:
        """Write down what became of messages. What cannot be written stays here: only then is nothing sent twice."""
        while not self._sent.empty():
            self._unsettled.append(self._sent.get())
        while self._unsettled:
            sent = self._unsettled[0]
            arrived = sent.time if sent.has_arrived else None
            self._outbox.settle(sent.delivery, delivered_time=arrived, retry_time=sent.retry_time)
            self._unsettled.popleft()
            self._telemetry.alert_sent(sent.delivery.alert.kind.value, has_arrived=sent.has_arrived)
            tell = self._log.info if sent.has_arrived else self._log.warning
            tell(
                "alert_sent" if sent.has_arrived else "alert_not_sent",
                target=sent.delivery.target,
                kind=sent.delivery.alert.kind.value,
                subject=sent.delivery.alert.subject,
                attempt=sent.delivery.attempt,
            )

    def _on_sent(self, delivery: Delivery, has_arrived: bool) -> None:
        """Called by the thread of a target."""
        now = self._clock()
        self._sent.put(_Sent(delivery, has_arrived, now, now + retry_delay(delivery.attempt)))
        self._wake.set()

    def _tell_directly(self, told: "tuple[Alert, int] | None") -> None:
        if told is None:
            return
        alert, held_back = told
        self._log.warning("alert_told_directly", kind=alert.kind.value)
        for sender in self._senders.values():
            sender.put_direct(message_of(alert, held_back))

    def _work(self) -> None:
        is_last = False
        while not is_last:
            self._wake.clear()
            is_last = self._stopping.is_set()
            try:
                self.run_once()
            except Exception as error:  # noqa: BLE001 - the next round may succeed, and nobody else would tell of this
                self._log.error("alerts_failed", **failure_fields(type(error), error.__traceback__))
            if not is_last:
                self._wake.wait(self._interval_s)


def retry_delay(attempt: int) -> timedelta:
    """How long to wait behind a failed attempt; `attempt` is 1 for the first."""
    return timedelta(seconds=min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(attempt - 1, 16)))


@dataclass(frozen=True, slots=True)
class _Sent:
    """What became of a message."""

    delivery: Delivery
    has_arrived: bool
    time: datetime
    retry_time: datetime


class _Sender:
    """The thread of one target, begun at once. It holds one message at a time; those about the database come first."""

    def __init__(
        self,
        target: Target,
        on_sent: Callable[[Delivery, bool], None],
        clock: Callable[[], datetime],
        log: EventLog,
    ) -> None:
        self._target = target
        self._on_sent = on_sent
        self._clock = clock
        self._log = log
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()  # guards the four below
        self._is_busy = False
        self._direct: deque[Message] = deque(maxlen=_MAX_DIRECT)
        self._direct_attempts = 0
        self._direct_due: datetime | None = None
        self._thread = threading.Thread(target=self._work, name=f"notify-{target.name}", daemon=True)
        self._thread.start()

    def close(self, deadline_s: float) -> None:
        """Send no further; wait for what is being sent, until this time of the monotonic clock, then leave it."""
        self._jobs.put(None)
        self._thread.join(max(0.0, deadline_s - time.monotonic()))

    def is_free(self, now: datetime) -> bool:
        """Whether it can take a message of the outbox."""
        with self._lock:
            return not self._is_busy and not self._has_direct(now)

    def hand(self, delivery: Delivery) -> None:
        """Send this; only to one that is free."""
        with self._lock:
            self._is_busy = True
        self._jobs.put(lambda: self._deliver(delivery))

    def put_direct(self, message: Message) -> None:
        """Keep a message that is in no outbox until it has arrived."""
        with self._lock:
            self._direct.append(message)

    def hand_direct(self, now: datetime) -> None:
        """Send the oldest of these, where one is due and nothing else is being sent."""
        with self._lock:
            if self._is_busy or not self._has_direct(now):
                return
            self._is_busy = True
            message = self._direct[0]
        self._jobs.put(lambda: self._deliver_direct(message))

    def _has_direct(self, now: datetime) -> bool:
        """With the lock held."""
        return bool(self._direct) and (self._direct_due is None or now >= self._direct_due)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _deliver(self, delivery: Delivery) -> None:
        has_arrived = self._send(message_of(delivery.alert, delivery.held_back))
        with self._lock:
            self._is_busy = False
        self._on_sent(delivery, has_arrived)

    def _deliver_direct(self, message: Message) -> None:
        has_arrived = self._send(message)
        now = self._clock()
        with self._lock:
            self._is_busy = False
            if has_arrived:
                self._direct_attempts, self._direct_due = 0, None
                if self._direct and self._direct[0] is message:
                    self._direct.popleft()
            else:
                self._direct_attempts += 1
                self._direct_due = now + retry_delay(self._direct_attempts)

    def _send(self, message: Message) -> bool:
        try:
            return self._target.send(message)
        except Exception as error:  # noqa: BLE001 - foreign code of a hundred kinds; its text may hold the address
            self._log.error(
                "alert_target_failed", target=self._target.name, **failure_fields(type(error), error.__traceback__)
            )
            return False


class _DatabaseState:
    """What this server has told of its database. Used by the round only."""

    def __init__(self, quiet: timedelta) -> None:
        self._quiet = quiet
        self._known = Known()
        self._gone_since: datetime | None = None
        self._alert: Alert | None = None
        """Raised, told or held, since it is gone."""

    def is_gone(self, now: datetime) -> tuple[Alert, int] | None:
        """It did not answer: what is to be told, and how often that happened untold."""
        self._gone_since = self._gone_since or now
        if self._alert is not None:
            if not self._known.is_held:
                return None
            return self._told(self._alert, decide_held(self._known, self._alert, self._quiet, now))
        if now < self._gone_since + DATABASE_GONE_AFTER:
            return None
        self._alert = Alert(AlertKind.DATABASE_GONE, DATABASE, happen_time=self._gone_since)
        return self._told(self._alert, decide(self._known, self._alert, self._quiet, now))

    def answers(self, now: datetime) -> tuple[Alert, int] | None:
        """It did."""
        self._gone_since = None
        if self._alert is None:
            return None
        self._alert = None
        return self._told(Alert(AlertKind.DATABASE_BACK, DATABASE, happen_time=now), decide_end(self._known, now))

    def _told(self, alert: Alert, decision: Decision) -> tuple[Alert, int] | None:
        self._known = decision.known
        return (alert, decision.held_back) if decision.verdict is Verdict.TELL else None
