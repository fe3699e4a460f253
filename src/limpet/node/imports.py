"""What the node's processes import, and what they leave out, to stay small."""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from limpet.worker.immortal import immortalise

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPENSSL = ("ssl", "_ssl", "_hashlib")


@contextmanager
def without_openssl() -> Iterator[None]:
    """Import without OpenSSL, which costs seven megabytes: asyncio and hashlib can do without.

    A process that speaks TLS (a download) imports `ssl` itself, later.
    """
    hidden = [name for name in _OPENSSL if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # makes the import fail
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def preload() -> None:
    """Import what agent, zygote and workers share, before they are forked."""
    with without_openssl():
        import hashlib

        import limpet.http1.connection
        import limpet.node.launcher
        import limpet.telemetry.histogram
        import limpet.worker.config
    del hashlib, limpet
    gc.collect()
    immortalise()
    gc.freeze()


def freeze() -> None:
    """Move every object that exists out of the collector's sight: looking at one copies its page."""
    gc.collect()
    gc.freeze()
