"""Where the time of one turn goes: the steps of a chat over a large knowledge base, each timed.

The turns run in this process, through the same `Chat` over the same stores as in a server, with a clock around the
calls of the database. The rest is what stands between: prompts, circuits, timers, the HTTP client.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from bench.ingest import Bench
from bench.known_items import KnownItem
from dari.adapters.circuit import CircuitRules, WindowedCircuit
from dari.adapters.native import NativeEvidence, NativeLexer, NativePostings
from dari.adapters.postgres.conversation_store import PostgresConversationStore
from dari.adapters.postgres.database import Database
from dari.adapters.postgres.mapping_store import PostgresLinkStore
from dari.adapters.postgres.row_reader import PostgresRowReader
from dari.adapters.postgres.token_ledger import PostgresTokenLedger
from dari.adapters.postgres.version_reader import PostgresVersionReader
from dari.adapters.upstreams import UpstreamDirectory
from dari.core.chain import TokenCame
from dari.core.chat import Chat
from dari.core.conversations import TurnRequest
from dari.core.known_profiles import KnownProfiles
from dari.core.last_known import LastKnownChats
from dari.core.profiles import Profiles
from dari.core.prompt import LocalContext
from dari.core.search import Search
from dari.core.stand_by import SpareThreads
from dari.core.timed_attempt import ServerTimeouts
from dari.core.token_budgets import TokenBudgets
from dari.core.unsaved_turns import UnsavedTurns
from dari.core.watchdog import Watchdog
from dari.logs import make_log
from tests.support.operators import RecordedAlerts

STEPS = ("mapping", "begin", "retrieval", "profile", "first token", "answer", "store")
"""Read who answers over what; store the question; find the rows; read what the columns hold;
until the model's first token; until its last; store
the answer."""
WARM_UP_TURNS = 5
Target = TypeVar("Target")


class StepClock:
    """Times the steps of the turns of one thread."""

    def __init__(self) -> None:
        self.turns: list[dict[str, float]] = []
        """Seconds by step."""
        self._turn: dict[str, float] = defaultdict(float)

    def around(self, target: Target, steps: Mapping[str, str]) -> Target:
        """The same object, but that these of its methods are steps."""
        return cast(Target, _Timed(target, steps, self))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One of STEPS."""
        began_s = time.perf_counter()
        try:
            yield
        finally:
            self._turn[name] += time.perf_counter() - began_s

    def end_turn(self) -> None:
        """The next step is another turn's."""
        self.turns.append(dict(self._turn))
        self._turn.clear()


class _Timed:
    def __init__(self, target: object, steps: Mapping[str, str], clock: StepClock) -> None:
        self._target = target
        self._steps = steps
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        return self._wrapped(attribute, self._steps[name]) if name in self._steps else attribute

    def _wrapped(self, method: Callable[..., Any], step: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            with self._clock.step(step):
                return method(*arguments, **named)

        return call


def turn_steps(bench: Bench, chat_configuration: str, items: Sequence[KnownItem]) -> dict[str, Any]:
    """Ask these questions of a running server's database; the median of each step, and its share of the whole."""
    clock = StepClock()
    with _chat(bench.dsn, clock) as chat:
        for item in items:
            _time_turn(chat, clock, chat_configuration, item.question)
    turns = clock.turns[WARM_UP_TURNS:]
    medians_ms = {step: 1_000 * statistics.median(turn.get(step, 0.0) for turn in turns) for step in (*STEPS, "whole")}
    medians_ms["rest"] = medians_ms["whole"] - sum(medians_ms[step] for step in STEPS)
    return {
        "turns": len(turns),
        "steps_ms": {step: round(value, 2) for step, value in medians_ms.items()},
        "share": {step: round(medians_ms[step] / medians_ms["whole"], 2) for step in (*STEPS, "rest")},
    }


def _time_turn(chat: Chat, clock: StepClock, chat_configuration: str, question: str) -> None:
    request = TurnRequest(
        chat_configuration=chat_configuration.removeprefix("chatConfigurations/"),
        conversation=None,
        question=question,
        request_id=None,
    )
    with clock.step("whole"):
        events = chat.answer("default", request, None, lambda cancel: cancel)
        next(events)  # The question is stored.
        with clock.step("until the first token"):
            next(event for event in events if isinstance(event, TokenCame))
        with clock.step("until the end"):
            for _ in events:
                pass
    clock.end_turn()
    turn = clock.turns[-1]
    turn["first token"] = turn["until the first token"] - turn.get("retrieval", 0.0) - turn.get("profile", 0.0)
    turn["answer"] = turn["until the end"] - turn["store"]


@contextmanager
def _chat(dsn: str, clock: StepClock) -> Iterator[Chat]:
    """A `Chat` as the server builds it, with the clock in it."""
    log = make_log("error", "json")
    database = Database(dsn, max_connections=4, wait_timeout_s=5.0, statement_timeout_s=60.0)
    watchdog = Watchdog()
    circuit = WindowedCircuit(CircuitRules())
    links = clock.around(PostgresLinkStore(database), {"read_chat": "mapping"})
    conversations = PostgresConversationStore(database)
    store = clock.around(conversations, {"begin_turn": "begin", "complete_turn": "store"})
    directory = UpstreamDirectory(
        tenant="default", secrets={}, local_model=None, local_model_id=None, circuit_rules=CircuitRules()
    )
    search = Search(PostgresRowReader(database, NativePostings()), NativeLexer())
    evidence = NativeEvidence()
    profiles = clock.around(Profiles(PostgresVersionReader(database, evidence), evidence), {"describe": "profile"})
    spare = ThreadPoolExecutor(1)
    try:
        yield Chat(
            chats=LastKnownChats(links, circuit),
            turns=UnsavedTurns(store, conversations, circuit, log),
            search=clock.around(search, {"find": "retrieval"}),
            directory=directory,
            profiles=KnownProfiles(profiles, log),
            local_context=LocalContext(2_048, 1_024),
            watchdog=watchdog,
            log=log,
            alerts=RecordedAlerts(),
            default_timeout_s=60.0,
            server_timeouts=ServerTimeouts(1.0, 3.0),
            spare_threads=SpareThreads(spare, 1),
            database_timeout_s=2.0,
            budgets=TokenBudgets(PostgresTokenLedger(database), log, per_caller=None, per_tenant=None),
        )
    finally:
        spare.shutdown()
        directory.close()
        watchdog.close()
        database.close()
