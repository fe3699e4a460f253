"""Loop devices: block devices made of files, without losetup. Source: loop(4), linux/loop.h.

Errors are `OSError`; ENOENT or ENXIO for `/dev/loop-control` means that this machine has no loop devices.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import struct
from dataclasses import dataclass

_CONTROL = "/dev/loop-control"
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_SET_CAPACITY = 0x4C07
_LOOP_CONFIGURE = 0x4C0A  # since Linux 5.8
_LOOP_CTL_GET_FREE = 0x4C82

_READ_ONLY = 1
_AUTOCLEAR = 4
_DIRECT_IO = 16

# struct loop_info64: device, inode, rdevice, offset, sizelimit, number, encrypt_type, encrypt_key_size,
# flags, file_name, crypt_name, encrypt_key, init. struct loop_config: fd, block_size, info, reserved.
_INFO = struct.Struct("=5Q4I64s64s32s2Q")
_CONFIG = struct.Struct(f"=2I{_INFO.size}s64x")
# Another process may take the number that we were told is free, time and again.
_ATTEMPTS = 64


@dataclass(frozen=True, slots=True)
class LoopStatus:
    """`device` (as `st_dev`) and `inode` are the file's; whether the device goes when nobody uses it."""

    device: int
    inode: int
    is_read_only: bool
    is_autoclear: bool
    is_direct: bool


@dataclass(frozen=True, slots=True)
class LoopDevice:
    """An attached loop device. It stays attached while `descriptor` is open or it is mounted."""

    number: int
    descriptor: int

    @property
    def path(self) -> str:
        """The device's file."""
        return f"/dev/loop{self.number}"

    def status(self) -> LoopStatus:
        """Return what the device is made of. ENXIO when it is detached."""
        return _read_status(self.descriptor)

    def update_capacity(self) -> None:
        """Take over the file's present size."""
        fcntl.ioctl(self.descriptor, _LOOP_SET_CAPACITY)

    def is_claimed(self) -> bool:
        """Whether it is mounted, in any namespace, or a program such as e2fsck works on it."""
        try:
            os.close(os.open(self.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError as error:
            if error.errno == errno.EBUSY:
                return True
            raise
        return False

    def close(self) -> None:
        """Let go of it: the kernel detaches it now, or when its last mount goes."""
        os.close(self.descriptor)


def attach(file: int, *, block_bytes: int) -> LoopDevice:
    """Make a device of an open file; it detaches itself once nobody uses it.

    Reads and writes bypass the page cache where the file's file system can do that, so that nothing is
    cached twice. The file's size must be a multiple of `block_bytes`, the device's sector size.
    """
    try:
        return _attach(file, block_bytes, _AUTOCLEAR | _DIRECT_IO)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    return _attach(file, block_bytes, _AUTOCLEAR)


def find_attached(file: int) -> LoopDevice | None:
    """Return the device that is attached to this open file, None if there is none.

    Compares inodes: names say little across namespaces. A device can come and go while we look, so
    callers that then attach one keep others away with a lock of their own.
    """
    wanted = os.fstat(file)
    for name in glob.glob("/sys/block/loop*/loop/backing_file"):
        matched = re.match(r"/sys/block/loop(\d+)/", name)
        if matched is None:
            continue
        number = int(matched[1])
        try:
            descriptor = _open(number)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENXIO):
                continue  # detached meanwhile
            raise
        try:
            status = _read_status(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno != errno.ENXIO:
                raise
            continue
        if (status.device, status.inode) == (wanted.st_dev, wanted.st_ino):
            return LoopDevice(number, descriptor)
        os.close(descriptor)
    return None


def _attach(file: int, block_bytes: int, flags: int) -> LoopDevice:
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, b"", b"", b"", 0, 0)
    config = _CONFIG.pack(file, block_bytes, info)
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for attempt in range(_ATTEMPTS):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            writable = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(writable, _LOOP_CONFIGURE, config)
                return LoopDevice(number, _open(number))
            except OSError as error:
                if error.errno != errno.EBUSY or attempt == _ATTEMPTS - 1:
                    raise
            finally:
                os.close(writable)
    finally:
        os.close(control)
    raise AssertionError("the last attempt returns or raises")


def _open(number: int) -> int:
    """Not for writing: some kernels mount no device that is open for that (BLK_DEV_WRITE_MOUNTED)."""
    return os.open(f"/dev/loop{number}", os.O_RDONLY | os.O_CLOEXEC)


def _read_status(descriptor: int) -> LoopStatus:
    buffer = bytearray(_INFO.size)
    fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, buffer, True)
    fields = _INFO.unpack(buffer)
    flags = fields[8]
    return LoopStatus(
        device=fields[0],
        inode=fields[1],
        is_read_only=bool(flags & _READ_ONLY),
        is_autoclear=bool(flags & _AUTOCLEAR),
        is_direct=bool(flags & _DIRECT_IO),
    )
