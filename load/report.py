"""Writes what a run of `make load` came to: one HTML page that holds all of it, and one JSON object."""

from collections import Counter
from collections.abc import Iterator
from html import escape
from typing import Any

from load import plots
from load.matrix import BARE, DARI, GHZ, Outcome, Step
from load.saturation import Saturation, saturation
from load.worker import CANCELLED, CHAT, OK, UNARY, UPLOAD

PLOTS = {
    "throughput": ("Throughput against clients", plots.throughput),
    "latency": ("How long calls took", plots.latencies),
    "cores": ("Who used the CPU", plots.cores),
    "memory": ("Memory over time", plots.memory),
    "cpu": ("CPU over time", plots.cpu),
    "faults": ("Chats and uploads while things break", plots.faults),
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1120px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.15em; margin-top: 2em; border-top: 1px solid #ddd; padding-top: 1em; }
table { border-collapse: collapse; font-size: 0.9em; } td, th { padding: 0.25em 0.8em; text-align: right; }
th { border-bottom: 1px solid #999; } td:first-child, th:first-child, th:last-child, .text { text-align: left; }
tr:nth-child(even) { background: #f7f7f7; } .good { color: #2e7d32; } .bad { color: #c62828; font-weight: bold; }
svg { max-width: 100%; height: auto; } p.note { color: #666; font-size: 0.9em; max-width: 56em; }
"""
_UNITS = {UNARY: "calls/s", CHAT: "chats/s", UPLOAD: "MB/s"}
_NOTES = {
    "throughput": "The bare server has the same methods and does nothing: no caller is checked, nothing is read, parsed"
    " or stored. It is what grpcio and these clients can on this machine.",
    "latency": "From the call to its end; of chats also to the first token. The stand-in for Flowise takes about 0.1 s"
    " for an answer by itself.",
    "cores": "Of the machine's cores, on average over each step. Bars near the machine's number of cores say that more"
    " clients can only wait longer.",
    "memory": "Resident pages that no other process shares. A replica that is killed begins anew.",
    "cpu": "The grey area is the whole machine, clients and other work included.",
    "faults": "Each bar is one second. A chat or an upload that is cut is asked again, or resumed, by its client; what"
    " is not green or grey here failed in the end.",
}


def figures(outcome: Outcome, machine: dict[str, object]) -> dict[str, Any]:
    """The numbers of a run."""
    kinds = {}
    for kind in dict.fromkeys(step.kind for step in outcome.steps):
        found = {peer: _saturated(outcome, kind, peer, machine) for peer in (DARI, BARE)}
        kinds[kind] = {
            "best_per_s": {peer: round(one.best_rate, 2) for peer, one in found.items()},
            "of_bare": round(found[DARI].best_rate / found[BARE].best_rate, 3) if found[BARE].best_rate else None,
            "saturates_from_clients": found[DARI].from_clients,
            "saturates_on": found[DARI].on,
        }
    return {
        "machine": machine,
        "tools": outcome.tools,
        "kinds": kinds,
        "steps": [_step_figures(step) for step in outcome.steps],
        "k6": {name: {"streams": ran.streams, "failed": ran.failed} for name, ran in outcome.by_k6.items()},
        "faults": [f"{fault.whom} {fault.what}" for fault in outcome.faults],
        "mixed": dict(Counter(f"{one.kind} {one.status}" for one in outcome.mixed)),
        "exactly_once": {
            "uploads": outcome.judged.uploads,
            "rows": outcome.judged.rows,
            "chats": outcome.judged.chats,
            "complaints": list(outcome.judged.complaints),
        },
        "passed": is_passed(outcome),
    }


def is_passed(outcome: Outcome) -> bool:
    """Everything stored once, no call without faults around failed, and none failed in the end with them."""
    quiet = not any(step.failed for step in outcome.steps) and not any(ran.failed for ran in outcome.by_k6.values())
    return quiet and not outcome.judged.complaints and all(one.status in (OK, CANCELLED) for one in outcome.mixed)


def page(outcome: Outcome, machine: dict[str, object]) -> str:
    """The whole page; it loads nothing from anywhere."""
    body = "\n".join(_body(outcome, machine))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>dari under load</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _body(outcome: Outcome, machine: dict[str, object]) -> Iterator[str]:
    verdict = '<span class="good">passed</span>' if is_passed(outcome) else '<span class="bad">failed</span>'
    yield f"<h1>dari under load: {verdict}</h1>"
    yield f"<p>{escape(', '.join(f'{name} {value}' for name, value in machine.items()))}.</p>"
    yield f"<p>{escape(', '.join(f'{name} is {value}' for name, value in outcome.tools.items()))}.</p>"
    if any(step.kind == UNARY and step.client != GHZ for step in outcome.steps):
        yield '<p class="note">Reads were made by Python for want of ghz: the clients are what was measured.</p>'
    yield "<h2>Where it saturates, and on what</h2>"
    yield _table(
        ("", "dari, best", "bare grpcio, best", "ratio", "from clients", "on"),
        [_saturation_row(outcome, kind, machine) for kind in dict.fromkeys(step.kind for step in outcome.steps)],
    )
    yield "<h2>Exactly once</h2>"
    yield from _exactly_once(outcome)
    for name, (title, draw) in PLOTS.items():
        yield f'<h2>{escape(title)}</h2>\n<figure id="{name}">{plots.svg(draw(outcome))}</figure>'
        yield f'<p class="note">{escape(_NOTES[name])}</p>'
    if outcome.by_k6:
        yield "<h2>The streaming RPCs by k6</h2>"
        yield _table(
            ("script", "streams", "failed", "medians"),
            [
                (name, f"{ran.streams:,}", str(ran.failed), ", ".join(_medians(ran.medians_ms)))
                for name, ran in outcome.by_k6.items()
            ],
        )
    yield "<h2>All steps</h2>"
    yield _table(
        ("", "server", "client", "clients", "calls", "failed", "rate", "p50 ms", "p95 ms", "p99 ms", "cores"),
        [_step_row(step) for step in outcome.steps],
    )


def _exactly_once(outcome: Outcome) -> Iterator[str]:
    judged = outcome.judged
    yield (
        f"<p>{len(outcome.faults)} faults in {outcome.size.fault_s:g} s. {judged.uploads:,} uploads with"
        f" {judged.rows:,} rows and {judged.chats:,} chats were told complete.</p>"
    )
    if judged.complaints:
        told = "".join(f"<li>{escape(complaint)}</li>" for complaint in judged.complaints[:50])
        yield f'<p class="bad">{len(judged.complaints)} are not stored as they were told:</p><ul>{told}</ul>'
    else:
        yield '<p class="good">Each row of each, and each turn, is stored once.</p>'
    retried = [one for one in outcome.mixed if one.tries > 1]
    yield (
        f"<p>{len(retried):,} of {len(outcome.mixed):,} calls were made more than once by their clients;"
        f" statuses in the end: {escape(_counted(outcome))}.</p>"
    )


def _counted(outcome: Outcome) -> str:
    counted = Counter((one.kind, one.status) for one in outcome.mixed)
    return ", ".join(f"{kind} {status} {count:,}" for (kind, status), count in sorted(counted.items()))


def _saturated(outcome: Outcome, kind: str, peer: str, machine: dict[str, object]) -> Saturation:
    steps = [step for step in outcome.steps if step.kind == kind and step.peer == peer]
    return saturation(steps, int(str(machine["cores"])))


def _saturation_row(outcome: Outcome, kind: str, machine: dict[str, object]) -> tuple[str, ...]:
    ours, bare = (_saturated(outcome, kind, peer, machine) for peer in (DARI, BARE))
    ratio = f"{ours.best_rate / bare.best_rate:.2f}" if bare.best_rate else ""
    unit = _UNITS[kind]
    return (
        kind,
        f"{ours.best_rate:,.1f} {unit}",
        f"{bare.best_rate:,.1f} {unit}",
        ratio,
        str(ours.from_clients),
        ours.on,
    )


def _step_row(step: Step) -> tuple[str, ...]:
    times = (f"{step.latencies_ms[one]:,.1f}" if one in step.latencies_ms else "" for one in (50, 95, 99))
    failed = ", ".join(f"{name} {count}" for name, count in step.failed.items())
    used = ", ".join(f"{name} {cores:.2f}" for name, cores in step.cores.items())
    rate = f"{step.rate:,.1f} {_UNITS[step.kind]}"
    return (step.kind, step.peer, step.client, str(step.clients), f"{step.calls:,}", failed, rate, *times, used)


def _step_figures(step: Step) -> dict[str, Any]:
    return {
        "kind": step.kind,
        "server": step.peer,
        "client": step.client,
        "clients": step.clients,
        "calls": step.calls,
        "failed": step.failed,
        "per_s": round(step.rate, 2),
        "latency_ms": step.latencies_ms,
        "first_token_ms": step.first_token_ms,
        "cores": {name: round(used, 2) for name, used in step.cores.items()},
    }


def _medians(medians_ms: dict[str, float]) -> Iterator[str]:
    return (f"{name} {value:,.0f} ms" for name, value in medians_ms.items() if name != "iteration_duration")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    heads = "".join(f"<th>{escape(one)}</th>" for one in head)
    lines = "".join(
        "<tr>"
        + "".join(f'<td class="text">{escape(one)}</td>' if len(one) > 24 else f"<td>{escape(one)}</td>" for one in row)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
