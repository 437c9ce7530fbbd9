"""A running dari as a caller sees it: its stubs, and short ways to make what a test needs."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from types import TracebackType
from typing import Protocol, Self, cast
from uuid import UUID, uuid4

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from dari.client import Access
from dari.v1 import chat_pb2, chat_pb2_grpc, ingest_pb2, ingest_pb2_grpc, mapping_pb2, mapping_pb2_grpc
from tests.flowise_stand_in import FLOW_ID

FLOWISE, OPENAI, LOCAL = (
    mapping_pb2.AI_MODEL_KIND_FLOWISE,
    mapping_pb2.AI_MODEL_KIND_OPENAI_COMPATIBLE,
    mapping_pb2.AI_MODEL_KIND_LOCAL,
)
_CHUNK_BYTES = 256 * 1024
SOON_S = 30.0
"""How long a test waits for what must come before it fails."""


@dataclass(frozen=True)
class Refusal:
    """What a call that failed told its caller."""

    status: str
    reason: str
    metadata: dict[str, str]
    fields: tuple[str, ...]
    message: str
    trailers: tuple[tuple[str, str | bytes], ...] = field(default=(), compare=False)


def refusal(error: grpc.RpcError) -> Refusal:
    """Read an error; every one has exactly one ErrorInfo of ours."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    infos, fields = [], []
    for detail in status.details:
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            infos.append(info)
        elif detail.Unpack(request):
            fields += [violation.field for violation in request.field_violations]
    (info,) = infos
    assert info.domain == "dari"
    trailers = tuple((key, value) for key, value in _call(error).trailing_metadata())
    return Refusal(status_of(error), info.reason, dict(info.metadata), tuple(fields), status.message, trailers)


def status_of(error: grpc.RpcError) -> str:
    """The name of the status, also of an error that gRPC made itself."""
    return _call(error).code().name


def _call(error: grpc.RpcError) -> grpc.Call:
    """What every error that a stub raises is too, which its type does not say."""
    return cast(grpc.Call, error)


class Events(Protocol):
    """What a stub gives for a stream of answers."""

    def __iter__(self) -> Iterator[chat_pb2.ChatResponse]: ...
    def __next__(self) -> chat_pb2.ChatResponse: ...
    def cancel(self) -> object: ...


def seconds(value: float) -> Duration:
    message = Duration()
    message.FromNanoseconds(round(value * 1e9))
    return message


class RunningDari:
    """Stubs for one server, and what tests do with them. Use in a `with` statement."""

    def __init__(self, address: str, access: Access | None = None) -> None:
        self.channel = (access or Access()).open(address, ())
        self.chat = chat_pb2_grpc.ChatServiceStub(self.channel)
        self.ingest = ingest_pb2_grpc.IngestServiceStub(self.channel)
        self.mapping = mapping_pb2_grpc.MappingServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.channel.close()

    def make_flowise(self, id: str, url: str, flow_id: str = FLOW_ID, *, secret: str = "", **timeouts: float) -> None:
        target = mapping_pb2.FlowiseTarget(base_url=url, flow_id=flow_id, api_key_secret=secret)
        self._make_model(id, mapping_pb2.AiModel(kind=FLOWISE, flowise=target), timeouts)

    def make_openai(self, id: str, url: str, **timeouts: float) -> None:
        target = mapping_pb2.OpenAiCompatibleTarget(base_url=url, model="m")
        self._make_model(id, mapping_pb2.AiModel(kind=OPENAI, openai_compatible=target), timeouts)

    def make_local(self, id: str, *, max_answer_tokens: int = 0, **timeouts: float) -> None:
        """0 leaves the length of its answers to dari."""
        self._make_model(id, mapping_pb2.AiModel(kind=LOCAL, max_answer_tokens=max_answer_tokens), timeouts)

    def _make_model(self, id: str, model: mapping_pb2.AiModel, timeouts: dict[str, float]) -> None:
        for name, value in timeouts.items():
            getattr(model, name.removesuffix("_s")).CopyFrom(seconds(value))
        self.mapping.CreateAiModel(mapping_pb2.CreateAiModelRequest(ai_model_id=id, ai_model=model))

    def make_knowledge_base(self, id: str, csv: str = "") -> None:
        """With rows, where a file's text is given."""
        self.mapping.CreateKnowledgeBase(mapping_pb2.CreateKnowledgeBaseRequest(knowledge_base_id=id))
        if csv:
            self.upload(id, csv)

    def upload(self, knowledge_base: str, csv: str) -> None:
        data = csv.encode()

        def messages() -> Iterator[ingest_pb2.IngestRequest]:
            yield ingest_pb2.IngestRequest(
                open=ingest_pb2.OpenUpload(
                    knowledge_base=f"knowledgeBases/{knowledge_base}",
                    upload_id=str(uuid4()),
                    mode=ingest_pb2.UPLOAD_MODE_REPLACE,
                )
            )
            for start in range(0, len(data), _CHUNK_BYTES):
                chunk = ingest_pb2.UploadChunk(offset_bytes=start, data=data[start : start + _CHUNK_BYTES])
                yield ingest_pb2.IngestRequest(chunk=chunk)
            digest = hashlib.sha256(data).digest()
            yield ingest_pb2.IngestRequest(finish=ingest_pb2.FinishUpload(total_size_bytes=len(data), sha256=digest))

        answers = list(self.ingest.Ingest(messages()))
        assert answers[-1].HasField("completed")

    def stand_by(self, chat: str, mode: "mapping_pb2.StandBy.ValueType", after_s: float) -> None:
        """Let the next model of a chat stand by for one that is silent for so long."""
        changed = mapping_pb2.ChatConfiguration(name=f"chatConfigurations/{chat}", stand_by=mode)
        changed.stand_by_after.FromMilliseconds(round(after_s * 1_000))
        self.mapping.UpdateChatConfiguration(mapping_pb2.UpdateChatConfigurationRequest(chat_configuration=changed))

    def make_chat(
        self,
        id: str,
        *models: str,
        over: tuple[str, ...] = (),
        granted: dict[str, tuple[str, ...]] | None = None,
        max_rows: int | None = None,
    ) -> None:
        """A chat configuration with these models in this order over these knowledge bases.

        `granted` says which model may see which; by default all see all.
        """
        configuration = mapping_pb2.ChatConfiguration(max_rows=max_rows)
        self.mapping.CreateChatConfiguration(
            mapping_pb2.CreateChatConfigurationRequest(chat_configuration_id=id, chat_configuration=configuration)
        )
        for priority, model in enumerate(models):
            self.link_model(id, model, priority)
            for base in over if granted is None else granted.get(model, ()):
                self.grant(model, base)
        for base in over:
            self.link_base(id, base)

    def link_model(self, chat: str, model: str, priority: int = 0) -> mapping_pb2.AiModelLink:
        return self.mapping.LinkAiModel(
            mapping_pb2.LinkAiModelRequest(
                chat_configuration=f"chatConfigurations/{chat}", ai_model=f"aiModels/{model}", priority=priority
            )
        ).link

    def link_base(self, chat: str, base: str) -> mapping_pb2.KnowledgeBaseLink:
        return self.mapping.LinkKnowledgeBase(
            mapping_pb2.LinkKnowledgeBaseRequest(
                chat_configuration=f"chatConfigurations/{chat}", knowledge_base=f"knowledgeBases/{base}"
            )
        ).link

    def grant(self, model: str, base: str) -> mapping_pb2.KnowledgeBaseGrant:
        return self.mapping.GrantKnowledgeBase(
            mapping_pb2.GrantKnowledgeBaseRequest(ai_model=f"aiModels/{model}", knowledge_base=f"knowledgeBases/{base}")
        ).grant

    def ask(
        self,
        question: str,
        *,
        chat: str = "bot",
        conversation: str = "",
        request_id: UUID | None = None,
        timeout_s: float = SOON_S,
        accept_language: str = "",
    ) -> chat_pb2.Turn:
        """The completed turn of `Ask`."""
        request = chat_pb2.AskRequest(
            chat_configuration=f"chatConfigurations/{chat}",
            conversation=conversation,
            question=question,
            request_id=str(request_id or ""),
        )
        return self.chat.Ask(request, timeout=timeout_s, metadata=_reading(accept_language)).turn

    def stream(
        self,
        question: str,
        *,
        chat: str = "bot",
        conversation: str = "",
        request_id: UUID | None = None,
        on_interruption: "chat_pb2.OnInterruption.ValueType" = chat_pb2.ON_INTERRUPTION_UNSPECIFIED,
        timeout_s: float = SOON_S,
        accept_language: str = "",
    ) -> "Events":
        """The events of `Chat`, as they come."""
        request = chat_pb2.ChatRequest(
            on_interruption=on_interruption,
            chat_configuration=f"chatConfigurations/{chat}",
            conversation=conversation,
            question=question,
            request_id=str(request_id or ""),
        )
        return cast(Events, self.chat.Chat(request, timeout=timeout_s, metadata=_reading(accept_language)))

    def turns(self, conversation: str, accept_language: str = "") -> list[chat_pb2.Turn]:
        request = chat_pb2.ListTurnsRequest(conversation=conversation)
        return list(self.chat.ListTurns(request, metadata=_reading(accept_language)).turns)


def _reading(accept_language: str) -> tuple[tuple[str, str], ...]:
    return (("accept-language", accept_language),) if accept_language else ()


def kind_of(event: chat_pb2.ChatResponse) -> str:
    kind = event.WhichOneof("event")
    assert kind is not None
    return kind


def kinds_of(events: Iterable[chat_pb2.ChatResponse]) -> list[str]:
    """What happened, in order: of tokens in a row one, for those that came together are one.

    `notices_in` has what readers are told of it.
    """
    kinds = [kind_of(event) for event in events]
    return [kind for kind, _ in groupby(kind for kind in kinds if kind != "notice")]


def notices_in(events: Iterable[chat_pb2.ChatResponse]) -> list[chat_pb2.Notice]:
    """What readers are told, in order."""
    return [event.notice for event in events if kind_of(event) == "notice"]


def text_of(events: list[chat_pb2.ChatResponse]) -> str:
    """The text that a caller who obeys `superseded` and `seam` ends with."""
    text = ""
    for event in events:
        if kind_of(event) == "superseded":
            text = ""
        elif kind_of(event) == "seam":
            text = text[: event.seam.offset_chars]
        elif kind_of(event) == "token":
            assert event.token.text
            text += event.token.text
    return text


def attempts_of(turn: chat_pb2.Turn) -> list[tuple[str, str, str]]:
    """(model, outcome, code) of each attempt."""
    outcome = chat_pb2.AttemptOutcome.Name
    return [
        (
            attempt.ai_model.removeprefix("aiModels/"),
            outcome(attempt.outcome).removeprefix("ATTEMPT_OUTCOME_"),
            attempt.code,
        )
        for attempt in turn.attempts
    ]


def conversation_of(turn: chat_pb2.Turn) -> str:
    return turn.name.partition("/turns/")[0]
