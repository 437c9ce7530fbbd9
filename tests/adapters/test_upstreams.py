"""The directory of neighbours: who shares a circuit, what a probe asks, what is forgotten, when sockets close."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from dari.adapters.circuit import CircuitRules
from dari.adapters.local_model.process import LocalModel
from dari.adapters.tenant_secrets import TenantSecrets
from dari.adapters.upstreams import FORGET_AFTER_S, MAX_NEIGHBOURS, UpstreamDirectory
from dari.core.circuit import CircuitState
from dari.core.errors import NotFound
from dari.core.mapping import AiModel, FlowiseTarget, LocalTarget, Target
from dari.core.upstream import Upstream, UpstreamError
from dari.core.upstream_states import LocalProcess, LocalProcessStatus
from tests.adapters.local_model.fakes import fake_model
from tests.flowise_stand_in import FLOW_ID, StandIn, answer
from tests.support.asking import SOON_S, Asking, ask
from tests.support.event_log import RecordedEvents

OTHER_FLOW_ID = "6dad48dd-6482-4fe5-904a-000000000001"
TENANT, OTHER_TENANT = "default", "other"
FAKE_ENGINE = "tests.adapters.local_model.fakes:FakeEngine"
CLOSED, OPEN, DRAINED = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.DRAINED


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(clock: Clock) -> Iterator[UpstreamDirectory]:
    made = new_directory(clock)
    yield made
    made.close()


def new_directory(
    clock: Clock, local_model: LocalModel | None = None, max_neighbours: int = MAX_NEIGHBOURS
) -> UpstreamDirectory:
    return UpstreamDirectory(
        tenant=TENANT,
        secrets=TenantSecrets({"main": SecretStr("k3y"), f"{OTHER_TENANT}/main": SecretStr("0ther")}, TENANT),
        local_model=local_model,
        local_model_id="fake",
        circuit_rules=CircuitRules(consecutive_failures=1),
        max_neighbours=max_neighbours,
        clock=clock,
    )


@pytest.fixture
def flowise() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


def model(target: Target, id: str = "m") -> AiModel:
    return AiModel(id, id, target, 10.0)


def flow(number: int) -> FlowiseTarget:
    return FlowiseTarget("http://127.0.0.1:1", f"6dad48dd-6482-4fe5-904a-{number:012d}")


def fail(directory: UpstreamDirectory, asked: AiModel, code: str) -> None:
    permit = directory.circuit(TENANT, asked).admit()
    assert permit is not None
    permit.failed(code)


def states(directory: UpstreamDirectory, tenant: str = TENANT) -> list[tuple[str, CircuitState]]:
    return [(state.ai_model, state.circuit.state) for state in directory.states(tenant)]


def test_models_of_one_target_share_a_circuit_and_those_of_one_server_its_circuit(directory: UpstreamDirectory) -> None:
    first, same, other = model(flow(1), "a"), model(flow(1), "b"), model(flow(2), "c")
    for each in (first, same, other):
        directory.upstream(TENANT, each)
    fail(directory, first, "stream_cut")
    assert states(directory) == [("a", OPEN), ("b", OPEN), ("c", CLOSED)]
    fail(directory, other, "connection_refused")
    assert states(directory) == [("a", OPEN), ("b", OPEN), ("c", OPEN)]


def test_tenants_with_models_of_the_same_id_have_nothing_to_do_with_each_other(directory: UpstreamDirectory) -> None:
    """Each is told of its own, drains and resets its own, also where both point to the same place."""
    for number, tenant in enumerate((TENANT, OTHER_TENANT)):
        directory.upstream(tenant, model(flow(1), "same"))
        directory.upstream(tenant, model(flow(number), "moves"))
    directory.drain(OTHER_TENANT, "same")
    assert states(directory) == [("moves", CLOSED), ("same", CLOSED)]
    assert states(directory, OTHER_TENANT) == [("moves", DRAINED), ("same", DRAINED)]
    assert directory.circuit(TENANT, model(flow(1))).admit() is not None
    directory.reset(TENANT, "same")
    assert states(directory, OTHER_TENANT) == [("moves", DRAINED), ("same", DRAINED)]
    assert states(directory, "third") == []
    for act in (directory.drain, directory.reset):
        with pytest.raises(NotFound):
            act("third", "same")


def test_a_server_is_up_or_down_for_all_tenants(directory: UpstreamDirectory) -> None:
    for number, tenant in enumerate((TENANT, OTHER_TENANT)):
        directory.upstream(tenant, model(flow(number)))
    fail(directory, model(flow(0)), "connection_refused")
    assert states(directory) == states(directory, OTHER_TENANT) == [("m", OPEN)]


def test_who_watches_all_tenants_tells_their_models_apart(directory: UpstreamDirectory) -> None:
    for tenant in (TENANT, OTHER_TENANT):
        directory.upstream(tenant, model(flow(1)))
    watched = [circuit.subject for circuit in directory.watched_circuits()]
    assert sorted(watched) == ["aiModels/m", "http://127.0.0.1:1", f"{OTHER_TENANT}/aiModels/m"]


def test_each_tenant_has_secrets_of_its_own_and_reaches_no_other(
    directory: UpstreamDirectory, flowise: StandIn
) -> None:
    """By the same name, to the same place; one whose name has no tenant before it is that of the settings."""
    target = FlowiseTarget(flowise.url, FLOW_ID, "main")
    for tenant in (TENANT, OTHER_TENANT):
        ask(directory.upstream(tenant, model(target)))
    keys = [question.headers["authorization"] for question in flowise.questions]
    assert keys == ["Bearer k3y", "Bearer 0ther"]
    for name in ("main", f"{OTHER_TENANT}/main"):
        with pytest.raises(UpstreamError):
            directory.upstream("third", model(FlowiseTarget(flowise.url, FLOW_ID, name)))


def test_only_models_that_were_asked_are_told(directory: UpstreamDirectory) -> None:
    """One that stands behind in a chain has a circuit, and nothing to tell."""
    assert directory.circuit(TENANT, model(flow(1))).admit() is not None
    assert directory.states(TENANT) == []
    with pytest.raises(NotFound):
        directory.drain(TENANT, "m")


def test_a_probe_asks_what_a_turn_asks_first(directory: UpstreamDirectory, flowise: StandIn) -> None:
    """The same path with the same key; of two flows on a server, by the way of the one that was asked last."""
    target = FlowiseTarget(flowise.url, FLOW_ID, "main")
    directory.upstream(TENANT, model(FlowiseTarget(flowise.url, OTHER_FLOW_ID), "other"))
    assert ask(directory.upstream(TENANT, model(target))) == "Hello there"
    of_a_turn, question = flowise.requests
    (server,) = directory.servers()
    assert server.answers(SOON_S)
    of_a_probe = flowise.requests[-1]
    assert (of_a_probe.method, of_a_probe.path) == (of_a_turn.method, of_a_turn.path)
    assert {request.headers["authorization"] for request in (of_a_turn, question, of_a_probe)} == {"Bearer k3y"}
    assert len(server.flows) == 2
    flowise.stop()
    assert not server.answers(SOON_S)


def test_a_model_that_points_elsewhere_leaves_nothing_behind(directory: UpstreamDirectory, flowise: StandIn) -> None:
    """Its old circuit, server and client go at once; unless another model points there still."""
    directory.upstream(TENANT, model(flow(1), "stays"))
    for number in range(1, 100):
        directory.upstream(TENANT, model(flow(number), "moves"))
    directory.upstream(TENANT, model(FlowiseTarget(flowise.url, FLOW_ID), "moves"))
    assert [(server.name, len(server.flows)) for server in directory.servers()] == [
        ("http://127.0.0.1:1", 1),
        (flowise.url, 1),
    ]
    assert states(directory) == [("moves", CLOSED), ("stays", CLOSED)]


def test_a_model_that_is_deleted_is_told_of_no_more(directory: UpstreamDirectory) -> None:
    """Another model at its target keeps circuit and server; one of another tenant is another model."""
    first, second = model(flow(1), "first"), model(flow(1), "second")
    for each in (first, second):
        directory.upstream(TENANT, each)
    directory.upstream(OTHER_TENANT, first)
    circuit = directory.circuit(TENANT, second)
    directory.forget(TENANT, "first")
    directory.forget(TENANT, "nobody")
    assert [state.ai_model for state in directory.states(TENANT)] == ["second"]
    assert [state.ai_model for state in directory.states(OTHER_TENANT)] == ["first"]
    assert directory.circuit(TENANT, second) is circuit
    directory.forget(TENANT, "second")
    directory.forget(OTHER_TENANT, "first")
    assert directory.servers() == []
    with pytest.raises(NotFound):
        directory.drain(TENANT, "first")


def test_a_turn_that_knows_a_model_as_it_was_changes_nothing(directory: UpstreamDirectory) -> None:
    """Two chats may know one model by two states while the database is gone: no circuit is forgotten turn by turn."""
    now = replace(model(flow(2)), update_time=datetime.now(UTC))
    before = replace(model(flow(1)), update_time=now.update_time - timedelta(hours=1))
    for asked in (before, now):
        directory.upstream(TENANT, asked)
    for asked in (before, now, before, now):
        directory.upstream(TENANT, asked)
        if directory.circuit(TENANT, asked).admit() is not None:
            fail(directory, asked, "stream_cut")
    assert [directory.circuit(TENANT, each).state().state for each in (before, now)] == [OPEN, OPEN]
    assert states(directory) == [("m", OPEN)]


def test_a_forgotten_client_ends_no_attempt_and_closes_its_connections_behind_the_last(
    directory: UpstreamDirectory, flowise: StandIn
) -> None:
    go_on = threading.Event()
    flowise.always(answer("Half ", go_on, "and half"))
    old = FlowiseTarget(flowise.url, FLOW_ID)
    asking = Asking(directory.upstream(TENANT, model(old)))
    asking.wait_for_text("Half ")
    directory.upstream(TENANT, model(FlowiseTarget(flowise.url, OTHER_FLOW_ID)))
    assert [len(server.flows) for server in directory.servers()] == [1]
    go_on.set()
    asking.wait_for_text("Half and half")
    asking.wait_for_end()
    assert flowise.questions[0].hung_up.wait(SOON_S)


def test_an_upstream_that_was_handed_out_before_it_was_forgotten_can_still_be_asked(
    directory: UpstreamDirectory, flowise: StandIn
) -> None:
    """A turn may hold it for a moment before its attempt begins."""
    handed_out: Upstream = directory.upstream(TENANT, model(FlowiseTarget(flowise.url, FLOW_ID)))
    directory.upstream(TENANT, model(flow(1)))
    assert ask(handed_out) == "Hello there"


def test_what_no_turn_came_across_for_a_day_is_forgotten(directory: UpstreamDirectory, clock: Clock) -> None:
    """With its circuit; what turns pass by because its circuit is open is not."""
    idle, passed_by = model(flow(1), "idle"), model(flow(2), "passed-by")
    for each in (idle, passed_by):
        directory.upstream(TENANT, each)
        fail(directory, each, "stream_cut")
    clock.now_s += FORGET_AFTER_S - 1
    assert directory.circuit(TENANT, passed_by).admit() is None
    clock.now_s += 1
    directory.circuit(TENANT, passed_by)
    assert [id for id, _ in states(directory)] == ["passed-by"]
    assert directory.circuit(TENANT, idle).state().last_failure is None


def test_a_drained_model_is_not_forgotten(directory: UpstreamDirectory, clock: Clock) -> None:
    """It would be asked again; reset, it goes like any other."""
    directory.upstream(TENANT, model(flow(1), "drained"))
    directory.drain(TENANT, "drained")
    for _ in range(3):
        clock.now_s += FORGET_AFTER_S
        directory.upstream(TENANT, model(flow(2), "other"))
    assert states(directory) == [("drained", DRAINED), ("other", CLOSED)]
    directory.reset(TENANT, "drained")
    clock.now_s += FORGET_AFTER_S
    directory.upstream(TENANT, model(flow(2), "other"))
    assert states(directory) == [("other", CLOSED)]


def test_there_are_only_so_many(clock: Clock) -> None:
    """However many models come and go in a day: the one that was come across longest ago goes first."""
    directory = new_directory(clock, max_neighbours=3)
    for number in (1, 2, 3, 1, 4):
        directory.upstream(TENANT, model(flow(number), f"m{number}"))
    assert [id for id, _ in states(directory)] == ["m1", "m3", "m4"]
    for id in ("m1", "m3", "m4"):
        directory.drain(TENANT, id)
    directory.upstream(TENANT, model(flow(5), "m5"))
    assert [id for id, _ in states(directory)] == ["m1", "m3", "m4", "m5"]
    directory.close()


def test_the_local_models_process_is_told(clock: Clock, tmp_path: Path) -> None:
    with LocalModel(fake_model(tmp_path), RecordedEvents(), niceness=0, engine_factory=FAKE_ENGINE) as local:
        directory = new_directory(clock, local)
        directory.upstream(TENANT, model(LocalTarget(), "local"))
        directory.upstream(TENANT, model(flow(1), "flow"))
        ready = local.wait_until(lambda state: state.status == "ready", SOON_S)
        assert ready is not None
        flow_state, local_state = directory.states(TENANT)
        assert flow_state.process is None
        assert local_state.process == LocalProcess(
            status=LocalProcessStatus.READY,
            model_file=ready.model_id,
            engine=ready.engine or "",
            restarts=0,
            queue_length=0,
            running=0,
            last_failure="",
            memory_bytes=ready.memory_bytes,
        )
    stopped = directory.states(TENANT)[1].process
    assert stopped is not None
    assert stopped.status is LocalProcessStatus.STOPPED


def test_without_a_local_model_there_is_no_process(directory: UpstreamDirectory) -> None:
    with pytest.raises(UpstreamError):
        directory.upstream(TENANT, model(LocalTarget()))
    assert [state.process for state in directory.states(TENANT)] == [None]
