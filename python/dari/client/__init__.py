"""What another Python service imports to use dari: one `Client`, its errors, sources and progress of uploads.

    from dari.client import CallFailed, Client
    from dari.v1.ingest_pb2 import UPLOAD_MODE_REPLACE

    with Client("dari.internal:50051") as client:
        receipt = client.ingest("sales.csv", "knowledgeBases/sales", UPLOAD_MODE_REPLACE)
        for event in client.chat("chatConfigurations/support", "Which product sold best?"):
            ...

A server that asks for it gets a token and TLS by `Client(address, access=Access(token=…, tls=True))`.

Messages go in and come out as the generated `dari.v1` classes; nothing is wrapped that the wire says well already.
"""

from dari.client.access import Access
from dari.client.connection import DEFAULT_ADDRESS, Client
from dari.client.decompression import Compression
from dari.client.download import ENDED_STATES
from dari.client.errors import (
    CallFailed,
    CannotReplay,
    FieldViolation,
    SourceAway,
    SourceDamaged,
    SourceUnreadable,
    UploadInterrupted,
)
from dari.client.replay import CHUNK_BYTES, REPLAY_LIMIT_BYTES
from dari.client.source import Source, open_source
from dari.client.upload import Progress

__all__ = [
    "CHUNK_BYTES",
    "DEFAULT_ADDRESS",
    "ENDED_STATES",
    "REPLAY_LIMIT_BYTES",
    "Access",
    "CallFailed",
    "CannotReplay",
    "Client",
    "Compression",
    "FieldViolation",
    "Progress",
    "Source",
    "SourceAway",
    "SourceDamaged",
    "SourceUnreadable",
    "UploadInterrupted",
    "open_source",
]
