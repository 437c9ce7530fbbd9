"""Blocks of code in the documents: what a test runs of them, and how.

A block of `sh` or `python` is run where a comment stands above it: `<!-- test: NAME -->`. The name says with what it is
to be tried: `grpcurl`, `dari`, `python`, and behind a comma `guarded` where the server is to ask who calls; other names
are those of tests that need more than a server (`TRIED_ELSEWHERE`). A line `# prints: TEXT` in a block is a promise,
held against what the block printed.

The documents name the addresses that a server has by default; the test puts its own in their place.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dari.server import Server
from tests.support import grpcurl

ROOT = Path(__file__).parents[2]
ADDRESS, ADMIN_ADDRESS = "127.0.0.1:50051", "127.0.0.1:50052"
_BLOCK = re.compile(r"(?:<!-- test: (?P<marks>[\w, ]+) -->\n)?```(?P<language>sh|python)\n(?P<text>.*?)```", re.DOTALL)
TRIED_HERE = {"grpcurl", "dari", "python"}
TRIED_ELSEWHERE = {
    "cluster": "tests/faults/operation/test_gateway.py",
    "dump": "tests/e2e/test_backup.py",
    "restore": "tests/e2e/test_backup.py",
    "role": "tests/e2e/test_backup.py",
}
"""Marks of blocks that another test runs, and which one."""
_PROMISE = re.compile(r"# prints: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One block of code."""

    language: str
    marks: tuple[str, ...]
    """Empty where it is not run."""
    text: str

    def promises(self) -> list[str]:
        """What it says that it prints."""
        return [promise.strip() for promise in _PROMISE.findall(self.text)]


def blocks_of(document: Path) -> list[Block]:
    """All blocks of a document, in order."""
    return [
        Block(one["language"], tuple(mark.strip() for mark in (one["marks"] or "").split(",") if mark), one["text"])
        for one in _BLOCK.finditer(document.read_text(encoding="utf-8"))
    ]


def run(block: Block, server: Server, folder: Path) -> str:
    """Run a block with this server's addresses in a folder; returns what it printed. Fails where it fails."""
    text = block.text.replace(ADDRESS, server.address).replace(ADMIN_ADDRESS, server.admin_address)
    command = {"sh": ["bash", "-euc"], "python": [sys.executable, "-c"]}[block.language]
    done = subprocess.run(
        [*command, text], cwd=folder, env=_environment(server, folder), capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _environment(server: Server, folder: Path) -> dict[str, str]:
    """Dari and grpcurl are found: the real one, or the stand-in where there is none."""
    programs = [str(Path(sys.executable).parent), os.environ["PATH"]]
    if shutil.which("grpcurl") is None:
        own = folder / ".bin"
        if not own.exists():
            own.mkdir()
            grpcurl.install(own)
        programs.append(str(own))
    return {**os.environ, "PATH": os.pathsep.join(programs), "DARI_ADDRESS": server.address, "NO_COLOR": "1",
            "COLUMNS": "200"}  # fmt: skip
