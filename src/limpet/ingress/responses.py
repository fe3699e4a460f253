"""Reads one response of an app, without I/O: bytes in; head, body and end out.

An app's bytes are as hostile as a client's: what is not one well-framed response with a bounded
head is a `BadResponseError`. Parsing itself is llhttp's (through httptools), in its strict mode.
"""

from __future__ import annotations

from dataclasses import dataclass

import httptools

from limpet.errors import LimpetError
from limpet.http1.message import BODILESS, Header
from limpet.ingress.headers import end_to_end

_MAX_HEAD_BYTES = 64 << 10


class BadResponseError(LimpetError):
    """An app's answer is not HTTP, breaks off or is framed in a way that nobody asked for."""

    http_status = 502
    reason = "BadResponse"


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and end-to-end headers; `length` of the body in bytes, None when the end will tell."""

    status: int
    headers: list[Header]
    length: int | None


class ResponseReader:
    """One response. `body` collects pieces until the owner takes them."""

    __slots__ = (
        "_ends_with_connection",
        "_has_surplus",
        "_head_bytes",
        "_headers",
        "_is_head",
        "_keeps_alive",
        "_parser",
        "body",
        "head",
        "is_complete",
    )

    def __init__(self, *, is_head: bool) -> None:
        self._is_head = is_head
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._keeps_alive = False
        self._has_surplus = False
        self._ends_with_connection = False
        self.head: ResponseHead | None = None
        self.body: list[bytes] = []
        self.is_complete = False

    @property
    def is_reusable(self) -> bool:
        """Whether the connection may carry another request after this response."""
        return self.is_complete and self._keeps_alive and not self._has_surplus

    def feed(self, data: bytes) -> None:
        """Take bytes. Raises `BadResponseError`."""
        if self.head is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.is_complete:
                if isinstance(error.__context__, BadResponseError):
                    raise error.__context__ from None
                raise BadResponseError(f"not valid HTTP: {error}") from error
            self._has_surplus = True
        if self.head is None and self._head_bytes > _MAX_HEAD_BYTES:
            raise BadResponseError(f"a head over {_MAX_HEAD_BYTES} bytes")

    def feed_end(self) -> None:
        """Learn that the app has closed the connection. Raises `BadResponseError` if too early."""
        if self._ends_with_connection:
            self.is_complete = True
        elif not self.is_complete:
            raise BadResponseError("the connection closed before the response was complete")

    # The parser's callbacks, in the order it calls them.

    def on_message_begin(self) -> None:
        """Notice a response that nobody asked for."""
        if self.is_complete:
            self._has_surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect one header field; trailers are dropped (RFC 9110, 6.5.1)."""
        if self.head is None:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Decide how the body is framed (RFC 9112, 6.3)."""
        if self.head is not None:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._headers = []  # interim: the response itself follows
            return
        if not 200 <= status <= 599:
            raise BadResponseError(f"status {status}, which nobody asked for")
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise BadResponseError(f"protocol version {version}")
        length, is_chunked = self._framing(version)
        self.head = ResponseHead(status, end_to_end(self._headers), length)
        if self._is_head or status in BODILESS:
            self.is_complete = True
        elif length is None and not is_chunked:
            self._ends_with_connection = True
        self._keeps_alive = self._parser.should_keep_alive() and not self._ends_with_connection

    def _framing(self, version: str) -> tuple[int | None, bool]:
        length: int | None = None
        codings = []
        for name, value in self._headers:
            if len(name) == 14 and name.lower() == b"content-length":
                length = int(value)
            elif len(name) == 17 and name.lower() == b"transfer-encoding":
                codings.append(value.strip().lower())
        if codings and (codings != [b"chunked"] or version == "1.0"):
            raise BadResponseError("a transfer coding other than `chunked`")
        return length, bool(codings)

    def on_body(self, data: bytes) -> None:
        """Collect a piece of the body."""
        if self.is_complete:
            self._has_surplus = True
        else:
            self.body.append(data)

    def on_message_complete(self) -> None:
        """Notice the end, unless it is an interim response's."""
        if self.head is not None:
            self.is_complete = True
