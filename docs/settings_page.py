"""The page of settings, from `dari/settings.py`: its sections, its types and ranges, its descriptions."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dari import settings

_HEAD = """\
# Settings

<!-- Made from python/dari/settings.py by `make docs`. -->

A setting is an environment variable, or a key of the TOML file that `DARI_SETTINGS_FILE` names; the environment wins.
Settings are read once, at start. Wrong and unknown ones stop the start, all named together, without their values.

In the environment, lists and tables are JSON: `DARI_SOURCE_FOLDERS='["/srv/csv"]'`. In the file, they are TOML:
`source_folders = ["/srv/csv"]`. The unit of a number stands at the end of its name: `_s` seconds, `_bytes`, `_mib`,
`_tokens`.

`DARI_ADDRESS`, `DARI_TOKEN`, `DARI_TOKEN_FILE`, `DARI_TLS`, `DARI_TLS_CA`, `DARI_CLIENT_CERTIFICATE` and
`DARI_CLIENT_KEY` are no settings of the server: they tell the command line where it is and who calls. `dari --help`
lists them. `DARI_IMPORT_DSN` is the database that `dari map import --postgres` reads.
"""
_TABLE_HEAD = "| setting and variable | type | default | range | what |\n|---|---|---|---|---|\n"
_SPANS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_SIZES = ((settings.TIB, "TiB"), (1024 * settings.MIB, "GiB"), (settings.MIB, "MiB"), (1024, "KiB"))


@dataclass(slots=True)
class Section:
    """Settings that stand together below a comment."""

    title: str
    note: str
    settings: list[tuple[str, str]] = field(default_factory=list)
    """Name and description, in the order of the source."""


def sections() -> list[Section]:
    """As in the source: a comment behind an empty line opens one, its first sentence the title."""
    source = textwrap.dedent(inspect.getsource(settings.Settings))
    lines = source.splitlines()
    (declared,) = ast.parse(source).body
    assert isinstance(declared, ast.ClassDef)  # noqa: S101 - what getsource of a class gives
    opened: dict[int, Section] = {}
    for number, line in enumerate(lines, start=1):
        if line.startswith("    # ") and not lines[number - 2].strip():
            opened[number] = _section(lines[number - 1 :])
    for statement, following in zip(declared.body, [*declared.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            above = max(number for number in opened if number < statement.lineno)
            opened[above].settings.append((statement.target.id, _docstring(following)))
    return list(opened.values())


def text() -> str:
    """The page."""
    properties = settings.Settings.model_json_schema()["properties"]
    parts = [_HEAD]
    for section in sections():
        note = f"\n{_filled(_code(section.note))}\n" if section.note else ""
        rows = "".join(_row(name, what, properties[name]) for name, what in section.settings)
        parts.append(f"\n## {section.title}\n{note}\n{_TABLE_HEAD}{rows}")
    return "".join(parts)


def _section(lines: list[str]) -> Section:
    comment = []
    for line in lines:
        if not line.startswith("    #"):
            break
        comment.append(line.strip("# "))
    title, _, note = " ".join(comment).partition(".")
    return Section(title, note.strip())


def _docstring(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""


def _row(name: str, what: str, schema: dict[str, Any]) -> str:
    variable = settings.ENVIRONMENT_PREFIX + name.upper()
    kind = _kind(schema)
    bounds = schema | next((arm for arm in schema.get("anyOf", ()) if arm["type"] != "null"), {})
    cells = (
        f"`{name}`<br>`{variable}`",
        kind,
        _default(name, schema.get("default")),
        _range(name, bounds),
        _code(what),
    )
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def _kind(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return next(_kind(arm) for arm in schema["anyOf"] if arm["type"] != "null")
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kind: str = schema["type"]
    if kind == "array":
        return f"list of {_kind(schema['items'])}s"
    if kind == "object":
        return "table of secrets"
    named = {"password": "secret", "path": "path", "ipvanynetwork": "network"}
    return named.get(schema.get("format", ""), {"string": "text", "boolean": "true or false"}.get(kind, kind))


def _default(name: str, value: object) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return _number(name, value)
    return ", ".join(f"`{each}`" for each in (value if isinstance(value, list) else [value]))


def _range(name: str, bounds: dict[str, Any]) -> str:
    if "exclusiveMinimum" in bounds:
        least = f"above {_number(name, bounds['exclusiveMinimum'])}"
    else:
        least = _number(name, bounds["minimum"]) if "minimum" in bounds else ""
    if "maximum" in bounds:
        return f"{least} to {_number(name, bounds['maximum'])}"
    return f"{least} or more" if least else ""


def _number(name: str, value: float) -> str:
    """In the unit of the setting, and beside it in one for people."""
    plain = f"`{value:g}`" if value < 1_000_000 else f"`{int(value)}`"
    for size, unit in _SPANS if name.endswith("_s") else _SIZES if name.endswith("_bytes") else ():
        if value >= size and value % size == 0:
            return f"{plain} ({int(value // size):,} {unit})"
    return plain


def _code(text: str) -> str:
    """Variables with their values as code, so that Markdown takes nothing in them for its own."""
    return re.sub(r"(?<![`\w])(DARI_[A-Z_]+='[^']*')", r"`\1`", text)


def _filled(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def names() -> Iterator[str]:
    """Of every setting on the page."""
    return (name for section in sections() for name, _ in section.settings)
