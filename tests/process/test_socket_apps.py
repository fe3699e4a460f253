"""Apps that listen by themselves, on sockets that the node holds for them, and apps that connect."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from engines import on_both_engines
from running_node import PATIENCE_SECONDS, ask, wait_for
from workloads import http_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from running_node import RunningNode

_PORT = 8085
_ACCES, _CONNREFUSED = 2, 14  # $errno of preview 1


def socket_app(
    name: str, *, port: int = _PORT, annotations: dict[str, str] | None = None, **fields: Any
) -> dict[str, Any]:
    """Return a Deployment whose module listens on `port` and declares 8085."""
    return http_app(
        name,
        "socket_server",
        env={"PORT": str(port)},
        ports=[{"name": "web", "containerPort": _PORT}],
        annotations=annotations or {},
        **fields,
    )


def serving(node: RunningNode, name: str, **fields: Any) -> int:
    """Apply a socket app, wait until its guest listens, and return the node's port for it."""
    node.apply(socket_app(name, **fields))
    node.wait_ready(name)
    return node.port(name)


def ask_often(port: int, times: int) -> list[str]:
    """Ask over one connection; return what went wrong."""
    problems: list[str] = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        for number in range(times):
            connection.request("GET", f"/{number}")
            answer = connection.getresponse()
            body = answer.read().decode()
            if answer.status != 200 or f"GET /{number} is request {number + 1} of" not in body:
                problems.append(f"{answer.status} {body}")
    except (OSError, http.client.HTTPException) as error:
        problems.append(repr(error))
    finally:
        connection.close()
    return problems


@on_both_engines
def test_ten_thousand_requests_without_an_error(node: RunningNode) -> None:
    port = serving(node, "server")
    problems: list[str] = []
    clients = [
        threading.Thread(target=lambda: problems.extend(ask_often(port, 1250))) for _ in range(8)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert problems == []
    status = node.status("server")
    assert status["restarts"] == 0
    assert status["requests"]["total"] == 8, "connections are what is counted"


def test_the_module_says_that_it_listens(node: RunningNode) -> None:
    serving(node, "server")
    status = node.status("server")
    assert status["trigger"] == "socket"
    assert "socket functions" in status["engine_reason"]


def test_a_request_per_run_can_be_asked_for(node: RunningNode) -> None:
    """The annotation counts for more than what the module imports."""
    node.apply(socket_app("server", annotations={"trigger": "http"}))
    node.wait_ready("server")
    assert node.status("server")["trigger"] == "http"
    assert ask(node.port("server")).status == 500
    assert any("WASI error 2" in line for line in node.logs("server"))


@on_both_engines
def test_a_port_that_is_not_declared_is_denied(node: RunningNode) -> None:
    neighbour = serving(node, "neighbour")
    node.apply(socket_app("server", port=9999))
    wait_for(lambda: node.status("server")["restarts"], "the failure of the guest")
    assert any("WASI error 2" in line for line in node.logs("server"))
    assert node.status("server")["ready"] == 0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", 9999), 1)
    assert ask_often(neighbour, 3) == []


@on_both_engines
@pytest.mark.parametrize("handler", ["httpGet", "tcpSocket"])
def test_probes_are_connections_that_the_guest_accepts(node: RunningNode, handler: str) -> None:
    where = {"port": "web", "path": "/healthy"} if handler == "httpGet" else {"port": _PORT}
    probe = {handler: where, "periodSeconds": 1, "failureThreshold": 1}
    port = serving(node, "server", readinessProbe=probe, livenessProbe=probe)
    assert ask_often(port, 3) == []
    threading.Event().wait(2.5)
    status = node.status("server")
    assert (status["ready"], status["restarts"]) == (1, 0)
    assert status["requests"]["total"] == 1, "the node's own curiosity is no demand"


def test_a_probe_of_something_else_fails(node: RunningNode) -> None:
    """The server answers 501 to a body of unknown length."""
    header = {"name": "Transfer-Encoding", "value": "chunked"}
    probe = {
        "httpGet": {"port": _PORT, "path": "/", "httpHeaders": [header]},
        "periodSeconds": 1,
        "failureThreshold": 1,
    }
    node.apply(socket_app("server", livenessProbe=probe))
    wait_for(lambda: node.events("server", "Unhealthy"), "the probe's failure")
    assert "answered 501" in node.events("server", "Unhealthy")[0]["message"]


@on_both_engines
def test_it_rests_and_wakes_with_the_next_connection(node: RunningNode) -> None:
    node.apply(socket_app("server", annotations={"idle-timeout": "300ms"}))
    for _ in range(3):
        node.wait_phase("server", "Idle")
        wait_for(lambda: not node.pids("server"), "the worker's end")
        assert ask_often(node.port("server"), 5) == []
    status = node.status("server")
    assert status["restarts"] == 0
    assert status["cold_start_milliseconds"]["count"] == 3


def test_a_connection_keeps_it_awake(node: RunningNode) -> None:
    node.apply(socket_app("server", annotations={"idle-timeout": "300ms"}))
    node.wait_phase("server", "Idle")
    with socket.create_connection(("127.0.0.1", node.port("server")), PATIENCE_SECONDS) as client:
        node.wait_phase("server", "Running")
        threading.Event().wait(1)
        assert node.status("server")["phase"] == "Running"
        client.sendall(b"GET /late HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert b"GET /late" in client.recv(4096) + client.recv(4096)
    node.wait_phase("server", "Idle")


@on_both_engines
def test_replicas_share_the_port(node: RunningNode) -> None:
    port = serving(node, "server", replicas=2)
    wait_for(lambda: node.status("server")["ready"] == 2, "both replicas")
    assert ask_often(port, 20) == []


def test_a_change_cuts_no_connection(node: RunningNode) -> None:
    port = serving(node, "server", grace_seconds=20)
    before = set(node.pids("server"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    connection.request("GET", "/before")
    assert b"request 1" in connection.getresponse().read()
    node.apply(socket_app("server", grace_seconds=20, args=["changed"]))
    wait_for(
        lambda: (
            {each["state"] for each in node.status("server")["workers"]} == {"Ready", "Draining"}
        ),
        "the changed app's worker beside the one before",
    )
    connection.request("GET", "/during")
    assert b"request 2" in connection.getresponse().read(), "its worker still serves it"
    assert ask_often(port, 3) == []
    connection.close()
    wait_for(lambda: not before & set(node.pids("server")), "the old worker's end")
    assert not node.events("server", "Killed")


@pytest.fixture
def greeter() -> Iterator[int]:
    """A server on loopback that greets; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    with client:
                        client.sendall(b"hello from outside")

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@on_both_engines
def test_connections_out_obey_the_policy(node: RunningNode, greeter: int) -> None:
    node.apply(http_app("open", "dial", annotations={"egress": f"127.0.0.1:{greeter}"}))
    node.apply(http_app("shut", "dial"))
    for name, expected in (("open", "hello from outside\n"), ("shut", f"connect: {_ACCES}\n")):
        node.wait_ready(name)
        for _ in range(3):
            assert ask(node.port(name), f"/?port={greeter}").text == expected
    assert ask(node.port("open"), "/?port=1").text == f"connect: {_ACCES}\n"
    assert node.events("shut", "EgressDenied")


def test_a_connection_that_nobody_takes_is_refused(node: RunningNode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        free = listening.getsockname()[1]
    node.apply(http_app("app", "dial", annotations={"egress": f"127.0.0.1:{free}"}))
    node.wait_ready("app")
    assert ask(node.port("app"), f"/?port={free}").text == f"connect: {_CONNREFUSED}\n"
