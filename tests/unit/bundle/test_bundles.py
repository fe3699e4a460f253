"""Whole bundles: written, read, and everything that can be wrong with one."""

from __future__ import annotations

import hashlib
import json
import os

import fuzz_bundle
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from limpet.bundle import layout
from limpet.bundle.errors import BundleError
from limpet.bundle.reading import BundleFile
from limpet.bundle.writing import describe_file, write_bundle
from limpet.errors import LimpetError
from limpet.manifest.problems import ManifestError

from .bundles import MODULE, app, archive, blob_name, make_bundle, make_plan, settings, verify

FIXTURE = hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def assemble(objects, *, config=None, manifest=None, index=None, layers=None, extra=(), omit=()):
    """A bundle made by hand; what is given replaces what would be right."""
    config = layout.encode_config("1") if config is None else config
    encoded = objects if isinstance(objects, bytes) else layout.encode_json({"objects": objects})
    blobs = [config, encoded, MODULE]

    def descriptor(media_type, data, **annotations):
        told = {"mediaType": media_type, "digest": layout.digest_of(data), "size": len(data)}
        return told | ({"annotations": annotations} if annotations else {})

    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": layout.ARTIFACT_TYPE,
        "config": descriptor("application/vnd.limpet.bundle.config.v1+json", config),
        "layers": [
            descriptor(layout.OBJECTS_TYPE, encoded),
            descriptor(layout.MODULE_TYPE, MODULE),
            *(layers or ()),
        ],
    }
    if callable(manifest):
        document = manifest(document) or document
    made = layout.encode_json(document)
    index = layout.encode_index(made) if index is None else index
    pairs = [(layout.LAYOUT, layout.LAYOUT_BYTES), (layout.INDEX, index)]
    pairs += [(blob_name(data), data) for data in (*blobs, made)]
    return archive([pair for pair in [*pairs, *extra] if pair[0] not in omit])


DIGEST = layout.digest_of(MODULE)
GOOD = [{"object": app(), "digest": DIGEST}, {"object": settings()}]


def refusal(tmp_path, data: bytes) -> str:
    path = tmp_path / "bad.bundle"
    path.write_bytes(data)
    with pytest.raises(LimpetError) as caught:
        verify(path)
    assert isinstance(caught.value, BundleError | ManifestError)
    return str(caught.value)


def test_what_is_written_is_read(tmp_path):
    found = verify(make_bundle(tmp_path))
    assert [entry.object["kind"] for entry in found.objects] == ["ConfigMap", "Pod"]
    assert [blob.title for blob in found.contents.modules] == ["hello.wasm"]
    assert [blob.title for blob in found.contents.wheels] == ["limpet-1-py3-none-any.whl"]
    assert layout.parse_info(found.contents.compiled[0]) == (("a.b",), ("_start",), 65536)
    assert found.signature == f"c2lnbmVk{len(found.index)}"
    assert found.digest == layout.digest_of(found.index)


def test_a_blob_is_read_in_pieces(tmp_path):
    with BundleFile(make_bundle(tmp_path)) as opened:
        [blob] = opened.verify().contents.modules
        reader = opened.open_blob(blob)
        assert reader.read(10) + reader.read(5) + reader.read() == MODULE
        assert reader.read(1) == b""
        with (tmp_path / "copy").open("wb") as copy:
            opened.copy_blob(blob, copy)
    assert (tmp_path / "copy").read_bytes() == MODULE


def test_the_same_contents_make_the_same_bytes(tmp_path):
    made = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        path = make_bundle(folder)
        made.append(hashlib.sha256(path.read_bytes()).hexdigest())
        assert os.listdir(folder).count("site.bundle") == 1
    assert made[0] == made[1]


def test_by_hand_is_as_good(tmp_path):
    path = tmp_path / "by-hand.bundle"
    path.write_bytes(assemble(GOOD))
    assert len(verify(path).objects) == 2


def test_a_file_that_changes_while_it_is_written(tmp_path):
    plan = make_plan(tmp_path)
    (tmp_path / "hello.wasm").write_bytes(MODULE[:-1] + b"!")
    target = tmp_path / "site.bundle"
    target.write_bytes(b"the one before")
    with pytest.raises(BundleError, match="changed while it was read"):
        write_bundle(target, plan)
    (tmp_path / "hello.wasm").write_bytes(MODULE[:-1])
    with pytest.raises(BundleError, match="changed while it was read"):
        write_bundle(target, plan)
    assert target.read_bytes() == b"the one before"
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(BundleError, match="can't read"):
        describe_file(tmp_path / "nope", layout.MODULE_TYPE)
    with pytest.raises(BundleError, match="can't open"), BundleFile(tmp_path / "nope"):
        pass
    with pytest.raises(BundleError, match="is not a file"), BundleFile(tmp_path):
        pass
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BundleError, match="is not a file"), BundleFile(tmp_path / "pipe"):
        pass


def _without(key):
    return lambda document: {k: v for k, v in document.items() if k != key}


def _with(**fields):
    return lambda document: document | fields


HUGE = {"mediaType": layout.MODULE_TYPE, "digest": DIGEST, "size": 1 << 40}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"omit": ("oci-layout",)}, "has no oci-layout"),
        ({"omit": ("index.json",)}, "has no index.json"),
        ({"omit": (blob_name(MODULE),)}, "is missing"),
        ({"extra": [("blobs/sha256/" + "0" * 64, b"")]}, "there, but not in the manifest"),
        ({"extra": [("index.json.sig", b"x" * 5000)]}, "larger than 4096 bytes"),
        ({"extra": [("index.json.sig", b"\xff")]}, "is not a signature"),
        ({"index": b"[]"}, "not a JSON object"),
        ({"index": b"{"}, "not JSON"),
        ({"index": b'{"schemaVersion":2,"manifests":[]}'}, "does not name one manifest"),
        ({"index": b'{"a":1,"a":2}'}, "not JSON"),
        ({"index": b"[" * 100_000}, "not JSON"),
        ({"config": b'{"format":2,"limpet":"9"}'}, "a format that this version does not know"),
        ({"manifest": _without("artifactType")}, "not a bundle of Limpet's"),
        ({"manifest": _without("config")}, "config is not a descriptor"),
        ({"manifest": _with(layers={})}, "layers is not a list"),
        ({"manifest": _with(layers=[])}, "does not list one file of objects"),
        (
            {"layers": [{"mediaType": "text/html", "digest": DIGEST, "size": 1}]},
            "text/html is noth",
        ),
        ({"layers": [HUGE]}, "more than a application/wasm may have"),
        ({"layers": [{**HUGE, "size": len(MODULE) + 1}]}, "bytes, not"),
        ({"layers": [{**HUGE, "size": True}]}, "not a number of bytes"),
        ({"layers": [{**HUGE, "size": -1}]}, "not a number of bytes"),
        ({"layers": [{**HUGE, "digest": "sha256:../../x"}]}, "digest is not"),
        ({"layers": [{**HUGE, "size": 1, "annotations": {"a": 1}}]}, "annotations are not texts"),
        (
            {"layers": [{"mediaType": layout.COMPILED_TYPE, "digest": DIGEST, "size": 9}]},
            "compiled",
        ),
        (
            {
                "layers": [
                    {
                        "mediaType": layout.WHEEL_TYPE,
                        "digest": DIGEST,
                        "size": 9,
                        "annotations": {layout.TITLE: "../../evil.whl"},
                    }
                ]
            },
            "none of a wheel's",
        ),
    ],
)
def test_what_no_bundle_has(tmp_path, changes, why):
    assert why in refusal(tmp_path, assemble(GOOD, **changes))


@pytest.mark.parametrize(
    ("objects", "why"),
    [
        (b"[]", "not a JSON object"),
        ([], "not a list of at least one"),
        ([1], "not an object with maybe a digest"),
        ([{"object": settings(), "digest": "x"}], "not an object with maybe a digest"),
        ([{"object": app()}], "an app has a module"),
        ([{"object": settings(), "digest": DIGEST}], "an app has a module, and nothing else"),
        ([{"object": app(), "digest": "sha256:" + "0" * 64}], "its module sha256:000"),
        ([*GOOD, *GOOD], "it has Pod default/hello twice"),
        ([{"object": {"kind": "Nonsense", "apiVersion": "v1"}}], '"Nonsense" is not one of'),
    ],
)
def test_objects_that_cannot_be_used(tmp_path, objects, why):
    assert why in refusal(tmp_path, assemble(objects))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Its path: Hypothesis shows what a test was given."""
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@FIXTURE
@given(length=st.integers(0, 1 << 20))
def test_cut_short_at_any_byte(tmp_path, whole, length):
    data = whole.read_bytes()
    refusal(tmp_path, data[: length % len(data)])


def test_cut_short_at_every_boundary(tmp_path, whole):
    data = whole.read_bytes()
    for length in range(0, len(data), 512):
        refusal(tmp_path, data[:length])


@FIXTURE
@given(at=st.integers(0, 1 << 20), flip=st.integers(1, 255))
def test_a_flipped_byte_is_found(tmp_path, whole, at, flip):
    data = whole.read_bytes()
    made = bytearray(data)
    made[at % len(data)] ^= flip
    path = tmp_path / "flipped.bundle"
    path.write_bytes(made)
    try:
        found = verify(path)
    except LimpetError:
        return
    # What no digest stands for: the signature and the index itself, which the signature is for.
    (tmp_path / "whole.bundle").write_bytes(data)
    before = verify(tmp_path / "whole.bundle")
    assert found.manifest == before.manifest
    assert found.objects == before.objects


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["manifests", "layers", "digest", "size",
                                                       "mediaType", "schemaVersion", "config",
                                                       "artifactType", "objects", "object"]),
                                      inner, max_size=4), max_leaves=20))  # fmt: skip
def test_any_json(document):
    data = json.dumps(document).encode()
    for parse in (layout.parse_index, layout.parse_manifest, layout.parse_objects,
                  layout.parse_config, layout.parse_layout):  # fmt: skip
        try:
            parse(data)
        except BundleError:
            continue


def test_fuzzed_bundles():
    done, good = fuzz_bundle.fuzz(seed=1, seconds=60, inputs=1500)
    assert done == 1500
    assert good
