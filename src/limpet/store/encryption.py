"""SQLite files under a raw key: ChaCha20-Poly1305 for each page, by SQLite3 Multiple Ciphers.

A key here is 32 random or derived bytes, so no time goes into stretching it. Changing a file's key
writes a second file and renames it: at every moment there is one whole file that one key opens.
https://utelle.github.io/SQLite3MultipleCiphers/docs/configuration/config_sql_pragmas/
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import apsw

from limpet.store.files import publish

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KEY_BYTES = 32
_PLAIN_HEAD = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat.html, 1.3
_WIPE_BYTES = 1 << 20
SIDE_FILES = ("-wal", "-shm", "-journal")


class WrongKeyError(Exception):
    """None of the keys opens the file: it has another key, or it is damaged, or no database."""


def is_plain(path: Path) -> bool:
    """Whether the file is a database that anybody can read."""
    try:
        with path.open("rb") as file:
            return file.read(len(_PLAIN_HEAD)) == _PLAIN_HEAD
    except FileNotFoundError:
        return False


def open_encrypted(path: Path, keys: Sequence[bytes]) -> tuple[apsw.Connection, int]:
    """Open or create a database; return it and which of the keys it has (a new one has the first).

    Raises `WrongKeyError` when none fits and leaves the file as it was; apsw.Error for the rest.
    """
    for index, key in enumerate(keys):
        connection = _connect(path)
        try:
            # A key that does not fit must not be used to write anything back.
            leave_wal(connection)
            _execute(connection, "PRAGMA cipher = 'chacha20'")
            _execute(connection, f"PRAGMA key = '{_raw(key)}'")
            _execute(connection, "SELECT count(*) FROM sqlite_schema")
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        except apsw.NotADBError:
            connection.close()
        except BaseException:
            connection.close()
            raise
        else:
            return connection, index
    raise WrongKeyError(f"{path} can't be read with the node's key, or it is damaged")


def rewrite(connection: apsw.Connection, path: Path, key: bytes) -> None:
    """Replace the open database `path` by a copy under another key, and close the connection.

    A kill at any point leaves the old file or the new one. Needs the file's size again on disk.
    """
    staged = _staged(path)
    staged.unlink(missing_ok=True)
    try:
        # Nothing of the old file may be left in a write-ahead log beside the new one.
        if connection.pragma("journal_mode", "delete") != "delete":
            raise apsw.BusyError(f"{path} is open elsewhere")
        write_copy(connection, staged, key)
        connection.close()
        publish(staged, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            staged.unlink()
        raise


def write_copy(connection: apsw.Connection, copy: Path, key: bytes) -> None:
    """Write what an open database holds to a new file under a key, durably, without unused pages.

    The file is there unfinished meanwhile: it needs its name afterwards (`publish`). Raises apsw.Error,
    OSError.
    """
    try:
        _execute(connection, "VACUUM INTO ?", (_uri(copy, key),))
    except apsw.Error as error:  # SQLite's own text may repeat the URI, and so the key
        raise type(error)(f"can't write the copy {copy}") from None
    descriptor = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_damage(connection: apsw.Connection) -> str:
    """Return the first thing that is wrong with a database, "" when nothing is (PRAGMA quick_check).

    Each page is authenticated when it is read, so one that the disk has changed does not pass.
    """
    try:
        found = str(connection.execute("PRAGMA quick_check(1)").get)
    except (apsw.CorruptError, apsw.NotADBError, apsw.IOError) as error:
        return str(error)
    return "" if found == "ok" else found.splitlines()[-1]


def leave_wal(connection: apsw.Connection) -> None:
    """Let closing this connection change nothing: what waits in the write-ahead log stays there."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


def encrypt_plain(path: Path, key: bytes) -> None:
    """Put an encrypted copy in a plain database's place, and overwrite the plain one.

    Safe against a kill at any point; `finish_encrypting` overwrites what a kill has left.
    """
    leftover = _leftover(path)
    leftover.unlink(missing_ok=True)
    connection = _connect(path)
    try:
        os.link(path, leftover)
        rewrite(connection, path, key)
    except BaseException:
        connection.close()
        if not is_plain(path):
            raise
        leftover.unlink(missing_ok=True)
        raise
    wipe(leftover)


def finish_encrypting(path: Path) -> None:
    """Remove what an interrupted `encrypt_plain` or `rewrite` left beside the database."""
    _staged(path).unlink(missing_ok=True)
    leftover = _leftover(path)
    if leftover.exists():
        if path.exists() and leftover.samefile(path):
            leftover.unlink()
        else:
            wipe(leftover)


def wipe(path: Path) -> None:
    """Overwrite a file once, then remove it. Flash and journals may keep older copies of blocks."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        left = os.fstat(descriptor).st_size
        while left > 0:
            left -= os.write(descriptor, bytes(min(left, _WIPE_BYTES)))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()


def remove_database(path: Path) -> None:
    """Remove a closed database and what belongs to it."""
    for suffix in ("", *SIDE_FILES):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def set_aside(path: Path, aside: Path) -> None:
    """Rename a closed database that can't be used; an earlier one of that name goes."""
    remove_database(aside)
    path.replace(aside)
    for suffix in SIDE_FILES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _connect(path: Path) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(str(path.absolute()), flags=flags)
    connection.set_busy_timeout(2000)
    return connection


def _execute(connection: apsw.Connection, statement: str, bindings: tuple[str, ...] = ()) -> None:
    """Run a statement that may hold a key: it is not kept for another time."""
    connection.execute(statement, bindings, can_cache=False).fetchall()


def _raw(key: bytes) -> str:
    assert len(key) == KEY_BYTES, "the cipher takes raw keys of 32 bytes"
    return f"raw:{key.hex()}"


def _uri(path: Path, key: bytes) -> str:
    """Name a database to be made with this key; a raw key is given as the text of `PRAGMA key`."""
    from urllib.parse import quote

    name = quote(str(path.absolute()))
    return f"file:{name}?cipher=chacha20&hexkey={_raw(key).encode().hex()}"


def _staged(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _leftover(path: Path) -> Path:
    return path.with_name(f".{path.name}.plain")
