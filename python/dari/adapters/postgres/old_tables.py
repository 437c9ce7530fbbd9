"""Reads the tables of an older system from its PostgreSQL, in one transaction that can change nothing."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import psycopg2
from psycopg2 import sql

_CONNECT_TIMEOUT_S = 10
_STATEMENT_TIMEOUT_MS = 60_000
_FIND = """
SELECT table_schema, table_name FROM information_schema.tables
WHERE table_type IN ('BASE TABLE', 'VIEW') AND table_schema NOT IN ('pg_catalog', 'information_schema')
ORDER BY table_schema = 'public' DESC, table_schema, table_name
"""


class OldDatabaseUnreadable(Exception):
    """The older system's database cannot be read; the message names what failed, never the DSN."""


def read_old_tables(dsn: str, is_wanted: Callable[[str], bool]) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    """(table, its rows) of every table whose name is wanted, those of schema public first.

    Raises OldDatabaseUnreadable.
    """
    try:
        with closing(psycopg2.connect(dsn, connect_timeout=_CONNECT_TIMEOUT_S)) as session:
            session.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with session.cursor() as cursor:
                cursor.execute("SELECT set_config('statement_timeout', %s, true)", (str(_STATEMENT_TIMEOUT_MS),))
                cursor.execute(_FIND)
                found = [(schema, table) for schema, table in cursor.fetchall() if is_wanted(table)]
                return [(table, _rows(cursor, schema, table)) for schema, table in found]
    except psycopg2.Error as error:
        # The driver's text may hold the DSN.
        raise OldDatabaseUnreadable(f"the database cannot be read ({type(error).__name__})") from None


def _rows(cursor: Any, schema: str, table: str) -> Sequence[Mapping[str, Any]]:
    """Rows as JSON has them, in an order that does not change between two readings."""
    query = sql.SQL("SELECT to_jsonb(t) FROM {} AS t ORDER BY to_jsonb(t)->>'id', to_jsonb(t)")
    cursor.execute(query.format(sql.Identifier(schema, table)))
    return [row for (row,) in cursor.fetchall()]
