"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def make_directory(path: Path) -> Path:
    """Make a directory that only the node's user may enter; return it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Have these bytes there; after a power cut the old or the new ones are."""
    with replacing(path, mode=mode) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Give a file to be written that takes this place at the end: fsync, rename, fsync the directory.

    After an error, or a power cut on the way, what was there before is.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(staged, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            staged.unlink()
        raise


def publish(staged: Path, path: Path) -> None:
    """Give a finished, synced file its name, durably."""
    staged.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, if it is there. Raises OSError."""
    if folder.exists():
        import shutil  # brings in every compression library: only when there is something to remove

        shutil.rmtree(folder)
