"""What is found and what is said of what is missing, from files that look like proc and cgroup mounts."""

import os

import pytest

from limpet.linux import cgroup
from limpet.linux.cgroup import CgroupUnavailableError
from limpet.linux.cgroup.discovery import Mount, explain_missing, inspect_host, parse_mountinfo

HEADER = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"


class Host:
    """A proc file system and mounts in a directory of the test's."""

    def __init__(self, path):
        self.path = path
        self.proc = path / "proc"
        (self.proc / "self").mkdir(parents=True)
        self.mounts = []
        self.write("proc/self/mountinfo", "22 1 0:20 / /proc rw - proc proc rw\n")
        self.write("proc/self/cgroup", "0::/\n")

    def write(self, name, text):
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def mount(self, name, kind, options, root="/"):
        point = self.path / name
        point.mkdir(exist_ok=True)
        escaped = str(point).replace(" ", "\\040")
        self.mounts.append(
            f"31 23 0:28 {root} {escaped} rw,nosuid shared:9 - {kind} none {options}\n"
        )
        self.write("proc/self/mountinfo", "".join(self.mounts))

    def group(self, name, controllers, *, is_root=False):
        if not is_root:
            self.write(f"{name}/cgroup.type", "domain\n")
        for file in ("cgroup.procs", "cgroup.subtree_control"):
            self.write(f"{name}/{file}", "")
        self.write(f"{name}/cgroup.controllers", controllers)

    def inspect(self):
        return inspect_host(str(self.proc))

    def open(self, name="limpet"):
        return cgroup.open_hierarchy(name, proc=str(self.proc))

    def mark_delegated(self, name):
        try:
            os.setxattr(self.path / name, "user.delegate", b"1")
        except OSError as error:
            pytest.skip(f"the temporary directory's file system takes no user attributes: {error}")


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_mountinfo_with_and_without_optional_fields_and_with_escapes():
    text = (
        "36 31 0:33 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
        "37 31 0:34 /docker/1 /mnt/a\\040b\\134c rw shared:4 master:1 - cgroup none rw,cpu,cpuacct\n"
        "38 31 0:35 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
        "39 31 0:36 / /tmp rw - tmpfs tmpfs rw\n"
    )
    assert parse_mountinfo(text) == [
        Mount("/sys/fs/cgroup/memory", "/", "cgroup", frozenset({"rw", "memory"})),
        Mount("/mnt/a b\\c", "/docker/1", "cgroup", frozenset({"rw", "cpu", "cpuacct"})),
        Mount("/sys/fs/cgroup/unified", "/", "cgroup2", frozenset({"rw", "nsdelegate"})),
    ]


def test_v2_with_all_controllers(host):
    host.mount("fs", "cgroup2", "rw")
    host.group("fs", "cpuset cpu io memory pids\n", is_root=True)
    found = host.inspect()
    assert (found.version, found.controllers, found.missing) == (2, {"cpu", "memory", "pids"}, {})
    assert found.bases["cpu"] == str(host.path / "fs")
    assert not found.needs_leaf


def test_hybrid_is_v1_and_mounts_are_where_they_are(host):
    host.mount("fs", "cgroup2", "rw")
    host.group("fs", "hugetlb\n", is_root=True)
    host.mount("deep", "cgroup", "rw,memory", root="/docker/1")
    host.mount("with space", "cgroup", "rw,cpu,cpuacct")
    host.mount("memory", "cgroup", "rw,memory")
    host.mount("pids", "cgroup", "rw,pids")
    host.mount("systemd", "cgroup", "rw,name=systemd")
    found = host.inspect()
    assert found.version == 1
    together = str(host.path / "with space")
    assert found.bases == {
        "cpu": together,
        "cpuacct": together,
        "memory": str(host.path / "memory"),
        "pids": str(host.path / "pids"),
    }
    tree = host.open()
    assert tree.version == 1
    assert tree.directories() == [f"{base}/limpet" for base in dict.fromkeys(found.bases.values())]


def test_v1_tree_is_made_everywhere_or_nowhere(host):
    host.mount("cpu", "cgroup", "rw,cpu")
    host.mount("memory", "cgroup", "rw,memory")
    host.write("memory/limpet", "a file in the way")
    with pytest.raises(FileExistsError):
        host.open()
    assert not (host.path / "cpu/limpet").exists()


def test_raspberry_pi_os_without_memory(host):
    host.mount("fs", "cgroup2", "rw")
    host.group("fs", "cpuset cpu io pids\n", is_root=True)
    host.write("proc/cgroups", f"{HEADER}cpu\t0\t60\t1\nmemory\t0\t60\t0\npids\t0\t60\t1\n")
    found = host.inspect()
    assert (found.version, found.controllers) == (2, {"cpu", "pids"})
    assert found.missing.keys() == {"memory"}
    assert "cgroup_enable=memory cgroup_memory=1" in found.missing["memory"]
    assert "/boot/firmware/cmdline.txt" in found.missing["memory"]


def test_nothing_mounted(host):
    host.write("proc/cgroups", f"{HEADER}cpu\t0\t1\t1\nmemory\t0\t1\t1\npids\t0\t1\t1\n")
    found = host.inspect()
    assert (found.version, found.controllers) == (None, frozenset())
    with pytest.raises(CgroupUnavailableError, match="mount -t cgroup2 none /sys/fs/cgroup"):
        host.open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_base_that_is_not_ours(host):
    host.mount("fs", "cgroup2", "rw")
    host.group("fs", "cpu memory pids\n", is_root=True)
    (host.path / "fs").chmod(0o555)
    with pytest.raises(CgroupUnavailableError, match="run as root"):
        host.open()


def test_delegated_group_is_used(host):
    host.mount("fs", "cgroup2", "rw")
    host.group("fs", "cpu memory pids\n", is_root=True)
    host.group("fs/system.slice/limpet.service", "cpu memory pids\n")
    host.write("proc/self/cgroup", "1:name=systemd:/x\n0::/system.slice/limpet.service\n")
    host.mark_delegated("fs/system.slice/limpet.service")
    found = host.inspect()
    assert found.needs_leaf
    assert set(found.bases.values()) == {str(host.path / "fs/system.slice/limpet.service")}
    with pytest.raises(ValueError, match="own processes"):
        host.open("node")


def test_leaf_of_a_delegated_group_is_recognised(host):
    host.mount("fs", "cgroup2", "rw", root="/system.slice")
    host.group("fs", "cpu memory pids\n")
    host.group("fs/limpet.service", "cpu memory pids\n")
    host.group("fs/limpet.service/node", "\n")
    host.write("proc/self/cgroup", "0::/system.slice/limpet.service/node\n")
    host.mark_delegated("fs/limpet.service")
    found = host.inspect()
    assert set(found.bases.values()) == {str(host.path / "fs/limpet.service")}
    assert not found.needs_leaf


def test_controllers_that_are_not_handed_down(host):
    host.mount("fs", "cgroup2", "rw")
    host.group("fs", "cpu memory pids\n", is_root=True)
    host.group("fs/limpet.service", "cpu\n")
    host.write("proc/self/cgroup", "0::/limpet.service\n")
    host.mark_delegated("fs/limpet.service")
    found = host.inspect()
    assert found.controllers == {"cpu"}
    assert "Delegate=cpu memory pids" in found.missing["memory"]


def test_root_of_a_container_needs_a_leaf(host):
    host.mount("fs", "cgroup2", "rw", root="/../..")
    host.group("fs", "cpu memory pids\n")
    assert host.inspect().needs_leaf


@pytest.mark.parametrize(
    ("controller", "known", "command_line", "text"),
    [
        ("memory", "memory\t0\t1\t0\n", "", "switched off at boot: add `cgroup_enable=memory"),
        ("memory", "", "quiet cgroup_disable=io,memory", "switched off at boot: add"),
        ("pids", "", "cgroup_disable=pids", "take `cgroup_disable=pids` off"),
        ("cpu", "cpu\t4\t1\t1\n", "", "cgroup v1 hierarchy that is not mounted"),
        ("cpu", "cpu\t0\t1\t1\n", "", "no cgroup file system with the cpu controller"),
        ("cpu", "", "", "does not offer the cpu controller: use a kernel built with it"),
        ("memory", "", "", "or add `cgroup_enable=memory"),
    ],
)
def test_reasons(controller, known, command_line, text):
    assert text in explain_missing(controller, known=HEADER + known, command_line=command_line)
