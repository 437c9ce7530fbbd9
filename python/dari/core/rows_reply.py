"""The last resort: a reply made of the rows found alone, in the language of the question. It needs no model.

Names of data come from outside. The Korean sentences set them where no particle depends on how they end.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from dari.core.cell_order import by_relevance
from dari.core.conversations import Citation
from dari.core.known_profiles import DescribedBase
from dari.core.language import Language, language_of
from dari.core.prompt import Found
from dari.core.told_text import cut

_MAX_ROWS = 5
_MAX_CELLS = 8
"""Of a wider row those that matter most to the question."""
_MAX_BASES = 5
_MAX_COLUMNS = 12
_NAME_CHARS = 80
_CELL_CHARS = 240
_MONTHS = "January February March April May June July August September October November December".split()  # noqa: SIM905


@dataclass(frozen=True, slots=True)
class RowsReply:
    """A reply, and the rows found; each tells in `used_cells` which of its cells the reply shows."""

    text: str
    citations: tuple[Citation, ...]


def rows_reply(question: str, found: Found) -> RowsReply:
    """A reply that shows the best rows; where no row fits, it tells what data there is."""
    language = _Korean() if language_of(question) is Language.KOREAN else _English()
    if not found.citations:
        return RowsReply("\n".join(_nothing_found(language, found.bases)), ())
    citations = tuple(replace(citation, used_cells=_shown(question, citation)) for citation in found.citations)
    rows = [_row(language, question, citation) for citation in citations[:_MAX_ROWS]]
    names = {base.knowledge_base.id: base.knowledge_base.display_name for base in found.bases}
    return RowsReply("\n".join([language.found(_sources(citations, names), len(rows)), "", *rows]), citations)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where rows were found."""

    name: str
    as_of: datetime | None
    rows: int


class _English:
    """How it is said in English."""

    def found(self, sources: Sequence[_Source], shown: int) -> str:
        count = sum(source.rows for source in sources)
        where = _listed([f"{_counted(source.rows, 'row')} in {self._named(source)}" for source in sources])
        # One row is shown; of several those that are.
        those = "It is shown as it is." if count == 1 else "They are shown as they are."
        if shown < count:
            those = f"The {shown} that fit best:"
        return f"No AI model can answer at the moment, so here is what the data says: I found {where}. {those}"

    def nothing(self, *, has_data: bool) -> str:
        return "No AI model can answer at the moment, and no row of the linked data fits this question." + (
            " You can ask about:" if has_data else ""
        )

    def base(self, name: str, rows: int, columns: Sequence[str], more: int) -> str:
        names = _listed([*columns, f"{more} more"] if more else list(columns))
        return (
            f"• “{name}”: {_counted(rows, 'row')}, with {names}" if columns else f"• “{name}”: {_counted(rows, 'row')}"
        )

    def more_cells(self, count: int) -> str:
        return f" … and {_counted(count, 'more column')}"

    def _named(self, source: _Source) -> str:
        if source.as_of is None:
            return f"“{source.name}”"
        day = source.as_of.astimezone(UTC)
        return f"“{source.name}” (as of {day.day} {_MONTHS[day.month - 1]} {day.year}, {day:%H:%M} UTC)"


class _Korean:
    """How it is said in Korean."""

    def found(self, sources: Sequence[_Source], shown: int) -> str:
        where = ", ".join(f"{self._named(source)}에서 {source.rows:,}개" for source in sources)
        few = f" 그중 가장 잘 맞는 {shown}개입니다." if shown < sum(source.rows for source in sources) else ""
        return (
            "지금은 답변할 수 있는 AI 모델이 없어, 데이터에서 찾은 내용을 그대로 보여 드립니다."
            f" 질문과 관련된 행을 {where} 찾았습니다.{few}"
        )

    def nothing(self, *, has_data: bool) -> str:
        return "지금은 답변할 수 있는 AI 모델이 없고, 연결된 데이터에서도 이 질문에 맞는 행을 찾지 못했습니다." + (
            " 다음 데이터에 대해 물어보실 수 있습니다." if has_data else ""
        )

    def base(self, name: str, rows: int, columns: Sequence[str], more: int) -> str:
        names = ", ".join(columns) + (f" 외 {more:,}개" if more else "")
        return f"• {self._quoted(name)}: 행 {rows:,}개" + (f", 열은 {names}" if columns else "")

    def more_cells(self, count: int) -> str:
        return f" … 외 {count:,}개 열"

    def _named(self, source: _Source) -> str:
        quoted = self._quoted(source.name)
        if source.as_of is None:
            return quoted
        day = source.as_of.astimezone(UTC)
        return f"{quoted}({day.year}년 {day.month}월 {day.day}일 {day:%H:%M} UTC 기준)"

    def _quoted(self, name: str) -> str:
        return f"‘{name}’"  # noqa: RUF001 - Korean quotes


def _sources(citations: Sequence[Citation], names: dict[str, str]) -> list[_Source]:
    counts = Counter(citation.knowledge_base for citation in citations)
    times = {citation.knowledge_base: citation.version_time for citation in citations}
    return [_Source(_line(names.get(base, base), _NAME_CHARS), times[base], count) for base, count in counts.items()]


def _nothing_found(language: _English | _Korean, bases: Sequence[DescribedBase]) -> list[str]:
    lines = [language.nothing(has_data=bool(bases))]
    for base in bases[:_MAX_BASES]:
        columns = base.knowledge_base.columns
        names = [_line(column, _NAME_CHARS) for column in columns[:_MAX_COLUMNS] if column.strip()]
        name = _line(base.knowledge_base.display_name, _NAME_CHARS)
        lines.append(language.base(name, base.row_count, names, len(columns) - len(names)))
    return lines


def _shown(question: str, citation: Citation) -> tuple[int, ...]:
    """The cells that the reply shows, by their places in the row."""
    if citation.number > _MAX_ROWS:
        return ()
    return tuple(sorted(by_relevance(question, citation)[:_MAX_CELLS]))


def _row(language: _English | _Korean, question: str, citation: Citation) -> str:
    """[1] name: La Guardia · faa: LGA; the columns that matter most first where not all are shown."""
    places = by_relevance(question, citation)
    shown, hidden = places[:_MAX_CELLS], len(places) - _MAX_CELLS
    cells = " · ".join(_cell(citation, place) for place in (shown if hidden > 0 else sorted(shown)))
    return f"[{citation.number}] {cells}" + (language.more_cells(hidden) if hidden > 0 else "")


def _cell(citation: Citation, place: int) -> str:
    cell = _line(citation.cells[place], _CELL_CHARS)
    name = _line(citation.columns[place], _NAME_CHARS) if place < len(citation.columns) else ""
    return f"{name}: {cell}" if name else cell


def _line(text: str, most_chars: int) -> str:
    return cut(" ".join(text.split()), most_chars)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _listed(parts: Sequence[str]) -> str:
    """a, b and c"""
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last
