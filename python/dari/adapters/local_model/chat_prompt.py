"""Turns messages into the token ids of a prompt that fits a budget.

The prompt is built from ids and not from text: a message's text is tokenized with special tokens switched off, so a
retrieved row that spells `<|im_end|>` stays a row and never ends the message.

What does not fit is dropped in this order: earlier turns, oldest first; then the end of the instructions, where the
least relevant rows stand. The question is never cut, nor is an answer that was begun: if they do not fit,
`PromptTooLong` says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Role = Literal["system", "user", "assistant"]
Tokenize = Callable[[str], list[int]]
"""Text to ids, special tokens and beginning-of-sequence switched off."""


class PromptTooLong(Exception):
    """The question, with the answer that was begun, is longer than the budget."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a prompt, oldest first; one `system` message at most, at the front.

    The last one is the question, or behind it an `assistant` message: the beginning of the answer, to go on with.
    """

    role: Role
    text: str


class ChatForm(Protocol):
    """How a model wants messages to be framed."""

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer although the model did not end it by a token."""
        ...

    def opening(self) -> list[int]: ...

    def message(self, message: ChatMessage, tokenize: Tokenize, limit_tokens: int | None = None) -> list[int]:
        """The ids of one framed message; its text is cut at the end to keep within `limit_tokens`."""
        ...

    def answer_begins(self, tokenize: Tokenize) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class ChatMl:
    r"""`<|im_start|>role\ntext<|im_end|>\n`, the form of SmolLM2, Qwen and many more."""

    start_id: int
    end_id: int
    stops: tuple[str, ...] = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")

    def opening(self) -> list[int]:
        return []

    def message(self, message: ChatMessage, tokenize: Tokenize, limit_tokens: int | None = None) -> list[int]:
        close = [self.end_id, *tokenize("\n")]
        body = [self.start_id, *tokenize(f"{message.role}\n{message.text}")]
        return _cut(body, limit_tokens, len(close)) + close

    def answer_begins(self, tokenize: Tokenize) -> list[int]:
        return [self.start_id, *tokenize("assistant\n")]


@dataclass(frozen=True, slots=True)
class PlainDialogue:
    """`User: …` and `Assistant:` lines, for a model whose vocabulary has no ChatML tokens."""

    opening_ids: tuple[int, ...] = ()
    """The beginning-of-sequence token, where the model wants one."""
    stops: tuple[str, ...] = ("\nUser:", "\nSystem:")

    def opening(self) -> list[int]:
        return list(self.opening_ids)

    def message(self, message: ChatMessage, tokenize: Tokenize, limit_tokens: int | None = None) -> list[int]:
        close = tokenize("\n\n")
        return _cut(tokenize(f"{message.role.title()}: {message.text}"), limit_tokens, len(close)) + close

    def answer_begins(self, tokenize: Tokenize) -> list[int]:
        return tokenize("Assistant:")


def _cut(body: list[int], limit_tokens: int | None, reserved_tokens: int) -> list[int]:
    return body if limit_tokens is None else body[: max(0, limit_tokens - reserved_tokens)]


MIN_INSTRUCTIONS_TOKENS = 16
"""Less than this of the instructions says nothing; they are then left out."""


def prompt_ids(messages: Sequence[ChatMessage], form: ChatForm, tokenize: Tokenize, budget_tokens: int) -> list[int]:
    """The ids of a whole prompt, `budget_tokens` long at most. Raises `PromptTooLong`."""
    *earlier, question = without_begun_answer(messages)
    opening, answer = form.opening(), form.answer_begins(tokenize)
    if messages[-1].role == "assistant":
        answer += tokenize(messages[-1].text)
    asked = form.message(question, tokenize)
    left = budget_tokens - len(opening) - len(answer) - len(asked)
    if left < 0:
        raise PromptTooLong
    system = _instructions_ids(earlier, form, tokenize, left)
    history = _newest_turns(earlier, form, tokenize, left - len(system))
    return [*opening, *system, *history, *asked, *answer]


def without_begun_answer(messages: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
    """The messages up to the question."""
    return messages[:-1] if messages[-1].role == "assistant" else messages


def _instructions_ids(
    messages: Sequence[ChatMessage], form: ChatForm, tokenize: Tokenize, left_tokens: int
) -> list[int]:
    if not messages or messages[0].role != "system" or left_tokens < MIN_INSTRUCTIONS_TOKENS:
        return []
    return form.message(messages[0], tokenize, left_tokens)


def _newest_turns(messages: Sequence[ChatMessage], form: ChatForm, tokenize: Tokenize, left_tokens: int) -> list[int]:
    """The longest run of whole messages up to the question that fits, and that starts with a user's message."""
    kept: list[list[int]] = []
    roles: list[Role] = []
    for message in reversed(messages):
        if message.role == "system":
            break
        ids = form.message(message, tokenize)
        left_tokens -= len(ids)
        if left_tokens < 0:
            break
        kept.append(ids)
        roles.append(message.role)
    while roles and roles[-1] == "assistant":
        roles.pop()
        kept.pop()
    return [token for ids in reversed(kept) for token in ids]
