"""The smallest client: one request on one new connection, timed to its first byte."""

from __future__ import annotations

import socket
import time

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_PATIENCE_SECONDS = 10.0


def get(port: int) -> bytes:
    """Return what came first of the answer."""
    with socket.create_connection(("127.0.0.1", port), _PATIENCE_SECONDS) as client:
        client.sendall(REQUEST)
        return client.recv(65536)


def time_first_byte(port: int) -> float:
    """Seconds from before connecting to the first byte of a good answer."""
    started = time.perf_counter()
    answer = get(port)
    seconds = time.perf_counter() - started
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"port {port} answered {answer[:200]!r}")
    return seconds
