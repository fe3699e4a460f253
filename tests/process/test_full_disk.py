"""Nodes whose data is on a small disk of its own: it fills, the node lives on, and recovers by itself."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from guests import build_guest
from running_node import Json, Load, RunningNode, wait_for
from workloads import claim, config_map, http_app

from limpet.errors import TemporaryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/loop-control"),
    reason="needs root and loop devices",
)

_DISK_BYTES = 64 << 20


@pytest.fixture
def disk_node(
    make_node: Callable[..., RunningNode], tmp_path: Path
) -> Iterator[Callable[..., RunningNode]]:
    """Make nodes on ext4 file systems of 64 MB."""
    mounted: list[tuple[RunningNode, Path]] = []

    def make(name: str = "n", **environment: str) -> RunningNode:
        node = make_node(name, **{"LIMPET_NODE_RESYNC_SECONDS": "1"} | environment)
        image = tmp_path / f"{name}.img"
        with image.open("wb") as file:
            file.truncate(_DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, timeout=30)
        node.data.mkdir()
        subprocess.run(["mount", "-o", "loop", image, node.data], check=True, timeout=30)
        mounted.append((node, node.data))
        return node

    yield make
    for node, place in mounted:
        if node.process is not None:
            node.kill()
        subprocess.run(["umount", place], check=True, timeout=30)


def fill(place: Path) -> None:
    """Take every block that is left."""
    with (place / "filler").open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 512):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
                    os.fsync(file.fileno())
    assert is_full(place)


def is_full(place: Path) -> bool:
    return os.statvfs(place).f_bavail * os.statvfs(place).f_frsize < 64 << 10


def condition(node: RunningNode, kind: str) -> Json:
    [found] = [each for each in node.client.node()["conditions"] if each["type"] == kind]
    return found


def node_events(node: RunningNode) -> list[str]:
    return [event["reason"] for event in node.events("test")]


def test_apps_serve_on_and_can_be_deleted_on_a_full_disk(
    disk_node: Callable[..., RunningNode],
) -> None:
    node = disk_node()
    node.start()
    node.apply(http_app("stays", "echo"), http_app("goes", "echo"))
    node.wait_ready("stays")
    node.wait_ready("goes")
    reserve = node.data / "reserve"
    wait_for(reserve.exists, "the reserve")
    pids = [node.pid(role) for role in ("launcher", "agent", "zygote")]
    with Load(node.port("stays"), clients=1, pause_seconds=0.01) as load:
        fill(node.data)
        wait_for(lambda: condition(node, "DiskPressure")["status"] == "True", "the pressure")
        with pytest.raises(TemporaryError, match="nothing new is stored"):
            node.upload(build_guest("empty").read_bytes() + b"\0\2\1x")
        # More than the log of the database has room for: the reserve is given up for it.
        node.apply(config_map("large", text=base64.b85encode(os.urandom(720_000)).decode()))
        assert not reserve.exists()
        fill(node.data)
        node.delete("Deployment", "goes")
        wait_for(lambda: node.is_gone("goes"), "the app's end")
        load.wait_more(20)
        assert "NodeHasDiskPressure" in node_events(node)
        (node.data / "filler").unlink()
        wait_for(lambda: condition(node, "DiskPressure")["status"] == "False", "the relief")
        wait_for(reserve.exists, "the reserve")
        node.apply(http_app("comes", "status_only"))
        node.wait_ready("comes")
        load.wait_more(20)
    assert load.failures == []
    assert [node.pid(role) for role in ("launcher", "agent", "zygote")] == pids
    assert node_events(node).count("NodeHasNoDiskPressure") == 1
    node.stop()


def test_a_node_comes_up_on_a_full_disk(disk_node: Callable[..., RunningNode]) -> None:
    node = disk_node()
    node.start()
    node.apply(http_app("stays", "echo"), http_app("goes", "echo"))
    node.wait_ready("stays")
    wait_for((node.data / "reserve").exists, "the reserve")
    for _ in range(2):
        fill(node.data)
        node.kill()
        node.start()
        node.wait_ready("stays")
        assert node.request("stays").status == 200
    fill(node.data)
    node.delete("Deployment", "goes")
    (node.data / "filler").unlink()
    wait_for(lambda: condition(node, "DiskPressure")["status"] == "False", "the relief")
    node.restart()
    assert [app["name"] for app in node.client.apps()] == ["stays"]
    node.stop()


def test_what_nothing_needs_is_evicted_and_what_a_release_needs_is_not(
    disk_node: Callable[..., RunningNode],
) -> None:
    node = disk_node(LIMPET_DISK_GRACE_MINUTES="0.0001")
    node.start()
    node.apply(http_app("stays", "echo"), http_app("goes", "status_only"))
    needed = node.wait_ready("stays")["digest"]
    unneeded = node.wait_ready("goes")["digest"]
    node.delete("Deployment", "goes")
    wait_for(lambda: node.is_gone("goes"), "the app's end")
    assert node.client.has_module(unneeded)
    fill(node.data)
    wait_for(lambda: "Evicted" in node_events(node), "an eviction")
    assert not node.client.has_module(unneeded)
    assert node.client.has_module(needed)
    assert not list(node.data.glob(f"artifacts/{unneeded[7:]}*"))
    assert list(node.data.glob(f"artifacts/{needed[7:]}*"))
    (node.data / "filler").unlink()
    wait_for(lambda: condition(node, "DiskPressure")["status"] == "False", "the relief")
    node.apply(http_app("goes", "status_only"))  # the client uploads it again
    node.wait_ready("goes")
    node.stop()


def book_app(size: str) -> list[Json]:
    """Return a claim of this size, and an app that keeps a book on it."""
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": "kept"}}
    return [
        claim("kept", size),
        http_app("book", "ledger", volumes=[volume], mounts={"/data": "v"}),
    ]


def write_line(node: RunningNode, number: int) -> bool:
    """Whether the app could write a line, durably."""
    return node.request("book", f"/?id=n{number}", method="POST").status == 201


def make_read_only(node: RunningNode) -> int:
    """Fill the disk below a volume that is not set aside, until it can't be written; return lines in it."""
    written = 0
    assert write_line(node, written)
    fill(node.data)
    while write_line(node, written + 1):
        written += 1
    wait_for(
        lambda: not write_line(node, -1) and node.events("book", "VolumeReadOnly"), "the event"
    )
    return written


def check_recovered(node: RunningNode, written: int) -> None:
    (node.data / "filler").unlink()
    wait_for(lambda: node.events("book", "VolumeRecovered"), "the recovery")
    node.wait_ready("book")
    assert write_line(node, written + 1)
    book = node.request("book").text
    assert all(f"E n{number} " in book for number in range(written + 2))
    assert not node.events("book", "VolumeRepaired")


def test_a_first_release_that_had_no_room_completes_once_there_is_some(
    disk_node: Callable[..., RunningNode],
) -> None:
    node = disk_node(LIMPET_NODE_BACKOFF_SECONDS="0.2")
    node.start()

    def status() -> str:
        [only] = node.client.releases(namespace="default", name="book")
        return str(only["status"])

    (node.data / "filler").write_bytes(bytes(40 << 20))
    node.apply(*book_app("30Mi"))
    wait_for(lambda: status() == "failed", "the verdict")
    assert "VolumeTooLarge" in node.events("book", "ReleaseFailed")[0]["message"]
    (node.data / "filler").unlink()
    node.wait_ready("book")
    wait_for(lambda: status() == "complete", "another verdict")
    assert write_line(node, 0)
    node.stop()


def test_an_app_writes_to_its_volume_on_a_full_disk(disk_node: Callable[..., RunningNode]) -> None:
    node = disk_node()
    node.start()
    node.apply(*book_app("16Mi"))
    node.wait_ready("book")
    fill(node.data)
    wait_for(lambda: condition(node, "DiskPressure")["status"] == "True", "the pressure")
    assert all(write_line(node, number) for number in range(50))
    reasons = {event["reason"] for event in node.events("book")}
    assert not reasons & {"VolumeNotSetAside", "VolumeReadOnly"}
    node.stop()


def test_a_volume_that_a_full_disk_made_read_only_recovers(
    disk_node: Callable[..., RunningNode],
) -> None:
    node = disk_node()
    node.start()
    node.apply(http_app("other", "echo"), *book_app("38Mi"))
    node.wait_ready("other")
    node.wait_ready("book")
    assert node.events("book", "VolumeNotSetAside")
    pids = [node.pid(role) for role in ("launcher", "agent", "zygote")]
    with Load(node.port("other"), clients=1, pause_seconds=0.01) as load:
        written = make_read_only(node)
        check_recovered(node, written)
        load.wait_more(20)
    assert load.failures == []
    assert [node.pid(role) for role in ("launcher", "agent", "zygote")] == pids
    assert not node.events("other", "VolumeReadOnly")
    node.stop()


def test_a_volume_recovers_whose_agent_died_meanwhile(
    disk_node: Callable[..., RunningNode],
) -> None:
    node = disk_node()
    node.start()
    node.apply(*book_app("38Mi"))
    node.wait_ready("book")
    written = make_read_only(node)
    agent = node.pid("agent")
    os.kill(agent, signal.SIGKILL)
    wait_for(lambda: node.pid("agent") != agent, "another agent")
    node.wait_up()
    check_recovered(node, written)
    node.stop()
