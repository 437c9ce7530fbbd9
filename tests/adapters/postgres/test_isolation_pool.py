"""A connection comes back to the pool as it went out: whatever ended its transaction, it is nobody's again.

The settings and the role of a transaction are looked at from outside dari's code, on the very session that had them.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from dari.adapters.postgres.database import Database, Role, Transaction
from dari.core.errors import Cancelled, DariError, NotFound, Unavailable
from dari.core.patience import Patience
from tests.fix_postgres import PostgresDsns
from tests.support.fault_proxy import PostgresProxy

_STATE = """
SELECT pg_backend_pid(), current_user, coalesce(current_setting('dari.tenant', true), ''),
    coalesce(current_setting('dari.knowledge_bases', true), '')
"""
_NAMED: Any = {"tenant": "tenant-a", "knowledge_bases": ["salaries"]}


@pytest.fixture
def one(shared_database: PostgresDsns) -> Iterator[Database]:
    """A pool of one connection: who comes next has the one of who went before."""
    with closing(
        Database(shared_database.service_dsn, max_connections=1, wait_timeout_s=5, statement_timeout_s=30)
    ) as database:
        yield database


def _idle_state(database: Database) -> tuple[object, ...] | None:
    """What the session in the pool says of itself between two transactions; None where none is kept."""
    kept = database._idle
    if not kept:
        return None
    (connection,) = kept
    with connection.driver.cursor() as cur:
        cur.execute(f"BEGIN; {_STATE}")
        state = cur.fetchone()
        cur.execute("ROLLBACK")
    assert state is not None
    return state


def _return(transaction: Transaction) -> None:
    transaction.execute("SELECT 1")


def _fail_by_itself(transaction: Transaction) -> None:
    raise NotFound.of("x")


def _fail_by_statement(transaction: Transaction) -> None:
    transaction.execute("SELECT 1 / 0")


def _be_interrupted(transaction: Transaction) -> None:
    raise KeyboardInterrupt


def _time_out(transaction: Transaction) -> None:
    transaction.execute("SET LOCAL statement_timeout = 1; SELECT pg_sleep(600)")


def _fail_at_commit(transaction: Transaction) -> None:
    """Of a knowledge base whose version is not there PostgreSQL learns when it commits."""
    transaction.become(Role.APP)
    transaction.execute(
        "INSERT INTO dari.knowledge_bases (tenant, id, display_name, description, current_version)"
        " VALUES ('tenant-a', 'salaries', '', '', 7)"
    )


def _fail_as_another(transaction: Transaction) -> None:
    transaction.become(Role.INGEST)
    transaction.execute("SELECT 1 / 0")


ENDS: list[Callable[[Transaction], None]] = [
    _return,
    _fail_by_itself,
    _fail_by_statement,
    _be_interrupted,
    _time_out,
    _fail_at_commit,
    _fail_as_another,
]


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__.strip("_"))
def test_whatever_ends_a_transaction_its_session_is_nobodys(
    one: Database, shared_database: PostgresDsns, role: Role, end: Callable[[Transaction], None]
) -> None:
    login = parse_dsn(shared_database.service_dsn)["user"]
    seen: list[object] = []

    def work() -> None:
        with one.transaction(role, **_NAMED) as transaction:
            state = transaction.execute(_STATE).fetchone()
            assert state is not None
            assert state[1:] == (role.value, "tenant-a", "salaries")
            seen.append(state[0])
            end(transaction)

    if end is _return:
        work()
    else:
        with pytest.raises((DariError, KeyboardInterrupt)):
            work()
    assert _idle_state(one) == (seen[0], login, "", "")


def test_a_generator_that_is_left_gives_a_clean_session_back(one: Database, shared_database: PostgresDsns) -> None:
    def rows() -> Iterator[int]:
        with one.transaction(Role.READER, **_NAMED):
            yield 1

    left = rows()
    next(left)
    left.close()  # type: ignore[attr-defined]
    state = _idle_state(one)
    assert state is not None
    assert state[1:] == (parse_dsn(shared_database.service_dsn)["user"], "", "")


def _cut_by_server(transaction: Transaction, proxy: PostgresProxy, patience: Patience, admin_dsn: str) -> None:
    row = transaction.execute("SELECT pg_backend_pid()").fetchone()
    with closing(psycopg2.connect(admin_dsn)) as session, session.cursor() as cur:
        cur.execute("SELECT pg_terminate_backend(%s, 5000)", row)
    transaction.execute("SELECT 1")


def _cut_by_network(transaction: Transaction, proxy: PostgresProxy, patience: Patience, admin_dsn: str) -> None:
    proxy.swallow()
    threading.Timer(0.05, patience.end).start()
    transaction.execute("SELECT 1")


def _cut_by_caller(transaction: Transaction, proxy: PostgresProxy, patience: Patience, admin_dsn: str) -> None:
    threading.Timer(0.05, patience.end).start()
    transaction.execute("SELECT pg_sleep(600)")


@pytest.mark.parametrize("cut", [_cut_by_server, _cut_by_network, _cut_by_caller])
def test_a_session_that_was_cut_is_not_given_to_anybody(
    shared_database: PostgresDsns, cut: Callable[[Transaction, PostgresProxy, Patience, str], None]
) -> None:
    """The next transaction has another session, and names nothing."""
    pids: list[object] = []
    with (
        PostgresProxy(shared_database.service_dsn) as proxy,
        closing(Database(proxy.dsn, max_connections=1, wait_timeout_s=30, statement_timeout_s=30)) as pool,
    ):

        def work(patience: Patience) -> None:
            with patience, pool.transaction(Role.READER, **_NAMED) as transaction:
                row = transaction.execute("SELECT pg_backend_pid()").fetchone()
                pids.append(row)
                cut(transaction, proxy, patience, shared_database.admin_dsn)

        with pytest.raises((Unavailable, Cancelled)):
            work(Patience(600.0))
        proxy.forward()
        assert _idle_state(pool) is None
        with pool.transaction(Role.READER, tenant=None) as transaction:
            state = transaction.execute(_STATE).fetchone()
        assert state is not None
        assert (state[0],) != pids[0]
        assert state[1:] == ("dari_reader", "", "")
