"""I6 and I7: whatever bytes come, they are refused with line, byte and reason, or loaded exactly; nothing hangs.

The endless ones come from a generator and never exist: what is refused must be refused long before they end.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import grpc
import pytest

from dari.client import CallFailed, Client, Progress
from dari.v1 import ingest_pb2 as pb
from tests.fix_postgres import PostgresDsns, copied_database
from tests.support.fault_sizes import BIG_BYTES
from tests.support.ingesting import KNOWLEDGE_BASE, TOLD, make_knowledge_base, send
from tests.support.known_file import EndlessSource
from tests.support.serving_process import MIB, ServingProcess
from tests.support.uploading import Stored

GIB = 1024 * MIB
MOST_READ_BYTES = 64 * MIB
"""Of an endless file, before it is refused: a batch and what is under way."""
UTF_8 = pb.Dialect(encoding=pb.ENCODING_UTF_8)


@dataclass(frozen=True)
class Serving:
    """A server, and the database behind it."""

    process: ServingProcess
    client: Client
    database: PostgresDsns

    def ingest(
        self,
        source: bytes | EndlessSource,
        upload_id: str,
        dialect: pb.Dialect | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> pb.Receipt:
        return send(self.client, upload_id, source, dialect=dialect, on_progress=on_progress)

    def rejected(self, upload_id: str) -> list[tuple[int, str]]:
        request = pb.ListRejectedRowsRequest(upload=f"uploads/{upload_id}", page_size=1_000)
        rows = self.client.ingests.ListRejectedRows(request).rejected_rows
        return [
            (row.line, pb.RejectionReason.Name(row.reason).removeprefix("REJECTION_REASON_").lower()) for row in rows
        ]


@pytest.fixture(scope="module")
def serving(
    postgres_server: PostgresDsns, migrated_template: PostgresDsns, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """One server for all of them, with the product's own batches: the same process must take every one."""
    with (
        copied_database(postgres_server, migrated_template) as dsns,
        ServingProcess(dsns, tmp_path_factory.mktemp("bad_input"), batch_bytes=4 * MIB) as process,
        Client(process.address) as client,
    ):
        make_knowledge_base(client)
        yield Serving(process, client, dsns)


@dataclass(frozen=True)
class Endless:
    """A file of gigabytes that cannot be taken."""

    pieces: tuple[bytes, ...]
    size_bytes: int
    codes: frozenset[str]
    line: int
    byte: int
    dialect: pb.Dialect = field(default_factory=lambda: TOLD)


TOO_LONG = frozenset({"record_too_long", "cell_too_long"})
HEADER_TOO_LONG = frozenset({"header_too_long", "record_too_long", "cell_too_long"})
TOO_WIDE = frozenset({"too_many_columns", "header_too_long"})
ENDLESS = {
    "a header without an end": Endless((b"x" * MIB,), 4 * GIB, HEADER_TOO_LONG, 1, 0),
    "a line without an end": Endless((b"a,b\n", b"x" * MIB), 4 * GIB, TOO_LONG, 2, 4),
    "a cell of 2 GB, quoted": Endless((b'a,b\n1,2\n"', b"x" * MIB), 2 * GIB, TOO_LONG, 3, 8),
    "a header of millions of columns": Endless((b"c," * MIB,), 4 * GIB, TOO_WIDE, 1, 0),
    "NUL without an end": Endless((b"a,b\n", bytes(MIB)), 4 * GIB, TOO_LONG, 2, 4),
    "a line without an end, nothing told": Endless((b"a,b\n", b"x" * MIB), 4 * GIB, TOO_LONG, 2, 4, pb.Dialect()),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDLESS.values(), ids=ENDLESS)
def test_an_endless_file_is_refused_with_its_place_long_before_it_ends(serving: Serving, case: Endless) -> None:
    """And the memory that it took is bounded."""
    source = EndlessSource(case.pieces, case.size_bytes)
    idle_bytes = serving.process.resident_bytes()
    serving.process.forget_peak()

    def refuse_to_go_on(progress: Progress) -> None:
        assert source.given_bytes < MOST_READ_BYTES

    with pytest.raises(CallFailed) as raised:
        serving.ingest(source, upload_id(repr(case)), case.dialect, refuse_to_go_on)
    failure = raised.value
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_FILE")
    assert failure.metadata["code"] in case.codes
    assert (failure.metadata["line"], failure.metadata["byte_offset"]) == (str(case.line), str(case.byte))
    refuse_to_go_on(Progress("", None))
    assert serving.process.peak_bytes() - idle_bytes < 96 * MIB


@pytest.mark.parametrize("beginning", [b'a,b\n1,"never closed\n', b'a,"b\n1,2\n'], ids=["in a row", "in the header"])
def test_a_quote_never_closed_over_a_large_file_loses_no_row(serving: Serving, beginning: bytes) -> None:
    """Where its line alone has as many cells as the header, the quote is text, and all rows behind it are rows."""
    row = b"2,text\n"
    rows = BIG_BYTES // 8 // len(row)
    source = EndlessSource([beginning, row * 1024], len(beginning) + rows * len(row))
    receipt = serving.ingest(source, upload_id(repr(beginning)), TOLD)
    assert (receipt.rows_stored, receipt.rows_rejected) == (rows + 1, 0)


@dataclass(frozen=True)
class Small:
    """A file that is loaded exactly but for the rows that are listed."""

    data: bytes
    rows: tuple[tuple[str, ...], ...]
    rejected: tuple[tuple[int, str], ...] = ()
    dialect: pb.Dialect | None = None
    columns: tuple[str, ...] = ("a", "b")


WORDS = "이름,설명\n서울,수도\n부산,항구\n대구,섬유\n"
WORD_ROWS = (("서울", "수도"), ("부산", "항구"), ("대구", "섬유"))
SMALL = {
    "NUL in a row": Small(b"a,b\n1,2\n3,\0\n5,6\n", (("1", "2"), ("5", "6")), ((3, "nul_byte"),), TOLD),
    "invalid bytes": Small(b"a,b\n1,2\n\xff,4\n5,6\n", (("1", "2"), ("5", "6")), ((3, "invalid_bytes"),), UTF_8),
    "a surrogate, as CESU-8 writes it": Small(
        b"a,b\n1,2\n\xed\xa0\x80,4\n5,6\n", (("1", "2"), ("5", "6")), ((3, "invalid_bytes"),), UTF_8
    ),
    "a byte-order mark": Small(b"\xef\xbb\xbfa,b\n1,2\n3,4\n", (("1", "2"), ("3", "4"))),
    "UTF-16, little end first": Small(
        b"\xff\xfe" + WORDS.encode("utf-16-le"), WORD_ROWS, columns=("이름", "설명")
    ),
    "UTF-16, big end first": Small(b"\xfe\xff" + WORDS.encode("utf-16-be"), WORD_ROWS, columns=("이름", "설명")),
    "CP949": Small(WORDS.encode("cp949"), WORD_ROWS, columns=("이름", "설명")),
    "CR alone": Small(b"a,b\r1,2\r3,4\r", (("1", "2"), ("3", "4"))),
    "mixed line ends": Small(b"a,b\n1,2\r\n3,4\r5,6", (("1", "2"), ("3", "4"), ("5", "6"))),
    r"\. alone on a line": Small(b"a\n1\n\\.\n2\n", (("1",), ("\\.",), ("2",)), (), TOLD, ("a",)),
    r"\. alone on a line of two columns": Small(b"a,b\n1,2\n\\.\n3,4\n", (("1", "2"), ("\\.",), ("3", "4")), (), TOLD),
    "text after a quote": Small(b'a,b\n"1"x,2\n3,4\n', (('"1"x', "2"), ("3", "4")), (), TOLD),
    "short and long rows": Small(b"a,b\n1\n1,2,3\n1,2\n", (("1",), ("1", "2", "3"), ("1", "2")), (), TOLD),
    "a row of 5,000 cells": Small(
        b"a,b\n1,2\n" + b"x," * 5_000 + b"\n3,4\n", (("1", "2"), ("3", "4")), ((3, "too_many_fields"),), TOLD
    ),
    "cells that are formulas": Small(
        b'f,g\n=1+1,+1\n-1,@SUM(A1)\n"\t=1","\r=1"\n"=HYPERLINK(""http://x"",""y"")",=\'x\'!A1\n',
        (("=1+1", "+1"), ("-1", "@SUM(A1)"), ("\t=1", "\r=1"), ('=HYPERLINK("http://x","y")', "='x'!A1")),
        (), TOLD, ("f", "g"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_an_ugly_file_is_loaded_exactly_and_what_is_not_is_listed(serving: Serving, name: str) -> None:
    """Cell by cell; by a reader that detects, or is told, what the table says."""
    case, id = SMALL[name], upload_id(name)
    receipt = serving.ingest(case.data, id, case.dialect)
    assert Stored(serving.database.admin_dsn, id).rows == list(case.rows)
    assert serving.rejected(id) == list(case.rejected)
    assert tuple(receipt.columns) == case.columns
    assert receipt.rows_stored == len(case.rows)


def test_formulas_come_out_as_they_came_in_and_escaped_where_that_is_asked_for(serving: Serving) -> None:
    """Byte for byte by default; with a mark in front, they are no formulas to a spreadsheet."""
    name = "cells that are formulas"
    serving.ingest(SMALL[name].data, upload_id("exported"), TOLD)
    exported = exported_rows(serving, escape_formulas=False)
    assert exported == [SMALL[name].columns, *SMALL[name].rows]
    escaped = exported_rows(serving, escape_formulas=True)
    assert escaped[1:] == [
        tuple(cell if cell in ("+1", "-1") else f"'{cell}" for cell in row) for row in SMALL[name].rows
    ]


def exported_rows(serving: Serving, *, escape_formulas: bool) -> list[tuple[str, ...]]:
    """The current version as the csv module reads its export."""
    request = pb.ExportRowsRequest(knowledge_base=KNOWLEDGE_BASE, escape_formulas=escape_formulas)
    text = b"".join(piece.data for piece in serving.client.ingests.ExportRows(request)).decode()
    return [tuple(row) for row in csv.reader(io.StringIO(text, newline=""))]


REFUSED = {
    "NUL in the header": (b"a,\0b\n1,2\n", "header_nul_byte", 1, 0),
    "invalid bytes in the header": (b"a,\xff\n1,2\n", "header_invalid_bytes", 1, 0),
    "nothing": (b"", "empty_file", 1, 0),
    "a quote that is open at the end, in a row of another width": (b'a,b\n1,2\n3,"4,5\n', "unclosed_quote", 3, 10),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_read_is_refused_with_line_byte_and_reason(serving: Serving, name: str) -> None:
    """Nothing of it is stored."""
    data, code, line, byte = REFUSED[name]
    with pytest.raises(CallFailed) as raised:
        serving.ingest(data, upload_id(name), TOLD)
    assert raised.value.reason == "MALFORMED_FILE"
    told = raised.value.metadata
    assert (told["code"], told["line"], told["byte_offset"]) == (code, str(line), str(byte))
    assert Stored(serving.database.admin_dsn, upload_id(name)).rows == []


CUT_FILE = '\ufeff이름,b\r\n"첫 ""줄""\r\n둘",2\r3,\n\n"",=1\n\\.,"x,\ny"'.encode()
CUT_ROWS = [('첫 "줄"\r\n둘', "2"), ("3", ""), ("", "=1"), ("\\.", "x,\ny")]


def test_every_boundary_between_chunks_at_every_byte_gives_the_same_rows(serving: Serving) -> None:
    """The file in two messages, cut at each byte; and one message a byte."""
    stub = serving.client.ingests
    for cut in range(1, len(CUT_FILE) + 1):
        pieces = [CUT_FILE[:cut], CUT_FILE[cut:]] if cut < len(CUT_FILE) else [bytes([byte]) for byte in CUT_FILE]
        id = f"cut-{cut}"
        *_, last = list(stub.Ingest(iter(messages(id, pieces))))
        assert last.completed.receipt.rows_stored == len(CUT_ROWS)
        assert Stored(serving.database.admin_dsn, id).rows == CUT_ROWS


def messages(id: str, pieces: list[bytes]) -> Iterator[pb.IngestRequest]:
    yield pb.IngestRequest(
        open=pb.OpenUpload(knowledge_base=KNOWLEDGE_BASE, upload_id=id, mode=pb.UPLOAD_MODE_REPLACE, dialect=TOLD)
    )
    offset = 0
    for piece in pieces:
        if piece:
            yield pb.IngestRequest(chunk=pb.UploadChunk(offset_bytes=offset, data=piece))
        offset += len(piece)
    digest = hashlib.sha256(b"".join(pieces)).digest()
    yield pb.IngestRequest(finish=pb.FinishUpload(total_size_bytes=offset, sha256=digest))


def upload_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
