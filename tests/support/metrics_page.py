"""The page that Prometheus scrapes, read as Prometheus reads it."""

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from dari.adapters.telemetry.families import Family
from tests.support.running_dari import SOON_S


def page(address: str) -> str:
    """What is served there."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=SOON_S) as answer:
        text: str = answer.read().decode()
        return text


def samples(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The numbers of each sample's name, by its labels, sorted."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(text: str, family: Family, suffix: str = "", **labels: str) -> float:
    """One number; 0 where it is not there."""
    return samples(text).get(family.name + suffix, {}).get(tuple(sorted(labels.items())), 0.0)


def total(text: str, family: Family, suffix: str = "") -> float:
    """All numbers of a family together."""
    return sum(samples(text).get(family.name + suffix, {}).values())
