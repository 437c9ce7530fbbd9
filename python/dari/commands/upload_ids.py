"""Names an upload by what it does, so that the same command on the same file can be given twice.

An interrupted upload has the same id the next time and goes on; a finished one gives its receipt again, as long as
its rows are still what it made them. Where they are not, because another upload replaced them, or where the upload
has failed for good, the next free number is appended: `sales-8f1c….2`.

The price is that the file is read twice: about 1 s more for each GB when it is in the page cache.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import grpc

from dari.client import CallFailed, Client
from dari.v1.ingest_pb2 import (
    UPLOAD_MODE_REPLACE,
    UPLOAD_STATE_COMPLETED,
    UPLOAD_STATE_FAILED,
    GetUploadRequest,
    ListUploadsRequest,
    OpenUpload,
    Receipt,
    Upload,
)
from dari.v1.mapping_pb2 import GetKnowledgeBaseRequest


def upload_id_for(client: Client, path: Path, opening: OpenUpload) -> tuple[str, bool]:
    """The id, and whether its upload is complete already. `opening` is what will be sent, its id left out.

    Raises CallFailed, and OSError where the file cannot be read.
    """
    name = _name(path, opening)
    number = 1
    while True:
        upload_id = name if number == 1 else f"{name}.{number}"
        upload = _find(client, upload_id)
        if upload is None or upload.state not in (UPLOAD_STATE_COMPLETED, UPLOAD_STATE_FAILED):
            return upload_id, False
        if upload.state == UPLOAD_STATE_COMPLETED and _still_stands(client, upload.receipt):
            return upload_id, True
        number += 1


def _name(path: Path, opening: OpenUpload) -> str:
    """The file's name for people, and a hash of its content, its target and how it is read."""
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").digest()
    purpose = hashlib.sha256(content + opening.SerializeToString(deterministic=True)).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-")[:40] or "file"
    return f"{stem}-{purpose[:24]}"


def _find(client: Client, upload_id: str) -> Upload | None:
    try:
        return client.ingests.GetUpload(GetUploadRequest(name=f"uploads/{upload_id}")).upload
    except CallFailed as failure:
        if failure.code is grpc.StatusCode.NOT_FOUND:
            return None
        raise


def _still_stands(client: Client, receipt: Receipt) -> bool:
    """Whether the rows of a complete upload are what they were made: all rows, or among all rows."""
    if receipt.mode == UPLOAD_MODE_REPLACE:
        request = GetKnowledgeBaseRequest(name=receipt.knowledge_base)
        return client.mapping.GetKnowledgeBase(request).knowledge_base.current_version == receipt.version
    return not any(
        upload.state == UPLOAD_STATE_COMPLETED
        and upload.receipt.mode == UPLOAD_MODE_REPLACE
        and upload.receipt.version > receipt.version
        for upload in _uploads_into(client, receipt.knowledge_base)
    )


def _uploads_into(client: Client, knowledge_base: str) -> Iterator[Upload]:
    request = ListUploadsRequest(knowledge_base=knowledge_base, page_size=1_000)
    while True:
        page = client.ingests.ListUploads(request)
        yield from page.uploads
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
