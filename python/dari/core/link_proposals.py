"""Proposes links between resources of an older system, each with its reasons and how sure they are.

Reasons that do not depend on each other add up: two of 0.6 make 0.84. What is not sure enough is still proposed, for a
person to accept; what belongs to different owners is never sure.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from dari.core.configuration import AI_MODEL, CHAT_CONFIGURATION, KNOWLEDGE_BASE, Kind, Link, LinkList
from dari.core.old_tables import OldRow

SURE = 0.75
"""From here on a proposal counts unless a person strikes it out; below, only if a person accepts it."""
MOST_DOUBTFUL = 5
"""Of the doubtful ones so many are proposed for a list: nobody reads a hundred."""
_WORTH_TELLING = 0.35
_ID_NAMED, _FLOW_NAMED, _URL_NAMED, _NAME_NAMED = 0.95, 0.95, 0.8, 0.8
_RARE_WORD, _FREQUENT_WORD, _SAME_OWNER = 0.6, 0.2, 0.4
_OTHER_OWNER = 0.5
"""The most that is left where owners differ."""
_MIN_NAME_CHARS = 3
_LONG_KEY_CHARS = 8
"""An id of this length that is mentioned anywhere is no accident."""
_WORDS = re.compile(r"[^\W\d_]+|\d{4,}")
_HANGUL = re.compile(r"[가-힣]{2,}")
_SAYS_NOTHING = frozenset(
    _WORDS.findall(
        "a ai an and api assistant base bot chat chatbot config configuration data database default for from gpt id in"
        " info kb knowledge llm model my new of on or our test the to with your"
        " 및 데이터 데이터베이스 도우미 모델 봇 상담 설정 의 정보 지식 지식베이스 질문 챗봇"
    )
)


class _Place(IntEnum):
    """Where a word stands."""

    DESCRIPTION = 0
    NAME = 1


@dataclass(frozen=True, slots=True)
class Proposal:
    """A link, how sure it is (0 to 1), and why."""

    link: Link
    confidence: float
    reasons: tuple[str, ...]

    @property
    def is_sure(self) -> bool:
        """Whether it counts unless a person strikes it out."""
        return self.confidence >= SURE


def propose(rows: Sequence[OldRow]) -> tuple[Proposal, ...]:
    """Chains, data of chat configurations, and the grants that go with both; by list, holder and target."""
    chats = [row for row in rows if row.resource.kind is CHAT_CONFIGURATION]
    chains = list(_between(chats, [row for row in rows if row.resource.kind is AI_MODEL], LinkList.CHAIN))
    linked = list(_between(chats, [row for row in rows if row.resource.kind is KNOWLEDGE_BASE], LinkList.LINKED))
    granted = _grants(chains, linked, {(row.resource.kind.collection, row.resource.id): row for row in rows})
    return (*_placed(chains), *linked, *granted)


@dataclass(frozen=True, slots=True)
class _Targets:
    """What the rows of one kind have in common: counts, so that what only one has tells more."""

    keys: Counter[str]
    urls: Counter[str]
    words: Counter[str]


def _between(holders: Sequence[OldRow], targets: Sequence[OldRow], list: LinkList) -> Iterator[Proposal]:
    words = {target.resource.id: _words(target) for target in targets}
    common = _Targets(
        Counter(target.key for target in targets),
        Counter(_url(target) for target in targets),
        Counter(word for told in words.values() for word in told),
    )
    for holder in holders:
        mentioned = "\n".join(holder.texts.values()).lower()
        references = _references(holder, list.target)
        holder_words = _words(holder)
        proposals = []
        for target in targets:
            found = [
                *_mentions(references, mentioned, target, common),
                *_shared_words(holder_words, words[target.resource.id], common.words),
                *_shared_owner(holder, target),
            ]
            confidence = _capped(_together(found), holder, target) if found else 0.0
            if confidence >= _WORTH_TELLING:
                reasons = (*(reason for _, reason in found), *_caveats(holder, target))
                proposals.append(Proposal(Link(list, holder.resource.id, target.resource.id), confidence, reasons))
        yield from _worth_reading(proposals)


def _worth_reading(proposals: Sequence[Proposal]) -> Iterator[Proposal]:
    """All that are sure, and the surest of the doubtful."""
    yield from (one for one in proposals if one.is_sure)
    doubtful = sorted((one for one in proposals if not one.is_sure), key=lambda one: -one.confidence)
    yield from doubtful[:MOST_DOUBTFUL]


def _mentions(
    references: Mapping[str, str], mentioned: str, target: OldRow, common: _Targets
) -> Iterator[tuple[float, str]]:
    """What the holder's columns say of the target outright."""
    if target.key in references:
        if common.keys[target.key] == 1:
            yield _ID_NAMED, f"column {references[target.key]} names its old id"
        else:
            yield _SAME_OWNER, f"column {references[target.key]} names an old id that stands twice"
    elif len(target.key) >= _LONG_KEY_CHARS and _stands_in(target.key.lower(), mentioned):
        yield _ID_NAMED if common.keys[target.key] == 1 else _SAME_OWNER, "its old id is mentioned"
    flow, url = _flow(target), _url(target)
    if flow and flow in mentioned:
        yield _FLOW_NAMED, "its flow id is mentioned"
    elif url and url in mentioned:
        is_its_own = common.urls[url] == 1
        yield _URL_NAMED if is_its_own else _SAME_OWNER, f"{'its' if is_its_own else 'a shared'} address is mentioned"
    name = str(target.resource.fields["display_name"]).lower()
    if len(name) >= _MIN_NAME_CHARS and name not in _SAYS_NOTHING and _stands_in(name, mentioned):
        yield _NAME_NAMED, "its name is mentioned"


def _references(holder: OldRow, kind: Kind) -> Mapping[str, str]:
    """Old ids that columns such as ai_model_id, modelIds or knowledge_base name, with the column."""
    singular = kind.singular
    stems = "|".join((singular, singular.rsplit("_", 1)[-1], singular.replace("_", ""), "".join(_initials(singular))))
    refers = re.compile(rf"(.*_)?({stems})s?(_?(id|uuid|key|ref|name)s?)?")
    return {
        key: column
        for column, text in holder.texts.items()
        if refers.fullmatch(column)
        for key in re.split(r"[\s,;\[\]{}\":]+", text)
        if key
    }


def _initials(singular: str) -> Iterator[str]:
    return (word[0] for word in singular.split("_"))


def _stands_in(name: str, text: str) -> bool:
    """Whether it stands there as words of its own; a Korean name may have an ending behind it."""
    if name not in text:
        return False
    ends = r"(?![^\W가-힣])" if _HANGUL.search(name[-2:]) else r"(?!\w)"
    return re.search(rf"(?<!\w){re.escape(name)}{ends}", text) is not None


def _words(row: OldRow) -> Mapping[str, _Place]:
    """What its name and description are about."""
    fields = row.resource.fields
    described = " ".join(str(fields.get(name, "")) for name in ("description", "instructions"))
    told = " ".join((described, row.texts.get("description", "")))
    words = dict.fromkeys(_plain_words(told), _Place.DESCRIPTION)
    return words | dict.fromkeys(_plain_words(str(fields["display_name"])), _Place.NAME)


def _plain_words(text: str) -> Iterator[str]:
    for word in _WORDS.findall(text.lower()):
        # 상품을 and 상품 are one: the ending of a Korean word is one or two syllables.
        if _HANGUL.fullmatch(word):
            yield from (stem for stem in (word, word[:-1], word[:-2]) if len(stem) > 1 and stem not in _SAYS_NOTHING)
        elif len(word) > 1 and word not in _SAYS_NOTHING:
            yield word


def _shared_words(
    holder: Mapping[str, _Place], target: Mapping[str, _Place], spread: Counter[str]
) -> Iterator[tuple[float, str]]:
    shared = [word for word in holder if word in target]
    # Of 상품을, 상품 the longest counts once.
    longest = [word for word in shared if not any(word != other and other.startswith(word) for other in shared)]
    for word in longest[:5]:
        rare = spread[word] == 1 and _Place.NAME in (holder[word], target[word])
        yield (_RARE_WORD if rare else _FREQUENT_WORD), f"both speak of “{word}”"


def _shared_owner(holder: OldRow, target: OldRow) -> Iterator[tuple[float, str]]:
    for column, owner in holder.owners.items():
        if target.owners.get(column) == owner:
            yield _SAME_OWNER, f"same {column}"


def _other_owner(holder: OldRow, target: OldRow) -> str:
    return next((column for column, owner in holder.owners.items() if target.owners.get(column, owner) != owner), "")


def _caveats(holder: OldRow, target: OldRow) -> Iterator[str]:
    if column := _other_owner(holder, target):
        yield f"but another {column}"
    if not (holder.is_complete and target.is_complete):
        yield "but one of them must be filled in first"


def _together(found: Sequence[tuple[float, str]]) -> float:
    doubt = 1.0
    for confidence, _ in found:
        doubt *= 1 - confidence
    return 1 - doubt


def _capped(confidence: float, holder: OldRow, target: OldRow) -> float:
    is_doubtful = _other_owner(holder, target) or not (holder.is_complete and target.is_complete)
    return min(confidence, _OTHER_OWNER) if is_doubtful else confidence


def _placed(chains: Sequence[Proposal]) -> Iterator[Proposal]:
    """The same chains with priorities: the surest is asked first."""
    places: Counter[str] = Counter()
    for one in sorted(chains, key=lambda one: (one.link.holder, -one.confidence, one.link.target)):
        places[one.link.holder] += 1
        link = Link(LinkList.CHAIN, one.link.holder, one.link.target, min(places[one.link.holder], 1_000))
        yield Proposal(link, one.confidence, one.reasons)


def _grants(
    chains: Sequence[Proposal], linked: Sequence[Proposal], rows: Mapping[tuple[str, str], OldRow]
) -> Iterator[Proposal]:
    """A model in a chatbot's chain needs the chatbot's data; as sure as the less sure of both, and owners agree."""
    best: dict[tuple[str, str], Proposal] = {}
    for chain in chains:
        for data in linked:
            if chain.link.holder != data.link.holder:
                continue
            model, base = chain.link.target, data.link.target
            ends = rows[AI_MODEL.collection, model], rows[KNOWLEDGE_BASE.collection, base]
            confidence = _capped(min(chain.confidence, data.confidence), *ends)
            reasons = (f"chat configuration {chain.link.holder} asks it over this data", *_caveats(*ends))
            if (model, base) not in best or best[model, base].confidence < confidence:
                best[model, base] = Proposal(Link(LinkList.GRANTED, model, base), confidence, reasons)
    yield from (best[key] for key in sorted(best))


def _target_part(row: OldRow, name: str) -> str:
    for kind in ("flowise", "openai_compatible"):
        target = row.resource.fields.get(kind)
        if isinstance(target, Mapping) and target.get(name):
            return str(target[name]).lower()
    return ""


def _flow(row: OldRow) -> str:
    return _target_part(row, "flow_id")


def _url(row: OldRow) -> str:
    return _target_part(row, "base_url")
