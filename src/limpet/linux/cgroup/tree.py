"""The own tree and its groups: what v1 and v2 have in common.

A group is one directory on v2 and one in each controller's hierarchy on v1, so both are a mapping from
controller to directory here; directories that several controllers share count once.
"""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from contextlib import suppress
from errno import ENOTSUP, ESRCH
from types import MappingProxyType
from typing import TYPE_CHECKING

from limpet.linux.cgroup.files import (
    make_directory,
    read_pids,
    remove_directory,
    write_control,
)
from limpet.linux.cgroup.model import (
    CONTROLLERS,
    CgroupBusyError,
    CgroupFileError,
    CgroupUnavailableError,
    Limits,
    Usage,
    check_name,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class Group(ABC):
    """One group: the processes in it share its limits and are counted together."""

    def __init__(
        self, name: str, *, directories: Mapping[str, str], missing: Mapping[str, str]
    ) -> None:
        self.name = name
        self._directories = directories
        self._missing = missing

    def set_limits(self, limits: Limits) -> None:
        """Put limits in force, also on processes that run already; None lifts a limit.

        Raises CgroupUnavailableError when a limit's controller is missing, CgroupFileError when the kernel
        refuses a value; limits written before that one stay in force. A memory limit below what is in
        use: v2 reclaims, then kills; v1 reclaims, then refuses with EBUSY.
        """
        for controller in sorted(limits.controllers() - self._directories.keys()):
            reason = self._missing.get(controller, "it is not enabled")
            raise CgroupUnavailableError(
                ENOTSUP, f"{controller} can't be limited for {self.name}: {reason}"
            )
        self._write_limits(limits)

    def add(self, pid: int) -> None:
        """Move a process with all its threads into the group.

        Later children are born in it. Memory it holds already stays charged to where it was: move a
        process before it allocates. The first move after a quiet time waits for an RCU grace period
        (cgroup_threadgroup_rwsem), the next ones don't: where a start has to be fast, move the process
        ahead of it and set the limits then. Raises ProcessLookupError when it is gone; after
        CgroupFileError it may be in some of v1's hierarchies and not in others.
        """
        for directory in self.directories():
            try:
                write_control(f"{directory}/cgroup.procs", str(pid))
            except CgroupFileError as error:
                if error.errno == ESRCH:
                    raise ProcessLookupError(ESRCH, f"process {pid} is gone") from error
                raise

    def pids(self) -> list[int]:
        """Return the processes in the group, without zombies; none when it was removed."""
        found: set[int] = set()
        for directory in self.directories():
            found.update(read_pids(directory))
        return sorted(found)

    def kill(self) -> None:
        """Send SIGKILL to every process in the group, and to what they fork meanwhile.

        Does not wait: they leave the group shortly after.
        """
        # A process with SIGKILL pending can't fork, so this ends. Process ids are handed out in a circle:
        # one of the list can't belong to a stranger by the time it is used.
        killed: set[int] = set()
        while fresh := set(self.pids()) - killed:
            for pid in fresh:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed |= fresh

    def remove(self) -> None:
        """Remove the group. Raises CgroupBusyError when it is not empty within some 31 ms."""
        for directory in self.directories():
            remove_directory(directory)

    def directories(self) -> list[str]:
        """Return the group's directories, each once."""
        return list(dict.fromkeys(self._directories.values()))

    @abstractmethod
    def usage(self) -> Usage:
        """Read what the group used. Raises CgroupFileError when it was removed."""

    @abstractmethod
    def oom_kills(self) -> int:
        """Read only how many processes died of the memory limit."""

    @abstractmethod
    def _write_limits(self, limits: Limits) -> None: ...


class Hierarchy:
    """The own tree. `controllers` are those that work here, `missing` says why not and what helps."""

    def __init__(
        self,
        *,
        version: int,
        group_type: type[Group],
        directories: Mapping[str, str],
        missing: Mapping[str, str],
    ) -> None:
        self.version = version
        self.controllers = CONTROLLERS & directories.keys()
        self.missing: Mapping[str, str] = MappingProxyType(dict(missing))
        self._group_type = group_type
        self._directories = dict(directories)

    def create(self, group: str, limits: Limits) -> Group:
        """Make a group with these limits. When any step fails, nothing of it is left.

        Raises ValueError for the name, FileExistsError, and whatever `Group.set_limits` raises.
        """
        check_name(group)
        made: list[str] = []
        result = self._group(group)
        try:
            for directory in result.directories():
                _make_group_directory(directory)
                made.append(directory)
            result.set_limits(limits)
        except BaseException:
            for directory in reversed(made):
                remove_directory(directory)
            raise
        return result

    def groups(self) -> list[Group]:
        """Return the groups that are there, also those of a node that was killed, by name."""
        names: set[str] = set()
        for directory in self.directories():
            with suppress(FileNotFoundError), os.scandir(directory) as entries:
                names.update(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        return [self._group(name) for name in sorted(names)]

    def find(self, group: str) -> Group | None:
        """Return a group that is there, by its name; None when there is none."""
        check_name(group)
        found = self._group(group)
        return found if all(os.path.isdir(path) for path in found.directories()) else None

    def sweep(self, *, keep: Collection[str] = ()) -> list[str]:
        """Remove the groups without processes and return their names; `keep` names some that stay.

        For the start of a node: it would also take a group that was just created and is empty yet.
        """
        swept = []
        for group in self.groups():
            if group.name not in keep and not group.pids():
                with suppress(CgroupBusyError):
                    group.remove()
                    swept.append(group.name)
        return swept

    def remove(self) -> None:
        """Kill what is left in the tree and remove all of it.

        Raises CgroupBusyError when some process takes longer to die: call it again then.
        """
        groups = self.groups()
        for group in groups:
            group.kill()
        for group in groups:
            group.remove()
        for directory in self.directories():
            remove_directory(directory)

    def directories(self) -> list[str]:
        """Return the directories of the tree's top, each once."""
        return list(dict.fromkeys(self._directories.values()))

    def _group(self, name: str) -> Group:
        directories = {key: f"{top}/{name}" for key, top in self._directories.items()}
        return self._group_type(name, directories=directories, missing=self.missing)


def _make_group_directory(path: str) -> None:
    try:
        make_directory(path)
    except FileExistsError as error:
        if os.path.isdir(path):
            raise
        raise ValueError(f"{path} is a control file of the kernel's: use another name") from error
