"""MappingService through a real channel: what it takes, what it refuses and how it says so."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from dari.v1 import mapping_pb2 as pb
from tests.fix_server import ServedDari
from tests.flowise_stand_in import FLOW_ID
from tests.support.running_dari import FLOWISE, LOCAL, OPENAI, Refusal, RunningDari, refusal, seconds

FLOW = pb.FlowiseTarget(base_url="http://flowise:3000", flow_id=FLOW_ID)
VLLM = pb.OpenAiCompatibleTarget(base_url="http://vllm:8000/v1", model="m")


@pytest.fixture
def mapping(shared_server: ServedDari) -> RunningDari:
    """One server for all tests of this file; each uses ids of its own."""
    return shared_server.dari


def refused(call: Callable[[], object]) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return refusal(caught.value)


def new_id() -> str:
    return f"x{uuid4().hex}"


def make_model(dari: RunningDari, id: str = "", **fields: object) -> pb.AiModel:
    model = pb.AiModel(**{"kind": FLOWISE, "flowise": FLOW, **fields})  # type: ignore[arg-type]
    return dari.mapping.CreateAiModel(pb.CreateAiModelRequest(ai_model_id=id or new_id(), ai_model=model)).ai_model


def make_base(dari: RunningDari, **fields: object) -> pb.KnowledgeBase:
    base = pb.KnowledgeBase(**fields)  # type: ignore[arg-type]
    request = pb.CreateKnowledgeBaseRequest(knowledge_base_id=new_id(), knowledge_base=base)
    return dari.mapping.CreateKnowledgeBase(request).knowledge_base


def make_chat(dari: RunningDari, **fields: object) -> pb.ChatConfiguration:
    chat = pb.ChatConfiguration(**fields)  # type: ignore[arg-type]
    request = pb.CreateChatConfigurationRequest(chat_configuration_id=new_id(), chat_configuration=chat)
    return dari.mapping.CreateChatConfiguration(request).chat_configuration


def update(dari: RunningDari, model: pb.AiModel, *paths: str) -> pb.AiModel:
    mask = FieldMask(paths=paths) if paths else None
    return dari.mapping.UpdateAiModel(pb.UpdateAiModelRequest(ai_model=model, update_mask=mask)).ai_model


def test_what_is_made_has_the_defaults_that_the_proto_promises(mapping: RunningDari) -> None:
    """And reads the same as it was told when it was made."""
    id = new_id()
    model = make_model(mapping, id, flowise=pb.FlowiseTarget(base_url="http://f:3000/", flow_id=FLOW_ID.upper()))
    assert (model.name, model.display_name, model.etag) == (f"aiModels/{id}", id, "1")
    assert model.flowise == pb.FlowiseTarget(base_url="http://f:3000", flow_id=FLOW_ID)
    waits = (model.first_token_timeout, model.stall_timeout, model.total_timeout)
    assert waits == (seconds(10), seconds(10), seconds(120))
    assert (model.max_answer_tokens, model.context_tokens) == (256, 8_192)
    assert model.create_time == model.update_time
    assert mapping.mapping.GetAiModel(pb.GetAiModelRequest(name=model.name)).ai_model == model
    local = make_model(mapping, kind=LOCAL, flowise=None)
    assert (local.WhichOneof("target"), local.first_token_timeout) == ("local", seconds(30))
    assert local.context_tokens == 0, "what the server's engine holds"
    chat = make_chat(mapping)
    assert (chat.max_rows, chat.instructions) == (8, "")
    assert make_chat(mapping, max_rows=0).max_rows == 0
    assert (chat.stand_by, chat.stand_by_after) == (pb.STAND_BY_OFF, seconds(1))
    racing = make_chat(mapping, stand_by=pb.STAND_BY_RACE, stand_by_after=seconds(2))
    assert (racing.stand_by, racing.stand_by_after) == (pb.STAND_BY_RACE, seconds(2))
    base = make_base(mapping, description="sales of 2026")
    assert (base.description, base.current_version, base.row_count, list(base.columns)) == ("sales of 2026", 0, 0, [])


WRONG_MODELS: list[tuple[str, pb.AiModel, tuple[str, ...]]] = [
    ("no kind", pb.AiModel(flowise=FLOW), ("ai_model.kind",)),
    ("an unknown kind", pb.AiModel(kind=99, flowise=FLOW), ("ai_model.kind",)),  # type: ignore[arg-type]
    ("no target", pb.AiModel(kind=FLOWISE), ("ai_model.target",)),
    ("another kind's target", pb.AiModel(kind=FLOWISE, openai_compatible=VLLM), ("ai_model.target",)),
    ("a local one with a server", pb.AiModel(kind=LOCAL, flowise=FLOW), ("ai_model.target",)),
    (
        "NUL everywhere",
        pb.AiModel(
            kind=OPENAI,
            display_name="a\0b",
            openai_compatible=pb.OpenAiCompatibleTarget(base_url="http://a\0b", model="a\0b", api_key_secret="a\0b"),
        ),
        (
            "ai_model.display_name",
            "ai_model.openai_compatible.base_url",
            "ai_model.openai_compatible.api_key_secret",
            "ai_model.openai_compatible.model",
        ),
    ),
    (
        "nothing in a target",
        pb.AiModel(kind=FLOWISE, flowise=pb.FlowiseTarget()),
        ("ai_model.flowise.base_url", "ai_model.flowise.flow_id"),
    ),
    (
        "a flow id that is no UUID",
        pb.AiModel(kind=FLOWISE, flowise=pb.FlowiseTarget(base_url="http://f", flow_id="main\0")),
        ("ai_model.flowise.flow_id",),
    ),
    ("a long name", pb.AiModel(kind=FLOWISE, flowise=FLOW, display_name="가" * 201), ("ai_model.display_name",)),
    (
        "waits out of range",
        pb.AiModel(
            kind=FLOWISE,
            flowise=FLOW,
            first_token_timeout=seconds(0),
            stall_timeout=seconds(-1),
            total_timeout=seconds(3_600.5),
        ),
        ("ai_model.first_token_timeout", "ai_model.stall_timeout", "ai_model.total_timeout"),
    ),
    ("too many tokens", pb.AiModel(kind=FLOWISE, flowise=FLOW, max_answer_tokens=-1), ("ai_model.max_answer_tokens",)),
    (
        "a tiny context",
        pb.AiModel(kind=LOCAL, local=pb.LocalTarget(), context_tokens=511),
        ("ai_model.context_tokens",),
    ),
    (
        "a huge context",
        pb.AiModel(kind=FLOWISE, flowise=FLOW, context_tokens=1_048_577),
        ("ai_model.context_tokens",),
    ),
    (
        "labels and a selector that are none",
        pb.AiModel(kind=LOCAL, labels={"a b": "c", "d": "e f"}, knowledge_base_selector="team in sales"),
        ("ai_model.labels", "ai_model.labels.d", "ai_model.knowledge_base_selector"),
    ),
    (
        "a model file elsewhere",
        pb.AiModel(kind=LOCAL, local=pb.LocalTarget(model_file="../../etc/passwd")),
        ("ai_model.local.model_file",),
    ),
]


def test_wrong_models_are_refused_by_field(mapping: RunningDari) -> None:
    """All wrong fields at once; nothing that can be sent is INTERNAL."""
    for name, model, fields in WRONG_MODELS:
        request = pb.CreateAiModelRequest(ai_model_id=new_id(), ai_model=model)
        told = refused(partial(mapping.mapping.CreateAiModel, request))
        assert (told.status, told.reason, told.fields) == ("INVALID_ARGUMENT", "INVALID_FIELD", fields), name


WRONG_ADDRESSES = [
    "",
    "flowise:3000",
    "ftp://flowise",
    "http://",
    "http://:80",
    "http://flowise:0",
    "http://flowise:99999",
    "http://[::1",
    "http://user@flowise",
    "http://user:password@flowise",
    "http://flowise/?key=1",
    "http://flowise/#a",
    "http://flow ise",
    "http://flowise\n",
    "http://플로와이즈",
    "http://" + "a" * 2_050,
]


def test_wrong_addresses_are_refused(mapping: RunningDari) -> None:
    """Among them those that would carry a secret."""
    for address in WRONG_ADDRESSES:
        target = pb.FlowiseTarget(base_url=address, flow_id=FLOW_ID)
        told = refused(partial(make_model, mapping, flowise=target))
        assert told.fields == ("ai_model.flowise.base_url",), address
        assert "password" not in told.message or "api_key_secret" in told.message


def test_wrong_ids_and_names_are_refused(mapping: RunningDari) -> None:
    """An id in a create, and a name everywhere else."""
    for id in ("", "A", "1a", "a_b", "a/b", "a" * 64, "a\0", "ä"):
        create = pb.CreateKnowledgeBaseRequest(knowledge_base_id=id)
        told = refused(partial(mapping.mapping.CreateKnowledgeBase, create))
        assert (told.status, told.fields) == ("INVALID_ARGUMENT", ("knowledge_base_id",)), id
    for name in (
        "",
        "a",
        "aiModels/a",
        "knowledgeBases/",
        "knowledgeBases/A",
        "a/b",
        "knowledgeBases/\0",
    ):
        get = pb.GetKnowledgeBaseRequest(name=name)
        assert refused(partial(mapping.mapping.GetKnowledgeBase, get)).fields == ("name",), name
    missing = pb.GetKnowledgeBaseRequest(name="knowledgeBases/none")
    told = refused(lambda: mapping.mapping.GetKnowledgeBase(missing))
    assert (told.status, told.metadata) == ("NOT_FOUND", {"resource": "knowledgeBases/none"})


def test_texts_come_back_as_they_went_in(mapping: RunningDari) -> None:
    """Whatever people write: quotes, line ends, other scripts, what looks like SQL or a format."""
    text = "한국어 'quotes' \"double\" \\ %s %(a)s {x} \r\n\t\x01\x7f\u2028\U0001f600 '; DROP TABLE dari.ai_models; --"
    chat = make_chat(mapping, display_name=text, instructions=text * 50)
    read = mapping.mapping.GetChatConfiguration(pb.GetChatConfigurationRequest(name=chat.name)).chat_configuration
    assert (read.display_name, read.instructions) == (text, text * 50)
    base = make_base(mapping, description=text)
    assert base.description == text


def test_a_create_with_the_same_request_id_makes_one(mapping: RunningDari) -> None:
    """Also when both come at once; another id under it is refused, the same id without it too."""
    id, request_id = new_id(), str(uuid4())
    request = pb.CreateKnowledgeBaseRequest(knowledge_base_id=id, request_id=request_id)
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: mapping.mapping.CreateKnowledgeBase(request).knowledge_base, range(16)))
    assert all(base == made[0] for base in made)
    request.knowledge_base_id = new_id()
    told = refused(lambda: mapping.mapping.CreateKnowledgeBase(request))
    assert (told.status, told.fields) == ("INVALID_ARGUMENT", ("request_id",))
    again = pb.CreateKnowledgeBaseRequest(knowledge_base_id=id)
    told = refused(lambda: mapping.mapping.CreateKnowledgeBase(again))
    assert (told.status, told.metadata["resource"]) == ("ALREADY_EXISTS", f"knowledgeBases/{id}")
    again.request_id = "once"
    assert refused(lambda: mapping.mapping.CreateKnowledgeBase(again)).fields == ("request_id",)


UPDATES: list[tuple[str, pb.AiModel, tuple[str, ...], pb.AiModel]] = [
    # name, what comes in, the mask, what differs afterwards
    (
        "one field",
        pb.AiModel(display_name="new", max_answer_tokens=9),
        ("display_name",),
        pb.AiModel(display_name="new"),
    ),
    (
        "no mask: what is set",
        pb.AiModel(display_name="new", stall_timeout=seconds(3)),
        (),
        pb.AiModel(display_name="new", stall_timeout=seconds(3)),
    ),
    (
        "a path into the target",
        pb.AiModel(flowise=pb.FlowiseTarget(base_url="https://other", flow_id="not looked at")),
        ("flowise.base_url",),
        pb.AiModel(flowise=pb.FlowiseTarget(base_url="https://other", flow_id=FLOW_ID)),
    ),
    (
        "the whole target",
        pb.AiModel(flowise=pb.FlowiseTarget(base_url="https://other", flow_id=str(uuid4()), api_key_secret="main")),
        ("flowise",),
        pb.AiModel(),
    ),
    (
        "a cleared wait is the default",
        pb.AiModel(),
        ("first_token_timeout",),
        pb.AiModel(first_token_timeout=seconds(10)),
    ),
    ("a context", pb.AiModel(context_tokens=512), (), pb.AiModel(context_tokens=512)),
    ("a cleared context is the default", pb.AiModel(), ("context_tokens",), pb.AiModel()),
    ("labels", pb.AiModel(labels={"a": "b"}), ("labels",), pb.AiModel(labels={"a": "b"})),
    ("a selector", pb.AiModel(knowledge_base_selector="a"), (), pb.AiModel(knowledge_base_selector="a")),
    ("disabled", pb.AiModel(disabled=True), (), pb.AiModel(disabled=True)),
    ("an empty name is the id", pb.AiModel(), ("display_name",), pb.AiModel()),
    ("the same kind is no change", pb.AiModel(kind=FLOWISE, max_answer_tokens=9), (), pb.AiModel(max_answer_tokens=9)),
    ("output-only fields say nothing", pb.AiModel(create_time=None), (), pb.AiModel()),
]


def test_an_update_changes_what_its_mask_names(mapping: RunningDari) -> None:
    """And the etag with it."""
    for name, change, paths, differs in UPDATES:
        before = make_model(mapping, display_name="old", first_token_timeout=seconds(5))
        change.name = before.name
        after = update(mapping, change, *paths)
        expected = pb.AiModel()
        expected.CopyFrom(before)
        if differs.HasField("flowise"):
            expected.flowise.Clear()
        if name == "the whole target":
            expected.flowise.CopyFrom(change.flowise)
        if name == "an empty name is the id":
            expected.display_name = before.name.removeprefix("aiModels/")
        for field in ("first_token_timeout", "stall_timeout"):
            if differs.HasField(field):
                expected.ClearField(field)
        expected.MergeFrom(differs)
        expected.etag = "2"
        expected.update_time.CopyFrom(after.update_time)
        assert after == expected, name
        assert mapping.mapping.GetAiModel(pb.GetAiModelRequest(name=before.name)).ai_model == after, name


WRONG_UPDATES: list[tuple[str, pb.AiModel, tuple[str, ...], str]] = [
    ("an output-only field", pb.AiModel(etag=""), ("create_time",), "update_mask"),
    ("the name", pb.AiModel(), ("name",), "update_mask"),
    ("the kind by mask", pb.AiModel(kind=LOCAL), ("kind",), "update_mask"),
    ("one label of several", pb.AiModel(labels={"a": "b"}), ("labels.a",), "update_mask"),
    ("a field that is not there", pb.AiModel(), ("colour",), "update_mask"),
    ("a path that goes nowhere", pb.AiModel(), ("flowise.colour",), "update_mask"),
    ("odd paths", pb.AiModel(), ("", "flowise.", ".", "a\0"), "update_mask"),
    ("everything", pb.AiModel(), ("*",), "update_mask"),
    ("the kind without a mask", pb.AiModel(kind=LOCAL), (), "ai_model.kind"),
    ("another kind with its target", pb.AiModel(kind=OPENAI, openai_compatible=VLLM), (), "ai_model.kind"),
    ("a target that does not fit", pb.AiModel(openai_compatible=VLLM), (), "ai_model.target"),
    ("a target that does not fit, by mask", pb.AiModel(local=pb.LocalTarget()), ("local",), "ai_model.target"),
    ("a part of another target", pb.AiModel(openai_compatible=VLLM), ("openai_compatible.model",), "ai_model.target"),
    ("no target at all", pb.AiModel(), ("flowise",), "ai_model.target"),
    ("a wrong value", pb.AiModel(), ("flowise.base_url",), "ai_model.flowise.base_url"),
]


def test_a_wrong_update_changes_nothing(mapping: RunningDari) -> None:
    """Each is told by its field, and the model is what it was."""
    before = make_model(mapping)
    for name, change, paths, field in WRONG_UPDATES:
        change.name = before.name
        if name == "a wrong value":
            change.flowise.base_url = "nowhere"
        told = refused(partial(update, mapping, change, *paths))
        assert (told.status, told.fields) == ("INVALID_ARGUMENT", (field,)), name
    assert mapping.mapping.GetAiModel(pb.GetAiModelRequest(name=before.name)).ai_model == before
    told = refused(lambda: update(mapping, pb.AiModel(name="aiModels/none", display_name="a")))
    assert told.status == "NOT_FOUND"
    assert refused(lambda: update(mapping, pb.AiModel(display_name="a"))).fields == ("ai_model.name",)


def test_an_old_etag_loses(mapping: RunningDari) -> None:
    """For updates and deletions; without one the last writer wins."""
    before = make_model(mapping)
    after = update(mapping, pb.AiModel(name=before.name, etag=before.etag, display_name="first"))
    for call in (
        lambda: update(mapping, pb.AiModel(name=before.name, etag=before.etag, display_name="second")),
        lambda: mapping.mapping.DeleteAiModel(pb.DeleteAiModelRequest(name=before.name, etag=before.etag)),
        lambda: update(mapping, pb.AiModel(name=before.name, etag="a\0b", display_name="third")),
    ):
        told = refused(call)
        assert (told.status, told.reason) == ("ABORTED", "ETAG_MISMATCH")
    mapping.mapping.DeleteAiModel(pb.DeleteAiModelRequest(name=after.name, etag=after.etag))
    assert (
        refused(lambda: mapping.mapping.DeleteAiModel(pb.DeleteAiModelRequest(name=after.name))).status == "NOT_FOUND"
    )


def test_updates_at_once_lose_nothing(mapping: RunningDari) -> None:
    """Of those with the same etag one wins; those without one all change what they name."""
    chat = make_chat(mapping)

    def change(number: int) -> str:
        new = pb.ChatConfiguration(name=chat.name, etag=chat.etag, display_name=str(number))
        try:
            mapping.mapping.UpdateChatConfiguration(pb.UpdateChatConfigurationRequest(chat_configuration=new))
        except grpc.RpcError as error:
            return refusal(error).reason
        return "OK"

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(change, range(8))) == ["ETAG_MISMATCH"] * 7 + ["OK"]


def test_a_linked_one_is_deleted_by_force_only(mapping: RunningDari) -> None:
    """The refusal lists what it is linked with; force takes the links along, on either side."""
    model, base, chat = make_model(mapping), make_base(mapping), make_chat(mapping)
    ids = [each.name.rpartition("/")[2] for each in (model, base, chat)]
    mapping.link_model(ids[2], ids[0])
    mapping.link_base(ids[2], ids[1])
    mapping.grant(ids[0], ids[1])
    deletions: list[tuple[Callable[[bool], object], str, set[str]]] = [
        (
            lambda force: mapping.mapping.DeleteAiModel(pb.DeleteAiModelRequest(name=model.name, force=force)),
            model.name,
            {chat.name, base.name},
        ),
        (
            lambda force: mapping.mapping.DeleteKnowledgeBase(
                pb.DeleteKnowledgeBaseRequest(name=base.name, force=force)
            ),
            base.name,
            {chat.name, model.name},
        ),
        (
            lambda force: mapping.mapping.DeleteChatConfiguration(
                pb.DeleteChatConfigurationRequest(name=chat.name, force=force)
            ),
            chat.name,
            {model.name, base.name},
        ),
    ]
    for delete, name, linked in deletions:
        told = refused(partial(delete, False))
        assert (told.status, told.reason) == ("FAILED_PRECONDITION", "STILL_LINKED")
        assert told.metadata["resource"] == name
        assert set(told.metadata["links"].split(",")) == linked
    deletions[0][0](True)
    assert list(mapping.mapping.ListMappings(pb.ListMappingsRequest(chat_configuration=chat.name)).mappings) == [
        pb.Mapping(knowledge_base_link=mapping.link_base(ids[2], ids[1]))
    ]
    deletions[1][0](True)
    deletions[2][0](False)  # nothing is linked with it any more


def test_links_can_be_made_and_taken_twice(mapping: RunningDari) -> None:
    """A second time changes nothing but a priority."""
    model, base, chat = (
        each.name.rpartition("/")[2] for each in (make_model(mapping), make_base(mapping), make_chat(mapping))
    )
    first = mapping.link_model(chat, model, 3)
    assert mapping.link_model(chat, model, 3) == first
    second = mapping.link_model(chat, model, 0)
    assert (second.priority, second.create_time) == (0, first.create_time)
    assert mapping.link_base(chat, base) == mapping.link_base(chat, base)
    assert mapping.grant(model, base) == mapping.grant(model, base)
    names = {"chat_configuration": f"chatConfigurations/{chat}"}
    for _ in range(2):
        mapping.mapping.UnlinkAiModel(pb.UnlinkAiModelRequest(ai_model=f"aiModels/{model}", **names))
        mapping.mapping.UnlinkKnowledgeBase(
            pb.UnlinkKnowledgeBaseRequest(knowledge_base=f"knowledgeBases/{base}", **names)
        )
        mapping.mapping.RevokeKnowledgeBase(
            pb.RevokeKnowledgeBaseRequest(ai_model=f"aiModels/{model}", knowledge_base=f"knowledgeBases/{base}")
        )
    assert not mapping.mapping.ListMappings(
        pb.ListMappingsRequest(chat_configuration=f"chatConfigurations/{chat}")
    ).mappings


def test_links_name_what_is_missing(mapping: RunningDari) -> None:
    """By name, on either side, for making and for taking."""
    model, base, chat = make_model(mapping).name, make_base(mapping).name, make_chat(mapping).name
    no_model, no_base, no_chat = "aiModels/none", "knowledgeBases/none", "chatConfigurations/none"
    stub = mapping.mapping
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: stub.LinkAiModel(pb.LinkAiModelRequest(chat_configuration=chat, ai_model=no_model)), no_model),
        (lambda: stub.LinkAiModel(pb.LinkAiModelRequest(chat_configuration=no_chat, ai_model=model)), no_chat),
        (lambda: stub.UnlinkAiModel(pb.UnlinkAiModelRequest(chat_configuration=chat, ai_model=no_model)), no_model),
        (
            lambda: stub.LinkKnowledgeBase(
                pb.LinkKnowledgeBaseRequest(chat_configuration=chat, knowledge_base=no_base)
            ),
            no_base,
        ),
        (
            lambda: stub.UnlinkKnowledgeBase(
                pb.UnlinkKnowledgeBaseRequest(chat_configuration=no_chat, knowledge_base=base)
            ),
            no_chat,
        ),
        (
            lambda: stub.GrantKnowledgeBase(pb.GrantKnowledgeBaseRequest(ai_model=no_model, knowledge_base=base)),
            no_model,
        ),
        (
            lambda: stub.RevokeKnowledgeBase(pb.RevokeKnowledgeBaseRequest(ai_model=model, knowledge_base=no_base)),
            no_base,
        ),
        (lambda: stub.ResolveChatConfiguration(pb.ResolveChatConfigurationRequest(name=no_chat)), no_chat),
    ]
    for call, name in calls:
        told = refused(call)
        assert (told.status, told.metadata) == ("NOT_FOUND", {"resource": name})
    for priority in (-1, 1_001):
        request = pb.LinkAiModelRequest(chat_configuration=chat, ai_model=model, priority=priority)
        assert refused(partial(stub.LinkAiModel, request)).fields == ("priority",)


def test_resolving_tells_the_chain_and_why_each_knowledge_base_is_seen_or_not(mapping: RunningDari) -> None:
    """By priority, then name; and last the rows alone, which see all that is linked and filled."""
    filled, ungranted, empty = (f"{name}{uuid4().hex[:8]}" for name in ("a-filled", "b-ungranted", "c-empty"))
    mapping.make_knowledge_base(filled, "n\n1\n2\n")
    mapping.make_knowledge_base(ungranted, "n\n1\n")
    mapping.make_knowledge_base(empty)
    suffix = uuid4().hex[:8]
    first, second, third = f"z{suffix}", f"a{suffix}", f"b{suffix}"
    for model in (third, second, first):
        make_model(mapping, model)
    chat = f"c{suffix}"
    mapping.make_chat(chat, first, over=(filled, ungranted, empty), granted={first: (filled, empty)})
    mapping.link_model(chat, third, 5)
    mapping.link_model(chat, second, 5)
    mapping.grant(second, ungranted)
    resolved = mapping.mapping.ResolveChatConfiguration(
        pb.ResolveChatConfigurationRequest(name=f"chatConfigurations/{chat}")
    )
    assert resolved.chat_configuration.name == f"chatConfigurations/{chat}"
    assert [(link.ai_model.name, link.priority) for link in resolved.chain] == [
        (f"aiModels/{first}", 0),
        (f"aiModels/{second}", 5),
        (f"aiModels/{third}", 5),
        ("", 6),
    ]
    assert [link.HasField("ai_model") for link in resolved.chain] == [True, True, True, False]
    seen, not_granted = pb.VISIBILITY_REASON_LINKED_AND_GRANTED, pb.VISIBILITY_REASON_NOT_GRANTED
    nothing, linked = pb.VISIBILITY_REASON_EMPTY, pb.VISIBILITY_REASON_LINKED
    assert [[base.reason for base in link.knowledge_bases] for link in resolved.chain] == [
        [seen, not_granted, nothing],
        [not_granted, seen, not_granted],
        [not_granted, not_granted, not_granted],
        [linked, linked, nothing],
    ]
    for link in resolved.chain:
        assert all(base.visible == (base.reason in (seen, linked)) for base in link.knowledge_bases)
    assert [(base.version, base.row_count) for base in resolved.chain[0].knowledge_bases] == [(1, 2), (1, 1), (0, 0)]


def test_lists_come_in_pages_in_order_each_once(mapping: RunningDari) -> None:
    """Also while others come and go behind the page."""
    made = sorted(make_base(mapping).name for _ in range(7))
    found: list[str] = []
    token = ""
    while True:
        page = mapping.mapping.ListKnowledgeBases(pb.ListKnowledgeBasesRequest(page_size=3, page_token=token))
        assert len(page.knowledge_bases) <= 3
        found += [base.name for base in page.knowledge_bases]
        token = page.next_page_token
        if not token:
            break
    assert found == sorted(found)
    assert [name for name in found if name in made] == made


def test_all_mappings_come_in_pages(mapping: RunningDari) -> None:
    """Model links, then knowledge base links, then grants; of one configuration without grants."""
    suffix = uuid4().hex[:8]
    bases, models, chat = [f"k{n}{suffix}" for n in range(3)], [f"m{n}{suffix}" for n in range(3)], f"c{suffix}"
    for base in bases:
        mapping.make_knowledge_base(base)
    for model in models:
        make_model(mapping, model)
    mapping.make_chat(chat, *models, over=tuple(bases))

    def listed(page_size: int, chat_configuration: str = "") -> list[pb.Mapping]:
        found: list[pb.Mapping] = []
        token = ""
        while True:
            page = mapping.mapping.ListMappings(
                pb.ListMappingsRequest(page_size=page_size, page_token=token, chat_configuration=chat_configuration)
            )
            found += page.mappings
            token = page.next_page_token
            if not token:
                return found

    of_chat = listed(2, chat_configuration=f"chatConfigurations/{chat}")
    assert [each.WhichOneof("mapping") for each in of_chat] == ["ai_model_link"] * 3 + ["knowledge_base_link"] * 3
    everything = listed(4)
    kinds = [each.WhichOneof("mapping") for each in everything]
    order = ("ai_model_link", "knowledge_base_link", "knowledge_base_grant")
    assert kinds == sorted(kinds, key=lambda kind: order.index(str(kind)))
    grants = [each.knowledge_base_grant for each in everything if each.WhichOneof("mapping") == "knowledge_base_grant"]
    ours = [(grant.ai_model, grant.knowledge_base) for grant in grants if grant.ai_model.endswith(suffix)]
    assert ours == [(f"aiModels/{model}", f"knowledgeBases/{base}") for model in models for base in bases]


def test_wrong_pages_are_refused(mapping: RunningDari) -> None:
    """A size out of range, and tokens that no list gave."""
    lists: list[tuple[Callable[..., object], Callable[..., object]]] = [
        (mapping.mapping.ListAiModels, pb.ListAiModelsRequest),
        (mapping.mapping.ListMappings, pb.ListMappingsRequest),
    ]
    for call, request in lists:
        for size in (-1, 1_001):
            assert refused(partial(call, request(page_size=size))).fields == ("page_size",)
        for token in ("x", "WyJhIl0", "é", "W10=", "WyI5IiwiYSIsImIiXQ==", "WyJcdTAwMDAiXQ=="):
            told = refused(partial(call, request(page_token=token)))
            assert (told.status, told.fields) == ("INVALID_ARGUMENT", ("page_token",)), token


def test_a_forged_token_is_only_another_beginning(mapping: RunningDari) -> None:
    """What is no id is still compared as text."""
    for token in ("WyJaWlonOyAtLSJd", "WyIiXQ=="):  # ["ZZZ'; --"] and [""]
        mapping.mapping.ListAiModels(pb.ListAiModelsRequest(page_token=token))


def test_a_knowledge_base_goes_with_its_rows_and_uploads(mapping: RunningDari) -> None:
    """Its name is free afterwards, and begins from nothing."""
    id = new_id()
    mapping.make_knowledge_base(id, "n\n1\n")
    name = f"knowledgeBases/{id}"
    filled = mapping.mapping.GetKnowledgeBase(pb.GetKnowledgeBaseRequest(name=name)).knowledge_base
    assert (filled.current_version, filled.row_count, list(filled.columns)) == (1, 1, ["n"])
    mapping.mapping.DeleteKnowledgeBase(pb.DeleteKnowledgeBaseRequest(name=name))
    mapping.make_knowledge_base(id)
    again = mapping.mapping.GetKnowledgeBase(pb.GetKnowledgeBaseRequest(name=name)).knowledge_base
    assert (again.current_version, again.row_count, list(again.columns)) == (0, 0, [])


def test_labels_are_replaced_as_a_whole_and_can_be_taken_away(mapping: RunningDari) -> None:
    """By the mask; without it an empty map says nothing."""
    base = make_base(mapping, labels={"team": "a", "env": "prod"})

    def change(*paths: str, **fields: object) -> pb.KnowledgeBase:
        new = pb.KnowledgeBase(name=base.name, **fields)  # type: ignore[arg-type]
        mask = FieldMask(paths=paths) if paths else None
        request = pb.UpdateKnowledgeBaseRequest(knowledge_base=new, update_mask=mask)
        return mapping.mapping.UpdateKnowledgeBase(request).knowledge_base

    assert change(labels={"team": "b"}).labels == {"team": "b"}
    assert change(disabled=True).labels == {"team": "b"}
    taken = change("labels", "disabled")
    assert (dict(taken.labels), taken.disabled) == ({}, False)


def resolved(dari: RunningDari, chat: str) -> pb.ResolveChatConfigurationResponse:
    return dari.mapping.ResolveChatConfiguration(pb.ResolveChatConfigurationRequest(name=chat))


def test_a_selector_is_told_with_all_that_overrules_it(mapping: RunningDari) -> None:
    """From the labels of a knowledge base to what each model sees, and who decided."""
    team, id = uuid4().hex, new_id()
    selector = f"team={team}"
    chat = make_chat(mapping, knowledge_base_selector=selector)
    model = make_model(mapping, knowledge_base_selector=f"team in ({team}), !secret")
    chat_id, model_id = (each.name.rpartition("/")[2] for each in (chat, model))
    mapping.link_model(chat_id, model_id)
    mapping.make_knowledge_base(id, "n\n1\n")
    assert not resolved(mapping, chat.name).chain[0].knowledge_bases

    def line(of: int = 0) -> tuple[int, int, int]:
        (seen,) = resolved(mapping, chat.name).chain[of].knowledge_bases
        return seen.reason, seen.link_origin, seen.grant_origin

    def label(**labels: str) -> None:
        new = pb.KnowledgeBase(name=f"knowledgeBases/{id}", labels=labels)
        mapping.mapping.UpdateKnowledgeBase(pb.UpdateKnowledgeBaseRequest(knowledge_base=new))

    nobody, person, chosen = pb.LINK_ORIGIN_UNSPECIFIED, pb.LINK_ORIGIN_PERSON, pb.LINK_ORIGIN_SELECTOR
    label(team=team)
    assert line() == (pb.VISIBILITY_REASON_LINKED_AND_GRANTED, chosen, chosen)
    assert line(of=1) == (pb.VISIBILITY_REASON_LINKED, chosen, nobody)
    label(team=team, secret="")
    assert line() == (pb.VISIBILITY_REASON_NOT_GRANTED, chosen, nobody)
    assert mapping.grant(model_id, id).effect == pb.LINK_EFFECT_ALLOW
    assert line() == (pb.VISIBILITY_REASON_LINKED_AND_GRANTED, chosen, person)
    blocked = mapping.mapping.LinkKnowledgeBase(
        pb.LinkKnowledgeBaseRequest(
            chat_configuration=chat.name, knowledge_base=f"knowledgeBases/{id}", effect=pb.LINK_EFFECT_BLOCK
        )
    )
    assert blocked.link.effect == pb.LINK_EFFECT_BLOCK
    assert line(of=1) == (pb.VISIBILITY_REASON_BLOCKED, person, nobody)
    assert list(resolved(mapping, chat.name).warnings) == [pb.CHAIN_WARNING_NO_DATA]
    strange = pb.GrantKnowledgeBaseRequest(
        ai_model=model.name,
        knowledge_base=f"knowledgeBases/{id}",
        effect=9,  # type: ignore[arg-type]
    )
    assert refused(lambda: mapping.mapping.GrantKnowledgeBase(strange)).fields == ("effect",)


def test_a_selector_that_cannot_be_read_is_refused_with_its_place(mapping: RunningDari) -> None:
    """In what is made and in what is changed."""
    told = refused(lambda: make_chat(mapping, knowledge_base_selector="team=a,env on (prod)"))
    assert (told.status, told.fields) == ("INVALID_ARGUMENT", ("chat_configuration.knowledge_base_selector",))
    assert "at character 12" in told.message
    model = make_model(mapping)
    told = refused(lambda: update(mapping, pb.AiModel(name=model.name, knowledge_base_selector="a;b")))
    assert told.fields == ("ai_model.knowledge_base_selector",)


def test_what_is_disabled_is_passed_by_and_a_disabled_chat_answers_nothing(mapping: RunningDari) -> None:
    """A link, a model, a knowledge base, and the whole."""
    first, second, base = new_id(), new_id(), new_id()
    for model in (first, second):
        make_model(mapping, model)
    mapping.make_knowledge_base(base, "n\n1\n")
    chat = new_id()
    mapping.make_chat(chat, first, second, over=(base,))
    name = f"chatConfigurations/{chat}"
    mapping.mapping.LinkAiModel(
        pb.LinkAiModelRequest(chat_configuration=name, ai_model=f"aiModels/{first}", priority=7, disabled=True)
    )
    update(mapping, pb.AiModel(name=f"aiModels/{second}", disabled=True))
    told = resolved(mapping, name)
    assert [(link.ai_model, link.priority, link.disabled) for link in told.passed_by] == [
        (f"aiModels/{second}", 1, False),
        (f"aiModels/{first}", 7, True),
    ]
    assert [link.HasField("ai_model") for link in told.chain] == [False]
    assert list(told.warnings) == [pb.CHAIN_WARNING_NO_MODEL]
    off = pb.KnowledgeBase(name=f"knowledgeBases/{base}", disabled=True)
    mapping.mapping.UpdateKnowledgeBase(pb.UpdateKnowledgeBaseRequest(knowledge_base=off))
    (line,) = resolved(mapping, name).chain[0].knowledge_bases
    assert line.reason == pb.VISIBILITY_REASON_DISABLED
    closed = pb.ChatConfiguration(name=name, disabled=True)
    mapping.mapping.UpdateChatConfiguration(pb.UpdateChatConfigurationRequest(chat_configuration=closed))
    refusal = refused(lambda: mapping.ask("why?", chat=chat))
    assert (refusal.status, refusal.reason) == ("FAILED_PRECONDITION", "FAILED_PRECONDITION")
    assert refusal.metadata == {"resource": name}
    assert resolved(mapping, name).chat_configuration.disabled
