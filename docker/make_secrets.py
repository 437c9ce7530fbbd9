"""Makes what compose.yaml and k8s/ must be given: passwords of their own, and the files that hold them.

    python3 docker/make_secrets.py            # writes docker/secrets, and leaves what is there

Needs Python's standard library alone. The folder is closed to other users of this machine; the files in it are not,
since a container reads them as a user of its own.
"""

import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "secrets"


def contents(admin_password: str, service_password: str, grafana_password: str) -> dict[str, str]:
    """By the file's name."""

    def dsn(user: str, password: str) -> str:
        return f"postgresql://{user}:{password}@postgres:5432/dari"

    service = f'database_dsn = "{dsn("dari_service", service_password)}"\n'
    return {
        "postgres_password": admin_password,
        "service_password": service_password,
        "dari.toml": service + "\n# API keys of models by name, and where operators are told of failures:\n"
        '# secrets = { "flowise-main" = "…" }\n# notify_urls = { "ops" = "slack://…" }\n',
        "migrate.toml": service + f'migration_dsn = "{dsn("dari_admin", admin_password)}"\n',
        "tokens.toml": "# Who may call: entries of `dari token create`.\n",
        "grafana_password": grafana_password,
    }


def write(folder: Path) -> list[str]:
    """Write all, or nothing where one is there; returns the names written."""
    made = contents(*(secrets.token_urlsafe(24) for _ in range(3)))
    if any((folder / name).exists() for name in made):
        return []
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, text in made.items():
        file = folder / name
        file.write_text(text)
        file.chmod(0o644)
    return list(made)


def main() -> None:
    """Write, and say what."""
    names = write(FOLDER)
    sys.stdout.write(f"{FOLDER}: {', '.join(names) if names else 'there already, left as it is'}\n")


if __name__ == "__main__":
    main()
