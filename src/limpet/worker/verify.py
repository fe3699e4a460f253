"""What the `verify` role does: say whose signature something has. What is parsed is a stranger's.

`cryptography` takes megabytes and is C and Rust code that reads what strangers wrote: the agent has neither.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.registry.evidence import decode_evidence
from limpet.registry.signatures import is_signed
from limpet.signing import load_public_keys
from limpet.worker.messages import Failed, Verified

if TYPE_CHECKING:
    from limpet.worker.channel import Channel
    from limpet.worker.config import VerifyConfig

# They are named in a message; a packet holds some hundreds.
_MOST_NAMED_KEYS = 16


def verify_evidence(channel: Channel, config: VerifyConfig, descriptor: int) -> int:
    """Tell the agent which of the keys has signed, if one has; return the exit code."""
    try:
        keys = load_public_keys(config.keys)
    except LimpetError as error:
        channel.send(Failed("InvalidKey", str(error)[:2000], False))
        return 1
    text = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode("ascii", "replace")
    evidence = decode_evidence(text)
    fitting = (
        key
        for key in keys
        if is_signed(evidence, config.module, key.verify, extracted_from=config.extracted_from)
    )
    signer = next(fitting, None)
    fingerprints = tuple(key.fingerprint for key in keys[:_MOST_NAMED_KEYS])
    channel.send(
        Verified(signer.fingerprint if signer else "", len(evidence.signatures), fingerprints)
    )
    return 0
