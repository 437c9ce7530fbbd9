"""What is in the columns, through the binding: profiles of batches against what Python finds in the same cells."""

from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dari import _native
from tests.native.readings import RFC_4180

NULL_LIKE = ["NULL", "Null", "null", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "None", "none", "NONE", "NIL", "nil"]
NULL_LIKE += ["-", "\\N", "없음", "해당없음", "해당 없음"]


def _evidence(rows: list[list[str]], batch_bytes: int) -> list[bytes]:
    """Evidence of each batch of a file with these rows, every cell quoted."""
    header = ",".join(f"c{number}" for number in range(len(rows[0])))
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    parser = _native.Parser(**RFC_4180, batch_bytes=batch_bytes)
    batches = parser.feed("\n".join([header, *lines, ""]).encode())
    return [batch.evidence for batch in [*batches, *parser.finish()] if batch.rows_stored]


def _profile(rows: list[list[str]], batch_bytes: int = 4_194_304) -> list[_native.ColumnProfile]:
    return _native.profile(_native.merge_evidence(_evidence(rows, batch_bytes)))


def _exact(column: _native.ColumnProfile) -> list[object]:
    """All that must not depend on how rows were grouped."""
    return [
        getattr(column, name)
        for name in vars(_native.ColumnProfile)
        if not name.startswith("_") and name not in {"top_values", "distinct_is_exact", "mean"}
    ]


@pytest.mark.parametrize(
    ("cells", "column_type", "column_format", "low", "high", "total"),
    [
        pytest.param(["3", "-12", "7"], "integer", "", "-12", "7", "-2", id="integers are ordered by number"),
        pytest.param(["0.1", "0.2", "10"], "decimal", "", "0.1", "10.0", "10.3", id="decimals are added exactly"),
        pytest.param(["1e3", "2"], "float", "", "2", "1000", "1002", id="exponents make floats"),
        pytest.param(["1,234", "-56,789"], "integer", "", "-56789", "1234", "-55555", id="commas may group"),
        pytest.param(["007", "8"], "text", "", "007", "8", "", id="a leading zero is kept as text"),
        pytest.param(["예", "아니오"], "boolean", "", "아니오", "예", "", id="Korean yes and no"),
        pytest.param(
            ["2024년 3월 1일"], "date", "YYYY년 M월 D일", "2024년 3월 1일", "2024년 3월 1일", "", id="Korean days"
        ),
        pytest.param(["오후 3:05"], "time", "오전 h:MM", "오후 3:05", "오후 3:05", "", id="Korean times"),
        pytest.param([""], "empty", "", "", "", "", id="nothing to tell by"),
        pytest.param([*NULL_LIKE, "5"], "integer", "", "5", "5", "5", id="null-like cells are no values"),
    ],
)
def test_a_column_is_told_by_all_of_its_values(
    cells: list[str], column_type: str, column_format: str, low: str, high: str, total: str
) -> None:
    """Type, format, bounds and sum."""
    (column,) = _profile([[cell] for cell in cells])
    assert (column.type, column.format) == (column_type, column_format)
    assert (column.min, column.max, column.sum) == (low, high, total)


def test_one_value_late_in_a_file_of_many_batches_decides_the_type() -> None:
    """Nothing is concluded from a sample."""
    rows = [[str(number)] for number in range(20_000)]
    assert _profile(rows, 4_096)[0].type == "integer"
    rows[19_000] = ["n 19000"]
    (column,) = _profile(rows, 4_096)
    assert (column.type, column.min, column.max, column.sum) == ("text", "0", "n 19000", "")


def test_evidence_stays_small() -> None:
    """About 1.5 KiB a column of many values, far less of few."""
    rows = [[str(number), "same", f"{number % 50}"] for number in range(50_000)]
    many, few = _native.merge_evidence(_evidence(rows, 1 << 20)), _evidence([row[1:] for row in rows[:100]], 1 << 20)
    assert len(many) < 3 * 2_900
    assert len(few[0]) < 800


def test_other_bytes_are_refused() -> None:
    """Also those of another version."""
    (evidence,) = _evidence([["a"]], 100)
    for wrong in (b"\x00", b"\xff" + evidence[1:], evidence[:-1], evidence + b"x"):
        with pytest.raises(ValueError, match="evidence cannot be read"):
            _native.profile(wrong)
        with pytest.raises(ValueError, match="evidence cannot be read"):
            _native.merge_evidence([evidence, wrong])
    assert _native.profile(_native.merge_evidence([])) == []


_CELLS = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.decimals(-1000, 1000, places=2).map(str),
    st.sampled_from(["", "서울", "부산", "a", "true", "2024-03-01", "1,234", "1e5", "x" * 300, *NULL_LIKE]),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30),
)
_TABLES = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.lists(_CELLS, min_size=width, max_size=width), min_size=1, max_size=60)
)


@settings(max_examples=150)
@given(rows=_TABLES, batch_bytes=st.integers(1, 2_000), cut=st.integers(0, 60))
def test_any_grouping_of_the_batches_gives_the_same(rows: list[list[str]], batch_bytes: int, cut: int) -> None:
    """Exact fields are exact, and counts of frequent values lie within their bounds."""
    parts = _evidence(rows, batch_bytes)
    grouped = _native.merge_evidence([_native.merge_evidence(parts[:cut]), _native.merge_evidence(parts[cut:])])
    whole = _native.profile(_evidence(rows, 1 << 20)[0])
    for number, (column, one) in enumerate(zip(_native.profile(grouped), whole, strict=True)):
        assert _exact(column) == _exact(one)
        cells = [row[number] for row in rows]
        values = [cell for cell in cells if cell and cell not in NULL_LIKE]
        assert column.cell_count == len(cells)
        assert column.empty_count == cells.count("")
        assert column.cell_count - column.empty_count - column.null_like_count == len(values)
        assert column.total_bytes == sum(len(cell.encode()) for cell in cells)
        assert (column.shortest_chars, column.longest_chars) == (
            min(map(len, values), default=0),
            max(map(len, values), default=0),
        )
        counts = Counter(value[:256] for value in values)  # longer ones are ASCII here
        for value, count, error in column.top_values:
            assert count - error <= counts[value] <= count
        if column.type in {"integer", "decimal"}:
            numbers = [Decimal(value.replace(",", "")) for value in values]
            assert (Decimal(column.min), Decimal(column.max)) == (min(numbers), max(numbers))
            assert column.sum_is_exact
            assert Decimal(column.sum) == sum(numbers)
        if column.type == "text" and all(len(value) < 60 for value in values):
            assert column.min.encode() == min(value.encode() for value in values)
            assert column.max.encode() == max(value.encode() for value in values)
