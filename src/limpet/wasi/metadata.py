"""Descriptors' states, flags, sizes and times.

Source: the `fd_*` functions of `wasi_snapshot_preview1.witx` that move no data. Rights are reported
the way Wasmtime reports them and are otherwise without effect: what a guest may do follows from
its preopens, each read-only or not.
"""

from __future__ import annotations

import os
import stat as modes
import time
from typing import TYPE_CHECKING

from limpet.wasi import abi, errnos, host
from limpet.wasi.arguments import check_enum, check_flags
from limpet.wasi.descriptors import OpenDirectory, OpenFile, StandardInput, StandardOutput
from limpet.wasi.errnos import WasiError
from limpet.wasi.socket_descriptors import OpenSocket

if TYPE_CHECKING:
    from limpet.wasi.run import WasiRun

_ADVICE = (
    os.POSIX_FADV_NORMAL,
    os.POSIX_FADV_SEQUENTIAL,
    os.POSIX_FADV_RANDOM,
    os.POSIX_FADV_WILLNEED,
    os.POSIX_FADV_DONTNEED,
    os.POSIX_FADV_NOREUSE,
)
_FILETYPES = {
    modes.S_IFREG: abi.FILETYPE_REGULAR_FILE,
    modes.S_IFDIR: abi.FILETYPE_DIRECTORY,
    modes.S_IFLNK: abi.FILETYPE_SYMBOLIC_LINK,
    modes.S_IFCHR: abi.FILETYPE_CHARACTER_DEVICE,
    modes.S_IFBLK: abi.FILETYPE_BLOCK_DEVICE,
    modes.S_IFSOCK: abi.FILETYPE_SOCKET_STREAM,
}
_I64_END = 1 << 63
_U64_MASK = (1 << 64) - 1


def filetype_from_mode(mode: int) -> int:
    return _FILETYPES.get(modes.S_IFMT(mode), abi.FILETYPE_UNKNOWN)


def inode_number(device: int, inode: int) -> int:
    """One number per file: guests see a single device, so the host's device is mixed in."""
    return (inode ^ (device * 0x9E3779B97F4A7C15)) & _U64_MASK


def write_filestat(run: WasiRun, pointer: int, status: os.stat_result) -> int:
    """Write `$filestat` of a host file; the device is always 1, as in Wasmtime."""
    run.memory.write_struct(
        pointer,
        abi.FILESTAT,
        1,
        inode_number(status.st_dev, status.st_ino),
        filetype_from_mode(status.st_mode),
        status.st_nlink,
        status.st_size,
        max(status.st_atime_ns, 0),
        max(status.st_mtime_ns, 0),
        max(status.st_ctime_ns, 0),
    )
    return errnos.SUCCESS


def parse_times(
    access: int, change: int, flags: int
) -> tuple[tuple[int, int], tuple[int, int]] | int:
    """`$fstflags` and times as utimensat(2) wants them, or an error number."""
    check_flags("fstflags", flags, abi.FSTFLAGS_ALL)
    now = time.time_ns()
    pairs: list[tuple[int, int]] = []
    for value, is_set, is_now in (
        (access, flags & abi.FSTFLAGS_ATIM, flags & abi.FSTFLAGS_ATIM_NOW),
        (change, flags & abi.FSTFLAGS_MTIM, flags & abi.FSTFLAGS_MTIM_NOW),
    ):
        if is_set and is_now:
            return errnos.INVAL
        if is_set or is_now:
            pairs.append(divmod(now if is_now else value, 1_000_000_000))
        else:
            pairs.append((0, host.UTIME_OMIT))
    return pairs[0], pairs[1]


def fd_fdstat_get(run: WasiRun, number: int, status_at: int) -> int:
    entry = run.files.entries.get(number)
    if isinstance(entry, (StandardInput, StandardOutput)):
        right = abi.RIGHTS_FD_READ if isinstance(entry, StandardInput) else abi.RIGHTS_FD_WRITE
        filetype = _stream_filetype(entry)
        run.memory.write_struct(status_at, abi.FDSTAT, filetype, 0, right, right)
    elif isinstance(entry, OpenSocket):
        filetype, rights = _socket_filetype(entry), abi.RIGHTS_SOCKET
        run.memory.write_struct(status_at, abi.FDSTAT, filetype, entry.flags, rights, rights)
    elif isinstance(entry, OpenDirectory) and entry.guest_path is not None:
        run.memory.write_struct(
            status_at,
            abi.FDSTAT,
            abi.FILETYPE_DIRECTORY,
            0,
            abi.RIGHTS_PREOPEN,
            abi.RIGHTS_PREOPEN_INHERITING,
        )
    elif isinstance(entry, OpenDirectory):
        rights = abi.RIGHTS_ALL & ~(
            abi.RIGHTS_FD_SEEK
            | abi.RIGHTS_FD_FILESTAT_SET_SIZE
            | abi.RIGHTS_PATH_FILESTAT_SET_SIZE
            | abi.RIGHTS_FD_WRITE
        )
        run.memory.write_struct(status_at, abi.FDSTAT, abi.FILETYPE_DIRECTORY, 0, rights, rights)
    elif isinstance(entry, OpenFile):
        rights = abi.RIGHTS_ALL
        if not entry.is_readable:
            rights &= ~(abi.RIGHTS_FD_READ | abi.RIGHTS_FD_READDIR)
        if not entry.is_writable:
            rights &= ~abi.RIGHTS_FD_WRITE
        filetype = filetype_from_mode(os.fstat(entry.descriptor).st_mode)
        run.memory.write_struct(status_at, abi.FDSTAT, filetype, entry.flags, rights, rights)
    else:
        return errnos.BADF
    return errnos.SUCCESS


def _stream_filetype(entry: StandardInput | StandardOutput) -> int:
    return abi.FILETYPE_CHARACTER_DEVICE if entry.stream.is_terminal() else abi.FILETYPE_UNKNOWN


def _socket_filetype(entry: OpenSocket) -> int:
    return abi.FILETYPE_SOCKET_STREAM if entry.is_stream else abi.FILETYPE_SOCKET_DGRAM


def fd_fdstat_set_flags(run: WasiRun, number: int, flags: int) -> int:
    check_flags("fdflags", flags, abi.FDFLAGS_ALL)
    entry = run.files.entries.get(number)
    if not isinstance(entry, OpenSocket):
        entry = run.files.file(number)
    if flags & (abi.FDFLAGS_DSYNC | abi.FDFLAGS_SYNC | abi.FDFLAGS_RSYNC):
        return errnos.INVAL
    entry.flags = flags
    return errnos.SUCCESS


def fd_fdstat_set_rights(run: WasiRun, number: int, base: int, inheriting: int) -> int:
    check_flags("rights", base | inheriting, abi.RIGHTS_ALL)
    entry = run.files.entries.get(number)
    is_known = isinstance(entry, (OpenFile, OpenDirectory, OpenSocket))
    return errnos.NOTSUP if is_known else errnos.BADF


def fd_filestat_get(run: WasiRun, number: int, status_at: int) -> int:
    entry = run.files.entries.get(number)
    if isinstance(entry, (StandardInput, StandardOutput)):
        filetype = _stream_filetype(entry)
        run.memory.write_struct(status_at, abi.FILESTAT, 0, 0, filetype, 0, 0, 0, 0, 0)
        return errnos.SUCCESS
    if isinstance(entry, OpenSocket):
        filetype = _socket_filetype(entry)
        run.memory.write_struct(status_at, abi.FILESTAT, 0, 0, filetype, 0, 0, 0, 0, 0)
        return errnos.SUCCESS
    if entry is None:
        return errnos.BADF
    return write_filestat(run, status_at, os.fstat(entry.descriptor))


def fd_filestat_set_size(run: WasiRun, number: int, size: int) -> int:
    file = run.files.file(number)
    if not file.may_write:
        return errnos.PERM
    if size >= _I64_END:
        return errnos.INVAL
    os.ftruncate(file.descriptor, size)
    return errnos.SUCCESS


def fd_filestat_set_times(run: WasiRun, number: int, access: int, change: int, flags: int) -> int:
    times = parse_times(access, change, flags)
    if isinstance(times, int):
        return times
    entry = run.files.entries.get(number)
    if not isinstance(entry, (OpenFile, OpenDirectory)):
        return errnos.BADF
    if not entry.may_write:
        return errnos.PERM
    if flags and isinstance(entry, OpenDirectory) and entry.guest_path is not None:
        return errnos.BADF  # as in Wasmtime, which opens preopens as paths only
    host.futimens(entry.descriptor, *times)
    return errnos.SUCCESS


def fd_advise(run: WasiRun, number: int, offset: int, length: int, advice: int) -> int:
    check_enum("advice", advice, abi.ADVICE_COUNT)
    file = run.files.file(number)
    if length >= _I64_END:
        return errnos.INVAL
    os.posix_fadvise(file.descriptor, min(offset, _I64_END - 1), length, _ADVICE[advice])
    return errnos.SUCCESS


def fd_allocate(run: WasiRun, number: int, _offset: int, _length: int) -> int:
    run.files.file(number)
    return errnos.NOTSUP  # as Wasmtime: not every file system can


def fd_sync(run: WasiRun, number: int) -> int:
    os.fsync(run.files.file(number).descriptor)
    return errnos.SUCCESS


def fd_datasync(run: WasiRun, number: int) -> int:
    os.fdatasync(run.files.file(number).descriptor)
    return errnos.SUCCESS


def fd_close(run: WasiRun, number: int) -> int:
    run.files.close(number)
    return errnos.SUCCESS


def fd_renumber(run: WasiRun, source: int, target: int) -> int:
    run.files.renumber(source, target)
    return errnos.SUCCESS


def fd_prestat_get(run: WasiRun, number: int, prestat_at: int) -> int:
    entry = run.files.entries.get(number)
    if not isinstance(entry, OpenDirectory) or entry.guest_path is None:
        return errnos.BADF
    memory = run.memory
    memory.require(prestat_at, abi.PRESTAT.size, 4)
    memory.write(prestat_at, abi.PRESTAT.pack(0, len(entry.guest_path)))
    return errnos.SUCCESS


def fd_prestat_dir_name(run: WasiRun, number: int, path_at: int, length: int) -> int:
    entry = run.files.entries.get(number)
    if entry is None:
        return errnos.BADF
    if not isinstance(entry, OpenDirectory) or entry.guest_path is None:
        return errnos.NOTDIR
    if len(entry.guest_path) > length:
        return errnos.NAMETOOLONG
    run.memory.write(path_at, entry.guest_path)
    return errnos.SUCCESS


def open_directory(run: WasiRun, number: int, *, for_writing: bool = False) -> OpenDirectory:
    """The directory behind a number; EPERM when it is read-only and must be written."""
    directory = run.files.directory(number)
    if for_writing and not directory.may_write:
        raise WasiError(errnos.PERM)
    return directory
