"""What stands behind the AI models of the mapping: each asked as the server would, without a question."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain

from dari.adapters.flowise import FlowHealth, FlowiseUpstream
from dari.adapters.openai_compatible import OpenAiCompatibleUpstream
from dari.adapters.postgres.database import Database
from dari.adapters.postgres.mapping_store import AiModelStore
from dari.adapters.tenant_secrets import TenantSecrets, UnknownSecret
from dari.adapters.upstreams import origin_of
from dari.core.errors import DariError
from dari.core.mapping import AiModel, FlowiseTarget, LocalTarget, OpenAiCompatibleTarget
from dari.core.upstream import UpstreamError
from dari.doctor.database import dsn_of, name_of
from dari.doctor.findings import Finding, failed, ok, warning
from dari.settings import Settings

_MAX_MODELS = 1_000
"""Of one tenant."""
_AT_ONCE = 16


def look_at_upstreams(settings: Settings, tenants: Sequence[str], timeout_s: float) -> Iterator[Finding]:
    """Every AI model of these tenants that is in use; each has `timeout_s` to answer."""
    dsn = dsn_of(settings)
    if dsn is None:
        yield ok("AI models", "not examined: the embedded database rests")
        return
    try:
        models = _models(settings, dsn, tenants)
    except DariError as error:
        told = f"not examined, since the mapping cannot be read: {error.message}"
        yield warning("AI models", told, f"See what is told of {name_of(settings)}.")
        return
    if not models:
        yield ok("AI models", "there are none")
    with ThreadPoolExecutor(_AT_ONCE, "doctor-upstream") as threads:
        found = threads.map(lambda place: list(_look_at(settings, place[0], place[1], timeout_s)), models)
        yield from chain.from_iterable(found)


def _models(settings: Settings, dsn: str, tenants: Iterable[str]) -> list[tuple[str, AiModel]]:
    database = Database(
        dsn,
        max_connections=1,
        wait_timeout_s=settings.database_wait_timeout_s,
        statement_timeout_s=settings.database_statement_timeout_s,
    )
    with closing(database):
        store = AiModelStore(database)
        return [
            (tenant, model) for tenant in tenants for model in store.list(tenant, "", _MAX_MODELS) if not model.disabled
        ]


def _look_at(settings: Settings, tenant: str, model: AiModel, timeout_s: float) -> Iterator[Finding]:
    target = model.target
    name = f"aiModels/{model.id}" if tenant == settings.tenant else f"{tenant}/aiModels/{model.id}"
    if isinstance(target, LocalTarget):
        yield _local(settings, target, name)
        return
    where = f"{name} at {origin_of(target.base_url)}"
    try:
        key = TenantSecrets(settings.secrets, settings.tenant).of(tenant, target.api_key_secret)
        if target.api_key_secret:
            yield ok(where, f"its key {target.api_key_secret} is among the secrets")
    except UnknownSecret:
        entry = target.api_key_secret if tenant == settings.tenant else f"{tenant}/{target.api_key_secret}"
        yield failed(
            where, f"its key {target.api_key_secret} is not among the secrets", f"Add {entry} to DARI_SECRETS."
        )
        key = None
    try:
        yield (
            _flowise(target, key, where, timeout_s)
            if isinstance(target, FlowiseTarget)
            else _openai(target, key, where, timeout_s)
        )
    except UpstreamError as error:
        yield failed(
            where, f"cannot be asked as it is configured: {error.code.replace('_', ' ')}", "dari map model show"
        )


def _flowise(target: FlowiseTarget, key: str | None, where: str, timeout_s: float) -> Finding:
    with closing(FlowiseUpstream(target.base_url, target.flow_id, key)) as upstream:
        health = upstream.probe(timeout_s)
    match health:
        case FlowHealth.OK:
            return ok(where, "knows the flow, which streams")
        case FlowHealth.NOT_STREAMING:
            told = "knows the flow, which does not stream: its first token comes with its last"
            return warning(
                where, told, "Let the flow end in a node that streams, or give the model a longer first-token timeout."
            )
        case FlowHealth.UNKNOWN_FLOW:
            return failed(where, f"does not know the flow {target.flow_id}", "Correct the flow's id in the mapping.")
        case FlowHealth.UNREACHABLE:
            told = f"gave no answer of Flowise's within {timeout_s:g} s"
            return failed(where, told, "Start it, or correct its address in the mapping.")


def _openai(target: OpenAiCompatibleTarget, key: str | None, where: str, timeout_s: float) -> Finding:
    with closing(OpenAiCompatibleUpstream(target.base_url, target.model, key)) as upstream:
        status = upstream.probe(timeout_s)
    if status is None:
        return failed(
            where, f"gave no answer within {timeout_s:g} s", "Start it, or correct its address in the mapping."
        )
    if status in (401, 403):
        return failed(where, f"does not take the key (HTTP {status})", "Correct the secret that the model names.")
    if status >= 500:
        return failed(where, f"answers with a failure of its own (HTTP {status})", "See its log.")
    if status != 200:
        remedy = "See that its address ends before /chat/completions, mostly in /v1."
        return warning(where, f"has no list of models at its address (HTTP {status})", remedy)
    return ok(where, "answers")


def _local(settings: Settings, target: LocalTarget, name: str) -> Finding:
    if not settings.local_model:
        return failed(name, "there is no local model here", "Set DARI_LOCAL_MODEL, or disable the AI model.")
    if target.model_file not in ("", settings.local_model):
        told = f"asks for {target.model_file}, and the one here is {settings.local_model}"
        return failed(name, told, "Set DARI_LOCAL_MODEL, or make the AI model anew without a file.")
    return ok(name, f"is the local model {settings.local_model}")
