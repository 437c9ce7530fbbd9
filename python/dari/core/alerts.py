"""What operators are told: a closed list of kinds, and the words for each.

An alert says what happened, to what, where, when, and what to do. It holds names, ids and codes; never a question, an
answer, a cell, a secret, an address with its password, or the text of an exception.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol
from uuid import UUID, uuid4


class AlertKind(Enum):
    """What happened. The value stands in the database: never give one another meaning."""

    CIRCUIT_OPENED = "CIRCUIT_OPENED"
    """An upstream failed so often that it is left alone. Subject: aiModels/{id}, or the origin of a server."""
    CIRCUIT_CLOSED = "CIRCUIT_CLOSED"
    """It answers again."""
    LOCAL_MODEL_DIED = "LOCAL_MODEL_DIED"
    """The local model's process ended by itself. Subject: the model file's id, as modelFiles/{id}."""
    LOCAL_MODEL_CANNOT_LOAD = "LOCAL_MODEL_CANNOT_LOAD"
    """Its file or its engine is wrong."""
    LOCAL_MODEL_READY = "LOCAL_MODEL_READY"
    """It answers again, whichever of the two was the trouble."""
    MODEL_MISCONFIGURED = "MODEL_MISCONFIGURED"
    """An AI model cannot be asked as it is configured. Subject: aiModels/{id}."""
    NO_MODEL_ANSWERED = "NO_MODEL_ANSWERED"
    """Every AI model of a chat failed: it answers from rows alone, if at all. Subject: chatConfigurations/{id}."""
    UPLOAD_FAILED = "UPLOAD_FAILED"
    """Subject: knowledgeBases/{id}, so that a job that fails again and again is one matter; item: uploads/{id}."""
    SYNC_FAILED = "SYNC_FAILED"
    """A source gave no new rows. Subject: knowledgeBases/{id}."""
    SYNC_HELD = "SYNC_HELD"
    """A source has lost so many rows that a person must look at it. Subject: knowledgeBases/{id}."""
    DATABASE_GONE = "DATABASE_GONE"
    """PostgreSQL does not answer a server. Subject: DATABASE."""
    DATABASE_BACK = "DATABASE_BACK"
    """It does again."""
    TEST = "TEST"
    """Somebody tries whether messages arrive. Subject: the target's name, as notifyTargets/{name}."""


ENDS: Mapping[AlertKind, frozenset[AlertKind]] = {
    AlertKind.CIRCUIT_CLOSED: frozenset({AlertKind.CIRCUIT_OPENED}),
    AlertKind.LOCAL_MODEL_READY: frozenset({AlertKind.LOCAL_MODEL_DIED, AlertKind.LOCAL_MODEL_CANNOT_LOAD}),
    AlertKind.DATABASE_BACK: frozenset({AlertKind.DATABASE_GONE}),
}
"""The kinds that say that something is over, and what."""
LASTING = frozenset().union(*ENDS.values())
"""The kinds that go on until one of ENDS comes; the others are over when they happen."""
DATABASE = "database"


class Severity(Enum):
    """How a message is marked where its target can."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that operators should know."""

    kind: AlertKind
    subject: str
    """Resource name of what it happened to. Quiet periods go by kind and subject."""
    code: str = ""
    """The cause as one snake_case word; may be empty."""
    item: str = ""
    """Resource name of the one thing of many that it happened to; may be empty."""
    tenant: str = ""
    """Empty where it concerns the whole installation."""
    times: int = 1
    """How often it happened; 0 says that a LASTING one, told before, still goes on."""
    happen_time: datetime = field(default_factory=lambda: datetime.now(UTC))
    """The first of these times."""
    host: str = field(default_factory=platform.node)
    """Of the server that saw it."""
    id: UUID = field(default_factory=uuid4)
    """Stored once under it, however often that is tried."""


@dataclass(frozen=True, slots=True)
class Message:
    """An alert in words."""

    title: str
    body: str
    severity: Severity


class AlertSink(Protocol):
    """Takes alerts on their way to operators."""

    def tell(self, alert: Alert) -> None:
        """Thread-safe; neither blocks nor raises: it is called where callers wait."""
        ...


def upload_failed(tenant: str, knowledge_base: str, upload: str, code: str = "") -> Alert:
    """An upload that came to nothing, by ids; the transaction that ends it stores this too."""
    return Alert(AlertKind.UPLOAD_FAILED, f"knowledgeBases/{knowledge_base}", code, f"uploads/{upload}", tenant)


def message_of(alert: Alert, held_back: int) -> Message:
    """The words for an alert that stands for `held_back` others of its kind and subject, which nobody was told."""
    words = _WORDS[alert.kind]
    names = {"subject": alert.subject, "item": alert.item or "An upload", "base": alert.subject.rpartition("/")[2]}
    lines = [words.what.format_map(names)]
    if alert.code:
        lines.append(f"Cause: {alert.code.replace('_', ' ')}.")
    tenant = f", tenant {alert.tenant}" if alert.tenant else ""
    lines.append(f"Seen by dari on {alert.host}{tenant}, {alert.happen_time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC.")
    if held_back:
        lines.append(f"It happened {held_back} more {'time' if held_back == 1 else 'times'} that you were not told of.")
    lines.append(words.remedy.format_map(names))
    return Message(words.title.format_map(names), "\n".join(lines), words.severity)


@dataclass(frozen=True, slots=True)
class _Words:
    severity: Severity
    title: str
    what: str
    remedy: str


_WORDS: Mapping[AlertKind, _Words] = {
    AlertKind.CIRCUIT_OPENED: _Words(
        Severity.BAD,
        "dari: {subject} fails",
        "{subject} failed so often that it is left alone; the next AI models of each chat answer in its place.",
        "See whether it runs and can be reached. It is tried again by itself, and you will be told when it answers.",
    ),
    AlertKind.CIRCUIT_CLOSED: _Words(
        Severity.GOOD, "dari: {subject} answers again", "{subject} answers again.", "Nothing is left to do."
    ),
    AlertKind.LOCAL_MODEL_DIED: _Words(
        Severity.WARNING,
        "dari: the local model ended",
        "The process of the local model ({subject}) ended by itself.",
        "It is started again by itself, and you will be told when it is ready. If this repeats, look at the memory of"
        " the machine and at the log of the server.",
    ),
    AlertKind.LOCAL_MODEL_CANNOT_LOAD: _Words(
        Severity.BAD,
        "dari: the local model cannot be loaded",
        "The local model ({subject}) cannot be loaded: its file or its engine is wrong.",
        "`dari model list` shows the files, `dari model add` puts a file in order. It is tried again by itself.",
    ),
    AlertKind.LOCAL_MODEL_READY: _Words(
        Severity.GOOD,
        "dari: the local model is ready again",
        "The local model ({subject}) is ready again.",
        "Nothing is left to do.",
    ),
    AlertKind.MODEL_MISCONFIGURED: _Words(
        Severity.BAD,
        "dari: {subject} cannot be asked as it is configured",
        "{subject} refuses, or cannot be asked, as it is configured; the next AI models of each chat answer in its"
        " place.",
        "Compare its address, its flow or model and the name of its key with what its server expects, and the key with"
        " the setting `secrets`.",
    ),
    AlertKind.NO_MODEL_ANSWERED: _Words(
        Severity.BAD,
        "dari: no AI model answers for {subject}",
        "Every AI model of {subject} failed: callers get the rows that fit and no more, or an error where there are"
        " none.",
        "`dari status` shows the models. Bring one of them back, or link one that works.",
    ),
    AlertKind.UPLOAD_FAILED: _Words(
        Severity.WARNING,
        "dari: an upload into {subject} failed",
        "{item} into {subject} failed and none of its rows are in; what was there before still serves.",
        "`dari uploads {base}` says why. Send the mended file under a new upload_id.",
    ),
    AlertKind.SYNC_FAILED: _Words(
        Severity.WARNING,
        "dari: the source of {subject} cannot be read",
        "The source of {subject} gave no new rows; the version before serves on.",
        "`dari syncs {base}` shows what was tried. Mend the source; it is tried again by itself where it has a"
        " schedule.",
    ),
    AlertKind.SYNC_HELD: _Words(
        Severity.WARNING,
        "dari: the source of {subject} has lost many rows",
        "The source of {subject} has so few rows that they wait for a person; the version before serves on.",
        "`dari syncs {base}` tells how many. Where they are right, `dari sync {base} --accept-shrink` takes them; where"
        " not, mend the source.",
    ),
    AlertKind.DATABASE_GONE: _Words(
        Severity.BAD,
        "dari: the database does not answer",
        "PostgreSQL does not answer: uploads fail until it does; chats answer without data, and their turns wait in"
        " memory.",
        "See whether it runs, has room on its disk, and can be reached from this host. You will be told when it"
        " answers.",
    ),
    AlertKind.DATABASE_BACK: _Words(
        Severity.GOOD,
        "dari: the database answers again",
        "PostgreSQL answers again; what waited in memory is being stored.",
        "Nothing is left to do.",
    ),
    AlertKind.TEST: _Words(
        Severity.GOOD, "dari: a test message", "Messages of dari reach {subject}.", "Nothing is left to do."
    ),
}
