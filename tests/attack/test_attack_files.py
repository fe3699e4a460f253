"""Native code in a worker looks for files, descriptors and memory that are not its app's."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from attack_node import AttackNode, outside
from escaped_node import module
from running_node import wait_for
from workloads import claim, config_map, http_app, secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WORD = "planted-for-the-victim-31"
DATA = {"name": "data", "persistentVolumeClaim": {"claimName": "mine"}}
OTHER = {"name": "other", "persistentVolumeClaim": {"claimName": "second"}}
THEIRS = {"name": "theirs", "persistentVolumeClaim": {"claimName": "theirs"}}


def place_victim(node: AttackNode) -> None:
    """Start an app next door with everything that is worth reading."""
    node.apply(claim("theirs"), secret("kept", word=WORD), config_map("settings", word=WORD))
    node.place_escaped(
        "victim",
        env={"WORD": {"secretKeyRef": {"name": "kept", "key": "word"}}},
        volumes=[
            THEIRS,
            {"name": "files", "secret": {"secretName": "kept"}},
        ],
        mounts={"/data": "theirs", "/files": "files"},
    )
    assert node.run("victim", "write_path", path="diary", at=0) == "written"
    node.run("victim", "write_log", megabytes=0)


def place_evil(node: AttackNode, **fields: Any) -> None:
    node.apply(claim("mine"), claim("second"))
    node.place_escaped(
        "evil", volumes=[DATA, OTHER], mounts={"/data": "data", "/other": "other"}, **fields
    )


def treasures(node: AttackNode) -> list[str]:
    """Paths that are all there, as the control shows, and none of them the app's."""
    victim, agent = node.worker_pid("victim"), node.pid("agent")
    return [
        "/etc/passwd",
        "/proc/self/environ",
        f"/proc/{agent}/environ",
        f"/proc/{agent}/maps",
        f"/proc/{victim}/mem",
        f"{node.directory}/data.key",
        *(str(path) for path in node.data.rglob("*") if path.is_file()),
        "/tmp",
        "/sys/fs/cgroup",
        "/dev",
    ]


def test_nothing_of_the_device_can_be_opened(node: AttackNode) -> None:
    place_victim(node)
    place_evil(node)
    paths = treasures(node)
    assert f"{node.data}/state.db" in paths
    found = node.run("evil", "read_paths", paths=paths)
    assert len(found) == 3 * len(paths)
    assert set(found.values()) <= {"ENOENT", "EACCES", "EXDEV"}, found


def test_outside_a_worker_all_of_that_can_be_opened(node: AttackNode) -> None:
    """The control: the same code, without walls, finds every file that the attack looks for."""
    place_victim(node)
    place_evil(node)
    paths = [path for path in treasures(node) if not path.endswith("/mem")]
    ending = outside("read_paths", {"paths": paths})
    missed = [path for path, value in ending.result.items() if value in ("ENOENT", "EACCES")]
    assert missed == []
    climbing = os.open(node.data, os.O_RDONLY)
    try:
        ending = outside("read_path", {"path": "../" * 20 + "etc/passwd", "at": 0}, [climbing])
    finally:
        os.close(climbing)
    assert "root:" in ending.result


@pytest.mark.parametrize("path", ["..", "../..", "data/..", "/..", "/proc/self/fd", "/dev/fd"])
def test_no_directory_leads_up(node: AttackNode, path: str) -> None:
    place_evil(node)
    assert node.run("evil", "write_path", path="own", at=0) == "written"
    for at in (0, 1):
        found = node.run("evil", "read_path", path=path, at=at)
        assert found in ("ENOENT", "EACCES") or set(found.split()[1:]) <= {"own", "lost+found"}, (
            found
        )


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../../../../../etc/passwd", "/proc/1/root", "/"]
)
def test_a_link_in_a_volume_leads_nowhere(node: AttackNode, target: str) -> None:
    place_evil(node)
    made, found = node.run("evil", "through_link", target=target, at=0)
    assert made == 0, "making it is no harm"
    assert found in ("ENOENT", "EACCES", "ELOOP"), found


def test_files_do_not_move_from_one_volume_to_another(node: AttackNode) -> None:
    place_evil(node)
    results = node.run("evil", "across", old=0, new=1)
    assert results == {
        "mkdir": 0, "rename file": "EXDEV", "rename folder": "EXDEV", "link": "EXDEV",
    }  # fmt: skip


def test_climbing_while_a_directory_moves_leads_nowhere(node: AttackNode) -> None:
    place_evil(node)
    seen = node.run("evil", "swap_and_climb", rounds=1500)
    inside = {"a", "x", "lost+found"}
    for each in seen:
        assert each in ("ENOENT", "EACCES", "EXDEV") or set(each.split()[1:]) <= inside, each


@pytest.mark.parametrize("path", ["/planted", "/tmp/planted", "../planted"])
def test_nothing_can_be_written_outside_of_volumes(node: AttackNode, path: str) -> None:
    place_evil(node)
    found = node.run("evil", "write_path", path=path)
    assert found in ("ENOENT", "EACCES", "EROFS"), found


def test_a_volume_that_is_mounted_to_be_read_is_not_written_natively(node: AttackNode) -> None:
    node.apply(claim("mine"))
    item = http_app("reader", "escaped", volumes=[DATA], mounts={"/data": "data"})
    item["spec"]["template"]["spec"]["containers"][0]["volumeMounts"][0]["readOnly"] = True
    node.place(module(), item)
    node.wait_ready("reader")
    assert node.run("reader", "write_path", path="new", at=0) in ("EACCES", "EROFS")


# Descriptors


# Every kind that an app's worker has, and why it may.
JUSTIFIED = {
    ("device 1:3", "read"): "its standard input, which is empty",
    ("device 1:3", "write"): "where output goes once the agent is gone",
    ("pipe", "write"): "its log: the agent reads the other end",
    ("anonymous", "both"): "its event loop, and what wakes it",
    ("unix socket", "both"): "its control socket: the agent decodes strictly",
    ("inet listener", "both"): "its own port",
    ("inet socket", "both"): "its clients",
    ("directory", "read"): "its volumes",
    ("memory file", "both"): "the rehearsal's artifact, sealed",
}
_F_SEAL_WRITE = 8


def test_every_open_descriptor_is_justified(node: AttackNode) -> None:
    place_victim(node)
    place_evil(node)
    found = node.run("evil", "descriptors")
    unjustified = [each for each in found if (each["kind"], each["access"]) not in JUSTIFIED]
    assert unjustified == []
    count = [each["kind"] for each in found].count
    assert (count("directory"), count("unix socket"), count("inet listener"), count("pipe")) == (
        2,
        1,
        1,
        2,
    )


def test_no_file_that_workers_share_can_be_written(node: AttackNode) -> None:
    """What one worker could change there, the next one, of another app, would run."""
    node.place_escaped("evil")
    written = [
        n for n, result in node.run("evil", "write_inherited").items() if result == "written"
    ]
    found = {str(each["number"]): each for each in node.run("evil", "descriptors")}
    assert [found[number] for number in written] == []


@pytest.fixture
def node_in_a_terminal(make_node: Callable[..., AttackNode]) -> Iterator[AttackNode]:
    """A node in the foreground, as a person starts it to try it."""
    node = make_node()
    (node.directory / "node.log").touch()
    outer, inner = os.openpty()
    node.process = subprocess.Popen(
        node.command(),
        env=node.environment(),
        stdin=inner,
        stdout=inner,
        stderr=inner,
        process_group=0,
    )
    os.close(inner)
    node.wait_up()
    yield node
    node.stop()
    os.close(outer)


def test_an_app_has_nothing_of_the_nodes_terminal(node_in_a_terminal: AttackNode) -> None:
    node_in_a_terminal.place_escaped("evil")
    found = node_in_a_terminal.run("evil", "descriptors")
    devices = {each["kind"] for each in found if each["kind"].startswith("device")}
    assert devices == {"device 1:3"}
    assert found[0] == {"number": 0, "access": "read", "kind": "device 1:3"}


def test_a_compiler_reads_nothing_of_the_nodes_terminal(node_in_a_terminal: AttackNode) -> None:
    """What a person types there is not for a module's author."""
    node = node_in_a_terminal
    node.place(module("compiler", "standard_streams"), http_app("hostile", "escaped"))
    wait_for(lambda: node.status("hostile")["reason"] == "InvalidModule", "the verdict")
    streams = json.loads(node.status("hostile")["message"])
    assert [access for _, access in streams] == ["read", "write", "write"]


def test_a_handle_of_the_agents_process_is_good_for_nothing(node: AttackNode) -> None:
    """Kernels from 6.5 on give one to whoever has a socket that the agent made."""
    node.place_escaped("evil")
    found = node.run("evil", "peer_handle")
    if isinstance(found["handle"], int):
        assert found["namespace"] == "ENOTTY"
        body = f'{{"name": "pidfd_send_signal", "args": [{found["handle"]}, 0, null, 0]}}'
        head = f"POST /?run=call HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        node.exchange("evil", (head + body).encode())
        wait_for(lambda: node.events("evil", "SystemCallDenied"), "the worker's end")
    else:
        assert found["handle"] == "ENOPROTOOPT", "this kernel has no such handles"


def test_a_worker_is_alone_in_its_process_namespace(node: AttackNode) -> None:
    place_victim(node)
    node.place_escaped("evil")
    mine, theirs = node.worker_pid("evil"), node.worker_pid("victim")
    assert node.run("evil", "identity")["pid"] == 1
    for name in ("pid", "mnt", "ipc", "uts", "net"):
        spaces = {os.readlink(f"/proc/{pid}/ns/{name}") for pid in (mine, theirs, os.getpid())}
        assert len(spaces) == 3, name
    assert node.run("evil", "call", name="tgkill", args=[2, 2, 9]) == "ESRCH"


# Memory


def test_a_worker_holds_nothing_of_others_in_its_memory(node: AttackNode) -> None:
    """It is a fork of the zygote: what that once held would be in every worker."""
    place_victim(node)
    node.place_escaped("evil")
    key = bytes.fromhex((node.directory / "data.key").read_text().strip())
    wanted = {"secret": WORD.encode(), "key": key, "key in text": key.hex().encode()}
    assert holds(node.worker_pid("victim"), wanted) == {"secret"}, "the control: it is found there"
    assert holds(node.pid("zygote"), wanted) == set()
    assert holds(node.worker_pid("evil"), wanted) == set()
    assert "secret" in holds(node.pid("agent"), wanted)


def holds(pid: int, wanted: dict[str, bytes]) -> set[str]:
    """Return which of these a process has in memory that it could read."""
    found = set()
    with (
        open(f"/proc/{pid}/maps", encoding="utf-8") as maps,
        open(f"/proc/{pid}/mem", "rb") as memory,
    ):
        for line in maps:
            area, rights, *_ = line.split()
            if not rights.startswith("r") or "[v" in line:
                continue
            start, end = (int(number, 16) for number in area.split("-"))
            with contextlib.suppress(OSError):
                content = os.pread(memory.fileno(), end - start, start)
                found |= {name for name, text in wanted.items() if text in content}
    return found


def test_workers_cannot_be_dumped_or_traced_by_their_own_user(node: AttackNode) -> None:
    node.place_escaped("evil")
    pid = node.worker_pid("evil")
    owner = os.stat(f"/proc/{pid}/environ").st_uid
    assert owner == 0, "a process that can be dumped belongs to its own user"


def test_the_agents_socket_is_out_of_reach(node: AttackNode, tmp_path: Path) -> None:
    """By path there is none, and a worker makes no sockets; its user is refused as well."""
    node.place_escaped("evil")
    found = node.run("evil", "read_path", path=str(node.socket_path))
    assert found in ("ENOENT", "EACCES")
    mode = os.stat(node.socket_path).st_mode
    assert stat.S_IMODE(mode) & 0o007 == 0
    program = (
        "import os, socket, sys; os.setgid(1900000001); os.setuid(1900000001);"
        "socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    )
    tried = subprocess.run(
        [sys.executable, "-c", program, str(node.socket_path)], capture_output=True, check=False
    )
    assert b"PermissionError" in tried.stderr


def test_no_signal_goes_to_others_by_way_of_a_descriptor(node: AttackNode) -> None:
    """F_SETOWN has the kernel send SIGIO to whom one names: only processes of its namespace have names."""
    node.place_escaped("evil")
    for pid in (node.pid("agent"), node.pid("zygote"), os.getpid()):
        assert node.run("evil", "call", name="fcntl", args=[1, 8, pid]) == "ESRCH"
    assert node.run("evil", "call", name="fcntl", args=[1, 8, 1]) == 0, "itself"


def test_outside_a_worker_such_a_signal_can_be_asked_for() -> None:
    """The control."""
    assert outside("call", {"name": "fcntl", "args": [1, 8, os.getppid()]}).result == 0
