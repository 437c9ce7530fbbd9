"""The whole mapping as one value, and what must be done to turn one into another.

A configuration says only what it names: a field, a list or a kind of resource that it leaves out stays as it is. What
it does name it says wholly: a group of fields (a target, a source) is replaced, and a list is complete where `prune`
is asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

Value = str | int | float | bool | tuple[str, ...] | Mapping[str, "Value"] | None


class Holds(Enum):
    """What a field holds."""

    TEXT = "text"
    WHOLE = "a whole number"
    NUMBER = "a number"
    SWITCH = "true or false"
    WORD = "one of some words"
    TEXTS = "a list of texts"
    LABELS = "keys with texts"
    GROUP = "fields"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a resource: its name in a file, what it holds, and its bounds as mapping.proto tells them."""

    name: str
    holds: Holds
    least: float = 0
    """Of a number its least value."""
    most: float = 0
    """Of a number its greatest value, of a text its greatest length, of a list or labels the most entries."""
    words: tuple[str, ...] = ()
    fields: tuple["Field", ...] = ()
    default: Value = None
    """Of a field in a group: what it is where it is left out; None means that it is required."""
    may_be_none: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of resource."""

    collection: str
    """In resource names: aiModels."""
    section: str
    """In a file: ai_models."""
    singular: str
    """In messages of the wire: ai_model."""
    fields: tuple[Field, ...]


def _text(name: str, most: int, default: Value = None) -> Field:
    return Field(name, Holds.TEXT, most=most, default=default)


def _number(name: str, least: float, most: float) -> Field:
    return Field(name, Holds.NUMBER, least, most)


_URL = _text("base_url", 2_048)
_SECRET = _text("api_key_secret", 128, default="")
_LABELS = Field("labels", Holds.LABELS, most=32)
_SELECTOR = _text("knowledge_base_selector", 1_024)
_DISABLED = Field("disabled", Holds.SWITCH)
_SOURCE = (
    _text("uri", 2_048),
    _text("credentials_secret", 128, default=""),
    Field("interval_s", Holds.NUMBER, 0, 366 * 86_400.0, default=0.0),
    _text("cron", 200, default=""),
    Field("on_shrink", Holds.WORD, words=("hold", "accept"), default="hold"),
    Field("max_shrink_share", Holds.NUMBER, 0, 1, default=0.5),
    Field("key_columns", Holds.TEXTS, most=1_000, default=()),
    Field("paused", Holds.SWITCH, default=False),
)

TARGETS = ("flowise", "openai_compatible", "local")
"""The groups of an AI model that say where it is, by its kind."""

AI_MODEL = Kind(
    "aiModels",
    "ai_models",
    "ai_model",
    (
        _text("display_name", 200),
        Field("kind", Holds.WORD, words=TARGETS),
        Field("flowise", Holds.GROUP, fields=(_URL, _text("flow_id", 64), _SECRET)),
        Field("openai_compatible", Holds.GROUP, fields=(_URL, _text("model", 256), _SECRET)),
        Field("local", Holds.GROUP, fields=(_text("model_file", 128, default=""),)),
        _number("first_token_timeout_s", 0.1, 600),
        _number("stall_timeout_s", 0.1, 600),
        _number("total_timeout_s", 0.1, 3_600),
        Field("max_answer_tokens", Holds.WHOLE, 1, 32_768),
        Field("context_tokens", Holds.WHOLE, 0, 1_048_576),
        _LABELS,
        _SELECTOR,
        _DISABLED,
    ),
)
CHAT_CONFIGURATION = Kind(
    "chatConfigurations",
    "chat_configurations",
    "chat_configuration",
    (
        _text("display_name", 200),
        _text("instructions", 8_000),
        Field("max_rows", Holds.WHOLE, 0, 50),
        Field("stand_by", Holds.WORD, words=("off", "warm", "race")),
        _number("stand_by_after_s", 0.05, 600),
        _LABELS,
        _SELECTOR,
        _DISABLED,
    ),
)
KNOWLEDGE_BASE = Kind(
    "knowledgeBases",
    "knowledge_bases",
    "knowledge_base",
    (
        _text("display_name", 200),
        _text("description", 2_000),
        _LABELS,
        _DISABLED,
        Field("source", Holds.GROUP, fields=_SOURCE, may_be_none=True),
    ),
)
KINDS = (KNOWLEDGE_BASE, AI_MODEL, CHAT_CONFIGURATION)
"""In the order in which they are made: what others refer to comes first."""


class LinkList(Enum):
    """A list of links in a file: whose it is, its name, and to what its lines lead."""

    CHAIN = (CHAT_CONFIGURATION, "chain", AI_MODEL)
    LINKED = (CHAT_CONFIGURATION, "knowledge_bases", KNOWLEDGE_BASE)
    UNLINKED = (CHAT_CONFIGURATION, "blocked_knowledge_bases", KNOWLEDGE_BASE)
    GRANTED = (AI_MODEL, "knowledge_bases", KNOWLEDGE_BASE)
    REFUSED = (AI_MODEL, "blocked_knowledge_bases", KNOWLEDGE_BASE)

    @property
    def holder(self) -> Kind:
        """The kind whose list it is."""
        return self.value[0]

    @property
    def section(self) -> str:
        """Its name in a file."""
        return self.value[1]

    @property
    def target(self) -> Kind:
        """The kind to which its lines lead."""
        return self.value[2]


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource with those of its fields that are named."""

    kind: Kind
    id: str
    fields: Mapping[str, Value]
    etag: str = ""
    """Of what was read from a server."""

    @property
    def name(self) -> str:
        """aiModels/local."""
        return f"{self.kind.collection}/{self.id}"


@dataclass(frozen=True, slots=True)
class Link:
    """One line of a list."""

    list: LinkList
    holder: str
    """Id of whose list it is."""
    target: str
    """Id of to what it leads."""
    priority: int = 0
    disabled: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """What there can be only one of: a knowledge base is given to a holder, or blocked."""
        return f"{self.list.holder.collection}/{self.holder}", self.list.target.collection, self.target

    def __str__(self) -> str:
        place = f", priority {self.priority}" if self.list is LinkList.CHAIN else ""
        off = ", disabled" if self.disabled else ""
        return (
            f"{self.list.holder.collection}/{self.holder} {self.list.section}: "
            f"{self.list.target.collection}/{self.target}{place}{off}"
        )


@dataclass(frozen=True, slots=True)
class Configuration:
    """Resources by (collection, id), the links between them, and which lists of links are named."""

    resources: Mapping[tuple[str, str], Resource]
    links: tuple[Link, ...]
    lists: frozenset[tuple[LinkList, str]] = frozenset()
    """(list, id of its holder)."""
    kinds: frozenset[str] = frozenset()
    """Collections that are named."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A resource that is there and differs: field by field (before, after)."""

    resource: Resource
    """As it is there, with its etag."""
    fields: Mapping[str, tuple[Value, Value]]


@dataclass(frozen=True, slots=True)
class Difference:
    """What must be done, in this order; `kept` is what stays only because pruning was not asked for."""

    unlinked: tuple[Link, ...] = ()
    created: tuple[Resource, ...] = ()
    changed: tuple[Changed, ...] = ()
    linked: tuple[Link, ...] = ()
    relinked: tuple[tuple[Link, Link], ...] = ()
    """(before, after): another priority, switched on or off, given instead of blocked."""
    removed: tuple[Resource, ...] = ()
    kept: tuple[str, ...] = ()
    problems: tuple[tuple[tuple[str, ...], str], ...] = field(default=())
    """(path in the file, what is wrong): with any of these nothing can be done."""

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.unlinked or self.created or self.changed or self.linked or self.relinked or self.removed)


def difference(current: Configuration, wanted: Configuration, *, prune: bool) -> Difference:
    """What turns `current`, which is complete, into `wanted`."""
    created = [one for key, one in wanted.resources.items() if key not in current.resources]
    created.sort(key=lambda one: KINDS.index(one.kind))
    changed = list(_changed(current, wanted))
    before = {link.key: link for link in current.links}
    after = {link.key: link for link in wanted.links}
    unnamed = [one for key, one in current.resources.items() if key[0] in wanted.kinds and key not in wanted.resources]
    gone = {one.name for one in unnamed}
    loose = [
        link
        for key, link in before.items()
        if key not in after and ((link.list, link.holder) in wanted.lists or key[0] in gone)
    ]
    left = [link for key, link in before.items() if link not in loose and key not in after]
    return Difference(
        unlinked=tuple(loose) if prune else (),
        created=tuple(created),
        changed=tuple(changed),
        linked=tuple(link for key, link in after.items() if key not in before),
        relinked=tuple((before[key], link) for key, link in after.items() if key in before and before[key] != link),
        # The other way round: chat configurations hold the links to what others are removed after them.
        removed=tuple(sorted(unnamed, key=lambda one: -KINDS.index(one.kind))) if prune else (),
        kept=() if prune else (*sorted(gone), *map(str, loose)),
        problems=(
            *(problem for one in created for problem in _incomplete(one)),
            *(problem for one in changed for problem in _fixed(one)),
            *_dangling(current, wanted, gone if prune else set()),
            *(_still_needed(left, gone) if prune else ()),
        ),
    )


def _changed(current: Configuration, wanted: Configuration) -> Iterator[Changed]:
    for key, new in wanted.resources.items():
        old = current.resources.get(key)
        if old is None:
            continue
        fields = {
            name: (old.fields.get(name), value) for name, value in new.fields.items() if old.fields.get(name) != value
        }
        if fields:
            yield Changed(old, fields)


def _incomplete(new: Resource) -> Iterator[tuple[tuple[str, ...], str]]:
    if new.kind is not AI_MODEL:
        return
    path = (AI_MODEL.section, new.id)
    kind = new.fields.get("kind")
    if kind is None:
        yield path, "kind is missing: a new AI model needs one"
    elif kind != "local" and kind not in new.fields:
        yield path, f"{kind} is missing: it says where the AI model is"


def _fixed(one: Changed) -> Iterator[tuple[tuple[str, ...], str]]:
    if "kind" in one.fields:
        yield (
            (AI_MODEL.section, one.resource.id, "kind"),
            f"is {one.fields['kind'][0]} on the server and cannot be changed; make an AI model of another id",
        )
        return
    for target in TARGETS:
        if target in one.fields and one.resource.fields.get("kind") != target:
            yield (AI_MODEL.section, one.resource.id, target), "does not fit the kind that it has on the server"


def _dangling(current: Configuration, wanted: Configuration, gone: set[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    for link in wanted.links:
        key = link.list.target.collection, link.target
        there = key in wanted.resources or (key in current.resources and "/".join(key) not in gone)
        if not there:
            yield (
                (link.list.holder.section, link.holder, link.list.section, link.target),
                f"{link.target} is neither in the file nor on the server",
            )


def _still_needed(left: Sequence[Link], gone: set[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    for link in left:
        target = f"{link.list.target.collection}/{link.target}"
        if target in gone:
            yield (link.list.target.section,), f"{target} cannot be removed: {link} stays, as the file does not name it"
