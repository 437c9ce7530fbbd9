"""Turns while the database is gone: begun, answered, kept, written when it is back."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from dari.adapters.circuit import CircuitRules, WindowedCircuit
from dari.core.conversations import (
    Answer,
    Answerer,
    AttemptRecord,
    BegunTurn,
    Conversation,
    DegradedReason,
    Turn,
    TurnRequest,
    TurnState,
)
from dari.core.errors import NotFound, TurnInProgress, Unavailable
from dari.core.unsaved_turns import UNKNOWN_NUMBER, UnsavedTurns
from tests.support.event_log import RecordedEvents

NOW = datetime.now(UTC)
ANSWER = Answer("LGA", Answerer.LOCAL, "local", (), (), (DegradedReason.STAND_IN,), frozenset())
GONE = Unavailable.of("database")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Store:
    """A ConversationStore and a TurnArchive over a database that may be gone."""

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.asked = 0
        self.completed: list[tuple[Turn, Answer]] = []
        self.added: list[tuple[TurnRequest, Turn, Answer]] = []
        self.abandoned: list[Turn] = []

    def begin_turn(self, tenant: str, request: TurnRequest, timeout_s: float, history_turns: int) -> BegunTurn | Turn:
        self._ask()
        turn = Turn(request.conversation or uuid4(), 7, request.question, TurnState.RUNNING, (), None, NOW, None)
        return BegunTurn(turn, NOW, request_id=request.request_id)

    def complete_turn(self, tenant: str, begun: BegunTurn, answer: Answer) -> Turn:
        self._ask()
        self.completed.append((begun.turn, answer))
        return replace(begun.turn, state=TurnState.COMPLETED, answer=answer)

    def abandon_turn(self, tenant: str, begun: BegunTurn, attempts: Sequence[AttemptRecord]) -> None:
        self._ask()
        self.abandoned.append(begun.turn)

    def add_turn(self, tenant: str, request: TurnRequest, turn: Turn, answer: Answer) -> None:
        self._ask()
        self.added.append((request, turn, answer))

    def get(self, tenant: str, id: UUID) -> Conversation:
        raise NotImplementedError

    def list_conversations(self, *arguments: object) -> list[Conversation]:
        raise NotImplementedError

    def list_turns(self, *arguments: object) -> list[Turn]:
        raise NotImplementedError

    def delete(self, tenant: str, id: UUID) -> None:
        raise NotImplementedError

    def _ask(self) -> None:
        self.asked += 1
        if self.fails is not None:
            raise self.fails


class Outage:
    def __init__(self, max_unsaved: int = 10) -> None:
        self.store = Store()
        self.clock = Clock()
        self.log = RecordedEvents()
        circuit = WindowedCircuit(CircuitRules(consecutive_failures=1, open_s=1.0, ramp_s=0.0), self.clock)
        self.turns = UnsavedTurns(self.store, self.store, circuit, self.log, max_unsaved=max_unsaved)

    def begin(
        self, question: str = "why?", conversation: UUID | None = None, request_id: UUID | None = None
    ) -> BegunTurn:
        begun = self.turns.begin_turn("t", TurnRequest("bot", conversation, question, request_id), 60.0, 6)
        assert isinstance(begun, BegunTurn)
        return begun

    def go(self) -> None:
        self.store.fails = GONE

    def come_back(self) -> None:
        self.store.fails = None
        self.clock.now_s += 10.0


@pytest.fixture
def outage() -> Outage:
    return Outage()


def test_with_the_database_there_nothing_is_kept(outage: Outage) -> None:
    """Begun there, completed there, told as the store tells it."""
    begun = outage.begin()
    assert begun.turn.number == 7
    turn = outage.turns.complete_turn("t", begun, ANSWER)
    assert turn.answer == ANSWER
    outage.turns.write()
    assert (len(outage.store.completed), outage.store.added) == (1, [])


def test_a_turn_without_a_database_is_answered_and_written_later(outage: Outage) -> None:
    """The caller is told that it is not stored; what is stored does not say so any more."""
    outage.go()
    begun = outage.begin("where is LGA?")
    assert (begun.turn.number, begun.turn.state, list(begun.earlier)) == (1, TurnState.RUNNING, [])
    turn = outage.turns.complete_turn("t", begun, ANSWER)
    assert turn.answer is not None
    assert turn.answer.degraded_reasons == (DegradedReason.STAND_IN, DegradedReason.NOT_STORED)
    with pytest.raises(Unavailable):
        outage.turns.write()
    outage.come_back()
    outage.turns.write()
    ((request, written, answer),) = outage.store.added
    assert (request.question, written.conversation, answer) == ("where is LGA?", begun.turn.conversation, ANSWER)
    outage.turns.write()
    assert len(outage.store.added) == 1


def test_a_conversation_goes_on_without_its_history(outage: Outage) -> None:
    """Its other turns cannot be counted: the turn gets its number when it is stored."""
    outage.go()
    conversation = uuid4()
    begun = outage.begin(conversation=conversation)
    assert (begun.turn.conversation, begun.turn.number) == (conversation, UNKNOWN_NUMBER)


def test_an_answer_whose_database_went_meanwhile_is_written_later(outage: Outage) -> None:
    """Its question is there already: it is completed, and not added."""
    begun = outage.begin()
    outage.go()
    turn = outage.turns.complete_turn("t", begun, ANSWER)
    assert turn.answer is not None
    assert DegradedReason.NOT_STORED in turn.answer.degraded_reasons
    outage.come_back()
    outage.turns.write()
    assert outage.store.completed == [(begun.turn, ANSWER)]
    assert outage.store.added == []


def test_turns_are_written_in_the_order_in_which_they_were_answered(outage: Outage) -> None:
    """A conversation reads as it was."""
    outage.go()
    for question in ("one", "two", "three"):
        outage.turns.complete_turn("t", outage.begin(question), ANSWER)
    outage.come_back()
    outage.turns.write()
    assert [request.question for request, _, _ in outage.store.added] == ["one", "two", "three"]


def test_a_retry_gets_the_answer_that_is_kept(outage: Outage) -> None:
    """No model is asked twice for one request_id; another tenant's is another's."""
    outage.go()
    request_id = uuid4()
    turn = outage.turns.complete_turn("t", outage.begin(request_id=request_id), ANSWER)
    request = TurnRequest("bot", None, "why?", request_id)
    assert outage.turns.begin_turn("t", request, 60.0, 6) == turn
    assert isinstance(outage.turns.begin_turn("other", request, 60.0, 6), BegunTurn)


def test_a_retry_gets_the_answer_that_is_kept_of_a_stored_question(outage: Outage) -> None:
    """The database went between question and answer: it would let the turn begin again."""
    request_id = uuid4()
    begun = outage.begin(request_id=request_id)
    outage.go()
    turn = outage.turns.complete_turn("t", begun, ANSWER)
    outage.come_back()
    assert outage.turns.begin_turn("t", TurnRequest("bot", None, "why?", request_id), 60.0, 6) == turn


@pytest.mark.parametrize("is_gone_at_first", [False, True])
def test_a_retry_gets_the_stored_answer_also_while_the_database_is_gone(outage: Outage, is_gone_at_first: bool) -> None:
    """Stored at once, or kept and written since: no model is asked twice; another question is another turn."""
    request_id = uuid4()
    if is_gone_at_first:
        outage.go()
    turn = outage.turns.complete_turn("t", outage.begin(request_id=request_id), ANSWER)
    outage.come_back()
    outage.turns.write()
    outage.go()
    assert outage.turns.begin_turn("t", TurnRequest("bot", None, "why?", request_id), 60.0, 6) == turn
    assert isinstance(outage.turns.begin_turn("t", TurnRequest("bot", None, "else?", request_id), 60.0, 6), BegunTurn)


def test_a_conversation_that_is_not_written_yet_goes_on_in_memory(outage: Outage) -> None:
    """The database is back and would not know it; the turns before are known, and are written before."""
    outage.go()
    first = outage.turns.complete_turn("t", outage.begin("one"), ANSWER)
    outage.come_back()
    asked = outage.store.asked
    begun = outage.begin("two", conversation=first.conversation)
    assert (outage.store.asked, list(begun.earlier)) == (asked, [first])
    outage.turns.complete_turn("t", begun, ANSWER)
    outage.turns.write()
    assert [request.question for request, _, _ in outage.store.added] == ["one", "two"]
    assert outage.begin("three", conversation=first.conversation).turn.number == 7


@pytest.mark.parametrize("error", [NotFound.of("conversations/x"), TurnInProgress("begun again")])
def test_what_nobody_waits_for_any_more_is_dropped_and_told(outage: Outage, error: Exception) -> None:
    """A conversation that was deleted meanwhile does not keep the others from being written."""
    outage.go()
    outage.turns.complete_turn("t", outage.begin("gone"), ANSWER)
    outage.come_back()
    outage.store.fails = error
    outage.turns.write()
    assert [fields["reason"] for fields in outage.log.fields("turn_not_stored")] == [getattr(error, "reason", "")]
    outage.store.fails = None
    outage.turns.write()
    assert outage.store.added == []


def test_beyond_the_limit_turns_are_refused() -> None:
    """Memory is bounded; what is kept stays."""
    outage = Outage(max_unsaved=2)
    outage.go()
    for _ in range(2):
        outage.turns.complete_turn("t", outage.begin(), ANSWER)
    with pytest.raises(Unavailable):
        outage.begin()
    outage.come_back()
    outage.turns.write()
    assert len(outage.store.added) == 2
    outage.begin()


def test_a_turn_that_began_in_memory_is_abandoned_in_memory(outage: Outage) -> None:
    """The database never hears of it."""
    outage.go()
    begun = outage.begin()
    outage.come_back()
    asked = outage.store.asked
    outage.turns.abandon_turn("t", begun, ())
    outage.turns.write()
    assert (outage.store.asked, outage.store.added) == (asked, [])


def test_the_thread_writes_by_itself_and_the_end_tells_what_is_lost() -> None:
    """Whoever stops the server while the database is gone is told how many turns go with it."""
    outage = Outage()
    outage.go()
    outage.turns.complete_turn("t", outage.begin(), ANSWER)
    outage.turns.start()
    outage.turns.close()
    assert outage.log.fields("turns_lost") == [{"turns": 1}]
