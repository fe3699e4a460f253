"""The node's memory: one encrypted SQLite file with what was asked for, decided, and what happened.

A change is acknowledged once its transaction is on disk (write-ahead log, synchronous FULL). Events
are history rather than promises: they are written in batches, to spare the flash.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import apsw

from limpet.errors import LimpetError, TemporaryError, UnavailableError
from limpet.store.encryption import (
    WrongKeyError,
    encrypt_plain,
    finish_encrypting,
    is_plain,
    open_encrypted,
    rewrite,
)
from limpet.store.files import make_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

# Kind, namespace and name.
ObjectKey = tuple[str, str, str]

_MAX_EVENTS = 2000
# What leads from each schema to the next one; the first makes schema 1 of an empty file.
_MIGRATIONS = (
    """
CREATE TABLE objects (
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    generation INTEGER NOT NULL, created_at REAL NOT NULL,
    body TEXT NOT NULL, digest TEXT,
    PRIMARY KEY (kind, namespace, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE completions (
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL,
    reason TEXT NOT NULL, message TEXT NOT NULL, exit_code INTEGER, finished_at REAL NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, type TEXT NOT NULL, reason TEXT NOT NULL,
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, message TEXT NOT NULL,
    count INTEGER NOT NULL
) STRICT;
""",
    """
CREATE TABLE releases (
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, number INTEGER NOT NULL,
    created_at REAL NOT NULL, body TEXT NOT NULL, digest TEXT,
    status TEXT NOT NULL, message TEXT NOT NULL, decided_at REAL,
    PRIMARY KEY (kind, namespace, name, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE manifest_files (
    path TEXT NOT NULL, kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) STRICT, WITHOUT ROWID;
""",
)
SCHEMA_VERSION = len(_MIGRATIONS)


class StoreError(UnavailableError):
    """The state file can't be used."""

    reason = "StoreUnavailable"


class StoreFullError(TemporaryError):
    """The state could not be written."""

    reason = "StoreNotWritable"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object as it was applied; `body` is its JSON, `digest` its module's when uploaded."""

    kind: str
    namespace: str
    name: str
    generation: int
    created_at: float
    body: str
    digest: str | None

    @property
    def key(self) -> ObjectKey:
        """Kind, namespace and name."""
        return (self.kind, self.namespace, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """How a Job or Pod of this generation ended, so that it is not run again."""

    kind: str
    namespace: str
    name: str
    generation: int
    reason: str
    message: str
    exit_code: int | None
    finished_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to an object; `type` is Normal or Warning."""

    time: float
    type: str
    reason: str
    kind: str
    namespace: str
    name: str
    message: str
    count: int = 1


class Database:
    """The open state file. One process, one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: apsw.Connection | None = None

    def open(self, keys: Sequence[bytes]) -> None:
        """Open or create the file and bring its schema up to date. Raises `StoreError`.

        `keys` are the newest first: a file with an older one gets the newest, a plain file of an
        earlier version is encrypted.
        """
        make_directory(self._path.parent)
        try:
            self._open(keys)
        except WrongKeyError as error:
            raise StoreError(
                f"can't use the state file {self._path}: the node's key does not open it. It is "
                "another node's, or damaged: restore it together with keyring.db"
            ) from error
        except (apsw.Error, OSError) as error:
            self.close()
            raise StoreError(f"can't use the state file {self._path}: {error}") from error

    def _open(self, keys: Sequence[bytes]) -> None:
        finish_encrypting(self._path)
        if is_plain(self._path):
            encrypt_plain(self._path, keys[0])
        connection, index = open_encrypted(self._path, keys)
        self._connection = connection
        if index:
            rewrite(connection, self._path, keys[0])
            connection, _ = open_encrypted(self._path, keys[:1])
            self._connection = connection
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
        connection.pragma("cache_size", -256)
        version = connection.pragma("user_version")
        if version > SCHEMA_VERSION:
            self.close()
            raise StoreError(
                f"{self._path} has schema {version}, this Limpet knows up to {SCHEMA_VERSION}: "
                "run the newer Limpet that wrote it"
            )
        for number in range(version, SCHEMA_VERSION):
            with connection:
                connection.execute(_MIGRATIONS[number])
                connection.pragma("user_version", number + 1)
        self._path.chmod(0o600)

    def rekey(self, keys: Sequence[bytes]) -> None:
        """Encrypt the file with the newest of these keys (newest first); the file is open again then.

        Raises `StoreError`; the file keeps its key then, and the next `open` tries again.
        """
        try:
            rewrite(self.connection, self._path, keys[0])
        except (apsw.Error, OSError) as error:
            raise StoreError(f"can't encrypt {self._path} anew: {error}") from error
        finally:
            self.close()
            self.open(keys)

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def connection(self) -> apsw.Connection:
        """The open file."""
        assert self._connection is not None, "open() comes first"
        return self._connection

    def load_objects(self) -> list[StoredObject]:
        """Return every object, oldest first."""
        rows = self.connection.execute(
            "SELECT kind, namespace, name, generation, created_at, body, digest"
            " FROM objects ORDER BY created_at, kind, namespace, name"
        )
        return [
            StoredObject(
                kind=str(kind),
                namespace=str(namespace),
                name=str(name),
                generation=_int(generation),
                created_at=_float(created_at),
                body=str(body),
                digest=None if digest is None else str(digest),
            )
            for kind, namespace, name, generation, created_at, body, digest in rows
        ]

    def write_objects(self, objects: Sequence[StoredObject]) -> None:
        """Create or replace these objects, all or none; durable on return."""
        self.write(
            "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (o.kind, o.namespace, o.name, o.generation, o.created_at, o.body, o.digest)
                for o in objects
            ],
        )

    def delete_object(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object, its releases and what is known of its end; durable on return."""
        key = (kind, namespace, name)
        try:
            with self.connection as connection:
                connection.execute(
                    "DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?", key
                )
                connection.execute(
                    "DELETE FROM completions WHERE kind = ? AND namespace = ? AND name = ?", key
                )
                connection.execute(
                    "DELETE FROM releases WHERE kind = ? AND namespace = ? AND name = ?", key
                )
        except apsw.Error as error:
            raise _write_error(self._path, error) from error

    def load_completions(self) -> list[Completion]:
        """Return how Jobs and Pods ended."""
        rows = self.connection.execute(
            "SELECT kind, namespace, name, generation, reason, message, exit_code, finished_at"
            " FROM completions"
        )
        return [
            Completion(
                kind=str(kind),
                namespace=str(namespace),
                name=str(name),
                generation=_int(generation),
                reason=str(reason),
                message=str(message),
                exit_code=None if code is None else _int(code),
                finished_at=_float(finished_at),
            )
            for kind, namespace, name, generation, reason, message, code, finished_at in rows
        ]

    def write_completion(self, completion: Completion) -> None:
        """Remember how a Job or Pod ended; durable on return."""
        c = completion
        self.write(
            "INSERT OR REPLACE INTO completions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    c.kind,
                    c.namespace,
                    c.name,
                    c.generation,
                    c.reason,
                    c.message,
                    c.exit_code,
                    c.finished_at,
                )
            ],
        )

    def write_events(self, events: Iterable[Event]) -> None:
        """Append events and forget the oldest beyond the limit."""
        self.write(
            "INSERT INTO events (time, type, reason, kind, namespace, name, message, count)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (e.time, e.type, e.reason, e.kind, e.namespace, e.name, e.message, e.count)
                for e in events
            ],
        )
        self.write(
            "DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", [(_MAX_EVENTS,)]
        )

    def load_events(self) -> list[Event]:
        """Return the events that are kept, oldest first."""
        rows = self.connection.execute(
            "SELECT time, type, reason, kind, namespace, name, message, count FROM events ORDER BY id"
        )
        return [
            Event(
                time=_float(when),
                type=str(kind_of_event),
                reason=str(reason),
                kind=str(kind),
                namespace=str(namespace),
                name=str(name),
                message=str(message),
                count=_int(count),
            )
            for when, kind_of_event, reason, kind, namespace, name, message, count in rows
        ]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the writes within one: all or none, durable at its end. Raises `StoreFullError`."""
        try:
            with self.connection:
                yield
        except apsw.Error as error:
            raise _write_error(self._path, error) from error

    def write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Run a statement for each row, all or none; durable on return. Raises `StoreFullError`."""
        try:
            with self.connection as connection:
                connection.executemany(statement, rows)
        except apsw.Error as error:
            raise _write_error(self._path, error) from error


def _write_error(path: Path, error: apsw.Error) -> LimpetError:
    return StoreFullError(
        f"can't write the state file {path}: {error}; nothing was changed. "
        "Free some space on its file system, then try again"
    )


def _int(value: object) -> int:
    assert isinstance(value, int), "a STRICT table holds what it declares"
    return value


def _float(value: object) -> float:
    assert isinstance(value, int | float), "a STRICT table holds what it declares"
    return float(value)


def encode_body(document: object) -> str:
    """Encode an object so that equal objects have equal text."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def now() -> float:
    """Return the wall clock's time, seconds since 1970."""
    return time.time()
