"""The program `dari` with one handler that never ends: GetAiModel, whatever becomes of its call.

    python stuck_dari.py serve

As one does that waits in a system call which nobody can end. Everything else is the product's.
"""

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import grpc

import dari.rpc.mapping
from dari.cli import main
from dari.v1 import mapping_pb2


class StuckMappingService(dari.rpc.mapping.MappingService):
    """Answers all but GetAiModel."""

    def GetAiModel(
        self, request: mapping_pb2.GetAiModelRequest, context: grpc.ServicerContext
    ) -> mapping_pb2.GetAiModelResponse:
        """Never returns."""
        threading.Event().wait()
        raise AssertionError


if __name__ == "__main__":
    # The server, which is imported by the command, finds this one in its place.
    dari.rpc.mapping.MappingService = StuckMappingService  # type: ignore[misc]
    main()
