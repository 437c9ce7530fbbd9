"""IS, M2, and M1 in part: two tenants over one database, and everyone asks for everything.

Each tenant has a server of its own, and the same kinds of things under names that nobody can guess. Whatever a tenant
calls, by whatever names, no answer, error or log line of its server has anything of the other, but what it said itself.
"""

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg2
import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from dari.server import Server
from dari.settings import load_settings
from dari.v1 import chat_pb2, ingest_pb2, mapping_pb2
from tests.fix_postgres import PostgresDsns, copied_database
from tests.fix_server import StartServer, settings_for
from tests.flowise_stand_in import Play, StandIn, headers_only, openai_answer, openai_stall_after, web_page
from tests.support.event_log import RecordedEvents
from tests.support.fault_sizes import FULL_SEEDS, SEEDS, sampled
from tests.support.running_dari import SOON_S, RunningDari, conversation_of
from tests.support.uploading import Uploader

QUESTION = "Which city is shared?"
_COLLECTIONS = {
    "knowledge_base": "knowledgeBases",
    "chat_configuration": "chatConfigurations",
    "ai_model": "aiModels",
    "upload": "uploads",
    "conversation": "conversations",
}
_CHANGING = re.compile(r"Create|Update|Delete|Link|Unlink|Grant|Revoke|Cancel|Sync|Ingest$|Drain|Reset|Watch")
"""Calls that change what they name, or do not end; asked with names of others only, and those without a name not."""


@dataclass
class Tenant:
    """One tenant: its server, what it has, and what must not be told to others."""

    id: str
    dari: RunningDari
    log: RecordedEvents
    model: StandIn
    mark: str = field(default_factory=lambda: uuid4().hex[:12])
    names: dict[str, list[str]] = field(default_factory=dict)

    def fill(self) -> None:
        """Models, chats, knowledge bases, a source, uploads with rejected rows, conversations."""
        self.model.always(openai_answer(f"answer{self.mark}"))
        self.dari.make_openai(f"m{self.mark}", self.model.url)
        bases = {kind: f"{kind}{self.mark}" for kind in ("granted", "ungranted", "unlinked")}
        for kind, base in bases.items():
            self.dari.make_knowledge_base(base)
            rows = f"city,head{self.mark}\nshared city,{self.cell(kind)}\nbad\0row,rejected{self.mark}\n"
            Uploader(self.dari.ingest).upload(rows.encode(), f"u{kind}{self.mark}", base=base)
        self._give_source(bases["unlinked"])
        linked = (bases["granted"], bases["ungranted"])
        self.dari.make_chat(f"c{self.mark}", f"m{self.mark}", over=linked, granted={f"m{self.mark}": linked[:1]})
        turn = self.dari.ask(f"{QUESTION} question{self.mark}", chat=f"c{self.mark}")
        self.names = {
            "knowledge_base": [f"knowledgeBases/{base}" for base in bases.values()],
            "chat_configuration": [f"chatConfigurations/c{self.mark}"],
            "ai_model": [f"aiModels/m{self.mark}"],
            "upload": [f"uploads/u{kind}{self.mark}" for kind in bases],
            "conversation": [conversation_of(turn)],
        }

    def _give_source(self, base: str) -> None:
        """One that cannot be read, and a look at it."""
        source = mapping_pb2.KnowledgeBaseSource(uri=f"file:///source{self.mark}.csv", paused=True)
        changed = mapping_pb2.KnowledgeBase(name=f"knowledgeBases/{base}", source=source)
        self.dari.mapping.UpdateKnowledgeBase(mapping_pb2.UpdateKnowledgeBaseRequest(knowledge_base=changed))
        self.dari.mapping.SyncKnowledgeBase(mapping_pb2.SyncKnowledgeBaseRequest(name=changed.name))

    def cell(self, kind: str) -> str:
        """What stands in the rows of the knowledge base of this kind, and nowhere else."""
        return f"cell{kind}{self.mark}"

    def secrets(self) -> list[str]:
        """What a text of somebody else's must not have."""
        return [self.mark, *(name.partition("/")[2] for name in self.names["conversation"])]


@dataclass(frozen=True)
class Call:
    """One RPC: its stub, and the class of its request."""

    name: str
    make: type[Message]
    of: Callable[[RunningDari], Any]
    streams: bool

    def ask(self, dari: RunningDari, request: Message) -> str:
        """All that the server answers, or says instead."""
        rpc = getattr(self.of(dari), self.name)
        try:
            answer = rpc(request, timeout=SOON_S)
            return "".join(map(_text, answer)) if self.streams else _text(answer)
        except grpc.RpcError as error:
            call: Any = error
            return f"{call.code()} {call.details()} {call.trailing_metadata()!r}"


def _text(message: Message) -> str:
    return message.SerializeToString().decode("utf-8", errors="replace")


def _calls() -> list[Call]:
    stubs: list[tuple[Any, str, Callable[[RunningDari], Any]]] = [
        (chat_pb2, "ChatService", lambda dari: dari.chat),
        (ingest_pb2, "IngestService", lambda dari: dari.ingest),
        (mapping_pb2, "MappingService", lambda dari: dari.mapping),
    ]
    return [
        Call(method.name, getattr(module, method.input_type.name), of, method.server_streaming)
        for module, service, of in stubs
        for method in module.DESCRIPTOR.services_by_name[service].methods
        if not method.client_streaming
    ]


CALLS = _calls()


def _subject(call: Call) -> str:
    """What a field `name` of the call names: GetAiModel an AI model."""
    kinds = {re.sub("_", "", kind): kind for kind in _COLLECTIONS}
    return next((kind for flat, kind in kinds.items() if flat in call.name.lower()), "")


def _fields(call: Call) -> dict[str, str]:
    """The fields of its request that name something, and what."""
    found = {}
    for each in call.make.DESCRIPTOR.fields:
        kind = _subject(call) if each.name == "name" else each.name.removesuffix("s")
        if each.type == each.TYPE_STRING and kind in _COLLECTIONS:
            found[each.name] = kind
    return found


def _request(call: Call, names: dict[str, str]) -> Message:
    """A request that names these, and asks for as much as it can."""
    request = call.make()
    for each in call.make.DESCRIPTOR.fields:
        if each.name in names:
            value: Any = names[each.name]
            if each.name.endswith("s"):
                getattr(request, each.name).append(value)
            else:
                setattr(request, each.name, value)
        elif each.name in ("query", "question"):
            setattr(request, each.name, QUESTION)
    return request


@pytest.fixture(scope="module")
def tenants(
    postgres_server: PostgresDsns, migrated_template: PostgresDsns, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[Tenant], PostgresDsns]]:
    """Two tenants that have the same; what one says, the other never does."""
    with ExitStack() as opened:
        dsns = opened.enter_context(copied_database(postgres_server, migrated_template))
        made = [_served(opened, dsns, tmp_path_factory.mktemp(id), id) for id in ("alpha", "beta")]
        for tenant in made:
            tenant.fill()
        yield made, dsns


def _served(opened: ExitStack, dsns: PostgresDsns, folder: Path, id: str) -> Tenant:
    log = RecordedEvents()
    server = opened.enter_context(Server(load_settings(**settings_for(dsns, folder), tenant=id), log))
    dari = opened.enter_context(RunningDari(server.address))
    return Tenant(id, dari, log, opened.enter_context(StandIn()))


def _leaks(text: str, of: Tenant, said: Sequence[str] = ()) -> list[str]:
    """What of `of` stands in the text, beyond what its reader said."""
    for name in said:
        text = text.replace(name, "").replace(name.partition("/")[2], "")
    return [secret for secret in of.secrets() if secret in text]


def test_each_call_that_names_something_is_asked_with_every_name(
    tenants: tuple[list[Tenant], PostgresDsns],
) -> None:
    """All calls by all names of the other, one field at a time foreign and all of them."""
    made, _ = tenants
    asked = set()
    for asker, other in (made, made[::-1]):
        for call in CALLS:
            fields = _fields(call)
            for names in _foreign(fields, asker, other):
                text = call.ask(asker.dari, _request(call, names))
                assert _leaks(text, other, list(names.values())) == [], (call.name, names)
                asked.add(call.name)
        assert _leaks(_logged(asker), other, [name for names in other.names.values() for name in names]) == []
    assert {"Chat", "Search", "ExportRows", "GetProfile", "ListRejectedRows", "ListTurns", "GetUpload"} <= asked
    assert len(asked) > 30, "nearly every call names something"


def _foreign(fields: dict[str, str], asker: Tenant, other: Tenant) -> Iterator[dict[str, str]]:
    """Names for the fields, at least one of them the other's."""
    choices = [[*other.names[kind], asker.names[kind][0]] for kind in fields.values()]
    for chosen in product(*choices):
        if any(name in other.names[kind] for name, kind in zip(chosen, fields.values(), strict=True)):
            yield dict(zip(fields, chosen, strict=True))


def _logged(tenant: Tenant) -> str:
    return "\n".join(f"{name} {tenant.log.fields(name)}" for name in tenant.log.names())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whoever_asks_whatever_by_whatever_name_is_told_nothing_of_another(
    tenants: tuple[list[Tenant], PostgresDsns], data: st.DataObject
) -> None:
    """The property: names of one's own, of the other, of nobody, mixed as they come; and pages of everything."""
    made, _ = tenants
    asker, other = data.draw(st.sampled_from([made, made[::-1]]))
    call = data.draw(st.sampled_from([call for call in CALLS if not _CHANGING.search(call.name)]))
    names = {
        field: data.draw(st.sampled_from([*asker.names[kind], *other.names[kind], _absent(asker.names[kind][0])]))
        for field, kind in _fields(call).items()
        if data.draw(st.booleans())
    }
    text = call.ask(asker.dari, _request(call, names))
    assert _leaks(text, other, list(names.values())) == []
    if set(names.values()) == {asker.names["knowledge_base"][0]} and call.name in ("Search", "ExportRows"):
        assert asker.cell("granted") in text, "the control: it does find what is its own"


def _absent(name: str) -> str:
    """A name of the same form that nobody has."""
    collection, _, id = name.partition("/")
    return f"{collection}/{uuid4()}" if collection == "conversations" else f"{collection}/none{len(id)}"


def test_not_yours_and_not_there_are_the_same_answer(tenants: tuple[list[Tenant], PostgresDsns]) -> None:
    """M1: the words differ in the name that was asked for, and in nothing else."""
    made, _ = tenants
    asker, other = made
    for call in CALLS:
        fields = _fields(call)
        if not fields or call.name == "Search":
            continue
        foreign = {field: other.names[kind][0] for field, kind in fields.items()}
        absent = {field: _absent(name) for field, name in foreign.items()}
        answers = []
        for names in (foreign, absent):
            text = call.ask(asker.dari, _request(call, names))
            for place, name in names.items():
                text = text.replace(name, place).replace(name.partition("/")[2], place)
            answers.append(re.sub(_OWN_TO_A_CALL, "", text))
        assert answers[0] == answers[1], call.name


_OWN_TO_A_CALL = r"(grpc-status-details-bin', value=b|x-request-id', value=).*?\)"
"""The details repeat the words, and each call has an id of its own."""


PAIRS = 200 if SEEDS >= FULL_SEEDS else 40
TELLING_SHARE = 0.9
"""From here on the slower of two is no chance: with 40 pairs once in ten million, where both are equally fast."""
NAMING = [call for call in CALLS if _fields(call)]


@pytest.mark.parametrize("call", sampled(NAMING, 8), ids=lambda call: call.name)
def test_not_yours_and_not_there_take_the_same_time(tenants: tuple[list[Tenant], PostgresDsns], call: Call) -> None:
    """M1: by which of two neighbouring calls took longer, so that a busy machine is none of its matter."""
    asker, other = tenants[0]
    foreign = {field: other.names[kind][0] for field, kind in _fields(call).items()}
    absent = {field: _absent(name) for field, name in foreign.items()}
    share = _slower_share(asker.dari, call, _request(call, foreign), _request(call, absent))
    assert 1 - TELLING_SHARE < share < TELLING_SHARE


def test_the_measure_tells_what_takes_longer(tenants: tuple[list[Tenant], PostgresDsns]) -> None:
    """The control: a turn that is answered, against one whose chat is not there."""
    asker, _ = tenants[0]
    (call,) = (call for call in CALLS if call.name == "Ask")
    own = {"chat_configuration": asker.names["chat_configuration"][0]}
    absent = {"chat_configuration": _absent(own["chat_configuration"])}
    assert _slower_share(asker.dari, call, _request(call, own), _request(call, absent)) > TELLING_SHARE


def _slower_share(dari: RunningDari, call: Call, one: Message, other: Message) -> float:
    """How often `one` took longer than `other`, asked in turn, either first."""
    chance = random.Random(call.name)
    slower = 0
    for _ in range(PAIRS):
        pair = [(True, one), (False, other)]
        chance.shuffle(pair)
        took_s = {}
        for is_one, request in pair:
            began_s = time.perf_counter()
            call.ask(dari, request)
            took_s[is_one] = time.perf_counter() - began_s
        slower += took_s[True] > took_s[False]
    return slower / PAIRS


def test_a_model_is_sent_nothing_that_it_is_not_granted(tenants: tuple[list[Tenant], PostgresDsns]) -> None:
    """Its own tenant's ungranted and unlinked rows, and all of the other's; the granted ones are the control."""
    made, _ = tenants
    for tenant, other in (made, made[::-1]):
        tenant.dari.ask(QUESTION, chat=f"c{tenant.mark}")
        sent = _sent(tenant.model)
        assert tenant.cell("granted") in sent
        assert tenant.cell("ungranted") not in sent
        assert tenant.cell("unlinked") not in sent
        assert _leaks(sent, other) == []


SECRET_CELL, OPEN_CELL = "cell-of-both", "cell-of-one"
HAND_OVERS: list[tuple[str, Play, Any, Any]] = [
    ("after a failure", web_page(), mapping_pb2.STAND_BY_OFF, chat_pb2.ON_INTERRUPTION_RESTART),
    ("from the start", openai_stall_after(SECRET_CELL), mapping_pb2.STAND_BY_OFF, chat_pb2.ON_INTERRUPTION_RESTART),
    ("where it stopped", openai_stall_after(SECRET_CELL), mapping_pb2.STAND_BY_OFF, chat_pb2.ON_INTERRUPTION_CONTINUE),
    ("in a race", headers_only(), mapping_pb2.STAND_BY_RACE, chat_pb2.ON_INTERRUPTION_RESTART),
    ("made ready", headers_only(), mapping_pb2.STAND_BY_WARM, chat_pb2.ON_INTERRUPTION_RESTART),
]


@pytest.mark.parametrize(
    ("first", "mode", "on_interruption"), [each[1:] for each in HAND_OVERS], ids=[way for way, *_ in HAND_OVERS]
)
def test_a_model_that_takes_over_is_sent_what_it_is_granted_and_not_what_the_first_was(
    start_server: StartServer, first: Play, mode: Any, on_interruption: Any
) -> None:
    """However it takes over: neither the rows of the first model, nor what that said of them, nor an earlier turn."""
    dari = start_server().dari
    with StandIn() as seeing, StandIn() as lesser:
        dari.make_openai("seeing", seeing.url, first_token_timeout_s=0.5, stall_timeout_s=0.5)
        dari.make_openai("lesser", lesser.url)
        dari.make_knowledge_base("both", f"city,note\nshared city,{SECRET_CELL}\n")
        dari.make_knowledge_base("one", f"city,note\nshared city,{OPEN_CELL}\n")
        granted = {"seeing": ("both", "one"), "lesser": ("one",)}
        dari.make_chat("bot", "seeing", "lesser", over=("both", "one"), granted=granted)
        seeing.script(openai_answer(f"said {SECRET_CELL}"), first)
        lesser.always(openai_answer("fine"))
        conversation = conversation_of(dari.ask(QUESTION))
        if mode != mapping_pb2.STAND_BY_OFF:
            dari.stand_by("bot", mode, after_s=0.05)
        events = list(dari.stream(QUESTION, conversation=conversation, on_interruption=on_interruption))
    assert events[-1].completed.turn.ai_model == "aiModels/lesser"
    assert SECRET_CELL in _sent(seeing)
    assert OPEN_CELL in _sent(lesser)
    assert SECRET_CELL not in _sent(lesser)


def _sent(model: StandIn) -> str:
    return "\n".join(str(request.json) for request in model.questions)


def test_a_name_of_another_tenant_is_free_to_take(tenants: tuple[list[Tenant], PostgresDsns]) -> None:
    """A refusal would tell that it is taken; and neither gets into the way of the other."""
    made, _ = tenants
    asker, other = made
    (name,) = other.names["chat_configuration"]
    id = name.partition("/")[2]
    asker.dari.make_chat(id)
    resolved = mapping_pb2.ResolveChatConfigurationRequest(name=name)
    assert "granted" not in _text(asker.dari.mapping.ResolveChatConfiguration(resolved))
    asker.dari.mapping.DeleteChatConfiguration(mapping_pb2.DeleteChatConfigurationRequest(name=name))
    assert "granted" in _text(other.dari.mapping.ResolveChatConfiguration(resolved))


TABLES = """
SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant'
WHERE c.relnamespace = 'dari'::regnamespace AND c.relkind = 'r' AND has_table_privilege('dari_app', c.oid, 'SELECT')
ORDER BY 1
"""


def test_sql_that_forgets_the_tenant_meets_the_tenant_of_its_transaction_only(
    tenants: tuple[list[Tenant], PostgresDsns],
) -> None:
    """The wall behind the code, for every table that there is: as the app role, without a condition."""
    made, dsns = tenants
    with closing(psycopg2.connect(dsns.admin_dsn)) as session, session.cursor() as cur:
        cur.execute(TABLES)
        tables = [name for (name,) in cur.fetchall()]
        cur.execute("SELECT count(*) FROM dari.turns")
        assert cur.fetchone() != (0,)
    assert len(tables) >= 13
    for table in tables:
        with closing(psycopg2.connect(dsns.service_dsn)) as session, session.cursor() as cur:
            # First, while the session has never heard of the setting.
            for tenant in (None, made[0].id, made[1].id, "nobody"):
                named = f"SET LOCAL dari.tenant = '{tenant}'; " if tenant is not None else ""
                cur.execute(f"SET LOCAL ROLE dari_app; {named}SELECT DISTINCT tenant FROM dari.{table}")
                expected = [(tenant,)] if tenant in {each.id for each in made} else []
                assert cur.fetchall() == expected, table
                cur.execute(f"DELETE FROM dari.{table} WHERE tenant IS DISTINCT FROM '{tenant}'")
                assert cur.rowcount == 0
                session.rollback()


def test_whoever_names_what_is_no_tenant_is_refused_and_told_nothing_false(
    tenants: tuple[list[Tenant], PostgresDsns],
) -> None:
    """A server of an older version names "": it must not take all rows for those of nobody, and remove them."""
    _, dsns = tenants
    with closing(psycopg2.connect(dsns.service_dsn)) as session, session.cursor() as cur:
        for tenant in ("", "*", "Alpha", "alpha,beta"):
            cur.execute(f"SET LOCAL ROLE dari_app; SET LOCAL dari.tenant = '{tenant}'")
            with pytest.raises(psycopg2.errors.CheckViolation):
                cur.execute("SELECT segment FROM dari.version_segments")
            session.rollback()


@pytest.mark.parametrize("named", ["", "SET LOCAL dari.tenant = 'alpha'; "])
def test_no_transaction_writes_a_row_of_a_tenant_that_it_does_not_name(
    tenants: tuple[list[Tenant], PostgresDsns], named: str
) -> None:
    _, dsns = tenants
    with closing(psycopg2.connect(dsns.service_dsn)) as session, session.cursor() as cur:
        cur.execute(f"SET LOCAL ROLE dari_app; {named}SAVEPOINT here")
        statements = [
            "INSERT INTO dari.knowledge_bases (tenant, id, display_name, description) VALUES ('beta', 'x', '', '')",
            "UPDATE dari.knowledge_bases SET tenant = 'beta'",
        ]
        for statement in statements[: 2 if "alpha" in named else 1]:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security"):
                cur.execute(statement)
            cur.execute("ROLLBACK TO here")


def test_the_reader_role_with_nothing_set_sees_no_row(tenants: tuple[list[Tenant], PostgresDsns]) -> None:
    """M2: of any table or view in the schema of rows; and a superuser sees that there are some."""
    _, dsns = tenants
    with (
        closing(psycopg2.connect(dsns.admin_dsn)) as all_seeing,
        closing(psycopg2.connect(dsns.service_dsn)) as session,
        all_seeing.cursor() as seen,
        session.cursor() as cur,
    ):
        seen.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'dari_rows'::regnamespace AND relkind IN ('r', 'v')"
        )
        relations = [name for (name,) in seen.fetchall()]
        assert len(relations) == 2 * 3 * 4
        for relation in relations:
            seen.execute(f"SELECT count(*) FROM dari_rows.{relation}")
            assert seen.fetchone() != (0,)
            cur.execute(f"SET LOCAL ROLE dari_reader; SELECT count(*) FROM dari_rows.{relation}")
            assert cur.fetchone() == (0,)
            session.rollback()
