"""Tokens that came together are one piece; one that may be followed by a silence is never held back."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.adapters.flowise import FlowiseUpstream
from dari.adapters.http_stream import blank_lines_in, gathered
from dari.adapters.sse import SseDecoder
from dari.core.upstream import FailureKind, Sign, UpstreamError
from tests.flowise_stand_in import EVENT_STREAM_HEAD, FLOW_ID, Play, StandIn, Wire, event, replay
from tests.support.asking import CONNECT_TIMEOUT_S, Asking, new_prompt


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def at_once_then_wait(data: bytes, go_on: threading.Event) -> Play:
    """The head and these chunks by one send, so that one read may take them all."""

    def play(wire: Wire) -> None:
        wire.send(EVENT_STREAM_HEAD + data)
        wire.wait_for(go_on)

    return play


def test_tokens_of_one_read_are_one_piece() -> None:
    with StandIn() as server, closing(FlowiseUpstream(server.url, FLOW_ID, None)) as flow:
        server.script(replay("03-predict-stream"))
        told = flow.attempt(new_prompt(), CONNECT_TIMEOUT_S).tokens()
        pieces = [piece for piece in told if not isinstance(piece, Sign)]
    assert pieces == ["Echo(2 msgs, 12 chars): hello stream"]


@pytest.mark.parametrize(
    "behind",
    [
        b"",
        chunk(b":heartbeat\n\n"),
        chunk(event("token", "")),
        chunk(event("nextAgentFlow", {"status": "INPROGRESS"})),
        chunk(b"message:\n"),
        chunk(b"message:") + chunk(b"\ndata:1"),
        b"1",
    ],
    ids=["nothing", "heartbeat", "empty token", "no text", "half an event", "framed line end", "half a chunk"],
)
def test_a_token_waits_for_nothing_that_came_behind_it(behind: bytes) -> None:
    go_on = threading.Event()
    with StandIn() as server, closing(FlowiseUpstream(server.url, FLOW_ID, None)) as flow:
        tokens = chunk(event("token", "Se")) + chunk(event("token", "oul"))
        server.script(at_once_then_wait(tokens + behind, go_on))
        asking = Asking(flow)
        asking.wait_for_text("Seoul")
        asking.attempt.abort()
        asking.assert_cancelled()
        go_on.set()


def test_what_came_before_a_failure_is_told_before_it() -> None:
    def pieces() -> Iterator[str]:
        yield from ("a", "b")
        raise UpstreamError(FailureKind.UPSTREAM, "model_failed")

    told: list[str | Sign] = []
    with pytest.raises(UpstreamError, match="model_failed"):
        told.extend(gathered(pieces()))
    assert told == ["ab"]


@given(
    st.text("ab\n\r:", max_size=60).map(str.encode),
    st.lists(st.integers(1, 9), min_size=1, max_size=60),
    st.lists(st.integers(1, 30), min_size=1, max_size=60),
)
def test_no_more_blank_lines_are_counted_on_than_the_read_brings(
    body: bytes, chunk_sizes: list[int], read_sizes: list[int]
) -> None:
    """However the body is framed, and however the frames are cut into reads: else a token would wait for the next."""
    framed: list[tuple[int, bool]] = []
    while body:
        size = chunk_sizes[len(framed) % len(chunk_sizes)]
        head, data, body = b"%x\r\n" % len(body[:size]), body[:size], body[size:]
        framed += [(byte, False) for byte in head] + [(byte, True) for byte in data] + [(13, False), (10, False)]
    decoder = SseDecoder(1_000)
    while framed:
        size = read_sizes[len(framed) % len(read_sizes)]
        read, framed = framed[:size], framed[size:]
        due = decoder.blank_lines + blank_lines_in(bytes(byte for byte, _ in read))
        list(decoder.feed(bytes(byte for byte, is_body in read if is_body)))
        assert decoder.blank_lines >= due
