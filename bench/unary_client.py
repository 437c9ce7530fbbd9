"""Unary calls as fast as one Python process can: the client of `bench.unary` where there is no ghz.

    python -m bench.unary_client ADDRESS METHOD SECONDS CONCURRENCY < REQUEST        prints one JSON object

Messages pass as bytes. Even so it costs about as much as a bare server, so that ratios come out closer to 1 than they
are; `bench.unary` says which client it had.
"""

import argparse
import asyncio
import base64
import json
import sys
import time
from collections import Counter

import grpc
import grpc.aio


async def call_on(
    address: str, method: str, request: bytes, token: str, seconds: float, concurrency: int
) -> Counter[str]:
    """Statuses of all calls."""
    statuses: Counter[str] = Counter()
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    end_s = time.monotonic() + seconds
    async with grpc.aio.insecure_channel(address) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{method}")

        async def one_after_another() -> None:
            while time.monotonic() < end_s:
                try:
                    await call(request, metadata=metadata)
                    statuses["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    statuses[error.code().name] += 1

        await asyncio.gather(*(one_after_another() for _ in range(concurrency)))
    return statuses


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Make unary calls.")
    parser.add_argument("address")
    parser.add_argument("method")
    parser.add_argument("seconds", type=float)
    parser.add_argument("concurrency", type=int)
    options = parser.parse_args()
    told = json.load(sys.stdin)
    request, token = base64.b64decode(told["request"]), told["token"]
    began_s = time.monotonic()
    statuses = asyncio.run(
        call_on(options.address, options.method, request, token, options.seconds, options.concurrency)
    )
    print(json.dumps({"seconds": time.monotonic() - began_s, "statuses": statuses}))


if __name__ == "__main__":
    main()
