"""The command line against a fake server: results on stdout, the rest on stderr, exit codes by the table."""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from dari import cli
from dari.commands.exit_codes import ExitCode
from dari.v1 import chat_pb2, ingest_pb2, mapping_pb2
from tests.fix_postgres import PostgresDsns
from tests.fix_server import ServedDari
from tests.support.fake_dari import FakeDari, Fault, refuse

pytestmark = pytest.mark.usefixtures("wide_terminal")

Captured = pytest.CaptureFixture[str]

CSV = b"id,name\n1,JetBlue Airways\n2,\xeb\x8c\x80\xed\x95\x9c\xed\x95\xad\xea\xb3\xb5\n"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "sales.csv"
    path.write_bytes(CSV)
    return path


def run(dari: FakeDari, *arguments: str) -> int:
    return cli.run(["--address", dari.address, *arguments])


def run_json(dari: FakeDari, capsys: Captured, *arguments: str) -> list[dict[str, Any]]:
    """The objects on stdout; every line must be one."""
    assert cli.run(["--address", dari.address, "--json", *arguments]) == ExitCode.OK
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_help_loads_neither_grpc_nor_the_server() -> None:
    """`dari --help` and `dari map --help` are quick: what is heavy is imported by the command that needs it."""
    script = (
        "import sys, dari.cli\n"
        "assert dari.cli.run(['--help']) == 0 and dari.cli.run(['map', '--help']) == 0\n"
        "assert dari.cli.run(['notify', '--help']) == 0\n"
        "heavy = {'grpc', 'google.protobuf', 'pydantic_settings', 'psycopg2', 'httpx', 'apprise'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


WRONG_USAGE = [
    ["nothing"],
    ["ingest"],
    ["ingest", "a.csv"],
    ["ingest", "a.csv", "--kb", "sales", "--mode", "merge"],
    ["ingest", __file__, __file__, "--kb", "sales", "--upload-id", "one"],
    ["ingest", __file__, "--kb", "sales", "--no-header", "--header-rows", "2"],
    ["ingest", __file__, "--kb", "sales", "--encoding", "utf-7"],
    ["rejected", "upload-1", "--output", "a.csv"],
    ["--json", "export", "sales"],
    ["--json", "rejected", "upload-1", "--csv"],
    ["map", "link", "flights"],
    ["map", "model", "create", "m"],
    ["--unknown"],
]


@pytest.mark.parametrize("arguments", WRONG_USAGE)
def test_wrong_usage_ends_with_two(arguments: list[str], capsys: Captured) -> None:
    """Nothing on stdout, the mistake on stderr."""
    assert cli.run(arguments) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


def test_ingest_sends_a_file_and_prints_its_receipt(dari: FakeDari, csv: Path, capsys: Captured) -> None:
    """The bytes are there, and the table says how many rows."""
    assert run(dari, "ingest", str(csv), "--kb", "sales") == ExitCode.OK
    (upload,) = dari.ingest.uploads.values()
    assert upload.safe == CSV
    assert upload.opening.mode == ingest_pb2.UPLOAD_MODE_REPLACE
    assert "knowledgeBases/sales, version 1 (replace)" in capsys.readouterr().out


def test_ingest_hands_every_hint_and_limit_on(dari: FakeDari, csv: Path) -> None:
    """Every option reaches `open`."""
    options = [
        *("--mode", "append", "--delimiter", r"\t", "--quote", "none", "--escape", "\\", "--comment", "#"),
        *("--no-header", "--trim-blanks", "--preamble-lines", "3", "--encoding", "cp949"),
        *("--max-rejected-rows", "7", "--max-rejected-share", "0.25"),
        *("--invalid-bytes", "replace", "--ragged-rows", "reject"),
    ]
    assert run(dari, "ingest", str(csv), "--kb", "sales", "--upload-id", "sales-7", *options) == ExitCode.OK
    assert dari.ingest.openings == [
        ingest_pb2.OpenUpload(
            knowledge_base="knowledgeBases/sales",
            upload_id="sales-7",
            mode=ingest_pb2.UPLOAD_MODE_APPEND,
            dialect=ingest_pb2.Dialect(
                delimiter="\t",
                quote="none",
                escape="\\",
                comment="#",
                header_rows=0,
                trims_blanks=True,
                preamble_lines=3,
                encoding=ingest_pb2.ENCODING_CP949,
            ),
            max_rejected_rows=7,
            max_rejected_share=0.25,
            invalid_bytes=ingest_pb2.INVALID_BYTES_REPLACE,
            ragged_rows=ingest_pb2.RAGGED_ROWS_REJECT,
        )
    ]


def test_what_is_not_said_is_found_out(dari: FakeDari, csv: Path) -> None:
    """No hint is set, and no limit."""
    assert run(dari, "ingest", str(csv), "--kb", "sales", "--upload-id", "sales-7") == ExitCode.OK
    (opening,) = dari.ingest.openings
    assert not opening.dialect.ListFields()
    assert not opening.HasField("max_rejected_rows")
    assert not opening.HasField("max_rejected_share")


def test_ingest_in_json_prints_one_receipt_a_file(dari: FakeDari, csv: Path, capsys: Captured) -> None:
    """The first file replaces, the second comes after it."""
    other = csv.with_name("more.csv")
    other.write_bytes(b"id,name\n3,Delta\n")
    first, second = run_json(dari, capsys, "ingest", str(csv), str(other), "--kb", "sales")
    assert (first["mode"], second["mode"]) == ("UPLOAD_MODE_REPLACE", "UPLOAD_MODE_APPEND")
    assert first["sizeBytes"] == str(len(CSV))


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_the_same_command_again_sends_nothing(dari: FakeDari, csv: Path, capsys: Captured, mode: str) -> None:
    """The upload is named by the file's content: the receipt comes again, and says so."""
    assert run(dari, "ingest", str(csv), "--kb", "sales", "--mode", mode) == ExitCode.OK
    assert run(dari, "ingest", str(csv), "--kb", "sales", "--mode", mode) == ExitCode.OK
    assert len(dari.ingest.uploads) == 1
    assert dari.ingest.chunks_taken == 1
    assert "nothing was sent" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_a_file_whose_rows_were_replaced_is_sent_again(dari: FakeDari, csv: Path, mode: str) -> None:
    """A, then B instead, then A: the receipt of the first A would be a lie, so A gets a new upload."""
    other = csv.with_name("other.csv")
    other.write_bytes(b"id,name\n9,Other\n")
    assert run(dari, "ingest", str(csv), "--kb", "sales", "--mode", mode) == ExitCode.OK
    assert run(dari, "ingest", str(other), "--kb", "sales") == ExitCode.OK
    assert run(dari, "ingest", str(csv), "--kb", "sales", "--mode", mode) == ExitCode.OK
    first, _, last = dari.ingest.openings
    assert last.upload_id == f"{first.upload_id}.2"


def test_an_appended_file_stands_while_others_are_appended(dari: FakeDari, csv: Path) -> None:
    """A, then B after it, then A again by the same command: A is in, and is not doubled."""
    other = csv.with_name("other.csv")
    other.write_bytes(b"id,name\n9,Other\n")
    for path in (csv, other, csv):
        assert run(dari, "ingest", str(path), "--kb", "sales", "--mode", "append") == ExitCode.OK
    assert len(dari.ingest.uploads) == 2


def test_an_interrupted_command_goes_on(dari: FakeDari, tmp_path: Path, capsys: Captured) -> None:
    """The first run gives up and says what is safe; the same command goes on there under the same id."""
    path = tmp_path / "big.csv"
    path.write_bytes(b"a line of a big file\n" * 100_000)
    dari.ingest.faults.append(Fault(1_500_000))
    command = ["ingest", str(path), "--kb", "sales", "--give-up-after-s", "0"]
    assert run(dari, *command) == ExitCode.UNAVAILABLE
    assert "bytes of upload" in capsys.readouterr().err
    taken = dari.ingest.chunks_taken
    assert run(dari, *command) == ExitCode.OK
    (upload,) = dari.ingest.uploads.values()
    assert upload.safe == path.read_bytes()
    assert dari.ingest.chunks_taken - taken <= 5


def test_an_upload_that_is_stopped_by_hand_says_how_to_go_on(tmp_path: Path) -> None:
    """Ctrl-C in a process of its own, once the server has something: exit code of the shell, the id on stderr."""
    path = tmp_path / "big.csv"
    path.write_bytes(b"a line of a big file\n" * 100_000)
    with FakeDari() as dari:
        dari.ingest.may_take.clear()
        command = [sys.executable, "-m", "dari", "--address", dari.address, "ingest", str(path), "--kb", "sales"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert dari.ingest.opened.wait(timeout=60)
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1]
    assert process.returncode == ExitCode.INTERRUPTED
    assert f"--upload-id {dari.ingest.openings[0].upload_id}" in said


def test_ingest_makes_the_knowledge_base(dari: FakeDari, csv: Path, capsys: Captured) -> None:
    """--create; without it a missing one is an error that names it."""
    assert run(dari, "ingest", str(csv), "--kb", "new") == ExitCode.FAILED
    assert "NOT_FOUND" in capsys.readouterr().err
    assert run(dari, "ingest", str(csv), "--kb", "new", "--create") == ExitCode.OK
    assert run(dari, "ingest", str(csv), "--kb", "new", "--create") == ExitCode.OK


def test_ingest_reads_stdin(dari: FakeDari, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` is a pipe without a name or an end known in advance."""

    class Stdin:
        buffer = io.BytesIO(CSV)

    monkeypatch.setattr(sys, "stdin", Stdin())
    assert run(dari, "ingest", "-", "--kb", "sales") == ExitCode.OK
    (upload,) = dari.ingest.uploads.values()
    assert upload.safe == CSV


def test_a_missing_file_ends_with_no_input(dari: FakeDari, tmp_path: Path, capsys: Captured) -> None:
    """The name of the file is on stderr, and the server was not asked to open anything."""
    assert run(dari, "ingest", str(tmp_path / "none.csv"), "--kb", "sales") == ExitCode.NO_INPUT
    assert "none.csv" in capsys.readouterr().err
    assert not dari.ingest.openings


def test_a_refusal_in_json_is_an_object_on_stderr(dari: FakeDari, csv: Path, capsys: Captured) -> None:
    """Nothing is on stdout, so that a script can tell."""
    assert run(dari, "--json", "ingest", str(csv), "--kb", "none") == ExitCode.FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    error = json.loads(captured.err)["error"]
    assert (error["code"], error["reason"]) == ("NOT_FOUND", "NOT_FOUND")
    assert error["metadata"] == {"resource": "knowledgeBases/none"}


def test_a_server_that_is_away_ends_with_unavailable(capsys: Captured) -> None:
    """A port where nobody can listen."""
    assert cli.run(["--address", "127.0.0.1:1", "map", "model", "list"]) == ExitCode.UNAVAILABLE
    assert "UNAVAILABLE" in capsys.readouterr().err


def turn_script(request: chat_pb2.ChatRequest, context: grpc.ServicerContext) -> Iterator[chat_pb2.ChatResponse]:
    """Flowise refuses; a model stops in the middle; the local one answers over one row."""
    del request, context
    refused = chat_pb2.Attempt(
        ai_model="aiModels/flowise",
        answerer=chat_pb2.ANSWERER_FLOWISE,
        outcome=chat_pb2.ATTEMPT_OUTCOME_FAILED,
        code="connection_refused",
    )
    cut = chat_pb2.Attempt(ai_model="aiModels/vllm", outcome=chat_pb2.ATTEMPT_OUTCOME_TIMED_OUT, code="stalled")
    turn = chat_pb2.Turn(
        name="conversations/1/turns/1",
        answer="JetBlue is B6.",
        answered_by=chat_pb2.ANSWERER_LOCAL,
        ai_model="aiModels/local",
        degraded=True,
        degraded_reasons=[chat_pb2.DEGRADED_REASON_STAND_IN],
        citations=[
            chat_pb2.Citation(
                number=1,
                knowledge_base="knowledgeBases/airlines",
                version=3,
                row_number=4,
                cells=[ingest_pb2.Cell(column="carrier", text="B6"), ingest_pb2.Cell(column="name", text="[red]x")],
            )
        ],
    )
    yield chat_pb2.ChatResponse(started=chat_pb2.TurnStarted(conversation="conversations/1"))
    yield chat_pb2.ChatResponse(attempt_ended=chat_pb2.AttemptEnded(attempt=refused))
    stand_in = chat_pb2.Notice(kind=chat_pb2.NOTICE_KIND_STAND_IN, text="A stand-in \x1b[2Janswers.")
    yield chat_pb2.ChatResponse(notice=stand_in)
    yield chat_pb2.ChatResponse(token=chat_pb2.Token(text="Jet"))
    yield chat_pb2.ChatResponse(superseded=chat_pb2.Superseded(attempt=cut))
    yield chat_pb2.ChatResponse(token=chat_pb2.Token(text="JetBlue \x1b[2J"))
    yield chat_pb2.ChatResponse(token=chat_pb2.Token(text="is B6."))
    yield chat_pb2.ChatResponse(completed=chat_pb2.TurnCompleted(turn=turn))


def test_chat_shows_the_answer_and_where_it_is_from(dari: FakeDari, capsys: Captured) -> None:
    """Text and citations on stdout; attempts, the void text and the stand-in on stderr; no control characters."""
    dari.chat.script = turn_script
    assert run(dari, "chat", "Which code?", "--chat", "flights") == ExitCode.OK
    assert dari.chat.requests[0].chat_configuration == "chatConfigurations/flights"
    captured = capsys.readouterr()
    assert "JetBlue [2Jis B6." in captured.out
    assert "carrier: B6, name: [red]x" in captured.out
    assert "\x1b" not in captured.out
    for said in ("connection_refused", "drop the text above", "aiModels/local (local)", "! A stand-in [2Janswers."):
        assert said in captured.err


def test_chat_names_the_language_that_notices_are_wanted_in(dari: FakeDari) -> None:
    """Where none is wanted, none is named: the question's is taken."""
    dari.chat.script = turn_script
    assert run(dari, "chat", "Which code?", "--chat", "flights") == ExitCode.OK
    assert dari.chat.accept_languages == []
    assert run(dari, "chat", "Which code?", "--chat", "flights", "--language", "ko") == ExitCode.OK
    assert dari.chat.accept_languages == ["ko"]


def test_chat_in_json_prints_every_event(dari: FakeDari, capsys: Captured) -> None:
    """One event a line, as the wire has them."""
    dari.chat.script = turn_script
    events = run_json(dari, capsys, "chat", "Which code?", "--chat", "flights")
    kinds = [next(iter(event)) for event in events]
    assert kinds == ["started", "attemptEnded", "notice", "token", "superseded", "token", "token", "completed"]
    assert events[-1]["completed"]["turn"]["aiModel"] == "aiModels/local"


def test_a_conversation_goes_on_line_by_line(dari: FakeDari, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second question is of the first one's conversation; the end of the input ends it well."""
    dari.chat.script = turn_script
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\nsecond\n"))
    assert run(dari, "chat", "--chat", "flights") == ExitCode.OK
    assert [(asked.question, asked.conversation) for asked in dari.chat.requests] == [
        ("first", ""),
        ("second", "conversations/1"),
    ]


def test_a_failed_turn_does_not_end_the_conversation(
    dari: FakeDari, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """It is told, and the next question is asked."""

    def script(request: chat_pb2.ChatRequest, context: grpc.ServicerContext) -> Iterator[chat_pb2.ChatResponse]:
        if request.question == "first":
            refuse(context, grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "No model lives.")
        yield from turn_script(request, context)

    dari.chat.script = script
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\nsecond\n"))
    assert run(dari, "chat", "--chat", "flights") == ExitCode.OK
    assert "No model lives." in capsys.readouterr().err
    assert len(dari.chat.requests) == 2


def test_chat_takes_the_only_configuration(dari: FakeDari, capsys: Captured) -> None:
    """None, one, two: refused with what to do, taken, refused with their names."""
    dari.chat.script = turn_script
    assert run(dari, "chat", "Which code?") == ExitCode.USAGE
    assert "dari map chat create" in capsys.readouterr().err
    run(dari, "map", "chat", "create", "flights")
    assert run(dari, "chat", "Which code?") == ExitCode.OK
    assert dari.chat.requests[-1].chat_configuration == "chatConfigurations/flights"
    run(dari, "map", "chat", "create", "sales")
    assert run(dari, "chat", "Which code?") == ExitCode.USAGE


def test_map_makes_the_three_kinds_and_links_them(dari: FakeDari, capsys: Captured) -> None:
    """Each command is one call, with ids or whole names."""
    url = "http://flowise:3000"
    (flowise,) = run_json(
        dari, capsys, "map", "model", "create", "main", "--kind", "flowise", "--url", url, "--flow", "f-1"
    )
    assert flowise["flowise"] == {"baseUrl": url, "flowId": "f-1", "apiKeySecret": ""}
    (openai,) = run_json(
        dari, capsys, "map", "model", "create", "vllm", "--kind", "openai", "--url", url, "--model", "m",
        "--first-token-timeout-s", "2.5", "--context-tokens", "32768",
    )  # fmt: skip
    assert (openai["openaiCompatible"]["model"], openai["firstTokenTimeout"]) == ("m", "2.500s")
    assert openai["contextTokens"] == 32_768
    run_json(dari, capsys, "map", "model", "create", "local", "--kind", "local")
    (chat,) = run_json(
        dari, capsys, "map", "chat", "create", "flights", "--max-rows", "3", "--stand-by", "race",
        "--stand-by-after-s", "0.5",
    )  # fmt: skip
    assert (chat["maxRows"], chat["standBy"], chat["standByAfter"]) == (3, "STAND_BY_RACE", "0.500s")
    run_json(dari, capsys, "map", "kb", "create", "airlines")
    links = run_json(
        dari, capsys, "map", "link", "flights", "--model", "main", "--model", "aiModels/local", "--kb", "airlines"
    )
    assert [link.get("priority") for link in links] == [0, 1, None]
    (granted,) = run_json(dari, capsys, "map", "grant", "local", "airlines")
    assert (granted["aiModel"], granted["knowledgeBase"]) == ("aiModels/local", "knowledgeBases/airlines")
    names = [model["name"] for model in run_json(dari, capsys, "map", "model", "list")]
    assert names == ["aiModels/local", "aiModels/main", "aiModels/vllm"]


def test_a_refused_field_is_shown(dari: FakeDari, capsys: Captured) -> None:
    """Each violation on a line of its own."""
    assert run(dari, "map", "model", "create", "Größe!", "--kind", "local") == ExitCode.FAILED
    assert "ai_model_id: must be a-z" in capsys.readouterr().err


def test_deleting_what_is_linked_needs_force(dari: FakeDari, capsys: Captured) -> None:
    """The refusal is shown; --force is handed on."""
    run(dari, "map", "model", "create", "local", "--kind", "local")
    assert run(dari, "map", "model", "delete", "local") == ExitCode.FAILED
    assert "STILL_LINKED" in capsys.readouterr().err
    assert run(dari, "map", "model", "delete", "local", "--force") == ExitCode.OK


def test_status_shows_health_circuits_and_open_uploads(dari: FakeDari, csv: Path, capsys: Captured) -> None:
    """One object in JSON; finished uploads are left out."""
    run(dari, "ingest", str(csv), "--kb", "sales")
    dari.ingest.faults.append(Fault(1))
    run(dari, "ingest", str(csv), "--kb", "sales", "--upload-id", "open-1", "--give-up-after-s", "0")
    dari.chat.upstreams = [
        chat_pb2.Upstream(ai_model="aiModels/main", circuit_state=chat_pb2.CIRCUIT_STATE_OPEN, consecutive_failures=3)
    ]
    capsys.readouterr()
    (state,) = run_json(dari, capsys, "status", "--admin-address", dari.address)
    assert state["health"] == "SERVING"
    assert [upstream["circuitState"] for upstream in state["upstreams"]] == ["CIRCUIT_STATE_OPEN"]
    assert [upload["name"] for upload in state["uploads"]] == ["uploads/open-1"]
    assert set(state["services"].values()) == {"SERVICE_UNKNOWN"}, "the fake's health knows the whole alone"
    assert run(dari, "status", "--admin-address", dari.address) == ExitCode.OK
    assert "aiModels/main" in capsys.readouterr().out


def test_status_shows_the_syncs_that_need_an_eye(dari: FakeDari, capsys: Captured) -> None:
    """Only the latest of each knowledge base counts: one that failed and then went well is no news."""
    states = mapping_pb2.SyncState
    dari.mapping.syncs = [
        mapping_pb2.Sync(knowledge_base=f"knowledgeBases/{base}", number=number, state=state, code=code)
        for base, number, state, code in (
            ("healed", 2, states.SYNC_STATE_COMPLETED, ""),
            ("ill", 2, states.SYNC_STATE_FAILED, "source_away"),
            ("healed", 1, states.SYNC_STATE_FAILED, "source_away"),
            ("ill", 1, states.SYNC_STATE_UNCHANGED, ""),
            ("shrunk", 1, states.SYNC_STATE_HELD, "shrunk"),
            ("busy", 1, states.SYNC_STATE_RUNNING, ""),
        )
    ]
    (state,) = run_json(dari, capsys, "status", "--admin-address", dari.address)
    assert [sync["knowledgeBase"].partition("/")[2] for sync in state["syncs"]] == ["ill", "shrunk", "busy"]
    assert run(dari, "status", "--admin-address", dari.address) == ExitCode.OK
    assert "source away" in capsys.readouterr().out


def test_status_of_a_real_server_tells_each_service(server: ServedDari, capsys: Captured) -> None:
    address, admin_address = server.server.address, server.server.admin_address
    assert cli.run(["--address", address, "--json", "status", "--admin-address", admin_address]) == ExitCode.OK
    state = json.loads(capsys.readouterr().out)
    assert state["services"] == dict.fromkeys(("ChatService", "IngestService", "MappingService"), "SERVING")
    assert cli.run(["--address", address, "status", "--admin-address", admin_address]) == ExitCode.OK
    assert "IngestService is serving" in capsys.readouterr().out


def test_health_is_asked_without_a_token(dari: FakeDari, capsys: Captured) -> None:
    """For the whole or for one service; where nobody answers, the exit code says so."""
    assert run_json(dari, capsys, "health", "--admin-address", dari.address) == [{"health": "SERVING"}]
    assert run(dari, "health", "--admin-address", "127.0.0.1:1") == ExitCode.UNAVAILABLE
    assert run(dari, "health", "--admin-address", dari.address, "--service", "none.of.Ours") == ExitCode.FAILED


def upstream(state: "chat_pb2.CircuitState.ValueType", **fields: Any) -> chat_pb2.Upstream:
    return chat_pb2.Upstream(ai_model="aiModels/main", circuit_state=state, **fields)


LOADING = chat_pb2.LocalProcess(state=chat_pb2.LOCAL_PROCESS_STATE_LOADING, model_file="smol")
KILLED = chat_pb2.LocalProcess(
    state=chat_pb2.LOCAL_PROCESS_STATE_RESTARTING,
    model_file="smol",
    engine="xllamacpp",
    restarts=2,
    last_failure_code="process_died",
    memory_bytes=3 * 2**20,
)


def test_status_watches_until_the_server_stops(dari: FakeDari, capsys: Captured) -> None:
    """A line for each upstream at first, then for each change, all on stdout; the end is UNAVAILABLE."""
    dari.chat.upstreams = [upstream(chat_pb2.CIRCUIT_STATE_CLOSED)]
    opened = upstream(chat_pb2.CIRCUIT_STATE_OPEN, last_failure_code="stream_cut", open_remaining=Duration(seconds=5))
    half_open = upstream(chat_pb2.CIRCUIT_STATE_HALF_OPEN, last_failure_code="stream_cut")
    local = chat_pb2.Upstream(
        ai_model="aiModels/local", circuit_state=chat_pb2.CIRCUIT_STATE_CLOSED, local_process=KILLED
    )
    dari.chat.changes = [[opened], [half_open, local]]
    assert run(dari, "status", "--watch") == ExitCode.UNAVAILABLE
    captured = capsys.readouterr()
    process = "process restarting: smol on xllamacpp, 0 running, 0 waiting, 2 restarts, 3 MiB"
    assert [line.partition(" ")[2] for line in captured.out.splitlines()] == [
        "aiModels/main circuit closed",
        "aiModels/main circuit open, latest failure stream_cut, tried again in 5.0 s",
        "aiModels/main circuit half open, latest failure stream_cut",
        f"aiModels/local circuit closed; {process}, last ended by process_died",
    ]
    assert "stopping" in captured.err
    assert cli.run(["--address", dari.address, "--json", "status", "--watch"]) == ExitCode.UNAVAILABLE
    told = [json.loads(line)["upstreams"] for line in capsys.readouterr().out.splitlines()]
    assert [len(each) for each in told] == [1, 1, 2]
    dari.chat.upstreams, dari.chat.changes = [], []
    assert run(dari, "status", "--watch") == ExitCode.UNAVAILABLE
    assert "No upstream was asked yet" in capsys.readouterr().err


def test_ctrl_c_ends_a_watch_without_a_trace(dari: FakeDari) -> None:
    """The code is the shell's for SIGINT; the lines so far are out."""
    dari.chat.upstreams = [upstream(chat_pb2.CIRCUIT_STATE_CLOSED)]
    dari.chat.goes_on.clear()
    watching = subprocess.Popen(
        [sys.executable, "-m", "dari", "--address", dari.address, "status", "--watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert "circuit closed" in watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, told = watching.communicate(timeout=30.0)
    dari.chat.goes_on.set()
    assert watching.returncode == ExitCode.INTERRUPTED
    assert "Traceback" not in told


def test_status_shows_the_process_of_the_local_model(dari: FakeDari, capsys: Captured) -> None:
    local = chat_pb2.Upstream(
        ai_model="aiModels/local", circuit_state=chat_pb2.CIRCUIT_STATE_CLOSED, local_process=LOADING
    )
    dari.chat.upstreams = [local, upstream(chat_pb2.CIRCUIT_STATE_DRAINED, failure_rate=0.5)]
    assert run(dari, "status", "--admin-address", dari.address) == ExitCode.OK
    shown = capsys.readouterr().out
    assert "aiModels/local: process loading: smol, 0 running, 0 waiting, 0 restarts" in shown
    assert "drained" in shown and "50%" in shown


def test_wrong_settings_end_with_config(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """All problems at once, before anything is bound, and no value is shown."""
    monkeypatch.setenv("DARI_MAX_UNARY_CALLS", "many-secret")
    monkeypatch.setenv("DARI_NO_SUCH", "x")
    assert cli.run(["serve"]) == ExitCode.CONFIG
    said = capsys.readouterr().err
    assert "DARI_NO_SUCH" in said
    assert "max_unary_calls" in said
    assert "many-secret" not in said


def test_model_list_shows_the_manifest(tmp_path: Path, capsys: Captured) -> None:
    """An empty folder has none; a file that is no model is refused."""
    assert cli.run(["--json", "model", "list", "--data-dir", str(tmp_path)]) == ExitCode.OK
    assert capsys.readouterr().out == ""
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"no model at all")
    assert cli.run(["model", "add", str(wrong), "--data-dir", str(tmp_path)]) == ExitCode.FAILED


def test_a_database_that_is_away_fails_the_migration(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is the migration's own; no traceback, and nothing of the DSN."""
    monkeypatch.setenv("DARI_DATABASE_DSN", "host=127.0.0.1 port=1 user=nobody password=swordfish connect_timeout=1")
    assert cli.run(["migrate"]) == ExitCode.FAILED
    said = capsys.readouterr().err
    assert said
    assert "swordfish" not in said


def test_an_embedded_database_needs_no_migration_by_hand(capsys: Captured) -> None:
    """Without a DSN there is nothing to migrate, and the message says what to set."""
    assert cli.run(["migrate"]) == ExitCode.CONFIG
    assert "DARI_DATABASE_DSN" in capsys.readouterr().err


def test_migrate_brings_a_database_of_ones_own_up_to_date(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, database: PostgresDsns
) -> None:
    """The one user makes, the other serves; what is done already is not done again."""
    monkeypatch.setenv("DARI_DATABASE_DSN", database.service_dsn)
    monkeypatch.setenv("DARI_MIGRATION_DSN", database.admin_dsn)
    assert cli.run(["--json", "migrate"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {"applied": []}
