"""Fail-over against a real Flowise: who answers while it lives, and in each of the ways in which it does not.

A real Flowise is 3 GB of npm packages, so this is not part of `make test`. `make test-flowise` runs it where these are
set; without them it is skipped:

    DARI_TEST_FLOWISE_URL    where it listens, such as http://127.0.0.1:3300
    DARI_TEST_FLOWISE_START  a shell command that starts it and returns when it answers /api/v1/ping
    DARI_TEST_FLOWISE_PID    file with the process id of the Flowise that this command started
    DARI_TEST_FLOWISE_FLOWS  JSON file {"ids": {…}, "apikey": {"apiKey": …}} with the ids of these flows:
                             main (streams), nostream-model (cannot stream), upstream-down (its model refuses
                             connections), ratelimited (2 questions per 30 s), protected (needs the key)

The model behind the flows obeys a directive in the question, `hello [[{"delay": 0.2, "tokens": ["one ", "two "]}]]`,
with the keys first_delay and delay (seconds), tokens, status (of HTTP) and die_after (tokens, then a reset).
"""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import psutil
import pytest

from dari.adapters.local_model import model_files
from dari.v1 import chat_pb2
from tests.fix_server import StartServer
from tests.support.running_dari import RunningDari, attempts_of, conversation_of, kind_of, refusal, text_of

VARIABLES = ("DARI_TEST_FLOWISE_URL", "DARI_TEST_FLOWISE_START", "DARI_TEST_FLOWISE_PID", "DARI_TEST_FLOWISE_FLOWS")
GIVEN = [os.environ.get(variable, "") for variable in VARIABLES]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(GIVEN), reason=f"needs a real Flowise: {', '.join(VARIABLES)}"),
]

PROBE_INTERVAL_S = 0.5
ANSWER_TIMEOUT_S = 120.0
FIRST_TOKEN_TIMEOUT_S = 4.0
STALL_TIMEOUT_S = 2.0
SLOWLY = 'hello [[{"delay": 0.2, "tokens": ["one ", "two ", "three ", "four ", "five ", "six ", "seven "]}]]'
RESTART, CONTINUE, STOP = (
    chat_pb2.ON_INTERRUPTION_RESTART,
    chat_pb2.ON_INTERRUPTION_CONTINUE,
    chat_pb2.ON_INTERRUPTION_STOP,
)
FLOWISE, LOCAL = chat_pb2.ANSWERER_FLOWISE, chat_pb2.ANSWERER_LOCAL


class Flowise(NamedTuple):
    """The Flowise under test, which the test kills, freezes and starts."""

    url: str
    start_command: str
    pid_file: Path
    flows: dict[str, str]
    key: str

    def start(self) -> None:
        """Start it; returns when it answers."""
        subprocess.run(self.start_command, shell=True, check=True)  # noqa: S602 - the tester's own command

    def send(self, what: signal.Signals) -> None:
        """Send a signal to the process that listens; waits for the end that it makes."""
        process = psutil.Process(int(self.pid_file.read_text()))
        process.send_signal(what)
        if what in (signal.SIGKILL, signal.SIGTERM):
            process.wait(timeout=60)

    def lives(self) -> bool:
        try:
            process = psutil.Process(int(self.pid_file.read_text()))
            return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.NoSuchProcess:
            return False

    def ping_s(self) -> float:
        """How long it takes to answer what costs it nothing."""
        began = time.monotonic()
        with urllib.request.urlopen(f"{self.url}/api/v1/ping", timeout=60) as answer:  # noqa: S310 - http, loopback
            assert answer.read() == b"pong"
        return time.monotonic() - began


@pytest.fixture
def flowise() -> Iterator[Flowise]:
    """A Flowise that lives, also for the test behind this one."""
    url, start_command, pid_file, flows_file = GIVEN
    given: dict[str, Any] = json.loads(Path(flows_file).read_text())
    flowise = Flowise(url, start_command, Path(pid_file), given["ids"], given["apikey"]["apiKey"])
    if not flowise.lives():
        flowise.start()
    yield flowise
    if flowise.lives():
        flowise.send(signal.SIGCONT)
    else:
        flowise.start()


@pytest.fixture
def dari(flowise: Flowise, start_server: StartServer, tmp_path: Path) -> RunningDari:
    """A dari whose chat `bot` asks the flow `main` first and the real local model second."""
    model_dir = Path(os.environ.get("DARI_TEST_MODEL_DIR", ".dari/models"))
    model_files.add_default_model(model_dir)
    (tmp_path / "models").symlink_to(model_dir.absolute())
    running = start_server(
        data_dir=tmp_path,
        local_model="smollm2-135m-instruct",
        circuit_consecutive_failures=1,
        probe_interval_s=PROBE_INTERVAL_S,
        circuit_ramp_s=0.0,
        secrets={"right": flowise.key, "wrong": "no-such-key"},
    ).dari
    running.make_local("local")
    make_flow(running, flowise, "main")
    running.make_chat("bot", "main", "local")
    return running


def make_flow(dari: RunningDari, flowise: Flowise, flow: str, *, id: str = "", secret: str = "") -> None:
    dari.make_flowise(
        id or flow,
        flowise.url,
        flowise.flows[flow],
        secret=secret,
        first_token_timeout_s=FIRST_TOKEN_TIMEOUT_S,
        stall_timeout_s=STALL_TIMEOUT_S,
    )


def ask(dari: RunningDari, question: str, *, chat: str = "bot", conversation: str = "") -> chat_pb2.Turn:
    return dari.ask(question, chat=chat, conversation=conversation, timeout_s=ANSWER_TIMEOUT_S)


def ask_until_flowise_answers(dari: RunningDari) -> chat_pb2.Turn:
    """Go on asking as users do. While the circuit is open the local model answers, which takes its time: this ends."""
    for _ in range(100):
        turn = ask(dari, "are you back")
        if turn.answered_by == FLOWISE:
            return turn
        assert turn.answered_by == LOCAL
    raise AssertionError("Flowise is back and was not asked again")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_turn_after_flowise_dies_is_answered_locally_and_flowise_takes_over_again(
    dari: RunningDari, flowise: Flowise, how: signal.Signals
) -> None:
    turn = ask(dari, "hello from dari")
    assert (turn.answered_by, turn.degraded) == (FLOWISE, False)
    assert "hello from dari" in turn.answer

    flowise.send(how)
    turn = ask(dari, "What is the capital of France?")
    assert turn.answered_by == LOCAL
    assert attempts_of(turn) == [("main", "FAILED", "connection_refused"), ("local", "ANSWERED", "")]
    assert turn.degraded

    flowise.start()
    assert not ask_until_flowise_answers(dari).degraded


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
@pytest.mark.parametrize("on_interruption", [RESTART, CONTINUE])
def test_a_flowise_that_dies_or_freezes_in_mid_answer_is_followed_by_a_whole_answer(
    dari: RunningDari, flowise: Flowise, how: signal.Signals, on_interruption: "chat_pb2.OnInterruption.ValueType"
) -> None:
    events = []
    for event in dari.stream(SLOWLY, on_interruption=on_interruption, timeout_s=ANSWER_TIMEOUT_S):
        events.append(event)
        if text_of(events) == "one two " and kind_of(event) == "token":
            flowise.send(how)
    turn = events[-1].completed.turn
    assert turn.answered_by == LOCAL
    assert turn.answer == text_of(events)
    joined = "superseded" if on_interruption == RESTART else "seam"
    assert joined in map(kind_of, events)
    code = "stall_timeout" if how is signal.SIGSTOP else "stream_cut"
    assert attempts_of(turn)[0][2] == code
    assert turn.answer.startswith("one two") == (on_interruption == CONTINUE)


def test_a_flowise_that_dies_in_mid_answer_ends_it_as_interrupted_where_the_caller_wants_no_other(
    dari: RunningDari, flowise: Flowise
) -> None:
    events = []
    with pytest.raises(grpc.RpcError) as caught:  # noqa: PT012 - the error ends the stream, wherever it stands
        for event in dari.stream(SLOWLY, on_interruption=STOP, timeout_s=ANSWER_TIMEOUT_S):
            events.append(event)
            if text_of(events) == "one two " and kind_of(event) == "token":
                flowise.send(signal.SIGKILL)
    assert refusal(caught.value).reason == "ANSWER_INTERRUPTED"
    assert text_of(events).startswith("one two ")
    assert "completed" not in map(kind_of, events)


def test_a_frozen_flowise_costs_a_timer_and_is_used_again_when_it_thaws(dari: RunningDari, flowise: Flowise) -> None:
    assert ask(dari, "hello").answered_by == FLOWISE
    flowise.send(signal.SIGSTOP)
    turn = ask(dari, "hello")
    assert turn.answered_by == LOCAL
    assert attempts_of(turn)[0][1] in ("TIMED_OUT", "FAILED")
    flowise.send(signal.SIGCONT)
    assert not ask_until_flowise_answers(dari).degraded


def test_a_turn_after_the_last_token_has_come_does_not_notice_that_flowise_dies(
    dari: RunningDari, flowise: Flowise
) -> None:
    turn = ask(dari, "hello")
    flowise.send(signal.SIGKILL)
    later = ask(dari, "and now?", conversation=conversation_of(turn))
    assert later.answered_by == LOCAL
    assert [turn.answered_by for turn in dari.turns(conversation_of(turn))] == [FLOWISE, LOCAL]


# The flow or the directive, what dari says of the attempt.
FAILING = [
    ("a model that refuses connections", "upstream-down", "hello", ("TIMED_OUT", "first_token_timeout")),
    ("a model that hangs", "main", 'hi [[{"first_delay": 60}]]', ("TIMED_OUT", "first_token_timeout")),
    ("a model that says 401", "main", 'hi [[{"status": 401}]]', ("MISCONFIGURED", "model_unauthorized")),
    ("a model that says 400", "main", 'hi [[{"status": 400}]]', ("MISCONFIGURED", "model_rejected_request")),
    ("a model that is busy", "main", 'hi [[{"status": 429}]]', ("BUSY", "model_rate_limited")),
    ("a model that is cut", "main", 'hi [[{"tokens": ["one ", "two "], "die_after": 1}]]', ("FAILED", "model_cut")),
]


@pytest.mark.parametrize(("flow", "question", "expected"), [case[1:] for case in FAILING], ids=[c[0] for c in FAILING])
def test_a_flow_whose_model_fails_is_sorted_and_stood_in_for(
    dari: RunningDari, flowise: Flowise, flow: str, question: str, expected: tuple[str, str]
) -> None:
    make_flow(dari, flowise, flow, id="failing")
    dari.make_chat("failing-bot", "failing", "local")
    turn = ask(dari, question, chat="failing-bot")
    assert turn.answered_by == LOCAL
    assert attempts_of(turn)[0] == ("failing", *expected)


# The secret, who answers, what dari says of the attempt.
KEYS = [
    ("right", FLOWISE, ("ANSWERED", "")),
    ("wrong", LOCAL, ("MISCONFIGURED", "flowise_unauthorized")),
    ("", LOCAL, ("MISCONFIGURED", "flowise_unauthorized")),
]


@pytest.mark.parametrize(("secret", "answered_by", "expected"), KEYS, ids=["right", "wrong", "none"])
def test_a_protected_flow_is_asked_with_the_key_that_its_model_names(
    dari: RunningDari, flowise: Flowise, secret: str, answered_by: int, expected: tuple[str, str]
) -> None:
    make_flow(dari, flowise, "protected", secret=secret)
    dari.make_chat("protected-bot", "protected", "local")
    turn = ask(dari, "hello", chat="protected-bot")
    assert turn.answered_by == answered_by
    assert attempts_of(turn)[0] == ("protected", *expected)


def test_a_flow_that_flowise_does_not_have_is_told_at_once(dari: RunningDari, flowise: Flowise) -> None:
    dari.make_flowise("gone", flowise.url, "00000000-0000-4000-8000-000000000000", first_token_timeout_s=60.0)
    dari.make_chat("gone-bot", "gone", "local")
    turn = ask(dari, "hello", chat="gone-bot")
    assert attempts_of(turn)[0] == ("gone", "MISCONFIGURED", "unknown_flow")


def test_a_flow_that_cannot_stream_answers_all_the_same(dari: RunningDari, flowise: Flowise) -> None:
    make_flow(dari, flowise, "nostream-model")
    dari.make_chat("whole-bot", "nostream-model", "local")
    turn = ask(dari, "hello in one piece", chat="whole-bot")
    assert turn.answered_by == FLOWISE
    assert "hello in one piece" in turn.answer


def test_a_flow_over_its_rate_is_busy_and_not_blamed(dari: RunningDari, flowise: Flowise) -> None:
    make_flow(dari, flowise, "ratelimited")
    dari.make_chat("rated-bot", "ratelimited", "local")
    codes = [attempts_of(ask(dari, "hello", chat="rated-bot"))[0] for _ in range(4)]
    assert ("ratelimited", "BUSY", "rate_limited") in codes
    assert {code for _, _, code in codes} <= {"", "rate_limited"}
    (upstream,) = (
        upstream
        for upstream in dari.chat.ListUpstreams(chat_pb2.ListUpstreamsRequest()).upstreams
        if upstream.ai_model == "aiModels/ratelimited"
    )
    assert upstream.circuit_state == chat_pb2.CIRCUIT_STATE_CLOSED


def test_a_question_without_blanks_does_not_freeze_flowise(dari: RunningDari, flowise: Flowise) -> None:
    flowise.ping_s()
    stream = dari.stream("가" * 8_000, timeout_s=ANSWER_TIMEOUT_S)
    assert kind_of(next(iter(stream))) == "started"
    slowest_s = max(flowise.ping_s() for _ in range(20))
    events = list(stream)
    assert events[-1].completed.turn.answered_by == FLOWISE
    # The same run sent whole stops it for longer than all of this turn takes now.
    assert slowest_s < events[-1].completed.turn.attempts[0].duration.ToNanoseconds() / 1e9


def test_turns_of_one_conversation_at_once_do_not_mix(dari: RunningDari, flowise: Flowise) -> None:
    conversation = conversation_of(ask(dari, "hello"))
    words = [f"word{number}" for number in range(6)]
    streams = [
        dari.stream(
            f'hi [[{{"delay": 0.05, "tokens": {json.dumps([f"{word} "] * 8)}}}]]',
            conversation=conversation,
            timeout_s=ANSWER_TIMEOUT_S,
        )
        for word in words
    ]
    for word, stream in zip(words, streams, strict=True):
        turn = list(stream)[-1].completed.turn
        assert turn.answered_by == FLOWISE
        assert set(turn.answer.split()) == {word}
