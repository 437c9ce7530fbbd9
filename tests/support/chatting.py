"""What one caller of Chat was told, and whether it was the truth."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import grpc

from dari.v1 import chat_pb2 as pb
from tests.support.running_dari import RunningDari, kind_of, text_of
from tests.support.waiting import until


@dataclass(frozen=True)
class Told:
    """A stream of Chat from its first event to its end."""

    events: tuple[pb.ChatResponse, ...]
    error: grpc.RpcError | None
    """None where it ended well."""

    @property
    def kinds(self) -> list[str]:
        return [kind_of(event) for event in self.events]

    @property
    def text(self) -> str:
        """What a caller who obeys `superseded` and `seam` has on the screen."""
        return text_of(list(self.events))

    @property
    def turn(self) -> pb.Turn:
        """Of a stream that ended well."""
        assert self.error is None, self.error
        return self.events[-1].completed.turn

    @property
    def conversation(self) -> str:
        return next(event.started.conversation for event in self.events if kind_of(event) == "started")

    @property
    def text_before_the_cut(self) -> str:
        """All text up to the end of the first attempt that had any; empty where none had ended."""
        text = ""
        for event in self.events:
            if kind_of(event) == "token":
                text += event.token.text
            elif kind_of(event) == "attempt_ended" and text:
                return text
        return ""


def listen(stream: Iterable[pb.ChatResponse]) -> Told:
    """Take a stream to its end, good or bad."""
    events: list[pb.ChatResponse] = []
    try:
        events.extend(stream)
    except grpc.RpcError as error:
        return Told(tuple(events), error)
    return Told(tuple(events), None)


def assert_truthful(dari: RunningDari, told: Told, case: object = "") -> None:
    """No clean end of a cut answer, no text twice, and what stands on the screen is what is stored.

    For models whose answers have no word twice. `case` names the case in the message of a failure.
    """
    stored = dari.turns(told.conversation)[-1]
    if told.error is None:
        assert kind_of(told.events[-1]) == "completed", case
        assert told.text == told.turn.answer == stored.answer, case
        assert stored == told.turn, case
        assert stored.state == pb.TURN_STATE_COMPLETED, case
        assert told.turn.attempts[-1].outcome == pb.ATTEMPT_OUTCOME_ANSWERED, case
    else:
        assert "completed" not in told.kinds, case
        assert (stored.state, stored.answer) == (pb.TURN_STATE_INCOMPLETE, ""), case
    assert max(Counter(told.text.split()).values(), default=0) <= 1, case
    assert _text_behind_each_end(told) == [], case


def _text_behind_each_end(told: Told) -> list[str]:
    """Text that came behind a cut and was neither declared void before nor joined by a seam."""
    is_cut, wrong = False, []
    text = ""
    for event in told.events:
        match kind_of(event):
            case "attempt_ended":
                is_cut = bool(text)
            case "superseded" | "seam":
                is_cut, text = False, ""
            case "token":
                text += event.token.text
                if is_cut:
                    wrong.append(event.token.text)
    return wrong


def wait_until_incomplete(dari: RunningDari, conversation: str) -> pb.Turn:
    """The last turn of the conversation, once the server has written down that nobody waits for it."""
    until(lambda: dari.turns(conversation)[-1].state == pb.TURN_STATE_INCOMPLETE)
    return dari.turns(conversation)[-1]
