"""`dari map`: which chatbot uses which AI models over which data. The grammar, and the one call behind each command.

    dari map model|chat|kb  create ID …  list  show ID  delete ID
    dari map link CHAT      --model ID --priority N | --kb ID …       unlink CHAT …
    dari map grant MODEL KB…                                          revoke MODEL KB…
    dari map resolve CHAT   who would answer, over what, and why
    dari map show [CHAT]    all links and grants

Loaded for every `--help`: messages and gRPC are imported inside the functions.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dari.commands.terminal import Terminal, resource_name, short_name

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from dari.client import Client
    from dari.v1.mapping_pb2 import Mapping, ResolveChatConfigurationResponse

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
Force = Annotated[bool, typer.Option("--force", help="Take its links with it.")]
ModelOption = Annotated[list[str] | None, typer.Option("--model", help="An AI model; may be repeated.")]
KnowledgeBaseOption = Annotated[list[str] | None, typer.Option("--kb", help="A knowledge base; may be repeated.")]

MODEL, CHAT, KNOWLEDGE_BASE = "aiModels", "chatConfigurations", "knowledgeBases"


class StandBy(StrEnum):
    """What the next model does while the one asked is silent, as it is typed."""

    OFF = "off"
    WARM = "warm"
    RACE = "race"


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
    display_name: DisplayName = "",
) -> None:
    """Make an AI model."""
    from dari.v1 import mapping_pb2 as wire

    made = wire.AiModel(display_name=display_name, max_answer_tokens=max_answer_tokens, context_tokens=context_tokens)
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
    display_name: DisplayName = "",
) -> None:
    """Make a chat configuration."""
    from dari.v1 import mapping_pb2 as wire

    made = wire.ChatConfiguration(
        display_name=display_name,
        instructions=instructions,
        max_rows=max_rows,
        stand_by=wire.StandBy.Value(f"STAND_BY_{stand_by.name}"),
    )
    if stand_by_after_s is not None:
        made.stand_by_after.FromMilliseconds(round(stand_by_after_s * 1000))
    request = wire.CreateChatConfigurationRequest(chat_configuration_id=_id(CHAT, chat_id), chat_configuration=made)
    _call(context, lambda client: client.mapping.CreateChatConfiguration, request)


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
    display_name: DisplayName = "",
    source: Annotated[str, typer.Option(help="Where its rows come from by themselves: https://…, file:///….")] = "",
    every: Annotated[str, typer.Option(help="Time between two looks at the source: 30s, 15m, 1h, 1d.")] = "",
    cron: Annotated[str, typer.Option(help="When to look at the source: five fields of cron, in UTC.")] = "",
    key: Annotated[list[str] | None, typer.Option(help="A column that names a row; may be repeated.")] = None,
    key_secret: Annotated[str, typer.Option(help="Name of the source's credentials in the server's settings.")] = "",
) -> None:
    """Make a knowledge base."""
    from dari.v1 import mapping_pb2 as wire

    made = wire.KnowledgeBase(display_name=display_name, description=description)
    if source:
        made.source.uri, made.source.cron, made.source.credentials_secret = source, cron, key_secret
        made.source.key_columns.extend(key or ())
        if every:
            made.source.interval.FromSeconds(_seconds(every))
    elif every or cron or key or key_secret:
        raise typer.BadParameter("--every, --cron, --key and --key-secret go with a --source")
    request = wire.CreateKnowledgeBaseRequest(
        knowledge_base_id=_id(KNOWLEDGE_BASE, knowledge_base_id), knowledge_base=made
    )
    _call(context, lambda client: client.mapping.CreateKnowledgeBase, request)


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


@app.command("link")
def link(
    context: typer.Context,
    chat: Chat,
    model: ModelOption = None,
    kb: KnowledgeBaseOption = None,
    priority: Annotated[int, typer.Option(min=0, max=1_000, help="The lowest is asked first.")] = 0,
) -> None:
    """Give a chat configuration AI models and knowledge bases. Several models get PRIORITY, PRIORITY + 1 and so on."""
    from dari.v1 import mapping_pb2 as wire

    name = resource_name(CHAT, chat)
    _require_some(model, kb)
    for place, one in enumerate(model or (), start=priority):
        to_model = wire.LinkAiModelRequest(chat_configuration=name, ai_model=resource_name(MODEL, one), priority=place)
        _call(context, lambda client: client.mapping.LinkAiModel, to_model)
    for one in kb or ():
        to_base = wire.LinkKnowledgeBaseRequest(
            chat_configuration=name, knowledge_base=resource_name(KNOWLEDGE_BASE, one)
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
) -> None:
    """Let an AI model see the rows of knowledge bases."""
    from dari.v1 import mapping_pb2 as wire

    for one in kb:
        request = wire.GrantKnowledgeBaseRequest(
            ai_model=resource_name(MODEL, model), knowledge_base=resource_name(KNOWLEDGE_BASE, one)
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
def show(context: typer.Context, chat: Annotated[str, typer.Argument(metavar="[CHAT]")] = "") -> None:
    """List all links and grants, or those of one chat configuration."""
    from dari.v1 import mapping_pb2 as wire

    _list(
        context,
        lambda client: client.mapping.ListMappings,
        wire.ListMappingsRequest(chat_configuration=resource_name(CHAT, chat) if chat else "", page_size=1_000),
        "mappings",
        ("", "from", "to", "priority"),
        _mapping_row,
    )


def show_resolved(terminal: Terminal, answer: "ResolveChatConfigurationResponse") -> None:
    """Print a chain for people."""
    from dari.v1 import mapping_pb2 as wire

    for place, link in enumerate(answer.chain, start=1):
        who = (
            f"{link.ai_model.name} ({_kind_text(link.ai_model.kind)})"
            if link.HasField("ai_model")
            else "the rows alone"
        )
        terminal.table(
            ("knowledge base", "seen", "why", "version", "rows"),
            [
                (
                    base.knowledge_base,
                    "yes" if base.visible else "no",
                    short_name(wire.VisibilityReason.Name(base.reason), "VISIBILITY_REASON_"),
                    base.version,
                    f"{base.row_count:,}",
                )
                for base in link.knowledge_bases
            ],
            title=f"{place}. {who}",
        )


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
    found: list[Any] = []
    with terminal.connect() as client:
        while True:
            page = method(client)(request)
            found += getattr(page, field)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    if terminal.as_json:
        for one in found:
            terminal.json_line(one)
    else:
        terminal.table(columns, [row(one) for one in found])


def _mapping_row(mapping: "Mapping") -> tuple[object, ...]:
    if mapping.HasField("ai_model_link"):
        to_model = mapping.ai_model_link
        return "link", to_model.chat_configuration, to_model.ai_model, to_model.priority
    if mapping.HasField("knowledge_base_link"):
        to_base = mapping.knowledge_base_link
        return "link", to_base.chat_configuration, to_base.knowledge_base, None
    granted = mapping.knowledge_base_grant
    return "grant", granted.ai_model, granted.knowledge_base, None


def _kind_text(kind: Any) -> str:
    from dari.v1 import mapping_pb2 as wire

    return short_name(wire.AiModelKind.Name(kind), "AI_MODEL_KIND_")


def _id(collection: str, name: str) -> str:
    return name.removeprefix(f"{collection}/")


def _seconds(text: str) -> int:
    unit = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}.get(text[-1])
    if unit is None or not (text[:-1].isascii() and text[:-1].isdecimal()):
        raise typer.BadParameter("must be a number with s, m, h or d, such as 15m", param_hint="--every")
    return int(text[:-1]) * unit


def _require_some(model: list[str] | None, kb: list[str] | None) -> None:
    if not model and not kb:
        raise typer.BadParameter("name at least one --model or --kb")
