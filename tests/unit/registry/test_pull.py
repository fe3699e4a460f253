"""Pulling from registries that work, that break, and that lie: the library, against a server on loopback."""

import base64
import contextlib
import gzip
import io
import json
import ssl
import tarfile
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from limpet.registry import sink as sink_module
from limpet.registry.client import Registry
from limpet.registry.credentials import Credentials
from limpet.registry.errors import (
    DiskFullError,
    FetchError,
    FetchFailedError,
    FormatError,
    MissingError,
    UnauthorizedError,
)
from limpet.registry.exchange import Line
from limpet.registry.pace import Rates
from limpet.registry.pull import pull_module, read_image, resolve_digest
from limpet.registry.reference import parse_reference
from limpet.registry.signatures import (
    ANNOTATION,
    PAYLOAD_TYPE,
    collect_signatures,
    make_payload,
    signature_tag,
)
from limpet.registry.sink import Sink
from limpet.registry.transfer import Patience
from limpet.signing import PrivateKey
from oci_server import INDEX, MANIFEST, OciServer, digest_of

MODULE = b"\0asm\1\0\0\0" + bytes(range(256)) * 4000
CREDENTIALS = Credentials("user", "geheim-wort")
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
TAR = "application/vnd.oci.image.layer.v1.tar"


@pytest.fixture
def server():
    with OciServer() as running:
        yield running


@pytest.fixture
def pull(server, tmp_path):
    """Pull `acme/app:1`, again into the same files each time: the module's bytes."""
    stack = contextlib.ExitStack()
    files = [
        stack.enter_context((tmp_path / name).open("w+b")) for name in ("part", "notes", "module")
    ]

    def run(
        version="1", *, credentials=None, attempts=4, rates=None, max_bytes=1 << 30, report=None
    ):
        reference = parse_reference(f"{server.host}/acme/app:{version}")
        line = Line(trust=ssl.create_default_context(), rates=rates or Rates())
        registry = Registry(line, reference, credentials)
        patience = Patience(attempts=attempts, sleep=lambda _: None)
        partial = Sink(files[0].fileno(), max_bytes, notes=files[1].fileno())
        data, digest = resolve_digest(registry, reference.version, patience)
        image = read_image(registry, data, digest, patience=patience, wants_signatures=False)
        found = pull_module(
            registry,
            image.content,
            partial,
            Sink(files[2].fileno(), max_bytes),
            patience=patience,
            report=report or (lambda *_: None),
        )
        data = (tmp_path / ("part" if found is partial else "module")).read_bytes()
        assert found.digest == digest_of(data)
        return data

    with stack:
        yield run


def blob_requests(server):
    return [each for each in server.asked if "/blobs/" in each.path]


def test_an_artifact_is_pulled(server, pull):
    server.add_module("acme/app", "1", MODULE)
    seen = []
    assert pull(report=lambda done, total: seen.append((done, total))) == MODULE
    assert seen[-1] == (len(MODULE), len(MODULE))


def test_a_cut_download_goes_on_where_it_was(server, pull):
    server.add_module("acme/app", "1", MODULE)
    server.behaviour.cuts = [100_000] * 9
    assert pull() == MODULE
    assert server.cut_count == 9
    assert server.sent_bytes < len(MODULE) * 1.2
    assert all("range" in each.headers for each in blob_requests(server)[1:])


def test_what_an_earlier_process_left_is_hashed_and_used(server, pull):
    server.add_module("acme/app", "1", MODULE)
    server.behaviour.cuts = [600_000]
    with pytest.raises(FetchFailedError):
        pull(attempts=1)
    server.sent_bytes = 0
    assert pull() == MODULE
    assert server.sent_bytes < len(MODULE) - 400_000


@pytest.mark.parametrize("where", [0, 300_000])
def test_a_torn_partial_file_costs_a_new_start_and_nothing_else(server, pull, tmp_path, where):
    server.add_module("acme/app", "1", MODULE)
    server.behaviour.cuts = [600_000]
    with pytest.raises(FetchFailedError):
        pull(attempts=1)
    with open(tmp_path / "part", "r+b") as file:
        file.seek(where)
        file.write(b"torn")
    assert pull() == MODULE


def test_a_partial_file_of_something_else_is_not_used(server, pull):
    server.add_module("acme/app", "1", MODULE)
    server.behaviour.cuts = [600_000]
    with pytest.raises(FetchFailedError):
        pull(attempts=1)
    other = MODULE[:8] + MODULE[100:]
    server.add_module("acme/app", "1", other)
    assert pull() == other


def test_a_partial_file_that_is_all_of_it_needs_no_download(server, pull, tmp_path):
    server.add_module("acme/app", "1", MODULE)
    assert pull() == MODULE
    count = len(blob_requests(server))
    assert pull() == MODULE
    assert len(blob_requests(server)) == count


@pytest.mark.parametrize("name", ["ignores_ranges", "lies_about_range"])
def test_a_server_that_gets_ranges_wrong_is_asked_for_all(server, pull, name):
    server.add_module("acme/app", "1", MODULE)
    server.behaviour.cuts = [600_000]
    setattr(server.behaviour, name, True)
    assert pull() == MODULE


@pytest.mark.parametrize("size", [1, 5, 4096, 16384, 100_001, len(MODULE) - 1])
def test_a_connection_may_be_cut_at_any_byte(server, pull, size):
    server.add_module("acme/app", "1", MODULE)
    server.behaviour.cuts = [size, 0, 1, 0, size]
    assert pull() == MODULE


def test_a_server_that_stays_silent_is_given_up(server, pull):
    server.add_module("acme/app", "1", MODULE)
    server.behaviour.gate, server.behaviour.gate_at = threading.Event(), 100_000
    with pytest.raises(FetchFailedError, match="stalled"):
        pull(attempts=2, rates=Rates(window_seconds=0.2))


def test_a_server_that_drips_is_given_up(server, pull):
    server.add_module("acme/app", "1", MODULE)
    with pytest.raises(FetchFailedError, match="stalled"):
        pull(attempts=1, rates=Rates(least=1 << 40, window_seconds=1e-9))


def test_a_cap_holds(server, pull):
    server.add_module("acme/app", "1", MODULE[:30_000])
    slept = []
    from limpet.registry import pace

    paced = pace.Pace(Rates(most=1000), clock=lambda: sum(slept), sleep=slept.append)
    for _ in range(10):
        paced.note(paced.most_at_once, 0.0)
    assert sum(slept) == pytest.approx(10 * paced.most_at_once / 1000)


def test_a_layer_that_is_not_what_its_digest_says_is_refused(server, pull):
    server.add_module("acme/app", "1", MODULE)
    server.behaviour.body = lambda path, body: body[:-1] + b"!" if "blobs" in path else body
    with pytest.raises(FetchError, match="but the manifest pins"):
        pull()


@pytest.mark.parametrize(
    "change", [lambda body: body + b"!", lambda body: body[:-1], lambda _: b""]
)
def test_a_layer_of_another_size_is_refused(server, pull, change):
    server.add_module("acme/app", "1", MODULE)
    server.behaviour.body = lambda path, body: change(body) if "blobs" in path else body
    with pytest.raises(FetchError, match="were announced"):
        pull()


def test_a_manifest_that_is_not_what_its_digest_says_is_refused(server, pull):
    digest = server.add_module("acme/app", "1", MODULE)
    server.behaviour.body = lambda _path, body: body + b" "
    pinned = parse_reference(f"{server.host}/acme/app@{digest}")
    registry = Registry(Line(trust=ssl.create_default_context()), pinned, None)
    with pytest.raises(FetchError, match=digest):
        registry.manifest(digest)


@pytest.mark.parametrize(
    "garbage",
    [
        b"", b"[]", b"{", b"\xff\xfe", b"[" * 1000, b'{"a":' * 500 + b"1" + b"}" * 500,
        b'{"layers": 1}', b'{"config": {}, "layers": []}', b'{"manifests": {}}', b" " * (5 << 20),
        b'{"config": {"mediaType": "a", "digest": "sha256:..", "size": 1}}',
    ],
)  # fmt: skip
def test_garbage_for_a_manifest_is_refused(server, pull, garbage):
    server.add_manifest("acme/app", "1", garbage)
    with pytest.raises((FormatError, FetchError)):
        pull()


def test_a_module_over_the_bound_is_not_begun(server, pull):
    server.add_module("acme/app", "1", MODULE)
    with pytest.raises(FetchError, match="over 0 MiB"):
        pull(max_bytes=1000)
    assert not blob_requests(server)


def test_a_disk_without_room_is_found_first(server, pull, tmp_path, monkeypatch):
    server.add_module("acme/app", "1", MODULE)
    monkeypatch.setattr(sink_module, "RESERVED_BYTES", 1 << 60)
    with pytest.raises(DiskFullError, match="MiB left"):
        pull()
    assert (tmp_path / "part").stat().st_size == 0


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(server, pull):
    server.add_module("acme/app", "1", MODULE)
    server.behaviour.status = 503
    with pytest.raises(FetchFailedError, match="503"):
        pull(attempts=3)
    assert len(server.asked) == 3
    server.behaviour.status = 400
    with pytest.raises(FetchError, match="BROKEN"):
        pull(attempts=3)
    assert len(server.asked) == 4


def test_what_is_not_there_is_said_to_be_missing(server, pull):
    with pytest.raises(MissingError, match="acme/app:1 does not exist"):
        pull()


# Credentials


@pytest.mark.parametrize("uses_tokens", [False, True])
def test_credentials_open(server, pull, uses_tokens):
    server.add_module("acme/app", "1", MODULE)
    server.behaviour.username, server.behaviour.password = "user", "geheim-wort"
    server.behaviour.uses_tokens = uses_tokens
    assert pull(credentials=CREDENTIALS) == MODULE
    for wrong in (None, Credentials("user", "other")):
        with pytest.raises(UnauthorizedError) as caught:
            pull(credentials=wrong)
        assert "other" not in str(caught.value)


def test_credentials_do_not_follow_a_redirect_to_another_host(server, pull):
    digest = server.add_module("acme/app", "1", MODULE)
    layer = digest_of(MODULE)
    with OciServer() as elsewhere:
        elsewhere.add_blob(MODULE)
        server.behaviour.username, server.behaviour.password = "user", "geheim-wort"
        place = f"/v2/acme/app/blobs/{layer}"
        server.behaviour.redirects = {place: f"http://{elsewhere.host}{place}?signature=secret"}
        assert pull(credentials=CREDENTIALS) == MODULE
        assert "authorization" not in elsewhere.asked[0].headers
        elsewhere.behaviour.status = 403
        server.add_module("acme/app", "1", MODULE + b"1")
        place = f"/v2/acme/app/blobs/{digest_of(MODULE + b'1')}"
        server.behaviour.redirects = {place: f"http://{elsewhere.host}{place}?signature=secret"}
        with pytest.raises(FetchError) as caught:
            pull(credentials=CREDENTIALS)
        assert "secret" not in str(caught.value)
    assert digest


@pytest.mark.parametrize(
    ("credentials", "uses_tokens"),
    [
        (CREDENTIALS, True),
        (CREDENTIALS, False),
        (Credentials("", "", identity_token="geheim-wort"), True),
    ],
    ids=["for-a-token", "basic", "identity-token"],
)
def test_where_a_redirect_leads_nobody_asks_for_credentials(server, pull, credentials, uses_tokens):
    server.add_module("acme/app", "1", MODULE)
    with OciServer() as elsewhere:
        elsewhere.behaviour.username = "whoever"
        elsewhere.behaviour.uses_tokens = uses_tokens
        place = f"/v2/acme/app/blobs/{digest_of(MODULE)}"
        server.behaviour.redirects = {place: f"http://{elsewhere.host}{place}"}
        with pytest.raises(FetchError, match="401"):
            pull(credentials=credentials)
        assert elsewhere.paths() == [place]
        assert "authorization" not in elsewhere.asked[0].headers


@pytest.mark.parametrize(
    "location",
    [
        "http://192.0.2.1/x",
        "ftp://localhost/x",
        "file:///etc/passwd",
        "https://u:p@localhost/x",
        "//[",
    ],
)
def test_a_redirect_off_tls_or_to_another_scheme_is_refused(server, pull, location):
    server.add_module("acme/app", "1", MODULE)
    server.behaviour.redirects = {f"/v2/acme/app/blobs/{digest_of(MODULE)}": location}
    with pytest.raises(FetchError, match="redirect"):
        pull()


def test_redirects_in_a_circle_end(server, pull):
    server.add_module("acme/app", "1", MODULE)
    place = f"/v2/acme/app/blobs/{digest_of(MODULE)}"
    server.behaviour.redirects = {place: place}
    with pytest.raises(FetchError, match="more than 5 redirects"):
        pull()


@pytest.mark.parametrize(
    "realm", ["http://192.0.2.1/token", "ftp://localhost/", "https://u@x/", "x"]
)
def test_credentials_do_not_go_to_a_token_service_in_the_clear(server, pull, realm):
    server.add_module("acme/app", "1", MODULE)
    server.behaviour.username, server.behaviour.password = "user", "geheim-wort"
    server.behaviour.uses_tokens, server.behaviour.realm = True, realm
    with pytest.raises(FetchError, match="token service"):
        pull(credentials=CREDENTIALS)


# Formats, with layers that have to be opened


def layer(*entries, compress=gzip.compress):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = tarfile.SYMTYPE, "x"
                archive.addfile(info)
    return compress(made.getvalue())


def add_compat(server, *layers, entrypoint=("/app.wasm",), kind=f"{TAR}+gzip"):
    config = {"os": "wasip1", "architecture": "wasm", "config": {"Entrypoint": list(entrypoint)}}
    server.add_image(
        "acme/app",
        "1",
        [(kind, each) for each in layers],
        config_type=IMAGE_CONFIG,
        config=config,
    )


def test_a_compat_images_module_is_taken_out(server, pull):
    long = "d" * 200 + "/" + "e" * 150
    add_compat(server, layer((long, b"x" * 1000), ("./app.wasm", MODULE), ("z", b"")))
    assert pull() == MODULE


def test_the_uppermost_layer_counts(server, pull):
    add_compat(server, layer(("app.wasm", b"old")), layer(("app.wasm", MODULE)), layer(("a", b"")))
    assert pull() == MODULE


def test_an_uncompressed_layer(server, pull):
    add_compat(server, layer(("app.wasm", MODULE), compress=bytes), kind=TAR)
    assert pull() == MODULE


@pytest.mark.parametrize("gone", [".wh.app.wasm", ".wh..wh..opq"])
def test_a_file_that_was_removed_is_not_there(server, pull, gone):
    add_compat(server, layer(("app.wasm", MODULE)), layer((gone, b"")))
    with pytest.raises(FormatError, match="none of its layers has"):
        pull()


def test_a_link_is_not_followed(server, pull):
    add_compat(server, layer(("app.wasm", None)))
    with pytest.raises(FormatError, match="not a regular file"):
        pull()


@pytest.mark.parametrize("cut", [1, 30, 600, -20])
def test_a_damaged_layer_is_refused(server, pull, cut):
    add_compat(server, layer(("a", bytes(range(256)) * 20), ("app.wasm", MODULE))[:cut])
    with pytest.raises(FormatError):
        pull()


def test_a_bomb_ends_at_the_bound(server, pull, monkeypatch):
    monkeypatch.setattr("limpet.registry.layers.MAX_UNPACKED_BYTES", 8 << 20)
    add_compat(server, layer(("bomb", b"\0" * (32 << 20)), ("app.wasm", MODULE)))
    with pytest.raises(FormatError, match="unpacks to over"):
        pull()


def test_a_bomb_of_a_module_ends_at_the_bound(server, pull):
    add_compat(server, layer(("app.wasm", b"\0" * (4 << 20))))
    with pytest.raises(FetchError, match="over 1 MiB"):
        pull(max_bytes=1 << 20)


def test_an_index_leads_to_the_platform_that_is_wasm(server, pull):
    entries = []
    for system, architecture, module in (("linux", "arm64", b"no"), ("wasip1", "wasm", MODULE)):
        digest = server.add_module("acme/app", architecture, module)
        _, data = server._manifests[f"acme/app/{digest}"]
        entries.append(
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": len(data),
                "platform": {"os": system, "architecture": architecture},
            }
        )
    server.add_manifest("acme/app", "1", {"schemaVersion": 2, "manifests": entries}, INDEX)
    assert pull() == MODULE
    del entries[1]
    server.add_manifest("acme/app", "1", {"schemaVersion": 2, "manifests": entries}, INDEX)
    with pytest.raises(FormatError, match="linux/arm64"):
        pull()


def test_an_index_of_indexes_ends(server, pull):
    digest, size = server.add_module("acme/app", "0", MODULE), 0
    for depth in range(5):
        size = len(server._manifests[f"acme/app/{digest}"][1])
        entry = {"mediaType": INDEX, "digest": digest, "size": size}
        index = {"schemaVersion": 2, "manifests": [entry]}
        digest = server.add_manifest("acme/app", "1", json.dumps(index).encode(), INDEX)
        if depth == 0:
            assert pull() == MODULE
    with pytest.raises(FormatError, match="index after index"):
        pull()


# Signatures, beside what is none


def add_referrer(server, digest, document, version=None):
    """A manifest that refers to the image, in the registry's answer to who does."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    version = version or server.add_manifest("acme/app", digest_of(data), data)
    server.referrers.setdefault(digest, []).append(
        {"mediaType": MANIFEST, "digest": version, "size": len(data)}
    )


def registry_of(server):
    reference = parse_reference(f"{server.host}/acme/app:1")
    return Registry(Line(trust=ssl.create_default_context()), reference, None)


def signature_of(server, private, digest):
    payload = make_payload("x/y", digest)
    text = base64.b64encode(private.sign(payload)).decode()
    return {
        "layers": [
            {
                "mediaType": PAYLOAD_TYPE,
                **server.add_blob(payload),
                "annotations": {ANNOTATION: text},
            }
        ]
    }


def damaged(server, private, digest):
    """A signature whose payload is gone, or has another size than it may have or says."""
    document = signature_of(server, private, digest)
    layer = document["layers"][0]
    yield {"layers": [layer | {"digest": "sha256:" + "0" * 64}]}
    yield {"layers": [layer | {"size": 1 << 20}]}
    yield {"layers": [layer | {"size": 0}]}


def test_what_refers_to_an_image_and_is_no_signature_is_passed_over(server):
    private = PrivateKey(ed25519.Ed25519PrivateKey.generate())
    digest = server.add_module("acme/app", "1", MODULE)
    for odd in (b"[", b"{}", {"layers": None}, {"layers": [1]}, *damaged(server, private, digest)):
        server.referrers.clear()
        add_referrer(server, digest, odd)
        add_referrer(server, digest, b"{}", version="sha256:" + "d" * 64)
        add_referrer(server, digest, signature_of(server, private, digest))
        [found] = collect_signatures(registry_of(server), [digest])
        assert private.public_key().verify(found.payload, found.signature)
        server.add_manifest("acme/app", signature_tag(digest), odd)
        [again] = collect_signatures(registry_of(server), [digest])
        assert again == found


def test_a_signature_that_did_not_come_this_time_is_asked_for_again(server):
    digest = server.add_module("acme/app", "1", MODULE)
    document = signature_of(server, PrivateKey(ed25519.Ed25519PrivateKey.generate()), digest)
    add_referrer(server, digest, document)
    for cuts in ([0], [1 << 20, 0]):  # who refers to it; what that one holds
        server.behaviour.cuts = cuts
        with pytest.raises(FetchFailedError):
            collect_signatures(registry_of(server), [digest])
    assert len(collect_signatures(registry_of(server), [digest])) == 1
