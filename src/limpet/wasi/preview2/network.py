"""`wasi:sockets/network`: addresses and errors, and the right to a network, which every app has.

What an app may really reach is decided behind `Invocation.network`; an app without one is refused
where it listens, connects or asks for a name.
"""

from __future__ import annotations

import errno as host
import ipaddress
from contextlib import suppress
from typing import TYPE_CHECKING

from limpet.errors import DeniedError
from limpet.wasi.preview2.interface import Interface, Refused
from limpet.wasi.preview2.resources import Resource
from limpet.wasi.preview2.run import MAX_DESCRIPTORS
from limpet.wasi.preview2.types import (
    U8,
    U16,
    U32,
    Borrow,
    Enum,
    Option,
    Own,
    Record,
    Result,
    Tuple,
    Type,
    Variant,
)

if TYPE_CHECKING:
    import socket

    from limpet.wasi.network import Network
    from limpet.wasi.preview2.run import ComponentRun
    from limpet.wasi.preview2.streams import ErrorResource

    # ("ipv4", (port, (a, b, c, d))) or ("ipv6", (port, flow, (eight words), scope))
    SocketAddress = tuple[str, tuple[object, ...]]
    # ("ipv4", (a, b, c, d)) or ("ipv6", (eight words))
    IpAddress = tuple[str, tuple[int, ...]]

# error-code of wasi:sockets/network, in its order -> the host's errors that it stands for.
_CODES: dict[str, tuple[int, ...]] = {
    "unknown": (),
    "access-denied": (host.EACCES, host.EPERM),
    "not-supported": (host.EOPNOTSUPP, host.EPROTONOSUPPORT, host.ENOSYS),
    "invalid-argument": (host.EINVAL, host.EFAULT, host.EAFNOSUPPORT, host.EDESTADDRREQ),
    "out-of-memory": (host.ENOMEM, host.ENOBUFS),
    "timeout": (host.ETIMEDOUT,),
    "concurrency-conflict": (host.EALREADY,),
    "not-in-progress": (),
    "would-block": (host.EAGAIN,),
    "invalid-state": (host.ENOTCONN, host.EISCONN),
    "new-socket-limit": (host.EMFILE, host.ENFILE),
    "address-not-bindable": (host.EADDRNOTAVAIL,),
    "address-in-use": (host.EADDRINUSE,),
    "remote-unreachable": (
        host.EHOSTUNREACH,
        host.ENETUNREACH,
        host.EHOSTDOWN,
        host.ENETDOWN,
        host.ENONET,
    ),
    "connection-refused": (host.ECONNREFUSED,),
    "connection-reset": (host.ECONNRESET, host.EPIPE),
    "connection-aborted": (host.ECONNABORTED,),
    "datagram-too-large": (host.EMSGSIZE,),
    "name-unresolvable": (),
    "temporary-resolver-failure": (),
    "permanent-resolver-failure": (),
}
_NAMES = {number: name for name, numbers in _CODES.items() for number in numbers}

ERROR_CODE = Enum(tuple(_CODES))
FAMILY = Enum(("ipv4", "ipv6"))
_IPV4 = Tuple((U8,) * 4)
_IPV6 = Tuple((U16,) * 8)
IP_ADDRESS = Variant((("ipv4", _IPV4), ("ipv6", _IPV6)))
SOCKET_ADDRESS = Variant(
    (
        ("ipv4", Record((("port", U16), ("address", _IPV4)))),
        (
            "ipv6",
            Record((("port", U16), ("flow-info", U32), ("address", _IPV6), ("scope-id", U32))),
        ),
    )
)
NETWORK_HANDLE = Borrow("network")


def or_code(of: Type | None = None) -> Result:
    return Result(of, ERROR_CODE)


def explain(error: Exception) -> object:
    """The error-code for an exception; raises what it has no word for."""
    if isinstance(error, Refused):
        return error.value
    if isinstance(error, DeniedError):
        return "access-denied"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, OSError):
        return _NAMES.get(error.errno or 0, "unknown")
    raise error


NETWORK = Interface("network")
INSTANCE_NETWORK = Interface()


class NetworkHandle(Resource):
    """There is only one network, so that the handle says nothing."""

    __slots__ = ()


@INSTANCE_NETWORK.function("instance-network", returns=Own("network"))
def instance_network(_run: ComponentRun) -> NetworkHandle:
    return NetworkHandle()


@NETWORK.function("network-error-code", Borrow("error"), returns=Option(ERROR_CODE))
def network_error_code(_run: ComponentRun, error: ErrorResource) -> object:
    return explain(error.error) if isinstance(error.error, OSError) else "unknown"


class Connection:
    """A socket that this run opened, and the count of those it may have.

    `pending` is what the guest sent and the kernel did not take yet.
    """

    __slots__ = ("_run", "pending", "socket")

    def __init__(self, run: ComponentRun, of: socket.socket) -> None:
        self._run = run
        self.socket: socket.socket | None = of
        self.pending = b""
        of.setblocking(False)
        run.descriptors += 1

    def descriptor(self) -> int:
        """The host's descriptor, -1 once it is closed."""
        return -1 if self.socket is None else self.socket.fileno()

    def require(self) -> socket.socket:
        if self.socket is None:
            raise Refused("invalid-state")
        return self.socket

    def send(self, data: bytes) -> None:
        """Send what is pending, and this after it; what the kernel does not take is pending then."""
        self.pending += data
        if not self.pending:
            return
        try:
            sent = self.require().send(self.pending)
        except BlockingIOError:
            return
        except OSError:
            self.pending = b""
            raise
        self.pending = self.pending[sent:]

    def flush(self) -> None:
        """Wait until nothing is pending."""
        while self.pending:
            self._run.control.wait_writable(self.descriptor())
            self.send(b"")

    def close(self) -> None:
        """Send what is pending, as closing a socket of the kernel's does; at the end of the run, try to."""
        if self.socket is None:
            return
        try:
            with suppress(OSError):
                if self._run.control.is_running:
                    self.flush()
                self.send(b"")
        finally:
            self._run.descriptors -= 1
            of, self.socket = self.socket, None
            of.close()


def require_network(run: ComponentRun) -> Network:
    network = run.invocation.network
    if network is None:
        raise Refused("access-denied")
    return network


def require_room(run: ComponentRun) -> None:
    if run.descriptors >= MAX_DESCRIPTORS:
        raise Refused("new-socket-limit")


def parse_address(address: SocketAddress, family: str) -> tuple[str, int]:
    """Host, as text, and port. Refuses one of the other family, or mapped into IPv6."""
    case, parts = address
    if case != family:
        raise Refused("invalid-argument")
    if case == "ipv4":
        port, octets = parts
        return str(ipaddress.IPv4Address(bytes(octets))), int(port)  # type: ignore[call-overload]
    port, _flow, words, _scope = parts
    packed = b"".join(word.to_bytes(2, "big") for word in words)  # type: ignore[attr-defined]
    parsed = ipaddress.IPv6Address(packed)
    if parsed.ipv4_mapped is not None:
        raise Refused("invalid-argument")
    return str(parsed), int(port)  # type: ignore[call-overload]


def form_ip_address(text: str) -> IpAddress:
    """An address of the host's, as text, for the guest. Raises ValueError for what is none."""
    parsed = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv4Address):
        return "ipv4", tuple(parsed.packed)
    return "ipv6", _words(parsed.packed)


def form_name(name: object, family: str) -> SocketAddress:
    """What getsockname(2) or getpeername(2) says, for a guest whose socket is of `family`.

    What is behind it may be another kind: a Unix socket, whose peers are on the node, or one that
    serves both families. Its addresses are given in the guest's terms.
    """
    if not isinstance(name, tuple):
        return form_address(("127.0.0.1" if family == "ipv4" else "::1", 0))
    address = form_address(name)
    if address[0] == family:
        return address
    mapped = ipaddress.IPv6Address(str(name[0]).partition("%")[0]) if ":" in str(name[0]) else None
    if mapped is not None and mapped.ipv4_mapped is not None:
        return form_address((str(mapped.ipv4_mapped), name[1]))
    return unspecified_address(family, name[1])


def form_address(name: tuple[object, ...]) -> SocketAddress:
    """Host, as text, and port, for the guest."""
    host_text, port = str(name[0]), name[1]
    case, address = form_ip_address(host_text)
    if case == "ipv4":
        return case, (port, address)
    return case, (port, 0, address, 0)


def unspecified_address(family: str, port: int) -> SocketAddress:
    if family == "ipv4":
        return family, (port, (0,) * 4)
    return family, (port, 0, (0,) * 8, 0)


def _words(packed: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(packed[at : at + 2], "big") for at in range(0, 16, 2))
