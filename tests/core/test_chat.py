"""One turn over fakes: what is stored and told when the data, the database or a model fails, or the caller leaves."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from dari.adapters.circuit import CircuitRules, WindowedCircuit
from dari.adapters.local_model.process import Limits, LocalModel
from dari.core.alerts import AlertKind
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
from dari.core.errors import (
    AnswerInterrupted,
    DeadlineExceeded,
    Exhausted,
    FailedPrecondition,
    InternalError,
    NotFound,
    Unavailable,
)
from dari.core.known_profiles import KnownProfiles
from dari.core.language import Language
from dari.core.last_known import LastKnownChats
from dari.core.mapping import (
    AiModel,
    AiModelLink,
    ChatConfiguration,
    ChatMapping,
    Choice,
    KnowledgeBase,
    LinkEffect,
    LinkStore,
    LocalTarget,
)
from dari.core.notices import Notice, NoticeKind, notices_of
from dari.core.profiles import ColumnProfile, Profile
from dari.core.prompt import LocalContext
from dari.core.ranking import QueryLexeme
from dari.core.search import CandidateRow, Candidates, Search
from dari.core.stand_by import SpareThreads
from dari.core.timed_attempt import ServerTimeouts
from dari.core.token_budgets import TokenBudgets
from dari.core.unsaved_turns import UnsavedTurns
from dari.core.upstream import FailureKind, Prompt, Upstream, UpstreamError
from dari.core.watchdog import Watchdog
from tests.adapters.local_model.fakes import fake_model
from tests.support.operators import RecordedAlerts
from tests.support.token_ledgers import Ledger

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALLOWED = Choice(LinkEffect.ALLOW)
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

    def disable(self) -> None:
        self._mapping = replace(self._mapping, configuration=replace(self._mapping.configuration, disabled=True))

    def set_context_tokens(self, ai_model: str, context_tokens: int) -> None:
        models = tuple(
            (link, replace(model, context_tokens=context_tokens) if model.id == ai_model else model)
            for link, model in self._mapping.models
        )
        self._mapping = replace(self._mapping, models=models)


class Rows:
    """A RowReader of the same rows for every knowledge base, and a lexer for which every text matches."""

    def __init__(self, fails: Mapping[frozenset[str], Exception]) -> None:
        self._fails = fails
        self.asked: list[tuple[str, ...]] = []
        self.cells: list[tuple[str, ...]] = [("cell",)]
        self.is_empty = False

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
        rows = () if self.is_empty else tuple(CandidateRow(n, cells) for n, cells in enumerate(self.cells, start=1))
        return [
            Candidates(base, 1, ("column",), rows, True, len(rows), 1, {1: 1} if rows else {}, version_time=NOW)
            for base in knowledge_bases
        ]

    def hashes(self, text: str) -> list[int]:
        return [1]

    def matches(self, hashes: Sequence[int], texts: Sequence[str]) -> list[list[bool]]:
        return [[True] for _ in texts]


class Columns:
    """Describes every knowledge base by one column, or fails."""

    def __init__(self, fails: Exception | None = None) -> None:
        self._fails = fails
        self.asked: list[str] = []

    def describe(self, tenant: str, knowledge_base: str, number: int | None = None) -> Profile:
        self.asked.append(knowledge_base)
        if self._fails is not None:
            raise self._fails
        return Profile(knowledge_base, 1, 12_345, (ColumnProfile(f"column of {knowledge_base}"),), "")


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

    def upstream(self, tenant: str, model: AiModel) -> Upstream:
        return self._upstreams[model.id]

    def circuit(self, tenant: str, model: AiModel) -> OperatedCircuit:
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
        describing_fails: Exception | None = None,
        context_tokens: int = 0,
    ) -> None:
        mapping = ChatMapping(
            ChatConfiguration("bot", "bot"),
            tuple(
                (
                    AiModelLink("bot", id, n, NOW),
                    AiModel(id, id, LocalTarget(), 30.0, context_tokens=context_tokens),
                )
                for n, id in enumerate(models)
            ),
            tuple((KnowledgeBase(id, id, current_version=1), ALLOWED) for id in bases),
            dict.fromkeys(grants, ALLOWED),
        )
        self.rows = Rows(search_fails or {})
        self.columns = Columns(describing_fails)
        self.store = store or Store()
        self.log = Log()
        self.alerts = RecordedAlerts()
        self.directory = Directory(models)
        self.links = Links(mapping)  # type: ignore[abstract]
        database = WindowedCircuit(CircuitRules(consecutive_failures=1))
        self.chat = Chat(
            chats=LastKnownChats(self.links, database),
            turns=UnsavedTurns(self.store, self.store, database, self.log),
            search=Search(self.rows, self.rows),
            profiles=KnownProfiles(self.columns, self.log),
            local_context=LocalContext(8_192, 8_192),
            directory=self.directory,
            watchdog=watchdog,
            log=self.log,
            alerts=self.alerts,
            default_timeout_s=TIMEOUT_S,
            server_timeouts=ServerTimeouts(1.0, 1.0),
            spare_threads=SpareThreads(ThreadPoolExecutor(2), 2),
            database_timeout_s=TIMEOUT_S,
            budgets=TokenBudgets(Ledger(NOW.date()), self.log, per_caller=None, per_tenant=None),
        )

    def events(
        self,
        question: str = "why?",
        on_caller_left: Callable[[Callable[[], None]], object] = lambda cancel: None,
        on_interruption: OnInterruption = OnInterruption.RESTART,
        language: Language | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[ChatEvent]:
        request = TurnRequest("bot", None, question, None, on_interruption)
        return self.chat.answer("default", request, timeout_s, on_caller_left, language)

    def answer(self, on_interruption: OnInterruption = OnInterruption.RESTART) -> Answer:
        request = TurnRequest("bot", None, "why?", None, on_interruption)
        list(self.chat.answer("default", request, None, lambda cancel: None))
        (answer,) = self.store.completed
        return answer

    def answer_again(self) -> Answer:
        self.store.completed.clear()
        return self.answer()


FAILS, WORKS = Script(FailureKind.UPSTREAM), ("a", "b")


def opened(bot: Bot, *models: str) -> None:
    """Let the circuits of these models open."""
    for model in models:
        circuit = bot.directory.circuits.setdefault(model, WindowedCircuit(CircuitRules(consecutive_failures=1)))
        permit = circuit.admit()
        assert permit is not None
        permit.failed("scripted")


def outcomes_of(answer: Answer) -> list[tuple[str, str]]:
    return [(record.ai_model, record.outcome.value) for record in answer.attempts]


def test_a_turn_with_nobody_else_and_no_data_tries_the_models_that_are_passed_by(watchdog: Watchdog) -> None:
    """One that was down a moment ago may be back; a drained one is not asked."""
    bot = Bot(watchdog, {"drained": Script("a"), "dead": FAILS, "back": Script("a")})
    opened(bot, "dead", "back")
    bot.directory.circuit("default", AiModel("drained", "", LocalTarget(), 1.0)).drain()
    answer = bot.answer()
    assert answer.ai_model == "back"
    passed_by = [("drained", "SKIPPED"), ("dead", "SKIPPED"), ("back", "SKIPPED")]
    assert outcomes_of(answer) == [*passed_by, ("drained", "SKIPPED"), ("dead", "FAILED"), ("back", "ANSWERED")]


def test_where_there_is_data_a_model_that_is_passed_by_is_not_waited_for(watchdog: Watchdog) -> None:
    bot = Bot(watchdog, {"back": Script("a")}, bases=("k",))
    opened(bot, "back")
    assert outcomes_of(bot.answer()) == [("back", "SKIPPED")]


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


def earlier_turn(number: int, *bases: str) -> Turn:
    """A turn whose answer may repeat data of these."""
    answer = Answer(f"A{number}", Answerer.LOCAL, "m", (), (), (), frozenset(bases))
    return Turn(uuid4(), number, f"Q{number}", TurnState.COMPLETED, (), answer, NOW, NOW)


def test_an_answer_remembers_whose_data_it_may_repeat(watchdog: Watchdog) -> None:
    """That which its model was told of, and that of the turns that its model was told; not of those withheld."""
    turns = [earlier_turn(1, "a"), earlier_turn(2, "b"), earlier_turn(3)]
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


def test_what_is_withheld_stays_withheld_from_turn_to_turn(watchdog: Watchdog) -> None:
    """C15: a model that may see `secret` is told of it by an earlier turn; what it answers is withheld as well."""
    grants = [("insider", "secret"), ("insider", "open"), ("outsider", "open")]
    secret = earlier_turn(1, "secret")
    insider = Script("I repeat what I was told")
    bot = Bot(watchdog, {"insider": insider}, bases=("open",), grants=grants, store=Store([secret]))
    assert bot.answer().knowledge_bases == {"open"}, "it may not see `secret` here: nothing links it"
    bot = Bot(watchdog, {"insider": insider}, bases=("open", "secret"), grants=grants, store=Store([secret]))
    bot.rows.is_empty = True
    repeated = bot.answer()
    assert repeated.knowledge_bases == {"open", "secret"}
    assert "A1" in repr(insider.prompts[-1].history)
    second = replace(secret, number=2, question="Q2", answer=repeated)
    outsider = Script(*WORKS)
    store = Store([secret, second, earlier_turn(3, "open")])
    bot = Bot(watchdog, {"outsider": outsider}, bases=("open", "secret"), grants=grants, store=store)
    assert bot.answer().knowledge_bases == {"open"}
    assert [message.text for message in outsider.prompts[0].history] == ["Q3", "A3"]
    assert "secret" not in outsider.prompts[0].instructions


def test_a_model_is_told_what_there_is_of_what_it_may_see(watchdog: Watchdog) -> None:
    """Also where no row was found, as when it is asked how many there are."""
    model = Script(*WORKS)
    bot = Bot(watchdog, {"m": model}, bases=("a", "b"), grants=[("m", "a")])
    bot.rows.is_empty = True
    answer = bot.answer()
    assert "<data>\na: 12,345 rows. Columns: column of a (empty)\n</data>" in model.prompts[0].instructions
    assert bot.columns.asked == ["a"], "what it may not see is not even read"
    assert not answer.citations
    assert answer.knowledge_bases == {"a"}
    bot.answer_again()
    assert bot.columns.asked == ["a"], "a version never changes"


@pytest.mark.parametrize("failure", SEARCH_FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_description_that_cannot_be_read_fails_no_turn(watchdog: Watchdog, failure: Exception) -> None:
    """What the mapping knows is told instead."""
    model = Script(*WORKS)
    bot = Bot(watchdog, {"m": model}, bases=("k",), grants=[("m", "k")], describing_fails=failure)
    answer = bot.answer()
    assert (answer.text, answer.degraded_reasons) == ("ab", ())
    assert "<data>\nk: 0 rows, 0 columns\n</data>" in model.prompts[0].instructions
    assert "[1] k: column=cell" in model.prompts[0].instructions


def test_a_citation_tells_which_cells_the_answer_uses(watchdog: Watchdog) -> None:
    for text, used in (("It is a cell.", (0,)), ("It is excellent.", ())):
        bot = Bot(watchdog, {"m": Script(text)}, bases=("k",), grants=[("m", "k")])
        (citation,) = bot.answer().citations
        assert (citation.used_cells, citation.version_time) == (used, NOW)


def test_only_rows_that_the_answerer_was_told_are_cited(watchdog: Watchdog) -> None:
    """A small model is told fewer than its context's better one, and its answer cites those."""
    small, large = Script(*WORKS), Script(*WORKS)
    cited = []
    for model, context_tokens in ((small, 1_024), (large, 8_192)):
        bot = Bot(watchdog, {"m": model}, bases=("k",), grants=[("m", "k")], context_tokens=context_tokens)
        bot.rows.cells = [("한" * 60,)] * 20
        cited.append(len(bot.answer().citations))
        assert f"[{cited[-1]}] k: " in model.prompts[0].instructions
        assert f"[{cited[-1] + 1}] k: " not in model.prompts[0].instructions
    assert 1 <= cited[0] < cited[1] <= 8


def test_an_answer_of_two_models_cites_what_either_was_told(watchdog: Watchdog) -> None:
    """CONTINUE behind a model with more room: the text that stands is from its rows too."""
    first, second = Script("one two three", FailureKind.UPSTREAM), Script(" and four")
    second.continues = True
    grants = [("first", "k"), ("second", "k")]
    bot = Bot(watchdog, {"first": first, "second": second}, bases=("k",), grants=grants, context_tokens=8_192)
    bot.links.set_context_tokens("second", 1_024)
    bot.rows.cells = [("한" * 60,)] * 20
    answer = bot.answer(OnInterruption.CONTINUE)
    told = [model.prompts[0].instructions.count("] k: ") for model in (first, second)]
    assert told[0] > told[1] >= 1
    assert len(answer.citations) == told[0]
    restarted = bot.answer_again()
    assert len(restarted.citations) == told[1]


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


def kinds_of(events: Sequence[ChatEvent]) -> list[type]:
    """What happened; what readers are told of it stands apart."""
    return [type(event) for event in events if not isinstance(event, Notice)]


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


# What readers are told


STOP, RESTART, CONTINUE = OnInterruption.STOP, OnInterruption.RESTART, OnInterruption.CONTINUE
HALF = Script("One two thr", FailureKind.UPSTREAM)
BUSY, WRONG = Script(FailureKind.BUSY), Script(FailureKind.OURS)
STAND_IN, ROWS_ONLY, NO_DATA = NoticeKind.STAND_IN, NoticeKind.ROWS_ONLY, NoticeKind.NO_DATA
END: list[object] = [NoticeKind.DATA_AS_OF, TurnCompleted]
BROKEN: dict[frozenset[str], Exception] = {frozenset("k"): Unavailable.of("database")}
IN_ROWS = [ROWS_ONLY, TokenCame, *END]

TOLD: list[tuple[str, dict[str, Upstream], dict[frozenset[str], Exception], list[object]]] = [
    # name, models, searches that fail, events in order: kinds of notices, and types of what else comes from the text on
    ("as ever", {"m": Script("a")}, {}, [TokenCame, *END]),
    ("a stand-in", {"x": FAILS, "m": Script("a")}, {}, [STAND_IN, TokenCame, *END]),
    ("a busy one", {"x": BUSY, "m": Script("a")}, {}, [STAND_IN, TokenCame, *END]),
    ("the third", {"x": WRONG, "y": FAILS, "m": Script("a", "b")}, {}, [STAND_IN, TokenCame, TokenCame, *END]),
    ("without data", {"m": Script("a")}, BROKEN, [NO_DATA, TokenCame, TurnCompleted]),
    ("both", {"x": FAILS, "m": Script("a")}, BROKEN, [STAND_IN, NO_DATA, TokenCame, TurnCompleted]),
    ("rows", {"x": FAILS}, {}, IN_ROWS),
    ("cut, then whole", {"x": HALF, "m": Script("a")}, {}, [TokenCame, Superseded, STAND_IN, TokenCame, *END]),
    ("two cuts", {"x": HALF, "m": HALF}, {}, [TokenCame, Superseded, STAND_IN, TokenCame, Superseded, *IN_ROWS]),
]


@pytest.mark.parametrize(("name", "models", "search_fails", "told"), TOLD)
def test_readers_are_told_as_soon_as_it_is_known_and_once(
    watchdog: Watchdog,
    name: str,
    models: dict[str, Upstream],
    search_fails: dict[frozenset[str], Exception],
    told: list[object],
) -> None:
    """And the turn itself says the same of the answer in the end."""
    grants = [(model, "k") for model in models]
    bot = Bot(watchdog, models, bases=("k",), grants=grants, search_fails=search_fails)
    events = [event for event in bot.events() if not isinstance(event, TurnStarted | AttemptEnded)]
    assert [event.kind if isinstance(event, Notice) else type(event) for event in events] == told
    completed = events[-1]
    assert isinstance(completed, TurnCompleted)
    assert set(notices_of(completed.turn)) <= {event for event in events if isinstance(event, Notice)}


@pytest.mark.parametrize("language", [*Language, None])
def test_notices_are_in_the_callers_language_or_the_questions(watchdog: Watchdog, language: Language | None) -> None:
    bot = Bot(watchdog, {"x": FAILS, "m": Script("a")})
    for question, its_language in (("왜 LGA?", Language.KOREAN), ("why?", Language.ENGLISH)):
        (notice,) = [event for event in bot.events(question, language=language) if isinstance(event, Notice)]
        is_korean = any("가" <= letter <= "힣" for letter in notice.text)
        assert is_korean == ((language or its_language) is Language.KOREAN)


class Stalls(Script):
    """Sends its text, and then nothing until it is aborted."""

    def __init__(self, *steps: str) -> None:
        super().__init__(*steps)
        self._aborted = threading.Event()

    def tokens(self) -> Iterator[str]:
        yield from super().tokens()
        assert self._aborted.wait(TIMEOUT_S)
        raise UpstreamError(FailureKind.CANCELLED, "aborted")

    def abort(self) -> None:
        self._aborted.set()


CUTS: list[tuple[str, Upstream, OnInterruption, float | None, type[Exception], bool]] = [
    ("cut, and no other wanted", HALF, STOP, None, AnswerInterrupted, True),
    ("too late, in mid-answer", Stalls("One two"), RESTART, 0.5, DeadlineExceeded, True),
    ("too late, before any text", Stalls(), RESTART, 0.5, DeadlineExceeded, False),
    ("nothing lives", FAILS, RESTART, None, Unavailable, False),
]


@pytest.mark.parametrize(("name", "model", "on_interruption", "timeout_s", "error", "is_told"), CUTS)
def test_an_answer_that_stays_cut_is_told_before_the_error(
    watchdog: Watchdog,
    name: str,
    model: Upstream,
    on_interruption: OnInterruption,
    timeout_s: float | None,
    error: type[Exception],
    is_told: bool,
) -> None:
    """And when the turn is read again; but not where there was no text that could be taken for an answer."""
    bot = Bot(watchdog, {"m": model})
    events: list[ChatEvent] = []
    with pytest.raises(error):
        collect(bot.events(on_interruption=on_interruption, timeout_s=timeout_s), events)
    notices = [event for event in events if isinstance(event, Notice)]
    assert [notice.kind for notice in notices] == ([NoticeKind.INCOMPLETE] if is_told else [])
    (attempts,) = bot.store.abandoned
    stored = Turn(uuid4(), 1, "why?", TurnState.INCOMPLETE, attempts, None, NOW, None)
    assert list(notices_of(stored)) == notices


def test_without_a_database_it_is_told_before_any_text(watchdog: Watchdog) -> None:
    """C13: the mapping is the last known one and the turn cannot be stored; both are known at the start."""
    bot = Bot(watchdog, {"m": Script("hello")}, bases=("k",), grants=[("m", "k")])
    list(bot.events())
    bot.links.fails = Unavailable.of("database")
    started, *notices, token, completed = bot.events()
    assert isinstance(started, TurnStarted) and isinstance(token, TokenCame) and isinstance(completed, TurnCompleted)
    kinds = [notice.kind for notice in notices if isinstance(notice, Notice)]
    assert kinds == [NoticeKind.LAST_KNOWN_MAPPING, NoticeKind.NOT_STORED, NoticeKind.NO_DATA]


def test_a_database_that_went_meanwhile_is_told_before_the_end(watchdog: Watchdog) -> None:
    bot = Bot(watchdog, {"m": Script(*WORKS)}, store=Store(completing_fails=Unavailable.of("database")))
    *_, notice, completed = bot.events()
    assert isinstance(notice, Notice) and isinstance(completed, TurnCompleted)
    assert notice.kind is NoticeKind.NOT_STORED


FAKE_ENGINE = "tests.adapters.local_model.fakes:FakeEngine"


def test_a_local_model_that_dies_in_mid_answer_is_superseded_and_lives_again(
    watchdog: Watchdog, tmp_path: Path
) -> None:
    """C11: a real child process and a real SIGSEGV; the next model answers, and the next turn is the child's again."""
    limits = Limits(restart_first_s=0.01)
    with LocalModel(fake_model(tmp_path), Log(), niceness=0, engine_factory=FAKE_ENGINE, limits=limits) as local:
        bot = Bot(watchdog, {"local": local, "next": Script("whole")})
        events = list(bot.events("die"))
        kinds = kinds_of(events)
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
        events = list(bot.events(on_interruption=OnInterruption.CONTINUE))
        kinds = kinds_of(events)
        assert kinds == [TurnStarted, TokenCame, AttemptEnded, Seam, TokenCame, TurnCompleted]
        (seam,) = [event for event in events if isinstance(event, Seam)]
        assert seam.offset_chars == len("One two")
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


MISCONFIGURED = Script(FailureKind.OURS)
TO_OPERATORS: list[tuple[str, dict[str, Upstream], list[tuple[AlertKind, str, str]]]] = [
    # name, what the models do, what operators are told
    ("all is well", {"m": Script(*WORKS)}, []),
    ("a model fails", {"m": FAILS, "n": Script(*WORKS)}, []),
    ("a model is busy", {"m": Script(FailureKind.BUSY), "n": Script(*WORKS)}, []),
    (
        "a model is configured wrongly",
        {"m": MISCONFIGURED, "n": Script(*WORKS)},
        [(AlertKind.MODEL_MISCONFIGURED, "aiModels/m", "scripted")],
    ),
    (
        "all models fail",
        {"m": FAILS, "n": FAILS},
        [(AlertKind.NO_MODEL_ANSWERED, "chatConfigurations/bot", "scripted")],
    ),
    (
        "the only model is configured wrongly",
        {"m": MISCONFIGURED},
        [
            (AlertKind.MODEL_MISCONFIGURED, "aiModels/m", "scripted"),
            (AlertKind.NO_MODEL_ANSWERED, "chatConfigurations/bot", "scripted"),
        ],
    ),
    ("there is no model", {}, []),
]


@pytest.mark.parametrize(
    ("models", "told"), [case[1:] for case in TO_OPERATORS], ids=[case[0] for case in TO_OPERATORS]
)
def test_operators_are_told_of_what_only_they_can_mend(
    watchdog: Watchdog, models: Mapping[str, Upstream], told: list[tuple[AlertKind, str, str]]
) -> None:
    bot = Bot(watchdog, models, bases=("k",), grants=[(model, "k") for model in models])
    list(bot.events())
    assert [(alert.kind, alert.subject, alert.code) for alert in bot.alerts.told] == told
    assert all(alert.tenant == "default" for alert in bot.alerts.told)


def test_operators_are_told_too_where_there_are_no_rows_to_answer_from(watchdog: Watchdog) -> None:
    bot = Bot(watchdog, {"m": FAILS})
    with pytest.raises(Unavailable):
        list(bot.events())
    assert [alert.kind for alert in bot.alerts.told] == [AlertKind.NO_MODEL_ANSWERED]


def test_a_disabled_chat_configuration_answers_nothing(watchdog: Watchdog) -> None:
    """Also by the mapping that is known last; no model is asked, and no turn ends."""
    script = Script("never said")
    bot = Bot(watchdog, {"m": script})
    bot.links.disable()
    for fails in (None, Unavailable.of("database")):
        bot.links.fails = fails
        with pytest.raises(FailedPrecondition, match="chatConfigurations/bot is disabled"):
            list(bot.events())
    assert (script.prompts, bot.store.completed) == ([], [])
