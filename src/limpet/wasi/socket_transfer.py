"""Moving data over sockets: `sock_recv`, `sock_send` and their kin, and `fd_read` and `fd_write` on sockets.

Source: `sock_recv` and `sock_send` in `wasi_snapshot_preview1.witx`, `sock_recv_from` and
`sock_send_to` of WasmEdge's extension. Unlike on files, all buffers of a call are moved at once:
a datagram must stay one. Data goes straight between the kernel and the guest's memory. A blocking
send over a stream returns when all is sent.

A sender's port is a plain number; WasmEdge leaves it in network order, which its own crate reads
as a number.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from limpet.wasi import abi, errnos, linux_sockets, socket_abi
from limpet.wasi.arguments import check_flags
from limpet.wasi.descriptors import MAX_DESCRIPTORS
from limpet.wasi.errnos import WasiError
from limpet.wasi.socket_addresses import parse_address, read_address, write_address
from limpet.wasi.socket_descriptors import OpenSocket
from limpet.wasi.sockets import end_of_wait, open_connection, prepare, wait_until_ready

if TYPE_CHECKING:
    import socket

    from limpet.wasi.memory import GuestMemory
    from limpet.wasi.run import WasiRun
    from limpet.wasi.socket_descriptors import Endpoint

_Pieces = list[tuple[int, int]]  # buffers in the guest's memory, in bounds: pointer, length
_unpack_iovec = abi.IOVEC.unpack_from
# Peers that one unconnected datagram socket hears from; each costs the worker a descriptor.
_MAX_PEERS = 16


def sock_recv(
    run: WasiRun,
    number: int,
    vectors_at: int,
    count: int,
    flags: int,
    length_at: int,
    out_flags_at: int,
) -> int:
    check_flags("riflags", flags, abi.RIFLAGS_ALL)
    entry = run.files.socket(number)
    length, out_flags, _ = receive(run, entry, vectors_at, count, flags)
    run.memory.write_u32(length_at, length)
    run.memory.write_u16(out_flags_at, out_flags)
    return errnos.SUCCESS


def sock_recv_from(
    run: WasiRun,
    number: int,
    vectors_at: int,
    count: int,
    address_at: int,
    flags: int,
    length_at: int,
    out_flags_at: int,
) -> int:
    """The sender's address without its port, as far as there is room for it."""
    if flags & ~abi.RIFLAGS_ALL:
        return errnos.INVAL
    memory = run.memory
    memory.require(address_at, socket_abi.ADDRESS.size, 4)
    pointer, room = socket_abi.ADDRESS.unpack_from(memory.view, address_at)
    entry = run.files.socket(number)
    length, out_flags, (host, _) = receive(run, entry, vectors_at, count, flags)
    raw = parse_address(host)
    if len(raw) <= room:
        memory.write(pointer, raw)
    memory.write_u32(length_at, length)
    memory.write_u16(out_flags_at, out_flags)
    return errnos.SUCCESS


def sock_recv_from_v2(
    run: WasiRun,
    number: int,
    vectors_at: int,
    count: int,
    address_at: int,
    flags: int,
    port_at: int,
    length_at: int,
    out_flags_at: int,
) -> int:
    if flags & ~abi.RIFLAGS_ALL:
        return errnos.INVAL
    entry = run.files.socket(number)
    length, out_flags, (host, port) = receive(run, entry, vectors_at, count, flags)
    write_address(run.memory, address_at, entry, host)
    run.memory.write_u16(port_at, port)
    run.memory.write_u32(length_at, length)
    run.memory.write_u16(out_flags_at, out_flags)
    return errnos.SUCCESS


def receive(
    run: WasiRun, entry: OpenSocket, vectors_at: int, count: int, flags: int = 0
) -> tuple[int, int, Endpoint]:
    """Receive into a guest's buffers: how many bytes, the flags for the guest, and from whom."""
    pieces = _locate(run.memory, vectors_at, count)
    kernel = entry.kernel
    if kernel is None:
        return _receive_from_peers(run, entry, pieces, flags)
    must_fill = (
        flags & abi.RIFLAGS_ALL == socket_abi.RIFLAGS_WAITALL
        and entry.is_stream
        and not entry.flags & abi.FDFLAGS_NONBLOCK
    )
    until_ns = end_of_wait(entry.receive_timeout_ns)
    total = 0
    while True:
        try:
            length, out_flags = _receive_once(run.memory, kernel, entry, pieces, flags)
        except BlockingIOError:
            try:
                wait_until_ready(run, entry, (kernel.fileno(),), select.POLLIN, until_ns)
            except WasiError:
                if total:
                    return total, 0, entry.peer
                raise
            continue
        total += length
        if not (must_fill and length):
            return total, out_flags, entry.peer
        pieces = _advance(pieces, length)
        if not pieces:
            return total, out_flags, entry.peer


def _receive_once(
    memory: GuestMemory, kernel: socket.socket, entry: OpenSocket, pieces: _Pieces, flags: int
) -> tuple[int, int]:
    """How many bytes, and the flags for the guest. Raises BlockingIOError when nothing is there."""
    kernel_flags = linux_sockets.MSG_PEEK if flags & socket_abi.RIFLAGS_PEEK else 0
    if len(pieces) == 1 and entry.is_stream:
        ((pointer, length),) = pieces
        with memory.slice(pointer, length) as buffer:
            return kernel.recv_into(buffer, 0, kernel_flags), 0
    views = [memory.view[pointer : pointer + length] for pointer, length in pieces]
    try:
        received, _, message_flags, _ = kernel.recvmsg_into(views, 0, kernel_flags)
    finally:
        for view in views:
            view.release()
    is_cut = message_flags & linux_sockets.MSG_TRUNC
    return received, socket_abi.ROFLAGS_TRUNCATED if is_cut else 0


def _receive_from_peers(
    run: WasiRun, entry: OpenSocket, pieces: _Pieces, flags: int
) -> tuple[int, int, Endpoint]:
    """The next datagram of any peer that the guest wrote to."""
    if not entry.peers:
        raise WasiError(errnos.NOTCONN)
    until_ns = end_of_wait(entry.receive_timeout_ns)
    while True:
        for peer, kernel in entry.peers.items():
            try:
                return (*_receive_once(run.memory, kernel, entry, pieces, flags), peer)
            except (BlockingIOError, ConnectionRefusedError):
                # An unconnected socket is not told that nobody hears a peer's port.
                continue
        wait_until_ready(run, entry, entry.read_descriptors(), select.POLLIN, until_ns)


def sock_send(
    run: WasiRun, number: int, vectors_at: int, count: int, flags: int, length_at: int
) -> int:
    check_flags("siflags", flags, abi.SIFLAGS_ALL)
    length = send(run, run.files.socket(number), vectors_at, count)
    run.memory.write_u32(length_at, length)
    return errnos.SUCCESS


def sock_send_to(
    run: WasiRun,
    number: int,
    vectors_at: int,
    count: int,
    address_at: int,
    port: int,
    flags: int,
    length_at: int,
) -> int:
    """Over a stream the address is of no matter, as with the kernel's."""
    if flags & ~abi.SIFLAGS_ALL:
        return errnos.INVAL
    entry = run.files.socket(number)
    host = read_address(run.memory, address_at, entry)
    peer = (host, port & 0xFFFF)
    if entry.is_stream or (entry.kernel is not None and entry.peer == peer):
        length = send(run, entry, vectors_at, count)
    else:
        pieces = _locate(run.memory, vectors_at, count)
        length = _send_pieces(run, entry, _find_peer(run, entry, peer), pieces)
    run.memory.write_u32(length_at, length)
    return errnos.SUCCESS


def _find_peer(run: WasiRun, entry: OpenSocket, peer: Endpoint) -> socket.socket:
    """The socket for this peer, new or known; the one that was written to longest ago makes room."""
    peers = entry.peers
    kernel = peers.pop(peer, None)
    if kernel is None:
        if len(peers) < _MAX_PEERS and _count_descriptors(run) >= MAX_DESCRIPTORS:
            raise WasiError(errnos.MFILE)
        kernel = open_connection(run, entry, peer)
        prepare(kernel)
        if len(peers) >= _MAX_PEERS:
            peers.pop(next(iter(peers))).close()
    peers[peer] = kernel
    return kernel


def _count_descriptors(run: WasiRun) -> int:
    entries = run.files.entries.values()
    return len(entries) + sum(len(each.peers) for each in entries if isinstance(each, OpenSocket))


def send(run: WasiRun, entry: OpenSocket, vectors_at: int, count: int) -> int:
    """Send a guest's buffers to the peer; how many bytes went."""
    pieces = _locate(run.memory, vectors_at, count)
    if entry.kernel is None:
        raise WasiError(errnos.NOTCONN if entry.is_stream else errnos.DESTADDRREQ)
    return _send_pieces(run, entry, entry.kernel, pieces)


def _send_pieces(run: WasiRun, entry: OpenSocket, kernel: socket.socket, pieces: _Pieces) -> int:
    until_ns = end_of_wait(entry.send_timeout_ns)
    total = 0
    while True:
        try:
            length = _send_once(run.memory, kernel, pieces)
        except BlockingIOError:
            try:
                wait_until_ready(run, entry, (kernel.fileno(),), select.POLLOUT, until_ns)
            except WasiError:
                if total:
                    return total
                raise
            continue
        total += length
        if not entry.is_stream:
            return total
        pieces = _advance(pieces, length)
        if not pieces:
            return total


def _send_once(memory: GuestMemory, kernel: socket.socket, pieces: _Pieces) -> int:
    if len(pieces) == 1:
        ((pointer, length),) = pieces
        with memory.slice(pointer, length) as data:
            return kernel.send(data, linux_sockets.MSG_NOSIGNAL)
    if not pieces:
        return kernel.send(b"", linux_sockets.MSG_NOSIGNAL)
    views = [memory.view[pointer : pointer + length] for pointer, length in pieces]
    try:
        return os.writev(kernel.fileno(), views)
    finally:
        for view in views:
            view.release()


def _locate(memory: GuestMemory, vectors_at: int, count: int) -> _Pieces:
    """A guest's buffers, all of them in bounds."""
    if count == 1:
        if vectors_at & 3 or vectors_at + 8 > memory.size:
            memory.require(vectors_at, 8, 4)
        pieces = [_unpack_iovec(memory.view, vectors_at)]
    elif count > socket_abi.MAX_VECTORS:
        raise WasiError(errnos.INVAL)
    else:
        memory.require(vectors_at, 8 * count, 4)
        pieces = list(abi.IOVEC.iter_unpack(memory.read(vectors_at, 8 * count)))
    total = 0
    for pointer, length in pieces:
        total += length
        if length and pointer + length > memory.size:
            memory.require(pointer, length)
    if total > abi.CALL_MAX_BYTES:
        raise WasiError(errnos.NOMEM)
    return pieces


def _advance(pieces: _Pieces, length: int) -> _Pieces:
    """What is left of buffers after this many bytes; none that is empty."""
    left: _Pieces = []
    for pointer, size in pieces:
        done = min(size, length)
        length -= done
        if done < size:
            left.append((pointer + done, size - done))
    return left
