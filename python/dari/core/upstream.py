"""What dari asks of whatever can answer a question: a Flowise flow, an OpenAI-compatible server, the local model.

An *upstream* is one such neighbour; an *attempt* is one question put to it. The chain (`core.chain`) drives attempts
and holds all timers; an adapter only speaks its neighbour's language and sorts its failures into `FailureKind`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One earlier message of the conversation."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """All that one attempt may tell its upstream; rows and history are already limited to what it may see."""

    attempt_id: str
    """New for every attempt (a UUID)."""
    instructions: str
    """How to answer, and the retrieved rows, numbered and delimited as data. May be empty."""
    history: tuple[Message, ...]
    """Earlier turns, oldest first: all that the upstream may know of the conversation. It remembers none by itself."""
    question: str
    max_answer_tokens: int
    answer_begun: str = ""
    """Text with which the answer begins, written by another model: go on right behind it, and do not repeat it. It ends
    with a whole word, and not with a blank. Only for an upstream that `continues`."""
    traceparent: str = ""
    """W3C Trace Context of the attempt, for an upstream that traces; empty where nobody does. No part of the text."""


class FailureKind(Enum):
    """Whose fault a failure is, and so what the chain does next."""

    UPSTREAM = "upstream"
    """The neighbour failed: count it in its circuit, go on to the next model."""
    BUSY = "busy"
    """The neighbour refuses for now (429, full queue): go on, do not count."""
    OURS = "ours"
    """Our configuration is wrong (flow id, key): go on so that the user is answered, do not count, tell operators."""
    CALLERS = "callers"
    """The question itself is at fault: do not go on; but for `QUESTION_TOO_LONG`, which is this model's measure."""
    CANCELLED = "cancelled"
    """`abort` was called: neutral."""


QUESTION_TOO_LONG = "question_too_long"
"""The code of a question that one model cannot hold: go on, another one may hold more."""


class UpstreamError(Exception):
    """An attempt failed. `code` is one snake_case word fit for logs and metrics; no foreign text is kept."""

    def __init__(self, kind: FailureKind, code: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{kind.value}: {code}")
        self.kind = kind
        self.code = code
        self.retry_after_s = retry_after_s


class Sign(Enum):
    """What an attempt tells before its first piece of text, where it can."""

    ASKED = "asked"
    """It asks now; this neighbour is heard within moments, however long its model thinks, or hangs."""
    HEARD = "heard"
    """The neighbour was heard: headers came, say. The text has its own time."""


class Attempt(Protocol):
    """One question put to one upstream. Iterated by one thread; `abort` may come from any other."""

    def tokens(self) -> Iterator[str | Sign]:
        """Yield the answer's text piece by piece, no piece empty, and return only when the answer is whole.

        Signs may come before the first piece, each ASKED followed by HEARD.

        Raises `UpstreamError` for every other ending: a refused connection, an error event, a cut stream, an answer
        without text, `abort`. Nothing is sent before the first `next`. All resources are released when it ends.
        """
        ...

    def abort(self) -> None:
        """Make `tokens` raise `UpstreamError(CANCELLED)` at once, also when it is blocked. Never blocks; idempotent."""
        ...


class Upstream(Protocol):
    """A neighbour that can answer, ready to be asked by many threads at once."""

    @property
    def continues(self) -> bool:
        """Whether it can go on behind the beginning of an answer (`Prompt.answer_begun`) as if it had written it."""
        ...

    def attempt(self, prompt: Prompt, connect_timeout_s: float) -> Attempt: ...
