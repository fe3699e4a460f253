"""The node's own keys: made at random, kept in a small encrypted file, never seen outside the agent.

`keyring.db` holds one 32-byte node key per generation. What encrypts it is the unlock key, which is
kept elsewhere (`limpet.store.unlock`). Every other key of the node is derived from a node key, so that
what is encrypted never depends on how it is unlocked. The file is only ever replaced whole.
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
from limpet.store.files import make_directory, publish

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


class Keyring:
    """The open keyring: node keys in memory, the file closed."""

    def __init__(self, path: Path, unlock_key: bytes, keys: Sequence[NodeKey]) -> None:
        self._path = path
        self._unlock_key = unlock_key
        self._keys = {node_key.generation: node_key for node_key in keys}

    @classmethod
    def open(cls, directory: Path, unlock_keys: Sequence[bytes]) -> tuple[Keyring, int]:
        """Open the keyring, or make the first; also return which of the unlock keys fits.

        Raises `LockedError` when none does, `KeyringError` for anything else.
        """
        make_directory(directory)
        path = keyring_path(directory)
        for leftover in directory.glob(".keyring.db.*.part*"):
            leftover.unlink()
        try:
            if not path.exists():
                _refuse_loss(directory, path)
                first = NodeKey(1, time.time(), os.urandom(KEY_BYTES))
                _write(path, unlock_keys[0], [first])
            keys, index = _read(path, unlock_keys)
        except WrongKeyError as error:
            raise LockedError(
                f"the unlock key does not open {path}: it is another node's key, the passphrase is "
                "wrong, or the file is damaged. Nothing was changed"
            ) from error
        except (apsw.Error, OSError) as error:
            raise KeyringError(f"can't use the keyring {path}: {error}") from error
        return cls(path, unlock_keys[index], keys), index

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
        keys tells which.
        """
        unlock_key = new_unlock_key or self._unlock_key
        added = NodeKey(self.generation + 1, time.time(), os.urandom(KEY_BYTES))
        try:
            _write(self._path, unlock_key, [*self._keys.values(), added])
        except (apsw.Error, OSError) as error:
            raise KeyringError(f"can't write the keyring {self._path}: {error}") from error
        self._unlock_key = unlock_key
        self._keys[added.generation] = added


def _refuse_loss(directory: Path, path: Path) -> None:
    """Make no new node key beside data that only the lost one can read."""
    state = directory / "state.db"
    if state.exists() and state.stat().st_size and not is_plain(state):
        raise KeyringError(
            f"{path} is missing, and without it nobody can read {state}: restore it from a backup, "
            "or move the data directory away to begin anew"
        )


def _read(path: Path, unlock_keys: Sequence[bytes]) -> tuple[list[NodeKey], int]:
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
