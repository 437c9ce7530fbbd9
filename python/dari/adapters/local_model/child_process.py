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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dari.adapters.local_model.protocol import Frame, FrameDecoder, ProtocolError, encode
from dari.adapters.local_model.questions import Questions
from dari.core.upstream import FailureKind, UpstreamError

_RECEIVE_BYTES = 64 * 1024
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "HOME", "TZ")
"""All that a child inherits of the environment: the server's may hold secrets, and an engine needs none."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The time limits of the child's supervision."""

    load_timeout_s: float = 120.0
    """From start to ready; then it is killed. A 4 GB file is hashed in 10 to 20 s and read in as many."""
    cancel_timeout_s: float = 5.0
    """A child that does not confirm a cancel within this time is frozen, and killed."""
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
    """One snake_case word: `process_died`, `process_frozen`, `load_timeout`, `closed`, or the engine's own."""
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
        self._decoder = FrameDecoder()
        self._unsent = bytearray(encode(load))
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
                self._send()
                selector.modify(self._connection, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0))
                ready = {key.fileobj: events for key, events in selector.select(self._next_limit_s())}
                if wake_up.receiver in ready:
                    wake_up.drain()
                if ready.get(self._connection, 0) & selectors.EVENT_READ and not self._receive(questions, on_ready):
                    return Ended("process_died") if self._cannot_load is None else Ended(self._cannot_load, True)
                if self._next_limit_s() == 0.0:
                    return Ended("load_timeout" if self._ready_at is None else "process_frozen")
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
                self._ready_at = time.monotonic()
                on_ready(frame)
            case "failed":
                self._cannot_load = str(frame["code"])
            case "piece":
                questions.deal_piece(frame["id"], frame["text"])
            case "done" | "error":
                self._cancelled_at.pop(frame["id"], None)
                questions.end(frame["id"], _failure_in(frame))

    def _next_limit_s(self) -> float | None:
        """Seconds until the nearest time limit, 0 when one is passed; None where there is none."""
        limits = [at + self._limits.cancel_timeout_s for at in self._cancelled_at.values()]
        if self._ready_at is None:
            limits.append(self._started_at + self._limits.load_timeout_s)
        return max(0.0, min(limits) - time.monotonic()) if limits else None


def _failure_in(frame: Frame) -> UpstreamError | None:
    if frame["type"] == "done":
        return None
    if frame["code"] == "prompt_too_long":
        return UpstreamError(FailureKind.BUSY, "local_prompt_too_long")
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
