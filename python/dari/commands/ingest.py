"""`dari ingest`: sends files, shows how far they are, and prints their receipts."""

import io
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Self, cast

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
from dari.client import CallFailed, CannotReplay, Client, Source, open_source
from dari.commands.dialects import described, options_of
from dari.commands.input_files import STDIN, InputFile, shown_name
from dari.commands.rejected import count_reasons
from dari.commands.terminal import Terminal, clean, short_name
from dari.commands.upload_ids import UploadId, UploadIds, with_mode
from dari.v1.ingest_pb2 import UPLOAD_MODE_APPEND, OpenUpload, Reading, Receipt, UploadMode
from dari.v1.mapping_pb2 import CreateKnowledgeBaseRequest

REJECTED_ROWS_SHOWN = 5
LOW_CONFIDENCE = 0.5
"""Below it the next best reading is shown."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One file that is in."""

    receipt: Receipt
    elapsed_s: float
    was_complete: bool
    """The upload had been finished by an earlier command; nothing was sent."""


def run(
    terminal: Terminal,
    files: Sequence[InputFile],
    opening: OpenUpload,
    *,
    compression: str,
    create: bool,
    give_up_after_s: float,
) -> None:
    """Send the files in order. With REPLACE the first takes the place of all rows and the others come after it.

    `opening` says all but the files' ids; its upload_id is used where it is set.
    """
    with terminal.connect() as client:
        if create:
            create_knowledge_base(client, opening.knowledge_base)
        sending = Sending(terminal, client, compression, give_up_after_s)
        for number, file in enumerate(files):
            mode = opening.mode if number == 0 else UPLOAD_MODE_APPEND
            try:
                sent = sending.send(file, with_mode(opening, mode), files[number + 1 :])
            except (CallFailed, CannotReplay, OSError):
                if len(files) > 1 and not terminal.as_json:
                    terminal.note(
                        f"{shown_name(file)} is not in. Files before it that are in, and stay: "
                        f"{number:,} of {len(files):,}. The same command goes on with it."
                    )
                raise
            if terminal.as_json:
                terminal.json_line(sent.receipt)
            else:
                show(terminal, client, file, sent)


def create_knowledge_base(client: Client, name: str) -> None:
    """Make the knowledge base unless it is there."""
    request = CreateKnowledgeBaseRequest(knowledge_base_id=name.removeprefix("knowledgeBases/"))
    request.knowledge_base.SetInParent()
    try:
        client.mapping.CreateKnowledgeBase(request)
    except CallFailed as failure:
        if failure.code is not grpc.StatusCode.ALREADY_EXISTS:
            raise


class Sending:
    """Sends files of one command, one after the other, and shows how far they are."""

    def __init__(
        self, terminal: Terminal, client: Client, compression: str = "auto", give_up_after_s: float = 300.0
    ) -> None:
        self._terminal = terminal
        self._client = client
        self._compression = compression
        self._give_up_after_s = give_up_after_s
        self._ids = UploadIds(client, compression)

    def send(self, file: InputFile, opening: OpenUpload, following: Sequence[InputFile] = ()) -> Sent:
        """Send one file, or stdin for `-`. `following` are the files that the command appends to it."""
        upload_id = UploadId(opening.upload_id, is_complete=False)
        if not opening.upload_id:
            upload_id = self._ids.id_for(file, opening, following)
        began_s = time.monotonic()
        with self._opened(file) as source, _Bar(self._terminal, file) as bar:
            try:
                receipt = self._client.ingest(
                    source,
                    opening.knowledge_base,
                    opening.mode,
                    upload_id=upload_id.upload_id,
                    dialect=opening.dialect,
                    invalid_bytes=opening.invalid_bytes,
                    ragged_rows=opening.ragged_rows,
                    max_rejected_rows=opening.max_rejected_rows if opening.HasField("max_rejected_rows") else None,
                    max_rejected_share=opening.max_rejected_share if opening.HasField("max_rejected_share") else None,
                    on_progress=bar.update,
                    give_up_after_s=self._give_up_after_s,
                )
            except (KeyboardInterrupt, OSError):
                bar.note_interruption()
                raise
        return Sent(receipt, time.monotonic() - began_s, upload_id.is_complete)

    @contextmanager
    def _opened(self, file: InputFile) -> Iterator[Source]:
        where = _stdin() if file == STDIN else file
        with open_source(where, compression=self._compression, give_up_after_s=self._give_up_after_s) as source:
            yield source


def show(terminal: Terminal, client: Client, file: InputFile, sent: Sent) -> None:
    """Print a receipt for people, with how the file was read and the first rejected rows."""
    receipt = sent.receipt
    reasons = count_reasons(client, receipt) if receipt.rows_rejected or receipt.lines_set_aside else None
    terminal.facts(
        [
            (name, value)
            for name, value in (
                ("knowledge base", f"{receipt.knowledge_base}, version {receipt.version} ({_mode(receipt)})"),
                ("rows stored", f"{receipt.rows_stored:,}"),
                ("  ragged", _counted(receipt.rows_ragged, " with fewer or more cells than there are columns")),
                ("  repaired", _counted(receipt.rows_repaired, " with a stray quote, which was taken as text")),
                ("  replaced", _counted(receipt.rows_replaced, " with U+FFFD for bytes that the encoding has not")),
                ("rows rejected", f"{receipt.rows_rejected:,}{reasons.of_rows if reasons else ''}"),
                ("lines set aside", _counted(receipt.lines_set_aside, reasons.of_lines if reasons else "")),
                ("read as", described(receipt.reading.dialect) if receipt.HasField("reading") else ""),
                ("columns", ", ".join(receipt.columns)),
                ("bytes", f"{receipt.size_bytes:,}"),
                ("SHA-256", receipt.sha256.hex()),
                ("took", _speed(sent)),
                ("upload", receipt.upload),
            )
            if value
        ],
        title=f"{clean(shown_name(file))}: {'in already, nothing was sent' if sent.was_complete else 'in'}",
    )
    _show_doubt(terminal, receipt.reading)
    if reasons and receipt.rows_rejected:
        terminal.table(
            ("line", "why", "begins with"),
            reasons.first_rows[:REJECTED_ROWS_SHOWN],
            title=f"The first of {receipt.rows_rejected:,} rejected rows; "
            f"dari rejected {receipt.upload.removeprefix('uploads/')} shows all",
        )


def _mode(receipt: Receipt) -> str:
    return short_name(UploadMode.Name(receipt.mode), "UPLOAD_MODE_")


def _counted(count: int, what: str) -> str:
    """Nothing where there are none."""
    return f"{count:,}{what}" if count else ""


def _show_doubt(terminal: Terminal, reading: Reading) -> None:
    """Where another reading was nearly as good: which, and how to choose it."""
    if not reading.HasField("runner_up") or reading.confidence >= LOW_CONFIDENCE:
        return
    terminal.note(
        f"read as {described(reading.dialect)}; the next best was {described(reading.runner_up)} "
        f"(confidence {reading.confidence:.2f} of 1). Say {options_of(reading.runner_up, unlike=reading.dialect)} "
        "to choose it."
    )


def _speed(sent: Sent) -> str:
    if sent.was_complete:
        return ""
    speed = f"{sent.receipt.size_bytes / 1e6 / sent.elapsed_s:.1f} MB/s" if sent.elapsed_s > 0 else ""
    return f"{sent.elapsed_s:.1f} s, {speed}"


class _Bar:
    """The progress bar of one file, on stderr where that is a terminal; for a pipe it has no end."""

    def __init__(self, terminal: Terminal, file: InputFile) -> None:
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
        self._name = clean(shown_name(file))
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
        """Say how the upload can go on, or end."""
        if self._latest is not None:
            upload_id = self._latest.upload_id
            self._terminal.note(
                f"{self._name}: {self._latest.committed_bytes:,} bytes are safe; the same command, or "
                f"--upload-id {upload_id}, goes on from there; dari cancel {upload_id} drops them."
            )


def _stdin() -> BinaryIO:
    """Stdin without its buffer, whose lock a thread that waits for a byte would hold when the interpreter ends."""
    buffer = sys.stdin.buffer
    return cast(BinaryIO, buffer.raw) if isinstance(buffer, io.BufferedReader) else buffer
