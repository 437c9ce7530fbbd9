"""The outbox on a real PostgreSQL: told once, delivered to each target, through failures and restarts."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg2
import pytest

from dari.adapters.postgres.database import Database, Role
from dari.adapters.postgres.outbox_store import PostgresOutbox, store_alert
from dari.core.alert_dispatch import LEASE, AlertDispatcher, Delivery, retry_delay
from dari.core.alerts import Alert, AlertKind, Message, upload_failed
from dari.core.errors import Unavailable
from tests.fix_postgres import PostgresDsns
from tests.support.event_log import RecordedEvents
from tests.support.fault_proxy import PostgresProxy
from tests.support.running_dari import SOON_S
from tests.support.waiting import until

QUIET = timedelta(minutes=15)
START = datetime(2026, 1, 1, tzinfo=UTC)
OPENED, CLOSED = AlertKind.CIRCUIT_OPENED, AlertKind.CIRCUIT_CLOSED
UPLOAD = AlertKind.UPLOAD_FAILED
ROUND_S = 0.02


class Clock:
    """Moved by the test; many threads read it."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, duration: timedelta) -> None:
        self.now += duration


class Room:
    """A Target that keeps what it is told; several dispatchers may send to it at once."""

    def __init__(self, name: str = "ops") -> None:
        self.name = name
        self.is_down = False
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._changed = threading.Condition()  # its lock guards the two below
        self._titles: list[str] = []
        self._asked = 0

    def send(self, message: Message) -> bool:
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
        assert self.may_answer.wait(SOON_S)
        if self.is_down:
            return False
        with self._changed:
            self._titles.append(message.title.removeprefix("dari: "))
            self._changed.notify_all()
        return True

    @property
    def titles(self) -> list[str]:
        with self._changed:
            return list(self._titles)

    def wait_for(self, count: int) -> list[str]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._titles) >= count, SOON_S), self._titles
            return list(self._titles)

    def wait_for_asked(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._asked >= count, SOON_S)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextmanager
def connected(dsn: str) -> Iterator[PostgresOutbox]:
    with closing(Database(dsn, max_connections=4, wait_timeout_s=2, statement_timeout_s=30)) as database:
        yield PostgresOutbox(database)


@pytest.fixture
def outbox(database: PostgresDsns) -> Iterator[PostgresOutbox]:
    with connected(database.service_dsn) as outbox:
        yield outbox


@contextmanager
def dispatching(dsn: str, clock: Clock, *targets: Room, log: RecordedEvents | None = None) -> Iterator[AlertDispatcher]:
    """A server's dispatcher, at work."""
    with connected(dsn) as outbox:
        dispatcher = AlertDispatcher(
            outbox, targets, log or RecordedEvents(), quiet=QUIET, interval_s=ROUND_S, clock=clock
        )
        dispatcher.start()
        try:
            yield dispatcher
        finally:
            dispatcher.close()


def run(dsns: PostgresDsns, statement: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(dsns.admin_dsn)) as session, session, session.cursor() as cur:
        cur.execute(statement)
        return cur.fetchall() if cur.description else []


def is_settled(dsns: PostgresDsns) -> bool:
    undecided = "SELECT count(*) FROM dari.alerts WHERE state = 'NEW'"
    undelivered = "SELECT count(*) FROM dari.alert_deliveries WHERE delivered_time IS NULL"
    return run(dsns, f"SELECT ({undecided}), ({undelivered})") == [(0, 0)]


def _has(dsns: PostgresDsns, statement: str, value: object) -> bool:
    return run(dsns, statement) == [(value,)]


def opened(subject: str, at: datetime = START) -> Alert:
    return Alert(OPENED, subject, happen_time=at)


def test_an_alert_is_stored_as_it_is(outbox: PostgresOutbox) -> None:
    alert = Alert(UPLOAD, "knowledgeBases/한", "expired", "uploads/x", "acme", times=3, happen_time=START, host="h")
    outbox.add(alert)
    ((stored),) = outbox.latest(10)
    assert (stored.alert, stored.state, stored.targets) == (alert, "NEW", 0)


def test_storing_an_alert_again_changes_nothing(outbox: PostgresOutbox) -> None:
    """The answer to the first COMMIT may have been lost."""
    alert = opened("aiModels/flow")
    for _ in range(2):
        outbox.add(alert)
    outbox.decide(["ops"], QUIET, START)
    outbox.add(alert)
    outbox.decide(["ops"], QUIET, START)
    assert [stored.state for stored in outbox.latest(10)] == ["TOLD"]


def test_an_alert_goes_with_the_transaction_that_it_tells_of(database: PostgresDsns, outbox: PostgresOutbox) -> None:
    with closing(Database(database.service_dsn, max_connections=1, wait_timeout_s=2, statement_timeout_s=30)) as own:
        with suppress(ZeroDivisionError), own.transaction(Role.APP, tenant="t") as transaction:
            store_alert(transaction, upload_failed("t", "kb", "u"))
            raise ZeroDivisionError
        assert outbox.latest(10) == []
        with own.transaction(Role.APP, tenant="t") as transaction:
            store_alert(transaction, upload_failed("t", "kb", "u"))
    assert len(outbox.latest(10)) == 1


def test_two_servers_that_see_the_same_tell_it_once(database: PostgresDsns, clock: Clock) -> None:
    """Each alert to each target, whichever server sends it."""
    rooms = [Room("ops"), Room("pager")]
    with ExitStack() as servers:
        dispatchers = [servers.enter_context(dispatching(database.service_dsn, clock, *rooms)) for _ in range(2)]
        subjects = [f"aiModels/{number}" for number in range(30)]
        for subject in subjects:
            for dispatcher in dispatchers:
                dispatcher.tell(opened(subject))
        for room in rooms:
            room.wait_for(len(subjects))
        until(lambda: is_settled(database))
        for dispatcher in dispatchers:
            dispatcher.tell(Alert(CLOSED, subjects[0], happen_time=START))
        for room in rooms:
            room.wait_for(len(subjects) + 1)
        until(lambda: is_settled(database))
    for room in rooms:
        assert sorted(room.titles[:-1]) == sorted(f"{subject} fails" for subject in subjects)
        assert room.titles[-1] == f"{subjects[0]} answers again"


def test_a_message_belongs_to_the_server_that_claimed_it(outbox: PostgresOutbox, database: PostgresDsns) -> None:
    """Asked for by eight at once, it is given to one; the next one only when the first has arrived."""
    for subject in ("a", "b"):
        outbox.add(opened(subject))
    outbox.decide(["ops"], QUIET, START)
    claims: list[Delivery] = []
    start = threading.Barrier(8)

    def claim() -> None:
        with connected(database.service_dsn) as own:
            start.wait()
            claims.extend(own.claim(["ops"], START, LEASE))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (first,) = claims
    assert first.alert.subject == "a"
    outbox.settle(first, delivered_time=START, retry_time=START)
    (second,) = outbox.claim(["ops"], START, LEASE)
    assert second.alert.subject == "b"


def test_a_target_that_was_down_gets_everything_in_order_once_it_is_up(database: PostgresDsns, clock: Clock) -> None:
    """And one failing target does not make the other get anything twice."""
    ops, pager = Room("ops"), Room("pager")
    ops.is_down = True
    with dispatching(database.service_dsn, clock, ops, pager) as dispatcher:
        dispatcher.tell(opened("a"))
        dispatcher.tell(Alert(CLOSED, "a", happen_time=START))
        dispatcher.tell(opened("b"))
        told = ["a fails", "a answers again", "b fails"]
        assert pager.wait_for(3) == told
        ops.wait_for_asked(1)
        until(lambda: run(database, "SELECT 1 FROM dari.alert_deliveries WHERE attempts = 1 AND target = 'ops'") != [])
        clock.pass_(retry_delay(1))
        ops.wait_for_asked(2)
        ops.is_down = False
        until(lambda: _passed(clock, retry_delay(5)) and len(ops.titles) == 3)
        until(lambda: is_settled(database))
    assert (ops.titles, pager.titles) == (told, told)


def _passed(clock: Clock, duration: timedelta) -> bool:
    clock.pass_(duration)
    return True


def test_a_target_that_fails_is_asked_less_and_less_often() -> None:
    delays = [retry_delay(attempt).total_seconds() for attempt in range(1, 2_000)]
    assert delays[:4] == [5, 10, 20, 40]
    assert delays == sorted(delays)
    assert max(delays) == 600


def test_a_slow_target_delays_no_other(database: PostgresDsns, clock: Clock) -> None:
    slow, quick = Room("slow"), Room("quick")
    slow.may_answer.clear()
    with dispatching(database.service_dsn, clock, slow, quick) as dispatcher:
        for subject in "abcd":
            dispatcher.tell(opened(subject))
        slow.wait_for_asked(1)
        assert quick.wait_for(4) == [f"{subject} fails" for subject in "abcd"]
        assert slow.titles == []
        slow.may_answer.set()
        assert slow.wait_for(4) == quick.titles


def test_what_repeats_is_told_behind_the_quiet_period_with_its_number(database: PostgresDsns, clock: Clock) -> None:
    room = Room()
    with dispatching(database.service_dsn, clock, room) as dispatcher:
        for number in range(4):
            dispatcher.tell(replace(upload_failed("t", "kb", f"u{number}"), happen_time=clock()))
            # Each by itself: those that wait in memory together are counted as one.
            until(partial(_has, database, "SELECT held_back FROM dari.alert_matters", number))
        room.wait_for(1)
        assert len(run(database, "SELECT 1 FROM dari.alerts")) == 2, "one that was told, one that is held"
        clock.pass_(QUIET)
        room.wait_for(2)
    assert run(database, "SELECT item, held_back FROM dari.alerts ORDER BY number") == [
        ("uploads/u0", 0),
        ("uploads/u3", 2),
    ]


def test_a_flapping_circuit_is_told_twice_and_its_last_state_behind_the_period(
    database: PostgresDsns, clock: Clock
) -> None:
    room = Room()
    with dispatching(database.service_dsn, clock, room) as dispatcher:
        for _ in range(10):
            for kind in (OPENED, CLOSED):
                clock.pass_(timedelta(seconds=1))
                dispatcher.tell(Alert(kind, "a", happen_time=clock()))
        dispatcher.tell(opened("a", clock()))
        assert room.wait_for(2) == ["a fails", "a answers again"]
        until(lambda: run(database, "SELECT is_held FROM dari.alert_matters") == [(True,)])
        clock.pass_(QUIET)
        assert room.wait_for(3)[2:] == ["a fails"]
    assert run(database, "SELECT held_back FROM dari.alerts ORDER BY number DESC LIMIT 1") == [(9,)]


def test_alerts_of_a_server_that_ended_are_sent_by_the_next(database: PostgresDsns, clock: Clock) -> None:
    """Those that nobody had decided about, and those that were on their way, when their lease is over."""
    with connected(database.service_dsn) as outbox:
        outbox.add(opened("a"))
        outbox.decide(["ops"], QUIET, START)
        (lost,) = outbox.claim(["ops"], START, LEASE)
        outbox.add(opened("b"))
    room = Room()
    with dispatching(database.service_dsn, clock, room):
        until(lambda: run(database, "SELECT count(*) FROM dari.alerts WHERE state = 'NEW'") == [(0,)])
        assert room.titles == [], "the lease of the one before goes on"
        clock.pass_(LEASE)
        assert room.wait_for(2) == ["a fails", "b fails"]
        until(lambda: is_settled(database))
    with connected(database.service_dsn) as outbox:
        outbox.settle(lost, delivered_time=None, retry_time=START)
        assert outbox.claim(["ops"], clock(), LEASE) == [], "a late failure sends nothing again"


def test_what_waits_when_a_server_stops_is_stored(database: PostgresDsns, clock: Clock) -> None:
    with connected(database.service_dsn) as outbox:
        dispatcher = AlertDispatcher(outbox, [], RecordedEvents(), quiet=QUIET, interval_s=SOON_S, clock=clock)
        dispatcher.start()
        dispatcher.tell(opened("a"))
        dispatcher.close()
        assert [stored.alert.subject for stored in outbox.latest(10)] == ["a"]


def test_while_the_database_is_gone_that_is_told_and_the_rest_waits(database: PostgresDsns, clock: Clock) -> None:
    """Told from memory, once; and what waited is told when it is back."""
    room, log = Room(), RecordedEvents()
    with PostgresProxy(database.service_dsn) as proxy, dispatching(proxy.dsn, clock, room, log=log) as dispatcher:
        dispatcher.tell(opened("a"))
        room.wait_for(1)
        until(lambda: is_settled(database))
        proxy.vanish()
        dispatcher.tell(opened("b"))
        until(lambda: _passed(clock, timedelta(seconds=1)) and len(room.titles) == 2)
        assert room.titles[1] == "the database does not answer"
        assert run(database, "SELECT count(*) FROM dari.alerts") == [(1,)]
        proxy.come_back()
        assert set(room.wait_for(4)[2:]) == {"the database answers again", "b fails"}
    assert log.names().count("alert_told_directly") == 2


def test_a_message_that_arrived_while_the_database_went_does_not_arrive_again(
    database: PostgresDsns, clock: Clock
) -> None:
    room = Room()
    room.may_answer.clear()
    with PostgresProxy(database.service_dsn) as proxy, dispatching(proxy.dsn, clock, room) as dispatcher:
        dispatcher.tell(opened("a"))
        room.wait_for_asked(1)
        proxy.vanish()
        room.may_answer.set()
        room.wait_for(1)
        clock.pass_(2 * LEASE)
        proxy.come_back()
        until(lambda: is_settled(database))
    assert room.titles.count("a fails") == 1


def test_old_alerts_go_and_so_do_those_beyond_the_number(outbox: PostgresOutbox, database: PostgresDsns) -> None:
    for number in range(6):
        outbox.add(opened(str(number)))
    outbox.decide(["ops"], QUIET, START)
    run(database, "UPDATE dari.alerts SET create_time = now() - interval '8 days' WHERE subject = '5'")
    assert outbox.sweep(datetime.now(UTC) - timedelta(days=7), 4) == 3
    assert [stored.alert.subject for stored in outbox.latest(10)] == ["4", "3", "2"]
    assert run(database, "SELECT count(*) FROM dari.alert_deliveries") == [(3,)]
    assert run(database, "SELECT count(*) FROM dari.alert_matters") == [(0,)], "last heard of in January"


def test_a_kind_that_only_a_newer_server_knows_is_left_to_it(outbox: PostgresOutbox, database: PostgresDsns) -> None:
    """Two versions over one database, as while servers are replaced."""
    outbox.add(opened("a"))
    run(
        database,
        "INSERT INTO dari.alerts (id, kind, subject) VALUES (gen_random_uuid(), 'OF_TOMORROW', 'a');"
        "UPDATE dari.alerts SET number = DEFAULT WHERE kind <> 'OF_TOMORROW'",
    )
    outbox.decide(["ops"], QUIET, START)
    (delivery,) = outbox.claim(["ops"], START, LEASE)
    assert delivery.alert.subject == "a"
    assert len(outbox.latest(10)) == 1
    assert run(database, "SELECT state FROM dari.alerts WHERE kind = 'OF_TOMORROW'") == [("NEW",)]


def test_a_database_that_is_gone_is_unavailable(postgres_server: PostgresDsns) -> None:
    with connected("host=127.0.0.1 port=1 dbname=none") as outbox, pytest.raises(Unavailable):
        outbox.add(opened("a"))


@pytest.mark.parametrize("role", [Role.READER, Role.INGEST])
@pytest.mark.parametrize("table", ["alerts", "alert_matters", "alert_deliveries"])
def test_whoever_reads_or_stores_rows_sees_no_alert(database: PostgresDsns, role: Role, table: str) -> None:
    with closing(psycopg2.connect(database.service_dsn)) as session, session.cursor() as cur:
        cur.execute(f"SET ROLE {role.value}")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cur.execute(f"SELECT * FROM dari.{table}")
