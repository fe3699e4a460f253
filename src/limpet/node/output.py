"""What an app's workers print: their pipes, read into the app's log."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.node.streams import LogStream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limpet.settings import LogSettings
    from limpet.store.logs import AppLog, Record


class Output:
    """One app's; its workers are called after the app and their slot."""

    def __init__(self, log: AppLog, settings: LogSettings, *, app: str) -> None:
        self.log = log
        self._settings = settings
        self._app = app
        self._streams: set[LogStream] = set()

    @property
    def is_read(self) -> bool:
        """Whether everything that was printed is in the log."""
        return not self._streams

    def read(self, logs: tuple[int, int], *, slot: int, incarnation: int) -> None:
        """Read a worker's standard output and error until their ends; the descriptors are taken over."""
        for descriptor, stream in zip(logs, (b"o", b"e"), strict=True):
            LogStream(
                descriptor,
                self.log,
                self._settings,
                stream=stream,
                worker=self._worker(slot),
                incarnation=incarnation,
                registry=self._streams,
            )

    def last_run(self) -> int:
        """Return the highest incarnation in the log; 0 when there is none, or none can be read."""
        try:
            return self.log.last_run()
        except LimpetError:  # logs are worth a try, not an app
            return 0

    def last_lines(self, runs: Iterable[tuple[int, int]], lines: int) -> list[Record]:
        """Return the last lines of these runs (slot, incarnation). Raises `LogFullError`."""
        found: list[Record] = []
        for slot, incarnation in runs:
            found += self.log.read(tail=lines, runs=[(self._worker(slot), incarnation)])
        return found[-4 * lines :]

    def _worker(self, slot: int) -> str:
        return f"{self._app}-{slot}"

    async def finish(self, seconds: float = 1.0) -> None:
        """Let the pipes run empty."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._streams:  # noqa: ASYNC110 - any of many ends
                    await asyncio.sleep(0.01)

    def close(self) -> None:
        """Stop reading."""
        for stream in list(self._streams):
            stream.close()


def open_log_pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the ends to read of a worker's output and error, then those to write. Raises OSError."""
    stdout = os.pipe2(os.O_CLOEXEC)
    try:
        stderr = os.pipe2(os.O_CLOEXEC)
    except OSError:
        for descriptor in stdout:
            os.close(descriptor)
        raise
    return (stdout[0], stderr[0]), (stdout[1], stderr[1])
