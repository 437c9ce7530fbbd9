"""I8: the parser panics; the call ends as INTERNAL, nothing is stored by halves, the process lives and serves."""

import random
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from dari.client import Client
from tests.fix_postgres import PostgresDsns
from tests.support import panicking_dari
from tests.support.exactly_once import assert_exactly_once, assert_nothing_partial
from tests.support.ingesting import make_knowledge_base, send
from tests.support.known_file import seeded_file
from tests.support.serving_process import ServingProcess
from tests.support.uploading import IngestStream


@pytest.mark.parametrize(
    "marker", [panicking_dari.MARKER, panicking_dari.MARKER_AT_END], ids=["in a chunk", "at the end"]
)
def test_a_panic_of_the_parser_is_internal_and_costs_one_stream(
    database: PostgresDsns, tmp_path: Path, marker: bytes
) -> None:
    """The server takes one upload at once: the next one shows that the stream's place, thread and session are free."""
    file = seeded_file(random.Random(5))
    program = (panicking_dari.__file__,)
    with ServingProcess(database, tmp_path, program, max_open_uploads=1) as server, Client(server.address) as client:
        make_knowledge_base(client)
        pid = server.pid
        stream = IngestStream(client.ingests)
        stream.begin(file.data + b"1," + marker + b"\n", "u")
        refusal = stream.refusal()
        assert (refusal.status, refusal.reason) == ("INTERNAL", "INTERNAL")
        assert refusal.metadata["error_id"]
        assert panicking_dari.SECRET not in str(refusal)
        with closing(psycopg2.connect(database.admin_dsn)) as session, session.cursor() as cursor:
            assert_nothing_partial(cursor, "u")
        send(client, "other", file.data)
        assert_exactly_once(database.admin_dsn, "other", file.expected)
        send(client, "u", file.data)
        assert_exactly_once(database.admin_dsn, "u", file.expected)
        assert server.is_alive() and server.pid == pid
