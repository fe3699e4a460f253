"""What a power cut may leave of files: a log of what programs did, and the images that it allows. Pure.

The model is a journalling file system's promise and no more (fsync(2), rename(2)): what was synced is
there; of what was not, any part of any write may be, at sector size; names change in their order in
each folder, and what a folder's sync has not covered may be missing from some point on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes went into a file; without a sync they may or may not be there."""

    path: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file got this length."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """Everything written to a file so far is durable."""

    path: str


@dataclass(frozen=True, slots=True)
class Create:
    """A new, empty file."""

    path: str


@dataclass(frozen=True, slots=True)
class Link:
    """Another name for a file."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Rename:
    """A file, or a folder with all in it, got another name; what had that name is gone."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Unlink:
    """A name is gone."""

    path: str


@dataclass(frozen=True, slots=True)
class SyncFolder:
    """Every change of names in a folder so far is durable."""

    path: str


Naming: TypeAlias = Create | Link | Rename | Unlink
Operation: TypeAlias = Write | Truncate | Sync | SyncFolder | Naming


@dataclass(slots=True)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncate] = field(default_factory=list)

    def settle(self) -> None:
        for change in self.pending:
            _carry_out(self.durable, change)
        self.pending.clear()

    def crashed(self, chance: random.Random) -> bytes:
        """Return what is there when power fails now."""
        content = bytearray(self.durable)
        # Most cuts lose little or much; the mixtures between are where order matters.
        share = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for change in self.pending:
            if isinstance(change, Truncate):
                if chance.random() < share:
                    _carry_out(content, change)
                continue
            for offset, data in _sectors(change):
                if chance.random() < share:
                    _carry_out(content, Write(change.path, offset, data))
        return bytes(content)


def _sectors(write: Write) -> list[tuple[int, bytes]]:
    """Cut a write where sectors begin."""
    pieces, at = [], 0
    while at < len(write.data):
        offset = write.offset + at
        length = SECTOR_BYTES - offset % SECTOR_BYTES
        pieces.append((offset, write.data[at : at + length]))
        at += length
    return pieces


def _carry_out(content: bytearray, change: Write | Truncate) -> None:
    if isinstance(change, Truncate):
        size = change.size
        del content[size:]
        content.extend(bytes(size - len(content)))
    else:
        content.extend(bytes(max(0, change.offset - len(content))))
        content[change.offset : change.offset + len(change.data)] = change.data


class CrashDisk:
    """Follows a log; at any point, `image` is one of the disks that a cut may leave there."""

    def __init__(self, before: Mapping[str, bytes] | None = None) -> None:
        self._now = {path: _File(bytearray(data)) for path, data in (before or {}).items()}
        self._durable = dict(self._now)
        self._pending: list[tuple[Naming, _File | None]] = []

    def follow(self, operation: Operation) -> None:
        """Take the log's next operation."""
        if isinstance(operation, Write | Truncate):
            self._now[operation.path].pending.append(operation)
        elif isinstance(operation, Sync):
            self._now[operation.path].settle()
        elif isinstance(operation, SyncFolder):
            waiting = self._pending
            self._pending = []
            for change, file in waiting:
                if _folder(change) == operation.path:
                    _rename(self._durable, change, file)
                else:
                    self._pending.append((change, file))
        else:
            file = _File() if isinstance(operation, Create) else self._now.get(operation.path)
            _rename(self._now, operation, file)
            self._pending.append((operation, file))

    def image(self, chance: random.Random) -> dict[str, bytes]:
        """Return a disk that may be there when power fails now: every file's content by its path."""
        names = dict(self._durable)
        folders = sorted({_folder(change) for change, _ in self._pending})
        for folder in folders:
            changes = [each for each in self._pending if _folder(each[0]) == folder]
            for change, file in changes[: chance.randint(0, len(changes))]:
                _rename(names, change, file)
        content: dict[int, bytes] = {}  # a file that has two names has one content
        for file in names.values():
            if id(file) not in content:
                content[id(file)] = file.crashed(chance)
        return {path: content[id(file)] for path, file in sorted(names.items())}


def _folder(change: Naming) -> str:
    return str(PurePath(change.path).parent)


def _rename(names: dict[str, _File], change: Naming, file: _File | None) -> None:
    if isinstance(change, Unlink):
        names.pop(change.path, None)
    elif isinstance(change, Rename):
        inside = [path for path in names if PurePath(path).is_relative_to(change.path)]
        moved = {
            str(PurePath(change.target, PurePath(path).relative_to(change.path))): names.pop(path)
            for path in inside
        }
        names.update(moved)
    elif isinstance(change, Link):
        if file is not None:
            names[change.target] = file
    else:
        assert file is not None, "what is created is a file"
        names[change.path] = file
