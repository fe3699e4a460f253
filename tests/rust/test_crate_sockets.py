"""A Rust program that uses the crate `wasmedge_wasi_socket` serves, polls, looks up and connects."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rust_builds import build_rust
from socket_calls import LocalNetwork, udp_server

from limpet.engine import open_engine
from limpet.engine.protocol import Invocation, Limits, Outcome, OutcomeKind
from limpet.wasi.streams import BufferOutput, NullInput
from limpet.wasi.strings import Strings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.engine.protocol import Program

PROJECT = Path(__file__).parent / "crate-sockets"


@pytest.fixture(scope="module")
def program() -> Program:
    engine = open_engine()
    artifact, info = engine.compile_module(build_rust(PROJECT))
    assert "wasi_snapshot_preview1.sock_accept" in info.imports
    descriptor = os.memfd_create("artifact")
    os.write(descriptor, artifact)
    try:
        return engine.load(descriptor, limits=Limits(memory_bytes=64 << 20))
    finally:
        os.close(descriptor)


@pytest.fixture
def network() -> Iterator[LocalNetwork]:
    network = LocalNetwork()
    yield network
    network.close()


def run(program: Program, network: LocalNetwork, *words: str) -> tuple[Outcome, str, str]:
    """How it ended, and what it wrote."""
    output, errors = BufferOutput(100_000), BufferOutput(100_000)
    outcome = program.run(
        Invocation(
            Strings([b"guest", *[word.encode() for word in words]]),
            Strings([]),
            NullInput(),
            output,
            errors,
            deadline_seconds=60,
            network=network,
        )
    )
    return outcome, output.getvalue().decode(), errors.getvalue().decode()


@contextmanager
def running(program: Program, network: LocalNetwork, *words: str) -> Iterator[None]:
    """It must have ended well when the block is left."""
    ended: list[tuple[Outcome, str, str]] = []
    thread = threading.Thread(target=lambda: ended.append(run(program, network, *words)))
    thread.start()
    try:
        yield
        thread.join(60)
    finally:
        program.interrupt()
        thread.join()
    assert (ended[0][0].kind, ended[0][0].exit_code) == (OutcomeKind.EXIT, 0), ended[0]


def test_one_client_after_the_other(program: Program, network: LocalNetwork) -> None:
    with running(program, network, "serve"):
        for number in range(5):
            with (
                socket.create_connection(network.address, timeout=30) as client,
                client.makefile("rb") as answers,
            ):
                for word in (b"one", b"two"):
                    client.sendall(word)
                    assert answers.read(13) == b"you said: " + word, number
        with (
            socket.create_connection(network.address, timeout=30) as client,
            client.makefile("rb") as answers,
        ):
            client.sendall(b"stop")
            assert answers.read() == b"you said: stop"


def test_many_clients_at_once(program: Program, network: LocalNetwork) -> None:
    with running(program, network, "serve-many"):
        clients = [socket.create_connection(network.address, timeout=30) for _ in range(10)]
        for turn in (b"one", b"two"):
            for client in clients:
                client.sendall(turn)
                assert client.recv(100) == turn
        for client in clients[1:]:
            client.close()
        clients[0].sendall(b"stop")
        clients[0].close()


def test_a_name_is_looked_up_and_connected_to(program: Program, network: LocalNetwork) -> None:
    network.names["somewhere.example"] = ["127.0.0.1", "2001:db8::1"]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                received = b""
                while chunk := connection.recv(100):
                    received += chunk
                connection.sendall(received[::-1])

        thread = threading.Thread(target=answer)
        thread.start()
        port = str(server.getsockname()[1])
        outcome, output, errors = run(program, network, "fetch", "somewhere.example", port)
        thread.join()
    assert outcome.exit_code == 0, errors
    assert output == f"found [127.0.0.1:{port}]\nanswer noitseuq\n"


def test_what_is_denied_is_an_error_by_its_number(program: Program, network: LocalNetwork) -> None:
    network.denied.add("elsewhere.example")
    outcome, _, errors = run(program, network, "fetch", "elsewhere.example", "80")
    assert outcome.exit_code == 1
    assert "code: 2" in errors


def test_a_datagram(program: Program, network: LocalNetwork) -> None:
    with udp_server() as server:
        outcome, output, errors = run(program, network, "ask", str(server.getsockname()[1]))
        assert (outcome.exit_code, output) == (0, "sent 8\n"), errors
        assert server.recv(100) == b"question"
