"""Measures what the mapping costs: ResolveChatConfiguration, a turn's part of it, and how soon a label holds elsewhere.

    python -m bench.mapping
    python -m bench.mapping --calls 300

Two servers (embedded PostgreSQL with its default settings for one, the other a replica over the same database) hold
1,000 chat configurations, 1,000 knowledge bases and 10,000 links. In turns, so that each round sees the same machine,
one client asks: a chat with ten linked knowledge bases and no selector; one that has those ten and, by its selector,
ten more, with a model whose selector grants them; and a bare grpcio server that echoes an answer of the same size.

What a turn pays is `read_chat` and `resolve`, in this process and over the same database. Isolation is row-level
security where the migrations make it: the same read is timed again with it off, in the same rounds of the same run.

A label is effective when ResolveChatConfiguration on the other server tells of it, timed from the return of the update.

The last line on stdout is one JSON object; the table before it is for people.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from bench.ingest import SERVE, WrongResult, check, machine, running_server, session
from dari.adapters.postgres.database import Database
from dari.adapters.postgres.mapping_store import PostgresLinkStore
from dari.client import Client
from dari.core.mapping import resolve
from dari.v1 import mapping_pb2 as wire

RESOURCES = 1_000
LINKS_PER_CHAT = 10
PLAIN, SELECTING = "chatConfigurations/c1", "chatConfigurations/c2"
LABEL_ROUNDS = 20
LABEL_TIMEOUT_S = 10.0

_FILL = f"""
INSERT INTO dari.ai_models (tenant, id, display_name, kind, first_token_timeout_s, stall_timeout_s, total_timeout_s,
    max_answer_tokens, context_tokens, knowledge_base_selector)
SELECT 'default', 'm' || n, 'm', 'LOCAL', 1, 1, 1, 1, 0, CASE n WHEN 1 THEN 'team in (t2, none),!secret' ELSE '' END
FROM generate_series(1, 10) n;
INSERT INTO dari.chat_configurations (tenant, id, display_name, instructions, max_rows, stand_by, stand_by_after_s,
    knowledge_base_selector)
SELECT 'default', 'c' || n, 'c', '', 8, 'OFF', 1,
    CASE WHEN n = 1 THEN '' ELSE 'team=t' || n % 100 || ',env in (prod, test),!secret' END
FROM generate_series(1, {RESOURCES}) n;
INSERT INTO dari.knowledge_bases (tenant, id, display_name, description, labels)
SELECT 'default', 'k' || n, 'k', '', jsonb_build_object('team', 't' || n % 100, 'env', 'prod')
FROM generate_series(1, {RESOURCES}) n;
INSERT INTO dari.ai_model_chat_configurations (tenant, chat_configuration, ai_model, priority)
SELECT 'default', 'c' || n, CASE n WHEN 1 THEN 'm2' ELSE 'm1' END, 0 FROM generate_series(1, {RESOURCES}) n;
INSERT INTO dari.chat_configuration_knowledge_bases (tenant, chat_configuration, knowledge_base)
SELECT 'default', 'c' || c, 'k' || 1 + (c * 7 + n) % {RESOURCES}
FROM generate_series(1, {RESOURCES}) c, generate_series(1, {LINKS_PER_CHAT}) n;
ANALYZE;
"""

_LIFT = """
DO $$
DECLARE isolated regclass;
BEGIN
    FOR isolated IN SELECT oid FROM pg_class WHERE relnamespace = 'dari'::regnamespace AND relkind = 'r' LOOP
        EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', isolated);
    END LOOP;
END $$;
ANALYZE
"""


@contextmanager
def replica(dsn: str) -> Iterator[Client]:
    """Another server over the same database, without a local model."""
    environment = {**os.environ, "DARI_LOCAL_MODEL": "", "DARI_LOG_LEVEL": "error", "DARI_DATABASE_DSN": dsn}
    process = subprocess.Popen(SERVE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        with Client(json.loads(process.stdout.readline())["address"]) as client:
            yield client
    finally:
        process.terminate()
        process.wait()


@contextmanager
def bare_echo(answer: bytes) -> Iterator[Callable[[], bytes]]:
    """A call to a grpcio server that does nothing but give these bytes."""
    handler: Any = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/bare/Echo")
            yield lambda: call(b"")
    finally:
        server.stop(0).wait()


def resolved(client: Client, name: str) -> wire.ResolveChatConfigurationResponse:
    return client.mapping.ResolveChatConfiguration(wire.ResolveChatConfigurationRequest(name=name))


def timed(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each call, one after the other in every round, the first tenth left out."""
    measured: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began_s = time.perf_counter()
            call()
            measured[name].append((time.perf_counter() - began_s) * 1000)
    return {name: percentiles(values[rounds // 10 :]) for name, values in measured.items()}


def percentiles(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100)
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3)}


def label_s(writer: Client, reader: Client, number: int) -> float:
    """Seconds from the answer of an update to the first read elsewhere that knows of it."""
    name = "knowledgeBases/k500"
    base = wire.KnowledgeBase(name=name, labels={"team": "t2" if number % 2 == 0 else "none", "env": "prod"})
    writer.mapping.UpdateKnowledgeBase(wire.UpdateKnowledgeBaseRequest(knowledge_base=base))
    began_s = time.perf_counter()
    while (name in names(resolved(reader, SELECTING))) != (number % 2 == 0):
        if time.perf_counter() - began_s > LABEL_TIMEOUT_S:
            raise WrongResult("the other server never knew of the label")
    return time.perf_counter() - began_s


def names(answer: wire.ResolveChatConfigurationResponse) -> set[str]:
    return {base.knowledge_base for base in answer.chain[0].knowledge_bases}


def check_answers(client: Client) -> None:
    """The chat with a selector sees by it what it is not linked to, and the model is granted it."""
    check("linked to the plain chat", len(names(resolved(client, PLAIN))), LINKS_PER_CHAT)
    chosen = [
        base
        for base in resolved(client, SELECTING).chain[0].knowledge_bases
        if base.link_origin == base.grant_origin == wire.LINK_ORIGIN_SELECTOR
    ]
    check("chosen and granted by selectors", len(chosen), RESOURCES // 100)


def report(result: dict[str, Any]) -> None:
    """The table for people."""
    for name, values in {**result["calls_ms"], **result["turn_ms"]}.items():
        print(f"{name:44} p50 {values['p50']:7.3f} ms   p99 {values['p99']:7.3f} ms")
    print(f"{'a label holds on the other server within':44} {result['label_s']['max'] * 1000:11.1f} ms at most")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Measure what the mapping costs.")
    parser.add_argument("--calls", type=int, default=1_000)
    options = parser.parse_args()
    facts = machine()
    with running_server() as bench:
        with session(bench.dsn) as run:
            run(_FILL)
        service_dsn = bench.dsn.replace("user=postgres", "user=dari_service")
        check_answers(bench.client)
        answer = resolved(bench.client, SELECTING).SerializeToString()
        with bare_echo(answer) as echo:
            calls_ms = timed(
                {
                    "ResolveChatConfiguration, links only": lambda: resolved(bench.client, PLAIN),
                    "ResolveChatConfiguration, selectors too": lambda: resolved(bench.client, SELECTING),
                    "bare grpcio, the same bytes": echo,
                },
                options.calls,
            )
        turn_ms = turn(bench.dsn, service_dsn, options.calls)
        with replica(service_dsn) as other:
            labels_s = [label_s(bench.client, other, number) for number in range(LABEL_ROUNDS)]
    result = {
        "machine": facts,
        "calls": options.calls,
        "calls_ms": calls_ms,
        "turn_ms": turn_ms,
        "label_s": {"median": round(statistics.median(labels_s), 4), "max": round(max(labels_s), 4)},
    }
    report(result)
    print(json.dumps(result))


def turn(dsn: str, service_dsn: str, rounds: int) -> dict[str, dict[str, float]]:
    """A turn's look at the mapping as it is, and in a copy of the database without row-level security."""
    with copied_without_isolation(dsn) as copy:
        pools = [
            Database(one, max_connections=2, wait_timeout_s=10, statement_timeout_s=10)
            for one in (service_dsn, service_dsn.replace("dbname=dari", f"dbname={copy}"))
        ]
        kept, lifted = (PostgresLinkStore(pool) for pool in pools)
        try:
            return timed(
                {
                    "a turn's mapping": lambda: resolve(kept.read_chat("default", "c2")),
                    "a turn's mapping, links only": lambda: resolve(kept.read_chat("default", "c1")),
                    "a turn's mapping, isolation off": lambda: resolve(lifted.read_chat("default", "c2")),
                },
                rounds,
            )
        finally:
            for pool in pools:
                pool.close()


@contextmanager
def copied_without_isolation(dsn: str) -> Iterator[str]:
    """The name of a database like this one in which no table has row-level security; dropped at the end."""
    name = "dari_without_isolation"
    # Whoever is connected keeps PostgreSQL from copying; the server's pool connects again by itself.
    elsewhere = dsn.replace("dbname=dari", "dbname=postgres")
    with session(elsewhere) as run:
        run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'dari'")
        run(f"CREATE DATABASE {name} TEMPLATE dari OWNER dari_owner")
        try:
            with session(dsn.replace("dbname=dari", f"dbname={name}")) as run_there:
                run_there(_LIFT)
            yield name
        finally:
            run(f"DROP DATABASE {name} WITH (FORCE)")


if __name__ == "__main__":
    main()
