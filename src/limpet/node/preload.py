"""Import once, in the launcher, what agent, zygote and workers share; then keep its pages shared.

Imported on purpose without OpenSSL: neither asyncio nor hashlib needs it here, and it would cost every
node seven megabytes. A process that speaks TLS imports `ssl` itself, after the fork.
"""

from __future__ import annotations

import gc
import sys

_OPENSSL = ("ssl", "_ssl", "_hashlib")


def preload() -> None:
    """Import, then freeze: a garbage collection in a child must not copy the parent's pages."""
    hidden = [name for name in _OPENSSL if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # import then fails, as documented
    try:
        import asyncio
        import encodings.idna
        import hashlib

        import limpet.api.server
        import limpet.node.agent
        import limpet.worker.zygote
    finally:
        for name in hidden:
            del sys.modules[name]
    del asyncio, encodings, hashlib, limpet
    gc.collect()
    gc.freeze()
