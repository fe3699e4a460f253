"""A node whose disk is full: it goes on, forgets nothing that it was told, and ends properly."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from guests import build_guest
from running_node import RunningNode, wait_for
from workloads import http_app, job

from oci_server import OciServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root")


class SmallNode(RunningNode):
    """A node whose data lie in a file system in memory of 16 MiB."""

    def __init__(self, directory: Path, disk: Path) -> None:
        super().__init__(directory, {"LIMPET_NODE_BACKOFF_SECONDS": "0.3"})
        self.data = disk / "data"
        self._ballast = disk / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb") as file:
            for chunk in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        end = os.fstat(file.fileno()).st_size
                        os.posix_fallocate(file.fileno(), end, chunk)
        assert os.statvfs(self._ballast).f_bavail == 0

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def small_node(tmp_path: Path) -> Iterator[SmallNode]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "small", disk], check=True)
    node = SmallNode(tmp_path, disk)
    try:
        node.start()
        yield node
    finally:
        node.kill()
        subprocess.run(["umount", disk], check=True)


def test_a_job_that_ends_on_a_full_disk_does_not_run_again(small_node: SmallNode) -> None:
    node = small_node
    node.apply(job("once", "sleep", env={"GUEST_MS": "1000"}))
    node.wait_phase("once", "Running")
    node.fill()
    node.wait_phase("once", "Succeeded")
    node.free()
    wait_for(lambda: len(node.events("once", "Completed")) == 1, "the event")
    node.kill()
    node.start()
    assert node.status("once")["phase"] == "Succeeded"
    node.stop()


def test_a_node_ends_properly_on_a_full_disk(small_node: SmallNode) -> None:
    small_node.apply(http_app("served", "echo"))
    small_node.wait_ready("served")
    small_node.fill()
    os.kill(small_node.pid("zygote"), 9)  # something to be told, which can't be written
    wait_for(lambda: small_node.events(reason="ZygoteRestarted"), "the event")
    small_node.stop()


def test_a_download_without_room_holds_nothing_open(small_node: SmallNode) -> None:
    node = small_node
    with OciServer() as registry:
        registry.add_module("acme/app", "1", build_guest("echo").read_bytes())
        node.fill()
        node.apply(http_app("pulled", f"oci://{registry.host}/acme/app:1"))
        wait_for(lambda: node.events("pulled", "DiskPressure"), "a first attempt")
        descriptors = Path(f"/proc/{node.pid('agent')}/fd")
        assert [each for each in descriptors.iterdir() if "downloads" in os.readlink(each)] == []
    node.stop()
