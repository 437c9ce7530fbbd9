"""Measures what row-level security costs: the same calls over two copies of one database, one of them without it.

    python -m bench.isolation                              a hundred thousand rows, five hundred tenants
    python -m bench.isolation --rows 1000000 --tenants 2000

A fresh embedded PostgreSQL gets a mapping for each tenant and one knowledge base with rows. The database is copied, and
in the copy row-level security is turned off for every table. Then the calls take turns over the two: `search` is
RowReader.candidates for a question, `resolve` is LinkStore.read_chat with `resolve`, `find` is one ResourceStore.get.
What is told is the median of the differences and of the quotients of neighbouring calls, with their quartiles.

The last line on stdout is one JSON object; the table before it is for people.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import psycopg2

from bench.ingest import machine
from bench.known_items import write_korean_orders
from dari.adapters.native import NativeLexer, NativePostings
from dari.adapters.postgres.database import Database
from dari.adapters.postgres.embedded import EmbeddedPostgres
from dari.adapters.postgres.mapping_store import KnowledgeBaseStore, PostgresLinkStore
from dari.adapters.postgres.migrate import create_database, migrate
from dari.adapters.postgres.row_reader import PostgresRowReader
from dari.client import Client
from dari.core.mapping import resolve
from dari.core.ranking import Question
from dari.core.search import MAX_BLOCKS
from dari.server import Server
from dari.settings import load_settings
from dari.v1.ingest_pb2 import UPLOAD_MODE_REPLACE

FILLED, OPEN = "filled", "open"
"""The database as dari makes it, and its copy without row-level security."""
TENANT = "t7"
_WARM_UP = 20
_QUESTIONS = 50

_MAPPING = """
CREATE TEMP TABLE tenants AS SELECT 't' || n AS tenant FROM generate_series(1, %(tenants)s) n;
CREATE TEMP TABLE numbers AS SELECT n FROM generate_series(1, 20) n;
INSERT INTO dari.knowledge_bases (tenant, id, display_name, description)
    SELECT tenant, 'kb' || n, '', '' FROM tenants, numbers;
INSERT INTO dari.ai_models (tenant, id, display_name, kind, first_token_timeout_s, stall_timeout_s, total_timeout_s,
        max_answer_tokens)
    SELECT tenant, 'm' || n, '', 'LOCAL', 1, 1, 1, 64 FROM tenants, numbers;
INSERT INTO dari.chat_configurations (tenant, id, display_name, instructions, max_rows, stand_by, stand_by_after_s)
    SELECT tenant, 'c' || n, '', '', 5, 'OFF', 1 FROM tenants, numbers;
INSERT INTO dari.ai_model_chat_configurations (tenant, chat_configuration, ai_model, priority)
    SELECT tenant, 'c' || c.n, 'm' || m.n, m.n FROM tenants, numbers c, numbers m WHERE m.n <= 4;
INSERT INTO dari.chat_configuration_knowledge_bases (tenant, chat_configuration, knowledge_base)
    SELECT tenant, 'c' || c.n, 'kb' || k.n FROM tenants, numbers c, numbers k WHERE k.n <= 10;
INSERT INTO dari.ai_model_knowledge_bases (tenant, ai_model, knowledge_base)
    SELECT tenant, 'm' || m.n, 'kb' || k.n FROM tenants, numbers m, numbers k WHERE k.n <= 10;
"""
_TURN_OFF = """
DO $$
DECLARE secured regclass;
BEGIN
    FOR secured IN SELECT oid FROM pg_class WHERE relrowsecurity LOOP
        EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', secured);
    END LOOP;
END
$$
"""


def execute(dsn: str, statement: str, **values: object) -> None:
    """Statements by a superuser, each committed where it must stand alone."""
    with closing(psycopg2.connect(dsn)) as session, session.cursor() as cursor:
        session.autocommit = True
        cursor.execute(statement, values or None)


def fill(postgres: EmbeddedPostgres, folder: Path, rows: int, tenants: int) -> list[str]:
    """Make both databases; returns questions to which rows of `kb1` are the answer."""
    create_database(postgres.admin_dsn, FILLED)
    migrate(postgres.admin_dsn, FILLED, "dari_service")
    filled = f"{postgres.admin_dsn} dbname={FILLED}"
    execute(filled, _MAPPING, tenants=tenants)
    path = folder / "rows.csv"
    items = write_korean_orders(path, rows, _QUESTIONS)
    settings = load_settings(
        listen_address="127.0.0.1:0",
        admin_address="127.0.0.1:0",
        metrics_address="",
        data_dir=folder,
        database_dsn=postgres.service_dsn(FILLED),
        local_model=None,
        tenant=TENANT,
        log_level="error",
    )
    with Server(settings) as server, Client(server.address) as client:
        client.ingest(path, "knowledgeBases/kb1", UPLOAD_MODE_REPLACE)
    execute(filled, "VACUUM ANALYZE")
    execute(postgres.admin_dsn, f"CREATE DATABASE {OPEN} TEMPLATE {FILLED} OWNER dari_owner")
    execute(f"{postgres.admin_dsn} dbname={OPEN}", _TURN_OFF)
    execute(f"{postgres.admin_dsn} dbname={OPEN}", "VACUUM ANALYZE")
    return [item.question for item in items]


def calls(database: Database, questions: Sequence[str]) -> dict[str, Callable[[int], object]]:
    """What is measured, by name; each takes the number of the call."""
    rows, links, bases = (
        PostgresRowReader(database, NativePostings()),
        PostgresLinkStore(database),
        KnowledgeBaseStore(database),
    )
    lexemes = [Question.of(question, NativeLexer()).lexemes for question in questions]
    return {
        "search": lambda number: rows.candidates(TENANT, ["kb1"], lexemes[number % len(lexemes)], 5, MAX_BLOCKS),
        "resolve": lambda number: resolve(links.read_chat(TENANT, f"c{number % 20 + 1}")),
        "find": lambda number: bases.get(TENANT, f"kb{number % 20 + 1}"),
    }


def timed(call: Callable[[int], object], number: int) -> float:
    """Seconds."""
    began_s = time.perf_counter()
    call(number)
    return time.perf_counter() - began_s


def compare(secured: Callable[[int], object], open_: Callable[[int], object], repetitions: int) -> dict[str, float]:
    """Call both in turn, the first one first every other time."""
    for number in range(_WARM_UP):
        secured(number)
        open_(number)
    pairs: list[tuple[float, float]] = []
    for number in range(repetitions):
        if number % 2:
            pairs.append((timed(secured, number), timed(open_, number)))
        else:
            without_s = timed(open_, number)
            pairs.append((timed(secured, number), without_s))
    quotients = statistics.quantiles([secured_s / open_s for secured_s, open_s in pairs], n=4)
    return {
        "with_ms": 1e3 * statistics.median(secured_s for secured_s, _ in pairs),
        "without_ms": 1e3 * statistics.median(open_s for _, open_s in pairs),
        "difference_ms": 1e3 * statistics.median(secured_s - open_s for secured_s, open_s in pairs),
        "ratio_q1": quotients[0],
        "ratio": quotients[1],
        "ratio_q3": quotients[2],
    }


def measure(postgres: EmbeddedPostgres, questions: Sequence[str], repetitions: int) -> dict[str, dict[str, float]]:
    """All calls, by name."""

    def pool(database: str) -> Database:
        dsn = postgres.service_dsn(database)
        return Database(dsn, max_connections=1, wait_timeout_s=5, statement_timeout_s=30)

    with closing(pool(FILLED)) as secured, closing(pool(OPEN)) as open_:
        ours, others = calls(secured, questions), calls(open_, questions)
        return {name: compare(call, others[name], repetitions) for name, call in ours.items()}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--tenants", type=int, default=500)
    parser.add_argument("--repetitions", type=int, default=400)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dari-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with EmbeddedPostgres(folder / "postgres", durable=False) as postgres:
            questions = fill(postgres, folder, arguments.rows, arguments.tenants)
            measured = measure(postgres, questions, arguments.repetitions)
    for call, found in measured.items():
        print(
            f"{call:8} with {found['with_ms']:7.2f} ms   without {found['without_ms']:7.2f} ms"
            f"   difference {found['difference_ms']:+6.2f} ms"
            f"   x {found['ratio']:.2f} ({found['ratio_q1']:.2f} to {found['ratio_q3']:.2f})"
        )
    print(json.dumps({"bench": "isolation", "machine": machine(), **vars(arguments), "calls": measured}))


if __name__ == "__main__":
    main()
