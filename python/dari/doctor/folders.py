"""Folders that a server reads and writes: its data, its audit, its sources; and who holds the embedded database."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dari.adapters.postgres.embedded import (
    POSTGRES_VERSION,
    EmbeddedPostgresError,
    find_binaries,
    holder_of,
    made_by_version,
)
from dari.doctor.findings import Finding, failed, ok, warning
from dari.settings import Settings

GIB = 1024**3
_LITTLE_BYTES = 5 * GIB
"""An embedded database keeps up to 4 GiB of log, and a source that is fetched lies here once."""
_TOO_LITTLE_BYTES = GIB // 2


def look_at_data_folder(settings: Settings) -> Iterator[Finding]:
    """Rights and space of `data_dir`, and what is in it."""
    folder = settings.data_dir.absolute()
    yield from _writable("data_dir", folder)
    yield _space(folder)
    if settings.database_dsn is None:
        yield from _embedded(settings.postgres_dir.absolute())


def look_at_audit_folder(settings: Settings) -> Iterator[Finding]:
    """Without an audit no server starts."""
    yield from _writable("audit_dir", (settings.audit_dir or settings.data_dir / "audit").absolute())


def look_at_source_folders(settings: Settings) -> Iterator[Finding]:
    """Folders whose files may be sources."""
    for folder in settings.source_folders:
        where = f"source_folders: {folder}"
        if not folder.is_dir():
            yield failed(where, "is no folder", "Make it, or take it out of DARI_SOURCE_FOLDERS.")
        elif not os.access(folder, os.R_OK | os.X_OK):
            yield failed(where, "cannot be read", "Let the user that runs dari read it.")
        else:
            yield ok(where, "can be read")


def _writable(setting: str, folder: Path) -> Iterator[Finding]:
    where = f"{setting}: {folder}"
    if not folder.exists():
        parent = next(parent for parent in folder.parents if parent.exists())
        if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
            yield ok(where, "is not there yet; a server makes it")
        else:
            yield failed(
                where, f"is not there, and {parent} lets us make nothing", "Make it, and give it to dari's user."
            )
        return
    try:
        with tempfile.TemporaryFile(dir=folder):
            yield ok(where, "can be written")
    except OSError as error:
        yield failed(where, f"cannot be written ({error.strerror})", "Give it to the user that runs dari.")


def _space(folder: Path) -> Finding:
    where = f"data_dir: {folder}"
    at = next(each for each in (folder, *folder.parents) if each.exists())
    free_bytes = shutil.disk_usage(at).free
    told = f"{free_bytes / GIB:,.1f} GiB are free"
    remedy = "Make room, or set DARI_DATA_DIR to a larger disk."
    if free_bytes < _TOO_LITTLE_BYTES:
        return failed(where, told, remedy)
    return warning(where, told, remedy) if free_bytes < _LITTLE_BYTES else ok(where, told)


def _embedded(folder: Path) -> Iterator[Finding]:
    where = f"data_dir: {folder}"
    try:
        find_binaries()
    except EmbeddedPostgresError as error:
        yield failed(where, "the embedded PostgreSQL is not installed", str(error))
    version = made_by_version(folder)
    if version not in (None, str(POSTGRES_VERSION)):
        yield failed(
            where,
            f"was made by PostgreSQL {version}, and this dari brings {POSTGRES_VERSION}",
            "Carry it over by pg_upgrade, or by a dump of the older dari; docs/upgrade.md tells how.",
        )
    holder = holder_of(folder)
    if holder is not None:
        yield ok(where, f"is held by {holder}: a server runs here")
    else:
        yield ok(where, "is held by nobody: no server runs here")
