"""Keeps AI models, chat configurations, knowledge bases and their links.

What deletes or links locks its resources first, so that nothing dangles and a refusal names all links; what loses a
race is done again, unseen.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar
from uuid import UUID

from peewee import JOIN, SQL, Value, fn

from dari.adapters.postgres.database import Database, Prepared, Role, Transaction
from dari.adapters.postgres.lost_races import won
from dari.adapters.postgres.segments import drop_segment
from dari.adapters.postgres.selecting import Condition, chooses
from dari.adapters.postgres.sync_store import SOURCE_COLUMNS, read_source, write_source
from dari.adapters.postgres.tables import (
    AiModelChatConfigurations,
    AiModelKnowledgeBases,
    AiModels,
    ChatConfigurationKnowledgeBases,
    ChatConfigurations,
    KnowledgeBases,
    KnowledgeBaseSources,
    KnowledgeBaseVersions,
    Uploads,
)
from dari.core.errors import (
    Aborted,
    AlreadyExists,
    EtagMismatch,
    FieldViolation,
    InvalidArgument,
    NotFound,
    StillLinked,
)
from dari.core.labels import Labels, parse_selector
from dari.core.mapping import (
    AiModel,
    AiModelLink,
    ChatConfiguration,
    ChatMapping,
    Choice,
    FlowiseTarget,
    KnowledgeBase,
    KnowledgeBaseGrant,
    KnowledgeBaseLink,
    LinkEffect,
    LocalTarget,
    Mapping,
    OpenAiCompatibleTarget,
    Resource,
    StandByMode,
    Target,
)

Result = TypeVar("Result")

_MAX_LINKS_TOLD = 20
"""In the refusal to delete what is linked."""


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
        self._by_id = self._one_by_id()

    def create(self, tenant: str, resource: Resource, request_id: UUID | None) -> Resource:
        """See ResourceStore."""
        return _in_transaction(self._database, tenant, partial(self._create, tenant, resource, request_id))

    def get(self, tenant: str, id: str) -> Resource:
        """See ResourceStore."""
        found = self._database.run(Role.APP, tenant, self._by_id, (tenant, id))
        if not found:
            raise NotFound.of(f"{self.collection}/{id}")
        return self._resource(found[0])

    def list(self, tenant: str, after: str, limit: int) -> list[Resource]:
        """See ResourceStore."""
        query = self._select(tenant).where(self.table.id > after).order_by(self.table.id).limit(limit)
        return _in_transaction(
            self._database,
            tenant,
            lambda transaction: [self._resource(row) for row in query.execute(transaction.peewee)],
        )

    def update(self, tenant: str, id: str, etag: str, change: Callable[[Resource], Resource]) -> Resource:
        """See ResourceStore."""
        return _in_transaction(self._database, tenant, partial(self._update, tenant, id, etag, change))

    def delete(self, tenant: str, id: str, etag: str, force: bool) -> None:
        """See ResourceStore."""
        _in_transaction(self._database, tenant, partial(self._delete, tenant, id, etag, force))

    def _create(self, tenant: str, resource: Resource, request_id: UUID | None, transaction: Transaction) -> Resource:
        made = (
            self.table.insert({"tenant": tenant, "request_id": request_id, **self._row(resource)})
            .on_conflict_ignore()
            .returning(self.table.id)
            .tuples()
            .execute(transaction.peewee)
        )
        if list(made):
            self._after_write(transaction, tenant, resource)
            return self._resource(self._find(transaction, tenant, resource.id))
        if request_id is not None:
            earlier = self._select(tenant).where(self.table.request_id == request_id).first(transaction.peewee)
            if earlier is not None:
                return self._made_before(earlier, resource)
        raise AlreadyExists.of(f"{self.collection}/{resource.id}")

    def _update(
        self, tenant: str, id: str, etag: str, change: Callable[[Resource], Resource], transaction: Transaction
    ) -> Resource:
        current = self._resource(self._lock(transaction, tenant, id, etag))
        changed = change(current)
        row = self._row(changed)
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
        self._after_write(transaction, tenant, changed)
        return self._resource(self._find(transaction, tenant, id))

    def _delete(self, tenant: str, id: str, etag: str, force: bool, transaction: Transaction) -> None:
        self._lock(transaction, tenant, id, etag)
        self._release(transaction, tenant, id, force)
        self._before_delete(transaction, tenant, id)
        self.table.delete().where((self.table.tenant == tenant) & (self.table.id == id)).execute(transaction.peewee)

    def _release(self, transaction: Transaction, tenant: str, id: str, force: bool) -> None:
        if force:
            for reference in self.references:
                of_this = (reference.table.tenant == tenant) & (reference.column == id)
                reference.table.delete().where(of_this).execute(transaction.peewee)
            return
        links = self._linked(transaction, tenant, id)
        if links:
            name = f"{self.collection}/{id}"
            raise StillLinked(
                f"{name} is linked with {', '.join(links)}; unlink it first, or delete it with force.",
                {"resource": name, "links": ",".join(links)},
            )

    def _linked(self, transaction: Transaction, tenant: str, id: str) -> Sequence[str]:
        """The first of what it is linked with. One statement: two would see two moments."""
        one, other = (
            reference.table.select(Value(reference.other_collection), reference.other).where(
                (reference.table.tenant == tenant) & (reference.column == id)
            )
            for reference in self.references
        )
        linked = (one | other).order_by(SQL("1"), SQL("2")).limit(_MAX_LINKS_TOLD).tuples()
        return [f"{collection}/{id}" for collection, id in linked.execute(transaction.peewee)]

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

    def _one_by_id(self) -> Prepared:
        """The same as `_find` reads. peewee writes it once: writing it takes longer than all the rest of a read."""
        text, parameters = self._select("tenant").where(self.table.id == "id").sql()
        if parameters != ["tenant", "id"]:
            raise TypeError("The parameters of the query are not the ones that it is run with.")
        return Prepared(text.replace("?", "%s"))

    def _after_write(self, transaction: Transaction, tenant: str, resource: Resource) -> None:
        """What is written behind the row; nothing for most."""

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
            "labels": dict(resource.labels),
            "knowledge_base_selector": resource.knowledge_base_selector,
            "disabled": resource.disabled,
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
            "labels": dict(resource.labels),
            "knowledge_base_selector": resource.knowledge_base_selector,
            "disabled": resource.disabled,
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

    def _after_write(self, transaction: Transaction, tenant: str, resource: KnowledgeBase) -> None:
        write_source(transaction, tenant, resource.id, resource.source)

    def _row(self, resource: KnowledgeBase) -> dict[str, Any]:
        return {
            "id": resource.id,
            "display_name": resource.display_name,
            "description": resource.description,
            "labels": dict(resource.labels),
            "disabled": resource.disabled,
        }

    def _resource(self, row: dict[str, Any]) -> KnowledgeBase:
        return _knowledge_base(row)


class PostgresLinkStore:
    """Keeps links and grants. A LinkStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def link_ai_model(
        self, tenant: str, chat_configuration: str, ai_model: str, priority: int, disabled: bool
    ) -> AiModelLink:
        """See LinkStore."""
        key = _model_link_key(tenant, chat_configuration, ai_model)
        create_time = self._make(AiModelChatConfigurations, key, {"priority": priority, "disabled": disabled})
        return AiModelLink(chat_configuration, ai_model, priority, create_time, disabled)

    def unlink_ai_model(self, tenant: str, chat_configuration: str, ai_model: str) -> None:
        """See LinkStore."""
        self._take(AiModelChatConfigurations, _model_link_key(tenant, chat_configuration, ai_model))

    def link_knowledge_base(
        self, tenant: str, chat_configuration: str, knowledge_base: str, effect: LinkEffect
    ) -> KnowledgeBaseLink:
        """See LinkStore."""
        key = _base_link_key(tenant, chat_configuration, knowledge_base)
        create_time = self._make(ChatConfigurationKnowledgeBases, key, {"effect": effect.value})
        return KnowledgeBaseLink(chat_configuration, knowledge_base, create_time, effect)

    def unlink_knowledge_base(self, tenant: str, chat_configuration: str, knowledge_base: str) -> None:
        """See LinkStore."""
        self._take(ChatConfigurationKnowledgeBases, _base_link_key(tenant, chat_configuration, knowledge_base))

    def grant_knowledge_base(
        self, tenant: str, ai_model: str, knowledge_base: str, effect: LinkEffect
    ) -> KnowledgeBaseGrant:
        """See LinkStore."""
        create_time = self._make(
            AiModelKnowledgeBases, _grant_key(tenant, ai_model, knowledge_base), {"effect": effect.value}
        )
        return KnowledgeBaseGrant(ai_model, knowledge_base, create_time, effect)

    def revoke_knowledge_base(self, tenant: str, ai_model: str, knowledge_base: str) -> None:
        """See LinkStore."""
        self._take(AiModelKnowledgeBases, _grant_key(tenant, ai_model, knowledge_base))

    def list(self, tenant: str, chat_configuration: str, after: tuple[str, ...], limit: int) -> list[Mapping]:
        """See LinkStore."""
        return _in_transaction(
            self._database, tenant, partial(_list_mappings, tenant, chat_configuration, after, limit)
        )

    def read_chat(self, tenant: str, chat_configuration: str) -> ChatMapping:
        """See LinkStore."""
        asked: _Question = (_CHAT, (tenant, chat_configuration))
        for _ in range(_MOST_LOOKS):
            found = self._database.run(Role.APP, tenant, *asked)
            if not found:
                raise NotFound.of(f"chatConfigurations/{chat_configuration}")
            configuration = _chat_configuration(found[0])
            chain = [_chain_link(chat_configuration, row) for row in found[0]["chain"] or ()]
            fitting = _question(tenant, configuration, [model for _, model in chain])
            if fitting == asked:
                return _chat_mapping(configuration, chain, found[0]["bases"] or ())
            asked = fitting
        name = f"chatConfigurations/{chat_configuration}"
        raise Aborted(f"{name} changes all the time; retry later.", {"resource": name})

    def _make(self, table: Any, key: dict[str, str], values: dict[str, object]) -> datetime:
        return _in_transaction(self._database, key["tenant"], partial(_make, table, key, values))

    def _take(self, table: Any, key: dict[str, str]) -> None:
        _in_transaction(self._database, key["tenant"], partial(_take, table, key))


def _in_transaction(database: Database, tenant: str, work: Callable[[Transaction], Result]) -> Result:
    """Do the work in a transaction of its own; again, where it lost a race."""

    def once() -> Result:
        with database.transaction(Role.APP, tenant=tenant) as transaction:
            return work(transaction)

    return won(once)


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


def _make(table: Any, key: dict[str, str], values: dict[str, object], transaction: Transaction) -> datetime:
    """Insert the link or set its values; returns when it was first made."""
    _check_ends(transaction, key)
    (
        table.insert({**key, **values})
        .on_conflict(
            conflict_target=[getattr(table, name) for name in key],
            update={getattr(table, name): value for name, value in values.items()},
        )
        .execute(transaction.peewee)
    )
    made: datetime = table.select(table.create_time).where(_matches(table, key)).tuples().first(transaction.peewee)[0]
    return made


def _take(table: Any, key: dict[str, str], transaction: Transaction) -> None:
    _check_ends(transaction, key)
    table.delete().where(_matches(table, key)).execute(transaction.peewee)


def _check_ends(transaction: Transaction, key: dict[str, str]) -> None:
    for column, collection in _REFERRED:
        if column in key:
            _check_exists(transaction, collection, key["tenant"], key[column])


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


def _list_mappings(
    tenant: str, chat_configuration: str, after: tuple[str, ...], limit: int, transaction: Transaction
) -> list[Mapping]:
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


def _model_link(row: dict[str, Any]) -> AiModelLink:
    return AiModelLink(row["chat_configuration"], row["ai_model"], row["priority"], row["create_time"], row["disabled"])


def _base_link(row: dict[str, Any]) -> KnowledgeBaseLink:
    return KnowledgeBaseLink(
        row["chat_configuration"], row["knowledge_base"], row["create_time"], LinkEffect(row["effect"])
    )


def _grant(row: dict[str, Any]) -> KnowledgeBaseGrant:
    return KnowledgeBaseGrant(row["ai_model"], row["knowledge_base"], row["create_time"], LinkEffect(row["effect"]))


_MAPPINGS: Sequence[tuple[Any, Callable[[dict[str, Any]], Mapping]]] = (
    (AiModelChatConfigurations, _model_link),
    (ChatConfigurationKnowledgeBases, _base_link),
    (AiModelKnowledgeBases, _grant),
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


# A chat is read with every turn, and in SQL: peewee took as long to write it as PostgreSQL to answer. One statement
# reads all of it at one moment, and each connection plans it once. How it must look depends on the selectors of the
# chain, which its answer tells: it is asked again where it was made for others than it found.

_MOST_LOOKS = 20
"""Each beyond two is a selector that changed in the millisecond between two of them."""

_LINKED_BASE = """to_jsonb(b) || jsonb_build_object(
        'row_count', v.row_count, 'columns', v.columns, 'link_effect', l.effect, 'granted_by_hand',
        (SELECT jsonb_object_agg(g.ai_model, g.effect) FROM dari.ai_model_knowledge_bases g
         WHERE g.tenant = b.tenant AND g.knowledge_base = b.id AND g.ai_model IN (
            SELECT o.ai_model FROM dari.ai_model_chat_configurations o
            WHERE o.tenant = c.tenant AND o.chat_configuration = c.id)))"""

_VERSION = """LEFT JOIN dari.knowledge_base_versions v
        ON v.tenant = b.tenant AND v.knowledge_base = b.id AND v.number = b.current_version"""

_BASES_BY_HAND = f"""
     SELECT jsonb_agg({_LINKED_BASE} ORDER BY b.id)
     FROM dari.chat_configuration_knowledge_bases l
     JOIN dari.knowledge_bases b ON b.tenant = l.tenant AND b.id = l.knowledge_base
     {_VERSION}
     WHERE l.tenant = c.tenant AND l.chat_configuration = c.id
"""

_CHOSEN_BASES = f"""
     SELECT jsonb_agg({_LINKED_BASE} || jsonb_build_object('link_selected', {{linked}},
        'granted_to', array_remove(ARRAY[{{granted}}]::text[], NULL)) ORDER BY b.id)
     FROM dari.knowledge_bases b
     {_VERSION}
     LEFT JOIN dari.chat_configuration_knowledge_bases l
        ON l.tenant = b.tenant AND l.knowledge_base = b.id AND l.chat_configuration = c.id
     WHERE b.tenant = c.tenant AND b.id IN (
        SELECT knowledge_base FROM dari.chat_configuration_knowledge_bases
        WHERE tenant = c.tenant AND chat_configuration = c.id
        UNION ALL SELECT b.id FROM dari.knowledge_bases b WHERE b.tenant = c.tenant AND {{linked}})
"""

_CHAT_AND_BASES = """
SELECT c.id, c.display_name, c.instructions, c.max_rows, c.stand_by, c.stand_by_after_s, c.labels,
    c.knowledge_base_selector, c.disabled, c.revision, c.create_time, c.update_time,
    (SELECT jsonb_agg(to_jsonb(m) || jsonb_build_object('link_priority', l.priority, 'link_disabled', l.disabled,
        'link_create_time', l.create_time) ORDER BY l.priority, l.ai_model)
     FROM dari.ai_model_chat_configurations l
     JOIN dari.ai_models m ON m.tenant = l.tenant AND m.id = l.ai_model
     WHERE l.tenant = c.tenant AND l.chat_configuration = c.id) AS chain,
    ({bases}) AS bases
FROM dari.chat_configurations c
WHERE c.tenant = %s AND c.id = %s
"""

_CHAT = Prepared(_CHAT_AND_BASES.format(bases=_BASES_BY_HAND))


def _chat_mapping(
    configuration: ChatConfiguration, models: Sequence[tuple[AiModelLink, AiModel]], bases: Sequence[dict[str, Any]]
) -> ChatMapping:
    grants = {(model, row["id"]): Choice(None, True) for row in bases for model in row.get("granted_to", ())}
    for row in bases:
        for model, effect in (row["granted_by_hand"] or {}).items():
            key = (model, row["id"])
            grants[key] = Choice(LinkEffect(effect), key in grants)
    return ChatMapping(configuration, tuple(models), tuple(map(_linked_base, bases)), grants)


_Question = tuple[Prepared, tuple[str, ...]]


def _question(tenant: str, configuration: ChatConfiguration, models: Sequence[AiModel]) -> _Question:
    """What reads every base that is linked, blocked or chosen, each with the models whose selectors choose it.

    Chats whose selectors have the same form share the statement, and its plan.
    """
    if not (configuration.knowledge_base_selector or any(model.knowledge_base_selector for model in models)):
        return _CHAT, (tenant, configuration.id)
    linked = _chosen_by(configuration)
    cases: list[str] = []
    parameters = list(linked.parameters)
    for model in models:
        granted = _chosen_by(model)
        cases.append(f"CASE WHEN {granted.text} THEN %s END")
        parameters += [*granted.parameters, model.id]
    bases = _CHOSEN_BASES.format(linked=linked.text, granted=", ".join(cases))
    parameters += [*linked.parameters, tenant, configuration.id]
    return Prepared(_CHAT_AND_BASES.format(bases=bases)), tuple(parameters)


def _chosen_by(chooser: AiModel | ChatConfiguration) -> Condition:
    return chooses(parse_selector(chooser.knowledge_base_selector), "b.labels")


def _chain_link(chat_configuration: str, model: dict[str, Any]) -> tuple[AiModelLink, AiModel]:
    """A model as `_MODEL` tells it."""
    times = {name: datetime.fromisoformat(model[name]) for name in ("create_time", "update_time", "link_create_time")}
    link = AiModelLink(
        chat_configuration, model["id"], model["link_priority"], times["link_create_time"], model["link_disabled"]
    )
    return link, _ai_model(model | times)


def _linked_base(row: dict[str, Any]) -> tuple[KnowledgeBase, Choice]:
    effect = row["link_effect"] and LinkEffect(row["link_effect"])
    times = {name: datetime.fromisoformat(row[name]) for name in ("create_time", "update_time")}
    # Where its rows come from is no affair of a chat.
    return _knowledge_base({**row, **times, "uri": None}), Choice(effect, row.get("link_selected", False))


def _knowledge_bases() -> Any:
    """Knowledge bases with rows and columns of their current version."""
    version = KnowledgeBaseVersions
    on = (
        (version.tenant == KnowledgeBases.tenant)
        & (version.knowledge_base == KnowledgeBases.id)
        & (version.number == KnowledgeBases.current_version)
    )
    source = KnowledgeBaseSources
    of_source = [getattr(source, name) for name in SOURCE_COLUMNS]
    return (
        KnowledgeBases.select(KnowledgeBases, version.row_count, version.columns, *of_source)
        .join(version, JOIN.LEFT_OUTER, on=on)
        .switch(KnowledgeBases)
        .join(
            source,
            JOIN.LEFT_OUTER,
            on=(source.tenant == KnowledgeBases.tenant) & (source.knowledge_base == KnowledgeBases.id),
        )
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


def _labels(row: dict[str, Any]) -> Labels:
    return tuple(sorted(row["labels"].items()))


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
        labels=_labels(row),
        knowledge_base_selector=row["knowledge_base_selector"],
        disabled=row["disabled"],
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
        labels=_labels(row),
        knowledge_base_selector=row["knowledge_base_selector"],
        disabled=row["disabled"],
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
        labels=_labels(row),
        disabled=row["disabled"],
        source=read_source(row),
        etag=str(row["revision"]),
        create_time=row["create_time"],
        update_time=row["update_time"],
    )
