"""Isolation lives in the database: what each role can and cannot do with the rows of a knowledge base."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import psycopg2
import pytest

from dari.adapters.native import NativeLexer, NativePostings
from dari.adapters.postgres.database import Database, Role
from dari.adapters.postgres.row_reader import PostgresRowReader
from dari.adapters.postgres.segments import PlacedSegment, read_postings
from dari.core.errors import DariError
from dari.core.search import Search
from tests.fix_postgres import PostgresDsns
from tests.fix_server import ServedDari
from tests.support.uploading import Stored

ROWS = 300
BASES = ("alpha", "beta")


@dataclass(frozen=True)
class Filled:
    """Two knowledge bases with rows, and the service's own way into the database."""

    database: Database
    dsns: PostgresDsns
    segments: dict[str, str]


@pytest.fixture
def filled(server: ServedDari) -> Iterator[Filled]:
    for base in BASES:
        server.dari.make_knowledge_base(base)
        rows = "".join(f"{base}{number},shared words {number}\n" for number in range(ROWS))
        server.uploader.upload(f"id,note\n{rows}".encode(), base, base=base)
    database = Database(server.dsns.service_dsn, max_connections=4, wait_timeout_s=5, statement_timeout_s=30)
    segments = {base: Stored(server.dsns.admin_dsn, base).segment for base in BASES}
    with closing(database):
        yield Filled(database, server.dsns, segments)


def _count(filled: Filled, base: str, tenant: str, bases: Sequence[str]) -> int:
    """Rows of `base` that the reader sees in a transaction that names this."""
    with filled.database.transaction(Role.READER, tenant=tenant, knowledge_bases=bases) as transaction:
        row = transaction.execute(f"SELECT count(*) FROM dari_rows.rows_{filled.segments[base]}").fetchone()
        assert row is not None
        return int(row[0])


def _postings(filled: Filled, base: str, tenant: str, bases: Sequence[str]) -> int:
    """In how many blocks of `base` the reader finds a word."""
    codec, hashes = NativePostings(), NativeLexer().hashes("shared")
    with filled.database.transaction(Role.READER, tenant=tenant, knowledge_bases=bases) as transaction:
        postings = read_postings(transaction, [PlacedSegment(filled.segments[base], 0)], codec.buckets(hashes))
        return sum(codec.count_blocks(hashes, postings))


VISIBLE = [("default", ["alpha"]), ("default", ["beta", "alpha"])]
HIDDEN: list[tuple[str, list[str]]] = [
    ("", []),
    ("default", []),
    ("", ["alpha"]),
    ("other", ["alpha"]),
    ("default", ["beta"]),
    ("default", ["alph"]),
    ("default", ["alphaa"]),
    ("default", ["*"]),
    ("default", [""]),
    ("Default", ["alpha"]),
]


def test_the_reader_sees_what_its_transaction_names_and_nothing_else(filled: Filled) -> None:
    for tenant, bases in VISIBLE:
        assert _count(filled, "alpha", tenant, bases) == ROWS
        assert _postings(filled, "alpha", tenant, bases) > 0
    for tenant, bases in HIDDEN:
        assert _count(filled, "alpha", tenant, bases) == 0, (tenant, bases)
        assert _postings(filled, "alpha", tenant, bases) == 0, (tenant, bases)


def test_the_reader_sees_nothing_where_the_settings_were_never_made(filled: Filled) -> None:
    """Not empty, but missing: a session that dari's code never touched."""
    with closing(psycopg2.connect(filled.dsns.service_dsn)) as session, session.cursor() as cur:
        cur.execute("SET ROLE dari_reader")
        for base in BASES:
            for kind in ("rows", "postings", "evidence", "typed"):
                cur.execute(f"SELECT count(*) FROM dari_rows.{kind}_{filled.segments[base]}")
                assert cur.fetchone() == (0,)


def test_what_a_transaction_named_is_forgotten_at_its_end(filled: Filled) -> None:
    assert _count(filled, "alpha", "default", ["alpha"]) == ROWS
    with filled.database.transaction(Role.READER, tenant=None) as transaction:
        cursor = transaction.execute(f"SELECT count(*) FROM dari_rows.rows_{filled.segments['alpha']}")
        assert cursor.fetchone() == (0,)


REFUSED = [
    (Role.APP, "SELECT * FROM dari_rows.rows_{alpha}"),
    (Role.APP, "SELECT * FROM dari_rows.postings_{alpha}"),
    (Role.APP, "SELECT * FROM dari_rows.typed_{alpha}"),
    (Role.APP, "DROP TABLE dari_rows.rows_{alpha}"),
    (Role.APP, "CREATE TABLE dari_rows.x (a int)"),
    (Role.READER, "INSERT INTO dari_rows.postings_{alpha} VALUES (0, 0, '')"),
    (Role.READER, "INSERT INTO dari_rows.rows_{alpha} VALUES (0, '', '')"),
    (Role.READER, "UPDATE dari_rows.rows_{alpha} SET c1 = ''"),
    (Role.READER, "DELETE FROM dari_rows.rows_{alpha}"),
    (Role.READER, "TRUNCATE dari_rows.rows_{alpha}"),
    (Role.READER, "DROP TABLE dari_rows.rows_{alpha}"),
    (Role.READER, "ALTER TABLE dari_rows.rows_{alpha} DISABLE ROW LEVEL SECURITY"),
    (Role.READER, "DROP POLICY named_by_transaction ON dari_rows.rows_{alpha}"),
    (Role.READER, "COPY dari_rows.rows_{alpha} FROM STDIN"),
    (Role.READER, "CREATE TABLE dari_rows.x (a int)"),
    (Role.READER, "SELECT * FROM dari.uploads"),
    (Role.READER, "SELECT * FROM dari.rejected_rows"),
    (Role.READER, "SELECT * FROM dari.turns"),
    (Role.INGEST, "SELECT * FROM dari.uploads"),
    (Role.INGEST, "SELECT * FROM dari.turns"),
    (Role.INGEST, "SELECT * FROM dari_rows.rows_{alpha}"),
    (Role.INGEST, "SELECT * FROM dari_rows.postings_{alpha}"),
    (Role.INGEST, "SELECT * FROM dari_rows.typed_{alpha}"),
    (Role.INGEST, "COPY dari_rows.rows_{alpha} TO STDOUT"),
    (Role.INGEST, "UPDATE dari_rows.rows_{alpha} SET c1 = ''"),
    (Role.INGEST, "INSERT INTO dari_rows.rows_{alpha} VALUES (0, '', '')"),
    (Role.HOUSEKEEPER, "SELECT * FROM dari_rows.rows_{alpha}"),
    (Role.HOUSEKEEPER, "SELECT * FROM dari.turns"),
    (Role.HOUSEKEEPER, "SELECT * FROM dari.conversations"),
    (Role.HOUSEKEEPER, "SELECT * FROM dari.rejected_rows"),
    (Role.HOUSEKEEPER, "SELECT * FROM dari.knowledge_bases"),
    (Role.HOUSEKEEPER, "SELECT * FROM dari.ai_models"),
    (Role.HOUSEKEEPER, "UPDATE dari.uploads SET tenant = 'other'"),
    (Role.HOUSEKEEPER, "DELETE FROM dari.uploads"),
    (Role.APP, "SELECT * FROM dari.alerts"),
    (Role.APP, "SELECT * FROM dari.alert_matters"),
    (Role.APP, "SELECT dari.isolate('dari.uploads')"),
]


@pytest.mark.parametrize(("role", "statement"), REFUSED, ids=[f"{role.name} {text}" for role, text in REFUSED])
def test_each_role_may_do_one_thing(filled: Filled, role: Role, statement: str) -> None:
    with (
        pytest.raises(DariError) as raised,
        filled.database.transaction(role, tenant="default", knowledge_bases=BASES) as transaction,
    ):
        transaction.execute(statement.format_map(filled.segments))
    assert raised.value.metadata["sqlstate"] == "42501"


def test_a_search_of_one_knowledge_base_never_shows_a_row_of_another(filled: Filled) -> None:
    search = Search(PostgresRowReader(filled.database, NativePostings()), NativeLexer())
    for base in BASES:
        hits = search.find("default", [base], "shared words 7 alpha7 beta7", 100)
        assert {hit.knowledge_base for hit in hits} == {base}
        assert all(hit.cells[0].startswith(base) for hit in hits)
    assert search.find("other", list(BASES), "shared words", 100) == []


def test_every_view_of_rows_runs_as_its_caller(filled: Filled) -> None:
    """As its owner, who owns the rows too, it would show all of them to whoever may select from it."""
    with closing(psycopg2.connect(filled.dsns.admin_dsn)) as session, session.cursor() as cur:
        cur.execute(
            "SELECT relname, reloptions FROM pg_class"
            " WHERE relnamespace = 'dari_rows'::regnamespace AND relkind = 'v' ORDER BY relname"
        )
        expected = sorted(f"typed_{segment}" for segment in filled.segments.values())
        assert cur.fetchall() == [(view, ["security_invoker=true"]) for view in expected]


def test_the_indexes_are_used_in_spite_of_row_level_security(filled: Filled) -> None:
    """PostgreSQL applies no operator before a policy that might tell about rows; then a search reads all of them."""
    segment = filled.segments["alpha"]
    rows = (
        "WITH best AS MATERIALIZED (SELECT * FROM unnest('{1}'::bigint[], '{9}'::bigint[]) AS best (first, behind))"
        f" SELECT r.* FROM best JOIN dari_rows.rows_{segment} r ON r.row_number >= best.first"
        " AND r.row_number < best.behind"
    )
    postings = f"SELECT * FROM dari_rows.postings_{segment} WHERE bucket = ANY ('{{1,2}}'::integer[])"
    for select, expected in ((rows, ("row_number >=", "row_number <")), (postings, ("bucket = ANY",))):
        with filled.database.transaction(Role.READER, tenant="default", knowledge_bases=["alpha"]) as transaction:
            transaction.execute("SET LOCAL enable_seqscan = off")
            plan = transaction.execute(f"EXPLAIN {select}").fetchall()
        (condition,) = [line for (line,) in plan if "Index Cond" in line]
        assert all(part in condition for part in expected), "the whole condition comes from the index"


LOOKED_UP = [
    "SELECT * FROM dari.upload_batches WHERE tenant = 'default' AND upload = 'alpha' AND start_offset_bytes = 7",
    "SELECT * FROM dari.rejected_rows WHERE tenant = 'default' AND upload = 'alpha' AND offset_bytes > 7",
    "SELECT * FROM dari.ai_model_knowledge_bases WHERE tenant = 'default' AND ai_model = 'm'",
    "SELECT * FROM dari.version_segments WHERE tenant = 'default' AND knowledge_base = 'alpha' AND version = 1",
]


@pytest.mark.parametrize("select", LOOKED_UP)
def test_metadata_is_looked_up_by_its_indexes_and_the_tenant_is_read_once(filled: Filled, select: str) -> None:
    """The policy's condition is a constant of the plan, and keeps no condition of the query from the index."""
    with filled.database.transaction(Role.APP, tenant="default") as transaction:
        transaction.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        plan = [line for (line,) in transaction.execute(f"EXPLAIN {select}").fetchall()]
    (condition,) = [line for line in plan if "Index Cond" in line]
    assert all(part.split()[0] in condition for part in select.partition(" WHERE ")[2].split(" AND "))
    assert any("InitPlan" in line for line in plan)
    assert not any("current_setting" in line for line in plan if "Filter" in line or "Cond" in line)
