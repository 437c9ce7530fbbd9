"""The mapping as a picture: AI models on the left, chatbots in the middle, data on the right; a tree or an SVG."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from rich.tree import Tree

from dari.commands.terminal import clean, short_name
from dari.v1 import mapping_pb2 as wire
from dari.v1.chat_pb2 import CircuitState, Upstream
from dari.v1.mapping_pb2 import ResolveChatConfigurationResponse, ResolvedKnowledgeBase, ResolvedLink

_WIDTH, _BOX_WIDTH, _BOX_HEIGHT, _GAP, _TOP, _MARGIN = 1_080, 260, 48, 22, 64, 20
_LEFT_OF = {"model": _MARGIN, "chat": (_WIDTH - _BOX_WIDTH) // 2, "base": _WIDTH - _BOX_WIDTH - _MARGIN}
_TITLES = {"model": "AI models", "chat": "Chatbots", "base": "Data"}
_NOT_ASKED = "not asked yet"
_MAX_CHARS = 34
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #222 }
.title { font-weight: 600; font-size: 15px }
.small { font-size: 11px; fill: #666 }
rect { fill: #f7f9fc; stroke: #8aa0b8; rx: 6 }
.off rect { stroke-dasharray: 4 3; fill: #eee }
.open rect { fill: #fde8e6; stroke: #d9534f }
path { fill: none; stroke: #2f6fb3; stroke-width: 1.6 }
.selector { stroke-dasharray: 6 3 }
.unseen { stroke: #bbb; stroke-dasharray: 2 4 }
"""


@dataclass(frozen=True, slots=True)
class _Box:
    """A resource in its column."""

    column: str
    name: str
    detail: str
    look: str = ""

    @property
    def left(self) -> int:
        return _LEFT_OF[self.column]


@dataclass(frozen=True, slots=True)
class _Line:
    """From one resource to one that stands further right."""

    start: str
    end: str
    look: str
    meaning: str


def tree(chats: Iterable[ResolveChatConfigurationResponse], upstreams: Iterable[Upstream]) -> Tree:
    """For a terminal: each chatbot, its models in the order of asking, and what each of them sees."""
    circuits = _circuits(upstreams)
    root = Tree("chatbots", hide_root=True)
    for chat in chats:
        branch = root.add(clean(chat.chat_configuration.name + (" (disabled)" if _is_off(chat) else "")))
        for place, link in enumerate(chat.chain, start=1):
            leaf = branch.add(clean(f"{place}. {_who(link, circuits)}"))
            for base in link.knowledge_bases:
                leaf.add(clean(f"{base.knowledge_base} {_why(base)}, {_version(base)}"))
        for passed in chat.passed_by:
            branch.add(clean(f"- {passed.ai_model} (disabled)"))
    return root


def svg(chats: Sequence[ResolveChatConfigurationResponse], upstreams: Iterable[Upstream]) -> str:
    """An SVG document. All names are escaped; lines are whole where a person, and broken where a selector made them."""
    boxes = list({box.name: box for box in _boxes(chats, _circuits(upstreams))}.values())
    places = {box.name: place for column in _TITLES for place, box in enumerate(_of(column, boxes))}
    height = _TOP + _MARGIN + (max(places.values(), default=0) + 1) * (_BOX_HEIGHT + _GAP)
    body = [
        *(f'<text class="title" x="{_LEFT_OF[column]}" y="38">{title}</text>' for column, title in _TITLES.items()),
        *(_path(line, places) for line in dict.fromkeys(_lines(chats))),
        *(_rectangle(box, places[box.name]) for box in boxes),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">\n'
        f"<title>AI models, chatbots and data</title>\n<style>{_STYLE}</style>\n" + "\n".join(body) + "\n</svg>\n"
    )


def _boxes(chats: Iterable[ResolveChatConfigurationResponse], circuits: dict[str, str]) -> Iterator[_Box]:
    for chat in chats:
        look = "off" if _is_off(chat) else ""
        yield _Box("chat", chat.chat_configuration.name, "disabled" if look else "answers", look)
        for link in chat.chain:
            if link.HasField("ai_model"):
                circuit = circuits.get(link.ai_model.name, _NOT_ASKED)
                yield _Box("model", link.ai_model.name, circuit, "open" if circuit == "circuit open" else "")
        for passed in chat.passed_by:
            yield _Box("model", passed.ai_model, "disabled, or its link is", "off")
        for base in chat.chain[-1].knowledge_bases:
            off = base.reason == wire.VISIBILITY_REASON_DISABLED
            yield _Box("base", base.knowledge_base, _version(base), "off" if off else "")


def _lines(chats: Iterable[ResolveChatConfigurationResponse]) -> Iterator[_Line]:
    for chat in chats:
        name = chat.chat_configuration.name
        for place, link in enumerate(chat.chain, start=1):
            if link.HasField("ai_model"):
                seen = ", ".join(base.knowledge_base for base in link.knowledge_bases if base.visible)
                yield _Line(link.ai_model.name, name, "person", f"asked as number {place}; sees {seen or 'no data'}")
        for passed in chat.passed_by:
            yield _Line(passed.ai_model, name, "unseen", "not asked")
        for base in chat.chain[-1].knowledge_bases:
            by_selector = base.link_origin == wire.LINK_ORIGIN_SELECTOR
            look = "unseen" if not base.visible else "selector" if by_selector else "person"
            yield _Line(name, base.knowledge_base, look, _why(base))


def _of(column: str, boxes: Iterable[_Box]) -> list[_Box]:
    return sorted((box for box in boxes if box.column == column), key=lambda box: box.name)


def _rectangle(box: _Box, place: int) -> str:
    top = _TOP + place * (_BOX_HEIGHT + _GAP)
    id = box.name.partition("/")[2]
    shown = id if len(id) <= _MAX_CHARS else f"{id[: _MAX_CHARS - 1]}…"
    return (
        f'<g class="{box.look}"><title>{_text(box.name)}</title>'
        f'<rect x="{box.left}" y="{top}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}"/>'
        f'<text x="{box.left + 12}" y="{top + 20}">{_text(shown)}</text>'
        f'<text class="small" x="{box.left + 12}" y="{top + 38}">{_text(box.detail)}</text></g>'
    )


def _path(line: _Line, places: dict[str, int]) -> str:
    start_x = _left_of(line.start) + _BOX_WIDTH
    end_x = _left_of(line.end)
    start_y, end_y = (_TOP + places[name] * (_BOX_HEIGHT + _GAP) + _BOX_HEIGHT // 2 for name in (line.start, line.end))
    middle_x = (start_x + end_x) // 2
    curve = f"M {start_x} {start_y} C {middle_x} {start_y}, {middle_x} {end_y}, {end_x} {end_y}"
    meaning = _text(f"{line.start} to {line.end}: {line.meaning}")
    return f'<path class="{line.look}" d="{curve}"><title>{meaning}</title></path>'


def _left_of(name: str) -> int:
    columns = {"aiModels": "model", "chatConfigurations": "chat", "knowledgeBases": "base"}
    return _LEFT_OF[columns[name.partition("/")[0]]]


def _text(text: str) -> str:
    return escape(clean(text))


def _circuits(upstreams: Iterable[Upstream]) -> dict[str, str]:
    return {
        each.ai_model: f"circuit {short_name(CircuitState.Name(each.circuit_state), 'CIRCUIT_STATE_')}"
        for each in upstreams
    }


def _is_off(chat: ResolveChatConfigurationResponse) -> bool:
    return chat.chat_configuration.disabled


def _who(link: ResolvedLink, circuits: dict[str, str]) -> str:
    if not link.HasField("ai_model"):
        return "the rows alone"
    return f"{link.ai_model.name} ({circuits.get(link.ai_model.name, _NOT_ASKED)})"


def _why(base: ResolvedKnowledgeBase) -> str:
    reason = short_name(wire.VisibilityReason.Name(base.reason), "VISIBILITY_REASON_")
    return f"{'seen' if base.visible else 'not seen'}: {reason}"


def _version(base: ResolvedKnowledgeBase) -> str:
    return f"version {base.version}, {base.row_count:,} rows" if base.version else "empty"
