"""Writes a configuration as YAML, and reads it with the place of every mistake.

PyYAML's nodes are read, not its values: they know their lines, and `stand_by: off` stays a word.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dari.core.configuration import (
    AI_MODEL,
    KINDS,
    TARGETS,
    Configuration,
    Field,
    Holds,
    Kind,
    Link,
    LinkList,
    Resource,
    Value,
)
from dari.core.mapping import is_resource_id

_NULL, _BOOL, _INT, _FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))
_TRUE = ("true", "yes", "on")
_OTHER_LINE_ENDS = "\r\x85\u2028\u2029"
_MAX_PRIORITY = 1_000
_SECTIONS = (AI_MODEL, *(kind for kind in reversed(KINDS) if kind is not AI_MODEL))
"""In the order of a file: who answers, for which chatbot, over what."""

Path_ = tuple[str, ...]


class BadConfiguration(Exception):
    """A file is no configuration; `problems` tell file, line and field of each mistake."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Notes:
    """What a written file says beside its values, and which of its parts are written as comments."""

    links: Mapping[Link, str] = field(default_factory=dict)
    doubtful_links: frozenset[Link] = frozenset()
    resources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Lines above a resource, by its name."""
    doubtful_resources: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ConfigurationFile:
    """What a file says, and where."""

    path: str
    configuration: Configuration
    lines: Mapping[Path_, int]

    def place(self, path: Path_) -> str:
        """`map.yaml:12: ai_models.local.kind`, as exact as the file is."""
        known = next((path[:end] for end in range(len(path), 0, -1) if path[:end] in self.lines), None)
        return f"{self.path}:{self.lines[known] if known else 1}: {'.'.join(path)}"


def read_configuration(path: Path) -> ConfigurationFile:
    """Raises BadConfiguration, and OSError where the file cannot be read."""
    reading = _Reading(str(path))
    try:
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise BadConfiguration([f"{path}: byte {error.start}: is not UTF-8"]) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadConfiguration([f"{path}:{line}: is not YAML: {error.problem}"]) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise BadConfiguration([f"{path}: is not YAML that can be read"]) from error
    configuration = reading.configuration(root)
    if reading.problems:
        raise BadConfiguration(reading.problems)
    return ConfigurationFile(str(path), configuration, reading.lines)


class _Reading:
    """One reading of one file: collects every mistake."""

    def __init__(self, path: str) -> None:
        self.problems: list[str] = []
        self.lines: dict[Path_, int] = {}
        self._path = path
        self._links: dict[tuple[str, str, str], Link] = {}
        self._lists: set[tuple[LinkList, str]] = set()

    def configuration(self, root: yaml.Node | None) -> Configuration:
        resources: dict[tuple[str, str], Resource] = {}
        kinds = {kind.section: kind for kind in KINDS}
        named = set()
        for section, node in self._entries(root, ()):
            kind = kinds.get(section)
            if kind is None:
                self._wrong(node, (section,), f"is not known; there are {', '.join(one.section for one in _SECTIONS)}")
                continue
            named.add(kind.collection)
            for id, body in self._entries(node, (section,)):
                resources[kind.collection, id] = self._resource(kind, id, body)
        return Configuration(resources, tuple(self._links.values()), frozenset(self._lists), frozenset(named))

    def _resource(self, kind: Kind, id: str, body: yaml.Node) -> Resource:
        path = (kind.section, id)
        if not is_resource_id(id):
            self._wrong(body, path, "an id is 1 to 63 of a-z, 0-9 and '-', beginning with a letter")
        lists = {one.section: one for one in LinkList if one.holder is kind}
        known = {one.name: one for one in kind.fields}
        fields: dict[str, Value] = {}
        for name, node in self._entries(body, path):
            if name in lists:
                self._read_list(lists[name], id, node, (*path, name))
            elif name in known:
                fields[name] = self._value(known[name], node, (*path, name))
            else:
                self._wrong(node, (*path, name), f"is not known; there are {', '.join((*known, *lists))}")
        if kind is AI_MODEL:
            self._check_target(fields, body, path)
        return Resource(kind, id, self._with_defaults(id, fields))

    def _with_defaults(self, id: str, fields: dict[str, Value]) -> dict[str, Value]:
        """As the server keeps them: an empty name is the id."""
        if fields.get("display_name") == "":
            fields["display_name"] = id
        if fields.get("kind") == "local":
            fields.setdefault("local", {"model_file": ""})
        return fields

    def _check_target(self, fields: Mapping[str, Value], body: yaml.Node, path: Path_) -> None:
        targets = [target for target in TARGETS if target in fields]
        kind = fields.get("kind", targets[0] if targets else None)
        for target in targets:
            if target != kind:
                self._wrong(body, (*path, target), f"does not go with {kind}: an AI model is at one place")
        if fields.get("context_tokens") == 0 and kind not in ("local", None):
            self._wrong(body, (*path, "context_tokens"), "must be 512 to 1048576")

    def _read_list(self, list: LinkList, holder: str, node: yaml.Node, path: Path_) -> None:
        self._lists.add((list, holder))
        for place, item in enumerate(self._items(node, path), start=1):
            link = self._link(list, holder, place, item, path)
            if link is None:
                continue
            if not is_resource_id(link.target):
                self._wrong(item, path, "must name ids: 1 to 63 of a-z, 0-9 and '-', beginning with a letter")
            elif link.key in self._links:
                self._wrong(item, (*path, link.target), f"stands twice, first in {self._links[link.key].list.section}")
            else:
                self._links[link.key] = link
                self.lines[*path, link.target] = _line(item)

    def _link(self, list: LinkList, holder: str, place: int, item: yaml.Node, path: Path_) -> Link | None:
        priority = min(place, _MAX_PRIORITY) if list is LinkList.CHAIN else 0
        if isinstance(item, yaml.ScalarNode) and item.tag != _NULL:
            return Link(list, holder, item.value, priority)
        if list is not LinkList.CHAIN:
            self._wrong(item, path, "must be a list of ids")
            return None
        known = {one.name: one for one in _CHAIN_FIELDS}
        values: dict[str, Any] = {"priority": priority, "disabled": False}
        for name, node in self._entries(item, path):
            if name in known:
                values[name] = self._value(known[name], node, (*path, name))
            else:
                self._wrong(node, (*path, name), f"is not known; there are {', '.join(known)}")
        if not isinstance(values.get("ai_model"), str):
            self._wrong(item, path, "must name an ai_model in each line")
            return None
        return Link(list, holder, values["ai_model"], values["priority"], values["disabled"])

    def _value(self, known: Field, node: yaml.Node, path: Path_) -> Value:
        if known.may_be_none and node.tag == _NULL:
            return None
        if known.holds is Holds.GROUP:
            return self._group(known, node, path)
        if known.holds is Holds.TEXTS:
            return tuple(self._text(item, path) for item in self._items(node, path))
        if known.holds is Holds.LABELS:
            labels = {key: self._text(value, (*path, key)) for key, value in self._entries(node, path)}
            if len(labels) > known.most:
                self._wrong(node, path, f"must be at most {known.most}")
            return dict(sorted(labels.items()))
        return self._scalar(known, node, path)

    def _group(self, known: Field, node: yaml.Node, path: Path_) -> Value:
        inner = {one.name: one for one in known.fields}
        values: dict[str, Value] = {one.name: one.default for one in known.fields}
        for name, value in self._entries(node, path):
            if name in inner:
                values[name] = self._value(inner[name], value, (*path, name))
            else:
                self._wrong(value, (*path, name), f"is not known; there are {', '.join(inner)}")
        for name, held in values.items():
            if held is None or (held == "" and inner[name].default is None):
                self._wrong(node, (*path, name), "is missing")
        url = values.get("base_url")
        # As the server keeps it.
        return {**values, "base_url": url.rstrip("/")} if isinstance(url, str) else values

    def _scalar(self, known: Field, node: yaml.Node, path: Path_) -> Value:
        if known.holds is Holds.TEXT:
            text = self._text(node, path)
            if len(text) > known.most or "\0" in text:
                self._wrong(node, path, f"must have at most {known.most:.0f} characters, and no NUL")
            return text
        if known.holds is Holds.WORD:
            word = self._text(node, path).lower()
            if word not in known.words:
                self._wrong(node, path, f"must be {' or '.join(known.words)}")
            return word
        if known.holds is Holds.SWITCH:
            if node.tag != _BOOL:
                self._wrong(node, path, "must be true or false")
            return str(node.value).lower() in _TRUE
        return self._number(known, node, path)

    def _number(self, known: Field, node: yaml.Node, path: Path_) -> Value:
        tags = (_INT,) if known.holds is Holds.WHOLE else (_INT, _FLOAT)
        try:
            number = float(node.value) if node.tag in tags else math.nan
        except ValueError:
            # YAML's 0x1f, 1:30 and 1_000: nobody means them here.
            number = math.nan
        if not known.least <= number <= known.most:
            self._wrong(node, path, f"must be {known.holds.value}, {known.least:g} to {known.most:,.10g}")
            return known.least
        return int(number) if known.holds is Holds.WHOLE else round(number, 6)

    def _text(self, node: yaml.Node, path: Path_) -> str:
        if isinstance(node, yaml.ScalarNode) and node.tag != _NULL:
            return str(node.value)
        self._wrong(node, path, "must be text")
        return ""

    def _entries(self, node: yaml.Node | None, path: Path_) -> Iterator[tuple[str, yaml.Node]]:
        """What stands below names; nothing, where there is nothing."""
        if node is None or node.tag == _NULL:
            return
        if not isinstance(node, yaml.MappingNode):
            self._wrong(node, path, "must be names with values")
            return
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
            if not name or name in seen:
                self._wrong(key, (*path, name), "stands twice" if name else "must be a name")
                continue
            seen.add(name)
            self.lines[*path, name] = _line(key)
            yield name, value

    def _items(self, node: yaml.Node, path: Path_) -> Sequence[yaml.Node]:
        if node.tag == _NULL:
            return ()
        if not isinstance(node, yaml.SequenceNode):
            self._wrong(node, path, "must be a list")
            return ()
        return list(node.value)

    def _wrong(self, node: yaml.Node, path: Path_, problem: str) -> None:
        line = self.lines.get(path, _line(node))
        self.problems.append(f"{self._path}:{line}: {'.'.join(path) or 'the file'}: {problem}")


_CHAIN_FIELDS = (
    Field("ai_model", Holds.TEXT, most=63),
    Field("priority", Holds.WHOLE, 0, _MAX_PRIORITY),
    Field("disabled", Holds.SWITCH),
)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def write_configuration(configuration: Configuration, header: Sequence[str], notes: Notes = Notes()) -> str:
    """The configuration as a file: the same one gives the same text."""
    lines = [f"# {one_line(line)}".rstrip() for line in header]
    for kind in _SECTIONS:
        if kind.collection not in configuration.kinds:
            continue
        found = sorted((one for one in configuration.resources.values() if one.kind is kind), key=lambda one: one.id)
        certain = any(one.name not in notes.doubtful_resources for one in found)
        lines += ["", f"{kind.section}:" if certain or found else f"{kind.section}: {{}}"]
        for resource in found:
            lines += _resource_lines(resource, configuration, notes)
    return "\n".join(lines) + "\n"


def _resource_lines(resource: Resource, configuration: Configuration, notes: Notes) -> Iterator[str]:
    for note in notes.resources.get(resource.name, ()):
        yield f"  # {one_line(note)}"
    body = [f"  {_plain(resource.id)}:"]
    # A width without end: a folded text would be hard to find, and to compare.
    text = yaml.dump(
        _plain_values(resource.kind.fields, resource.fields),
        Dumper=_Dumper,
        allow_unicode=True,
        sort_keys=False,
        width=math.inf,
    )
    body += [f"    {line}" for line in text.split("\n")[:-1]] if resource.fields else []
    for list in (one for one in LinkList if (one, resource.id) in configuration.lists and one.holder is resource.kind):
        body += _list_lines(list, resource.id, configuration, notes)
    if resource.name in notes.doubtful_resources:
        body = [f"  # {line[2:]}" for line in body]
    yield from body


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as people do."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if any(end in text for end in _OTHER_LINE_ENDS) or text == "\n" or text.endswith("\n\n"):
        # PyYAML 6 would write other line ends as they are, and read them as blanks; a block whose last empty lines
        # count ends the document.
        style = '"'
    elif "\n" in text:
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _plain_values(fields: Sequence[Field], values: Mapping[str, Value]) -> dict[str, Any]:
    """The fields in the order of their kind, labels by key, with what YAML has words for."""
    found: dict[str, Any] = {}
    for one in fields:
        value = values.get(one.name)
        if one.name not in values:
            continue
        if isinstance(value, Mapping):
            found[one.name] = _plain_values(one.fields, value) if one.fields else dict(sorted(value.items()))
        else:
            found[one.name] = [*value] if isinstance(value, tuple) else value
    return found


def _list_lines(list: LinkList, holder: str, configuration: Configuration, notes: Notes) -> Iterator[str]:
    links = sorted(
        (one for one in configuration.links if one.list is list and one.holder == holder),
        key=lambda one: (one.priority, one.target),
    )
    yield f"    {list.section}:" if links else f"    {list.section}: []"
    for link in links:
        reason = notes.links.get(link)
        mark = "# " if link in notes.doubtful_links else ""
        yield f"      {mark}- {_link_text(link)}" + (f"  # {one_line(reason)}" if reason else "")


def _link_text(link: Link) -> str:
    if link.list is not LinkList.CHAIN:
        return _plain(link.target)
    off = ", disabled: true" if link.disabled else ""
    return f"{{ai_model: {_plain(link.target)}, priority: {link.priority}{off}}}"


def _plain(id: str) -> str:
    """An id as YAML: null and on are words of its own, so they get quotes."""
    return yaml.safe_dump(id, default_flow_style=True).split("\n", 1)[0]


def one_line(text: str) -> str:
    """The text without line ends and control characters: what a comment may hold."""
    return "".join(char for char in " ".join(text.split()) if char.isprintable())
