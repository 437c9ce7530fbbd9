"""An http server of one file in a process of its own, which counts the bytes of every request and response.

    python -m bench.sync_file_server FILE                   with an ETag
    python -m bench.sync_file_server FILE --no-validators   without anything that tells whether the file changed

Its first line on stdout is its URL. `GET /counts` tells what passed so far, as JSON, and is not counted itself.
"""

import argparse
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, cast

_PIECE_BYTES = 256 * 1024


class Counts:
    """What passed the wire above TCP. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told = {"requests": 0, "received_bytes": 0, "sent_bytes": 0}

    def add(self, name: str, count: int) -> None:
        with self._lock:
            self._told[name] += count

    def told(self) -> bytes:
        with self._lock:
            return json.dumps(self._told).encode()


class Counted:
    """A file of a socket that counts what passes it."""

    def __init__(self, file: Any, counts: Counts) -> None:
        self._file = file
        self._counts = counts

    def readline(self, size: int = -1) -> bytes:
        line = cast(bytes, self._file.readline(size))
        self._counts.add("received_bytes", len(line))
        return line

    def write(self, piece: bytes) -> int:
        self._counts.add("sent_bytes", len(piece))
        return cast(int, self._file.write(piece))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def handler_of(path: Path, counts: Counts, *, has_validators: bool) -> type[BaseHTTPRequestHandler]:
    """Serves the file, with or without an ETag of its size and time."""
    state = path.stat()
    etag = f'"{state.st_size:x}-{state.st_mtime_ns:x}"' if has_validators else None

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.uncounted = self.wfile
            self.rfile = cast(Any, Counted(self.rfile, counts))
            self.wfile = cast(Any, Counted(self.wfile, counts))

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(state.st_size))
            if etag is not None:
                self.send_header("ETag", etag)
            self.end_headers()

        def do_GET(self) -> None:
            if self.path == "/counts":
                self._tell()
                return
            counts.add("requests", 1)
            if etag is not None and self.headers.get("If-None-Match") == etag:
                self.send_response(304)
                self.send_header("ETag", etag)
                self.end_headers()
                return
            self.do_HEAD()
            with path.open("rb") as file:
                shutil.copyfileobj(file, cast(BinaryIO, self.wfile), _PIECE_BYTES)

        def _tell(self) -> None:
            # What asks for the counts was counted as it came in.
            asked_bytes = len(cast(Any, self).raw_requestline) + len(str(self.headers).replace("\n", "\r\n"))
            counts.add("received_bytes", -asked_bytes)
            told = counts.told()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(told)}\r\nConnection: close\r\n\r\n"
            self.uncounted.write(head.encode() + told)
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description="Serve one file and count.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--no-validators", action="store_true")
    options = parser.parse_args()
    handler = handler_of(options.file, Counts(), has_validators=not options.no_validators)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    print(f"http://127.0.0.1:{server.server_port}/{options.file.name}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
