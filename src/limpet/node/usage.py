"""What an app's workers use, measured between two looks."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from limpet.telemetry.process import read_usage

if TYPE_CHECKING:
    from limpet.linux.cgroup import Usage as GroupUsage
    from limpet.node.apps import AppRuntime
    from limpet.node.workers import Worker


class UsageMeter:
    """Turns what was counted until two looks into what was used between them."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}
        self._last_periods: dict[str, tuple[int, int]] = {}

    def cores(self, key: str, cpu_seconds: float) -> float | None:
        """Return the cores used since the last look; None at the first."""
        now = time.monotonic()
        last = self._last.get(key)
        if last is None or now - last[0] >= 0.5:
            self._last[key] = (now, cpu_seconds)
        if last is None or cpu_seconds < last[1]:
            return None
        return round((cpu_seconds - last[1]) / max(now - last[0], 1e-3), 4)

    def throttled_share(self, key: str, periods: int, throttled: int) -> float | None:
        """Return the share of periods since the last look in which the CPU limit was reached.

        At the first look, and after a new start, of all of them; None when there was no period.
        """
        last_periods, last_throttled = self._last_periods.get(key, (0, 0))
        self._last_periods[key] = (periods, throttled)
        if periods < last_periods or throttled < last_throttled:
            last_periods = last_throttled = 0
        if periods == last_periods:
            return None if periods == 0 else 0.0
        return round((throttled - last_throttled) / (periods - last_periods), 4)


def describe_app_usage(
    runtime: AppRuntime, workers: list[Worker], meter: UsageMeter
) -> dict[str, object]:
    """Return what an app's workers use: processor, memory, and how far their limits hold them back."""
    measured = [read_usage(worker.process.pid) for worker in workers if worker.process.pid]
    found = [usage for usage in measured if usage is not None]
    counted = _group_usage(runtime, workers, meter)
    if not found:
        return {
            "cpu_cores": None,
            "cpu_seconds": None,
            "pss_bytes": None,
            "uss_bytes": None,
            **counted,
        }
    cpu_seconds = sum(usage.cpu_seconds for usage in found)
    return {
        "cpu_cores": meter.cores(str(runtime.key), cpu_seconds),
        "cpu_seconds": round(cpu_seconds, 2),
        "pss_bytes": sum(usage.pss_bytes for usage in found),
        "uss_bytes": sum(usage.uss_bytes for usage in found),
        **counted,
    }


def _group_usage(
    runtime: AppRuntime, workers: list[Worker], meter: UsageMeter
) -> dict[str, object]:
    """Return what the kernel counted against the limits: memory of the replica that has most."""
    groups = {id(group): group for worker in workers if (group := worker.process.group)}
    found: list[GroupUsage] = []
    for group in groups.values():
        with contextlib.suppress(OSError):  # its last process has just ended
            found.append(group.usage())
    periods = sum(usage.periods for usage in found)
    throttled = sum(usage.throttled_periods for usage in found)
    has_memory = any(usage.memory_peak_bytes is not None for usage in found)
    return {
        "memory_bytes": max(usage.memory_bytes for usage in found) if has_memory else None,
        "memory_peak_bytes": max(usage.memory_peak_bytes or 0 for usage in found)
        if has_memory
        else None,
        "throttled_share": meter.throttled_share(str(runtime.key), periods, throttled),
        "throttled_seconds": round(sum(usage.throttled_micros for usage in found) / 1e6, 2)
        if found
        else None,
    }
