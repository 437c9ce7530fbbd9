"""Conversations and their turns: what was asked, who answered over what, and what came before."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol
from uuid import UUID


class Answerer(Enum):
    """Who gave an answer."""

    FLOWISE = "FLOWISE"
    OPENAI_COMPATIBLE = "OPENAI_COMPATIBLE"
    LOCAL = "LOCAL"
    ROWS_ONLY = "ROWS_ONLY"


class AttemptOutcome(Enum):
    """What came of asking one model."""

    ANSWERED = "ANSWERED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    BUSY = "BUSY"
    MISCONFIGURED = "MISCONFIGURED"
    SKIPPED = "SKIPPED"
    CANCELLED = "CANCELLED"
    OUTRUN = "OUTRUN"
    """Two were asked at once, and the other one decided the turn."""


class DegradedReason(Enum):
    """Why an answer is less than it could be."""

    STAND_IN = "STAND_IN"
    ROWS_ONLY = "ROWS_ONLY"
    NO_DATA = "NO_DATA"
    LAST_KNOWN_MAPPING = "LAST_KNOWN_MAPPING"
    """The database is gone: models and links are those that were known last."""
    NOT_STORED = "NOT_STORED"
    """The database is gone: the turn is kept in memory, and stored when it is back."""


class TurnState(Enum):
    """Whether a turn is finished."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    INCOMPLETE = "INCOMPLETE"


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One model asked for one turn, or passed by."""

    ai_model: str
    answerer: Answerer
    outcome: AttemptOutcome
    code: str
    """The cause as one snake_case word; empty where it answered."""
    duration_s: float
    first_token_s: float | None = None
    tokens: int = 0
    """That it read and wrote, about; not stored with the turn (see `core.token_budgets`)."""


@dataclass(frozen=True, slots=True)
class Citation:
    """A row that the answerer saw, under the number by which it saw it."""

    number: int
    knowledge_base: str
    version: int
    row_number: int
    columns: tuple[str, ...]
    cells: tuple[str, ...]
    version_time: datetime | None = None
    """When the version became current; None in an answer from before that was kept."""
    used_cells: tuple[int, ...] = ()
    """Places in `cells` of those whose text stands in the answer; see `core.used_cells`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, and how it came about."""

    text: str
    answered_by: Answerer
    ai_model: str
    """Empty for ROWS_ONLY."""
    attempts: tuple[AttemptRecord, ...]
    citations: tuple[Citation, ...]
    degraded_reasons: tuple[DegradedReason, ...]
    knowledge_bases: frozenset[str]
    """Those whose data the text may repeat: all of which the answerer was told anything, also by earlier turns."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and what was answered. `answer` is None unless COMPLETED."""

    conversation: UUID
    number: int
    question: str
    state: TurnState
    attempts: tuple[AttemptRecord, ...]
    answer: Answer | None
    create_time: datetime
    complete_time: datetime | None

    @property
    def name(self) -> str:
        """conversations/{uuid}/turns/{number}"""
        return f"conversations/{self.conversation}/turns/{self.number}"


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns that refer to each other. `chat_configuration` is empty where that was deleted since."""

    id: UUID
    chat_configuration: str
    turn_count: int
    create_time: datetime
    update_time: datetime

    @property
    def name(self) -> str:
        """conversations/{uuid}"""
        return f"conversations/{self.id}"


class OnInterruption(Enum):
    """What is to follow a model that stops in the middle of its answer."""

    RESTART = "RESTART"
    """The next model begins anew."""
    CONTINUE = "CONTINUE"
    """The next model goes on behind the text so far; one that cannot, or may see other data, begins anew."""
    STOP = "STOP"
    """Nothing: the turn ends as interrupted."""


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """A question as it comes in. `conversation` None begins a new one."""

    chat_configuration: str
    conversation: UUID | None
    question: str
    request_id: UUID | None
    on_interruption: OnInterruption = OnInterruption.RESTART
    caller: str = ""
    """Whose budget it is (`Caller.name`)."""


@dataclass(frozen=True, slots=True)
class BegunTurn:
    """A turn that is now to be answered, and the latest completed turns before it, oldest first."""

    turn: Turn
    over_time: datetime
    """When the turn is over if nobody ends it before. It names this beginning of the turn: once another one took its
    place, what this one brings is refused."""
    earlier: Sequence[Turn] = field(default_factory=tuple)
    request_id: UUID | None = None
    unstored_request: TurnRequest | None = None
    """What was asked, where the question could not be stored; None where it is."""


class ConversationStore(Protocol):
    """Keeps conversations. All methods raise `Unavailable` where the database is down."""

    def begin_turn(self, tenant: str, request: TurnRequest, timeout_s: float, history_turns: int) -> BegunTurn | Turn:
        """Store the question as a RUNNING turn; or, for a request_id whose turn is complete, give that turn.

        A turn of the same request_id that is INCOMPLETE, or over by its time, is begun again. Raises NotFound for the
        conversation, TurnInProgress, and InvalidArgument where the request_id came with another question before.
        """
        ...

    def complete_turn(self, tenant: str, begun: BegunTurn, answer: Answer) -> Turn:
        """Store the answer.

        Raises NotFound where the conversation was deleted meanwhile, and TurnInProgress where the turn was begun again.
        """
        ...

    def abandon_turn(self, tenant: str, begun: BegunTurn, attempts: Sequence[AttemptRecord]) -> None:
        """Mark it INCOMPLETE, unless it is complete or was begun again."""
        ...

    def get(self, tenant: str, id: UUID) -> Conversation:
        """Raises NotFound."""
        ...

    def list_conversations(
        self, tenant: str, chat_configuration: str, before: tuple[datetime, UUID] | None, limit: int
    ) -> list[Conversation]:
        """Newest first, those behind the (create_time, id) `before`; "" means of all configurations."""
        ...

    def list_turns(self, tenant: str, conversation: UUID, after: int, limit: int) -> list[Turn]:
        """Oldest first, those behind number `after`. Raises NotFound."""
        ...

    def delete(self, tenant: str, id: UUID) -> None:
        """Raises NotFound."""
        ...
