"""The CGI convention between an HTTP request and a module (RFC 3875, as WAGI applies it).

The request goes into the environment and standard input, headers and body come back on standard
output. Both directions cross a trust boundary: clients choose header names, guests choose header lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from limpet import __version__
from limpet.errors import LimpetError
from limpet.http1.message import Header, Request, Response, encode_lines
from limpet.wasi.strings import Strings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CONTROLS = bytes(range(9)) + bytes(range(10, 32)) + b"\x7f"
# Framing is the platform's, hop-by-hop headers are not a handler's to send (RFC 9110, 7.6.1).
_DROPPED_FROM_GUEST = frozenset(
    [
        b"connection",
        b"content-length",
        b"date",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    ]
)
_MAX_CACHED = 256
_MAX_CACHED_BYTES = 512
_Head = tuple[int, list[Header], bytes]


class CgiError(LimpetError):
    """A handler's output is not a CGI response."""

    http_status = 500
    reason = "InvalidResponse"


class RequestError(LimpetError):
    """A request that can't be expressed in an environment."""

    http_status = 400
    reason = "InvalidRequest"


class EnvironmentBuilder:
    """Builds a request's environment; what stays the same for an app is prepared once.

    `prefix` is the path the app answers under, without a trailing slash (empty for all paths).
    """

    def __init__(
        self,
        *,
        prefix: bytes,
        variables: Sequence[bytes],
        passes_authorization: bool,
    ) -> None:
        self._prefix = prefix
        self._fixed = [
            *variables,
            b"GATEWAY_INTERFACE=CGI/1.1",
            b"SERVER_SOFTWARE=limpet/" + __version__.encode(),
            b"SCRIPT_NAME=" + prefix,
            b"X_MATCHED_ROUTE=" + (prefix or b"") + b"/...",
            b"AUTH_TYPE=",
            b"REMOTE_USER=",
        ]
        # `Proxy` would become HTTP_PROXY, which programs take for a setting (CVE-2016-5385);
        # credentials go to handlers only on request (RFC 3875, 4.1.18).
        self._names: dict[bytes, bytes | None] = {b"proxy": None, b"connection": None}
        if not passes_authorization:
            self._names[b"authorization"] = None
        self._hidden = frozenset(self._names)

    def build(self, request: Request, *, peer: bytes, port: bytes) -> Strings:
        """Return `NAME=value` items. Raises `RequestError` for a path that no string can hold."""
        fields = self._header_fields(request.headers)
        host = fields.get(b"HTTP_HOST=", b"")
        raw_path = request.path[len(self._prefix) :]
        path = _decode_path(raw_path)
        env = [
            *self._fixed,
            b"SERVER_PROTOCOL=HTTP/1.%d" % request.minor_version,
            b"SERVER_NAME=" + (host.rpartition(b":")[0] or host if host[-1:] != b"]" else host),
            b"SERVER_PORT=" + port,
            b"REQUEST_METHOD=" + request.method,
            b"PATH_INFO=" + path,
            b"PATH_TRANSLATED=" + path,
            b"X_RAW_PATH_INFO=" + raw_path,
            b"QUERY_STRING=" + request.query,
            b"X_FULL_URL=http://" + host + request.target
            if request.target.startswith(b"/")
            else b"X_FULL_URL=" + request.target,
            b"REMOTE_ADDR=" + peer,
            b"REMOTE_HOST=" + peer,
        ]
        if request.body:
            env.append(b"CONTENT_LENGTH=%d" % len(request.body))
        env += [name + value for name, value in fields.items()]
        return Strings(env)

    def _header_fields(self, headers: Sequence[Header]) -> Mapping[bytes, bytes]:
        fields: dict[bytes, bytes] = {}
        names = self._names
        for raw, value in headers:
            try:
                name = names[raw]
            except KeyError:
                name = self._learn_name(raw)
            if name is None:
                continue
            text = value if value.isascii() else _as_utf8(value)
            if name in fields:
                separator = b"; " if name == b"HTTP_COOKIE=" else b", "
                fields[name] = fields[name] + separator + text
            else:
                fields[name] = text
        return fields

    def _learn_name(self, raw: bytes) -> bytes | None:
        lower = raw.lower()
        name: bytes | None
        if lower in self._hidden or b"_" in raw:
            name = None  # `A_B` and `A-B` would be the same variable: only one spelling is let in
        elif lower == b"content-type":
            name = b"CONTENT_TYPE="
        elif lower == b"content-length":
            name = None  # the length that was received counts, not the one that was announced
        else:
            name = b"HTTP_" + raw.upper().replace(b"-", b"_") + b"="
        if len(self._names) < _MAX_CACHED and len(raw) < 64:
            self._names[raw] = name
        return name


class ResponseParser:
    """Reads handlers' output; a head that an app repeats is checked and encoded once."""

    def __init__(self) -> None:
        self._heads: dict[bytes, _Head] = {}

    def parse(self, output: bytes) -> Response:
        """Return the response. Raises `CgiError` saying what is wrong with the output."""
        end = output.find(b"\n\n")
        if end >= 0 and b"\r" not in output[:end]:
            text, body = output[:end], output[end + 2 :]
        else:
            text, body = _split(output)
        head = self._heads.get(text)
        if head is None:
            head = _parse_head(text)
            if len(self._heads) < _MAX_CACHED and len(text) < _MAX_CACHED_BYTES:
                self._heads[text] = head
        status, headers, lines = head
        return Response(status, headers, body, lines)


def _parse_head(text: bytes) -> _Head:
    status = 0
    location = False
    headers: list[Header] = []
    for line in text.split(b"\n"):
        header = _parse_line(line)
        key = header[0].lower()
        if key == b"status":
            status = _parse_status(header[1])
        elif key not in _DROPPED_FROM_GUEST:
            headers.append(header)
            location = location or key == b"location"
    if not status:
        status = 302 if location else 200
    return status, headers, encode_lines(status, headers)


def _parse_line(line: bytes) -> Header:
    name, separator, value = line.rstrip(b"\r").partition(b":")
    value = value.strip(b" \t")
    if not separator or not name or name.translate(None, _TOKEN):
        raise CgiError(
            f"the handler's output has no valid header block: {line[:60]!r} is not `Name: value`"
        )
    if value.translate(None, _CONTROLS) != value:
        raise CgiError(f"the handler's header {name[:60]!r} has control characters in its value")
    return name, value


def _split(output: bytes) -> tuple[bytes, bytes]:
    bare = output.find(b"\n\n")
    crlf = output.find(b"\n\r\n")
    if bare < 0 and crlf < 0:
        if not output:
            raise CgiError(
                "the handler printed nothing; print `Content-Type: ...`, an empty line, then the body"
            )
        raise CgiError(
            "the handler's output has no empty line between headers and body; "
            "print `Content-Type: ...`, an empty line, then the body"
        )
    if crlf < 0 or 0 <= bare < crlf:
        end, skip = bare, 2
    else:
        end, skip = crlf, 3
    return output[:end], output[end + skip :]


def _parse_status(value: bytes) -> int:
    code = value[:3]
    if not code.isdigit() or value[3:4] not in (b"", b" ") or not 200 <= int(code) <= 599:
        raise CgiError(f"the handler's `Status: {value[:40].decode('latin-1')}` is not 200 to 599")
    return int(code)


def _decode_path(raw: bytes) -> bytes:
    if b"%" not in raw and raw.isascii():
        return raw
    path = unquote_to_bytes(raw)
    if b"\0" in path:
        raise RequestError("the path has a NUL character")
    return path if path.isascii() else _as_utf8(path)


def _as_utf8(value: bytes) -> bytes:
    """Keep UTF-8; take anything else for latin-1, so that guests always see valid strings."""
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1").encode("utf-8")
    return value
