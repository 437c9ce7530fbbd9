"""Speaks to any server with OpenAI's chat completions: OpenAI itself, vLLM, llama.cpp server, Ray Serve.

One attempt is one `POST {base_url}/chat/completions` with `"stream": true`. An answer is whole at `[DONE]`, or where
the body ends properly after a `finish_reason` (some servers leave `[DONE]` out). A server that does not stream answers
one JSON object. Failures come as a status with `{"error": {...}}`, or as such an object within the stream.
https://platform.openai.com/docs/api-reference/chat-streaming
"""

import json
import re
import ssl
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

from dari.adapters.http_stream import (
    ALL_TOLD,
    Exchange,
    HttpAttempt,
    HttpNeighbour,
    Reply,
    Sorting,
    TextRule,
    json_object,
)
from dari.core.upstream import FailureKind, Prompt, UpstreamError

MAX_PROMPT_CHARS = 1024 * 1024
"""The longest prompt that is sent; the server's own limit, in tokens, is mostly far below."""

_UPSTREAM, _BUSY, _OURS, _CALLERS = FailureKind.UPSTREAM, FailureKind.BUSY, FailureKind.OURS, FailureKind.CALLERS

_SORTING = Sorting(
    final={413: (_CALLERS, "question_too_long")},
    texts=tuple(
        TextRule(re.compile(pattern, re.IGNORECASE), cause)
        for pattern, cause in (
            # OpenAI's code, vLLM's words, llama.cpp's type and words.
            (
                r"context_length_exceeded|maximum context length|exceed_context_size|available context size",
                (_CALLERS, "question_too_long"),
            ),
            (r"insufficient_quota", (_OURS, "quota_exhausted")),
            (r"content_policy_violation|content_filter", (_CALLERS, "question_refused")),
            (r"invalid_api_key", (_OURS, "unauthorized")),
            (r"model_not_found", (_OURS, "unknown_model")),
            (r"rate_limit_exceeded", (_BUSY, "rate_limited")),
        )
    ),
    statuses={
        401: (_OURS, "unauthorized"),
        403: (_OURS, "unauthorized"),
        404: (_OURS, "unknown_model"),
        408: (_UPSTREAM, "upstream_timed_out"),
        429: (_BUSY, "rate_limited"),
    },
    otherwise=(_UPSTREAM, "model_failed"),
)

_FINISHED_BADLY = {
    # `stop`, `length` (our own max_tokens) and all others end an answer that is whole.
    "content_filter": (_CALLERS, "question_refused"),
    "error": (_UPSTREAM, "model_failed"),
}


class OpenAiCompatibleUpstream:
    """An `Upstream`: one model of one server. Thread-safe; `close` when no attempt runs any more.

    `base_url` ends before `/chat/completions` (mostly in `/v1`). Raises `UpstreamError` (ours) where address or key
    cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.model = model
        self._neighbour = HttpNeighbour(base_url, api_key, ssl_context, now)
        self._completions = self._neighbour.url("/chat/completions")

    def __repr__(self) -> str:
        return f"OpenAiCompatibleUpstream({str(self._neighbour.base_url)!r}, {self.model!r})"

    continues = False
    """The API has no word for it: some servers go on behind a last message of the assistant, others answer it."""

    def attempt(self, prompt: Prompt, connect_timeout_s: float) -> HttpAttempt:
        return self._neighbour.attempt(
            lambda exchange: self._answer(exchange, prompt), connect_timeout_s, prompt.traceparent
        )

    def answers(self, timeout_s: float) -> bool:
        """Whether its server answers within `timeout_s`, and not with a failure of its own; needs no valid key."""
        status = self.probe(timeout_s)
        return status is not None and status < 500

    def probe(self, timeout_s: float) -> int | None:
        """The HTTP status of its list of models, asked for with the key; None where no answer comes in time."""
        try:
            return int(self._neighbour.look(self._status, timeout_s))
        except UpstreamError:
            return None

    def _status(self, exchange: Exchange) -> Generator[str]:
        with exchange.get(self._neighbour.url("/models")) as reply:
            yield str(reply.status)

    def close(self) -> None:
        self._neighbour.close()

    def _answer(self, exchange: Exchange, prompt: Prompt) -> Generator[str]:
        with exchange.post(self._completions, _completion_body(self.model, prompt)) as reply:
            yield from _pieces(reply)


def _completion_body(model: str, prompt: Prompt) -> dict[str, object]:
    messages = [{"role": "system", "content": prompt.instructions}] if prompt.instructions else []
    messages += [{"role": message.role, "content": message.text} for message in prompt.history]
    messages.append({"role": "user", "content": prompt.question})
    if sum(len(message["content"]) for message in messages) > MAX_PROMPT_CHARS:
        raise UpstreamError(_CALLERS, "question_too_long")
    return {"model": model, "messages": messages, "max_tokens": prompt.max_answer_tokens, "stream": True}


def _pieces(reply: Reply) -> Iterator[str]:
    if reply.status != 200:
        raise reply.failure(_SORTING)
    if reply.media_type == "text/event-stream":
        yield from _streamed(reply)
    elif reply.media_type == "application/json":
        yield from _choice(reply.json_object(), "message")[0]
    elif reply.media_type == "text/html":
        raise UpstreamError(_OURS, "wrong_url")
    else:
        raise UpstreamError(_UPSTREAM, "malformed_response")


def _streamed(reply: Reply) -> Iterator[str]:
    finished = False
    for sent in reply.events():
        if sent is None:
            yield ALL_TOLD
            continue
        if sent.data.strip() == b"[DONE]":
            reply.finish()
            return
        pieces, finish_reason = _choice(json_object(sent.data), "delta")
        yield from pieces
        finished = finished or finish_reason is not None
    if not finished:
        raise UpstreamError(_UPSTREAM, "stream_cut")


def _choice(completion: dict[str, Any], part: str) -> tuple[list[str], str | None]:
    """The text of the only choice, and why it ended; no text in chunks that tell roles or usage."""
    if completion.get("error") is not None:
        raise UpstreamError(*(_SORTING.by_text(json.dumps(completion["error"])) or _SORTING.otherwise))
    try:
        choice = completion["choices"][0] if completion.get("choices") else {}
        text = (choice.get(part) or {}).get("content")
        finish_reason = choice.get("finish_reason")
    except (TypeError, KeyError, AttributeError):
        raise UpstreamError(_UPSTREAM, "malformed_stream") from None
    if not isinstance(text, str | None) or not isinstance(finish_reason, str | None):
        raise UpstreamError(_UPSTREAM, "malformed_stream")
    if finish_reason in _FINISHED_BADLY:
        raise UpstreamError(*_FINISHED_BADLY[finish_reason])
    return ([text] if text else []), finish_reason
