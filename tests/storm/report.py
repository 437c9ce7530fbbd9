"""The figures of one run, for people and as JSON."""

import os
import platform
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from dari.v1 import chat_pb2 as pb
from tests.storm.judge import Judged, Verdict
from tests.storm.storm import Outcome

_SHOWN = 20
"""Wrong turns told in full."""


def answerer_of(judged: Judged) -> str:
    """The AI model that answered, "rows", or nobody: then the verdict."""
    turn = judged.seen.turn
    if turn is None:
        return judged.verdict.value
    return turn.ai_model.removeprefix("aiModels/") or "rows"


def figures(outcome: Outcome) -> dict[str, object]:
    """Everything that the run came to, in numbers. Seconds, but for counts."""
    counts = Counter(one.verdict.value for one in outcome.judged)
    faults = Counter(f"{fault.neighbour} {fault.name}" for fault in outcome.faults)
    return {
        "seed": outcome.seed,
        "size": asdict(outcome.size),
        "calls": len(outcome.judged),
        "verdicts": {verdict.value: counts[verdict.value] for verdict in Verdict},
        "owed_an_answer": sum(one.is_owed for one in outcome.judged),
        "unanswered_while_none_was_owed": sum(
            not one.is_owed and one.verdict in (Verdict.REFUSED, Verdict.LATE) for one in outcome.judged
        ),
        "events": _events(outcome.judged),
        "degraded": dict(_reasons(outcome.judged)),
        "faults": dict(sorted(faults.items())),
        "latency_s": _latencies(outcome.judged),
        "storm_s": round(outcome.storm_end_s - outcome.begin_s, 1),
        "not_healed": list(outcome.not_healed),
        "before": asdict(outcome.before),
        "after": asdict(outcome.after),
        "wrong": [_told(one) for one in outcome.wrong[:_SHOWN]],
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform(), "load_1m": round(os.getloadavg()[0], 1)},
    }


def _events(judged: Sequence[Judged]) -> Mapping[str, int]:
    kinds = Counter(event.WhichOneof("event") or "" for one in judged for event in one.seen.events)
    return {kind: kinds[kind] for kind in ("attempt_ended", "superseded", "seam")}


def _reasons(judged: Sequence[Judged]) -> Counter[str]:
    return Counter(
        pb.DegradedReason.Name(reason).removeprefix("DEGRADED_REASON_").lower()
        for one in judged
        if one.seen.turn is not None
        for reason in one.seen.turn.degraded_reasons
    )


def _latencies(judged: Sequence[Judged]) -> Mapping[str, Mapping[str, float]]:
    by_answerer: dict[str, list[float]] = defaultdict(list)
    for one in judged:
        by_answerer[answerer_of(one)].append(one.seen.end_s - one.seen.begin_s)
    return {answerer: _percentiles(values) for answerer, values in sorted(by_answerer.items())}


def _percentiles(values: Sequence[float]) -> Mapping[str, float]:
    cuts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else [values[0]] * 99
    return {
        "calls": len(values),
        "p50": round(cuts[49], 3),
        "p95": round(cuts[94], 3),
        "p99": round(cuts[98], 3),
        "max": round(max(values), 3),
    }


def _told(judged: Judged) -> dict[str, object]:
    seen = judged.seen
    return {
        "number": seen.plan.number,
        "chat": seen.plan.chat,
        "complaints": list(judged.complaints),
        "status": f"{seen.status} {seen.reason}".strip(),
        "answerer": answerer_of(judged),
        "is_retry": seen.is_retry,
        "begin_s": round(seen.begin_s, 2),
        "duration_s": round(seen.end_s - seen.begin_s, 2),
        "deadline_s": round(seen.plan.deadline_s, 2),
        "name": seen.turn.name if seen.turn is not None else "",
    }
