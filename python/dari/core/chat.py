"""One turn of a chat, from the question to the stored answer.

The road: what may be seen (`mapping`), the rows that fit (`search`), the models in order (`chain`), the rows alone
where no model answers (`rows_reply`), and the turn stored (`conversations`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from dari.core import prompt
from dari.core.chain import (
    LAST_RESORT_S,
    Answered,
    AttemptEnded,
    Directory,
    Link,
    Seam,
    Superseded,
    TokenCame,
    TurnClock,
    ask,
)
from dari.core.conversations import (
    Answer,
    Answerer,
    AttemptRecord,
    BegunTurn,
    Citation,
    DegradedReason,
    OnInterruption,
    Turn,
    TurnRequest,
)
from dari.core.errors import (
    AnswerInterrupted,
    DariError,
    DeadlineExceeded,
    FieldViolation,
    InvalidArgument,
    Unavailable,
)
from dari.core.event_log import EventLog
from dari.core.language import Language, language_of
from dari.core.last_known import KnownChat, LastKnownChats
from dari.core.mapping import AiModel, ResolvedChat, ResolvedLink, resolve
from dari.core.notices import Notice, UntoldNotices, cut_notices, degraded_notices, notices_of
from dari.core.rows_reply import rows_reply
from dari.core.search import Search
from dari.core.unsaved_turns import UnsavedTurns
from dari.core.watchdog import Watchdog

MAX_QUESTION_BYTES = 32_768


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The question is stored."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class TurnCompleted:
    """The answer is whole and stored."""

    turn: Turn


ChatEvent = TurnStarted | AttemptEnded | Superseded | Seam | TokenCame | Notice | TurnCompleted


class Chat:
    """Answers questions. Thread-safe."""

    def __init__(
        self,
        *,
        chats: LastKnownChats,
        turns: UnsavedTurns,
        search: Search,
        directory: Directory,
        watchdog: Watchdog,
        log: EventLog,
        default_timeout_s: float,
        connect_timeout_s: float,
    ) -> None:
        self._chats = chats
        self._turns = turns
        self._search = search
        self._directory = directory
        self._watchdog = watchdog
        self._log = log
        self._default_timeout_s = default_timeout_s
        self._connect_timeout_s = connect_timeout_s

    def answer(
        self,
        tenant: str,
        request: TurnRequest,
        timeout_s: float | None,
        on_caller_left: Callable[[Callable[[], None]], object],
        language: Language | None = None,
    ) -> Iterator[ChatEvent]:
        """Answer one question; the events end with TurnCompleted.

        `on_caller_left` is given a function to call, from any thread, when the caller goes away. `language` is that of
        the notices, by default the question's. Raises InvalidArgument, NotFound, TurnInProgress, Unavailable,
        DeadlineExceeded, AnswerInterrupted, Cancelled.
        """
        _check(request)
        language = language or language_of(request.question)
        timeout_s = self._default_timeout_s if timeout_s is None else timeout_s
        with TurnClock(self._watchdog, time.monotonic() + timeout_s) as clock:
            on_caller_left(clock.cancel)
            known = self._chats.read(tenant, request.chat_configuration)
            begun = self._turns.begin_turn(tenant, request, timeout_s, prompt.HISTORY_TURNS)
            if isinstance(begun, Turn):
                yield from _replayed(begun, language)
                return
            yield from self._answer_begun(tenant, known, begun, request.on_interruption, clock, language)

    def _answer_begun(
        self,
        tenant: str,
        known: KnownChat,
        begun: BegunTurn,
        on_interruption: OnInterruption,
        clock: TurnClock,
        language: Language,
    ) -> Iterator[ChatEvent]:
        attempts: list[AttemptRecord] = []
        notices = UntoldNotices()
        chat = resolve(known.mapping)
        search = self._search if known.is_current else None
        rows = _Rows(search, self._log, tenant, begun.turn, chat.configuration.max_rows)
        try:
            yield TurnStarted(begun.turn)
            yield from notices.among(degraded_notices(_known_at_start(known, begun), language))
            answered: Answered | None = None
            links = self._links_of(tenant, chat, begun, rows)
            with closing(ask(links, clock, self._connect_timeout_s, attempts, on_interruption)) as events:
                for event in events:
                    match event:
                        case AttemptEnded():
                            self._log.warning("attempt_ended", turn=begun.turn.name, **_log_fields(event.record))
                            yield event
                        case Seam() | TokenCame():
                            yield from notices.among(degraded_notices(_known_of_text(links, attempts, rows), language))
                            yield event
                        case Superseded():
                            yield event
                        case Answered():
                            answered = event
            if answered is not None:
                answer = _model_answer(chat, begun, answered, attempts, rows)
            else:
                answer = _rows_answer(chat, begun, attempts, rows, clock)
                yield from notices.among(degraded_notices(answer.degraded_reasons, language))
                yield TokenCame(answer.text)
            if not known.is_current:
                answer = replace(answer, degraded_reasons=(*answer.degraded_reasons, DegradedReason.LAST_KNOWN_MAPPING))
            turn = self._turns.complete_turn(tenant, begun, answer)
        except BaseException as error:
            self._abandon(tenant, begun, attempts)
            if isinstance(error, AnswerInterrupted | DeadlineExceeded):
                yield from notices.among(cut_notices(attempts, language))
            raise
        self._log.info(
            "turn_completed",
            turn=turn.name,
            answered_by=answer.answered_by.value,
            attempts=len(attempts),
            degraded=[reason.value for reason in answer.degraded_reasons],
        )
        yield from notices.among(notices_of(turn, language))
        yield TurnCompleted(turn)

    def _links_of(self, tenant: str, chat: ResolvedChat, begun: BegunTurn, rows: "_Rows") -> list[Link]:
        return [
            Link(
                model,
                partial(self._directory.upstream, tenant, model),
                self._directory.circuit(tenant, model),
                partial(
                    prompt.make_prompt,
                    chat.configuration,
                    model,
                    partial(rows.citations, resolved.visible_ids),
                    prompt.told_turns(begun.earlier, resolved.visible_ids),
                    begun.turn,
                ),
                resolved.visible_ids,
            )
            for model, resolved in _models(chat)
        ]

    def _abandon(self, tenant: str, begun: BegunTurn, attempts: Sequence[AttemptRecord]) -> None:
        try:
            self._turns.abandon_turn(tenant, begun, attempts)
        except DariError as error:
            # The error on its way to the caller matters more; the turn is over at its deadline by itself.
            self._log.warning("turn_not_stored", turn=begun.turn.name, reason=error.reason)


def _models(chat: ResolvedChat) -> Iterator[tuple[AiModel, ResolvedLink]]:
    return ((link.ai_model, link) for link in chat.chain if link.ai_model is not None)


def _check(request: TurnRequest) -> None:
    size = len(request.question.encode())
    if not request.question.strip() or size > MAX_QUESTION_BYTES or "\0" in request.question:
        raise InvalidArgument.of(
            FieldViolation(
                "question", f"must be 1 to {MAX_QUESTION_BYTES} bytes, not only white space, without NUL; it has {size}"
            )
        )


def _known_at_start(known: KnownChat, begun: BegunTurn) -> Iterator[DegradedReason]:
    """Why the answer will be less than it could be, whoever gives it."""
    if not known.is_current:
        yield DegradedReason.LAST_KNOWN_MAPPING
    if begun.unstored_request is not None:
        yield DegradedReason.NOT_STORED


def _known_of_text(links: Sequence[Link], attempts: Sequence[AttemptRecord], rows: "_Rows") -> Iterator[DegradedReason]:
    """Why the text that begins to come is less than it could be.

    It is of the first model whose attempt has not ended: the chain ends those before it first.
    """
    ended = {attempt.ai_model for attempt in attempts}
    if links[0].model.id in ended:
        yield DegradedReason.STAND_IN
    if any(rows.unread(link.visible) for link in [each for each in links if each.model.id not in ended][:1]):
        yield DegradedReason.NO_DATA


def _replayed(turn: Turn, language: Language) -> Iterator[ChatEvent]:
    yield TurnStarted(turn)
    yield from notices_of(turn, language)
    if turn.answer is not None:
        yield TokenCame(turn.answer.text)
    yield TurnCompleted(turn)


class _Rows:
    """The rows for one question, found once for each set of knowledge bases that some link may see.

    Each search names exactly that set to the database, which refuses the rest by itself.
    """

    def __init__(self, search: Search | None, log: EventLog, tenant: str, turn: Turn, limit: int) -> None:
        self._search = search
        """None where the database is known to be gone: waiting for it would cost the time of the models."""
        self._log = log
        self._tenant = tenant
        self._turn = turn
        self._limit = limit
        self._found: dict[frozenset[str], tuple[Citation, ...] | None] = {}

    def citations(self, visible: frozenset[str]) -> tuple[Citation, ...]:
        """Numbered rows; none where the data cannot be read."""
        if visible not in self._found:
            self._found[visible] = self._find(visible)
        return self._found[visible] or ()

    def unread(self, visible: frozenset[str]) -> bool:
        """Whether the search over this set was tried and failed."""
        return visible in self._found and self._found[visible] is None

    def _find(self, visible: frozenset[str]) -> tuple[Citation, ...] | None:
        if self._search is None:
            return None
        try:
            hits = self._search.find(self._tenant, sorted(visible), self._turn.question, self._limit)
        except DariError as error:
            # Whatever the data's trouble is, a model can answer without, and the answer says so.
            self._log.warning("rows_not_read", turn=self._turn.name, reason=error.reason, **error.metadata)
            return None
        return prompt.cite(hits)


def _model_answer(
    chat: ResolvedChat, begun: BegunTurn, answered: Answered, attempts: Sequence[AttemptRecord], rows: _Rows
) -> Answer:
    record = answered.record
    visible = next(link.visible_ids for model, link in _models(chat) if model.id == record.ai_model)
    degraded = [DegradedReason.STAND_IN] if len(attempts) > 1 else []
    if rows.unread(visible):
        degraded.append(DegradedReason.NO_DATA)
    citations = rows.citations(visible)
    # The model may repeat what it was told of earlier turns, and what those were answered over.
    told = (turn.answer for turn in prompt.told_turns(begun.earlier, visible) if turn.answer is not None)
    return Answer(
        text=answered.text,
        answered_by=record.answerer,
        ai_model=record.ai_model,
        attempts=tuple(attempts),
        citations=citations,
        degraded_reasons=tuple(degraded),
        knowledge_bases=_cited(citations).union(*(answer.knowledge_bases for answer in told)),
    )


def _rows_answer(
    chat: ResolvedChat, begun: BegunTurn, attempts: Sequence[AttemptRecord], rows: _Rows, clock: TurnClock
) -> Answer:
    clock.check()
    visible = chat.chain[-1].visible_ids
    citations = rows.citations(visible)
    if not visible or rows.unread(visible):
        if clock.remaining_s() <= LAST_RESORT_S:
            raise DeadlineExceeded("No AI model answered before the deadline; allow more time.")
        raise Unavailable(
            "No AI model of this chat answers at the moment, and there is no data to answer from; retry with a"
            " back-off.",
            {"neighbour": "ai_models", "attempts": ",".join(f"{item.ai_model}={item.code}" for item in attempts)},
        )
    return Answer(
        text=rows_reply(begun.turn.question, citations),
        answered_by=Answerer.ROWS_ONLY,
        ai_model="",
        attempts=tuple(attempts),
        citations=citations,
        degraded_reasons=(DegradedReason.ROWS_ONLY,),
        knowledge_bases=_cited(citations),
    )


def _cited(citations: Sequence[Citation]) -> frozenset[str]:
    return frozenset(citation.knowledge_base for citation in citations)


def _log_fields(record: AttemptRecord) -> dict[str, object]:
    return {"ai_model": record.ai_model, "outcome": record.outcome.value, "code": record.code}
