"""Servers that say when to come back, and certificates that are not valid by this device's clock."""

import contextlib
import datetime as dt
import ipaddress
import random
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from limpet.registry.errors import FetchFailedError
from limpet.registry.exchange import Line, failed, request
from limpet.registry.pull import persist
from limpet.registry.times import LONGEST_WAIT_SECONDS, explain_clock, parse_retry_after
from limpet.registry.transfer import Patience
from oci_server import OciServer

NOON = "Mon, 23 Nov 2026 12:00:00 GMT"
DAY = dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("", NOON, 0.0),
        ("0", NOON, 0.0),
        (" 7 ", "", 7.0),
        ("999999999999999999", "", LONGEST_WAIT_SECONDS),
        ("-5", NOON, 0.0),
        ("7.5", NOON, 0.0),
        ("\u0667", NOON, 0.0),
        ("Mon, 23 Nov 2026 12:00:30 GMT", NOON, 30.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", NOON, 0.0),
        ("Tue, 24 Nov 2026 12:00:00 GMT", NOON, LONGEST_WAIT_SECONDS),
        ("Mon, 23 Nov 2026 12:00:30 GMT", "", 0.0),
        ("Mon, 23 Nov 2026 12:00:30 GMT", "Mon, 23 Nov 2026 12:00:00 -0000", 0.0),
    ],
)
def test_when_to_come_back(value, date, seconds):
    assert parse_retry_after(value, date) == seconds


@given(st.text(max_size=60), st.one_of(st.just(NOON), st.text(max_size=60)))
def test_any_header_is_a_bounded_pause(value, date):
    assert 0.0 <= parse_retry_after(value, date) <= LONGEST_WAIT_SECONDS


@pytest.mark.parametrize(("status", "asked"), [(429, 40.0), (503, 40.0), (502, 0.0)])
def test_a_server_that_says_when_is_not_asked_before(status, asked):
    pauses = []
    with OciServer() as server:
        server.behaviour.status = status
        server.behaviour.retry_after = "40"
        line = Line(trust=ssl.create_default_context())

        def ask():
            with request(line, "GET", f"http://{server.host}/v2/a/manifests/1", {}) as response:
                raise failed(response, "it")

        with pytest.raises(FetchFailedError) as caught:
            persist(ask, Patience(attempts=3, sleep=pauses.append))
        assert len(server.asked) == 3
    assert caught.value.retry_after_seconds == asked
    assert len(pauses) == 2
    assert all(asked <= pause <= max(2.0, asked * 1.1) for pause in pauses)


def test_pauses_grow_and_are_spread(monkeypatch):
    pauses = []
    patience = Patience(pause_seconds=1.0, sleep=pauses.append)
    for share in (0.0, 0.999):
        monkeypatch.setattr(random, "random", lambda share=share: share)
        for failures in (1, 2, 3, 20):
            patience.wait(failures, FetchFailedError("it"))
    assert pauses[:4] == [0.5, 1.0, 2.0, 15.0]
    assert [round(pause) for pause in pauses[4:]] == [1, 2, 4, 30]


def make_certificate(folder, begin, end):
    """A certificate of its own authority for 127.0.0.1, valid between two moments; its file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(usage, True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "server.pem"
    path.write_bytes(private + made.public_bytes(Encoding.PEM))
    return path


@contextlib.contextmanager
def serving(path):
    """Shake hands once, with the certificate of this file; the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def shake():
            connection, _ = listening.accept()
            with contextlib.suppress(OSError), connection:
                context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=shake)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(
    ("begin", "end", "problem"),
    [(1, 2, "not yet valid"), (-2, -1, "has expired"), (-1, 1, None)],
)
def test_a_certificate_that_is_not_valid_now_hints_at_the_clock(tmp_path, begin, end, problem):
    now = dt.datetime.now(dt.UTC)
    path = make_certificate(tmp_path, now + begin * DAY, now + end * DAY)
    trust = ssl.create_default_context(cafile=str(path))
    with serving(path) as port, pytest.raises(FetchFailedError) as caught:
        request(Line(trust=trust), "GET", f"https://127.0.0.1:{port}/", {})
    told = str(caught.value)
    if problem is None:
        assert "clock" not in told
    else:
        assert problem in told
        assert f"this device's clock says {now:%Y-%m-%d}" in told


def test_other_errors_have_no_hint(tmp_path):
    assert explain_clock(OSError()) == ""
    now = dt.datetime.now(dt.UTC)
    path = make_certificate(tmp_path, now - DAY, now + DAY)
    with serving(path) as port, pytest.raises(FetchFailedError) as caught:
        request(Line(trust=ssl.create_default_context()), "GET", f"https://127.0.0.1:{port}/", {})
    assert "certificate verify failed" in str(caught.value)
    assert "clock" not in str(caught.value)
