"""`dari map`: which chatbot uses which AI models over which data. The grammar, and the one call behind each command.

    dari map model|chat|kb  create ID …  update ID …  list  show ID  delete ID
    dari map label model|chat|kb ID KEY=VALUE… KEY-
    dari map link CHAT      --model ID --priority N | --kb ID … [--block]     unlink CHAT …
    dari map grant MODEL KB… [--block]                                        revoke MODEL KB…
    dari map resolve CHAT   who would answer, over what, and why
    dari map show [CHAT]    the picture of it all; --svg FILE draws it; --json lists the links and grants
    dari map export, apply FILE, import FILE…    the whole mapping as one file

Loaded for every `--help`: messages and gRPC are imported inside the functions.
"""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dari.commands.source_options import SourceOptions
from dari.commands.terminal import Terminal, resource_name, short_name

if TYPE_CHECKING:
    from google.protobuf.field_mask_pb2 import FieldMask
    from google.protobuf.message import Message

    from dari.client import Client
    from dari.v1.mapping_pb2 import LinkEffect, ResolveChatConfigurationResponse, ResolvedKnowledgeBase

app = typer.Typer(no_args_is_help=True, help="Link chatbots, AI models and data.")
models = typer.Typer(no_args_is_help=True, help="AI models: what can answer.")
chats = typer.Typer(no_args_is_help=True, help="Chat configurations: chatbots.")
knowledge_bases = typer.Typer(no_args_is_help=True, help="Knowledge bases: tables of rows to answer from.")
app.add_typer(models, name="model")
app.add_typer(chats, name="chat")
app.add_typer(knowledge_bases, name="kb")

Id = Annotated[str, typer.Argument(metavar="ID", help="1 to 63 of a-z, 0-9 and '-'; a resource name works too.")]
Chat = Annotated[str, typer.Argument(metavar="CHAT", help="The chat configuration.")]
DisplayName = Annotated[str, typer.Option("--name", help="What people call it.")]
NewDisplayName = Annotated[str | None, typer.Option("--name", help="What people call it.")]
Force = Annotated[bool, typer.Option("--force", help="Take its links with it.")]
ModelOption = Annotated[list[str] | None, typer.Option("--model", help="An AI model; may be repeated.")]
KnowledgeBaseOption = Annotated[list[str] | None, typer.Option("--kb", help="A knowledge base; may be repeated.")]

LabelOption = Annotated[list[str] | None, typer.Option("--label", help="KEY=VALUE; may be repeated.")]
Selector = Annotated[
    str | None,
    typer.Option("--selector", help="Knowledge bases chosen by labels: 'team=sales,env in (prod, test),!secret'."),
]
Disabled = Annotated[bool | None, typer.Option("--disable/--enable", help="Whether it is out of use.")]
Block = Annotated[bool, typer.Option("--block", help="Say no instead, whatever a selector says.")]

SourceUri = Annotated[
    str | None,
    typer.Option("--source", help="Where its rows come from by themselves: https://…, file:///…; '' for no source."),
]
Every = Annotated[str | None, typer.Option(help="Time between two looks at the source: 30s, 15m, 1h, 1d.")]
CronLine = Annotated[
    str | None, typer.Option("--cron", help="When to look at the source: five fields of cron, in UTC.")
]
KeyColumns = Annotated[list[str] | None, typer.Option("--key", help="A column that names a row; may be repeated.")]
KeySecret = Annotated[str | None, typer.Option(help="Name of the source's credentials in the server's settings.")]
MaxShrink = Annotated[
    float | None, typer.Option(min=0, max=1, help="Share of its rows that may go without a person; 1 for all of them.")
]
Paused = Annotated[bool | None, typer.Option("--pause/--resume", help="Whether looks at the source wait.")]

MODEL, CHAT, KNOWLEDGE_BASE = "aiModels", "chatConfigurations", "knowledgeBases"


class StandBy(StrEnum):
    """What the next model does while the one asked is silent, as it is typed."""

    OFF = "off"
    WARM = "warm"
    RACE = "race"


class Labelled(StrEnum):
    """What has labels, as it is typed."""

    MODEL = "model"
    CHAT = "chat"
    KB = "kb"


class Kind(StrEnum):
    """Kinds of AI models as they are typed."""

    FLOWISE = "flowise"
    OPENAI = "openai"
    LOCAL = "local"


@models.command("create")
def create_model(
    context: typer.Context,
    model_id: Id,
    kind: Annotated[Kind, typer.Option(help="What kind of neighbour it is.")],
    url: Annotated[str, typer.Option(help="flowise, openai: address, such as http://flowise:3000.")] = "",
    flow: Annotated[str, typer.Option(help="flowise: id of the chatflow.")] = "",
    model: Annotated[str, typer.Option(help="openai: name of the model there.")] = "",
    key_secret: Annotated[str, typer.Option(help="Name of the API key in the server's settings.")] = "",
    model_file: Annotated[str, typer.Option(help="local: id from `dari model list`.")] = "",
    first_token_timeout_s: Annotated[
        float | None, typer.Option(min=0.1, max=600, help="Default: the server's.")
    ] = None,
    max_answer_tokens: Annotated[int, typer.Option(min=0, max=32_768, help="0: the server's default.")] = 0,
    context_tokens: Annotated[
        int, typer.Option(min=0, max=1_048_576, help="Tokens that the model can hold; 0: the default of its kind.")
    ] = 0,
    selector: Selector = None,
    label: LabelOption = None,
    display_name: DisplayName = "",
) -> None:
    """Make an AI model."""
    from dari.v1 import mapping_pb2 as wire

    made = wire.AiModel(
        display_name=display_name,
        max_answer_tokens=max_answer_tokens,
        context_tokens=context_tokens,
        knowledge_base_selector=selector or "",
        labels=_labels(label),
    )
    if kind is Kind.FLOWISE:
        made.kind = wire.AI_MODEL_KIND_FLOWISE
        made.flowise.CopyFrom(wire.FlowiseTarget(base_url=url, flow_id=flow, api_key_secret=key_secret))
    elif kind is Kind.OPENAI:
        made.kind = wire.AI_MODEL_KIND_OPENAI_COMPATIBLE
        made.openai_compatible.CopyFrom(
            wire.OpenAiCompatibleTarget(base_url=url, model=model, api_key_secret=key_secret)
        )
    else:
        made.kind = wire.AI_MODEL_KIND_LOCAL
        made.local.CopyFrom(wire.LocalTarget(model_file=model_file))
    if first_token_timeout_s is not None:
        made.first_token_timeout.FromMilliseconds(round(first_token_timeout_s * 1000))
    request = wire.CreateAiModelRequest(ai_model_id=_id(MODEL, model_id), ai_model=made)
    _call(context, lambda client: client.mapping.CreateAiModel, request)


@models.command("update")
def update_model(
    context: typer.Context,
    model_id: Id,
    selector: Selector = None,
    disabled: Disabled = None,
    display_name: NewDisplayName = None,
) -> None:
    """Change an AI model."""
    from dari.v1 import mapping_pb2 as wire

    changed, mask = _changed(wire.AiModel(name=resource_name(MODEL, model_id)), selector, disabled, display_name)
    request = wire.UpdateAiModelRequest(ai_model=changed, update_mask=mask)
    _call(context, lambda client: client.mapping.UpdateAiModel, request)


@models.command("list")
def list_models(context: typer.Context) -> None:
    """List the AI models."""
    from dari.v1 import mapping_pb2 as wire

    _list(
        context,
        lambda client: client.mapping.ListAiModels,
        wire.ListAiModelsRequest(page_size=1_000),
        "ai_models",
        ("name", "kind", "display name"),
        lambda model: (model.name, _kind_text(model.kind), model.display_name),
    )


@models.command("show")
def show_model(context: typer.Context, model_id: Id) -> None:
    """Show an AI model."""
    from dari.v1 import mapping_pb2 as wire

    request = wire.GetAiModelRequest(name=resource_name(MODEL, model_id))
    _call(context, lambda client: client.mapping.GetAiModel, request)


@models.command("delete")
def delete_model(context: typer.Context, model_id: Id, force: Force = False) -> None:
    """Delete an AI model."""
    from dari.v1 import mapping_pb2 as wire

    request = wire.DeleteAiModelRequest(name=resource_name(MODEL, model_id), force=force)
    _call(context, lambda client: client.mapping.DeleteAiModel, request)


@chats.command("create")
def create_chat(
    context: typer.Context,
    chat_id: Id,
    instructions: Annotated[str, typer.Option(help="How the models are told to answer.")] = "",
    max_rows: Annotated[
        int | None, typer.Option(min=0, max=50, help="Most rows given to a model. Default: the server's.")
    ] = None,
    stand_by: Annotated[
        StandBy,
        typer.Option(help="While a model is silent: warm asks the next one as well, race takes whichever is faster."),
    ] = StandBy.OFF,
    stand_by_after_s: Annotated[
        float | None, typer.Option(min=0.05, max=600, help="How long it may be silent before. Default: the server's.")
    ] = None,
    selector: Selector = None,
    label: LabelOption = None,
    display_name: DisplayName = "",
) -> None:
    """Make a chat configuration."""
    from dari.v1 import mapping_pb2 as wire

    made = wire.ChatConfiguration(
        display_name=display_name,
        instructions=instructions,
        max_rows=max_rows,
        stand_by=wire.StandBy.Value(f"STAND_BY_{stand_by.name}"),
        knowledge_base_selector=selector or "",
        labels=_labels(label),
    )
    if stand_by_after_s is not None:
        made.stand_by_after.FromMilliseconds(round(stand_by_after_s * 1000))
    request = wire.CreateChatConfigurationRequest(chat_configuration_id=_id(CHAT, chat_id), chat_configuration=made)
    _call(context, lambda client: client.mapping.CreateChatConfiguration, request)


@chats.command("update")
def update_chat(
    context: typer.Context,
    chat_id: Id,
    selector: Selector = None,
    disabled: Disabled = None,
    display_name: NewDisplayName = None,
) -> None:
    """Change a chat configuration."""
    from dari.v1 import mapping_pb2 as wire

    chat = wire.ChatConfiguration(name=resource_name(CHAT, chat_id))
    changed, mask = _changed(chat, selector, disabled, display_name)
    request = wire.UpdateChatConfigurationRequest(chat_configuration=changed, update_mask=mask)
    _call(context, lambda client: client.mapping.UpdateChatConfiguration, request)


@chats.command("list")
def list_chats(context: typer.Context) -> None:
    """List the chat configurations."""
    from dari.v1 import mapping_pb2 as wire

    _list(
        context,
        lambda client: client.mapping.ListChatConfigurations,
        wire.ListChatConfigurationsRequest(page_size=1_000),
        "chat_configurations",
        ("name", "display name", "rows given"),
        lambda chat: (chat.name, chat.display_name, chat.max_rows),
    )


@chats.command("show")
def show_chat(context: typer.Context, chat_id: Id) -> None:
    """Show a chat configuration."""
    from dari.v1 import mapping_pb2 as wire

    request = wire.GetChatConfigurationRequest(name=resource_name(CHAT, chat_id))
    _call(context, lambda client: client.mapping.GetChatConfiguration, request)


@chats.command("delete")
def delete_chat(context: typer.Context, chat_id: Id, force: Force = False) -> None:
    """Delete a chat configuration."""
    from dari.v1 import mapping_pb2 as wire

    request = wire.DeleteChatConfigurationRequest(name=resource_name(CHAT, chat_id), force=force)
    _call(context, lambda client: client.mapping.DeleteChatConfiguration, request)


@knowledge_bases.command("create")
def create_knowledge_base(
    context: typer.Context,
    knowledge_base_id: Id,
    description: Annotated[str, typer.Option(help="What its rows are about, told to models.")] = "",
    label: LabelOption = None,
    display_name: DisplayName = "",
    source: SourceUri = None,
    every: Every = None,
    cron: CronLine = None,
    key: KeyColumns = None,
    key_secret: KeySecret = None,
    max_shrink: MaxShrink = None,
    paused: Paused = None,
) -> None:
    """Make a knowledge base."""
    from dari.v1 import mapping_pb2 as wire

    made = wire.KnowledgeBase(display_name=display_name, description=description, labels=_labels(label))
    options = SourceOptions(source, every, cron, tuple(key or ()), key_secret, max_shrink, paused)
    if options.is_given:
        options.apply(made)
    request = wire.CreateKnowledgeBaseRequest(
        knowledge_base_id=_id(KNOWLEDGE_BASE, knowledge_base_id), knowledge_base=made
    )
    _call(context, lambda client: client.mapping.CreateKnowledgeBase, request)


@knowledge_bases.command("update")
def update_knowledge_base(
    context: typer.Context,
    knowledge_base_id: Id,
    disabled: Disabled = None,
    display_name: NewDisplayName = None,
    source: SourceUri = None,
    every: Every = None,
    cron: CronLine = None,
    key: KeyColumns = None,
    key_secret: KeySecret = None,
    max_shrink: MaxShrink = None,
    paused: Paused = None,
) -> None:
    """Change a knowledge base, and of its source what is named. Refused where somebody changes it meanwhile."""
    from dari.v1 import mapping_pb2 as wire

    base = wire.KnowledgeBase(name=resource_name(KNOWLEDGE_BASE, knowledge_base_id))
    options = SourceOptions(source, every, cron, tuple(key or ()), key_secret, max_shrink, paused)
    if options.is_given:
        terminal: Terminal = context.obj
        with terminal.connect() as client:
            asked = wire.GetKnowledgeBaseRequest(name=base.name)
            base = client.mapping.GetKnowledgeBase(asked).knowledge_base
        options.apply(base)
    changed, mask = _changed(base, None, disabled, display_name, also=("source",) if options.is_given else ())
    request = wire.UpdateKnowledgeBaseRequest(knowledge_base=changed, update_mask=mask)
    _call(context, lambda client: client.mapping.UpdateKnowledgeBase, request)


@knowledge_bases.command("list")
def list_knowledge_bases(context: typer.Context) -> None:
    """List the knowledge bases."""
    from dari.v1 import mapping_pb2 as wire

    _list(
        context,
        lambda client: client.mapping.ListKnowledgeBases,
        wire.ListKnowledgeBasesRequest(page_size=1_000),
        "knowledge_bases",
        ("name", "version", "rows", "columns", "description"),
        lambda base: (
            base.name,
            base.current_version,
            f"{base.row_count:,}",
            ", ".join(base.columns),
            base.description,
        ),
    )


@knowledge_bases.command("show")
def show_knowledge_base(context: typer.Context, knowledge_base_id: Id) -> None:
    """Show a knowledge base."""
    from dari.v1 import mapping_pb2 as wire

    request = wire.GetKnowledgeBaseRequest(name=resource_name(KNOWLEDGE_BASE, knowledge_base_id))
    _call(context, lambda client: client.mapping.GetKnowledgeBase, request)


@knowledge_bases.command("delete")
def delete_knowledge_base(context: typer.Context, knowledge_base_id: Id, force: Force = False) -> None:
    """Delete a knowledge base with its rows."""
    from dari.v1 import mapping_pb2 as wire

    request = wire.DeleteKnowledgeBaseRequest(name=resource_name(KNOWLEDGE_BASE, knowledge_base_id), force=force)
    _call(context, lambda client: client.mapping.DeleteKnowledgeBase, request)


@app.command("label")
def label(
    context: typer.Context,
    what: Annotated[Labelled, typer.Argument(metavar="model|chat|kb")],
    resource_id: Id,
    change: Annotated[list[str], typer.Argument(metavar="KEY=VALUE|KEY-...", help="KEY- takes a label away.")],
) -> None:
    """Give a resource labels, or take them away; the others stay. Refused where somebody changes it meanwhile."""
    from google.protobuf.field_mask_pb2 import FieldMask

    from dari.v1 import mapping_pb2 as wire

    taken = {each.removesuffix("-") for each in change if "=" not in each and each.endswith("-")}
    given = _labels([each for each in change if "=" in each or not each.endswith("-")])
    terminal: Terminal = context.obj
    with terminal.connect() as client:
        name, stub, mask = resource_name(_COLLECTION_OF[what], resource_id), client.mapping, FieldMask(paths=["labels"])
        match what:
            case Labelled.MODEL:
                model = stub.GetAiModel(wire.GetAiModelRequest(name=name)).ai_model
                _relabel(model.labels, given, taken)
                now: Any = stub.UpdateAiModel(wire.UpdateAiModelRequest(ai_model=model, update_mask=mask)).ai_model
            case Labelled.CHAT:
                chat = stub.GetChatConfiguration(wire.GetChatConfigurationRequest(name=name)).chat_configuration
                _relabel(chat.labels, given, taken)
                to_chat = wire.UpdateChatConfigurationRequest(chat_configuration=chat, update_mask=mask)
                now = stub.UpdateChatConfiguration(to_chat).chat_configuration
            case Labelled.KB:
                base = stub.GetKnowledgeBase(wire.GetKnowledgeBaseRequest(name=name)).knowledge_base
                _relabel(base.labels, given, taken)
                to_base = wire.UpdateKnowledgeBaseRequest(knowledge_base=base, update_mask=mask)
                now = stub.UpdateKnowledgeBase(to_base).knowledge_base
    if terminal.as_json:
        terminal.json_line(now)
    else:
        terminal.facts(sorted(now.labels.items()), title=now.name)


@app.command("link")
def link(
    context: typer.Context,
    chat: Chat,
    model: ModelOption = None,
    kb: KnowledgeBaseOption = None,
    priority: Annotated[int, typer.Option(min=0, max=1_000, help="The lowest is asked first.")] = 0,
    disable: Annotated[bool, typer.Option("--disable", help="The chain passes these models by.")] = False,
    block: Block = False,
) -> None:
    """Give a chat configuration AI models and knowledge bases. Several models get PRIORITY, PRIORITY + 1 and so on."""
    from dari.v1 import mapping_pb2 as wire

    name = resource_name(CHAT, chat)
    _require_some(model, kb)
    if block and model:
        raise typer.BadParameter("--block is for --kb; --disable passes a model by")
    for place, one in enumerate(model or (), start=priority):
        to_model = wire.LinkAiModelRequest(
            chat_configuration=name, ai_model=resource_name(MODEL, one), priority=place, disabled=disable
        )
        _call(context, lambda client: client.mapping.LinkAiModel, to_model)
    for one in kb or ():
        to_base = wire.LinkKnowledgeBaseRequest(
            chat_configuration=name, knowledge_base=resource_name(KNOWLEDGE_BASE, one), effect=_effect(block=block)
        )
        _call(context, lambda client: client.mapping.LinkKnowledgeBase, to_base)


@app.command("unlink")
def unlink(context: typer.Context, chat: Chat, model: ModelOption = None, kb: KnowledgeBaseOption = None) -> None:
    """Take AI models and knowledge bases from a chat configuration."""
    from dari.v1 import mapping_pb2 as wire

    name = resource_name(CHAT, chat)
    _require_some(model, kb)
    for one in model or ():
        to_model = wire.UnlinkAiModelRequest(chat_configuration=name, ai_model=resource_name(MODEL, one))
        _call(context, lambda client: client.mapping.UnlinkAiModel, to_model)
    for one in kb or ():
        to_base = wire.UnlinkKnowledgeBaseRequest(
            chat_configuration=name, knowledge_base=resource_name(KNOWLEDGE_BASE, one)
        )
        _call(context, lambda client: client.mapping.UnlinkKnowledgeBase, to_base)


@app.command("grant")
def grant(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    kb: Annotated[list[str], typer.Argument(metavar="KB...")],
    block: Block = False,
) -> None:
    """Let an AI model see the rows of knowledge bases."""
    from dari.v1 import mapping_pb2 as wire

    for one in kb:
        request = wire.GrantKnowledgeBaseRequest(
            ai_model=resource_name(MODEL, model),
            knowledge_base=resource_name(KNOWLEDGE_BASE, one),
            effect=_effect(block=block),
        )
        _call(context, lambda client: client.mapping.GrantKnowledgeBase, request)


@app.command("revoke")
def revoke(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    kb: Annotated[list[str], typer.Argument(metavar="KB...")],
) -> None:
    """Forbid an AI model to see the rows of knowledge bases."""
    from dari.v1 import mapping_pb2 as wire

    for one in kb:
        request = wire.RevokeKnowledgeBaseRequest(
            ai_model=resource_name(MODEL, model), knowledge_base=resource_name(KNOWLEDGE_BASE, one)
        )
        _call(context, lambda client: client.mapping.RevokeKnowledgeBase, request)


@app.command("resolve")
def resolve(context: typer.Context, chat: Chat) -> None:
    """Tell who would answer a chat, in which order, over which data, and why."""
    from dari.v1 import mapping_pb2 as wire

    request = wire.ResolveChatConfigurationRequest(name=resource_name(CHAT, chat))
    terminal: Terminal = context.obj
    with terminal.connect() as client:
        answer = client.mapping.ResolveChatConfiguration(request)
    if terminal.as_json:
        terminal.json_line(answer)
    else:
        show_resolved(terminal, answer)


@app.command("show")
def show(
    context: typer.Context,
    chat: Annotated[str, typer.Argument(metavar="[CHAT]")] = "",
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it into this file.")] = None,
) -> None:
    """Draw models, chatbots and data, of all chat configurations or of one; with --json list all links and grants."""
    from dari.v1 import mapping_pb2 as wire

    terminal: Terminal = context.obj
    name = resource_name(CHAT, chat) if chat else ""
    if terminal.as_json and svg is None:
        request = wire.ListMappingsRequest(chat_configuration=name, page_size=1_000)
        with terminal.connect() as client:
            for mapping in _pages(client.mapping.ListMappings, request, "mappings"):
                terminal.json_line(mapping)
        return
    _draw(terminal, name, svg)


def _draw(terminal: Terminal, name: str, svg: Path | None) -> None:
    from dari.commands import mapping_picture
    from dari.v1 import mapping_pb2 as wire
    from dari.v1.chat_pb2 import ListUpstreamsRequest

    with terminal.connect() as client:
        listed = wire.ListChatConfigurationsRequest(page_size=1_000)
        every = _pages(client.mapping.ListChatConfigurations, listed, "chat_configurations")
        names = [name] if name else [each.name for each in every]
        resolve_one = client.mapping.ResolveChatConfiguration
        resolved = [resolve_one(wire.ResolveChatConfigurationRequest(name=each)) for each in names]
        upstreams = client.chats.ListUpstreams(ListUpstreamsRequest()).upstreams
    if svg is None:
        terminal.out.print(mapping_picture.tree(resolved, upstreams))
        return
    svg.write_text(mapping_picture.svg(resolved, upstreams), encoding="utf-8")
    terminal.note(f"{svg}: {len(resolved)} chat configurations")


Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.")]


@app.command("export")
def export(context: typer.Context, output: Output = None) -> None:
    """Write the whole mapping as one YAML file, which `apply` reads. Secrets are in it by name only."""
    from dari.commands import map_files

    raise typer.Exit(map_files.run_export(context.obj, output))


@app.command("apply")
def apply(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="As `export` and `import` write it. What it leaves out stays.")],
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove what the file's sections and lists do not name.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show; the exit code is 3 where there is something to do.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Make the mapping what a file says: show what would change, ask, do it."""
    if context.obj.as_json and not (yes or dry_run):
        raise typer.BadParameter("--json asks nothing; give --yes or --dry-run too")
    from dari.commands import map_files

    raise typer.Exit(map_files.run_apply(context.obj, file, prune=prune, is_dry=dry_run, is_agreed=yes))


@app.command("import")
def import_tables(
    context: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...",
            help="JSON with all tables, or JSON or CSV named aiModels, chatConfigurations, KnowledgeBase.",
        ),
    ] = None,
    postgres: Annotated[
        bool, typer.Option("--postgres", help="Read the tables from the PostgreSQL of DARI_IMPORT_DSN.")
    ] = False,
    output: Output = None,
) -> None:
    """Propose a file for `apply` out of an older system's tables: resources, and links with their reasons."""
    if not files and not postgres:
        raise typer.BadParameter("give files, or --postgres")
    from dari.commands import map_import

    raise typer.Exit(map_import.run(context.obj, files or (), output, from_postgres=postgres))


def show_resolved(terminal: Terminal, answer: "ResolveChatConfigurationResponse") -> None:
    """Print a chain for people."""
    if answer.chat_configuration.disabled:
        terminal.note(f"{answer.chat_configuration.name} is disabled: it answers no question.")
    for place, link in enumerate(answer.chain, start=1):
        who = (
            f"{link.ai_model.name} ({_kind_text(link.ai_model.kind)})"
            if link.HasField("ai_model")
            else "the rows alone"
        )
        terminal.table(
            ("knowledge base", "seen", "why", "linked by", "granted by", "version", "rows"),
            [_seen_row(base) for base in link.knowledge_bases],
            title=f"{place}. {who}",
        )
        for warning in link.warnings:
            terminal.note(f"   {_WARNINGS[warning]}")
    for passed in answer.passed_by:
        terminal.note(f"{passed.ai_model} is not asked: {'its link' if passed.disabled else 'it'} is disabled.")
    for warning in answer.warnings:
        terminal.note(_WARNINGS[warning])


_WARNINGS: dict[int, str] = {
    1: "It sees less data than the one before it: an answer after a fail-over may lack rows.",
    2: "It sees data that none before it does.",
    3: "No link sees any data.",
    4: "No model is in the chain.",
}
"""ChainWarning in words, by number: its names are imported late."""


def _seen_row(base: "ResolvedKnowledgeBase") -> tuple[object, ...]:
    from dari.v1 import mapping_pb2 as wire

    return (
        base.knowledge_base,
        "yes" if base.visible else "no",
        short_name(wire.VisibilityReason.Name(base.reason), "VISIBILITY_REASON_"),
        _origin_text(base.link_origin),
        _origin_text(base.grant_origin),
        base.version,
        f"{base.row_count:,}",
    )


def _origin_text(origin: Any) -> str:
    from dari.v1 import mapping_pb2 as wire

    return short_name(wire.LinkOrigin.Name(origin), "LINK_ORIGIN_") if origin else ""


def _call(context: typer.Context, method: Callable[["Client"], Any], request: "Message") -> None:
    """Make one call and print what it gave: the one field that these responses have, or none."""
    terminal: Terminal = context.obj
    with terminal.connect() as client:
        response = method(client)(request)
    results = [value for _, value in response.ListFields()]
    if terminal.as_json:
        terminal.json_line(results[0] if results else response)
        return
    from google.protobuf.json_format import MessageToDict

    for result in results:
        terminal.facts(MessageToDict(result).items())


def _list(
    context: typer.Context,
    method: Callable[["Client"], Any],
    request: Any,
    field: str,
    columns: tuple[str, ...],
    row: Callable[[Any], tuple[object, ...]],
) -> None:
    """Read all pages and print them: a table, or one JSON object a line."""
    terminal: Terminal = context.obj
    with terminal.connect() as client:
        found = _pages(method(client), request, field)
    if terminal.as_json:
        for one in found:
            terminal.json_line(one)
    else:
        terminal.table(columns, [row(one) for one in found])


def _pages(call: Callable[[Any], Any], request: Any, field: str) -> list[Any]:
    """What all pages have in this field."""
    found: list[Any] = []
    while True:
        page = call(request)
        found += getattr(page, field)
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


_COLLECTION_OF = {Labelled.MODEL: MODEL, Labelled.CHAT: CHAT, Labelled.KB: KNOWLEDGE_BASE}


def _labels(given: list[str] | None) -> dict[str, str]:
    """KEY=VALUE, each; the server says whether it likes them."""
    wrong = [each for each in given or () if "=" not in each]
    if wrong:
        raise typer.BadParameter(f"{wrong[0]} is not KEY=VALUE")
    return dict(each.split("=", 1) for each in given or ())


def _relabel(labels: Any, given: dict[str, str], taken: set[str]) -> None:
    """Change a message's labels in place."""
    for key in taken & set(labels):
        del labels[key]
    labels.update(given)


def _changed(
    resource: Any,
    selector: str | None,
    disabled: bool | None,
    display_name: str | None,
    also: tuple[str, ...] = (),
) -> tuple[Any, "FieldMask"]:
    """The resource with what was given, and the mask that names it and `also`; an empty text counts as given."""
    from google.protobuf.field_mask_pb2 import FieldMask

    fields = {"knowledge_base_selector": selector, "disabled": disabled, "display_name": display_name}
    given = {field: value for field, value in fields.items() if value is not None}
    if not given and not also:
        raise typer.BadParameter("name something to change")
    for field, value in given.items():
        setattr(resource, field, value)
    return resource, FieldMask(paths=[*given, *also])


def _effect(*, block: bool) -> "LinkEffect.ValueType":
    from dari.v1 import mapping_pb2 as wire

    return wire.LINK_EFFECT_BLOCK if block else wire.LINK_EFFECT_ALLOW


def _kind_text(kind: Any) -> str:
    from dari.v1 import mapping_pb2 as wire

    return short_name(wire.AiModelKind.Name(kind), "AI_MODEL_KIND_")


def _id(collection: str, name: str) -> str:
    return name.removeprefix(f"{collection}/")


def _require_some(model: list[str] | None, kb: list[str] | None) -> None:
    if not model and not kb:
        raise typer.BadParameter("name at least one --model or --kb")
