"""All checks of an installation, in the order in which people read them."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

from dari.adapters.credentials.token_file import TokenFile
from dari.adapters.local_model import model_files
from dari.adapters.watched_files import UnusableFile
from dari.core.errors import FailedPrecondition
from dari.doctor import credentials, database, folders, local_model, notifications, ports, upstreams
from dari.doctor.findings import Check, Finding, failed, ok
from dari.settings import Settings, load_usable_settings

_LIMIT_S = 20.0
_HASHED_BYTES_S = 50 * 1024 * 1024
"""A slow disk's."""
_UPSTREAMS_LIMIT_S = 120.0


def all_checks(tenants: Sequence[str], replicas: int, timeout_s: float) -> list[Check]:
    """The checks for the settings of this process. `tenants` are those beside the ones that the settings name.

    `timeout_s` is the longest wait for one neighbour. Where settings are wrong, the rest is examined with their
    defaults.
    """
    settings, problems = load_usable_settings()
    first = Check("settings", partial(_settings, settings, problems))
    if settings is None:
        return [first]
    now = credentials.utc_now()
    return [
        first,
        Check("data folder", partial(folders.look_at_data_folder, settings)),
        Check("audit", partial(folders.look_at_audit_folder, settings)),
        Check("sources", partial(folders.look_at_source_folders, settings)),
        Check("database", partial(database.look_at_server, settings, replicas), _LIMIT_S),
        Check("migrations", partial(database.look_at_migrations, settings), _LIMIT_S),
        Check("isolation", partial(database.look_at_isolation, settings), _LIMIT_S),
        Check("tls", partial(credentials.look_at_tls, settings, now)),
        Check("tokens", partial(credentials.look_at_tokens_file, settings, now)),
        Check("signing keys", partial(credentials.look_at_signing_keys, settings)),
        Check("ports", partial(ports.look_at_ports, settings, timeout_s), _LIMIT_S + 3 * timeout_s),
        Check("local model", partial(local_model.look_at_local_model, settings), _LIMIT_S + _hashing_s(settings)),
        Check(
            "upstreams",
            partial(upstreams.look_at_upstreams, settings, _tenants(settings, tenants), timeout_s),
            _UPSTREAMS_LIMIT_S,
        ),
        Check("notifications", partial(notifications.look_at_notifications, settings)),
    ]


def _settings(settings: Settings | None, problems: Sequence[str]) -> Iterator[Finding]:
    for problem in problems:
        where, _, what = problem.partition(": ")
        yield failed(where, what or problem, "Correct it: no server starts like that.")
    if settings is None:
        yield failed("settings", "nothing else was examined", "Correct the settings, and examine again.")
    elif not problems:
        yield ok("settings", f"{len(settings.model_fields_set)} are set, and all can be used")


def _tenants(settings: Settings, others: Sequence[str]) -> list[str]:
    """Whose AI models are examined: row-level security shows those of no tenant that is not named."""
    named = {settings.tenant, *others}
    named |= {name.partition("/")[0] for name in settings.secrets if "/" in name}
    if settings.tokens_file is not None:
        with suppress(OSError, UnusableFile):  # look_at_tokens_file tells.
            named |= TokenFile.read([settings.tokens_file.read_bytes()]).tenants
    return sorted(named)


def _hashing_s(settings: Settings) -> float:
    """How long reading the local model's file may take."""
    try:
        entry = model_files.read_manifest(settings.model_dir).get(settings.local_model or "")
    except (FailedPrecondition, OSError):
        return 0.0
    return entry.size_bytes / _HASHED_BYTES_S if entry else 0.0
