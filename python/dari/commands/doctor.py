"""`dari doctor`: what is wrong with this installation, and what to do about it."""

from collections import Counter
from collections.abc import Sequence

from dari.commands.exit_codes import ExitCode
from dari.commands.terminal import Terminal, clean


def run(terminal: Terminal, tenants: Sequence[str], replicas: int, timeout_s: float) -> ExitCode:
    """Print each finding as soon as it is due. NOT_WELL where one failed; warnings alone are OK."""
    from dari.doctor.examination import all_checks
    from dari.doctor.findings import Verdict, examine

    counts: Counter[Verdict] = Counter()
    for check, finding in examine(all_checks(tenants, replicas, timeout_s)):
        counts[finding.verdict] += 1
        if terminal.as_json:
            terminal.json_line(
                {
                    "check": check.name,
                    "verdict": finding.verdict.value,
                    "where": finding.where,
                    "what": finding.what,
                    "remedy": finding.remedy,
                }
            )
            continue
        told = f"{finding.verdict.value:<8} {check.name:<13} {finding.where}: {finding.what}"
        terminal.out.print(clean(told), soft_wrap=True)
        if finding.remedy:
            terminal.out.print(clean(f"{'':<22} → {finding.remedy}"), soft_wrap=True)
    terminal.note(", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict))
    return ExitCode.NOT_WELL if counts[Verdict.FAILED] else ExitCode.OK
