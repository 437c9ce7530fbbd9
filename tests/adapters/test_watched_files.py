"""Files whose content is kept in memory: changed, replaced, broken, gone."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dari.adapters.watched_files import UnusableFile, WatchedFiles
from tests.support.credentials import replace_file
from tests.support.event_log import RecordedEvents
from tests.support.waiting import until

SOON_S = 30.0
CANARY = "canary-4711"


def _read(contents: Sequence[bytes]) -> str:
    text = b"+".join(contents).decode()
    if "broken" in text:
        raise UnusableFile("said in our own words")
    return text


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("one")
    second.write_text("two")
    return first, second


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def watched(paths: tuple[Path, Path], events: RecordedEvents) -> Iterator[WatchedFiles[str]]:
    with WatchedFiles("things", paths, _read, events, 0.01) as watched:
        yield watched


def test_a_file_that_changes_is_read_again_with_those_that_belong_to_it(
    watched: WatchedFiles[str], paths: tuple[Path, Path]
) -> None:
    assert watched.current == "one+two"
    replace_file(paths[1], b"three")
    until(lambda: watched.current == "one+three")
    paths[0].write_text("written over")
    until(lambda: watched.current == "written over+three")


@pytest.mark.parametrize("change", ["broken", None])
def test_a_file_that_turns_unusable_leaves_the_former_content_and_is_logged_once(
    watched: WatchedFiles[str], paths: tuple[Path, Path], events: RecordedEvents, change: str | None
) -> None:
    if change is None:
        paths[0].unlink()
    else:
        replace_file(paths[0], f"{change} {CANARY}".encode())
    assert events.wait_for("file_not_reloaded", 1, SOON_S)
    assert watched.current == "one+two"
    replace_file(paths[0], b"mended")
    until(lambda: watched.current == "mended+two")
    (told,) = events.fields("file_not_reloaded")
    assert told["setting"] == "things"
    assert CANARY not in str(told)


def test_a_folder_that_is_swapped_by_its_link_is_seen(tmp_path: Path, events: RecordedEvents) -> None:
    """As Kubernetes exchanges the files of a secret: all at once, by a link to another folder."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "old")
    with WatchedFiles("things", [link / "file"], _read, events, 0.01) as watched:
        assert watched.current == "old"
        (tmp_path / "next").symlink_to(tmp_path / "new")
        (tmp_path / "next").replace(link)
        until(lambda: watched.current == "new")


def test_files_that_are_unusable_at_the_start_are_refused(tmp_path: Path, events: RecordedEvents) -> None:
    (tmp_path / "file").write_text("broken")
    for name in ("file", "missing"):
        with pytest.raises(UnusableFile):
            WatchedFiles("things", [tmp_path / name], _read, events, 0.01)
