"""Real control groups of these tests' own, and looking at what the kernel was told."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest
from linux.cgroup_children import is_removed, until

from limpet.linux import cgroup
from limpet.worker.limits import Groups


def need_control_groups():
    """Skip where groups can't be made, or where making them would move the test runner."""
    if os.geteuid() != 0:
        pytest.skip("making control groups needs root")
    host = cgroup.inspect_host()
    if host.version is None:
        pytest.skip(f"no control group controllers here: {host.missing}")
    if host.needs_leaf:
        pytest.skip("the tests' own control group is delegated: opening would move the test runner")


def need_controller(groups, controller):
    if controller in groups.missing:
        pytest.skip(f"{controller}: {groups.missing[controller]}")


@contextmanager
def opened_groups(what):
    """A tree of a name of its own, which goes with all that is in it."""
    need_control_groups()
    groups = Groups(f"limpet-test-{os.getpid()}-{what}")
    groups.open()
    tree = groups._hierarchy
    try:
        yield groups
    finally:
        until(lambda: is_removed(tree))


def names(groups):
    """The groups that are there, by name."""
    return [group.name for group in groups._hierarchy.groups()]


def members(shared):
    """The processes in a group."""
    return shared._group.pids()


def pids_limit(shared):
    """How many processes the kernel allows the group."""
    for directory in shared._group.directories():
        if os.path.exists(f"{directory}/pids.max"):
            return Path(f"{directory}/pids.max").read_text().strip()
    raise AssertionError("no pids controller")
