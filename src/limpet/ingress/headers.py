"""What a proxy changes in a request and a response (RFC 9110, 7.6; RFC 9112). Pure.

Framing is never passed on: it is taken off on one side and written anew on the other, so that both
sides can't disagree on where a message ends.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limpet.http1.message import Header, Request

_HOP_BY_HOP = frozenset(
    [
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    ]
)
_NOT_REQUESTED = _HOP_BY_HOP | {
    b"content-length",
    b"expect",
    b"host",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
}
_NOT_ANSWERED = _HOP_BY_HOP | {b"content-length", b"date"}
_METHODS_WITH_BODY = frozenset([b"PATCH", b"POST", b"PUT"])


def read_authority(request: Request) -> bytes:
    """Return the host, and port if given, that a request is for; empty when it names none.

    `HttpConnection` has checked it, and that a target in absolute form names the same one. An
    HTTP/1.0 request may have only the latter.
    """
    host = request.header(b"host")
    if host is None and not request.target.startswith(b"/"):
        rest = request.target.partition(b"://")[2]
        return re.split(rb"[/?#]", rest, maxsplit=1)[0]
    return host or b""


def encode_request(request: Request, *, authority: bytes, peer: bytes, length: int) -> bytes:
    """Encode the request's head for the app; `length` bytes of body follow it."""
    target = b"%s?%s" % (request.path, request.query) if request.query else request.path
    lines = [b"%s %s HTTP/1.1\r\nHost: %s\r\n" % (request.method, target, authority)]
    peers = []
    dropped = _dropped(_NOT_REQUESTED, request.headers)
    for name, value in request.headers:
        lower = name.lower()
        if lower not in dropped:
            lines.append(b"%s: %s\r\n" % (name, value))
        elif lower == b"x-forwarded-for" and value:
            peers.append(value)
    peers.append(peer)
    lines.append(
        b"X-Forwarded-For: %s\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: %s\r\n"
        % (b", ".join(peers), authority)
    )
    if length or request.method in _METHODS_WITH_BODY:
        lines.append(b"Content-Length: %d\r\n" % length)
    lines.append(b"\r\n")
    return b"".join(lines)


def end_to_end(headers: Iterable[Header]) -> list[Header]:
    """Return the headers of an app's response that the client gets."""
    headers = list(headers)
    dropped = _dropped(_NOT_ANSWERED, headers)
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def _dropped(always: frozenset[bytes], headers: Iterable[Header]) -> frozenset[bytes]:
    """Return what is not passed on: `always`, and what Connection names (RFC 9110, 7.6.1)."""
    named = [
        option.strip().lower()
        for name, value in headers
        if len(name) == 10 and name.lower() == b"connection"
        for option in value.split(b",")
    ]
    return always.union(named) if named else always
