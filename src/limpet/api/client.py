"""The synchronous client of the node's local API (docs/api.md), for the command line.

Longer than other modules because it carries its own HTTP/1.1 reader: `http.client` costs 40 ms to
import on a laptop and ten times that on a device, and the peer is always our own node. The reader
takes the three framings the node uses (Content-Length, chunked, no body) and refuses all else.
"""

from __future__ import annotations

import errno
import json
import socket
from typing import TYPE_CHECKING, Any, NoReturn, NotRequired, TypeAlias, TypedDict, cast
from urllib.parse import quote, urlencode

from limpet.errors import (
    ConflictError,
    DeniedError,
    InvalidInputError,
    LimpetError,
    NotFoundError,
    TemporaryError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO, Self

_HEAD_BYTES = 32 << 10
_BODY_BYTES = 64 << 20
_LINE_BYTES = 1 << 20
_READ_BYTES = 64 << 10

Json: TypeAlias = dict[str, Any]
"""A JSON object as the node sent it; a Kubernetes object is one too."""


class ExitInfo(TypedDict):
    """Why a worker ended last."""

    reason: str
    message: str
    exit_code: int | None
    signal: str | None
    finished_at: str | None


class WorkerInfo(TypedDict):
    """One process of an app."""

    name: str
    pid: int | None
    state: str
    restarts: int
    started_at: str | None
    retry_seconds: float | None
    last_exit: ExitInfo | None


class AppStatus(TypedDict):
    """What an app is doing; numbers are null while there is nothing to measure."""

    kind: str
    namespace: str
    name: str
    generation: int
    created_at: str
    phase: str
    reason: str | None
    message: str | None
    is_final: NotRequired[bool]
    desired: int
    ready: int
    restarts: int
    trigger: str
    engine: str | None
    image: str
    digest: str | None
    endpoints: list[str]
    limits: Json
    missing_walls: NotRequired[list[str]]
    missing_walls_why: NotRequired[str]
    usage: Json | None
    requests: Json | None
    cold_start_milliseconds: Json | None
    requires: list[str]
    egress: list[str] | None
    volumes: list[Json]
    workers: list[WorkerInfo]


class ObjectInfo(TypedDict):
    """A stored object: `object` is the Kubernetes one, `usage` how full a volume is."""

    kind: str
    namespace: str
    name: str
    created_at: str
    generation: int
    object: Json
    usage: NotRequired[Json | None]


class EventInfo(TypedDict):
    """Something that happened, `count` times; `time` is the last one."""

    time: str
    type: str
    reason: str
    kind: str
    namespace: str
    name: str
    message: str
    count: int


class ApplyItem(TypedDict):
    """One object to apply; `digest` goes with a module that is a local file."""

    object: Json
    digest: NotRequired[str]


class ApplyResult(TypedDict):
    """What applying did to one object."""

    kind: str
    namespace: str
    name: str
    action: str
    warnings: list[str]


class NodeNotRunningError(UnavailableError):
    """Nobody listens on the node's socket."""

    reason = "NodeNotRunning"


class ProtocolError(UnavailableError):
    """The peer's answer is not what docs/api.md describes."""

    reason = "BadAnswer"


class Client:
    """Calls to the node that listens on `socket_path`, one connection each.

    Every call raises the `LimpetError` category that the node answered with;
    `NodeNotRunningError` when nobody listens, `TemporaryError` when no answer comes in time.
    """

    def __init__(self, socket_path: Path, *, timeout_seconds: float = 30.0) -> None:
        self.socket_path = socket_path
        self.timeout_seconds = timeout_seconds

    def node(self) -> Json:
        """The node itself."""
        return self._call("GET", "/v1/node")

    def has_module(self, digest: str) -> bool:
        """Whether the node already holds the module `sha256:HEX`."""
        try:
            self._call("HEAD", f"/v1/modules/{_segment(digest)}")
        except NotFoundError:
            return False
        return True

    def upload_module(
        self,
        digest: str,
        file: BinaryIO,
        *,
        size_bytes: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Send a module's bytes; `on_progress` hears how many are gone so far."""
        with _Exchange(self.socket_path, timeout_seconds=self.timeout_seconds) as exchange:
            exchange.send_head("PUT", f"/v1/modules/{_segment(digest)}", length=size_bytes)
            exchange.send_body(file, size_bytes=size_bytes, on_progress=on_progress)
            _checked(exchange, exchange.read_head("PUT"))

    def apply(self, items: list[ApplyItem], *, dry_run: bool = False) -> list[ApplyResult]:
        """Create or change objects, all or none; results come in the same order."""
        answer = self._call("POST", "/v1/apply", {"objects": items, "dry_run": dry_run})
        return cast("list[ApplyResult]", _items(answer, "results"))

    def objects(
        self, *, kind: str | None = None, namespace: str | None = None, name: str | None = None
    ) -> list[ObjectInfo]:
        """Stored objects, narrowed by whatever is given."""
        query = {"kind": kind, "namespace": namespace, "name": name}
        return cast("list[ObjectInfo]", _items(self._call("GET", _target("/v1/objects", query))))

    def delete_object(self, *, kind: str, namespace: str, name: str) -> None:
        """Delete one object; `NotFoundError` when it is absent."""
        self._call("DELETE", f"/v1/objects/{_segment(kind)}/{_segment(namespace)}/{_segment(name)}")

    def apps(self, *, namespace: str | None = None) -> list[AppStatus]:
        """Every app's status, of one namespace or of all."""
        answer = self._call("GET", _target("/v1/apps", {"namespace": namespace}))
        return cast("list[AppStatus]", _items(answer))

    def app(self, *, namespace: str, name: str) -> AppStatus:
        """One app's status."""
        return cast("AppStatus", self._call("GET", _app_path(namespace, name)))

    def events(
        self, *, namespace: str | None = None, name: str | None = None, limit: int | None = None
    ) -> list[EventInfo]:
        """What happened, oldest first."""
        query = {"namespace": namespace, "name": name, "limit": limit}
        return cast("list[EventInfo]", _items(self._call("GET", _target("/v1/events", query))))

    def keys(self) -> Json:
        """What the node says about its keys; never a key."""
        return self._call("GET", "/v1/keys")

    def rotate_keys(
        self,
        *,
        unlock_key: bytes | None = None,
        scrypt: Json | None = None,
        dry_run: bool = False,
    ) -> Json:
        """Change the node's keys; a node with a passphrase needs its new key and how it is made."""
        body: Json = {"dry_run": dry_run}
        if unlock_key is not None:
            body |= {"unlock_key": unlock_key.hex(), "scrypt": scrypt}
        return self._call("POST", "/v1/keys/rotate", body)

    def log_lines(
        self,
        *,
        namespace: str,
        name: str,
        query: Mapping[str, object],
        tick_seconds: float | None = None,
    ) -> Generator[bytes, None, None]:
        """An app's log, line by line with its newline, as the node sends it.

        With `follow` in the query and `tick_seconds`, an empty line is yielded whenever that
        long passed without one, so that a follower can look around.
        """
        with _Exchange(self.socket_path, timeout_seconds=self.timeout_seconds) as exchange:
            exchange.send_head("GET", _target(_app_path(namespace, name) + "/logs", query))
            head = exchange.read_head("GET")
            if head.status != 200:
                _checked(exchange, head)
            if query.get("follow"):
                exchange.follow(tick_seconds)
            yield from _lines(exchange.pieces(head))

    def _call(self, method: str, target: str, body: object = None) -> Json:
        with _Exchange(self.socket_path, timeout_seconds=self.timeout_seconds) as exchange:
            payload = None if body is None else json.dumps(body).encode()
            exchange.send_head(method, target, length=None if payload is None else len(payload))
            if payload is not None:
                exchange.send(payload)
            return _checked(exchange, exchange.read_head(method))


class _Head:
    """A response's status and headers (names in lower case)."""

    def __init__(self, *, status: int, headers: dict[str, str], has_body: bool) -> None:
        self.status = status
        self.headers = headers
        self.has_body = has_body


class _Exchange:
    """One request and its answer on one connection."""

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
        self, file: BinaryIO, *, size_bytes: int, on_progress: Callable[[int], None] | None
    ) -> None:
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

    def read_head(self, method: str) -> _Head:
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
        return _Head(status=status, headers=headers, has_body=has_body)

    def read_body(self, head: _Head) -> bytes:
        body = bytearray()
        for piece in self.pieces(head):
            body += piece
            if len(body) > _BODY_BYTES:
                raise ProtocolError(f"the node's answer is larger than {_BODY_BYTES >> 20} MiB")
        return bytes(body)

    def pieces(self, head: _Head) -> Iterator[bytes]:
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


class _LateError(TemporaryError):
    """A read's time ran out: fatal for a call, a tick for a follower."""

    reason = "Timeout"


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
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


def _checked(exchange: _Exchange, head: _Head) -> Json:
    """The answer's JSON object, or the error it stands for."""
    body = exchange.read_body(head)
    if head.status // 100 == 2:
        return _parse_object(body) if body else {}
    raise _parse_error(head, body)


def _parse_object(body: bytes) -> Json:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the node's answer is no JSON; is it a Limpet node?") from error
    if not isinstance(value, dict):
        raise ProtocolError("the node's answer is no JSON object")
    return value


def _items(answer: Json, key: str = "items") -> list[Json]:
    items = answer.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ProtocolError(f"the node's answer has no list of {key}")
    return items


def _parse_error(head: _Head, body: bytes) -> LimpetError:
    category = _category(head)
    try:
        told = _parse_object(body)["error"] if body else {}
        problems = [_problem(problem) for problem in told.get("problems") or ()]
        message = "\n".join(problems) or str(told["message"])
        reason = str(told.get("reason") or category.reason)
    except (LimpetError, LookupError, TypeError, AttributeError):
        return category(f"the node answered {head.status} without saying why")
    error = category(message)
    error.reason = reason
    return error


def _problem(problem: Json) -> str:
    parts = (str(problem.get(key) or "") for key in ("where", "path", "why"))
    return ": ".join(part for part in parts if part)


def _category(head: _Head) -> type[LimpetError]:
    if head.status == 503:
        return TemporaryError if "retry-after" in head.headers else UnavailableError
    exact: dict[int, type[LimpetError]] = {
        403: DeniedError,
        404: NotFoundError,
        409: ConflictError,
    }
    default = InvalidInputError if head.status // 100 == 4 else LimpetError
    return exact.get(head.status, default)


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


def _target(path: str, query: Mapping[str, object]) -> str:
    given = {key: _query_text(value) for key, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _query_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _app_path(namespace: str, name: str) -> str:
    return f"/v1/apps/{_segment(namespace)}/{_segment(name)}"


def _segment(text: str) -> str:
    return quote(text, safe=":")


def _is_number(text: str) -> bool:
    return 0 < len(text) <= 15 and text.isascii() and text.isdigit()
