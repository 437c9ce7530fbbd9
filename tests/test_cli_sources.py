"""`dari ingest` against a fake server: what of folders, patterns, URIs and pipes is sent, under which ids."""

import gzip
import json
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from dari import cli
from dari.commands.dialects import options_of
from dari.commands.exit_codes import ExitCode
from dari.v1 import ingest_pb2
from tests.support.fake_dari import FakeDari, Fault
from tests.support.file_server import FileServer

pytestmark = pytest.mark.usefixtures("wide_terminal", "no_proxy")

Captured = pytest.CaptureFixture[str]

CSV = b"id,name\n1,JetBlue Airways\n"
KB = "knowledgeBases/sales"


def ingest(dari: FakeDari, *arguments: object) -> int:
    return cli.run(["--address", dari.address, "ingest", *map(str, arguments), "--kb", "sales"])


def rows(dari: FakeDari) -> list[str]:
    """The rows of the current version."""
    return dari.ingest.files[KB, dari.versions[KB]].decode().splitlines()[1:]


def folder_with(folder: Path, *names: str) -> Path:
    """Each file has one row: its name within the folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = f"file\n{name}\n".encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return folder


FOLDER = ("b.csv", "a/2.csv", "a/1.CSV", "a/deep/er.tsv", "c.csv.gz", "notes.md", ".hidden.csv", ".git/x.csv")

CHOICES = [
    ("a folder", ["."], ["b.csv", "c.csv.gz", "a/1.CSV", "a/2.csv", "a/deep/er.tsv"]),
    ("a folder and a pattern", [".", "--pattern", "*.md"], ["notes.md"]),
    ("two patterns", [".", "--pattern", "B*", "--pattern", "*.md"], ["b.csv", "notes.md"]),
    ("a glob", ["a/*.csv"], ["a/2.csv"]),
    ("a glob over folders", ["**/*.[ct]sv"], ["a/2.csv", "a/deep/er.tsv", "b.csv"]),
    ("a glob that fits a folder", ["a*"], ["a/1.CSV", "a/2.csv", "a/deep/er.tsv"]),
    ("files, as they are given", ["b.csv", "a/2.csv"], ["b.csv", "a/2.csv"]),
    ("a file with any name", ["notes.md"], ["notes.md"]),
    ("a hidden file that is named", [".hidden.csv"], [".hidden.csv"]),
]


@pytest.mark.parametrize(("arguments", "expected"), [row[1:] for row in CHOICES], ids=[row[0] for row in CHOICES])
def test_what_is_named_is_sent_in_order(
    dari: FakeDari, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: list[str]
) -> None:
    """The first file replaces all rows, the others come after it."""
    monkeypatch.chdir(folder_with(tmp_path, *FOLDER))
    assert ingest(dari, *arguments) == ExitCode.OK
    assert rows(dari) == expected
    modes = [opening.mode for opening in dari.ingest.openings]
    assert modes == [ingest_pb2.UPLOAD_MODE_REPLACE] + [ingest_pb2.UPLOAD_MODE_APPEND] * (len(expected) - 1)


def test_what_a_folder_leaves_out_is_told(dari: FakeDari, tmp_path: Path, capsys: Captured) -> None:
    assert ingest(dari, folder_with(tmp_path, *FOLDER)) == ExitCode.OK
    assert "files left out for their names: 1; see --pattern" in capsys.readouterr().err


def test_a_file_whose_name_looks_like_a_pattern_is_itself(dari: FakeDari, tmp_path: Path) -> None:
    folder_with(tmp_path, "sales[1].csv", "sales1.csv")
    assert ingest(dari, tmp_path / "sales[1].csv") == ExitCode.OK
    assert rows(dari) == ["sales[1].csv"]


MISSING = ["none.csv", "*.none", "empty", "b.csv none.csv"]


@pytest.mark.parametrize("arguments", MISSING)
def test_what_is_not_there_ends_before_anything_is_sent(
    dari: FakeDari, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, arguments: str
) -> None:
    monkeypatch.chdir(folder_with(tmp_path, "b.csv"))
    (tmp_path / "empty").mkdir()
    assert ingest(dari, *arguments.split()) == ExitCode.NO_INPUT
    assert arguments.rsplit(maxsplit=1)[-1] in capsys.readouterr().err
    assert not dari.ingest.openings


def test_a_file_with_other_columns_ends_the_command_and_is_named(
    dari: FakeDari, tmp_path: Path, capsys: Captured
) -> None:
    """What came before it stays, what comes after it is not sent, and both are told."""
    for name, text in (("1.csv", "id\n1\n"), ("2.csv", "id\n2\n"), ("3.csv", "other\n3\n"), ("4.csv", "id\n4\n")):
        (tmp_path / name).write_text(text)
    assert ingest(dari, tmp_path) == ExitCode.FAILED
    said = capsys.readouterr().err
    assert f"{tmp_path / '3.csv'} is not in. Files before it that are in, and stay: 2 of 4." in said
    assert "HEADER_CONFLICT" in said
    assert rows(dari) == ["1", "2"]


def test_an_interrupted_folder_goes_on_at_the_file_where_it_stopped(dari: FakeDari, tmp_path: Path) -> None:
    """What the first command sent is neither sent again nor stored twice."""
    folder_with(tmp_path, "1.csv", "2.csv", "3.csv")
    dari.ingest.faults.extend([Fault(-2), Fault(-2), Fault(0)])
    assert ingest(dari, tmp_path, "--give-up-after-s", "0") == ExitCode.UNAVAILABLE
    taken = dari.ingest.chunks_taken
    assert ingest(dari, tmp_path) == ExitCode.OK
    assert rows(dari) == ["1.csv", "2.csv", "3.csv"]
    assert dari.ingest.chunks_taken == taken + 1
    assert ingest(dari, tmp_path) == ExitCode.OK
    assert dari.ingest.chunks_taken == taken + 1


STRANGERS: list[tuple[str, list[str]]] = [
    ("another file replaced it all", ["other.csv"]),
    ("another file was appended", ["other.csv", "--mode", "append"]),
    ("the first file alone", ["1.csv"]),
]


@pytest.mark.parametrize("between", [row[1] for row in STRANGERS], ids=[row[0] for row in STRANGERS])
def test_a_folder_is_sent_again_where_its_rows_are_not_what_it_made_them(
    dari: FakeDari, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, between: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_with(tmp_path, "1.csv", "2.csv", "other.csv")
    assert ingest(dari, "1.csv", "2.csv") == ExitCode.OK
    assert ingest(dari, *between) == ExitCode.OK
    assert ingest(dari, "1.csv", "2.csv") == ExitCode.OK
    assert rows(dari) == ["1.csv", "2.csv"]


def test_files_with_the_same_content_are_all_stored(dari: FakeDari, tmp_path: Path) -> None:
    """Two folders of a year may hold the same file; given again, the command sends neither."""
    for name in ("2025/sales.csv", "2026/sales.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(CSV)
    assert ingest(dari, tmp_path) == ExitCode.OK
    assert rows(dari) == ["1,JetBlue Airways"] * 2
    taken = dari.ingest.chunks_taken
    assert ingest(dari, tmp_path) == ExitCode.OK
    assert rows(dari) == ["1,JetBlue Airways"] * 2
    assert dari.ingest.chunks_taken == taken


def test_a_cancelled_upload_is_sent_anew(dari: FakeDari, tmp_path: Path) -> None:
    path = folder_with(tmp_path, "1.csv") / "1.csv"
    dari.ingest.faults.append(Fault(-1))
    assert ingest(dari, path, "--give-up-after-s", "0") == ExitCode.UNAVAILABLE
    upload_id = dari.ingest.openings[0].upload_id
    assert cli.run(["--address", dari.address, "cancel", upload_id]) == ExitCode.OK
    assert ingest(dari, path) == ExitCode.OK
    assert dari.ingest.openings[-1].upload_id == f"{upload_id}.2"


def test_the_same_file_read_otherwise_is_another_upload(dari: FakeDari, tmp_path: Path) -> None:
    """A hint, or how it is unpacked, makes other rows of the same bytes."""
    path = folder_with(tmp_path, "1.csv.gz") / "1.csv.gz"
    for options in ([], ["--encoding", "cp949"], ["--compression", "none"]):
        assert ingest(dari, path, *options) == ExitCode.OK
    assert len({opening.upload_id for opening in dari.ingest.openings}) == 3


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="needs /dev/fd")  # noqa: PTH110 - it is no file
def test_a_named_pipe_is_read_once(dari: FakeDari, tmp_path: Path) -> None:
    """To hash it for an id would take its bytes away: `dari ingest <(zcat sales.csv.gz)`."""
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(CSV,))
    writer.start()
    assert ingest(dari, path) == ExitCode.OK
    writer.join(timeout=30)
    assert rows(dari) == ["1,JetBlue Airways"]


def test_a_cut_gzip_ends_with_bad_input(dari: FakeDari, tmp_path: Path, capsys: Captured) -> None:
    """The file is named, and what to do with what is safe already."""
    path = tmp_path / "sales.csv.gz"
    path.write_bytes(gzip.compress(CSV * 1_000)[:-5])
    assert ingest(dari, path) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert "sales.csv.gz: the file was cut" in said
    assert f"dari cancel {dari.ingest.openings[0].upload_id}" in said


def test_a_web_file_is_named_by_what_its_server_says_of_it(dari: FakeDari, capsys: Captured) -> None:
    """The same ETag is not sent again; another one is; without one every command is an upload of its own."""
    with FileServer(CSV) as server:
        assert ingest(dari, server.url) == ExitCode.OK
        assert ingest(dari, server.url) == ExitCode.OK
        assert f"{server.url}: in already, nothing was sent" in capsys.readouterr().out
        server.etag = '"2"'
        assert ingest(dari, server.url) == ExitCode.OK
        assert len(dari.ingest.uploads) == 2
        server.etag = None
        assert ingest(dari, server.url) == ExitCode.OK
        assert ingest(dari, server.url) == ExitCode.OK
        assert len(dari.ingest.uploads) == 4


WEB_ENDS = [(404, ExitCode.NO_INPUT), (403, ExitCode.NO_INPUT), (503, ExitCode.UNAVAILABLE)]


@pytest.mark.parametrize(("status", "expected"), WEB_ENDS)
def test_a_refused_url_has_its_exit_code(dari: FakeDari, capsys: Captured, status: int, expected: ExitCode) -> None:
    with FileServer(CSV) as server:
        server.statuses.append(status)
        assert ingest(dari, f"{server.url}?key=swordfish") == expected
    said = capsys.readouterr().err
    assert f"HTTP {status}" in said
    assert "swordfish" not in said


def test_a_store_s_folder_and_pattern_are_sent(dari: FakeDari, store: Any, capsys: Captured) -> None:
    for name in ("1.csv", "deep/2.csv", "notes.md"):
        store.pipe(f"/bucket/{name}", f"file\n{name}\n".encode())
    assert ingest(dari, "memory://bucket") == ExitCode.OK
    assert rows(dari) == ["1.csv", "deep/2.csv"]
    assert "files left out for their names: 1" in capsys.readouterr().err
    assert ingest(dari, "memory://bucket/*.md") == ExitCode.OK
    assert rows(dari) == ["notes.md"]
    assert ingest(dari, "memory://bucket/none.csv") == ExitCode.NO_INPUT
    assert "memory://bucket/none.csv" in capsys.readouterr().err


def test_a_receipt_tells_what_became_of_every_row(dari: FakeDari, tmp_path: Path, capsys: Captured) -> None:
    """Stored, mended, rejected and set aside, each with its number and the reasons."""
    dari.ingest.findings = ingest_pb2.Receipt(
        rows_rejected=3, lines_set_aside=2, rows_ragged=4, rows_repaired=5, rows_replaced=6
    )
    reasons = [
        ingest_pb2.REJECTION_REASON_PREAMBLE,
        ingest_pb2.REJECTION_REASON_NUL_BYTE,
        ingest_pb2.REJECTION_REASON_INVALID_BYTES,
        ingest_pb2.REJECTION_REASON_NUL_BYTE,
        ingest_pb2.REJECTION_REASON_FOOTER,
    ]
    dari.ingest.rejected_rows = [
        ingest_pb2.RejectedRow(line=line, reason=reason, raw=b"line %d\n" % line)
        for line, reason in enumerate(reasons, 1)
    ]
    assert ingest(dari, folder_with(tmp_path, "1.csv") / "1.csv") == ExitCode.OK
    shown = capsys.readouterr().out
    for said in (
        "4 with fewer or more cells",
        "5 with a stray quote",
        "6 with U+FFFD",
        "3: nul byte 2, invalid bytes 1",
        "2: preamble 1, footer 1",
        "line 4",
    ):
        assert said in shown
    assert "line 1\n" not in shown


READINGS = [
    ("sure", 0.9, True, None),
    ("nothing else", 0.0, False, None),
    ("in doubt", 0.25, True, "--delimiter tab --header-rows 0 --encoding utf-8"),
]


@pytest.mark.parametrize(
    ("confidence", "has_runner_up", "options"), [row[1:] for row in READINGS], ids=[row[0] for row in READINGS]
)
def test_a_doubtful_reading_says_how_to_choose_the_other(
    dari: FakeDari, tmp_path: Path, capsys: Captured, confidence: float, has_runner_up: bool, options: str | None
) -> None:
    """The reading is always shown; the runner-up below a confidence of a half, with the options that choose it."""
    read = ingest_pb2.Dialect(
        encoding=ingest_pb2.ENCODING_CP949, delimiter=";", quote='"', escape="none", comment="none",
        trims_blanks=False, preamble_lines=2, header_rows=1,
    )  # fmt: skip
    other = ingest_pb2.Dialect()
    other.CopyFrom(read)
    other.MergeFrom(ingest_pb2.Dialect(encoding=ingest_pb2.ENCODING_ASCII, delimiter="\t", header_rows=0))
    dari.ingest.findings.reading.CopyFrom(
        ingest_pb2.Reading(dialect=read, runner_up=other if has_runner_up else None, confidence=confidence)
    )
    assert ingest(dari, folder_with(tmp_path, "1.csv") / "1.csv") == ExitCode.OK
    captured = capsys.readouterr()
    assert 'cp949, delimiter ;, quote ", 2 lines before the header, 1 header row' in captured.out
    if options is None:
        assert "next best" not in captured.err
    else:
        assert 'the next best was ascii, delimiter tab, quote ", 2 lines before the header, no header' in captured.err
        assert f"Say {options} to choose it." in captured.err


PROPOSED = [
    ingest_pb2.Dialect(delimiter="\t", header_rows=0, encoding=ingest_pb2.ENCODING_UTF_8),
    ingest_pb2.Dialect(delimiter=" ", quote="none", escape="\\", comment=";"),
    ingest_pb2.Dialect(delimiter="|", trims_blanks=True, preamble_lines=2, encoding=ingest_pb2.ENCODING_GB18030),
    ingest_pb2.Dialect(quote="'", trims_blanks=False, header_rows=3),
]


@pytest.mark.parametrize("dialect", PROPOSED)
def test_the_options_that_a_receipt_proposes_choose_that_reading(
    dari: FakeDari, tmp_path: Path, dialect: ingest_pb2.Dialect
) -> None:
    """Pasted into the shell, they are the same dialect again."""
    other = ingest_pb2.Dialect(
        delimiter="a", quote="b", escape="c", comment="d", trims_blanks=not dialect.trims_blanks, preamble_lines=7,
        header_rows=7, encoding=ingest_pb2.ENCODING_CP949,
    )  # fmt: skip
    for field, value in dialect.ListFields():
        assert getattr(other, field.name) != value
    unsaid = {field.name for field in other.DESCRIPTOR.fields} - {field.name for field, _ in dialect.ListFields()}
    for name in unsaid:
        other.ClearField(name)  # type: ignore[arg-type]
    options = shlex.split(options_of(dialect, unlike=other))
    assert ingest(dari, folder_with(tmp_path, "1.csv") / "1.csv", *options) == ExitCode.OK
    assert dari.ingest.openings[0].dialect == dialect


def test_an_upload_from_stdin_that_is_stopped_by_hand_ends_at_once() -> None:
    """Ctrl-C while stdin gives nothing: the exit code of the shell, no wait for a byte, no crash of the interpreter."""
    with FakeDari() as dari:
        command = [sys.executable, "-m", "dari", "--address", dari.address, "ingest", "-", "--kb", "sales"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdin is not None
            process.stdin.write(b"id,name\n" * 100_000)
            process.stdin.flush()
            assert dari.ingest.opened.wait(timeout=60)
            process.send_signal(2)
            assert process.wait(timeout=60) == ExitCode.INTERRUPTED
            assert process.stderr is not None
            said = process.stderr.read().decode()
    assert "goes on from there" in said
    assert "Fatal" not in said


def test_receipts_in_json_are_whole_messages(dari: FakeDari, tmp_path: Path, capsys: Captured) -> None:
    """One a file, also from a folder."""
    folder = folder_with(tmp_path, "1.csv", "2.csv")
    assert cli.run(["--address", dari.address, "--json", "ingest", str(folder), "-k", "sales"]) == ExitCode.OK
    receipts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [receipt["version"] for receipt in receipts] == ["1", "2"]
    assert receipts[0]["rowsRagged"] == "0"
