"""Short ways to load and run components, for the tests."""

from __future__ import annotations

import hashlib
import os
import socket
from typing import TYPE_CHECKING

from contract_runs import invoke
from guest_builds import cache_directory, parse_wat

from limpet.engine.protocol import CompileOptions, Limits
from limpet.wasi.network import NetworkDeniedError
from limpet.wasi.streams import BufferOutput

if TYPE_CHECKING:
    from typing import Any

    from limpet.engine.protocol import Engine, Outcome, Program
    from limpet.wasi.streams import Waiter

MEMORY_BYTES = 64 << 20

# What turns a core module $m, which exports `run`, into a command.
COMMAND = """
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $exported (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $exported))
"""


def wat(body: str) -> bytes:
    """A component that exports `wasi:cli/run`; `body` defines the core instance $i with its `run`."""
    return parse_wat(f"(component {body} {COMMAND})")


def running(code: str, *, declarations: str = "") -> bytes:
    """A command without imports that runs this code, which leaves the `result` on the stack."""
    return wat(
        f'(core module $m {declarations} (func (export "run") (result i32) {code}))'
        "(core instance $i (instantiate $m))"
    )


def load(
    engine: Engine, component: bytes, *, memory_bytes: int = MEMORY_BYTES, cost: int | None = None
) -> Program:
    """The component as a program; compiled once for all tests and for the next time."""
    options = CompileOptions(is_metered=cost is not None)
    key = hashlib.sha256(component + f"{engine.artifact_key()}{options}".encode()).hexdigest()
    target = cache_directory() / f"{key[:32]}.component.cwasm"
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}")
        partial.write_bytes(engine.compile_module(component, options)[0])
        partial.rename(target)
    descriptor = os.open(target, os.O_RDONLY)
    try:
        return engine.load(descriptor, limits=Limits(memory_bytes=memory_bytes, cost=cost))
    finally:
        os.close(descriptor)


def run(program: Program, *args: bytes, **changes: Any) -> tuple[Outcome, str]:
    """The outcome, and what went to both outputs, in order."""
    output = BufferOutput(16 << 20)
    invocation = invoke(args=[b"guest", *args], stdout=output, stderr=output, **changes)
    return program.run(invocation), output.getvalue().decode()


class LocalNetwork:
    """A network whose listening sockets are on this machine, and that lets everybody connect."""

    def __init__(self, listeners: int = 0) -> None:
        self.asked: list[tuple[str, int, str]] = []
        self._listeners = {}
        for _ in range(listeners):
            listener = socket.create_server(("127.0.0.1", 0))
            listener.setblocking(False)
            self._listeners[listener.getsockname()[1]] = listener

    @property
    def port(self) -> int:
        return next(iter(self._listeners))

    def listen(self, port: int) -> list[socket.socket]:
        if port not in self._listeners:
            raise NetworkDeniedError(f"port {port} was not declared")
        return [self._listeners[port]]

    def connect(self, host: str, port: int, protocol: str, _waiter: Waiter) -> socket.socket:
        self.asked.append((host, port, protocol))
        if host == "192.0.2.1":
            raise NetworkDeniedError("not this one")
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        connected = socket.socket(type=kind)
        try:
            connected.connect((host, port))
        except OSError:
            connected.close()
            raise
        return connected

    def resolve(self, host: str, _waiter: Waiter) -> list[str]:
        return ["127.0.0.1", "::1"] if host == "here.example" else []

    def close(self) -> None:
        for listener in self._listeners.values():
            listener.close()
