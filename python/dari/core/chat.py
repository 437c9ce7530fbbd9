"""One turn of a chat, from the question to the stored answer.

The road: what may be seen (`mapping`), the data that fits (`grounding`), the models in order (`chain`), the rows alone
where no model answers (`rows_reply`), and the turn stored (`conversations`).
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from dari.core.alerts import Alert, AlertKind, AlertSink
from dari.core.chain import Answered, AttemptEnded, Seam, Superseded, TextBegins, TokenCame, ask
from dari.core.conversations import (
    Answer,
    AttemptOutcome,
    AttemptRecord,
    BegunTurn,
    DegradedReason,
    OnInterruption,
    Turn,
    TurnRequest,
)
from dari.core.errors import (
    AnswerInterrupted,
    DariError,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
)
from dari.core.event_log import EventLog
from dari.core.grounding import Grounding
from dari.core.known_profiles import KnownProfiles
from dari.core.language import Language, language_of
from dari.core.last_known import KnownChat, LastKnownChats
from dari.core.mapping import AiModel, ChatConfiguration, ResolvedChat, ResolvedLink, StandByMode, resolve
from dari.core.notices import Notice, UntoldNotices, cut_notices, degraded_notices, notices_of
from dari.core.patience import Patience
from dari.core.prompt import HISTORY_TURNS, LocalContext
from dari.core.search import Search
from dari.core.stand_by import SpareThreads, StandByPlan
from dari.core.timed_attempt import LAST_RESORT_S, Directory, Link, ServerTimeouts
from dari.core.token_budgets import TokenBudgets
from dari.core.turn_clock import TurnClock
from dari.core.unsaved_turns import UnsavedTurns
from dari.core.watchdog import Watchdog

MAX_QUESTION_BYTES = 32_768
_SHARE_FOR_DATABASE = 0.2
"""Of the time left, what one look at the database may take: four of them in vain still leave time for a model."""


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The question is stored."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class TurnCompleted:
    """The answer is whole and stored."""

    turn: Turn


OnCallerLeft = Callable[[Callable[[], None]], object]
"""Takes what is to be called, from any thread, when the caller goes away."""
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
        alerts: AlertSink,
        default_timeout_s: float,
        server_timeouts: ServerTimeouts,
        spare_threads: SpareThreads,
        database_timeout_s: float,
        budgets: TokenBudgets,
    ) -> None:
        self._chats = chats
        self._turns = turns
        self._search = search
        self._profiles = profiles
        self._local_context = local_context
        self._directory = directory
        self._watchdog = watchdog
        self._log = log
        self._alerts = alerts
        self._default_timeout_s = default_timeout_s
        self._server_timeouts = server_timeouts
        self._spare_threads = spare_threads
        self._database_timeout_s = database_timeout_s
        self._budgets = budgets

    def answer(
        self,
        tenant: str,
        request: TurnRequest,
        timeout_s: float | None,
        on_caller_left: OnCallerLeft,
        language: Language | None = None,
    ) -> Iterator[ChatEvent]:
        """Answer one question; the events end with TurnCompleted.

        `on_caller_left` is given functions to call, from any thread, when the caller goes away. Notices are in
        `language`, by default that of the question. Raises InvalidArgument, NotFound, FailedPrecondition (the chat
        configuration is disabled), TurnInProgress, Unavailable, DeadlineExceeded, Cancelled, AnswerInterrupted.
        """
        _check(request)
        timeout_s = self._default_timeout_s if timeout_s is None else timeout_s
        language = language or language_of(request.question)
        with TurnClock(self._watchdog, time.monotonic() + timeout_s) as clock:
            on_caller_left(clock.cancel)
            reading = partial(self._reading, clock, on_caller_left)
            with reading():
                known = self._chats.read(tenant, request.chat_configuration)
            _check_enabled(known.mapping.configuration)
            with reading():
                self._budgets.check(tenant, request.caller, may_look=known.is_current)
            with self._patience(clock):
                begun = self._turns.begin_turn(tenant, request, timeout_s, HISTORY_TURNS)
            if isinstance(begun, Turn):
                yield from _replayed(begun, language)
                return
            grounding = self._grounding(tenant, known, begun, reading)
            told = _Told(known, begun, grounding, language)
            attempts: list[AttemptRecord] = []
            try:
                yield TurnStarted(begun.turn)
                yield from told.at_start()
                answer = yield from self._answer_begun(tenant, told, clock, attempts, request.on_interruption)
                with self._patience(clock):
                    turn = self._turns.complete_turn(tenant, begun, answer)
            except BaseException as error:
                self._abandon(tenant, begun, attempts)
                if isinstance(error, AnswerInterrupted | DeadlineExceeded):
                    yield from told.at_cut(attempts)
                raise
            finally:
                self._budgets.add(tenant, request.caller, attempts)
            self._log_completed(turn, answer)
            yield from told.at_end(turn)
            yield TurnCompleted(turn)

    def _answer_begun(
        self,
        tenant: str,
        told: "_Told",
        clock: TurnClock,
        attempts: list[AttemptRecord],
        on_interruption: OnInterruption,
    ) -> Generator[ChatEvent, None, Answer]:
        """The models' events, or those of the reply made of rows; then the answer."""
        grounding = told.grounding
        links = self._links_of(tenant, grounding)
        asked = partial(self._asked, tenant, told, clock, attempts, on_interruption)
        answered = yield from asked(links)
        if answered is None and not grounding.has_data():
            answered = yield from asked(_worth_a_try(links, attempts))
        if answered is not None:
            return told.marked(grounding.model_answer(answered, told.writers, attempts))
        self._tell_unanswered(tenant, grounding.chat, attempts, clock)
        answer = told.marked(grounding.rows_answer(attempts, clock))
        yield from told.of_reasons(answer.degraded_reasons)
        yield TokenCame(answer.text)
        return answer

    def _asked(
        self,
        tenant: str,
        told: "_Told",
        clock: TurnClock,
        attempts: list[AttemptRecord],
        on_interruption: OnInterruption,
        links: Sequence[Link],
    ) -> Generator[ChatEvent, None, Answered | None]:
        """The events of these models; then the answer, if any gave one."""
        stand_by = self._stand_by_of(told.grounding.chat.configuration)
        with closing(ask(links, clock, self._server_timeouts, attempts, on_interruption, stand_by)) as events:
            for event in events:
                if isinstance(event, Answered):
                    return event
                if isinstance(event, AttemptEnded):
                    self._log.warning("attempt_ended", turn=told.grounding.turn.name, **_log_fields(event.record))
                    self._tell_misconfigured(tenant, event.record)
                yield from told.of(event)
        return None

    def _patience(self, clock: TurnClock) -> Patience:
        """For one look at the database, which a chat can do without."""
        return Patience(min(self._database_timeout_s, clock.remaining_s() * _SHARE_FOR_DATABASE))

    def _reading(self, clock: TurnClock, on_caller_left: OnCallerLeft) -> Patience:
        """For one that nobody needs when the caller has left."""
        patience = self._patience(clock)
        on_caller_left(patience.end)
        return patience

    def _grounding(self, tenant: str, known: KnownChat, begun: BegunTurn, reading: Callable[[], Patience]) -> Grounding:
        return Grounding(
            search=self._search if known.is_current else None,
            profiles=self._profiles,
            local=self._local_context,
            log=self._log,
            tenant=tenant,
            chat=resolve(known.mapping),
            begun=begun,
            reading=reading,
        )

    def _links_of(self, tenant: str, grounding: Grounding) -> list[Link]:
        return [
            Link(
                model,
                partial(self._directory.upstream, tenant, model),
                self._directory.circuit(tenant, model),
                partial(grounding.prompt, model, resolved),
                resolved.visible_ids,
            )
            for model, resolved in _models(grounding.chat)
        ]

    def _stand_by_of(self, configuration: ChatConfiguration) -> StandByPlan | None:
        if configuration.stand_by is StandByMode.OFF:
            return None
        races = configuration.stand_by is StandByMode.RACE
        return StandByPlan(self._spare_threads, configuration.stand_by_after_s, races)

    def _tell_misconfigured(self, tenant: str, record: AttemptRecord) -> None:
        if record.outcome is AttemptOutcome.MISCONFIGURED:
            subject = f"aiModels/{record.ai_model}"
            self._alerts.tell(Alert(AlertKind.MODEL_MISCONFIGURED, subject, record.code, tenant=tenant))

    def _tell_unanswered(
        self, tenant: str, chat: ResolvedChat, attempts: Sequence[AttemptRecord], clock: TurnClock
    ) -> None:
        """Unless the caller was in too much of a hurry for the models, or the chat has none."""
        asked = {record.ai_model for record in attempts}
        was_patient = clock.remaining_s() > LAST_RESORT_S
        if asked and was_patient and asked.issuperset(model.id for model, _ in _models(chat)):
            subject = f"chatConfigurations/{chat.configuration.id}"
            self._alerts.tell(Alert(AlertKind.NO_MODEL_ANSWERED, subject, attempts[-1].code, tenant=tenant))

    def _abandon(self, tenant: str, begun: BegunTurn, attempts: Sequence[AttemptRecord]) -> None:
        try:
            with Patience(self._database_timeout_s):
                self._turns.abandon_turn(tenant, begun, attempts)
        except DariError as error:
            # The error on its way to the caller matters more; the turn is over at its deadline by itself.
            self._log.warning("turn_not_stored", turn=begun.turn.name, reason=error.reason)

    def _log_completed(self, turn: Turn, answer: Answer) -> None:
        self._log.info(
            "turn_completed",
            turn=turn.name,
            answered_by=answer.answered_by.value,
            attempts=len(answer.attempts),
            degraded=[reason.value for reason in answer.degraded_reasons],
        )


class _Told:
    """What the caller is told of one turn beside the text, and whose text it is. For one thread."""

    def __init__(self, known: KnownChat, begun: BegunTurn, grounding: Grounding, language: Language) -> None:
        self.grounding = grounding
        self.writers: list[str] = []
        """The models whose text stands, without the one that writes."""
        self._known = known
        self._begun = begun
        self._language = language
        self._notices = UntoldNotices()

    def at_start(self) -> Iterator[Notice]:
        """What holds whoever answers."""
        reasons = [] if self._known.is_current else [DegradedReason.LAST_KNOWN_MAPPING]
        if self._begun.unstored_request is not None:
            reasons.append(DegradedReason.NOT_STORED)
        return self.of_reasons(reasons)

    def of(self, event: AttemptEnded | Superseded | Seam | TextBegins | TokenCame) -> Iterator[ChatEvent]:
        """An event of the chain as the caller sees it, with what is to be known before it."""
        match event:
            case TextBegins():
                yield from self.of_reasons(self.grounding.lacks(event.ai_model))
                return
            case Seam():
                self.writers.append(event.record.ai_model)
            case Superseded():
                self.writers.clear()
            case _:
                pass
        yield event

    def of_reasons(self, reasons: Iterable[DegradedReason]) -> Iterator[Notice]:
        """Why the answer is less than it could be, where that is not told yet."""
        return self._notices.among(degraded_notices(reasons, self._language))

    def at_cut(self, attempts: Sequence[AttemptRecord]) -> Iterator[Notice]:
        """What is told of a turn that ends without an answer."""
        return self._notices.among(cut_notices(attempts, self._language))

    def at_end(self, turn: Turn) -> Iterator[Notice]:
        """All that was not told before."""
        return self._notices.among(notices_of(turn, self._language))

    def marked(self, answer: Answer) -> Answer:
        """The answer with what it lacks whoever gave it."""
        if self._known.is_current:
            return answer
        return replace(answer, degraded_reasons=(*answer.degraded_reasons, DegradedReason.LAST_KNOWN_MAPPING))


def _check_enabled(configuration: ChatConfiguration) -> None:
    if configuration.disabled:
        name = f"chatConfigurations/{configuration.id}"
        raise FailedPrecondition(f"{name} is disabled; enable it, or ask another.", {"resource": name})


def _models(chat: ResolvedChat) -> Iterator[tuple[AiModel, ResolvedLink]]:
    return ((link.ai_model, link) for link in chat.chain if link.ai_model is not None)


def _worth_a_try(links: Sequence[Link], attempts: Sequence[AttemptRecord]) -> list[Link]:
    """The models that were passed by: for a turn that has nobody else and no data, each is asked as a probe is.

    What was down a moment ago may be back. Of many such turns as many try it as a circuit has probes, and no more.
    """
    passed_by = {record.ai_model for record in attempts if record.outcome is AttemptOutcome.SKIPPED}
    tried = [link for link in links if link.model.id in passed_by]
    for link in tried:
        link.circuit.retry()
    return tried


def _check(request: TurnRequest) -> None:
    size = len(request.question.encode())
    if not request.question.strip() or size > MAX_QUESTION_BYTES or "\0" in request.question:
        raise InvalidArgument.of(
            FieldViolation(
                "question", f"must be 1 to {MAX_QUESTION_BYTES} bytes, not only white space, without NUL; it has {size}"
            )
        )


def _replayed(turn: Turn, language: Language) -> Iterator[ChatEvent]:
    yield TurnStarted(turn)
    yield from notices_of(turn, language)
    if turn.answer is not None:
        yield TokenCame(turn.answer.text)
    yield TurnCompleted(turn)


def _log_fields(record: AttemptRecord) -> dict[str, object]:
    return {"ai_model": record.ai_model, "outcome": record.outcome.value, "code": record.code}
