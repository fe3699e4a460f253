"""Groups of cgroup v2: one directory, and the two rules that go with it.

Controllers have to be handed down level by level (cgroup.subtree_control), and a group that hands them
down holds no processes itself, the machine's root excepted ("no internal processes").
Source: Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os
from errno import ESRCH
from typing import TYPE_CHECKING

from limpet.linux.cgroup.files import (
    make_directory,
    read_control,
    read_counters,
    read_number,
    read_pids,
    write_control,
)
from limpet.linux.cgroup.model import (
    CONTROLLERS,
    CgroupFileError,
    Limits,
    Usage,
    bandwidth,
)
from limpet.linux.cgroup.tree import Group

if TYPE_CHECKING:
    from collections.abc import Mapping

UNIFIED = "unified"
"""The key of a v2 group's directory, which is there even when no controller is."""
LEAF = "node"
"""Where a delegated group's own processes move so that it can hand controllers down."""
_MAX_LEAF_PASSES = 100
_NO_LIMIT = "max"


class GroupV2(Group):
    """A group of the unified hierarchy."""

    def __init__(
        self, name: str, *, directories: Mapping[str, str], missing: Mapping[str, str]
    ) -> None:
        super().__init__(name, directories=directories, missing=missing)
        self._directory = directories[UNIFIED]
        self._peak_read_bytes = 0

    def kill(self) -> None:
        """Send SIGKILL to every process in the group, and to what they fork meanwhile.

        By cgroup.kill since Linux 5.14. Processes that are cloned right into the group later may die
        of it too: make a new group for each start.
        """
        path = f"{self._directory}/cgroup.kill"
        if os.path.exists(path):
            write_control(path, "1")
        else:
            super().kill()

    def usage(self) -> Usage:
        """Read what the group used; processor time is there without the cpu controller too."""
        cpu = read_counters(f"{self._directory}/cpu.stat")
        current, peak = self._read_memory()
        has_pids = "pids" in self._directories
        return Usage(
            cpu_micros=cpu["usage_usec"],
            throttled_micros=cpu.get("throttled_usec", 0),
            throttled_periods=cpu.get("nr_throttled", 0),
            periods=cpu.get("nr_periods", 0),
            memory_bytes=current,
            memory_peak_bytes=peak,
            oom_kills=self.oom_kills(),
            pids=read_number(f"{self._directory}/pids.current") if has_pids else 0,
            pids_refused=read_counters(f"{self._directory}/pids.events")["max"] if has_pids else 0,
        )

    def oom_kills(self) -> int:
        """Read only how many processes died of the memory limit."""
        if "memory" not in self._directories:
            return 0
        return read_counters(f"{self._directory}/memory.events")["oom_kill"]

    def _read_memory(self) -> tuple[int, int | None]:
        if "memory" not in self._directories:
            return 0, None
        current = read_number(f"{self._directory}/memory.current")
        self._peak_read_bytes = max(self._peak_read_bytes, current)
        peak_file = f"{self._directory}/memory.peak"
        if os.path.exists(peak_file):
            return current, read_number(peak_file)
        return current, self._peak_read_bytes

    def _write_limits(self, limits: Limits) -> None:
        if "cpu" in self._directories:
            value = _NO_LIMIT
            if limits.cpu_cores is not None:
                value = "{} {}".format(*bandwidth(limits.cpu_cores))
            write_control(f"{self._directory}/cpu.max", value)
        if "memory" in self._directories:
            self._write_memory(limits.memory_bytes)
        if "pids" in self._directories:
            value = _NO_LIMIT if limits.pids is None else str(limits.pids)
            write_control(f"{self._directory}/pids.max", value)

    def _write_memory(self, limit_bytes: int | None) -> None:
        # Swap before the limit: nothing is to be swapped out on the way to it. Both files are younger
        # than memory.max or need swap in the kernel's configuration.
        for name, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
            path = f"{self._directory}/{name}"
            if os.path.exists(path):
                write_control(path, value)
        limit = _NO_LIMIT if limit_bytes is None else str(limit_bytes)
        write_control(f"{self._directory}/memory.max", limit)


def make_tree(base: str, name: str, *, needs_leaf: bool) -> tuple[dict[str, str], dict[str, str]]:
    """Make the own tree below `base`; return its directories and why controllers are missing.

    With `needs_leaf` the processes of `base` move to a leaf first. Raises CgroupFileError,
    ValueError for the name. What was made before an error is an empty group, which the next start uses.
    """
    if needs_leaf:
        if name == LEAF:
            raise ValueError(f"{name!r} is where the node's own processes go: use another name")
        _move_to_leaf(base)
    tree = f"{base}/{name}"
    if not os.path.isdir(tree):
        make_directory(tree)
    missing: dict[str, str] = {}
    for level in (base, tree):
        offered = read_control(f"{level}/cgroup.controllers").split()
        for controller in sorted(CONTROLLERS.intersection(offered)):
            try:
                write_control(f"{level}/cgroup.subtree_control", f"+{controller}")
            except CgroupFileError as error:
                missing[controller] = (
                    f"{level} can't hand the {controller} controller down: {error}; on a busy error, end or "
                    "move the processes that are directly in it"
                )
    enabled = CONTROLLERS.intersection(read_control(f"{tree}/cgroup.subtree_control").split())
    return {UNIFIED: tree} | dict.fromkeys(sorted(enabled), tree), missing


def _move_to_leaf(base: str) -> None:
    leaf = f"{base}/{LEAF}"
    if not os.path.isdir(leaf):
        make_directory(leaf)
    # A process that forks meanwhile leaves a child behind: look again until none is. Should one stay, the
    # kernel refuses the controllers below, and that is what gets reported.
    for _ in range(_MAX_LEAF_PASSES):
        pids = read_pids(base)
        if not pids:
            return
        for pid in pids:
            try:
                write_control(f"{leaf}/cgroup.procs", str(pid))
            except CgroupFileError as error:
                if error.errno != ESRCH:
                    raise
