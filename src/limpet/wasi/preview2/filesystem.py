"""`wasi:filesystem`: files and directories beneath the preopens.

How paths are confined is in `limpet.wasi.paths`. What is refused, and with which code, follows
preview 1 here.
"""

from __future__ import annotations

import os
import stat as modes
from typing import TYPE_CHECKING

from limpet.wasi import errnos, host, paths
from limpet.wasi.endings import GuestTrap
from limpet.wasi.errnos import WasiError
from limpet.wasi.preview2.file_status import form_hash, form_stat, parse_times, type_name
from limpet.wasi.preview2.files import (
    OFFSET_END,
    Descriptor,
    EntryStream,
    FileInput,
    FileOutput,
    Opened,
    check_offset,
    encode_path,
    require_room,
)
from limpet.wasi.preview2.filesystem_types import (
    ADVICE,
    ENTRY,
    ERROR_CODE,
    FLAGS,
    HASH,
    LOOKUP,
    OPEN_FLAGS,
    SELF,
    STAT,
    SYNC_FLAGS,
    TIMESTAMP,
    TYPE,
    code_of,
    explain,
    or_code,
)
from limpet.wasi.preview2.interface import Interface
from limpet.wasi.preview2.run import MAX_DESCRIPTORS
from limpet.wasi.preview2.streams import CHUNK_BYTES, ErrorResource, InputStream, OutputStream
from limpet.wasi.preview2.types import (
    BOOL,
    BYTES,
    STRING,
    U64,
    Borrow,
    Enum,
    List,
    Option,
    Own,
    Tuple,
)

if TYPE_CHECKING:
    from limpet.engine.protocol import Preopen
    from limpet.wasi.preview2.file_status import Timestamp
    from limpet.wasi.preview2.run import ComponentRun

_CREATE_MODE = 0o666

PREOPENS = Interface()
TYPES = Interface("descriptor", "directory-entry-stream", explain=explain)


@PREOPENS.function("get-directories", returns=List(Tuple((Own("descriptor"), STRING))))
def get_directories(run: ComponentRun) -> list[tuple[Descriptor, str]]:
    return [
        (_open_preopen(run, preopen), preopen.guest_path.decode(errors="replace"))
        for preopen in run.invocation.preopens
    ]


def _open_preopen(run: ComponentRun, preopen: Preopen) -> Descriptor:
    if run.descriptors >= MAX_DESCRIPTORS:
        raise GuestTrap(f"has more than {MAX_DESCRIPTORS} files open")
    own = os.dup(preopen.descriptor)
    return Descriptor(
        Opened(run, own),
        is_directory=True,
        is_readable=True,
        is_writable=False,
        may_change=not preopen.is_read_only,
    )


@TYPES.function(
    "[method]descriptor.read-via-stream", SELF, U64, returns=or_code(Own("input-stream"))
)
def read_via_stream(_run: ComponentRun, descriptor: Descriptor, offset: int) -> InputStream:
    descriptor.require_file()
    if not descriptor.is_readable:
        raise WasiError(errnos.BADF)
    return FileInput(descriptor, check_offset(offset))


@TYPES.function(
    "[method]descriptor.write-via-stream", SELF, U64, returns=or_code(Own("output-stream"))
)
def write_via_stream(_run: ComponentRun, descriptor: Descriptor, offset: int) -> OutputStream:
    _require_writable(descriptor)
    return FileOutput(descriptor, check_offset(offset))


@TYPES.function("[method]descriptor.append-via-stream", SELF, returns=or_code(Own("output-stream")))
def append_via_stream(_run: ComponentRun, descriptor: Descriptor) -> OutputStream:
    _require_writable(descriptor)
    return FileOutput(descriptor, None)


def _require_writable(descriptor: Descriptor) -> int:
    number = descriptor.require_file()
    if not descriptor.is_writable:
        raise WasiError(errnos.BADF)
    return number


@TYPES.function("[method]descriptor.advise", SELF, U64, U64, Enum(tuple(ADVICE)), returns=or_code())
def advise(
    _run: ComponentRun, descriptor: Descriptor, offset: int, length: int, advice: str
) -> None:
    number = descriptor.require_file()
    if length >= OFFSET_END:
        raise WasiError(errnos.INVAL)
    os.posix_fadvise(number, min(offset, OFFSET_END - 1), length, ADVICE[advice])


@TYPES.function("[method]descriptor.sync-data", SELF, returns=or_code())
def sync_data(_run: ComponentRun, descriptor: Descriptor) -> None:
    if not descriptor.is_directory:
        os.fdatasync(descriptor.number)


@TYPES.function("[method]descriptor.sync", SELF, returns=or_code())
def sync(_run: ComponentRun, descriptor: Descriptor) -> None:
    if not descriptor.is_directory:
        os.fsync(descriptor.number)


@TYPES.function("[method]descriptor.get-flags", SELF, returns=or_code(FLAGS))
def get_flags(_run: ComponentRun, descriptor: Descriptor) -> frozenset[str]:
    flags = {
        "read": descriptor.is_readable,
        "write": descriptor.is_writable,
        "mutate-directory": descriptor.is_directory and descriptor.may_change,
    }
    return frozenset(name for name, is_set in flags.items() if is_set)


@TYPES.function("[method]descriptor.get-type", SELF, returns=or_code(TYPE))
def get_type(_run: ComponentRun, descriptor: Descriptor) -> str:
    return type_name(os.fstat(descriptor.number).st_mode)


@TYPES.function("[method]descriptor.set-size", SELF, U64, returns=or_code())
def set_size(_run: ComponentRun, descriptor: Descriptor, size: int) -> None:
    number = descriptor.require_file()
    if not descriptor.may_change:
        raise WasiError(errnos.PERM)
    os.ftruncate(number, check_offset(size))


@TYPES.function("[method]descriptor.set-times", SELF, TIMESTAMP, TIMESTAMP, returns=or_code())
def set_times(
    _run: ComponentRun, descriptor: Descriptor, access: Timestamp, change: Timestamp
) -> None:
    if not descriptor.may_change:
        raise WasiError(errnos.PERM)
    host.futimens(descriptor.number, parse_times(access), parse_times(change))


@TYPES.function("[method]descriptor.read", SELF, U64, U64, returns=or_code(Tuple((BYTES, BOOL))))
def read(run: ComponentRun, descriptor: Descriptor, length: int, offset: int) -> tuple[bytes, bool]:
    number = descriptor.require_file()
    if not descriptor.is_readable:
        raise WasiError(errnos.BADF)
    run.control.check()
    data = os.pread(number, min(length, CHUNK_BYTES), check_offset(offset))
    return data, not data and length > 0


@TYPES.function("[method]descriptor.write", SELF, BYTES, U64, returns=or_code(U64))
def write(run: ComponentRun, descriptor: Descriptor, data: bytes, offset: int) -> int:
    run.control.check()
    return os.pwrite(_require_writable(descriptor), data, check_offset(offset))


@TYPES.function(
    "[method]descriptor.read-directory", SELF, returns=or_code(Own("directory-entry-stream"))
)
def read_directory(run: ComponentRun, descriptor: Descriptor) -> EntryStream:
    directory = descriptor.require_directory()
    require_room(run)
    return EntryStream(run, directory)


@TYPES.function("[method]descriptor.create-directory-at", SELF, STRING, returns=or_code())
def create_directory_at(_run: ComponentRun, descriptor: Descriptor, path: str) -> None:
    paths.create_directory(descriptor.require_directory(for_change=True), encode_path(path))


@TYPES.function("[method]descriptor.remove-directory-at", SELF, STRING, returns=or_code())
def remove_directory_at(_run: ComponentRun, descriptor: Descriptor, path: str) -> None:
    paths.remove_directory(descriptor.require_directory(for_change=True), encode_path(path))


@TYPES.function("[method]descriptor.unlink-file-at", SELF, STRING, returns=or_code())
def unlink_file_at(_run: ComponentRun, descriptor: Descriptor, path: str) -> None:
    paths.unlink(descriptor.require_directory(for_change=True), encode_path(path))


@TYPES.function("[method]descriptor.stat", SELF, returns=or_code(STAT))
def stat(_run: ComponentRun, descriptor: Descriptor) -> tuple[object, ...]:
    return form_stat(os.fstat(descriptor.number))


@TYPES.function("[method]descriptor.stat-at", SELF, LOOKUP, STRING, returns=or_code(STAT))
def stat_at(
    _run: ComponentRun, descriptor: Descriptor, lookup: frozenset[str], path: str
) -> tuple[object, ...]:
    directory = descriptor.require_directory()
    return form_stat(
        paths.stat(directory, encode_path(path), is_followed="symlink-follow" in lookup)
    )


@TYPES.function("[method]descriptor.metadata-hash", SELF, returns=or_code(HASH))
def metadata_hash(_run: ComponentRun, descriptor: Descriptor) -> tuple[int, int]:
    return form_hash(os.fstat(descriptor.number))


@TYPES.function("[method]descriptor.metadata-hash-at", SELF, LOOKUP, STRING, returns=or_code(HASH))
def metadata_hash_at(
    _run: ComponentRun, descriptor: Descriptor, lookup: frozenset[str], path: str
) -> tuple[int, int]:
    directory = descriptor.require_directory()
    return form_hash(
        paths.stat(directory, encode_path(path), is_followed="symlink-follow" in lookup)
    )


@TYPES.function("[method]descriptor.is-same-object", SELF, SELF, returns=BOOL)
def is_same_object(_run: ComponentRun, one: Descriptor, other: Descriptor) -> bool:
    return os.path.sameopenfile(one.number, other.number)


@TYPES.function(
    "[method]descriptor.set-times-at",
    SELF,
    LOOKUP,
    STRING,
    TIMESTAMP,
    TIMESTAMP,
    returns=or_code(),
)
def set_times_at(
    _run: ComponentRun,
    descriptor: Descriptor,
    lookup: frozenset[str],
    path: str,
    access: Timestamp,
    change: Timestamp,
) -> None:
    directory = descriptor.require_directory(for_change=True)
    is_followed = "symlink-follow" in lookup
    paths.set_times(
        directory,
        encode_path(path),
        parse_times(access),
        parse_times(change),
        is_followed=is_followed,
    )


@TYPES.function("[method]descriptor.link-at", SELF, LOOKUP, STRING, SELF, STRING, returns=or_code())
def link_at(
    _run: ComponentRun,
    old: Descriptor,
    lookup: frozenset[str],
    old_path: str,
    new: Descriptor,
    new_path: str,
) -> None:
    old_directory = old.require_directory(for_change=True)
    new_directory = new.require_directory(for_change=True)
    if lookup:
        raise WasiError(errnos.INVAL)
    paths.link(old_directory, encode_path(old_path), new_directory, encode_path(new_path))


@TYPES.function("[method]descriptor.rename-at", SELF, STRING, SELF, STRING, returns=or_code())
def rename_at(
    _run: ComponentRun, old: Descriptor, old_path: str, new: Descriptor, new_path: str
) -> None:
    old_directory = old.require_directory(for_change=True)
    new_directory = new.require_directory(for_change=True)
    paths.rename(old_directory, encode_path(old_path), new_directory, encode_path(new_path))


@TYPES.function("[method]descriptor.symlink-at", SELF, STRING, STRING, returns=or_code())
def symlink_at(_run: ComponentRun, descriptor: Descriptor, target: str, path: str) -> None:
    directory = descriptor.require_directory(for_change=True)
    paths.symlink(encode_path(target), directory, encode_path(path))


@TYPES.function("[method]descriptor.readlink-at", SELF, STRING, returns=or_code(STRING))
def readlink_at(_run: ComponentRun, descriptor: Descriptor, path: str) -> str:
    return paths.read_link(descriptor.require_directory(), encode_path(path)).decode()


@TYPES.function(
    "[method]descriptor.open-at",
    SELF,
    LOOKUP,
    STRING,
    OPEN_FLAGS,
    FLAGS,
    returns=or_code(Own("descriptor")),
)
def open_at(
    run: ComponentRun,
    parent: Descriptor,
    lookup: frozenset[str],
    path: str,
    how: frozenset[str],
    flags: frozenset[str],
) -> Descriptor:
    directory = parent.require_directory()
    if flags & SYNC_FLAGS:
        raise WasiError(errnos.NOTSUP)
    if "directory" in how and how != {"directory"}:
        raise WasiError(errnos.INVAL)
    # Creating and truncating need write access; without it the file is readable as well.
    is_writable = bool("write" in flags or how & {"create", "truncate"})
    is_readable = "read" in flags or "write" not in flags
    if not parent.may_change and (is_writable or "mutate-directory" in flags):
        raise WasiError(errnos.PERM)
    require_room(run)
    open_flags = _open_flags(how, is_readable=is_readable, is_writable=is_writable)
    if "symlink-follow" not in lookup:
        open_flags |= os.O_NOFOLLOW
    mode = _CREATE_MODE if "create" in how else 0
    number = paths.open_beneath(directory, encode_path(path), open_flags, mode)
    try:
        is_directory = modes.S_ISDIR(os.fstat(number).st_mode)
        if "directory" in how and not is_directory:
            raise WasiError(errnos.NOTDIR)
    except BaseException:
        os.close(number)
        raise
    return Descriptor(
        Opened(run, number),
        is_directory=is_directory,
        is_readable=is_readable,
        is_writable=is_writable,
        may_change=parent.may_change,
    )


def _open_flags(how: frozenset[str], *, is_readable: bool, is_writable: bool) -> int:
    # O_NONBLOCK: opening a FIFO must not wait where neither deadline nor interrupt reach. It
    # means nothing to files and directories.
    flags = os.O_NONBLOCK | os.O_NOCTTY
    if is_writable:
        flags |= os.O_RDWR if is_readable else os.O_WRONLY
    if "create" in how:
        flags |= os.O_CREAT | (os.O_EXCL if "exclusive" in how else 0)
    if "truncate" in how:
        flags |= os.O_TRUNC
    return flags


@TYPES.function(
    "[method]directory-entry-stream.read-directory-entry",
    Borrow("directory-entry-stream"),
    returns=or_code(Option(ENTRY)),
)
def read_directory_entry(run: ComponentRun, stream: EntryStream) -> tuple[str, str] | None:
    run.control.check()
    return stream.next_entry()


@TYPES.function("filesystem-error-code", Borrow("error"), returns=Option(ERROR_CODE))
def filesystem_error_code(_run: ComponentRun, error: ErrorResource) -> str:
    return code_of(error.error)
