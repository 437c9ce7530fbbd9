"""What is written for people: links lead somewhere, pages made from the code are current, two languages agree."""

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer

from dari.cli import app
from dari.settings import ENVIRONMENT_PREFIX, TOOL_VARIABLES, Settings
from docs import generate, settings_page

ROOT = Path(__file__).parents[1]
ENGLISH, KOREAN = ROOT / "README.md", ROOT / "README.ko.md"
PAGES = (
    ENGLISH,
    KOREAN,
    *(page for folder in ("docs", "load", "tests") for page in sorted((ROOT / folder).rglob("*.md"))),
)
CODE = re.compile(r"^( *)(```+|~~~+)(?P<language>[^\n]*)\n(?P<text>.*?)^\1\2 *$", re.DOTALL | re.MULTILINE)
INLINE_CODE = re.compile(r"`[^`\n]*`")
HEADING = re.compile(r"^(?P<level>#{1,6}) (?P<text>.+)$", re.MULTILINE)
LINK = re.compile(
    r"(?<!\\)\[[^\]]*\]\(\s*<?(?P<target>[^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]: (?P<named>\S+)", re.MULTILINE
)


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return CODE.sub("", text)


def anchors(text: str) -> set[str]:
    """Of its headings, as GitHub makes them: letters, digits, hyphens and underscores of any language; then numbers."""
    found: dict[str, int] = {}
    made = set()
    for heading in HEADING.finditer(prose(text)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["text"])
        anchor = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
        again = found.setdefault(anchor, 0)
        found[anchor] += 1
        made.add(f"{anchor}-{again}" if again else anchor)
    return made | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))


def links(text: str) -> Iterator[str]:
    for match in LINK.finditer(INLINE_CODE.sub("", prose(text))):
        yield match["target"] or match["named"]


def dangling(page: Path, text: str) -> list[str]:
    """The relative links of a page that lead nowhere."""
    return [link for link in links(text) if not re.match(r"[a-z][a-z0-9+.-]*:", link) and not leads(page, text, link)]


def leads(page: Path, text: str, link: str) -> bool:
    """Whether a link leads to a file of this repository, and there to a heading."""
    path, _, anchor = link.partition("#")
    target = (page.parent / unquote(path)).resolve() if path else page
    if not target.exists() or not target.is_relative_to(ROOT) or path.startswith("/"):
        return False
    if not anchor:
        return True
    return target.suffix == ".md" and unquote(anchor) in anchors(text if target == page else target.read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    assert dangling(page, page.read_text(encoding="utf-8")) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = """
# One `two`, [three](README.md)
## 셋 넷
## 셋 넷
[a](#one-two-three) [b](#셋-넷) [c](#셋-넷-1) [d](docs/README.md) [f](docs/settings.md#ingest)
[e](https://example.com/x)
`[code](none-1.md)` [g](none-2.md) [h](#셋-넷-2) [i](docs/settings.md#none-3) [j](../outside.md) ![k](none-4.svg)
[l](/README.md)

```sh
# not a heading
[in code](none-5.md)
```

[m]: none-6.md
"""
    nowhere = [
        "none-2.md",
        "#셋-넷-2",
        "docs/settings.md#none-3",
        "../outside.md",
        "none-4.svg",
        "/README.md",
        "none-6.md",
    ]
    assert dangling(ENGLISH, text) == nowhere


def code(text: str) -> str:
    """All code of a page, in blocks and in lines."""
    blocks = (block["text"] for block in CODE.finditer(text) if block["language"].strip() in ("", "sh", "bash"))
    return "\n".join([*blocks, *INLINE_CODE.findall(prose(text))])


def unknown_names(text: str) -> list[str]:
    """What a page tells to type that is not there: targets of make, commands of dari, variables."""
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    variables = {*TOOL_VARIABLES, *(ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields)}
    typed = code(text)
    return [
        *(
            f"make {name}"
            for name in re.findall(r"(?:^|[`;&(] ?)make ([a-z][a-z0-9-]*)", typed, re.MULTILINE)
            if name not in targets
        ),
        *(
            f"dari {words}"
            for words in re.findall(r"(?:^|[`;&|(/] ?)dari ([a-z][a-z -]*)", typed, re.MULTILINE)
            if not is_command(words)
        ),
        *(
            name
            for name in re.findall(r"\bDARI_[A-Z0-9_]+", typed)
            if name.split("__")[0] not in variables and not name.startswith("DARI_TEST_")
        ),
    ]


def is_command(words: str) -> bool:
    """Whether a line begins with a command of dari; of a group, with one of its commands."""
    command = typer.main.get_command(app)
    for word in words.split():
        if not isinstance(command, typer.core.TyperGroup):
            return True
        if word not in command.commands:
            return False
        command = command.commands[word]
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_tells_to_type_is_there(page: Path) -> None:
    assert unknown_names(page.read_text(encoding="utf-8")) == []


def test_what_is_not_there_is_found() -> None:
    text = """
`make tset`, `dari serv`, `dari map lnik guide --kb x`, `DARI_DATABSE_DSN='…'`; `dari map link guide`, `make test`

```sh
make lint && make lnit
.venv/bin/dari modle add
export DARI_TENNANT=acme DARI_TENANT=acme DARI_TEST_SEEDS=3
dari chat -c guide "dari none"
```
"""
    unknown = [
        "make lnit",
        "make tset",
        "dari modle add",
        "dari serv",
        "dari map lnik guide --kb x",
        "DARI_TENNANT",
        "DARI_DATABSE_DSN",
    ]
    assert unknown_names(text) == unknown


def test_every_page_of_the_guide_is_in_its_index() -> None:
    folder = ROOT / "docs"
    index = (folder / "README.md").read_text(encoding="utf-8")
    listed = {(folder / link.partition("#")[0]).resolve() for link in links(index)}
    assert set(folder.rglob("*.md")) - listed == {folder / "README.md"}


def test_the_pages_that_are_made_from_the_code_are_as_the_code_is() -> None:
    assert generate.stale() == [], "run `make docs`"


def test_every_setting_is_in_the_table_and_is_described() -> None:
    described = {name: what for section in settings_page.sections() for name, what in section.settings}
    assert list(described) == list(Settings.model_fields)
    assert [name for name, what in described.items() if not what] == []


def test_the_page_of_settings_tells_the_variables_of_the_command_line_apart() -> None:
    text = settings_page.text()
    assert [variable for variable in sorted(TOOL_VARIABLES) if f"`{variable}`" not in text] == []


# The README in two languages


def test_both_readmes_have_the_same_blocks_of_code() -> None:
    english, korean = (
        [(block["language"], block["text"]) for block in CODE.finditer(page.read_text(encoding="utf-8"))]
        for page in (ENGLISH, KOREAN)
    )
    assert english == korean


def shape(page: Path) -> list[str]:
    """What stands after what, without a word: headings by level, marks of tests, items, rows of tables, code."""
    text = CODE.sub("code\n", page.read_text(encoding="utf-8"))
    found = []
    for line in text.splitlines():
        if heading := HEADING.match(line):
            found.append(heading["level"])
        elif line.startswith("<!-- test:"):
            found.append(line)
        elif line.startswith("- "):
            found.append("item")
        elif line.startswith("|"):
            found.append(f"row of {line.count('|')}")
        elif line == "code":
            found.append("code")
    return found


def test_both_readmes_have_the_same_shape() -> None:
    first_difference = [
        (place, english, korean)
        for place, (english, korean) in enumerate(zip_longest(shape(ENGLISH), shape(KOREAN)))
        if english != korean
    ][:1]
    assert first_difference == []
    assert {"##", "###", "code", "item", "row of 3"} <= set(shape(ENGLISH))


def test_both_readmes_have_the_same_numbers_and_links_and_names_in_each_section() -> None:
    for english, korean in zip(sections(ENGLISH), sections(KOREAN), strict=True):
        assert facts(english) == facts(korean)


def sections(page: Path) -> list[str]:
    return re.split(r"^##+ .*$", prose(page.read_text(encoding="utf-8")), flags=re.MULTILINE)


def facts(section: str) -> dict[str, list[str]]:
    """What a translation leaves as it is, whatever the order."""
    names = sorted(re.sub(r"\s+", " ", name) for name in re.findall(r"`([^`]+)`", section))
    outside = re.sub(r"`[^`]+`", "", section)
    targets = sorted(link for link in links(section) if not link.startswith(("#", "README")))
    numbers = sorted(re.findall(r"\d[\d,.]*\d|\d", re.sub(r"\]\([^)]*\)", "]", outside)))
    return {"names": names, "links": targets, "numbers": numbers}
