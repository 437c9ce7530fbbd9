"""The SSE decoder: a table of streams, each fed whole and byte by byte; then every split of every stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.adapters.sse import EventTooLarge, ServerSentEvent, SseDecoder

CASES: list[tuple[str, bytes, list[tuple[str, str]]]] = [
    ("nothing", b"", []),
    ("one event", b"data: a\n\n", [("", "a")]),
    ("no blank after the colon", b"data:a\n\n", [("", "a")]),
    ("only the first blank is taken", b"data:  a \n\n", [("", " a ")]),
    ("Flowise's first line", b'message:\ndata:{"event":"end"}\n\n', [("", '{"event":"end"}')]),
    ("a comment", b":heartbeat\n\ndata:a\n\n", [("", "a")]),
    ("a comment within an event", b"data:a\n:heartbeat\ndata:b\n\n", [("", "a\nb")]),
    ("several data lines", b"data:a\ndata\ndata:b\n\n", [("", "a\n\nb")]),
    ("empty data is an event", b"data:\n\n", [("", "")]),
    ("no data is none", b"event: x\n\ndata:a\n\n", [("", "a")]),
    ("a name", b"event: error\ndata: a\n\ndata: b\n\n", [("error", "a"), ("", "b")]),
    ("CRLF", b"data:a\r\n\r\ndata:b\r\n\r\n", [("", "a"), ("", "b")]),
    ("CR", b"data:a\r\rdata:b\r\r", [("", "a"), ("", "b")]),
    ("mixed line ends", b"data:a\r\ndata:b\rdata:c\n\n", [("", "a\nb\nc")]),
    ("a byte order mark", b"\xef\xbb\xbfdata:a\n\n", [("", "a")]),
    ("unknown fields", b"id: 7\nretry: 10\ncolour: red\nDATA: x\ndata:a\n\n", [("", "a")]),
    ("no empty line at the end", b"data:a\n\ndata:b\n", [("", "a")]),
    ("no line end at the end", b"data:a\n\ndata:b", [("", "a")]),
    (
        "line separators of Unicode",
        "data:a\u2028b\u2029c\u0085d\u000be\u000cf\u001cg\n\n".encode(),
        [("", "a\u2028b\u2029c\u0085d\u000be\u000cf\u001cg")],
    ),
]


def decode(*chunks: bytes, max_event_bytes: int = 1_000) -> list[tuple[str, str]]:
    decoder = SseDecoder(max_event_bytes)
    events: list[ServerSentEvent] = []
    for chunk in chunks:
        events.extend(decoder.feed(chunk))
    return [(event.name, event.data.decode()) for event in events]


@pytest.mark.parametrize(("stream", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_table_of_streams(stream: bytes, expected: list[tuple[str, str]]) -> None:
    """Each stream gives its events, in one piece and in single bytes."""
    assert decode(stream) == expected
    assert decode(*(stream[i : i + 1] for i in range(len(stream)))) == expected


line = st.one_of(
    st.sampled_from([b"", b"", b"data:a", b"data: b", b":heartbeat", b"event:x", b"message:", b"data"]),
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8).map(str.encode),
)
streams = st.lists(st.tuples(line, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=12).map(
    lambda lines: b"".join(text + end for text, end in lines)
)


@given(streams, st.data())
def test_no_split_changes_the_events(stream: bytes, data: st.DataObject) -> None:
    """Wherever the network cuts a stream, into as many pieces as it likes, the events are those of the whole."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode(*pieces) == decode(stream)


@pytest.mark.parametrize(
    "stream",
    [b"data:" + b"x" * 100, b":" + b"x" * 100, b"data:xxxxxxxxxx\n" * 10],
    ids=["a data line", "a comment", "many lines"],
)
def test_an_event_has_a_largest_size(stream: bytes) -> None:
    """A line without end, and an event of endless lines, are given up instead of held."""
    with pytest.raises(EventTooLarge):
        decode(stream, max_event_bytes=64)
    with pytest.raises(EventTooLarge):
        decode(*(stream[i : i + 1] for i in range(len(stream))), max_event_bytes=64)


def test_events_before_one_that_is_too_large_are_given() -> None:
    """What was complete in the same chunk is not lost."""
    decoder = SseDecoder(max_event_bytes=64)
    fed = decoder.feed(b"data:a\n\n" + b"x" * 100)
    assert next(fed).data == b"a"
    with pytest.raises(EventTooLarge):
        next(fed)
