"""HTTP with strangers: verified TLS, redirects that lose credentials, a pace, and bounds on everything.

`http.client` speaks the protocol; what it leaves open is here. Plain http is for loopback alone. A redirect
is followed to https, or within loopback's http, and credentials never leave the host they are for.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import ssl
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Self
from urllib.parse import urljoin, urlsplit

from limpet import __version__
from limpet.registry.errors import FetchError, FetchFailedError, UnendedError
from limpet.registry.pace import Pace, Rates, stalled
from limpet.registry.proxy import environment_proxy, is_excepted, parse_proxy
from limpet.registry.reference import is_loopback
from limpet.registry.times import explain_clock, parse_retry_after

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping

_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_ERROR_BYTES = 4096
_ERROR_CODE = re.compile(r"[A-Z_]{1,40}")
_REFUSED_TUNNEL = re.compile(r"Tunnel connection failed: (\d+).*", re.DOTALL)
_PERHAPS_LATER = frozenset({408, 421, 425, 429})
_TELLING_WHEN = frozenset({429, 503})


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """How to reach others: whom to trust, how fast, and by which proxy (`limpet.registry.proxy`)."""

    trust: ssl.SSLContext
    rates: Rates = field(default_factory=Rates)
    proxy: str = field(default="", repr=False)
    no_proxy: tuple[str, ...] = ()


class Response:
    """An answer whose head has come; `pieces` gives its body. Close it.

    `url` is who answered, after all redirects, without the query.
    """

    def __init__(
        self, url: str, answer: http.client.HTTPResponse, connection: http.client.HTTPConnection
    ) -> None:
        self.url = url
        self.status = answer.status
        self._answer = answer
        self._connection = connection

    def header(self, name: str) -> str:
        """A header's value, several joined by commas; empty when it is not there."""
        return ", ".join(self._answer.headers.get_all(name) or ())

    @property
    def length(self) -> int | None:
        """The body's announced length in bytes."""
        text = self.header("Content-Length")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes. Raises `FetchFailedError` when it breaks off before its end, `UnendedError`
        when whether it did can't be known (RFC 9112, section 9.8: without a length, TLS has to close).
        """
        count = 0
        try:
            while data := self._answer.read1(64 << 10):
                count += len(data)
                yield data
        except http.client.IncompleteRead as error:
            raise FetchFailedError(f"{self.url}: the download ended after {count} bytes") from error
        except ssl.SSLError as error:
            if not _is_cut(error):
                raise _failure(self.url, error) from error
            text = f"{self.url}: the download ended after {count} bytes"
            if self._answer.length is not None or self._answer.chunked:
                raise FetchFailedError(text) from error
            raise UnendedError(
                f"{text}, and nothing says that this is all: the server should send a length, or pin the "
                "module by its digest (https://...#sha256=...)"
            ) from error
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise _failure(self.url, error) from error
        if self._answer.length:
            raise FetchFailedError(f"{self.url}: the download ended after {count} bytes")

    def body(self, most_bytes: int) -> bytes:
        """All of the body. Raises `FetchError` when it is larger."""
        pieces, size = [], 0
        for piece in self.pieces():
            pieces.append(piece)
            size += len(piece)
            if size > most_bytes:
                raise FetchError(f"{self.url}: the answer is over {most_bytes} bytes")
        return b"".join(pieces)

    def excerpt(self) -> bytes:
        """The beginning of an error's body; empty when it does not come."""
        try:
            return self._answer.read(_MOST_ERROR_BYTES)
        except (http.client.HTTPException, OSError, ValueError):
            return b""

    def close(self) -> None:
        """Give the connection up."""
        self._answer.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def request(
    line: Line,
    method: str,
    url: str,
    headers: Mapping[str, str],
    *,
    body: IO[bytes] | io.BufferedIOBase | bytes | None = None,
) -> Response:
    """Ask, following redirects of GET and HEAD. The answer may have any status.

    Raises `FetchError` for addresses that may not be asked, `FetchFailedError` for what may pass.
    """
    sent = dict(headers)
    for _ in range(_MOST_REDIRECTS + 1):
        response = _ask(line, method, url, sent, body)
        location = response.header("Location")
        if response.status not in _REDIRECTS or method not in ("GET", "HEAD") or not location:
            return response
        response.close()
        target = resolve(url, location)
        if not is_same_host(url, target):
            sent.pop("Authorization", None)
        url = target
    raise FetchError(f"{shown_url(url)}: more than {_MOST_REDIRECTS} redirects")


def resolve(url: str, location: str) -> str:
    """The address that a Location header means. Raises `FetchError` when it leads off TLS."""
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        is_local = is_loopback(parts.netloc) and urlsplit(url).scheme == "http"
        is_good = parts.scheme == "https" or (parts.scheme == "http" and is_local)
    except ValueError as error:
        raise FetchError(f"{shown_url(url)}: a redirect to no address") from error
    if not is_good or "@" in parts.netloc:
        raise FetchError(f"{shown_url(url)}: a redirect away from https, to {shown_url(target)}")
    return target


def is_same_host(one: str, other: str) -> bool:
    """Whether credentials for one address may be sent to the other: same scheme, host and port."""
    first, second = urlsplit(one), urlsplit(other)
    return (first.scheme, first.netloc.lower()) == (second.scheme, second.netloc.lower())


def shown_url(url: str) -> str:
    """An address for messages: its query may be a signature that opens what it points at."""
    return url.partition("?")[0][:300]


def failed(response: Response, what: str) -> Exception:
    """The error for an answer's status: for good, or for now."""
    text = f"{what}: the server answered {response.status}{_reason(response)}"
    if response.status >= 500 or response.status in _PERHAPS_LATER:
        pause = 0.0
        if response.status in _TELLING_WHEN:
            pause = parse_retry_after(response.header("Retry-After"), response.header("Date"))
        return FetchFailedError(text, retry_after_seconds=pause)
    return FetchError(text)


def _reason(response: Response) -> str:
    """The registry's word for it (distribution specification, error codes). Its sentences may echo what
    it was sent, and are left out.
    """
    try:
        code = json.loads(response.excerpt().decode("utf-8"))["errors"][0]["code"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return ""
    return f" ({code})" if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else ""


def _ask(
    line: Line,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: IO[bytes] | io.BufferedIOBase | bytes | None,
) -> Response:
    connection = _connection(line, url)
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        all_headers = {
            "User-Agent": f"limpet/{__version__}",
            "Connection": "close",
            "Accept-Encoding": "identity",
            **headers,
        }
        connection.request(method, path, body=body, headers=all_headers)
        return Response(shown_url(url), connection.getresponse(), connection)
    except (http.client.InvalidURL, UnicodeError) as error:
        connection.close()
        raise FetchError(f"{shown_url(url)}: not an address that can be asked: {error}") from error
    except (
        http.client.HTTPException,
        OSError,
    ) as error:  # a certificate's error is a ValueError too
        connection.close()
        raise _failure(shown_url(url), error) from error
    except ValueError as error:
        connection.close()
        raise FetchError(f"{shown_url(url)}: not an address that can be asked: {error}") from error
    except BaseException:
        connection.close()
        raise


def _connection(line: Line, url: str) -> http.client.HTTPConnection:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise FetchError(f"{shown_url(url)}: not an address that can be asked: {error}") from error
    pace = Pace(line.rates)
    timeout = line.rates.window_seconds
    if parts.scheme == "http" and is_loopback(parts.netloc):
        return _Plain(pace, host, port, timeout=timeout)
    if parts.scheme != "https" or not host:
        raise FetchError(f"{shown_url(url)}: not an https:// address")
    if not line.proxy or is_excepted(host, line.no_proxy) or is_loopback(parts.netloc):
        return _Secure(pace, host, port, timeout=timeout, context=line.trust)
    proxy = parse_proxy(line.proxy)
    secure = _Secure(pace, proxy.host, proxy.port, timeout=timeout, context=line.trust)
    secure.set_tunnel(host, port, headers=dict(proxy.headers))
    return secure


def _is_cut(error: Exception) -> bool:
    """Whether a connection ended without TLS's word; CPython 3.11.2 has no class for that."""
    reason = error.reason if isinstance(error, ssl.SSLError) else ""
    return isinstance(error, ssl.SSLEOFError) or reason == "UNEXPECTED_EOF_WHILE_READING"


def _failure(url: str, error: Exception) -> FetchFailedError:
    if isinstance(error, TimeoutError):
        return FetchFailedError(f"{url}: no answer in time")
    if _is_cut(error):
        return FetchFailedError(f"{url}: the connection ended before an answer came")
    # A proxy may repeat what it was sent.
    reason = _REFUSED_TUNNEL.sub(r"the proxy answered \1", str(error)) or type(error).__name__
    text = f"{url}: {reason}"[:500]
    return FetchFailedError(f"{text}{explain_clock(error)}")


class _Paced(io.RawIOBase):
    """What comes from a socket, at a pace."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as in io
        return self._wire.receive(memoryview(buffer).cast("B"))

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._wire.release()


class _Wire:
    """A connected socket as `http.client` uses one: closed while its answer is still read."""

    def __init__(self, connected: socket.socket, pace: Pace) -> None:
        self._socket = connected
        self._pace = pace
        self._readers = 0
        self._is_closed = False

    def makefile(self, _mode: str) -> io.BufferedReader:
        self._readers += 1
        return io.BufferedReader(_Paced(self), 8192)

    def release(self) -> None:
        self._readers -= 1
        if self._is_closed and not self._readers:
            self._socket.close()

    def receive(self, view: memoryview) -> int:
        patience = self._pace.patience()
        self._socket.settimeout(patience)
        begin = time.monotonic()
        try:
            count = self._socket.recv_into(view[: self._pace.most_at_once])
        except TimeoutError as error:
            raise stalled(0, patience) from error
        if count:
            self._pace.note(count, time.monotonic() - begin)
        return count

    def sendall(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        while view:
            piece = view[: self._pace.most_at_once]
            patience = self._pace.patience()
            self._socket.settimeout(patience)
            begin = time.monotonic()
            try:
                count = self._socket.send(piece)
            except TimeoutError as error:
                raise stalled(0, patience) from error
            self._pace.note(count, time.monotonic() - begin)
            view = view[count:]

    def close(self) -> None:
        self._is_closed = True
        if not self._readers:
            self._socket.close()


class _Plain(http.client.HTTPConnection):
    def __init__(self, pace: Pace, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        self._pace = pace

    def connect(self) -> None:
        super().connect()
        self.sock = _Wire(self.sock, self._pace)


class _Secure(http.client.HTTPSConnection):
    def __init__(self, pace: Pace, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        self._pace = pace

    def connect(self) -> None:
        super().connect()
        # A cut is no end. (An attribute that the stubs don't know.)
        self.sock.suppress_ragged_eofs = False  # type: ignore[union-attr]
        self.sock = _Wire(self.sock, self._pace)


def make_trust() -> ssl.SSLContext:
    """The system's certificates, or `SSL_CERT_FILE`'s. A connection that is cut has no end."""
    trust = ssl.create_default_context()
    trust.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # CPython 3.11.2 sets it
    return trust


def trust_also(trust: ssl.SSLContext, authority: str) -> ssl.SSLContext:
    """Trust the certificates of a PEM text too. Raises `FetchError` when it has none."""
    if authority:
        try:
            trust.load_verify_locations(cadata=authority)
        except (ssl.SSLError, ValueError) as error:
            raise FetchError("registry.ca_file has no certificate in PEM format") from error
    return trust


def own_proxy() -> tuple[str, tuple[str, ...]]:
    """The proxy that this process's environment names."""
    return environment_proxy(os.environ)
