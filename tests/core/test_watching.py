"""Watchers: so many, free as soon as their caller leaves, and let go at the server's end."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from dari.core.circuit import CircuitSnapshot, CircuitState
from dari.core.errors import NotFound, Unavailable
from dari.core.mapping import AiModelKind
from dari.core.upstream_states import LocalProcess, LocalProcessStatus, UpstreamState, watch_upstreams
from dari.core.watching import Watching

SOON_S = 30.0
NEVER_S = 3_600.0


class Caller:
    """Leaves when the test says so."""

    def __init__(self) -> None:
        self.leaves: Callable[[], None] = lambda: None
        self.is_there = threading.Event()

    def on_left(self, leave: Callable[[], None]) -> None:
        self.leaves = leave
        self.is_there.set()


def test_a_watcher_who_waits_is_free_when_the_caller_leaves() -> None:
    """Not at the next look, which is an hour away."""
    watching, caller = Watching(NEVER_S), Caller()
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(lambda: list(watching.looks(caller.on_left)))
        assert caller.is_there.wait(SOON_S)
        caller.leaves()
        assert len(watched.result(SOON_S)) <= 1
    with closing(watching.looks(Caller().on_left)) as next_one:
        next(next_one)


def test_a_watcher_who_waits_is_let_go_when_the_server_stops() -> None:
    watching, caller = Watching(NEVER_S), Caller()
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(lambda: list(watching.looks(caller.on_left)))
        assert caller.is_there.wait(SOON_S)
        watching.stop()
        with pytest.raises(Unavailable):
            watched.result(SOON_S)
    with pytest.raises(Unavailable):
        next(watching.looks(Caller().on_left))


def test_a_caller_who_is_gone_already_takes_no_place() -> None:
    watching = Watching()

    def refuse(leave: Callable[[], None]) -> None:
        raise NotFound("gone")

    for _ in range(2):
        with pytest.raises(NotFound):
            next(watching.looks(refuse))


def snapshot(
    state: CircuitState = CircuitState.CLOSED, failures: int = 0, last_failure: str | None = None, in_state_s: float = 0
) -> CircuitSnapshot:
    return CircuitSnapshot(state, in_state_s, failures, 0.0, last_failure, 0.0)


def flow(circuit: CircuitSnapshot, id: str = "flow") -> UpstreamState:
    return UpstreamState(id, AiModelKind.FLOWISE, circuit)


def local(status: LocalProcessStatus, queue_length: int = 0, memory_bytes: int = 0) -> UpstreamState:
    process = LocalProcess(status, "f", "xllamacpp", 0, queue_length, 0, "", memory_bytes)
    return UpstreamState("local", AiModelKind.LOCAL, snapshot(), process)


WELL = flow(snapshot())
READY = local(LocalProcessStatus.READY)

STEPS = [
    # what there is at the second look, behind WELL and READY, and who of them is told
    ("nothing", [WELL, READY], []),
    ("counters", [flow(snapshot(failures=2, in_state_s=9)), local(LocalProcessStatus.READY, 3, 1)], []),
    ("a failure of another kind", [flow(snapshot(last_failure="stream_cut")), READY], ["flow"]),
    ("open", [flow(snapshot(CircuitState.OPEN)), READY], ["flow"]),
    ("drained", [flow(snapshot(CircuitState.DRAINED)), READY], ["flow"]),
    ("a death", [WELL, local(LocalProcessStatus.RESTARTING)], ["local"]),
    ("a new one", [WELL, flow(snapshot(), "new"), READY], ["new"]),
    ("one less", [READY], []),
]


@pytest.mark.parametrize(("name", "second", "told"), STEPS)
def test_all_upstreams_are_told_first_and_then_those_that_changed(
    name: str, second: list[UpstreamState], told: list[str]
) -> None:
    looks = iter([[WELL, READY], second, second])
    messages = list(watch_upstreams(lambda: next(looks), iter([None, None, None])))
    assert messages == [[WELL, READY], *([[each for each in second if each.ai_model in told]] if told else [])]


def test_where_no_upstream_was_asked_the_first_message_says_so() -> None:
    looks: Iterator[list[UpstreamState]] = iter([[], [], [WELL]])
    assert list(watch_upstreams(lambda: next(looks), iter([None, None, None]))) == [[], [WELL]]
