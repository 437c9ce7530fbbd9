"""Turns go on while the database is gone, and are written when it is back.

A turn that cannot be stored when it begins, or when it ends, is kept in memory until it can; the caller is told that it
is not stored yet. What is kept is bounded: beyond it, turns are refused as they would be without this. It is lost with
the process.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol
from uuid import UUID, uuid4

from dari.core.circuit import Circuit, Result, call_through
from dari.core.conversations import (
    Answer,
    AttemptRecord,
    BegunTurn,
    ConversationStore,
    DegradedReason,
    Turn,
    TurnRequest,
    TurnState,
)
from dari.core.errors import DariError, Unavailable
from dari.core.event_log import EventLog, failure_fields

MAX_UNSAVED = 1_000
"""Turns kept; an answer has 256 KiB at most, and mostly a thousandth of it."""
MAX_REMEMBERED = 1_000
"""Stored answers whose callers may come again while the database is gone; the oldest is forgotten first."""
RETRY_INTERVAL_S = 1.0
UNKNOWN_NUMBER = 0
"""Number of a turn whose conversation's other turns cannot be counted now; it gets its own when it is stored."""
_STOP_TIMEOUT_S = 2.0


class TurnArchive(Protocol):
    """Takes turns that were answered without it. Raises `Unavailable` where the database is down."""

    def add_turn(self, tenant: str, request: TurnRequest, turn: Turn, answer: Answer) -> None:
        """Store a complete turn as the next one of its conversation, which is made where the turn began it.

        Does nothing where a turn of its request_id is complete. Raises NotFound where the conversation that it went on
        with is gone.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Unsaved:
    """An answer that is not in the database, and perhaps its question neither."""

    tenant: str
    begun: BegunTurn
    turn: Turn
    answer: Answer

    @property
    def begins_conversation(self) -> bool:
        """Whether the database learns of the conversation only when this is written."""
        request = self.begun.unstored_request
        return request is not None and request.conversation is None


class UnsavedTurns:
    """Begins and ends turns over a ConversationStore that may be gone. `start`, then `close`. Thread-safe."""

    def __init__(
        self,
        store: ConversationStore,
        archive: TurnArchive,
        circuit: Circuit,
        log: EventLog,
        *,
        max_unsaved: int = MAX_UNSAVED,
        retry_interval_s: float = RETRY_INTERVAL_S,
    ) -> None:
        self._store = store
        self._archive = archive
        self._circuit = circuit
        self._log = log
        self._max_unsaved = max_unsaved
        self._retry_interval_s = retry_interval_s
        self._lock = threading.Lock()  # guards the two below
        self._unsaved: deque[_Unsaved] = deque()
        self._answered: OrderedDict[tuple[str, UUID], Turn] = OrderedDict()
        """Complete turns by tenant and request_id, stored or not."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="unsaved-turns", daemon=True)

    def start(self) -> None:
        """Begin to write what is unsaved."""
        self._thread.start()

    def close(self) -> None:
        """Try once more, and write no further."""
        self._stopping.set()
        self._thread.join(_STOP_TIMEOUT_S)
        with self._lock:
            lost = len(self._unsaved)
        if lost:
            self._log.error("turns_lost", turns=lost)

    @property
    def count(self) -> int:
        """Turns that wait to be written."""
        return len(self._unsaved)

    def begin_turn(self, tenant: str, request: TurnRequest, timeout_s: float, history_turns: int) -> BegunTurn | Turn:
        """See ConversationStore; without the database the turn begins in memory, and knows the kept ones before it.

        So it does where its conversation was begun in memory and is not written yet: the database, back by now, would
        not know it. Raises Unavailable only where as many turns are kept as may be.
        """
        kept = self._kept_of_request(tenant, request.request_id)
        if kept is not None:
            return kept
        before = self._kept_of_conversation(tenant, request.conversation)
        if not any(unsaved.begins_conversation for unsaved in before):
            try:
                return self._ask_database(lambda: self._store.begin_turn(tenant, request, timeout_s, history_turns))
            except Unavailable:
                answered = self._answered_before(tenant, request)
                if answered is not None:
                    return answered
        with self._lock:
            if len(self._unsaved) >= self._max_unsaved:
                raise Unavailable.of("database")
        return _begun_in_memory(request, timeout_s, [unsaved.turn for unsaved in before[-history_turns:]])

    def complete_turn(self, tenant: str, begun: BegunTurn, answer: Answer) -> Turn:
        """See ConversationStore; an answer that cannot be stored now is told as NOT_STORED, and stored later."""
        if begun.unstored_request is None:
            try:
                stored = self._ask_database(lambda: self._store.complete_turn(tenant, begun, answer))
            except Unavailable:
                pass  # The answer is there, and the caller waits for it.
            else:
                self._remember(tenant, begun.request_id, stored)
                return stored
        told = replace(answer, degraded_reasons=(*answer.degraded_reasons, DegradedReason.NOT_STORED))
        turn = replace(
            begun.turn,
            state=TurnState.COMPLETED,
            attempts=answer.attempts,
            answer=told,
            complete_time=datetime.now(UTC),
        )
        with self._lock:
            self._unsaved.append(_Unsaved(tenant, begun, turn, answer))
        self._remember(tenant, begun.request_id, turn)
        return turn

    def abandon_turn(self, tenant: str, begun: BegunTurn, attempts: Sequence[AttemptRecord]) -> None:
        """See ConversationStore; one that the database never saw is forgotten."""
        if begun.unstored_request is None:
            self._ask_database(lambda: self._store.abandon_turn(tenant, begun, attempts))

    def write(self) -> None:
        """Write what is unsaved, oldest first. Raises Unavailable where the database is still gone."""
        while True:
            with self._lock:
                if not self._unsaved:
                    return
                oldest = self._unsaved[0]
            try:
                self._ask_database(partial(self._write, oldest))
            except Unavailable:
                raise
            except DariError as error:
                # The conversation was deleted, or the turn was begun again: nobody waits for this one.
                self._log.warning("turn_not_stored", turn=oldest.turn.name, reason=error.reason)
            with self._lock:
                self._unsaved.popleft()

    def _write(self, unsaved: _Unsaved) -> None:
        request = unsaved.begun.unstored_request
        if request is None:
            self._store.complete_turn(unsaved.tenant, unsaved.begun, unsaved.answer)
        else:
            self._archive.add_turn(unsaved.tenant, request, unsaved.turn, unsaved.answer)

    def _kept_of_request(self, tenant: str, request_id: UUID | None) -> Turn | None:
        """The turn of this request_id, where it is answered and not stored yet."""
        if request_id is None:
            return None
        with self._lock:
            for unsaved in self._unsaved:
                if (unsaved.tenant, unsaved.begun.request_id) == (tenant, request_id):
                    return unsaved.turn
        return None

    def _answered_before(self, tenant: str, request: TurnRequest) -> Turn | None:
        """The turn of this request_id, where it was answered here lately; the database, which knows it, is gone."""
        if request.request_id is None:
            return None
        with self._lock:
            turn = self._answered.get((tenant, request.request_id))
        return turn if turn is not None and turn.question == request.question else None

    def _remember(self, tenant: str, request_id: UUID | None, turn: Turn) -> None:
        if request_id is None:
            return
        with self._lock:
            self._answered[tenant, request_id] = turn
            if len(self._answered) > MAX_REMEMBERED:
                self._answered.popitem(last=False)

    def _kept_of_conversation(self, tenant: str, conversation: UUID | None) -> list[_Unsaved]:
        """What is not stored yet of this conversation, oldest first."""
        if conversation is None:
            return []
        with self._lock:
            return [
                unsaved
                for unsaved in self._unsaved
                if (unsaved.tenant, unsaved.turn.conversation) == (tenant, conversation)
            ]

    def _ask_database(self, call: Callable[[], Result]) -> Result:
        return call_through(self._circuit, "database", call)

    def _work(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopping.wait(self._retry_interval_s)
            try:
                self.write()
            except Unavailable:
                continue
            except Exception as error:  # noqa: BLE001 - the next round may succeed, and nobody else would tell of this
                self._log.error("unsaved_turns_failed", **failure_fields(type(error), error.__traceback__))


def _begun_in_memory(request: TurnRequest, timeout_s: float, earlier: Sequence[Turn]) -> BegunTurn:
    now = datetime.now(UTC)
    turn = Turn(
        conversation=request.conversation or uuid4(),
        number=1 if request.conversation is None else UNKNOWN_NUMBER,
        question=request.question,
        state=TurnState.RUNNING,
        attempts=(),
        answer=None,
        create_time=now,
        complete_time=None,
    )
    over_time = now + timedelta(seconds=timeout_s)
    return BegunTurn(turn, over_time, earlier, request_id=request.request_id, unstored_request=request)
