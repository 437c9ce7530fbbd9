"""A replica that is frozen (SIGSTOP) behind the real Envoy: TCP does not notice, the pings of HTTP/2 do."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.operation.conftest import StartCluster
from tests.faults.operation.loads import make_bot, question, repeatable_calls
from tests.flowise_stand_in import StandIn, answer
from tests.support.chatting import listen
from tests.support.fault_sizes import FULL_SEEDS, SEEDS
from tests.support.repeating import Callers
from tests.support.running_dari import SOON_S, RunningDari
from tests.support.waiting import until

LONG_S = 10 * SOON_S
PINGS_S = 100.0
"""Six of Envoy's pings (one each 15 s): more than gRPC takes by default on a connection without data."""
CHATS = 6

pytestmark = pytest.mark.skipif(SEEDS < FULL_SEEDS, reason="waits for Envoy's pings: make faults-operation")


def test_a_frozen_replica_costs_no_call_that_may_be_made_twice_and_holds_no_chat(
    start_cluster: StartCluster, flowise: StandIn
) -> None:
    """Chats on it end with an error as soon as a ping is not answered; those on the other one end whole."""
    cluster = start_cluster()
    frozen, other = cluster.replicas
    goes_on = threading.Event()
    flowise.always(answer("Hello", goes_on, " there"))
    with RunningDari(cluster.address) as dari, ThreadPoolExecutor(CHATS) as chatting:
        make_bot(dari, flowise, stall_timeout_s=LONG_S, total_timeout_s=LONG_S)
        told = [
            chatting.submit(lambda number: listen(dari.stream(question(number), timeout_s=LONG_S)), number)
            for number in range(CHATS)
        ]
        flowise.wait_for_questions(CHATS)
        shares = cluster.envoy.active_calls("dari_chat")
        with Callers(repeatable_calls(dari), each=2) as callers:
            callers.wait_for(5)
            frozen.signal(signal.SIGSTOP)
            try:
                cluster.envoy.wait_for_replicas({other.address})
                callers.wait_for(5)
                until(lambda: sum(chat.done() for chat in told) == shares[frozen.address], LONG_S)
            finally:
                frozen.signal(signal.SIGCONT)
        goes_on.set()
        chats = [chat.result() for chat in told]
    assert callers.failures == ()
    assert shares[frozen.address] > 0
    assert sum(chat.error is not None for chat in chats) == shares[frozen.address]


def test_a_connection_without_calls_stays_open(start_cluster: StartCluster) -> None:
    """Envoy asks again and again on the wire whether the replica lives, and the replica does not mind."""
    cluster = start_cluster()
    with RunningDari(cluster.address) as dari:
        dari.make_knowledge_base("kb")
        time.sleep(PINGS_S)
        dari.make_knowledge_base("other")
    assert cluster.envoy.counter("cluster.dari_mapping.upstream_cx_destroy_remote") == 0
