"""What reaches standard error: events by name, and never a content, a secret or the text of an exception."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
import structlog

from dari.adapters.local_model.model_files import add_model_file
from dari.logs import captured, make_log
from dari.v1 import chat_pb2, ingest_pb2, mapping_pb2
from tests.fix_postgres import PostgresDsns
from tests.support.collector import Collector
from tests.support.event_log import RecordedEvents
from tests.support.metrics_page import page
from tests.support.running_dari import RunningDari

WAIT_S = 60.0
CANARY = "canary-7f3a"
"""Stands in every question, cell, secret, address and exception of these tests."""

SERVER = """
import signal, sys, threading
from dari.server import Server
from dari.settings import load_settings
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
server = Server(load_settings()).start()
threading.Thread(target=lambda: int("canary-7f3a")).start()
print(server.address, server.metrics_address, flush=True)
signal.sigwait({signal.SIGTERM})
server.stop()
"""
"""A server in a process of its own. No thread of it takes the signal but the one that waits for it."""


def log_lines(captured_output: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in captured_output.readouterr().err.splitlines()]


def test_an_event_is_one_json_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, with level and time; below the level nothing is written."""
    log = make_log("warning", "json")
    log.info("unseen")
    log.warning("seen", rows=3, name="한국")
    (line,) = log_lines(capsys)
    assert line.pop("timestamp")
    assert line == {"event": "seen", "level": "warning", "rows": 3, "name": "한국"}


def test_the_console_style_is_a_readable_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Without colours, which a file would keep."""
    make_log("info", "console").info("serving", address="127.0.0.1:1")
    assert re.fullmatch(r"\S+ \[info +] serving +address=127\.0\.0\.1:1\n", capsys.readouterr().err)


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_traceback_is_written(capsys: pytest.CaptureFixture[str], style: str) -> None:
    """Even where somebody asks for it: its last line is the exception's text."""
    try:
        int(CANARY)
    except ValueError:
        make_log("info", style).error("failed", exc_info=True)
    assert CANARY not in capsys.readouterr().err


def test_what_libraries_log_is_told_without_its_text() -> None:
    """Which library, from where, and the type of the exception."""
    events = RecordedEvents()
    library = logging.getLogger("some.library")
    with captured(events, "info", "json"):
        library.info("not worth it: %s", CANARY)
        library.warning("a warning: %s", CANARY)
        try:
            int(CANARY)
        except ValueError:
            library.exception("Exception calling application: %s", CANARY)
    library.warning("after the end")
    warning, error = events.fields("library_log")
    assert warning == {"library": "some.library", "said_at": warning["said_at"]}
    assert str(warning["said_at"]).startswith("test_logs:")
    assert error["error_type"] == "ValueError"
    assert CANARY not in str([warning, error])


def test_what_structlog_writes_elsewhere_comes_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    """A module's own logger writes on standard output unless it is told otherwise."""
    log = structlog.get_logger("a.module")
    with captured(make_log("info", "json"), "info", "json"):
        log.info("model_ready", model="m")
        log.debug("unseen")
    output = capsys.readouterr()
    assert output.out == ""
    assert json.loads(output.err)["event"] == "model_ready"


def test_hooks_of_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own are taken over and given back; another one, such as pytest's, is left alone."""

    def others(arguments: object) -> None: ...

    monkeypatch.setattr(threading, "excepthook", others)
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    with captured(RecordedEvents(), "info", "json"):
        assert threading.excepthook is others
        assert sys.unraisablehook is not sys.__unraisablehook__
    assert sys.unraisablehook is sys.__unraisablehook__


def test_a_failed_thread_and_a_warning_are_told_without_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python itself would print both, with the text."""
    events = RecordedEvents()
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    with captured(events, "info", "json"), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        thread = threading.Thread(target=int, args=(CANARY,), name="a-thread")
        thread.start()
        thread.join()
        warnings.warn(CANARY, stacklevel=1)
    (failed,) = events.fields("thread_failed")
    assert (failed["thread"], failed["error_type"]) == ("a-thread", "ValueError")
    assert [fields["library"] for fields in events.fields("library_log")] == ["py.warnings"]
    assert CANARY not in str([*events.fields("library_log"), failed])


def test_no_content_leaves_a_server_by_logs_metrics_or_traces(database: PostgresDsns, tmp_path: Path) -> None:
    """A real process, after calls that are right, wrong, broken, cancelled and left; every line of it is an event.

    So it is with every page of metrics, and every span that a collector got. A model is started meanwhile, a child
    process: gRPC's fork handlers, asked for here, have nothing to say.
    """
    with Collector() as collector:
        errors, pages = _run(database, tmp_path, collector)
        spans = collector.text()
    assert {span.name for span in collector.spans()} >= {"dari.v1.ChatService/Ask", "chat dead", "retrieval", "copy"}
    assert all(metadata["x-key"] == CANARY for metadata in collector.metadata()), "it is the collector's own"
    assert "dari_attempts_total{" in pages
    for told in (errors, pages, spans):
        assert CANARY not in told
    events = {json.loads(line)["event"] for line in errors.splitlines()}
    assert {
        "database_opened",
        "serving",
        "call_ended",
        "turn_completed",
        "upload_completed",
        "library_log",
        "stopping",
        "thread_failed",
    } <= events


def _run(database: PostgresDsns, tmp_path: Path, collector: Collector) -> tuple[str, str]:
    """What the server wrote, and its metrics before and behind the work."""
    broken_model = tmp_path / "broken.ggml"
    broken_model.write_bytes(b"lmgg" + bytes(64))
    add_model_file(tmp_path / "models", broken_model, model_id="broken", architecture="llama")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DARI_")} | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "DARI_LISTEN_ADDRESS": "127.0.0.1:0",
        "DARI_ADMIN_ADDRESS": "127.0.0.1:0",
        "DARI_METRICS_ADDRESS": "127.0.0.1:0",
        "DARI_OTLP_HEADERS": json.dumps({"x-key": CANARY}),
        "DARI_DATA_DIR": str(tmp_path),
        "DARI_DATABASE_DSN": f"{database.service_dsn} application_name={CANARY}",
        "DARI_LOCAL_MODEL": "broken",
        "DARI_OTLP_ENDPOINT": collector.url,
        "DARI_SECRETS": json.dumps({"key": CANARY}),
        "DARI_NOTIFY_URLS": json.dumps({"ops": f"json://user:{CANARY}@127.0.0.1:1/{CANARY}"}),
        "DARI_CIRCUIT_CONSECUTIVE_FAILURES": "100",
        "GRPC_ENABLE_FORK_SUPPORT": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            address, metrics_address = process.stdout.readline().split()
            pages = page(metrics_address)
            with RunningDari(address) as dari:
                _talk(dari)
            pages += page(metrics_address)
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert output == ""
    return errors, pages


def _talk(dari: RunningDari) -> None:
    """Calls with a canary in everything that a caller sends."""
    dari.make_knowledge_base("sales", f"id,name\n1,{CANARY}\n2,{CANARY},{CANARY}\n")
    dari.make_flowise("dead", f"http://{CANARY}.invalid:1", secret="key")
    dari.make_local("local")
    dari.make_chat("bot", "dead", "local", over=("sales",))
    assert CANARY in dari.ask(CANARY).answer

    # What comes with a call, and is no part of the question.
    dari.mapping.ListAiModels(
        mapping_pb2.ListAiModelsRequest(),
        metadata=(
            ("authorization", f"Bearer {CANARY}"),
            ("traceparent", f"00-{CANARY}"),
            ("x-request-id", f"{CANARY} with blanks"),
            ("accept-language", CANARY),
        ),
    )

    turn = dari.stream(CANARY)
    next(turn)
    turn.cancel()
    with suppress(grpc.RpcError):
        dari.ask(CANARY, timeout_s=0.001)
    for wrong in (CANARY, f"chatConfigurations/{CANARY}", f"{CANARY}/{CANARY}"):
        _refused(lambda wrong=wrong: dari.chat.Ask(chat_pb2.AskRequest(chat_configuration=wrong, question=CANARY)))
    _refused(lambda: dari.mapping.GetAiModel(mapping_pb2.GetAiModelRequest(name=f"aiModels/{CANARY}")))
    _refused(lambda: dari.ingest.Search(ingest_pb2.SearchRequest(query=CANARY)))
    # Bytes that are no message: gRPC logs the exception of the parser.
    for method in ("ListAiModels", CANARY):
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = dari.channel.unary_unary(
            f"/dari.v1.MappingService/{method}", lambda raw: raw, lambda raw: raw
        )
        _refused(partial(call, b"\xff" + CANARY.encode()))

    chunk = ingest_pb2.UploadChunk(offset_bytes=0, data=f"id,{CANARY}\0\n1,{CANARY}\n".encode())
    finish = ingest_pb2.FinishUpload(total_size_bytes=len(chunk.data))
    opening = ingest_pb2.IngestRequest(
        open=ingest_pb2.OpenUpload(
            knowledge_base="knowledgeBases/sales",
            upload_id=str(uuid4()),
            mode=ingest_pb2.UPLOAD_MODE_REPLACE,
            dialect=ingest_pb2.Dialect(header_rows=1, preamble_lines=0, encoding=ingest_pb2.ENCODING_UTF_8),
        )
    )
    chunk_message = ingest_pb2.IngestRequest(chunk=chunk)
    # A header that cannot be stored; a stream that ends too early; one that is left.
    _refused(lambda: list(dari.ingest.Ingest(iter([opening, chunk_message, ingest_pb2.IngestRequest(finish=finish)]))))
    opening.open.upload_id = str(uuid4())
    _refused(lambda: list(dari.ingest.Ingest(iter([opening, chunk_message]))))
    opening.open.upload_id = str(uuid4())
    left = threading.Event()
    answers = dari.ingest.Ingest(_open_until(left, opening, chunk_message))
    next(answers)
    answers.cancel()
    left.set()


def _open_until(left: threading.Event, *messages: ingest_pb2.IngestRequest) -> Iterator[ingest_pb2.IngestRequest]:
    yield from messages
    left.wait(WAIT_S)


def _refused(call: object) -> None:
    assert callable(call)
    with pytest.raises(grpc.RpcError):
        call()
