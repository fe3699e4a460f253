"""Records what the product does to files: SQLite through a VFS, everything else at `os`'s calls.

The product's code is not changed and does not know. SQLite3 Multiple Ciphers wraps any VFS whose name it is
given behind `multipleciphers-`, so what is recorded is what reaches the disk: encrypted pages.
https://rogerbinns.github.io/apsw/vfs.html
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import apsw
from crash_disk import Create, Link, Rename, Sync, SyncFolder, Truncate, Unlink, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crash_disk import Operation

_VFS = "limpet-recorded"
_DIRECTORY_SYNCED_TOO = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL


class Recorder:
    """The log of everything below one folder; paths in it are relative."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.log: list[Operation] = []
        self._known: dict[str, bytearray] = {}
        self._opened: dict[int, str] = {}

    def relative(self, path: object) -> str | None:
        """Return a path as the log names it; None for one that is elsewhere."""
        if isinstance(path, int) or path is None:
            return None
        whole = Path(os.path.abspath(os.fsdecode(path)))  # type: ignore[arg-type]
        return str(whole.relative_to(self.root)) if whole.is_relative_to(self.root) else None

    def note_open(self, path: str, *, size: int) -> None:
        """Learn of a file that was opened; one that is not known is new."""
        if path not in self._known:
            self._known[path] = bytearray()
            self.log.append(Create(path))
        if size == 0 and self._known[path]:
            self.note_truncate(path, 0)

    def note_write(self, path: str, offset: int, data: bytes) -> None:
        """Learn of a write."""
        content = self._known[path]
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
        self.log.append(Write(path, offset, bytes(data)))

    def note_truncate(self, path: str, size: int) -> None:
        """Learn of a file's new length."""
        content = self._known[path]
        del content[size:]
        content.extend(bytes(size - len(content)))
        self.log.append(Truncate(path, size))

    def note_sync(self, path: str) -> None:
        """Learn of a sync: what was written past the recorder is seen now."""
        actual = (self.root / path).read_bytes()
        if path not in self._known:
            self.note_open(path, size=len(actual))
        if actual != self._known[path]:
            self.note_truncate(path, 0)
            self.note_write(path, 0, actual)
        self.log.append(Sync(path))

    def note_unlink(self, path: str) -> None:
        """Learn of a name that is gone."""
        self._known.pop(path, None)
        self.log.append(Unlink(path))

    def note_rename(self, path: str, target: str) -> None:
        """Learn of another name; what was never synced has no content that counts."""
        if path in self._known:
            self._known[target] = self._known.pop(path)
        elif (self.root / target).is_file():
            self._known[target] = bytearray()
            self.log.append(Create(path))
        self.log.append(Rename(path, target))

    def note_link(self, path: str, target: str) -> None:
        """Learn of a second name."""
        self._known[target] = self._known[path]
        self.log.append(Link(path, target))

    # What stands in for os's own

    def _open(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(path: object, flags: int, *rest: object, **named: object) -> int:
            descriptor = real(path, flags, *rest, **named)
            inside = self.relative(path) if named.get("dir_fd") is None else None
            if inside is not None:
                self._opened[descriptor] = inside
                if flags & os.O_CREAT:
                    self.note_open(inside, size=os.fstat(descriptor).st_size)
            return descriptor

        return call

    def _write(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(descriptor: int, data: bytes) -> int:
            count = real(descriptor, data)
            path = self._opened.get(descriptor)
            if path in self._known:
                end = os.lseek(descriptor, 0, os.SEEK_CUR)
                self.note_write(path, end - count, bytes(data[:count]))
            return count

        return call

    def _fsync(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            real(descriptor)
            path = self._opened.get(descriptor)
            if path is None:
                return
            if (self.root / path).is_dir():
                self.log.append(SyncFolder(path))
            else:
                self.note_sync(path)

        return call

    def _close(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            self._opened.pop(descriptor, None)
            real(descriptor)

        return call

    def _two(
        self, real: Callable[..., None], note: Callable[[str, str], None]
    ) -> Callable[..., None]:
        def call(path: object, target: object, **named: object) -> None:
            real(path, target, **named)
            first, second = self.relative(path), self.relative(target)
            if first is not None and second is not None:
                note(first, second)

        return call

    def _unlink(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(path: object, **named: object) -> None:
            real(path, **named)
            inside = self.relative(path) if named.get("dir_fd") is None else None
            if inside is not None:
                self.note_unlink(inside)

        return call

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record what this process does below the folder, while the block lasts."""
        renames = {
            name: self._two(getattr(os, name), self.note_rename) for name in ("replace", "rename")
        }
        replaced = {
            "open": self._open(os.open),
            "write": self._write(os.write),
            "fsync": self._fsync(os.fsync),
            "close": self._close(os.close),
            "link": self._two(os.link, self.note_link),
            "unlink": self._unlink(os.unlink),
            **renames,
        }
        before = apsw.vfs_names()[0]
        with contextlib.ExitStack() as stack:
            for name, call in replaced.items():
                stack.enter_context(mock.patch.object(os, name, call))
            apsw.set_default_vfs(_recorded_vfs(self))
            try:
                yield
            finally:
                apsw.set_default_vfs(before)


_registered: list[_RecordedVfs] = []


def _recorded_vfs(recorder: Recorder) -> str:
    """Return the name of the VFS, which tells this recorder from now on. It stays: SQLite keeps it."""
    if not _registered:
        _registered.append(_RecordedVfs())
        # The first use makes the encrypting layer above.
        apsw.Connection(":memory:", vfs=f"multipleciphers-{_VFS}").close()
    _registered[0].recorder = recorder
    return f"multipleciphers-{_VFS}"


class _RecordedVfs(apsw.VFS):
    recorder: Recorder

    def __init__(self) -> None:
        super().__init__(_VFS, "unix")

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        inside = self.recorder.relative(path)
        if inside is None:
            return apsw.VFSFile("unix", name, flags)
        opened = _RecordedFile(name, flags, self.recorder, inside)
        self.recorder.note_open(inside, size=(self.recorder.root / inside).stat().st_size)
        return opened

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        inside = self.recorder.relative(filename)
        if inside is not None:
            self.recorder.note_unlink(inside)
            if syncdir:
                self.recorder.log.append(SyncFolder(str(Path(inside).parent)))


class _RecordedFile(apsw.VFSFile):
    def __init__(
        self, name: apsw.URIFilename | str | None, flags: list[int], recorder: Recorder, path: str
    ) -> None:
        super().__init__("unix", name, flags)
        self._recorder = recorder
        self._path = path
        # SQLite's unix VFS syncs the folder with the first sync of a new journal (os_unix.c).
        self._syncs_folder = bool(flags[0] & _DIRECTORY_SYNCED_TOO)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._recorder.note_write(self._path, offset, data)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self._recorder.note_truncate(self._path, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._recorder.log.append(Sync(self._path))
        if self._syncs_folder:
            self._recorder.log.append(SyncFolder(str(Path(self._path).parent)))
            self._syncs_folder = False
