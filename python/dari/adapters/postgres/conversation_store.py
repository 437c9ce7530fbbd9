"""Keeps conversations and turns."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from peewee import fn
from psycopg2.extras import Json

from dari.adapters.postgres.database import Database, Role, Transaction
from dari.adapters.postgres.tables import Conversations, Turns
from dari.core.conversations import (
    Answer,
    Answerer,
    AttemptOutcome,
    AttemptRecord,
    BegunTurn,
    Citation,
    Conversation,
    DegradedReason,
    Turn,
    TurnRequest,
    TurnState,
)
from dari.core.errors import FieldViolation, InvalidArgument, NotFound, TurnInProgress


class PostgresConversationStore:
    """A ConversationStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin_turn(self, tenant: str, request: TurnRequest, timeout_s: float, history_turns: int) -> BegunTurn | Turn:
        """See ConversationStore."""
        if request.conversation is None and request.request_id is None:
            return self._begin_first_turn(tenant, request, timeout_s)
        # The database's clock, which all replicas share.
        over_time = fn.clock_timestamp() + timedelta(seconds=timeout_s)
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            row = _turn_of_request(transaction, tenant, request) if request.request_id else None
            if row is None:
                row = _insert_turn(transaction, tenant, request, over_time)
            elif row["state"] == TurnState.COMPLETED.value:
                return _turn(row)
            elif _turn(row).state is TurnState.RUNNING:
                raise _in_progress(request.request_id)
            else:
                row = _begin_again(transaction, tenant, row, over_time)
            turn = _turn(row)
            earlier = _earlier(transaction, tenant, turn, history_turns)
            return BegunTurn(turn, row["deadline_time"], earlier, request_id=request.request_id)

    def _begin_first_turn(self, tenant: str, request: TurnRequest, timeout_s: float) -> BegunTurn:
        """Begin a turn that can collide with no other."""
        conversation = str(uuid4())
        (row,) = self._database.run(
            Role.APP,
            tenant,
            _BEGIN_FIRST_TURN,
            (
                *(tenant, conversation, request.chat_configuration),
                *(tenant, conversation, request.question, timedelta(seconds=timeout_s)),
            ),
        )
        row["conversation"] = UUID(conversation)
        return BegunTurn(_turn(row), row["deadline_time"])

    def complete_turn(self, tenant: str, begun: BegunTurn, answer: Answer) -> Turn:
        """See ConversationStore."""
        turn = begun.turn
        found = self._database.run(
            Role.APP,
            tenant,
            _COMPLETE_TURN,
            (*_answer_parameters(answer), tenant, turn.conversation.hex, turn.number, begun.over_time),
        )
        if not found:
            self.get(tenant, turn.conversation)
            raise _in_progress(None)
        (row,) = found
        return _turn({**row, "conversation": turn.conversation})

    def add_turn(self, tenant: str, request: TurnRequest, turn: Turn, answer: Answer) -> None:
        """See TurnArchive."""
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            there = _turn_of_request(transaction, tenant, request) if request.request_id else None
            if there is not None and there["state"] == TurnState.COMPLETED.value:
                return
            if there is not None and there["conversation"] != turn.conversation:
                # Begun here, the reply lost, and begun again in memory: that one's name is what its caller was told.
                _forget_request(transaction, there)
                there = None
            if request.conversation is None:
                _insert_conversation(transaction, tenant, turn.conversation, request.chat_configuration)
            row = there or _insert_turn(transaction, tenant, replace(request, conversation=turn.conversation), fn.now())
            values = {**_answer_values(answer), Turns.create_time: turn.create_time}
            Turns.update(values).where(
                (Turns.tenant == tenant) & (Turns.conversation == row["conversation"]) & (Turns.number == row["number"])
            ).execute(transaction.peewee)

    def abandon_turn(self, tenant: str, begun: BegunTurn, attempts: Sequence[AttemptRecord]) -> None:
        """See ConversationStore."""
        values = {
            Turns.state: TurnState.INCOMPLETE.value,
            Turns.attempts: [_attempt_json(attempt) for attempt in attempts],
        }
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            _end(transaction, tenant, begun, values)

    def get(self, tenant: str, id: UUID) -> Conversation:
        """See ConversationStore."""
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            return _conversation(_find(transaction, tenant, id))

    def list_conversations(
        self, tenant: str, chat_configuration: str, before: tuple[datetime, UUID] | None, limit: int
    ) -> list[Conversation]:
        """See ConversationStore."""
        table = Conversations
        query = (
            table.select().where(table.tenant == tenant).order_by(table.create_time.desc(), table.id).limit(limit)
        ).dicts()
        if chat_configuration:
            query = query.where(table.chat_configuration == chat_configuration)
        if before is not None:
            create_time, id = before
            same_time = (table.create_time == create_time) & (table.id > id)
            query = query.where((table.create_time < create_time) | same_time)
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            return [_conversation(row) for row in query.execute(transaction.peewee)]

    def list_turns(self, tenant: str, conversation: UUID, after: int, limit: int) -> list[Turn]:
        """See ConversationStore."""
        query = (
            Turns.select(Turns, _IS_OVER)
            .where((Turns.tenant == tenant) & (Turns.conversation == conversation) & (Turns.number > after))
            .order_by(Turns.number)
            .limit(limit)
            .dicts()
        )
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            _find(transaction, tenant, conversation)
            return [_turn(row) for row in query.execute(transaction.peewee)]

    def delete(self, tenant: str, id: UUID) -> None:
        """See ConversationStore."""
        with self._database.transaction(Role.APP, tenant=tenant) as transaction:
            of_this = (Conversations.tenant == tenant) & (Conversations.id == id)
            if not Conversations.delete().where(of_this).execute(transaction.peewee):
                raise NotFound.of(f"conversations/{id}")


# The conflicts are with itself, where a connection broke behind it.
_BEGIN_FIRST_TURN = """
WITH made AS (
    INSERT INTO dari.conversations (tenant, id, chat_configuration, turn_count) VALUES (%s, %s, %s, 1)
    ON CONFLICT DO NOTHING
)
INSERT INTO dari.turns (tenant, conversation, number, question, deadline_time)
VALUES (%s, %s, 1, %s, clock_timestamp() + %s)
ON CONFLICT (tenant, conversation, number) DO UPDATE SET deadline_time = excluded.deadline_time
RETURNING *
"""

# A turn that is complete under the same deadline was completed by this very statement, and the connection broke then.
_COMPLETE_TURN = """
UPDATE dari.turns SET state = 'COMPLETED', answer = %s, answered_by = %s, ai_model = %s, attempts = %s, citations = %s,
    degraded_reasons = %s::text[], knowledge_bases = %s::text[], complete_time = clock_timestamp()
WHERE tenant = %s AND conversation = %s AND number = %s AND state <> 'INCOMPLETE' AND deadline_time = %s
RETURNING *
"""

_IS_OVER = (Turns.deadline_time <= fn.clock_timestamp()).alias("is_over")
"""Whether the time of a turn is over: one that still runs then has lost its server."""


def _turn_of_request(transaction: Transaction, tenant: str, request: TurnRequest) -> dict[str, Any] | None:
    row: dict[str, Any] | None = (
        Turns.select(Turns, _IS_OVER, Conversations.chat_configuration)
        .join(Conversations, on=(Conversations.tenant == Turns.tenant) & (Conversations.id == Turns.conversation))
        .where((Turns.tenant == tenant) & (Turns.request_id == request.request_id))
        .for_update(of=Turns)
        .dicts()
        .first(transaction.peewee)
    )
    if row is None:
        return None
    same = (
        row["question"] == request.question
        and row["chat_configuration"] == request.chat_configuration
        and request.conversation in (None, row["conversation"])
    )
    if not same:
        raise InvalidArgument.of(
            FieldViolation("request_id", "was used before with another question, conversation or chat configuration")
        )
    return row


def _insert_turn(transaction: Transaction, tenant: str, request: TurnRequest, over_time: Any) -> dict[str, Any]:
    conversation = request.conversation
    if conversation is None:
        conversation = uuid4()
        _insert_conversation(transaction, tenant, conversation, request.chat_configuration)
    counted = list(
        Conversations.update(
            {Conversations.turn_count: Conversations.turn_count + 1, Conversations.update_time: fn.now()}
        )
        .where((Conversations.tenant == tenant) & (Conversations.id == conversation))
        .returning(Conversations.turn_count, Conversations.chat_configuration)
        .tuples()
        .execute(transaction.peewee)
    )
    if not counted:
        raise NotFound.of(f"conversations/{conversation}")
    number, configuration = counted[0]
    if configuration != request.chat_configuration:
        raise InvalidArgument.of(
            FieldViolation("conversation", "belongs to another chat configuration; begin a new conversation")
        )
    inserted = (
        Turns.insert(
            tenant=tenant,
            conversation=conversation,
            number=number,
            request_id=request.request_id,
            question=request.question,
            deadline_time=over_time,
        )
        .on_conflict_ignore()
        .returning(Turns)
        .dicts()
        .execute(transaction.peewee)
    )
    row: dict[str, Any] | None = next(iter(inserted), None)
    if row is None:
        # The same request_id came twice at the same moment, and the other was first.
        raise _in_progress(request.request_id)
    return row


def _insert_conversation(transaction: Transaction, tenant: str, id: UUID, chat_configuration: str) -> None:
    Conversations.insert(tenant=tenant, id=id, chat_configuration=chat_configuration).execute(transaction.peewee)


def _answer_parameters(answer: Answer) -> tuple[object, ...]:
    """Those of _COMPLETE_TURN that are the answer's."""
    return (
        answer.text,
        answer.answered_by.value,
        answer.ai_model,
        Json([_attempt_json(attempt) for attempt in answer.attempts]),
        Json([_citation_json(citation) for citation in answer.citations]),
        [reason.value for reason in answer.degraded_reasons],
        sorted(answer.knowledge_bases),
    )


def _answer_values(answer: Answer) -> dict[Any, Any]:
    """A complete turn's columns."""
    return {
        Turns.state: TurnState.COMPLETED.value,
        Turns.answer: answer.text,
        Turns.answered_by: answer.answered_by.value,
        Turns.ai_model: answer.ai_model,
        Turns.attempts: [_attempt_json(attempt) for attempt in answer.attempts],
        Turns.citations: [_citation_json(citation) for citation in answer.citations],
        Turns.degraded_reasons: [reason.value for reason in answer.degraded_reasons],
        Turns.knowledge_bases: sorted(answer.knowledge_bases),
        Turns.complete_time: fn.clock_timestamp(),
    }


def _begin_again(transaction: Transaction, tenant: str, row: dict[str, Any], over_time: Any) -> dict[str, Any]:
    again = (
        Turns.update({Turns.state: TurnState.RUNNING.value, Turns.attempts: [], Turns.deadline_time: over_time})
        .where((Turns.tenant == tenant) & (Turns.conversation == row["conversation"]) & (Turns.number == row["number"]))
        .returning(Turns)
        .dicts()
        .execute(transaction.peewee)
    )
    begun: dict[str, Any] = next(iter(again))
    return begun


def _forget_request(transaction: Transaction, row: dict[str, Any]) -> None:
    """Let another turn have the request_id; this one stays, without an answer."""
    of_this = (
        (Turns.tenant == row["tenant"]) & (Turns.conversation == row["conversation"]) & (Turns.number == row["number"])
    )
    values = {Turns.request_id: None, Turns.state: TurnState.INCOMPLETE.value}
    Turns.update(values).where(of_this).execute(transaction.peewee)


def _end(transaction: Transaction, tenant: str, begun: BegunTurn, values: dict[Any, Any]) -> dict[str, Any] | None:
    """Change the turn, if it still runs as it was begun here; None where it does not."""
    turn = begun.turn
    ended = (
        Turns.update(values)
        .where(
            (Turns.tenant == tenant)
            & (Turns.conversation == turn.conversation)
            & (Turns.number == turn.number)
            & (Turns.state == TurnState.RUNNING.value)
            & (Turns.deadline_time == begun.over_time)
        )
        .returning(Turns)
        .dicts()
        .execute(transaction.peewee)
    )
    return next(iter(ended), None)


def _in_progress(request_id: UUID | None) -> TurnInProgress:
    return TurnInProgress(
        "A turn with this request_id is being answered; wait for it.", {"request_id": request_id or ""}
    )


def _earlier(transaction: Transaction, tenant: str, turn: Turn, limit: int) -> tuple[Turn, ...]:
    if turn.number == 1:
        return ()
    rows = (
        Turns.select()
        .where(
            (Turns.tenant == tenant)
            & (Turns.conversation == turn.conversation)
            & (Turns.number < turn.number)
            & (Turns.state == TurnState.COMPLETED.value)
        )
        .order_by(Turns.number.desc())
        .limit(limit)
        .dicts()
        .execute(transaction.peewee)
    )
    return tuple(map(_turn, rows))[::-1]


def _find(transaction: Transaction, tenant: str, id: UUID) -> dict[str, Any]:
    row: dict[str, Any] | None = (
        Conversations.select()
        .where((Conversations.tenant == tenant) & (Conversations.id == id))
        .dicts()
        .first(transaction.peewee)
    )
    if row is None:
        raise NotFound.of(f"conversations/{id}")
    return row


def _conversation(row: dict[str, Any]) -> Conversation:
    return Conversation(
        row["id"], row["chat_configuration"] or "", row["turn_count"], row["create_time"], row["update_time"]
    )


def _turn(row: dict[str, Any]) -> Turn:
    attempts = tuple(map(_attempt, row["attempts"]))
    answer = None
    if row["state"] == TurnState.COMPLETED.value:
        answer = Answer(
            text=row["answer"],
            answered_by=Answerer(row["answered_by"]),
            ai_model=row["ai_model"],
            attempts=attempts,
            citations=tuple(map(_citation, row["citations"])),
            degraded_reasons=tuple(map(DegradedReason, row["degraded_reasons"])),
            knowledge_bases=frozenset(row["knowledge_bases"]),
        )
    state = TurnState(row["state"])
    if state is TurnState.RUNNING and row.get("is_over"):
        state = TurnState.INCOMPLETE
    return Turn(
        conversation=row["conversation"],
        number=row["number"],
        question=row["question"],
        state=state,
        attempts=attempts,
        answer=answer,
        create_time=row["create_time"],
        complete_time=row["complete_time"],
    )


def _attempt_json(attempt: AttemptRecord) -> dict[str, Any]:
    return {
        "ai_model": attempt.ai_model,
        "answerer": attempt.answerer.value,
        "outcome": attempt.outcome.value,
        "code": attempt.code,
        "duration_s": attempt.duration_s,
        "first_token_s": attempt.first_token_s,
    }


def _attempt(value: dict[str, Any]) -> AttemptRecord:
    return AttemptRecord(
        value["ai_model"],
        Answerer(value["answerer"]),
        AttemptOutcome(value["outcome"]),
        value["code"],
        value["duration_s"],
        value["first_token_s"],
    )


def _citation_json(citation: Citation) -> dict[str, Any]:
    return {
        "number": citation.number,
        "knowledge_base": citation.knowledge_base,
        "version": citation.version,
        "row_number": citation.row_number,
        "columns": citation.columns,
        "cells": citation.cells,
        "version_time": citation.version_time.isoformat() if citation.version_time else None,
        "used_cells": citation.used_cells,
    }


def _citation(value: dict[str, Any]) -> Citation:
    return Citation(
        value["number"],
        value["knowledge_base"],
        value["version"],
        value["row_number"],
        tuple(value["columns"]),
        tuple(value["cells"]),
        # Answers from before these two were kept have neither.
        datetime.fromisoformat(value["version_time"]) if value.get("version_time") else None,
        tuple(value.get("used_cells", ())),
    )
