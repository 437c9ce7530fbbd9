"""Many chats at once, from a process of its own: how long each token was on its way, and how evenly tokens came.

    python -m bench.chat_load ADDRESS CHAT_CONFIGURATION STREAMS        the result is one JSON object on stdout

Every token tells when its source sent it (`bench.chat_flowise`). A token's *delay* is the time from there to here. A
*stall* is by how much a stream's tokens stood further apart here than where they came from; it is told for the whole
time, and for the time when all streams have begun: beginning many turns at once costs more than carrying them. Messages
are taken as bytes while the streams run and are read at the end, so that this process costs little of the machine.
"""

import argparse
import asyncio
import itertools
import json
import re
import time

import grpc
import grpc.aio

from bench.chat_flowise import STAMP
from dari.v1 import chat_pb2

_SENT = re.compile(STAMP + r"(\d+\.\d{6})")
METHOD = "/dari.v1.ChatService/Chat"
TIMEOUT_S = 300.0
Taken = list[tuple[float, bytes]]
"""What one stream gave: when, and the message."""


async def one_stream(channel: grpc.aio.Channel, request: bytes, taken: Taken) -> str:
    """Take a stream to its end; the name of its status."""
    method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(METHOD)
    call = method(request, timeout=TIMEOUT_S)
    try:
        async for message in call:
            taken.append((time.monotonic(), message))
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return grpc.StatusCode.OK.name


async def all_streams(address: str, request: bytes, streams: int) -> tuple[list[Taken], list[str]]:
    """All at once over one channel."""
    taken: list[Taken] = [[] for _ in range(streams)]
    async with grpc.aio.insecure_channel(address) as channel:
        statuses = await asyncio.gather(*(one_stream(channel, request, each) for each in taken))
    return taken, list(statuses)


def way_of(taken: Taken) -> list[tuple[float, float]]:
    """When each token of a stream was sent, and when it came; one message may hold several."""
    way = []
    for came_s, message in taken:
        text = chat_pb2.ChatResponse.FromString(message).token.text
        way += [(float(sent_s), came_s) for sent_s in _SENT.findall(text)]
    return way


def stall_s(way: list[tuple[float, float]], since_s: float) -> float:
    """The longest of a stream, among the tokens that came since then."""
    pairs = itertools.pairwise(token for token in way if token[1] >= since_s)
    return max(
        (((came - came_before) - (sent - sent_before)) for (sent_before, came_before), (sent, came) in pairs),
        default=0.0,
    )


def summary(taken: list[Taken], statuses: list[str]) -> dict[str, object]:
    """The numbers of a run; milliseconds."""
    ways = [way_of(each) for each in taken]
    delays_ms = sorted(1_000 * (came - sent) for way in ways for sent, came in way)
    all_run_s = max((way[0][1] for way in ways if way), default=0.0)
    stalls_ms = sorted(1_000 * stall_s(way, 0.0) for way in ways)
    running_stalls_ms = sorted(1_000 * stall_s(way, all_run_s) for way in ways)
    sent_s = [sent for way in ways for sent, _ in way]
    return {
        "statuses": {status: statuses.count(status) for status in sorted(set(statuses))},
        "tokens": len(delays_ms),
        "messages": sum(map(len, taken)),
        "tokens_per_s": round(len(sent_s) / max(max(sent_s) - min(sent_s), 1e-9)) if sent_s else 0,
        "delay_p50_ms": _share(delays_ms, 0.5),
        "delay_p99_ms": _share(delays_ms, 0.99),
        "stall_p50_ms": _share(stalls_ms, 0.5),
        "longest_stall_ms": _share(stalls_ms, 1.0),
        "all_run_after_s": round(all_run_s - min(sent_s, default=0.0), 2),
        "longest_stall_when_all_run_ms": _share(running_stalls_ms, 1.0),
    }


def _share(values: list[float], share: float) -> float | None:
    """The value below which this share of the sorted values stands."""
    return round(values[min(len(values) - 1, int(len(values) * share))], 1) if values else None


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Chat over many streams at once.")
    parser.add_argument("address")
    parser.add_argument("chat_configuration")
    parser.add_argument("streams", type=int)
    options = parser.parse_args()
    request = chat_pb2.ChatRequest(chat_configuration=options.chat_configuration, question="How evenly?")
    print(json.dumps(summary(*asyncio.run(all_streams(options.address, request.SerializeToString(), options.streams)))))


if __name__ == "__main__":
    main()
