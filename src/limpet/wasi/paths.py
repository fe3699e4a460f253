"""Guest paths, resolved by the kernel so that they can't leave their directory.

openat2(2) with RESOLVE_BENEATH refuses `..` above the start, absolute paths and symbolic links
that lead out, atomically: there is no window between a check and a use. Calls that act on a name
resolve its parent that way, and then act on the last component, which they never follow.

What the errors look like follows Wasmtime (cap-std): EPERM for an attempt to escape.
"""

from __future__ import annotations

import errno as host_errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from limpet.wasi import errnos, host
from limpet.wasi.errnos import WasiError

if TYPE_CHECKING:
    from collections.abc import Iterator

# openat2 answers EAGAIN when a rename on the host raced with `..`: try again, within reason.
_ATTEMPTS = 32
# The kernel refuses paths that are longer than 4095 bytes; this only bounds what is looked at.
MAX_PATH_BYTES = 64 * 1024


def parse_path(raw: bytes) -> bytes:
    """A path as it came from the guest, if it is UTF-8; the rest shows when it is used."""
    if len(raw) > MAX_PATH_BYTES:
        raise WasiError(errnos.NAMETOOLONG)
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise WasiError(errnos.ILSEQ) from None
    return raw


def _refuse_nul(path: bytes) -> bytes:
    if 0 in path:
        raise WasiError(errnos.INVAL)
    return path


def open_beneath(directory: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open `path` within `directory`; raises OSError, or WasiError for an escape."""
    _refuse_nul(path)
    for _ in range(_ATTEMPTS):
        try:
            return host.openat2(
                directory,
                path,
                flags=flags,
                mode=mode,
                resolve=host.RESOLVE_BENEATH | host.RESOLVE_NO_MAGICLINKS,
            )
        except OSError as error:
            if error.errno == host_errno.EXDEV:
                raise WasiError(errnos.PERM) from None
            if error.errno != host_errno.EAGAIN:
                raise
    raise WasiError(errnos.AGAIN)


def split_parent(path: bytes) -> tuple[bytes, bytes]:
    """Split into what is to be resolved and the name to act on.

    A path that names a directory by its form (`a/`, `a/.`, `..`) is resolved whole, and its name
    is `.`, so that the last step can never be a link or `..`.
    """
    if not path:
        raise WasiError(errnos.NOENT)
    if path.endswith((b"/", b"/.")):
        return path, b"."
    parent, slash, name = path.rpartition(b"/")
    if name == b"..":
        return path, b"."
    return (parent or slash), name


@contextmanager
def open_parent(directory: int, path: bytes) -> Iterator[tuple[int, bytes]]:
    """The directory that holds the last component of `path`, and that component."""
    parent, name = split_parent(path)
    if not parent:
        yield directory, name
        return
    descriptor = open_beneath(directory, parent, os.O_DIRECTORY | host.O_PATH)
    try:
        yield descriptor, name
    finally:
        os.close(descriptor)


def strip_slashes(path: bytes) -> bytes:
    return path.rstrip(b"/") or path[:1]


def create_directory(directory: int, path: bytes) -> None:
    with open_parent(directory, strip_slashes(path)) as (parent, name):
        os.mkdir(_refuse_nul(name), dir_fd=parent)


def remove_directory(directory: int, path: bytes) -> None:
    with open_parent(directory, path) as (parent, name):
        os.rmdir(_refuse_nul(name), dir_fd=parent)


def unlink(directory: int, path: bytes) -> None:
    with open_parent(directory, path) as (parent, name):
        os.unlink(_refuse_nul(name), dir_fd=parent)


def link(old_directory: int, old_path: bytes, new_directory: int, new_path: bytes) -> None:
    with (
        open_parent(old_directory, old_path) as (old_parent, old_name),
        open_parent(new_directory, new_path) as (new_parent, new_name),
    ):
        os.link(
            _refuse_nul(old_name),
            _refuse_nul(new_name),
            src_dir_fd=old_parent,
            dst_dir_fd=new_parent,
            follow_symlinks=False,
        )


def rename(old_directory: int, old_path: bytes, new_directory: int, new_path: bytes) -> None:
    with (
        open_parent(old_directory, strip_slashes(old_path)) as (old_parent, old_name),
        open_parent(new_directory, strip_slashes(new_path)) as (new_parent, new_name),
    ):
        os.rename(
            _refuse_nul(old_name) + _slash_of(old_path),
            _refuse_nul(new_name) + _slash_of(new_path),
            src_dir_fd=old_parent,
            dst_dir_fd=new_parent,
        )


def _slash_of(path: bytes) -> bytes:
    """A trailing slash says "only if it is a directory": the kernel checks that."""
    return b"/" if path.endswith(b"/") else b""


def symlink(target: bytes, directory: int, path: bytes) -> None:
    if target.startswith(b"/"):
        raise WasiError(errnos.PERM)
    with open_parent(directory, path) as (parent, name):
        os.symlink(_refuse_nul(target), _refuse_nul(name), dir_fd=parent)


def read_link(directory: int, path: bytes) -> bytes:
    with open_parent(directory, path) as (parent, name):
        target = os.readlink(_refuse_nul(name), dir_fd=parent)
    if target.startswith(b"/"):
        raise WasiError(errnos.PERM)  # would tell of the host outside
    try:
        target.decode()
    except UnicodeDecodeError:
        raise WasiError(errnos.ILSEQ) from None
    return target


def stat(directory: int, path: bytes, *, is_followed: bool) -> os.stat_result:
    if not is_followed and (name := _lone_name(path)):
        return os.stat(_refuse_nul(name), dir_fd=directory, follow_symlinks=False)
    flags = host.O_PATH if is_followed else host.O_PATH | os.O_NOFOLLOW
    descriptor = open_beneath(directory, path, flags)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _lone_name(path: bytes) -> bytes:
    """The name, if `path` is one name that is directly in the directory; else nothing.

    As in Wasmtime, slashes and dots behind it are passed over, and a link is not followed there.
    """
    name, *rest = path.split(b"/")
    if name in {b"", b".", b".."} or any(part not in {b"", b"."} for part in rest):
        return b""
    return name


def set_times(
    directory: int,
    path: bytes,
    access: tuple[int, int],
    change: tuple[int, int],
    *,
    is_followed: bool,
) -> None:
    if not is_followed:
        with open_parent(directory, path) as (parent, name):
            host.utimensat(parent, _refuse_nul(name), access, change, host.AT_SYMLINK_NOFOLLOW)
        return
    descriptor = open_beneath(directory, path, host.O_PATH)
    try:
        host.utimensat(descriptor, b"", access, change, host.AT_EMPTY_PATH)
    finally:
        os.close(descriptor)
