"""Every call has an id, goes back with it, and ends with one event under which all of its ids are found."""

import json
from typing import Any, cast
from uuid import UUID

import grpc
import pytest

from dari.v1 import chat_pb2, ingest_pb2, mapping_pb2
from tests.fix_server import ServedDari, StartServer
from tests.flowise_stand_in import StandIn, cut_after
from tests.support.running_dari import RunningDari
from tests.support.waiting import until


@pytest.fixture
def served(start_server: StartServer) -> ServedDari:
    return start_server(log_level="info", tenant="acme")


class Log:
    """What a server has written, as events."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._lines: list[dict[str, Any]] = []

    def events(self, name: str) -> list[dict[str, Any]]:
        self._lines += map(json.loads, self._capsys.readouterr().err.splitlines())
        return [line for line in self._lines if line["event"] == name]

    def of(self, name: str, request_id: str) -> list[dict[str, Any]]:
        """Once one has come: an event is written behind the answer."""
        until(lambda: any(event.get("request_id") == request_id for event in self.events(name)))
        return [event for event in self.events(name) if event.get("request_id") == request_id]


def get(dari: RunningDari, *metadata: tuple[str, str]) -> tuple[grpc.Call, Any]:
    """A call that finds nothing; its end."""
    with pytest.raises(grpc.RpcError) as raised:
        dari.mapping.GetAiModel(mapping_pb2.GetAiModelRequest(name="aiModels/none"), metadata=metadata)
    call = cast(grpc.Call, raised.value)
    return call, dict(call.trailing_metadata())


def test_a_call_ends_with_one_event_and_no_content(served: ServedDari, capsys: pytest.CaptureFixture[str]) -> None:
    """With method, status, reason, duration and the ids of the call; nothing else."""
    log = Log(capsys)
    get(served.dari, ("x-request-id", "of-the-caller"))
    (ended,) = log.of("call_ended", "of-the-caller")
    assert ended.pop("timestamp")
    assert ended.pop("duration_s") > 0
    assert ended == {
        "event": "call_ended",
        "level": "info",
        "method": "dari.v1.MappingService/GetAiModel",
        "status": "NOT_FOUND",
        "reason": "NOT_FOUND",
        "request_id": "of-the-caller",
        "caller": "anyone",
        "tenant": "acme",
    }


@pytest.mark.parametrize("given", [(), (("x-request-id", "no id: {}"),), (("x-request-id", "x" * 129),)])
def test_a_call_without_an_id_that_is_fit_gets_one(served: ServedDari, given: tuple[tuple[str, str], ...]) -> None:
    """It could stand in no record; the new one goes back to the caller."""
    _, trailers = get(served.dari, *given)
    assert UUID(trailers["x-request-id"])


def test_the_id_goes_back_behind_the_last_message(served: ServedDari) -> None:
    """Of calls that succeed and that fail, next to the details of the error; and never before the first message."""
    call, trailers = get(served.dari, ("x-request-id", "mine"))
    assert trailers["x-request-id"] == "mine"
    assert "grpc-status-details-bin" in trailers
    assert not dict(call.initial_metadata())
    _, succeeded = served.dari.mapping.ListAiModels.with_call(
        mapping_pb2.ListAiModelsRequest(), metadata=(("x-request-id", "mine"),)
    )
    assert dict(succeeded.trailing_metadata()) == {"x-request-id": "mine"}
    assert not dict(succeeded.initial_metadata())


def test_what_happens_inside_a_call_is_logged_under_its_ids(
    served: ServedDari, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a turn those of the turn, and of the attempt that failed; of an upload its own."""
    log, dari = Log(capsys), served.dari
    with StandIn() as flowise:
        flowise.script(cut_after())
        dari.make_flowise("cut", flowise.url)
        dari.make_knowledge_base("kb", "id,name\n1,a\n")
        dari.make_chat("bot", "cut", over=("kb",))
        request = chat_pb2.AskRequest(chat_configuration="chatConfigurations/bot", question="name a")
        turn = dari.chat.Ask(request, metadata=(("x-request-id", "the-turn"),)).turn
    (failed,) = log.of("attempt_ended", "the-turn")
    assert failed["attempt"] == flowise.questions[0].json["chatId"]
    for event in ("attempt_ended", "turn_completed", "call_ended"):
        (logged,) = log.of(event, "the-turn")
        assert (logged["caller"], logged["tenant"], logged["turn"]) == ("anyone", "acme", turn.name)
        assert logged["method"] == "dari.v1.ChatService/Ask"
    (completed,) = log.events("upload_completed")
    (ended,) = log.of("call_ended", completed["request_id"])
    assert ended["upload"] == completed["upload"]


def test_a_caller_who_leaves_is_told_as_cancelled(served: ServedDari, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a stream in the middle; no later call on the thread has its ids."""
    log = Log(capsys)
    served.dari.make_knowledge_base("kb", "id\n1\n")
    upload = next(iter(served.dari.ingest.ListUploads(ingest_pb2.ListUploadsRequest()).uploads))
    watch = served.dari.chat.WatchUpstreams(chat_pb2.WatchUpstreamsRequest(), metadata=(("x-request-id", "left"),))
    next(watch)
    watch.cancel()
    (ended,) = log.of("call_ended", "left")
    assert ended["status"] == "CANCELLED"
    served.dari.ingest.GetUpload(ingest_pb2.GetUploadRequest(name=upload.name), metadata=(("x-request-id", "next"),))
    (after,) = log.of("call_ended", "next")
    assert (after["status"], after["method"]) == ("OK", "dari.v1.IngestService/GetUpload")
