"""How much memory the device has left, how long processes wait for some, and who is to be killed first."""

from __future__ import annotations

_MEMINFO = "/proc/meminfo"
_PRESSURE = "/proc/pressure/memory"
_OOM_SCORE = "/proc/self/oom_score_adj"


def read_available_bytes() -> int:
    """Return what can be had without swapping: MemAvailable of proc(5), meminfo. Raises OSError."""
    with open(_MEMINFO, "rb") as file:
        for line in file:
            if line.startswith(b"MemAvailable:"):
                return int(line.split()[1]) << 10
    raise OSError(f"{_MEMINFO} has no MemAvailable")


def read_stalled_percent() -> float | None:
    """Return the share of the last ten seconds in which some process waited for memory, in percent.

    None where the kernel does not measure it (Documentation/accounting/psi.rst).
    """
    try:
        with open(_PRESSURE, "rb") as file:
            first = file.readline()
    except OSError:  # not built in, or switched off at boot
        return None
    for word in first.split():
        if word.startswith(b"avg10="):
            return float(word[6:])
    return None


def set_oom_score(adjustment: int) -> bool:
    """Set how readily the kernel kills this process and its children to come when memory runs out.

    From -1000 (never) to 1000 (first); proc(5), oom_score_adj. To lower it takes CAP_SYS_RESOURCE:
    returns whether the kernel allowed it.
    """
    try:
        with open(_OOM_SCORE, "wb", buffering=0) as file:
            file.write(b"%d" % adjustment)
    except OSError:
        return False
    return True
