"""Guests that open sockets, on an engine."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from guest_builds import build_file, parse_wat

from limpet.engine import open_engine
from limpet.engine.protocol import Invocation, Limits, ModuleError, OutcomeKind
from limpet.wasi.streams import BufferOutput, NullInput
from limpet.wasi.strings import Strings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from socket_calls import LocalNetwork

    from limpet.engine.protocol import Engine, Outcome, Program

EXAMPLE = Path(__file__).parents[3] / "examples" / "socket-server"
GUESTS = Path(__file__).parent / "guests"
WASI = "wasi_snapshot_preview1"


@cache
def engine() -> Engine:
    return open_engine()


def load(module: bytes) -> Program:
    artifact, _ = engine().compile_module(module)
    descriptor = os.memfd_create("artifact")
    try:
        os.write(descriptor, artifact)
        return engine().load(descriptor, limits=Limits(memory_bytes=64 << 20))
    finally:
        os.close(descriptor)


def invoke(network: LocalNetwork | None, **changes: object) -> Invocation:
    values = {
        "args": Strings([b"guest"]),
        "env": Strings([]),
        "stdin": NullInput(),
        "stdout": BufferOutput(1 << 20),
        "stderr": BufferOutput(1 << 20),
        "deadline_seconds": 60,
    }
    return Invocation(**(values | changes), network=network)


def accept_guest(*shapes: str, name: str = "sock_accept") -> bytes:
    """Listens on 8080, accepts with an import of each of these shapes, exits with the last error."""
    imports = "".join(
        f'(import "{WASI}" "{name}" (func $accept{index} (param {shape}) (result i32)))'
        for index, shape in enumerate(shapes)
    )
    calls = "".join(
        f"(call $exit (call $accept{index} (i32.load (i32.const 16)) "
        f"{'(i32.const 0)' * (len(shape.split()) - 2)} (i32.const 16)))"
        for index, shape in enumerate(shapes)
    )
    return parse_wat(f"""(module
      (import "{WASI}" "sock_open" (func $open (param i32 i32 i32) (result i32)))
      (import "{WASI}" "sock_bind" (func $bind (param i32 i32 i32) (result i32)))
      (import "{WASI}" "sock_listen" (func $listen (param i32 i32) (result i32)))
      (import "{WASI}" "proc_exit" (func $exit (param i32)))
      {imports}
      (memory (export "memory") 1)
      (data (i32.const 4) "\\04")
      (func (export "_start")
        (drop (call $open (i32.const 1) (i32.const 2) (i32.const 16)))
        (drop (call $bind (i32.load (i32.const 16)) (i32.const 0) (i32.const 8080)))
        (drop (call $listen (i32.load (i32.const 16)) (i32.const 9)))
        {calls}))""")


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ("i32 i32", "sock_accept"),
        ("i32 i32 i32", "sock_accept"),
        ("i32 i32 i32", "sock_accept_v2"),
    ],
)
def test_functions_are_linked_by_their_type(shape: str, name: str, network: LocalNetwork) -> None:
    program = load(accept_guest(shape, name=name))
    with socket.create_connection(network.address) as client:
        outcome = program.run(invoke(network))
        assert (outcome.kind, outcome.exit_code) == (OutcomeKind.EXIT, 0)
        assert client.recv(10) == b"", "what the guest left open is closed"


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        (("i32 i32 i32 i32",), r"\(i32, i32, i32\) -> \(i32\) or \(i32, i32\) -> \(i32\)"),
        (("i32 i32", "i32 i32 i32"), "in two shapes"),
    ],
)
def test_other_types_are_refused_by_name(shapes: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ModuleError, match=f"sock_accept(.|\n)*{reason}"):
        engine().compile_module(accept_guest(*shapes))


def test_waiting_for_a_client_ends_with_the_deadline(network: LocalNetwork) -> None:
    outcome = load(accept_guest("i32 i32")).run(invoke(network, deadline_seconds=0.05))
    assert outcome.kind is OutcomeKind.DEADLINE


def test_without_a_network_sockets_are_of_no_use() -> None:
    outcome = load(accept_guest("i32 i32")).run(invoke(None))
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.EXIT, 28)


@cache
def example_server() -> Program:
    return load((EXAMPLE / "socket-server.wasm").read_bytes())


@contextmanager
def serving(network: LocalNetwork) -> Iterator[list[Outcome]]:
    """The example serves meanwhile; how it ended is in the list afterwards."""
    program = example_server()
    ended: list[Outcome] = []
    thread = threading.Thread(target=lambda: ended.append(program.run(invoke(network))))
    thread.start()
    try:
        yield ended
    finally:
        program.interrupt()
        thread.join()


class Client:
    """Sends requests over one connection, and reads the answers."""

    def __init__(self, network: LocalNetwork) -> None:
        self.socket = socket.create_connection(network.address, timeout=30)
        self.file = self.socket.makefile("rb")

    def request(self, head: str, body: bytes = b"") -> tuple[str, dict[str, str], bytes]:
        self.socket.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        return self.read()

    def read(self) -> tuple[str, dict[str, str], bytes]:
        """The status line, the headers and the body."""
        lines = []
        while line := self.file.readline().rstrip():
            lines.append(line.decode())
        headers = dict(line.split(": ") for line in lines[1:])
        return lines[0], headers, self.file.read(int(headers["Content-Length"]))

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def test_many_requests_over_one_connection(network: LocalNetwork) -> None:
    with serving(network):
        client = Client(network)
        for number in range(1, 201):
            status, headers, body = client.request(f"GET /{number} HTTP/1.1\nHost: x")
            assert (status, "Connection" in headers) == ("HTTP/1.1 200 OK", False)
            assert f"GET /{number} is request {number} of".encode() in body
        client.close()


def test_many_connections_at_once(network: LocalNetwork) -> None:
    with serving(network):
        clients = [Client(network) for _ in range(40)]
        for number in (1, 2, 3):
            for client in clients:
                assert f"request {number} ".encode() in client.request("GET / HTTP/1.1")[2]
        for client in clients[::2]:
            client.close()
        for client in clients[1::2]:
            assert b"request 4 " in client.request("GET / HTTP/1.1")[2]
            client.close()


def test_requests_in_pieces_and_in_bulk(network: LocalNetwork) -> None:
    with serving(network):
        client = Client(network)
        for byte in b"GET /slow HTTP/1.1\r\nHost: x\r\n\r":
            client.socket.sendall(bytes([byte]))
        client.socket.sendall(b"\n" + b"POST /b HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc" * 5)
        bodies = [client.read()[2] for _ in range(6)]
        assert b"GET /slow is request 1 " in bodies[0]
        assert b"POST /b is request 6 " in bodies[5]
        client.socket.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
        client.read()
        assert b"request 8 " in client.request("GET / HTTP/1.1")[2]
        client.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET / HTTP/1.1\nConnection: close", "200 OK"),
        ("GET / HTTP/1.0", "200 OK"),
        ("nonsense", "400 Bad Request"),
        ("GET / HTTP/1.1\0", "400 Bad Request"),
        ("POST / HTTP/1.1\nTransfer-Encoding: chunked", "501 Not Implemented"),
        ("GET / HTTP/1.1\nX: " + "y" * 5000, "431 Request Header Fields Too Large"),
    ],
)
def test_when_the_server_hangs_up(head: str, status: str, network: LocalNetwork) -> None:
    with serving(network) as ended:
        client = Client(network)
        found, headers, _ = client.request(head)
        assert (found, headers["Connection"]) == (f"HTTP/1.1 {status}", "close")
        with suppress(ConnectionResetError):  # it didn't read all of what it refused
            assert client.file.read() == b""
        client.close()
        after = Client(network)
        assert after.request("HEAD / HTTP/1.1")[0] == "HTTP/1.1 200 OK"
        after.close()
        assert not ended


def test_a_port_that_was_not_declared(network: LocalNetwork) -> None:
    errors = BufferOutput(1000)
    outcome = example_server().run(invoke(network, env=Strings([b"PORT=8081"]), stderr=errors))
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.EXIT, 1)
    assert errors.getvalue() == b"listen: WASI error 2\n"


def test_libc_s_own_functions_work_on_sockets(network: LocalNetwork) -> None:
    program = load(build_file(GUESTS / "libc_sockets.c"))
    output = BufferOutput(10_000)
    with socket.create_connection(network.address) as client:
        client.sendall(b"hello")
        client.settimeout(30)

        def converse() -> None:
            received = b""
            while chunk := client.recv(100):
                received += chunk
            assert received == b"goodbye"
            client.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=converse)
        thread.start()
        outcome = program.run(invoke(network, stdout=output))
        thread.join()
    assert (outcome.kind, output.getvalue()) == (OutcomeKind.EXIT, b"done\n")
