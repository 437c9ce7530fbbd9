"""What a check finds, and how checks are made: each by itself, and none longer than its limit."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum


class Verdict(Enum):
    """How a thing is."""

    OK = "ok"
    WARNING = "warning"
    """dari works, and will not, or not as well as it could."""
    FAILED = "failed"
    """dari, or a part of it, does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    verdict: Verdict
    where: str
    """The setting, file, address or resource."""
    what: str
    remedy: str = ""
    """What to do about it; empty where nothing is to be done."""


def ok(where: str, what: str) -> Finding:
    """It is as it should be."""
    return Finding(Verdict.OK, where, what)


def warning(where: str, what: str, remedy: str) -> Finding:
    """See Verdict."""
    return Finding(Verdict.WARNING, where, what, remedy)


def failed(where: str, what: str, remedy: str) -> Finding:
    """See Verdict."""
    return Finding(Verdict.FAILED, where, what, remedy)


@dataclass(frozen=True, slots=True)
class Check:
    """Looks at one subject. `look` may block and may raise."""

    name: str
    look: Callable[[], Iterable[Finding]]
    limit_s: float = 20.0


@dataclass(slots=True)
class _Run:
    check: Check
    findings: list[Finding] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        try:
            for finding in self.check.look():
                self.findings.append(finding)
        except Exception as error:  # noqa: BLE001 - a check that has a mistake must not hide the others
            told = f"the check could not be made ({type(error).__name__})"
            self.findings.append(failed(self.check.name, told, "Tell the people who make dari."))
        finally:
            self.ended.set()


def examine(checks: Sequence[Check]) -> Iterator[tuple[Check, Finding]]:
    """Make all checks at once; what they find, in their order. One that exceeds its limit is left behind."""
    runs = [_Run(check) for check in checks]
    for run in runs:
        threading.Thread(target=run.look, name=f"doctor-{run.check.name}", daemon=True).start()
    for run in runs:
        has_ended = run.ended.wait(run.check.limit_s)
        yield from ((run.check, finding) for finding in tuple(run.findings))
        if not has_ended:
            told = f"no answer within {run.check.limit_s:g} s"
            yield run.check, failed(run.check.name, told, "See what holds it up, and examine again.")
