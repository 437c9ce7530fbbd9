"""How many tokens models may read and write in a day for one caller, and for one tenant.

What turns cost is counted on the server that answers them, and added to the ledger that all servers share
(`TokenLedger`) by a thread, all callers of a second together: no turn waits for it, and no row is fought for by every
turn of a tenant. What the ledger then holds comes back with it. So a server knows what was spent on all of them, one
second late; what may be spent beyond a budget is what runs in that second.

A caller who was not seen for a while is looked up by its turn. While the database is gone, turns go on by what was
known last and what this server counted since; that is added when it is back.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

from dari.core.conversations import AttemptRecord
from dari.core.errors import Exhausted, TokensSpent, Unavailable
from dari.core.event_log import EventLog, failure_fields

SETTLE_INTERVAL_S = 1.0
WATCHED_S = 600.0
"""A caller who asked nothing for so long is not looked up any more."""
_STOP_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Spender:
    """Whose turns are counted together."""

    tenant: str
    caller: str


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent on a day, on all servers."""

    day: date
    by_caller: int
    by_tenant: int


class TokenLedger(Protocol):
    """Keeps what was spent. All methods raise `Unavailable` where the database is down."""

    def settle(self, spent: Mapping[Spender, int], asked: Collection[Spender]) -> Mapping[Spender, Spent]:
        """Add this to the current day (UTC, the database's clock); what each of `asked` has spent in it by now."""
        ...


@dataclass(slots=True)
class _Known:
    """Of one spender; guarded by the lock of TokenBudgets."""

    seen_s: float
    spent: Spent | None = None
    """As the ledger had it; None before it was looked up."""
    unsettled: int = 0
    """Spent here since."""


class TokenBudgets:
    """Lets turns begin, and counts them. `start`, then `close`; `settle` is one round. Thread-safe."""

    def __init__(
        self,
        ledger: TokenLedger,
        log: EventLog,
        *,
        per_caller: int | None,
        per_tenant: int | None,
        interval_s: float = SETTLE_INTERVAL_S,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """None is no limit; without any nothing is counted."""
        self._ledger = ledger
        self._log = log
        self._per_caller = per_caller
        self._per_tenant = per_tenant
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()  # guards the two below
        self._known: dict[Spender, _Known] = {}
        self._refused = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="token-budgets", daemon=True)

    @property
    def refused(self) -> int:
        """Turns since the start that were beyond a budget."""
        return self._refused

    @property
    def _has_limits(self) -> bool:
        return self._per_caller is not None or self._per_tenant is not None

    def start(self) -> None:
        """Begin to settle."""
        if self._has_limits:
            self._thread.start()

    def close(self) -> None:
        """Settle once more, and no further."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S)
        with self._lock:
            lost = sum(known.unsettled for known in self._known.values())
        if lost:
            self._log.error("token_counts_lost", tokens=lost)

    def check(self, tenant: str, caller: str, *, may_look: bool = True) -> None:
        """Before a turn: looks up a caller who was not seen lately, where it may, with the thread's patience.

        Raises TokensSpent.
        """
        if not self._has_limits:
            return
        spender = Spender(tenant, caller)
        with self._lock:
            known = self._known.setdefault(spender, _Known(0.0))
            known.seen_s = time.monotonic()
            is_known = known.spent is not None and known.spent.day == self._clock().date()
        if may_look and not is_known:
            # Where the database is gone a chat goes on without; the next round looks again.
            with suppress(Unavailable, Exhausted):
                self._learn(self._ledger.settle({}, [spender]))
        with self._lock:
            self._check_spent(spender)

    def add(self, tenant: str, caller: str, attempts: Iterable[AttemptRecord]) -> None:
        """Behind a turn, however it ended: what each model that was asked has read and written."""
        tokens = sum(attempt.tokens for attempt in attempts)
        if self._has_limits and tokens:
            with self._lock:
                self._known.setdefault(Spender(tenant, caller), _Known(time.monotonic())).unsettled += tokens

    def settle(self) -> None:
        """Add to the ledger what was counted, and learn what the others did. Raises DariError."""
        seen_since_s = time.monotonic() - WATCHED_S
        with self._lock:
            self._known = {
                spender: known
                for spender, known in self._known.items()
                if known.unsettled or known.seen_s >= seen_since_s
            }
            asked = list(self._known)
            unsettled = {spender: known.unsettled for spender, known in self._known.items() if known.unsettled}
        if asked:
            self._learn(self._ledger.settle(unsettled, asked), unsettled)

    def _learn(self, spent: Mapping[Spender, Spent], settled: Mapping[Spender, int] | None = None) -> None:
        with self._lock:
            for spender, now_spent in spent.items():
                known = self._known.setdefault(spender, _Known(time.monotonic()))
                known.spent = now_spent
                known.unsettled -= (settled or {}).get(spender, 0)

    def _check_spent(self, spender: Spender) -> None:
        """With the lock held."""
        now = self._clock()
        of_caller = of_tenant = 0
        known = self._known.get(spender)
        if known is not None and known.spent is not None and known.spent.day == now.date():
            of_caller, of_tenant = known.spent.by_caller, known.spent.by_tenant
        of_caller += known.unsettled if known is not None else 0
        of_tenant += sum(each.unsettled for other, each in self._known.items() if other.tenant == spender.tenant)
        limits = (
            ("caller_tokens_per_day", self._per_caller, of_caller),
            ("tenant_tokens_per_day", self._per_tenant, of_tenant),
        )
        for name, limit, spent in limits:
            if limit is not None and spent >= limit:
                self._refused += 1
                raise TokensSpent.of(name, limit, _rest_of_day_s(now))

    def _work(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopping.wait(self._interval_s)
            try:
                self.settle()
            except (Unavailable, Exhausted):
                continue
            except Exception as error:  # noqa: BLE001 - the next round may succeed, and nobody else would tell of this
                self._log.error("token_budgets_failed", **failure_fields(type(error), error.__traceback__))


def _rest_of_day_s(now: datetime) -> float:
    next_day = datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=1)
    return (next_day - now).total_seconds()
