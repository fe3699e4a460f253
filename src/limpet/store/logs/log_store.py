"""The database that all logs are in: lines wait here, are written together, and the oldest go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import apsw

from limpet.store.encryption import WrongKeyError, open_encrypted, rewrite, set_aside
from limpet.store.files import make_directory
from limpet.store.logs.app_log import AppLog
from limpet.store.logs.records import LogFullError
from limpet.store.logs.rows import (
    ROW_BYTES,
    StrangeLogsError,
    compile_selection,
    drop_oldest,
    place,
    set_up,
    sizes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from limpet.settings import LogSettings
    from limpet.store.logs.records import Choice
    from limpet.store.logs.rows import Row, SelectedRow

MAX_PENDING_BYTES = 1 << 20
_FLUSH_BYTES = 256 << 10
_DIRECT_BYTES = 64 << 10  # so many at once need no stop among the recent ones
_RECENT_BYTES = 512 << 10
_MIN_BUDGET_BYTES = 64 << 10
_BATCH_BYTES = 256 << 10
_FREE_PAGES = 256


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
        except (WrongKeyError, apsw.CorruptError, apsw.NotADBError, StrangeLogsError) as error:
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
        set_up(connection)
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
        self._recent_bytes = self._number("SELECT sum(length(lines) + ?) FROM recent", (ROW_BYTES,))

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
        self._pending_bytes += len(text) + ROW_BYTES
        if self._pending_bytes > _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits. Raises `LogFullError`; nothing is forgotten then."""
        if not self._pending:
            return
        rows, size = self._pending, self._pending_bytes

        is_large = size > _DIRECT_BYTES
        is_settling = not is_large and self._recent_bytes + size > self._max_recent_bytes

        ordered = sorted(rows, key=place) if is_large else rows

        def write(connection: apsw.Connection) -> None:
            table = "lines" if is_large else "recent"
            connection.executemany(
                f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - one of ours
                ordered,
            )
            if is_large:
                self._account(connection, sizes(rows))
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
        grown = connection.execute(
            "SELECT app, sum(length(lines) + ?) FROM recent GROUP BY app", (ROW_BYTES,)
        ).fetchall()
        connection.execute("INSERT INTO lines SELECT * FROM recent ORDER BY app, id")
        connection.execute("DELETE FROM recent")
        self._account(connection, dict(cast("list[tuple[int, int]]", grown)))

    def _account(self, connection: apsw.Connection, added: Mapping[int, int]) -> None:
        """Note how much each app's place has grown, and drop what is over its budget."""
        for app, size in added.items():
            total = size + self._number("SELECT bytes FROM apps WHERE id = ?", (app,))
            if total > self._budget:
                # More than has to go, so that it has not to be done again at once.
                total -= drop_oldest(connection, app, total - self._budget + self._budget // 8)
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

    def last_run(self, app: int) -> int:
        """Return the greatest incarnation that an app's log has lines of; 0 for none."""
        rows = self._query(
            "SELECT max(incarnation) FROM (SELECT incarnation FROM lines WHERE app = ?1 UNION ALL"
            " SELECT incarnation FROM recent WHERE app = ?1)",
            (app,),
        )
        return int(rows[0][0] or 0)

    def _select(self, choice: Choice, rest: str, edge: int) -> list[SelectedRow]:
        return self._query(*compile_selection(choice, rest, edge))

    def _query(self, statement: str, bindings: tuple[object, ...]) -> list[Any]:
        """Return the first rows: some hundred KiB, so that nobody's log fills the memory."""
        rows, size = [], 0
        try:
            cursor = self._open_connection.execute(statement, bindings)
            for row in cursor:
                rows.append(row)
                size += ROW_BYTES + (len(row[-1]) if isinstance(row[-1], bytes) else 0)
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
        self._pending_bytes = sum(len(row[-1]) + ROW_BYTES for row in self._pending)

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
