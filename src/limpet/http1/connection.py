"""The server's side of one HTTP/1.1 connection, without I/O.

Feed it bytes; it calls `on_request` with each complete request, in order, and collects what must be
written in `output`. The owner answers each request with `respond`, or piece by piece with
`begin_response`, `write_body` and `end_response`, in the same order. A request that breaks a rule or a
limit is answered here and the connection marked `is_closing`: nothing after it can be trusted, so
nothing after it is parsed (RFC 9112, 9.3 and 11.2). An owner that wants to end a connection politely
sets `closes_after_response`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import httptools

from limpet.errors import LimpetError
from limpet.http1.message import (
    BODILESS,
    Header,
    Request,
    Response,
    encode_head,
    encode_lines,
    encode_response,
    plain,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_END_OF_HEAD = b"\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# What a host, an address in brackets and a port are made of (RFC 3986, 3.2.2).
_HOST_CHARACTERS = (
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%!$&'()*+,;=:[]"
)
# Repeated heads up to this size are recognised: each connection remembers one.
_MAX_REPEATED_BYTES = 1024
_SUPPORTED_MINORS = {"1.0": 0, "1.1": 1}


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one request may cost: bytes of request line and headers, bytes of body."""

    head_bytes: int = 32 << 10
    body_bytes: int = 8 << 20


class BodySink(Protocol):
    """Takes a large body piece by piece instead of memory."""

    max_bytes: int

    def write(self, data: bytes) -> None:
        """Take the next piece. A LimpetError refuses the request with its HTTP status."""


class _Refused(Exception):  # noqa: N818 - control flow through the parser's callbacks
    """Ends parsing from inside a parser callback."""


class HttpConnection:
    """One connection; `output` is what the owner still has to write."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_choose_sink",
        "_count",
        "_expects_continue",
        "_has_stopped",
        "_head_bytes",
        "_headers",
        "_in_head",
        "_is_between",
        "_is_chunking",
        "_keeps_alive",
        "_latest",
        "_limits",
        "_minor",
        "_on_request",
        "_parser",
        "_refusal",
        "_repeated",
        "_repeated_data",
        "_sink",
        "_target",
        "_unanswered",
        "closes_after_response",
        "is_closing",
        "output",
    )

    def __init__(
        self,
        on_request: Callable[[Request], None],
        limits: ConnectionLimits,
        choose_sink: Callable[[bytes, bytes], BodySink | None] | None = None,
    ) -> None:
        self._on_request = on_request
        self._choose_sink = choose_sink
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._unanswered: list[tuple[bool, bool, int]] = []
        self._refusal: Response | None = None
        self._is_chunking = False
        self._has_stopped = False
        self._expects_continue = False
        # What the client sent last and the request that it was; see `_learn_repetition`.
        self._repeated_data = b""
        self._repeated: Request | None = None
        self._latest: Request | None = None
        self._count = 0
        self._is_between = True
        self._reset()
        self.output: list[bytes] = []
        self.is_closing = False
        self.closes_after_response = False

    @property
    def is_idle(self) -> bool:
        """Whether no request is being received or answered."""
        return self._in_head and not self._unanswered and self._head_bytes == 0

    @property
    def is_receiving_body(self) -> bool:
        """Whether a request's head is complete and its body is not."""
        return self._in_body

    @property
    def _in_body(self) -> bool:
        return not self._in_head

    @property
    def unanswered(self) -> int:
        """How many requests have been handed out and not been answered."""
        return len(self._unanswered)

    def feed(self, data: bytes) -> None:
        """Take bytes from the client. After `is_closing` they are ignored."""
        if self.is_closing or self._has_stopped or self._refusal is not None:
            return
        if self._repeated is not None:
            if data == self._repeated_data:
                self._hand_out(self._repeated)
                return
            self._repeated = None
        self._head_bytes += len(data)
        count = self._count
        try:
            self._parser.feed_data(data)
            self._learn_repetition(data, count)
        except httptools.HttpParserUpgrade:
            # The request was complete and handed out. What follows is another protocol's: a server
            # may ignore Upgrade (RFC 9110, 7.8), and then only closing tells the two sides apart.
            self._stop_after_last_request()
        except httptools.HttpParserError as error:
            # The parser wraps what a callback raises; the owner's own errors are not the client's.
            cause = error.__context__
            if cause is not None and not isinstance(cause, _Refused):
                raise cause from None
            if self._refusal is None:
                self._refuse(400, "the request is not valid HTTP/1.1")
        if self._head_bytes > self._limits.head_bytes and self._refusal is None:
            self._refuse_head(self._head_bytes)
        self._flush_refusal()

    def _learn_repetition(self, data: bytes, count: int) -> None:
        """Keep `data` when it was exactly one request without a body.

        Clients on lasting connections ask the same again and again: a poll, a probe, a dashboard. Only
        what began and ended where the parser is between two requests means the same when it is repeated.
        """
        began_between = self._is_between
        self._is_between = (
            self._in_head
            and not self._target
            and not self._head_bytes
            and data.endswith(_END_OF_HEAD)
        )
        request = self._latest
        if (
            began_between
            and self._is_between
            and request is not None
            and self._count == count + 1
            and request.keeps_alive
            and self._choose_sink is None
            and len(data) <= _MAX_REPEATED_BYTES
        ):
            self._repeated_data = data
            self._repeated = request

    def _hand_out(self, request: Request) -> None:
        self._unanswered.append(
            (request.method == b"HEAD", request.keeps_alive, request.minor_version)
        )
        self._on_request(request)

    def respond(self, response: Response) -> None:
        """Answer the oldest unanswered request."""
        is_head, keeps_alive, minor = self._unanswered.pop(0)
        keeps_alive = keeps_alive and not self.closes_after_response
        self.output.append(
            encode_response(response, is_head=is_head, keeps_alive=keeps_alive, minor_version=minor)
        )
        self._after_response(keeps_alive=keeps_alive)

    def begin_response(self, status: int, headers: Iterable[Header], *, length: int | None) -> None:
        """Begin to answer the oldest unanswered request; the body follows in pieces.

        With `length` None nobody knows yet how long it will be. Neither the answer to HEAD nor one of
        status 204 or 304 has a body.
        """
        is_head, keeps_alive, minor = self._unanswered[0]
        has_body = not is_head and status not in BODILESS
        self._is_chunking = has_body and length is None and minor == 1
        if has_body and length is None and minor == 0:
            keeps_alive = False
        keeps_alive = keeps_alive and not self.closes_after_response
        self._unanswered[0] = (is_head, keeps_alive, minor)
        self.output.append(
            encode_head(
                status,
                encode_lines(status, headers),
                length=length,
                keeps_alive=keeps_alive,
                minor_version=minor,
            )
        )

    def write_body(self, data: bytes) -> None:
        """Write the next piece of the body that `begin_response` announced; never an empty one."""
        self.output.append(b"%x\r\n%s\r\n" % (len(data), data) if self._is_chunking else data)

    def end_response(self) -> None:
        """End the answer that `begin_response` began."""
        if self._is_chunking:
            self.output.append(b"0\r\n\r\n")
        _, keeps_alive, _ = self._unanswered.pop(0)
        self._after_response(keeps_alive=keeps_alive and not self.closes_after_response)

    def discard(self) -> None:
        """Let go of what was being received; the connection is over."""
        self.is_closing = True
        self._reset()

    def refuse(self, status: int, message: str) -> None:
        """Answer what is being received with an error and close (a timeout, a drain)."""
        if self._refusal is None and not self.is_closing:
            self._refuse(status, message)
            self._flush_refusal()

    def _after_response(self, *, keeps_alive: bool) -> None:
        if not keeps_alive:
            self._unanswered.clear()
            self.is_closing = True
        elif self._expects_continue and not self._unanswered and self._in_body:
            self._expects_continue = False
            self.output.append(_CONTINUE)
        if self._refusal is not None:
            self._flush_refusal()

    def _flush_refusal(self) -> None:
        if self._refusal is not None and not self._unanswered and not self.is_closing:
            self.output.append(
                encode_response(self._refusal, is_head=False, keeps_alive=False, minor_version=1)
            )
            self.is_closing = True

    def _refuse(self, status: int, message: str, *headers: Header) -> None:
        self._refusal = plain(status, message, *headers)

    def _refuse_head(self, size: int) -> None:
        """Refuse a head that is too large, naming the part that makes up most of it."""
        limit = self._limits.head_bytes
        if 2 * len(self._target) > size:
            self._refuse(414, f"the request target is over {limit} bytes")
        else:
            self._refuse(431, f"the request's head is over {limit} bytes")

    def _stop_after_last_request(self) -> None:
        self._has_stopped = True
        if self._unanswered:
            is_head, _, minor = self._unanswered[-1]
            self._unanswered[-1] = (is_head, False, minor)
        else:
            self.is_closing = True

    def _reset(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._target = b""
        self._headers: list[Header] = []
        self._body: bytes | bytearray = b""
        self._body_bytes = 0
        self._sink: BodySink | None = None
        self._expects_continue = False
        self._keeps_alive = True
        self._minor = 1

    # The parser's callbacks, in the order it calls them.

    def on_url(self, target: bytes) -> None:
        """Collect the request target, which may come in pieces."""
        self._target += target
        if len(self._target) > self._limits.head_bytes:
            self._refuse_head(len(self._target))
            raise _Refused

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect one header or trailer field."""
        if self._in_head:
            self._headers.append((name, value.rstrip(b" \t")))
        # A trailer may not change what the head said: it is dropped (RFC 9110, 6.5.1).

    def on_headers_complete(self) -> None:
        """Check what the parser leaves to the server."""
        minor = _SUPPORTED_MINORS.get(self._parser.get_http_version())
        if minor is None:
            self._refuse(505, "only HTTP/1.0 and HTTP/1.1 are served here")
            raise _Refused
        self._minor = minor
        self._keeps_alive = self._parser.should_keep_alive()
        if self._choose_sink is not None:
            self._sink = self._choose_sink(self._parser.get_method(), self._target)
        self._check_headers()
        self._in_head = False
        self._head_bytes = 0

    def _check_headers(self) -> None:
        hosts = 0
        host = b""
        size = len(self._target)
        length = 0
        has_coding = False
        for name, value in self._headers:
            size += len(name) + len(value) + 4
            kind = len(name)
            # By length first: this loop runs for every header of every request.
            if kind == 4 and name.lower() == b"host":
                hosts += 1
                host = value
            elif kind == 6 and name.lower() == b"expect":
                self._expects_continue = self._check_expectation(value)
            elif kind == 14 and name.lower() == b"content-length":
                length = int(value)
            elif kind == 17 and name.lower() == b"transfer-encoding":
                if has_coding or value.lower() != b"chunked":
                    self._refuse(501, "the only transfer coding is `chunked`")
                    raise _Refused
                has_coding = True
        if size > self._limits.head_bytes:
            self._refuse_head(size)
        elif has_coding and self._minor == 0:
            self._refuse(400, "HTTP/1.0 has no transfer codings")
        elif length > self._max_body_bytes:
            self._refuse(413, f"the body is over {self._max_body_bytes} bytes")
        else:
            self._check_host(hosts, host)
        if self._refusal is not None:
            raise _Refused
        if self._expects_continue and (length or has_coding) and not self._unanswered:
            self._expects_continue = False
            self.output.append(_CONTINUE)

    def _check_expectation(self, value: bytes) -> bool:
        if value.lower() != b"100-continue":
            self._refuse(417, "only `Expect: 100-continue` can be met")
            raise _Refused
        return self._minor == 1

    def _check_host(self, hosts: int, host: bytes) -> None:
        if hosts > 1 or (hosts == 0 and self._minor == 1):
            self._refuse(400, "an HTTP/1.1 request has exactly one Host header")
        elif host.translate(None, _HOST_CHARACTERS):
            self._refuse(400, "the Host header is no host name or address, with or without a port")
        elif not self._target.startswith(b"/") and not self._is_target_right(host):
            self._refuse(400, "the request target is neither a path nor this Host's")

    def _is_target_right(self, host: bytes) -> bool:
        """Check a target that is not a path: it must name the same host (RFC 9112, 3.2)."""
        method = self._parser.get_method()
        if method == b"CONNECT" or self._target == b"*":
            return method in (b"CONNECT", b"OPTIONS")
        scheme, _, rest = self._target.partition(b"://")
        authority = rest[: len(rest) - len(_after_authority(rest))]
        return scheme.lower() in (b"http", b"https") and (
            authority.lower() == host.lower() or (self._minor == 0 and not host)
        )

    def on_body(self, data: bytes) -> None:
        """Collect the body and bound it, however it is framed."""
        self._head_bytes = 0  # only chunk sizes, extensions and trailers that lead nowhere add up
        self._body_bytes += len(data)
        if self._body_bytes > self._max_body_bytes:
            self._refuse(413, f"the body is over {self._max_body_bytes} bytes")
            raise _Refused
        if self._sink is None:
            # One piece stays what it is; many tiny chunks must not cost an object each.
            if not self._body:
                self._body = data
            elif isinstance(self._body, bytes):
                self._body = bytearray(self._body + data)
            else:
                self._body += data
            return
        try:
            self._sink.write(data)
        except LimpetError as error:
            retry = [(b"Retry-After", b"1")] if error.is_retryable else []
            self._refuse(error.http_status, str(error), *retry)
            raise _Refused from error

    @property
    def _max_body_bytes(self) -> int:
        return self._sink.max_bytes if self._sink is not None else self._limits.body_bytes

    def on_message_complete(self) -> None:
        """Hand the request out and make ready for the next one."""
        target = self._target
        method = self._parser.get_method()
        path, _, query = _origin_form(target).partition(b"?")
        body = self._body
        request = Request(
            method,
            target,
            path,
            query,
            self._headers,
            body if isinstance(body, bytes) else bytes(body),
            self._minor,
            self._keeps_alive,
            self._sink,
        )
        self._latest = None if body or self._sink is not None else request
        self._count += 1
        self._reset()
        self._hand_out(request)
        if self.is_closing:
            raise _Refused  # it was answered at once, as the last one


def _origin_form(target: bytes) -> bytes:
    """Reduce absolute form (`http://host/path`) to origin form; drop a stray fragment."""
    if not target.startswith(b"/"):
        _, separator, rest = target.partition(b"://")
        if separator:
            rest = _after_authority(rest)
            target = rest if rest.startswith(b"/") else b"/" + rest
    return target.partition(b"#")[0] if b"#" in target else target


def _after_authority(rest: bytes) -> bytes:
    """Return path, query and fragment of what follows `scheme://`."""
    ends = [at for at in map(rest.find, (b"/", b"?", b"#")) if at >= 0]
    return rest[min(ends) :] if ends else b""
