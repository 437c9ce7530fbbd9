"""`dari map`: labels, selectors, blocks, what is disabled, and the picture of it all, against a fake server."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from dari import cli
from dari.commands import mapping_picture
from dari.commands.exit_codes import ExitCode
from dari.v1 import chat_pb2
from dari.v1 import mapping_pb2 as wire
from tests.support.fake_dari import FakeDari

pytestmark = pytest.mark.usefixtures("wide_terminal")

Captured = pytest.CaptureFixture[str]
HOSTILE = 'chatConfigurations/<script>alert("x")</script>&'


def run(dari: FakeDari, *arguments: object) -> int:
    return cli.run(["--address", dari.address, *map(str, arguments)])


def run_json(dari: FakeDari, capsys: Captured, *arguments: object) -> list[dict[str, Any]]:
    assert cli.run(["--address", dari.address, "--json", *map(str, arguments)]) == ExitCode.OK
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def seen(base: str, *, by: "wire.LinkOrigin.ValueType" = wire.LINK_ORIGIN_SELECTOR) -> wire.ResolvedKnowledgeBase:
    return wire.ResolvedKnowledgeBase(
        knowledge_base=f"knowledgeBases/{base}",
        visible=True,
        reason=wire.VISIBILITY_REASON_LINKED_AND_GRANTED,
        version=3,
        row_count=1_200,
        link_origin=by,
        grant_origin=wire.LINK_ORIGIN_PERSON,
    )


def resolved(name: str = "chatConfigurations/bot") -> wire.ResolveChatConfigurationResponse:
    model = wire.AiModel(name="aiModels/main", kind=wire.AI_MODEL_KIND_FLOWISE)
    off = wire.ResolvedKnowledgeBase(
        knowledge_base="knowledgeBases/off", reason=wire.VISIBILITY_REASON_DISABLED, link_origin=wire.LINK_ORIGIN_PERSON
    )
    return wire.ResolveChatConfigurationResponse(
        chat_configuration=wire.ChatConfiguration(name=name),
        chain=[
            wire.ResolvedLink(ai_model=model, knowledge_bases=[seen("sales"), off]),
            wire.ResolvedLink(
                priority=1, knowledge_bases=[seen("sales"), off], warnings=[wire.CHAIN_WARNING_LESS_DATA]
            ),
        ],
        passed_by=[wire.AiModelLink(chat_configuration=name, ai_model="aiModels/spare", disabled=True)],
        warnings=[wire.CHAIN_WARNING_NO_MODEL],
    )


def test_labels_are_given_and_taken_away_and_the_others_stay(dari: FakeDari, capsys: Captured) -> None:
    run(dari, "map", "kb", "create", "k", "--label", "team=a", "--label", "env=prod")
    capsys.readouterr()
    (now,) = run_json(dari, capsys, "map", "label", "kb", "k", "team=b", "env-", "x=", "none-")
    assert now["labels"] == {"team": "b", "x": ""}
    assert run(dari, "map", "label", "kb", "k", "team") == ExitCode.USAGE
    assert "not KEY=VALUE" in capsys.readouterr().err


def test_selectors_are_given_changed_and_cleared(dari: FakeDari, capsys: Captured) -> None:
    (made,) = run_json(dari, capsys, "map", "chat", "create", "bot", "--selector", "team in (a, b)")
    assert made["knowledgeBaseSelector"] == "team in (a, b)"
    (made,) = run_json(dari, capsys, "map", "model", "create", "m", "--kind", "local", "--selector", "!secret")
    assert made["knowledgeBaseSelector"] == "!secret"
    (now,) = run_json(dari, capsys, "map", "chat", "update", "bot", "--selector", "", "--disable")
    assert (now["knowledgeBaseSelector"], now["disabled"]) == ("", True)
    (now,) = run_json(dari, capsys, "map", "chat", "update", "bot", "--enable")
    assert now["disabled"] is False
    assert run(dari, "map", "chat", "update", "bot") == ExitCode.USAGE


def test_a_block_is_handed_on(dari: FakeDari, capsys: Captured) -> None:
    (link,) = run_json(dari, capsys, "map", "link", "bot", "--kb", "k", "--block")
    (grant,) = run_json(dari, capsys, "map", "grant", "m", "k", "--block")
    (allowed,) = run_json(dari, capsys, "map", "grant", "m", "k")
    assert [each["effect"] for each in (link, grant, allowed)] == [
        "LINK_EFFECT_BLOCK",
        "LINK_EFFECT_BLOCK",
        "LINK_EFFECT_ALLOW",
    ]
    assert run(dari, "map", "link", "bot", "--model", "m", "--block") == ExitCode.USAGE
    (passed,) = run_json(dari, capsys, "map", "link", "bot", "--model", "m", "--disable")
    assert passed["disabled"] is True


def test_a_chain_is_told_with_who_decided_and_what_is_unusual(dari: FakeDari, capsys: Captured) -> None:
    run(dari, "map", "chat", "create", "bot")
    dari.mapping.resolved = resolved()
    capsys.readouterr()
    assert run(dari, "map", "resolve", "bot") == ExitCode.OK
    told = capsys.readouterr()
    for word in ("selector", "person", "disabled", "linked and granted"):
        assert word in told.out
    for words in ("sees less data", "aiModels/spare is not asked: its link is disabled", "No model is in the chain"):
        assert words in told.err


def test_every_warning_has_words(dari: FakeDari, capsys: Captured) -> None:
    """Whatever the proto gets."""
    run(dari, "map", "chat", "create", "bot")
    every = [value for value in wire.ChainWarning.values() if value]
    dari.mapping.resolved = wire.ResolveChatConfigurationResponse(warnings=every)
    assert run(dari, "map", "resolve", "bot") == ExitCode.OK


def test_the_picture_has_circuits_and_versions(dari: FakeDari, capsys: Captured, tmp_path: Path) -> None:
    """As a tree on the terminal, as an SVG in a file."""
    run(dari, "map", "chat", "create", "bot")
    dari.mapping.resolved = resolved()
    dari.chat.upstreams = [chat_pb2.Upstream(ai_model="aiModels/main", circuit_state=chat_pb2.CIRCUIT_STATE_OPEN)]
    capsys.readouterr()
    assert run(dari, "map", "show") == ExitCode.OK
    out = capsys.readouterr().out
    for words in ("1. aiModels/main (circuit open)", "version 3, 1,200 rows", "aiModels/spare (disabled)"):
        assert words in out
    file = tmp_path / "map.svg"
    assert run(dari, "map", "show", "bot", "--svg", file) == ExitCode.OK
    drawn = [text.text for text in ET.parse(file).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314 - ours
    assert drawn[:3] == ["AI models", "Chatbots", "Data"]
    assert {"main", "circuit open", "bot", "sales", "version 3, 1,200 rows", "off", "spare"} <= set(drawn)


def test_no_name_gets_out_of_its_text_in_the_picture() -> None:
    """Each resource once, whoever uses it; markup in a name stays a name, also where it is cut."""
    drawn = mapping_picture.svg([resolved(HOSTILE), resolved("chatConfigurations/" + "b" * 63)], [])
    assert "<script" not in drawn
    root = ET.fromstring(drawn)  # noqa: S314 - ours
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("sales") == texts.count("main") == 1
    assert "b" * 33 + "…" in texts
    assert ET.fromstring(mapping_picture.svg([], [])) is not None  # noqa: S314 - ours
