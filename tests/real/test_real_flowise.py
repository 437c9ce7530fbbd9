"""Fail-over against a real Flowise: who answers while it lives, when it is killed, and when it is back.

A real Flowise is 3 GB of npm packages, so this is not part of `make test`. `make test-flowise` runs it where these are
set; without them it is skipped:

    DARI_TEST_FLOWISE_URL    where it listens, such as http://127.0.0.1:3300
    DARI_TEST_FLOWISE_FLOW   id of a flow that streams
    DARI_TEST_FLOWISE_START  a shell command that starts it and returns when it answers /api/v1/ping
    DARI_TEST_FLOWISE_PID    file with the process id of the Flowise that this command started
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import psutil
import pytest

from dari.adapters.local_model import model_files
from dari.server import Server
from dari.settings import load_settings
from dari.v1 import chat_pb2, chat_pb2_grpc, mapping_pb2, mapping_pb2_grpc
from tests.fix_postgres import PostgresDsns

VARIABLES = ("DARI_TEST_FLOWISE_URL", "DARI_TEST_FLOWISE_FLOW", "DARI_TEST_FLOWISE_START", "DARI_TEST_FLOWISE_PID")
GIVEN = [os.environ.get(variable, "") for variable in VARIABLES]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(GIVEN), reason=f"needs a real Flowise: {', '.join(VARIABLES)}"),
]

CIRCUIT_OPEN_S = 1.0


class Flowise(NamedTuple):
    """The Flowise under test, which the test kills and starts."""

    url: str
    flow_id: str
    start_command: str
    pid_file: Path

    def start(self) -> None:
        """Start it; returns when it answers."""
        subprocess.run(self.start_command, shell=True, check=True)  # noqa: S602 - the tester's own command

    def kill(self, how: signal.Signals) -> None:
        """Send the signal to the process that listens, and wait until it is gone."""
        process = psutil.Process(int(self.pid_file.read_text()))
        process.send_signal(how)
        process.wait(timeout=60)


@pytest.fixture
def flowise() -> Flowise:
    url, flow_id, start_command, pid_file = GIVEN
    return Flowise(url, flow_id, start_command, Path(pid_file))


@pytest.fixture
def chat(flowise: Flowise, database: PostgresDsns, tmp_path: Path) -> Iterator[chat_pb2_grpc.ChatServiceStub]:
    """A dari whose chat configuration `bot` asks this Flowise first and the real local model second."""
    model_dir = Path(os.environ.get("DARI_TEST_MODEL_DIR", ".dari/models"))
    model_files.add_default_model(model_dir)
    data_dir = tmp_path / "dari"
    data_dir.mkdir()
    (data_dir / "models").symlink_to(model_dir.absolute())
    settings = load_settings(
        listen_address="127.0.0.1:0",
        admin_address="127.0.0.1:0",
        data_dir=data_dir,
        database_dsn=database.service_dsn,
        circuit_open_s=CIRCUIT_OPEN_S,
    )
    with Server(settings) as server, grpc.insecure_channel(server.address) as channel:
        _map(mapping_pb2_grpc.MappingServiceStub(channel), flowise)
        yield chat_pb2_grpc.ChatServiceStub(channel)


def _map(mapping: mapping_pb2_grpc.MappingServiceStub, flowise: Flowise) -> None:
    target = mapping_pb2.FlowiseTarget(base_url=flowise.url, flow_id=flowise.flow_id)
    models = {
        "flow": mapping_pb2.AiModel(kind=mapping_pb2.AI_MODEL_KIND_FLOWISE, flowise=target),
        "local": mapping_pb2.AiModel(kind=mapping_pb2.AI_MODEL_KIND_LOCAL),
    }
    mapping.CreateChatConfiguration(
        mapping_pb2.CreateChatConfigurationRequest(
            chat_configuration_id="bot", chat_configuration=mapping_pb2.ChatConfiguration()
        )
    )
    for priority, (id, model) in enumerate(models.items()):
        mapping.CreateAiModel(mapping_pb2.CreateAiModelRequest(ai_model_id=id, ai_model=model))
        mapping.LinkAiModel(
            mapping_pb2.LinkAiModelRequest(
                chat_configuration="chatConfigurations/bot", ai_model=f"aiModels/{id}", priority=priority
            )
        )


def _ask(chat: chat_pb2_grpc.ChatServiceStub, question: str) -> tuple[chat_pb2.Turn, int]:
    """The completed turn, and in how many pieces its text came."""
    request = chat_pb2.ChatRequest(chat_configuration="chatConfigurations/bot", question=question)
    tokens = 0
    for event in chat.Chat(request, timeout=120):
        tokens += event.HasField("token")
        if event.HasField("completed"):
            return event.completed.turn, tokens
    raise AssertionError("the stream ended OK without `completed`")


def _ask_until_flowise_answers(chat: chat_pb2_grpc.ChatServiceStub) -> chat_pb2.Turn:
    """Go on asking as users do. While the circuit is open LOCAL answers, which takes its time: this ends."""
    for _ in range(100):
        turn, _ = _ask(chat, "are you back")
        if turn.answered_by == chat_pb2.ANSWERER_FLOWISE:
            return turn
        assert turn.answered_by == chat_pb2.ANSWERER_LOCAL
    raise AssertionError("Flowise is back and was not asked again")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_turn_after_flowise_dies_is_answered_locally_and_flowise_takes_over_again(
    chat: chat_pb2_grpc.ChatServiceStub, flowise: Flowise, how: signal.Signals
) -> None:
    turn, tokens = _ask(chat, "hello from dari")
    assert turn.answered_by == chat_pb2.ANSWERER_FLOWISE
    assert "hello from dari" in turn.answer
    assert tokens > 1, "streamed token by token"

    flowise.kill(how)
    turn, tokens = _ask(chat, "What is the capital of France?")
    assert turn.answered_by == chat_pb2.ANSWERER_LOCAL
    assert [attempt.code for attempt in turn.attempts] == ["connection_refused", ""]
    assert turn.degraded
    assert tokens > 1, "streamed token by token"

    flowise.start()
    turn = _ask_until_flowise_answers(chat)
    assert not turn.degraded


def test_a_flowise_killed_in_mid_answer_is_superseded_by_a_whole_local_answer(
    chat: chat_pb2_grpc.ChatServiceStub, flowise: Flowise
) -> None:
    # The fake model behind this Flowise obeys a directive in the question: a slow answer of many tokens.
    slow = 'hello [[{"delay": 0.2, "tokens": ["one ", "two ", "three ", "four ", "five ", "six ", "seven "]}]]'
    request = chat_pb2.ChatRequest(chat_configuration="chatConfigurations/bot", question=slow)
    text, superseded, completed = "", False, None
    for event in chat.Chat(request, timeout=120):
        if event.HasField("token"):
            text += event.token.text
            if text == "one two ":
                flowise.kill(signal.SIGKILL)
        elif event.HasField("superseded"):
            superseded, text = True, ""
        elif event.HasField("completed"):
            completed = event.completed.turn
    flowise.start()
    assert superseded
    assert completed is not None
    assert completed.answered_by == chat_pb2.ANSWERER_LOCAL
    assert completed.answer == text
