"""Judge an image's signatures, in a process without network and files: what is parsed is a stranger's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.registry.signatures import MAX_EVIDENCE_BYTES, decode_evidence, is_signed
from limpet.signing import load_public_keys
from limpet.worker.messages import Failed, Verified

if TYPE_CHECKING:
    from limpet.worker.channel import Channel
    from limpet.worker.config import VerifyConfig


def verify_evidence(channel: Channel, config: VerifyConfig, descriptor: int) -> int:
    """Tell the agent whether one of the keys has signed; return the exit code."""
    try:
        keys = load_public_keys([config.keys])
    except LimpetError as error:
        channel.send(Failed("InvalidKey", str(error)[:2000], False))
        return 1
    evidence = decode_evidence(
        os.pread(descriptor, MAX_EVIDENCE_BYTES, 0).decode("ascii", "replace")
    )
    fingerprints = tuple(key.fingerprint for key in keys)
    verdict = is_signed(evidence, config.module, [key.verify for key in keys])
    channel.send(Verified(verdict, len(evidence.signatures), fingerprints))
    return 0
