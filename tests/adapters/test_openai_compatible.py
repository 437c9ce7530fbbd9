"""The OpenAI-compatible client against a stand-in: answers, failures, the request."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from dari.adapters.openai_compatible import MAX_PROMPT_CHARS, OpenAiCompatibleUpstream
from dari.core.upstream import FailureKind, Message, Prompt, UpstreamError
from tests.flowise_stand_in import (
    Play,
    StandIn,
    black_hole,
    event_stream,
    headers_only,
    never_answer,
    openai_answer,
    openai_chunk,
    response,
    trickled,
    web_page,
)
from tests.support.asking import CONNECT_TIMEOUT_S, SOON_S, Asking, ask, failure_of, new_prompt

UPSTREAM, BUSY, OURS, CALLERS = FailureKind.UPSTREAM, FailureKind.BUSY, FailureKind.OURS, FailureKind.CALLERS
DONE = b"data: [DONE]\n\n"


def token(text: str) -> bytes:
    return openai_chunk({"content": text})


def error(status: int, **fields: str) -> Play:
    return response(status, json.dumps({"error": {"message": "no", "type": "x", "code": None} | fields}))


def completion(text: str, finish_reason: str = "stop") -> Play:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return response(200, json.dumps({"object": "chat.completion", "choices": [choice]}))


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def upstream(server: StandIn) -> Iterator[OpenAiCompatibleUpstream]:
    with closing(OpenAiCompatibleUpstream(f"{server.url}/v1", "a-model", "k3y")) as opened:
        yield opened


ANSWERS: list[tuple[str, Play, str]] = [
    ("a stream", openai_answer("Se", "oul"), "Seoul"),
    ("byte by byte", trickled(openai_answer("서", "울 🎉")), "서울 🎉"),
    ("line separators of Unicode", openai_answer("a\u2028b", "\u0085c"), "a\u2028b\u0085c"),
    ("no `[DONE]` after a finish reason", event_stream(token("a"), openai_chunk({}, "stop")), "a"),
    ("no finish reason before `[DONE]`", event_stream(token("a"), DONE), "a"),
    ("the last token with its finish reason", event_stream(openai_chunk({"content": "a"}, "stop"), DONE), "a"),
    ("cut at our own limit", event_stream(token("a"), openai_chunk({}, "length"), DONE), "a"),
    ("a chunk of usage", event_stream(token("a"), b'data: {"choices":[],"usage":{}}\n\n', DONE), "a"),
    ("null content", event_stream(openai_chunk({"content": None}), token("a"), DONE), "a"),
    ("comments", event_stream(b": OPENROUTER PROCESSING\n\n", token("a"), DONE), "a"),
    ("CRLF", event_stream(token("a").replace(b"\n", b"\r\n"), DONE.replace(b"\n", b"\r\n")), "a"),
    ("no stream", completion("Seoul"), "Seoul"),
]

QUOTA = {"message": "You exceeded your current quota", "type": "insufficient_quota"}
VLLM_TOO_LONG = {"message": "This model's maximum context length is 4096 tokens. However, you requested 5000."}
LLAMA_TOO_LONG = {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"}

FAILURES: list[tuple[str, Play, str, FailureKind, str]] = [
    ("a wrong key", error(401, code="invalid_api_key"), "", OURS, "unauthorized"),
    ("a key without the right", error(403), "", OURS, "unauthorized"),
    ("an unknown model", error(404, code="model_not_found"), "", OURS, "unknown_model"),
    ("another request that is refused", error(400), "", OURS, "request_rejected"),
    ("OpenAI's context length", error(400, code="context_length_exceeded"), "", CALLERS, "question_too_long"),
    ("vLLM's context length", error(400, **VLLM_TOO_LONG), "", CALLERS, "question_too_long"),
    ("llama.cpp's context size", error(400, **LLAMA_TOO_LONG), "", CALLERS, "question_too_long"),
    ("a body that is too large", error(413), "", CALLERS, "question_too_long"),
    ("too many requests", error(429), "", BUSY, "rate_limited"),
    ("no money left", error(429, **QUOTA), "", OURS, "quota_exhausted"),
    ("a question against the rules", error(400, code="content_policy_violation"), "", CALLERS, "question_refused"),
    ("a defect of the server", error(500), "", UPSTREAM, "model_failed"),
    ("a server that is loading", error(503, message="Loading model"), "", UPSTREAM, "model_failed"),
    ("a web page", web_page(), "", OURS, "wrong_url"),
    ("a redirect", response(308, "", Location="/v2"), "", OURS, "wrong_url"),
    ("an error in the stream", event_stream(token("a"), b'data: {"error":{"message":"x"}}\n\n', DONE), "a", UPSTREAM,
     "model_failed"),
    ("a rate limit in the stream", event_stream(b'data: {"error":{"code":"rate_limit_exceeded"}}\n\n'), "", BUSY,
     "rate_limited"),
    ("an error under 200", response(200, '{"error":{"message":"x"}}'), "", UPSTREAM, "model_failed"),
    ("cut by a filter", event_stream(token("a"), openai_chunk({}, "content_filter"), DONE), "a", CALLERS,
     "question_refused"),
    ("cut", event_stream(token("a"), whole=False), "a", UPSTREAM, "stream_cut"),
    ("ended without a word", event_stream(token("a")), "a", UPSTREAM, "stream_cut"),
    ("nothing but a role", openai_answer(), "", UPSTREAM, "empty_answer"),
    ("an empty completion", completion(""), "", UPSTREAM, "empty_answer"),
    ("a tool call", event_stream(openai_chunk({"tool_calls": []}, "tool_calls"), DONE), "", UPSTREAM, "empty_answer"),
    ("no JSON", event_stream(b"data: x\n\n"), "", UPSTREAM, "malformed_stream"),
    ("choices of another shape", event_stream(b'data: {"choices":{"a":1}}\n\n'), "", UPSTREAM, "malformed_stream"),
    ("a choice of another shape", event_stream(b'data: {"choices":[1]}\n\n'), "", UPSTREAM, "malformed_stream"),
    ("a delta of another shape", event_stream(b'data: {"choices":[{"delta":"a"}]}\n\n'), "", UPSTREAM,
     "malformed_stream"),
    ("content of another shape", event_stream(openai_chunk({"content": ["a"]})), "", UPSTREAM, "malformed_stream"),
]  # fmt: skip


@pytest.mark.parametrize(("play", "text"), [line[1:] for line in ANSWERS], ids=[line[0] for line in ANSWERS])
def test_an_answer_gives_its_text(server: StandIn, upstream: OpenAiCompatibleUpstream, play: Play, text: str) -> None:
    """In every form that the servers at large give to an answer."""
    server.script(play)
    assert ask(upstream) == text


@pytest.mark.parametrize(
    ("play", "text", "kind", "code"), [line[1:] for line in FAILURES], ids=[line[0] for line in FAILURES]
)
def test_a_failure_is_sorted(
    server: StandIn, upstream: OpenAiCompatibleUpstream, play: Play, text: str, kind: FailureKind, code: str
) -> None:
    """By status, by the error's code or words, or by how the stream ends."""
    server.script(play)
    tokens, failure = failure_of(upstream)
    assert ("".join(tokens), failure.kind, failure.code) == (text, kind, code)


def test_retry_after_is_told(server: StandIn, upstream: OpenAiCompatibleUpstream) -> None:
    """With 429, and with 503 too."""
    server.script(response(429, "{}", Retry_After="7"), response(503, "{}", Retry_After="8"))
    assert [failure_of(upstream)[1].retry_after_s for _ in range(2)] == [7.0, 8.0]


def test_the_request_is_what_the_servers_read(server: StandIn, upstream: OpenAiCompatibleUpstream) -> None:
    """System message, history in order, question; the limit of tokens; the key in its header only."""
    server.always(openai_answer("a"))
    history = (Message("user", "hi"), Message("assistant", "hello"))
    ask(upstream, Prompt("a", "Answer from the rows.", history, "which city?", 64))
    (question,) = server.questions
    assert question.path == "/v1/chat/completions"
    assert question.headers["authorization"] == "Bearer k3y"
    assert question.json == {
        "model": "a-model",
        "messages": [
            {"role": "system", "content": "Answer from the rows."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "which city?"},
        ],
        "max_tokens": 64,
        "stream": True,
    }
    assert "k3y" not in repr(upstream)


def test_without_instructions_there_is_no_system_message(server: StandIn, upstream: OpenAiCompatibleUpstream) -> None:
    """Some chat templates refuse an empty one."""
    server.always(openai_answer("a"))
    ask(upstream)
    assert [message["role"] for message in server.questions[0].json["messages"]] == ["user"]


def test_a_prompt_that_is_too_long_never_leaves(server: StandIn, upstream: OpenAiCompatibleUpstream) -> None:
    """The bound holds for instructions, history and question together."""
    half = "a" * (MAX_PROMPT_CHARS // 2)
    failure = failure_of(upstream, replace(new_prompt(half + "a"), instructions=half))[1]
    assert (failure.kind, failure.code) == (CALLERS, "question_too_long")
    assert server.requests == []


@pytest.mark.parametrize("play", [never_answer(), headers_only()], ids=["never answers", "headers only"])
def test_abort_frees_a_thread_that_waits(server: StandIn, upstream: OpenAiCompatibleUpstream, play: Play) -> None:
    """The same switch as for Flowise."""
    server.script(play)
    asking = Asking(upstream)
    question = server.wait_for_questions(1)
    asking.attempt.abort()
    asking.assert_cancelled()
    assert question.hung_up.wait(SOON_S)


def test_tokens_come_one_by_one(server: StandIn, upstream: OpenAiCompatibleUpstream) -> None:
    """The first is there while the model still writes the second."""
    second = threading.Event()
    server.script(openai_answer("a", second, "b"))
    tokens = upstream.attempt(new_prompt(), CONNECT_TIMEOUT_S).tokens()
    assert next(tokens) == "a"
    second.set()
    assert list(tokens) == ["b"]


def test_an_address_that_cannot_work_is_ours() -> None:
    """Found when the upstream is built."""
    with pytest.raises(UpstreamError) as caught:
        OpenAiCompatibleUpstream("localhost:8000", "a-model", None)
    assert (caught.value.kind, caught.value.code) == (OURS, "wrong_url")


def test_a_server_answers_whatever_it_says_of_the_key(server: StandIn, upstream: OpenAiCompatibleUpstream) -> None:
    """A probe asks whether it is there, and no more."""
    assert upstream.answers(SOON_S)
    server.stop()
    assert not upstream.answers(SOON_S)


def test_a_server_that_swallows_what_it_is_sent_does_not_answer() -> None:
    """The probe has a limit of its own."""
    with black_hole() as url, closing(OpenAiCompatibleUpstream(url, "a-model", None)) as upstream:
        assert not upstream.answers(0.05)
