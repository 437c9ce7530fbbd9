"""Resource names and page tokens, in and out of messages."""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

from google.protobuf.message import Message

from dari.core.errors import FieldViolation, InvalidArgument
from dari.core.mapping import is_resource_id
from dari.core.uploads import is_upload_id

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1_000
_PAGE_BUDGET_BYTES = 2 * 1024 * 1024
"""A page stays well below the 4 MiB that a gRPC client takes by default; the first item is always given."""

_MAX_TOKEN_CHARACTERS = 1_024
"""A token holds a time and an id, or less. A much longer one could be nested deeper than the JSON reader goes."""

_OFFSET_DIGITS = 18
"""An offset fits PostgreSQL's bigint."""

Item = TypeVar("Item")
Result = TypeVar("Result", bound=Message)


def resource_id(field: str, name: str, collection: str) -> str:
    """The id in `collection/{id}`. Raises InvalidArgument that names the field."""
    id = id_in(name, collection)
    if not id:
        raise InvalidArgument.of(wrong_name(field, collection))
    return id


def id_in(name: str, collection: str) -> str:
    """The id in `collection/{id}`; "" where the name has another form."""
    prefix, _, id = name.partition("/")
    return id if prefix == collection and is_resource_id(id) else ""


def wrong_name(field: str, collection: str) -> FieldViolation:
    """What is wrong where `id_in` finds none."""
    return FieldViolation(field, f"must be {collection}/{{id}}")


def optional_resource_id(field: str, name: str, collection: str) -> str:
    """As `resource_id`; "" stays ""."""
    return resource_id(field, name, collection) if name else ""


def upload_id(field: str, name: str) -> str:
    """The id in `uploads/{upload_id}`. Raises InvalidArgument that names the field."""
    prefix, _, id = name.partition("/")
    if prefix != "uploads" or not is_upload_id(id):
        raise InvalidArgument.of(FieldViolation(field, "must be uploads/{upload_id}"))
    return id


def conversation_id(field: str, name: str) -> UUID:
    """The UUID in `conversations/{uuid}`. Raises InvalidArgument that names the field."""
    prefix, _, id = name.partition("/")
    uuid = _uuid(id)
    if prefix != "conversations" or uuid is None:
        raise InvalidArgument.of(FieldViolation(field, "must be conversations/{uuid}"))
    return uuid


def request_id(text: str) -> UUID | None:
    """A request_id; None where there is none. Raises InvalidArgument."""
    if not text:
        return None
    uuid = _uuid(text)
    if uuid is None:
        raise InvalidArgument.of(FieldViolation("request_id", "must be a UUID"))
    return uuid


def page_size(size: int) -> int:
    """The size of a page. Raises InvalidArgument."""
    if not 0 <= size <= MAX_PAGE_SIZE:
        raise InvalidArgument.of(FieldViolation("page_size", f"must be 1 to {MAX_PAGE_SIZE}"))
    return size or DEFAULT_PAGE_SIZE


def read_page_token(token: str, parts: int) -> tuple[str, ...]:
    """The key behind which a page begins; empty for the first page. Raises InvalidArgument."""
    if not token:
        return ()
    if len(token) > _MAX_TOKEN_CHARACTERS:
        raise _foreign_token()
    try:
        key = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, binascii.Error):
        key = None
    if not isinstance(key, list) or len(key) != parts or not all(_is_text(part) for part in key):
        raise _foreign_token()
    return tuple(key)


def read_time_token(token: str) -> tuple[datetime, str] | None:
    """The (time, id) behind which a page begins; None for the first page. Raises InvalidArgument."""
    key = read_page_token(token, 2)
    if not key:
        return None
    try:
        return datetime.fromisoformat(key[0]).astimezone(UTC), key[1]
    except (ValueError, OverflowError) as error:
        raise _foreign_token() from error


def read_conversation_token(token: str) -> tuple[datetime, UUID] | None:
    """The (time, conversation) behind which a page begins; None for the first page. Raises InvalidArgument."""
    key = read_time_token(token)
    uuid = _uuid(key[1]) if key else None
    if key is None:
        return None
    if uuid is None:
        raise _foreign_token()
    return key[0], uuid


def read_offset_token(token: str) -> int:
    """The offset behind which a page begins; -1 for the first page. Raises InvalidArgument."""
    key = read_page_token(token, 1)
    if not key:
        return -1
    if not key[0].isdecimal() or len(key[0]) > _OFFSET_DIGITS:
        raise _foreign_token()
    return int(key[0])


def page(
    items: Sequence[Item], size: int, to_message: Callable[[Item], Result], key: Callable[[Item], Iterable[str]]
) -> tuple[list[Result], str]:
    """The messages of one page and the token of the next, of up to `size + 1` items."""
    messages: list[Result] = []
    used = 0
    for position, item in enumerate(items):
        message = to_message(item)
        used += message.ByteSize()
        if position == size or (messages and used > _PAGE_BUDGET_BYTES):
            token = json.dumps(list(key(items[position - 1])), separators=(",", ":"))
            return messages, base64.urlsafe_b64encode(token.encode()).decode()
        messages.append(message)
    return messages, ""


def fitting(messages: Iterable[Result]) -> list[Result]:
    """The first messages that one answer can carry; always one, where there is one."""
    taken: list[Result] = []
    used = 0
    for message in messages:
        used += message.ByteSize()
        if taken and used > _PAGE_BUDGET_BYTES:
            break
        taken.append(message)
    return taken


def _foreign_token() -> InvalidArgument:
    return InvalidArgument.of(FieldViolation("page_token", "must be a next_page_token of the same list"))


def _is_text(part: object) -> bool:
    # JSON may hold half a surrogate pair, which is no text that PostgreSQL could take.
    return isinstance(part, str) and "\0" not in part and part.isprintable()


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
