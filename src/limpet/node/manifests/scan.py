"""What is in the manifests folder, and what its files hold. Blocks: for a thread, not for the event loop.

Everything is opened relative to the folder and can't lead out of it; numbers and sizes are bounded.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from limpet.errors import InvalidInputError, LimpetError, TemporaryError
from limpet.linux.beneath import open_beneath
from limpet.store.modules import MAX_MODULE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from limpet.store.modules import ModuleStore

MAX_MANIFEST_BYTES = 4 << 20  # limpet.manifest.documents has the same; importing it loads YAML
MAX_FILES = 2000
MAX_FOLDERS = 500
MAX_DEPTH = 16
MAX_BATCH_BYTES = 8 << 20
_SUFFIXES = (".yaml", ".yml", ".json")
_PIECE_BYTES = 1 << 20

Stamp: TypeAlias = tuple[int, ...]
"""What differs when a file does: device, inode, size, times of change."""


class FolderError(LimpetError):
    """The folder can't be looked at as a whole; nothing of it is changed then."""

    reason = "ManifestsUnreadable"


class FolderGoneError(FolderError):
    """The folder is not there."""

    reason = "ManifestsGone"


class UnreadableFileError(InvalidInputError):
    """A file of the folder can't be read, or may not be."""

    reason = "ManifestInvalid"


class ChangingFileError(TemporaryError):
    """A file that changed while it was read."""

    reason = "ManifestChanging"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The folder at one moment. `identity` tells it from another one at the same path.

    `files` are the manifests by their path in the folder, `unreadable` says of files and folders (whose
    path ends in a slash) why nothing is known of them.
    """

    identity: Stamp
    files: dict[str, Stamp] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def knows(self, path: str) -> bool:
        """Whether a file that is not in `files` is gone, rather than out of reach."""
        if path in self.unreadable:
            return False
        folders = [folder for folder in self.unreadable if folder.endswith("/")]
        return not any(path.startswith(folder) for folder in folders)


def open_folder(path: Path) -> int:
    """Open the folder. Raises `FolderGoneError`, `FolderError`."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FolderGoneError(f"{path} is not there: {error.strerror}") from error
    except OSError as error:
        raise FolderError(f"can't open {path}: {error.strerror}") from error


def list_manifests(root: int, *, watch: Callable[[int, str], None]) -> Listing:
    """List the manifests below an open folder. Raises `FolderError`.

    `watch` gets each folder's descriptor and path before it is looked at: what changes later is heard.
    Hidden files and folders are nobody's manifests (`.git`, editors' temporary files), and folders that
    are symbolic links are not entered.
    """
    listing = Listing(identity=_stamp(os.fstat(root))[:2])
    waiting = [("", 0)]
    for seen, (folder, depth) in enumerate(waiting, start=1):
        if seen > MAX_FOLDERS:
            raise FolderError(f"there are over {MAX_FOLDERS} folders; make it fewer")
        try:
            inner = _list_folder(root, folder, listing, watch)
        except OSError as error:
            if not folder:
                raise FolderError(f"can't list it: {error.strerror}") from error
            if error.errno != errno.ENOENT:
                listing.unreadable[f"{folder}/"] = f"can't list the folder: {error.strerror}"
            continue
        if inner and depth == MAX_DEPTH:
            raise FolderError(f"{folder}: folders are over {MAX_DEPTH} deep; make it fewer")
        waiting += [(path, depth + 1) for path in inner]
        if len(listing.files) > MAX_FILES:
            raise FolderError(f"there are over {MAX_FILES} manifests; make it fewer")
    return listing


def _list_folder(
    root: int, folder: str, listing: Listing, watch: Callable[[int, str], None]
) -> list[str]:
    """Note a folder's manifests; return the folders in it. Raises OSError."""
    descriptor = open_beneath(root, folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        watch(descriptor, folder)
        inner: list[str] = []
        with os.scandir(descriptor) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                path = posixpath.join(folder, entry.name)
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    inner.append(path)
                elif entry.name.endswith(_SUFFIXES):
                    _note_file(root, path, listing)
        return inner
    finally:
        os.close(descriptor)


def _note_file(root: int, path: str, listing: Listing) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        listing.unreadable[shown] = "its name is not UTF-8; rename it"
        return
    try:
        listing.files[path] = stamp_file(root, path)
    except FileNotFoundError:
        pass  # gone since it was listed, or a link to nothing
    except OSError as error:
        listing.unreadable[path] = _explain(error)


def stamp_file(root: int, path: str) -> Stamp:
    """What a regular file within the folder has at the moment. Raises OSError."""
    descriptor = open_beneath(root, path, os.O_PATH)
    try:
        state = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    return _stamp(state)


def read_manifest(root: int, path: str, stamp: Stamp) -> bytes:
    """Read a manifest whose stamp was this. Raises `UnreadableFileError`, `ChangingFileError`."""
    try:
        descriptor = _open_regular(root, path)
    except OSError as error:
        raise UnreadableFileError(f"{path}:1: {_explain(error)}") from error
    with os.fdopen(descriptor, "rb") as file:
        try:
            data = file.read(MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            raise UnreadableFileError(f"{path}:1: {_explain(error)}") from error
        if _stamp(os.fstat(descriptor)) != stamp:
            raise ChangingFileError(f"{path} changed while it was read")
    if len(data) > MAX_MANIFEST_BYTES:
        raise UnreadableFileError(f"{path}:1: is larger than 4Mi; split it into several files")
    return data


def module_path(manifest: str, location: str) -> str:
    """Return where in the folder a manifest's module is. Raises `UnreadableFileError`."""
    if location.startswith(("/", "~")):
        raise UnreadableFileError(
            f"{location}: a module of the manifests folder is in it, too; write a path relative to "
            "the manifest, like ./app.wasm"
        )
    return posixpath.normpath(posixpath.join(posixpath.dirname(manifest), location))


def stamp_module(root: int, path: str) -> Stamp | None:
    """What a module file has at the moment; None when it can't be read."""
    try:
        return stamp_file(root, path)
    except OSError:
        return None


def store_module(root: int, path: str, store: ModuleStore, is_unwanted: Callable[[], bool]) -> str:
    """Take a module of the folder into the store and return its digest.

    Raises `UnreadableFileError`, `ChangingFileError`, and OSError when the store can't be written.
    """
    try:
        descriptor = _open_regular(root, path)
    except OSError as error:
        raise UnreadableFileError(f"can't read {path}: {_explain(error)}") from error
    try:
        size = os.fstat(descriptor).st_size
        if size > MAX_MODULE_BYTES:
            raise UnreadableFileError(f"{path} is over {MAX_MODULE_BYTES >> 20} MiB")
        digest = _hash(descriptor, path)
        if not store.has_module(digest):
            _copy(descriptor, path, digest, store, is_unwanted)
        return digest
    finally:
        os.close(descriptor)


def _hash(descriptor: int, path: str) -> str:
    state, offset = hashlib.sha256(), 0
    try:
        while piece := os.pread(descriptor, _PIECE_BYTES, offset):
            state.update(piece)
            offset += len(piece)
            if offset > MAX_MODULE_BYTES:
                raise UnreadableFileError(f"{path} is over {MAX_MODULE_BYTES >> 20} MiB")
    except OSError as error:
        raise UnreadableFileError(f"can't read {path}: {_explain(error)}") from error
    return f"sha256:{state.hexdigest()}"


def _copy(
    descriptor: int, path: str, digest: str, store: ModuleStore, is_unwanted: Callable[[], bool]
) -> None:
    from limpet.store.modules import DigestError

    staged, offset = store.create_module(), 0
    try:
        while offset <= MAX_MODULE_BYTES and (piece := os.pread(descriptor, _PIECE_BYTES, offset)):
            if is_unwanted():
                raise ChangingFileError(f"{path}: the node is stopping")
            staged.write(piece)
            offset += len(piece)
    except BaseException:
        staged.abandon()
        raise
    try:
        staged.finish(digest)
    except DigestError as error:
        raise ChangingFileError(f"{path} changed while it was read") from error


def _open_regular(root: int, path: str) -> int:
    """Open a regular file for reading; a pipe in its place can't make anybody wait. Raises OSError."""
    descriptor = open_beneath(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return descriptor


def _explain(error: OSError) -> str:
    if error.errno == errno.EXDEV:
        return "it leads out of the manifests folder"
    return error.strerror or str(error)


def _stamp(state: os.stat_result) -> Stamp:
    return (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def batches(paths: Sequence[str], sizes: dict[str, int]) -> list[list[str]]:
    """Split files so that no batch holds more than `MAX_BATCH_BYTES`; each is at most one file over."""
    found: list[list[str]] = []
    room = 0
    for path in paths:
        if not found or sizes[path] > room:
            found.append([])
            room = MAX_BATCH_BYTES
        found[-1].append(path)
        room -= sizes[path]
    return found
