"""One run: real processes, a seed's weather, all callers, the healing behind it, and everything judged."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import grpc
import psutil

from dari.adapters.postgres.embedded import EmbeddedPostgres
from dari.adapters.postgres.migrate import create_database, migrate
from dari.v1 import chat_pb2 as pb
from dari.v1 import chat_pb2_grpc, mapping_pb2
from tests.fix_postgres import PostgresDsns, open_folder
from tests.storm import stored
from tests.storm.callers import ITEMS, Callers, TurnSeen, ask, plan_turn
from tests.storm.flowise_process import FlowiseProcess, Sent
from tests.storm.judge import Chain, Judged, Truth, Verdict, judge
from tests.storm.neighbours import flowise_faults, local_faults, postgres_faults
from tests.storm.weather import Faults, FaultSeen, Timeline, Weather, plan_faults
from tests.support.running_dari import LOCAL, RunningDari, seconds
from tests.support.serving_process import ServingProcess
from tests.support.waiting import until

CHAINS = {
    "whole": Chain(("first", "second", "local"), has_data=True),
    "bare": Chain(("first", "second", "local"), has_data=False),
    "near": Chain(("first", "local"), has_data=True),
}
"""The chats under storm; "near" is the one where an answer can be continued, which no Flowise can."""
_SHARES = {"whole": 50, "bare": 15, "near": 35}
_ALONE = {f"only-{model}": Chain((model,), has_data=True) for model in ("first", "second", "local")}
"""Chats through which a circuit can be closed by a turn."""
_MAX_CHATS = 32
_MAX_DATABASE_CONNECTIONS = 24
_SETTINGS: dict[str, Any] = {
    "max_chats": _MAX_CHATS,
    "database_max_connections": _MAX_DATABASE_CONNECTIONS,
    "connect_timeout_s": 0.5,
    "circuit_open_s": 0.3,
    "circuit_max_open_s": 1.0,
    "circuit_ramp_s": 0.0,
    "probe_interval_s": 0.2,
    "database_wait_timeout_s": 1.0,
    "database_statement_timeout_s": 1.0,
    "local_model": "smollm2-135m-instruct",
    "local_threads": 1,
    "local_context_tokens": 1_024,
}
_FIRST_TOKEN_S, _LOCAL_FIRST_TOKEN_S, _STALL_S, _TOTAL_S = 2.0, 6.0, 2.0, 8.0
_LOCAL_ANSWER_TOKENS, _MAX_ROWS = 12, 2
"""The local model reads and writes little, since it has half a core."""
_WARM_UP, _HEALING = 900_000, 950_000
"""First numbers of the turns before the storm and behind it."""
_HEALS_WITHIN_S = 90.0
_SETTLES_WITHIN_S = 30.0
_POLL_INTERVAL_S = 0.25
_SPARE = 8
"""Threads and descriptors that gRPC may have more of after than before, whatever it did meanwhile."""
_DESCRIPTORS_A_DATABASE_CONNECTION = 2
_MAX_SOCKETS = _DESCRIPTORS_A_DATABASE_CONNECTION * _MAX_DATABASE_CONNECTIONS + _MAX_CHATS + _SPARE
"""Those of a full database pool, one kept upstream connection for each chat at once, and gRPC's own."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a storm."""

    turns: int
    at_once: int
    faults: int
    longest_fault_s: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """What dari's process holds."""

    threads: int
    sockets: int
    """Descriptors of sockets: most are connections kept for the next turn, of which a lull leaves few."""
    others: int
    """All other descriptors."""


@dataclass(frozen=True, slots=True)
class CircuitSeen:
    """The circuit of one AI model at one moment of the monotonic clock."""

    at_s: float
    ai_model: str
    state: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a run came to."""

    seed: str
    size: Size
    begin_s: float
    storm_end_s: float
    judged: Sequence[Judged]
    faults: Sequence[FaultSeen]
    circuits: Sequence[CircuitSeen]
    not_healed: Sequence[str]
    """What was not as before when the storm was over."""
    before: Footprint
    after: Footprint

    @property
    def wrong(self) -> list[Judged]:
        return [one for one in self.judged if one.verdict is Verdict.WRONG]


def run(seed: str, size: Size, model_dir: Path) -> Outcome:
    """Run one storm. `model_dir` has the default model."""
    with ExitStack() as opened:
        scene = opened.enter_context(_Scene.open(seed, model_dir))
        return scene.run(size)


class _Scene:
    """dari and its neighbours, all up, with data and chats."""

    def __init__(
        self, seed: str, server: ServingProcess, flowises: Mapping[str, FlowiseProcess], postgres: EmbeddedPostgres
    ) -> None:
        self._seed = seed
        self._server = server
        self._flowises = flowises
        self._timeline = Timeline()
        self._dari = RunningDari(server.address)
        self._faults: Faults = {
            **{name: flowise_faults(flowise) for name, flowise in flowises.items()},
            "local": local_faults(lambda: server.pid),
            "postgres": postgres_faults(postgres),
        }
        self._seen: list[TurnSeen] = []
        self._rows = {number + 1: (f"item-{number}", str(1_000 + 7 * number)) for number in range(ITEMS)}

    @classmethod
    @contextmanager
    def open(cls, seed: str, model_dir: Path) -> "Iterator[_Scene]":
        with ExitStack() as opened:
            folder = opened.enter_context(open_folder())
            postgres = EmbeddedPostgres(folder / "postgres", max_connections=100, durable=False)
            opened.enter_context(postgres)
            create_database(postgres.admin_dsn)
            migrate(postgres.admin_dsn, "dari", "dari_service")
            dsns = PostgresDsns(postgres.admin_dsn, postgres.service_dsn()).to("dari")
            flowises = {
                name: opened.enter_context(FlowiseProcess(name, folder / f"{name}.jsonl", seed))
                for name in ("first", "second")
            }
            (folder / "dari").mkdir()
            (folder / "dari" / "models").symlink_to(model_dir.absolute())
            server = opened.enter_context(ServingProcess(dsns, folder / "dari", **_SETTINGS))
            scene = cls(seed, server, flowises, postgres)
            opened.callback(scene._dari.channel.close)
            scene._map()
            yield scene

    def run(self, size: Size) -> Outcome:
        begin_s = time.monotonic()
        self._wait_for_all_models()
        self._warm_up()
        before = self._footprint()
        plan = plan_faults(self._seed, size.turns, size.faults, self._faults, size.longest_fault_s)
        with _CircuitWatch(self._dari.chat) as circuits:
            with Weather(self._faults, plan, self._timeline) as weather:
                callers = Callers(self._dari.chat, lambda number: plan_turn(self._seed, number, _SHARES))
                self._seen += callers.run(size.turns, size.at_once, weather.turn_begins)
            storm_end_s = time.monotonic()
            not_healed = list(self._heal())
        read = stored.read_stored(self._dari.chat)
        after = self._footprint_not_above(before)
        return Outcome(
            self._seed,
            size,
            begin_s,
            storm_end_s,
            self._judge(read),
            self._timeline.faults,
            circuits.seen,
            [*not_healed, *_growth(before, after)],
            before,
            after,
        )

    def _map(self) -> None:
        dari = self._dari
        dari.make_knowledge_base("prices", "item,price\n" + "".join(f"{a},{b}\n" for a, b in self._rows.values()))
        for name, flowise in self._flowises.items():
            dari.make_flowise(
                name,
                flowise.url,
                first_token_timeout_s=_FIRST_TOKEN_S,
                stall_timeout_s=_STALL_S,
                total_timeout_s=_TOTAL_S,
            )
        local = mapping_pb2.AiModel(
            kind=LOCAL,
            max_answer_tokens=_LOCAL_ANSWER_TOKENS,
            first_token_timeout=seconds(_LOCAL_FIRST_TOKEN_S),
            stall_timeout=seconds(_STALL_S),
            total_timeout=seconds(_TOTAL_S),
        )
        dari.mapping.CreateAiModel(mapping_pb2.CreateAiModelRequest(ai_model_id="local", ai_model=local))
        for id, chain in {**CHAINS, **_ALONE}.items():
            dari.make_chat(id, *chain.models, over=("prices",) if chain.has_data else (), max_rows=_MAX_ROWS)

    def _ask(self, number: int, chat: str) -> TurnSeen:
        """A patient turn; it is judged as all others."""
        plan = replace(
            plan_turn(self._seed, number, {chat: 1}), asks_unary=True, leaves_after=None, goes_on=False, deadline_s=20.0
        )
        seen = ask(self._dari.chat, plan, "")
        self._seen.append(seen)
        return seen

    def _is_answered_by(self, model: str, numbers: Iterator[int]) -> bool:
        turn = self._ask(next(numbers), f"only-{model}").turn
        return turn is not None and turn.ai_model == f"aiModels/{model}"

    def _wait_for_all_models(self) -> None:
        numbers = iter(range(_WARM_UP, _HEALING))
        for model in ("first", "second", "local"):
            until(partial(self._is_answered_by, model, numbers), _HEALS_WITHIN_S)

    def _warm_up(self) -> None:
        """Every chat is known, and every thread and connection there that so many callers need."""
        first = (_WARM_UP + _HEALING) // 2
        callers = Callers(self._dari.chat, lambda number: plan_turn(self._seed, first + number, _SHARES))
        self._seen += callers.run(_MAX_CHATS, _MAX_CHATS - 4, lambda _: None)

    def _heal(self) -> Iterator[str]:
        """Wait until all is as before; what does not come about is told."""
        numbers = iter(range(_HEALING, 1_000_000))
        over_s = time.monotonic() + _HEALS_WITHIN_S
        for model in ("first", "second", "local"):
            if not _comes_about(partial(self._is_answered_by, model, numbers), over_s):
                yield f"{model} does not answer"
        if not _comes_about(self._are_circuits_closed, over_s):
            yield "a circuit stays open"
        told = {sight.plan.number: sight.turn for sight in self._seen if sight.turn is not None}
        unsaved = {
            number: turn for number, turn in told.items() if pb.DEGRADED_REASON_NOT_STORED in turn.degraded_reasons
        }
        for number, turn in unsaved.items():
            if not _comes_about(partial(self._is_stored, turn), over_s):
                yield f"turn {number} is not stored"

    def _are_circuits_closed(self) -> bool:
        upstreams = self._dari.chat.ListUpstreams(pb.ListUpstreamsRequest()).upstreams
        return all(upstream.circuit_state == pb.CIRCUIT_STATE_CLOSED for upstream in upstreams)

    def _is_stored(self, turn: pb.Turn) -> bool:
        with suppress(grpc.RpcError):
            stored_turns = self._dari.turns(turn.name.partition("/turns/")[0])
            return any(one.question == turn.question and one.answer == turn.answer for one in stored_turns)
        return False

    def _footprint(self) -> Footprint:
        process = psutil.Process(self._server.pid)
        descriptors, sockets = process.num_fds(), len(process.net_connections("all"))
        return Footprint(process.num_threads(), sockets, descriptors - sockets)

    def _footprint_not_above(self, before: Footprint) -> Footprint:
        """Connections and their threads end within a while."""
        _comes_about(lambda: not list(_growth(before, self._footprint())), time.monotonic() + _SETTLES_WITHIN_S)
        return self._footprint()

    def _judge(self, read: stored.Stored) -> list[Judged]:
        sent = {name: _by_number(flowise.sent()) for name, flowise in self._flowises.items()}
        truth = Truth(self._timeline, {**CHAINS, **_ALONE}, sent, self._rows)
        judged = [judge(seen, truth) for seen in self._seen]
        against: dict[int, list[str]] = defaultdict(list)
        for number, complaint in stored.complaints(self._seen, read):
            against[number].append(complaint)
        return [_with(one, against.pop(one.seen.plan.number, ())) for one in judged]


class _CircuitWatch:
    """Looks at the circuits again and again. Use in a `with` statement; read `seen` behind it."""

    def __init__(self, stub: chat_pb2_grpc.ChatServiceStub) -> None:
        self._stub = stub
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="circuit-watch")
        self.seen: list[CircuitSeen] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._over.wait(_POLL_INTERVAL_S):
            upstreams = self._stub.ListUpstreams(pb.ListUpstreamsRequest()).upstreams
            now_s = time.monotonic()
            for upstream in upstreams:
                state = pb.CircuitState.Name(upstream.circuit_state).removeprefix("CIRCUIT_STATE_").lower()
                self.seen.append(CircuitSeen(now_s, upstream.ai_model.removeprefix("aiModels/"), state))


def _comes_about(condition: Callable[[], bool], over_s: float) -> bool:
    """Whether it is so at some moment before `over_s`, or at the look that is always taken."""
    try:
        until(condition, over_s - time.monotonic())
    except AssertionError:
        return False
    return True


def _growth(before: Footprint, after: Footprint) -> Iterator[str]:
    if after.threads > before.threads + _SPARE:
        yield f"{after.threads} threads after {before.threads}"
    if after.sockets > _MAX_SOCKETS:
        yield f"{after.sockets} sockets after {before.sockets}, at most {_MAX_SOCKETS} expected"
    if after.others > before.others + _SPARE:
        yield f"{after.others} descriptors that are no sockets after {before.others}"


def _by_number(sent: Sequence[Sent]) -> Mapping[int, Sequence[Sent]]:
    found: dict[int, list[Sent]] = defaultdict(list)
    for one in sent:
        found[one.number].append(one)
    return found


def _with(judged: Judged, complaints: Sequence[str]) -> Judged:
    if not complaints:
        return judged
    return replace(judged, verdict=Verdict.WRONG, complaints=(*judged.complaints, *complaints))
