"""A registry for tests on loopback, that counts what it sends and misbehaves as it is told."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import io
import json
import re
import socket
import struct
import tarfile
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
_PIECE = 16 << 10
_PATH = re.compile(r"/v2/(.+?)/(manifests|blobs|referrers)/([^/]+)")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Behaviour:
    """How it misbehaves. Budgets are in bytes of blobs' bodies; `cuts` has one for each connection to cut."""

    cuts: list[int] = field(default_factory=list)
    ignores_ranges: bool = False
    lies_about_range: bool = False
    status: int = 0
    retry_after: str = ""
    username: str = ""
    password: str = ""
    uses_tokens: bool = False
    realm: str = ""
    body: Callable[[str, bytes], bytes] | None = None
    redirects: dict[str, str] = field(default_factory=dict)
    gate: threading.Event | None = None
    gate_at: int = 0


class OciServer:
    """Put images in with `add_*`; `host` is what references begin with."""

    def __init__(self, context: ssl.SSLContext | None = None, *, port: int = 0) -> None:
        self.behaviour = Behaviour()
        self.asked: list[Asked] = []
        self.referrers: dict[str, list[object]] = {}
        self.sent_bytes = 0
        self.cut_count = 0
        self._open: list[socket.socket] = []
        self._blobs: dict[str, bytes] = {}
        self._manifests: dict[str, tuple[str, bytes]] = {}
        self._token = base64.b64encode(b"a token of the test").decode()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.close_connection = True
                with contextlib.suppress(OSError):
                    outer._answer(self)

            do_HEAD = do_GET  # noqa: N815 - the library's name
            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def finish_request(self, request: Any, client_address: Any) -> None:
                # What is on its way when a link is cut is lost: little of it, as on slow links.
                request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)
                outer._open.append(request)
                with contextlib.suppress(OSError):
                    if context is not None:
                        request = context.wrap_socket(request, server_side=True)
                    super().finish_request(request, client_address)

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.host = f"localhost:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()

    def close(self) -> None:
        """End, and let nothing more out of what is being answered."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if self.behaviour.gate is not None:
            self.behaviour.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Contents

    def add_blob(self, data: bytes) -> dict[str, object]:
        self._blobs[digest_of(data)] = data
        return {"digest": digest_of(data), "size": len(data)}

    def add_manifest(
        self, repository: str, tag: str, document: object, media_type: str = MANIFEST
    ) -> str:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        for version in (tag, digest_of(data)):
            self._manifests[f"{repository}/{version}"] = (media_type, data)
        return digest_of(data)

    def remove_manifest(self, repository: str, version: str) -> None:
        del self._manifests[f"{repository}/{version}"]

    def add_image(
        self,
        repository: str,
        tag: str,
        layers: list[tuple[str, bytes]],
        *,
        config_type: str = "application/vnd.wasm.config.v0+json",
        config: object = None,
    ) -> str:
        """An image of these (media type, content); returns its digest."""
        encoded = json.dumps({} if config is None else config).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": config_type, **self.add_blob(encoded)},
            "layers": [{"mediaType": kind, **self.add_blob(data)} for kind, data in layers],
        }
        return self.add_manifest(repository, tag, document)

    def add_container(self, repository: str, tag: str, module: bytes) -> str:
        """A compat image: the module is a file of a layer, which no manifest names."""
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w:gz") as archive:
            info = tarfile.TarInfo("app.wasm")
            info.size = len(module)
            archive.addfile(info, io.BytesIO(module))
        return self.add_image(
            repository,
            tag,
            [("application/vnd.oci.image.layer.v1.tar+gzip", made.getvalue())],
            config_type="application/vnd.oci.image.config.v1+json",
            config={"config": {"Entrypoint": ["/app.wasm"]}},
        )

    def add_module(self, repository: str, tag: str, module: bytes) -> str:
        return self.add_image(repository, tag, [("application/wasm", module)])

    def add_signature(self, repository: str, digest: str, private_key: Any) -> None:
        payload = json.dumps(
            {
                "critical": {
                    "identity": {"docker-reference": f"{self.host}/{repository}"},
                    "image": {"docker-manifest-digest": digest},
                    "type": "cosign container image signature",
                },
                "optional": None,
            }
        ).encode()
        signature = base64.b64encode(private_key.sign(payload)).decode()
        self.add_manifest(
            repository,
            f"{digest.replace(':', '-')}.sig",
            {
                "schemaVersion": 2,
                "config": {"mediaType": "application/json", **self.add_blob(b"{}")},
                "layers": [
                    {
                        "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
                        **self.add_blob(payload),
                        "annotations": {"dev.cosignproject.cosign/signature": signature},
                    }
                ],
            },
        )

    def paths(self) -> list[str]:
        return [each.path for each in self.asked]

    # Answers

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        if handler.path == "/v2/":
            self._send(handler, 200, b"{}")
            return
        self.asked.append(Asked(handler.command, handler.path, headers))
        behaviour = self.behaviour
        if handler.path in behaviour.redirects:
            self._send(handler, 307, b"", Location=behaviour.redirects[handler.path])
        elif handler.path.startswith("/token"):
            self._answer_token(handler, headers)
        elif behaviour.username and not self._is_allowed(headers):
            self._send(handler, 401, b"{}", WWW_Authenticate=self._challenge())
        elif behaviour.status:
            headers = {"Retry_After": behaviour.retry_after} if behaviour.retry_after else {}
            self._send(handler, behaviour.status, b'{"errors": [{"code": "BROKEN"}]}', **headers)
        else:
            self._answer_content(handler, headers)

    def _challenge(self) -> str:
        if not self.behaviour.uses_tokens:
            return 'Basic realm="test"'
        realm = self.behaviour.realm or f"http://{self.host}/token"
        return f'Bearer realm="{realm}",service="test",scope="repository:x:pull"'

    def _is_allowed(self, headers: dict[str, str]) -> bool:
        given = headers.get("authorization", "")
        return given == (f"Bearer {self._token}" if self.behaviour.uses_tokens else self._basic())

    def _basic(self) -> str:
        pair = f"{self.behaviour.username}:{self.behaviour.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    def _answer_token(
        self, handler: http.server.BaseHTTPRequestHandler, headers: dict[str, str]
    ) -> None:
        assert parse_qs(urlsplit(handler.path).query)["service"] == ["test"]
        if headers.get("authorization") != self._basic():
            self._send(handler, 401, b"{}")
            return
        self._send(handler, 200, json.dumps({"token": self._token}).encode())

    def _answer_content(
        self, handler: http.server.BaseHTTPRequestHandler, headers: dict[str, str]
    ) -> None:
        match = _PATH.fullmatch(urlsplit(handler.path).path)
        if match is None:
            self._send(handler, 404, b"{}")
            return
        repository, kind, version = match.groups()
        if kind == "manifests" and f"{repository}/{version}" in self._manifests:
            media_type, data = self._manifests[f"{repository}/{version}"]
            data = self._changed(handler.path, data)
            self._send(handler, 200, data, Content_Type=media_type)
        elif kind == "blobs" and version in self._blobs:
            data = self._changed(handler.path, self._blobs[version])
            self._send_blob(handler, data, headers.get("range", ""))
        elif kind == "referrers" and version in self.referrers:
            index = {"schemaVersion": 2, "manifests": self.referrers[version]}
            self._send_blob(handler, json.dumps(index).encode(), "")
        else:
            self._send(handler, 404, b'{"errors": [{"code": "NAME_UNKNOWN"}]}')

    def _changed(self, path: str, body: bytes) -> bytes:
        return body if self.behaviour.body is None else self.behaviour.body(path, body)

    def _send(
        self, handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes, **headers: str
    ) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _send_blob(
        self, handler: http.server.BaseHTTPRequestHandler, data: bytes, wanted: str
    ) -> None:
        start = 0
        if wanted and not self.behaviour.ignores_ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            handler.send_response(206)
            told = start + 1 if self.behaviour.lies_about_range else start
            handler.send_header("Content-Range", f"bytes {told}-{len(data) - 1}/{len(data)}")
        else:
            handler.send_response(200)
        body = memoryview(data)[start:]
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        budget = self.behaviour.cuts.pop(0) if self.behaviour.cuts else None
        while body:
            if budget is not None and budget <= 0:
                self._cut(handler)
                return
            gate = self.behaviour.gate
            if gate is not None and len(data) - len(body) >= self.behaviour.gate_at:
                gate.wait()
            piece = body[: _PIECE if budget is None else min(_PIECE, budget)]
            handler.wfile.write(piece)
            self.sent_bytes += len(piece)
            budget = None if budget is None else budget - len(piece)
            body = body[len(piece) :]

    def _cut(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """End the connection as a link does that goes away: nothing more comes, not even an end."""
        self.cut_count += 1
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.connection.close()
