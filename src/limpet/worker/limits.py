"""The agent's side of kernel limits: one control group for the processes that share an app's limits."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from limpet.linux.cgroup import (
    CgroupBusyError,
    CgroupFileError,
    CgroupUnavailableError,
    Limits,
    open_hierarchy,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from limpet.linux.cgroup import Group, Hierarchy, Usage

CONTROLLERS = ("cpu", "memory", "pids")
# Whoever waited for these is gone; workers and the router serve until they notice.
_UNWANTED = ("compile-", "fetch-")


class SharedGroup:
    """A control group and how many processes share it. It goes with the last one."""

    def __init__(self, group: Group, groups: Groups) -> None:
        self._group = group
        self._groups = groups
        self._members = 0
        self._seen_kills = 0
        self._untold_kills = 0

    @property
    def name(self) -> str:
        """The group's name among the node's."""
        return self._group.name

    def enter(self) -> SharedGroup:
        """Take note that a process will share the limits; return self."""
        self._members += 1
        return self

    def move(self, pid: int) -> None:
        """Move a process in. Raises OSError, ProcessLookupError for one that has ended already."""
        self._group.add(pid)

    def leave(self) -> None:
        """Take note that a process that was to share the limits has ended or shares others."""
        self._members -= 1
        if self._members <= 0:
            self._groups.retire(self._group)

    def set_limits(self, limits: Limits) -> None:
        """Put other limits in force. Raises OSError."""
        self._group.set_limits(self._groups.possible(limits))

    def usage(self) -> Usage:
        """Read what its processes used. Raises OSError."""
        return self._group.usage()

    def forget_kills(self) -> None:
        """Take note that somebody else was told of the kills until now. Raises OSError."""
        self._seen_kills = self._group.oom_kills()

    def take_oom_kill(self) -> bool:
        """Whether the kernel has killed a process for memory, asked for each that SIGKILL ended.

        v2 counts one process twice when it ends the whole group, so no more are told of than there were.
        """
        kills = self._group.oom_kills()
        self._untold_kills = min(self._untold_kills + kills - self._seen_kills, self._members)
        self._seen_kills = kills
        if self._untold_kills <= 0:
            return False
        self._untold_kills -= 1
        return True


class Groups:
    """The node's control groups. Without any controller there are none, and `missing` says why."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._hierarchy: Hierarchy | None = None
        self._retired: list[Group] = []
        self._serial = 0
        self.missing: Mapping[str, str] = dict.fromkeys(CONTROLLERS, "not looked for yet")

    def open(self, *, keep: Collection[str] = ()) -> None:
        """Find out what the kernel can limit, and remove what a node that was killed has left.

        `keep` names groups that stay though they are empty: how their last process ended is asked yet.
        """
        try:
            self._hierarchy = open_hierarchy(self._name)
        except (CgroupUnavailableError, CgroupFileError, PermissionError) as error:
            self.missing = dict.fromkeys(CONTROLLERS, str(error.strerror or error))
            return
        self.missing = self._hierarchy.missing
        self._hierarchy.sweep(keep=keep)
        left = [group for group in self._hierarchy.groups() if group.name not in keep]
        for group in left:
            if group.name.startswith(_UNWANTED):
                group.kill()
        self._retired += left

    def possible(self, limits: Limits) -> Limits:
        """Return the limits that can be enforced here."""
        if not self.missing:
            return limits
        return Limits(
            cpu_cores=None if "cpu" in self.missing else limits.cpu_cores,
            memory_bytes=None if "memory" in self.missing else limits.memory_bytes,
            pids=None if "pids" in self.missing else limits.pids,
        )

    def make(self, role: str, limits: Limits) -> SharedGroup | None:
        """Make a group; None when the kernel limits nothing here. Raises OSError."""
        if self._hierarchy is None:
            return None
        self._serial += 1
        name = f"{role}-{self._serial}-{os.urandom(4).hex()}"
        return SharedGroup(self._hierarchy.create(name, self.possible(limits)), self)

    def find(self, name: str) -> SharedGroup | None:
        """Return a group that an earlier agent made, which then belongs to the caller; None for none."""
        group = self._hierarchy.find(name) if self._hierarchy is not None and name else None
        return SharedGroup(group, self) if group is not None else None

    def retire(self, group: Group) -> None:
        """Remove a group now, or, while its last process is still dying, with the next one."""
        self._retired.append(group)
        for retired in list(self._retired):
            with suppress(CgroupBusyError):
                retired.remove()
                self._retired.remove(retired)

    def close(self) -> None:
        """End what is left in the groups and remove them. Called when the node ends."""
        if self._hierarchy is not None:
            self._hierarchy.sweep()
            with suppress(CgroupBusyError):
                self._hierarchy.remove()
