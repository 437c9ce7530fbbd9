"""What the HTTP upstreams share: sorting httpx's exceptions, readable text, Retry-After, TLS, limits."""

import os
import ssl
import subprocess
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.adapters.abortable_http import AbortSwitch
from dari.adapters.flowise import FlowiseUpstream
from dari.adapters.http_stream import (
    MAX_LEADING_BLANKS,
    MAX_RETRY_AFTER_S,
    TRANSPORT_FAILURES,
    Exchange,
    HttpNeighbour,
    readable,
    retry_after_s,
    transport_failure,
)
from dari.core.upstream import FailureKind, UpstreamError
from tests.flowise_stand_in import FLOW_ID, StandIn, answer, headers_only, never_answer, stall_after
from tests.support.asking import CONNECT_TIMEOUT_S, SOON_S, Asking, ask, failure_of, new_prompt


def exceptions_of_httpx() -> set[type[Exception]]:
    exported = {value for value in vars(httpx).values() if isinstance(value, type) and issubclass(value, Exception)}
    return exported | {
        deeper for value in exported for deeper in value.__subclasses__() if "httpx" in deeper.__module__
    }


def test_every_exception_of_httpx_is_sorted() -> None:
    """A class that a later httpx adds or drops fails here, and not in production."""
    assert exceptions_of_httpx() == set(TRANSPORT_FAILURES)


@pytest.mark.parametrize("kind", sorted(TRANSPORT_FAILURES, key=str))
def test_a_sorted_exception_keeps_nothing_foreign(kind: type[Exception]) -> None:
    """Kind and code are ours, whatever the exception says."""
    error = kind.__new__(kind)
    error.args = ("http://internal:3000/ key=s3cret",)
    failure = transport_failure(error)
    assert (failure.kind, failure.code) == TRANSPORT_FAILURES[kind]
    assert "internal" not in repr(failure)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("27", 27.0),
        (" 0 ", 0.0),
        ("Fri, 01 Jan 2027 00:00:10 GMT", 10.0),
        ("Friday, 01-Jan-27 00:00:10 GMT", 10.0),
        ("Fri Jan  1 00:00:10 2027", 10.0),
        ("Fri, 01 Jan 2027 00:00:10 -0000", 10.0),
        ("Thu, 31 Dec 2026 23:59:59 GMT", 0.0),
        ("Fri, 01 Jan 2037 00:00:00 GMT", MAX_RETRY_AFTER_S),
        ("999999999", MAX_RETRY_AFTER_S),
        ("9" * 400, None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("²", None),
        ("Fri, 99 Jan 2027 00:00:10 GMT", None),
    ],
)
def test_retry_after_in_all_its_forms(header: str | None, seconds: float | None) -> None:
    """Seconds or one of HTTP's three date forms; nonsense is no header, the past is now, the far future is bounded."""
    new_year_2027 = 1_798_761_600.0
    assert retry_after_s(header, new_year_2027) == seconds


@given(st.text(max_size=30))
def test_no_retry_after_is_a_defect(header: str) -> None:
    """The header is foreign text: no form of it may raise."""
    seconds = retry_after_s(header, 0.0)
    assert seconds is None or 0.0 <= seconds <= MAX_RETRY_AFTER_S


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["a", "", "b"], ["a", "b"]),
        (["\n", " ", "a"], ["\n a"]),
        (["a", " ", "b"], ["a", " ", "b"]),
        (["a\ud83d", "\ude00b"], ["a", "😀b"]),
        (["\ud83d", "\ude00"], ["😀"]),
        (["a\ud83d", "b"], ["a", "\ufffdb"]),
        (["a\ude00"], ["a\ufffd"]),
        (["a\ud83d"], ["a", "\ufffd"]),
        (["a\x00b", "\x00", "c"], ["ab", "c"]),
    ],
)
def test_pieces_become_text_that_can_be_stored(pieces: list[str], expected: list[str]) -> None:
    """Pairs that JavaScript cut are joined, what UTF-8 or PostgreSQL would refuse is replaced or dropped."""
    assert list(readable(pieces)) == expected


@given(st.lists(st.text(st.characters(min_codepoint=0)), max_size=5))
def test_all_text_comes_out_storable_and_no_piece_empty(pieces: list[str]) -> None:
    """Whatever the pieces: UTF-8 takes the text, nothing visible is lost, nothing is added."""
    texts: list[str] = []
    with suppress(UpstreamError):  # where there is nothing to read
        texts.extend(piece for piece in readable(pieces) if isinstance(piece, str))
    if not "".join(pieces).replace("\x00", "").strip():
        assert texts == []
        return
    assert all(texts)
    assert "\x00" not in "".join(texts)
    whole = "".join(pieces).replace("\x00", "")
    assert "".join(texts) == whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def test_endless_blanks_are_an_empty_answer() -> None:
    """A model that writes line breaks for ever gives no answer; nothing of it is held for ever."""

    def blanks() -> Iterator[str]:
        for _ in range(MAX_LEADING_BLANKS + 1):
            yield "\n"
        raise AssertionError("read on")

    with pytest.raises(UpstreamError) as caught:
        list(readable(blanks()))
    assert caught.value.code == "empty_answer"


def test_hundreds_stream_at_once_and_one_more_than_the_limit_is_busy() -> None:
    """The limit never makes a thread wait, where no abort would reach it."""
    with StandIn() as server, closing(HttpNeighbour(server.url, None, None, lambda: 0.0, max_connections=200)) as near:
        server.always(stall_after("a"))
        url = near.url(f"/api/v1/prediction/{FLOW_ID}")

        def first_chunk(exchange: Exchange) -> Generator[str]:
            with exchange.post(url, {}) as reply:
                for event in reply.events():
                    yield event.data.decode()

        attempts = [near.attempt(first_chunk, CONNECT_TIMEOUT_S) for _ in range(200)]
        with ThreadPoolExecutor(200) as threads:
            streams = [attempt.tokens() for attempt in attempts]
            assert len(list(threads.map(next, streams))) == 200
        with pytest.raises(UpstreamError) as caught:
            next(near.attempt(first_chunk, CONNECT_TIMEOUT_S).tokens())
        assert (caught.value.kind, caught.value.code) == (FailureKind.BUSY, "too_many_streams")
        for attempt in attempts:
            attempt.abort()
        assert all(question.hung_up.wait(SOON_S) for question in server.questions)
        for stream in streams:
            with pytest.raises(UpstreamError):
                next(stream)


def test_abort_frees_a_thread_that_waits_for_a_name() -> None:
    """Looking a name up knows no timeout; the thread that asked for it does not share its fate."""
    never: Future[list[tuple[object, ...]]] = Future()
    switch = AbortSwitch()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(switch.wait_for, never, None)  # type: ignore[arg-type]
        switch.abort()
        assert isinstance(waiting.exception(SOON_S), ConnectionAbortedError)
    with pytest.raises(TimeoutError):
        AbortSwitch().wait_for(never, 0.0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=stand-in"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(path)]
    subprocess.run(
        [*make.split(), *names], check=True, capture_output=True, env={**os.environ, "RANDFILE": "/dev/null"}
    )
    return path


@pytest.fixture
def secure_server(certificate: Path) -> Iterator[StandIn]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with StandIn(context) as server:
        yield server


@pytest.fixture
def secure_upstream(secure_server: StandIn, certificate: Path) -> Iterator[FlowiseUpstream]:
    context = ssl.create_default_context(cafile=str(certificate))
    with closing(FlowiseUpstream(secure_server.url, FLOW_ID, None, ssl_context=context)) as upstream:
        yield upstream


def test_answers_come_over_tls(secure_server: StandIn, secure_upstream: FlowiseUpstream) -> None:
    """And the connection is kept as without TLS."""
    assert ask(secure_upstream) == "Hello there"
    assert ask(secure_upstream) == "Hello there"
    assert {request.connection for request in secure_server.requests} == {0}


@pytest.mark.parametrize(
    ("play", "text"),
    [(never_answer(), ""), (headers_only(), ""), (stall_after("a"), "a")],
    ids=["nothing", "headers", "a"],
)
def test_abort_frees_a_thread_that_reads_over_tls(
    secure_server: StandIn, secure_upstream: FlowiseUpstream, play: object, text: str
) -> None:
    """The socket under the TLS layer is the one that is shut down."""
    secure_server.script(play)  # type: ignore[arg-type]
    asking = Asking(secure_upstream)
    question = secure_server.wait_for_questions(1)
    asking.wait_for_text(text)
    asking.attempt.abort()
    asking.assert_cancelled()
    assert question.hung_up.wait(SOON_S)
    assert ask(secure_upstream) == "Hello there"


def test_abort_frees_a_thread_in_a_tls_handshake(certificate: Path) -> None:
    """A server that takes the connection and says nothing to the handshake."""
    with StandIn() as silent:  # it waits for a request line, the client for the server's part of the handshake
        context = ssl.create_default_context(cafile=str(certificate))
        url = silent.url.replace("http:", "https:")
        with closing(FlowiseUpstream(url, FLOW_ID, None, ssl_context=context)) as upstream:
            asking = Asking(upstream)
            asking.attempt.abort()
            asking.assert_cancelled()


def test_a_certificate_that_nobody_vouches_for_is_ours(secure_server: StandIn) -> None:
    """Operators must hear of it; the caller is answered by the next model."""
    with closing(FlowiseUpstream(secure_server.url, FLOW_ID, None)) as upstream:
        failure = failure_of(upstream)[1]
    assert (failure.kind, failure.code) == (FailureKind.OURS, "certificate_not_trusted")


def test_plain_http_spoken_to_tls_is_the_upstreams() -> None:
    """A wrong scheme shows as a failed handshake."""
    with StandIn() as server:
        url = server.url.replace("http:", "https:")
        with closing(FlowiseUpstream(url, FLOW_ID, None)) as upstream:
            asking = threading.Timer(0.0, server.stop)
            asking.start()
            failure = failure_of(upstream)[1]
            asking.join()
    assert failure.kind is FailureKind.UPSTREAM


def test_a_hundred_threads_ask_at_once_and_each_gets_its_own_answer() -> None:
    """Attempts share a client and its pool; none reads from another's connection."""
    with StandIn() as server, closing(FlowiseUpstream(server.url, FLOW_ID, None)) as upstream:
        server.always(lambda wire: answer(wire.request.json["question"])(wire))
        with ThreadPoolExecutor(100) as threads:
            questions = [f"question {number}" for number in range(1_000)]
            assert list(threads.map(lambda question: ask(upstream, new_prompt(question)), questions)) == questions
