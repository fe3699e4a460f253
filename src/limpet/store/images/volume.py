"""One volume: making, opening, watching and removing it, one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.linux import loop, mount
from limpet.store import ext4
from limpet.store.files import make_directory
from limpet.store.images.data_folder import open_data_folder
from limpet.store.images.errors import (
    VolumeBusyError,
    VolumeFailedError,
    VolumeShrinkError,
    VolumeTooSmallError,
    VolumeUnsupportedError,
)
from limpet.store.images.folders import opened_folder
from limpet.store.images.growing import enlarge, grow_copy, grow_mounted
from limpet.store.images.image_file import ImageFile
from limpet.store.images.mounting import mount_device, unmount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIN_SIZE_BYTES = 4 << 20
# A file system may be this much larger than declared: it is then left as it is.
_TOLERANCE = 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What guests have and what they used: bytes and files. Free space of the disk is not counted."""

    size_bytes: int
    used_bytes: int
    available_bytes: int
    inodes: int
    inodes_used: int
    inodes_available: int


class VolumeImage:
    """One volume: `DIRECTORY/volume.img`, mounted at `mount_point` in the caller's mount namespace.

    `size_bytes` is what guests can store, within 5 %; `key` the 64 bytes of its fscrypt master key,
    None for a volume that is not encrypted; `name` is how messages call it. `report` is told when the
    file system had to be repaired, which may have cost data. Opening sets its whole size aside on the
    disk where that leaves `kept_bytes` free; with None it takes what guests store. When it is made,
    `replaced_bytes` of the disk are about to be given back. All methods block; one thread at a time may
    use an instance. They raise the errors of `limpet.store.images.errors` or of `limpet.store.ext4`.
    """

    def __init__(
        self,
        directory: Path,
        mount_point: Path,
        *,
        size_bytes: int,
        key: bytes | None,
        name: str = "",
        report: Callable[[str], None] | None = None,
        kept_bytes: int | None = None,
        replaced_bytes: int = 0,
    ) -> None:
        self.name = name or directory.name
        self._directory = directory
        self._file = ImageFile(
            name=self.name, directory=directory, size_bytes=size_bytes, report=report
        )
        self.mount_point = mount_point
        self.is_set_aside = False
        self._size_bytes = size_bytes
        self._key = key
        self._kept_bytes = kept_bytes
        self._replaced_bytes = replaced_bytes
        self._lock = -1

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed."""
        return self._lock >= 0

    def open(self) -> int:
        """Return a descriptor of the folder that guests see, which the caller closes.

        Makes, checks, repairs, grows and mounts whatever is needed; what fails leaves nothing mounted
        and an existing image in place. While it is open no other VolumeImage can open it.
        """
        assert not self.is_open, "a volume is opened once"
        if self._size_bytes < MIN_SIZE_BYTES:
            raise VolumeTooSmallError(
                f"volume {self.name}: {self._size_bytes} bytes is too small for a file system: "
                f"ask for at least {MIN_SIZE_BYTES >> 20}Mi"
            )
        with self._explained():
            self._take_lock()
            try:
                self._file.remove_staged()
                unmount(self.mount_point)  # of a node that was killed
                if not self._file.path.exists():
                    self._file.make(
                        is_encrypted=self._key is not None, replaced_bytes=self._replaced_bytes
                    )
                return self._mount()
            except BaseException:
                try:
                    unmount(self.mount_point)
                    self._file.remove_staged()
                finally:
                    self._release_lock()
                raise

    def usage(self) -> Usage:
        """Return how full the open volume is."""
        with self._explained():
            found = os.statvfs(self.mount_point)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        available = found.f_bavail * found.f_frsize
        return Usage(
            size_bytes=used + available,
            used_bytes=used,
            available_bytes=available,
            inodes=found.f_files,
            inodes_used=found.f_files - found.f_ffree,
            inodes_available=found.f_ffree,
        )

    def trim(self) -> int:
        """Give the blocks that files left behind back to the disk; return how many bytes.

        One that is set aside keeps its blocks: they are promised to it.
        """
        if self.is_set_aside:
            return 0
        with self._explained(), opened_folder(self.mount_point) as root:
            mount.sync(root)
            return mount.trim(root)

    def close(self) -> bool:
        """Unmount it. Returns False if guests still use it: it goes when they end."""
        if not self.is_open:
            return True
        with self._explained():
            try:
                return unmount(self.mount_point)
            finally:
                self._release_lock()

    def remove(self) -> None:
        """Remove it and all that is in it; guests that still use it keep what they opened."""
        with self._explained():
            if not self._directory.exists():
                return
            if not self.is_open:
                self._take_lock()
            try:
                unmount(self.mount_point)
                self._file.remove()
                for folder in (self.mount_point, self._directory):
                    _remove_if_empty(folder)
            finally:
                self._release_lock()

    # Mounting

    def _mount(self) -> int:
        if not self._mount_image():
            grow_copy(self._file)
            self._mount_image()
        if self._kept_bytes is not None:
            self.is_set_aside = self._file.set_aside(kept_bytes=self._kept_bytes)
        with opened_folder(self.mount_point) as root:
            return open_data_folder(root, key=self._key, name=self.name)

    def _mount_image(self) -> bool:
        """Mount it in its declared size; False, and not mounted, if the kernel won't grow it."""
        image = os.open(self._file.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            device = self._attach(image)
            try:
                return self._mount_device(device, image)
            finally:
                device.close()
        finally:
            os.close(image)

    def _attach(self, image: int) -> loop.LoopDevice:
        attached = loop.find_attached(image)
        if attached is not None:
            return attached
        self._file.require_whole(image)
        try:
            return loop.attach(image, block_bytes=ext4.BLOCK_BYTES)
        except OSError as error:
            raise VolumeUnsupportedError(
                f"volume {self.name}: no loop device ({error}): run the node as root, load the "
                "kernel's loop module (modprobe loop), and give containers /dev/loop-control"
            ) from error

    def _mount_device(self, device: loop.LoopDevice, image: int) -> bool:
        """Mount the device with a sound file system of the declared size."""
        is_shared = device.is_claimed()
        if not is_shared:
            self._file.tell(ext4.check(device.path))
        found = self._file.read_superblock(device.descriptor)
        if found.capacity_bytes > self._size_bytes * _TOLERANCE:
            raise VolumeShrinkError(
                f"volume {self.name} has {found.capacity_bytes} bytes and can't shrink to "
                f"{self._size_bytes}: keep its size, or remove it and make it again"
            )
        blocks = found.layout.blocks_for(self._size_bytes)
        must_grow = found.capacity_bytes < self._size_bytes
        if must_grow:
            enlarge(self._file, image, device, blocks)
        try:
            mount_device(device.path, self.mount_point, name=self.name)
        except OSError as error:
            if is_shared or error.errno != errno.EUCLEAN:
                raise
            # It called itself clean, and so was not looked at.
            self._file.tell(ext4.check(device.path, is_thorough=True))
            mount_device(device.path, self.mount_point, name=self.name)
        return not must_grow or grow_mounted(
            self._file, self.mount_point, device, blocks, is_shared=is_shared
        )

    # One at a time

    def _take_lock(self) -> None:
        """Lock the folder: unlike the image it is there before the image is made."""
        make_directory(self._directory)
        lock = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise VolumeBusyError(
                f"volume {self.name} is open in another process: end that node first"
            ) from error
        self._lock = lock

    def _release_lock(self) -> None:
        os.close(self._lock)
        self._lock = -1

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Let errors of the kernel and of tools say which volume they are about."""
        try:
            yield
        except (ext4.ToolMissingError, ext4.ToolFailedError, ext4.DamagedError) as error:
            raise type(error)(f"volume {self.name}: {error}") from error
        except LimpetError:
            raise
        except OSError as error:
            raise VolumeFailedError(f"volume {self.name} could not be used: {error}") from error


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise
