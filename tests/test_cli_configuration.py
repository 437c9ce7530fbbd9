"""`dari map export` and `apply`: the whole mapping as one file, against servers that speak the wire."""

import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dari import cli
from dari.client import Client
from dari.commands.configuration_calls import read_server
from dari.commands.configuration_yaml import write_configuration
from dari.commands.exit_codes import ExitCode
from dari.core.configuration import Configuration
from dari.v1 import mapping_pb2 as wire
from tests.fix_server import ServedDari, StartServer
from tests.support.configurations import configurations
from tests.support.remembered_mapping import RememberedMapping, serving

pytestmark = pytest.mark.usefixtures("wide_terminal")

Captured = pytest.CaptureFixture[str]

SUPPORT = """
ai_models:
  flow:
    kind: flowise
    flowise: {base_url: http://flowise:3000/, flow_id: 6f1c3c1e-0000-4000-8000-000000000001, api_key_secret: flow}
    knowledge_bases: [faq]
  local:
    kind: local
    knowledge_bases: [faq]
    blocked_knowledge_bases: [payroll]
chat_configurations:
  support:
    stand_by: off
    max_rows: 5
    labels: {team: 고객}
    chain:
      - flow
      - {ai_model: local, priority: 7, disabled: true}
    knowledge_bases: [faq]
knowledge_bases:
  faq:
    source: {uri: "https://a.example/faq.csv", interval_s: 3600}
  payroll:
"""


@pytest.fixture
def mapping() -> RememberedMapping:
    return RememberedMapping()


@pytest.fixture
def address(mapping: RememberedMapping) -> Iterator[str]:
    with serving(mapping) as address:
        yield address


@pytest.fixture
def real(start_server: StartServer) -> ServedDari:
    """A server with nothing in its mapping."""
    return start_server()


def apply(address: str, file: Path, *options: str) -> int:
    return cli.run(["--address", address, "map", "apply", str(file), *options])


def apply_text(address: str, folder: Path, text: str, *options: str) -> int:
    file = folder / "map.yaml"
    file.write_text(text, encoding="utf-8")
    return apply(address, file, *options)


def export(address: str, file: Path) -> str:
    assert cli.run(["--address", address, "map", "export", "-o", str(file)]) == ExitCode.OK
    return file.read_text(encoding="utf-8")


def assert_round_trip(address: str, made: Configuration) -> None:
    """A server becomes what was made, says so, and has nothing to do when it is told the same again."""
    with tempfile.TemporaryDirectory() as folder:
        file, exported = Path(folder, "made.yaml"), Path(folder, "exported.yaml")
        file.write_text(write_configuration(made, ()), encoding="utf-8")
        assert apply(address, file, "--yes", "--prune") == ExitCode.OK
        with Client(address) as client:
            found = read_server(client)
        named = {
            key: {name: one.fields[name] for name in made.resources[key].fields} for key, one in found.resources.items()
        }
        assert named == {key: dict(one.fields) for key, one in made.resources.items()}
        assert set(found.links) == set(made.links)
        before = export(address, exported)
        assert apply(address, exported, "--dry-run", "--prune") == ExitCode.OK
        assert apply(address, exported, "--yes") == ExitCode.OK
        assert export(address, exported) == before


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=configurations(whole=True))
def test_every_field_of_the_wire_survives_apply_and_export(address: str, made: Configuration) -> None:
    assert_round_trip(address, made)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=configurations(whole=False))
def test_a_real_server_becomes_what_the_file_says_and_exports_it_again(real: ServedDari, made: Configuration) -> None:
    assert_round_trip(real.server.address, made)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=configurations(whole=True), data=st.data())
def test_an_export_says_the_whole_mapping_whatever_was_there_before(
    address: str, made: Configuration, data: st.DataObject
) -> None:
    assert_round_trip(address, made)
    assert_round_trip(address, data.draw(configurations(whole=True)))
    assert_round_trip(address, made)


def test_a_file_may_leave_out_what_has_a_default(mapping: RememberedMapping, address: str, tmp_path: Path) -> None:
    assert apply_text(address, tmp_path, SUPPORT, "--yes") == ExitCode.OK
    with Client(address) as client:
        links = {str(link) for link in read_server(client).links}
    assert links == {
        "chatConfigurations/support chain: aiModels/flow, priority 1",
        "chatConfigurations/support chain: aiModels/local, priority 7, disabled",
        "chatConfigurations/support knowledge_bases: knowledgeBases/faq",
        "aiModels/flow knowledge_bases: knowledgeBases/faq",
        "aiModels/local knowledge_bases: knowledgeBases/faq",
        "aiModels/local blocked_knowledge_bases: knowledgeBases/payroll",
    }
    assert mapping.resources["aiModels/flow"].flowise.base_url == "http://flowise:3000"
    assert mapping.resources["chatConfigurations/support"].stand_by == wire.STAND_BY_OFF
    assert mapping.resources["chatConfigurations/support"].labels == {"team": "고객"}
    assert mapping.resources["knowledgeBases/faq"].source.interval.seconds == 3_600
    assert apply_text(address, tmp_path, SUPPORT, "--dry-run") == ExitCode.OK


def test_the_difference_is_told_field_by_field(address: str, tmp_path: Path, capsys: Captured) -> None:
    apply_text(address, tmp_path, SUPPORT, "--yes")
    capsys.readouterr()
    text = SUPPORT.replace("max_rows: 5", "max_rows: 6").replace("http://flowise:3000/", "http://other:3000")
    text = text.replace("priority: 7", "priority: 8").replace("knowledge_bases: [payroll]", "knowledge_bases: []")
    assert apply_text(address, tmp_path, text, "--dry-run", "--prune") == ExitCode.DIFFERENT
    chain = "chatConfigurations/support chain: aiModels/local"
    assert capsys.readouterr().out.splitlines() == [
        "- aiModels/local blocked_knowledge_bases: knowledgeBases/payroll",
        "~ aiModels/flow",
        '    flowise.base_url: "http://flowise:3000" → "http://other:3000"',
        "~ chatConfigurations/support",
        "    max_rows: 5 → 6",
        f"~ {chain}, priority 8, disabled (was {chain}, priority 7, disabled)",
    ]


def test_json_tells_one_change_a_line(address: str, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "map.yaml"
    file.write_text("knowledge_bases: {faq: {description: x}}")
    assert cli.run(["--address", address, "--json", "map", "apply", str(file), "--dry-run"]) == ExitCode.DIFFERENT
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "change": "create",
        "what": "knowledgeBases/faq",
        "fields": {"description": {"before": None, "after": "x"}},
    }


def test_a_dry_run_changes_nothing(mapping: RememberedMapping, address: str, tmp_path: Path) -> None:
    assert apply_text(address, tmp_path, SUPPORT, "--dry-run") == ExitCode.DIFFERENT
    assert mapping.changes == []


@pytest.mark.parametrize(("answer", "code", "is_done"), [("y\n", ExitCode.OK, True), ("n\n", ExitCode.FAILED, False)])
def test_nothing_is_done_before_it_is_agreed_to(
    mapping: RememberedMapping,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    code: ExitCode,
    is_done: bool,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert apply_text(address, tmp_path, SUPPORT) == code
    assert bool(mapping.changes) == is_done


def test_without_prune_nothing_goes_and_what_stays_is_told(
    mapping: RememberedMapping, address: str, tmp_path: Path, capsys: Captured
) -> None:
    apply_text(address, tmp_path, SUPPORT, "--yes")
    capsys.readouterr()
    less = "knowledge_bases: {faq: }\nchat_configurations: {support: {knowledge_bases: []}}"
    assert apply_text(address, tmp_path, less, "--yes") == ExitCode.OK
    told = capsys.readouterr().err
    assert "knowledgeBases/payroll" in told
    assert "support knowledge_bases: knowledgeBases/faq" in told
    assert "knowledgeBases/payroll" in mapping.resources


def test_what_sections_and_lists_do_not_name_goes_with_prune(
    mapping: RememberedMapping, address: str, tmp_path: Path
) -> None:
    apply_text(address, tmp_path, SUPPORT, "--yes")
    less = "chat_configurations: {}\nai_models: {local: {blocked_knowledge_bases: [], knowledge_bases: [faq]}}"
    assert apply_text(address, tmp_path, less, "--yes", "--prune") == ExitCode.OK
    assert set(mapping.resources) == {"aiModels/local", "knowledgeBases/faq", "knowledgeBases/payroll"}
    assert [key[1:] for key in mapping.links] == [("aiModels/local", "knowledgeBases/faq")]


def test_what_is_still_needed_is_not_pruned_and_nothing_is_done(
    mapping: RememberedMapping, address: str, tmp_path: Path, capsys: Captured
) -> None:
    apply_text(address, tmp_path, SUPPORT, "--yes")
    before = len(mapping.changes)
    assert apply_text(address, tmp_path, "knowledge_bases: {faq: }", "--yes", "--prune") == ExitCode.BAD_INPUT
    assert "knowledgeBases/payroll cannot be removed: aiModels/local" in capsys.readouterr().err
    assert len(mapping.changes) == before


def test_what_changed_after_it_was_shown_is_refused(
    real: ServedDari, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Somebody renames the knowledge base while the question is on the screen."""
    address = real.server.address
    apply_text(address, tmp_path, "knowledge_bases: {faq: {description: one}}", "--yes")

    def confirm(*_: Any, **__: Any) -> bool:
        with Client(address) as client:
            base = wire.KnowledgeBase(name="knowledgeBases/faq", display_name="by somebody else")
            client.mapping.UpdateKnowledgeBase(wire.UpdateKnowledgeBaseRequest(knowledge_base=base))
        return True

    monkeypatch.setattr("typer.confirm", confirm)
    assert apply_text(address, tmp_path, "knowledge_bases: {faq: {description: two}}") == ExitCode.FAILED
    assert "changed meanwhile" in capsys.readouterr().err
    with Client(address) as client:
        found = client.mapping.GetKnowledgeBase(wire.GetKnowledgeBaseRequest(name="knowledgeBases/faq"))
    assert (found.knowledge_base.description, found.knowledge_base.display_name) == ("one", "by somebody else")


def test_a_stale_etag_is_refused_by_the_server(
    mapping: RememberedMapping, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """The change comes after the last look, before the call."""
    apply_text(address, tmp_path, "knowledge_bases: {faq: {description: one}}", "--yes")
    with Client(address) as client:
        seen = read_server(client)
    mapping.resources["knowledgeBases/faq"].etag = "another"
    monkeypatch.setattr("dari.commands.configuration_calls.read_server", lambda client: seen)
    assert apply_text(address, tmp_path, "knowledge_bases: {faq: {description: two}}", "--yes") == ExitCode.FAILED
    assert mapping.resources["knowledgeBases/faq"].description == "one"
    assert "0 of 1 changes are made" in capsys.readouterr().err


def test_what_the_server_refuses_is_told_with_its_place(real: ServedDari, tmp_path: Path, capsys: Captured) -> None:
    """The file's own check does not know what a flow id is; what was made before it stays."""
    flow = "ai_models:\n  a:\n    kind: flowise\n    flowise:\n      base_url: http://a\n      flow_id: none\n"
    text = f"{flow}knowledge_bases: {{faq: }}\n"
    assert apply_text(real.server.address, tmp_path, text, "--yes") == ExitCode.FAILED
    told = capsys.readouterr().err
    assert "map.yaml:6: ai_models.a.flowise.flow_id: refused by the server" in told
    assert "must be the UUID of a chatflow" in told
    assert "1 of 2 changes are made" in told
    text = text.replace("none", str(uuid4()))
    assert apply_text(real.server.address, tmp_path, text, "--yes") == ExitCode.OK


BAD_FILES: list[tuple[str, str]] = [
    ("ai_model: {}", "map.yaml:1: ai_model: is not known; there are ai_models, chat_configurations, knowledge_bases"),
    ("- a", "map.yaml:1: the file: must be names with values"),
    ("knowledge_bases:\n  faq:\n    rows: 3", "map.yaml:3: knowledge_bases.faq.rows: is not known; there are"),
    ("knowledge_bases:\n  Faq:", "map.yaml:2: knowledge_bases.Faq: an id is 1 to 63"),
    ("knowledge_bases:\n  faq:\n  faq:", "map.yaml:2: knowledge_bases.faq: stands twice"),
    ("chat_configurations:\n  a:\n    max_rows: many", "map.yaml:3: chat_configurations.a.max_rows: must be a whole"),
    ("chat_configurations:\n  a:\n    max_rows: 51", "map.yaml:3: chat_configurations.a.max_rows: must be a whole"),
    ("chat_configurations:\n  a:\n    max_rows: 1:30", "map.yaml:3: chat_configurations.a.max_rows: must be a whole"),
    ("chat_configurations:\n  a:\n    stand_by: 1", "map.yaml:3: chat_configurations.a.stand_by: must be off or warm"),
    ("chat_configurations:\n  a:\n    stand_by_after_s: .nan", "map.yaml:3: chat_configurations.a.stand_by_after_s"),
    ("chat_configurations:\n  a:\n    disabled: maybe", "map.yaml:3: chat_configurations.a.disabled: must be true"),
    ("chat_configurations:\n  a:\n    chain: [b]", "map.yaml:3: chat_configurations.a.chain.b: b is neither in"),
    ("chat_configurations:\n  a:\n    chain: [b, b]", "map.yaml:3: chat_configurations.a.chain.b: stands twice"),
    ("chat_configurations:\n  a:\n    chain: b", "map.yaml:3: chat_configurations.a.chain: must be a list"),
    ("chat_configurations:\n  a:\n    chain: [{priority: 1}]", "map.yaml:3: chat_configurations.a.chain: must name"),
    ("chat_configurations:\n  a:\n    labels: [b]", "map.yaml:3: chat_configurations.a.labels: must be names with"),
    ("chat_configurations:\n  a:\n    instructions:", "map.yaml:3: chat_configurations.a.instructions: must be text"),
    ("ai_models:\n  a:\n    local: {}", "map.yaml:2: ai_models.a: kind is missing"),
    ("ai_models:\n  a:\n    kind: flowise", "map.yaml:2: ai_models.a: flowise is missing"),
    (
        "ai_models:\n  a:\n    kind: local\n    flowise: {base_url: x}",
        "map.yaml:4: ai_models.a.flowise.flow_id: is miss",
    ),
    ("ai_models:\n  a: {kind: local, flowise: {}}", "map.yaml:2: ai_models.a.flowise: does not go with local"),
    ("ai_models: {\n  a", "map.yaml:2: is not YAML"),
    ("a: &a [*a]", "map.yaml:1: a: is not known"),
    ("ai_models: !!python/object/apply:os.system [x]", "map.yaml:1: ai_models: must be names with values"),
    ("[" * 5_000, "map.yaml: is not YAML that can be read"),
]


@pytest.mark.parametrize(("text", "told"), BAD_FILES)
def test_a_mistake_is_told_with_file_line_and_field(
    mapping: RememberedMapping, address: str, tmp_path: Path, capsys: Captured, text: str, told: str
) -> None:
    assert apply_text(address, tmp_path, text, "--yes") == ExitCode.BAD_INPUT
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""
    assert mapping.changes == []


def test_all_mistakes_are_told_at_once(address: str, tmp_path: Path, capsys: Captured) -> None:
    text = "knowledge_bases:\n  a: {rows: 1}\n  b: {paused: true}\n"
    assert apply_text(address, tmp_path, text, "--yes") == ExitCode.BAD_INPUT
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_the_kind_of_a_model_cannot_be_changed(address: str, tmp_path: Path, capsys: Captured) -> None:
    apply_text(address, tmp_path, "ai_models: {a: {kind: local}}", "--yes")
    text = "ai_models:\n  a:\n    kind: flowise\n    flowise: {base_url: http://a, flow_id: x}"
    assert apply_text(address, tmp_path, text, "--yes") == ExitCode.BAD_INPUT
    assert "map.yaml:3: ai_models.a.kind: is local on the server" in capsys.readouterr().err


def test_a_file_that_is_not_there_ends_with_no_input(address: str, tmp_path: Path) -> None:
    assert apply(address, tmp_path / "none.yaml", "--yes") == ExitCode.NO_INPUT


def test_bytes_that_are_no_utf_8_are_told(address: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "map.yaml").write_bytes("knowledge_bases: {faq: {description: 고객}}".encode("cp949"))
    assert apply(address, tmp_path / "map.yaml", "--yes") == ExitCode.BAD_INPUT
    assert "is not UTF-8" in capsys.readouterr().err


def test_json_asks_nothing(address: str, tmp_path: Path) -> None:
    assert cli.run(["--address", address, "--json", "map", "apply", str(tmp_path / "map.yaml")]) == ExitCode.USAGE


def test_an_export_that_cannot_be_written_ends_with_no_output(address: str, tmp_path: Path) -> None:
    target = tmp_path / "missing" / "map.yaml"
    assert cli.run(["--address", address, "map", "export", "-o", str(target)]) == ExitCode.NO_OUTPUT
