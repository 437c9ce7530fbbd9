"""What a chat sees: what its configuration is linked to, and what the answering model is granted."""

from collections.abc import Mapping as Dictionary
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from dari.core.mapping import (
    AiModel,
    AiModelLink,
    ChainWarning,
    ChatConfiguration,
    ChatMapping,
    Choice,
    KnowledgeBase,
    KnowledgeBaseGrant,
    KnowledgeBaseLink,
    LinkEffect,
    LinkOrigin,
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
BLOCKED, DISABLED = VisibilityReason.BLOCKED, VisibilityReason.DISABLED
PERSON, SELECTOR = LinkOrigin.PERSON, LinkOrigin.SELECTOR
ALLOW, BLOCK, SELECTED, UNSAID = Choice(LinkEffect.ALLOW), Choice(LinkEffect.BLOCK), Choice(None, True), Choice()
OVERRULED = Choice(LinkEffect.BLOCK, True)


def model(id: str, *, disabled: bool = False) -> AiModel:
    return AiModel(id, id, LocalTarget(), 1.0, disabled=disabled)


def chained(*ids: str) -> tuple[tuple[AiModelLink, AiModel], ...]:
    return tuple((AiModelLink("bot", id, place, NOW), model(id)) for place, id in enumerate(ids))


def base(id: str, version: int = 1, *, disabled: bool = False) -> KnowledgeBase:
    return KnowledgeBase(id, id, current_version=version, disabled=disabled)


LINES: list[tuple[str, Choice, Choice, KnowledgeBase, VisibilityReason, VisibilityReason]] = [
    # name, link, grant, knowledge base, why the model sees it or not, why the rows alone do
    ("both by a person", ALLOW, ALLOW, base("k"), SEEN, LINKED),
    ("both by selectors", SELECTED, SELECTED, base("k"), SEEN, LINKED),
    ("one by each", SELECTED, ALLOW, base("k"), SEEN, LINKED),
    ("not granted", ALLOW, UNSAID, base("k"), NOT_GRANTED, LINKED),
    ("not granted, and empty", ALLOW, UNSAID, base("k", 0), NOT_GRANTED, EMPTY),
    ("empty", ALLOW, ALLOW, base("k", 0), EMPTY, EMPTY),
    ("blocked for the chat", BLOCK, ALLOW, base("k"), BLOCKED, BLOCKED),
    ("blocked for the chat against its selector", OVERRULED, ALLOW, base("k"), BLOCKED, BLOCKED),
    ("blocked for the model", ALLOW, BLOCK, base("k"), BLOCKED, LINKED),
    ("blocked for the model against its selector", SELECTED, OVERRULED, base("k"), BLOCKED, LINKED),
    ("disabled", ALLOW, SELECTED, base("k", disabled=True), DISABLED, DISABLED),
    ("disabled and not granted", ALLOW, UNSAID, base("k", disabled=True), NOT_GRANTED, DISABLED),
]


def test_a_model_sees_what_is_linked_and_granted_and_filled() -> None:
    """Each line has its reason; the grant is asked first, so that an empty one tells nothing of itself."""
    for name, link, grant, seen, by_model, by_rows in LINES:
        asked, rows = resolve(
            ChatMapping(CONFIGURATION, chained("m"), ((seen, link),), {("m", "k"): grant, ("other", "k"): ALLOW})
        ).chain
        assert [line.reason for line in asked.knowledge_bases] == [by_model], name
        assert [line.reason for line in rows.knowledge_bases] == [by_rows], name
        assert (asked.visible_ids == {"k"}, rows.visible_ids == {"k"}) == (by_model is SEEN, by_rows is LINKED), name
        assert rows.ai_model is None


def test_each_line_says_who_decided() -> None:
    """A person wins over a selector, also where both say the same."""
    both = Choice(LinkEffect.ALLOW, True)
    for link, grant, origins in (
        (ALLOW, SELECTED, (PERSON, SELECTOR)),
        (SELECTED, UNSAID, (SELECTOR, None)),
        (both, OVERRULED, (PERSON, PERSON)),
    ):
        mapping = ChatMapping(CONFIGURATION, chained("m"), ((base("k"), link),), {("m", "k"): grant})
        asked, rows = resolve(mapping).chain
        (line,) = asked.knowledge_bases
        assert (line.link_origin, line.grant_origin) == origins
        (line,) = rows.knowledge_bases
        assert (line.link_origin, line.grant_origin) == (origins[0], None)


def test_what_is_disabled_is_passed_by_and_told() -> None:
    """A model, or its link."""
    models = (
        (AiModelLink("bot", "a", 0, NOW), model("a", disabled=True)),
        (AiModelLink("bot", "b", 1, NOW, True), model("b")),
        (AiModelLink("bot", "c", 2, NOW), model("c")),
    )
    chat = resolve(ChatMapping(CONFIGURATION, models, (), {}))
    assert [link.ai_model and link.ai_model.id for link in chat.chain] == ["c", None]
    assert [link.ai_model for link in chat.passed_by] == ["a", "b"]


WARNED: list[tuple[str, list[set[str]], list[set[ChainWarning]], set[ChainWarning]]] = [
    # name, what each model sees, the warnings of each and of the rows alone (which see a and b), those of the whole
    ("all see all", [{"a", "b"}, {"a", "b"}], [set(), set(), set()], set()),
    ("the second sees less", [{"a", "b"}, {"a"}], [set(), {ChainWarning.LESS_DATA}, set()], set()),
    (
        "the second sees something else",
        [{"a"}, {"b"}],
        [set(), {ChainWarning.LESS_DATA, ChainWarning.OTHER_DATA}, set()],
        set(),
    ),
    ("only the rows see data", [set()], [set(), {ChainWarning.OTHER_DATA}], set()),
    ("no model", [], [set()], {ChainWarning.NO_MODEL}),
]


def test_links_that_see_different_data_are_told() -> None:
    for name, seen, warnings, of_all in WARNED:
        ids = [f"m{place}" for place in range(len(seen))]
        grants = {(id, each): ALLOW for id, bases in zip(ids, seen, strict=True) for each in bases}
        chat = resolve(ChatMapping(CONFIGURATION, chained(*ids), ((base("a"), ALLOW), (base("b"), ALLOW)), grants))
        assert [set(link.warnings) for link in chat.chain] == warnings, name
        assert set(chat.warnings) == of_all, name
    nothing = resolve(ChatMapping(CONFIGURATION, (), ((base("a", 0), ALLOW),), {}))
    assert set(nothing.warnings) == {ChainWarning.NO_DATA, ChainWarning.NO_MODEL}


def test_the_rows_alone_come_last_also_without_models() -> None:
    """Their place is behind every priority."""
    assert [link.priority for link in resolve(ChatMapping(CONFIGURATION, (), (), {})).chain] == [1]
    last = ((AiModelLink("bot", "m", 1_000, NOW), model("m")),)
    assert [link.priority for link in resolve(ChatMapping(CONFIGURATION, last, (), {})).chain] == [1_000, 1_001]


ids = st.sampled_from(["a", "b", "c", "d"])
choices = st.builds(Choice, st.sampled_from([None, *LinkEffect]), st.booleans())


@given(
    st.lists(ids, unique=True),
    st.lists(st.tuples(ids, st.integers(0, 1), st.booleans(), choices), unique_by=lambda item: item[0]),
    st.dictionaries(st.tuples(ids, ids), choices),
)
def test_nothing_is_seen_without_link_and_grant(
    models: list[str], bases: list[tuple[str, int, bool, Choice]], grants: Dictionary[tuple[str, str], Choice]
) -> None:
    """For any mapping; and every linked one is listed, seen or not."""
    linked = tuple((base(id, version, disabled=disabled), link) for id, version, disabled, link in bases)
    chat = resolve(ChatMapping(CONFIGURATION, chained(*models), linked, grants))
    usable = {id for id, version, disabled, link in bases if version and not disabled and holds(link)}
    for each in chat.chain:
        granted = usable
        if each.ai_model is not None:
            granted = {id for id in usable if holds(grants.get((each.ai_model.id, id), UNSAID))}
        assert each.visible_ids == granted
        assert [line.knowledge_base.id for line in each.knowledge_bases] == [id for id, *_ in bases]


def holds(choice: Choice) -> bool:
    """(explicit ALLOW or selector) and not BLOCK."""
    return (choice.effect is LinkEffect.ALLOW or choice.selected) and choice.effect is not LinkEffect.BLOCK


def test_links_and_grants_have_one_order() -> None:
    """That of a list of all of them."""
    mappings: list[Mapping] = [
        AiModelLink("a", "z", 0, NOW),
        AiModelLink("b", "a", 9, NOW),
        KnowledgeBaseLink("a", "a", NOW),
        KnowledgeBaseGrant("a", "a", NOW),
    ]
    assert sorted((mappings[at] for at in (2, 0, 3, 1)), key=mapping_key) == mappings
