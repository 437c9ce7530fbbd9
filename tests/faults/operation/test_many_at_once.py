"""Many chats at once on two replicas behind the real Envoy."""

import threading
from concurrent.futures import ThreadPoolExecutor

from tests.faults.operation.conftest import StartCluster
from tests.faults.operation.loads import make_bot, question
from tests.flowise_stand_in import StandIn, answer
from tests.support.chatting import listen
from tests.support.fault_sizes import FULL_SEEDS, SEEDS
from tests.support.running_dari import SOON_S, RunningDari

CHATS = 200 if SEEDS >= FULL_SEEDS else 60
LONG_S = 4 * SOON_S


def test_all_chats_that_are_open_at_once_are_answered(start_cluster: StartCluster, flowise: StandIn) -> None:
    """All are in mid-answer before one of them may end."""
    cluster = start_cluster()
    goes_on = threading.Event()
    flowise.always(answer("Hello", goes_on, " there"))
    with RunningDari(cluster.address) as dari, ThreadPoolExecutor(CHATS) as callers:
        make_bot(dari, flowise, first_token_timeout_s=LONG_S, stall_timeout_s=LONG_S, total_timeout_s=LONG_S)
        told = [
            callers.submit(lambda number: listen(dari.stream(question(number), timeout_s=LONG_S)), number)
            for number in range(CHATS)
        ]
        try:
            flowise.wait_for_questions(CHATS, LONG_S)
            shares = cluster.envoy.active_calls("dari_chat").values()
        finally:
            goes_on.set()
        assert [chat.result().turn.answer for chat in told] == ["Hello there"] * CHATS
    assert sum(shares) == CHATS
    assert min(shares) >= CHATS // 4
