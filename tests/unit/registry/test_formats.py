"""Each format that holds a module, and each that does not: documents in, decision out."""

import json

import fuzz_registry
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.registry.documents import digest_of, parse_object
from limpet.registry.errors import FormatError
from limpet.registry.evidence import Evidence, Signature, decode_evidence, encode_evidence
from limpet.registry.formats import (
    ModuleLayer,
    RootFiles,
    choose_content,
    choose_manifest,
    normalise_path,
    read_config,
)
from limpet.registry.push import make_artifact
from limpet.registry.signatures import is_signed, make_payload, signed_digest, trace_digests

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
IMAGE = "application/vnd.oci.image.config.v1+json"
SPIN = "application/vnd.fermyon.spin.application.v1+config"
OLD = "application/vnd.wasm.content.layer.v1+wasm"
RUNWASI = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm"
TAR = "application/vnd.oci.image.layer.v1.tar+gzip"


def layer(kind, digest=DIGEST, **annotations):
    return {"mediaType": kind, "digest": digest, "size": 5, "annotations": annotations}


def manifest(config_type, *layers):
    return {
        "config": {"mediaType": config_type, "digest": OTHER, "size": 2},
        "layers": list(layers),
    }


def spin(*names, executor="wagi", kind="http", digest=DIGEST):
    config = {"executor": {"type": executor}} if executor else {}
    return {
        "spin_lock_version": 1,
        "components": [{"id": name, "source": {"digest": digest}} for name in names],
        "triggers": [{"id": "t", "trigger_type": kind, "trigger_config": config}],
    }


def started(*words, field="Entrypoint"):
    return {"os": "linux", "architecture": "amd64", "config": {field: list(words)}}


@pytest.mark.parametrize(
    ("document", "wants_config"),
    [
        (manifest("application/vnd.wasm.config.v0+json", layer("application/wasm")), False),
        (manifest("application/vnd.wasm.config.v1+json", layer(OLD)), False),
        (manifest("application/vnd.oci.empty.v1+json", layer("application/wasm")), False),
        (manifest(IMAGE, layer(RUNWASI)), False),
        (
            manifest(
                IMAGE,
                layer(RUNWASI),
                layer("application/vnd.bytecodealliance.wasm.precompiled.v0+cwasm", OTHER),
            ),
            False,
        ),
        (
            manifest(SPIN, layer(OLD), layer("application/vnd.wasm.content.layer.v1+data", OTHER)),
            True,
        ),
    ],
)
def test_formats_whose_layer_is_the_module(document, wants_config):
    assert (read_config(document) is not None) == wants_config
    config = spin("app") if wants_config else {}
    content = choose_content(document, config)
    assert isinstance(content, ModuleLayer)
    assert content.layer.digest == DIGEST


@pytest.mark.parametrize(
    ("config", "path"),
    [
        (started("/app.wasm", "--port"), "app.wasm"),
        (started("./bin/../app.wasm"), "app.wasm"),
        (started("/app.wasm", field="Cmd"), "app.wasm"),
    ],
)
def test_a_compat_image_is_its_entrypoint(config, path):
    content = choose_content(manifest(IMAGE, layer(TAR), layer(TAR, OTHER)), config)
    assert isinstance(content, RootFiles)
    assert content.path == path
    assert [each.digest for each, _ in content.layers] == [DIGEST, OTHER]
    assert {compression for _, compression in content.layers} == {"gzip"}


@pytest.mark.parametrize(
    ("document", "config", "message"),
    [
        (manifest(IMAGE, layer(TAR)), started("/bin/sh"), "starts '/bin/sh' on linux/amd64"),
        (manifest(IMAGE, layer(TAR)), {}, "starts 'nothing' on any system"),
        (manifest(IMAGE, layer("text/plain")), started("a.wasm"), "unknown type: 'text/plain'"),
        (manifest(IMAGE), started("a.wasm"), "no layers"),
        (manifest("application/x", layer("text/plain")), {}, "no WebAssembly in it"),
        (
            manifest("a/b", layer(OLD, **{"org.opencontainers.image.title": "a.wasm"}), layer(OLD, OTHER)),
            {},
            r"2 modules \(a.wasm, sha256:bbbbb",
        ),
        (manifest(SPIN, layer(OLD)), spin("web", "api"), r"2 components \(web, api\)"),
        (manifest(SPIN, layer(OLD)), spin(), "0 components"),
        (manifest(SPIN, layer(OLD)), spin("web", executor=""), "'web' answers requests as 'spin'"),
        (manifest(SPIN, layer(OLD)), spin("web", executor="http"), "not as CGI"),
        (manifest(SPIN, layer(OLD)), spin("web", kind="redis"), "trigger 'redis'"),
        (manifest(SPIN, layer(OLD)), spin("web", digest=OTHER), "'web' is not among its layers"),
        (manifest(SPIN, layer(OLD)), {"components": 5}, "not a list of objects"),
    ],
)  # fmt: skip
def test_what_holds_no_module_is_refused_by_name(document, config, message):
    with pytest.raises(FormatError, match=message):
        choose_content(document, config)


def test_a_spin_command():
    document = manifest(SPIN, layer(OLD))
    assert choose_content(document, spin("job", kind="command", executor="")) == choose_content(
        manifest("a/b", layer(OLD)), {}
    )


@pytest.mark.parametrize("platform", [("wasip1", "wasm"), ("wasi", "wasm"), ("wasi", "wasm32")])
def test_an_index_names_wasm_in_several_ways(platform):
    kind = "application/vnd.oci.image.manifest.v1+json"
    system, architecture = platform
    entry = {**layer(kind), "platform": {"os": system, "architecture": architecture}}
    other = {**layer(kind, OTHER), "platform": {"os": "linux", "architecture": "arm64"}}
    assert choose_manifest({"manifests": [other, entry]}).digest == DIGEST


@given(st.text(alphabet="ab./", max_size=30))
def test_paths_never_leave_the_root(path):
    assert not normalise_path(path).startswith("/")
    assert ".." not in normalise_path(path).split("/")


def test_mutated_documents_end_in_a_decision_or_a_refusal():
    done, chosen = fuzz_registry.fuzz(seed=0, seconds=20, inputs=3000)
    assert done == 3000
    assert 0 < chosen < done


def test_what_push_makes_is_what_pull_takes():
    artifact = make_artifact(
        digest=DIGEST,
        size_bytes=9,
        name="a.wasm",
        created="2026-01-01T00:00:00+00:00",
        component={"imports": ["wasi:cli/stdout@0.2.0"], "exports": ["run"]},
        annotations={"k": "v"},
    )
    document = parse_object(artifact.manifest, "x")
    content = choose_content(document, {})
    assert isinstance(content, ModuleLayer)
    assert (content.layer.digest, content.layer.size) == (DIGEST, 9)
    config = json.loads(artifact.config)
    assert document["config"]["digest"] == digest_of(artifact.config)
    assert (config["os"], config["architecture"]) == ("wasip2", "wasm")
    assert config["layerDigests"] == [DIGEST]
    assert config["component"]["exports"] == ["run"]


# Signatures


def verifier(payload, signature):
    return signature == b"good" + payload


MANIFEST = json.dumps(manifest("a/b", layer("application/wasm"))).encode()
INDEX = json.dumps(
    {"manifests": [{"mediaType": "a/b", "digest": digest_of(MANIFEST), "size": 1}]}
).encode()
COMPAT = json.dumps(manifest("a/b", layer(TAR))).encode()


@pytest.mark.parametrize(
    ("manifests", "signed", "signature", "module", "is_good"),
    [
        ((MANIFEST,), MANIFEST, b"good", DIGEST, True),
        ((INDEX, MANIFEST), INDEX, b"good", DIGEST, True),
        ((INDEX, MANIFEST), MANIFEST, b"good", DIGEST, True),
        ((COMPAT,), COMPAT, b"good", OTHER, False),
        ((MANIFEST,), MANIFEST, b"bad", DIGEST, False),
        ((MANIFEST,), INDEX, b"good", DIGEST, False),
        ((MANIFEST,), MANIFEST, b"good", OTHER, False),
        ((MANIFEST, INDEX), MANIFEST, b"good", DIGEST, False),
        ((INDEX, COMPAT), INDEX, b"good", DIGEST, False),
        ((), MANIFEST, b"good", DIGEST, False),
        ((b"[",), b"[", b"good", DIGEST, False),
    ],
)
def test_a_signature_counts_for_what_leads_to_the_module(
    manifests, signed, signature, module, is_good
):
    payload = make_payload("r.example/a", digest_of(signed))
    evidence = Evidence(manifests=manifests, signatures=(Signature(payload, signature + payload),))
    assert is_signed(evidence, module, verifier) is is_good
    assert decode_evidence(encode_evidence(evidence)) == evidence


def test_a_file_of_a_layer_counts_for_whoever_took_it_out_of_that_image():
    index = json.dumps(
        {"manifests": [{"mediaType": "a/b", "digest": digest_of(COMPAT), "size": 1}]}
    ).encode()
    for signed, chain in ((COMPAT, (COMPAT,)), (index, (index, COMPAT))):
        payload = make_payload("r.example/a", digest_of(signed))
        evidence = Evidence(manifests=chain, signatures=(Signature(payload, b"good" + payload),))
        for image, is_good in ((COMPAT, True), (MANIFEST, False), (index, chain == (index,))):
            extracted_from = digest_of(image)
            assert is_signed(evidence, OTHER, verifier, extracted_from=extracted_from) is is_good
        with pytest.raises(FormatError, match="only a node that pulls the image itself"):
            trace_digests(evidence, OTHER)


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"{}", b'{"critical": 1}', b'{"critical": {"type": "x", "image": {}}}', b"[" * 9000,
        b'{"critical": {"type": "cosign container image signature", "image": []}}',
    ],
)  # fmt: skip
def test_what_is_no_payload_names_nothing(payload):
    assert signed_digest(payload) == ""
    evidence = Evidence(manifests=(MANIFEST,), signatures=(Signature(payload, b"good" + payload),))
    assert not is_signed(evidence, DIGEST, verifier)


def test_without_a_module_any_signed_payload_counts():
    """A bundle's index is signed as it is, and stands for itself."""
    good = Evidence(signatures=(Signature(b"index", b"goodindex"),))
    bad = Evidence(manifests=(MANIFEST,), signatures=(Signature(b"index", b"goodother"),))
    assert is_signed(good, None, verifier)
    assert not is_signed(bad, None, verifier)
    assert not is_signed(Evidence(), None, verifier)
    assert not is_signed(good, DIGEST, verifier)


@given(st.text(max_size=80))
def test_damaged_evidence_proves_nothing(text):
    assert not is_signed(decode_evidence(text), DIGEST, lambda *_: True)
