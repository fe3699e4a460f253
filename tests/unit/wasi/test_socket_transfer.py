"""Moving data over sockets."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from struct import pack, pack_into

import pytest
from socket_calls import (
    ADDRESS,
    DATA,
    DATAGRAM,
    RESULT,
    VECTORS,
    Caller,
    LocalNetwork,
    udp_server,
)

from limpet.wasi import abi, errnos, socket_transfer
from limpet.wasi.endings import GuestDeadline, GuestTrap

PEEK, WAITALL = 1, 2
FLAGS_AT = RESULT + 8


@contextmanager
def connection(caller: Caller, network: LocalNetwork):
    """A client, and the number of its socket in the guest."""
    listening = caller.listen()
    with socket.create_connection(network.address) as client:
        client.settimeout(20)
        yield client, caller.accept(listening)


def test_buffers_are_filled_in_order(caller: Caller, network: LocalNetwork) -> None:
    with connection(caller, network) as (client, number):
        client.sendall(b"abcdefgh")
        assert caller.receive(number, 3, 0, 100) == b"abcdefgh"
        client.sendall(b"xyz")
        assert caller.receive(number, 0) == b""
        assert caller.receive(number) == b""
        assert caller.receive(number, 2) == b"xy"


def test_the_end_of_a_stream(caller: Caller, network: LocalNetwork) -> None:
    with connection(caller, network) as (client, number):
        client.sendall(b"last")
        client.close()
        assert caller.receive(number, 100) == b"last"
        assert caller.receive(number, 100) == b""
        assert caller.receive(number, 100, flags=WAITALL) == b""


def test_looking_without_taking(caller: Caller, network: LocalNetwork) -> None:
    with connection(caller, network) as (client, number):
        client.sendall(b"seen")
        for flags in (PEEK, PEEK | WAITALL):
            assert caller.receive(number, 100, flags=flags) == b"seen"
        assert caller.receive(number, 1, 100, flags=PEEK) == b"seen"
        assert caller.receive(number, 100) == b"seen"


def test_waiting_for_all_of_it(caller: Caller, network: LocalNetwork) -> None:
    with connection(caller, network) as (client, number):
        client.sendall(b"abc")
        later = threading.Timer(0.05, client.sendall, (b"defgh",))
        later.start()
        assert caller.receive(number, 2, 5, flags=WAITALL) == b"abcdefg"
        later.join()


def test_fd_read_and_fd_write(caller: Caller, network: LocalNetwork) -> None:
    with connection(caller, network) as (client, number):
        caller.done("fd_write", number, *caller.put(b"to ", b"the client"), RESULT)
        assert (caller.u32(), client.recv(100)) == (13, b"to the client")
        client.sendall(b"to the guest")
        caller.done("fd_read", number, *caller.vectors(3, 100), RESULT)
        assert caller.data() == b"to the guest"


def test_a_blocking_send_sends_everything(caller: Caller, network: LocalNetwork) -> None:
    piece, count = bytes(range(256)) * 256, 256  # more than the kernel's buffers take
    caller.bytes[DATA : DATA + len(piece)] = piece
    for index in range(count):
        pack_into("<II", caller.bytes, VECTORS + 8 * index, DATA, len(piece))
    with connection(caller, network) as (client, number):
        received = bytearray()

        def read() -> None:
            while chunk := client.recv(1 << 20):
                received.extend(chunk)

        reader = threading.Thread(target=read)
        reader.start()
        caller.done("sock_send", number, VECTORS, count, 0, RESULT)
        assert caller.u32() == count * len(piece)
        caller.done("fd_close", number)
        reader.join()
        assert received == piece * count


def test_a_non_blocking_send_sends_what_fits(caller: Caller, network: LocalNetwork) -> None:
    with connection(caller, network) as (_, number):
        caller.set_non_blocking(number)
        vectors = caller.put(b"x" * 900_000)
        sent = []
        while not (error := caller.call("sock_send", number, *vectors, 0, RESULT)):
            sent.append(caller.u32())
        assert error == errnos.AGAIN
        assert 0 < sent[-1] <= 900_000


def test_a_client_that_does_not_read_holds_no_guest_beyond_its_deadline(
    network: LocalNetwork,
) -> None:
    caller = Caller(network, deadline_seconds=0.2)
    with connection(caller, network) as (_, number):
        for index in range(128):
            pack_into("<II", caller.bytes, VECTORS + 8 * index, DATA, 900_000)
        with pytest.raises(GuestDeadline):
            caller.call("sock_send", number, VECTORS, 128, 0, RESULT)
    caller.close()


def test_a_client_that_hung_up(caller: Caller, network: LocalNetwork) -> None:
    with connection(caller, network) as (client, number):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
        client.close()
        vectors = caller.vectors(10)
        number_seen = caller.call("sock_recv", number, *vectors, 0, RESULT, FLAGS_AT)
        assert number_seen == errnos.CONNRESET
        for pieces in ((b"x",), (b"x", b"y")):
            assert caller.call("sock_send", number, *caller.put(*pieces), 0, RESULT) == errnos.PIPE


def test_sockets_without_a_peer(caller: Caller) -> None:
    vectors = caller.put(b"x")
    number = caller.open()
    assert caller.call("sock_recv", number, *vectors, 0, RESULT, FLAGS_AT) == errnos.NOTCONN
    assert caller.call("sock_send", number, *vectors, 0, RESULT) == errnos.NOTCONN
    listening = caller.listen()
    vectors = caller.put(b"x")
    assert caller.call("fd_read", listening, *vectors, RESULT) == errnos.NOTCONN
    assert caller.call("fd_write", listening, *vectors, RESULT) == errnos.NOTCONN
    number = caller.open(DATAGRAM)
    assert caller.call("sock_recv", number, *vectors, 0, RESULT, FLAGS_AT) == errnos.NOTCONN
    assert caller.call("sock_send", number, *vectors, 0, RESULT) == errnos.DESTADDRREQ
    assert caller.call("sock_listen", number, 1) == errnos.NOTSUP
    assert caller.call("sock_accept", number, 0, RESULT) == errnos.INVAL


def test_hostile_buffers(caller: Caller, network: LocalNetwork) -> None:
    with connection(caller, network) as (client, number):
        client.sendall(b"x" * 100)
        for name, rest in (("sock_recv", (0, RESULT, FLAGS_AT)), ("sock_send", (0, RESULT))):
            assert caller.call(name, number, VECTORS, 1025, *rest) == errnos.INVAL
            assert caller.call(name, number, VECTORS, 0xFFFFFFFF, *rest) == errnos.INVAL
            for vectors_at in (1 << 30, 0xFFFFFFF8, 2):
                with pytest.raises(GuestTrap):
                    caller.call(name, number, vectors_at, 1, *rest)
            pack_into("<IIII", caller.bytes, VECTORS, DATA, 1, 1 << 30, 1)
            with pytest.raises(GuestTrap, match="out of bounds"):
                caller.call(name, number, VECTORS, 2, *rest)
            pack_into("<II", caller.bytes, VECTORS, DATA, 0xFFFFFFFF)
            with pytest.raises(GuestTrap, match="out of bounds"):
                caller.call(name, number, VECTORS, 1, *rest)
        with pytest.raises(GuestTrap):
            caller.call("sock_recv", number, *caller.vectors(1), 0, 1 << 30, FLAGS_AT)
        with pytest.raises(GuestTrap):
            caller.call("sock_recv", number, *caller.vectors(1), 0, RESULT, 1 << 30)


def test_the_same_piece_of_memory_many_times_is_bounded(
    caller: Caller, network: LocalNetwork
) -> None:
    with connection(caller, network) as (_, number):
        for index in range(1024):
            pack_into("<II", caller.bytes, VECTORS + 8 * index, DATA, 900_000)
        assert caller.call("sock_send", number, VECTORS, 1024, 0, RESULT) == errnos.NOMEM


def test_datagrams_stay_whole(caller: Caller) -> None:
    with udp_server() as server:
        number = caller.connect(server.getsockname(), DATAGRAM)
        assert caller.send(number, b"one ", b"datagram") == 12
        data, address = server.recvfrom(100)
        assert data == b"one datagram"
        server.sendto(b"first", address)
        server.sendto(b"", address)
        server.sendto(b"longer than that", address)
        assert caller.receive(number, 2, 100) == b"first"
        assert caller.receive(number, 100) == b""
        assert caller.receive(number, 6) == b"longer"
        assert caller.u16(FLAGS_AT) == 1  # the rest is lost
        caller.set_non_blocking(number)
        vectors = caller.vectors(10)
        assert caller.call("sock_recv", number, *vectors, 0, RESULT, FLAGS_AT) == errnos.AGAIN


def test_empty_datagrams_can_be_sent(caller: Caller) -> None:
    with udp_server() as server:
        number = caller.connect(server.getsockname(), DATAGRAM)
        assert caller.send(number) == 0
        assert server.recvfrom(100)[0] == b""


def test_an_unconnected_datagram_socket_hears_from_those_it_wrote_to(caller: Caller) -> None:
    with udp_server() as first, udp_server() as second:
        number = caller.open(DATAGRAM)
        caller.done("sock_bind", number, caller.address("0.0.0.0"), 0)
        for server in (first, second):
            host, port = server.getsockname()
            record = caller.address(host)
            caller.done("sock_send_to", number, *caller.put(b"hi"), record, port, 0, RESULT)
            assert caller.u32() == 2
        for server in (second, first):
            data, address = server.recvfrom(100)
            server.sendto(data + b" back", address)
            vectors, record = caller.vectors(100), caller.room(128)
            caller.done(
                "sock_recv_from_v2", number, *vectors, record, 0, RESULT + 16, RESULT, FLAGS_AT
            )
            assert caller.data() == b"hi back"
            assert caller.u16(RESULT + 16) == server.getsockname()[1]
            assert bytes(caller.bytes[ADDRESS : ADDRESS + 6]) == b"\1\0\x7f\0\0\1"


@pytest.mark.parametrize("length", [4, 16])
def test_the_older_shape_of_recv_from(caller: Caller, length: int) -> None:
    with udp_server() as server:
        number = caller.connect(server.getsockname(), DATAGRAM)
        caller.send(number, b"x")
        _, address = server.recvfrom(10)
        server.sendto(b"answer", address)
        vectors, record = caller.vectors(100), caller.room(length)
        caller.done("sock_recv_from", number, *vectors, record, 0, RESULT, FLAGS_AT)
        assert caller.data() == b"answer"
        assert bytes(caller.bytes[ADDRESS : ADDRESS + 4]) == bytes([127, 0, 0, 1])


def test_nobody_at_a_peer_s_port(caller: Caller) -> None:
    """A connected socket is told; one that is not goes on."""
    with udp_server() as server:
        address = server.getsockname()
    connected = caller.connect(address, DATAGRAM)
    caller.send(connected, b"x")
    vectors = caller.vectors(10)
    assert caller.call("sock_recv", connected, *vectors, 0, RESULT, FLAGS_AT) == errnos.CONNREFUSED
    number = caller.open(DATAGRAM)
    record = caller.address(address[0])
    caller.done("sock_send_to", number, *caller.put(b"x"), record, address[1], 0, RESULT)
    caller.set_non_blocking(number)
    vectors = caller.vectors(10)
    assert caller.call("sock_recv", number, *vectors, 0, RESULT, FLAGS_AT) == errnos.AGAIN


def test_a_datagram_socket_can_be_connected_elsewhere(caller: Caller) -> None:
    with udp_server() as first, udp_server() as second:
        number = caller.connect(first.getsockname(), DATAGRAM)
        host, port = second.getsockname()
        caller.done("sock_connect", number, caller.address(host), port)
        caller.send(number, b"x")
        assert second.recv(10) == b"x"
        # As with the kernel's, another peer may be written to all the same.
        host, port = first.getsockname()
        record = caller.address(host)
        caller.done("sock_send_to", number, *caller.put(b"y"), record, port, 0, RESULT)
        assert first.recv(10) == b"y"


def test_peers_are_bounded(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_transfer, "_MAX_PEERS", 2)
    number = caller.open(DATAGRAM)
    with udp_server() as first, udp_server() as second, udp_server() as third:
        for server in (first, second, first, third):
            host, port = server.getsockname()
            record = caller.address(host)
            caller.done("sock_send_to", number, *caller.put(b"x"), record, port, 0, RESULT)
        entry = caller.run.files.socket(number)
        assert list(entry.peers) == [first.getsockname(), third.getsockname()]


def test_peers_count_as_descriptors(caller: Caller) -> None:
    for _ in range(1020):
        caller.open()
    number = caller.open(DATAGRAM)
    record = caller.address("127.0.0.1")
    assert caller.call("sock_send_to", number, *caller.put(b"x"), record, 9, 0, RESULT) == 33


def test_a_port_that_others_could_write_to_is_not_to_be_had(caller: Caller) -> None:
    number = caller.open(DATAGRAM)
    assert caller.call("sock_bind", number, caller.address("0.0.0.0"), 53) == errnos.NOTSUP


def test_denied_peers(caller: Caller, network: LocalNetwork) -> None:
    network.denied.add("10.0.0.1")
    number = caller.open(DATAGRAM)
    record = caller.address("10.0.0.1")
    vectors = caller.put(b"x")
    assert caller.call("sock_send_to", number, *vectors, record, 9, 0, RESULT) == errnos.ACCES
    assert network.connections == [("10.0.0.1", 9, "udp")]


def test_over_a_stream_the_address_is_of_no_matter(caller: Caller, network: LocalNetwork) -> None:
    with connection(caller, network) as (client, number):
        record = caller.address("10.0.0.1")
        caller.done("sock_send_to", number, *caller.put(b"x"), record, 9, 0, RESULT)
        assert client.recv(10) == b"x"
        client.sendall(b"y")
        vectors, record = caller.vectors(10), caller.room(4)
        caller.done("sock_recv_from_v2", number, *vectors, record, 0, RESULT + 16, RESULT, FLAGS_AT)
        assert (caller.data(), caller.u16(RESULT + 16)) == (b"y", client.getsockname()[1])


class Polling:
    """Subscriptions for poll_oneoff, and its answer."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.count = 0

    def add(self, kind: int, value: int) -> None:
        """A descriptor for kinds 1 (read) and 2 (write); nanoseconds for 0, a relative clock."""
        at = 8192 + 48 * self.count
        if kind:
            record = pack("<QBxxxxxxxI28x", self.count, kind, value)
        else:
            record = pack("<QBxxxxxxxIxxxxQQH6x", self.count, 0, 1, value, 0, 0)
        self.caller.bytes[at : at + 48] = record
        self.count += 1

    def wait(self) -> list[tuple[int, int, int]]:
        """Which are ready: their number, kind and flags."""
        self.caller.done("poll_oneoff", 8192, 32768, self.count, RESULT)
        events = []
        for index in range(self.caller.u32()):
            at = 32768 + 32 * index
            user, error, kind, _, flags = abi.EVENT.unpack_from(self.caller.bytes, at)
            assert error == errnos.SUCCESS
            events.append((user, kind, flags))
        return events


def test_polling_clients(caller: Caller, network: LocalNetwork) -> None:
    listening = caller.listen()
    clients = [socket.create_connection(network.address) for _ in range(3)]
    numbers = [caller.accept(listening) for _ in clients]
    clients[2].sendall(b"x")
    polling = Polling(caller)
    for number in (listening, *numbers):
        polling.add(1, number)
    assert polling.wait() == [(3, 1, 0)]
    late = socket.create_connection(network.address)
    assert polling.wait() == [(0, 1, 0), (3, 1, 0)]
    for each in (*clients, late):
        each.close()
    assert {event[0] for event in polling.wait()} == {0, 1, 2, 3}


def test_polling_for_room_to_write(caller: Caller, network: LocalNetwork) -> None:
    with connection(caller, network) as (client, number):
        polling = Polling(caller)
        polling.add(2, number)
        polling.add(1, number)
        polling.add(0, 20 * 10**9)
        assert polling.wait() == [(0, 2, 0)]
        caller.set_non_blocking(number)
        vectors = caller.put(b"x" * 900_000)
        while not caller.call("sock_send", number, *vectors, 0, RESULT):
            pass
        polling = Polling(caller)
        polling.add(2, number)
        polling.add(0, 1_000_000)
        assert polling.wait() == [(1, 0, 0)]

        def read_all() -> None:
            while client.recv(1 << 20):
                pass

        reader = threading.Thread(target=read_all)
        reader.start()
        polling = Polling(caller)
        polling.add(2, number)
        assert polling.wait() == [(0, 2, 0)]
        caller.done("fd_close", number)
        reader.join()


def test_polling_says_when_both_directions_are_shut(caller: Caller, network: LocalNetwork) -> None:
    with connection(caller, network) as (client, number):
        client.shutdown(socket.SHUT_WR)
        polling = Polling(caller)
        polling.add(1, number)
        assert polling.wait() == [(0, 1, 0)], "the client may still be waiting for its answer"
        caller.done("sock_shutdown", number, 2)
        assert polling.wait() == [(0, 1, abi.EVENTRWFLAGS_HANGUP)]


def test_polling_sockets_without_a_peer(caller: Caller) -> None:
    """What returns at once, if only with an error, is ready."""
    polling = Polling(caller)
    for kind in (1, 2):
        polling.add(kind, caller.open())
        polling.add(kind, caller.open(DATAGRAM))
    polling.add(2, caller.listen())
    polling.add(0, 20 * 10**9)
    assert [event[0] for event in polling.wait()] == [0, 1, 2, 3]


def test_polling_for_what_never_comes_ends_with_the_deadline(network: LocalNetwork) -> None:
    caller = Caller(network, deadline_seconds=0.05)
    polling = Polling(caller)
    polling.add(2, caller.listen())
    with pytest.raises(GuestDeadline):
        polling.wait()
    caller.close()


def test_polling_for_any_peer(caller: Caller) -> None:
    number = caller.open(DATAGRAM)
    with udp_server() as first, udp_server() as second:
        for server in (first, second):
            host, port = server.getsockname()
            record = caller.address(host)
            caller.done("sock_send_to", number, *caller.put(b"x"), record, port, 0, RESULT)
        polling = Polling(caller)
        polling.add(1, number)
        polling.add(0, 1_000_000)
        assert polling.wait() == [(1, 0, 0)]
        _, address = second.recvfrom(10)
        second.sendto(b"y", address)
        polling = Polling(caller)
        polling.add(1, number)
        assert polling.wait() == [(0, 1, 0)]
