"""Folders as open descriptors, never through a symbolic link."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def open_folder(path: str | Path, parent: int | None = None) -> int:
    """Return a descriptor of a folder, `path` below the folder open as `parent`. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, dir_fd=parent)


@contextlib.contextmanager
def opened_folder(path: str | Path, parent: int | None = None) -> Iterator[int]:
    """Lend such a descriptor for a block."""
    descriptor = open_folder(path, parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
