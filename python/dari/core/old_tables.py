"""Reads rows of an older system's tables as resources: AI models, chat configurations, knowledge bases.

Columns are found by their names, whatever their case: `flowId`, `flow_id` and `FLOW-ID` are one. A column that is not
known is only looked through for what it mentions. Secrets are never taken over: a column that holds one gives the name
of a secret, and keys that stand in texts or addresses are blanked out and told.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from dari.core.configuration import AI_MODEL, CHAT_CONFIGURATION, KINDS, KNOWLEDGE_BASE, Kind, Resource, Value
from dari.core.readable_ids import ReadableIds

Row = Mapping[str, Any]

TABLES = {"aimodel": AI_MODEL, "chatconfiguration": CHAT_CONFIGURATION, "chatconfig": CHAT_CONFIGURATION}
TABLES["knowledgebase"] = KNOWLEDGE_BASE
_PREFIXES = {AI_MODEL.collection: "model", CHAT_CONFIGURATION.collection: "chat", KNOWLEDGE_BASE.collection: "kb"}

_KEYS = ("id", "_id", "uuid")
_NAMES = ("display_name", "name", "title", "label", "model_name")
_DESCRIPTIONS = ("description", "desc", "summary", "about", "comment")
_INSTRUCTIONS = ("instructions", "system_prompt", "system_message", "prompt_template", "prompt")
_URLS = ("base_url", "url", "api_url", "endpoint", "api_base", "api_host", "host", "server")
_FLOWS = ("flow_id", "chatflow_id", "chatflowid", "flow", "chatflow", "flowise_id")
_MODELS = ("model", "model_name", "model_id", "deployment", "deployment_name")
_MODEL_FILES = ("model_file", "file", "path", "model_path")
_KINDS = ("kind", "type", "provider", "model_type", "vendor", "engine")
_MAX_ROWS = ("max_rows", "top_k", "topk", "row_limit")
OWNERS = re.compile(
    r"(owner|user|team|workspace|tenant|org|organization|organisation|department|dept|group|project|company)(_id)?"
)
"""Columns that say to whom a row belongs."""
_SECRET_COLUMN = re.compile(
    r"(^|_)(api_?key|apikey|secret(_key)?|token|access_token|auth_token|password|passwd|credentials?|authorization"
    r"|private_key|bearer|key_value)(_|$)"
)
_NO_SECRET_COLUMN = re.compile(r"tokens$|(max|context|token)_?(tokens?|limit|count|size)|_(name|secret_name)$")
_SECRET_TEXT = re.compile(
    r"\b(?:sk|pk|rk|xox[abp]|gh[pousr]|glpat|hf|AKIA)[-_][A-Za-z0-9_-]{8,}|\bAKIA[A-Z0-9]{12,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_.-]+|(?i:\bbearer\s+)\S{8,}"
    r"|(?i:(?:api[-_ ]?key|token|password|secret)[\"']?\s*[:=]\s*[\"']?)[^\s,;\"'}]{4,}|-----BEGIN[^-]+-----[\s\S]*"
)
_URL = re.compile(r"https?://[^\s\"'<>,;)\]}]+")
_PREDICTION = re.compile(r"/api/v1/(?:internal-)?prediction/([0-9a-fA-F-]{36})/?$")
_LEFT_OUT = "[left out]"
_MIN_SECRET_CHARS = 6
"""A shorter one would blank out words that are none."""
_FLOWISE_WORDS = ("flowise", "chatflow")
_LOCAL_WORDS = ("local", "gguf", "ggml", "ctransformers", "llama.cpp", "llamacpp")
_OPENAI_WORDS = ("openai", "vllm", "ollama", "lmstudio", "azure", "groq", "together", "mistral", "deepseek", "gpt")


@dataclass(frozen=True, slots=True)
class OldRow:
    """A row as a resource, and what of it may tell to what it belongs."""

    resource: Resource
    key: str
    """Its id in the older system; empty where it had none."""
    texts: Mapping[str, str]
    """What stands in its columns, without secrets, by the column."""
    owners: Mapping[str, str]
    notes: tuple[str, ...]
    """What a person must know of it."""
    is_complete: bool = True
    """Whether it can be made as it is."""


@dataclass(slots=True)
class _Reading:
    """One row while it is read."""

    kind: Kind
    id: str
    columns: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    secret_columns: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    """Their values, which may stand elsewhere in the row too."""

    @property
    def secret_name(self) -> str:
        """Under which its API key is to be kept in the settings; empty where it had none."""
        return f"{self.id}-api-key" if self.secret_columns else ""

    def first(self, names: Sequence[str]) -> str:
        """The text of the first of these columns that has one."""
        return next((text for name in names if (text := _text(self.columns.get(name))).strip()), "").strip()


def read_rows(tables: Mapping[str, Sequence[Row]]) -> tuple[OldRow, ...]:
    """The rows of all tables, by collection, each under an id of its own. Never raises for what stands in a row."""
    return tuple(old for kind in KINDS for old in _read_table(kind, tables.get(kind.collection, ())))


def kind_of_table(name: str) -> Kind | None:
    """aiModels, ai_models, "AiModel", knowledge-base → the kind; None for others."""
    word = re.sub(r"[^a-z]", "", name.lower())
    return TABLES.get(word.removesuffix("s"))


def snake_case(name: str) -> str:
    """flowId, Flow ID, FLOW_ID → flow_id."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.strip())
    return re.sub(r"[\s.\-]+", "_", parted).lower()


def _read_table(kind: Kind, rows: Sequence[Row]) -> Iterator[OldRow]:
    ids = ReadableIds(_PREFIXES[kind.collection])
    seen: set[str] = set()
    for row in rows:
        reading = _Reading(kind, "", {snake_case(str(name)): value for name, value in row.items()})
        _leave_secrets_out(reading)
        key = _blanked(reading, reading.first(_KEYS))
        reading.id = ids.id_for(_blanked(reading, reading.first(_NAMES)) or key)
        if key and key in seen:
            reading.notes.append("its old id stands twice in the table: which one others mean is not known")
        seen.add(key)
        yield _old_row(reading, key)


def _old_row(reading: _Reading, key: str) -> OldRow:
    _tell_secrets(reading)
    texts = dict(_texts(reading))
    fields: dict[str, Value] = {"display_name": _taken(reading, reading.first(_NAMES) or key, 200) or reading.id}
    is_complete = True
    if reading.kind is AI_MODEL:
        target = _target(reading)
        is_complete = target is not None
        fields |= target or {}
    elif reading.kind is CHAT_CONFIGURATION:
        fields |= _chat_fields(reading)
    elif described := reading.first(_DESCRIPTIONS):
        fields["description"] = _taken(reading, described, 2_000)
    owners = {column: text.strip() for column, text in texts.items() if OWNERS.fullmatch(column) and text.strip()}
    resource = Resource(reading.kind, reading.id, fields)
    return OldRow(resource, key, texts, owners, tuple(dict.fromkeys(reading.notes)), is_complete)


def _leave_secrets_out(reading: _Reading) -> None:
    reading.columns = {column: _without_secrets(reading, column, value) for column, value in reading.columns.items()}


def _tell_secrets(reading: _Reading) -> None:
    for column in reading.secret_columns:
        told = f"the secret in column {column} was not taken over"
        if reading.kind is AI_MODEL:
            told += f": put it into the settings (secrets) under the name {reading.secret_name}"
        reading.notes.append(told)


def _texts(reading: _Reading) -> Iterator[tuple[str, str]]:
    """What stands in each column."""
    for column, value in reading.columns.items():
        told = _text(value)
        text = _blanked(reading, told)
        if text != told:
            reading.notes.append(f"what may be a key or password in column {column} was left out")
        if text:
            yield column, text


def _without_secrets(reading: _Reading, column: str, value: Any) -> Any:
    if _is_secret(column):
        _hide(reading, column, value)
        return None
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, Mapping):
        return {str(name): _without_secrets(reading, snake_case(str(name)), held) for name, held in value.items()}
    if isinstance(value, list):
        return [_without_secrets(reading, column, held) for held in value]
    return value


def _hide(reading: _Reading, column: str, value: Any) -> None:
    text = _text(value)
    if not text or value in ([], {}):
        return
    reading.secret_columns.append(column)
    if len(text) >= _MIN_SECRET_CHARS:
        reading.secrets.append(text)


def _is_secret(column: str) -> bool:
    return bool(_SECRET_COLUMN.search(column)) and not _NO_SECRET_COLUMN.search(column)


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, (Mapping, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value).replace("\0", "")


def _blanked(reading: _Reading, text: str) -> str:
    """The text without keys, and its addresses without passwords and queries."""
    for secret in reading.secrets:
        text = text.replace(secret, _LEFT_OUT)
    return _URL.sub(lambda match: _plain_url(match[0])[0], _SECRET_TEXT.sub(_LEFT_OUT, text))


def _plain_url(url: str) -> tuple[str, bool]:
    """An address without user, password, query and fragment; whether any of these was there."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "[an address that cannot be read]", True
    had_secret = host != parts.netloc or bool(parts.query or parts.fragment)
    return urlunsplit((parts.scheme, host, parts.path, "", "")), had_secret


def _taken(reading: _Reading, text: str, most: int) -> str:
    """A text as it is taken over: without keys, and no longer than may be."""
    kept = _blanked(reading, text)
    if len(kept) > most:
        reading.notes.append(f"a text of {len(kept):,} characters was cut to {most:,}")
    return kept[:most]


def _chat_fields(reading: _Reading) -> dict[str, Value]:
    fields: dict[str, Value] = {}
    if told := reading.first(_INSTRUCTIONS):
        fields["instructions"] = _taken(reading, told, 8_000)
    rows = reading.first(_MAX_ROWS)
    if rows.isascii() and rows.isdigit() and len(rows) < 4 and int(rows) <= 50:
        fields["max_rows"] = int(rows)
    return fields


def _target(reading: _Reading) -> dict[str, Value] | None:
    """Kind and target; None where they cannot be told, with a note of what is missing."""
    url, had_more = _plain_url(reading.first(_URLS))
    if had_more:
        reading.notes.append("user, password or query of its address were left out")
    flow = reading.first(_FLOWS)
    if match := _PREDICTION.search(url):
        url, flow = url[: match.start()], flow or match[1]
    kind = _kind(reading, url, flow)
    if kind == "flowise":
        return _flowise(reading, url, flow)
    if kind == "openai_compatible":
        return _openai(reading, url)
    if kind == "local":
        return {"kind": "local", "local": {"model_file": ""}}
    reading.notes.append("what kind it is (flowise, openai_compatible, local) cannot be told: fill in kind and target")
    return None


def _kind(reading: _Reading, url: str, flow: str) -> str:
    if _is_uuid(flow):
        return "flowise"
    said = " ".join(_text(reading.columns.get(name)).lower() for name in _KINDS)
    for kind, words in (("flowise", _FLOWISE_WORDS), ("local", _LOCAL_WORDS), ("openai_compatible", _OPENAI_WORDS)):
        if any(word in said for word in words):
            return kind
    if re.search(r"/v\d+/?(chat/completions/?)?$", url):
        return "openai_compatible"
    return "local" if reading.first(_MODEL_FILES).endswith((".gguf", ".bin", ".ggml")) else ""


def _flowise(reading: _Reading, url: str, flow: str) -> dict[str, Value] | None:
    if not (_is_uuid(flow) and _is_http(url)):
        reading.notes.append("is a Flowise chatflow, but its address or the UUID of its flow is missing: fill them in")
        return None
    target = {"base_url": url.rstrip("/"), "flow_id": flow, "api_key_secret": reading.secret_name}
    return {"kind": "flowise", "flowise": target}


def _openai(reading: _Reading, url: str) -> dict[str, Value] | None:
    model = reading.first(_MODELS)
    url = re.sub(r"/(chat/)?completions/?$", "", url).rstrip("/")
    if not (_is_http(url) and 0 < len(model) <= 256):
        reading.notes.append("speaks OpenAI's API, but its address or the name of its model is missing: fill them in")
        return None
    target = {"base_url": url, "model": _blanked(reading, model), "api_key_secret": reading.secret_name}
    return {"kind": "openai_compatible", "openai_compatible": target}


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _is_http(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and url.isascii() and len(url) <= 2_048
