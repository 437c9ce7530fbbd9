"""Measures the local model: its speed through dari beside the engine alone, slots, and how soon a cancel frees it.

    python -m bench.local_model                           all, some ten minutes
    python -m bench.local_model --rounds 2 --steps 16 64

through dari   one question by the Chat RPC of a fresh server (`dari serve`, embedded PostgreSQL, a temporary folder),
               and the same prompt in the bare library xllamacpp in a process of its own, as nice, with the same
               threads, in turn. Both write the likeliest token each time: the texts must be equal. Tokens a second run
               from the first token that arrives to the last; `ratio` is of one round, above 1 where dari is faster.
               `cpu_ratio` compares the processor's time that the two processes of the engine took for the answer, which
               other work on the machine changes less; `server_cpu_ratio` is that of dari's own process to the bare one.
slots          tokens a second in all, with as many questions at once as slots.
cancel         a prompt of some 1,500 tokens aborted while it is read, and an answer aborted while it is written: the
               milliseconds until the child has confirmed that the slot is free. For each size of step in which a
               prompt is read also the speed of reading, beside that of the largest one in the same round.

The last line on stdout is one JSON object; the table before it is for people.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import xllamacpp

from bench.ingest import SERVE, START_TIMEOUT_S, check, machine, spread
from dari.adapters.local_model.engines import PREFILL_TOKENS, EngineName, EngineOptions, spare_cores
from dari.adapters.local_model.model_files import (
    ModelFile,
    add_default_model,
    add_model_file,
    add_model_for_ctransformers,
)
from dari.adapters.local_model.process import LocalModel
from dari.client import Client
from dari.core.upstream import Prompt, UpstreamError
from dari.v1.chat_pb2 import ChatRequest
from dari.v1.mapping_pb2 import (
    AI_MODEL_KIND_LOCAL,
    AiModel,
    ChatConfiguration,
    CreateAiModelRequest,
    CreateChatConfigurationRequest,
    LinkAiModelRequest,
    LocalTarget,
)

QUESTION = "Write a very long story about a fox and a lighthouse."
ANSWER_TOKENS = 160
LONG_PROMPT_TOKENS = 1_500
NICENESS = 5
"""That of dari's child."""
WAIT_S = 300.0
WORDS = ("the", "price", "of", "table", "and", "order", "in", "city", "with", "row", "for", "products", "from", "year")
"""Each is one token of the model behind a blank."""


@dataclass
class Told:
    """One answer as it arrived: its text, and the times of its pieces from the question on, in seconds."""

    text: str = ""
    at_s: list[float] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        return (len(self.at_s) - 1) / (self.at_s[-1] - self.at_s[0])


def listen(pieces: Iterator[str]) -> Told:
    """Time an answer."""
    told, began_s = Told(), time.perf_counter()
    for piece in pieces:
        told.at_s.append(time.perf_counter() - began_s)
        told.text += piece
    return told


class Quiet:
    """An event log that is not read."""

    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...
    def error(self, event: str, **fields: object) -> None: ...


# Through dari, beside the library alone


@dataclass(frozen=True)
class Asked:
    """A way to ask, and the processes that work for it: that of the engine first."""

    ask: Callable[[], Told]
    processes: Callable[[], list[psutil.Process]]

    def timed(self) -> tuple[Told, list[float]]:
        """An answer, and the processor's time in seconds that each process took for it."""
        processes = self.processes()
        before_s = [cpu_s(process) for process in processes]
        told = self.ask()
        return told, [cpu_s(process) - before for process, before in zip(processes, before_s, strict=True)]


def cpu_s(process: psutil.Process) -> float:
    """Processor's time of a process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def served(file: ModelFile) -> Iterator[Asked]:
    """A server whose chat has the local model alone."""
    with tempfile.TemporaryDirectory(prefix="dari-bench-") as folder:
        # As root, the embedded PostgreSQL runs as another user, who must pass through.
        Path(folder).chmod(0o711)
        data_dir = Path(folder) / "data"
        add_model_file(data_dir / "models", file.path, model_id=file.id)
        environment = {**os.environ, "DARI_LOG_LEVEL": "error", "DARI_LOCAL_MODEL": file.id}
        command = [*SERVE, "--data-dir", str(data_dir)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            assert process.stdout is not None
            first_line = process.stdout.readline()
            if not first_line:
                raise SystemExit("The server did not start; its reason stands above.")
            with Client(json.loads(first_line)["address"]) as client:
                yield Asked(asker(client), lambda: [engine_of(process.pid), psutil.Process(process.pid)])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=START_TIMEOUT_S)


def engine_of(server_pid: int) -> psutil.Process:
    """The child of a server that runs the engine."""
    children = psutil.Process(server_pid).children()
    return next(child for child in children if "dari.adapters.local_model.child" in child.cmdline())


def asker(client: Client) -> Callable[[], Told]:
    """Map a chat to the local model, and ask it anew each time."""
    model = AiModel(kind=AI_MODEL_KIND_LOCAL, local=LocalTarget(), max_answer_tokens=ANSWER_TOKENS)
    client.mapping.CreateAiModel(CreateAiModelRequest(ai_model_id="local", ai_model=model))
    client.mapping.CreateChatConfiguration(
        CreateChatConfigurationRequest(chat_configuration_id="bench", chat_configuration=ChatConfiguration())
    )
    client.mapping.LinkAiModel(
        LinkAiModelRequest(chat_configuration="chatConfigurations/bench", ai_model="aiModels/local")
    )
    request = ChatRequest(chat_configuration="chatConfigurations/bench", question=QUESTION)

    def pieces() -> Iterator[str]:
        for event in client.chats.Chat(request, timeout=WAIT_S):
            if event.HasField("token"):
                yield event.token.text

    return lambda: listen(pieces())


def write_alone(path: str, context_tokens: int) -> None:
    """The process of the library alone: for each line on stdin one answer on stdout, as JSON."""
    os.nice(NICENESS)
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel = context_tokens, 1
    params.n_batch = params.n_ubatch = PREFILL_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = spare_cores()
    params.cpuparams.poll = params.cpuparams_batch.poll = 0
    params.cache_ram_mib, params.verbosity = 0, -1
    params.hostnames = ["alone.sock"]  # In the working directory, which is a temporary one.
    server = xllamacpp.Server(params)
    prompt = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    request = {"prompt": prompt, "stream": True, "temperature": 0.0, "max_tokens": ANSWER_TOKENS}
    for _ in sys.stdin:
        told, began_s = Told(), time.perf_counter()

        def take(chunk: dict[str, Any], told: Told = told, began_s: float = began_s) -> bool:
            if text := "".join(choice.get("text", "") for choice in chunk.get("choices", ())):
                told.at_s.append(time.perf_counter() - began_s)
                told.text += text
            return False

        server.handle_completions(request, take)
        print(json.dumps({"text": told.text, "at_s": told.at_s}), flush=True)


@contextmanager
def alone(file: ModelFile) -> Iterator[Asked]:
    """The library in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="dari-bench-") as folder:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in sys.path)}
        command = [sys.executable, "-m", "bench.local_model", "--alone", str(file.path.absolute())]
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask() -> Told:
            stdin.write("ask\n")
            stdin.flush()
            return Told(**json.loads(stdout.readline()))

        try:
            yield Asked(ask, lambda: [psutil.Process(process.pid)])
        finally:
            process.kill()
            process.wait()


def through_dari(file: ModelFile, rounds: int) -> dict[str, Any]:
    """Ask both in turn; the first round warms and does not count."""
    ratios: dict[str, list[float]] = {"ratio": [], "with_first_token": [], "cpu_ratio": [], "server_cpu_ratio": []}
    speeds = []
    with served(file) as dari, alone(file) as library:
        for number in range(rounds + 1):
            told = {each: each.timed() for each in ((dari, library) if number % 2 else (library, dari))}
            (through, (child_s, server_s)), (bare, (bare_s,)) = told[dari], told[library]
            check("the text through dari", through.text, bare.text)
            if number:
                speeds.append(bare.tokens_per_s)
                ratios["ratio"].append(through.tokens_per_s / bare.tokens_per_s)
                ratios["with_first_token"].append(bare.at_s[-1] / through.at_s[-1])
                ratios["cpu_ratio"].append(bare_s / child_s)
                ratios["server_cpu_ratio"].append(server_s / bare_s)
    return {
        "pieces": len(through.at_s),
        "alone_tokens_per_s": spread(speeds),
        **{name: spread(values) for name, values in ratios.items()},
    }


# The supervised child by itself


def prompt(question: str, instructions: str = "", tokens: int = ANSWER_TOKENS) -> Prompt:
    """A prompt without history."""
    return Prompt("bench", instructions, (), question, tokens)


def long_prompt(tokens: int = 1) -> Prompt:
    """Another one each time: nothing of it is cached."""
    return prompt("Why?", " ".join(random.choices(WORDS, k=LONG_PROMPT_TOKENS)), tokens)


@contextmanager
def ready(file: ModelFile, engine: EngineName = "auto", **options: Any) -> Iterator[LocalModel]:
    """A child that has begun to serve."""
    chosen = EngineOptions(prompt_limit_tokens=LONG_PROMPT_TOKENS + 100, **options)
    with LocalModel(file, Quiet(), engine=engine, options=chosen, niceness=NICENESS) as model:
        if model.wait_until(lambda state: state.status == "ready", WAIT_S) is None:
            raise SystemExit("The local model was not ready in time.")
        yield model


def write_at_once(model: LocalModel, questions: int) -> float:
    """Tokens a second of so many answers written at the same time, all together."""
    counts: list[int] = []

    def read(number: int) -> None:
        asked = prompt(f"{QUESTION} Its name is {WORDS[number]}.", tokens=ANSWER_TOKENS // 2)
        counts.append(sum(1 for _ in model.attempt(asked, WAIT_S).tokens()))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(questions)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check("answers", len(counts), questions)
    return sum(counts) / (time.perf_counter() - began_s)


def slots(file: ModelFile, counts: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """All at once, in turn; ratios are to the first count in the same round."""
    speeds: list[list[float]] = [[] for _ in counts]
    with ExitStack() as stack:
        models = [stack.enter_context(ready(file, slots=count)) for count in counts]
        for _ in range(rounds):
            for speed, model, count in zip(speeds, models, counts, strict=True):
                speed.append(write_at_once(model, count))
    return [
        {
            "slots": count,
            "tokens_per_s": spread(speed),
            "ratio": spread([one / first for one, first in zip(speed, speeds[0], strict=True)]),
        }
        for count, speed in zip(counts, speeds, strict=True)
    ]


@dataclass
class Cancels:
    """What was measured of one child."""

    step_tokens: int
    reading_ms: list[float] = field(default_factory=list)
    writing_ms: list[float] = field(default_factory=list)
    read_s: list[float] = field(default_factory=list)
    """For the whole long prompt."""


def cancel_reading(model: LocalModel) -> float:
    """Milliseconds from an abort, somewhere in the long prompt, until the slot is free."""
    attempt = model.attempt(long_prompt(), WAIT_S)
    reading = threading.Thread(target=drain, args=(attempt.tokens(),))
    reading.start()
    model.wait_until(lambda state: state.running == 1, WAIT_S)
    time.sleep(random.uniform(0.3, 1.0))
    return until_free_ms(model, attempt.abort, reading.join)


def cancel_writing(model: LocalModel) -> float:
    """The same in an answer whose fifth token has come."""
    attempt = model.attempt(prompt(QUESTION), WAIT_S)
    tokens = attempt.tokens()
    for _ in range(5):
        next(tokens)
    return until_free_ms(model, attempt.abort, lambda: drain(tokens))


def drain(tokens: Iterator[str]) -> None:
    """Read to the end, which is an abort's."""
    try:
        for _ in tokens:
            pass
    except UpstreamError as error:
        check("the end of what was aborted", error.code, "aborted")


def until_free_ms(model: LocalModel, abort: Callable[[], None], leave: Callable[[], None]) -> float:
    """Abort, and wait for the child's word; then its next answer proves that it is free indeed."""
    began_s = time.perf_counter()
    abort()
    model.wait_until(lambda state: state.running == 0, WAIT_S)
    took_ms = (time.perf_counter() - began_s) * 1_000
    leave()
    next(model.attempt(prompt("Hello", tokens=1), WAIT_S).tokens())
    check("restarts", model.state().restarts, 0)
    return took_ms


def cancels(file: ModelFile, steps: Sequence[int], rounds: int, repeat: int) -> list[dict[str, Any]]:
    """For each size of step a child, all of them asked in turn."""
    measured = [Cancels(step) for step in steps]
    with ExitStack() as stack:
        models = [stack.enter_context(ready(file, prefill_tokens=step)) for step in steps]
        for _ in range(rounds):
            for one, model in zip(measured, models, strict=True):
                for _ in range(repeat):
                    one.reading_ms.append(cancel_reading(model))
                    one.writing_ms.append(cancel_writing(model))
                one.read_s.append(listen(model.attempt(long_prompt(), WAIT_S).tokens()).at_s[0])
    largest = max(measured, key=lambda one: one.step_tokens)
    return [
        {
            "step_tokens": one.step_tokens,
            "reading_ms": spread(one.reading_ms),
            "writing_ms": spread(one.writing_ms),
            "long_prompt_s": spread(one.read_s),
            "reading_speed_ratio": spread([a / b for a, b in zip(largest.read_s, one.read_s, strict=True)]),
        }
        for one in measured
    ]


# Numbers


def three(values: dict[str, float], digits: int) -> str:
    """Median (smallest-largest)."""
    return f"{values['median']:.{digits}f} ({values['min']:.{digits}f}-{values['max']:.{digits}f})"


def report(result: dict[str, Any]) -> None:
    """The table for people."""
    through = result["through_dari"]
    print(f"through dari : library alone            {three(through['ratio'], 3)}, {through['pieces']} tokens")
    print(f"  with the wait for the first token     {three(through['with_first_token'], 3)}")
    print(f"  by processor's time of the engine     {three(through['cpu_ratio'], 3)}")
    for one in result["slots"]:
        print(
            f"{one['slots']} at once, tokens/s in all {three(one['tokens_per_s'], 1)}: {three(one['ratio'], 2)} of one"
        )
    for engine, rows in result["cancel"].items():
        for one in rows:
            print(
                f"{engine}, steps of {one['step_tokens']:3}: free after {three(one['reading_ms'], 0)} ms reading,"
                f" {three(one['writing_ms'], 0)} ms writing; reads at {three(one['reading_speed_ratio'], 2)}"
            )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Measure the local model.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 64], help="sizes of step for reading a prompt")
    parser.add_argument("--cancels", type=int, default=3, help="a round, for each size of step")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--models", type=Path, default=Path(".dari/models"), help="where model files are kept")
    parser.add_argument("--alone", type=str, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        write_alone(options.alone, EngineOptions().context_tokens)
        return

    facts = machine()
    models = options.models.absolute()
    file = add_default_model(models)
    older = add_model_for_ctransformers(models)
    result = {
        "machine": facts,
        "model": {"id": file.id, "bytes": file.size_bytes, "sha256": file.sha256},
        "through_dari": through_dari(file, options.rounds),
        "slots": slots(file, options.slots, options.rounds),
        "cancel": {
            name: cancels(each, options.steps, options.rounds, options.cancels)
            for name, each in (("xllamacpp", file), ("ctransformers", older))
        },
    }
    report(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
