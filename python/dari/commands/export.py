"""`dari export`: the rows of a knowledge base as CSV, and beside them the rows that were rejected on their way in."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dari.client import Client
from dari.client.download import messages, save
from dari.commands.exit_codes import ExitCode
from dari.commands.output_files import save_to
from dari.commands.terminal import Terminal
from dari.commands.upload_ids import uploads_into
from dari.v1.ingest_pb2 import UPLOAD_MODE_REPLACE, UPLOAD_STATE_COMPLETED, ExportRejectedRowsRequest, Receipt
from dari.v1.mapping_pb2 import GetKnowledgeBaseRequest

STALL_TIMEOUT_S = 120.0


def run(
    terminal: Terminal,
    knowledge_base: str,
    output: Path | None,
    version: int,
    *,
    escape_formulas: bool,
    rejected: Path | None,
) -> ExitCode:
    """Write the rows to a file, or to stdout, and the rejected rows to another file. Raises CallFailed."""
    with terminal.connect() as client:
        if rejected is not None and not version:
            # One version for both files, whatever comes in meanwhile.
            request = GetKnowledgeBaseRequest(name=knowledge_base)
            version = client.mapping.GetKnowledgeBase(request).knowledge_base.current_version
        code = save_to(
            terminal,
            output,
            lambda target: client.export(knowledge_base, target, version=version, escape_formulas=escape_formulas),
        )
        if rejected is None or code is not ExitCode.OK:
            return code
        uploads = uploads_of(client, knowledge_base, version)
        return save_to(terminal, rejected, lambda target: save_rejected(client, uploads, target))


def uploads_of(client: Client, knowledge_base: str, version: int) -> list[str]:
    """The uploads that made a version, the first one first: what replaced all rows, and what was appended since."""
    receipts = sorted(
        (
            upload.receipt
            for upload in uploads_into(client, knowledge_base)
            if upload.state == UPLOAD_STATE_COMPLETED and upload.receipt.version <= version
        ),
        key=lambda receipt: receipt.version,
    )
    return [receipt.upload for receipt in receipts[_last_replacement(receipts) :]]


def save_rejected(client: Client, uploads: list[str], target: Path | BinaryIO) -> int:
    """Write the rejected rows of all these uploads as one CSV, whose first column names the upload."""
    return save(_rejected_csv(client, uploads), target)


def _last_replacement(receipts: list[Receipt]) -> int:
    return max((at for at, receipt in enumerate(receipts) if receipt.mode == UPLOAD_MODE_REPLACE), default=0)


def _rejected_csv(client: Client, uploads: list[str]) -> Iterator[bytes]:
    for number, upload in enumerate(uploads):
        request = ExportRejectedRowsRequest(upload=upload)
        pieces = (message.data for message in messages(client.ingests.ExportRejectedRows(request), STALL_TIMEOUT_S))
        for line, row in enumerate(csv.reader(_lines(pieces))):
            if line:
                yield _record([upload, *row])
            elif not number:
                yield _record(["upload", *row])


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """The lines of a CSV in UTF-8, with their ends; pieces may end anywhere."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (f"{line.decode()}\n" for line in lines)
    if rest:
        yield rest.decode()


def _record(cells: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
