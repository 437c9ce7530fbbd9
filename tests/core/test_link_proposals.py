"""Rows of an older system become resources, and links are proposed with their reasons."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.core.configuration import LinkList
from dari.core.link_proposals import MOST_DOUBTFUL, Proposal, propose
from dari.core.old_tables import OldRow, kind_of_table, read_rows, snake_case

FLOW = "6f1c3c1e-0000-4000-8000-000000000001"
FLOWISE = {"id": 1, "name": "Flow", "flowId": FLOW, "url": "http://flowise:3000"}
SECRET = "plain-secret-value"

Tables = dict[str, list[dict[str, Any]]]


def tables(models: Any = (), chats: Any = (), bases: Any = ()) -> Tables:
    return {"aiModels": [*models], "chatConfigurations": [*chats], "knowledgeBases": [*bases]}


def only(rows: tuple[OldRow, ...]) -> OldRow:
    (row,) = rows
    return row


def proposed(made: Tables, list: LinkList) -> Proposal | None:
    return next((one for one in propose(read_rows(made)) if one.link.list is list), None)


@pytest.mark.parametrize("name", ["aiModels", "ai_models", "AiModel", "AI-Models", "AIMODELS"])
def test_a_table_is_known_however_it_is_written(name: str) -> None:
    kind = kind_of_table(name)
    assert kind is not None
    assert kind.collection == "aiModels"


@pytest.mark.parametrize(
    ("name", "same"), [("flowId", "flow_id"), ("Flow ID", "flow_id"), ("FLOW_ID", "flow_id"), ("APIKey", "api_key")]
)
def test_a_column_is_known_however_it_is_written(name: str, same: str) -> None:
    assert snake_case(name) == same


TARGETS: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
    (FLOWISE, {"base_url": "http://flowise:3000", "flow_id": FLOW, "api_key_secret": ""}),
    (
        {"name": "x", "apiUrl": f"http://f:3000/api/v1/prediction/{FLOW}"},
        {"base_url": "http://f:3000", "flow_id": FLOW, "api_key_secret": ""},
    ),
    (
        {"name": "x", "provider": "OpenAI", "base_url": "http://u:p@h/v1/chat/completions?k=1", "model": "m"},
        {"base_url": "http://h/v1", "model": "m", "api_key_secret": ""},
    ),
    (
        {"name": "x", "endpoint": "http://h/v1", "model": "m", "api_key": SECRET},
        {"base_url": "http://h/v1", "model": "m", "api_key_secret": "x-api-key"},
    ),
    ({"name": "x", "type": "local"}, {"model_file": ""}),
    ({"name": "x", "provider": "openai", "model": "m"}, None),
    ({"name": "x", "provider": "flowise", "url": "flowise", "flow_id": FLOW}, None),
    ({"name": "x", "url": "http://[oops", "flow_id": FLOW}, None),
    ({"name": "x"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("row", "target"), TARGETS)
def test_where_a_model_is_comes_from_its_row_or_is_left_to_a_person(
    row: dict[str, Any], target: dict[str, Any] | None
) -> None:
    old = only(read_rows(tables([row])))
    assert old.is_complete == (target is not None)
    assert old.resource.fields.get(str(old.resource.fields.get("kind"))) == target
    assert old.notes or old.is_complete


SECRETS: list[dict[str, Any]] = [
    {"apiKey": SECRET},
    {"api_key": SECRET, "name": f"key is {SECRET}", "description": f"use {SECRET}"},
    {"config": {"nested": [{"openAIApiKey": SECRET}]}},
    {"config": f'{{"password": "{SECRET}"}}', "prompt": f'{{"authToken": "{SECRET}"}}'},
    {"description": f"API key: {SECRET}", "systemPrompt": f"Bearer {SECRET}"},
    {"url": f"http://me:{SECRET}@host/v1", "endpoint": f"http://host/v1?key={SECRET}"},
    {"model": f"sk-{SECRET}", "name": f"sk-{SECRET}", "id": f"sk-{SECRET}"},
    {"prompt": f'{{"broken": 1, "api_key": "{SECRET}"'},
]


@pytest.mark.parametrize("row", SECRETS)
@pytest.mark.parametrize("place", ["models", "chats", "bases"])
def test_no_secret_is_taken_over_and_that_is_told(row: dict[str, Any], place: str) -> None:
    old = only(read_rows(tables(**{place: [row]})))
    assert SECRET not in repr(old)
    assert any("left out" in note or "not taken over" in note for note in old.notes)


@pytest.mark.parametrize("column", ["max_tokens", "maxTokens", "context_tokens", "monkey", "api_key_name"])
def test_a_column_that_only_sounds_like_a_secret_is_none(column: str) -> None:
    old = only(read_rows(tables(bases=[{"name": "x", column: "500"}])))
    assert old.notes == ()
    assert "500" in old.texts.values()


LINKS: list[tuple[str, Tables, LinkList, bool | None, str]] = [
    (
        "a flow id in a column of JSON",
        tables([FLOWISE], [{"name": "a", "data": f'{{"x": ["{FLOW}"]}}'}]),
        LinkList.CHAIN,
        True,
        "its flow id is mentioned",
    ),
    (
        "an address that only one model has",
        tables([FLOWISE], [{"name": "a", "note": "see http://flowise:3000/x"}]),
        LinkList.CHAIN,
        True,
        "its address is mentioned",
    ),
    (
        "an address that two models share",
        tables(
            [FLOWISE, {**FLOWISE, "name": "Other", "flowId": FLOW[:-1] + "2"}],
            [{"name": "a", "n": "http://flowise:3000"}],
        ),
        LinkList.CHAIN,
        False,
        "a shared address is mentioned",
    ),
    (
        "a column with the id of the model",
        tables([{**FLOWISE, "id": 7}], [{"name": "a", "aiModelId": 7}]),
        LinkList.CHAIN,
        True,
        "column ai_model_id names its old id",
    ),
    (
        "a column with several ids",
        tables(bases=[{"id": 5, "name": "q"}], chats=[{"name": "a", "knowledgeBaseIds": [4, 5]}]),
        LinkList.LINKED,
        True,
        "column knowledge_base_ids names its old id",
    ),
    (
        "an id that stands twice",
        tables(bases=[{"id": 5, "name": "q"}, {"id": 5, "name": "r"}], chats=[{"name": "a", "kbId": "5"}]),
        LinkList.LINKED,
        False,
        "column kb_id names an old id that stands twice",
    ),
    (
        "a number that is no reference",
        tables([{**FLOWISE, "id": 1}], [{"name": "a", "modelTemperature": 1}]),
        LinkList.CHAIN,
        None,
        "",
    ),
    (
        "the name of a model",
        tables([{**FLOWISE, "name": "Orion"}], [{"name": "a", "settings": {"uses": "orion"}}]),
        LinkList.CHAIN,
        True,
        "its name is mentioned",
    ),
    (
        "a name within a longer word",
        tables([{**FLOWISE, "name": "Ori"}], [{"name": "a", "settings": "orion"}]),
        LinkList.CHAIN,
        None,
        "",
    ),
    (
        "Korean words with endings",
        tables(bases=[{"name": "상품 환불"}], chats=[{"name": "상품을 환불하기"}]),
        LinkList.LINKED,
        True,
        "both speak of “상품”",
    ),
    (
        "one word",
        tables(bases=[{"name": "payroll rules"}], chats=[{"name": "payroll"}]),
        LinkList.LINKED,
        False,
        "both speak of “payroll”",
    ),
    (
        "one word and the same team",
        tables(bases=[{"name": "payroll rules", "teamId": 3}], chats=[{"name": "payroll", "team_id": "3"}]),
        LinkList.LINKED,
        True,
        "same team_id",
    ),
    (
        "a mention across teams",
        tables(bases=[{"id": 9, "name": "payroll", "team": "hr"}], chats=[{"name": "x", "kb": 9, "team": "cs"}]),
        LinkList.LINKED,
        False,
        "but another team",
    ),
    (
        "words that say nothing",
        tables(bases=[{"name": "지식 데이터"}], chats=[{"name": "지식 데이터 챗봇"}]),
        LinkList.LINKED,
        True,
        "its name is mentioned",
    ),
    ("nothing in common", tables(bases=[{"name": "payroll"}], chats=[{"name": "a"}]), LinkList.LINKED, None, ""),
]


@pytest.mark.parametrize(
    ("made", "list", "is_sure", "reason"), [line[1:] for line in LINKS], ids=[line[0] for line in LINKS]
)
def test_a_link_is_proposed_with_its_reason(made: Tables, list: LinkList, is_sure: bool | None, reason: str) -> None:
    found = proposed(made, list)
    assert (found.is_sure if found else None) == is_sure
    assert reason in (found.reasons if found else ("",))


def test_a_model_is_granted_what_its_chatbot_answers_from_as_sure_as_both() -> None:
    chat = {"name": "a", "aiModelId": 1, "knowledgeBaseId": 2}
    found = proposed(tables([FLOWISE], [chat], [{"id": 2, "name": "q"}]), LinkList.GRANTED)
    assert found is not None
    assert (found.link.holder, found.link.target, found.is_sure) == ("flow", "q", True)


def test_of_many_doubtful_links_the_surest_are_proposed_and_every_sure_one() -> None:
    bases = [{"id": f"base-{number}", "name": f"q {number}", "team": "cs"} for number in range(20)]
    named = {"id": "base-named", "name": "payroll", "team": "cs"}
    chat = {"name": "payroll bot", "team": "cs", "kb": [f"base-{number}" for number in range(7)]}
    found = list(propose(read_rows(tables(chats=[chat], bases=[named, *bases]))))
    assert sum(one.is_sure for one in found) == 8
    assert sum(not one.is_sure for one in found) == MOST_DOUBTFUL


def test_a_grant_across_owners_is_never_sure() -> None:
    chat = {"name": "a", "aiModelId": 1, "knowledgeBaseId": 2}
    made = tables([{**FLOWISE, "team": "cs"}], [chat], [{"id": 2, "name": "q", "team": "hr"}])
    found = proposed(made, LinkList.GRANTED)
    assert found is not None
    assert not found.is_sure
    assert "but another team" in found.reasons


_CELLS = (
    st.none()
    | st.integers(0, 3)
    | st.booleans()
    | st.text(max_size=20)
    | st.sampled_from(
        ("고객 상담", FLOW, "http://flowise:3000", "http://[oops", "{", '{"a": [1]}', "\ud7ff", "\0", "1,2")
    )
    | st.lists(st.integers(0, 3), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=2)
)
_COLUMNS = st.sampled_from(
    (
        "id",
        "name",
        "title",
        "flowId",
        "url",
        "model",
        "provider",
        "apiKey",
        "teamId",
        "aiModelId",
        "kb_ids",
        "x",
        "",
        "\n",
    )
)
_ROWS = st.lists(st.dictionaries(_COLUMNS, _CELLS, max_size=6), max_size=5)


@given(_ROWS, _ROWS, _ROWS)
def test_no_row_is_too_ugly_and_each_becomes_a_resource_of_its_own(models: Any, chats: Any, bases: Any) -> None:
    made = tables(models, chats, bases)
    rows = read_rows(made)
    assert len({row.resource.name for row in rows}) == len(models) + len(chats) + len(bases)
    found = propose(rows)
    assert len({one.link.key for one in found}) == len(found)
    assert all(one.reasons and 0 < one.confidence <= 1 for one in found)
    assert (rows, found) == (read_rows(made), propose(read_rows(made)))
