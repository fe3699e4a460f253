"""Control groups of an app: with the kernel's, and where there are none."""

import os
import signal

import pytest
from linux.cgroup_children import child, until, wait_for_exit
from linux.forked import result_of

from limpet.linux.cgroup import CgroupFileError, CgroupUnavailableError, Limits
from limpet.worker import limits as limits_module
from limpet.worker.limits import CONTROLLERS, Groups

from .kernel_groups import (
    members,
    names,
    need_controller,
    opened_groups,
    pids_limit,
)

ALL = Limits(cpu_cores=0.5, memory_bytes=32 << 20, pids=7)


@pytest.fixture
def groups():
    with opened_groups("limits") as groups:
        yield groups


# Without


def test_before_they_are_looked_for_there_are_none():
    groups = Groups("limpet-test")
    assert groups.make("app", ALL) is None
    assert set(groups.missing) == set(CONTROLLERS)
    assert groups.possible(ALL) == Limits()
    groups.close()


@pytest.mark.parametrize(
    "error",
    [
        CgroupUnavailableError(95, "no control groups: boot with cgroup_enable=memory"),
        PermissionError(1, "Operation not permitted"),
        CgroupFileError(28, "/sys/fs/cgroup/limpet"),
    ],
)
def test_without_any_controller_nothing_is_limited_and_it_says_why(monkeypatch, error):
    def refuse(_name):
        raise error

    monkeypatch.setattr(limits_module, "open_hierarchy", refuse)
    groups = Groups("limpet-test")
    groups.open()
    assert groups.missing == dict.fromkeys(CONTROLLERS, error.strerror)
    assert groups.make("app", ALL) is None
    groups.close()


def test_an_ordinary_user_s_node_goes_without_and_says_why():
    def run():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
        groups = Groups(f"limpet-test-{os.getpid()}-user")
        groups.open()
        return dict(groups.missing), groups.make("app", ALL) is None

    missing, is_without = result_of(run)
    if not is_without:
        pytest.skip("this user's own control group is delegated to it")
    assert set(missing) == set(CONTROLLERS)
    assert all(missing.values())


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_limit_whose_controller_is_missing_is_left_out(controller):
    groups = Groups("limpet-test")
    groups.missing = {controller: "not here"}
    possible = groups.possible(ALL)
    assert possible.controllers() == set(CONTROLLERS) - {controller}
    groups.missing = {}
    assert groups.possible(ALL) == ALL


# With


def test_a_group_is_made_with_its_limits_and_goes_with_its_last_process(groups):
    need_controller(groups, "pids")
    shared = groups.make("app", ALL)
    assert shared.enter() is shared
    shared.enter()
    assert pids_limit(shared) == "7"
    [name] = names(groups)
    assert name.startswith("app-1-")
    with child(shared._group, signal.pause) as first, child(shared._group, signal.pause) as second:
        assert members(shared) == sorted([first, second])
        assert shared.usage().pids == 2
        os.kill(second, signal.SIGKILL)
        wait_for_exit(second)
        shared.leave()
        assert names(groups) == [name]
        assert members(shared) == [first]
        os.kill(first, signal.SIGKILL)
        wait_for_exit(first)
    shared.leave()
    assert names(groups) == []
    with pytest.raises(CgroupFileError):
        shared.usage()


def test_groups_of_the_same_role_are_different_ones(groups):
    one, other = groups.make("app", Limits()), groups.make("app", Limits())
    assert len(set(names(groups))) == 2
    for shared in (one.enter(), other.enter()):
        shared.leave()
    assert names(groups) == []


def test_limits_can_be_changed(groups):
    need_controller(groups, "pids")
    shared = groups.make("app", ALL).enter()
    shared.set_limits(Limits(pids=3))
    assert pids_limit(shared) == "3"
    with pytest.raises(CgroupFileError):
        shared.set_limits(Limits(pids=1 << 40))
    assert pids_limit(shared) == "3"
    shared.set_limits(Limits())
    assert pids_limit(shared) == "max"
    shared.leave()


def test_limits_without_their_controller_do_not_stop_a_start(groups):
    need_controller(groups, "pids")
    groups.missing = {"memory": "as if it were switched off at boot"}
    shared = groups.make("app", ALL).enter()
    shared.set_limits(Limits(memory_bytes=1 << 30, pids=3))
    assert pids_limit(shared) == "3"
    shared.leave()


def test_what_a_killed_node_left_is_removed_unless_it_still_runs(groups):
    empty = groups.make("app", Limits())
    full = groups.make("app", Limits())
    with child(full._group, signal.pause) as pid:
        successor = Groups(groups._name)
        successor.open()
        assert dict(successor.missing) == dict(groups.missing)
        assert names(successor) == [full._group.name]
        assert empty._group.name not in names(groups)
        assert members(full) == [pid], "workers live on for a while"


def test_a_group_that_is_still_busy_goes_with_a_later_one(groups):
    busy, other = groups.make("app", Limits()).enter(), groups.make("app", Limits()).enter()
    with child(busy._group, signal.pause) as pid:
        busy.leave()
        assert names(groups) == sorted([busy._group.name, other._group.name])
        other.leave()
        assert names(groups) == [busy._group.name]
        os.kill(pid, signal.SIGKILL)
        wait_for_exit(pid)
        until(lambda: not members(busy))
        groups.make("app", Limits()).enter().leave()
        assert names(groups) == []
    assert groups._retired == []


def test_a_process_that_has_ended_can_not_be_moved(groups):
    shared = groups.make("app", Limits()).enter()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    wait_for_exit(pid)
    with pytest.raises(ProcessLookupError):
        shared.move(pid)
    shared.leave()


def fill_memory():
    b"x" * (256 << 20)


def test_each_kill_for_memory_is_told_of_once(groups):
    need_controller(groups, "memory")
    shared = groups.make("app", Limits(memory_bytes=32 << 20)).enter()
    assert not shared.take_oom_kill()
    for _ in range(2):
        with child(shared._group, fill_memory) as pid:
            assert wait_for_exit(pid) == -signal.SIGKILL
        assert shared.take_oom_kill()
        assert not shared.take_oom_kill()
    shared.leave()


def test_closing_ends_what_is_left_and_takes_the_whole_tree(groups):
    tree = groups._hierarchy
    shared = groups.make("app", ALL)
    assert all(os.path.isdir(path) for path in tree.directories())
    with child(shared._group, signal.pause) as pid:
        groups.close()
        assert wait_for_exit(pid) == -signal.SIGKILL
    until(lambda: (groups.close(), names(groups))[1] == [])
    assert not any(os.path.exists(path) for path in tree.directories())


def test_a_group_of_an_earlier_agent_is_found_and_goes_with_its_last_process(groups):
    made = groups.make("app", Limits(pids=7)) or pytest.skip("no control groups here")
    later = Groups(groups._name)
    later.open(keep=[made.name])
    found = later.find(made.name)
    assert found is not None
    assert found.name in names(later)
    found.forget_kills()
    found.enter().leave()
    assert names(later) == []
    assert later.find(made.name) is None
    assert later.find("") is None


def test_what_compiled_for_an_earlier_agent_is_ended_and_what_served_is_not(groups):
    unwanted, serving = groups.make("compile", Limits()), groups.make("router", Limits())
    with (
        child(unwanted._group, signal.pause) as compiler,
        child(serving._group, signal.pause) as router,
    ):
        later = Groups(groups._name)
        later.open()
        assert wait_for_exit(compiler) == -signal.SIGKILL
        assert members(serving) == [router]
        assert names(later) == sorted([unwanted.name, serving.name])
        later.make("app", Limits()).enter().leave()  # the next one that goes takes it along
        assert names(later) == [serving.name]
