"""A volume: an ext4 file system in a file of its own, mounted through a loop device.

So a volume has a hard size limit, can be encrypted as a whole, and goes at once. The image is sparse:
it takes what guests store and not what was declared. What `open` finds may have been left by a process
or a machine that died at any moment, and guests of a node that died may still use the file system:
then its device and its superblock are shared, never doubled. docs/decisions/ tells the choices.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.errors import (
    ConflictError,
    DeniedError,
    InvalidInputError,
    LimpetError,
    TemporaryError,
    UnavailableError,
)
from limpet.linux import fscrypt, loop, mount
from limpet.store import ext4
from limpet.store.files import make_directory, publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIN_SIZE_BYTES = 4 << 20
_IMAGE = "volume.img"
_STAGED_IMAGE = ".volume.img.part"
# The folder that guests see, in the file system's root directory; it alone is encrypted.
_DATA = "data"
_STAGED_DATA = ".data.part"
_MOUNT_FLAGS = mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC | mount.MS_NOATIME
# A file system may be this much larger than declared: it is then left as it is.
_TOLERANCE = 1.05


class VolumeTooSmallError(InvalidInputError):
    """A declared size below what a file system needs."""

    reason = "VolumeTooSmall"


class VolumeShrinkError(ConflictError):
    """A declared size below that of the existing volume."""

    reason = "VolumeShrinkRefused"


class VolumeTooLargeError(UnavailableError):
    """A declared size that the disk under the volume can't hold."""

    reason = "VolumeTooLarge"


class VolumeKeyError(DeniedError):
    """The volume is encrypted with another key, or isn't encrypted though it should be."""

    reason = "VolumeKeyRefused"


class VolumeUnsupportedError(UnavailableError):
    """This machine lacks loop devices, ext4, encryption or the right to use them."""

    reason = "VolumeUnsupported"


class VolumeBusyError(TemporaryError):
    """Another process works on the volume."""

    reason = "VolumeBusy"


class VolumeFailedError(TemporaryError):
    """The kernel refused something that usually works; the message says what."""

    reason = "VolumeFailed"


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
    file system had to be repaired, which may have cost data. All methods block; one thread at a time
    may use an instance. They raise the errors above or those of `limpet.store.ext4`.
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
    ) -> None:
        self.name = name or directory.name
        self._directory = directory
        self._image = directory / _IMAGE
        self._mount_point = mount_point
        self._size_bytes = size_bytes
        self._key = key
        self._report = report
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
                with contextlib.suppress(FileNotFoundError):
                    (self._directory / _STAGED_IMAGE).unlink()
                self._unmount()  # of a node that was killed
                if not self._image.exists():
                    self._create()
                return self._mount_all()
            except BaseException:
                self._unmount()
                with contextlib.suppress(FileNotFoundError):
                    (self._directory / _STAGED_IMAGE).unlink()
                self._release_lock()
                raise

    def usage(self) -> Usage:
        """Return how full the open volume is."""
        with self._explained():
            found = os.statvfs(self._mount_point)
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
        """Give the blocks that files left behind back to the disk; return how many bytes."""
        with self._explained(), _opened_folder(self._mount_point) as root:
            mount.sync(root)
            return mount.trim(root)

    def close(self) -> bool:
        """Unmount it. Returns False if guests still use it: it goes when they end."""
        if not self.is_open:
            return True
        with self._explained():
            try:
                return self._unmount()
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
                self._unmount()
                for name in (_STAGED_IMAGE, _IMAGE):
                    with contextlib.suppress(FileNotFoundError):
                        (self._directory / name).unlink()
                for folder in (self._mount_point, self._directory):
                    _remove_if_empty(folder)
            finally:
                self._release_lock()

    # Making

    def _create(self) -> None:
        """Write the image under another name first: killed at any moment, it is there whole or not."""
        layout = ext4.decide_layout(self._size_bytes)
        blocks = layout.blocks_for(self._size_bytes)
        self._require_space(blocks * ext4.BLOCK_BYTES, present_bytes=0)
        staged = self._directory / _STAGED_IMAGE
        file = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, blocks * ext4.BLOCK_BYTES)
            ext4.make(staged, blocks=blocks, layout=layout, is_encrypted=self._key is not None)
            os.fsync(file)
            publish(staged, self._image)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                staged.unlink()
            raise
        finally:
            os.close(file)

    def _require_space(self, image_bytes: int, *, present_bytes: int) -> None:
        """Refuse a size that the disk couldn't hold even if nothing else grew on it.

        Other volumes may take the space all the same: images are sparse. `present_bytes` is what this
        one occupies already.
        """
        found = os.statvfs(self._directory)
        holdable = found.f_bavail * found.f_frsize + present_bytes
        if image_bytes > holdable:
            raise VolumeTooLargeError(
                f"volume {self.name}: {self._size_bytes} bytes need {image_bytes} on the disk under "
                f"{self._directory}, which has {holdable}: free some space or ask for less"
            )

    # Mounting

    def _mount_all(self) -> int:
        if not self._mount_image():
            self._grow_copy()
            self._mount_image()
        with _opened_folder(self._mount_point) as root:
            return self._open_data(root)

    def _mount_image(self) -> bool:
        """Mount it in its declared size; False, and not mounted, if the kernel won't grow it."""
        image = os.open(self._image, os.O_RDWR | os.O_CLOEXEC)
        try:
            device = self._attach(image)
            try:
                return self._prepare(device, image)
            finally:
                device.close()
        finally:
            os.close(image)

    def _attach(self, image: int) -> loop.LoopDevice:
        attached = loop.find_attached(image)
        if attached is not None:
            return attached
        self._require_whole(image)
        try:
            return loop.attach(image, block_bytes=ext4.BLOCK_BYTES)
        except OSError as error:
            raise VolumeUnsupportedError(
                f"volume {self.name}: no loop device ({error}): run the node as root, load the "
                "kernel's loop module (modprobe loop), and give containers /dev/loop-control"
            ) from error

    def _require_whole(self, image: int) -> None:
        """e2fsck could not mend an image that lost its end, but would write to it."""
        size = os.fstat(image).st_size
        needed = 0
        with contextlib.suppress(ValueError):  # no superblock: e2fsck may find a copy
            needed = ext4.read_superblock(image).blocks * ext4.BLOCK_BYTES
        if size < needed or size % ext4.BLOCK_BYTES:
            raise ext4.DamagedError(
                f"{self._image} is cut short at {size} bytes: restore it from a backup"
            )

    def _prepare(self, device: loop.LoopDevice, image: int) -> bool:
        """Mount the device with a sound file system of the declared size."""
        is_shared = device.is_claimed()
        if not is_shared:
            self._tell(ext4.check(device.path))
        found = self._read_superblock(device)
        if found.capacity_bytes > self._size_bytes * _TOLERANCE:
            raise VolumeShrinkError(
                f"volume {self.name} has {found.capacity_bytes} bytes and can't shrink to "
                f"{self._size_bytes}: keep its size, or remove it and make it again"
            )
        blocks = found.layout.blocks_for(self._size_bytes)
        must_grow = found.capacity_bytes < self._size_bytes
        if must_grow:
            self._enlarge(device, image, blocks)
        try:
            self._mount(device)
        except OSError as error:
            if is_shared or error.errno != errno.EUCLEAN:
                raise
            # It called itself clean, and so was not looked at.
            self._tell(ext4.check(device.path, is_thorough=True))
            self._mount(device)
        return not must_grow or self._grow(device, blocks, is_shared=is_shared)

    def _enlarge(self, device: loop.LoopDevice, image: int, blocks: int) -> None:
        """Make room for the file system: the image first, then its device."""
        held = os.fstat(image)
        size = blocks * ext4.BLOCK_BYTES
        if held.st_size < size:
            self._require_space(size, present_bytes=held.st_blocks * 512)
            os.ftruncate(image, size)
            os.fsync(image)
        device.update_capacity()

    def _grow(self, device: loop.LoopDevice, blocks: int, *, is_shared: bool) -> bool:
        """Grow online, which is safe even when the power goes; False if this process may not."""
        try:
            with _opened_folder(self._mount_point) as root:
                ext4.grow_mounted(root, blocks)
        except PermissionError as error:
            self._unmount()
            if is_shared or device.is_claimed():
                raise VolumeBusyError(
                    f"volume {self.name} can't grow while guests use it, for this node lacks "
                    "CAP_SYS_RESOURCE: it will once they have ended"
                ) from error
            return False
        grown = self._read_superblock(device)
        if grown.capacity_bytes < self._size_bytes:
            raise VolumeFailedError(
                f"volume {self.name} did not grow to {self._size_bytes} bytes, only to "
                f"{grown.capacity_bytes}: make a new volume of that size and copy the files"
            )
        return True

    def _grow_copy(self) -> None:
        """Grow a copy that then takes the image's place: resize2fs, killed, can leave a ruin."""
        staged = self._directory / _STAGED_IMAGE
        with open(self._image, "rb") as image, open(staged, "xb") as copy:
            os.fchmod(copy.fileno(), 0o600)
            found = ext4.read_superblock(image.fileno())
            blocks = found.layout.blocks_for(self._size_bytes)
            self._require_space(os.fstat(image.fileno()).st_blocks * 512, present_bytes=0)
            _copy_sparse(image.fileno(), copy.fileno())
            os.truncate(copy.fileno(), blocks * ext4.BLOCK_BYTES)
            self._tell(ext4.grow_unmounted(str(staged), blocks))
            os.fsync(copy.fileno())
        publish(staged, self._image)

    def _mount(self, device: loop.LoopDevice) -> None:
        make_directory(self._mount_point)
        try:
            mount.mount(
                device.path,
                self._mount_point,
                "ext4",
                flags=_MOUNT_FLAGS,
                data="errors=remount-ro,nodiscard",
            )
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise VolumeBusyError(
                    f"volume {self.name}: another program works on {device.path}, or its file system "
                    "became read-only after errors: it can be opened once its users have ended"
                ) from error
            if error.errno in (errno.EPERM, errno.EACCES, errno.ENODEV):
                raise VolumeUnsupportedError(
                    f"volume {self.name} can't be mounted ({error.strerror}): "
                    "run the node as root, on a kernel with ext4"
                ) from error
            raise

    def _read_superblock(self, device: loop.LoopDevice) -> ext4.Superblock:
        try:
            return ext4.read_superblock(device.descriptor)
        except ValueError as error:
            raise ext4.DamagedError(
                f"{self._image} holds {error}: restore it from a backup"
            ) from error

    def _unmount(self) -> bool:
        """Take away whatever is mounted at our place; False if some of it is still in use."""
        is_free = True
        while mount.find_mount(self._mount_point) is not None:
            try:
                mount.unmount(self._mount_point, mount.UMOUNT_NOFOLLOW)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                mount.unmount(self._mount_point, mount.UMOUNT_NOFOLLOW | mount.MNT_DETACH)
                is_free = False
        return is_free

    # The folder that guests see

    def _open_data(self, root: int) -> int:
        try:
            data = _open_folder(_DATA, root)
        except FileNotFoundError:
            self._make_data(root)
            return _open_folder(_DATA, root)
        try:
            self._unlock(root, data)
        except BaseException:
            os.close(data)
            raise
        return data

    def _make_data(self, root: int) -> None:
        """Make the folder, with its policy, under another name first."""
        os.fchmod(root, 0o700)
        identifier = b"" if self._key is None else self._add_key(root)
        for modes in (None,) if self._key is None else fscrypt.choose_modes():
            _remove_staged_data(root)
            os.mkdir(_STAGED_DATA, 0o700, dir_fd=root)
            with _opened_folder(_STAGED_DATA, root) as staged:
                if modes is not None and not _encrypt(staged, fscrypt.Policy(modes, identifier)):
                    continue
                # Workers change their users; they get at it only by descriptors lent to them.
                os.fchmod(staged, 0o777)
                os.fsync(staged)
            os.rename(_STAGED_DATA, _DATA, src_dir_fd=root, dst_dir_fd=root)
            os.fsync(root)
            return
        raise VolumeUnsupportedError(
            f"volume {self.name} can't be encrypted: the kernel lacks AES-256-XTS "
            "(CONFIG_FS_ENCRYPTION_ALGS); use another kernel or a volume without encryption"
        )

    def _unlock(self, root: int, data: int) -> None:
        """Add the key of an existing folder if it is the one. Nothing is written before."""
        try:
            policy = fscrypt.get_policy(data)
        except OSError as error:
            if not fscrypt.is_unsupported(error):
                raise
            policy = None  # a file system that was made without encryption
        if policy is None and self._key is None:
            return
        if policy is None:
            raise VolumeKeyError(
                f"volume {self.name} is not encrypted, and encrypting it later is not possible: "
                "open it without encryption, or make a new volume and copy the files"
            )
        if self._key is None:
            raise VolumeKeyError(f"volume {self.name} is encrypted: give the key it was made with")
        identifier = self._add_key(root)
        if identifier != policy.identifier:
            fscrypt.remove_key(root, identifier)
            raise VolumeKeyError(
                f"volume {self.name} is encrypted with another key (its identifier is "
                f"{policy.identifier.hex()}, that of the key given {identifier.hex()}): "
                "restore the key it was made with"
            )

    def _add_key(self, root: int) -> bytes:
        assert self._key is not None, "only encrypted volumes have keys"
        try:
            return fscrypt.add_key(root, self._key)
        except OSError as error:
            if not fscrypt.is_unsupported(error):
                raise
            raise VolumeUnsupportedError(
                f"volume {self.name} can't be encrypted: the kernel lacks fscrypt "
                "(CONFIG_FS_ENCRYPTION); use another kernel or a volume without encryption"
            ) from error

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

    def _tell(self, repaired: str | None) -> None:
        if repaired is not None and self._report is not None:
            self._report(
                f"volume {self.name} was damaged and has been repaired; "
                f"files may be missing or in lost+found: {repaired}"
            )

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


def _encrypt(folder: int, policy: fscrypt.Policy) -> bool:
    """Give an empty folder its policy; False if the kernel lacks the modes."""
    try:
        fscrypt.set_policy(folder, policy)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return fscrypt.has_modes(folder)


def _remove_staged_data(root: int) -> None:
    """What a killed `_make_data` left: an empty folder, or one with the probe's empty file."""
    try:
        with _opened_folder(_STAGED_DATA, root) as staged:
            for name in os.listdir(staged):
                os.unlink(name, dir_fd=staged)
    except FileNotFoundError:
        return
    os.rmdir(_STAGED_DATA, dir_fd=root)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise


def _open_folder(path: str | Path, parent: int | None = None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, dir_fd=parent)


@contextlib.contextmanager
def _opened_folder(path: str | Path, parent: int | None = None) -> Iterator[int]:
    descriptor = _open_folder(path, parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
