from __future__ import annotations

import io
import json
import os
import threading

import pytest

from limpet.api.answers import ProtocolError
from limpet.api.client import Client
from limpet.errors import (
    ConflictError,
    DeniedError,
    InvalidInputError,
    LimpetError,
    NotFoundError,
    TemporaryError,
    UnavailableError,
)

from .scripted_peer import chunked, read_request, response

APPS = b'{"items": []}'


def test_a_call(peer, client):
    peer.answers = [response(b'{"name": "rock"}')]
    assert client.node() == {"name": "rock"}
    assert peer.received == [b"GET /v1/node HTTP/1.1\r\nHost: limpet\r\nConnection: close\r\n\r\n"]


@pytest.mark.parametrize(
    ("call", "target"),
    [
        (lambda c: c.apps(), b"GET /v1/apps "),
        (lambda c: c.apps(namespace="shop"), b"GET /v1/apps?namespace=shop "),
        (
            lambda c: c.objects(kind="Service", name="a b"),
            b"GET /v1/objects?kind=Service&name=a+b ",
        ),
        (lambda c: c.events(limit=5), b"GET /v1/events?limit=5 "),
        (lambda c: c.app(namespace="a", name="b"), b"GET /v1/apps/a/b "),
        (
            lambda c: c.app(namespace="../x", name="\r\n\u00e9?"),
            b"GET /v1/apps/..%2Fx/%0D%0A%C3%A9%3F ",
        ),
        (
            lambda c: c.delete_object(kind="Job", namespace="a", name="b"),
            b"DELETE /v1/objects/Job/a/b ",
        ),
        (lambda c: c.has_module("sha256:ab"), b"HEAD /v1/modules/sha256:ab "),
    ],
)
def test_requests(peer, client, call, target):
    peer.answers = [b"HTTP/1.1 200 OK\r\n\r\n" if target[:4] == b"HEAD" else response(APPS)]
    call(client)
    assert peer.received[0].startswith(target)


def test_apply(peer, client):
    peer.answers = [response(b'{"results": [{"action": "created"}]}')]
    assert client.apply([{"object": {"kind": "Job"}}], dry_run=True) == [{"action": "created"}]
    body = peer.received[0].partition(b"\r\n\r\n")[2]
    assert json.loads(body) == {"objects": [{"object": {"kind": "Job"}}], "dry_run": True}


def test_has_module(peer, client):
    peer.answers = [b"HTTP/1.1 404 Not Found\r\nContent-Length: 99\r\n\r\n"]
    assert client.has_module("sha256:ab") is False


def test_upload(peer, client):
    peer.answers = [response(status="201 Created")]
    module = os.urandom(200_000)
    heard = []
    client.upload_module(
        "sha256:ab", io.BytesIO(module), size_bytes=len(module), on_progress=heard.append
    )
    assert peer.received[0].endswith(b"\r\n\r\n" + module)
    assert heard[-1] == len(module)
    assert heard == sorted(heard)


def test_upload_of_a_shrinking_file(peer, client):
    peer.answers = [lambda connection: [*iter(lambda: connection.recv(65536), b"")]]
    with pytest.raises(InvalidInputError, match="shrank"):
        client.upload_module("sha256:ab", io.BytesIO(b"xx"), size_bytes=5)


def test_a_refused_upload_is_told_although_the_node_hung_up(peer, client):
    def refuse(connection):
        connection.recv(100)
        body = b'{"error": {"reason": "TooLarge", "message": "larger than 64Mi"}}'
        connection.sendall(response(body, status="413 Content Too Large"))

    peer.answers = [refuse]
    with pytest.raises(LimpetError):
        client.upload_module("sha256:ab", io.BytesIO(bytes(8 << 20)), size_bytes=8 << 20)


@pytest.mark.parametrize(
    ("status", "headers", "category"),
    [
        ("400 Bad Request", (), InvalidInputError),
        ("403 Forbidden", (), DeniedError),
        ("404 Not Found", (), NotFoundError),
        ("409 Conflict", (), ConflictError),
        ("413 Content Too Large", (), InvalidInputError),
        ("500 Internal Server Error", (), LimpetError),
        ("503 Service Unavailable", (), UnavailableError),
        ("503 Service Unavailable", ("Retry-After: 1",), TemporaryError),
    ],
)
def test_categories(peer, client, status, headers, category):
    body = b'{"error": {"reason": "PortInUse", "message": "8080 is taken"}}'
    peer.answers = [response(body, status=status, headers=headers)]
    with pytest.raises(category, match="8080 is taken") as error:
        client.node()
    assert type(error.value) is category
    assert error.value.reason == "PortInUse"
    assert category.reason != "PortInUse"


def test_problems_are_one_a_line(peer, client):
    problems = [
        {"where": "Job/a", "path": "spec.x", "why": "bad"},
        {"where": "Job/b", "path": "", "why": "worse"},
    ]
    body = {"error": {"reason": "InvalidManifest", "message": "m", "problems": problems}}
    peer.answers = [response(json.dumps(body).encode(), status="400 Bad Request")]
    with pytest.raises(InvalidInputError) as error:
        client.node()
    assert str(error.value) == "Job/a: spec.x: bad\nJob/b: worse"


@pytest.mark.parametrize("body", [b"", b"oops", b"[]", b"{}", b'{"error": 1}', b'{"error": {}}'])
def test_errors_without_a_message(peer, client, body):
    peer.answers = [response(body, status="409 Conflict")]
    with pytest.raises(LimpetError) as error:
        client.node()
    assert "409 without saying why" in str(error.value)


@pytest.mark.parametrize("body", [b"{}", b'{"items": 1}', b'{"items": [1]}'])
def test_lists_must_be_lists_of_objects(peer, client, body):
    peer.answers = [response(body)]
    with pytest.raises(ProtocolError, match="no list of items"):
        client.apps()


def log(client, **query):
    return client.log_lines(namespace="default", name="hello", query=query)


def test_log_lines(peer, client):
    peer.answers = [chunked(b"one\ntw", b"o\n\xff\nlast")]
    assert list(log(client, tail=5, follow=None)) == [b"one\n", b"two\n", b"\xff\n", b"last"]
    assert peer.received[0].startswith(b"GET /v1/apps/default/hello/logs?tail=5 ")


def test_log_of_an_absent_app(peer, client):
    body = b'{"error": {"reason": "NotFound", "message": "no app"}}'
    peer.answers = [response(body, status="404 Not Found")]
    with pytest.raises(NotFoundError, match="no app"):
        list(log(client))


def test_a_log_that_breaks_off(peer, client):
    peer.answers = [chunked(b"one\n", end=b"")]
    lines = log(client, follow=True)
    assert next(lines) == b"one\n"
    with pytest.raises(TemporaryError, match="went away"):
        next(lines)


def test_following_outlasts_silence_and_tells_it(peer, folder):
    go = threading.Event()

    def answer(connection):
        read_request(connection)
        connection.sendall(chunked(b"one\n", end=b"4\r\nt"))
        go.wait(10)
        connection.sendall(b"wo\n\r\n0\r\n\r\n")

    peer.answers = [answer]
    client = Client(folder / "s", timeout_seconds=2.0)
    lines = client.log_lines(
        namespace="default", name="hello", query={"follow": True}, tick_seconds=0.01
    )
    assert next(lines) == b"one\n"
    assert next(lines) == b""
    assert next(lines) == b""
    go.set()
    assert [line for line in lines if line] == [b"two\n"]
