"""M3: 16 clients race to make, link, block, label, read and delete the same few, with and without etags.

Each round of calls must come out as if they had come one after the other, and nothing dangles.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from dari.adapters.postgres.database import Database
from dari.adapters.postgres.mapping_store import (
    AiModelStore,
    ChatConfigurationStore,
    KnowledgeBaseStore,
    PostgresLinkStore,
)
from dari.core.errors import AlreadyExists, EtagMismatch, NotFound, StillLinked
from dari.core.mapping import AiModel, AiModelLink, ChatConfiguration, KnowledgeBase, KnowledgeBaseLink, LinkEffect
from dari.core.mapping import LocalTarget as Local
from tests.faults.mapping.sequential_mapping import (
    BASES,
    CHAIN,
    CHATS,
    GRANTS,
    LINKS,
    MODELS,
    TABLES,
    Change,
    Create,
    Delete,
    Made,
    Put,
    Read,
    Result,
    State,
    Step,
    Table,
    Take,
)
from tests.faults.mapping.serial_order import Call, fits_a_serial_order
from tests.fix_postgres import PostgresDsns
from tests.support.fault_sizes import SEEDS

TENANT = "default"
CLIENTS = 16
ROUNDS = 8
ALLOW, BLOCK = LinkEffect.ALLOW, LinkEffect.BLOCK
CURRENT, STALE = "current", "stale"
CHANGED_BY = {MODELS: ("", "team=a"), CHATS: ("", "team in (a,b)"), BASES: ("a", "b")}

ids = st.sampled_from(["x", "y"])
collections = st.sampled_from([MODELS, CHATS, BASES])
etags = st.sampled_from(["", "", CURRENT, CURRENT, STALE])
tables = st.sampled_from(TABLES)


def puts(table: Table) -> st.SearchStrategy[Step]:
    values: st.SearchStrategy[Any] = st.integers(0, 1) if table == CHAIN else st.sampled_from([ALLOW, BLOCK])
    return st.builds(Put, st.just(table), ids, ids, values)


def changes(collection: str) -> st.SearchStrategy[Step]:
    return st.builds(Change, st.just(collection), ids, st.sampled_from(CHANGED_BY[collection]), etags)


steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(Create, collections, ids),
    collections.flatmap(changes),
    st.builds(Delete, collections, ids, etags, st.booleans()),
    tables.flatmap(puts),
    tables.flatmap(puts),
    st.builds(Take, tables, ids, ids),
    st.builds(Read, ids),
)


class Clients:
    """Do the steps on real PostgreSQL."""

    def __init__(self, pool: Database) -> None:
        self._stores: dict[str, Any] = {
            MODELS: AiModelStore(pool),
            CHATS: ChatConfigurationStore(pool),
            BASES: KnowledgeBaseStore(pool),
        }
        self._links = PostgresLinkStore(pool)

    def do(self, step: Step) -> Result:
        """The step's result; an error that no step may have is raised."""
        try:
            return self._done(step)
        except NotFound as error:
            return ("NotFound", error.metadata["resource"])
        except StillLinked as error:
            return ("StillLinked", frozenset(error.metadata["links"].split(",")))
        except (AlreadyExists, EtagMismatch) as error:
            return (type(error).__name__,)

    def state(self) -> State:
        """All that there is, while nobody does anything."""
        state: dict[Any, Any] = {}
        for collection, store in self._stores.items():
            for each in store.list(TENANT, "", 10):
                selector = getattr(each, "knowledge_base_selector", "")
                state[collection, each.id] = Made(int(each.etag), each.labels, selector)
        for line in self._links.list(TENANT, "", (), 100):
            if isinstance(line, AiModelLink):
                state[CHAIN, line.chat_configuration, line.ai_model] = line.priority
            elif isinstance(line, KnowledgeBaseLink):
                state[LINKS, line.chat_configuration, line.knowledge_base] = line.effect
            else:
                state[GRANTS, line.ai_model, line.knowledge_base] = line.effect
        return state

    def _done(self, step: Step) -> Result:
        match step:
            case Create(collection, id):
                self._stores[collection].create(TENANT, _new(collection, id), None)
                return ("made",)
            case Change(collection, id, value, etag):
                changed = self._stores[collection].update(TENANT, id, etag, _change(collection, value))
                return ("revision", int(changed.etag))
            case Delete(collection, id, etag, force):
                self._stores[collection].delete(TENANT, id, etag, force)
                return ("deleted",)
            case Put(table, first, second, value):
                self._put(table, first, second, value)
                return ("put",)
            case Take(table, first, second):
                self._take(table, first, second)
                return ("taken",)
            case Read(id):
                return self._read(id)

    def _put(self, table: Table, first: str, second: str, value: Any) -> None:
        if table == CHAIN:
            self._links.link_ai_model(TENANT, first, second, value, False)
        elif table == LINKS:
            self._links.link_knowledge_base(TENANT, first, second, value)
        else:
            self._links.grant_knowledge_base(TENANT, first, second, value)

    def _take(self, table: Table, first: str, second: str) -> None:
        if table == CHAIN:
            self._links.unlink_ai_model(TENANT, first, second)
        elif table == LINKS:
            self._links.unlink_knowledge_base(TENANT, first, second)
        else:
            self._links.revoke_knowledge_base(TENANT, first, second)

    def _read(self, id: str) -> Result:
        chat = self._links.read_chat(TENANT, id)
        models = tuple((link.priority, model.id) for link, model in chat.models)
        bases = frozenset((base.id, choice) for base, choice in chat.knowledge_bases)
        return ("read", models, bases, frozenset(chat.grants.items()))


def _new(collection: str, id: str) -> AiModel | ChatConfiguration | KnowledgeBase:
    if collection == MODELS:
        return AiModel(id, id, Local(), 1.0)
    return ChatConfiguration(id, id) if collection == CHATS else KnowledgeBase(id, id)


def _change(collection: str, value: str) -> Callable[[Any], Any]:
    if collection == BASES:
        return lambda base: replace(base, labels=(("team", value),))
    return lambda chooser: replace(chooser, knowledge_base_selector=value)


class Race(RuleBasedStateMachine):
    """Rounds of calls at once, beside the mapping that does one after the other."""

    def __init__(self, clients: Clients, threads: ThreadPoolExecutor) -> None:
        super().__init__()
        self._clients = clients
        self._threads = threads
        self._state: State = clients.state()

    @initialize(choosers=st.lists(st.sampled_from([MODELS, CHATS]), max_size=2))
    def make_all(self, choosers: list[str]) -> None:
        """A full house, so that the first round has something to break."""
        setting_up: tuple[Step, ...] = (
            *(Create(collection, id) for collection in (MODELS, CHATS, BASES) for id in ("x", "y")),
            *(Change(collection, "x", CHANGED_BY[collection][1], "") for collection in choosers),
            Put(CHAIN, "x", "x", 0),
            Put(LINKS, "x", "x", ALLOW),
            Put(GRANTS, "x", "y", BLOCK),
        )
        for step in setting_up:
            self._state, expected = step.after(self._state)
            assert self._clients.do(step) == expected

    @rule(steps=st.lists(steps, min_size=CLIENTS, max_size=CLIENTS))
    def race(self, steps: list[Step]) -> None:
        """One step of each client, all at once."""
        start = threading.Barrier(CLIENTS)

        def run(step: Step) -> Call:
            start.wait()
            begin_ns = time.monotonic_ns()
            result = self._clients.do(step)
            return Call(step, result, begin_ns, time.monotonic_ns())

        calls = list(self._threads.map(run, [self._with_etag(step) for step in steps]))
        after = self._clients.state()
        assert fits_a_serial_order(self._state, calls, after), (self._state, calls, after)
        self._state = after

    def _with_etag(self, step: Step) -> Step:
        """With the etag that a client has read before the round."""
        if not isinstance(step, Change | Delete) or not step.etag:
            return step
        made = self._state.get((step.collection, step.id))
        return replace(step, etag=str(made.revision) if made is not None and step.etag == CURRENT else "999")

    def teardown(self) -> None:
        for collection in (CHATS, MODELS, BASES):
            for id in ("x", "y"):
                self._clients.do(Delete(collection, id, "", True))
        assert self._clients.state() == {}


@pytest.fixture
def clients(database: PostgresDsns) -> Iterator[Clients]:
    pool = Database(database.service_dsn, max_connections=CLIENTS, wait_timeout_s=60, statement_timeout_s=60)
    yield Clients(pool)
    pool.close()


def test_calls_at_once_come_out_as_if_one_came_after_the_other(clients: Clients, database: PostgresDsns) -> None:
    """And no link is left whose ends are gone: the database is asked past all code of ours."""
    with ThreadPoolExecutor(CLIENTS) as threads:
        run_state_machine_as_test(
            lambda: Race(clients, threads),  # type: ignore[arg-type]
            settings=settings(
                max_examples=SEEDS,
                stateful_step_count=ROUNDS,
                deadline=None,
                database=None,
                # What a race did once it seldom does again: the first failure is the one to read.
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )
    with closing(psycopg2.connect(database.admin_dsn)) as session, session.cursor() as cur:
        for table in ("ai_model_chat_configurations", "chat_configuration_knowledge_bases", "ai_model_knowledge_bases"):
            cur.execute(f"SELECT count(*) FROM dari.{table}")
            assert cur.fetchone() == (0,)


GONE: State = {}
THERE: State = {(BASES, "x"): Made(1)}
HISTORIES: list[tuple[str, State, list[Call], State, bool]] = [
    ("one", GONE, [Call(Create(BASES, "x"), ("made",), 0, 1)], THERE, True),
    ("one that is lost", GONE, [Call(Create(BASES, "x"), ("made",), 0, 1)], GONE, False),
    (
        "two that both made it",
        GONE,
        [Call(Create(BASES, "x"), ("made",), 0, 9), Call(Create(BASES, "x"), ("made",), 0, 9)],
        THERE,
        False,
    ),
    (
        "two with one etag that both won",
        THERE,
        [Call(Change(BASES, "x", "a", "1"), ("revision", n), 0, 9) for n in (2, 3)],
        {(BASES, "x"): Made(3, (("team", "a"),))},
        False,
    ),
    (
        "a lost update",
        THERE,
        [Call(Change(BASES, "x", value, ""), ("revision", 2), 0, 9) for value in ("a", "b")],
        {(BASES, "x"): Made(2, (("team", "b"),))},
        False,
    ),
    (
        "put back behind its taking",
        {**THERE, (CHATS, "x"): Made(1), (LINKS, "x", "x"): ALLOW},
        [Call(Put(LINKS, "x", "x", ALLOW), ("put",), 0, 9), Call(Take(LINKS, "x", "x"), ("taken",), 0, 9)],
        {**THERE, (CHATS, "x"): Made(1), (LINKS, "x", "x"): ALLOW},
        True,
    ),
    (
        "deleted before it was there, at once",
        GONE,
        [
            Call(Delete(BASES, "x", "", False), ("NotFound", "knowledgeBases/x"), 0, 9),
            Call(Create(BASES, "x"), ("made",), 0, 9),
        ],
        THERE,
        True,
    ),
    (
        "not found behind the end of its making",
        GONE,
        [
            Call(Create(BASES, "x"), ("made",), 0, 1),
            Call(Delete(BASES, "x", "", False), ("NotFound", "knowledgeBases/x"), 2, 3),
        ],
        THERE,
        False,
    ),
]


@pytest.mark.parametrize(("name", "before", "calls", "after", "fits"), HISTORIES, ids=lambda value: str(value)[:40])
def test_the_search_tells_a_serial_history_from_another(
    name: str, before: State, calls: list[Call], after: State, fits: bool
) -> None:
    """What judges the race is judged itself."""
    assert fits_a_serial_order(before, calls, after) is fits
