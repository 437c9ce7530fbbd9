"""GetProfile through a real channel, and what becomes of large ones."""

from dataclasses import fields

import grpc
import psycopg2
import pytest

from dari.core.profiles import ColumnProfile, ColumnType, Profile, Profiles, ValueCount
from dari.rpc.profiles import get_profile
from dari.v1 import ingest_pb2 as pb
from tests.fix_server import ServedDari
from tests.rpc.test_exports import TOLD
from tests.support.running_dari import refusal
from tests.support.uploading import APPEND


def _profile(served: ServedDari, base: str = "knowledgeBases/kb", version: int = 0) -> pb.Profile:
    return served.dari.ingest.GetProfile(pb.GetProfileRequest(knowledge_base=base, version=version)).profile


def test_a_profile_tells_what_is_in_each_column(server: ServedDari) -> None:
    file = "품목,가격,날짜,비고\n사과,1200.50,2024. 3. 1.,없음\n배,,2024. 3. 2.,x\n사과,3.5,2024. 3. 1.\n"
    server.uploader.upload(file.encode(), dialect=TOLD)
    profile = _profile(server)
    assert (profile.knowledge_base, profile.version, profile.row_count) == ("knowledgeBases/kb", 1, 3)
    fruit, price, day, note = profile.columns
    assert [column.name for column in profile.columns] == ["품목", "가격", "날짜", "비고"]
    assert (fruit.type, fruit.min, fruit.max) == (pb.COLUMN_TYPE_TEXT, "배", "사과")
    assert [(top.value, top.count, top.error) for top in fruit.top_values] == [("사과", 2, 0), ("배", 1, 0)]
    assert (fruit.distinct_estimate, fruit.shortest_chars, fruit.longest_chars) == (2, 1, 2)
    assert (price.type, price.precision, price.scale) == (pb.COLUMN_TYPE_DECIMAL, 6, 2)
    assert (price.min, price.max, price.sum, price.mean) == ("3.50", "1200.50", "1204.00", 602.0)
    assert (price.cell_count, price.empty_count, price.missing_count) == (3, 1, 0)
    assert (day.type, day.format, day.HasField("mean")) == (pb.COLUMN_TYPE_DATE, "YYYY. M. D.", False)
    assert (note.cell_count, note.missing_count, note.null_like_count) == (2, 1, 1)


def test_a_profile_is_that_of_all_files_of_a_version(server: ServedDari) -> None:
    server.uploader.upload(b"n,m\n1,1\n2,1\n", "one", dialect=TOLD)
    server.uploader.upload(b"n,m\n", "none", mode=APPEND, dialect=TOLD)
    server.uploader.upload(b"n,m\n2.5,1\n", "two", mode=APPEND, dialect=TOLD)
    (column, _) = _profile(server).columns
    assert (column.type, column.cell_count, column.sum) == (pb.COLUMN_TYPE_DECIMAL, 3, "5.5")
    (column, _) = _profile(server, version=1).columns
    assert (column.type, column.cell_count, column.sum) == (pb.COLUMN_TYPE_INTEGER, 2, "3")


def test_a_version_without_rows_has_columns_without_a_type(server: ServedDari) -> None:
    server.uploader.upload(b"a,b\n", dialect=TOLD)
    profile = _profile(server)
    assert profile.row_count == 0
    assert [(column.name, column.type, column.cell_count) for column in profile.columns] == [
        ("a", pb.COLUMN_TYPE_EMPTY, 0),
        ("b", pb.COLUMN_TYPE_EMPTY, 0),
    ]


def test_the_typed_view_is_told_and_can_be_selected_by_the_reader(server: ServedDari) -> None:
    server.uploader.upload(b"day,amount\n2024-03-01,1.5\n2024-03-02,NULL\n", "one", dialect=TOLD)
    server.uploader.upload(b"day,amount\n2024-03-03,10\n", "two", mode=APPEND, dialect=TOLD)
    before, current = _profile(server, version=1).typed_view, _profile(server).typed_view
    assert before != current
    with psycopg2.connect(server.dsns.service_dsn) as session, session.cursor() as cur:
        cur.execute("SET ROLE dari_reader")
        cur.execute(f"SELECT count(*) FROM {current}")
        assert cur.fetchone() == (0,)
        cur.execute("SET dari.tenant = 'default'; SET dari.knowledge_bases = 'kb'")
        cur.execute(f"SELECT max(day), sum(amount), count(*) FROM {current}")
        assert [str(value) for value in cur.fetchone() or ()] == ["2024-03-03", "11.5", "3"]
        cur.execute(f"SELECT max(day), sum(amount), count(*) FROM {before}")
        assert [str(value) for value in cur.fetchone() or ()] == ["2024-03-02", "1.5", "2"]
    session.close()


@pytest.mark.parametrize(
    ("base", "version", "status"),
    [
        ("", 0, "INVALID_ARGUMENT"),
        ("kb", 0, "INVALID_ARGUMENT"),
        ("knowledgeBases/kb", -1, "INVALID_ARGUMENT"),
        ("knowledgeBases/other", 0, "NOT_FOUND"),
        ("knowledgeBases/kb", 0, "NOT_FOUND"),
        ("knowledgeBases/kb", 9, "NOT_FOUND"),
    ],
)
def test_a_profile_that_is_not_there_is_an_error(server: ServedDari, base: str, version: int, status: str) -> None:
    """`kb` is there, and has no version."""
    with pytest.raises(grpc.RpcError) as raised:
        _profile(server, base, version)
    assert refusal(raised.value).status == status


class Described(Profiles):
    """Tells the profile that it was given."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def describe(self, tenant: str, knowledge_base: str, number: int | None = None) -> Profile:
        return self._profile


def _message(*columns: ColumnProfile) -> pb.Profile:
    profile = Profile("kb", 3, 7, columns, "dari_rows.typed_1")
    request = pb.GetProfileRequest(knowledge_base="knowledgeBases/kb")
    return get_profile(Described(profile), "t", request).profile


def test_every_field_of_a_column_is_in_the_message() -> None:
    column = ColumnProfile(
        name="금액",
        type=ColumnType.TIMESTAMP,
        format="f",
        precision=1,
        scale=2,
        ambiguous_day_order=True,
        grouped=True,
        cell_count=3,
        missing_count=4,
        empty_count=5,
        null_like_count=6,
        distinct_estimate=7,
        min="low",
        max="high",
        sum="8",
        mean=0.0,
        shortest_chars=9,
        longest_chars=10,
        top_values=(ValueCount("v", 11, 12),),
    )
    (message,) = _message(column).columns
    told = {field.name for field, _ in message.ListFields()}
    assert told == {one.name for one in fields(ColumnProfile)} == set(pb.ColumnProfile.DESCRIPTOR.fields_by_name)
    assert message.type == pb.COLUMN_TYPE_TIMESTAMP
    for name in told - {"type", "top_values"}:
        assert getattr(message, name) == getattr(column, name), name
    (top,) = message.top_values
    assert (top.value, top.count, top.error) == ("v", 11, 12)


def test_every_type_has_a_name_on_the_wire() -> None:
    for kind in ColumnType:
        (message,) = _message(ColumnProfile("a", type=kind)).columns
        assert pb.ColumnType.Name(message.type) == f"COLUMN_TYPE_{kind.name}"


def test_a_profile_of_many_columns_tells_fewer_of_their_values_so_that_it_fits_a_message() -> None:
    values = tuple(ValueCount("x" * 256, 16 - number, 0) for number in range(16))
    column = ColumnProfile("c", top_values=values, min="x" * 256, max="x" * 256)
    assert [len(one.top_values) for one in _message(column, column).columns] == [16, 16]
    large = _message(*[column] * 1_500)
    assert large.ByteSize() < 4 * 1024 * 1024
    told = {len(one.top_values) for one in large.columns}
    assert len(told) == 1
    assert 1 <= told.pop() < 16
