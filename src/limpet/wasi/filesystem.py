"""Calls that take a path.

Source: the `path_*` functions of `wasi_snapshot_preview1.witx`. How paths are confined is in
`paths.py`; what is refused, and with which number, follows Wasmtime.
"""

from __future__ import annotations

import os
import stat as modes
from typing import TYPE_CHECKING

from limpet.wasi import abi, errnos, paths
from limpet.wasi.arguments import check_flags
from limpet.wasi.descriptors import OpenDirectory, OpenFile
from limpet.wasi.errnos import WasiError
from limpet.wasi.metadata import open_directory, parse_times, write_filestat

if TYPE_CHECKING:
    from limpet.wasi.run import WasiRun

_UNSUPPORTED_SYNC = abi.FDFLAGS_DSYNC | abi.FDFLAGS_RSYNC | abi.FDFLAGS_SYNC
_CREATE_MODE = 0o666


def _read_path(run: WasiRun, pointer: int, length: int) -> bytes:
    if length > abi.CALL_MAX_BYTES:
        raise WasiError(errnos.NOMEM)
    run.memory.require(pointer, length)
    return paths.parse_path(run.memory.read(pointer, min(length, paths.MAX_PATH_BYTES + 1)))


def _check_lookup(flags: int) -> bool:
    check_flags("lookupflags", flags, abi.LOOKUP_SYMLINK_FOLLOW)
    return bool(flags)


def path_create_directory(run: WasiRun, number: int, path_at: int, length: int) -> int:
    run.files.directory(number)
    path = _read_path(run, path_at, length)
    paths.create_directory(open_directory(run, number, for_writing=True).descriptor, path)
    return errnos.SUCCESS


def path_remove_directory(run: WasiRun, number: int, path_at: int, length: int) -> int:
    run.files.directory(number)
    path = _read_path(run, path_at, length)
    paths.remove_directory(open_directory(run, number, for_writing=True).descriptor, path)
    return errnos.SUCCESS


def path_unlink_file(run: WasiRun, number: int, path_at: int, length: int) -> int:
    run.files.directory(number)
    path = _read_path(run, path_at, length)
    paths.unlink(open_directory(run, number, for_writing=True).descriptor, path)
    return errnos.SUCCESS


def path_filestat_get(
    run: WasiRun, number: int, lookup: int, path_at: int, length: int, status_at: int
) -> int:
    is_followed = _check_lookup(lookup)
    directory = run.files.directory(number)
    path = _read_path(run, path_at, length)
    status = paths.stat(directory.descriptor, path, is_followed=is_followed)
    return write_filestat(run, status_at, status)


def path_filestat_set_times(
    run: WasiRun,
    number: int,
    lookup: int,
    path_at: int,
    length: int,
    access: int,
    change: int,
    flags: int,
) -> int:
    is_followed = _check_lookup(lookup)
    times = parse_times(access, change, flags)
    if isinstance(times, int):
        return times
    run.files.directory(number)
    path = _read_path(run, path_at, length)
    directory = open_directory(run, number, for_writing=True)
    paths.set_times(directory.descriptor, path, *times, is_followed=is_followed)
    return errnos.SUCCESS


def path_link(
    run: WasiRun,
    old_number: int,
    lookup: int,
    old_at: int,
    old_length: int,
    new_number: int,
    new_at: int,
    new_length: int,
) -> int:
    is_followed = _check_lookup(lookup)
    run.files.directory(old_number)
    run.files.directory(new_number)
    old_path = _read_path(run, old_at, old_length)
    new_path = _read_path(run, new_at, new_length)
    old = open_directory(run, old_number, for_writing=True)
    new = open_directory(run, new_number, for_writing=True)
    if is_followed:
        return errnos.INVAL
    paths.link(old.descriptor, old_path, new.descriptor, new_path)
    return errnos.SUCCESS


def path_rename(
    run: WasiRun,
    old_number: int,
    old_at: int,
    old_length: int,
    new_number: int,
    new_at: int,
    new_length: int,
) -> int:
    run.files.directory(old_number)
    run.files.directory(new_number)
    old_path = _read_path(run, old_at, old_length)
    new_path = _read_path(run, new_at, new_length)
    old = open_directory(run, old_number, for_writing=True)
    new = open_directory(run, new_number, for_writing=True)
    paths.rename(old.descriptor, old_path, new.descriptor, new_path)
    return errnos.SUCCESS


def path_symlink(
    run: WasiRun, target_at: int, target_length: int, number: int, path_at: int, length: int
) -> int:
    run.files.directory(number)
    target = _read_path(run, target_at, target_length)
    path = _read_path(run, path_at, length)
    paths.symlink(target, open_directory(run, number, for_writing=True).descriptor, path)
    return errnos.SUCCESS


def path_readlink(
    run: WasiRun,
    number: int,
    path_at: int,
    length: int,
    buffer_at: int,
    buffer_length: int,
    size_at: int,
) -> int:
    directory = run.files.directory(number)
    path = _read_path(run, path_at, length)
    target = paths.read_link(directory.descriptor, path)[:buffer_length]
    run.memory.write(buffer_at, target)
    run.memory.write_u32(size_at, len(target))
    return errnos.SUCCESS


def path_open(
    run: WasiRun,
    number: int,
    lookup: int,
    path_at: int,
    length: int,
    oflags: int,
    rights: int,
    inheriting: int,
    fdflags: int,
    number_at: int,
) -> int:
    is_followed = _check_lookup(lookup)
    check_flags("oflags", oflags, abi.OFLAGS_ALL)
    check_flags("rights", rights | inheriting, abi.RIGHTS_ALL)
    check_flags("fdflags", fdflags, abi.FDFLAGS_ALL)
    path = _read_path(run, path_at, length)
    parent = run.files.entries.get(number)
    if not isinstance(parent, OpenDirectory):
        return errnos.NOTDIR if isinstance(parent, OpenFile) else errnos.BADF
    if fdflags & _UNSUPPORTED_SYNC:
        return errnos.NOTSUP
    creates = oflags & abi.OFLAGS_CREAT
    if oflags & abi.OFLAGS_DIRECTORY and oflags & ~abi.OFLAGS_DIRECTORY:
        return errnos.INVAL
    # Creating and truncating need write access; without FD_WRITE the file is readable as well.
    may_write = rights & abi.RIGHTS_FD_WRITE
    is_writable = bool(may_write or creates or oflags & abi.OFLAGS_TRUNC)
    is_readable = bool(rights & abi.RIGHTS_FD_READ or not may_write)
    if is_writable and not parent.may_write:
        return errnos.PERM
    run.files.require_room()
    flags = _open_flags(oflags, is_readable=is_readable, is_writable=is_writable)
    if not is_followed:
        flags |= os.O_NOFOLLOW
    descriptor = paths.open_beneath(parent.descriptor, path, flags, _CREATE_MODE if creates else 0)
    try:
        mode = os.fstat(descriptor).st_mode
        entry: OpenFile | OpenDirectory
        if modes.S_ISDIR(mode):
            entry = OpenDirectory(descriptor, may_write=parent.may_write, is_readable=is_readable)
        elif oflags & abi.OFLAGS_DIRECTORY:
            raise WasiError(errnos.NOTDIR)
        else:
            entry = OpenFile(
                descriptor,
                flags=fdflags,
                is_readable=is_readable,
                is_writable=is_writable,
                may_write=parent.may_write,
            )
        run.memory.require(number_at, 4, 4)
    except BaseException:
        os.close(descriptor)
        raise
    run.memory.write_u32(number_at, run.files.add(entry))
    return errnos.SUCCESS


def _open_flags(oflags: int, *, is_readable: bool, is_writable: bool) -> int:
    # O_NONBLOCK: opening a FIFO must not wait where neither deadline nor interrupt reach. It
    # means nothing to files and directories.
    flags = os.O_NONBLOCK | os.O_NOCTTY
    if is_writable:
        flags |= os.O_RDWR if is_readable else os.O_WRONLY
    if oflags & abi.OFLAGS_CREAT:
        flags |= os.O_CREAT | (os.O_EXCL if oflags & abi.OFLAGS_EXCL else 0)
    if oflags & abi.OFLAGS_TRUNC:
        flags |= os.O_TRUNC
    return flags
