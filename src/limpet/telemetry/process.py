"""What a process uses, as the kernel counts it (proc(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Proportional and unique set size in bytes, processor time in seconds."""

    pss_bytes: int
    uss_bytes: int
    cpu_seconds: float


def read_available_bytes() -> int:
    """Return how much memory could be had without swapping (MemAvailable of proc_meminfo(5))."""
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def read_usage(pid: int) -> ProcessUsage | None:
    """Measure a process; None when it is gone, or guarded and this one may not trace it."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    sizes: dict[str, int] = {}
    for line in rollup.splitlines()[1:]:
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024
    fields = stat.rpartition(")")[2].split()
    return ProcessUsage(
        sizes.get("Pss", 0),
        sizes.get("Private_Clean", 0) + sizes.get("Private_Dirty", 0),
        (int(fields[11]) + int(fields[12])) * _TICK_SECONDS,
    )
