"""Migrations: each once and in order, whoever runs them; and a service user who can do nothing by itself."""

import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib import resources
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import errors
from psycopg2.extensions import make_dsn, parse_dsn

from dari.adapters.postgres.embedded import EmbeddedPostgres
from dari.adapters.postgres.migrate import (
    ROLES,
    SERVICE_ROLES,
    DatabaseNewer,
    DatabaseUnreachable,
    Migration,
    MigrationChanged,
    MigrationError,
    NotMigrated,
    create_database,
    migrate,
    pending,
    require_migrated,
    user_of,
)
from tests.fix_postgres import PostgresDsns, open_folder
from tests.support.waiting import until

FILES = {
    "0001_first.sql": "CREATE TABLE first (n integer); INSERT INTO first VALUES (1);",
    "0002_second.sql": "ALTER TABLE first ADD share text DEFAULT '100 %'; GRANT SELECT ON first TO dari_app;",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two small migrations."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A folder with the migrations of this dari, to add to."""
    with resources.as_file(resources.files("dari.adapters.postgres") / "migrations") as migrations:
        return Path(shutil.copytree(migrations, tmp_path / "shipped", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def empty_database(postgres_server: PostgresDsns) -> Iterator[PostgresDsns]:
    """A database as `create_database` makes it: no ledger yet."""
    name = f"dari_empty_{secrets.token_hex(4)}"
    create_database(postgres_server.admin_dsn, name, _user(postgres_server.service_dsn))
    yield postgres_server.to(name)
    _run(postgres_server.admin_dsn, f"DROP DATABASE {name} WITH (FORCE)")


def test_the_shipped_migrations_apply_and_leave_nothing_pending(database: PostgresDsns) -> None:
    """The service, too, can ask what is missing, and needs no right for it."""
    assert pending(database.admin_dsn) == []
    assert pending(database.service_dsn) == []


def test_migrations_apply_in_order_and_once(empty_database: PostgresDsns, folder: Path) -> None:
    """The first run applies all and says which; the second finds nothing to do."""
    assert [str(migration) for migration in pending(empty_database.admin_dsn, folder=folder)] == [
        "0001_first",
        "0002_second",
    ]
    assert [migration.number for migration in _migrate(empty_database, folder)] == [1, 2]
    assert _migrate(empty_database, folder) == []
    assert pending(empty_database.admin_dsn, folder=folder) == []
    assert _run(empty_database.admin_dsn, "SELECT * FROM first") == [(1, "100 %")]


def test_a_new_file_is_applied_to_a_database_that_has_the_others(empty_database: PostgresDsns, folder: Path) -> None:
    """What stands in the ledger is left alone."""
    _migrate(empty_database, folder)
    (folder / "0003_third.sql").write_text("DROP TABLE first;")
    assert [migration.name for migration in _migrate(empty_database, folder)] == ["third"]


def test_replicas_that_migrate_at_once_apply_each_file_once(empty_database: PostgresDsns, folder: Path) -> None:
    """One does the work and the others wait for it."""
    with ThreadPoolExecutor(4) as threads:
        runs = list(threads.map(lambda _: _migrate(empty_database, folder), range(4)))
    assert sorted(len(applied) for applied in runs) == [0, 0, 0, 2]
    assert _run(empty_database.admin_dsn, "SELECT count(*) FROM first") == [(1,)]


def test_databases_and_users_can_be_made_by_several_at_once(postgres_server: PostgresDsns) -> None:
    """Roles and databases are shared by the whole server, and no lock of one database guards them."""
    name = f"dari_race_{secrets.token_hex(4)}"
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: create_database(postgres_server.admin_dsn, name, name), range(4)))
    assert _run(postgres_server.admin_dsn, f"SELECT count(*) FROM pg_roles WHERE rolname = '{name}'") == [(1,)]
    _run(postgres_server.admin_dsn, f"DROP DATABASE {name}")
    _run(postgres_server.admin_dsn, f"DROP ROLE {name}")


def test_a_file_that_changed_after_it_was_applied_is_refused(empty_database: PostgresDsns, folder: Path) -> None:
    """One byte is enough; the message names the file."""
    _migrate(empty_database, folder)
    (folder / "0001_first.sql").write_text(FILES["0001_first.sql"] + "\n")
    with pytest.raises(MigrationChanged, match="0001_first"):
        _migrate(empty_database, folder)
    with pytest.raises(MigrationChanged):
        pending(empty_database.admin_dsn, folder=folder)


def test_a_database_newer_than_the_code_is_refused(empty_database: PostgresDsns, folder: Path) -> None:
    """An old dari must not write into tables that it does not know."""
    _migrate(empty_database, folder)
    (folder / "0002_second.sql").unlink()
    with pytest.raises(DatabaseNewer, match=r"0002_second.*ends at 0001"):
        _migrate(empty_database, folder)


def test_a_newer_database_is_worked_on_where_its_files_say_so(database: PostgresDsns, shipped: Path) -> None:
    """Servers are upgraded one by one: the older of them must be able to start again."""
    last = len(list(shipped.iterdir()))
    add_file(shipped, f"-- Served by dari from {last:04d} on.\nALTER TABLE dari.turns ADD COLUMN more text;")
    add_file(shipped, f"-- Served by dari from {last - 1:04d} on.\nALTER TABLE dari.turns ADD COLUMN most text;")
    assert require_migrated_to(database) == []
    migrate(database.admin_dsn, service_user=_user(database.service_dsn), folder=shipped)
    assert require_migrated_to(database) == [f"{last + 1:04d}_more", f"{last + 2:04d}_more"]
    assert require_migrated(database.service_dsn, folder=shipped) == []


@pytest.mark.parametrize("line", ["", "-- Served by dari from {later:04d} on.", "-- served by dari from 0001 on"])
def test_a_newer_database_is_refused_where_one_file_asks_for_a_later_dari(
    database: PostgresDsns, shipped: Path, line: str
) -> None:
    """A file says it in so many words, or it is not said; one that may stands before one that may not."""
    last = len(list(shipped.iterdir()))
    add_file(shipped, f"-- Served by dari from {last:04d} on.\nSELECT 1;")
    add_file(shipped, line.format(later=last + 1) + "\nALTER TABLE dari.turns RENAME COLUMN answer TO reply;")
    migrate(database.admin_dsn, service_user=_user(database.service_dsn), folder=shipped)
    with pytest.raises(DatabaseNewer, match=rf"{last + 2:04d}_more, and this dari ends at {last:04d}"):
        require_migrated_to(database)


def test_a_ledger_of_an_older_dari_is_carried_on(empty_database: PostgresDsns, folder: Path) -> None:
    """It lacks the column that tells who can work on what; its files then ask for themselves."""
    _migrate(empty_database, folder)
    _run(empty_database.admin_dsn, "ALTER TABLE public.dari_migrations DROP COLUMN served_from")
    (nothing := folder / "nothing").mkdir()
    with pytest.raises(DatabaseNewer, match=r"0001_first, and this dari ends at 0000"):
        require_migrated(empty_database.service_dsn, folder=nothing)
    (folder / "0003_third.sql").write_text("-- Served by dari from 0002 on.\nCREATE TABLE third ();")
    _migrate(empty_database, folder)
    ledger = "SELECT number, served_from FROM public.dari_migrations ORDER BY number"
    assert _run(empty_database.admin_dsn, ledger) == [(1, None), (2, None), (3, 2)]


def test_a_file_that_waits_for_a_table_lets_readers_through(empty_database: PostgresDsns, folder: Path) -> None:
    """ALTER TABLE queues up behind a long transaction, and every reader behind it; so it waits for short times."""
    _migrate(empty_database, folder)
    (folder / "0003_third.sql").write_text("ALTER TABLE first ADD third text;")
    reader = make_dsn(empty_database.admin_dsn, options="-c statement_timeout=15s")
    with ThreadPoolExecutor(1) as threads, closing(psycopg2.connect(empty_database.admin_dsn)) as long:
        long.cursor().execute("SELECT count(*) FROM first")  # and goes on, idle in its transaction
        migrating = threads.submit(_migrate, empty_database, folder)
        for _ in range(2):  # the second after the file has tried again
            _wait_until_queued(empty_database.admin_dsn)
            # With the lock_timeout of the whole it would stand here until the long transaction ends.
            assert _run(reader, "SELECT n FROM first") == [(1,)]
        assert not migrating.done()
        long.rollback()
        assert [migration.name for migration in migrating.result()] == ["third"]


def test_a_file_that_gets_no_lock_in_time_is_told(empty_database: PostgresDsns, folder: Path) -> None:
    """Nothing of it stays, and the next run applies it."""
    _migrate(empty_database, folder)
    (folder / "0003_third.sql").write_text("CREATE TABLE half (); ALTER TABLE first ADD third text;")
    user = _user(empty_database.service_dsn)
    with closing(psycopg2.connect(empty_database.admin_dsn)) as long:
        long.cursor().execute("SELECT count(*) FROM first")
        with pytest.raises(MigrationError, match="Another session holds what the migration needs"):
            migrate(empty_database.admin_dsn, service_user=user, folder=folder, lock_timeout_s=0.1)
    assert [migration.number for migration in _migrate(empty_database, folder)] == [3]


def test_a_migration_that_fails_leaves_nothing_and_says_where(empty_database: PostgresDsns, folder: Path) -> None:
    """Those before it stay; the repaired file applies."""
    (folder / "0003_third.sql").write_text("CREATE TABLE half ();\nSELECT * FROM nowhere;")
    with pytest.raises(MigrationError, match=r'0003_third.*"nowhere" does not exist at line 2 \(SQLSTATE 42P01\)'):
        _migrate(empty_database, folder)
    (folder / "0003_third.sql").write_text("CREATE TABLE half ();")
    assert [migration.number for migration in _migrate(empty_database, folder)] == [3]


def test_the_failure_of_a_migration_quotes_no_row(empty_database: PostgresDsns, folder: Path) -> None:
    """PostgreSQL's own words would hold the value."""
    (folder / "0003_third.sql").write_text("UPDATE first SET n = share::integer;")
    with pytest.raises(MigrationError, match="a value does not fit") as caught:
        _migrate(empty_database, folder)
    assert "100" not in str(caught.value)


@pytest.mark.parametrize("name", ["0004_gap.sql", "0002_double.sql", "3_short.sql", "0003-dash.sql"])
def test_files_out_of_number_are_refused_before_anything_runs(
    postgres_server: PostgresDsns, folder: Path, name: str
) -> None:
    """A gap, a double or a wrong name is a mistake of ours, found at the first start."""
    (folder / name).write_text("SELECT 1;")
    with pytest.raises(MigrationError):
        pending(postgres_server.admin_dsn, folder=folder)


def test_metadata_belongs_to_the_owner_role(empty_database: PostgresDsns, folder: Path) -> None:
    """Also where a superuser migrates, who would otherwise own it."""
    _migrate(empty_database, folder)
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    assert _run(empty_database.admin_dsn, owners) == [("dari_owner",)]


def test_the_service_user_has_no_rights_of_its_own(database: PostgresDsns) -> None:
    """No superuser, no way around row-level security, nothing owned, nothing inherited, and not the owner role."""
    user = _user(database.service_dsn)
    flags = "rolsuper, rolbypassrls, rolcreatedb, rolcreaterole, rolreplication"
    assert _run(database.admin_dsn, f"SELECT {flags} FROM pg_roles WHERE rolname = '{user}'") == [(False,) * 5]
    owned = f"SELECT 1 FROM pg_shdepend WHERE deptype = 'o' AND refobjid = '{user}'::regrole"
    assert _run(database.admin_dsn, owned) == []
    inherited = f"SELECT rolname FROM pg_roles WHERE rolname <> '{user}' AND pg_has_role('{user}', oid, 'USAGE')"
    assert _run(database.admin_dsn, inherited) == []
    with pytest.raises(errors.InsufficientPrivilege):
        _run(database.service_dsn, "SELECT count(*) FROM dari.knowledge_bases")
    with pytest.raises(errors.InsufficientPrivilege):
        _run(database.service_dsn, "SET ROLE dari_owner")


def test_the_service_user_can_take_on_its_roles(database: PostgresDsns) -> None:
    """Each for the time of a transaction; none of them is above the row-level security of others."""
    for role in SERVICE_ROLES:
        assert _run(database.service_dsn, f"SET LOCAL ROLE {role}; SELECT current_user") == [(role,)]
    names = ", ".join(f"'{role}'" for role in ROLES)
    flags = f"SELECT bool_or(rolsuper OR rolbypassrls OR rolcanlogin) FROM pg_roles WHERE rolname IN ({names})"
    assert _run(database.admin_dsn, flags) == [(False,)]


def test_a_user_with_createrole_migrates_without_being_superuser(managed_dsn: str, folder: Path) -> None:
    """As on a managed PostgreSQL, with a service user of its own: from no role and no database to the last file."""
    create_database(managed_dsn, "two_users", "service")
    assert [migration.number for migration in migrate(managed_dsn, "two_users", "service", folder=folder)] == [1, 2]
    assert migrate(managed_dsn, "two_users", "service", folder=folder) == []
    dsn = make_dsn(managed_dsn, dbname="two_users")
    assert _run(dsn, "SELECT tableowner FROM pg_tables WHERE tablename = 'first'") == [("dari_owner",)]
    as_service = make_dsn(dsn, user="service")
    assert _run(as_service, "SET LOCAL ROLE dari_app; SELECT n FROM first") == [(1,)]


def test_one_user_may_migrate_and_serve(managed_dsn: str, folder: Path) -> None:
    """One DSN for all is enough to begin with: the database's owner takes on its rights by SET ROLE, too."""
    _run(managed_dsn, "CREATE DATABASE one_user")
    assert len(migrate(managed_dsn, "one_user", folder=folder)) == 2
    dsn = make_dsn(managed_dsn, dbname="one_user")
    assert _run(dsn, "SET LOCAL ROLE dari_app; SELECT n FROM first") == [(1,)]
    with pytest.raises(errors.InsufficientPrivilege):
        _run(dsn, "SELECT n FROM first")


def test_a_user_who_may_not_make_roles_is_told_what_to_ask_for(managed_dsn: str, folder: Path) -> None:
    """The message has the statements for an administrator to run."""
    _run(managed_dsn, "CREATE DATABASE plain OWNER plain")
    with pytest.raises(MigrationError, match=r"plain may not .*CREATEROLE.*GRANT dari_owner, dari_ingest TO plain"):
        migrate(make_dsn(managed_dsn, user="plain"), "plain", folder=folder)


def test_a_service_user_that_does_not_exist_is_named(empty_database: PostgresDsns, folder: Path) -> None:
    """Making it is the operator's task: it needs a password."""
    with pytest.raises(MigrationError, match="no user nobody_here"):
        migrate(empty_database.admin_dsn, None, "nobody_here", folder=folder)


def test_a_service_user_that_has_the_rights_at_all_times_is_refused(shared_database: PostgresDsns) -> None:
    """A grant of somebody else's would let the service around its own roles; the message says how to end it.

    Before PostgreSQL 16 it is the user who inherits, not the grant: migrating ends it there by NOINHERIT.
    """
    if _run(shared_database.admin_dsn, "SELECT current_setting('server_version_num')::int < 160000") == [(True,)]:
        pytest.skip("a grant cannot inherit by itself on this server")
    user = f"dari_inheriting_{secrets.token_hex(4)}"
    _run(shared_database.admin_dsn, f"CREATE ROLE {user} LOGIN; CREATE ROLE {user}_group IN ROLE dari_reader")
    _run(shared_database.admin_dsn, f"GRANT {user}_group TO {user}")
    with pytest.raises(MigrationError, match=f"{user} has the rights of dari_reader at all times"):
        migrate(shared_database.admin_dsn, None, user)
    _run(shared_database.admin_dsn, f"DROP ROLE {user}, {user}_group")


def test_a_server_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    """The start shows it; the driver's exception is its cause."""
    with pytest.raises(DatabaseUnreachable, match="there is no socket in its folder") as caught:
        pending(f"host={tmp_path} dbname=none")
    assert str(tmp_path) not in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg2.OperationalError)


def test_a_database_that_does_not_exist_is_told_without_its_name(postgres_server: PostgresDsns) -> None:
    """PostgreSQL's own words would quote it, and it is a part of the DSN."""
    with pytest.raises(DatabaseUnreachable, match="it has no such database or user") as caught:
        pending(postgres_server.admin_dsn, "nowhere-in-sight")
    assert "nowhere" not in str(caught.value)


@pytest.mark.parametrize("dsn", ["secret with spaces", "postgresql://user:sec%zzret@host/db", "secret=x"])
def test_a_dsn_that_cannot_be_read_is_not_quoted(dsn: str) -> None:
    """Nor by a traceback: the driver's text quotes what it did not understand, which may be the password."""
    with pytest.raises(DatabaseUnreachable, match="cannot be read") as caught:
        pending(dsn)
    assert "sec" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_the_service_can_work_on_a_migrated_database(database: PostgresDsns) -> None:
    """The check at the start of the server has nothing to say."""
    require_migrated(database.service_dsn)


def test_a_database_that_lacks_migrations_is_refused_with_their_names(empty_database: PostgresDsns) -> None:
    """As who logs in to serve, without any right to make them."""
    with pytest.raises(NotMigrated, match=r"lacks .*0001_.*Run: dari migrate"):
        require_migrated(empty_database.service_dsn)


@pytest.mark.parametrize(
    ("dsn", "user"),
    [("postgresql://ann:secret@host/db", "ann"), ("host=h user='b b'", "b b"), ("host=h dbname=d", None)],
)
def test_the_user_of_a_dsn_is_read_from_it(dsn: str, user: str | None) -> None:
    """Whom `dari migrate` lets take on the roles."""
    assert user_of(dsn) == user


OLD_UPLOADS = [
    # id, delimiter, quote, has_header, state, committed bytes, columns; state and hints after.
    ("complete", ",", '"', True, "COMPLETED", 9, ["a", "b"], "COMPLETED", {}),
    (
        "told",
        ";",
        "",
        False,
        "COMPLETED",
        9,
        ["a", "b"],
        "COMPLETED",
        {"delimiter": ";", "quote": "", "header_rows": 0},
    ),
    ("all-bytes", "\t", '"', True, "INDEXING", 9, ["a", "b"], "INDEXING", {"delimiter": "\t"}),
    ("untouched", ",", '"', True, "OPEN", 0, [], "OPEN", {}),
    ("begun", ",", '"', True, "OPEN", 9, ["a", "b"], "FAILED", {}),
    ("failed", ",", '"', True, "FAILED", 0, [], "FAILED", {}),
]


def test_uploads_and_rows_of_the_first_tables_are_carried_over(managed_dsn: str, tmp_path: Path) -> None:
    """By a user who is no superuser: rows stay as they are, ragged ones fit, the reader sees the same and no more."""
    for migration in resources.files("dari.adapters.postgres").joinpath("migrations").iterdir():
        if migration.name.startswith("0001"):
            (tmp_path / migration.name).write_bytes(migration.read_bytes())
    _run(managed_dsn, "CREATE DATABASE carried")
    migrate(managed_dsn, "carried", folder=tmp_path)
    dsn = make_dsn(managed_dsn, dbname="carried")
    segments = {}
    with closing(psycopg2.connect(dsn)) as session, session, session.cursor() as cur:
        cur.execute("SET LOCAL ROLE dari_app")
        cur.execute(
            "INSERT INTO dari.knowledge_bases (tenant, id, display_name, description) VALUES ('t', 'kb', '', '')"
        )
        for id, delimiter, quote, has_header, state, committed, columns, *_ in OLD_UPLOADS:
            segments[id] = secrets.token_hex(16)
            is_complete = state == "COMPLETED"
            cur.execute(
                "INSERT INTO dari.uploads (tenant, id, knowledge_base, mode, delimiter, quote, has_header,"
                " max_rejected_rows, state, committed_offset_bytes, columns, segment, sha256, version, complete_time)"
                " VALUES ('t', %s, 'kb', 'REPLACE', %s, %s, %s, 0, %s, %s, %s, %s, %s, %s, %s)",
                (id, delimiter, quote, has_header, state, committed, columns, segments[id])
                + ((b"x", 1, "now") if is_complete else (None, None, None)),
            )
        cur.execute("SET LOCAL ROLE dari_ingest")
        rows, open_rows = (f"dari_rows.rows_{segments[id]}" for id in ("complete", "untouched"))
        for table in (rows, open_rows):
            cur.execute(
                f"CREATE TABLE {table} (row_number bigint NOT NULL, c1 text NOT NULL, c2 text NOT NULL);"
                f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; GRANT SELECT ON {table} TO dari_reader;"
                f"CREATE POLICY named_by_transaction ON {table} FOR SELECT TO dari_reader"
                " USING (coalesce(current_setting('dari.tenant', true) = 't', false));"
                f"INSERT INTO {table} VALUES (1, 'x', 'y')"
            )
    assert [str(migration) for migration in migrate(managed_dsn, "carried")][:1] == ["0002_any_file"]

    as_app = "SET LOCAL ROLE dari_app; SET LOCAL dari.tenant = 't'; "
    found = _run(
        dsn, as_app + "SELECT id, state, hints, columns <> '{}', reading #>> '{dialect,delimiter}' FROM dari.uploads"
    )
    assert sorted(found) == sorted(
        (id, state, hints, bool(columns), delimiter if columns else None)
        for id, delimiter, _, _, _, _, columns, state, hints in OLD_UPLOADS
    )
    as_ingest = "SET LOCAL ROLE dari_ingest; SET LOCAL dari.tenant = 't'; "
    _run(dsn, as_ingest + f"INSERT INTO {open_rows} VALUES (2, 'x', NULL, NULL), (3, 'x', 'y', '{{z}}')")
    for refused in (f"INSERT INTO {rows} VALUES (2, 'x', 'y')", f"TABLE {rows}", f"TABLE {open_rows}"):
        with pytest.raises(errors.InsufficientPrivilege):
            _run(dsn, as_ingest + refused)
    evidence = f"dari_rows.evidence_{segments['complete']}"
    _run(dsn, as_ingest + f"INSERT INTO {evidence} VALUES (0, 'e')")
    for tenant, seen in (("t", 1), ("other", 0)):
        named = f"SET LOCAL ROLE dari_reader; SET LOCAL dari.tenant = '{tenant}'; "
        for table, stored in ((evidence, 1), (rows, 1), (open_rows, 3)):
            assert _run(dsn, named + f"SELECT count(*) FROM {table}") == [(stored * seen,)]
    as_owner = "SET LOCAL ROLE dari_owner; "
    assert _run(dsn, as_owner + "SELECT count(*) FROM dari.uploads") == [(0,)], "it has seen all while it migrated"


@pytest.fixture(scope="module")
def managed_dsn() -> Iterator[str]:
    """A server without dari's roles, and its user `manager`, who has CREATEROLE and CREATEDB only."""
    with open_folder() as folder, EmbeddedPostgres(folder / "pg", durable=False) as server:
        _run(server.admin_dsn, "CREATE ROLE manager LOGIN CREATEROLE CREATEDB; CREATE ROLE plain LOGIN")
        _run(server.admin_dsn, "GRANT plain TO manager")
        yield server.service_dsn("postgres", "manager")


def _migrate(database: PostgresDsns, folder: Path) -> list[Migration]:
    return migrate(database.admin_dsn, None, _user(database.service_dsn), folder=folder)


def _user(dsn: str) -> str:
    return str(parse_dsn(dsn)["user"])


def _run(dsn: str, statement: str) -> list[tuple[object, ...]]:
    """Run statements in a session of their own; one that cannot stand in a transaction must be alone."""
    with closing(psycopg2.connect(dsn)) as session:
        session.autocommit = True
        with session.cursor() as cur:
            cur.execute(statement)
            return cur.fetchall() if cur.description else []


def add_file(folder: Path, text: str) -> None:
    """The next migration."""
    (folder / f"{len(list(folder.iterdir())) + 1:04d}_more.sql").write_text(text)


def require_migrated_to(database: PostgresDsns) -> list[str]:
    """As this dari does at its start."""
    return require_migrated(database.service_dsn)


def _wait_until_queued(dsn: str) -> None:
    """Return when a session waits for a lock on a table."""
    waiting = (
        "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
        " WHERE NOT granted AND relation IS NOT NULL AND datname = current_database()"
    )
    until(lambda: _run(dsn, waiting) != [(0,)])
