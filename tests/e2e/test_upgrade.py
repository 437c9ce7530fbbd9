"""An upgrade as docs/upgrade.md tells it: the database is migrated while a server works on it, and another starts."""

import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path

import psycopg2
import pytest

from dari.adapters.postgres.migrate import migrate
from dari.v1 import chat_pb2, mapping_pb2
from tests.fix_postgres import PostgresDsns
from tests.support.running_dari import SOON_S, RunningDari
from tests.support.serving_process import ServingProcess

FIRST_STEP = """\
-- Served by dari from {last:04d} on.
ALTER TABLE dari.ai_models ADD COLUMN region text;
ALTER TABLE dari.chat_configurations ADD COLUMN tone text NOT NULL DEFAULT '';
ALTER TABLE dari.uploads ADD COLUMN sender text;
ALTER TABLE dari.turns ADD COLUMN mood text;
CREATE TABLE dari.favourites (tenant dari.tenant_id NOT NULL, turn text NOT NULL, PRIMARY KEY (tenant, turn));
SELECT dari.isolate('dari.favourites');
GRANT SELECT, INSERT, UPDATE, DELETE ON dari.favourites TO dari_app;
"""
"""What a release may do while servers of the one before run."""


@pytest.fixture
def newer_files(tmp_path: Path) -> Path:
    """The migrations of the next release."""
    with resources.as_file(resources.files("dari.adapters.postgres") / "migrations") as shipped:
        folder = Path(shutil.copytree(shipped, tmp_path / "newer", ignore=shutil.ignore_patterns("__pycache__")))
    last = len(list(folder.iterdir()))
    (folder / f"{last + 1:04d}_first_step.sql").write_text(FIRST_STEP.format(last=last))
    return folder


class Callers:
    """Threads that chat, store files and change the mapping without a pause. Every failure is kept."""

    def __init__(self, address: str, name: str) -> None:
        self._address = address
        self._name = name
        self._over = threading.Event()
        self._counts = [0, 0, 0]
        self._moved = threading.Condition()  # guards the counts

    @contextmanager
    def at_work(self) -> Iterator["Callers"]:
        with ThreadPoolExecutor(3) as threads:
            runs: list[Future[None]] = [
                threads.submit(self._run, at, work) for at, work in enumerate((_chat, _store, _change))
            ]
            try:
                yield self
            finally:
                self._over.set()
        for run in runs:
            run.result()

    def wait_for_more(self, more: int = 2) -> None:
        """Return when each has come to its end so many times from now on, or one has failed."""
        with self._moved:
            wanted = [count + more for count in self._counts]
            assert self._moved.wait_for(
                lambda: self._over.is_set() or all(map(int.__ge__, self._counts, wanted)), 4 * SOON_S
            )

    def _run(self, at: int, work: Callable[[RunningDari, str], None]) -> None:
        try:
            with RunningDari(self._address) as dari:
                for number in itertools.count():
                    if self._over.is_set():
                        return
                    work(dari, f"{self._name}-{at}-{number}")
                    with self._moved:
                        self._counts[at] += 1
                        self._moved.notify_all()
        except BaseException:
            with self._moved:
                self._over.set()
                self._moved.notify_all()
            raise


def _chat(dari: RunningDari, name: str) -> None:
    turn = dari.ask("Where is Gimpo?")
    assert (turn.state, turn.answered_by) == (chat_pb2.TURN_STATE_COMPLETED, chat_pb2.ANSWERER_ROWS_ONLY)
    assert chat_pb2.DEGRADED_REASON_NOT_STORED not in turn.degraded_reasons
    assert "GMP" in turn.answer


def _store(dari: RunningDari, name: str) -> None:
    dari.make_knowledge_base(name, "id,city\n1,Seoul\n2,Busan\n")
    found = dari.mapping.GetKnowledgeBase(mapping_pb2.GetKnowledgeBaseRequest(name=f"knowledgeBases/{name}"))
    assert found.knowledge_base.row_count == 2


def _change(dari: RunningDari, name: str) -> None:
    dari.make_local(name)
    dari.make_chat(name, name, over=("airports",))
    resolved = dari.mapping.ResolveChatConfiguration(
        mapping_pb2.ResolveChatConfigurationRequest(name=f"chatConfigurations/{name}")
    )
    assert resolved.chain[0].ai_model.name == f"aiModels/{name}"
    chat = mapping_pb2.DeleteChatConfigurationRequest(name=f"chatConfigurations/{name}", force=True)
    dari.mapping.DeleteChatConfiguration(chat)
    dari.mapping.DeleteAiModel(mapping_pb2.DeleteAiModelRequest(name=f"aiModels/{name}", force=True))


def test_servers_go_on_and_start_while_the_database_is_migrated(
    database: PostgresDsns, newer_files: Path, tmp_path: Path
) -> None:
    """No chat, no file and no change fails on a server of the release before, nor on one that starts after it."""
    with ExitStack() as opened:
        older = opened.enter_context(ServingProcess(database, tmp_path / "older"))
        with RunningDari(older.address) as dari:
            dari.make_knowledge_base("airports", "code,city\nGMP,Gimpo\nLGA,New York\n")
            dari.make_chat("bot", over=("airports",))
        callers = opened.enter_context(Callers(older.address, "older").at_work())
        callers.wait_for_more()
        service_user = str(psycopg2.extensions.parse_dsn(database.service_dsn)["user"])
        (applied,) = migrate(database.admin_dsn, service_user=service_user, folder=newer_files)
        assert applied.name == "first_step"
        callers.wait_for_more()
        # It has no more migrations than the first: one of the older ones that an orchestrator starts anew.
        again = opened.enter_context(ServingProcess(database, tmp_path / "again"))
        others = opened.enter_context(Callers(again.address, "again").at_work())
        others.wait_for_more()
        callers.wait_for_more()
