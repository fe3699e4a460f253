from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpet.api.answers import ProtocolError
from limpet.api.client import Client
from limpet.api.exchange import NodeNotRunningError, split_lines
from limpet.errors import (
    DeniedError,
    TemporaryError,
    UnavailableError,
)

from .scripted_peer import chunked, response


@pytest.mark.parametrize(
    "answer",
    [
        b"220 smtp.example ready\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nno length",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n",
        b"X" * 100_000,
        response(b"not json"),
        response(b"[1]"),
        response(b"[" * 100_000),
        chunked(end=b"zz\r\n"),
        chunked(end=b"-1\r\n"),
        chunked(end=b"fffffffff\r\n"),
        chunked(end=b"\r\n"),
        chunked(end=b"1\r\nab\r\n0\r\n\r\n"),
        chunked(end=b"0" * 100_000),
    ],
)
def test_what_is_no_answer(peer, client, answer):
    peer.answers = [answer]
    with pytest.raises(ProtocolError):
        client.node()


def test_answers_are_bounded(peer, client, monkeypatch):
    monkeypatch.setattr("limpet.api.exchange._BODY_BYTES", 1000)
    peer.answers = [response(b" " * 2000)]
    with pytest.raises(ProtocolError, match="larger than"):
        client.node()


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200", response(b"{}")[:-1], chunked(b"{", end=b"5\r\nab")]
)
def test_a_node_that_goes_away(peer, client, answer):
    peer.answers = [answer]
    with pytest.raises(TemporaryError, match="went away"):
        client.node()


def test_a_node_that_is_silent(peer, folder):
    ended = threading.Event()
    peer.answers = [lambda connection: ended.wait(10)]
    started = time.monotonic()
    with pytest.raises(TemporaryError, match=r"did not answer within 0\.05 s"):
        Client(folder / "s", timeout_seconds=0.05).node()
    ended.set()
    assert time.monotonic() - started < 5


def test_a_chunked_answer_may_be_an_object(peer, client):
    peer.answers = [chunked(b'{"na', b'me": 1}')]
    assert client.node() == {"name": 1}


def test_nobody_listens(client, folder):
    with pytest.raises(NodeNotRunningError, match="start one with `limpet up`"):
        client.node()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "s"))
    with pytest.raises(NodeNotRunningError):
        client.node()


def test_a_path_that_is_too_long():
    with pytest.raises(UnavailableError, match=r"can't connect to .*too long"):
        Client(Path("/" + "x" * 200)).node()


def test_permission_is_told(client, monkeypatch):
    def connect(self, address):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(DeniedError, match="permission denied; only root"):
        client.node()


def test_endless_lines_are_cut(peer, client, monkeypatch):
    monkeypatch.setattr("limpet.api.exchange._LINE_BYTES", 10)
    peer.answers = [chunked(b"x" * 25)]
    assert b"".join(client.log_lines(namespace="default", name="hello", query={})) == b"x" * 25


def test_an_interrupted_connect_leaves_no_socket(peer, client, monkeypatch):
    made = []

    def connect(self, address):
        made.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(KeyboardInterrupt):
        client.node()
    assert made[0].fileno() == -1
    monkeypatch.undo()


@settings(max_examples=60)
@given(pieces=st.lists(st.binary(min_size=1, max_size=50), max_size=8))
def test_lines_do_not_depend_on_pieces(pieces):
    assert b"".join(split_lines(iter(pieces))) == b"".join(pieces)
    assert all(b"\n" not in line[:-1] for line in split_lines(iter(pieces)))
