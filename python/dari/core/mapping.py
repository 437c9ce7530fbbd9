"""Which chatbot uses which AI models, in what order, over which data, and which model may see which data.

The data are plain frozen values; the stores keep them; `resolve` is the one place that decides what a chat sees: what
its configuration is linked to *and* what the answering model is granted. Either is so by what a person said, or else by
a selector that chooses knowledge bases by their labels (`core.labels`). What a selector chooses is never stored: the
store asks it anew with every read, so that it is never out of date.
"""

import re
from collections import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from dari.core.errors import FieldViolation, InvalidArgument
from dari.core.labels import Labels, label_violations, selector_violations
from dari.core.sources import KnowledgeBaseSource

_NEVER = datetime.fromtimestamp(0, UTC)
_ID = re.compile(r"[a-z][a-z0-9-]{0,62}")
_MAX_URL_CHARS = 2_048
_SECRET_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")

DEFAULT_FIRST_TOKEN_TIMEOUT_S = 10.0
LOCAL_FIRST_TOKEN_TIMEOUT_S = 30.0
"""A small machine reads a long prompt slowly."""
DEFAULT_STALL_TIMEOUT_S = 10.0
DEFAULT_TOTAL_TIMEOUT_S = 120.0
DEFAULT_MAX_ANSWER_TOKENS = 256
DEFAULT_CONTEXT_TOKENS = 8_192
DEFAULT_MAX_ROWS = 8
DEFAULT_STAND_BY_AFTER_S = 1.0
"""A healthy model's first token comes sooner; a person begins to wonder then."""


class AiModelKind(Enum):
    """What kind of neighbour an AI model is."""

    FLOWISE = "FLOWISE"
    OPENAI_COMPATIBLE = "OPENAI_COMPATIBLE"
    LOCAL = "LOCAL"


@dataclass(frozen=True, slots=True)
class FlowiseTarget:
    """A chatflow on a Flowise server. `api_key_secret` names a secret of the settings, or is empty."""

    base_url: str
    flow_id: str
    api_key_secret: str = ""


@dataclass(frozen=True, slots=True)
class OpenAiCompatibleTarget:
    """A model behind OpenAI's chat completions API. `api_key_secret` names a secret of the settings, or is empty."""

    base_url: str
    model: str
    api_key_secret: str = ""


@dataclass(frozen=True, slots=True)
class LocalTarget:
    """A model file of the manifest; empty: the one that the settings name."""

    model_file: str = ""


Target = FlowiseTarget | OpenAiCompatibleTarget | LocalTarget
_KINDS = {
    FlowiseTarget: AiModelKind.FLOWISE,
    OpenAiCompatibleTarget: AiModelKind.OPENAI_COMPATIBLE,
    LocalTarget: AiModelKind.LOCAL,
}


@dataclass(frozen=True, slots=True)
class AiModel:
    """Something that can answer."""

    id: str
    display_name: str
    target: Target
    first_token_timeout_s: float
    stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S
    total_timeout_s: float = DEFAULT_TOTAL_TIMEOUT_S
    max_answer_tokens: int = DEFAULT_MAX_ANSWER_TOKENS
    context_tokens: int = 0
    """What the model can hold, prompt and answer together. 0: for a local model what the server's engine holds, for
    another DEFAULT_CONTEXT_TOKENS."""
    labels: Labels = ()
    knowledge_base_selector: str = ""
    """Which knowledge bases it is granted by their labels."""
    disabled: bool = False
    """Whether no chain asks it."""
    etag: str = ""
    create_time: datetime = _NEVER
    update_time: datetime = _NEVER

    @property
    def kind(self) -> AiModelKind:
        """The kind that its target makes it."""
        return _KINDS[type(self.target)]

    def violations(self) -> Iterator[FieldViolation]:
        """Every field that is out of range, by its path in an AiModel message."""
        yield from _common_violations(self.id, self.display_name, self.labels)
        yield from selector_violations("knowledge_base_selector", self.knowledge_base_selector)
        yield from _target_violations(self.target)
        for name, value, most in (
            ("first_token_timeout", self.first_token_timeout_s, 600),
            ("stall_timeout", self.stall_timeout_s, 600),
            ("total_timeout", self.total_timeout_s, 3_600),
        ):
            if not 0.1 <= value <= most:
                yield FieldViolation(name, f"must be 0.1 s to {most} s")
        if not 1 <= self.max_answer_tokens <= 32_768:
            yield FieldViolation("max_answer_tokens", "must be 1 to 32768")
        if self.context_tokens and not 512 <= self.context_tokens <= 1_048_576:
            yield FieldViolation("context_tokens", "must be 512 to 1048576, or not set for the default")


class StandByMode(Enum):
    """What the next model of a chain does while the one asked has given no token yet."""

    OFF = "OFF"
    """Nothing."""
    WARM = "WARM"
    """It answers in the background; its answer is used only where the model before it fails."""
    RACE = "RACE"
    """The same, but whichever of the two gives a token first answers."""


@dataclass(frozen=True, slots=True)
class ChatConfiguration:
    """A chatbot: a chain of AI models over some knowledge bases."""

    id: str
    display_name: str
    instructions: str = ""
    max_rows: int = DEFAULT_MAX_ROWS
    stand_by: StandByMode = StandByMode.OFF
    stand_by_after_s: float = DEFAULT_STAND_BY_AFTER_S
    """How long a model may be silent before its stand-by is asked."""
    labels: Labels = ()
    knowledge_base_selector: str = ""
    """Which knowledge bases are linked by their labels."""
    disabled: bool = False
    """Whether it answers no question."""
    etag: str = ""
    create_time: datetime = _NEVER
    update_time: datetime = _NEVER

    def violations(self) -> Iterator[FieldViolation]:
        """Every field that is out of range, by its path in a ChatConfiguration message."""
        yield from _common_violations(self.id, self.display_name, self.labels)
        yield from selector_violations("knowledge_base_selector", self.knowledge_base_selector)
        yield from _text_violations("instructions", self.instructions, 8_000)
        if not 0 <= self.max_rows <= 50:
            yield FieldViolation("max_rows", "must be 0 to 50")
        if not 0.05 <= self.stand_by_after_s <= 600:
            yield FieldViolation("stand_by_after", "must be 0.05 s to 600 s")


@dataclass(frozen=True, slots=True)
class KnowledgeBase:
    """A table of rows to answer from. `current_version` is 0 before the first upload is complete."""

    id: str
    display_name: str
    description: str = ""
    current_version: int = 0
    row_count: int = 0
    columns: tuple[str, ...] = ()
    labels: Labels = ()
    disabled: bool = False
    """Whether no chat sees it."""
    source: KnowledgeBaseSource | None = None
    """None: uploads only."""
    etag: str = ""
    create_time: datetime = _NEVER
    update_time: datetime = _NEVER

    def violations(self) -> Iterator[FieldViolation]:
        """Every field that is out of range, by its path in a KnowledgeBase message."""
        yield from _common_violations(self.id, self.display_name, self.labels)
        yield from _text_violations("description", self.description, 2_000)
        if self.source is not None:
            yield from self.source.violations()


Resource = TypeVar("Resource", AiModel, ChatConfiguration, KnowledgeBase)


@dataclass(frozen=True, slots=True)
class AiModelLink:
    """An AI model in the chain of a chat configuration; the lowest priority is asked first."""

    chat_configuration: str
    ai_model: str
    priority: int
    create_time: datetime
    disabled: bool = False
    """Whether the chain passes it by."""


class LinkEffect(Enum):
    """What a person said about a knowledge base; it wins over every selector."""

    ALLOW = "ALLOW"
    BLOCK = "BLOCK"


@dataclass(frozen=True, slots=True)
class KnowledgeBaseLink:
    """What a person said about a knowledge base of a chat configuration."""

    chat_configuration: str
    knowledge_base: str
    create_time: datetime
    effect: LinkEffect = LinkEffect.ALLOW


@dataclass(frozen=True, slots=True)
class KnowledgeBaseGrant:
    """What a person said about an AI model's seeing a knowledge base."""

    ai_model: str
    knowledge_base: str
    create_time: datetime
    effect: LinkEffect = LinkEffect.ALLOW


Mapping = AiModelLink | KnowledgeBaseLink | KnowledgeBaseGrant


class ResourceStore(Protocol[Resource]):
    """Keeps resources of one kind. All methods raise `Unavailable` where the database is down."""

    def create(self, tenant: str, resource: Resource, request_id: UUID | None) -> Resource:
        """Store it; the one that the same request_id made is given again.

        Raises AlreadyExists, and InvalidArgument where the request_id made one of another id.
        """
        ...

    def get(self, tenant: str, id: str) -> Resource:
        """Raises NotFound."""
        ...

    def list(self, tenant: str, after: str, limit: int) -> Sequence[Resource]:
        """Up to `limit` of them by id, those behind `after`."""
        ...

    def update(self, tenant: str, id: str, etag: str, change: Callable[[Resource], Resource]) -> Resource:
        """Replace it by `change(it)` with nobody in between. Raises NotFound, and EtagMismatch unless etag is empty."""
        ...

    def delete(self, tenant: str, id: str, etag: str, force: bool) -> None:
        """Raises NotFound, EtagMismatch, and StillLinked unless `force` takes the links with it."""
        ...


class LinkStore(Protocol):
    """Keeps links and grants. Making one twice, or taking a missing one away, changes nothing."""

    def link_ai_model(
        self, tenant: str, chat_configuration: str, ai_model: str, priority: int, disabled: bool
    ) -> AiModelLink:
        """Raises NotFound where either is missing."""
        ...

    def unlink_ai_model(self, tenant: str, chat_configuration: str, ai_model: str) -> None:
        """Raises NotFound where either is missing."""
        ...

    def link_knowledge_base(
        self, tenant: str, chat_configuration: str, knowledge_base: str, effect: LinkEffect
    ) -> KnowledgeBaseLink:
        """Raises NotFound where either is missing."""
        ...

    def unlink_knowledge_base(self, tenant: str, chat_configuration: str, knowledge_base: str) -> None:
        """Raises NotFound where either is missing."""
        ...

    def grant_knowledge_base(
        self, tenant: str, ai_model: str, knowledge_base: str, effect: LinkEffect
    ) -> KnowledgeBaseGrant:
        """Raises NotFound where either is missing."""
        ...

    def revoke_knowledge_base(self, tenant: str, ai_model: str, knowledge_base: str) -> None:
        """Raises NotFound where either is missing."""
        ...

    def list(self, tenant: str, chat_configuration: str, after: tuple[str, ...], limit: int) -> Sequence[Mapping]:
        """Links and grants in the order of `mapping_key`, those behind `after`; "" means of all configurations."""
        ...

    def read_chat(self, tenant: str, chat_configuration: str) -> "ChatMapping":
        """All that a chat configuration is linked to, as of one moment. Raises NotFound."""
        ...


class LinkOrigin(Enum):
    """How a link or a grant came about."""

    PERSON = "PERSON"
    """A person made it, or blocked it."""
    SELECTOR = "SELECTOR"


@dataclass(frozen=True, slots=True)
class Choice:
    """What was said about one knowledge base, by a person and by a selector: the person wins."""

    effect: LinkEffect | None = None
    """None where no person said anything."""
    selected: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is linked, or granted."""
        return self.effect is LinkEffect.ALLOW or (self.effect is None and self.selected)

    @property
    def blocked(self) -> bool:
        """Whether a person said no."""
        return self.effect is LinkEffect.BLOCK

    @property
    def origin(self) -> LinkOrigin | None:
        """Who decided; None where nobody said anything."""
        if self.effect is not None:
            return LinkOrigin.PERSON
        return LinkOrigin.SELECTOR if self.selected else None


_UNSAID = Choice()

Grants = abc.Mapping[tuple[str, str], Choice]
"""By (AI model id, knowledge base id); what is not there is not granted."""


@dataclass(frozen=True, slots=True)
class ChatMapping:
    """A chat configuration with all that is said of its models and data, as the store reads it in one transaction."""

    configuration: ChatConfiguration
    models: tuple[tuple[AiModelLink, AiModel], ...]
    """In the order of asking, those that are disabled among them."""
    knowledge_bases: tuple[tuple[KnowledgeBase, Choice], ...]
    """Those linked to the configuration or blocked for it, by id."""
    grants: Grants


class VisibilityReason(Enum):
    """Why a knowledge base is seen by a link of the chain, or is not."""

    LINKED_AND_GRANTED = "LINKED_AND_GRANTED"
    LINKED = "LINKED"
    NOT_GRANTED = "NOT_GRANTED"
    EMPTY = "EMPTY"
    BLOCKED = "BLOCKED"
    DISABLED = "DISABLED"


class ChainWarning(Enum):
    """What is unusual about a chain; see mapping.proto."""

    LESS_DATA = "LESS_DATA"
    OTHER_DATA = "OTHER_DATA"
    NO_DATA = "NO_DATA"
    NO_MODEL = "NO_MODEL"


@dataclass(frozen=True, slots=True)
class ResolvedKnowledgeBase:
    """A knowledge base as one link of the chain sees it."""

    knowledge_base: KnowledgeBase
    visible: bool
    reason: VisibilityReason
    link_origin: LinkOrigin | None
    grant_origin: LinkOrigin | None
    """None also for the reply of rows alone."""


@dataclass(frozen=True, slots=True)
class ResolvedLink:
    """One model of the chain and its data; `ai_model` is None for the last link, the reply of rows alone."""

    ai_model: AiModel | None
    priority: int
    knowledge_bases: tuple[ResolvedKnowledgeBase, ...]
    warnings: tuple[ChainWarning, ...] = ()
    """What is unusual about its data."""
    visible_ids: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        visible = frozenset(base.knowledge_base.id for base in self.knowledge_bases if base.visible)
        object.__setattr__(self, "visible_ids", visible)


@dataclass(frozen=True, slots=True)
class ResolvedChat:
    """Who would answer, in which order, over which data; the last link is the reply of rows alone."""

    configuration: ChatConfiguration
    chain: tuple[ResolvedLink, ...]
    passed_by: tuple[AiModelLink, ...]
    """Models that are linked and not asked: they, or their links, are disabled."""
    warnings: tuple[ChainWarning, ...]
    """What is unusual about the whole."""


def resolve(mapping: ChatMapping) -> ResolvedChat:
    """Decide what each link of a chat's chain sees."""
    links = [
        ResolvedLink(
            model, link.priority, tuple(_seen_by_model(mapping, model, *base) for base in mapping.knowledge_bases)
        )
        for link, model in mapping.models
        if not _is_passed_by(link, model)
    ]
    last_priority = max((link.priority for link in links), default=0)
    rows_only = ResolvedLink(None, last_priority + 1, tuple(_seen_by_rows(*base) for base in mapping.knowledge_bases))
    chain = _warned([*links, rows_only])
    passed_by = tuple(link for link, model in mapping.models if _is_passed_by(link, model))
    return ResolvedChat(mapping.configuration, chain, passed_by, tuple(_warnings_of_all(chain)))


def _is_passed_by(link: AiModelLink, model: AiModel) -> bool:
    return link.disabled or model.disabled


def _seen_by_model(mapping: ChatMapping, model: AiModel, base: KnowledgeBase, link: Choice) -> ResolvedKnowledgeBase:
    grant = mapping.grants.get((model.id, base.id), _UNSAID)
    reason = _why_not(base, link, grant) or VisibilityReason.LINKED_AND_GRANTED
    visible = reason is VisibilityReason.LINKED_AND_GRANTED
    return ResolvedKnowledgeBase(base, visible, reason, link.origin, grant.origin)


def _seen_by_rows(base: KnowledgeBase, link: Choice) -> ResolvedKnowledgeBase:
    reason = _why_not(base, link, None) or VisibilityReason.LINKED
    return ResolvedKnowledgeBase(base, reason is VisibilityReason.LINKED, reason, link.origin, None)


def _why_not(base: KnowledgeBase, link: Choice, grant: Choice | None) -> VisibilityReason | None:
    """Why it is not seen; the grant is asked first, so that an empty one tells nothing of itself."""
    if not link.holds or (grant is not None and grant.blocked):
        return VisibilityReason.BLOCKED
    if grant is not None and not grant.holds:
        return VisibilityReason.NOT_GRANTED
    if base.disabled:
        return VisibilityReason.DISABLED
    return None if base.current_version else VisibilityReason.EMPTY


def _warned(chain: Sequence[ResolvedLink]) -> tuple[ResolvedLink, ...]:
    """The links, each with what is unusual about its data beside that of those before it."""
    warned: list[ResolvedLink] = []
    seen_before: frozenset[str] = frozenset()
    for link in chain:
        warnings = []
        if warned and warned[-1].visible_ids - link.visible_ids:
            warnings.append(ChainWarning.LESS_DATA)
        if warned and link.visible_ids - seen_before:
            warnings.append(ChainWarning.OTHER_DATA)
        warned.append(replace(link, warnings=tuple(warnings)))
        seen_before |= link.visible_ids
    return tuple(warned)


def _warnings_of_all(chain: Sequence[ResolvedLink]) -> Iterator[ChainWarning]:
    if not any(link.visible_ids for link in chain):
        yield ChainWarning.NO_DATA
    if all(link.ai_model is None for link in chain):
        yield ChainWarning.NO_MODEL


def mapping_key(mapping: Mapping) -> tuple[str, ...]:
    """Where a link or grant stands in a list of all of them."""
    match mapping:
        case AiModelLink():
            return ("1", mapping.chat_configuration, mapping.ai_model)
        case KnowledgeBaseLink():
            return ("2", mapping.chat_configuration, mapping.knowledge_base)
        case KnowledgeBaseGrant():
            return ("3", mapping.ai_model, mapping.knowledge_base)


def check(resource: AiModel | ChatConfiguration | KnowledgeBase) -> None:
    """Raise InvalidArgument that names every wrong field."""
    violations = tuple(resource.violations())
    if violations:
        raise InvalidArgument.of(*violations)


def is_resource_id(text: str) -> bool:
    """Whether a text may be the id of a resource."""
    return _ID.fullmatch(text) is not None


def _common_violations(id: str, display_name: str, labels: Labels) -> Iterator[FieldViolation]:
    if not is_resource_id(id):
        yield FieldViolation("id", "must be 1 to 63 of a-z, 0-9 and '-', beginning with a letter")
    yield from _text_violations("display_name", display_name, 200)
    yield from label_violations(labels)


def _text_violations(name: str, text: str, most: int) -> Iterator[FieldViolation]:
    if len(text) > most:
        yield FieldViolation(name, f"must have at most {most} characters")
    if "\0" in text:
        yield FieldViolation(name, "must not hold a NUL character")


def _target_violations(target: Target) -> Iterator[FieldViolation]:
    match target:
        case FlowiseTarget():
            yield from _url_violations("flowise.base_url", target.base_url)
            yield from _secret_violations("flowise.api_key_secret", target.api_key_secret)
            try:
                UUID(target.flow_id)
            except ValueError:
                yield FieldViolation("flowise.flow_id", "must be the UUID of a chatflow")
        case OpenAiCompatibleTarget():
            yield from _url_violations("openai_compatible.base_url", target.base_url)
            yield from _secret_violations("openai_compatible.api_key_secret", target.api_key_secret)
            if not 1 <= len(target.model) <= 256 or "\0" in target.model:
                yield FieldViolation("openai_compatible.model", "must have 1 to 256 characters")
        case LocalTarget():
            if target.model_file and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", target.model_file):
                yield FieldViolation("local.model_file", "must be an id that `dari model list` shows")


def _url_violations(name: str, url: str) -> Iterator[FieldViolation]:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if len(url) > _MAX_URL_CHARS:
        yield FieldViolation(name, f"must have at most {_MAX_URL_CHARS} characters")
    elif not usable or not url.isascii() or not url.isprintable() or " " in url:
        yield FieldViolation(name, "must be an http or https address such as http://flowise:3000")
    elif parts.username or parts.password:
        yield FieldViolation(name, "must not hold a user or password; use api_key_secret")
    elif parts.query or parts.fragment:
        yield FieldViolation(name, "must not hold a query or a fragment")


def _secret_violations(name: str, secret: str) -> Iterator[FieldViolation]:
    if secret and not _SECRET_NAME.fullmatch(secret):
        yield FieldViolation(name, "must be the name of a secret in the settings: letters, digits, '.', '_' and '-'")
