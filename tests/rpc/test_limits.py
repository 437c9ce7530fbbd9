"""Limits of callers, through the front: two servers over one database."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import psycopg2
import pytest

from dari.client import Access
from dari.core.callers import Role
from dari.v1 import chat_pb2, mapping_pb2
from tests.fix_postgres import PostgresDsns
from tests.fix_server import ServedDari, StartServer
from tests.flowise_stand_in import StandIn, answer
from tests.support.credentials import TokenHolders
from tests.support.running_dari import RunningDari, refusal
from tests.support.waiting import until


@dataclass(frozen=True)
class Callers:
    """Two callers of one tenant, known to all servers."""

    path: Path
    ann: str
    bob: str

    @contextmanager
    def at(self, served: ServedDari, token: str) -> Iterator[RunningDari]:
        with RunningDari(served.server.address, Access(token)) as dari:
            yield dari


@pytest.fixture
def callers(tmp_path: Path) -> Callers:
    holders = TokenHolders(tmp_path / "tokens.toml")
    return Callers(holders.path, holders.add("acme", Role.ADMIN), holders.add("acme", Role.READER))


def test_a_caller_who_calls_too_fast_is_refused_and_others_are_not(start_server: StartServer, callers: Callers) -> None:
    served = start_server(tokens_file=callers.path, caller_calls_per_s=0.01, caller_burst=2)
    with callers.at(served, callers.ann) as ann, callers.at(served, callers.bob) as bob:
        for dari in (ann, bob):
            for _ in range(2):
                dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
            with pytest.raises(grpc.RpcError) as raised:
                dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
            refused = refusal(raised.value)
            assert (refused.status, refused.reason) == ("RESOURCE_EXHAUSTED", "CALL_RATE_EXCEEDED")
            assert refused.metadata == {"limit": "caller_calls_per_s", "value": "0.01"}
            # The next one may come in 100 s, which no client is to sit out.
            assert dict(refused.trailers)["grpc-retry-pushback-ms"] == "-1"


def test_a_caller_has_so_many_calls_under_way(start_server: StartServer, callers: Callers) -> None:
    """A watcher is one as long as it watches."""
    served = start_server(tokens_file=callers.path, caller_calls_at_once=1)
    with callers.at(served, callers.ann) as ann, callers.at(served, callers.bob) as bob:
        watching = ann.chat.WatchUpstreams(chat_pb2.WatchUpstreamsRequest())
        next(watching)
        with pytest.raises(grpc.RpcError) as raised:
            ann.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
        assert refusal(raised.value).metadata == {"limit": "caller_calls_at_once", "value": "1"}
        bob.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
        watching.cancel()
        until(lambda: is_let_in(ann))


def test_tokens_that_are_spent_on_one_server_are_spent_on_the_other(
    start_server: StartServer, database: PostgresDsns, flowise: StandIn, callers: Callers
) -> None:
    """Also on a third that starts behind; another caller of the tenant has a budget of their own."""
    settings = {"tokens_file": callers.path, "caller_tokens_per_day": 50}
    first, second = start_server(**settings), start_server(**settings)
    with callers.at(first, callers.ann) as ann, callers.at(second, callers.ann) as ann_there:
        ann.make_flowise("support", flowise.url)
        ann.make_chat("bot", "support")
        flowise.always(answer("word " * 100))
        ann_there.ask("is there anybody?", timeout_s=30)
        assert is_spent(ann_there), "at once where it was spent"
        until(lambda: stored_tokens(database) >= 50)
        assert is_spent(ann)
        third = start_server(**settings)
        with callers.at(third, callers.ann) as ann_later, callers.at(third, callers.bob) as bob:
            assert is_spent(ann_later)
            assert bob.ask("and I?").answer


def stored_tokens(database: PostgresDsns) -> int:
    with closing(psycopg2.connect(database.admin_dsn)) as session, session.cursor() as cursor:
        cursor.execute("SELECT coalesce(sum(tokens), 0)::int FROM dari.token_usage")
        ((tokens,),) = cursor.fetchall()
        assert isinstance(tokens, int)
        return tokens


def is_let_in(dari: RunningDari) -> bool:
    with suppress(grpc.RpcError):
        dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
        return True
    return False


def is_spent(dari: RunningDari) -> bool:
    try:
        dari.ask("more?")
    except grpc.RpcError as error:
        refused = refusal(error)
        assert (refused.status, refused.reason) == ("RESOURCE_EXHAUSTED", "TOKENS_SPENT")
        assert refused.metadata == {"limit": "caller_tokens_per_day", "value": "50"}
        return True
    return False
