"""A MappingService that keeps what it is sent, every field of the wire, with etags: what a whole server does.

Without rules of its own: a refusal comes only for a stale etag and for what is not there.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any

import grpc

from dari.v1 import mapping_pb2 as wire
from dari.v1 import mapping_pb2_grpc

_KINDS = {
    "AiModel": ("aiModels", "ai_model"),
    "ChatConfiguration": ("chatConfigurations", "chat_configuration"),
    "KnowledgeBase": ("knowledgeBases", "knowledge_base"),
}
_LINKS = {
    "LinkAiModel": ("ai_model_link", wire.AiModelLink),
    "LinkKnowledgeBase": ("knowledge_base_link", wire.KnowledgeBaseLink),
    "GrantKnowledgeBase": ("knowledge_base_grant", wire.KnowledgeBaseGrant),
}
_UNDONE_BY = {
    "UnlinkAiModel": "ai_model_link",
    "UnlinkKnowledgeBase": "knowledge_base_link",
    "RevokeKnowledgeBase": "knowledge_base_grant",
}


class RememberedMapping:
    """The resources by name, the links by both ends, and the calls that changed them. One thread serves."""

    def __init__(self) -> None:
        self.resources: dict[str, Any] = {}
        self.links: dict[tuple[str, ...], wire.Mapping] = {}
        self.changes: list[str] = []
        """Names of the calls that changed something, in order."""
        self.page_size = 2
        self._etags = count(1)

    def __getattr__(self, name: str) -> Any:
        """The handler of a method."""
        if name in _LINKS:
            return lambda request, context: self._link(name, request)
        if name in _UNDONE_BY:
            return lambda request, context: self._unlink(name, request)
        if name == "ListMappings":
            return lambda request, context: self._list_links(request)
        verb = next((verb for verb in ("Create", "Get", "Update", "Delete", "List") if name.startswith(verb)), "")
        kind = name.removeprefix(verb).removesuffix("s") if verb == "List" else name.removeprefix(verb)
        if kind not in _KINDS:
            return lambda request, context: context.abort(grpc.StatusCode.UNIMPLEMENTED, name)
        return lambda request, context: getattr(self, f"_{verb.lower()}")(kind, request, context)

    def _create(self, kind: str, request: Any, context: grpc.ServicerContext) -> Any:
        collection, field = _KINDS[kind]
        name = f"{collection}/{getattr(request, f'{field}_id')}"
        made = type(getattr(request, field))()
        made.CopyFrom(getattr(request, field))
        made.name, made.etag = name, str(next(self._etags))
        self.resources[name] = made
        self.changes.append(f"Create{kind}")
        return getattr(wire, f"Create{kind}Response")(**{field: made})

    def _list(self, kind: str, request: Any, context: grpc.ServicerContext) -> Any:
        collection, field = _KINDS[kind]
        names = sorted(name for name in self.resources if name.startswith(f"{collection}/"))
        page, token = self._page(names, request.page_token)
        found = {f"{field}s": [self.resources[name] for name in page]}
        return getattr(wire, f"List{kind}sResponse")(**found, next_page_token=token)

    def _update(self, kind: str, request: Any, context: grpc.ServicerContext) -> Any:
        field = _KINDS[kind][1]
        new = getattr(request, field)
        held = self._current(new.name, new.etag, context)
        assert request.update_mask.IsValidForDescriptor(held.DESCRIPTOR), request.update_mask
        for path in request.update_mask.paths:
            held.ClearField(path)
        request.update_mask.MergeMessage(new, held, replace_message_field=True)
        held.etag = str(next(self._etags))
        self.changes.append(f"Update{kind}")
        return getattr(wire, f"Update{kind}Response")(**{field: held})

    def _delete(self, kind: str, request: Any, context: grpc.ServicerContext) -> Any:
        self._current(request.name, request.etag, context)
        if any(request.name in ends for ends in self.links):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "still linked")
        del self.resources[request.name]
        self.changes.append(f"Delete{kind}")
        return getattr(wire, f"Delete{kind}Response")()

    def _current(self, name: str, etag: str, context: grpc.ServicerContext) -> Any:
        if name not in self.resources:
            context.abort(grpc.StatusCode.NOT_FOUND, name)
        if etag != self.resources[name].etag:
            context.abort(grpc.StatusCode.ABORTED, "etag")
        return self.resources[name]

    def _link(self, method: str, request: Any) -> Any:
        field, kind = _LINKS[method]
        link = kind(**{one.name: value for one, value in request.ListFields()})
        self.links[field, *_ends(request)] = wire.Mapping(**{field: link})
        self.changes.append(method)
        return getattr(wire, f"{method}Response")()

    def _unlink(self, method: str, request: Any) -> Any:
        self.links.pop((_UNDONE_BY[method], *_ends(request)), None)
        self.changes.append(method)
        return getattr(wire, f"{method}Response")()

    def _list_links(self, request: wire.ListMappingsRequest) -> wire.ListMappingsResponse:
        page, token = self._page(sorted(self.links), request.page_token)
        return wire.ListMappingsResponse(mappings=[self.links[key] for key in page], next_page_token=token)

    def _page(self, keys: list[Any], token: str) -> tuple[list[Any], str]:
        begin = int(token or 0)
        end = begin + self.page_size
        return keys[begin:end], str(end) if end < len(keys) else ""


def _ends(request: Any) -> tuple[str, ...]:
    fields = ("chat_configuration", "ai_model", "knowledge_base")
    return tuple(getattr(request, field) for field in fields if field in request.DESCRIPTOR.fields_by_name)


@contextmanager
def serving(mapping: RememberedMapping) -> Iterator[str]:
    """Serve it; gives the address."""
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    mapping_pb2_grpc.add_MappingServiceServicer_to_server(mapping, server)  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
