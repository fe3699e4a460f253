"""Native code in a worker looks for a way out of its app's network, and asks the agent for one."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from attack_node import AttackNode, outside
from escaped_node import SLOW_SECONDS
from running_node import wait_for
from workloads import claim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GREETING = "hello from the device"


class Target:
    """A server of the device's own on loopback, TCP and UDP; it counts who came."""

    def __init__(self) -> None:
        self.visits: list[str] = []
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.port = self._tcp.getsockname()[1]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        self._threads = [
            threading.Thread(target=serve, daemon=True) for serve in (self._serve, self._echo)
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._tcp.accept()
                self.visits.append("tcp")
                connection.sendall(GREETING.encode())
                connection.close()

    def _echo(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, address = self._udp.recvfrom(64)
                if not data:
                    return
                self.visits.append("udp")
                self._udp.sendto(GREETING.encode(), address)

    def close(self) -> None:
        self._tcp.shutdown(socket.SHUT_RDWR)
        self._tcp.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        for thread in self._threads:
            thread.join()
        self._udp.close()


@pytest.fixture
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.close()


def attack(node: AttackNode, name: str, what: str, **arguments: Any) -> None:
    """Send a request whose handler is expected not to survive."""
    body = json.dumps(arguments)
    head = f"POST /?run={what} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    node.exchange(name, (head + body).encode())


def test_outside_a_worker_the_device_is_reached(target: Target) -> None:
    """The control of all that follows."""
    assert outside("connect", {"port": target.port}).result == GREETING
    assert target.visits == ["tcp"]


@pytest.mark.parametrize(
    "how", ["disconnect", "reconnect", "send to", "fastopen", "fastopen alone"]
)
def test_a_clients_connection_cannot_be_turned_elsewhere(
    node: AttackNode, target: Target, how: str
) -> None:
    """Accepted sockets live in the device's network: connected anew, they would reach all of it."""
    node.place_escaped("evil")
    attack(node, "evil", "through_accepted", how=how, port=target.port)
    wait_for(lambda: node.events("evil", "SystemCallDenied"), "the worker's end")
    assert target.visits == []


def test_the_apps_listener_cannot_be_turned_elsewhere(node: AttackNode, target: Target) -> None:
    node.place_escaped("evil")
    attack(node, "evil", "listener_connects", port=target.port)
    wait_for(lambda: node.events("evil", "SystemCallDenied"), "the worker's end")
    assert target.visits == []


def test_an_app_that_shuts_its_own_listener_harms_itself_alone(node: AttackNode) -> None:
    """The kernel lets it, for all that share the socket; the next worker finds it listening again."""
    node.place_escaped("neighbour")
    node.place_escaped("evil")
    node.run("evil", "shut_listener")
    assert node.run("neighbour", "identity")["pid"] == 1
    wait_for(lambda: node.events("evil", "ListenerShutDown"), "the agent to notice")
    node.wait_ready("evil")
    assert node.run("evil", "identity")["pid"] == 1


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_INET, socket.SOCK_DGRAM),
        (socket.AF_INET6, socket.SOCK_STREAM),
        (socket.AF_UNIX, socket.SOCK_STREAM),
        (socket.AF_NETLINK, socket.SOCK_RAW),
        (socket.AF_PACKET, socket.SOCK_RAW),
        (socket.AF_VSOCK, socket.SOCK_STREAM),
        (socket.AF_ALG, socket.SOCK_SEQPACKET),
    ],
)
def test_no_socket_of_any_kind_can_be_made(node: AttackNode, family: int, kind: int) -> None:
    node.start_job("maker", "call", name="socket", args=[int(family), int(kind), 0])
    assert node.end_of("maker")["reason"] == "SystemCallDenied"


def test_the_workers_own_network_is_empty(node: AttackNode) -> None:
    """Even a socket would find nobody: no interface but a loopback that is down."""
    node.place_escaped("evil")
    with open(f"/proc/{node.worker_pid('evil')}/net/dev", encoding="ascii") as table:
        interfaces = [line.partition(":")[0].strip() for line in table.readlines()[2:]]
    assert interfaces == ["lo"]


# The agent's connections


def test_what_no_policy_allows_is_denied_and_told(node: AttackNode, target: Target) -> None:
    node.place_escaped("evil")
    error, heard = node.run("evil", "ask", host="127.0.0.1", port=target.port)
    assert "egress" in error or "rule" in error
    assert heard == ""
    assert target.visits == []
    [event] = wait_for(lambda: node.events("evil", "EgressDenied"), "the event")
    assert event["type"] == "Warning"
    assert f"127.0.0.1:{target.port}/tcp" in event["message"]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_what_a_policy_allows_works(node: AttackNode, target: Target, protocol: str) -> None:
    """The control: the same question, and a connection."""
    node.place_escaped("good", annotations={"egress": f"127.0.0.1:{target.port}/{protocol}"})
    found = node.run("good", "ask", host="127.0.0.1", port=target.port, protocol=protocol)
    assert found == ["", GREETING]
    assert target.visits == [protocol]
    other = "udp" if protocol == "tcp" else "tcp"
    error, _ = node.run("good", "ask", host="127.0.0.1", port=target.port, protocol=other)
    assert error
    assert len(node.events("good", "EgressDenied")) == 1


def test_a_policys_change_holds_for_the_next_connection(node: AttackNode, target: Target) -> None:
    node.place_escaped("app")
    pid = node.worker_pid("app")

    def ask() -> list[str]:
        return node.run("app", "ask", host="127.0.0.1", port=target.port)

    assert ask()[0]
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "out"},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Egress"],
            "egress": [
                {
                    "to": [{"ipBlock": {"cidr": "127.0.0.1/32"}}],
                    "ports": [{"protocol": "TCP", "port": target.port}],
                }
            ],
        },
    }
    node.apply(policy)
    assert ask() == ["", GREETING]
    node.delete("NetworkPolicy", "out")
    assert ask()[0]
    assert node.worker_pid("app") == pid, "the worker was not started anew for it"
    assert target.visits == ["tcp"]


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST.", "ip6-localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1",
        "::ffff:127.0.0.1", "[::1]", "::1%lo", "0.0.0.0", "0", "::", "64:ff9b::7f00:1", "2002:7f00:1::",
        "169.254.169.254", "evil\0.example", "", ".", "..", "a" * 255, "xn--", "\u2488", "127.0.0.1%00",
        "127.0.0.1 ", " 127.0.0.1", "127.0.0.1\n", "-x", "%s%n",
    ],
)  # fmt: skip
def test_loopback_has_no_other_name(node: AttackNode, target: Target, host: str) -> None:
    """An app that may reach everything reaches no guarded address, however it is spelled."""
    node.place_escaped("evil", annotations={"egress": "0.0.0.0/0:*, [::/0]:*"})
    error, heard = node.run("evil", "ask", host=host, port=target.port)
    assert error
    assert error != "no answer", "every question is answered"
    assert heard == ""
    assert target.visits == []
    assert "Traceback" not in node.output()
    assert "never retrieved" not in node.output()


@pytest.mark.parametrize("answer", ["loopback", "mapped", "metadata", "both"])
def test_a_name_that_leads_to_a_guarded_address_is_denied(
    node: AttackNode, target: Target, answer: str
) -> None:
    """Whoever owns a name chooses where it leads (`escaped_node` answers for *.test)."""
    node.place_escaped("evil", annotations={"egress": "0.0.0.0/0:*, [::/0]:*, *.test:*"})
    error, heard = node.run("evil", "ask", host=f"{answer}.test", port=target.port)
    assert "no name may lead to" in error
    assert heard == ""
    assert target.visits == []
    assert node.events("evil", "EgressDenied")


def test_names_that_nobody_answers_for_hold_up_nobody_else(
    make_node: Callable[..., AttackNode],
) -> None:
    """A lookup blocks a thread of the agent for as long as the name's owner likes."""
    node = make_node()
    node.start()
    node.place_escaped("evil", annotations={"egress": "*.test:*"})
    questions = [
        {"type": "Connect", "request": n, "host": f"x{n}.slow.test", "port": 9, "protocol": "tcp"}
        for n in range(16)
    ]
    node.run("evil", "tell", messages=questions)
    began = time.monotonic()
    node.apply(claim("late"))
    volume = {"name": "late", "persistentVolumeClaim": {"claimName": "late"}}
    node.place_escaped("neighbour", volumes=[volume], mounts={"/data": "late"})
    took = time.monotonic() - began
    print(f"an app with a volume started in {took:.1f} s beside 16 slow lookups")
    assert took < SLOW_SECONDS / 2, "the neighbour waited for the names"
    node.stop()


def test_questions_cannot_pile_up(node: AttackNode) -> None:
    """More than a few at a time are refused at once: here to addresses that never answer."""
    node.place_escaped("evil", annotations={"egress": "192.0.2.0/24:*"})
    questions = [
        {
            "type": "Connect",
            "request": n,
            "host": f"192.0.2.{n % 250 + 1}",
            "port": 9,
            "protocol": "tcp",
        }
        for n in range(200)
    ]
    assert node.run("evil", "tell", messages=questions) == 200
    error, _ = node.run("evil", "ask", host="203.0.113.1", port=9)
    assert error
    node.place_escaped("neighbour")
    assert node.run("neighbour", "identity")["pid"] == 1
