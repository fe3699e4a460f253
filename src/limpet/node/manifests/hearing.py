"""Hearing of changes in the manifests folder, by inotify, and waiting them out."""

from __future__ import annotations

import asyncio
import posixpath
import time
from typing import TYPE_CHECKING

from limpet.linux import inotify

if TYPE_CHECKING:
    from pathlib import Path

PARENT = ".."
"""The folder that the manifests folder is in, among those that are watched."""

_SETTLE_SECONDS = 0.3
_MOST_SETTLE_SECONDS = 3.0
# A file that is open for writing is left alone that long.
_WRITING_SECONDS = 10.0


class Hearing:
    """What has stirred since the last look. Without inotify nothing ever does."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._inotify: inotify.Inotify | None = None
        self._folders: dict[int, str] = {}
        self._writing: dict[str, float] = {}
        self._stirred = asyncio.Event()

    def open(self) -> None:
        """Begin to listen; nothing is watched yet. Raises OSError."""
        self._inotify = inotify.Inotify()
        asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._hear)

    def close(self) -> None:
        """Stop listening."""
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    @property
    def is_open(self) -> bool:
        """Whether anything can be heard."""
        return self._inotify is not None

    def begin_watches(self) -> Watches:
        """Return what is to be watched from now on, to be filled and then given to `end_watches`."""
        return Watches(self._inotify)

    def end_watches(self, watches: Watches) -> None:
        """Go by what is watched now."""
        self._folders = watches.folders

    def being_written(self) -> frozenset[str]:
        """The files that somebody has begun to write, not long ago, and has not closed."""
        now = time.monotonic()
        for path, since in list(self._writing.items()):
            if now - since >= _WRITING_SECONDS:
                self._writing.pop(path, None)
        return frozenset(self._writing)

    async def wait(self, seconds: float) -> None:
        """Wait for a change and then for its end, or so long; less while a file is being written."""
        if self._writing:
            seconds = min(seconds, _WRITING_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        except TimeoutError:
            return
        deadline = time.monotonic() + _MOST_SETTLE_SECONDS
        while self._stirred.is_set() and time.monotonic() < deadline:
            self._stirred.clear()
            await asyncio.sleep(_SETTLE_SECONDS)
        self._stirred.clear()

    def _hear(self) -> None:
        """Note what inotify says; looking comes later."""
        assert self._inotify is not None, "it is read while it is open"
        for notice in self._inotify.read():
            folder = self._folders.get(notice.watch)
            if notice.watch >= 0 and folder is None:
                continue
            if folder == PARENT:
                if notice.name == self._name:
                    self._stirred.set()
                continue
            path = posixpath.join(folder or "", notice.name)
            if notice.mask & inotify.MODIFY:
                self._writing.setdefault(path, time.monotonic())
            elif notice.mask & (inotify.CLOSE_WRITE | inotify.MOVED_TO | inotify.DELETE):
                self._writing.pop(path, None)
            self._stirred.set()


class Watches:
    """Folders that are being put under watch, in any thread. `problem` is why one could not be."""

    def __init__(self, watching: inotify.Inotify | None) -> None:
        self._inotify = watching
        self.folders: dict[int, str] = {}
        self.problem: OSError | None = None

    def add(self, descriptor: int, path: str) -> None:
        """Watch an open folder, called `path` relative to the manifests folder."""
        if self._inotify is None:
            return
        try:
            self.folders[self._inotify.watch(descriptor)] = path
        except OSError as error:
            self.problem = error
