"""The edge: every exception of every handler becomes a `google.rpc.Status`, here and nowhere else.

A `DariError` tells its reason, metadata and message. Anything else, a Rust panic too, is a defect: the caller gets
INTERNAL with an id, under which the log has the type of the exception and where it was raised, but not its text, which
may hold values.
"""

import math
import uuid
from collections.abc import Iterator
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from dari.core import errors
from dari.core.event_context import note
from dari.core.event_log import EventLog, failure_fields
from dari.rpc.rewrapping import Behaviour, RewrappingInterceptor

DOMAIN = "dari"
_DETAILS_KEY = "grpc-status-details-bin"
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_LONGEST_PUSHBACK_S = 60.0
"""A client with a retry policy sits out what the trailer tells, and its caller waits meanwhile."""
_NO_RETRY = "-1"
"""What tells such a client to give up: https://github.com/grpc/proposal/blob/master/A6-client-retries.md"""

# The nearest class of an error's MRO that stands here gives the status.
STATUS_OF: dict[type[errors.DariError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.OffsetGap: grpc.StatusCode.OUT_OF_RANGE,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}


class ErrorInterceptor(RewrappingInterceptor):
    """Maps the exceptions of every handler of a server."""

    def __init__(self, log: EventLog) -> None:
        super().__init__()
        self._log = log

    def around_unary(self, method: str, behaviour: Behaviour) -> Behaviour:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                return behaviour(request, context)
            except BaseException as error:  # noqa: BLE001 - a Rust panic is one, and a caller must get a status
                failure = self._reported(method, error)
            _abort(context, failure)

        return call

    def around_streaming(self, method: str, behaviour: Behaviour) -> Behaviour:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                yield from behaviour(request, context)
                return
            except GeneratorExit:
                raise  # The caller left; there is nobody to tell.
            except BaseException as error:
                if isinstance(error, grpc.RpcError) and not context.is_active():
                    raise  # So gRPC ends the requests of a caller who left; it knows its own exception again.
                failure = self._reported(method, error)
            _abort(context, failure)

        return call

    def _reported(self, name: str, error: BaseException) -> errors.DariError:
        if isinstance(error, errors.DariError) and not isinstance(error, errors.InternalError):
            return error
        error_id = str(uuid.uuid4())
        origin: BaseException = error
        while origin.__cause__ is not None:
            origin = origin.__cause__
        self._log.error(
            "internal_error",
            rpc=name,
            error_id=error_id,
            sqlstate=getattr(origin, "pgcode", None),
            **failure_fields(type(origin), origin.__traceback__),
        )
        return errors.InternalError(
            "An internal error occurred; its id finds it in the server's log.", {"error_id": error_id}
        )


def status_code(error: errors.DariError) -> grpc.StatusCode:
    """The gRPC status of an error."""
    return next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)


def to_status(error: errors.DariError) -> status_pb2.Status:
    """The error as `google.rpc.Status` with its details."""
    details = [_packed(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))]
    if isinstance(error, errors.InvalidArgument) and error.violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=violation.field, description=violation.description)
            for violation in error.violations
        ]
        details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
    if error.retry_delay_s is not None:
        delay = Duration()
        delay.FromMilliseconds(_retry_delay_ms(error.retry_delay_s))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    number = code_pb2.Code.Value(status_code(error).name)
    return status_pb2.Status(code=number, message=error.message, details=details)


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def trailers_of(error: errors.DariError) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata that tell a client all of the error, and when to come again."""
    details = (_DETAILS_KEY, to_status(error).SerializeToString())
    if error.retry_delay_s is None:
        return (details,)
    is_soon = error.retry_delay_s <= _LONGEST_PUSHBACK_S
    return (details, (_PUSHBACK_KEY, str(_retry_delay_ms(error.retry_delay_s)) if is_soon else _NO_RETRY))


def _retry_delay_ms(retry_delay_s: float) -> int:
    return math.ceil(retry_delay_s * 1_000)


def _abort(context: grpc.ServicerContext, error: errors.DariError) -> NoReturn:
    note(reason=error.reason)
    context.set_trailing_metadata((*(context.trailing_metadata() or ()), *trailers_of(error)))
    context.abort(status_code(error), error.message)
