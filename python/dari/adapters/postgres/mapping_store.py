"""Keeps AI models, chat configurations, knowledge bases and their links."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, ClassVar, Generic, NamedTuple
from uuid import UUID

from peewee import JOIN, SQL, fn

from dari.adapters.postgres.database import Database, Role, Transaction
from dari.adapters.postgres.segments import drop_segment
from dari.adapters.postgres.tables import (
    AiModelChatConfigurations,
    AiModelKnowledgeBases,
    AiModels,
    ChatConfigurationKnowledgeBases,
    ChatConfigurations,
    KnowledgeBases,
    KnowledgeBaseVersions,
    Uploads,
)
from dari.core.errors import AlreadyExists, EtagMismatch, FieldViolation, InvalidArgument, NotFound, StillLinked
from dari.core.mapping import (
    AiModel,
    AiModelLink,
    ChatConfiguration,
    ChatMapping,
    FlowiseTarget,
    KnowledgeBase,
    KnowledgeBaseGrant,
    KnowledgeBaseLink,
    LocalTarget,
    Mapping,
    OpenAiCompatibleTarget,
    Resource,
    StandByMode,
    Target,
)


class _Reference(NamedTuple):
    """A link table's column that refers to a resource, and the collection of what it is linked with."""

    column: Any
    other: Any
    other_collection: str

    @property
    def table(self) -> Any:
        return self.column.model


class _Resources(Generic[Resource]):
    """The shared road of the three kinds; a subclass says how a row and a resource turn into each other."""

    collection: ClassVar[str]
    table: ClassVar[Any]
    references: ClassVar[Sequence[_Reference]]

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, tenant: str, resource: Resource, request_id: UUID | None) -> Resource:
        """See ResourceStore."""
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            made = (
                self.table.insert({"tenant": tenant, "request_id": request_id, **self._row(resource)})
                .on_conflict_ignore()
                .returning(self.table.id)
                .tuples()
                .execute(transaction.peewee)
            )
            if list(made):
                return self._resource(self._find(transaction, tenant, resource.id))
            if request_id is not None:
                earlier = self._select(tenant).where(self.table.request_id == request_id).first(transaction.peewee)
                if earlier is not None:
                    return self._made_before(earlier, resource)
            raise AlreadyExists.of(f"{self.collection}/{resource.id}")

    def get(self, tenant: str, id: str) -> Resource:
        """See ResourceStore."""
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            return self._resource(self._find(transaction, tenant, id))

    def list(self, tenant: str, after: str, limit: int) -> list[Resource]:
        """See ResourceStore."""
        query = self._select(tenant).where(self.table.id > after).order_by(self.table.id).limit(limit)
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            return [self._resource(row) for row in query.execute(transaction.peewee)]

    def update(self, tenant: str, id: str, etag: str, change: Callable[[Resource], Resource]) -> Resource:
        """See ResourceStore."""
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            current = self._resource(self._lock(transaction, tenant, id, etag))
            row = self._row(change(current))
            del row["id"]
            (
                self.table.update(
                    {
                        **{getattr(self.table, key): value for key, value in row.items()},
                        self.table.revision: self.table.revision + 1,
                        self.table.update_time: fn.now(),
                    }
                )
                .where((self.table.tenant == tenant) & (self.table.id == id))
                .execute(transaction.peewee)
            )
            return self._resource(self._find(transaction, tenant, id))

    def delete(self, tenant: str, id: str, etag: str, force: bool) -> None:
        """See ResourceStore."""
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            self._lock(transaction, tenant, id, etag)
            self._release(transaction, tenant, id, force)
            self._before_delete(transaction, tenant, id)
            (
                self.table.delete()
                .where((self.table.tenant == tenant) & (self.table.id == id))
                .execute(transaction.peewee)
            )

    def _release(self, transaction: Transaction, tenant: str, id: str, force: bool) -> None:
        links: list[str] = []
        for reference in self.references:
            of_this = (reference.table.tenant == tenant) & (reference.column == id)
            if force:
                reference.table.delete().where(of_this).execute(transaction.peewee)
                continue
            rows = reference.table.select(reference.other).where(of_this).order_by(reference.other).limit(20).tuples()
            links += [f"{reference.other_collection}/{other}" for (other,) in rows.execute(transaction.peewee)]
        if links:
            name = f"{self.collection}/{id}"
            raise StillLinked(
                f"{name} is linked with {', '.join(links)}; unlink it first, or delete it with force.",
                {"resource": name, "links": ",".join(links)},
            )

    def _made_before(self, row: dict[str, Any], resource: Resource) -> Resource:
        """What the same request made when it came first; it may have been changed since, so only the id is compared."""
        if row["id"] != resource.id:
            raise InvalidArgument.of(
                FieldViolation("request_id", f"was used before to make {self.collection} of another id")
            )
        return self._resource(row)

    def _lock(self, transaction: Transaction, tenant: str, id: str, etag: str) -> dict[str, Any]:
        locked = (
            self.table.select(self.table.revision)
            .where((self.table.tenant == tenant) & (self.table.id == id))
            .for_update()
            .tuples()
            .first(transaction.peewee)
        )
        name = f"{self.collection}/{id}"
        if locked is None:
            raise NotFound.of(name)
        if etag and etag != str(locked[0]):
            raise EtagMismatch(f"{name} has changed since it was read; read it again.", {"resource": name})
        return self._find(transaction, tenant, id)

    def _find(self, transaction: Transaction, tenant: str, id: str) -> dict[str, Any]:
        row: dict[str, Any] | None = self._select(tenant).where(self.table.id == id).first(transaction.peewee)
        if row is None:
            raise NotFound.of(f"{self.collection}/{id}")
        return row

    def _select(self, tenant: str) -> Any:
        return self.table.select().where(self.table.tenant == tenant).dicts()

    def _before_delete(self, transaction: Transaction, tenant: str, id: str) -> None:
        """What must go before the row can; nothing for most."""

    def _row(self, resource: Resource) -> dict[str, Any]:
        raise NotImplementedError

    def _resource(self, row: dict[str, Any]) -> Resource:
        raise NotImplementedError


class AiModelStore(_Resources[AiModel]):
    """Keeps AI models. A ResourceStore."""

    collection = "aiModels"
    table = AiModels
    references = (
        _Reference(
            AiModelChatConfigurations.ai_model, AiModelChatConfigurations.chat_configuration, "chatConfigurations"
        ),
        _Reference(AiModelKnowledgeBases.ai_model, AiModelKnowledgeBases.knowledge_base, "knowledgeBases"),
    )

    def _row(self, resource: AiModel) -> dict[str, Any]:
        return {
            "id": resource.id,
            "display_name": resource.display_name,
            "kind": resource.kind.value,
            **_target_row(resource.target),
            "first_token_timeout_s": resource.first_token_timeout_s,
            "stall_timeout_s": resource.stall_timeout_s,
            "total_timeout_s": resource.total_timeout_s,
            "max_answer_tokens": resource.max_answer_tokens,
            "context_tokens": resource.context_tokens,
        }

    def _resource(self, row: dict[str, Any]) -> AiModel:
        return _ai_model(row)


class ChatConfigurationStore(_Resources[ChatConfiguration]):
    """Keeps chat configurations. A ResourceStore."""

    collection = "chatConfigurations"
    table = ChatConfigurations
    references = (
        _Reference(AiModelChatConfigurations.chat_configuration, AiModelChatConfigurations.ai_model, "aiModels"),
        _Reference(
            ChatConfigurationKnowledgeBases.chat_configuration,
            ChatConfigurationKnowledgeBases.knowledge_base,
            "knowledgeBases",
        ),
    )

    def _row(self, resource: ChatConfiguration) -> dict[str, Any]:
        return {
            "id": resource.id,
            "display_name": resource.display_name,
            "instructions": resource.instructions,
            "max_rows": resource.max_rows,
            "stand_by": resource.stand_by.value,
            "stand_by_after_s": resource.stand_by_after_s,
        }

    def _resource(self, row: dict[str, Any]) -> ChatConfiguration:
        return _chat_configuration(row)


class KnowledgeBaseStore(_Resources[KnowledgeBase]):
    """Keeps knowledge bases. A ResourceStore."""

    collection = "knowledgeBases"
    table = KnowledgeBases
    references = (
        _Reference(
            ChatConfigurationKnowledgeBases.knowledge_base,
            ChatConfigurationKnowledgeBases.chat_configuration,
            "chatConfigurations",
        ),
        _Reference(AiModelKnowledgeBases.knowledge_base, AiModelKnowledgeBases.ai_model, "aiModels"),
    )

    def _select(self, tenant: str) -> Any:
        return _knowledge_bases().where(KnowledgeBases.tenant == tenant)

    def _before_delete(self, transaction: Transaction, tenant: str, id: str) -> None:
        # Locked: a batch that is just being stored could make its tables behind this look; a later one finds no upload.
        segments = list(
            Uploads.select(Uploads.segment)
            .where((Uploads.tenant == tenant) & (Uploads.knowledge_base == id))
            .order_by(Uploads.segment)
            .for_update()
            .tuples()
            .execute(transaction.peewee)
        )
        transaction.become(Role.INGEST)
        for (segment,) in segments:
            drop_segment(transaction, segment)
        transaction.become(Role.APP)

    def _row(self, resource: KnowledgeBase) -> dict[str, Any]:
        return {"id": resource.id, "display_name": resource.display_name, "description": resource.description}

    def _resource(self, row: dict[str, Any]) -> KnowledgeBase:
        return _knowledge_base(row)


class PostgresLinkStore:
    """Keeps links and grants. A LinkStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def link_ai_model(self, tenant: str, chat_configuration: str, ai_model: str, priority: int) -> AiModelLink:
        """See LinkStore."""
        key = _model_link_key(tenant, chat_configuration, ai_model)
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            create_time = _make(transaction, AiModelChatConfigurations, key, {"priority": priority})
            return AiModelLink(chat_configuration, ai_model, priority, create_time)

    def unlink_ai_model(self, tenant: str, chat_configuration: str, ai_model: str) -> None:
        """See LinkStore."""
        self._take(AiModelChatConfigurations, _model_link_key(tenant, chat_configuration, ai_model))

    def link_knowledge_base(self, tenant: str, chat_configuration: str, knowledge_base: str) -> KnowledgeBaseLink:
        """See LinkStore."""
        key = _base_link_key(tenant, chat_configuration, knowledge_base)
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            create_time = _make(transaction, ChatConfigurationKnowledgeBases, key, {})
            return KnowledgeBaseLink(chat_configuration, knowledge_base, create_time)

    def unlink_knowledge_base(self, tenant: str, chat_configuration: str, knowledge_base: str) -> None:
        """See LinkStore."""
        self._take(ChatConfigurationKnowledgeBases, _base_link_key(tenant, chat_configuration, knowledge_base))

    def grant_knowledge_base(self, tenant: str, ai_model: str, knowledge_base: str) -> KnowledgeBaseGrant:
        """See LinkStore."""
        key = _grant_key(tenant, ai_model, knowledge_base)
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            create_time = _make(transaction, AiModelKnowledgeBases, key, {})
            return KnowledgeBaseGrant(ai_model, knowledge_base, create_time)

    def revoke_knowledge_base(self, tenant: str, ai_model: str, knowledge_base: str) -> None:
        """See LinkStore."""
        self._take(AiModelKnowledgeBases, _grant_key(tenant, ai_model, knowledge_base))

    def list(self, tenant: str, chat_configuration: str, after: tuple[str, ...], limit: int) -> list[Mapping]:
        """See LinkStore."""
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            found: list[Mapping] = []
            for table, make in _MAPPINGS:
                columns = [getattr(table, name) for name in _key_columns(table)]
                query = table.select().where(table.tenant == tenant).order_by(*columns).limit(limit).dicts()
                if chat_configuration:
                    if table is AiModelKnowledgeBases:
                        continue
                    query = query.where(table.chat_configuration == chat_configuration)
                found += [make(row) for row in query.where(_behind(table, columns, after)).execute(transaction.peewee)]
                if len(found) >= limit:
                    break
            return found[:limit]

    def read_chat(self, tenant: str, chat_configuration: str) -> ChatMapping:
        """See LinkStore."""
        with self._database.transaction(Role.APP, tenant=tenant, snapshot=True) as transaction:
            database = transaction.peewee
            configuration = (
                ChatConfigurations.select()
                .where((ChatConfigurations.tenant == tenant) & (ChatConfigurations.id == chat_configuration))
                .dicts()
                .first(database)
            )
            if configuration is None:
                raise NotFound.of(f"chatConfigurations/{chat_configuration}")
            models = _chain_query(tenant, chat_configuration).execute(database)
            bases = _linked_bases_query(tenant, chat_configuration).execute(database)
            grants = _grants_query(tenant, chat_configuration).execute(database)
            return ChatMapping(
                _chat_configuration(configuration),
                tuple((row["priority"], _ai_model(row)) for row in models),
                tuple(map(_knowledge_base, bases)),
                frozenset(grants),
            )

    def _take(self, table: Any, key: dict[str, str]) -> None:
        with self._database.transaction(Role.APP, tenant=key["tenant"]) as transaction:
            for column, collection in _REFERRED:
                if column in key:
                    _check_exists(transaction, collection, key["tenant"], key[column])
            table.delete().where(_matches(table, key)).execute(transaction.peewee)


def _model_link_key(tenant: str, chat_configuration: str, ai_model: str) -> dict[str, str]:
    return {"tenant": tenant, "chat_configuration": chat_configuration, "ai_model": ai_model}


def _base_link_key(tenant: str, chat_configuration: str, knowledge_base: str) -> dict[str, str]:
    return {"tenant": tenant, "chat_configuration": chat_configuration, "knowledge_base": knowledge_base}


def _grant_key(tenant: str, ai_model: str, knowledge_base: str) -> dict[str, str]:
    return {"tenant": tenant, "ai_model": ai_model, "knowledge_base": knowledge_base}


_REFERRED = (
    ("chat_configuration", "chatConfigurations"),
    ("ai_model", "aiModels"),
    ("knowledge_base", "knowledgeBases"),
)
_TABLES: dict[str, Any] = {
    "chatConfigurations": ChatConfigurations,
    "aiModels": AiModels,
    "knowledgeBases": KnowledgeBases,
}


def _make(transaction: Transaction, table: Any, key: dict[str, str], values: dict[str, object]) -> datetime:
    """Insert the link or set its values; returns when it was first made."""
    for column, collection in _REFERRED:
        if column in key:
            _check_exists(transaction, collection, key["tenant"], key[column])
    update = values or {"tenant": key["tenant"]}
    (
        table.insert({**key, **values})
        .on_conflict(
            conflict_target=[getattr(table, name) for name in key],
            update={getattr(table, name): value for name, value in update.items()},
        )
        .execute(transaction.peewee)
    )
    made: datetime = table.select(table.create_time).where(_matches(table, key)).tuples().first(transaction.peewee)[0]
    return made


def _check_exists(transaction: Transaction, collection: str, tenant: str, id: str) -> None:
    table = _TABLES[collection]
    # FOR KEY SHARE: it cannot be deleted before this transaction ends.
    found = (
        table.select(SQL("1"))
        .where((table.tenant == tenant) & (table.id == id))
        .for_update("FOR KEY SHARE")
        .tuples()
        .first(transaction.peewee)
    )
    if found is None:
        raise NotFound.of(f"{collection}/{id}")


def _matches(table: Any, key: dict[str, str]) -> Any:
    condition = table.tenant == key["tenant"]
    for name, value in key.items():
        condition &= getattr(table, name) == value
    return condition


def _key_columns(table: Any) -> Sequence[str]:
    """The columns of a link's primary key behind the tenant."""
    return [column for column, _ in _REFERRED if hasattr(table, column)]


_MAPPINGS: Sequence[tuple[Any, Callable[[dict[str, Any]], Mapping]]] = (
    (
        AiModelChatConfigurations,
        lambda row: AiModelLink(row["chat_configuration"], row["ai_model"], row["priority"], row["create_time"]),
    ),
    (
        ChatConfigurationKnowledgeBases,
        lambda row: KnowledgeBaseLink(row["chat_configuration"], row["knowledge_base"], row["create_time"]),
    ),
    (
        AiModelKnowledgeBases,
        lambda row: KnowledgeBaseGrant(row["ai_model"], row["knowledge_base"], row["create_time"]),
    ),
)


def _behind(table: Any, columns: Sequence[Any], after: tuple[str, ...]) -> Any:
    """Rows of this table that come behind `after`, a `mapping_key`."""
    if not after:
        return SQL("true")
    position = next(str(number) for number, (each, _) in enumerate(_MAPPINGS, start=1) if each is table)
    if position != after[0]:
        return SQL("true" if position > after[0] else "false")
    first, second = columns
    return (first > after[1]) | ((first == after[1]) & (second > after[2]))


def _chain_query(tenant: str, chat_configuration: str) -> Any:
    link = AiModelChatConfigurations
    return (
        AiModels.select(AiModels, link.priority)
        .join(link, on=(link.tenant == AiModels.tenant) & (link.ai_model == AiModels.id))
        .where((link.tenant == tenant) & (link.chat_configuration == chat_configuration))
        .order_by(link.priority, link.ai_model)
        .dicts()
    )


def _linked_bases_query(tenant: str, chat_configuration: str) -> Any:
    link = ChatConfigurationKnowledgeBases
    on = (link.tenant == KnowledgeBases.tenant) & (link.knowledge_base == KnowledgeBases.id)
    return (
        _knowledge_bases()
        .switch(KnowledgeBases)
        .join(link, on=on)
        .where((link.tenant == tenant) & (link.chat_configuration == chat_configuration))
        .order_by(KnowledgeBases.id)
    )


def _grants_query(tenant: str, chat_configuration: str) -> Any:
    link, grant = AiModelChatConfigurations, AiModelKnowledgeBases
    return (
        grant.select(grant.ai_model, grant.knowledge_base)
        .join(link, on=(link.tenant == grant.tenant) & (link.ai_model == grant.ai_model))
        .where((link.tenant == tenant) & (link.chat_configuration == chat_configuration))
        .tuples()
    )


def _knowledge_bases() -> Any:
    """Knowledge bases with rows and columns of their current version."""
    version = KnowledgeBaseVersions
    on = (
        (version.tenant == KnowledgeBases.tenant)
        & (version.knowledge_base == KnowledgeBases.id)
        & (version.number == KnowledgeBases.current_version)
    )
    return (
        KnowledgeBases.select(KnowledgeBases, version.row_count, version.columns)
        .join(version, JOIN.LEFT_OUTER, on=on)
        .dicts()
    )


def _target_row(target: Target) -> dict[str, Any]:
    empty = dict.fromkeys(("base_url", "flow_id", "remote_model", "api_key_secret", "model_file"))
    match target:
        case FlowiseTarget():
            return empty | {
                "base_url": target.base_url,
                "flow_id": target.flow_id,
                "api_key_secret": target.api_key_secret or None,
            }
        case OpenAiCompatibleTarget():
            return empty | {
                "base_url": target.base_url,
                "remote_model": target.model,
                "api_key_secret": target.api_key_secret or None,
            }
        case LocalTarget():
            return empty | {"model_file": target.model_file or None}


def _target(row: dict[str, Any]) -> Target:
    match row["kind"]:
        case "FLOWISE":
            return FlowiseTarget(row["base_url"], str(row["flow_id"]), row["api_key_secret"] or "")
        case "OPENAI_COMPATIBLE":
            return OpenAiCompatibleTarget(row["base_url"], row["remote_model"], row["api_key_secret"] or "")
        case _:
            return LocalTarget(row["model_file"] or "")


def _ai_model(row: dict[str, Any]) -> AiModel:
    return AiModel(
        id=row["id"],
        display_name=row["display_name"],
        target=_target(row),
        first_token_timeout_s=row["first_token_timeout_s"],
        stall_timeout_s=row["stall_timeout_s"],
        total_timeout_s=row["total_timeout_s"],
        max_answer_tokens=row["max_answer_tokens"],
        context_tokens=row["context_tokens"],
        etag=str(row["revision"]),
        create_time=row["create_time"],
        update_time=row["update_time"],
    )


def _chat_configuration(row: dict[str, Any]) -> ChatConfiguration:
    return ChatConfiguration(
        id=row["id"],
        display_name=row["display_name"],
        instructions=row["instructions"],
        max_rows=row["max_rows"],
        stand_by=StandByMode(row["stand_by"]),
        stand_by_after_s=row["stand_by_after_s"],
        etag=str(row["revision"]),
        create_time=row["create_time"],
        update_time=row["update_time"],
    )


def _knowledge_base(row: dict[str, Any]) -> KnowledgeBase:
    return KnowledgeBase(
        id=row["id"],
        display_name=row["display_name"],
        description=row["description"],
        current_version=row["current_version"] or 0,
        row_count=row["row_count"] or 0,
        columns=tuple(row["columns"] or ()),
        etag=str(row["revision"]),
        create_time=row["create_time"],
        update_time=row["update_time"],
    )
