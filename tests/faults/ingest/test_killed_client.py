"""I2: the client is killed, or frozen, at any moment of an upload; the server lets go of it, and another goes on."""

import random
import signal
from contextlib import closing
from functools import partial

import psycopg2
import pytest

from dari.client import CHUNK_BYTES, Client
from tests.faults.conftest import StartProcess
from tests.fix_postgres import PostgresDsns
from tests.fix_server import SMALL_BATCH_BYTES
from tests.support.exactly_once import assert_exactly_once
from tests.support.fault_sizes import SEEDS
from tests.support.ingesting import SendingProcess, make_knowledge_base, resend, send
from tests.support.known_file import seeded_file
from tests.support.running_dari import SOON_S
from tests.support.waiting import until

IDLE_TIMEOUT_S = 1.0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_client_that_dies_holds_nothing_and_another_goes_on(
    start_process: StartProcess, database: PostgresDsns, number: signal.Signals
) -> None:
    """Its place is free, no transaction is open, and the same upload comes to its end from another process.

    The server takes one upload at once: as long as it serves the dead client's, it refuses the next.
    """
    server = start_process(max_open_uploads=1, upload_idle_timeout_s=IDLE_TIMEOUT_S)
    with Client(server.address) as client:
        make_knowledge_base(client)
        for seed in range(max(1, SEEDS // 6)):
            chance = random.Random(seed)
            file, id = seeded_file(chance, most_rows=60_000), f"seed-{seed}"
            given = chance.randrange(len(file.data) // 2, len(file.data))
            with SendingProcess(server.address, id) as dying:
                dying.feed(file.data[:given])
                # What is behind the client's last whole chunk and the server's last whole batch may never be committed.
                awaited = chance.randrange(-1, max(0, given - CHUNK_BYTES - 2 * SMALL_BATCH_BYTES))
                until(partial(has_passed, database, id, awaited))
                dying.signal(number)
                send(client, f"other-{seed}", b"a,b\n1,2\n", give_up_after_s=SOON_S)
                assert open_transactions(database) == 0
                assert progress(database, id) <= given
                if number is signal.SIGKILL:
                    assert resend(server.address, id, file, SOON_S) == 0
                else:
                    # It wakes, finds its stream ended, and goes on by itself.
                    dying.signal(signal.SIGCONT)
                    dying.feed(file.data[given:], is_last=True)
                    assert dying.exit_code(SOON_S) == 0
            assert_exactly_once(database.admin_dsn, id, file.expected)


def has_passed(database: PostgresDsns, upload_id: str, offset: int) -> bool:
    return progress(database, upload_id) > offset


def progress(database: PostgresDsns, upload_id: str) -> int:
    """The committed offset; -1 where the upload is not there yet."""
    with closing(psycopg2.connect(database.admin_dsn)) as session, session.cursor() as cursor:
        cursor.execute("SELECT committed_offset_bytes FROM dari.uploads WHERE id = %s", (upload_id,))
        row = cursor.fetchone()
    return -1 if row is None else int(row[0])


def open_transactions(database: PostgresDsns) -> int:
    with closing(psycopg2.connect(database.admin_dsn)) as session, session.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'dari'"
            " AND xact_start IS NOT NULL"
        )
        ((count,),) = cursor.fetchall()
    assert isinstance(count, int)
    return count
