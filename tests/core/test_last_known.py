"""The mapping while the database is gone."""

import pytest

from dari.adapters.circuit import CircuitRules, WindowedCircuit
from dari.core import last_known
from dari.core.errors import InternalError, NotFound, Unavailable
from dari.core.last_known import KnownChat, LastKnownChats
from dari.core.mapping import ChatConfiguration, ChatMapping, LinkStore


def mapping(id: str, display_name: str = "") -> ChatMapping:
    return ChatMapping(ChatConfiguration(id, display_name or id), (), (), {})


class Links(LinkStore):
    """A database that answers, or fails as it is told."""

    def __init__(self) -> None:
        self.answer: ChatMapping | Exception = mapping("bot")
        self.asked = 0

    def read_chat(self, tenant: str, chat_configuration: str) -> ChatMapping:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Known:
    def __init__(self) -> None:
        self.links = Links()  # type: ignore[abstract]
        self.clock = Clock()
        circuit = WindowedCircuit(CircuitRules(consecutive_failures=1, open_s=1.0, ramp_s=0.0), self.clock)
        self.chats = LastKnownChats(self.links, circuit)


@pytest.fixture
def known() -> Known:
    return Known()


def test_what_the_database_says_is_current(known: Known) -> None:
    """Each time anew."""
    assert known.chats.read("t", "bot") == KnownChat(mapping("bot"), is_current=True)
    known.links.answer = mapping("bot", "another name")
    assert known.chats.read("t", "bot") == KnownChat(mapping("bot", "another name"), is_current=True)


def test_while_the_database_is_gone_the_last_known_mapping_serves(known: Known) -> None:
    """At once: the database is not asked again until its circuit lets one through."""
    known.chats.read("t", "bot")
    known.links.answer = Unavailable.of("database")
    for _ in range(5):
        assert known.chats.read("t", "bot") == KnownChat(mapping("bot"), is_current=False)
    assert known.links.asked == 2


def test_a_database_that_is_back_is_asked_again(known: Known) -> None:
    """By itself."""
    known.chats.read("t", "bot")
    known.links.answer = Unavailable.of("database")
    known.chats.read("t", "bot")
    known.links.answer = mapping("bot", "new")
    known.clock.now_s += 1.0
    assert known.chats.read("t", "bot") == KnownChat(mapping("bot", "new"), is_current=True)


def test_what_was_never_known_is_unavailable(known: Known) -> None:
    """Of this tenant: another's chat of the same id is another chat."""
    known.chats.read("t", "bot")
    known.links.answer = Unavailable.of("database")
    with pytest.raises(Unavailable):
        known.chats.read("other", "bot")
    with pytest.raises(Unavailable):
        known.chats.read("t", "other")


def test_a_chat_that_was_deleted_is_forgotten(known: Known) -> None:
    """It does not rise again when the database goes."""
    known.chats.read("t", "bot")
    known.links.answer = NotFound.of("chatConfigurations/bot")
    with pytest.raises(NotFound):
        known.chats.read("t", "bot")
    known.links.answer = Unavailable.of("database")
    with pytest.raises(Unavailable):
        known.chats.read("t", "bot")


def test_a_defect_is_told_and_nothing_else_serves_in_its_place(known: Known) -> None:
    """Only a database that is gone is."""
    known.chats.read("t", "bot")
    known.links.answer = InternalError("An internal error occurred.")
    with pytest.raises(InternalError):
        known.chats.read("t", "bot")


def test_the_one_asked_for_longest_ago_is_forgotten_first(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded."""
    monkeypatch.setattr(last_known, "MAX_KNOWN", 2)
    for id in ("a", "b", "a", "c"):
        known.chats.read("t", id)
    known.links.answer = Unavailable.of("database")
    assert not known.chats.read("t", "a").is_current
    assert not known.chats.read("t", "c").is_current
    with pytest.raises(Unavailable):
        known.chats.read("t", "b")
