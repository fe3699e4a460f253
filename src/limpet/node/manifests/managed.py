"""Which objects came from files of the manifests folder: known even when there is no folder any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.store.manifest_files import Held, load_held, write_held

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from limpet.store.database import Database, ObjectKey


class ManagedObjects:
    """What the state says of them, and its copy in memory; `held` is for reading."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.held: dict[ObjectKey, Held] = {}

    def load(self) -> None:
        """Read what came from files."""
        self.held = load_held(self._database)

    def write(self, *, put: Mapping[ObjectKey, Held], drop: Iterable[ObjectKey]) -> None:
        """Write a change, as a part of the transaction around it. Raises `StoreFullError`."""
        write_held(self._database, put=put, drop=drop)

    def take(self, *, put: Mapping[ObjectKey, Held], drop: Iterable[ObjectKey]) -> None:
        """Take up a change whose transaction is complete."""
        for key in drop:
            self.held.pop(key, None)
        self.held |= put

    def file_of(self, key: ObjectKey) -> str | None:
        """Return the file that an object came from, relative to the folder; None for others."""
        held = self.held.get(key)
        return held.path if held is not None else None

    def warn_by_hand(self, key: ObjectKey) -> list[str]:
        """Return what somebody should know who changes or deletes an object himself."""
        path = self.file_of(key)
        if path is None:
            return []
        return [
            f"managed by {path} of the manifests folder: this stays until that file says something "
            "new about it; change the file, too"
        ]
