"""No connection is closed under the request that uses it, and none that was closed is used."""

import socket
from collections.abc import Iterator

import httpcore
import pytest

from dari.adapters.abortable_http import AbortSwitch, _AbortableStream


@pytest.fixture
def near_and_far() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def test_a_connection_that_the_pool_closes_in_use_is_closed_when_the_request_lets_go(
    near_and_far: tuple[socket.socket, socket.socket],
) -> None:
    """Httpcore decides that an idle connection has expired, another thread takes it up, httpcore closes it."""
    near, far = near_and_far
    switch = AbortSwitch()
    stream = _AbortableStream(near, switch)
    stream.write(b"question")
    stream.close()
    far.sendall(b"answer")
    assert stream.read(100) == b"answer"
    assert switch.release()
    assert near.fileno() < 0


def test_a_connection_that_nobody_uses_is_closed_at_once(near_and_far: tuple[socket.socket, socket.socket]) -> None:
    near, _ = near_and_far
    switch = AbortSwitch()
    stream = _AbortableStream(near, switch)
    stream.write(b"question")
    switch.release()
    stream.close()
    assert near.fileno() < 0


def test_a_request_that_got_a_closed_connection_is_told_to_take_another(
    near_and_far: tuple[socket.socket, socket.socket],
) -> None:
    """The pool knows this exception, and asks another connection."""
    stream = _AbortableStream(near_and_far[0])
    stream.close()
    with pytest.raises(httpcore.ConnectionNotAvailable):
        stream.write(b"question")


def test_a_condemned_connection_is_not_the_next_ones_fault(near_and_far: tuple[socket.socket, socket.socket]) -> None:
    """One switch serves all requests of an attempt."""
    near, far = near_and_far
    switch = AbortSwitch()
    switch.use(near)
    switch.close(near)
    switch.release()
    switch.use(far)
    switch.release()
    assert far.fileno() >= 0
