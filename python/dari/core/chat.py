"""One turn of a chat, from the question to the stored answer.

The road: what may be seen (`mapping`), the rows that fit (`search`), the models in order (`chain`), the rows alone
where no model answers (`rows_reply`), and the turn stored (`conversations`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from dari.core import prompt
from dari.core.chain import Answered, AttemptEnded, ChainEvent, Directory, Link, TokenCame, TurnClock, ask
from dari.core.conversations import (
    Answer,
    Answerer,
    AttemptRecord,
    BegunTurn,
    Citation,
    ConversationStore,
    DegradedReason,
    Turn,
    TurnRequest,
)
from dari.core.errors import DariError, FieldViolation, InvalidArgument, Unavailable
from dari.core.event_log import EventLog
from dari.core.mapping import LinkStore, ResolvedChat, resolve
from dari.core.rows_reply import rows_reply
from dari.core.search import Search
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


ChatEvent = TurnStarted | AttemptEnded | TokenCame | TurnCompleted


class Chat:
    """Answers questions. Thread-safe."""

    def __init__(
        self,
        *,
        links: LinkStore,
        conversations: ConversationStore,
        search: Search,
        directory: Directory,
        watchdog: Watchdog,
        log: EventLog,
        default_timeout_s: float,
        connect_timeout_s: float,
    ) -> None:
        self._links = links
        self._conversations = conversations
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
    ) -> Iterator[ChatEvent]:
        """Answer one question; the events end with TurnCompleted.

        `on_caller_left` is given a function to call, from any thread, when the caller goes away. Raises
        InvalidArgument, NotFound, TurnInProgress, Unavailable, DeadlineExceeded, Cancelled.
        """
        _check(request)
        timeout_s = self._default_timeout_s if timeout_s is None else timeout_s
        with TurnClock(self._watchdog, time.monotonic() + timeout_s) as clock:
            on_caller_left(clock.cancel)
            chat = resolve(self._links.read_chat(tenant, request.chat_configuration))
            begun = self._conversations.begin_turn(tenant, request, timeout_s, prompt.HISTORY_TURNS)
            if isinstance(begun, Turn):
                yield from _replayed(begun)
                return
            yield TurnStarted(begun.turn)
            yield from self._answer_begun(tenant, chat, begun, clock)

    def _answer_begun(self, tenant: str, chat: ResolvedChat, begun: BegunTurn, clock: TurnClock) -> Iterator[ChatEvent]:
        attempts: list[AttemptRecord] = []
        rows = _Rows(self._search, tenant, begun.turn.question, chat.configuration.max_rows)
        try:
            answered: Answered | None = None
            for event in self._ask_models(chat, begun, rows, clock):
                match event:
                    case AttemptEnded():
                        attempts.append(event.record)
                        self._log.warning("attempt_ended", turn=begun.turn.name, **_log_fields(event.record))
                        yield event
                    case TokenCame():
                        yield event
                    case Answered():
                        attempts.append(event.record)
                        answered = event
            if answered is not None:
                answer = _model_answer(chat, answered, attempts, rows)
            else:
                clock.check()
                answer = _rows_answer(chat, begun.turn.question, attempts, rows)
                yield TokenCame(answer.text)
            turn = self._conversations.complete_turn(tenant, begun.turn, answer)
        except BaseException:
            self._abandon(tenant, begun.turn, attempts)
            raise
        self._log.info(
            "turn_completed",
            turn=turn.name,
            answered_by=answer.answered_by.value,
            attempts=len(attempts),
            degraded=[reason.value for reason in answer.degraded_reasons],
        )
        yield TurnCompleted(turn)

    def _ask_models(
        self, chat: ResolvedChat, begun: BegunTurn, rows: "_Rows", clock: TurnClock
    ) -> Iterator[ChainEvent]:
        links: list[Link] = []
        for resolved in chat.chain:
            if resolved.ai_model is None:
                continue
            make_prompt = partial(
                prompt.make_prompt,
                chat.configuration,
                resolved.ai_model,
                partial(rows.citations, resolved.visible_ids),
                prompt.history(begun.earlier, resolved.visible_ids),
                begun.turn,
            )
            links.append(
                Link(
                    resolved.ai_model,
                    partial(self._directory.upstream, resolved.ai_model),
                    self._directory.circuit(resolved.ai_model),
                    make_prompt,
                )
            )
        return ask(links, clock, self._connect_timeout_s)

    def _abandon(self, tenant: str, turn: Turn, attempts: Sequence[AttemptRecord]) -> None:
        try:
            self._conversations.abandon_turn(tenant, turn, attempts)
        except DariError as error:
            # The error on its way to the caller matters more; the turn is over at its deadline by itself.
            self._log.warning("turn_not_stored", turn=turn.name, reason=error.reason)


def _check(request: TurnRequest) -> None:
    size = len(request.question.encode())
    if not request.question.strip() or size > MAX_QUESTION_BYTES or "\0" in request.question:
        raise InvalidArgument.of(
            FieldViolation(
                "question", f"must be 1 to {MAX_QUESTION_BYTES} bytes, not only white space, without NUL; it has {size}"
            )
        )


def _replayed(turn: Turn) -> Iterator[ChatEvent]:
    yield TurnStarted(turn)
    if turn.answer is not None:
        yield TokenCame(turn.answer.text)
    yield TurnCompleted(turn)


class _Rows:
    """The rows for one question, found once for each set of knowledge bases that some link may see.

    Each search names exactly that set to the database, which refuses the rest by itself.
    """

    def __init__(self, search: Search, tenant: str, question: str, limit: int) -> None:
        self._search = search
        self._tenant = tenant
        self._question = question
        self._limit = limit
        self._found: dict[frozenset[str], tuple[Citation, ...]] = {}
        self.unavailable = False

    def citations(self, visible: frozenset[str]) -> tuple[Citation, ...]:
        """Numbered rows; none where the data cannot be reached, and `unavailable` says so from then on."""
        if visible not in self._found:
            try:
                hits = self._search.find(self._tenant, sorted(visible), self._question, self._limit)
            except Unavailable:
                hits, self.unavailable = [], True
            self._found[visible] = prompt.cite(hits)
        return self._found[visible]


def _model_answer(chat: ResolvedChat, answered: Answered, attempts: Sequence[AttemptRecord], rows: _Rows) -> Answer:
    record = answered.record
    visible = next(
        link.visible_ids for link in chat.chain if link.ai_model is not None and link.ai_model.id == record.ai_model
    )
    degraded = [DegradedReason.STAND_IN] if len(attempts) > 1 else []
    if rows.unavailable:
        degraded.append(DegradedReason.NO_DATA)
    return Answer(
        answered.text, record.answerer, record.ai_model, tuple(attempts), rows.citations(visible), tuple(degraded)
    )


def _rows_answer(chat: ResolvedChat, question: str, attempts: Sequence[AttemptRecord], rows: _Rows) -> Answer:
    visible = chat.chain[-1].visible_ids
    citations = rows.citations(visible)
    if not visible or rows.unavailable:
        raise Unavailable(
            "No AI model of this chat answers at the moment, and there is no data to answer from; retry with a"
            " back-off.",
            {"neighbour": "ai_models", "attempts": ",".join(f"{item.ai_model}={item.code}" for item in attempts)},
        )
    return Answer(
        rows_reply(question, citations), Answerer.ROWS_ONLY, "", tuple(attempts), citations, (DegradedReason.ROWS_ONLY,)
    )


def _log_fields(record: AttemptRecord) -> dict[str, object]:
    return {"ai_model": record.ai_model, "outcome": record.outcome.value, "code": record.code}
