"""A worker's output on its way into the app's log, no faster than the log may grow.

A worker that writes more than its app's share finds its pipe full and waits: the flood costs it its
own time, not the agent's, the neighbours' or the flash's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING

from limpet.store.logs import LogFullError

if TYPE_CHECKING:
    from limpet.settings import LogSettings
    from limpet.store.logs import AppLog

_READ_BYTES = 64 << 10
_RETRY_SECONDS = 1.0


class LogStream:
    """Reads one pipe until its end."""

    def __init__(
        self,
        descriptor: int,
        log: AppLog,
        settings: LogSettings,
        *,
        stream: bytes,
        worker: str,
        incarnation: int,
        registry: set[LogStream],
    ) -> None:
        self._descriptor = descriptor
        self._log = log
        self._rate = float(settings.bytes_per_second)
        self._budget = self._rate
        self._filled_at = time.monotonic()
        self._stream = stream
        self._worker = worker
        self._incarnation = incarnation
        self._registry = registry
        self._timer: asyncio.TimerHandle | None = None
        registry.add(self)
        os.set_blocking(descriptor, False)
        self._resume()

    def _resume(self) -> None:
        self._timer = None
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def _pause(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._descriptor)
        self._timer = loop.call_later(seconds, self._resume)

    def _read(self) -> None:
        now = time.monotonic()
        self._budget = min(self._rate, self._budget + (now - self._filled_at) * self._rate)
        self._filled_at = now
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        self._budget -= len(data)
        try:
            self._log.append(
                data, stream=self._stream, worker=self._worker, incarnation=self._incarnation
            )
        except LogFullError:
            # A full disk: these lines are lost, the app runs on, and logging goes on when it can.
            self._pause(_RETRY_SECONDS)
            return
        if self._budget < 0:
            self._pause(-self._budget / self._rate)

    def close(self) -> None:
        """Stop reading."""
        if self not in self._registry:
            return
        self._registry.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        with contextlib.suppress(LogFullError):  # a full disk: what has no newline yet is lost
            self._log.end(stream=self._stream, worker=self._worker, incarnation=self._incarnation)
