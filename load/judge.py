"""Exactly once: what is stored in the end against what callers were told, looked up past all of dari's code.

An upload that was told complete has each row of its file once, with its ledger; one that was not told so has left
nothing half done. A chat that was told complete is stored as one turn. Each knowledge base has the rows of the uploads
that were told complete, and of no others.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import psycopg2
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - psycopg2 names a class in lower case

from bench.generate_csv import Generated
from load.worker import BROKEN, CHAT, OK, UPLOAD, Called
from tests.support.exactly_once import assert_exactly_once, assert_nothing_partial
from tests.support.known_file import Expected


@dataclass(frozen=True, slots=True)
class Judged:
    """What was looked at, and what is wrong with it."""

    uploads: int
    rows: int
    chats: int
    complaints: tuple[str, ...]


def judge(admin_dsn: str, called: Sequence[Called], files: Mapping[str, Generated], *, appends: bool = True) -> Judged:
    """`called` are all chats and uploads that callers made; `files` tells what is in the file at each path.

    With `appends` a knowledge base must have the rows of all its uploads; else they took each other's place.
    """
    uploads = [one for one in called if one.kind == UPLOAD]
    whole = [one for one in uploads if one.status == OK]
    chats = [one for one in called if one.kind == CHAT]
    with closing(psycopg2.connect(admin_dsn)) as session, session.cursor() as cursor:
        complaints = [
            *(complaint for one in uploads for complaint in _of_upload(cursor, admin_dsn, one, files[one.path])),
            *(_of_knowledge_bases(cursor, whole, files) if appends else ()),
            *_of_chats(cursor, chats),
        ]
    rows = sum(files[one.path].row_count for one in whole)
    told = sum(1 for one in chats if one.status == OK)
    return Judged(len(whole), rows, told, tuple(complaints))


def _of_upload(cursor: Cursor, admin_dsn: str, upload: Called, file: Generated) -> Iterator[str]:
    try:
        if upload.status == OK:
            assert_exactly_once(admin_dsn, upload.id, Expected(file.size_bytes, file.row_count, 0, file.rows_hash))
        elif _is_there(cursor, upload.id):
            assert_nothing_partial(cursor, upload.id)
    except (AssertionError, ValueError, psycopg2.Error) as error:
        yield f"upload {upload.id}, told {upload.status}: {type(error).__name__} {error}".strip()


def _is_there(cursor: Cursor, upload_id: str) -> bool:
    cursor.execute("SELECT FROM dari.uploads WHERE id = %s", (upload_id,))
    return bool(cursor.rowcount)


def _of_knowledge_bases(cursor: Cursor, whole: Sequence[Called], files: Mapping[str, Generated]) -> Iterator[str]:
    told: dict[str, int] = defaultdict(int)
    for upload in whole:
        told[upload.about.partition("/")[2]] += files[upload.path].row_count
    for id, rows in told.items():
        cursor.execute(
            "SELECT v.row_count FROM dari.knowledge_bases b JOIN dari.knowledge_base_versions v"
            " ON v.tenant = b.tenant AND v.knowledge_base = b.id AND v.number = b.current_version WHERE b.id = %s",
            (id,),
        )
        found = cursor.fetchone()
        if found != (rows,):
            yield f"knowledge base {id}: {found[0] if found else 'no'} rows are visible, {rows} were told complete"


def _of_chats(cursor: Cursor, chats: Sequence[Called]) -> Iterator[str]:
    yield from (f"chat {one.id}: it ended OK without `completed`" for one in chats if one.status == BROKEN)
    told = [one.id for one in chats if one.status == OK]
    cursor.execute(
        "SELECT request_id::text, count(*) FILTER (WHERE state = 'COMPLETED') FROM dari.turns"
        " WHERE request_id = ANY (%s::uuid[]) GROUP BY request_id",
        (told,),
    )
    stored = dict(cursor.fetchall())
    for id in told:
        if stored.get(id, 0) != 1:
            yield f"chat {id}: told complete, and stored complete {stored.get(id, 0)} times"
