"""The apps' logs: one encrypted database for all, written by the agent from its workers' pipes.

Lines wait in memory and are written together, once a second or when there are many: a kill of the
agent loses at most those. Logs are not synced. A row holds what one read of a pipe brought: lines of
one worker's stream with one time. Each write goes to `recent`, where the lines of all
apps lie side by side, so that fifty apps with a line each cost the flash two pages and not fifty; from
there they are moved, many at a time, to `lines`, where an app's own lie together.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import apsw

from limpet.errors import TemporaryError
from limpet.store.encryption import WrongKeyError, open_encrypted, rewrite, set_aside
from limpet.store.files import make_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from limpet.settings import LogSettings

MAX_LINE_BYTES = 16 << 10
MAX_PENDING_BYTES = 1 << 20
_STREAMS = {b"o": "stdout", b"e": "stderr"}
_SCHEMA_VERSION = 1
_RECORD_BYTES = 48  # what a record takes beside its text
_FLUSH_BYTES = 256 << 10
_DIRECT_BYTES = 64 << 10  # so many at once need no stop among the recent ones
_RECENT_BYTES = 512 << 10
_MIN_BUDGET_BYTES = 64 << 10
_BATCH_BYTES = 256 << 10
_FREE_PAGES = 256
_ROW = (
    "id INTEGER, app INTEGER, time REAL, stream TEXT, worker TEXT, incarnation INTEGER,"
    " count INTEGER, lines BLOB"
)
_SCHEMA = f"""
CREATE TABLE apps (
    id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL,
    bytes INTEGER NOT NULL DEFAULT 0, UNIQUE (namespace, name)
) STRICT;
CREATE TABLE lines ({_ROW}, PRIMARY KEY (app, id)) STRICT, WITHOUT ROWID;
CREATE TABLE recent ({_ROW}, PRIMARY KEY (id)) STRICT;
"""
_BOTH = "SELECT * FROM lines UNION ALL SELECT * FROM recent"

Row: TypeAlias = tuple[int, int, float, str, str, int, int, bytes]
SelectedRow: TypeAlias = tuple[int, int, float, str, str, int, bytes]


class _StrangeError(Exception):
    """A log database of another version."""


class LogFullError(TemporaryError):
    """Lines can't be written now; what waits is kept and tried again."""

    reason = "LogNotWritable"


@dataclass(frozen=True, slots=True)
class Record:
    """One line of an app's log; `time` is seconds since 1970, `incarnation` the worker's start."""

    time: float
    stream: str
    worker: str
    incarnation: int
    line: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of an app's lines: up to an id, newer than a time, of some runs (worker, incarnation)."""

    app: int
    until: int
    since: float | None = None
    runs: Sequence[tuple[str, int]] | None = None


class LogStore:
    """The logs of all apps. One process, one thread.

    A database that is damaged, or has a key that nobody knows, is set aside: `on_problem` is told.
    """

    def __init__(
        self,
        path: Path,
        settings: LogSettings,
        *,
        on_problem: Callable[[str], None] = lambda _message: None,
    ) -> None:
        self._path = path
        self._budget = max(settings.file_bytes * settings.files, _MIN_BUDGET_BYTES)
        self._max_recent_bytes = min(_RECENT_BYTES, self._budget // 4)
        self._on_problem = on_problem
        self._apps: dict[tuple[str, str], int] = {}
        self._keys: Sequence[bytes] = ()
        self._connection: apsw.Connection | None = None
        self._pending: list[Row] = []
        self._pending_bytes = 0
        self._recent_bytes = 0
        self._last_id = 0

    def open(self, keys: Sequence[bytes]) -> None:
        """Open or create the database; `keys` are the newest first. Raises `LogFullError`."""
        self._keys = keys
        make_directory(self._path.parent)
        try:
            self._open()
        except (WrongKeyError, apsw.CorruptError, apsw.NotADBError, _StrangeError) as error:
            self._begin_anew(error)
        except (apsw.Error, OSError) as error:
            raise LogFullError(f"can't open the logs {self._path}: {error}") from error

    def _open(self) -> None:
        connection, index = open_encrypted(self._path, self._keys)
        self._connection = connection
        if index:
            rewrite(connection, self._path, self._keys[0])
            connection, _ = open_encrypted(self._path, self._keys[:1])
            self._connection = connection
        version = connection.pragma("user_version")
        if version == 0:
            connection.pragma("auto_vacuum", 2)  # incremental; must come before the first table
        elif version != _SCHEMA_VERSION:
            raise _StrangeError(f"has schema {version}")
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "normal")
        connection.pragma("cache_size", -128)
        connection.pragma("secure_delete", 0)  # what is deleted is ciphertext on the disk
        connection.pragma("wal_autocheckpoint", 256)
        connection.pragma("journal_size_limit", 1 << 20)
        if version == 0:
            with connection:
                connection.execute(_SCHEMA)
                connection.pragma("user_version", _SCHEMA_VERSION)
        self._path.chmod(0o600)
        self._apps = {
            (str(namespace), str(name)): int(number)
            for number, namespace, name in connection.execute(
                "SELECT id, namespace, name FROM apps"
            )
        }
        self._last_id = max(
            self._number("SELECT max(id) FROM recent"),
            *(
                self._number("SELECT max(id) FROM lines WHERE app = ?", (number,))
                for number in (0, *self._apps.values())
            ),
        )
        self._recent_bytes = self._number(
            "SELECT sum(length(lines) + ?) FROM recent", (_RECORD_BYTES,)
        )

    def _begin_anew(self, error: Exception) -> None:
        """Start an empty database; the one that can't be used is kept beside it, once."""
        self._disconnect()
        aside = self._path.with_name(f"{self._path.name}.unusable")
        self._pending = []
        self._pending_bytes = 0
        try:
            set_aside(self._path, aside)
            self._open()
        except (WrongKeyError, apsw.Error, OSError) as again:
            raise LogFullError(f"can't begin new logs at {self._path}: {again}") from again
        self._on_problem(
            f"the logs {self._path} can't be used ({error}); they are set aside as {aside.name} and "
            "new ones begin"
        )

    def _number(self, statement: str, bindings: tuple[object, ...] = ()) -> int:
        found = self._open_connection.execute(statement, bindings).get
        return found if isinstance(found, int) else 0

    @property
    def _open_connection(self) -> apsw.Connection:
        assert self._connection is not None, "open() comes first"
        return self._connection

    def app(self, namespace: str, name: str) -> AppLog:
        """Return one app's log; it takes nothing on disk before its first line."""
        return AppLog(self, namespace, name)

    def app_id(self, namespace: str, name: str) -> int | None:
        """Return the app's number in the database, None when it has logged nothing."""
        return self._apps.get((namespace, name))

    def add_app(self, namespace: str, name: str) -> int:
        """Return the app's number in the database, which it gets now. Raises `LogFullError`."""
        key = (namespace, name)
        if key not in self._apps:

            def insert(connection: apsw.Connection) -> None:
                connection.execute("INSERT INTO apps (namespace, name) VALUES (?, ?)", key)

            self._change(insert)
            self._apps[key] = self._number(
                "SELECT id FROM apps WHERE namespace = ? AND name = ?", key
            )
        return self._apps[key]

    def add(
        self, app: int, lines: Sequence[bytes], when: float, stream: str, worker: str, run: int
    ) -> None:
        """Take lines to be written soon. Raises `LogFullError` when too many wait already."""
        if self._pending_bytes > MAX_PENDING_BYTES:
            self.flush()
        self._last_id += 1
        text = b"\n".join(lines)
        self._pending.append((self._last_id, app, when, stream, worker, run, len(lines), text))
        self._pending_bytes += len(text) + _RECORD_BYTES
        if self._pending_bytes > _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits. Raises `LogFullError`; nothing is forgotten then."""
        if not self._pending:
            return
        rows, size = self._pending, self._pending_bytes

        is_large = size > _DIRECT_BYTES
        is_settling = not is_large and self._recent_bytes + size > self._max_recent_bytes

        ordered = sorted(rows, key=_place) if is_large else rows

        def write(connection: apsw.Connection) -> None:
            table = "lines" if is_large else "recent"
            connection.executemany(
                f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - one of ours
                ordered,
            )
            if is_large:
                self._account(connection, _sizes(rows))
            elif is_settling:
                self._settle(connection)

        self._change(write)
        if self._pending is rows:  # else the database was damaged and began anew
            self._pending, self._pending_bytes = [], 0
            if is_settling:
                self._recent_bytes = 0
            elif not is_large:
                self._recent_bytes += size

    def _settle(self, connection: apsw.Connection) -> None:
        """Move the recent lines to their apps' own places."""
        sizes = connection.execute(
            "SELECT app, sum(length(lines) + ?) FROM recent GROUP BY app", (_RECORD_BYTES,)
        ).fetchall()
        connection.execute("INSERT INTO lines SELECT * FROM recent ORDER BY app, id")
        connection.execute("DELETE FROM recent")
        self._account(connection, dict(cast("list[tuple[int, int]]", sizes)))

    def _account(self, connection: apsw.Connection, added: Mapping[int, int]) -> None:
        """Note how much each app's place has grown, and drop what is over its budget."""
        for app, size in added.items():
            total = size + self._number("SELECT bytes FROM apps WHERE id = ?", (app,))
            if total > self._budget:
                # More than has to go, so that it has not to be done again at once.
                total -= _drop_oldest(connection, app, total - self._budget + self._budget // 8)
            connection.execute("UPDATE apps SET bytes = ? WHERE id = ?", (total, app))
        if self._number("PRAGMA freelist_count") > 2 * _FREE_PAGES:
            connection.execute(f"PRAGMA incremental_vacuum({_FREE_PAGES})").fetchall()

    def _change(self, change: Callable[[apsw.Connection], object]) -> None:
        try:
            with self._open_connection as connection:
                change(connection)
        except (apsw.CorruptError, apsw.NotADBError) as error:
            self._begin_anew(error)
        except apsw.Error as error:
            raise LogFullError(f"can't write the logs {self._path}: {error}") from error

    def select(self, choice: Choice, *, after: int) -> list[SelectedRow]:
        """Return the first rows of a choice with ids above `after`. Raises `LogFullError`."""
        return self._select(choice, "id > ? ORDER BY id", after)

    def find_last(self, choice: Choice, count: int) -> tuple[int, int]:
        """Find a choice's last lines: the id after which to read, and how many lines to pass over.

        Raises `LogFullError`.
        """
        found, below = 0, choice.until + 1
        while rows := self._select(choice, "id < ? ORDER BY id DESC", below):
            for number, lines, *_ in rows:
                found, below = found + lines, number
                if found >= count:
                    return below - 1, found - count
        return 0, 0

    def runs(self, app: int) -> list[tuple[str, int]]:
        """Return the runs that an app's log has lines of, as (worker, incarnation)."""
        rows = self._query(
            "SELECT DISTINCT worker, incarnation FROM lines WHERE app = ?1 UNION"
            " SELECT worker, incarnation FROM recent WHERE app = ?1",
            (app,),
        )
        return [(str(worker), int(run)) for worker, run in rows]

    def _select(self, choice: Choice, rest: str, edge: int) -> list[SelectedRow]:
        conditions = ["app = ?", "id <= ?"]
        values: list[object] = [choice.app, choice.until]
        if choice.since is not None:
            conditions.append("time >= ?")
            values.append(choice.since)
        if choice.runs is not None:
            conditions.append(f"(worker, incarnation) IN (VALUES {_pairs(len(choice.runs))})")
            values += [value for run in choice.runs for value in run]
        return self._query(
            f"SELECT id, count, time, stream, worker, incarnation, lines FROM ({_BOTH})"  # noqa: S608 - ours
            f" WHERE {' AND '.join(conditions)} AND {rest}",
            (*values, edge),
        )

    def _query(self, statement: str, bindings: tuple[object, ...]) -> list[Any]:
        """Return the first rows: some hundred KiB, so that nobody's log fills the memory."""
        rows, size = [], 0
        try:
            cursor = self._open_connection.execute(statement, bindings)
            for row in cursor:
                rows.append(row)
                size += _RECORD_BYTES + (len(row[-1]) if isinstance(row[-1], bytes) else 0)
                if size > _BATCH_BYTES:
                    break
            cursor.close()
        except (apsw.CorruptError, apsw.NotADBError) as error:
            self._begin_anew(error)
            return []
        except apsw.Error as error:
            raise LogFullError(f"can't read the logs {self._path}: {error}") from error
        return rows

    @property
    def last_id(self) -> int:
        """The id of the newest line."""
        return self._last_id

    def remove_app(self, app: int) -> None:
        """Forget an app and its lines. Raises `LogFullError`."""
        self._pending = [row for row in self._pending if row[1] != app]
        self._pending_bytes = sum(len(row[-1]) + _RECORD_BYTES for row in self._pending)

        def remove(connection: apsw.Connection) -> None:
            for statement in (
                "DELETE FROM lines WHERE app = ?",
                "DELETE FROM recent WHERE app = ?",
                "DELETE FROM apps WHERE id = ?",
            ):
                connection.execute(statement, (app,))
            connection.execute("PRAGMA incremental_vacuum").fetchall()

        self._change(remove)
        self._apps = {key: number for key, number in self._apps.items() if number != app}

    def rekey(self, keys: Sequence[bytes]) -> None:
        """Encrypt the database with the newest of these keys; it is open again then.

        Raises `LogFullError`; it keeps its key then, and the next `open` tries again.
        """
        self.flush()
        try:
            rewrite(self._open_connection, self._path, keys[0])
        except (apsw.Error, OSError) as error:
            raise LogFullError(f"can't encrypt {self._path} anew: {error}") from error
        finally:
            self._disconnect()
            self.open(keys)

    def close(self) -> None:
        """Write what waits and close the database. Raises `LogFullError`."""
        if self._connection is not None:
            try:
                self.flush()
            finally:
                self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class AppLog:
    """One app's log."""

    def __init__(self, store: LogStore, namespace: str, name: str) -> None:
        self._store = store
        self._key = (namespace, name)
        self._partial: dict[tuple[str, int, bytes], bytes] = {}
        self._followers: list[Callable[[Record], None]] = []

    def append(self, data: bytes, *, stream: bytes, worker: str, incarnation: int) -> None:
        """Add what a worker wrote; an unfinished line waits for its rest. Raises `LogFullError`."""
        key = (worker, incarnation, stream)
        lines = (self._partial.pop(key, b"") + data).split(b"\n")
        if any(len(line) > MAX_LINE_BYTES for line in lines):
            lines = [piece for line in lines for piece in _pieces(line)]
        rest = lines.pop()
        if rest:
            self._partial[key] = rest
        self._write(lines, stream=stream, worker=worker, incarnation=incarnation)

    def end(self, *, stream: bytes, worker: str, incarnation: int) -> None:
        """Finish a worker's stream: what it left without a newline becomes a line."""
        rest = self._partial.pop((worker, incarnation, stream), b"")
        if rest:
            self._write([rest], stream=stream, worker=worker, incarnation=incarnation)

    def _write(self, lines: list[bytes], *, stream: bytes, worker: str, incarnation: int) -> None:
        if not lines:
            return
        now = time.time()
        name = _STREAMS[stream]
        app = self._store.add_app(*self._key)
        self._store.add(app, lines, now, name, worker, incarnation)
        for follower in self._followers:
            for line in lines:
                follower(Record(now, name, worker, incarnation, line.decode("utf-8", "replace")))

    def follow(self, follower: Callable[[Record], None]) -> Callable[[], None]:
        """Call `follower` with every record from now on; the returned function ends that."""
        self._followers.append(follower)
        return lambda: self._followers.remove(follower)

    def read(
        self, *, tail: int | None = None, since: float | None = None, previous: bool = False
    ) -> Iterator[Record]:
        """Return records, oldest first: the last `tail`, newer than `since`, of the last run but one.

        What is written after the first was returned is not among them. Raises `LogFullError`.
        """
        with contextlib.suppress(LogFullError):  # what is written can be read on a full disk, too
            self._store.flush()
        app = self._store.app_id(*self._key)
        if app is None or tail == 0:
            return
        choice = Choice(app, until=self._store.last_id)
        if previous:
            choice = replace(choice, runs=_previous_runs(self._store.runs(app)))
        if since is not None:
            choice = replace(choice, since=since)
        after, skipped = (0, 0) if tail is None else self._store.find_last(choice, tail)
        while rows := self._store.select(choice, after=after):
            for after, _, when, stream, worker, run, text in rows:  # noqa: B007 - goes on there
                for line in text.split(b"\n")[skipped:]:
                    yield Record(when, stream, worker, run, line.decode("utf-8", "replace"))
                skipped = 0

    def remove(self) -> None:
        """Delete the log. Raises `LogFullError`."""
        app = self._store.app_id(*self._key)
        if app is not None:
            self._store.remove_app(app)


def _pieces(line: bytes) -> list[bytes]:
    """Cut a line that is too long for one record."""
    return [line[at : at + MAX_LINE_BYTES] for at in range(0, len(line) or 1, MAX_LINE_BYTES)]


def _previous_runs(runs: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return each worker's last run but one, as (worker, incarnation)."""
    found: dict[str, list[int]] = {}
    for worker, run in runs:
        found.setdefault(worker, []).append(run)
    return [(worker, sorted(each)[-2]) for worker, each in found.items() if len(each) > 1]


def _pairs(count: int) -> str:
    """Return a list of that many pairs for VALUES, which may not be empty: NULLs equal nothing."""
    return ", ".join(["(NULL, NULL)", *["(?, ?)"] * count])


def _place(row: Row) -> tuple[int, int]:
    """Where a row lies in `lines`: rows that come in this order touch each page once."""
    return row[1], row[0]


def _sizes(rows: Sequence[Row]) -> dict[int, int]:
    """Return how much rows take, by app."""
    sizes: dict[int, int] = {}
    for row in rows:
        sizes[row[1]] = sizes.get(row[1], 0) + len(row[-1]) + _RECORD_BYTES
    return sizes


def _drop_oldest(connection: apsw.Connection, app: int, excess_bytes: int) -> int:
    """Delete an app's oldest lines; return how many bytes went: `excess_bytes` or a little more."""
    dropped, last = 0, 0
    cursor = connection.execute(
        "SELECT id, length(lines) + ? FROM lines WHERE app = ? ORDER BY id", (_RECORD_BYTES, app)
    )
    for number, size in cast("Iterator[tuple[int, int]]", cursor):
        dropped, last = dropped + size, number
        if dropped >= excess_bytes:
            break
    cursor.close()
    connection.execute("DELETE FROM lines WHERE app = ? AND id <= ?", (app, last))
    return dropped
