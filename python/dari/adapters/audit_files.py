"""Keeps the audit trail as lines of JSON in files that grow to a size and are then numbered.

Files and not a table: a refusal must be recorded while the database is gone, without a token nobody may make it write,
and no role of the database can alter them. `changes.jsonl` and `refusals.jsonl` are apart, because only known callers
make changes, and anybody who knocks makes refusals: these must not push those out.
"""

import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from dari.core.audit import AuditedCall, Outcome
from dari.core.errors import Unavailable
from dari.core.event_log import EventLog

CHANGES, REFUSALS = "changes", "refusals"
_PRIVATE = 0o600


def _now() -> datetime:
    return datetime.now(UTC)


class AuditFolder:
    """An AuditTrail in a folder of this process's own. Use in a `with` statement, which opens and closes the files.

    The beginning of a change is on disk (fdatasync) before the change is made: one that the records do not know of
    cannot be found by any later look. Everything else is left to the operating system, which a kill of this process
    does not touch: else anybody who knocks could keep the disk busy.
    """

    def __init__(
        self, folder: Path, log: EventLog, *, max_file_bytes: int, files_kept: int, now: Callable[[], datetime] = _now
    ) -> None:
        self._log = log
        self._now = now
        self._files = {
            kind: _NumberedFile(folder / f"{kind}.jsonl", max_file_bytes, files_kept) for kind in (CHANGES, REFUSALS)
        }

    def __enter__(self) -> Self:
        """Raises OSError where the folder cannot be made or written."""
        for file in self._files.values():
            file.open()
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files.values():
            file.close()

    def change_begins(self, call: AuditedCall) -> None:
        """See AuditTrail."""
        try:
            self._files[CHANGES].append(self._line("begun", call, None), on_disk=True)
        except OSError as error:
            self._log.error("audit_not_written", rpc=call.rpc, error_type=type(error).__name__)
            raise Unavailable.of("audit_log") from error

    def change_ended(self, call: AuditedCall, outcome: Outcome) -> None:
        """See AuditTrail."""
        self._append(CHANGES, "ended", call, outcome)

    def refused(self, call: AuditedCall, outcome: Outcome) -> None:
        """See AuditTrail."""
        self._append(REFUSALS, "refused", call, outcome)

    def _append(self, kind: str, event: str, call: AuditedCall, outcome: Outcome) -> None:
        try:
            self._files[kind].append(self._line(event, call, outcome), on_disk=False)
        except OSError as error:
            self._log.error("audit_not_written", rpc=call.rpc, error_type=type(error).__name__)

    def _line(self, event: str, call: AuditedCall, outcome: Outcome | None) -> bytes:
        fields: dict[str, object] = {
            "time": self._now().isoformat(),
            "event": event,
            "request_id": call.request_id,
            "rpc": call.rpc,
            "caller": call.caller.name if call.caller else None,
            "tenant": call.caller.tenant if call.caller else None,
            "role": call.caller.role.label if call.caller else None,
            "peer": call.peer,
            "resources": call.resources,
        }
        if outcome is not None:
            fields |= {"status": outcome.status, "reason": outcome.reason, "code": outcome.code}
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


class _NumberedFile:
    """A file that only grows; when it is full it becomes `.1`, the former `.1` becomes `.2`, and the last one goes."""

    def __init__(self, path: Path, max_bytes: int, kept: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._kept = kept
        self._lock = threading.Lock()  # guards all below, and the names of the files
        self._descriptor = -1
        self._size_bytes = 0
        self._is_torn = False
        """Whether the last line has no end, as a full disk or a lost machine leaves it: the next begins on its own."""

    def open(self) -> None:
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open()

    def close(self) -> None:
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def append(self, line: bytes, *, on_disk: bool) -> None:
        """Raises OSError."""
        with self._lock:
            if self._size_bytes and self._size_bytes + len(line) > self._max_bytes:
                self._turn_over()
            self._write(line)
            if on_disk:
                os.fdatasync(self._descriptor)

    def _write(self, line: bytes) -> None:
        if self._is_torn:
            line = b"\n" + line
        self._is_torn = True
        written = os.write(self._descriptor, line)
        self._size_bytes += written
        if written < len(line):
            raise OSError("The disk is full.")
        self._is_torn = False

    def _turn_over(self) -> None:
        for number in range(self._kept - 1, 0, -1):
            former = self._numbered(number)
            if former.exists():
                former.replace(self._numbered(number + 1))
        self._path.replace(self._numbered(1))
        full = self._descriptor
        self._open()
        os.close(full)

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _PRIVATE)
        self._size_bytes = os.fstat(self._descriptor).st_size
        self._is_torn = self._size_bytes > 0 and os.pread(self._descriptor, 1, self._size_bytes - 1) != b"\n"

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
