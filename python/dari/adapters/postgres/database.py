"""Transactions: every access to PostgreSQL is one, runs as one role, and has its errors translated here.

The pool is peewee's; a connection is held from the first statement of a transaction to its end and never across a
`yield` to the wire or a network call. A connection that broke is closed, not given back.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

import peewee
import psycopg2
import psycopg2.errors
import psycopg2.extensions
from playhouse.pool import MaxConnectionsExceeded, PooledPostgresqlDatabase

from dari.core.errors import DariError, Exhausted, InternalError, Unavailable

_STALE_CONNECTION_S = 300
_CONNECTION = {
    "application_name": "dari",
    # Without these a peer that vanished is noticed after hours, or never. The DSN may say otherwise.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_SNAPSHOT = " ISOLATION LEVEL REPEATABLE READ, READ ONLY"


class Role(Enum):
    """Whom a transaction runs as; each role may do one thing (see `migrations/0001_foundation.sql`)."""

    APP = "dari_app"
    """Reads and writes metadata."""
    INGEST = "dari_ingest"
    """Owns the segment tables: makes, fills, drops them."""
    READER = "dari_reader"
    """Owns nothing; sees the rows of the knowledge bases that the transaction names, and no others."""


class Transaction:
    """An open transaction. Use `execute` for SQL, or hand `peewee` to a peewee query's `execute`."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self.peewee = database
        self._connection: psycopg2.extensions.connection = database.connection()

    def cursor(self) -> psycopg2.extensions.cursor:
        """A plain psycopg2 cursor in this transaction."""
        return self._connection.cursor()

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> psycopg2.extensions.cursor:
        """Run one statement; returns its cursor."""
        cursor = self.cursor()
        cursor.execute(statement, parameters)
        return cursor

    def become(self, role: Role) -> None:
        """Go on as another role."""
        self.execute(f"SET LOCAL ROLE {role.value}")


class Database:
    """A pool of connections to one PostgreSQL database. Thread-safe."""

    def __init__(self, dsn: str, *, max_connections: int, wait_timeout_s: float, statement_timeout_s: float) -> None:
        self._statement_timeout_ms = int(statement_timeout_s * 1000)
        parameters = psycopg2.extensions.parse_dsn(dsn)
        self._peewee = PooledPostgresqlDatabase(
            parameters.pop("dbname", parameters.get("user", "")),
            max_connections=max_connections,
            stale_timeout=_STALE_CONNECTION_S,
            timeout=wait_timeout_s,
            autoconnect=False,
            **{**_CONNECTION, "connect_timeout": max(1, int(wait_timeout_s)), **parameters},
        )

    @contextmanager
    def transaction(
        self,
        role: Role,
        *,
        snapshot: bool = False,
        statement_timeout_s: float | None = None,
        tenant: str = "",
        knowledge_bases: Sequence[str] = (),
    ) -> Iterator[Transaction]:
        """Open a transaction as `role`; commit at the end, roll back on any exception.

        `snapshot` reads everything as of one moment, and nothing may be written. `tenant` and `knowledge_bases` (ids)
        are what row-level security lets the READER see. Raises `Unavailable` where the database is not to be reached,
        `Exhausted` where its disk is full or all connections are taken.
        """
        timeout_ms = self._statement_timeout_ms if statement_timeout_s is None else int(statement_timeout_s * 1000)
        with translated_errors():
            transaction = self._begin(
                f"BEGIN{_SNAPSHOT if snapshot else ''}; SET LOCAL ROLE {role.value}; SELECT set_config('statement_timeout', %s, true),"
                " set_config('dari.tenant', %s, true), set_config('dari.knowledge_bases', %s, true)",
                (str(timeout_ms), tenant, ",".join(knowledge_bases)),
            )
            try:
                yield transaction
                transaction.execute("COMMIT")
            except BaseException:
                self._roll_back(transaction)
                raise
            self._peewee.close()

    def _begin(self, statement: str, parameters: Sequence[object]) -> Transaction:
        # A restarted server leaves dead connections in the pool. Nothing was done in them yet, so that one retry on a
        # fresh connection is safe here, and only here.
        for is_retry in (False, True):
            self._peewee.connect()
            try:
                transaction = Transaction(self._peewee)
                transaction.execute(statement, parameters)
                return transaction
            except (psycopg2.Error, peewee.PeeweeException) as error:
                self._peewee.manual_close()
                if is_retry or not isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
                    raise
                self._peewee.close_idle()
        raise AssertionError("unreachable")

    def _roll_back(self, transaction: Transaction) -> None:
        try:
            transaction.execute("ROLLBACK")
        except psycopg2.Error:
            self._peewee.manual_close()
        else:
            self._peewee.close()

    def close(self) -> None:
        """Close all connections, those in use too."""
        self._peewee.close_all()


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the driver's exceptions into dari's. No text of the driver passes: it holds values and addresses."""
    try:
        yield
    except DariError:
        raise
    except MaxConnectionsExceeded as error:
        raise Exhausted("All database connections are in use; retry later.", {"limit": "connections"}) from error
    except (peewee.PeeweeException, psycopg2.Error) as error:
        raise _translate(_driver_error(error)) from error


def sqlstate(error: BaseException) -> str | None:
    """SQLSTATE of a driver error, also behind peewee's wrapper; None where it has none."""
    return getattr(_driver_error(error), "pgcode", None)


def _driver_error(error: BaseException) -> BaseException:
    """Peewee wraps the driver's exceptions in its own of the same name and keeps them as the cause or `orig`."""
    origin = getattr(error, "orig", None) or error.__cause__
    return origin if isinstance(origin, psycopg2.Error) else error


# SQLSTATE classes: https://www.postgresql.org/docs/18/errcodes-appendix.html
_UNAVAILABLE_CLASSES = ("08", "57P")
_TIMED_OUT = psycopg2.errors.QueryCanceled


def _translate(error: BaseException) -> DariError:
    state: str = getattr(error, "pgcode", None) or ""
    if state.startswith("53"):
        return Exhausted(
            "The database is out of disk, memory or connections; make room and retry.",
            {"limit": "database", "sqlstate": state},
        )
    if isinstance(error, _TIMED_OUT):
        return Unavailable("The database took too long; retry with a back-off.", {"neighbour": "database"})
    lost = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError | peewee.InterfaceError) and not state
    if lost or state.startswith(_UNAVAILABLE_CLASSES) or isinstance(error, peewee.OperationalError):
        return Unavailable.of("database")
    return InternalError("An internal error occurred.", {"sqlstate": state})
