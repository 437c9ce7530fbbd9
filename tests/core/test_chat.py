"""One turn over fakes: what is stored and told when the data, the database or a model fails, or the caller leaves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from dari.adapters.circuit import CircuitRules, WindowedCircuit
from dari.adapters.local_model.process import Limits, LocalModel
from dari.core.chain import AttemptEnded, Seam, Superseded, TokenCame
from dari.core.chat import Chat, ChatEvent, TurnCompleted, TurnStarted
from dari.core.circuit import OperatedCircuit
from dari.core.conversations import (
    Answer,
    Answerer,
    AttemptRecord,
    BegunTurn,
    Conversation,
    DegradedReason,
    OnInterruption,
    Turn,
    TurnRequest,
    TurnState,
)
from dari.core.errors import Exhausted, InternalError, NotFound, Unavailable
from dari.core.last_known import LastKnownChats
from dari.core.mapping import AiModel, ChatConfiguration, ChatMapping, KnowledgeBase, LinkStore, LocalTarget
from dari.core.ranking import QueryLexeme
from dari.core.search import CandidateRow, Candidates, Search
from dari.core.unsaved_turns import UnsavedTurns
from dari.core.upstream import FailureKind, Prompt, Upstream, UpstreamError
from dari.core.watchdog import Watchdog
from tests.adapters.local_model.fakes import fake_model

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TIMEOUT_S = 60.0


class Script:
    """An upstream that plays the same script at every attempt: tokens, then a failure or the end."""

    continues = False

    def __init__(self, *steps: str | FailureKind) -> None:
        self._steps = steps
        self.prompts: list[Prompt] = []

    def attempt(self, prompt: Prompt, connect_timeout_s: float) -> "Script":
        self.prompts.append(prompt)
        return self

    def tokens(self) -> Iterator[str]:
        for step in self._steps:
            if isinstance(step, FailureKind):
                raise UpstreamError(step, "scripted")
            yield step

    def abort(self) -> None:
        pass


class Links(LinkStore):
    """Reads one mapping; nothing else is asked for."""

    def __init__(self, mapping: ChatMapping) -> None:
        self._mapping = mapping
        self.fails: Exception | None = None

    def read_chat(self, tenant: str, chat_configuration: str) -> ChatMapping:
        if self.fails is not None:
            raise self.fails
        return self._mapping


class Rows:
    """A RowReader of one row a knowledge base, and a lexer for which every text matches."""

    def __init__(self, fails: Mapping[frozenset[str], Exception]) -> None:
        self._fails = fails
        self.asked: list[tuple[str, ...]] = []

    def candidates(
        self,
        tenant: str,
        knowledge_bases: Sequence[str],
        lexemes: Sequence[QueryLexeme],
        min_blocks: int,
        max_blocks: int,
    ) -> list[Candidates]:
        self.asked.append(tuple(knowledge_bases))
        failure = self._fails.get(frozenset(knowledge_bases))
        if failure is not None:
            raise failure
        row = CandidateRow(1, ("cell",))
        return [Candidates(base, 1, ("column",), (row,), True, 1, 1, {1: 1}) for base in knowledge_bases]

    def hashes(self, text: str) -> list[int]:
        return [1]

    def matches(self, hashes: Sequence[int], texts: Sequence[str]) -> list[list[bool]]:
        return [[True] for _ in texts]


class Store:
    """A ConversationStore that keeps one turn, and fails on command."""

    def __init__(self, earlier: Sequence[Turn] = (), completing_fails: Exception | None = None) -> None:
        self._earlier = earlier
        self._completing_fails = completing_fails
        self.completed: list[Answer] = []
        self.abandoned: list[tuple[AttemptRecord, ...]] = []

    def begin_turn(self, tenant: str, request: TurnRequest, timeout_s: float, history_turns: int) -> BegunTurn | Turn:
        turn = Turn(uuid4(), 9, request.question, TurnState.RUNNING, (), None, NOW, None)
        return BegunTurn(turn, NOW, self._earlier)

    def complete_turn(self, tenant: str, begun: BegunTurn, answer: Answer) -> Turn:
        if self._completing_fails is not None:
            raise self._completing_fails
        self.completed.append(answer)
        return replace(begun.turn, state=TurnState.COMPLETED, answer=answer)

    def abandon_turn(self, tenant: str, begun: BegunTurn, attempts: Sequence[AttemptRecord]) -> None:
        self.abandoned.append(tuple(attempts))
        if self._completing_fails is not None:
            raise self._completing_fails

    def add_turn(self, tenant: str, request: TurnRequest, turn: Turn, answer: Answer) -> None:
        raise NotImplementedError

    def get(self, tenant: str, id: object) -> Conversation:
        raise NotImplementedError

    def list_conversations(self, *arguments: object) -> list[Conversation]:
        raise NotImplementedError

    def list_turns(self, *arguments: object) -> list[Turn]:
        raise NotImplementedError

    def delete(self, tenant: str, id: object) -> None:
        raise NotImplementedError


class Log:
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def info(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    warning = error = info


class Directory:
    """Knows the upstream behind each model; a circuit each."""

    def __init__(self, upstreams: Mapping[str, Upstream]) -> None:
        self._upstreams = upstreams
        self.circuits: dict[str, OperatedCircuit] = {}

    def upstream(self, model: AiModel) -> Upstream:
        return self._upstreams[model.id]

    def circuit(self, model: AiModel) -> OperatedCircuit:
        return self.circuits.setdefault(model.id, WindowedCircuit())


@pytest.fixture(scope="module")
def watchdog() -> Iterator[Watchdog]:
    watchdog = Watchdog()
    yield watchdog
    watchdog.close()


class Bot:
    """A chat over fakes. `models` come in order; `grants` are those that the models see of `bases`."""

    def __init__(
        self,
        watchdog: Watchdog,
        models: Mapping[str, Upstream],
        *,
        bases: Sequence[str] = (),
        grants: Sequence[tuple[str, str]] = (),
        search_fails: Mapping[frozenset[str], Exception] | None = None,
        store: Store | None = None,
    ) -> None:
        mapping = ChatMapping(
            ChatConfiguration("bot", "bot"),
            tuple((n, AiModel(id, id, LocalTarget(), 30.0)) for n, id in enumerate(models)),
            tuple(KnowledgeBase(id, id, current_version=1) for id in bases),
            frozenset(grants),
        )
        self.rows = Rows(search_fails or {})
        self.store = store or Store()
        self.log = Log()
        self.directory = Directory(models)
        self.links = Links(mapping)  # type: ignore[abstract]
        database = WindowedCircuit(CircuitRules(consecutive_failures=1))
        self.chat = Chat(
            chats=LastKnownChats(self.links, database),
            turns=UnsavedTurns(self.store, self.store, database, self.log),
            search=Search(self.rows, self.rows),
            directory=self.directory,
            watchdog=watchdog,
            log=self.log,
            default_timeout_s=TIMEOUT_S,
            connect_timeout_s=1.0,
            database_timeout_s=TIMEOUT_S,
        )

    def events(
        self, question: str = "why?", on_caller_left: Callable[[Callable[[], None]], object] = lambda cancel: None
    ) -> Iterator[ChatEvent]:
        return self.chat.answer("default", TurnRequest("bot", None, question, None), None, on_caller_left)

    def answer(self) -> Answer:
        list(self.events())
        (answer,) = self.store.completed
        return answer


FAILS, WORKS = Script(FailureKind.UPSTREAM), ("a", "b")


def test_each_search_names_what_its_reader_may_see_and_nothing_else(watchdog: Watchdog) -> None:
    """One search a set, sorted; none for nothing."""
    bot = Bot(
        watchdog,
        {"nothing": FAILS, "some": FAILS, "same": FAILS, "all": FAILS},
        bases=("z", "a", "m"),
        grants=[("some", "z"), ("same", "z"), ("all", "a"), ("all", "m"), ("all", "z"), ("all", "unlinked")],
    )
    assert {citation.knowledge_base for citation in bot.answer().citations} == {"a", "m", "z"}
    assert bot.rows.asked == [("z",), ("a", "m", "z")]


SEARCH_FAILURES = [Unavailable.of("database"), Exhausted("full"), InternalError("a table is gone")]


@pytest.mark.parametrize("failure", SEARCH_FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_model_answers_without_data_that_cannot_be_read(watchdog: Watchdog, failure: Exception) -> None:
    """And the answer says so."""
    model = Script(*WORKS)
    bot = Bot(watchdog, {"m": model}, bases=("k",), grants=[("m", "k")], search_fails={frozenset("k"): failure})
    answer = bot.answer()
    assert (answer.text, answer.degraded_reasons, answer.citations) == ("ab", (DegradedReason.NO_DATA,), ())
    assert "rows_not_read" in [event for event, _ in bot.log.events]


def test_only_the_data_of_the_answerer_counts(watchdog: Watchdog) -> None:
    """Another model's data failed; this one's, and those of the rows alone, were read."""
    broken = {frozenset("k"): Unavailable.of("database")}
    grants = [("first", "k"), ("second", "j")]
    bot = Bot(
        watchdog, {"first": FAILS, "second": Script(*WORKS)}, bases=("j", "k"), grants=grants, search_fails=broken
    )
    assert bot.answer().degraded_reasons == (DegradedReason.STAND_IN,)
    bot = Bot(watchdog, {"first": FAILS, "second": FAILS}, bases=("j", "k"), grants=grants, search_fails=broken)
    answer = bot.answer()
    assert answer.degraded_reasons == (DegradedReason.ROWS_ONLY,)
    assert {citation.knowledge_base for citation in answer.citations} == {"j", "k"}


def test_nothing_to_answer_from_is_unavailable(watchdog: Watchdog) -> None:
    """Neither a model nor the data."""
    bot = Bot(watchdog, {"m": FAILS}, bases=("k",), search_fails={frozenset("k"): Unavailable.of("database")})
    with pytest.raises(Unavailable) as caught:
        list(bot.events())
    assert caught.value.metadata["attempts"] == "m=scripted"
    ((record,),) = bot.store.abandoned
    assert record.code == "scripted"


def test_an_answer_remembers_whose_rows_it_may_repeat(watchdog: Watchdog) -> None:
    """Those that it cites, and those of the turns that its model was told; not of those that were withheld."""

    def earlier(number: int, *bases: str) -> Turn:
        answer = Answer("A", Answerer.LOCAL, "m", (), (), (), frozenset(bases))
        return Turn(uuid4(), number, "Q", TurnState.COMPLETED, (), answer, NOW, NOW)

    turns = [earlier(1, "a"), earlier(2, "b"), earlier(3)]
    grants = [("m", "a"), ("m", "c")]
    model = Script(*WORKS)
    bot = Bot(watchdog, {"m": model}, bases=("a", "b", "c"), grants=grants, store=Store(turns))
    assert bot.answer().knowledge_bases == {"a", "c"}
    assert len(model.prompts[0].history) == 4
    unread = {frozenset("ac"): Unavailable.of("database")}
    bot = Bot(watchdog, {"m": model}, bases=("a", "b", "c"), grants=grants, store=Store(turns), search_fails=unread)
    assert bot.answer().knowledge_bases == {"a"}
    bot = Bot(watchdog, {"m": FAILS}, bases=("b",), store=Store(turns))
    assert bot.answer().knowledge_bases == {"b"}


@pytest.mark.parametrize("read", [1, 2, 3])
def test_a_caller_who_stops_reading_leaves_an_incomplete_turn(watchdog: Watchdog, read: int) -> None:
    """Also right after the first event, before any model was asked."""
    bot = Bot(watchdog, {"m": Script("a", "b", "c")})
    events = bot.events()
    seen = [next(events) for _ in range(read)]
    assert isinstance(seen[0], TurnStarted)
    events.close()  # type: ignore[attr-defined]
    ((*records,),) = bot.store.abandoned
    assert [record.code for record in records] == ([] if read == 1 else ["caller_left"])
    assert bot.store.completed == []
    assert all(circuit.state().failures == 0 for circuit in bot.directory.circuits.values())


def test_an_answer_that_cannot_be_stored_does_not_end_well(watchdog: Watchdog) -> None:
    """The caller has its text and the error; there is no `completed`."""
    gone = NotFound.of("conversations/x")
    bot = Bot(watchdog, {"m": Script(*WORKS)}, store=Store(completing_fails=gone))
    events: list[ChatEvent] = []
    with pytest.raises(NotFound):
        collect(bot.events(), events)
    assert [type(event) for event in events] == [TurnStarted, TokenCame, TokenCame]
    assert "turn_not_stored" in [event for event, _ in bot.log.events]


def test_an_answer_whose_database_went_meanwhile_is_told_and_kept(watchdog: Watchdog) -> None:
    """C13: it ends well, and says that it is not stored yet."""
    bot = Bot(watchdog, {"m": Script(*WORKS)}, store=Store(completing_fails=Unavailable.of("database")))
    *_, completed = bot.events()
    assert isinstance(completed, TurnCompleted)
    assert completed.turn.answer is not None
    assert completed.turn.answer.degraded_reasons == (DegradedReason.NOT_STORED,)


def test_without_a_database_the_last_known_models_answer_without_data(watchdog: Watchdog) -> None:
    """C13: the search is not tried, which would cost the time of the models; and the answer says all of it."""
    bot = Bot(watchdog, {"m": Script("hello")}, bases=("k",), grants=[("m", "k")])
    list(bot.events())
    bot.links.fails = Unavailable.of("database")
    asked = len(bot.rows.asked)
    *_, completed = bot.events()
    assert isinstance(completed, TurnCompleted)
    answer = completed.turn.answer
    assert answer is not None
    assert (answer.text, answer.citations) == ("hello", ())
    assert answer.degraded_reasons == (
        DegradedReason.NO_DATA,
        DegradedReason.LAST_KNOWN_MAPPING,
        DegradedReason.NOT_STORED,
    )
    assert len(bot.rows.asked) == asked


def collect(source: Iterator[ChatEvent], events: list[ChatEvent]) -> None:
    """Keep what comes before an error."""
    for event in source:
        events.append(event)  # noqa: PERF402 - extend would lose it


def test_no_question_and_no_row_is_logged(watchdog: Watchdog) -> None:
    """Ids, codes and numbers only."""
    bot = Bot(watchdog, {"first": FAILS, "m": Script("canary-answer")}, bases=("k",), grants=[("m", "k")])
    list(bot.events("canary-question"))
    logged = repr(bot.log.events)
    assert "attempt_ended" in logged
    assert "turn_completed" in logged
    assert "canary" not in logged
    assert "cell" not in logged


FAKE_ENGINE = "tests.adapters.local_model.fakes:FakeEngine"


def test_a_local_model_that_dies_in_mid_answer_is_superseded_and_lives_again(
    watchdog: Watchdog, tmp_path: Path
) -> None:
    """C11: a real child process and a real SIGSEGV; the next model answers, and the next turn is the child's again."""
    limits = Limits(restart_first_s=0.01)
    with LocalModel(fake_model(tmp_path), Log(), niceness=0, engine_factory=FAKE_ENGINE, limits=limits) as local:
        bot = Bot(watchdog, {"local": local, "next": Script("whole")})
        events = list(bot.events("die"))
        kinds = [type(event) for event in events]
        assert kinds == [TurnStarted, TokenCame, AttemptEnded, Superseded, TokenCame, TurnCompleted]
        ended = events[2]
        assert isinstance(ended, AttemptEnded)
        assert ended.record.code == "local_process_died"
        assert bot.store.completed[-1].text == "whole"
        assert local.wait_until(lambda state: state.status == "ready" and state.restarts == 1, TIMEOUT_S)
        list(bot.events("say I am back"))
        assert bot.store.completed[-1].text == "I am back "


def test_the_local_model_goes_on_behind_an_answer_that_was_cut(watchdog: Watchdog, tmp_path: Path) -> None:
    """CONTINUE, through a real child process: what the caller keeps is what is stored."""
    with LocalModel(fake_model(tmp_path), Log(), niceness=0, engine_factory=FAKE_ENGINE) as local:
        bot = Bot(watchdog, {"flow": Script("One two thr", FailureKind.UPSTREAM), "local": local})
        request = TurnRequest("bot", None, "why?", None, OnInterruption.CONTINUE)
        events = list(bot.chat.answer("default", request, None, lambda cancel: None))
        kinds = [type(event) for event in events]
        assert kinds == [TurnStarted, TokenCame, AttemptEnded, Seam, TokenCame, TurnCompleted]
        assert isinstance(events[3], Seam)
        assert events[3].offset_chars == len("One two")
        # The fake engine says what it was told.
        assert bot.store.completed[-1].text == "One twouser=why?|assistant=One two"
        assert bot.store.completed[-1].degraded_reasons == (DegradedReason.STAND_IN,)


def test_a_caller_who_leaves_frees_the_local_model(watchdog: Watchdog, tmp_path: Path) -> None:
    """The generation stops, and nothing waits or runs there any more."""
    with LocalModel(fake_model(tmp_path), Log(), niceness=0, engine_factory=FAKE_ENGINE) as local:
        bot = Bot(watchdog, {"local": local})
        cancels: list[Callable[[], None]] = []
        with closing(bot.events("hold", cancels.append)) as events:  # type: ignore[type-var]
            for event in events:
                if isinstance(event, TokenCame):
                    break
        assert cancels
        assert local.wait_until(lambda state: state.running == 0 and state.queue_length == 0, TIMEOUT_S)
        assert bot.store.abandoned[0][0].code == "caller_left"
