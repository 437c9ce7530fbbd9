"""The local model: its file, and the engine that is to read it."""

import importlib.util
from collections.abc import Iterator

import psutil

from dari.adapters.local_model import model_files
from dari.adapters.local_model.engines import engine_for
from dari.adapters.local_model.model_files import ModelFile
from dari.adapters.local_model.model_header import HeaderError, read_header
from dari.core.errors import FailedPrecondition
from dari.doctor.findings import Finding, failed, ok, warning
from dari.settings import Settings

_MIB = 1024 * 1024
_BESIDE_THE_FILE_BYTES = 512 * _MIB
"""What an engine holds beside the mapped file, for a small context."""


def look_at_local_model(settings: Settings) -> Iterator[Finding]:
    """Manifest, hash, header, engine, memory."""
    if not settings.local_model:
        yield ok("local_model", "none is set")
        return
    where = f"local_model: {settings.local_model}"
    try:
        files = model_files.read_manifest(settings.model_dir)
    except FailedPrecondition as error:
        yield failed(f"local_model: {settings.model_dir}", error.message, "dari model add")
        return
    entry = files.get(settings.local_model)
    if entry is None:
        remedy = "dari model add; or set DARI_LOCAL_MODEL to one of `dari model list`, or to nothing."
        yield warning(where, "has no file here: a server starts without a local model", remedy)
        return
    yield from _engine(settings, entry, where)
    try:
        model_files.verify(entry)
        yield ok(where, f"{entry.path.name} has the sha256 of the manifest")
    except FailedPrecondition as error:
        yield failed(where, error.message, "Restore the file, or dari model add.")


def _engine(settings: Settings, entry: ModelFile, where: str) -> Iterator[Finding]:
    try:
        header = read_header(entry.path)
    except HeaderError as error:
        yield failed(where, str(error), "Add a GGUF file: dari model add FILE.")
        return
    except OSError as error:
        yield failed(where, f"{entry.path} cannot be read ({error.strerror})", "Restore the file, or dari model add.")
        return
    engine = engine_for(header, settings.local_engine)
    if importlib.util.find_spec(engine) is None:
        yield failed(where, f"its engine {engine} is not installed", "pip install 'dari[local]'")
    elif engine == "ctransformers" and header.format == "gguf-v3":
        remedy = "Set DARI_LOCAL_ENGINE=auto; or dari model add --for-ctransformers."
        yield failed(where, "ctransformers does not read GGUF v3", remedy)
    elif engine == "xllamacpp" and header.format == "ggml":
        yield failed(where, "xllamacpp does not read GGML", "Set DARI_LOCAL_ENGINE=auto.")
    else:
        yield ok(where, f"{header.format} of {header.architecture or entry.architecture}, read by {engine}")
    if header.context_tokens is not None and settings.local_context_tokens > header.context_tokens:
        told = f"was trained for {header.context_tokens:,} tokens, and local_context_tokens asks for more"
        yield warning(where, told, f"Set DARI_LOCAL_CONTEXT_TOKENS to {header.context_tokens} or less.")
    needed_bytes = entry.size_bytes + _BESIDE_THE_FILE_BYTES
    memory = psutil.virtual_memory()
    if needed_bytes > memory.total:
        told = f"needs some {needed_bytes / _MIB:,.0f} MiB, and this machine has {memory.total / _MIB:,.0f}"
        yield warning(where, told, "Choose a smaller model file.")
