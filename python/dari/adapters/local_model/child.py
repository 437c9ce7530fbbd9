"""The child's main: `python -m dari.adapters.local_model.child FD` owns one engine and answers over the socket FD.

The main thread only listens, so that a `cancel`, a `ping`, and the end of the supervisor, are noticed in
mid-generation; one
thread for each of the engine's slots writes answers. Whatever the engine prints goes where the supervisor sent this
process's output; the socket carries frames only. No text of a prompt or an answer is printed or logged.

It leaves by `os._exit` always: engines may crash when they are freed (ctransformers does).
"""

import contextlib
import importlib
import os
import queue
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from dari.adapters.local_model.chat_prompt import ChatMessage, PromptTooLong
from dari.adapters.local_model.engines import SOCKET_NAME, Engine, EngineError, EngineOptions, Sampling, open_engine
from dari.adapters.local_model.model_header import sha256_of
from dari.adapters.local_model.process_vitals import be_first_to_go, refuse_beyond
from dari.adapters.local_model.protocol import EXIT_NO_MEMORY, Frame, FrameDecoder, ProtocolError, encode

_STACK_BYTES = 64 * 1024 * 1024
"""For threads that run an engine: a recursive word splitter lives in one of them. Only touched pages cost memory."""

_RECEIVE_BYTES = 64 * 1024
EXIT_SUPERVISOR_GONE = 0
EXIT_CANNOT_LOAD = 3
EXIT_PROTOCOL = 4


@dataclass(slots=True)
class _Question:
    """One `ask`, from its arrival to its last frame."""

    id: int
    messages: tuple[ChatMessage, ...]
    max_tokens: int
    cancelled: threading.Event = field(default_factory=threading.Event)


class _Supervisor:
    """The socket to the supervisor. `send` may be called from any thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._decoder = FrameDecoder()
        self._lock = threading.Lock()  # keeps the bytes of two frames apart

    def send(self, frame: Frame) -> None:
        data = encode(frame)
        try:
            with self._lock:
                self._connection.sendall(data)
        except OSError:
            leave(EXIT_SUPERVISOR_GONE)

    def receive(self) -> list[Frame]:
        """The next frames; ends the process when the supervisor is gone or sends what is no frame."""
        try:
            data = self._connection.recv(_RECEIVE_BYTES)
        except OSError:
            data = b""
        if not data:
            leave(EXIT_SUPERVISOR_GONE)
        try:
            return list(self._decoder.feed(data))
        except ProtocolError:
            leave(EXIT_PROTOCOL)


def leave(status: int) -> NoReturn:
    """End this process now, whatever its other threads do.

    Its working directory is private to it and goes too: a killed supervisor cannot remove it.
    """
    with contextlib.suppress(OSError):
        Path(SOCKET_NAME).unlink(missing_ok=True)
        Path.cwd().rmdir()
    os._exit(status)


def main() -> NoReturn:
    """Load what the first frame names, say `ready`, then answer until the supervisor's end of the socket closes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # A dump would hold prompts.
    supervisor = _Supervisor(socket.socket(fileno=int(sys.argv[1])))
    frames: list[Frame] = []
    while not frames:
        frames = supervisor.receive()
    load, rest = frames[0], frames[1:]
    if load["type"] != "load":
        leave(EXIT_PROTOCOL)
    os.nice(load["niceness"])
    be_first_to_go()
    refuse_beyond(load["allocation_limit_bytes"])
    threading.stack_size(_STACK_BYTES)
    answering = _Answering(supervisor)
    threading.Thread(target=_guarded, args=(lambda: answering.load_then_write(load),), daemon=True).start()
    answering.listen(rest)


def _guarded(work: Callable[[], None]) -> None:
    """Run a thread's work; a defect in it ends the process instead of leaving it deaf."""
    try:
        work()
    except MemoryError:
        leave(EXIT_NO_MEMORY)
    except BaseException as error:  # noqa: BLE001 - a panic of an engine too
        sys.stderr.write(f"local model child: {type(error).__name__} in {threading.current_thread().name}\n")
        sys.stderr.flush()
        leave(1)


class _Answering:
    """The questions of this process and the threads that answer them."""

    def __init__(self, supervisor: _Supervisor) -> None:
        self._supervisor = supervisor
        self._waiting: queue.SimpleQueue[_Question] = queue.SimpleQueue()
        self._open: dict[int, _Question] = {}
        self._lock = threading.Lock()  # guards _open

    def listen(self, frames: list[Frame]) -> NoReturn:
        while True:
            for frame in frames:
                self._take(frame)
            frames = self._supervisor.receive()

    def _take(self, frame: Frame) -> None:
        if frame["type"] == "ask":
            messages = tuple(ChatMessage(role, text) for role, text in frame["messages"])
            question = _Question(frame["id"], messages, frame["max_tokens"])
            with self._lock:
                self._open[question.id] = question
            self._waiting.put(question)
        elif frame["type"] == "cancel":
            with self._lock:
                cancelled = self._open.get(frame["id"])
            if cancelled is not None:
                cancelled.cancelled.set()
        elif frame["type"] == "ping":
            self._supervisor.send({"type": "pong"})

    def load_then_write(self, load: Frame) -> None:
        """Load the engine, warm it, report it, and become the writer of its first slot."""
        started_at = time.monotonic()
        sampling = Sampling(**load["sampling"])
        try:
            _verify(load)
            engine = _open(load)
            for _ in engine.generate((ChatMessage("user", "Hello"),), 1, sampling, lambda: False):
                pass
        except EngineError as error:
            self._supervisor.send({"type": "failed", "code": error.code, "message": str(error)})
            leave(EXIT_CANNOT_LOAD)
        ready = {"type": "ready", "engine": engine.name, "slots": engine.slots, "context_tokens": engine.context_tokens}
        self._supervisor.send({**ready, "load_s": time.monotonic() - started_at})
        for _ in range(engine.slots - 1):
            threading.Thread(target=_guarded, args=(lambda: self._write(engine, sampling),), daemon=True).start()
        self._write(engine, sampling)

    def _write(self, engine: Engine, sampling: Sampling) -> NoReturn:
        while True:
            question = self._waiting.get()
            last = self._answer(engine, question, sampling)
            with self._lock:
                del self._open[question.id]
            self._supervisor.send(last)

    def _answer(self, engine: Engine, question: _Question, sampling: Sampling) -> Frame:
        """Send the pieces of one answer; the frame that is to end it."""
        pieces = engine.generate(question.messages, question.max_tokens, sampling, question.cancelled.is_set)
        try:
            with contextlib.closing(pieces) as answer:
                for piece in answer:
                    if question.cancelled.is_set():
                        break
                    self._supervisor.send({"type": "piece", "id": question.id, "text": piece})
        except PromptTooLong:
            return {"type": "error", "id": question.id, "code": "prompt_too_long"}
        except EngineError as error:
            return {"type": "error", "id": question.id, "code": error.code}
        return {"type": "done", "id": question.id}


def _verify(load: Frame) -> None:
    """Compare the file with its entry in the manifest. Raises `EngineError`."""
    path = Path(load["path"])
    try:
        is_same = path.stat().st_size == load["size_bytes"] and sha256_of(path) == load["sha256"]
    except OSError as error:
        raise EngineError("model_missing", f"The model file cannot be read: {error.strerror}.") from error
    if not is_same:
        raise EngineError("model_changed", "The model file is not the one in the manifest; add it again.")


def _open(load: Frame) -> Engine:
    options = EngineOptions(**load["options"])
    if load["engine_factory"] is None:
        return open_engine(Path(load["path"]), load["engine"], options)
    module, _, name = load["engine_factory"].partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)(Path(load["path"]), options)
    return engine


if __name__ == "__main__":
    main()
