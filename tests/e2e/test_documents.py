"""The lines of docs/*.md, run as an operator runs them: each document from an empty server, block by block."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dari.server import Server
from dari.settings import load_settings
from tests.e2e.documents import ROOT, TRIED_ELSEWHERE, TRIED_HERE, blocks_of, run
from tests.fix_postgres import PostgresDsns
from tests.fix_server import settings_for
from tests.support.grpcurl import shown

ALL = sorted((ROOT / "docs").glob("**/*.md"))
DOCUMENTS = [path for path in ALL if any(TRIED_HERE.intersection(one.marks) for one in blocks_of(path))]


@pytest.fixture
def servers(database: PostgresDsns, tmp_path: Path) -> Iterator[dict[bool, Server]]:
    """Two over one database: one for this machine alone, and one that asks who calls."""
    (tmp_path / "tokens.toml").touch()
    common = {**settings_for(database, tmp_path / ".dari"), "source_folders": [tmp_path]}
    with ExitStack() as opened:
        guards: dict[bool, dict[str, object]] = {
            False: {},
            True: {"tokens_file": tmp_path / "tokens.toml", "file_check_interval_s": 0.02},
        }
        yield {
            is_guarded: opened.enter_context(Server(load_settings(**{**common, **guard})))
            for is_guarded, guard in guards.items()
        }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_lines_of_a_document_do_what_it_says(document: Path, servers: dict[bool, Server], tmp_path: Path) -> None:
    """In its order, in one folder; what a block says that it prints, it prints."""
    for block in blocks_of(document):
        if TRIED_HERE.intersection(block.marks):
            printed = shown(run(block, servers["guarded" in block.marks], tmp_path))
            for promise in block.promises():
                assert shown(promise) in printed, f"{block.text}\n{printed}"


def test_every_block_that_is_marked_is_tried_by_somebody() -> None:
    marks = {mark for path in ALL for one in blocks_of(path) for mark in one.marks}
    assert marks - TRIED_HERE - {"guarded"} == set(TRIED_ELSEWHERE)
    for mark, test in TRIED_ELSEWHERE.items():
        assert mark in (ROOT / test).read_text(encoding="utf-8")
