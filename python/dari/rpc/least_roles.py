"""Which role each RPC needs at least, and which RPCs are changes that the audit keeps.

The one table of rights. A test walks the descriptors of all services and fails where an RPC is missing here; what is
missing all the same is for admins alone.
"""

from dataclasses import dataclass

from dari.core.callers import Role


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for one RPC."""

    role: Role
    is_change: bool = False
    is_watch: bool = False
    """Whether it may last for ever, and so outlive the token that it began with: checked again at every message."""


_READ = Rule(Role.READER)
_WATCH = Rule(Role.OPERATOR, is_watch=True)
_OPERATE = Rule(Role.OPERATOR, is_change=True)
_ADMINISTER = Rule(Role.ADMIN, is_change=True)

_RULES = {
    "dari.v1.ChatService": {
        "Chat": _READ,
        "Ask": _READ,
        "GetConversation": _READ,
        "ListConversations": _READ,
        "ListTurns": _READ,
        "DeleteConversation": _OPERATE,
        "ListUpstreams": _READ,
        "WatchUpstreams": _WATCH,
        "DrainUpstream": _OPERATE,
        "ResetUpstream": _OPERATE,
    },
    "dari.v1.IngestService": {
        "Ingest": _OPERATE,
        "GetUpload": _READ,
        "ListUploads": _READ,
        "WatchUpload": _WATCH,
        "CancelUpload": _OPERATE,
        "ListRejectedRows": _READ,
        "ExportRejectedRows": _READ,
        "ExportRows": _READ,
        "GetProfile": _READ,
        "Search": _READ,
    },
    "dari.v1.MappingService": {
        "CreateAiModel": _ADMINISTER,
        "GetAiModel": _READ,
        "ListAiModels": _READ,
        "UpdateAiModel": _ADMINISTER,
        "DeleteAiModel": _ADMINISTER,
        "CreateChatConfiguration": _ADMINISTER,
        "GetChatConfiguration": _READ,
        "ListChatConfigurations": _READ,
        "UpdateChatConfiguration": _ADMINISTER,
        "DeleteChatConfiguration": _ADMINISTER,
        "CreateKnowledgeBase": _ADMINISTER,
        "GetKnowledgeBase": _READ,
        "ListKnowledgeBases": _READ,
        "UpdateKnowledgeBase": _ADMINISTER,
        "DeleteKnowledgeBase": _ADMINISTER,
        "LinkAiModel": _ADMINISTER,
        "UnlinkAiModel": _ADMINISTER,
        "LinkKnowledgeBase": _ADMINISTER,
        "UnlinkKnowledgeBase": _ADMINISTER,
        "GrantKnowledgeBase": _ADMINISTER,
        "RevokeKnowledgeBase": _ADMINISTER,
        "ResolveChatConfiguration": _READ,
        "ListMappings": _READ,
        "SyncKnowledgeBase": _OPERATE,
        "ListSyncs": _READ,
        "CompareVersions": _READ,
    },
    # What a server can do is told to those whom it serves.
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": _READ},
}

RULES = {f"/{service}/{rpc}": rule for service, rpcs in _RULES.items() for rpc, rule in rpcs.items()}
"""By the method's path on the wire."""


def rule_of(method: str) -> Rule:
    """What holds for the RPC at this path."""
    return RULES.get(method, _ADMINISTER)
