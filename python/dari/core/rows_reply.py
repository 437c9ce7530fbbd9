"""The last resort: a reply made of the retrieved rows alone, in the language of the question. It needs no model."""

from collections.abc import Sequence

from dari.core.conversations import Citation
from dari.core.prompt import cut
from dari.core.search import named_cells

_MAX_ROWS = 5
_CELL_CHARS = 240
_LINE_CHARS = 2_000


def rows_reply(question: str, citations: Sequence[Citation]) -> str:
    """A reply that shows the best rows, or says that none was found."""
    korean = any("가" <= letter <= "힣" for letter in question)
    if not citations:
        return (
            "지금은 답변할 수 있는 AI 모델이 없고, 연결된 데이터에서도 이 질문에 맞는 행을 찾지 못했습니다."
            if korean
            else "No AI model can answer at the moment, and no row of the linked data fits this question."
        )
    heading = (
        "지금은 답변할 수 있는 AI 모델이 없어, 데이터에서 찾은 행을 그대로 보여 드립니다."
        if korean
        else "No AI model can answer at the moment. These rows of the data fit the question best:"
    )
    return "\n".join([heading, *(_line(citation) for citation in citations[:_MAX_ROWS])])


def _line(citation: Citation) -> str:
    cells = ", ".join(
        f"{_inline(column)}: {_inline(cell)}" if column else _inline(cell)
        for column, cell in named_cells(citation.columns, citation.cells)
        if cell
    )
    return cut(f"[{citation.number}] {citation.knowledge_base}: {cells}", _LINE_CHARS)


def _inline(text: str) -> str:
    return cut(" ".join(text.split()), _CELL_CHARS)
