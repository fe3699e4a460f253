"""The router between real sockets: clients on one side, scripted apps on the other."""

from __future__ import annotations

import gc
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from limpet.ingress.router import MAX_BODIES_BYTES, MAX_BODY_BYTES

from .harness import Recorder, RunningRouter, answering, read_request, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REFUSED = "127.0.0.1:1"


@pytest.fixture
def impatient() -> Iterator[RunningRouter]:
    router = RunningRouter(head_timeout_seconds=1, body_timeout_seconds=1)
    yield router
    router.close()


def budget_left(running: RunningRouter) -> int:
    gc.collect()
    return running.router._budget.left_bytes


# Routing


def test_requests_go_where_the_table_says(running: RunningRouter) -> None:
    first, second = (
        running.app(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + name))
        for name in (b"1", b"2")
    )
    running.route(
        ("a.example", "/", False, first.address, 60),
        ("*.b.example", "/x", True, second.address, 60),
        ("gone.example", "/", False, "", 60),
    )
    client = running.client()
    assert client.get(b"/any?q", b"A.example:99")[2] == b"1"
    assert client.get(b"/x", b"z.b.example")[2] == b"2"
    status, headers, body = client.get(b"/y", b"z.b.example")
    assert (status, body) == (404, b"nothing is served here\n")
    assert b"content-type" in headers
    status, headers, _ = client.get(b"/", b"gone.example")
    assert (status, headers[b"retry-after"]) == (503, b"5")


def test_a_new_table_applies_to_the_next_request(running: RunningRouter) -> None:
    client = running.client()
    running.serve(answering(OK))
    assert client.get()[0] == 200
    running.route()
    assert client.get()[0] == 404
    assert running.router.pool.idle == 0


def test_what_is_never_served(running: RunningRouter) -> None:
    running.serve(answering(OK))
    client = running.client()
    client.send(b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.read()[0] == 405
    client.send(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")
    assert client.read()[0] == 405
    assert client.read_to_end() == b""


# Requests


def test_the_app_gets_the_request(running: RunningRouter) -> None:
    recorder = Recorder()
    running.serve(recorder)
    client = running.client()
    client.send(
        b"POST /a%20b?x=1 HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: X-Drop\r\nX-Drop: 1\r\nX-Keep: 1\r\nExpect: 100-continue\r\n\r\n"
    )
    assert client.read_head()[0] == 100
    client.send(b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Late: 1\r\n\r\n")
    assert client.read()[2] == b"1"
    assert recorder.requests[0][1] == b"abcde"
    assert recorder.head == [
        b"POST /a%20b?x=1 HTTP/1.1",
        b"Host: a.example",
        b"X-Keep: 1",
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: a.example",
        b"Content-Length: 5",
    ]


def test_a_large_body_arrives_whole(running: RunningRouter) -> None:
    recorder = Recorder()
    running.serve(recorder)
    client = running.client()
    body = bytes(range(256)) * (MAX_BODY_BYTES // 256)
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
    client.send(body)
    assert client.read()[0] == 200
    assert recorder.requests[0][1] == body
    client.close()
    wait_until(lambda: budget_left(running) == MAX_BODIES_BYTES, "the budget")


def test_a_body_over_the_limit_is_refused(running: RunningRouter) -> None:
    running.serve(Recorder())
    client = running.client()
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1))
    assert client.read()[0] == 413


def test_all_bodies_together_are_bounded(running: RunningRouter) -> None:
    running.serve(Recorder())
    uploading = [running.client() for _ in range(MAX_BODIES_BYTES // MAX_BODY_BYTES)]
    for client in uploading:
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % MAX_BODY_BYTES)
        client.send(b"a" * (MAX_BODY_BYTES - 1))
    wait_until(lambda: running.router._budget.left_bytes <= len(uploading), "spent budget")
    late = running.client()
    late.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123456789")
    status, headers, _ = late.read()
    assert (status, headers[b"retry-after"]) == (503, b"1")
    assert running.client().get()[0] == 200
    uploading[0].send(b"a")
    assert uploading[0].read()[0] == 200
    for client in uploading:
        client.close()
    wait_until(lambda: budget_left(running) == MAX_BODIES_BYTES, "the budget")


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n GET /x HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a, b\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_smuggling_is_refused_before_any_app(running: RunningRouter, data: bytes) -> None:
    recorder = Recorder()
    running.serve(recorder)
    client = running.client()
    client.send(data)
    assert client.read()[0] in (400, 501)
    assert client.read_to_end() == b""
    assert recorder.requests == []


def test_pipelined_requests_are_answered_in_order(running: RunningRouter) -> None:
    running.serve(Recorder())
    client = running.client()
    client.send(
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
        b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"
        b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    assert [client.read()[0::2] for _ in range(4)] == [
        (200, b"1"),
        (200, b"2"),
        (404, b"nothing is served here\n"),
        (200, b"3"),
    ]


# Responses


def test_a_chunked_response_stays_chunked(running: RunningRouter) -> None:
    running.serve(
        answering(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Int\r\nX-Int: 1\r\n"
            b"Server: s\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nX-T: 1\r\n\r\n"
        )
    )
    client = running.client()
    for _ in range(2):
        status, headers, body = client.get()
        assert (status, body) == (200, b"abc")
        assert headers.keys() == {b"transfer-encoding", b"server", b"date"}


def test_a_response_without_a_length_becomes_chunked(running: RunningRouter) -> None:
    app = running.serve(answering(b"HTTP/1.1 200 OK\r\n\r\nabc", times=1))
    client = running.client()
    for _ in range(2):
        assert client.get()[::2] == (200, b"abc")
    assert len(app.connections) == 2


def test_an_old_client_reads_to_the_end(running: RunningRouter) -> None:
    running.serve(
        answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    )
    client = running.client()
    client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    status, headers, body = client.read()
    assert (status, body) == (200, b"abc")
    assert b"transfer-encoding" not in headers
    assert headers[b"connection"] == b"close"


def test_responses_without_a_body(running: RunningRouter) -> None:
    def script(connection: socket.socket) -> None:
        while True:
            head, _ = read_request(connection)
            if not head:
                return
            if head.startswith(b"HEAD"):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n")
            elif b"/304" in head:
                connection.sendall(b"HTTP/1.1 304 X\r\nContent-Length: 77\r\nETag: x\r\n\r\n")
            else:
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 X\r\n\r\n")

    app = running.serve(script)
    client = running.client()
    for _ in range(2):
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        status, headers, _ = client.read(is_head=True)
        assert (status, headers[b"content-length"]) == (200, b"77")
        status, headers, _ = client.get(b"/304")
        assert (status, headers[b"etag"]) == (304, b"x")
        assert client.get(b"/204")[0] == 204
    assert len(app.connections) == 1


def test_a_response_flows_while_it_is_made(running: RunningRouter) -> None:
    may_end = threading.Event()

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
        assert may_end.wait(10)
        connection.sendall(b"def")

    running.serve(script)
    client = running.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.read_head()[0] == 200
    assert client.read_exactly(3) == b"abc"
    may_end.set()
    assert client.read_exactly(3) == b"def"


def test_a_slow_client_holds_the_app_back(running: RunningRouter) -> None:
    total = 64 << 20
    sent = 0

    def script(connection: socket.socket) -> None:
        nonlocal sent
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        piece = b"x" * (256 << 10)
        while sent < total:
            connection.sendall(piece)
            sent += len(piece)
        read_request(connection)

    running.serve(script)
    client = running.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.read_head()[0] == 200

    def is_stalled() -> bool:
        forwardings = list(running.router._active)
        return any(f._upstream is not None and f._upstream.is_paused for f in forwardings)

    wait_until(is_stalled, "backpressure")
    connections = list(running.router._server._connections.values())
    assert max(len(connection._pending) for connection in connections) <= 128 << 10
    assert sent < total
    received = 0
    while received < total:
        received += len(client.read_exactly(min(1 << 20, total - received)))


def test_an_answer_before_the_request_was_read(running: RunningRouter) -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(b"HTTP/1.1 413 X\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    running.serve(script)
    client = running.client()
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (4 << 20))
    client.send(b"a" * (4 << 20))
    assert client.read()[::2] == (413, b"big")


# Connections to the app


def test_connections_are_kept_and_used_again(running: RunningRouter) -> None:
    app = running.serve(Recorder())
    for _ in range(5):
        client = running.client()
        for _ in range(5):
            assert client.get()[0] == 200
        client.close()
    assert len(app.connections) == 1


def test_a_connection_is_not_used_for_ever(running: RunningRouter) -> None:
    app = running.serve(Recorder())
    client = running.client()
    for _ in range(101):
        assert client.get()[0] == 200
    assert len(app.connections) == 2


@pytest.mark.parametrize("extra", [b"surplus", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"])
def test_surplus_bytes_reach_no_other_client(running: RunningRouter, extra: bytes) -> None:
    app = running.serve(answering(OK + extra))
    for _ in range(3):
        assert running.client().get()[::2] == (200, b"ok")
    assert len(app.connections) == 3


def test_late_surplus_reaches_no_other_client(running: RunningRouter) -> None:
    may_send = threading.Event()

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK)
        assert may_send.wait(10)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        read_request(connection)

    running.serve(script)
    assert running.client().get()[2] == b"ok"
    wait_until(lambda: running.router.pool.idle == 1)
    may_send.set()
    wait_until(lambda: running.router.pool.idle == 0)
    assert running.client().get()[2] == b"ok"


class Stale:
    """Answers once per connection; the next request on it finds it closed without an answer."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []

    def __call__(self, connection: socket.socket) -> None:
        head, _ = read_request(connection)
        self.heads.append(head)
        connection.sendall(OK)
        head, _ = read_request(connection)
        self.heads.append(head)


def test_a_stale_connection_is_replaced_for_idempotent_requests(running: RunningRouter) -> None:
    stale = Stale()
    app = running.serve(stale)
    client = running.client()
    assert client.get()[0] == 200
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
    assert client.read()[0] == 200
    assert len(app.connections) == 2
    assert len([head for head in stale.heads if head.startswith(b"PUT")]) == 2


def test_other_requests_are_never_sent_twice(running: RunningRouter) -> None:
    stale = Stale()
    running.serve(stale)
    client = running.client()
    assert client.get()[0] == 200
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
    assert client.read()[0] == 502
    assert len([head for head in stale.heads if head.startswith(b"POST")]) == 1
    assert client.get()[0] == 200


def test_an_app_that_always_hangs_up_is_asked_once(running: RunningRouter) -> None:
    app = running.serve(lambda connection: None)
    assert running.client().get()[0] == 502
    assert len(app.connections) == 1


def test_a_client_that_leaves_cancels_its_request(running: RunningRouter) -> None:
    arrived, cancelled = threading.Event(), threading.Event()

    def script(connection: socket.socket) -> None:
        read_request(connection)
        arrived.set()
        if not connection.recv(1):
            cancelled.set()

    running.serve(script)
    client = running.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert arrived.wait(10)
    client.close()
    assert cancelled.wait(10)
    wait_until(lambda: not running.router._active)


# Failures


def test_nobody_listens(running: RunningRouter) -> None:
    running.route(("", "/", False, REFUSED, 60))
    client = running.client()
    for _ in range(2):
        status, _, body = client.get()
        assert (status, body) == (502, b"the app did not answer properly\n")


@pytest.mark.parametrize(
    "response",
    [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 101 X\r\n\r\n"],
)
def test_an_app_that_does_not_speak_http(running: RunningRouter, response: bytes) -> None:
    running.serve(answering(response, times=1))
    assert running.client().get()[0] == 502


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 9", b"abc"),
        (b"Transfer-Encoding: chunked", b"3\r\nabc\r\n"),
        (b"Transfer-Encoding: chunked", b"3\r\nabc\r\nxyz\r\n"),
    ],
)
def test_a_response_that_breaks_off_is_no_whole_one(
    running: RunningRouter, head: bytes, body: bytes
) -> None:
    may_end = threading.Event()

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
        assert may_end.wait(10)
        connection.sendall(body)

    running.serve(script)
    client = running.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.read_head()[0] == 200
    may_end.set()
    with pytest.raises((ConnectionResetError, AssertionError)):
        client.read_chunked() if b"chunked" in head else client.read_exactly(9)


def test_an_app_that_stays_silent(running: RunningRouter) -> None:
    running.serve(
        lambda connection: (read_request(connection), read_request(connection))[0], patience=0.2
    )
    status, _, body = running.client().get()
    assert (status, body) == (504, b"the app did not answer in time\n")


def test_an_app_that_falls_silent(running: RunningRouter) -> None:
    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        read_request(connection)

    running.serve(script, patience=0.2)
    client = running.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.read_head()[0] == 200
    with pytest.raises((ConnectionResetError, AssertionError)):
        client.read_exactly(9)


def test_a_slow_request_holds_no_connection_to_the_app(impatient: RunningRouter) -> None:
    app = impatient.serve(Recorder())
    client = impatient.client()
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    assert client.read()[0] == 408
    assert app.connections == []


# The end


def test_draining_finishes_what_is_in_flight(running: RunningRouter) -> None:
    arrived, may_answer = threading.Event(), threading.Event()

    def script(connection: socket.socket) -> None:
        read_request(connection)
        arrived.set()
        assert may_answer.wait(10)
        connection.sendall(OK)

    running.serve(script)
    idle = running.client()
    busy = running.client()
    busy.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert arrived.wait(10)
    running.drain()
    assert idle.read_to_end() == b""
    with pytest.raises(ConnectionRefusedError):
        running.client()
    may_answer.set()
    status, headers, body = busy.read()
    assert (status, headers[b"connection"], body) == (200, b"close", b"ok")
    busy.close()
    running.wait_for_end()


def test_draining_still_answers_who_has_just_come(running: RunningRouter) -> None:
    running.serve(answering(OK))
    client = running.client()
    wait_until(lambda: running.router._server.connections == 1)
    running.drain()
    status, headers, body = client.get()
    assert (status, headers[b"connection"], body) == (200, b"close", b"ok")
    client.close()
    running.wait_for_end()


def test_a_router_without_its_agent_ends(running: RunningRouter) -> None:
    running.serve(answering(OK))
    assert running.client().get()[0] == 200
    running.lose_agent()
    running.wait_for_end()
