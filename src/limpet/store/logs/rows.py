"""The log database's tables: how rows are laid out, counted, selected and dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import apsw

    from limpet.store.logs.records import Choice

_SCHEMA_VERSION = 1
ROW_BYTES = 48  # what a row takes beside its text
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
"""The columns that are selected: id, count, time, stream, worker, incarnation, lines."""


class StrangeLogsError(Exception):
    """A log database of another version."""


def set_up(connection: apsw.Connection) -> None:
    """Choose how the database works, and make the tables of a new one. Raises `StrangeLogsError`."""
    version = connection.pragma("user_version")
    if version == 0:
        connection.pragma("auto_vacuum", 2)  # incremental; must come before the first table
    elif version != _SCHEMA_VERSION:
        raise StrangeLogsError(f"has schema {version}")
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


def compile_selection(choice: Choice, rest: str, edge: int) -> tuple[str, tuple[object, ...]]:
    """Return the statement, and what is bound to it, for a choice's rows (`SelectedRow`).

    `rest` is one more condition and the order; its one parameter is `edge`.
    """
    conditions = ["app = ?", "id <= ?"]
    values: list[object] = [choice.app, choice.until]
    if choice.since is not None:
        conditions.append("time >= ?")
        values.append(choice.since)
    if choice.runs is not None:
        conditions.append(f"(worker, incarnation) IN (VALUES {_pairs(len(choice.runs))})")
        values += [value for run in choice.runs for value in run]
    return (
        f"SELECT id, count, time, stream, worker, incarnation, lines FROM ({_BOTH})"  # noqa: S608 - ours
        f" WHERE {' AND '.join(conditions)} AND {rest}",
        (*values, edge),
    )


def _pairs(count: int) -> str:
    """Return a list of that many pairs for VALUES, which may not be empty: NULLs equal nothing."""
    return ", ".join(["(NULL, NULL)", *["(?, ?)"] * count])


def place(row: Row) -> tuple[int, int]:
    """Where a row lies in `lines`: rows that come in this order touch each page once."""
    return row[1], row[0]


def sizes(rows: Sequence[Row]) -> dict[int, int]:
    """Return how much rows take, by app."""
    found: dict[int, int] = {}
    for row in rows:
        found[row[1]] = found.get(row[1], 0) + len(row[-1]) + ROW_BYTES
    return found


def drop_oldest(connection: apsw.Connection, app: int, excess_bytes: int) -> int:
    """Delete an app's oldest lines; return how many bytes went: `excess_bytes` or a little more."""
    dropped, last = 0, 0
    cursor = connection.execute(
        "SELECT id, length(lines) + ? FROM lines WHERE app = ? ORDER BY id", (ROW_BYTES, app)
    )
    for number, size in cast("Iterator[tuple[int, int]]", cursor):
        dropped, last = dropped + size, number
        if dropped >= excess_bytes:
            break
    cursor.close()
    connection.execute("DELETE FROM lines WHERE app = ? AND id <= ?", (app, last))
    return dropped
