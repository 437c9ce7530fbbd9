"""Speaks to a Flowise chatflow (3.1.4, as measured; tests/data/flowise holds the bytes that a real one sent).

One attempt is one `POST /api/v1/prediction/{flow_id}` with `"streaming": true`. What must be known to read this:

- HTTP 200 and headers come at once, whatever follows. An answer is `token` events, then `metadata`, then `end`; `start`
  is no token; `:heartbeat` comments mean nothing; a failure is an `error` event, whose text is its only reason.
- A flow that cannot stream answers JSON instead. A wrong path answers the web page, under 200.
- `chatId` names one request: two streams under one chatId mix. It also names the flow's memory, so that without an
  `overrideConfig.sessionId` each attempt begins with an empty one, and `history` is all that the model knows. (Under
  one sessionId, `history` would come before what is remembered already, and Flowise remembers answers that it went on
  to write after dari had left.)
- An unknown flow that is asked to stream sends no byte, ever. So a flow is looked up before its first question, and
  again after a question that was given up before any header came: the look-up answers at once and in plain words.
- So a flow that streams is heard within milliseconds, and a Flowise that hangs is known by its silence: `Sign`.
- One run of 8 KB without a blank stops the whole Flowise for 5 s: `break_long_runs`.
"""

import re
import ssl
import time
from collections.abc import Callable, Generator, Iterator
from enum import Enum
from uuid import UUID, uuid4

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
from dari.core.upstream import FailureKind, Message, Prompt, Sign, UpstreamError

MAX_QUESTION_CHARS = 64 * 1024
"""The longest composed question. 200 KB of words took a real Flowise 0.1 s; what bounds it is the cost of blank-less
text (`MAX_RUN_CHARS`), of which 64 Ki characters in broken runs cost about 3.5 s."""

MAX_RUN_CHARS = 256
"""The longest run without a blank that leaves. Flowise's token counter is quadratic in such a run (2 KB 0.8 s, 4 KB
2.5 s, 8 KB 8.6 s, so about 0.2 µs a byte squared) and stops the server meanwhile: 256 ASCII letters cost 13 ms, 256
characters of four bytes 0.2 s. A word of any language and most URLs are shorter."""

_UPSTREAM, _BUSY, _OURS, _CALLERS = FailureKind.UPSTREAM, FailureKind.BUSY, FailureKind.OURS, FailureKind.CALLERS

# The text of an `error` event is also the `message` of the JSON answer with status 500. Flowise puts its own words or
# those of the model's client behind "Error: predictionsServices.buildChatflow - " (agent flows: "... node: ").
# A model's 429 is *busy* though Flowise itself is well: neither should be counted, and both pass by themselves. A
# model's 4xx else is *ours*: the flow's model, credential or parameters are wrong, and the same flow answers so again.
_SAYS = r"(?:^|- |: )"
_SORTING = Sorting(
    final={
        # 429 has the text that the flow's owner configured, 403 and 413 say all by themselves.
        401: (_OURS, "flowise_unauthorized"),
        403: (_OURS, "forbidden"),
        413: (_CALLERS, "question_too_long"),
        429: (_BUSY, "rate_limited"),
    },
    texts=tuple(
        TextRule(re.compile(pattern), cause)
        for pattern, cause in (
            (r"- Unauthorized\b", (_OURS, "flowise_unauthorized")),
            (r"Chatflow \S+ not found\b", (_OURS, "unknown_flow")),
            (r"Invalid Chatflow ID", (_OURS, "invalid_flow_id")),
            (r"Invalid chatId", (_OURS, "request_rejected")),
            (r"isDeniedIP|denied by policy", (_OURS, "model_host_denied")),
            (_SAYS + r"429 .*(?:current quota|insufficient_quota)", (_OURS, "model_quota_exhausted")),
            (_SAYS + r"429\b", (_BUSY, "model_rate_limited")),
            (_SAYS + r"400 .*(?:context length|context_length|context size)", (_CALLERS, "question_too_long")),
            (_SAYS + r"40[13]\b", (_OURS, "model_unauthorized")),
            (_SAYS + r"404\b", (_OURS, "model_unknown")),
            (_SAYS + r"413\b", (_CALLERS, "question_too_long")),
            (_SAYS + r"4\d\d\b", (_OURS, "model_rejected_request")),
            (_SAYS + r"5\d\d\b", (_UPSTREAM, "model_failed")),
            (_SAYS + r"Connection error", (_UPSTREAM, "model_unreachable")),
            (_SAYS + r"Request timed out", (_UPSTREAM, "model_timed_out")),
            (_SAYS + r"terminated\b", (_UPSTREAM, "model_cut")),
        )
    ),
    statuses={404: (_OURS, "wrong_url")},
    otherwise=(_UPSTREAM, "flowise_error"),
)


_STREAMS = re.compile(r'"isStreaming"\s*:\s*true')


class FlowHealth(Enum):
    """What `FlowiseUpstream.probe` found."""

    OK = "ok"
    UNREACHABLE = "unreachable"
    """No answer, or one that is not Flowise's."""
    NOT_STREAMING = "not_streaming"
    """Known, and answers as a whole: its first token comes with its last."""
    UNKNOWN_FLOW = "unknown_flow"


class FlowiseUpstream:
    """An `Upstream`: one chatflow of one Flowise server. Thread-safe; `close` when no attempt runs any more.

    `base_url` is what stands before `/api/v1`. Raises `UpstreamError` (ours) where flow id, address or key cannot be
    used. Flowise reads no token limit from a request, so `Prompt.max_answer_tokens` is the flow's own affair.
    """

    def __init__(
        self,
        base_url: str,
        flow_id: str,
        api_key: str | None,
        *,
        max_question_chars: int = MAX_QUESTION_CHARS,
        ssl_context: ssl.SSLContext | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        try:
            self.flow_id = str(UUID(flow_id))
        except ValueError:
            raise UpstreamError(_OURS, "invalid_flow_id") from None
        self._max_question_chars = max_question_chars
        self._neighbour = HttpNeighbour(base_url, api_key, ssl_context, now)
        self._prediction = self._neighbour.url(f"/api/v1/prediction/{self.flow_id}")
        self._lookup = self._neighbour.url(f"/api/v1/chatflows-streaming/{self.flow_id}")
        self._streams: bool | None = None
        """Whether the flow streams, by its look-up; None before. Set by any thread: at worst a look-up too many."""

    def __repr__(self) -> str:
        return f"FlowiseUpstream({str(self._neighbour.base_url)!r}, {self.flow_id!r})"

    continues = False
    """A flow makes its own prompt; what the answer begins with cannot be told."""

    def attempt(self, prompt: Prompt, connect_timeout_s: float) -> HttpAttempt:
        return self._neighbour.attempt(
            lambda exchange: self._answer(exchange, prompt), connect_timeout_s, prompt.traceparent
        )

    def probe(self, timeout_s: float) -> FlowHealth:
        """Ask Flowise, within `timeout_s`, whether it knows the flow; needs no key and no model."""
        try:
            return FlowHealth(self._neighbour.look(self._found, timeout_s))
        except UpstreamError:
            return FlowHealth.UNREACHABLE

    def answers(self, timeout_s: float) -> bool:
        """Whether its server answers within `timeout_s` as Flowise does, to whatever flow."""
        return self.probe(timeout_s) is not FlowHealth.UNREACHABLE

    def close(self) -> None:
        self._neighbour.close()

    def _answer(self, exchange: Exchange, prompt: Prompt) -> Generator[str | Sign]:
        body = _prediction_body(prompt, self._max_question_chars)
        streams = self._streams
        if streams is None:
            yield Sign.ASKED
            health, streams = self._look_up(exchange)
            yield Sign.HEARD
            if health is FlowHealth.UNKNOWN_FLOW:
                raise UpstreamError(_OURS, "unknown_flow")
            self._streams = streams
        if streams:
            yield Sign.ASKED
        headers_came = False
        try:
            # A chatId that is sent again would mix two streams, should the first request have come through after all.
            with exchange.post(self._prediction, body, chatId=str(uuid4())) as reply:
                headers_came = True
                if streams:
                    yield Sign.HEARD
                yield from _pieces(reply)
        finally:
            if exchange.aborted and not headers_came:
                self._streams = None

    def _found(self, exchange: Exchange) -> Generator[str]:
        health, streams = self._look_up(exchange)
        yield (FlowHealth.NOT_STREAMING if health is FlowHealth.OK and not streams else health).value

    def _look_up(self, exchange: Exchange) -> tuple[FlowHealth, bool]:
        """How the flow is, and whether it streams. Flowise makes a stream's headers depend on the same look-up."""
        with exchange.get(self._lookup) as reply:
            text = reply.error_text()
            if reply.status == 200 and '"isStreaming"' in text:
                return FlowHealth.OK, _STREAMS.search(text) is not None
            unknown = _SORTING.by_text(text) in ((_OURS, "unknown_flow"), (_OURS, "invalid_flow_id"))
            return FlowHealth.UNKNOWN_FLOW if unknown else FlowHealth.UNREACHABLE, False


def compose_question(prompt: Prompt) -> str:
    """What Flowise gets as `question`: the instructions with the rows, an empty line, and the caller's question.

    Flowise has no other field that every flow hands to its model: a system message belongs to the flow.
    """
    question = f"{prompt.instructions}\n\n{prompt.question}" if prompt.instructions else prompt.question
    return break_long_runs(question)


def break_long_runs(text: str) -> str:
    """Put a blank after every `MAX_RUN_CHARS` characters of a run without white space."""
    return _LONG_RUN.sub(r"\g<0> ", text)


_LONG_RUN = re.compile(rf"\S{{{MAX_RUN_CHARS}}}(?=\S)")


def _prediction_body(prompt: Prompt, max_chars: int) -> dict[str, object]:
    question = compose_question(prompt)
    if len(question) > max_chars:
        raise UpstreamError(_CALLERS, "question_too_long")
    body: dict[str, object] = {
        "question": question,
        "streaming": True,
        "chatId": prompt.attempt_id,
    }
    history = _history(prompt.history, max_chars - len(question))
    return body | {"history": history} if history else body


def _history(messages: tuple[Message, ...], max_chars: int) -> list[dict[str, str]]:
    """The newest messages that fit, oldest first."""
    fitting: list[dict[str, str]] = []
    for message in reversed(messages):
        text = break_long_runs(message.text)
        max_chars -= len(text)
        if max_chars < 0:
            break
        fitting.append({"role": "userMessage" if message.role == "user" else "apiMessage", "content": text})
    return fitting[::-1]


def _pieces(reply: Reply) -> Iterator[str]:
    if reply.status != 200:
        raise reply.failure(_SORTING)
    if reply.media_type == "text/event-stream":
        yield from _streamed(reply)
    elif reply.media_type == "application/json":
        yield _text(reply.json_object().get("text", ""))
    elif reply.media_type == "text/html":
        # Flowise sends its web page for paths that it does not know, and other servers do so too.
        raise UpstreamError(_OURS, "wrong_url")
    else:
        raise UpstreamError(_UPSTREAM, "malformed_response")


def _streamed(reply: Reply) -> Iterator[str]:
    """The tokens of an event stream; returns at `end` and nowhere else."""
    metadata_seen = False
    for sent in reply.events():
        if sent is None:
            yield ALL_TOLD
            continue
        event = json_object(sent.data)
        match event.get("event"):
            case "token" if not metadata_seen:
                yield _text(event.get("data"))
            case "token":
                raise UpstreamError(_UPSTREAM, "malformed_stream")
            case "metadata":
                metadata_seen = True
            case "error":
                text = event.get("data")
                raise UpstreamError(*(_SORTING.by_text(text if isinstance(text, str) else "") or _SORTING.otherwise))
            case "end" if metadata_seen:
                reply.finish()
                return
            case "end":
                raise UpstreamError(_UPSTREAM, "end_without_metadata")
            case _:
                pass  # `start`, and what agent flows tell about their steps
    raise UpstreamError(_UPSTREAM, "stream_cut")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise UpstreamError(_UPSTREAM, "malformed_stream")
    return value
