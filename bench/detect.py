"""Reads polluted files as dari decides to and as its peers do, and counts what each gets right.

    python -m bench.detect                                   all generated files and 1,000 Korean encodings
    python -m bench.detect --files FOLDER --peers duckdb     one's own files, each beside its truth (bench.pollute)

No reader is told anything: neither encoding nor dialect nor header. A file scores the F1 of its header's cells, of its
records (a record counts by its joined cells, as in Pollock), and of its cells; cells are compared as they are, without
types and NULLs where a reader can turn them off. The peers are DuckDB (`read_csv`, which sniffs), pandas (its
defaults), Python's `csv.Sniffer`, and CleverCSV; one that cannot be imported is left out, one that raises scores 0 for
the file.

The table before is for people; the last line on stdout is one JSON object.
"""

import argparse
import csv
import io
import json
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.pollute import Polluted, files, tables

DETECT = ["cargo", "run", "--release", "--quiet", "--package", "dari_parser", "--example", "detect", "--"]
CODECS = {"ascii": "ascii", "windows-1252": "cp1252", "shift_jis": "cp932"}
"""Python's names where they are others than dari's."""
FILES_A_CALL = 200
LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Loaded:
    """What a reader made of a file. A header of None: it says that the file names no columns."""

    header: list[str] | None
    rows: list[list[str]]


Reader = Callable[[Path], Loaded]


def f1(truth: Iterable[str], found: Iterable[str]) -> float:
    """Harmonic mean of the shares that two bags have in common; 1 where both are empty."""
    expected, got = Counter(truth), Counter(found)
    if not expected and not got:
        return 1.0
    return 2 * (expected & got).total() / (expected.total() + got.total())


def scores(truth: Polluted, loaded: Loaded) -> dict[str, float]:
    """Header, record and cell F1 of one file."""
    header, found = list(truth.header or ()), list(loaded.header or ())
    rows = truth.rows
    cells = [*header, *(cell for row in rows for cell in row)]
    return {
        "header": f1(header, found),
        "record": f1(map("".join, rows), map("".join, loaded.rows)),
        "cell": f1(cells, [*found, *(cell for row in loaded.rows for cell in row)]),
    }


def decisions(paths: list[Path]) -> Iterator[dict[str, Any]]:
    """What dari decides for each file."""
    for first in range(0, len(paths), FILES_A_CALL):
        names = [str(path) for path in paths[first : first + FILES_A_CALL]]
        done = subprocess.run([*DETECT, *names], check=True, capture_output=True, text=True)
        yield from map(json.loads, done.stdout.splitlines())


def read_as_decided(data: bytes, reading: dict[str, Any]) -> Loaded:
    """Reads a file under a decision, as the parser does, in plain Python."""
    text = data.decode(CODECS.get(reading["encoding"], reading["encoding"]), errors="replace").removeprefix("\ufeff")
    for _ in range(reading["preamble_lines"]):
        text = text[_behind_line(text, 0) :]
    records = list(_Text(text, reading).records())
    names, rows = records[: reading["header_rows"]], records[reading["header_rows"] :]
    if not names:
        return Loaded(None, rows)
    width = max(map(len, names))
    header = [" ".join(filter(None, (row[column] for row in names if column < len(row)))) for column in range(width)]
    return Loaded(header, _first_table(rows, names[0]))


def _line_end(text: str, at: int) -> int:
    found = LINE_END.search(text, at)
    return found.start() if found else len(text)


def _behind_line(text: str, at: int) -> int:
    found = LINE_END.search(text, at)
    return found.end() if found else len(text)


@dataclass(frozen=True)
class _Text:
    """Decoded text and the marks that it is read by."""

    text: str
    reading: dict[str, Any]

    def records(self) -> Iterator[list[str]]:
        """Cells of each record; a malformed one ends with its first line."""
        at, comment = 0, self.reading["comment"]
        while at < len(self.text):
            if at == _line_end(self.text, at) or (comment and self.text.startswith(comment, at)):
                at = _behind_line(self.text, at)
                continue
            found = self.cells(at, len(self.text), self.quoted)
            if found is None:
                end = _line_end(self.text, at)
                found = self.cells(at, end, self.quoted_in_line) or ([self.text[at:end]], end)
            cells, at = found
            yield cells
            at = _behind_line(self.text, at)

    def cells(self, at: int, end: int, quoted: "Quoted") -> tuple[list[str], int] | None:
        """The cells from a position on, and where the last one ends; None if a quote is in the wrong place."""
        delimiter, quote, trims = self.reading["delimiter"], self.reading["quote"], self.reading["trims_blanks"]
        cells = []
        while True:
            begin = self.behind_blanks(at)
            cell = quoted(begin, end) if quote and self.text.startswith(quote, begin) else self.plain(at)
            if cell is None:
                return None
            cells.append(cell[0].strip() if trims and cell[2] else cell[0])
            at = self.behind_blanks(cell[1])
            if at >= end or self.text[at] in "\r\n":
                return cells, at
            if self.text[at] != delimiter:
                return None
            at += 1

    def plain(self, at: int) -> tuple[str, int, bool]:
        """The cell without quotes at a position, where it ends, and that blanks around it may go."""
        end = _line_end(self.text, at)
        found = self.text.find(self.reading["delimiter"], at, end)
        end = end if found < 0 else found
        return self.text[at:end], end, True

    def quoted(self, at: int, end: int) -> tuple[str, int, bool] | None:
        """The quoted cell at a position and where it ends, if it ends."""
        quote, escape = self.reading["quote"], self.reading["escape"]
        marks = re.compile(f"[{re.escape(quote + (escape or ''))}]")
        pieces = []
        at += 1
        while found := marks.search(self.text, at, end):
            pieces.append(self.text[at : found.start()])
            at = found.start()
            pair = self.text[at : at + 2]
            if pair == quote * 2 or (pair[0] == escape and pair[1:] in {quote, escape}):
                pieces.append(pair[1])
                at += 2
            elif pair[0] == quote:
                return "".join(pieces), at + 1, False
            else:
                pieces.append(pair[0])
                at += 1
        return None

    def quoted_in_line(self, begin: int, end: int) -> tuple[str, int, bool]:
        """The cell at a quote in a line in which quotes stand anywhere.

        One before a delimiter or the line's end closes the cell; two together are one, as ever.
        """
        delimiter, quote, at = self.reading["delimiter"], self.reading["quote"], begin
        while (at := self.text.find(quote, at + 1, end)) >= 0:
            behind = self.behind_blanks(at + 1)
            if behind >= end or self.text[behind] == delimiter:
                return self.text[begin + 1 : at].replace(quote * 2, quote), at + 1, False
            if self.text[at - 1] == delimiter:
                break
        return self.plain(begin)

    def behind_blanks(self, at: int) -> int:
        """The position of the next byte that is no blank, where blanks are no part of cells."""
        while self.reading["trims_blanks"] and self.text[at : at + 1] in {" ", "\t"}:
            at += 1
        return at


Quoted = Callable[[int, int], tuple[str, int, bool] | None]


def _first_table(rows: list[list[str]], names: list[str]) -> list[list[str]]:
    """The rows above a second table, which begins with the header or a part of it, and above last lines of one cell."""
    for at, row in enumerate(rows):
        same = min(len(row), len(names))
        if same > 1 and row[:same] == names[:same]:
            rows = rows[:at]
            break
    while rows and len(names) > 2 and len(rows[-1]) == 1:
        rows = rows[:-1]
    return rows


def duckdb_reader() -> Reader:
    """DuckDB's sniffer; what it cannot decode or keep raises."""
    import duckdb

    def read(path: Path) -> Loaded:
        with duckdb.connect() as connection:
            found = connection.read_csv(str(path), all_varchar=True, null_padding=True, strict_mode=False)
            invented = all(name == f"column{at}" for at, name in enumerate(found.columns))
            rows = [["" if cell is None else str(cell) for cell in row] for row in found.fetchall()]
            return Loaded(None if invented else list(found.columns), rows)

    return read


def pandas_reader() -> Reader:
    """Pandas with its defaults, but no types and no NULLs."""
    import pandas as pd

    def read(path: Path) -> Loaded:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        return Loaded(list(map(str, frame.columns)), frame.to_numpy().tolist())

    return read


def sniffer_reader() -> Reader:
    """Python's own csv module."""

    def read(path: Path) -> Loaded:
        text = path.read_bytes().decode("utf-8-sig")
        sniffer = csv.Sniffer()
        dialect = sniffer.sniff(text)
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), dialect) if row]
        return Loaded(rows[0], rows[1:]) if sniffer.has_header(text) else Loaded(None, rows)

    return read


def clevercsv_reader() -> Reader:
    """CleverCSV's own detection of encoding, dialect and header."""
    import clevercsv

    def read(path: Path) -> Loaded:
        encoding = clevercsv.encoding.get_encoding(str(path))
        text = path.read_bytes().decode(encoding or "utf-8")
        dialect = clevercsv.Detector().detect(text)
        if dialect is None:
            return Loaded(None, [])
        rows = [row for row in clevercsv.reader(io.StringIO(text, newline=""), dialect) if row]
        return Loaded(rows[0], rows[1:]) if clevercsv.Detector().has_header(text) else Loaded(None, rows)

    return read


PEERS: dict[str, Callable[[], Reader]] = {
    "duckdb": duckdb_reader,
    "pandas": pandas_reader,
    "sniffer": sniffer_reader,
    "clevercsv": clevercsv_reader,
}


def korean_files(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Encoding and bytes of Korean files of 1 KB to 10 MB.

    A fifth of them are ASCII for most of their length; in another fifth only the header and a row in fifty are Korean.
    """
    draw = random.Random(f"korean {seed}")
    encodings = ["utf-8", "cp949", "utf-16le", "utf-16be"]
    korean = [
        table for table in tables(seed, 200) if table.name in {"people", "population", "codes", "offices", "notes"}
    ]
    ascii_rows = [",".join(row) for row in next(table for table in tables(seed, 200) if table.name == "sensors").rows]
    for number in range(count):
        encoding = encodings[number % len(encodings)]
        size = int(1_000 * 10_000 ** draw.random())
        table = draw.choice(korean)
        rows = [",".join(row) for row in draw.sample(table.rows, 50)]
        lines = [row for row in rows if not row.isascii()]
        body = [",".join(table.header), *rows]
        if number % 5 == 3:
            body = [body[0], lines[0], *ascii_rows[:49]]
        elif number % 5 == 4:
            body = ascii_rows
        data = ("\r\n".join(body) + "\r\n").encode(encoding)
        data *= max(1, size // len(data))
        if number % 5 == 4:
            data += ("\r\n".join(lines[: draw.randint(1, 5)]) + "\r\n").encode(encoding)
        if draw.random() < 0.2 and encoding != "cp949":
            data = "\ufeff".encode(encoding) + data
        yield encoding, data


def other_files(seed: int) -> Iterator[tuple[str, bytes]]:
    """Files in other encodings, none of which is CP949."""
    draw = random.Random(f"other {seed}")
    words = {
        "shift_jis": [
            "東京都",
            "大阪府",
            "佐藤さん",
            "売上",
            "カード",
            "名古屋市",
            "ひらがな",
            "株式会社",
            "電話番号",
            "在庫数",
        ],
        "gb18030": [
            "北京市",
            "上海市",
            "姓名",
            "销售额",
            "王小明",
            "有限公司",
            "电话号码",
            "库存数量",
            "广东省",
            "日期",
        ],
        "windows-1252": ["café", "Müller", "Besançon", "São Paulo", "20 °C", "naïve", "£5", "Ñandú", "Århus", "élève"],
    }
    for encoding, vocabulary in words.items():
        for _ in range(100):
            lines = [",".join([*draw.choices(vocabulary, k=3), "12"]) for _ in range(draw.randint(1, 60))]
            yield encoding, ("id,a,b,n\n" + "\n".join(lines) + "\n").encode(CODECS.get(encoding, encoding))


def encodings_right(cases: Iterable[tuple[str, bytes]], folder: Path) -> dict[str, Counter[str]]:
    """What each encoding was named, over all files."""
    named: dict[str, Counter[str]] = defaultdict(Counter)
    batch: list[tuple[str, Path]] = []

    def ask() -> None:
        for (encoding, path), decision in zip(batch, decisions([path for _, path in batch]), strict=True):
            named[encoding][decision["reading"]["encoding"]] += 1
            path.unlink()
        batch.clear()

    for number, (encoding, data) in enumerate(cases):
        path = folder / f"{number}.csv"
        path.write_bytes(data)
        batch.append((encoding, path))
        if len(batch) == 50:
            ask()
    ask()
    return named


def read_folder(folder: Path) -> Iterator[tuple[Path, Polluted]]:
    """Files that lie beside their truth."""
    for path in sorted(folder.glob("*.csv")):
        truth = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        header = None if truth["header"] is None else tuple(truth["header"])
        rows = tuple(map(tuple, truth["rows"]))
        yield path, Polluted(path.stem, path.stem, path.read_bytes(), truth["encoding"], header, rows)


def write_folder(folder: Path, seed: int) -> Iterator[tuple[Path, Polluted]]:
    """The generated files."""
    for table in tables(seed):
        for file in files(table, seed):
            path = folder / f"{file.name}.csv"
            path.write_bytes(file.data)
            yield path, file


def kind(pollution: str) -> str:
    """The pollution without its row and column."""
    return pollution.rstrip("0123456789_") if pollution.startswith("row_") else pollution


def measure(cases: list[tuple[Path, Polluted]], readers: dict[str, Reader]) -> dict[str, dict[str, dict[str, float]]]:
    """Reader, pollution, measure: the mean over the files. The pollution `all` is every file."""
    sums: dict[str, dict[str, Counter[str]]] = {}
    for name, read in readers.items():
        by_pollution = sums[name] = defaultdict(Counter)
        begin = time.monotonic()
        for path, truth in cases:
            try:
                found = scores(truth, read(path))
            except Exception:
                found = dict.fromkeys(("header", "record", "cell"), 0.0)
            for pollution in (kind(truth.pollution), "all"):
                by_pollution[pollution].update(found)
                by_pollution[pollution]["files"] += 1
        print(f"{name}: {len(cases)} files in {time.monotonic() - begin:.1f} s", file=sys.stderr)
    return {
        name: {
            pollution: {key: total / counter["files"] for key, total in counter.items() if key != "files"}
            for pollution, counter in by_pollution.items()
        }
        for name, by_pollution in sums.items()
    }


def dari_reader(cases: list[tuple[Path, Polluted]]) -> Reader:
    """Dari's decisions over all files, taken at once."""
    found = {decision["path"]: decision["reading"] for decision in decisions([path for path, _ in cases])}
    return lambda path: read_as_decided(path.read_bytes(), found[str(path)])


def report(means: dict[str, dict[str, dict[str, float]]]) -> None:
    """The table for people: one line a pollution, header/record/cell F1 in percent a reader."""
    print(f"{'':28}" + "".join(f"{name:>22}" for name in means))
    for pollution in sorted(next(iter(means.values())), key=lambda name: (name == "all", name)):
        row = [means[name][pollution] for name in means]
        values = "".join(
            f"{100 * mean['header']:8.2f}{100 * mean['record']:7.2f}{100 * mean['cell']:7.2f}" for mean in row
        )
        print(f"{pollution:28}{values}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, help="a folder with files and their truth instead of generated ones")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--korean", type=int, default=1_000, help="Korean files whose encoding is asked for")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = list(read_folder(arguments.files) if arguments.files else write_folder(folder, arguments.seed))
        readers = {"dari": dari_reader(cases)}
        for peer in arguments.peers:
            try:
                readers[peer] = PEERS[peer]()
            except ImportError:
                print(f"{peer} is not installed", file=sys.stderr)
        means = measure(cases, readers)
        report(means)
        named = encodings_right(korean_files(arguments.korean, arguments.seed), folder)
        others = encodings_right(other_files(arguments.seed), folder)
    right = sum(counts[encoding] for encoding, counts in named.items())
    as_korean = sum(counts["cp949"] for counts in others.values())
    print(f"Korean encodings named right: {right} of {arguments.korean}; others taken for CP949: {as_korean}")
    print(json.dumps({
        "machine": platform.platform(),
        "files": len(cases),
        "seed": arguments.seed,
        "f1": {name: by_pollution["all"] for name, by_pollution in means.items()},
        "korean_encodings": {"files": arguments.korean, "right": right, "named": named},
        "other_encodings": others,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
