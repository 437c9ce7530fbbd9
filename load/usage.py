"""What processes use: CPU seconds, memory, descriptors, threads, as Linux counts them."""

import os
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process and, but for the descriptors and threads, of its children: PostgreSQL's work is done by those."""

    cpu_s: float
    """Since the process began, with those of its children that have ended and were waited for."""
    resident_bytes: int
    """Pages that nobody else has, and so neither PostgreSQL's shared buffers once for each child."""
    descriptors: int
    threads: int


def usage_of(pid: int) -> Usage:
    """Raises psutil.NoSuchProcess."""
    process = psutil.Process(pid)
    with process.oneshot():
        times = process.cpu_times()
        cpu_s = times.user + times.system + times.children_user + times.children_system
        resident, descriptors, threads = _own_bytes(process), process.num_fds(), process.num_threads()
    for child in process.children(recursive=True):
        try:
            times = child.cpu_times()
            cpu_s += times.user + times.system
            resident += _own_bytes(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # It ended meanwhile, and its time is in its parent's.
    return Usage(cpu_s, resident, descriptors, threads)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children. Raises psutil.NoSuchProcess."""
    return usage_of(pid).cpu_s


def children_cpu_s() -> float:
    """CPU seconds of all children of this process that have ended and were waited for."""
    times = os.times()
    return times.children_user + times.children_system


def _own_bytes(process: psutil.Process) -> int:
    memory = process.memory_info()
    return int(memory.rss - memory.shared)
