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
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.registry.documents import MAX_DOCUMENT_BYTES, digest_of, parse_object, read_descriptors
from limpet.registry.errors import FormatError, MissingError
from limpet.registry.formats import TAR_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from limpet.registry.client import Registry

PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
_KIND = "cosign container image signature"
MAX_SIGNATURES = 16
_MOST_REFERRERS = 8
_MOST_PAYLOAD_BYTES = 16 << 10
_MOST_SIGNATURE_CHARACTERS = 4096
MAX_EVIDENCE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Signature:
    """A payload, and a signature of it; neither is worth anything before it is verified."""

    payload: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The manifests that a module came by (perhaps an index first), and signatures found for them."""

    manifests: tuple[bytes, ...] = ()
    signatures: tuple[Signature, ...] = ()


def encode_evidence(evidence: Evidence) -> str:
    """Evidence as text, to be kept: JSON with base64."""
    pairs = [[_packed(each.payload), _packed(each.signature)] for each in evidence.signatures]
    manifests = [_packed(manifest) for manifest in evidence.manifests]
    return json.dumps({"manifests": manifests, "signatures": pairs})


def decode_evidence(text: str) -> Evidence:
    """What `encode_evidence` made; empty for anything else, which then proves nothing."""
    try:
        return parse_evidence(json.loads(text))
    except (FormatError, ValueError, RecursionError):
        return Evidence()


def parse_evidence(document: object) -> Evidence:
    """A stranger's JSON, of the shape that `encode_evidence` makes. Raises `FormatError`."""
    try:
        if not isinstance(document, dict):
            raise TypeError("not an object")
        evidence = Evidence(
            manifests=tuple(base64.b64decode(each) for each in document["manifests"]),
            signatures=tuple(
                Signature(base64.b64decode(payload), base64.b64decode(signature))
                for payload, signature in document["signatures"]
            ),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(
            "the evidence is not a list of manifests and one of signatures"
        ) from error
    pieces = [*evidence.manifests, *(e.payload + e.signature for e in evidence.signatures)]
    # In base64 four bytes stand for three.
    is_large = sum(len(piece) for piece in pieces) > MAX_EVIDENCE_BYTES // 2
    if is_large or len(evidence.signatures) > MAX_SIGNATURES:
        raise FormatError(
            f"the evidence has over {MAX_EVIDENCE_BYTES >> 11} KiB or {MAX_SIGNATURES} signatures"
        )
    return evidence


def collect_signatures(registry: Registry, digests: Iterable[str]) -> tuple[Signature, ...]:
    """Whatever signatures the registry has for these manifests."""
    found: list[Signature] = []
    for digest in digests:
        manifests = []
        with contextlib.suppress(MissingError):
            manifests.append(registry.manifest(signature_tag(digest))[0])
        manifests += _referrers(registry, digest)
        for manifest in manifests:
            found += _read_signatures(registry, manifest)
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
    evidence: Evidence, module: str, verifiers: Sequence[Callable[[bytes, bytes], bool]]
) -> bool:
    """Whether some verifier (a key's `verify`) accepts a signature over what a module came by."""
    try:
        digests = trace_digests(evidence, module)
    except FormatError:
        return False
    for each in evidence.signatures:
        if not any(verify(each.payload, each.signature) for verify in verifiers):
            continue
        if signed_digest(each.payload) in digests:
            return True
    return False


def trace_digests(evidence: Evidence, module: str) -> frozenset[str]:
    """The digests of the manifests, each of which names the next, and the last the module.

    A compat image's module is a file within a layer, which the manifest can't name. Raises `FormatError`
    for a chain that is none.
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
    is_named = module in {layer.digest for layer in layers}
    if not is_named and not any(layer.media_type in TAR_TYPES for layer in layers):
        raise FormatError("a kept manifest does not name the module")
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


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _referrers(registry: Registry, digest: str) -> list[bytes]:
    """Manifests that refer to the image, from a registry that can tell."""
    with registry.ask("GET", f"referrers/{digest}", {}) as response:
        if response.status != 200:
            return []
        try:
            index = parse_object(response.body(MAX_DOCUMENT_BYTES), "the referrers")
            entries = read_descriptors(index.get("manifests"), "the referrers' manifests")
        except LimpetError:
            return []
    return [registry.manifest(entry.digest)[0] for entry in entries[:_MOST_REFERRERS]]


def _read_signatures(registry: Registry, manifest: bytes) -> list[Signature]:
    """The signatures that a manifest holds; what is none is passed over."""
    document = parse_object(manifest, "a signature's manifest")
    found = []
    layers = read_descriptors(document.get("layers", []), "a signature's layers")
    for layer in layers[:MAX_SIGNATURES]:
        text = layer.annotations.get(ANNOTATION, "")
        if layer.media_type != PAYLOAD_TYPE or not text or len(text) > _MOST_SIGNATURE_CHARACTERS:
            continue
        with contextlib.suppress(binascii.Error, ValueError):
            signature = base64.b64decode(text, validate=True)
            payload = registry.small_blob(layer, "a signature", _MOST_PAYLOAD_BYTES)
            found.append(Signature(payload, signature))
    return found
