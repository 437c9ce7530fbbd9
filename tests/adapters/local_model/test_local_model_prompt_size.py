"""Prompts against the real tokenizer of the default model: none costs more than was reckoned."""

import json
import os
import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from dari.adapters.local_model.model_files import ModelFile
from dari.core.conversations import Answer, Answerer, Turn, TurnState
from dari.core.mapping import AiModel, ChatConfiguration, LocalTarget
from dari.core.prompt import Found, LocalContext, cite, make_prompt, prompt_tokens
from dari.core.tokens import most_tokens
from dari.core.upstream import Prompt
from tests.adapters.local_model.fakes import WAIT_S
from tests.support.described import described, hit, texts

COUNT_TOKENS = """
import json, os, sys
from pathlib import Path
from dari.adapters.local_model.chat_prompt import ChatMessage, prompt_ids
from dari.adapters.local_model.engines import EngineOptions, XllamacppEngine
from dari.adapters.local_model.model_header import read_header
path = Path(sys.argv[1])
engine = XllamacppEngine(path, read_header(path), EngineOptions(context_tokens=512, threads=1))
chats = json.load(sys.stdin)
counts = [
    len(prompt_ids([ChatMessage(*message) for message in chat], engine._form, engine._tokenize, 1 << 30))
    if isinstance(chat, list) else len(engine._tokenize(chat))
    for chat in chats
]
print(json.dumps(counts), flush=True)
os._exit(0)
"""
"""Counts the tokens of texts and of whole prompts, in a process of its own: the engine may end it."""


class RealTokenizer:
    """Of a model file."""

    def __init__(self, file: ModelFile, folder: Path) -> None:
        self._file = file
        self._folder = folder

    def count(self, *chats: str | list[tuple[str, str]]) -> list[int]:
        """The tokens of each text, and of each chat as the engine frames it."""
        done = subprocess.run(
            [sys.executable, "-c", COUNT_TOKENS, str(self._file.path)],
            input=json.dumps(chats),
            cwd=self._folder,
            env=os.environ,
            capture_output=True,
            text=True,
            check=True,
            timeout=WAIT_S,
        )
        counts: list[int] = json.loads(done.stdout.splitlines()[-1])
        return counts


@pytest.fixture
def tokenizer(default_model: ModelFile, tmp_path: Path) -> RealTokenizer:
    return RealTokenizer(default_model, tmp_path)


RANDOM = random.Random(7)
ASCII = [chr(code) for code in range(32, 127)]
ALPHABETS: dict[str, list[str]] = {
    "Hangul": [chr(code) for code in range(0xAC00, 0xD7A4)],
    "Han": [chr(code) for code in range(0x4E00, 0xA000)],
    "kana": [chr(code) for code in range(0x3041, 0x30FF)],
    "lower case": ASCII[65:91],
    "upper case": ASCII[33:59],
    "any ASCII": ASCII,
    "base64": [letter for letter in ASCII if letter.isalnum() or letter in "+/"],
    "anything": [chr(code) for code in (*range(0xA0, 0xD800), *range(0xE000, 0x11000), *range(0x1F300, 0x1FA00))],
}
SENTENCES = {
    "a Korean table": "지역=서울특별시 강남구; 상품명=무선 이어폰; 담당자=김민준; 상태=배송완료; 수량=1,200",
    "Korean": "지난 3월 매출은 1억 2천만 원으로 전년 대비 증가했다. 문의한 상품은 다음 주에 입고될 예정입니다.",
    "English": "The capital of France is Paris, and sales grew by twelve percent compared with the year before.",
    "an English table": "faa=LGA; name=La Guardia; lat=40.7772; lon=-73.8726; tz=-5; tzone=America/New_York",
    "Japanese": "東京都千代田区丸の内の株式会社の売上高は前年比で増加しました。",
    "ids": "550e8400-e29b-41d4-a716-446655440000 9f86d081884c7d659a2feaa0c55ad015 010-1234-5678",
}


def test_no_script_costs_more_tokens_than_was_reckoned(tokenizer: RealTokenizer) -> None:
    made = {name: "".join(RANDOM.choices(alphabet, k=600)) for name, alphabet in ALPHABETS.items()}
    all_texts = {**SENTENCES, **made}
    real = dict(zip(all_texts, tokenizer.count(*all_texts.values()), strict=True))
    reckoned = {name: most_tokens(text) for name, text in all_texts.items()}
    assert {name: real[name] for name in real if real[name] > reckoned[name]} == {}


KOREAN_ROWS = [
    hit(str(n), "서울특별시 강남구 테헤란로", "무선 이어폰", "배송완료", "2024-03-15", row_number=n) for n in range(50)
]
ABOUT = described("base", *[texts(f"열 {n}", 90, "값") for n in range(200)], description="주문 목록")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def full_prompt(context_tokens: int) -> tuple[Prompt, int, int]:
    """More Korean than fits a context; the prompt, its limit, and the rows that it tells."""
    answer = Answer("무선 이어폰은 강남구로 배송되었습니다. " * 100, Answerer.LOCAL, "m", (), (), (), frozenset())
    earlier = [
        Turn(UUID(int=1), n, "어디로 배송되었나요? " * 50, TurnState.COMPLETED, (), answer, NOW, None) for n in range(6)
    ]
    model = AiModel("m", "m", LocalTarget(), 1.0)
    limit = prompt_tokens(model, LocalContext(context_tokens, context_tokens // 2))
    found = Found(cite(KOREAN_ROWS), (ABOUT,))
    made, told = make_prompt(ChatConfiguration("bot", "bot"), model, found, earlier, "이어폰은 어디에 있나요?", limit)
    return made, limit, len(told.citations)


def test_a_full_prompt_of_korean_rows_fits_the_real_model_and_a_larger_context_holds_more(
    tokenizer: RealTokenizer,
) -> None:
    prompts = [full_prompt(context_tokens) for context_tokens in (1_024, 2_048, 4_096, 8_192)]
    chats = [
        [
            ("system", made.instructions),
            *((message.role, message.text) for message in made.history),
            ("user", made.question),
        ]
        for made, _, _ in prompts
    ]
    for tokens, (made, limit, _) in zip(tokenizer.count(*chats), prompts, strict=True):
        assert 0.4 * limit < tokens <= limit
        assert made.instructions.endswith("\n</rows>")
    rows = [row_count for _, _, row_count in prompts]
    assert rows == sorted(set(rows))
