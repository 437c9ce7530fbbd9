"""`dari notify`: whether messages arrive, and which did; no URL is ever shown."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dari import cli
from dari.adapters.postgres.database import Database
from dari.adapters.postgres.outbox_store import PostgresOutbox
from dari.commands.exit_codes import ExitCode
from dari.core.alerts import Alert, AlertKind
from tests.fix_postgres import PostgresDsns
from tests.support.operators import Operators

pytestmark = pytest.mark.usefixtures("wide_terminal")

Captured = pytest.CaptureFixture[str]
CANARY = "canary-91c2"
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def operators() -> Iterator[Operators]:
    with Operators(CANARY) as operators:
        yield operators


@pytest.fixture
def with_targets(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def with_targets(**urls: str) -> None:
        monkeypatch.setenv("DARI_NOTIFY_URLS", json.dumps(urls))

    return with_targets


@pytest.fixture
def dead_url() -> str:
    """Of a port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"json://user:{CANARY}@127.0.0.1:{port}/{CANARY}"


def test_a_test_message_goes_to_every_target(
    with_targets: Callable[..., None], operators: Operators, capsys: Captured
) -> None:
    with_targets(ops=operators.url, pager=operators.url)
    assert cli.run(["--json", "notify", "test"]) == ExitCode.OK
    output = capsys.readouterr()
    assert [json.loads(line) for line in output.out.splitlines()] == [
        {"target": "ops", "result": "arrived"},
        {"target": "pager", "result": "arrived"},
    ]
    assert operators.titles() == ["a test message"] * 2
    assert CANARY not in output.out + output.err


def test_targets_that_did_not_get_it_are_named_and_the_others_still_get_it(
    with_targets: Callable[..., None], operators: Operators, dead_url: str, capsys: Captured
) -> None:
    with_targets(dead=dead_url, ops=operators.url)
    assert cli.run(["notify", "test"]) == ExitCode.UNAVAILABLE
    output = capsys.readouterr()
    assert "did not arrive" in output.out
    assert operators.titles() == ["a test message"]
    assert CANARY not in output.out + output.err


def test_a_url_that_fits_no_service_is_a_wrong_setting(
    with_targets: Callable[..., None], operators: Operators, capsys: Captured
) -> None:
    with_targets(ops=operators.url, wrong=f"nothing://{CANARY}")
    assert cli.run(["--json", "notify", "test"]) == ExitCode.CONFIG
    output = capsys.readouterr()
    results = {line["target"]: line["result"] for line in map(json.loads, output.out.splitlines())}
    assert results == {"ops": "arrived", "wrong": "its URL fits no service of apprise"}
    assert CANARY not in output.out + output.err


def test_no_server_starts_with_a_url_that_fits_no_service(
    with_targets: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_targets(wrong=f"nothing://{CANARY}")
    monkeypatch.setenv("DARI_DATA_DIR", str(tmp_path))
    ended = subprocess.run([sys.executable, "-m", "dari", "serve"], capture_output=True, text=True, check=False)
    assert ended.returncode == ExitCode.CONFIG
    assert "notify_urls.wrong: fits no service of apprise" in ended.stderr
    assert CANARY not in ended.stdout + ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_targets_there_is_nothing_to_try(capsys: Captured) -> None:
    assert cli.run(["notify", "test"]) == ExitCode.CONFIG
    assert "DARI_NOTIFY_URLS" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["notify", "test"], ["notify", "list"]])
def test_wrong_settings_are_told(monkeypatch: pytest.MonkeyPatch, capsys: Captured, command: list[str]) -> None:
    monkeypatch.setenv("DARI_NOTIFY_QUIET_S", CANARY)
    assert cli.run(command) == ExitCode.CONFIG
    assert "notify_quiet_s" in capsys.readouterr().err


def test_alerts_are_listed_newest_first_with_whom_they_have_reached(
    database: PostgresDsns, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("DARI_DATABASE_DSN", database.service_dsn)
    with closing(Database(database.service_dsn, max_connections=1, wait_timeout_s=2, statement_timeout_s=30)) as own:
        outbox = PostgresOutbox(own)
        for kind in (AlertKind.CIRCUIT_OPENED, AlertKind.UPLOAD_FAILED):
            outbox.add(Alert(kind, f"things/{kind.value}", "stream_cut", happen_time=START))
        outbox.decide(["ops", "pager"], timedelta(minutes=15), START)
        (delivery,) = outbox.claim(["ops"], START, timedelta(minutes=2))
        outbox.settle(delivery, delivered_time=START, retry_time=START)
    assert cli.run(["--json", "notify", "list"]) == ExitCode.OK
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["kind"], line["state"], line["targets"], line["delivered"], line["attempts"]) for line in lines] == [
        ("UPLOAD_FAILED", "TOLD", 2, 0, 0),
        ("CIRCUIT_OPENED", "TOLD", 2, 1, 1),
    ]
    assert cli.run(["notify", "list", "--limit", "1"]) == ExitCode.OK
    table = capsys.readouterr().out
    assert "upload failed" in table and "stream cut" in table and "0 of 2" in table
    assert "circuit opened" not in table


def test_a_database_that_is_away_is_unavailable(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("DARI_DATABASE_DSN", f"host=127.0.0.1 port=1 user=nobody password={CANARY} connect_timeout=1")
    assert cli.run(["notify", "list"]) == ExitCode.UNAVAILABLE
    assert CANARY not in "".join(capsys.readouterr())


def test_the_embedded_database_is_its_servers_own(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path
) -> None:
    monkeypatch.setenv("DARI_DATA_DIR", str(tmp_path))
    assert cli.run(["notify", "list"]) == ExitCode.CONFIG
    assert "DARI_DATABASE_DSN" in capsys.readouterr().err
