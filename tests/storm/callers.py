"""The callers of the storm: what each turn is to be like, by a seed, and what its caller saw."""

import itertools
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar, cast
from uuid import UUID

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from dari.v1 import chat_pb2 as pb
from dari.v1 import chat_pb2_grpc
from tests.support.running_dari import Events, status_of

RESTART, CONTINUE, STOP = pb.ON_INTERRUPTION_RESTART, pb.ON_INTERRUPTION_CONTINUE, pb.ON_INTERRUPTION_STOP
ITEMS = 40
"""Items in the data that is asked about."""
_Request = TypeVar("_Request", pb.ChatRequest, pb.AskRequest)
_PATIENCE_S = 1.0
"""How long a caller who was refused waits, as `grpc-retry-pushback-ms` says."""


@dataclass(frozen=True, slots=True)
class TurnPlan:
    """What one caller is going to do."""

    number: int
    """Stands in the question, so that what neighbours sent and what is stored can be told apart."""
    chat: str
    question: str
    request_id: UUID | None
    asks_unary: bool
    """Ask, not Chat."""
    on_interruption: "pb.OnInterruption.ValueType"
    deadline_s: float
    leaves_after: int | None
    """Events after which the caller leaves."""
    goes_on: bool
    """With the caller's conversation before, where there is one."""
    asks_twice: bool
    """Under the same request_id although it was answered, as a caller does who lost the answer on its way."""


@dataclass(frozen=True, slots=True)
class TurnSeen:
    """What the caller saw. Times of the monotonic clock."""

    plan: TurnPlan
    begin_s: float
    end_s: float
    events: tuple[pb.ChatResponse, ...]
    """None of an Ask."""
    turn: pb.Turn | None
    """The completed turn; None where the call did not end well."""
    status: str
    reason: str
    """Of the ErrorInfo; empty where there was none."""
    is_left: bool
    """Whether the caller left before the end."""
    is_retry: bool
    """Whether the same request_id was sent before."""


def plan_turn(seed: str, number: int, chats: dict[str, int]) -> TurnPlan:
    """`chats` gives each chat configuration its share of the turns."""
    chance = random.Random(f"{seed} turn {number}")
    item = chance.randrange(ITEMS)
    question = chance.choice(("What does item-{} cost? #{:06}", "item-{}은 얼마입니까? #{:06}")).format(item, number)
    asks_unary = chance.random() < 0.15
    return TurnPlan(
        number=number,
        chat=chance.choices(list(chats), list(chats.values()))[0],
        question=question,
        request_id=UUID(int=chance.getrandbits(128), version=4) if chance.random() < 0.5 else None,
        asks_unary=asks_unary,
        on_interruption=chance.choices((RESTART, CONTINUE, STOP), (4, 4, 2))[0],
        deadline_s=chance.uniform(4.0, 6.0) if chance.random() < 0.2 else chance.uniform(15.0, 20.0),
        leaves_after=chance.randrange(1, 8) if not asks_unary and chance.random() < 0.08 else None,
        goes_on=chance.random() < 0.3,
        asks_twice=chance.random() < 0.2,
    )


class Callers:
    """Ask all turns, so many at once.

    A caller with a request_id asks once more under the same one where it got no answer, and sometimes where it did.
    """

    def __init__(self, stub: chat_pb2_grpc.ChatServiceStub, plan: Callable[[int], TurnPlan]) -> None:
        self._stub = stub
        self._plan = plan
        self._lock = threading.Lock()  # guards _seen
        self._seen: list[TurnSeen] = []

    def run(self, turns: int, at_once: int, on_begin: Callable[[int], None]) -> list[TurnSeen]:
        """Return when all have ended; `on_begin` is told the number of each turn."""
        numbers = itertools.count(1)

        def work() -> None:
            conversations: dict[str, str] = {}
            while (number := next(numbers)) <= turns:
                on_begin(number)
                self._ask(self._plan(number), conversations)

        with ThreadPoolExecutor(at_once, "caller") as pool:
            for worker in [pool.submit(work) for _ in range(at_once)]:
                worker.result()
        return self._seen

    def _ask(self, plan: TurnPlan, conversations: dict[str, str]) -> None:
        conversation = conversations.get(plan.chat, "") if plan.goes_on else ""
        seen = self._see(plan, conversation, is_retry=False)
        if seen.turn is None and not seen.is_left:
            # No caller of a refused turn comes again at once.
            time.sleep(_PATIENCE_S)
        if plan.request_id is not None and (plan.asks_twice or seen.turn is None):
            seen = self._see(plan, conversation, is_retry=True)
        if seen.turn is not None:
            conversations[plan.chat] = seen.turn.name.partition("/turns/")[0]

    def _see(self, plan: TurnPlan, conversation: str, *, is_retry: bool) -> TurnSeen:
        seen = ask(self._stub, plan, conversation, is_retry=is_retry)
        with self._lock:
            self._seen.append(seen)
        return seen


def ask(stub: chat_pb2_grpc.ChatServiceStub, plan: TurnPlan, conversation: str, *, is_retry: bool = False) -> TurnSeen:
    """Ask one turn and see what comes."""
    begin_s = time.monotonic()
    events: list[pb.ChatResponse] = []
    turn: pb.Turn | None = None
    status, reason, is_left = "OK", "", False
    try:
        if plan.asks_unary:
            turn = stub.Ask(_request(pb.AskRequest, plan, conversation), timeout=plan.deadline_s).turn
        else:
            call = cast(Events, stub.Chat(_request(pb.ChatRequest, plan, conversation), timeout=plan.deadline_s))
            for event in call:
                events.append(event)
                if len(events) == plan.leaves_after and not event.HasField("completed"):
                    is_left = True
                    call.cancel()
            if events and events[-1].HasField("completed"):
                turn = events[-1].completed.turn
    except grpc.RpcError as error:
        status, reason = status_of(error), _reason_of(error)
    return TurnSeen(plan, begin_s, time.monotonic(), tuple(events), turn, status, reason, is_left, is_retry)


def _request(kind: type[_Request], plan: TurnPlan, conversation: str) -> _Request:
    return kind(
        chat_configuration=f"chatConfigurations/{plan.chat}",
        conversation=conversation,
        question=plan.question,
        request_id=str(plan.request_id or ""),
        on_interruption=plan.on_interruption,
    )


def _reason_of(error: grpc.RpcError) -> str:
    """The reason that dari told; empty for an error that gRPC made itself, also where dari's came at the same time."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        return ""
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == "dari":
            return cast(str, info.reason)
    return ""
