"""The distribution project's registry, with TLS and both ways in; cosign and crane as judges."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from guests import build_guest
from running_node import RunningNode, wait_for
from workloads import http_app

import registry_peers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
Json = dict[str, Any]
USER, PASSWORD = "user", "geheim-wort"
HASHED_PASSWORD = "$2y$12$IjVfMpoCc7WEP91e5qkQteuzohgtt349EgNHo.2cucYFnwWytTj8q"  # by bcrypt
KEY_PASSWORD = "limpet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A throwaway authority, a certificate of localhost, and docker's configuration."""
    made = tmp_path_factory.mktemp("registry")

    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=made, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    run(
        *("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem"),
        *("-subj", "/CN=authority", "-addext", "keyUsage=critical,keyCertSign"),
    )
    run(
        *("req", "-x509", *curve, "-keyout", "server.key", "-out", "server.pem"),
        *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        *("-addext", "basicConstraints=critical,CA:false", "-CA", "ca.pem", "-CAkey", "ca.key"),
    )
    return made


class TokenService:
    """Issues tokens as the distribution project's specification says, signed by the server's key."""

    def __init__(self, folder: Path) -> None:
        key = load_pem_private_key((folder / "server.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        pem = (folder / "server.pem").read_text()
        self._certificate = base64.b64encode(ssl.PEM_cert_to_DER_cert(pem)).decode()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                is_good = self.headers["Authorization"] == f"Basic {expected}"
                query = parse_qs(urlsplit(self.path).query)
                body = outer.token(query["scope"]) if is_good else b"{}"
                self.send_response(200 if is_good else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.address = f"https://localhost:{self._server.server_address[1]}/token"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def token(self, scopes: list[str]) -> bytes:
        access = []
        for scope in " ".join(scopes).split():
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {
            "iss": "test", "aud": "test", "sub": USER, "access": access, "jti": os.urandom(8).hex(),
            "nbf": now - 60, "iat": now, "exp": now + 300,
        }  # fmt: skip
        header = {"alg": "ES256", "typ": "JWT", "x5c": [self._certificate]}
        text = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(SHA256())))
        signature = _base64url(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        return json.dumps({"token": f"{text}.{signature}"}).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture(scope="module", params=["htpasswd", "token"])
def registry(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """The registry's `host:port`."""
    try:
        program = registry_peers.find_registry()
    except registry_peers.NotHereError as error:
        pytest.skip(str(error))
    with contextlib.ExitStack() as stack:
        auth: Json
        if request.param == "token":
            service = TokenService(folder)
            stack.callback(service.close)
            auth = {
                "realm": service.address, "service": "test", "issuer": "test",
                "rootcertbundle": str(folder / "ca.pem"),
            }  # fmt: skip
        else:
            (folder / "htpasswd").write_text(f"{USER}:{HASHED_PASSWORD}\n")
            auth = {"realm": "test", "path": str(folder / "htpasswd")}
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        settings = {
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(folder / f"data-{request.param}")}},
            "auth": {request.param: auth},
            "http": {
                "addr": f"127.0.0.1:{port}",
                "tls": {
                    "certificate": str(folder / "server.pem"),
                    "key": str(folder / "server.key"),
                },
            },
        }
        path = folder / f"{request.param}.yml"
        path.write_text(json.dumps(settings))
        log = stack.enter_context((folder / f"{request.param}.log").open("wb"))
        process = subprocess.Popen([program, "serve", path], stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.terminate)

        def is_up() -> bool:
            assert process.poll() is None, (folder / f"{request.param}.log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return False

        wait_for(is_up, "the registry")
        host = f"localhost:{port}"
        pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": pair}}}))
        yield host


@pytest.fixture
def run(folder: Path, registry: str) -> Callable[..., str]:
    """Run a program that trusts the authority and has the credentials; its output."""
    (folder / "cosign.key").write_text(_key("cosign.key"))
    (folder / "cosign.pub").write_text(_key("cosign.pub"))
    environment = {
        **os.environ,
        "DOCKER_CONFIG": str(folder),
        "SSL_CERT_FILE": str(folder / "ca.pem"),
        "COSIGN_PASSWORD": KEY_PASSWORD,
    }

    def go(*command: object) -> str:
        done = subprocess.run(
            [str(word) for word in command], env=environment, cwd=folder, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return go


def _key(name: str) -> str:
    from pathlib import Path

    return (Path(__file__).parents[1] / "unit/signing_keys" / name).read_text()


LIMPET = (sys.executable, "-P", "-m", "limpet")


def client(name: str) -> Path:
    try:
        return registry_peers.find_client(name)
    except registry_peers.NotHereError as error:
        pytest.skip(str(error))


def test_push_and_pull(run: Callable[..., str], registry: str, folder: Path) -> None:
    echo = build_guest("echo")
    image = f"{registry}/acme/round:1"
    told = json.loads(run(*LIMPET, "push", echo, image, "--annotation", "a=b", "--json"))
    again = json.loads(run(*LIMPET, "push", echo, image, "--annotation", "a=b", "--json"))
    assert told == again
    assert told["module"] == f"sha256:{hashlib.sha256(echo.read_bytes()).hexdigest()}"
    got = folder / "got.wasm"
    run(*LIMPET, "pull", told["reference"], "-o", got)
    assert got.read_bytes() == echo.read_bytes()
    assert not list(folder.glob(".got.wasm*"))


def test_a_node_runs_what_was_pushed_and_signed(
    run: Callable[..., str],
    registry: str,
    folder: Path,
    make_node: Callable[..., RunningNode],
) -> None:
    image = f"{registry}/acme/signed:1"
    run(*LIMPET, "push", build_guest("echo"), image, "--sign", "cosign.key")
    node = make_node(
        LIMPET_REGISTRY_CA_FILE=str(folder / "ca.pem"),
        LIMPET_REGISTRY_CREDENTIALS_FILE=str(folder / "config.json"),
        LIMPET_REGISTRY_POLICY=f"{registry}={folder / 'cosign.pub'}",
    )
    node.start()
    node.apply(http_app("app", f"oci://{image}"))
    node.wait_ready("app")
    assert node.request("app").status == 200
    node.stop()


def test_cosign_accepts_our_signature_and_a_node_cosigns(
    run: Callable[..., str],
    registry: str,
    folder: Path,
    make_node: Callable[..., RunningNode],
) -> None:
    cosign = client("cosign")
    ours, theirs = f"{registry}/acme/ours:1", f"{registry}/acme/theirs:1"
    told = json.loads(
        run(*LIMPET, "push", build_guest("echo"), ours, "--sign", "cosign.key", "--json")
    )
    verified = run(cosign, "verify", "--key", "cosign.pub", "--insecure-ignore-tlog=true", ours)
    assert told["digest"] in verified
    pushed = json.loads(run(*LIMPET, "push", build_guest("echo"), theirs, "--json"))
    run(
        cosign, "sign", "--yes", "--key", "cosign.key", "--tlog-upload=false", pushed["reference"]
    )  # fmt: skip
    node = make_node(
        LIMPET_REGISTRY_CA_FILE=str(folder / "ca.pem"),
        LIMPET_REGISTRY_CREDENTIALS_FILE=str(folder / "config.json"),
        LIMPET_REGISTRY_POLICY=f"*={folder / 'cosign.pub'}",
    )
    node.start()
    node.apply(http_app("app", f"oci://{theirs}"))
    node.wait_ready("app")
    node.stop()


def test_crane_reads_what_was_pushed(run: Callable[..., str], registry: str) -> None:
    crane = client("crane")
    image = f"{registry}/acme/crane:1"
    told = json.loads(run(*LIMPET, "push", build_guest("echo"), image, "--json"))
    assert run(crane, "digest", image).strip() == told["digest"]
    manifest = json.loads(run(crane, "manifest", image))
    assert manifest["layers"][0]["digest"] == told["module"]
    run(crane, "copy", image, f"{registry}/acme/copied:2")
    assert run(*LIMPET, "pull", f"{registry}/acme/copied:2", "-o", "copied.wasm")


def test_crane_reads_a_bundle(run: Callable[..., str], registry: str, folder: Path) -> None:
    crane = client("crane")
    echo = build_guest("echo")
    shop = folder / "shop"
    shop.mkdir(exist_ok=True)
    shutil.copyfile(echo, shop / "echo.wasm")
    (shop / "app.yaml").write_text(json.dumps(http_app("hello", "echo")))
    bundle = folder / "shop.bundle"
    bundle.unlink(missing_ok=True)
    run(*LIMPET, "bundle", "create", "-f", shop, "-o", bundle, "--socket", folder / "no-node")
    told = json.loads(run(*LIMPET, "bundle", "inspect", bundle, "-o", "json"))
    layout = folder / "layout"
    shutil.rmtree(layout, ignore_errors=True)
    with tarfile.open(bundle) as archive:
        # CPython 3.11 before its patch 4 has no filters, and the bundle is our own.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(layout)
    image = f"{registry}/acme/bundle:1"
    run(crane, "push", layout, image)  # it checks each digest, and the registry does
    manifest = json.loads(run(crane, "manifest", image))
    assert manifest["artifactType"] == "application/vnd.limpet.bundle.v1"
    [module] = [each for each in manifest["layers"] if each["mediaType"] == "application/wasm"]
    assert module["digest"] == told["modules"][0]["digest"]
    blob = subprocess.run(
        [crane, "blob", f"{registry}/acme/bundle@{module['digest']}"],
        env={**os.environ, "DOCKER_CONFIG": str(folder), "SSL_CERT_FILE": str(folder / "ca.pem")},
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    assert blob.stdout == echo.read_bytes()
