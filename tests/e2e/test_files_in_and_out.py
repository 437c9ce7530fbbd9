"""The command line against a real server: files of any kind go in, and the same rows come out."""

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dari import cli
from dari.commands.exit_codes import ExitCode
from tests.fix_server import ServedDari
from tests.support.file_server import FileServer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.usefixtures("wide_terminal", "no_proxy")

Captured = pytest.CaptureFixture[str]
Dari = Callable[..., int]

HEADER = ["number", "date", "name", "price"]
NAMES = ("대한항공", "a, quoted", 'with "quotes"', "two\nlines", "", "=1+1", "\\.", " blanks ")


def rows(first: int, count: int) -> list[list[str]]:
    """Rows with everything that a CSV makes hard, and a NULL-like word now and then."""
    return [
        [
            str(number),
            f"2026-{number % 12 + 1:02}-{number % 28 + 1:02}",
            NAMES[number % len(NAMES)],
            "N/A" if number % 50 == 0 else f"{number % 977}.25",
        ]
        for number in range(first, first + count)
    ]


def csv_of(cells: list[list[str]], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(cells)
    return text.getvalue()


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture
def run(server: ServedDari) -> Dari:
    def run(*arguments: object) -> int:
        return cli.run(["--address", server.server.address, *map(str, arguments)])

    return run


@pytest.fixture
def run_json(server: ServedDari, capsys: Captured) -> Callable[..., list[dict[str, Any]]]:
    def run_json(*arguments: object) -> list[dict[str, Any]]:
        assert cli.run(["--address", server.server.address, "--json", *map(str, arguments)]) == ExitCode.OK
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run_json


def test_a_folder_of_packed_files_comes_out_as_one(run: Dari, tmp_path: Path) -> None:
    """Plain, gzip and zstd, each of several batches; given again, nothing is doubled."""
    folder, out = tmp_path / "in", tmp_path / "out.csv"
    folder.mkdir()
    parts = [[HEADER, *rows(part * 4_000, 4_000)] for part in range(3)]
    plain, gzipped, zstded = (csv_of(part).encode() for part in parts)
    (folder / "1.csv").write_bytes(plain)
    (folder / "2.csv.gz").write_bytes(gzip.compress(gzipped))
    (folder / "3.csv.zst").write_bytes(zstd.compress(zstded))
    for _ in range(2):
        assert run("ingest", folder, "-k", "kb") == ExitCode.OK
        assert run("export", "kb", "-o", out) == ExitCode.OK
        assert read_csv(out) == [HEADER, *rows(0, 12_000)]


def test_what_comes_out_goes_in_again_as_the_same(run: Dari, tmp_path: Path) -> None:
    """Export, ingest, export: byte for byte."""
    source, first, second = (tmp_path / name for name in ("in.csv", "1.csv", "2.csv"))
    source.write_text(csv_of([HEADER, *rows(0, 2_000)]))
    assert run("ingest", source, "-k", "kb") == ExitCode.OK
    assert run("export", "kb", "-o", first) == ExitCode.OK
    assert run("ingest", first, "-k", "kb") == ExitCode.OK
    assert run("export", "kb", "-o", second) == ExitCode.OK
    assert first.read_bytes() == second.read_bytes()
    assert run("export", "kb", "--version", "1", "-o", second) == ExitCode.OK
    assert first.read_bytes() == second.read_bytes()


def test_a_file_is_read_as_it_is_written_and_the_receipt_says_how(run: Dari, tmp_path: Path, capsys: Captured) -> None:
    """CP949 with semicolons, which nobody said; the export is UTF-8 with commas."""
    source, out = tmp_path / "매출.csv", tmp_path / "out.csv"
    source.write_bytes(csv_of([HEADER, *rows(0, 500)], ";").encode("cp949"))
    assert run("ingest", source, "-k", "kb") == ExitCode.OK
    assert "cp949, delimiter ;" in capsys.readouterr().out
    assert run("export", "kb", "-o", out) == ExitCode.OK
    assert read_csv(out) == [HEADER, *rows(0, 500)]


def test_what_is_not_stored_is_shown_in_the_files_own_encoding(run: Dari, tmp_path: Path, capsys: Captured) -> None:
    """Korean, where the file is."""
    source = tmp_path / "매출.csv"
    lines = [*csv_of([HEADER, *rows(0, 100)]).splitlines(), "한강,짧은 행"]
    source.write_bytes("\n".join(lines).encode("cp949"))
    assert run("ingest", source, "-k", "kb", "--ragged-rows", "reject", "--upload-id", "u") == ExitCode.OK
    assert "한강,짧은 행" in capsys.readouterr().out
    assert run("rejected", "u") == ExitCode.OK
    assert "한강,짧은 행" in capsys.readouterr().out


def test_a_hint_is_obeyed(run: Dari, tmp_path: Path) -> None:
    """One column, where everybody would see two."""
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("a,b\n1,2\n3,4\n")
    assert run("ingest", source, "-k", "kb", "--delimiter", "tab", "--no-header") == ExitCode.OK
    assert run("export", "kb", "-o", out) == ExitCode.OK
    assert read_csv(out) == [["a,b"], ["1,2"], ["3,4"]]


def test_a_web_server_that_dies_in_the_middle_costs_no_row(run: Dari, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with FileServer(gzip.compress(csv_of([HEADER, *rows(0, 20_000)]).encode())) as web:
        web.cuts.extend([20_000, 30_000])
        assert run("ingest", web.url, "-k", "kb") == ExitCode.OK
        assert len(web.ranges) > 2
    assert run("export", "kb", "-o", out) == ExitCode.OK
    assert read_csv(out) == [HEADER, *rows(0, 20_000)]


def test_a_file_with_other_columns_stops_a_folder(run: Dari, tmp_path: Path, capsys: Captured) -> None:
    """Named; what came before it is there, whole."""
    folder, out = tmp_path / "in", tmp_path / "out.csv"
    folder.mkdir()
    (folder / "1.csv").write_text("a,b\n1,2\n3,4\n")
    (folder / "2.csv").write_text("a,c\n5,6\n7,8\n")
    assert run("ingest", folder, "-k", "kb") == ExitCode.FAILED
    assert f"{folder / '2.csv'} is not in" in capsys.readouterr().err
    assert run("export", "kb", "-o", out) == ExitCode.OK
    assert read_csv(out) == [["a", "b"], ["1", "2"], ["3", "4"]]


def test_rejected_rows_come_out_beside_the_others(
    run: Dari, run_json: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Stored and rejected are all there was, and each rejected one has its line."""
    source, out, rejected = (tmp_path / name for name in ("in.csv", "out.csv", "rejected.csv"))
    lines = [f"{number},name {number}\n".encode() for number in range(1_000)]
    lines[10] = b"10,nul \0 byte\n"
    lines[20] = b"20,\xff\xfe\xff\n"
    source.write_bytes(b"number,name\n" + b"".join(lines))
    (receipt,) = run_json("ingest", source, "-k", "kb", "--encoding", "utf-8")
    assert (receipt["rowsStored"], receipt["rowsRejected"]) == ("998", "2")
    assert run("export", "kb", "-o", out, "--rejected", rejected) == ExitCode.OK
    assert len(read_csv(out)) == 999
    header, *rows_rejected = read_csv(rejected)
    assert header[:2] == ["upload", "line"]
    assert [(row[0], row[1], row[4]) for row in rows_rejected] == [
        (receipt["upload"], "12", "nul_byte"),
        (receipt["upload"], "22", "invalid_bytes"),
    ]
    listed = run_json("rejected", receipt["upload"])
    assert [row["line"] for row in listed] == ["12", "22"]


def test_a_profile_tells_what_is_in_the_columns(
    run: Dari, run_json: Callable[..., list[dict[str, Any]]], tmp_path: Path, capsys: Captured
) -> None:
    source = tmp_path / "in.csv"
    source.write_text(csv_of([HEADER, *rows(0, 1_000)]))
    assert run("ingest", source, "-k", "kb") == ExitCode.OK
    capsys.readouterr()
    (profile,) = run_json("profile", "kb")
    columns = {column["name"]: column for column in profile["columns"]}
    assert profile["rowCount"] == "1000"
    assert columns["number"]["type"] == "COLUMN_TYPE_INTEGER"
    assert (columns["number"]["min"], columns["number"]["max"]) == ("0", "999")
    assert columns["date"]["type"] == "COLUMN_TYPE_DATE"
    assert columns["price"]["nullLikeCount"] == "20"
    assert columns["name"]["emptyCount"] == "125"
    assert run("profile", "kb") == ExitCode.OK
    shown = capsys.readouterr().out
    assert all(name in shown for name in HEADER)
    assert run("profile", "kb", "--column", "price") == ExitCode.OK


def begun_upload(server: ServedDari, upload_id: str) -> None:
    """An upload whose sender has gone away."""
    stream = server.uploader.stream()
    stream.open(upload_id)
    stream.opened()
    stream.leave()


def test_a_cancelled_upload_is_over(
    server: ServedDari, run: Dari, run_json: Callable[..., list[dict[str, Any]]], tmp_path: Path, capsys: Captured
) -> None:
    """It is listed as cancelled, a watcher ends, and nobody can go on with it."""
    begun_upload(server, "sales-7")
    assert run("cancel", "sales-7") == ExitCode.OK
    assert run("watch", "sales-7") == ExitCode.FAILED
    capsys.readouterr()
    (listed,) = run_json("uploads", "kb")
    assert (listed["name"], listed["state"]) == ("uploads/sales-7", "UPLOAD_STATE_CANCELLED")
    source = tmp_path / "in.csv"
    source.write_text("a,b\n1,2\n")
    assert run("ingest", source, "-k", "kb", "--upload-id", "sales-7") == ExitCode.FAILED
    assert run("ingest", source, "-k", "kb") == ExitCode.OK


def test_a_complete_upload_is_watched_to_its_end_at_once(run: Dari, tmp_path: Path, capsys: Captured) -> None:
    source = tmp_path / "in.csv"
    source.write_text("a,b\n1,2\n")
    assert run("ingest", source, "-k", "kb", "--upload-id", "sales-7") == ExitCode.OK
    assert run("watch", "sales-7") == ExitCode.OK
    assert "completed" in capsys.readouterr().out
    assert run("cancel", "sales-7") == ExitCode.FAILED
