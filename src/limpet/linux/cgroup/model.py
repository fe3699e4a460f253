"""What cgroups are asked for and what they answer, whichever version the kernel runs."""

from __future__ import annotations

from dataclasses import dataclass
from os import strerror

CONTROLLERS = frozenset({"cpu", "memory", "pids"})

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")
_MAX_NAME_LENGTH = 255

# The kernel's bounds for CPU bandwidth (Documentation/scheduler/sched-bwc.rst).
_MIN_QUOTA_MICROS = 1_000
_MAX_PERIOD_MICROS = 1_000_000
_PERIOD_MICROS = 100_000
_MIN_CORES = _MIN_QUOTA_MICROS / _MAX_PERIOD_MICROS


class CgroupUnavailableError(OSError):
    """This machine, or this service, has no controllers to use; the message says why and what helps."""


class CgroupFileError(OSError):
    """The kernel refused an operation on a control file or on a group's directory.

    `filename` is the file, `value` what was written (None when nothing was), `errno` the reason.
    """

    def __init__(self, errno: int, path: str, value: str | None = None) -> None:
        what = strerror(errno) if value is None else f"{strerror(errno)}, writing {value!r}"
        super().__init__(errno, what, path)
        self.value = value


class CgroupBusyError(OSError):
    """The group still holds processes, or the kernel has not finished emptying it. errno is EBUSY."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a group may use; None leaves a resource without a limit of its own."""

    cpu_cores: float | None = None
    """Processor time per time that passes: 0.5 is half of one core. At least 0.001."""
    memory_bytes: int | None = None
    """Anonymous memory, page cache and kernel memory together. The kernel rounds it to whole pages."""
    pids: int | None = None
    """Processes and threads together."""

    def __post_init__(self) -> None:
        if self.cpu_cores is not None and not self.cpu_cores >= _MIN_CORES:
            raise ValueError(f"cpu_cores must be at least {_MIN_CORES}, not {self.cpu_cores}")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise ValueError(f"memory_bytes must be positive, not {self.memory_bytes}")
        if self.pids is not None and self.pids < 1:
            raise ValueError(f"pids must be positive, not {self.pids}")

    def controllers(self) -> frozenset[str]:
        """Return the controllers that enforce what is limited here."""
        wanted = {"cpu": self.cpu_cores, "memory": self.memory_bytes, "pids": self.pids}
        return frozenset(name for name, limit in wanted.items() if limit is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a group used since it was made. Figures of a missing controller are 0 (the peak: None)."""

    cpu_micros: int
    """Processor time, user and system."""
    throttled_micros: int
    """Time that runnable processes spent waiting for the next period, summed over processors."""
    throttled_periods: int
    """Periods in which the quota ran out."""
    periods: int
    """Periods in which something ran or waited; 0 without a CPU limit."""
    memory_bytes: int
    """Charged to the group now."""
    memory_peak_bytes: int | None
    """The most that was charged. Kernels before 5.19 don't tell on v2: then the most that was read."""
    oom_kills: int
    """Processes that the kernel killed because the group had reached its memory limit.

    On v2 the process that caused it counts twice: for itself, and when the whole group is killed.
    """
    pids: int
    """Processes and threads now, zombies included."""
    pids_refused: int
    """How often fork or clone failed because of the limit."""


def check_name(name: str) -> None:
    """Raise ValueError unless `name` is 1 to 255 of [a-z0-9.-] and starts with none of `.-`."""
    fits = 0 < len(name) <= _MAX_NAME_LENGTH and _NAME_CHARACTERS.issuperset(name)
    if not fits or name[0] in ".-":
        raise ValueError(
            f"{name!r} can't name a control group: use 1 to {_MAX_NAME_LENGTH} of a-z, 0-9, '.' "
            "and '-', starting with a letter or a digit"
        )


def bandwidth(cores: float) -> tuple[int, int]:
    """Return quota and period, both in microseconds, that give this many cores.

    The period is 100 ms, the kernel's default. A shorter one keeps the share as well, but its quota is less
    than what an ordinary request takes, which then waits although the group was idle before. Below 0.01
    core the period grows so that the quota keeps to the kernel's minimum of 1 ms.
    """
    period = min(max(_PERIOD_MICROS, round(_MIN_QUOTA_MICROS / cores)), _MAX_PERIOD_MICROS)
    return max(round(cores * period), _MIN_QUOTA_MICROS), period
