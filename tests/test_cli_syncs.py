"""The command line of sources: `dari map kb`, `dari sync`, `dari syncs`, `dari compare`, against a real server."""

import json
from pathlib import Path
from typing import Any

import pytest

from dari import cli
from dari.commands.exit_codes import ExitCode
from tests.fix_server import ServedDari, StartServer

pytestmark = pytest.mark.usefixtures("wide_terminal")

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in" / "sales.csv"


@pytest.fixture
def served(start_server: StartServer, file: Path) -> ServedDari:
    return start_server(source_folders=[file.parent])


def run(served: ServedDari, *arguments: object) -> int:
    return cli.run(["--address", served.server.address, *map(str, arguments)])


def told(served: ServedDari, capsys: Captured, *arguments: object, ends: int = ExitCode.OK) -> Any:
    """The one JSON object that a command prints."""
    capsys.readouterr()
    assert run(served, "--json", *arguments) == ends
    return json.loads(capsys.readouterr().out)


def rows(*numbers: int) -> bytes:
    return b"id,name\n" + b"".join(b"%d,n%d\n" % (number, number) for number in numbers)


def test_a_source_is_made_synced_listed_and_compared(served: ServedDari, file: Path, capsys: Captured) -> None:
    file.write_bytes(rows(*range(10)))
    options = ("--source", file.as_uri(), "--cron", "0 3 * * *", "--key", "id", "--max-shrink", "0.2")
    made = told(served, capsys, "map", "kb", "create", "sales", *options)
    assert made["source"] == {
        "uri": file.as_uri(), "cron": "0 3 * * *", "keyColumns": ["id"], "maxShrinkShare": 0.2,
        "credentialsSecret": "", "onShrink": "ON_SHRINK_HOLD", "paused": False,
    }  # fmt: skip
    first = told(served, capsys, "sync", "sales", "--wait")
    assert (first["state"], first["rowsFound"]) == ("SYNC_STATE_COMPLETED", "10")
    file.write_bytes(rows(*range(2, 12)).replace(b"n5", b"other"))
    assert run(served, "sync", "sales", "--wait") == ExitCode.OK
    compared = told(served, capsys, "compare", "sales")
    assert {name: compared[name] for name in compared if name.startswith("rows")} == {
        "rowsAdded": "2", "rowsRemoved": "2", "rowsChanged": "1", "rowsUnchanged": "7",
    }  # fmt: skip
    whole_row = told(served, capsys, "compare", "sales", "--from", 1, "--to", 2, "--key", "id", "--key", "name")
    assert (whole_row["rowsAdded"], whole_row["rowsChanged"]) == ("3", "0")
    assert run(served, "compare", "sales") == ExitCode.OK
    assert "rows of version 2 against 1" in capsys.readouterr().out
    assert run(served, "syncs", "sales") == ExitCode.OK
    listed = capsys.readouterr().out
    assert listed.count("knowledgeBases/sales") == 2
    assert listed.index(" 2 ") < listed.index(" 1 ")


def test_a_held_source_is_told_by_the_exit_code_until_it_is_accepted(
    served: ServedDari, file: Path, capsys: Captured
) -> None:
    file.write_bytes(rows(*range(10)))
    run(served, "map", "kb", "create", "sales", "--source", file.as_uri())
    run(served, "sync", "sales", "--wait")
    file.write_bytes(rows(1, 2))
    held = told(served, capsys, "sync", "sales", "--wait", ends=ExitCode.FAILED)
    assert (held["state"], held["code"], held["rowsBefore"], held["rowsFound"]) == (
        "SYNC_STATE_HELD", "shrunk", "10", "2",
    )  # fmt: skip
    run(served, "syncs", "sales")
    assert "held: shrunk" in capsys.readouterr().out
    assert run(served, "sync", "sales", "--accept-shrink", "--wait") == ExitCode.OK


def test_parts_of_a_source_are_changed_and_the_others_stay(served: ServedDari, file: Path, capsys: Captured) -> None:
    file.write_bytes(rows(1))
    run(served, "map", "kb", "create", "sales", "--source", file.as_uri(), "--every", "1h", "--key", "id")
    changed = told(served, capsys, "map", "kb", "update", "sales", "--pause", "--cron", "0 3 * * *")["source"]
    assert (changed["paused"], changed["cron"], changed["keyColumns"]) == (True, "0 3 * * *", ["id"])
    assert "interval" not in changed
    changed = told(served, capsys, "map", "kb", "update", "sales", "--resume", "--every", "1d", "--name", "Sales")
    assert (changed["displayName"], changed["source"]["interval"]) == ("Sales", "86400s")
    assert (changed["source"]["cron"], changed["source"]["paused"]) == ("", False)
    changed = told(served, capsys, "map", "kb", "update", "sales", "--every", "", "--key-secret", "store")
    assert changed["source"]["credentialsSecret"] == "store"
    assert "interval" not in changed["source"]
    assert "source" not in told(served, capsys, "map", "kb", "update", "sales", "--source", "")


WRONG = [
    (("create", "other", "--every", "1h"), "give --source"),
    (("create", "other", "--source", "https://example.com/x.csv", "--every", "1 hour"), "such as 15m"),
    (("create", "other", "--source", "https://example.com/x.csv", "--max-shrink", "2"), "--max-shrink"),
    (("update", "plain", "--pause"), "give --source"),
    (("update", "plain"), "name something to change"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_options_that_do_not_fit_are_told(
    shared_server: ServedDari, capsys: Captured, arguments: tuple[str, ...], said: str
) -> None:
    run(shared_server, "map", "kb", "create", "plain")
    capsys.readouterr()
    assert run(shared_server, "map", "kb", *arguments) == ExitCode.USAGE
    assert said in capsys.readouterr().err


def test_what_the_server_refuses_of_a_source_is_told_by_its_field(shared_server: ServedDari, capsys: Captured) -> None:
    options = ("--source", "https://user:key@example.com/x.csv", "--cron", "61 * * * *")
    assert run(shared_server, "map", "kb", "create", "other", *options) == ExitCode.FAILED
    said = capsys.readouterr().err
    assert "knowledge_base.source.uri" in said
    assert "knowledge_base.source.cron" in said
    assert "user:key" not in said


def test_a_sync_of_what_has_no_source_or_is_not_there_is_refused(shared_server: ServedDari, capsys: Captured) -> None:
    run(shared_server, "map", "kb", "create", "plain")
    for name, said in (("plain", "has no source"), ("none", "does not exist")):
        assert run(shared_server, "sync", name, "--wait") == ExitCode.FAILED
        assert said in capsys.readouterr().err
    assert run(shared_server, "compare", "plain") == ExitCode.FAILED
