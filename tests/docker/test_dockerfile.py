"""docker/Dockerfile: what it copies is there, and its commands make a dari that runs without rights.

hadolint reads it in `make lint`. No engine builds it here: `make test-image` runs the same commands without one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fix_postgres import PostgresDsns
from tests.support.fault_proxy import PostgresProxy
from tests.support.serving_process import environment

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
NOBODY = 65_534


def copied() -> list[str]:
    """Paths of the context that COPY names."""
    lines = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_what_is_copied_is_there_and_not_left_out() -> None:
    allowed = {line.removeprefix("!") for line in IGNORED if line.startswith("!")}
    assert copied()
    for source in copied():
        assert (ROOT / source).exists(), source
        assert source in allowed, source
    assert allowed == set(copied()), "the context holds no more than what is copied"


def test_the_images_run_as_somebody_without_rights() -> None:
    """By number, so that Kubernetes can tell that it is not root."""
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    run = {name: text for text in stages for name in re.findall(r"\A\S+ AS (\w+)", text) if name in ("dari", "envoy")}
    assert set(run) == {"dari", "envoy"}
    for text in run.values():
        assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE)
        assert "HEALTHCHECK" in text


def test_every_image_is_pinned_by_version() -> None:
    for image in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE):
        assert re.search(r":v?\d+\.\d+\.\d+", image), image


def test_what_is_installed_is_pinned_by_hash() -> None:
    installs = re.findall(r"pip install ([^\n\\]*)", DOCKERFILE)
    assert len(installs) == 3
    assert all("--require-hashes" in options or "--no-index" in options for options in installs)


@pytest.fixture(scope="module")
def built() -> Iterator[Path]:
    """The stage `build`, in a folder of its own: both environments, the wheel, the descriptors."""
    with tempfile.TemporaryDirectory(prefix="dari-image-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        for source in copied():
            if source != "docker/envoy.yaml":
                take(source, folder / "src")
        build, run, python = folder / "build", folder / "dari", python_for_all(folder)
        for venv, lock in ((build, "requirements-build.lock"), (run, "requirements-run.lock")):
            subprocess.run([str(python), "-m", "venv", str(venv)], check=True)
            pip(venv, folder, "--require-hashes", "-r", f"docker/{lock}")
        path = f"{build / 'bin'}{os.pathsep}{os.environ['PATH']}"
        variables = {**os.environ, "PATH": path, "CARGO_TARGET_DIR": str(folder / "target")}
        build_wheel = ["maturin", "build", "--release", "--locked", "--out", str(folder / "wheels")]
        subprocess.run(build_wheel, cwd=folder / "src", env=variables, check=True)
        pip(run, folder, "--no-deps", "--no-index", "--find-links", str(folder / "wheels"), "dari")
        subprocess.run(
            [str(build / "bin" / "python"), "proto/generate.py", "--descriptors", str(folder / "dari.binpb")],
            cwd=folder / "src", check=True,
        )  # fmt: skip
        yield folder


def python_for_all(folder: Path) -> Path:
    """An interpreter that any user can run: this one, or a copy where it lies in somebody's closed folder."""
    own = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    if all(parent.stat().st_mode & 0o001 for parent in own.resolve().parents):
        return own
    left_out = shutil.ignore_patterns("__pycache__", "site-packages", "test", "share")
    shutil.copytree(sys.base_prefix, folder / "python", symlinks=True, ignore=left_out)
    return folder / "python" / "bin" / own.name


def take(source: str, into: Path) -> None:
    """As COPY does, without what .dockerignore leaves out."""
    target = into / source
    target.parent.mkdir(parents=True, exist_ok=True)
    if (ROOT / source).is_dir():
        shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__", "*.so", "fuzz"))
    else:
        shutil.copy(ROOT / source, target)


def pip(venv: Path, folder: Path, *arguments: str) -> None:
    command = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, cwd=folder / "src", check=True)


@pytest.fixture
def before_postgres(database: PostgresDsns) -> Iterator[PostgresProxy]:
    """The socket of the tests' PostgreSQL is closed to nobody; a port is open to all."""
    with PostgresProxy(database.service_dsn) as proxy:
        yield proxy


@pytest.mark.slow
@pytest.mark.skipif("DARI_TEST_IMAGE" not in os.environ, reason="builds for minutes: make test-image")
def test_the_built_dari_serves_as_nobody_and_writes_in_its_folder_alone(
    built: Path, before_postgres: PostgresProxy
) -> None:
    """Health answers by the image's own HEALTHCHECK, and SIGTERM ends it."""
    data = built / "data"
    data.mkdir()
    rights: dict[str, Any] = {}
    if os.geteuid() == 0:
        os.chown(data, NOBODY, NOBODY)
        rights = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    variables = environment(
        DARI_DATA_DIR=str(data), DARI_DATABASE_DSN=before_postgres.dsn, DARI_LOCAL_MODEL="",
        DARI_LISTEN_ADDRESS="127.0.0.1:0", DARI_ADMIN_ADDRESS="127.0.0.1:0", PYTHONDONTWRITEBYTECODE="1",
        HOME="/nonexistent",
    )  # fmt: skip
    variables.pop("PYTHONPATH", None)
    if (built / "python").is_dir():
        # A copied interpreter looks for its library where it came from, which nobody can read.
        variables["LD_LIBRARY_PATH"] = str(built / "python" / "lib")
    dari = str(built / "dari" / "bin" / "dari")
    before = written(built)
    with subprocess.Popen(
        [dari, "--json", "serve"], cwd=data, env=variables, stdout=subprocess.PIPE, text=True, **rights
    ) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            asked = {**variables, "DARI_ADMIN_ADDRESS": told["adminAddress"]}
            done = subprocess.run([dari, "health"], env=asked, capture_output=True, text=True, check=False, **rights)
            assert (done.returncode, done.stdout.strip()) == (0, "SERVING"), done.stderr
        finally:
            process.terminate()
    assert process.returncode == 0
    assert written(built) == before
    assert (data / "audit").is_dir()


def written(built: Path) -> dict[str, float]:
    """When each file of what was built was changed, the data left out."""
    return {
        str(file): file.stat().st_mtime
        for place in ("dari", "src", "wheels")
        for file in (built / place).rglob("*")
        if file.is_file()
    }
