"""Reads polluted files as dari decides to and as its peers do, and counts what each gets right.

    python -m bench.detect                                   all generated files and 1,000 Korean encodings
    python -m bench.detect --files FOLDER --peers duckdb     files of one's own, each beside its truth (see bench.pollute)

No reader is told anything: neither encoding nor dialect nor header. A file scores the F1 of its header's cells, of its
records (a record counts by its joined cells, as in Pollock), and of its cells; no reader's cells are normalised beyond what
its own options turn off (types, NULLs). The peers are DuckDB (`read_csv`, which sniffs), pandas (its defaults), Python's
`csv.Sniffer`, and CleverCSV; one that cannot be imported is left out, one that raises scores 0 for the file.

The table before is for people; the last line on stdout is one JSON object.
"""

import argparse
import csv
import io
import json
import platform
import random
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
    return {
        "header": f1(header, found),
        "record": f1(map("".join, rows), map("".join, loaded.rows)),
        "cell": f1([*header, *(cell for row in rows for cell in row)], [*found, *(cell for row in loaded.rows for cell in row)]),
    }  # fmt: skip


def decisions(paths: list[Path]) -> Iterator[dict[str, Any]]:
    """What dari decides for each file."""
    for first in range(0, len(paths), FILES_A_CALL):
        names = [str(path) for path in paths[first : first + FILES_A_CALL]]
        done = subprocess.run([*DETECT, *names], check=True, capture_output=True, text=True)
        yield from map(json.loads, done.stdout.splitlines())


def read_as_decided(data: bytes, reading: dict[str, Any]) -> Loaded:
    """Reads a file under a decision, as the parser does, in plain Python."""
    text = data.decode(CODECS.get(reading["encoding"], reading["encoding"]), errors="replace").removeprefix("\ufeff")
    lines = _lines(text)[reading["preamble_lines"] :]
    records = list(_records(lines, reading))
    names, rows = records[: reading["header_rows"]], records[reading["header_rows"] :]
    if not names:
        return Loaded(None, _first_table(rows, None))
    width = max(map(len, names))
    header = [" ".join(cell for row in names if (cell := "".join(row[column : column + 1]))) for column in range(width)]
    return Loaded(header, _first_table(rows, names[0]))


def _lines(text: str) -> list[str]:
    return io.StringIO(text, newline="").readlines()


def _records(lines: list[str], reading: dict[str, Any]) -> Iterator[list[str]]:
    """Records, malformed ones by their first line alone."""
    at = 0
    while at < len(lines):
        line = lines[at].rstrip("\r\n")
        if not line or (reading["comment"] and line.startswith(reading["comment"])):
            at += 1
            continue
        end, cells = _well_formed(lines, at, reading)
        if cells is None:
            end, cells = at + 1, _line_alone(line, reading)
        yield cells
        at = end


def _well_formed(lines: list[str], first: int, reading: dict[str, Any]) -> tuple[int, list[str] | None]:
    """Cells of the record that begins with a line, and the line behind it; None if a quote is in the wrong place."""
    delimiter, quote, escape, trims = (reading[key] for key in ("delimiter", "quote", "escape", "trims_blanks"))
    line, at, cells = lines[first], 0, []
    while True:
        begin = _behind_blanks(line, at, trims)
        if quote and line.startswith(quote, begin):
            text, at = [], begin + 1
            while True:
                if at >= len(line):
                    first += 1
                    if first >= len(lines):
                        return 0, None
                    line, at = lines[first], 0
                elif escape and line[at] == escape and line[at + 1 : at + 2] in {quote, escape}:
                    text.append(line[at + 1])
                    at += 2
                elif line[at] != quote:
                    text.append(line[at])
                    at += 1
                elif line[at + 1 : at + 2] == quote:
                    text.append(quote)
                    at += 2
                else:
                    break
            at = _behind_blanks(line, at + 1, trims)
            if line[at : at + 1].strip("\r\n") not in {"", delimiter}:
                return 0, None
            cells.append("".join(text))
        else:
            end = line.find(delimiter, at)
            end = len(line.rstrip("\r\n")) if end < 0 else end
            cells.append(line[at:end].strip() if trims else line[at:end])
            at = end
        if line[at : at + 1] != delimiter:
            return first + 1, cells
        at += 1


def _line_alone(line: str, reading: dict[str, Any]) -> list[str]:
    """Cells of a line in which quotes stand anywhere: one closes a cell only before a delimiter or the line's end."""
    delimiter, quote, trims = reading["delimiter"], reading["quote"], reading["trims_blanks"]
    cells, at = [], 0
    while True:
        begin = _behind_blanks(line, at, trims)
        close = _closing(line, begin, delimiter, quote, trims) if quote and line.startswith(quote, begin) else None
        if close is not None:
            cells.append(line[begin + 1 : close])
            at = _behind_blanks(line, close + 1, trims)
        else:
            end = line.find(delimiter, at)
            end = len(line) if end < 0 else end
            cells.append(line[at:end].strip() if trims else line[at:end])
            at = end
        if at >= len(line):
            return cells
        at += 1


def _closing(line: str, begin: int, delimiter: str, quote: str, trims: bool) -> int | None:
    at = begin
    while (at := line.find(quote, at + 1)) >= 0:
        behind = _behind_blanks(line, at + 1, trims)
        if behind >= len(line) or line[behind] == delimiter:
            return at
        if line[at - 1] == delimiter:
            return None
    return None


def _behind_blanks(line: str, at: int, trims: bool) -> int:
    while trims and line[at : at + 1] in {" ", "\t"}:
        at += 1
    return at


def _first_table(rows: list[list[str]], names: list[str] | None) -> list[list[str]]:
    """The rows up to a second table, which begins with the header or a part of it, and without a last line of one cell."""
    if names:
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
    """pandas with its defaults, but no types and no NULLs."""
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
        text = path.read_text(encoding=encoding, newline="")
        dialect = clevercsv.Detector().detect(text)
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
    """Encoding and bytes of Korean files of 1 KB to 10 MB; a fifth of them are ASCII for most of their length."""
    draw = random.Random(f"korean {seed}")
    encodings = ["utf-8", "cp949", "utf-16le", "utf-16be"]
    korean = [table for table in tables(seed, 200) if table.name in {"people", "population", "codes", "offices", "notes"}]
    ascii_rows = [",".join(row) for row in next(table for table in tables(seed, 200) if table.name == "sensors").rows]
    for number in range(count):
        encoding = encodings[number % len(encodings)]
        size = int(1_000 * 10_000 ** draw.random())
        table = draw.choice(korean)
        lines = [",".join(row) for row in draw.sample(table.rows, 50)]
        begins_ascii = number % 5 == 4
        body = "\r\n".join([",".join(table.header), *lines]) if not begins_ascii else "\r\n".join(ascii_rows)
        data = (body + "\r\n").encode(encoding)
        data *= max(1, size // len(data))
        if begins_ascii:
            # The Korean rows come last, as few as one.
            data += ("\r\n".join(lines[: draw.randint(1, 5)]) + "\r\n").encode(encoding)
        if draw.random() < 0.2 and encoding != "cp949":
            data = "\ufeff".encode(encoding) + data
        yield encoding, data


def other_files(seed: int) -> Iterator[tuple[str, bytes]]:
    """Files in other encodings, none of which is CP949."""
    draw = random.Random(f"other {seed}")
    words = {
        "shift_jis": ["東京都", "大阪府", "佐藤さん", "売上", "カード", "名古屋市", "ひらがな", "株式会社", "電話番号", "在庫数"],
        "gb18030": ["北京市", "上海市", "姓名", "销售额", "王小明", "有限公司", "电话号码", "库存数量", "广东省", "日期"],
        "windows-1252": ["café", "Müller", "Besançon", "São Paulo", "20 °C", "naïve", "£5", "Ñandú", "Århus", "élève"],
    }
    for encoding, vocabulary in words.items():
        for _ in range(100):
            lines = [",".join(draw.choices(vocabulary, k=3) + ["12"]) for _ in range(draw.randint(1, 60))]
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
    """dari's decisions over all files, taken at once."""
    found = {decision["path"]: decision["reading"] for decision in decisions([path for path, _ in cases])}
    return lambda path: read_as_decided(path.read_bytes(), found[str(path)])


def report(means: dict[str, dict[str, dict[str, float]]]) -> None:
    """The table for people: one line a pollution, header/record/cell F1 in percent a reader."""
    print(f"{'':28}" + "".join(f"{name:>22}" for name in means))
    for pollution in sorted(next(iter(means.values())), key=lambda name: (name == "all", name)):
        row = [means[name][pollution] for name in means]
        values = "".join(f"{100 * mean['header']:8.2f}{100 * mean['record']:7.2f}{100 * mean['cell']:7.2f}" for mean in row)
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
