"""IS below the wire: each method of each store, as each tenant, by each name that there is.

Every public method stands in CALLS, or the first test fails. What is asked for is a tenant's own, another's or
nobody's; what comes back, or is said instead, has nothing of another tenant, and nothing of another's is changed.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dari.adapters.native import NativeEvidence, NativeLexer, NativePostings
from dari.adapters.postgres.conversation_store import PostgresConversationStore
from dari.adapters.postgres.database import Database
from dari.adapters.postgres.mapping_store import (
    AiModelStore,
    ChatConfigurationStore,
    KnowledgeBaseStore,
    PostgresLinkStore,
)
from dari.adapters.postgres.row_reader import PostgresRowReader
from dari.adapters.postgres.upload_store import PostgresUploadStore
from dari.adapters.postgres.version_reader import PostgresVersionReader
from dari.core.conversations import Answer, Answerer, BegunTurn, TurnRequest
from dari.core.errors import DariError
from dari.core.mapping import AiModel, ChatConfiguration, KnowledgeBase, LinkEffect, LocalTarget
from dari.core.ranking import Question
from dari.core.uploads import CommittedCheckpoint, Move, OpenUpload, ParseOptions, RejectedRow, Upload, UploadMode
from dari.core.versions import Version
from dari.server import Server
from dari.settings import load_settings
from tests.fix_postgres import PostgresDsns, copied_database
from tests.fix_server import settings_for
from tests.support.event_log import RecordedEvents
from tests.support.running_dari import RunningDari
from tests.support.uploading import Uploader

LEXEMES = Question.of("shared", NativeLexer()).lexemes


@dataclass(frozen=True)
class Stores:
    """All that the calls of a tenant go through."""

    models: AiModelStore
    chats: ChatConfigurationStore
    bases: KnowledgeBaseStore
    links: PostgresLinkStore
    conversations: PostgresConversationStore
    uploads: PostgresUploadStore
    rows: PostgresRowReader
    versions: PostgresVersionReader

    @classmethod
    def over(cls, database: Database) -> "Stores":
        return cls(
            AiModelStore(database),
            ChatConfigurationStore(database),
            KnowledgeBaseStore(database),
            PostgresLinkStore(database),
            PostgresConversationStore(database),
            PostgresUploadStore(database, NativeEvidence()),
            PostgresRowReader(database, NativePostings()),
            PostgresVersionReader(database, NativeEvidence()),
        )


@dataclass(frozen=True)
class Things:
    """What one tenant has, under names that nobody can guess; all texts of it have the mark."""

    tenant: str
    mark: str
    upload: Upload
    version: Version
    begun: BegunTurn

    @property
    def conversation(self) -> UUID:
        return self.begun.turn.conversation

    def secrets(self) -> list[str]:
        """What is told to nobody else."""
        return [self.mark, self.upload.segment, str(self.conversation)]


def _as(tenant: str, things: Things) -> Upload:
    """The upload, as one who forges whose it is would hand it in."""
    return replace(things.upload, tenant=tenant)


@dataclass(frozen=True)
class _NoRows:
    """A Batch that stores nothing and yet moves the offset."""

    checkpoint: CommittedCheckpoint
    rows: bytes = b""
    postings: bytes = b""
    evidence: bytes = b"forged"
    rows_stored: int = 0
    rejected: Sequence[RejectedRow] = ()


def _move(things: Things) -> Move:
    checkpoint = things.upload.checkpoint
    return Move(checkpoint, _NoRows(replace(checkpoint, offset_bytes=checkpoint.offset_bytes + 1)), None)


def _request(things: Things, conversation: UUID | None) -> TurnRequest:
    return TurnRequest(f"c{things.mark}", conversation, f"question{things.mark}", None)


def _upload(things: Things) -> OpenUpload:
    return OpenUpload(f"u{things.mark}", f"k{things.mark}", UploadMode.REPLACE, ParseOptions(), 0, 1.0)


ANSWER = Answer("text", Answerer.LOCAL, "", (), (), (), frozenset())
READING: dict[str, Callable[[Stores, str, Things], object]] = {
    "models.get": lambda stores, tenant, of: stores.models.get(tenant, f"m{of.mark}"),
    "models.list": lambda stores, tenant, _: stores.models.list(tenant, "", 1_000),
    "chats.get": lambda stores, tenant, of: stores.chats.get(tenant, f"c{of.mark}"),
    "chats.list": lambda stores, tenant, _: stores.chats.list(tenant, "", 1_000),
    "bases.get": lambda stores, tenant, of: stores.bases.get(tenant, f"k{of.mark}"),
    "bases.list": lambda stores, tenant, _: stores.bases.list(tenant, "", 1_000),
    "links.list": lambda stores, tenant, of: [
        stores.links.list(tenant, chat, (), 1_000) for chat in ("", f"c{of.mark}")
    ],
    "links.read_chat": lambda stores, tenant, of: stores.links.read_chat(tenant, f"c{of.mark}"),
    "conversations.get": lambda stores, tenant, of: stores.conversations.get(tenant, of.conversation),
    "conversations.list_conversations": lambda stores, tenant, of: [
        stores.conversations.list_conversations(tenant, chat, None, 1_000) for chat in ("", f"c{of.mark}")
    ],
    "conversations.list_turns": lambda stores, tenant, of: stores.conversations.list_turns(
        tenant, of.conversation, 0, 1_000
    ),
    "uploads.get": lambda stores, tenant, of: stores.uploads.get(tenant, f"u{of.mark}"),
    "uploads.list": lambda stores, tenant, of: [
        stores.uploads.list(tenant, base, None, 1_000) for base in ("", f"k{of.mark}")
    ],
    "uploads.list_rejected": lambda stores, tenant, of: stores.uploads.list_rejected(tenant, f"u{of.mark}", -1, 1_000),
    "rows.candidates": lambda stores, tenant, of: stores.rows.candidates(tenant, [f"k{of.mark}"], LEXEMES, 1, 100),
    "versions.find": lambda stores, tenant, of: stores.versions.find(tenant, f"k{of.mark}", None),
    "versions.read_rows": lambda stores, tenant, of: stores.versions.read_rows(
        replace(of.version, tenant=tenant), 1, 10, 1_000_000
    ),
    "versions.read_evidence": lambda stores, tenant, of: stores.versions.read_evidence(tenant, f"k{of.mark}", None),
}
CHANGING: dict[str, Callable[[Stores, str, Things], object]] = {
    "models.create": lambda stores, tenant, of: stores.models.create(
        tenant, AiModel("own", "", LocalTarget(), 1.0), None
    ),
    "models.update": lambda stores, tenant, of: stores.models.update(tenant, f"m{of.mark}", "", lambda model: model),
    "models.delete": lambda stores, tenant, of: stores.models.delete(tenant, f"m{of.mark}", "", True),
    "chats.create": lambda stores, tenant, of: stores.chats.create(tenant, ChatConfiguration("own", ""), None),
    "chats.update": lambda stores, tenant, of: stores.chats.update(tenant, f"c{of.mark}", "", lambda chat: chat),
    "chats.delete": lambda stores, tenant, of: stores.chats.delete(tenant, f"c{of.mark}", "", True),
    "bases.create": lambda stores, tenant, of: stores.bases.create(tenant, KnowledgeBase("own", ""), None),
    "bases.update": lambda stores, tenant, of: stores.bases.update(tenant, f"k{of.mark}", "", lambda base: base),
    "bases.delete": lambda stores, tenant, of: stores.bases.delete(tenant, f"k{of.mark}", "", True),
    "links.link_ai_model": lambda stores, tenant, of: stores.links.link_ai_model(
        tenant, f"c{of.mark}", f"m{of.mark}", 1, False
    ),
    "links.unlink_ai_model": lambda stores, tenant, of: stores.links.unlink_ai_model(
        tenant, f"c{of.mark}", f"m{of.mark}"
    ),
    "links.link_knowledge_base": lambda stores, tenant, of: stores.links.link_knowledge_base(
        tenant, f"c{of.mark}", f"k{of.mark}", LinkEffect.ALLOW
    ),
    "links.unlink_knowledge_base": lambda stores, tenant, of: stores.links.unlink_knowledge_base(
        tenant, f"c{of.mark}", f"k{of.mark}"
    ),
    "links.grant_knowledge_base": lambda stores, tenant, of: stores.links.grant_knowledge_base(
        tenant, f"m{of.mark}", f"k{of.mark}", LinkEffect.ALLOW
    ),
    "links.revoke_knowledge_base": lambda stores, tenant, of: stores.links.revoke_knowledge_base(
        tenant, f"m{of.mark}", f"k{of.mark}"
    ),
    "conversations.begin_turn": lambda stores, tenant, of: stores.conversations.begin_turn(
        tenant, _request(of, of.conversation), 60, 10
    ),
    "conversations.complete_turn": lambda stores, tenant, of: stores.conversations.complete_turn(
        tenant, of.begun, ANSWER
    ),
    "conversations.add_turn": lambda stores, tenant, of: stores.conversations.add_turn(
        tenant, _request(of, of.conversation), of.begun.turn, ANSWER
    ),
    "conversations.abandon_turn": lambda stores, tenant, of: stores.conversations.abandon_turn(tenant, of.begun, ()),
    "conversations.delete": lambda stores, tenant, of: stores.conversations.delete(tenant, of.conversation),
    "uploads.open": lambda stores, tenant, of: stores.uploads.open(tenant, _upload(of)),
    "uploads.commit": lambda stores, tenant, of: stores.uploads.commit(_as(tenant, of), _move(of)),
    "uploads.fail": lambda stores, tenant, of: stores.uploads.fail(_as(tenant, of), "failed"),
    "uploads.cancel": lambda stores, tenant, of: stores.uploads.cancel(tenant, f"u{of.mark}"),
    "uploads.publish": lambda stores, tenant, of: stores.uploads.publish(_as(tenant, of)),
}
"""What changes what it names; asked with what is not one's own only."""
CALLS = {**READING, **CHANGING}


@pytest.fixture(scope="module")
def filled(
    postgres_server: PostgresDsns, migrated_template: PostgresDsns, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stores, Sequence[Things], PostgresDsns]]:
    """Two tenants that have the same things, and the stores over them."""
    with ExitStack() as opened:
        dsns = opened.enter_context(copied_database(postgres_server, migrated_template))
        database = Database(dsns.service_dsn, max_connections=4, wait_timeout_s=5, statement_timeout_s=30)
        opened.enter_context(closing(database))
        stores = Stores.over(database)
        made = [_fill(stores, dsns, tmp_path_factory.mktemp(tenant), tenant) for tenant in ("alpha", "beta")]
        yield stores, made, dsns


def _fill(stores: Stores, dsns: PostgresDsns, folder: Path, tenant: str) -> Things:
    mark = uuid4().hex[:12]
    server = Server(load_settings(**settings_for(dsns, folder), tenant=tenant), RecordedEvents())
    with server, RunningDari(server.address) as dari:
        dari.make_local(f"m{mark}")
        dari.make_knowledge_base(f"k{mark}")
        rows = f"city,head{mark}\nshared city,cell{mark}\nbad\0row,rejected{mark}\n"
        Uploader(dari.ingest).upload(rows.encode(), f"u{mark}", base=f"k{mark}")
        dari.make_chat(f"c{mark}", f"m{mark}", over=(f"k{mark}",))
    begun = stores.conversations.begin_turn(tenant, TurnRequest(f"c{mark}", None, f"question{mark}", None), 600, 10)
    assert isinstance(begun, BegunTurn)
    upload, version = stores.uploads.get(tenant, f"u{mark}"), stores.versions.find(tenant, f"k{mark}", None)
    return Things(tenant, mark, upload, version, begun)


def _said(stores: Stores, call: str, tenant: str, of: Things) -> str:
    """What the call returns or raises, as text."""
    try:
        return repr(CALLS[call](stores, tenant, of))
    except DariError as error:
        return f"{error} {error.metadata} {error!r}"


def _without_names(text: str, of: Things) -> str:
    """Without the names that the asker said itself."""
    for name in (*(f"{kind}{of.mark}" for kind in "mcku"), str(of.conversation)):
        text = text.replace(name, "")
    return text


def _rows_of(dsns: PostgresDsns, tenant: str) -> list[tuple[Any, ...]]:
    """All that the tenant has, as PostgreSQL prints it: metadata and rows."""
    with closing(psycopg2.connect(dsns.admin_dsn)) as session, session.cursor() as cur:
        cur.execute(
            "SELECT 'dari.' || c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            " AND a.attname = 'tenant' WHERE c.relnamespace = 'dari'::regnamespace AND c.relkind = 'r' ORDER BY 1"
        )
        found: list[tuple[Any, ...]] = []
        for (table,) in cur.fetchall():
            cur.execute(f"SELECT '{table}', t::text FROM {table} t WHERE tenant = %s ORDER BY 2", (tenant,))
            found += cur.fetchall()
        cur.execute("SELECT segment FROM dari.uploads WHERE tenant = %s ORDER BY 1", (tenant,))
        for (segment,) in cur.fetchall():
            cur.execute(f"SELECT t::text FROM dari_rows.rows_{segment} t ORDER BY 1")
            found += cur.fetchall()
        return found


def test_every_method_of_every_store_is_asked() -> None:
    """A new method must say here how it is asked by strangers."""
    methods = {
        f"{name}.{method}"
        for name, store in inspect.get_annotations(Stores).items()
        for method, _ in inspect.getmembers(store, inspect.isfunction)
        if not method.startswith("_")
    }
    assert methods == set(CALLS)


@pytest.mark.parametrize("call", READING)
def test_what_is_ones_own_is_found(filled: tuple[Stores, Sequence[Things], PostgresDsns], call: str) -> None:
    """The control: each way of asking does reach what it names."""
    stores, made, _ = filled
    for own in made:
        text = _said(stores, call, own.tenant, own)
        assert "NotFound" not in text
        assert own.mark in text


@pytest.mark.parametrize("call", CALLS)
def test_no_method_tells_or_changes_anything_of_another_tenant(
    filled: tuple[Stores, Sequence[Things], PostgresDsns], call: str
) -> None:
    """By the other's names, forged where a method takes more than names."""
    stores, made, dsns = filled
    for asker, other in (made, made[::-1]):
        before = _rows_of(dsns, other.tenant)
        text = _without_names(_said(stores, call, asker.tenant, other), other)
        assert [secret for secret in other.secrets() if secret in text] == []
        assert _rows_of(dsns, other.tenant) == before


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_history_of_calls_tells_a_tenant_anything_of_another(
    filled: tuple[Stores, Sequence[Things], PostgresDsns], data: st.DataObject
) -> None:
    """The property: tenants in turn on the same few connections, one's own among what is not."""
    stores, made, dsns = filled
    before = {tenant.tenant: _rows_of(dsns, tenant.tenant) for tenant in made}
    for _ in range(data.draw(st.integers(1, 8))):
        asker, of = data.draw(st.sampled_from(made)), data.draw(st.sampled_from(made))
        tenant = data.draw(st.sampled_from([asker.tenant, "nobody", ""]))
        call = data.draw(st.sampled_from(sorted(READING if tenant == of.tenant else CALLS)))
        if call.endswith(".create"):
            continue
        text = _without_names(_said(stores, call, tenant, of), of)
        for other in made:
            if other.tenant != tenant:
                assert [secret for secret in other.secrets() if secret in text] == [], (call, tenant)
    assert {tenant.tenant: _rows_of(dsns, tenant.tenant) for tenant in made} == before
