"""Brings a PostgreSQL database to the tables and roles that this version of dari needs.

A migration is a file `migrations/NNNN_name.sql`. The files are numbered from 0001 without a gap; the ledger
`public.dari_migrations` holds those applied, always the first ones, each with the SHA-256 of its file. So a database
is at one number, and a file that was applied is never edited: a change is a new file.

A file runs in one transaction, as `dari_owner`, with the search path `public`, together with its line in the ledger.
It holds no BEGIN, COMMIT or CONCURRENTLY; to change tables of rows it becomes `dari_ingest`, and then `dari_owner`
again. An advisory lock lets one process at a time do this; the others wait, and find nothing left to do.

Roles belong to the whole server, and each holds one kind of right:

    dari_owner         owns the metadata tables, and runs migrations
    dari_app           reads and writes the metadata of one tenant
    dari_housekeeper   reads and changes the few tables whose work spans all tenants
    dari_ingest        owns the tables of rows, and cannot read them
    dari_reader        owns nothing, and sees rows through row-level security only

The service logs in as one user, who has none of these rights until a transaction says SET LOCAL ROLE, which it may
say for the last four. The migrating user needs CREATEROLE and the database, and need not be a superuser.
Row-level security holds for the owner role, too, but in a transaction that says `dari.migrating`, as each file's does.
A file that makes a table says `SELECT dari.isolate('dari.table')`; tests/support/catalogue.py finds what is left out.
PostgreSQL 15 and later.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import connection, cursor, make_dsn, parse_dsn

OWNER_ROLE = "dari_owner"
SERVICE_ROLES = ("dari_app", "dari_housekeeper", "dari_ingest", "dari_reader")
ROLES = (OWNER_ROLE, *SERVICE_ROLES)
MIGRATING_ROLES = (OWNER_ROLE, "dari_ingest")
"""Whom a migration runs as, and whom it may become to change the tables of rows."""

OLDEST_SERVER_VERSION = 150_000
"""From 15 on, only the owner of a database may create tables in `public`, and views can run as their caller."""

_ADVISORY_LOCK = int.from_bytes(b"dari-mig", "big")
_CONNECT_TIMEOUT_S = 10
_MAX_ROLE_RACES = 10
_FILE_NAME = re.compile(r"(?P<number>\d{4})_(?P<name>[a-z0-9_]+)\.sql")


class MigrationError(Exception):
    """The database is not at this version, and why; the message says what to do. Shown at start.

    No message has the DSN or a part of it: they are shown, and logged.
    """


class DatabaseUnreachable(MigrationError):
    """There is no session on the server."""


class DatabaseAway(DatabaseUnreachable):
    """It may be there soon: nothing says that our address, user or password is wrong."""


class NotMigrated(MigrationError):
    """The database lacks tables or rights that `migrate` makes."""


class MigrationChanged(MigrationError):
    """A file differs from the one that was applied under its number."""


class DatabaseNewer(MigrationError):
    """The database was migrated by a later dari."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, the rest of its name, its text and the hex SHA-256 of its bytes."""

    number: int
    name: str
    sha256: str
    text: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.number:04d}_{self.name}"


def migrate(
    admin_dsn: str,
    database: str | None = None,
    service_user: str | None = None,
    *,
    folder: Traversable | None = None,
    lock_timeout_s: float = 300.0,
) -> list[Migration]:
    """Make the roles and apply what is missing; returns what this call applied, in order.

    `database` stands in for the one in the DSN. `service_user` must exist; None is the user of the DSN itself.
    `folder` is for tests. `lock_timeout_s` is the longest wait for another process that migrates, or for a table.
    Safe to call from several processes at once. Raises MigrationError; what was applied before stays.
    """
    migrations = _read(folder)
    with _connect(admin_dsn, database) as session:
        with session, session.cursor() as cur:
            cur.execute("SELECT set_config('lock_timeout', %s, false)", (f"{round(lock_timeout_s * 1000)}ms",))
            cur.execute("SELECT pg_advisory_lock(%s)", (_ADVISORY_LOCK,))
        _make_roles(session, service_user or session.info.user)
        _close_to_public(session)
        with session, session.cursor() as cur:
            _make_ledger(cur)
        missing = _missing(session, migrations)
        for migration in missing:
            _apply(session, migration)
        return missing


def pending(dsn: str, database: str | None = None, *, folder: Traversable | None = None) -> list[Migration]:
    """The migrations that `migrate` would apply; changes nothing, and any user who may connect can ask.

    Raises MigrationError as `migrate` does where the ledger and the files do not fit.
    """
    migrations = _read(folder)
    with _connect(dsn, database) as session:
        return _missing(session, migrations)


def require_migrated(dsn: str) -> None:
    """Make sure, as whom the service logs in, that it can work: nothing is pending, and it can take on its roles.

    Raises NotMigrated, DatabaseUnreachable, or what `pending` raises.
    """
    with _connect(dsn, None) as session:
        missing = _missing(session, _read(None))
        if missing:
            first, last = missing[0], missing[-1]
            what = f"migration {first}" if first is last else f"{len(missing)} migrations, {first} to {last}"
            raise NotMigrated(f"The database lacks {what}. Run: dari migrate")
        refused = _roles_refused(session)
        if refused:
            raise NotMigrated(
                f"The user of the database's DSN may not take on {', '.join(refused)}. Run dari migrate, and name that "
                "user as the service's."
            )


def user_of(dsn: str) -> str | None:
    """Whom the DSN logs in as; None where it leaves that to the environment. Raises DatabaseUnreachable."""
    user = _parsed(dsn).get("user")
    return str(user) if user else None


def create_database(admin_dsn: str, database: str = "dari", service_user: str = "dari_service") -> None:
    """Make the database and the service's login user where they are missing: what an embedded server lacks at first.

    The DSN leads to any other database, with a user who may create both. The login user has no password.
    """
    with _connect(admin_dsn, None) as session:
        _retry_races(session, lambda cur: _make_login(cur, service_user))
        _make_roles(session, service_user)
        session.autocommit = True
        with session.cursor() as cur:
            cur.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,))
            if not cur.fetchone():
                _make_database(cur, database)


def ensure_roles(cur: cursor, service_user: str) -> None:
    """Make the five roles, and let `service_user` take on four of them; does nothing where that is done.

    Part of the caller's transaction. Two sessions at once may collide: DuplicateObject, UniqueViolation or
    InternalError ("tuple concurrently updated"); repeat the transaction then.
    """
    for role in ROLES:
        cur.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
        if not cur.fetchone():
            cur.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
    cur.execute("SELECT rolsuper, current_user FROM pg_roles WHERE rolname = current_user")
    is_superuser, migrating_user = _one_row(cur)
    if not is_superuser:
        for role in MIGRATING_ROLES:
            _let_take_on(cur, str(migrating_user), role)
    for role in SERVICE_ROLES:
        _let_take_on(cur, service_user, role)


def _let_take_on(cur: cursor, member: str, role: str) -> None:
    """Let `member` say SET ROLE `role`, without having its rights before."""
    # Since 16 a membership says by itself whether it inherits; before, the member does for all its memberships.
    is_per_grant = cur.connection.server_version >= 160_000
    may_set = "SET" if is_per_grant else "MEMBER"
    question = f"SELECT rolsuper, pg_has_role(rolname, %(role)s, '{may_set}'), pg_has_role(rolname, %(role)s, 'USAGE')"
    question += " FROM pg_roles WHERE rolname = %(member)s"
    names = {"role": sql.Identifier(role), "member": sql.Identifier(member)}

    cur.execute(question, {"role": role, "member": member})
    row = cur.fetchone()
    if row is None:
        raise MigrationError(f"PostgreSQL has no user {member} for the service. Run: CREATE ROLE {member} LOGIN;")
    is_superuser, is_allowed, has_rights = row
    if is_superuser or (is_allowed and not has_rights):
        return
    if is_per_grant:
        cur.execute(sql.SQL("GRANT {role} TO {member} WITH INHERIT FALSE, SET TRUE").format(**names))
    else:
        cur.execute(sql.SQL("ALTER ROLE {member} NOINHERIT").format(**names))
        cur.execute(sql.SQL("GRANT {role} TO {member}").format(**names))
    cur.execute(question, {"role": role, "member": member})
    if _one_row(cur)[2]:
        raise MigrationError(
            f"{member} has the rights of {role} at all times, by another grant. "
            f"Run as whoever granted it: REVOKE {role} FROM {member}; then migrate again."
        )


def _make_roles(session: connection, service_user: str) -> None:
    try:
        _retry_races(session, lambda cur: ensure_roles(cur, service_user))
    except errors.InsufficientPrivilege as error:
        statements = [f"CREATE ROLE {role} NOLOGIN;" for role in ROLES]
        statements += [f"GRANT {', '.join(MIGRATING_ROLES)} TO {session.info.user};"]
        statements += [f"GRANT {', '.join(SERVICE_ROLES)} TO {service_user} WITH INHERIT FALSE, SET TRUE;"]
        raise MigrationError(
            f"{session.info.user} may not make or grant the roles of dari. Give it CREATEROLE, or let an administrator "
            "run what is missing of: " + " ".join(statements)
        ) from error


def _retry_races(session: connection, action: Callable[[cursor], None]) -> None:
    """Run `action` in a transaction. Roles are shared by all databases, which no advisory lock spans: so repeat."""
    for attempt in range(1, _MAX_ROLE_RACES + 1):
        try:
            with session, session.cursor() as cur:
                action(cur)
        except (errors.DuplicateObject, errors.UniqueViolation, errors.InternalError_):
            if attempt == _MAX_ROLE_RACES:
                raise
        else:
            return


def _make_login(cur: cursor, user: str) -> None:
    cur.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (user,))
    if not cur.fetchone():
        rights = "LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
        cur.execute(sql.SQL("CREATE ROLE {} " + rights).format(sql.Identifier(user)))


def _make_database(cur: cursor, database: str) -> None:
    """UTF-8 in code point order: the same on every system, and after every upgrade of its libc."""
    locale = "LOCALE 'C.UTF-8'"
    if cur.connection.server_version >= 170_000:
        locale = "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'"
    statement = "CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8' " + locale
    try:
        cur.execute(sql.SQL(statement).format(sql.Identifier(database), sql.Identifier(OWNER_ROLE)))
    except (errors.DuplicateDatabase, errors.UniqueViolation):
        return


def _close_to_public(session: connection) -> None:
    """Let nobody make what dari did not: a database that comes from before PostgreSQL 15 lets everyone, in `public`."""
    if not _is_open_to_public(session):
        return
    revoke = "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    with suppress(errors.InsufficientPrivilege), session, session.cursor() as cur:
        cur.execute(revoke)
    # One who has some right there, and not this one, gets a warning for an answer.
    if _is_open_to_public(session):
        raise MigrationError(f"Everyone may create in schema public of this database. Let its owner run: {revoke};")


def _is_open_to_public(session: connection) -> bool:
    with session, session.cursor() as cur:
        cur.execute("SELECT has_schema_privilege('public', 'public', 'CREATE')")
        return bool(_one_row(cur)[0])


def _make_ledger(cur: cursor) -> None:
    """Let the owner role create in this database, and make the ledger, which everyone may read: it has no secret."""
    cur.execute("SELECT current_database()")
    database = str(_one_row(cur)[0])
    owner = sql.Identifier(OWNER_ROLE)
    grants = {
        f"has_database_privilege('{OWNER_ROLE}', current_database(), 'CREATE')": sql.SQL(
            "GRANT CREATE ON DATABASE {} TO {}"
        ).format(sql.Identifier(database), owner),
        f"has_schema_privilege('{OWNER_ROLE}', 'public', 'CREATE')": sql.SQL(
            "GRANT USAGE, CREATE ON SCHEMA public TO {}"
        ).format(owner),
    }
    for question, grant in grants.items():
        cur.execute(f"SELECT {question}")
        if _one_row(cur)[0]:
            continue
        try:
            cur.execute(grant)
        except errors.InsufficientPrivilege as error:
            raise MigrationError(
                f"{OWNER_ROLE} may not create in database {database}. Let its owner run: {grant.as_string(cur)};"
            ) from error
    _become_owner(cur)
    cur.execute(
        "CREATE TABLE IF NOT EXISTS public.dari_migrations ("
        "number integer PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL,"
        " applied_at timestamptz NOT NULL DEFAULT now())"
    )
    cur.execute("GRANT SELECT ON public.dari_migrations TO PUBLIC")


def _become_owner(cur: cursor) -> None:
    """Be the owner role to the end of the transaction, and find nothing by name but in `public`."""
    cur.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(OWNER_ROLE)))
    cur.execute("SET LOCAL search_path = public")


def _missing(session: connection, migrations: list[Migration]) -> list[Migration]:
    """What the ledger lacks. Raises MigrationError where it is not a beginning of `migrations`."""
    with session, session.cursor() as cur:
        cur.execute("SELECT to_regclass('public.dari_migrations') IS NOT NULL")
        if not _one_row(cur)[0]:
            return migrations
        cur.execute("SELECT number, name, sha256 FROM public.dari_migrations ORDER BY number")
        applied = cur.fetchall()
    for place, (number, name, sha256) in enumerate(applied, start=1):
        if number != place:
            raise MigrationError(f"The ledger public.dari_migrations lacks number {place}; restore it from a backup.")
        if number > len(migrations):
            raise DatabaseNewer(
                f"The database has migration {number:04d}_{name}, and this dari ends at {len(migrations):04d}. "
                "Run the dari that migrated it, or a later one."
            )
        if sha256 != migrations[number - 1].sha256:
            raise MigrationChanged(
                f"Migration {number:04d}_{name} was applied from another file than this dari's "
                f"{migrations[number - 1]}. Restore the file as it was, and put the change into a new one."
            )
    return migrations[len(applied) :]


def _apply(session: connection, migration: Migration) -> None:
    try:
        with session, session.cursor() as cur:
            _become_owner(cur)
            cur.execute("SET LOCAL dari.migrating = 'on'")
            cur.execute(migration.text)
            cur.execute(
                "INSERT INTO public.dari_migrations (number, name, sha256) VALUES (%s, %s, %s)",
                (migration.number, migration.name, migration.sha256),
            )
    except psycopg2.Error as error:
        raise MigrationError(f"Migration {migration} was not applied: {_reason(error, migration.text)}") from error


def _reason(error: psycopg2.Error, text: str) -> str:
    """The server's words for the failure of a migration, with the line; without them where they quote a row."""
    code = error.pgcode or ""
    position = error.diag.statement_position
    line = f" at line {text[: int(position)].count(chr(10)) + 1}" if position else ""
    # Class 22, data exception, names the value; all other values stand in the detail, which is left out.
    message = "a value does not fit" if code.startswith("22") else error.diag.message_primary or "the connection broke"
    return f"{message}{line} (SQLSTATE {code})" if code else message


def _read(folder: Traversable | None) -> list[Migration]:
    """The files of `folder`, or those of the package, in order. Raises MigrationError for a gap or a double."""
    folder = folder or files("dari.adapters.postgres").joinpath("migrations")
    migrations = [_parse(file) for file in folder.iterdir() if file.name.endswith(".sql")]
    migrations.sort(key=lambda migration: migration.number)
    for place, migration in enumerate(migrations, start=1):
        if migration.number != place:
            raise MigrationError(f"Migration {migration} stands where number {place:04d} is due: a gap or a double.")
    return migrations


def _parse(file: Traversable) -> Migration:
    match = _FILE_NAME.fullmatch(file.name)
    if not match:
        raise MigrationError(f"{file.name} is no name of a migration; it must be like 0001_foundation.sql.")
    content = file.read_bytes()
    return Migration(int(match["number"]), match["name"], hashlib.sha256(content).hexdigest(), content.decode())


def _roles_refused(session: connection) -> list[str]:
    """Those of the service's roles that the session's user may not take on, or that the server does not have."""
    may_set = "SET" if session.server_version >= 160_000 else "MEMBER"
    question = "SELECT count(*) FROM pg_roles WHERE rolname = %s AND pg_has_role(oid, %s)"
    refused = []
    with session, session.cursor() as cur:
        for role in SERVICE_ROLES:
            cur.execute(question, (role, may_set))
            if _one_row(cur)[0] == 0:
                refused.append(role)
    return refused


@contextmanager
def _connect(dsn: str, database: str | None) -> Iterator[connection]:
    """A session on the server, closed at the end; its errors become MigrationError."""
    defaults = {"connect_timeout": _CONNECT_TIMEOUT_S, "application_name": "dari-migrate"}
    options: dict[str, Any] = {**defaults, **_parsed(dsn), **({"dbname": database} if database else {})}
    try:
        opened = psycopg2.connect(make_dsn(**options))
    except psycopg2.Error as error:
        kind = DatabaseUnreachable if any(sign in str(error) for sign in _LASTING) else DatabaseAway
        raise kind(f"The database cannot be reached: {_why_unreachable(error)}.") from error
    try:
        with closing(opened) as session:
            if session.server_version < OLDEST_SERVER_VERSION:
                raise MigrationError(f"dari needs PostgreSQL 15 or later; this is {session.server_version // 10_000}.")
            yield session
    except errors.LockNotAvailable as error:
        raise MigrationError("Another session holds what the migration needs; try again when it is done.") from error
    except psycopg2.Error as error:
        raise MigrationError(f"PostgreSQL refused: {error.diag.message_primary or 'the connection broke'}") from error


def _parsed(dsn: str) -> dict[str, str]:
    try:
        return parse_dsn(dsn)
    except psycopg2.Error:
        # Its text quotes what it did not understand, which may be the password; nor may a traceback show it.
        raise DatabaseUnreachable(
            "The database's DSN cannot be read. Write it like postgresql://user:password@host:5432/database, with "
            "%-escapes for special characters."
        ) from None


def _why_unreachable(error: psycopg2.Error) -> str:
    """Our own words for libpq's, which name host, address, user and database."""
    text = str(error)
    return next((reason for sign, reason in _WHY_UNREACHABLE.items() if sign in text), "no session was given")


_WHY_UNREACHABLE = {
    "Connection refused": "nobody listens at its address",
    "No such file or directory": "there is no socket in its folder",
    "could not translate host name": "its host name is unknown",
    "timeout expired": "it did not answer in time",
    "starting up": "it is starting; try again soon",
    "shutting down": "it is shutting down",
    "too many clients": "all its connections are taken",
    "connection slots": "all its connections are taken",
    "no password supplied": "it asks for a password, and the DSN has none",
    "authentication failed": "it does not accept user and password",
    "no pg_hba.conf entry": "its pg_hba.conf does not let this user in from here",
    "does not exist": "it has no such database or user",
    "permission denied": "the user may not connect to the database",
    "Permission denied": "its socket is closed to us",
    "certificate": "its certificate was not accepted",
    "SSL": "there is no agreement on TLS",
}
"""A sign in libpq's or the server's text, and what it says. A server may speak another language: then none fits."""


_LASTING = (
    "no password supplied",
    "authentication failed",
    "no pg_hba.conf entry",
    "does not exist",
    "permission denied",
    "Permission denied",
    "certificate",
    "SSL",
)
"""Of these, those that somebody must put right."""


def _one_row(cur: cursor) -> tuple[object, ...]:
    row = cur.fetchone()
    if row is None:
        raise MigrationError("PostgreSQL gave no row where its catalogue always has one.")
    return row
