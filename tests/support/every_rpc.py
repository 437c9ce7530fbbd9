"""Every RPC that there is, with requests for it: by the descriptors, so that none can be left out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from dari.rpc.chat import ChatService
from dari.rpc.ingest import IngestService
from dari.rpc.mapping import MappingService
from dari.v1 import chat_pb2, ingest_pb2, mapping_pb2
from tests.support.running_dari import SOON_S, Refusal, refusal

_COLLECTIONS = {
    "ai_model": "aiModels",
    "chat_configuration": "chatConfigurations",
    "knowledge_base": "knowledgeBases",
    "knowledge_bases": "knowledgeBases",
    "upload": "uploads",
    "conversation": "conversations",
}
"""By the field that holds a name."""
_WORDS = {
    "AiModel": "aiModels",
    "ChatConfiguration": "chatConfigurations",
    "KnowledgeBase": "knowledgeBases",
    "Upload": "uploads",
    "Conversation": "conversations",
    "Versions": "knowledgeBases",
}
"""By what an RPC's name ends with whose request has a `name`."""

_SERVED = {"ChatService": ChatService, "IngestService": IngestService, "MappingService": MappingService}
"""An RPC that a contract has and its class has not is not built yet."""


def methods() -> list[MethodDescriptor]:
    """Of all services, in the order of the files."""
    files = (chat_pb2.DESCRIPTOR, ingest_pb2.DESCRIPTOR, mapping_pb2.DESCRIPTOR)
    return [method for file in files for service in file.services_by_name.values() for method in service.methods]


def path_of(method: MethodDescriptor) -> str:
    """As it stands on the wire."""
    return f"/{method.containing_service.full_name}/{method.name}"


@dataclass(frozen=True)
class Told:
    """What came back: a refusal, or the first message of the answer."""

    refusal: Refusal | None
    message: bytes = b""


def call(
    channel: grpc.Channel,
    method: MethodDescriptor,
    request: Message | None = None,
    metadata: tuple[tuple[str, str], ...] = (),
) -> Told:
    """Call it, with an empty request by default, up to its first answer."""
    message = GetMessageClass(method.input_type)() if request is None else request
    kinds = {False: "unary", True: "stream"}
    make_stub = getattr(channel, f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}")
    stub = make_stub(path_of(method), request_serializer=lambda told: told.SerializeToString())
    answer: Any = None
    try:
        answer = stub(iter([message]) if method.client_streaming else message, timeout=SOON_S, metadata=metadata)
        return Told(None, next(answer, b"") if method.server_streaming else answer)
    except grpc.RpcError as error:
        return Told(refusal(error))
    finally:
        if method.server_streaming and answer is not None:
            answer.cancel()


@dataclass(frozen=True)
class NamingRpc:
    """An RPC whose request names resources that exist."""

    method: MethodDescriptor
    collections: frozenset[str]
    """Of the names that it takes."""

    def request(self, names: Mapping[str, str]) -> Message:
        """With the names of its collections."""
        message = _filled(self.method)
        for path, collection in _places(self.method):
            _put(message, path, names[collection])
        return message


def naming_rpcs() -> list[NamingRpc]:
    """All that are served; what makes a resource names one that does not exist yet, and is none."""
    served = [method for method in methods() if method.name in vars(_SERVED[method.containing_service.name])]
    found = [(method, frozenset(collection for _, collection in _places(method))) for method in served]
    return [NamingRpc(method, collections) for method, collections in found if collections]


def _places(method: MethodDescriptor) -> Iterator[tuple[tuple[str, ...], str]]:
    """Where names stand in the request, and of which collections."""
    if method.name.startswith("Create"):
        return
    if method.name == "Ingest":
        yield ("open", "knowledge_base"), "knowledgeBases"  # Its upload_id makes an upload of the caller's own.
        return
    for field in method.input_type.fields:
        if field.name == "name":
            yield ("name",), next(told for word, told in _WORDS.items() if method.name.endswith(word))
        elif field.name in _COLLECTIONS and field.message_type is not None:
            yield (field.name, "name"), _COLLECTIONS[field.name]
        elif field.name in _COLLECTIONS:
            yield (field.name,), _COLLECTIONS[field.name]


def _filled(method: MethodDescriptor) -> Message:
    """A request with what it needs beside names."""
    message: Any = GetMessageClass(method.input_type)()
    if method.name in ("Chat", "Ask"):
        message.question = "1"
    if method.name == "Search":
        message.query = "1"
    if method.name == "Ingest":
        message.open.upload_id = "an-upload"
        message.open.mode = ingest_pb2.UPLOAD_MODE_APPEND
    return message  # type: ignore[no-any-return]


def _put(message: Any, path: tuple[str, ...], name: str) -> None:
    *outer, last = path
    for field in outer:
        message = getattr(message, field)
    if message.DESCRIPTOR.fields_by_name[last].is_repeated:
        getattr(message, last).append(name)
    else:
        setattr(message, last, name)
