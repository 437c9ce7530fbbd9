"""Transactions over real connections: what breaks, what is said about it, and what is left."""

import threading
from collections.abc import Iterator
from contextlib import closing

import peewee
import psycopg2
import psycopg2.errors
import psycopg2.extensions
import pytest

from dari.adapters.postgres.database import Database, Prepared, Role, sqlstate, translated_errors
from dari.core.errors import Cancelled, DariError, Exhausted, InternalError, NotFound, Unavailable
from dari.core.patience import Patience
from tests.fix_postgres import PostgresDsns
from tests.support.fault_proxy import PostgresProxy
from tests.support.waiting import until

SECRET = "row content, host=db password=secret"


def _opened(dsn: str, **limits: float) -> Database:
    chosen = {"max_connections": 4, "wait_timeout_s": 5.0, "statement_timeout_s": 30.0, **limits}
    return Database(
        dsn,
        max_connections=int(chosen["max_connections"]),
        wait_timeout_s=chosen["wait_timeout_s"],
        statement_timeout_s=chosen["statement_timeout_s"],
    )


@pytest.fixture
def pool(shared_database: PostgresDsns) -> Iterator[Database]:
    with closing(_opened(shared_database.service_dsn)) as database:
        yield database


def _pid(pool: Database) -> int:
    with pool.transaction(Role.APP, tenant=None) as transaction:
        row = transaction.execute("SELECT pg_backend_pid()").fetchone()
        assert row is not None
        return int(row[0])


def _terminate(dsns: PostgresDsns, pid: int) -> None:
    with closing(psycopg2.connect(dsns.admin_dsn)) as session, session.cursor() as cur:
        cur.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        assert cur.fetchone() == (True,)


def test_a_connection_is_used_again_and_carries_nothing_over(pool: Database) -> None:
    with pool.transaction(Role.READER, tenant="t", knowledge_bases=["a", "b"], snapshot=True) as transaction:
        settings = "SELECT current_user, current_setting('dari.tenant'), current_setting('dari.knowledge_bases')"
        assert transaction.execute(settings).fetchone() == ("dari_reader", "t", "a,b")
        first = transaction.execute("SELECT pg_backend_pid()").fetchone()
    with pool.transaction(Role.APP, tenant=None) as transaction:
        assert transaction.execute(settings).fetchone() == ("dari_app", "", "")
        assert transaction.execute("SELECT pg_backend_pid()").fetchone() == first
        assert transaction.execute("SHOW transaction_read_only").fetchone() == ("off",)


def test_an_exception_rolls_back_and_the_connection_goes_on(pool: Database) -> None:
    pid = _pid(pool)

    def work(error: BaseException) -> None:
        with pool.transaction(Role.INGEST, tenant=None) as transaction:
            transaction.execute("CREATE TABLE dari_rows.left_over (a int)")
            raise error

    for error in (ValueError("x"), KeyboardInterrupt(), NotFound.of("x"), GeneratorExit()):
        with pytest.raises(type(error)):
            work(error)
        with pool.transaction(Role.INGEST, tenant=None) as transaction:
            assert transaction.execute("SELECT to_regclass('dari_rows.left_over')").fetchone() == (None,)
    assert _pid(pool) == pid


def test_a_failed_statement_rolls_back_and_the_thread_goes_on(pool: Database) -> None:
    for _ in range(10):
        with pytest.raises(InternalError), pool.transaction(Role.APP, tenant=None) as transaction:
            transaction.execute("SELECT 1 / 0")
    assert _pid(pool)


def test_dead_connections_in_the_pool_cost_no_call(pool: Database, shared_database: PostgresDsns) -> None:
    """As a restart of the server leaves them; all at once, and each in the thread that used it last."""
    barrier = threading.Barrier(4)
    problems: list[BaseException] = []

    def use() -> None:
        try:
            with pool.transaction(Role.APP, tenant=None) as transaction:
                row = transaction.execute("SELECT pg_backend_pid()").fetchone()
                assert row is not None
                barrier.wait()
            _terminate(shared_database, row[0])
            barrier.wait()
            for _ in range(3):
                _pid(pool)
        except BaseException as problem:
            problems.append(problem)
            barrier.abort()

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_one_statement_alone_runs_as_its_role_under_the_timeout_and_leaves_nothing(pool: Database) -> None:
    """All is sent together; PostgreSQL makes one transaction of it."""
    told = "SELECT current_user::text AS role, current_setting('statement_timeout') AS timeout, pg_backend_pid() AS pid"
    (alone,) = pool.run(Role.READER, "acme", told)
    assert (alone["role"], alone["timeout"]) == (Role.READER.value, "30s")
    with pool.transaction(Role.APP, tenant="acme") as transaction:
        assert transaction.execute("SELECT current_user::text").fetchone() == (Role.APP.value,)
    assert _pid(pool) == alone["pid"]


def test_one_statement_alone_ends_at_the_statement_timeout(shared_database: PostgresDsns) -> None:
    with closing(_opened(shared_database.service_dsn, statement_timeout_s=0.05)) as pool:
        with pytest.raises(Unavailable):
            pool.run(Role.APP, "acme", "SELECT pg_sleep(%s)", (60,))
        assert pool.run(Role.APP, "acme", "SELECT %s::int AS one", (1,)) == [{"one": 1}]


def test_one_statement_alone_runs_again_where_its_connection_was_dead(
    pool: Database, shared_database: PostgresDsns
) -> None:
    _terminate(shared_database, _pid(pool))
    assert pool.run(Role.APP, "acme", "SELECT 1 AS one") == [{"one": 1}]


def test_a_statement_is_planned_once_on_each_connection_and_knows_its_role_and_tenant_each_time(pool: Database) -> None:
    who = Prepared(
        "SELECT current_user::text AS role, current_setting('dari.tenant') AS tenant, %s::text || '%' AS told"
    )
    for role, tenant in ((Role.APP, "a"), (Role.READER, "b"), (Role.APP, "c")):
        told = {"role": role.value, "tenant": tenant, "told": "it's 100 %%"}
        assert pool.run(role, tenant, who, ("it's 100 %",)) == [told]
    plans = pool.run(Role.APP, "a", "SELECT name, generic_plans + custom_plans AS runs FROM pg_prepared_statements")
    assert plans == [{"name": who.name, "runs": 3}]


def test_a_plan_that_a_migration_made_void_costs_no_call(shared_database: PostgresDsns) -> None:
    read = Prepared("SELECT * FROM dari_rows.changing")
    with closing(psycopg2.connect(shared_database.admin_dsn)) as session, session.cursor() as cur:
        session.autocommit = True
        cur.execute("CREATE TABLE dari_rows.changing AS SELECT 1 AS a")
        cur.execute("GRANT SELECT ON dari_rows.changing TO dari_reader")
        with closing(_opened(shared_database.service_dsn)) as pool:
            assert pool.run(Role.READER, "t", read) == pool.run(Role.READER, "t", read) == [{"a": 1}]
            cur.execute("ALTER TABLE dari_rows.changing ADD COLUMN b integer")
            assert pool.run(Role.READER, "t", read) == pool.run(Role.READER, "t", read) == [{"a": 1, "b": None}]
        cur.execute("DROP TABLE dari_rows.changing")


def test_a_session_that_others_use_too_costs_the_plans_and_no_call(pool: Database) -> None:
    """As behind a pooler that hands sessions on between two transactions: plans are gone, or were made by others."""
    first, second = Prepared("SELECT %s::integer + 1 AS one"), Prepared("SELECT %s::integer + 2 AS two")
    assert pool.run(Role.APP, "t", first, (0,)) == [{"one": 1}]
    with pool.transaction(Role.APP, tenant=None) as transaction:
        transaction.execute("DEALLOCATE ALL")
    assert pool.run(Role.APP, "t", first, (0,)) == pool.run(Role.APP, "t", first, (0,)) == [{"one": 1}]
    assert pool.run(Role.APP, "t", second, (0,)) == [{"two": 2}]
    assert pool.run(Role.APP, "t", "SELECT name FROM pg_prepared_statements") == []


def test_a_plan_that_somebody_else_made_is_not_run(pool: Database) -> None:
    read = Prepared("SELECT 1 AS mine")
    with pool.transaction(Role.APP, tenant=None) as transaction:
        transaction.execute(f"PREPARE {read.name} AS SELECT 2 AS theirs")
    assert pool.run(Role.APP, "t", read) == [{"mine": 1}]


def test_a_prepared_statement_that_failed_is_prepared_anew(pool: Database) -> None:
    divided = Prepared("SELECT 12 / %s::integer AS quotient")
    with pytest.raises(InternalError):
        pool.run(Role.APP, "t", divided, (0,))
    assert pool.run(Role.APP, "t", divided, (4,)) == [{"quotient": 3}]


def test_a_session_that_dies_in_its_transaction_is_unavailable_and_the_next_one_works(
    pool: Database, shared_database: PostgresDsns
) -> None:

    def work(statements: list[str]) -> None:
        with pool.transaction(Role.APP, tenant=None) as transaction:
            _terminate(shared_database, _pid_of(transaction.execute("SELECT pg_backend_pid()")))
            for statement in statements:
                transaction.execute(statement)

    for statements in (["SELECT 1"], []):  # It is noticed in the transaction, or not before its COMMIT.
        with pytest.raises(Unavailable) as raised:
            work(statements)
        assert raised.value.metadata == {"neighbour": "database"}
        assert _pid(pool)


def test_more_transactions_than_connections_wait_and_then_are_refused(shared_database: PostgresDsns) -> None:
    with closing(_opened(shared_database.service_dsn, max_connections=1, wait_timeout_s=0.1)) as pool:
        with pool.transaction(Role.APP, tenant=None), pytest.raises(Exhausted) as raised:
            _in_thread(lambda: _pid(pool))
        assert raised.value.metadata == {"limit": "connections"}
        assert _pid(pool), "the place is free again"


def test_only_those_who_wait_for_a_connection_are_told_of(shared_database: PostgresDsns) -> None:
    """For how long, also where they waited in vain."""
    waits: list[float] = []
    database = Database(
        shared_database.service_dsn,
        max_connections=1,
        wait_timeout_s=0.1,
        statement_timeout_s=30.0,
        on_wait=waits.append,
    )
    with closing(database) as pool:
        assert _pid(pool)
        assert (waits, pool.connections()) == ([], {"in_use": 0, "idle": 1})
        with pool.transaction(Role.APP, tenant=None):
            assert pool.connections() == {"in_use": 1, "idle": 0}
            with pytest.raises(Exhausted):
                _in_thread(lambda: _pid(pool))
    (waited_s,) = waits
    assert waited_s >= 0.1


def _in_thread(work: object) -> None:
    problems: list[BaseException] = []

    def run() -> None:
        try:
            assert callable(work)
            work()
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for problem in problems:
        raise problem


def test_a_place_is_free_again_however_a_transaction_ends(shared_database: PostgresDsns) -> None:
    with closing(_opened(shared_database.service_dsn, max_connections=1, wait_timeout_s=5)) as pool:
        for _ in range(3):
            with pytest.raises(InternalError), pool.transaction(Role.APP, tenant=None) as transaction:
                transaction.execute("nonsense")
            with pytest.raises(Unavailable), pool.transaction(Role.APP, tenant=None) as transaction:
                _terminate(shared_database, _pid_of(transaction.execute("SELECT pg_backend_pid()")))
            assert _pid(pool)


def _pid_of(cursor: psycopg2.extensions.cursor) -> int:
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with closing(_opened("host=/nowhere dbname=x user=x")) as pool, pytest.raises(Unavailable) as raised:
        _pid(pool)
    assert "nowhere" not in str(raised.value)
    assert raised.value.__cause__ is not None


def test_a_database_that_swallows_all_bytes_costs_a_limited_time(
    monkeypatch: pytest.MonkeyPatch, shared_database: PostgresDsns
) -> None:
    """The peer's system acknowledges every byte, so that no timeout of TCP or PostgreSQL ever comes."""
    monkeypatch.setattr("dari.adapters.postgres.database._CUT_GRACE_S", 0.3)
    with (
        PostgresProxy(shared_database.service_dsn) as proxy,
        closing(_opened(proxy.dsn, wait_timeout_s=2.0, statement_timeout_s=0.2)) as pool,
    ):
        assert _pid(pool)
        proxy.swallow()
        with pytest.raises(Unavailable):
            _pid(pool)  # On the connection of before, and then on a fresh one.
        proxy.forward()
        assert _pid(pool)
        with pytest.raises(Unavailable):
            _swallow_within_a_transaction(pool, proxy)
        proxy.forward()
        assert _pid(pool)


def test_an_impatient_thread_waits_no_longer_than_it_said_for_a_database_that_swallows_all_bytes(
    shared_database: PostgresDsns,
) -> None:
    """All limits of the pool are beyond any test; a thread without patience would wait for them."""
    with (
        PostgresProxy(shared_database.service_dsn) as proxy,
        closing(_opened(proxy.dsn, wait_timeout_s=600.0, statement_timeout_s=600.0)) as pool,
    ):
        assert _pid(pool)
        proxy.swallow()
        with pytest.raises(Unavailable), Patience(0.1):
            _pid(pool)
        proxy.forward()
        assert _pid(pool)


def test_a_wait_that_nobody_needs_any_more_is_cut_and_told_as_cancelled(pool: Database) -> None:
    """From another thread; the next transaction has a connection of its own."""
    patience = Patience(600.0)
    cutting = threading.Timer(0.05, patience.end)
    with pytest.raises(Cancelled), patience:
        _sleep_and_start(cutting, pool)
    cutting.join()
    assert _pid(pool)


def _sleep_and_start(cutting: threading.Timer, pool: Database) -> None:
    with pool.transaction(Role.APP, tenant=None) as transaction:
        cutting.start()
        transaction.execute("SELECT pg_sleep(600)")


def _swallow_within_a_transaction(pool: Database, proxy: PostgresProxy) -> None:
    with pool.transaction(Role.APP, tenant=None) as transaction:
        proxy.swallow()
        transaction.execute("SELECT 1")


def test_those_who_wait_for_a_server_wait_at_the_same_time(shared_database: PostgresDsns) -> None:
    """One lock around connecting would make the last of four wait four times as long, and with it who gives back."""
    with (
        PostgresProxy(shared_database.service_dsn) as proxy,
        closing(_opened(proxy.dsn, wait_timeout_s=2.0)) as pool,
        pool.transaction(Role.APP, tenant=None) as held,
    ):
        proxy.swallow_new()
        refused = threading.Semaphore(0)

        def wait() -> None:
            with pytest.raises(Unavailable):
                _pid(pool)
            refused.release()

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: proxy.connections >= 4)
        assert held.execute("SELECT 1").fetchone() == (1,)
        for thread in threads:
            thread.join()
        assert proxy.most_at_once >= 4


def test_close_ends_what_runs_as_unavailable(shared_database: PostgresDsns) -> None:
    pool = _opened(shared_database.service_dsn)
    started = threading.Event()
    outcome: list[BaseException] = []

    def sleep() -> None:
        try:
            with pool.transaction(Role.APP, tenant=None) as transaction:
                started.set()
                transaction.execute("SELECT pg_sleep(30)")
        except DariError as error:
            outcome.append(error)

    thread = threading.Thread(target=sleep)
    thread.start()
    started.wait()
    pool.close()
    thread.join()
    assert [type(error) for error in outcome] == [Unavailable]
    with pytest.raises(Unavailable):
        _pid(pool)


def _driver(state: str) -> psycopg2.Error:
    """The driver's exception for a SQLSTATE, as a server causes it."""

    class WithState(psycopg2.errors.lookup(state)):  # type: ignore[misc]
        pgcode = state

    return WithState(SECRET)


TRANSLATED: list[tuple[BaseException, type[DariError]]] = [
    (psycopg2.OperationalError(SECRET), Unavailable),
    (psycopg2.InterfaceError(SECRET), Unavailable),
    (psycopg2.DatabaseError(SECRET), Unavailable),
    (peewee.OperationalError(psycopg2.OperationalError(SECRET), SECRET), Unavailable),
    (peewee.InterfaceError(psycopg2.InterfaceError(SECRET), SECRET), Unavailable),
    (peewee.OperationalError(SECRET), Unavailable),
    (_driver("08006"), Unavailable),
    (_driver("57P01"), Unavailable),
    (_driver("57P03"), Unavailable),
    (_driver("57014"), Unavailable),
    (_driver("40001"), Unavailable),
    (_driver("40P01"), Unavailable),
    (_driver("55P03"), Unavailable),
    (_driver("25006"), Unavailable),
    (_driver("25P03"), Unavailable),
    (_driver("53100"), Exhausted),
    (_driver("53200"), Exhausted),
    (_driver("53300"), Exhausted),
    (peewee.OperationalError(_driver("53100"), SECRET), Exhausted),
    (_driver("42P01"), InternalError),
    (_driver("42501"), InternalError),
    (_driver("22021"), InternalError),
    (_driver("23505"), InternalError),
    (_driver("XX000"), InternalError),
    (psycopg2.ProgrammingError(SECRET), InternalError),
    (psycopg2.NotSupportedError(SECRET), InternalError),
    (peewee.IntegrityError(_driver("23505"), SECRET), InternalError),
    (peewee.PeeweeException(SECRET), InternalError),
]


@pytest.mark.parametrize(("error", "expected"), TRANSLATED, ids=lambda value: getattr(value, "pgcode", None))
def test_every_exception_of_the_driver_is_translated_without_its_text(
    error: BaseException, expected: type[DariError]
) -> None:
    with pytest.raises(DariError) as raised, translated_errors():
        raise error
    assert type(raised.value) is expected
    assert raised.value.__cause__ is error
    assert SECRET not in str(raised.value) + repr(raised.value.metadata)


def test_the_sqlstate_is_found_behind_every_wrapper() -> None:
    driver = _driver("42P01")
    wrapped = peewee.ProgrammingError(driver, SECRET)
    for error in (driver, wrapped):
        assert sqlstate(error) == "42P01"
        with pytest.raises(InternalError) as raised, translated_errors():
            raise error
        assert sqlstate(raised.value) == "42P01"
    assert sqlstate(ValueError()) is None
