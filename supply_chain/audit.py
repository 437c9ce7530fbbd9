"""Looks for known vulnerabilities, forbidden licences and unpinned parts, and tells what it could not look at.

`make audit`. Two lists of vulnerabilities are asked over the network: PyPI's (and, for what it does not know, OSV's) by
pip-audit, RustSec's by cargo-deny. Where one cannot be had nothing is known, which is neither good nor bad news: the
last line says so, and the exit code is 2. It is 1 where something is wrong, and 0 only where all was looked at.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supply_chain.licences import problems as licence_problems
from supply_chain.shipped import ROOT, crates, locked_hashes, python_packages

LOCKS = tuple(ROOT / name for name in ("requirements.lock", "bench/requirements.lock", "load/requirements.lock"))
_TOOL_TIMEOUT_S = 900
_SERVICES = (("--vulnerability-service=pypi",), ("--vulnerability-service=osv",))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of looking at one subject."""

    subject: str
    looked_at: str
    problems: tuple[str, ...] = ()
    not_looked_at: str = ""
    """What remains unknown, and why; empty where nothing does."""

    def lines(self) -> list[str]:
        """For a terminal."""
        word = "WRONG" if self.problems else "NOT CHECKED" if self.not_looked_at else "ok"
        unknown = [f"    not checked: {self.not_looked_at}"] if self.not_looked_at else []
        return [f"{word:<12}{self.subject}: {self.looked_at}", *(f"    {each}" for each in self.problems), *unknown]


def python_vulnerabilities(locks: Iterable[Path] = LOCKS, services: Sequence[Sequence[str]] = _SERVICES) -> Verdict:
    """Of every locked package, tools of development too. `services` are pip-audit's options, tried in order."""
    files = [f"--requirement={lock}" for lock in locks]
    found: dict[str, list[str]] = {}
    unknown: set[str] = set()
    for service in services:
        command = ["pip-audit", "--disable-pip", "--format=json", "--progress-spinner=off", "--timeout=15"]
        report = _json(_run([*command, *service, *files]).stdout)
        if report is None:
            continue  # the service did not answer: pip-audit ends without a report
        # pip-audit calls a package unknown, and ends well, also where the whole service is out of reach.
        told = {each["name"]: each.get("vulns") for each in report["dependencies"]}
        found |= {name: _vulnerabilities(name, vulns) for name, vulns in told.items() if vulns is not None}
        unknown = told.keys() - found.keys()
        if not unknown:
            break
    total = len(found) + len(unknown)
    return Verdict(
        "Python packages, known vulnerabilities",
        f"{len(found)} of {total or 'all'} locked packages",
        tuple(problem for name in sorted(found) for problem in found[name]),
        "" if found and not unknown else _unknown_packages(found, unknown),
    )


def rust_advisories(config: Path = ROOT / "deny.toml") -> Verdict:
    """Of every crate in Cargo.lock, those of the tests too."""
    subject = "Rust crates, known vulnerabilities"
    done = _run(["cargo-deny", f"--config={config}", "--format=json", "check", "advisories"])
    records = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    if not any(record["type"] == "summary" for record in records):
        return Verdict(subject, "none", not_looked_at="all: RustSec's database cannot be had from here")
    errors = [record["fields"] for record in records if record["type"] == "diagnostic"]
    wrong = tuple(_advisory(each) for each in errors if each["severity"] == "error")
    return Verdict(subject, "Cargo.lock against RustSec's database", wrong)


def rust_rules() -> Verdict:
    """What cargo-deny can tell without RustSec's database."""
    done = _run(["cargo-deny", "--format=json", "check", "licenses", "bans", "sources"])
    records = [json.loads(line)["fields"] for line in done.stderr.splitlines() if line.startswith("{")]
    wrong = [f"{each['message']} {each['labels'][0]['span']}" for each in records if each.get("severity") == "error"]
    if done.returncode and not wrong:
        wrong = ["cargo-deny failed; `cargo-deny check licenses bans sources` tells why"]
    return Verdict("Rust crates, licences, duplicates, sources", "Cargo.lock against deny.toml", tuple(wrong))


def licences() -> Verdict:
    """Of what ships, in both languages."""
    looked_at = f"{len(python_packages())} Python packages, {len(crates())} crates that ship"
    return Verdict("Licences", looked_at, tuple(licence_problems()))


def pins() -> Verdict:
    """Whether every locked package is pinned to a version and to hashes of its files."""
    total, wrong = 0, []
    for lock in LOCKS:
        try:
            total += len(locked_hashes(lock.read_text()))
        except ValueError as error:
            wrong.append(f"{lock.relative_to(ROOT)} {error}")
    return Verdict("Locks", f"{total} pins with hashes in {len(LOCKS)} files", tuple(wrong))


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """1 where something is wrong, else 2 where something is unknown, else 0."""
    seen = list(verdicts)
    if any(verdict.problems for verdict in seen):
        return 1
    return 2 if any(verdict.not_looked_at for verdict in seen) else 0


def report(verdicts: Sequence[Verdict]) -> str:
    """For a terminal; the last line sums up."""
    code = exit_code(verdicts)
    last = ("All was checked, nothing found.", "Something is wrong.", "Nothing found, but NOT ALL WAS CHECKED.")[code]
    return "\n".join([line for verdict in verdicts for line in verdict.lines()] + [last])


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    tool, *rest = command
    command = [str(Path(sys.executable).with_name(tool)), *rest]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _vulnerabilities(name: str, vulns: list[dict[str, Any]]) -> list[str]:
    return [f"{name}: {each['id']}, fixed in {', '.join(each['fix_versions']) or 'no version'}" for each in vulns]


def _unknown_packages(found: dict[str, list[str]], unknown: set[str]) -> str:
    if not found:
        return "all: neither PyPI's list nor OSV's can be had from here"
    return f"{', '.join(sorted(unknown))}: on neither PyPI's list nor OSV's"


def _advisory(fields: dict[str, Any]) -> str:
    crate = fields["labels"][0]["span"].rpartition(" ")[0]
    return f"{crate}: {(fields.get('advisory') or {}).get('id', fields['message'])}"


def main() -> None:
    """Look at everything, tell, and exit as the module says."""
    verdicts = [python_vulnerabilities(), rust_advisories(), rust_rules(), licences(), pins()]
    sys.stdout.write(report(verdicts) + "\n")
    raise SystemExit(exit_code(verdicts))


if __name__ == "__main__":
    main()
