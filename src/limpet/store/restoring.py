"""Bringing a damaged state file back: what can still be read of it, on top of the last good backup.

The damaged file is set aside and never deleted. The new one is made beside it, whole and checked, and gets
the name `state.db.restored`; from then on `finish_restoring` takes its place, after a kill as well.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import apsw

from limpet.store.encryption import (
    SIDE_FILES,
    WrongKeyError,
    find_damage,
    leave_wal,
    open_encrypted,
    remove_database,
    write_copy,
)
from limpet.store.files import publish, sync_directory
from limpet.store.salvage import Salvaged, Table, read_tables, salvage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from limpet.store.backups import Backups
    from limpet.store.salvage import Row

_SHOWN = 20
_HISTORY = frozenset({"events"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What a restored state lacks, or may lack. Names are `Kind namespace/name`."""

    why: str
    aside: str
    backup: str = ""
    backup_time: float | None = None
    is_readable: bool = True
    restored: tuple[str, ...] = ()
    """Only the backup had them: they may have been changed or deleted since."""
    lost: tuple[str, ...] = ()
    """They were there, and nothing has them any more."""
    kept: int = 0
    """How many objects there are now."""
    has_gap: bool = False
    """Whether there may have been more that nobody knows of."""


@dataclass(slots=True)
class _Merged:
    restored: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    has_gap: bool = False


class NothingToRestoreError(Exception):
    """No key opens the file and no backup is there: it is not known to be this node's at all."""


def finish_restoring(path: Path) -> None:
    """Let a restored file that is finished take its place; remove what was not finished."""
    restored = _restored(path)
    if restored.exists():
        for suffix in SIDE_FILES:  # of the damaged file, which is aside with copies of them
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        publish(restored, path)
    remove_database(_staged(path))


def restore(
    path: Path,
    keys: Sequence[bytes],
    backups: Backups,
    *,
    why: str,
    migrate: Callable[[apsw.Connection, int], None],
    tell: Callable[[apsw.Connection, str], None],
) -> str:
    """Put a new state file in a damaged one's place; return what is to be told people.

    `migrate` brings an open file to a schema; `tell` writes the message into it, so that a kill does not
    keep it from people. Raises `NothingToRestoreError`, apsw.Error, OSError; the file is as it was then.
    """
    staged = _staged(path)
    remove_database(staged)
    found = backups.open_newest(keys)
    damaged = _open_damaged(path, keys)
    try:
        if found is None and damaged is None:
            raise NothingToRestoreError
        if found is not None:
            write_copy(found[1], staged, keys[0])
        loss, connection = _build(path, staged, keys, damaged, found, why=why, migrate=migrate)
        try:
            message = describe_loss(loss)
            tell(connection, message)
            damage = find_damage(connection)
            if damage:
                raise apsw.CorruptError(f"the restored copy can't be read either: {damage}")
        finally:
            connection.close()
    finally:
        for each in (damaged, found[1] if found else None):
            if each is not None:
                each.close()
    _sync(staged)
    if loss.aside:
        _set_aside(path, path.with_name(loss.aside))
    publish(staged, _restored(path))
    finish_restoring(path)
    return message


def put_back(path: Path, keys: Sequence[bytes], backups: Backups, *, schema: int) -> Path:
    """Put the state with this schema back in the place of a newer one, which is kept aside as long as its
    step is not made again (`state.db.schema-3`); return the backup that it comes from.

    Raises `WrongKeyError`, apsw.Error, OSError; the file is as it was then.
    """
    staged = _staged(path)
    remove_database(staged)
    backup, connection = backups.open_before(keys, schema=schema + 1)
    try:
        write_copy(connection, staged, keys[0])
    finally:
        connection.close()
    _sync(staged)
    aside = path.with_name(f"{path.name}.schema-{schema + 1}")
    remove_database(aside)
    _set_aside(path, aside)
    publish(staged, _restored(path))
    finish_restoring(path)
    return backup


def _build(
    path: Path,
    staged: Path,
    keys: Sequence[bytes],
    damaged: apsw.Connection | None,
    found: tuple[Path, apsw.Connection] | None,
    *,
    why: str,
    migrate: Callable[[apsw.Connection, int], None],
) -> tuple[Loss, apsw.Connection]:
    connection, _ = open_encrypted(staged, keys[:1])
    connection.pragma("journal_mode", "memory")
    merged = _Merged(has_gap=damaged is None)
    if damaged is not None:
        schema = max(_schema(damaged), _schema(connection))
        migrate(connection, schema)
        merged = _merge(damaged, connection)
    objects = connection.execute("SELECT count(*) FROM objects").get
    return Loss(
        why=why,
        aside=_free_name(path) if path.exists() else "",
        backup=found[0].name if found else "",
        backup_time=found[0].stat().st_mtime if found else None,
        is_readable=damaged is not None,
        restored=tuple(merged.restored),
        lost=tuple(merged.lost),
        kept=int(objects) if isinstance(objects, int) else 0,
        has_gap=merged.has_gap,
    ), connection


def _open_damaged(path: Path, keys: Sequence[bytes]) -> apsw.Connection | None:
    """Open a damaged file to read its rows; None when not even its list of tables can be read."""
    if not path.exists() or not path.stat().st_size:
        return None
    try:
        connection, _ = open_encrypted(path, keys)
    except (WrongKeyError, apsw.Error):
        return None
    leave_wal(connection)
    try:
        if read_tables(connection):
            return connection
    except apsw.Error:
        pass
    connection.close()
    return None


def _merge(damaged: apsw.Connection, connection: apsw.Connection) -> _Merged:
    """Put every row that can be read into the new file, over the backup's."""
    known = {table.name: table for table in read_tables(connection)}
    salvaged = [
        salvage(damaged, table, _keys(connection, known[table.name]))
        for table in read_tables(damaged)
        if table.name in known and table.columns == known[table.name].columns
    ]
    # When every table can be read to its end, yet the check complains, rows may be missing in between.
    is_strange = all(each.is_whole for each in salvaged)
    merged = _Merged(has_gap=is_strange)
    with connection:
        for each in salvaged:
            _merge_table(connection, each, merged, is_truth=each.is_whole and not is_strange)
    return merged


def _merge_table(
    connection: apsw.Connection, salvaged: Salvaged, merged: _Merged, *, is_truth: bool
) -> None:
    table = salvaged.table
    before = set(_keys(connection, table))
    if is_truth:
        connection.execute(f'DELETE FROM "{table.name}"')  # noqa: S608 - a name of the schema
    marks = ", ".join("?" * len(table.columns))
    connection.executemany(
        f'INSERT OR REPLACE INTO "{table.name}" VALUES ({marks})',  # noqa: S608 - a name of the schema
        salvaged.rows.values(),
    )
    if is_truth or table.name in _HISTORY:
        return
    merged.has_gap = True
    if table.name == "objects":
        merged.restored += [_show(key) for key in sorted(before - set(salvaged.rows), key=repr)]
        merged.lost += [_show(key) for key in sorted(salvaged.lost - before, key=repr)]


def _keys(connection: apsw.Connection, table: Table) -> list[Row]:
    columns = ", ".join(f'"{name}"' for name in table.key)
    return list(connection.execute(f'SELECT {columns} FROM "{table.name}"'))  # noqa: S608 - of the schema


def _show(key: Row) -> str:
    kind, namespace, name = key
    return f"{kind} {namespace}/{name}"


def describe_loss(loss: Loss) -> str:
    """Say what was lost, or that nothing was."""
    parts = [f"the state file could not be used ({loss.why})"]
    if loss.aside:
        parts.append(f"it is kept as {loss.aside}")
    if loss.backup:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(loss.backup_time))
        parts.append(f"the newest good backup is {loss.backup} of {when} UTC")
    else:
        parts.append("there is no good backup")
    if not loss.is_readable:
        parts.append(
            f"nothing of the file itself can be read, so the {loss.kept} objects are those of the "
            "backup: what was created, changed or deleted after it is lost; apply it again"
        )
    elif not loss.has_gap:
        parts.append(f"nothing was lost: all {loss.kept} objects could be read")
    else:
        parts.append(f"there are {loss.kept} objects now")
        if loss.restored:
            parts.append(
                f"{_list(loss.restored)} could not be read and come from the backup: they may have been "
                "changed or deleted after it"
            )
        if loss.lost:
            parts.append(f"{_list(loss.lost)} could not be read and are lost; apply them again")
        parts.append(
            "what was created after the backup may be missing without a trace; compare with "
            "`limpet get all -A`"
        )
    return "; ".join(parts)


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _schema(connection: apsw.Connection) -> int:
    version = connection.pragma("user_version")
    assert isinstance(version, int), "SQLite keeps a number there"
    return version


def _set_aside(path: Path, aside: Path) -> None:
    """Give a closed file and its log a second name, under which it stays."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists():
        os.link(log, aside.with_name(f"{aside.name}-wal"))
    os.link(path, aside)
    sync_directory(path.parent)


def _free_name(path: Path) -> str:
    """Return a name that neither a file nor a log has: one of two may be left of an earlier time."""
    for number in count(1):
        name = f"{path.name}.damaged-{number}"
        if not any(path.with_name(name + end).exists() for end in ("", "-wal")):
            return name
    raise AssertionError("unreachable")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _restored(path: Path) -> Path:
    return path.with_name(f"{path.name}.restored")


def _staged(path: Path) -> Path:
    return path.with_name(f".{path.name}.restoring")
