"""Measures unary calls a second beside a bare grpcio server that gives the same bytes, in the same run.

    python -m bench.unary
    python -m bench.unary --rounds 9 --seconds 5

dari runs as an operator has it: durable PostgreSQL, callers by token, roles, audit, logs, limits, mapping, everything
that its settings switch on by default. The methods cost more and more: a health check (its own server), a look at
memory (ListUpstreams), one read of the database (GetKnowledgeBase), two (ResolveChatConfiguration). The peer is told
what dari answers to each, and answers it without a look at anything.

The client is ghz where there is one (`make load-tools`), in Go, so that it takes little of the machine; else Python
processes, and then it says so. Both servers are asked in turn, in every round, for every method, with the same
connections and as many calls under way.

Beside calls a second stand the CPU microseconds a call of the server, of PostgreSQL and of the client: on a machine
with other work they say more, since waiting is not in them.

The last line on stdout is one JSON object; the table before it is for people.
"""

import argparse
import base64
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from bench.ingest import WrongResult, machine, spread
from dari.v1 import chat_pb2, mapping_pb2
from load import ghz
from load.system import CHAT, KNOWLEDGE_BASE, POSTGRES, System, started
from load.usage import cpu_s

METHODS: dict[str, Message] = {
    "grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest(),
    "dari.v1.ChatService/ListUpstreams": chat_pb2.ListUpstreamsRequest(),
    "dari.v1.MappingService/GetKnowledgeBase": mapping_pb2.GetKnowledgeBaseRequest(name=KNOWLEDGE_BASE),
    "dari.v1.MappingService/ResolveChatConfiguration": mapping_pb2.ResolveChatConfigurationRequest(name=CHAT),
}
ASKED_RATIO = 0.6
WARM_UP_S = 0.5
_PYTHON_CLIENTS = 2


@dataclass
class Measured:
    """The rounds of one method on one server."""

    calls_per_s: list[float] = field(default_factory=list)
    server_us: list[float] = field(default_factory=list)
    postgres_us: list[float] = field(default_factory=list)
    client_us: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Server:
    """Where one of the two is, and what it takes CPU time by."""

    pid: int
    addresses: dict[str, str]
    """By method."""
    postgres_pid: int | None
    token: str


@dataclass(frozen=True)
class Load:
    """How hard to ask."""

    seconds: float
    concurrency: int
    connections: int

    def on(self, server: Server, method: str, request: Message, seconds: float) -> ghz.Ran:
        """Ask for so long."""
        program = ghz.find()
        address = server.addresses[method]
        if program is None:
            return _by_python(address, method, request, server.token, seconds, self.concurrency)
        data = json_format.MessageToDict(request, preserving_proto_field_name=True)
        return ghz.run(
            program,
            address,
            method,
            data,
            duration_s=seconds,
            concurrency=self.concurrency,
            connections=self.connections,
            token=server.token,
        )


def measure(load: Load, server: Server, method: str, request: Message, measured: Measured) -> None:
    """One round of one method. Raises WrongResult where a call fails."""
    postgres_pid = server.postgres_pid
    before = cpu_s(server.pid), cpu_s(postgres_pid) if postgres_pid else 0.0
    ran = load.on(server, method, request, load.seconds)
    after = cpu_s(server.pid), cpu_s(postgres_pid) if postgres_pid else 0.0
    if ran.failed or not ran.calls:
        raise WrongResult(f"{method}: {ran.statuses}")
    measured.calls_per_s.append(ran.calls / ran.seconds)
    measured.server_us.append(1e6 * (after[0] - before[0]) / ran.calls)
    measured.postgres_us.append(1e6 * (after[1] - before[1]) / ran.calls)
    measured.client_us.append(1e6 * ran.client_cpu_s / ran.calls)
    measured.p99_ms.append(ran.latencies_ms.get(99, 0.0))


def _by_python(address: str, method: str, request: Message, token: str, seconds: float, concurrency: int) -> ghz.Ran:
    told = json.dumps({"request": base64.b64encode(request.SerializeToString()).decode(), "token": token})
    share = str(max(1, concurrency // _PYTHON_CLIENTS))
    command = [sys.executable, "-m", "bench.unary_client", address, method, str(seconds), share]

    def ask(_: int) -> dict[str, Any]:
        ended = subprocess.run(command, input=told, check=True, capture_output=True, text=True)
        said: dict[str, Any] = json.loads(ended.stdout)
        return said

    with ThreadPoolExecutor(_PYTHON_CLIENTS) as pool:
        said = list(pool.map(ask, range(_PYTHON_CLIENTS)))
    statuses: dict[str, int] = {}
    for one in said:
        for status, count in one["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
    return ghz.Ran(max(one["seconds"] for one in said), statuses, {})


@contextmanager
def bare(answers: dict[str, bytes]) -> Iterator[Server]:
    """The peer, in a process of its own."""
    told = json.dumps({method: base64.b64encode(answer).decode() for method, answer in answers.items()})
    command = [sys.executable, "-m", "bench.bare_unary_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(told)
        process.stdin.close()
        address = f"127.0.0.1:{int(process.stdout.readline())}"
        try:
            # With a token, too: the metadata are of the message's size.
            yield Server(process.pid, dict.fromkeys(answers, address), None, "")
        finally:
            process.terminate()


def answers_of(system: System, server: Server) -> dict[str, bytes]:
    """What dari says, as bytes."""
    said = {}
    for method, request in METHODS.items():
        with grpc.insecure_channel(server.addresses[method]) as channel:
            call: Any = channel.unary_unary(f"/{method}")
            metadata = (("authorization", f"Bearer {system.token}"),)
            said[method] = call(request.SerializeToString(), metadata=metadata, timeout=30)
    return said


def summary(ours: Measured, peer: Measured) -> dict[str, Any]:
    """One method's numbers. A ratio above 1 would mean that dari is faster than the bare server in the same round."""

    def told(one: Measured) -> dict[str, Any]:
        return {
            "calls_per_s": spread(one.calls_per_s),
            "server_us": round(statistics.median(one.server_us)),
            "postgres_us": round(statistics.median(one.postgres_us)),
            "client_us": round(statistics.median(one.client_us)),
            "p99_ms": round(statistics.median(one.p99_ms), 2),
        }

    ratios = [dari / bare for dari, bare in zip(ours.calls_per_s, peer.calls_per_s, strict=True)]
    return {
        "dari": told(ours),
        "bare": told(peer),
        "ratio": spread(ratios),
        "asked": ASKED_RATIO,
        "reached": statistics.median(ratios) >= ASKED_RATIO,
    }


def report(methods: dict[str, dict[str, Any]]) -> None:
    """The table for people."""
    print(f"{'':26}{'calls/s':>22}{'ratio':>24}{'CPU us a call: server, PostgreSQL, client':>46}")
    for method, one in methods.items():
        ratio = one["ratio"]
        for name in ("dari", "bare"):
            told = one[name]
            spent = f"{told['server_us']:>5} {told['postgres_us']:>5} {told['client_us']:>5}"
            label = method.partition("/")[2] if name == "dari" else "  bare grpcio"
            of_bare = f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})" if name == "dari" else ""
            print(f"{label:26}{told['calls_per_s']['median']:>22,.0f}{of_bare:>24}{spent:>46}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Measure unary calls beside bare grpcio.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each method on each server in each round")
    parser.add_argument("--concurrency", type=int, default=16, help="calls under way")
    parser.add_argument("--connections", type=int, default=4)
    options = parser.parse_args()
    facts = machine()
    load = Load(options.seconds, options.concurrency, options.connections)
    with started(replicas=1) as system:
        (replica,) = system.replicas.values()
        addresses = {
            method: replica.admin_address if method.startswith("grpc.health") else replica.address for method in METHODS
        }
        dari = Server(replica.pid, addresses, system.pids()[POSTGRES], system.token)
        with bare(answers_of(system, dari)) as peer_without_token:
            peer = Server(peer_without_token.pid, peer_without_token.addresses, None, system.token)
            results = rounds(load, dari, peer, options.rounds)
    methods = {method: summary(*pair) for method, pair in results.items()}
    report(methods)
    client = "ghz" if ghz.find() else "Python"
    if client == "Python":
        print(
            "The client was Python, for want of ghz: it takes more of the machine than the server. See make load-tools."
        )
    print(json.dumps({"machine": facts, "client": client, **vars(options), "methods": methods}))


def rounds(load: Load, dari: Server, peer: Server, count: int) -> dict[str, tuple[Measured, Measured]]:
    """All rounds, each server first in every other one."""
    measured = {method: (Measured(), Measured()) for method in METHODS}
    for method, request in METHODS.items():
        for server in (dari, peer):
            load.on(server, method, request, WARM_UP_S)
    for number in range(count):
        for method, request in METHODS.items():
            steps = list(zip((dari, peer), measured[method], strict=True))
            for server, into in steps if number % 2 == 0 else reversed(steps):
                measure(load, server, method, request, into)
    return measured


if __name__ == "__main__":
    main()
