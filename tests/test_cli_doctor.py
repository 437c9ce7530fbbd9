"""`dari doctor`: each check on the real thing, as it should be and as it should not; and no secret is ever shown."""

import json
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from dari import cli
from dari.adapters.local_model.model_files import add_model_file
from dari.adapters.postgres.embedded import EmbeddedPostgres
from dari.adapters.postgres.migrate import create_database, migrate
from dari.commands.exit_codes import ExitCode
from dari.core.callers import Role
from dari.doctor import database as database_checks
from dari.doctor.findings import Check, Finding, Verdict, examine, ok
from dari.settings import load_settings
from tests.fix_postgres import PostgresDsns
from tests.fix_server import ServedDari, StartServer
from tests.flowise_stand_in import FLOW_ID, StandIn, black_hole, reserved_port
from tests.support.credentials import Authority, TokenHolders, key_set, rsa_key
from tests.support.file_server import FileServer
from tests.support.running_dari import SOON_S

pytestmark = pytest.mark.usefixtures("wide_terminal")

CANARY = "canary-77f3"
ISSUER = {"DARI_JWT_ISSUER": "https://issuer.example", "DARI_JWT_AUDIENCE": "dari"}
YEAR = timedelta(days=365)


class Examined:
    """One run: its findings as (check, verdict), and what was printed."""

    def __init__(self, code: int, output: str) -> None:
        self.code = code
        self.output = output
        self.findings = [json.loads(line) for line in output.splitlines()]

    def of(self, check: str, verdict: str) -> list[str]:
        """What was found in this check with this verdict, with its place."""
        return [
            f"{each['where']}: {each['what']}"
            for each in self.findings
            if (each["check"], each["verdict"]) == (check, verdict)
        ]

    def well(self, check: str) -> bool:
        """Whether a check found something, and nothing wrong."""
        return bool(self.of(check, "ok")) and not self.of(check, "warning") + self.of(check, "failed")


Examine = Callable[..., Examined]


@pytest.fixture
def run_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Examine:
    """By the settings that are given as variables, beside an empty data folder and free ports."""

    def run(*arguments: str, **variables: Any) -> Examined:
        defaults = {"DARI_DATA_DIR": tmp_path / "data", "DARI_LOCAL_MODEL": ""}
        defaults |= {f"DARI_{which}_ADDRESS": "127.0.0.1:0" for which in ("LISTEN", "ADMIN", "METRICS")}
        with monkeypatch.context() as patched:
            for name, value in {**defaults, **variables}.items():
                patched.setenv(name, value if isinstance(value, str) else str(value))
            code = cli.run(["--json", "doctor", "--timeout-s", "5", *arguments])
        output = capsys.readouterr()
        assert CANARY not in output.out + output.err
        examined = Examined(code, output.out)
        for finding in examined.findings:
            assert finding["where"]
            assert finding["what"]
            assert (finding["remedy"] == "") == (finding["verdict"] == "ok"), finding
        failed = any(finding["verdict"] == "failed" for finding in examined.findings)
        assert code == (ExitCode.NOT_WELL if failed else ExitCode.OK)
        return examined

    return run


@pytest.fixture
def flowise() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def other(no_proxy: None) -> Iterator[FileServer]:
    """Answers whatever is asked for, as a list of models would."""
    with FileServer(b"{}") as server:
        yield server


def execute(dsn: str, *statements: str) -> None:
    with closing(psycopg2.connect(dsn)) as session:
        session.autocommit = True
        for statement in statements:
            session.cursor().execute(statement)


@contextmanager
def login(database: PostgresDsns, options: str, *grants: str) -> Iterator[str]:
    """A DSN of a login of the test's own; it drops what that owns."""
    user = f"dari_test_{secrets.token_hex(4)}"
    execute(database.admin_dsn, f"CREATE ROLE {user} LOGIN {options} PASSWORD '{CANARY}'")
    try:
        execute(database.admin_dsn, *(grant.format(user=user) for grant in grants))
        yield make_dsn(database.service_dsn, user=user, password=CANARY)
    finally:
        execute(database.admin_dsn, f"DROP OWNED BY {user}", f"DROP ROLE {user}")


SERVICE_GRANT = "GRANT dari_app, dari_housekeeper, dari_ingest, dari_reader TO {user} WITH INHERIT FALSE, SET TRUE"


def test_an_installation_that_is_well_is_said_to_be(
    start_server: StartServer, flowise: StandIn, other: FileServer, run_doctor: Examine, tmp_path: Path
) -> None:
    """While its server runs: reached, migrated, isolated, its upstreams there, its addresses held by itself."""
    served = start_server(metrics_address="127.0.0.1:0")
    served.dari.make_flowise("main", flowise.url, secret="key")
    served.dari.make_openai("other", other.url)
    served.dari.make_flowise("off", "http://127.0.0.1:1")
    execute(served.dsns.admin_dsn, "UPDATE dari.ai_models SET disabled = true WHERE id = 'off'")
    served.dari.make_knowledge_base("kb", "a,b\n1,2\n")
    examined = run_doctor(
        DARI_DATABASE_DSN=served.dsns.service_dsn,
        DARI_LISTEN_ADDRESS=served.server.address,
        DARI_ADMIN_ADDRESS=served.server.admin_address,
        DARI_METRICS_ADDRESS=served.server.metrics_address,
        DARI_SECRETS=json.dumps({"key": CANARY}),
        DARI_NOTIFY_URLS=json.dumps({"ops": f"json://user:{CANARY}@127.0.0.1:1/{CANARY}"}),
        DARI_SOURCE_FOLDERS=json.dumps([str(tmp_path)]),
    )
    assert examined.code == ExitCode.OK
    assert [finding for finding in examined.findings if finding["verdict"] == "failed"] == []
    for check in ("settings", "audit", "sources", "database", "migrations", "isolation", "tls", "ports"):
        assert examined.well(check), examined.output
    assert [told.partition(": is held by ")[2] for told in examined.of("ports", "ok")] == [
        "a dari that answers",
        "a dari that serves",
        "a dari that shows its metrics",
    ]
    assert examined.well("local model")
    assert examined.well("notifications")
    found = examined.of("upstreams", "ok")
    assert f"aiModels/main at {flowise.url}: knows the flow, which streams" in found
    assert f"aiModels/main at {flowise.url}: its key key is among the secrets" in found
    assert examined.well("upstreams")
    assert "aiModels/off" not in examined.output
    assert flowise.questions == [], "nobody was asked a question"


def test_people_read_the_same_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A line a finding, what to do below it, and the count at the end on stderr."""
    monkeypatch.setenv("DARI_DATA_DIR", str(tmp_path))
    # The default ports may be anybody's: they are among those that connections come from.
    for which in ("LISTEN", "ADMIN", "METRICS"):
        monkeypatch.setenv(f"DARI_{which}_ADDRESS", "127.0.0.1:0")
    monkeypatch.setenv("DARI_SOURCE_FOLDERS", json.dumps([str(tmp_path / "none")]))
    assert cli.run(["doctor"]) == ExitCode.NOT_WELL
    output = capsys.readouterr()
    assert f"failed   sources       source_folders: {tmp_path}/none: is no folder" in output.out
    assert "→ Make it, or take it out of DARI_SOURCE_FOLDERS." in output.out
    assert output.err.endswith(" 1 failed\n")


def test_wrong_settings_are_named_together_and_hide_nothing_else(database: PostgresDsns, run_doctor: Examine) -> None:
    examined = run_doctor(
        DARI_DATABASE_DSN=database.service_dsn, DARI_NOTIFY_QUIET_S=CANARY, DARI_MAX_CHATS="0", DARI_NO_SUCH="x"
    )
    told = examined.of("settings", "failed")
    assert [each.partition(":")[0] for each in told] == ["DARI_NO_SUCH", "max_chats", "notify_quiet_s"]
    assert examined.well("database")
    assert examined.well("isolation")


def test_settings_that_say_nothing_at_all_are_told(run_doctor: Examine) -> None:
    examined = run_doctor(DARI_SECRETS=f"{{{CANARY}")
    assert len(examined.of("settings", "failed")) == 2
    assert {finding["check"] for finding in examined.findings} == {"settings"}


def test_a_database_that_is_not_there_hides_nothing_else(run_doctor: Examine, tmp_path: Path) -> None:
    with reserved_port() as reserved:
        dsn = f"postgresql://{CANARY}:{CANARY}@127.0.0.1:{reserved.getsockname()[1]}/{CANARY}"
        examined = run_doctor(DARI_DATABASE_DSN=dsn, DARI_TOKENS_FILE=tmp_path / "none")
    (told,) = examined.of("database", "failed")
    assert told == "database_dsn: The database cannot be reached: nobody listens at its address."
    assert examined.of("migrations", "failed") == [told]
    assert "not examined" in examined.of("upstreams", "warning")[0]
    assert examined.of("tokens", "failed")
    assert examined.well("ports")


def test_a_database_that_swallows_what_it_is_sent_is_told_in_time(run_doctor: Examine) -> None:
    with black_hole() as url:
        dsn = f"host=127.0.0.1 port={url.rpartition(':')[2]} connect_timeout=2 user=u password={CANARY} dbname=d"
        begun_s = time.monotonic()
        examined = run_doctor(DARI_DATABASE_DSN=dsn)
        assert time.monotonic() - begun_s < 2 * SOON_S
    assert examined.of("database", "failed") == [
        "database_dsn: The database cannot be reached: it did not answer in time."
    ]


def test_a_database_without_tables_is_told(postgres_server: PostgresDsns, run_doctor: Examine) -> None:
    name = f"dari_empty_{secrets.token_hex(4)}"
    create_database(
        postgres_server.admin_dsn, name, str(psycopg2.extensions.parse_dsn(postgres_server.service_dsn)["user"])
    )
    try:
        examined = run_doctor(DARI_DATABASE_DSN=postgres_server.to(name).service_dsn)
    finally:
        execute(postgres_server.admin_dsn, f"DROP DATABASE {name} WITH (FORCE)")
    assert examined.well("database")
    assert "Run: dari migrate" in examined.of("migrations", "failed")[0]
    assert examined.of("isolation", "failed") == []


def test_a_login_that_lacks_a_role_is_told(database: PostgresDsns, run_doctor: Examine) -> None:
    grant = SERVICE_GRANT.replace(", dari_reader", "")
    with login(database, "NOINHERIT", grant) as dsn:
        examined = run_doctor(DARI_DATABASE_DSN=dsn)
    assert "may not take on dari_reader" in examined.of("migrations", "failed")[0]


@pytest.mark.parametrize(
    ("options", "grant", "told"),
    [
        ("NOINHERIT BYPASSRLS", "SELECT 1", "above policies"),
        ("NOINHERIT CREATEROLE", "SELECT 1", "a maker of roles"),
        ("NOINHERIT", "GRANT dari_owner TO {user}", "dari_owner"),
        ("NOINHERIT", "CREATE SCHEMA {user} AUTHORIZATION {user}", "owns schema dari_test_"),
    ],
)
def test_a_login_that_may_more_than_it_must_is_told(
    database: PostgresDsns, run_doctor: Examine, options: str, grant: str, told: str
) -> None:
    with login(database, options, SERVICE_GRANT, grant) as dsn:
        examined = run_doctor(DARI_DATABASE_DSN=dsn)
    (found,) = examined.of("migrations", "failed")
    assert told in found


def test_a_table_outside_the_isolation_is_told(database: PostgresDsns, run_doctor: Examine) -> None:
    execute(database.admin_dsn, "ALTER TABLE dari.turns DISABLE ROW LEVEL SECURITY")
    examined = run_doctor(DARI_DATABASE_DSN=database.service_dsn)
    (found,) = examined.of("isolation", "failed")
    assert found == "database_dsn: isolation of tenants: dari.turns is not under row-level security"


def test_isolation_is_whole_while_an_upload_is_open(server: ServedDari, run_doctor: Examine) -> None:
    """Its table is open to COPY, which only who sees all tenants' uploads can tell."""
    stream = server.uploader.stream()
    stream.open("half")
    stream.opened()
    stream.chunks(b"a,b\n" + b"1,2\n" * 65_536)
    stream.committed(1)
    assert run_doctor(DARI_DATABASE_DSN=server.dsns.service_dsn).well("isolation")
    stream.leave()


def test_a_database_that_is_newer_is_told(database: PostgresDsns, run_doctor: Examine) -> None:
    add = "INSERT INTO public.dari_migrations (number, name, sha256, served_from) SELECT {}, 'next', '', {} FROM"
    add += " public.dari_migrations HAVING true"
    execute(database.admin_dsn, add.format("max(number) + 1", "max(number)"))
    (served,) = run_doctor(DARI_DATABASE_DSN=database.service_dsn).of("migrations", "warning")
    assert "is newer than this dari, which can work on it" in served
    execute(database.admin_dsn, add.format("max(number) + 1", "max(number) + 1"))
    (refused,) = run_doctor(DARI_DATABASE_DSN=database.service_dsn).of("migrations", "failed")
    assert "this dari ends at" in refused


def test_the_embedded_database_is_examined_by_its_socket_while_it_runs(run_doctor: Examine, postgres_dir: Path) -> None:
    """It is made by the server that holds it, and rests otherwise."""
    with EmbeddedPostgres(postgres_dir / "postgres", durable=False) as held:
        create_database(held.admin_dsn)
        migrate(held.admin_dsn, "dari", "dari_service")
        examined = run_doctor(DARI_DATA_DIR=postgres_dir)
        assert f"is held by process {os.getpid()}" in "".join(examined.of("data folder", "ok"))
        for check in ("database", "migrations", "isolation", "upstreams"):
            assert examined.well(check), examined.output
    resting = run_doctor(DARI_DATA_DIR=postgres_dir)
    assert "rests" in resting.of("database", "ok")[0]
    assert "is held by nobody" in "".join(resting.of("data folder", "ok"))


def test_a_database_in_another_encoding_is_told(postgres_server: PostgresDsns, run_doctor: Examine) -> None:
    name = f"dari_ascii_{secrets.token_hex(4)}"
    execute(
        postgres_server.admin_dsn,
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'",
    )
    try:
        examined = run_doctor(DARI_DATABASE_DSN=postgres_server.to(name).service_dsn)
    finally:
        execute(postgres_server.admin_dsn, f"DROP DATABASE {name} WITH (FORCE)")
    assert examined.of("database", "failed") == ["database_dsn: its encoding is SQL_ASCII"]


def test_more_servers_than_the_database_lets_in_are_told(database: PostgresDsns, run_doctor: Examine) -> None:
    """By the number of servers, or by a limit of the login."""
    dsn = database.service_dsn
    (found,) = run_doctor("--replicas", "500", DARI_DATABASE_DSN=dsn).of("database", "failed")
    assert "500 servers and their operators may need 12005 connections" in found
    with login(database, "NOINHERIT CONNECTION LIMIT 7", SERVICE_GRANT) as limited:
        (found,) = run_doctor(DARI_DATABASE_DSN=limited).of("database", "failed")
        assert "7 are to be had" in found
    (found,) = run_doctor(DARI_DATABASE_DSN=dsn, DARI_DATABASE_MAX_CONNECTIONS="103").of("database", "warning")
    assert "may need 108 connections" in found


@pytest.mark.parametrize(
    ("offset_s", "verdict"), [(0, Verdict.OK), (3, Verdict.WARNING), (-3, Verdict.WARNING), (90, Verdict.FAILED)]
)
def test_clocks_that_differ_are_told(database: PostgresDsns, offset_s: float, verdict: Verdict) -> None:
    settings = load_settings(database_dsn=database.service_dsn)
    *_, found = database_checks.look_at_server(settings, 1, lambda: time.time() + offset_s)
    assert found.verdict is verdict
    assert "clock" in found.what


@pytest.fixture
def tls(tmp_path: Path, run_doctor: Examine) -> Callable[..., Examined]:
    """Examines these bytes as the files of TLS."""

    def run(certificate: bytes, key: bytes, authorities: bytes | None = None, **variables: Any) -> Examined:
        files = {"TLS_CERTIFICATE_FILE": certificate, "TLS_KEY_FILE": key, "TLS_CLIENT_CA_FILE": authorities}
        for name, content in files.items():
            if content is not None:
                (tmp_path / name).write_bytes(content)
                (tmp_path / name).chmod(0o600)
                variables[f"DARI_{name}"] = tmp_path / name
        return run_doctor(**variables)

    return run


def test_a_certificate_that_can_be_used_is_well(tls: Callable[..., Examined]) -> None:
    issued = Authority().issue("dari.internal", valid_for=YEAR)
    examined = tls(issued.certificate, issued.key, Authority().pem)
    told = "\n".join(examined.of("tls", "ok"))
    assert "fits the certificate" in told
    assert "is for dari.internal, 127.0.0.1" in told
    # The authority's own time is short.
    assert len(examined.of("tls", "warning")) == 1
    assert tls(issued.certificate, issued.key).well("tls")


@pytest.mark.parametrize(
    ("valid_for", "verdict", "told"),
    [
        (timedelta(days=20), "warning", "in 19 days"),
        (-timedelta(days=1), "failed", "expired on"),
    ],
)
def test_a_certificate_that_ends_is_told(
    tls: Callable[..., Examined], valid_for: timedelta, verdict: str, told: str
) -> None:
    issued = Authority().issue("dari.internal", valid_for=valid_for)
    (found,) = tls(issued.certificate, issued.key).of("tls", verdict)
    assert told in found


def test_certificates_that_cannot_be_used_are_told(tls: Callable[..., Examined], tmp_path: Path) -> None:
    """A key of another, no PEM at all, no name, another host's name, a key for everyone to read."""
    authority = Authority()
    one, other = (authority.issue(name, valid_for=YEAR) for name in ("one.internal", "other.internal"))
    assert "is not the key of the first certificate" in tls(one.certificate, other.key).of("tls", "failed")[0]
    assert "no usable PEM" in tls(CANARY.encode(), one.key).of("tls", "failed")[0]
    assert "no usable PEM" in tls(one.certificate, one.key, b"none").of("tls", "failed")[0]
    nameless = authority.self_signed_without_names(YEAR)
    assert "no subject alternative name" in tls(nameless.certificate, nameless.key).of("tls", "failed")[0]
    elsewhere = authority.issue("one.internal", addresses=(), valid_for=YEAR)
    assert "is not for 127.0.0.1" in tls(elsewhere.certificate, elsewhere.key).of("tls", "warning")[0]
    (tmp_path / "TLS_KEY_FILE").unlink()
    missing = tls(one.certificate, one.key, DARI_TLS_KEY_FILE="/nowhere/key")
    assert missing.well("ports")


def test_a_key_that_is_gone_or_open_is_told(run_doctor: Examine, tmp_path: Path) -> None:
    issued = Authority().issue("dari.internal", valid_for=YEAR)
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    certificate.write_bytes(issued.certificate)
    files = {"DARI_TLS_CERTIFICATE_FILE": certificate, "DARI_TLS_KEY_FILE": key}
    (found,) = run_doctor(**files).of("tls", "failed")
    assert found == f"tls_key_file: {key}: cannot be read (No such file or directory)"
    key.write_bytes(issued.key)
    key.chmod(0o644)
    assert "others than its owner" in run_doctor(**files).of("tls", "warning")[0]


def test_a_tokens_file_is_read_as_the_server_reads_it(run_doctor: Examine, tmp_path: Path) -> None:
    holders = TokenHolders(tmp_path / "tokens.toml")
    tokens = {"DARI_TOKENS_FILE": holders.path}
    now = datetime.now(UTC)
    assert "lets nobody in" in run_doctor(**tokens).of("tokens", "failed")[0]
    holders.add("acme", Role.ADMIN)
    assert run_doctor(**tokens).well("tokens")
    holders.add("acme", Role.READER, now - timedelta(days=1))
    holders.add("globex", Role.OPERATOR, now + timedelta(days=1))
    examined = run_doctor(**tokens)
    assert "lets 2 callers in" in examined.of("tokens", "ok")[0]
    assert [told.rpartition(": ")[2] for told in examined.of("tokens", "warning")] == [
        "reader of acme",
        "operator of globex",
    ]
    holders.path.write_text(f'[[token]]\nname = "{CANARY}"\n')
    assert "token 1:" in run_doctor(**tokens).of("tokens", "failed")[0]


def test_signing_keys_are_looked_at(run_doctor: Examine, tmp_path: Path, no_proxy: None) -> None:
    """In their file, and at their issuer's address."""
    file = tmp_path / "keys.json"
    of_file = {**ISSUER, "DARI_JWT_KEYS_FILE": file}
    assert "cannot be read" in run_doctor(**of_file).of("signing keys", "failed")[0]
    file.write_text(json.dumps({"keys": [{"kty": "oct", "kid": "x", "k": CANARY}]}))
    assert "holds no RSA key" in run_doctor(**of_file).of("signing keys", "failed")[0]
    file.write_bytes(key_set(rsa_key()))
    assert "holds 1 usable keys" in run_doctor(**of_file).of("signing keys", "ok")[0]
    with FileServer(key_set(rsa_key())) as issuer:
        of_url = {**ISSUER, "DARI_JWT_KEYS_URL": f"{issuer.url}?{CANARY}"}
        assert run_doctor(**of_url).well("signing keys")
        issuer.statuses.append(503)
        assert "gives no keys (HTTPStatusError)" in run_doctor(**of_url).of("signing keys", "failed")[0]


def test_each_upstream_that_cannot_answer_is_told(server: ServedDari, flowise: StandIn, run_doctor: Examine) -> None:
    """The flow is not there, does not stream; nobody listens; a key is missing; a key is refused; a server is ill."""
    unknown, slow = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
    flowise.unknown_flows.add(unknown)
    flowise.not_streaming_flows.add(slow)
    make = server.dari
    make.make_flowise("unknown", flowise.url, unknown)
    make.make_flowise("slow", flowise.url, slow)
    make.make_flowise("keyless", flowise.url, secret="nowhere")
    make.make_local("local")
    with reserved_port() as reserved, FileServer(b"{}") as ill, FileServer(b"{}") as strict, FileServer(b"{}") as none:
        make.make_flowise("away", f"http://127.0.0.1:{reserved.getsockname()[1]}")
        make.make_openai("ill", ill.url)
        make.make_openai("strict", strict.url)
        make.make_openai("none", none.url)
        ill.statuses.append(500)
        strict.statuses.append(401)
        none.statuses.append(404)
        examined = run_doctor(DARI_DATABASE_DSN=server.dsns.service_dsn)
    told = {each.partition(" at ")[0].partition(": ")[0]: each for each in examined.of("upstreams", "failed")}
    assert f"does not know the flow {unknown}" in told["aiModels/unknown"]
    assert "gave no answer of Flowise's within 5 s" in told["aiModels/away"]
    assert "its key nowhere is not among the secrets" in told["aiModels/keyless"]
    assert "HTTP 500" in told["aiModels/ill"]
    assert "does not take the key (HTTP 401)" in told["aiModels/strict"]
    assert "there is no local model here" in told["aiModels/local"]
    assert len(told) == 6
    none_told, slow_told = examined.of("upstreams", "warning")
    assert "has no list of models at its address (HTTP 404)" in none_told
    assert slow_told.startswith("aiModels/slow at")
    assert "does not stream" in slow_told


def test_ai_models_of_every_tenant_that_the_settings_name_are_examined(
    start_server: StartServer, flowise: StandIn, run_doctor: Examine, tmp_path: Path
) -> None:
    """Of the tokens file, of the secrets, and of the option; each with the secrets of its own."""
    served = start_server()
    statement = (
        "INSERT INTO dari.ai_models (tenant, id, display_name, kind, base_url, flow_id, api_key_secret,"
        " first_token_timeout_s, stall_timeout_s, total_timeout_s, max_answer_tokens)"
        " VALUES ('{}', 'main', '', 'FLOWISE', '{}', '{}', 'key', 1, 1, 1, 1)"
    )
    for tenant in ("acme", "globex", "initech", "hooli"):
        execute(served.dsns.admin_dsn, statement.format(tenant, flowise.url, FLOW_ID))
    holders = TokenHolders(tmp_path / "tokens.toml")
    holders.add("acme", Role.ADMIN)
    examined = run_doctor(
        "--tenant",
        "initech",
        DARI_DATABASE_DSN=served.dsns.service_dsn,
        DARI_TOKENS_FILE=holders.path,
        DARI_SECRETS=json.dumps({"key": CANARY, "globex/key": CANARY}),
    )
    missing = {each.partition("/")[0] for each in examined.of("upstreams", "failed")}
    found = {each.partition("/")[0] for each in examined.of("upstreams", "ok")}
    assert (missing, found) == ({"acme", "initech"}, {"acme", "globex", "initech"})


def test_addresses_that_others_hold_are_told(run_doctor: Examine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_hang_up, args=(listener,), daemon=True).start()
        held = f"127.0.0.1:{listener.getsockname()[1]}"
        variables = {f"DARI_{which}_ADDRESS": held for which in ("LISTEN", "ADMIN", "METRICS")}
        examined = run_doctor("--timeout-s", "2", **variables)
    assert [told.partition(": is held by something ")[2] for told in examined.of("ports", "failed")] == [
        "that does not answer as dari does",
        "that does not answer as dari's health does",
        "that does not show dari's metrics",
    ]
    elsewhere = run_doctor(DARI_ADMIN_ADDRESS="192.0.2.1:50052", DARI_LISTEN_ADDRESS="localhost:0")
    assert "cannot be bound" in elsewhere.of("ports", "failed")[0]


def test_metrics_that_are_another_servers_or_off_are_told_apart(run_doctor: Examine, other: FileServer) -> None:
    address = other.url.removeprefix("http://").partition("/")[0]
    (told,) = run_doctor(DARI_METRICS_ADDRESS=address).of("ports", "failed")
    assert "does not show dari's metrics" in told
    off = run_doctor(DARI_METRICS_ADDRESS="")
    assert off.well("ports")
    assert "metrics_address" not in off.output


def _hang_up(listener: socket.socket) -> None:
    while True:
        try:
            listener.accept()[0].close()
        except OSError:
            return


def test_a_dari_behind_tls_is_known_by_its_certificate(
    start_server: StartServer, run_doctor: Examine, tmp_path: Path
) -> None:
    """And one that serves another is told."""
    paths = {"tls_certificate_file": tmp_path / "certificate", "tls_key_file": tmp_path / "key"}
    variables: dict[str, Any] = {f"DARI_{name.upper()}": path for name, path in paths.items()}

    def write(name: str) -> None:
        issued = Authority().issue(name, valid_for=YEAR)
        (tmp_path / "key").touch(mode=0o600)
        (tmp_path / "key").write_bytes(issued.key)
        (tmp_path / "certificate").write_bytes(issued.certificate)

    write("first.internal")
    served = start_server(**paths, file_check_interval_s=3_600)
    variables |= {"DARI_LISTEN_ADDRESS": served.server.address, "DARI_DATABASE_DSN": served.dsns.service_dsn}
    assert "serves the certificate of" in "".join(run_doctor(**variables).of("ports", "ok"))
    write("second.internal")
    assert "with another certificate" in run_doctor(**variables).of("ports", "warning")[0]


def test_the_file_of_the_local_model_is_looked_at(run_doctor: Examine, tmp_path: Path) -> None:
    """Not there; there; damaged; for an engine that does not read it; not a model; a manifest that is none."""
    data, file = tmp_path / "data", tmp_path / "model.gguf"
    model = {"DARI_LOCAL_MODEL": "tiny"}
    assert "has no file here" in run_doctor(**model).of("local model", "warning")[0]
    file.write_bytes(_gguf("general.architecture", "llama"))
    add_model_file(data / "models", file, model_id="tiny")
    assert run_doctor(**model).well("local model")
    wrong_engine = run_doctor(**model, DARI_LOCAL_ENGINE="ctransformers")
    assert "ctransformers does not read GGUF v3" in wrong_engine.of("local model", "failed")[0]
    file.write_bytes(file.read_bytes() + b"x")
    assert "is not the one in the manifest" in run_doctor(**model).of("local model", "failed")[0]
    file.write_bytes(b"no model at all, but long enough")
    assert len(run_doctor(**model).of("local model", "failed")) == 2
    (data / "models" / "manifest.json").write_text("{")
    assert "cannot be read" in run_doctor(**model).of("local model", "failed")[0]


def _gguf(key: str, value: str) -> bytes:
    """A file of version 3 with one pair and nothing else."""
    name, text = key.encode(), value.encode()
    pair = struct.pack("<Q", len(name)) + name + struct.pack("<IQ", 8, len(text)) + text
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + pair


def test_folders_that_cannot_be_used_are_told(run_doctor: Examine, tmp_path: Path) -> None:
    """The data folder is a file, or would be in one; the audit's folder is one; a source's is not there."""
    (tmp_path / "file").touch()
    examined = run_doctor(DARI_DATA_DIR=tmp_path / "file" / "data", DARI_AUDIT_DIR=tmp_path / "file")
    assert "lets us make nothing" in examined.of("data folder", "failed")[0]
    assert "cannot be written" in examined.of("audit", "failed")[0]
    assert list(tmp_path.iterdir()) == [tmp_path / "file"], "nothing was made"


def test_data_of_another_postgresql_is_told(run_doctor: Examine, tmp_path: Path) -> None:
    (cluster := tmp_path / "data" / "postgres" / "cluster").mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("16\n")
    assert "was made by PostgreSQL 16" in run_doctor().of("data folder", "failed")[0]


def test_targets_of_messages_that_fit_no_service_are_told_by_name(run_doctor: Examine) -> None:
    urls = {"ops": f"json://user:{CANARY}@127.0.0.1:1/", "wrong": f"nothing://{CANARY}"}
    examined = run_doctor(DARI_NOTIFY_URLS=json.dumps(urls))
    assert examined.of("notifications", "ok") == ["notify_urls.ops: can be used"]
    assert examined.of("notifications", "failed") == ["notify_urls.wrong: its URL fits no service of apprise"]


def test_a_check_that_hangs_or_breaks_hides_no_other() -> None:
    """What it had found before is told, and its exception's text is not."""
    goes_on = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield ok("here", "found before")
        goes_on.wait(SOON_S)

    def breaks() -> Iterator[Finding]:
        yield ok("there", "found before")
        raise ValueError(CANARY)

    checks = [Check("hangs", hangs, 0.05), Check("breaks", breaks), Check("is well", lambda: [ok("where", "well")])]
    found = [(check.name, finding.verdict, finding.what) for check, finding in examine(checks)]
    goes_on.set()
    assert found == [
        ("hangs", Verdict.OK, "found before"),
        ("hangs", Verdict.FAILED, "no answer within 0.05 s"),
        ("breaks", Verdict.OK, "found before"),
        ("breaks", Verdict.FAILED, "the check could not be made (ValueError)"),
        ("is well", Verdict.OK, "well"),
    ]
