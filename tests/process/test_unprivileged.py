"""A node of an ordinary user: what needs no root still stands, and the rest is said to be missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from guests import build_guest
from running_node import PATIENCE_SECONDS, RunningNode
from workloads import claim, http_app, job

from limpet.linux import landlock, seccomp

if TYPE_CHECKING:
    from collections.abc import Iterator

_UID = 48_211  # nobody's: files of a user that exists would be within reach
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root, to become a user that has nothing"
)


class UserNode(RunningNode):
    """A node that runs as `_UID`."""

    def as_user(self) -> dict[str, Any]:
        return {"user": _UID, "group": _UID, "extra_groups": [], "env": self.environment()}

    def environment(self) -> dict[str, str]:
        home = str(self.directory)
        return {**super().environment(), "HOME": home, "TMPDIR": home}

    def start(self, *, is_awaited: bool = True) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd="/",
                stdout=log,
                stderr=log,
                process_group=0,
                **self.as_user(),
            )
        if is_awaited:
            self.wait_up()

    def limpet(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line as the same user."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "limpet", "--socket", str(self.socket_path), *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE_SECONDS,
            check=False,
            **self.as_user(),
        )


@pytest.fixture
def unstarted() -> Iterator[UserNode]:
    with tempfile.TemporaryDirectory(prefix="limpet-user-") as name:
        directory = Path(name)
        os.chown(directory, _UID, _UID)
        running = UserNode(directory)
        try:
            running.limpet("--version")
        except PermissionError:
            pytest.skip(f"needs an interpreter that any user can run, not {sys.executable}")
        yield running
        running.kill()


@pytest.fixture
def user_node(unstarted: UserNode) -> Iterator[UserNode]:
    unstarted.start()
    yield unstarted
    if unstarted.process is not None:
        unstarted.stop()


def fields_of(pid: int) -> dict[str, str]:
    """What the kernel says of a process (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in lines)}


def test_a_worker_is_walled_in_without_root(user_node: UserNode) -> None:
    user_node.apply(http_app("web", "echo"))
    [worker] = user_node.wait_ready("web")["workers"]
    assert user_node.request("web").status == 200
    fields = fields_of(worker["pid"])
    assert fields["Uid"].split() == [str(_UID)] * 4
    assert fields["NoNewPrivs"] == "1"
    assert fields["CapEff"] == fields["CapPrm"] == "0" * 16
    if seccomp.is_available():
        assert fields["Seccomp"] == "2"  # a filter


def test_a_volume_is_a_plain_folder(user_node: UserNode) -> None:
    user_node.apply(
        claim("readings"),
        http_app(
            "web",
            "echo",
            mounts={"/data": "readings"},
            volumes=[{"name": "readings", "persistentVolumeClaim": {"claimName": "readings"}}],
        ),
    )
    [volume] = user_node.wait_ready("web")["volumes"]
    assert volume["usage"] is None
    assert (user_node.data / "volumes/default/readings/data").is_dir()
    told = user_node.limpet("get", "pvc").stdout.splitlines()
    assert told[0].split() == ["NAME", "SIZE", "ACCESS", "USED", "AGE"]
    assert told[1].split()[3] == "-"


def test_what_is_missing_is_said(user_node: UserNode) -> None:
    user_node.apply(http_app("web", "echo"))
    status = user_node.wait_ready("web")
    assert status["missing_walls"] == sorted(
        {"namespaces", "user"}
        | ({"landlock"} if landlock.abi_version() == 0 else set())
        | (set() if seccomp.is_available() else {"seccomp"})
    )
    assert set(status["limits"]["not_enforced"]) == {"cpu", "memory", "pids"}
    told = user_node.limpet("describe", "web").stdout
    assert "CPU (not enforced), 64Mi memory (engine only)" in told
    assert "running without namespaces, user: the node does not run as root" in told
    listed = user_node.limpet("get", "apps")
    assert "running without" in listed.stderr
    assert "running without" not in listed.stdout


def test_an_app_that_requires_what_is_missing_does_not_run(user_node: UserNode) -> None:
    web = http_app("web", "echo")
    annotations = web["metadata"].setdefault("annotations", {})
    annotations["limpet.dev/require"] = "landlock,namespaces"
    user_node.apply(web)
    status = user_node.wait_reason("web", "MissingFacility")
    assert "namespaces" in status["message"]
    assert "landlock" not in status["message"] or landlock.abi_version() == 0


def test_the_doctor_and_the_node_agree(user_node: UserNode) -> None:
    user_node.apply(claim("data"), job("done", "job_exit"))
    done = user_node.limpet("doctor", "-o", "json", "--data", str(user_node.data))
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    own = report["node"]["facilities"]
    known = {name: is_there for name, is_there in own.items() if is_there is not None}
    assert known == {name: report["facilities"][name] for name in known}
    assert {"cgroup", "user", "namespaces"} <= known.keys()
    assert report["node"]["keys"]["source"] == "file"


def test_running_a_command_needs_no_node_and_no_root(unstarted: UserNode) -> None:
    module = unstarted.directory / "report.wasm"
    module.write_bytes(build_guest("job_exit").read_bytes())
    module.chmod(0o644)
    done = unstarted.limpet("run", str(module))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "started\n"
    assert done.stderr.count("only the engine's hold") == 1
