"""Asks upstreams in tests: at once, or on a thread of its own that can be aborted."""

import threading
from collections.abc import Generator
from uuid import uuid4

import pytest

from dari.core.upstream import Attempt, FailureKind, Prompt, Upstream, UpstreamError

CONNECT_TIMEOUT_S = 5.0
SOON_S = 10.0
"""How long a test waits for what must happen at once before it fails."""


def new_prompt(question: str = "hi") -> Prompt:
    return Prompt(str(uuid4()), "", (), question, 100)


def texts(attempt: Attempt) -> Generator[str]:
    """The pieces of the answer without the signs before them."""
    for piece in attempt.tokens():
        if isinstance(piece, str):
            yield piece


def ask(upstream: Upstream, prompt: Prompt | None = None) -> str:
    return "".join(texts(upstream.attempt(prompt or new_prompt(), CONNECT_TIMEOUT_S)))


def failure_of(upstream: Upstream, prompt: Prompt | None = None) -> tuple[list[str], UpstreamError]:
    """The tokens that came and the failure that ended them."""
    tokens: list[str] = []
    with pytest.raises(UpstreamError) as caught:
        tokens.extend(texts(upstream.attempt(prompt or new_prompt(), CONNECT_TIMEOUT_S)))
    return tokens, caught.value


class Asking:
    """One attempt, iterated on a thread of its own."""

    def __init__(self, upstream: Upstream, connect_timeout_s: float = 60.0) -> None:
        self.attempt = upstream.attempt(new_prompt(), connect_timeout_s)
        self._changed = threading.Condition()
        self._text = ""
        self._failure: UpstreamError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for token in texts(self.attempt):
                with self._changed:
                    self._text += token
                    self._changed.notify_all()
        except UpstreamError as failure:
            self._failure = failure

    def wait_for_text(self, text: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._text == text, SOON_S)

    def wait_for_end(self) -> None:
        """The thread is free, soon."""
        self._thread.join(SOON_S)
        assert not self._thread.is_alive()

    def failure(self) -> UpstreamError:
        """What ended the attempt, soon."""
        self.wait_for_end()
        assert self._failure is not None
        return self._failure

    def assert_cancelled(self) -> None:
        """The thread is free and the attempt knows why."""
        assert self.failure().kind is FailureKind.CANCELLED
