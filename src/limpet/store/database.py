"""The node's memory: one encrypted SQLite file with what was asked for, decided, and what happened.

A change is acknowledged once its transaction is on disk (write-ahead log, synchronous FULL). Events
are history rather than promises: they are written in batches, to spare the flash.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import apsw

from limpet.errors import LimpetError, TemporaryError, UnavailableError
from limpet.linux.allocation import allocate_beyond_end
from limpet.store.backups import BackupError, Backups
from limpet.store.encryption import (
    WrongKeyError,
    encrypt_plain,
    find_damage,
    finish_encrypting,
    is_plain,
    leave_wal,
    open_encrypted,
    rewrite,
)
from limpet.store.files import make_directory
from limpet.store.packing import pack, unpack
from limpet.store.restoring import NothingToRestoreError, finish_restoring, put_back, restore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

# Kind, namespace and name.
ObjectKey = tuple[str, str, str]

_MAX_EVENTS = 2000
_KEPT_BACKUPS = 3
_MAX_BYTES = 64 << 20
_CACHE_KIB = 256
_LOG_BYTES = 512 << 10
# What leads from each schema to the next one; the first makes schema 1 of an empty file. Tables with
# large rows have row numbers: WITHOUT ROWID a row of more than 1 KB takes pages of its own, and one that
# can't be read hides its neighbours, which are compared with it. `pack` is `limpet.store.packing`'s.
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
ALTER TABLE objects RENAME TO earlier_objects;
CREATE TABLE objects (
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    generation INTEGER NOT NULL, created_at REAL NOT NULL,
    body BLOB NOT NULL, digest TEXT,
    PRIMARY KEY (kind, namespace, name)
) STRICT;
INSERT INTO objects SELECT kind, namespace, name, generation, created_at, pack(body), digest
    FROM earlier_objects;
DROP TABLE earlier_objects;
CREATE TABLE releases (
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, number INTEGER NOT NULL,
    created_at REAL NOT NULL, body BLOB NOT NULL, digest TEXT,
    status TEXT NOT NULL, message TEXT NOT NULL, decided_at REAL,
    PRIMARY KEY (kind, namespace, name, number)
) STRICT;
CREATE TABLE manifest_files (
    path TEXT NOT NULL, kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    mark TEXT NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE pulls (
    source TEXT NOT NULL, module TEXT NOT NULL, manifest TEXT NOT NULL, evidence TEXT NOT NULL,
    extracted_from TEXT NOT NULL, pulled_at REAL NOT NULL,
    PRIMARY KEY (source, module)
) STRICT, WITHOUT ROWID;
""",
)
SCHEMA_VERSION = len(_MIGRATIONS)


class StoreError(UnavailableError):
    """The state file can't be used."""

    reason = "StoreUnavailable"


class StoreDamagedError(TemporaryError):
    """A page of the open state file can't be read: the agent starts anew, which restores it."""

    reason = "StoreDamaged"


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
    """The open state file. One process, one thread.

    `node` is whose event tells of a restored file, `max_bytes` how large it may get. `make_room` is asked
    once when the disk is full; when it could free something, the write is tried again. `on_damage` is told,
    in whatever thread, when the open file turns out to be damaged: `leave` and another `open` restore it.
    """

    def __init__(
        self,
        path: Path,
        *,
        node: str = "",
        max_bytes: int = _MAX_BYTES,
        kept_backups: int = _KEPT_BACKUPS,
        make_room: Callable[[], bool] = lambda: False,
        on_damage: Callable[[str], None] = lambda _why: None,
    ) -> None:
        self._path = path
        self._node = node
        self._max_bytes = max_bytes
        self._make_room = make_room
        self._on_damage = on_damage
        self._connection: apsw.Connection | None = None
        self._keys: Sequence[bytes] = ()
        self._unpromised = 0  # rows of events among all that this connection has written
        self._backed_up = 0  # how many others when the last backup was begun
        self.backups = Backups(path.parent / "backups", kept=kept_backups)
        self.restored: str | None = None
        """What became of a damaged file at the last `open`, for people; None when it was whole."""
        self.may_go_back = False
        """Whether `open` may put the backup from before a newer schema in that file's place."""
        self.went_back: str | None = None
        """What `open` has done of that, for people."""

    def open(self, keys: Sequence[bytes]) -> None:
        """Open or create the file and bring its schema up to date. Raises `StoreError`.

        `keys` are the newest first: a file with an older one gets the newest, a plain file of an
        earlier version is encrypted, a damaged one restored (`restored` says what that means). A file
        of a newer schema is left as it is.
        """
        make_directory(self._path.parent)
        self._keys = keys
        self.restored = None
        try:
            self._open()
        except WrongKeyError as error:
            raise StoreError(
                f"can't use the state file {self._path}: the node's key does not open it. It is "
                "another node's, or damaged: restore it together with keyring.db"
            ) from error
        except (apsw.Error, OSError) as error:
            self.close()
            raise StoreError(f"can't use the state file {self._path}: {error}") from error

    def _open(self) -> None:
        finish_restoring(self._path)
        finish_encrypting(self._path)
        if is_plain(self._path):
            encrypt_plain(self._path, self._keys[0])
        why, index = self._connect()
        if why:
            self._restore(why)
            why, index = self._connect()
            if why:
                raise apsw.CorruptError(why)
        if index:
            rewrite(self.connection, self._path, self._keys[0])
            self._connection, _ = open_encrypted(self._path, self._keys[:1])
        self.connection.pragma("journal_mode", "wal")
        self.connection.pragma("synchronous", "full")
        self.connection.pragma("cache_size", -_CACHE_KIB)
        pages = self._max_bytes // _int(self.connection.pragma("page_size"))
        self.connection.pragma("max_page_count", pages)
        self._migrate()
        self._path.chmod(0o600)
        self._allocate_log()
        self._unpromised = 0
        self._backed_up = -1  # who knows what was written before

    def _allocate_log(self) -> None:
        """Give the write-ahead log the blocks for some changes, so that a full disk has room for them."""
        path = self._path.with_name(f"{self._path.name}-wal")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            allocate_beyond_end(descriptor, _LOG_BYTES)  # else the reserve has to do
        finally:
            os.close(descriptor)

    def _connect(self) -> tuple[str, int]:
        """Open the file; return what is wrong with it, and which key it has.

        A key that does not fit is no fault of the file's where no backup shows that it should: it may be
        another node's. Raises `StoreError` for a newer schema.
        """
        if (not self._path.exists() or not self._path.stat().st_size) and self.backups.paths():
            return "it is empty" if self._path.exists() else "it is missing", 0
        try:
            connection, index = open_encrypted(self._path, self._keys)
        except WrongKeyError:
            if not self.backups.paths():
                raise
            return (
                "no key of this node opens it: its beginning is damaged, or it is another node's"
            ), 0
        except (apsw.CorruptError, apsw.IOError) as error:
            return str(error), 0
        self._connection = connection
        connection.pragma("cache_size", -_CACHE_KIB)
        version = _version(connection)
        damage = ""
        if version <= SCHEMA_VERSION:
            damage = find_damage(connection)
        if version > SCHEMA_VERSION or damage:
            leave_wal(connection)
            self.close()
        if version > SCHEMA_VERSION and self.may_go_back:
            self._go_back(version)
            return self._connect()
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self._path} has schema {version}, this Limpet knows up to {SCHEMA_VERSION}: "
                "run the newer Limpet that wrote it. Nothing was changed"
            )
        return damage, index

    def _go_back(self, version: int) -> None:
        """Put the state of before a step to a newer schema back. Raises `StoreError`."""
        self.may_go_back = False
        try:
            backup = put_back(self._path, self._keys, self.backups, schema=SCHEMA_VERSION)
        except (apsw.Error, OSError, WrongKeyError) as error:
            raise StoreError(
                f"{self._path} has schema {version}, this Limpet knows up to {SCHEMA_VERSION}, and the "
                f"backup from before can't be put back: {error}. Nothing was changed; run the newer Limpet"
            ) from error
        self.went_back = (
            f"the state has schema {SCHEMA_VERSION} again: it is {backup.name}, from before the step to "
            f"schema {version}"
        )

    def _restore(self, why: str) -> None:
        try:
            self.restored = restore(
                self._path,
                self._keys,
                self.backups,
                why=why,
                migrate=_migrate,
                tell=self._tell_restored,
            )
        except NothingToRestoreError as error:
            raise WrongKeyError(str(self._path)) from error

    def _tell_restored(self, connection: apsw.Connection, message: str) -> None:
        connection.execute(
            "INSERT INTO events (time, type, reason, kind, namespace, name, message, count)"
            " VALUES (?, 'Warning', 'StateRestored', 'Node', '', ?, ?, 1)",
            (now(), self._node, message),
        )

    def _migrate(self) -> None:
        """Bring the schema up to date, with a backup before each step that changes one."""
        version = _version(self.connection)
        for schema in range(version + 1, SCHEMA_VERSION + 1):
            if version:
                try:
                    self.backups.make_before(self.connection, self._keys[0], schema=schema)
                except BackupError as error:
                    self.close()
                    raise StoreError(
                        f"{error}; the state has schema {schema - 1}, and it is not changed without a "
                        "backup: free some space and start again, or run the Limpet that wrote it"
                    ) from error
            _migrate(self.connection, schema)

    def back_up(self) -> Path | None:
        """Make a backup if anything was acknowledged since the last; return it. Raises `BackupError`.

        Runs in another thread than the rest, too.
        """
        try:
            return self.backups.make(self._path, self._keys)
        except BackupError as error:
            if isinstance(error.__cause__, apsw.CorruptError):
                self._on_damage(str(error.__cause__))
            raise

    def take_changes(self) -> bool:
        """Whether anything was acknowledged since the last time that this was asked."""
        promised = self.connection.total_changes() - self._unpromised
        is_changed = promised != self._backed_up
        self._backed_up = promised
        return is_changed

    def expect_changes(self) -> None:
        """Let `take_changes` say yes the next time: the backup that was due could not be made."""
        self._backed_up = -1

    def rekey(self, keys: Sequence[bytes]) -> None:
        """Encrypt the file with the newest of these keys (newest first); the file is open again then.

        Raises `StoreError`; the file keeps its key then, and the next `open` tries again.
        """
        with self.backups.paused():
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

    def leave(self) -> None:
        """Close a damaged file, and change nothing in it."""
        if self._connection is not None:
            leave_wal(self._connection)
            self.close()

    @property
    def connection(self) -> apsw.Connection:
        """The open file."""
        assert self._connection is not None, "open() comes first"
        return self._connection

    def load_objects(self) -> list[StoredObject]:
        """Return every object, oldest first."""
        rows = self.read(
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
                body=unpack(body),
                digest=None if digest is None else str(digest),
            )
            for kind, namespace, name, generation, created_at, body, digest in rows
        ]

    def write_objects(self, objects: Sequence[StoredObject]) -> None:
        """Create or replace these objects, all or none; durable on return."""
        self.write(
            "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (o.kind, o.namespace, o.name, o.generation, o.created_at, pack(o.body), o.digest)
                for o in objects
            ],
        )

    def delete_object(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object, its releases and what is known of its end; durable on return."""
        key = (kind, namespace, name)

        def delete() -> None:
            for table in ("objects", "completions", "releases"):
                self.write(
                    f"DELETE FROM {table} WHERE kind = ? AND namespace = ? AND name = ?",  # noqa: S608 - ours
                    [key],
                )

        self.transact(delete)

    def load_needed_digests(self) -> frozenset[str]:
        """Return the modules that a desired object or a release in the history needs. Raises LimpetError."""
        rows = self.read(
            "SELECT digest FROM objects WHERE digest IS NOT NULL"
            " UNION SELECT digest FROM releases WHERE digest IS NOT NULL"
        )
        return frozenset(str(digest) for (digest,) in rows)

    def load_completions(self) -> list[Completion]:
        """Return how Jobs and Pods ended."""
        rows = self.read(
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
        before = self.connection.total_changes()
        self.write(
            "INSERT INTO events (time, type, reason, kind, namespace, name, message, count)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (e.time, e.type, e.reason, e.kind, e.namespace, e.name, e.message, e.count)
                for e in events
            ],
            is_promise=False,
        )
        self.write(
            "DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?",
            [(_MAX_EVENTS,)],
            is_promise=False,
        )
        self._unpromised += self.connection.total_changes() - before

    def load_events(self) -> list[Event]:
        """Return the events that are kept, oldest first."""
        rows = self.read(
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

    def read(self, statement: str, bindings: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """Return the rows of a query. Raises `StoreError`."""
        try:
            return self.connection.execute(statement, bindings).fetchall()
        except apsw.Error as error:
            if isinstance(error, apsw.IOError):  # a page that the disk can't read any more
                raise self._damage_error(error) from error
            raise self._explain(error) from error

    def write(
        self, statement: str, rows: Sequence[tuple[object, ...]], *, is_promise: bool = True
    ) -> None:
        """Run a statement for each row, all or none; durable on return. Raises `StoreFullError`.

        On a full disk the reserve is there for promises, not for history.
        """
        self.transact(lambda: self.connection.executemany(statement, rows), is_promise=is_promise)

    def transact(self, change: Callable[[], object], *, is_promise: bool = True) -> None:
        """Do what `change` writes, all or nothing, on a full disk as well where that can be done.

        It may be called more than once, each time for the first time as far as the state is concerned.
        Within another change it is part of that one. Durable on return. Raises `StoreFullError`.
        """
        if self.connection.in_transaction:
            change()
            return
        try:
            if self._try(change) or (self._begin_log_anew() and self._try(change)):
                return
            if is_promise:
                self._make_room()
            _transact(self.connection, change)
            self._begin_log_anew()  # while there is room to move it
        except apsw.Error as error:
            raise self._explain(error) from error

    def _try(self, change: Callable[[], object]) -> bool:
        """Whether there was room for a change."""
        try:
            _transact(self.connection, change)
        except (apsw.FullError, apsw.IOError):
            return False
        return True

    def _begin_log_anew(self) -> bool:
        """Move what waits in the write-ahead log to the file: the log is written over from its beginning.

        That takes no new blocks where the file has been as large before. Returns whether it worked.
        """
        try:
            busy = self.connection.execute("PRAGMA wal_checkpoint(RESTART)").get
        except (apsw.FullError, apsw.IOError, apsw.BusyError):
            return False
        return isinstance(busy, tuple) and busy[0] == 0

    def _explain(self, error: apsw.Error) -> LimpetError:
        if isinstance(error, apsw.CorruptError | apsw.NotADBError):
            return self._damage_error(error)
        return StoreFullError(
            f"can't write the state file {self._path}: {error}; nothing was changed. "
            "Free some space on its file system (or raise state.max_bytes, if it is that large), then "
            "try again"
        )

    def _damage_error(self, error: apsw.Error) -> StoreDamagedError:
        self._on_damage(str(error))
        return StoreDamagedError(
            f"the state file {self._path} is damaged: {error}; nothing was changed. The node restores "
            "it now from what can be read and the last backup: try again in a few seconds"
        )


def _transact(connection: apsw.Connection, change: Callable[[], object]) -> None:
    """Do all of a change or nothing. On a full disk SQLite has rolled back already, which apsw minds."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        change()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _migrate(connection: apsw.Connection, schema: int) -> None:
    """Take the steps that lead to this schema, each whole or not at all."""
    connection.create_scalar_function("pack", _pack_column, 1, deterministic=True)
    for number in range(_version(connection), schema):
        with connection:
            connection.execute(_MIGRATIONS[number])
            connection.pragma("user_version", number + 1)


def _pack_column(*values: object) -> bytes:
    (body,) = values
    return pack(str(body))


def _version(connection: apsw.Connection) -> int:
    return _int(connection.pragma("user_version"))


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
