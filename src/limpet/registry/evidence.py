"""What stands for a module or a bundle: signatures, and the manifests that lead from them to it. As data."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

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
    """Evidence as text, to be kept."""
    pairs = [[_packed(each.payload), _packed(each.signature)] for each in evidence.signatures]
    manifests = [_packed(manifest) for manifest in evidence.manifests]
    return json.dumps({"manifests": manifests, "signatures": pairs})


def decode_evidence(text: str) -> Evidence:
    """What `encode_evidence` made; empty for anything else, which then proves nothing."""
    try:
        document = json.loads(text)
        return Evidence(
            manifests=tuple(base64.b64decode(each) for each in document["manifests"]),
            signatures=tuple(
                Signature(base64.b64decode(payload), base64.b64decode(signature))
                for payload, signature in document["signatures"]
            ),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return Evidence()


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode()
