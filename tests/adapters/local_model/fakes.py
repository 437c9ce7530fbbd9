"""Engines that do as the question says, run in a real child process, and questions for them."""

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from dari.adapters.local_model.chat_prompt import ChatMessage, PromptTooLong
from dari.adapters.local_model.engines import EngineError, EngineOptions, Sampling, ShouldStop
from dari.adapters.local_model.model_files import ModelFile
from dari.adapters.local_model.model_header import sha256_of
from dari.adapters.local_model.process import LocalModel
from dari.core.upstream import FailureKind, Message, Prompt, UpstreamError

WAIT_S = 60.0
"""How long a test waits for an event before it fails; nothing is measured against it."""

StartModel = Callable[..., LocalModel]
"""Starts a model that is closed when the test ends; takes the arguments of `LocalModel`."""


def prompt(question: str, *, instructions: str = "", history: tuple[Message, ...] = (), tokens: int = 64) -> Prompt:
    return Prompt("attempt", instructions, history, question, tokens)


class FakeEngine:
    """Answers by the first word of the question: say, hold, deaf, die, nothing, long, fail; else the messages."""

    name = "fake"
    context_tokens = 64

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self.slots = options.slots

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
                os.kill(os.getpid(), signal.SIGSEGV)
                threading.Event().wait()
            case "nothing":
                yield " \n"
            case "long":
                raise PromptTooLong
            case "fail":
                raise EngineError("engine_failed", "as it was told")
            case _:
                yield "|".join(f"{message.role}={message.text}" for message in messages)


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


def hangs_at_load(path: Path, options: EngineOptions) -> FakeEngine:
    threading.Event().wait()
    raise AssertionError


def kind_and_code(error: UpstreamError) -> tuple[FailureKind, str]:
    return error.kind, error.code
