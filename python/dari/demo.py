"""`dari demo`: from nothing to answers over real data, while the first model of the chain is dead.

Fetches the flights of 2013, starts a server of its own, loads five tables over gRPC, and makes two chatbots whose first
model is a Flowise that nobody runs. The first has the local model as its second, and is asked in English, which is
what that small model speaks. The second has no other model, is asked in Korean, and gives the rows that it found.
Every step checks what it shows; a second run finds everything in place and takes seconds.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from dari.client import CallFailed, Client
from dari.commands import ingest
from dari.commands.chat import ask
from dari.commands.exit_codes import ExitCode
from dari.commands.flight_data import NoFlightData, flight_tables
from dari.commands.map import show_resolved
from dari.commands.terminal import Terminal
from dari.settings import SettingsError, load_settings
from dari.v1 import chat_pb2, ingest_pb2
from dari.v1 import mapping_pb2 as wire

ROW_COUNTS = {"airlines": 16, "airports": 1_458, "planes": 3_322, "weather": 26_115, "flights": 336_776}

FLOWISE, LOCAL = "aiModels/demo-flowise", "aiModels/demo-local"
CHAT, CHAT_WITHOUT_MODEL = "chatConfigurations/demo-flights", "chatConfigurations/demo-flights-without-model"
CHAINS = {CHAT: (FLOWISE, LOCAL), CHAT_WITHOUT_MODEL: (FLOWISE,)}
DEAD_FLOWISE_URL = "http://127.0.0.1:1"
"""Port 1 is reserved, and nobody listens there: connections are refused at once."""
FLOW_ID = "00000000-0000-4000-8000-000000000001"
ROWS_GIVEN = 3
"""Rows given to a model: a short prompt, which a laptop reads in a second or two."""
LOCAL_FIRST_TOKEN_TIMEOUT_S = 60

DESCRIPTIONS = {
    "airlines": "Airlines: two-letter carrier code and name.",
    "airports": "Airports of the United States: FAA code, name, place, time zone.",
    "planes": "Planes by tail number: year, manufacturer, model, engines, seats.",
    "weather": "Hourly weather at the three airports of New York City in 2013.",
    "flights": "All flights that left New York City in 2013: times, delays, carrier, tail number, airports, distance.",
}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of whom, who must answer, with which word, and over which row among others."""

    chat: str
    text: str
    answerer: "chat_pb2.Answerer.ValueType"
    degraded: "chat_pb2.DegradedReason.ValueType"
    word: str
    table: str
    column: str
    cell: str


QUESTIONS = (
    Question(
        chat=CHAT,
        text="Which airline has the carrier code B6?",
        answerer=chat_pb2.ANSWERER_LOCAL,
        degraded=chat_pb2.DEGRADED_REASON_STAND_IN,
        word="JetBlue",
        table="airlines",
        column="name",
        cell="JetBlue Airways",
    ),
    Question(
        chat=CHAT_WITHOUT_MODEL,
        text="LGA 공항의 이름은 무엇인가요?",
        answerer=chat_pb2.ANSWERER_ROWS_ONLY,
        degraded=chat_pb2.DEGRADED_REASON_ROWS_ONLY,
        word="La Guardia",
        table="airports",
        column="name",
        cell="La Guardia",
    ),
)


class Unexpected(Exception):
    """A step did not show what it must."""


def run(terminal: Terminal, data_dir: Path, archive: Path | None) -> ExitCode:
    """Run all steps. `terminal` with a given address uses that server, which needs a local model."""
    from dari.server import START_ERRORS

    began_s = time.monotonic()
    try:
        _step(terminal, "The data: flights from New York City in 2013")
        tables = flight_tables(data_dir / "flights", archive)
        terminal.note(", ".join(f"{table} {path.stat().st_size / 1e6:.1f} MB" for table, path in tables.items()))
        with ExitStack() as opened:
            own_server = terminal.given_address is None
            address = opened.enter_context(_own_server(terminal, data_dir)) if own_server else terminal.address
            client = opened.enter_context(terminal.connect(address))
            _ingest_all(terminal, client, tables)
            _map_all(client)
            _resolve(terminal, client)
            for number, question in enumerate(QUESTIONS):
                _step(terminal, question.text)
                turn = ask(terminal, client, question.chat, question.text)
                _check_turn(turn, question, flowise_is_skipped=own_server and number > 0)
    except (Unexpected, NoFlightData) as error:
        terminal.note(str(error))
        return ExitCode.UNEXPECTED
    except SettingsError as error:
        terminal.note(str(error))
        return ExitCode.CONFIG
    except START_ERRORS as error:
        terminal.note(str(error))
        return ExitCode.FAILED
    _step(terminal, f"Everything was as it must be, in {time.monotonic() - began_s:.1f} s")
    return ExitCode.OK


@contextmanager
def _own_server(terminal: Terminal, data_dir: Path) -> Iterator[str]:
    """A server on free ports, with the embedded database and the default model; gives its address."""
    from dari.adapters.local_model.model_files import DEFAULT_MODEL_ID, add_default_model
    from dari.server import Server

    settings = load_settings(
        listen_address="127.0.0.1:0",
        admin_address="127.0.0.1:0",
        metrics_address="",
        data_dir=data_dir,
        database_dsn=None,
        local_model=DEFAULT_MODEL_ID,
        # One refusal opens Flowise's circuit, so that the second question shows it being passed by.
        circuit_consecutive_failures=1,
        circuit_open_s=600,
        log_level="error",
        log_format="console",
    )
    _step(terminal, "The local model, which answers when nobody else can")
    add_default_model(settings.model_dir, terminal.note)
    _step(terminal, "A server with its own PostgreSQL")
    with Server(settings) as server:
        terminal.note(f"serves on {server.address}")
        yield server.address


def _ingest_all(terminal: Terminal, client: Client, tables: dict[str, Path]) -> None:
    _step(terminal, "Five files in, over gRPC")
    receipts = []
    sending = ingest.Sending(terminal, client, give_up_after_s=60.0)
    for table, path in tables.items():
        base = wire.CreateKnowledgeBaseRequest(
            knowledge_base_id=_base(table).removeprefix("knowledgeBases/"),
            knowledge_base=wire.KnowledgeBase(description=DESCRIPTIONS[table]),
        )
        _made(client.mapping.CreateKnowledgeBase, base)
        opening = ingest_pb2.OpenUpload(knowledge_base=_base(table), mode=ingest_pb2.UPLOAD_MODE_REPLACE)
        sent = sending.send(path, opening)
        receipts.append(sent)
        if terminal.as_json:
            terminal.json_line(sent.receipt)
        _expect(f"rows of {table}", sent.receipt.rows_stored, ROW_COUNTS[table])
        _expect(f"rejected rows of {table}", sent.receipt.rows_rejected, 0)
        _expect(f"bytes of {table}", sent.receipt.size_bytes, path.stat().st_size)
    if not terminal.as_json:
        terminal.table(
            ("knowledge base", "version", "rows", "rejected", "bytes", "took"),
            [
                (
                    sent.receipt.knowledge_base.removeprefix("knowledgeBases/"),
                    sent.receipt.version,
                    f"{sent.receipt.rows_stored:,}",
                    sent.receipt.rows_rejected,
                    f"{sent.receipt.size_bytes:,}",
                    "in already" if sent.was_complete else f"{sent.elapsed_s:.1f} s",
                )
                for sent in receipts
            ],
        )


def _map_all(client: Client) -> None:
    """Make the models, the chatbot, and what links them; what is there stays."""
    mapping = client.mapping
    flowise = wire.AiModel(
        kind=wire.AI_MODEL_KIND_FLOWISE, flowise=wire.FlowiseTarget(base_url=DEAD_FLOWISE_URL, flow_id=FLOW_ID)
    )
    local = wire.AiModel(
        kind=wire.AI_MODEL_KIND_LOCAL,
        local=wire.LocalTarget(),
        max_answer_tokens=96,
        first_token_timeout=Duration(seconds=LOCAL_FIRST_TOKEN_TIMEOUT_S),
    )
    for name, model in ((FLOWISE, flowise), (LOCAL, local)):
        request = wire.CreateAiModelRequest(ai_model_id=name.removeprefix("aiModels/"), ai_model=model)
        _made(mapping.CreateAiModel, request)
    for table in ROW_COUNTS:
        mapping.GrantKnowledgeBase(wire.GrantKnowledgeBaseRequest(ai_model=LOCAL, knowledge_base=_base(table)))
    for chat, chain in CHAINS.items():
        made = wire.CreateChatConfigurationRequest(
            chat_configuration_id=chat.removeprefix("chatConfigurations/"),
            chat_configuration=wire.ChatConfiguration(max_rows=ROWS_GIVEN),
        )
        _made(mapping.CreateChatConfiguration, made)
        for priority, name in enumerate(chain):
            mapping.LinkAiModel(wire.LinkAiModelRequest(chat_configuration=chat, ai_model=name, priority=priority))
        for table in ROW_COUNTS:
            mapping.LinkKnowledgeBase(
                wire.LinkKnowledgeBaseRequest(chat_configuration=chat, knowledge_base=_base(table))
            )


def _resolve(terminal: Terminal, client: Client) -> None:
    """Show the chain: Flowise is asked first and sees no data, the local model sees all."""
    _step(terminal, "Who answers, over what")
    answer = client.mapping.ResolveChatConfiguration(wire.ResolveChatConfigurationRequest(name=CHAT))
    if terminal.as_json:
        terminal.json_line(answer)
    else:
        show_resolved(terminal, answer)
    _expect("the chain", [link.ai_model.name for link in answer.chain], [FLOWISE, LOCAL, ""])
    for link, expected in zip(answer.chain[:2], (0, len(ROW_COUNTS)), strict=True):
        seen = sum(base.visible for base in link.knowledge_bases)
        _expect(f"knowledge bases that {link.ai_model.name} sees", seen, expected)


def _check_turn(turn: chat_pb2.Turn, question: Question, *, flowise_is_skipped: bool) -> None:
    """The right one answered, says so, over the right row; and Flowise was asked first, or passed by."""
    _expect("the turn", turn.state, chat_pb2.TURN_STATE_COMPLETED)
    _expect("the answerer", turn.answered_by, question.answerer)
    _expect("why the answer is degraded", list(turn.degraded_reasons), [question.degraded])
    _expect(f"{question.word} in the answer", question.word in turn.answer, True)
    first = turn.attempts[0]
    _expect("the first model", first.ai_model, FLOWISE)
    if flowise_is_skipped:
        _expect("what came of Flowise", first.outcome, chat_pb2.ATTEMPT_OUTCOME_SKIPPED)
    else:
        refused = (chat_pb2.ATTEMPT_OUTCOME_FAILED, chat_pb2.ATTEMPT_OUTCOME_SKIPPED)
        _expect("Flowise failed", first.outcome in refused, True)
    found = any(
        citation.knowledge_base == _base(question.table)
        and any(cell.column == question.column and cell.text == question.cell for cell in citation.cells)
        for citation in turn.citations
    )
    _expect(f"the row of {question.cell} among the citations", found, True)


def _base(table: str) -> str:
    return f"knowledgeBases/demo-{table}"


def _made(create: Callable[[Any], object], request: Message) -> None:
    """Create something that may be there from an earlier run."""
    try:
        create(request)
    except CallFailed as failure:
        if failure.code is not grpc.StatusCode.ALREADY_EXISTS:
            raise


def _step(terminal: Terminal, title: str) -> None:
    terminal.err.print(f"\n■ {title}", style="bold")


def _expect(what: str, seen: object, expected: object) -> None:
    if seen != expected:
        raise Unexpected(f"The demo failed: {what} should be {expected!r} and is {seen!r}.")
