import contextlib
import threading
import time

import pytest

from limpet.http1.connection import ConnectionLimits
from limpet.http1.message import Response
from limpet.settings import HttpSettings
from limpet.trigger import server as server_module
from limpet.trigger.server import Server

from .serving import Client, LoopThread, eventually, listen

LARGE = 4 << 20


class Served:
    """A server in its loop's thread. `/later` is answered when the test says so, all else at once."""

    def __init__(self, **settings):
        self.thread = LoopThread()
        self.listening = listen()
        self.address = self.listening.getsockname()
        self.later = []
        self.targets = []
        self.empty = 0
        limits = settings.pop("limits", ConnectionLimits(head_bytes=4096, body_bytes=1 << 20))
        self.server = Server(
            self.thread.loop,
            [self.listening],
            settings=HttpSettings(**settings),
            limits=limits,
            on_exchange=self._on_exchange,
            on_empty=self._on_empty,
        )

    def _on_empty(self):
        self.empty += 1

    def _on_exchange(self, exchange):
        target = exchange.request.target
        self.targets.append(target)
        if target == b"/later":
            self.later.append(exchange)
        elif target == b"/large":
            exchange.respond(Response(200, [], b"x" * LARGE))
        else:
            exchange.respond(Response(200, [], target + b" " + exchange.request.body))

    def answer_later(self, body=b"done"):
        """Answer the oldest request that waits."""
        eventually(lambda: self.later, "a request")
        exchange = self.later.pop(0)

        def answer():
            exchange.respond(Response(200, [], body))
            exchange.connection.resume()

        self.thread.call(answer)

    @property
    def connections(self):
        return self.thread.call(lambda: self.server.connections)

    def held(self):
        """The bytes that are held for clients who don't read."""
        return self.thread.call(
            lambda: sum(len(c._pending) for c in self.server._connections.values())
        )

    def drain(self):
        self.thread.call(self.server.drain)

    def close(self):
        connections = self.server._connections
        self.thread.call(lambda: [connection.close() for connection in list(connections.values())])
        self.thread.close()
        self.listening.close()

    def client(self, **options):
        return Client(self.address, **options)


@pytest.fixture
def serve(monkeypatch):
    """Start servers that look at their time limits often."""
    monkeypatch.setattr(server_module, "_SWEEP_SECONDS", 0.01)
    with contextlib.ExitStack() as stack:

        def start(**settings):
            served = Served(**settings)
            stack.callback(served.close)
            served.server.start()
            served.thread.start()
            return served

        yield start


def test_a_connection_serves_one_request_after_the_other(serve):
    with serve().client() as client:
        for path in (b"/a", b"/b", b"/c"):
            assert client.get(path).response()[::2] == (200, path + b" ")


def test_who_waits_at_the_door_is_served_first(serve, monkeypatch):
    served = Served()
    with served.client() as client, contextlib.closing(served.listening):
        client.get()
        served.server.start()
        assert served.targets == [b"/"]
        served.thread.start()
        assert client.response()[0] == 200
        client.socket.close()
        eventually(lambda: served.connections == 0)
        served.thread.close()


def test_the_peer_and_the_port_are_told(serve):
    served = serve()
    with served.client() as client:
        client.get(b"/later")
        eventually(lambda: served.later)
        connection = served.later[0].connection
        assert connection.peer == b"127.0.0.1"
        assert connection.port == b"%d" % served.address[1]
        served.answer_later()
        client.response()


def test_pipelined_requests_are_answered_in_order_and_one_at_a_time(serve):
    served = serve()
    with served.client() as client:
        client.send(
            b"".join(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % p for p in [b"/1", b"/later", b"/2"])
        )
        assert client.response()[2] == b"/1 "
        eventually(lambda: served.later)
        assert served.targets == [b"/1", b"/later"]
        served.answer_later()
        assert client.response()[2] == b"done"
        assert client.response()[2] == b"/2 "


def test_thousands_of_pipelined_requests_are_answered(serve):
    with serve().client() as client:
        request = b"GET /%d HTTP/1.1\r\nHost:\r\n\r\n"
        data = b"".join(request % n for n in range(5000))
        sender = threading.Thread(target=client.send, args=[data])
        sender.start()
        for n in range(5000):
            assert client.response()[2] == b"/%d " % n
        sender.join()


def test_a_pipeline_behind_a_slow_reader_is_answered(serve):
    served = serve()
    with served.client(receive_bytes=4096) as client:
        client.send(
            b"GET /large HTTP/1.1\r\nHost:\r\n\r\n" + b"GET / HTTP/1.1\r\nHost:\r\n\r\n" * 2400
        )
        eventually(lambda: served.held() > 0)
        assert len(client.response()[2]) == LARGE
        for _ in range(2400):
            assert client.response()[0] == 200


def test_a_request_may_come_in_pieces(serve):
    with serve().client() as client:
        for byte in b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi":
            client.send(bytes([byte]))
        assert client.response()[2] == b"/p hi"


def test_the_body_is_invited(serve):
    with serve().client() as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert client.response()[0] == 100
        assert client.send(b"hi").response()[2] == b"/ hi"


# Ends


def test_a_client_may_end_its_half_and_still_read(serve):
    served = serve()
    with served.client() as client:
        client.get(b"/1").get(b"/later").get(b"/2").finish_sending()
        assert client.response()[2] == b"/1 "
        served.answer_later()
        assert client.response()[2] == b"done"
        assert client.response()[2] == b"/2 "
        assert client.ends()
    eventually(lambda: served.connections == 0)


def test_a_client_that_ends_its_half_can_read_slowly(serve):
    with serve().client(receive_bytes=4096) as client:
        client.get(b"/large").finish_sending()
        assert len(client.response()[2]) == LARGE
        assert client.ends()


def test_a_client_that_goes_away_is_forgotten(serve):
    served = serve()
    clients = [served.client().get(path) for path in (b"/", b"/later", b"/large")]
    clients.append(served.client().send(b"GET /half"))
    eventually(lambda: len(served.targets) == 3 and served.connections == 4)
    for client in clients:
        client.reset()
    eventually(lambda: served.connections == 0)
    assert served.later[0].is_abandoned
    served.answer_later()
    with served.client() as client:
        assert client.get().response()[0] == 200


def test_a_client_that_resets_after_its_half_is_forgotten_at_once(serve):
    served = serve()
    client = served.client().get(b"/later")
    client.finish_sending()
    eventually(lambda: served.later)
    eventually(lambda: served.thread.call(lambda: served.later[0].connection._peer_is_done))
    client.reset()
    eventually(lambda: served.connections == 0)


def test_an_error_reaches_a_client_that_is_still_sending(serve):
    served = serve(limits=ConnectionLimits(body_bytes=10))
    with served.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.send(b"x" * 300000)
        assert client.response()[0] == 413
        assert client.ends()
    eventually(lambda: served.connections == 0)


def test_a_client_that_never_stops_sending_is_cut_off(serve, monkeypatch):
    monkeypatch.setattr(server_module, "_LINGER_BYTES", 1 << 16)
    with serve().client() as client:
        client.send(b"BAD\r\n\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.send(b"x" * (64 << 20))


def test_a_client_that_does_not_close_after_the_last_answer_is_closed(serve, monkeypatch):
    monkeypatch.setattr(server_module, "_LINGER_SECONDS", 0.02)
    served = serve()
    with served.client() as client:
        assert client.get(b"/", b"Connection: close").response()[0] == 200
        assert client.ends()
        eventually(lambda: served.connections == 0)


# Time


def test_an_idle_connection_is_closed(serve):
    served = serve(keep_alive_seconds=0.05)
    with served.client() as client:
        assert client.get().response()[0] == 200
        assert client.ends()


def test_a_client_that_says_nothing_is_closed(serve):
    with serve(head_timeout_seconds=0.05).client() as client:
        assert client.ends()


@pytest.mark.parametrize(
    "first", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], ids=["first", "second"]
)
def test_a_head_that_does_not_arrive_is_answered(serve, first):
    with serve(head_timeout_seconds=0.1).client() as client:
        if first:
            assert client.send(first).response()[0] == 200
        client.send(b"GET / HT")
        status, headers, _ = client.response()
        assert status == 408
        assert headers[b"Connection"] == b"close"
        assert client.ends()


def test_a_head_is_not_granted_more_time_byte_by_byte(serve):
    with serve(head_timeout_seconds=0.1).client() as client:
        started = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - started < 5:
                client.send(b"G")
                client.socket.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    if not client._receive():
                        break
        assert time.monotonic() - started < 5
        assert client._read == b"" or client._read.startswith((b"HTTP/1.1 408", b"HTTP/1.1 400"))


def test_a_body_that_does_not_arrive_is_answered(serve):
    with serve(body_timeout_seconds=0.1).client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        assert client.response()[0] == 408
        assert client.ends()


def test_a_body_that_trickles_is_answered(serve):
    with serve(body_timeout_seconds=0.2).client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n")
        client.socket.settimeout(0.02)
        started = time.monotonic()
        while time.monotonic() - started < 10:
            with contextlib.suppress(TimeoutError):
                client._receive()
                break
            client.send(b"x")
        client.socket.settimeout(10)
        assert client.response()[0] == 408


def test_an_answer_may_take_longer_than_any_limit_on_clients(serve):
    served = serve(keep_alive_seconds=0.02, head_timeout_seconds=0.02, body_timeout_seconds=0.02)
    with served.client() as client:
        client.get(b"/later")
        eventually(lambda: served.later)
        connection = served.later[0].connection
        sweeps = []
        check = type(connection).check_time

        def look():
            check(connection, time.monotonic() + 3600)
            sweeps.append(connection.is_closed)

        for _ in range(3):
            served.thread.call(look)
        assert sweeps == [False] * 3
        served.answer_later()
        assert client.response()[2] == b"done"


def test_an_answer_after_a_slow_read_may_take_long_too(serve, monkeypatch):
    monkeypatch.setattr(server_module, "_WRITE_STALL_SECONDS", 5.0)
    served = serve()
    with served.client(receive_bytes=4096) as client:
        client.get(b"/large").get(b"/later")
        eventually(lambda: served.held() > 0)
        assert len(client.response()[2]) == LARGE
        eventually(lambda: served.later)
        connection = served.later[0].connection
        served.thread.call(lambda: connection.check_time(time.monotonic() + 3600))
        served.answer_later()
        assert client.response()[::2] == (200, b"done")
        assert client.get().response()[0] == 200


# Slow readers


def test_a_client_that_does_not_read_is_not_read_from_and_blocks_nobody(serve):
    served = serve()
    with served.client(receive_bytes=4096) as slow, served.client() as quick:
        slow.socket.setblocking(False)
        slow_request = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 64 << 20:
                sent += slow.socket.send(slow_request * 1000)
        assert sent < 64 << 20
        eventually(lambda: served.held() > 0)
        assert quick.get().response()[0] == 200
        assert served.held() <= LARGE + 4096
        assert served.targets.count(b"/large") <= 2
        slow.socket.setblocking(True)
        slow.socket.settimeout(10)
        for _ in range(3):
            assert len(slow.response()[2]) == LARGE


def test_a_client_that_stops_reading_is_cut_off(serve, monkeypatch):
    monkeypatch.setattr(server_module, "_WRITE_STALL_SECONDS", 0.05)
    served = serve()
    with served.client(receive_bytes=4096) as client:
        client.get(b"/large")
        eventually(lambda: served.connections == 1)
        eventually(lambda: served.connections == 0)


# Limits


def test_no_more_connections_than_allowed(serve):
    served = serve(connections=2)
    with served.client() as one, served.client() as two, served.client() as three:
        assert one.get().response()[0] == 200
        assert two.get().response()[0] == 200
        three.get()
        assert served.connections == 2
        assert one.get(b"/again").response()[0] == 200
        assert served.connections == 2
        one.socket.close()
        assert three.response()[0] == 200
        with served.client() as four:
            two.socket.close()
            assert four.get().response()[0] == 200


# Draining


def test_draining_ends_what_is_idle_and_finishes_what_is_not(serve):
    served = serve()
    with (
        served.client() as fresh,
        served.client() as idle,
        served.client() as busy,
        served.client() as half,
    ):
        assert idle.get().response()[0] == 200
        half.send(b"GET /half HTTP/1.1\r\n")
        busy.get(b"/later").get(b"/dropped")
        eventually(lambda: served.later and served.connections == 4)
        served.drain()
        assert idle.ends()
        assert fresh.ends()
        assert served.empty == 0
        half.send(b"Host: a\r\n\r\n")
        status, headers, _ = half.response()
        assert (status, headers[b"Connection"]) == (200, b"close")
        assert half.ends()
        served.answer_later()
        assert busy.response()[1][b"Connection"] == b"close"
        assert busy.rest() == b""
    eventually(lambda: served.empty)
    assert served.empty == 1
    assert b"/dropped" not in served.targets


def test_draining_without_clients_is_over_at_once(serve):
    served = serve()
    served.drain()
    assert served.empty == 1


def test_draining_with_idle_clients_only_is_over_once(serve):
    served = serve()
    with served.client() as one, served.client() as two:
        assert one.get().response()[0] == two.get().response()[0] == 200
        served.drain()
        assert served.empty == 1


def test_a_request_that_is_here_when_draining_begins_is_answered(serve):
    served = serve()
    with served.client() as client:
        assert client.get().response()[0] == 200

        def drain():
            client.get(b"/last")
            served.server.drain()

        served.thread.call(drain)
        assert client.response()[2] == b"/last "
        assert client.ends()


def test_whoever_comes_after_draining_began_waits_for_the_next_worker(serve):
    served = serve()
    served.drain()
    with served.client() as client:
        client.get()
        assert served.connections == 0
        successor = Served()
        successor.listening.close()
        successor.server._listeners = {served.listening.fileno(): served.listening}
        successor.server._ports = {served.listening.fileno(): b"1"}
        successor.thread.start()
        successor.thread.call(successor.server.start)
        assert client.response()[0] == 200
        client.socket.close()
        eventually(lambda: successor.connections == 0)
        successor.thread.close()
