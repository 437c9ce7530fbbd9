"""Makes CSV files with one pollution each, and says what a true load of each holds.

    python -m bench.pollute FOLDER

The tables are drawn from a seed, so the same seed gives the same bytes: Korean and English, of numbers, of words, of
prose, of one column, with decimal commas. The pollutions are those of the Pollock benchmark (Vitagliano et al.,
"Pollock: A Data Loading Benchmark", VLDB 2023: marks, headers, preambles, second tables, and rows with a delimiter or
quote too many or too few) and those of Korean public data: CP949, UTF-16, full-width digits, a line that tells the
unit, a row of units, a row of sums.

A pollution changes how a table is written and not what it holds, so the truth is the table: its header and its rows. A
row of sums is a row; what stands around the table (preamble, footer, second table, comments) is no part of it. Beside
FOLDER/name.csv stands FOLDER/name.json with the truth.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

ROWS = 40
"""Rows a table has. Pollock's has 83; the shares of rows that a pollution touches are about twice as large here."""

_FAMILY_NAMES = "김이박최정강조윤장임한오서신권황안송류홍전고문손배백허남심노"
_GIVEN_NAMES = [
    "민준",
    "서연",
    "도윤",
    "지우",
    "하은",
    "시우",
    "지호",
    "수아",
    "예준",
    "다은",
    "현우",
    "은서",
    "준혁",
    "나래",
    "슬기",
]
_PROVINCES = [
    "서울특별시",
    "부산광역시",
    "대구광역시",
    "경기도",
    "강원특별자치도",
    "전라남도",
    "경상북도",
    "제주특별자치도",
]
_DISTRICTS = ["강남구", "해운대구", "수성구", "수원시", "춘천시", "순천시", "포항시", "서귀포시", "종로구", "중구"]
_OFFICES = ["총무과", "복지정책과", "도로관리팀", "정보통신담당관", "세무과", "민원실", "보건소", "시설관리공단"]
_KOREAN_SENTENCES = [
    "주말과 공휴일에는 쉽니다.",
    "담당자에게 문의하시기 바랍니다, 접수는 온라인으로만 받습니다.",
    "2층 회의실 예약은 하루 전까지 가능하고, 취소는 당일에도 됩니다.",
    "자료가 변경될 수 있으므로 이용에 유의하여 주시기 바랍니다.",
    "시설 점검 중",
    "주차장이 좁으니 대중교통을 이용해 주세요.",
    "「공공데이터법」 제17조에 따라 제공합니다.",
    "(주)다리가 위탁 운영하며, 요금은 무료입니다.",
]
_ENGLISH_SENTENCES = [
    "Light and warm, made for long days outside.",
    "These boots are rugged enough for peak performance yet light and quick.",
    "Great grip, extra breathability, and a fit that won't let you down.",
    "Our most popular jacket: packed with down, quilted, and dry in minutes.",
    "It keeps you dry",
    "A classic, in a new colour.",
    'The 8" sole bends where your foot does, no more and no less.',
    "Made by hand; care for it by hand.",
]
_PRODUCTS = [
    "Men's Hiking Boots",
    "Running Jacket",
    "Throw Pillow, Wooden",
    "Kids' Hat",
    "Socks",
    'Dining Table, Round 48"',
    "Women's Fly Rod 8 Wt.",
    'Mountain Bike, 24"',
    "Lamp",
    "Men's Boots, 10\" Lined",
]
_CITIES = ["Seoul", "Busan", "New York", "Lyon", "Porto", "Oslo", "San José", "Kraków", "Ghent", "Bath"]
_JOBS = ["teacher", "nurse", "fire fighter", "joiner", "clerk", "pilot", "cook", "data analyst"]


@dataclass(frozen=True)
class Table:
    """What a file holds. Every row is as wide as the header."""

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Style:
    """How a table is written."""

    delimiter: str = ","
    quote: str = '"'
    escape: str = '"'
    line_end: str = "\r\n"
    quotes_all: bool = False

    def cell(self, text: str) -> str:
        """One cell, quoted where it must be."""
        marks = {self.delimiter[0], self.quote, "\r", "\n"}
        if not (self.quotes_all or marks & set(text) or text != text.strip()):
            return text
        return self.quote + text.replace(self.quote, self.escape + self.quote) + self.quote

    def line(self, cells: tuple[str, ...] | list[str]) -> str:
        """One record without its line end."""
        return self.delimiter.join(map(self.cell, cells))


@dataclass(frozen=True)
class Polluted:
    """One file and its truth."""

    name: str
    pollution: str
    data: bytes
    encoding: str
    header: tuple[str, ...] | None
    """None: the file names no columns."""
    rows: tuple[tuple[str, ...], ...] = field(repr=False)


def tables(seed: int = 0, rows: int = ROWS) -> list[Table]:
    """One table of each kind, drawn from the seed."""
    makers: list[Callable[[random.Random, int], Table]] = [
        _products,
        _people,
        _population,
        _sensors,
        _years,
        _words,
        _offices,
        _measures,
        _codes,
        _notes,
    ]
    return [make(random.Random(f"{seed} {make.__name__}"), rows) for make in makers]


def files(table: Table, seed: int = 0, *, row_pollutions: int = 12) -> Iterator[Polluted]:
    """The files of one table: every pollution once, those of a single row for `row_pollutions` rows and cells."""
    yield from _marks(table)
    yield from _frames(table, random.Random(f"{seed} frames {table.name}"))
    yield from _encodings(table)
    if len(table.header) > 1:
        yield from _rows(table, random.Random(f"{seed} rows {table.name}"), row_pollutions)


def _date(draw: random.Random, form: str = "{0:04}-{1:02}-{2:02}") -> str:
    return form.format(draw.randint(1950, 2024), draw.randint(1, 12), draw.randint(1, 28))


def _name(draw: random.Random) -> str:
    return draw.choice(_FAMILY_NAMES) + draw.choice(_GIVEN_NAMES)


def _products(draw: random.Random, rows: int) -> Table:
    header = ("DATE", "TIME", "Qty", "PRODUCTID", "Price", "ProductType", "ProductDescription", "URL", "Comments")
    made = []
    for _ in range(rows):
        code = f"{draw.choice(['MG', 'RI', 'CC', 'YY'])}-{draw.randint(1000, 9999)}"
        made.append((
            _date(draw, "{2:02}/{1:02}/{0:04}"),
            f"{draw.randint(0, 23):02}:{draw.choice(['00', '15', '30', '45'])}",
            str(draw.randint(0, 30)),
            code,
            f"${draw.randint(1, 9999) / 100:.2f}",
            draw.choice(_PRODUCTS),
            " ".join(draw.sample(_ENGLISH_SENTENCES, draw.randint(1, 3))),
            f"https://www.example.com/product/{code}.html",
            "",
        ))  # fmt: skip
    return Table("products", header, tuple(made))


def _people(draw: random.Random, rows: int) -> Table:
    header = ("연번", "성명", "생년월일", "전화번호", "주소", "비고")
    made = [
        (
            str(number),
            _name(draw),
            _date(draw),
            f"010-{draw.randint(1000, 9999)}-{draw.randint(1000, 9999)}",
            f"{draw.choice(_PROVINCES)} {draw.choice(_DISTRICTS)}, {draw.randint(1, 300)}번길 {draw.randint(1, 99)}",
            draw.choice(["", "", *_KOREAN_SENTENCES]),
        )
        for number in range(1, rows + 1)
    ]
    return Table("people", header, tuple(made))


def _population(draw: random.Random, rows: int) -> Table:
    header = ("행정구역", "세대수", "인구수", "남자", "여자", "비율")
    made = [
        (
            f"{draw.choice(_PROVINCES)} {draw.choice(_DISTRICTS)} {number}동",
            *(f"{draw.randint(1, 9_999_999):,}" for _ in range(4)),
            f"{draw.uniform(0, 100):.1f}%",
        )
        for number in range(rows)
    ]
    return Table("population", header, tuple(made))


def _sensors(draw: random.Random, rows: int) -> Table:
    header = ("timestamp", "temperature", "humidity", "is_open", "pm2.5")
    made = [
        (
            f"{_date(draw)} {draw.randint(0, 23):02}:{draw.randint(0, 59):02}:{draw.randint(0, 59):02}",
            f"{draw.uniform(-20, 40):.2f}",
            str(draw.randint(0, 100)),
            draw.choice(["true", "false"]),
            draw.choice([f"{draw.uniform(0, 99):.1f}", ""]),
        )
        for _ in range(rows)
    ]
    return Table("sensors", header, tuple(made))


def _years(draw: random.Random, rows: int) -> Table:
    header = ("지역", *map(str, range(2015, 2024)))
    made = [
        (f"{draw.choice(_DISTRICTS)} {row}", *(str(draw.randint(1, 99_999)) for _ in header[1:])) for row in range(rows)
    ]
    return Table("years", header, tuple(made))


def _words(draw: random.Random, rows: int) -> Table:
    header = ("first name", "city", "job", "remark")
    names = ["Ann", "Bo", "Carl", "Dora", "Eve", "Finn", "Gus", "Hana"]
    made = [
        (draw.choice(names), draw.choice(_CITIES), draw.choice(_JOBS), draw.choice(_ENGLISH_SENTENCES))
        for _ in range(rows)
    ]
    return Table("words", header, tuple(made))


def _offices(draw: random.Random, rows: int) -> Table:
    header = ("시도", "시군구", "부서명", "담당자")
    made = [(draw.choice(_PROVINCES), draw.choice(_DISTRICTS), draw.choice(_OFFICES), _name(draw)) for _ in range(rows)]
    return Table("offices", header, tuple(made))


def _measures(draw: random.Random, rows: int) -> Table:
    header = ("Artikel", "Länge", "Breite", "Gewicht")
    made = [
        (f"Teil {row}", *(f"{draw.randint(0, 999)},{draw.randint(0, 99):02}" for _ in header[1:]))
        for row in range(rows)
    ]
    return Table("measures", header, tuple(made))


def _codes(draw: random.Random, rows: int) -> Table:
    made = [(f"{draw.randint(10_000, 99_999)}", draw.choice(_PROVINCES)) for _ in range(rows)]
    return Table("codes", ("우편번호", "시도명"), tuple(made))


def _notes(draw: random.Random, rows: int) -> Table:
    made = [(draw.choice(_ENGLISH_SENTENCES[:6] + _KOREAN_SENTENCES),) for _ in range(rows)]
    return Table("notes", ("note",), tuple(made))


def _text(table: Table, style: Style, *, header: bool = True) -> str:
    records = [table.header, *table.rows] if header else table.rows
    return "".join(style.line(record) + style.line_end for record in records)


def _file(table: Table, pollution: str, text: str, encoding: str = "utf-8") -> Polluted:
    return Polluted(f"{table.name}-{pollution}", pollution, text.encode(encoding), encoding, table.header, table.rows)


def _marks(table: Table) -> Iterator[Polluted]:
    """The same marks in the whole file."""
    plain = Style()
    yield _file(table, "none", _text(table, plain))
    yield _file(table, "no_trailing_newline", _text(table, plain).removesuffix("\r\n"))
    yield _file(table, "double_trailing_newline", _text(table, plain) + "\r\n")
    yield _file(table, "record_delimiter_lf", _text(table, replace(plain, line_end="\n")))
    yield _file(table, "record_delimiter_cr", _text(table, replace(plain, line_end="\r")))
    yield _file(table, "quotes_all", _text(table, replace(plain, quotes_all=True)))
    if len(table.header) == 1:
        # No cell is quoted: what it is written with is a text file.
        yield _file(table, "one_column_of_text", "".join(line + "\n" for (line,) in [table.header, *table.rows]))
        return
    for name, delimiter in [("semicolon", ";"), ("tab", "\t"), ("bar", "|"), ("comma_blank", ", "), ("caret", "^")]:
        yield _file(table, f"field_delimiter_{name}", _text(table, replace(plain, delimiter=delimiter)))
    if table.name != "notes":
        yield _file(table, "field_delimiter_blank", _text(table, replace(plain, delimiter=" ")))
    yield _file(table, "quote_apostrophe", _text(table, replace(plain, quote="'", escape="'", quotes_all=True)))
    yield _file(table, "quote_apostrophe_bare", _text(table, replace(plain, quote="'", escape="")))
    yield _file(table, "escape_backslash", _text(table, replace(plain, escape="\\")))
    yield _file(table, "escape_missing", _text(table, replace(plain, escape="")))


def _frames(table: Table, draw: random.Random) -> Iterator[Polluted]:
    """What stands around the rows."""
    style = Style()
    text = _text(table, style)
    width = len(table.header)
    blank = ("",) * (width - 1)
    no_header = _file(table, "no_header", _text(table, style, header=False))
    yield replace(no_header, header=None)
    yield replace(_file(table, "header_only", style.line(table.header) + "\r\n"), rows=())
    first = replace(table, rows=table.rows[:1])
    yield _file(first, "one_data_row", _text(first, style))
    yield replace(_file(table, "no_payload", ""), header=None, rows=())
    for times in (2, 3):
        joined = tuple(" ".join([name] * times) for name in table.header)
        yield replace(
            _file(table, f"header_rows_{times}", (style.line(table.header) + "\r\n") * (times - 1) + text),
            header=joined,
        )
    if width == 1:
        return
    lines: dict[str, list[tuple[str, ...]]] = {
        "preamble_delimited": [("PREAMBLE", *blank), ("", *blank)],
        "preamble_unit": [("(단위: 명)",)],
        "preamble_unit_last": [(*blank, "(단위: 명)")],
    }
    for name, preamble in lines.items():
        yield _file(table, name, "".join(style.line(cells) + "\r\n" for cells in preamble) + text)
    title = "2023년 자료 현황\r\n작성: 다리, 담당 김민수\r\n\r\n"
    yield _file(table, "preamble_text", title + text)
    yield _file(table, "comments", "# made by hand\r\n# 2023, by us\r\n" + text + "# end\r\n")
    yield _file(table, "footer_source", text + "\r\n※ 출처: 다리\r\n")
    sums = ("합계", *["1,234"] * (width - 1))
    summed = replace(table, rows=(*table.rows, sums))
    yield _file(summed, "row_of_sums", _text(summed, style))
    for name, columns in [("less", width - 1), ("same", width), ("more", width + 1)]:
        second = [(*record, f"col{columns}")[:columns] for record in (table.header, *table.rows[:-1])]
        yield _file(table, f"multitable_{name}", text + "".join(style.line(record) + "\r\n" for record in second))
    units = tuple(draw.choice(["(명)", "(원)", "(%)"]) for _ in table.header)
    if table.name in {"population", "years", "sensors", "measures"}:
        units = ("", *units[1:])
        head = style.line(table.header) + "\r\n"
        named = tuple(f"{name} {unit}".strip() for name, unit in zip(table.header, units, strict=True))
        yield replace(
            _file(table, "header_units", head + style.line(units) + "\r\n" + text.removeprefix(head)), header=named
        )


def _encodings(table: Table) -> Iterator[Polluted]:
    text = _text(table, Style())
    for name, encoding in [
        ("bom", "utf-8-sig"),
        ("cp949", "cp949"),
        ("utf16le", "utf-16-le"),
        ("utf16be", "utf-16-be"),
    ]:
        try:
            yield _file(table, f"encoding_{name}", text, encoding)
        except UnicodeEncodeError:
            continue
    yield _file(table, "encoding_utf16_bom", text, "utf-16")
    if table.name in {"people", "population", "codes"}:
        wide = str.maketrans("0123456789", "０１２３４５６７８９")  # noqa: RUF001 - full-width digits
        rows = tuple(tuple(cell.translate(wide) for cell in row) for row in table.rows)
        yield _file(replace(table, rows=rows), "full_width", _text(replace(table, rows=rows), Style()))


def _rows(table: Table, draw: random.Random, count: int) -> Iterator[Polluted]:
    """One row with a delimiter or a quote too many or too few."""
    style = Style()
    records = [table.header, *table.rows]
    cells = [(row, column) for row in range(len(records)) for column in range(len(table.header))]
    lines = [style.line(record) for record in records]
    for row, column in draw.sample(cells, min(count, len(cells))):
        written = [style.cell(cell) for cell in records[row]]
        more = ",".join([*written[:column], "", *written[column:]])
        yield _file(table, f"row_more_sep_{row}_{column}", _with(lines, row, more))
        if column > 0:
            less = ",".join([*written[: column - 1], written[column - 1] + written[column], *written[column + 1 :]])
            yield _file(table, f"row_less_sep_{row}_{column}", _with(lines, row, less))
        cell = written[column]
        quoted = ['"' + cell if not cell.startswith('"') else '""' + cell[1:]]
        extra = ",".join([*written[:column], *quoted, *written[column + 1 :]])
        text_with_quote = '"' + records[row][column]
        polluted = _file(table, f"row_extra_quote_{row}_{column}", _with(lines, row, extra))
        yield _with_cell(polluted, row, column, text_with_quote)
    for row in draw.sample(range(len(records)), max(1, count // 9)):
        blanks = " ".join(style.cell(cell) for cell in records[row])
        yield _file(table, f"row_field_delimiter_{row}", _with(lines, row, blanks))


def _with(lines: list[str], row: int, line: str) -> str:
    return "".join(text + "\r\n" for text in [*lines[:row], line, *lines[row + 1 :]])


def _with_cell(file: Polluted, row: int, column: int, text: str) -> Polluted:
    """The same file with another text in one cell of its truth; row 0 is the header."""
    records = [list(record) for record in (file.header or (), *file.rows)]
    records[row][column] = text
    return replace(file, header=tuple(records[0]), rows=tuple(map(tuple, records[1:])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for table in tables(arguments.seed):
        for file in files(table, arguments.seed):
            (arguments.folder / f"{file.name}.csv").write_bytes(file.data)
            truth = {"encoding": file.encoding, "header": file.header, "rows": file.rows}
            (arguments.folder / f"{file.name}.json").write_text(json.dumps(truth, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
