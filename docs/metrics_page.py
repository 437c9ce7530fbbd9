"""The page of metrics, from the table that they are made of."""

from dari.adapters.telemetry.families import FAMILIES, Family
from dari.core.telemetry import Step

_HEAD = """\
# Metrics

<!-- Made from python/dari/adapters/telemetry/families.py by `make docs`. -->

What `http://METRICS_ADDRESS/metrics` of each replica tells. [telemetry.md](telemetry.md) says how to scrape and read
it. Labels have few values, and no ids. A histogram `x` has `x_bucket` (with the label `le`), `x_sum` and `x_count`.
Beside these are the `process_…` metrics of prometheus-client: memory, processor time, file descriptors, start time.

| metric | kind | labels | what |
|---|---|---|---|
"""
_STEPS = """
## Steps

Values of the label `step`, and names of spans.

| step | what |
|---|---|
"""


def text() -> str:
    """The page as it must be now."""
    steps = "".join(f"| `{step.label}` | {step.meaning} |\n" for step in Step)
    return _HEAD + "".join(map(_line, FAMILIES)) + _STEPS + steps


def _line(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.kind} | {labels} | {family.help} |\n"
