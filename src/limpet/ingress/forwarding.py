"""One request on its way to an app, and its response on the way back.

The response is passed on as it comes; while the client does not read, neither does the router. A
client that leaves ends the request; its end of input counts as leaving, as with other proxies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from limpet.http1.message import plain
from limpet.ingress.bodies import Body
from limpet.ingress.headers import encode_request
from limpet.ingress.responses import BadResponseError, ResponseReader

if TYPE_CHECKING:
    from limpet.http1.message import Request
    from limpet.ingress.table import Address
    from limpet.ingress.upstream import Pool, Upstream
    from limpet.trigger.server import Connection

# RFC 9110, 9.2.2.
_IDEMPOTENT = frozenset([b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PUT"])
_TEXTS = {
    502: "the app did not answer properly",
    503: "the router is too busy; try again",
    504: "the app did not answer in time",
}


class Router(Protocol):
    """What a forwarding needs of its surroundings."""

    pool: Pool

    def on_end(self, forwarding: Forwarding) -> None:
        """Forget a forwarding that is over."""

    def log(self, line: str) -> None:
        """Tell the operator why a request failed."""


class Forwarding:
    """One exchange between a client and an app."""

    __slots__ = (
        "_address",
        "_authority",
        "_client",
        "_has_begun",
        "_has_heard",
        "_is_over",
        "_patience_seconds",
        "_reader",
        "_request",
        "_router",
        "_upstream",
    )

    def __init__(
        self,
        router: Router,
        client: Connection,
        request: Request,
        *,
        authority: bytes,
        address: Address,
        patience_seconds: float,
    ) -> None:
        self._router = router
        self._client = client
        self._request = request
        self._authority = authority
        self._address = address
        self._patience_seconds = patience_seconds
        self._reader = ResponseReader(is_head=request.method == b"HEAD")
        self._upstream: Upstream | None = None
        self._has_heard = False
        self._has_begun = False
        self._is_over = False

    def start(self) -> None:
        """Send the request, over a connection that is there or a new one."""
        self._client.watcher = self
        self._send(is_retry=False)

    def _send(self, *, is_retry: bool) -> None:
        pool = self._router.pool
        try:
            upstream = pool.connect(self._address) if is_retry else pool.take(self._address)
        except ConnectionRefusedError as error:
            self._fail(502, str(error))
            return
        except OSError as error:
            self._fail(503, str(error))
            return
        self._upstream = upstream
        sink = self._request.sink
        body = sink.data if isinstance(sink, Body) else self._request.body
        head = encode_request(
            self._request, authority=self._authority, peer=self._client.peer, length=len(body)
        )
        upstream.send(self, [head, body])

    def on_data(self, data: bytes) -> None:
        """Take bytes from the app and pass on what they complete."""
        self._has_heard = True
        try:
            self._reader.feed(data)
        except BadResponseError as error:
            self._fail(502, str(error))
            return
        self._pass_on()

    def on_end(self, reason: str) -> None:
        """The app has closed the connection: a response's end, a stale connection, or a failure."""
        upstream = self._upstream
        assert upstream is not None, "only a connection that is there can end"
        if not self._has_heard:
            # A kept connection may close while the request is on its way. Nothing was answered, so
            # asking again is right wherever asking twice does no harm (RFC 9112, 9.3.1).
            if upstream.requests > 1 and self._request.method in _IDEMPOTENT:
                self._send(is_retry=True)
            else:
                self._fail(502, reason)
            return
        try:
            self._reader.feed_end()
        except BadResponseError as error:
            self._fail(502, str(error))
            return
        self._pass_on()

    def _pass_on(self) -> None:
        reader = self._reader
        head = reader.head
        if head is None:
            return
        client = self._client
        if not self._has_begun:
            self._has_begun = True
            client.begin_response(head.status, head.headers, head.length)
        if reader.body:
            client.write_body(reader.body[0] if len(reader.body) == 1 else b"".join(reader.body))
            reader.body = []
        if reader.is_complete:
            self._finish()
        elif not client.flush() and not self._is_over and self._upstream is not None:
            self._upstream.pause()

    def _finish(self) -> None:
        upstream = self._upstream
        if upstream is not None and self._reader.is_reusable and upstream.has_sent_all:
            self._upstream = None
            self._router.pool.give(upstream)
        self._end()
        self._client.end_response()
        self._client.resume()

    def _fail(self, status: int, reason: str) -> None:
        host, port = self._address
        text = self._authority.decode("latin-1")
        self._router.log(f"request for {text[:255]!r} to {host}:{port} failed: {status}: {reason}")
        self._end()
        client = self._client
        client.watcher = None
        if self._has_begun:
            client.abort()
            return
        headers = [(b"Retry-After", b"1")] if status == 503 else []
        client.respond(plain(status, _TEXTS[status], *headers))
        client.resume()

    def _end(self) -> None:
        self._is_over = True
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None
        self._router.on_end(self)

    def on_writable(self) -> None:
        """The client has caught up."""
        if self._upstream is not None:
            self._upstream.resume()

    def on_gone(self) -> None:
        """The client has left."""
        self._end()

    def check_time(self, now: float) -> None:
        """Give up an app that has been silent for too long; a slow client is not its fault."""
        upstream = self._upstream
        if upstream is None or upstream.is_paused:
            return
        if now - upstream.active_at > self._patience_seconds:
            self._fail(504, "silence")
