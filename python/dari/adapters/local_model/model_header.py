"""Reads what a model file says about itself, without believing its lengths.

GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) opens with magic, version, counts and typed key-value
pairs; the GGML family before it with a magic alone. The file is mapped, so a length that reaches beyond its end is an
error and never an allocation; every count has a limit. Big-endian files are refused: no engine here reads them.
"""

import hashlib
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FileFormat = Literal["gguf-v3", "gguf-v2", "gguf-v1", "ggml"]

MAX_PAIRS = 4096
MAX_KEY_BYTES = 64 * 1024
MAX_ARRAY_ITEMS = 4 * 1024 * 1024
"""The largest vocabularies have 262,144 tokens and about as many merges."""
MAX_NESTING = 4

_HASH_BLOCK_BYTES = 1024 * 1024
_GGML_MAGICS = (b"lmgg", b"fmgg", b"tjgg")
"""`ggml`, `ggmf`, `ggjt`, each written as a little-endian number."""
_GGUF_FORMATS: dict[int, FileFormat] = {1: "gguf-v1", 2: "gguf-v2", 3: "gguf-v3"}

_SCALARS: dict[int, struct.Struct] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_STRING, _ARRAY = 8, 9
_CONTROL_TOKEN = 3


class HeaderError(ValueError):
    """The file is no model, or one that no engine here reads. The message is a sentence for people."""


@dataclass(frozen=True, slots=True)
class ModelHeader:
    """What the first part of a model file says. Fields are None where the format has no place for them."""

    format: FileFormat
    version: int
    architecture: str | None
    context_tokens: int | None
    """The context that the model was trained for."""
    tokenizer_model: str | None
    """`gpt2` for byte-level BPE, `llama` for SentencePiece, …"""
    adds_bos_token: bool | None
    licence: str | None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a GGUF file as they stand in it; a token's id is its index."""

    tokens: tuple[bytes, ...]
    control_ids: frozenset[int]

    def id_of(self, token: bytes) -> int | None:
        """The id of a control token with this spelling, or None."""
        return next((index for index in sorted(self.control_ids) if self.tokens[index] == token), None)

    def single_bytes(self) -> frozenset[int]:
        """The byte values that are tokens of their own."""
        return frozenset(token[0] for token in self.tokens if len(token) == 1)


def read_header(path: Path) -> ModelHeader:
    """Tell format, version and architecture of a model file. Raises `HeaderError` or `OSError`."""
    with path.open("rb") as file:
        magic = file.read(4)
        if magic in _GGML_MAGICS:
            return _ggml_header(magic, file.read(4))
        if magic != b"GGUF":
            raise HeaderError(f"{path.name} is no model file: it starts neither as GGUF nor as GGML does.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            version, pairs = _Pairs(mapped, path.name).read(wanted_arrays=())
    return _gguf_header(path.name, version, pairs)


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of a GGUF file. Raises `HeaderError` where it has none."""
    wanted = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        _, pairs = _Pairs(mapped, path.name).read(wanted_arrays=wanted)
    tokens, types = pairs.get(wanted[0]), pairs.get(wanted[1], [])
    if not isinstance(tokens, list) or not all(isinstance(token, bytes) for token in tokens):
        raise HeaderError(f"{path.name} has no list of tokens.")
    control = frozenset(index for index, kind in enumerate(types) if kind == _CONTROL_TOKEN and index < len(tokens))
    return Vocabulary(tuple(tokens), control)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _ggml_header(magic: bytes, version_bytes: bytes) -> ModelHeader:
    if len(version_bytes) < 4:
        raise HeaderError("The file ends within its GGML header.")
    version = 0 if magic == b"lmgg" else int.from_bytes(version_bytes, "little")
    return ModelHeader("ggml", version, None, None, None, None, None)


def _gguf_header(name: str, version: int, pairs: dict[str, Any]) -> ModelHeader:
    architecture = _text(pairs.get("general.architecture"))
    if architecture is None:
        raise HeaderError(f"{name} does not name its architecture; is it a whole model?")
    context = pairs.get(f"{architecture}.context_length")
    adds_bos = pairs.get("tokenizer.ggml.add_bos_token")
    return ModelHeader(
        format=_GGUF_FORMATS[version],
        version=version,
        architecture=architecture,
        context_tokens=context if isinstance(context, int) and context > 0 else None,
        tokenizer_model=_text(pairs.get("tokenizer.ggml.model")),
        adds_bos_token=adds_bos if isinstance(adds_bos, bool) else None,
        licence=_text(pairs.get("general.license")),
    )


def _text(value: object) -> str | None:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else None


class _Pairs:
    """A cursor over a mapped GGUF file; every move checks the file's end first."""

    def __init__(self, mapped: mmap.mmap, name: str) -> None:
        self._mapped = mapped
        self._name = name
        self._size = len(mapped)
        self._at = 4
        self._counts_are_64_bit = True

    def read(self, wanted_arrays: tuple[str, ...]) -> tuple[int, dict[str, Any]]:
        """The version and all pairs; arrays that are not wanted are stepped over."""
        version = self._version()
        self._count()  # tensors, which nobody here reads
        pair_count = self._count()
        if pair_count > MAX_PAIRS:
            raise HeaderError(f"{self._name} announces {pair_count} header fields, more than {MAX_PAIRS}.")
        pairs: dict[str, Any] = {}
        for _ in range(pair_count):
            key = self._string(MAX_KEY_BYTES).decode("utf-8", errors="replace")
            kind = self._number(_SCALARS[4])
            pairs[key] = self._value(kind, keep=key in wanted_arrays)
        return version, pairs

    def _version(self) -> int:
        version = self._number(_SCALARS[4])
        if version and version % 0x10000 == 0:
            raise HeaderError(f"{self._name} is a big-endian GGUF file; convert it to little-endian.")
        if version not in _GGUF_FORMATS:
            raise HeaderError(f"{self._name} is GGUF version {version}; versions 1 to 3 are known.")
        self._counts_are_64_bit = version > 1
        return int(version)

    def _value(self, kind: int, *, keep: bool, depth: int = 0) -> Any:
        if kind == _STRING:
            return self._string(self._size)
        if kind == _ARRAY:
            return self._array(keep=keep, depth=depth + 1)
        return self._number(self._scalar(kind))

    def _array(self, *, keep: bool, depth: int) -> list[Any] | None:
        kind, count = self._number(_SCALARS[4]), self._count()
        if count > MAX_ARRAY_ITEMS or depth > MAX_NESTING:
            raise HeaderError(f"{self._name} has an array of {count} items at depth {depth}, beyond the limits.")
        if kind in (_STRING, _ARRAY):
            items = [self._value(kind, keep=keep, depth=depth) for _ in range(count)]
            return items if keep else None
        scalar = self._scalar(kind)
        start, self._at = self._at, self._end_of(scalar.size * count)
        return [value for (value,) in scalar.iter_unpack(self._mapped[start : self._at])] if keep else None

    def _scalar(self, kind: int) -> struct.Struct:
        if kind not in _SCALARS:
            raise HeaderError(f"{self._name} has a header field of the unknown type {kind}.")
        return _SCALARS[kind]

    def _string(self, limit_bytes: int) -> bytes:
        length = self._count()
        if length > limit_bytes:
            raise HeaderError(f"{self._name} has a header text of {length} bytes, more than {limit_bytes}.")
        start, self._at = self._at, self._end_of(length)
        return self._mapped[start : self._at]

    def _count(self) -> int:
        return int(self._number(_SCALARS[10] if self._counts_are_64_bit else _SCALARS[4]))

    def _number(self, scalar: struct.Struct) -> Any:
        start, self._at = self._at, self._end_of(scalar.size)
        return scalar.unpack_from(self._mapped, start)[0]

    def _end_of(self, length: int) -> int:
        end = self._at + length
        if end > self._size:
            raise HeaderError(f"{self._name} ends within its header; was it copied whole?")
        return end
