"""`dari model`: the model files that the local engine may run. Works on this machine's folder, not over the wire."""

import dataclasses
from pathlib import Path
from typing import Any

from dari.adapters.local_model import model_files
from dari.adapters.local_model.model_files import ModelFile
from dari.commands.exit_codes import ExitCode
from dari.commands.serve import settings_or_none
from dari.commands.terminal import Terminal
from dari.core.errors import DariError


def run_list(terminal: Terminal, data_dir: Path | None) -> ExitCode:
    """Print the manifest."""
    model_dir = _model_dir(terminal, data_dir)
    if model_dir is None:
        return ExitCode.CONFIG
    try:
        files = model_files.read_manifest(model_dir)
    except DariError as error:
        terminal.note(error.message)
        return ExitCode.FAILED
    _show(terminal, list(files.values()))
    return ExitCode.OK


def run_add(
    terminal: Terminal,
    data_dir: Path | None,
    path: Path | None,
    model_id: str | None,
    architecture: str | None,
    licence: str | None,
    for_ctransformers: bool,
) -> ExitCode:
    """List a file; without one, fetch the default model. With `for_ctransformers` its older form too."""
    model_dir = _model_dir(terminal, data_dir)
    if model_dir is None:
        return ExitCode.CONFIG
    try:
        if path is None:
            added = [model_files.add_default_model(model_dir, terminal.note)]
        else:
            added = [
                model_files.add_model_file(
                    model_dir, path, model_id=model_id or _id_of(path), architecture=architecture, licence=licence
                )
            ]
        if for_ctransformers:
            older_id = f"{added[0].id}-ctransformers"
            added.append(model_files.add_model_for_ctransformers(model_dir, added[0].id, older_id, terminal.note))
    except DariError as error:
        terminal.note(error.message)
        return ExitCode.FAILED
    _show(terminal, added)
    return ExitCode.OK


def _model_dir(terminal: Terminal, data_dir: Path | None) -> Path | None:
    settings = settings_or_none(terminal, {"data_dir": data_dir})
    return settings.model_dir if settings else None


def _id_of(path: Path) -> str:
    """SmolLM2-135M.Q4.gguf → smollm2-135m-q4."""
    return "".join(char if char.isalnum() else "-" for char in path.stem.lower()).strip("-")


def _show(terminal: Terminal, files: list[ModelFile]) -> None:
    if terminal.as_json:
        for file in files:
            terminal.json_line(_as_json(file))
        return
    terminal.table(
        ("id", "format", "architecture", "size", "context", "licence", "source"),
        [
            (
                file.id,
                file.format,
                file.architecture,
                f"{file.size_bytes / 1e6:.1f} MB",
                f"{file.context_tokens} tokens" if file.context_tokens else None,
                file.licence,
                file.source,
            )
            for file in files
        ],
    )


def _as_json(file: ModelFile) -> dict[str, Any]:
    return {**dataclasses.asdict(file), "path": str(file.path)}
