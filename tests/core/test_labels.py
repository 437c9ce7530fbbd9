"""Selectors are read as Kubernetes reads them, and what cannot be read is refused with its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.core.labels import (
    Labels,
    Operator,
    Requirement,
    Selector,
    SelectorError,
    label_violations,
    parse_selector,
    selector_violations,
)
from tests.support.choosing import chooses

IN, NOT_IN, EXISTS, ABSENT = Operator.IN, Operator.NOT_IN, Operator.EXISTS, Operator.ABSENT

READ: list[tuple[str, Selector]] = [
    ("", ()),
    ("  ", ()),
    ("a=b", (Requirement("a", IN, ("b",)),)),
    ("a==b", (Requirement("a", IN, ("b",)),)),
    ("a = b", (Requirement("a", IN, ("b",)),)),
    ("a=", (Requirement("a", IN, ("",)),)),
    ("a!=b", (Requirement("a", NOT_IN, ("b",)),)),
    ("a in (x,y)", (Requirement("a", IN, ("x", "y")),)),
    ("a in(y , x,x)", (Requirement("a", IN, ("x", "y")),)),
    ("a in (x,)", (Requirement("a", IN, ("", "x")),)),
    ("a notin (x)", (Requirement("a", NOT_IN, ("x",)),)),
    ("a", (Requirement("a", EXISTS),)),
    ("!a", (Requirement("a", ABSENT),)),
    ("! a", (Requirement("a", ABSENT),)),
    ("in in (in)", (Requirement("in", IN, ("in",)),)),
    ("notin", (Requirement("notin", EXISTS),)),
    ("dari.example.com/team=a", (Requirement("dari.example.com/team", IN, ("a",)),)),
    (
        "team=sales,env in (prod, test),!secret",
        (Requirement("team", IN, ("sales",)), Requirement("env", IN, ("prod", "test")), Requirement("secret", ABSENT)),
    ),
]


@pytest.mark.parametrize(("text", "selector"), READ, ids=lambda value: value if isinstance(value, str) else "")
def test_a_selector_is_read_as_kubernetes_reads_it(text: str, selector: Selector) -> None:
    assert parse_selector(text) == selector


WRONG: list[tuple[str, int]] = [
    ("=a", 1),
    ("a,", 3),
    (",a", 1),
    ("a b", 3),
    ("a=b c", 5),
    ("a=b=c", 4),
    ("a in", 5),
    ("a in x", 6),
    ("a in ()", 7),
    ("a in (x", 8),
    ("a in (x y)", 9),
    ("a > 5", 3),
    ("a=b;c", 4),
    ("a='b'", 3),
    ("!a=b", 3),
    ("!!a", 2),
    ("/a", 1),
    ("A_B/a", 1),
    ("a/b/c", 1),
    ("a=b/c", 3),
    ("한국=a", 1),
    (f"{'k' * 64}=a", 1),
    (f"a={'v' * 64}", 3),
    ("a=b\0", 4),
]


@pytest.mark.parametrize(("text", "position"), WRONG, ids=lambda value: repr(value)[:20])
def test_what_is_no_selector_is_refused_with_its_place(text: str, position: int) -> None:
    with pytest.raises(SelectorError) as caught:
        parse_selector(text)
    assert caught.value.position == position
    (violation,) = selector_violations("knowledge_base_selector", text)
    assert violation.field == "knowledge_base_selector"
    assert f"at character {position}" in violation.description


def test_a_selector_has_a_length() -> None:
    assert not list(selector_violations("selector", "a," * 511 + "aa"))
    assert [each.field for each in selector_violations("selector", "a," * 512 + "a")] == ["selector"]


WRONG_LABELS: list[tuple[Labels, str]] = [
    ((("", "a"),), "labels"),
    ((("a b", "a"),), "labels"),
    ((("k" * 64, "a"),), "labels"),
    ((("A/a", "a"),), "labels"),
    ((("a\n", "a"),), "labels"),
    ((("a", "v" * 64),), "labels.a"),
    ((("a", "x y"),), "labels.a"),
    ((("a", "x\n"),), "labels.a"),
    (tuple((f"k{n:02}", "") for n in range(33)), "labels"),
]


def test_wrong_labels_are_refused() -> None:
    for labels, field in WRONG_LABELS:
        assert [violation.field for violation in label_violations(labels)] == [field], labels
    right = (("a", ""), ("dari.example.com/A_b.c-d", "v" * 63), ("k" * 63, "1"))
    assert not list(label_violations(right))


keys, values = st.sampled_from(["a", "b", "in", "x.y/z"]), st.sampled_from(["", "1", "2", "in"])
requirements = st.one_of(
    st.builds(Requirement, keys, st.sampled_from([EXISTS, ABSENT])),
    st.builds(
        Requirement, keys, st.sampled_from([IN, NOT_IN]), st.frozensets(values, min_size=1).map(lambda v: (*sorted(v),))
    ),
)


def written(requirement: Requirement) -> str:
    match requirement.operator:
        case Operator.EXISTS:
            return requirement.key
        case Operator.ABSENT:
            return f"!{requirement.key}"
        case _:
            # One empty value alone would be an empty set.
            listed = ",".join(requirement.values) or ","
            return f"{requirement.key} {requirement.operator.value.lower().replace('_', '')} ({listed})"


@given(st.lists(requirements, max_size=5).map(tuple))
def test_every_selector_that_can_be_written_is_read(selector: Selector) -> None:
    assert parse_selector(" , ".join(map(written, selector))) == selector


@given(st.text(alphabet="ab=!(), in", max_size=24) | st.text(max_size=24))
def test_any_text_is_a_selector_or_is_refused_at_a_place_in_it(text: str) -> None:
    place = 1
    try:
        parse_selector(text)
    except SelectorError as error:
        place = error.position
    assert 1 <= place <= len(text) + 1


def test_negations_hold_for_what_has_no_such_label() -> None:
    for text, labels, chosen in (
        ("a!=b", {}, True),
        ("a notin (b,c)", {"a": "c"}, False),
        ("!a", {"b": ""}, True),
        ("a,b=1", {"a": "", "b": "1"}, True),
        ("a,b=1", {"b": "1"}, False),
        ("", {"a": "b"}, False),
    ):
        assert chooses(parse_selector(text), labels) is chosen, text
