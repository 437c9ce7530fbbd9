"""The gate before every RPC: the table of rights, the tenant of a call, what is recorded, and TLS."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2

from dari.adapters.watched_files import UnusableFile
from dari.client import Access, CallFailed, Client
from dari.core.callers import Role
from dari.rpc.authentication import resource_names
from dari.rpc.least_roles import RULES, rule_of
from dari.server import Server
from dari.settings import SettingsError, load_settings
from dari.v1 import chat_pb2, ingest_pb2, mapping_pb2
from tests.fix_postgres import PostgresDsns
from tests.fix_server import StartServer, settings_for
from tests.support.credentials import Authority, Pem, TokenHolders, replace_file
from tests.support.event_log import RecordedEvents
from tests.support.every_rpc import Told, call, methods, naming_rpcs, path_of
from tests.support.running_dari import SOON_S, RunningDari, refusal
from tests.support.waiting import until

ACME, OTHER = "acme", "other"


@pytest.fixture
def holders(tmp_path: Path) -> TokenHolders:
    return TokenHolders(tmp_path / "tokens.toml")


@pytest.fixture
def address(start_server: StartServer, holders: TokenHolders) -> str:
    """Of a server that asks who calls."""
    return start_guarded(start_server, holders)


def start_guarded(start_server: StartServer, holders: TokenHolders, **settings: object) -> str:
    return start_server(tokens_file=holders.path, file_check_interval_s=0.02, **settings).server.address


@pytest.fixture
def connect(address: str) -> Iterator[Callable[[str], RunningDari]]:
    """Stubs that bring a token."""
    opened: list[RunningDari] = []

    def connect(token: str) -> RunningDari:
        opened.append(RunningDari(address, Access(token)))
        return opened[-1]

    yield connect
    for dari in opened:
        dari.channel.close()


def records(tmp_path: Path, kind: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "audit" / f"{kind}.jsonl").read_text().splitlines()]


def wait_until_known(dari: RunningDari) -> None:
    """A token that was just written is known within moments."""

    def is_known() -> bool:
        with suppress(grpc.RpcError):
            dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
            return True
        return False

    until(is_known)


# Rights.


def test_every_rpc_of_every_service_has_its_rule_and_every_rule_its_rpc() -> None:
    told = {path_of(method) for method in methods()}
    assert told - set(RULES) == set(), "name the least role of each in rpc/least_roles.py"
    assert {path for path in RULES if path.startswith("/dari.")} == told
    assert rule_of("/dari.v1.ChatService/Unheard") == rule_of("/dari.v1.MappingService/CreateAiModel")


def test_what_changes_the_mapping_is_for_admins_and_what_reads_for_all() -> None:
    """By the words that the names begin with, so that a new RPC does not slip in with a wrong role."""
    least = {
        ("Create", "Update", "Delete", "Link", "Unlink", "Grant", "Revoke"): Role.ADMIN,
        ("Get", "List", "Search", "Export", "Resolve", "Compare", "Chat", "Ask"): Role.READER,
        ("Ingest", "Cancel", "Sync", "Drain", "Reset", "Watch"): Role.OPERATOR,
    }
    for method in methods():
        if method.name == "DeleteConversation":
            continue
        (role,) = (role for words, role in least.items() if method.name.startswith(words))
        rule = rule_of(path_of(method))
        assert rule.role is role, method.name
        assert rule.is_change is (role is not Role.READER and not method.name.startswith("Watch")), method.name


def test_each_role_may_call_what_it_may_and_nothing_more(
    address: str, holders: TokenHolders, connect: Callable[[str], RunningDari], tmp_path: Path
) -> None:
    """Every RPC by every role; each refusal names the role that is needed, and stands in the audit."""
    callers = {role: connect(holders.add(ACME, role)) for role in Role}
    for dari in callers.values():
        wait_until_known(dari)
    refused = []
    for method in methods():
        needed = rule_of(path_of(method)).role
        for role, dari in callers.items():
            told = call(dari.channel, method).refusal
            if role >= needed:
                assert told is None or told.status not in ("PERMISSION_DENIED", "UNAUTHENTICATED"), method.full_name
                continue
            refused.append((path_of(method)[1:], role.label))
            assert told is not None
            assert (told.status, told.reason) == ("PERMISSION_DENIED", "PERMISSION_DENIED")
            assert told.metadata == {"required_role": needed.label, "role": role.label}
    recorded = [each for each in records(tmp_path, "refusals") if each["status"] == "PERMISSION_DENIED"]
    assert [(each["rpc"], each["role"]) for each in recorded] == refused


def test_reflection_is_for_callers_alone(
    address: str, holders: TokenHolders, connect: Callable[[str], RunningDari]
) -> None:
    known = connect(holders.add(ACME, Role.READER))
    wait_until_known(known)
    assert "dari.v1.ChatService" in _reflected(known.channel)
    with pytest.raises(grpc.RpcError) as caught:
        _reflected(connect("").channel)
    assert refusal(caught.value).status == "UNAUTHENTICATED"


def _reflected(channel: grpc.Channel) -> list[str]:
    ask: Any = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    answers = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=SOON_S)
    return [service.name for answer in answers for service in answer.list_services_response.service]


# The tenant.


def test_two_tenants_have_the_same_ids_and_see_nothing_of_each_other(
    holders: TokenHolders, connect: Callable[[str], RunningDari]
) -> None:
    """Rows, uploads, models, links, upstreams."""
    of_acme, of_other = (connect(holders.add(tenant, Role.ADMIN)) for tenant in (ACME, OTHER))
    for dari, word in ((of_acme, "apple"), (of_other, "banana")):
        wait_until_known(dari)
        dari.make_knowledge_base("kb", f"id,word\n1,{word} secret\n")
        dari.make_local("model")
        dari.make_chat("chat", "model", over=("kb",))
        hits = dari.ingest.Search(ingest_pb2.SearchRequest(knowledge_bases=["knowledgeBases/kb"], query="secret")).hits
        assert [[cell.text for cell in hit.cells] for hit in hits] == [["1", f"{word} secret"]]
        exported = b"".join(
            each.data
            for each in dari.ingest.ExportRows(ingest_pb2.ExportRowsRequest(knowledge_base="knowledgeBases/kb"))
        )
        assert exported == f"id,word\n1,{word} secret\n".encode()
        dari.ask("secret?", chat="chat")
    assert len(of_other.ingest.ListUploads(ingest_pb2.ListUploadsRequest()).uploads) == 1
    assert len(of_other.chat.ListConversations(chat_pb2.ListConversationsRequest()).conversations) == 1
    of_acme.mapping.DeleteChatConfiguration(
        mapping_pb2.DeleteChatConfigurationRequest(name="chatConfigurations/chat", force=True)
    )
    assert of_other.mapping.ListMappings(mapping_pb2.ListMappingsRequest()).mappings
    of_acme.chat.DrainUpstream(chat_pb2.DrainUpstreamRequest(ai_model="aiModels/model"))
    assert [_circuit(dari) for dari in (of_acme, of_other)] == ["CIRCUIT_STATE_DRAINED", "CIRCUIT_STATE_CLOSED"]


def _circuit(dari: RunningDari) -> str:
    (upstream,) = dari.chat.ListUpstreams(chat_pb2.ListUpstreamsRequest()).upstreams
    return chat_pb2.CircuitState.Name(upstream.circuit_state)


ONE_ID = (("x-request-id", "one-id"),)
"""Comes back with every answer."""


def test_not_yours_and_not_there_are_the_same_answer_to_the_byte(
    holders: TokenHolders, connect: Callable[[str], RunningDari]
) -> None:
    """For every name that any RPC takes; but for the name itself, which is the caller's own word."""
    owner, stranger = (connect(holders.add(tenant, Role.ADMIN)) for tenant in (ACME, OTHER))
    wait_until_known(owner)
    wait_until_known(stranger)
    theirs, own = make_one_of_each(owner, "theirs"), make_one_of_each(stranger, "myself")
    missing = {collection: _missing_like(name) for collection, name in theirs.items()}
    refused = set()
    for rpc in naming_rpcs():
        for collection in sorted(rpc.collections):
            not_yours = call(stranger.channel, rpc.method, rpc.request({**own, collection: theirs[collection]}), ONE_ID)
            not_there = call(
                stranger.channel, rpc.method, rpc.request({**own, collection: missing[collection]}), ONE_ID
            )
            where = f"{rpc.method.full_name} {collection}"
            assert _bare(not_yours, theirs[collection]) == _bare(not_there, missing[collection]), where
            if not_there.refusal is not None:
                assert not_there.refusal.status == "NOT_FOUND", where
                refused.add(rpc.method.name)
    # Lists of what belongs to something that is not there are empty.
    lists = {"ListMappings", "ListUploads", "ListConversations", "ListSyncs"}
    assert {rpc.method.name for rpc in naming_rpcs()} - refused <= lists
    assert make_one_of_each(owner, "after") != theirs, "the owner has everything still"


def make_one_of_each(dari: RunningDari, id: str) -> dict[str, str]:
    """Its name, by collection."""
    dari.make_knowledge_base(id, "id\n1\n")
    dari.make_local(id)
    dari.make_chat(id, id, over=(id,))
    turn = dari.ask("1", chat=id)
    newest = dari.ingest.ListUploads(ingest_pb2.ListUploadsRequest(page_size=1)).uploads[0]
    return {
        "knowledgeBases": f"knowledgeBases/{id}",
        "aiModels": f"aiModels/{id}",
        "chatConfigurations": f"chatConfigurations/{id}",
        "uploads": newest.name,
        "conversations": turn.name.partition("/turns/")[0],
    }


def _missing_like(name: str) -> str:
    """A name of the same length that nothing has."""
    return name[:-4] + ("0000" if not name.endswith("0000") else "1111")


def _bare(told: Told, name: str) -> tuple[object, ...]:
    """All that a caller gets, to the last byte of the trailers, with the name taken out."""
    if told.refusal is None:
        return (told.message.replace(name.encode(), b"NAME"),)
    trailers = [(key, value if isinstance(value, bytes) else value.encode()) for key, value in told.refusal.trailers]
    return (
        told.refusal.status,
        told.refusal.message.replace(name, "NAME"),
        [(key, value.replace(name.encode(), b"NAME")) for key, value in trailers],
    )


# Tokens that change.


def test_a_token_is_taken_from_the_moment_it_is_written_until_it_is_revoked(
    holders: TokenHolders, connect: Callable[[str], RunningDari]
) -> None:
    """Without a restart; and a file that is broken in between changes nothing."""
    token = holders.add(ACME, Role.READER)
    dari = connect(token)
    wait_until_known(dari)
    holders.revoke(token)
    until(lambda: _code(dari) == "token_unknown")


@pytest.mark.parametrize("change", ["revoked", "another role"])
def test_a_watcher_sees_nothing_more_once_its_token_is_revoked(
    holders: TokenHolders, connect: Callable[[str], RunningDari], change: str
) -> None:
    """Its stream could last for ever. With another role its caller is another, and comes again."""
    admin, token = connect(holders.add(ACME, Role.ADMIN)), holders.add(ACME, Role.OPERATOR)
    watcher = connect(token)
    wait_until_known(watcher)
    make_one_of_each(admin, "one")
    watched: Any = watcher.chat.WatchUpstreams(chat_pb2.WatchUpstreamsRequest(), timeout=SOON_S)
    assert len(next(watched).upstreams) == 1
    if change == "revoked":
        holders.revoke(token)
        until(lambda: _code(watcher) == "token_unknown")
    else:
        holders.change_role(token, Role.OPERATOR, Role.READER)
        until(lambda: _is_denied(watcher))
    admin.chat.DrainUpstream(chat_pb2.DrainUpstreamRequest(ai_model="aiModels/one"))
    with pytest.raises(grpc.RpcError) as caught:
        next(watched)
    assert refusal(caught.value).status == "UNAUTHENTICATED"


def _is_denied(dari: RunningDari) -> bool:
    try:
        dari.chat.DrainUpstream(chat_pb2.DrainUpstreamRequest(ai_model="aiModels/none"))
    except grpc.RpcError as error:
        return refusal(error).status == "PERMISSION_DENIED"
    return False


def test_a_broken_tokens_file_keeps_the_former(database: PostgresDsns, holders: TokenHolders, tmp_path: Path) -> None:
    token = holders.add(ACME, Role.READER)
    settings = load_settings(**settings_for(database, tmp_path), tokens_file=holders.path, file_check_interval_s=0.02)
    with Server(settings, events := RecordedEvents()) as server, RunningDari(server.address, Access(token)) as dari:
        replace_file(holders.path, b"[[token]]\nname = 7\n")
        assert events.wait_for("file_not_reloaded", 1, SOON_S)
        assert _code(dari) == ""
    assert token not in str(events.fields("file_not_reloaded"))


def _code(dari: RunningDari) -> str:
    """Of the refusal; empty where there is none."""
    try:
        dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
    except grpc.RpcError as error:
        return refusal(error).metadata["code"]
    return ""


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic YTpi", "token", "bearertoken", "Bearer a, Bearer b"])
def test_an_authorization_of_another_form_is_refused(address: str, value: str) -> None:
    with RunningDari(address) as dari, pytest.raises(grpc.RpcError) as caught:
        dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest(), metadata=(("authorization", value),))
    told = refusal(caught.value)
    assert (told.status, told.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    assert told.metadata["code"] in ("authorization_malformed", "token_unknown")


def test_two_authorizations_are_refused_even_where_one_holds(address: str, holders: TokenHolders) -> None:
    """A gateway and a server might take another one of them each."""
    token = holders.add(ACME, Role.READER)
    header = ("authorization", f"Bearer {token}")
    with RunningDari(address, Access(token)) as dari:
        wait_until_known(dari)
        with pytest.raises(grpc.RpcError) as caught:
            dari.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest(), metadata=(header,))
    assert refusal(caught.value).metadata == {"code": "authorization_malformed"}


# The audit.


def test_every_change_is_recorded_with_who_what_and_how_it_ended(
    holders: TokenHolders, connect: Callable[[str], RunningDari], tmp_path: Path
) -> None:
    """Before and after; the names of an upload stand in its second record, since they come in its stream."""
    dari = connect(token := holders.add(ACME, Role.ADMIN))
    wait_until_known(dari)
    dari.mapping.CreateKnowledgeBase(
        mapping_pb2.CreateKnowledgeBaseRequest(
            knowledge_base_id="sales", knowledge_base=mapping_pb2.KnowledgeBase(description="canary-4711")
        ),
        metadata=(("x-request-id", "from-the-gateway"),),
    )
    dari.upload("sales", "name\ncanary-4711\n")
    with pytest.raises(grpc.RpcError):
        dari.link_base("missing", "sales")
    told = records(tmp_path, "changes")
    assert [
        (each["event"], each["rpc"].rpartition("/")[2], each.get("status"), each["resources"]) for each in told
    ] == [
        ("begun", "CreateKnowledgeBase", None, ["knowledgeBases/sales"]),
        ("ended", "CreateKnowledgeBase", "OK", ["knowledgeBases/sales"]),
        ("begun", "Ingest", None, []),
        ("ended", "Ingest", "OK", ["knowledgeBases/sales", told[3]["resources"][1]]),
        ("begun", "LinkKnowledgeBase", None, ["chatConfigurations/missing", "knowledgeBases/sales"]),
        ("ended", "LinkKnowledgeBase", "NOT_FOUND", ["chatConfigurations/missing", "knowledgeBases/sales"]),
    ]
    assert told[3]["resources"][1].startswith("uploads/")
    assert {(each["caller"], each["tenant"], each["role"]) for each in told} == {("admin of acme", ACME, "admin")}
    assert told[0]["request_id"] == told[1]["request_id"] == "from-the-gateway"
    assert told[2]["request_id"] == told[3]["request_id"] != told[4]["request_id"]
    assert all(each["peer"].startswith("ipv4:127.0.0.1:") for each in told)
    text = json.dumps(told)
    assert "canary" not in text
    assert token not in text


def test_a_stream_that_its_caller_leaves_is_recorded_as_cancelled(
    holders: TokenHolders, connect: Callable[[str], RunningDari], tmp_path: Path
) -> None:
    dari = connect(holders.add(ACME, Role.OPERATOR))
    wait_until_known(dari)
    messages = iter([ingest_pb2.IngestRequest(open=ingest_pb2.OpenUpload(upload_id="u"))])
    stream = cast(Any, dari.ingest.Ingest(messages))
    with suppress(grpc.RpcError):
        next(stream)
    stream.cancel()
    until(lambda: [each["event"] for each in records(tmp_path, "changes")] == ["begun", "ended"])
    assert records(tmp_path, "changes")[1]["status"] in ("CANCELLED", "INVALID_ARGUMENT")


def test_a_change_that_cannot_be_recorded_is_not_made_and_reads_go_on(
    holders: TokenHolders, connect: Callable[[str], RunningDari], monkeypatch: pytest.MonkeyPatch
) -> None:
    dari = connect(holders.add(ACME, Role.ADMIN))
    wait_until_known(dari)

    def full(self: object, line: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("dari.adapters.audit_files._NumberedFile._write", full)
        with pytest.raises(grpc.RpcError) as caught:
            dari.make_knowledge_base("sales")
        told = refusal(caught.value)
        assert (told.status, told.metadata) == ("UNAVAILABLE", {"neighbour": "audit_log"})
        assert not dari.mapping.ListKnowledgeBases(mapping_pb2.ListKnowledgeBasesRequest()).knowledge_bases
    dari.make_knowledge_base("sales")


NAMED: list[tuple[Message, list[str]]] = [
    (mapping_pb2.DeleteAiModelRequest(name="aiModels/a"), ["aiModels/a"]),
    (
        mapping_pb2.UpdateAiModelRequest(ai_model=mapping_pb2.AiModel(name="aiModels/a", display_name="b/c")),
        ["aiModels/a"],
    ),
    (
        mapping_pb2.GrantKnowledgeBaseRequest(ai_model="aiModels/a", knowledge_base="knowledgeBases/b"),
        ["aiModels/a", "knowledgeBases/b"],
    ),
    (
        ingest_pb2.SearchRequest(knowledge_bases=["knowledgeBases/a", "a secret text"], query="x/y"),
        ["knowledgeBases/a"],
    ),
    (chat_pb2.AskRequest(chat_configuration="who is ann?", question="chatConfigurations/q"), []),
    (mapping_pb2.CreateAiModelRequest(ai_model_id="a b"), []),
]


@pytest.mark.parametrize(("message", "expected"), NAMED)
def test_names_are_recorded_and_what_is_not_in_the_form_of_one_is_not(message: Message, expected: list[str]) -> None:
    assert list(resource_names(message)) == expected


# TLS.


@pytest.fixture
def authority() -> Authority:
    return Authority()


def put_pem(folder: Path, pem: Pem) -> dict[str, object]:
    """The settings of a server with this certificate."""
    for name, content in (("tls.crt", pem.certificate), ("tls.key", pem.key)):
        replace_file(folder / name, content)
    return {"tls_certificate_file": folder / "tls.crt", "tls_key_file": folder / "tls.key"}


def test_a_server_with_a_certificate_speaks_tls_alone(
    start_server: StartServer, holders: TokenHolders, authority: Authority, tmp_path: Path
) -> None:
    token = holders.add(ACME, Role.READER)
    address = start_guarded(start_server, holders, **put_pem(tmp_path, authority.issue("dari")))
    assert _lists(address, Access(token, authorities=authority.pem))
    assert not _lists(address, Access(token))
    assert not _lists(address, Access(token, authorities=Authority("another").pem))


def test_an_exchanged_certificate_is_served_without_a_restart(
    start_server: StartServer, holders: TokenHolders, authority: Authority, tmp_path: Path
) -> None:
    """Also while its files do not fit each other for a moment."""
    token = holders.add(ACME, Role.READER)
    address = start_guarded(start_server, holders, **put_pem(tmp_path, authority.issue("dari")))
    new_authority = Authority("new")
    pem = new_authority.issue("dari")
    replace_file(tmp_path / "tls.crt", pem.certificate)
    assert _lists(address, Access(token, authorities=authority.pem))
    replace_file(tmp_path / "tls.key", pem.key)
    until(lambda: _lists(address, Access(token, authorities=new_authority.pem)))
    assert not _lists(address, Access(token, authorities=authority.pem))


def test_a_client_certificate_names_a_caller(
    start_server: StartServer, holders: TokenHolders, authority: Authority, tmp_path: Path
) -> None:
    """One of another authority does not reach the gate; one without an entry does not pass it."""
    holders.add_certificate(ACME, Role.READER, "loader.internal")
    clients = Authority("clients")
    (tmp_path / "clients.pem").write_bytes(clients.pem)
    tls = put_pem(tmp_path, authority.issue("dari"))
    address = start_guarded(start_server, holders, tls_client_ca_file=tmp_path / "clients.pem", **tls)
    told = {
        name: _failure(address, Access(authorities=authority.pem, certificate=pem.certificate, key=pem.key))
        for name, pem in {
            "known": clients.issue("loader.internal"),
            "unknown": clients.issue("stranger.internal"),
            "of another authority": Authority("clients").issue("loader.internal"),
        }.items()
    }
    assert told["known"] is None
    assert told["unknown"] is not None
    assert told["unknown"].metadata == {"code": "certificate_unknown"}
    assert told["of another authority"] is not None
    assert told["of another authority"].code is grpc.StatusCode.UNAVAILABLE


def _lists(address: str, access: Access) -> bool:
    return _failure(address, access) is None


def _failure(address: str, access: Access) -> CallFailed | None:
    try:
        with Client(address, access=access, timeout_s=SOON_S) as client:
            client.mapping.ListAiModels(mapping_pb2.ListAiModelsRequest())
    except CallFailed as error:
        return error
    return None


# What keeps a server from starting.

OPEN = {"listen_address": "0.0.0.0:0"}
FILES = {"tls_certificate_file": "c.pem", "tls_key_file": "k.pem"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (OPEN, ("tokens_file", "tls_certificate_file")),
        ({"listen_address": "dari.internal:1"}, ("tokens_file", "tls_certificate_file")),
        ({**OPEN, **FILES}, ("tokens_file",)),
        ({**OPEN, "tokens_file": "t.toml"}, ("plaintext_listen_allowed",)),
        ({**OPEN, "plaintext_listen_allowed": True}, ("tokens_file",)),
        ({"tls_key_file": "k.pem"}, ("tls_certificate_file",)),
        ({"tls_client_ca_file": "c.pem"}, ("tls_certificate_file",)),
        ({"jwt_keys_file": "k.json"}, ("jwt_issuer", "jwt_audience")),
        ({"jwt_keys_url": "http://issuer.example/keys", "jwt_issuer": "i", "jwt_audience": "a"}, ("https",)),
        (
            {"jwt_keys_url": "https://i/k", "jwt_keys_file": "k", "jwt_issuer": "i", "jwt_audience": "a"},
            ("exclude each other",),
        ),
    ],
)
def test_a_server_that_would_be_open_is_told_what_to_set(settings: dict[str, Any], named: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(**settings)
    for name in named:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"listen_address": "127.0.0.1:0"},
        {"listen_address": "[::1]:0"},
        {"listen_address": "localhost:0"},
        {**OPEN, **FILES, "tokens_file": "t.toml"},
        {**OPEN, "tokens_file": "t.toml", "plaintext_listen_allowed": True},
        {**OPEN, **FILES, "jwt_keys_url": "https://issuer.example/keys", "jwt_issuer": "i", "jwt_audience": "a"},
    ],
)
def test_a_server_that_is_guarded_or_alone_may_start(settings: dict[str, Any]) -> None:
    load_settings(**settings)


def test_files_that_cannot_be_used_keep_a_server_from_starting(database: PostgresDsns, tmp_path: Path) -> None:
    """Before anything else is opened."""
    (tmp_path / "wrong").write_text("[[token]]\n")
    for settings in (
        {"tokens_file": tmp_path / "wrong"},
        {"tokens_file": tmp_path / "missing"},
        {"tls_certificate_file": tmp_path / "wrong", "tls_key_file": tmp_path / "wrong"},
        {"audit_dir": tmp_path / "wrong" / "audit"},
    ):
        with pytest.raises(UnusableFile):
            Server(load_settings(**{**settings_for(database, tmp_path), **settings}), RecordedEvents()).start()
