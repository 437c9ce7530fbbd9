"""O3: one of two replicas is killed behind the real Envoy, while callers call."""

from itertools import cycle

import grpc

from tests.faults.operation.conftest import StartCluster
from tests.faults.operation.loads import calls_made_once, make_bot, repeatable_calls, streams, times_asked
from tests.flowise_stand_in import StandIn
from tests.support.cluster import Cluster
from tests.support.fault_sizes import SEEDS
from tests.support.repeating import Callers
from tests.support.running_dari import RunningDari, status_of

KILLS = max(2, SEEDS // 10)


def kill_in_turn(cluster: Cluster, callers: Callers, kills: int) -> None:
    """SIGKILL one replica after the other, each under load; the next when the one before is back."""
    for _, replica in zip(range(kills), cycle(cluster.replicas), strict=False):
        callers.wait_for(5)
        replica.kill()
        callers.wait_for(10)
        replica.start()
        cluster.wait_until_whole()
    callers.wait_for(5)


def test_a_killed_replica_costs_no_call_that_may_be_made_twice(start_cluster: StartCluster, flowise: StandIn) -> None:
    cluster = start_cluster()
    with RunningDari(cluster.address) as dari:
        make_bot(dari, flowise)
        with Callers(repeatable_calls(dari), each=2) as callers:
            kill_in_turn(cluster, callers, KILLS)
    assert callers.failures == ()
    assert cluster.envoy.counter("cluster.dari_mapping.upstream_rq_retry") > 0, "no call was lost: nothing was tried"


def test_a_killed_replica_lets_no_other_call_run_twice(start_cluster: StartCluster, flowise: StandIn) -> None:
    """A caller is told of those that were under way, one each at most; none is made again by the gateway."""
    cluster = start_cluster()
    each = 4
    with RunningDari(cluster.address) as dari:
        make_bot(dari, flowise)
        with Callers(calls_made_once(dari), each=each) as callers:
            kill_in_turn(cluster, callers, KILLS)
    assert set(times_asked(flowise).values()) == {1}
    for failure in callers.failures:
        # A creation that was made again would be told ALREADY_EXISTS.
        assert isinstance(failure.error, grpc.RpcError), failure
        assert status_of(failure.error) == "UNAVAILABLE", failure
    assert len(callers.failures) <= 2 * each * KILLS


def test_a_killed_replica_ends_no_stream_as_if_it_were_whole(start_cluster: StartCluster, flowise: StandIn) -> None:
    """What has begun to come cannot be begun again behind the caller's back: it fails, one of each caller at most."""
    cluster = start_cluster()
    each = 4
    with RunningDari(cluster.address) as dari:
        make_bot(dari, flowise)
        with Callers(streams(dari), each=each) as callers:
            kill_in_turn(cluster, callers, KILLS)
    # A chat without `completed` or an export without its last row would be an AssertionError.
    assert [failure for failure in callers.failures if not isinstance(failure.error, grpc.RpcError)] == []
    assert len(callers.failures) <= 2 * each * KILLS
