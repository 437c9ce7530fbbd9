"""The reply without a model: sentences a person would say, in the language of the question."""

import pytest

from dari.core.conversations import Citation
from dari.core.known_profiles import DescribedBase
from dari.core.prompt import Found
from dari.core.rows_reply import rows_reply
from tests.support.described import cited, described, hit, numbers, texts

AIRPORTS = described("airports", texts("faa", 9), texts("name", 9), rows=1_458, display_name="공항 목록")
FLIGHTS = described("flights", numbers("no", "1", "2"), rows=1)
ROWS = cited(
    hit("LGA", "", "La\nGuardia", columns=("faa", "iata", "name"), base="airports"),
    hit("17", columns=("no",), base="flights"),
    hit("JFK", columns=("faa",), base="airports"),
)
MANY = cited(*[hit(f"row {n}", columns=("x",), base="flights") for n in range(7)])
CASES: list[tuple[str, str, tuple[Citation, ...], tuple[DescribedBase, ...], str]] = [
    (
        "rows of two tables, English",
        "LGA where?",
        ROWS,
        (AIRPORTS, FLIGHTS),
        (
            "No AI model can answer at the moment, so here is what the data says: I found 2 rows in “공항 목록” (as of"
            " 5 March 2026, 09:30 UTC) and 1 row in “flights” (as of 5 March 2026, 09:30 UTC)."
            " They are shown as they are.\n\n"
            "[1] faa: LGA · name: La Guardia\n[2] no: 17\n[3] faa: JFK"
        ),
    ),
    (
        "rows of two tables, Korean",
        "LGA 어디?",
        ROWS,
        (AIRPORTS, FLIGHTS),
        (
            "지금은 답변할 수 있는 AI 모델이 없어, 데이터에서 찾은 내용을 그대로 보여 드립니다."
            " 질문과 관련된 행을 ‘공항 목록’(2026년 3월 5일 09:30 UTC 기준)에서 2개,"  # noqa: RUF001 - Korean quotes
            " ‘flights’(2026년 3월 5일 09:30 UTC 기준)에서 1개 찾았습니다.\n\n"  # noqa: RUF001
            "[1] faa: LGA · name: La Guardia\n[2] no: 17\n[3] faa: JFK"
        ),
    ),
    (
        "one row",
        "why?",
        ROWS[:1],
        (),
        (
            "No AI model can answer at the moment, so here is what the data says: I found 1 row in “airports” (as of"
            " 5 March 2026, 09:30 UTC). It is shown as it is.\n\n[1] faa: LGA · name: La Guardia"
        ),
    ),
    (
        "no row, English",
        "where?",
        (),
        (AIRPORTS, FLIGHTS),
        (
            "No AI model can answer at the moment, and no row of the linked data fits this question."
            " You can ask about:\n• “공항 목록”: 1,458 rows, with faa and name\n• “flights”: 1 row, with no"
        ),
    ),
    (
        "no row, Korean",
        "어디?",
        (),
        (AIRPORTS,),
        (
            "지금은 답변할 수 있는 AI 모델이 없고, 연결된 데이터에서도 이 질문에 맞는 행을 찾지 못했습니다."
            " 다음 데이터에 대해 물어보실 수 있습니다.\n• ‘공항 목록’: 행 1,458개, 열은 faa, name"  # noqa: RUF001
        ),
    ),
    (
        "no row and no data",
        "where?",
        (),
        (),
        "No AI model can answer at the moment, and no row of the linked data fits this question.",
    ),
]


@pytest.mark.parametrize(("name", "question", "citations", "bases", "expected"), CASES)
def test_the_reply_says_what_was_found_where_and_as_of_when(
    name: str, question: str, citations: tuple[Citation, ...], bases: tuple[DescribedBase, ...], expected: str
) -> None:
    assert rows_reply(question, Found(citations, bases)).text == expected


def test_of_many_rows_the_best_are_shown_and_the_number_is_told() -> None:
    for question, told in (
        ("what?", "7 rows in “flights”"),
        ("무엇?", "에서 7개 찾았습니다. 그중 가장 잘 맞는 5개입니다."),
    ):
        reply = rows_reply(question, Found(MANY))
        assert told in reply.text
        assert "[5] x: row 4" in reply.text
        assert "[6]" not in reply.text
        assert [citation.used_cells for citation in reply.citations] == [(0,)] * 5 + [()] * 2


def test_of_a_wide_row_the_cells_that_the_question_names_come_first() -> None:
    columns = tuple(f"c{n}" for n in range(30))
    wide = cited(hit(*[f"v{n}" for n in range(20)], "서울", *[""] * 8, "Gimpo", columns=columns))
    korean = rows_reply("서울에는 c17 얼마?", Found(wide))
    assert "[1] c20: 서울 · c17: v17 · c0: v0 · c1: v1" in korean.text
    assert korean.text.endswith(" … 외 14개 열")
    assert korean.citations[0].used_cells == (0, 1, 2, 3, 4, 5, 17, 20)
    english = rows_reply("where is gimpo?", Found(wide))
    assert "[1] c29: Gimpo · c0: v0" in english.text
    assert english.text.endswith(" … and 14 more columns")


def test_huge_rows_and_names_make_no_huge_reply() -> None:
    huge = [hit("x" * 1_000_000, *["cell"] * 1_500, columns=("n" * 1_000_000,)) for _ in range(50)]
    assert len(rows_reply("why?", Found(cited(*huge))).text) <= 6_000
    bases = tuple(described(f"kb-{n}", *[texts("n" * 1_000, 1)] * 1_500, display_name="d" * 1_000) for n in range(50))
    assert len(rows_reply("why?", Found((), bases)).text) <= 6_000
