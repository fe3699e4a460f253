"""Native code in the processes that download, verify signatures and parse manifests, one for each task.

Each was taken over by what it had to read. What it finds is a network (the download), or none, its own few
descriptors, and public files (the download), or none.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from attack_node import AttackNode, outside
from escaped_node import module
from escaped_roles import BEGIN, END
from running_node import wait_for
from workloads import http_app

from limpet.signing import load_private_key
from oci_server import OciServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from limpet.signing import PrivateKey

ROLES = ["fetch", "verify", "manifests"]
WITHOUT_NETWORK = ["verify", "manifests"]
WORD = "planted-credential-77"
_AF_BLUETOOTH = 31  # which not every Python knows
_SOCKET = [socket.AF_INET, socket.SOCK_STREAM, 0]
# Calls that attacks begin with. None is on the list of any of these roles.
KILLED: dict[str, list[Any]] = {
    "clone": [signal.SIGCHLD, 0, 0, 0, 0],
    "execve": ["/nowhere", None, None],
    "kill": [1 << 22, 0],
    "ptrace": [16, 1 << 22, 0, 0],
    "listen": [-1, 1],
    "mount": ["/nowhere", "/nowhere", "ext4", 0, None],
    "unshare": [0],
    "linkat": [-100, "/nowhere", -100, "/nowhere-else", 0],
    "unlinkat": [-100, "/nowhere", 0],
    "setuid": [0],
    "keyctl": [0, -3, 0],
    "bpf": [0x7FFF, None, 0],
}


class Taken:
    """A node in which one process can be taken over at a time."""

    def __init__(
        self, node: AttackNode, registry: OciServer, folder: Path, key: PrivateKey
    ) -> None:
        self.node = node
        self._key = key
        self._registry = registry
        self._folder = folder
        self._numbers = itertools.count(1)
        self._begin: dict[str, Callable[[int], None]] = {
            "fetch": self._have_fetched,
            "verify": self._have_verified,
            "manifests": self._have_manifests_parsed,
        }

    def run(self, role: str, what: str, /, **arguments: Any) -> Any:
        """Run native code in the next process of a role; its result."""
        number = self._order(role, what, arguments)
        found = wait_for(lambda: self._result(number), f"what came of {what} in {role}")
        self.orders.unlink()
        return json.loads(found)["result"]

    def is_killed(self, role: str, name: str, args: list[Any]) -> bool:
        """Whether a system call ends the process."""
        before = self._deaths()
        number = self._order(role, "call", {"name": name, "args": args})
        wait_for(lambda: self._deaths() > before or self._result(number), f"{name} in {role}")
        self.orders.unlink()
        return not self._result(number)

    @property
    def orders(self) -> Path:
        return self._folder / "orders"

    def _order(self, role: str, what: str, arguments: dict[str, Any]) -> int:
        number = next(self._numbers)
        text = json.dumps({"id": number, "role": role, "run": what, "arguments": arguments})
        staged = self._folder / "staged"
        staged.write_text(text)
        staged.rename(self.orders)
        self._begin[role](number)
        return number

    def _result(self, number: int) -> str:
        for found in re.findall(f"{BEGIN}(.*?){END}", self.node.output(), re.DOTALL):
            if json.loads(found)["id"] == number:
                return str(found)
        return ""

    def _deaths(self) -> int:
        """How often the node has told of a process that the kernel killed for a system call."""
        told = [
            event for event in self.node.events() if "killed for a system call" in event["message"]
        ]
        return sum(event["count"] for event in told)

    def _have_fetched(self, number: int) -> None:
        repository = f"acme/fetched-{number}"
        self._registry.add_module(repository, "1", module())
        self._apply(f"fetched-{number}", repository)

    def _have_verified(self, number: int) -> None:
        """Another module each time: a verdict is remembered."""
        repository = f"signed/{number}"
        made = module("program", "nothing", number=number)
        digest = self._registry.add_module(repository, "1", made)
        self._registry.add_signature(repository, digest, self._key)
        self._apply(f"verified-{number}", repository)

    def _apply(self, name: str, repository: str) -> None:
        self.node.apply(http_app(name, f"oci://{self._registry.host}/{repository}:1"))

    def _have_manifests_parsed(self, number: int) -> None:
        text = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: parsed-{number}}}\n"
        (self._folder / "manifests" / f"{number}.yaml").write_text(text)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taken]:
    import os

    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    if os.geteuid() != 0:
        pytest.skip("only root's nodes have every wall")
    folder = tmp_path_factory.mktemp("taken")
    (folder / "manifests").mkdir()
    made = ec.generate_private_key(ec.SECP256R1())
    pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    private = load_private_key(pem)
    (folder / "key.pub").write_text(private.public_pem())
    with OciServer() as registry, contextlib.ExitStack() as stack:
        (folder / "credentials.json").write_text(
            json.dumps({"auths": {"elsewhere.example": {"username": "u", "password": WORD}}})
        )
        (folder / "credentials.json").chmod(0o600)
        node = AttackNode(
            folder,
            {
                "LIMPET_NODE_BACKOFF_SECONDS": "600",  # each process once
                "LIMPET_NODE_MANIFESTS": str(folder / "manifests"),
                "LIMPET_REGISTRY_POLICY": f"{registry.host}/signed={folder / 'key.pub'}",
                "LIMPET_REGISTRY_CREDENTIALS_FILE": str(folder / "credentials.json"),
                "LIMPET_BUNDLES_KEYS": str(folder / "key.pub"),
                "LIMPET_TEST_ESCAPES": str(folder / "orders"),
            },
        )
        stack.callback(node.kill)
        node.start()
        yield Taken(node, registry, folder, private)
        node.stop()


def treasures(taken: Taken) -> list[str]:
    """Paths that are all there, as the control shows, and of no use to any of these processes."""
    node = taken.node
    agent = node.pid("agent")
    return [
        "/etc/shadow",
        f"/proc/{agent}/environ",
        f"/proc/{agent}/maps",
        "/proc/self/maps",
        f"{node.directory}/data.key",
        f"{node.directory}/credentials.json",
        f"{node.directory}/manifests",
        *(str(path) for path in node.data.rglob("*") if path.is_file()),
        "/root",
        "/tmp",
        "/var",
        "/sys/fs/cgroup",
        "/dev",
    ]


@pytest.mark.parametrize("role", ROLES)
def test_nothing_private_can_be_opened(taken: Taken, role: str) -> None:
    paths = treasures(taken)
    assert f"{taken.node.data}/state.db" in paths
    found = taken.run(role, "read_paths", paths=paths)
    assert set(found) == set(paths)
    assert set(found.values()) <= {"ENOENT", "EACCES"}, found


def test_outside_all_of_that_can_be_opened(taken: Taken) -> None:
    """The control."""
    ending = outside("read_paths", {"paths": treasures(taken)})
    missed = [path for path, value in ending.result.items() if value in ("ENOENT", "EACCES")]
    assert missed == []


@pytest.mark.parametrize("role", ROLES)
def test_public_files_are_for_downloads_alone(taken: Taken, role: str) -> None:
    found = taken.run(role, "read_path", path="/etc/passwd")
    assert ("root:" in found) is (role == "fetch")
    assert found == "ENOENT" or role == "fetch"


@pytest.mark.parametrize("role", ROLES)
def test_nothing_can_be_written(taken: Taken, role: str) -> None:
    for path in ("/planted", "/tmp/planted", "/etc/planted", f"{taken.node.data}/planted"):
        assert taken.run(role, "write_path", path=path) in ("ENOENT", "EACCES", "EROFS")


@pytest.mark.parametrize("role", WITHOUT_NETWORK)
@pytest.mark.parametrize("name", ["socket", "socketpair", "connect", "bind", "sendmsg", "accept4"])
def test_there_is_no_network(taken: Taken, role: str, name: str) -> None:
    assert taken.is_killed(role, name, _SOCKET)


@pytest.mark.parametrize(
    "family", [socket.AF_PACKET, socket.AF_VSOCK, socket.AF_ALG, _AF_BLUETOOTH]
)
def test_a_download_has_the_internet_and_no_other_network(taken: Taken, family: int) -> None:
    assert taken.is_killed("fetch", "socket", [family, socket.SOCK_RAW, 0])


def test_a_download_reaches_the_network_and_not_the_agent(taken: Taken) -> None:
    """The control is the first half: it could not download anything otherwise."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with server.accept()[0] as client:
                client.sendall(b"hello")

        greeter = threading.Thread(target=greet)
        greeter.start()
        port = server.getsockname()[1]
        assert taken.run("fetch", "connect", port=port) == "hello"
        greeter.join()
    path = str(taken.node.socket_path)
    assert outside("connect_path", {"path": path}).result == "connected"
    assert taken.run("fetch", "connect_path", path=path) in ("EACCES", "ENOENT")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", list(KILLED))
def test_a_call_that_no_role_needs_ends_it(taken: Taken, role: str, name: str) -> None:
    assert taken.is_killed(role, name, KILLED[name])


@pytest.mark.parametrize("name", [name for name in KILLED if name != "clone"])
def test_outside_the_kernel_answers_that_call(name: str) -> None:
    """The control."""
    assert outside("call", {"name": name, "args": KILLED[name]}).signal == 0


EXPECTED = {
    # A partial download, the notes on it, a module from an archive; what is said of signatures.
    "fetch": {("file", "both"): 3, ("memory file", "both"): 1},
    "verify": {("memory file", "both"): 1},
    "manifests": {("memory file", "both"): 2},
}


@pytest.mark.parametrize("role", ROLES)
def test_every_open_descriptor_is_justified(taken: Taken, role: str) -> None:
    """Besides: its configuration, what is sealed, standard streams, its control socket."""
    found = taken.run(role, "own_files")
    own: dict[tuple[str, str], int] = {}
    for each in found:
        is_sealed = each.get("seals", 0) & _SEALS == _SEALS
        if each["kind"] in ("file", "memory file") and not is_sealed:
            key = (each["kind"], each["access"])
            own[key] = own.get(key, 0) + 1
    assert own == EXPECTED[role]
    assert len([each for each in found if each["kind"] == "socket"]) == 1
    directories = [each for each in found if each["kind"] == "directory"]
    assert len(directories) <= (5 if role == "fetch" else 0), "those that it may read"


_SEALS = 0x0008  # F_SEAL_WRITE


def test_a_download_cannot_fill_the_disk(taken: Taken) -> None:
    """No file of its becomes larger than a module may be."""
    results = taken.run("fetch", "outgrow_files", size=256 << 20)
    assert len(results) >= 4
    assert all(set(each) <= {"EFBIG", "EPERM"} for each in results.values()), results


def test_outside_a_file_grows(tmp_path: Path) -> None:
    """The control."""
    with (tmp_path / "file").open("w+b") as file:
        args = [file.fileno(), "x", 1, 256 << 20]
        assert outside("call", {"name": "pwrite64", "args": args}).result == 1
