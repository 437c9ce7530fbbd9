"""The stranger's road: the README's own lines, run against a real server, and stubs that a stranger makes anew."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dari.server import Server
from dari.settings import load_settings
from tests.e2e.documents import ROOT, Block, blocks_of, run
from tests.fix_postgres import PostgresDsns


def blocks(*, containing: str = "", mark: str | None = None) -> list[Block]:
    """The README's code, by what it holds or by the comment above it."""
    found = [
        block
        for block in blocks_of(ROOT / "README.md")
        if containing in block.text and (mark is None or mark in block.marks)
    ]
    assert found, "the README has lost the lines that this test runs"
    return found


@pytest.fixture
def server(database: PostgresDsns) -> Iterator[Server]:
    settings = load_settings(
        listen_address="127.0.0.1:0",
        admin_address="127.0.0.1:0",
        metrics_address="",
        database_dsn=database.service_dsn,
        local_model=None,
    )
    with Server(settings) as server:
        yield server


def make_chatbot(server: Server, folder: Path) -> None:
    """The README's mapping."""
    (block,) = blocks(containing="dari map kb create airports")
    text = block.text.replace('export PATH="$PWD/.venv/bin:$PATH"\n', "")
    run(Block(block.language, block.marks, text), server, folder)


def test_the_python_examples_chat_and_ingest(server: Server, tmp_path: Path) -> None:
    make_chatbot(server, tmp_path)
    (tmp_path / "more-airports.csv").write_text("faa,name\nGMP,김포\nICN,인천\n")
    chat, ingest = blocks(mark="python")
    assert "2 rows stored, 0 rejected, version 1" in run(ingest, server, tmp_path)
    answer = run(chat, server, tmp_path)
    assert "GMP" in answer
    assert "answered by ANSWERER_ROWS_ONLY degraded: True" in answer


def test_the_grpcurl_examples_do_what_the_readme_says(server: Server, tmp_path: Path) -> None:
    make_chatbot(server, tmp_path)
    first, when_something_breaks = blocks(mark="grpcurl")
    printed = run(first, server, tmp_path)
    for expected in ("dari.v1.ChatService", "rpc Ingest", "김포", "La Guardia", '"SERVING"'):
        assert expected in printed
    # Some versions of grpcurl print the fields' JSON names, some those of the proto file.
    assert re.search(r'"rows_?[sS]tored": "2"', printed)
    printed = run(when_something_breaks, server, tmp_path)
    for expected in ("CIRCUIT_STATE_DRAINED", "NOTICE_KIND_ROWS_ONLY", "지금은 답변할 수 있는 AI 모델이 없어"):
        assert expected in printed


STRANGER = """
import os, sys
# A stranger has no dari: a package of this name would stand before the fresh stubs, which have no __init__.py.
sys.path = [{stubs!r}, *(path for path in sys.path if not os.path.exists(os.path.join(path, "dari", "__init__.py")))]
import grpc
from dari.v1 import chat_pb2, chat_pb2_grpc, error_reason_pb2, ingest_pb2, ingest_pb2_grpc
from dari.v1 import mapping_pb2, mapping_pb2_grpc

assert chat_pb2.__file__.startswith({stubs!r})
with grpc.insecure_channel({address!r}) as channel:
    mapping = mapping_pb2_grpc.MappingServiceStub(channel)
    mapping.CreateKnowledgeBase(mapping_pb2.CreateKnowledgeBaseRequest(
        knowledge_base_id="notes", knowledge_base=mapping_pb2.KnowledgeBase()))
    data = "k,v\\n1,하나\\n2,둘\\n".encode()
    requests = [
        ingest_pb2.IngestRequest(open=ingest_pb2.OpenUpload(
            knowledge_base="knowledgeBases/notes", upload_id="u", mode=ingest_pb2.UPLOAD_MODE_REPLACE)),
        ingest_pb2.IngestRequest(chunk=ingest_pb2.UploadChunk(data=data)),
        ingest_pb2.IngestRequest(finish=ingest_pb2.FinishUpload(total_size_bytes=len(data))),
    ]
    *_, last = ingest_pb2_grpc.IngestServiceStub(channel).Ingest(iter(requests))
    print(last.completed.receipt.rows_stored)
    try:
        chat_pb2_grpc.ChatServiceStub(channel).Ask(chat_pb2.AskRequest(
            chat_configuration="chatConfigurations/none", question="?"))
    except grpc.RpcError as error:
        print(error.code().name)
"""


def test_stubs_made_afresh_from_proto_work_without_this_package(server: Server, tmp_path: Path) -> None:
    protos = sorted(str(path) for path in (ROOT / "proto").glob("dari/v1/*.proto"))
    made = [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", *made, *protos], check=True, timeout=120
    )
    program = STRANGER.format(stubs=str(tmp_path), address=server.address)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "NOT_FOUND"]
