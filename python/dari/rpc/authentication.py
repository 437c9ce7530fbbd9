"""The gate before every handler: who calls, whether they may, and the record of it.

It runs on the handler's own thread. gRPC's interceptors all share one thread that serves every call: here it only puts
the gate around the handler, and checks nothing.
"""

import re
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import grpc
from google.protobuf.message import Message

from dari.core.audit import AuditedCall, AuditTrail, Outcome
from dari.core.caller_limits import CallerLimits
from dari.core.callers import Authenticator, Caller, Presented
from dari.core.errors import DariError, NotFound, PermissionDenied, Unauthenticated
from dari.core.event_context import event_fields, note
from dari.rpc.callers import CallContext
from dari.rpc.errors import status_code
from dari.rpc.least_roles import rule_of
from dari.rpc.rewrapping import Behaviour, RewrappingInterceptor

_SCHEME = "bearer "
_RESOURCE_NAME = re.compile(r"[A-Za-z]{1,32}/[A-Za-z0-9._-]{1,128}")
_NAMING_FIELDS = (
    "name",
    "ai_model",
    "chat_configuration",
    "knowledge_base",
    "knowledge_bases",
    "upload",
    "conversation",
)
_ID_FIELDS = {
    "ai_model_id": "aiModels",
    "chat_configuration_id": "chatConfigurations",
    "knowledge_base_id": "knowledgeBases",
    "upload_id": "uploads",
}
_CERTIFICATE_NAMES = ("x509_subject_alternative_name", "x509_common_name")
"""Of gRPC's authentication context, in the order in which they are tried; there only behind a verified handshake."""


class CallerInterceptor(RewrappingInterceptor):
    """Stands before every handler of a server.

    Inside an ErrorInterceptor, which makes statuses of what it raises, and inside the interceptor that gives the call
    its id.
    """

    def __init__(self, authenticator: Authenticator, trail: AuditTrail, limits: CallerLimits) -> None:
        super().__init__()
        self._authenticator = authenticator
        self._trail = trail
        self._limits = limits

    def around_unary(self, method: str, behaviour: Behaviour) -> Behaviour:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            with self._passed(method, names := _NamesOf(request), context) as known:
                return behaviour(names.request, known)

        return call

    def around_streaming(self, method: str, behaviour: Behaviour) -> Behaviour:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._passed(method, names := _NamesOf(request), context) as known:
                answers = behaviour(names.request, known)
                yield from self._while_known(answers, known) if rule_of(method).is_watch else answers

        return call

    def _while_known(self, answers: Generator[Any], known: CallContext) -> Iterator[Any]:
        """The answers, each only as long as the caller is still who they were. Raises Unauthenticated."""
        with closing(answers):
            for answer in answers:
                if self._authenticator.authenticate(_presented(known)) != known.caller:
                    raise Unauthenticated.of("caller_changed")
                yield answer

    @contextmanager
    def _passed(self, method: str, names: "_NamesOf", context: grpc.ServicerContext) -> Iterator[CallContext]:
        """A context that knows its caller, for those who may pass; what becomes of the call is recorded."""
        rule = rule_of(method)
        record = _Record(self._trail, event_fields()["request_id"], method, context, names)
        try:
            caller = self._authenticator.authenticate(_presented(context))
            record.caller_is(caller)
            note(caller=caller.name, tenant=caller.tenant)
            with self._limits.call_of(caller):
                if caller.role < rule.role:
                    raise PermissionDenied.of(rule.role.label, caller.role.label)
                if rule.is_change:
                    record.change_begins()
                yield CallContext(context, caller)
        except BaseException as error:
            record.ended_by(error)
            raise
        record.ended()


class _Record:
    """What the trail keeps of one call, put together when there is something to keep. Used by one thread."""

    def __init__(
        self, trail: AuditTrail, request_id: str, method: str, context: grpc.ServicerContext, names: "_NamesOf"
    ) -> None:
        self._trail = trail
        self._request_id = request_id
        self._method = method
        self._context = context
        self._names = names
        self._call: AuditedCall | None = None
        self._caller: Caller | None = None
        self._is_change = False

    def caller_is(self, caller: Caller) -> None:
        self._caller = caller

    def change_begins(self) -> None:
        """Raises Unavailable where it cannot be recorded."""
        self._trail.change_begins(self._named())
        self._is_change = True

    def ended(self) -> None:
        if self._is_change:
            self._trail.change_ended(self._named(), Outcome("OK"))

    def ended_by(self, error: BaseException) -> None:
        if self._is_change:
            self._trail.change_ended(self._named(), _outcome(error))
        elif isinstance(error, Unauthenticated | PermissionDenied | NotFound):
            self._trail.refused(self._named(), _outcome(error))

    def _named(self) -> AuditedCall:
        if self._call is None:
            self._call = AuditedCall(self._request_id, self._method[1:], self._context.peer(), self._caller)
        return replace(self._call, resources=self._names.names())


class _NamesOf:
    """A request, and the resource names in it: of a stream, those in its first message, once that has come."""

    def __init__(self, request: Any) -> None:
        is_message = isinstance(request, Message)
        self._unary: Message | None = request if is_message else None
        self._of_first: tuple[str, ...] = ()
        self.request = request if is_message else self._noting_first(request)

    def names(self) -> tuple[str, ...]:
        """As far as they are known."""
        return self._of_first if self._unary is None else tuple(resource_names(self._unary))

    def _noting_first(self, messages: Iterator[Any]) -> Iterator[Any]:
        for message in messages:
            self._of_first = tuple(resource_names(message))
            yield message
            break
        yield from messages


def resource_names(message: Message) -> Iterator[str]:
    """Every name in the fields that hold one. What has not the form of a name may be content, and is left out."""
    for field, value in message.ListFields():
        if field.name in _ID_FIELDS:
            yield from _if_name(f"{_ID_FIELDS[field.name]}/{value}")
        elif field.name in _NAMING_FIELDS:
            for each in value if field.is_repeated else (value,):
                yield from _if_name(getattr(each, "name", each))
        elif field.name == "open":
            yield from resource_names(value)


def _if_name(text: object) -> Iterator[str]:
    if isinstance(text, str) and _RESOURCE_NAME.fullmatch(text):
        yield text


def _presented(context: grpc.ServicerContext | CallContext) -> Presented:
    """Raises Unauthenticated where the metadata hold no bearer token in the one form that there is (RFC 6750)."""
    given = [value for key, value in context.invocation_metadata() if key == "authorization"]
    if not given:
        return Presented(None, tuple(_certificate_names(context)))
    value = given[0]
    if len(given) > 1 or not isinstance(value, str) or not value[: len(_SCHEME)].lower() == _SCHEME:
        raise Unauthenticated.of("authorization_malformed")
    token = value[len(_SCHEME) :].strip()
    if not token:
        raise Unauthenticated.of("authorization_malformed")
    return Presented(token, tuple(_certificate_names(context)))


def _certificate_names(context: grpc.ServicerContext | CallContext) -> Iterator[str]:
    told: Any = context.auth_context()  # A list of bytes by each key, which the types tell as bytes.
    return (name.decode(errors="replace") for key in _CERTIFICATE_NAMES for name in told.get(key, ()))


def _outcome(error: BaseException) -> Outcome:
    if isinstance(error, DariError):
        return Outcome(status_code(error).name, error.reason, error.metadata.get("code", ""))
    return Outcome("CANCELLED" if isinstance(error, GeneratorExit) else "INTERNAL")
