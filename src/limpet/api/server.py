"""The local API: HTTP/1.1 on a Unix socket, for this device's operator (docs/api.md).

Who may connect is the kernel's word: the socket's mode, and the peer's credentials on each connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import traceback
from collections import deque
from typing import TYPE_CHECKING

from limpet.api.routes import Routes
from limpet.api.streaming import LogStreamResponse
from limpet.errors import UnavailableError
from limpet.http1.connection import ConnectionLimits, HttpConnection
from limpet.http1.message import encode_head, encode_lines
from limpet.store.files import make_directory

if TYPE_CHECKING:
    from pathlib import Path

    from limpet.api.routes import Upload
    from limpet.http1.message import Request
    from limpet.node.agent import Agent

_LIMITS = ConnectionLimits(head_bytes=16 << 10, body_bytes=16 << 20)
_MAX_CONNECTIONS = 64


class ApiServer:
    """Listens, checks who calls, and hands requests to the routes."""

    def __init__(self, agent: Agent) -> None:
        self._routes = Routes(agent)
        self._server: asyncio.Server | None = None
        self._path: Path | None = None
        self.connections: set[_Connection] = set()

    async def start(self, path: Path) -> None:
        """Listen. Raises `UnavailableError` when the socket can't be made."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        staged = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            if not path.parent.exists():
                make_directory(path.parent)
            staged.unlink(missing_ok=True)
            old = os.umask(0o177)
            try:
                listening.bind(str(staged))
            finally:
                os.umask(old)
            listening.listen(64)
            staged.replace(path)  # in one step: a client finds the old socket or this one
        except OSError as error:
            listening.close()
            raise UnavailableError(f"can't listen on {path}: {error.strerror or error}") from error
        self._path = path
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: _Connection(self, self._routes), sock=listening
        )

    async def stop(self) -> None:
        """Stop listening and end every call."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.abort()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class _Connection(asyncio.Protocol):
    """One caller."""

    def __init__(self, server: ApiServer, routes: Routes) -> None:
        self._server = server
        self._routes = routes
        self._http = HttpConnection(self._on_request, _LIMITS, self._choose_sink)
        self._requests: deque[tuple[Request, Upload | None]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._upload: Upload | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a stream server makes stream transports"
        self._transport = transport
        uid = _peer_uid(transport.get_extra_info("socket"))
        if uid not in (0, os.geteuid()) or len(self._server.connections) >= _MAX_CONNECTIONS:
            transport.abort()
            return
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._server.connections.discard(self)
        self._can_write.set()
        if self._task is not None:
            self._task.cancel()
        for sink in (self._upload, *(upload for _, upload in self._requests)):
            self._routes.abandon(sink)

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def abort(self) -> None:
        """End the call."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._http.feed(data)
        except OSError as error:  # a module upload met a full disk
            self._http.refuse(503, f"can't store the module: {error.strerror}")
        self._flush()
        self._serve_next()

    def _choose_sink(self, method: bytes, target: bytes) -> Upload | None:
        self._upload = self._routes.upload_sink(method, target)
        return self._upload

    def _on_request(self, request: Request) -> None:
        self._requests.append((request, self._upload))
        self._upload = None

    def _serve_next(self) -> None:
        if self._task is None and self._requests:
            self._task = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        try:
            while self._requests:
                request, upload = self._requests.popleft()
                answer = await self._routes.answer(request, upload)
                if isinstance(answer, LogStreamResponse):
                    await self._stream(answer)
                else:
                    self._http.respond(answer)
                    self._flush()
                    await self._can_write.wait()
        except Exception:  # an answer that broke off must not look complete
            traceback.print_exc()
            self.abort()
        finally:
            self._task = None

    async def _stream(self, answer: LogStreamResponse) -> None:
        """Write a chunked body as it comes; a caller that goes away ends it."""
        transport = self._transport
        assert transport is not None, "requests come after the connection"
        headers = [(b"Content-Type", answer.content_type)]
        lines = encode_lines(200, headers)
        transport.write(encode_head(200, lines, length=None, keeps_alive=False, minor_version=1))
        async with contextlib.aclosing(answer.chunks) as chunks:
            async for chunk in chunks:
                transport.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                await self._can_write.wait()
        transport.write(b"0\r\n\r\n")
        transport.close()

    def _flush(self) -> None:
        if self._transport is not None and self._http.output:
            self._transport.write(b"".join(self._http.output))
            self._http.output.clear()
        if self._http.is_closing and self._transport is not None:
            self._transport.close()


def _peer_uid(connection: socket.socket) -> int:
    """Ask the kernel who connected (unix(7), SO_PEERCRED)."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", data)[1])
