"""`dari ingest`: sends files, shows how far they are, and prints their receipts."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import grpc
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

import dari.client
from dari.client import CallFailed, Client
from dari.commands.terminal import Terminal, clean, short_name
from dari.commands.upload_ids import upload_id_for
from dari.v1.ingest_pb2 import (
    UPLOAD_MODE_APPEND,
    ListRejectedRowsRequest,
    OpenUpload,
    Receipt,
    RejectionReason,
    UploadMode,
)
from dari.v1.mapping_pb2 import CreateKnowledgeBaseRequest

STDIN = Path("-")
REJECTED_ROWS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Sent:
    """One file that is in."""

    receipt: Receipt
    elapsed_s: float
    was_complete: bool
    """The upload had been finished by an earlier command; nothing was sent."""


def run(
    terminal: Terminal,
    files: Sequence[Path],
    opening: OpenUpload,
    *,
    create: bool,
    give_up_after_s: float,
) -> None:
    """Send the files in order. With REPLACE the first takes the place of all rows and the others come after it.

    `opening` says all but the files' ids; its upload_id is used where it is set.
    """
    with terminal.connect() as client:
        if create:
            create_knowledge_base(client, opening.knowledge_base)
        for number, path in enumerate(files):
            mode = opening.mode if number == 0 else UPLOAD_MODE_APPEND
            sent = send(terminal, client, path, _with_mode(opening, mode), give_up_after_s=give_up_after_s)
            if terminal.as_json:
                terminal.json_line(sent.receipt)
            else:
                show(terminal, client, path, sent)


def create_knowledge_base(client: Client, name: str) -> None:
    """Make the knowledge base unless it is there."""
    request = CreateKnowledgeBaseRequest(knowledge_base_id=name.removeprefix("knowledgeBases/"))
    request.knowledge_base.SetInParent()
    try:
        client.mapping.CreateKnowledgeBase(request)
    except CallFailed as failure:
        if failure.code is not grpc.StatusCode.ALREADY_EXISTS:
            raise


def send(terminal: Terminal, client: Client, path: Path, opening: OpenUpload, *, give_up_after_s: float) -> Sent:
    """Send one file, or stdin for `-`, and show how far it is."""
    upload_id, was_complete = opening.upload_id, False
    if not upload_id and path != STDIN:
        upload_id, was_complete = upload_id_for(client, path, opening)
    began_s = time.monotonic()
    with _opened(path) as file, _Bar(terminal, path) as bar:
        try:
            receipt = client.ingest(
                file,
                opening.knowledge_base,
                opening.mode,
                upload_id=upload_id or None,
                dialect=opening.dialect,
                max_rejected_rows=opening.max_rejected_rows if opening.HasField("max_rejected_rows") else None,
                on_progress=bar.update,
                give_up_after_s=give_up_after_s,
            )
        except KeyboardInterrupt:
            bar.note_interruption()
            raise
    return Sent(receipt, time.monotonic() - began_s, was_complete)


def show(terminal: Terminal, client: Client, path: Path, sent: Sent) -> None:
    """Print a receipt for people, with the first rejected rows."""
    receipt = sent.receipt
    mode = short_name(UploadMode.Name(receipt.mode), "UPLOAD_MODE_")
    terminal.facts(
        [
            ("knowledge base", f"{receipt.knowledge_base}, version {receipt.version} ({mode})"),
            ("rows stored", f"{receipt.rows_stored:,}"),
            ("rows rejected", f"{receipt.rows_rejected:,}"),
            ("columns", ", ".join(receipt.columns)),
            ("bytes", f"{receipt.size_bytes:,}"),
            ("SHA-256", receipt.sha256.hex()),
            ("took", _speed(sent)),
            ("upload", receipt.upload),
        ],
        title=f"{_name(path)}: {'in already, nothing was sent' if sent.was_complete else 'in'}",
    )
    if receipt.rows_rejected:
        _show_rejected(terminal, client, receipt)


def _speed(sent: Sent) -> str:
    if sent.was_complete:
        return ""
    speed = f"{sent.receipt.size_bytes / 1e6 / sent.elapsed_s:.1f} MB/s" if sent.elapsed_s > 0 else ""
    return f"{sent.elapsed_s:.1f} s, {speed}"


def _show_rejected(terminal: Terminal, client: Client, receipt: Receipt) -> None:
    request = ListRejectedRowsRequest(upload=receipt.upload, page_size=REJECTED_ROWS_SHOWN)
    rows = client.ingests.ListRejectedRows(request).rejected_rows
    terminal.table(
        ("line", "why", "begins with"),
        [
            (
                row.line,
                short_name(RejectionReason.Name(row.reason), "REJECTION_REASON_"),
                row.raw[:80].decode(errors="replace").rstrip("\r\n"),
            )
            for row in rows
        ],
        title=f"The first of {receipt.rows_rejected:,} rejected rows; the RPC ListRejectedRows gives all",
    )


def _with_mode(opening: OpenUpload, mode: "UploadMode.ValueType") -> OpenUpload:
    changed = OpenUpload()
    changed.CopyFrom(opening)
    changed.mode = mode
    return changed


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if path == STDIN:
        yield sys.stdin.buffer
        return
    with path.open("rb") as file:
        yield file


def _name(path: Path) -> str:
    return "stdin" if path == STDIN else clean(path.name)


class _Bar:
    """The progress bar of one file, on stderr where that is a terminal; for a pipe it has no end."""

    def __init__(self, terminal: Terminal, path: Path) -> None:
        self._terminal = terminal
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TextColumn("{task.fields[rows]}", markup=False),
            TimeRemainingColumn(),
            console=terminal.err,
            disable=terminal.as_json or not terminal.err.is_terminal,
            transient=True,
        )
        self._name = _name(path)
        self._latest: dari.client.Progress | None = None
        self._task: TaskID = self._progress.add_task(self._name, total=None, rows="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def update(self, progress: dari.client.Progress) -> None:
        """Called by the upload."""
        self._latest = progress
        if progress.pause_cause is not None:
            self._terminal.note(f"{self._name}: {progress.pause_cause.message} Going on at the last safe byte.")
        rejected = f", {progress.rows_rejected:,} rejected" if progress.rows_rejected else ""
        self._progress.update(
            self._task,
            description=f"{self._name} {'(building the index)' if progress.is_indexing else ''}".rstrip(),
            total=progress.total_bytes,
            completed=progress.committed_bytes,
            rows=f"{progress.rows_stored:,} rows{rejected}",
        )

    def note_interruption(self) -> None:
        """Say how the upload can go on."""
        if self._latest is not None:
            self._terminal.note(
                f"{self._name}: {self._latest.committed_bytes:,} bytes are safe; the same command, or "
                f"--upload-id {self._latest.upload_id}, goes on from there."
            )
