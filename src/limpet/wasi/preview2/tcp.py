"""`wasi:sockets/tcp`: servers on sockets that came along, clients on connections that come.

Binding is remembered only; listening takes the socket for that port, which somebody else bound.
Connecting asks for a connection and waits for it, so that `finish-connect` has it at once. Options
that the host's socket can't be given here are remembered, and said again when they are asked for.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from limpet.wasi.preview2.interface import Interface, Refused
from limpet.wasi.preview2.network import (
    FAMILY,
    NETWORK_HANDLE,
    SOCKET_ADDRESS,
    explain,
    form_address,
    form_name,
    or_code,
    parse_address,
    require_network,
    require_room,
)
from limpet.wasi.preview2.tcp_sockets import (
    BINDING,
    BOUND,
    CONNECTED,
    CONNECTING,
    FAILED,
    LISTENING,
    LISTENING_SOON,
    NEW,
    ConnectionsPollable,
    TcpSocket,
)
from limpet.wasi.preview2.types import BOOL, U8, U32, U64, Borrow, Enum, Own, Tuple, Type

if TYPE_CHECKING:
    from limpet.wasi.preview2.network import NetworkHandle, SocketAddress
    from limpet.wasi.preview2.polling import Pollable
    from limpet.wasi.preview2.run import ComponentRun
    from limpet.wasi.preview2.streams import InputStream, OutputStream

_HOW = {"receive": socket.SHUT_RD, "send": socket.SHUT_WR, "both": socket.SHUT_RDWR}

TCP = Interface("tcp-socket", explain=explain)
TCP_CREATE_SOCKET = Interface(explain=explain)
_SELF = Borrow("tcp-socket")
_STREAMS = (Own("input-stream"), Own("output-stream"))


@TCP_CREATE_SOCKET.function("create-tcp-socket", FAMILY, returns=or_code(Own("tcp-socket")))
def create_tcp_socket(_run: ComponentRun, family: str) -> TcpSocket:
    return TcpSocket(family)


@TCP.function(
    "[method]tcp-socket.start-bind", _SELF, NETWORK_HANDLE, SOCKET_ADDRESS, returns=or_code()
)
def start_bind(
    run: ComponentRun, of: TcpSocket, _network: NetworkHandle, address: SocketAddress
) -> None:
    of.require(NEW)
    local = parse_address(address, of.family)
    require_network(run)
    of.local = local
    of.state = BINDING


@TCP.function("[method]tcp-socket.finish-bind", _SELF, returns=or_code())
def finish_bind(_run: ComponentRun, of: TcpSocket) -> None:
    of.finish(BINDING, BOUND)


@TCP.function("[method]tcp-socket.start-listen", _SELF, returns=or_code())
def start_listen(run: ComponentRun, of: TcpSocket) -> None:
    of.require(BOUND)
    of.listen(run)
    of.state = LISTENING_SOON


@TCP.function("[method]tcp-socket.finish-listen", _SELF, returns=or_code())
def finish_listen(_run: ComponentRun, of: TcpSocket) -> None:
    of.finish(LISTENING_SOON, LISTENING)


@TCP.function(
    "[method]tcp-socket.accept", _SELF, returns=or_code(Tuple((Own("tcp-socket"), *_STREAMS)))
)
def accept(run: ComponentRun, of: TcpSocket) -> tuple[TcpSocket, InputStream, OutputStream]:
    of.require(LISTENING)
    run.control.check()
    accepted = of.accept(run)
    return accepted, *accepted.streams()


@TCP.function(
    "[method]tcp-socket.start-connect", _SELF, NETWORK_HANDLE, SOCKET_ADDRESS, returns=or_code()
)
def start_connect(
    run: ComponentRun, of: TcpSocket, _network: NetworkHandle, address: SocketAddress
) -> None:
    of.require(NEW, BOUND)
    host, port = parse_address(address, of.family)
    if not port:
        raise Refused("invalid-argument")
    require_room(run)
    try:
        connected = require_network(run).connect(host, port, "tcp", run.control)
    except BaseException:
        of.state = FAILED
        raise
    of.adopt(run, connected)
    of.remote = (host, port)
    of.state = CONNECTING


@TCP.function("[method]tcp-socket.finish-connect", _SELF, returns=or_code(Tuple(_STREAMS)))
def finish_connect(_run: ComponentRun, of: TcpSocket) -> tuple[InputStream, OutputStream]:
    of.finish(CONNECTING, CONNECTED)
    return of.streams()


@TCP.function("[method]tcp-socket.local-address", _SELF, returns=or_code(SOCKET_ADDRESS))
def local_address(_run: ComponentRun, of: TcpSocket) -> SocketAddress:
    return of.local_address()


@TCP.function("[method]tcp-socket.remote-address", _SELF, returns=or_code(SOCKET_ADDRESS))
def remote_address(_run: ComponentRun, of: TcpSocket) -> SocketAddress:
    of.require(CONNECTED)
    if of.remote is not None:
        return form_address(of.remote)
    return form_name(of.connected().getpeername(), of.family)


@TCP.function("[method]tcp-socket.is-listening", _SELF, returns=BOOL)
def is_listening(_run: ComponentRun, of: TcpSocket) -> bool:
    return of.state == LISTENING


@TCP.function("[method]tcp-socket.address-family", _SELF, returns=FAMILY)
def address_family(_run: ComponentRun, of: TcpSocket) -> str:
    return of.family


@TCP.function("[method]tcp-socket.set-listen-backlog-size", _SELF, U64, returns=or_code())
def set_listen_backlog_size(_run: ComponentRun, of: TcpSocket, size: int) -> None:
    if not size:
        raise Refused("invalid-argument")
    of.require(NEW, BOUND, LISTENING)


@TCP.function("[method]tcp-socket.subscribe", _SELF, returns=Own("pollable"))
def subscribe(_run: ComponentRun, of: TcpSocket) -> Pollable:
    return ConnectionsPollable(of)


@TCP.function("[method]tcp-socket.shutdown", _SELF, Enum(tuple(_HOW)), returns=or_code())
def shutdown(_run: ComponentRun, of: TcpSocket, how: str) -> None:
    of.require(CONNECTED)
    of.shutdown(_HOW[how])


@TCP.function("[method]tcp-socket.keep-alive-enabled", _SELF, returns=or_code(BOOL))
def keep_alive_enabled(_run: ComponentRun, of: TcpSocket) -> bool:
    return bool(of.options["keep-alive-enabled"])


@TCP.function("[method]tcp-socket.set-keep-alive-enabled", _SELF, BOOL, returns=or_code())
def set_keep_alive_enabled(_run: ComponentRun, of: TcpSocket, value: bool) -> None:  # noqa: FBT001
    of.options["keep-alive-enabled"] = int(value)


def _offer_option(name: str, of_type: Type) -> None:
    def get(_run: ComponentRun, of: TcpSocket) -> int:
        return of.options[name]

    def set_(_run: ComponentRun, of: TcpSocket, value: int) -> None:
        if not value:
            raise Refused("invalid-argument")
        of.options[name] = value

    TCP.function(f"[method]tcp-socket.{name}", _SELF, returns=or_code(of_type))(get)
    TCP.function(f"[method]tcp-socket.set-{name}", _SELF, of_type, returns=or_code())(set_)


for _name, _type in (
    ("keep-alive-idle-time", U64),
    ("keep-alive-interval", U64),
    ("keep-alive-count", U32),
    ("hop-limit", U8),
    ("receive-buffer-size", U64),
    ("send-buffer-size", U64),
):
    _offer_option(_name, _type)
