"""Engines that do as the question says, run in a real child process, and questions for them."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from dari.adapters.local_model.chat_prompt import ChatMessage, PromptTooLong
from dari.adapters.local_model.engines import EngineError, EngineOptions, Sampling, ShouldStop, open_engine
from dari.adapters.local_model.model_files import ModelFile
from dari.adapters.local_model.model_header import sha256_of
from dari.adapters.local_model.process import LocalModel
from dari.core.upstream import FailureKind, Message, Prompt, UpstreamError

WAIT_S = 60.0
"""How long a test waits for an event before it fails; nothing is measured against it."""

MIB = 1024 * 1024

REPORT = "How often did you ask?"

StartModel = Callable[..., LocalModel]
"""Starts a model that is closed when the test ends; takes the arguments of `LocalModel`."""


def prompt(question: str, *, instructions: str = "", history: tuple[Message, ...] = (), tokens: int = 64) -> Prompt:
    return Prompt("attempt", instructions, history, question, tokens)


_FAILURES = {"long": PromptTooLong(), "fail": EngineError("engine_failed", "as it was told")}


class FakeEngine:
    """Answers by the first word of the question: say, hold, deaf, die, eat, nothing, long, fail; else the messages.

    `eat` takes so many MiB and keeps them; `die` reads where no memory is.
    """

    name = "fake"
    context_tokens = 64

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self.slots = options.slots
        self._eaten: list[bytearray] = []

    def generate(
        self, messages: Sequence[ChatMessage], max_tokens: int, sampling: Sampling, should_stop: ShouldStop
    ) -> Generator[str, None, None]:
        order, _, rest = messages[-1].text.partition(" ")
        match order:
            case "say":
                for word in rest.split()[:max_tokens]:
                    yield f"{word} "
            case "hold":
                yield "held"
                while not should_stop():
                    time.sleep(0.001)
            case "deaf":
                yield "deaf"
                threading.Event().wait()
            case "die":
                yield "dying"
                ctypes.string_at(0)
            case "eat":
                yield "eating"
                self._eat(int(rest), should_stop)
            case "nothing":
                yield " \n"
            case "long" | "fail":
                raise _FAILURES[order]
            case _:
                yield "|".join(f"{message.role}={message.text}" for message in messages)

    def _eat(self, mebibytes: int, should_stop: ShouldStop) -> None:
        self._eaten.append(bytearray(b"x") * (mebibytes * MIB))
        while not should_stop():
            time.sleep(0.001)


class WaitsForLeave(FakeEngine):
    """Gives its first token when a file of its own name and `.leave` stands beside the model."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        super().__init__(path, options)
        self._leave = path.with_suffix(".leave")

    def generate(
        self, messages: Sequence[ChatMessage], max_tokens: int, sampling: Sampling, should_stop: ShouldStop
    ) -> Generator[str, None, None]:
        while not self._leave.exists():
            time.sleep(0.001)
        yield from super().generate(messages, max_tokens, sampling, should_stop)


class CountsStepsAfterCancel:
    """The real engine, and how often it asked whether to stop after it was told to: the answer to `REPORT`."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self._engine = open_engine(path, "auto", options)
        self.name = self._engine.name
        self.slots = self._engine.slots
        self.context_tokens = self._engine.context_tokens
        self._asked = 0

    def generate(
        self, messages: Sequence[ChatMessage], max_tokens: int, sampling: Sampling, should_stop: ShouldStop
    ) -> Generator[str, None, None]:
        if messages[-1].text == REPORT:
            yield str(self._asked)
            return

        def counted() -> bool:
            is_over = should_stop()
            self._asked += is_over
            return is_over

        yield from self._engine.generate(messages, max_tokens, sampling, counted)


def fake_model(folder: Path) -> ModelFile:
    """An entry for a file that only the fake engine accepts."""
    path = folder / "fake.gguf"
    path.write_bytes(b"not really a model")
    return ModelFile(
        id="fake",
        path=path,
        sha256=sha256_of(path),
        size_bytes=path.stat().st_size,
        format="gguf-v3",
        architecture="fake",
        source="the tests",
        licence="none",
        chat_template_trusted=False,
        context_tokens=None,
    )


def crashes_at_load(path: Path, options: EngineOptions) -> FakeEngine:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def cannot_load(path: Path, options: EngineOptions) -> FakeEngine:
    raise EngineError("model_unloadable", "as it was told")


def breaks_off_its_first_token(path: Path, options: EngineOptions) -> FakeEngine:
    class Breaks(FakeEngine):
        def generate(
            self, messages: Sequence[ChatMessage], max_tokens: int, sampling: Sampling, should_stop: ShouldStop
        ) -> Generator[str, None, None]:
            raise EngineError("engine_failed", "as it was told")

    return Breaks(path, options)


def keeps_the_interpreter_at_load(path: Path, options: EngineOptions) -> FakeEngine:
    """Lets no other thread run for 1.5 s."""
    until_s = time.monotonic() + 1.5
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1_000.0)
    while time.monotonic() < until_s:
        pass
    sys.setswitchinterval(interval_s)
    return FakeEngine(path, options)


def hangs_at_load(path: Path, options: EngineOptions) -> FakeEngine:
    threading.Event().wait()
    raise AssertionError


def kind_and_code(error: UpstreamError) -> tuple[FailureKind, str]:
    return error.kind, error.code
