"""`dari map import`: tables of an older system in, a file that `dari map apply` reads out."""

import csv
import io
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from dari import cli
from dari.client import Client
from dari.commands.configuration_calls import read_server
from dari.commands.configuration_yaml import read_configuration
from dari.commands.exit_codes import ExitCode
from dari.core.configuration import Configuration
from tests.fix_postgres import PostgresDsns
from tests.fix_server import StartServer

pytestmark = pytest.mark.usefixtures("wide_terminal")

Captured = pytest.CaptureFixture[str]

SECRET = "plain-secret-value"
FLOW = "6f1c3c1e-0000-4000-8000-000000000001"
MODELS = [
    {"id": 1, "name": "고객 상담", "flowId": FLOW, "url": "http://flowise:3000", "apiKey": SECRET, "teamId": "cs"},
    {"id": 2, "name": "Unknown\n# x", "teamId": "cs"},
]
CHATS = [{"id": 10, "name": "고객 상담 챗봇", "settings": json.dumps({"flow": FLOW}), "kb_ids": "b,c", "aiModelId": 2}]
BASES = [{"id": "b", "title": "상품", "teamId": "cs"}, {"id": "c", "title": "상품"}, {"id": "d", "title": "급여"}]
TABLES: dict[str, list[dict[str, Any]]] = {"aiModels": MODELS, "chatConfigurations": CHATS, "KnowledgeBase": BASES}

Write = Callable[[Path], list[str]]


def one_json(folder: Path) -> list[str]:
    (folder / "old.json").write_text(json.dumps({**TABLES, "users": [{"password": SECRET}]}), encoding="utf-8")
    return [str(folder / "old.json")]


def three_json(folder: Path) -> list[str]:
    for name, rows in TABLES.items():
        (folder / f"{name}.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8-sig")
    return [str(folder / f"{name}.json") for name in TABLES]


def _csv(folder: Path, encoding: str) -> list[str]:
    for name, rows in TABLES.items():
        written = io.StringIO()
        writer = csv.DictWriter(written, list(dict.fromkeys(column for row in rows for column in row)))
        writer.writeheader()
        writer.writerows(rows)
        (folder / f"{name}.csv").write_bytes(written.getvalue().encode(encoding))
    return [str(folder / f"{name}.csv") for name in TABLES]


def three_csv(folder: Path) -> list[str]:
    return _csv(folder, "utf-8")


def three_csv_of_windows(folder: Path) -> list[str]:
    return _csv(folder, "cp949")


def run_import(folder: Path, *arguments: str) -> Path:
    output = folder / "proposed.yaml"
    assert cli.run(["map", "import", *arguments, "-o", str(output)]) == ExitCode.OK
    return output


def links_in(configuration: Configuration) -> set[str]:
    return {str(link) for link in configuration.links}


LINKS = {
    "chatConfigurations/gogaek-sangdam-chaetbot chain: aiModels/gogaek-sangdam, priority 1",
    "chatConfigurations/gogaek-sangdam-chaetbot knowledge_bases: knowledgeBases/sangpum",
    "chatConfigurations/gogaek-sangdam-chaetbot knowledge_bases: knowledgeBases/sangpum-2",
    "aiModels/gogaek-sangdam knowledge_bases: knowledgeBases/sangpum",
    "aiModels/gogaek-sangdam knowledge_bases: knowledgeBases/sangpum-2",
}


@pytest.mark.parametrize("write", [one_json, three_json, three_csv, three_csv_of_windows])
def test_every_form_of_the_tables_gives_the_same_proposal(write: Write, tmp_path: Path, capsys: Captured) -> None:
    """What is doubtful, or cannot be made as it is, is there as a comment only."""
    output = run_import(tmp_path, *write(tmp_path))
    text = output.read_text(encoding="utf-8")
    proposed = read_configuration(output).configuration
    assert {one.name for one in proposed.resources.values()} == {
        "aiModels/gogaek-sangdam",
        "chatConfigurations/gogaek-sangdam-chaetbot",
        "knowledgeBases/sangpum",
        "knowledgeBases/sangpum-2",
        "knowledgeBases/geupyeo",
    }
    assert links_in(proposed) == LINKS
    assert "  # unknown-x:\n" in text
    assert "# - {ai_model: unknown-x, priority: 2}  # 0.50: column ai_model_id names its old id; but" in text
    captured = capsys.readouterr()
    assert SECRET not in text + captured.out + captured.err
    assert "under the name gogaek-sangdam-api-key" in captured.err
    assert "api_key_secret: gogaek-sangdam-api-key" in text


@pytest.fixture
def old_database(database: PostgresDsns, monkeypatch: pytest.MonkeyPatch) -> PostgresDsns:
    """An older system's database, with camelCase names and one column of JSON."""
    with closing(psycopg2.connect(database.admin_dsn)) as session, session, session.cursor() as cursor:
        cursor.execute(
            """
            CREATE SCHEMA old;
            CREATE TABLE old."aiModels" (id int, name text, "flowId" uuid, url text, "apiKey" text, "teamId" text);
            CREATE TABLE old.chat_configurations (id int, name text, settings jsonb, kb_ids text[], "aiModelId" int);
            CREATE TABLE old."KnowledgeBase" (id text, title text, "teamId" text, made timestamptz DEFAULT now());
            """
        )
        for model in MODELS:
            cursor.execute(
                'INSERT INTO old."aiModels" VALUES (%s, %s, %s, %s, %s, %s)',
                [model.get(name) for name in ("id", "name", "flowId", "url", "apiKey", "teamId")],
            )
        cursor.execute(
            "INSERT INTO old.chat_configurations VALUES (10, '고객 상담 챗봇', %s, '{b,c}', 2)",
            [json.dumps({"flow": FLOW})],
        )
        for base in BASES:
            cursor.execute(
                'INSERT INTO old."KnowledgeBase" VALUES (%s, %s, %s)', [base["id"], base["title"], base.get("teamId")]
            )
    monkeypatch.setenv("DARI_IMPORT_DSN", database.admin_dsn)
    return database


def test_tables_come_straight_from_postgresql(old_database: PostgresDsns, tmp_path: Path, capsys: Captured) -> None:
    proposed = read_configuration(run_import(tmp_path, "--postgres")).configuration
    assert links_in(proposed) == LINKS
    captured = capsys.readouterr()
    assert SECRET not in captured.out + captured.err


def test_a_proposal_is_applied_as_it_is(start_server: StartServer, tmp_path: Path) -> None:
    address = start_server().server.address
    output = run_import(tmp_path, *one_json(tmp_path))
    assert cli.run(["--address", address, "map", "apply", str(output), "--yes"]) == ExitCode.OK
    assert cli.run(["--address", address, "map", "apply", str(output), "--dry-run"]) == ExitCode.OK
    with Client(address) as client:
        assert links_in(read_server(client)) == LINKS


def test_without_an_output_the_proposal_is_on_stdout(tmp_path: Path, capsys: Captured) -> None:
    assert cli.run(["map", "import", *one_json(tmp_path)]) == ExitCode.OK
    captured = capsys.readouterr()
    assert captured.out.startswith("# Proposed by `dari map import`")
    assert "users is none of aiModels" in captured.err


BAD_FILES: list[tuple[str, bytes, str]] = [
    ("old.csv", b"id\n1\n", "must be named after its table"),
    ("aiModels.json", b'[\n{"id": 1},\n', "aiModels.json:3: is not JSON"),
    ("aiModels.json", b"[1]", "aiModels must be a list of rows"),
    ("aiModels.json", b"1", "must hold a list of rows"),
    ("aiModels.json", b'{"aiModels": {"id": 1}}', "aiModels must be a list of rows"),
    ("aiModels.json", b"[]", "no row of aiModels"),
    ("aiModels.json", b"[" * 100_000, "is not JSON"),
    ("aiModels.csv", b"id,name\n1,\xff\xff\n", "is neither UTF-8 nor CP949, at byte 10"),
]


@pytest.mark.parametrize(("name", "content", "told"), BAD_FILES)
def test_a_file_that_is_no_table_is_told(
    tmp_path: Path, capsys: Captured, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert cli.run(["map", "import", str(tmp_path / name)]) == ExitCode.BAD_INPUT
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""


def test_a_ragged_csv_is_read_as_far_as_its_header_goes(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "KnowledgeBase.csv").write_text("id,name\n1,a,too much\n2\n\n", encoding="utf-8")
    proposed = read_configuration(run_import(tmp_path, str(tmp_path / "KnowledgeBase.csv"))).configuration
    assert set(proposed.resources) == {("knowledgeBases", "a"), ("knowledgeBases", "kb-2")}
    assert "more cells than the header" in capsys.readouterr().err


def test_a_database_that_cannot_be_read_is_told_without_its_dsn(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("DARI_IMPORT_DSN", f"host=127.0.0.1 port=1 password={SECRET}")
    assert cli.run(["map", "import", "--postgres"]) == ExitCode.UNAVAILABLE
    told = capsys.readouterr().err
    assert "DARI_IMPORT_DSN: the database cannot be read" in told
    assert SECRET not in told


def test_without_a_dsn_the_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.delenv("DARI_IMPORT_DSN", raising=False)
    assert cli.run(["map", "import", "--postgres"]) == ExitCode.BAD_INPUT
    assert "set DARI_IMPORT_DSN" in capsys.readouterr().err


def test_nothing_to_read_is_wrong_usage() -> None:
    assert cli.run(["map", "import"]) == ExitCode.USAGE
