"""MappingService on the wire.

The three kinds of resources take one road: `_Road` makes, reads, lists, changes and deletes them, and `_Kind` says how
a resource and its message turn into each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

from google.protobuf.field_mask_pb2 import FieldMask

from dari.core import mapping as core
from dari.core.errors import FieldViolation, InvalidArgument
from dari.core.labels import Labels
from dari.core.mapping import (
    AiModel,
    ChatConfiguration,
    FlowiseTarget,
    KnowledgeBase,
    LinkEffect,
    LinkStore,
    LocalTarget,
    OpenAiCompatibleTarget,
    Resource,
    ResourceStore,
    StandByMode,
    Target,
)
from dari.rpc import names
from dari.rpc.callers import tenant_of
from dari.rpc.syncs import SyncCalls, read_source, source_message
from dari.rpc.times import duration, seconds, timestamp
from dari.v1 import mapping_pb2 as pb
from dari.v1 import mapping_pb2_grpc

_AI_MODELS, _CHAT_CONFIGURATIONS, _KNOWLEDGE_BASES = "aiModels", "chatConfigurations", "knowledgeBases"


@dataclass(frozen=True, slots=True)
class _Kind(Generic[Resource]):
    """One kind of resource on the wire."""

    collection: str
    field: str
    """Its field in requests."""
    changeable: frozenset[str]
    """Fields of its message that an update mask may name."""
    fixed: frozenset[str]
    """Fields of its message that are given once, when it is made."""
    to_message: Callable[[Resource], Any]
    from_message: Callable[[str, Any], Resource]
    """Raises InvalidArgument."""


class _Road(Generic[Resource]):
    """What every kind of resource can do."""

    def __init__(self, kind: _Kind[Resource], store: ResourceStore[Resource]) -> None:
        self._kind: _Kind[Resource] = kind
        self._store: ResourceStore[Resource] = store

    def create(self, tenant: str, request: Any) -> Any:
        """The message of the resource that was made."""
        id = getattr(request, f"{self._kind.field}_id")
        if not core.is_resource_id(id):
            raise InvalidArgument.of(
                FieldViolation(f"{self._kind.field}_id", "must be 1 to 63 of a-z, 0-9 and '-', beginning with a letter")
            )
        resource = self._read(id, getattr(request, self._kind.field))
        made = self._store.create(tenant, resource, names.request_id(request.request_id))
        return self._kind.to_message(made)

    def get(self, tenant: str, request: Any) -> Any:
        """The message of the resource."""
        return self._kind.to_message(self._store.get(tenant, self._id("name", request.name)))

    def list(self, tenant: str, request: Any) -> tuple[list[Any], str]:
        """The messages of a page, and the token of the next."""
        size = names.page_size(request.page_size)
        after = names.read_page_token(request.page_token, 1) or ("",)
        found = self._store.list(tenant, after[0], size + 1)
        return names.page(found, size, self._kind.to_message, lambda resource: (resource.id,))

    def update(self, tenant: str, request: Any) -> Any:
        """The message of the resource as it is now."""
        new = getattr(request, self._kind.field)
        id = self._id(f"{self._kind.field}.name", new.name)
        mask = self._mask(request.update_mask, new)

        def change(current: Resource) -> Resource:
            merged = self._kind.to_message(current)
            for field in () if request.update_mask.paths else sorted(self._kind.fixed):
                if getattr(new, field) not in (0, getattr(merged, field)):
                    raise InvalidArgument.of(FieldViolation(f"{self._kind.field}.{field}", "cannot be changed"))
            # Labels are replaced as a whole, as any other field: added to, none could be taken away.
            mask.MergeMessage(new, merged, replace_message_field=True, replace_repeated_field=True)
            return self._read(id, merged)

        return self._kind.to_message(self._store.update(tenant, id, new.etag, change))

    def delete(self, tenant: str, request: Any) -> str:
        """The id of what was deleted."""
        id = self._id("name", request.name)
        self._store.delete(tenant, id, request.etag, request.force)
        return id

    def _read(self, id: str, message: Any) -> Resource:
        """The resource in a message. Raises InvalidArgument that names every wrong field by its whole path."""
        try:
            resource: Resource = self._kind.from_message(id, message)
            core.check(resource)
        except InvalidArgument as error:
            raise InvalidArgument.of(
                *(FieldViolation(f"{self._kind.field}.{wrong.field}", wrong.description) for wrong in error.violations)
            ) from error
        return resource

    def _id(self, field: str, name: str) -> str:
        return names.resource_id(field, name, self._kind.collection)

    def _mask(self, mask: FieldMask, new: Any) -> FieldMask:
        changeable = self._kind.changeable
        paths = list(mask.paths) or [field.name for field, _ in new.ListFields() if field.name in changeable]
        wrong = [path for path in paths if path.split(".")[0] not in changeable]
        known = FieldMask(paths=paths)
        if wrong or not known.IsValidForDescriptor(new.DESCRIPTOR):
            raise InvalidArgument.of(
                FieldViolation("update_mask", f"may name {', '.join(sorted(changeable))}, and fields of these")
            )
        return known


class MappingService(mapping_pb2_grpc.MappingServiceServicer):
    """Message in, core call, message out; see mapping.proto."""

    def __init__(
        self,
        *,
        ai_models: ResourceStore[AiModel],
        chat_configurations: ResourceStore[ChatConfiguration],
        knowledge_bases: ResourceStore[KnowledgeBase],
        links: LinkStore,
        syncs: SyncCalls,
        forget_upstream: Callable[[str, str], None],
    ) -> None:
        """`forget_upstream` is told tenant and id of each AI model that was deleted."""
        self._ai_models = _Road(_AI_MODEL, ai_models)
        self._chat_configurations = _Road(_CHAT_CONFIGURATION, chat_configurations)
        self._knowledge_bases = _Road(_KNOWLEDGE_BASE, knowledge_bases)
        self._links = links
        self._syncs = syncs
        self._forget_upstream = forget_upstream

    def CreateAiModel(self, request: pb.CreateAiModelRequest, context: Any) -> pb.CreateAiModelResponse:
        """See mapping.proto."""
        return pb.CreateAiModelResponse(ai_model=self._ai_models.create(tenant_of(context), request))

    def GetAiModel(self, request: pb.GetAiModelRequest, context: Any) -> pb.GetAiModelResponse:
        """See mapping.proto."""
        return pb.GetAiModelResponse(ai_model=self._ai_models.get(tenant_of(context), request))

    def ListAiModels(self, request: pb.ListAiModelsRequest, context: Any) -> pb.ListAiModelsResponse:
        """See mapping.proto."""
        models, token = self._ai_models.list(tenant_of(context), request)
        return pb.ListAiModelsResponse(ai_models=models, next_page_token=token)

    def UpdateAiModel(self, request: pb.UpdateAiModelRequest, context: Any) -> pb.UpdateAiModelResponse:
        """See mapping.proto."""
        return pb.UpdateAiModelResponse(ai_model=self._ai_models.update(tenant_of(context), request))

    def DeleteAiModel(self, request: pb.DeleteAiModelRequest, context: Any) -> pb.DeleteAiModelResponse:
        """See mapping.proto."""
        tenant = tenant_of(context)
        self._forget_upstream(tenant, self._ai_models.delete(tenant, request))
        return pb.DeleteAiModelResponse()

    def CreateChatConfiguration(
        self, request: pb.CreateChatConfigurationRequest, context: Any
    ) -> pb.CreateChatConfigurationResponse:
        """See mapping.proto."""
        return pb.CreateChatConfigurationResponse(
            chat_configuration=self._chat_configurations.create(tenant_of(context), request)
        )

    def GetChatConfiguration(
        self, request: pb.GetChatConfigurationRequest, context: Any
    ) -> pb.GetChatConfigurationResponse:
        """See mapping.proto."""
        return pb.GetChatConfigurationResponse(
            chat_configuration=self._chat_configurations.get(tenant_of(context), request)
        )

    def ListChatConfigurations(
        self, request: pb.ListChatConfigurationsRequest, context: Any
    ) -> pb.ListChatConfigurationsResponse:
        """See mapping.proto."""
        configurations, token = self._chat_configurations.list(tenant_of(context), request)
        return pb.ListChatConfigurationsResponse(chat_configurations=configurations, next_page_token=token)

    def UpdateChatConfiguration(
        self, request: pb.UpdateChatConfigurationRequest, context: Any
    ) -> pb.UpdateChatConfigurationResponse:
        """See mapping.proto."""
        return pb.UpdateChatConfigurationResponse(
            chat_configuration=self._chat_configurations.update(tenant_of(context), request)
        )

    def DeleteChatConfiguration(
        self, request: pb.DeleteChatConfigurationRequest, context: Any
    ) -> pb.DeleteChatConfigurationResponse:
        """See mapping.proto."""
        self._chat_configurations.delete(tenant_of(context), request)
        return pb.DeleteChatConfigurationResponse()

    def CreateKnowledgeBase(
        self, request: pb.CreateKnowledgeBaseRequest, context: Any
    ) -> pb.CreateKnowledgeBaseResponse:
        """See mapping.proto."""
        return pb.CreateKnowledgeBaseResponse(knowledge_base=self._knowledge_bases.create(tenant_of(context), request))

    def GetKnowledgeBase(self, request: pb.GetKnowledgeBaseRequest, context: Any) -> pb.GetKnowledgeBaseResponse:
        """See mapping.proto."""
        return pb.GetKnowledgeBaseResponse(knowledge_base=self._knowledge_bases.get(tenant_of(context), request))

    def ListKnowledgeBases(self, request: pb.ListKnowledgeBasesRequest, context: Any) -> pb.ListKnowledgeBasesResponse:
        """See mapping.proto."""
        bases, token = self._knowledge_bases.list(tenant_of(context), request)
        return pb.ListKnowledgeBasesResponse(knowledge_bases=bases, next_page_token=token)

    def UpdateKnowledgeBase(
        self, request: pb.UpdateKnowledgeBaseRequest, context: Any
    ) -> pb.UpdateKnowledgeBaseResponse:
        """See mapping.proto."""
        return pb.UpdateKnowledgeBaseResponse(knowledge_base=self._knowledge_bases.update(tenant_of(context), request))

    def DeleteKnowledgeBase(
        self, request: pb.DeleteKnowledgeBaseRequest, context: Any
    ) -> pb.DeleteKnowledgeBaseResponse:
        """See mapping.proto."""
        self._knowledge_bases.delete(tenant_of(context), request)
        return pb.DeleteKnowledgeBaseResponse()

    def LinkAiModel(self, request: pb.LinkAiModelRequest, context: Any) -> pb.LinkAiModelResponse:
        """See mapping.proto."""
        if not 0 <= request.priority <= 1_000:
            raise InvalidArgument.of(FieldViolation("priority", "must be 0 to 1000"))
        link = self._links.link_ai_model(
            tenant_of(context),
            _chat_configuration_id(request),
            _ai_model_id(request),
            request.priority,
            request.disabled,
        )
        return pb.LinkAiModelResponse(link=_model_link(link))

    def UnlinkAiModel(self, request: pb.UnlinkAiModelRequest, context: Any) -> pb.UnlinkAiModelResponse:
        """See mapping.proto."""
        self._links.unlink_ai_model(tenant_of(context), _chat_configuration_id(request), _ai_model_id(request))
        return pb.UnlinkAiModelResponse()

    def LinkKnowledgeBase(self, request: pb.LinkKnowledgeBaseRequest, context: Any) -> pb.LinkKnowledgeBaseResponse:
        """See mapping.proto."""
        link = self._links.link_knowledge_base(
            tenant_of(context), _chat_configuration_id(request), _knowledge_base_id(request), _effect(request)
        )
        return pb.LinkKnowledgeBaseResponse(link=_base_link(link))

    def UnlinkKnowledgeBase(
        self, request: pb.UnlinkKnowledgeBaseRequest, context: Any
    ) -> pb.UnlinkKnowledgeBaseResponse:
        """See mapping.proto."""
        self._links.unlink_knowledge_base(
            tenant_of(context), _chat_configuration_id(request), _knowledge_base_id(request)
        )
        return pb.UnlinkKnowledgeBaseResponse()

    def GrantKnowledgeBase(self, request: pb.GrantKnowledgeBaseRequest, context: Any) -> pb.GrantKnowledgeBaseResponse:
        """See mapping.proto."""
        grant = self._links.grant_knowledge_base(
            tenant_of(context), _ai_model_id(request), _knowledge_base_id(request), _effect(request)
        )
        return pb.GrantKnowledgeBaseResponse(grant=_grant(grant))

    def RevokeKnowledgeBase(
        self, request: pb.RevokeKnowledgeBaseRequest, context: Any
    ) -> pb.RevokeKnowledgeBaseResponse:
        """See mapping.proto."""
        self._links.revoke_knowledge_base(tenant_of(context), _ai_model_id(request), _knowledge_base_id(request))
        return pb.RevokeKnowledgeBaseResponse()

    def ResolveChatConfiguration(
        self, request: pb.ResolveChatConfigurationRequest, context: Any
    ) -> pb.ResolveChatConfigurationResponse:
        """See mapping.proto."""
        id = names.resource_id("name", request.name, _CHAT_CONFIGURATIONS)
        chat = core.resolve(self._links.read_chat(tenant_of(context), id))
        return pb.ResolveChatConfigurationResponse(
            chat_configuration=_chat_configuration_message(chat.configuration),
            chain=map(_resolved_link, chat.chain),
            passed_by=map(_model_link, chat.passed_by),
            warnings=map(_warning, chat.warnings),
        )

    def SyncKnowledgeBase(self, request: pb.SyncKnowledgeBaseRequest, context: Any) -> pb.SyncKnowledgeBaseResponse:
        """See mapping.proto."""
        return self._syncs.sync(tenant_of(context), request)

    def ListSyncs(self, request: pb.ListSyncsRequest, context: Any) -> pb.ListSyncsResponse:
        """See mapping.proto."""
        return self._syncs.list(tenant_of(context), request)

    def CompareVersions(self, request: pb.CompareVersionsRequest, context: Any) -> pb.CompareVersionsResponse:
        """See mapping.proto."""
        return self._syncs.compare(tenant_of(context), request)

    def ListMappings(self, request: pb.ListMappingsRequest, context: Any) -> pb.ListMappingsResponse:
        """See mapping.proto."""
        size = names.page_size(request.page_size)
        configuration = names.optional_resource_id(
            "chat_configuration", request.chat_configuration, _CHAT_CONFIGURATIONS
        )
        after = names.read_page_token(request.page_token, 3)
        if after and after[0] not in _MAPPING_LISTS:
            raise InvalidArgument.of(FieldViolation("page_token", "must be a next_page_token of the same list"))
        found = self._links.list(tenant_of(context), configuration, after, size + 1)
        mappings, token = names.page(found, size, _mapping, core.mapping_key)
        return pb.ListMappingsResponse(mappings=mappings, next_page_token=token)


_MAPPING_LISTS = frozenset("123")


def _chat_configuration_id(request: Any) -> str:
    return names.resource_id("chat_configuration", request.chat_configuration, _CHAT_CONFIGURATIONS)


def _ai_model_id(request: Any) -> str:
    return names.resource_id("ai_model", request.ai_model, _AI_MODELS)


def _knowledge_base_id(request: Any) -> str:
    return names.resource_id("knowledge_base", request.knowledge_base, _KNOWLEDGE_BASES)


def _effect(request: Any) -> LinkEffect:
    if request.effect == pb.LINK_EFFECT_UNSPECIFIED:
        return LinkEffect.ALLOW
    try:
        return LinkEffect[pb.LinkEffect.Name(request.effect).removeprefix("LINK_EFFECT_")]
    except ValueError:
        raise InvalidArgument.of(FieldViolation("effect", "must be ALLOW or BLOCK")) from None


def _effect_value(effect: LinkEffect) -> "pb.LinkEffect.ValueType":
    return pb.LinkEffect.Value(f"LINK_EFFECT_{effect.value}")


def _labels(message: Any) -> Labels:
    return tuple(sorted(message.labels.items()))


def _ai_model_message(model: AiModel) -> pb.AiModel:
    message = pb.AiModel(
        name=f"{_AI_MODELS}/{model.id}",
        display_name=model.display_name,
        kind=pb.AiModelKind.Value(f"AI_MODEL_KIND_{model.kind.value}"),
        first_token_timeout=duration(model.first_token_timeout_s),
        stall_timeout=duration(model.stall_timeout_s),
        total_timeout=duration(model.total_timeout_s),
        max_answer_tokens=model.max_answer_tokens,
        context_tokens=model.context_tokens,
        labels=dict(model.labels),
        knowledge_base_selector=model.knowledge_base_selector,
        disabled=model.disabled,
        etag=model.etag,
        create_time=timestamp(model.create_time),
        update_time=timestamp(model.update_time),
    )
    match model.target:
        case FlowiseTarget(base_url, flow_id, secret):
            message.flowise.CopyFrom(pb.FlowiseTarget(base_url=base_url, flow_id=flow_id, api_key_secret=secret))
        case OpenAiCompatibleTarget(base_url, remote_model, secret):
            message.openai_compatible.CopyFrom(
                pb.OpenAiCompatibleTarget(base_url=base_url, model=remote_model, api_key_secret=secret)
            )
        case LocalTarget(model_file):
            message.local.CopyFrom(pb.LocalTarget(model_file=model_file))
    return message


def _ai_model(id: str, message: pb.AiModel) -> AiModel:
    target = _target(message)
    first_token_timeout_s = (
        core.LOCAL_FIRST_TOKEN_TIMEOUT_S if isinstance(target, LocalTarget) else core.DEFAULT_FIRST_TOKEN_TIMEOUT_S
    )
    return AiModel(
        id=id,
        display_name=message.display_name or id,
        target=target,
        first_token_timeout_s=_timeout(message, "first_token_timeout", first_token_timeout_s),
        stall_timeout_s=_timeout(message, "stall_timeout", core.DEFAULT_STALL_TIMEOUT_S),
        total_timeout_s=_timeout(message, "total_timeout", core.DEFAULT_TOTAL_TIMEOUT_S),
        max_answer_tokens=message.max_answer_tokens or core.DEFAULT_MAX_ANSWER_TOKENS,
        context_tokens=message.context_tokens
        or (0 if isinstance(target, LocalTarget) else core.DEFAULT_CONTEXT_TOKENS),
        labels=_labels(message),
        knowledge_base_selector=message.knowledge_base_selector,
        disabled=message.disabled,
    )


def _timeout(message: Any, field: str, default_s: float) -> float:
    return seconds(getattr(message, field)) if message.HasField(field) else default_s


_TARGET_OF_KIND = {
    pb.AI_MODEL_KIND_FLOWISE: "flowise",
    pb.AI_MODEL_KIND_OPENAI_COMPATIBLE: "openai_compatible",
    pb.AI_MODEL_KIND_LOCAL: "local",
}


def _target(message: pb.AiModel) -> Target:
    expected = _TARGET_OF_KIND.get(message.kind)
    if expected is None:
        raise InvalidArgument.of(FieldViolation("kind", "must be FLOWISE, OPENAI_COMPATIBLE or LOCAL"))
    given = message.WhichOneof("target")
    # A local model needs no target: the settings name its file.
    if given != expected and not (given is None and expected == "local"):
        raise InvalidArgument.of(FieldViolation("target", f"must be {expected}, as the kind says"))
    if expected == "flowise":
        flowise = message.flowise
        return FlowiseTarget(flowise.base_url.rstrip("/"), flowise.flow_id, flowise.api_key_secret)
    if expected == "openai_compatible":
        server = message.openai_compatible
        return OpenAiCompatibleTarget(server.base_url.rstrip("/"), server.model, server.api_key_secret)
    return LocalTarget(message.local.model_file)


def _chat_configuration_message(configuration: ChatConfiguration) -> pb.ChatConfiguration:
    return pb.ChatConfiguration(
        name=f"{_CHAT_CONFIGURATIONS}/{configuration.id}",
        display_name=configuration.display_name,
        instructions=configuration.instructions,
        max_rows=configuration.max_rows,
        stand_by=pb.StandBy.Value(f"STAND_BY_{configuration.stand_by.value}"),
        stand_by_after=duration(configuration.stand_by_after_s),
        labels=dict(configuration.labels),
        knowledge_base_selector=configuration.knowledge_base_selector,
        disabled=configuration.disabled,
        etag=configuration.etag,
        create_time=timestamp(configuration.create_time),
        update_time=timestamp(configuration.update_time),
    )


def _chat_configuration(id: str, message: pb.ChatConfiguration) -> ChatConfiguration:
    return ChatConfiguration(
        id=id,
        display_name=message.display_name or id,
        instructions=message.instructions,
        max_rows=message.max_rows if message.HasField("max_rows") else core.DEFAULT_MAX_ROWS,
        stand_by=_stand_by(message.stand_by),
        stand_by_after_s=_timeout(message, "stand_by_after", core.DEFAULT_STAND_BY_AFTER_S),
        labels=_labels(message),
        knowledge_base_selector=message.knowledge_base_selector,
        disabled=message.disabled,
    )


def _stand_by(choice: "pb.StandBy.ValueType") -> StandByMode:
    if choice == pb.STAND_BY_UNSPECIFIED:
        return StandByMode.OFF
    try:
        return StandByMode[pb.StandBy.Name(choice).removeprefix("STAND_BY_")]
    except ValueError:
        raise InvalidArgument.of(FieldViolation("stand_by", "must be OFF, WARM or RACE")) from None


def _knowledge_base_message(base: KnowledgeBase) -> pb.KnowledgeBase:
    return pb.KnowledgeBase(
        name=f"{_KNOWLEDGE_BASES}/{base.id}",
        display_name=base.display_name,
        description=base.description,
        current_version=base.current_version,
        row_count=base.row_count,
        columns=base.columns,
        labels=dict(base.labels),
        disabled=base.disabled,
        source=None if base.source is None else source_message(base.source),
        etag=base.etag,
        create_time=timestamp(base.create_time),
        update_time=timestamp(base.update_time),
    )


def _knowledge_base(id: str, message: pb.KnowledgeBase) -> KnowledgeBase:
    return KnowledgeBase(
        id=id,
        display_name=message.display_name or id,
        description=message.description,
        labels=_labels(message),
        disabled=message.disabled,
        source=read_source(message),
    )


_AI_MODEL: _Kind[AiModel] = _Kind(
    _AI_MODELS,
    "ai_model",
    frozenset(
        (
            "display_name",
            "flowise",
            "openai_compatible",
            "local",
            "first_token_timeout",
            "stall_timeout",
            "total_timeout",
            "max_answer_tokens",
            "context_tokens",
            "labels",
            "knowledge_base_selector",
            "disabled",
        )
    ),
    frozenset(("kind",)),
    _ai_model_message,
    _ai_model,
)
_CHAT_CONFIGURATION: _Kind[ChatConfiguration] = _Kind(
    _CHAT_CONFIGURATIONS,
    "chat_configuration",
    frozenset(
        (
            "display_name",
            "instructions",
            "max_rows",
            "stand_by",
            "stand_by_after",
            "labels",
            "knowledge_base_selector",
            "disabled",
        )
    ),
    frozenset(),
    _chat_configuration_message,
    _chat_configuration,
)
_KNOWLEDGE_BASE: _Kind[KnowledgeBase] = _Kind(
    _KNOWLEDGE_BASES,
    "knowledge_base",
    frozenset(("display_name", "description", "labels", "disabled", "source")),
    frozenset(),
    _knowledge_base_message,
    _knowledge_base,
)


def _model_link(link: core.AiModelLink) -> pb.AiModelLink:
    return pb.AiModelLink(
        chat_configuration=f"{_CHAT_CONFIGURATIONS}/{link.chat_configuration}",
        ai_model=f"{_AI_MODELS}/{link.ai_model}",
        priority=link.priority,
        create_time=timestamp(link.create_time),
        disabled=link.disabled,
    )


def _base_link(link: core.KnowledgeBaseLink) -> pb.KnowledgeBaseLink:
    return pb.KnowledgeBaseLink(
        chat_configuration=f"{_CHAT_CONFIGURATIONS}/{link.chat_configuration}",
        knowledge_base=f"{_KNOWLEDGE_BASES}/{link.knowledge_base}",
        create_time=timestamp(link.create_time),
        effect=_effect_value(link.effect),
    )


def _grant(grant: core.KnowledgeBaseGrant) -> pb.KnowledgeBaseGrant:
    return pb.KnowledgeBaseGrant(
        ai_model=f"{_AI_MODELS}/{grant.ai_model}",
        knowledge_base=f"{_KNOWLEDGE_BASES}/{grant.knowledge_base}",
        create_time=timestamp(grant.create_time),
        effect=_effect_value(grant.effect),
    )


def _mapping(mapping: core.Mapping) -> pb.Mapping:
    match mapping:
        case core.AiModelLink():
            return pb.Mapping(ai_model_link=_model_link(mapping))
        case core.KnowledgeBaseLink():
            return pb.Mapping(knowledge_base_link=_base_link(mapping))
        case core.KnowledgeBaseGrant():
            return pb.Mapping(knowledge_base_grant=_grant(mapping))


def _resolved_link(link: core.ResolvedLink) -> pb.ResolvedLink:
    return pb.ResolvedLink(
        ai_model=None if link.ai_model is None else _ai_model_message(link.ai_model),
        priority=link.priority,
        knowledge_bases=map(_resolved_base, link.knowledge_bases),
        warnings=map(_warning, link.warnings),
    )


def _warning(warning: core.ChainWarning) -> "pb.ChainWarning.ValueType":
    return pb.ChainWarning.Value(f"CHAIN_WARNING_{warning.value}")


def _origin(origin: core.LinkOrigin | None) -> "pb.LinkOrigin.ValueType":
    return pb.LinkOrigin.Value(f"LINK_ORIGIN_{'UNSPECIFIED' if origin is None else origin.value}")


def _resolved_base(seen: core.ResolvedKnowledgeBase) -> pb.ResolvedKnowledgeBase:
    base = seen.knowledge_base
    return pb.ResolvedKnowledgeBase(
        knowledge_base=f"{_KNOWLEDGE_BASES}/{base.id}",
        visible=seen.visible,
        reason=pb.VisibilityReason.Value(f"VISIBILITY_REASON_{seen.reason.value}"),
        version=base.current_version,
        row_count=base.row_count,
        link_origin=_origin(seen.link_origin),
        grant_origin=_origin(seen.grant_origin),
    )
