"""Opening, listening, accepting and connecting."""

from __future__ import annotations

import os
import socket
import threading
import time
from struct import unpack_from

import pytest
from socket_calls import (
    ADDRESS,
    DATAGRAM,
    INET4,
    INET6,
    PORT,
    RESULT,
    STREAM,
    Caller,
    LocalNetwork,
    udp_server,
)

from limpet.wasi import abi, errnos
from limpet.wasi.endings import GuestDeadline, GuestInterrupted, GuestTrap


def test_a_client_is_accepted_served_and_gone(caller: Caller, network: LocalNetwork) -> None:
    listening = caller.listen()
    with socket.create_connection(network.address) as client:
        number = caller.accept(listening)
        client.sendall(b"question")
        assert caller.receive(number, 100) == b"question"
        assert caller.send(number, b"an ", b"answer") == 9
        assert client.recv(100) == b"an answer"
        caller.done("fd_close", number)
        assert client.recv(100) == b""
    assert caller.call("fd_close", number) == errnos.BADF


def test_the_older_shape_of_accept(caller: Caller, network: LocalNetwork) -> None:
    listening = caller.listen()
    with socket.create_connection(network.address):
        caller.done("sock_accept_v1", listening, RESULT)
        assert caller.call("sock_getpeeraddr", caller.u32(), caller.room(4), 0, 8) == 0


def test_accept_takes_flags_for_the_new_socket(caller: Caller, network: LocalNetwork) -> None:
    listening = caller.listen()
    with socket.create_connection(network.address):
        caller.done("sock_accept", listening, abi.FDFLAGS_NONBLOCK, RESULT)
        number = caller.u32()
        vectors = caller.vectors(10)
        assert caller.call("sock_recv", number, *vectors, 0, RESULT, RESULT + 8) == errnos.AGAIN


def test_accept_waits_for_a_client(caller: Caller, network: LocalNetwork) -> None:
    listening = caller.listen()
    with socket.socket() as client:
        later = threading.Timer(0.05, client.connect, (network.address,))
        later.start()
        caller.accept(listening)
        later.join()


def test_accept_on_a_non_blocking_socket(caller: Caller) -> None:
    listening = caller.listen()
    caller.set_non_blocking(listening)
    assert caller.call("sock_accept", listening, 0, RESULT) == errnos.AGAIN


def test_waiting_in_accept_ends_with_the_deadline(network: LocalNetwork) -> None:
    caller = Caller(network, deadline_seconds=0.05)
    with pytest.raises(GuestDeadline):
        caller.call("sock_accept", caller.listen(), 0, RESULT)
    caller.close()


def test_waiting_in_accept_ends_with_an_interrupt(caller: Caller) -> None:
    listening = caller.listen()
    later = threading.Timer(0.05, caller.control.interrupt)
    later.start()
    with pytest.raises(GuestInterrupted):
        caller.call("sock_accept", listening, 0, RESULT)
    later.join()


def test_several_listening_sockets_take_turns() -> None:
    network = LocalNetwork(2)
    caller = Caller(network)
    listening = caller.listen()
    first, second = (each.getsockname() for each in network.listeners)
    clients = [socket.create_connection(each) for each in (first, first, second)]
    ports = []
    for _ in clients:
        caller.done("sock_getlocaladdr_v2", caller.accept(listening), caller.room(128), RESULT)
        ports.append(caller.u32())
    assert ports == [first[1], second[1], first[1]]
    for client in clients:
        client.close()
    caller.close()
    network.close()


def test_a_listening_socket_outlives_its_guests(network: LocalNetwork) -> None:
    for _ in range(2):
        caller = Caller(network)
        listening = caller.listen()
        caller.done("sock_shutdown", listening, 3)
        assert caller.call("sock_accept", listening, 0, RESULT) == errnos.INVAL
        caller.done("fd_close", listening)
        listening = caller.listen()
        with socket.create_connection(network.address):
            caller.accept(listening)
        caller.close()


def test_a_race_for_a_client_is_lost_without_harm(network: LocalNetwork) -> None:
    """Several guests share one listening socket; each client is served by one of them."""
    callers = [Caller(network) for _ in range(3)]
    accepted = []

    def serve(caller: Caller) -> None:
        listening = caller.listen()
        try:
            while True:
                accepted.append(caller.accept(listening))
        except GuestInterrupted:
            pass

    threads = [threading.Thread(target=serve, args=(each,)) for each in callers]
    for thread in threads:
        thread.start()
    clients = [socket.create_connection(network.address) for _ in range(30)]
    end = time.monotonic() + 20
    while len(accepted) < len(clients) and time.monotonic() < end:
        time.sleep(0.005)
    for caller in callers:
        caller.control.interrupt()
    for thread in threads:
        thread.join()
    assert len(accepted) == len(clients)
    for each in (*clients, *callers):
        each.close()


def test_ports_are_the_app_s_to_declare(caller: Caller) -> None:
    for port in (0, PORT + 1):
        number = caller.open()
        caller.done("sock_bind", number, caller.address("0.0.0.0"), port)
        assert caller.call("sock_listen", number, 1) == errnos.ACCES
    assert caller.call("sock_listen", caller.open(), 1) == errnos.ACCES


def test_a_port_is_taken_until_its_socket_is_closed(caller: Caller) -> None:
    first = caller.listen()
    second = caller.open()
    caller.done("sock_bind", second, caller.address("127.0.0.1"), PORT)
    assert caller.call("sock_listen", second, 1) == errnos.ADDRINUSE
    caller.done("sock_listen", first, 1)  # again
    caller.done("fd_close", first)
    caller.done("sock_listen", second, 1)


def test_without_a_network_nothing_is_reached() -> None:
    caller = Caller(None)
    number = caller.open()
    assert caller.call("sock_connect", number, caller.address("127.0.0.1"), 80) == errnos.ACCES
    caller.done("sock_bind", number, caller.address("0.0.0.0"), PORT)
    assert caller.call("sock_listen", number, 1) == errnos.ACCES
    caller.close()


def test_wrong_descriptors(caller: Caller) -> None:
    address = caller.address("127.0.0.1")
    for number, expected in ((0, errnos.NOTSOCK), (99, errnos.BADF)):
        assert caller.call("sock_bind", number, address, 1) == expected
        assert caller.call("sock_listen", number, 1) == expected
        assert caller.call("sock_accept", number, 0, RESULT) == expected
        assert caller.call("sock_connect", number, address, 1) == expected
        assert caller.call("sock_recv", number, 0, 0, 0, 0, 0) == expected
        assert caller.call("sock_send", number, 0, 0, 0, 0) == expected
        assert caller.call("sock_shutdown", number, 1) == expected
        assert caller.call("sock_getpeeraddr", number, address, 0, 0) == expected
        assert caller.call("sock_getsockopt", number, 0, 0, 0, 0) == expected


@pytest.mark.parametrize(
    ("family", "kind", "expected"),
    [
        (0, STREAM, errnos.INVAL),
        (3, STREAM, errnos.AFNOSUPPORT),
        (4, STREAM, errnos.INVAL),
        (1 << 31, STREAM, errnos.INVAL),
        (INET4, 0, errnos.INVAL),
        (INET6, 3, errnos.INVAL),
    ],
)
def test_what_cannot_be_opened(caller: Caller, family: int, kind: int, expected: int) -> None:
    assert caller.call("sock_open", family, kind, RESULT) == expected


def test_pointers_out_of_bounds_end_the_guest(caller: Caller) -> None:
    number = caller.open()
    with pytest.raises(GuestTrap, match="out of bounds"):
        caller.call("sock_open", INET4, STREAM, 1 << 30)
    with pytest.raises(GuestTrap, match="not aligned"):
        caller.call("sock_open", INET4, STREAM, 3)
    with pytest.raises(GuestTrap, match="out of bounds"):
        caller.call("sock_bind", number, 1 << 30, 1)
    record = caller.room(4)
    caller.bytes[record : record + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(GuestTrap, match="out of bounds"):
        caller.call("sock_bind", number, record, 1)
    assert len(caller.run.files.entries) == 4, "what could not be reported was not opened"


def test_there_is_a_bound_on_open_sockets(caller: Caller) -> None:
    for _ in range(1021):
        caller.open()
    assert caller.call("sock_open", INET4, STREAM, RESULT) == errnos.MFILE


def test_accepting_beyond_the_bound_leaves_the_client_waiting(
    caller: Caller, network: LocalNetwork
) -> None:
    listening = caller.listen()
    for _ in range(1020):
        last = caller.open()
    with socket.create_connection(network.address):
        assert caller.call("sock_accept", listening, 0, RESULT) == errnos.MFILE
        caller.done("fd_close", last)
        caller.accept(listening)


def test_connecting_goes_through_the_network(caller: Caller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = caller.connect(server.getsockname())
        connection, address = server.accept()
        with connection:
            caller.done("sock_getlocaladdr", number, caller.room(4), RESULT, RESULT + 4)
            assert (caller.u32(), caller.u32(RESULT + 4)) == (4, address[1])
            assert bytes(caller.bytes[ADDRESS : ADDRESS + 4]) == bytes([127, 0, 0, 1])
            caller.send(number, b"hello")
            assert connection.recv(10) == b"hello"


def test_connecting_is_over_at_once_on_a_non_blocking_socket(caller: Caller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = caller.open()
        caller.set_non_blocking(number)
        host, port = server.getsockname()
        caller.done("sock_connect", number, caller.address(host), port)
        assert caller.call("sock_connect", number, caller.address(host), port) == errnos.ISCONN
        vectors = caller.vectors(10)
        assert caller.call("sock_recv", number, *vectors, 0, RESULT, RESULT + 8) == errnos.AGAIN


def test_why_a_connection_failed(caller: Caller, network: LocalNetwork) -> None:
    network.denied.add("10.0.0.1")
    number = caller.open()
    assert caller.call("sock_connect", number, caller.address("10.0.0.1"), 80) == errnos.ACCES
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        address = caller.address("127.0.0.1")
        assert caller.call("sock_connect", number, address, port) == errnos.CONNREFUSED
        assert caller.call("sock_connect", number, address, 0) == errnos.ADDRNOTAVAIL
    with socket.create_server(("127.0.0.1", 0)) as server:  # and once more
        address = caller.address("127.0.0.1")
        caller.done("sock_connect", number, address, server.getsockname()[1])


@pytest.mark.parametrize("length", [0, 128])
def test_addresses_in_both_layouts(caller: Caller, network: LocalNetwork, length: int) -> None:
    network.denied |= {"1.2.3.4", "2001:db8::1"}
    for family, sent, seen in (
        (INET4, "1.2.3.4", "1.2.3.4"),
        (INET6, "2001:db8::1", "2001:db8::1"),
        (INET6, "::ffff:1.2.3.4", "1.2.3.4"),
    ):
        number = caller.open(STREAM, family)
        address = caller.address(sent, length=length)
        assert caller.call("sock_connect", number, address, 65536 + 80) == errnos.ACCES
        assert network.connections[-1] == (seen, 80, "tcp")


def test_addresses_of_another_family_or_length(caller: Caller) -> None:
    number = caller.open()
    for host in ("::1", "::"):
        address = caller.address(host)
        assert caller.call("sock_bind", number, address, PORT) == errnos.AFNOSUPPORT
    for length in (0, 3, 5, 127, 129):
        assert caller.call("sock_bind", number, caller.room(length), PORT) == errnos.INVAL
    caller.done("sock_bind", number, caller.address("0.0.0.0"), PORT)
    assert caller.call("sock_bind", number, caller.address("0.0.0.0"), PORT) == errnos.INVAL


def test_where_a_socket_is(caller: Caller) -> None:
    number = caller.open()
    caller.done("sock_getlocaladdr", number, caller.room(4), RESULT, RESULT + 4)
    assert (caller.u32(), caller.u32(RESULT + 4)) == (4, 0)
    caller.done("sock_bind", number, caller.address("127.0.0.1"), PORT)
    caller.done("sock_getlocaladdr_v2", number, caller.room(128), RESULT)
    assert caller.u32() == PORT
    family, raw = unpack_from("<H4s", caller.bytes, ADDRESS)
    assert (family, raw) == (INET4, bytes([127, 0, 0, 1]))
    assert caller.call("sock_getlocaladdr_v2", number, caller.room(16), RESULT) == errnos.INVAL
    assert caller.call("sock_getlocaladdr", number, caller.room(3), RESULT, 8) == errnos.INVAL
    assert caller.call("sock_getpeeraddr", number, caller.room(4), 0, 8) == errnos.NOTCONN
    assert caller.call("sock_getpeeraddr_v2", number, caller.room(128), 8) == errnos.NOTCONN
    number = caller.open(STREAM, INET6)
    caller.done("sock_getlocaladdr", number, caller.room(16), RESULT, RESULT + 4)
    assert caller.u32() == 6


def test_clients_addresses(caller: Caller, network: LocalNetwork) -> None:
    listening = caller.listen()
    with socket.create_connection(network.address) as client:
        number = caller.accept(listening)
        port = client.getsockname()[1]
    for length in (4, 16):
        caller.done("sock_getpeeraddr", number, caller.room(length), RESULT, RESULT + 4)
        assert (caller.u32(), caller.u32(RESULT + 4)) == (4, port)
        assert bytes(caller.bytes[ADDRESS : ADDRESS + 5]) == bytes([127, 0, 0, 1, 0])
    caller.done("sock_getpeeraddr_v2", number, caller.room(128), RESULT)
    assert (caller.u32(), caller.u16(ADDRESS)) == (port, INET4)


def test_clients_over_ipv6() -> None:
    network = LocalNetwork(family=socket.AF_INET6)
    caller = Caller(network)
    listening = caller.listen()
    with socket.create_connection(network.address):
        number = caller.accept(listening)
        assert caller.call("sock_getpeeraddr", number, caller.room(4), 0, 8) == errnos.INVAL
        caller.done("sock_getpeeraddr", number, caller.room(16), RESULT, RESULT + 4)
        assert caller.u32() == 6
        assert caller.bytes[ADDRESS + 15] == 1
    caller.close()
    network.close()


def test_clients_of_the_node_itself_come_from_loopback(tmp_path) -> None:
    path = str(tmp_path / "s")
    network = LocalNetwork(family=socket.AF_UNIX, path=path)
    caller = Caller(network)
    listening = caller.listen()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        number = caller.accept(listening)
        caller.done("sock_getpeeraddr", number, caller.room(4), RESULT, RESULT + 4)
        assert bytes(caller.bytes[ADDRESS : ADDRESS + 4]) == bytes([127, 0, 0, 1])
        caller.done("sock_getlocaladdr", number, caller.room(4), RESULT, RESULT + 4)
        assert caller.u32(RESULT + 4) == PORT
        client.sendall(b"hello")
        assert caller.receive(number, 10) == b"hello"
    caller.close()
    network.close()


def test_shutting_down_one_direction(caller: Caller, network: LocalNetwork) -> None:
    listening = caller.listen()
    with socket.create_connection(network.address) as client:
        number = caller.accept(listening)
        caller.done("sock_shutdown", number, 2)
        assert client.recv(10) == b""
        assert caller.call("sock_send", number, *caller.put(b"x"), 0, RESULT) == errnos.PIPE
        client.sendall(b"still here")
        assert caller.receive(number, 100) == b"still here"
        assert caller.call("sock_shutdown", number, 0) == errnos.INVAL
    with pytest.raises(GuestTrap, match="sdflags"):
        caller.call("sock_shutdown", number, 4)
    assert caller.call("sock_shutdown", caller.open(), 3) == errnos.NOTCONN


def test_what_descriptors_of_sockets_are(caller: Caller, network: LocalNetwork) -> None:
    for kind, filetype in ((STREAM, 6), (DATAGRAM, 5)):
        number = caller.open(kind)
        caller.set_non_blocking(number)
        caller.done("fd_fdstat_get", number, RESULT)
        found, flags, rights, _ = abi.FDSTAT.unpack_from(caller.bytes, RESULT)
        assert (found, flags) == (filetype, abi.FDFLAGS_NONBLOCK)
        assert rights & abi.RIGHTS_FD_READ
        assert rights & abi.RIGHTS_FD_WRITE
        caller.done("fd_filestat_get", number, RESULT)
        assert caller.bytes[RESULT + 16] == filetype
        caller.done("fd_fdstat_set_flags", number, 0)
        assert caller.call("fd_fdstat_set_flags", number, abi.FDFLAGS_SYNC) == errnos.INVAL
        assert caller.call("fd_seek", number, 0, 0, RESULT) == errnos.SPIPE
        assert caller.call("fd_tell", number, RESULT) == errnos.SPIPE
        assert caller.call("fd_pread", number, *caller.vectors(1), 0, RESULT) == errnos.SPIPE
        assert caller.call("fd_pwrite", number, *caller.vectors(1), 0, RESULT) == errnos.SPIPE
        assert caller.call("fd_allocate", number, 0, 1) == errnos.BADF
        assert caller.call("fd_readdir", number, 0, 0, 0, RESULT) == errnos.BADF


def test_sockets_can_be_renumbered(caller: Caller, network: LocalNetwork) -> None:
    listening = caller.listen()
    spare = caller.open()
    caller.done("fd_renumber", listening, spare)
    with socket.create_connection(network.address) as client:
        number = caller.accept(spare)
        caller.done("fd_renumber", number, 0)
        client.sendall(b"input")
        caller.done("fd_read", 0, *caller.vectors(100), RESULT)
        assert caller.data() == b"input"


def test_nothing_stays_open(network: LocalNetwork) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    caller = Caller(network)
    listening = caller.listen()
    with socket.create_connection(network.address) as client, udp_server() as server:
        caller.accept(listening)
        caller.connect(server.getsockname(), DATAGRAM)
        host, port = server.getsockname()
        record = caller.address(host)
        unconnected = caller.open(DATAGRAM)
        caller.done("sock_send_to", unconnected, *caller.put(b"x"), record, port, 0, RESULT)
        caller.close()
        assert client.recv(1) == b""
    assert sorted(os.listdir("/proc/self/fd")) == before
