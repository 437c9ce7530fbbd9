"""The command line before a server that asks who calls: tokens, TLS, and where neither shows."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dari import cli
from dari.adapters.credentials.token_file import TokenFile
from dari.client import Access, CallFailed, Client
from dari.commands.exit_codes import ExitCode
from dari.core.callers import Caller, Role
from dari.v1 import ingest_pb2, mapping_pb2
from tests.fix_server import ServedDari, StartServer
from tests.support.credentials import Authority, TokenHolders
from tests.support.running_dari import SOON_S
from tests.support.serving_process import environment
from tests.support.waiting import until

Captured = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("wide_terminal")


@pytest.fixture
def holders(tmp_path: Path) -> TokenHolders:
    return TokenHolders(tmp_path / "tokens.toml")


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def server(start_server: StartServer, holders: TokenHolders, authority: Authority, tmp_path: Path) -> ServedDari:
    """It knows the tokens, and speaks TLS."""
    pem = authority.issue("dari")
    for name, content in (("ca.pem", authority.pem), ("tls.crt", pem.certificate), ("tls.key", pem.key)):
        (tmp_path / name).write_bytes(content)
    return start_server(
        tokens_file=holders.path,
        file_check_interval_s=0.02,
        tls_certificate_file=tmp_path / "tls.crt",
        tls_key_file=tmp_path / "tls.key",
    )


def test_token_create_prints_a_token_and_the_entry_that_knows_it(capsys: Captured) -> None:
    arguments = ["token", "create", "--name", "nightly load", "--tenant", "acme", "--role", "operator"]
    assert cli.run(["--json", *arguments, "--expires-in-days", "7"]) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    file = TokenFile.read([told["entry"].encode()])
    assert file.caller_with_token(told["token"], datetime.now(UTC)) == Caller("nightly load", "acme", Role.OPERATOR)
    assert (tomllib.loads(told["entry"])["token"][0]["expires"] - datetime.now(UTC)).days == 6
    assert told["token"] not in told["entry"]
    assert cli.run(arguments) == ExitCode.OK
    token, *entry = capsys.readouterr().out.splitlines()
    assert TokenFile.read(["\n".join(entry).encode()]).caller_with_token(token, datetime.now(UTC)).tenant == "acme"


@pytest.mark.parametrize(
    "arguments",
    [
        ["token", "create", "--name", 'a"b', "--tenant", "acme", "--role", "reader"],
        ["token", "create", "--name", "a", "--tenant", "Acme", "--role", "reader"],
        ["token", "create", "--name", "a", "--tenant", "acme", "--role", "root"],
        ["token", "create", "--name", "a", "--tenant", "acme"],
        ["--client-certificate", "c.pem", "status"],
        ["--token", "t", "status"],
    ],
)
def test_what_names_no_caller_is_wrong_usage(arguments: Sequence[str], capsys: Captured) -> None:
    """A token as an option too: a command line shows in ps."""
    assert cli.run(arguments) == ExitCode.USAGE
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("by", ["file", "variable"])
def test_commands_bring_the_token_over_tls(
    server: ServedDari,
    holders: TokenHolders,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    token = holders.add("acme", Role.ADMIN)
    _wait_until_known(server, token, tmp_path)
    options = ["--address", server.server.address, "--tls-ca", str(tmp_path / "ca.pem"), "--json"]
    if by == "file":
        (tmp_path / "token").write_text(f"{token}\n")
        options += ["--token-file", str(tmp_path / "token")]
    else:
        monkeypatch.setenv("DARI_TOKEN", token)
    (tmp_path / "sales.csv").write_text("id,name\n1,one\n")
    assert cli.run([*options, "ingest", str(tmp_path / "sales.csv"), "--kb", "sales", "--create"]) == ExitCode.OK
    assert cli.run([*options, "uploads"]) == ExitCode.OK
    assert "knowledgeBases/sales" in capsys.readouterr().out


def test_without_a_token_a_command_says_what_is_missing(server: ServedDari, tmp_path: Path, capsys: Captured) -> None:
    options = ["--address", server.server.address, "--tls-ca", str(tmp_path / "ca.pem")]
    assert cli.run([*options, "uploads"]) == ExitCode.FAILED
    told = capsys.readouterr().err
    assert "UNAUTHENTICATED" in told
    assert "token_missing" in told


def test_a_token_file_that_is_missing_is_named(capsys: Captured, tmp_path: Path) -> None:
    assert cli.run(["--token-file", str(tmp_path / "none"), "uploads"]) == ExitCode.NO_INPUT
    assert "none" in capsys.readouterr().err


def test_a_token_shows_neither_in_ps_nor_in_what_a_command_says(holders: TokenHolders, tmp_path: Path) -> None:
    """Of a process of its own, with a server that is not there."""
    token = holders.add("acme", Role.ADMIN)
    command = [sys.executable, "-m", "dari", "--address", "127.0.0.1:1", "uploads"]
    with subprocess.Popen(
        command, env=environment(DARI_TOKEN=token), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        shown = Path(f"/proc/{process.pid}/cmdline").read_text()
        said = process.communicate(timeout=SOON_S)[0]
    assert process.returncode == ExitCode.UNAVAILABLE
    assert token not in shown + said


def test_access_shows_no_secret() -> None:
    access = Access("canary-token", certificate=b"public", key=b"canary-key")
    assert "canary" not in repr(access)
    with pytest.raises(ValueError, match="go together"):
        Access(key=b"canary-key")


def test_every_kind_of_call_of_a_client_brings_the_token(
    server: ServedDari, holders: TokenHolders, tmp_path: Path
) -> None:
    """Unary, streams in both directions, and one that is watched."""
    token = holders.add("acme", Role.ADMIN)
    _wait_until_known(server, token, tmp_path)
    (tmp_path / "sales.csv").write_text("id\n1\n")
    with Client(server.server.address, access=_access(token, tmp_path)) as client:
        client.mapping.CreateKnowledgeBase(mapping_pb2.CreateKnowledgeBaseRequest(knowledge_base_id="sales"))
        receipt = client.ingest(tmp_path / "sales.csv", "knowledgeBases/sales", ingest_pb2.UPLOAD_MODE_REPLACE)
        assert client.export("knowledgeBases/sales", tmp_path / "out.csv") == len("id\n1\n")
        assert [state.name for state in client.watch(receipt.upload)] == [receipt.upload]


def _access(token: str, folder: Path) -> Access:
    return Access(token, authorities=(folder / "ca.pem").read_bytes())


def _wait_until_known(server: ServedDari, token: str, folder: Path) -> None:
    def is_known() -> bool:
        try:
            with Client(server.server.address, access=_access(token, folder)) as client:
                client.ingests.ListUploads(ingest_pb2.ListUploadsRequest())
        except CallFailed:
            return False
        return True

    until(is_known)
