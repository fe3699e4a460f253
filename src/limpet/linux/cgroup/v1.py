"""Groups of cgroup v1: one directory in the hierarchy of each controller.

Sources: Documentation/admin-guide/cgroup-v1/{memory,pids,cpuacct}.rst and scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import os

from limpet.linux.cgroup.files import (
    make_directory,
    read_control,
    read_counters,
    read_number,
    remove_directory,
    write_control,
)
from limpet.linux.cgroup.model import Limits, Usage, bandwidth
from limpet.linux.cgroup.tree import Group

_NO_LIMIT = "-1"


class GroupV1(Group):
    """A group that is spread over v1's hierarchies."""

    def usage(self) -> Usage:
        """Read what the group used; processor time needs the cpuacct hierarchy and is 0 without it."""
        where = self._directories
        cpu = read_counters(f"{where['cpu']}/cpu.stat") if "cpu" in where else {}
        cpuacct, memory, pids = where.get("cpuacct"), where.get("memory"), where.get("pids")
        return Usage(
            cpu_micros=read_number(f"{cpuacct}/cpuacct.usage") // 1000 if cpuacct else 0,
            throttled_micros=cpu.get("throttled_time", 0) // 1000,
            throttled_periods=cpu.get("nr_throttled", 0),
            periods=cpu.get("nr_periods", 0),
            memory_bytes=read_number(f"{memory}/memory.usage_in_bytes") if memory else 0,
            memory_peak_bytes=read_number(f"{memory}/memory.max_usage_in_bytes")
            if memory
            else None,
            oom_kills=self.oom_kills(),
            pids=read_number(f"{pids}/pids.current") if pids else 0,
            pids_refused=read_counters(f"{pids}/pids.events")["max"] if pids else 0,
        )

    def oom_kills(self) -> int:
        """Read only how many processes died of the memory limit."""
        memory = self._directories.get("memory")
        return read_counters(f"{memory}/memory.oom_control").get("oom_kill", 0) if memory else 0

    def _write_limits(self, limits: Limits) -> None:
        if cpu := self._directories.get("cpu"):
            _write_bandwidth(cpu, limits.cpu_cores)
        if memory := self._directories.get("memory"):
            _write_memory(memory, limits.memory_bytes)
        if pids := self._directories.get("pids"):
            write_control(f"{pids}/pids.max", "max" if limits.pids is None else str(limits.pids))


def make_trees(directories: dict[str, str]) -> None:
    """Make the own tree's top in each hierarchy; when one fails, those made before go again."""
    made: list[str] = []
    try:
        for directory in dict.fromkeys(directories.values()):
            if not os.path.isdir(directory):
                make_directory(directory)
                made.append(directory)
    except BaseException:
        for directory in reversed(made):
            remove_directory(directory)
        raise


def _write_bandwidth(directory: str, cores: float | None) -> None:
    quota_file = f"{directory}/cpu.cfs_quota_us"
    # Without a quota any period is valid; with the old quota the new period might not be.
    write_control(quota_file, _NO_LIMIT)
    if cores is not None:
        quota, period = bandwidth(cores)
        write_control(f"{directory}/cpu.cfs_period_us", str(period))
        write_control(quota_file, str(quota))


def _write_memory(directory: str, limit_bytes: int | None) -> None:
    limit = _NO_LIMIT if limit_bytes is None else str(limit_bytes)
    memory_file = f"{directory}/memory.limit_in_bytes"
    both_file = f"{directory}/memory.memsw.limit_in_bytes"
    swappiness_file = f"{directory}/memory.swappiness"
    if os.path.exists(swappiness_file):
        write_control(swappiness_file, "0")
    if not os.path.exists(both_file):
        write_control(memory_file, limit)
        return
    # Memory and swap together may never be less than memory alone: raise that one first.
    is_raised = limit_bytes is None or limit_bytes > int(read_control(both_file))
    for path in (both_file, memory_file) if is_raised else (memory_file, both_file):
        write_control(path, limit)
