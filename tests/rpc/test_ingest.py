"""IngestService through a real channel, a real server and a real database."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

import grpc
import psycopg2
import psycopg2.extensions
import pytest

from dari._native import profile  # noqa: TID251 - what no RPC tells of one segment
from dari.v1 import ingest_pb2 as pb
from dari.v1 import mapping_pb2
from tests.fix_server import SMALL_BATCH_BYTES, ServedDari, StartServer
from tests.support.running_dari import SOON_S, Refusal, refusal
from tests.support.uploading import APPEND, REPLACE, Stored, made_csv, made_rows, plain
from tests.support.waiting import until

ROWS = 6_000
FILE = made_csv(ROWS)
"""Some five of the test server's batches."""
HALF = 3 * SMALL_BATCH_BYTES


@contextmanager
def admin(served: ServedDari) -> Iterator[psycopg2.extensions.cursor]:
    """A session past all of dari's roles."""
    with closing(psycopg2.connect(served.dsns.admin_dsn)) as session, session.cursor() as cur:
        yield cur
        session.commit()


def tables_of_rows(served: ServedDari) -> list[str]:
    with admin(served) as cur:
        cur.execute("SELECT relname FROM pg_class WHERE relnamespace = 'dari_rows'::regnamespace AND relkind = 'r'")
        return [name for (name,) in cur.fetchall()]


def version_of(served: ServedDari, base: str = "kb") -> tuple[int, int]:
    """(number, rows) of the current version; zeros where there is none."""
    request = mapping_pb2.GetKnowledgeBaseRequest(name=f"knowledgeBases/{base}")
    found = served.dari.mapping.GetKnowledgeBase(request).knowledge_base
    return found.current_version, found.row_count


# The straight road


def test_a_file_is_stored_cell_by_cell_and_its_receipt_says_what_was_done(server: ServedDari) -> None:
    answers = list(server.uploader.begun(FILE).call)
    assert [answer.WhichOneof("message") for answer in answers[:2]] == ["opened", "committed"]
    offsets = [answer.committed.offset_bytes for answer in answers[1:-1]]
    assert offsets == sorted(set(offsets)), "each batch is told once, in order"
    assert offsets[-1] == len(FILE)
    assert len(offsets) > 3

    receipt = answers[-1].completed.receipt
    assert (receipt.upload, receipt.knowledge_base, receipt.version) == ("uploads/u", "knowledgeBases/kb", 1)
    assert (receipt.size_bytes, receipt.sha256) == (len(FILE), hashlib.sha256(FILE).digest())
    assert (receipt.rows_stored, receipt.rows_rejected) == (ROWS, 0)
    assert list(receipt.columns) == ["id", "name", "note", "city"]
    assert (receipt.reading.dialect.delimiter, receipt.reading.dialect.header_rows) == (",", 1)
    assert receipt.create_time.ToNanoseconds() <= receipt.complete_time.ToNanoseconds()

    stored = Stored(server.dsns.admin_dsn)
    assert stored.rows == made_rows(ROWS)
    assert stored.row_numbers == list(range(1, ROWS + 1))
    stored.assert_ledger_covers(len(FILE))
    assert version_of(server) == (1, ROWS)


CELLS = [
    ("quotes", 'say "hi", twice ""'),
    ("line ends", "a\nb\r\nc\rd"),
    ("end of COPY", "\\."),
    ("backslashes", "\\N \\t \\\\"),
    ("formula", "=1+1"),
    ("formula with tab", "\t@SUM(A1)"),
    ("minus", "-2+3"),
    ("emoji", "🧑‍🚀🇰🇷"),
    ("Korean, composed and not", "한국 \u1112\u1161\u11ab"),
    ("empty", ""),
    ("only blanks", "   "),
    ("zero width and order marks", "\ufeff\u200b\u202e"),
    ("line separators", "\u2028\u2029\u0085"),
    ("control characters", "\x01\x08\x1b\x7f"),
    ("percent and braces", "%s %(x)s {0} $1"),
    ("NULL in words", "NULL"),
    ("long", "wort " * 20_000),
]


def test_unusual_cells_are_stored_exactly(server: ServedDari) -> None:
    data = b"name,cell\n" + b"".join(
        b'"%s","%s"\n' % (name.encode(), cell.replace('"', '""').encode()) for name, cell in CELLS
    )
    receipt = server.uploader.upload(data)
    assert (receipt.rows_stored, receipt.rows_rejected) == (len(CELLS), 0)
    assert Stored(server.dsns.admin_dsn).rows == CELLS


def test_header_names_that_postgresql_could_not_take_are_kept(server: ServedDari) -> None:
    columns = ["a" * 100, "a" * 99 + "b", "row_number", "이름", 'q"uote', "line\nend", "c1", " c1", "C1"]
    header = ",".join('"{}"'.format(name.replace('"', '""')) for name in columns)
    receipt = server.uploader.upload(f"{header}\n{','.join('123456789')}\n".encode())
    assert list(receipt.columns) == columns
    assert server.uploader.search("5") == [dict(zip(columns, "123456789", strict=True))]


@pytest.mark.parametrize(
    ("dialect", "data", "columns", "rows"),
    [
        (plain(delimiter=";"), b"a;b\n1,5;2\n", ["a", "b"], [("1,5", "2")]),
        (plain(delimiter="\t"), b'a\tb\n"1\t5"\t2\n', ["a", "b"], [("1\t5", "2")]),
        (plain(quote="'"), b"a,b\n'1,5',\"\n", ["a", "b"], [("1,5", '"')]),
        (plain(quote="none"), b'a,b\n"1,5"\n', ["a", "b"], [('"1', '5"')]),
        (plain(header_rows=0), b"1,5\n2,6", ["column_1", "column_2"], [("1", "5"), ("2", "6")]),
    ],
)
def test_a_file_is_read_in_the_dialect_that_it_was_opened_with(
    server: ServedDari, dialect: pb.Dialect, data: bytes, columns: list[str], rows: list[tuple[str, ...]]
) -> None:
    receipt = server.uploader.upload(data, dialect=dialect)
    assert list(receipt.columns) == columns
    assert Stored(server.dsns.admin_dsn).rows == rows
    assert receipt.reading == pb.Reading(dialect=dialect, confidence=1)


@pytest.mark.parametrize("delimiter", [chr(code) for code in range(1, 128) if chr(code) not in '\r\n"'])
def test_every_ascii_character_may_be_the_delimiter_or_is_refused_by_name(
    shared_server: ServedDari, delimiter: str
) -> None:
    uploader = shared_server.uploader
    id = f"delimiter-{ord(delimiter)}"
    names = ("1", "2") if delimiter.isalpha() else ("x", "y")
    data = f"{delimiter.join(names)}\n{delimiter.join('##' if delimiter != '#' else '!!')}\n".encode()
    receipt = uploader.upload(data, id, dialect=plain(delimiter=delimiter))
    assert (list(receipt.columns), receipt.rows_stored) == (list(names), 1)


def test_a_file_of_a_header_alone_makes_a_version_without_rows(server: ServedDari) -> None:
    server.uploader.upload(b"a,b\n1,2\n", "before")
    receipt = server.uploader.upload(b"a,b", "header-only")
    assert (receipt.version, receipt.rows_stored, list(receipt.columns)) == (2, 0, ["a", "b"])
    assert version_of(server) == (2, 0)
    assert server.uploader.search("1") == []
    assert server.uploader.upload(b"a,b\n3,4", "more", mode=APPEND).version == 3
    assert server.uploader.search("3") == [{"a": "3", "b": "4"}]


def test_an_append_goes_behind_the_rows_that_are_there(server: ServedDari) -> None:
    server.uploader.upload(made_csv(300, tag="erste"), "one", mode=APPEND)
    server.uploader.upload(made_csv(200, first=1_001, tag="zweite"), "two", mode=APPEND)
    assert version_of(server) == (2, 500)
    request = pb.SearchRequest(knowledge_bases=["knowledgeBases/kb"], query="1042", limit=1)
    (hit,) = server.dari.ingest.Search(request).hits
    assert (hit.version, hit.row_number, hit.cells[1].text) == (2, 342, "zweite 1042")
    server.uploader.upload(made_csv(10, tag="dritte"), "three", mode=REPLACE)
    assert version_of(server) == (3, 10)
    assert server.uploader.search("zweite") == []


# Resuming


def test_a_resumed_upload_goes_on_from_the_committed_offset_and_stores_each_row_once(server: ServedDari) -> None:
    first = server.uploader.stream()
    first.open()
    assert first.opened() == 0
    first.chunks(FILE[:HALF])
    first.committed(2 * SMALL_BATCH_BYTES)
    first.leave()

    second = server.uploader.stream()
    second.open()
    offset = second.opened()
    assert 2 * SMALL_BATCH_BYTES <= offset <= HALF
    second.chunks(FILE, offset)
    second.finish(len(FILE), hashlib.sha256(FILE).digest())
    assert second.receipt().rows_stored == ROWS

    stored = Stored(server.dsns.admin_dsn)
    assert stored.rows == made_rows(ROWS)
    stored.assert_ledger_covers(len(FILE))


def test_a_finished_upload_gives_its_receipt_again(server: ServedDari) -> None:
    receipt = server.uploader.upload(FILE)
    again = server.uploader.stream()
    again.open()
    assert again.opened() == len(FILE)
    assert again.receipt() == receipt
    assert server.uploader.state().receipt == receipt
    assert server.uploader.upload(FILE) == receipt, "also where the client sends all of it"
    assert version_of(server) == (1, ROWS)


def test_bytes_that_are_safe_already_are_acknowledged_and_skipped(server: ServedDari) -> None:
    first = server.uploader.stream()
    first.open()
    first.opened()
    first.chunks(FILE[:HALF])
    safe = first.committed(SMALL_BATCH_BYTES)
    first.leave()

    second = server.uploader.stream()
    second.open()
    offset = second.opened()
    second.chunk(0, FILE[:1_000])
    answer = second.answer()
    assert answer.committed.offset_bytes == offset >= safe.offset_bytes
    assert answer.committed.rows_stored >= safe.rows_stored > 0
    second.chunk(offset - 500, FILE[offset - 500 : offset + 500])
    second.chunk(offset - 100, FILE[offset - 100 : offset + 100])
    second.chunks(FILE, offset + 500)
    second.finish(len(FILE), hashlib.sha256(FILE).digest())
    assert second.receipt().rows_stored == ROWS
    assert Stored(server.dsns.admin_dsn).rows == made_rows(ROWS)


def test_a_gap_is_refused_with_the_offset_expected(server: ServedDari) -> None:
    stream = server.uploader.stream()
    stream.open()
    stream.chunk(0, FILE[:100])
    stream.chunk(101, FILE[101:200])
    refused = stream.refusal()
    assert (refused.status, refused.reason) == ("OUT_OF_RANGE", "OFFSET_GAP")
    assert refused.metadata == {"expected_offset": "100", "received_offset": "101"}

    short = server.uploader.stream()
    short.open()
    short.chunk(0, FILE[:100])
    short.finish(101)
    assert short.refusal().metadata == {"expected_offset": "100", "received_offset": "101"}
    assert server.uploader.upload(FILE).rows_stored == ROWS, "the upload itself goes on"


def test_of_two_streams_the_one_that_opened_last_goes_on(server: ServedDari) -> None:
    first, second = server.uploader.stream(), server.uploader.stream()
    first.open()
    first.opened()
    first.chunks(FILE[:HALF])
    first.committed(SMALL_BATCH_BYTES)
    second.open()
    offset = second.opened()
    first.chunks(FILE, HALF)
    first.finish(len(FILE))
    refused = first.refusal()
    assert (refused.status, refused.reason) == ("ABORTED", "RIVAL_WRITER")
    assert refused.metadata == {"upload": "uploads/u"}
    second.chunks(FILE, offset)
    second.finish(len(FILE), hashlib.sha256(FILE).digest())
    assert second.receipt().rows_stored == ROWS
    stored = Stored(server.dsns.admin_dsn)
    assert stored.rows == made_rows(ROWS)
    stored.assert_ledger_covers(len(FILE))


def test_a_batch_of_the_stream_before_is_waited_for_without_the_lock_that_it_will_ask_for(server: ServedDari) -> None:
    """Else the two wait for each other, and PostgreSQL gives one of them up: the one who is right, or who is late."""
    stream = server.uploader.stream()
    stream.open()
    stream.opened()
    stream.chunks(FILE)
    stream.committed(SMALL_BATCH_BYTES)
    segment = Stored(server.dsns.admin_dsn).segment

    def waits_for_tables() -> bool:
        with admin(server) as cur:
            cur.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'relation' AND datname = current_database()")
            return bool(cur.fetchall())

    with admin(server) as late:
        late.execute(f"LOCK TABLE dari_rows.rows_{segment} IN ROW EXCLUSIVE MODE")
        stream.finish(len(FILE))
        until(waits_for_tables)
        late.execute("SELECT state FROM dari.uploads FOR UPDATE NOWAIT")
        assert late.fetchall() == [("INDEXING",)]
    assert stream.receipt().rows_stored == ROWS


def test_uploads_that_race_over_two_servers_store_each_row_once(start_server: StartServer) -> None:
    servers = [start_server(), start_server()]
    servers[0].dari.make_knowledge_base("kb")
    outcomes: list[str] = []

    def send(served: ServedDari) -> None:
        for _ in range(3):
            try:
                served.uploader.upload(FILE)
                outcomes.append("OK")
            except grpc.RpcError as error:
                outcomes.append(refusal(error).reason)

    threads = [threading.Thread(target=send, args=(served,)) for served in servers * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {"OK", "RIVAL_WRITER"}
    servers[0].uploader.upload(FILE)
    stored = Stored(servers[0].dsns.admin_dsn)
    assert stored.rows == made_rows(ROWS)
    stored.assert_ledger_covers(len(FILE))
    assert version_of(servers[0]) == (1, ROWS)


def test_what_is_safe_is_told_though_the_client_sends_nothing_more(server: ServedDari) -> None:
    stream = server.uploader.stream()
    stream.open()
    stream.opened()
    stream.chunks(FILE[: 2 * SMALL_BATCH_BYTES])
    assert stream.committed(SMALL_BATCH_BYTES).rows_stored > 0
    stream.leave()


@pytest.mark.parametrize(
    ("field", "opening"),
    [
        ("knowledge_base", {"base": "other"}),
        ("mode", {"mode": APPEND}),
        ("dialect", {"dialect": plain(delimiter=";")}),
        ("dialect", {"dialect": pb.Dialect()}),
        ("invalid_bytes", {"invalid_bytes": pb.INVALID_BYTES_REPLACE}),
        ("ragged_rows", {"ragged_rows": pb.RAGGED_ROWS_REJECT}),
    ],
)
@pytest.mark.parametrize("is_complete", [False, True])
def test_an_upload_id_stands_for_one_target_mode_and_dialect(
    server: ServedDari, field: str, opening: dict[str, Any], is_complete: bool
) -> None:
    server.dari.make_knowledge_base("other")
    if is_complete:
        server.uploader.upload(FILE)
    else:
        stream = server.uploader.stream()
        stream.open()
        stream.opened()
        stream.leave()
    again = server.uploader.stream()
    again.open(**opening)
    refused = again.refusal()
    assert (refused.status, refused.reason) == ("FAILED_PRECONDITION", "UPLOAD_CONFLICT")
    assert refused.metadata == {"upload": "uploads/u", "field": field}


def test_a_file_that_grew_after_its_end_was_told_is_not_glued_to_its_last_line(start_server: StartServer) -> None:
    """The last record may have been half a line; going on behind it would make two rows of one."""
    server = start_server(database_statement_timeout_s=0.5)
    server.dari.make_knowledge_base("kb")
    data = b"a\n1"
    with admin(server) as cur:
        cur.execute("SELECT 1 FROM dari.knowledge_bases FOR NO KEY UPDATE")  # Nobody can publish.
        refused = server.uploader.refused(data)
        assert (refused.status, refused.metadata["committed_offset"]) == ("UNAVAILABLE", str(len(data)))
        assert server.uploader.state().state == pb.UPLOAD_STATE_INDEXING

    grown = server.uploader.stream()
    grown.open()
    assert grown.opened() == len(data)
    grown.chunk(len(data), b"2\n")
    refused = grown.refusal()
    assert (refused.reason, refused.metadata) == ("UPLOAD_CONFLICT", {"upload": "uploads/u", "field": "size"})

    assert server.uploader.upload(data).rows_stored == 1
    assert Stored(server.dsns.admin_dsn).rows == [("1",)]


# Files that cannot be taken


def test_a_digest_or_size_that_differs_fails_the_upload_and_leaves_nothing(server: ServedDari) -> None:
    server.uploader.upload(b"a\nbefore\n", "before")
    digest = hashlib.sha256(b"another file").digest()
    for id, size, sha256, metadata in (
        ("digest", len(FILE), digest, {"declared_sha256": digest.hex()}),
        ("size", len(FILE) - 1, b"", {"declared_bytes": str(len(FILE) - 1), "received_bytes": str(len(FILE))}),
    ):
        stream = server.uploader.stream()
        stream.open(id)
        stream.chunks(FILE)
        stream.finish(size, sha256)
        refused = stream.refusal()
        assert (refused.status, refused.reason) == ("INVALID_ARGUMENT", "CHECKSUM_MISMATCH")
        assert metadata.items() <= refused.metadata.items()
        state = server.uploader.state(id)
        assert state.state == pb.UPLOAD_STATE_FAILED
        assert state.failure
        assert Stored(server.dsns.admin_dsn, id).rows == []
        again = server.uploader.refused(FILE, id)
        assert (again.status, again.reason) == ("FAILED_PRECONDITION", "UPLOAD_CONFLICT")
        assert again.metadata["field"] == "state"
    assert version_of(server) == (1, 1)
    assert server.uploader.search("before") == [{"a": "before"}]


WIDE = b",".join(b"c%d" % number for number in range(1_500)) + b"\n" + b",".join([b"0123456789"] * 1_500) + b"\n"

MALFORMED: list[tuple[str, bytes, dict[str, str]]] = [
    ("record_too_long", b"a,b\n1,2\n3," + b"x" * 2_000 + b"\n", {"line": "3", "byte_offset": "8"}),
    ("too_many_columns", b"1," * 1_500 + b"1\n", {"line": "1", "byte_offset": "0", "limit": "1500"}),
    ("unclosed_quote", b'a,b\n1,2\n3,"4,5\n6,7\n', {"line": "3", "byte_offset": "10"}),
    ("no_header", b"\n", {"line": "2"}),
]


@pytest.mark.parametrize(("code", "data", "place"), MALFORMED, ids=[code for code, _, _ in MALFORMED])
def test_a_malformed_file_is_refused_with_its_code_and_place(
    start_server: StartServer, code: str, data: bytes, place: dict[str, str]
) -> None:
    server = start_server(max_record_bytes=2_000 if code == "record_too_long" else 100_000)
    server.dari.make_knowledge_base("kb")
    server.uploader.upload(b"a\nbefore\n", "before")
    refused = server.uploader.refused(data)
    assert (refused.status, refused.reason) == ("INVALID_ARGUMENT", "MALFORMED_FILE")
    assert refused.metadata["code"] == code
    assert place.items() <= refused.metadata.items()
    state = server.uploader.state()
    assert (state.state, state.HasField("receipt")) == (pb.UPLOAD_STATE_FAILED, False)
    assert state.failure.startswith(refused.message[:20])
    assert version_of(server) == (1, 1), "the version before is whole"
    assert len(tables_of_rows(server)) == 3, "nothing is left of the one that failed"


def test_an_empty_file_is_refused(server: ServedDari) -> None:
    assert server.uploader.refused(b"").metadata["code"] == "empty_file"


BAD_LINES: list[tuple[bytes, str]] = [
    (b"1", "TOO_FEW_FIELDS"),
    (b"1,2,3", "TOO_MANY_FIELDS"),
    (b"1,\xff\xfe", "INVALID_BYTES"),
    (b"1,a\0b", "NUL_BYTE"),
    (b'1,"a"b,2', "TEXT_AFTER_QUOTE"),
]


def test_rejected_rows_are_listed_with_line_byte_reason_and_bytes_and_all_others_are_stored(server: ServedDari) -> None:
    lines = [b"a,b"]
    expected = []
    for line, reason in BAD_LINES * 3:
        lines.append(b'"good\n%d",x' % len(lines))
        offset = sum(len(before) + 1 for before in lines)
        number = 1 + sum(before.count(b"\n") + 1 for before in lines)
        expected.append((number, offset, len(line) + 1, f"REJECTION_REASON_{reason}", line))
        lines.append(line)
    data = b"\n".join(lines) + b"\n"
    receipt = server.uploader.upload(data, ragged_rows=pb.RAGGED_ROWS_REJECT)
    assert (receipt.rows_stored, receipt.rows_rejected) == (15, 15)
    for page_size in (0, 1, 4, 15):
        listed = [
            (row.line, row.offset_bytes, row.length_bytes, pb.RejectionReason.Name(row.reason), row.raw.rstrip(b"\n"))
            for row in server.uploader.rejected(page_size=page_size)
        ]
        assert listed == expected


def test_a_row_that_no_page_of_postgresql_holds_is_rejected_and_the_others_are_stored(server: ServedDari) -> None:
    receipt = server.uploader.upload(WIDE + b"," * 1_499 + b"\n")
    assert (receipt.rows_stored, receipt.rows_rejected) == (1, 1)
    (row,) = server.uploader.rejected()
    assert row.reason == pb.REJECTION_REASON_ROW_TOO_WIDE


def test_ragged_rows_are_stored_with_exactly_their_cells(server: ServedDari) -> None:
    receipt = server.uploader.upload(b"a,b\n1\n1,2\n1,2,3,4\n,\n")
    assert (receipt.rows_stored, receipt.rows_rejected, receipt.rows_ragged) == (4, 0, 2)
    assert Stored(server.dsns.admin_dsn).rows == [("1",), ("1", "2"), ("1", "2", "3", "4"), ("", "")]


def test_a_file_that_nothing_is_told_about_is_read_and_the_receipt_says_how(server: ServedDari) -> None:
    data = "이름;도시\n".encode("cp949") + "홍길동;서울\n김영희;부산\n".encode("cp949") * 50
    receipt = server.uploader.upload(data, dialect=None)
    assert (list(receipt.columns), receipt.rows_stored) == (["이름", "도시"], 100)
    read = receipt.reading.dialect
    assert (read.encoding, read.delimiter, read.header_rows) == (pb.ENCODING_CP949, ";", 1)
    assert Stored(server.dsns.admin_dsn).rows[:2] == [("홍길동", "서울"), ("김영희", "부산")]


def test_the_evidence_of_all_batches_becomes_one(server: ServedDari) -> None:
    server.uploader.upload(FILE)
    with admin(server) as cur:
        cur.execute(f"SELECT evidence FROM dari_rows.evidence_{Stored(server.dsns.admin_dsn).segment}")
        ((evidence,),) = cur.fetchall()
    (first, *_) = profile(bytes(evidence))
    assert (first.cell_count, first.min, first.max) == (ROWS, "1", str(ROWS))


def test_too_many_rejected_rows_fail_the_upload_and_those_read_so_far_are_listed(server: ServedDari) -> None:
    data = b"a,b\n" + b"1,\0\n" * 3 + b"1,2\n" * 50_000
    assert server.uploader.upload(data, "three-are-allowed", max_rejected_rows=3).rows_rejected == 3
    refused = server.uploader.refused(data, max_rejected_rows=2)
    assert (refused.status, refused.reason) == ("INVALID_ARGUMENT", "MALFORMED_FILE")
    assert {"code": "too_many_rejected_rows", "limit": "2", "upload": "uploads/u"}.items() <= refused.metadata.items()
    assert [row.line for row in server.uploader.rejected()] == [2, 3, 4]
    assert server.uploader.state().state == pb.UPLOAD_STATE_FAILED


def test_an_append_with_other_columns_is_refused_at_the_first_batch(server: ServedDari) -> None:
    server.uploader.upload(b"id,name\n1,x\n", "before")
    stream = server.uploader.stream()
    stream.open(mode=APPEND)
    stream.chunks(FILE[:HALF])  # No `finish`: the first batch is enough.
    refused = stream.refusal()
    assert (refused.status, refused.reason) == ("FAILED_PRECONDITION", "HEADER_CONFLICT")
    assert refused.metadata == {
        "knowledge_base": "knowledgeBases/kb",
        "expected_columns": "2",
        "received_columns": "4",
        "first_difference": "3",
    }
    assert version_of(server) == (1, 1)


def test_an_append_that_a_replace_overtakes_is_refused_when_it_would_be_published(server: ServedDari) -> None:
    server.uploader.upload(FILE, "before")
    stream = server.uploader.stream()
    stream.open(mode=APPEND)
    stream.opened()
    stream.chunks(FILE)
    stream.committed(SMALL_BATCH_BYTES)
    server.uploader.upload(b"other\n1\n", "replace")
    stream.finish(len(FILE))
    assert stream.refusal().reason == "HEADER_CONFLICT"
    assert version_of(server) == (2, 1)


def test_a_replace_that_is_not_finished_leaves_the_version_before(server: ServedDari) -> None:
    server.uploader.upload(FILE, "before")
    stream = server.uploader.stream()
    stream.open(mode=REPLACE)
    stream.opened()
    stream.chunks(made_csv(ROWS, tag="fresh"))
    stream.committed(HALF)
    assert version_of(server) == (1, ROWS)
    assert server.uploader.search("fresh") == []
    stream.leave()
    assert server.uploader.search("row 17", limit=1)[0]["id"] == "17"


def test_a_reader_sees_whole_versions_only(server: ServedDari) -> None:
    """Each version holds one tag in all of its rows; an answer with two would be half of one and half of another."""
    seen: list[tuple[int, int, set[str]]] = []
    done = threading.Event()

    def read() -> None:
        request = pb.SearchRequest(knowledge_bases=["knowledgeBases/kb"], query="said left", limit=100)
        while not done.is_set():
            before, hits, after = version_of(server), server.dari.ingest.Search(request).hits, version_of(server)
            tags = {hit.cells[1].text.split()[0] for hit in hits}
            versions = {hit.version for hit in hits}
            assert len(tags) <= 1
            assert len(versions) <= 1
            assert before[1] in (0, 1_000, 2_000, 3_000)
            if before == after and hits:
                assert versions == {before[0]}
                assert tags == {f"tag{before[0]}"}
            seen.append((*before, tags))

    problems: list[BaseException] = []
    reader = threading.Thread(target=_reporting(read, problems))
    reader.start()
    for version in (1, 2, 3):
        server.uploader.upload(made_csv(1_000 * version, tag=f"tag{version}"), f"u{version}")
        count = len(seen)
        until(lambda count=count: len(seen) > count + 1 or bool(problems))  # type: ignore[misc]
    done.set()
    reader.join()
    assert problems == []
    assert {version for version, _, _ in seen} >= {1, 2, 3}


def _reporting(work: Callable[[], None], problems: list[BaseException]) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        except BaseException as problem:
            problems.append(problem)

    return run


# Streams that break the protocol, or break off


def test_a_silent_stream_ends_at_the_idle_timer_and_the_upload_goes_on(start_server: StartServer) -> None:
    server = start_server(upload_idle_timeout_s=0.2)
    server.dari.make_knowledge_base("kb")
    stream = server.uploader.stream()
    stream.open()
    stream.chunks(FILE[:HALF])
    refused = stream.refusal()
    assert (refused.status, refused.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert refused.metadata["idle_timeout_s"] == "0.2"
    assert int(refused.metadata["committed_offset"]) <= server.uploader.state().committed_offset_bytes
    silent = server.uploader.stream()
    assert silent.refusal().status == "DEADLINE_EXCEEDED", "also where not even `open` came"
    assert server.uploader.upload(FILE).rows_stored == ROWS


def test_uploads_beyond_the_limit_are_refused_and_a_place_is_free_when_one_ends(start_server: StartServer) -> None:
    server = start_server(max_open_uploads=1)
    server.dari.make_knowledge_base("kb")
    first = server.uploader.stream()
    first.open("first")
    first.opened()
    refused = server.uploader.refused(FILE, "second")
    assert (refused.status, refused.reason) == ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED")
    assert refused.metadata == {"limit": "max_open_uploads", "value": "1"}
    first.end()
    first.refusal()
    assert server.uploader.upload(FILE, "second").rows_stored == ROWS


def test_a_stream_that_ends_without_finish_is_no_success(server: ServedDari) -> None:
    stream = server.uploader.stream()
    stream.open()
    stream.chunks(FILE)
    stream.end()
    refused = stream.refusal()
    assert (refused.status, refused.reason) == ("FAILED_PRECONDITION", "FAILED_PRECONDITION")
    assert refused.metadata == {"expected": "chunk or finish", "committed_offset": refused.metadata["committed_offset"]}
    assert server.uploader.state().committed_offset_bytes >= int(refused.metadata["committed_offset"])
    nothing = server.uploader.stream()
    nothing.end()
    assert nothing.refusal().metadata["expected"] == "open"


def test_messages_out_of_order_are_refused(server: ServedDari) -> None:
    for send in ("chunk", "finish", "nothing"):
        stream = server.uploader.stream()
        if send == "chunk":
            stream.chunk(0, b"a")
        elif send == "finish":
            stream.finish(1)
        else:
            stream.send(pb.IngestRequest())
        assert stream.refusal() == Refusal(
            "INVALID_ARGUMENT", "INVALID_FIELD", {"fields": "message"}, ("message",), "message: must be open"
        )
    twice = server.uploader.stream()
    twice.open()
    twice.open()
    assert twice.refusal().message == "message: must be chunk or finish"


def test_a_chunk_of_the_wrong_size_is_refused(server: ServedDari) -> None:
    for offset, data, fields in (
        (0, b"", ("chunk.data",)),
        (0, b"x" * (1024 * 1024 + 1), ("chunk.data",)),
        (-1, b"x", ("chunk.offset_bytes",)),
        (-1, b"", ("chunk.offset_bytes", "chunk.data")),
    ):
        stream = server.uploader.stream()
        stream.open()
        stream.chunk(offset, data)
        assert stream.refusal().fields == fields
    largest = server.uploader.stream()
    largest.open("largest")
    data = b"a\n" + b"x\n" * (512 * 1024 - 1)
    largest.chunk(0, data)
    largest.finish(len(data))
    assert largest.receipt().rows_stored == 512 * 1024 - 1


def test_a_message_that_no_chunk_could_fill_ends_the_call_and_nothing_else(server: ServedDari) -> None:
    stream = server.uploader.stream()
    stream.open()
    stream.opened()
    stream.chunk(0, b"x" * (2 * 1024 * 1024))
    with pytest.raises(grpc.RpcError) as raised:
        list(stream.call)
    assert cast(grpc.Call, raised.value).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.uploader.upload(FILE).rows_stored == ROWS


def test_a_wrong_finish_does_not_fail_the_upload(server: ServedDari) -> None:
    for size, sha256, fields in (
        (-1, b"", ("finish.total_size_bytes",)),
        (len(FILE), b"short", ("finish.sha256",)),
        (-1, b"short", ("finish.total_size_bytes", "finish.sha256")),
    ):
        stream = server.uploader.stream()
        stream.open()
        stream.chunks(FILE, stream.opened())
        stream.finish(size, sha256)
        assert stream.refusal().fields == fields
    assert server.uploader.upload(FILE).rows_stored == ROWS


def test_every_wrong_field_of_open_is_named(server: ServedDari) -> None:
    stream = server.uploader.stream()
    stream.send(
        pb.IngestRequest(
            open=pb.OpenUpload(
                knowledge_base="kb",
                upload_id="a b",
                dialect=pb.Dialect(
                    delimiter=";;",
                    quote="\n",
                    escape="ab",
                    comment="\0",
                    preamble_lines=-1,
                    header_rows=9,
                    encoding=99,  # type: ignore[arg-type]
                ),
                max_rejected_rows=-1,
                max_rejected_share=1.1,
                invalid_bytes=9,  # type: ignore[arg-type]
                ragged_rows=9,  # type: ignore[arg-type]
            )
        )
    )
    refused = stream.refusal()
    assert (refused.status, refused.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert set(refused.fields) == {
        "open.knowledge_base",
        "open.upload_id",
        "open.mode",
        "open.dialect.delimiter",
        "open.dialect.quote",
        "open.dialect.escape",
        "open.dialect.comment",
        "open.dialect.preamble_lines",
        "open.dialect.header_rows",
        "open.dialect.encoding",
        "open.max_rejected_rows",
        "open.max_rejected_share",
        "open.invalid_bytes",
        "open.ragged_rows",
    }


@pytest.mark.parametrize("upload_id", ["", "a/b", "a b", "ä", "a\0", "a\n", "x" * 129, "../x"])
def test_an_upload_id_of_the_wrong_form_is_refused(shared_server: ServedDari, upload_id: str) -> None:
    stream = shared_server.uploader.stream()
    stream.open(upload_id)
    assert stream.refusal().fields == ("open.upload_id",)
    if upload_id:
        with pytest.raises(grpc.RpcError) as raised:
            shared_server.uploader.state(upload_id)
        assert refusal(raised.value).fields == ("name",)


@pytest.mark.parametrize("name", ["", "kb", "knowledgeBases/", "knowledgeBases/K", "uploads/kb", "knowledgeBases/a/b"])
def test_a_knowledge_base_of_the_wrong_form_is_refused(shared_server: ServedDari, name: str) -> None:
    stream = shared_server.uploader.stream()
    stream.send(pb.IngestRequest(open=pb.OpenUpload(knowledge_base=name, upload_id="u", mode=REPLACE)))
    assert stream.refusal().fields == ("open.knowledge_base",)


def test_a_knowledge_base_that_does_not_exist_is_not_found(server: ServedDari) -> None:
    stream = server.uploader.stream()
    stream.open(base="nope")
    refused = stream.refusal()
    assert (refused.status, refused.reason) == ("NOT_FOUND", "NOT_FOUND")
    assert refused.metadata == {"resource": "knowledgeBases/nope"}
    with pytest.raises(grpc.RpcError) as raised:
        server.uploader.state("nope")
    assert refusal(raised.value).metadata == {"resource": "uploads/nope"}
    with pytest.raises(grpc.RpcError) as raised:
        list(server.uploader.rejected("nope"))
    assert refusal(raised.value).metadata == {"resource": "uploads/nope"}


def test_a_client_that_leaves_holds_no_thread_and_no_transaction(server: ServedDari) -> None:
    for number in range(8):
        stream = server.uploader.stream()
        stream.open(f"u{number}")
        stream.opened()
        stream.chunks(FILE)
        if number % 2:
            stream.committed(SMALL_BATCH_BYTES)
        stream.leave()
    until(lambda: _inbox_threads() == 0)
    with admin(server) as cur:

        def open_transactions() -> int:
            cur.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dari' AND state <> 'idle'"
                " AND datname = current_database()"
            )
            row = cur.fetchone()
            assert row is not None
            cur.connection.commit()
            return int(row[0])

        until(lambda: open_transactions() == 0)
    assert server.uploader.upload(FILE, "u7").rows_stored == ROWS


def test_calls_that_fail_leave_no_thread(server: ServedDari) -> None:
    for number in range(20):
        stream = server.uploader.stream()
        stream.open("u" if number % 2 else "")
        stream.chunk(5, b"gap")
        stream.chunk(5, b"gap")
        assert stream.refusal().status in ("OUT_OF_RANGE", "INVALID_ARGUMENT")
        stream.end()
    until(lambda: _inbox_threads() == 0)


def _inbox_threads() -> int:
    return sum(thread.name == "ingest-inbox" for thread in threading.enumerate())


def test_a_knowledge_base_deleted_meanwhile_ends_its_uploads_and_leaves_no_table(server: ServedDari) -> None:
    stream = server.uploader.stream()
    stream.open()
    stream.opened()
    stream.chunks(FILE[:HALF])
    stream.committed(SMALL_BATCH_BYTES)
    server.dari.mapping.DeleteKnowledgeBase(mapping_pb2.DeleteKnowledgeBaseRequest(name="knowledgeBases/kb"))
    stream.chunks(FILE, HALF)
    refused = stream.refusal()
    assert (refused.status, refused.metadata) == ("NOT_FOUND", {"resource": "knowledgeBases/kb"})
    assert tables_of_rows(server) == []


def test_a_stream_of_a_deleted_upload_writes_nothing_into_one_of_the_same_name(server: ServedDari) -> None:
    old, new = server.uploader.stream(), server.uploader.stream()
    old.open()
    old.opened()
    server.dari.mapping.DeleteKnowledgeBase(mapping_pb2.DeleteKnowledgeBaseRequest(name="knowledgeBases/kb"))
    server.dari.make_knowledge_base("kb")
    new.open()
    assert new.opened() == 0
    old.chunks(made_csv(ROWS, tag="old"))
    assert old.refusal().reason == "RIVAL_WRITER"
    new.chunks(FILE)
    new.finish(len(FILE))
    assert new.receipt().rows_stored == ROWS
    assert Stored(server.dsns.admin_dsn).rows == made_rows(ROWS)
    assert len(tables_of_rows(server)) == 3


# Cancelling, watching


def cancel(served: ServedDari, upload_id: str = "u") -> pb.Upload:
    return served.dari.ingest.CancelUpload(pb.CancelUploadRequest(name=f"uploads/{upload_id}")).upload


def test_a_cancelled_upload_ends_the_stream_that_sends_it_and_leaves_the_version_before(server: ServedDari) -> None:
    server.uploader.upload(b"a\nbefore\n", "before")
    stream = server.uploader.stream()
    stream.open()
    stream.opened()
    stream.chunks(FILE[:HALF])
    stream.committed(SMALL_BATCH_BYTES)
    assert cancel(server).state == pb.UPLOAD_STATE_CANCELLED
    stream.chunks(FILE, HALF)
    stream.finish(len(FILE))
    refused = stream.refusal()
    assert (refused.status, refused.reason) == ("FAILED_PRECONDITION", "UPLOAD_CONFLICT")
    assert refused.metadata["field"] == "state"
    assert cancel(server) == server.uploader.state(), "again it changes nothing"
    assert server.uploader.refused(FILE).reason == "UPLOAD_CONFLICT"
    until(lambda: len(tables_of_rows(server)) == 3)
    assert version_of(server) == (1, 1)
    assert server.uploader.search("before") == [{"a": "before"}]


def test_an_upload_that_has_ended_is_not_cancelled(server: ServedDari) -> None:
    server.uploader.upload(FILE, "complete")
    with pytest.raises(grpc.RpcError) as raised:
        cancel(server, "complete")
    refused = refusal(raised.value)
    assert (refused.status, refused.reason) == ("FAILED_PRECONDITION", "UPLOAD_CONFLICT")
    assert version_of(server) == (1, ROWS)
    server.uploader.refused(b"", "failed")
    assert cancel(server, "failed").state == pb.UPLOAD_STATE_FAILED
    with pytest.raises(grpc.RpcError) as raised:
        cancel(server, "never")
    assert refusal(raised.value).reason == "NOT_FOUND"


def test_an_upload_is_cancelled_while_its_batches_wait_for_their_turn(server: ServedDari) -> None:
    """The batches hold the tables and wait for the upload, so whoever ends it must not hold the upload and wait."""
    for number in range(6):
        id = f"u{number}"
        stream = server.uploader.stream()
        stream.open(id)
        stream.opened()
        stream.chunks(FILE[:HALF])
        stream.committed(SMALL_BATCH_BYTES)
        stream.chunks(FILE, HALF)
        assert cancel(server, id).state == pb.UPLOAD_STATE_CANCELLED
        assert stream.refusal().reason == "UPLOAD_CONFLICT"
    until(lambda: tables_of_rows(server) == [])


def watch(served: ServedDari, upload_id: str = "u") -> Any:
    return served.dari.ingest.WatchUpload(pb.WatchUploadRequest(name=f"uploads/{upload_id}"), timeout=SOON_S)


def test_a_watched_upload_is_told_from_its_state_at_once_to_its_end(server: ServedDari) -> None:
    stream = server.uploader.stream()
    stream.open()
    stream.opened()
    watched = watch(server)
    assert next(watched).upload.state == pb.UPLOAD_STATE_OPEN
    stream.chunks(FILE[:HALF])
    while next(watched).upload.committed_offset_bytes < SMALL_BATCH_BYTES:
        pass
    stream.chunks(FILE, HALF)
    stream.finish(len(FILE))
    receipt = stream.receipt()
    *_, last = watched
    assert (last.upload.state, last.upload.receipt) == (pb.UPLOAD_STATE_COMPLETED, receipt)
    (only,) = watch(server)
    assert only == last
    server.uploader.refused(b"", "failed")
    assert [answer.upload.state for answer in watch(server, "failed")] == [pb.UPLOAD_STATE_FAILED]
    with pytest.raises(grpc.RpcError) as raised:
        list(watch(server, "never"))
    assert refusal(raised.value).reason == "NOT_FOUND"


def test_watchers_beyond_the_limit_are_refused_and_one_that_leaves_makes_room(start_server: StartServer) -> None:
    server = start_server(max_watchers=1)
    server.dari.make_knowledge_base("kb")
    stream = server.uploader.stream()
    stream.open()
    stream.opened()
    first = watch(server)
    next(first)
    with pytest.raises(grpc.RpcError) as raised:
        list(watch(server))
    refused = refusal(raised.value)
    assert (refused.reason, refused.metadata) == ("TOO_MANY_CALLS", {"limit": "max_watchers", "value": "1"})
    first.cancel()

    def is_let_in() -> bool:
        second = watch(server)
        try:
            return bool(next(second))
        except grpc.RpcError:
            return False
        finally:
            second.cancel()

    until(is_let_in)
    stream.leave()


def test_watchers_are_let_go_when_the_server_stops(start_server: StartServer) -> None:
    server = start_server()
    server.dari.make_knowledge_base("kb")
    stream = server.uploader.stream()
    stream.open()
    stream.opened()
    watched = watch(server)
    next(watched)
    stream.leave()
    stopping = threading.Thread(target=server.server.stop)
    stopping.start()
    with pytest.raises(grpc.RpcError) as raised:
        list(watched)
    assert refusal(raised.value).metadata == {"neighbour": "server"}
    stopping.join()


# Limits


def test_a_file_beyond_the_largest_size_is_refused_before_it_is_stored(start_server: StartServer) -> None:
    server = start_server(max_upload_bytes=SMALL_BATCH_BYTES)
    server.dari.make_knowledge_base("kb")
    refused = server.uploader.refused(FILE)
    assert (refused.status, refused.reason) == ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED")
    assert refused.metadata["limit"] == "max_upload_bytes"
    assert server.uploader.state().committed_offset_bytes <= SMALL_BATCH_BYTES


def test_too_large_a_share_of_rejected_rows_fails_the_upload(server: ServedDari) -> None:
    data = b"a,b\n" + b"1,\0\n1,2\n1,2\n" * 400
    assert server.uploader.upload(data, "a-third-is-allowed", max_rejected_share=0.34).rows_rejected == 400
    refused = server.uploader.refused(data, max_rejected_share=0.33)
    assert (refused.status, refused.reason) == ("INVALID_ARGUMENT", "MALFORMED_FILE")
    assert refused.metadata["code"] == "too_large_rejected_share"
    assert server.uploader.state().state == pb.UPLOAD_STATE_FAILED


# Listing


def test_uploads_are_listed_newest_first_and_page_by_page(server: ServedDari) -> None:
    server.dari.make_knowledge_base("other")
    for number in range(5):
        server.uploader.upload(b"a\n1\n", f"u{number}", base="other" if number == 2 else "kb")

    def listed(base: str, page_size: int) -> list[str]:
        found, token = [], ""
        while True:
            page = server.dari.ingest.ListUploads(
                pb.ListUploadsRequest(knowledge_base=base, page_size=page_size, page_token=token)
            )
            found += [upload.name for upload in page.uploads]
            token = page.next_page_token
            if not token:
                return found

    for page_size in (0, 1, 2, 5):
        assert listed("", page_size) == [f"uploads/u{number}" for number in (4, 3, 2, 1, 0)]
        assert listed("knowledgeBases/kb", page_size) == [f"uploads/u{number}" for number in (4, 3, 1, 0)]


def _token(key: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


FOREIGN_TOKENS = [
    "x",
    "ü",
    _token([]),
    _token({}),
    _token(["now", "id"]),
    _token([1, 2]),
    _token(["0001-01-01T00:00:00+23:59", "id"]),
    _token(["2026-01-01T00:00:00+00:00", "a\0"]),
    _token(["2026-01-01T00:00:00+00:00", "\ud800"]),
    base64.urlsafe_b64encode(b"[" * 100_000).decode(),
]


@pytest.mark.parametrize("token", FOREIGN_TOKENS, ids=range(len(FOREIGN_TOKENS)))
def test_a_foreign_page_token_is_refused(shared_server: ServedDari, token: str) -> None:
    ingest = shared_server.dari.ingest
    for call in (
        lambda: ingest.ListUploads(pb.ListUploadsRequest(page_token=token)),
        lambda: ingest.ListRejectedRows(pb.ListRejectedRowsRequest(upload="uploads/u", page_token=token)),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            call()
        assert refusal(raised.value).fields == ("page_token",)


# Searching


def test_a_search_names_every_wrong_field(shared_server: ServedDari) -> None:
    request = pb.SearchRequest(knowledge_bases=["knowledgeBases/kb", "kb", "x/y"], query="", limit=101)
    with pytest.raises(grpc.RpcError) as raised:
        shared_server.dari.ingest.Search(request)
    assert refusal(raised.value).fields == ("knowledge_bases[1]", "knowledge_bases[2]", "query", "limit")
    with pytest.raises(grpc.RpcError) as raised:
        shared_server.dari.ingest.Search(pb.SearchRequest(query="x" * 32_769))
    assert refusal(raised.value).fields == ("knowledge_bases", "query")


@pytest.mark.parametrize("query", ["x", "!?"])
def test_a_search_in_a_knowledge_base_that_does_not_exist_is_not_found(server: ServedDari, query: str) -> None:
    assert server.uploader.search(query) == [], "one without rows has none to give"
    with pytest.raises(grpc.RpcError) as raised:
        server.uploader.search(query, "kb", "nope")
    refused = refusal(raised.value)
    assert (refused.status, refused.metadata) == ("NOT_FOUND", {"resource": "knowledgeBases/nope"})


@pytest.mark.parametrize("query", ["x\0y", "'; DROP TABLE dari.uploads; --", "%s", "\ufeff", "\\.", "한", "a" * 32_768])
def test_any_text_may_be_searched_for(shared_server: ServedDari, query: str) -> None:
    assert isinstance(shared_server.uploader.search(query), list)


def test_an_answer_of_large_rows_fits_a_message(server: ServedDari) -> None:
    cell = "wort " + "x" * 900_000
    server.uploader.upload(("a\n" + f"{cell}\n" * 30).encode())
    found = server.uploader.search("wort", limit=100)
    assert found == [{"a": cell}] * 2


def test_a_search_while_its_knowledge_base_is_deleted_finds_or_does_not_find_it(server: ServedDari) -> None:
    """A snapshot keeps no tables: between reading the version and its rows they may be gone."""
    done = threading.Event()
    statuses: set[str] = set()
    searches = threading.Semaphore(0)

    def search() -> None:
        while not done.is_set():
            try:
                server.uploader.search("row 5")
                statuses.add("OK")
            except grpc.RpcError as error:
                statuses.add(refusal(error).status)
            searches.release()

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(6):
        server.uploader.upload(made_csv(50), f"u{number}")
        assert searches.acquire(timeout=SOON_S)
        server.dari.mapping.DeleteKnowledgeBase(mapping_pb2.DeleteKnowledgeBaseRequest(name="knowledgeBases/kb"))
        server.dari.make_knowledge_base("kb")
    done.set()
    for thread in threads:
        thread.join()
    assert statuses <= {"OK", "NOT_FOUND"}
