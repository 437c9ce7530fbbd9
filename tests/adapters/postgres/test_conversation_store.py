"""Conversations on real PostgreSQL: each turn is answered once, whoever comes at once or too late."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import psycopg2
import pytest

from dari.adapters.postgres.conversation_store import PostgresConversationStore
from dari.adapters.postgres.database import Database
from dari.adapters.postgres.mapping_store import ChatConfigurationStore
from dari.core.conversations import (
    Answer,
    Answerer,
    AttemptOutcome,
    AttemptRecord,
    BegunTurn,
    Citation,
    DegradedReason,
    Turn,
    TurnRequest,
    TurnState,
)
from dari.core.errors import InvalidArgument, NotFound, TurnInProgress
from dari.core.mapping import ChatConfiguration
from tests.fix_postgres import PostgresDsns

TENANT = "default"
TIMEOUT_S = 60.0
ATTEMPTS = (
    AttemptRecord("flow", Answerer.FLOWISE, AttemptOutcome.FAILED, "stream_cut", 1.25, 0.5),
    AttemptRecord("local", Answerer.LOCAL, AttemptOutcome.ANSWERED, "", 0.125, None),
)
ANSWER = Answer(
    text="서울 \\ 'quoted' %s \U0001f600",
    answered_by=Answerer.LOCAL,
    ai_model="local",
    attempts=ATTEMPTS,
    citations=(
        Citation(
            1,
            "airports",
            3,
            42,
            ("faa", "이름"),
            ("ICN", "a\n'b'\\"),
            datetime(2026, 3, 5, 9, 30, 1, 250, tzinfo=UTC),
            (1,),
        ),
    ),
    degraded_reasons=(DegradedReason.STAND_IN, DegradedReason.NO_DATA),
    knowledge_bases=frozenset({"airports", "sales"}),
)


@pytest.fixture
def pool(database: PostgresDsns) -> Iterator[Database]:
    pool = Database(database.service_dsn, max_connections=20, wait_timeout_s=30, statement_timeout_s=30)
    configurations = ChatConfigurationStore(pool)
    for tenant in (TENANT, "other"):
        configurations.create(tenant, ChatConfiguration("bot", "bot"), None)
    configurations.create(TENANT, ChatConfiguration("second", "second"), None)
    yield pool
    pool.close()


@pytest.fixture
def store(pool: Database) -> PostgresConversationStore:
    return PostgresConversationStore(pool)


def begin(
    store: PostgresConversationStore,
    question: str = "why?",
    *,
    conversation: UUID | None = None,
    request_id: UUID | None = None,
    configuration: str = "bot",
) -> BegunTurn:
    begun = store.begin_turn(TENANT, TurnRequest(configuration, conversation, question, request_id), TIMEOUT_S, 6)
    assert isinstance(begun, BegunTurn)
    return begun


def let_time_pass(database: PostgresDsns) -> None:
    """Make every turn's time be over."""
    with closing(psycopg2.connect(database.admin_dsn)) as session, session, session.cursor() as cur:
        cur.execute("UPDATE dari.turns SET deadline_time = deadline_time - interval '1 hour'")


def only_turn(store: PostgresConversationStore, begun: BegunTurn) -> Turn:
    (turn,) = store.list_turns(TENANT, begun.turn.conversation, -1, 10)
    return turn


def test_a_turn_comes_back_as_it_was_completed(store: PostgresConversationStore) -> None:
    """Every field, in every script."""
    begun = begin(store, "왜? '%s'")
    assert (begun.turn.state, begun.turn.number, begun.earlier) == (TurnState.RUNNING, 1, ())
    done = store.complete_turn(TENANT, begun, ANSWER)
    assert done == replace(
        begun.turn,
        state=TurnState.COMPLETED,
        attempts=ATTEMPTS,
        answer=ANSWER,
        complete_time=done.complete_time,
    )
    assert done.complete_time is not None
    assert only_turn(store, begun) == done


def test_a_turn_knows_the_completed_ones_before_it(store: PostgresConversationStore) -> None:
    """The latest so many, oldest first; of this conversation only."""
    first = begin(store)
    conversation = first.turn.conversation
    store.complete_turn(TENANT, first, ANSWER)
    store.abandon_turn(TENANT, begin(store, "left", conversation=conversation), ATTEMPTS)
    begin(store, "still running", conversation=conversation)
    store.complete_turn(TENANT, begin(store, "elsewhere"), ANSWER)
    for number in range(4, 7):
        store.complete_turn(TENANT, begin(store, f"Q{number}", conversation=conversation), ANSWER)
    request = TurnRequest("bot", conversation, "now", None)
    begun = store.begin_turn(TENANT, request, TIMEOUT_S, 3)
    assert isinstance(begun, BegunTurn)
    assert [turn.number for turn in begun.earlier] == [4, 5, 6]
    assert [turn.number for turn in begin(store, conversation=conversation).earlier] == [1, 4, 5, 6]
    assert store.get(TENANT, conversation).turn_count == 8


def test_of_those_who_begin_one_request_at_once_one_begins_it(store: PostgresConversationStore) -> None:
    """The others are told to wait, and leave no conversation behind."""
    request_id = uuid4()

    def attempt(_: int) -> BegunTurn | None:
        try:
            return begin(store, request_id=request_id)
        except TurnInProgress:
            return None

    with ThreadPoolExecutor(8) as threads:
        begun = [result for result in threads.map(attempt, range(16)) if result]
    assert len(begun) == 1
    assert [each.turn_count for each in store.list_conversations(TENANT, "", None, 10)] == [1]
    done = store.complete_turn(TENANT, begun[0], ANSWER)
    assert store.begin_turn(TENANT, TurnRequest("bot", None, "why?", request_id), TIMEOUT_S, 6) == done


def test_a_request_id_stands_for_one_question(store: PostgresConversationStore) -> None:
    """Not for another text, conversation or chatbot; for another tenant it is another request."""
    request_id = uuid4()
    begun = begin(store, request_id=request_id)
    store.complete_turn(TENANT, begun, ANSWER)
    other = begin(store).turn.conversation
    for configuration, conversation, question in (
        ("bot", None, "other?"),
        ("bot", other, "why?"),
        ("second", None, "why?"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            store.begin_turn(TENANT, TurnRequest(configuration, conversation, question, request_id), TIMEOUT_S, 6)
        assert [violation.field for violation in caught.value.violations] == ["request_id"]
    same = TurnRequest("bot", begun.turn.conversation, "why?", request_id)
    assert isinstance(store.begin_turn(TENANT, same, TIMEOUT_S, 6), Turn)
    assert isinstance(store.begin_turn("other", TurnRequest("bot", None, "why?", request_id), TIMEOUT_S, 6), BegunTurn)


def test_an_incomplete_turn_is_begun_again(store: PostgresConversationStore) -> None:
    """As the same turn, without the attempts of the first try."""
    request_id = uuid4()
    first = begin(store, request_id=request_id)
    store.abandon_turn(TENANT, first, ATTEMPTS)
    abandoned = only_turn(store, first)
    assert (abandoned.state, abandoned.attempts, abandoned.answer) == (TurnState.INCOMPLETE, ATTEMPTS, None)
    again = begin(store, request_id=request_id)
    assert (again.turn.name, again.turn.state, again.turn.attempts) == (first.turn.name, TurnState.RUNNING, ())
    assert store.get(TENANT, first.turn.conversation).turn_count == 1


def test_a_turn_whose_server_died_is_over_when_its_time_is(
    store: PostgresConversationStore, database: PostgresDsns
) -> None:
    """It reads as INCOMPLETE, and its request may be begun again."""
    request_id = uuid4()
    begun = begin(store, request_id=request_id)
    assert only_turn(store, begun).state is TurnState.RUNNING
    with pytest.raises(TurnInProgress):
        begin(store, request_id=request_id)
    let_time_pass(database)
    assert only_turn(store, begun).state is TurnState.INCOMPLETE
    assert begin(store, request_id=request_id).turn.name == begun.turn.name


def test_who_lost_a_turn_can_neither_complete_nor_abandon_it(
    store: PostgresConversationStore, database: PostgresDsns
) -> None:
    """A server that comes back too late finds the turn in other hands, and leaves it alone."""
    request_id = uuid4()
    late = begin(store, request_id=request_id)
    let_time_pass(database)
    late = replace(late, over_time=late.over_time - timedelta(hours=1))
    rival = begin(store, request_id=request_id)
    store.abandon_turn(TENANT, late, ATTEMPTS)
    assert only_turn(store, rival).state is TurnState.RUNNING
    with pytest.raises(TurnInProgress):
        store.complete_turn(TENANT, late, replace(ANSWER, text="too late"))
    done = store.complete_turn(TENANT, rival, ANSWER)
    store.abandon_turn(TENANT, late, ATTEMPTS)
    with pytest.raises(TurnInProgress):
        store.complete_turn(TENANT, late, replace(ANSWER, text="too late"))
    assert only_turn(store, rival) == done


def test_a_turn_may_end_a_little_late_where_nobody_else_began_it(
    store: PostgresConversationStore, database: PostgresDsns
) -> None:
    """Its caller may be gone; its answer is still the answer."""
    begun = begin(store)
    let_time_pass(database)
    assert (
        store.complete_turn(TENANT, replace(begun, over_time=begun.over_time - timedelta(hours=1)), ANSWER).state
        is TurnState.COMPLETED
    )


def test_a_conversation_that_is_gone_takes_its_turns_along(store: PostgresConversationStore) -> None:
    """And whoever answers one of them learns it."""
    begun = begin(store)
    store.delete(TENANT, begun.turn.conversation)
    with pytest.raises(NotFound):
        store.complete_turn(TENANT, begun, ANSWER)
    store.abandon_turn(TENANT, begun, ())
    for call in (store.get, store.delete):
        with pytest.raises(NotFound):
            call(TENANT, begun.turn.conversation)
    with pytest.raises(NotFound):
        store.list_turns(TENANT, begun.turn.conversation, -1, 10)
    with pytest.raises(NotFound):
        begin(store, conversation=begun.turn.conversation)


def test_another_tenant_sees_nothing(store: PostgresConversationStore) -> None:
    """The same answer as for what is not there."""
    conversation = begin(store).turn.conversation
    assert store.list_conversations("other", "", None, 10) == []
    for call in (store.get, store.delete):
        with pytest.raises(NotFound):
            call("other", conversation)
    with pytest.raises(NotFound):
        store.begin_turn("other", TurnRequest("bot", conversation, "why?", None), TIMEOUT_S, 6)
    assert store.get(TENANT, conversation).turn_count == 1


def test_turns_that_begin_at_once_get_numbers_of_their_own(store: PostgresConversationStore) -> None:
    """1, 2, 3 … without a gap, whoever wins."""
    conversation = begin(store).turn.conversation
    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(lambda _: begin(store, conversation=conversation).turn.number, range(16)))
    assert sorted(numbers) == list(range(2, 18))


def test_conversations_are_listed_newest_first(store: PostgresConversationStore, database: PostgresDsns) -> None:
    """Those of one moment by id, and none twice over the pages."""
    made = [begin(store, configuration=name).turn.conversation for name in ("bot", "second", "bot", "bot")]
    with closing(psycopg2.connect(database.admin_dsn)) as session, session, session.cursor() as cur:
        cur.execute("UPDATE dari.conversations SET create_time = '2026-01-01Z' WHERE id <> %s", (str(made[0]),))
    expected = [made[0], *sorted(made[1:])]
    found: list[UUID] = []
    before: tuple[datetime, UUID] | None = None
    while page := store.list_conversations(TENANT, "", before, 1):
        found += [each.id for each in page]
        before = (page[-1].create_time.astimezone(timezone(timedelta(hours=9))), page[-1].id)
    assert found == expected
    assert [each.id for each in store.list_conversations(TENANT, "second", None, 10)] == [made[1]]
    assert store.list_conversations(TENANT, "", (datetime(2026, 1, 1, tzinfo=UTC), max(made)), 10) == []


def answered_elsewhere(conversation: UUID | None = None, number: int = 1) -> Turn:
    """A turn that was begun and answered without the database."""
    then = datetime.now(UTC) - timedelta(minutes=5)
    return Turn(conversation or uuid4(), number, "why?", TurnState.COMPLETED, ATTEMPTS, ANSWER, then, then)


def test_a_turn_that_was_answered_without_the_database_comes_in(store: PostgresConversationStore) -> None:
    """Its conversation is made, under the name that the caller was told; it keeps the time of its question."""
    turn = answered_elsewhere()
    store.add_turn(TENANT, TurnRequest("bot", None, "why?", None), turn, ANSWER)
    (stored,) = store.list_turns(TENANT, turn.conversation, -1, 10)
    assert (stored.number, stored.state, stored.answer, stored.attempts) == (1, TurnState.COMPLETED, ANSWER, ATTEMPTS)
    assert stored.create_time == turn.create_time
    assert store.get(TENANT, turn.conversation).chat_configuration == "bot"


def test_it_comes_behind_the_turns_that_its_conversation_has(store: PostgresConversationStore) -> None:
    """Whatever number it had while they could not be counted."""
    begun = begin(store)
    conversation = begun.turn.conversation
    store.complete_turn(TENANT, begun, ANSWER)
    request = TurnRequest("bot", conversation, "and then?", None)
    store.add_turn(TENANT, request, answered_elsewhere(conversation, 0), ANSWER)
    assert [turn.number for turn in store.list_turns(TENANT, conversation, -1, 10)] == [1, 2]


def test_it_comes_in_once(store: PostgresConversationStore) -> None:
    """The same again, after a crash between two of its steps or a retry of the caller, changes nothing."""
    request = TurnRequest("bot", None, "why?", uuid4())
    turn = answered_elsewhere()
    store.add_turn(TENANT, request, turn, ANSWER)
    store.add_turn(TENANT, request, answered_elsewhere(), replace(ANSWER, text="another"))
    (stored,) = store.list_turns(TENANT, turn.conversation, -1, 10)
    assert stored.answer == ANSWER
    assert len(store.list_conversations(TENANT, "", None, 10)) == 1


def test_a_turn_answered_elsewhere_is_stored_under_the_name_that_was_told(store: PostgresConversationStore) -> None:
    """Its question was stored too, and the word of that was lost: that one gets no answer."""
    request = TurnRequest("bot", None, "why?", uuid4())
    lost = store.begin_turn(TENANT, request, 60.0, 6)
    assert isinstance(lost, BegunTurn)
    told = answered_elsewhere()
    store.add_turn(TENANT, request, told, ANSWER)
    (stored,) = store.list_turns(TENANT, told.conversation, 0, 10)
    assert (stored.state, stored.answer) == (TurnState.COMPLETED, ANSWER)
    assert [turn.state for turn in store.list_turns(TENANT, lost.turn.conversation, 0, 10)] == [TurnState.INCOMPLETE]
    assert store.begin_turn(TENANT, request, 60.0, 6) == stored


def test_a_conversation_that_was_deleted_meanwhile_stays_deleted(store: PostgresConversationStore) -> None:
    """The turn has nowhere to go."""
    begun = begin(store)
    conversation = begun.turn.conversation
    store.delete(TENANT, conversation)
    with pytest.raises(NotFound):
        store.add_turn(TENANT, TurnRequest("bot", conversation, "why?", None), answered_elsewhere(conversation), ANSWER)
