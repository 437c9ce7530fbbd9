"""Judges one turn: by what its caller saw, what the neighbours were about to send, and who lived meanwhile.

A *link* is what can answer: each Flowise, and the rows alone where the chat has data and the database lives. The local
model is no link that owes an answer: its queue is bounded, so that it may say that it is busy. A turn is owed an answer
where some link lived from `SETTLING_S` before it to its end: so long may dari leave alone a neighbour that is back.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from dari.v1 import chat_pb2 as pb
from tests.storm.callers import STOP, TurnSeen
from tests.storm.flowise_process import Sent
from tests.storm.weather import Timeline
from tests.support.running_dari import attempts_of, kind_of, text_of

SETTLING_S = 5.0
"""How long a circuit of the storm's dari may stay open behind a fault: a probe that began in it waits for its first
token (2 s), fails, and opens the circuit again (1 s; 2 s the database's); then one more turn is its probe."""
TOLERANCE_S = 2.0
"""How much later than its deadline a call may end, on a machine that does twenty things at once."""
_LEAST_REPEATED_CHARS = 8


class Verdict(Enum):
    """What became of a turn."""

    ANSWERED = "answered"
    DEGRADED = "degraded"
    INCOMPLETE = "incomplete"
    """Cut, told so, and the caller had chosen STOP."""
    REFUSED = "refused"
    """UNAVAILABLE, and no link lived."""
    LATE = "late"
    """DEADLINE_EXCEEDED, and no link lived."""
    CANCELLED = "cancelled"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Chain:
    """Who may answer a chat."""

    models: tuple[str, ...]
    """AI models in order; of those that are Flowise, `Truth.sent` knows what they sent."""
    has_data: bool


@dataclass(frozen=True, slots=True)
class Truth:
    """What really happened."""

    timeline: Timeline
    chains: Mapping[str, Chain]
    sent: Mapping[str, Mapping[int, Sequence[Sent]]]
    """By the AI model of each Flowise, and the number of the question."""
    rows: Mapping[int, tuple[str, ...]]
    """The cells of the data, by row number."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One turn and what is to be said of it."""

    seen: TurnSeen
    verdict: Verdict
    complaints: tuple[str, ...]
    is_owed: bool
    """Whether a link lived for the whole of it."""


_VERDICTS = {"ABORTED": Verdict.INCOMPLETE, "UNAVAILABLE": Verdict.REFUSED, "DEADLINE_EXCEEDED": Verdict.LATE}


def judge(seen: TurnSeen, truth: Truth) -> Judged:
    """Judge one turn by itself; `stored` compares it with what the database has."""
    is_owed = bool(_living(seen, truth))
    complaints = tuple(found for look in _LOOKS for found in look(seen, truth))
    if complaints:
        verdict = Verdict.WRONG
    elif seen.turn is not None:
        verdict = Verdict.DEGRADED if seen.turn.degraded else Verdict.ANSWERED
    else:
        verdict = Verdict.CANCELLED if seen.is_left else _VERDICTS[seen.status]
    return Judged(seen, verdict, complaints, is_owed)


def _living(seen: TurnSeen, truth: Truth) -> list[str]:
    chain = truth.chains[seen.plan.chat]
    links = [model for model in chain.models if model in truth.sent] + (["postgres"] if chain.has_data else [])
    return [link for link in links if truth.timeline.lived(link, seen.begin_s - SETTLING_S, seen.end_s)]


def _status(seen: TurnSeen, truth: Truth) -> Iterator[str]:
    """Only what chat.proto names, each with its reason, and none while a link lived."""
    if seen.status == "OK":
        if seen.turn is None and not seen.is_left:
            yield "a stream without `completed` ended OK"
        return
    if seen.is_left and seen.status == "CANCELLED":
        return
    if seen.status == "ABORTED":
        if not (seen.reason == "ANSWER_INTERRUPTED" and seen.plan.on_interruption == STOP) and not (
            seen.reason == "TURN_IN_PROGRESS" and seen.is_retry
        ):
            yield f"ABORTED without cause: {seen.reason or 'no ErrorInfo'}"
        return
    if seen.status not in _VERDICTS:
        yield f"ended as {seen.status} {seen.reason}"
    elif seen.reason != seen.status and (seen.status, seen.reason) != ("DEADLINE_EXCEEDED", ""):
        # gRPC of the caller ends a call at its deadline by itself.
        yield f"{seen.status} with the reason {seen.reason or 'missing'}"
    for link in _living(seen, truth):
        yield f"{seen.status} although {link} lived"


def _deadline(seen: TurnSeen, truth: Truth) -> Iterator[str]:
    late_s = seen.end_s - seen.begin_s - seen.plan.deadline_s
    if late_s > TOLERANCE_S:
        yield f"{late_s:.1f} s behind its deadline"


def _order(seen: TurnSeen, truth: Truth) -> Iterator[str]:
    """As chat.proto has it: `started` first, `completed` last, nothing superseded or joined that was not said."""
    kinds = [kind_of(event) for event in seen.events]
    if kinds and kinds[0] != "started":
        yield f"begins with {kinds[0]}"
    if "started" in kinds[1:] or "completed" in kinds[:-1]:
        yield "started or completed out of place"
    length = 0
    for event, kind in zip(seen.events, kinds, strict=True):
        if kind in ("superseded", "seam") and length == 0:
            yield f"{kind} with no text before it"
        if kind == "seam" and not 0 <= event.seam.offset_chars <= length:
            yield "a seam beyond the text"
        if kind == "token" and not event.token.text:
            yield "an empty token"
        length = {"superseded": 0, "seam": event.seam.offset_chars}.get(kind, length + len(event.token.text))
    told_kinds = [event.notice.kind for event in seen.events if event.HasField("notice")]
    if len(set(told_kinds)) < len(told_kinds):
        yield "a notice twice"
    yield from _against_choice(seen, kinds)


def _against_choice(seen: TurnSeen, kinds: Sequence[str]) -> Iterator[str]:
    forbidden = {pb.ON_INTERRUPTION_RESTART: {"seam"}, STOP: {"seam", "superseded"}}
    for kind in forbidden.get(seen.plan.on_interruption, set()) & set(kinds):
        yield f"{kind} against the caller's choice"


def _answer(seen: TurnSeen, truth: Truth) -> Iterator[str]:
    """The completed turn is what the events said, and what its answerer sent."""
    turn = seen.turn
    if turn is None:
        return
    if turn.state != pb.TURN_STATE_COMPLETED or turn.question != seen.plan.question or not turn.answer:
        yield "a completed turn that is not"
    if seen.events and text_of(list(seen.events)) != turn.answer:
        yield "the events' text is not the answer"
    if turn.degraded != bool(turn.degraded_reasons):
        yield "degraded without a reason, or the reverse"
    is_replayed = seen.is_retry and not any(event.HasField("attempt_ended") for event in seen.events)
    if not is_replayed:
        yield from _attempts(seen, turn)
    look = _BY_ANSWERER.get(turn.answered_by)
    yield from look(seen, turn, truth) if look else ["answered by nobody known"]


def _attempts(seen: TurnSeen, turn: pb.Turn) -> Iterator[str]:
    answered = [attempt for attempt in turn.attempts if attempt.outcome == pb.ATTEMPT_OUTCOME_ANSWERED]
    if [attempt.ai_model for attempt in answered] != ([turn.ai_model] if turn.ai_model else []):
        yield f"answered by {turn.ai_model or 'the rows'}, the attempts say otherwise: {attempts_of(turn)}"
    told = [event.attempt_ended.attempt for event in seen.events if event.HasField("attempt_ended")]
    if seen.events and told != [attempt for attempt in turn.attempts if attempt not in answered]:
        yield "the attempts told are not those of the turn"


def _by_flowise(seen: TurnSeen, turn: pb.Turn, truth: Truth) -> Iterator[str]:
    sent = truth.sent[turn.ai_model.removeprefix("aiModels/")].get(seen.plan.number, ())
    if not any(one.is_whole and one.text == turn.answer for one in sent):
        yield f"the answer is not a whole one of {turn.ai_model}"


def _by_local(seen: TurnSeen, turn: pb.Turn, truth: Truth) -> Iterator[str]:
    for event in seen.events:
        if event.HasField("seam"):
            kept, added = turn.answer[: event.seam.offset_chars], turn.answer[event.seam.offset_chars :]
            if len(kept) >= _LEAST_REPEATED_CHARS and added.lstrip().startswith(kept):
                yield "the same text twice"


def _by_rows(seen: TurnSeen, turn: pb.Turn, truth: Truth) -> Iterator[str]:
    """Each cited row is one of the data, and those that the reply shows are the cited ones."""
    for citation in turn.citations:
        if truth.rows.get(citation.row_number) != tuple(cell.text for cell in citation.cells):
            yield f"row {citation.row_number} is cited with other cells than it has"
    for line in turn.answer.splitlines()[1:]:
        number = int(line.partition("]")[0].removeprefix("["))
        (citation,) = (one for one in turn.citations if one.number == number)
        if not all(cell.text in line for cell in citation.cells):
            yield f"the reply's line {number} is not the row cited"


_BY_ANSWERER: Mapping[int, Callable[[TurnSeen, pb.Turn, Truth], Iterator[str]]] = {
    pb.ANSWERER_FLOWISE: _by_flowise,
    pb.ANSWERER_LOCAL: _by_local,
    pb.ANSWERER_ROWS_ONLY: _by_rows,
}


def _cut_texts(seen: TurnSeen, truth: Truth) -> Iterator[str]:
    """What was shown of a Flowise that was cut is the beginning of what it sent."""
    text = ""
    for event in seen.events:
        match kind_of(event):
            case "token":
                text += event.token.text
            case "attempt_ended":
                model = event.attempt_ended.attempt.ai_model.removeprefix("aiModels/")
                sent = truth.sent.get(model, {}).get(seen.plan.number, ())
                if model in truth.sent and text and not any(one.text.startswith(text) for one in sent):
                    yield f"text of {model} that it never sent"
                text = ""


_LOOKS: tuple[Callable[[TurnSeen, Truth], Iterator[str]], ...] = (_status, _deadline, _order, _answer, _cut_texts)
