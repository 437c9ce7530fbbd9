"""The questions to the local model: a bounded queue, those that are being answered, and the attempts behind them.

Attempts are iterated and aborted by any thread, the keeper (see `process`) sends questions and deals out what comes
back; both meet here, under one lock that nobody holds while waiting. An attempt receives its events through a queue of
its own, so `abort` never blocks, whatever the child does.
"""

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dari.adapters.local_model.protocol import Frame
from dari.core.upstream import QUESTION_TOO_LONG, FailureKind, Prompt, UpstreamError

MAX_PROMPT_CHARS = 1_000_000
"""Far beyond any context here. A character takes six bytes of a frame at most, so every prompt fits into one."""


@dataclass(frozen=True, slots=True)
class _End:
    """The answer is whole."""


class LocalAttempt:
    """One question to the local model; see `core.upstream.Attempt`."""

    def __init__(self, questions: "Questions", number: int, prompt: Prompt) -> None:
        self.id = number
        self._questions = questions
        self._prompt = prompt
        self._events: queue.SimpleQueue[str | UpstreamError | _End] = queue.SimpleQueue()
        self._aborted = threading.Event()

    def tokens(self) -> Iterator[str]:
        """See `Attempt.tokens`. An answer that reaches `max_answer_tokens` is whole.

        Raises `UpstreamError`: BUSY `local_queue_full`; CALLERS `question_too_long` (another model may hold more);
        UPSTREAM `local_process_died`, `local_engine_failed`, `local_answer_empty`, `local_model_stopped`; OURS
        `local_model_…` where the file or its engine is wrong; CANCELLED `aborted`.
        """
        self._raise_if_aborted()
        if _length_chars(self._prompt) > MAX_PROMPT_CHARS:
            raise UpstreamError(FailureKind.CALLERS, QUESTION_TOO_LONG)
        self._questions.admit(self)
        has_text = bool(self._prompt.answer_begun.strip())
        try:
            while not isinstance(event := self._next_event(), _End):
                has_text = has_text or not event.isspace()
                yield event
        finally:
            self._questions.withdraw(self)
        if not has_text:
            raise UpstreamError(FailureKind.UPSTREAM, "local_answer_empty")

    def abort(self) -> None:
        """See `Attempt.abort`. The child is told to stop; the next question's turn comes when it has."""
        self._aborted.set()
        self.deal(_End())
        self._questions.withdraw(self)

    def deal(self, event: "str | UpstreamError | _End") -> None:
        """Hand over a piece, the end, or the failure of this attempt; never blocks."""
        self._events.put(event)

    def frame(self) -> Frame:
        """The question as a frame for the child."""
        system = [("system", self._prompt.instructions)] if self._prompt.instructions else []
        history = [(message.role, message.text) for message in self._prompt.history]
        begun = [("assistant", self._prompt.answer_begun)] if self._prompt.answer_begun else []
        messages = [*system, *history, ("user", self._prompt.question), *begun]
        return {"type": "ask", "id": self.id, "messages": messages, "max_tokens": self._prompt.max_answer_tokens}

    def _next_event(self) -> "str | _End":
        event = self._events.get()
        self._raise_if_aborted()
        if isinstance(event, UpstreamError):
            raise event
        return event

    def _raise_if_aborted(self) -> None:
        if self._aborted.is_set():
            raise UpstreamError(FailureKind.CANCELLED, "aborted")


def _length_chars(prompt: Prompt) -> int:
    history_chars = sum(len(message.text) for message in prompt.history)
    return len(prompt.instructions) + history_chars + len(prompt.question) + len(prompt.answer_begun)


@dataclass(slots=True)
class Questions:
    """All attempts that wait or run. Thread-safe.

    `changed` is notified at every change, and its lock guards all fields; `wake` tells the keeper to look.
    """

    changed: threading.Condition
    wake: Callable[[], None]
    queue_size: int
    slots: int
    """How many are answered at once; set anew when a child is ready."""
    refusal: UpstreamError | None = None
    """Why new attempts are refused at once; None lets them wait."""
    _waiting: deque[LocalAttempt] = field(default_factory=deque)
    _running: dict[int, LocalAttempt] = field(default_factory=dict)
    _to_cancel: list[int] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def attempt(self, prompt: Prompt) -> LocalAttempt:
        return LocalAttempt(self, next(self._ids), prompt)

    def counts(self) -> tuple[int, int]:
        """How many wait and how many run; call with the lock held."""
        return len(self._waiting), len(self._running)

    def admit(self, attempt: LocalAttempt) -> None:
        """Queue an attempt. Raises `UpstreamError` where waiting would be vain or the queue is full."""
        with self.changed:
            if self.refusal is not None:
                raise UpstreamError(self.refusal.kind, self.refusal.code)
            free_slots = max(0, self.slots - len(self._running))
            if len(self._waiting) >= self.queue_size + free_slots:
                raise UpstreamError(FailureKind.BUSY, "local_queue_full")
            self._waiting.append(attempt)
            self.changed.notify_all()
        self.wake()

    def withdraw(self, attempt: LocalAttempt) -> None:
        """Take an attempt back, wherever it stands; one that has ended, or was taken back, is left alone."""
        with self.changed:
            if attempt.id in self._running:
                self._to_cancel.append(attempt.id)
            elif attempt in self._waiting:
                self._waiting.remove(attempt)
                self.changed.notify_all()
            else:
                return
        self.wake()

    # --- what the keeper calls ---

    def next_frames(self) -> list[Frame]:
        """What is to be sent now: cancels, and questions for free slots.

        Invariant: a cancel goes out only for a question whose last frame has not come, so that frame confirms it.
        """
        with self.changed:
            cancels = dict.fromkeys(number for number in self._to_cancel if number in self._running)
            self._to_cancel.clear()
            starting: list[LocalAttempt] = []
            while self._waiting and len(self._running) < self.slots:
                attempt = self._waiting.popleft()
                self._running[attempt.id] = attempt
                starting.append(attempt)
            if starting:
                self.changed.notify_all()
        frames: list[Frame] = [{"type": "cancel", "id": number} for number in cancels]
        return frames + [attempt.frame() for attempt in starting]

    def deal_piece(self, number: int, piece: str) -> None:
        with self.changed:
            attempt = self._running.get(number)
        if attempt is not None:
            attempt.deal(piece)

    def end(self, number: int, error: UpstreamError | None) -> None:
        """The child's last word on a question: the answer is whole, or why it is not."""
        with self.changed:
            attempt = self._running.pop(number, None)
            self.changed.notify_all()
        if attempt is not None:
            attempt.deal(_End() if error is None else error)

    def fail_running(self, error: UpstreamError) -> int:
        """End all that are being answered; how many."""
        with self.changed:
            failed = list(self._running.values())
            self._running.clear()
            self._to_cancel.clear()
            self.changed.notify_all()
        return _fail(failed, error)

    def fail_waiting(self, error: UpstreamError) -> int:
        """End all that wait; how many."""
        with self.changed:
            failed = list(self._waiting)
            self._waiting.clear()
            self.changed.notify_all()
        return _fail(failed, error)


def _fail(attempts: list[LocalAttempt], error: UpstreamError) -> int:
    for attempt in attempts:
        # One exception object must not be raised by two threads: each would add its traceback.
        attempt.deal(UpstreamError(error.kind, error.code, error.retry_after_s))
    return len(attempts)
