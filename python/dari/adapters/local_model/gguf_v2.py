"""Rewrites a GGUF v3 model of the llama architecture into the form that ctransformers 0.2.27 loads.

That library holds the llama.cpp of September 2023. What it wants otherwise than today's files, each found by trying:

- the header says version 2 (the layout is the same);
- `tokenizer.ggml.scores` exists (zeros do);
- `output.weight` exists (a copy of `token_embd.weight` in models that tie the two);
- tokens are raw bytes: GPT-2's table of bytes to printable letters is undone;
- merges are raw bytes too, but with `Ġ` for a blank and `Ċ` for a line feed, because its `find_bpe_rank` puts these
  two letters into what it looks up. Raw blanks load as well, but then no merge with a blank is ever found and every
  word is spelled as a blank and a word: twice the tokens, and a model that reads what it never saw in training.

The chat template is left out: nothing there may run it.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gguf

_READABLE_TENSORS = frozenset(
    ("F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
)
"""The tensor types of September 2023."""

_CONTROL_TOKEN, _USER_DEFINED_TOKEN = 3, 4
_BLANK_LETTER, _LINE_FEED_LETTER = "Ġ".encode(), "Ċ".encode()
_LEFT_OUT = ("general.architecture", "tokenizer.chat_template", "tokenizer.ggml.scores")
_VERSION_AT, _VERSION_2 = 4, (2).to_bytes(4, "little")


class CannotConvert(ValueError):
    """The model cannot be put into the older form. The message is a sentence for people."""


def write_for_ctransformers(source: Path, target: Path) -> None:
    """Write `target`, replacing it in one step. Raises `CannotConvert` or `OSError`; takes about 3 s for 100 MB."""
    reader: Any = gguf.GGUFReader(source)
    architecture = _field(reader, "general.architecture")
    if architecture != "llama" or _field(reader, "tokenizer.ggml.model") != "gpt2":
        raise CannotConvert(f"{source.name} is not a llama model with a byte-level BPE tokenizer.")
    tensors = _tensors(reader, source.name)
    part = target.with_name(f".{target.name}.part")
    try:
        _write(part, reader, architecture, tensors)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _tensors(reader: Any, name: str) -> list[tuple[str, Any]]:
    tensors = [(str(tensor.name), tensor) for tensor in reader.tensors]
    unreadable = {tensor.tensor_type.name for _, tensor in tensors} - _READABLE_TENSORS
    if unreadable:
        raise CannotConvert(f"{name} is quantised as {', '.join(sorted(unreadable))}, which ctransformers cannot read.")
    by_name = dict(tensors)
    if "output.weight" not in by_name:
        tensors.append(("output.weight", by_name["token_embd.weight"]))
    return tensors


def _write(path: Path, reader: Any, architecture: str, tensors: Sequence[tuple[str, Any]]) -> None:
    writer: Any = gguf.GGUFWriter(path, architecture)
    try:
        _add_fields(writer, reader)
        for name, tensor in tensors:
            data = tensor.data
            writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, tensor in tensors:
            writer.write_tensor_data(tensor.data)
    finally:
        writer.close()
    with path.open("r+b") as file:
        file.seek(_VERSION_AT)
        file.write(_VERSION_2)
        os.fsync(file.fileno())


def _add_fields(writer: Any, reader: Any) -> None:
    kinds = _field(reader, "tokenizer.ggml.token_type")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in _LEFT_OUT:
            continue
        value: Any = field.contents()
        if field.name == "tokenizer.ggml.tokens":
            value = raw_tokens(value, kinds)
        elif field.name == "tokenizer.ggml.merges":
            value = raw_merges(value)
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, field.types[0], sub_type=sub_type)
    writer.add_token_scores([0.0] * len(kinds))


def raw_tokens(tokens: Sequence[str], kinds: Sequence[int]) -> list[bytes]:
    """The bytes that each token stands for; control tokens keep their spelling. Raises `CannotConvert`."""
    spelled = (_CONTROL_TOKEN, _USER_DEFINED_TOKEN)
    raw = [token.encode() if kind in spelled else _raw(token) for token, kind in zip(tokens, kinds, strict=True)]
    if len(set(raw)) != len(raw):
        raise CannotConvert("Two tokens of the vocabulary stand for the same bytes; ctransformers would abort.")
    return raw


def raw_merges(merges: Iterable[str]) -> list[bytes]:
    """The merges as ctransformers looks them up (see the module's text)."""
    return [b" ".join(_with_letters(_raw(half)) for half in merge.split(" ", 1)) for merge in merges]


def _with_letters(raw: bytes) -> bytes:
    return raw.replace(b" ", _BLANK_LETTER).replace(b"\n", _LINE_FEED_LETTER)


def _letters_to_bytes() -> dict[str, int]:
    """GPT-2's table, turned round: printable bytes stand for themselves, the others for letters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _letters_to_bytes()


def _raw(text: str) -> bytes:
    try:
        return bytes(_BYTE_OF[letter] for letter in text)
    except KeyError as error:
        raise CannotConvert("A token is not spelled in GPT-2's letters.") from error


def _field(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise CannotConvert(f"The model has no field {key}.")
    return field.contents()
