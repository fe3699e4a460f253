"""Options of sockets."""

from __future__ import annotations

import socket
import time
from struct import calcsize, pack, pack_into, unpack_from

import pytest
from socket_calls import DATA, DATAGRAM, RESULT, STREAM, Caller, LocalNetwork

from limpet.wasi import errnos, socket_abi
from limpet.wasi.endings import GuestTrap

REMEMBERED = (
    socket_abi.SO_REUSEADDR,
    socket_abi.SO_DONTROUTE,
    socket_abi.SO_BROADCAST,
    socket_abi.SO_SNDBUF,
    socket_abi.SO_RCVBUF,
    socket_abi.SO_KEEPALIVE,
    socket_abi.SO_OOBINLINE,
    socket_abi.SO_RCVLOWAT,
)


def set_option(caller: Caller, number: int, name: int, layout: str, *values: int) -> int:
    value = pack(layout, *values)
    caller.bytes[DATA : DATA + len(value)] = value
    return caller.call("sock_setsockopt", number, 0, name, DATA, len(value))


def read_option(caller: Caller, number: int, name: int, layout: str = "<i") -> tuple[int, ...]:
    pack_into("<I", caller.bytes, RESULT, 100)
    caller.done("sock_getsockopt", number, 0, name, DATA, RESULT)
    assert caller.u32() == calcsize(layout)
    return unpack_from(layout, caller.bytes, DATA)


@pytest.mark.parametrize("name", REMEMBERED)
def test_options_are_remembered(caller: Caller, name: int) -> None:
    number = caller.open()
    assert read_option(caller, number, name)[0] in (0, 1, 212992)
    assert set_option(caller, number, name, "<i", 4711) == errnos.SUCCESS
    assert read_option(caller, number, name) == (4711,)
    assert read_option(caller, caller.open(), name) != (4711,)


def test_what_a_socket_is(caller: Caller, network: LocalNetwork) -> None:
    assert read_option(caller, caller.open(), socket_abi.SO_TYPE) == (STREAM,)
    assert read_option(caller, caller.open(DATAGRAM), socket_abi.SO_TYPE) == (DATAGRAM,)
    listening = caller.listen()
    assert read_option(caller, listening, socket_abi.SO_ACCEPTCONN) == (1,)
    with socket.create_connection(network.address):
        number = caller.accept(listening)
        assert read_option(caller, number, socket_abi.SO_ACCEPTCONN) == (0,)
        assert read_option(caller, number, socket_abi.SO_ERROR) == (0,)
        assert read_option(caller, number, socket_abi.SO_RCVBUF)[0] > 1000
        for name in (socket_abi.SO_TYPE, socket_abi.SO_ERROR, socket_abi.SO_ACCEPTCONN):
            assert set_option(caller, number, name, "<i", 1) == errnos.NOPROTOOPT


def test_an_error_that_is_pending(caller: Caller, network: LocalNetwork) -> None:
    listening = caller.listen()
    client = socket.create_connection(network.address)
    number = caller.accept(listening)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
    client.close()
    assert read_option(caller, number, socket_abi.SO_ERROR) == (errnos.CONNRESET,)
    assert read_option(caller, number, socket_abi.SO_ERROR) == (0,)
    assert read_option(caller, listening, socket_abi.SO_ERROR) == (0,)


@pytest.mark.parametrize("name", [socket_abi.SO_RCVTIMEO, socket_abi.SO_SNDTIMEO])
def test_timeouts_as_they_were_set(caller: Caller, name: int) -> None:
    number = caller.open()
    assert read_option(caller, number, name, "<qq") == (0, 0)
    assert set_option(caller, number, name, "<qq", 3, 250_000) == errnos.SUCCESS
    assert read_option(caller, number, name, "<qq") == (3, 250_000)
    for micros in (-1, 1_000_000):
        assert set_option(caller, number, name, "<qq", 0, micros) == errnos.INVAL
    assert set_option(caller, number, name, "<i", 3) == errnos.INVAL
    assert set_option(caller, number, name, "<qq", -5, 0) == errnos.SUCCESS
    assert read_option(caller, number, name, "<qq") == (0, 0)
    assert set_option(caller, number, name, "<qq", (1 << 63) - 1, 0) == errnos.SUCCESS
    assert read_option(caller, number, name, "<qq") == (1_000_000_000, 0)


def test_receiving_and_accepting_time_out(caller: Caller, network: LocalNetwork) -> None:
    listening = caller.listen()
    set_option(caller, listening, socket_abi.SO_RCVTIMEO, "<qq", 0, 20_000)
    before = time.monotonic()
    assert caller.call("sock_accept", listening, 0, RESULT) == errnos.AGAIN
    assert time.monotonic() - before >= 0.02
    with socket.create_connection(network.address) as client:
        number = caller.accept(listening)
        set_option(caller, number, socket_abi.SO_RCVTIMEO, "<qq", 0, 20_000)
        vectors = caller.vectors(10)
        before = time.monotonic()
        assert caller.call("sock_recv", number, *vectors, 0, RESULT, RESULT + 8) == errnos.AGAIN
        assert time.monotonic() - before >= 0.02
        client.sendall(b"part")
        assert caller.receive(number, 10, flags=2) == b"part", "what came in time is given"


def test_sending_times_out(caller: Caller, network: LocalNetwork) -> None:
    listening = caller.listen()
    with socket.create_connection(network.address):
        number = caller.accept(listening)
        set_option(caller, number, socket_abi.SO_SNDTIMEO, "<qq", 0, 20_000)
        vectors = caller.put(b"x" * 900_000)
        while not (error := caller.call("sock_send", number, *vectors, 0, RESULT)):
            pass
        assert error == errnos.AGAIN


def test_lingering_for_no_time_cuts_the_client_off(caller: Caller, network: LocalNetwork) -> None:
    listening = caller.listen()
    with socket.create_connection(network.address) as client:
        number = caller.accept(listening)
        assert read_option(caller, number, socket_abi.SO_LINGER, "<ii") == (0, 0)
        assert set_option(caller, number, socket_abi.SO_LINGER, "<ii", 1, 0) == errnos.SUCCESS
        assert read_option(caller, number, socket_abi.SO_LINGER, "<ii") == (1, 0)
        caller.done("fd_close", number)
        with pytest.raises(ConnectionResetError):
            client.recv(10)


def test_lingering_never_holds_the_guest(caller: Caller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = caller.open()
        assert set_option(caller, number, socket_abi.SO_LINGER, "<ii", 1, 30) == errnos.SUCCESS
        host, port = server.getsockname()
        caller.done("sock_connect", number, caller.address(host), port)
        assert read_option(caller, number, socket_abi.SO_LINGER, "<ii") == (1, 30)
        kernel = caller.run.files.socket(number).kernel
        assert kernel.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == pack("ii", 0, 0)
        assert set_option(caller, number, socket_abi.SO_LINGER, "<ii", 0, 30) == errnos.SUCCESS
        assert read_option(caller, number, socket_abi.SO_LINGER, "<ii") == (0, 0)


def test_devices_are_the_node_s(caller: Caller) -> None:
    number = caller.open()
    assert caller.call("sock_setsockopt", number, 0, 14, DATA, 4) == errnos.PERM
    pack_into("<I", caller.bytes, RESULT, 16)
    caller.done("sock_getsockopt", number, 0, 14, DATA, RESULT)
    assert caller.u32() == 0


def test_what_is_no_option(caller: Caller) -> None:
    number = caller.open()
    for level, name in ((1, 0), (6, 1), (0, 15), (0, 0xFFFFFFFF), (0xFFFF, 4)):
        assert caller.call("sock_setsockopt", number, level, name, DATA, 4) == errnos.INVAL
        assert caller.call("sock_getsockopt", number, level, name, DATA, RESULT) == errnos.INVAL
    for length in (0, 3):
        assert caller.call("sock_setsockopt", number, 0, 0, DATA, length) == errnos.INVAL


def test_room_for_a_value(caller: Caller) -> None:
    number = caller.open()
    for room, length in ((0, 0), (2, 2), (4, 4), (0x7FFFFFFF, 4)):
        pack_into("<I", caller.bytes, RESULT, room)
        caller.done("sock_getsockopt", number, 0, socket_abi.SO_TYPE, DATA, RESULT)
        assert caller.u32() == length
    pack_into("<i", caller.bytes, RESULT, -1)
    assert caller.call("sock_getsockopt", number, 0, 1, DATA, RESULT) == errnos.INVAL
    pack_into("<I", caller.bytes, RESULT, 4)
    for value_at, length_at in ((1 << 30, RESULT), (DATA, 1 << 30), (DATA, RESULT + 1)):
        with pytest.raises(GuestTrap):
            caller.call("sock_getsockopt", number, 0, 1, value_at, length_at)
    with pytest.raises(GuestTrap):
        caller.call("sock_setsockopt", number, 0, 0, 1 << 30, 4)
