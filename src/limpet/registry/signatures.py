"""Cosign's signatures of an image: found in the registry, kept as evidence, judged without a network.

A signature is a layer of a manifest at the tag `sha256-HEX.sig` (cosign, specs/SIGNATURE_SPEC.md), or of
one that refers to the image (distribution specification 1.1, referrers). The layer is a "simple signing"
payload that names the image's digest; the signature is in its annotation.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from typing import TYPE_CHECKING

from limpet.registry.documents import MAX_DOCUMENT_BYTES, digest_of, parse_object, read_descriptors
from limpet.registry.errors import FetchError, FormatError, MissingError
from limpet.registry.evidence import MAX_SIGNATURES, Signature
from limpet.registry.formats import TAR_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from limpet.registry.client import Registry
    from limpet.registry.documents import Descriptor
    from limpet.registry.evidence import Evidence

PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
_KIND = "cosign container image signature"
# Anybody who may push can refer to an image. What can't be reached now may be there later: no such error.
_NO_SIGNATURE = (MissingError, FetchError, FormatError)
_MOST_REFERRERS = 8
_MOST_PAYLOAD_BYTES = 16 << 10
_MOST_SIGNATURE_CHARACTERS = 4096


def collect_signatures(registry: Registry, digests: Iterable[str]) -> tuple[Signature, ...]:
    """Whatever signatures the registry has for these manifests; what is none is passed over.

    Raises `FetchFailedError` for what did not come this time, `UnauthorizedError`.
    """
    found: list[Signature] = []
    for digest in digests:
        for version in (signature_tag(digest), *_referrers(registry, digest)):
            with contextlib.suppress(*_NO_SIGNATURE):
                found += _read_signatures(registry, registry.manifest(version)[0])
    return tuple(found[:MAX_SIGNATURES])


def signature_tag(digest: str) -> str:
    """Where cosign keeps an image's signatures."""
    return f"{digest.replace(':', '-')}.sig"


def make_payload(name: str, digest: str) -> bytes:
    """What cosign signs of an image (containers/image, "simple signing", without creator and time)."""
    document = {
        "critical": {
            "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": digest},
            "type": _KIND,
        },
        "optional": None,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def is_signed(
    evidence: Evidence,
    module: str | None,
    verify: Callable[[bytes, bytes], bool],
    *,
    extracted_from: str = "",
) -> bool:
    """Whether a key's `verify` accepts a signature over what a module came by.

    Without a module, whether it accepts one over its payload, whatever that says. `extracted_from` is
    `trace_digests`'.
    """
    accepted = (each for each in evidence.signatures if verify(each.payload, each.signature))
    if module is None:
        return any(True for _ in accepted)
    try:
        digests = trace_digests(evidence, module, extracted_from=extracted_from)
    except FormatError:
        return False
    return any(signed_digest(each.payload) in digests for each in accepted)


def trace_digests(evidence: Evidence, module: str, *, extracted_from: str = "") -> frozenset[str]:
    """The digests of the manifests, each of which names the next, and the last the module.

    A compat image's module is a file within a layer, which no manifest can name: such a chain leads to it
    only where whoever asks took it out of that image: `extracted_from` is the digest of its manifest.
    Raises `FormatError` for a chain that is none.
    """
    digests = [digest_of(manifest) for manifest in evidence.manifests]
    documents = [parse_object(manifest, "a kept manifest") for manifest in evidence.manifests]
    if not documents:
        return frozenset()
    for document, digest in zip(documents[:-1], digests[1:], strict=True):
        entries = read_descriptors(document.get("manifests"), "a kept index")
        if digest not in {entry.digest for entry in entries}:
            raise FormatError("a kept index does not name the manifest that follows")
    layers = read_descriptors(documents[-1].get("layers"), "a kept manifest's layers")
    if digests[-1] != extracted_from and module not in {layer.digest for layer in layers}:
        raise FormatError(f"a kept manifest does not name the module{_explain(layers)}")
    return frozenset(digests)


def signed_digest(payload: bytes) -> str:
    """The digest that a payload is about; empty for what is no payload."""
    try:
        critical = parse_object(payload, "a signature's payload")["critical"]
        if not isinstance(critical, dict) or critical.get("type") != _KIND:
            return ""
        return str(critical["image"]["docker-manifest-digest"])
    except (FormatError, KeyError, TypeError):
        return ""


def _explain(layers: tuple[Descriptor, ...]) -> str:
    if not any(layer.media_type in TAR_TYPES for layer in layers):
        return ""
    return (
        ": in a container image it is a file within a layer, and only a node that pulls the image itself "
        "knows which; push the module as an image of its own (limpet pull, limpet push --sign)"
    )


def _referrers(registry: Registry, digest: str) -> list[str]:
    """The manifests that refer to the image, from a registry that can tell."""
    with registry.ask("GET", f"referrers/{digest}", {}) as response:
        if response.status != 200:
            return []
        try:
            index = parse_object(response.body(MAX_DOCUMENT_BYTES), "the referrers")
            entries = read_descriptors(index.get("manifests"), "the referrers' manifests")
        except (FetchError, FormatError):
            return []
    return [entry.digest for entry in entries[:_MOST_REFERRERS]]


def _read_signatures(registry: Registry, manifest: bytes) -> list[Signature]:
    """The signatures that a manifest holds. Raises `FormatError` for one that holds something else."""
    document = parse_object(manifest, "a signature's manifest")
    found = []
    layers = read_descriptors(document.get("layers", []), "a signature's layers")
    for layer in layers[:MAX_SIGNATURES]:
        text = layer.annotations.get(ANNOTATION, "")
        if layer.media_type != PAYLOAD_TYPE or not text or len(text) > _MOST_SIGNATURE_CHARACTERS:
            continue
        with contextlib.suppress(binascii.Error, ValueError, *_NO_SIGNATURE):
            signature = base64.b64decode(text, validate=True)
            payload = registry.small_blob(layer, "a signature", _MOST_PAYLOAD_BYTES)
            found.append(Signature(payload, signature))
    return found
