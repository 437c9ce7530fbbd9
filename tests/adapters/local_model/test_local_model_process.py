"""The supervisor, with a fake engine in a real child process."""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from dari.adapters.local_model.model_files import ModelFile
from dari.adapters.local_model.process import EngineOptions, Limits, LocalModel, LocalModelState
from dari.adapters.local_model.questions import MAX_PROMPT_CHARS, LocalAttempt
from dari.core.upstream import QUESTION_TOO_LONG, FailureKind, Message, UpstreamError
from tests.adapters.local_model.fakes import MIB, WAIT_S, StartModel, kind_and_code, prompt
from tests.support.waiting import until

FAKE = "tests.adapters.local_model.fakes:FakeEngine"
QUICK = Limits(restart_first_s=0.01, restart_longest_s=0.05, cancel_timeout_s=0.3)


@pytest.fixture
def model(start: StartModel, small_file: ModelFile) -> LocalModel:
    return start(small_file, engine_factory=FAKE, limits=QUICK, queue_size=1)


def answer(model: LocalModel, question: str) -> str:
    return "".join(model.attempt(prompt(question), 1.0).tokens())


def begin(model: LocalModel, question: str) -> tuple[LocalAttempt, Iterator[str]]:
    """An attempt whose first piece has come, and the rest of it."""
    attempt = model.attempt(prompt(question), 1.0)
    tokens = attempt.tokens()
    next(tokens)
    return attempt, tokens


def fails_with(kind: FailureKind, code: str, call: Callable[[], object]) -> None:
    with pytest.raises(UpstreamError) as caught:
        call()
    assert kind_and_code(caught.value) == (kind, code)


def reached(model: LocalModel, condition: Callable[[LocalModelState], bool]) -> LocalModelState:
    state = model.wait_until(condition, WAIT_S)
    assert state is not None, model.state()
    return state


def child_of(model: LocalModel) -> int:
    pid = reached(model, lambda state: state.status == "ready").pid
    assert pid is not None
    return pid


def test_a_question_asked_while_the_model_loads_waits_and_is_answered(model: LocalModel) -> None:
    assert answer(model, "say one two three") == "one two three "
    assert model.state().engine == "fake"


def test_instructions_history_and_question_reach_the_engine_in_order(model: LocalModel) -> None:
    history = (Message("user", "first"), Message("assistant", "second"))
    asked = prompt("third", instructions="rules", history=history)
    assert "".join(model.attempt(asked, 1.0).tokens()) == "system=rules|user=first|assistant=second|user=third"


def test_any_unicode_crosses_to_the_child_and_back(model: LocalModel) -> None:
    text = "한국어 😀🏽 \u2028\u0085\x00\x1f é \ufeff"
    assert answer(model, text) == f"user={text}"


def test_nothing_is_sent_before_the_first_next(model: LocalModel) -> None:
    child_of(model)
    model.attempt(prompt("die"), 1.0).tokens()
    assert answer(model, "say alive") == "alive "
    assert model.state().restarts == 0


@pytest.mark.parametrize(
    ("question", "kind", "code"),
    [
        ("nothing", FailureKind.UPSTREAM, "local_answer_empty"),
        ("long", FailureKind.CALLERS, QUESTION_TOO_LONG),
        ("fail", FailureKind.UPSTREAM, "local_engine_failed"),
        ("x" * (MAX_PROMPT_CHARS + 1), FailureKind.CALLERS, QUESTION_TOO_LONG),
    ],
    ids=["blank answer", "prompt too long", "engine failed", "prompt beyond a frame"],
)
def test_each_failure_of_one_answer_has_its_kind_and_leaves_the_child_alive(
    model: LocalModel, question: str, kind: FailureKind, code: str
) -> None:
    fails_with(kind, code, lambda: answer(model, question))
    assert answer(model, "say next") == "next "
    assert model.state().restarts == 0


def test_the_longest_prompt_fits_into_a_frame(model: LocalModel) -> None:
    text = "\x01" * MAX_PROMPT_CHARS
    assert answer(model, text[: -len("user=")]) == f"user={text[: -len('user=')]}"


@pytest.mark.parametrize("question", ["hold", "die"])
def test_a_killed_child_fails_only_the_answer_in_flight_and_comes_back(model: LocalModel, question: str) -> None:
    _, tokens = begin(model, question)
    if question == "hold":
        os.kill(child_of(model), signal.SIGKILL)
    fails_with(FailureKind.UPSTREAM, "local_process_died", lambda: list(tokens))
    assert answer(model, "say back") == "back "
    assert model.state().restarts == 1


def test_an_attempt_that_waited_when_the_child_died_is_answered_by_the_next_child(model: LocalModel) -> None:
    _, tokens = begin(model, "hold")
    answers: list[str] = []
    waiting = threading.Thread(target=lambda: answers.append(answer(model, "say later")))
    waiting.start()
    reached(model, lambda state: state.queue_length == 1)
    os.kill(child_of(model), signal.SIGKILL)
    fails_with(FailureKind.UPSTREAM, "local_process_died", lambda: list(tokens))
    waiting.join(WAIT_S)
    assert answers == ["later "]


def test_abort_wakes_a_blocked_reader_and_frees_the_child(model: LocalModel) -> None:
    attempt, tokens = begin(model, "hold")
    threading.Timer(0, attempt.abort).start()
    fails_with(FailureKind.CANCELLED, "aborted", lambda: next(tokens))
    assert answer(model, "say free") == "free "
    assert model.state().restarts == 0


def test_abort_before_the_first_next_sends_nothing(model: LocalModel) -> None:
    attempt = model.attempt(prompt("die"), 1.0)
    attempt.abort()
    attempt.abort()
    fails_with(FailureKind.CANCELLED, "aborted", lambda: next(attempt.tokens()))
    assert answer(model, "say alive") == "alive "


def test_abort_while_waiting_gives_the_place_in_the_queue_back(model: LocalModel) -> None:
    first, _ = begin(model, "hold")
    second = model.attempt(prompt("say second"), 1.0)
    failures: list[UpstreamError] = []

    def read_second() -> None:
        try:
            list(second.tokens())
        except UpstreamError as error:
            failures.append(error)

    waiting = threading.Thread(target=read_second)
    waiting.start()
    reached(model, lambda state: state.queue_length == 1)
    second.abort()
    waiting.join(WAIT_S)
    assert [kind_and_code(error) for error in failures] == [(FailureKind.CANCELLED, "aborted")]
    assert model.state().queue_length == 0
    first.abort()


def test_a_reader_that_leaves_frees_the_child_too(model: LocalModel) -> None:
    _, tokens = begin(model, "hold")
    tokens.close()  # type: ignore[attr-defined]
    assert answer(model, "say free") == "free "


def test_beyond_the_queue_the_answer_is_busy_at_once(model: LocalModel) -> None:
    first, _ = begin(model, "hold")
    second: list[str] = []
    waiting = threading.Thread(target=lambda: second.append(answer(model, "say second")))
    waiting.start()
    reached(model, lambda state: state.queue_length == 1 and state.running == 1)
    fails_with(FailureKind.BUSY, "local_queue_full", lambda: answer(model, "say third"))
    first.abort()
    waiting.join(WAIT_S)
    assert second == ["second "]


def test_slots_are_used_at_the_same_time(start: StartModel, small_file: ModelFile) -> None:
    model = start(small_file, engine_factory=FAKE, options=EngineOptions(slots=2), limits=QUICK)
    first, _ = begin(model, "hold")
    second, _ = begin(model, "hold")
    assert model.state().running == 2
    first.abort()
    assert answer(model, "say third") == "third "
    second.abort()


@pytest.mark.parametrize("frozen_by", ["a deaf engine", "SIGSTOP"])
def test_a_child_that_does_not_confirm_a_cancel_is_replaced(model: LocalModel, frozen_by: str) -> None:
    attempt, tokens = begin(model, "deaf" if frozen_by == "a deaf engine" else "hold")
    if frozen_by == "SIGSTOP":
        os.kill(child_of(model), signal.SIGSTOP)
    attempt.abort()
    fails_with(FailureKind.CANCELLED, "aborted", lambda: next(tokens))
    assert answer(model, "say thawed") == "thawed "
    assert model.state().last_failure == "process_frozen"


@pytest.mark.parametrize("moment", ["at rest", "in mid-answer", "while it loads"])
def test_a_frozen_child_is_noticed_without_a_cancel(start: StartModel, small_file: ModelFile, moment: str) -> None:
    limits = replace(QUICK, heartbeat_s=0.05, silence_timeout_s=1.0)
    factory = "tests.adapters.local_model.fakes:WaitsForLeave" if moment == "while it loads" else FAKE
    model = start(small_file, engine_factory=factory, limits=limits)
    frozen = child_at_its_engine(model) if moment == "while it loads" else child_of(model)
    tokens = begin(model, "hold")[1] if moment == "in mid-answer" else None
    os.kill(frozen, signal.SIGSTOP)
    reached(model, lambda state: state.last_failure == "process_frozen")
    if tokens is not None:
        fails_with(FailureKind.UPSTREAM, "local_process_died", lambda: list(tokens))
    small_file.path.with_suffix(".leave").touch()
    assert answer(model, "say thawed") == "thawed "


def child_at_its_engine(model: LocalModel) -> int:
    """The process of a child that loads, once it has come as far as its engine."""

    def runs_more_than_its_first_thread() -> bool:
        pid = model.state().pid
        return pid is not None and len(list(Path(f"/proc/{pid}/task").iterdir())) > 1

    until(runs_more_than_its_first_thread, WAIT_S)
    pid = model.state().pid
    assert pid is not None
    return pid


def test_a_child_that_works_in_silence_is_left_alone(start: StartModel, small_file: ModelFile) -> None:
    """A frozen one under the same limits tells when the silence was long enough."""
    limits = replace(QUICK, heartbeat_s=0.05, silence_timeout_s=2.0)
    silent = start(small_file, engine_factory=FAKE, limits=limits)
    attempt, _ = begin(silent, "deaf")
    frozen = start(small_file, engine_factory=FAKE, limits=limits)
    os.kill(child_of(frozen), signal.SIGSTOP)
    reached(frozen, lambda state: state.last_failure == "process_frozen")
    assert silent.state().restarts == 0
    attempt.abort()


def test_a_load_that_keeps_the_interpreter_busy_is_left_alone(start: StartModel, small_file: ModelFile) -> None:
    """As xllamacpp's: nothing in the child can answer a heartbeat until it is over."""
    factory = "tests.adapters.local_model.fakes:keeps_the_interpreter_at_load"
    model = start(small_file, engine_factory=factory, limits=replace(QUICK, heartbeat_s=0.05, silence_timeout_s=1.0))
    reached(model, lambda state: state.status == "ready")
    assert model.state().restarts == 0


@pytest.mark.parametrize("wall", [False, True], ids=["by and by", "at one stroke"])
def test_a_child_that_outgrows_its_memory_is_replaced(start: StartModel, small_file: ModelFile, wall: bool) -> None:
    heartbeat_s = WAIT_S if wall else 0.01
    limits = replace(QUICK, heartbeat_s=heartbeat_s, memory_bytes=256 * MIB)
    model = start(small_file, engine_factory=FAKE, limits=limits)
    _, tokens = begin(model, "eat 4096" if wall else "eat 300")
    fails_with(FailureKind.UPSTREAM, "local_process_died", lambda: list(tokens))
    assert answer(model, "say lean") == "lean "
    state = model.state()
    assert (state.last_failure, state.restarts) == ("memory_limit", 1)
    assert 0 < state.memory_bytes < 256 * MIB


def test_a_child_keeps_what_its_limit_allows(start: StartModel, small_file: ModelFile) -> None:
    model = start(small_file, engine_factory=FAKE, limits=replace(QUICK, heartbeat_s=0.01, memory_bytes=512 * MIB))
    attempt, _ = begin(model, "eat 200")
    until(lambda: model.state().memory_bytes > 200 * MIB, WAIT_S)
    assert model.state().restarts == 0
    attempt.abort()
    assert answer(model, "say fed") == "fed "


def test_a_limit_that_is_too_small_to_begin_with_is_our_fault(start: StartModel, small_file: ModelFile) -> None:
    model = start(small_file, engine_factory=FAKE, limits=replace(QUICK, memory_bytes=MIB))
    fails_with(FailureKind.OURS, "local_memory_limit", lambda: answer(model, "say it"))
    reached(model, lambda state: state.status == "failed" and state.last_failure == "memory_limit")


def test_the_child_is_the_first_to_go_when_the_machine_has_no_memory(model: LocalModel) -> None:
    assert Path(f"/proc/{child_of(model)}/oom_score_adj").read_text().strip() == "1000"


def test_it_is_ready_only_after_a_first_token(start: StartModel, small_file: ModelFile) -> None:
    model = start(small_file, engine_factory="tests.adapters.local_model.fakes:WaitsForLeave", limits=QUICK)
    child_at_its_engine(model)
    assert model.state().status == "loading"
    small_file.path.with_suffix(".leave").touch()
    reached(model, lambda state: state.status == "ready")


def test_a_model_that_loads_but_cannot_write_is_never_ready(start: StartModel, small_file: ModelFile) -> None:
    factory = "tests.adapters.local_model.fakes:breaks_off_its_first_token"
    model = start(small_file, engine_factory=factory, limits=QUICK)
    fails_with(FailureKind.OURS, "local_engine_failed", lambda: answer(model, "say it"))
    reached(model, lambda state: state.status == "failed")


def test_a_model_that_cannot_be_loaded_is_our_fault_and_nobody_waits_for_it(
    start: StartModel, small_file: ModelFile
) -> None:
    model = start(small_file, engine_factory="tests.adapters.local_model.fakes:cannot_load", limits=QUICK)
    fails_with(FailureKind.OURS, "local_model_unloadable", lambda: answer(model, "say it"))
    reached(model, lambda state: state.status == "failed" and state.last_failure == "model_unloadable")


def test_a_changed_file_is_refused_and_accepted_again_once_it_is_restored(
    start: StartModel, small_file: ModelFile
) -> None:
    content = small_file.path.read_bytes()
    small_file.path.write_bytes(content[::-1])
    model = start(small_file, engine_factory=FAKE, limits=QUICK)
    fails_with(FailureKind.OURS, "local_model_changed", lambda: answer(model, "say it"))
    small_file.path.write_bytes(content)
    reached(model, lambda state: state.status == "ready")
    assert answer(model, "say it") == "it "


def test_a_missing_file_is_our_fault(start: StartModel, small_file: ModelFile) -> None:
    small_file.path.unlink()
    model = start(small_file, engine_factory=FAKE, limits=QUICK)
    fails_with(FailureKind.OURS, "local_model_missing", lambda: answer(model, "say it"))


def test_a_child_that_dies_again_and_again_is_not_waited_for(start: StartModel, small_file: ModelFile) -> None:
    model = start(small_file, engine_factory="tests.adapters.local_model.fakes:crashes_at_load", limits=QUICK)
    fails_with(FailureKind.UPSTREAM, "local_process_died", lambda: answer(model, "say it"))
    assert reached(model, lambda state: state.restarts >= 3).last_failure == "process_died"


def test_a_load_that_hangs_is_ended(start: StartModel, small_file: ModelFile) -> None:
    limits = Limits(load_timeout_s=0.2, restart_first_s=0.01, restart_longest_s=0.01)
    model = start(small_file, engine_factory="tests.adapters.local_model.fakes:hangs_at_load", limits=limits)
    reached(model, lambda state: state.restarts >= 1 and state.last_failure == "load_timeout")


def test_close_ends_the_child_and_every_attempt(model: LocalModel) -> None:
    _, tokens = begin(model, "hold")
    child = psutil.Process(child_of(model))
    model.close()
    model.close()
    fails_with(FailureKind.UPSTREAM, "local_model_stopped", lambda: list(tokens))
    fails_with(FailureKind.UPSTREAM, "local_model_stopped", lambda: answer(model, "say it"))
    assert not child.is_running()
    assert model.state().status == "stopped"
    assert (model.state().pid, model.state().memory_bytes) == (None, 0)


def test_close_ends_a_frozen_child(start: StartModel, small_file: ModelFile) -> None:
    model = start(small_file, engine_factory=FAKE, limits=Limits(stop_timeout_s=0.1))
    child = psutil.Process(child_of(model))
    child.suspend()
    model.close()
    assert not child.is_running()


def test_lives_leave_no_descriptors_threads_or_directories(start: StartModel, small_file: ModelFile) -> None:
    me = psutil.Process()
    lives = 4
    model = start(small_file, engine_factory=FAKE, limits=Limits(restart_first_s=0.01, healthy_after_s=0.0))
    child = psutil.Process(child_of(model))
    directories, before = [Path(child.cwd())], (me.num_fds(), threading.active_count())
    for life in range(1, lives):
        child.kill()
        reached(model, lambda state, life=life: state.restarts == life and state.status == "ready")  # type: ignore[misc]
        child = psutil.Process(child_of(model))
        directories.append(Path(child.cwd()))
    assert (me.num_fds(), threading.active_count()) == before
    model.close()
    assert not any(directory.exists() for directory in directories)


def test_the_child_inherits_no_secrets(
    start: StartModel, small_file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARI_DATABASE_DSN", "postgresql://user:canary@host/db")
    model = start(small_file, engine_factory=FAKE)
    assert "canary" not in str(psutil.Process(child_of(model)).environ())


def test_the_child_imports_neither_grpc_nor_the_database_nor_the_rest_of_dari() -> None:
    code = "import sys, dari.adapters.local_model.child; print(' '.join(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    foreign = {"grpc", "peewee", "psycopg2", "structlog", "pydantic", "httpx", "numpy"} & set(output)
    rest = [name for name in output if name.startswith("dari.") and not name.startswith("dari.adapters")]
    assert (foreign, rest) == (set(), [])


SUPERVISOR = """
import sys
from pathlib import Path
from dari.adapters.local_model.model_files import add_model_file, ModelFile
from dari.adapters.local_model.model_header import sha256_of
from dari.adapters.local_model.process import LocalModel
from tests.adapters.local_model.fakes import prompt
from tests.support.event_log import RecordedEvents

path = Path(sys.argv[1])
file = ModelFile("fake", path, sha256_of(path), path.stat().st_size, "gguf-v3", None, "", "", False, None)
model = LocalModel(file, RecordedEvents(), engine_factory="tests.adapters.local_model.fakes:FakeEngine").start()
tokens = model.attempt(prompt(sys.argv[2]), 1.0).tokens()
next(tokens)
print(f"pid={model.state().pid}", flush=True)
next(tokens)
"""


@pytest.mark.parametrize("question", ["hold", "deaf"])
def test_the_end_of_the_supervisor_ends_the_child_in_mid_answer(small_file: ModelFile, question: str) -> None:
    command = [sys.executable, "-c", SUPERVISOR, str(small_file.path), question]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as supervisor:
        assert supervisor.stdout is not None
        line = next(line for line in supervisor.stdout if line.startswith("pid="))
        pid = int(line.removeprefix("pid="))
        child, directory = os.pidfd_open(pid), Path(psutil.Process(pid).cwd())
        try:
            supervisor.kill()
            # A pidfd is readable once its process has ended, reaped or not.
            assert select.select([child], [], [], WAIT_S)[0]
            assert not directory.exists()
        finally:
            os.close(child)
