"""One upload, from a process of its own: the client of `bench.uploads`.

    python -m bench.upload_client ADDRESS PATH KNOWLEDGE_BASE < TOKEN

Says `ready` when all is imported, begins at the next line of standard input, and prints one JSON object: when it began,
when all rows were committed, when they were visible, by the monotonic clock; how many rows there were; and the CPU
seconds of the upload alone, without the start of Python.
"""

import argparse
import json
import sys
import time

from dari.client import Access, Client, Progress
from dari.v1.ingest_pb2 import UPLOAD_MODE_REPLACE


def main() -> None:
    """Upload and print."""
    parser = argparse.ArgumentParser(description="Upload one file.")
    parser.add_argument("address")
    parser.add_argument("path")
    parser.add_argument("knowledge_base")
    options = parser.parse_args()
    token = sys.stdin.readline().strip()
    stored_s = 0.0

    def note(progress: Progress) -> None:
        nonlocal stored_s
        if progress.is_indexing and not stored_s:
            stored_s = time.monotonic()

    with Client(options.address, access=Access(token)) as client:
        print("ready", flush=True)
        sys.stdin.readline()
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        receipt = client.ingest(options.path, options.knowledge_base, UPLOAD_MODE_REPLACE, on_progress=note)
        visible_s = time.monotonic()
    told = {
        "began_s": began_s,
        "stored_s": stored_s or visible_s,
        "visible_s": visible_s,
        "rows": receipt.rows_stored if not receipt.rows_rejected else -1,
        "cpu_s": time.process_time() - began_cpu_s,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
