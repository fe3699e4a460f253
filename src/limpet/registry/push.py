"""Putting a module into a registry as a CNCF Wasm OCI artifact, and a signature beside it.

Blobs go up in one piece (distribution specification 1.1, "Pushing a blob monolithically"); what the registry
has already is not sent again.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from limpet.registry.documents import Descriptor, digest_of, parse_object
from limpet.registry.errors import FetchError, FormatError, MissingError, UnauthorizedError
from limpet.registry.evidence import MAX_SIGNATURES
from limpet.registry.exchange import failed
from limpet.registry.formats import WASM_CONFIG, WASM_LAYER
from limpet.registry.pull import persist
from limpet.registry.signatures import (
    ANNOTATION,
    PAYLOAD_TYPE,
    make_payload,
    signature_tag,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from limpet.registry.client import Registry
    from limpet.registry.exchange import Response
    from limpet.registry.transfer import Patience

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A module as it is to be in the registry: three documents that name each other by digest."""

    layer: Descriptor
    config: bytes
    manifest: bytes

    @property
    def digest(self) -> str:
        """The digest that the image is pinned by."""
        return digest_of(self.manifest)


def make_artifact(
    *,
    digest: str,
    size_bytes: int,
    name: str,
    created: str,
    component: Mapping[str, Sequence[str]] | None,
    annotations: Mapping[str, str],
) -> Artifact:
    """Describe a module (wg-wasm, "Wasm OCI artifact layout", v0). Pure: equal arguments, equal digest.

    `component` has the `imports` and `exports` of a component, None for a core module; `created` is
    RFC 3339.
    """
    layer = Descriptor(media_type=WASM_LAYER, digest=digest, size=size_bytes)
    config: dict[str, object] = {
        "created": created,
        "architecture": "wasm",
        "os": "wasip1" if component is None else "wasip2",
        "layerDigests": [digest],
    }
    if component is not None:
        config["component"] = {key: list(value) for key, value in component.items()}
    encoded = _encode(config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _describe(WASM_CONFIG, encoded),
        "layers": [
            {
                "mediaType": WASM_LAYER,
                "digest": digest,
                "size": size_bytes,
                "annotations": {"org.opencontainers.image.title": name},
            }
        ],
        "annotations": {"org.opencontainers.image.created": created, **annotations},
    }
    return Artifact(layer=layer, config=encoded, manifest=_encode(manifest))


def push_artifact(
    registry: Registry,
    artifact: Artifact,
    module: IO[bytes],
    *,
    patience: Patience,
    report: Callable[[int, int], None],
) -> None:
    """Upload a module and what describes it; the tag comes last, so that it never names half an image."""
    layer = artifact.layer
    upload_blob(registry, layer.digest, layer.size, module, patience=patience, report=report)
    _upload_bytes(registry, artifact.config, patience)
    put_manifest(registry, registry.reference.version, artifact.manifest, patience)


def push_signature(
    registry: Registry,
    digest: str,
    sign: Callable[[bytes], bytes],
    *,
    patience: Patience,
) -> None:
    """Sign an image and keep the signature beside it, as `cosign sign --key` does, with those it has."""
    payload = make_payload(registry.reference.name, digest)
    layer = {
        **_describe(PAYLOAD_TYPE, payload),
        "annotations": {ANNOTATION: base64.b64encode(sign(payload)).decode()},
    }
    layers = [*_signature_layers(registry, digest, patience), layer]
    config = _encode(
        {
            "architecture": "",
            "os": "",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [each["digest"] for each in layers]},
        }
    )
    _upload_bytes(registry, payload, patience)
    _upload_bytes(registry, config, patience)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _describe(_IMAGE_CONFIG, config),
        "layers": layers,
    }
    put_manifest(registry, signature_tag(digest), _encode(manifest), patience)


def upload_blob(
    registry: Registry,
    digest: str,
    size_bytes: int,
    file: IO[bytes],
    *,
    patience: Patience,
    report: Callable[[int, int], None],
) -> None:
    """Send a blob unless the registry has it. Raises `FetchError` or `FetchFailedError`."""

    def attempt() -> None:
        with registry.ask("HEAD", f"blobs/{digest}", {}) as response:
            if response.status == 200:
                report(size_bytes, size_bytes)
                return
        with registry.ask("POST", "blobs/uploads/", {"Content-Length": "0"}) as response:
            _require(response.status == 202, response, "start an upload")
            place = registry.follow(response.header("Location"))
        file.seek(0)
        separator = "&" if urlsplit(place).query else "?"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)}
        body = _Metered(file, size_bytes, report)
        url = f"{place}{separator}digest={digest}"
        with registry.ask_url("PUT", url, headers, body=body) as response:
            _require(response.status == 201, response, "finish an upload")

    persist(attempt, patience)


def put_manifest(registry: Registry, version: str, manifest: bytes, patience: Patience) -> None:
    """Give a manifest its tag, or its digest alone."""

    def attempt() -> None:
        headers = {"Content-Type": _MANIFEST}
        with registry.ask("PUT", f"manifests/{version}", headers, body=manifest) as response:
            _require(response.status == 201, response, f"tag {version}")

    persist(attempt, patience)


def _signature_layers(
    registry: Registry, digest: str, patience: Patience
) -> list[dict[str, object]]:
    """The signatures that an image has; another's signature is kept."""
    try:
        data, _ = persist(lambda: registry.manifest(signature_tag(digest)), patience)
    except MissingError:
        return []
    layers = parse_object(data, "the image's signatures").get("layers")
    if not isinstance(layers, list) or len(layers) >= MAX_SIGNATURES:
        raise FormatError(f"{registry.reference} has no room for another signature")
    return [layer for layer in layers if isinstance(layer, dict) and "digest" in layer]


def _upload_bytes(registry: Registry, data: bytes, patience: Patience) -> None:
    upload_blob(
        registry,
        digest_of(data),
        len(data),
        io.BytesIO(data),
        patience=patience,
        report=lambda _done, _total: None,
    )


def _require(is_good: bool, response: Response, what: str) -> None:  # noqa: FBT001
    if is_good:
        return
    if response.status in (401, 403):
        raise UnauthorizedError(f"the registry does not allow these credentials to {what}")
    error = failed(response, f"can't {what}")
    if response.status == 404:
        raise FetchError(f"{error}: is there such a registry and repository?")
    raise error


def _describe(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _encode(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


class _Metered(io.BufferedIOBase):
    """A file that tells how much of it was read."""

    def __init__(self, file: IO[bytes], size: int, report: Callable[[int, int], None]) -> None:
        self._file = file
        self._size = size
        self._report = report
        self._done = 0

    def read(self, size: int | None = -1) -> bytes:
        data = self._file.read(-1 if size is None else size)
        self._done += len(data)
        self._report(self._done, self._size)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._done = 0
        return self._file.seek(offset, whence)
