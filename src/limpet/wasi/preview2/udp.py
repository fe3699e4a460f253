"""`wasi:sockets/udp`: datagrams to hosts that the app may reach, and their answers.

The host connects a socket for each address that is sent to. Datagrams from anybody else never
arrive: nothing listens for them, so that binding to a port of one's choice is refused.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from limpet.wasi.endings import GuestTrap
from limpet.wasi.preview2.interface import Interface, Refused
from limpet.wasi.preview2.network import (
    FAMILY,
    NETWORK_HANDLE,
    SOCKET_ADDRESS,
    Connection,
    explain,
    form_address,
    form_name,
    or_code,
    parse_address,
    require_network,
    require_room,
    unspecified_address,
)
from limpet.wasi.preview2.polling import DescriptorPollable, Pollable
from limpet.wasi.preview2.resources import Resource, Shared
from limpet.wasi.preview2.types import BYTES, U8, U64, Borrow, List, Option, Own, Record, Tuple

if TYPE_CHECKING:
    from limpet.wasi.preview2.network import NetworkHandle, SocketAddress
    from limpet.wasi.preview2.run import ComponentRun

    Datagram = tuple[bytes, SocketAddress | None]

_NEW, _BINDING, _BOUND = range(3)
# What one call takes or gives at most; a datagram has 64 KiB at most.
_MAX_DATAGRAMS = 16
_DATAGRAM_BYTES = 64 * 1024
# Addresses that one socket may have sent to.
_MAX_PEERS = 64


class Peers:
    """The connected sockets of one guest's socket, by address."""

    __slots__ = ("_family", "connections")

    def __init__(self, family: str) -> None:
        self._family = family
        self.connections: dict[tuple[str, int], Connection] = {}

    def reach(self, run: ComponentRun, address: SocketAddress) -> Connection:
        host, port = parse_address(address, self._family)
        if not port:
            raise Refused("invalid-argument")
        found = self.connections.get((host, port))
        if found is not None:
            return found
        require_room(run)
        if len(self.connections) >= _MAX_PEERS:
            raise Refused("new-socket-limit")
        connected = require_network(run).connect(host, port, "udp", run.control)
        connection = self.connections[host, port] = Connection(run, connected)
        return connection

    def close(self) -> None:
        for connection in self.connections.values():
            connection.close()
        self.connections.clear()


class UdpSocket(Resource):
    __slots__ = ("_shared", "buffer_sizes", "family", "hop_limit", "peers", "remote", "state")

    def __init__(self, family: str) -> None:
        self.family = family
        self.state = _NEW
        self.remote: SocketAddress | None = None
        self.hop_limit = 64
        self.buffer_sizes = {"receive": 128 * 1024, "send": 128 * 1024}
        self.peers = Peers(family)
        self._shared = Shared(self.peers)
        self._shared.retain()

    def share(self) -> Shared:
        self._shared.retain()
        return self._shared

    def replace_peers(self) -> None:
        """New streams know nothing of what the old ones sent to."""
        self._shared.release()
        self.peers = Peers(self.family)
        self._shared = Shared(self.peers)
        self._shared.retain()

    def close(self) -> None:
        self._shared.release()


class AnyPeerPollable(Pollable):
    __slots__ = ("_peers",)

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def events(self) -> dict[int, int] | None:
        numbers = (each.descriptor() for each in self._peers.connections.values())
        return {number: select.POLLIN for number in numbers if number >= 0}


class _Stream(Resource):
    __slots__ = ("_shared", "peers", "remote")

    def __init__(self, of: UdpSocket) -> None:
        self.peers = of.peers
        self.remote = of.remote
        self._shared = of.share()

    def close(self) -> None:
        self._shared.release()


class IncomingStream(_Stream):
    __slots__ = ()


class OutgoingStream(_Stream):
    """`permitted` is what `check-send` said last, less what was sent."""

    __slots__ = ("permitted",)

    def __init__(self, of: UdpSocket) -> None:
        super().__init__(of)
        self.permitted = 0


UDP = Interface(
    "udp-socket", "incoming-datagram-stream", "outgoing-datagram-stream", explain=explain
)
UDP_CREATE_SOCKET = Interface(explain=explain)
_SELF = Borrow("udp-socket")
_INCOMING, _OUTGOING = Borrow("incoming-datagram-stream"), Borrow("outgoing-datagram-stream")
_RECEIVED = Record((("data", BYTES), ("remote-address", SOCKET_ADDRESS)))
_TO_SEND = Record((("data", BYTES), ("remote-address", Option(SOCKET_ADDRESS))))


@UDP_CREATE_SOCKET.function("create-udp-socket", FAMILY, returns=or_code(Own("udp-socket")))
def create_udp_socket(_run: ComponentRun, family: str) -> UdpSocket:
    return UdpSocket(family)


@UDP.function(
    "[method]udp-socket.start-bind", _SELF, NETWORK_HANDLE, SOCKET_ADDRESS, returns=or_code()
)
def start_bind(
    run: ComponentRun, of: UdpSocket, _network: NetworkHandle, address: SocketAddress
) -> None:
    if of.state != _NEW:
        raise Refused("invalid-state")
    _, port = parse_address(address, of.family)
    require_network(run)
    if port:
        raise Refused("access-denied")
    of.state = _BINDING


@UDP.function("[method]udp-socket.finish-bind", _SELF, returns=or_code())
def finish_bind(_run: ComponentRun, of: UdpSocket) -> None:
    if of.state != _BINDING:
        raise Refused("not-in-progress")
    of.state = _BOUND


@UDP.function(
    "[method]udp-socket.stream",
    _SELF,
    Option(SOCKET_ADDRESS),
    returns=or_code(Tuple((Own("incoming-datagram-stream"), Own("outgoing-datagram-stream")))),
)
def stream(
    run: ComponentRun, of: UdpSocket, remote: SocketAddress | None
) -> tuple[IncomingStream, OutgoingStream]:
    if of.state != _BOUND:
        raise Refused("invalid-state")
    of.replace_peers()
    of.remote = None
    if remote is not None:
        of.peers.reach(run, remote)
        of.remote = remote
    return IncomingStream(of), OutgoingStream(of)


@UDP.function("[method]udp-socket.local-address", _SELF, returns=or_code(SOCKET_ADDRESS))
def local_address(_run: ComponentRun, of: UdpSocket) -> SocketAddress:
    if of.state != _BOUND:
        raise Refused("invalid-state")
    for connection in of.peers.connections.values():
        return form_name(connection.require().getsockname(), of.family)
    return unspecified_address(of.family, 0)


@UDP.function("[method]udp-socket.remote-address", _SELF, returns=or_code(SOCKET_ADDRESS))
def remote_address(_run: ComponentRun, of: UdpSocket) -> SocketAddress:
    if of.remote is None:
        raise Refused("invalid-state")
    return of.remote


@UDP.function("[method]udp-socket.address-family", _SELF, returns=FAMILY)
def address_family(_run: ComponentRun, of: UdpSocket) -> str:
    return of.family


@UDP.function("[method]udp-socket.unicast-hop-limit", _SELF, returns=or_code(U8))
def unicast_hop_limit(_run: ComponentRun, of: UdpSocket) -> int:
    return of.hop_limit


@UDP.function("[method]udp-socket.set-unicast-hop-limit", _SELF, U8, returns=or_code())
def set_unicast_hop_limit(_run: ComponentRun, of: UdpSocket, value: int) -> None:
    if not value:
        raise Refused("invalid-argument")
    of.hop_limit = value


@UDP.function("[method]udp-socket.receive-buffer-size", _SELF, returns=or_code(U64))
def receive_buffer_size(_run: ComponentRun, of: UdpSocket) -> int:
    return of.buffer_sizes["receive"]


@UDP.function("[method]udp-socket.set-receive-buffer-size", _SELF, U64, returns=or_code())
def set_receive_buffer_size(_run: ComponentRun, of: UdpSocket, value: int) -> None:
    _set_buffer_size(of, "receive", value)


@UDP.function("[method]udp-socket.send-buffer-size", _SELF, returns=or_code(U64))
def send_buffer_size(_run: ComponentRun, of: UdpSocket) -> int:
    return of.buffer_sizes["send"]


@UDP.function("[method]udp-socket.set-send-buffer-size", _SELF, U64, returns=or_code())
def set_send_buffer_size(_run: ComponentRun, of: UdpSocket, value: int) -> None:
    _set_buffer_size(of, "send", value)


def _set_buffer_size(of: UdpSocket, name: str, value: int) -> None:
    if not value:
        raise Refused("invalid-argument")
    of.buffer_sizes[name] = value


@UDP.function("[method]udp-socket.subscribe", _SELF, returns=Own("pollable"))
def subscribe(_run: ComponentRun, _of: UdpSocket) -> Pollable:
    return Pollable()


@UDP.function(
    "[method]incoming-datagram-stream.receive", _INCOMING, U64, returns=or_code(List(_RECEIVED))
)
def receive(run: ComponentRun, of: IncomingStream, limit: int) -> list[tuple[bytes, SocketAddress]]:
    run.control.check()
    received: list[tuple[bytes, SocketAddress]] = []
    limit = min(limit, _MAX_DATAGRAMS)
    for address, connection in of.peers.connections.items():
        while len(received) < limit:
            try:
                data = connection.require().recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                break
            received.append((data, form_address(address)))
    return received


@UDP.function("[method]incoming-datagram-stream.subscribe", _INCOMING, returns=Own("pollable"))
def incoming_subscribe(_run: ComponentRun, of: IncomingStream) -> Pollable:
    return AnyPeerPollable(of.peers)


@UDP.function("[method]outgoing-datagram-stream.check-send", _OUTGOING, returns=or_code(U64))
def check_send(_run: ComponentRun, of: OutgoingStream) -> int:
    of.permitted = _MAX_DATAGRAMS
    return of.permitted


@UDP.function(
    "[method]outgoing-datagram-stream.send", _OUTGOING, List(_TO_SEND), returns=or_code(U64)
)
def send(run: ComponentRun, of: OutgoingStream, datagrams: list[Datagram]) -> int:
    if len(datagrams) > of.permitted:
        raise GuestTrap(f"sent {len(datagrams)} datagrams where {of.permitted} were permitted")
    run.control.check()
    sent = 0
    for data, address in datagrams:
        try:
            _send_one(run, of, data, address)
        except BlockingIOError:
            break
        except (OSError, Refused):
            if sent:
                break  # what is wrong shows at the next call
            raise
        sent += 1
    of.permitted -= sent
    return sent


def _send_one(
    run: ComponentRun, of: OutgoingStream, data: bytes, address: SocketAddress | None
) -> None:
    if of.remote is not None and address not in (None, of.remote):
        raise Refused("invalid-argument")
    target = address if address is not None else of.remote
    if target is None:
        raise Refused("invalid-argument")
    of.peers.reach(run, target).require().send(data)


@UDP.function("[method]outgoing-datagram-stream.subscribe", _OUTGOING, returns=Own("pollable"))
def outgoing_subscribe(_run: ComponentRun, of: OutgoingStream) -> Pollable:
    for connection in of.peers.connections.values():
        return DescriptorPollable(connection.descriptor, select.POLLOUT)
    return Pollable()
