"""How a replica starts, what its health says, and how it ends: real processes over a database that comes and goes."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from dari.commands.exit_codes import ExitCode
from dari.v1 import chat_pb2, mapping_pb2
from tests.faults.conftest import StartProcess
from tests.fix_postgres import PostgresDsns
from tests.fix_server import settings_for
from tests.flowise_stand_in import StandIn, answer
from tests.support.fault_proxy import FaultProxy, PostgresProxy
from tests.support.health import CHAT, SERVICES, WHOLE, serving
from tests.support.running_dari import SOON_S, RunningDari, status_of
from tests.support.serving_process import ServingProcess, environment
from tests.support.waiting import until

CANARY = "canary-4711"
LONG_S = 3_600.0
"""Longer than any test may take: what ends before did not wait for it."""


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as place:
        return f"127.0.0.1:{place.getsockname()[1]}"


def through(proxy: PostgresProxy, database: PostgresDsns) -> PostgresDsns:
    return database._replace(service_dsn=proxy.dsn)


# The start.


def test_a_replica_that_starts_before_its_database_waits_for_it(database: PostgresDsns, tmp_path: Path) -> None:
    """Health answers from the first moment, NOT_SERVING for all; then for all the contrary."""
    admin = free_address()
    with PostgresProxy(database.service_dsn) as proxy:
        proxy.vanish()
        replica = ServingProcess(through(proxy, database), tmp_path, admin_address=admin)
        replica.begin()
        try:
            assert serving(admin) == set()
            until(lambda: proxy.attempts >= 2)
            proxy.come_back()
            replica.wait_until_serving()
            assert serving(admin) == set(SERVICES)
        finally:
            replica.kill()


def test_a_replica_whose_database_does_not_come_ends_with_a_code_of_its_own(tmp_path: Path) -> None:
    """Whoever supervises it starts it again; a wrong DSN, which no waiting mends, ends it at once with another code."""
    nobody = "postgresql://127.0.0.1:1/dari"
    assert ended(tmp_path, database_dsn=nobody, database_start_timeout_s=0.3) == ExitCode.UNAVAILABLE
    assert ended(tmp_path, database_dsn=f"{CANARY} no dsn", database_start_timeout_s=LONG_S) == ExitCode.FAILED


def test_a_replica_that_waits_for_its_database_ends_at_sigterm(tmp_path: Path) -> None:
    admin = free_address()
    nobody = PostgresDsns("", "postgresql://127.0.0.1:1/dari")
    replica = ServingProcess(nobody, tmp_path, admin_address=admin, database_start_timeout_s=LONG_S)
    replica.begin()
    try:
        assert serving(admin) == set()
        replica.signal(signal.SIGTERM)
        assert replica.wait_for_end(SOON_S) == ExitCode.OK
    finally:
        replica.kill()


def test_wrong_settings_end_the_start_before_anything_is_bound(tmp_path: Path) -> None:
    """O6: a secret that is missing, an unknown key, wrong types: all are named, and no value is.

    Its addresses are taken, which would be told if it had come so far.
    """
    file = tmp_path / "dari.toml"
    file.write_text(f'no_such_key = "{CANARY}"\nmax_chats = "{CANARY}"\n')
    with socket.create_server(("0.0.0.0", 0)) as taken:
        address = f"0.0.0.0:{taken.getsockname()[1]}"
        process = dari(
            DARI_SETTINGS_FILE=str(file),
            DARI_LISTEN_ADDRESS=address,
            DARI_ADMIN_ADDRESS=address,
            DARI_DRAIN_TIMEOUT_S=CANARY,
            DARI_DATABASE_PASSWORD=CANARY,
            DARI_TLS_CERTIFICATE_FILE=CANARY,
            DARI_DATA_DIR=str(tmp_path / "data"),
        )
    assert process.returncode == ExitCode.CONFIG
    told = process.stdout + process.stderr
    for problem in (
        "no_such_key",
        "max_chats",
        "drain_timeout_s",
        "DARI_DATABASE_PASSWORD: no such setting",
        "set tokens_file, jwt_keys_file or jwt_keys_url",
        "tls_certificate_file and tls_key_file go together",
    ):
        assert problem in told
    assert CANARY not in told
    assert "cannot be bound" not in told
    assert not (tmp_path / "data").exists()


# While it lives.


def test_health_tells_what_can_do_without_the_database_from_what_cannot(database: PostgresDsns, tmp_path: Path) -> None:
    """A chat is answered meanwhile, by the mapping known last; nothing has to be restarted."""
    with (
        PostgresProxy(database.service_dsn) as proxy,
        StandIn() as flowise,
        ServingProcess(through(proxy, database), tmp_path, database_watch_interval_s=0.05) as replica,
        RunningDari(replica.address) as dari,
    ):
        dari.make_flowise("support", flowise.url)
        dari.make_chat("bot", "support")
        dari.ask("before")
        proxy.vanish()
        until(lambda: serving(replica.admin_address) == {WHOLE, CHAT})
        assert dari.ask("meanwhile").answer
        with pytest.raises(grpc.RpcError) as raised:
            dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
        assert status_of(raised.value) == "UNAVAILABLE"
        proxy.come_back()
        until(lambda: serving(replica.admin_address) == set(SERVICES))
        dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())


def test_connections_are_renewed_at_an_age_and_no_call_notices(start_process: StartProcess) -> None:
    """So that clients behind a balancer of connections find replicas that came later."""
    replica = start_process(max_connection_age_s=1.0)
    with FaultProxy(replica.target) as balancer, RunningDari(balancer.address) as dari:
        while balancer.connections < 3:
            dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest(), timeout=SOON_S)


# Its end.


def test_a_replica_that_is_to_end_says_so_before_it_takes_no_more_calls(start_process: StartProcess) -> None:
    """Between NOT_SERVING and the end of its connections lies the time in which a balancer sees the one."""
    replica = start_process(stop_delay_s=LONG_S)
    with RunningDari(replica.address) as dari:
        dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
        replica.signal(signal.SIGTERM)
        until(lambda: serving(replica.admin_address) == set())
        for _ in range(20):
            dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
        with RunningDari(replica.address) as new_one:
            new_one.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
        # A second signal is somebody who will not wait.
        replica.signal(signal.SIGTERM)
        assert replica.wait_for_end(SOON_S) == ExitCode.OK


def test_a_replica_ends_whichever_thread_takes_the_signal(start_process: StartProcess) -> None:
    """The kernel gives a signal of a process to any thread that wants it; Python's handlers run on the main one."""
    replica = start_process(stop_delay_s=0)
    replica.signal_another_thread(signal.SIGTERM)
    assert replica.wait_for_end(SOON_S) == ExitCode.OK


def test_a_replica_ends_by_its_drain_deadline_though_a_handler_hangs(database: PostgresDsns, tmp_path: Path) -> None:
    """In what nobody can end; the open call is cut, and the process is gone."""
    program = (str(Path(__file__).parents[2] / "support" / "stuck_dari.py"),)
    drain_timeout_s = 0.5
    limits: dict[str, Any] = {"stop_delay_s": 0, "drain_timeout_s": drain_timeout_s}
    with ServingProcess(database, tmp_path, program=program, **limits) as replica, RunningDari(replica.address) as dari:
        stuck = dari.mapping.GetAiModel.future(mapping_pb2.GetAiModelRequest(name="aiModels/any"))
        dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
        time_s = time.monotonic()
        replica.signal(signal.SIGTERM)
        assert replica.wait_for_end(SOON_S) == ExitCode.OK
        assert time.monotonic() - time_s >= drain_timeout_s, "the call had its time"
        assert isinstance(stuck.exception(SOON_S), grpc.RpcError)


def test_a_replica_ends_by_its_time_though_its_own_stop_hangs(database: PostgresDsns, tmp_path: Path) -> None:
    """And tells where it stood."""
    program = (str(Path(__file__).parents[2] / "support" / "never_stopped_dari.py"),)
    log_file = tmp_path / "log"
    limits: dict[str, Any] = {"stop_delay_s": 0, "drain_timeout_s": 0.2}
    with ServingProcess(database, tmp_path, program, log_file, **limits) as replica:
        replica.signal(signal.SIGTERM)
        assert replica.wait_for_end(SOON_S) == ExitCode.OK
    told = [json.loads(line) for line in log_file.read_text().splitlines()]
    (stop,) = (event for event in told if event["event"] == "stop_hangs" and event["thread"] == "dari-stop")
    assert any("never_closed" in place for place in stop["stands_at"])


def test_a_call_that_ends_within_the_drain_is_answered(database: PostgresDsns, tmp_path: Path) -> None:
    """A chat whose model takes a while: the replica waits for it, and not for its drain time."""
    with (
        StandIn() as flowise,
        ServingProcess(database, tmp_path, drain_timeout_s=LONG_S, stop_delay_s=0) as replica,
        RunningDari(replica.address) as dari,
    ):
        may_answer = threading.Event()
        flowise.always(answer("Slow", may_answer, " but whole"))
        dari.make_flowise("support", flowise.url)
        dari.make_chat("bot", "support")
        request = chat_pb2.AskRequest(chat_configuration="chatConfigurations/bot", question="a slow one")
        asked = dari.chat.Ask.future(request, timeout=SOON_S)
        flowise.wait_for_questions(1)
        replica.signal(signal.SIGTERM)
        until(lambda: not is_open(replica))
        may_answer.set()
        assert asked.result(SOON_S).turn.answer == "Slow but whole"
        assert replica.wait_for_end(SOON_S) == ExitCode.OK


def is_open(replica: ServingProcess) -> bool:
    """Whether it takes connections."""
    try:
        socket.create_connection(replica.target).close()
    except ConnectionRefusedError:
        return False
    return True


def ended(data_dir: Path, **settings: object) -> int:
    """The exit code of a start that cannot succeed; its words do not tell the DSN."""
    chosen = {**settings_for(PostgresDsns("", ""), data_dir), "local_model": "", **settings}
    process = dari(**{f"DARI_{name.upper()}": str(value) for name, value in chosen.items()})
    told = process.stdout + process.stderr
    assert "database" in told.lower()
    assert CANARY not in told
    assert "127.0.0.1:1" not in told
    return process.returncode


def dari(**variables: str) -> "subprocess.CompletedProcess[str]":
    arguments = [sys.executable, "-m", "dari", "serve"]
    return subprocess.run(
        arguments, env=environment(**variables), capture_output=True, text=True, timeout=SOON_S, check=False
    )
