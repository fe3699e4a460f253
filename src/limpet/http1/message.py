"""Requests, responses and how a response looks on the wire (RFC 9110, RFC 9112)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limpet.http1.connection import BodySink

Header = tuple[bytes, bytes]

_REASONS = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
BODILESS = frozenset({204, 304})
_date_second = 0
_date_line = b""


@dataclass(slots=True)
class Request:
    """One request with its whole body. Header names keep the client's case, in wire order.

    `sink` took the body when the owner chose one; `body` is empty then. `derived` is the owner's: when
    a client repeats its request byte for byte, the owner finds there what it made of the first one.
    """

    method: bytes
    target: bytes
    path: bytes
    query: bytes
    headers: list[Header]
    body: bytes
    minor_version: int
    keeps_alive: bool
    sink: BodySink | None = None
    derived: Any = None

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header, its name given in lower case."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None


@dataclass(slots=True)
class Response:
    """An answer; framing headers (Content-Length, Connection, Date) are added on the wire.

    `lines` is what `encode_lines` makes of status and headers, when somebody has it already.
    """

    status: int
    headers: Iterable[Header] = ()
    body: bytes = b""
    lines: bytes | None = None


def plain(status: int, text: str, *headers: Header) -> Response:
    """Build one of the platform's own answers: a line of text that is never cached."""
    return Response(
        status,
        [
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"Cache-Control", b"no-store"),
            *headers,
        ],
        text.encode("utf-8", "replace") + b"\n",
    )


def encode_lines(status: int, headers: Iterable[Header]) -> bytes:
    """Encode the status line and the headers that are not about framing."""
    lines = [b"HTTP/1.1 %d %s\r\n" % (status, _REASONS.get(status, b""))]
    lines += [b"%s: %s\r\n" % header for header in headers]
    return b"".join(lines)


def encode_head(
    status: int,
    lines: bytes,
    *,
    length: int | None,
    keeps_alive: bool,
    minor_version: int,
) -> bytes:
    """Complete what `encode_lines` made to a head.

    `length` None means a chunked body, for an HTTP/1.0 client one that ends with the connection.
    """
    framing = b""
    if status >= 200 and status not in BODILESS:
        if length is not None:
            framing = b"Content-Length: %d\r\n" % length
        elif minor_version:
            framing = b"Transfer-Encoding: chunked\r\n"
    if not keeps_alive:
        framing += b"Connection: close\r\n"
    elif minor_version == 0:
        framing += b"Connection: keep-alive\r\n"
    return b"%s%s%s\r\n" % (lines, _date(), framing)


def encode_response(
    response: Response, *, is_head: bool, keeps_alive: bool, minor_version: int
) -> bytes:
    """Encode a whole response; for HEAD the body is left out and its length kept."""
    body = response.body
    lines = response.lines
    head = encode_head(
        response.status,
        encode_lines(response.status, response.headers) if lines is None else lines,
        length=len(body),
        keeps_alive=keeps_alive,
        minor_version=minor_version,
    )
    if is_head or response.status in BODILESS or not body:
        return head
    return head + body


def _date() -> bytes:
    """Return the Date header's line, made once a second (RFC 9110, 6.6.1)."""
    global _date_second, _date_line  # noqa: PLW0603 - a cache of one line
    now = int(time.time())
    if now != _date_second:
        _date_second = now
        days = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
        months = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
        t = time.gmtime(now)
        _date_line = b"Date: %s, %02d %s %04d %02d:%02d:%02d GMT\r\n" % (
            days[t.tm_wday],
            t.tm_mday,
            months[t.tm_mon - 1],
            t.tm_year,
            t.tm_hour,
            t.tm_min,
            t.tm_sec,
        )
    return _date_line
