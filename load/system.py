"""Starts what is put under load: PostgreSQL, replicas of dari over it, and a stand-in for Flowise, each a process.

All else in `load` takes a `System` and knows nothing of how it was started, so that a gateway in front of the replicas
is a matter of this module alone: its address would be the only one in `addresses`, its process one more in `pids`.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration

from bench.chat_flowise import FLOW_ID
from bench.chat_flowise_process import FlowiseProcess
from dari.adapters.local_model.model_files import add_default_model
from dari.adapters.postgres.embedded import EmbeddedPostgres
from dari.adapters.postgres.migrate import create_database, migrate
from dari.client import Access, Client
from dari.core.callers import Role
from dari.v1 import mapping_pb2
from dari.v1.ingest_pb2 import UPLOAD_MODE_REPLACE
from tests.fix_postgres import PostgresDsns, open_folder
from tests.support.credentials import TokenHolders
from tests.support.serving_process import ServingProcess

POSTGRES, FLOWISE = "PostgreSQL", "Flowise stand-in"
DATABASE, TENANT = "dari", "acme"
LOCAL_MODEL = "smollm2-135m-instruct"
CHAT, ROWS_ONLY_CHAT, LOCAL_CHAT = (f"chatConfigurations/{id}" for id in ("flowise", "rows-only", "local"))
KNOWLEDGE_BASE = "knowledgeBases/airports"
_AIRPORTS = "faa,name,city\nLGA,La Guardia,New York\nGMP,김포,서울\nICN,인천,인천\nJFK,John F Kennedy Intl,New York\n"
TOKENS, GAP_MS = 20, 5
"""Of each answer of the stand-in for Flowise."""
_FIRST_TOKEN_TIMEOUT_S = 3
"""Long beside a stand-in that answers at once, short beside a fault."""
_CONNECTIONS_OF_OTHERS = 16


@dataclass(frozen=True)
class System:
    """What runs, as callers, watchers and whoever breaks it see it."""

    addresses: tuple[str, ...]
    """Where callers connect; they share them out among themselves."""
    replicas: Mapping[str, ServingProcess]
    postgres: EmbeddedPostgres
    flowise: FlowiseProcess
    admin_dsn: str
    token: str
    """Of an admin of TENANT."""

    def pids(self) -> dict[str, int]:
        """The processes to watch, as they are now: a replica that was killed has another when it is back."""
        return {**{name: replica.pid for name, replica in self.replicas.items()}, POSTGRES: self.postgres.pid}

    def client(self, number: int = 0, timeout_s: float = 30.0) -> Client:
        """A client of one of the addresses, in turn by `number`."""
        return Client(self.addresses[number % len(self.addresses)], timeout_s=timeout_s, access=Access(self.token))


@contextmanager
def started(*, replicas: int = 2, model_dir: Path | None = None, **settings: Any) -> Iterator[System]:
    """Everything, freshly made, with chats to ask (see `prepare`); it goes away with its data at the end.

    As an operator has it: durable, callers by token, audit and logs on. With `model_dir` each replica runs the local
    model, whose file lies there or is put there.
    """
    with ExitStack() as opened:
        folder = opened.enter_context(open_folder())
        if model_dir is not None:
            add_default_model(model_dir)
            settings |= {"local_model": LOCAL_MODEL, "local_threads": 1}
        connections = replicas * settings.get("database_max_connections", 24) + _CONNECTIONS_OF_OTHERS
        postgres = opened.enter_context(EmbeddedPostgres(folder / "postgres", max_connections=connections))
        create_database(postgres.admin_dsn, DATABASE)
        migrate(postgres.admin_dsn, DATABASE, "dari_service")
        dsns = PostgresDsns(postgres.admin_dsn, postgres.service_dsn()).to(DATABASE)
        tokens = TokenHolders(folder / "tokens.toml")
        token = tokens.add(TENANT, Role.ADMIN)
        settings = {"tokens_file": tokens.path, "log_level": "info", "batch_bytes": None, **settings}
        running: dict[str, ServingProcess] = {}
        for number in range(1, replicas + 1):
            name = f"replica {number}"
            log_file = folder / f"replica-{number}.log"
            data_dir = folder / f"replica-{number}"
            data_dir.mkdir()
            if model_dir is not None:
                (data_dir / "models").symlink_to(model_dir.absolute())
            process = ServingProcess(dsns, data_dir, log_file=log_file, **settings)
            running[name] = opened.enter_context(process)
        flowise = opened.enter_context(FlowiseProcess())
        addresses = tuple(process.address for process in running.values())
        system = System(addresses, running, postgres, flowise, dsns.admin_dsn, token)
        prepare(system, has_local_model=model_dir is not None)
        yield system


def prepare(system: System, *, has_local_model: bool) -> None:
    """Make one knowledge base with rows, and a chat over it for each kind of answerer."""
    with system.client() as client:
        make_knowledge_base(client, KNOWLEDGE_BASE)
        upload_text(client, KNOWLEDGE_BASE, _AIRPORTS)
        url = system.flowise.url(tokens=TOKENS, gap_ms=GAP_MS)
        target = mapping_pb2.FlowiseTarget(base_url=url, flow_id=FLOW_ID)
        timeout = Duration(seconds=_FIRST_TOKEN_TIMEOUT_S)
        kind = mapping_pb2.AI_MODEL_KIND_FLOWISE
        models = {"flowise": mapping_pb2.AiModel(kind=kind, flowise=target, first_token_timeout=timeout)}
        if has_local_model:
            models["local"] = mapping_pb2.AiModel(kind=mapping_pb2.AI_MODEL_KIND_LOCAL, max_answer_tokens=16)
        for id, model in models.items():
            client.mapping.CreateAiModel(mapping_pb2.CreateAiModelRequest(ai_model_id=id, ai_model=model))
            grant = mapping_pb2.GrantKnowledgeBaseRequest(ai_model=f"aiModels/{id}", knowledge_base=KNOWLEDGE_BASE)
            client.mapping.GrantKnowledgeBase(grant)
        for chat in (CHAT, ROWS_ONLY_CHAT, *((LOCAL_CHAT,) if has_local_model else ())):
            id = chat.partition("/")[2]
            client.mapping.CreateChatConfiguration(mapping_pb2.CreateChatConfigurationRequest(chat_configuration_id=id))
            link = mapping_pb2.LinkKnowledgeBaseRequest(chat_configuration=chat, knowledge_base=KNOWLEDGE_BASE)
            client.mapping.LinkKnowledgeBase(link)
            if id in models:
                client.mapping.LinkAiModel(
                    mapping_pb2.LinkAiModelRequest(chat_configuration=chat, ai_model=f"aiModels/{id}")
                )
        client.ask(CHAT, "Where is La Guardia?")


def make_knowledge_base(client: Client, name: str) -> None:
    """Make an empty one."""
    id = name.partition("/")[2]
    client.mapping.CreateKnowledgeBase(mapping_pb2.CreateKnowledgeBaseRequest(knowledge_base_id=id))


def upload_text(client: Client, knowledge_base: str, text: str) -> None:
    """Replace its rows by a small file's."""
    client.ingest(BytesIO(text.encode()), knowledge_base, UPLOAD_MODE_REPLACE)
