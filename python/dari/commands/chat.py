"""`dari chat`: asks, shows the answer and what is to know about it as they come, then who gave it over which rows."""

from collections.abc import Callable

import grpc

from dari.client import CallFailed, Client
from dari.commands.terminal import Terminal, clean, short_name
from dari.v1.chat_pb2 import Answerer, Attempt, AttemptOutcome, ChatResponse, Citation, Turn
from dari.v1.mapping_pb2 import ListChatConfigurationsRequest

CELLS_SHOWN_CHARS = 160
"""Of each cited row; --json has all of it."""


class NoSingleConfiguration(Exception):
    """No chat configuration was named, and there is not exactly one to take."""


def run(
    terminal: Terminal, question: str | None, chat_configuration: str | None, conversation: str, language: str = ""
) -> None:
    """Answer one question; without one, question after question in one conversation until the input ends.

    `language` is that of the notices, as `accept-language` has it; "" is the question's.
    """
    with terminal.connect() as client:
        name = chat_configuration or _only_configuration(client)
        if question is not None:
            ask(terminal, client, name, question, conversation, language)
            return
        _talk(terminal, client, name, conversation, language)


def ask(
    terminal: Terminal,
    client: Client,
    chat_configuration: str,
    question: str,
    conversation: str = "",
    language: str = "",
) -> Turn:
    """Ask, and print the answer's events as they come. Returns the finished turn. Raises CallFailed."""
    turn = Turn()
    is_amid_text = False
    for event in client.chat(chat_configuration, question, conversation=conversation, accept_language=language):
        kind = event.WhichOneof("event")
        if kind == "completed":
            turn = event.completed.turn
        if terminal.as_json:
            terminal.json_line(event)
            continue
        if is_amid_text and kind != "token":
            terminal.out.file.write("\n")
        is_amid_text = kind == "token"
        if kind == "token":
            terminal.out.file.write(clean(event.token.text))
            terminal.out.file.flush()
        elif kind in _REMARKS:
            terminal.note(_REMARKS[kind](event))
        elif kind == "completed":
            show_end(terminal, turn)
    return turn


_REMARKS: dict[str, Callable[[ChatResponse], str]] = {
    "notice": lambda event: f"! {event.notice.text}",
    "attempt_ended": lambda event: f"· {attempt_text(event.attempt_ended.attempt)}",
    "seam": lambda event: f"· {attempt_text(event.seam.attempt)}: another model goes on behind the last whole word",
    "superseded": lambda event: (
        f"· {attempt_text(event.superseded.attempt)}: drop the text above, another answer begins"
    ),
}
"""What is said of an event between the pieces of the answer."""


def show_end(terminal: Terminal, turn: Turn) -> None:
    """Print who answered, and the rows that it was given over."""
    # A reply of the rows alone has them in its text already.
    if turn.citations and turn.answered_by != Answerer.ANSWERER_ROWS_ONLY:
        terminal.table(
            ("", "knowledge base", "row", "cells"),
            [
                (
                    citation.number,
                    f"{citation.knowledge_base.removeprefix('knowledgeBases/')} v{citation.version}",
                    citation.row_number,
                    citation_text(citation),
                )
                for citation in turn.citations
            ],
        )
    answerer = turn.ai_model or "the rows alone"
    kind = short_name(Answerer.Name(turn.answered_by), "ANSWERER_")
    terminal.note(f"· answered by {answerer} ({kind}){_durations(turn)}")


def attempt_text(attempt: Attempt) -> str:
    """One attempt in a line: who, what came of it, why, after how long."""
    outcome = short_name(AttemptOutcome.Name(attempt.outcome), "ATTEMPT_OUTCOME_")
    cause = f" ({attempt.code})" if attempt.code else ""
    return f"{attempt.ai_model} {outcome}{cause} after {attempt.duration.ToTimedelta().total_seconds():.2f} s"


def _durations(turn: Turn) -> str:
    """How long the attempt took that gave the answer."""
    for attempt in turn.attempts:
        if attempt.outcome == AttemptOutcome.ATTEMPT_OUTCOME_ANSWERED:
            first = attempt.first_token_duration.ToTimedelta().total_seconds()
            return f" in {attempt.duration.ToTimedelta().total_seconds():.2f} s, first token after {first:.2f} s"
    return ""


def citation_text(citation: Citation) -> str:
    """The cited cells as `column: text`, cut to a line or two."""
    text = ", ".join(f"{cell.column}: {cell.text}" for cell in citation.cells if cell.text)
    return text if len(text) <= CELLS_SHOWN_CHARS else f"{text[: CELLS_SHOWN_CHARS - 1]}…"


def _talk(terminal: Terminal, client: Client, chat_configuration: str, conversation: str, language: str) -> None:
    if not terminal.as_json:
        terminal.note(f"{chat_configuration} at {client.address}; an empty line or Ctrl-D ends.")
    while question := _next_question(terminal):
        try:
            turn = ask(terminal, client, chat_configuration, question, conversation, language)
        except CallFailed as failure:
            if failure.code is grpc.StatusCode.NOT_FOUND:
                raise
            terminal.failure(failure)
            continue
        conversation = turn.name.rpartition("/turns/")[0]


def _next_question(terminal: Terminal) -> str:
    try:
        if not terminal.as_json:
            terminal.err.print("\n> ", end="")
        return input().strip()
    except EOFError:
        return ""


def _only_configuration(client: Client) -> str:
    configurations = client.mapping.ListChatConfigurations(ListChatConfigurationsRequest()).chat_configurations
    if len(configurations) == 1:
        return configurations[0].name
    names = ", ".join(configuration.name for configuration in configurations)
    raise NoSingleConfiguration(
        f"Name the chat configuration with --chat: there are {names}."
        if names
        else "There is no chat configuration; make one with `dari map chat create`."
    )
