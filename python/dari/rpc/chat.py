"""ChatService on the wire."""

from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial
from uuid import UUID

import grpc

from dari.core.chain import AttemptEnded, Seam, Superseded, TokenCame
from dari.core.chat import Chat, ChatEvent, TurnCompleted, TurnStarted
from dari.core.circuit import CircuitState
from dari.core.conversations import (
    AttemptRecord,
    Citation,
    Conversation,
    ConversationStore,
    OnInterruption,
    Turn,
    TurnRequest,
)
from dari.core.errors import FieldViolation, InternalError, InvalidArgument
from dari.core.language import Language
from dari.core.notices import Notice, notices_of
from dari.core.search import named_cells
from dari.core.upstream_states import LocalProcess, Upstreams, UpstreamState, watch_upstreams
from dari.core.watching import Watching
from dari.rpc import callers, names
from dari.rpc.times import duration, timestamp
from dari.v1 import chat_pb2 as pb
from dari.v1 import chat_pb2_grpc, ingest_pb2, mapping_pb2


class ChatService(chat_pb2_grpc.ChatServiceServicer):
    """Message in, core call, message out; see chat.proto."""

    def __init__(
        self,
        *,
        chat: Chat,
        conversations: ConversationStore,
        upstreams: Upstreams,
        watching: Watching,
    ) -> None:
        self._chat = chat
        self._conversations = conversations
        self._upstreams = upstreams
        self._watching = watching

    def Chat(self, request: pb.ChatRequest, context: grpc.ServicerContext) -> Iterator[pb.ChatResponse]:
        """See chat.proto."""
        language = callers.language(context)
        # Closed as soon as the caller leaves, not when it is collected.
        with closing(self._events(request, context, language)) as events:
            for event in events:
                yield _event(event, language)

    def Ask(self, request: pb.AskRequest, context: grpc.ServicerContext) -> pb.AskResponse:
        """See chat.proto."""
        language = callers.language(context)
        with closing(self._events(request, context, language)) as events:
            for event in events:
                if isinstance(event, TurnCompleted):
                    return pb.AskResponse(turn=_turn(event.turn, language))
        raise InternalError("A turn ended without an answer.")

    def GetConversation(
        self, request: pb.GetConversationRequest, context: grpc.ServicerContext
    ) -> pb.GetConversationResponse:
        """See chat.proto."""
        id = names.conversation_id("name", request.name)
        return pb.GetConversationResponse(
            conversation=_conversation(self._conversations.get(callers.tenant_of(context), id))
        )

    def ListConversations(
        self, request: pb.ListConversationsRequest, context: grpc.ServicerContext
    ) -> pb.ListConversationsResponse:
        """See chat.proto."""
        size = names.page_size(request.page_size)
        configuration = names.optional_resource_id(
            "chat_configuration", request.chat_configuration, "chatConfigurations"
        )
        before = names.read_conversation_token(request.page_token)
        found = self._conversations.list_conversations(callers.tenant_of(context), configuration, before, size + 1)
        conversations, token = names.page(
            found,
            size,
            _conversation,
            lambda conversation: (conversation.create_time.isoformat(), str(conversation.id)),
        )
        return pb.ListConversationsResponse(conversations=conversations, next_page_token=token)

    def ListTurns(self, request: pb.ListTurnsRequest, context: grpc.ServicerContext) -> pb.ListTurnsResponse:
        """See chat.proto."""
        size = names.page_size(request.page_size)
        conversation = names.conversation_id("conversation", request.conversation)
        after = names.read_offset_token(request.page_token)
        found = self._conversations.list_turns(callers.tenant_of(context), conversation, after, size + 1)
        in_their_language = partial(_turn, language=callers.language(context))
        turns, token = names.page(found, size, in_their_language, lambda turn: (str(turn.number),))
        return pb.ListTurnsResponse(turns=turns, next_page_token=token)

    def DeleteConversation(
        self, request: pb.DeleteConversationRequest, context: grpc.ServicerContext
    ) -> pb.DeleteConversationResponse:
        """See chat.proto."""
        self._conversations.delete(callers.tenant_of(context), names.conversation_id("name", request.name))
        return pb.DeleteConversationResponse()

    def ListUpstreams(
        self, request: pb.ListUpstreamsRequest, context: grpc.ServicerContext
    ) -> pb.ListUpstreamsResponse:
        """See chat.proto."""
        return pb.ListUpstreamsResponse(upstreams=map(_upstream, self._upstreams.states(callers.tenant_of(context))))

    def WatchUpstreams(
        self, request: pb.WatchUpstreamsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchUpstreamsResponse]:
        """See chat.proto."""
        tenant = callers.tenant_of(context)
        with closing(self._watching.looks(partial(callers.call_when_left, context))) as looks:
            for changed in watch_upstreams(partial(self._upstreams.states, tenant), looks):
                yield pb.WatchUpstreamsResponse(upstreams=map(_upstream, changed))

    def DrainUpstream(
        self, request: pb.DrainUpstreamRequest, context: grpc.ServicerContext
    ) -> pb.DrainUpstreamResponse:
        """See chat.proto."""
        ai_model = names.resource_id("ai_model", request.ai_model, "aiModels")
        return pb.DrainUpstreamResponse(upstream=_upstream(self._upstreams.drain(callers.tenant_of(context), ai_model)))

    def ResetUpstream(
        self, request: pb.ResetUpstreamRequest, context: grpc.ServicerContext
    ) -> pb.ResetUpstreamResponse:
        """See chat.proto."""
        ai_model = names.resource_id("ai_model", request.ai_model, "aiModels")
        return pb.ResetUpstreamResponse(upstream=_upstream(self._upstreams.reset(callers.tenant_of(context), ai_model)))

    def _events(
        self, request: pb.ChatRequest | pb.AskRequest, context: grpc.ServicerContext, language: Language | None
    ) -> Generator[ChatEvent]:
        asked = TurnRequest(
            chat_configuration=names.resource_id(
                "chat_configuration", request.chat_configuration, "chatConfigurations"
            ),
            conversation=_conversation_id(request.conversation),
            question=request.question,
            request_id=names.request_id(request.request_id),
            on_interruption=_on_interruption(request.on_interruption),
            caller=callers.name_of(context),
        )
        on_caller_left = partial(callers.call_when_left, context)
        tenant = callers.tenant_of(context)
        yield from self._chat.answer(tenant, asked, callers.timeout_s(context), on_caller_left, language)


_ON_INTERRUPTION = {
    pb.ON_INTERRUPTION_UNSPECIFIED: OnInterruption.RESTART,
    pb.ON_INTERRUPTION_RESTART: OnInterruption.RESTART,
    pb.ON_INTERRUPTION_CONTINUE: OnInterruption.CONTINUE,
    pb.ON_INTERRUPTION_STOP: OnInterruption.STOP,
}


def _on_interruption(choice: "pb.OnInterruption.ValueType") -> OnInterruption:
    try:
        return _ON_INTERRUPTION[choice]
    except KeyError:
        raise InvalidArgument.of(FieldViolation("on_interruption", "must be RESTART, CONTINUE or STOP")) from None


def _conversation_id(name: str) -> UUID | None:
    return names.conversation_id("conversation", name) if name else None


def _event(event: ChatEvent, language: Language | None) -> pb.ChatResponse:  # noqa: PLR0911 - one a kind of event
    match event:
        case TurnStarted():
            conversation = f"conversations/{event.turn.conversation}"
            return pb.ChatResponse(started=pb.TurnStarted(conversation=conversation, turn=event.turn.name))
        case AttemptEnded():
            return pb.ChatResponse(attempt_ended=pb.AttemptEnded(attempt=_attempt(event.record)))
        case Superseded():
            return pb.ChatResponse(superseded=pb.Superseded(attempt=_attempt(event.record)))
        case Seam():
            return pb.ChatResponse(seam=pb.Seam(attempt=_attempt(event.record), offset_chars=event.offset_chars))
        case TokenCame():
            return pb.ChatResponse(token=pb.Token(text=event.text))
        case Notice():
            return pb.ChatResponse(notice=_notice(event))
        case TurnCompleted():
            return pb.ChatResponse(completed=pb.TurnCompleted(turn=_turn(event.turn, language)))


def _notice(notice: Notice) -> pb.Notice:
    return pb.Notice(kind=pb.NoticeKind.Value(f"NOTICE_KIND_{notice.kind.value}"), text=notice.text)


def _turn(turn: Turn, language: Language | None) -> pb.Turn:
    message = pb.Turn(
        name=turn.name,
        question=turn.question,
        state=pb.TurnState.Value(f"TURN_STATE_{turn.state.value}"),
        attempts=map(_attempt, turn.attempts),
        create_time=timestamp(turn.create_time),
        complete_time=timestamp(turn.complete_time),
        notices=map(_notice, notices_of(turn, language)),
    )
    answer = turn.answer
    if answer is not None:
        message.answer = answer.text
        message.answered_by = pb.Answerer.Value(f"ANSWERER_{answer.answered_by.value}")
        message.ai_model = f"aiModels/{answer.ai_model}" if answer.ai_model else ""
        message.citations.extend(map(_citation, answer.citations))
        message.degraded = bool(answer.degraded_reasons)
        message.degraded_reasons.extend(
            pb.DegradedReason.Value(f"DEGRADED_REASON_{reason.value}") for reason in answer.degraded_reasons
        )
    return message


def _attempt(record: AttemptRecord) -> pb.Attempt:
    return pb.Attempt(
        ai_model=f"aiModels/{record.ai_model}",
        answerer=pb.Answerer.Value(f"ANSWERER_{record.answerer.value}"),
        outcome=pb.AttemptOutcome.Value(f"ATTEMPT_OUTCOME_{record.outcome.value}"),
        code=record.code,
        duration=duration(record.duration_s),
        first_token_duration=duration(record.first_token_s),
    )


def _citation(citation: Citation) -> pb.Citation:
    return pb.Citation(
        number=citation.number,
        knowledge_base=f"knowledgeBases/{citation.knowledge_base}",
        version=citation.version,
        row_number=citation.row_number,
        cells=[
            ingest_pb2.Cell(column=column, text=text) for column, text in named_cells(citation.columns, citation.cells)
        ],
        version_time=timestamp(citation.version_time),
        used_cells=citation.used_cells,
    )


def _conversation(conversation: Conversation) -> pb.Conversation:
    configuration = conversation.chat_configuration
    return pb.Conversation(
        name=conversation.name,
        chat_configuration=f"chatConfigurations/{configuration}" if configuration else "",
        create_time=timestamp(conversation.create_time),
        update_time=timestamp(conversation.update_time),
        turn_count=conversation.turn_count,
    )


def _upstream(state: UpstreamState) -> pb.Upstream:
    circuit = state.circuit
    is_open = circuit.state is CircuitState.OPEN
    return pb.Upstream(
        ai_model=f"aiModels/{state.ai_model}",
        kind=mapping_pb2.AiModelKind.Value(f"AI_MODEL_KIND_{state.kind.value}"),
        circuit_state=pb.CircuitState.Value(f"CIRCUIT_STATE_{circuit.state.name}"),
        consecutive_failures=circuit.failures,
        last_failure_code=circuit.last_failure or "",
        open_remaining=duration(circuit.open_remaining_s) if is_open else None,
        failure_rate=circuit.failure_rate,
        in_state=duration(circuit.in_state_s),
        local_process=_local_process(state.process) if state.process else None,
    )


def _local_process(process: LocalProcess) -> pb.LocalProcess:
    return pb.LocalProcess(
        state=pb.LocalProcessState.Value(f"LOCAL_PROCESS_STATE_{process.status.value}"),
        model_file=process.model_file,
        engine=process.engine,
        restarts=process.restarts,
        queue_length=process.queue_length,
        running=process.running,
        last_failure_code=process.last_failure,
        memory_bytes=process.memory_bytes,
    )
