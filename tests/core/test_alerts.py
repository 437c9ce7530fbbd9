"""The words of alerts: what, where, what to do; and names only."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from dari.core.alerts import Alert, AlertKind, message_of, upload_failed

HOST = "host-7"
NOON = datetime(2026, 1, 1, 12, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize("kind", list(AlertKind))
def test_every_kind_says_what_where_when_and_what_to_do(kind: AlertKind) -> None:
    alert = Alert(kind, "aiModels/flow", "connection_refused", tenant="acme", host=HOST, happen_time=NOON)
    message = message_of(alert, held_back=0)
    assert message.title.startswith("dari: ")
    what, cause, seen, remedy = message.body.splitlines()
    assert what.endswith(".") and remedy.endswith(".") and what != remedy
    assert cause == "Cause: connection refused."
    assert seen == f"Seen by dari on {HOST}, tenant acme, 2026-01-01 12:00:05 UTC."
    assert "{" not in message.title + message.body


def test_what_is_not_known_is_not_said() -> None:
    body = message_of(Alert(AlertKind.CIRCUIT_CLOSED, "aiModels/flow", host=HOST, happen_time=NOON), 0).body
    assert "Cause" not in body
    assert "tenant" not in body


@pytest.mark.parametrize(("held_back", "words"), [(1, "1 more time that"), (7, "7 more times that")])
def test_a_message_says_how_many_it_stands_for(held_back: int, words: str) -> None:
    alert = Alert(AlertKind.NO_MODEL_ANSWERED, "chatConfigurations/bot")
    assert words in message_of(alert, held_back).body


def test_times_are_told_in_utc() -> None:
    alert = Alert(AlertKind.TEST, "t", happen_time=NOON.astimezone(timezone(timedelta(hours=9))))
    assert "12:00:05 UTC" in message_of(alert, 0).body


def test_a_failed_upload_is_named_with_where_it_went() -> None:
    alert = upload_failed("acme", "sales", "daily-7", code="expired")
    body = message_of(alert, 0).body
    assert "uploads/daily-7 into knowledgeBases/sales failed" in body
    assert "`dari uploads sales`" in body
    assert "An upload into" in message_of(replace(alert, item=""), 0).body


def test_each_alert_has_an_id_of_its_own() -> None:
    assert Alert(AlertKind.TEST, "t").id != Alert(AlertKind.TEST, "t").id
