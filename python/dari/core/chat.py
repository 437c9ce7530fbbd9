"""One turn of a chat, from the question to the stored answer.

The road: what may be seen (`mapping`), the data that fits (`grounding`), the models in order (`chain`), the rows alone
where no model answers (`rows_reply`), and the turn stored (`conversations`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from dari.core.chain import Answered, AttemptEnded, Directory, Link, Seam, Superseded, TokenCame, TurnClock, ask
from dari.core.conversations import AttemptRecord, BegunTurn, DegradedReason, OnInterruption, Turn, TurnRequest
from dari.core.errors import AnswerInterrupted, DariError, DeadlineExceeded, FieldViolation, InvalidArgument
from dari.core.event_log import EventLog
from dari.core.grounding import Grounding
from dari.core.known_profiles import KnownProfiles
from dari.core.language import Language, language_of
from dari.core.last_known import KnownChat, LastKnownChats
from dari.core.mapping import AiModel, ResolvedChat, ResolvedLink, resolve
from dari.core.notices import Notice, UntoldNotices, cut_notices, degraded_notices, notices_of
from dari.core.prompt import HISTORY_TURNS, LocalContext
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
        profiles: KnownProfiles,
        local_context: LocalContext,
        directory: Directory,
        watchdog: Watchdog,
        log: EventLog,
        default_timeout_s: float,
        connect_timeout_s: float,
    ) -> None:
        self._chats = chats
        self._turns = turns
        self._search = search
        self._profiles = profiles
        self._local_context = local_context
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
            begun = self._turns.begin_turn(tenant, request, timeout_s, HISTORY_TURNS)
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
        grounding = Grounding(
            search=self._search if known.is_current else None,
            profiles=self._profiles,
            local=self._local_context,
            log=self._log,
            tenant=tenant,
            chat=chat,
            begun=begun,
        )
        try:
            yield TurnStarted(begun.turn)
            yield from notices.among(degraded_notices(_known_at_start(known, begun), language))
            answered: Answered | None = None
            writers: list[str] = []
            links = self._links_of(chat, grounding)
            with closing(ask(links, clock, self._connect_timeout_s, attempts, on_interruption)) as events:
                for event in events:
                    match event:
                        case AttemptEnded():
                            self._log.warning("attempt_ended", turn=begun.turn.name, **_log_fields(event.record))
                            yield event
                        case Seam() | TokenCame():
                            reasons = _known_of_text(links, attempts, grounding)
                            yield from notices.among(degraded_notices(reasons, language))
                            if isinstance(event, Seam):
                                writers.append(event.record.ai_model)
                            yield event
                        case Superseded():
                            writers.clear()
                            yield event
                            yield event
                        case Answered():
                            answered = event
            if answered is not None:
                answer = grounding.model_answer(answered, writers, attempts)
            else:
                answer = grounding.rows_answer(attempts, clock)
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

    def _links_of(self, chat: ResolvedChat, grounding: Grounding) -> list[Link]:
        return [
            Link(
                model,
                partial(self._directory.upstream, model),
                self._directory.circuit(model),
                partial(grounding.prompt, model, resolved),
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


def _known_of_text(
    links: Sequence[Link], attempts: Sequence[AttemptRecord], grounding: Grounding
) -> Iterator[DegradedReason]:
    """Why the text that begins to come is less than it could be.

    It is of the first model whose attempt has not ended: the chain ends those before it first.
    """
    ended = {attempt.ai_model for attempt in attempts}
    if links[0].model.id in ended:
        yield DegradedReason.STAND_IN
    if any(grounding.is_unread(link.model.id) for link in [each for each in links if each.model.id not in ended][:1]):
        yield DegradedReason.NO_DATA


def _replayed(turn: Turn, language: Language) -> Iterator[ChatEvent]:
    yield TurnStarted(turn)
    yield from notices_of(turn, language)
    if turn.answer is not None:
        yield TokenCame(turn.answer.text)
    yield TurnCompleted(turn)


def _log_fields(record: AttemptRecord) -> dict[str, object]:
    return {"ai_model": record.ai_model, "outcome": record.outcome.value, "code": record.code}
