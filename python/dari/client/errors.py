"""What a failed call raises on the client's side.

    CallFailed               the server, or the way to it, refused: code, reason, message, metadata, violations
    └── UploadInterrupted    an upload that may go on: the id and the offset to go on with
    CannotReplay             a pipe would have to give bytes again that are no longer kept
    SourceUnreadable         a file or URI that cannot be read, or is of a kind that is not; an OSError
    ├── SourceDamaged        it is cut or damaged: the end of its gzip or zstd is not there, or its checksum is wrong
    └── SourceAway           its server is not reached, or was away for as long as was waited: it may work later

`CallFailed.of` is the one place where gRPC's exceptions are read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field of a request: its path in the message, and what is right."""

    field: str
    description: str


class CallFailed(Exception):
    """A call did not succeed.

    `reason` is a name of `dari.v1.ErrorReason` without its prefix, or empty where the failure did not come from dari
    itself but from the way to it. `metadata` holds every variable of the message.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[FieldViolation, ...] = (),
    ) -> None:
        super().__init__(f"{code.name}{f' ({reason})' if reason else ''}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = violations

    @classmethod
    def of(cls, error: grpc.RpcError) -> "CallFailed":
        """Read what grpc raised. The google.rpc.Status in its trailers, where there is one, says the most."""
        # Every RpcError that a call raises is a grpc.Call too, which the types cannot say.
        call: Any = error
        code = call.code() or grpc.StatusCode.UNKNOWN
        message = call.details() or ""
        info, bad_request = _details(call)
        return cls(
            code,
            message,
            reason=info.reason,
            metadata=info.metadata,
            violations=tuple(FieldViolation(wrong.field, wrong.description) for wrong in bad_request.field_violations),
        )


class UploadInterrupted(CallFailed):
    """The upload could not be brought to its end within the time given; with the same `upload_id` it can go on."""

    def __init__(self, cause: CallFailed, upload_id: str, committed_offset_bytes: int, tried_for_s: float) -> None:
        super().__init__(
            cause.code,
            f"gave up after {tried_for_s:.0f} s without progress; {committed_offset_bytes:,} bytes of upload "
            f"{upload_id} are safe, and the same upload_id goes on from there. Last failure: {cause.message}",
            reason=cause.reason,
            metadata=cause.metadata,
            violations=cause.violations,
        )
        self.upload_id = upload_id
        self.committed_offset_bytes = committed_offset_bytes


class CannotReplay(Exception):
    """The server asks for bytes that a pipe gave long ago and the replay buffer no longer holds."""

    def __init__(self, wanted_offset_bytes: int, oldest_offset_bytes: int) -> None:
        super().__init__(
            f"The upload must go on from byte {wanted_offset_bytes:,}, but the pipe's bytes are kept only from "
            f"{oldest_offset_bytes:,} on; feed the data again from its beginning under the same upload_id."
        )


class SourceUnreadable(OSError):
    """A source of an upload cannot be read; the message names it."""


class SourceDamaged(SourceUnreadable):
    """A compressed source is not whole."""


class SourceAway(SourceUnreadable):
    """A source's server does not give its bytes now."""


def _details(call: grpc.Call) -> tuple[ErrorInfo, BadRequest]:
    """Both empty where there is no google.rpc.Status, or one that contradicts the call's own status."""
    info, bad_request = ErrorInfo(), BadRequest()
    try:
        status = rpc_status.from_call(call)
    except ValueError:
        return info, bad_request
    for detail in status.details if status is not None else ():
        if not detail.Unpack(info):
            detail.Unpack(bad_request)
    return info, bad_request
