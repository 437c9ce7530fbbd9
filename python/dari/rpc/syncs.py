"""Sources, syncs and the differences of versions on the wire; MappingService hands these calls on."""

from datetime import datetime

from dari.core.comparing import VersionComparer
from dari.core.errors import FieldViolation, InvalidArgument
from dari.core.schedules import Schedule
from dari.core.sources import DEFAULT_MAX_SHRINK_SHARE, KnowledgeBaseSource, OnShrink
from dari.core.sync import Sync, Syncs
from dari.rpc import names
from dari.rpc.times import duration, seconds, timestamp
from dari.v1 import mapping_pb2 as pb

_KNOWLEDGE_BASES = "knowledgeBases"


class SyncCalls:
    """SyncKnowledgeBase, ListSyncs and CompareVersions."""

    def __init__(self, *, syncs: Syncs, comparer: VersionComparer) -> None:
        self._syncs = syncs
        self._comparer = comparer

    def sync(self, tenant: str, request: pb.SyncKnowledgeBaseRequest) -> pb.SyncKnowledgeBaseResponse:
        """See mapping.proto."""
        id = names.resource_id("name", request.name, _KNOWLEDGE_BASES)
        sync = self._syncs.request(tenant, id, accepts_shrink=request.accept_shrink)
        return pb.SyncKnowledgeBaseResponse(sync=_sync_message(sync))

    def list(self, tenant: str, request: pb.ListSyncsRequest) -> pb.ListSyncsResponse:
        """See mapping.proto."""
        size = names.page_size(request.page_size)
        base = names.optional_resource_id("knowledge_base", request.knowledge_base, _KNOWLEDGE_BASES)
        found = self._syncs.list(tenant, base, _read_token(request.page_token), size + 1)
        messages, token = names.page(found, size, _sync_message, _token_key)
        return pb.ListSyncsResponse(syncs=messages, next_page_token=token)

    def compare(self, tenant: str, request: pb.CompareVersionsRequest) -> pb.CompareVersionsResponse:
        """See mapping.proto."""
        id = names.resource_id("knowledge_base", request.knowledge_base, _KNOWLEDGE_BASES)
        wrong = [name for name in ("from_version", "to_version") if getattr(request, name) < 0]
        if wrong:
            raise InvalidArgument.of(*(FieldViolation(name, "must be 0 or more") for name in wrong))
        found = self._comparer.compare(tenant, id, request.from_version, request.to_version, request.key_columns)
        return pb.CompareVersionsResponse(
            from_version=found.from_version,
            to_version=found.to_version,
            rows_added=found.rows_added,
            rows_removed=found.rows_removed,
            rows_changed=found.rows_changed,
            rows_unchanged=found.rows_unchanged,
        )


def source_message(source: KnowledgeBaseSource) -> pb.KnowledgeBaseSource:
    """A source as its message."""
    return pb.KnowledgeBaseSource(
        uri=source.uri,
        credentials_secret=source.credentials_secret,
        interval=duration(source.schedule.interval_s) if source.schedule.interval_s else None,
        cron=source.schedule.cron,
        on_shrink=pb.OnShrink.Value(f"ON_SHRINK_{source.on_shrink.value}"),
        max_shrink_share=source.max_shrink_share,
        key_columns=source.key_columns,
        paused=source.paused,
    )


def read_source(message: pb.KnowledgeBase) -> KnowledgeBaseSource | None:
    """The source of a knowledge base's message; None where it is not set. Raises InvalidArgument."""
    if not message.HasField("source"):
        return None
    source = message.source
    if source.HasField("interval") and seconds(source.interval) <= 0:
        raise InvalidArgument.of(FieldViolation("source.interval", "must be 10 s to 366 days"))
    if source.on_shrink not in pb.OnShrink.values():
        raise InvalidArgument.of(FieldViolation("source.on_shrink", "must be HOLD or ACCEPT"))
    return KnowledgeBaseSource(
        uri=source.uri,
        credentials_secret=source.credentials_secret,
        schedule=Schedule(seconds(source.interval) if source.HasField("interval") else 0.0, source.cron),
        on_shrink=OnShrink.ACCEPT if source.on_shrink == pb.ON_SHRINK_ACCEPT else OnShrink.HOLD,
        max_shrink_share=source.max_shrink_share if source.HasField("max_shrink_share") else DEFAULT_MAX_SHRINK_SHARE,
        key_columns=tuple(source.key_columns),
        paused=source.paused,
    )


def _sync_message(sync: Sync) -> pb.Sync:
    return pb.Sync(
        knowledge_base=f"{_KNOWLEDGE_BASES}/{sync.knowledge_base}",
        number=sync.number,
        state=pb.SyncState.Value(f"SYNC_STATE_{sync.state.value}"),
        code=sync.code,
        fetched_bytes=sync.fetched_bytes,
        uploads=[f"uploads/{upload}" for upload in sync.uploads],
        version=sync.version,
        rows_before=sync.rows_before,
        rows_found=sync.rows_found,
        create_time=timestamp(sync.create_time),
        complete_time=timestamp(sync.complete_time) if sync.complete_time else None,
        next_time=timestamp(sync.next_time) if sync.next_time else None,
    )


def _token_key(sync: Sync) -> tuple[str, str]:
    return sync.create_time.isoformat(), f"{sync.knowledge_base}/{sync.number}"


def _read_token(token: str) -> tuple[datetime, str] | None:
    key = names.read_time_token(token)
    if key is not None:
        base, _, number = key[1].partition("/")
        if (
            not names.id_in(f"{_KNOWLEDGE_BASES}/{base}", _KNOWLEDGE_BASES)
            or not number.isdecimal()
            or len(number) > 18
        ):
            raise InvalidArgument.of(FieldViolation("page_token", "must be a next_page_token of the same list"))
    return key
