"""The data under one turn: what is found for the question, what each model is told of it, and what an answer stands on.

A model is told only of the knowledge bases that it may see. An answer is marked with all of those whose data it may
repeat: a later model that may not see one of them is not told the answer.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from dari.core.chain import Answered
from dari.core.conversations import Answer, Answerer, AttemptRecord, BegunTurn, DegradedReason, Turn
from dari.core.errors import DariError, DeadlineExceeded, Unavailable
from dari.core.event_log import EventLog
from dari.core.known_profiles import KnownProfiles
from dari.core.mapping import AiModel, ResolvedChat, ResolvedLink
from dari.core.patience import Patience
from dari.core.prompt import Found, LocalContext, Told, cite, make_prompt, prompt_tokens, told_turns
from dari.core.rows_reply import rows_reply
from dari.core.search import Search
from dari.core.telemetry import NO_TELEMETRY, Step, Telemetry
from dari.core.timed_attempt import LAST_RESORT_S
from dari.core.turn_clock import TurnClock
from dari.core.upstream import Prompt
from dari.core.used_cells import used_cells

_NOT_SOUGHT = Found()


class Grounding:
    """The data of one turn, found once for each set of knowledge bases that some link may see. Thread-safe.

    Each search names exactly that set to the database, which refuses the rest by itself.
    """

    def __init__(
        self,
        *,
        search: Search | None,
        profiles: KnownProfiles,
        local: LocalContext,
        log: EventLog,
        tenant: str,
        chat: ResolvedChat,
        begun: BegunTurn,
        reading: Callable[[], Patience],
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        """`search` is None where the database is known to be gone: to wait for it would cost the time of the models.

        `reading` gives the patience for one look at the data.
        """
        self._search = search
        self._profiles = profiles
        self._local = local
        self._log = log
        self._tenant = tenant
        self.chat = chat
        self._begun = begun
        self._reading = reading
        self._telemetry = telemetry
        self._lock = threading.Lock()  # guards the two below; nobody reads data while holding it
        self._found: dict[frozenset[str], Found | None] = {}
        self._told: dict[str, Told] = {}

    @property
    def turn(self) -> Turn:
        """The turn that is answered."""
        return self._begun.turn

    def prompt(self, model: AiModel, link: ResolvedLink) -> Prompt:
        """What the model of this link is told. Raises nothing: without data it is asked all the same."""
        found = self._find(link) or Found()
        prompt, told = make_prompt(
            self.chat.configuration,
            model,
            found,
            told_turns(self._begun.earlier, link.visible_ids),
            self._begun.turn.question,
            prompt_tokens(model, self._local),
        )
        with self._lock:
            self._told[model.id] = told
        return prompt

    def model_answer(self, answered: Answered, writers: Iterable[str], attempts: Sequence[AttemptRecord]) -> Answer:
        """The answer of a model; `writers` are the models whose text it went on behind."""
        record = answered.record
        with self._lock:
            told = [self._told[model] for model in (*writers, record.ai_model)]
        # A writer was told the same rows by the same numbers, of which its context may have held more or fewer.
        citations = max((each.citations for each in told), key=len)
        return Answer(
            text=answered.text,
            answered_by=record.answerer,
            ai_model=record.ai_model,
            attempts=tuple(attempts),
            citations=tuple(
                replace(citation, used_cells=used_cells(answered.text, citation.cells)) for citation in citations
            ),
            degraded_reasons=self.lacks(record.ai_model),
            knowledge_bases=frozenset().union(*(each.knowledge_bases for each in told)),
        )

    def has_data(self) -> bool:
        """Whether an answer can be made without a model."""
        link = self.chat.chain[-1]
        return bool(link.visible_ids) and self._find(link) is not None

    def rows_answer(self, attempts: Sequence[AttemptRecord], clock: TurnClock) -> Answer:
        """The answer without a model. Raises Cancelled, DeadlineExceeded, and Unavailable where there is no data."""
        clock.check()
        link = self.chat.chain[-1]
        found = self._find(link)
        if not link.visible_ids or found is None:
            if clock.remaining_s() <= LAST_RESORT_S:
                raise DeadlineExceeded("No AI model answered before the deadline; allow more time.")
            raise Unavailable(
                "No AI model of this chat answers at the moment, and there is no data to answer from; retry with a"
                " back-off.",
                {"neighbour": "ai_models", "attempts": ",".join(f"{item.ai_model}={item.code}" for item in attempts)},
            )
        reply = rows_reply(self._begun.turn.question, found)
        return Answer(
            text=reply.text,
            answered_by=Answerer.ROWS_ONLY,
            ai_model="",
            attempts=tuple(attempts),
            citations=reply.citations,
            degraded_reasons=(DegradedReason.ROWS_ONLY,),
            knowledge_bases=link.visible_ids if not found.citations else _named(found),
        )

    def lacks(self, ai_model: str) -> tuple[DegradedReason, ...]:
        """Why text of this model is less than it could be."""
        place, link = next(
            (place, link)
            for place, link in enumerate(self.chat.chain)
            if link.ai_model is not None and link.ai_model.id == ai_model
        )
        with self._lock:
            is_unread = self._found.get(link.visible_ids, _NOT_SOUGHT) is None
        stand_in = (DegradedReason.STAND_IN,) if place > 0 else ()
        return (*stand_in, DegradedReason.NO_DATA) if is_unread else stand_in

    def _find(self, link: ResolvedLink) -> Found | None:
        """What the link may see of the data; None where it cannot be read."""
        visible = link.visible_ids
        with self._lock:
            if visible in self._found:
                return self._found[visible]
        with self._reading(), self._telemetry.step(Step.RETRIEVAL, knowledge_bases=len(visible)) as span:
            found = self._read(link)
            span.tell(rows=len(found.citations) if found is not None else 0)
        with self._lock:
            return self._found.setdefault(visible, found)

    def _read(self, link: ResolvedLink) -> Found | None:
        if self._search is None:
            return None
        configuration, question = self.chat.configuration, self._begun.turn.question
        try:
            hits = self._search.find(self._tenant, sorted(link.visible_ids), question, configuration.max_rows)
        except DariError as error:
            # Whatever the data's trouble is, a model can answer without, and the answer says so.
            self._log.warning("rows_not_read", turn=self._begun.turn.name, reason=error.reason, **error.metadata)
            return None
        citations = cite(hits)
        places = {citation.knowledge_base: citation.number for citation in reversed(citations)}
        visible = [base.knowledge_base for base in link.knowledge_bases if base.visible]
        # Those with rows first: where not all can be described, these are.
        visible.sort(key=lambda base: places.get(base.id, len(citations) + 1))
        return Found(citations, self._profiles.describe(self._tenant, visible))


def _named(found: Found) -> frozenset[str]:
    return frozenset(citation.knowledge_base for citation in found.citations)
