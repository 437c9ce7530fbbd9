"""What the reader of an answer should know about it, in their language.

An answer may come from a stand-in, without the data, or not be whole. Machines read that from the turn's fields; here
it is said in a sentence or two that an application can show as it is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from enum import Enum

from dari.core.conversations import AttemptRecord, Citation, DegradedReason, Turn, TurnState
from dari.core.language import Language, language_of


class NoticeKind(Enum):
    """What a notice tells."""

    STAND_IN = "STAND_IN"
    ROWS_ONLY = "ROWS_ONLY"
    NO_DATA = "NO_DATA"
    LAST_KNOWN_MAPPING = "LAST_KNOWN_MAPPING"
    NOT_STORED = "NOT_STORED"
    INCOMPLETE = "INCOMPLETE"
    DATA_AS_OF = "DATA_AS_OF"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the reader of an answer should know."""

    kind: NoticeKind
    text: str
    """One or two sentences. They hold while the answer comes as well as when it is read again."""


def notices_of(turn: Turn, language: Language | None = None) -> tuple[Notice, ...]:
    """All that is to be told of a turn; by default in the language of its question."""
    language = language or language_of(turn.question)
    if turn.answer is None:
        return cut_notices(turn.attempts, language) if turn.state is TurnState.INCOMPLETE else ()
    return (
        *degraded_notices(turn.answer.degraded_reasons, language),
        *_data_notices(turn.answer.citations, language),
    )


def degraded_notices(reasons: Iterable[DegradedReason], language: Language) -> tuple[Notice, ...]:
    """Why an answer is less than it could be."""
    return tuple(_notice(NoticeKind[reason.name], language) for reason in reasons)


def cut_notices(attempts: Sequence[AttemptRecord], language: Language) -> tuple[Notice, ...]:
    """For a turn that ended without an answer: that it is cut off, where any attempt had sent text."""
    if all(attempt.first_token_s is None for attempt in attempts):
        return ()
    return (_notice(NoticeKind.INCOMPLETE, language),)


def _data_notices(citations: Sequence[Citation], language: Language) -> tuple[Notice, ...]:
    """As of when the data is: of the cited version that is oldest. Of a turn that did not note it, nothing."""
    moments = [citation.version_time for citation in citations if citation.version_time is not None]
    if not moments:
        return ()
    return (Notice(NoticeKind.DATA_AS_OF, _DATA_AS_OF[language].format(min(moments).astimezone(UTC))),)


class UntoldNotices:
    """The notices of one turn as they become known, each once. For one thread."""

    def __init__(self) -> None:
        self._told: set[NoticeKind] = set()

    def among(self, notices: Iterable[Notice]) -> Iterator[Notice]:
        """Those of them that were not told before; from now on they are."""
        for notice in notices:
            if notice.kind not in self._told:
                self._told.add(notice.kind)
                yield notice


def _notice(kind: NoticeKind, language: Language) -> Notice:
    return Notice(kind, _TEXTS[kind][language])


_KO, _EN = Language.KOREAN, Language.ENGLISH

_TEXTS: dict[NoticeKind, dict[Language, str]] = {
    NoticeKind.STAND_IN: {
        _KO: "평소 답변하던 AI 모델 대신 다른 AI 모델의 답변을 보여 드립니다.",
        _EN: "This answer comes from a stand-in for the AI model that usually answers.",
    },
    NoticeKind.ROWS_ONLY: {
        _KO: "지금은 답변할 수 있는 AI 모델이 없어, 데이터에서 찾은 내용만 보여 드립니다.",
        _EN: "No AI model can answer at the moment, so this reply shows only what was found in the data.",
    },
    NoticeKind.NO_DATA: {
        _KO: "데이터를 조회할 수 없어 데이터 없이 작성된 답변입니다. 중요한 내용은 따로 확인해 주세요.",
        _EN: "The data could not be searched, so this answer was written without it. Please check what matters.",
    },
    NoticeKind.LAST_KNOWN_MAPPING: {
        _KO: "데이터베이스에 연결할 수 없어, 마지막으로 확인된 설정으로 답변합니다.",
        _EN: "The database cannot be reached, so this chat goes by the settings that were known last.",
    },
    NoticeKind.NOT_STORED: {
        _KO: "이 질문과 답변은 아직 저장되지 않았습니다. 데이터베이스에 다시 연결되면 저장됩니다.",
        _EN: "This question and its answer are not stored yet; they will be when the database is back.",
    },
    NoticeKind.INCOMPLETE: {
        _KO: "답변이 중간에 끊겨 완성되지 않았습니다. 다시 질문해 주세요.",
        _EN: "This answer was cut off and is not complete. Please ask again.",
    },
}

_DATA_AS_OF = {
    _KO: "데이터는 {0.year}년 {0.month}월 {0.day}일 {0:%H:%M}(UTC) 기준입니다.",
    _EN: "The data is as of {0:%Y-%m-%d %H:%M} UTC.",
}
