"""Names uploads by what they do, so that the same command on the same files can be given twice.

An interrupted upload has the same id the next time and goes on; a finished one gives its receipt again, as long as
its rows are still what it made them. Where they are not, because another upload replaced them, or where the upload
has failed or was cancelled, the next free number is appended: `sales-8f1c….2`. So it is where one command sends the
same content twice.

A file's content is its hash; the price is that the file is read twice: about 1 s more for each GB when it is in the
page cache. A URI's is what its server says of it: ETag, time, size. What can be read only once, a pipe or stdin, and a
URI of which nothing is said, has a random id.
"""

import hashlib
import re
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

import grpc

from dari.client import CallFailed, Client, open_source
from dari.client.source import path_of
from dari.commands.input_files import STDIN, InputFile
from dari.v1.ingest_pb2 import (
    UPLOAD_MODE_APPEND,
    UPLOAD_MODE_REPLACE,
    UPLOAD_STATE_CANCELLED,
    UPLOAD_STATE_COMPLETED,
    UPLOAD_STATE_FAILED,
    GetUploadRequest,
    ListUploadsRequest,
    OpenUpload,
    Receipt,
    Upload,
    UploadMode,
)
from dari.v1.mapping_pb2 import GetKnowledgeBaseRequest

_NUMBER = re.compile(r"\.\d+$")


class UploadId(NamedTuple):
    """An id, and whether its upload is complete already."""

    upload_id: str
    is_complete: bool


class UploadIds:
    """The ids of one command's uploads, which are asked for in the order in which its files are sent."""

    def __init__(self, client: Client, compression: str) -> None:
        self._client = client
        self._compression = compression
        self._taken: set[str] = set()

    def id_for(self, file: InputFile, opening: OpenUpload, following: Sequence[InputFile] = ()) -> UploadId:
        """The id of a file's upload. `opening` is what will be sent, its id left out; `following` are appended to it.

        Raises CallFailed, and OSError where the file cannot be read.
        """
        name = self._name(file, opening)
        if name is None:
            return UploadId(str(uuid.uuid4()), is_complete=False)
        number = 1
        while True:
            upload_id = name if number == 1 else f"{name}.{number}"
            number += 1
            if upload_id in self._taken:
                continue
            upload = self._find(upload_id)
            if upload is not None and upload.state in (UPLOAD_STATE_FAILED, UPLOAD_STATE_CANCELLED):
                continue
            is_complete = upload is not None and upload.state == UPLOAD_STATE_COMPLETED
            if upload is not None and is_complete and not self._still_stands(upload.receipt, opening, following):
                continue
            self._taken.add(upload_id)
            return UploadId(upload_id, is_complete)

    def _name(self, file: InputFile, opening: OpenUpload) -> str | None:
        """The file's name for people, and a hash of its content, its target and how it is read."""
        content = _content_mark(file)
        if content is None:
            return None
        purpose = hashlib.sha256()
        for part in (content, self._compression.encode(), opening.SerializeToString(deterministic=True)):
            purpose.update(len(part).to_bytes(8, "big") + part)
        stem = file.stem if isinstance(file, Path) else PurePosixPath(urlsplit(file).path).stem
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:40] or "file"
        return f"{stem}-{purpose.hexdigest()[:24]}"

    def _find(self, upload_id: str) -> Upload | None:
        try:
            return self._client.ingests.GetUpload(GetUploadRequest(name=f"uploads/{upload_id}")).upload
        except CallFailed as failure:
            if failure.code is grpc.StatusCode.NOT_FOUND:
                return None
            raise

    def _still_stands(self, receipt: Receipt, opening: OpenUpload, following: Sequence[InputFile]) -> bool:
        """Whether the rows of a complete upload are what they were made: all rows, or among all rows.

        Those that replaced all stand too when what was appended to them since is what this command appends.
        """
        if receipt.mode == UPLOAD_MODE_APPEND:
            return not any(upload.receipt.mode == UPLOAD_MODE_REPLACE for upload in self._made_after(receipt))
        request = GetKnowledgeBaseRequest(name=receipt.knowledge_base)
        if self._client.mapping.GetKnowledgeBase(request).knowledge_base.current_version == receipt.version:
            return True
        later = sorted(self._made_after(receipt), key=lambda upload: upload.receipt.version)
        if len(later) > len(following) or any(upload.mode == UPLOAD_MODE_REPLACE for upload in later):
            return False
        appending = with_mode(opening, UPLOAD_MODE_APPEND)
        return all(
            _NUMBER.sub("", upload.name) == f"uploads/{self._name(file, appending)}"
            for upload, file in zip(later, following, strict=False)
        )

    def _made_after(self, receipt: Receipt) -> Iterator[Upload]:
        """The complete uploads into the same knowledge base whose versions are later."""
        for upload in uploads_into(self._client, receipt.knowledge_base):
            if upload.state == UPLOAD_STATE_COMPLETED and upload.receipt.version > receipt.version:
                yield upload


def uploads_into(client: Client, knowledge_base: str) -> Iterator[Upload]:
    """All uploads into a knowledge base, newest first; "" for all there are."""
    request = ListUploadsRequest(knowledge_base=knowledge_base, page_size=1_000)
    while True:
        page = client.ingests.ListUploads(request)
        yield from page.uploads
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def with_mode(opening: OpenUpload, mode: "UploadMode.ValueType") -> OpenUpload:
    """The same opening in another mode."""
    changed = OpenUpload()
    changed.CopyFrom(opening)
    changed.mode = mode
    return changed


def _content_mark(file: InputFile) -> bytes | None:
    """What tells the content from another; None for what can be read only once, or of which nothing is known."""
    if file == STDIN:
        return None
    path = path_of(file)
    if path is None:
        with open_source(file, compression="none") as source:
            return f"{file} {source.mark}".encode() if source.mark is not None else None
    if not path.is_file():
        return None
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
