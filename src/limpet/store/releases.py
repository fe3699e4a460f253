"""The numbered changes of apps, and what was decided about each, in the state file.

Whoever writes a release together with its object does so inside `Database.transaction`. Rows of a
deleted object go with it (`Database.delete_object`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limpet.store.packing import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.store.database import Database, ObjectKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One release of an app, without its object: `load_body` has that.

    `digest` is its module's once it is known, `status` progressing, complete, failed or superseded,
    `message` why, `decided_at` (seconds since 1970) when the status was decided.
    """

    kind: str
    namespace: str
    name: str
    number: int
    created_at: float
    digest: str | None
    status: str
    message: str = ""
    decided_at: float | None = None

    @property
    def object_key(self) -> ObjectKey:
        """Kind, namespace and name of the app."""
        return (self.kind, self.namespace, self.name)


def load_releases(database: Database) -> list[Release]:
    """Return every release of every app, oldest first."""
    rows: Sequence[tuple[Any, ...]] = database.read(
        "SELECT kind, namespace, name, number, created_at, digest, status, message, decided_at"
        " FROM releases ORDER BY kind, namespace, name, number"
    )
    names = ("kind", "namespace", "name", "number", "created_at", "digest", "status", "message")
    texts: dict[str, Any] = {}  # most are the same in many releases: each is in memory once
    return [
        Release(
            **{
                name: texts.setdefault(value, value) if isinstance(value, str) else value
                for name, value in zip((*names, "decided_at"), row, strict=True)
            }
        )
        for row in rows
    ]


def load_body(database: Database, key: ObjectKey, number: int) -> str | None:
    """Return the object as it was with this release; None when the release is not kept."""
    for (body,) in database.read(
        "SELECT body FROM releases WHERE kind = ? AND namespace = ? AND name = ? AND number = ?",
        (*key, number),
    ):
        return unpack(body)
    return None


def write_release(database: Database, release: Release, body: str) -> None:
    """Create or replace a release; durable on return, or with the transaction around it."""
    r = release
    database.write(
        "INSERT OR REPLACE INTO releases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                *r.object_key,
                r.number,
                r.created_at,
                pack(body),
                r.digest,
                r.status,
                r.message,
                r.decided_at,
            )
        ],
    )


def write_decisions(database: Database, releases: Sequence[Release]) -> None:
    """Write what was learnt and decided of releases that are there: digest, status and message."""
    database.write(
        "UPDATE releases SET digest = ?, status = ?, message = ?, decided_at = ?"
        " WHERE kind = ? AND namespace = ? AND name = ? AND number = ?",
        [(r.digest, r.status, r.message, r.decided_at, *r.object_key, r.number) for r in releases],
    )


def delete_releases(database: Database, releases: Sequence[Release]) -> None:
    """Forget releases that nobody goes back to."""
    database.write(
        "DELETE FROM releases WHERE kind = ? AND namespace = ? AND name = ? AND number = ?",
        [(*r.object_key, r.number) for r in releases],
    )
