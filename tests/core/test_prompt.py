"""What a model is told: within its budget, numbered, delimited, and nothing that it may not know."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.core.conversations import Answer, Answerer, Citation, Turn, TurnState
from dari.core.mapping import AiModel, ChatConfiguration, LocalTarget
from dari.core.prompt import DEFAULT_INSTRUCTIONS, ROWS_BUDGET_CHARS, cite, make_prompt, row_text, told_turns
from dari.core.rows_reply import rows_reply
from dari.core.search import Hit
from dari.core.upstream import Message, Prompt

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = AiModel("m", "m", LocalTarget(), 1.0, max_answer_tokens=77)
CONFIGURATION = ChatConfiguration("bot", "bot")


def hit(*cells: str, columns: tuple[str, ...] = (), row_number: int = 1) -> Hit:
    return Hit("base", 1, row_number, 1.0, columns or tuple(f"c{n}" for n in range(len(cells))), cells)


def turn(number: int, question: str, text: str | None, *knowledge_bases: str) -> Turn:
    """A turn whose answer may repeat rows of these; one without a text is INCOMPLETE."""
    answer = None
    if text is not None:
        answer = Answer(text, Answerer.LOCAL, "m", (), (), (), frozenset(knowledge_bases))
    state = TurnState.INCOMPLETE if answer is None else TurnState.COMPLETED
    return Turn(UUID(int=1), number, question, state, (), answer, NOW, None)


def prompt(citations: tuple[Citation, ...], *earlier: Turn, instructions: str = "") -> Prompt:
    configuration = ChatConfiguration("bot", "bot", instructions)
    return make_prompt(configuration, MODEL, lambda: citations, earlier, turn(9, "why?", None))


def test_rows_stand_numbered_between_markers() -> None:
    """Behind the instructions; empty cells say nothing."""
    made = prompt(cite([hit("LGA", "", "La Guardia"), hit("a\tb\r\n c", "x", "y", row_number=2)]))
    assert made.instructions.startswith(DEFAULT_INSTRUCTIONS)
    rows = "[1] base: c0=LGA; c2=La Guardia\n[2] base: c0=a b c; c1=x; c2=y"
    assert made.instructions.endswith(f"\n<rows>\n{rows}\n</rows>")
    assert (made.question, made.max_answer_tokens, made.history) == ("why?", 77, ())


def test_without_rows_the_instructions_stand_alone() -> None:
    """The configuration's own, or none: a model keeps its own ways."""
    assert prompt(()).instructions == ""
    assert prompt((), instructions="Be brief.").instructions == "Be brief."
    assert prompt(cite([hit("a")]), instructions="Be brief.").instructions.startswith("Be brief.\nThe rows stand")


def test_every_attempt_has_an_id_of_its_own() -> None:
    """Two attempts under one id would mix at Flowise."""
    assert prompt(()).attempt_id != prompt(()).attempt_id


@given(st.lists(st.lists(st.text(), min_size=1, max_size=4), max_size=4), st.text())
def test_no_cell_and_no_column_can_end_the_markers(rows: list[list[str]], column: str) -> None:
    """Whatever it says, in whatever script: one line a row, and one end."""
    hits = [hit(*cells, columns=(column,) * len(cells), row_number=n) for n, cells in enumerate(rows, start=1)]
    instructions = prompt(cite(hits)).instructions
    if not hits:
        return
    head, _, rest = instructions.partition("\n<rows>\n")
    body, end, nothing = rest.partition("\n</rows>")
    assert (end, nothing) == ("\n</rows>", "")
    assert "<" not in body
    assert ">" not in body
    assert len(body.splitlines()) == len(cite(hits)), "no cell makes a line of its own"
    assert [line.partition(" ")[0] for line in body.splitlines()] == [f"[{n}]" for n in range(1, len(cite(hits)) + 1)]
    assert head.startswith(DEFAULT_INSTRUCTIONS)


HUGE: list[tuple[str, list[Hit]]] = [
    ("a long cell", [hit("가" * 1_000_000)] * 50),
    ("many columns", [hit(*["cell"] * 1_500)] * 50),
    ("many long cells", [hit(*["x" * 1_000] * 1_500)] * 50),
    ("long names", [hit("x", columns=("n" * 1_000_000,))] * 50),
    ("long names over empty cells", [hit("x", "", columns=("n", "n" * 1_000_000))] * 50),
    ("many rows", [hit("a")] * 50),
]


@pytest.mark.parametrize(("name", "hits"), HUGE)
def test_rows_keep_to_their_budgets(name: str, hits: list[Hit]) -> None:
    """Of the prompt, of the citations in a message, of the reply made of rows; and one row is always told."""
    citations = cite(hits)
    assert citations
    assert [citation.number for citation in citations] == list(range(1, len(citations) + 1))
    assert sum(len(row_text(citation)) for citation in citations) <= ROWS_BUDGET_CHARS
    cited_chars = sum(len(text) for citation in citations for text in (*citation.columns, *citation.cells))
    assert cited_chars <= 400_000
    assert all(len(citation.columns) == len(citation.cells) for citation in citations)
    assert len(rows_reply("why?", citations)) <= 11_000


def test_what_fits_is_cited_as_it_is() -> None:
    """Byte for byte, white space and all."""
    cells = (" a\n", "<b>", "x" * 10_000, "")
    assert cite([hit(*cells)])[0].cells == cells


def test_history_is_told_oldest_first_and_whole_turns_only() -> None:
    """A turn without an answer is no turn."""
    turns = [turn(1, "Q1", "A1"), turn(2, "Q2", None), turn(3, "Q3", "A3")]
    told = told_turns(turns, ())
    assert told == (turns[0], turns[2])
    assert prompt((), *told).history == (
        Message("user", "Q1"),
        Message("assistant", "A1"),
        Message("user", "Q3"),
        Message("assistant", "A3"),
    )


def test_history_that_a_model_may_not_know_is_withheld() -> None:
    """Turn by turn, by the knowledge bases whose rows the answer may repeat."""
    turns = [
        turn(1, "Q1", "A1", "public"),
        turn(2, "Q2", "A2", "secret"),
        turn(3, "Q3", "A3", "public", "secret"),
        turn(4, "Q4", "A4"),
    ]
    assert told_turns(turns, {"public"}) == (turns[0], turns[3])
    assert told_turns(turns, {"public", "secret"}) == tuple(turns)
    assert told_turns(turns, ()) == (turns[3],)


def test_long_history_is_cut_and_the_oldest_gives_way() -> None:
    """The newest turn is always told, by the beginning of what was said."""
    turns = [turn(n, "Q" * 30_000, "A" * 200_000) for n in range(1, 7)]
    told = told_turns(turns, ())
    assert told == tuple(turns[-len(told) :])
    assert told
    history = prompt((), *told).history
    assert all(len(message.text) == 800 and message.text.endswith("…") for message in history)


def test_the_rows_alone_speak_the_language_of_the_question() -> None:
    """Korean or English; with rows and without."""
    citations = cite([hit("LGA", "", "La\nGuardia")])
    assert rows_reply("LGA 어디?", citations).splitlines()[1] == "[1] base: c0: LGA, c2: La Guardia"
    assert rows_reply("LGA 어디?", citations).startswith("지금은")
    assert rows_reply("LGA where?", citations).startswith("No AI model can answer at the moment. These rows")
    assert rows_reply("어디?", ()).startswith("지금은")
    assert rows_reply("where?", ()).endswith("fits this question.")
