"""Prompts within a budget, answers without broken characters, frames of any cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.adapters.local_model.answer_text import AnswerText
from dari.adapters.local_model.chat_prompt import ChatMessage, ChatMl, PlainDialogue, PromptTooLong, prompt_ids
from dari.adapters.local_model.protocol import MAX_FRAME_BYTES, FrameDecoder, ProtocolError, encode

START, END = -1, -2
FORM = ChatMl(START, END)


def tokenize(text: str) -> list[int]:
    """One token a character."""
    return [ord(letter) for letter in text]


def spelled(ids: list[int]) -> str:
    return "".join({START: "<", END: ">"}.get(token) or chr(token) for token in ids)


SYSTEM = ChatMessage("system", "rules and rows, the last of which is long")
EARLIER = (
    ChatMessage("user", "one"),
    ChatMessage("assistant", "two"),
    ChatMessage("user", "three"),
    ChatMessage("assistant", "four"),
)
QUESTION = ChatMessage("user", "why?")
ALL = (SYSTEM, *EARLIER, QUESTION)


def test_a_prompt_that_fits_is_whole() -> None:
    assert spelled(prompt_ids(ALL, FORM, tokenize, 1_000)) == (
        "<system\nrules and rows, the last of which is long>\n<user\none>\n<assistant\ntwo>\n<user\nthree>\n"
        "<assistant\nfour>\n<user\nwhy?>\n<assistant\n"
    )


def test_earlier_turns_go_first_and_in_pairs_then_the_end_of_the_instructions() -> None:
    whole = len(prompt_ids(ALL, FORM, tokenize, 1_000))
    assert "one" not in spelled(prompt_ids(ALL, FORM, tokenize, whole - 1))
    assert "three" in spelled(prompt_ids(ALL, FORM, tokenize, whole - 1))
    shorter = spelled(prompt_ids(ALL, FORM, tokenize, 60))
    assert shorter.startswith("<system\nrules and rows")
    assert shorter.endswith(">\n<user\nwhy?>\n<assistant\n")


def test_a_question_beyond_the_budget_is_refused() -> None:
    with pytest.raises(PromptTooLong):
        prompt_ids(ALL, FORM, tokenize, 20)


def test_an_answer_that_was_begun_stands_at_the_end_and_is_never_cut() -> None:
    """The model goes on behind it; earlier turns go before it does, and beyond the budget it is refused."""
    begun = (*ALL, ChatMessage("assistant", "because of"))
    whole = prompt_ids(begun, FORM, tokenize, 1_000)
    assert spelled(whole) == spelled(prompt_ids(ALL, FORM, tokenize, 1_000)) + "because of"
    shorter = spelled(prompt_ids(begun, FORM, tokenize, len(whole) - 1))
    assert "one" not in shorter
    assert shorter.endswith("<user\nwhy?>\n<assistant\nbecause of")
    with pytest.raises(PromptTooLong):
        prompt_ids((QUESTION, begun[-1]), FORM, tokenize, 30)


def test_a_plain_dialogue_serves_models_without_chat_tokens() -> None:
    ids = prompt_ids((SYSTEM, QUESTION), PlainDialogue((7,)), tokenize, 1_000)
    assert ids[0] == 7
    assert spelled(ids[1:]).endswith("long\n\nUser: why?\n\nAssistant:")


@given(st.lists(st.text(max_size=40), max_size=6), st.text(max_size=40), st.integers(0, 300))
def test_no_prompt_is_longer_than_its_budget(turns: list[str], question: str, budget: int) -> None:
    roles = [ChatMessage("assistant" if number % 2 else "user", text) for number, text in enumerate(turns)]
    messages = (SYSTEM, *roles, ChatMessage("user", question))
    try:
        ids = prompt_ids(messages, FORM, tokenize, budget)
    except PromptTooLong:
        return
    assert len(ids) <= budget
    assert spelled(ids).endswith(f"<user\n{question}>\n<assistant\n")


@given(st.text(), st.integers(1, 5))
def test_characters_come_out_whole_however_their_bytes_are_cut(text: str, size: int) -> None:
    answer, data = AnswerText(()), text.encode()
    pieces = [answer.push_bytes(data[at : at + size]) for at in range(0, len(data), size)]
    assert "".join([*pieces, answer.flush()]) == text.replace("\ufffd", "").replace("\0", "")


@given(st.text(alphabet="ab<|>", max_size=30), st.integers(1, 4))
def test_nothing_of_a_stop_text_is_given_out(text: str, size: int) -> None:
    answer = AnswerText(("<|a", "bb<"))
    given_out = "".join(answer.push(text[at : at + size]) for at in range(0, len(text), size)) + answer.flush()
    ends = [at for stop in ("<|a", "bb<") if (at := text.find(stop)) >= 0]
    assert given_out == text[: min(ends, default=len(text))]


def test_broken_bytes_are_left_out() -> None:
    answer = AnswerText(())
    assert answer.push_bytes(b"a\xff\xfe\xed\x95b\xea\xb0") + answer.flush() == "ab"


@pytest.mark.parametrize(
    ("unit", "times", "ends"),
    [("The fox had been very thoughtful. ", 40, True), ("a table | with | cells\n", 2, False), ("-" * 60, 1, False)],
)
def test_an_answer_that_goes_round_in_circles_is_finished(unit: str, times: int, ends: bool) -> None:
    answer = AnswerText(())
    for _ in range(times):
        for letter in unit:
            answer.push(letter)
    assert answer.is_finished is ends


@given(st.lists(st.text(), min_size=1, max_size=5), st.integers(1, 9))
def test_frames_survive_any_cut(texts: list[str], size: int) -> None:
    data = b"".join(encode({"type": "piece", "text": text}) for text in texts)
    decoder = FrameDecoder()
    frames = [frame for at in range(0, len(data), size) for frame in decoder.feed(data[at : at + size])]
    assert [frame["text"] for frame in frames] == texts


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", b"\0\0\0\x02{]", b"\0\0\0\x02[]", b"\0\0\0\x02{}", b"\0\0\0\x01\xff", b"\0\0\0\x00"],
)
def test_what_is_no_frame_ends_the_connection(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(FrameDecoder().feed(data))


def test_a_frame_beyond_the_limit_is_not_sent() -> None:
    with pytest.raises(ProtocolError):
        encode({"type": "ask", "text": "x" * MAX_FRAME_BYTES})
