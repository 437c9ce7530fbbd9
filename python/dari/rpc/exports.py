"""ExportRows and ExportRejectedRows on the wire: CSV in messages, to callers who read them."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from dari.core.exports import Exports
from dari.core.watchdog import Watchdog
from dari.rpc import names
from dari.rpc.profiles import version_number
from dari.v1 import ingest_pb2 as pb

Message = TypeVar("Message")


class ExportCalls:
    """Message in, stream of messages out; see ingest.proto.

    A caller who takes no message for `stall_timeout_s` is cut off: gRPC would keep the thread for it without an end.
    """

    def __init__(self, *, exports: Exports, watchdog: Watchdog, stall_timeout_s: float) -> None:
        self._exports = exports
        self._watchdog = watchdog
        self._stall_timeout_s = stall_timeout_s

    def rows(
        self, tenant: str, request: pb.ExportRowsRequest, cancel: Callable[[], object]
    ) -> Iterator[pb.ExportRowsResponse]:
        """See ExportRows in ingest.proto. `cancel` ends the call, from any thread."""
        base = names.resource_id("knowledge_base", request.knowledge_base, "knowledgeBases")
        number = version_number(request.version)
        pieces = self._exports.rows(tenant, base, number, escape_formulas=request.escape_formulas)
        return self._watched((pb.ExportRowsResponse(data=piece) for piece in pieces), cancel)

    def rejected_rows(
        self, tenant: str, request: pb.ExportRejectedRowsRequest, cancel: Callable[[], object]
    ) -> Iterator[pb.ExportRejectedRowsResponse]:
        """See ExportRejectedRows in ingest.proto. `cancel` ends the call, from any thread."""
        upload = names.upload_id("upload", request.upload)
        pieces = self._exports.rejected_rows(tenant, upload)
        return self._watched((pb.ExportRejectedRowsResponse(data=piece) for piece in pieces), cancel)

    def _watched(self, messages: Iterator[Message], cancel: Callable[[], object]) -> Iterator[Message]:
        """The messages; `cancel` is called where the caller has not taken one in time."""

        def cut_off() -> None:
            cancel()

        alarm = self._watchdog.alarm(cut_off)
        try:
            for message in messages:
                alarm.set(time.monotonic() + self._stall_timeout_s)
                yield message
                alarm.stop()
        finally:
            alarm.stop()
