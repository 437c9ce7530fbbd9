"""Which packages and crates are in what an operator runs: dari with all its extras, on Linux with the oldest Python.

Tools of development are left out. Python packages are those that the environment holds and pyproject.toml asks for, at
any distance; crates are those that Cargo compiles for the parser, told apart by whether their code is in the module or
only builds it.
"""

import json
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, distribution
from itertools import chain
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION: str = _PROJECT["version"]
PARSER_CRATE = "dari_native"
_TARGET = "x86_64-unknown-linux-gnu"


@dataclass(frozen=True, slots=True)
class Bundled:
    """A library that a wheel carries inside, as the wheel's own bill of materials (PEP 770) tells."""

    name: str
    version: str
    licence: str
    """Empty where the wheel does not tell."""
    purl: str


@dataclass(frozen=True, slots=True)
class PythonPackage:
    """A locked package. `needs` are names of other packages that ship."""

    name: str
    version: str
    distribution: Distribution = field(repr=False, compare=False)
    needs: tuple[str, ...]
    is_optional: bool
    """Only some extra of dari asks for it."""
    sha256s: tuple[str, ...]
    """Of every file that the lock allows."""
    bundled: tuple[Bundled, ...]


@dataclass(frozen=True, slots=True)
class Crate:
    """A locked crate. `needs` are ids of other crates."""

    id: str
    name: str
    version: str
    licence: str
    needs: tuple[str, ...]
    is_build_only: bool
    """Runs while the parser is compiled; nothing of it is in the module."""
    sha256: str
    """Empty for the crates of this repository."""


def python_packages() -> list[PythonPackage]:
    """By name. Raises PackageNotFoundError where the environment lacks one."""
    extras = _PROJECT["optional-dependencies"].values()
    always = _reached(_PROJECT["dependencies"])
    everything = _reached([*_PROJECT["dependencies"], *chain.from_iterable(extras)])
    hashes = locked_hashes((ROOT / "requirements.lock").read_text())
    return [
        PythonPackage(
            name=name,
            version=(found := distribution(name)).version,
            distribution=found,
            needs=tuple(sorted(needs)),
            is_optional=name not in always,
            sha256s=hashes[name, found.version],
            bundled=tuple(dict.fromkeys(_bundled(found))),
        )
        for name, needs in sorted(everything.items())
    ]


def crates() -> list[Crate]:
    """By name; those of this repository among them. Raises CalledProcessError where Cargo cannot tell."""
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={_TARGET}"]
    told = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    packages = {package["id"]: package for package in told["packages"]}
    nodes = {node["id"]: node for node in told["resolve"]["nodes"]}
    (root,) = (key for key, package in packages.items() if package["name"] == PARSER_CRATE)
    compiled = _closure(root, lambda key: _needs(nodes[key], {None, "build"}))
    in_module = _closure(
        root, lambda key: [need for need in _needs(nodes[key], {None}) if not _is_macro(packages[need])]
    )
    checksums = {
        (package["name"], package["version"]): package.get("checksum", "")
        for package in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    }
    found = [
        Crate(
            id=key,
            name=(package := packages[key])["name"],
            version=package["version"],
            # Before SPDX's words Cargo wrote a slash.
            licence=(package["license"] or "").replace("/", " OR "),
            needs=tuple(_needs(nodes[key], {None, "build"})),
            is_build_only=key not in in_module,
            sha256=checksums[package["name"], package["version"]],
        )
        for key in compiled
    ]
    return sorted(found, key=lambda crate: (crate.name, crate.version))


def locked_hashes(lock: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """The sha256 of every file that a lock allows, by name and version. Raises ValueError for a line that pins nothing.

    A lock may have two versions of a package, for different Pythons.
    """
    hashes: dict[tuple[str, str], tuple[str, ...]] = {}
    for line in re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n?", "", lock, flags=re.MULTILINE)).splitlines():
        if not line.strip():
            continue
        pinned = re.match(r"([A-Za-z0-9._-]+)==([^\s;*]+)( ;|\s)", line)
        sha256s = tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})(?:\s|$)", line))
        if pinned is None or not sha256s:
            raise ValueError(f"pins no version and files: {line.split()[0]}")
        hashes[canonicalize_name(pinned[1]), pinned[2]] = sha256s
    return hashes


def _reached(asked: list[str]) -> dict[str, set[str]]:
    """Every package that these requirements bring, and which ones each brings itself."""
    found: dict[str, set[str]] = {}
    todo = [(requirement, extra) for text in asked for requirement, extra in _wanted(Requirement(text), "")]
    seen = set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        needed = [each for text in distribution(name).requires or () for each in _wanted(Requirement(text), extra)]
        found.setdefault(name, set()).update(need for need, _ in needed)
        todo += needed
    return found


def _wanted(requirement: Requirement, extra: str) -> Iterator[tuple[str, str]]:
    """A requirement as name and extra, once for each extra that it names; none where its marker does not hold."""
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
        return
    for each in ("", *requirement.extras):
        yield canonicalize_name(requirement.name), each


def _bundled(package: Distribution) -> Iterator[Bundled]:
    for path in sorted(path for path in package.files or () if path.parent.name == "sboms" and path.suffix == ".json"):
        for component in json.loads(path.read_text(encoding="utf-8")).get("components", ()):
            if canonicalize_name(component["name"]) == canonicalize_name(package.name):
                continue  # auditwheel lists the wheel itself
            told = component.get("licenses") or ()
            licence = " AND ".join(each.get("expression") or each["license"].get("id", "") for each in told)
            # A place on the machine that built the wheel names nothing.
            purl = re.sub(r"\?download_url=file:.*", "", component.get("purl", ""))
            yield Bundled(component["name"], component.get("version", ""), licence.replace("/", " OR "), purl)


def _needs(node: dict[str, Any], kinds: set[str | None]) -> list[str]:
    return [dep["pkg"] for dep in node["deps"] if kinds & {kind["kind"] for kind in dep["dep_kinds"]}]


def _is_macro(package: dict[str, Any]) -> bool:
    return any("proc-macro" in target["kind"] for target in package["targets"])


def _closure(root: str, needs: Callable[[str], Iterable[str]]) -> set[str]:
    found: set[str] = set()
    todo = [root]
    while todo:
        if (key := todo.pop()) not in found:
            found.add(key)
            todo += needs(key)
    return found
