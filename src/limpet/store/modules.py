"""Modules and the artifacts compiled from them, on disk.

Modules are named by their SHA-256. Artifacts are machine code that workers will run, so a file is only
ever used when this node wrote it: each carries a keyed BLAKE2b over its name, its description and its
bytes, under a key derived from the node key. What fails the check is removed and compiled again.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from limpet.engine.protocol import ModuleInfo
from limpet.errors import InvalidInputError
from limpet.store.files import make_directory, publish, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from limpet.store.downloads import Download

# Version 13 of the component model's layer; a core module says 1 of layer 0.
_COMPONENT_VERSION = b"\x0d\0\1\0"
MAX_MODULE_BYTES = 256 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FILE = re.compile(r"[0-9a-f]{64}(\.wasm|-.*\.cwasm)")
_CHUNK = 1 << 20


class DigestError(InvalidInputError):
    """Bytes that are not what their digest says, or a digest that is none."""

    reason = "DigestMismatch"


class FileKind(StrEnum):
    """What a file of the store is."""

    MODULE = "module"
    ARTIFACT = "artifact"
    PARTIAL = "partial"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the store; `name` is an artifact's, `digest` its module's. `size_bytes` is on the disk."""

    kind: FileKind
    path: Path
    name: str
    digest: str
    size_bytes: int
    changed_at: int


@dataclass(slots=True, weakref_slot=True)
class Artifact:
    """A verified artifact: an open, read-only descriptor and what compiling learned."""

    descriptor: int
    info: ModuleInfo


class ModuleStore:
    """The `modules` and `artifacts` folders of a data directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._modules = directory / "modules"
        self._artifacts = directory / "artifacts"
        self._key = b""
        self.admit: Callable[[], None] = lambda: None
        """Asked before a module is begun; raises LimpetError when there is no room."""

    def open(self, key: bytes) -> None:
        """Make the folders and remove what an interrupted write left; `key` (32 bytes) seals artifacts."""
        self._key = key
        for folder in (self._modules, self._artifacts):
            make_directory(folder)
            for leftover in folder.glob(".*.part"):
                leftover.unlink()
        (self._directory / "artifact.key").unlink(missing_ok=True)  # of an earlier version

    def set_key(self, key: bytes) -> None:
        """Seal with another key from now on; what the old one sealed is compiled again when needed."""
        self._key = key

    def has_module(self, digest: str) -> bool:
        """Whether the module is here."""
        return self._module_path(digest).exists()

    def open_module(self, digest: str) -> int:
        """Return a read-only descriptor of the module. Raises FileNotFoundError."""
        return os.open(self._module_path(digest), os.O_RDONLY | os.O_CLOEXEC)

    def is_component(self, digest: str) -> bool:
        """Whether a module that is here is a component, by its first bytes (Binary.md, preamble)."""
        descriptor = self.open_module(digest)
        try:
            return os.pread(descriptor, 8, 0)[4:] == _COMPONENT_VERSION
        finally:
            os.close(descriptor)

    def module_bytes(self, digest: str) -> int:
        """Return a module's size; 0 when it is not here."""
        try:
            return self._module_path(digest).stat().st_size
        except FileNotFoundError:
            return 0

    def remove_module(self, digest: str) -> None:
        """Remove a module that is not what its name says."""
        self._module_path(digest).unlink(missing_ok=True)

    def adopt(self, download: Download, digest: str) -> None:
        """Make a finished download the module that another process found it to be, if that is not here.

        Its bytes are hashed when they are compiled; until then nothing but that process's word is for them.
        """
        if self.has_module(digest):
            download.discard()
        else:
            download.publish(self._module_path(digest))

    def create_module(self) -> StagedModule:
        """Begin to write a module whose digest is checked at the end. Raises LimpetError, OSError."""
        self.admit()
        return StagedModule(self)

    def open_artifact(self, name: str) -> Artifact | None:
        """Return a verified artifact, or None when there is none that this node wrote."""
        path = self._artifacts / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.ELOOP:
                self.remove_artifact(name)  # a symbolic link is none of ours
            elif error.errno != errno.ENOENT:
                raise
            return None
        try:
            seal = json.loads((self._artifacts / f"{name}.json").read_bytes())
            description = seal["description"]
            if not hmac.compare_digest(seal["mac"], self._mac(name, description, descriptor)):
                raise ValueError("its authentication code does not match")
            info = ModuleInfo(
                imports=tuple(description["imports"]),
                exports=tuple(description["exports"]),
                memory_bytes=int(description["memory_bytes"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            os.close(descriptor)
            self.remove_artifact(name)
            return None
        return Artifact(descriptor, info)

    def stage_artifact(self, name: str) -> tuple[Path, int]:
        """Return a path and a writable descriptor for a compile process to fill."""
        path = self._artifacts / f".{name}.part"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return path, os.open(path, flags, 0o600)

    def seal_artifact(self, name: str, staged: Path, descriptor: int, info: ModuleInfo) -> Artifact:
        """Publish a finished artifact with this node's authentication code."""
        description = {
            "imports": list(info.imports),
            "exports": list(info.exports),
            "memory_bytes": info.memory_bytes,
        }
        seal = {"description": description, "mac": self._mac(name, description, descriptor)}
        write_atomically(self._artifacts / f"{name}.json", json.dumps(seal).encode())
        publish(staged, self._artifacts / name)
        opened = self.open_artifact(name)
        if opened is None:
            raise OSError(f"the artifact {name} changed while it was published")
        return opened

    def remove_artifact(self, name: str) -> None:
        """Remove an artifact, which can be compiled again."""
        (self._artifacts / name).unlink(missing_ok=True)
        (self._artifacts / f"{name}.json").unlink(missing_ok=True)

    def files(self) -> Iterator[StoredFile]:
        """Give every file of the store that is the node's: modules, artifacts, and what is unfinished."""
        for kind, folder in (
            (FileKind.MODULE, self._modules),
            (FileKind.ARTIFACT, self._artifacts),
        ):
            for entry in os.scandir(folder):
                is_partial = entry.name.startswith(".") and entry.name.endswith(".part")
                digest = entry.name[:64]
                if not is_partial and not _FILE.fullmatch(entry.name):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # it was finished or given up a moment ago
                yield StoredFile(
                    FileKind.PARTIAL if is_partial else kind,
                    folder / entry.name,
                    entry.name,
                    "" if is_partial else f"sha256:{digest}",
                    status.st_blocks * 512,
                    status.st_mtime_ns,
                )

    def _module_path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise DigestError(f"{digest[:80]!r} is not `sha256:` and 64 hexadecimal digits")
        return self._modules / f"{digest[7:]}.wasm"

    def _mac(self, name: str, description: object, descriptor: int) -> str:
        text = json.dumps([name, description], sort_keys=True).encode()
        digest = hashlib.blake2b(text, key=self._key, digest_size=32)
        offset = 0
        while chunk := os.pread(descriptor, _CHUNK, offset):
            digest.update(chunk)
            offset += len(chunk)
        return digest.hexdigest()


class StagedModule:
    """A module on its way in: written in pieces, published when the digest is right."""

    def __init__(self, store: ModuleStore) -> None:
        self._store = store
        self._path = store._modules / f".{os.urandom(8).hex()}.part"  # noqa: SLF001 - its own half
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.descriptor = os.open(self._path, flags, 0o600)
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._digest.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]

    def finish(self, digest: str) -> None:
        """Publish under this digest. Raises `DigestError`, and then nothing is left behind."""
        if digest != f"sha256:{self._digest.hexdigest()}":
            self.abandon()
            raise DigestError(f"the bytes are sha256:{self._digest.hexdigest()}, not {digest[:80]}")
        self._publish(digest)

    def finish_written(self, digest: str) -> None:
        """Publish what another process wrote and hashed, if the module is not here (see `adopt`)."""
        self._publish(digest, replaces=False)

    def _publish(self, digest: str, *, replaces: bool = True) -> None:
        try:
            path = self._store._module_path(digest)  # noqa: SLF001 - its own half
            if replaces or not path.exists():
                os.fsync(self.descriptor)
                publish(self._path, path)
            else:
                self._path.unlink()
        except BaseException:
            self.abandon()
            raise
        os.close(self.descriptor)

    def abandon(self) -> None:
        """Forget what was written."""
        os.close(self.descriptor)
        self._path.unlink(missing_ok=True)
