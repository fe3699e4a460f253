"""What stands for a module or a bundle: signatures, and the manifests that lead from them to it. As data."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

from limpet.registry.errors import FormatError

MAX_EVIDENCE_BYTES = 1 << 20
MAX_SIGNATURES = 16


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
    """Evidence as text, to be kept."""
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


def join_evidence(first: str, second: str) -> str:
    """What two texts say of the same manifests: all signatures, the first's before the second's, up to the
    bounds. Of other manifests the first's, unless only the second has signatures, or says anything at all.
    """
    one, other = decode_evidence(first), decode_evidence(second)
    if one == Evidence() or (other.signatures and not one.signatures):
        return second
    if one.manifests != other.manifests:
        return first
    room = MAX_EVIDENCE_BYTES // 2 - sum(len(manifest) for manifest in one.manifests)
    signatures: list[Signature] = []
    for each in dict.fromkeys((*one.signatures, *other.signatures)):
        size = len(each.payload) + len(each.signature)
        if size <= room and len(signatures) < MAX_SIGNATURES:
            signatures.append(each)
            room -= size
    return encode_evidence(Evidence(manifests=one.manifests, signatures=tuple(signatures)))


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode()
