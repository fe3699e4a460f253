"""`limpet doctor` says what is so: compared with trying, also after a facility was taken away."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import limpet
import wasmedge_prefix
from limpet.engine.wasmedge import library
from limpet.linux import landlock
from limpet.linux.calls import number_of
from limpet.linux.cgroup import CgroupUnavailableError, Limits, inspect_host, open_hierarchy
from limpet.manifest.model import Facility

if TYPE_CHECKING:
    from limpet.engine.wasmedge.library import Installation

_SOURCES = Path(limpet.__file__).parents[1]
_NOBODY = 65534
_SECONDS = 120
_TOOL_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")
_CGROUPS = Path("/sys/fs/cgroup")
_COMPILED, _INTERPRETED = "ahead-of-time", "interpreter"
_PROGRAM = """
import sys
{before}
from limpet.cli.main import main
sys.argv = ["limpet", *{arguments!r}]
main()
"""
# The rest of the program sees these folders empty; so does everything that it starts.
_HIDE = """
from limpet.linux import mount, namespaces
namespaces.unshare(namespaces.CLONE_NEWNS)
mount.mount(None, "/", None, flags=mount.MS_REC | mount.MS_SLAVE)
for folder in {folders!r}:
    mount.mount("hidden", folder, "tmpfs")
"""
# BPF: load the system call's number; if it is the one, answer ENOSYS; else allow (seccomp(2)).
_NO_SYSTEM_CALL = """
import struct
from limpet.linux import process, seccomp
process.set_no_new_privileges()
seccomp.install(b"".join(struct.pack("=HBBI", *each) for each in (
    (0x20, 0, 0, 0), (0x15, 0, 1, {number}), (0x06, 0, 0, 0x50000 | {errno}), (0x06, 0, 0, 0x7FFF0000),
)))
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@dataclass(frozen=True)
class Answer:
    code: int
    report: dict[str, Any]

    def finding(self, name: str) -> dict[str, Any]:
        return next(each for each in self.report["findings"] if each["name"] == name)

    def lacks(self) -> set[str]:
        return {name for name, is_there in self.report["facilities"].items() if not is_there}


class Doctor:
    """Runs the command in a process of its own, with a temporary folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.scratch.chmod(0o777)

    def __call__(self, before: str = "", *, user: int | None = None) -> Answer:
        arguments = ["doctor", *self._data, "--socket", str(self.folder / "none.sock")]
        done = self.run(_PROGRAM.format(before=before, arguments=arguments), user=user)
        assert done.returncode in (0, 1), done.stderr
        return Answer(done.returncode, json.loads(done.stdout))

    def engines(self) -> list[dict[str, Any]]:
        """What `limpet engine list` says."""
        done = self.run(_PROGRAM.format(before="", arguments=["engine", "list", *self._data]))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["items"]

    @property
    def _data(self) -> list[str]:
        return ["-o", "json", "--data", str(self.folder / "data")]

    def run(self, program: str, *, user: int | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program],
            env={
                **os.environ,
                "PYTHONPATH": str(_SOURCES),
                "TMPDIR": str(self.scratch),
                "HOME": str(self.folder),
            },
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            **({} if user is None else {"user": user, "group": user, "extra_groups": []}),  # type: ignore[call-overload]
        )


@pytest.fixture
def doctor(tmp_path_factory: pytest.TempPathFactory) -> Doctor:
    folder = tmp_path_factory.mktemp("doctor")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)
    return Doctor(folder)


def works(*command: str) -> bool:
    """Whether a program of this machine can do it."""
    done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    return done.returncode == 0


def tool_folders() -> list[str]:
    found = {os.path.realpath(at) for at in _TOOL_FOLDERS if Path(at, "mkfs.ext4").exists()}
    return sorted(found)


def left_behind() -> list[str]:
    groups = [str(path) for path in _CGROUPS.glob("**/limpet-doctor*")]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return groups + [line for line in mounts if "limpet-doctor" in line]


def handed_down() -> str:
    """What cgroup v2's root hands down, which a trial may only change for as long as it lasts."""
    path = _CGROUPS / "cgroup.subtree_control"
    return path.read_text() if path.exists() else ""


@needs_root
def test_what_it_says_of_root_is_what_can_be_done(doctor: Doctor, tmp_path: Path) -> None:
    answer = doctor()
    facilities = answer.report["facilities"]
    assert set(facilities) == set(map(str, Facility))
    assert facilities["landlock"] == (landlock.abi_version() > 0)
    assert facilities["seccomp"] == Path("/proc/sys/kernel/seccomp/actions_avail").exists()
    assert facilities["namespaces"] == works("unshare", "-m", "-n", "-i", "-u", "true")
    assert facilities["user"] == works("setpriv", "--reuid", "4711", "--clear-groups", "true")
    image, target = tmp_path / "image", tmp_path / "target"
    target.mkdir()
    image.write_bytes(b"")
    os.truncate(image, 16 << 20)
    is_made = works("/sbin/mkfs.ext4", "-q", str(image)) and works(
        "unshare", "-m", "mount", "-o", "loop", str(image), str(target)
    )
    assert facilities["volumes"] == is_made
    missing = [each for each in answer.report["findings"] if each["level"] == "missing"]
    assert answer.code == (1 if missing else 0)
    assert answer.report["ok"] == (not missing)
    assert all(each["without"] and each["fix"] for each in missing)


@needs_root
def test_limits_are_those_that_the_kernel_takes(doctor: Doctor) -> None:
    if inspect_host().needs_leaf:
        pytest.skip("needs control groups that can be used without moving the processes there")
    finding = doctor().finding("cgroup")["details"]
    try:
        tree = open_hierarchy(f"limpet-test-{os.getpid()}")
    except CgroupUnavailableError:
        assert finding["controllers"] == []
        return
    try:
        tree.create("trial", Limits()).remove()
        assert finding["controllers"] == sorted(tree.controllers)
        assert finding["version"] == tree.version
    finally:
        tree.remove()


@needs_root
def test_nothing_is_left_behind(doctor: Doctor) -> None:
    before = handed_down()
    doctor()
    assert list(doctor.scratch.iterdir()) == []
    assert not (doctor.folder / "data").exists()
    assert left_behind() == []
    assert handed_down() == before


@needs_root
def test_a_user_who_is_not_root_lacks_what_needs_root(doctor: Doctor) -> None:
    try:
        doctor.run("import limpet.cli.main", user=_NOBODY)
    except PermissionError:
        pytest.skip(f"needs an interpreter that user {_NOBODY} can run, not {sys.executable}")
    as_root, answer = doctor(), doctor(user=_NOBODY)
    assert {"user", "namespaces", "volumes", "encryption"} <= answer.lacks()
    for name in ("landlock", "seccomp"):  # these two need no rights
        assert answer.report["facilities"][name] == as_root.report["facilities"][name]
    assert answer.code == 1
    assert answer.report["uid"] == _NOBODY
    assert "root" in answer.finding("user")["fix"]
    assert list(doctor.scratch.iterdir()) == []


@needs_root
def test_without_landlock(doctor: Doctor) -> None:
    before = _NO_SYSTEM_CALL.format(number=number_of("landlock_create_ruleset"), errno=errno.ENOSYS)
    with_it, without = doctor(), doctor(before)
    assert without.lacks() == with_it.lacks() | {"landlock"}
    assert without.finding("landlock")["details"]["abi"] == 0
    assert without.code == 1


@needs_root
def test_without_the_right_to_make_namespaces(doctor: Doctor) -> None:
    before = _NO_SYSTEM_CALL.format(number=number_of("unshare"), errno=errno.EPERM)
    with_it, without = doctor(), doctor(before)
    # A volume is only tried in a mount namespace that the device does not see.
    expected = {"namespaces", "volumes", "encryption"}
    assert without.lacks() == with_it.lacks() | expected
    assert "CAP_SYS_ADMIN" in without.finding("namespaces")["fix"]


@needs_root
def test_without_the_tools_that_make_file_systems(doctor: Doctor) -> None:
    if not tool_folders() or shutil.which("unshare") is None:
        pytest.skip("needs mkfs.ext4, to be taken away")
    with_it, without = doctor(), doctor(_HIDE.format(folders=tool_folders()))
    assert without.lacks() == with_it.lacks() | {"volumes", "encryption"}
    assert "e2fsprogs" in without.finding("volumes")["fix"]


@needs_root
def test_without_control_groups(doctor: Doctor) -> None:
    if not _CGROUPS.is_dir():
        pytest.skip(f"needs {_CGROUPS}, to be hidden")
    with_it, without = doctor(), doctor(_HIDE.format(folders=[str(_CGROUPS)]))
    assert without.lacks() == with_it.lacks() | {"cgroup"}
    assert without.finding("cgroup")["details"]["controllers"] == []


def test_engine_and_state_are_tried(doctor: Doctor) -> None:
    answer = doctor()
    for name in ("engine", "state-encryption"):
        assert answer.finding(name)["level"] == "ok"
    assert answer.finding("engine")["details"]["name"].startswith("wasmtime ")
    assert answer.report["node"] == {"running": False, "problem": None}


def test_both_engines_are_what_the_list_of_engines_says(
    doctor: Doctor, wasmedge: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in wasmedge_prefix.environment(wasmedge).items():
        monkeypatch.setenv(name, value)
    answer, (first, second) = doctor(), doctor.engines()
    assert (first["state"], first["default"], first["modes"]) == ("usable", True, [_COMPILED])
    assert answer.finding("engine")["details"]["name"] == f"wasmtime {first['version']}"
    assert (second["state"], second["default"]) == ("usable", False)
    assert second["where"] == wasmedge.library
    finding = answer.finding("second-engine")
    assert finding["level"] == "ok"
    assert finding["found"].startswith(f"WasmEdge {second['version']},")
    assert finding["details"] == {
        "state": "usable",
        "where": wasmedge.library,
        "modes": [_COMPILED, _INTERPRETED],
    }


def test_without_the_second_engine(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(library.ROOT_VARIABLE, str(tmp_path))
    answer, (_, second) = doctor(), doctor.engines()
    assert (second["state"], second["where"], second["modes"]) == ("missing", "", [])
    finding = answer.finding("second-engine")
    assert (finding["level"], finding["details"]["state"]) == ("ok", "missing")
    assert "limpet engine install wasmedge" in finding["found"]


def test_a_second_engine_that_does_not_run(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "usr/lib" / library.this_machine().triplet / library.LIBRARY
    broken.parent.mkdir(parents=True)
    shutil.copyfile(sys.executable, broken)  # for this machine, and no library
    monkeypatch.setenv(library.ROOT_VARIABLE, str(tmp_path))
    answer, (_, second) = doctor(), doctor.engines()
    assert (second["state"], second["where"]) == ("broken", str(broken))
    finding = answer.finding("second-engine")
    assert (finding["level"], finding["details"]["state"]) == ("hint", "broken")
    assert second["problem"] in finding["found"]
