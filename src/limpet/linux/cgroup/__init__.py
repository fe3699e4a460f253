"""Kernel limits for a process and its children: control groups, v2 or v1, behind one small interface.

`open_hierarchy` makes a tree of one's own, its `create` makes groups in it. Every call is a few short
reads or writes of control files; none needs a thread, and none blocks longer than some 31 ms.
"""

from __future__ import annotations

from errno import ENOTSUP
from typing import TYPE_CHECKING

from limpet.linux.cgroup.discovery import Availability, inspect_host
from limpet.linux.cgroup.files import remove_directory
from limpet.linux.cgroup.model import (
    CONTROLLERS,
    CgroupBusyError,
    CgroupFileError,
    CgroupUnavailableError,
    Limits,
    Usage,
    check_name,
)
from limpet.linux.cgroup.tree import Group, Hierarchy
from limpet.linux.cgroup.v1 import GroupV1, make_trees
from limpet.linux.cgroup.v2 import UNIFIED, GroupV2, make_tree

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CONTROLLERS",
    "Availability",
    "CgroupBusyError",
    "CgroupFileError",
    "CgroupUnavailableError",
    "Group",
    "Hierarchy",
    "Limits",
    "Usage",
    "inspect_host",
    "open_hierarchy",
]


def open_hierarchy(name: str, *, proc: str = "/proc") -> Hierarchy:
    """Open the own tree `name`, making it where it is not there yet.

    v2 if it has the controllers, else v1. Where systemd delegated the process's own v2 group, the tree
    is made in it, and the processes of that group move to a leaf named `node` beside the tree.
    `proc` is where the proc file system is. Raises ValueError for the name, CgroupFileError, and
    CgroupUnavailableError when not a single controller can be used.
    """
    check_name(name)
    host = inspect_host(proc)
    if host.version is None:
        raise _unavailable(host.missing.values())
    if host.version == 1:
        trees = {key: f"{base}/{name}" for key, base in host.bases.items()}
        make_trees(trees)
        return Hierarchy(version=1, group_type=GroupV1, directories=trees, missing=host.missing)
    base = next(iter(host.bases.values()))
    trees, refused = make_tree(base, name, needs_leaf=host.needs_leaf)
    if not CONTROLLERS & trees.keys():
        remove_directory(trees[UNIFIED])
        raise _unavailable(refused.values())
    missing = {**host.missing, **refused}
    return Hierarchy(version=2, group_type=GroupV2, directories=trees, missing=missing)


def _unavailable(reasons: Iterable[str]) -> CgroupUnavailableError:
    return CgroupUnavailableError(ENOTSUP, f"no control groups: {'; '.join(reasons)}")
