"""The Flowise client against the bytes that a real Flowise 3.1.4 sent, and against a stand-in that misbehaves."""

import json
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.adapters.flowise import (
    MAX_QUESTION_CHARS,
    MAX_RUN_CHARS,
    FlowHealth,
    FlowiseUpstream,
    break_long_runs,
    compose_question,
)
from dari.core.upstream import FailureKind, Message, Prompt, Sign, UpstreamError
from tests.flowise_stand_in import (
    CAPTURES,
    FLOW_ID,
    Play,
    StandIn,
    Wire,
    answer,
    black_hole,
    cut_after,
    event,
    event_stream,
    fail_after,
    headers_only,
    heartbeats_only,
    huge_line,
    json_answer,
    never_answer,
    raw,
    replay,
    reset_after,
    response,
    stall_after,
    trickled,
    web_page,
)
from tests.support.asking import CONNECT_TIMEOUT_S, SOON_S, Asking, ask, failure_of, new_prompt, texts

UPSTREAM, BUSY, OURS, CALLERS = FailureKind.UPSTREAM, FailureKind.BUSY, FailureKind.OURS, FailureKind.CALLERS


@pytest.fixture
def flowise() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


class Connect(Protocol):
    """Makes an upstream that is closed when the test ends."""

    def __call__(
        self, base_url: str, flow_id: str = FLOW_ID, api_key: str | None = None, **settings: Any
    ) -> FlowiseUpstream: ...


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as opened:

        def connect(
            base_url: str, flow_id: str = FLOW_ID, api_key: str | None = None, **settings: Any
        ) -> FlowiseUpstream:
            return opened.enter_context(closing(FlowiseUpstream(base_url, flow_id, api_key, **settings)))

        yield connect


@pytest.fixture
def upstream(flowise: StandIn, connect: Connect) -> FlowiseUpstream:
    return connect(flowise.url)


ANSWERS: list[tuple[str, str]] = [
    ("02-predict-nonstream", "Echo(2 msgs, 11 chars): hello there"),
    ("03-predict-stream", "Echo(2 msgs, 12 chars): hello stream"),
    ("04-stream-slow-unicode", 'Héllo\n "wörld" 🎉\n\n 日本\u2028xdata: y end'),
    ("05a-chatId-1st", "Echo(2 msgs, 14 chars): my name is Bob"),
    ("05b-chatId-2nd", "Echo(4 msgs, 8 chars): who am I"),
    ("05c-sessionId", "Echo(2 msgs, 5 chars): third"),
    ("05d-history", "Echo(4 msgs, 14 chars): what did I say"),
    ("05e-stream-chatId", "Echo(6 msgs, 10 chars): stream 3rd"),
    ("05f-chatId-A-session-S", "Echo(2 msgs, 5 chars): first"),
    ("05g-chatId-B-session-S", "Echo(4 msgs, 6 chars): second"),
    ("05h-chatId-B-session-S-stream", "Echo(6 msgs, 5 chars): third"),
    ("07c-empty-body", "Echo(2 msgs, 9 chars): undefined"),
    ("07d-no-content-type", "Echo(2 msgs, 9 chars): undefined"),
    ("07e-no-question", "Echo(2 msgs, 9 chars): undefined"),
    ("07f-question-number", "Echo(2 msgs, 1 chars): 5"),
    ("07g-question-empty", "Echo(2 msgs, 0 chars): "),
    ("07h-streaming-string", "Echo(2 msgs, 1 chars): x"),
    ("07i-streaming-string-no", "Echo(2 msgs, 1 chars): x"),
    ("07j-json-array", "Echo(2 msgs, 9 chars): undefined"),
    ("07k-question-object-stream", 'Echo(2 msgs, 7 chars): {"a":1}'),
    ("07l-stream-on-nostream-model", "Echo(2 msgs, 1 chars): x"),
    ("07n-bad-utf8", "Echo(2 msgs, 2 chars): \ufffd\ufffd"),
    ("07p-chatid-empty-stream", "Echo(2 msgs, 1 chars): x"),
    ("11c-protected-rightkey", "Echo(2 msgs, 1 chars): x"),
    ("11f-protected-rightkey-stream", "Echo(2 msgs, 1 chars): x"),
    ("11g-open-flow-with-wrong-key", "Echo(2 msgs, 1 chars): x"),
    ("12i-8KB-one-word-stream", "Echo(2 msgs, 8000 chars): " + "a" * 60),
    ("13a-ratelimit-1", "Echo(2 msgs, 1 chars): x"),
    ("13b-ratelimit-2", "Echo(2 msgs, 1 chars): x"),
    ("14c-origin-none", "Echo(2 msgs, 1 chars): x"),
    ("15c-history-after-disconnect", "Echo(6 msgs, 5 chars): again"),
    ("16a-abort-stream", "t1 t2 t3 t4 t5 t6 t7 t8 t9 t10"),
    ("16d-abort-nonstream", "t1 t2 t3 t4 t5 t6 t7 t8 t9 t10"),
    # Two streams at once under one chatId, mixed by Flowise: why `chatId` is new for each attempt.
    ("17b-same-chatId-second", "B1 t5 B2 t6 B3 t7 B4 t8 B5 t9 B6 t10 B7"),
    ("19a-slow-35s-stream", 'Echo(2 msgs, 27 chars): slow [[{"first_delay":35}]]'),
    ("19b-slow-35s-nonstream", 'Echo(2 msgs, 27 chars): slow [[{"first_delay":35}]]'),
]

# Every failure that a real Flowise was seen to send: the capture, the text before it, kind and code.
FAILURES: list[tuple[str, str, FailureKind, str]] = [
    ("06a-unknown-id-nonstream", "", OURS, "unknown_flow"),
    ("06c-not-a-uuid", "", OURS, "invalid_flow_id"),
    ("06d-no-id", "", OURS, "flowise_unauthorized"),
    ("06e-get", "", OURS, "wrong_url"),
    ("07a-malformed", "", OURS, "request_rejected"),
    ("07b-malformed-streaming", "", OURS, "request_rejected"),
    ("07m-json-scalar", "", OURS, "request_rejected"),
    ("07o-chatid-number", "", OURS, "request_rejected"),
    ("07q-chatid-number-stream", "", OURS, "request_rejected"),
    ("08a-upstream-down-nonstream", "", UPSTREAM, "model_unreachable"),
    ("08b-upstream-down-stream", "", UPSTREAM, "model_unreachable"),
    ("09-upstream-400-nonstream", "", OURS, "model_rejected_request"),
    ("09-upstream-400-stream", "", OURS, "model_rejected_request"),
    ("09-upstream-401-nonstream", "", OURS, "model_unauthorized"),
    ("09-upstream-401-stream", "", OURS, "model_unauthorized"),
    ("09-upstream-404-nonstream", "", OURS, "model_unknown"),
    ("09-upstream-429-nonstream", "", BUSY, "model_rate_limited"),
    ("09-upstream-429-stream", "", BUSY, "model_rate_limited"),
    ("09-upstream-500-nonstream", "", UPSTREAM, "model_failed"),
    ("09-upstream-500-stream", "", UPSTREAM, "model_failed"),
    ("09-upstream-hang-timeout3s-nonstream", "", UPSTREAM, "model_timed_out"),
    ("09-upstream-hang-timeout3s-stream", "", UPSTREAM, "model_timed_out"),
    ("10-upstream-dies-midstream-nonstream", "", UPSTREAM, "model_cut"),
    ("10-upstream-dies-midstream-stream", "abc", UPSTREAM, "model_cut"),
    ("10c-fake-killed-midstream", "t1 t2 t3 t4", UPSTREAM, "model_cut"),
    ("10d-fake-killed-nonstream", "", UPSTREAM, "model_cut"),
    ("11a-protected-nokey", "", OURS, "flowise_unauthorized"),
    ("11b-protected-wrongkey", "", OURS, "flowise_unauthorized"),
    ("11d-protected-nokey-stream", "", OURS, "flowise_unauthorized"),
    ("11e-protected-wrongkey-stream", "", OURS, "flowise_unauthorized"),
    ("12c-60MB-nonstream", "", CALLERS, "question_too_long"),
    ("12d-60MB-stream", "", CALLERS, "question_too_long"),
    ("13c-ratelimit-3-nonstream", "", BUSY, "rate_limited"),
    ("13d-ratelimit-4-stream", "", BUSY, "rate_limited"),
    ("14a-origin-bad-nonstream", "", OURS, "forbidden"),
    ("14b-origin-bad-stream", "", OURS, "forbidden"),
    ("18a-kill9-midstream", "t1 t2 t3", UPSTREAM, "stream_cut"),
    ("18b-kill9-midrequest-nonstream", "", UPSTREAM, "connection_closed"),
    ("18d-sigterm-midstream", "t1 t2 t3", UPSTREAM, "stream_cut"),
    ("18e-sigterm-midrequest-nonstream", "", UPSTREAM, "connection_closed"),
    ("21f-unknown-path", "", OURS, "flowise_unauthorized"),
    ("23-security-check-on", "", OURS, "model_host_denied"),
]
# The rows of the error table of Flowise 3.1.4 and the captures that show each: asked for JSON, asked for a stream.
ERROR_TABLE: dict[str, tuple[str, ...]] = {
    "unknown id": ("06a-unknown-id-nonstream", "06b-unknown-id-stream", "06b2-unknown-id-stream-600s"),
    "id not a uuid": ("06c-not-a-uuid", "06f-not-a-uuid-stream"),
    "no id": ("06d-no-id",),
    "GET on the prediction URL": ("06e-get",),
    "malformed JSON": ("07a-malformed", "07b-malformed-streaming"),
    "JSON scalar": ("07m-json-scalar",),
    "no body, or one that says nothing": ("07c-empty-body", "07d-no-content-type", "07e-no-question", "07j-json-array"),
    "question that is no text": ("07f-question-number", "07g-question-empty", "07k-question-object-stream"),
    "streaming that is no boolean": ("06g-unknown-id-streaming-string", "07h-streaming-string",
                                     "07i-streaming-string-no"),
    "bytes that are no UTF-8": ("07n-bad-utf8",),
    "chatId that is no text": ("07o-chatid-number", "07q-chatid-number-stream"),
    "empty chatId": ("07p-chatid-empty-stream",),
    "protected flow": ("11a-protected-nokey", "11b-protected-wrongkey", "11d-protected-nokey-stream",
                       "11e-protected-wrongkey-stream"),
    "unprotected flow, wrong key": ("11g-open-flow-with-wrong-key",),
    "rate limit": ("13c-ratelimit-3-nonstream", "13d-ratelimit-4-stream"),
    "origin not allowed": ("14a-origin-bad-nonstream", "14b-origin-bad-stream"),
    "body above 50 MB": ("12c-60MB-nonstream", "12d-60MB-stream", "12e-60MB-claimed-CL-only"),
    "one word of 8 KB": ("12i-8KB-one-word-stream",),
    "model down": ("08a-upstream-down-nonstream", "08b-upstream-down-stream"),
    "model answers 500": ("09-upstream-500-nonstream", "09-upstream-500-stream"),
    "model answers 400": ("09-upstream-400-nonstream", "09-upstream-400-stream"),
    "model answers 401": ("09-upstream-401-nonstream", "09-upstream-401-stream"),
    "model answers 404": ("09-upstream-404-nonstream",),
    "model answers 429": ("09-upstream-429-nonstream", "09-upstream-429-stream"),
    "model hangs": ("09-upstream-hang-nonstream", "09-upstream-hang-stream"),
    "model hangs, with a timeout": ("09-upstream-hang-timeout3s-nonstream", "09-upstream-hang-timeout3s-stream"),
    "model slow": ("19a-slow-35s-stream", "19b-slow-35s-nonstream"),
    "model dies in mid-stream": ("10-upstream-dies-midstream-nonstream", "10-upstream-dies-midstream-stream",
                                 "10c-fake-killed-midstream", "10d-fake-killed-nonstream"),
    "Flowise killed in mid-stream": ("18a-kill9-midstream", "18b-kill9-midrequest-nonstream", "18d-sigterm-midstream",
                                     "18e-sigterm-midrequest-nonstream"),
    "client leaves in mid-stream": ("15a-client-disconnect", "15c-history-after-disconnect"),
    "abort": ("16a-abort-stream", "16d-abort-nonstream"),
    "two streams with one chatId": ("17a-same-chatId-first", "17b-same-chatId-second"),
    "addresses denied by Flowise's own check": ("23-security-check-on",),
}  # fmt: skip

KILLED = "18"
"""Captures whose number begins so end with the server's death, which closed the connection."""

SILENT: list[tuple[str, str]] = [
    ("06b-unknown-id-stream", ""),
    ("06b2-unknown-id-stream-600s", ""),
    ("06f-not-a-uuid-stream", ""),
    ("06g-unknown-id-streaming-string", ""),
    ("09-upstream-hang-nonstream", ""),
    ("09-upstream-hang-stream", ""),
    ("12e-60MB-claimed-CL-only", ""),
    ("15a-client-disconnect", "t1 t2 t3 t4"),
    ("17a-same-chatId-first", "t1 t2 t3 t4"),
]
"""Captures that say nothing more, with the connection open; and the text before that."""


def as_captured(name: str) -> Play:
    return replay(name, then="close" if name.startswith(KILLED) else "")


Pace = Callable[[Play], Play]


@pytest.fixture(params=[lambda play: play, trickled], ids=["at once", "byte by byte"])
def pace(request: pytest.FixtureRequest) -> Pace:
    chosen: Pace = request.param
    return chosen


@pytest.mark.parametrize(("capture", "text"), ANSWERS)
def test_a_captured_answer_gives_its_exact_text(
    flowise: StandIn, upstream: FlowiseUpstream, pace: Pace, capture: str, text: str
) -> None:
    """Every token and nothing else: no `start`, no heartbeat, no line cut at U+2028; JSON where no stream is made."""
    flowise.script(pace(as_captured(capture)))
    assert ask(upstream) == text


@pytest.mark.parametrize(("capture", "text", "kind", "code"), FAILURES)
def test_a_captured_failure_is_sorted(
    flowise: StandIn, upstream: FlowiseUpstream, pace: Pace, capture: str, text: str, kind: FailureKind, code: str
) -> None:
    """The whole error table of a real Flowise, with the tokens that came before the error."""
    flowise.always(pace(as_captured(capture)))
    tokens, failure = failure_of(upstream)
    assert ("".join(tokens), failure.kind, failure.code) == (text, kind, code)


@pytest.mark.parametrize(("capture", "text"), SILENT)
def test_a_captured_silence_ends_by_abort_only(
    flowise: StandIn, upstream: FlowiseUpstream, capture: str, text: str
) -> None:
    """Silence is neither answer nor failure: the chain's timers decide. Its abort frees thread and connection."""
    flowise.script(as_captured(capture))
    asking = Asking(upstream)
    question = flowise.wait_for_questions(1)
    asking.wait_for_text(text)
    asking.attempt.abort()
    asking.assert_cancelled()
    assert question.hung_up.wait(SOON_S)


def test_every_capture_has_its_line_here() -> None:
    """A capture that is added to the data is added to a table; the look-ups are what the stand-in answers with."""
    listed = {line[0] for table in (ANSWERS, FAILURES, SILENT) for line in table}
    look_ups = {"21b-chatflows-streaming", "21d-chatflows-streaming-unknown"}
    assert {capture.stem for capture in CAPTURES.glob("*.raw")} == listed | look_ups


def test_every_row_of_the_error_table_is_replayed() -> None:
    """A row without its captures in the tables above would be sorted by nobody."""
    replayed = {line[0] for table in (ANSWERS, FAILURES, SILENT) for line in table}
    for row, captures in ERROR_TABLE.items():
        assert captures, row
        assert set(captures) <= replayed, row


@pytest.mark.parametrize(
    ("capture", "seconds"), [("13c-ratelimit-3-nonstream", 27.0), ("13d-ratelimit-4-stream", 26.0)]
)
def test_retry_after_is_told(flowise: StandIn, upstream: FlowiseUpstream, capture: str, seconds: float) -> None:
    """429 comes as text/html with the seconds in a header."""
    flowise.script(replay(capture))
    assert failure_of(upstream)[1].retry_after_s == seconds


def test_retry_after_may_be_a_date(flowise: StandIn, connect: Connect) -> None:
    """RFC 9110 allows an HTTP date; a proxy in front of Flowise may send one."""
    noon = datetime(2026, 10, 14, 12, 0, 0, tzinfo=UTC)
    upstream = connect(flowise.url, now=noon.timestamp)
    flowise.script(response(429, "slow down", content_type="text/html", Retry_After="Wed, 14 Oct 2026 12:00:30 GMT"))
    failure = failure_of(upstream)[1]
    assert (failure.kind, failure.retry_after_s) == (BUSY, 30.0)


MISBEHAVIOUR: list[tuple[str, Play, str, FailureKind, str]] = [
    ("cut after two tokens", cut_after("a", "b"), "ab", UPSTREAM, "stream_cut"),
    ("cut before any token", cut_after(), "", UPSTREAM, "stream_cut"),
    ("reset before any token", reset_after(), "", UPSTREAM, "connection_reset"),
    ("an error after a token", fail_after("a"), "a", UPSTREAM, "model_cut"),
    ("an error of another kind", fail_after(text="Error: something new"), "", UPSTREAM, "flowise_error"),
    ("no quota", fail_after(text="Error: x - 429 You exceeded your current quota"), "", OURS, "model_quota_exhausted"),
    (
        "a context that is too long",
        fail_after(text="Error: x - 400 This model's maximum context length is 4096"),
        "",
        CALLERS,
        "question_too_long",
    ),
    ("an agent flow's error", fail_after(text="Error: x - Error in LLM: 429 slow"), "", BUSY, "model_rate_limited"),
    ("metadata and end without a token", answer(), "", UPSTREAM, "empty_answer"),
    ("empty tokens", answer("", ""), "", UPSTREAM, "empty_answer"),
    ("white space", answer(" ", "\n"), "", UPSTREAM, "empty_answer"),
    ("empty JSON text", json_answer(""), "", UPSTREAM, "empty_answer"),
    ("JSON without text", response(200, '{"version":"3.1.4"}'), "", UPSTREAM, "empty_answer"),
    ("JSON text that is no text", response(200, '{"text":1}'), "", UPSTREAM, "malformed_stream"),
    ("JSON that is no object", response(200, "[]"), "", UPSTREAM, "malformed_stream"),
    ("JSON that is none", response(200, "<"), "", UPSTREAM, "malformed_stream"),
    ("JSON nested too deep", response(200, "[" * 200_000), "", UPSTREAM, "malformed_stream"),
    ("a web page", web_page(), "", OURS, "wrong_url"),
    ("plain text", response(200, "hello", content_type="text/plain"), "", UPSTREAM, "malformed_response"),
    ("a compressed body", response(200, "{}", Content_Encoding="gzip"), "", UPSTREAM, "malformed_response"),
    ("a redirect", response(302, "", Location="http://127.0.0.1:1/"), "", OURS, "wrong_url"),
    ("another 404", response(404, "not here", content_type="text/plain"), "", OURS, "wrong_url"),
    ("a proxy's 502", response(502, "bad gateway", content_type="text/html"), "", UPSTREAM, "flowise_error"),
    ("a huge error body", response(500, "x" * 300_000), "", UPSTREAM, "flowise_error"),
    ("end without metadata", event_stream(event("token", "a"), event("end", "[DONE]")), "a", UPSTREAM,
     "end_without_metadata"),
    ("a token after metadata", event_stream(event("token", "a"), event("metadata", {}), event("token", "b")), "a",
     UPSTREAM, "malformed_stream"),
    ("a whole body without end", event_stream(event("token", "a"), event("metadata", {})), "a", UPSTREAM, "stream_cut"),
    ("a token that is no text", event_stream(event("token", {"a": 1})), "", UPSTREAM, "malformed_stream"),
    ("an event that is no JSON", event_stream(b"data:token\n\n"), "", UPSTREAM, "malformed_stream"),
    ("an event of invalid UTF-8", event_stream(b'data:{"event":"token","data":"\xff"}\n\n'), "", UPSTREAM,
     "malformed_stream"),
    ("a line without end", huge_line(17 * 1024 * 1024), "", UPSTREAM, "event_too_large"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("play", "text", "kind", "code"), [line[1:] for line in MISBEHAVIOUR], ids=[line[0] for line in MISBEHAVIOUR]
)
def test_misbehaviour_is_sorted(
    flowise: StandIn, upstream: FlowiseUpstream, play: Play, text: str, kind: FailureKind, code: str
) -> None:
    """What a real Flowise was not seen to send, or what stands in front of one: never an answer, never a hang."""
    flowise.script(play)
    tokens, failure = failure_of(upstream)
    assert ("".join(tokens), failure.kind, failure.code) == (text, kind, code)


def test_a_reset_between_tokens_is_sorted(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """The tokens that were read stand; what the system buffered may be lost with the connection."""
    read = threading.Event()
    flowise.script(reset_after("a", read))
    tokens = texts(upstream.attempt(new_prompt(), CONNECT_TIMEOUT_S))
    assert next(tokens) == "a"
    read.set()
    with pytest.raises(UpstreamError) as caught:
        next(tokens)
    assert (caught.value.kind, caught.value.code) == (UPSTREAM, "connection_reset")


def test_a_closed_port_is_a_refused_connection(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """C1; and the same upstream answers again as soon as Flowise is back, though its old connections are dead."""
    assert ask(upstream) == "Hello there"
    flowise.stop()
    failure = failure_of(upstream)[1]
    assert (failure.kind, failure.code) == (UPSTREAM, "connection_refused")
    flowise.start()
    assert ask(upstream) == "Hello there"


def test_a_port_that_takes_no_connection_is_a_connect_timeout(connect: Connect) -> None:
    """A connect ends by its own timeout, without the chain."""
    with black_hole() as url:
        upstream = connect(url)
        with pytest.raises(UpstreamError) as caught:
            list(upstream.attempt(new_prompt(), connect_timeout_s=0.05).tokens())
    assert (caught.value.kind, caught.value.code) == (UPSTREAM, "connect_timeout")


def test_a_host_without_an_address_is_not_found(connect: Connect) -> None:
    """`.invalid` never resolves (RFC 6761)."""
    upstream = connect("http://flowise.invalid:3000")
    failure = failure_of(upstream)[1]
    assert (failure.kind, failure.code) == (UPSTREAM, "host_not_found")


def test_a_host_name_is_resolved(flowise: StandIn, connect: Connect) -> None:
    """A name goes another way than an address; here it has an IPv6 address too, where nobody listens."""
    assert ask(connect(f"http://localhost:{flowise.port}")) == "Hello there"


@pytest.mark.parametrize(
    "play",
    [never_answer(), headers_only(), heartbeats_only(), stall_after()],
    ids=["never answers", "headers only", "heartbeats only", "start only"],
)
@pytest.mark.parametrize("connection", ["new", "kept"])
def test_abort_frees_a_thread_that_waits_for_the_first_token(
    flowise: StandIn, upstream: FlowiseUpstream, play: Play, connection: str
) -> None:
    """C2, C9: on a new connection and on one from the pool; Flowise sees it closed."""
    if connection == "kept":
        ask(upstream)
    before = len(flowise.questions)
    flowise.script(play)
    asking = Asking(upstream)
    question = flowise.wait_for_questions(before + 1)
    asking.attempt.abort()
    asking.assert_cancelled()
    assert question.hung_up.wait(SOON_S)
    assert ask(upstream) == "Hello there"


def test_abort_frees_a_thread_that_waits_between_tokens(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """C4, C9: the stall timer's case."""
    flowise.script(stall_after("a", "b"))
    asking = Asking(upstream)
    asking.wait_for_text("ab")
    asking.attempt.abort()
    asking.assert_cancelled()
    assert flowise.questions[0].hung_up.wait(SOON_S)


def test_abort_frees_a_thread_that_is_connecting(connect: Connect) -> None:
    """A black hole must not hold the caller for the whole connect timeout."""
    with black_hole() as url:
        asking = Asking(connect(url), connect_timeout_s=600.0)
        asking.attempt.abort()
        asking.assert_cancelled()


def test_abort_before_the_first_token_is_asked_for_sends_nothing(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """The caller may be gone before the chain gets to ask."""
    attempt = upstream.attempt(new_prompt(), CONNECT_TIMEOUT_S)
    attempt.abort()
    attempt.abort()
    with pytest.raises(UpstreamError) as caught:
        next(attempt.tokens())
    assert caught.value.kind is FailureKind.CANCELLED
    assert flowise.requests == []


def test_abort_closes_the_connection_while_nobody_reads(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """The thread may be busy with the token before; Flowise sees the end now and not when it asks for the next."""
    flowise.script(stall_after("a"))
    attempt = upstream.attempt(new_prompt(), CONNECT_TIMEOUT_S)
    tokens = texts(attempt)
    assert next(tokens) == "a"
    attempt.abort()
    assert flowise.questions[0].hung_up.wait(SOON_S)
    with pytest.raises(UpstreamError) as caught:
        next(tokens)
    assert caught.value.kind is FailureKind.CANCELLED


def test_a_late_abort_does_not_hit_the_next_attempt_on_the_same_connection(
    flowise: StandIn, upstream: FlowiseUpstream
) -> None:
    """A watchdog may fire when its attempt is already whole and its connection serves another."""
    go_on = threading.Event()
    flowise.script(answer("first"), answer("second", go_on, " goes on"))
    first = upstream.attempt(new_prompt(), CONNECT_TIMEOUT_S)
    assert "".join(texts(first)) == "first"
    second = texts(upstream.attempt(new_prompt(), CONNECT_TIMEOUT_S))
    assert next(second) == "second"
    assert flowise.questions[0].connection == flowise.questions[1].connection
    first.abort()
    go_on.set()
    assert "".join(second) == " goes on"


def test_an_abandoned_stream_closes_its_connection(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """Its remaining tokens must not be read as the answer to the next question."""
    flowise.script(stall_after("a"))
    tokens = texts(upstream.attempt(new_prompt(), CONNECT_TIMEOUT_S))
    assert next(tokens) == "a"
    tokens.close()
    assert flowise.questions[0].hung_up.wait(SOON_S)
    assert ask(upstream) == "Hello there"


def test_a_whole_answer_does_not_wait_for_the_end_of_the_body(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """After `end` nothing is owed; a connection whose body never ends is closed, not kept."""
    whole = event_stream(event("token", "a"), event("metadata", {}), event("end", "[DONE]"), whole=False)

    def without_an_end(wire: Wire) -> None:
        whole(wire)
        wire.stays_open = True
        wire.hold()

    flowise.script(without_an_end)
    assert ask(upstream) == "a"
    assert flowise.questions[0].hung_up.wait(SOON_S)


def test_connections_are_kept_and_each_attempt_has_a_chat_id_of_its_own(
    flowise: StandIn, upstream: FlowiseUpstream
) -> None:
    """Two streams under one chatId would mix, and so would the memories of two attempts under one session."""
    prompt = new_prompt("what did I say?")
    for _ in range(3):
        ask(upstream, replace(prompt, attempt_id=str(uuid4())))
    bodies = [question.json for question in flowise.questions]
    assert len({body["chatId"] for body in bodies}) == 3
    assert not any("overrideConfig" in body for body in bodies)
    assert len({question.connection for question in flowise.questions}) == 1


def test_an_attempt_asks_once(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """A second iteration would send the same chatId again."""
    attempt = upstream.attempt(new_prompt(), CONNECT_TIMEOUT_S)
    list(attempt.tokens())
    with pytest.raises(RuntimeError, match="asks once"):
        list(attempt.tokens())
    assert len(flowise.questions) == 1


def test_the_request_is_what_flowise_reads(flowise: StandIn, connect: Connect) -> None:
    """Path, headers and body, with instructions, history and key."""
    upstream = connect(flowise.url + "/", FLOW_ID.upper(), "k3y")
    prompt = Prompt(
        str(UUID(int=2)),
        "Answer from the rows.\n[1] 서울",
        (Message("user", "hi"), Message("assistant", "hello")),
        "which city? \ud800",
        100,
    )
    ask(upstream, prompt)
    (question,) = flowise.questions
    assert question.path == f"/api/v1/prediction/{FLOW_ID}"
    assert question.headers["authorization"] == "Bearer k3y"
    assert question.headers["content-type"] == "application/json"
    assert question.headers["accept-encoding"] == "identity"
    assert question.json == {
        "question": "Answer from the rows.\n[1] 서울\n\nwhich city? \ud800",
        "streaming": True,
        "chatId": prompt.attempt_id,
        "history": [
            {"role": "userMessage", "content": "hi"},
            {"role": "apiMessage", "content": "hello"},
        ],
    }


def test_no_cookie_is_sent_back(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """One caller's session at a load balancer must not become that of all."""
    flowise.script(response(200, json.dumps({"text": "a"}), Set_Cookie="session=1; Path=/"), answer("b"))
    ask(upstream)
    ask(upstream)
    assert "cookie" not in flowise.questions[1].headers


def test_without_instructions_the_question_stands_alone() -> None:
    """Flowise's own memory and prompts see what the caller wrote."""
    assert compose_question(new_prompt("hi")) == "hi"


def test_a_question_that_is_too_long_never_leaves(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """It is the caller's: no other model is asked."""
    failure = failure_of(upstream, new_prompt("a b " * MAX_QUESTION_CHARS))[1]
    assert (failure.kind, failure.code) == (CALLERS, "question_too_long")
    assert flowise.requests == []


def test_the_oldest_history_gives_way(flowise: StandIn, connect: Connect) -> None:
    """A long conversation goes on, with its newest messages."""
    upstream = connect(flowise.url, max_question_chars=20)
    history = (Message("user", "0123456789"), Message("assistant", "01234"), Message("user", "01234"))
    ask(upstream, replace(new_prompt("01234"), history=history))
    assert [message["role"] for message in flowise.questions[0].json["history"]] == ["apiMessage", "userMessage"]


runs = st.builds(lambda letter, length: letter * length, st.sampled_from("a.é서"), st.integers(0, 3 * MAX_RUN_CHARS))
blanks = st.sampled_from([" ", "\n", "\u3000", " \t "])


@given(st.lists(st.one_of(runs, blanks), max_size=6).map("".join))
def test_no_long_run_leaves_and_nothing_else_changes(text: str) -> None:
    """No run is longer than the limit; without the blanks the text is the same; short runs are not touched."""
    broken = break_long_runs(text)
    assert max((len(run) for run in broken.split()), default=0) <= MAX_RUN_CHARS
    assert "".join(broken.split()) == "".join(text.split())
    if max((len(run) for run in text.split()), default=0) <= MAX_RUN_CHARS:
        assert broken == text


def test_a_run_of_the_longest_length_is_kept_whole_and_a_longer_one_is_broken() -> None:
    """The one place where the limit is off by one or not."""
    assert break_long_runs("a" * MAX_RUN_CHARS) == "a" * MAX_RUN_CHARS
    assert break_long_runs("a" * (2 * MAX_RUN_CHARS + 1)) == " ".join(["a" * MAX_RUN_CHARS] * 2 + ["a"])


def test_an_unknown_flow_is_told_at_once(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """C6: asked to stream, Flowise would be silent for ever; the look-up before the first question is not."""
    flowise.unknown_flows.add(FLOW_ID)
    failure = failure_of(upstream)[1]
    assert (failure.kind, failure.code) == (OURS, "unknown_flow")
    assert flowise.questions == []


def test_a_flow_that_disappears_is_told_after_one_silence(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """A question given up without any header is the sign; the next attempt looks the flow up again."""
    assert ask(upstream) == "Hello there"
    flowise.unknown_flows.add(FLOW_ID)
    asking = Asking(upstream)
    flowise.wait_for_questions(2)
    asking.attempt.abort()
    asking.assert_cancelled()
    assert Asking(upstream).failure().code == "unknown_flow"
    flowise.unknown_flows.clear()
    assert ask(upstream) == "Hello there"


def test_a_known_flow_is_looked_up_once(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """Neither an answer nor a silence after the headers costs a look-up."""
    ask(upstream)
    flowise.script(stall_after("a"))
    asking = Asking(upstream)
    asking.wait_for_text("a")
    asking.attempt.abort()
    asking.assert_cancelled()
    ask(upstream)
    look_ups = [request for request in flowise.requests if request.method == "GET"]
    assert len(look_ups) == 1


def signs_and_text(upstream: FlowiseUpstream) -> list[str | Sign]:
    """The signs as they came, and the whole text behind them."""
    told = list(upstream.attempt(new_prompt(), CONNECT_TIMEOUT_S).tokens())
    signs: list[str | Sign] = [each for each in told if isinstance(each, Sign)]
    return [*signs, "".join(each for each in told[len(signs) :] if isinstance(each, str))]


def test_a_flow_that_streams_promises_to_be_heard_at_once(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """By its look-up, and by the headers of each answer; a hung server is silent in either place."""
    once = [Sign.ASKED, Sign.HEARD]
    assert signs_and_text(upstream) == [*once, *once, "Hello there"]
    assert signs_and_text(upstream) == [*once, "Hello there"]


def test_a_flow_that_cannot_stream_promises_only_its_look_up(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """Its JSON comes when the model has written all of it."""
    flowise.not_streaming_flows.add(FLOW_ID)
    flowise.always(json_answer("whole"))
    assert signs_and_text(upstream) == [Sign.ASKED, Sign.HEARD, "whole"]
    assert signs_and_text(upstream) == ["whole"]


ENDS: list[tuple[str, Play, str]] = [
    ("closed", raw(b"", then="close"), "connection_closed"),
    ("reset", raw(b"", then="reset"), "connection_reset"),
]


@pytest.mark.parametrize(("name", "end", "code"), ENDS)
def test_a_kept_connection_that_was_over_costs_no_answer(
    flowise: StandIn, upstream: FlowiseUpstream, name: str, end: Play, code: str
) -> None:
    """The question is put once more, over a new connection, under a chatId of its own."""
    ask(upstream)
    flowise.script(end)
    assert ask(upstream) == "Hello there"
    over, again = flowise.questions[1:]
    assert over.connection != again.connection
    assert over.json["question"] == again.json["question"]
    assert over.json["chatId"] != again.json["chatId"]


@pytest.mark.parametrize(("name", "end", "code"), ENDS)
def test_a_question_is_put_twice_at_most(
    flowise: StandIn, upstream: FlowiseUpstream, name: str, end: Play, code: str
) -> None:
    """And not even twice on a connection that was made for it: there the neighbour failed."""
    ask(upstream)
    flowise.always(end)
    assert failure_of(upstream)[1].code == code
    assert len(flowise.questions) == 3
    assert failure_of(upstream)[1].code == code
    assert len(flowise.questions) == 4


@pytest.mark.parametrize("begins", [True, False])
def test_a_question_that_may_be_in_work_is_put_once(flowise: StandIn, upstream: FlowiseUpstream, begins: bool) -> None:
    """Where a byte has come, or some time has gone by: the server died with it."""

    def die(wire: Wire) -> None:
        if begins:
            wire.send(b"HTTP/1.1 200 OK\r\n")
        else:
            wire.hold(0.4)
        wire.hang_up()

    ask(upstream)
    flowise.always(die)
    assert failure_of(upstream)[1].code == "connection_closed"
    assert len(flowise.questions) == 2


def test_the_probe_tells_four_things_apart(flowise: StandIn, upstream: FlowiseUpstream) -> None:
    """For operators: the flow is there, it does not stream, it is not there, or nobody answers."""
    assert upstream.probe(SOON_S) is FlowHealth.OK
    flowise.not_streaming_flows.add(FLOW_ID)
    assert upstream.probe(SOON_S) is FlowHealth.NOT_STREAMING
    flowise.unknown_flows.add(FLOW_ID)
    assert upstream.probe(SOON_S) is FlowHealth.UNKNOWN_FLOW
    assert upstream.answers(SOON_S)
    flowise.stop()
    assert upstream.probe(SOON_S) is FlowHealth.UNREACHABLE
    assert not upstream.answers(SOON_S)


def test_the_probe_has_a_limit(connect: Connect) -> None:
    """A server that does not answer is one that cannot be reached."""
    with black_hole() as url:
        assert connect(url).probe(0.05) is FlowHealth.UNREACHABLE


@pytest.mark.parametrize(
    ("base_url", "flow_id", "api_key", "code"),
    [
        ("http://127.0.0.1:3000", "main", None, "invalid_flow_id"),
        ("http://127.0.0.1:3000", "", None, "invalid_flow_id"),
        ("127.0.0.1:3000", FLOW_ID, None, "wrong_url"),
        ("ftp://127.0.0.1", FLOW_ID, None, "wrong_url"),
        ("http://", FLOW_ID, None, "wrong_url"),
        ("http://user:secret@127.0.0.1", FLOW_ID, None, "wrong_url"),
        ("http://127.0.0.1/?x=1", FLOW_ID, None, "wrong_url"),
        ("http://127.0.0.1:3000", FLOW_ID, "", "unusable_api_key"),
        ("http://127.0.0.1:3000", FLOW_ID, "s3cret\n", "unusable_api_key"),
        ("http://127.0.0.1:3000", FLOW_ID, "비밀", "unusable_api_key"),
    ],
)
def test_a_configuration_that_cannot_work_is_ours(base_url: str, flow_id: str, api_key: str | None, code: str) -> None:
    """It is found when the upstream is built, not when someone asks."""
    with pytest.raises(UpstreamError) as caught:
        FlowiseUpstream(base_url, flow_id, api_key)
    assert (caught.value.kind, caught.value.code) == (OURS, code)


def test_no_secret_shows(flowise: StandIn, connect: Connect) -> None:
    """Neither the objects nor a failure with its traceback shows the key or what Flowise said."""
    upstream = connect(flowise.url, api_key="s3cret-key")
    said = "s3cret-key is not the key of k8s://internal"
    flowise.script(
        fail_after(text=f"Error: x - 401 {said}"),
        response(500, said),
        event_stream(said.encode() + b"\n\n"),
        raw(b"HTTP/1.1 200 OK\r\n" + said.encode() + b"\r\n\r\n", then="close"),
    )
    for _ in range(4):
        attempt = upstream.attempt(new_prompt(), CONNECT_TIMEOUT_S)
        with pytest.raises(UpstreamError) as caught:
            list(attempt.tokens())
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(attempt) + repr(upstream)
        assert "s3cret" not in shown
        assert "internal" not in shown
        assert caught.value.__cause__ is None
