"""One life of the child, seen from the server: its process, the socket to it, and its time limits.

Used by the keeper's thread only (see `process`). Nothing here waits without a limit, and nothing is sent that the
socket does not take at once: a child that is stopped in mid-answer blocks nobody.
"""

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dari.adapters.local_model.process_vitals import own_bytes, work_done
from dari.adapters.local_model.protocol import EXIT_NO_MEMORY, Frame, FrameDecoder, ProtocolError, encode
from dari.adapters.local_model.questions import Questions
from dari.core.upstream import QUESTION_TOO_LONG, FailureKind, UpstreamError

_RECEIVE_BYTES = 64 * 1024
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "HOME", "TZ")
"""All that a child inherits of the environment: the server's may hold secrets, and an engine needs none."""


_DEFAULT_MEMORY_BYTES = 4 * 1024**3
_ALLOCATION_ROOM_BYTES = 2 * 1024**3
"""What a child may map and not touch, beyond its memory limit: each of its threads has a stack of 64 MiB."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of the child's supervision."""

    load_timeout_s: float = 120.0
    """From start to ready; then it is killed. A 4 GB file is hashed in 10 to 20 s and read in as many."""
    cancel_timeout_s: float = 5.0
    """A child that does not confirm a cancel within this time is frozen, and killed."""
    heartbeat_s: float = 1.0
    """How often the child is asked for a sign of life, and its memory is looked at: while it loads, works or rests."""
    silence_timeout_s: float = 10.0
    """A child that gives no sign of life for so long, and does no work while it loads, is frozen, and killed. On a busy
    machine others, to whom it is nice, may starve it for seconds."""
    memory_bytes: int | None = None
    """Memory of its own (`process_vitals.own_bytes`); a child that holds more is killed. None: 4 GiB and the size of
    the model file, which engines copy where they repack its weights. It is looked at with each heartbeat; what grows
    faster than that meets a wall 2 GiB behind the limit, where allocations fail."""
    stop_timeout_s: float = 2.0
    """From SIGTERM to SIGKILL."""
    restart_first_s: float = 0.5
    restart_longest_s: float = 30.0
    """The wait before a restart doubles from the one to the other."""
    healthy_after_s: float = 60.0
    """A child that was ready for so long has paid for the deaths before it: the wait starts anew."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a life ended."""

    code: str
    """One snake_case word: `process_died`, `process_frozen`, `memory_limit`, `load_timeout`, `closed`, or the engine's
    own."""
    could_not_load: bool = False
    """The file or its engine is wrong: another child would fare no better."""


class WakeUp:
    """Lets any thread end the keeper's `select`; what it carries is nothing but "look again"."""

    def __init__(self) -> None:
        self.receiver, self._sender = socket.socketpair()
        self.receiver.setblocking(False)
        self._sender.setblocking(False)

    def wake(self) -> None:
        # A full buffer means that the keeper has been woken already; a closed one that it is gone.
        with contextlib.suppress(OSError):
            self._sender.send(b"\0")

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.receiver.recv(4096):
                pass

    def close(self) -> None:
        self._sender.close()
        self.receiver.close()


class ChildProcess:
    """A started child. Raises `OSError` where it cannot be started; `bury` must follow every start."""

    def __init__(self, load: Frame, limits: Limits, engine_log: Path | None) -> None:
        self._limits = limits
        self._started_at = time.monotonic()
        self._ready_at: float | None = None
        self._cancelled_at: dict[int, float] = {}
        self._cannot_load: str | None = None
        self._work_done = 0
        self._beat_at = self._started_at
        self._asked_at: float | None = None
        self._memory_limit_bytes = limits.memory_bytes or _DEFAULT_MEMORY_BYTES + load["size_bytes"]
        self._outgrew_memory = False
        self._decoder = FrameDecoder()
        wall = {"allocation_limit_bytes": self._memory_limit_bytes + _ALLOCATION_ROOM_BYTES}
        self._unsent = bytearray(encode(load | wall))
        self._directory = tempfile.TemporaryDirectory(prefix="dari-model-", ignore_cleanup_errors=True)
        self._connection, childs_end = socket.socketpair()
        self._connection.setblocking(False)
        try:
            self._process = _spawn(childs_end.fileno(), self._directory.name, engine_log)
        except OSError:
            self._connection.close()
            self._directory.cleanup()
            raise
        finally:
            childs_end.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """As `Popen.returncode`: negative for the signal that ended it, `bury`'s own included."""
        return self._process.returncode

    def ready_for_s(self) -> float:
        """How long it has been ready; 0 if it never was."""
        return 0.0 if self._ready_at is None else time.monotonic() - self._ready_at

    def live(
        self,
        questions: Questions,
        wake_up: WakeUp,
        is_closing: Callable[[], bool],
        on_ready: Callable[[Frame], None],
    ) -> Ended:
        """Serve until the child ends, breaks a limit, or the model is closed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            selector.register(wake_up.receiver, selectors.EVENT_READ)
            while not is_closing():
                self._collect(questions)
                self._beat()
                self._send()
                selector.modify(self._connection, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0))
                ready = {key.fileobj: events for key, events in selector.select(self._pause_s())}
                if wake_up.receiver in ready:
                    wake_up.drain()
                if ready.get(self._connection, 0) & selectors.EVENT_READ and not self._receive(questions, on_ready):
                    return self._how_it_ended()
                if (broken := self._broken_limit()) is not None:
                    return broken
        return Ended("closed")

    def bury(self, *, gently: bool) -> None:
        """End the process if it still lives, reap it, remove its directory."""
        self._connection.close()
        if gently:
            self._process.terminate()
        else:
            self._process.kill()
        try:
            self._process.wait(self._limits.stop_timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._directory.cleanup()

    def _collect(self, questions: Questions) -> None:
        if self._ready_at is None:
            return
        for frame in questions.next_frames():
            self._unsent += encode(frame)
            if frame["type"] == "cancel":
                self._cancelled_at.setdefault(frame["id"], time.monotonic())

    def _beat(self) -> None:
        """Look at the child's memory and ask for a sign of life, unless it still owes one."""
        now = time.monotonic()
        if now < self._beat_at:
            return
        self._beat_at = now + self._limits.heartbeat_s
        self._outgrew_memory = own_bytes(self.pid) > self._memory_limit_bytes
        self._believe_in_work()
        if self._asked_at is None:
            self._asked_at = now
            self._unsent += encode({"type": "ping"})

    def _believe_in_work(self) -> None:
        """While it loads, work is a sign of life: xllamacpp 2026.10 keeps the interpreter's lock for the whole load."""
        if self._ready_at is None and (done := work_done(self.pid)) != self._work_done:
            self._work_done, self._asked_at = done, None

    def _send(self) -> None:
        """Send what the socket takes now."""
        try:
            while self._unsent:
                del self._unsent[: self._connection.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            # The child is gone. What it said before may still be in the socket: the end is found by reading.
            self._unsent.clear()

    def _receive(self, questions: Questions, on_ready: Callable[[Frame], None]) -> bool:
        """Take what the child sent; False when it is gone or sends what is no frame."""
        try:
            data = self._connection.recv(_RECEIVE_BYTES)
            self._asked_at = None
            for frame in self._decoder.feed(data):
                self._take(frame, questions, on_ready)
        except BlockingIOError:
            return True
        except (OSError, ProtocolError):
            return False
        return bool(data)

    def _take(self, frame: Frame, questions: Questions, on_ready: Callable[[Frame], None]) -> None:
        match frame["type"]:
            case "ready":
                # The load may have taken less than a heartbeat. One that has no room to begin with never will have.
                self._outgrew_memory = own_bytes(self.pid) > self._memory_limit_bytes
                if not self._outgrew_memory:
                    self._ready_at = time.monotonic()
                    on_ready(frame)
            case "failed":
                self._cannot_load = str(frame["code"])
            case "piece":
                questions.deal_piece(frame["id"], frame["text"])
            case "done" | "error":
                self._cancelled_at.pop(frame["id"], None)
                questions.end(frame["id"], _failure_in(frame))

    def _pause_s(self) -> float:
        """Seconds until the next heartbeat or the nearest time limit."""
        return max(0.0, min([self._beat_at, *(at for at, _ in self._time_limits())]) - time.monotonic())

    def _time_limits(self) -> Iterator[tuple[float, str]]:
        """When the child will have broken a limit, and which."""
        for cancelled_at in self._cancelled_at.values():
            yield cancelled_at + self._limits.cancel_timeout_s, "process_frozen"
        if self._asked_at is not None:
            yield self._asked_at + self._limits.silence_timeout_s, "process_frozen"
        if self._ready_at is None:
            yield self._started_at + self._limits.load_timeout_s, "load_timeout"

    def _broken_limit(self) -> Ended | None:
        if self._outgrew_memory:
            return Ended("memory_limit", could_not_load=self._ready_at is None)
        now = time.monotonic()
        return next((Ended(code) for at, code in self._time_limits() if at <= now), None)

    def _how_it_ended(self) -> Ended:
        """Why there is nothing more to read; a child that closed its socket and lives is given no more time."""
        if self._cannot_load is not None:
            return Ended(self._cannot_load, could_not_load=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process.wait(self._limits.stop_timeout_s) == EXIT_NO_MEMORY:
                return Ended("memory_limit", could_not_load=self._ready_at is None)
        return Ended("process_died")


def _failure_in(frame: Frame) -> UpstreamError | None:
    if frame["type"] == "done":
        return None
    if frame["code"] == "prompt_too_long":
        return UpstreamError(FailureKind.CALLERS, QUESTION_TOO_LONG)
    return UpstreamError(FailureKind.UPSTREAM, f"local_{frame['code']}")


def _spawn(childs_fd: int, directory: str, engine_log: Path | None) -> subprocess.Popen[bytes]:
    """Start a fresh interpreter (never a fork that goes on) in its private directory and its own session.

    It imports from where this process does; `-P` keeps the working directory off that path.
    """
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment |= {
        "PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in sys.path if path),
        "LC_ALL": "C.UTF-8",
        "HF_HUB_OFFLINE": "1",  # ctransformers imports a client of the model hub; it is not to talk to anyone.
    }
    command = [sys.executable, "-P", "-m", "dari.adapters.local_model.child", str(childs_fd)]
    with contextlib.ExitStack() as stack:
        output: IO[bytes] | int = subprocess.DEVNULL
        if engine_log is not None:
            output = stack.enter_context(engine_log.open("ab"))
        return subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(childs_fd,),
            start_new_session=True,
        )
