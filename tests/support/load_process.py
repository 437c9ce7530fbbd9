"""Load in a process of its own: calls that begin at a rate, whether or not those before have ended.

    python load_process.py PLAN        (as JSON; see Plan)

Prints a line when it is ready, begins when it reads one, and prints what came of it as JSON. A driver that waits for
answers slows down with the server that it is to overload, and would see nothing of what callers see.
"""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parents[2]))

import grpc

from dari.v1 import chat_pb2, chat_pb2_grpc, mapping_pb2, mapping_pb2_grpc

_STEP_S = 0.005
_CONNECTIONS = 4
_EXPECTED = (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED)
"""Of all others the words are shown."""


@dataclass(frozen=True)
class Plan:
    """What to ask, how often, for how long."""

    address: str
    chat: str
    """Chat configuration to ask; empty asks for the list of AI models instead."""
    calls_per_s: float
    duration_s: float
    timeout_s: float


@dataclass
class Seen:
    """What came of the calls."""

    statuses: dict[str, int] = field(default_factory=dict)
    latencies_s: dict[str, list[float]] = field(default_factory=dict)
    """Of each status, sorted."""
    begun: int = 0
    duration_s: float = 0.0
    """From the first call to the last answer."""

    @property
    def answered_per_s(self) -> float:
        """Goodput."""
        return self.statuses.get("OK", 0) / self.duration_s

    @property
    def answered_share(self) -> float:
        """Of the calls that were begun."""
        return self.statuses.get("OK", 0) / self.begun

    def latency_s(self, status: str, share: float) -> float:
        """So many of the calls with this status were answered within."""
        latencies = self.latencies_s[status]
        return latencies[min(len(latencies) - 1, int(share * len(latencies)))]


class LoadProcess:
    """A driver that is ready. Use in a `with` statement."""

    def __init__(self, plan: Plan) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(asdict(plan))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        self._read()
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()

    def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def seen(self) -> Seen:
        """When it has ended."""
        return Seen(**json.loads(self._read()))

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the driver failed; its reason stands in the captured output"
        return line


class _Driver:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._channels = [grpc.insecure_channel(plan.address, options) for _ in range(_CONNECTIONS)]
        for channel in self._channels:
            grpc.channel_ready_future(channel).result(plan.timeout_s)
        self._stubs = [self._stub(channel) for channel in self._channels]
        self._lock = threading.Condition()  # guards the two below
        self._outcomes: list[tuple[str, float]] = []
        self._under_way = 0

    def _stub(self, channel: grpc.Channel) -> tuple[Any, Any]:
        """A method, and what it is asked."""
        if self._plan.chat:
            asked = chat_pb2.AskRequest(chat_configuration=f"chatConfigurations/{self._plan.chat}", question="why?")
            return chat_pb2_grpc.ChatServiceStub(channel).Ask, asked
        return mapping_pb2_grpc.MappingServiceStub(channel).ListAiModels, mapping_pb2.ListAiModelsRequest()

    def drive(self) -> Seen:
        plan, begun = self._plan, 0
        start_s = time.monotonic()
        while (elapsed_s := time.monotonic() - start_s) < plan.duration_s:
            for number in range(begun, int(elapsed_s * plan.calls_per_s)):
                self._begin(number)
                begun = number + 1
            time.sleep(_STEP_S)
        with self._lock:
            assert self._lock.wait_for(lambda: self._under_way == 0, 2 * plan.timeout_s)
            latencies: dict[str, list[float]] = {}
            for status, latency_s in self._outcomes:
                latencies.setdefault(status, []).append(latency_s)
            return Seen(
                dict(Counter(status for status, _ in self._outcomes)),
                {status: sorted(found) for status, found in latencies.items()},
                begun,
                time.monotonic() - start_s,
            )

    def _begin(self, number: int) -> None:
        method, request = self._stubs[number % len(self._stubs)]
        with self._lock:
            self._under_way += 1
        begun_s = time.monotonic()
        method.future(request, timeout=self._plan.timeout_s).add_done_callback(lambda call: self._end(call, begun_s))

    def _end(self, call: Any, begun_s: float) -> None:
        latency_s = time.monotonic() - begun_s
        if call.code() not in _EXPECTED:
            print(f"after {latency_s:.3f} s: {call.debug_error_string()}", file=sys.stderr, flush=True)
        with self._lock:
            self._outcomes.append((call.code().name, latency_s))
            self._under_way -= 1
            self._lock.notify_all()


if __name__ == "__main__":
    driver = _Driver(Plan(**json.loads(sys.argv[1])))
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asdict(driver.drive())), flush=True)
