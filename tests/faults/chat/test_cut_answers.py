"""C4: an answer that is cut at any token, or at any byte, in any way, never ends as if it were whole.

By the caller's choice it begins anew, goes on, or ends as interrupted; whatever stands on the screen at the end is what
is stored, and no text stands there twice.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from threading import Event

import grpc
import pytest

from dari.v1 import chat_pb2 as pb
from tests.faults.chat.conftest import CANARY, NEVER_OPENS, PATIENT_S, QUESTION, QUICK_S, STAND_IN_ANSWER, StartDari
from tests.flowise_stand_in import (
    CAPTURES,
    Play,
    StandIn,
    cut_after,
    cut_inside,
    event,
    event_stream,
    fail_after,
    replay,
    reset_after,
    stall_after,
    trickled,
)
from tests.support.chatting import Told, assert_truthful, listen
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.fault_sizes import sampled
from tests.support.running_dari import RunningDari, attempts_of, kind_of, refusal

PIECES = ("One ", "two, ", "셋 ", f"{CANARY} ", "five\u2028", "six.")
"""A whole answer, no word of which comes twice."""
HALF_LINE = event("token", "lost")[:-9]
HALF_CHARACTER = event("token", "뜻").partition("뜻".encode())[0] + "뜻".encode()[:2]
RESTART, CONTINUE, STOP = pb.ON_INTERRUPTION_RESTART, pb.ON_INTERRUPTION_CONTINUE, pb.ON_INTERRUPTION_STOP


@dataclass(frozen=True)
class Death:
    """A way in which an upstream dies after these tokens; `read` is set when the caller has them all."""

    play: Callable[[tuple[str, ...], Event], Play]
    outcome: str
    code: str
    code_before_a_token: str = ""
    """Where it differs."""


DEATHS = {
    "FIN": Death(lambda sent, read: cut_after(*sent), "FAILED", "stream_cut"),
    "RST": Death(lambda sent, read: reset_after(*sent, read), "FAILED", "connection_reset"),
    "silence": Death(lambda sent, read: stall_after(*sent), "TIMED_OUT", "stall_timeout", "first_token_timeout"),
    "error event": Death(lambda sent, read: fail_after(*sent), "FAILED", "model_cut"),
    "a body that is whole and has no end": Death(
        lambda sent, read: event_stream(event("start", ""), *(event("token", piece) for piece in sent)),
        "FAILED",
        "stream_cut",
    ),
    "half a line": Death(
        lambda sent, read: cut_inside(*sent, sent=HALF_LINE, of=event("token", "lost")), "FAILED", "stream_cut"
    ),
    "half a character": Death(
        lambda sent, read: cut_inside(*sent, sent=HALF_CHARACTER, of=event("token", "뜻")), "FAILED", "stream_cut"
    ),
}
DEATHS_AT_EACH_TOKEN = list(product(DEATHS, range(len(PIECES) + 1)))


def die(dari: RunningDari, flowise: StandIn, name: str, tokens: int, choice: "pb.OnInterruption.ValueType") -> Told:
    """Ask, with a Flowise that dies in this way after so many tokens."""
    read = Event()
    flowise.script(DEATHS[name].play(PIECES[:tokens], read))
    stream = dari.stream(QUESTION, on_interruption=choice)
    return listen(_noting(stream, read, tokens))


def _noting(stream: Iterator[pb.ChatResponse], read: Event, tokens: int) -> Iterator[pb.ChatResponse]:
    left = tokens
    if not left:
        read.set()
    for told in stream:
        left -= kind_of(told) == "token"
        if not left:
            read.set()
        yield told


def assert_cut_told(told: Told, name: str, tokens: int) -> None:
    """The text before the cut reached the caller, and the cut is told as what it was."""
    ended = next(each.attempt_ended.attempt for each in told.events if kind_of(each) == "attempt_ended")
    death = DEATHS[name]
    code = death.code if tokens else death.code_before_a_token or death.code
    assert (pb.AttemptOutcome.Name(ended.outcome), ended.code) == (f"ATTEMPT_OUTCOME_{death.outcome}", code)
    assert told.text_before_the_cut == "".join(PIECES[:tokens]) or told.error is not None
    voided = [each.superseded.attempt for each in told.events if kind_of(each) == "superseded"]
    joined = [each.seam.attempt for each in told.events if kind_of(each) == "seam"]
    assert voided + joined in ([], [ended])


@pytest.fixture
def bot(start_dari: StartDari, make_bot: Callable[..., RunningDari]) -> RunningDari:
    return make_bot(start_dari(**NEVER_OPENS), first_token_timeout_s=QUICK_S, stall_timeout_s=QUICK_S)


def test_a_cut_answer_begins_anew_wherever_it_is_cut(bot: RunningDari, flowise: StandIn) -> None:
    """RESTART; and CONTINUE, where the next model's API has no word for going on."""
    for (name, tokens), choice in sampled(list(product(DEATHS_AT_EACH_TOKEN, (RESTART, CONTINUE))), 24):
        case = (name, tokens, choice)
        told = die(bot, flowise, name, tokens, choice)
        assert_truthful(bot, told, case)
        assert_cut_told(told, name, tokens)
        assert told.text == STAND_IN_ANSWER, case
        assert told.kinds.count("superseded") == bool(tokens), case
        assert [each[:2] for each in attempts_of(told.turn)][1:] == [("server", "ANSWERED")], case


def test_a_caller_who_wants_no_other_answer_is_told_at_which_character_it_was_cut(
    bot: RunningDari, flowise: StandIn, openai: StandIn
) -> None:
    """STOP: behind the first token nobody else is asked; before it the next model answers."""
    for name, tokens in sampled(DEATHS_AT_EACH_TOKEN, 18):
        asked = len(openai.questions)
        told = die(bot, flowise, name, tokens, STOP)
        assert_truthful(bot, told, (name, tokens))
        assert_cut_told(told, name, tokens)
        if not tokens:
            assert told.text == STAND_IN_ANSWER, name
            continue
        assert isinstance(told.error, grpc.RpcError)
        refused = refusal(told.error)
        assert (refused.status, refused.reason) == ("ABORTED", "ANSWER_INTERRUPTED"), (name, tokens)
        assert told.text == "".join(PIECES[:tokens]), (name, tokens)
        assert refused.metadata["length_chars"] == str(len(told.text)), (name, tokens)
        assert len(openai.questions) == asked, (name, tokens)


def test_the_local_model_goes_on_behind_an_answer_that_is_cut(start_local: StartDari, flowise: StandIn) -> None:
    """CONTINUE, with the real model: what was sent stands up to its last whole word, which the seam tells."""
    dari = start_local(**NEVER_OPENS)
    dari.make_flowise("flow", flowise.url, stall_timeout_s=QUICK_S, first_token_timeout_s=QUICK_S)
    dari.make_chat("bot", "flow", "local")
    for name, tokens in sampled(DEATHS_AT_EACH_TOKEN, 6):
        told = die(dari, flowise, name, tokens, CONTINUE)
        case = (name, tokens, told.text)
        assert told.text == told.turn.answer == dari.turns(told.conversation)[-1].answer, case
        assert told.turn.ai_model == "aiModels/local", case
        assert_cut_told(told, name, tokens)
        seams = [each.seam.offset_chars for each in told.events if kind_of(each) == "seam"]
        assert len(seams) <= (tokens > 0), case
        for offset_chars in seams:
            sent = "".join(PIECES[:tokens])
            assert told.text[:offset_chars] == sent[:offset_chars], case
            assert (sent + " ")[offset_chars].isspace(), case
        assert bool(seams) + ("superseded" in told.kinds) == (tokens > 0), case


CAPTURED = {
    # What a real Flowise sent, and its whole text.
    "03-predict-stream": "Echo(2 msgs, 12 chars): hello stream",
    "04-stream-slow-unicode": 'Héllo\n "wörld" 🎉\n\n 日本\u2028xdata: y end',
    "16a-abort-stream": "t1 t2 t3 t4 t5 t6 t7 t8 t9 t10",
    "02-predict-nonstream": "Echo(2 msgs, 11 chars): hello there",
}
PACES: dict[str, Callable[[Play], Play]] = {"at once": lambda play: play, "byte by byte": trickled}


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("capture", CAPTURED)
def test_a_captured_answer_that_is_cut_at_any_byte_is_never_taken_for_whole(
    start_dari: StartDari,
    make_bot: Callable[..., RunningDari],
    flowise: StandIn,
    before_flowise: FaultProxy,
    capture: str,
    pace: str,
) -> None:
    """The network closes the connection behind the byte; what came before it is a beginning of the answer.

    The answer is whole at the end of its `end` event, or of its body where it is no stream, and not one byte before.
    """
    bot = make_bot(start_dari(**NEVER_OPENS), f"http://{before_flowise.address}", stall_timeout_s=PATIENT_S)
    listen(bot.stream(QUESTION))  # Behind the first question no look-up is made any more.
    flowise.always(PACES[pace](replay(capture, then="close")))
    data, text = (CAPTURES / f"{capture}.raw").read_bytes(), CAPTURED[capture]
    head, end, _ = data.partition(b'"[DONE]"}\n\n')
    whole_bytes = len(head + end)
    for limit_bytes in sampled(range(len(data) + 1)):
        before_flowise.to_caller.set(Fault(ends_in_bytes=limit_bytes))
        told = listen(bot.stream(QUESTION))
        if limit_bytes >= whole_bytes:
            assert told.text == told.turn.answer == text, limit_bytes
            assert attempts_of(told.turn) == [("flow", "ANSWERED", "")], limit_bytes
            continue
        assert_truthful(bot, told, limit_bytes)
        assert told.text == STAND_IN_ANSWER, limit_bytes
        assert text.startswith(told.text_before_the_cut), limit_bytes
        assert ("superseded" in told.kinds) == bool(told.text_before_the_cut), limit_bytes
        assert attempts_of(told.turn)[0][:2] == ("flow", "FAILED"), limit_bytes
