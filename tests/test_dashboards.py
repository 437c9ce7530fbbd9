"""The dashboard, the alert rules and their manual hold together, and ask for nothing that no server tells."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry, ProcessCollector

from dari.adapters.telemetry.families import FAMILIES
from dari.core.alerts import AlertKind
from dari.core.circuit import CircuitState
from dari.core.conversations import Answerer, AttemptOutcome, DegradedReason
from dari.core.errors import DariError
from dari.core.mapping import AiModelKind
from dari.core.telemetry import Step
from dari.core.upstream_states import LocalProcessStatus

ROOT = Path(__file__).parent.parent
PROMETHEUS, GRAFANA = ROOT / "docker/prometheus", ROOT / "docker/grafana"
RUNBOOKS = (ROOT / "docs/runbooks.md").read_text()
OF_EVERY_TARGET = {"job", "instance"}
OF_OTHERS: dict[str, set[str]] = {
    "up": set(),
    "envoy_cluster_membership_healthy": {"envoy_cluster_name"},
    "envoy_cluster_upstream_rq_retry": {"envoy_cluster_name"},
}
"""What Prometheus makes itself, and what Envoy's admin page tells."""
NONE_ELSE = re.compile(r"[A-Za-z_|]+")
"""A regular expression that is only a list of words."""


def errors() -> Iterator[type[DariError]]:
    classes = [DariError]
    for each in classes:
        classes += each.__subclasses__()
    return iter(classes)


VALUES: dict[str, set[str]] = {
    "code": {code.name for code in grpc.StatusCode},
    "reason": {error.reason for error in errors()} | {reason.value for reason in DegradedReason},
    "answered_by": {answerer.value for answerer in Answerer},
    "kind": {kind.value for kind in (*AiModelKind, *AlertKind)},
    "outcome": {outcome.value for outcome in AttemptOutcome} | {"ok", "failed", "stored", "rejected", "taken", "lost"},
    "state": {state.value for state in CircuitState}
    | {status.value.lower() for status in LocalProcessStatus}
    | {"well", "failing", "held", "paused"},
    "step": {step.label for step in Step},
    "of": {"server", "ai_model"},
    "job": {"dari", "envoy"},
}
"""What the labels of ours can be, as far as expressions name values."""


def exported() -> dict[str, set[str]]:
    """The labels of each name that can be asked for."""
    known = dict(OF_OTHERS)
    for family in FAMILIES:
        labels = set(family.labels)
        if family.kind == "histogram":
            known |= {f"{family.name}_sum": labels, f"{family.name}_count": labels}
            known[f"{family.name}_bucket"] = labels | {"le"}
        else:
            known[family.name] = labels
    of_process = CollectorRegistry()
    ProcessCollector(registry=of_process)
    known |= {sample.name: set() for metric in of_process.collect() for sample in metric.samples}
    return known


EXPORTED = exported()


@dataclass(frozen=True)
class Asked:
    """An expression, where it stands, and the labels that the words beside it name."""

    where: str
    expression: str
    shown: frozenset[str] = frozenset()


def of_dashboard() -> Iterator[Asked]:
    for path in sorted(GRAFANA.glob("dashboards/*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                shown = frozenset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                yield Asked(f"{path.name}: {panel['title']}", target["expr"], shown)


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def of_rules() -> Iterator[Asked]:
    for rule in rules():
        shown = frozenset(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        yield Asked(rule["alert"], rule["expr"], shown)


ASKED = [*of_dashboard(), *of_rules()]


def parts(expression: object) -> Iterator[Any]:
    """An expression and all that it is made of."""
    if isinstance(expression, list):
        for each in expression:
            yield from parts(each)
        return
    yield expression
    for name in ("lhs", "rhs", "expr", "args", "vector_selector"):
        inner = getattr(expression, name, None)
        if inner is not None:
            yield from parts(inner)


def parsed(asked: Asked) -> list[Any]:
    """Its parts, with Grafana's own variables filled in."""
    return list(parts(promql_parser.parse(asked.expression.replace("$__rate_interval", "5m"))))


def selectors(found: Iterable[Any]) -> list[Any]:
    return [part for part in found if isinstance(part, promql_parser.VectorSelector)]


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.where)
def test_only_what_is_exported_is_asked_for(asked: Asked) -> None:
    """Names, labels that select or group, values of labels, and labels that the text beside it shows."""
    found = parsed(asked)
    labels: set[str] = set()
    assert selectors(found)
    for selector in selectors(found):
        assert selector.name in EXPORTED, f"{selector.name} is told by nobody"
        own = EXPORTED[selector.name] | OF_EVERY_TARGET
        labels |= own
        for matcher in selector.matchers.matchers:
            assert matcher.name in own, f"{selector.name} has no label {matcher.name}"
            if matcher.name in VALUES and NONE_ELSE.fullmatch(matcher.value):
                assert set(matcher.value.split("|")) <= VALUES[matcher.name], matcher.value
    shown = set(labels)
    for part in found:
        modifier = getattr(part, "modifier", None)
        if isinstance(part, promql_parser.AggregateExpr):
            grouped = set(modifier.labels) if modifier else set()
            assert grouped <= labels, grouped - labels
            shown &= grouped
    assert asked.shown <= shown, f"{asked.shown - shown} is gone when it is shown"


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("dari_no_such_total", ()),
        ('dari_turns_total{tenant="a"}', ()),
        ('dari_turns_total{answered_by="NOBODY"}', ()),
        ('dari_attempts_total{outcome=~"FAILED|FAULTY"}', ()),
        ("sum by (tenant) (dari_turns_total)", ()),
        ("sum by (degraded) (dari_turns_total)", ("answered_by",)),
        ("rate(dari_turn_first_token_seconds[5m])", ()),
    ],
)
def test_the_check_finds_what_is_wrong(expression: str, shown: tuple[str, ...]) -> None:
    """Each kind of mistake that it is there for."""
    with pytest.raises(AssertionError):
        test_only_what_is_exported_is_asked_for(Asked("wrong", expression, frozenset(shown)))


def test_every_metric_is_on_the_dashboard_or_in_an_alert() -> None:
    """What nobody looks at should not be counted."""
    named = {selector.name for asked in ASKED for selector in selectors(parsed(asked))}
    for family in FAMILIES:
        names = {family.name, f"{family.name}_bucket", f"{family.name}_count", f"{family.name}_sum"}
        assert names & named, family.name


def test_the_dashboard_is_found_and_reads_the_source_that_is_made() -> None:
    """Grafana finds its source by uid; ids are unique, and no panel lies on another."""
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert yaml.safe_load((GRAFANA / "provisioning/dashboards/dari.yaml").read_text())["providers"]
    dashboard = json.loads((GRAFANA / "dashboards/dari.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def sections() -> dict[str, str]:
    """The runbooks, by the anchors of their headings as GitHub makes them."""
    found = re.split(r"^## (.+)$", RUNBOOKS, flags=re.MULTILINE)[1:]
    return {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-"): body
        for title, body in zip(*[iter(found)] * 2, strict=True)
    }


def test_every_alert_has_its_runbook() -> None:
    """One section each, which says what it means, what to look at, and what to do."""
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page == "docs/runbooks.md"
        assert anchor == rule["alert"].lower()
        body = sections()[anchor]
        for question in ("**Means**", "**Look at**", "**Do**"):
            assert question in body, (anchor, question)


def test_every_message_of_dari_has_its_runbook() -> None:
    """By the name of its kind; an end stands beside its beginning."""
    headings = " ".join(re.findall(r"^## (.+)$", RUNBOOKS, flags=re.MULTILINE))
    assert {kind.value for kind in AlertKind} <= set(re.findall(r"[A-Z_]{4,}", headings))


def test_no_runbook_is_about_an_alert_that_is_gone() -> None:
    """Every section is somebody's."""
    known = {rule["alert"].lower() for rule in rules()}
    for title in re.findall(r"^## (.+)$", RUNBOOKS, flags=re.MULTILINE):
        assert title.lower() in known or set(re.findall(r"[A-Z_]{4,}", title)) <= {kind.value for kind in AlertKind}


def test_the_rules_fire_when_they_must() -> None:
    """By Prometheus' own tool, on made-up series."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not in PATH; it comes with Prometheus")
    for arguments in (
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
        ["check", "config", "prometheus.yml"],
    ):
        told = subprocess.run([promtool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stdout + told.stderr
