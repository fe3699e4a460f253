"""Larger volumes: by the kernel while it is mounted, or, where this process may not ask for that, by a copy.

Either way the file system is whole, in its old or its new size, whenever the process or the machine ends.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from limpet.store import ext4
from limpet.store.files import publish
from limpet.store.images.errors import VolumeBusyError, VolumeFailedError
from limpet.store.images.folders import opened_folder
from limpet.store.images.mounting import unmount

if TYPE_CHECKING:
    from pathlib import Path

    from limpet.linux import loop
    from limpet.store.images.image_file import ImageFile


def enlarge(file: ImageFile, image: int, device: loop.LoopDevice, blocks: int) -> None:
    """Make room for a file system of `blocks` blocks: the image (open as `image`) first, then its device.

    Raises OSError, `VolumeTooLargeError`.
    """
    held = os.fstat(image)
    size = blocks * ext4.BLOCK_BYTES
    if held.st_size < size:
        file.require_space(size, present_bytes=held.st_blocks * 512)
        os.ftruncate(image, size)
        os.fsync(image)
    device.update_capacity()


def grow_mounted(
    file: ImageFile, mount_point: Path, device: loop.LoopDevice, blocks: int, *, is_shared: bool
) -> bool:
    """Grow online, which is safe even when the power goes; False if this process may not.

    It is unmounted then. `is_shared` says that guests of an earlier node use it. Raises OSError,
    `VolumeBusyError`, `VolumeFailedError`.
    """
    try:
        with opened_folder(mount_point) as root:
            ext4.grow_mounted(root, blocks)
    except PermissionError as error:
        unmount(mount_point)
        if is_shared or device.is_claimed():
            raise VolumeBusyError(
                f"volume {file.name} can't grow while guests use it, for this node lacks "
                "CAP_SYS_RESOURCE: it will once they have ended"
            ) from error
        return False
    grown = file.read_superblock(device.descriptor)
    if grown.capacity_bytes < file.size_bytes:
        raise VolumeFailedError(
            f"volume {file.name} did not grow to {file.size_bytes} bytes, only to "
            f"{grown.capacity_bytes}: make a new volume of that size and copy the files"
        )
    return True


def grow_copy(file: ImageFile) -> None:
    """Grow a copy that then takes the image's place: resize2fs, killed, can leave a ruin.

    Raises OSError, `VolumeTooLargeError` and errors of `ext4.grow_unmounted`; the copy stays behind then.
    """
    with open(file.path, "rb") as image, open(file.staged_path, "xb") as copy:
        os.fchmod(copy.fileno(), 0o600)
        found = ext4.read_superblock(image.fileno())
        blocks = found.layout.blocks_for(file.size_bytes)
        file.require_space(os.fstat(image.fileno()).st_blocks * 512, present_bytes=0)
        _copy_sparse(image.fileno(), copy.fileno())
        os.truncate(copy.fileno(), blocks * ext4.BLOCK_BYTES)
        file.tell(ext4.grow_unmounted(str(file.staged_path), blocks))
        os.fsync(copy.fileno())
    publish(file.staged_path, file.path)


def _copy_sparse(source: int, target: int) -> None:
    """Copy what is no hole; file systems that can share blocks do."""
    size = os.fstat(source).st_size
    os.truncate(target, size)
    end = 0
    while True:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        while start < end:
            start += os.copy_file_range(source, target, end - start, start, start)
