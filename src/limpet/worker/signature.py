"""What the `signature` role does: say whose signature something has.

`cryptography` takes megabytes and is C and Rust code that reads what strangers wrote: the agent has neither.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.signing import load_public_keys

if TYPE_CHECKING:
    from limpet.worker.config import SignatureConfig


def verify_signature(config: SignatureConfig, answer: int) -> int:
    """Write `{"signed_by": fingerprint or null}` or `{"problem": why}`; return the exit code."""
    told: dict[str, str | None]
    try:
        keys = load_public_keys(config.keys)
        fitting = (key for key in keys if key.verify(config.data, config.signature))
        key = next(fitting, None)
        told = {"signed_by": key.fingerprint if key else None}
    except LimpetError as error:
        told = {"problem": str(error)}
    os.write(answer, json.dumps(told).encode())
    return 0
