"""`dari backup` and `dari restore`: the embedded database as one file. docs/backup.md tells what else to keep."""

import time
from collections.abc import Callable
from pathlib import Path

from dari.commands.exit_codes import ExitCode
from dari.commands.serve import settings_or_none
from dari.commands.terminal import Terminal
from dari.settings import Settings


def run_backup(terminal: Terminal, file: Path, data_dir: Path | None) -> ExitCode:
    """Write the database of the data folder to `file`, and say how large it is."""
    from dari.adapters.postgres.dump import dump

    def write(settings: Settings) -> None:
        if not file.absolute().parent.is_dir():
            raise FileNotFoundError(2, "no such folder", str(file.parent))
        dump(settings.postgres_dir, file.absolute())

    return _run(terminal, file, data_dir, write, done="written", unusable=ExitCode.NO_OUTPUT)


def run_restore(terminal: Terminal, file: Path, data_dir: Path | None) -> ExitCode:
    """Make the database of the data folder of `file`."""
    from dari.adapters.postgres.dump import restore

    def read(settings: Settings) -> None:
        restore(file.absolute(), settings.postgres_dir)

    return _run(terminal, file, data_dir, read, done="restored", unusable=ExitCode.NO_INPUT)


def _run(
    terminal: Terminal,
    file: Path,
    data_dir: Path | None,
    work: Callable[[Settings], None],
    *,
    done: str,
    unusable: ExitCode,
) -> ExitCode:
    from dari.adapters.postgres.dump import DumpError, UnusableDump
    from dari.adapters.postgres.embedded import EmbeddedPostgresError
    from dari.adapters.postgres.migrate import MigrationError

    settings = settings_or_none(terminal, {"data_dir": data_dir})
    if settings is None:
        return ExitCode.CONFIG
    if settings.database_dsn is not None:
        terminal.note("DARI_DATABASE_DSN names a PostgreSQL of your own: docs/backup.md tells how to keep its data.")
        return ExitCode.CONFIG
    begun_s = time.monotonic()
    try:
        work(settings)
    except UnusableDump as error:
        terminal.note(str(error))
        return ExitCode.BAD_INPUT
    except (DumpError, EmbeddedPostgresError, MigrationError) as error:
        terminal.note(str(error))
        return ExitCode.FAILED
    except OSError as error:
        terminal.note(f"{file}: {error.strerror or error}")
        return unusable
    size_bytes, duration_s = file.stat().st_size, time.monotonic() - begun_s
    if terminal.as_json:
        terminal.json_line({"file": str(file), "sizeBytes": str(size_bytes), "durationS": round(duration_s, 3)})
    else:
        terminal.note(f"{file} {done}: {size_bytes:,} bytes in {duration_s:.1f} s")
    return ExitCode.OK
