"""Enforcement by the kernel that runs the tests, on whichever version of cgroups it has."""

import errno
import mmap
import os
import signal
import time
from contextlib import suppress

import pytest

from limpet.linux import cgroup
from limpet.linux.cgroup import CgroupBusyError, CgroupFileError, Limits

from .cgroup_children import child, is_removed, until, wait_for_exit

MEBIBYTE = 1 << 20


@pytest.fixture
def hierarchy():
    if os.geteuid() != 0:
        pytest.skip("making control groups needs root")
    host = cgroup.inspect_host()
    if host.version is None:
        pytest.skip(f"no control group controllers here: {host.missing}")
    if host.needs_leaf:
        pytest.skip("the tests' own control group is delegated: opening would move the test runner")
    tree = cgroup.open_hierarchy(f"limpet-test-{os.getpid()}")
    try:
        yield tree
    finally:
        until(lambda: is_removed(tree))


def needs(tree, controller):
    if controller not in tree.controllers:
        pytest.skip(f"{controller}: {tree.missing[controller]}")


def spin():
    while True:
        pass


def fill_memory():
    area = mmap.mmap(-1, 256 * MEBIBYTE)
    for offset in range(0, len(area), mmap.PAGESIZE):
        area[offset] = 1


def measure_share(group, periods):
    """Cores used over some periods, from the beginning of one to the beginning of another."""

    def next_period():
        before = group.usage().periods
        until(lambda: group.usage().periods > before)
        return group.usage().cpu_micros, time.monotonic()

    used, began = next_period()
    start = group.usage().periods
    until(lambda: group.usage().periods >= start + periods - 1)
    used_then, ended = next_period()
    return (used_then - used) / 1e6 / (ended - began)


@pytest.mark.parametrize("cores", [0.2, 0.5])
def test_cpu_limit_gives_the_share(hierarchy, cores):
    needs(hierarchy, "cpu")
    group = hierarchy.create("cpu", Limits(cpu_cores=cores))
    with child(group, spin):
        # What is taken too much in one window, a halted machine's too, is paid back in the next.
        shares = [measure_share(group, 20) for _ in range(3)]
        assert min(shares) <= cores * 1.05
        assert max(shares) > cores / 4
    usage = group.usage()
    assert 0 < usage.throttled_periods <= usage.periods
    assert usage.throttled_micros > 0


def test_lifted_cpu_limit_no_longer_throttles(hierarchy):
    needs(hierarchy, "cpu")
    group = hierarchy.create("cpu", Limits(cpu_cores=0.05))
    with child(group, spin):
        until(lambda: group.usage().throttled_periods > 0)
        group.set_limits(Limits())
        throttled, used = group.usage().throttled_periods, group.usage().cpu_micros
        until(lambda: group.usage().cpu_micros > used + 200_000)
        assert group.usage().throttled_periods <= throttled + 1


def test_memory_limit_kills(hierarchy):
    needs(hierarchy, "memory")
    limit = 32 * MEBIBYTE
    group = hierarchy.create("memory", Limits(memory_bytes=limit))
    assert group.oom_kills() == 0
    with child(group, fill_memory) as pid:
        assert wait_for_exit(pid) == -signal.SIGKILL
    usage = group.usage()
    # v2 kills the group as a whole and counts the process that caused it twice.
    assert usage.oom_kills == group.oom_kills() in (1, hierarchy.version)
    assert limit // 2 < usage.memory_peak_bytes <= limit


def test_memory_limit_can_be_raised_and_lowered(hierarchy):
    needs(hierarchy, "memory")
    group = hierarchy.create("memory", Limits(memory_bytes=32 * MEBIBYTE))
    group.set_limits(Limits(memory_bytes=400 * MEBIBYTE))
    with child(group, fill_memory) as pid:
        assert wait_for_exit(pid) == 0
    group.set_limits(Limits(memory_bytes=32 * MEBIBYTE))
    with child(group, fill_memory) as pid:
        assert wait_for_exit(pid) == -signal.SIGKILL
    group.set_limits(Limits())
    with child(group, fill_memory) as pid:
        assert wait_for_exit(pid) == 0


def test_fork_bomb_stops_at_the_limit_and_is_killed(hierarchy):
    needs(hierarchy, "pids")
    group = hierarchy.create("pids", Limits(pids=5))

    def bomb():
        while True:
            with suppress(OSError):
                os.fork()

    with child(group, bomb) as pid:
        until(lambda: group.usage().pids_refused > 100)
        assert group.usage().pids == len(group.pids()) == 5
        group.kill()
        assert wait_for_exit(pid) == -signal.SIGKILL
        until(lambda: not group.pids())


def test_kill_reaches_all(hierarchy):
    group = hierarchy.create("kill", Limits())

    def multiply():
        for _ in range(4):
            os.fork()
        signal.pause()

    with child(group, multiply) as pid:
        until(lambda: len(group.pids()) == 16)
        group.kill()
        assert wait_for_exit(pid) == -signal.SIGKILL
        until(lambda: not group.pids())
    group.kill()
    group.remove()
    group.kill()
    assert group.pids() == []


def test_a_group_with_processes_is_not_removed(hierarchy):
    group = hierarchy.create("busy", Limits())
    with child(group, signal.pause) as pid:
        with pytest.raises(CgroupBusyError, match="1 processes are still in the group"):
            group.remove()
        assert group.pids() == [pid]
        group.kill()
        wait_for_exit(pid)
    group.remove()
    group.remove()
    with pytest.raises(CgroupFileError) as caught:
        group.usage()
    assert caught.value.errno == errno.ENOENT


def test_sweep_takes_empty_groups_only(hierarchy):
    hierarchy.create("empty", Limits(pids=3))
    group = hierarchy.create("full", Limits())
    with child(group, signal.pause) as pid:
        again = cgroup.open_hierarchy(os.path.basename(hierarchy.directories()[0]))
        assert [each.name for each in again.groups()] == ["empty", "full"]
        assert again.sweep() == ["empty"]
        assert [each.pids() for each in again.groups()] == [[pid]]
        assert again.sweep() == []


def test_sweep_takes_what_is_left_in_one_hierarchy(hierarchy):
    group = hierarchy.create("half", Limits())
    if len(group.directories()) == 1:
        pytest.skip("control groups v2 have one hierarchy: a group is there or not")
    os.rmdir(group.directories()[0])
    assert hierarchy.sweep() == ["half"]
    assert not any(os.path.exists(path) for path in group.directories())


def test_remove_takes_the_whole_tree(hierarchy):
    group = hierarchy.create("one", Limits())
    with child(group, signal.pause) as pid:
        with suppress(CgroupBusyError):
            hierarchy.remove()
        assert wait_for_exit(pid) == -signal.SIGKILL
    until(lambda: is_removed(hierarchy))
    assert not any(os.path.exists(path) for path in hierarchy.directories())
    assert hierarchy.groups() == []


def test_creating_twice_leaves_the_first(hierarchy):
    group = hierarchy.create("twin", Limits())
    with child(group, signal.pause) as pid:
        with pytest.raises(FileExistsError):
            hierarchy.create("twin", Limits())
        assert group.pids() == [pid]


def test_refused_limit_leaves_nothing(hierarchy):
    needs(hierarchy, "pids")
    with pytest.raises(CgroupFileError) as caught:
        hierarchy.create("half", Limits(memory_bytes=MEBIBYTE, pids=1 << 40))
    error = caught.value
    assert (error.errno, error.value) == (errno.EINVAL, str(1 << 40))
    assert error.filename.endswith("/half/pids.max")
    assert str(1 << 40) in str(error)
    assert hierarchy.groups() == []


def test_name_taken_in_one_hierarchy_leaves_the_others_clean(hierarchy):
    *others, last = hierarchy.create("taken", Limits()).directories()
    if not others:
        pytest.skip("v2 has a single hierarchy")
    for path in others:
        os.rmdir(path)
    with pytest.raises(FileExistsError):
        hierarchy.create("taken", Limits())
    assert os.path.isdir(last)
    assert not any(os.path.exists(path) for path in others)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "A", "a b", "-a", ".a", "ä", "a\n", "a\0", "a" * 256]
)
def test_bad_names(hierarchy, name):
    with pytest.raises(ValueError, match="can't name a control group"):
        hierarchy.create(name, Limits())
    with pytest.raises(ValueError, match="can't name a control group"):
        cgroup.open_hierarchy(name)


def test_names_of_control_files(hierarchy):
    with pytest.raises(ValueError, match="control file of the kernel's"):
        hierarchy.create("cgroup.procs", Limits())
    assert hierarchy.groups() == []


def test_adding_a_process_that_is_gone(hierarchy):
    group = hierarchy.create("gone", Limits())
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(ProcessLookupError, match=str(pid)):
        group.add(pid)


@pytest.mark.parametrize("cores", [0.001, 0.0099, 0.05, 0.333, 1.0, 2.5, 64.0])
def test_kernel_takes_every_share(hierarchy, cores):
    needs(hierarchy, "cpu")
    hierarchy.create("share", Limits(cpu_cores=cores))


@pytest.mark.parametrize(
    "limits", [{"cpu_cores": 0.0}, {"cpu_cores": float("nan")}, {"memory_bytes": 0}, {"pids": 0}]
)
def test_limits_that_mean_nothing(limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        Limits(**limits)
