"""Components that open sockets: through the network that they are given, and by no other way."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from component_builds import build_guest_of, build_python
from component_runs import LocalNetwork, load, run
from contract_runs import interrupted_soon, lasting_at_most

from limpet.engine.protocol import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.engine.protocol import Engine, Outcome, Program

# Python's own `socket`, from the standard library in the component.
_PYTHON_SERVER = """
import os, socket
from wit_world import exports

class Run(exports.Run):
    def run(self):
        with socket.socket() as server:
            server.bind(("0.0.0.0", int(os.environ["PORT"])))
            server.listen()
            for _ in range(int(os.environ["COUNT"])):
                client, _ = server.accept()
                with client:
                    request = client.recv(4096).decode().split()
                    body = f"Python got {request[1]}".encode()
                    head = b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n"
                    client.sendall(head % len(body) + body)
"""


@pytest.fixture(scope="module")
def program(engine: Engine) -> Program:
    return load(engine, build_guest_of("sockets"))


@contextmanager
def served(program: Program, *args: bytes, **changes: Any) -> Iterator[list[tuple[Outcome, str]]]:
    """Runs a server in a thread; afterwards the list holds how it ended."""
    ended: list[tuple[Outcome, str]] = []
    thread = threading.Thread(target=lambda: ended.append(run(program, *args, **changes)))
    thread.start()
    try:
        yield ended
    finally:
        thread.join()


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read().decode())


def test_serving_http(program: Program, local_network: LocalNetwork) -> None:
    arguments = (b"serve", b"%d" % local_network.port, b"3")
    with served(program, *arguments, network=local_network, deadline_seconds=20) as ended:
        answers = [_get(f"http://127.0.0.1:{local_network.port}/{name}") for name in "abc"]
    assert answers == [f"GET /{name} HTTP/1.1\n" for name in "abc"]
    assert (ended[0][0].kind, ended[0][0].exit_code) == (OutcomeKind.EXIT, 0)


def test_a_slow_client_gets_everything(program: Program, local_network: LocalNetwork) -> None:
    """Also what the kernel had not taken when the guest was done with the connection."""
    length = 20_000_000
    arguments = (b"pour", b"%d" % local_network.port, b"%d" % length)
    received = 0
    with (
        served(program, *arguments, network=local_network, deadline_seconds=60) as ended,
        socket.create_connection(("127.0.0.1", local_network.port)) as client,
    ):
        while piece := client.recv(100_000):
            received += len(piece)
    assert received == length
    assert (ended[0][0].kind, ended[0][0].exit_code) == (OutcomeKind.EXIT, 0)


def test_serving_http_from_python(engine: Engine, local_network: LocalNetwork) -> None:
    program = load(engine, build_python(_PYTHON_SERVER), memory_bytes=256 << 20)
    env = [b"PORT=%d" % local_network.port, b"COUNT=2"]
    with served(program, env=env, network=local_network, deadline_seconds=60) as ended:
        answers = [_get(f"http://127.0.0.1:{local_network.port}/{name}") for name in "ab"]
    assert answers == ["Python got /a", "Python got /b"]
    assert (ended[0][0].kind, ended[0][0].exit_code) == (OutcomeKind.EXIT, 0), ended


def test_waiting_for_clients_ends(program: Program, local_network: LocalNetwork) -> None:
    arguments = (b"serve", b"%d" % local_network.port)
    with lasting_at_most(10):
        outcome, _ = run(program, *arguments, network=local_network, deadline_seconds=0.05)
        assert outcome.kind is OutcomeKind.DEADLINE
        with interrupted_soon(program):
            assert (
                run(program, *arguments, network=local_network)[0].kind is OutcomeKind.INTERRUPTED
            )


def test_ports_that_were_not_declared(program: Program, local_network: LocalNetwork) -> None:
    undeclared = local_network.port ^ 1
    for port in (undeclared, 0):
        outcome, output = run(program, b"serve", b"%d" % port, network=local_network)
        assert (outcome.exit_code, output) == (1, "listen: access-denied\n")
    outcome, output = run(program, b"serve", b"%d" % undeclared)
    assert (outcome.exit_code, output) == (1, "bind: access-denied\n")


def test_connecting(program: Program, local_network: LocalNetwork) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with served(
            program, b"fetch", b"%d" % port, network=local_network, deadline_seconds=20
        ) as ended:
            client, _ = server.accept()
            with client, client.makefile("rb") as question:
                client.sendall(b"answer to " + question.read())
    assert ended[0][1] == "answer to question\n"
    assert local_network.asked == [("127.0.0.1", port, "tcp")]


def test_connecting_where_nobody_listens(program: Program, local_network: LocalNetwork) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    _, output = run(program, b"fetch", b"%d" % port, network=local_network)
    assert output == "connect: connection-refused\n"
    assert run(program, b"fetch", b"%d" % port)[1] == "connect: access-denied\n"


def test_datagrams(program: Program, local_network: LocalNetwork) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = b"%d" % server.getsockname()[1]
        with served(program, b"udp", port, network=local_network, deadline_seconds=20) as ended:
            data, peer = server.recvfrom(100)
            server.sendto(b"pong for " + data, peer)
    assert ended[0][1] == "pong for ping\n"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"here.example", "127.0.0.1\nv6\n"),
        (b"10.1.2.3", "10.1.2.3\n"),
        (b"nowhere.example", "resolve: name-unresolvable\n"),
        (b"", "resolve: invalid-argument\n"),
    ],
)
def test_names(program: Program, local_network: LocalNetwork, name: bytes, expected: str) -> None:
    assert run(program, b"lookup", name, network=local_network)[1] == expected
