"""Transactions: every access to PostgreSQL is one, runs as one role, and has its errors translated here.

A connection is held from the first statement of a transaction to its end, and never across a `yield` to the wire or a
network call. One that broke is closed, not given back. Each connection is a peewee database of its own: peewee's pool
connects under one lock, so that with a server that does not answer its callers would wait one after the other, and
those who give a connection back would wait with them.

Every wait has two ends. PostgreSQL's own timeouts come first; where the server is frozen, or the network swallows what
is sent, the connection is cut from this side some seconds later.
"""

import hashlib
import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Any, cast

import peewee
import psycopg2
import psycopg2.errors
import psycopg2.extensions

from dari.core.errors import Cancelled, DariError, Exhausted, InternalError, Unavailable
from dari.core.patience import Patience, patience_of_this_thread
from dari.core.telemetry import OnWait
from dari.core.watchdog import Watchdog

_STALE_CONNECTION_S = 300.0
"""A connection that was not used for so long is closed: what lies between may have forgotten it."""
_CUT_GRACE_S = 10.0
"""How much longer than the statement timeout a transaction may take before its connection is cut."""
_IMPATIENT_GRACE_S = 0.2
"""The same for a thread that can do without (see `core.patience`)."""
_SHORTEST_TIMEOUT_S = 0.001
"""PostgreSQL takes 0 as no limit."""
_SHORTEST_CONNECT_TIMEOUT_S = 2
"""libpq takes 1 as 2."""
_CONNECTION = {
    "application_name": "dari",
    "client_encoding": "UTF8",
    # Without these a peer that vanished is noticed after hours, or never. The DSN may say otherwise.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
# The server's side of the same: a dari that vanished must not hold the lock of an upload that goes on elsewhere, also
# not while a long statement of it runs, or waits for a lock itself. And no statement here is worth being compiled.
_SESSION = """
SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
SET client_connection_check_interval = '2s';
SET idle_in_transaction_session_timeout = '60s';
SET jit = off
"""
_MOST_PLANS = 100
"""That a connection keeps: some statements take the form of what somebody wrote. A plan holds some 100 KiB."""
_PLANS_OF_OTHERS = (psycopg2.errors.InvalidSqlStatementName, psycopg2.errors.DuplicatePreparedStatement)
"""What comes of a plan where the session is not ours alone."""
_SNAPSHOT = " ISOLATION LEVEL REPEATABLE READ, READ ONLY"


class Role(Enum):
    """Whom a transaction runs as; each role may do one thing (see `migrate`)."""

    APP = "dari_app"
    """Reads and writes the metadata of the tenant that the transaction names, and of no other."""
    HOUSEKEEPER = "dari_housekeeper"
    """Ends uploads, removes versions and keeps alerts, of all tenants; sees no chat, no mapping and no row."""
    INGEST = "dari_ingest"
    """Owns the segment tables: makes, fills, drops them, and reads none of their rows."""
    READER = "dari_reader"
    """Owns nothing; sees the rows of the knowledge bases that the transaction names, and no others."""


class Prepared:
    """A statement that each connection plans once: the plan of a small read costs PostgreSQL several times its run.

    `text` has %s for each parameter, of a type that PostgreSQL finds in the text. Better that it names its columns than
    `*`: a plan whose columns a migration changed is refused (0A000), and then run again on a connection without plans.
    Behind a pooler that hands a session to others between two transactions plans get lost, or are there before; the
    first that is seen to be ends the planning for good.
    """

    def __init__(self, text: str) -> None:
        self.plain = text
        first, *others = text.split("%s")
        numbered = "".join((first, *(f"${number}{piece}" for number, piece in enumerate(others, start=1))))
        self.name = f"dari_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.prepare = f"PREPARE {self.name} AS {numbered.replace('%', '%%')}"
        self.execute = f"EXECUTE {self.name}({', '.join(['%s'] * len(others))})" if others else f"EXECUTE {self.name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prepared) and other.plain == self.plain

    def __hash__(self) -> int:
        return hash(self.plain)


class Transaction:
    """An open transaction. Use `execute` for SQL, or hand `peewee` to a peewee query's `execute`."""

    def __init__(self, connection: "_Connection") -> None:
        self.peewee = connection.peewee
        self._connection = connection.driver

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

    def __init__(
        self,
        dsn: str,
        *,
        max_connections: int,
        wait_timeout_s: float,
        statement_timeout_s: float,
        on_wait: OnWait = lambda _: None,
    ) -> None:
        """`on_wait` is told of every wait for a connection, where none was free at once."""
        self._on_wait = on_wait
        self._statement_timeout_s = statement_timeout_s
        self._wait_timeout_s = wait_timeout_s
        self._parameters = {
            **_CONNECTION,
            "tcp_user_timeout": int(wait_timeout_s * 1000),
            "connect_timeout": max(_SHORTEST_CONNECT_TIMEOUT_S, int(wait_timeout_s)),
            **psycopg2.extensions.parse_dsn(dsn),
        }
        self._watchdog = Watchdog()
        self._keeps_plans = True
        self._slots = threading.BoundedSemaphore(max_connections)
        # Guards _idle, _in_use and _is_closed. The connection used last stands at the end of _idle, and goes out first.
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._in_use: set[_Connection] = set()
        self._is_closed = False

    @contextmanager
    def transaction(
        self,
        role: Role,
        *,
        tenant: str | None,
        knowledge_bases: Sequence[str] = (),
        snapshot: bool = False,
        statement_timeout_s: float | None = None,
    ) -> Iterator[Transaction]:
        """Open a transaction as `role`; commit at the end, roll back on any exception.

        `tenant` is whose rows row-level security lets the transaction see and write. None is for what the HOUSEKEEPER
        and the INGEST role do for all; the APP is refused all metadata without one. `knowledge_bases` (ids) are those
        whose rows the READER sees. `snapshot` reads everything as of one moment, and nothing may be written. Raises
        `Unavailable` where the database is not to be reached, `Exhausted` where its disk is full or all connections
        are taken, `Cancelled` where the thread's patience ended.
        """
        patience = patience_of_this_thread()
        timeout_s = _patient_s(
            self._statement_timeout_s if statement_timeout_s is None else statement_timeout_s, patience
        )
        begin = (
            f"BEGIN{_SNAPSHOT if snapshot else ''}; SET LOCAL ROLE {role.value};"
            " SELECT set_config('statement_timeout', %s, true), set_config('dari.tenant', %s, true),"
            " set_config('dari.knowledge_bases', %s, true)"
        )
        parameters = (str(int(timeout_s * 1000)), tenant or "", ",".join(knowledge_bases))
        with _cancelled_by(patience), translated_errors(), self._slot(timeout_s):
            connection, _ = self._begun(begin, parameters, timeout_s, patience)
            transaction = Transaction(connection)
            try:
                yield transaction
                transaction.execute("COMMIT")
            except BaseException:
                self._roll_back(connection, transaction)
                raise
            self._give_back(connection)

    def run(
        self, role: Role, tenant: str, statement: str | Prepared, parameters: Sequence[object] = ()
    ) -> list[dict[str, Any]]:
        """Run one statement as a transaction of its own, in one round trip and not in three; its rows.

        On a connection that turns out to be dead it may run once more on another, so that it must be one that does no
        harm twice. Raises as `transaction` does.
        """
        patience = patience_of_this_thread()
        timeout_s = _patient_s(self._statement_timeout_s, patience)
        # Statements sent together are one transaction, which ends with the last of them: PostgreSQL 18, 54.2.2.1.
        begin = (
            f"SET LOCAL ROLE {role.value};"
            " SELECT set_config('statement_timeout', %s, true), set_config('dari.tenant', %s, true); "
        )
        with _cancelled_by(patience), translated_errors(), self._slot(timeout_s):
            connection, cursor = self._begun(
                begin, (str(int(timeout_s * 1000)), tenant, *parameters), timeout_s, patience, statement
            )
            self._give_back(connection)
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def connections(self) -> dict[str, int]:
        """How many are in use, and how many wait to be used."""
        return {"in_use": len(self._in_use), "idle": len(self._idle)}

    def close(self) -> None:
        """Close the idle connections and cut those in use: their transactions end as Unavailable."""
        with self._lock:
            self._is_closed = True
            in_use = list(self._in_use)
        self._close_idle()
        for connection in in_use:
            connection.cut()
        self._watchdog.close()

    @contextmanager
    def _slot(self, timeout_s: float) -> Iterator[None]:
        if not (self._slots.acquire(blocking=False) or self._has_waited(min(self._wait_timeout_s, timeout_s))):
            raise Exhausted("All database connections are in use; retry later.", {"limit": "connections"})
        try:
            yield
        finally:
            self._slots.release()

    def _has_waited(self, timeout_s: float) -> bool:
        """Wait for a slot; whether there is one."""
        began_s = time.monotonic()
        has_slot = self._slots.acquire(timeout=timeout_s)
        self._on_wait(time.monotonic() - began_s)
        return has_slot

    def _begun(
        self,
        begin: str,
        parameters: Sequence[object],
        timeout_s: float,
        patience: Patience | None,
        statement: str | Prepared = "",
    ) -> tuple["_Connection", psycopg2.extensions.cursor]:
        # A restarted server leaves dead connections in the pool, a migration plans that hold no more. Nothing was done
        # in them yet, so that one retry on a fresh connection is safe here, and only here.
        connection = self._taken_from_idle()
        if connection is not None:
            try:
                return self._begin(connection, begin, parameters, timeout_s, patience, statement)
            except _PLANS_OF_OTHERS:  # Before the next, for one of them is an OperationalError.
                self._keeps_plans = False
            except (psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.errors.FeatureNotSupported):
                self._close_idle()
                if patience is not None and not patience.remaining_s():
                    raise
        try:
            return self._begin(self._connected(patience), begin, parameters, timeout_s, patience, statement)
        except _PLANS_OF_OTHERS:
            self._keeps_plans = False
        return self._begin(self._connected(patience), begin, parameters, timeout_s, patience, statement)

    def _begin(
        self,
        connection: "_Connection",
        begin: str,
        parameters: Sequence[object],
        timeout_s: float,
        patience: Patience | None,
        statement: str | Prepared,
    ) -> tuple["_Connection", psycopg2.extensions.cursor]:
        with self._lock:
            is_closed = self._is_closed
            self._in_use.add(connection)
        try:
            if is_closed:
                raise Unavailable.of("database")
            connection.watch(timeout_s + (_CUT_GRACE_S if patience is None else _IMPATIENT_GRACE_S), patience)
            # Whatever fails here ends the connection, and so what it is taken to have prepared.
            text = connection.text_of(statement, plan=self._keeps_plans)
            cursor = Transaction(connection).execute(begin + text, parameters)
        except BaseException:
            self._discard(connection)
            raise
        return connection, cursor

    def _connected(self, patience: Patience | None) -> "_Connection":
        parameters = dict(self._parameters)
        if patience is not None:
            longest_s = max(_SHORTEST_CONNECT_TIMEOUT_S, math.ceil(patience.remaining_s()))
            parameters["connect_timeout"] = min(longest_s, int(cast(str, parameters["connect_timeout"])))
        name = parameters.pop("dbname", parameters.get("user", ""))
        connection = _Connection(name, parameters, self._watchdog)
        try:
            connection.driver.cursor().execute(_SESSION)
        except BaseException:
            connection.close()
            raise
        return connection

    def _taken_from_idle(self) -> "_Connection | None":
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _roll_back(self, connection: "_Connection", transaction: Transaction) -> None:
        try:
            transaction.execute("ROLLBACK")
        except psycopg2.Error:
            self._discard(connection)
        else:
            self._give_back(connection)

    def _give_back(self, connection: "_Connection") -> None:
        if not connection.unwatch():
            self._discard(connection)
            return
        connection.idle_since_s = time.monotonic()
        with self._lock:
            self._in_use.discard(connection)
            closing = [connection] if self._is_closed else self._stale()
            self._idle = [*self._idle, connection] if not self._is_closed else []
        for stale in closing:
            stale.close()

    def _stale(self) -> "list[_Connection]":
        """Take the connections that nobody has used for long out of the pool. With the lock held."""
        oldest_s = time.monotonic() - _STALE_CONNECTION_S
        stale = [connection for connection in self._idle if connection.idle_since_s < oldest_s]
        self._idle = self._idle[len(stale) :]
        return stale

    def _discard(self, connection: "_Connection") -> None:
        connection.unwatch()
        with self._lock:
            self._in_use.discard(connection)
        connection.close()

    def _close_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


class _Connection:
    """One connection, used by one thread at a time, and cut by any."""

    def __init__(self, name: str, parameters: Mapping[str, Any], watchdog: Watchdog) -> None:
        self.peewee = cast(Any, peewee.PostgresqlDatabase(name, thread_safe=False, autoconnect=False, **parameters))
        self.peewee.connect()
        self.driver: psycopg2.extensions.connection = self.peewee.connection()
        self.idle_since_s = 0.0
        self._prepared: set[str] = set()
        # A second descriptor of the same socket: libpq closes its own as it likes, and another may get its number.
        self._socket = socket.socket(fileno=os.dup(self.driver.fileno()))
        self._alarm = watchdog.alarm(self.cut)
        self._patience: Patience | None = None
        # Guards the two below.
        self._lock = threading.Lock()
        self._is_watched = False
        self._is_cut = False

    def text_of(self, statement: str | Prepared, *, plan: bool) -> str:
        """What to send for it, with what must come before it the first time; from then on it counts as prepared."""
        if isinstance(statement, str):
            return statement
        if not plan:
            return statement.plain
        if statement.name in self._prepared:
            return statement.execute
        forget = ""
        if len(self._prepared) >= _MOST_PLANS:
            self._prepared.clear()
            forget = "DEALLOCATE ALL; "
        self._prepared.add(statement.name)
        return f"{forget}{statement.prepare}; {statement.execute}"

    def watch(self, limit_s: float, patience: Patience | None) -> None:
        """Cut the connection unless `unwatch` is called within the limit, and before the patience ends."""
        with self._lock:
            self._is_watched = True
        self._alarm.set(time.monotonic() + limit_s)
        self._patience = patience
        if patience is not None:
            patience.cut_by(self.cut)

    def unwatch(self) -> bool:
        """The work is done; returns whether the connection can be used again."""
        self._alarm.stop()
        if self._patience is not None:
            self._patience.cut_by(None)
            self._patience = None
        with self._lock:
            self._is_watched = False
            return not self._is_cut

    def cut(self) -> None:
        """Let whoever waits for the server on this connection wait no longer. From any thread; does not block."""
        with self._lock:
            if not self._is_watched or self._is_cut:
                return
            self._is_cut = True
            with suppress(OSError):  # It is gone already.
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; what is open in it is rolled back by the server."""
        self.driver.close()
        self._socket.close()


@contextmanager
def _cancelled_by(patience: Patience | None) -> Iterator[None]:
    """Tell a wait that was cut because nobody waits for it any more as such, and not as the database's failure."""
    try:
        yield
    except Unavailable:
        if patience is not None and patience.is_over:
            raise Cancelled("The caller went away.") from None
        raise


def _patient_s(timeout_s: float, patience: Patience | None) -> float:
    """A timeout, or what is left of the thread's patience."""
    return timeout_s if patience is None else min(timeout_s, max(_SHORTEST_TIMEOUT_S, patience.remaining_s()))


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the driver's exceptions into dari's. No text of the driver passes: it holds values and addresses."""
    try:
        yield
    except DariError:
        raise
    except (peewee.PeeweeException, psycopg2.Error) as error:
        raise _translate(_driver_error(error)) from error


def sqlstate(error: BaseException) -> str | None:
    """SQLSTATE of a driver error, also behind peewee's wrapper; None where it has none."""
    return getattr(_driver_error(error), "pgcode", None)


def _driver_error(error: BaseException) -> BaseException:
    """The driver's exception behind peewee's of the same name (`orig`), or behind one of dari's (its cause)."""
    for origin in (error, getattr(error, "orig", None), error.__cause__, getattr(error.__cause__, "orig", None)):
        if isinstance(origin, psycopg2.Error):
            return origin
    return error


# SQLSTATE: https://www.postgresql.org/docs/18/errcodes-appendix.html
_UNAVAILABLE = (
    "08",  # the connection broke
    "25006",  # a stand-by that has not become the primary yet
    "25P03",  # cut by a timeout for idle transactions
    "40",  # a deadlock, or a lost race: the same again may succeed
    "55P03",  # a lock was not to be had in time
    "57P",  # shutting down, crashed, starting up
)
_EXHAUSTED = "53"
_CANCELLED = "57014"


def _translate(error: BaseException) -> DariError:
    state: str = getattr(error, "pgcode", None) or ""
    if state.startswith(_EXHAUSTED):
        return Exhausted(
            "The database is out of disk, memory or connections; make room and retry.",
            {"limit": "database", "sqlstate": state},
        )
    if state == _CANCELLED:
        return Unavailable("The database took too long; retry with a back-off.", {"neighbour": "database"})
    if state.startswith(_UNAVAILABLE) or (not state and _is_lost(error)):
        return Unavailable.of("database")
    return InternalError("An internal error occurred.", {"sqlstate": state})


def _is_lost(error: BaseException) -> bool:
    """Whether an error without SQLSTATE says that the connection is gone; others are misuse of the driver."""
    # libpq without a word about the reason: psycopg2 raises the bare DatabaseError then.
    return type(error) is psycopg2.DatabaseError or isinstance(
        error, psycopg2.OperationalError | psycopg2.InterfaceError | peewee.OperationalError | peewee.InterfaceError
    )
