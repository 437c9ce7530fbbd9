"""GetProfile on the wire: what is in the columns of a version."""

from dari.core.errors import FieldViolation, InvalidArgument
from dari.core.profiles import ColumnProfile, Profile, Profiles
from dari.rpc import names
from dari.v1 import ingest_pb2 as pb

_MAX_BYTES = 3 * 1024 * 1024
"""A profile stays below the 4 MiB that a gRPC client takes by default: some of 1,500 columns could be larger."""
_TOP_VALUES = (16, 8, 4, 2, 1, 0)
"""How many of a column's values are told: as many as fit in every column."""


def get_profile(profiles: Profiles, tenant: str, request: pb.GetProfileRequest) -> pb.GetProfileResponse:
    """See GetProfile in ingest.proto."""
    base = names.resource_id("knowledge_base", request.knowledge_base, "knowledgeBases")
    found = profiles.describe(tenant, base, version_number(request.version))
    told = (_profile(found, most) for most in _TOP_VALUES)
    return pb.GetProfileResponse(profile=next(message for message in told if message.ByteSize() <= _MAX_BYTES))


def version_number(version: int) -> int | None:
    """The `version` of a request; None for the current one. Raises InvalidArgument."""
    if version < 0:
        raise InvalidArgument.of(FieldViolation("version", "must be 1 or more, or not set for the current one"))
    return version or None


def _profile(profile: Profile, most_values: int) -> pb.Profile:
    return pb.Profile(
        knowledge_base=f"knowledgeBases/{profile.knowledge_base}",
        version=profile.version,
        row_count=profile.row_count,
        columns=[_column(column, most_values) for column in profile.columns],
        typed_view=profile.typed_view,
    )


def _column(column: ColumnProfile, most_values: int) -> pb.ColumnProfile:
    return pb.ColumnProfile(
        name=column.name,
        type=pb.ColumnType.Value(f"COLUMN_TYPE_{column.type.name}"),
        format=column.format,
        precision=column.precision,
        scale=column.scale,
        ambiguous_day_order=column.ambiguous_day_order,
        grouped=column.grouped,
        cell_count=column.cell_count,
        missing_count=column.missing_count,
        empty_count=column.empty_count,
        null_like_count=column.null_like_count,
        distinct_estimate=column.distinct_estimate,
        min=column.min,
        max=column.max,
        sum=column.sum,
        mean=column.mean,
        shortest_chars=column.shortest_chars,
        longest_chars=column.longest_chars,
        top_values=[
            pb.ValueCount(value=counted.value, count=counted.count, error=counted.error)
            for counted in column.top_values[:most_values]
        ],
    )
