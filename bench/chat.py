"""Measures chat over gRPC: what dari adds to Flowise, what failures cost, and how many streams one server carries.

    python -m bench.chat                                    everything, with 200 streams; some ten minutes
    python -m bench.chat --only added refused               some of it
    python -m bench.chat --only streams --streams 200 500

A fresh server (`dari serve`, embedded PostgreSQL, a temporary folder) answers from a Flowise stand-in
(`bench.chat_flowise`), which is a process of its own and replays what a real Flowise sent. Each way is asked in turn
with its peer:

added       first token through dari, beside httpx straight to the same stand-in
refused     a chain whose first link refuses connections, beside the same chain without that link; then with its
            circuit open
silent      the same with a first link that accepts and never answers; with a stand-by too, where the server has that
streams     so many chats at once, at 30 tokens a second each, beside as many of a bare gRPC server that only counts
recovery    from a Flowise that listens again to the first turn on it, with turns asked all the time
cancelled   from the caller's cancel to the closed connection upstream, and to free threads
steps       where the time of a turn goes, without data and over a large knowledge base

Differences are those of the medians and of the 99th percentiles. The last line on stdout is one JSON object; the lines
before it are for people.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.chat_flowise import CAPTURE
from bench.chat_flowise_process import FlowiseProcess
from bench.chat_steps import WARM_UP_TURNS, turn_steps
from bench.chat_streams import many_streams
from bench.chat_turns import added, cancelled, make_chat, make_flowise, recovery, refused, silent
from bench.ingest import machine, running_server
from bench.known_items import write_korean_orders
from bench.search import make_knowledge_base
from dari.client import Client
from dari.settings import Settings
from dari.v1.ingest_pb2 import UPLOAD_MODE_REPLACE
from dari.v1.mapping_pb2 import GrantKnowledgeBaseRequest, LinkKnowledgeBaseRequest

Measure = Callable[[], dict[str, Any]]


def measures(options: argparse.Namespace, flowise: FlowiseProcess) -> Iterator[tuple[str, Measure]]:
    """What can be asked for, by name; each measure has a server of its own."""
    rounds = options.rounds
    yield "added", lambda: _on_server(lambda bench: added(bench, flowise, rounds))
    yield "refused", lambda: _on_server(lambda bench: refused(bench, flowise, rounds))
    yield "silent", lambda: _on_server(lambda bench: silent(bench, flowise, max(10, rounds // 10)))
    yield "recovery", lambda: _on_server(lambda bench: recovery(bench, flowise, 5, Settings().probe_interval_s))
    yield "cancelled", lambda: cancelled(flowise, 20)
    yield "steps", lambda: _steps(flowise, options.rows, options.questions)
    yield (
        "streams",
        lambda: {
            str(count): many_streams(flowise, count, options.seconds, options.stream_rounds)
            for count in options.streams
        },
    )


def _on_server(measure: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    with running_server() as bench:
        return measure(bench)


def _steps(flowise: FlowiseProcess, rows: int, questions: int) -> dict[str, Any]:
    """The steps of the same questions without data, and over a knowledge base that can answer them."""
    with tempfile.TemporaryDirectory(prefix="dari-bench-") as folder, running_server() as bench:
        path = Path(folder) / "orders.csv"
        items = write_korean_orders(path, rows, questions + WARM_UP_TURNS)
        ai_model = make_flowise(bench.client, flowise.url(tokens=6, gap_ms=0))
        chat = make_chat(bench.client, ai_model)
        without = turn_steps(bench, chat, items)
        _fill(bench.client, path, chat, ai_model)
        return {
            "rows": rows,
            "bytes": path.stat().st_size,
            "without_data": without,
            "over_rows": turn_steps(bench, chat, items),
        }


def _fill(client: Client, path: Path, chat: str, ai_model: str) -> None:
    """Upload the rows, and let the chat and its model see them."""
    base = make_knowledge_base(client)
    client.ingest(path, base, UPLOAD_MODE_REPLACE)
    client.mapping.LinkKnowledgeBase(LinkKnowledgeBaseRequest(chat_configuration=chat, knowledge_base=base))
    client.mapping.GrantKnowledgeBase(GrantKnowledgeBaseRequest(ai_model=ai_model, knowledge_base=base))


def report(name: str, result: dict[str, Any], indent: str = "") -> None:
    """The lines for people: a name a line, and what belongs under it indented."""
    print(f"{indent}{name}")
    for key, value in result.items():
        if isinstance(value, dict) and any(isinstance(each, dict | list) for each in value.values()):
            report(key, value, indent + "  ")
        elif isinstance(value, list):
            for number, run in enumerate(value, start=1):
                print(f"{indent}  {key} {number}: {_line(run)}")
        else:
            print(f"{indent}  {key}: {_line(value) if isinstance(value, dict) else value}")


def _line(values: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value}" for name, value in values.items())


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Measure chat beside Flowise itself and a bare gRPC server.")
    parser.add_argument("--only", nargs="+", default=[], help="measures by name; default: all")
    parser.add_argument("--rounds", type=int, default=300, help="turns of each way")
    parser.add_argument("--streams", type=int, nargs="+", default=[200], help="at once")
    parser.add_argument("--seconds", type=int, default=15, help="length of each stream")
    parser.add_argument("--stream-rounds", type=int, default=3, help="runs of each way with many streams")
    parser.add_argument("--rows", type=int, default=300_000, help="of the knowledge base")
    parser.add_argument("--questions", type=int, default=120, help="asked of it")
    options = parser.parse_args()

    results: dict[str, Any] = {"machine": machine(), "stand_in_bytes": CAPTURE.stat().st_size}
    with FlowiseProcess() as flowise:
        for name, measure in measures(options, flowise):
            if not options.only or name in options.only:
                results[name] = measure()
                report(name, results[name])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
