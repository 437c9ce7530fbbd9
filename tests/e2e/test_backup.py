"""Backups as docs/backup.md tells them, of a server at work: what comes back is what was there, and as closed."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extensions import make_dsn

from dari import cli
from dari.adapters.postgres.embedded import EmbeddedPostgres, find_binaries, running_dsn
from dari.adapters.postgres.isolation_catalogue import gaps
from dari.client import Access
from dari.commands.exit_codes import ExitCode
from dari.core.callers import Role
from dari.v1 import chat_pb2, ingest_pb2, mapping_pb2
from tests.fix_postgres import PostgresDsns, open_folder
from tests.fix_server import SMALL_BATCH_BYTES
from tests.support.credentials import TokenHolders
from tests.support.running_dari import RunningDari
from tests.support.serving_process import ServingProcess, environment
from tests.support.uploading import IngestStream, made_csv

DOCS = (Path(__file__).parents[2] / "docs" / "backup.md").read_text()
TENANTS = {"acme": "anvils", "globex": "gadgets"}
"""And a word that only the data of this one holds."""
HALF = made_csv(5_000)
BATCH_AND_HALF = SMALL_BATCH_BYTES * 3 // 2
"""Bytes of HALF of which one batch is stored, and the rest waits for more."""


@dataclass(frozen=True)
class Kept:
    """A server's data folder, its dump of a moment, and what its callers saw then."""

    data_dir: Path
    file: Path
    told: dict[str, Any]
    """By `dari backup`."""
    refused: str
    """By `dari restore` while the server ran."""
    holders: TokenHolders
    tokens: dict[str, str]
    before: dict[str, Any]
    offset: int
    """Of the upload that was open."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One that the embedded server's user can reach."""
    with open_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def holders(tmp_path_factory: pytest.TempPathFactory) -> TokenHolders:
    return TokenHolders(tmp_path_factory.mktemp("holders") / "tokens.toml")


@pytest.fixture(scope="module")
def tokens(holders: TokenHolders) -> dict[str, str]:
    return {tenant: holders.add(tenant, Role.ADMIN) for tenant in TENANTS}


@pytest.fixture(scope="module")
def kept(folder: Path, holders: TokenHolders, tokens: dict[str, str]) -> Kept:
    """Dumped while the server works, with an upload open."""
    data_dir, file = folder / "first", folder / "dari.dump"
    with ServingProcess(PostgresDsns("", ""), data_dir, database_dsn=None, tokens_file=holders.path) as server:
        fill(server.address, tokens)
        with half_stored(server.address, tokens["acme"]) as offset:
            done = dari(data_dir, "backup", file)
            assert done.returncode == ExitCode.OK, done.stderr
            before = {tenant: everything(server.address, tokens[tenant], word) for tenant, word in TENANTS.items()}
        refused = dari(data_dir, "restore", file)
        assert refused.returncode == ExitCode.FAILED
    return Kept(data_dir, file, json.loads(done.stdout), refused.stderr, holders, tokens, before, offset)


def block(name: str) -> str:
    """The shell lines of the guide under this name."""
    found = re.search(rf"<!-- test: {name} -->\n```sh\n(.*?)```", DOCS, re.DOTALL)
    assert found, f"the guide has lost its lines {name}"
    return found[1]


def dari(data_dir: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dari", "--json", *map(str, arguments)],
        env=environment(DARI_DATA_DIR=str(data_dir)),
        capture_output=True,
        text=True,
        check=False,
    )


def fill(address: str, tokens: dict[str, str]) -> None:
    """Two versions, an older and a newer one, rejected rows, a mapping and a conversation of each tenant."""
    for tenant, word in TENANTS.items():
        with RunningDari(address, Access(token=tokens[tenant])) as dari:
            dari.make_knowledge_base("kb", f"id,thing\n1,older {word}\n")
            dari.upload("kb", f"id,thing\n1,{word}\n2,한글 {word}\n3,=1+1\n")
            dari.make_local("local")
            dari.make_chat("bot", over=("kb",))
            turn = dari.ask(f"Where are the {word}?")
            dari.ask(f"And the {word}?", conversation=turn.name.partition("/turns/")[0])


@contextmanager
def half_stored(address: str, token: str) -> Iterator[int]:
    """An upload that is open, and as far as the offset that is given."""
    with RunningDari(address, Access(token=token)) as dari:
        dari.make_knowledge_base("half")
        stream = IngestStream(dari.ingest)
        stream.open("half-way", base="half")
        assert stream.opened() == 0
        stream.chunks(HALF[:BATCH_AND_HALF])
        yield stream.committed(1).offset_bytes
        stream.leave()


def everything(address: str, token: str, word: str) -> dict[str, Any]:
    """What a tenant can see, in comparable form."""
    with RunningDari(address, Access(token=token)) as dari:
        conversations = dari.chat.ListConversations(chat_pb2.ListConversationsRequest())
        bases = dari.mapping.ListKnowledgeBases(mapping_pb2.ListKnowledgeBasesRequest())
        search = ingest_pb2.SearchRequest(knowledge_bases=["knowledgeBases/kb"], query=word)
        rows = ingest_pb2.ExportRowsRequest(knowledge_base="knowledgeBases/kb")
        uploads = dari.ingest.ListUploads(ingest_pb2.ListUploadsRequest())
        resolve = mapping_pb2.ResolveChatConfigurationRequest(name="chatConfigurations/bot")
        return {
            "mapping": str(dari.mapping.ListMappings(mapping_pb2.ListMappingsRequest())),
            "resolved": str(dari.mapping.ResolveChatConfiguration(resolve)),
            "models": str(dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())),
            "bases": str(bases),
            "rows": b"".join(part.data for part in dari.ingest.ExportRows(rows)),
            "found": str(dari.ingest.Search(search)),
            "profile": str(dari.ingest.GetProfile(ingest_pb2.GetProfileRequest(knowledge_base="knowledgeBases/kb"))),
            "uploads": str(uploads),
            "turns": [str(turn) for one in conversations.conversations for turn in dari.turns(one.name)],
        }


def assert_whole(before: dict[str, Any], word: str) -> None:
    """That there was something to compare."""
    assert before["rows"].decode() == f"id,thing\n1,{word}\n2,한글 {word}\n3,=1+1\n"
    assert word in before["found"]
    assert len(before["turns"]) == 2
    assert "current_version: 2" in before["bases"]


def assert_closed(address: str, tokens: dict[str, str]) -> None:
    """Neither tenant finds the other's."""
    for tenant, word in TENANTS.items():
        others = next(each for each in TENANTS if each != tenant)
        with RunningDari(address, Access(token=tokens[others])) as dari:
            search = ingest_pb2.SearchRequest(knowledge_bases=["knowledgeBases/kb"], query=word)
            assert list(dari.ingest.Search(search).hits) == []


def go_on(address: str, token: str, offset: int) -> None:
    """Send the rest of the upload that was open."""
    with RunningDari(address, Access(token=token)) as dari:
        stream = IngestStream(dari.ingest)
        stream.open("half-way", base="half")
        assert stream.opened() == offset
        stream.chunks(HALF, offset)
        stream.finish(len(HALF), sha256(HALF).digest())
        assert stream.receipt().rows_stored == 5_000


def catalogue_gaps(admin_dsn: str) -> list[str]:
    with closing(psycopg2.connect(admin_dsn)) as session, session.cursor() as cur:
        return gaps(cur, "dari_service")


def test_the_embedded_database_comes_back_in_another_folder(kept: Kept, folder: Path) -> None:
    """Dumped while an upload is open, restored, served; with rows, mapping, conversations, versions and isolation."""
    assert kept.told["sizeBytes"] == str(kept.file.stat().st_size)
    assert kept.file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.iterdir() if path.is_file()] == [kept.file.name]
    second = folder / "second"
    assert cli.run(["restore", str(kept.file), "--data-dir", str(second)]) == ExitCode.OK
    with ServingProcess(PostgresDsns("", ""), second, database_dsn=None, tokens_file=kept.holders.path) as server:
        for tenant, word in TENANTS.items():
            assert_whole(kept.before[tenant], word)
            assert everything(server.address, kept.tokens[tenant], word) == kept.before[tenant]
        assert_closed(server.address, kept.tokens)
        go_on(server.address, kept.tokens["acme"], kept.offset)
        assert catalogue_gaps(running_dsn(second / "postgres", database="dari")) == []


def test_a_folder_with_data_is_left_alone_by_a_restore(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While its server runs, and while none does; a backup of it needs no server."""
    assert "is in use by process" in kept.refused
    of_first = ["--data-dir", str(kept.data_dir)]
    assert cli.run(["restore", str(kept.file), *of_first]) == ExitCode.FAILED
    assert "has data already" in capsys.readouterr().err
    assert cli.run(["backup", str(tmp_path / "again"), *of_first]) == ExitCode.OK
    assert abs((tmp_path / "again").stat().st_size / kept.file.stat().st_size - 1) < 0.5
    assert cli.run(["backup", str(tmp_path / "no" / "folder"), *of_first]) == ExitCode.NO_OUTPUT


def test_what_is_no_whole_dump_leaves_nothing_behind(
    kept: Kept, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third, other = folder / "third", tmp_path / "other"
    to_third = ["--data-dir", str(third)]
    other.write_text("id,name\n")
    assert cli.run(["backup", str(other), *to_third]) == ExitCode.FAILED, "there is no database yet"
    assert cli.run(["restore", str(other), *to_third]) == ExitCode.BAD_INPUT
    assert cli.run(["restore", str(tmp_path / "nowhere"), *to_third]) == ExitCode.NO_INPUT
    assert not third.exists()
    whole = kept.file.read_bytes()
    other.write_bytes(whole[:-64])
    capsys.readouterr()
    assert cli.run(["restore", str(other), *to_third]) == ExitCode.FAILED
    output = capsys.readouterr()
    assert output.err.startswith("pg_restore ended with code 1")
    assert "anvils" not in output.out + output.err
    with EmbeddedPostgres(third / "postgres", durable=False) as server:
        assert _asked(server.admin_dsn, "SELECT datname FROM pg_database WHERE datname LIKE 'dari%'") == []


def test_a_postgresql_of_ones_own_is_kept_by_its_own_tools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DARI_DATABASE_DSN", "postgresql://u:s3cret@127.0.0.1:1/d")
    for command in ("backup", "restore"):
        assert cli.run([command, str(tmp_path / "file")]) == ExitCode.CONFIG
        told = capsys.readouterr().err
        assert ("docs/backup.md" in told, "s3cret" in told) == (True, False)


def test_the_guides_commands_carry_a_server_over_to_another(
    database: PostgresDsns, folder: Path, holders: TokenHolders, tokens: dict[str, str]
) -> None:
    """With a role that is no superuser for the dump, and a server without dari's roles for the rest."""
    shell = {"PATH": os.pathsep.join((str(find_binaries()), str(Path(sys.executable).parent), os.environ["PATH"]))}
    settings: dict[str, Any] = {"tokens_file": holders.path}
    with ExitStack() as opened:
        server = opened.enter_context(ServingProcess(database, folder / "served", **settings))
        fill(server.address, tokens)
        before = {tenant: everything(server.address, tokens[tenant], word) for tenant, word in TENANTS.items()}
        backup_dsn = make_dsn(database.admin_dsn, user="dari_backup", password="choose-one")
        opened.callback(_execute, database.admin_dsn, sql.SQL("DROP ROLE IF EXISTS dari_backup"))
        _bash(block("role"), folder, ADMIN_DSN=database.admin_dsn, **shell)
        _bash(block("dump"), folder, BACKUP_DSN=backup_dsn, **shell)

    with ExitStack() as opened:
        fresh = opened.enter_context(EmbeddedPostgres(folder / "fresh", max_connections=50, durable=False))
        service_dsn = make_dsn(fresh.service_dsn(), password="choose-another")
        _bash(
            block("restore"),
            folder,
            NEW_ADMIN_DSN=fresh.admin_dsn,
            NEW_DATABASE_DSN=make_dsn(fresh.admin_dsn, dbname="dari"),
            DARI_DATABASE_DSN=service_dsn,
            DARI_MIGRATION_DSN=make_dsn(fresh.admin_dsn, dbname="dari"),
            DARI_LISTEN_ADDRESS="127.0.0.1:0",
            DARI_ADMIN_ADDRESS="127.0.0.1:0",
            **shell,
        )
        restored = PostgresDsns(make_dsn(fresh.admin_dsn, dbname="dari"), service_dsn)
        server = opened.enter_context(ServingProcess(restored, folder / "restored", **settings))
        for tenant, word in TENANTS.items():
            assert_whole(before[tenant], word)
            assert everything(server.address, tokens[tenant], word) == before[tenant]
        assert_closed(server.address, tokens)
        assert catalogue_gaps(restored.admin_dsn) == []


def _bash(lines: str, folder: Path, **variables: str) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _execute(dsn: str, statement: sql.SQL) -> None:
    with closing(psycopg2.connect(dsn)) as session, session, session.cursor() as cur:
        cur.execute(statement)


def _asked(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(dsn)) as session, session, session.cursor() as cur:
        cur.execute(statement)
        return cur.fetchall()
