"""A router on its own loop in a thread, apps that follow a script, and clients that speak bytes."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from limpet.ingress.router import start_router
from limpet.settings import HttpSettings
from limpet.worker.channel import Channel
from limpet.worker.config import RouterConfig
from limpet.worker.loop import Loop
from limpet.worker.messages import Drain, Routes

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 10.0


def wait_until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until it holds; fail after a while."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.002)


def read_request(connection: socket.socket) -> tuple[bytes, bytes]:
    """Read one request: head and body. Empty when the client has closed."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b"", b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        piece = connection.recv(65536)
        assert piece, "the request broke off"
        body += piece
    return head, body


class ScriptedApp:
    """Listens on loopback; each connection runs `script(connection)` in a thread of its own."""

    def __init__(self, script: Callable[[socket.socket], None]) -> None:
        self._script = script
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._main, daemon=True).start()

    def _main(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._script(connection)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def answering(response: bytes, *, times: int = 1_000_000) -> Callable[[socket.socket], None]:
    """Return a script that gives this answer to every request, `times` per connection."""

    def script(connection: socket.socket) -> None:
        for _ in range(times):
            head, _ = read_request(connection)
            if not head:
                return
            connection.sendall(response)

    return script


class Recorder:
    """A script that keeps each request and answers 200 with its number."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, bytes]] = []

    def __call__(self, connection: socket.socket) -> None:
        while True:
            head, body = read_request(connection)
            if not head:
                return
            self.requests.append((head, body))
            text = b"%d" % len(self.requests)
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
            )

    @property
    def head(self) -> list[bytes]:
        return self.requests[-1][0].split(b"\r\n")


class Client:
    """One connection to the router."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
        self._data = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def get(self, path: bytes = b"/", host: bytes = b"a.example") -> tuple[int, dict, bytes]:
        self.send(b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path, host))
        return self.read()

    def _receive(self) -> bool:
        piece = self.socket.recv(65536)
        self._data += piece
        return bool(piece)

    def read_head(self) -> tuple[int, dict[bytes, bytes]]:
        while b"\r\n\r\n" not in self._data:
            assert self._receive(), f"closed within a head: {self._data!r}"
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers: dict[bytes, bytes] = {}
        for line in lines:
            name, _, value = line.partition(b": ")
            assert name.lower() not in headers, f"twice: {name!r}"
            headers[name.lower()] = value
        return int(first.split(b" ")[1]), headers

    def read_exactly(self, size: int) -> bytes:
        while len(self._data) < size:
            assert self._receive(), "closed within a body"
        data, self._data = self._data[:size], self._data[size:]
        return data

    def read_to_end(self) -> bytes:
        while self._receive():
            pass
        data, self._data = self._data, b""
        return data

    def read_chunked(self) -> bytes:
        body = b""
        while True:
            while b"\r\n" not in self._data:
                assert self._receive(), "closed within a chunked body"
            line, _, self._data = self._data.partition(b"\r\n")
            piece = self.read_exactly(int(line, 16) + 2)[:-2]
            if not piece:
                return body
            body += piece

    def read(self, *, is_head: bool = False) -> tuple[int, dict[bytes, bytes], bytes]:
        """Read one whole response by its framing."""
        status, headers = self.read_head()
        if is_head or status in (204, 304):
            return status, headers, b""
        if headers.get(b"transfer-encoding") == b"chunked":
            return status, headers, self.read_chunked()
        if b"content-length" in headers:
            return status, headers, self.read_exactly(int(headers[b"content-length"]))
        return status, headers, self.read_to_end()

    def close(self) -> None:
        self.socket.close()


class RunningRouter:
    """The router under test and what surrounds it; everything ends with `close`."""

    def __init__(self, **settings: float) -> None:
        self._closing = contextlib.ExitStack()
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        self.port: int = listening.getsockname()[1]
        self._agent, theirs = Channel.pair()
        theirs.set_blocking(False)
        http = asdict(HttpSettings(**settings))  # type: ignore[arg-type]
        self._loop = Loop()
        self._theirs = theirs
        self.router = start_router(
            self._loop, theirs, RouterConfig(listeners=1, http=http), [listening.detach()]
        )
        self._thread = threading.Thread(target=self._main, daemon=True)
        self.error: BaseException | None = None
        self._thread.start()

    def _main(self) -> None:
        try:
            self._loop.run()
        except BaseException as error:
            self.error = error
            raise

    def app(self, script: Callable[[socket.socket], None]) -> ScriptedApp:
        app = ScriptedApp(script)
        self._closing.callback(app.close)
        return app

    def serve(
        self, script: Callable[[socket.socket], None], *, patience: float = 60.0
    ) -> ScriptedApp:
        """Route everything to a new app."""
        app = self.app(script)
        self.route(("", "/", False, app.address, patience))
        return app

    def route(self, *entries: tuple[str, str, bool, str, float]) -> None:
        """Send a table and wait until it is in force."""
        text = json.dumps(entries)
        self._agent.send(Routes(text))
        wait_until(lambda: self.router._text == text, "the new table")

    def client(self) -> Client:
        client = Client(self.port)
        self._closing.callback(client.close)
        return client

    def drain(self) -> None:
        self._agent.send(Drain())
        wait_until(lambda: self.router._is_draining)

    def lose_agent(self) -> None:
        self._agent.close()

    def wait_for_end(self) -> None:
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the router did not end"

    def close(self) -> None:
        self._closing.close()
        self._loop.stop()
        self._thread.join(PATIENCE_SECONDS)
        for connection in list(self.router._server._connections.values()):
            connection.close()
        self.router.pool.clear()
        for listening in self.router._listeners:
            listening.close()
        self._loop.close()
        self._agent.close()
        self._theirs.close()
        assert self.error is None
