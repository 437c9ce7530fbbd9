"""Single turns, timed: what dari adds to a call of Flowise, and what each way of failing costs before the next link.

Two ways are always asked in turn, so that both meet the same state of the machine.
"""

import json
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grpc
import httpx
from google.protobuf.duration_pb2 import Duration

from bench.chat_flowise import FLOW_ID
from bench.chat_flowise_process import FlowiseProcess
from bench.ingest import Bench, WrongResult, check, running_server, spread
from dari.client import Client
from dari.v1 import chat_pb2, mapping_pb2

SOON_S = 60.0
WARM_UP_TURNS = 10
FIRST_TOKEN_TIMEOUT_S = 0.3
STAND_BY_AFTER_S = 0.05
"""The shortest that there is."""
CANCELLED_STREAMS = 4
POLL_S = 0.005


@dataclass(frozen=True)
class Turn:
    """What the caller of one turn saw."""

    first_token_s: float
    codes: tuple[str, ...]
    """Of the attempts that ended before the answer."""


# What is asked


def make_flowise(client: Client, base_url: str, first_token_timeout_s: float | None = None) -> str:
    """A model's name."""
    id = f"flowise-{uuid.uuid4().hex[:8]}"
    model = mapping_pb2.AiModel(
        kind=mapping_pb2.AI_MODEL_KIND_FLOWISE, flowise=mapping_pb2.FlowiseTarget(base_url=base_url, flow_id=FLOW_ID)
    )
    if first_token_timeout_s is not None:
        model.first_token_timeout.CopyFrom(_duration(first_token_timeout_s))
    client.mapping.CreateAiModel(mapping_pb2.CreateAiModelRequest(ai_model_id=id, ai_model=model))
    return f"aiModels/{id}"


def make_chat(client: Client, *ai_models: str, races: bool = False) -> str:
    """A chat configuration's name. With `races` the next model is asked as well when the one before is slow."""
    id = f"chat-{uuid.uuid4().hex[:8]}"
    configuration = mapping_pb2.ChatConfiguration()
    if races:
        configuration.stand_by = mapping_pb2.STAND_BY_RACE
        configuration.stand_by_after.CopyFrom(_duration(STAND_BY_AFTER_S))
    request = mapping_pb2.CreateChatConfigurationRequest(chat_configuration_id=id, chat_configuration=configuration)
    name = client.mapping.CreateChatConfiguration(request).chat_configuration.name
    for priority, ai_model in enumerate(ai_models):
        link = mapping_pb2.LinkAiModelRequest(chat_configuration=name, ai_model=ai_model, priority=priority)
        client.mapping.LinkAiModel(link)
    return name


def ask(client: Client, chat: str) -> Turn:
    """One turn of a new conversation, to its end."""
    request = chat_pb2.ChatRequest(chat_configuration=chat, question="How soon?")
    codes: list[str] = []
    began_s = time.perf_counter()
    first_token_s: float | None = None
    for event in client.chats.Chat(request, timeout=SOON_S):
        kind = event.WhichOneof("event")
        if kind == "token" and first_token_s is None:
            first_token_s = time.perf_counter() - began_s
        elif kind == "attempt_ended":
            codes.append(event.attempt_ended.attempt.code)
    if first_token_s is None:
        raise WrongResult("a turn without a token")
    return Turn(first_token_s, tuple(codes))


def ask_directly(client: httpx.Client, base_url: str) -> float:
    """Seconds until the first token, by httpx alone; the answer is read to its end."""
    body = {"question": "How soon?", "streaming": True, "chatId": str(uuid.uuid4())}
    began_s = time.perf_counter()
    first_token_s = 0.0
    with client.stream("POST", f"{base_url}/api/v1/prediction/{FLOW_ID}", json=body) as answer:
        for line in answer.iter_lines():
            is_token = line.startswith("data:") and json.loads(line[5:])["event"] == "token"
            if is_token and not first_token_s:
                first_token_s = time.perf_counter() - began_s
    return first_token_s


def reset(client: Client, ai_model: str) -> None:
    """Close the model's circuits, so that it is asked again."""
    client.chats.ResetUpstream(chat_pb2.ResetUpstreamRequest(ai_model=ai_model))


def _duration(seconds: float) -> Duration:
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


# The measures


def added(bench: Bench, flowise: FlowiseProcess, rounds: int) -> dict[str, object]:
    """First token through dari and directly."""
    url = flowise.url(tokens=6, gap_ms=0)
    chat = make_chat(bench.client, make_flowise(bench.client, url))
    with httpx.Client(trust_env=False) as direct:
        ways: list[Callable[[], float]] = [
            lambda: ask(bench.client, chat).first_token_s,
            lambda: ask_directly(direct, url),
        ]
        through_s, directly_s = in_turn(ways, rounds)
    return {
        "direct": quantiles_ms(directly_s),
        "dari": quantiles_ms(through_s),
        "added": differences_ms(through_s, directly_s),
    }


def refused(bench: Bench, flowise: FlowiseProcess, rounds: int) -> dict[str, object]:
    """First token of a chain whose first link refuses connections, and of the same chain without that link."""
    with FlowiseProcess() as other:
        dead_url = other.url(tokens=6, gap_ms=0)
    dead = make_flowise(bench.client, dead_url)
    live = make_flowise(bench.client, flowise.url(tokens=6, gap_ms=0))
    plain, chain = make_chat(bench.client, live), make_chat(bench.client, dead, live)

    def ask_refused() -> float:
        return _ask_failing(bench.client, chain, dead, "connection_refused")

    def ask_open() -> float | None:
        turn = ask(bench.client, chain)
        return turn.first_token_s if turn.codes == ("circuit_open",) else None

    closed_s, plain_s = in_turn([ask_refused, lambda: ask(bench.client, plain).first_token_s], rounds)
    # It opens by its rule, and stays so but for a probe now and then, which is left out.
    open_s, plain_again_s = in_turn([ask_open, lambda: ask(bench.client, plain).first_token_s], rounds)
    return {
        "without_the_link": quantiles_ms(plain_s),
        "extra_refused": differences_ms(closed_s, plain_s),
        "extra_circuit_open": differences_ms(open_s, plain_again_s),
    }


def silent(bench: Bench, flowise: FlowiseProcess, rounds: int) -> dict[str, object]:
    """First token of a chain whose first link never answers, and of the same chain without that link."""
    mute = make_flowise(bench.client, flowise.silent_url, FIRST_TOKEN_TIMEOUT_S)
    live = make_flowise(bench.client, flowise.url(tokens=6, gap_ms=0))
    plain, chain = make_chat(bench.client, live), make_chat(bench.client, mute, live)
    waiting_s, plain_s = in_turn(
        [
            lambda: _ask_failing(bench.client, chain, mute, "first_token_timeout"),
            lambda: ask(bench.client, plain).first_token_s,
        ],
        rounds,
    )
    extra = differences_ms(waiting_s, plain_s)
    timer_ms = 1_000 * FIRST_TOKEN_TIMEOUT_S
    result: dict[str, object] = {
        "first_token_timeout_ms": timer_ms,
        "extra": extra,
        "extra_behind_the_timer_p50_ms": round(extra["p50"] - timer_ms, 2),
    }
    racing = make_chat(bench.client, mute, live, races=True)
    if _races(bench.client, racing):

        def race() -> float:
            reset(bench.client, mute)
            return ask(bench.client, racing).first_token_s

        racing_s, plain_s = in_turn([race, lambda: ask(bench.client, plain).first_token_s], rounds)
        result |= {
            "stand_by_after_ms": 1_000 * STAND_BY_AFTER_S,
            "extra_with_stand_by": differences_ms(racing_s, plain_s),
        }
    return result


def recovery(bench: Bench, flowise: FlowiseProcess, rounds: int, probe_interval_s: float) -> dict[str, object]:
    """Seconds from a Flowise that listens again to the first turn that it answers."""
    took_s = []
    live = make_flowise(bench.client, flowise.url(tokens=6, gap_ms=0))
    with FlowiseProcess() as other:
        first = make_flowise(bench.client, other.url(tokens=6, gap_ms=0))
        chat = make_chat(bench.client, first, live)
        for _ in range(rounds):
            check("attempts that fail", ask(bench.client, chat).codes, ())
            other.kill()
            while ask(bench.client, chat).codes != ("circuit_open",):
                pass
            other.start()
            began_s = time.perf_counter()
            while ask(bench.client, chat).codes:
                time.sleep(POLL_S)
            took_s.append(time.perf_counter() - began_s)
            reset(bench.client, first)
    return {
        "probe_interval_s": probe_interval_s,
        "took_s": spread(took_s),
    }


def cancelled(flowise: FlowiseProcess, rounds: int) -> dict[str, object]:
    """From the caller's cancel to the closed upstream connection, and to free threads.

    The server has as many threads as there are streams, so that it refuses any other call until one is free.
    """
    closed_s: list[float] = []
    free_s: list[float] = []
    with running_server(max_chats=str(CANCELLED_STREAMS)) as bench:
        chat = make_chat(bench.client, make_flowise(bench.client, flowise.url(tokens=100_000, gap_ms=20)))
        for _ in range(rounds):
            before = len(flowise.hang_ups())
            streams = [_begun(bench.client, chat) for _ in range(CANCELLED_STREAMS)]
            began_s = time.monotonic()
            for stream in streams:
                stream.cancel()
            free_s += _times_free(bench.client, began_s)
            while len(hang_ups := flowise.hang_ups()[before:]) < CANCELLED_STREAMS:
                time.sleep(POLL_S)
            closed_s += [closed - began_s for closed in hang_ups]
    return {"upstream_closed": quantiles_ms(closed_s), "thread_free": quantiles_ms(free_s)}


def _ask_failing(client: Client, chat: str, ai_model: str, code: str) -> float:
    """First token of a turn whose first attempt fails in this way."""
    turn = ask(client, chat)
    check("what the first link did", turn.codes, (code,))
    reset(client, ai_model)
    return turn.first_token_s


def _races(client: Client, chat: str) -> bool:
    """Whether this server has stand-bys: one that does not know them forgets what it was told."""
    request = mapping_pb2.GetChatConfigurationRequest(name=chat)
    configuration = client.mapping.GetChatConfiguration(request).chat_configuration
    return configuration.stand_by == mapping_pb2.STAND_BY_RACE


def _begun(client: Client, chat: str) -> grpc.Call:
    """A stream that has given its first token."""
    request = chat_pb2.ChatRequest(chat_configuration=chat, question="How soon?")
    stream = client.chats.Chat(request, timeout=SOON_S)
    for event in stream:
        if event.WhichOneof("event") == "token":
            return stream
    raise WrongResult("a turn without a token")


def _times_free(client: Client, began_s: float) -> Iterator[float]:
    """Since `began_s`: when a first call is taken again, and when as many as there are threads are."""
    for wanted in (1, CANCELLED_STREAMS):
        while not _takes(client, wanted):
            time.sleep(POLL_S)
        yield time.monotonic() - began_s


def _takes(client: Client, calls: int) -> bool:
    """Whether the server takes so many calls at once."""
    request = mapping_pb2.ListAiModelsRequest(page_size=1)
    running = [client.mapping.ListAiModels.future(request, timeout=SOON_S) for _ in range(calls)]
    return all(call.code() is grpc.StatusCode.OK for call in running)


# Numbers


def in_turn(ways: Sequence[Callable[[], float | None]], rounds: int) -> list[list[float]]:
    """What each way gives, as many times as there are rounds, after a warm-up. A round with a None counts for none."""
    taken: list[tuple[float, ...]] = []
    number = 0
    while len(taken) < rounds + WARM_UP_TURNS:
        number += 1
        first = number % len(ways)
        order = [*range(first, len(ways)), *range(first)]
        values = dict(zip(order, [ways[place]() for place in order], strict=True))
        whole = [value for place in range(len(ways)) if (value := values[place]) is not None]
        if len(whole) == len(ways):
            taken.append(tuple(whole))
    return [list(column) for column in zip(*taken[WARM_UP_TURNS:], strict=True)]


def quantiles_ms(values_s: Sequence[float]) -> dict[str, float]:
    """Median, tails and ends, in milliseconds."""
    ordered = sorted(1_000 * value for value in values_s)
    cuts = statistics.quantiles(ordered, n=100, method="inclusive")
    return {
        "min": round(ordered[0], 2),
        "p50": round(cuts[49], 2),
        "p99": round(cuts[98], 2),
        "max": round(ordered[-1], 2),
    }


def differences_ms(ours_s: Sequence[float], peer_s: Sequence[float]) -> dict[str, float]:
    """By how much each quantile of ours stands above the peer's, in milliseconds."""
    ours, peer = quantiles_ms(ours_s), quantiles_ms(peer_s)
    return {name: round(ours[name] - peer[name], 2) for name in ("p50", "p99")}
