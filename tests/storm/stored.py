"""Compares what the callers saw with what the database has, when all is healed."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from dari.v1 import chat_pb2 as pb
from dari.v1 import chat_pb2_grpc
from tests.storm.callers import TurnSeen
from tests.storm.flowise_process import question_number

_PAGE = 1_000
_READERS = 4
_KEPT = ("question", "answer", "state", "answered_by", "ai_model", "citations")
"""Fields of a turn that are stored as they were told. Attempts are compared apart, names by their conversation."""

Stored = Mapping[int, Sequence[pb.Turn]]
"""By the number in the question."""


def read_stored(stub: chat_pb2_grpc.ChatServiceStub) -> Stored:
    """Every turn of every conversation."""
    stored: dict[int, list[pb.Turn]] = defaultdict(list)
    with ThreadPoolExecutor(_READERS, "reader") as pool:
        for turns in pool.map(lambda name: _turns(stub, name), _conversations(stub)):
            for turn in turns:
                number = question_number(turn.question)
                if number is not None:
                    stored[number].append(turn)
    return stored


def complaints(seen: Sequence[TurnSeen], stored: Stored) -> Iterator[tuple[int, str]]:
    """(number, what is wrong). `seen` are all sights of all turns: a retry has the number of its turn."""
    sights: dict[int, list[TurnSeen]] = defaultdict(list)
    for sight in seen:
        sights[sight.plan.number].append(sight)
    for number, of_turn in sights.items():
        for complaint in _of_turn(of_turn, stored.get(number, ())):
            yield number, complaint


def _of_turn(sights: Sequence[TurnSeen], stored: Sequence[pb.Turn]) -> Iterator[str]:
    told = [sight.turn for sight in sights if sight.turn is not None]
    completed = [turn for turn in stored if turn.state == pb.TURN_STATE_COMPLETED]
    if len(completed) > 1:
        yield f"stored {len(completed)} times"
    if not told:
        # A caller who has left cannot say whether the answer was whole by then.
        if completed and not any(sight.is_left or sight.status == "DEADLINE_EXCEEDED" for sight in sights):
            yield "stored as complete, though its caller was told otherwise"
    elif not completed:
        yield "not stored"
    else:
        for turn in told:
            yield from _differences(turn, completed[0])


def _differences(told: pb.Turn, stored: pb.Turn) -> Iterator[str]:
    for name in _KEPT:
        if getattr(told, name) != getattr(stored, name):
            yield f"stored with another {name} than told"
    if [attempt.code for attempt in told.attempts] != [attempt.code for attempt in stored.attempts]:
        yield "stored with other attempts than told"
    if told.name.partition("/turns/")[0] != stored.name.partition("/turns/")[0]:
        yield "stored in another conversation than told"
    is_numbered = pb.DEGRADED_REASON_NOT_STORED not in told.degraded_reasons
    if is_numbered and told.name != stored.name:
        yield "stored under another name than told"


def _conversations(stub: chat_pb2_grpc.ChatServiceStub) -> Iterator[str]:
    token = ""
    while True:
        page = stub.ListConversations(pb.ListConversationsRequest(page_size=_PAGE, page_token=token))
        yield from (conversation.name for conversation in page.conversations)
        token = page.next_page_token
        if not token:
            return


def _turns(stub: chat_pb2_grpc.ChatServiceStub, conversation: str) -> list[pb.Turn]:
    return list(stub.ListTurns(pb.ListTurnsRequest(conversation=conversation, page_size=_PAGE)).turns)
