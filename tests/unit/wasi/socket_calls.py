"""Calls the host functions of sockets as a guest would, over real sockets of this machine."""

from __future__ import annotations

import contextlib
import socket
import time
from struct import pack, pack_into, unpack_from
from typing import TYPE_CHECKING

from limpet.engine.protocol import Invocation
from limpet.wasi import abi, errnos
from limpet.wasi.control import Control
from limpet.wasi.errnos import WasiError, errno_from_os
from limpet.wasi.memory import GuestMemory
from limpet.wasi.network import NetworkDeniedError
from limpet.wasi.preview1 import FUNCTIONS
from limpet.wasi.run import WasiRun
from limpet.wasi.streams import BufferOutput, BytesInput
from limpet.wasi.strings import Strings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.wasi.streams import Waiter

PORT = 8080
MEMORY_BYTES = 1 << 20
INET4, INET6 = 1, 2
DATAGRAM, STREAM = 1, 2
# Where a caller puts what it passes and looks for what comes back.
RESULT, ADDRESS_RECORD, ADDRESS, VECTORS, DATA = 64, 128, 256, 512, 65536


class LocalNetwork:
    """Listens on free ports of 127.0.0.1 for `PORT`; connects to whatever is not denied."""

    def __init__(self, count: int = 1, *, family: int = socket.AF_INET, path: str = "") -> None:
        self.listeners = [_listen(family, path) for _ in range(count)]
        self.connections: list[tuple[str, int, str]] = []
        self.denied: set[str] = set()
        self.names: dict[str, list[str]] = {}

    @property
    def address(self) -> tuple[str, int]:
        return self.listeners[0].getsockname()[:2]

    def listen(self, port: int) -> Sequence[socket.socket]:
        if port != PORT:
            raise NetworkDeniedError(f"port {port} was not declared")
        return self.listeners

    def connect(self, host: str, port: int, protocol: str, waiter: Waiter) -> socket.socket:
        self.connections.append((host, port, protocol))
        if host in self.denied:
            raise NetworkDeniedError(f"{host} is not for this app")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        connection = socket.socket(family, kind)
        try:
            connection.connect((host, port))
        except OSError:
            connection.close()
            raise
        return connection

    def resolve(self, host: str, waiter: Waiter) -> list[str]:
        if host in self.denied:
            raise NetworkDeniedError(f"{host} is not for this app")
        return self.names.get(host, [])

    def close(self) -> None:
        for each in self.listeners:
            each.close()


def _listen(family: int, path: str) -> socket.socket:
    listener = socket.socket(family)
    if family == socket.AF_UNIX:
        listener.bind(path)
    else:
        listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    listener.listen(128)
    listener.setblocking(False)
    return listener


class Caller:
    """A guest without code: its memory, and calls by name that return error numbers."""

    def __init__(self, network: LocalNetwork | None, *, deadline_seconds: float = 20) -> None:
        self.bytes = bytearray(MEMORY_BYTES)
        self.memory = GuestMemory(lambda: memoryview(self.bytes))
        self.control = Control()
        now_ns = time.monotonic_ns()
        self.control.begin(now_ns + int(deadline_seconds * 1e9))
        invocation = Invocation(
            args=Strings([b"guest"]),
            env=Strings([]),
            stdin=BytesInput(b""),
            stdout=BufferOutput(1 << 20),
            stderr=BufferOutput(1 << 20),
            network=network,
        )
        self.run = WasiRun(invocation, self.memory, self.control, now_ns)

    def call(self, name: str, *arguments: int) -> int:
        try:
            return FUNCTIONS[name](self.run, *arguments)
        except WasiError as error:
            return error.number
        except OSError as error:
            return errno_from_os(error)

    def done(self, name: str, *arguments: int) -> None:
        number = self.call(name, *arguments)
        assert number == errnos.SUCCESS, f"{name}: error {number}"

    def u32(self, at: int = RESULT) -> int:
        return unpack_from("<I", self.bytes, at)[0]

    def u16(self, at: int) -> int:
        return unpack_from("<H", self.bytes, at)[0]

    def open(self, kind: int = STREAM, family: int = INET4) -> int:
        self.done("sock_open", family, kind, RESULT)
        return self.u32()

    def address(self, host: str, *, length: int = 0) -> int:
        """Put an address into memory; where its record is. `length` 128: as a storage."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        raw = socket.inet_pton(family, host)
        if length == 128:
            raw = (pack("<H", INET6 if ":" in host else INET4) + raw).ljust(128, b"\0")
        self.bytes[ADDRESS : ADDRESS + len(raw)] = raw
        pack_into("<II", self.bytes, ADDRESS_RECORD, ADDRESS, len(raw))
        return ADDRESS_RECORD

    def room(self, length: int) -> int:
        """A record with room for an address of this length."""
        self.bytes[ADDRESS : ADDRESS + 128] = bytes(128)
        pack_into("<II", self.bytes, ADDRESS_RECORD, ADDRESS, length)
        return ADDRESS_RECORD

    def listen(self, port: int = PORT) -> int:
        number = self.open()
        self.done("sock_bind", number, self.address("0.0.0.0"), port)
        self.done("sock_listen", number, 128)
        return number

    def accept(self, listening: int) -> int:
        self.done("sock_accept", listening, 0, RESULT)
        return self.u32()

    def connect(self, address: tuple[str, int], kind: int = STREAM) -> int:
        number = self.open(kind)
        self.done("sock_connect", number, self.address(address[0]), address[1])
        return number

    def set_non_blocking(self, number: int) -> None:
        self.done("fd_fdstat_set_flags", number, abi.FDFLAGS_NONBLOCK)

    def vectors(self, *lengths: int) -> tuple[int, int]:
        """Buffers of these lengths, one behind the other from DATA on."""
        at = DATA
        for index, length in enumerate(lengths):
            pack_into("<II", self.bytes, VECTORS + 8 * index, at, length)
            at += length
        return VECTORS, len(lengths)

    def put(self, *pieces: bytes) -> tuple[int, int]:
        data = b"".join(pieces)
        self.bytes[DATA : DATA + len(data)] = data
        return self.vectors(*map(len, pieces))

    def send(self, number: int, *pieces: bytes) -> int:
        self.done("sock_send", number, *self.put(*pieces), 0, RESULT)
        return self.u32()

    def receive(self, number: int, *lengths: int, flags: int = 0) -> bytes:
        """What one sock_recv gives; the flags that come with it are at RESULT + 8."""
        self.done("sock_recv", number, *self.vectors(*lengths), flags, RESULT, RESULT + 8)
        return self.data()

    def data(self) -> bytes:
        return bytes(self.bytes[DATA : DATA + self.u32()])

    def close(self) -> None:
        self.run.close()
        self.memory.release()
        self.control.close()


@contextlib.contextmanager
def udp_server():
    """A datagram socket of this machine that waits for no longer than a test may."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        yield server
