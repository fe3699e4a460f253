"""Installing and removing engines that are not a part of Limpet.

WasmEdge is Debian's packages, unpacked into a prefix below the data directory. A prefix is built beside
the one in use and tried there; only then does it get its name, and the link `current` is switched to it.
Whatever ends an installation, the link names a whole prefix or none, and the next one clears away what
was left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from limpet.engine.wasmedge import library
from limpet.engine.wasmedge.dependencies import dependencies, is_c_library
from limpet.errors import ConflictError, NotFoundError, UnavailableError
from limpet.provision.engine_report import examine_installation
from limpet.provision.packages import (
    Mirror,
    Package,
    PackageArchive,
    Progress,
    find_keyring,
    find_mirror,
    require_tools,
    unpack,
)
from limpet.store.files import make_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PACKAGE = "wasmedge"
_CURRENT = "current"
_NEW_SUFFIX = ".new"
_LISTS_BYTES = 64 << 20  # of one suite, with apt's own index of them
_SPARE_BYTES = 16 << 20
_DIGEST_CHARACTERS = 8


class EngineInstallError(UnavailableError):
    """The engine can't be installed here."""

    reason = "EngineInstallFailed"


class InstallationBusyError(ConflictError):
    """Another process installs or removes this engine right now."""


class EngineNotInstalledError(NotFoundError):
    """There is nothing to remove."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What an installation did, or would do. Sizes are in bytes.

    `action` is `install`; or `keep` when this very thing is there and works; or `system` when the system
    has a library of its own, which comes first. `where` is the prefix, or the system's library.
    `unpacked_size` is what the packages say, `size` what the prefix takes; both are 0 where not known.
    """

    action: Literal["install", "keep", "system"]
    where: str
    version: str = ""
    packages: tuple[Package, ...] = ()
    download_size: int = 0
    unpacked_size: int = 0
    size: int = 0


def install_wasmedge(
    data_directory: Path,
    *,
    progress: Progress,
    suite: str = "trixie",
    mirror: Mirror | None = None,
    cache: Path | None = None,
    is_dry_run: bool = False,
) -> Installed:
    """Install WasmEdge of this Debian suite below the node's data directory, or bring it up to date.

    `mirror` is the archive, the one that this machine's apt uses if None. `cache` is a directory that
    keeps what is downloaded; without one it goes when all went well.
    Raises `EngineInstallError`, `PackageError`, `DownloadError`, `CommandError`, `EngineMissingError`
    and `InstallationBusyError`; what was installed before stays as it is.
    """
    own = library.find_in_system()
    if own is not None:
        return Installed(action="system", where=own)
    require_tools()
    find_keyring()
    _require_executable(data_directory)
    with _cache_folder(cache) as downloads:
        _require_room(downloads, _LISTS_BYTES, what="package lists")
        archive = PackageArchive(downloads, suite=suite, mirror=mirror or find_mirror())
        archive.update(progress)
        packages = archive.resolve(_PACKAGE)
        folder = data_directory / library.INSTALLED
        if is_dry_run:
            plan = _plan(folder, suite, packages)
            return replace(plan, download_size=archive.missing_size(packages))
        with _locked(data_directory):
            plan = _plan(folder, suite, packages)
            if plan.action == "keep" and _is_usable(Path(plan.where)):
                _clear(folder)
                return plan
            plan = replace(
                plan, action="install", download_size=archive.missing_size(packages), size=0
            )
            return _install(plan, archive, progress)


def remove_wasmedge(data_directory: Path) -> int:
    """Remove what `install_wasmedge` installed; return how many bytes were freed.

    Raises `EngineNotInstalledError` and `InstallationBusyError`.
    """
    folder = data_directory / library.INSTALLED
    if not folder.is_dir():
        raise EngineNotInstalledError(
            f"no WasmEdge was installed in {folder}: nothing was removed. What the system's package "
            "manager installed is its to remove"
        )
    with _locked(data_directory):
        freed = _tree_size(folder)
        (folder / _CURRENT).unlink(missing_ok=True)  # first: no link ever names half a prefix
        _sync(folder)
        shutil.rmtree(folder)
        _sync(folder.parent)
    return freed


# Deciding


def _plan(folder: Path, suite: str, packages: Sequence[Package]) -> Installed:
    version = _upstream_version(packages, suite)
    where = folder / f"{version}-{_digest(packages)}"
    is_there = os.path.realpath(folder / _CURRENT) == os.path.realpath(where) and where.is_dir()
    return Installed(
        action="keep" if is_there else "install",
        where=str(where),
        version=version,
        packages=tuple(packages),
        unpacked_size=sum(package.installed_size for package in packages),
        size=_tree_size(where) if is_there else 0,
    )


def _upstream_version(packages: Sequence[Package], suite: str) -> str:
    versions = [package.version for package in packages if package.name == _PACKAGE]
    found = re.match(r"(?:\d+:)?(\d+(?:\.\d+)+)", versions[0] if versions else "")
    if found is None:
        raise EngineInstallError(f"Debian {suite} has no {_PACKAGE} whose version can be read")
    if not library.is_tested(found[1]):
        raise EngineInstallError(
            f"Debian {suite} has WasmEdge {found[1]}, and Limpet was tested with "
            f"{' and '.join(library.TESTED_VERSIONS)}: its calls may have changed. Choose another "
            "suite, or update Limpet"
        )
    return found[1]


def _digest(packages: Sequence[Package]) -> str:
    """What tells two prefixes of one version apart: a security update of any package is another."""
    import hashlib

    text = "".join(f"{package.name}={package.sha256}\n" for package in packages)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]


# Building


def _install(plan: Installed, archive: PackageArchive, progress: Progress) -> Installed:
    where = Path(plan.where)
    folder = make_directory(where.parent)
    _clear(folder)
    _require_room(folder, plan.unpacked_size + plan.download_size, what="unpacked packages")
    new = folder / f"{where.name}{_NEW_SUFFIX}"
    try:
        _unpack_all(new / "root", plan.packages, archive, progress)
        progress("trying it")
        _require_usable(new / "root", plan.version)
        progress("writing it to the disk")
        _sync_tree(new)
        _publish(new, where)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)  # what can't be removed the next run removes
        raise
    _clear(folder)
    return replace(plan, size=_tree_size(where))


def _unpack_all(
    root: Path, packages: Sequence[Package], archive: PackageArchive, progress: Progress
) -> None:
    root.mkdir(mode=0o755, parents=True)
    files = list(archive.download(_PACKAGE, packages, progress))
    for count, path in enumerate(files):
        progress("unpacking", count / len(files))
        unpack(path, root)
    _trim(root)


def _trim(root: Path) -> None:
    """Leave the library, what it needs, the C library, and the packages' copyright files.

    glibc looks for gconv's modules and locales where its package would be installed: those of the system.
    """
    found = library.find_in_prefix(str(root))
    if found is None:
        raise EngineInstallError(f"the packages hold no {library.LIBRARY} for this machine")
    libraries = os.path.dirname(found.library)
    needed = [found.library, *dependencies(found.library)]
    kept = {os.path.realpath(path) for path in needed} | set(needed)
    for name in os.listdir(libraries):
        if is_c_library(name):
            kept.add(os.path.join(libraries, name))
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            path = os.path.join(folder, name)
            is_loader = name == library.this_machine().loader
            if path not in kept and not is_loader and name != "copyright":
                os.unlink(path)
        with contextlib.suppress(OSError):  # not empty, or a link to a directory
            os.rmdir(folder)


def _require_usable(root: Path, version: str) -> None:
    found = library.find_in_prefix(str(root), version=version)
    assert found is not None, "trimming keeps it"
    report = examine_installation(found)
    if report.state != "usable":
        raise EngineInstallError(
            f"WasmEdge {version} was unpacked and does not run here: {report.problem}\n"
            "What was installed before, if anything, is as it was"
        )


def _is_usable(where: Path) -> bool:
    found = library.find_in_prefix(str(where / "root"))
    return found is not None and examine_installation(found).state == "usable"


def _publish(new: Path, where: Path) -> None:
    """Give the prefix its name, then have the link name it: each whole or not at all."""
    folder = where.parent
    if where.exists():  # it was broken
        (folder / _CURRENT).unlink(missing_ok=True)
        _sync(folder)
        shutil.rmtree(where)
    new.rename(where)
    link = folder / f"{_CURRENT}{_NEW_SUFFIX}"
    link.symlink_to(where.name)
    _sync(folder)
    link.replace(folder / _CURRENT)
    _sync(folder)


def _clear(folder: Path) -> None:
    """Remove everything but the link and the prefix that it names."""
    kept = {_CURRENT, os.path.basename(os.path.realpath(folder / _CURRENT))}
    for entry in list(os.scandir(folder)):
        if entry.name in kept:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


# Files


@contextlib.contextmanager
def _locked(data_directory: Path) -> Iterator[None]:
    """Hold the directory of engines: one installation at a time. The kernel lets go when we end."""
    make_directory(data_directory)
    folder = make_directory((data_directory / library.INSTALLED).parent)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InstallationBusyError(
                f"another process installs or removes an engine in {folder}: wait for it"
            ) from error
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _cache_folder(cache: Path | None) -> Iterator[Path]:
    """Where to download to. A folder of ours goes when all went well, and helps the next run if not."""
    folder = cache or _own_cache()
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    yield folder
    if cache is None:
        shutil.rmtree(folder)


def _own_cache() -> Path:
    if os.geteuid() == 0:
        return Path("/var/cache/limpet/packages")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "limpet" / "packages"


def _require_room(folder: Path, size: int, *, what: str) -> None:
    there = _nearest(folder)
    status = os.statvfs(there)
    free = status.f_bavail * status.f_frsize
    if free < size + _SPARE_BYTES:
        raise EngineInstallError(
            f"{there} has {free / 1e6:.0f} MB free, and {what} take {size / 1e6:.0f} MB: free some "
            "space, or choose another directory (--data; --cache for downloads)"
        )


def _require_executable(folder: Path) -> None:
    there = _nearest(folder)
    if os.statvfs(there).f_flag & os.ST_NOEXEC:
        raise EngineInstallError(
            f"{there} is on a file system that is mounted noexec: nothing in it can run. "
            "Choose another data directory (--data), or mount it with exec"
        )


def _nearest(folder: Path) -> Path:
    """The folder, or the one that it will be made in."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _tree_size(folder: Path) -> int:
    """What the files take on the disk, in bytes."""
    return sum(
        os.lstat(os.path.join(each, name)).st_blocks * 512
        for each, _, names in os.walk(folder)
        for name in names
    )


def _sync_tree(folder: Path) -> None:
    """Have every file and directory reach the disk (fsync(2))."""
    for each, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = os.path.join(each, name)
            if not os.path.islink(path):
                _sync(path)
        _sync(each)


def _sync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
