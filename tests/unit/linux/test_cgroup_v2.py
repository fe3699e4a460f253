"""cgroup v2: real groups without controllers, real ones with them, and files that look like some."""

import errno
import os
import signal
import traceback
from contextlib import suppress

import pytest

from limpet.linux import cgroup
from limpet.linux.cgroup import CgroupFileError, CgroupUnavailableError, Hierarchy, Limits
from limpet.linux.cgroup.discovery import Mount, _choose_base, parse_mountinfo
from limpet.linux.cgroup.v2 import UNIFIED, GroupV2, make_tree

from .cgroup_children import child, is_removed, until, wait_for_exit

CONTROL_FILES = {
    "cpu.max": "max 100000\n",
    "cpu.stat": "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 9\nnr_throttled 4\n"
    "throttled_usec 70\n",
    "memory.max": "max\n",
    "memory.swap.max": "max\n",
    "memory.oom.group": "0\n",
    "memory.current": "4096\n",
    "memory.peak": "8192\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 1\n",
    "pids.max": "max\n",
    "pids.current": "3\n",
    "pids.events": "max 7\n",
}


@pytest.fixture
def unified():
    """Where the real v2 hierarchy is mounted, with or without controllers."""
    if os.geteuid() != 0:
        pytest.skip("making control groups needs root")
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [each.point for each in parse_mountinfo(file.read()) if each.kind == "cgroup2"]
    if not points:
        pytest.skip("no cgroup2 file system is mounted here")
    return points[0]


@pytest.fixture
def bare(unified):
    """A real tree in which no controller is enabled."""
    path = f"{unified}/limpet-bare-{os.getpid()}"
    os.mkdir(path)
    tree = Hierarchy(
        version=2, group_type=GroupV2, directories={UNIFIED: path}, missing={"memory": "it is off"}
    )
    try:
        yield tree
    finally:
        until(lambda: is_removed(tree))


@pytest.fixture
def complete():
    """A real tree with every controller."""
    if os.geteuid() != 0:
        pytest.skip("making control groups needs root")
    host = cgroup.inspect_host()
    if host.version != 2 or host.missing:
        pytest.skip(f"no v2 with every controller here: version {host.version}, {host.missing}")
    if host.needs_leaf:
        pytest.skip("the tests' own control group is delegated: opening would move the test runner")
    tree = cgroup.open_hierarchy(f"limpet-v2-{os.getpid()}")
    try:
        yield tree
    finally:
        until(lambda: is_removed(tree))


@pytest.fixture
def imitation(tmp_path):
    for name, text in CONTROL_FILES.items():
        (tmp_path / name).write_text(text)
    directories = dict.fromkeys([UNIFIED, "cpu", "memory", "pids"], str(tmp_path))
    return GroupV2("g", directories=directories, missing={})


def test_imitation_limits(imitation, tmp_path):
    imitation.set_limits(Limits(cpu_cores=0.05, memory_bytes=1 << 25, pids=9))

    def read(name):
        return (tmp_path / name).read_text().splitlines()[0]

    # Real control files are no streams: each write replaces the value, here it covers the beginning.
    assert read("cpu.max").startswith("5000 100000")
    assert read("memory.max") == str(1 << 25)
    assert read("memory.swap.max").startswith("0")
    assert read("memory.oom.group") == "1"
    assert read("pids.max").startswith("9")


def test_imitation_usage(imitation, tmp_path):
    usage = imitation.usage()
    assert usage == cgroup.Usage(
        cpu_micros=1500,
        throttled_micros=70,
        throttled_periods=4,
        periods=9,
        memory_bytes=4096,
        memory_peak_bytes=8192,
        oom_kills=1,
        pids=3,
        pids_refused=7,
    )
    (tmp_path / "memory.peak").unlink()
    (tmp_path / "memory.current").write_text("9000\n")
    assert imitation.usage().memory_peak_bytes == 9000
    (tmp_path / "memory.current").write_text("100\n")
    assert imitation.usage().memory_peak_bytes == 9000


def test_imitation_without_swap_and_oom_group(imitation, tmp_path):
    (tmp_path / "memory.swap.max").unlink()
    (tmp_path / "memory.oom.group").unlink()
    imitation.set_limits(Limits(memory_bytes=1 << 20))
    assert (tmp_path / "memory.max").read_text() == str(1 << 20)
    assert not (tmp_path / "memory.swap.max").exists()


def test_imitation_missing_file_is_named(imitation, tmp_path):
    (tmp_path / "pids.max").unlink()
    with pytest.raises(CgroupFileError) as caught:
        imitation.set_limits(Limits(pids=9))
    assert caught.value.filename == str(tmp_path / "pids.max")
    assert (caught.value.errno, caught.value.value) == (errno.ENOENT, "9")


def test_limit_of_a_missing_controller_is_refused(bare):
    with pytest.raises(CgroupUnavailableError, match="memory can't be limited for g: it is off"):
        bare.create("g", Limits(memory_bytes=1 << 20))
    assert bare.groups() == []


def test_group_without_controllers_holds_kills_and_counts(bare):
    group = bare.create("g", Limits())

    def multiply():
        os.fork()
        sum(range(1_000_000))
        signal.pause()

    with child(group, multiply) as pid:
        until(lambda: len(group.pids()) == 2 and group.usage().cpu_micros > 0)
        assert bare.sweep() == []
        group.kill()
        assert wait_for_exit(pid) == -signal.SIGKILL
        until(lambda: not group.pids())
    usage = group.usage()
    assert (usage.memory_bytes, usage.memory_peak_bytes, usage.oom_kills, usage.pids) == (
        0,
        None,
        0,
        0,
    )
    assert bare.sweep() == ["g"]


def test_group_is_killed_one_by_one_without_cgroup_kill(bare):
    group = bare.create("g", Limits())

    def multiply():
        while True:
            if len(group.pids()) < 20:
                with suppress(OSError):
                    os.fork()

    with child(group, multiply) as pid:
        until(lambda: len(group.pids()) >= 20)
        # What GroupV2 does where there is no cgroup.kill, on kernels before 5.14.
        super(GroupV2, group).kill()
        assert wait_for_exit(pid) == -signal.SIGKILL
        until(lambda: not group.pids())


def test_own_processes_move_to_a_leaf(bare, unified):
    """In a delegated group: a process opens its tree there, twice, as an agent that is started again."""
    base = bare.directories()[0]

    os.setxattr(base, "trusted.delegate", b"1")
    mount = Mount(unified, "/", "cgroup2", frozenset())

    def memberships():
        with open("/proc/self/cgroup", encoding="ascii") as file:
            return file.read()

    def delegated():
        # In a child, whose death takes nothing along: exit status 0 says that all of it held.
        with open(f"{base}/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
        assert _choose_base(mount, memberships()) == (base, True)
        found, _ = make_tree(base, "limpet", needs_leaf=True)
        assert _choose_base(mount, memberships()) == (base, False)
        assert f"0::{base.removeprefix(unified)}/node\n" in memberships()
        again, _ = make_tree(base, "limpet", needs_leaf=True)
        assert found == again
        assert found[UNIFIED] == f"{base}/limpet"

    pid = os.fork()
    if pid == 0:
        try:
            delegated()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert wait_for_exit(pid) == 0
    os.rmdir(f"{base}/limpet")


def test_complete_limits_are_in_force(complete):
    group = complete.create("g", Limits(cpu_cores=0.2, memory_bytes=1 << 25, pids=9))
    (directory,) = group.directories()

    def read(name):
        with open(f"{directory}/{name}", encoding="ascii") as file:
            return file.read().strip()

    assert read("cpu.max") == "20000 100000"
    assert read("memory.max") == str(1 << 25)
    assert read("memory.high") == "max"
    assert read("memory.oom.group") == "1"
    assert read("pids.max") == "9"
    if os.path.exists(f"{directory}/memory.swap.max"):
        assert read("memory.swap.max") == "0"
    group.set_limits(Limits())
    assert read("cpu.max") == "max 100000"
    assert read("memory.max") == read("pids.max") == "max"


def test_complete_delegation(complete):
    """A process in a group with systemd's mark opens the hierarchy and finds itself in the leaf."""
    service = complete.directories()[0]
    os.setxattr(service, "trusted.delegate", b"1")

    def delegated():
        with open(f"{service}/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
        for _ in range(2):
            tree = cgroup.open_hierarchy("inner")
            assert tree.directories() == [f"{service}/inner"]
            assert tree.controllers == {"cpu", "memory", "pids"}
        tree.create("g", Limits(cpu_cores=0.1, memory_bytes=1 << 25, pids=3)).remove()
        tree.remove()

    # The tree handed its controllers down already, so it can hold a process only without them.
    with open(f"{service}/cgroup.subtree_control", "w", encoding="ascii") as file:
        file.write("-cpu -memory -pids")
    pid = os.fork()
    if pid == 0:
        try:
            delegated()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert wait_for_exit(pid) == 0
