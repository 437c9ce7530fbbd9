"""The judge finds each thing that is wrong, and nothing where nothing is."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

import pytest

from dari.v1 import chat_pb2 as pb
from dari.v1 import ingest_pb2
from tests.storm import stored
from tests.storm.callers import STOP, TurnPlan, TurnSeen
from tests.storm.flowise_process import Sent
from tests.storm.judge import Chain, Truth, Verdict, judge
from tests.storm.weather import Timeline

NUMBER = 7
QUESTION = f"What does item-1 cost? #{NUMBER:06}"
WHOLE, CUT = "Item 7 costs 12 won, a.0, a.1.", "Item 7 costs 99 won, b.0"
NAME = "conversations/c/turns/1"
PLAN = TurnPlan(NUMBER, "whole", QUESTION, uuid4(), False, pb.ON_INTERRUPTION_RESTART, 10.0, None, False, False)
FAILED = pb.Attempt(
    ai_model="aiModels/first", answerer=pb.ANSWERER_FLOWISE, outcome=pb.ATTEMPT_OUTCOME_FAILED, code="stream_cut"
)
ANSWERED = pb.Attempt(ai_model="aiModels/second", answerer=pb.ANSWERER_FLOWISE, outcome=pb.ATTEMPT_OUTCOME_ANSWERED)


def truth(*down: str) -> Truth:
    """Both models were asked; those that are down have a fault that lasts."""
    timeline = Timeline()
    for neighbour in down:
        timeline.begin(neighbour, "killed")
    return Truth(
        timeline,
        {"whole": Chain(("first", "second", "local"), has_data=True)},
        {"first": {NUMBER: [Sent(NUMBER, CUT, False)]}, "second": {NUMBER: [Sent(NUMBER, WHOLE, True)]}},
        {1: ("item-1", "12")},
    )


def turn(**fields: object) -> pb.Turn:
    """Answered by the second model."""
    values: dict[str, object] = {
        "name": NAME,
        "question": QUESTION,
        "answer": WHOLE,
        "state": pb.TURN_STATE_COMPLETED,
        "answered_by": pb.ANSWERER_FLOWISE,
        "ai_model": "aiModels/second",
        "attempts": [FAILED, ANSWERED],
        "degraded": True,
        "degraded_reasons": [pb.DEGRADED_REASON_STAND_IN],
    }
    return pb.Turn(**{**values, **fields})  # type: ignore[arg-type]


def token(text: str) -> pb.ChatResponse:
    return pb.ChatResponse(token=pb.Token(text=text))


STARTED = pb.ChatResponse(started=pb.TurnStarted(conversation="conversations/c", turn=NAME))
ENDED = pb.ChatResponse(attempt_ended=pb.AttemptEnded(attempt=FAILED))
SUPERSEDED = pb.ChatResponse(superseded=pb.Superseded(attempt=FAILED))


def completed(**fields: object) -> pb.ChatResponse:
    return pb.ChatResponse(completed=pb.TurnCompleted(turn=turn(**fields)))


def seen(*events: pb.ChatResponse, **fields: object) -> TurnSeen:
    """A stream that ended OK, unless `fields` say otherwise."""
    now_s = time.monotonic()
    last = events[-1].completed.turn if events and events[-1].HasField("completed") else None
    whole = TurnSeen(PLAN, now_s - 1.0, now_s + 1.0, events, last, "OK", "", is_left=False, is_retry=False)
    return replace(whole, **fields)  # type: ignore[arg-type]


GOOD = (STARTED, token(CUT), ENDED, SUPERSEDED, token(WHOLE), completed())


def test_a_whole_answer_after_a_cut_one_is_degraded_and_right() -> None:
    judged = judge(seen(*GOOD), truth("first"))
    assert (judged.verdict, judged.complaints, judged.is_owed) == (Verdict.DEGRADED, (), True)


@dataclass(frozen=True)
class Wrong:
    """What was seen, and part of the complaint that it must bring."""

    seen: TurnSeen
    complaint: str


def rows_turn(price: str) -> tuple[pb.ChatResponse, ...]:
    """A reply of rows that cites the first row with this price."""
    cells = [ingest_pb2.Cell(column="item", text="item-1"), ingest_pb2.Cell(column="price", text=price)]
    fields: dict[str, object] = {
        "answer": f"No AI model can answer.\n[1] prices: item: item-1, price: {price}",
        "answered_by": pb.ANSWERER_ROWS_ONLY,
        "ai_model": "",
        "attempts": [FAILED],
        "citations": [pb.Citation(number=1, row_number=1, cells=cells)],
    }
    return (STARTED, ENDED, token(str(fields["answer"])), completed(**fields))


def test_a_reply_of_the_rows_that_there_are_is_right() -> None:
    assert judge(seen(*rows_turn("12")), truth()).complaints == ()


WRONG = {
    "unanswered while the second lived": Wrong(seen(STARTED, status="UNAVAILABLE", reason="UNAVAILABLE"), "second liv"),
    "late while the rows lived": Wrong(seen(STARTED, status="DEADLINE_EXCEEDED"), "postgres lived"),
    "no reason": Wrong(seen(STARTED, status="UNAVAILABLE"), "reason missing"),
    "a status that nobody expects": Wrong(seen(STARTED, status="INTERNAL", reason="INTERNAL"), "ended as INTERNAL"),
    "no end": Wrong(seen(STARTED, token(WHOLE)), "without `completed`"),
    "a stop that nobody chose": Wrong(seen(STARTED, status="ABORTED", reason="ANSWER_INTERRUPTED"), "without cause"),
    "not begun": Wrong(seen(*GOOD[1:]), "begins with"),
    "two ends": Wrong(seen(*GOOD, completed()), "out of place"),
    "nothing to supersede": Wrong(seen(STARTED, ENDED, SUPERSEDED, token(WHOLE), completed()), "no text before"),
    "a choice that is not heeded": Wrong(
        seen(*GOOD, plan=replace(PLAN, on_interruption=STOP)), "against the caller's choice"
    ),
    "two answers": Wrong(seen(STARTED, token(CUT), ENDED, token(WHOLE), completed()), "not the answer"),
    "the same text twice": Wrong(
        seen(STARTED, ENDED, token(WHOLE + WHOLE), completed(answer=WHOLE + WHOLE)), "not a whole one"
    ),
    "a clean end of a cut answer": Wrong(
        seen(
            STARTED,
            token(CUT),
            completed(answer=CUT, ai_model="aiModels/first", attempts=[FAILED, ANSWERED]),
        ),
        "not a whole one of aiModels/first",
    ),
    "another who answered": Wrong(
        seen(STARTED, ENDED, token(WHOLE), completed(attempts=[FAILED])), "the attempts say otherwise"
    ),
    "an attempt that was not told": Wrong(seen(STARTED, token(WHOLE), completed()), "the attempts told"),
    "text that nobody sent": Wrong(
        seen(STARTED, token("Made up"), ENDED, SUPERSEDED, token(WHOLE), completed()), "never sent"
    ),
    "degraded without a reason": Wrong(seen(*GOOD[:-1], completed(degraded_reasons=[])), "degraded without a reason"),
    "a row that is not": Wrong(seen(*rows_turn("13")), "other cells than it has"),
    "past its deadline": Wrong(seen(*GOOD, plan=replace(PLAN, deadline_s=-5.0)), "behind its deadline"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_found(case: Wrong) -> None:
    judged = judge(case.seen, truth("first"))
    assert judged.verdict is Verdict.WRONG
    assert any(case.complaint in complaint for complaint in judged.complaints), judged.complaints


def test_nothing_is_owed_where_nobody_lived() -> None:
    refused = seen(STARTED, status="UNAVAILABLE", reason="UNAVAILABLE")
    judged = judge(refused, truth("first", "second", "postgres"))
    assert (judged.verdict, judged.is_owed) == (Verdict.REFUSED, False)


Doctor = Callable[[pb.Turn], Sequence[pb.Turn]]
STORED: dict[str, tuple[Doctor, str]] = {
    "missing": (lambda told: [], "not stored"),
    "unfinished": (lambda told: [turn(state=pb.TURN_STATE_INCOMPLETE)], "not stored"),
    "twice": (lambda told: [told, told], "stored 2 times"),
    "other text": (lambda told: [turn(answer="else")], "another answer"),
    "other attempts": (lambda told: [turn(attempts=[ANSWERED])], "other attempts"),
    "other name": (lambda told: [turn(name="conversations/c/turns/2")], "another name"),
}


@pytest.mark.parametrize(("doctor", "complaint"), STORED.values(), ids=STORED.keys())
def test_what_is_stored_otherwise_than_told_is_found(doctor: Doctor, complaint: str) -> None:
    sight = seen(*GOOD)
    assert list(stored.complaints([sight], {NUMBER: [turn()]})) == []
    found = [text for _, text in stored.complaints([sight], {NUMBER: doctor(turn())})]
    assert any(complaint in text for text in found), found


def test_an_answer_that_is_stored_though_its_caller_was_refused_is_found() -> None:
    refused = seen(STARTED, status="UNAVAILABLE", reason="UNAVAILABLE")
    assert [text for _, text in stored.complaints([refused], {NUMBER: [turn()]})] == [
        "stored as complete, though its caller was told otherwise"
    ]
    assert list(stored.complaints([replace(refused, is_left=True)], {NUMBER: [turn()]})) == []
