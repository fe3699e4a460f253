"""The documents of a bundle: OCI image layout, index and manifest (image specification 1.1). Pure.

https://github.com/opencontainers/image-spec: image-layout.md, image-index.md, manifest.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limpet.bundle.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LAYOUT = "oci-layout"
INDEX = "index.json"
SIGNATURE = "index.json.sig"
LAYOUT_BYTES = b'{"imageLayoutVersion":"1.0.0"}'
ARTIFACT_TYPE = "application/vnd.limpet.bundle.v1"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.limpet.bundle.config.v1+json"
OBJECTS_TYPE = "application/vnd.limpet.objects.v1+json"
MODULE_TYPE = "application/wasm"
COMPILED_TYPE = "application/vnd.limpet.compiled.v1"
WHEEL_TYPE = "application/vnd.limpet.wheel.v1"
TITLE = "org.opencontainers.image.title"
COMPILED_NAME = "dev.limpet.compiled.name"
COMPILED_INFO = "dev.limpet.compiled.info"

MAX_DOCUMENT_BYTES = 4 << 20
MAX_OBJECTS_BYTES = 12 << 20
_MAX_BYTES = {
    OBJECTS_TYPE: MAX_OBJECTS_BYTES,
    MODULE_TYPE: 256 << 20,
    COMPILED_TYPE: 1 << 30,
    WHEEL_TYPE: 256 << 20,
    _CONFIG_TYPE: MAX_DOCUMENT_BYTES,
    _MANIFEST_TYPE: MAX_DOCUMENT_BYTES,
}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMPILED = re.compile(r"[0-9a-f]{64}-[A-Za-z0-9._+-]{1,200}\.cwasm")
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,250}\.whl")
_MAX_LAYERS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A blob of a bundle, as a descriptor says it (descriptor.md); `size` is in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The blob's file in the layout."""
        return f"blobs/sha256/{self.digest[7:]}"

    @property
    def title(self) -> str:
        """What people call it; its digest when it has no name."""
        return self.annotations.get(TITLE) or self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a bundle's manifest lists."""

    config: Blob
    objects: Blob
    modules: tuple[Blob, ...] = ()
    compiled: tuple[Blob, ...] = ()
    wheels: tuple[Blob, ...] = ()

    @property
    def layers(self) -> tuple[Blob, ...]:
        """Every blob beside the configuration, in the manifest's order."""
        return (self.objects, *self.modules, *self.compiled, *self.wheels)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectEntry:
    """An object and its module's digest; None for one that is no app.

    `evidence` has the signatures of a registry's module and what they are over; the node judges it.
    """

    object: dict[str, Any]
    digest: str | None
    evidence: dict[str, Any] | None = None


def digest_of(data: bytes) -> str:
    """The digest that names these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def encode_json(document: object) -> bytes:
    """JSON whose bytes depend on nothing but what it says."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def encode_config(version: str) -> bytes:
    """A bundle's configuration."""
    return encode_json({"format": 1, "limpet": version})


def encode_objects(entries: Sequence[ObjectEntry]) -> bytes:
    """A bundle's objects, in order, as `POST /v1/apply` takes them."""
    items = [
        {"object": entry.object}
        | ({"digest": entry.digest} if entry.digest else {})
        | ({"evidence": entry.evidence} if entry.evidence else {})
        for entry in entries
    ]
    return encode_json({"objects": items})


def encode_manifest(contents: Contents) -> bytes:
    """A bundle's manifest."""
    return encode_json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "config": _descriptor(contents.config),
            "layers": [_descriptor(blob) for blob in contents.layers],
        }
    )


def encode_index(manifest: bytes) -> bytes:
    """The index, whose digest stands for everything in the bundle."""
    blob = Blob(media_type=_MANIFEST_TYPE, digest=digest_of(manifest), size=len(manifest))
    return encode_json(
        {
            "schemaVersion": 2,
            "mediaType": _INDEX_TYPE,
            "manifests": [_descriptor(blob) | {"artifactType": ARTIFACT_TYPE}],
        }
    )


def config_blob(data: bytes) -> Blob:
    """The descriptor of a configuration."""
    return Blob(media_type=_CONFIG_TYPE, digest=digest_of(data), size=len(data))


def parse_layout(data: bytes) -> None:
    """Check `oci-layout`. Raises `BundleError`."""
    version = parse_json(data, LAYOUT).get("imageLayoutVersion")
    if version != "1.0.0":
        raise BundleError(f"{LAYOUT} is not of version 1.0.0 of the image layout")


def parse_index(data: bytes) -> Blob:
    """Return the manifest that an index names. Raises `BundleError`."""
    document = parse_json(data, INDEX)
    manifests = document.get("manifests")
    if document.get("schemaVersion") != 2 or not isinstance(manifests, list) or len(manifests) != 1:
        raise BundleError(f"{INDEX} does not name one manifest")
    blob = _parse_descriptor(manifests[0], f"{INDEX}: manifests[0]")
    if blob.media_type != _MANIFEST_TYPE:
        raise BundleError(f"{INDEX} names something else than an image manifest")
    return blob


def parse_manifest(data: bytes) -> Contents:
    """Return what a manifest lists. Raises `BundleError`."""
    document = parse_json(data, "the manifest")
    if document.get("schemaVersion") != 2 or document.get("artifactType") != ARTIFACT_TYPE:
        raise BundleError("it is an image layout, but not a bundle of Limpet's")
    config = _parse_descriptor(document.get("config"), "the manifest: config")
    if config.media_type != _CONFIG_TYPE:
        raise BundleError("the manifest's configuration is not a bundle's")
    layers = document.get("layers")
    if not isinstance(layers, list) or len(layers) > _MAX_LAYERS:
        raise BundleError(f"the manifest: layers is not a list of at most {_MAX_LAYERS}")
    by_type: dict[str, list[Blob]] = {
        kind: [] for kind in (OBJECTS_TYPE, MODULE_TYPE, COMPILED_TYPE, WHEEL_TYPE)
    }
    for index, layer in enumerate(layers):
        blob = _parse_descriptor(layer, f"the manifest: layers[{index}]")
        if blob.media_type not in by_type:
            raise BundleError(
                f"the manifest: layers[{index}]: {blob.media_type} is nothing that this version "
                "knows; use the version of Limpet that made the bundle, or a newer one"
            )
        by_type[blob.media_type].append(blob)
    if len(by_type[OBJECTS_TYPE]) != 1:
        raise BundleError("the manifest does not list one file of objects")
    contents = Contents(
        config=config,
        objects=by_type[OBJECTS_TYPE][0],
        modules=tuple(by_type[MODULE_TYPE]),
        compiled=tuple(by_type[COMPILED_TYPE]),
        wheels=tuple(by_type[WHEEL_TYPE]),
    )
    _check_names(contents)
    return contents


def _check_names(contents: Contents) -> None:
    for blob in contents.compiled:
        if not _COMPILED.fullmatch(blob.annotations.get(COMPILED_NAME, "")):
            raise BundleError("compiled code in it does not say what it is compiled for")
        parse_info(blob)
    titles = [blob.annotations.get(TITLE, "") for blob in contents.wheels]
    if not all(_WHEEL.fullmatch(title) for title in titles) or len(set(titles)) < len(titles):
        raise BundleError("a wheel in it has no name, or one that is none of a wheel's")


def parse_info(blob: Blob) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Return imports, exports and memory in bytes of compiled code. Raises `BundleError`."""
    info = parse_json(
        blob.annotations.get(COMPILED_INFO, "").encode(), "compiled code's description"
    )
    imports, exports, memory = (info.get(key) for key in ("imports", "exports", "memory_bytes"))
    if not (
        isinstance(imports, list)
        and isinstance(exports, list)
        and all(isinstance(each, str) for each in (*imports, *exports))
        and isinstance(memory, int)
        and not isinstance(memory, bool)
        and 0 <= memory < 1 << 48
    ):
        raise BundleError("compiled code's description makes no sense")
    return tuple(imports), tuple(exports), memory


def parse_config(data: bytes) -> str:
    """Return the version of Limpet that made a bundle. Raises `BundleError`."""
    config = parse_json(data, "the configuration")
    version = config.get("limpet")
    if config.get("format") != 1 or not isinstance(version, str) or len(version) > 64:
        raise BundleError(
            "it has a format that this version does not know; use the version of Limpet that made it"
        )
    return version


def parse_objects(data: bytes) -> list[ObjectEntry]:
    """Return the objects; what is in them is for the manifest parser to judge. Raises `BundleError`."""
    items = parse_json(data, "the objects", max_bytes=MAX_OBJECTS_BYTES).get("objects")
    if not isinstance(items, list) or not items:
        raise BundleError("the objects are not a list of at least one")
    entries = []
    for item in items:
        plain = item.get("object") if isinstance(item, dict) else None
        digest = item.get("digest") if isinstance(item, dict) else None
        if not isinstance(plain, dict) or not (digest is None or _is_digest(digest)):
            raise BundleError("an entry of the objects is not an object with maybe a digest")
        evidence = item.get("evidence")
        if not isinstance(evidence, dict | None) or (evidence is not None and digest is None):
            raise BundleError("an entry of the objects has evidence that is of no module")
        entries.append(ObjectEntry(object=plain, digest=digest, evidence=evidence))
    return entries


def parse_json(data: bytes, what: str, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> dict[str, object]:
    """A JSON object of bounded size and depth. Raises `BundleError`."""
    if len(data) > max_bytes:
        raise BundleError(f"{what} is larger than {max_bytes >> 20} MiB")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{what} is not JSON") from error
    if not isinstance(document, dict):
        raise BundleError(f"{what} is not a JSON object")
    return document


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """No name twice: two readers could each take another one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _descriptor(blob: Blob) -> dict[str, object]:
    told: dict[str, object] = {
        "mediaType": blob.media_type,
        "digest": blob.digest,
        "size": blob.size,
    }
    return told | ({"annotations": dict(blob.annotations)} if blob.annotations else {})


def _parse_descriptor(value: object, what: str) -> Blob:
    if not isinstance(value, dict):
        raise BundleError(f"{what} is not a descriptor")
    media_type, digest, size = (value.get(key) for key in ("mediaType", "digest", "size"))
    annotations = value.get("annotations", {})
    if not isinstance(media_type, str) or len(media_type) > 255 or not media_type.isprintable():
        raise BundleError(f"{what}: mediaType is not a media type")
    if not _is_digest(digest):
        raise BundleError(f"{what}: digest is not sha256: and 64 hexadecimal digits")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise BundleError(f"{what}: size is not a number of bytes")
    if size > _MAX_BYTES.get(media_type, 0) and media_type in _MAX_BYTES:
        raise BundleError(f"{what}: {size} bytes are more than a {media_type} may have")
    if not isinstance(annotations, dict) or not all(
        isinstance(text, str) for text in annotations.values()
    ):
        raise BundleError(f"{what}: annotations are not texts")
    return Blob(media_type=media_type, digest=str(digest), size=size, annotations=annotations)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None
