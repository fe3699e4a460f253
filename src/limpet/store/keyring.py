"""The node's own keys: made at random, kept in a small encrypted file, never seen outside the agent.

`keyring.db` holds one 32-byte node key per generation. What encrypts it is the unlock key, which is
kept elsewhere (`limpet.store.unlock`). Every other key of the node is derived from a node key, so that
what is encrypted never depends on how it is unlocked. The file is only ever replaced whole, and a
second copy is kept in step with it: without one of the two nobody can read anything of the node's.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import apsw

from limpet.errors import InvalidInputError, UnavailableError
from limpet.store.encryption import (
    KEY_BYTES,
    WrongKeyError,
    is_plain,
    open_encrypted,
    remove_database,
)
from limpet.store.files import make_directory, publish, sync_directory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_HASH_BYTES = 32
_SCHEMA = """
CREATE TABLE node_keys (
    id INTEGER PRIMARY KEY, created_at REAL NOT NULL, key BLOB NOT NULL
) STRICT
"""


class LockedError(InvalidInputError):
    """The unlock key does not fit the keyring: a wrong passphrase, or another node's key."""

    reason = "WrongUnlockKey"


class KeyringError(UnavailableError):
    """The keyring can't be read or written."""

    reason = "KeyringUnavailable"


@dataclass(frozen=True, slots=True)
class NodeKey:
    """One generation; `created_at` is seconds since 1970. The key itself is in no message."""

    generation: int
    created_at: float
    key: bytes

    def __repr__(self) -> str:
        return f"NodeKey(generation={self.generation})"


def hkdf(key: bytes, *, info: bytes, length: int, salt: bytes = b"") -> bytes:
    """Derive `length` bytes (at most 8160) from a key: HKDF with SHA-256, RFC 5869."""
    if not 0 < length <= 255 * _HASH_BYTES:
        raise ValueError(f"HKDF-SHA256 makes 1 to {255 * _HASH_BYTES} bytes, not {length}")
    extracted = hmac.new(salt or bytes(_HASH_BYTES), key, "sha256").digest()
    made, block = b"", b""
    for number in range(1, -(-length // _HASH_BYTES) + 1):
        block = hmac.new(extracted, block + info + bytes([number]), "sha256").digest()
        made += block
    return made[:length]


def keyring_path(directory: Path) -> Path:
    """Return where a data directory's keyring is."""
    return directory / "keyring.db"


def copy_path(directory: Path) -> Path:
    """Return where the second copy of a data directory's keyring is."""
    return directory / "keyring.db.copy"


def has_keyring(directory: Path) -> bool:
    """Whether a data directory has a keyring, or what is left of one."""
    return keyring_path(directory).exists() or copy_path(directory).exists()


class Keyring:
    """The open keyring: node keys in memory, the file closed."""

    def __init__(self, path: Path, unlock_key: bytes, keys: Sequence[NodeKey]) -> None:
        self._path = path
        self._unlock_key = unlock_key
        self._keys = {node_key.generation: node_key for node_key in keys}
        self.problems: list[tuple[str, str]] = []
        """What people have to know of the file or its copy: reason and message of an event each."""

    @classmethod
    def open(cls, directory: Path, unlock_keys: Sequence[bytes]) -> tuple[Keyring, int]:
        """Open the keyring, or make the first; also return which of the unlock keys fits.

        A keyring that is damaged or missing is restored from its copy, a copy that is not in step is
        made anew; `problems` tells. Raises `LockedError` when no unlock key fits, `KeyringError` for
        anything else.
        """
        make_directory(directory)
        path = keyring_path(directory)
        for leftover in directory.glob(".keyring.db.*.part*"):
            leftover.unlink()
        restored = ""
        try:
            if not has_keyring(directory):
                _refuse_loss(directory, path)
                first = NodeKey(1, time.time(), os.urandom(KEY_BYTES))
                _write(path, unlock_keys[0], [first])
            try:
                keys, index = _read(path, unlock_keys)
            except (WrongKeyError, KeyringError, apsw.Error, OSError) as error:
                found = _read_copy(directory, unlock_keys)
                if found is None:
                    raise
                keys, index = found
                restored = _restore(directory, unlock_keys[index], keys, error)
        except WrongKeyError as error:
            raise LockedError(
                f"the unlock key does not open {path}: it is another node's key, the passphrase is "
                "wrong, or the file is damaged. Nothing was changed"
            ) from error
        except (apsw.Error, OSError) as error:
            raise KeyringError(f"can't use the keyring {path}: {error}") from error
        keyring = cls(path, unlock_keys[index], keys)
        if restored:
            keyring.problems.append(("KeyringRestored", restored))
        keyring.write_copy()
        return keyring, index

    def write_copy(self) -> None:
        """Bring the second copy in step. That it can't be is a problem, and keeps nobody from working."""
        copy = copy_path(self._path.parent)
        try:
            if self._has_copy(copy):
                return
            _write(copy, self._unlock_key, list(self._keys.values()))
        except (apsw.Error, OSError) as error:
            message = (
                f"the keyring has no second copy now: {copy} can't be written ({error}); free some "
                "space, the next start tries again"
            )
            self.problems.append(("KeyringNotCopied", message))

    def _has_copy(self, copy: Path) -> bool:
        try:
            keys, _ = _read(copy, [self._unlock_key])
        except (WrongKeyError, KeyringError, apsw.Error, OSError):
            return False
        return {each.generation: each for each in keys} == self._keys

    @property
    def generation(self) -> int:
        """The newest generation: what is made now is made with it."""
        return max(self._keys)

    @property
    def generations(self) -> list[NodeKey]:
        """Every generation, newest first."""
        return sorted(self._keys.values(), key=lambda each: -each.generation)

    def derive(self, purpose: str, length: int, *, generation: int | None = None) -> bytes:
        """Return a key of `length` bytes for one purpose, like `state` or `volume/NS/CLAIM/ID`.

        Raises `KeyringError` for a generation that this keyring does not have.
        """
        chosen = self._keys.get(self.generation if generation is None else generation)
        if chosen is None:
            raise KeyringError(
                f"{self._path} has no node key of generation {generation}; "
                "was an older copy of it restored?"
            )
        return hkdf(chosen.key, info=b"limpet/v1/" + purpose.encode(), length=length)

    def derive_all(self, purpose: str, length: int) -> list[bytes]:
        """Return the purpose's key of every generation, newest first."""
        return [
            self.derive(purpose, length, generation=node_key.generation)
            for node_key in self.generations
        ]

    def rotate(self, new_unlock_key: bytes | None = None) -> None:
        """Add a generation and encrypt the keyring anew, in one step. Raises `KeyringError`.

        After a kill, or an error, the file is the old one or the new one: `open` with both unlock
        keys tells which, and makes the second copy anew where it is missing.
        """
        unlock_key = new_unlock_key or self._unlock_key
        added = NodeKey(self.generation + 1, time.time(), os.urandom(KEY_BYTES))
        copy = copy_path(self._path.parent)
        try:
            # A copy with another unlock key, or without the newest node key, must never be what a
            # keyring is restored from: there is none meanwhile.
            copy.unlink(missing_ok=True)
            sync_directory(copy.parent)
            _write(self._path, unlock_key, [*self._keys.values(), added])
        except (apsw.Error, OSError) as error:
            self.write_copy()
            raise KeyringError(f"can't write the keyring {self._path}: {error}") from error
        self._unlock_key = unlock_key
        self._keys[added.generation] = added
        self.write_copy()


def _refuse_loss(directory: Path, path: Path) -> None:
    """Make no new node key beside data that only the lost one can read."""
    state = directory / "state.db"
    is_there = state.exists() and state.stat().st_size and not is_plain(state)
    if is_there or any((directory / "backups").glob("*.db")):
        raise KeyringError(
            f"{path} is missing, and without it nobody can read {state}: restore it from a backup, "
            "or move the data directory away to begin anew"
        )


def _read_copy(directory: Path, unlock_keys: Sequence[bytes]) -> tuple[list[NodeKey], int] | None:
    """Read the second copy; None when it is of no use either."""
    try:
        return _read(copy_path(directory), unlock_keys)
    except (WrongKeyError, KeyringError, apsw.Error, OSError):
        return None


def _restore(directory: Path, unlock_key: bytes, keys: Sequence[NodeKey], error: Exception) -> str:
    """Write a keyring anew that only its copy still has; return what is to be told of it.

    The damaged file stays, under another name.
    """
    path = keyring_path(directory)
    kept = ""
    if path.exists():
        number = 1
        while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
            number += 1
        os.link(path, aside)
        kept = f" and is kept as {aside.name}"
    _write(path, unlock_key, keys)
    what = "could not be read" if kept else "was missing"
    return (
        f"the keyring {path} {what}{kept} ({error}); it was restored from its second copy, with "
        f"{len(keys)} generations of the node key. Nothing was lost"
    )


def _read(path: Path, unlock_keys: Sequence[bytes]) -> tuple[list[NodeKey], int]:
    if not path.stat().st_size:
        raise KeyringError(f"{path} is empty; restore it from a backup")
    connection, index = open_encrypted(path, unlock_keys)
    try:
        rows = connection.execute("SELECT id, created_at, key FROM node_keys").fetchall()
    finally:
        connection.close()
    keys = [NodeKey(*row) for row in cast("list[tuple[int, float, bytes]]", rows)]
    if not keys or any(len(node_key.key) != KEY_BYTES for node_key in keys):
        raise KeyringError(f"{path} holds no node key; restore it from a backup")
    return keys, index


def _write(path: Path, unlock_key: bytes, keys: Sequence[NodeKey]) -> None:
    staged = path.with_name(f".{path.name}.{os.getpid()}.part")
    remove_database(staged)
    try:
        connection, _ = open_encrypted(staged, [unlock_key])
        try:
            connection.pragma("journal_mode", "memory")
            with connection:
                connection.execute(_SCHEMA)
                connection.executemany(
                    "INSERT INTO node_keys VALUES (?, ?, ?)",
                    [(each.generation, each.created_at, each.key) for each in keys],
                )
        finally:
            connection.close()
        descriptor = os.open(staged, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, 0o600)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        publish(staged, path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_database(staged)
        raise
