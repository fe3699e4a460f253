"""Mounting a volume's device, and taking it away from where it is mounted."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from limpet.linux import mount
from limpet.store.files import make_directory
from limpet.store.images.errors import VolumeReadOnlyError, VolumeUnsupportedError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_FLAGS = mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC | mount.MS_NOATIME
# `dioread_lock`: else a block whose first write has failed, for want of room below, stays marked as never
# written; later writes of it succeed, also their fsync, and it reads as zeros after the next mount.
_OPTIONS = "errors=remount-ro,nodiscard,dioread_lock"


def mount_device(device: str, mount_point: Path, *, name: str) -> None:
    """Mount a device's file system at `mount_point`, which is made if need be.

    `name` is how messages call the volume. Raises OSError, `VolumeReadOnlyError`, `VolumeUnsupportedError`.
    """
    make_directory(mount_point)
    try:
        mount.mount(device, mount_point, "ext4", flags=_FLAGS, data=_OPTIONS)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise VolumeReadOnlyError(
                f"volume {name}: its file system became read-only after an error, or another program "
                f"works on {device}: it can be opened once its users have ended"
            ) from error
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENODEV):
            raise VolumeUnsupportedError(
                f"volume {name} can't be mounted ({error.strerror}): "
                "run the node as root, on a kernel with ext4"
            ) from error
        raise


def unmount(mount_point: Path) -> bool:
    """Take away whatever is mounted there; False if some of it is still in use. Raises OSError."""
    is_free = True
    while mount.find_mount(mount_point) is not None:
        try:
            mount.unmount(mount_point, mount.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            mount.unmount(mount_point, mount.UMOUNT_NOFOLLOW | mount.MNT_DETACH)
            is_free = False
    return is_free


def find_read_only(mount_points: Collection[str]) -> frozenset[str]:
    """Return at which of these the kernel has made the file system read-only, after an error.

    It does so at the first attempt to write after the file system's journal could not be written. Some
    kernels say so among the mount's options, and all count errors (Documentation/ABI/testing/sysfs-fs-ext4).
    """
    return frozenset(
        entry.mount_point
        for entry in mount.read_mounts()
        if entry.mount_point in mount_points
        and ("ro" in entry.super_options or _had_errors(os.path.basename(entry.source)))
    )


def _had_errors(device: str) -> bool:
    try:
        with open(f"/sys/fs/ext4/{device}/errors_count", "rb") as file:
            return int(file.read()) > 0
    except FileNotFoundError:  # where the node sees no /sys, or not this part of it
        return False
