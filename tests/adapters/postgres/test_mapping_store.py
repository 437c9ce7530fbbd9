"""The mapping on real PostgreSQL: what the database itself refuses, and what races leave behind."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from uuid import UUID, uuid4

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2 import errors

from dari.adapters.postgres.database import Database
from dari.adapters.postgres.lost_races import MAX_ATTEMPTS
from dari.adapters.postgres.mapping_store import (
    AiModelStore,
    ChatConfigurationStore,
    KnowledgeBaseStore,
    PostgresLinkStore,
)
from dari.core.errors import AlreadyExists, DariError, InvalidArgument, NotFound, StillLinked, Unavailable
from dari.core.labels import parse_selector
from dari.core.mapping import (
    AiModel,
    ChatConfiguration,
    Choice,
    FlowiseTarget,
    KnowledgeBase,
    LinkEffect,
    LocalTarget,
    OpenAiCompatibleTarget,
    Target,
)
from tests.fix_postgres import PostgresDsns
from tests.support.choosing import chooses
from tests.support.waiting import until

TENANT = "default"
MODEL = AiModel("m", "m", LocalTarget(), 1.0)
CHAT = ChatConfiguration("c", "c")
BASE = KnowledgeBase("k", "k")
WAITING_FOR = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
ALLOW, BLOCK = LinkEffect.ALLOW, LinkEffect.BLOCK


class Stores:
    """All of the mapping over one pool."""

    def __init__(self, pool: Database) -> None:
        self.models = AiModelStore(pool)
        self.chats = ChatConfigurationStore(pool)
        self.bases = KnowledgeBaseStore(pool)
        self.links = PostgresLinkStore(pool)

    def make_all(self) -> None:
        """m, c and k, all linked with each other."""
        self.models.create(TENANT, MODEL, None)
        self.chats.create(TENANT, CHAT, None)
        self.bases.create(TENANT, BASE, None)
        self.links.link_ai_model(TENANT, "c", "m", 0, False)
        self.links.link_knowledge_base(TENANT, "c", "k", ALLOW)
        self.links.grant_knowledge_base(TENANT, "m", "k", ALLOW)


@pytest.fixture
def stores(database: PostgresDsns) -> Iterator[Stores]:
    pool = Database(database.service_dsn, max_connections=20, wait_timeout_s=30, statement_timeout_s=30)
    yield Stores(pool)
    pool.close()


def run(database: PostgresDsns, statement: str, *parameters: object) -> list[tuple[object, ...]]:
    """One statement, past all code of ours."""
    with closing(psycopg2.connect(database.admin_dsn)) as session, session, session.cursor() as cur:
        cur.execute(statement, parameters)
        return cur.fetchall() if cur.description else []


TARGETS: list[Target] = [
    LocalTarget(),
    LocalTarget("smollm2"),
    FlowiseTarget("http://flowise:3000", str(UUID(int=7)), "main"),
    FlowiseTarget("http://flowise:3000", str(UUID(int=7))),
    OpenAiCompatibleTarget("http://vllm:8000/v1", "모델 '%s'", "main"),
]


@pytest.mark.parametrize("target", TARGETS, ids=repr)
def test_a_target_comes_back_as_it_was(stores: Stores, target: Target) -> None:
    """Every kind, with and without what may be missing."""
    made = stores.models.create(TENANT, AiModel("m", "이름", target, 0.1, 600.0, 3600.0, 32_768), None)
    assert made.target == target
    assert stores.models.get(TENANT, "m") == made


BROKEN: list[tuple[str, type[psycopg2.Error]]] = [
    ("INSERT INTO dari.ai_model_knowledge_bases (tenant, ai_model, knowledge_base) VALUES ('default', 'm', 'none')",
     errors.ForeignKeyViolation),
    ("INSERT INTO dari.ai_model_knowledge_bases (tenant, ai_model, knowledge_base) VALUES ('other', 'm', 'k')",
     errors.ForeignKeyViolation),
    ("UPDATE dari.ai_model_chat_configurations SET tenant = 'other'", errors.ForeignKeyViolation),
    ("UPDATE dari.chat_configuration_knowledge_bases SET chat_configuration = 'none'", errors.ForeignKeyViolation),
    ("DELETE FROM dari.ai_models", errors.ForeignKeyViolation),
    ("DELETE FROM dari.chat_configurations", errors.ForeignKeyViolation),
    ("DELETE FROM dari.knowledge_bases", errors.ForeignKeyViolation),
    ("UPDATE dari.knowledge_bases SET current_version = 1", errors.ForeignKeyViolation),
    ("UPDATE dari.ai_models SET kind = 'FLOWISE'", errors.CheckViolation),
    ("UPDATE dari.ai_models SET api_key_secret = 'main'", errors.CheckViolation),
    ("UPDATE dari.ai_models SET total_timeout_s = 0", errors.CheckViolation),
    ("UPDATE dari.ai_model_chat_configurations SET priority = 1001", errors.CheckViolation),
    ("UPDATE dari.chat_configurations SET max_rows = 51", errors.CheckViolation),
    ("UPDATE dari.chat_configurations SET stand_by = 'ALWAYS'", errors.CheckViolation),
    ("UPDATE dari.chat_configurations SET stand_by_after_s = 0", errors.CheckViolation),
    ("INSERT INTO dari.knowledge_bases (tenant, id, display_name, description) VALUES ('default', 'A b', '', '')",
     errors.CheckViolation),
    ("UPDATE dari.knowledge_bases SET labels = '[]'", errors.CheckViolation),
    ("UPDATE dari.ai_models SET labels = '{\"a\": 1}'", errors.CheckViolation),
    ("UPDATE dari.chat_configurations SET labels = '{\"a\": [\"b\"]}'", errors.CheckViolation),
    ("UPDATE dari.ai_models SET labels = NULL", errors.NotNullViolation),
    ("UPDATE dari.ai_models SET knowledge_base_selector = repeat('a', 1025)", errors.CheckViolation),
    ("UPDATE dari.chat_configuration_knowledge_bases SET effect = 'MAYBE'", errors.CheckViolation),
    ("UPDATE dari.ai_model_knowledge_bases SET effect = NULL", errors.NotNullViolation),
]  # fmt: skip


def test_the_database_refuses_what_code_could_forget(stores: Stores, database: PostgresDsns) -> None:
    """Links to what is not there, or is another tenant's; values that fit no kind."""
    stores.make_all()
    stores.models.create("other", MODEL, None)
    for statement, error in BROKEN:
        with pytest.raises(error):
            run(database, statement)


def test_of_those_who_make_the_same_at_once_one_makes_it(stores: Stores) -> None:
    """By id one wins; by request_id all get what the one made."""

    def make(request_id: UUID | None) -> KnowledgeBase | None:
        try:
            return stores.bases.create(TENANT, BASE, request_id)
        except AlreadyExists:
            return None

    with ThreadPoolExecutor(8) as threads:
        assert sum(made is not None for made in threads.map(lambda _: make(None), range(8))) == 1
        stores.bases.delete(TENANT, "k", "", False)
        request_id = uuid4()
        made = list(threads.map(lambda _: make(request_id), range(8)))
    assert made == [made[0]] * 8
    with pytest.raises(InvalidArgument):
        stores.bases.create(TENANT, KnowledgeBase("other", "other"), request_id)
    assert stores.bases.create("other", BASE, request_id).id == "k"


def test_updates_at_once_are_applied_one_after_the_other(stores: Stores) -> None:
    """No change is made to what somebody else is changing."""
    stores.chats.create(TENANT, ChatConfiguration("c", "c", "0"), None)

    def add_one(_: int) -> None:
        stores.chats.update(TENANT, "c", "", lambda chat: ChatConfiguration("c", "c", str(int(chat.instructions) + 1)))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add_one, range(24)))
    now = stores.chats.get(TENANT, "c")
    assert (now.instructions, now.etag) == ("24", "25")


DELETIONS: list[tuple[str, Callable[[Stores, bool], None], int]] = [
    ("a model", lambda stores, force: stores.models.delete(TENANT, "m", "", force), 1),
    ("a configuration", lambda stores, force: stores.chats.delete(TENANT, "c", "", force), 1),
    ("a knowledge base", lambda stores, force: stores.bases.delete(TENANT, "k", "", force), 1),
]


@pytest.mark.parametrize(("name", "delete", "left"), DELETIONS)
def test_force_takes_the_links_of_one_and_leaves_the_others(
    stores: Stores, name: str, delete: Callable[[Stores, bool], None], left: int
) -> None:
    """Each of the three is in two of the three links."""
    stores.make_all()
    with pytest.raises(StillLinked):
        delete(stores, False)
    assert len(stores.links.list(TENANT, "", (), 10)) == 3
    delete(stores, True)
    assert len(stores.links.list(TENANT, "", (), 10)) == left


def test_links_made_while_their_ends_are_deleted_never_dangle(stores: Stores, database: PostgresDsns) -> None:
    """16 threads make, link, unlink and delete the same six: no error but the honest ones, and nothing left over."""
    rounds = 25
    unexpected: list[BaseException] = []
    start = threading.Barrier(16)
    calls: list[Callable[[], object]] = [
        lambda: stores.models.create(TENANT, MODEL, None),
        lambda: stores.chats.create(TENANT, CHAT, None),
        lambda: stores.bases.create(TENANT, BASE, None),
        lambda: stores.links.link_ai_model(TENANT, "c", "m", 3, False),
        lambda: stores.links.link_knowledge_base(TENANT, "c", "k", ALLOW),
        lambda: stores.links.grant_knowledge_base(TENANT, "m", "k", ALLOW),
        lambda: stores.links.unlink_ai_model(TENANT, "c", "m"),
        lambda: stores.links.unlink_knowledge_base(TENANT, "c", "k"),
        lambda: stores.links.revoke_knowledge_base(TENANT, "m", "k"),
        lambda: stores.models.delete(TENANT, "m", "", True),
        lambda: stores.chats.delete(TENANT, "c", "", True),
        lambda: stores.bases.delete(TENANT, "k", "", True),
        lambda: stores.models.delete(TENANT, "m", "", False),
        lambda: stores.bases.delete(TENANT, "k", "", False),
        lambda: stores.models.update(TENANT, "m", "", lambda model: model),
        lambda: stores.links.read_chat(TENANT, "c"),
    ]

    def race(call: Callable[[], object]) -> None:
        start.wait()
        for _ in range(rounds):
            try:
                call()
            except (AlreadyExists, NotFound, StillLinked):
                pass
            except DariError as error:
                unexpected.append(error)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(race, calls))
    assert unexpected == []
    dangling = run(
        database,
        """
        SELECT ai_model FROM dari.ai_model_chat_configurations l WHERE NOT EXISTS
            (SELECT FROM dari.ai_models m WHERE (m.tenant, m.id) = (l.tenant, l.ai_model))
        UNION ALL SELECT knowledge_base FROM dari.chat_configuration_knowledge_bases l WHERE NOT EXISTS
            (SELECT FROM dari.knowledge_bases k WHERE (k.tenant, k.id) = (l.tenant, l.knowledge_base))
        UNION ALL SELECT knowledge_base FROM dari.ai_model_knowledge_bases l WHERE NOT EXISTS
            (SELECT FROM dari.knowledge_bases k WHERE (k.tenant, k.id) = (l.tenant, l.knowledge_base))
        """,
    )
    assert dangling == []
    for delete in (stores.models.delete, stores.chats.delete, stores.bases.delete):
        for id in ("m", "c", "k"):
            with suppress(NotFound):
                delete(TENANT, id, "", True)
    assert list(stores.links.list(TENANT, "", (), 10)) == []


def test_a_knowledge_base_is_not_deleted_under_a_batch_that_is_being_stored(
    stores: Stores, database: PostgresDsns
) -> None:
    """It waits for the batch, and takes the tables along that the batch made."""
    stores.bases.create(TENANT, BASE, None)
    segment = uuid4().hex
    run(
        database,
        "INSERT INTO dari.uploads (tenant, id, knowledge_base, mode, hints, replaces_invalid_bytes, keeps_ragged_rows,"
        " max_rejected_rows, max_rejected_share, segment)"
        " VALUES ('default', 'u', 'k', 'REPLACE', '{}', false, true, 0, 1, %s)",
        segment,
    )
    with closing(psycopg2.connect(database.service_dsn)) as storing, ThreadPoolExecutor(1) as threads:
        with storing.cursor() as cur:
            cur.execute(f"SET ROLE dari_app; SET dari.tenant = '{TENANT}'")
            cur.execute("UPDATE dari.uploads SET committed_offset_bytes = 10 WHERE id = 'u'")
            cur.execute("SET ROLE dari_ingest")
            deleted = threads.submit(stores.bases.delete, TENANT, "k", "", False)
            while not run(database, WAITING_FOR, storing.info.backend_pid):
                assert not deleted.done()
            cur.execute(f"CREATE TABLE dari_rows.rows_{segment} (n integer)")
            cur.execute(f"CREATE TABLE dari_rows.postings_{segment} (n integer)")
        storing.commit()
        deleted.result()
    assert run(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'dari_rows'") == [(0,)]
    assert run(database, "SELECT count(*) FROM dari.uploads") == [(0,)]


def test_another_tenant_sees_and_changes_nothing(stores: Stores) -> None:
    """The same answer as for what is not there."""
    stores.make_all()
    for store in (stores.models, stores.chats, stores.bases):
        assert store.list("other", "", 10) == []
    for call in (
        lambda: stores.models.get("other", "m"),
        lambda: stores.models.delete("other", "m", "", True),
        lambda: stores.chats.update("other", "c", "", lambda chat: chat),
        lambda: stores.links.link_ai_model("other", "c", "m", 0, False),
        lambda: stores.links.revoke_knowledge_base("other", "m", "k"),
        lambda: stores.links.read_chat("other", "c"),
    ):
        with pytest.raises(NotFound):
            call()
    assert stores.links.list("other", "", (), 10) == []
    assert len(stores.links.list(TENANT, "", (), 10)) == 3


def test_a_chat_is_read_with_all_that_it_is_linked_to(stores: Stores) -> None:
    """In the order of asking; the grants of its models to its knowledge bases, and no others."""
    stores.make_all()
    for id in ("a", "z"):
        stores.models.create(TENANT, AiModel(id, id, LocalTarget(), 1.0), None)
        stores.bases.create(TENANT, KnowledgeBase(id, id), None)
    stores.links.link_ai_model(TENANT, "c", "z", 0, False)
    stores.links.grant_knowledge_base(TENANT, "z", "a", ALLOW)
    stores.links.grant_knowledge_base(TENANT, "a", "k", ALLOW)
    chat = stores.links.read_chat(TENANT, "c")
    assert [(link.priority, model.id) for link, model in chat.models] == [(0, "m"), (0, "z")]
    assert [(base.id, link) for base, link in chat.knowledge_bases] == [("k", Choice(ALLOW))]
    assert chat.grants == {("m", "k"): Choice(ALLOW)}


def test_a_selector_links_and_grants_by_itself_until_a_person_says_otherwise(stores: Stores) -> None:
    """As knowledge bases come, go, and change their labels; a person's line wins and can be taken back."""
    stores.models.create(TENANT, replace(MODEL, knowledge_base_selector="team"), None)
    stores.chats.create(TENANT, replace(CHAT, knowledge_base_selector="team=a,!secret"), None)
    stores.links.link_ai_model(TENANT, "c", "m", 0, False)

    def seen() -> dict[str, tuple[Choice, Choice | None]]:
        chat = stores.links.read_chat(TENANT, "c")
        return {base.id: (link, chat.grants.get(("m", base.id))) for base, link in chat.knowledge_bases}

    selected = Choice(None, True)
    stores.bases.create(TENANT, replace(BASE, labels=(("team", "a"),)), None)
    stores.bases.create("other", replace(BASE, id="theirs", labels=(("team", "a"),)), None)
    assert seen() == {"k": (selected, selected)}
    stores.links.grant_knowledge_base(TENANT, "m", "k", BLOCK)
    assert seen() == {"k": (selected, Choice(BLOCK, True))}
    stores.links.link_knowledge_base(TENANT, "c", "k", BLOCK)
    assert seen() == {"k": (Choice(BLOCK, True), Choice(BLOCK, True))}
    stores.links.link_knowledge_base(TENANT, "c", "k", ALLOW)
    stores.links.revoke_knowledge_base(TENANT, "m", "k")
    assert seen() == {"k": (Choice(ALLOW, True), selected)}
    stores.bases.update(TENANT, "k", "", lambda base: replace(base, labels=(("team", "b"),)))
    assert seen() == {"k": (Choice(ALLOW, False), selected)}
    stores.links.unlink_knowledge_base(TENANT, "c", "k")
    assert seen() == {}


keys = st.sampled_from(["a", "b", "x.y/z"])
values = st.sampled_from(["", "1", "2"])
label_sets = st.dictionaries(keys, values, max_size=3)
selectors = st.lists(
    st.one_of(
        keys,
        keys.map("!{}".format),
        st.tuples(keys, st.sampled_from(["=", "==", "!="]), values).map("".join),
        st.tuples(keys, st.sampled_from(["in", "notin"]), st.lists(values, min_size=1, max_size=3)).map(
            lambda parts: f"{parts[0]} {parts[1]} ({','.join(parts[2]) or ','})"
        ),
    ),
    max_size=3,
).map(",".join)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(label_sets, min_size=4, max_size=4), selectors, selectors)
def test_postgresql_chooses_what_the_selector_means(
    stores: Stores, labels: list[dict[str, str]], linked: str, granted: str
) -> None:
    """For any selectors and labels, of the chat and of the model."""
    for id in ("m", "c", "k0", "k1", "k2", "k3"):
        for store in (stores.models, stores.chats, stores.bases):
            with suppress(NotFound):
                store.delete(TENANT, id, "", True)
    stores.models.create(TENANT, replace(MODEL, knowledge_base_selector=granted), None)
    stores.chats.create(TENANT, replace(CHAT, knowledge_base_selector=linked), None)
    stores.links.link_ai_model(TENANT, "c", "m", 0, False)
    for place, pairs in enumerate(labels):
        stores.bases.create(TENANT, replace(BASE, id=f"k{place}", labels=tuple(sorted(pairs.items()))), None)
    chat = stores.links.read_chat(TENANT, "c")
    chosen = {f"k{place}" for place, pairs in enumerate(labels) if chooses(parse_selector(linked), pairs)}
    assert {base.id for base, _ in chat.knowledge_bases} == chosen
    assert {base for _, base in chat.grants} == {
        id for id in chosen if chooses(parse_selector(granted), labels[int(id[1:])])
    }


def test_a_deadlock_is_seen_by_nobody(stores: Stores, database: PostgresDsns) -> None:
    """PostgreSQL gives up the one of the two that asks first; it is done again, and is told as done."""
    # Each looks for a deadlock once. The rival looks later: the other finds it, and is given up; but not before the
    # rival has asked, which may take it a moment.
    run(
        database,
        f"ALTER DATABASE {psycopg2.extensions.parse_dsn(database.admin_dsn)['dbname']} SET deadlock_timeout = '3s'",
    )
    stores.make_all()
    with closing(psycopg2.connect(database.admin_dsn)) as rival, ThreadPoolExecutor(1) as threads:
        with rival.cursor() as cur:
            cur.execute("SET deadlock_timeout = '20s'")
            cur.execute("SELECT 1 FROM dari.ai_model_chat_configurations FOR UPDATE")
            deleted = threads.submit(stores.models.delete, TENANT, "m", "", True)
            until(lambda: run(database, WAITING_FOR, rival.info.backend_pid) != [])
            cur.execute("SELECT 1 FROM dari.ai_models FOR UPDATE")
        rival.commit()
        deleted.result()
    until(lambda: run(database, DEADLOCKS) == [(1,)])
    assert stores.models.list(TENANT, "", 10) == []


def test_a_transaction_that_always_loses_is_unavailable_in_the_end(stores: Stores, database: PostgresDsns) -> None:
    """After so many times, and not for ever."""
    run(
        database,
        """
        CREATE SEQUENCE dari.times;
        GRANT USAGE ON SEQUENCE dari.times TO dari_app;
        CREATE FUNCTION dari.lose() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM nextval('dari.times');
            RAISE EXCEPTION 'lost' USING ERRCODE = '40001';
        END $$;
        CREATE TRIGGER lose BEFORE INSERT ON dari.ai_models FOR EACH ROW EXECUTE FUNCTION dari.lose();
        """,
    )
    with pytest.raises(Unavailable):
        stores.models.create(TENANT, MODEL, None)
    assert run(database, "SELECT last_value FROM dari.times") == [(MAX_ATTEMPTS,)]
