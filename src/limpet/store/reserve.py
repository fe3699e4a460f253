"""A few megabytes that are kept aside, for the moment when the disk is full.

What frees space has to be written down first: an app that is deleted, a volume that goes. The reserve is
given up for that, and made again once there is room.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from limpet.store.files import sync_directory

if TYPE_CHECKING:
    from pathlib import Path


class Reserve:
    """The file `reserve` of a data directory; `size_bytes` of the disk are its own."""

    def __init__(self, directory: Path, size_bytes: int) -> None:
        self._path = directory / "reserve"
        self._size_bytes = size_bytes

    @property
    def is_held(self) -> bool:
        """Whether it is there."""
        try:
            return self._path.stat().st_blocks * 512 >= self._size_bytes
        except FileNotFoundError:
            return False

    def give_up(self) -> bool:
        """Let the space go, if the disk is full; whether there was any to let go."""
        if not self._path.exists() or free_bytes(self._path.parent) >= self._size_bytes:
            return False
        self._path.unlink()
        sync_directory(self._path.parent)
        return True

    def restore(self) -> bool:
        """Make it again when twice its size is free; whether it is held now."""
        if self.is_held:
            return True
        if free_bytes(self._path.parent) < 2 * self._size_bytes:
            return False
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size_bytes)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            self._path.unlink(missing_ok=True)  # others were faster: the next look tries again
            return False
        return True


def free_bytes(directory: Path) -> int:
    """Return what an ordinary user may still write to a directory's file system."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
