"""`dari drill` on a real server: what it finds, what it leaves as it was, and that it cleans up whatever ends it."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dari import cli
from dari.adapters.local_model.model_files import ModelFile
from dari.client import Access
from dari.commands.exit_codes import ExitCode
from dari.core.callers import Role
from dari.v1 import chat_pb2, mapping_pb2
from tests.fix_server import ServedDari, StartServer
from tests.flowise_stand_in import StandIn, answer, fail_after
from tests.support.credentials import TokenHolders
from tests.support.running_dari import RunningDari
from tests.support.serving_process import environment
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("wide_terminal")

Captured = pytest.CaptureFixture[str]
CANARY = "canary-2d81"
FAULTS = ["answers", "refuses", "stalls", "cuts", "fails"]
QUESTION = "Where is Gimpo?"
BRIEFLY = ("--first-token-timeout-s", "0.3")


@pytest.fixture
def flowise() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def served(start_server: StartServer, flowise: StandIn) -> ServedDari:
    """A chatbot with two models on one server, over data that both may see."""
    served = start_server()
    served.dari.make_knowledge_base("airports", "code,city\nGMP,Gimpo\nLGA,New York\n")
    served.dari.make_flowise("first", flowise.url)
    served.dari.make_flowise("second", flowise.url)
    served.dari.make_chat("bot", "first", "second", over=("airports",))
    return served


def drill(served: ServedDari, capsys: Captured, *arguments: object, chat: str = "bot") -> tuple[int, dict[str, Any]]:
    """The exit code, and the report."""
    command = ["--address", served.server.address, "--json", "drill", chat, "--question", QUESTION, *BRIEFLY]
    code = cli.run([*command, *map(str, arguments)])
    output = capsys.readouterr()
    assert QUESTION not in output.out + output.err
    return code, json.loads(output.out)


def of(report: dict[str, Any], fault: str) -> dict[str, Any]:
    (found,) = (each for each in report["rehearsed"] if each["fault"] == fault)
    assert isinstance(found, dict)
    return found


def left(dari: RunningDari) -> set[str]:
    """Everything of the mapping whose name is a drill's, and conversations of chatbots that are not there."""
    models = dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest()).ai_models
    chats = dari.mapping.ListChatConfigurations(mapping_pb2.ListChatConfigurationsRequest()).chat_configurations
    conversations = dari.chat.ListConversations(chat_pb2.ListConversationsRequest()).conversations
    names = {*(each.name for each in models), *(each.name for each in chats)}
    return {name for name in names if "drill-" in name} | {each.name for each in conversations}


def links(dari: RunningDari) -> str:
    return str(dari.mapping.ListMappings(mapping_pb2.ListMappingsRequest()))


def test_each_fault_is_answered_by_the_next_model_and_told(
    served: ServedDari, flowise: StandIn, capsys: Captured
) -> None:
    """Told as it was: who answered, which attempt failed and how; and nothing is left or changed."""
    flowise.always(answer("From the second."))
    before = links(served.dari)
    code, report = drill(served, capsys)
    assert (code, report["passed"]) == (ExitCode.OK, True), report
    assert [each["fault"] for each in report["rehearsed"]] == FAULTS
    assert of(report, "answers")["answeredBy"].startswith("aiModels/drill-")
    outcomes = {}
    for fault in FAULTS[1:]:
        found = of(report, fault)
        assert found["answeredBy"] == "aiModels/second"
        assert found["degradedReasons"] == ["stand in"]
        first, second = found["attempts"]
        assert second == {**second, "aiModel": "aiModels/second", "outcome": "answered"}
        outcomes[fault] = (first["outcome"], first["code"])
    assert outcomes == {
        "refuses": ("failed", "connection_refused"),
        "stalls": ("timed out", "first_token_timeout"),
        "cuts": ("failed", "stream_cut"),
        "fails": ("failed", "flowise_error"),
    }
    assert of(report, "stalls")["firstTextS"] >= 0.3
    assert report["standIns"] == ["aiModels/second"]
    assert left(served.dari) == set()
    assert links(served.dari) == before
    assert {each.flow_id for each in flowise.questions} == {flowise.questions[0].flow_id}
    assert len(flowise.questions) == 4


def test_circuits_of_real_upstreams_see_turns_and_no_fault(
    served: ServedDari, flowise: StandIn, capsys: Captured
) -> None:
    """The first model of the chat is not asked at all, and what the drill's own models did is forgotten with them."""
    served.dari.ask(QUESTION)
    before = served.dari.chat.ListUpstreams(chat_pb2.ListUpstreamsRequest()).upstreams
    assert drill(served, capsys)[0] == ExitCode.OK
    after = served.dari.chat.ListUpstreams(chat_pb2.ListUpstreamsRequest()).upstreams
    assert [each.ai_model for each in before] == ["aiModels/first"]
    assert [each.ai_model for each in after] == ["aiModels/first", "aiModels/second"]
    for upstream in after:
        assert upstream.circuit_state == chat_pb2.CIRCUIT_STATE_CLOSED
        assert (upstream.consecutive_failures, upstream.failure_rate, upstream.last_failure_code) == (0, 0, "")


def test_without_a_model_the_rows_answer(served: ServedDari, flowise: StandIn, capsys: Captured) -> None:
    code, report = drill(served, capsys, "--rows-only", "--fault", "refuses", "--fault", "cuts")
    assert code == ExitCode.OK, report
    assert [each["fault"] for each in report["rehearsed"]] == ["answers", "refuses", "cuts"]
    assert {of(report, fault)["answeredBy"] for fault in ("refuses", "cuts")} == {"the rows alone"}
    assert of(report, "cuts")["degradedReasons"] == ["rows only"]
    assert flowise.questions == []
    assert left(served.dari) == set()


def test_the_local_model_stands_in(
    start_server: StartServer, default_model: ModelFile, tmp_path: Path, capsys: Captured
) -> None:
    """The real one: for an upstream that is down, and for one that dies in the middle of its answer."""
    (tmp_path / "models").symlink_to(default_model.path.parent)
    served = start_server(local_model=default_model.id)
    served.dari.make_local("local", max_answer_tokens=8)
    served.dari.make_chat("bot", "local")
    until(lambda: served.dari.ask(QUESTION).answered_by == chat_pb2.ANSWERER_LOCAL)
    options = ("--stand-in", "local", "--fault", "refuses", "--fault", "cuts")
    code, report = drill(served, capsys, *options)
    assert code == ExitCode.OK, report
    for fault in ("refuses", "cuts"):
        assert of(report, fault)["answeredBy"] == "aiModels/local"
        assert of(report, fault)["answerChars"] > 0


def test_a_stand_in_can_be_named(served: ServedDari, flowise: StandIn, capsys: Captured) -> None:
    served.dari.make_openai("broken", "http://127.0.0.1:1")
    code, report = drill(served, capsys, "--stand-in", "broken", "--stand-in", "first", "--fault", "fails")
    assert code == ExitCode.OK, report
    assert [each["aiModel"] for each in of(report, "fails")["attempts"][1:]] == ["aiModels/broken", "aiModels/first"]


def test_a_chat_that_goes_dark_fails_the_drill(served: ServedDari, flowise: StandIn, capsys: Captured) -> None:
    """No model that answers, and no data: the drill says so, and cleans up."""
    flowise.always(fail_after())
    served.dari.make_chat("dark", "first", "second")
    code, report = drill(served, capsys, "--fault", "refuses", chat="dark")
    assert (code, report["passed"]) == (ExitCode.NOT_WELL, False)
    (problem,) = of(report, "refuses")["problems"]
    assert problem.startswith("there was no answer: UNAVAILABLE")
    assert left(served.dari) == set()


def test_an_address_that_the_server_does_not_reach_is_told_and_nothing_more_is_asked(
    served: ServedDari, flowise: StandIn, capsys: Captured
) -> None:
    """Else every fault would look as if the test upstream had refused, and the drill as if it had passed."""
    code, report = drill(served, capsys, "--advertise", "nobody.invalid")
    assert code == ExitCode.NOT_WELL
    (control,) = report["rehearsed"]
    assert "the server does not reach http://nobody.invalid:" in control["problems"][0]
    assert "--advertise" in control["problems"][0]
    assert left(served.dari) == set()


def test_the_report_is_written_for_people_and_for_programs(
    served: ServedDari, flowise: StandIn, capsys: Captured, tmp_path: Path
) -> None:
    """It holds who answered and how fast, and no word of question and answer."""
    flowise.always(answer(CANARY))
    page, file = tmp_path / "drill.html", tmp_path / "drill.json"
    command = ["--address", served.server.address, "drill", "bot", *BRIEFLY, "--question", QUESTION]
    assert cli.run([*command, "--report", str(page), "--report", str(file)]) == ExitCode.OK
    output = capsys.readouterr()
    assert "aiModels/second" in output.out
    assert "as it must" in output.out
    report = json.loads(file.read_text())
    assert [each["fault"] for each in report["rehearsed"]] == FAULTS
    html = page.read_text()
    assert html.count("<rect") == sum(len(each["attempts"]) for each in report["rehearsed"])
    assert "timed out first_token_timeout after" in html
    for text in (output.out, output.err, html, file.read_text()):
        assert CANARY not in text
        assert QUESTION not in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--report", "drill.txt"], "must end in .html or .json"),
        (["--rows-only", "--stand-in", "x"], "contradict"),
        (["--listen", "here"], "must be HOST:PORT"),
        (["--fault", "burns"], "burns"),
    ],
)
def test_wrong_options_are_refused(capsys: Captured, arguments: list[str], told: str) -> None:
    assert cli.run(["drill", "bot", *arguments]) == ExitCode.USAGE
    assert told in capsys.readouterr().err


def test_a_chat_that_is_not_there_is_told(served: ServedDari, capsys: Captured) -> None:
    assert cli.run(["--address", served.server.address, "drill", "nobody"]) == ExitCode.FAILED
    assert "NOT_FOUND" in capsys.readouterr().err


def test_who_may_not_change_the_mapping_may_not_drill(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    holders = TokenHolders(tmp_path / "tokens.toml")
    admins, operators = (holders.add("default", role) for role in (Role.ADMIN, Role.OPERATOR))
    served = start_server(tokens_file=holders.path)
    with RunningDari(served.server.address, Access(token=admins)) as admin:
        admin.make_chat("bot")
    monkeypatch.setenv("DARI_TOKEN", operators)
    assert cli.run(["--address", served.server.address, "drill", "bot"]) == ExitCode.FAILED
    assert "PERMISSION_DENIED" in capsys.readouterr().err


@contextmanager
def stalling_drill(served: ServedDari) -> Iterator[subprocess.Popen[bytes]]:
    """A drill in a process of its own, which waits for an answer of its test upstream."""
    command = [sys.executable, "-m", "dari", "--address", served.server.address, "drill", "bot", "--fault", "stalls"]
    before = left(served.dari)
    with subprocess.Popen([*command, "--first-token-timeout-s", "120"], env=environment()) as process:
        try:
            until(lambda: any(name.endswith("-stalls") for name in left(served.dari) - before if "chatC" in name))
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_drill_that_is_stopped_cleans_up(served: ServedDari, flowise: StandIn, number: signal.Signals) -> None:
    with stalling_drill(served) as process:
        process.send_signal(number)
        assert process.wait(30) == ExitCode.INTERRUPTED
    assert left(served.dari) == set()


def test_what_a_drill_that_was_killed_left_behind_is_removed_by_the_next(
    served: ServedDari, flowise: StandIn, capsys: Captured
) -> None:
    """And nothing that people have made, nor what a drill that goes on has made."""
    people = mapping_pb2.CreateChatConfigurationRequest(chat_configuration_id="drill-sergeant")
    served.dari.mapping.CreateChatConfiguration(people)
    with stalling_drill(served) as killed:
        killed.kill()
        killed.wait()
    abandoned = {name for name in left(served.dari) if name.rpartition("-")[2] in FAULTS}
    assert len(abandoned) >= 4, "two AI models and two chat configurations"
    with stalling_drill(served) as other:
        (others_run,) = {name.split("-")[1] for name in left(served.dari) if name.startswith("aiModels/drill-")}
        assert others_run not in {name.split("-")[1] for name in abandoned}, "it has removed what the killed one left"
        code, report = drill(served, capsys, "--fault", "refuses")
        assert (code, report["removed"]) == (ExitCode.OK, [])
        assert {name.split("-")[1] for name in left(served.dari) if name.startswith("aiModels/")} == {others_run}
        other.kill()
        other.wait()
    code, report = drill(served, capsys, "--fault", "refuses")
    assert {name.split("-")[1] for name in report["removed"]} == {others_run}
    assert left(served.dari) == {"chatConfigurations/drill-sergeant"}
