"""The targets of messages to operators: whether their URLs can be used. `dari notify test` sends to them."""

from collections.abc import Iterator

from dari.doctor.findings import Finding, failed, ok
from dari.settings import Settings


def look_at_notifications(settings: Settings) -> Iterator[Finding]:
    """Each by its name alone: the URL is a secret."""
    if not settings.notify_urls:
        yield ok("notify_urls", "none is set: failures are told in the log alone")
        return
    from dari.adapters.notifier import apprise_targets

    targets, unknown = apprise_targets(settings.notify_urls)
    for target in targets:
        yield ok(f"notify_urls.{target.name}", "can be used")
    for name in unknown:
        remedy = "Correct it: https://appriseit.com/services/ has the forms."
        yield failed(f"notify_urls.{name}", "its URL fits no service of apprise", remedy)
