"""What callers of a cluster do while its replicas come and go."""

import re
from collections import Counter
from collections.abc import Mapping

from dari.v1 import chat_pb2, ingest_pb2, mapping_pb2
from tests.flowise_stand_in import FLOW_ID, StandIn
from tests.support.repeating import Call
from tests.support.running_dari import RunningDari, kind_of

ROWS = "faa,name\nLGA,La Guardia\nICN,인천 국제공항\n"


def make_bot(dari: RunningDari, flowise: StandIn, **timeouts: float) -> None:
    """`bot` asks `flow`, over `airports`."""
    dari.make_flowise("flow", flowise.url, FLOW_ID, secret="", **timeouts)
    dari.make_knowledge_base("airports", ROWS)
    dari.make_chat("bot", "flow", over=("airports",))


def repeatable_calls(dari: RunningDari) -> Mapping[str, Call]:
    """Calls that may be made twice: one of each kind, and each as its caller wants it to end."""

    def search(number: int) -> None:
        request = ingest_pb2.SearchRequest(knowledge_bases=["knowledgeBases/airports"], query="인천")
        assert [hit.cells[0].text for hit in dari.ingest.Search(request).hits] == ["ICN"]

    def resolve(number: int) -> None:
        request = mapping_pb2.ResolveChatConfigurationRequest(name="chatConfigurations/bot")
        assert dari.mapping.ResolveChatConfiguration(request).chain

    def list_turns(number: int) -> None:
        dari.chat.ListConversations(chat_pb2.ListConversationsRequest(page_size=1))

    def link(number: int) -> None:
        dari.link_model("bot", "flow")

    return {"search": search, "resolve": resolve, "list": list_turns, "link": link}


def calls_made_once(dari: RunningDari) -> Mapping[str, Call]:
    """Calls that must not be made twice: each question and each id is of one call alone."""

    def ask(number: int) -> None:
        assert dari.ask(question(number)).answer == "Hello there"

    def create(number: int) -> None:
        request = mapping_pb2.CreateKnowledgeBaseRequest(knowledge_base_id=f"kb-{number}")
        dari.mapping.CreateKnowledgeBase(request)

    return {"ask": ask, "create": create}


def streams(dari: RunningDari) -> Mapping[str, Call]:
    """Calls whose answers are streams, each to its end."""

    def chat(number: int) -> None:
        *_, last = dari.stream(question(number))
        assert kind_of(last) == "completed"
        assert last.completed.turn.answer == "Hello there"

    def export(number: int) -> None:
        request = ingest_pb2.ExportRowsRequest(knowledge_base="knowledgeBases/airports")
        assert b"".join(piece.data for piece in dari.ingest.ExportRows(request)).decode() == ROWS

    return {"chat": chat, "export": export}


def question(number: int) -> str:
    return f"Where is airport number {number}?"


def times_asked(flowise: StandIn) -> Counter[int]:
    """How often each question came to Flowise, by its number."""
    told = (re.findall(r"airport number (\d+)", request.json["question"]) for request in flowise.questions)
    return Counter(int(numbers[-1]) for numbers in told)
