"""Follows an upload as it moves."""

from collections.abc import Callable, Iterator

from dari.core.uploads import ENDED, Upload


def watch_upload(read: Callable[[], Upload], looks: Iterator[None]) -> Iterator[Upload]:
    """The upload at the first look, then whenever it has changed, until it has ended or `looks` has.

    Raises what `read` does, NotFound also where it is deleted meanwhile, and what `looks` does.
    """
    told: Upload | None = None
    for _ in looks:
        upload = read()
        if upload != told:
            yield upload
            told = upload
        if upload.state in ENDED:
            return
