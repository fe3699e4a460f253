"""Downloads that are not finished: a partial file and a note beside it, for each source.

They outlive the process that writes them, the node and a power cut: what is there is hashed again before it
counts. What nothing refers to any more is removed.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.store.files import make_directory, publish

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(slots=True)
class Download:
    """One source's files, open for writing. Close it; `finish` or `discard` it when it is over."""

    path: Path
    partial: int
    notes: int

    def publish(self, path: Path) -> None:
        """Make the finished file another's, durably."""
        os.fsync(self.partial)
        publish(self.path, path)
        self.path.with_suffix(".note").unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove both files."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".note").unlink(missing_ok=True)

    def close(self) -> None:
        """Close both; what is on disk stays, unless nothing has come."""
        if os.fstat(self.partial).st_size == 0:
            self.discard()
        os.close(self.partial)
        os.close(self.notes)


class Downloads:
    """The folder `downloads` of a data directory."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "downloads"

    def open(self, source: str) -> Download:
        """Open a source's files, those of an earlier attempt or new ones."""
        make_directory(self._folder)
        path = self._folder / f"{_name(source)}.part"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        partial = os.open(path, flags, 0o600)
        try:
            return Download(path, partial, os.open(path.with_suffix(".note"), flags, 0o600))
        except BaseException:
            os.close(partial)
            raise

    def sweep(self, sources: Iterable[str]) -> None:
        """Remove what belongs to none of these sources."""
        kept = {_name(source) for source in sources}
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.stem not in kept:
                    path.unlink()


def _name(source: str) -> str:
    return hashlib.blake2b(source.encode(), digest_size=16).hexdigest()
