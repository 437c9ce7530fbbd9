"""Uploads by the real client: in this process, or in one of its own that a test can kill and freeze."""

import io
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from dari.client import CHUNK_BYTES, Client, Progress
from dari.v1 import ingest_pb2 as pb
from dari.v1.mapping_pb2 import CreateKnowledgeBaseRequest
from tests.support.known_file import KnownFile
from tests.support.serving_process import environment

KNOWLEDGE_BASE = "knowledgeBases/kb"
TOLD = pb.Dialect(
    delimiter=",", quote='"', header_rows=1, escape="none", comment="none", trims_blanks=False, preamble_lines=0,
    encoding=pb.ENCODING_UTF_8,
)  # fmt: skip
"""A dialect of which nothing is left to be found out: the first batch does not wait for the file's first 256 KiB."""
_CREATION_ID = "6f0b1f0e-4c1d-4b0c-9d58-0f6a52b7f3aa"
"""Makes the creation of the knowledge base idempotent."""


def make_knowledge_base(client: Client, id: str = "kb") -> None:
    """Make it unless it is there."""
    client.mapping.CreateKnowledgeBase(CreateKnowledgeBaseRequest(knowledge_base_id=id, request_id=_CREATION_ID))


def send(
    client: Client,
    upload_id: str,
    source: io.RawIOBase | bytes,
    *,
    dialect: pb.Dialect | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    give_up_after_s: float = 60.0,
) -> pb.Receipt:
    """One upload into `kb`, in the place of all rows."""
    return client.ingest(
        io.BytesIO(source) if isinstance(source, bytes) else io.BufferedReader(source, CHUNK_BYTES),
        KNOWLEDGE_BASE,
        pb.UPLOAD_MODE_REPLACE,
        upload_id=upload_id,
        dialect=dialect,
        on_progress=on_progress,
        give_up_after_s=give_up_after_s,
    )


def rejected_lines(client: Client, upload_id: str) -> tuple[int, ...]:
    """The lines that the server lists as rejected."""
    lines: list[int] = []
    token = ""
    while True:
        request = pb.ListRejectedRowsRequest(upload=f"uploads/{upload_id}", page_size=1_000, page_token=token)
        page = client.ingests.ListRejectedRows(request)
        lines += [row.line for row in page.rejected_rows]
        token = page.next_page_token
        if not token:
            return tuple(lines)


class SendingProcess:
    """`dari ingest` of a pipe, in a process of its own. Use in a `with` statement.

    The test gives it the file's bytes piece by piece, so that it knows how far the process can be.
    """

    def __init__(self, address: str, upload_id: str) -> None:
        command = [
            sys.executable,
            "-m",
            "dari",
            "--address",
            address,
            "ingest",
            "-k",
            "kb",
            "--upload-id",
            upload_id,
            "-",
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
        )
        self._feeding: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def feed(self, data: bytes, *, is_last: bool = False) -> None:
        """Put bytes into its pipe on a thread of its own: it may be frozen."""
        before = self._feeding

        def write() -> None:
            if before is not None:
                before.join()
            assert self._process.stdin is not None
            with suppress(OSError):  # It was killed.
                self._process.stdin.write(data)
                self._process.stdin.flush()
            if is_last:
                with suppress(OSError):
                    self._process.stdin.close()

        self._feeding = threading.Thread(target=write, name="feed")
        self._feeding.start()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, frozen or not, and wait for the end."""
        self._process.kill()
        self._process.wait()
        if self._feeding is not None:
            self._feeding.join()
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def exit_code(self, timeout_s: float) -> int:
        """Wait for its own end."""
        return self._process.wait(timeout_s)


def resend(address: str, upload_id: str, file: KnownFile, timeout_s: float) -> int:
    """The same upload by a new process from the file's beginning; its exit code."""
    with SendingProcess(address, upload_id) as process:
        process.feed(file.data, is_last=True)
        return process.exit_code(timeout_s)
