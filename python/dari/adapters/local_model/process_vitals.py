"""What the kernel tells of the child, and what it is told: memory, work done, who goes first when memory runs out.

The model file is mapped and shared: its pages are the kernel's to drop, so they count for nobody. What counts is
anonymous memory, resident or swapped: context, buffers, weights that an engine has repacked.
"""

import re
import resource
from pathlib import Path

_OWN_KIB = re.compile(rb"^(?:RssAnon|VmSwap):\s+(\d+) kB$", re.MULTILINE)
_MAJOR_FAULTS, _USER_TICKS, _SYSTEM_TICKS = 9, 11, 12
"""Places in proc_pid_stat(5) behind the name, which is in brackets and may hold anything."""
_OOM_SCORE_FIRST = "1000"
"""The highest of proc_pid_oom_score_adj(5)."""


def own_bytes(pid: int) -> int:
    """Anonymous memory, resident and swapped: `RssAnon` and `VmSwap` of proc_pid_status(5); 0 where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return 0
    return sum(int(kib) * 1024 for kib in _OWN_KIB.findall(status))


def work_done(pid: int) -> int:
    """A number that grows while the process computes or reads what it has mapped, and stands still while frozen."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    fields = stat.rpartition(b")")[2].split()
    return sum(int(fields[place]) for place in (_MAJOR_FAULTS, _USER_TICKS, _SYSTEM_TICKS))


def be_first_to_go() -> None:
    """Tell the kernel's out-of-memory killer to take this process before any other; raising needs no privilege."""
    Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE_FIRST, encoding="ascii")


def refuse_beyond(limit_bytes: int) -> None:
    """Let allocations of this process fail beyond `limit_bytes` of private writable mappings (`RLIMIT_DATA`).

    Untouched pages count here, those of thread stacks above all: leave room for them. A lower limit stands.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit_bytes < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
