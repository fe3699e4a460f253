"""Modules that come from elsewhere by https, from a server with a throwaway authority."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
from guests import build_guest
from running_node import RunningNode, wait_for
from workloads import http_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")


class Server:
    """A file server on loopback and the certificate of the authority that signed its own.

    `/moved` leads to another path, `/away` off TLS, `/cut.wasm` ends too soon; `asked` has every path
    that was asked for, and with `fail_with` set that status is every answer.
    """

    def __init__(self, folder: Path) -> None:
        self.authority = folder / "ca.pem"
        _make_certificates(folder)
        echo = build_guest("echo").read_bytes()
        self.digest = hashlib.sha256(echo).hexdigest()
        self.modules = {"/echo.wasm": echo, "/cut.wasm": echo, "/page.wasm": b"<html></html>"}
        self.moved = {"/moved": "/echo.wasm", "/away": "http://127.0.0.1:1/echo.wasm"}
        self.asked: list[str] = []
        self.fail_with = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        path = handler.path
        self.asked.append(path)
        body = self.modules.get(path)
        status = self.fail_with or (302 if path in self.moved else 404 if body is None else 200)
        handler.send_response(status)
        if path in self.moved:
            handler.send_header("Location", self.moved[path])
        handler.send_header("Content-Length", str(len(body or b"")))
        handler.end_headers()
        handler.wfile.write((body or b"")[: 100 if path == "/cut.wasm" else None])

    def address(self, path: str) -> str:
        return f"https://localhost:{self._server.server_address[1]}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _make_certificates(folder: Path) -> None:
    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run(
        *("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2"),
        *("-subj", "/CN=throwaway authority", "-addext", "keyUsage=critical,keyCertSign"),
    )
    run(
        *("req", "-x509", *curve, "-keyout", "server.key", "-out", "server.pem", "-days", "2"),
        *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        *("-addext", "basicConstraints=critical,CA:false", "-CA", "ca.pem", "-CAkey", "ca.key"),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.close()


@pytest.fixture
def trusting_node(make_node: Callable[..., RunningNode], server: Server) -> Iterator[RunningNode]:
    node = make_node(SSL_CERT_FILE=str(server.authority), LIMPET_NODE_BACKOFF_SECONDS="0.2")
    node.start()
    yield node
    node.stop()


def test_a_module_from_https(trusting_node: RunningNode, server: Server) -> None:
    node = trusting_node
    server.asked.clear()
    pinned = f"{server.address('/echo.wasm')}#sha256={server.digest}"
    node.apply(http_app("pinned", pinned), http_app("moved", server.address("/moved")))
    for name in ("pinned", "moved"):
        status = node.wait_ready(name)
        assert status["digest"] == f"sha256:{server.digest}"
        assert node.request(name).status == 200
    assert not [path for path in (node.data / "modules").iterdir() if path.suffix == ".part"]
    asked = len(server.asked)
    node.restart()
    node.wait_ready("pinned")
    node.wait_ready("moved")
    assert len(server.asked) == asked
    node.apply(http_app("annotated", pinned, annotations={"digest": f"sha256:{server.digest}"}))
    node.wait_ready("annotated")
    assert len(server.asked) == asked


def test_a_module_that_is_not_the_pinned_one(trusting_node: RunningNode, server: Server) -> None:
    node = trusting_node
    wrong = "0" * 64
    node.apply(http_app("wrong", f"{server.address('/echo.wasm')}#sha256={wrong}"))
    status = wait_for(
        lambda: (found := node.status("wrong"))["is_final"] and found, "the final word"
    )
    assert status["phase"] == "Pending"
    assert f"is sha256:{server.digest}, but the manifest pins sha256:{wrong}" in status["message"]
    assert list((node.data / "modules").iterdir()) == []


@pytest.mark.parametrize(
    ("path", "is_final", "words"),
    [
        ("/none.wasm", True, "404"),
        ("/away", True, "redirect away from https"),
        ("/page.wasm", True, "not a WebAssembly module but a web page"),
        ("/cut.wasm", False, "the download ended after 100 bytes"),
    ],
)
def test_a_download_that_fails(
    trusting_node: RunningNode, server: Server, path: str, is_final: bool, words: str
) -> None:
    node = trusting_node
    node.apply(http_app("failing", server.address(path)))
    status = wait_for(
        lambda: words in (found := node.status("failing"))["message"] and found, words
    )
    assert (status["phase"], status["is_final"]) == ("Pending", is_final)
    node.delete("Deployment", "failing")
    wait_for(lambda: node.is_gone("failing"), "the app's end")


def test_a_download_is_tried_again(trusting_node: RunningNode, server: Server) -> None:
    node = trusting_node
    server.fail_with = 503
    node.apply(http_app("late", server.address("/echo.wasm")))
    status = node.wait_reason("late", "FetchFailed")
    assert "the server answered 503" in status["message"]
    assert "trying again in" in status["message"]
    server.fail_with = 0
    node.wait_ready("late")


def test_an_unknown_authority_is_not_trusted(fresh_node: RunningNode, server: Server) -> None:
    fresh_node.apply(http_app("distrusted", server.address("/echo.wasm")))
    status = fresh_node.wait_reason("distrusted", "FetchFailed")
    assert "certificate verify failed" in status["message"]
    assert "trying again" in status["message"]
    assert list((fresh_node.data / "modules").iterdir()) == []
