"""Callers in a process of their own: as many threads as it is told, each making one call after another.

    python -m load.worker < PLAN        a Plan as JSON on standard input; prints as JSON what each call came to

Several such processes are the clients of a step: one Python process alone would be slower than what it measures. What
ghz and k6 cannot do is done here: uploads that resume wherever they were cut, chats that are asked again elsewhere
under the same request_id, chats whose caller leaves.
"""

import json
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc

from dari.client import Access, CallFailed, Client
from dari.v1 import chat_pb2, mapping_pb2
from dari.v1.ingest_pb2 import UPLOAD_MODE_APPEND, UPLOAD_MODE_REPLACE

OK, CANCELLED, BROKEN = "OK", "CANCELLED", "OK without completed"
"""Statuses of calls beside gRPC's others; the last is what dari promises never to do."""
UNARY, CHAT, UPLOAD = "unary", "chat", "upload"
_CALL_TIMEOUT_S = 60.0
_TRIES = 8
"""Of a chat or a read whose replica is gone: each on the next address, with a pause between rounds."""
_PAUSE_S = 0.25
_CONNECTIONS = 4
"""To each address, shared by the threads of a worker."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one worker is to do."""

    kind: str
    addresses: tuple[str, ...]
    token: str
    clients: int
    seconds: float
    first_client: int = 0
    """Number of its first client among those of all workers."""
    names: tuple[str, ...] = ()
    """What the calls are about, in turn: knowledge bases for reads and uploads, chat configurations for chats."""
    paths: tuple[str, ...] = ()
    """The files to upload, in turn."""
    replaces: bool = False
    """Whether an upload takes the place of what is there, or is added to it. Each client then keeps to one knowledge
    base, so that of two that are under way neither takes the other's place."""
    cancelled_share: float = 0.0
    """Of the chats whose caller leaves in the middle."""
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Called:
    """What one call came to. Times by time.monotonic, which all processes of a machine share."""

    kind: str
    began_s: float
    took_s: float
    status: str
    first_token_s: float | None = None
    """From the beginning."""
    tries: int = 1
    id: str = ""
    """The request_id of a chat; the upload_id of an upload."""
    about: str = ""
    path: str = ""
    answered_by: str = ""
    codes: tuple[str, ...] = field(default=())
    """Of the attempts of a chat that came to nothing."""


class Worker:
    """The threads of one process."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        access = Access(plan.token)
        self._clients = [
            [Client(address, timeout_s=_CALL_TIMEOUT_S, access=access) for _ in range(_CONNECTIONS)]
            for address in plan.addresses
        ]
        self._lock = threading.Lock()  # guards the list below
        self._called: list[Called] = []
        self._end_s = 0.0

    def run(self) -> list[Called]:
        """Call until the time is over, each client once at least; calls under way are waited for."""
        self._end_s = time.monotonic() + self._plan.seconds
        numbers = range(self._plan.first_client, self._plan.first_client + self._plan.clients)
        threads = [threading.Thread(target=self._call_on, args=(number,)) for number in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for client in (one for each in self._clients for one in each):
            client.close()
        return self._called

    def _call_on(self, number: int) -> None:
        draw = random.Random(f"{self._plan.seed}/{number}")
        call: Callable[[int, random.Random], Called] = {UNARY: self._read, CHAT: self._chat, UPLOAD: self._upload}[
            self._plan.kind
        ]
        turn = number
        is_over = False
        while not is_over:
            called = call(turn, draw)
            turn += 0 if self._plan.replaces else 1
            with self._lock:
                self._called.append(called)
            is_over = time.monotonic() >= self._end_s

    def _client(self, number: int) -> Client:
        replica = self._clients[number % len(self._clients)]
        return replica[number // len(self._clients) % _CONNECTIONS]

    def _read(self, turn: int, draw: random.Random) -> Called:
        name = self._plan.names[turn % len(self._plan.names)]
        request = mapping_pb2.GetKnowledgeBaseRequest(name=name)
        began_s = time.monotonic()
        status, tries = self._tried(turn, lambda client: client.mapping.GetKnowledgeBase(request))
        return Called(UNARY, began_s, time.monotonic() - began_s, status, tries=tries, about=name)

    def _chat(self, turn: int, draw: random.Random) -> Called:
        chat = self._plan.names[turn % len(self._plan.names)]
        request = chat_pb2.ChatRequest(
            chat_configuration=chat, question=f"Where is airport {turn % 7}?", request_id=str(uuid.uuid4())
        )
        leaves = draw.random() < self._plan.cancelled_share
        seen = _Chat(time.monotonic(), leaves)

        def follow(client: Client) -> None:
            # A turn that died with its replica holds its request_id until its deadline: who cannot wait asks anew.
            if status_before[-1] == "ABORTED":
                request.request_id = str(uuid.uuid4())
            seen.follow(client, request)

        status_before = [""]
        status, tries = self._tried(turn, follow, status_before.append)
        return Called(
            CHAT,
            seen.began_s,
            time.monotonic() - seen.began_s,
            seen.outcome or status,
            seen.first_token_s,
            tries,
            request.request_id,
            chat,
            answered_by=seen.answered_by,
            codes=tuple(seen.codes),
        )

    def _upload(self, turn: int, draw: random.Random) -> Called:
        name = self._plan.names[turn % len(self._plan.names)]
        path = self._plan.paths[turn % len(self._plan.paths)]
        id = str(uuid.uuid4())
        mode = UPLOAD_MODE_REPLACE if self._plan.replaces else UPLOAD_MODE_APPEND
        began_s = time.monotonic()
        # Its own client resumes on the same address; one that is gone for good is resumed on the next.
        status, tries = self._tried(
            turn,
            lambda client: client.ingest(path, name, mode, upload_id=id, open_timeout_s=10.0, give_up_after_s=20.0),
        )
        return Called(UPLOAD, began_s, time.monotonic() - began_s, status, tries=tries, id=id, about=name, path=path)

    def _tried(
        self, turn: int, call: Callable[[Client], object], note: Callable[[str], object] = lambda _: None
    ) -> tuple[str, int]:
        """The status in the end, and how often it took; `note` is told the status of each try that failed."""
        status = ""
        for attempt in range(_TRIES):
            try:
                call(self._client(turn + attempt))
            except CallFailed as error:
                status = error.code.name
            except grpc.RpcError as error:
                status = error.code().name
            else:
                return OK, attempt + 1
            note(status)
            if status not in ("UNAVAILABLE", "ABORTED"):
                return status, attempt + 1
            time.sleep(_PAUSE_S * (1 + attempt // len(self._plan.addresses)))
        return status, _TRIES


class _Chat:
    """What the caller of one turn sees, over all its tries."""

    def __init__(self, began_s: float, leaves: bool) -> None:
        self.began_s = began_s
        self.first_token_s: float | None = None
        self.outcome = ""
        """Where it is another than the call's own status."""
        self.answered_by = ""
        self.codes: list[str] = []
        self._leaves = leaves

    def follow(self, client: Client, request: chat_pb2.ChatRequest) -> None:
        """Read one try to its end, or leave it at its first token."""
        stream: Any = client.chats.Chat(request, timeout=_CALL_TIMEOUT_S)
        is_complete = False
        for event in stream:
            match event.WhichOneof("event"):
                case "token":
                    if self.first_token_s is None:
                        self.first_token_s = time.monotonic() - self.began_s
                    if self._leaves:
                        self.outcome = CANCELLED
                        stream.cancel()
                        return
                case "attempt_ended":
                    self.codes.append(event.attempt_ended.attempt.code)
                case "completed":
                    is_complete = True
                    self.answered_by = chat_pb2.Answerer.Name(event.completed.turn.answered_by)
        self.outcome = "" if is_complete else BROKEN


def main() -> None:
    """Run the plan on standard input."""
    told: dict[str, Any] = json.load(sys.stdin)
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    plan = Plan(**told)
    begun_cpu_s = time.process_time()
    called = [asdict(one) for one in Worker(plan).run()]
    json.dump({"called": called, "cpu_s": time.process_time() - begun_cpu_s}, sys.stdout)


if __name__ == "__main__":
    main()
