"""Reads polluted files with dari's parser and with its peers, and counts what each gets right.

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
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.pollute import Polluted, files, tables
from dari import _native

CODECS = {"ascii": "ascii", "windows-1252": "cp1252", "shift_jis": "cp932"}
"""Python's names where they are others than dari's."""


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


def dari_reader() -> Reader:
    """Dari's own parser, told nothing."""

    def read(path: Path) -> Loaded:
        parser = _native.Parser()
        try:
            batches = [*parser.feed(path.read_bytes()), *parser.finish()]
        except _native.ParseError as error:
            if error.args[0] == "empty_file":
                return Loaded(None, [])
            raise
        detected = parser.detected
        writer = _native.CsvWriter()
        rows = b"".join(writer.rows(batch.rows) for batch in batches if batch.rows).decode()
        names_columns = detected is not None and detected.reading.header_rows > 0
        header = batches[-1].checkpoint.columns if names_columns else None
        return Loaded(header, list(csv.reader(io.StringIO(rows, newline=""))))

    return read


def encoding_by_dari(data: bytes) -> str:
    """The name of the encoding in which dari has read a whole file."""
    parser = _native.Parser(header_rows=0)
    parser.feed(data)
    parser.finish()
    detected = parser.detected
    return detected.reading.encoding if detected else "none"


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


def encodings_right(cases: Iterable[tuple[str, bytes]]) -> dict[str, Counter[str]]:
    """What each encoding was named, over all files."""
    named: dict[str, Counter[str]] = defaultdict(Counter)
    for encoding, data in cases:
        named[encoding][encoding_by_dari(data)] += 1
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
        readers = {"dari": dari_reader()}
        for peer in arguments.peers:
            try:
                readers[peer] = PEERS[peer]()
            except ImportError:
                print(f"{peer} is not installed", file=sys.stderr)
        means = measure(cases, readers)
        report(means)
        named = encodings_right(korean_files(arguments.korean, arguments.seed))
        others = encodings_right(other_files(arguments.seed))
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
