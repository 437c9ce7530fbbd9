"""The catalogue has no table, view, function, role or right that is left out of the isolation of tenants."""

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from psycopg2.extensions import cursor, parse_dsn

from dari.adapters.postgres.embedded import EmbeddedPostgres
from dari.adapters.postgres.isolation_catalogue import gaps
from dari.adapters.postgres.migrate import create_database, migrate
from tests.fix_postgres import PostgresDsns, open_folder
from tests.fix_server import SMALL_BATCH_BYTES, ServedDari


@pytest.fixture
def admin(shared_database: PostgresDsns) -> Iterator[cursor]:
    """A superuser's transaction, which is rolled back."""
    with closing(psycopg2.connect(shared_database.admin_dsn)) as session, session.cursor() as cur:
        yield cur


def _user(dsns: PostgresDsns) -> str:
    return str(parse_dsn(dsns.service_dsn)["user"])


def test_nothing_is_left_out_of_a_migrated_database(admin: cursor, shared_database: PostgresDsns) -> None:
    assert gaps(admin, _user(shared_database)) == []


def test_nothing_is_left_out_where_rows_are_stored_and_being_stored(server: ServedDari) -> None:
    """A segment that is served, and one that is open to COPY."""
    server.uploader.upload(b"a,b\n1,2\n", "whole")
    stream = server.uploader.stream()
    stream.open("half")
    stream.opened()
    stream.chunks(b"a,b\n" + b"1,2\n" * SMALL_BATCH_BYTES)
    stream.committed(1)
    with closing(psycopg2.connect(server.dsns.admin_dsn)) as session, session.cursor() as cur:
        cur.execute(
            "SELECT relforcerowsecurity FROM pg_class WHERE relname LIKE 'rows\\_%' AND relkind = 'r' ORDER BY 1"
        )
        assert cur.fetchall() == [(False,), (True,)]
        assert gaps(cur, _user(server.dsns)) == []
    stream.leave()


def test_nothing_is_left_out_where_the_migrating_user_is_no_superuser() -> None:
    """As on a server of the operator's own: CREATEROLE and CREATEDB are enough to close everything."""
    with open_folder() as folder, EmbeddedPostgres(folder / "pg", durable=False) as own:
        with closing(psycopg2.connect(own.admin_dsn)) as session, session, session.cursor() as cur:
            cur.execute("CREATE ROLE manager LOGIN CREATEROLE CREATEDB")
        manager = own.service_dsn("postgres", "manager")
        create_database(manager, "managed", "service")
        migrate(manager, "managed", "service")
        dsns = PostgresDsns(own.admin_dsn, own.service_dsn("postgres", "service")).to("managed")
        with closing(psycopg2.connect(dsns.admin_dsn)) as session, session.cursor() as cur:
            assert gaps(cur, "service") == []


OPENINGS = [
    ("CREATE TABLE dari.notes (tenant text)", "dari.notes is not under row-level security"),
    ("CREATE TABLE public.notes (tenant text)", "public.notes is not under row-level security"),
    ("CREATE TABLE dari_rows.notes (a int)", "dari_rows.notes is not under row-level security"),
    ("CREATE MATERIALIZED VIEW dari.notes AS SELECT * FROM dari.turns", "dari.notes is not under row-level security"),
    ("CREATE SCHEMA more; CREATE TABLE more.notes (a int)", "more.notes is not under row-level security"),
    ("ALTER TABLE dari.turns NO FORCE ROW LEVEL SECURITY", "dari.turns shows its owner everything"),
    ("ALTER TABLE dari.turns DISABLE ROW LEVEL SECURITY", "dari.turns is not under row-level security"),
    (
        "CREATE POLICY p ON dari.turns TO dari_app USING (true)",
        "policy p lets dari_app see more of dari.turns than it names",
    ),
    ("CREATE POLICY p ON dari.turns USING (true)", "policy p lets public see more of dari.turns than it names"),
    (
        "CREATE POLICY p ON dari.turns TO dari_housekeeper USING (true)",
        "policy p lets dari_housekeeper see more of dari.turns than it names",
    ),
    (
        "ALTER POLICY named_by_transaction ON dari.turns WITH CHECK (true)",
        "policy named_by_transaction lets dari_app see more of dari.turns than it names",
    ),
    ("CREATE VIEW dari.all_turns AS SELECT * FROM dari.turns", "dari.all_turns runs as its owner"),
    ("CREATE FUNCTION dari.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "dari.f has no fixed search path"),
    ("CREATE FUNCTION dari.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "dari.f may be called by everyone"),
    ("CREATE FUNCTION dari.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'", "dari.f runs as its owner"),
    ("GRANT SELECT ON dari.turns TO dari_reader", "dari_reader has SELECT on dari.turns"),
    ("GRANT SELECT ON dari.turns TO dari_housekeeper", "dari_housekeeper has SELECT on dari.turns"),
    ("GRANT TRUNCATE ON dari.turns TO dari_app", "dari_app has TRUNCATE on dari.turns"),
    ("GRANT SELECT ON dari.turns TO PUBLIC", "PUBLIC has SELECT on dari.turns"),
    ("GRANT INSERT ON public.dari_migrations TO PUBLIC", "PUBLIC has INSERT on public.dari_migrations"),
    ("GRANT USAGE ON SCHEMA dari TO dari_reader", "dari_reader has USAGE on schema dari"),
    ("GRANT CREATE ON SCHEMA public TO PUBLIC", "PUBLIC has CREATE on schema public"),
    (
        "ALTER DEFAULT PRIVILEGES FOR ROLE dari_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        "what dari_owner makes of functions is everyone's",
    ),
    (
        "ALTER DEFAULT PRIVILEGES FOR ROLE dari_ingest IN SCHEMA dari_rows GRANT SELECT ON TABLES TO dari_app",
        "what dari_ingest makes gives SELECT to dari_app",
    ),
    ("ALTER ROLE dari_app BYPASSRLS", "dari_app is more than the name of some rights"),
    ("ALTER ROLE dari_ingest LOGIN", "dari_ingest is more than the name of some rights"),
    ("GRANT dari_ingest TO dari_app", "dari_app may be dari_ingest"),
    ("ALTER ROLE {user} SUPERUSER", "{user} is, or may be, superuser"),
    ("ALTER ROLE {user} BYPASSRLS", "{user} is, or may be, above policies"),
    ("GRANT dari_owner TO {user}", "{user} is, or may be, dari_owner"),
    ("GRANT dari_app TO {user} WITH INHERIT TRUE", "{user} has the rights of dari_app at all times"),
    ("ALTER TABLE dari.turns OWNER TO {user}", "{user} owns relation turns"),
]


@pytest.mark.parametrize(("opening", "gap"), OPENINGS)
def test_what_somebody_opens_is_found(admin: cursor, shared_database: PostgresDsns, opening: str, gap: str) -> None:
    """The control run: each opening makes the check fail, and for this reason."""
    user = _user(shared_database)
    admin.execute(opening.format(user=user))
    assert gap.format(user=user) in gaps(admin, user)


def test_a_table_that_its_migration_isolates_is_closed(admin: cursor, shared_database: PostgresDsns) -> None:
    """What a migration says is enough."""
    admin.execute(
        "SET LOCAL ROLE dari_owner; CREATE TABLE dari.notes (tenant dari.tenant_id NOT NULL PRIMARY KEY);"
        "SELECT dari.isolate('dari.notes'); GRANT SELECT, INSERT ON dari.notes TO dari_app; RESET ROLE"
    )
    assert gaps(admin, _user(shared_database)) == []
