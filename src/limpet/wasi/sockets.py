"""Opening, listening and connecting: what a guest's sockets are for.

Source: `sock_accept` and `sock_shutdown` in `wasi_snapshot_preview1.witx`, the rest of WasmEdge's
extension (`limpet.wasi.socket_abi`). A worker can neither bind nor connect, so both ends come
from the run's network (`limpet.wasi.network`), and some things are simpler here than with a
kernel's sockets:

- The app decides which ports there are and the node which addresses they are on. Listening takes
  any declared port; the address that the guest bound is remembered and otherwise of no matter.
- Connecting is over when the call returns, on a non-blocking socket, too: there is no
  EINPROGRESS.
- A datagram socket has no port of its own that others could write to: binding one to a port is
  ENOTSUP. Bound to port 0, or not at all, it hears from those that it wrote to.
- There are no Unix sockets.

Numbers that the extension does not know are EINVAL, as in WasmEdge; pointers that are out of
bounds end the guest, as in all of preview 1.
"""

from __future__ import annotations

import select
from contextlib import suppress
from time import monotonic_ns
from typing import TYPE_CHECKING

from limpet.errors import DeniedError
from limpet.wasi import abi, errnos, linux_sockets, socket_abi
from limpet.wasi.arguments import check_flags
from limpet.wasi.errnos import WasiError
from limpet.wasi.socket_addresses import endpoint_of, read_address, read_record, write_address
from limpet.wasi.socket_descriptors import NOWHERE, OpenSocket
from limpet.wasi.socket_options import apply_linger

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from limpet.wasi.network import Network
    from limpet.wasi.run import WasiRun
    from limpet.wasi.socket_descriptors import Endpoint

_FAMILIES = frozenset({socket_abi.FAMILY_INET4, socket_abi.FAMILY_INET6})
_TYPES = frozenset({socket_abi.TYPE_DATAGRAM, socket_abi.TYPE_STREAM})
_SHUTDOWNS = {
    socket_abi.SDFLAGS_READ: linux_sockets.SHUT_RD,
    socket_abi.SDFLAGS_WRITE: linux_sockets.SHUT_WR,
    abi.SDFLAGS_ALL: linux_sockets.SHUT_RDWR,
}
# Where clients come from that have no address: the node itself.
_LOOPBACK = "127.0.0.1"
_V1_FAMILIES = {
    socket_abi.FAMILY_INET4: socket_abi.V1_FAMILY_INET4,
    socket_abi.FAMILY_INET6: socket_abi.V1_FAMILY_INET6,
}


def sock_open(run: WasiRun, family: int, type_: int, number_at: int) -> int:
    run.memory.require(number_at, 4, 4)
    if family == socket_abi.FAMILY_UNIX:
        return errnos.AFNOSUPPORT
    if family not in _FAMILIES or type_ not in _TYPES:
        return errnos.INVAL
    run.memory.write_u32(number_at, run.files.add(OpenSocket(family, type_)))
    return errnos.SUCCESS


def sock_bind(run: WasiRun, number: int, address_at: int, port: int) -> int:
    entry = run.files.socket(number)
    host = read_address(run.memory, address_at, entry)
    if entry.local is not None or entry.kernel is not None or entry.listening:
        return errnos.INVAL
    port &= 0xFFFF  # as WasmEdge takes it
    if port and not entry.is_stream:
        return errnos.NOTSUP
    entry.local = (host, port)
    return errnos.SUCCESS


def sock_listen(run: WasiRun, number: int, _backlog: int) -> int:
    entry = run.files.socket(number)
    if not entry.is_stream:
        return errnos.NOTSUP
    if entry.listening:
        return errnos.SUCCESS
    if entry.kernel is not None:
        return errnos.INVAL
    port = entry.local[1] if entry.local is not None else 0
    if not port:
        return errnos.ACCES
    if any(other.local is not None and other.local[1] == port for other in _listening(run)):
        return errnos.ADDRINUSE
    try:
        entry.listening = _network(run).listen(port)
    except DeniedError:
        return errnos.ACCES
    return errnos.SUCCESS


def _listening(run: WasiRun) -> Iterable[OpenSocket]:
    entries = run.files.entries.values()
    return [each for each in entries if isinstance(each, OpenSocket) and each.listening]


def sock_accept(run: WasiRun, number: int, flags: int, number_at: int) -> int:
    check_flags("fdflags", flags, abi.FDFLAGS_ALL)
    entry = run.files.socket(number)
    run.memory.require(number_at, 4, 4)
    if not entry.listening:
        return errnos.INVAL
    run.files.require_room()
    accepted = _accept(run, entry)
    accepted.flags = flags & abi.FDFLAGS_NONBLOCK
    run.memory.write_u32(number_at, run.files.add(accepted))
    return errnos.SUCCESS


def sock_accept_v1(run: WasiRun, number: int, number_at: int) -> int:
    return sock_accept(run, number, 0, number_at)


def _accept(run: WasiRun, entry: OpenSocket) -> OpenSocket:
    """The next client. Others may be faster on a shared listening socket: then wait on."""
    until_ns = end_of_wait(entry.receive_timeout_ns)
    while True:
        for listening in entry.listening:
            try:
                connection, address = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            if len(entry.listening) > 1:  # each gets its turn
                others = [each for each in entry.listening if each is not listening]
                entry.listening = [*others, listening]
            accepted = OpenSocket(entry.family, socket_abi.TYPE_STREAM)
            accepted.local = entry.local
            _adopt(accepted, connection, endpoint_of(address))
            return accepted
        wait_until_ready(run, entry, entry.read_descriptors(), select.POLLIN, until_ns)


def sock_connect(run: WasiRun, number: int, address_at: int, port: int) -> int:
    entry = run.files.socket(number)
    host = read_address(run.memory, address_at, entry)
    if entry.listening or (entry.is_stream and entry.kernel is not None):
        return errnos.ISCONN
    peer = (host, port & 0xFFFF)
    _adopt(entry, open_connection(run, entry, peer), peer)
    return errnos.SUCCESS


def open_connection(run: WasiRun, entry: OpenSocket, peer: Endpoint) -> socket.socket:
    """A kernel's socket for this peer. Raises OSError as the network does, EACCES when it denies."""
    host, port = peer
    if not port:
        raise WasiError(errnos.ADDRNOTAVAIL)
    protocol = "tcp" if entry.is_stream else "udp"
    try:
        return _network(run).connect(host, port, protocol, run.control)
    except DeniedError:
        raise WasiError(errnos.ACCES) from None


def prepare(kernel: socket.socket) -> None:
    """Have a kernel's socket never block, where neither deadline nor interrupt would reach."""
    kernel.setblocking(False)


def _adopt(entry: OpenSocket, kernel: socket.socket, peer: Endpoint) -> None:
    prepare(kernel)
    if entry.is_stream:
        # The extension has no option for it, and answers that wait for acknowledgements are slow.
        with suppress(OSError):  # a Unix socket needs none
            kernel.setsockopt(linux_sockets.IPPROTO_TCP, linux_sockets.TCP_NODELAY, 1)
    entry.close()
    entry.kernel = kernel
    entry.peer = peer if peer != NOWHERE else (_LOOPBACK, 0)
    apply_linger(entry)


def _network(run: WasiRun) -> Network:
    network = run.invocation.network
    if network is None:
        raise WasiError(errnos.ACCES)
    return network


def sock_shutdown(run: WasiRun, number: int, how: int) -> int:
    check_flags("sdflags", how, abi.SDFLAGS_ALL)
    entry = run.files.socket(number)
    if not how:
        return errnos.INVAL
    if entry.listening:
        if how & socket_abi.SDFLAGS_READ:
            entry.listening = ()  # this guest hears of no more clients; others that share it do
        return errnos.SUCCESS
    if entry.kernel is None:
        return errnos.NOTCONN
    entry.kernel.shutdown(_SHUTDOWNS[how])
    return errnos.SUCCESS


def end_of_wait(timeout_ns: int) -> int | None:
    """The moment (CLOCK_MONOTONIC) until which a call may wait; None for ever."""
    return monotonic_ns() + timeout_ns if timeout_ns else None


def wait_until_ready(
    run: WasiRun, entry: OpenSocket, descriptors: Iterable[int], mask: int, until_ns: int | None
) -> dict[int, int]:
    """Wait for one of these; raises EAGAIN where the guest wants no waiting, or none that long."""
    if entry.flags & abi.FDFLAGS_NONBLOCK:
        raise WasiError(errnos.AGAIN)
    ready = run.control.wait(dict.fromkeys(descriptors, mask), until_ns)
    if not ready:
        raise WasiError(errnos.AGAIN)
    return ready


def sock_getlocaladdr(
    run: WasiRun, number: int, address_at: int, family_at: int, port_at: int
) -> int:
    entry = run.files.socket(number)
    return _write_v1(run, entry, _local_endpoint(entry), address_at, family_at, port_at)


def sock_getlocaladdr_v2(run: WasiRun, number: int, address_at: int, port_at: int) -> int:
    entry = run.files.socket(number)
    return _write_v2(run, entry, _local_endpoint(entry), address_at, port_at)


def sock_getpeeraddr(
    run: WasiRun, number: int, address_at: int, family_at: int, port_at: int
) -> int:
    entry = run.files.socket(number)
    if entry.kernel is None:
        return errnos.NOTCONN
    return _write_v1(run, entry, entry.peer, address_at, family_at, port_at)


def sock_getpeeraddr_v2(run: WasiRun, number: int, address_at: int, port_at: int) -> int:
    entry = run.files.socket(number)
    if entry.kernel is None:
        return errnos.NOTCONN
    return _write_v2(run, entry, entry.peer, address_at, port_at)


def _local_endpoint(entry: OpenSocket) -> Endpoint:
    """Where it is: by the kernel when it is connected over the internet, else where it was bound."""
    found = endpoint_of(entry.kernel.getsockname()) if entry.kernel is not None else NOWHERE
    return entry.local or NOWHERE if found == NOWHERE else found


def _write_v1(
    run: WasiRun,
    entry: OpenSocket,
    endpoint: Endpoint,
    address_at: int,
    family_at: int,
    port_at: int,
) -> int:
    host, port = endpoint
    family = write_address(run.memory, address_at, entry, host)
    run.memory.write_u32(family_at, _V1_FAMILIES[family])
    run.memory.write_u32(port_at, port)
    return errnos.SUCCESS


def _write_v2(
    run: WasiRun, entry: OpenSocket, endpoint: Endpoint, address_at: int, port_at: int
) -> int:
    host, port = endpoint
    if read_record(run.memory, address_at)[1] != socket_abi.STORAGE_BYTES:
        return errnos.INVAL
    write_address(run.memory, address_at, entry, host)
    run.memory.write_u32(port_at, port)
    return errnos.SUCCESS
