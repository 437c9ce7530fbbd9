"""Sends messages to operators by apprise: chat rooms, mailboxes, pagers, each behind a URL.

The URL holds tokens and passwords: it is shown and logged nowhere, and what apprise and its HTTP client log, which
quotes it, is kept from every handler. https://appriseit.com/services/ lists the URLs.
"""

import logging
from collections.abc import Mapping

from apprise import Apprise, AppriseAsset, NotifyBase, NotifyFormat, NotifyType
from pydantic import SecretStr

from dari.core.alerts import Message, Severity

SEND_TIMEOUT_S = 30.0
"""For one message as a whole. Connecting and each read have 4 s, unless the URL says otherwise (cto, rto)."""

_TYPES = {Severity.GOOD: NotifyType.SUCCESS, Severity.WARNING: NotifyType.WARNING, Severity.BAD: NotifyType.FAILURE}
_TELL_ADDRESSES = ("apprise", "urllib3")


class UnknownUrl(Exception):
    """No service fits the URL of this target. The text is the target's name, never the URL."""


class AppriseTarget:
    """A Target. Raises UnknownUrl."""

    def __init__(self, name: str, url: SecretStr) -> None:
        _silence()
        asset = AppriseAsset(service_timeout=SEND_TIMEOUT_S, allow_templates=False)
        asset.app_id = asset.app_desc = "dari"
        asset.async_mode = False
        service = Apprise.instantiate(url.get_secret_value(), asset=asset)
        if not isinstance(service, NotifyBase):
            raise UnknownUrl(name)
        self.name = name
        self._apprise = Apprise(service, asset=asset)

    def send(self, message: Message) -> bool:
        """See Target."""
        result = self._apprise.notify(
            body=message.body, title=message.title, notify_type=_TYPES[message.severity], body_format=NotifyFormat.TEXT
        )
        return bool(result)


def apprise_targets(urls: Mapping[str, SecretStr]) -> tuple[list[AppriseTarget], list[str]]:
    """The targets by these names, and the names of those whose URL fits no service."""
    targets, unknown = [], []
    for name, url in urls.items():
        try:
            targets.append(AppriseTarget(name, url))
        except UnknownUrl:
            unknown.append(name)
    return targets, unknown


def _silence() -> None:
    for name in _TELL_ADDRESSES:
        # By level: a handler may hang on the library's own logger, where `propagate` does not reach.
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
