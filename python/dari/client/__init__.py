"""What another Python service imports to use dari: one `Client`, its errors, and the progress of an upload.

    from dari.client import CallFailed, Client
    from dari.v1.ingest_pb2 import UPLOAD_MODE_REPLACE

    with Client("dari.internal:50051") as client:
        receipt = client.ingest("sales.csv", "knowledgeBases/sales", UPLOAD_MODE_REPLACE)
        for event in client.chat("chatConfigurations/support", "Which product sold best?"):
            ...

Messages go in and come out as the generated `dari.v1` classes; nothing is wrapped that the wire says well already.
"""

from dari.client.connection import DEFAULT_ADDRESS, Client
from dari.client.errors import CallFailed, CannotReplay, FieldViolation, UploadInterrupted
from dari.client.source import CHUNK_BYTES, REPLAY_LIMIT_BYTES
from dari.client.upload import Progress

__all__ = [
    "CHUNK_BYTES",
    "DEFAULT_ADDRESS",
    "REPLAY_LIMIT_BYTES",
    "CallFailed",
    "CannotReplay",
    "Client",
    "FieldViolation",
    "Progress",
    "UploadInterrupted",
]
