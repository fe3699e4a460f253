"""A disk of a run's own: ext4 in a file on a loop device, so that what reaches it can be counted."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.lab import MissingToolError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECTOR_BYTES = 512
_SECTORS_WRITTEN = 6  # Documentation/block/stat.rst


class Disk:
    """A mounted disk. `folder` is its root."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder = folder
        self._stat = Path("/sys/block") / Path(device).name / "stat"

    def written_bytes(self) -> int:
        """What the device has been given so far: data, journal and metadata; all that waits comes first."""
        _run("sync", "-f", self.folder)
        return int(self._stat.read_text("ascii").split()[_SECTORS_WRITTEN]) * _SECTOR_BYTES


@contextmanager
def mounted(folder: Path, *, size_bytes: int = 512 << 20) -> Iterator[Disk]:
    """A disk for a `with` block. Raises `MissingToolError` where none can be mounted."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        raise MissingToolError("root and loop devices are needed, to count what reaches the disk")
    folder.mkdir()
    image, place = folder / "image", folder / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(size_bytes)
    _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
    _run("mount", "-o", "loop", image, place)
    try:
        found = subprocess.run(
            ["findmnt", "-n", "-o", "SOURCE", place], check=True, capture_output=True, text=True
        )
        yield Disk(place, found.stdout.strip())
    finally:
        _run("umount", place)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, timeout=60)
