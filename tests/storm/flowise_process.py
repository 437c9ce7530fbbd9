"""A stand-in for Flowise as a process of its own, to be killed, frozen, started again, and told how its model does.

    python -m tests.storm.flowise_process --name first --port 40001 --journal first.jsonl --seed 7

It says a line on stdout when it listens, reads a `Mood` a line on stdin, and ends with its stdin: so it never outlives
who started it. What it is about to send it writes to the journal before the first byte of it leaves; a kill at any
moment therefore leaves at most less text with a caller than the journal has.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Self

from tests.flowise_stand_in import CAPTURES, EVENT_STREAM_HEAD, Play, StandIn, Wire, event, replay, reserved_port

_NUMBER = re.compile(r"#(\d{6})")
_LONGEST_PAUSE_S = 0.03
"""Between two tokens."""


class Mood(Enum):
    """How the model behind Flowise does."""

    WELL = "well"
    DEAD = "dead"
    """An error event instead of a token, as a real Flowise sent it."""
    SILENT = "silent"
    """Headers, then nothing or heartbeats."""
    CUTTING = "cutting"
    """Some tokens, then an error event, a closed or a broken connection, or silence."""
    BUSY = "busy"
    """429, of Flowise itself or of its model."""


_CAPTURES = {
    Mood.WELL: ("03-predict-stream", "04-stream-slow-unicode"),
    Mood.DEAD: ("08b-upstream-down-stream", "09-upstream-500-stream"),
    Mood.SILENT: ("09-upstream-hang-stream",),
    Mood.CUTTING: ("10-upstream-dies-midstream-stream", "10c-fake-killed-midstream", "18a-kill9-midstream"),
    Mood.BUSY: ("09-upstream-429-stream", "13d-ratelimit-4-stream"),
}
_CAPTURED_SHARE = 0.15
"""Of the answers of a model that is well; the rest name question and attempt in every token."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What one attempt was sent, or less where the process or the caller ended before."""

    number: int
    """Of the question."""
    text: str
    is_whole: bool
    """Whether the answer was to end as a whole one."""


def question_number(text: str) -> int | None:
    """The number that stands last in a question: rows and instructions, which stand before it, have none."""
    found = _NUMBER.findall(text)
    return int(found[-1]) if found else None


def captured_text(capture: str) -> str:
    """The tokens of a stored stream, together."""
    lines = (CAPTURES / f"{capture}.raw").read_bytes().split(b"\n")
    events = [json.loads(line.removeprefix(b"data:")) for line in lines if line.startswith(b"data:{")]
    return "".join(one["data"] for one in events if one["event"] == "token")


class FlowiseProcess:
    """The process as who starts it sees it. Use in a `with` statement. The port stays the same over kills."""

    def __init__(self, name: str, journal: Path, seed: str) -> None:
        self.name = name
        self._journal = journal
        self._seed = seed
        self._reserved = reserved_port()
        self._port: int = self._reserved.getsockname()[1]
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def process(self) -> "subprocess.Popen[str]":
        """The one that runs now."""
        assert self._process is not None
        return self._process

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._reserved.close()

    def start(self) -> None:
        """Return when it listens; its model is well."""
        told = {"name": self.name, "port": self._port, "journal": self._journal, "seed": self._seed}
        arguments = [f"--{name}={value}" for name, value in told.items()]
        command = [sys.executable, "-m", "tests.storm.flowise_process", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "the stand-in did not start"

    def kill(self) -> None:
        """SIGKILL, frozen or not, and wait for the end."""
        process = self.process
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def feel(self, mood: Mood) -> None:
        """Answer the questions that are still to come so."""
        pipe = self.process.stdin
        assert pipe is not None
        pipe.write(f"{mood.value}\n")
        pipe.flush()

    def sent(self) -> list[Sent]:
        """What it ever was about to send."""
        return [Sent(**json.loads(line)) for line in self._journal.read_text().splitlines()]


class _Model:
    """Chooses how to answer, by mood, seed and question. Thread-safe."""

    def __init__(self, name: str, seed: str, journal: Path) -> None:
        self._name = name
        self._seed = seed
        self._journal = journal
        self._lock = threading.Lock()  # guards the journal's end and the count
        self._count = 0
        self.mood = Mood.WELL

    def play(self, wire: Wire) -> None:
        """Answer one question."""
        number = question_number(wire.request.json["question"])
        assert number is not None
        with self._lock:
            self._count += 1
            count = self._count
        chance = random.Random(f"{self._seed} {self._name} {number} {count}")
        chosen = self._captured(chance, number) if self._is_captured(chance) else self._written(chance, number, count)
        chosen(wire)

    def _is_captured(self, chance: random.Random) -> bool:
        share = {Mood.WELL: _CAPTURED_SHARE, Mood.CUTTING: 0.5}.get(self.mood, 1.0)
        return chance.random() < share

    def _captured(self, chance: random.Random, number: int) -> Play:
        mood = self.mood
        capture = chance.choice(_CAPTURES[mood])
        self._note(Sent(number, captured_text(capture), is_whole=mood is Mood.WELL))
        return replay(capture, then="" if mood in (Mood.WELL, Mood.SILENT) else "close")

    def _written(self, chance: random.Random, number: int, count: int) -> Play:
        """Tokens that say who wrote them, whole or cut."""
        is_whole = self.mood is Mood.WELL
        tag = f"{self._name}-{count}"
        words = [f"Item {number} costs {chance.randrange(100, 9_999)} won"]
        words += [f", {tag}.{place}" for place in range(chance.randrange(2, 14))]
        pieces = [*words, "."] if is_whole else words
        self._note(Sent(number, "".join(pieces), is_whole))
        pauses_s = [chance.uniform(0, _LONGEST_PAUSE_S) for _ in pieces]
        ending = _end_whole if is_whole else chance.choice((Wire.hang_up, Wire.reset, Wire.hold))

        def play(wire: Wire) -> None:
            wire.send(EVENT_STREAM_HEAD)
            wire.send_chunk(event("start", ""))
            for piece, pause_s in zip(pieces, pauses_s, strict=True):
                wire.hold(pause_s)
                wire.send_chunk(event("token", piece))
            ending(wire)

        return play

    def _note(self, sent: Sent) -> None:
        line = json.dumps(asdict(sent)) + "\n"
        with self._lock, self._journal.open("a") as journal:
            journal.write(line)


def _end_whole(wire: Wire) -> None:
    asked = wire.request.json
    wire.send_chunk(event("metadata", {"chatId": asked["chatId"], "question": asked["question"]}))
    wire.send_chunk(event("end", "[DONE]"))
    wire.send_chunk(b"")


def _moods() -> Iterator[Mood]:
    for line in sys.stdin:
        yield Mood(line.strip())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--seed", required=True)
    options = parser.parse_args()
    # A restarted one must not repeat what the one before it wrote: tags are to be unique.
    model = _Model(f"{options.name}{time.monotonic_ns() // 1_000_000}", options.seed, options.journal)
    with StandIn(port=options.port) as flowise:
        flowise.always(model.play)
        print("listening", flush=True)
        for mood in _moods():
            model.mood = mood


if __name__ == "__main__":
    main()
