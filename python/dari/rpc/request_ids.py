"""The id under which one call is found everywhere: in the caller's log and the gateway's, in ours, and in the audit.

It comes as `x-request-id`, which Envoy sets, and goes back under the same name behind the last message. Not before the
first one: a gateway retries no call, and blames no server, once initial metadata have come.
"""

import re
import uuid
from collections.abc import Iterable

KEY = "x-request-id"
_FIT = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The caller's, or their gateway's; a new one where they send none that is fit for a record."""
    for key, value in metadata:
        if key == KEY:
            return value if isinstance(value, str) and _FIT.fullmatch(value) else _new_id()
    return _new_id()


def _new_id() -> str:
    return str(uuid.uuid4())
