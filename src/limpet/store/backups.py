"""Copies of the state file: made now and then, checked before an older one goes, tried newest first.

They are encrypted as the state is and lie in `backups` beside it. The copies that are made on the way
(`state-000007.db`) are numbered, for a device's clock may be wrong, and few; the one from before the
step to another schema (`before-schema-2.db`) stays until that step is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from typing import TYPE_CHECKING

import apsw

from limpet.store.encryption import (
    WrongKeyError,
    find_damage,
    finish_encrypting,
    leave_wal,
    open_encrypted,
    remove_database,
    rewrite,
    write_copy,
)
from limpet.store.files import make_directory, publish

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

_NUMBERED = re.compile(r"state-(\d{1,12})\.db")
_BEFORE = re.compile(r"before-schema-(\d{1,6})\.db")
# History: that it goes on is no reason for another copy.
_NOT_PROMISED = frozenset({"events"})
# What a copy is made with; SQLite's own default is 2 MB.
_CACHE_KIB = 256


class BackupError(Exception):
    """A copy could not be made, or is not what it was made from; no other was touched."""


class Backups:
    """The backups of one state file. `kept` is how many numbered ones stay."""

    def __init__(self, directory: Path, *, kept: int) -> None:
        self._directory = directory
        self._kept = kept
        self._busy = threading.RLock()

    def paused(self) -> AbstractContextManager[bool]:
        """Wait for a backup that is being made in another thread, and keep the next one waiting."""
        return self._busy

    @contextlib.contextmanager
    def held_if_free(self) -> Iterator[bool]:
        """Keep them as they are, without waiting; False while another thread makes or changes one."""
        is_free = self._busy.acquire(blocking=False)
        try:
            yield is_free
        finally:
            if is_free:
                self._busy.release()

    def paths(self) -> list[Path]:
        """Return every backup, the best to restore first: newest to oldest."""
        try:
            found = list(self._directory.iterdir())
        except FileNotFoundError:
            return []
        ranked: list[tuple[bool, int, Path]] = []
        for path in found:
            numbered, before = _NUMBERED.fullmatch(path.name), _BEFORE.fullmatch(path.name)
            if numbered is not None:
                ranked.append((True, int(numbered[1]), path))
            elif before is not None:
                ranked.append((False, int(before[1]), path))
        return [path for _, _, path in sorted(ranked, reverse=True)]

    def numbered(self) -> list[Path]:
        """Return those that were made on the way, newest first."""
        return [path for path in self.paths() if _NUMBERED.fullmatch(path.name)]

    def make(self, path: Path, keys: Sequence[bytes]) -> Path | None:
        """Copy the state file `path` through a connection of its own; drop what is one too many.

        Returns the new backup, None when the newest one already holds the same. Raises `BackupError`.
        May run in another thread than the state's.
        """
        with self._busy:
            try:
                connection, _ = _open(path, keys)
            except (WrongKeyError, apsw.Error, OSError) as error:
                raise BackupError(f"can't read {path} for a backup: {error}") from error
            try:
                numbered = self.numbered()
                if numbered and self._is_same(connection, numbered[0], keys):
                    return None
                last = max((int(_NUMBERED.fullmatch(p.name)[1]) for p in numbered), default=0)  # type: ignore[index]
                made = self._write(connection, f"state-{last + 1:06d}.db", keys[0])
                for old in self.numbered()[self._kept :]:
                    remove_database(old)
            except OSError as error:
                raise BackupError(f"can't look after {self._directory}: {error}") from error
            finally:
                connection.close()
            return made

    def make_before(self, connection: apsw.Connection, key: bytes, *, schema: int) -> Path:
        """Copy an open state file that is about to get this schema. Raises `BackupError`."""
        with self._busy:
            return self._write(connection, f"before-schema-{schema}.db", key)

    def _write(self, connection: apsw.Connection, name: str, key: bytes) -> Path:
        path = self._directory / name
        staged = self._directory / f".{name}.part"
        try:
            make_directory(self._directory)
            for leftover in self._directory.glob(".*.part*"):
                leftover.unlink()
            write_copy(connection, staged, key)
            copy, _ = _open(staged, [key])
            try:
                damage = find_damage(copy)
            finally:
                copy.close()
            if damage:
                raise BackupError(f"the backup {name} can't be read after it was written: {damage}")
            publish(staged, path)
        except (WrongKeyError, apsw.Error, OSError) as error:
            raise BackupError(f"can't write the backup {path}: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                remove_database(staged)
        return path

    def _is_same(self, connection: apsw.Connection, backup: Path, keys: Sequence[bytes]) -> bool:
        try:
            copy, _ = _open(backup, keys)
        except (WrongKeyError, apsw.Error, OSError):
            return False  # damaged or gone: no reason to make none
        try:
            return _digest(copy) == _digest(connection)
        except apsw.Error:
            return False
        finally:
            copy.close()

    def open_before(self, keys: Sequence[bytes], *, schema: int) -> tuple[Path, apsw.Connection]:
        """Return the backup from before the step to this schema, open and whole.

        Raises `WrongKeyError`, apsw.Error, OSError.
        """
        path = self._directory / f"before-schema-{schema}.db"
        connection, _ = _open(path, keys)
        damage = find_damage(connection)
        if damage:
            connection.close()
            raise apsw.CorruptError(f"{path.name} is damaged: {damage}")
        return path, connection

    def open_newest(self, keys: Sequence[bytes]) -> tuple[Path, apsw.Connection] | None:
        """Return the newest backup that is whole, open; None when there is none."""
        for path in self.paths():
            try:
                connection, _ = _open(path, keys)
            except (WrongKeyError, apsw.Error, OSError):
                continue
            if not find_damage(connection):
                return path, connection
            connection.close()
        return None

    def rekey(self, keys: Sequence[bytes]) -> list[str]:
        """Encrypt every backup with the newest of these keys; return what could not be done.

        One that keeps its key is still read with it: a keyring forgets none.
        """
        problems = []
        with self._busy:
            for path in self.paths():
                try:
                    finish_encrypting(path)
                    connection, index = _open(path, keys)
                    if index:
                        rewrite(connection, path, keys[0])
                    connection.close()
                except (WrongKeyError, apsw.Error, OSError) as error:
                    problems.append(f"the backup {path} keeps its key: {error}")
        return problems

    def drop_all_but_newest(self) -> int:
        """Give room up: of the numbered backups only the newest stays. Returns how many went."""
        with self._busy:
            old = self.numbered()[1:]
            for path in old:
                remove_database(path)
        return len(old)


def _open(path: Path, keys: Sequence[bytes]) -> tuple[apsw.Connection, int]:
    """Open a file that is there, to read it."""
    if not path.stat().st_size:
        raise WrongKeyError(f"{path} is empty")
    connection, index = open_encrypted(path, keys)
    leave_wal(connection)
    connection.pragma("cache_size", -_CACHE_KIB)
    return connection, index


def _digest(connection: apsw.Connection) -> bytes:
    """Return a digest of everything that a backup is made for."""
    digest = hashlib.blake2b(digest_size=32)
    tables = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        " ORDER BY name"
    ).fetchall()
    for (name,) in tables:
        if name not in _NOT_PROMISED:
            digest.update(f"{name}\n".encode())
            for row in connection.execute(f'SELECT * FROM "{name}"'):  # noqa: S608 - a name of the schema
                digest.update(repr(row).encode())
    return digest.digest()
