"""What a call tells of its caller: who they are, when they leave, how long they wait, in which language they read."""

from collections.abc import Callable
from typing import Any

import grpc

from dari.core.callers import Caller
from dari.core.errors import Cancelled
from dari.core.language import Language
from dari.rpc.languages import preferred_language

_LONGEST_CALL_S = 24 * 60 * 60.0


class CallContext:
    """gRPC's context of a call, and its caller: what the gate (`rpc.authentication`) hands to every handler."""

    def __init__(self, context: grpc.ServicerContext, caller: Caller) -> None:
        self._context = context
        self.caller = caller

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def tenant_of(context: grpc.ServicerContext) -> str:
    """Whose resources the call is about. There is no default: a handler that no gate stands before fails here."""
    if not isinstance(context, CallContext):
        raise TypeError("This call has passed no gate.")
    return context.caller.tenant


def name_of(context: grpc.ServicerContext) -> str:
    """Who calls, in their tenant."""
    if not isinstance(context, CallContext):
        raise TypeError("This call has passed no gate.")
    return context.caller.name


def call_when_left(context: grpc.ServicerContext, leave: Callable[[], None]) -> None:
    """Have `leave` called, on a thread of gRPC's, when the call is over. Raises Cancelled where it is already."""
    if not context.add_callback(leave):
        raise Cancelled("The caller went away.")


def timeout_s(context: grpc.ServicerContext) -> float | None:
    """The caller's deadline from now. Without one gRPC tells a time beyond any calendar."""
    remaining_s = context.time_remaining()
    return None if remaining_s is None or remaining_s > _LONGEST_CALL_S else remaining_s


def language(context: grpc.ServicerContext) -> Language | None:
    """The caller's, by the `accept-language` metadata; None where they name none that is known."""
    named = [str(value) for key, value in context.invocation_metadata() if key == "accept-language"]
    return preferred_language(",".join(named))
