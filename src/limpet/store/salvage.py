"""Reading what is left of a damaged database, row by row.

SQLite stops at the first page that it can't read. A table is walked here by its primary key instead, from
both ends, stepping over rows whose text is lost, and asked for each key that a backup knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import apsw

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Row: TypeAlias = tuple[Any, ...]  # whatever SQLite gives


@dataclass(frozen=True, slots=True)
class Table:
    """A table's name, its columns, and which of them are its primary key."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    def key_of(self, row: Row) -> Row:
        """Return a row's primary key."""
        return tuple(row[self.columns.index(name)] for name in self.key)


@dataclass(slots=True)
class Salvaged:
    """What could be read of a table; `lost` are keys of rows that are there and can't be read."""

    table: Table
    rows: dict[Row, Row] = field(default_factory=dict)
    lost: set[Row] = field(default_factory=set)
    is_whole: bool = False


def read_tables(connection: apsw.Connection) -> list[Table]:
    """Return a database's tables that have a primary key. Raises apsw.Error."""
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        " ORDER BY name"
    ).fetchall()
    found = []
    for (name,) in names:
        columns = connection.execute(
            "SELECT name, pk FROM pragma_table_info(?) ORDER BY cid", (name,)
        ).fetchall()
        key = sorted((int(place), str(column)) for column, place in columns if place)
        if key:
            names_of_columns = tuple(str(column) for column, _ in columns)
            found.append(Table(str(name), names_of_columns, tuple(column for _, column in key)))
    return found


def salvage(connection: apsw.Connection, table: Table, known: Iterable[Row]) -> Salvaged:
    """Read what can be read of a table; `known` are keys that may be in it. Raises nothing of SQLite's."""
    found = Salvaged(table)
    try:
        for row in connection.execute(_select(table)):
            found.rows[table.key_of(row)] = row
    except apsw.Error:
        found.rows.clear()
    else:
        found.is_whole = True
        return found
    for descending in (False, True):
        _walk(connection, found, descending=descending)
    for key in known:
        if key not in found.rows:
            _look_up(connection, found, key)
    return found


def _walk(connection: apsw.Connection, found: Salvaged, *, descending: bool) -> None:
    """Go from one end until a page can't be read."""
    table = found.table
    order = ", ".join(f'"{name}"{" DESC" if descending else ""}' for name in table.key)
    beyond = f"({_names(table.key)}) {'<' if descending else '>'} ({_marks(table.key)})"
    last: Row = ()
    while True:
        where = f" WHERE {beyond}" if last else ""
        try:
            rest = f"{where} ORDER BY {order} LIMIT 1"
            key = connection.execute(_select(table, table.key) + rest, last).fetchone()
        except apsw.Error:
            return
        if key is None or key == last:
            return
        last = key
        if key not in found.rows and not _look_up(connection, found, key):
            found.lost.add(key)


def _look_up(connection: apsw.Connection, found: Salvaged, key: Row) -> bool:
    """Read one row, if it is there; whether that could be known."""
    table = found.table
    where = f" WHERE ({_names(table.key)}) = ({_marks(table.key)})"
    try:
        row = connection.execute(_select(table) + where, key).fetchone()
    except apsw.Error:
        return False
    if row is not None:
        found.rows[key] = row
    return True


def _select(table: Table, columns: Sequence[str] = ()) -> str:
    return f'SELECT {_names(columns or table.columns)} FROM "{table.name}"'  # noqa: S608 - of the schema


def _names(columns: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)


def _marks(columns: Sequence[str]) -> str:
    return ", ".join("?" * len(columns))
