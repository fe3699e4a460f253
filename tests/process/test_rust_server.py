"""A Rust program that serves by WasmEdge's own crate, as an app of a real node."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from engines import on_both_engines
from running_node import PATIENCE_SECONDS
from workloads import http_app

if TYPE_CHECKING:
    from running_node import RunningNode

_TESTS = Path(__file__).parents[1]
_CLIENTS, _REQUESTS = 8, 1250
_PORT = 8080  # which the program listens on


@pytest.fixture(scope="module")
def module() -> bytes:
    sys.path[:0] = [str(_TESTS / folder) for folder in ("rust", "corpus")]
    from rust_builds import build_rust

    return build_rust(_TESTS / "rust/crate-sockets")


def _ask_often(port: int, problems: list[str]) -> None:
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as client:
            for number in range(_REQUESTS):
                question = b"request %d" % number
                client.sendall(question)
                answer = b""
                while len(answer) < len(question):
                    received = client.recv(1024)
                    if not received:
                        problems.append(f"hung up at {number}")
                        return
                    answer += received
                if answer != question:
                    problems.append(f"{question!r}: {answer!r}")
    except OSError as error:
        problems.append(repr(error))


@on_both_engines
def test_ten_thousand_requests_without_an_error(node: RunningNode, module: bytes) -> None:
    ports = [{"containerPort": _PORT}]
    app = http_app("server", "rust", args=["serve-many"], ports=ports)
    node.place(module, app)
    node.wait_ready("server")
    problems: list[str] = []
    clients = [
        threading.Thread(target=_ask_often, args=(node.port("server"), problems))
        for _ in range(_CLIENTS)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert problems == []
    status = node.status("server")
    assert (status["trigger"], status["restarts"]) == ("socket", 0)
