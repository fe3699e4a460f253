"""Which object came from which file of the manifests folder: the table `manifest_files`.

A row outlives its object: what was deleted by hand is not brought back by a file that says what it
said before. `mark` is what the file said about the object when that was last applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from limpet.store.database import Database, ObjectKey


@dataclass(frozen=True, slots=True)
class Held:
    """An object's file, relative to the folder, and the mark of what it said."""

    path: str
    mark: str


def load_held(database: Database) -> dict[ObjectKey, Held]:
    """Every object that came from a file."""
    rows = database.read("SELECT kind, namespace, name, path, mark FROM manifest_files")
    return {
        (str(kind), str(namespace), str(name)): Held(str(path), str(mark))
        for kind, namespace, name, path, mark in rows
    }


def write_held(
    database: Database, *, put: Mapping[ObjectKey, Held], drop: Iterable[ObjectKey]
) -> None:
    """Change rows, all or none; part of the transaction around it, if there is one.

    Raises `StoreFullError`.
    """
    gone = list(drop)

    def change() -> None:
        database.write(
            "DELETE FROM manifest_files WHERE kind = ? AND namespace = ? AND name = ?", gone
        )
        database.write(
            "INSERT OR REPLACE INTO manifest_files (path, kind, namespace, name, mark)"
            " VALUES (?, ?, ?, ?, ?)",
            [(held.path, *key, held.mark) for key, held in put.items()],
        )

    database.transact(change)
