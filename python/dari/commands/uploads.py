"""`dari uploads`, `dari watch`, `dari cancel`: what is on its way in, how far it is, and the end of it."""

from itertools import islice

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from dari.commands.exit_codes import ExitCode
from dari.commands.terminal import Terminal, short_name
from dari.commands.upload_ids import uploads_into
from dari.v1.ingest_pb2 import UPLOAD_STATE_COMPLETED, UPLOAD_STATE_INDEXING, Upload, UploadMode, UploadState


def run_list(terminal: Terminal, knowledge_base: str, limit: int) -> ExitCode:
    """Print the newest uploads, into one knowledge base or ("") all. Raises CallFailed."""
    with terminal.connect() as client:
        uploads = list(islice(uploads_into(client, knowledge_base), limit))
    if terminal.as_json:
        for upload in uploads:
            terminal.json_line(upload)
        return ExitCode.OK
    terminal.table(
        ("upload", "knowledge base", "mode", "state", "bytes safe", "rows", "rejected", "last moved"),
        [
            (
                upload.name,
                upload.knowledge_base,
                short_name(UploadMode.Name(upload.mode), "UPLOAD_MODE_"),
                _state(upload),
                f"{upload.committed_offset_bytes:,}",
                f"{upload.rows_stored:,}",
                f"{upload.rows_rejected:,}",
                upload.update_time.ToJsonString(),
            )
            for upload in uploads
        ],
        title=f"The newest uploads into {knowledge_base}" if knowledge_base else "The newest uploads",
    )
    return ExitCode.OK


def run_watch(terminal: Terminal, name: str) -> ExitCode:
    """Show how far an upload is until it has ended: OK where its rows are visible, FAILED otherwise.

    Raises CallFailed.
    """
    latest = Upload()
    with terminal.connect() as client, _progress(terminal) as bar:
        task = bar.add_task(name, total=None, rows="")
        for latest in client.watch(name):
            if terminal.as_json:
                terminal.json_line(latest)
            bar.update(
                task,
                description=f"{name} (building the index)" if latest.state == UPLOAD_STATE_INDEXING else name,
                completed=latest.committed_offset_bytes,
                rows=f"{latest.rows_stored:,} rows{_rejected(latest)}",
            )
    if not terminal.as_json:
        show(terminal, latest)
    return ExitCode.OK if latest.state == UPLOAD_STATE_COMPLETED else ExitCode.FAILED


def run_cancel(terminal: Terminal, name: str) -> ExitCode:
    """End an upload that is not complete. Raises CallFailed."""
    with terminal.connect() as client:
        upload = client.cancel(name)
    if terminal.as_json:
        terminal.json_line(upload)
    else:
        show(terminal, upload)
    return ExitCode.OK


def show(terminal: Terminal, upload: Upload) -> None:
    """Print one upload for people."""
    terminal.facts(
        [
            ("knowledge base", upload.knowledge_base),
            ("state", f"{_state(upload)}{': ' if upload.failure else ''}{upload.failure}"),
            ("bytes safe", f"{upload.committed_offset_bytes:,}"),
            ("rows stored", f"{upload.rows_stored:,}"),
            ("rows rejected", f"{upload.rows_rejected:,}"),
            ("version", str(upload.receipt.version) if upload.HasField("receipt") else "none"),
        ],
        title=upload.name,
    )


def _state(upload: Upload) -> str:
    return short_name(UploadState.Name(upload.state), "UPLOAD_STATE_")


def _rejected(upload: Upload) -> str:
    return f", {upload.rows_rejected:,} rejected" if upload.rows_rejected else ""


def _progress(terminal: Terminal) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[rows]}", markup=False),
        console=terminal.err,
        disable=terminal.as_json or not terminal.err.is_terminal,
        transient=True,
    )
