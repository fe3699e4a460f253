"""One HTTP/1.1 request to the node's socket and its answer, as bytes.

A reader of our own: `http.client` costs 40 ms to import on a laptop and ten times that on a device, and
the peer is always our own node. It takes the three framings the node uses (Content-Length, chunked, no
body) and refuses all else.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, NoReturn

from limpet.api.answers import ProtocolError
from limpet.errors import DeniedError, InvalidInputError, TemporaryError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Protocol, Self

    class Readable(Protocol):
        """What bytes are read from, forwards."""

        def read(self, size: int, /) -> bytes:
            """Up to that many bytes; none at the end."""


_HEAD_BYTES = 32 << 10
_BODY_BYTES = 64 << 20
_LINE_BYTES = 1 << 20
_READ_BYTES = 64 << 10


class NodeNotRunningError(UnavailableError):
    """Nobody listens on the node's socket."""

    reason = "NodeNotRunning"


class _LateError(TemporaryError):
    """A read's time ran out: fatal for a call, a tick for a follower."""

    reason = "Timeout"


class Head:
    """A response's status and headers (names in lower case)."""

    def __init__(self, *, status: int, headers: dict[str, str], has_body: bool) -> None:
        self.status = status
        self.headers = headers
        self.has_body = has_body


class Exchange:
    """One request and its answer on one connection, which is open inside of `with`.

    All raise `ProtocolError`, `TemporaryError` when no answer comes in time or the node goes away, and
    entering `NodeNotRunningError`, `DeniedError` or `UnavailableError`.
    """

    def __init__(self, socket_path: Path, *, timeout_seconds: float) -> None:
        self._path = socket_path
        self._timeout_seconds = timeout_seconds
        self._buffer = bytearray()
        self._is_ticking = False
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(self._timeout_seconds)
            self._socket.connect(str(self._path))
            return self  # noqa: TRY300 - Ctrl-C here must close the socket, too
        except OSError as error:
            self._socket.close()
            _refuse_connection(self._path, error)
        except BaseException:
            self._socket.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            self._socket.close()

    def follow(self, tick_seconds: float | None) -> None:
        """From now on silence is no failure: it lasts for ever, or is told every so often."""
        self._is_ticking = tick_seconds is not None
        self._connection.settimeout(tick_seconds)

    def send_head(self, method: str, target: str, *, length: int | None = None) -> None:
        """Send the request's line and headers; `length` is that of the body, None for no body."""
        lines = [f"{method} {target} HTTP/1.1", "Host: limpet", "Connection: close"]
        if length is not None:
            lines.append(f"Content-Length: {length}")
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))

    def send(self, data: bytes) -> bool:
        """Send; False when the node hung up, which its answer may explain."""
        try:
            self._connection.sendall(data)
        except TimeoutError as error:
            raise self._late() from error
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def send_body(
        self, file: Readable, *, size_bytes: int, on_progress: Callable[[int], None] | None
    ) -> None:
        """Send what a file holds; `on_progress` hears how many bytes are gone so far."""
        sent = 0
        while sent < size_bytes:
            piece = file.read(min(_READ_BYTES, size_bytes - sent))
            if not piece:
                raise InvalidInputError("the module's file shrank while it was sent; try again")
            if not self.send(piece):
                return
            sent += len(piece)
            if on_progress is not None:
                on_progress(sent)

    def read_head(self, method: str) -> Head:
        """Return the answer's head; `method` is the request's."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _HEAD_BYTES:
                raise ProtocolError(f"the node on {self._path} sent an endless header")
            self._fill()
        first, *rest = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        version, _, code = first.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not _is_number(code[:3]):
            raise ProtocolError(f"what listens on {self._path} is no Limpet node")
        pairs = (line.partition(":") for line in rest)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        status = int(code[:3])
        has_body = method != "HEAD" and status not in (204, 304)
        return Head(status=status, headers=headers, has_body=has_body)

    def read_body(self, head: Head) -> bytes:
        """Return the whole body."""
        body = bytearray()
        for piece in self.pieces(head):
            body += piece
            if len(body) > _BODY_BYTES:
                raise ProtocolError(f"the node's answer is larger than {_BODY_BYTES >> 20} MiB")
        return bytes(body)

    def pieces(self, head: Head) -> Iterator[bytes]:
        """The body as it arrives; an empty piece is a tick without data."""
        if not head.has_body:
            return
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self._chunks()
            return
        length = head.headers.get("content-length", "")
        if not _is_number(length):
            raise ProtocolError("the node's answer has no length")
        yield from self._exactly(int(length))

    def _chunks(self) -> Iterator[bytes]:
        while True:
            for line in self._line():
                if line is None:
                    yield b""
                    continue
                text = line.partition(b";")[0].strip().decode("latin-1")
                if not text or len(text) > 8 or set(text) - set("0123456789abcdefABCDEF"):
                    raise ProtocolError("the node sent a malformed chunk")
                size = int(text, 16)
            if size == 0:
                return
            yield from self._exactly(size)
            for line in self._line():
                if line:
                    raise ProtocolError("the node sent a malformed chunk")

    def _line(self) -> Iterator[bytes | None]:
        """Nones while nothing comes, then one line without its end."""
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > _HEAD_BYTES:
                raise ProtocolError("the node sent a malformed chunk")
            if not self._fill_or_tick():
                yield None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        yield line

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            if not self._buffer and not self._fill_or_tick():
                yield b""
                continue
            piece = bytes(self._buffer[:size])
            del self._buffer[: len(piece)]
            size -= len(piece)
            yield piece

    def _fill_or_tick(self) -> bool:
        try:
            self._fill()
        except _LateError:
            if not self._is_ticking:
                raise
            return False
        return True

    def _fill(self) -> None:
        try:
            data = self._connection.recv(_READ_BYTES)
        except TimeoutError as error:
            raise self._late() from error
        except ConnectionResetError:
            data = b""
        if not data:
            raise TemporaryError(f"the node on {self._path} went away before it had answered")
        self._buffer += data

    def _late(self) -> TemporaryError:
        waited = f"{self._timeout_seconds:g} s"
        return _LateError(f"the node on {self._path} did not answer within {waited}; try again")

    @property
    def _connection(self) -> socket.socket:
        assert self._socket is not None
        return self._socket


def split_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Lines with their newlines, from a body's pieces; ticks pass, and endless lines are cut."""
    pending = bytearray()
    for piece in pieces:
        if not piece:
            yield b""
            continue
        pending += piece
        while (end := pending.find(b"\n")) >= 0 or len(pending) > _LINE_BYTES:
            end = end + 1 if end >= 0 else len(pending)
            yield bytes(pending[:end])
            del pending[:end]
    if pending:
        yield bytes(pending)


def _refuse_connection(path: Path, error: OSError) -> NoReturn:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
        raise NodeNotRunningError(
            f"no node is listening on {path}; start one with `limpet up`"
        ) from error
    if isinstance(error, PermissionError):
        raise DeniedError(
            f"{path}: permission denied; only root and the node's own user may talk to it"
        ) from error
    if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
        raise TemporaryError(f"the node on {path} is busy; try again") from error
    raise UnavailableError(f"can't connect to {path}: {error.strerror or error}") from error


def _is_number(text: str) -> bool:
    return 0 < len(text) <= 15 and text.isascii() and text.isdigit()
