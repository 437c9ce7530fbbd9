"""The two engines behind one interface: llama.cpp of today (`xllamacpp`) and of 2023 (`ctransformers`).

Both are built, used and thrown away in the child process only: they are C++ that may end the process. What is peculiar
to each is handled here, in its class, and nowhere else.
"""

import http.client
import importlib
import json
import os
import queue
import re
import secrets
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from ctypes import c_int
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from dari.adapters.local_model.answer_text import AnswerText
from dari.adapters.local_model.chat_prompt import (
    ChatForm,
    ChatMessage,
    ChatMl,
    PlainDialogue,
    prompt_ids,
    without_begun_answer,
)
from dari.adapters.local_model.model_header import HeaderError, ModelHeader, Vocabulary, read_header, read_vocabulary

EngineName = Literal["auto", "xllamacpp", "ctransformers"]
ShouldStop = Callable[[], bool]

PREFILL_TOKENS = 16
"""How much of a prompt xllamacpp takes in at once; a cancel waits for two such steps: it asks about one when it has
begun the next.

SmolLM2-135M on 2 busy cores, the processor's time of the best of four rounds in turn: steps of 8, 16, 31, 64 and 128
read 113, 127, 141, 141 and 152 tokens/s. A step of 16 so costs a tenth of the speed of 64 and took 126 ms, one of 64
took 454 ms."""

CTRANSFORMERS_PREFILL_TOKENS = 16
"""The same for ctransformers, which asks before each step: a cancel waits for one. Steps of 8 and 16 read 87 and 95
tokens/s, as above; one of 16 took 169 ms."""


class EngineError(Exception):
    """An engine cannot be opened or has failed. `code` is one snake_case word; no foreign text is kept."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. The defaults keep a small model to the point.

    Tried with SmolLM2-135M over questions of fact and over three rows of prices: the likeliest token each time gave
    the right answer every time; temperature 0.2 (its authors' advice for talk) was wrong one time in four, and a
    repetition penalty of 1.1 nearly always, because it punishes the words and figures of the question and the rows.
    Answers that go round in circles, the price of this choice, are ended by `AnswerText`.
    """

    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_k: int = 40
    top_p: float = 0.9
    repeat_penalty: float = 1.0
    """1 is none."""
    repeat_window_tokens: int = 64
    seed: int | None = None
    """None draws a new one for every answer."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine needs to know beside the file."""

    context_tokens: int = 2048
    """Prompt and answer together; never more than the model was trained for. A token costs 23 KB for SmolLM2-135M."""
    prompt_limit_tokens: int = 1024
    """Longer prompts are cut. Reading a prompt is the slow part on a CPU: 1,024 tokens took 5 s (xllamacpp) to 10 s."""
    threads: int = 0
    """0 takes the physical cores that this process may use but one, and 1 at least.

    The engines' threads wait for one another by spinning. On 2 busy cores the same answer took 13.7 s (xllamacpp) and
    28.9 s (ctransformers) with two threads, 4.6 s and 3.1 s with one; on 2 idle cores two threads are faster by half.
    """
    prefill_tokens: int | None = None
    """How much of a prompt is read in one step; None takes what suits the engine. A cancel waits for the step."""
    slots: int = 1
    """Answers written at the same time (xllamacpp only), each with `context_tokens` of its own."""
    chat_template_trusted: bool = False
    """Whether the template inside the file, which is a program, may be run (xllamacpp only)."""
    architecture: str | None = None
    """Names the architecture where the file cannot (GGML)."""


class Engine(Protocol):
    """A loaded model. `generate` may be called by `slots` threads at once."""

    name: str
    slots: int
    context_tokens: int

    def generate(
        self, messages: Sequence[ChatMessage], max_tokens: int, sampling: Sampling, should_stop: ShouldStop
    ) -> Generator[str, None, None]:
        """Yield the answer in pieces, none empty, none with half a character.

        Where the last message is the assistant's, the answer goes on behind it, and it is not yielded again.
        Ends early, without an error, when `should_stop` says so. Raises `PromptTooLong` and `EngineError`.
        """
        ...


def open_engine(path: Path, engine: EngineName, options: EngineOptions) -> Engine:
    """Load a model file into the engine that reads its format. Raises `EngineError`."""
    try:
        header = read_header(path)
    except HeaderError as error:
        raise EngineError("model_unreadable", str(error)) from error
    except OSError as error:
        raise EngineError("model_missing", f"The model file cannot be opened: {error.strerror}.") from error
    chosen = XllamacppEngine if engine_for(header, engine) == "xllamacpp" else CtransformersEngine
    return chosen(path, header, options)


def engine_for(header: ModelHeader, engine: EngineName) -> Literal["xllamacpp", "ctransformers"]:
    """The engine that is to read a file: the one chosen, or by its format."""
    if engine == "auto":
        return "xllamacpp" if header.format == "gguf-v3" else "ctransformers"
    return engine


def spare_cores() -> int:
    """The physical cores behind the logical ones that this process may run on, but one; at least 1."""
    return max(1, len({_core_of(cpu) for cpu in os.sched_getaffinity(0)}) - 1)


def _core_of(cpu: int) -> str:
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        package = (topology / "physical_package_id").read_text().strip()
        return f"{package}/{(topology / 'core_id').read_text().strip()}"
    except OSError:
        return f"cpu{cpu}"


def _context_within(header: ModelHeader, options: EngineOptions) -> int:
    return min(options.context_tokens, header.context_tokens or options.context_tokens)


def _budget_tokens(context_tokens: int, options: EngineOptions, max_tokens: int) -> int:
    """How long a prompt may be so that the answer has room; at least a quarter of the context is the prompt's."""
    return min(options.prompt_limit_tokens, max(context_tokens - max_tokens, context_tokens // 4))


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EngineError("engine_missing", f"The package {name.partition('.')[0]} is not installed.") from error


# --- xllamacpp -------------------------------------------------------------------------------------------------------

SOCKET_NAME = "engine.sock"
"""In the working directory, so that its length does not depend on where that is (a path may have 107 bytes)."""


class XllamacppEngine:
    """llama.cpp of today through xllamacpp 2026.10.11549.

    Its server cannot be had without an HTTP listener (`ctx_http.start()` in its server.cpp), by default on a loopback
    port, without a key, for every web origin. Here it listens on a Unix socket in the working directory, which is the
    supervisor's private one, with a random key and no origin; only `_tokenize` uses it. Answers come by callback,
    which runs on the thread that asks; a callback that returns True ends the generation before the next step.
    """

    name = "xllamacpp"

    def __init__(self, path: Path, header: ModelHeader, options: EngineOptions) -> None:
        if header.format not in ("gguf-v3", "gguf-v2"):
            raise EngineError("format_unsupported", f"xllamacpp does not read {header.format} files.")
        self.slots = max(1, options.slots)
        self.context_tokens = _context_within(header, options)
        self._options = options
        self._key = secrets.token_hex(32)
        self._server = self._open(_package("xllamacpp"), path)
        self._form = self._choose_form()

    def _open(self, package: Any, path: Path) -> Any:
        threads = self._options.threads or spare_cores()
        params = package.CommonParams()
        params.model.path = str(path)
        params.n_ctx = self.context_tokens * self.slots
        params.n_parallel = self.slots
        params.n_batch = params.n_ubatch = self._options.prefill_tokens or PREFILL_TOKENS
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cache_ram_mib = 0  # The prompt cache beside the slots may otherwise grow to 8 GiB.
        params.cpuparams.poll = params.cpuparams_batch.poll = 0  # Do not spin while another thread is slower.
        params.ctx_shift = False
        params.verbosity = -1
        params.hostnames = [SOCKET_NAME]
        params.api_keys = [self._key]
        params.cors_origins = ""
        params.n_threads_http = 2
        params.ui = params.endpoint_slots = False
        if not self._options.chat_template_trusted:
            params.use_jinja = False
            params.chat_template = "chatml"
        Path(SOCKET_NAME).unlink(missing_ok=True)
        try:
            return package.Server(params)
        except RuntimeError as error:
            raise EngineError("model_unloadable", "llama.cpp cannot load this model file.") from error

    def _choose_form(self) -> ChatForm | None:
        """Our own framing of messages; None leaves it to the trusted template in the file."""
        if self._options.chat_template_trusted:
            return None
        start, end = (self._post_tokenize(text, special=True) for text in ("<|im_start|>", "<|im_end|>"))
        if len(start) == 1 and len(end) == 1:
            return ChatMl(start[0], end[0])
        return PlainDialogue(tuple(self._post_tokenize("", special=True)))

    def generate(
        self, messages: Sequence[ChatMessage], max_tokens: int, sampling: Sampling, should_stop: ShouldStop
    ) -> Generator[str, None, None]:
        """See `Engine.generate`. Leaving the iterator early ends the generation too."""
        request = self._request(messages, max_tokens, sampling)
        chunks: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        is_left = threading.Event()

        def take(chunk: dict[str, Any]) -> bool:
            chunks.put(chunk)
            return is_left.is_set() or should_stop()

        thread = threading.Thread(target=self._ask, args=(request, take, chunks), name="xllamacpp-ask", daemon=True)
        thread.start()
        text = AnswerText(self._form.stops if self._form else ())
        try:
            while (chunk := chunks.get()) is not None and not should_stop() and not text.is_finished:
                if piece := text.push(_text_of(chunk)):
                    yield piece
            if chunk is None and (piece := text.flush()):
                yield piece
        finally:
            is_left.set()
            thread.join()

    def _request(self, messages: Sequence[ChatMessage], max_tokens: int, sampling: Sampling) -> dict[str, Any]:
        budget = _budget_tokens(self.context_tokens, self._options, max_tokens)
        request: dict[str, Any] = {
            "stream": True,
            "return_progress": True,  # Lets the callback stop a generation between two steps of the prompt.
            "cache_prompt": True,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "repeat_penalty": sampling.repeat_penalty,
            "repeat_last_n": sampling.repeat_window_tokens,
            "max_tokens": max_tokens,
        }
        if sampling.seed is not None:
            request["seed"] = sampling.seed
        if self._form is not None:
            request["prompt"] = prompt_ids(messages, self._form, self._tokenize, budget)
            request["max_tokens"] = min(max_tokens, self.context_tokens - len(request["prompt"]))
        else:
            request["messages"] = self._fit_for_template(messages, budget)
        return request

    def _fit_for_template(self, messages: Sequence[ChatMessage], budget_tokens: int) -> list[dict[str, str]]:
        """Messages for the file's own template: those that fit, control tokens broken up in their texts."""
        frame_tokens = 8  # What a template adds around one message: 4 to 6 in the usual ones.
        earlier = without_begun_answer(messages)[:-1]
        fitting = list(messages[len(earlier) :])
        left = budget_tokens - frame_tokens
        left -= sum(len(self._tokenize(message.text)) + frame_tokens for message in fitting)
        for message in reversed(earlier):
            left -= len(self._tokenize(message.text)) + frame_tokens
            if left < 0:
                break
            fitting.insert(0, message)
        return [{"role": message.role, "content": _without_control_tokens(message.text)} for message in fitting]

    def _ask(
        self,
        request: dict[str, Any],
        take: Callable[[dict[str, Any]], bool],
        chunks: "queue.SimpleQueue[dict[str, Any] | None]",
    ) -> None:
        call = self._server.handle_chat_completions if "messages" in request else self._server.handle_completions
        try:
            call(request, take)
        except Exception:  # noqa: BLE001 - whatever the binding raises, this answer cannot be written
            chunks.put({"error": {"type": "exception"}})
        finally:
            chunks.put(None)

    def _tokenize(self, text: str) -> list[int]:
        return self._post_tokenize(text, special=False)

    def _post_tokenize(self, text: str, *, special: bool) -> list[int]:
        body = json.dumps({"content": text, "add_special": special, "parse_special": special})
        connection = _UnixConnection(SOCKET_NAME)
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
            connection.request("POST", "/tokenize", body, headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            return [int(token) for token in answer["tokens"]]
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            raise EngineError("engine_failed", "llama.cpp did not tokenize a text.") from error
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _text_of(chunk: dict[str, Any]) -> str:
    """The text in one chunk of either completion API; progress reports have none. Raises `EngineError`."""
    if "error" in chunk:
        raise EngineError("engine_failed", "llama.cpp refused or broke off a generation.")
    for choice in chunk.get("choices", ()):
        text = choice.get("text") or (choice.get("delta") or {}).get("content")
        return text if isinstance(text, str) else ""
    return ""


_CONTROL_TOKEN = re.compile(r"<(?=[|/a-z_]{1,24}[^<>\n]{0,40}>)|\[(?=/?(INST|SYS|AVAILABLE_TOOLS|TOOL_)[^\]]{0,20}\])")


def _without_control_tokens(text: str) -> str:
    """The text with a zero-width space inside everything that looks like a control token."""
    return _CONTROL_TOKEN.sub(lambda match: match.group(0) + "\u200b", text)


# --- ctransformers ---------------------------------------------------------------------------------------------------

_MAX_WORD_CHARS = 512
"""Its word splitter is a recursive regular expression: a run of 16,000 Korean letters overflowed the stack, one of
4,000 did not. Longer runs are broken up, and texts go in by parts of `_PART_CHARS`."""

_PART_CHARS = 2048
_WORD = re.compile(rf"\s?\S{{1,{_MAX_WORD_CHARS}}}|\s{{1,{_MAX_WORD_CHARS}}}")


def _parts(text: str) -> Iterator[str]:
    """The text in parts that end between words, so that words are spelled as in the whole."""
    part = ""
    for word in _WORD.findall(text):
        if len(part) + len(word) > _PART_CHARS:
            yield part
            part = ""
        part += word
    if part:
        yield part


class CtransformersEngine:
    """llama.cpp of September 2023 through ctransformers 0.2.27; reads GGUF v1 and v2, and GGML.

    Peculiar, and handled here: its tokenizer knows no special tokens (the prompt is built from ids); it dereferences
    the end of a map at a byte that is missing from a BPE vocabulary (such characters are left out); its Python
    wrapper allots one token a character where Korean needs three (`_tokenize` allots one a byte); nothing stops it
    at the end of the context (`generate` does); it crashes when it is freed at interpreter exit (the child leaves by
    `os._exit`).
    """

    name = "ctransformers"
    slots = 1

    def __init__(self, path: Path, header: ModelHeader, options: EngineOptions) -> None:
        if header.format == "gguf-v3":
            raise EngineError("format_unsupported", "ctransformers does not read GGUF v3; convert the file first.")
        self.context_tokens = _context_within(header, options)
        self._options = options
        self._threads = options.threads or spare_cores()
        vocabulary = None if header.format == "ggml" else read_vocabulary(path)
        self._llm = self._open(path, header)
        self._allowed_bytes = _allowed_bytes(header, vocabulary)
        self._form = self._choose_form(header, vocabulary)
        self._end_ids = self._choose_end_ids(vocabulary)
        self._lock = threading.Lock()  # guards _llm, which has one context and no protection of its own

    def _open(self, path: Path, header: ModelHeader) -> Any:
        package = _package("ctransformers.llm")
        config = package.Config(context_length=self.context_tokens, threads=self._threads)
        model_type = "gguf" if header.format != "ggml" else self._options.architecture
        if model_type is None:
            raise EngineError("model_unloadable", "A GGML file needs its architecture in the manifest.")
        try:
            return package.LLM(str(path), model_type, config=config)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineError("model_unloadable", "ctransformers cannot load this model file.") from error

    def _choose_form(self, header: ModelHeader, vocabulary: Vocabulary | None) -> ChatForm:
        start, end = (vocabulary.id_of(token) if vocabulary else None for token in (b"<|im_start|>", b"<|im_end|>"))
        if start is not None and end is not None:
            return ChatMl(start, end)
        adds_bos = header.adds_bos_token
        if adds_bos is None:
            adds_bos = header.tokenizer_model == "llama" or self._options.architecture == "llama"
        return PlainDialogue((int(self._llm.bos_token_id),) if adds_bos else ())

    def _choose_end_ids(self, vocabulary: Vocabulary | None) -> frozenset[int]:
        ids = {int(self._llm.eos_token_id)}
        for token in (b"<|im_end|>", b"<|endoftext|>", b"</s>"):
            found = vocabulary.id_of(token) if vocabulary else None
            ids |= set() if found is None else {found}
        return frozenset(ids)

    def generate(
        self, messages: Sequence[ChatMessage], max_tokens: int, sampling: Sampling, should_stop: ShouldStop
    ) -> Generator[str, None, None]:
        """See `Engine.generate`."""
        with self._lock:
            budget = _budget_tokens(self.context_tokens, self._options, max_tokens)
            prompt = prompt_ids(messages, self._form, self._tokenize, budget)
            if not self._read(prompt, should_stop):
                return
            text = AnswerText(self._form.stops)
            for token in self._write(min(max_tokens, self.context_tokens - len(prompt)), sampling):
                if piece := text.push_bytes(self._llm.detokenize([token], decode=False)):
                    yield piece
                if text.is_finished or should_stop():
                    return
            if piece := text.flush():
                yield piece

    def _read(self, prompt: list[int], should_stop: ShouldStop) -> bool:
        """Take the prompt in, all but what the context holds already; False when told to stop."""
        new = list(self._llm.prepare_inputs_for_generation(prompt, reset=True))
        step_tokens = self._options.prefill_tokens or CTRANSFORMERS_PREFILL_TOKENS
        for start in range(0, len(new), step_tokens):
            if should_stop():
                return False
            self._llm.eval(new[start : start + step_tokens], batch_size=step_tokens, threads=self._threads)
        return True

    def _write(self, max_tokens: int, sampling: Sampling) -> Iterator[int]:
        seed = secrets.randbelow(2**31) if sampling.seed is None else sampling.seed
        for number in range(max_tokens):
            token = self._llm.sample(
                top_k=sampling.top_k if sampling.temperature > 0 else 1,
                top_p=sampling.top_p,
                temperature=sampling.temperature if sampling.temperature > 0 else 1.0,  # It divides by this.
                repetition_penalty=sampling.repeat_penalty,
                last_n_tokens=sampling.repeat_window_tokens,
                seed=seed + number,  # The library seeds anew at every call: one seed would draw the same each time.
            )
            if token in self._end_ids:
                return
            yield token
            self._llm.eval([token], threads=self._threads)

    def _tokenize(self, text: str) -> list[int]:
        tokens: list[int] = []
        for part in _parts(self._harmless(text)):
            data = part.encode()
            buffer = (c_int * (len(data) + 1))()
            count = self._llm.ctransformers_llm_tokenize(data, False, buffer)
            tokens += buffer[:count]
        return tokens

    def _harmless(self, text: str) -> str:
        """The text without characters that this vocabulary cannot spell, without lone surrogates and without NUL."""
        text = text.encode("utf-8", errors="ignore").decode().replace("\0", "")
        missing = {char for char in set(text) if not self._allowed_bytes.issuperset(char.encode())}
        return text.translate({ord(char): None for char in missing})


def _allowed_bytes(header: ModelHeader, vocabulary: Vocabulary | None) -> frozenset[int]:
    """The bytes that the tokenizer survives; SentencePiece has a token for each."""
    if vocabulary is not None and header.tokenizer_model == "gpt2":
        return vocabulary.single_bytes()
    return frozenset(range(256)) - frozenset(range(32)) | {9, 10, 13}
