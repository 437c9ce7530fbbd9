"""ExportRows and ExportRejectedRows through a real channel: what went in comes out, whole or with an error."""

import collections
import csv
import hashlib
import io
import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from uuid import uuid4

import grpc
import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dari.core.exports import Exports
from dari.core.watchdog import Watchdog
from dari.rpc.exports import ExportCalls
from dari.v1 import ingest_pb2 as pb
from dari.v1 import mapping_pb2
from tests.core.test_exports import Rejected, StoredRows, Writer
from tests.fix_server import ServedDari, StartServer
from tests.support.running_dari import SOON_S, Refusal, refusal, status_of
from tests.support.uploading import APPEND, made_csv, made_rows
from tests.support.waiting import until

MIB = 1024 * 1024
TOLD = pb.Dialect(
    delimiter=",",
    quote='"',
    header_rows=1,
    escape="none",
    comment="none",
    trims_blanks=False,
    preamble_lines=0,
    encoding=pb.ENCODING_UTF_8,
)


def _call(
    served: ServedDari, base: str = "knowledgeBases/kb", version: int = 0, *, escape_formulas: bool = False
) -> Iterator[pb.ExportRowsResponse]:
    request = pb.ExportRowsRequest(knowledge_base=base, version=version, escape_formulas=escape_formulas)
    return served.dari.ingest.ExportRows(request, timeout=SOON_S)


def _exported(served: ServedDari, version: int = 0, *, escape_formulas: bool = False) -> bytes:
    return b"".join(message.data for message in _call(served, version=version, escape_formulas=escape_formulas))


def _refused(call: Iterator[object]) -> Refusal:
    with pytest.raises(grpc.RpcError) as raised:
        list(call)
    return refusal(raised.value)


def _ending(call: Iterator[object]) -> str:
    try:
        collections.deque(call, maxlen=0)
    except grpc.RpcError as error:
        return status_of(error)
    return "OK"


def _read(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


def test_a_file_comes_out_cell_for_cell(server: ServedDari) -> None:
    """More rows than the first page holds, quoted cells with line ends among them."""
    server.uploader.upload(made_csv(10_000), dialect=TOLD)
    messages = list(_call(server))
    assert all(1 <= len(message.data) <= MIB for message in messages)
    header, *rows = _read(b"".join(message.data for message in messages))
    assert header == ["id", "name", "note", "city"]
    assert rows == [list(row) for row in made_rows(10_000)]


def test_the_csv_is_rfc_4180_with_line_feeds(server: ServedDari) -> None:
    server.uploader.upload(b'a;b\r\n1;"x,""y"\r\n"";\r\n', dialect=pb.Dialect(delimiter=";", header_rows=1))
    assert _exported(server) == b'a,b\n1,"x,""y"\n,\n'


def test_each_row_has_the_cells_that_it_had_in_its_file(server: ServedDari) -> None:
    server.uploader.upload(b"a,b,c\n1\n1,2\n1,2,3\n1,2,3,4,5\n1,2,\n1,2,3,\n", dialect=TOLD)
    assert _exported(server) == b"a,b,c\n1\n1,2\n1,2,3\n1,2,3,4,5\n1,2,\n1,2,3,\n"


def test_a_version_of_several_files_comes_out_in_their_order(server: ServedDari) -> None:
    server.uploader.upload(made_csv(2_000), "one", dialect=TOLD)
    server.uploader.upload(b"id,name,note,city\n", "none", mode=APPEND, dialect=TOLD)
    server.uploader.upload(made_csv(3_000, first=2_001), "two", mode=APPEND, dialect=TOLD)
    assert [row[0] for row in _read(_exported(server))[1:]] == [str(number) for number in range(1, 5_001)]


def test_a_version_without_rows_comes_out_as_its_header(server: ServedDari) -> None:
    server.uploader.upload(b'a,"b ""c"""\n', dialect=TOLD)
    assert _exported(server) == b'a,"b ""c"""\n'


def test_a_version_before_the_current_one_is_there_as_long_as_it_is_kept(server: ServedDari) -> None:
    server.uploader.upload(b"a,b\n1,old\n", "one", dialect=TOLD)
    server.uploader.upload(b"a,b\n1,new\n", "two", dialect=TOLD)
    assert _exported(server) == _exported(server, version=2) == b"a,b\n1,new\n"
    assert _exported(server, version=1) == b"a,b\n1,old\n"


def test_formulas_are_escaped_for_who_asks_for_it(server: ServedDari) -> None:
    file = b'a,b\n=1+1,-1\n+2.5e3,@x\n"\tx",x=1\n'
    server.uploader.upload(file, dialect=TOLD)
    assert _exported(server) == b"a,b\n=1+1,-1\n+2.5e3,@x\n" + b'"\tx",x=1\n'
    escaped = _read(_exported(server, escape_formulas=True))
    assert escaped == [["a", "b"], ["'=1+1", "-1"], ["+2.5e3", "'@x"], ["'\tx", "x=1"]]


CELL = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
ANY_CELLS = st.lists(CELL | st.sampled_from(['"', ",", "\r\n", "", " x "]), min_size=3, max_size=3)
# A row of empty cells and shorter rows behind it, to the end of the file, would be a footer.
WORDS = st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12), min_size=2, max_size=5)
ROWS = st.lists(ANY_CELLS, max_size=8) | st.lists(WORDS, max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_whatever_is_in_the_cells_comes_out_again(shared_server: ServedDari, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["a", "b", "c"], *rows])
    upload_id = uuid4().hex
    shared_server.uploader.upload(text.getvalue().encode(), upload_id, dialect=TOLD)
    assert _read(_exported(shared_server)) == [["a", "b", "c"], *map(list, rows)]


REFUSED = [
    ("no name", pb.ExportRowsRequest(), ("knowledge_base",)),
    ("another kind of name", pb.ExportRowsRequest(knowledge_base="uploads/kb"), ("knowledge_base",)),
    ("a version below 1", pb.ExportRowsRequest(knowledge_base="knowledgeBases/kb", version=-1), ("version",)),
    ("nowhere", pb.ExportRowsRequest(knowledge_base="knowledgeBases/other"), ()),
    ("a version that never was", pb.ExportRowsRequest(knowledge_base="knowledgeBases/kb", version=2**63 - 1), ()),
]


@pytest.mark.parametrize(("request_", "fields"), [case[1:] for case in REFUSED], ids=[name for name, *_ in REFUSED])
def test_what_cannot_be_exported_is_told(
    shared_server: ServedDari, request_: pb.ExportRowsRequest, fields: tuple[str, ...]
) -> None:
    refused = _refused(shared_server.dari.ingest.ExportRows(request_))
    assert refused.fields == fields
    expected = ("INVALID_ARGUMENT", "INVALID_FIELD") if fields else ("NOT_FOUND", "NOT_FOUND")
    assert (refused.status, refused.reason) == expected


def test_a_knowledge_base_without_a_version_has_nothing_to_export(server: ServedDari) -> None:
    refused = _refused(_call(server))
    assert (refused.status, refused.metadata) == ("NOT_FOUND", {"resource": "knowledgeBases/kb"})
    assert "no version yet" in refused.message


def _large_csv(rows: int) -> bytes:
    """Rows of a kilobyte, so that most of them are not on their way yet when the first is read."""
    return b"id,text\n" + b"".join(b"%d,%s\n" % (number, b"x" * 1_000) for number in range(rows))


def test_a_version_that_is_removed_meanwhile_ends_the_export_with_an_error(server: ServedDari) -> None:
    server.uploader.upload(_large_csv(16_000), dialect=TOLD)
    messages = _call(server)
    next(messages)
    server.dari.mapping.DeleteKnowledgeBase(mapping_pb2.DeleteKnowledgeBaseRequest(name="knowledgeBases/kb"))
    refused = _refused(messages)
    assert (refused.status, refused.metadata["version"]) == ("NOT_FOUND", "1")


def test_a_knowledge_base_that_is_made_again_meanwhile_is_another_one(server: ServedDari) -> None:
    """Its first version has the number of the one that is being read, and as many rows."""
    server.uploader.upload(_large_csv(16_000), dialect=TOLD)
    messages = _call(server)
    next(messages)
    server.dari.mapping.DeleteKnowledgeBase(mapping_pb2.DeleteKnowledgeBaseRequest(name="knowledgeBases/kb"))
    server.dari.make_knowledge_base("kb")
    server.uploader.upload(_large_csv(16_000), "again", dialect=TOLD)
    assert _refused(messages).status == "NOT_FOUND"


def test_an_export_that_nobody_reads_holds_nothing_in_the_database(server: ServedDari) -> None:
    server.uploader.upload(_large_csv(16_000), dialect=TOLD)
    messages = _call(server)
    first = next(messages)
    user = psycopg2.extensions.parse_dsn(server.dsns.service_dsn)["user"]
    with closing(psycopg2.connect(server.dsns.admin_dsn)) as session, session.cursor() as cur:
        # The server fills what gRPC takes ahead, page by page, and then stands still.
        for _ in itertools.count():
            cur.execute(
                "SELECT count(*) FILTER (WHERE state <> 'idle'), max(xact_start) FROM pg_stat_activity"
                " WHERE usename = %s AND datname = current_database()",
                (user,),
            )
            busy, begun = cur.fetchone() or (None, None)
            session.commit()
            if not busy:
                break
        assert begun is None
    rest = b"".join(message.data for message in messages)
    assert first.data + rest == _exported(server)


def test_a_caller_who_takes_nothing_is_cut_off() -> None:
    cancelled = threading.Event()
    with closing(Watchdog()) as watchdog:
        exports = Exports(StoredRows([b"x"] * 3), Rejected([]), Writer)
        calls = ExportCalls(exports=exports, watchdog=watchdog, stall_timeout_s=0.05)
        messages = calls.rows("t", pb.ExportRowsRequest(knowledge_base="knowledgeBases/kb"), cancelled.set)
        assert next(messages).data == b"a,b\n"
        assert cancelled.wait(SOON_S)
        cancelled.clear()
        assert [message.data for message in messages] == [b"xxx"]
        assert not cancelled.wait(0.2), "nobody waits for a caller any more"


def test_a_caller_who_takes_nothing_keeps_no_thread_of_the_server(start_server: StartServer) -> None:
    server = start_server(export_stall_timeout_s=0.2, max_exports=4)
    server.dari.make_knowledge_base("kb")
    server.uploader.upload(_large_csv(16_000), dialect=TOLD)
    stalled = [_call(server) for _ in range(4)]
    for messages in stalled:
        next(messages)
    with pytest.raises(grpc.RpcError) as raised:
        next(_call(server))
    assert status_of(raised.value) == "RESOURCE_EXHAUSTED"
    server.uploader.state()

    def is_served() -> bool:
        try:
            next(_call(server))
        except grpc.RpcError as error:
            if status_of(error) != "RESOURCE_EXHAUSTED":
                raise
            return False
        return True

    until(is_served)
    assert "CANCELLED" in [_ending(messages) for messages in stalled]


def test_a_caller_who_leaves_ends_the_export(server: ServedDari) -> None:
    server.uploader.upload(_large_csv(16_000), dialect=TOLD)
    messages = server.dari.ingest.ExportRows(pb.ExportRowsRequest(knowledge_base="knowledgeBases/kb"), timeout=SOON_S)
    next(messages)
    messages.cancel()
    with pytest.raises(grpc.RpcError) as raised:
        list(messages)
    assert status_of(raised.value) == "CANCELLED"
    assert hashlib.sha256(_exported(server)).digest() == hashlib.sha256(_large_csv(16_000)).digest()


def _rejected(served: ServedDari, upload: str = "uploads/u") -> bytes:
    call = served.dari.ingest.ExportRejectedRows(pb.ExportRejectedRowsRequest(upload=upload), timeout=SOON_S)
    return b"".join(message.data for message in call)


def test_rejected_rows_come_out_as_they_are_listed(server: ServedDari) -> None:
    bad = b"".join(b'%d,caf\xe9 \\ "q"\n' % number if number % 2 else b"%d,ok\n" % number for number in range(2_000))
    server.uploader.upload(b"a,b\n" + bad, dialect=TOLD, max_rejected_rows=2_000)
    header, *rows = _read(_rejected(server))
    assert header == ["line", "offset_bytes", "length_bytes", "reason", "raw"]
    listed = list(server.uploader.rejected(page_size=1_000))
    assert len(rows) == len(listed) == 1_000
    for row, one in zip(rows, listed, strict=True):
        reason = pb.RejectionReason.Name(one.reason).removeprefix("REJECTION_REASON_").lower()
        assert row[:4] == [str(one.line), str(one.offset_bytes), str(one.length_bytes), reason]
        assert row[4] == one.raw.decode("latin-1").replace("\\", "\\\\").replace("é", r"\xe9")


def test_an_upload_that_rejected_nothing_has_a_header_only(server: ServedDari) -> None:
    server.uploader.upload(b"a,b\n1,2\n", dialect=TOLD)
    assert _rejected(server) == b"line,offset_bytes,length_bytes,reason,raw\n"


@pytest.mark.parametrize(
    ("upload", "status"),
    [("", "INVALID_ARGUMENT"), ("knowledgeBases/kb", "INVALID_ARGUMENT"), ("uploads/no", "NOT_FOUND")],
)
def test_rejected_rows_of_no_upload_are_an_error(shared_server: ServedDari, upload: str, status: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        _rejected(shared_server, upload)
    assert status_of(raised.value) == status


def test_two_columns_of_one_name_are_two_columns(server: ServedDari) -> None:
    """Portals' files have them; the view for SQL tells them apart."""
    data = b"id,name,name\n1,Kim,Lee\n"
    server.uploader.upload(data)
    assert _exported(server) == data
    profile = server.dari.ingest.GetProfile(pb.GetProfileRequest(knowledge_base="knowledgeBases/kb")).profile
    assert [column.name for column in profile.columns] == ["id", "name", "name"]


def test_a_file_that_named_no_columns_comes_out_as_it_came(server: ServedDari) -> None:
    """The names that its columns have here are not its own."""
    data = b"1,one\n2,two\n"
    server.uploader.upload(data, dialect=pb.Dialect(header_rows=0))
    assert _exported(server) == data
