"""What a call tells of its caller: when they leave, how long they wait, in which language they read."""

from collections.abc import Callable

import grpc

from dari.core.errors import Cancelled
from dari.core.language import Language
from dari.rpc.languages import preferred_language

_LONGEST_CALL_S = 24 * 60 * 60.0


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
