"""O2: a replica is told to stop (SIGTERM) behind the real Envoy, while callers call; and all of them, one by one."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

import tests.support.stuck_dari
from dari.v1 import chat_pb2, mapping_pb2
from tests.faults.operation.conftest import StartCluster
from tests.faults.operation.loads import calls_made_once, make_bot, question, repeatable_calls, streams
from tests.flowise_stand_in import StandIn, answer, never_end
from tests.support.chatting import listen
from tests.support.cluster import Cluster
from tests.support.fault_sizes import SEEDS
from tests.support.repeating import Callers
from tests.support.running_dari import SOON_S, RunningDari
from tests.support.waiting import until

ROUNDS = max(1, SEEDS // 40)
CHATS = 8
LEAVES_BY_S = 4 * SOON_S
"""Far above the drain of these tests, far below what would hold a replica that does not leave by itself."""


def stop_in_turn(cluster: Cluster, callers: Callers, rounds: int) -> None:
    """SIGTERM one replica after the other under load; the next when the one before is back."""
    for replica in cluster.replicas * rounds:
        callers.wait_for(3)
        replica.signal(signal.SIGTERM)
        assert replica.wait_for_end(LEAVES_BY_S) == 0
        callers.wait_for(3)
        replica.start()
        cluster.wait_until_whole()
    callers.wait_for(3)


def test_a_rolling_restart_costs_no_call(start_cluster: StartCluster, flowise: StandIn) -> None:
    """Not those that may be made once only, and no stream."""
    cluster = start_cluster()
    with RunningDari(cluster.address) as dari:
        make_bot(dari, flowise)
        calls = {**repeatable_calls(dari), **calls_made_once(dari), **streams(dari)}
        with Callers(calls, each=2) as callers:
            stop_in_turn(cluster, callers, ROUNDS)
    assert callers.failures == ()


def test_chats_under_way_come_to_their_end_on_a_replica_that_stops(
    start_cluster: StartCluster, flowise: StandIn
) -> None:
    cluster = start_cluster(drain_timeout_s=SOON_S)
    goes_on = threading.Event()
    flowise.always(answer("Hello", goes_on, " there"))
    with RunningDari(cluster.address) as dari, ThreadPoolExecutor(CHATS) as callers:
        make_bot(dari, flowise, stall_timeout_s=SOON_S)
        told = [callers.submit(lambda number: listen(dari.stream(question(number))), number) for number in range(CHATS)]
        flowise.wait_for_questions(CHATS)
        stopping, staying = cluster.replicas
        stopping.signal(signal.SIGTERM)
        cluster.envoy.wait_for_replicas({staying.address})
        goes_on.set()
        assert [chat.result().turn.answer for chat in told] == ["Hello there"] * CHATS
        assert stopping.wait_for_end(LEAVES_BY_S) == 0


def test_chats_that_outlast_the_drain_end_as_incomplete(start_cluster: StartCluster, flowise: StandIn) -> None:
    """In mid-answer, on every replica: none ends as if it were whole, and what was written is kept as cut."""
    cluster = start_cluster(drain_timeout_s=0.5)
    flowise.always(never_end())
    with RunningDari(cluster.address) as dari, ThreadPoolExecutor(CHATS) as callers:
        make_bot(dari, flowise)
        told = [callers.submit(lambda number: listen(dari.stream(question(number))), number) for number in range(CHATS)]
        flowise.wait_for_questions(CHATS)
        for replica in cluster.replicas:
            replica.signal(signal.SIGTERM)
        for replica in cluster.replicas:
            assert replica.wait_for_end(LEAVES_BY_S) == 0
        chats = [chat.result() for chat in told]
        for chat in chats:
            assert chat.error is not None
            assert "completed" not in chat.kinds
        for replica in cluster.replicas:
            replica.start()
        cluster.wait_until_whole()
        states = [turn.state for chat in chats for turn in dari.turns(chat.conversation)]
    assert states == [chat_pb2.TURN_STATE_INCOMPLETE] * CHATS


def test_a_handler_that_hangs_for_ever_holds_no_replica(start_cluster: StartCluster, flowise: StandIn) -> None:
    cluster = start_cluster(program=(str(Path(tests.support.stuck_dari.__file__)),), drain_timeout_s=0.5)
    with RunningDari(cluster.address) as dari:
        make_bot(dari, flowise)
        hanging = [
            dari.mapping.GetAiModel.future(mapping_pb2.GetAiModelRequest(name="aiModels/flow")) for _ in range(4)
        ]
        until(lambda: sum(cluster.envoy.active_calls("dari_mapping").values()) == len(hanging))
        for replica in cluster.replicas:
            replica.signal(signal.SIGTERM)
        for replica in cluster.replicas:
            assert replica.wait_for_end(LEAVES_BY_S) == 0
        assert "stop_hangs" not in "".join(file.read_text() for file in cluster.logs())
        for call in hanging:
            with pytest.raises(grpc.RpcError):
                call.result()
