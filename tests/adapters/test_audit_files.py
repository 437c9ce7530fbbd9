"""The audit trail: what stands in it, what a full disk does, how files are numbered, and what a crash leaves."""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dari.adapters.audit_files import AuditFolder
from dari.core.audit import AuditedCall, Outcome
from dari.core.callers import Caller, Role
from dari.core.errors import Unavailable
from tests.support.event_log import RecordedEvents

NOW = datetime(2026, 11, 23, 7, 30, tzinfo=UTC)
CALL = AuditedCall(
    "request-1",
    "dari.v1.MappingService/LinkAiModel",
    "ipv4:10.0.0.7:4711",
    Caller("ann", "acme", Role.ADMIN),
    ("chatConfigurations/support", "aiModels/local"),
)
OK = Outcome("OK")


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "var" / "audit"


@pytest.fixture
def trail(folder: Path, events: RecordedEvents) -> Iterator[AuditFolder]:
    with new_trail(folder, events) as trail:
        yield trail


def new_trail(folder: Path, events: RecordedEvents, max_file_bytes: int = 10**6, files_kept: int = 3) -> AuditFolder:
    return AuditFolder(folder, events, max_file_bytes=max_file_bytes, files_kept=files_kept, now=lambda: NOW)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_change_stands_there_before_and_after_it_is_made(trail: AuditFolder, folder: Path) -> None:
    trail.change_begins(CALL)
    begun = {
        "time": "2026-11-23T07:30:00+00:00",
        "event": "begun",
        "request_id": "request-1",
        "rpc": "dari.v1.MappingService/LinkAiModel",
        "caller": "ann",
        "tenant": "acme",
        "role": "admin",
        "peer": "ipv4:10.0.0.7:4711",
        "resources": ["chatConfigurations/support", "aiModels/local"],
    }
    assert lines(folder / "changes.jsonl") == [begun]
    trail.change_ended(CALL, Outcome("NOT_FOUND", "NOT_FOUND"))
    ended = {**begun, "event": "ended", "status": "NOT_FOUND", "reason": "NOT_FOUND", "code": ""}
    assert lines(folder / "changes.jsonl") == [begun, ended]


def test_refusals_stand_apart_and_need_no_caller(trail: AuditFolder, folder: Path) -> None:
    trail.refused(replace(CALL, caller=None), Outcome("UNAUTHENTICATED", "UNAUTHENTICATED", "token_expired"))
    (told,) = lines(folder / "refusals.jsonl")
    assert (told["event"], told["caller"], told["tenant"], told["code"]) == ("refused", None, None, "token_expired")
    assert lines(folder / "changes.jsonl") == []


def test_full_files_are_numbered_and_the_oldest_goes(folder: Path, events: RecordedEvents) -> None:
    """No line is torn apart, and those who knock do not push changes out."""
    with new_trail(folder, events, max_file_bytes=1_024) as trail:
        for number in range(100):
            trail.change_begins(replace(CALL, request_id=f"{number}"))
        kept = [folder / f"changes.jsonl{suffix}" for suffix in (".3", ".2", ".1", "")]
        assert sorted(folder.iterdir()) == sorted([*kept, folder / "refusals.jsonl"])
        told = [int(line["request_id"]) for path in kept for line in lines(path)]
        assert told == list(range(told[0], 100)), "in order, without a gap"
        assert all(path.stat().st_size <= 1_024 for path in kept)
        for _ in range(100):
            trail.refused(CALL, OK)
        assert [int(line["request_id"]) for path in kept for line in lines(path)] == told


def test_a_trail_that_is_opened_again_goes_on(folder: Path, events: RecordedEvents) -> None:
    """Also behind a line that a crash has torn: it stays alone, and the next is whole."""
    with new_trail(folder, events) as trail:
        trail.change_begins(CALL)
    with (folder / "changes.jsonl").open("ab") as file:
        file.write(b'{"time":"20')
    with new_trail(folder, events) as trail:
        trail.change_begins(CALL)
    first, torn, last = (folder / "changes.jsonl").read_text().splitlines()
    assert json.loads(first) == json.loads(last)
    assert torn == '{"time":"20'


def test_a_change_that_cannot_be_recorded_is_refused_and_everything_else_goes_on(
    trail: AuditFolder, folder: Path, events: RecordedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, line: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(Unavailable) as caught:
            trail.change_begins(CALL)
        trail.change_ended(CALL, OK)
        trail.refused(CALL, OK)
    assert caught.value.metadata == {"neighbour": "audit_log"}
    assert [told["rpc"] for told in events.fields("audit_not_written")] == [CALL.rpc] * 3
    trail.change_begins(CALL)
    assert [line for line in (folder / "changes.jsonl").read_text().splitlines() if line][-1].startswith("{")


def test_a_disk_that_takes_half_a_line_tears_no_other(
    trail: AuditFolder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:10]))
        with pytest.raises(Unavailable):
            trail.change_begins(CALL)
    trail.change_begins(CALL)
    torn, whole = (folder / "changes.jsonl").read_text().splitlines()
    assert len(torn) == 10
    assert json.loads(whole)["event"] == "begun"


def test_records_of_many_threads_stand_whole(folder: Path, events: RecordedEvents) -> None:
    with new_trail(folder, events, max_file_bytes=4_096, files_kept=1_000) as trail:

        def record(worker: int) -> None:
            for number in range(50):
                trail.change_begins(replace(CALL, request_id=f"{worker}-{number}"))

        threads = [threading.Thread(target=record, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    told = [line["request_id"] for path in folder.glob("changes.jsonl*") for line in lines(path)]
    assert sorted(told) == sorted(f"{worker}-{number}" for worker in range(4) for number in range(50))


def test_only_the_owner_may_read_it(trail: AuditFolder, folder: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path, events: RecordedEvents) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"), new_trail(tmp_path / "file" / "audit", events):
        pass
