"""What readers are told, in their language."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from uuid import uuid4

import pytest

from dari.core.conversations import (
    Answer,
    Answerer,
    AttemptOutcome,
    AttemptRecord,
    Citation,
    DegradedReason,
    Turn,
    TurnState,
)
from dari.core.language import Language, language_of
from dari.core.notices import Notice, NoticeKind, UntoldNotices, notices_of

NOW = datetime(2026, 1, 5, 9, 30, 59, tzinfo=UTC)


def citation(version_time: datetime | None) -> Citation:
    return Citation(1, "k", 1, 1, ("c",), ("x",), version_time=version_time)


def turn(
    *reasons: DegradedReason,
    citations: Sequence[Citation] = (),
    question: str = "why?",
    state: TurnState = TurnState.COMPLETED,
    first_token_s: float | None = 0.1,
) -> Turn:
    attempts = (AttemptRecord("m", Answerer.LOCAL, AttemptOutcome.FAILED, "x", 1.0, first_token_s),)
    answer = Answer("text", Answerer.LOCAL, "m", attempts, tuple(citations), reasons, frozenset())
    complete = state is TurnState.COMPLETED
    return Turn(uuid4(), 1, question, state, attempts, answer if complete else None, NOW, NOW if complete else None)


QUESTIONS = [
    ("Where is LGA?", Language.ENGLISH),
    ("LGA 공항은?", Language.KOREAN),
    ("ㅋㅋ", Language.KOREAN),
    ("\u1112\u1161\u11ab", Language.KOREAN),
    ("空港はどこ?", Language.ENGLISH),
    ("123", Language.ENGLISH),
]


@pytest.mark.parametrize(("question", "language"), QUESTIONS)
def test_any_hangul_makes_a_question_korean(question: str, language: Language) -> None:
    assert language_of(question) is language
    asked_so = turn(DegradedReason.STAND_IN, question=question)
    assert notices_of(asked_so) == notices_of(asked_so, language)


@pytest.mark.parametrize(("reason", "language"), list(product(DegradedReason, Language)))
def test_each_reason_is_told_in_each_language(reason: DegradedReason, language: Language) -> None:
    (notice,) = notices_of(turn(reason), language)
    assert notice.kind.value == reason.value
    assert language_of(notice.text) is language
    assert notice.text.endswith(".")


def test_a_whole_answer_has_no_notice_and_a_running_turn_neither() -> None:
    assert notices_of(turn()) == ()
    assert notices_of(turn(state=TurnState.RUNNING)) == ()


def test_a_turn_without_an_answer_is_told_as_cut_where_it_had_text() -> None:
    (notice,) = notices_of(turn(state=TurnState.INCOMPLETE))
    assert notice.kind is NoticeKind.INCOMPLETE
    assert notices_of(turn(state=TurnState.INCOMPLETE, first_token_s=None)) == ()


def test_data_is_as_of_the_oldest_version_that_is_cited() -> None:
    older = NOW.astimezone(timezone(timedelta(hours=9)))
    cited = [citation(NOW + timedelta(days=1)), citation(older), citation(None)]
    (english,) = notices_of(turn(citations=cited), Language.ENGLISH)
    assert english == Notice(NoticeKind.DATA_AS_OF, "The data is as of 2026-01-05 09:30 UTC.")
    (korean,) = notices_of(turn(citations=cited), Language.KOREAN)
    assert korean == Notice(NoticeKind.DATA_AS_OF, "데이터는 2026년 1월 5일 09:30(UTC) 기준입니다.")
    assert notices_of(turn(citations=[citation(None)])) == ()


def test_each_kind_is_told_once() -> None:
    first = notices_of(turn(DegradedReason.STAND_IN, DegradedReason.NO_DATA))
    more = notices_of(turn(DegradedReason.NO_DATA, DegradedReason.NOT_STORED))
    untold = UntoldNotices()
    assert tuple(untold.among(first)) == first
    assert [notice.kind for notice in untold.among(more)] == [NoticeKind.NOT_STORED]
    assert list(untold.among((*first, *more))) == []
