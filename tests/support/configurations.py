"""Hypothesis makes whole mappings: resources with every field, and links between them."""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from dari.core.configuration import (
    AI_MODEL,
    CHAT_CONFIGURATION,
    KINDS,
    KNOWLEDGE_BASE,
    Configuration,
    Kind,
    Link,
    LinkList,
    Resource,
)

NAMES = st.sampled_from(("a", "on", "null", "y", "kb-1", "gogaek-sangdam", "x" * 63, "true", "off"))
"""Ids, among them the words of YAML 1.1."""
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40) | st.sampled_from(
    (
        "off",
        "null",
        "~",
        "1_000",
        "고객\n상담\n",
        " # no comment",
        "- x",
        "a: b",
        "\n",
        "\u2028",
        "\x85",
        "'\"",
        "|\n b",
    )
)
_URLS = st.sampled_from(("http://flowise:3000", "https://a.example/v1"))
_SECRETS = st.sampled_from(("", "flowise.key", "on"))
_LABELS = st.dictionaries(
    st.sampled_from(("team", "dari.dev/owner", "no", "1.0")), st.sampled_from(("", "sales", "1", "off")), max_size=3
)


def _seconds(least: float, most: float) -> st.SearchStrategy[float]:
    return st.floats(least, most).map(lambda value: max(least, round(value, 3)))


_TARGETS = {
    "flowise": st.fixed_dictionaries(
        {"base_url": _URLS, "flow_id": st.uuids().map(str), "api_key_secret": _SECRETS},
    ),
    "openai_compatible": st.fixed_dictionaries(
        {"base_url": _URLS, "model": TEXTS.filter(bool), "api_key_secret": _SECRETS}
    ),
    "local": st.fixed_dictionaries({"model_file": st.sampled_from(("", "model-q4"))}),
}
_SOURCES = st.none() | st.fixed_dictionaries(
    {
        "uri": st.sampled_from(("https://a.example/rows.csv", "file:///data/*.csv")),
        "credentials_secret": _SECRETS,
        "interval_s": st.sampled_from((0.0, 10.0, 3_600.0)),
        "cron": st.sampled_from(("", "0 3 * * 1-5")),
        "on_shrink": st.sampled_from(("hold", "accept")),
        "max_shrink_share": st.sampled_from((0.0, 0.25, 0.5, 1.0)),
        "key_columns": st.lists(TEXTS, max_size=2).map(tuple),
        "paused": st.booleans(),
    }
)
_SOMEWHERE_ONLY = frozenset(("labels", "knowledge_base_selector", "disabled", "source"))
"""Fields that are of this version of the wire, and not of every server."""


@st.composite
def fields(draw: st.DrawFn, kind: Kind, id: str, *, whole: bool) -> dict[str, Any]:
    """Every field of a resource as a server keeps it."""
    made: dict[str, Any] = {"display_name": draw(TEXTS) or id}
    if kind is AI_MODEL:
        # By its id, for a kind cannot be changed.
        target = sorted(_TARGETS)[len(id) % 3]
        made |= {
            "kind": target,
            target: draw(_TARGETS[target]),
            "first_token_timeout_s": draw(_seconds(0.1, 600)),
            "stall_timeout_s": draw(_seconds(0.1, 600)),
            "total_timeout_s": draw(_seconds(0.1, 3_600)),
            "max_answer_tokens": draw(st.integers(1, 32_768)),
            "context_tokens": draw(st.integers(512, 1_048_576) | st.just(0 if target == "local" else 512)),
        }
    elif kind is CHAT_CONFIGURATION:
        made |= {
            "instructions": draw(TEXTS),
            "max_rows": draw(st.integers(0, 50)),
            "stand_by": draw(st.sampled_from(("off", "warm", "race"))),
            "stand_by_after_s": draw(_seconds(0.05, 600)),
        }
    else:
        made |= {"description": draw(TEXTS), "source": draw(_SOURCES)}
    made |= {"labels": draw(_LABELS), "disabled": draw(st.booleans())}
    if kind is not KNOWLEDGE_BASE:
        made["knowledge_base_selector"] = draw(st.sampled_from(("", "team=sales,env in (prod, test),!secret")))
    return made if whole else _on_every_server(made)


def _on_every_server(made: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in made.items() if name not in _SOMEWHERE_ONLY}


@st.composite
def configurations(draw: st.DrawFn, *, whole: bool) -> Configuration:
    """A mapping; with `whole` False without the fields and links that only some servers know."""
    resources = {
        (kind.collection, id): Resource(kind, id, draw(fields(kind, id, whole=whole)))
        for kind in KINDS
        for id in sorted(draw(st.sets(NAMES, max_size=3)))
    }
    links: dict[tuple[str, str, str], Link] = {}
    for list in LinkList:
        if not whole and list in (LinkList.UNLINKED, LinkList.REFUSED):
            continue
        for holder, target in _pairs(resources, list):
            if draw(st.booleans()):
                chain = list is LinkList.CHAIN
                priority = draw(st.integers(0, 1_000)) if chain else 0
                link = Link(list, holder, target, priority, chain and whole and draw(st.booleans()))
                links.setdefault(link.key, link)
    lists = frozenset(
        (list, id) for list in LinkList for collection, id in resources if collection == list.holder.collection
    )
    return Configuration(resources, tuple(links.values()), lists, frozenset(kind.collection for kind in KINDS))


def _pairs(resources: Mapping[tuple[str, str], Resource], list: LinkList) -> list[tuple[str, str]]:
    holders = [id for collection, id in resources if collection == list.holder.collection]
    targets = [id for collection, id in resources if collection == list.target.collection]
    return [(holder, target) for holder in holders for target in targets]
