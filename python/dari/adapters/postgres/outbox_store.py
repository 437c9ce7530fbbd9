"""Keeps alerts and what became of them; see `core.alert_dispatch` for their way and `core.quiet_periods` for the rules.

A transaction that stores what an alert tells of stores the alert, too, by `store_alert`: there is never the one without
the other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from psycopg2.extras import execute_values

from dari.adapters.postgres.database import Database, Role, Transaction
from dari.core.alert_dispatch import Delivery
from dari.core.alerts import ENDS, Alert, AlertKind
from dari.core.quiet_periods import Decision, Known, Verdict, decide, decide_end, decide_held, is_end

_ADVISORY_LOCK = int.from_bytes(b"dari-out", "big")
_AT_ONCE = 100
"""Alerts that one transaction decides about; those behind them come with the next round."""
_ALERT = "number, id, tenant, kind, subject, code, item, times, host, happen_time"
_KNOWN = ", ".join(field.name for field in fields(Known))
_KINDS = [kind.value for kind in AlertKind]
"""A newer server may have stored other kinds: they are left to it."""

_ADD = """
INSERT INTO dari.alerts (id, tenant, kind, subject, code, item, times, host, happen_time)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING
"""
_NEW = f"SELECT {_ALERT} FROM dari.alerts WHERE state = 'NEW' AND kind = ANY(%s) ORDER BY number LIMIT %s"
# Only where no quiet period stands before them: the others are many, perhaps, and have nothing new to say.
_HELD = f"""
SELECT {", ".join(f"a.{name}" for name in _ALERT.split(", "))} FROM dari.alerts a
JOIN dari.alert_matters m ON (m.tenant, m.kind, m.subject) = (a.tenant, a.kind, a.subject)
WHERE a.state = 'HELD' AND a.kind = ANY(%s) AND m.quiet_until <= %s ORDER BY a.number LIMIT %s
"""
_MATTER = f"SELECT {_KNOWN} FROM dari.alert_matters WHERE (tenant, kind, subject) = (%s, %s, %s)"
_REMEMBER = f"""
INSERT INTO dari.alert_matters (tenant, kind, subject, {_KNOWN}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (tenant, kind, subject)
DO UPDATE SET ({_KNOWN}) = ({", ".join(f"EXCLUDED.{name}" for name in _KNOWN.split(", "))})
"""
_DROP_HELD = """
DELETE FROM dari.alerts WHERE state = 'HELD' AND (tenant, kind, subject) = (%s, %s, %s) AND number <> %s
"""
_TELL = "UPDATE dari.alerts SET state = 'TOLD', held_back = %s WHERE number = %s"
_HOLD = "UPDATE dari.alerts SET state = 'HELD' WHERE number = %s"
_DROP = "DELETE FROM dari.alerts WHERE number = %s"
_LACKS = "INSERT INTO dari.alert_deliveries (alert, target, due_time) VALUES %s"
# Not SKIP LOCKED: it would go on to the second message while the first is being claimed.
_HEAD = """
SELECT d.alert, d.due_time FROM dari.alert_deliveries d JOIN dari.alerts a ON a.number = d.alert
WHERE d.target = %s AND d.delivered_time IS NULL AND a.kind = ANY(%s) ORDER BY d.alert LIMIT 1 FOR UPDATE OF d
"""
_CLAIM = """
UPDATE dari.alert_deliveries SET attempts = attempts + 1, due_time = %s WHERE (alert, target) = (%s, %s)
RETURNING attempts
"""
_TOLD = f"SELECT {_ALERT}, held_back FROM dari.alerts WHERE number = %s"
# One that arrived stays so: a server whose lease was over may learn late that its own attempt failed.
_SETTLE = """
UPDATE dari.alert_deliveries SET delivered_time = %s, due_time = %s
WHERE (alert, target) = (%s, %s) AND delivered_time IS NULL
"""
_SWEEP = """
DELETE FROM dari.alerts
WHERE create_time < %s OR number <= (SELECT number FROM dari.alerts ORDER BY number DESC OFFSET %s LIMIT 1)
"""
_SWEEP_MATTERS = "DELETE FROM dari.alert_matters WHERE heard_time < %s"
_LATEST = f"""
SELECT {", ".join(f"a.{name}" for name in _ALERT.split(", "))}, a.state, a.held_back,
    count(d.alert), count(d.delivered_time), coalesce(max(d.attempts), 0)
FROM (SELECT * FROM dari.alerts WHERE kind = ANY(%s) ORDER BY number DESC LIMIT %s) a
LEFT JOIN dari.alert_deliveries d ON d.alert = a.number
GROUP BY {", ".join(f"a.{name}" for name in _ALERT.split(", "))}, a.state, a.held_back ORDER BY a.number DESC
"""


@dataclass(frozen=True, slots=True)
class StoredAlert:
    """An alert as it is listed."""

    alert: Alert
    state: str
    """NEW, HELD or TOLD."""
    held_back: int
    targets: int
    """Whom it is told."""
    delivered: int
    """Of these, who have it."""
    attempts: int
    """Most that one of them took or is taking."""


def store_alert(transaction: Transaction, alert: Alert) -> None:
    """Store an alert in the transaction, which runs as the HOUSEKEEPER, or as the APP of the alert's tenant."""
    values = (str(alert.id), alert.tenant, alert.kind.value, alert.subject, alert.code, alert.item, alert.times)
    transaction.execute(_ADD, (*values, alert.host, alert.happen_time))


class PostgresOutbox:
    """An Outbox."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, alert: Alert) -> None:
        """See Outbox."""
        with self._database.transaction(Role.HOUSEKEEPER, tenant=None) as transaction:
            store_alert(transaction, alert)

    def decide(self, targets: Sequence[str], quiet: timedelta, now: datetime) -> None:
        """See Outbox."""
        with self._database.transaction(Role.HOUSEKEEPER, tenant=None) as transaction:
            if transaction.execute("SELECT pg_try_advisory_xact_lock(%s)", (_ADVISORY_LOCK,)).fetchone() != (True,):
                return
            for number, alert in _read(transaction, _NEW, _KINDS, _AT_ONCE):
                decision = _decided(transaction, number, alert, quiet, now)
                _apply(transaction, number, alert, decision, targets, now)
            for number, alert in _read(transaction, _HELD, _KINDS, now, _AT_ONCE):
                decision = decide_held(_known(transaction, alert, alert.kind), alert, quiet, now)
                _remember(transaction, alert, alert.kind, decision.known)
                _apply(transaction, number, alert, decision, targets, now)

    def claim(self, targets: Sequence[str], now: datetime, lease: timedelta) -> list[Delivery]:
        """See Outbox."""
        if not targets:
            return []
        with self._database.transaction(Role.HOUSEKEEPER, tenant=None) as transaction:
            # In one order for all servers, so that they cannot wait for each other.
            claimed = (_claim(transaction, target, now, lease) for target in sorted(targets))
            return [delivery for delivery in claimed if delivery is not None]

    def settle(self, delivery: Delivery, *, delivered_time: datetime | None, retry_time: datetime) -> None:
        """See Outbox."""
        with self._database.transaction(Role.HOUSEKEEPER, tenant=None) as transaction:
            transaction.execute(_SETTLE, (delivered_time, retry_time, delivery.number, delivery.target))

    def sweep(self, before: datetime, most: int) -> int:
        """See Outbox."""
        with self._database.transaction(Role.HOUSEKEEPER, tenant=None) as transaction:
            transaction.execute(_SWEEP_MATTERS, (before,))
            return transaction.execute(_SWEEP, (before, most)).rowcount

    def latest(self, limit: int) -> list[StoredAlert]:
        """The newest alerts, newest first. Raises `Unavailable` where the database is down."""
        with self._database.transaction(Role.HOUSEKEEPER, tenant=None, snapshot=True) as transaction:
            rows = transaction.execute(_LATEST, (_KINDS, limit)).fetchall()
        return [StoredAlert(_alert(row[1:10]), *row[10:]) for row in rows]


def _read(transaction: Transaction, statement: str, *parameters: object) -> Iterator[tuple[int, Alert]]:
    for number, *values in transaction.execute(statement, parameters).fetchall():
        yield number, _alert(values)


def _alert(values: Sequence[Any]) -> Alert:
    """From the columns of _ALERT behind the number."""
    id, tenant, kind, *rest = values
    subject, code, item, times, host, happen_time = rest
    return Alert(AlertKind(kind), subject, code, item, tenant, times=times, happen_time=happen_time, host=host, id=id)


def _decided(transaction: Transaction, number: int, alert: Alert, quiet: timedelta, now: datetime) -> Decision:
    """The decision about a new alert; what operators know is remembered with it."""
    if not is_end(alert):
        decision = decide(_known(transaction, alert, alert.kind), alert, quiet, now)
        _remember(transaction, alert, alert.kind, decision.known)
        return decision
    ended = {kind: decide_end(_known(transaction, alert, kind), now) for kind in ENDS[alert.kind]}
    for kind, one in ended.items():
        _remember(transaction, alert, kind, one.known)
        _drop_held(transaction, number, alert, kind)
    return max(ended.values(), key=lambda one: one.verdict is Verdict.TELL)


def _apply(
    transaction: Transaction, number: int, alert: Alert, decision: Decision, targets: Sequence[str], now: datetime
) -> None:
    match decision.verdict:
        case Verdict.TELL:
            transaction.execute(_TELL, (decision.held_back, number))
            _drop_held(transaction, number, alert, alert.kind)
            if targets:
                execute_values(transaction.cursor(), _LACKS, [(number, target, now) for target in targets])
        case Verdict.HOLD:
            _drop_held(transaction, number, alert, alert.kind)
            transaction.execute(_HOLD, (number,))
        case Verdict.DROP:
            transaction.execute(_DROP, (number,))


def _drop_held(transaction: Transaction, number: int, alert: Alert, kind: AlertKind) -> None:
    """Forget the one that is held: this one stands for it, or says that it is over."""
    transaction.execute(_DROP_HELD, (alert.tenant, kind.value, alert.subject, number))


def _known(transaction: Transaction, alert: Alert, kind: AlertKind) -> Known:
    row = transaction.execute(_MATTER, (alert.tenant, kind.value, alert.subject)).fetchone()
    return Known() if row is None else Known(*row)


def _remember(transaction: Transaction, alert: Alert, kind: AlertKind, known: Known) -> None:
    transaction.execute(_REMEMBER, (alert.tenant, kind.value, alert.subject, *astuple(known)))


def _claim(transaction: Transaction, target: str, now: datetime, lease: timedelta) -> Delivery | None:
    head = transaction.execute(_HEAD, (target, _KINDS)).fetchone()
    if head is None or head[1] > now:
        return None
    ((attempts,),) = transaction.execute(_CLAIM, (now + lease, head[0], target)).fetchall()
    ((number, *values, held_back),) = transaction.execute(_TOLD, (head[0],)).fetchall()
    return Delivery(number, target, attempts, _alert(values), held_back)
