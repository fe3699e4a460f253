"""Versions of Limpet side by side, and which of them starts at boot.

```
PREFIX/versions/0.2.0/   a virtual environment; whole when it has `limpet-version.json`
PREFIX/current           a link to the version that starts: PREFIX/current/bin/limpet up
PREFIX/previous          a link to the one before
PREFIX/.wheels-*         what a bundle is unpacked to, while it is installed
```

A virtual environment can't be renamed (its scripts hold its path), so a version is made under its own name,
and its mark is written last, when everything else is on the disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limpet.errors import InvalidInputError, NotFoundError, TemporaryError
from limpet.store.files import sync_directory, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DEFAULT_PREFIX = Path("/opt/limpet")
HANDOVER = 1
"""What a launcher leaves to one of another version (`limpet.node.handover`): the format's number."""
_MARK = "limpet-version.json"
_VERSIONS = "versions"
_SCRATCH = ".wheels-"
# PEP 440, normalised or not; nothing that could be a path.
_VERSION = re.compile(r"[0-9][0-9A-Za-z.!+_-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A version that is whole: its state's schema, and the handover that it understands."""

    version: str
    schema: int
    handover: int


def check_version(text: str) -> str:
    """Return a version that can be a folder's name. Raises `InvalidInputError`."""
    if _VERSION.fullmatch(text) is None:
        raise InvalidInputError(f"{text!r:.80} is not a version of Limpet; expected one like 0.3.0")
    return text


class PrefixBusyError(TemporaryError):
    """Another command changes the same installation, or has a version of it tried."""

    reason = "UpgradeBusy"


class Prefix:
    """One installation; `path` is its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def folder(self, version: str) -> Path:
        """Where a version is, or would be. Raises `InvalidInputError`."""
        return self.path / _VERSIONS / check_version(version)

    def python(self, version: str) -> Path:
        """A version's interpreter."""
        return self.folder(version) / "bin" / "python"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from changing what is installed meanwhile. Raises `PrefixBusyError`, OSError.

        The lock is the process's, and goes with it however it ends.
        """
        self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = _lock_holder(descriptor)
                raise PrefixBusyError(
                    f"another `limpet upgrade`{f' (process {holder})' if holder else ''} works on "
                    f"{self.path}; nothing was changed. Try again when it has ended: `limpet upgrade "
                    "--status` says what is being tried"
                ) from error
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder that goes at the end of the block; for who has the lock. Raises OSError."""
        from tempfile import TemporaryDirectory

        with TemporaryDirectory(prefix=_SCRATCH, dir=self.path) as name:
            yield Path(name)

    def remove_scratch(self) -> None:
        """Remove what killed processes left of theirs; for who has the lock. Raises OSError."""
        from shutil import rmtree  # brings decompressors along, which an agent never needs

        for folder in self.path.glob(f"{_SCRATCH}*"):
            rmtree(folder)

    def find(self, version: str) -> Installed | None:
        """Return a version that is whole; None when it is not there, or was never finished."""
        try:
            told = json.loads((self.folder(version) / _MARK).read_bytes())
            installed = Installed(**{name: told[name] for name in Installed.__slots__})
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return installed if installed.version == version else None

    def require(self, version: str) -> Installed:
        """Return a version that is whole. Raises `NotFoundError`."""
        found = self.find(version)
        if found is None:
            raise NotFoundError(
                f"version {version} is not installed in {self.path}; `limpet upgrade SOURCE` does it"
            )
        return found

    def versions(self) -> list[Installed]:
        """Every version that is whole."""
        try:
            names = sorted(entry.name for entry in (self.path / _VERSIONS).iterdir())
        except FileNotFoundError:
            return []
        found = (self.find(name) for name in names if _VERSION.fullmatch(name))
        return [each for each in found if each is not None]

    @property
    def current(self) -> str | None:
        """What starts at boot; None before there is anything."""
        return self._linked("current")

    @property
    def previous(self) -> str | None:
        """What was current before."""
        return self._linked("previous")

    def finish(self, installed: Installed) -> None:
        """Mark a version as whole: everything else of it is on the disk. Raises OSError."""
        data = json.dumps(asdict(installed)).encode() + b"\n"
        folder = self.folder(installed.version)
        write_atomically(folder / _MARK, data, mode=0o644)
        sync_directory(folder.parent)

    def switch(self, version: str) -> None:
        """Let this version start from now on; durable on return. Raises OSError, `NotFoundError`."""
        self.require(version)
        current = self.current
        if current == version:
            return
        if current is not None:
            self._link("previous", current)
        self._link("current", version)

    def remove(self, version: str) -> None:
        """Remove a version, or what is left of one. Raises OSError."""
        folder = self.folder(version)
        (folder / _MARK).unlink(missing_ok=True)
        if folder.exists():
            sync_directory(folder)
            from shutil import rmtree  # brings decompressors along, which an agent never needs

            rmtree(folder)

    def remove_but(self, kept: Iterable[str | None]) -> list[str]:
        """Remove every version but these, unfinished ones too; return what went. Raises OSError."""
        keep, gone = set(kept), []
        folder = self.path / _VERSIONS
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        for name in sorted(names):
            if name not in keep and _VERSION.fullmatch(name):
                self.remove(name)
                gone.append(name)
        return gone

    def _linked(self, name: str) -> str | None:
        try:
            target = (self.path / name).readlink()
        except OSError:
            return None
        is_ours = target.parent == Path(_VERSIONS) and _VERSION.fullmatch(target.name)
        return target.name if is_ours else None

    def _link(self, name: str, version: str) -> None:
        staged = self.path / f".{name}.new"
        staged.unlink(missing_ok=True)
        staged.symlink_to(Path(_VERSIONS) / version)
        staged.replace(self.path / name)
        sync_directory(self.path)


def _lock_holder(descriptor: int) -> int | None:
    """The process that has the lock of an open file, by proc_locks(5); None when that does not tell."""
    status = os.fstat(descriptor)
    device, inode = status.st_dev, status.st_ino
    wanted = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, _, _, pid, file, *_ = line.split()
        if kind == "FLOCK" and file == wanted:
            return int(pid)
    return None


def running_prefix() -> Prefix | None:
    """The installation that this interpreter belongs to; None when it is in none."""
    folder = Path(sys.prefix).resolve()  # it may have been started by way of `current`
    if folder.parent.name != _VERSIONS:
        return None
    prefix = Prefix(folder.parent.parent)
    is_whole = _VERSION.fullmatch(folder.name) is not None and prefix.find(folder.name) is not None
    return prefix if is_whole else None
