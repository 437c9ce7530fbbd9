"""What a chat may use, also while the database is gone: then as it was known last.

While the database does not answer, each look at it costs its whole timeout. So it has a circuit like any neighbour: for
a moment after a failure nobody looks, and everyone has the last known mapping at once.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from dari.core.circuit import Circuit, call_through
from dari.core.errors import NotFound, Unavailable
from dari.core.mapping import ChatMapping, LinkStore

MAX_KNOWN = 1_000
"""Chat configurations remembered; the one asked for longest ago is forgotten first."""


@dataclass(frozen=True, slots=True)
class KnownChat:
    """A chat configuration with all that hangs on it."""

    mapping: ChatMapping
    is_current: bool
    """Whether the database said so just now; if not, no data can be read either."""


class LastKnownChats:
    """Reads chat configurations, and remembers them. Thread-safe."""

    def __init__(self, links: LinkStore, circuit: Circuit) -> None:
        self._links = links
        self._circuit = circuit
        self._lock = threading.Lock()  # guards _known
        self._known: OrderedDict[tuple[str, str], ChatMapping] = OrderedDict()

    def read(self, tenant: str, chat_configuration: str) -> KnownChat:
        """As it is, or as it was known last. Raises NotFound; Unavailable where it was never known here."""
        key = (tenant, chat_configuration)
        try:
            mapping = call_through(self._circuit, "database", lambda: self._links.read_chat(tenant, chat_configuration))
        except NotFound:
            with self._lock:
                self._known.pop(key, None)
            raise
        except Unavailable:
            with self._lock:
                known = self._known.get(key)
            if known is None:
                raise
            return KnownChat(known, is_current=False)
        with self._lock:
            self._known[key] = mapping
            self._known.move_to_end(key)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return KnownChat(mapping, is_current=True)
