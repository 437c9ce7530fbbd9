"""Writes mixed CSV files of any size, the same bytes for the same seed and size, and says what a true load holds.

    python -m bench.generate_csv --megabytes 89 sales-89.csv

A file has 12 columns as company files have them: a number, a code that stands in one row only, a Korean name, Korean
and English sentences, quantities, prices, dates; with quoted commas, quoted line ends, doubled quotes and empty cells
in between. The last row is padded so that the size is exact.

Speed comes from drawing TEMPLATE_COUNT row tails once and writing them in turn after an id and a code that never
repeat: 60 MB/s on one core, half of it for the hash of every row.

The rows' hash does not depend on their order: the sum of the first 60 bits of each row's MD5, its cells joined by
U+001F. PostgreSQL can compute the same over what it stored; see ROWS_HASH_SQL.
"""

import argparse
import csv
import hashlib
import io
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

COLUMNS = (
    "id",
    "code",
    "이름",
    "설명",
    "description",
    "quantity",
    "price",
    "discount",
    "ordered_on",
    "region",
    "note",
    "메모",
)
"""The header. The first two cells are made for each row, the others come from a template."""

ROWS_HASH_SQL = (
    "SELECT count(*), coalesce(sum(('x' || substr(md5(array_to_string(ARRAY[{columns}]::text[], chr(31), '')), 1, 15))"
    "::bit(60)::bigint), 0) FROM {table}"
)
"""Count and hash of a table's rows; `columns` in the order of COLUMNS. NULL counts as the empty text."""

MEGABYTE = 1_000_000
TEMPLATE_COUNT = 4_096
SEPARATOR = "\x1f"

_FAMILY_NAMES = [
    "김",
    "이",
    "박",
    "최",
    "정",
    "강",
    "조",
    "윤",
    "장",
    "임",
    "한",
    "오",
    "서",
    "신",
    "권",
    "황",
    "안",
    "송",
    "류",
    "홍",
]
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
    "서윤",
    "주원",
    "하린",
    "건우",
    "유진",
    "현우",
    "다은",
]
_KOREAN = [
    "고객이",
    "주문한",
    "상품은",
    "서울",
    "물류센터에서",
    "다음",
    "날",
    "오전에",
    "출고되며",
    "반품",
    "기한은",
    "수령",
    "후",
    "이주일",
    "이내이다",
]
_ENGLISH = [
    "the",
    "customer",
    "asked",
    "for",
    "a",
    "replacement",
    "because",
    "delivery",
    "was",
    "late",
    "and",
    "one",
    "part",
    "of",
    "the",
    "order",
    "was",
    "damaged",
]
_REGIONS = [
    "서울",
    "부산",
    "대구",
    "인천",
    "광주",
    "대전",
    "울산",
    "세종",
    "경기",
    "강원",
    "충북",
    "전남",
    "경북",
    "제주",
]


@dataclass(frozen=True, slots=True)
class Generated:
    """What a file holds."""

    seed: int
    size_bytes: int
    sha256: str
    row_count: int
    """Rows without the header."""
    rows_hash: int
    """See the module."""


def generate(path: Path, size_bytes: int, seed: int = 1) -> Generated:
    """Write the file. Raises ValueError where the size does not hold the header and one row."""
    tails = _tails(random.Random(seed))
    longest_bytes = max(len(raw) for raw, _ in tails) + 64
    header = (",".join(COLUMNS) + "\n").encode()
    if size_bytes < len(header) + 2 * longest_bytes:
        raise ValueError(f"The smallest size is {len(header) + 2 * longest_bytes} bytes.")
    content, written, number, rows_hash = hashlib.sha256(header), len(header), 0, 0
    with path.open("wb") as file:
        file.write(header)
        while (left := size_bytes - written) > 2 * longest_bytes:
            block: list[bytes] = []
            # As many rows as surely fit, with room for the padded one at the end.
            for _ in range(min(TEMPLATE_COUNT, (left - longest_bytes) // longest_bytes)):
                number += 1
                raw, cells = tails[number % TEMPLATE_COUNT]
                code = _code(number, seed)
                block.append(b"%d,%b%b" % (number, code, raw))
                rows_hash += _row_hash(b"%d\x1f%b%b" % (number, code, cells))
            piece = b"".join(block)
            file.write(piece)
            content.update(piece)
            written += len(piece)
        raw, cells = _padded_row(number + 1, seed, size_bytes - written)
        file.write(raw)
        content.update(raw)
    return Generated(seed, size_bytes, content.hexdigest(), number + 1, rows_hash + _row_hash(cells))


def cached(folder: Path, size_bytes: int, seed: int = 1) -> tuple[Path, Generated]:
    """The file from the folder, written now if it is not there; what it holds stands beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"mixed-{size_bytes}-{seed}.csv"
    facts = path.with_suffix(".json")
    if facts.exists() and path.exists() and path.stat().st_size == size_bytes:
        return path, Generated(**json.loads(facts.read_text()))
    generated = generate(path, size_bytes, seed)
    facts.write_text(json.dumps(asdict(generated)))
    return path, generated


def _tails(draw: random.Random) -> list[tuple[bytes, bytes]]:
    """Everything of a row behind its code: as CSV, and as cells joined by the separator."""
    tails = []
    for number in range(TEMPLATE_COUNT):
        cells = _cells(draw, number)
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(["", *cells])
        tails.append((line.getvalue().encode(), SEPARATOR.join(["", *cells]).encode()))
    return tails


def _cells(draw: random.Random, number: int) -> list[str]:
    """The ten cells of a template; the ugly ones come at fixed places, so that every file of 64 rows has them all."""
    english = " ".join(draw.choices(_ENGLISH, k=draw.randint(6, 14)))
    note, memo = draw.choice(["", "ok", "call back", "2nd try"]), draw.choice(["", "확인", "재고 없음"])
    match number % 16:
        case 3:
            note = f"{draw.randint(2, 9)} boxes, 1 pallet"
        case 6:
            note = f'the "blue" one, not the "red" one ({number})'
        case 9:
            memo = f"첫째 줄\n둘째 줄, {number}"
        case 12:
            note, memo, english = "", "", ""
        case 15:
            note = "=SUM(A1:A9)"
    return [
        draw.choice(_FAMILY_NAMES) + draw.choice(_GIVEN_NAMES),
        " ".join(draw.choices(_KOREAN, k=draw.randint(3, 9))),
        english,
        str(draw.randint(1, 500)),
        f"{draw.uniform(1, 99_999):.2f}",
        "" if number % 5 == 0 else f"{draw.random():.3f}",
        f"20{draw.randint(15, 25)}-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}",
        draw.choice(_REGIONS),
        note,
        memo,
    ]


def _code(number: int, seed: int) -> bytes:
    """A code that stands in one row only: the multiplication is by an odd number, hence one to one modulo 2**40."""
    return b"K%010X" % ((number * 0x9E3779B97F + seed) % 2**40)


def _padded_row(number: int, seed: int, size_bytes: int) -> tuple[bytes, bytes]:
    """A last row of exactly this many bytes."""
    code = _code(number, seed)
    cells = [b"%d" % number, code, *[b""] * (len(COLUMNS) - 2)]
    cells[4] = b"x" * (size_bytes - len(b",".join(cells)) - 1)
    return b",".join(cells) + b"\n", SEPARATOR.encode().join(cells)


def _row_hash(cells: bytes) -> int:
    return int.from_bytes(hashlib.md5(cells, usedforsecurity=False).digest()[:8], "big") >> 4


def main() -> None:
    """Write one file and print what it holds."""
    parser = argparse.ArgumentParser(description="Write a mixed CSV file of an exact size.")
    parser.add_argument("path", type=Path)
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--megabytes", type=float, help="size in 1,000,000 bytes")
    size.add_argument("--bytes", type=int, dest="size_bytes")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    size_bytes = options.size_bytes or round(options.megabytes * MEGABYTE)
    print(json.dumps(asdict(generate(options.path, size_bytes, options.seed))))


if __name__ == "__main__":
    main()
