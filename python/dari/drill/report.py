"""A drill's report as a file: JSON for programs, one HTML page for people. It holds no question and no answer."""

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from dari.drill.rehearsal import Rehearsed, Report

SUFFIXES = (".html", ".json")


def write_report(report: Report, path: Path) -> None:
    """By the suffix of the path, one of SUFFIXES. Raises OSError."""
    text = json.dumps(as_json(report), ensure_ascii=False, indent=2) + "\n" if path.suffix == ".json" else _page(report)
    path.write_text(text, encoding="utf-8")


def as_json(report: Report) -> dict[str, Any]:
    """The report as one object."""
    return {
        "server": report.server,
        "chatConfiguration": report.plan.chat_configuration,
        "beginTime": report.begin_time.isoformat(timespec="seconds"),
        "deadlineS": report.plan.deadline_s,
        "firstTokenTimeoutS": report.plan.first_token_timeout_s,
        "standIns": list(report.stand_ins),
        "passed": report.passed,
        "rehearsed": [
            {
                "fault": each.fault.value,
                "passed": not each.problems,
                "problems": list(each.problems),
                "answeredBy": each.answered_by,
                "firstTextS": None if each.first_text_s is None else round(each.first_text_s, 3),
                "wholeS": round(each.whole_s, 3),
                "answerChars": each.answer_chars,
                "superseded": each.superseded,
                "degradedReasons": list(each.degraded_reasons),
                "attempts": [
                    {
                        "aiModel": attempt.ai_model,
                        "outcome": attempt.outcome,
                        "code": attempt.code,
                        "durationS": round(attempt.duration_s, 3),
                    }
                    for attempt in each.attempts
                ],
            }
            for each in report.rehearsed
        ],
        "removed": list(report.removed),
        "leftBehind": list(report.left_behind),
    }


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 62em; color: #222; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3em .6em; vertical-align: top; }
tr { border-bottom: 1px solid #ddd; } .ok { color: #17692f; } .bad { color: #a32020; } .dim { color: #666; }
svg text { font: 12px system-ui, sans-serif; }
"""
_COLOURS = {"answered": "#3b8f56", "timed out": "#d08a1d", "failed": "#c0392b"}
_WIDTH, _LINE = 900, 26


def _page(report: Report) -> str:
    verdict = '<span class="ok">as it must</span>' if report.passed else '<span class="bad">not as it must</span>'
    begun = f"{report.begin_time:%Y-%m-%d %H:%M:%S} UTC"
    rows = "".join(map(_row, report.rehearsed))
    notes = [f"removed, left behind by an earlier drill: {name}" for name in report.removed]
    notes += [f"left behind: {name}" for name in report.left_behind]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Drill of {begun}</title><style>{_STYLE}</style>'
        f"<h1>Drill: {verdict}</h1>"
        f"<p>{escape(report.plan.chat_configuration)} on {escape(report.server)}, {begun}. Behind the test upstream: "
        f"{escape(', '.join(report.stand_ins) or 'no AI model')}, then the rows alone. Deadline of a question: "
        f"{report.plan.deadline_s:g} s; the test upstream counts as hung after {report.plan.first_token_timeout_s:g} s."
        "</p><table><tr><th>the test upstream<th>answered by<th>first text<th>whole<th>told as degraded<th>verdict</tr>"
        f"{rows}</table><h2>Attempts</h2>{_picture(report)}"
        f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul></html>\n"
    )


def _row(each: Rehearsed) -> str:
    first = "" if each.first_text_s is None else f"{each.first_text_s:.2f} s"
    verdict = "".join(f'<div class="bad">{escape(problem)}</div>' for problem in each.problems)
    return (
        f"<tr><td>{each.fault.value}<td>{escape(each.answered_by)}<td>{first}<td>{each.whole_s:.2f} s"
        f"<td>{escape(', '.join(each.degraded_reasons))}"
        f"<td>{verdict or '<span class=ok>as it must</span>'}</tr>"
    )


def _picture(report: Report) -> str:
    """A line a fault: its attempts, one after the other, to scale."""
    longest_s = max((each.whole_s for each in report.rehearsed), default=0.0) or 1.0
    lines = "".join(
        part for at, each in enumerate(report.rehearsed) for part in _line(each, at * _LINE, (_WIDTH - 120) / longest_s)
    )
    height = _LINE * len(report.rehearsed)
    legend = " ".join(f'<span style="color:{colour}">■</span> {outcome}' for outcome, colour in _COLOURS.items())
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{lines}</svg><p class="dim">{legend}</p>'


def _line(each: Rehearsed, top: float, pixels_a_second: float) -> Iterator[str]:
    yield f'<text x="0" y="{top + 17}">{each.fault.value}</text>'
    left = 90.0
    for attempt in each.attempts:
        width = max(2.0, attempt.duration_s * pixels_a_second)
        colour = _COLOURS.get(attempt.outcome, "#999")
        told = (
            f"{attempt.ai_model or 'the rows alone'}: {attempt.outcome} {attempt.code} after {attempt.duration_s:.2f} s"
        )
        yield (
            f'<rect x="{left:.1f}" y="{top + 4}" width="{width:.1f}" height="18" fill="{colour}">'
            f"<title>{escape(told)}</title></rect>"
        )
        left += width
