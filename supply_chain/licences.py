"""The licence of everything that ships, and whether it is one that deny.toml allows. `make lint` runs it.

cargo-deny asks the same of the crates, from the same list; here they are looked at once more because `docs/licences.md`
lists them.
"""

import hashlib
import tomllib
from collections.abc import Collection, Iterator
from functools import cache
from importlib.metadata import Distribution
from typing import Any

from license_expression import ExpressionError, get_spdx_licensing
from packaging.utils import canonicalize_name

from supply_chain.shipped import ROOT, PythonPackage, crates, python_packages

_SPDX = get_spdx_licensing()


class UnknownLicence(Exception):
    """Nobody has told yet what a package's licence is. The message says what to do."""


def allowed_licences() -> frozenset[str]:
    """Those that deny.toml names."""
    return frozenset(tomllib.loads((ROOT / "deny.toml").read_text())["licenses"]["allow"])


def licence_of(package: Distribution) -> str:
    """An SPDX expression. Raises UnknownLicence.

    Of the metadata only what is written in SPDX's words counts: a classifier such as "BSD License" names no text.
    """
    name = canonicalize_name(package.name)
    if name in (clarified := _clarified()):
        return _clarification(package, clarified[name])
    for field in ("License-Expression", "License"):
        for told in package.metadata.get_all(field, []):
            if _is_spdx(told):
                return str(told)
    raise UnknownLicence(f"{name} does not tell its licence in SPDX's words: read it, and add it to licences.toml")


def is_allowed(expression: str, allowed: Collection[str]) -> bool:
    """Whether one may use what is under this expression with nothing but the allowed licences."""
    return _holds(_SPDX.parse(expression, validate=True), allowed)


def problems() -> Iterator[str]:
    """What stands in the way of shipping, a sentence each."""
    allowed = allowed_licences()
    for package in python_packages():
        yield from _package_problems(package, allowed)
    for crate in crates():
        if not crate.licence or not is_allowed(crate.licence, allowed):
            yield f"{crate.name} {crate.version} is under {crate.licence or 'nothing'}, which deny.toml does not allow"


def exceptions() -> dict[str, tuple[list[str], str]]:
    """Licences that are allowed for one package, and why."""
    return {entry["name"]: (entry["allow"], entry["reason"]) for entry in _file()["exception"]}


def _package_problems(package: PythonPackage, allowed: frozenset[str]) -> Iterator[str]:
    own, _ = exceptions().get(package.name, ([], ""))
    try:
        licence = licence_of(package.distribution)
    except UnknownLicence as unknown:
        yield str(unknown)
        return
    if not is_allowed(licence, {*allowed, *own}):
        yield f"{package.name} {package.version} is under {licence}, which deny.toml does not allow"


def _clarification(package: Distribution, entry: dict[str, str]) -> str:
    text = package.read_text(entry["file"])
    if text is None or hashlib.sha256(text.encode()).hexdigest() != entry["sha256"]:
        raise UnknownLicence(
            f"{entry['name']} {package.version} has another licence text than licences.toml knows: read it, then change"
            " the hash"
        )
    return entry["expression"]


def _is_spdx(text: str) -> bool:
    try:
        return _SPDX.parse(text, validate=True) is not None
    except ExpressionError:
        return False


def _holds(tree: Any, allowed: Collection[str]) -> bool:
    if isinstance(tree, _SPDX.OR):
        return any(_holds(arm, allowed) for arm in tree.args)
    if isinstance(tree, _SPDX.AND):
        return all(_holds(arm, allowed) for arm in tree.args)
    return str(tree) in allowed


@cache
def _file() -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads((ROOT / "supply_chain" / "licences.toml").read_text())


def _clarified() -> dict[str, dict[str, str]]:
    return {entry["name"]: entry for entry in _file()["clarify"]}


def main() -> None:
    """Exit with what is wrong, if anything is."""
    if found := list(problems()):
        raise SystemExit("\n".join(found))


if __name__ == "__main__":
    main()
