"""A minimal HTTP client for measuring: one request, how long until the first byte, how long in all.

A general client would spend more time in itself than the requests take.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from limpet.errors import TemporaryError

_MAX_ANSWER_BYTES = 16 << 20


class RequestFailedError(TemporaryError):
    """An app did not answer as HTTP says."""

    reason = "RequestFailed"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; times in milliseconds, from before the connection was made if it was."""

    status: int
    body: bytes
    first_byte_milliseconds: float
    milliseconds: float


class Session:
    """One kept-alive connection to an app at `host:port`."""

    def __init__(self, endpoint: str, *, timeout_seconds: float = 60.0) -> None:
        self._endpoint = endpoint
        self._timeout = timeout_seconds
        self._socket: socket.socket | None = None

    def request(self, method: str, target: str, body: bytes = b"") -> Answer:
        """Send a request, connecting first when there is no connection. Raises RequestFailedError."""
        started = time.perf_counter()
        head = f"{method} {target} HTTP/1.1\r\nHost: {self._endpoint}\r\n"
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        try:
            connection = self._connect()
            connection.sendall(f"{head}{length}\r\n".encode() + body)
            data = connection.recv(65536)
            first_byte = time.perf_counter()
            status, received = self._read(connection, data)
        except OSError as error:
            self.close()
            raise RequestFailedError(f"{self._endpoint}: {method} {target}: {error}") from error
        done = time.perf_counter()
        return Answer(status, received, (first_byte - started) * 1e3, (done - started) * 1e3)

    def _connect(self) -> socket.socket:
        if self._socket is None:
            host, _, port = self._endpoint.rpartition(":")
            self._socket = socket.create_connection((host.strip("[]"), int(port)), self._timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _read(self, connection: socket.socket, data: bytes) -> tuple[int, bytes]:
        while b"\r\n\r\n" not in data:
            data += self._receive(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        length = 0
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if length > _MAX_ANSWER_BYTES:
            raise RequestFailedError(f"{self._endpoint}: an answer of {length} bytes is too large")
        while len(body) < length:
            body += self._receive(connection)
        if b"connection: close" in head.lower():
            self.close()
        return int(lines[0].split()[1]), body

    def _receive(self, connection: socket.socket) -> bytes:
        data = connection.recv(65536)
        if not data:
            raise RequestFailedError(f"{self._endpoint}: the connection ended within an answer")
        return data

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
