"""The file that a volume's file system is in. It is there whole or not at all, whenever its maker ends."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.linux.allocation import allocate_beyond_end
from limpet.store import ext4
from limpet.store.files import publish
from limpet.store.images.errors import VolumeTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_IMAGE = "volume.img"
_STAGED = ".volume.img.part"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """`DIRECTORY/volume.img`, in which guests are to store `size_bytes`; `name` is the volume's.

    `report` is told when the file system had to be repaired. Methods raise OSError besides what they name.
    """

    name: str
    directory: Path
    size_bytes: int
    report: Callable[[str], None] | None

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.directory / _IMAGE

    @property
    def staged_path(self) -> Path:
        """Where it is made or copied before it takes its place."""
        return self.directory / _STAGED

    def make(self, *, is_encrypted: bool, replaced_bytes: int = 0) -> None:
        """Make it, with an empty file system. Raises `VolumeTooLargeError` and errors of `ext4.make`.

        It takes the place of something on the same disk that holds `replaced_bytes`.
        """
        layout = ext4.decide_layout(self.size_bytes)
        blocks = layout.blocks_for(self.size_bytes)
        self.require_space(blocks * ext4.BLOCK_BYTES, present_bytes=replaced_bytes)
        staged = self.staged_path
        file = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, blocks * ext4.BLOCK_BYTES)
            ext4.make(staged, blocks=blocks, layout=layout, is_encrypted=is_encrypted)
            os.fsync(file)
            publish(staged, self.path)
        except BaseException:
            self.remove_staged()
            raise
        finally:
            os.close(file)

    def remove(self) -> None:
        """Remove it and what a killed maker left of another."""
        self.remove_staged()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def remove_staged(self) -> None:
        """Remove what a killed maker left."""
        with contextlib.suppress(FileNotFoundError):
            self.staged_path.unlink()

    def require_space(self, image_bytes: int, *, present_bytes: int) -> None:
        """Refuse a size that the disk couldn't hold even if nothing else grew on it.

        Other volumes may take the space all the same: images are sparse. `present_bytes` is what this
        one occupies already. Raises `VolumeTooLargeError`.
        """
        found = os.statvfs(self.directory)
        holdable = found.f_bavail * found.f_frsize + present_bytes
        if image_bytes > holdable:
            raise VolumeTooLargeError(
                f"volume {self.name}: {self.size_bytes} bytes need {image_bytes} on the disk under "
                f"{self.directory}, which has {holdable}: free some space or ask for less"
            )

    def set_aside(self, *, kept_bytes: int) -> bool:
        """Have the disk set aside all that it can come to hold, if that leaves `kept_bytes` free.

        Returns whether all of it is: writing in the file system can't fail for want of room then.
        """
        file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            held = os.fstat(file)
            missing_bytes = held.st_size - held.st_blocks * 512
            found = os.statvfs(self.directory)
            left_bytes = found.f_bavail * found.f_frsize - missing_bytes
            if missing_bytes > 0 and left_bytes < kept_bytes:
                return False
            return allocate_beyond_end(file, held.st_size)
        finally:
            os.close(file)

    def require_whole(self, image: int) -> None:
        """Refuse an image, open as `image`, that lost its end. Raises `ext4.DamagedError`.

        e2fsck could not mend it, but would write to it.
        """
        size = os.fstat(image).st_size
        needed = 0
        with contextlib.suppress(ValueError):  # no superblock: e2fsck may find a copy
            needed = ext4.read_superblock(image).blocks * ext4.BLOCK_BYTES
        if size < needed or size % ext4.BLOCK_BYTES:
            raise ext4.DamagedError(
                f"{self.path} is cut short at {size} bytes: restore it from a backup"
            )

    def read_superblock(self, descriptor: int) -> ext4.Superblock:
        """Read it from its open device. Raises `ext4.DamagedError`."""
        try:
            return ext4.read_superblock(descriptor)
        except ValueError as error:
            raise ext4.DamagedError(
                f"{self.path} holds {error}: restore it from a backup"
            ) from error

    def tell(self, repaired: str | None) -> None:
        """Report what `ext4.check` did, if anything."""
        if repaired is not None and self.report is not None:
            self.report(
                f"volume {self.name} was damaged and has been repaired; "
                f"files may be missing or in lost+found: {repaired}"
            )
