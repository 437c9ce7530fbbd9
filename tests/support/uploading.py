"""Uploads as a test drives them: whole files, or one message after the other."""

import hashlib
import queue
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import grpc
import psycopg2
import pytest

from dari.v1 import ingest_pb2 as pb
from dari.v1 import ingest_pb2_grpc
from tests.support.running_dari import SOON_S, Refusal, refusal

REPLACE, APPEND = pb.UPLOAD_MODE_REPLACE, pb.UPLOAD_MODE_APPEND
CHUNK_BYTES = 32 * 1024
PLAIN = pb.Dialect(
    encoding=pb.ENCODING_UTF_8,
    delimiter=",",
    quote='"',
    escape="none",
    comment="none",
    trims_blanks=False,
    preamble_lines=0,
    header_rows=1,
)
"""Nothing is left to be found out, so that batches are stored before the file's head is whole."""


def plain(**hints: Any) -> pb.Dialect:
    """PLAIN, but for these hints."""
    dialect = pb.Dialect()
    dialect.CopyFrom(PLAIN)
    dialect.MergeFrom(pb.Dialect(**hints))
    return dialect


class IngestStream:
    """One Ingest call. Each method sends one message; `answer`, `answers` and `refusal` read."""

    def __init__(self, stub: ingest_pb2_grpc.IngestServiceStub, timeout_s: float = SOON_S) -> None:
        self._outbox: queue.SimpleQueue[pb.IngestRequest | None] = queue.SimpleQueue()
        self.call = stub.Ingest(iter(self._outbox.get, None), timeout=timeout_s)

    def send(self, message: pb.IngestRequest) -> None:
        self._outbox.put(message)

    def open(
        self,
        upload_id: str = "u",
        *,
        base: str = "kb",
        mode: "pb.UploadMode.ValueType" = REPLACE,
        **options: Any,
    ) -> None:
        """`options` are fields of OpenUpload; PLAIN is the dialect unless they say otherwise."""
        self.send(
            pb.IngestRequest(
                open=pb.OpenUpload(
                    knowledge_base=f"knowledgeBases/{base}",
                    upload_id=upload_id,
                    mode=mode,
                    **{"dialect": PLAIN, **options},
                )
            )
        )

    def chunk(self, offset: int, data: bytes) -> None:
        self.send(pb.IngestRequest(chunk=pb.UploadChunk(offset_bytes=offset, data=data)))

    def chunks(self, data: bytes, start: int = 0) -> None:
        """All of the file from `start` on."""
        for offset in range(start, len(data), CHUNK_BYTES):
            self.chunk(offset, data[offset : offset + CHUNK_BYTES])

    def finish(self, total_size_bytes: int, sha256: bytes = b"") -> None:
        self.send(pb.IngestRequest(finish=pb.FinishUpload(total_size_bytes=total_size_bytes, sha256=sha256)))

    def begin(self, data: bytes, upload_id: str = "u", dialect: pb.Dialect | None = None) -> None:
        """Send a whole file, with its digest."""
        self.open(upload_id, dialect=dialect)
        self.chunks(data)
        self.finish(len(data), hashlib.sha256(data).digest())
        self.end()

    def end(self) -> None:
        """Say that no message comes any more."""
        self._outbox.put(None)

    def answer(self) -> pb.IngestResponse:
        return next(self.call)

    def opened(self) -> int:
        """The committed offset that the server tells first."""
        answer = self.answer()
        assert answer.HasField("opened"), answer
        return answer.opened.committed_offset_bytes

    def committed(self, offset: int) -> pb.BatchCommitted:
        """Read on until the server has told that all bytes before the offset are safe."""
        while True:
            answer = self.answer()
            assert answer.HasField("committed"), answer
            if answer.committed.offset_bytes >= offset:
                return answer.committed

    def receipt(self) -> pb.Receipt:
        """Read to the end, which is the receipt."""
        *_, last = list(self.call)
        assert last.HasField("completed"), last
        return last.completed.receipt

    def refusal(self) -> Refusal:
        """Read to the end, which is an error."""
        with pytest.raises(grpc.RpcError) as raised:
            list(self.call)
        return refusal(raised.value)

    def leave(self) -> None:
        self.call.cancel()
        self.end()


class Uploader:
    """Whole uploads over one stub."""

    def __init__(self, stub: ingest_pb2_grpc.IngestServiceStub) -> None:
        self.stub = stub

    def stream(self) -> IngestStream:
        return IngestStream(self.stub)

    def begun(
        self,
        data: bytes,
        upload_id: str = "u",
        *,
        base: str = "kb",
        mode: "pb.UploadMode.ValueType" = REPLACE,
        **options: Any,
    ) -> IngestStream:
        """A stream that has sent the whole file, with its digest."""
        stream = self.stream()
        stream.open(upload_id, base=base, mode=mode, **options)
        stream.chunks(data)
        stream.finish(len(data), hashlib.sha256(data).digest())
        stream.end()
        return stream

    def upload(
        self,
        data: bytes,
        upload_id: str = "u",
        *,
        base: str = "kb",
        mode: "pb.UploadMode.ValueType" = REPLACE,
        **options: Any,
    ) -> pb.Receipt:
        """Send a file and wait for its receipt."""
        return self.begun(data, upload_id, base=base, mode=mode, **options).receipt()

    def refused(
        self,
        data: bytes,
        upload_id: str = "u",
        *,
        mode: "pb.UploadMode.ValueType" = REPLACE,
        **options: Any,
    ) -> Refusal:
        """Send a file that must not be taken."""
        return self.begun(data, upload_id, mode=mode, **options).refusal()

    def state(self, upload_id: str = "u") -> pb.Upload:
        return self.stub.GetUpload(pb.GetUploadRequest(name=f"uploads/{upload_id}")).upload

    def rejected(self, upload_id: str = "u", page_size: int = 0) -> Iterator[pb.RejectedRow]:
        """All rejected rows, page by page."""
        token = ""
        while True:
            request = pb.ListRejectedRowsRequest(upload=f"uploads/{upload_id}", page_size=page_size, page_token=token)
            page = self.stub.ListRejectedRows(request)
            yield from page.rejected_rows
            token = page.next_page_token
            if not token:
                return

    def search(self, query: str, *bases: str, limit: int = 0) -> list[dict[str, str]]:
        """The cells of each row found, by column."""
        request = pb.SearchRequest(
            knowledge_bases=[f"knowledgeBases/{base}" for base in bases or ("kb",)], query=query, limit=limit
        )
        return [{cell.column: cell.text for cell in hit.cells} for hit in self.stub.Search(request).hits]


class Stored:
    """What is in the tables of an upload, read past all of dari's code. The DSN is an administrator's.

    A row has the cells that it had in its file.
    """

    def __init__(self, admin_dsn: str, upload_id: str = "u") -> None:
        with closing(psycopg2.connect(admin_dsn)) as session, session.cursor() as cur:
            cur.execute("SELECT segment FROM dari.uploads WHERE id = %s", (upload_id,))
            row = cur.fetchone()
            assert row is not None
            self.segment: str = row[0]
            cur.execute("SELECT to_regclass(%s)", (f"dari_rows.rows_{self.segment}",))
            self.rows: list[tuple[str, ...]] = []
            self.row_numbers: list[int] = []
            if cur.fetchone() != (None,):
                cur.execute(f"SELECT * FROM dari_rows.rows_{self.segment} ORDER BY row_number")
                for number, *cells, extra_cells in cur.fetchall():
                    self.row_numbers.append(number)
                    self.rows.append((*(cell for cell in cells if cell is not None), *(extra_cells or ())))
            cur.execute(
                "SELECT start_offset_bytes, end_offset_bytes FROM dari.upload_batches WHERE upload = %s ORDER BY 1",
                (upload_id,),
            )
            self.ranges: list[tuple[int, int]] = cur.fetchall()

    def assert_ledger_covers(self, size_bytes: int) -> None:
        """Each byte stands in one range."""
        expected = 0
        for start, end in self.ranges:
            assert start == expected
            expected = end
        assert expected == size_bytes


def made_csv(rows: int, *, first: int = 1, tag: str = "row") -> bytes:
    """A file with some of what makes files hard: quotes, line ends in cells, Korean, empty cells."""
    lines = ["id,name,note,city\n"]
    lines += (
        f'{number},{tag} {number},"said ""{number}"",\nthen left",{("서울", "New York", "")[number % 3]}\n'
        for number in range(first, first + rows)
    )
    return "".join(lines).encode()


def made_rows(rows: int, *, first: int = 1, tag: str = "row") -> list[tuple[str, ...]]:
    """The cells of `made_csv`."""
    return [
        (str(number), f"{tag} {number}", f'said "{number}",\nthen left', ("서울", "New York", "")[number % 3])
        for number in range(first, first + rows)
    ]
