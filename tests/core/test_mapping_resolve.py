"""What a chat sees: what its configuration is linked to, and what the answering model is granted."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from dari.core.mapping import (
    AiModel,
    AiModelLink,
    ChatConfiguration,
    ChatMapping,
    KnowledgeBase,
    KnowledgeBaseGrant,
    KnowledgeBaseLink,
    LocalTarget,
    Mapping,
    VisibilityReason,
    mapping_key,
    resolve,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIGURATION = ChatConfiguration("bot", "bot")
SEEN, LINKED = VisibilityReason.LINKED_AND_GRANTED, VisibilityReason.LINKED
NOT_GRANTED, EMPTY = VisibilityReason.NOT_GRANTED, VisibilityReason.EMPTY


def model(id: str) -> AiModel:
    return AiModel(id, id, LocalTarget(), 1.0)


def base(id: str, version: int = 1) -> KnowledgeBase:
    return KnowledgeBase(id, id, current_version=version)


def test_a_model_sees_what_is_linked_and_granted_and_filled() -> None:
    """Each line has its reason; the grant is asked first, so that an empty one tells nothing of itself."""
    chat = resolve(
        ChatMapping(
            CONFIGURATION,
            ((0, model("m")),),
            (base("granted"), base("ungranted"), base("empty", 0), base("both", 0)),
            frozenset({("m", "granted"), ("m", "empty"), ("m", "elsewhere"), ("other", "ungranted")}),
        )
    )
    asked, rows = chat.chain
    assert [line.reason for line in asked.knowledge_bases] == [SEEN, NOT_GRANTED, EMPTY, NOT_GRANTED]
    assert asked.visible_ids == {"granted"}
    assert [line.reason for line in rows.knowledge_bases] == [LINKED, LINKED, EMPTY, EMPTY]
    assert rows.visible_ids == {"granted", "ungranted"}
    assert rows.ai_model is None


def test_the_rows_alone_come_last_also_without_models() -> None:
    """Their place is behind every priority."""
    assert [link.priority for link in resolve(ChatMapping(CONFIGURATION, (), (), frozenset())).chain] == [1]
    chain = resolve(ChatMapping(CONFIGURATION, ((1_000, model("m")),), (), frozenset())).chain
    assert [link.priority for link in chain] == [1_000, 1_001]


ids = st.sampled_from(["a", "b", "c", "d"])


@given(
    st.lists(ids, unique=True),
    st.lists(st.tuples(ids, st.integers(0, 2)), unique_by=lambda item: item[0]),
    st.frozensets(st.tuples(ids, ids)),
)
def test_nothing_is_seen_without_link_and_grant(
    models: list[str], bases: list[tuple[str, int]], grants: frozenset[tuple[str, str]]
) -> None:
    """For any mapping; and every linked one is listed, seen or not."""
    chat = resolve(
        ChatMapping(
            CONFIGURATION,
            tuple(enumerate(map(model, models))),
            tuple(base(id, version) for id, version in bases),
            grants,
        )
    )
    filled = {id for id, version in bases if version}
    for link in chat.chain:
        granted = filled if link.ai_model is None else {id for id in filled if (link.ai_model.id, id) in grants}
        assert link.visible_ids == granted
        assert [line.knowledge_base.id for line in link.knowledge_bases] == [id for id, _ in bases]


def test_links_and_grants_have_one_order() -> None:
    """That of a list of all of them."""
    mappings: list[Mapping] = [
        AiModelLink("a", "z", 0, NOW),
        AiModelLink("b", "a", 9, NOW),
        KnowledgeBaseLink("a", "a", NOW),
        KnowledgeBaseGrant("a", "a", NOW),
    ]
    assert sorted((mappings[at] for at in (2, 0, 3, 1)), key=mapping_key) == mappings
