"""`dari drill`: whether fail-overs of the running system go as they must."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from dari.commands.exit_codes import ExitCode
from dari.commands.terminal import Terminal
from dari.drill.faulty_upstream import FaultyUpstream
from dari.drill.rehearsal import MARKER, PREFIX, AttemptTold, Drill, Plan, Rehearsed, Report
from dari.drill.report import as_json, write_report


def run(
    terminal: Terminal, plan: Plan, listen: tuple[str, int], advertise: str | None, reports: Sequence[Path]
) -> ExitCode:
    """Rehearse, and print and write what came of it: OK where all went as it must, NOT_WELL otherwise.

    Raises CallFailed where the server refuses what a drill needs: the role of an admin.
    """
    host, port = listen
    try:
        upstream = FaultyUpstream(host, port, advertise or host, MARKER)
    except OSError as error:
        terminal.note(f"--listen {host}:{port}: {error.strerror or error}")
        return ExitCode.FAILED
    with _interrupted_by_sigterm(), upstream, terminal.connect() as client:
        report = Drill(client, plan, upstream, lambda rehearsed: terminal.note(_progress(rehearsed))).run()
    if terminal.as_json:
        terminal.json_line(as_json(report))
    else:
        _show(terminal, report)
    for path in reports:
        try:
            write_report(report, path)
        except OSError as error:
            terminal.note(f"{path}: {error.strerror or error}")
            return ExitCode.NO_OUTPUT
    return ExitCode.OK if report.passed else ExitCode.NOT_WELL


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM be a Ctrl-C: what was made is taken away. SIGKILL leaves it to the next drill."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _progress(rehearsed: Rehearsed) -> str:
    verdict = "; ".join(rehearsed.problems) or "as it must"
    return f"{rehearsed.fault.value}: {verdict}"


def _show(terminal: Terminal, report: Report) -> None:
    terminal.table(
        ("test upstream", "answered by", "first text", "whole", "attempts", "degraded", "verdict"),
        [
            (
                each.fault.value,
                _name(each.answered_by),
                None if each.first_text_s is None else f"{each.first_text_s:.2f} s",
                f"{each.whole_s:.2f} s",
                "\n".join(map(_attempt_text, each.attempts)),
                ", ".join(each.degraded_reasons),
                "\n".join(each.problems) or "as it must",
            )
            for each in report.rehearsed
        ],
        title=f"Drill of {report.plan.chat_configuration} on {report.server}",
    )
    for name in report.removed:
        terminal.note(f"removed, left behind by an earlier drill: {name}")
    for name in report.left_behind:
        terminal.note(f"could not be removed: {name}")


def _attempt_text(attempt: AttemptTold) -> str:
    cause = f" ({attempt.code})" if attempt.code else ""
    return f"{_name(attempt.ai_model)} {attempt.outcome}{cause} after {attempt.duration_s:.2f} s"


def _name(ai_model: str) -> str:
    """The drill's own are all the same to people."""
    return "test upstream" if ai_model.startswith(f"aiModels/{PREFIX}") else ai_model
