"""`dari rejected`: what of a file is not stored as rows, and why."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dari.client import Client
from dari.commands.dialects import codec
from dari.commands.exit_codes import ExitCode
from dari.commands.output_files import save_to
from dari.commands.terminal import Terminal, short_name
from dari.v1.ingest_pb2 import (
    REJECTION_REASON_COMMENT,
    REJECTION_REASON_FOOTER,
    REJECTION_REASON_PREAMBLE,
    GetUploadRequest,
    ListRejectedRowsRequest,
    Receipt,
    RejectedRow,
    RejectionReason,
)

PAGE_ROWS = 1_000
"""Most rows that a page has."""

RAW_SHOWN_BYTES = 80

SET_ASIDE_REASONS = frozenset({REJECTION_REASON_PREAMBLE, REJECTION_REASON_COMMENT, REJECTION_REASON_FOOTER})
"""Lines that are no rows."""


@dataclass(frozen=True, slots=True)
class Reasons:
    """Why lines of a file are not stored, in words, and the first rejected rows as cells of a table."""

    of_rows: str
    of_lines: str
    first_rows: list[tuple[object, ...]]


def run(terminal: Terminal, upload: str, limit: int) -> ExitCode:
    """Print the first rows as a table, or as JSON one a line. Raises CallFailed."""
    with terminal.connect() as client:
        rows = list(islice(rejected_rows(client, upload, min(limit, PAGE_ROWS)), limit))
        encoding = codec(client.ingests.GetUpload(GetUploadRequest(name=upload)).upload.receipt.reading.dialect)
    if terminal.as_json:
        for row in rows:
            terminal.json_line(row)
    else:
        terminal.table(
            ("line", "byte", "length", "why", "begins with"), [_cells(row, encoding) for row in rows], title=upload
        )
    return ExitCode.OK


def run_csv(terminal: Terminal, upload: str, output: Path | None) -> ExitCode:
    """Write all rows as CSV to a file, or to stdout. Raises CallFailed."""
    with terminal.connect() as client:
        return save_to(terminal, output, lambda target: client.export_rejected_rows(upload, target))


def rejected_rows(client: Client, upload: str, page_rows: int = PAGE_ROWS) -> Iterator[RejectedRow]:
    """All of an upload, in the order of the file."""
    request = ListRejectedRowsRequest(upload=upload, page_size=page_rows)
    while True:
        page = client.ingests.ListRejectedRows(request)
        yield from page.rejected_rows
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def count_reasons(client: Client, receipt: Receipt) -> Reasons:
    """Count the reasons over the first thousand lines that are not stored, which is told where there are more."""
    listed = list(islice(rejected_rows(client, receipt.upload), PAGE_ROWS))
    rows = [row for row in listed if row.reason not in SET_ASIDE_REASONS]
    lines = [row for row in listed if row.reason in SET_ASIDE_REASONS]
    encoding = codec(receipt.reading.dialect)
    return Reasons(
        of_rows=_counts(rows, receipt.rows_rejected),
        of_lines=_counts(lines, receipt.lines_set_aside),
        first_rows=[(row.line, _reason(row), _beginning(row, encoding)) for row in rows],
    )


def _counts(rows: list[RejectedRow], all_rows: int) -> str:
    """`: too few fields 3, nul byte 1`, the most frequent first."""
    counts = Counter(_reason(row) for row in rows)
    if not counts:
        return ""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common())
    return f": {reasons}" if len(rows) >= all_rows else f"; of the first {len(rows):,}: {reasons}"


def _cells(row: RejectedRow, encoding: str) -> tuple[object, ...]:
    return f"{row.line:,}", f"{row.offset_bytes:,}", f"{row.length_bytes:,}", _reason(row), _beginning(row, encoding)


def _reason(row: RejectedRow) -> str:
    return short_name(RejectionReason.Name(row.reason), "REJECTION_REASON_")


def _beginning(row: RejectedRow, encoding: str) -> str:
    return row.raw[:RAW_SHOWN_BYTES].decode(encoding, errors="replace").rstrip("\r\n")
