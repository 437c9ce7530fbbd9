"""Measures search over gRPC beside PostgreSQL's own full-text search: what is found, how soon, what the index costs.

    python -m bench.search                              a million generated orders, and the flights of 2013
    python -m bench.search --rows 1000000 10000000      ten million too: some 20 GB of disk and half an hour

Known items (`bench.known_items`) are asked for in a fresh server (`dari serve`, embedded PostgreSQL, a temporary
folder). Each question goes in turn to dari's Search RPC and to two tables of the same PostgreSQL, by SQL on its socket,
as a superuser whom no row-level security slows down:

row GIN     a stored tsvector of the configuration `simple` for each row, under GIN
block GIN   one such tsvector for 128 rows; of the 64 best blocks the rows are matched exactly

Both first ask for rows with all words, and where there are none for rows with any, ranked by ts_rank. One that takes
longer than the timeout counts as not found.

recall@5 is the share of the questions that a row among the first five answers; MRR takes one divided by that row's
place. The load of dari runs from the first byte sent to the receipt, when the rows are visible; that of the others is
COPY and the building of their indexes; `copy` is the COPY alone, into a table without any index.

The last line on stdout is one JSON object; the table before it is for people.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from bench.ingest import Bench, check, machine, running_server
from bench.known_items import FLIGHT_COLUMNS, ORDER_COLUMNS, KnownItem, write_flights, write_korean_orders
from dari.client import Client
from dari.commands.flight_data import flight_tables
from dari.v1.ingest_pb2 import UPLOAD_MODE_REPLACE, SearchRequest
from dari.v1.mapping_pb2 import CreateKnowledgeBaseRequest, KnowledgeBase

FIRST = 5
"""Rows that are looked at."""
GIN_BLOCK_ROWS = 128
GIN_BLOCKS = 64

Find = Callable[[str], Sequence[Sequence[str]]]
"""Gives the cells of the best rows for a question."""


@dataclass(frozen=True)
class Table:
    """A file of rows, and what is asked of it."""

    name: str
    path: Path
    columns: Sequence[str]
    row_count: int
    items: list[KnownItem]


@dataclass
class Measured:
    """What one way of searching did with a table. Seconds; places from 1, 0 for not found."""

    load_s: float = 0.0
    asked: list[tuple[KnownItem, int, float]] = field(default_factory=list)

    def ask(self, item: KnownItem, find: Find) -> None:
        """One question, timed and judged."""
        began_s = time.perf_counter()
        rows = find(item.question)
        took_s = time.perf_counter() - began_s
        places = (place for place, cells in enumerate(rows, start=1) if item.is_answered_by(cells))
        self.asked.append((item, next(places, 0), took_s))


def tables(folder: Path, cache: Path, rows: Iterable[int], items: int) -> Iterator[Table]:
    """The tables, one at a time: a file goes before the next one is written."""
    path = folder / "rows.csv"
    known = write_flights(path, flight_tables(cache / "flights", None), items // 2)
    yield Table("flights", path, FLIGHT_COLUMNS, line_count(path) - 1, known)
    for count in rows:
        known = write_korean_orders(path, count, items)
        yield Table(f"{count:,} orders".replace(",", " "), path, ORDER_COLUMNS, count, known)


def line_count(path: Path) -> int:
    """Lines of a file whose cells hold none."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


# dari


def make_knowledge_base(client: Client) -> str:
    """Its name."""
    id = f"search-{time.monotonic_ns()}"
    client.mapping.CreateKnowledgeBase(CreateKnowledgeBaseRequest(knowledge_base_id=id, knowledge_base=KnowledgeBase()))
    return f"knowledgeBases/{id}"


def ingest(client: Client, table: Table, base: str) -> float:
    """Upload the file; returns the seconds until its rows are visible."""
    began_s = time.perf_counter()
    receipt = client.ingest(table.path, base, UPLOAD_MODE_REPLACE)
    took_s = time.perf_counter() - began_s
    check("rows stored", receipt.rows_stored, table.row_count)
    return took_s


def finder(client: Client, base: str) -> Find:
    """Asks the Search RPC."""

    def find(question: str) -> Sequence[Sequence[str]]:
        found = client.ingests.Search(SearchRequest(knowledge_bases=[base], query=question, limit=FIRST))
        return [[cell.text for cell in hit.cells] for hit in found.hits]

    return find


# PostgreSQL's own full-text search


@contextmanager
def session(dsn: str, timeout_s: float) -> Iterator[psycopg2.extensions.cursor]:
    """A superuser's session that commits each statement; `timeout_s` 0 for none."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = %s", (f"{timeout_s:.0f}s",))
            yield cursor
    finally:
        connection.close()


def copy(cursor: psycopg2.extensions.cursor, table: Table, target: str, more_columns: str = "") -> float:
    """COPY the file into a new table; returns the seconds."""
    names = [f"c{number}" for number in range(1, len(table.columns) + 1)]
    cursor.execute(
        f"DROP TABLE IF EXISTS {target}; CREATE TABLE {target} ("
        + ", ".join([*(f"{name} text NOT NULL" for name in names), *filter(None, [more_columns])])
        + ") WITH (autovacuum_enabled = off)"
    )
    began_s = time.perf_counter()
    # NULL '' of CSV would not fit NOT NULL: empty cells are texts, as dari stores them.
    options = r"(FORMAT csv, HEADER true, NULL '\N')"
    with table.path.open("rb") as file:
        cursor.copy_expert(f"COPY {target} ({', '.join(names)}) FROM STDIN WITH {options}", file)
    took_s = time.perf_counter() - began_s
    check("rows copied", cursor.rowcount, table.row_count)
    return took_s


def load_row_gin(cursor: psycopg2.extensions.cursor, table: Table) -> float:
    """Load `by_row`, with a tsvector and a GIN entry for each row; returns the seconds."""
    took_s = copy(cursor, table, "by_row", f"terms tsvector GENERATED ALWAYS AS ({_terms(table)}) STORED")
    return took_s + _timed(cursor, "CREATE INDEX ON by_row USING gin (terms); ANALYZE by_row")


def load_block_gin(cursor: psycopg2.extensions.cursor, table: Table) -> float:
    """Load `by_block` and `blocks`, with a tsvector and a GIN entry for each block; returns the seconds."""
    took_s = copy(cursor, table, "by_block", "row_number bigint GENERATED ALWAYS AS IDENTITY")
    return took_s + _timed(
        cursor,
        f"""
        CREATE INDEX ON by_block (row_number);
        DROP TABLE IF EXISTS blocks;
        CREATE TABLE blocks AS
            SELECT (row_number - 1) / {GIN_BLOCK_ROWS} AS block,
                to_tsvector('simple', string_agg({_text(table)}, ' ')) AS terms
            FROM by_block GROUP BY 1;
        CREATE INDEX ON blocks USING gin (terms); ANALYZE by_block; ANALYZE blocks
        """,
    )


def row_gin_finder(cursor: psycopg2.extensions.cursor, table: Table) -> Find:
    """Rows with all words, or else with any, the best by ts_rank first."""
    return _finder(
        cursor,
        f"SELECT {_cells(table)} FROM by_row, {{query}} AS query WHERE terms @@ query"
        f" ORDER BY ts_rank(terms, query) DESC LIMIT {FIRST}",
    )


def block_gin_finder(cursor: psycopg2.extensions.cursor, table: Table) -> Find:
    """The same, from the best blocks."""
    return _finder(
        cursor,
        f"""
        WITH best AS MATERIALIZED (
            SELECT block FROM blocks, {{query}} AS query WHERE terms @@ query
            ORDER BY ts_rank(terms, query) DESC LIMIT {GIN_BLOCKS}
        )
        SELECT {_cells(table)} FROM {{query}} AS query, best JOIN by_block
        ON row_number > block * {GIN_BLOCK_ROWS} AND row_number <= (block + 1) * {GIN_BLOCK_ROWS}
        WHERE {_terms(table)} @@ query ORDER BY ts_rank({_terms(table)}, query) DESC LIMIT {FIRST}
        """,
    )


def _finder(cursor: psycopg2.extensions.cursor, select: str) -> Find:
    every = "plainto_tsquery('simple', %(question)s)"
    some = f"CAST(replace({every}::text, '&', '|') AS tsquery)"

    def find(question: str) -> Sequence[Sequence[str]]:
        try:
            for query in (every, some):
                cursor.execute(select.format(query=query), {"question": question})
                if rows := cursor.fetchall():
                    return rows
        except psycopg2.errors.QueryCanceled:
            pass
        return []

    return find


def _timed(cursor: psycopg2.extensions.cursor, statements: str) -> float:
    began_s = time.perf_counter()
    cursor.execute(statements)
    return time.perf_counter() - began_s


def _cells(table: Table) -> str:
    return ", ".join(f"c{number}" for number in range(1, len(table.columns) + 1))


def _text(table: Table) -> str:
    return " || ' ' || ".join(f"c{number}" for number in range(1, len(table.columns) + 1))


def _terms(table: Table) -> str:
    return f"to_tsvector('simple', {_text(table)})"


# Numbers


def measure(bench: Bench, table: Table, with_gin: bool, timeout_s: float) -> dict[str, Any]:
    """Load the table each way, ask each question each way in turn, and sum up."""
    base = make_knowledge_base(bench.client)
    ways = {"dari": Measured(ingest(bench.client, table, base))}
    finders = {"dari": finder(bench.client, base)}
    with session(bench.dsn, 0) as loading, session(bench.dsn, timeout_s) as asking:
        bench.settle()
        copy_s = copy(loading, table, "plain")
        loading.execute("DROP TABLE plain")
        if with_gin:
            bench.settle()
            ways["row GIN"] = Measured(load_row_gin(loading, table))
            bench.settle()
            ways["block GIN"] = Measured(load_block_gin(loading, table))
            finders |= {
                "row GIN": row_gin_finder(asking, table),
                "block GIN": block_gin_finder(asking, table),
            }
        bench.settle()
        names = list(ways)
        for number, item in enumerate(table.items):
            # In turn, so that none always finds the others' rows in the cache.
            for place in range(len(names)):
                name = names[(number + place) % len(names)]
                ways[name].ask(item, finders[name])
        loading.execute("DROP TABLE IF EXISTS by_row, by_block, blocks")
    return {
        "table": table.name,
        "rows": table.row_count,
        "bytes": table.path.stat().st_size,
        "questions": len(table.items),
        "copy_s": round(copy_s, 2),
        "ways": {name: summary(measured, copy_s) for name, measured in ways.items()},
    }


def summary(measured: Measured, copy_s: float) -> dict[str, Any]:
    """One way's numbers; latencies in milliseconds."""
    kinds = sorted({item.kind for item, _, _ in measured.asked})
    return {
        "load_s": round(measured.load_s, 2),
        "load_to_copy": round(measured.load_s / copy_s, 2),
        **_found(measured.asked),
        "kinds": {kind: _found([one for one in measured.asked if one[0].kind == kind]) for kind in kinds},
    }


def _found(asked: Sequence[tuple[KnownItem, int, float]]) -> dict[str, float]:
    places = [place for _, place, _ in asked]
    cuts_ms = statistics.quantiles([took_s * 1_000 for _, _, took_s in asked], n=100, method="inclusive")
    return {
        "recall_at_5": round(sum(place > 0 for place in places) / len(places), 3),
        "mrr": round(sum(1 / place for place in places if place) / len(places), 3),
        **{f"p{percent}_ms": round(cuts_ms[percent - 1], 1) for percent in (50, 95, 99)},
    }


def report(result: dict[str, Any]) -> None:
    """The table for people."""
    print(f"{result['table']}: {result['questions']} questions; COPY into a plain table took {result['copy_s']} s")
    print(f"  {'':26}{'load s':>8}{'/ COPY':>8}{'recall@5':>10}{'MRR':>7}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}")
    for name, way in result["ways"].items():
        load = f"{way['load_s']:8.1f}{way['load_to_copy']:8.2f}"
        for label, found, first in ((name, way, load), *((f"  {kind}", one, "") for kind, one in way["kinds"].items())):
            shown = "".join(f"{found[f'p{percent}_ms']:9.1f}" for percent in (50, 95, 99))
            print(f"  {label:26}{first:16}{found['recall_at_5']:10.3f}{found['mrr']:7.3f}{shown}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Measure search beside PostgreSQL's full-text search.")
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000_000], help="of each table of orders")
    parser.add_argument("--questions", type=int, default=240, help="for each table of orders; half for the flights")
    parser.add_argument("--gin-rows", type=int, default=1_000_000, help="no GIN is built for larger tables")
    parser.add_argument("--timeout-s", type=float, default=2.0, help="of a full-text search")
    parser.add_argument("--cache", type=Path, default=Path(".dari/bench"), help="where the flights stay")
    options = parser.parse_args()

    facts = machine()
    results = []
    with tempfile.TemporaryDirectory(prefix="dari-bench-") as folder, running_server() as bench:
        for table in tables(Path(folder), options.cache, options.rows, options.questions):
            results.append(measure(bench, table, table.row_count <= options.gin_rows, options.timeout_s))
            report(results[-1])
    print(json.dumps({"machine": facts, "timeout_s": options.timeout_s, "tables": results}))


if __name__ == "__main__":
    main()
