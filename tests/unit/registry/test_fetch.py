import base64
import contextlib
import hashlib
import http.server
import os
import socket
import socketserver
import ssl
import subprocess
import threading

import pytest

from limpet.errors import LimpetError
from limpet.registry.errors import FetchError, FetchFailedError
from limpet.registry.exchange import Line, make_trust
from limpet.registry.fetch import equip, fetch_module
from limpet.registry.sink import Sink
from limpet.worker.channel import Channel
from limpet.worker.config import FetchConfig
from limpet.worker.messages import Failed, Fetched, Fetching
from oci_server import OciServer

MODULE = b"\0asm\1\0\0\0" + bytes(range(256)) * 1000
DIGEST = f"sha256:{hashlib.sha256(MODULE).hexdigest()}"
OTHER = "sha256:" + "b" * 64


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the module, whole and in every broken way."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        self.close_connection = True
        name, _, rest = self.path[1:].partition("/")
        getattr(self, f"do_{name}")(rest)

    def head(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Connection", "close")
        self.end_headers()

    def do_module(self, _):
        self.head(200, Content_Length=str(len(MODULE)))
        self.wfile.write(MODULE)

    def do_chunked(self, _):
        self.head(200, Transfer_Encoding="chunked")
        for at in range(0, len(MODULE), 10_000):
            piece = MODULE[at : at + 10_000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def do_status(self, status):
        self.head(int(status), Content_Length="2")
        self.wfile.write(b"no")

    def do_to(self, location):
        self.head(302, Location=location.replace("PORT", str(self.server.server_port)))

    def do_circle(self, _):
        self.do_to(self.path)

    def do_truncated(self, _):
        self.head(200, Content_Length=str(len(MODULE)))
        self.wfile.write(MODULE[:-1])

    def do_halfchunk(self, _):
        self.head(200, Transfer_Encoding="chunked")
        self.wfile.write(b"1000\r\nabc")

    def do_until_close(self, rest):
        """As HTTP/1.0: the connection's end is the body's, properly said or as of a cut link."""
        self.head(200)
        self.wfile.write(MODULE if rest.endswith("whole") else MODULE[:-1])
        if rest.startswith("said"):
            self.wfile.flush()
            self.connection.unwrap()

    def do_endless(self, _):
        self.head(200)
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x" * 65536)

    def do_nothing(self, _):
        pass

    def do_garbage(self, _):
        self.wfile.write(b"\0\1\2 not http at all\r\n\r\n")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    """Ends every connection before it ends itself."""

    daemon_threads = False

    def __init__(self, context):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self._context = context

    def finish_request(self, request, client_address):
        # The handshake belongs to the connection's thread, and a client may give it up.
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(request, server_side=True) as secure,
        ):
            super().finish_request(secure, client_address)


def run(*command, folder):
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A throwaway authority, and a certificate of its own for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name in ("ca", "stranger"):
        run(
            "openssl", "req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem",
            "-days", "2", "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign",
            folder=folder,
        )  # fmt: skip
    run(
        "openssl", "req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server",
        folder=folder,
    )  # fmt: skip
    (folder / "names").write_text(
        "subjectAltName=IP:127.0.0.1,DNS:proxied.example\n"
        "keyUsage=critical,digitalSignature\n"
        "subjectKeyIdentifier=hash\n"
        "authorityKeyIdentifier=keyid\n"
    )
    run(
        "openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
        "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "server.pem", folder=folder,
    )  # fmt: skip
    return folder


@pytest.fixture
def server(certificates, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    with Server(context) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch(server, tmp_path):
    """Fetch a path of the server: the answer and what was written."""

    def run_fetch(
        path="", *, digest=None, max_bytes=1 << 20, scheme="https", location=None, **known
    ):
        ours, theirs = Channel.pair()
        location = location or f"https://127.0.0.1:{server.server_port}/{path}"
        config = FetchConfig(
            scheme=scheme,
            location=location,
            digest=digest,
            max_bytes=max_bytes,
            attempts=1,
            **known,
        )
        with contextlib.ExitStack() as stack:
            files = [
                stack.enter_context(open(tmp_path / name, "w+b")).fileno()
                for name in ("module", "notes", "extracted", "evidence")
            ]
            code = fetch_module(theirs, config, files, equip())
            written = b"".join((tmp_path / name).read_bytes() for name in ("module", "extracted"))
        while True:
            answer, descriptors = ours.receive()
            assert descriptors == []
            if not isinstance(answer, Fetching):
                break
        assert code == (0 if isinstance(answer, Fetched) else 1)
        ours.close()
        theirs.close()
        return answer, written

    return run_fetch


@pytest.mark.parametrize("path", ["module", "chunked", "to//module", "to//to//chunked"])
@pytest.mark.parametrize("digest", [None, DIGEST])
def test_a_module_is_fetched_and_hashed(fetch, path, digest):
    assert fetch(path, digest=digest) == (Fetched(DIGEST, len(MODULE), "", "partial"), MODULE)


def test_an_end_that_nobody_said_is_none(fetch):
    """A cut link ends a connection as a server does that says no length: TLS alone tells them apart."""
    whole = Fetched(DIGEST, len(MODULE), "", "partial"), MODULE
    assert fetch("until_close/said-whole") == whole
    assert fetch("until_close/said-whole", digest=DIGEST) == whole
    assert fetch("until_close/cut-whole", digest=DIGEST) == whole, "its digest says that it is all"
    for end in ("cut-whole", "cut-short"):
        reason, is_retryable, message = failure(fetch(f"until_close/{end}"))
        assert (reason, is_retryable) == ("FetchFailed", True)
        assert "#sha256=" in message
    reason, is_retryable, message = failure(fetch("until_close/cut-short", digest=DIGEST))
    assert (reason, is_retryable) == ("FetchFailed", True)
    assert f"ended after {len(MODULE) - 1} bytes, which are not {DIGEST}" in message


def test_an_absolute_redirect_to_https_is_followed(fetch, server):
    assert fetch("to/https://127.0.0.1:PORT/module")[0] == Fetched(
        DIGEST, len(MODULE), "", "partial"
    )
    assert [path for path, _ in server.asked] == ["/to/https://127.0.0.1:PORT/module", "/module"]


def test_what_an_image_is_known_to_have_is_looked_at_where_signatures_count(fetch):
    """Whoever brought the module along may have said that it is this image's."""
    with OciServer() as registry:
        for add, is_file in ((registry.add_container, True), (registry.add_module, False)):
            digest = add("acme/app", "1", MODULE)

            def ask(module, digest=digest, registry=registry, **known):
                return fetch(
                    scheme="oci",
                    location=f"{registry.host}/acme/app:1",
                    known_manifest=digest,
                    known_module=module,
                    wants_signatures=True,
                    **known,
                )[0]

            there = Fetched(DIGEST, 0, digest, "store")
            where, source = ("module", digest) if is_file else ("partial", "")
            fetched = Fetched(DIGEST, len(MODULE), digest, where, extracted_from=source)
            assert ask(OTHER) == fetched
            assert ask(DIGEST) == (fetched if is_file else there)
            assert ask(DIGEST, extracted_from=OTHER) == (fetched if is_file else there)
            assert ask(DIGEST, extracted_from=digest) == there


def failure(fetched):
    answer, _ = fetched
    assert isinstance(answer, Failed)
    return answer.reason, answer.is_retryable, answer.message


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418])
def test_a_refusal_is_final(fetch, status):
    reason, is_retryable, message = failure(fetch(f"status/{status}"))
    assert (reason, is_retryable) == ("FetchRefused", False)
    assert f"the server answered {status}" in message


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_failure_of_the_server_may_pass(fetch, status):
    reason, is_retryable, message = failure(fetch(f"status/{status}"))
    assert (reason, is_retryable) == ("FetchFailed", True)
    assert f"the server answered {status}" in message


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:PORT/module",
        "ftp://127.0.0.1/module",
        "file:///etc/passwd",
        "HTTP://127.0.0.1:PORT/module",
    ],
)
def test_a_redirect_away_from_tls_is_not_followed(fetch, server, location):
    reason, is_retryable, message = failure(fetch(f"to/{location}"))
    assert (reason, is_retryable) == ("FetchRefused", False)
    assert "redirect" in message.lower()
    assert len(server.asked) == 1


def test_redirects_in_a_circle_end(fetch, server):
    reason, is_retryable, _ = failure(fetch("circle"))
    assert (reason, is_retryable) == ("FetchRefused", False)
    assert len(server.asked) <= 12


@pytest.mark.parametrize("path", ["truncated", "halfchunk", "nothing", "garbage"])
def test_a_download_that_breaks_off_may_work_later(fetch, path):
    assert failure(fetch(path))[:2] == ("FetchFailed", True)


@pytest.mark.parametrize("path", ["module", "chunked", "endless"])
def test_a_module_that_is_too_large_is_refused_while_it_comes(fetch, path):
    answer, written = fetch(path, max_bytes=100_000)
    assert failure((answer, written))[:2] == ("FetchRefused", False)
    assert len(written) <= 100_000


def test_another_module_than_was_pinned_is_refused(fetch):
    pinned = "sha256:" + "0" * 64
    reason, is_retryable, message = failure(fetch("module", digest=pinned))
    assert (reason, is_retryable) == ("FetchRefused", False)
    assert DIGEST in message
    assert pinned in message


def test_a_server_that_nobody_vouches_for_gets_no_request(fetch, server, certificates, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "stranger.pem"))
    reason, _, message = failure(fetch("module"))
    assert reason == "FetchFailed"
    assert "certificate verify failed" in message
    assert server.asked == []


def test_a_server_of_another_name_gets_no_request(fetch, server):
    answer = fetch("", location=f"https://localhost:{server.server_port}/module")
    assert "certificate verify failed" in failure(answer)[2]
    assert server.asked == []


def test_a_server_that_is_not_there_may_come_back(fetch, server):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as other:
        port = other.server_port
    reason, is_retryable, message = failure(fetch("", location=f"https://127.0.0.1:{port}/module"))
    assert (reason, is_retryable) == ("FetchFailed", True)
    assert "refused" in message


@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.1:port/module",
        "https://127.0.0.1/a b",
        "https://127.0.0.1/\u00e9",
        "https://" + "a" * 70 + ".example/",
        "nothing",
        "file:///etc/passwd",
    ],
)
def test_what_is_no_address_is_final(fetch, location):
    assert failure(fetch("", location=location))[:2] == ("FetchRefused", False)


def test_other_schemes_are_not_known(fetch, server):
    reason, is_retryable, message = failure(fetch("", scheme="ftp", location="ftp://x/a"))
    assert (reason, is_retryable) == ("UnsupportedSource", False)
    assert "ftp://" in message
    assert server.asked == []


def test_a_full_disk_may_pass(server, monkeypatch):
    ours, theirs = Channel.pair()
    location = f"https://127.0.0.1:{server.server_port}/module"
    config = FetchConfig(scheme="https", location=location, digest=None, max_bytes=1 << 20)
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(Sink, "take_up", lambda *_: None)  # a device can't be cut
        monkeypatch.setattr(Sink, "clear", lambda *_: None)
        monkeypatch.setattr(Sink, "note", lambda *_: None)
        monkeypatch.setattr(Sink, "require_room", lambda *_: None)
        assert fetch_module(theirs, config, [full.fileno()] * 4, equip()) == 1
    answer, _ = ours.receive()
    assert (answer.reason, answer.is_retryable) == ("FetchFailed", True)
    assert "No space left" in answer.message
    ours.close()
    theirs.close()


def test_the_request_says_what_is_wanted_and_no_more(fetch, server):
    fetch("module")
    [(path, headers)] = server.asked
    assert path == "/module"
    assert headers["Accept"] == "application/wasm, */*"
    assert "Authorization" not in headers
    assert "Cookie" not in headers


def test_a_sink_counts_bounds_and_hashes(tmp_path):
    with open(tmp_path / "module", "wb") as file:
        sink = Sink(file.fileno(), 10)
        sink.write(b"01234")
        sink.write(b"56789")
        assert sink.digest == f"sha256:{hashlib.sha256(b'0123456789').hexdigest()}"
        assert sink.size == 10
        with pytest.raises(FetchError, match="over 0 MiB"):
            sink.write(b"x")
    assert os.path.getsize(tmp_path / "module") == 10


def test_both_kinds_of_failure_say_whether_to_try_again():
    assert not FetchError("x").is_retryable
    assert FetchFailedError("x").is_retryable
    assert issubclass(FetchFailedError, LimpetError)


class Proxy(socketserver.ThreadingTCPServer):
    """Connects whoever asks to one port; with a status it refuses, and repeats what it was told."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, target):
        super().__init__(("127.0.0.1", 0), ProxyHandler)
        self.target = target
        self.refusal = 0
        self.asked = []


class ProxyHandler(socketserver.StreamRequestHandler):
    def handle(self):
        head = []
        while (line := self.rfile.readline()) not in (b"", b"\r\n"):
            head.append(line.decode().strip())
        self.server.asked.append(head)
        if self.server.refusal:
            told = [line for line in head if "Authorization" in line]
            self.wfile.write(f"HTTP/1.1 {self.server.refusal} {told}\r\n\r\n".encode())
            return
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with socket.create_connection(("127.0.0.1", self.server.target)) as behind:
            answers = threading.Thread(target=relay, args=(behind, self.connection))
            answers.start()
            relay(self.connection, behind)
            answers.join()


def relay(source, sink):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(server):
    with Proxy(server.server_port) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


PROXIED = "https://proxied.example:8443/module"


@pytest.mark.parametrize("scheme", ["", "http://"], ids=["as-curl-takes-it", "http"])
@pytest.mark.parametrize("user", ["", "us%40er:ge%3Aheim@", "us%40er@"])
def test_a_proxy_is_used_and_told_who_asks(fetch, proxy, monkeypatch, scheme, user):
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}{user}127.0.0.1:{proxy.server_address[1]}")
    assert fetch(location=PROXIED) == (Fetched(DIGEST, len(MODULE), "", "partial"), MODULE)
    [head] = proxy.asked
    assert head[0].startswith("CONNECT proxied.example:8443 ")
    told = [line.partition(" Basic ")[2] for line in head if line.startswith("Proxy-Authoriz")]
    pair = {"": None, "us%40er@": b"us@er:"}.get(user, b"us@er:ge:heim")
    assert [base64.b64decode(each) for each in told] == ([] if pair is None else [pair])


@pytest.mark.parametrize("refusal", [407, 502])
def test_a_proxy_that_refuses_has_nobody_show_its_password(fetch, proxy, monkeypatch, refusal):
    proxy.refusal = refusal
    monkeypatch.setenv("https_proxy", f"user:geheim@127.0.0.1:{proxy.server_address[1]}")
    reason, is_retryable, message = failure(fetch(location=PROXIED))
    assert (reason, is_retryable) == ("FetchFailed", True)
    assert str(refusal) in message
    pair = base64.b64encode(b"user:geheim").decode()
    assert pair in str(proxy.asked)
    assert pair not in message
    assert "geheim" not in message


@pytest.mark.parametrize(
    "proxy",
    ["http://u:geheim@p:port", "u:geheim@p:99999", "socks5://u:geheim@p", "https://u:geheim@p:1",
     "http://u:geheim@", "[::1"],
)  # fmt: skip
def test_what_is_no_proxy_is_refused_without_showing_it(fetch, server, monkeypatch, proxy):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    reason, is_retryable, message = failure(fetch(location=PROXIED))
    assert (reason, is_retryable) == ("FetchRefused", False)
    assert "HTTPS_PROXY" in message
    assert "heim" not in message
    assert fetch("module")[1] == MODULE, "this device is not behind it"
    monkeypatch.setenv("NO_PROXY", "proxied.example")
    assert "HTTPS_PROXY" not in failure(fetch(location=PROXIED))[2]
    assert "heim" not in repr(Line(trust=make_trust(), proxy=proxy))
