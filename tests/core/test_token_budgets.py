"""What models may read and write in a day, counted on all servers together."""

from datetime import UTC, datetime, timedelta

import pytest

from dari.core.conversations import Answerer, AttemptOutcome, AttemptRecord
from dari.core.errors import TokensSpent
from dari.core.token_budgets import TokenBudgets
from tests.support.event_log import RecordedEvents
from tests.support.token_ledgers import Ledger

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


class Server:
    """The budgets of one server over a shared ledger."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        per_caller: int | None = 100,
        per_tenant: int | None = None,
    ) -> None:
        self.budgets = TokenBudgets(ledger, RecordedEvents(), per_caller=per_caller, per_tenant=per_tenant, clock=clock)

    def turn(self, tokens: int, caller: str = "ann", tenant: str = "acme") -> None:
        self.budgets.check(tenant, caller)
        self.budgets.add(tenant, caller, [asked(tokens // 2), asked(tokens - tokens // 2)])


def asked(tokens: int) -> AttemptRecord:
    return AttemptRecord("m", Answerer.FLOWISE, AttemptOutcome.FAILED, "stall", 1.0, tokens=tokens)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(NOON.date())


def test_a_caller_is_refused_when_the_budget_is_spent_and_until_the_day_ends(ledger: Ledger, clock: Clock) -> None:
    """Also before anything was settled; failed attempts were read and written as well."""
    server = Server(ledger, clock)
    server.turn(99)
    server.turn(50)
    with pytest.raises(TokensSpent) as caught:
        server.turn(1)
    assert caught.value.metadata == {"limit": "caller_tokens_per_day", "value": "100"}
    assert caught.value.retry_delay_s == timedelta(hours=12).total_seconds()
    server.turn(1, caller="bob")
    clock.now += timedelta(hours=12)
    server.budgets.settle()
    ledger.day = clock.now.date()
    server.turn(99)
    assert server.budgets.refused == 1


def test_what_is_spent_on_one_server_is_spent_on_all(ledger: Ledger, clock: Clock) -> None:
    """A server that never saw the caller looks; one that did learns it with its next round."""
    first, second, third = (Server(ledger, clock) for _ in range(3))
    second.turn(1)
    first.turn(120)
    second.turn(1)
    first.budgets.settle()
    second.budgets.settle()
    for server in (first, second, third):
        with pytest.raises(TokensSpent):
            server.turn(1)


def test_a_tenant_has_a_budget_for_all_its_callers(ledger: Ledger, clock: Clock) -> None:
    first, second = (Server(ledger, clock, per_caller=None, per_tenant=100) for _ in range(2))
    first.turn(60, caller="ann")
    second.turn(60, caller="bob")
    first.budgets.settle()
    second.budgets.settle()
    for server in (first, second):
        server.budgets.settle()
        with pytest.raises(TokensSpent) as caught:
            server.turn(1, caller="carol")
        assert caught.value.metadata["limit"] == "tenant_tokens_per_day"
        server.turn(1, tenant="other")


def test_turns_go_on_while_the_database_is_gone_and_are_counted_when_it_is_back(ledger: Ledger, clock: Clock) -> None:
    server = Server(ledger, clock)
    server.turn(40)
    server.budgets.settle()
    ledger.is_gone = True
    server.turn(40)
    server.turn(1, caller="new")
    server.turn(30)
    with pytest.raises(TokensSpent):
        server.turn(1)
    ledger.is_gone = False
    server.budgets.settle()
    with pytest.raises(TokensSpent):
        Server(ledger, clock).turn(1)


def test_a_database_that_is_known_to_be_gone_is_not_waited_for(ledger: Ledger, clock: Clock) -> None:
    server = Server(ledger, clock)
    server.budgets.check("acme", "ann", may_look=False)
    assert ledger.looks == 0


def test_without_a_limit_nothing_is_looked_up_or_counted(ledger: Ledger, clock: Clock) -> None:
    server = Server(ledger, clock, per_caller=None)
    server.turn(10**9)
    server.turn(10**9)
    server.budgets.settle()
    assert ledger.looks == 0


def test_what_was_counted_is_settled_at_the_end(ledger: Ledger, clock: Clock) -> None:
    server = Server(ledger, clock)
    server.budgets.start()
    server.turn(120)
    server.budgets.close()
    with pytest.raises(TokensSpent):
        Server(ledger, clock).turn(1)
