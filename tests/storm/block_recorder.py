"""A disk that remembers: one file behind FUSE, whose writes and flushes go to a log in their order.

A loop device made of that file is a block device whose every write is seen, where the kernel has no device
mapper to log them. As a program, `block_recorder.py IMAGE FOLDER LOG` serves `FOLDER/disk.img`; it ends when
FOLDER is unmounted. Protocol: include/uapi/linux/fuse.h, version 7.31.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

NAME = "disk.img"
SECTOR_BYTES = 512
_RECORD = struct.Struct("<QI")
_FLUSH = (1 << 64) - 1

_LOOKUP, _FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE = 1, 2, 3, 4, 14, 15, 16
_STATFS, _RELEASE, _FSYNC, _FLUSH_FILE, _INIT, _OPENDIR, _RELEASEDIR = 17, 18, 20, 25, 26, 27, 29
_INTERRUPT, _DESTROY, _BATCH_FORGET = 36, 38, 42
_UNANSWERED = {_FORGET, _BATCH_FORGET, _INTERRUPT}
_EMPTY_ANSWERS = {_FSYNC, _FLUSH_FILE, _RELEASE, _RELEASEDIR, _DESTROY}
_ROOT, _FILE = 1, 2
_DIRECT_IO = 1
_IN = struct.Struct("<IIQQIIII")  # len, opcode, unique, nodeid, uid, gid, pid, padding
_OUT = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<6Q10I")
_BUFFER_BYTES = 1 << 20
_WRITE_BYTES = 128 << 10


@dataclass(frozen=True, slots=True)
class BlockWrite:
    """Bytes that went to the device."""

    offset: int
    data: bytes


def read_log(log: Path, end: int) -> Iterator[BlockWrite | None]:
    """Yield what the log holds up to an offset in it; None for a flush."""
    with log.open("rb") as file:
        while file.tell() + _RECORD.size <= end:
            offset, length = _RECORD.unpack(file.read(_RECORD.size))
            if offset == _FLUSH:
                yield None
            else:
                data = file.read(length)
                if file.tell() > end:
                    return
                yield BlockWrite(offset, data)


def write_image(log: Path, end: int, image: Path, chance: random.Random) -> None:
    """Turn the disk as it was at first into one that a cut leaves when the log was so long.

    What was flushed is there. Of what came after, each sector may be or not.
    """
    waiting: list[BlockWrite] = []
    with image.open("r+b") as disk:
        for entry in read_log(log, end):
            if entry is not None:
                waiting.append(entry)
                continue
            for write in waiting:
                os.pwrite(disk.fileno(), write.data, write.offset)
            waiting = []
        share = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for write in waiting:
            for at in range(0, len(write.data), SECTOR_BYTES):
                if chance.random() < share:
                    piece = write.data[at : at + SECTOR_BYTES]
                    os.pwrite(disk.fileno(), piece, write.offset + at)


class _Server:
    def __init__(self, device: int, image: int, log: int) -> None:
        self._device = device
        self._image = image
        self._log = log
        self._size = os.fstat(image).st_size

    def run(self) -> None:
        """Answer until the file system is unmounted."""
        while True:
            try:
                request = os.read(self._device, _BUFFER_BYTES)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.ENOENT, errno.EINTR):  # it was interrupted
                    continue
                raise
            _, opcode, unique, node, *_ = _IN.unpack_from(request)
            if opcode in _UNANSWERED:
                continue
            try:
                status, body = 0, self._answer(opcode, node, request[_IN.size :])
            except OSError as error:
                status, body = -(error.errno or errno.EIO), b""
            os.write(self._device, _OUT.pack(_OUT.size + len(body), status, unique) + body)

    def _answer(self, opcode: int, node: int, body: bytes) -> bytes:
        if opcode == _WRITE:
            return self._write(body)
        if opcode == _READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return os.pread(self._image, size, offset)
        if opcode == _FSYNC:
            os.write(self._log, _RECORD.pack(_FLUSH, 0))
        if opcode in _EMPTY_ANSWERS:
            return b""
        if opcode == _INIT:
            _, _, read_ahead, _ = struct.unpack_from("<4I", body)
            return struct.pack(
                "<4I2H2I2H8I", 7, 31, read_ahead, 0, 16, 12, _WRITE_BYTES, 1, 0, 0, *[0] * 8
            )
        if opcode in (_GETATTR, _SETATTR):
            return struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
        if opcode == _LOOKUP:
            if body.rstrip(b"\0") != NAME.encode():
                raise FileNotFoundError(errno.ENOENT, "only the disk is here")
            return struct.pack("<4Q2I", _FILE, 0, 3600, 3600, 0, 0) + self._attributes(_FILE)
        if opcode in (_OPEN, _OPENDIR):
            return struct.pack("<QII", 0, _DIRECT_IO if opcode == _OPEN else 0, 0)
        if opcode == _STATFS:
            return struct.pack("<5Q10I", 1 << 20, 1 << 20, 1 << 20, 2, 0, 4096, 255, 4096, *[0] * 7)
        raise OSError(errno.ENOSYS, "not needed for a disk")

    def _write(self, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        data = body[len(body) - size :]
        os.pwrite(self._image, data, offset)
        # One write of the log for each of the disk: whoever reads along sees whole records.
        os.writev(self._log, [_RECORD.pack(offset, size), data])
        return struct.pack("<II", size, 0)

    def _attributes(self, node: int) -> bytes:
        mode, size = (0o40700, 0) if node == _ROOT else (0o100600, self._size)
        return _ATTRIBUTES.pack(
            node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0
        )


def main() -> None:
    image, folder, log = sys.argv[1:]
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"recorder", os.fsencode(folder), b"fuse", 0, options):
        raise OSError(ctypes.get_errno(), "can't mount", folder)
    print("mounted", flush=True)
    _Server(
        device,
        os.open(image, os.O_RDWR | os.O_CLOEXEC),
        os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600),
    ).run()


if __name__ == "__main__":
    main()
