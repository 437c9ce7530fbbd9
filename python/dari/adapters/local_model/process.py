"""Keeps the local model's child process alive and puts questions to it: the `Upstream` that needs no network.

One thread, the *keeper*, owns the child: it starts it, talks to it, buries it, and starts the next after a back-off.

    stopped ──start──► loading ──ready──► ready ──death──► restarting ──► loading …
                          └──cannot load──► failed ──longest back-off──► loading …

`failed` means that the file or its engine is wrong and that waiting is vain: attempts are refused at once. In every
other state an attempt waits for its turn until it is aborted; the caller holds the timers.
"""

import selectors
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from dari.adapters.local_model.child_process import ChildProcess, Ended, Limits, WakeUp
from dari.adapters.local_model.engines import EngineName, EngineOptions, Sampling
from dari.adapters.local_model.model_files import ModelFile
from dari.adapters.local_model.process_vitals import own_bytes
from dari.adapters.local_model.protocol import Frame
from dari.adapters.local_model.questions import LocalAttempt, Questions
from dari.core.event_log import EventLog
from dari.core.upstream import FailureKind, Prompt, UpstreamError

__all__ = ["EngineOptions", "Limits", "LocalModel", "LocalModelState", "Sampling"]

Status = Literal["stopped", "loading", "ready", "restarting", "failed"]

_DEATHS_BEFORE_REFUSING = 3
"""So many deaths in a row, none after a healthy time, and attempts are refused until a child is ready again."""


@dataclass(frozen=True, slots=True)
class LocalModelState:
    """What operators see, at one moment."""

    status: Status
    model_id: str
    engine: str | None
    """None until a child was ready."""
    pid: int | None
    restarts: int
    queue_length: int
    """Attempts that wait."""
    running: int
    """Attempts that are being answered."""
    load_s: float | None
    """How long the last load took: hash, load, first token."""
    last_failure: str | None
    """The code of the last death, kept after recovery."""
    memory_bytes: int
    """What the child holds itself, resident or swapped, without the mapped model file; 0 while there is none."""


class LocalModel:
    """The supervised local model. Thread-safe.

    `queue_size` attempts may wait beside those that are answered. `niceness` is added to the child's, so that the
    server is served first. What the engine prints goes to `engine_log`, by default nowhere. `engine_factory`
    ("module:callable") replaces the engine; tests use it.
    """

    def __init__(
        self,
        file: ModelFile,
        log: EventLog,
        *,
        engine: EngineName = "auto",
        options: EngineOptions | None = None,
        sampling: Sampling | None = None,
        queue_size: int = 4,
        limits: Limits | None = None,
        niceness: int = 5,
        engine_log: Path | None = None,
        engine_factory: str | None = None,
    ) -> None:
        self._file = file
        self._log = log
        self._limits = limits or Limits()
        self._engine_log = engine_log
        options = options or EngineOptions()
        self._load = _load_frame(file, engine, options, sampling or Sampling(), niceness, engine_factory)

        self._changed = threading.Condition()  # its lock guards everything below
        self._wake_up = WakeUp()
        self._questions = Questions(self._changed, self._wake_up.wake, queue_size, options.slots)
        self._questions.refusal = UpstreamError(FailureKind.UPSTREAM, "local_model_stopped")
        self._status: Status = "stopped"
        self._engine_name: str | None = None
        self._pid: int | None = None
        self._starts = 0
        self._deaths_in_a_row = 0
        self._load_s: float | None = None
        self._last_failure: str | None = None
        self._keeper: threading.Thread | None = None
        self._closing = False

    def start(self) -> Self:
        """Start the child in the background; idempotent. Returns itself, at once."""
        with self._changed:
            if self._keeper is None and not self._closing:
                self._set("loading", refusal=None)
                self._keeper = threading.Thread(target=self._keep, name="local-model-keeper", daemon=True)
                self._keeper.start()
        return self

    def close(self) -> None:
        """Stop the child (SIGTERM, then SIGKILL) and the keeper; attempts that are open fail. Idempotent."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            keeper = self._keeper
            stopped = UpstreamError(FailureKind.UPSTREAM, "local_model_stopped")
            self._set(self._status, refusal=stopped)
        self._wake_up.wake()
        if keeper is not None:
            keeper.join()
        with self._changed:
            self._pid = None
            self._set("stopped", refusal=stopped)
        self._questions.fail_running(stopped)
        self._questions.fail_waiting(stopped)
        self._wake_up.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    continues = True
    """Its prompts are made here, down to the token: an answer that another model began is its own beginning."""

    def attempt(self, prompt: Prompt, connect_timeout_s: float) -> LocalAttempt:
        """Put one question. There is nothing to connect to: `connect_timeout_s` has no use here."""
        return self._questions.attempt(prompt)

    def state(self) -> LocalModelState:
        """A snapshot."""
        with self._changed:
            return self._snapshot()

    def wait_until(self, condition: Callable[[LocalModelState], bool], timeout_s: float) -> LocalModelState | None:
        """Block until the state fulfils `condition`: that state, or None when it took too long."""
        with self._changed:
            fulfilled = self._changed.wait_for(lambda: condition(self._snapshot()), timeout_s)
            return self._snapshot() if fulfilled else None

    def _snapshot(self) -> LocalModelState:
        queue_length, running = self._questions.counts()
        return LocalModelState(
            status=self._status,
            model_id=self._file.id,
            engine=self._engine_name,
            pid=self._pid,
            restarts=max(0, self._starts - 1),
            queue_length=queue_length,
            running=running,
            load_s=self._load_s,
            last_failure=self._last_failure,
            memory_bytes=0 if self._pid is None else own_bytes(self._pid),
        )

    # --- the keeper's thread ---

    def _keep(self) -> None:
        while not self._is_closing():
            try:
                ended, ready_for_s = self._live_once()
            except Exception as error:  # noqa: BLE001 - a defect here must not leave attempts waiting for nobody
                self._log.error("local_model_keeper_failed", error=type(error).__name__)
                ended, ready_for_s = Ended("keeper_failed"), 0.0
            if not self._is_closing():
                self._sleep(self._mourn(ended, ready_for_s))

    def _live_once(self) -> tuple[Ended, float]:
        """One child from start to burial: why it ended and how long it had been ready."""
        with self._changed:
            self._starts += 1
            self._set("loading", refusal=self._questions.refusal)
        try:
            child = ChildProcess(self._load, self._limits, self._engine_log)
        except OSError as error:
            self._log.error("local_model_not_started", errno=error.errno)
            return Ended("spawn_failed"), 0.0
        with self._changed:
            self._pid = child.pid
            self._changed.notify_all()
        try:
            ended = child.live(self._questions, self._wake_up, self._is_closing, self._note_ready)
            ready_for_s = child.ready_for_s()
        finally:
            child.bury(gently=self._is_closing())
        tell = self._log.info if ended.code == "closed" else self._log.warning
        tell("local_model_ended", model=self._file.id, code=ended.code, exit_status=child.exit_status)
        return ended, ready_for_s

    def _note_ready(self, ready: Frame) -> None:
        with self._changed:
            self._questions.slots = int(ready["slots"])
            self._engine_name = str(ready["engine"])
            self._load_s = float(ready["load_s"])
            self._set("ready", refusal=self._questions.refusal if self._closing else None)
        self._log.info(
            "local_model_ready", model=self._file.id, engine=ready["engine"], load_s=round(ready["load_s"], 2)
        )

    def _mourn(self, ended: Ended, ready_for_s: float) -> float:
        """Fail what died with the child, say so, and tell how long to wait before the next."""
        died = UpstreamError(FailureKind.UPSTREAM, "local_process_died")
        with self._changed:
            was_healthy = ready_for_s >= self._limits.healthy_after_s
            self._deaths_in_a_row = 1 if was_healthy else self._deaths_in_a_row + 1
            self._pid = None
            self._last_failure = ended.code
            deaths = self._deaths_in_a_row
            if ended.could_not_load:
                self._set("failed", refusal=UpstreamError(FailureKind.OURS, f"local_{ended.code}"))
            else:
                self._set("restarting", refusal=died if deaths >= _DEATHS_BEFORE_REFUSING else None)
            refusal = self._questions.refusal
        self._questions.fail_running(died)
        if refusal is not None:
            self._questions.fail_waiting(refusal)
        if ended.could_not_load:
            return self._limits.restart_longest_s
        return min(self._limits.restart_longest_s, self._limits.restart_first_s * 2.0 ** min(deaths - 1, 16))

    def _sleep(self, delay_s: float) -> None:
        """Wait out the back-off; `close` ends it early."""
        until = time.monotonic() + delay_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_up.receiver, selectors.EVENT_READ)
            while not self._is_closing() and (left_s := until - time.monotonic()) > 0:
                if selector.select(left_s):
                    self._wake_up.drain()

    def _is_closing(self) -> bool:
        with self._changed:
            return self._closing

    def _set(self, status: Status, *, refusal: UpstreamError | None) -> None:
        """Change the status and what new attempts are told; call with the lock held."""
        self._status = status
        self._questions.refusal = refusal
        self._changed.notify_all()


def _load_frame(
    file: ModelFile,
    engine: EngineName,
    options: EngineOptions,
    sampling: Sampling,
    niceness: int,
    engine_factory: str | None,
) -> Frame:
    """What the child needs to know; the manifest's word on template and architecture stands above the options'."""
    told = asdict(options)
    told["chat_template_trusted"] = file.chat_template_trusted
    told["architecture"] = file.architecture
    return {
        "type": "load",
        "path": str(file.path.absolute()),
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
        "engine": engine,
        "engine_factory": engine_factory,
        "options": told,
        "sampling": asdict(sampling),
        "niceness": niceness,
    }
