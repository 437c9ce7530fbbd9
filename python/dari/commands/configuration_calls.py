"""Reads the mapping of a server as one configuration, and makes the calls that change it.

Only the public calls of MappingService. Changes of fields carry the etag that was read, so that what somebody else
changed in between is refused with ABORTED; links have no etag, so calls are for a difference that was just computed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from dari.client import Client
from dari.core.configuration import (
    AI_MODEL,
    CHAT_CONFIGURATION,
    KINDS,
    KNOWLEDGE_BASE,
    Changed,
    Configuration,
    Difference,
    Field,
    Holds,
    Kind,
    Link,
    LinkList,
    Resource,
    Value,
)
from dari.v1 import mapping_pb2 as wire

_PAGE_SIZE = 1_000
_PASCAL = {AI_MODEL: "AiModel", CHAT_CONFIGURATION: "ChatConfiguration", KNOWLEDGE_BASE: "KnowledgeBase"}
_HELD_BY_CHAT = {LinkList.LINKED: wire.LINK_EFFECT_ALLOW, LinkList.UNLINKED: wire.LINK_EFFECT_BLOCK}
_HELD_BY_MODEL = {LinkList.GRANTED: wire.LINK_EFFECT_ALLOW, LinkList.REFUSED: wire.LINK_EFFECT_BLOCK}


def read_server(client: Client) -> Configuration:
    """All that the server's mapping holds. Raises CallFailed."""
    resources = {(one.kind.collection, one.id): one for kind in KINDS for one in _read_kind(client, kind)}
    links = tuple(_read_links(client))
    lists = frozenset(
        (list, id) for list in LinkList for collection, id in resources if collection == list.holder.collection
    )
    return Configuration(resources, links, lists, frozenset(kind.collection for kind in KINDS))


def _read_kind(client: Client, kind: Kind) -> Iterator[Resource]:
    plural = f"{_PASCAL[kind]}s"
    request = getattr(wire, f"List{plural}Request")(page_size=_PAGE_SIZE)
    for message in _pages(getattr(client.mapping, f"List{plural}"), request, kind.section):
        yield Resource(kind, _id(message.name), _values(kind.fields, message), message.etag)


def _read_links(client: Client) -> Iterator[Link]:
    for mapping in _pages(client.mapping.ListMappings, wire.ListMappingsRequest(page_size=_PAGE_SIZE), "mappings"):
        if mapping.HasField("ai_model_link"):
            link = mapping.ai_model_link
            yield Link(LinkList.CHAIN, _id(link.chat_configuration), _id(link.ai_model), link.priority, link.disabled)
        elif mapping.HasField("knowledge_base_link"):
            linked = mapping.knowledge_base_link
            list = LinkList.UNLINKED if linked.effect == wire.LINK_EFFECT_BLOCK else LinkList.LINKED
            yield Link(list, _id(linked.chat_configuration), _id(linked.knowledge_base))
        else:
            granted = mapping.knowledge_base_grant
            list = LinkList.REFUSED if granted.effect == wire.LINK_EFFECT_BLOCK else LinkList.GRANTED
            yield Link(list, _id(granted.ai_model), _id(granted.knowledge_base))


def _pages(method: Callable[[Any], Any], request: Any, field: str) -> Iterator[Any]:
    while True:
        page = method(request)
        yield from getattr(page, field)
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


@dataclass(frozen=True, slots=True)
class Call:
    """One call that changes the mapping."""

    path: tuple[str, ...]
    """What of a file asks for it."""
    make: Callable[[Client], None]
    """Raises CallFailed."""


def calls(difference: Difference) -> Iterator[Call]:
    """What makes a difference, in its order."""
    for link in difference.unlinked:
        yield Call(_path(link), partial(_unlink, link))
    for resource in difference.created:
        yield Call((resource.kind.section, resource.id), partial(_create, resource))
    for changed in difference.changed:
        yield Call((changed.resource.kind.section, changed.resource.id), partial(_update, changed))
    for link in (*difference.linked, *(after for _, after in difference.relinked)):
        yield Call(_path(link), partial(_link, link))
    for resource in difference.removed:
        yield Call((resource.kind.section, resource.id), partial(_delete, resource))


def _path(link: Link) -> tuple[str, ...]:
    return link.list.holder.section, link.holder, link.list.section, link.target


def _create(resource: Resource, client: Client) -> None:
    kind = resource.kind
    request = getattr(wire, f"Create{_PASCAL[kind]}Request")(**{f"{kind.singular}_id": resource.id})
    _fill(getattr(request, kind.singular), kind.fields, resource.fields)
    getattr(request, kind.singular).SetInParent()
    getattr(client.mapping, f"Create{_PASCAL[kind]}")(request)


def _update(changed: Changed, client: Client) -> None:
    kind = changed.resource.kind
    request = getattr(wire, f"Update{_PASCAL[kind]}Request")()
    message = getattr(request, kind.singular)
    message.name, message.etag = changed.resource.name, changed.resource.etag
    _fill(message, kind.fields, {name: after for name, (_, after) in changed.fields.items()})
    request.update_mask.CopyFrom(FieldMask(paths=[name.removesuffix("_s") for name in changed.fields]))
    getattr(client.mapping, f"Update{_PASCAL[kind]}")(request)


def _delete(resource: Resource, client: Client) -> None:
    request = getattr(wire, f"Delete{_PASCAL[resource.kind]}Request")(name=resource.name, etag=resource.etag)
    getattr(client.mapping, f"Delete{_PASCAL[resource.kind]}")(request)


def _link(link: Link, client: Client) -> None:
    holder, target = _ends(link)
    if link.list is LinkList.CHAIN:
        client.mapping.LinkAiModel(
            wire.LinkAiModelRequest(
                chat_configuration=holder, ai_model=target, priority=link.priority, disabled=link.disabled
            )
        )
    elif link.list in _HELD_BY_CHAT:
        client.mapping.LinkKnowledgeBase(
            wire.LinkKnowledgeBaseRequest(
                chat_configuration=holder, knowledge_base=target, effect=_HELD_BY_CHAT[link.list]
            )
        )
    else:
        client.mapping.GrantKnowledgeBase(
            wire.GrantKnowledgeBaseRequest(ai_model=holder, knowledge_base=target, effect=_HELD_BY_MODEL[link.list])
        )


def _unlink(link: Link, client: Client) -> None:
    holder, target = _ends(link)
    if link.list is LinkList.CHAIN:
        client.mapping.UnlinkAiModel(wire.UnlinkAiModelRequest(chat_configuration=holder, ai_model=target))
    elif link.list in _HELD_BY_CHAT:
        client.mapping.UnlinkKnowledgeBase(
            wire.UnlinkKnowledgeBaseRequest(chat_configuration=holder, knowledge_base=target)
        )
    else:
        client.mapping.RevokeKnowledgeBase(wire.RevokeKnowledgeBaseRequest(ai_model=holder, knowledge_base=target))


def _ends(link: Link) -> tuple[str, str]:
    return f"{link.list.holder.collection}/{link.holder}", f"{link.list.target.collection}/{link.target}"


def _id(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _values(fields: tuple[Field, ...], message: Any) -> dict[str, Value]:
    """What a message holds, in the words of a file. A target that it does not have is left out."""
    found: dict[str, Value] = {}
    for one in fields:
        name = one.name.removesuffix("_s")
        if one.holds is Holds.GROUP and not message.HasField(name):
            if one.may_be_none:
                found[one.name] = None
            continue
        found[one.name] = _value(one, message, name)
    return found


def _value(one: Field, message: Any, name: str) -> Value:
    held: Any = getattr(message, name)
    if one.holds is Holds.GROUP:
        return _values(one.fields, held)
    if one.holds is Holds.LABELS:
        return dict(sorted(held.items()))
    if one.holds is Holds.TEXTS:
        return tuple(held)
    if one.holds is Holds.WORD:
        return _word(one, message, name)
    return _plain_value(one, message, held)


def _plain_value(one: Field, message: Any, held: Any) -> Value:
    if isinstance(held, Duration):
        return held.ToTimedelta().total_seconds()
    if one.holds is Holds.NUMBER and not message.HasField(one.name):
        return one.default
    value: Value = held
    return value


def _word(one: Field, message: Message, name: str) -> str:
    """An enum's value as a word; that of UNSPECIFIED is the default's, which is the first."""
    values = message.DESCRIPTOR.fields_by_name[name].enum_type.values_by_number  # type: ignore[union-attr]
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    number = getattr(message, name)
    return values[number].name.removeprefix(prefix).lower() if number in values and number else one.words[0]


def _fill(message: Any, fields: tuple[Field, ...], values: Mapping[str, Value]) -> None:
    """Set in a message what a file says."""
    for one in fields:
        if one.name in values:
            _set(message, one, values[one.name])


def _set(message: Any, one: Field, value: Any) -> None:
    name = one.name.removesuffix("_s")
    match one.holds:
        case Holds.GROUP if value is None:
            message.ClearField(name)
        case Holds.GROUP:
            getattr(message, name).SetInParent()
            _fill(getattr(message, name), one.fields, value)
        case Holds.LABELS:
            getattr(message, name).update(value)
        case Holds.TEXTS:
            getattr(message, name)[:] = value
        case Holds.WORD:
            enum = message.DESCRIPTOR.fields_by_name[name].enum_type
            setattr(message, name, f"{enum.values[0].name.removesuffix('UNSPECIFIED')}{value.upper()}")
        case Holds.NUMBER if one.name.endswith("_s"):
            # An interval of 0 is none.
            if value or one.least > 0:
                getattr(message, name).FromTimedelta(timedelta(seconds=value))
        case _:
            setattr(message, name, value)
