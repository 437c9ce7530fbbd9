"""Generates `python/dari/v1` from `proto/dari/v1`; with --check, fails where the committed code differs.

python proto/generate.py --descriptors FILE    what Envoy transcodes JSON by, of the same files
"""

import filecmp
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).parent
COMMITTED = PROTO.parent / "python" / "dari" / "v1"


def generate(folder: Path) -> None:
    """Write the code of every proto file below `folder`/dari/v1. Raises SystemExit where protoc fails."""
    import grpc_tools

    includes = [f"-I{PROTO}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    kinds = ["python", "grpc_python", "mypy", "mypy_grpc"]
    files = sorted(str(file) for file in PROTO.glob("dari/v1/*.proto"))
    arguments = ["protoc", *includes, *(f"--{kind}_out={folder}" for kind in kinds), *files]
    if protoc.main(arguments):
        raise SystemExit("protoc failed")


def write_descriptors(file: Path) -> None:
    """Write the descriptors of all proto files, and of the details that errors have, as one FileDescriptorSet.

    Raises SystemExit where protoc fails.
    """
    import google.rpc
    import grpc_tools

    # Theirs is a namespace package: the folder above google/rpc is where `import "google/rpc/…"` begins.
    (googleapis,) = {Path(folder).parents[1] for folder in google.rpc.__path__}
    includes = [f"-I{PROTO}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}", f"-I{googleapis}"]
    files = [*sorted(str(file) for file in PROTO.glob("dari/v1/*.proto")), "google/rpc/error_details.proto"]
    if protoc.main(["protoc", *includes, "--include_imports", f"--descriptor_set_out={file}", *files]):
        raise SystemExit("protoc failed")


def differing(folder: Path) -> list[str]:
    """Names of generated files that are not the committed ones, or are on one side only."""
    fresh = {file.name for file in folder.glob("*_pb2*")}
    committed = {file.name for file in COMMITTED.glob("*_pb2*")}
    _, mismatched, missing = filecmp.cmpfiles(folder, COMMITTED, fresh | committed, shallow=False)
    return sorted({*mismatched, *missing})


def main() -> None:
    """Generate, or check."""
    if "--descriptors" in sys.argv:
        write_descriptors(Path(sys.argv[-1]))
        return
    if "--check" not in sys.argv:
        generate(COMMITTED.parent.parent)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        names = differing(Path(folder) / "dari" / "v1")
    if names:
        raise SystemExit(f"python/dari/v1 is not what proto/ makes; run `make stubs`: {', '.join(names)}")


if __name__ == "__main__":
    main()
