"""The commands that show what is stored or on its way in, against a fake server: export, profile, uploads, watch."""

import csv
import io
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from dari import cli
from dari.client import CallFailed, Client
from dari.commands.exit_codes import ExitCode
from dari.v1 import ingest_pb2
from tests.support.fake_dari import FakeDari, FakeUpload

pytestmark = pytest.mark.usefixtures("wide_terminal")

Captured = pytest.CaptureFixture[str]

KB = "knowledgeBases/sales"
CSV = 'id,name\n1,대한항공\n2,"a, quoted\nline"\n'.encode()
OPEN, INDEXING, COMPLETED, FAILED, CANCELLED = (
    ingest_pb2.UPLOAD_STATE_OPEN,
    ingest_pb2.UPLOAD_STATE_INDEXING,
    ingest_pb2.UPLOAD_STATE_COMPLETED,
    ingest_pb2.UPLOAD_STATE_FAILED,
    ingest_pb2.UPLOAD_STATE_CANCELLED,
)


@pytest.fixture(autouse=True)
def one_version(dari: FakeDari) -> None:
    """There is a file to export."""
    dari.ingest.files[KB, 1] = CSV
    dari.versions[KB] = 1


def run(dari: FakeDari, *arguments: object) -> int:
    return cli.run(["--address", dari.address, *map(str, arguments)])


def run_json(dari: FakeDari, capsys: Captured, *arguments: object) -> list[dict[str, Any]]:
    assert cli.run(["--address", dari.address, "--json", *map(str, arguments)]) == ExitCode.OK
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_export_writes_the_rows_to_stdout(dari: FakeDari) -> None:
    """Nothing but the CSV, byte for byte."""
    done = subprocess.run(
        [sys.executable, "-m", "dari", "--address", dari.address, "export", "sales"], check=True, capture_output=True
    )
    assert done.stdout == CSV


def test_export_hands_its_options_on(dari: FakeDari, tmp_path: Path) -> None:
    target = tmp_path / "sales.csv"
    assert run(dari, "export", "sales", "-o", target, "--version", "1", "--escape-formulas") == ExitCode.OK
    assert target.read_bytes() == CSV
    assert dari.ingest.exports == [ingest_pb2.ExportRowsRequest(knowledge_base=KB, version=1, escape_formulas=True)]


def test_an_export_in_json_says_what_was_written(dari: FakeDari, tmp_path: Path, capsys: Captured) -> None:
    target = tmp_path / "sales.csv"
    assert run_json(dari, capsys, "export", "sales", "-o", target) == [
        {"output": str(target), "sizeBytes": str(len(CSV))}
    ]


@pytest.mark.parametrize("before", [None, b"what was there\n"])
def test_an_export_that_breaks_leaves_what_was_there(dari: FakeDari, tmp_path: Path, before: bytes | None) -> None:
    """No half file, under its name or another; the exit code says that the command may work later."""
    target = tmp_path / "sales.csv"
    if before is not None:
        target.write_bytes(before)
    dari.ingest.export_breaks = True
    assert run(dari, "export", "sales", "-o", target) == ExitCode.UNAVAILABLE
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if before is None else [before])


def test_an_export_follows_a_link_and_has_the_usual_permissions(dari: FakeDari, tmp_path: Path) -> None:
    """As if it had been written by the shell."""
    named, link, plain = tmp_path / "named.csv", tmp_path / "link.csv", tmp_path / "plain"
    link.symlink_to(named)
    plain.touch()
    assert run(dari, "export", "sales", "-o", link) == ExitCode.OK
    assert link.is_symlink()
    assert named.read_bytes() == CSV
    assert stat.S_IMODE(named.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_an_export_to_a_named_pipe_is_written_as_it_comes(dari: FakeDari, tmp_path: Path) -> None:
    """And not renamed over: so it is with /dev/null."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    came: list[bytes] = []
    reader = threading.Thread(target=lambda: came.append(path.read_bytes()))
    reader.start()
    assert run(dari, "export", "sales", "-o", path) == ExitCode.OK
    reader.join(timeout=30)
    assert came == [CSV]
    assert path.is_fifo()


def test_a_file_that_cannot_be_written_has_its_exit_code(dari: FakeDari, tmp_path: Path, capsys: Captured) -> None:
    assert run(dari, "export", "sales", "-o", tmp_path / "none" / "sales.csv") == ExitCode.NO_OUTPUT
    assert "none/sales.csv" in capsys.readouterr().err


def test_an_export_of_what_is_not_there_makes_no_file(dari: FakeDari, tmp_path: Path) -> None:
    assert run(dari, "export", "none", "-o", tmp_path / "none.csv") == ExitCode.FAILED
    assert not list(tmp_path.iterdir())


def test_a_reader_that_has_enough_ends_the_export_quietly(dari: FakeDari) -> None:
    """`dari export sales | head`: no traceback, no word."""
    dari.ingest.files[KB, 1] = CSV * 100_000
    dari.ingest.export_piece_bytes = 64 * 1024
    command = [sys.executable, "-m", "dari", "--address", dari.address, "export", "sales"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == CSV[:10]
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(timeout=60) != 0
    assert said == b""


def add_upload(dari: FakeDari, upload_id: str, version: int, *, replaces: bool, knowledge_base: str = KB) -> None:
    mode = ingest_pb2.UPLOAD_MODE_REPLACE if replaces else ingest_pb2.UPLOAD_MODE_APPEND
    opening = ingest_pb2.OpenUpload(knowledge_base=knowledge_base, upload_id=upload_id, mode=mode)
    receipt = ingest_pb2.Receipt(
        upload=f"uploads/{upload_id}", knowledge_base=knowledge_base, version=version, mode=mode
    )
    dari.ingest.uploads[upload_id] = FakeUpload(opening, receipt=receipt)


REJECTED = [
    ingest_pb2.RejectedRow(
        line=3, offset_bytes=20, length_bytes=9, reason=ingest_pb2.REJECTION_REASON_NUL_BYTE, raw=b'3,"a\nb\\x00'
    ),
    ingest_pb2.RejectedRow(
        line=9, offset_bytes=80, length_bytes=4, reason=ingest_pb2.REJECTION_REASON_FOOTER, raw="합계\n".encode()
    ),
]

MAKERS = [(5, ["d", "e"]), (4, ["d"]), (3, ["b", "c"]), (2, ["b"]), (1, ["a"])]


@pytest.mark.parametrize(("version", "makers"), MAKERS)
def test_the_rejected_rows_of_a_version_are_those_of_the_uploads_that_made_it(
    dari: FakeDari, tmp_path: Path, version: int, makers: list[str]
) -> None:
    """What replaced all rows last, and what was appended since, up to this version; as CSV that names the upload."""
    for number, (upload_id, replaces) in enumerate(
        [("a", True), ("b", True), ("c", False), ("d", True), ("e", False)], 1
    ):
        add_upload(dari, upload_id, number, replaces=replaces)
        dari.ingest.files[KB, number] = CSV
    dari.versions[KB] = 5
    add_upload(dari, "x", 1, replaces=True, knowledge_base="knowledgeBases/other")
    dari.ingest.rejected_rows = REJECTED
    dari.ingest.export_piece_bytes = 7  # cuts within characters and quoted cells
    rows, rejected = tmp_path / "rows.csv", tmp_path / "rejected.csv"
    assert run(dari, "export", "sales", "-o", rows, "--version", version % 5, "--rejected", rejected) == ExitCode.OK
    assert dari.ingest.exports[0].version == version
    with rejected.open(newline="", encoding="utf-8") as file:
        found = list(csv.reader(file))
    assert found[0] == ["upload", "line", "offset_bytes", "length_bytes", "reason", "raw"]
    assert found[1:] == [
        row
        for upload_id in makers
        for row in (
            [f"uploads/{upload_id}", "3", "20", "9", "nul_byte", '3,"a\nb\\x00'],
            [f"uploads/{upload_id}", "9", "80", "4", "footer", "합계\n"],
        )
    ]


def test_rejected_rows_are_shown_with_their_places(dari: FakeDari, capsys: Captured) -> None:
    """As a table of the first ones, as JSON, and as the server's CSV."""
    add_upload(dari, "a", 1, replaces=True)
    dari.ingest.rejected_rows = [*REJECTED, *REJECTED, *REJECTED]
    assert run(dari, "rejected", "a", "--limit", "3") == ExitCode.OK
    shown = capsys.readouterr().out
    assert shown.count("nul byte") == 2
    assert shown.count("footer") == 1
    lines = [row["line"] for row in run_json(dari, capsys, "rejected", "uploads/a")]
    assert lines == ["3", "9"] * 3
    assert run(dari, "rejected", "none") == ExitCode.FAILED


def test_rejected_rows_are_written_as_csv(dari: FakeDari, tmp_path: Path) -> None:
    add_upload(dari, "a", 1, replaces=True)
    dari.ingest.rejected_rows = REJECTED
    target = tmp_path / "rejected.csv"
    assert run(dari, "rejected", "a", "--csv", "-o", target) == ExitCode.OK
    with target.open(newline="", encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)] == ["line", "3", "9"]


PROFILE = ingest_pb2.Profile(
    knowledge_base=KB,
    version=3,
    row_count=1_000,
    typed_view="dari_views.sales",
    columns=[
        ingest_pb2.ColumnProfile(
            name="carrier", type=ingest_pb2.COLUMN_TYPE_TEXT, cell_count=1_000, distinct_estimate=16, min="9E",
            max="YV", shortest_chars=2, longest_chars=2,
            top_values=[ingest_pb2.ValueCount(value="UA", count=500), ingest_pb2.ValueCount(value="B6", count=250)],
        ),
        ingest_pb2.ColumnProfile(
            name="price", type=ingest_pb2.COLUMN_TYPE_DECIMAL, precision=10, scale=2, grouped=True, cell_count=900,
            missing_count=100, empty_count=300, null_like_count=1, distinct_estimate=600, min="-1.50", max="99,999.00",
            sum="1234567.25", mean=1371.7,
            top_values=[ingest_pb2.ValueCount(value=str(n), count=3, error=2) for n in range(16)],
        ),
        ingest_pb2.ColumnProfile(
            name="[red]day\x1b[2J", type=ingest_pb2.COLUMN_TYPE_DATE, format="MM/DD/YYYY", ambiguous_day_order=True,
            cell_count=1_000, empty_count=1_000,
        ),
    ],
)  # fmt: skip


def test_a_profile_is_a_line_a_column(dari: FakeDari, capsys: Captured) -> None:
    """Type, fill, distinct, range and top values; what is rare is still seen, and guesses are shown as such."""
    dari.ingest.profile.CopyFrom(PROFILE)
    assert run(dari, "profile", "sales") == ExitCode.OK
    shown = capsys.readouterr().out
    carrier, price, day = (next(line for line in shown.splitlines() if f" {name}" in line) for name in NAMES)
    assert f"{KB}, version 3: 1,000 rows" in shown
    assert "██████████" in carrier
    assert "UA ▅ 50%  B6 ▃ 25%" in carrier
    assert "decimal(10, 2) with commas" in price
    assert "█████▒░░░·" in price
    assert "-1.50" in price
    assert "99,999.00" in price
    assert "≤" not in price
    assert "date MM/DD/YYYY (day or month first?)" in day
    assert "░░░░░░░░░░" in day
    assert "dari_views.sales" in shown
    assert "\x1b" not in shown


NAMES = ("carrier", "price", "[red]day")


def test_a_column_is_shown_in_full(dari: FakeDari, capsys: Captured) -> None:
    dari.ingest.profile.CopyFrom(PROFILE)
    assert run(dari, "profile", "sales", "--column", "price") == ExitCode.OK
    shown = capsys.readouterr().out
    for said in ("1234567.25", "1371.7", "100", "at most 3", "600 (estimated)"):
        assert said in shown
    assert "carrier" not in shown


def test_a_profile_in_json_is_the_message(dari: FakeDari, capsys: Captured) -> None:
    """All columns, or those asked for."""
    dari.ingest.profile.CopyFrom(PROFILE)
    (whole,) = run_json(dari, capsys, "profile", "sales")
    assert [column["name"] for column in whole["columns"]] == [column.name for column in PROFILE.columns]
    (part,) = run_json(dari, capsys, "profile", "sales", "--column", "price")
    assert [column["mean"] for column in part["columns"]] == [1371.7]


def test_a_column_that_is_not_there_is_refused_with_those_that_are(dari: FakeDari, capsys: Captured) -> None:
    dari.ingest.profile.CopyFrom(PROFILE)
    assert run(dari, "profile", "sales", "--column", "none") == ExitCode.USAGE
    assert "carrier, price" in capsys.readouterr().err


def test_an_empty_version_has_a_profile(dari: FakeDari, capsys: Captured) -> None:
    column = ingest_pb2.ColumnProfile(name="id", type=ingest_pb2.COLUMN_TYPE_EMPTY)
    dari.ingest.profile.CopyFrom(ingest_pb2.Profile(knowledge_base=KB, version=1, columns=[column]))
    assert run(dari, "profile", "sales") == ExitCode.OK
    assert run(dari, "profile", "sales", "--column", "id") == ExitCode.OK
    assert "0 rows" in capsys.readouterr().out


def upload(state: "ingest_pb2.UploadState.ValueType", rows: int = 0, failure: str = "") -> ingest_pb2.Upload:
    return ingest_pb2.Upload(name="uploads/a", knowledge_base=KB, state=state, rows_stored=rows, failure=failure)


ENDS = [
    (upload(COMPLETED, 7), ExitCode.OK, "completed"),
    (upload(FAILED, failure="Record at line 3 is too long."), ExitCode.FAILED, "failed: Record at line 3"),
    (upload(CANCELLED), ExitCode.FAILED, "cancelled"),
]


@pytest.mark.parametrize(("end", "code", "said"), ENDS)
def test_watching_ends_with_the_upload(
    dari: FakeDari, capsys: Captured, end: ingest_pb2.Upload, code: ExitCode, said: str
) -> None:
    """Its end is the exit code; a stream that ends or breaks before is opened again."""
    dari.ingest.watched.extend(
        [[upload(OPEN, 1)], [upload(OPEN, 2), grpc.StatusCode.UNAVAILABLE], [upload(INDEXING, 7), end]]
    )
    assert run(dari, "watch", "a") == code
    assert said in capsys.readouterr().out
    assert not dari.ingest.watched


def test_watching_in_json_prints_every_step(dari: FakeDari, capsys: Captured) -> None:
    dari.ingest.watched.append([upload(OPEN, 1), upload(INDEXING, 7), upload(COMPLETED, 7)])
    states = [step["state"] for step in run_json(dari, capsys, "watch", "a")]
    assert states == ["UPLOAD_STATE_OPEN", "UPLOAD_STATE_INDEXING", "UPLOAD_STATE_COMPLETED"]


def test_watching_what_is_not_there_is_refused_at_once(dari: FakeDari) -> None:
    dari.ingest.watched.append([grpc.StatusCode.NOT_FOUND])
    assert run(dari, "watch", "none") == ExitCode.FAILED


def test_watching_gives_up_on_a_server_that_stays_away(dari: FakeDari, client: Client) -> None:
    dari.ingest.watched.extend([[grpc.StatusCode.UNAVAILABLE]] * 1_000)
    with pytest.raises(CallFailed) as caught:
        list(client.watch("uploads/a", give_up_after_s=0.3))
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert 1 < 1_000 - len(dari.ingest.watched) < 1_000


def test_a_cancelled_upload_is_shown_and_a_complete_one_stays(dari: FakeDari, capsys: Captured) -> None:
    """Cancelling again changes nothing."""
    opening = ingest_pb2.OpenUpload(knowledge_base=KB, upload_id="b", mode=ingest_pb2.UPLOAD_MODE_REPLACE)
    dari.ingest.uploads["b"] = FakeUpload(opening)
    for _ in range(2):
        assert run(dari, "cancel", "b") == ExitCode.OK
        assert "cancelled" in capsys.readouterr().out
    add_upload(dari, "a", 1, replaces=True)
    assert run(dari, "cancel", "a") == ExitCode.FAILED
    assert "UPLOAD_CONFLICT" in capsys.readouterr().err
    (cancelled,) = run_json(dari, capsys, "cancel", "b")
    assert cancelled["state"] == "UPLOAD_STATE_CANCELLED"


def test_uploads_are_listed_newest_first(dari: FakeDari, capsys: Captured) -> None:
    """All pages, of all knowledge bases or one, as many as asked for."""
    for number in range(1, 6):
        add_upload(dari, f"u{number}", number, replaces=True)
    add_upload(dari, "other", 1, replaces=True, knowledge_base="knowledgeBases/other")
    names = [listed["name"] for listed in run_json(dari, capsys, "uploads")]
    assert names == ["uploads/other", *(f"uploads/u{number}" for number in range(5, 0, -1))]
    names = [listed["name"] for listed in run_json(dari, capsys, "uploads", "sales", "--limit", "4")]
    assert names == [f"uploads/u{number}" for number in range(5, 1, -1)]
    assert run(dari, "uploads") == ExitCode.OK
    assert "uploads/u5" in capsys.readouterr().out


def test_an_export_of_a_server_that_says_nothing_is_given_up(dari: FakeDari, client: Client) -> None:
    """A stall is UNAVAILABLE; what came before it stays out of the file's name."""
    may_go_on = threading.Event()

    def stall(text: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield text[:10]
        may_go_on.wait(timeout=60)

    dari.ingest._pieces = stall  # type: ignore[method-assign]
    came = io.BytesIO()
    with pytest.raises(CallFailed, match="gave nothing for"):
        client.export(KB, came, stall_timeout_s=0.2)
    may_go_on.set()
    assert came.getvalue() == CSV[:10]


def test_a_slow_writer_is_no_stall(dari: FakeDari, client: Client) -> None:
    """The time that the caller takes does not count: a disk may be slower than the server's patience is long."""

    class Slow(io.BytesIO):
        def write(self, data: Any) -> int:
            if not self.tell():
                threading.Event().wait(1.5)
            return super().write(data)

    target = Slow()
    assert client.export(KB, target, stall_timeout_s=1) == len(CSV)
    assert target.getvalue() == CSV


def test_a_client_exports_profiles_and_cancels(dari: FakeDari, client: Client, tmp_path: Path) -> None:
    """The calls of the command line, for programs."""
    assert client.export(KB, tmp_path / "rows.csv") == len(CSV)
    add_upload(dari, "a", 1, replaces=True)
    assert client.export_rejected_rows("uploads/a", str(tmp_path / "rejected.csv")) > 0
    dari.ingest.profile.CopyFrom(PROFILE)
    assert client.profile(KB, version=3) == PROFILE
    with pytest.raises(CallFailed):
        client.cancel("uploads/a")
