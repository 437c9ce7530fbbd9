"""A drill: makes what it needs, asks once for each fault, compares what is told with what happened, and cleans up.

What it makes is named `drill-…` and labelled with who made it, so that the next drill finds what one that died has left
behind, and leaves alone what a drill that goes on has made, and what people call by such a name.
"""

import os
import platform
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration

from dari.client import CallFailed, Client
from dari.drill.faulty_upstream import Fault, FaultyUpstream
from dari.v1 import chat_pb2, mapping_pb2

PREFIX = "drill-"
RUN_LABEL, HOST_LABEL, PROCESS_LABEL = "dari-drill", "dari-drill-host", "dari-drill-process"
ABANDONED_AFTER = timedelta(hours=1)
"""What a drill on another machine has made is left behind when it is so old; none takes so long."""
MARKER = "The test upstream of a drill"
"""What its answers begin with."""
DEFAULT_QUESTION = "What do you know?"

_FAILED, _TIMED_OUT = chat_pb2.ATTEMPT_OUTCOME_FAILED, chat_pb2.ATTEMPT_OUTCOME_TIMED_OUT
_OUTCOMES = {
    # A packet filter may swallow what a machine would refuse.
    Fault.REFUSES: {_FAILED, _TIMED_OUT},
    Fault.STALLS: {_TIMED_OUT},
    Fault.CUTS: {_FAILED},
    Fault.FAILS: {_FAILED},
}
"""What the attempt at the test upstream must be told as."""
_PAGE_SIZE = 1_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What to rehearse. Names are resource names."""

    chat_configuration: str
    question: str = DEFAULT_QUESTION
    stand_ins: tuple[str, ...] | None = None
    """AI models behind the test upstream, in order. None: those of the chat configuration behind its first one."""
    faults: tuple[Fault, ...] = (Fault.REFUSES, Fault.STALLS, Fault.CUTS, Fault.FAILS)
    first_token_timeout_s: float = 2.0
    """After which the test upstream counts as hung."""
    deadline_s: float = 60.0
    """Of each question."""


@dataclass(frozen=True, slots=True)
class AttemptTold:
    """An attempt as the turn tells it."""

    ai_model: str
    outcome: str
    code: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What came of one fault."""

    fault: Fault
    answered_by: str = ""
    """The AI model, or "the rows alone"; empty where there was no answer."""
    attempts: tuple[AttemptTold, ...] = ()
    degraded_reasons: tuple[str, ...] = ()
    first_text_s: float | None = None
    """After which the caller read the first letter of the answer that stands in the end."""
    whole_s: float = 0.0
    answer_chars: int = 0
    superseded: bool = False
    """Whether the caller was told to drop a text."""
    problems: tuple[str, ...] = ()
    """What went otherwise than it must, a sentence each."""


@dataclass(frozen=True, slots=True)
class Report:
    """A drill as a whole."""

    server: str
    plan: Plan
    begin_time: datetime
    rehearsed: tuple[Rehearsed, ...]
    stand_ins: tuple[str, ...]
    removed: tuple[str, ...]
    """What drills that died had left behind."""
    left_behind: tuple[str, ...] = ()
    """What this one could not take away."""

    @property
    def passed(self) -> bool:
        """Whether every fail-over went as it must, and nothing is left."""
        return not self.left_behind and not any(each.problems for each in self.rehearsed)


class Drill:
    """One drill on the server behind `client`. `on_progress` is told of each fault as it is done. Runs once."""

    def __init__(
        self, client: Client, plan: Plan, upstream: FaultyUpstream, on_progress: Callable[[Rehearsed], None]
    ) -> None:
        self._client = client
        self._plan = plan
        self._upstream = upstream
        self._on_progress = on_progress
        self._run = secrets.token_hex(4)
        self._left_behind: list[str] = []

    def run(self) -> Report:
        """Raises CallFailed where it cannot begin; whatever ends it, what it made is taken away."""
        begin_time = datetime.now(UTC)
        removed = remove_abandoned(self._client)
        rehearsed: list[Rehearsed] = []
        configuration = self._client.mapping.GetChatConfiguration(
            mapping_pb2.GetChatConfigurationRequest(name=self._plan.chat_configuration)
        ).chat_configuration
        chain = self._client.mapping.ResolveChatConfiguration(
            mapping_pb2.ResolveChatConfigurationRequest(name=self._plan.chat_configuration)
        ).chain
        stand_ins = _stand_ins(self._plan, chain)
        data = [base.knowledge_base for base in chain[-1].knowledge_bases if base.visible] if chain else []
        try:
            for fault in (Fault.NONE, *self._plan.faults):
                self._make(fault, configuration, stand_ins, data)
                rehearsed.append(self._rehearse(fault))
                self._on_progress(rehearsed[-1])
                if fault is Fault.NONE and rehearsed[-1].problems:
                    break
        finally:
            self._clean_up()
        return Report(
            server=self._client.address,
            plan=self._plan,
            begin_time=begin_time,
            rehearsed=tuple(rehearsed),
            stand_ins=tuple(stand_ins),
            removed=tuple(removed),
            left_behind=tuple(self._left_behind),
        )

    def _id(self, fault: Fault) -> str:
        return f"{PREFIX}{self._run}-{fault.value}"

    def _make(
        self, fault: Fault, like: mapping_pb2.ChatConfiguration, stand_ins: Sequence[str], data: Sequence[str]
    ) -> None:
        """A chat configuration whose first AI model has the fault. That model is granted no data: it leaves dari."""
        mapping, id = self._client.mapping, self._id(fault)
        labels = {RUN_LABEL: self._run, HOST_LABEL: _host(), PROCESS_LABEL: str(os.getpid())}
        model = mapping_pb2.AiModel(
            display_name="a drill's; may be deleted",
            kind=mapping_pb2.AI_MODEL_KIND_FLOWISE,
            flowise=mapping_pb2.FlowiseTarget(base_url=self._upstream.base_url(fault), flow_id=self._upstream.flow_id),
            first_token_timeout=_duration(self._plan.first_token_timeout_s),
            stall_timeout=_duration(self._plan.first_token_timeout_s),
            labels=labels,
        )
        mapping.CreateAiModel(mapping_pb2.CreateAiModelRequest(ai_model_id=id, ai_model=model))
        chat = mapping_pb2.ChatConfiguration(
            display_name="a drill's; may be deleted",
            instructions=like.instructions,
            max_rows=like.max_rows,
            labels=labels,
        )
        mapping.CreateChatConfiguration(
            mapping_pb2.CreateChatConfigurationRequest(chat_configuration_id=id, chat_configuration=chat)
        )
        name = f"chatConfigurations/{id}"
        for priority, ai_model in enumerate((f"aiModels/{id}", *stand_ins)):
            mapping.LinkAiModel(
                mapping_pb2.LinkAiModelRequest(chat_configuration=name, ai_model=ai_model, priority=priority)
            )
        for knowledge_base in data:
            mapping.LinkKnowledgeBase(
                mapping_pb2.LinkKnowledgeBaseRequest(chat_configuration=name, knowledge_base=knowledge_base)
            )

    def _rehearse(self, fault: Fault) -> Rehearsed:
        begun_s = time.monotonic()
        first_text_s: float | None = None
        superseded, turn, failure = False, None, ""
        try:
            for response in self._client.chat(
                f"chatConfigurations/{self._id(fault)}", self._plan.question, timeout_s=self._plan.deadline_s
            ):
                match response.WhichOneof("event"):
                    case "token" if first_text_s is None:
                        first_text_s = time.monotonic() - begun_s
                    case "superseded":
                        superseded, first_text_s = True, None
                    case "completed":
                        turn = response.completed.turn
        except CallFailed as error:
            failure = f"there was no answer: {error.code.name} {error.reason}".rstrip()
        whole_s = time.monotonic() - begun_s
        if turn is None:
            return Rehearsed(
                fault, whole_s=whole_s, superseded=superseded, problems=(failure or "the answer had no end",)
            )
        return Rehearsed(
            fault,
            answered_by=turn.ai_model or "the rows alone",
            attempts=tuple(map(_told, turn.attempts)),
            degraded_reasons=tuple(
                _word(chat_pb2.DegradedReason.Name(reason), "DEGRADED_REASON_") for reason in turn.degraded_reasons
            ),
            first_text_s=first_text_s,
            whole_s=whole_s,
            answer_chars=len(turn.answer),
            superseded=superseded,
            problems=tuple(self._problems(fault, turn, whole_s)),
        )

    def _problems(self, fault: Fault, turn: chat_pb2.Turn, whole_s: float) -> Iterator[str]:
        own = f"aiModels/{self._id(fault)}"
        told = next((attempt for attempt in turn.attempts if attempt.ai_model == own), None)
        if fault is Fault.NONE:
            yield from self._control_problems(turn, own, told)
            return
        answered = [each.ai_model for each in turn.attempts if each.outcome == chat_pb2.ATTEMPT_OUTCOME_ANSWERED]
        is_whole = turn.state == chat_pb2.TURN_STATE_COMPLETED and turn.answer.strip()
        wrong = {
            "the answer is empty or not whole": not is_whole,
            f"the answer came after the deadline of {self._plan.deadline_s:g} s": whole_s > self._plan.deadline_s,
            "the answer holds what the test upstream said before it failed": MARKER in turn.answer,
            "the answer of a stand-in is not told as degraded": not turn.degraded,
            "the test upstream is told as who answered": turn.ai_model == own,
            "who answered is told in two ways": turn.ai_model and answered != [turn.ai_model],
            "the attempt at the test upstream is not told": told is None,
            "the attempt at the test upstream is told as something else": told and told.outcome not in _OUTCOMES[fault],
            "the question did not come to the test upstream": (
                fault is not Fault.REFUSES and not self._upstream.was_asked(fault)
            ),
        }
        yield from (problem for problem, is_so in wrong.items() if is_so)

    def _control_problems(self, turn: chat_pb2.Turn, own: str, told: chat_pb2.Attempt | None) -> Iterator[str]:
        if turn.ai_model != own:
            cause = told.code if told else "not asked"
            yield (
                f"the server does not reach {self._upstream.base_url(Fault.NONE)} ({cause}): nothing was rehearsed. "
                "Give an address that it reaches, by --listen and --advertise"
            )
        elif turn.degraded:
            yield "an answer of the first AI model is told as degraded"

    def _clean_up(self) -> None:
        for fault in (Fault.NONE, *self._plan.faults):
            self._left_behind += _remove(self._client, self._id(fault))


def remove_abandoned(client: Client) -> list[str]:
    """Take away what drills that died have left behind; the names of their AI models and chat configurations."""
    now = datetime.now(UTC)
    models = _all(
        client.mapping.ListAiModels, mapping_pb2.ListAiModelsRequest(page_size=_PAGE_SIZE), lambda page: page.ai_models
    )
    chats = _all(
        client.mapping.ListChatConfigurations,
        mapping_pb2.ListChatConfigurationsRequest(page_size=_PAGE_SIZE),
        lambda page: page.chat_configurations,
    )
    abandoned = [each.name for each in (*models, *chats) if _is_abandoned(each, now)]
    for id in dict.fromkeys(name.partition("/")[2] for name in abandoned):
        _remove(client, id)
    return abandoned


def _is_abandoned(resource: Any, now: datetime) -> bool:
    id, labels = resource.name.partition("/")[2], resource.labels
    if not id.startswith(PREFIX) or RUN_LABEL not in labels:
        return False
    if now - resource.create_time.ToDatetime(UTC) > ABANDONED_AFTER:
        return True
    return labels[HOST_LABEL] == _host() and not _is_alive(labels[PROCESS_LABEL])


def _is_alive(process: str) -> bool:
    """Whether it is another process that lives: this one has one drill, which has made nothing yet."""
    if not process.isdigit() or int(process) == os.getpid():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(client: Client, id: str) -> list[str]:
    """Take away what has this id, with the conversations of it; the names of what could not be."""
    chat, model = f"chatConfigurations/{id}", f"aiModels/{id}"
    left: list[str] = []
    with suppress(CallFailed):  # What is left of them shows below, or is nobody's.
        conversations = _all(
            client.chats.ListConversations,
            chat_pb2.ListConversationsRequest(chat_configuration=chat, page_size=_PAGE_SIZE),
            lambda page: page.conversations,
        )
        for conversation in conversations:
            client.chats.DeleteConversation(chat_pb2.DeleteConversationRequest(name=conversation.name))
    deletions: dict[str, Callable[[], object]] = {
        chat: lambda: client.mapping.DeleteChatConfiguration(
            mapping_pb2.DeleteChatConfigurationRequest(name=chat, force=True)
        ),
        model: lambda: client.mapping.DeleteAiModel(mapping_pb2.DeleteAiModelRequest(name=model, force=True)),
    }
    for name, delete in deletions.items():
        try:
            delete()
        except CallFailed as error:
            if error.code.name != "NOT_FOUND":
                left.append(name)
    return left


def _all(call: Callable[[Any], Any], request: Any, of: Callable[[Any], Sequence[Any]]) -> list[Any]:
    """What all pages of a list hold."""
    found: list[Any] = []
    while True:
        page = call(request)
        found += of(page)
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def _stand_ins(plan: Plan, chain: Sequence[mapping_pb2.ResolvedLink]) -> list[str]:
    if plan.stand_ins is not None:
        return list(plan.stand_ins)
    return [link.ai_model.name for link in chain if link.ai_model.name][1:]


def _told(attempt: chat_pb2.Attempt) -> AttemptTold:
    return AttemptTold(
        ai_model=attempt.ai_model,
        outcome=_word(chat_pb2.AttemptOutcome.Name(attempt.outcome), "ATTEMPT_OUTCOME_"),
        code=attempt.code,
        duration_s=attempt.duration.ToTimedelta().total_seconds(),
    )


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", " ")


def _duration(length_s: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(length_s * 1e9))
    return duration


def _host() -> str:
    """This machine, as a label can say it."""
    name = re.sub(r"[^A-Za-z0-9.-]", "-", platform.node())[:63].strip(".-")
    return name or "unknown"
